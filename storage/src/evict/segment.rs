//! One segment under judgement: what of it tables name, what of that would stay, what becomes free.
//!
//! Owns the judgement, and what is *dropping* because of it. Does not own what is clean (`apply/clean.rs`), nor the
//! copies (`copy.rs`).
//!
//! What must hold: an extent is judged under the gate, and is dropping before the gate opens again. Judged in shares,
//! so that whoever holds bytes waits for one of them at most.

use std::sync::atomic::Ordering::Release;

use crate::blob::{FoundExtent, Generation, Pointer, SegmentId};
use crate::keyspace::checkpoint::decode_pointer;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{Table, blob_key};
use crate::keyspace::view::{View, ViewError};
use crate::object::{BlobId, BucketId, Version};
use crate::store::Shared;

use super::{EvictError, Evictor, Want};

/// Share of a segment that is copied forward only because it was read.
const WARM_PERCENT: u64 = 50;
/// Extents judged at a time.
const SHARE_EXTENTS: usize = 2048;
/// Long copies begin on a multiple of this.
const BLOCK: u64 = 4096;

/// One use of a segment.
pub(super) type SegmentUse = (SegmentId, Generation);

/// A segment's extents that tables name: the rest is garbage.
pub(super) struct Looked {
    pub(super) live: Vec<FoundExtent>,
    /// The tables by which they are live.
    at: Version,
    /// What stays if only what is not clean stays.
    kept: Kept,
    live_bytes: u64,
    /// Bytes that the next checkpoint frees by itself.
    pub(super) coming_bytes: u64,
}

/// Extents of a segment that stay.
#[derive(Default, Clone, Copy)]
pub(super) struct Kept {
    live_bytes: u64,
    /// Bytes of their copies.
    pub(super) copy_bytes: u64,
    /// The longest of these.
    longest: u64,
}

impl Kept {
    fn add(&mut self, pointer: &Pointer) {
        let bytes = pointer.bytes_on_disk();
        let copy = if super::copy::is_long(pointer) { bytes.next_multiple_of(BLOCK) } else { bytes };
        self.live_bytes += bytes;
        self.copy_bytes += copy;
        self.longest = self.longest.max(copy);
    }
}

/// An extent, and the version of the tables that it was judged by.
pub(super) type JudgedExtent = (FoundExtent, Version);

/// What becomes of a segment.
#[derive(Default)]
pub(super) struct Judgement {
    pub(super) keep: Vec<JudgedExtent>,
    pub(super) drop: Vec<JudgedExtent>,
    pub(super) kept: Kept,
    /// Whether some of it stays only because it was read.
    pub(super) warm: bool,
}

/// What a segment gives if this much of it stays.
fn gain(shared: &Shared, wanted: Want, segment: SegmentId, live_bytes: u64, kept: Kept) -> u64 {
    match wanted {
        Want::Capacity(_) => live_bytes - kept.live_bytes,
        // Its file, less the copies; and where those of many segments lie behind each other, the room for one of
        // them is lost at a segment's end.
        Want::Disk(_) | Want::Compaction(_) => {
            shared.segments.file_bytes(segment).saturating_sub(kept.copy_bytes + kept.longest)
        }
    }
}

/// What is in a segment.
pub(super) fn look(shared: &Shared, (segment, generation): SegmentUse) -> Result<Looked, EvictError> {
    let mut found = Vec::new();
    shared.segments.scan(segment, &mut |extent| found.push(extent))?;
    let view = View::latest(&shared.keyspace);
    let (live, at, kept) = (Vec::new(), view.at(), Kept::default());
    let mut looked = Looked { live, at, kept, live_bytes: 0, coming_bytes: 0 };
    for extent in found {
        let key = blob_key(Table::Blob, extent.blob);
        let named = shared.keyspace.base.get(&key)?.as_deref().and_then(decode_pointer);
        if named != Some(extent.pointer) || extent.pointer.generation != generation {
            continue;
        }
        let bytes = extent.pointer.bytes_on_disk();
        if matches!(view.in_memory(RowKey::encoded(&key)), Some(None)) {
            // The checkpoint that says that it is gone takes the place with it.
            looked.coming_bytes += bytes;
            continue;
        }
        looked.live_bytes += bytes;
        if !may_go(shared, &view, extent.blob)? {
            looked.kept.add(&extent.pointer);
        }
        looked.live.push(extent);
    }
    Ok(looked)
}

impl Looked {
    /// What the segment gives if only what is not clean stays.
    pub(super) fn gain(&self, shared: &Shared, wanted: Want, segment: SegmentId) -> u64 {
        match self.live.is_empty() {
            // Nothing of it can be changed.
            true => 0,
            false => gain(shared, wanted, segment, self.live_bytes, self.kept),
        }
    }

    /// Step 1 of the head of `evict`. What is to be given up is `dropping` when this returns, also with an error.
    pub(super) fn judge(
        &self,
        shared: &Shared,
        wanted: Want,
        dropping: &mut Dropping<'_>,
    ) -> Result<Judgement, EvictError> {
        let evictor = &shared.evictor;
        let mut judged = Judgement::default();
        let mut warm_bytes = match wanted {
            Want::Capacity(_) => shared.segments.segment_bytes() / 100 * WARM_PERCENT,
            // Copies take room first.
            Want::Disk(_) | Want::Compaction(_) => 0,
        };
        for share in self.live.chunks(SHARE_EXTENTS) {
            let _alone = match evictor.gate.try_write() {
                Ok(alone) => alone,
                Err(_) => evictor.gate.blocking_write(),
            };
            let view = View::latest(&shared.keyspace);
            let dropped = judged.drop.len();
            for extent in share {
                let bytes = extent.pointer.bytes_on_disk();
                let warm = shared.recency.take(extent.blob) && bytes <= warm_bytes;
                let clean = may_go(shared, &view, extent.blob)?;
                if clean && !warm {
                    judged.drop.push((*extent, view.at()));
                    continue;
                }
                if clean {
                    warm_bytes -= bytes;
                    judged.warm = true;
                }
                judged.kept.add(&extent.pointer);
                judged.keep.push((*extent, view.at()));
            }
            dropping.extend(judged.drop[dropped..].iter().map(|(extent, _)| extent.blob));
        }
        Ok(judged)
    }

    /// All of it stays, whatever the origin holds: nobody is kept waiting for that, and nothing counts as read.
    pub(super) fn keep_all(&self) -> Judgement {
        let mut judged = Judgement::default();
        for extent in &self.live {
            judged.kept.add(&extent.pointer);
            judged.keep.push((*extent, self.at));
        }
        judged
    }

    /// What the segment gives if it becomes that of it.
    pub(super) fn gain_of(
        &self,
        shared: &Shared,
        wanted: Want,
        segment: SegmentId,
        judged: &Judgement,
    ) -> u64 {
        gain(shared, wanted, segment, self.live_bytes, judged.kept)
    }
}

/// Whether the blob may be given up for room, as of a view: the origin of a mount that stays holds it, and its bucket
/// is not one whose objects are kept.
fn may_go(shared: &Shared, view: &View, blob: BlobId) -> Result<bool, ViewError> {
    #[cfg(test)]
    if shared.evictor.sabotage.lock().skip_clean_rows {
        return Ok(true);
    }
    Ok(held_for(shared, view, blob)?.is_some_and(|bucket| !shared.keeps(bucket)))
}

/// The bucket of the object whose origin holds the blob, as of a view; `None` if no mount that stays has such an origin.
/// A clean blob is of one object, a mount of one bucket: the mount of the clean row says whose it is.
pub(super) fn held_for(shared: &Shared, view: &View, blob: BlobId) -> Result<Option<BucketId>, ViewError> {
    let row = view.get(RowKey::encoded(&blob_key(Table::Clean, blob)), false, true)?.flatten();
    let Some(mount) = row.as_deref().and_then(|row| row.first_chunk()).map(|n| u32::from_le_bytes(*n)) else {
        return Ok(None);
    };
    let recorded = shared.status.mounts.lock();
    let stays = recorded.iter().find(|(number, row)| *number == mount && !row.leaving && !row.local);
    let bucket = stays.map(|(_, row)| row.bucket);
    Ok(bucket.filter(|_| shared.fills.knows(mount) && *shared.evictor.leaving.lock() != Some(mount)))
}

/// Blobs that are about to be given up: who wants to hold one waits for the end of this.
pub(super) struct Dropping<'e> {
    evictor: &'e Evictor,
    blobs: Vec<BlobId>,
}

impl<'e> Dropping<'e> {
    pub(super) fn new(evictor: &'e Evictor) -> Dropping<'e> {
        Dropping { evictor, blobs: Vec::new() }
    }

    /// Under the gate.
    pub(super) fn extend(&mut self, blobs: impl Iterator<Item = BlobId>) {
        let from = self.blobs.len();
        self.blobs.extend(blobs);
        self.evictor.dropping.lock().extend(&self.blobs[from..]);
    }

    pub(super) fn take_over(&mut self, mut other: Dropping<'e>) {
        self.blobs.append(&mut other.blobs);
    }

    /// Nobody will ever know what became of them: the node stops.
    pub(super) fn leave_open(mut self) {
        self.blobs.clear();
        self.evictor.left_open.store(true, Release);
        self.evictor.dropped.notify_waiters();
    }
}

impl Drop for Dropping<'_> {
    fn drop(&mut self) {
        if self.blobs.is_empty() {
            return;
        }
        let mut all = self.evictor.dropping.lock();
        self.blobs.iter().for_each(|blob| {
            all.remove(blob);
        });
        drop(all);
        self.evictor.dropped.notify_waiters();
    }
}
