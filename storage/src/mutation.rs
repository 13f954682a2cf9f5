//! Everything that is ever replicated, with its preconditions and outcomes.
//!
//! A front end writes mutations into a [`crate::submission::Submission`]; the leader packs submissions
//! into log entries; `apply` decodes them in place and judges them against the keyspace and the entry's
//! stamp alone. The byte form is in `mutation/codec.rs`.

use crate::object::{BucketId, Version};

pub use adopt::{AdoptedHead, ImportState};
pub use block::BLOCK_BYTES;
pub(crate) use block::piece_bytes;
pub(crate) use codec::{encode_atomic_head, import_state, import_tag};
pub(crate) use multipart::{COPIED_EXTENTS_MAX, OBJECT_EXTENTS_MAX};
pub use multipart::{OBJECT_BYTES_MAX, PART_BYTES_MIN, PART_NUMBER_MAX, PartNames};
pub use payload::{Payload, StagedPart, StagedParts};

mod adopt;
mod block;
mod codec;
mod multipart;
mod payload;

/// What becomes of an expiry time when a string is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetExpiry {
    /// The key lives on without one.
    Clear,
    /// It stays as it was.
    Keep,
    /// It becomes this, milliseconds since the Unix epoch.
    At(u64),
}

/// Whether a key must exist for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existence {
    /// No matter.
    Any,
    /// Only if absent (NX).
    Absent,
    /// Only if present (XX).
    Present,
}

/// When a new expiry time is taken over (EXPIRE's options; several may be set).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpireIf {
    /// Only if there is none yet.
    pub nx: bool,
    /// Only if there is one.
    pub xx: bool,
    /// Only if later than the present one (none counts as infinitely late).
    pub gt: bool,
    /// Only if earlier.
    pub lt: bool,
}

/// The conditions of an S3 PUT or DELETE; both must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutIf<'a> {
    /// If-Match: the object exists and has one of these ETags (textual, unquoted); `*` any.
    pub if_match: Option<&'a str>,
    /// If-None-Match: the object does not exist (`*`), or has not this ETag.
    pub if_none_match: Option<&'a str>,
}

impl PutIf<'_> {
    /// Whether there is no condition: a conditional write is a flush barrier.
    pub fn is_none(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }
}

/// A precondition of an atomic group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard<'a> {
    /// The object is absent (`None`) or stands at exactly this version (WATCH).
    VersionIs {
        /// Its bucket.
        bucket: BucketId,
        /// Its key.
        key: &'a [u8],
        /// The version seen, `None` if it was absent.
        version: Option<Version>,
    },
}

/// How a mount treats the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MountMode {
    /// Acknowledge here, upload later.
    #[default]
    WriteBack,
    /// Acknowledge when the origin has it.
    WriteThrough,
    /// The origin is read; nothing is written.
    ReadOnly,
    /// No origin.
    Local,
}

/// A step of a multipart upload to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferStep<'a> {
    /// It was begun; unmet if another is recorded.
    Begun {
        /// Length of the parts that are not the client's.
        part_bytes: u64,
        /// Whether parts are sent with their CRC32C.
        crc32c: bool,
    },
    /// The origin has a part.
    Sent {
        /// From 1.
        number: u32,
        /// What the origin answered.
        etag: &'a str,
        /// Its CRC32C, if it was sent with one.
        crc32c: Option<u32>,
    },
    /// The origin does not know it any more. One whose completion may have been sent, or at the origin of a mount that
    /// the key has left, is stale from here on; any other is forgotten.
    Lost,
    /// As `Lost` was written at first, and is still read: one that was tried is forgotten, too.
    Forgotten,
    /// The origin is about to be asked to begin one, whose name nobody knows yet; unmet if one is recorded.
    Asked {
        /// The request leaves after this, milliseconds since the Unix epoch.
        from_ms: u64,
        /// And before this.
        until_ms: u64,
    },
    /// The origin has refused that, for certain.
    Refused,
    /// What an origin has begun and nobody has learnt of is gone; unmet if it was asked again meanwhile.
    Looked {
        /// The mount of the origin.
        mount: u32,
        /// As it was recorded last.
        until_ms: u64,
    },
}

/// One replicated change. Borrows from the bytes it was decoded from, or from the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation<'a> {
    /// RESP SET: replaces the object, drops S3 metadata. Outcome `Done` or `Unmet`.
    SetString {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Body.
        value: Payload<'a>,
        /// What becomes of the expiry time.
        expiry: SetExpiry,
        /// NX / XX.
        existence: Existence,
    },
    /// RESP APPEND: keeps metadata and expiry. Outcome `Length`.
    Append {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Bytes to append.
        value: Payload<'a>,
    },
    /// RESP SETRANGE with a non-empty value; a gap reads as zeros. Outcome `Length`.
    SetRange {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// First byte to overwrite.
        offset: u64,
        /// Bytes to write.
        value: Payload<'a>,
    },
    /// RESP INCRBY / DECRBY. Outcome `Integer` or a refusal.
    IncrBy {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Summand.
        delta: i64,
    },
    /// RESP INCRBYFLOAT. Outcome `Text` (the new value) or a refusal.
    IncrByFloat {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Summand as the client wrote it.
        delta: &'a [u8],
    },
    /// Removes an object. Outcome `Done` or `Unmet` (absent).
    Delete {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
    },
    /// Sets an expiry time; one that has passed deletes. Outcome `Done` or `Unmet`.
    Expire {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Absolute time, milliseconds since the Unix epoch.
        at_ms: u64,
        /// NX / XX / GT / LT.
        condition: ExpireIf,
    },
    /// Drops the expiry time. Outcome `Done` or `Unmet`.
    Persist {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
    },
    /// Moves an object with metadata and expiry. Outcome `Done`, `Unmet` (target exists and `if_absent`) or
    /// refusal `NoSuchKey`.
    Rename {
        /// Bucket.
        bucket: BucketId,
        /// Source.
        from: &'a [u8],
        /// Target.
        to: &'a [u8],
        /// RENAMENX.
        if_absent: bool,
    },
    /// Copies an object with metadata and expiry; no byte of a blob moves. Outcome `Done` or `Unmet` (source
    /// absent, or target exists and not `replace`).
    Copy {
        /// Bucket of the source.
        from_bucket: BucketId,
        /// Source.
        from: &'a [u8],
        /// Bucket of the target.
        to_bucket: BucketId,
        /// Target.
        to: &'a [u8],
        /// Overwrite an existing target.
        replace: bool,
    },
    /// S3 PUT: clears the expiry time. Outcome `Done` or a refusal.
    PutObject {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Body.
        value: Payload<'a>,
        /// Encoded metadata (`keyspace::tables::encode_meta`; empty for none).
        meta: &'a [u8],
        /// MD5 of the body; `None` gives it a derived ETag.
        md5: Option<[u8; 16]>,
        /// If-Match, If-None-Match.
        condition: PutIf<'a>,
    },
    /// S3 CopyObject: no byte of a blob moves; the copy has no expiry time. Outcome `Done`, `Unmet` if the source
    /// does not stand at `source` (any more), or a refusal.
    CopyObject {
        /// Bucket of the source.
        from_bucket: BucketId,
        /// Source.
        from: &'a [u8],
        /// The version of the source that the request's conditions were judged by.
        source: Version,
        /// Bucket of the target.
        to_bucket: BucketId,
        /// Target; may be the source.
        to: &'a [u8],
        /// Encoded metadata instead of the source's.
        meta: Option<&'a [u8]>,
        /// If-Match, If-None-Match on the target.
        condition: PutIf<'a>,
    },
    /// Begins a multipart upload. Outcome `Done`: its version is the upload's name.
    CreateUpload {
        /// Bucket.
        bucket: BucketId,
        /// Key of the object to be.
        key: &'a [u8],
        /// Encoded metadata of the object to be.
        meta: &'a [u8],
        /// Kept with the upload, opaque to the core.
        options: &'a [u8],
    },
    /// Writes a part, or writes it anew. Outcome `Done`, or refusal `NoSuchUpload`.
    PutPart {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// The upload.
        upload: Version,
        /// Its number, from 1.
        number: u16,
        /// Body.
        value: Payload<'a>,
        /// Encoded metadata: the part's checksum; empty for none.
        meta: &'a [u8],
        /// MD5 of the part; `None` gives it a derived ETag.
        md5: Option<[u8; 16]>,
    },
    /// Takes a part from an object; no byte of a blob moves. Outcome `Done`, `Unmet` if the source does not stand
    /// at `source` (any more), or a refusal.
    CopyPart {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// The upload.
        upload: Version,
        /// Its number, from 1.
        number: u16,
        /// Bucket of the source.
        from_bucket: BucketId,
        /// Source.
        from: &'a [u8],
        /// The version of the source that the request's conditions were judged by.
        source: Version,
        /// First byte taken.
        start: u64,
        /// Number of bytes, clamped to the source's end.
        len: u64,
    },
    /// Puts parts together to an object; parts that are not named go. Outcome `Done` or a refusal; one that is
    /// refused leaves the upload as it was.
    CompleteUpload {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// The upload.
        upload: Version,
        /// The parts, in ascending order.
        parts: PartNames<'a>,
        /// The object's ETag; `None` gives it a derived one.
        etag: Option<&'a str>,
        /// The object's checksum as encoded metadata, appended to the upload's; empty for none.
        checksum: &'a [u8],
        /// If-Match, If-None-Match.
        condition: PutIf<'a>,
    },
    /// Gives a multipart upload up. Outcome `Done`, or refusal `NoSuchUpload`.
    AbortUpload {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// The upload.
        upload: Version,
    },
    /// Replaces the list of parts by the same bytes in one piece, if the object still stands at `version`.
    /// Proposed by the store before a body becomes too fragmented. Outcome `Done` or `Unmet`.
    Rewrite {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// The version that was read.
        version: Version,
        /// The whole body.
        value: Payload<'a>,
    },
    /// Creates a bucket. Outcome `Bucket`.
    CreateBucket {
        /// Its name.
        name: &'a [u8],
    },
    /// Deletes an empty bucket. Outcome `Done` or a refusal.
    DeleteBucket {
        /// Its name.
        name: &'a [u8],
    },
    /// FLUSHDB: everything in the bucket below this version is dead at once, and swept later.
    /// Outcome `Done` or refusal `Mounted`.
    FlushBucket {
        /// Bucket.
        bucket: BucketId,
    },
    /// Removes an object whose time has passed by the entry's stamp. Outcome `Done` or `Unmet`.
    ExpireDue {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
    },
    /// Physically removes a row that a FlushBucket has made dead. Outcome `Done` or `Unmet`.
    Sweep {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
    },
    /// All rows that the bucket's epoch made dead have been removed. Outcome `Done` or `Unmet`.
    SweepDone {
        /// Bucket.
        bucket: BucketId,
        /// The epoch that was swept.
        epoch: Version,
    },
    /// Records a mount (idempotent by bucket and prefix), or other settings of one. One that was read-only and is not
    /// any more is to be attached anew. Outcome `Mount`.
    Mount {
        /// Bucket name; created if it does not exist.
        bucket: &'a [u8],
        /// Keys under it begin with this.
        prefix: &'a [u8],
        /// Where it goes: `s3://bucket/prefix`, as shown to people.
        origin: &'a str,
        /// Key prefix in the origin bucket.
        origin_prefix: &'a str,
        /// Mode.
        mode: MountMode,
        /// Whether FLUSHDB and FLUSHALL may empty it.
        flushall: bool,
        /// Whether foreign changes are looked for.
        revalidate: bool,
    },
    /// The origin was reached, and may be written where the mount's mode says so. Outcome `Done` or `Unmet`.
    MountAttached {
        /// Mount number.
        mount: u32,
        /// Whether something lay under the origin prefix that this cluster has not put there: from then on the
        /// mount is one over existing data.
        existing: bool,
    },
    /// Takes an object over that was found in the origin: its head, and a body whose bytes are in the origin only.
    /// Nothing is queued. Outcome `Done` (its version), or `Unmet` if something is known here by now that says
    /// otherwise, or the mount is not the key's.
    Adopt {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// The mount whose origin was asked.
        mount: u32,
        /// What was visible before the origin was asked.
        read_at: Version,
        /// The version in whose place it comes: it was here with nothing queued before the origin was asked. `None` if
        /// nothing was here.
        replaces: Option<Version>,
        /// What was found.
        head: AdoptedHead<'a>,
    },
    /// Drops an object that the origin held and does not hold any more. Nothing is queued. Outcome as of `Adopt`.
    Vanish {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// The mount whose origin was asked.
        mount: u32,
        /// The version that was here, with nothing queued, before the origin was asked.
        version: Version,
        /// What was visible before the origin was asked.
        read_at: Version,
    },
    /// Notes how far an import has come. Outcome `Done`, or `Unmet` if there is no such mount.
    ImportNote {
        /// Mount number.
        mount: u32,
        /// The origin's last name that was looked at; empty before the first.
        after: &'a [u8],
        /// Names listed so far.
        listed: u64,
        /// Objects adopted so far.
        adopted: u64,
        /// Whether it goes on.
        state: ImportState,
    },
    /// Forgets a mount: its origin keeps what it has, its keys are local from now on, and the path may be
    /// mounted anew. With `abandon`, rows still queued for it do not refuse this: the mount then takes no
    /// more rows, and goes with the next `MountForget` after they were given up. One over existing data takes two
    /// steps in any case: between them what was adopted is dropped (`Vanish`). Outcome `Done`, `Unmet` (no such
    /// mount), or refusal `MountBusy`.
    MountForget {
        /// Mount number.
        mount: u32,
        /// Whether what is queued may be given up.
        abandon: bool,
    },
    /// Queues an existing object of a newly mounted prefix for upload. Outcome `Done` or `Unmet`.
    MarkDirty {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
    },
    /// An attempt is about to start; whatever it sends is dead after `deadline_ms`. Outcome `Done`, or
    /// `Unmet` if no such row waits any more.
    FlushStarted {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Version of the flush row.
        version: Version,
        /// Wall-clock time, milliseconds since the Unix epoch.
        deadline_ms: u64,
    },
    /// The origin holds (or no longer holds) exactly this version. Outcome `Done`, or `Unmet` if no row of that
    /// version waits, or the key belongs to another mount by now.
    Flushed {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Version of the flush row.
        version: Version,
        /// ETag the origin gave; `None` after a delete.
        origin_etag: Option<&'a str>,
        /// The mount whose origin it is; `None` in entries that do not say.
        mount: Option<u32>,
    },
    /// The site must keep the object's bytes again, though the origin holds them: they are about to be part of
    /// something that it does not hold. Outcome `Done`, or `Unmet` if it must keep them anyhow, or the object
    /// stands elsewhere by now.
    Hold {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// The version that was read; `None`: whatever stands there.
        version: Option<Version>,
    },
    /// Takes a `Hold` back, if the origin still holds this content. Outcome `Done` or `Unmet`.
    Release {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// The version that was read.
        version: Version,
    },
    /// A step of a large body's way to the origin. Outcome `Done`, or `Unmet` if its flush row does not wait any
    /// more, or the step is not one of the upload that is recorded.
    Transfer {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Version of the flush row.
        version: Version,
        /// The origin's name of the upload.
        upload_id: &'a str,
        /// Which step.
        step: TransferStep<'a>,
    },
    /// A stale upload is gone from the origin. Outcome `Done` or `Unmet`.
    TransferGone {
        /// Version of the flush row that it was for.
        version: Version,
        /// The mount whose origin had it; `None` in log entries that do not say.
        mount: Option<u32>,
    },
    /// Sets a flush row aside with a reason (empty: takes it up again). Outcome `Done` or `Unmet`.
    FlushPark {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Version of the flush row.
        version: Version,
        /// Why; empty to take it up again.
        reason: &'a str,
    },
    /// Gives a flush row up by an operator's word: the origin stays as it is. Outcome `Done` or `Unmet`.
    FlushAbandon {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: &'a [u8],
        /// Version of the flush row.
        version: Version,
    },
    /// A run of a node begins: what its earlier runs have staged and not committed is given up, and a mutation
    /// that still names it is refused. Outcome `Boot`.
    AbortBefore {
        /// The node.
        node: u16,
    },
    /// All or nothing: judged by its guards, then its mutations in order. Outcome `Done` or `Unmet`, followed
    /// by one outcome for each mutation inside.
    Atomic {
        /// Preconditions; all must hold.
        guards: Vec<Guard<'a>>,
        /// What to do.
        mutations: Vec<Mutation<'a>>,
    },
}

/// What a mutation came to, judged at apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; the version it wrote, or would have written.
    Done(Version),
    /// Its condition did not hold: nothing was changed.
    Unmet,
    /// The new number.
    Integer(i64),
    /// The new length of the body, in bytes.
    Length(u64),
    /// The new value.
    Text(Box<[u8]>),
    /// The bucket, and whether this created it.
    Bucket(BucketId, bool),
    /// The mount's number.
    Mount(u32),
    /// The number of the run that begins.
    Boot(u64),
    /// It was refused: nothing was changed.
    Refused(Refusal),
    /// It stands in an atomic group whose guards did not hold.
    Skipped,
}

/// Why a mutation was refused at apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The value is not an integer in range.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The value is not a float.
    #[error("value is not a valid float")]
    NotAFloat,
    /// The sum leaves the range of i64.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The sum is not a finite number.
    #[error("increment would produce NaN or Infinity")]
    NotFinite,
    /// The body would pass the limit, in bytes.
    #[error("the value would be longer than {0} bytes")]
    TooLarge(u64),
    /// Source absent, or If-Match on an absent key.
    #[error("no such key")]
    NoSuchKey,
    /// The bucket is gone.
    #[error("no such bucket")]
    NoSuchBucket,
    /// The bucket still holds objects, or has deletes on their way to the origin.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// If-Match or If-None-Match did not hold.
    #[error("a precondition did not hold")]
    PreconditionFailed,
    /// The body has too many parts, or is a number that does not stand in its row; the store rewrites it and tries
    /// again.
    #[error("the body is too fragmented")]
    TooFragmented,
    /// FLUSHDB on a mounted bucket without `flushall = true`.
    #[error("the bucket holds the mount {0}")]
    Mounted(String),
    /// FLUSHDB on a bucket with a mount over data that was there before it.
    #[error("the bucket holds the mount {0}, over data that was there before it; it is never emptied")]
    Existing(String),
    /// The mount of this path is read-only.
    #[error("{0} is a read-only mount")]
    ReadOnly(String),
    /// So many changes still wait for the mount's origin.
    #[error("{0} changes still wait for its origin")]
    MountBusy(u64),
    /// With the mount's prefix the origin key would pass 1,024 bytes.
    #[error("the key would be {0} bytes long in the origin, which takes at most 1024")]
    OriginKeyTooLong(u64),
    /// User metadata with ours would pass the origin's 2 KB.
    #[error("the metadata would be {0} bytes long in the origin, which takes at most 2048")]
    OriginMetaTooLarge(u64),
    /// The upload was completed or given up, or never was.
    #[error("no such upload")]
    NoSuchUpload,
    /// A part is absent or has another ETag, or its number is out of range or order.
    #[error("part {0} is missing, or was written with another ETag, or stands in the wrong place")]
    InvalidPart(u16),
    /// A part that is not the last one is too short.
    #[error("part {0} has {1} bytes; all but the last need {PART_BYTES_MIN}")]
    PartTooSmall(u16, u64),
    /// The bytes that it would carry on may be in the origin only. The store proposes such a mutation right behind a
    /// `Hold` of its sources, and fetches them before: no client is told this while one node leads.
    #[error("the object's bytes were given back to the origin; try again")]
    NotHeld,
    /// It names a staged body that was given up when its node began another run.
    #[error("the body was given up: its node has started anew; send it again")]
    Aborted,
    /// The entry holds bytes that are no mutation of this version.
    #[error("malformed mutation")]
    Malformed,
}

impl<'a> Mutation<'a> {
    /// The keys that it deletes by name.
    pub(crate) fn deletes(&self, visit: &mut dyn FnMut(BucketId, &'a [u8])) {
        match self {
            Mutation::Delete { bucket, key } => visit(*bucket, key),
            Mutation::Atomic { mutations, .. } => {
                mutations.iter().for_each(|mutation| mutation.deletes(visit));
            }
            _ => {}
        }
    }

    /// The objects it looks up.
    pub(crate) fn objects(&self, visit: &mut dyn FnMut(BucketId, &'a [u8])) {
        match self {
            Mutation::SetString { bucket, key, .. }
            | Mutation::Append { bucket, key, .. }
            | Mutation::SetRange { bucket, key, .. }
            | Mutation::IncrBy { bucket, key, .. }
            | Mutation::IncrByFloat { bucket, key, .. }
            | Mutation::Delete { bucket, key }
            | Mutation::Expire { bucket, key, .. }
            | Mutation::Persist { bucket, key }
            | Mutation::PutObject { bucket, key, .. }
            | Mutation::CompleteUpload { bucket, key, .. }
            | Mutation::Rewrite { bucket, key, .. }
            | Mutation::ExpireDue { bucket, key }
            | Mutation::Sweep { bucket, key }
            | Mutation::MarkDirty { bucket, key }
            | Mutation::FlushStarted { bucket, key, .. }
            | Mutation::Flushed { bucket, key, .. }
            | Mutation::Hold { bucket, key, .. }
            | Mutation::Release { bucket, key, .. }
            | Mutation::Transfer { bucket, key, .. }
            | Mutation::Adopt { bucket, key, .. }
            | Mutation::Vanish { bucket, key, .. }
            | Mutation::FlushPark { bucket, key, .. }
            | Mutation::FlushAbandon { bucket, key, .. } => visit(*bucket, key),
            Mutation::Rename { bucket, from, to, .. } => {
                visit(*bucket, from);
                visit(*bucket, to);
            }
            Mutation::Copy { from_bucket, from, to_bucket, to, .. }
            | Mutation::CopyObject { from_bucket, from, to_bucket, to, .. } => {
                visit(*from_bucket, from);
                visit(*to_bucket, to);
            }
            Mutation::Atomic { guards, mutations } => {
                for Guard::VersionIs { bucket, key, .. } in guards {
                    visit(*bucket, key);
                }
                for mutation in mutations {
                    mutation.objects(visit);
                }
            }
            Mutation::CreateBucket { .. }
            | Mutation::DeleteBucket { .. }
            | Mutation::FlushBucket { .. }
            | Mutation::SweepDone { .. }
            | Mutation::Mount { .. }
            | Mutation::MountAttached { .. }
            | Mutation::ImportNote { .. }
            | Mutation::MountForget { .. }
            | Mutation::TransferGone { .. }
            | Mutation::CreateUpload { .. }
            | Mutation::PutPart { .. }
            | Mutation::AbortUpload { .. }
            | Mutation::AbortBefore { .. } => {}
            Mutation::CopyPart { from_bucket, from, .. } => visit(*from_bucket, from),
        }
    }
}

#[cfg(test)]
mod tests;
