//! Eviction and fill of a whole node on a real directory, with an origin in memory.

mod model;
pub(crate) mod stories;
