//! What goes wrong at the core's edge, as kinds that tell the caller what to do.
//!
//! Inside, modules have enums of facts; here they become: try again, fix the request, or stop. Front ends
//! map every kind in one exhaustive match.

use std::sync::Arc;

/// Result of a core operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a front end is told. Refusals that depend on the object's state are not here but in
/// [`crate::mutation::Refusal`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No leader, or not yet started: nothing was written; try again (RESP TRYAGAIN, S3 503).
    #[error("not ready: {0}; try again")]
    Unavailable(&'static str),
    /// The write may or may not have happened (leadership lost, shutdown while waiting): RESP error, S3 503.
    #[error("outcome unknown: {0}; read before trying again")]
    Unknown(&'static str),
    /// A limit of bytes on this node is reached; reads and deletes go on (RESP -OOM, S3 503 SlowDown).
    #[error("{0}")]
    Full(Arc<str>),
    /// The key is longer than 1,024 bytes.
    #[error("key is {0} bytes long, the limit is 1024")]
    KeyTooLong(usize),
    /// What is to be built on is not all here, and longer than the capacity (bytes of it, capacity).
    #[error(
        "the object's {0} bytes are not all here and would have to come back first, but capacity is {1} bytes"
    )]
    BeyondCapacity(u64, u64),
    /// A staged body got another number of bytes than was announced for it: nothing of it is kept.
    #[error("the body has {written} bytes, {announced} were announced")]
    BodyLength {
        /// Bytes that came, or would have come.
        written: u64,
        /// Bytes announced.
        announced: u64,
    },
    /// One atomic group is over the cap on its encoded size (bytes given, limit).
    #[error("transaction is {0} bytes long, the limit is {1}")]
    GroupTooLarge(u64, u64),
    /// The change is committed here, and not in the origin of its write-through mount yet: it stays queued. Says why
    /// (RESP error, S3 503).
    #[error("stored here, not yet in origin ({0})")]
    NotInOrigin(Arc<str>),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// Stored bytes do not check out; the place is in the log. Other objects are unaffected.
    #[error("stored data is damaged: {0}")]
    Damaged(Arc<str>),
    /// The object's bytes are only in the origin, and somebody else has changed or removed them there: they cannot
    /// be given (RESP error, S3 409).
    #[error("{0}")]
    ChangedInOrigin(Arc<str>),
    /// Reading from disk failed.
    #[error("disk error: {0}")]
    Disk(Arc<str>),
    /// The bucket name is not one that S3 allows.
    #[error("invalid bucket name")]
    InvalidBucketName,
}
