//! The cloud bucket behind a mount: what the flush worker may ask of it, and what an answer proves.
//!
//! Owns the [`Origin`] trait, its requests and errors, the probe of what an origin can, and the count of what it is asked. Does not own
//! retries, fences or any decision what to do next: that is `flush/`.
//!
//! What must hold: an error's [`Landing`] is `NotApplied` only with proof (an HTTP answer that refuses,
//! or no byte sent). Everything else is `Unknown`: the request may be applied now, or later, until its
//! deadline. No implementation retries by itself. No secret stands in any message.

mod body;
mod checksum;
pub mod classify;
#[cfg(test)]
mod conformance;
pub mod dir;
pub mod memory;
mod page;
mod probe;
pub mod s3;
mod traffic;

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

pub use body::{BodyError, BodySource, READ_BYTES_MAX, UploadBody};
pub use checksum::BodyChecksums;
pub use classify::ErrorClass;
pub use probe::PROBE_NAME;
pub use traffic::{Counted, OriginOp, Traffic};

/// A key in the origin's bucket, prefix included: UTF-8, at most [`OriginKey::BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginKey(pub String);

impl OriginKey {
    /// S3's limit, in bytes.
    pub const BYTES_MAX: usize = 1024;
}

impl fmt::Display for OriginKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An ETag as the origin gave it, without quotes. Compared for equality, never interpreted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OriginETag(pub String);

/// Permission to go on: true until the sender must stop (leadership lost, deadline passed), false for
/// ever after.
///
/// Asked right before the last chunk of a body leaves (PITFALLS 25), so it must be cheap and must not
/// block.
#[derive(Clone)]
pub struct Fence(Arc<dyn Fn() -> bool + Send + Sync>);

impl Fence {
    /// A fence that asks `holds`.
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Fence {
        Fence(Arc::new(holds))
    }

    /// A fence that never falls: probes, tests.
    pub fn open() -> Fence {
        Fence::new(|| true)
    }

    /// Whether the sender may go on.
    pub fn holds(&self) -> bool {
        (self.0)()
    }

    /// Both fences together.
    pub fn and(self, other: impl Fn() -> bool + Send + Sync + 'static) -> Fence {
        Fence::new(move || self.holds() && other())
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fence({})", self.holds())
    }
}

/// A condition on what the origin holds under the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// None.
    None,
    /// `If-None-Match: *`.
    IfAbsent,
    /// `If-Match`.
    IfMatch(OriginETag),
}

/// Content headers, as the client sent them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentHeaders {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Expires`, verbatim.
    pub expires: Option<String>,
}

/// One attempt to put a whole object.
#[derive(Debug, Clone)]
pub struct PutRequest {
    /// Where.
    pub key: OriginKey,
    /// The whole body.
    pub body: Bytes,
    /// Content headers.
    pub headers: ContentHeaders,
    /// User metadata, names without `x-amz-meta-`, lower case.
    pub user_metadata: Vec<(String, String)>,
    /// Condition, where the origin honours them.
    pub condition: Condition,
    /// Checksums to send along.
    pub checksums: BodyChecksums,
    /// Nothing of the request leaves after this.
    pub deadline: Instant,
    /// Asked together with the deadline before the last chunk leaves.
    pub fence: Fence,
}

/// One attempt to delete an object.
#[derive(Debug, Clone)]
pub struct DeleteRequest {
    /// Where.
    pub key: OriginKey,
    /// `If-Match`, where the origin honours it on deletes.
    pub if_match: Option<OriginETag>,
    /// The request does not leave after this.
    pub deadline: Instant,
    /// Asked before it leaves.
    pub fence: Fence,
}

/// Names a multipart upload, as the origin gave it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(pub String);

/// The beginning of a multipart upload: nothing of it is an object before it is completed.
#[derive(Debug, Clone)]
pub struct BeginRequest {
    /// Where.
    pub key: OriginKey,
    /// Content headers.
    pub headers: ContentHeaders,
    /// User metadata, names without `x-amz-meta-`, lower case.
    pub user_metadata: Vec<(String, String)>,
    /// Whether every part comes with its CRC32C.
    pub crc32c: bool,
    /// Nothing of the request leaves after this.
    pub deadline: Instant,
}

/// One part. Sending one again replaces it.
#[derive(Debug, Clone)]
pub struct PartRequest {
    /// Where.
    pub key: OriginKey,
    /// Of which upload.
    pub upload: UploadId,
    /// From 1.
    pub number: u32,
    /// First byte of the part in the object.
    pub offset: u64,
    /// Its bytes.
    pub body: UploadBody,
    /// Its CRC32C, if the upload was begun with them.
    pub crc32c: Option<u32>,
    /// Nothing of the request leaves after this.
    pub deadline: Instant,
    /// Asked together with the deadline before the last chunk leaves.
    pub fence: Fence,
}

/// A part that the origin has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentPart {
    /// From 1.
    pub number: u32,
    /// What the origin answered to it.
    pub etag: OriginETag,
    /// Its CRC32C, if it was sent with one.
    pub crc32c: Option<u32>,
}

/// One attempt to make an object of the parts: the only request of an upload that changes the key.
#[derive(Debug, Clone)]
pub struct CompleteRequest {
    /// Where.
    pub key: OriginKey,
    /// Which upload.
    pub upload: UploadId,
    /// All parts, in order.
    pub parts: Vec<SentPart>,
    /// Condition, where the origin honours them.
    pub condition: Condition,
    /// The request does not leave after this.
    pub deadline: Instant,
    /// Asked before it leaves.
    pub fence: Fence,
}

/// Answer to a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutReply {
    /// The new object's ETag.
    pub etag: OriginETag,
}

/// Answer to a head of an object that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadReply {
    /// Its ETag.
    pub etag: OriginETag,
    /// Its length in bytes.
    pub content_length: u64,
    /// When it was last changed by the origin's clock, milliseconds since the Unix epoch; 0 if it was not told.
    pub modified_ms: u64,
    /// Content headers.
    pub headers: ContentHeaders,
    /// User metadata, names without `x-amz-meta-`, lower case, sorted.
    pub user_metadata: Vec<(String, String)>,
}

impl HeadReply {
    /// One user metadata value.
    pub fn user(&self, name: &str) -> Option<&str> {
        self.user_metadata.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// A read of an object, or of a range of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// Where.
    pub key: OriginKey,
    /// Which bytes, not empty; what lies beyond the end is left out. `None`: all.
    pub range: Option<Range<u64>>,
    /// Refuses (as [`ErrorClass::Conflict`]) an object with another ETag.
    pub if_match: Option<OriginETag>,
}

/// A body as it comes. An error ends it; so does a body that is shorter than announced.
pub type ReadStream = Pin<Box<dyn Stream<Item = Result<Bytes, OriginError>> + Send>>;

/// Answer to a read.
pub struct ReadReply {
    /// What a head would say; its length is that of the whole object.
    pub head: HeadReply,
    /// Which bytes follow.
    pub range: Range<u64>,
    /// They.
    pub body: ReadStream,
}

/// Answer to a get: head and whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetReply {
    /// What a head would say.
    pub head: HeadReply,
    /// The body.
    pub body: Bytes,
}

/// One page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRequest {
    /// Keys begin with this.
    pub prefix: String,
    /// At most this many, and at most 1,000.
    pub max: u16,
    /// Keys after this one, in the order of their UTF-8 bytes.
    pub start_after: Option<String>,
    /// Keys that contain it behind the prefix are rolled up to what they share with it.
    pub delimiter: Option<String>,
    /// Where the page before this one ended: [`ListReply::next`] of the same request.
    pub token: Option<String>,
}

impl ListRequest {
    /// All keys that begin with `prefix`, `max` at a time.
    pub fn new(prefix: impl Into<String>, max: u16) -> ListRequest {
        ListRequest { prefix: prefix.into(), max, start_after: None, delimiter: None, token: None }
    }
}

/// One listed key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Key.
    pub key: OriginKey,
    /// ETag, if the origin told it.
    pub etag: Option<OriginETag>,
    /// Length in bytes.
    pub bytes: u64,
    /// As [`HeadReply::modified_ms`].
    pub modified_ms: u64,
}

/// Answer to a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListReply {
    /// Keys in order.
    pub objects: Vec<ListedObject>,
    /// What was rolled up, in order.
    pub prefixes: Vec<String>,
    /// Whether more follow.
    pub truncated: bool,
    /// If so, what to ask with; opaque.
    pub next: Option<String>,
}

/// What the origin was seen to do. Probed at attach, shown, never assumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// A second `If-None-Match: *` PUT was refused.
    pub if_none_match: bool,
    /// An `If-Match` PUT with a wrong ETag was refused, one with the right ETag accepted.
    pub if_match: bool,
    /// An `If-Match` DELETE with a wrong ETag was refused.
    pub if_match_delete: bool,
    /// A PUT with a wrong CRC32C was refused, one with the right CRC32C accepted. Says nothing of other algorithms.
    pub checksums: bool,
}

/// Answer to giving an upload up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortReply {
    /// It is given up. Some origins say so for hours of one that is gone already, or has become an object.
    GivenUp,
    /// The origin does not know it: it was given up before, or has become an object.
    NotKnown,
}

/// A multipart upload that an origin tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedUpload {
    /// The origin's name of it.
    pub upload: UploadId,
    /// How long ago it was begun, by the origin's own clock; `None` if it was not told.
    pub age: Option<Duration>,
}

/// Most uploads of one key that are told of.
pub const LISTED_UPLOADS_MAX: usize = 10_000;

/// Code of an error about a multipart upload that the origin does not know (any more).
pub const NO_SUCH_UPLOAD: &str = "NoSuchUpload";

/// Whether a failed request can have changed the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Landing {
    /// Proven: it did not, and never will.
    NotApplied,
    /// It may have, or may still until its deadline.
    Unknown,
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {message}{}", code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default())]
pub struct OriginError {
    /// What kind of trouble it is.
    pub class: ErrorClass,
    /// What it proves.
    pub outcome: Landing,
    /// The origin's own code, if it gave one.
    pub code: Option<String>,
    /// A sentence for people. Holds no secret.
    pub message: String,
    /// How long the origin asks to wait.
    pub retry_after: Option<Duration>,
}

impl OriginError {
    /// An error without code and wait.
    pub fn new(class: ErrorClass, outcome: Landing, message: impl Into<String>) -> OriginError {
        OriginError { class, outcome, code: None, message: message.into(), retry_after: None }
    }

    /// The fence fell or the deadline passed before the request left whole.
    pub fn fenced(outcome: Landing) -> OriginError {
        OriginError::new(ErrorClass::Fenced, outcome, "the attempt's deadline or term has passed")
    }
}

/// A bucket in the cloud, or something that behaves like one.
///
/// Dropping a future abandons the request; its outcome is then unknown until its deadline.
#[async_trait]
pub trait Origin: Send + Sync {
    /// The bucket as shown to people, `s3://bucket`.
    fn name(&self) -> &str;

    /// What was asked of it so far, if that is counted.
    fn traffic(&self) -> Option<&Traffic> {
        None
    }

    /// Puts a whole object, once.
    async fn put(&self, request: PutRequest) -> Result<PutReply, OriginError>;

    /// Begins a multipart upload.
    async fn begin_upload(&self, request: BeginRequest) -> Result<UploadId, OriginError>;

    /// Sends one part. An upload that the origin does not know has the code [`NO_SUCH_UPLOAD`].
    async fn put_part(&self, request: PartRequest) -> Result<SentPart, OriginError>;

    /// Makes an object of the parts, once; a code of [`NO_SUCH_UPLOAD`] may mean that this has happened.
    async fn complete_upload(&self, request: CompleteRequest) -> Result<PutReply, OriginError>;

    /// Gives an upload up; one that is not known is no error. Nothing is promised of a completion that the origin
    /// works on meanwhile.
    async fn abort_upload(&self, key: &OriginKey, upload: &UploadId) -> Result<AbortReply, OriginError>;

    /// The uploads of a key that are under way, whoever began them; at most [`LISTED_UPLOADS_MAX`].
    async fn list_uploads(&self, key: &OriginKey) -> Result<Vec<ListedUpload>, OriginError>;

    /// Reads an object or a range of it as a stream, `None` only if the origin says that there is none. A
    /// range that begins behind the end is answered with no bytes.
    async fn read(&self, request: ReadRequest) -> Result<Option<ReadReply>, OriginError>;

    /// Gets a whole object, `None` if absent; an object longer than `limit` bytes is `TooLarge`.
    async fn get(&self, key: &OriginKey, limit: u64) -> Result<Option<GetReply>, OriginError> {
        let request = ReadRequest { key: key.clone(), range: None, if_match: None };
        let Some(mut reply) = self.read(request).await? else { return Ok(None) };
        if reply.head.content_length > limit {
            let message = format!("the object is longer than {limit} bytes");
            return Err(OriginError::new(ErrorClass::TooLarge, Landing::NotApplied, message));
        }
        let mut body = BytesMut::new();
        while let Some(bytes) = reply.body.next().await {
            body.extend_from_slice(&bytes?);
            if body.len() as u64 > limit {
                let message = format!("the object is longer than {limit} bytes");
                return Err(OriginError::new(ErrorClass::TooLarge, Landing::NotApplied, message));
            }
        }
        Ok(Some(GetReply { head: reply.head, body: body.freeze() }))
    }

    /// What the origin holds under a key, `None` only if the origin says that there is nothing.
    async fn head(&self, key: &OriginKey) -> Result<Option<HeadReply>, OriginError>;

    /// Deletes an object, once; deleting nothing succeeds.
    async fn delete(&self, request: DeleteRequest) -> Result<(), OriginError>;

    /// Lists keys in the order of their UTF-8 bytes.
    async fn list(&self, request: ListRequest) -> Result<ListReply, OriginError>;

    /// Finds out what the origin can, by writing under `<prefix>.forebay-probe-<random hex>` and
    /// deleting that again.
    async fn probe(&self, prefix: &str) -> Result<Capabilities, OriginError> {
        probe::probe(self, prefix).await
    }

    /// Whether nothing stands under `prefix` but leftovers of probes.
    async fn is_empty(&self, prefix: &str) -> Result<bool, OriginError> {
        probe::is_empty(self, prefix).await
    }
}
