//! Under construction.

pub mod io;
pub mod journal;
