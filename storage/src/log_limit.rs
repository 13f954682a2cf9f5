//! Lines of a log that would come by the thousand, say one for each key during an outage: one a second is written, and
//! says how many were not.
//!
//! Owns when the next line may be written. Does not own the lines, nor any clock. A limit stands for what may fail for
//! one cause, say one origin, so that the lines of one cause never hide another's.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Least time between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    /// Held for a look only.
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    written: Option<Instant>,
    held_back: u64,
}

impl LogLimit {
    /// Whether a line may be written `now`: the number of those before it that were not.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock();
        if last.written.is_some_and(|written| now.saturating_duration_since(written) < PAUSE) {
            last.held_back += 1;
            return None;
        }
        last.written = Some(now);
        Some(std::mem::take(&mut last.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_is_written_and_counts_those_that_are_not() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(limit.admit(at(0)), Some(0));
        for ms in 1..1_000 {
            assert_eq!(limit.admit(at(ms)), None);
        }
        assert_eq!(limit.admit(at(1_000)), Some(999));
        // Measured from the last line that was written, so that a steady stream is written once a second.
        assert_eq!(limit.admit(at(1_999)), None);
        assert_eq!(limit.admit(at(2_000)), Some(1));
        assert_eq!(limit.admit(at(60_000)), Some(0));
        // Clocks of two threads may cross.
        assert_eq!(limit.admit(at(59_999)), None);
    }

    #[test]
    fn of_any_stream_no_line_is_lost_from_the_count() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let (mut written, mut held_back) = (0, 0);
        for line in 0..10_000_u64 {
            if let Some(before) = limit.admit(start + Duration::from_millis(line * 7)) {
                written += 1;
                held_back += before;
            }
        }
        held_back += limit.last.lock().held_back;
        assert_eq!(written + held_back, 10_000);
        assert!(written <= 70 + 1, "{written} lines in 70 s");
    }
}
