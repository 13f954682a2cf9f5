//! How fast a scrub goes, and the word to stop.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// What was not used of the pace is given up after this time.
const CREDIT: Duration = Duration::from_millis(250);

/// Somebody has ended the scrub.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Canceled;

/// See the file's head.
pub(super) struct Pace {
    bytes_per_second: u64,
    state: Mutex<State>,
    told: Condvar,
}

struct State {
    canceled: bool,
    /// When the bytes that were spent so far are paid for.
    due: Instant,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Pace {
        let state = State { canceled: false, due: Instant::now() };
        Pace { bytes_per_second: bytes_per_second.max(1), state: Mutex::new(state), told: Condvar::new() }
    }

    /// Waits until so many bytes may have been read.
    pub(super) fn spend(&self, bytes: u64) -> Result<(), Canceled> {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let mut state = self.state.lock();
        let now = Instant::now();
        let from = state.due.max(now.checked_sub(CREDIT).unwrap_or(now));
        state.due = from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let due = state.due;
        while !state.canceled && Instant::now() < due {
            self.told.wait_until(&mut state, due);
        }
        if state.canceled { Err(Canceled) } else { Ok(()) }
    }

    pub(super) fn cancel(&self) {
        self.state.lock().canceled = true;
        self.told.notify_all();
    }

    pub(super) fn is_canceled(&self) -> bool {
        self.state.lock().canceled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_a_cancel_ends_the_wait() {
        let (pace, begun) = (Pace::new(1 << 20), Instant::now());
        for _ in 0..4 {
            pace.spend(256 << 10).unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_secs(1) - CREDIT);
        let slow = Pace::new(1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| slow.spend(u64::MAX));
            slow.cancel();
            assert_eq!(waiting.join().unwrap(), Err(Canceled));
        });
        assert_eq!(slow.spend(0), Err(Canceled));
    }
}
