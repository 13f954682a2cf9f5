//! The harness around real `forebay` processes.
//!
//! Owns: starting and killing the daemon ([`node`]), the memory of what was acknowledged ([`ledger`]), an
//! origin that fails on command ([`origin_sim`]), a disk that loses power ([`lossy_fs`]) or is full ([`small_disk`]),
//! clients that speak raw bytes ([`resp_wire`], [`http_wire`], [`s3_wire`]) and the load that the benchmarks and the kill loop need ([`loadgen`]).
//!
//! Does not own: any behaviour of Forebay. Nothing here imports the other crates: the daemon is a program
//! that is started, spoken to over its sockets, and killed.
//!
//! Reading order: `ledger` (what "nothing is lost" means), `origin_sim::record` (what "the origin never goes
//! back" means), `node`, then the tests under `tests/`.

pub mod existing_data;
pub mod http_wire;
pub mod ledger;
pub mod loadgen;
pub mod lossy_fs;
pub mod node;
pub mod origin_sim;
pub mod peer;
pub mod python;
pub mod resp_wire;
pub mod s3_client;
pub mod s3_wire;
pub mod skip;
pub mod small_disk;
pub mod wait;
