//! Eviction: room is made by giving up bytes that the origin holds, segment by segment, oldest first.
//!
//! Owns when room is wanted, which segments go, and what of a round is waited for. `segment` judges what of one
//! stays, `copy` takes that elsewhere, `thread` does it again and again; `compact` empties those of which little is live
//! while no room is wanted; `hold` keeps what is about to be built on;
//! `recency` says what was read, `release` marks what is clean and not marked. Does not own what is clean (`apply/clean.rs`), nor the places themselves: a
//! checkpoint commits them (`keyspace/places.rs`).
//!
//! What must hold: a byte that the origin does not hold, or that something which is not there is being built on,
//! is never given up. The order of one segment:
//! 1. Under [`Evictor::gate`] nobody holds, or is about to hold, bytes that were judged before (`hold.rs`). There
//!    each extent is judged by the newest clean rows. What is to be given up is *dropping* from here on: who wants
//!    to hold it waits for the end, and then finds that it is not here.
//! 2. What stays (dirty, local, shared, held, of a bucket that is kept, or read since the last look) is copied to other
//!    segments, and synced.
//! 3. The next checkpoint commits new and dropped places, judging each once more by what it commits. Until then the
//!    old places are good for everybody. One that lacks space gives them up: the copies may be what is in its way.
//! 4. Only then the segment is used again, once its last reader has gone.
//!
//! Bounds of a round: [`ROUND_SEGMENTS`], about [`ROUND_EXTENTS`], and copies only as long as the disk keeps the room
//! that the next checkpoint may need. A segment that cannot be read or emptied is passed over; a sync that fails ends
//! the process.
//!
//! A crash leaves the old places or the new ones.

mod compact;
mod copy;
mod hold;
mod recency;
mod release;
mod segment;
#[cfg(test)]
pub(crate) mod tests;
mod thread;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, RwLock};

use crate::blob::{BlobError, FoundExtent, Generation, Pointer, SegmentId};
use crate::error::Error;
use crate::keyspace::base::BaseError;
use crate::keyspace::places::{Batch, BatchState, PlaceChange};
use crate::keyspace::view::{View, ViewError};
use crate::object::{BlobId, Version};
use crate::store::Shared;

use copy::{Copied, copy};
use segment::{Dropping, SegmentUse, held_for, look};

pub(crate) use hold::{bring_all_back, drop_adopted, submit_held};
pub(crate) use recency::Recency;
pub(crate) use thread::EvictThread;

/// Share of `capacity` at which room is made, and down to which, in percent. Closer together: smaller rounds, and
/// more of them.
const HIGH_PERCENT: u64 = 90;
const LOW_PERCENT: u64 = 85;
/// Segments of one round: their places change with one checkpoint.
const ROUND_SEGMENTS: usize = 8;
/// Extents after which a round takes no further segment: it holds a change of each in memory.
const ROUND_EXTENTS: usize = if cfg!(test) { 1000 } else { 100_000 };
/// A segment goes only if this share of it becomes free, and if none does, the second.
const GAIN_PERCENT: [u64; 2] = [12, 1];
/// How long places may wait for a checkpoint that nobody else asks for.
const PLACES_WAIT: Duration = Duration::from_secs(5);
/// How long an upload counts as a sign that more will follow.
const TAKES_AGE: Duration = Duration::from_secs(2);

type Blobs = HashSet<BlobId, foldhash::fast::RandomState>;

/// What eviction has done since the start, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EvictCounts {
    /// Given up because of `capacity`.
    pub(crate) for_capacity: u64,
    /// Given up because the file system was nearly full.
    pub(crate) for_disk: u64,
    /// Copied to other segments.
    pub(crate) copied: u64,
    /// Of these, by compaction.
    pub(crate) compacted: u64,
    /// Objects, not bytes: marked as clean after the mark was missing.
    pub(crate) released: u64,
}

/// Rules taken away, for the test that must notice.
#[cfg(test)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sabotage {
    /// Everything counts as clean.
    pub(crate) skip_clean_rows: bool,
    /// Segments are used again at once.
    pub(crate) recycle_first: bool,
    /// Whoever builds on bytes looks for them first, and asks then what is being dropped.
    pub(crate) places_first: bool,
}

/// See the file's head. One per store; its thread, if it has one, is a [`EvictThread`].
#[derive(Default)]
pub(crate) struct Evictor {
    /// Held shared by whoever builds on bytes, from its look at them until the log has answered; exclusively by the
    /// judgement.
    gate: Arc<RwLock<()>>,
    /// Blobs whose places are to be dropped by the next checkpoint. Held for a look-up only.
    dropping: Mutex<Blobs>,
    /// Told when it gets shorter, and when it never will.
    dropped: Notify,
    /// Nobody will say any more what became of some of them: the node stops.
    left_open: AtomicBool,
    /// The mount that is about to be forgotten: its origin counts as holding nothing.
    leaving: Mutex<Option<u32>>,
    /// Held while one is: two at a time would end each other's.
    forgetting: tokio::sync::Mutex<()>,
    /// Whether the last round found nothing to give up.
    barren: AtomicBool,
    /// Segments that could not be emptied, and have been told of.
    passed_over: Mutex<BTreeMap<SegmentId, Generation>>,
    /// Held while places are decided on, until the checkpoint has settled them: one round at a time.
    rounds: Mutex<()>,
    /// What the origins have taken, and when that last grew.
    taken: Mutex<(u64, Option<Instant>)>,
    nudged: Mutex<bool>,
    nudge: Condvar,
    stopping: AtomicBool,
    for_capacity: AtomicU64,
    for_disk: AtomicU64,
    copied: AtomicU64,
    compacted: AtomicU64,
    /// The checkpoint after which compaction has looked at what is live last.
    looked_at: Mutex<Option<u64>>,
    released: AtomicU64,
    /// Looks for what is clean and not marked. Held by the thread that makes room.
    walk: Mutex<release::Walk>,
    #[cfg(test)]
    pub(crate) sabotage: Mutex<Sabotage>,
    /// Called once, between the two looks of whoever builds on bytes.
    #[cfg(test)]
    pub(crate) between_looks: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// Why room is wanted, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// So many bytes over the mark.
    Capacity(u64),
    /// The file system should have so many bytes more.
    Disk(u64),
    /// None is wanted, but so many bytes are dead that should not be. Nothing is given up for that.
    Compaction(u64),
}

impl Want {
    fn bytes(self) -> u64 {
        match self {
            Want::Capacity(bytes) | Want::Disk(bytes) | Want::Compaction(bytes) => bytes,
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
    /// What was tried did not come about, or room comes without it.
    Vain,
    /// Some was made.
    Made,
    /// Some was made that nobody wants yet.
    Compacted,
}

/// Why a segment was not emptied, or a round ended early; nothing is lost by it, but by a sync that failed.
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

impl EvictError {
    /// Whether no other segment is worth a try.
    fn ends_round(&self) -> bool {
        matches!(self, EvictError::Blob(BlobError::SyncFailed(_)) | EvictError::Copy(Error::Stopping))
    }

    /// Whether it is the segment that is bad: one that lacks room, or a view that took too long, may do next time.
    fn is_of_segment(&self) -> bool {
        !matches!(
            self,
            EvictError::View(ViewError::TooOld)
                | EvictError::Blob(BlobError::NoSpace(_))
                | EvictError::Copy(Error::Full(_))
        )
    }
}

impl Evictor {
    pub(crate) fn counts(&self) -> EvictCounts {
        EvictCounts {
            for_capacity: self.for_capacity.load(Relaxed),
            for_disk: self.for_disk.load(Relaxed),
            copied: self.copied.load(Relaxed),
            compacted: self.compacted.load(Relaxed),
            released: self.released.load(Relaxed),
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

    /// While this lives nothing more is given up to this mount's origin; returns when nothing is on its way out.
    /// Waits while another mount leaves; an error if the node stops. Dropping the future undoes it.
    pub(crate) async fn leave(&self, mount: u32) -> Result<Leaving<'_>, Error> {
        let leaving = Leaving { _alone: self.forgetting.lock().await, evictor: self };
        let on_their_way: Vec<BlobId> = {
            let _judged = self.gate.write().await;
            *self.leaving.lock() = Some(mount);
            self.dropping.lock().iter().copied().collect()
        };
        self.wait_dropped(&on_their_way).await?;
        Ok(leaving)
    }

    #[cfg(test)]
    fn between_looks(&self) {
        let call = self.between_looks.lock().take();
        call.into_iter().for_each(|call| call());
    }

    #[cfg(test)]
    fn is_leaving(&self, mount: u32) -> bool {
        *self.leaving.lock() == Some(mount)
    }

    /// Waits until none of these is being dropped; an error if the node stops before.
    async fn wait_dropped(&self, blobs: &[BlobId]) -> Result<(), Error> {
        loop {
            let told = self.dropped.notified();
            tokio::pin!(told);
            // Before the look: what happens in between counts.
            told.as_mut().enable();
            let done = {
                let dropping = self.dropping.lock();
                !blobs.iter().any(|blob| dropping.contains(blob))
            };
            if done {
                return Ok(());
            }
            if self.left_open.load(Acquire) {
                return Err(Error::Stopping);
            }
            told.await;
        }
    }
}

/// A mount that is about to be forgotten; when this is dropped it stays after all, or is gone.
pub(crate) struct Leaving<'e> {
    _alone: tokio::sync::MutexGuard<'e, ()>,
    evictor: &'e Evictor,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        *self.evictor.leaving.lock() = None;
    }
}

fn want(shared: &Shared) -> Option<Want> {
    let (capacity, stored) = (shared.limits.capacity_bytes, shared.stored_bytes());
    let promised = shared.stager.promised_bytes().min(capacity / 8);
    if stored + promised > capacity / 100 * HIGH_PERCENT {
        return Some(Want::Capacity((stored + promised).saturating_sub(capacity / 100 * LOW_PERCENT)));
    }
    let (room, reserve) = shared.disk_room(false)?;
    let least = disk_mark(shared, reserve);
    (room < least).then(|| Want::Disk(least - room))
}

/// The room on the file system below which more is wanted: a segment more than the reserve, for writers open theirs
/// beside it.
fn disk_mark(shared: &Shared, reserve: u64) -> u64 {
    reserve + 2 * shared.segments.segment_bytes()
}

/// Bytes that a round may copy: the next checkpoint, and one behind it, find their room beside the copies, but where
/// the reserve is too small for that, at least half of what is there when room is wanted first.
///
/// A node that has filled its disk with its own writes has less than that, and must get on by deletes alone: so half of
/// what the next checkpoint leaves is always there for copies, each of which frees more than it takes. A checkpoint that
/// finds too little room all the same gives them up, and needs none for them.
fn copy_budget(shared: &Shared) -> u64 {
    let Some((room, reserve)) = shared.disk_room(true) else { return u64::MAX };
    let kept_free = (2 * shared.memtable_bytes).min(disk_mark(shared, reserve) / 2);
    let memtables = shared.keyspace.memtables();
    let frozen = memtables.frozen.as_ref().map_or(0, |frozen| frozen.rows.bytes());
    let left = room.saturating_sub((memtables.active.bytes() + frozen) as u64);
    room.saturating_sub(kept_free).max(left / 2)
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
            compact::compact(shared, compact::USUAL, wait)
        }
    }
}

/// What a round has come to.
struct Course<'e> {
    batch: Arc<Batch>,
    dropping: Dropping<'e>,
    /// Bytes that become free.
    gained: u64,
    segments: Vec<SegmentUse>,
    extents: usize,
    /// Bytes that may still be copied.
    copies_left: u64,
    /// Bytes that the next checkpoint frees by itself.
    coming: u64,
    /// Whether a segment was spared because it was read lately: it may go at the next look.
    spared: bool,
}

impl Course<'_> {
    fn is_enough(&self, wanted: Want) -> bool {
        self.gained >= wanted.bytes()
            || self.segments.len() == ROUND_SEGMENTS
            || self.extents >= ROUND_EXTENTS
    }
}

fn make_room(shared: &Arc<Shared>, wanted: Want, wait: &dyn Fn(&Batch) -> bool) -> Result<Round, EvictError> {
    let evictor = &shared.evictor;
    let nothing_is_clean = matches!(wanted, Want::Capacity(_)) && !shared.fills.has_origins();
    // What a round queues is given up by a checkpoint that lacks space.
    if nothing_is_clean || shared.status.checkpoint_full.lock().is_some() {
        evictor.barren.store(true, Relaxed);
        return Ok(Round::Barren);
    }
    let round = run_round(shared, wanted, None, wait)?;
    evictor.barren.store(round == Round::Barren, Relaxed);
    Ok(round)
}

/// Takes as many segments as are needed, of these or of all, and sees the round to its end.
fn run_round(
    shared: &Arc<Shared>,
    wanted: Want,
    segments: Option<&[SegmentUse]>,
    wait: &dyn Fn(&Batch) -> bool,
) -> Result<Round, EvictError> {
    let evictor = &shared.evictor;
    let _round = evictor.rounds.lock();
    let mut course = Course {
        batch: Arc::default(),
        dropping: Dropping::new(evictor),
        gained: 0,
        segments: Vec::new(),
        extents: 0,
        copies_left: copy_budget(shared),
        coming: 0,
        spared: false,
    };
    let begun = match segments {
        Some(segments) => begin_with(shared, wanted, segments, &mut course),
        None => begin(shared, wanted, &mut course),
    };
    let Course { batch, dropping, segments, extents, coming, spared, .. } = course;
    let waits = extents > 0;
    if waits || coming > 0 {
        shared.status.checkpoint_wanted.store(true, Relaxed);
    }
    match !waits || wait(&batch) {
        true => drop(dropping),
        false => dropping.leave_open(),
    }
    let BatchState { dropped_bytes, moved_bytes, .. } = batch.wait(Duration::ZERO);
    let counter = if let Want::Capacity(_) = wanted { &evictor.for_capacity } else { &evictor.for_disk };
    counter.fetch_add(dropped_bytes, Relaxed);
    evictor.copied.fetch_add(moved_bytes, Relaxed);
    shared.segments.free_unused();
    begun?;
    Ok(match wanted {
        _ if dropped_bytes > 0 => Round::Made,
        // Whoever is in the way of all of them is there the next time, too.
        Want::Disk(_) | Want::Compaction(_) if moved_bytes > 0 => {
            let is_free = |(id, use_of): &SegmentUse| shared.segments.pin_use(*id, *use_of).is_none();
            if segments.iter().any(is_free) { Round::Made } else { Round::Barren }
        }
        _ if waits || coming > 0 || spared => Round::Vain,
        _ => Round::Barren,
    })
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
    let mut dropping = Dropping::new(evictor);
    let mut given_up = Vec::with_capacity(places.len());
    let decided_at = {
        let _alone = match evictor.gate.try_write() {
            Ok(alone) => alone,
            Err(_) => evictor.gate.blocking_write(),
        };
        let view = View::latest(&shared.keyspace);
        for (blob, place) in places {
            if held_for(shared, &view, *blob)?.is_some() {
                given_up.push((*blob, *place));
            }
        }
        dropping.extend(given_up.iter().map(|(blob, _)| *blob));
        view.at()
    };
    // A batch each: a change that comes too late must not count as made.
    let batches: Vec<Arc<Batch>> = given_up.iter().map(|_| Arc::default()).collect();
    let changes = given_up.iter().zip(&batches).map(|((blob, place), batch)| PlaceChange {
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
        dropping.leave_open();
        return Ok(Vec::new());
    }
    drop(dropping);
    shared.segments.free_unused();
    let given_up =
        given_up.iter().zip(&batches).filter(|(_, batch)| batch.wait(Duration::ZERO).dropped_bytes > 0);
    Ok(given_up.map(|((blob, _), _)| *blob).collect())
}

/// Gives up all that may go, as one round. Blocks.
#[cfg(test)]
pub(crate) fn give_up_all(shared: &Arc<Shared>) -> Result<Round, EvictError> {
    let wait = |batch: &Batch| {
        while batch.wait(Duration::from_millis(100)).open > 0 {}
        true
    };
    make_room(shared, Want::Capacity(u64::MAX / 4), &wait)
}

/// Queues the changes of as many segments as are needed, oldest first.
fn begin<'e>(shared: &'e Arc<Shared>, wanted: Want, course: &mut Course<'e>) -> Result<(), EvictError> {
    // Of which little would become free.
    let mut poor = Vec::new();
    for segment in shared.segments.settled() {
        if course.is_enough(wanted) || shared.evictor.stopping.load(Relaxed) {
            return Ok(());
        }
        if take(shared, wanted, segment, GAIN_PERCENT[0], course)? == Taken::Poor {
            poor.push(segment);
        }
    }
    if course.gained > 0 {
        return Ok(());
    }
    for segment in poor {
        if course.is_enough(wanted) || shared.evictor.stopping.load(Relaxed) {
            return Ok(());
        }
        take(shared, wanted, segment, GAIN_PERCENT[1], course)?;
    }
    Ok(())
}

/// The same of segments that are known to be worth it.
fn begin_with<'e>(
    shared: &'e Arc<Shared>,
    wanted: Want,
    segments: &[SegmentUse],
    course: &mut Course<'e>,
) -> Result<(), EvictError> {
    for segment in segments {
        if course.is_enough(wanted) || shared.evictor.stopping.load(Relaxed) {
            return Ok(());
        }
        take(shared, wanted, *segment, GAIN_PERCENT[1], course)?;
    }
    Ok(())
}

/// What a look at a segment came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It is being emptied, or is not worth it, or cannot be now.
    Done,
    /// Less of it would become free than was asked for, and enough if nothing else does.
    Poor,
}

/// Empties a segment if at least this share of it becomes free. One that fails is passed over.
fn take<'e>(
    shared: &'e Arc<Shared>,
    wanted: Want,
    segment: SegmentUse,
    gain_percent: u64,
    course: &mut Course<'e>,
) -> Result<Taken, EvictError> {
    // What a checkpoint frees meanwhile can be read to the end.
    let Some(_pin) = shared.segments.pin_use(segment.0, segment.1) else { return Ok(Taken::Done) };
    match try_take(shared, wanted, segment, gain_percent, course) {
        Err(error) if error.ends_round() => Err(error),
        Err(error) => {
            let news = error.is_of_segment()
                && shared.evictor.passed_over.lock().insert(segment.0, segment.1) != Some(segment.1);
            if news {
                tracing::error!(%error, segment = segment.0.0, "a segment cannot be emptied, and is passed over");
            }
            Ok(Taken::Done)
        }
        taken => taken,
    }
}

fn try_take<'e>(
    shared: &'e Arc<Shared>,
    wanted: Want,
    segment: SegmentUse,
    gain_percent: u64,
    course: &mut Course<'e>,
) -> Result<Taken, EvictError> {
    let looked = look(shared, segment)?;
    // In the second pass they were counted in the first.
    if gain_percent == GAIN_PERCENT[0] {
        course.coming += looked.coming_bytes;
    }
    let gain_percent_of = looked.gain(shared, wanted, segment.0) * 100 / shared.segments.segment_bytes();
    if gain_percent_of < gain_percent {
        return Ok(if gain_percent_of < GAIN_PERCENT[1] { Taken::Done } else { Taken::Poor });
    }
    let mut dropping = Dropping::new(&shared.evictor);
    let judged = match wanted {
        Want::Compaction(_) => looked.keep_all(),
        Want::Capacity(_) | Want::Disk(_) => looked.judge(shared, wanted, &mut dropping)?,
    };
    let gained = looked.gain_of(shared, wanted, segment.0, &judged);
    if gained == 0 {
        course.spared |= judged.warm;
        return Ok(Taken::Done);
    }
    if judged.kept.copy_bytes > course.copies_left {
        return Ok(Taken::Done);
    }
    #[cfg(test)]
    if shared.evictor.sabotage.lock().recycle_first {
        let _ = shared.segments.recycle(segment.0, segment.1);
    }
    let copied = copy(shared, judged.keep.iter().map(|(extent, _)| extent))?;
    let change = |(from, decided_at): &(FoundExtent, Version), to: Option<Copied>| {
        let (to, pin) = to.unzip();
        let (blob, from, decided_at) = (from.blob, Some(from.pointer), *decided_at);
        PlaceChange { blob, from, to, decided_at, _pin: pin, batch: Some(course.batch.clone()) }
    };
    let moved = judged.keep.iter().zip(copied).map(|(from, to)| change(from, Some(to)));
    shared.checkpointer.places.push(moved.chain(judged.drop.iter().map(|from| change(from, None))));
    for (extent, _) in &judged.drop {
        shared.fills.note_given_up(shared, extent.blob, extent.pointer.length);
    }
    course.copies_left = course.copies_left.saturating_sub(judged.kept.copy_bytes);
    course.dropping.take_over(dropping);
    course.gained += gained;
    course.segments.push(segment);
    course.extents += judged.keep.len() + judged.drop.len();
    Ok(Taken::Done)
}
