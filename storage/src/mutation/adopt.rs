//! Objects that were found in an origin: what is taken over of them, and in which pieces.

/// Length of a piece of a body that an origin has, or will have: the block that is read back from there at once. Apply cuts
/// what it adopts by it, so it is part of what the log means, and never changes.
pub const BLOCK_BYTES: u64 = 4 << 20;

/// Length of the pieces of such a body of `len` bytes: a block, or as many of them as leave at most `pieces` pieces.
pub(crate) fn piece_bytes(len: u64, pieces: usize) -> u64 {
    BLOCK_BYTES * len.div_ceil(BLOCK_BYTES).div_ceil(pieces as u64).max(1)
}

/// Whether an import goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImportState {
    /// It goes on, also after a restart.
    #[default]
    Running,
    /// Everything that the origin listed was looked at.
    Done,
    /// It was ended before.
    Cancelled,
}

/// What the origin said of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdoptedHead<'a> {
    /// Length of the body, in bytes.
    pub len: u64,
    /// When it was written there, milliseconds since the Unix epoch.
    pub modified_ms: u64,
    /// The origin's ETag, without quotes.
    pub origin_etag: &'a str,
    /// The ETag for clients, without quotes.
    pub etag: &'a str,
    /// Encoded metadata (`keyspace::tables::encode_meta`; empty for none).
    pub meta: &'a [u8],
}
