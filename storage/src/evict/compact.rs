//! Compaction: segments of which little is live are emptied before anybody wants room, so that what dead bytes take on
//! the disk is bounded by what is live there.
//!
//! Owns when that is worth it, which segments go, and how much at a time. All else is eviction's: the live extents are
//! copied, synced and moved as `evict/mod.rs` says, and nothing is given up, be it clean.
//!
//! Bounds: of a round, what one segment takes; of its share of the time, `thread.rs`. Dead bytes stay where most of a
//! segment is live, until the disk is nearly full.
//!
//! A crash leaves the old places or the new ones.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::segment::SegmentUse;
use super::{EvictError, Evictor, Round, Want, run_round};
use crate::keyspace::places::Batch;
use crate::store::Shared;

/// When dead bytes are worth moving live ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Thresholds {
    /// A segment goes if at most this share of its file is live. At a quarter, a byte is copied for three that become
    /// free; more would bound the dead bytes closer, and copy more for them.
    pub(super) live_percent: u64,
    /// Dead bytes are let be up to this share of the live ones,
    pub(super) dead_percent: u64,
    /// ... and so many segments beyond.
    pub(super) dead_segments: u64,
}

pub(super) const USUAL: Thresholds = Thresholds { live_percent: 25, dead_percent: 50, dead_segments: 2 };

/// Segments that may go, those with the least that is live first, and what of them should become free.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    segments: Vec<SegmentUse>,
    surplus: u64,
}

/// A segment that nobody writes to any more.
#[derive(Debug, Clone, Copy)]
struct Settled {
    segment: SegmentUse,
    file_bytes: u64,
    live_bytes: u64,
}

/// What of these should go; `None`: their dead bytes are not worth it.
fn plan(settled: &[Settled], segment_bytes: u64, thresholds: Thresholds) -> Option<Plan> {
    let live: u64 = settled.iter().map(|it| it.live_bytes).sum();
    let dead: u64 = settled.iter().map(|it| it.file_bytes.saturating_sub(it.live_bytes)).sum();
    let borne = live / 100 * thresholds.dead_percent + thresholds.dead_segments * segment_bytes;
    let surplus = dead.checked_sub(borne).filter(|surplus| *surplus > 0)?;
    let is_mostly_dead = |it: &&Settled| it.live_bytes <= it.file_bytes / 100 * thresholds.live_percent;
    let mut mostly_dead: Vec<&Settled> = settled.iter().filter(is_mostly_dead).collect();
    mostly_dead.sort_by_key(|it| it.live_bytes * 100 / it.file_bytes.max(1));
    let mut room = segment_bytes;
    let fits = |it: &&Settled| {
        let fits = it.live_bytes <= room;
        room = room.saturating_sub(it.live_bytes);
        fits
    };
    let segments: Vec<SegmentUse> = mostly_dead.into_iter().take_while(fits).map(|it| it.segment).collect();
    (!segments.is_empty()).then_some(Plan { segments, surplus })
}

/// Empties segments that are mostly dead, if that is worth it. Blocks, also for a checkpoint: `wait` as for a round.
pub(super) fn compact(
    shared: &Arc<Shared>,
    thresholds: Thresholds,
    wait: &dyn Fn(&Batch) -> bool,
) -> Result<Round, EvictError> {
    let is_full =
        || shared.status.checkpoint_full.lock().is_some() || shared.status.journal_full.lock().is_some();
    if is_full() || !shared.evictor.is_worth_a_look(shared) {
        return Ok(Round::Idle);
    }
    let live = shared.checkpointer.live_bytes_by_segment();
    let settled: Vec<Settled> = shared
        .segments
        .settled()
        .into_iter()
        .map(|segment| Settled {
            segment,
            file_bytes: shared.segments.file_bytes(segment.0),
            live_bytes: live.get(&segment).copied().unwrap_or(0),
        })
        .collect();
    let Some(Plan { segments, surplus }) = plan(&settled, shared.segments.segment_bytes(), thresholds) else {
        return Ok(Round::Idle);
    };
    let copied = shared.evictor.copied.load(Relaxed);
    let became = run_round(shared, Want::Compaction(surplus), Some(&segments), wait);
    let copied = shared.evictor.copied.load(Relaxed) - copied;
    shared.evictor.compacted.fetch_add(copied, Relaxed);
    match became? {
        Round::Made => {
            // There may be more of them.
            shared.evictor.looked_at.lock().take();
            Ok(Round::Compacted)
        }
        _ => Ok(Round::Idle),
    }
}

impl Evictor {
    /// Whether usage has changed since the last look: only a checkpoint changes it.
    fn is_worth_a_look(&self, shared: &Shared) -> bool {
        let now = shared.checkpointer.commits();
        self.looked_at.lock().replace(now) != Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{Generation, SegmentId};

    const SEGMENT: u64 = 1000;

    fn settled(live: &[u64]) -> Vec<Settled> {
        let of = |(n, live): (usize, &u64)| Settled {
            segment: (SegmentId(n as u32), Generation(1)),
            file_bytes: SEGMENT,
            live_bytes: *live,
        };
        live.iter().enumerate().map(of).collect()
    }

    fn taken(live: &[u64]) -> Option<Vec<u32>> {
        let plan = plan(&settled(live), SEGMENT, USUAL)?;
        Some(plan.segments.into_iter().map(|(id, _)| id.0).collect())
    }

    #[test]
    fn segments_with_the_least_that_is_live_go_first_as_many_as_fill_one() {
        assert_eq!(taken(&[250, 900, 10, 250, 240, 250, 251, 250]), Some(vec![2, 4, 0, 3, 5]));
    }

    #[test]
    fn dead_bytes_are_let_be_while_they_are_few_beside_the_live_ones() {
        // 2,800 dead; 2,000 and half of the live 7,200 are borne.
        assert_eq!(taken(&[100, 100, 1000, 1000, 1000, 1000, 1000, 1000, 1000]), None);
        assert_eq!(taken(&[100, 100]), None);
        assert_eq!(taken(&[100, 100, 100]), Some(vec![0, 1, 2]));
    }

    #[test]
    fn segments_of_which_much_is_live_are_never_moved() {
        assert_eq!(taken(&[300; 100]), None);
    }
}
