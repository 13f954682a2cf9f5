//! The directory origin against real files.
