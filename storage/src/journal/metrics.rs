//! Counters of one journal, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// All counters start at zero with the process, except the gauges at the end.
#[derive(Default, Debug)]
pub struct JournalMetrics {
    /// Batches written, empty ones included.
    pub batches: AtomicU64,
    /// Records written, restated ones included.
    pub records: AtomicU64,
    /// Bytes written, padding included.
    pub bytes: AtomicU64,
    /// Syncs that succeeded.
    pub syncs: AtomicU64,
    /// Time spent in them.
    pub sync_nanos: AtomicU64,
    /// The same as a histogram.
    pub sync_times: DurationHistogram,
    /// Files taken into use that held older records before.
    pub files_recycled: AtomicU64,
    /// Files taken into use that were made for it.
    pub files_created: AtomicU64,
    /// Gauge: files that hold records which may be needed.
    pub files_live: AtomicU64,
    /// Gauge: bytes of those files.
    pub bytes_live: AtomicU64,
    /// Gauge: files kept for the next start alone, 0 or 1. With one, a start needs no free byte on the disk.
    pub files_for_start: AtomicU64,
}

impl JournalMetrics {
    pub(super) fn note_batch(&self, records: usize, bytes: u64) {
        self.batches.fetch_add(1, Relaxed);
        self.records.fetch_add(records as u64, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn note_sync(&self, elapsed: Duration) {
        self.syncs.fetch_add(1, Relaxed);
        self.sync_nanos.fetch_add(elapsed.as_nanos() as u64, Relaxed);
        self.sync_times.note(elapsed);
    }
}

/// Counts durations in buckets whose bounds double from 16 us; the last bucket has no bound.
#[derive(Default, Debug)]
pub struct DurationHistogram {
    buckets: [AtomicU64; Self::BUCKETS],
}

impl DurationHistogram {
    /// Number of buckets.
    pub const BUCKETS: usize = 20;
    const FIRST_BOUND_MICROS: u64 = 16;

    fn note(&self, elapsed: Duration) {
        let quotient = elapsed.as_micros() as u64 / Self::FIRST_BOUND_MICROS;
        let bucket = (u64::BITS - quotient.leading_zeros()) as usize;
        self.buckets[bucket.min(Self::BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    /// (upper bound of the bucket, exclusive; durations counted in it), from short to long.
    pub fn counts(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(bucket, count)| {
            let bound = Duration::from_micros(Self::FIRST_BOUND_MICROS << bucket);
            ((bucket + 1 < Self::BUCKETS).then_some(bound), count.load(Relaxed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_below_their_bound() {
        let histogram = DurationHistogram::default();
        for micros in [0, 15, 16, 31, 32, 100_000_000] {
            histogram.note(Duration::from_micros(micros));
        }
        let counts: Vec<u64> = histogram.counts().map(|(_, count)| count).collect();
        assert_eq!((counts[0], counts[1], counts[2], counts[19]), (2, 2, 1, 1));
        assert_eq!(histogram.counts().nth(1).unwrap().0, Some(Duration::from_micros(32)));
        assert_eq!(histogram.counts().last().unwrap().0, None);
    }
}
