//! The durable queue to the cloud.

pub mod classify;
mod contract;
pub mod queue;
pub mod tag;
mod upload;

pub use contract::*;
