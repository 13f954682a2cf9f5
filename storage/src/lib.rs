//! Under construction.

pub mod blob;
pub mod io;
pub mod journal;
