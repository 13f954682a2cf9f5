//! Objects that were found in an origin: what is taken over of them.

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
