//! A mount as the queue sees it: which keys it covers, and whether its origin takes rows now.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::flush::classify::ladder_step;
use crate::flush::contract::{MountId, UploadPlace};
use crate::flush::upload::origin_key;
use crate::object::{BucketId, Version};

/// Distinct keys that must fail one after the other, with no success between, before the mount counts as
/// down.
const DOWN_AFTER_KEYS: usize = 3;
/// Longest wait between two trials of a mount that is down, milliseconds.
const TRIAL_MS_MAX: u64 = 15_000;

/// What the queue must know of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMount {
    /// Number.
    pub id: MountId,
    /// Bucket.
    pub bucket: BucketId,
    /// Keys under it begin with this; the longest prefix wins.
    pub prefix: Bytes,
    /// Whether rows go strictly in the order of their versions, one at a time.
    pub fifo: bool,
    /// Least time between two uploads of one key, milliseconds.
    pub min_interval_ms: u64,
    /// Whether its rows wait until it is written again.
    pub read_only: bool,
    /// Its origin, as records name it ([`UploadPlace::root`]).
    pub origin_root: String,
    /// What origin keys begin with.
    pub origin_prefix: String,
    /// Whether the age of its oldest change is asked for.
    pub tells_age: bool,
}

impl QueueMount {
    /// Where it has a key.
    pub(super) fn place(&self, key: &[u8]) -> UploadPlace {
        let rest = key.get(self.prefix.len()..).unwrap_or_default();
        UploadPlace { root: self.origin_root.clone(), key: origin_key(&self.origin_prefix, rest).0 }
    }
}

/// How a mount does, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountHealth {
    /// It takes rows.
    Up,
    /// It is not attached, or was not reached yet.
    NotReady {
        /// Why.
        reason: String,
    },
    /// Its rows fail one after the other.
    Down {
        /// Since when, milliseconds since the Unix epoch.
        since_ms: u64,
        /// The last failure.
        reason: String,
    },
}

pub(super) struct MountEntry {
    pub(super) mount: QueueMount,
    pub(super) ready: Result<(), String>,
    /// Never ready again.
    pub(super) forgotten: bool,
    pub(super) trial_in_flight: bool,
    /// Counts successes; wraps.
    pub(super) successes: u32,
    /// Its rows that are not parked, by how long each has waited, if the age is asked for.
    pub(super) aging: BTreeSet<(u64, Version, u32)>,
    /// Keys that failed since the last success.
    failing: SmallVec<[u32; DOWN_AFTER_KEYS]>,
    down: Option<Down>,
    /// The origin asked for a pause until then.
    paused_until_ms: u64,
}

struct Down {
    since_ms: u64,
    trial_at_ms: u64,
    trials: u16,
    reason: String,
}

impl MountEntry {
    pub(super) fn new(mount: QueueMount) -> MountEntry {
        MountEntry {
            mount,
            ready: Err("the origin was not reached yet".to_owned()),
            forgotten: false,
            trial_in_flight: false,
            successes: 0,
            aging: BTreeSet::new(),
            failing: SmallVec::new(),
            down: None,
            paused_until_ms: 0,
        }
    }

    /// Whether a row may start now; true inside if it would be the trial.
    pub(super) fn admits(&self, now_ms: u64) -> Option<bool> {
        if self.ready.is_err() || self.mount.read_only || now_ms < self.paused_until_ms {
            return None;
        }
        match &self.down {
            None => Some(false),
            Some(down) => (!self.trial_in_flight && now_ms >= down.trial_at_ms).then_some(true),
        }
    }

    /// When a mount that admits nothing now may admit something by the passing of time.
    pub(super) fn wakes_at(&self, now_ms: u64) -> Option<u64> {
        if self.ready.is_err() || self.mount.read_only || self.trial_in_flight {
            return None;
        }
        let trial = self.down.as_ref().map_or(0, |down| down.trial_at_ms);
        let when = trial.max(self.paused_until_ms);
        (when > now_ms).then_some(when)
    }

    pub(super) fn ladder(&self, ladder_ms: (u64, u64), least_ms: u64) -> RangeInclusive<u64> {
        let trials = self.down.as_ref().map_or(1, |down| down.trials + 1);
        ladder_step((ladder_ms.0.max(least_ms), ladder_ms.1.min(TRIAL_MS_MAX)), trials)
    }

    pub(super) fn succeeded(&mut self) {
        self.successes = self.successes.wrapping_add(1);
        self.failing.clear();
        self.down = None;
    }

    pub(super) fn failed(
        &mut self,
        slot: u32,
        now_ms: u64,
        wait_ms: u64,
        retry_after_ms: Option<u64>,
        reason: &str,
    ) {
        if let Some(pause) = retry_after_ms {
            self.paused_until_ms = self.paused_until_ms.max(now_ms.saturating_add(pause));
        }
        let reason = reason.to_owned();
        let trial_at_ms = now_ms.saturating_add(wait_ms);
        if let Some(down) = &mut self.down {
            // What was in flight when the mount went down fails too; only trials climb the ladder.
            if now_ms >= down.trial_at_ms {
                down.trials = down.trials.saturating_add(1).min(100);
                down.trial_at_ms = trial_at_ms;
            }
            down.reason = reason;
            return;
        }
        if !self.failing.contains(&slot) {
            self.failing.push(slot);
        }
        if self.failing.len() >= DOWN_AFTER_KEYS {
            self.down = Some(Down { since_ms: now_ms, trial_at_ms, trials: 1, reason });
        }
    }

    /// Why it takes no rows now.
    pub(super) fn trouble(&self) -> Option<String> {
        match self.health() {
            MountHealth::Up if self.mount.read_only => {
                Some("the mount is read-only: changes from before wait until it is not".to_owned())
            }
            MountHealth::Up => None,
            MountHealth::NotReady { reason } | MountHealth::Down { reason, .. } => Some(reason),
        }
    }

    pub(super) fn health(&self) -> MountHealth {
        match (&self.ready, &self.down) {
            (Err(reason), _) => MountHealth::NotReady { reason: reason.clone() },
            (Ok(()), Some(down)) => {
                MountHealth::Down { since_ms: down.since_ms, reason: down.reason.clone() }
            }
            (Ok(()), None) => MountHealth::Up,
        }
    }
}

/// The mount with the longest prefix that covers a key.
pub(super) fn covering(mounts: &[MountEntry], bucket: BucketId, key: &[u8]) -> Option<usize> {
    let covers = |entry: &MountEntry| entry.mount.bucket == bucket && key.starts_with(&entry.mount.prefix);
    let all = mounts.iter().enumerate().filter(|(_, entry)| covers(entry));
    all.max_by_key(|(_, entry)| entry.mount.prefix.len()).map(|(at, _)| at)
}
