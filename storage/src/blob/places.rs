//! The place map: where the staged blobs of this node lie that no checkpoint names yet.
//!
//! Owns an entry for each of them, from the reservation of its extent until the checkpoint that names it has
//! committed, or the blob is given up. An entry pins its segment. In memory only: a start finds the extents
//! again by a scan (PITFALLS 12).

use super::segment::StagePin;
use super::{BlobId, Pointer, SegmentPin};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the file's head.
#[derive(Default)]
pub(super) struct Places {
    /// Held for a look-up only.
    map: Mutex<HashMap<BlobId, Place, RandomState>>,
    bytes: AtomicU64,
}

struct Place {
    pointer: Pointer,
    pin: StagePin,
}

impl Places {
    pub(super) fn insert(&self, blob: BlobId, pointer: Pointer, pin: StagePin) {
        self.bytes.fetch_add(pointer.bytes_on_disk(), Ordering::Relaxed);
        let before = self.map.lock().insert(blob, Place { pointer, pin });
        if let Some(before) = before {
            self.bytes.fetch_sub(before.pointer.bytes_on_disk(), Ordering::Relaxed);
        }
    }

    pub(super) fn pointer_of(&self, blob: BlobId) -> Option<Pointer> {
        self.map.lock().get(&blob).map(|place| place.pointer)
    }

    pub(super) fn pinned(&self, blob: BlobId) -> Option<(Pointer, SegmentPin)> {
        self.map.lock().get(&blob).map(|place| (place.pointer, place.pin.for_reading()))
    }

    /// Removes entries; whether there was any of them.
    pub(super) fn forget(&self, blobs: &[BlobId]) -> bool {
        let mut forgotten = Vec::with_capacity(blobs.len());
        let mut map = self.map.lock();
        forgotten.extend(blobs.iter().filter_map(|blob| map.remove(blob)));
        drop(map);
        let bytes: u64 = forgotten.iter().map(|place| place.pointer.bytes_on_disk()).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        !forgotten.is_empty()
    }

    pub(super) fn blobs(&self) -> Vec<BlobId> {
        self.map.lock().keys().copied().collect()
    }

    /// Bytes of their extents.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}
