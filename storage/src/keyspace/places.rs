//! Changes of where blobs lie: an extent copied elsewhere, given up, or brought back. Queued here, committed by a
//! checkpoint, and by nothing else.
//!
//! Owns the queue, and the judgement of each change against what the checkpoint is about to hold. Does not own
//! the decision that a change is wanted (`evict/`, `fill/`).
//!
//! What must hold (PITFALLS 12):
//! - A change is a compare-and-set: it happens only if the blob's place is still the one that it was decided on.
//! - It is committed with a state of the tables that is not older than the one by which it was decided. So a
//!   place is dropped in the very commit that says that the origin has the bytes, or a later one.
//! - A place is dropped, and one is brought back, only while the committed state marks the blob as clean.
//!
//! A checkpoint that lacks space gives all of them up: nobody may count on a change before its batch is settled.
//!
//! A crash leaves the old places or the new ones. Extents of changes that were not committed are garbage.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::base::BaseError;
use super::checkpoint::decode_pointer;
use super::memtable::{RowKey, Value};
use super::tables::{Table, blob_key};
use super::{Frozen, Keyspace};
use crate::blob::{BlobId, Pointer, SegmentPin};
use crate::object::Version;

/// One change.
pub(crate) struct PlaceChange {
    pub(crate) blob: BlobId,
    /// Where it lies; `None`: not on this node.
    pub(crate) from: Option<Pointer>,
    /// Where it will lie: durable by now.
    pub(crate) to: Option<Pointer>,
    /// The version of the tables that it was decided by.
    pub(crate) decided_at: Version,
    /// Keeps the new extent until the tables name it.
    pub(crate) _pin: Option<SegmentPin>,
    /// Told when it is committed, or was found to be out of date.
    pub(crate) batch: Option<Arc<Batch>>,
}

/// Changes that somebody waits for together.
#[derive(Default)]
pub(crate) struct Batch {
    state: Mutex<BatchState>,
    settled: Condvar,
}

/// How far a batch is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BatchState {
    /// Changes that no checkpoint has committed or given up yet.
    pub(crate) open: usize,
    /// Bytes whose places were dropped.
    pub(crate) dropped_bytes: u64,
    /// Bytes that lie elsewhere now.
    pub(crate) moved_bytes: u64,
}

impl Batch {
    /// Waits until every change is settled, or the time is over.
    pub(crate) fn wait(&self, limit: Duration) -> BatchState {
        let until = Instant::now() + limit;
        let mut state = self.state.lock();
        while state.open > 0 && !self.settled.wait_until(&mut state, until).timed_out() {}
        *state
    }

    fn settle(&self, change: &PlaceChange, committed: bool) {
        let mut state = self.state.lock();
        state.open = state.open.saturating_sub(1);
        let bytes = change.from.as_ref().map_or(0, Pointer::bytes_on_disk);
        match (committed, change.to) {
            (false, _) => {}
            (true, None) => state.dropped_bytes += bytes,
            (true, Some(_)) => state.moved_bytes += bytes,
        }
        if state.open == 0 {
            self.settled.notify_all();
        }
    }
}

/// See the file's head.
#[derive(Default)]
pub(crate) struct PlaceChanges {
    /// Held for a push, or for taking all of it. Bounded by what its users have under way: eight segments of an
    /// eviction, and fills as admission lets them in.
    queue: Mutex<Queue>,
    /// Drops places without a look at the clean rows: for the test that must notice.
    #[cfg(test)]
    pub(crate) unjudged: std::sync::atomic::AtomicBool,
    /// Counts every place that was brought back as one more entry that ends: likewise.
    #[cfg(test)]
    pub(crate) entries_unasked: std::sync::atomic::AtomicBool,
}

#[derive(Default)]
struct Queue {
    changes: Vec<PlaceChange>,
    since: Option<Instant>,
}

impl PlaceChanges {
    pub(crate) fn push(&self, changes: impl IntoIterator<Item = PlaceChange>) {
        let mut queue = self.queue.lock();
        for change in changes {
            if let Some(batch) = &change.batch {
                batch.state.lock().open += 1;
            }
            queue.changes.push(change);
        }
        queue.since.get_or_insert_with(Instant::now);
    }

    /// Whether changes have waited for a checkpoint for longer than this.
    pub(crate) fn wait_longer_than(&self, limit: Duration) -> bool {
        let queue = self.queue.lock();
        !queue.changes.is_empty() && queue.since.is_some_and(|since| since.elapsed() > limit)
    }

    /// Whether changes are judged by the clean rows.
    pub(super) fn judges(&self) -> bool {
        #[cfg(test)]
        if self.unjudged.load(std::sync::atomic::Ordering::Relaxed) {
            return false;
        }
        true
    }

    /// Whether the place map is asked for the entry of a place that was brought back.
    pub(super) fn asks_for_entries(&self) -> bool {
        #[cfg(test)]
        if self.entries_unasked.load(std::sync::atomic::Ordering::Relaxed) {
            return false;
        }
        true
    }

    /// Takes all of them, to be given up.
    pub(super) fn take_all(&self) -> Vec<PlaceChange> {
        let mut queue = self.queue.lock();
        queue.since = None;
        std::mem::take(&mut queue.changes)
    }

    /// Takes what may be committed with a state of the tables up to `upto`.
    pub(super) fn take(&self, upto: Version) -> Vec<PlaceChange> {
        let mut queue = self.queue.lock();
        let (due, later) =
            std::mem::take(&mut queue.changes).into_iter().partition(|it| it.decided_at <= upto);
        queue.changes = later;
        queue.since = (!queue.changes.is_empty()).then(Instant::now);
        due
    }
}

/// A change, and whether the checkpoint that is being prepared makes it.
pub(super) type Judged = (PlaceChange, bool);

/// Judges changes by the state of the tables that `frozen` over the checkpoint store makes; whether the blobs are
/// clean only if it `judges`, as ever but in a test.
pub(super) fn judge(
    keyspace: &Keyspace,
    frozen: &Frozen,
    changes: Vec<PlaceChange>,
    judges: bool,
) -> Result<Vec<Judged>, BaseError> {
    let mut seen = BTreeSet::new();
    let mut judged = Vec::with_capacity(changes.len());
    for change in changes {
        let holds = seen.insert(change.blob) && holds(keyspace, frozen, &change, judges)?;
        judged.push((change, holds));
    }
    Ok(judged)
}

fn holds(
    keyspace: &Keyspace,
    frozen: &Frozen,
    change: &PlaceChange,
    judges: bool,
) -> Result<bool, BaseError> {
    let in_frozen = |key: &[u8]| -> Option<Value> {
        let key = RowKey::encoded(key);
        frozen.rows.newest(keyspace.hash(key), key)
    };
    let place = blob_key(Table::Blob, change.blob);
    if in_frozen(&place).is_some() {
        // Gone with this checkpoint.
        return Ok(false);
    }
    if keyspace.base.get(&place)?.as_deref().and_then(decode_pointer) != change.from {
        return Ok(false);
    }
    if change.from.is_some() && change.to.is_some() || !judges {
        return Ok(true);
    }
    let clean = blob_key(Table::Clean, change.blob);
    let clean = match in_frozen(&clean) {
        Some(row) => row,
        None => keyspace.base.get(&clean)?,
    };
    Ok(clean.is_some())
}

/// Tells whoever waits. The changes' pins end with them.
pub(super) fn settle(judged: Vec<Judged>) {
    for (change, committed) in &judged {
        if let Some(batch) = &change.batch {
            batch.settle(change, *committed);
        }
    }
}
