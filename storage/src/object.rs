//! The nouns of the core: buckets, object keys, versions, ETags, metadata and rows.
//!
//! Owns the vocabulary that both front ends and every module below share, and the read side of an
//! object row ([`ObjectRow`]). The byte layout of a row is drawn in `keyspace/tables.rs`.
//! Knows nothing of protocols: a RESP string and an S3 object are the same row here.

use std::fmt;
use std::sync::Arc;

pub use crate::blob::BlobId;
use crate::keyspace::tables::{BodyPart, RowReader, decode_part_runs};

pub use crate::keyspace::tables::PartRun;

/// Longest object key, in bytes (S3's limit, kept for both protocols).
pub const KEY_BYTES_MAX: usize = 1024;

/// Number of a bucket, given once at creation and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketId(pub u32);

/// Place of a mutation in the replicated log: (log index, position in the entry), in one number.
///
/// Versions of one key only grow and are never reused, not even after a delete (PITFALLS 23).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub u64);

impl Version {
    /// Bits of the number that hold the position in the entry.
    pub const POSITION_BITS: u32 = 20;
    /// The largest number of mutations in one entry.
    pub const POSITIONS_MAX: u64 = 1 << Self::POSITION_BITS;
    /// Before everything.
    pub const ZERO: Version = Version(0);

    /// The version of the mutation at `position` in the entry at `index`.
    pub fn new(index: u64, position: u64) -> Version {
        debug_assert!(position < Self::POSITIONS_MAX, "position {position} in entry {index}");
        Version((index << Self::POSITION_BITS) | position)
    }

    /// The version that covers everything up to and including the entry at `index`.
    pub fn end_of(index: u64) -> Version {
        Version((index << Self::POSITION_BITS) | (Self::POSITIONS_MAX - 1))
    }

    /// Log index of the entry.
    pub fn index(self) -> u64 {
        self.0 >> Self::POSITION_BITS
    }

    /// Position in the entry.
    pub fn position(self) -> u64 {
        self.0 & (Self::POSITIONS_MAX - 1)
    }

    /// The version just before this one.
    pub fn before(self) -> Version {
        Version(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Random identity of a cluster, made when it is first started.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

/// An object's ETag, without quotes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ETag {
    /// MD5 of the body: the object was last written by an S3 PUT.
    Md5([u8; 16]),
    /// Derived from cluster id and version: no MD5 was computed, as for all that RESP writes. Its `-1` suffix
    /// tells clients not to compare it with an MD5.
    Derived([u8; 16]),
    /// Kept as it was given: of a multipart object, or by the origin.
    Text(Arc<str>),
}

impl ETag {
    /// The ETag of a version that RESP wrote: no MD5 is paid for.
    pub fn derived(cluster: ClusterId, version: Version) -> ETag {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&cluster.0);
        hasher.update(&version.0.to_be_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        ETag::Derived(id)
    }

    /// Parses what a client sends, with or without quotes; `None` if it can be no ETag of ours.
    pub fn parse(text: &str) -> Option<ETag> {
        let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        let (digits, derived) = match text.strip_suffix("-1") {
            Some(digits) => (digits, true),
            None => (text, false),
        };
        let mut id = [0; 16];
        hex::decode_to_slice(digits, &mut id).ok()?;
        Some(if derived { ETag::Derived(id) } else { ETag::Md5(id) })
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ETag::Md5(id) => f.write_str(&hex::encode(id)),
            ETag::Derived(id) => write!(f, "{}-1", hex::encode(id)),
            ETag::Text(text) => f.write_str(text),
        }
    }
}

/// What S3 keeps beside a body: content headers, user metadata, a verified checksum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectMeta {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Expires`, as sent.
    pub expires: Option<String>,
    /// `x-amz-meta-*`, names without the prefix, lower case, in the order sent.
    pub user: Vec<(String, String)>,
    /// A checksum that was verified when the body arrived: (algorithm, base64 of the value), the
    /// algorithm as in its header name: `crc32`, `crc32c`, `crc64nvme`, `sha1`, `sha256`.
    pub checksum: Option<(String, String)>,
}

impl ObjectMeta {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        *self == ObjectMeta::default()
    }

    /// Size as S3 counts it for the 2 KB limit of user metadata: names and values, in bytes.
    pub fn user_bytes(&self) -> usize {
        self.user.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// One object as it stands at some version: an immutable, shared row.
///
/// Cheap to clone. Accessors read the encoded bytes in place.
#[derive(Clone)]
pub struct ObjectRow {
    bytes: Arc<[u8]>,
    /// Whose row it is, where that is needed to find bytes that are not here.
    name: Option<Arc<(BucketId, Box<[u8]>)>>,
}

impl ObjectRow {
    /// Wraps an encoded row. Rows are validated when they leave the disk (LMDB page and journal CRC); a
    /// row that does not parse reads as an empty body of version zero and is reported by
    /// [`ObjectRow::check`].
    pub(crate) fn from_encoded(bytes: Arc<[u8]>) -> ObjectRow {
        ObjectRow { bytes, name: None }
    }

    /// The same row, which knows whose it is.
    pub(crate) fn named(mut self, bucket: BucketId, key: &[u8]) -> ObjectRow {
        self.name = Some(Arc::new((bucket, Box::from(key))));
        self
    }

    /// Whose row it is, if it was told.
    pub(crate) fn name(&self) -> Option<(BucketId, &[u8])> {
        self.name.as_ref().map(|name| (name.0, &*name.1))
    }

    /// Whether the bytes are a row of a known layout.
    pub fn check(&self) -> bool {
        RowReader::new(&self.bytes).is_some()
    }

    fn reader(&self) -> RowReader<'_> {
        RowReader::new(&self.bytes).unwrap_or(RowReader::EMPTY)
    }

    /// The version that wrote this row.
    pub fn version(&self) -> Version {
        self.reader().version
    }

    /// The version that wrote the body; EXPIRE and PERSIST leave it alone.
    pub fn content_version(&self) -> Version {
        self.reader().content_version
    }

    /// Absolute expiry time, milliseconds since the Unix epoch.
    pub fn expires_at_ms(&self) -> Option<u64> {
        self.reader().expires_at_ms
    }

    /// When the object was last written, milliseconds since the Unix epoch (the leader's stamp).
    pub fn modified_ms(&self) -> u64 {
        self.reader().modified_ms
    }

    /// The object's ETag: stable from its write on, also after flush and re-read.
    pub fn etag(&self, cluster: ClusterId) -> ETag {
        let reader = self.reader();
        match (reader.etag, reader.md5) {
            (Some(text), _) => ETag::Text(Arc::from(text)),
            (None, Some(md5)) => ETag::Md5(md5),
            (None, None) => ETag::derived(cluster, reader.content_version),
        }
    }

    /// The parts that a multipart object was put together of, as runs of equal ones in order; empty for
    /// every other object.
    pub fn part_runs(&self) -> Vec<PartRun> {
        decode_part_runs(self.reader().part_runs)
    }

    /// S3 metadata; empty for an object that RESP wrote.
    pub fn meta(&self) -> ObjectMeta {
        self.reader().meta()
    }

    /// Length of the body in bytes.
    pub fn body_len(&self) -> u64 {
        self.reader().body_len
    }

    /// The whole body, if it stands in the row; otherwise read it through the view.
    #[inline]
    pub fn inline_body(&self) -> Option<&[u8]> {
        RowReader::new(&self.bytes)?.inline_body()
    }

    /// Number of parts that its body has.
    pub fn parts_count(&self) -> usize {
        self.parts().count()
    }

    /// The parts of the body, in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = BodyPart<'_>> {
        self.reader().parts()
    }

    /// Size of the encoded row in bytes.
    pub fn encoded_len(&self) -> usize {
        self.bytes.len()
    }
}

impl fmt::Debug for ObjectRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectRow")
            .field("version", &self.version())
            .field("body_len", &self.body_len())
            .field("expires_at_ms", &self.expires_at_ms())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_orders_by_index_then_position() {
        assert!(Version::new(3, 0) > Version::end_of(2));
        assert!(Version::new(3, 1) > Version::new(3, 0));
        assert_eq!((Version::new(7, 9).index(), Version::new(7, 9).position()), (7, 9));
    }

    #[test]
    fn etags_round_trip_quoted_and_bare() {
        let derived = ETag::derived(ClusterId([1; 16]), Version::new(5, 2));
        let md5 = ETag::Md5([0xab; 16]);
        for etag in [derived, md5] {
            assert_eq!(ETag::parse(&etag.to_string()), Some(etag.clone()));
            assert_eq!(ETag::parse(&format!("\"{etag}\"")), Some(etag));
        }
        assert_eq!(ETag::parse("*"), None);
        assert_eq!(ETag::parse("\"0011\""), None);
    }
}
