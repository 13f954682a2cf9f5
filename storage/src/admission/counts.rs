//! Why writes are slowed down or refused, counted since the start. Each write counts once for each of the two.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Why a write is slowed down or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// `capacity`.
    Capacity,
    /// `dirty_limit`.
    DirtyLimit,
    /// `disk_reserve`.
    Disk,
    /// `lmdb.map_size`.
    Map,
    /// The journal takes no more.
    Journal,
    /// The checkpoint finds no space.
    Checkpoint,
    /// A mount's `max_lag`.
    MaxLag,
}

impl Reason {
    const ALL: [Reason; 7] = [
        Reason::Capacity,
        Reason::DirtyLimit,
        Reason::Disk,
        Reason::Map,
        Reason::Journal,
        Reason::Checkpoint,
        Reason::MaxLag,
    ];

    /// As metrics name it.
    fn as_str(self) -> &'static str {
        match self {
            Reason::Capacity => "capacity",
            Reason::DirtyLimit => "dirty_limit",
            Reason::Disk => "disk",
            Reason::Map => "map",
            Reason::Journal => "journal",
            Reason::Checkpoint => "checkpoint",
            Reason::MaxLag => "max_lag",
        }
    }
}

/// See the file's head.
#[derive(Default)]
pub(crate) struct Admissions {
    throttled: [AtomicU64; Reason::ALL.len()],
    rejected: [AtomicU64; Reason::ALL.len()],
    /// Whether any mount has a `max_lag`.
    pub(crate) watches_lag: AtomicBool,
}

impl Admissions {
    pub(crate) fn note_throttled(&self, reason: Reason) {
        self.throttled[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn note_rejected(&self, reason: Reason) {
        self.rejected[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn throttled(&self) -> Vec<(&'static str, u64)> {
        shown(&self.throttled)
    }

    pub(crate) fn rejected(&self) -> Vec<(&'static str, u64)> {
        shown(&self.rejected)
    }
}

fn shown(counts: &[AtomicU64; Reason::ALL.len()]) -> Vec<(&'static str, u64)> {
    Reason::ALL.iter().map(|reason| (reason.as_str(), counts[*reason as usize].load(Relaxed))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let admissions = Admissions::default();
        for (n, reason) in (1..).zip(Reason::ALL) {
            (0..n).for_each(|_| admissions.note_rejected(reason));
        }
        let counts: Vec<u64> = admissions.rejected().iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7]);
        assert!(admissions.throttled().iter().all(|(_, count)| *count == 0));
    }
}
