//! Eviction and fill of a whole node on a real directory, with an origin in memory; and by seed, on a simulated disk.

mod model;
mod origins;
mod releases;
mod rooms;
pub(crate) mod stories;
mod stress;
mod zipf;
