//! Waiting for a condition, with a limit. The only place of this crate that sleeps.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// A condition did not hold within its limit.
#[derive(Debug, thiserror::Error)]
#[error("gave up after {limit:?} waiting until {what}; last seen: {last}")]
pub struct TimedOut {
    what: String,
    limit: Duration,
    last: String,
}

/// Asks `check` again and again until it returns `Ok`, at most for `limit`; what it last returned as `Err`
/// stands in the error. `what` completes the sentence "waiting until …".
pub fn until<T, E: Display>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<T, E>,
) -> Result<T, TimedOut> {
    let start = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(last) if start.elapsed() >= limit => {
                return Err(TimedOut { what: what.to_owned(), limit, last: last.to_string() });
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// [`until`] for a plain yes or no.
pub fn until_true(what: &str, limit: Duration, mut check: impl FnMut() -> bool) -> Result<(), TimedOut> {
    until(what, limit, || if check() { Ok(()) } else { Err("not yet") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_the_first_success_is_returned() {
        let mut calls = 0;
        let got = until("three calls were made", Duration::from_secs(10), || {
            calls += 1;
            if calls == 3 { Ok(calls) } else { Err(calls) }
        });
        assert_eq!(got.unwrap(), 3);
    }

    #[test]
    fn the_error_names_the_condition_and_the_last_answer() {
        let error = until::<(), _>("pigs fly", Duration::ZERO, || Err("on the ground")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("pigs fly") && text.contains("on the ground"), "{text}");
    }
}
