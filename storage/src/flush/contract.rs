//! What the flush worker needs from the replicated core: two traits, and the values that cross them.
//!
//! Owns the contract, not its implementation: rows are written by apply, bodies read from the keyspace.
//!
//! The replicated rows behind these values:
//! - *flush rows*, one per (bucket, key, version): this change still has to reach the origin. Apply
//!   replaces the newest older row of the key, unless a pending barrier row of the bucket has a version
//!   in `[older, newer)`; the older row itself counts, so a barrier row is never replaced. Both rows
//!   then stay, with their bytes (PITFALLS 22).
//! - *started rows*, one per (bucket, key): an attempt for this version may be under way until its
//!   deadline.
//! - *origin rows*, one per (bucket, key): what the origin holds, as far as we know.
//! - *transfer rows*, one per version that goes in parts: the upload, and the parts that the origin has; and one for
//!   uploads that the origin was asked to begin without an answer.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::object::{BucketId, ObjectMeta, PartRun, Version};
use crate::origin::{Fence, SentPart, UploadBody};

/// Number of a mount, given when it is first recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MountId(pub u32);

/// What a flush row does to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlushKind {
    /// The origin must get this version's bytes.
    Put,
    /// The origin must lose the object (deleted or expired).
    Delete,
}

/// One durable row of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushRow {
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: Bytes,
    /// The change that must reach the origin.
    pub version: Version,
    /// What it does there.
    pub kind: FlushKind,
    /// Whether it was a conditional write: a flush barrier of its bucket.
    pub barrier: bool,
    /// Whether the origin may already hold something under this key: an origin row, a started row, or an
    /// older flush row (replaced or not) existed when this one was written. Unsure means true.
    pub overwrite: bool,
    /// Whether it was written without knowing what the origin holds, and wins over whatever that is.
    pub blind: bool,
    /// Commit time by the log's stamp, milliseconds since the Unix epoch.
    pub stamp_ms: u64,
    /// Length of the body.
    pub bytes: u64,
    /// Why it was set aside, if it was.
    pub parked: Option<String>,
}

/// Names one flush row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowId {
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: Bytes,
    /// Version.
    pub version: Version,
}

/// A started row: whatever an attempt for `version` sends is dead after the deadline plus the margin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: Bytes,
    /// Version that the attempt carries.
    pub version: Version,
    /// Wall-clock time, milliseconds since the Unix epoch.
    pub deadline_ms: u64,
}

/// The origin holds exactly this version, or (no ETag) nothing.
///
/// Apply removes the flush row of this key only if it has the same version, sets or removes the origin
/// row, and drops the started row; of a key that belongs to another mount by now it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flushed {
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: Bytes,
    /// Version found or put there; of a delete, the version of its row.
    pub version: Version,
    /// The mount whose origin was asked; `None` in log entries that do not say.
    pub mount: Option<MountId>,
    /// ETag the origin gave, without quotes; `None` if it holds nothing now.
    pub origin_etag: Option<String>,
}

/// What the origin holds under a key, as far as the log knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRow {
    /// Version.
    pub version: Version,
    /// ETag the origin gave, without quotes.
    pub etag: String,
}

/// A change of flush rows, told by apply in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlushEvent {
    /// A row was written, in place of an older one if `replaces` names it.
    Row {
        /// The new row.
        row: FlushRow,
        /// The row of the same key that it replaced.
        replaces: Option<Version>,
    },
    /// `Flushed` was applied.
    Flushed(Flushed),
    /// A row was set aside, or (no reason) taken up again.
    Parked {
        /// Which.
        row: RowId,
        /// Why; `None` when it was taken up again.
        reason: Option<String>,
        /// When that was committed, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// A row is gone without having reached the origin: abandoned, or its bucket was emptied.
    Removed(RowId),
    /// A queue row is gone whose upload was begun at the origin and did not become the object.
    Stale(StaleTransfer),
    /// Nothing is left of such an upload: it was given up, or has become the object after all.
    GivenUp(StaleTransfer),
    /// An origin is about to be asked to begin an upload.
    Asked(AskedUpload),
    /// Nothing is left of that which nobody knows of.
    Answered {
        /// Version of the flush row that it was for.
        version: Version,
        /// The mount whose origin was asked.
        mount: MountId,
    },
    /// A mount is forgotten, or is about to be: nothing more is sent to its origin, but that what was begun there is
    /// given up.
    Unmounted(MountId),
}

/// A step of a multipart upload, to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferRecord {
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: Bytes,
    /// Version of the flush row.
    pub version: Version,
    /// The origin's name of the upload.
    pub upload_id: String,
    /// Which step.
    pub step: TransferStep,
}

/// See [`TransferRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferStep {
    /// It was begun; refused if another is recorded, a stale one of the same version and mount too.
    Begun {
        /// Length of the parts that are not the client's.
        part_bytes: u64,
        /// Whether parts are sent with their CRC32C.
        crc32c: bool,
    },
    /// The origin has a part.
    Sent(SentPart),
    /// The origin does not know it any more. One whose completion may have been sent, or at the origin of a mount that
    /// the key has left, is stale from here on; any other is forgotten.
    Lost,
    /// The origin is about to be asked to begin one, whose name nobody knows yet; refused if one is recorded.
    Asked {
        /// The request leaves after this, milliseconds since the Unix epoch.
        from_ms: u64,
        /// And before this.
        until_ms: u64,
    },
    /// The origin has refused that, for certain.
    Refused,
    /// What an origin has begun and nobody has learnt of is gone; refused if it was asked again meanwhile.
    Looked {
        /// The mount of the origin.
        mount: MountId,
        /// [`AskedUpload::until_ms`].
        until_ms: u64,
    },
}

/// A multipart upload as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferState {
    /// The origin's name of it.
    pub upload_id: String,
    /// The mount whose origin has it.
    pub mount: MountId,
    /// Length of the parts that are not the client's.
    pub part_bytes: u64,
    /// Whether parts are sent with their CRC32C.
    pub crc32c: bool,
    /// What the origin has.
    pub parts: Vec<SentPart>,
}

/// Where an upload is: told by the record of its mount when it was begun, and known after that one is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadPlace {
    /// The origin without the mount's prefix there, `s3://bucket`. Buckets of one name at two endpoints look alike.
    pub root: String,
    /// The key in the origin.
    pub key: String,
}

/// An upload at an origin that nobody wants any more. There is one at most for each version and mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleTransfer {
    /// Version of the flush row that it was for.
    pub version: Version,
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: Bytes,
    /// The mount whose origin has it.
    pub mount: MountId,
    /// The origin's name of it.
    pub upload_id: String,
    /// Whether its completion may have been sent: then it may still become the object.
    pub tried: bool,
    /// Where it is; `None` in records that do not say.
    pub place: Option<UploadPlace>,
}

impl StaleTransfer {
    /// Whether it is where the changes of its key go now, and may become their object.
    pub(crate) fn is_at(&self, mount: MountId, place: &UploadPlace) -> bool {
        // A mount has one origin as long as it has its number, whatever that is called.
        self.mount == mount || self.place.as_ref() == Some(place)
    }
}

/// Uploads that an origin may have begun, and that nobody has learnt the names of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedUpload {
    /// Version of the flush row that they were for.
    pub version: Version,
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: Bytes,
    /// The mount whose origin was asked.
    pub mount: MountId,
    /// The requests left after this, milliseconds since the Unix epoch.
    pub from_ms: u64,
    /// And before this.
    pub until_ms: u64,
    /// Where; `None` in records that do not say.
    pub place: Option<UploadPlace>,
}

/// Why a proposal has no answer "applied".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Certainly not applied: this node does not lead, or shuts down.
    #[error("this node does not lead the cluster")]
    NotLeader,
    /// Perhaps applied, perhaps not: leadership was lost on the way.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
}

/// Proposals of the flush worker to the log.
///
/// Every method answers after apply, with the matching [`FlushEvent`]s already delivered. Futures may be
/// dropped; the proposal then goes on by itself.
#[async_trait]
pub trait FlushLog: Send + Sync + 'static {
    /// Writes started rows (replacing the key's older one). An item is true if its flush row still
    /// waits; only then may the attempt start.
    async fn flush_started(&self, batch: Vec<Started>) -> Result<Vec<bool>, LogError>;
    /// Records what the origin holds.
    async fn flushed(&self, batch: Vec<Flushed>) -> Result<(), LogError>;
    /// Records steps of uploads. An item is true if its flush row still waits (but for `Refused` and `Looked`), and the
    /// step is one of the upload that is recorded.
    async fn transfer(&self, batch: Vec<TransferRecord>) -> Result<Vec<bool>, LogError>;
    /// A stale upload is gone from its origin.
    async fn transfer_gone(&self, version: Version, mount: MountId) -> Result<(), LogError>;
    /// Sets a row aside with a reason, keeping it for ever.
    async fn park(&self, row: RowId, reason: String) -> Result<(), LogError>;
    /// Takes a row up again.
    async fn unpark(&self, row: RowId) -> Result<(), LogError>;
    /// Gives a row up by an operator's word; its started row stays.
    async fn abandon(&self, row: RowId) -> Result<(), LogError>;
    /// The mount's origin was reached; `existing`: something lay under its prefix that this cluster has not put there.
    async fn attach(&self, mount: MountId, existing: bool) -> Result<(), LogError>;
}

/// What [`FlushSource::load`] hands over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// A flush row.
    Row(FlushRow),
    /// A started row.
    Started(Started),
    /// An upload to be given up.
    Stale(StaleTransfer),
    /// Uploads to be looked for.
    Asked(AskedUpload),
}

/// A version's bytes on their way to the origin.
#[derive(Debug, Clone)]
pub struct FlushObject {
    /// The whole body.
    pub body: UploadBody,
    /// The parts that the client put it together of, if it did.
    pub part_runs: Vec<PartRun>,
    /// Content headers, user metadata, a checksum verified at PUT.
    pub meta: ObjectMeta,
    /// The ETag that clients know, without quotes; travels as `x-amz-meta-forebay-etag`.
    pub etag: String,
    /// MD5 of the body, if it is known already.
    pub md5: Option<[u8; 16]>,
    /// Whether an upload of it is recorded: then it goes on in parts, whatever the settings say by now.
    pub in_parts: bool,
}

/// What a read of one version found.
#[derive(Debug, Clone)]
pub enum SourceObject {
    /// Its bytes.
    Found(Box<FlushObject>),
    /// No flush row needs this version any more; an event about it has been or will be delivered.
    Superseded,
    /// Its time has passed: a delete row will replace it.
    Expired,
}

/// A read of the core failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading the flush source: {0}")]
pub struct SourceError(pub String);

/// Reads of the flush worker from the core.
#[async_trait]
pub trait FlushSource: Send + Sync + 'static {
    /// Wall-clock time, milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
    /// A handle that is true while this node leads in the *current* term, and false for ever after. Cheap.
    fn fence(&self) -> Fence;
    /// Hands every flush row, started row, and upload to be given up or looked for, to `sink`, at one applied index. Called on a blocking
    /// thread, before events are used; events of changes after that index must follow through
    /// [`super::Flusher::observe`]. Changes that the scan has seen may be told again.
    fn load(&self, sink: &mut dyn FnMut(Loaded)) -> Result<(), SourceError>;
    /// The upload that is recorded for a version.
    async fn transfer(&self, version: Version) -> Result<Option<TransferState>, SourceError>;
    /// The origin row of a key.
    fn origin_row(&self, bucket: BucketId, key: &Bytes) -> Result<Option<OriginRow>, SourceError>;
    /// Body and metadata of one version.
    async fn object(
        &self,
        bucket: BucketId,
        key: &Bytes,
        version: Version,
    ) -> Result<SourceObject, SourceError>;
}

/// The log, shared.
pub type SharedLog = Arc<dyn FlushLog>;
/// The source, shared.
pub type SharedSource = Arc<dyn FlushSource>;
