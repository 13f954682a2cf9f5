//! Eviction and fill of a whole node on a real directory, with an origin in memory.

mod model;
mod origins;
pub(crate) mod stories;
