//! How old what waits for an origin may become, and what that asks of writers.
//!
//! `max_lag` bounds the age of a mount's oldest change that has not reached its origin. From half of it on, writes that
//! grow something in the mount's bucket wait, longer the nearer it comes: what is written while the age is half of
//! `max_lag` waits behind as much again. At `max_lag` they are refused, with the age, the limit, and how long the origin
//! has been down. Deletes, reads, and changes of other buckets go on; so does the queue, which is what helps. Changes
//! that are set aside do not count: they wait for a hand, not for the origin. What cannot go before one of those does, and
//! the refusal says so.

use std::time::Duration;

use super::slow::wait_of;

/// Longest wait of one write, right below `max_lag`.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// How far a mount's origin is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lag {
    /// The origin, as shown to people.
    pub(crate) origin: String,
    /// Age of the oldest change that waits for it.
    pub(crate) age: Duration,
    /// The mount's `max_lag`.
    pub(crate) limit: Duration,
    /// Whether, beyond it, that change cannot go before one that is set aside.
    pub(crate) behind_parked: bool,
}

impl Lag {
    /// Whether growth is refused.
    pub(crate) fn is_full(&self) -> bool {
        self.age >= self.limit
    }

    /// How long a write waits.
    pub(crate) fn delay(&self) -> Duration {
        let (age, limit) = (self.age.as_secs_f64(), self.limit.as_secs_f64());
        wait_of(age, limit / 2.0, limit, DELAY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(age_s: u64) -> Lag {
        let (age, limit) = (Duration::from_secs(age_s), Duration::from_secs(100));
        Lag { origin: "s3://b".to_owned(), age, limit, behind_parked: false }
    }

    #[test]
    fn writes_wait_from_half_of_max_lag_on_and_are_refused_at_it() {
        let delays = [0, 50, 75, 99].map(|age_s| lag(age_s).delay().as_millis());
        assert_eq!(delays, [0, 0, 500, 980]);
        assert!(!lag(99).is_full() && lag(100).is_full());
        assert_eq!(lag(1_000_000).delay(), DELAY_MAX);
    }
}
