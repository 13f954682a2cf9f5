//! One key of the queue: its rows, its phase, and where it stands.

use bytes::Bytes;
use smallvec::SmallVec;

use super::lane::ReadySet;
use crate::flush::contract::{FlushKind, FlushRow};
use crate::object::Version;

/// What may be on its way to the origin for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing, for certain.
    Idle,
    /// An attempt of ours; the queue's flights say which.
    Flying,
    /// An attempt that may be alive until then.
    Fenced {
        /// Wall-clock time.
        until_ms: u64,
        /// Its version.
        doubt: Version,
    },
    /// Nothing any more; but what the origin holds must be asked before anything is sent.
    Check {
        /// Version of the last attempt.
        doubt: Version,
    },
}

impl Phase {
    /// Whether a request may be on its way.
    pub(super) fn is_under_way(self) -> bool {
        matches!(self, Phase::Flying | Phase::Fenced { .. })
    }
}

/// Where a key stands between two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spot {
    /// In flight, or parked.
    Nowhere,
    /// In the timers.
    Timer(u64),
    /// In a ready set of its lane, under this change.
    Ready(ReadySet, Version),
}

/// A flush row without what its key says already.
#[derive(Debug, Clone)]
pub(super) struct QueueRow {
    pub(super) version: Version,
    /// The oldest change it stands for: rows replaced before they reached the origin live on in this.
    pub(super) since: Version,
    /// Commit time of that change.
    pub(super) since_ms: u64,
    /// Since when something has waited for the origin: the same, but what was set aside before waited for a hand. A
    /// restart forgets the latter.
    pub(super) waits_since_ms: u64,
    pub(super) bytes: u64,
    /// Why it was set aside; behind a thin pointer because few rows were.
    pub(super) parked: Option<Box<ParkReason>>,
    pub(super) kind: FlushKind,
    pub(super) barrier: bool,
    pub(super) overwrite: bool,
    pub(super) blind: bool,
}

/// What a row is sorted by where ages count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Age {
    /// The oldest change it stands for.
    pub(super) since: Version,
    /// Since when it waits for the origin, and its version; `None` if it is set aside.
    pub(super) waits: Option<(u64, Version)>,
}

/// Why a row was set aside.
#[derive(Debug, Clone)]
pub(super) struct ParkReason(pub(super) String);

impl ParkReason {
    pub(super) fn boxed(reason: String) -> Box<ParkReason> {
        Box::new(ParkReason(reason))
    }
}

impl QueueRow {
    pub(super) fn new(row: &FlushRow) -> QueueRow {
        QueueRow {
            version: row.version,
            since: row.version,
            since_ms: row.stamp_ms,
            waits_since_ms: row.stamp_ms,
            bytes: row.bytes,
            parked: row.parked.clone().map(ParkReason::boxed),
            kind: row.kind,
            barrier: row.barrier,
            overwrite: row.overwrite,
            blind: row.blind,
        }
    }

    /// It stands for what another stood for, too. What that one waited for a hand does not count.
    pub(super) fn take_over(&mut self, replaced: &QueueRow) {
        (self.since, self.since_ms) = (replaced.since, replaced.since_ms);
        if replaced.parked.is_none() {
            self.waits_since_ms = self.waits_since_ms.min(replaced.waits_since_ms);
        }
    }

    pub(super) fn age(&self) -> Age {
        let waits = self.parked.is_none().then_some((self.waits_since_ms, self.version));
        Age { since: self.since, waits }
    }

    /// Whether no reader of the origin can miss what was there before: it adds a key and touches nothing
    /// else.
    pub(super) fn is_new_put(&self) -> bool {
        self.kind == FlushKind::Put && !self.overwrite && !self.barrier
    }
}

/// One key with rows, or with something in flight, or cooling down. There may be millions: what few keys
/// have is boxed.
#[derive(Debug)]
pub(super) struct KeyEntry {
    pub(super) key: Bytes,
    /// Oldest first; more than one only around barriers.
    pub(super) rows: SmallVec<[QueueRow; 1]>,
    pub(super) phase: Phase,
    pub(super) spot: Spot,
    pub(super) not_before_ms: u64,
    pub(super) urgent_up_to: Version,
    pub(super) trouble: Option<Box<Trouble>>,
    /// Tells bucket and mount.
    pub(super) lane: u32,
    /// Whether it waits for `min_interval` alone, which urgency overrides.
    pub(super) cooling: bool,
}

/// What a key's failures have come to.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    pub(super) failures: u16,
    /// Those of classes that park by their number. An outage before them does not count.
    pub(super) failures_own: u16,
    /// Failures since which other rows of the mount succeeded.
    pub(super) failures_alone: u16,
    /// How often the origin has refused to give up an upload of the key.
    pub(super) refusals: u16,
    /// Whether it has failed often enough to be parked.
    pub(super) exhausted: bool,
    /// The mount's count of successes at the last failure.
    pub(super) mount_successes: u32,
    pub(super) last_error: String,
}

/// One attempt in flight.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) number: u32,
    /// The version it carries, or asks about.
    pub(super) version: Version,
    /// Bytes counted as in flight.
    pub(super) bytes: u64,
    /// Whether it tries a mount in trouble.
    pub(super) trial: bool,
    /// Of a HEAD: the version in doubt that it is to clear.
    pub(super) doubt: Option<Version>,
    /// The first change that came after `version`, with its time.
    pub(super) after: Option<(Version, u64)>,
}

impl KeyEntry {
    pub(super) fn new(lane: u32, key: Bytes) -> KeyEntry {
        KeyEntry {
            key,
            rows: SmallVec::new(),
            phase: Phase::Idle,
            spot: Spot::Nowhere,
            not_before_ms: 0,
            urgent_up_to: Version(0),
            trouble: None,
            lane,
            cooling: false,
        }
    }

    pub(super) fn failures(&self) -> u16 {
        self.trouble.as_ref().map_or(0, |trouble| trouble.failures)
    }

    pub(super) fn reset_failures(&mut self) {
        self.trouble = None;
        if !self.cooling {
            self.not_before_ms = 0;
        }
    }

    /// Waits for a reason that urgency does not override.
    pub(super) fn wait_until(&mut self, when_ms: u64) {
        self.not_before_ms = when_ms;
        self.cooling = false;
    }

    /// The origin has `version`: a row that took over its changes stands only for what came `after` it. Returns the
    /// row's age before and now.
    pub(super) fn land(&mut self, version: Version, after: Option<(Version, u64)>) -> Option<(Age, Age)> {
        let (since, since_ms) = after.filter(|(since, _)| *since > version)?;
        let row = self.rows.iter_mut().find(|row| row.version > version && row.since <= version)?;
        let before = row.age();
        (row.since, row.since_ms) = (since, since_ms);
        row.waits_since_ms = row.waits_since_ms.max(since_ms);
        Some((before, row.age()))
    }
}
