//! The S3 front end: HTTP/1.1 on hyper, the protocol's types and signatures by s3s, everything else here.
//!
//! # The path of a request
//!
//! ```text
//! listener   accepts, bounds connections, heads and time
//! front      before s3s: names, operation table, signature coverage, clock, request ids; the body stays out
//! signature  proves the SigV4 signature of an object operation, which then runs at once; else:
//! s3s        verifies the signature (SigV4, header or presigned), then dispatches:
//! service      bucket operations by s3s's trait, object operations by its route
//! operation/ one file each; PutObject and UploadPart take the body through `upload_body`: `body` decodes and
//!            verifies it, a long one is staged meanwhile; GetObject sends it through `body_stream`
//! error      kinds of the core become S3 codes in one match
//! ```
//!
//! The crate knows no RESP and no cluster; it reads and writes through
//! [`forebay_storage::store::Store`] alone.
//!
//! # Why the body goes around s3s
//!
//! s3s 0.14 gathers chunks in memory, accepts a chunked body without its end or its announced trailer, and
//! does not compare trailers. Its decoders are lazy, though, and wrap whatever body they are given. So it is
//! given an empty one beside the untouched head: it verifies exactly the headers that the client signed,
//! and the operation takes the real body from the request's extensions afterwards. Nothing of a body is read
//! before its request is authentic, and nothing becomes visible before the whole body is verified.
//!
//! # What must hold
//!
//! - No operation runs but for the holder of the secret: `signature` proves nothing that s3s would refuse.
//! - No `x-amz-*` header has an effect that the signature does not cover.
//! - A request for what this version lacks is answered 501 by name and never falls through to another
//!   operation.
//! - A body over the inline threshold is never held whole, in either direction. A connection holds at most one
//!   body of the inline threshold, or 1 MiB that waits for its digests beside what the core buffers; pieces on
//!   their way out and XML documents have a budget for all connections together.
//! - Every refusal leaves the connection either usable or closed with `Connection: close`.
//!
//! # Logs
//!
//! s3s logs refused bucket operations (a 404, too) under the target `s3s::ops` at ERROR, with the request in
//! them; 5xx under `s3s::service`. The server's filter silences the target `s3s`; this crate logs what an
//! operator needs (a 500 at ERROR, every answer at DEBUG). The target `s3s` at DEBUG prints whole request
//! heads, signatures included.

mod auth;
mod body;
mod body_stream;
mod condition;
mod config;
mod copy_source;
#[cfg(test)]
mod core_tests;
mod error;
mod front;
mod host;
mod listener;
mod metadata;
mod multipart;
mod operation;
mod query;
mod range;
mod request;
mod request_id;
mod service;
mod signature;
mod target;
#[cfg(test)]
mod testing;
mod timestamp;
mod upload_body;
mod xml;

use std::io;
use std::sync::Arc;

use forebay_storage::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::{PRESIGNED_SECONDS_MAX, S3Config, SecretAccessKey};

/// Serves S3 on `listener` until `shutdown` is cancelled: then stops accepting, lets running requests end
/// within `config.shutdown_grace`, and closes what is left.
///
/// # Errors
///
/// If the operating system gives no random bytes for request ids, or no thread for digests. A failing connection or accept is logged,
/// never returned. Dropping the future stops accepting; open connections go on until they end.
pub async fn serve(
    listener: TcpListener,
    store: Store,
    config: S3Config,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let config = Arc::new(config);
    let ids = Arc::new(request_id::RequestIds::new()?);
    let keys = Arc::new(auth::SigningKeys::new(config.secret_access_key.clone()));
    let operations = service::Operations::new(store, Arc::clone(&config), Arc::clone(&keys))?;
    let operations = Arc::new(operations);
    let s3s = service::build(Arc::clone(&operations), Arc::clone(&ids));
    let front = Arc::new(front::Front::new(s3s, operations, keys, Arc::clone(&config), ids));
    listener::run(listener, front, config, shutdown).await;
    Ok(())
}
