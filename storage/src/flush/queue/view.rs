//! What the queue shows: counts, waits, and for each row the reason why it is not in the origin yet.

use std::ops::Bound;

use bytes::Bytes;

use super::mount::MountEntry;
use super::row::{KeyEntry, Phase, QueueRow, Spot};
use super::{FlushQueue, MountHealth};
use crate::flush::contract::{FlushKind, MountId};
use crate::object::{BucketId, Version};

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

/// Place of a row in a listing. Means nothing after the node stopped working the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlace {
    /// Version by which the rows are ordered.
    pub version: u64,
    /// Tells rows of one version apart.
    pub slot: u32,
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

impl FlushQueue {
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
        self.flights.len()
    }

    /// Commit time of the oldest change that has not reached the origin.
    pub fn oldest_since_ms(&self) -> Option<u64> {
        let (since, slot) = *self.oldest.first()?;
        self.entry(slot)?.rows.iter().find(|row| row.since == since).map(|row| row.since_ms)
    }

    /// Since when something has waited for a mount whose age is asked for, milliseconds since the Unix epoch; rows that are
    /// set aside are left out.
    pub fn waits_since_ms(&self, mount: MountId) -> Option<u64> {
        self.waits_longest(mount).map(|(since_ms, ..)| since_ms)
    }

    fn waits_longest(&self, mount: MountId) -> Option<(u64, Version, u32)> {
        let entry = self.mounts.iter().find(|entry| entry.mount.id == mount)?;
        entry.aging.first().copied()
    }

    /// Whether what has waited longest cannot go before something that is set aside.
    pub fn waits_for_parked(&self, mount: MountId) -> bool {
        let Some((_, version, slot)) = self.waits_longest(mount) else { return false };
        let Some(key) = self.entry(slot) else { return false };
        let Some(at) = key.rows.iter().position(|row| row.version == version) else { return false };
        match self.state(key, slot, at) {
            RowState::BehindBarrier { parked, .. } | RowState::BehindOlderRows { parked, .. } => {
                parked.is_some()
            }
            RowState::BehindOwnKey => key.rows[..at].iter().any(|row| row.parked.is_some()),
            _ => false,
        }
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

    /// Whether a wait for `up_to` can stop: nothing is left, or only parked rows. Looks no further than
    /// the first row that is neither.
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
        self.page(parked_only, None, max).0
    }

    /// As [`FlushQueue::list`], from behind `after` on; with the place to go on from, if there may be more.
    pub fn page(
        &self,
        parked_only: bool,
        after: Option<RowPlace>,
        max: usize,
    ) -> (Vec<RowView>, Option<RowPlace>) {
        let set = if parked_only { &self.parked } else { &self.oldest };
        let from = match after {
            Some(place) => Bound::Excluded((Version(place.version), place.slot)),
            None => Bound::Unbounded,
        };
        let mut views = Vec::new();
        let mut last = None;
        for (at, slot) in set.range((from, Bound::Unbounded)) {
            if views.len() == max {
                return (views, last);
            }
            last = Some(RowPlace { version: at.0, slot: *slot });
            let position = self.entry(*slot).and_then(|entry| {
                entry.rows.iter().position(|row| match parked_only {
                    true => row.version == *at,
                    false => row.since == *at,
                })
            });
            views.extend(position.and_then(|position| self.view(*slot, position)));
        }
        (views, None)
    }

    fn view(&self, slot: u32, at: usize) -> Option<RowView> {
        let entry = self.entry(slot)?;
        let row = entry.rows.get(at)?;
        Some(RowView {
            bucket: self.bucket_id(entry),
            key: entry.key.clone(),
            version: row.version,
            kind: row.kind,
            barrier: row.barrier,
            since_ms: row.since_ms,
            bytes: row.bytes,
            failures: if at == 0 { entry.failures() } else { 0 },
            state: self.state(entry, slot, at),
        })
    }

    fn state(&self, entry: &KeyEntry, slot: u32, at: usize) -> RowState {
        let row = &entry.rows[at];
        if let Some(reason) = &row.parked {
            return RowState::Parked { reason: reason.0.clone() };
        }
        match entry.phase {
            Phase::Flying if at == 0 => return RowState::InFlight,
            Phase::Fenced { until_ms, .. } => return RowState::Fenced { until_ms },
            _ if at > 0 => return RowState::BehindOwnKey,
            _ => {}
        }
        let parked = |(version, slot): (Version, u32)| {
            let rows = self.entry(slot).map(|entry| entry.rows.iter()).into_iter().flatten();
            rows.filter(|row| row.version == version).find_map(|row| Some(row.parked.as_ref()?.0.clone()))
        };
        let mount = self.mount_of(entry);
        if let Some(reason) = mount.map_or(Some("no mount covers the key".to_owned()), MountEntry::trouble) {
            return RowState::MountNotReady { reason };
        }
        if let Spot::Timer(until_ms) = entry.spot {
            let last_error = entry.trouble.as_ref().map(|trouble| trouble.last_error.clone());
            return RowState::Waits { until_ms, last_error };
        }
        let bucket = &self.buckets[self.lanes[entry.lane as usize].bucket];
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
}
