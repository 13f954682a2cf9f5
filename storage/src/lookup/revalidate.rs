//! When what is known of an origin's objects is asked again: mounts with `revalidate = <ttl>`.
//!
//! A read of an object whose content is what the origin holds asks again if the last answer is older than the ttl.
//! Another ETag takes the object's place, absence removes it. Trouble is no answer: the row that is here stands, and
//! the mount is left alone for [`TROUBLE_PAUSE`], so that a dead origin does not slow the reads of what is here.
//! What is queued is ours, and not asked for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::remembered::Remembered;

/// How long nothing is asked again of a mount's origin after trouble with it.
const TROUBLE_PAUSE: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 5 });

/// The last answers, by key. One per store.
#[derive(Default)]
pub(super) struct Answers {
    /// By mount; written at a start only.
    ttls: ArcSwap<HashMap<u32, Duration>>,
    last: Remembered,
    /// Until when, by mount. Held for a look-up only.
    trouble: Mutex<HashMap<u32, Instant>>,
}

impl Answers {
    /// Sets the age at which an answer of this mount's origin is asked for again.
    pub(super) fn configure(&self, mount: u32, ttl: Option<Duration>) {
        self.ttls.rcu(|ttls| {
            let mut ttls = HashMap::clone(ttls);
            match ttl {
                Some(ttl) => ttls.insert(mount, ttl),
                None => ttls.remove(&mount),
            };
            ttls
        });
    }

    /// Whether an answer from then still counts: for ever, where foreign changes are not looked for.
    pub(super) fn counts(&self, mount: u32, asked_at: Instant) -> bool {
        self.ttls.load().get(&mount).is_none_or(|ttl| asked_at.elapsed() < *ttl)
    }

    /// Whether an object that the origin is known to hold is to be asked for again.
    pub(super) fn is_due(&self, mount: u32, key: &[u8]) -> bool {
        let Some(ttl) = self.ttls.load().get(&mount).copied() else { return false };
        let fresh = self.last.get(mount, key).is_some_and(|asked_at| asked_at.elapsed() < ttl);
        !fresh && self.trouble.lock().get(&mount).is_none_or(|until| Instant::now() >= *until)
    }

    /// The origin has answered: what is here is what it holds.
    pub(super) fn note(&self, mount: u32, key: &[u8], asked_at: Instant) {
        if self.ttls.load().contains_key(&mount) {
            self.last.note(mount, key, asked_at);
        }
    }

    /// A read of the bytes has found something else there.
    pub(super) fn doubt(&self, mount: u32, key: &[u8]) {
        self.last.forget(mount, key);
    }

    /// The origin could not be asked.
    pub(super) fn note_trouble(&self, mount: u32) {
        self.trouble.lock().insert(mount, Instant::now() + TROUBLE_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_for_their_ttl_and_for_ever_without_one() {
        let answers = Answers::default();
        let now = Instant::now();
        assert!(answers.counts(1, now) && !answers.is_due(1, b"k"));
        answers.configure(1, Some(Duration::from_secs(3600)));
        assert!(answers.is_due(1, b"k"), "never asked");
        answers.note(1, b"k", now);
        assert!(!answers.is_due(1, b"k") && answers.counts(1, now));
        answers.doubt(1, b"k");
        assert!(answers.is_due(1, b"k"));
        answers.configure(1, Some(Duration::ZERO));
        answers.note(1, b"k", now);
        assert!(answers.is_due(1, b"k") && !answers.counts(1, now));
    }
}
