//! Writers are slowed down before they would be refused: from a soft limit on they wait, evenly longer the nearer what is
//! used comes to the limit. So eviction, compaction and the flush get a head start, and most writers never meet the limit.
//!
//! Soft limits lie where what makes room is at work already, but behind: a store that stands at its usual level slows
//! nobody.

use std::time::Duration;

use super::{Level, MAP_SOFT_PERCENT, Reason};
use crate::object::BucketId;
use crate::store::Shared;

/// Share of `dirty_limit` from which on writers to mounted buckets are slowed down.
const DIRTY_SLOW_PERCENT: u64 = 75;
/// Share of `capacity`: half-way between where eviction begins and the limit. What is read back leaves the rest to writers.
pub(super) const CAPACITY_SLOW_PERCENT: u64 = 95;
/// Share of the LMDB map, below the one at which growth is refused.
const MAP_SLOW_PERCENT: u64 = MAP_SOFT_PERCENT - 10;
/// Longest wait for each MiB of a write, begun ones too, right below a limit: 16 writers of 64 KiB come to 20 MiB/s,
/// about what an uplink takes, so that most never meet the limit.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// For no more than so many of them at once.
const WAIT_MIB_MAX: u64 = 64;

/// How far a limit is used up.
struct Use {
    reason: Reason,
    used: u64,
    soft: u64,
    limit: u64,
}

impl Shared {
    /// How long a write of `len` bytes to these buckets waits, and because of which limit; `None` far below all of them.
    pub(super) fn growth_wait(
        &self,
        level: &Level,
        buckets: &[BucketId],
        len: u64,
    ) -> Option<(Duration, Reason)> {
        if buckets.is_empty() {
            return None;
        }
        let capacity = self.limits.capacity_bytes;
        // One long upload that was announced must not slow everybody until it has come.
        let promised = level.promised.min(capacity / 8);
        let percent = |of: u64, share: u64| of / 100 * share;
        // Where nothing makes room, waiting for it is no use.
        let stored = self.fills.has_origins().then(|| Use {
            reason: Reason::Capacity,
            used: level.stored + promised,
            soft: percent(capacity, CAPACITY_SLOW_PERCENT),
            limit: capacity,
        });
        let (used, map) = level.map;
        let (soft, limit) = (percent(map, MAP_SLOW_PERCENT), percent(map, MAP_SOFT_PERCENT));
        let keyspace = Use { reason: Reason::Map, used, soft, limit };
        // Half of what eviction keeps free beside the reserve.
        let disk = level.disk.map(|(room, reserve)| {
            let beside = room.saturating_sub(promised).saturating_sub(reserve);
            let limit = self.segments.segment_bytes();
            Use { reason: Reason::Disk, used: limit.saturating_sub(beside), soft: 0, limit }
        });
        let (dirty, limit) = (level.dirty, self.limits.dirty_bytes);
        let soft = percent(limit, DIRTY_SLOW_PERCENT);
        let pinned = (dirty > soft && self.any_mounted(buckets)).then_some(Use {
            reason: Reason::DirtyLimit,
            used: dirty,
            soft,
            limit,
        });
        let uses = [stored, Some(keyspace), disk, pinned].into_iter().flatten();
        let waits = uses.filter(|it| it.used > it.soft).map(|it| (it.wait(len), it.reason));
        waits.max_by_key(|(wait, _)| *wait)
    }
}

impl Use {
    fn wait(&self, len: u64) -> Duration {
        let mib = len.div_ceil(1 << 20).clamp(1, WAIT_MIB_MAX);
        wait_of(self.used as f64, self.soft as f64, self.limit as f64, WAIT_MAX * mib as u32)
    }
}

/// How long a write waits while `used` nears `limit`: not at all up to `soft`, then evenly longer, up to `longest`.
pub(super) fn wait_of(used: f64, soft: f64, limit: f64, longest: Duration) -> Duration {
    let share = (used - soft) / (limit - soft).max(f64::MIN_POSITIVE);
    longest.mul_f64(share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_wait_evenly_longer_from_the_soft_limit_on_and_for_each_mib() {
        let wait =
            |used, len| Use { reason: Reason::Capacity, used, soft: 950, limit: 1_000 }.wait(len).as_millis();
        assert_eq!([900, 950, 975, 1_000, 5_000].map(|used| wait(used, 1)), [0, 0, 25, 50, 50]);
        assert_eq!([1, 1 << 20, 4 << 20, 1 << 40].map(|len| wait(975, len)), [25, 25, 100, 1_600]);
        // A limit that leaves nothing between.
        let wait = Use { reason: Reason::Disk, used: 1, soft: 0, limit: 0 }.wait(1);
        assert_eq!(wait, WAIT_MAX);
    }
}
