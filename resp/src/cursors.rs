//! SCAN's cursors: a bounded ring of numbers, each standing for the last key that was returned.
//!
//! A cursor may be used again, and by any client. One that fell out of the ring, or was given before a
//! restart, is an error and never an early end: a client that trusts an end would miss keys.

use std::hash::{BuildHasher, RandomState};

use forebay_storage::object::BucketId;
use parking_lot::Mutex;

/// How many cursors are remembered; the oldest goes first. With keys of full length 16 MiB.
const CURSORS_MAX: usize = 16 * 1024;
/// Cursors stay below this, so that clients which keep numbers as doubles keep them whole.
const CURSOR_BITS: u32 = 52;
const COUNTER_BITS: u32 = 32;

/// Where a SCAN goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) bucket: BucketId,
    /// The last key looked at.
    pub(crate) after: Vec<u8>,
}

/// The ring.
pub(crate) struct Cursors {
    /// Upper bits of this run's cursors, so that those of an earlier run are not mistaken for them.
    run: u64,
    ring: Mutex<Ring>,
}

struct Ring {
    counter: u32,
    places: Vec<Option<(u64, Position)>>,
}

impl Cursors {
    pub(crate) fn new() -> Cursors {
        let run = RandomState::new().hash_one("cursors") & ((1 << (CURSOR_BITS - COUNTER_BITS)) - 1);
        Cursors { run: run << COUNTER_BITS, ring: Mutex::new(Ring { counter: 0, places: Vec::new() }) }
    }

    /// Remembers a position and returns its cursor, which is not 0.
    pub(crate) fn remember(&self, position: Position) -> u64 {
        let mut ring = self.ring.lock();
        ring.counter = ring.counter.checked_add(1).unwrap_or(1);
        let cursor = self.run | u64::from(ring.counter);
        let place = ring.counter as usize % CURSORS_MAX;
        if ring.places.len() <= place {
            ring.places.resize(place + 1, None);
        }
        ring.places[place] = Some((cursor, position));
        cursor
    }

    /// The position of a cursor that is still known.
    pub(crate) fn find(&self, cursor: u64) -> Option<Position> {
        let ring = self.ring.lock();
        let place = (cursor & u64::from(u32::MAX)) as usize % CURSORS_MAX;
        match ring.places.get(place)? {
            Some((known, position)) if *known == cursor => Some(position.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(n: u32) -> Position {
        Position { bucket: BucketId(1), after: n.to_be_bytes().to_vec() }
    }

    #[test]
    fn cursor_may_be_used_again() {
        let cursors = Cursors::new();
        let cursor = cursors.remember(position(7));
        assert_ne!(cursor, 0);
        assert!(cursor < 1 << CURSOR_BITS);
        assert_eq!(cursors.find(cursor), Some(position(7)));
        assert_eq!(cursors.find(cursor), Some(position(7)));
    }

    #[test]
    fn oldest_cursor_falls_out_and_is_unknown_from_then_on() {
        let cursors = Cursors::new();
        let oldest = cursors.remember(position(0));
        let second = cursors.remember(position(1));
        for n in 2..=CURSORS_MAX as u32 {
            cursors.remember(position(n));
        }
        assert_eq!(cursors.find(oldest), None);
        assert_eq!(cursors.find(second), Some(position(1)));
    }

    #[test]
    fn numbers_that_were_never_given_are_unknown() {
        let cursors = Cursors::new();
        cursors.remember(position(0));
        for cursor in [0, 1 << 60, u64::MAX, cursors.run + 2] {
            assert_eq!(cursors.find(cursor), None, "{cursor}");
        }
    }
}
