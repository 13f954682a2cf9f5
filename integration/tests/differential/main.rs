//! Our replies beside those of Debian's redis-server 7.0, byte for byte; and LIST beside a sorted map.

mod random;
mod s3_list;
mod servers;
mod stories;
