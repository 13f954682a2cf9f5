//! The replica: consensus, journal, apply and checkpoint tied into one loop.
//!
//! [`Engine::turn`] is that loop's body, without threads or timers of its own, so that the simulator runs
//! the very same code. One turn: pack what arrived into entries, propose, write and sync once, apply,
//! answer. What arrives during the sync forms the next batch.
//!
//! What must hold: nothing is answered before it is on disk and applied; a failed sync ends the process.
//! A crash loses nothing that was answered: it is in the journal or in the checkpoint.

mod driver;
mod inbox;
mod open;
mod prefetch;

#[cfg(test)]
pub(crate) mod sim;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::apply::{Applied, Applier, EntryHead};
use crate::clock::SteadyClock;
use crate::consensus::{Core, CoreError, Effects, Event, LogEntry, LogPosition, is_normal};
use crate::error::Error;
use crate::flush::FlushEvent;
use crate::journal::{GroupId, Journal, JournalError, Record};
use crate::keyspace::base::BaseError;
use crate::keyspace::tables::{CheckpointRow, MountRow};
use crate::keyspace::view::View;
use crate::keyspace::{Frozen, Keyspace};
use crate::lookup::Cover;
use crate::mutation::Outcome;
use crate::object::BlobId;
use crate::stage::Stager;
use crate::submission::Submission;

pub(crate) use driver::{Driver, DriverParts, DriverStats};
#[cfg(test)]
pub(crate) use inbox::Arrived;
pub(crate) use inbox::{Inbox, Pending, RawOutcomes};
pub use open::OpenError;
pub(crate) use open::{Opened, Parts, open};

/// The one group in use.
pub(crate) const GROUP: GroupId = GroupId(0);
/// An entry holds at most this many bytes, except for one atomic group.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// An atomic group's cap: below a journal file, and few enough mutations for a version's position bits.
pub(crate) const GROUP_BYTES_MAX: usize = 8 << 20;

/// When replies leave, and what a power cut may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// After fdatasync: nothing that was answered is lost.
    Always,
    /// After the write; fdatasync once a second: kill -9 loses nothing, power loss up to a second.
    EverySec,
}

/// Why the engine cannot go on; the process ends, and a restart recovers from what is on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    #[error(transparent)]
    Journal(JournalError),
    #[error(transparent)]
    Core(#[from] CoreError),
    #[error(transparent)]
    Base(#[from] BaseError),
    /// Nothing is wrong: the node was told to stop while the journal had no room for what was under way. That has no
    /// answer, and is not in the log, or only its beginning.
    #[error("stopped while the journal had no room; what was not answered was not taken")]
    Stopped,
}

/// A frozen memtable on its way to the checkpoint, and what the checkpoint records beside its rows.
pub(crate) struct CheckpointJob {
    pub(crate) frozen: Arc<Frozen>,
    pub(crate) row: CheckpointRow,
}

/// When a memtable is frozen.
#[derive(Debug, Clone)]
pub(crate) struct MemtableLimits {
    pub(crate) bytes: usize,
    pub(crate) rows: usize,
    pub(crate) age_ms: u64,
}

/// What the engine shows to other threads.
#[derive(Default)]
pub(crate) struct EngineStatus {
    pub(crate) leads: AtomicBool,
    pub(crate) term: AtomicU64,
    pub(crate) applied_index: AtomicU64,
    pub(crate) dirty_objects: AtomicU64,
    pub(crate) dirty_bytes: AtomicU64,
    /// Queue rows of each mount.
    pub(crate) mount_rows: Mutex<Vec<(u32, u64)>>,
    /// What is charged against the limit of dirty bytes.
    pub(crate) dirty_charged: AtomicU64,
    pub(crate) mutations: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) mounts: Mutex<Vec<(u32, MountRow)>>,
    /// The same as look-ups need it.
    pub(crate) cover: ArcSwap<Cover>,
    /// Whether one of them looks up: what is not here may be in its origin.
    pub(crate) looks_up: AtomicBool,
    /// Whether one of them is write-through.
    pub(crate) write_through: AtomicBool,
    /// Whether one of them is read-only.
    pub(crate) read_only: AtomicBool,
    pub(crate) unswept: Mutex<Vec<(crate::object::BucketId, crate::object::Version)>>,
    /// Whether blobs may be clean that nothing marks as such: somebody looks for them when room is wanted.
    pub(crate) unmarked: AtomicBool,
    /// Why the journal has no room, while it has none.
    pub(crate) journal_full: Mutex<Option<Arc<str>>>,
    /// Set to have a checkpoint soon, even of nothing new: places have changed.
    pub(crate) checkpoint_wanted: AtomicBool,
    /// Why the checkpoint waits for space, while it does.
    pub(crate) checkpoint_full: Mutex<Option<Arc<str>>>,
}

/// Where apply's flush events go; called with the events of one entry before its replies leave.
pub(crate) type EventSink = Box<dyn FnMut(Vec<FlushEvent>) + Send>;

/// Called while the journal has no room: runs the checkpoint that would free some, if one was due to be
/// frozen, and waits a moment for it or for space. `false`: the node stops, and no checkpoint can help any more.
pub(crate) type Relief = Box<dyn FnMut(Option<CheckpointJob>) -> bool + Send>;

/// A share of a submission in one entry.
struct Share {
    /// Which waiting submission.
    id: u64,
    outcomes: usize,
    views: usize,
    last: bool,
}

/// An entry that this node proposed and somebody waits for.
struct Proposed {
    at: LogPosition,
    places: Vec<usize>,
    shares: Vec<Share>,
}

struct Waiting {
    pending: Pending,
    /// Staged blobs that it carries.
    blobs: Vec<BlobId>,
    results: RawOutcomes,
}

/// An entry being packed.
struct Packing {
    data: Vec<u8>,
    outcomes: usize,
    places: Vec<usize>,
    shares: Vec<Share>,
}

impl Packing {
    fn new(head: EntryHead) -> Packing {
        let mut data = Vec::with_capacity(4096);
        head.encode(&mut data);
        Packing { data, outcomes: 0, places: Vec::new(), shares: Vec::new() }
    }
}

/// See the file's head.
pub(crate) struct Engine {
    core: Core,
    journal: Journal,
    applier: Applier,
    keyspace: Arc<Keyspace>,
    stager: Arc<Stager>,
    clock: Arc<SteadyClock>,
    sync: SyncMode,
    body_bytes_max: u64,
    limits: MemtableLimits,
    proposed: VecDeque<Proposed>,
    waiting: HashMap<u64, Waiting, foldhash::fast::RandomState>,
    next_id: u64,
    events: EventSink,
    status: Arc<EngineStatus>,
    /// When the active memtable got its first row (the core's clock), for the age limit.
    active_since_ms: Option<u64>,
    last_applied: LogPosition,
    /// Term and vote as the journal has them.
    voted: (u64, u64),
    relief: Relief,
    /// Absent in the simulator, whose store is in memory.
    prefetcher: Option<prefetch::Prefetcher>,
    checkpointed: Arc<AtomicU64>,
}

impl Engine {
    /// Becomes leader where this is the only voter, and applies what recovery found.
    pub(crate) fn start(&mut self) -> Result<(), Fatal> {
        let mut effects = Effects::default();
        self.core.step(Event::Campaign, &mut effects)?;
        self.drive(effects)
    }

    /// Takes a batch through the log: when this returns, all of it is durable (or, with `everysec`,
    /// written), applied and answered.
    pub(crate) fn turn(&mut self, batch: Vec<Pending>) -> Result<(), Fatal> {
        if !self.core.leads() {
            for pending in batch {
                pending.answer(Err(Error::Unavailable("this node does not lead")));
            }
            return Ok(());
        }
        let stamp_ms = self.clock.now_ms().max(self.applier.stamp_ms());
        let mut effects = Effects::default();
        let head = EntryHead { stamp_ms, body_bytes_max: self.body_bytes_max };
        let mut packing = Packing::new(head);
        for pending in batch {
            self.pack(pending, &mut packing, head, &mut effects)?;
        }
        if packing.outcomes > 0 {
            self.propose(packing, &mut effects)?;
        }
        self.drive(effects)
    }

    /// Whether nothing written is left that no later batch names as synced.
    pub(crate) fn idle(&mut self) -> Result<(), Fatal> {
        self.journal.append_empty_and_sync().map_err(Fatal::Journal)?;
        Ok(())
    }

    /// 100 ms have passed.
    pub(crate) fn tick(&mut self) -> Result<(), Fatal> {
        self.journal.tend();
        let mut effects = Effects::default();
        self.core.step(Event::Tick, &mut effects)?;
        self.drive(effects)
    }

    fn pack(
        &mut self,
        mut pending: Pending,
        packing: &mut Packing,
        head: EntryHead,
        effects: &mut Effects,
    ) -> Result<(), Fatal> {
        let submission = &pending.submission;
        if submission.ends.is_empty() {
            // Reads only: the newest state is what they follow.
            let views = submission.views.iter().map(|_| View::latest(&self.keyspace)).collect();
            pending.answer(Ok(RawOutcomes { results: Vec::new(), views }));
            return Ok(());
        }
        // Before the first of it is proposed: a process that dies from here on gives nothing up.
        let blobs = pending.submission.take_blobs();
        let id = self.next_id;
        self.next_id += 1;
        let Submission { bytes, ends, views, .. } = &pending.submission;
        let (mut byte, mut outcome, mut view, mut next) = (0, 0, 0, 0);
        while next < ends.len() {
            // At least one mutation, then as many as the entry takes.
            let start = next;
            let room = ENTRY_BYTES_MAX.saturating_sub(packing.data.len());
            while next < ends.len() && (next == start && packing.outcomes == 0 || ends[next].0 - byte <= room)
            {
                next += 1;
            }
            if next > start {
                let (end_byte, end_outcome) = ends[next - 1];
                let last = next == ends.len();
                let mut places = 0;
                while views.get(view).is_some_and(|place| *place < end_outcome || last) {
                    packing.places.push(packing.outcomes + views[view] - outcome);
                    view += 1;
                    places += 1;
                }
                packing.data.extend_from_slice(&bytes[byte..end_byte]);
                packing.outcomes += end_outcome - outcome;
                packing.shares.push(Share { id, outcomes: end_outcome - outcome, views: places, last });
                (byte, outcome) = (end_byte, end_outcome);
            }
            if next < ends.len() {
                let full = std::mem::replace(packing, Packing::new(head));
                self.propose(full, effects)?;
            }
        }
        let results = RawOutcomes { results: Vec::with_capacity(outcome), views: Vec::new() };
        self.waiting.insert(id, Waiting { pending, blobs, results });
        Ok(())
    }

    fn propose(&mut self, packing: Packing, effects: &mut Effects) -> Result<(), Fatal> {
        if let Some(prefetcher) = &self.prefetcher {
            prefetcher.touch(&packing.data);
        }
        self.core.step(Event::Propose(packing.data), effects)?;
        let proposed = Proposed { at: self.core.last(), places: packing.places, shares: packing.shares };
        self.proposed.push_back(proposed);
        Ok(())
    }

    /// Writes, syncs and applies until nothing is due.
    fn drive(&mut self, mut effects: Effects) -> Result<(), Fatal> {
        loop {
            self.core.take_ready(&mut effects);
            self.write(&mut effects)?;
            if std::mem::take(&mut effects.await_persist) {
                self.core.step(Event::Persisted, &mut effects)?;
            }
            if effects.committed.is_empty() {
                break;
            }
            for entry in std::mem::take(&mut effects.committed) {
                self.apply(entry)?;
            }
            self.core.step(Event::Applied(self.applier.applied_index()), &mut effects)?;
        }
        self.show_status();
        Ok(())
    }

    fn write(&mut self, effects: &mut Effects) -> Result<(), Fatal> {
        let mut records = Vec::with_capacity(effects.append.len() + 1);
        // The commit index alone travels with the next batch; term and vote must be on disk first.
        if let Some((term, vote, commit)) = effects.hard_state.take()
            && (term, vote) != self.voted
        {
            records.push(Record::HardState { group: GROUP, term, vote, commit });
        }
        for LogEntry { at, kind, data } in &effects.append {
            let (term, index) = (at.term, at.index);
            records.push(Record::Entry { group: GROUP, term, index, kind: *kind, context: &[], data });
        }
        if records.is_empty() {
            return Ok(());
        }
        let vote = match records.first() {
            Some(Record::HardState { term, vote, .. }) => Some((*term, *vote)),
            _ => None,
        };
        self.append_with_room(&records)?;
        if self.sync == SyncMode::Always || vote.is_some() {
            self.journal.sync().map_err(Fatal::Journal)?;
        }
        if let Some(vote) = vote {
            self.voted = vote;
        }
        effects.append.clear();
        Ok(())
    }

    /// Appends; while the journal has no room, waits for the checkpoint to free some or for space on the
    /// disk. Admission refuses new writes meanwhile.
    fn append_with_room(&mut self, records: &[Record<'_>]) -> Result<(), Fatal> {
        let commit = self.core.commit_index();
        loop {
            match self.journal.append(records, commit) {
                Ok(_) => {
                    *self.status.journal_full.lock() = None;
                    return Ok(());
                }
                Err(error @ (JournalError::NoSpace(_) | JournalError::Full { .. })) => {
                    let mut full = self.status.journal_full.lock();
                    if full.is_none() {
                        tracing::error!(%error, "writes wait");
                        *full = Some(error.to_string().into());
                    }
                    drop(full);
                    // Between entries, so that a memtable may be frozen here as well.
                    let job = self.maybe_freeze(true);
                    let goes_on = (self.relief)(job);
                    self.release();
                    if !goes_on {
                        return Err(Fatal::Stopped);
                    }
                }
                Err(error) => return Err(Fatal::Journal(error)),
            }
        }
    }

    /// After [`Fatal::Stopped`]: whoever waits learns that nobody knows. The log may hold the beginning of a long batch.
    fn answer_unknown(&mut self) {
        for (_, waiting) in self.waiting.drain() {
            waiting.pending.answer(Err(Error::Unknown("the node stopped before it answered")));
        }
    }

    /// Frees the journal below the newest checkpoint.
    fn release(&mut self) {
        self.journal.release(GROUP, self.checkpointed.load(Relaxed));
    }

    fn apply(&mut self, entry: LogEntry) -> Result<(), Fatal> {
        while self.proposed.front().is_some_and(|proposed| proposed.at.index < entry.at.index) {
            self.fail_oldest();
        }
        let ours = self.proposed.front().is_some_and(|proposed| proposed.at == entry.at);
        let proposed = if ours { self.proposed.pop_front() } else { None };
        let places = proposed.as_ref().map_or(&[][..], |proposed| &proposed.places);
        let data = if is_normal(entry.kind) { &entry.data[..] } else { &[] };
        let applied = self.applier.apply(entry.at.index, data, places, proposed.is_some())?;
        self.clock.observe(self.applier.stamp_ms());
        self.last_applied = entry.at;
        self.status.entries.fetch_add(1, Relaxed);
        if self.active_since_ms.is_none() {
            self.active_since_ms = Some(self.clock.now_ms());
        }
        let Applied { results, views, events } = applied;
        self.show_tables();
        if !events.is_empty() {
            // Before the answer: whoever has it finds its change counted.
            self.show_dirty();
            (self.events)(events);
        }
        if let Some(proposed) = proposed {
            self.status.mutations.fetch_add(results.len() as u64, Relaxed);
            self.answer(proposed, results, views);
        }
        Ok(())
    }

    fn answer(&mut self, proposed: Proposed, results: Vec<Outcome>, views: Vec<View>) {
        let (mut results, mut views) = (results.into_iter(), views.into_iter());
        for share in proposed.shares {
            let (own_results, own_views) =
                (results.by_ref().take(share.outcomes), views.by_ref().take(share.views));
            let Some(waiting) = self.waiting.get_mut(&share.id) else {
                // The next share's must not be mistaken for this one's.
                own_results.for_each(drop);
                own_views.for_each(drop);
                continue;
            };
            waiting.results.results.extend(own_results);
            waiting.results.views.extend(own_views);
            if share.last
                && let Some(waiting) = self.waiting.remove(&share.id)
            {
                self.stager.settle(&self.keyspace, &waiting.blobs);
                waiting.pending.answer(Ok(waiting.results));
            }
        }
    }

    /// The oldest proposal's index went to another entry: it was overwritten by another leader.
    fn fail_oldest(&mut self) {
        let Some(proposed) = self.proposed.pop_front() else { return };
        for share in proposed.shares {
            if let Some(waiting) = self.waiting.remove(&share.id) {
                self.stager.settle(&self.keyspace, &waiting.blobs);
                waiting.pending.answer(Err(Error::Unavailable("another node took the lead")));
            }
        }
    }

    fn show_status(&self) {
        let status = &self.status;
        status.leads.store(self.core.leads(), Relaxed);
        status.term.store(self.core.term(), Relaxed);
        status.applied_index.store(self.applier.applied_index(), Relaxed);
        self.show_dirty();
    }

    /// What waits for origins.
    fn show_dirty(&self) {
        let (status, state) = (&self.status, self.applier.state());
        let dirty = state.dirty();
        status.dirty_objects.store(dirty.rows, Relaxed);
        status.dirty_bytes.store(dirty.body_bytes, Relaxed);
        status.dirty_charged.store(dirty.charged_bytes, Relaxed);
        state.show_mount_rows(&mut status.mount_rows.lock());
    }

    /// Mounts and unswept buckets, before anybody learns that they have changed.
    fn show_tables(&mut self) {
        if self.applier.take_unmarked() {
            self.status.unmarked.store(true, Relaxed);
        }
        if !self.applier.take_tables_changed() {
            return;
        }
        let mounts = self.applier.state().mounts();
        let any = |is: fn(&MountRow) -> bool| mounts.iter().any(|(_, row)| is(row));
        self.status.cover.store(Arc::new(Cover::of(mounts)));
        self.status.looks_up.store(any(MountRow::looks_up), Relaxed);
        self.status.write_through.store(any(|row| row.write_through && !row.leaving), Relaxed);
        self.status.read_only.store(any(|row| row.read_only && !row.leaving), Relaxed);
        *self.status.mounts.lock() = mounts.to_vec();
        *self.status.unswept.lock() = self.applier.state().unswept();
    }

    /// Freezes the active memtable if it is due (or `now`) and none is frozen yet.
    pub(crate) fn maybe_freeze(&mut self, now: bool) -> Option<CheckpointJob> {
        let set = self.keyspace.memtables();
        // An entry that changed nothing moves the checkpoint on too, else the journal would never be freed.
        let wanted = self.status.checkpoint_wanted.load(Relaxed);
        if self.active_since_ms.is_none() && !wanted || set.frozen.is_some() {
            return None;
        }
        let age_ms = self.active_since_ms.map_or(0, |since| self.clock.now_ms().saturating_sub(since));
        let due = set.active.bytes() >= self.limits.bytes
            || set.active.rows() >= self.limits.rows
            || age_ms >= self.limits.age_ms;
        if !due && !now && !wanted {
            return None;
        }
        self.status.checkpoint_wanted.store(false, Relaxed);
        self.active_since_ms = None;
        let LogPosition { index, term } = self.last_applied;
        let row = CheckpointRow { index, term, stamp_ms: self.applier.stamp_ms() };
        Some(CheckpointJob { frozen: self.keyspace.freeze(), row })
    }

    /// Whether the active memtable has outgrown twice its limit: writers wait for the checkpoint.
    pub(crate) fn overgrown(&self) -> bool {
        let set = self.keyspace.memtables();
        set.frozen.is_some()
            && (set.active.bytes() >= 2 * self.limits.bytes || set.active.rows() >= 2 * self.limits.rows)
    }
}
