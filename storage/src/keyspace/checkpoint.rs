//! The checkpoint: a frozen memtable goes into the checkpoint store, in key order, in one commit that
//! also says up to which entry it reaches.
//!
//! Blobs that apply made are spilled to segments; of staged ones, whose bytes lie there already, it writes the
//! places down and says where the next start must look for those that it does not name.
//!
//! Places that are to change (`places.rs`) are committed with it, or, while it lacks space, given up: the extents
//! that they were to name may be what is in its way. An audit (`audit.rs`) follows what it commits.
//!
//! Order (PITFALLS 6, 12): blobs are appended to segments and synced; views older than the checkpoint are
//! waited for; the commit is announced; committed; the read cache forgets the keys; only then the frozen
//! memtable goes, then the entries of the place map, then dead segments. A segment counts as named from just before
//! the commit that names it; until then pins keep what it is to name. A crash at any point leaves the checkpoint
//! before, or the whole new one: what was spilled for a commit that never came is garbage beyond what the store names.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::blob::{
    BlobError, BlobId, Generation, Pointer, SegmentId, SegmentPin, SegmentStore, SegmentUsage,
};
use crate::keyspace::audit::{Audits, UsageDifference};
use crate::keyspace::base::{Base, BaseError, Change};
use crate::keyspace::memtable::{KeyBytes, RowKey};
use crate::keyspace::places::{self, Judged, PlaceChange, PlaceChanges};
use crate::keyspace::tables::{
    CHECKPOINT_KEY, CheckpointRow, SCAN_KEY, Table, blob_key, encode_scan, numbered_key, split_blob_key,
};
use crate::keyspace::{Frozen, Keyspace};
use crate::object::Version;

/// Page faults at once before a commit.
const TOUCH_THREADS: usize = 8;
/// How long a checkpoint waits for older views; they become too old then.
const VIEWS_WAIT: Duration = Duration::from_secs(10);

/// Why a checkpoint did not happen; nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl CheckpointError {
    /// Whether space is what is missing: worth trying again.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            CheckpointError::Base(error) => matches!(error, BaseError::Full { .. }),
            CheckpointError::Blob(error) => matches!(error, BlobError::NoSpace(_)),
        }
    }
}

/// Takes frozen memtables to the checkpoint store, one at a time.
pub(crate) struct Checkpointer {
    keyspace: Arc<Keyspace>,
    segments: Arc<SegmentStore>,
    live_bytes: AtomicU64,
    /// The same by use of a segment, and how many checkpoints have changed it. Held for a look, or an update.
    live: Mutex<BTreeMap<(SegmentId, Generation), u64>>,
    commits: AtomicU64,
    /// Places that are to change with the next checkpoint.
    pub(crate) places: PlaceChanges,
    pub(crate) audits: Audits,
    /// What an audit found wrong in usage rows.
    corrections: Mutex<Vec<UsageDifference>>,
    /// Of a try that ended for lack of space: its bodies are spilled and synced.
    prepared: Mutex<Option<Prepared>>,
}

/// The rows of a checkpoint, good for several tries to commit them.
struct Prepared {
    upto: Version,
    changes: Vec<Change>,
    usage: UsageChanges,
    staged: StagedChanges,
    /// Keeps what it has spilled.
    _spilled: Vec<SegmentPin>,
}

/// A checkpoint that only its commit is missing of.
struct Complete {
    /// In key order.
    changes: Vec<Change>,
    usage: UsageChanges,
    staged: StagedChanges,
    places: Vec<Judged>,
    /// Segments that nothing named before.
    named: Vec<SegmentId>,
}

impl Checkpointer {
    /// `usage`: the segments in use, as the store has them.
    pub(crate) fn new(
        keyspace: Arc<Keyspace>,
        segments: Arc<SegmentStore>,
        usage: &[SegmentUsage],
    ) -> Checkpointer {
        let live_bytes = AtomicU64::new(usage.iter().map(|usage| usage.live_bytes).sum());
        Checkpointer {
            keyspace,
            segments,
            live_bytes,
            live: Mutex::new(
                usage.iter().map(|usage| ((usage.segment, usage.generation), usage.live_bytes)).collect(),
            ),
            commits: AtomicU64::new(0),
            places: PlaceChanges::default(),
            audits: Audits::default(),
            corrections: Mutex::default(),
            prepared: Mutex::default(),
        }
    }

    /// Bytes of segments that rows point to.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    /// The same of each use of a segment that has any.
    pub(crate) fn live_bytes_by_segment(&self) -> BTreeMap<(SegmentId, Generation), u64> {
        self.live.lock().clone()
    }

    /// Checkpoints of this run.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// Has the next checkpoint put usage rows right.
    pub(crate) fn correct_usage(&self, differences: &[UsageDifference]) {
        self.corrections.lock().extend_from_slice(differences);
    }

    /// See the file's head. Blocks for the time of the writes and syncs. After a lack of space it may be
    /// called again with the same memtable: what was spilled stays good for the next try.
    pub(crate) fn run(&self, frozen: &Frozen, row: CheckpointRow) -> Result<(), CheckpointError> {
        let done = self.try_once(frozen, row);
        if done.as_ref().is_err_and(CheckpointError::is_full) {
            self.give_up(self.places.take_all());
        }
        done
    }

    fn try_once(&self, frozen: &Frozen, row: CheckpointRow) -> Result<(), CheckpointError> {
        let kept = self.prepared.lock().take().filter(|prepared| prepared.upto == frozen.upto);
        let mut prepared = match kept {
            Some(prepared) => prepared,
            None => self.prepare(frozen)?,
        };
        let keyspace = &*self.keyspace;
        if !keyspace.wait_for_views(frozen.upto, VIEWS_WAIT) {
            tracing::warn!("a read view outlived its time; it will answer an error");
        }
        let complete = self.complete(&mut prepared, frozen, row)?;
        keyspace.announce_commit(frozen.upto);
        self.audits.committing(&*keyspace.base, &complete.changes);
        let committed = keyspace.base.commit(&complete.changes);
        self.audits.committed(&*keyspace.base, &complete.changes, committed.is_ok());
        if let Err(error) = committed {
            match error {
                BaseError::Full { .. } => {
                    *self.prepared.lock() = Some(self.undo(complete, prepared));
                    // Free segments are of no use to the checkpoint store, but their bytes are.
                    self.segments.remove_spares();
                }
                // Perhaps it is on disk: until the process ends nothing that it names may be used again.
                BaseError::Failed(_) => std::mem::forget((complete, prepared)),
            }
            return Err(error.into());
        }
        let objects = complete.changes.iter().map(|(key, _)| key);
        let objects = objects.filter(|key| key.first() == Some(&(Table::Object as u8)));
        keyspace.cache.checkpointed(objects.map(|key| {
            let key = RowKey::encoded(key);
            (keyspace.hash(key), key)
        }));
        keyspace.drop_frozen();
        self.segments.forget_staged(&complete.staged.settled);
        self.retire(complete.usage);
        places::settle(complete.places);
        Ok(())
    }

    fn prepare(&self, frozen: &Frozen) -> Result<Prepared, CheckpointError> {
        let keyspace = &*self.keyspace;
        let keys = frozen.rows.all_keys();
        if keyspace.base.may_block() {
            touch_pages(&*keyspace.base, &keys);
        }
        let mut changes: Vec<Change> = Vec::with_capacity(keys.len() + 1);
        let mut blobs: Vec<(usize, BlobId, Arc<[u8]>)> = Vec::new();
        let mut freed: Vec<Pointer> = Vec::new();
        let mut staged = StagedChanges::default();
        for key in &keys {
            let row_key = RowKey::encoded(key);
            let Some(value) = frozen.rows.newest(keyspace.hash(row_key), row_key) else { continue };
            if key.first() != Some(&(Table::Blob as u8)) {
                changes.push((Arc::from(&key[..]), value));
                continue;
            }
            match (value, split_blob_key(key)) {
                (Some(bytes), Some(blob)) if bytes.is_empty() && blob.is_staged() => {
                    let Some(pointer) = self.place_of(blob)? else { continue };
                    staged.named.push((changes.len(), pointer));
                    staged.settle(blob, Some(pointer));
                }
                (Some(bytes), Some(blob)) => blobs.push((changes.len(), blob, bytes)),
                // Gone before it was ever spilled, or spilled once and gone now.
                (None, blob) => {
                    if let Some(blob) = blob.filter(|blob| blob.is_staged()) {
                        staged.settle(blob, self.segments.staged_pointer(blob));
                    }
                    match keyspace.base.get(key)?.as_deref().and_then(decode_pointer) {
                        Some(pointer) => freed.push(pointer),
                        None => continue,
                    }
                }
                (Some(_), None) => debug_assert!(false, "malformed blob key"),
            }
            changes.push((Arc::from(&key[..]), None));
        }
        let mut usage = UsageChanges::default();
        let spilled = self.spill(&blobs, &mut changes, &mut usage)?;
        for (at, pointer) in &staged.named {
            usage.note(&*keyspace.base, pointer, pointer.bytes_on_disk() as i64)?;
            changes[*at].1 = Some(Arc::from(&pointer.encode()[..]));
        }
        for pointer in &freed {
            usage.note(&*keyspace.base, pointer, -(pointer.bytes_on_disk() as i64))?;
        }
        Ok(Prepared { upto: frozen.upto, changes, usage, staged, _spilled: spilled })
    }

    /// The rows with the places that change now: what is taken here is committed with them or given up.
    fn complete(
        &self,
        prepared: &mut Prepared,
        frozen: &Frozen,
        row: CheckpointRow,
    ) -> Result<Complete, CheckpointError> {
        let keyspace = &*self.keyspace;
        let (mut usage, mut staged) = (prepared.usage.clone(), prepared.staged.clone());
        let mut changes = std::mem::take(&mut prepared.changes);
        let places = places::judge(keyspace, frozen, self.places.take(frozen.upto), self.places.judges())?;
        for (change, holds) in &places {
            // Brought back: from the commit on the tables say where. Only while its entry stands, and once: one that
            // ended with the blob was counted then, and to count it again would hide another of its segment.
            let stands = self.segments.staged_pointer(change.blob) == change.to;
            if change.from.is_none()
                && !staged.settled.contains(&change.blob)
                && change.to.is_some()
                && (stands || !self.places.asks_for_entries())
            {
                staged.settle(change.blob, change.to);
            }
            if !holds {
                continue;
            }
            if let Some(from) = &change.from {
                usage.note(&*keyspace.base, from, -(from.bytes_on_disk() as i64))?;
            }
            if let Some(to) = &change.to {
                usage.note(&*keyspace.base, to, to.bytes_on_disk() as i64)?;
            }
            let row = change.to.map(|to| Arc::from(&to.encode()[..]));
            changes.push((Arc::from(&blob_key(Table::Blob, change.blob)[..]), row));
        }
        for wrong in self.corrections.lock().drain(..) {
            usage.correct(&*keyspace.base, &wrong)?;
        }
        usage.push_rows(&mut changes);
        let alive = usage.segments.values().filter(|usage| usage.live_bytes > 0).map(|usage| usage.segment);
        let named = alive.filter(|segment| self.segments.set_named(*segment)).collect();
        changes.push((Arc::from(CHECKPOINT_KEY), Some(row.encode())));
        changes.push((Arc::from(SCAN_KEY), Some(encode_scan(&self.segments.to_scan(&staged.by_segment)))));
        changes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Complete { changes, usage, staged, places, named })
    }

    /// Nothing of it was committed: the rows may be tried again, the places are given up.
    fn undo(&self, complete: Complete, prepared: Prepared) -> Prepared {
        let Complete { mut changes, places, named, .. } = complete;
        named.into_iter().for_each(|segment| self.segments.unset_named(segment));
        let moved: HashSet<Vec<u8>> = places
            .iter()
            .filter(|(_, holds)| *holds)
            .map(|(change, _)| blob_key(Table::Blob, change.blob).to_vec())
            .collect();
        let added = |key: &[u8]| {
            key == CHECKPOINT_KEY
                || key == SCAN_KEY
                || key.first() == Some(&(Table::Usage as u8))
                || moved.contains(key)
        };
        changes.retain(|(key, _)| !added(key));
        self.give_up(places.into_iter().map(|(change, _)| change).collect());
        Prepared { changes, ..prepared }
    }

    /// Leaves places as they are: the extents that were to become them are free.
    fn give_up(&self, changes: Vec<PlaceChange>) {
        if changes.is_empty() {
            return;
        }
        let brought_back = changes
            .iter()
            .filter(|change| change.from.is_none() && self.segments.staged_pointer(change.blob) == change.to);
        let brought_back: Vec<BlobId> = brought_back.map(|change| change.blob).collect();
        self.segments.forget_staged(&brought_back);
        places::settle(changes.into_iter().map(|change| (change, false)).collect());
        self.segments.free_unused();
    }

    /// Where a staged blob lies that this checkpoint must name.
    fn place_of(&self, blob: BlobId) -> Result<Option<Pointer>, CheckpointError> {
        let place = self.segments.staged_pointer(blob);
        if place.is_none() && self.keyspace.base.get(&blob_key(Table::Blob, blob))?.is_none() {
            // Its bytes were lost from the disk. Whoever reads it is told so; everything else goes on.
            tracing::error!(?blob, "a staged body is in no segment: the disk has lost it");
        }
        Ok(place)
    }

    /// Appends bodies to segments, synced, and fills their places into the changes. Returns what keeps them.
    fn spill(
        &self,
        blobs: &[(usize, BlobId, Arc<[u8]>)],
        changes: &mut [Change],
        usage: &mut UsageChanges,
    ) -> Result<Vec<SegmentPin>, CheckpointError> {
        if blobs.is_empty() {
            return Ok(Vec::new());
        }
        let mut writer = self.segments.spill();
        for (at, blob, bytes) in blobs {
            let pointer = writer.push(*blob, bytes)?;
            usage.note(&*self.keyspace.base, &pointer, pointer.bytes_on_disk() as i64)?;
            changes[*at].1 = Some(Arc::from(&pointer.encode()[..]));
        }
        Ok(writer.finish()?)
    }

    /// Frees segments that hold nothing any more, as far as nobody has them pinned; the others when they have
    /// been let go of and somebody looks for them again, the next checkpoint at the latest.
    fn retire(&self, usage: UsageChanges) {
        self.live_bytes.store((self.live_bytes() as i64 + usage.delta).max(0) as u64, Ordering::Relaxed);
        {
            let mut live = self.live.lock();
            for usage in usage.segments.values() {
                let of = (usage.segment, usage.generation);
                match usage.live_bytes {
                    0 => live.remove(&of),
                    bytes => live.insert(of, bytes),
                };
            }
        }
        self.commits.fetch_add(1, Ordering::Release);
        for dead in usage.segments.values().filter(|usage| usage.live_bytes == 0) {
            match self.segments.recycle(dead.segment, dead.generation) {
                Ok(()) | Err(BlobError::InUse { .. }) => {}
                Err(error) => tracing::warn!(%error, "a dead segment stays until the next start"),
            }
        }
        self.segments.free_unused();
    }
}

/// What a checkpoint does to the staged blobs of its rows.
#[derive(Clone, Default)]
struct StagedChanges {
    /// Which change gets which place.
    named: Vec<(usize, Pointer)>,
    /// Their entries in the place map end with the commit: it names them, or their rows are gone.
    settled: Vec<BlobId>,
    by_segment: BTreeMap<SegmentId, u64>,
}

impl StagedChanges {
    fn settle(&mut self, blob: BlobId, place: Option<Pointer>) {
        let Some(pointer) = place else { return };
        self.settled.push(blob);
        *self.by_segment.entry(pointer.segment).or_default() += 1;
    }
}

/// Brings the pages that the commit will change into memory, many at once: LMDB would fault them in one by
/// one on the writing thread.
fn touch_pages(base: &dyn Base, keys: &[KeyBytes]) {
    let share = keys.len().div_ceil(TOUCH_THREADS).max(1);
    std::thread::scope(|scope| {
        for keys in keys.chunks(share) {
            scope.spawn(move || {
                for key in keys {
                    // Only the page fault is wanted; the commit meets an error again.
                    let _ = base.get(key);
                }
            });
        }
    });
}

/// The segments in use, as the checkpoint store has them.
pub(crate) fn read_usage(base: &dyn Base) -> Result<Vec<SegmentUsage>, BaseError> {
    let from = [Table::Usage as u8];
    let rows = base.range(Bound::Included(&from), &Keyspace::table_end(Table::Usage), usize::MAX)?;
    let decode = |row: &[u8]| row.first_chunk().map(SegmentUsage::decode);
    Ok(rows.iter().filter_map(|(_, row)| decode(row)).collect())
}

/// The place that a blob row names.
pub(crate) fn decode_pointer(row: &[u8]) -> Option<Pointer> {
    row.first_chunk().map(Pointer::decode)
}

#[derive(Clone, Default)]
struct UsageChanges {
    segments: BTreeMap<SegmentId, SegmentUsage>,
    delta: i64,
}

impl UsageChanges {
    fn note(&mut self, base: &dyn Base, pointer: &Pointer, by: i64) -> Result<(), BaseError> {
        use std::collections::btree_map::Entry;
        let usage = match self.segments.entry(pointer.segment) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let row = base.get(&numbered_key(Table::Usage, pointer.segment.0))?;
                let known = row.as_deref().and_then(|row| row.first_chunk()).map(SegmentUsage::decode);
                let fresh =
                    SegmentUsage { segment: pointer.segment, generation: pointer.generation, live_bytes: 0 };
                entry.insert(known.filter(|k| k.generation == pointer.generation).unwrap_or(fresh))
            }
        };
        usage.live_bytes = usage.live_bytes.saturating_add_signed(by);
        self.delta += by;
        Ok(())
    }

    /// By the difference: the row may have changed since.
    fn correct(&mut self, base: &dyn Base, wrong: &UsageDifference) -> Result<(), BaseError> {
        let row = base.get(&numbered_key(Table::Usage, wrong.segment.0))?;
        let row = row.as_deref().and_then(|row| row.first_chunk()).map(SegmentUsage::decode);
        if row.is_some_and(|row| row.generation != wrong.generation) {
            // Used anew since, or what is wrong is the places.
            return Ok(());
        }
        let (segment, generation) = (wrong.segment, wrong.generation);
        let place = Pointer { segment, offset: 0, generation, length: 0 };
        self.note(base, &place, wrong.counted as i64 - wrong.recorded as i64)
    }

    fn push_rows(&self, changes: &mut Vec<Change>) {
        for (segment, usage) in &self.segments {
            let row = (usage.live_bytes > 0).then(|| Arc::from(&usage.encode()[..]));
            changes.push((Arc::from(&numbered_key(Table::Usage, segment.0)[..]), row));
        }
    }
}
