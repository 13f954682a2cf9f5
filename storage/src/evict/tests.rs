//! Eviction and fill of a whole node on a real directory, with an origin in memory; and by seed, on a simulated disk.

mod model;
mod rooms;
mod stories;
mod stress;
