//! Parts of uploads that may be on their way to an origin.
//!
//! Owns, for each version, how many requests are under way and until when those may arrive whose outcome nobody knows.
//! What must hold: a part counts from before it leaves until it is answered, or until deadline and margin have passed. Bounded: an
//! entry for each version with parts under way, and each of which one was lost within the time of a part.
//!
//! What a crash leaves: nothing; the next process waits for as long as a part may take.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::object::Version;

/// See the file's head.
pub(super) struct FlyingParts {
    /// Held for a look-up only.
    flying: Arc<Mutex<HashMap<Version, Flying>>>,
    /// How long the network may hold what has left by its deadline.
    margin: Duration,
}

#[derive(Default)]
struct Flying {
    /// Requests under way.
    under_way: u32,
    /// When the last of them is dead.
    until: Option<Instant>,
    /// When the last of those is dead that were lost.
    lost_until: Option<Instant>,
}

/// A part on its way. Dropped without an answer it may arrive until its deadline.
pub(super) struct FlyingPart {
    flying: Arc<Mutex<HashMap<Version, Flying>>>,
    version: Version,
    until: Instant,
    answered: bool,
}

impl FlyingParts {
    pub(super) fn new(margin: Duration) -> FlyingParts {
        FlyingParts { flying: Arc::default(), margin }
    }

    /// A part is about to leave.
    pub(super) fn begin(&self, version: Version, deadline: Instant) -> FlyingPart {
        let mut flying = self.flying.lock();
        let (now, until) = (Instant::now(), deadline + self.margin);
        flying.retain(|_, flying| flying.under_way > 0 || flying.lost_until.is_some_and(|until| until > now));
        let of_version = flying.entry(version).or_default();
        of_version.under_way += 1;
        of_version.until = of_version.until.max(Some(until));
        FlyingPart { flying: self.flying.clone(), version, until, answered: false }
    }

    /// Until when parts of the version may arrive; `None` if none is on its way `now`.
    pub(super) fn fly_until(&self, version: Version, now: Instant) -> Option<Instant> {
        let flying = self.flying.lock();
        let flying = flying.get(&version)?;
        match flying.under_way {
            0 => flying.lost_until.filter(|until| *until > now),
            // Its sender may be held up, and notice its deadline late.
            _ => flying.until.max(Some(now + self.margin)),
        }
    }
}

impl FlyingPart {
    /// The origin has answered, and nothing of it can arrive any more.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for FlyingPart {
    fn drop(&mut self) {
        let mut flying = self.flying.lock();
        let Some(of_version) = flying.get_mut(&self.version) else { return };
        of_version.under_way -= 1;
        if !self.answered {
            of_version.lost_until = of_version.lost_until.max(Some(self.until));
        }
        if of_version.under_way == 0 {
            of_version.until = None;
            if of_version.lost_until.is_none() {
                flying.remove(&self.version);
            }
        }
    }
}
