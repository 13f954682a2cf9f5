//! The flush queue: which row may go to the origin next, decided by values alone.
//!
//! Owns the order: per key, per bucket (barriers), over all (oldest first, bounded), and every wait
//! (fences, backoff, `min_interval`, mounts in trouble). Pure: no clock, no I/O, no randomness but its
//! seed. Does not own rows: they are replicated and told by [`FlushEvent`]s; the queue is rebuilt from
//! them at every start and change of leader.
//!
//! What must hold:
//! - **One request per key.** While an attempt flies, or may still fly, no other starts for its key.
//! - **The fence.** After an unknown outcome, and for every started row found at start, the key waits
//!   until the attempt's deadline and the margin have passed; then a HEAD says what the origin holds;
//!   only then it goes on.
//! - **Older uploads.** While an upload that is not wanted any more may still become the key's object, nothing is sent for
//!   the key: an attempt first gives it up at the origin, and asks what is there. If the origin refuses that, the row is
//!   parked, for people to see.
//! - **Order per key.** Rows of one key go oldest first.
//! - **Barriers.** Let B be the oldest pending barrier of a bucket (parked ones count): a row before B
//!   may go; B itself when nothing older in its bucket is pending; a row behind B only if it puts a key
//!   that was not there before and is no barrier itself.
//!
//! What a crash leaves: the replicated rows. Backoff and urgency are forgotten, fences are rebuilt from
//! started rows.
//!
//! Cost: about 300 bytes a row; every step is a few searches in ordered sets, and one look at each lane
//! (a bucket's share of a mount; there are as many as mounts with rows).

mod attempt;
mod lane;
mod load;
mod mount;
mod row;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

pub use self::attempt::{AttemptId, Ended, ParkOrder, Start, Work};
use self::lane::{Bucket, Lane, ReadySet};
pub use self::load::QueueLoad;
use self::mount::MountEntry;
pub use self::mount::{MountHealth, QueueMount};
use self::row::{Age, Flight, KeyEntry, ParkReason, Phase, QueueRow, Spot};
pub use self::view::{Pending, RowPlace, RowState, RowView};
use super::classify::{FAST, SLOW};
use super::contract::{FlushEvent, FlushRow, Flushed, MountId, RowId, StaleTransfer};
use crate::object::{BucketId, Version};

/// Settings of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// Most attempts in flight at once. More use the uplink better and make a fence after a crash cover
    /// more keys.
    pub concurrency: usize,
    /// Most bytes of bodies in flight at once; one attempt always may start.
    pub bytes_in_flight_max: u64,
    /// Most bytes that one attempt counts for: a body that goes in parts is never in flight whole.
    pub bytes_each_max: u64,
    /// Wait beyond an attempt's deadline before it counts as dead, milliseconds: covers clocks that
    /// differ and bytes that the network still holds.
    pub margin_ms: u64,
    /// Longest time from an attempt's start to its deadline, milliseconds. A started row whose deadline
    /// lies further in the future was written by a clock that was ahead, and is waited for only this
    /// long.
    pub attempt_ms_max: u64,
    /// First wait after a failure, and the longest one, milliseconds: the scale of the ladders in `classify`, and their top.
    pub retry_ms: (u64, u64),
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig {
            concurrency: 32,
            bytes_in_flight_max: 64 << 20,
            bytes_each_max: 16 << 20,
            margin_ms: 10_000,
            attempt_ms_max: 600_000,
            retry_ms: (FAST.0, SLOW.1),
        }
    }
}

impl QueueConfig {
    /// A ladder of `classify`, on this config's scale.
    fn ladder(&self, (first, longest): (u64, u64)) -> (u64, u64) {
        let longest = longest.min(self.retry_ms.1);
        (first.saturating_mul(self.retry_ms.0).div_ceil(FAST.0).min(longest), longest)
    }
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
    /// By the slot of their key: one request per key.
    flights: BTreeMap<u32, Flight>,
    attempts: u32,
    /// Uploads that may still become their key's object, of older versions or of one that was begun anew.
    stale: BTreeMap<(BucketId, Bytes), Vec<(Version, MountId)>>,
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
            flights: BTreeMap::new(),
            attempts: 0,
            stale: BTreeMap::new(),
            urgent_up_to: Version(0),
            #[cfg(test)]
            sabotage: sim::Sabotage::default(),
        }
    }

    /// Takes up a change told by apply. Telling one again changes nothing.
    pub fn observe(&mut self, event: FlushEvent) {
        match event {
            FlushEvent::Row { row, replaces } => self.insert_row(row, replaces),
            FlushEvent::Flushed(flushed) => self.observe_flushed(&flushed),
            FlushEvent::Unmounted(mount) => self.observe_unmounted(mount),
            FlushEvent::Stale(stale) => {
                self.add_stale(&stale);
                self.place_key(stale.bucket, &stale.key);
            }
            FlushEvent::GivenUp(stale) => {
                self.remove_stale(&stale);
                self.place_key(stale.bucket, &stale.key);
            }
            // No row: the worker sees to it.
            FlushEvent::Asked(_) | FlushEvent::Answered { .. } => {}
            FlushEvent::Parked { row, reason, at_ms } => self.observe_parked(&row, reason, at_ms),
            FlushEvent::Removed(row) => {
                if let Some(slot) = self.find(row.bucket, &row.key) {
                    self.remove_row(slot, row.version);
                    self.place(slot);
                }
            }
        }
    }

    /// Whether attempts of the upload's key will give it up, or are to be waited for before it is.
    pub fn sees_to(&self, stale: &StaleTransfer) -> bool {
        let name = (stale.bucket, stale.key.clone());
        let blocks = self.stale.get(&name).is_some_and(|known| known.contains(&(stale.version, stale.mount)));
        let entry = self.find(stale.bucket, &stale.key).and_then(|slot| self.entry(slot));
        blocks
            && entry.is_some_and(|entry| {
                // Behind a row that is set aside nothing is attempted, nor where nothing is written any more.
                let written =
                    self.mount_of(entry).is_some_and(|mount| !mount.forgotten && !mount.mount.read_only);
                let goes = written && entry.rows.first().is_some_and(|row| row.parked.is_none());
                entry.phase.is_under_way() || goes
            })
    }

    /// The next attempt to start at `now_ms`, if any may.
    pub fn next_start(&mut self, now_ms: u64) -> Option<Start> {
        self.advance(now_ms);
        if self.flights.len() >= self.config.concurrency {
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

    /// Lets rows that stand for changes up to `up_to` (only those of `keys`, if given) go without
    /// `min_interval`.
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

    /// Says whether a mount can take rows, and if not, why. A forgotten one stays as it is.
    pub fn set_mount_ready(&mut self, mount: MountId, ready: Result<(), String>) {
        if let Some(entry) = self.mounts.iter_mut().find(|entry| entry.mount.id == mount)
            && !entry.forgotten
        {
            entry.ready = ready;
        }
    }

    fn observe_unmounted(&mut self, mount: MountId) {
        self.set_mount_ready(mount, Err("the mount is being forgotten".to_owned()));
        if let Some(entry) = self.mounts.iter_mut().find(|entry| entry.mount.id == mount) {
            entry.forgotten = true;
        }
    }

    fn add_stale(&mut self, stale: &StaleTransfer) {
        let covering = mount::covering(&self.mounts, stale.bucket, &stale.key);
        // In another place it becomes another object.
        let here = covering.is_some_and(|at| {
            let mount = &self.mounts[at].mount;
            stale.is_at(mount.id, &mount.place(&stale.key))
        });
        if stale.tried && here {
            let known = self.stale.entry((stale.bucket, stale.key.clone())).or_default();
            if !known.contains(&(stale.version, stale.mount)) {
                known.push((stale.version, stale.mount));
            }
        }
    }

    fn remove_stale(&mut self, stale: &StaleTransfer) {
        let name = (stale.bucket, stale.key.clone());
        let Some(known) = self.stale.get_mut(&name) else { return };
        known.retain(|known| *known != (stale.version, stale.mount));
        if known.is_empty() {
            self.stale.remove(&name);
        }
    }

    fn insert_row(&mut self, row: FlushRow, replaces: Option<Version>) {
        let slot = self.find_or_insert(row.bucket, &row.key);
        let replaced = replaces.and_then(|version| self.remove_row(slot, version));
        let Some(entry) = self.keys[slot as usize].as_mut() else { return };
        if let Some(known) = entry.rows.iter_mut().find(|known| known.version == row.version) {
            // Told again (it was loaded already); but what it replaced has just gone, and it stands for
            // that too.
            if let Some(replaced) = replaced.filter(|replaced| replaced.since < known.since) {
                let before = known.age();
                known.take_over(&replaced);
                let now = known.age();
                self.age_anew(slot, (before, now));
            }
            return self.place(slot);
        }
        let mut fresh = QueueRow::new(&row);
        if let Some(replaced) = replaced {
            if let Some(flight) = self.flights.get_mut(&slot)
                && flight.version == replaced.version
            {
                // What flies brings the older changes; what counts after it is from here on.
                flight.after.get_or_insert((fresh.version, fresh.since_ms));
            }
            fresh.take_over(&replaced);
            if replaced.parked.is_some() {
                entry.reset_failures();
            } else if let Some(trouble) = &mut entry.trouble {
                trouble.failures_alone = 0;
            }
        }
        let bucket = &mut self.buckets[self.lanes[entry.lane as usize].bucket];
        bucket.pending.insert((fresh.version, slot));
        if fresh.barrier {
            bucket.barriers.insert((fresh.version, slot));
        }
        if fresh.parked.is_some() {
            self.parked.insert((fresh.version, slot));
        }
        let age = fresh.age();
        self.rows += 1;
        self.bytes += fresh.bytes;
        // What a barrier waits for does not wait for `min_interval`.
        let hurried: Vec<u32> =
            if fresh.barrier { bucket.cooling.iter().copied().collect() } else { Vec::new() };
        let at = entry.rows.partition_point(|known| known.version < fresh.version);
        entry.rows.insert(at, fresh);
        self.add_age(slot, age);
        self.place(slot);
        hurried.into_iter().for_each(|slot| self.place(slot));
    }

    fn observe_flushed(&mut self, flushed: &Flushed) {
        let Some(slot) = self.find(flushed.bucket, &flushed.key) else { return };
        self.remove_row(slot, flushed.version);
        if let Some(entry) = self.keys[slot as usize].as_mut() {
            // The started row is gone with it: what was in doubt has arrived.
            let settled = match entry.phase {
                Phase::Fenced { doubt, .. } | Phase::Check { doubt } => doubt <= flushed.version,
                Phase::Idle | Phase::Flying => false,
            };
            if settled {
                entry.phase = Phase::Idle;
            }
            // A look may tell of an older version than the one that it is for: then nothing says what came after that.
            let flight = self.flights.get(&slot).filter(|flight| flight.version == flushed.version);
            let after = flight.and_then(|flight| flight.after);
            let aged = entry.land(flushed.version, after);
            aged.into_iter().for_each(|aged| self.age_anew(slot, aged));
        }
        self.place(slot);
    }

    fn observe_parked(&mut self, id: &RowId, reason: Option<String>, at_ms: u64) {
        let Some(slot) = self.find(id.bucket, &id.key) else { return };
        let Some(entry) = self.keys[slot as usize].as_mut() else { return };
        let Some(row) = entry.rows.iter_mut().find(|row| row.version == id.version) else { return };
        let before = row.age();
        row.parked = reason.map(ParkReason::boxed);
        if row.parked.is_some() {
            self.parked.insert((id.version, slot));
        } else if self.parked.remove(&(id.version, slot)) {
            row.waits_since_ms = row.waits_since_ms.max(at_ms);
        }
        let (now, parked) = (row.age(), row.parked.is_some());
        if !parked {
            entry.reset_failures();
        }
        self.age_anew(slot, (before, now));
        self.place(slot);
    }

    /// Takes a row out of everything but the ready sets, which [`FlushQueue::place`] keeps.
    fn remove_row(&mut self, slot: u32, version: Version) -> Option<QueueRow> {
        let entry = self.keys.get_mut(slot as usize)?.as_mut()?;
        let at = entry.rows.iter().position(|row| row.version == version)?;
        let row = entry.rows.remove(at);
        let bucket = &mut self.buckets[self.lanes[entry.lane as usize].bucket];
        bucket.pending.remove(&(version, slot));
        bucket.barriers.remove(&(version, slot));
        self.parked.remove(&(version, slot));
        self.rows -= 1;
        self.bytes -= row.bytes;
        self.remove_age(slot, row.age());
        Some(row)
    }

    /// The ages of a key's mount, if they are asked for.
    fn aging_of(&mut self, slot: u32) -> Option<&mut BTreeSet<(u64, Version, u32)>> {
        let lane = self.entry(slot)?.lane as usize;
        let entry = self.mounts.get_mut(self.lanes[lane].mount?)?;
        entry.mount.tells_age.then_some(&mut entry.aging)
    }

    fn add_age(&mut self, slot: u32, age: Age) {
        self.oldest.insert((age.since, slot));
        if let (Some((since_ms, version)), Some(aging)) = (age.waits, self.aging_of(slot)) {
            aging.insert((since_ms, version, slot));
        }
    }

    fn remove_age(&mut self, slot: u32, age: Age) {
        self.oldest.remove(&(age.since, slot));
        if let (Some((since_ms, version)), Some(aging)) = (age.waits, self.aging_of(slot)) {
            aging.remove(&(since_ms, version, slot));
        }
    }

    fn age_anew(&mut self, slot: u32, (before, now): (Age, Age)) {
        self.remove_age(slot, before);
        self.add_age(slot, now);
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
        let cost = |bytes: u64| bytes.min(self.config.bytes_each_max);
        let bytes = cost(self.entry(slot)?.rows.first()?.bytes);
        let flying: u64 = self.flights.values().map(|flight| cost(flight.bytes)).sum();
        let fits = flying.saturating_add(bytes) <= self.config.bytes_in_flight_max;
        (fits || self.flights.is_empty()).then_some((slot, trial))
    }

    /// The oldest key of a lane that its bucket's barriers let go.
    fn candidate(&self, lane: &Lane, fifo: bool) -> Option<(Version, u32)> {
        let bucket = &self.buckets[lane.bucket];
        let check = lane.first(ReadySet::Check);
        if fifo && !self.ignores_barriers() {
            let oldest = bucket.pending.first().and_then(|(_, slot)| Some((*slot, self.entry(*slot)?)));
            let head = oldest.and_then(|(slot, entry)| match entry.spot {
                Spot::Ready(_, since) if std::ptr::eq(&self.lanes[entry.lane as usize], lane) => {
                    Some((since, slot))
                }
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

    fn place_key(&mut self, bucket: BucketId, key: &[u8]) {
        if let Some(slot) = self.find(bucket, key) {
            self.place(slot);
        }
    }

    /// Puts a key where it belongs now: a ready set, the timers, or nowhere. Frees an entry that has
    /// nothing left.
    fn place(&mut self, slot: u32) {
        self.unplace(slot);
        let Some(spot) = self.spot(slot) else { return self.release(slot) };
        let Some(entry) = self.keys[slot as usize].as_mut() else { return };
        entry.spot = spot;
        let lane = entry.lane as usize;
        match spot {
            Spot::Nowhere => {}
            Spot::Timer(when) => {
                self.timers.insert((when, slot));
                if entry.cooling && !entry.rows.is_empty() {
                    self.buckets[self.lanes[lane].bucket].cooling.insert(slot);
                }
            }
            Spot::Ready(set, since) => self.lanes[lane].insert(set, since, slot),
        }
    }

    /// Where a key belongs now; `None` if nothing is left of it.
    fn spot(&mut self, slot: u32) -> Option<Spot> {
        let now_ms = self.now_ms;
        #[cfg(test)]
        self.sabotage(slot);
        let obeys_stale = !self.ignores_stale();
        let entry = self.keys.get_mut(slot as usize)?.as_mut()?;
        if let Phase::Fenced { until_ms, doubt } = entry.phase
            && now_ms >= until_ms
        {
            entry.phase = Phase::Check { doubt };
        }
        let bucket = &self.buckets[self.lanes[entry.lane as usize].bucket];
        if entry.phase == Phase::Idle && !entry.rows.is_empty() && !self.stale.is_empty() && obeys_stale {
            let stale = self.stale.get(&(bucket.id, entry.key.clone()));
            if let Some((doubt, _)) = stale.and_then(|known| known.iter().max()) {
                entry.phase = Phase::Check { doubt: *doubt };
            }
        }
        let spot = match (entry.phase, entry.rows.first()) {
            (Phase::Flying, _) => Spot::Nowhere,
            (Phase::Fenced { until_ms, .. }, _) => Spot::Timer(until_ms),
            (Phase::Idle, None) if now_ms < entry.not_before_ms => Spot::Timer(entry.not_before_ms),
            (Phase::Idle | Phase::Check { .. }, None) => return None,
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
        Some(spot)
    }

    fn unplace(&mut self, slot: u32) {
        let Some(entry) = self.keys.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let lane = entry.lane as usize;
        match std::mem::replace(&mut entry.spot, Spot::Nowhere) {
            Spot::Nowhere => {}
            Spot::Timer(when) => {
                self.timers.remove(&(when, slot));
                self.buckets[self.lanes[lane].bucket].cooling.remove(&slot);
            }
            Spot::Ready(set, since) => self.lanes[lane].remove(set, since, slot),
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
            entry.is_some_and(|entry| entry.key == key && self.bucket_id(entry) == bucket)
        };
        self.by_key.find(hash, same).copied()
    }

    fn find_or_insert(&mut self, bucket: BucketId, key: &Bytes) -> u32 {
        if let Some(slot) = self.find(bucket, key) {
            return slot;
        }
        let mount = mount::covering(&self.mounts, bucket, key);
        let bucket_at = self.bucket_at(bucket);
        let entry = KeyEntry::new(self.lane_at(bucket_at, mount), key.clone());
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
        let mut by_key = std::mem::take(&mut self.by_key);
        by_key.insert_unique(hash, slot, |slot| match self.entry(*slot) {
            Some(entry) => self.hasher.hash_one((self.bucket_id(entry).0, &entry.key[..])),
            None => 0,
        });
        self.by_key = by_key;
        slot
    }

    fn release(&mut self, slot: u32) {
        let Some(entry) = self.keys[slot as usize].take() else { return };
        let hash = self.hasher.hash_one((self.bucket_id(&entry).0, &entry.key[..]));
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

    fn lane_at(&mut self, bucket: usize, mount: Option<usize>) -> u32 {
        let known = self.lanes.iter().position(|lane| lane.bucket == bucket && lane.mount == mount);
        let at = known.unwrap_or_else(|| {
            self.lanes.push(Lane::new(bucket, mount));
            self.lanes.len() - 1
        });
        u32::try_from(at).expect("there are few mounts")
    }

    fn bucket_id(&self, entry: &KeyEntry) -> BucketId {
        self.buckets[self.lanes[entry.lane as usize].bucket].id
    }

    fn mount_of(&self, entry: &KeyEntry) -> Option<&MountEntry> {
        self.mounts.get(self.lanes[entry.lane as usize].mount?)
    }

    fn ignores_stale(&self) -> bool {
        #[cfg(test)]
        return self.sabotage.no_abort;
        #[cfg(not(test))]
        false
    }

    fn ignores_barriers(&self) -> bool {
        #[cfg(test)]
        return self.sabotage.no_barrier;
        #[cfg(not(test))]
        false
    }
}
