//! What the queue does about each class of error: one table.
//!
//! | class | retried | parked | counts against the mount |
//! |---|---|---|---|
//! | network, server error, throttled | fast ladder | only when others succeed meanwhile | yes |
//! | auth, quota, missing bucket, clock skew | slow ladder | only when others succeed meanwhile | yes |
//! | conflict | after a HEAD | when the HEAD finds a foreign object, or after 8 | no |
//! | checksum | fast ladder | after 4 | no |
//! | too large | no | at once | no |
//! | fenced (our own deadline or term) | fast ladder | never | no |
//! | other | fast ladder | after 8 | no |
//!
//! Only failures of classes that park by number count towards such a number. A HEAD that fails, whatever the class,
//! parks as if it were the network's: its answer has no body to say why.
//!
//! An origin that is down, full or refuses credentials heals without anybody touching its rows, however
//! long it takes: such failures never park a row, unless *other* rows of the mount succeed again and
//! again while this one fails. A failure that counts against the mount, on three rows in a row, stops
//! the mount but for one trial at a time.

use std::ops::RangeInclusive;

use crate::origin::ErrorClass;

/// What to do about a failed attempt, apart from fencing, which goes by outcome alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// First and longest wait of the retry ladder, milliseconds; it doubles between them.
    pub ladder_ms: (u64, u64),
    /// Failures after which the row is parked.
    pub park: ParkAfter,
    /// Whether it says something about the mount rather than about the object.
    pub mount_wide: bool,
}

/// When a failing row is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkAfter {
    /// Never.
    Never,
    /// After so many failures.
    Failures(u16),
    /// After so many failures between which other rows of the mount succeeded.
    FailuresAlone(u16),
}

/// The ladder of what may pass quickly, in milliseconds.
pub(super) const FAST: (u64, u64) = (250, 30_000);
/// The ladder of what needs a hand.
pub(super) const SLOW: (u64, u64) = (5_000, 120_000);
pub(super) const ALONE: ParkAfter = ParkAfter::FailuresAlone(20);

/// The policy of a class.
pub fn policy(class: ErrorClass) -> Policy {
    let (ladder_ms, park, mount_wide) = match class {
        ErrorClass::Network | ErrorClass::ServerError | ErrorClass::Throttled => (FAST, ALONE, true),
        ErrorClass::Auth | ErrorClass::Quota | ErrorClass::MissingBucket | ErrorClass::ClockSkew => {
            (SLOW, ALONE, true)
        }
        ErrorClass::Conflict => (FAST, ParkAfter::Failures(8), false),
        ErrorClass::Checksum => (FAST, ParkAfter::Failures(4), false),
        ErrorClass::TooLarge => (FAST, ParkAfter::Failures(1), false),
        ErrorClass::Fenced => (FAST, ParkAfter::Never, false),
        ErrorClass::Other => (FAST, ParkAfter::Failures(8), false),
    };
    Policy { ladder_ms, park, mount_wide }
}

/// The range of waits before try `failures + 1`: the caller picks one, so that rows which failed
/// together do not return together.
pub fn ladder_step(ladder_ms: (u64, u64), failures: u16) -> RangeInclusive<u64> {
    let (first, longest) = ladder_ms;
    let doublings = u32::from(failures.saturating_sub(1)).min(20);
    let step = first.saturating_mul(1 << doublings).min(longest);
    step / 2..=step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_doubles_up_to_its_longest_wait() {
        assert_eq!(ladder_step(FAST, 1), 125..=250);
        assert_eq!(ladder_step(FAST, 3), 500..=1_000);
        assert_eq!(ladder_step(FAST, 9), 15_000..=30_000);
        assert_eq!(ladder_step(FAST, u16::MAX), 15_000..=30_000);
    }

    #[test]
    fn an_outage_parks_nothing_by_itself() {
        for class in ErrorClass::ALL.into_iter().filter(|class| policy(*class).mount_wide) {
            assert!(matches!(policy(class).park, ParkAfter::FailuresAlone(_)), "{class}");
        }
    }
}
