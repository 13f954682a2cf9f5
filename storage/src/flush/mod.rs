//! The durable queue to the cloud.

mod contract;

pub use contract::*;
