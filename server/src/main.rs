//! The `forebay` binary: command line, config file, wiring, admin HTTP.
//!
//! - [`cli`]: one file a command; exit codes.
//! - [`config`]: everything that can be set, parsed once into types; who wins; what is refused.
//! - [`node`]: the wiring diagram in code, from listeners to the store and down again at a stop.
//! - [`admin`]: health, metrics, status and the flush verbs over HTTP; [`api`]: the JSON they speak.
//! - [`kept_files`]: generated credentials, bound addresses. [`telemetry`]: logs.
//!
//! Knows no storage format and no Redis or S3 protocol: it makes each crate's config and connects them.
//! Threads: the tokio runtime with one worker a core; everything else is the core's.

mod admin;
mod api;
mod cli;
mod config;
mod kept_files;
mod node;
mod telemetry;

use std::process::ExitCode;

/// Measured against the system allocator on small rows; it also returns memory earlier.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
