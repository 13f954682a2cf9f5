//! Our replies beside those of Debian's redis-server 7.0, byte for byte; LIST and objects beside models.

mod objects;
mod random;
mod s3_list;
mod servers;
mod stories;
