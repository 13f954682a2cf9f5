//! Facts of a node at a glance, for INFO, status and metrics.

use std::sync::atomic::Ordering::Relaxed;

use crate::evict::EvictCounts;
use crate::fill::FillCounts;
use crate::scrub::ScrubCounts;
use crate::store::Store;

/// Facts for INFO, status and metrics. Times in milliseconds since the Unix epoch unless named otherwise.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// When this process opened the store.
    pub started_ms: u64,
    /// Random, a new one per start (40 hex digits).
    pub node_run_id: String,
    /// Objects in all buckets.
    pub objects: u64,
    /// Sum of their body lengths.
    pub bytes: u64,
    /// Memory of the memtables.
    pub memtable_bytes: u64,
    /// Memory of the read cache.
    pub cache_bytes: u64,
    /// Read cache hits since the start.
    pub cache_hits: u64,
    /// Read cache misses since the start.
    pub cache_misses: u64,
    /// Bytes used in the LMDB map.
    pub lmdb_used_bytes: u64,
    /// Size of the map.
    pub lmdb_map_bytes: u64,
    /// Bytes of journal files that may be needed.
    pub journal_bytes: u64,
    /// Journal files kept for the next start alone: with one it needs no free byte on the disk.
    pub journal_start_files: u64,
    /// Bytes of segment files in use.
    pub segment_bytes: u64,
    /// Bytes of the same files that nothing needs, or that were not written yet.
    pub segment_dead_bytes: u64,
    /// Index of the last applied entry.
    pub applied_index: u64,
    /// Index of the last entry in the checkpoint.
    pub checkpoint_index: u64,
    /// When the last checkpoint ended.
    pub last_checkpoint_ms: u64,
    /// Raft term.
    pub term: u64,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Voters of the cluster.
    pub voters: u32,
    /// Mutations applied for this node's clients since the start.
    pub commits_total: u64,
    /// Entries applied since the start.
    pub entries_total: u64,
    /// Journal syncs since the start.
    pub fsyncs_total: u64,
    /// Time in them, seconds.
    pub fsync_seconds_sum: f64,
    /// Objects removed because their time had passed, since the start.
    pub expired_total: u64,
    /// Queue rows waiting for their origin.
    pub dirty_objects: u64,
    /// Their bytes.
    pub dirty_bytes: u64,
    /// What of them counts against [`Stats::dirty_limit_bytes`]: bodies, keys, and 256 for each row.
    pub dirty_charged_bytes: u64,
    /// Age of the oldest, milliseconds.
    pub oldest_dirty_age_ms: u64,
    /// Queue rows set aside.
    pub parked_objects: u64,
    /// What counts against [`Stats::capacity_bytes`]: used pages of the checkpoint store, needed bytes of segments, and
    /// what is promised to bodies that are arriving.
    pub stored_bytes: u64,
    /// Configured capacity.
    pub capacity_bytes: u64,
    /// Configured limit of dirty bytes.
    pub dirty_limit_bytes: u64,
    /// Writes that had to wait for a limit, by its name, since the start.
    pub writes_throttled: Vec<(&'static str, u64)>,
    /// Writes that a limit refused, by its name, since the start.
    pub writes_rejected: Vec<(&'static str, u64)>,
    /// Bytes given up because of `capacity`, since the start.
    pub evicted_capacity_bytes: u64,
    /// Bytes given up because the file system was nearly full, since the start.
    pub evicted_disk_bytes: u64,
    /// Bytes that eviction copied to other segments, since the start.
    pub copied_forward_bytes: u64,
    /// Of these, bytes copied because little else in their segment was live.
    pub compacted_bytes: u64,
    /// Objects found in their origin with no mark of it, and marked, when room was wanted, since the start.
    pub released_objects_total: u64,
    /// Blocks fetched from origins for readers, since the start.
    pub fills_total: u64,
    /// Their bytes.
    pub fill_bytes: u64,
    /// Blobs that were kept again after a fill, since the start.
    pub fills_kept_total: u64,
    /// Bodies opened with all their bytes here, since the start.
    pub body_hits: u64,
    /// Bodies opened of which bytes were only in an origin, since the start.
    pub body_misses: u64,
    /// Keys that an origin was asked about, since the start.
    pub lookups_total: u64,
    /// Of these, ones that it could not be asked about.
    pub lookups_failed_total: u64,
    /// Objects of origins that were taken over, since the start.
    pub adopted_total: u64,
    /// Objects that were dropped because their origin did not hold them any more, since the start.
    pub vanished_total: u64,
    /// Whether a scrub is running.
    pub scrub_running: bool,
    /// Bytes of extents that scrubs have read, since the start.
    pub scrub_bytes: u64,
    /// Pieces of damage that scrubs have found, since the start.
    pub scrub_found_total: u64,
    /// Those of them that were put right.
    pub scrub_mended_total: u64,
    /// When a scrub last came to its end; 0 if none has since the start.
    pub scrub_done_ms: u64,
}

impl Store {
    /// A snapshot of counters.
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let set = shared.keyspace.memtables();
        let (lmdb_used_bytes, lmdb_map_bytes) = shared.keyspace.base.usage();
        let (cache_bytes, cache_hits, cache_misses) = shared.keyspace.cache.stats();
        let buckets = self.buckets();
        let flush = shared.flusher().map(|flusher| flusher.status());
        let (evicted, fills): (EvictCounts, FillCounts) = (shared.evictor.counts(), shared.fills.counts());
        let lookups = shared.lookups.counts();
        let scrub: ScrubCounts = shared.scrubber.counts();
        let frozen = set.frozen.as_ref().map_or(0, |frozen| frozen.rows.bytes());
        Stats {
            started_ms: shared.started_ms,
            node_run_id: shared.run_id.clone(),
            objects: buckets.iter().map(|bucket| bucket.objects).sum(),
            bytes: buckets.iter().map(|bucket| bucket.bytes).sum(),
            memtable_bytes: (set.active.bytes() + frozen) as u64,
            cache_bytes,
            cache_hits,
            cache_misses,
            lmdb_used_bytes,
            lmdb_map_bytes,
            journal_bytes: shared.journal.bytes_live.load(Relaxed),
            journal_start_files: shared.journal.files_for_start.load(Relaxed),
            segment_bytes: shared.checkpointer.live_bytes() + shared.segments.staged_bytes(),
            segment_dead_bytes: shared
                .segments
                .named_bytes()
                .saturating_sub(shared.checkpointer.live_bytes()),
            applied_index: shared.status.applied_index.load(Relaxed),
            checkpoint_index: shared.driver.checkpointed.load(Relaxed),
            last_checkpoint_ms: shared.driver.checkpointed_ms.load(Relaxed),
            term: shared.status.term.load(Relaxed),
            is_leader: shared.status.leads.load(Relaxed),
            voters: shared.voters,
            commits_total: shared.status.mutations.load(Relaxed),
            entries_total: shared.status.entries.load(Relaxed),
            fsyncs_total: shared.journal.syncs.load(Relaxed),
            fsync_seconds_sum: shared.journal.sync_nanos.load(Relaxed) as f64 / 1e9,
            expired_total: shared.expired.load(Relaxed),
            dirty_objects: shared.status.dirty_objects.load(Relaxed),
            dirty_bytes: shared.status.dirty_bytes.load(Relaxed),
            dirty_charged_bytes: shared.status.dirty_charged.load(Relaxed),
            oldest_dirty_age_ms: flush.as_ref().and_then(|flush| flush.oldest_age_ms).unwrap_or(0),
            parked_objects: flush.map_or(0, |flush| flush.parked_objects),
            stored_bytes: shared.claimed_bytes(),
            capacity_bytes: shared.limits.capacity_bytes,
            dirty_limit_bytes: shared.limits.dirty_bytes,
            writes_throttled: shared.admissions.throttled(),
            writes_rejected: shared.admissions.rejected(),
            evicted_capacity_bytes: evicted.for_capacity,
            evicted_disk_bytes: evicted.for_disk,
            copied_forward_bytes: evicted.copied,
            compacted_bytes: evicted.compacted,
            released_objects_total: evicted.released,
            fills_total: fills.blocks,
            fill_bytes: fills.bytes,
            fills_kept_total: fills.kept,
            body_hits: fills.hits,
            body_misses: fills.misses,
            lookups_total: lookups.asked,
            lookups_failed_total: lookups.failed,
            adopted_total: lookups.adopted,
            vanished_total: lookups.vanished,
            scrub_running: scrub.running,
            scrub_bytes: scrub.bytes,
            scrub_found_total: scrub.found,
            scrub_mended_total: scrub.mended,
            scrub_done_ms: scrub.done_ms,
        }
    }
}
