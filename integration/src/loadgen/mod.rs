//! A load generator whose requests are encoded before the clock starts: on two cores the client is often the
//! limit, and what it spends on encoding would be measured as the server's slowness.
//!
//! Closed loop: every client sends one batch (RESP: P commands, S3: one request) and waits for all its
//! replies. Bytes of answers are read and dropped: what they are, the tests judge.

pub mod md5;
pub mod resp;
pub mod s3;

use std::time::Duration;

use serde::Serialize;

/// What a run measured; printed as one line of JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Operations answered without an error.
    pub ops: u64,
    /// Operations answered with an error.
    pub errors: u64,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Operations per second.
    pub ops_per_second: f64,
    /// Median time of a batch in microseconds.
    pub p50_us: f64,
    /// 99th percentile of a batch in microseconds.
    pub p99_us: f64,
    /// Bytes of bodies per second, in MiB; 0 where that was not asked for.
    pub mib_per_second: f64,
}

impl Report {
    /// `batch_times` of all clients in nanoseconds, in any order.
    pub fn new(ops: u64, errors: u64, elapsed: Duration, mut batch_times: Vec<u64>) -> Self {
        batch_times.sort_unstable();
        let seconds = elapsed.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a rate of fewer than 2^52 operations")]
        let rate = ops as f64 / seconds;
        Self {
            ops,
            errors,
            seconds,
            ops_per_second: rate,
            p50_us: percentile(&batch_times, 50),
            p99_us: percentile(&batch_times, 99),
            mib_per_second: 0.0,
        }
    }

    /// The same, with what it means if an operation moves a body of so many bytes.
    #[allow(clippy::cast_precision_loss, reason = "a body of fewer than 2^52 bytes")]
    fn of_bytes(self, body_bytes: usize) -> Self {
        let mib_per_second = self.ops_per_second * body_bytes as f64 / f64::from(1 << 20);
        Self { mib_per_second, ..self }
    }
}

/// In microseconds.
#[allow(clippy::cast_precision_loss, reason = "a time of fewer than 2^52 nanoseconds")]
fn percentile(sorted: &[u64], percent: usize) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    let at = (sorted.len() * percent / 100).min(sorted.len() - 1);
    sorted[at] as f64 / 1_000.0
}

/// Nanoseconds since `start`.
fn nanos_since(start: std::time::Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_sorted_times() {
        let report =
            Report::new(100, 0, Duration::from_secs(2), (1..=100).rev().map(|ms| ms * 1_000).collect());
        assert_eq!((report.p50_us, report.p99_us), (51.0, 100.0));
        assert!((report.ops_per_second - 50.0).abs() < 1e-9);
    }
}
