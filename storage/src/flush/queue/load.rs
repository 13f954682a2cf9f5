//! Building the queue from the rows found at start.
//!
//! A million rows must not make the start slow: rows are gathered first, and every ordered set is built
//! at once from its sorted contents, several times faster than by single insertions.

use std::collections::BTreeSet;

use super::row::{Phase, QueueRow, Spot};
use super::{FlushQueue, Lane, QueueConfig, QueueMount, ReadySet};
use crate::flush::contract::{FlushRow, Loaded, Started};
use crate::object::Version;

type Places = Vec<(Version, u32)>;

/// A queue that is being built; it decides nothing before [`QueueLoad::finish`].
pub struct QueueLoad {
    queue: FlushQueue,
}

impl QueueLoad {
    /// Begins an empty queue at the time `now_ms`. The seed decides the jitter of waits and the places
    /// in the hash table.
    pub fn new(config: QueueConfig, mounts: Vec<QueueMount>, seed: u64, now_ms: u64) -> QueueLoad {
        let mut queue = FlushQueue::new(config, mounts, seed);
        queue.now_ms = now_ms;
        QueueLoad { queue }
    }

    /// Takes up a row, in any order.
    pub fn push(&mut self, loaded: Loaded) {
        match loaded {
            Loaded::Row(row) => self.push_row(&row),
            Loaded::Started(started) => self.push_started(&started),
            Loaded::Stale(stale) => self.queue.add_stale(&stale),
            Loaded::Asked(_) => {}
        }
    }

    /// The queue, ready to decide.
    pub fn finish(self) -> FlushQueue {
        let mut queue = self.queue;
        let mut pending = vec![Places::new(); queue.buckets.len()];
        let mut oldest = Places::with_capacity(queue.keys.len());
        let mut aging = vec![Vec::new(); queue.mounts.len()];
        for (slot, entry) in (0..).zip(&queue.keys) {
            let Some(entry) = entry else { continue };
            let Lane { bucket, mount, .. } = queue.lanes[entry.lane as usize];
            let asked = mount.filter(|mount| queue.mounts[*mount].mount.tells_age);
            for row in &entry.rows {
                if let (Some(mount), Some((since_ms, version))) = (asked, row.age().waits) {
                    aging[mount].push((since_ms, version, slot));
                }
                pending[bucket].push((row.version, slot));
                oldest.push((row.since, slot));
                if row.barrier {
                    queue.buckets[bucket].barriers.insert((row.version, slot));
                }
                if row.parked.is_some() {
                    queue.parked.insert((row.version, slot));
                }
            }
        }
        queue.oldest = sorted(oldest);
        for (mount, aging) in queue.mounts.iter_mut().zip(aging) {
            mount.aging = sorted(aging);
        }
        for (bucket, pending) in queue.buckets.iter_mut().zip(pending) {
            bucket.pending = sorted(pending);
        }
        // Only now: where a key belongs depends on the barriers of its bucket.
        let mut ready: Vec<[Places; ReadySet::COUNT]> = vec![Default::default(); queue.lanes.len()];
        for slot in (0..).take(queue.keys.len()) {
            match queue.spot(slot) {
                None => queue.release(slot),
                Some(spot) => {
                    let Some(entry) = queue.keys[slot as usize].as_mut() else { continue };
                    entry.spot = spot;
                    match spot {
                        Spot::Nowhere => {}
                        Spot::Timer(when) => drop(queue.timers.insert((when, slot))),
                        Spot::Ready(set, since) => {
                            ready[entry.lane as usize][set as usize].push((since, slot))
                        }
                    }
                }
            }
        }
        for (lane, ready) in queue.lanes.iter_mut().zip(ready) {
            lane.fill(ready.map(sorted));
        }
        queue
    }

    fn push_row(&mut self, row: &FlushRow) {
        let queue = &mut self.queue;
        let slot = queue.find_or_insert(row.bucket, &row.key);
        let Some(entry) = queue.keys[slot as usize].as_mut() else { return };
        let at = entry.rows.partition_point(|known| known.version < row.version);
        if entry.rows.get(at).is_some_and(|known| known.version == row.version) {
            return;
        }
        entry.rows.insert(at, QueueRow::new(row));
        queue.rows += 1;
        queue.bytes += row.bytes;
    }

    fn push_started(&mut self, started: &Started) {
        let queue = &mut self.queue;
        let slot = queue.find_or_insert(started.bucket, &started.key);
        let Some(entry) = queue.keys[slot as usize].as_mut() else { return };
        let latest = queue.now_ms.saturating_add(queue.config.attempt_ms_max);
        let until_ms = started.deadline_ms.min(latest).saturating_add(queue.config.margin_ms);
        entry.phase = Phase::Fenced { until_ms, doubt: started.version };
    }
}

fn sorted<T: Ord>(places: Vec<T>) -> BTreeSet<T> {
    places.into_iter().collect()
}
