//! Eviction: room is made by giving up bytes that the origin holds, segment by segment, oldest first.
//!
//! Owns when room is wanted, which segments go, what of them is kept, and the thread that does it. `hold` keeps
//! what is about to be built on; `recency` says what was read. Does not own what is clean (`apply/clean.rs`), nor
//! the places themselves: a checkpoint commits them (`keyspace/places.rs`).
//!
//! What must hold: a byte that the origin does not hold, or that something which is not there is being built on,
//! is never given up. The order of one segment:
//! 1. Under [`Evictor::gate`] nobody holds, or is about to hold, bytes that were judged before (`hold.rs`). There
//!    each extent is judged by the newest clean rows. What is to be given up is *dropping* from here on: who wants
//!    to hold it waits for the end, and then finds that it is not here.
//! 2. What stays (dirty, local, shared, held, of a bucket that is kept, or read since the last look) is copied to other segments, and synced.
//! 3. The next checkpoint commits new and dropped places, judging each once more by what it commits. Until then the
//!    old places are good for everybody.
//! 4. Only then the segment is used again, once its last reader has gone.
//!
//! A crash leaves the old places or the new ones.

mod hold;
mod recency;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, RwLock};

use crate::blob::{BlobError, FoundExtent, Generation, Pointer, SegmentId, SegmentPin};
use crate::error::Error;
use crate::keyspace::base::BaseError;
use crate::keyspace::checkpoint::decode_pointer;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::places::{Batch, BatchState, PlaceChange};
use crate::keyspace::tables::{Table, blob_key};
use crate::keyspace::view::{View, ViewError};
use crate::object::{BlobId, BucketId};
use crate::store::Shared;

pub(crate) use hold::{bring_all_back, submit_held};
pub(crate) use recency::Recency;

/// Share of `capacity` at which room is made, and down to which, in percent. Closer together: smaller rounds, and
/// more of them.
const HIGH_PERCENT: u64 = 90;
const LOW_PERCENT: u64 = 85;
/// Segments of one round: their places change with one checkpoint.
const ROUND_SEGMENTS: usize = 8;
/// A segment goes only if this share of it becomes free, and if none does, the second.
const GAIN_PERCENT: [u64; 2] = [12, 1];
/// Share of a segment that is copied forward only because it was read.
const WARM_PERCENT: u64 = 50;
/// Extents up to this length are copied many at a time.
const SMALL_BYTES: u64 = 1 << 20;
/// Bytes of small extents that are copied under one sync.
const SPILL_BYTES: u64 = 8 << 20;
/// Bytes read at a time of longer ones.
const COPY_BYTES: u64 = 1 << 20;
/// Pause between looks at how full the store is; a refused write looks at once.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest pause after rounds that found nothing.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long places may wait for a checkpoint that nobody else asks for.
const PLACES_WAIT: Duration = Duration::from_secs(5);
/// How long an upload counts as a sign that more will follow.
const TAKES_AGE: Duration = Duration::from_secs(2);
/// Longest wait for a checkpoint before its state is looked at again.
const COMMIT_LOOK: Duration = Duration::from_millis(100);

/// What eviction has done since the start, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EvictCounts {
    /// Given up because of `capacity`.
    pub(crate) for_capacity: u64,
    /// Given up because the file system was nearly full.
    pub(crate) for_disk: u64,
    /// Copied to other segments.
    pub(crate) copied: u64,
}

/// Rules taken away, for the test that must notice.
#[cfg(test)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sabotage {
    /// Everything counts as clean.
    pub(crate) skip_clean_rows: bool,
    /// Segments are used again at once.
    pub(crate) recycle_first: bool,
}

/// See the file's head. One per store; its thread, if it has one, is a [`EvictThread`].
#[derive(Default)]
pub(crate) struct Evictor {
    /// Held shared by whoever holds bytes, from its look at them until the log has it; exclusively by the judgement.
    gate: RwLock<()>,
    /// Blobs whose places are to be dropped by the next checkpoint. Held for a look-up only.
    dropping: Mutex<HashSet<BlobId, foldhash::fast::RandomState>>,
    /// Told when it gets shorter.
    dropped: Notify,
    /// Mounts that are about to be forgotten: their origins count as holding nothing.
    leaving: Mutex<BTreeSet<u32>>,
    /// Whether the last round found nothing to give up.
    barren: AtomicBool,
    holders: hold::Holders,
    /// Held while places are decided on, until the checkpoint has settled them: one round at a time.
    rounds: Mutex<()>,
    /// What the origins have taken, and when that last grew.
    taken: Mutex<(u64, Option<Instant>)>,
    nudged: Mutex<bool>,
    nudge: Condvar,
    for_capacity: AtomicU64,
    for_disk: AtomicU64,
    copied: AtomicU64,
    #[cfg(test)]
    pub(crate) sabotage: Mutex<Sabotage>,
}

/// Why room is wanted, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// So many bytes over the mark.
    Capacity(u64),
    /// The file system should have so many bytes more.
    Disk(u64),
}

impl Want {
    fn bytes(self) -> u64 {
        match self {
            Want::Capacity(bytes) | Want::Disk(bytes) => bytes,
        }
    }
}

/// What became of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// There is room.
    Idle,
    /// Room is wanted, and nothing can be given up.
    Barren,
    /// Some was made.
    Made,
}

/// Why a round ended early; nothing is lost by it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EvictError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Copy(#[from] Error),
}

/// A segment's extents that tables name: the rest is garbage.
struct Looked {
    live: Vec<FoundExtent>,
    /// Bytes that stay if only what may not go stays.
    kept_bytes: u64,
    live_bytes: u64,
}

impl Evictor {
    pub(crate) fn counts(&self) -> EvictCounts {
        EvictCounts {
            for_capacity: self.for_capacity.load(Relaxed),
            for_disk: self.for_disk.load(Relaxed),
            copied: self.copied.load(Relaxed),
        }
    }

    /// Whether the last round that was wanted found nothing to give up.
    pub(crate) fn is_barren(&self) -> bool {
        self.barren.load(Relaxed)
    }

    /// Whether an origin has taken something lately.
    pub(crate) fn origin_takes_bytes(&self) -> bool {
        self.taken.lock().1.is_some_and(|at| at.elapsed() < TAKES_AGE)
    }

    fn note_taken(&self, total: u64) {
        let mut taken = self.taken.lock();
        if total > taken.0 {
            *taken = (total, Some(Instant::now()));
        }
    }

    /// Has the thread look now.
    pub(crate) fn nudge(&self) {
        let mut nudged = self.nudged.lock();
        if !std::mem::replace(&mut *nudged, true) {
            self.nudge.notify_all();
        }
    }

    /// From here on nothing more is given up to this mount's origin; returns when nothing is on its way out. Undone
    /// by [`Evictor::stay`].
    pub(crate) async fn leave(&self, mount: u32) {
        {
            let _judged = self.gate.write().await;
            self.leaving.lock().insert(mount);
        }
        self.wait_dropped(|dropping| dropping.is_empty()).await;
    }

    /// The mount stays after all, or is gone.
    pub(crate) fn stay(&self, mount: u32) {
        self.leaving.lock().remove(&mount);
    }

    async fn wait_dropped(&self, done: impl Fn(&HashSet<BlobId, foldhash::fast::RandomState>) -> bool) {
        loop {
            let told = self.dropped.notified();
            tokio::pin!(told);
            // Before the look: what happens in between counts.
            told.as_mut().enable();
            if done(&self.dropping.lock()) {
                return;
            }
            told.await;
        }
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
fn held_for(shared: &Shared, view: &View, blob: BlobId) -> Result<Option<BucketId>, ViewError> {
    let row = view.get(RowKey::encoded(&blob_key(Table::Clean, blob)), false, true)?.flatten();
    let Some(mount) = row.as_deref().and_then(|row| row.first_chunk()).map(|n| u32::from_le_bytes(*n)) else {
        return Ok(None);
    };
    let recorded = shared.status.mounts.lock();
    let stays = recorded.iter().find(|(number, row)| *number == mount && !row.leaving && !row.local);
    let bucket = stays.map(|(_, row)| row.bucket);
    Ok(bucket.filter(|_| shared.fills.knows(mount) && !shared.evictor.leaving.lock().contains(&mount)))
}

fn want(shared: &Shared) -> Option<Want> {
    let (capacity, stored) = (shared.limits.capacity_bytes, shared.stored_bytes());
    let promised = shared.stager.promised_bytes().min(capacity / 8);
    if stored + promised > capacity / 100 * HIGH_PERCENT {
        return Some(Want::Capacity((stored + promised).saturating_sub(capacity / 100 * LOW_PERCENT)));
    }
    let (room, reserve) = shared.disk_room()?;
    // A segment more than the reserve: writers open theirs beside it.
    let least = reserve + 2 * shared.segments.segment_bytes();
    (room < least).then(|| Want::Disk(least - room))
}

/// One round: looks whether room is wanted, and makes some. Blocks, also for a checkpoint: `wait` returns when the
/// batch is settled, or false if it never will be.
pub(crate) fn round(shared: &Arc<Shared>, wait: &dyn Fn(&Batch) -> bool) -> Result<Round, EvictError> {
    let evictor = &shared.evictor;
    if shared.checkpointer.places.wait_longer_than(PLACES_WAIT) {
        shared.status.checkpoint_wanted.store(true, Relaxed);
    }
    match want(shared) {
        Some(wanted) => make_room(shared, wanted, wait),
        None => {
            evictor.barren.store(false, Relaxed);
            Ok(Round::Idle)
        }
    }
}

fn make_room(shared: &Arc<Shared>, wanted: Want, wait: &dyn Fn(&Batch) -> bool) -> Result<Round, EvictError> {
    let evictor = &shared.evictor;
    let _round = evictor.rounds.lock();
    let batch = Arc::new(Batch::default());
    let mut dropping = Vec::new();
    let made = GAIN_PERCENT.iter().try_fold(0, |made, gain| match made {
        0 => begin(shared, wanted, *gain, &batch, &mut dropping),
        made => Ok(made),
    });
    let settled = if dropping.is_empty() && made.as_ref().is_ok_and(|made| *made == 0) {
        None
    } else {
        shared.status.checkpoint_wanted.store(true, Relaxed);
        Some(wait(&batch))
    };
    if settled != Some(false) {
        let mut all = evictor.dropping.lock();
        dropping.iter().for_each(|blob| {
            all.remove(blob);
        });
        drop(all);
        evictor.dropped.notify_waiters();
    }
    let BatchState { dropped_bytes, moved_bytes, .. } = batch.wait(Duration::ZERO);
    let counter = if let Want::Capacity(_) = wanted { &evictor.for_capacity } else { &evictor.for_disk };
    counter.fetch_add(dropped_bytes, Relaxed);
    evictor.copied.fetch_add(moved_bytes, Relaxed);
    shared.segments.free_unused();
    let made = made?;
    evictor.barren.store(made == 0, Relaxed);
    Ok(if made == 0 { Round::Barren } else { Round::Made })
}

/// Gives up places whose bytes are damaged, of blobs that the origin of a mount that stays holds; returns those that
/// were. Blocks, also for a checkpoint: `wait` as for a round.
pub(crate) fn give_up(
    shared: &Arc<Shared>,
    places: &[(BlobId, Pointer)],
    wait: &dyn Fn(&Batch) -> bool,
) -> Result<Vec<BlobId>, EvictError> {
    let evictor = &shared.evictor;
    let _round = evictor.rounds.lock();
    let mut dropping = Vec::with_capacity(places.len());
    let decided_at = {
        let _alone = match evictor.gate.try_write() {
            Ok(alone) => alone,
            Err(_) => evictor.gate.blocking_write(),
        };
        let view = View::latest(&shared.keyspace);
        for (blob, place) in places {
            if held_for(shared, &view, *blob)?.is_some() {
                dropping.push((*blob, *place));
            }
        }
        evictor.dropping.lock().extend(dropping.iter().map(|(blob, _)| *blob));
        view.at()
    };
    // A batch each: a change that comes too late must not count as made.
    let batches: Vec<Arc<Batch>> = dropping.iter().map(|_| Arc::default()).collect();
    let changes = dropping.iter().zip(&batches).map(|((blob, place), batch)| PlaceChange {
        blob: *blob,
        from: Some(*place),
        to: None,
        decided_at,
        _pin: None,
        batch: Some(batch.clone()),
    });
    shared.checkpointer.places.push(changes);
    shared.status.checkpoint_wanted.store(true, Relaxed);
    if !batches.iter().all(|batch| wait(batch)) {
        return Ok(Vec::new());
    }
    let mut all = evictor.dropping.lock();
    dropping.iter().for_each(|(blob, _)| {
        all.remove(blob);
    });
    drop(all);
    evictor.dropped.notify_waiters();
    shared.segments.free_unused();
    let given_up =
        dropping.iter().zip(&batches).filter(|(_, batch)| batch.wait(Duration::ZERO).dropped_bytes > 0);
    Ok(given_up.map(|((blob, _), _)| *blob).collect())
}

/// Queues the changes of as many segments as are needed; returns the bytes that become free.
fn begin(
    shared: &Arc<Shared>,
    wanted: Want,
    gain_percent: u64,
    batch: &Arc<Batch>,
    dropping: &mut Vec<BlobId>,
) -> Result<u64, EvictError> {
    let (mut made, mut segments) = (0, 0);
    for (segment, generation) in shared.segments.settled() {
        if made >= wanted.bytes() || segments == ROUND_SEGMENTS {
            break;
        }
        // What a checkpoint frees meanwhile can be read to the end.
        let Some(_pin) = shared.segments.pin_use(segment, generation) else { continue };
        let looked = look(shared, segment, generation)?;
        let gained = match wanted {
            Want::Capacity(_) => looked.live_bytes - looked.kept_bytes,
            Want::Disk(_) => shared.segments.segment_bytes().saturating_sub(looked.kept_bytes),
        };
        if gained * 100 < shared.segments.segment_bytes() * gain_percent {
            continue;
        }
        match empty(shared, wanted, &looked, (segment, generation), batch, dropping) {
            Ok(bytes) => {
                made += bytes;
                segments += 1;
            }
            // No room for the copies: another segment may need fewer.
            Err(EvictError::Blob(BlobError::NoSpace(_)) | EvictError::Copy(Error::Full(_))) => {}
            // What cannot be read cannot be moved; the others can.
            Err(EvictError::Blob(error @ (BlobError::Corrupt { .. } | BlobError::Stale { .. }))) => {
                tracing::error!(%error, "a segment cannot be emptied");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(made)
}

/// What is in a segment, and what of it would stay.
fn look(shared: &Shared, segment: SegmentId, generation: Generation) -> Result<Looked, EvictError> {
    let mut found = Vec::new();
    shared.segments.scan(segment, &mut |extent| found.push(extent))?;
    let mut looked = Looked { live: Vec::new(), kept_bytes: 0, live_bytes: 0 };
    let view = View::latest(&shared.keyspace);
    for extent in found {
        let key = blob_key(Table::Blob, extent.blob);
        let named = shared.keyspace.base.get(&key)?.as_deref().and_then(decode_pointer);
        // Gone: the checkpoint that says so takes the place with it.
        let gone = matches!(view.in_memory(RowKey::encoded(&key)), Some(None));
        if named != Some(extent.pointer) || extent.pointer.generation != generation || gone {
            continue;
        }
        let bytes = extent.pointer.bytes_on_disk();
        looked.live_bytes += bytes;
        looked.kept_bytes += if may_go(shared, &view, extent.blob)? { 0 } else { bytes };
        looked.live.push(extent);
    }
    Ok(looked)
}

/// Steps 1 and 2 of the file's head, and the queueing of step 3; returns the bytes that become free.
fn empty(
    shared: &Arc<Shared>,
    wanted: Want,
    looked: &Looked,
    _segment: (SegmentId, Generation),
    batch: &Arc<Batch>,
    dropping: &mut Vec<BlobId>,
) -> Result<u64, EvictError> {
    let evictor = &shared.evictor;
    let mut keep: Vec<FoundExtent> = Vec::new();
    let mut drop_now: Vec<FoundExtent> = Vec::new();
    let (decided_at, gained);
    {
        let _alone = match evictor.gate.try_write() {
            Ok(alone) => alone,
            Err(_) => evictor.gate.blocking_write(),
        };
        let view = View::latest(&shared.keyspace);
        decided_at = view.at();
        let mut warm_bytes = match wanted {
            Want::Capacity(_) => shared.segments.segment_bytes() / 100 * WARM_PERCENT,
            // Copies take room first.
            Want::Disk(_) => 0,
        };
        for extent in &looked.live {
            let bytes = extent.pointer.bytes_on_disk();
            let warm = shared.recency.take(extent.blob) && bytes <= warm_bytes;
            if !may_go(shared, &view, extent.blob)? {
                keep.push(*extent);
            } else if warm {
                warm_bytes -= bytes;
                keep.push(*extent);
            } else {
                drop_now.push(*extent);
            }
        }
        let bytes_of = |extents: &[FoundExtent]| -> u64 {
            extents.iter().map(|extent| extent.pointer.bytes_on_disk()).sum()
        };
        gained = match wanted {
            Want::Capacity(_) => bytes_of(&drop_now),
            Want::Disk(_) => shared.segments.segment_bytes().saturating_sub(bytes_of(&keep)),
        };
        // All of it was read lately: it may go at the next look.
        if gained == 0 {
            return Ok(0);
        }
        let mut all = evictor.dropping.lock();
        all.extend(drop_now.iter().map(|extent| extent.blob));
    }
    #[cfg(test)]
    if evictor.sabotage.lock().recycle_first {
        let (segment, generation) = _segment;
        let _ = shared.segments.recycle(segment, generation);
    }
    let copied = match copy(shared, &keep) {
        Ok(copied) => copied,
        Err(error) => {
            let mut all = evictor.dropping.lock();
            drop_now.iter().for_each(|extent| {
                all.remove(&extent.blob);
            });
            drop(all);
            evictor.dropped.notify_waiters();
            return Err(error);
        }
    };
    dropping.extend(drop_now.iter().map(|extent| extent.blob));
    let change = |from: &FoundExtent, to: Option<(Pointer, SegmentPin)>| {
        let (to, pin) = to.unzip();
        PlaceChange {
            blob: from.blob,
            from: Some(from.pointer),
            to,
            decided_at,
            _pin: pin,
            batch: Some(batch.clone()),
        }
    };
    let moved = keep.iter().zip(copied).map(|(from, to)| change(from, Some(to)));
    shared.checkpointer.places.push(moved.chain(drop_now.iter().map(|from| change(from, None))));
    Ok(gained)
}

/// Copies extents to other segments, each checked while it is read; the copies are synced and pinned.
fn copy(shared: &Arc<Shared>, extents: &[FoundExtent]) -> Result<Vec<(Pointer, SegmentPin)>, EvictError> {
    let mut copies: Vec<Option<(Pointer, SegmentPin)>> = Vec::new();
    copies.resize_with(extents.len(), || None);
    let mut small: Vec<usize> = Vec::new();
    let mut small_bytes = 0;
    for (number, extent) in extents.iter().enumerate() {
        if extent.pointer.length > SMALL_BYTES {
            let (pointer, pin) = wait_for(copy_long(shared, extent))?;
            copies[number] = Some((pointer, pin));
            continue;
        }
        small.push(number);
        small_bytes += extent.pointer.length;
        if small_bytes > SPILL_BYTES {
            copy_small(shared, extents, &small, &mut copies)?;
            small.clear();
            small_bytes = 0;
        }
    }
    copy_small(shared, extents, &small, &mut copies)?;
    Ok(copies.into_iter().flatten().collect())
}

fn copy_small(
    shared: &Shared,
    extents: &[FoundExtent],
    numbers: &[usize],
    copies: &mut [Option<(Pointer, SegmentPin)>],
) -> Result<(), EvictError> {
    if numbers.is_empty() {
        return Ok(());
    }
    // Read before the spill begins: a checkpoint waits for it.
    let mut bodies = Vec::with_capacity(numbers.len());
    for number in numbers {
        let FoundExtent { blob, pointer } = extents[*number];
        let body = shared.segments.read(pointer, blob, 0..pointer.length, true)?;
        bodies.push(body.ok_or(BlobError::Stale { pointer })?);
    }
    let mut spill = shared.segments.spill();
    for (number, body) in numbers.iter().zip(&bodies) {
        let pointer = spill.push(extents[*number].blob, body)?;
        // Before the spill ends: from then on a segment without a live byte may go.
        copies[*number] = Some((pointer, shared.segments.pin(pointer)?));
    }
    spill.finish()?;
    Ok(())
}

async fn copy_long(shared: &Arc<Shared>, extent: &FoundExtent) -> Result<(Pointer, SegmentPin), EvictError> {
    let FoundExtent { blob, pointer } = *extent;
    let mut writer = shared.stager.begin_extent(blob, pointer.length)?;
    let mut at = 0;
    while at < pointer.length {
        let end = pointer.length.min(at + COPY_BYTES);
        let bytes = shared.segments.read(pointer, blob, at..end, true)?;
        writer.write(bytes.ok_or(BlobError::Stale { pointer })?.into()).await?;
        at = end;
    }
    let (pointer, pin) = writer.finish_extent().await?;
    Ok((pointer, pin.for_reading()))
}

/// Waits on this thread, which is no worker of a runtime.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// The thread that makes room.
pub(crate) struct EvictThread {
    stop: Arc<AtomicBool>,
    shared: Weak<Shared>,
    thread: JoinHandle<()>,
}

impl EvictThread {
    pub(crate) fn start(shared: &Arc<Shared>) -> std::io::Result<EvictThread> {
        let stop = Arc::new(AtomicBool::new(false));
        let (weak, stopped) = (Arc::downgrade(shared), stop.clone());
        let run = move || {
            // A panic means a broken invariant: nothing more may be given up.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&weak, &stopped))).is_err() {
                std::process::abort();
            }
        };
        let thread = std::thread::Builder::new().name("evict".to_owned()).spawn(run)?;
        Ok(EvictThread { stop, shared: Arc::downgrade(shared), thread })
    }

    /// Ends it; what it has queued is committed or not. Blocks.
    pub(crate) fn stop(self) {
        self.stop.store(true, Relaxed);
        if let Some(shared) = self.shared.upgrade() {
            shared.evictor.nudge();
        }
        if self.thread.join().is_err() {
            tracing::error!("the eviction thread panicked");
        }
    }
}

fn run(shared: &Weak<Shared>, stop: &AtomicBool) {
    let mut pause = PAUSE;
    while !stop.load(Relaxed) {
        let Some(shared) = shared.upgrade() else { return };
        if let Some(flusher) = shared.flusher() {
            let status = flusher.status();
            shared.evictor.note_taken(status.flushed_objects + status.flushed_bytes);
        }
        let wait = |batch: &Batch| {
            while batch.wait(COMMIT_LOOK).open > 0 {
                if stop.load(Relaxed) {
                    return false;
                }
            }
            true
        };
        pause = match round(&shared, &wait) {
            Ok(Round::Idle) => PAUSE,
            Ok(Round::Made) => Duration::ZERO,
            Ok(Round::Barren) => (pause * 2).clamp(PAUSE, PAUSE_MAX),
            Err(error) => {
                tracing::error!(%error, "making room failed");
                PAUSE_MAX
            }
        };
        let evictor = &shared.evictor;
        let now = Instant::now();
        // After a round in vain the next one waits, however many ask for it.
        let (earliest, until) = (now + pause.min(PAUSE), now + pause);
        let mut nudged = evictor.nudged.lock();
        while (!*nudged || Instant::now() < earliest) && !stop.load(Relaxed) {
            if evictor.nudge.wait_until(&mut nudged, until).timed_out() {
                break;
            }
        }
        *nudged = false;
    }
}
