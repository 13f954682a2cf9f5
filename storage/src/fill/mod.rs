//! Read-through: bytes that the site has given up are asked of the origin, given to whoever reads, and kept again.
//!
//! Owns what is known of each mount's origin, the way from a blob that is not here to its bytes in the origin, and
//! the decision to keep a blob again. `blocks` has the fetches: one for each block, however many readers wait. Does
//! not own where blobs lie (`keyspace/places.rs` judges each change), nor what may be given up (`evict/`).
//!
//! What must hold (PITFALLS 24):
//! - A reader gets the bytes of its own row, or an error: the origin row of the same view names the ETag of the
//!   row's content version, and each request and each answer is bound to that ETag.
//! - Trouble with the origin is an error, never absence.
//! - What is kept is kept for a blob, which never changes; a checkpoint lets it in only while the blob is still
//!   marked as clean, so that nothing deleted comes back.
//!
//! A crash leaves the blob given up, and perhaps an extent that nobody names.

mod block;
mod blocks;
mod ghost;
mod keep;

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;
use tokio::sync::Semaphore;

use crate::body::blob_error;
use crate::error::{Error, Result};
use crate::flush::origin_key;
use crate::keyspace::checkpoint::decode_pointer;
use crate::keyspace::tables::{OriginRow, Table, blob_key, object_key};
use crate::log_limit::LogLimit;
use crate::lookup::Reach;
use crate::mutation::BLOCK_BYTES;
use crate::object::{BlobId, ObjectRow};
use crate::origin::{Origin, OriginETag, OriginError, OriginKey, OriginOp};
use crate::read::{ReadView, base_error};
use crate::store::Shared;

use blocks::Blocks;
use ghost::Ghosts;
use keep::Keeping;
pub(crate) use keep::Wish;

/// An object's body in the origin. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OriginBody {
    origin: Arc<dyn Origin>,
    key: OriginKey,
    /// The mount, and the object's key.
    of: (u32, Bytes),
    /// Of exactly the version that is read.
    etag: OriginETag,
    /// Length of the whole body.
    len: u64,
    /// Turns of fetches from this origin.
    turns: Arc<Semaphore>,
    log_limit: Arc<LogLimit>,
    /// Its bucket is one whose objects are kept.
    kept: bool,
}

impl OriginBody {
    /// Says why bytes did not come, unless the origin has just been named for that.
    fn log_failure(&self, what: &str) {
        if let Some(not_shown) = self.log_limit.admit(Instant::now()) {
            tracing::warn!(key = %self.key, origin = self.origin.name(), what, not_shown, "a read through the origin failed");
        }
    }

    /// Asks the origin, once, whether it has the body as it is known; else what it has.
    pub(crate) async fn differs(&self) -> std::result::Result<Option<String>, OriginError> {
        Ok(match self.origin.head(&self.key).await? {
            None => Some("somebody has removed it".to_owned()),
            Some(head) if head.etag != self.etag => {
                Some(format!("somebody has changed it (ETag {} instead of {})", head.etag.0, self.etag.0))
            }
            Some(head) if head.content_length != self.len => {
                Some(format!("it has {} bytes instead of {}", head.content_length, self.len))
            }
            Some(_) => None,
        })
    }

    /// The error of a reader who found something else in the origin.
    fn changed(&self, shared: &Shared, what: &str) -> Error {
        shared.lookups.doubt(self.of.0, &self.of.1);
        tracing::error!(key = %self.key, origin = self.origin.name(), what, "a read found the object changed in the origin");
        Error::ChangedInOrigin(
            format!("forebay: the object's bytes are only in the origin, where {what}").into(),
        )
    }

    /// The error of a reader who may come again.
    fn not_now(&self, what: &str) -> Error {
        self.log_failure(what);
        Error::Unavailable("the bytes are only in the origin, which does not give them now")
    }
}

/// A part of a body that is not here.
#[derive(Debug, Clone)]
pub(crate) struct OriginPart {
    pub(crate) blob: BlobId,
    /// Which bytes of the blob.
    pub(crate) in_blob: Range<u64>,
    /// Where in the body they begin.
    pub(crate) in_body: u64,
    /// Whether nothing else of the blob is of use to anybody.
    pub(crate) whole: bool,
    /// Whether the blob is to be kept again.
    pub(crate) wish: Arc<Wish>,
}

struct MountOrigin {
    mount: u32,
    origin: Arc<dyn Origin>,
    key_prefix: Bytes,
    origin_prefix: String,
    turns: Arc<Semaphore>,
    log_limit: Arc<LogLimit>,
}

/// What was asked of a mount's origin since the start, by whoever it was: uploads, look-ups, reads, imports, scrubs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginTraffic {
    /// Number of the mount.
    pub mount: u32,
    /// Requests that there were any of: operation, what came back (an HTTP status; a class of error where there was no
    /// answer, or no HTTP), how many.
    pub requests: Vec<(OriginOp, &'static str, u64)>,
    /// Bytes of bodies that have left, of requests that failed as well.
    pub sent_bytes: u64,
    /// Bytes of objects that have arrived.
    pub received_bytes: u64,
}

/// What fills have done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FillCounts {
    /// Blocks fetched from an origin.
    pub(crate) blocks: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Blobs that are kept again.
    pub(crate) kept: u64,
    /// Bodies opened with all their bytes here.
    pub(crate) hits: u64,
    /// Bodies opened of which bytes were only in the origin.
    pub(crate) misses: u64,
}

#[derive(Default)]
struct Counters {
    blocks: AtomicU64,
    bytes: AtomicU64,
    kept: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// See the file's head. One per store.
#[derive(Default)]
pub(crate) struct Fills {
    /// Written at a start only.
    origins: RwLock<Vec<MountOrigin>>,
    any: AtomicBool,
    pub(crate) blocks: Blocks,
    keeping: Keeping,
    ghosts: OnceLock<Ghosts>,
    /// Keeps what is read whatever the ghost queue says: for the measurement beside it.
    #[cfg(test)]
    pub(crate) unghosted: AtomicBool,
    counters: Counters,
    /// Leaves the ETag out of requests and comparisons: for the test that must notice.
    #[cfg(test)]
    pub(crate) unchecked: AtomicBool,
    /// Before each block that is written, and before the end.
    #[cfg(test)]
    pub(crate) writes: keep::Gate,
    #[cfg(test)]
    pub(crate) ends: keep::Gate,
}

impl Fills {
    /// A mount's origin, in place of what was known of it; bytes may be given up to it from now on.
    pub(crate) fn add_origin(
        &self,
        mount: u32,
        key_prefix: &[u8],
        origin_prefix: &str,
        origin: Arc<dyn Origin>,
    ) {
        let (key_prefix, origin_prefix) = (Bytes::copy_from_slice(key_prefix), origin_prefix.to_owned());
        let mut origins = self.origins.write();
        origins.retain(|it| it.mount != mount);
        let (turns, log_limit) = (blocks::turns(), Arc::default());
        origins.push(MountOrigin { mount, origin, key_prefix, origin_prefix, turns, log_limit });
        drop(origins);
        self.any.store(true, Relaxed);
    }

    /// As on a node without mounts.
    #[cfg(test)]
    pub(crate) fn forget_origins(&self) {
        self.origins.write().clear();
        self.any.store(false, Relaxed);
    }

    /// How many blobs are being kept.
    #[cfg(test)]
    pub(crate) fn keeping(&self) -> usize {
        self.keeping.running()
    }

    /// Whether any mount has an origin: without one everything is here.
    pub(crate) fn has_origins(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// A mount's origin, and where in it its keys are.
    pub(crate) fn reach(&self, mount: u32) -> Option<Reach> {
        let origins = self.origins.read();
        let of = origins.iter().find(|it| it.mount == mount)?;
        let (origin, key_prefix, log_limit) =
            (of.origin.clone(), of.key_prefix.clone(), of.log_limit.clone());
        Some(Reach { origin, key_prefix, origin_prefix: of.origin_prefix.clone(), log_limit })
    }

    /// What was asked of each mount's origin, as far as that is counted.
    pub(crate) fn traffic(&self) -> Vec<OriginTraffic> {
        let origins = self.origins.read();
        let counted = origins.iter().filter_map(|of| {
            let traffic = of.origin.traffic()?;
            let (sent_bytes, received_bytes) = (traffic.sent_bytes(), traffic.received_bytes());
            Some(OriginTraffic { mount: of.mount, requests: traffic.requests(), sent_bytes, received_bytes })
        });
        counted.collect()
    }

    /// Whether this mount's origin is known.
    pub(crate) fn knows(&self, mount: u32) -> bool {
        self.origins.read().iter().any(|it| it.mount == mount)
    }

    fn ghosts(&self, shared: &Shared) -> &Ghosts {
        self.ghosts.get_or_init(|| Ghosts::new(shared.limits.capacity_bytes))
    }

    /// A blob was given up: who reads it again soon has it kept.
    pub(crate) fn note_given_up(&self, shared: &Shared, blob: BlobId, len: u64) {
        self.ghosts(shared).note(blob, len);
    }

    pub(crate) fn count_body(&self, here: bool) {
        let counter = if here { &self.counters.hits } else { &self.counters.misses };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn counts(&self) -> FillCounts {
        let Counters { blocks, bytes, kept, hits, misses } = &self.counters;
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let (blocks, bytes, kept) = (load(blocks), load(bytes), load(kept));
        FillCounts { blocks, bytes, kept, hits: load(hits), misses: load(misses) }
    }

    /// Where the origin has the body of a row that came from this view.
    pub(crate) async fn locate(&self, view: &ReadView, row: &ObjectRow) -> Result<OriginBody> {
        let lost = |what: &str| {
            tracing::error!(version = row.version().0, what, "bytes of an object are not here");
            Error::Damaged(format!("bytes of the object are not on this node, and {what}").into())
        };
        let (bucket, key) = row.name().ok_or_else(|| lost("nobody knows whose they are"))?;
        let known = view.row(object_key(Table::Origin, bucket, key)).await?;
        let known = known.as_deref().and_then(OriginRow::decode);
        let Some(OriginRow { origin: Some((version, etag)), mount, .. }) = known else {
            return Err(lost("its origin is not known to have them"));
        };
        if version != row.content_version() {
            return Err(lost("its origin is known to have another version"));
        }
        let (shared, _) = view.parts();
        let mount = mount.or_else(|| shared.mount_of(bucket, key));
        let origins = self.origins.read();
        let Some(of) = origins.iter().find(|it| Some(it.mount) == mount) else {
            return Err(Error::Unavailable("the bytes are only in an origin that is not attached yet"));
        };
        let rest = key.strip_prefix(&*of.key_prefix).ok_or_else(|| lost("its mount has another prefix"))?;
        let (name, of_key) = (origin_key(&of.origin_prefix, rest), Bytes::copy_from_slice(key));
        let (origin, etag, len) = (of.origin.clone(), OriginETag(etag), row.body_len());
        let (turns, log_limit, kept) = (of.turns.clone(), of.log_limit.clone(), shared.keeps(bucket));
        Ok(OriginBody { origin, key: name, of: (of.mount, of_key), etag, len, turns, log_limit, kept })
    }
}

/// Bytes `range` of a part, at most 1 MiB. The future may be dropped; a fetch that others wait for goes on.
pub(crate) async fn read(
    shared: &Arc<Shared>,
    body: &OriginBody,
    part: &OriginPart,
    range: Range<u64>,
) -> Result<Bytes> {
    let (mut at, end) = (part.in_blob.start + range.start, part.in_blob.start + range.end);
    let mut out = BytesMut::new();
    for block in blocks_of(part, range) {
        let within = at - block.start..end.min(block.end) - block.start;
        let mut of = shared.fills.blocks.get(shared, body, part, block.clone()).await;
        keep::consider(shared, body, part, &block);
        let bytes = of.bytes(within).await?;
        at += bytes.len() as u64;
        if at == end && out.is_empty() {
            return Ok(bytes);
        }
        out.reserve((end - at) as usize + bytes.len());
        out.extend_from_slice(&bytes);
    }
    Ok(out.freeze())
}

/// These bytes of a part will be asked for soon. Waits for nothing, promises nothing; `false` if there was no room to
/// have all of them fetched.
pub(crate) fn expect(shared: &Arc<Shared>, body: &OriginBody, part: &OriginPart, range: Range<u64>) -> bool {
    blocks_of(part, range).all(|block| {
        let has_room = shared.fills.blocks.expect(shared, body, part, block.clone());
        if has_room {
            keep::consider(shared, body, part, &block);
        }
        has_room
    })
}

/// Where in the range of a part a block begins that has not been fetched lately; `None` if all of them have been.
pub(crate) fn first_to_fetch(
    shared: &Shared,
    body: &OriginBody,
    part: &OriginPart,
    range: Range<u64>,
) -> Option<u64> {
    let from = part.in_blob.start + range.start;
    let first = blocks_of(part, range).find(|block| !shared.fills.blocks.has_whole(body, part, block))?;
    Some(first.start.max(from) - part.in_blob.start)
}

/// Asks the origin, once, whether the body can be read there. The future may be dropped.
pub(crate) async fn ask(shared: &Shared, body: &OriginBody) -> Result<()> {
    match tokio::time::timeout(blocks::TRY_TIMEOUT, body.differs()).await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(what))) => Err(body.changed(shared, &what)),
        Ok(Err(error)) => Err(body.not_now(&error.to_string())),
        Err(_) => Err(body.not_now("the origin took too long")),
    }
}

/// The bytes of the blob that the block around `at` has.
fn block_of(part: &OriginPart, at: u64) -> Range<u64> {
    let start = at / BLOCK_BYTES * BLOCK_BYTES;
    start.max(part.in_blob.start)..(start + BLOCK_BYTES).min(part.in_blob.end)
}

/// The blocks that these bytes of a part touch.
fn blocks_of(part: &OriginPart, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let (mut at, end) = (part.in_blob.start + range.start, part.in_blob.start + range.end);
    std::iter::from_fn(move || {
        let block = (at < end).then(|| block_of(part, at))?;
        at = block.end;
        Some(block)
    })
}

/// Reads from the blob's place on this node, if it has got one again. Blocks.
fn read_here(shared: &Shared, blob: BlobId, range: Range<u64>) -> Result<Option<Bytes>> {
    let place = match shared.segments.staged(blob) {
        Some(place) => Some(place),
        None => {
            let row = shared.keyspace.base.get(&blob_key(Table::Blob, blob)).map_err(base_error)?;
            let pointer = row.as_deref().and_then(decode_pointer);
            pointer.and_then(|pointer| Some((pointer, shared.segments.pin(pointer).ok()?)))
        }
    };
    let Some((pointer, _pin)) = place.filter(|(pointer, _)| range.end <= pointer.length) else {
        return Ok(None);
    };
    let bytes = shared.segments.read(pointer, blob, range, true).map_err(blob_error)?;
    Ok(bytes.map(Bytes::from))
}
