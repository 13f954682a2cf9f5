//! Forebay's Redis front end: RESP2 and RESP3 on TCP, over the object core.
//!
//! Knows no HTTP, no cluster and no disk: a command becomes mutations and reads of
//! [`forebay_storage::store::Store`], and what these come to becomes a reply.
//!
//! # Reading order
//! - `parse`: bytes to arguments, every limit named; `reply`: replies to bytes.
//! - `command/plan`: how a command is carried out, planned first and finished when the log has answered;
//!   `command/mod` and `command/table`: what commands there are; then one file for each family.
//! - `pipeline`: a client's commands in order, batched into submissions; `pipeline/close`: the end of a batch;
//!   `pipeline/exec`: EXEC; `pipeline/long`: arguments over the inline threshold; `read`: reads, at once or through a view.
//! - `connection`: one client's socket; `connection/transfer`: long values between it and the core; `listener`:
//!   all of them; `session`: what a client has set up.
//! - `keyspace`: database to bucket, key to key; `error`: the core's errors as Redis's.
//!
//! # What must hold
//! - A reply leaves only after the write it acknowledges is committed and applied.
//! - Replies leave in the order of the requests, and a read sees exactly the writes before it.
//! - What a client sends or asks for costs bounded memory ([`RespConfig`] names the bounds) and never a panic.
//! - A value is sent as it was when it was asked for, or its connection ends: never a wrong byte.
//!
//! # Tasks
//! One for the listener, one for each client; commands run on the client's task. Nothing blocks a thread.

mod clients;
mod command;
mod config;
mod connection;
mod cursors;
mod error;
mod glob;
mod keyspace;
mod listener;
mod number;
mod parse;
mod pipeline;
mod read;
mod reply;
mod server;
mod session;

pub use config::{RespConfig, Secret, ShutdownHook};
pub use listener::serve;
