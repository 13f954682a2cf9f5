//! Under construction.

pub mod flush;
pub mod object;
pub mod object_name;
pub mod origin;
