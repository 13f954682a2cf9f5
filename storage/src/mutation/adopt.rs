//! Objects that were found in an origin: what is taken over of them, and in which pieces.

/// Length of a piece of an adopted body: the block that is read back from an origin at once. A body that would
/// have too many pieces has longer ones, multiples of this.
pub const ADOPTED_PIECE_BYTES: u64 = 4 << 20;

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
