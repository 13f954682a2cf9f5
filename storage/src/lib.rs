//! Under construction.

pub mod io;
