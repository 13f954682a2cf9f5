//! The flush queue: which row may go to the origin next, decided by values alone.
//!
//! Owns the order: per key, per bucket (barriers), over all (oldest first, bounded), and every wait (fences, backoff,
//! `min_interval`, mounts in trouble). Pure: no clock, no I/O, no randomness but its seed. Does not own rows: they are
//! replicated and told by [`FlushEvent`]s; the queue is rebuilt from them at every start and change of leader.
//!
//! What must hold:
//! - **One request per key.** While an attempt flies, or may still fly, no other starts for its key.
//! - **The fence.** After an unknown outcome, and for every started row found at start, the key waits until the attempt's
//!   deadline and the margin have passed; then a HEAD says what the origin holds; only then it goes on.
//! - **Order per key.** Rows of one key go oldest first.
//! - **Barriers.** Let B be the oldest pending barrier of a bucket (parked ones count): a row before B may go; B itself when
//!   nothing older in its bucket is pending; a row behind B only if it puts a key that was not there before and is no
//!   barrier itself.
//!
//! What a crash leaves: the replicated rows. Backoff and urgency are forgotten, fences are rebuilt from started rows.
//!
//! Cost: about 300 bytes a row; every step is a few searches in ordered sets, and one look at each lane (a bucket's
//! share of a mount; there are as many as mounts with rows).

mod lane;
mod mount;
mod row;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

use self::lane::{Bucket, Lane, ReadySet};
use self::mount::MountEntry;
pub use self::mount::{MountHealth, QueueMount};
use self::row::{KeyEntry, Phase, QueueRow, Spot};
use super::classify::{ParkAfter, ladder_step, policy};
use super::contract::{FlushEvent, FlushKind, FlushRow, Flushed, Loaded, MountId, RowId, Started};
use crate::object::{BucketId, Version};
use crate::origin::{ErrorClass, Landing};

/// Wait of a row whose attempt did not start: the event that supersedes it is on its way.
const NOT_STARTED_WAIT_MS: u64 = 500;
/// Wait of a row in conflict, until the log has parked it.
const CONFLICT_WAIT_MS: u64 = 5_000;

/// Settings of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// Most attempts in flight at once. More use the uplink better and make a fence after a crash cover more keys.
    pub concurrency: usize,
    /// Most bytes of bodies in flight at once; one attempt always may start.
    pub bytes_in_flight_max: u64,
    /// Wait beyond an attempt's deadline before it counts as dead, milliseconds: covers clocks that differ and bytes that
    /// the network still holds.
    pub margin_ms: u64,
    /// Longest time from an attempt's start to its deadline, milliseconds. A started row whose deadline lies further in the
    /// future was written by a clock that was ahead, and is waited for only this long.
    pub attempt_ms_max: u64,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig {
            concurrency: 32,
            bytes_in_flight_max: 256 << 20,
            margin_ms: 10_000,
            attempt_ms_max: 600_000,
        }
    }
}

/// Names one attempt; its outcome is reported under it, and ignored if the queue no longer waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptId {
    slot: u32,
    number: u32,
}

/// What an attempt is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Put or delete the version.
    Write,
    /// Find out what the origin holds; all earlier requests of the key are dead.
    Head,
}

/// One attempt that starts now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Name it when it ends.
    pub attempt: AttemptId,
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: Bytes,
    /// The key's oldest flush row.
    pub version: Version,
    /// What the row does.
    pub kind: FlushKind,
    /// Length of its body.
    pub bytes: u64,
    /// Where it goes.
    pub mount: MountId,
    /// What to do.
    pub work: Work,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The origin holds the version, and the log knows it (`Flushed` was applied).
    Done,
    /// A HEAD found nothing that forbids the attempt.
    GoOn,
    /// Nothing was sent: the row is superseded or expired, or this node does not lead.
    NotStarted,
    /// A HEAD found a foreign object; the row is being parked.
    Conflict,
    /// The origin confirmed, but the log did not: a HEAD will tell again after this time.
    Unrecorded {
        /// How much longer the attempt may live, milliseconds.
        alive_ms: u64,
    },
    /// The origin, or the way to it, failed.
    Failed {
        /// Class of the error.
        class: ErrorClass,
        /// What it proves.
        landing: Landing,
        /// How long the origin asks to wait.
        retry_after_ms: Option<u64>,
        /// How much longer what was sent may live, milliseconds.
        alive_ms: u64,
        /// For people.
        message: String,
    },
}

/// A row that has failed too often; the caller parks it through the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkOrder {
    /// Which.
    pub row: RowId,
    /// Why.
    pub reason: String,
}

/// How many rows a wait still waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// All rows, parked ones included.
    pub rows: u64,
    /// Parked ones among them.
    pub parked: u64,
}

/// Why a row is not in the origin yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowState {
    /// An attempt is under way.
    InFlight,
    /// It goes as soon as there is room.
    Ready,
    /// Set aside.
    Parked {
        /// Why.
        reason: String,
    },
    /// An earlier attempt may still be alive.
    Fenced {
        /// Wall-clock time at which it is dead.
        until_ms: u64,
    },
    /// Waits for a time: retry ladder or `min_interval`.
    Waits {
        /// Wall-clock time.
        until_ms: u64,
        /// The last failure, if that is why.
        last_error: Option<String>,
    },
    /// An older row of the same key goes first.
    BehindOwnKey,
    /// A barrier of its bucket goes first.
    BehindBarrier {
        /// The barrier.
        barrier: Version,
        /// Why the barrier is parked, if it is.
        parked: Option<String>,
    },
    /// It is a barrier (or its mount is `fifo`), and older rows go first.
    BehindOlderRows {
        /// The oldest of them.
        oldest: Version,
        /// Why that one is parked, if it is.
        parked: Option<String>,
    },
    /// Its mount cannot take it now.
    MountNotReady {
        /// Why.
        reason: String,
    },
}

/// One row as shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowView {
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: Bytes,
    /// Version.
    pub version: Version,
    /// What it does.
    pub kind: FlushKind,
    /// Whether it is a barrier.
    pub barrier: bool,
    /// Commit time of the oldest change that it stands for, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Length of the body.
    pub bytes: u64,
    /// Failures so far.
    pub failures: u16,
    /// Why it is not in the origin yet.
    pub state: RowState,
}

/// The queue. See the head of the file.
pub struct FlushQueue {
    config: QueueConfig,
    now_ms: u64,
    random: u64,
    mounts: Vec<MountEntry>,
    buckets: Vec<Bucket>,
    lanes: Vec<Lane>,
    keys: Vec<Option<KeyEntry>>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    hasher: FixedState,
    /// Every row by the oldest change it stands for: waits and ages.
    oldest: BTreeSet<(Version, u32)>,
    /// Parked rows.
    parked: BTreeSet<(Version, u32)>,
    timers: BTreeSet<(u64, u32)>,
    rows: u64,
    bytes: u64,
    in_flight: usize,
    bytes_in_flight: u64,
    /// Rows that stand for changes up to here do not wait for `min_interval`.
    urgent_up_to: Version,
    #[cfg(test)]
    pub(crate) sabotage: sim::Sabotage,
}

impl FlushQueue {
    /// An empty queue. The seed decides the jitter of waits, nothing else.
    pub fn new(config: QueueConfig, mounts: Vec<QueueMount>, seed: u64) -> FlushQueue {
        FlushQueue {
            config,
            now_ms: 0,
            random: seed | 1,
            mounts: mounts.into_iter().map(MountEntry::new).collect(),
            buckets: Vec::new(),
            lanes: Vec::new(),
            keys: Vec::new(),
            free: Vec::new(),
            by_key: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            oldest: BTreeSet::new(),
            parked: BTreeSet::new(),
            timers: BTreeSet::new(),
            rows: 0,
            bytes: 0,
            in_flight: 0,
            bytes_in_flight: 0,
            urgent_up_to: Version(0),
            #[cfg(test)]
            sabotage: sim::Sabotage::default(),
        }
    }

    /// Takes up a row found at start. `now_ms` bounds the fences of started rows.
    pub fn load(&mut self, loaded: Loaded, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        match loaded {
            Loaded::Row(row) => self.insert_row(row, None),
            Loaded::Started(started) => self.insert_started(started),
        }
    }

    /// Takes up a change told by apply. Telling one again changes nothing.
    pub fn observe(&mut self, event: FlushEvent) {
        match event {
            FlushEvent::Row { row, replaces } => self.insert_row(row, replaces),
            FlushEvent::Flushed(flushed) => self.observe_flushed(&flushed),
            FlushEvent::Parked { row, reason } => self.observe_parked(&row, reason),
            FlushEvent::Removed(row) => {
                if let Some(slot) = self.find(row.bucket, &row.key) {
                    self.remove_row(slot, row.version);
                    self.place(slot);
                }
            }
        }
    }

    /// The next attempt to start at `now_ms`, if any may.
    pub fn next_start(&mut self, now_ms: u64) -> Option<Start> {
        self.advance(now_ms);
        if self.in_flight >= self.config.concurrency {
            return None;
        }
        let (slot, trial) = self.pick()?;
        Some(self.start(slot, trial))
    }

    /// When the queue next has something to do by the passing of time alone.
    pub fn wake_at(&self) -> Option<u64> {
        let timer = self.timers.first().map(|(when, _)| *when);
        let trial = self.lanes.iter().filter(|lane| lane.has_ready()).filter_map(|lane| {
            let mount = self.mounts.get(lane.mount?)?;
            mount.wakes_at(self.now_ms)
        });
        timer.into_iter().chain(trial).min()
    }

    /// Reports how an attempt ended. Returns a row to park, if it has failed too often.
    pub fn finish(&mut self, attempt: AttemptId, ended: Ended, now_ms: u64) -> Option<ParkOrder> {
        self.now_ms = self.now_ms.max(now_ms);
        let entry = self.keys.get_mut(attempt.slot as usize)?.as_mut()?;
        let Phase::Flying { number, version, bytes, trial } = entry.phase else { return None };
        if number != attempt.number {
            return None;
        }
        self.in_flight -= 1;
        self.bytes_in_flight -= bytes;
        let mount = entry.mount;
        if let (true, Some(mount)) = (trial, mount.and_then(|mount| self.mounts.get_mut(mount))) {
            mount.trial_in_flight = false;
        }
        let order = self.settle(attempt.slot, version, ended);
        self.place(attempt.slot);
        order
    }

    /// Lets rows that stand for changes up to `up_to` (only those of `keys`, if given) go without `min_interval`.
    pub fn urge(&mut self, up_to: Version, keys: Option<&[(BucketId, Bytes)]>) {
        let mut hurried: Vec<u32> = Vec::new();
        match keys {
            None => {
                self.urgent_up_to = self.urgent_up_to.max(up_to);
                hurried.extend(self.buckets.iter().flat_map(|bucket| bucket.cooling.iter().copied()));
            }
            Some(keys) => {
                for (bucket, key) in keys {
                    let Some(slot) = self.find(*bucket, key) else { continue };
                    if let Some(entry) = self.keys[slot as usize].as_mut() {
                        entry.urgent_up_to = entry.urgent_up_to.max(up_to);
                    }
                    hurried.push(slot);
                }
            }
        }
        hurried.into_iter().for_each(|slot| self.place(slot));
    }

    /// Forgets the failures of a row's key, so that it is tried at once.
    pub fn retry_now(&mut self, bucket: BucketId, key: &Bytes) {
        let Some(slot) = self.find(bucket, key) else { return };
        if let Some(entry) = self.keys[slot as usize].as_mut() {
            entry.reset_failures();
        }
        self.place(slot);
    }

    /// Says whether a mount can take rows, and if not, why.
    pub fn set_mount_ready(&mut self, mount: MountId, ready: Result<(), String>) {
        if let Some(entry) = self.mounts.iter_mut().find(|entry| entry.mount.id == mount) {
            entry.ready = ready;
        }
    }

    /// How a mount does.
    pub fn mount_health(&self, mount: MountId) -> Option<MountHealth> {
        self.mounts.iter().find(|entry| entry.mount.id == mount).map(MountEntry::health)
    }

    /// Rows in the queue.
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of the bodies of all rows.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Parked rows.
    pub fn parked_len(&self) -> usize {
        self.parked.len()
    }

    /// Attempts in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Commit time of the oldest change that has not reached the origin.
    pub fn oldest_since_ms(&self) -> Option<u64> {
        let (since, slot) = *self.oldest.first()?;
        self.entry(slot)?.rows.iter().find(|row| row.since == since).map(|row| row.since_ms)
    }

    /// What a wait for all changes up to `up_to` still waits for; for `keys` only, if given.
    pub fn pending(&self, up_to: Version, keys: Option<&[(BucketId, Bytes)]>) -> Pending {
        let mut pending = Pending::default();
        let mut count = |row: &QueueRow| {
            pending.rows += 1;
            pending.parked += u64::from(row.parked.is_some());
        };
        match keys {
            None => {
                for (since, slot) in self.oldest.range(..=(up_to, u32::MAX)) {
                    let rows = self.entry(*slot).map(|entry| entry.rows.iter()).into_iter().flatten();
                    rows.filter(|row| row.since == *since).for_each(&mut count);
                }
            }
            Some(keys) => {
                for (bucket, key) in keys {
                    let entry = self.find(*bucket, key).and_then(|slot| self.entry(slot));
                    let rows = entry.map(|entry| entry.rows.iter()).into_iter().flatten();
                    rows.filter(|row| row.since <= up_to).for_each(&mut count);
                }
            }
        }
        pending
    }

    /// Whether a wait for `up_to` can stop: nothing is left, or only parked rows. Looks no further than the first row that
    /// is neither.
    pub fn settled(&self, up_to: Version) -> bool {
        let mut waiting = self.oldest.range(..=(up_to, u32::MAX));
        waiting.all(|(since, slot)| {
            let rows = self.entry(*slot).map(|entry| entry.rows.iter()).into_iter().flatten();
            rows.clone().filter(|row| row.since == *since).all(|row| row.parked.is_some())
        })
    }

    /// The rows of one key, oldest first.
    pub fn rows_of(&self, bucket: BucketId, key: &[u8]) -> Vec<RowView> {
        let Some(slot) = self.find(bucket, key) else { return Vec::new() };
        let Some(entry) = self.entry(slot) else { return Vec::new() };
        (0..entry.rows.len()).filter_map(|at| self.view(slot, at)).collect()
    }

    /// At most `max` rows, those with the oldest changes first, or parked ones only.
    pub fn list(&self, parked_only: bool, max: usize) -> Vec<RowView> {
        let set = if parked_only { &self.parked } else { &self.oldest };
        let views = set.iter().filter_map(|(at, slot)| {
            let position = self.entry(*slot)?.rows.iter().position(|row| match parked_only {
                true => row.version == *at,
                false => row.since == *at,
            })?;
            self.view(*slot, position)
        });
        views.take(max).collect()
    }

    fn insert_row(&mut self, row: FlushRow, replaces: Option<Version>) {
        let slot = self.find_or_insert(row.bucket, &row.key);
        let replaced = replaces.and_then(|version| self.remove_row(slot, version));
        let Some(entry) = self.keys[slot as usize].as_mut() else { return };
        if entry.rows.iter().any(|known| known.version == row.version) {
            return;
        }
        let mut fresh = QueueRow::new(&row);
        if let Some(replaced) = replaced {
            // The attempt in flight will bring the older changes; what counts after it is from here on.
            if entry.flies(replaced.version) && entry.after_flight.is_none() {
                entry.after_flight = Some((fresh.version, fresh.since_ms));
            }
            fresh.since = replaced.since;
            fresh.since_ms = replaced.since_ms;
            entry.failures_alone = 0;
            if replaced.parked.is_some() {
                entry.reset_failures();
            }
        }
        let at = entry.rows.partition_point(|known| known.version < fresh.version);
        let bucket = &mut self.buckets[entry.bucket];
        bucket.pending.insert((fresh.version, slot));
        if fresh.barrier {
            bucket.barriers.insert((fresh.version, slot));
        }
        if fresh.parked.is_some() {
            self.parked.insert((fresh.version, slot));
        }
        self.oldest.insert((fresh.since, slot));
        self.rows += 1;
        self.bytes += fresh.bytes;
        let barrier = fresh.barrier;
        entry.rows.insert(at, fresh);
        let cooling: Vec<u32> = if barrier { bucket.cooling.iter().copied().collect() } else { Vec::new() };
        self.place(slot);
        // What a barrier waits for does not wait for `min_interval`.
        cooling.into_iter().for_each(|slot| self.place(slot));
    }

    fn insert_started(&mut self, started: Started) {
        let slot = self.find_or_insert(started.bucket, &started.key);
        let latest = self.now_ms.saturating_add(self.config.attempt_ms_max);
        let until_ms = started.deadline_ms.min(latest).saturating_add(self.config.margin_ms);
        if let Some(entry) = self.keys[slot as usize].as_mut()
            && !matches!(entry.phase, Phase::Flying { .. })
        {
            entry.phase = Phase::Fenced { until_ms, doubt: started.version };
        }
        self.place(slot);
    }

    fn observe_flushed(&mut self, flushed: &Flushed) {
        let Some(slot) = self.find(flushed.bucket, &flushed.key) else { return };
        self.remove_row(slot, flushed.version);
        if let Some(entry) = self.keys[slot as usize].as_mut() {
            // The started row is gone with it: what was in doubt has arrived.
            let settled = match entry.phase {
                Phase::Fenced { doubt, .. } | Phase::Check { doubt } => doubt <= flushed.version,
                Phase::Idle | Phase::Flying { .. } => false,
            };
            if settled {
                entry.phase = Phase::Idle;
            }
            entry.land(flushed.version, &mut self.oldest, slot);
        }
        self.place(slot);
    }

    fn observe_parked(&mut self, id: &RowId, reason: Option<String>) {
        let Some(slot) = self.find(id.bucket, &id.key) else { return };
        let Some(entry) = self.keys[slot as usize].as_mut() else { return };
        let Some(row) = entry.rows.iter_mut().find(|row| row.version == id.version) else { return };
        row.parked = reason.map(String::into_boxed_str);
        if row.parked.is_some() {
            self.parked.insert((id.version, slot));
        } else {
            self.parked.remove(&(id.version, slot));
            entry.reset_failures();
        }
        self.place(slot);
    }

    /// Takes a row out of everything but the ready sets, which [`FlushQueue::place`] keeps.
    fn remove_row(&mut self, slot: u32, version: Version) -> Option<QueueRow> {
        let entry = self.keys.get_mut(slot as usize)?.as_mut()?;
        let at = entry.rows.iter().position(|row| row.version == version)?;
        let row = entry.rows.remove(at);
        let bucket = &mut self.buckets[entry.bucket];
        bucket.pending.remove(&(version, slot));
        bucket.barriers.remove(&(version, slot));
        self.oldest.remove(&(row.since, slot));
        self.parked.remove(&(version, slot));
        self.rows -= 1;
        self.bytes -= row.bytes;
        Some(row)
    }

    fn advance(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        while let Some((when, slot)) = self.timers.first().copied() {
            if when > self.now_ms {
                break;
            }
            self.place(slot);
        }
    }

    /// The oldest eligible key over all lanes, and whether it is the trial of a mount in trouble.
    fn pick(&self) -> Option<(u32, bool)> {
        let mut best: Option<(Version, u32, bool)> = None;
        for lane in &self.lanes {
            let Some(mount) = lane.mount.and_then(|mount| self.mounts.get(mount)) else { continue };
            let Some(trial) = mount.admits(self.now_ms) else { continue };
            let Some((since, slot)) = self.candidate(lane, mount.mount.fifo) else { continue };
            if best.is_none_or(|(oldest, ..)| since < oldest) {
                best = Some((since, slot, trial));
            }
        }
        let (_, slot, trial) = best?;
        let bytes = self.entry(slot)?.rows.first()?.bytes;
        let fits = self.bytes_in_flight + bytes <= self.config.bytes_in_flight_max;
        (fits || self.in_flight == 0).then_some((slot, trial))
    }

    /// The oldest key of a lane that its bucket's barriers let go.
    fn candidate(&self, lane: &Lane, fifo: bool) -> Option<(Version, u32)> {
        let bucket = &self.buckets[lane.bucket];
        let check = lane.first(ReadySet::Check);
        if fifo && !self.ignores_barriers() {
            let oldest = bucket.pending.first().and_then(|(_, slot)| Some((*slot, self.entry(*slot)?)));
            let head = oldest.and_then(|(slot, entry)| match entry.spot {
                Spot::Ready(_, since) if entry.mount == lane.mount => Some((since, slot)),
                _ => None,
            });
            return check.into_iter().chain(head).min();
        }
        let barrier = bucket.barriers.first().copied().filter(|_| !self.ignores_barriers());
        let new_put = lane.first(ReadySet::NewPut);
        let other = lane.first(ReadySet::Other).filter(|(_, slot)| match barrier {
            Some((barrier, _)) => self.head_version(*slot).is_some_and(|version| version < barrier),
            None => true,
        });
        let barrier = match barrier {
            Some(oldest) => lane
                .first(ReadySet::Barrier)
                .filter(|(_, slot)| *slot == oldest.1 && self.head_version(*slot) == Some(oldest.0))
                .filter(|_| bucket.pending.first() == Some(&oldest)),
            None => lane.first(ReadySet::Barrier),
        };
        [check, new_put, other, barrier].into_iter().flatten().min()
    }

    fn start(&mut self, slot: u32, trial: bool) -> Start {
        self.unplace(slot);
        let entry = self.keys[slot as usize].as_mut().expect("a ready key has an entry");
        let row = &entry.rows[0];
        let work = match entry.phase {
            Phase::Check { .. } => Work::Head,
            _ => Work::Write,
        };
        let mount_at = entry.mount.expect("a ready key has a mount");
        let mount = &mut self.mounts[mount_at];
        mount.trial_in_flight |= trial;
        entry.attempts = entry.attempts.wrapping_add(1);
        let doubt = match entry.phase {
            Phase::Check { doubt } => Some(doubt),
            _ => None,
        };
        let start = Start {
            attempt: AttemptId { slot, number: entry.attempts },
            bucket: self.buckets[entry.bucket].id,
            key: entry.key.clone(),
            version: row.version,
            kind: row.kind,
            bytes: row.bytes,
            mount: mount.mount.id,
            work,
        };
        entry.phase = Phase::Flying { number: entry.attempts, version: row.version, bytes: row.bytes, trial };
        entry.doubt = doubt;
        entry.after_flight = None;
        self.in_flight += 1;
        self.bytes_in_flight += start.bytes;
        start
    }

    /// Draws the consequences of an attempt's end for its key and its mount.
    fn settle(&mut self, slot: u32, version: Version, ended: Ended) -> Option<ParkOrder> {
        let now_ms = self.now_ms;
        let margin_ms = self.config.margin_ms;
        let entry = self.keys[slot as usize].as_mut()?;
        let doubt = entry.doubt.take();
        let after = |doubt: Option<Version>| match doubt {
            Some(doubt) => Phase::Check { doubt },
            None => Phase::Idle,
        };
        let mount = entry.mount.and_then(|mount| self.mounts.get_mut(mount));
        match ended {
            Ended::Done => {
                entry.phase = Phase::Idle;
                entry.reset_failures();
                let min_interval_ms = mount.as_ref().map_or(0, |mount| mount.mount.min_interval_ms);
                entry.not_before_ms = now_ms.saturating_add(min_interval_ms);
                entry.cooling = true;
                entry.land(version, &mut self.oldest, slot);
                if let Some(mount) = mount {
                    mount.succeeded();
                }
                self.remove_row(slot, version);
                None
            }
            Ended::GoOn => {
                // An answer to a HEAD is no success of the mount: an origin may read well and refuse every write.
                entry.phase = Phase::Idle;
                entry.wait_until(now_ms);
                entry.exhausted.then(|| self.park_order(slot, version)).flatten()
            }
            Ended::NotStarted => {
                entry.phase = after(doubt);
                entry.wait_until(now_ms.saturating_add(NOT_STARTED_WAIT_MS));
                None
            }
            Ended::Conflict => {
                entry.phase = Phase::Check { doubt: doubt.unwrap_or(version) };
                entry.wait_until(now_ms.saturating_add(CONFLICT_WAIT_MS));
                None
            }
            Ended::Unrecorded { alive_ms } => {
                let until_ms = now_ms.saturating_add(alive_ms).saturating_add(margin_ms);
                entry.phase = Phase::Fenced { until_ms, doubt: version };
                None
            }
            Ended::Failed { class, landing, retry_after_ms, alive_ms, message } => {
                let wrote = doubt.is_none();
                entry.phase = match (landing, class) {
                    // A failed HEAD leaves the doubt that it should have cleared.
                    _ if !wrote => after(doubt),
                    (Landing::Unknown, _) => {
                        let until_ms = now_ms.saturating_add(alive_ms).saturating_add(margin_ms);
                        Phase::Fenced { until_ms, doubt: version }
                    }
                    (Landing::NotApplied, ErrorClass::Conflict) => Phase::Check { doubt: version },
                    (Landing::NotApplied, _) => Phase::Idle,
                };
                self.fail(slot, version, class, retry_after_ms, message)
            }
        }
    }

    /// Climbs the ladder, and decides whether the row or its mount is set aside.
    fn fail(
        &mut self,
        slot: u32,
        version: Version,
        class: ErrorClass,
        retry_after_ms: Option<u64>,
        message: String,
    ) -> Option<ParkOrder> {
        let policy = policy(class);
        let entry = self.keys[slot as usize].as_mut()?;
        let mount = entry.mount.and_then(|mount| self.mounts.get_mut(mount));
        let alone = mount.as_ref().is_some_and(|mount| mount.successes != entry.mount_successes);
        entry.mount_successes = mount.as_ref().map_or(0, |mount| mount.successes);
        entry.failures = entry.failures.saturating_add(1);
        entry.failures_alone = entry.failures_alone.saturating_add(u16::from(alone));
        let step = ladder_step(policy.ladder_ms, entry.failures);
        let wait_ms = jitter(&mut self.random, step).max(retry_after_ms.unwrap_or(0));
        entry.wait_until(self.now_ms.saturating_add(wait_ms));
        entry.last_error = Some(format!("{class}: {message}").into_boxed_str());
        if let Some(mount) = mount.filter(|_| policy.mount_wide) {
            let jittered = jitter(&mut self.random, mount.ladder(policy.ladder_ms));
            mount.failed(slot, self.now_ms, jittered, retry_after_ms, &message, class);
        }
        entry.exhausted |= match policy.park {
            ParkAfter::Never => false,
            ParkAfter::Failures(most) => entry.failures >= most,
            ParkAfter::FailuresAlone(most) => entry.failures_alone >= most,
        };
        // Behind a fence the row may have landed: it is parked after the HEAD, if at all.
        let certain = matches!(entry.phase, Phase::Idle | Phase::Check { .. });
        (entry.exhausted && certain).then(|| self.park_order(slot, version)).flatten()
    }

    fn park_order(&self, slot: u32, version: Version) -> Option<ParkOrder> {
        let entry = self.entry(slot)?;
        entry.rows.iter().any(|row| row.version == version).then(|| ParkOrder {
            row: RowId { bucket: self.buckets[entry.bucket].id, key: entry.key.clone(), version },
            reason: format!(
                "{} attempts failed, the last one: {}",
                entry.failures,
                entry.last_error.as_deref().unwrap_or("unknown"),
            ),
        })
    }

    /// Puts a key where it belongs now: a ready set, the timers, or nowhere. Frees an entry that has nothing left.
    fn place(&mut self, slot: u32) {
        self.unplace(slot);
        let now_ms = self.now_ms;
        #[cfg(test)]
        let sabotage = self.sabotage;
        let Some(entry) = self.keys.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if let Phase::Fenced { until_ms, doubt } = entry.phase
            && now_ms >= until_ms
        {
            entry.phase = Phase::Check { doubt };
        }
        #[cfg(test)]
        match entry.phase {
            Phase::Fenced { doubt, .. } if sabotage.no_fence => entry.phase = Phase::Check { doubt },
            Phase::Flying { version, bytes, .. }
                if sabotage.many_in_flight && entry.rows.first().is_some_and(|r| r.version > version) =>
            {
                self.in_flight -= 1;
                self.bytes_in_flight -= bytes;
                entry.phase = Phase::Idle;
            }
            _ => {}
        }
        #[cfg(test)]
        if sabotage.no_head && matches!(entry.phase, Phase::Check { .. }) {
            entry.phase = Phase::Idle;
        }
        let bucket = &self.buckets[entry.bucket];
        let (phase, head) = (entry.phase, entry.rows.first());
        let spot = match (phase, head) {
            (Phase::Flying { .. }, _) => Spot::Nowhere,
            (Phase::Fenced { until_ms, .. }, _) => Spot::Timer(until_ms),
            (Phase::Idle, None) if now_ms < entry.not_before_ms => Spot::Timer(entry.not_before_ms),
            (Phase::Idle | Phase::Check { .. }, None) => return self.release(slot),
            (_, Some(row)) if row.parked.is_some() => Spot::Nowhere,
            (phase, Some(row)) => {
                let urgent = row.barrier
                    || row.since <= self.urgent_up_to.max(entry.urgent_up_to)
                    || bucket.barriers.last().is_some_and(|(newest, _)| *newest > row.version);
                let waits = now_ms < entry.not_before_ms && !(entry.cooling && urgent);
                match phase {
                    _ if waits => Spot::Timer(entry.not_before_ms),
                    Phase::Check { .. } => Spot::Ready(ReadySet::Check, row.since),
                    _ if row.barrier => Spot::Ready(ReadySet::Barrier, row.since),
                    _ if row.is_new_put() => Spot::Ready(ReadySet::NewPut, row.since),
                    _ => Spot::Ready(ReadySet::Other, row.since),
                }
            }
        };
        entry.spot = spot;
        match spot {
            Spot::Nowhere => {}
            Spot::Timer(when) => {
                self.timers.insert((when, slot));
                if entry.cooling && !entry.rows.is_empty() {
                    self.buckets[entry.bucket].cooling.insert(slot);
                }
            }
            Spot::Ready(set, since) => self.lanes[entry.lane].insert(set, since, slot),
        }
    }

    fn unplace(&mut self, slot: u32) {
        let Some(entry) = self.keys.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        match std::mem::replace(&mut entry.spot, Spot::Nowhere) {
            Spot::Nowhere => {}
            Spot::Timer(when) => {
                self.timers.remove(&(when, slot));
                self.buckets[entry.bucket].cooling.remove(&slot);
            }
            Spot::Ready(set, since) => self.lanes[entry.lane].remove(set, since, slot),
        }
    }

    fn view(&self, slot: u32, at: usize) -> Option<RowView> {
        let entry = self.entry(slot)?;
        let row = entry.rows.get(at)?;
        Some(RowView {
            bucket: self.buckets[entry.bucket].id,
            key: entry.key.clone(),
            version: row.version,
            kind: row.kind,
            barrier: row.barrier,
            since_ms: row.since_ms,
            bytes: row.bytes,
            failures: if at == 0 { entry.failures } else { 0 },
            state: self.state(entry, slot, at),
        })
    }

    fn state(&self, entry: &KeyEntry, slot: u32, at: usize) -> RowState {
        let row = &entry.rows[at];
        if let Some(reason) = &row.parked {
            return RowState::Parked { reason: reason.to_string() };
        }
        match entry.phase {
            Phase::Flying { version, .. } if version == row.version => return RowState::InFlight,
            Phase::Fenced { until_ms, .. } => return RowState::Fenced { until_ms },
            _ if at > 0 => return RowState::BehindOwnKey,
            _ => {}
        }
        let parked = |(version, slot): (Version, u32)| {
            let rows = self.entry(slot).map(|entry| entry.rows.iter()).into_iter().flatten();
            rows.filter(|row| row.version == version).find_map(|row| row.parked.as_deref().map(str::to_owned))
        };
        let mount = entry.mount.and_then(|mount| self.mounts.get(mount));
        if let Some(reason) = mount.map_or(Some("no mount covers the key".to_owned()), MountEntry::trouble) {
            return RowState::MountNotReady { reason };
        }
        if let Spot::Timer(until_ms) = entry.spot {
            let last_error = entry.last_error.as_deref().map(str::to_owned);
            return RowState::Waits { until_ms, last_error };
        }
        let bucket = &self.buckets[entry.bucket];
        let own = (row.version, slot);
        let in_order = row.barrier || mount.is_some_and(|mount| mount.mount.fifo);
        match (bucket.barriers.first(), bucket.pending.first()) {
            (Some(barrier), _) if barrier.0 < row.version && !row.is_new_put() => {
                RowState::BehindBarrier { barrier: barrier.0, parked: parked(*barrier) }
            }
            (_, Some(oldest)) if in_order && *oldest != own => {
                RowState::BehindOlderRows { oldest: oldest.0, parked: parked(*oldest) }
            }
            _ => RowState::Ready,
        }
    }

    fn head_version(&self, slot: u32) -> Option<Version> {
        self.entry(slot)?.rows.first().map(|row| row.version)
    }

    fn entry(&self, slot: u32) -> Option<&KeyEntry> {
        self.keys.get(slot as usize)?.as_ref()
    }

    fn find(&self, bucket: BucketId, key: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((bucket.0, key));
        let same = |slot: &u32| {
            let entry = self.keys[*slot as usize].as_ref();
            entry.is_some_and(|entry| entry.key == key && self.buckets[entry.bucket].id == bucket)
        };
        self.by_key.find(hash, same).copied()
    }

    fn find_or_insert(&mut self, bucket: BucketId, key: &Bytes) -> u32 {
        if let Some(slot) = self.find(bucket, key) {
            return slot;
        }
        let mount = mount::covering(&self.mounts, bucket, key);
        let bucket_at = self.bucket_at(bucket);
        let lane = self.lane_at(bucket_at, mount);
        let entry = KeyEntry::new(bucket_at, mount, lane, key.clone());
        let slot = match self.free.pop() {
            Some(slot) => {
                self.keys[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.keys.push(Some(entry));
                u32::try_from(self.keys.len() - 1).expect("fewer than 2^32 keys fit into memory")
            }
        };
        let hash = self.hasher.hash_one((bucket.0, &key[..]));
        let (keys, buckets, hasher) = (&self.keys, &self.buckets, &self.hasher);
        self.by_key.insert_unique(hash, slot, |slot| match &keys[*slot as usize] {
            Some(entry) => hasher.hash_one((buckets[entry.bucket].id.0, &entry.key[..])),
            None => 0,
        });
        slot
    }

    fn release(&mut self, slot: u32) {
        let Some(entry) = self.keys[slot as usize].take() else { return };
        let hash = self.hasher.hash_one((self.buckets[entry.bucket].id.0, &entry.key[..]));
        if let Ok(occupied) = self.by_key.find_entry(hash, |other| *other == slot) {
            occupied.remove();
        }
        self.free.push(slot);
    }

    fn bucket_at(&mut self, id: BucketId) -> usize {
        if let Some(at) = self.buckets.iter().position(|bucket| bucket.id == id) {
            return at;
        }
        self.buckets.push(Bucket::new(id));
        self.buckets.len() - 1
    }

    fn lane_at(&mut self, bucket: usize, mount: Option<usize>) -> usize {
        if let Some(at) = self.lanes.iter().position(|lane| lane.bucket == bucket && lane.mount == mount) {
            return at;
        }
        self.lanes.push(Lane::new(bucket, mount));
        self.lanes.len() - 1
    }

    fn ignores_barriers(&self) -> bool {
        #[cfg(test)]
        return self.sabotage.no_barrier;
        #[cfg(not(test))]
        false
    }
}

/// A value of the range by xorshift: good enough to spread waits, and repeatable.
fn jitter(random: &mut u64, range: std::ops::RangeInclusive<u64>) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let width = range.end() - range.start() + 1;
    range.start() + *random % width
}
