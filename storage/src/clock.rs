//! Wall-clock time, passed in wherever it is needed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of wall-clock time.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}

/// A clock that tests set.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `ms`.
    pub fn new(ms: u64) -> ManualClock {
        ManualClock(AtomicU64::new(ms))
    }

    /// Sets it.
    pub fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::SeqCst);
    }

    /// Moves it forward.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The core's time: another clock, held so that it never goes back behind itself or a stamp of the log
/// (PITFALLS 19).
pub(crate) struct SteadyClock {
    clock: std::sync::Arc<dyn Clock>,
    last_ms: AtomicU64,
}

impl SteadyClock {
    pub(crate) fn new(clock: std::sync::Arc<dyn Clock>) -> SteadyClock {
        SteadyClock { clock, last_ms: AtomicU64::new(0) }
    }

    /// Milliseconds since the Unix epoch, never less than before.
    pub(crate) fn now_ms(&self) -> u64 {
        let now = self.clock.now_ms();
        self.last_ms.fetch_max(now, Ordering::AcqRel).max(now)
    }

    /// A stamp was seen in the log.
    pub(crate) fn observe(&self, stamp_ms: u64) {
        self.last_ms.fetch_max(stamp_ms, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn pitfall_19_the_cores_time_never_goes_back() {
        let wall = Arc::new(ManualClock::new(1_000));
        let clock = SteadyClock::new(wall.clone());
        assert_eq!(clock.now_ms(), 1_000);
        wall.set(400);
        assert_eq!(clock.now_ms(), 1_000);
        clock.observe(2_000);
        assert_eq!(clock.now_ms(), 2_000);
        wall.set(3_000);
        assert_eq!(clock.now_ms(), 3_000);
    }
}
