//! Uploads that an origin was asked to begin, and may have begun without our learning their names: looking for them.
//!
//! Owns what is known of them in this process, and which of an origin's uploads is one of them. Does not own their rows
//! (apply's), nor the task that asks (`flusher/leftovers.rs`).
//!
//! What must hold: what nobody here knows of and an origin may have begun for us is found there and given up; what
//! somebody else began is left alone. An origin does not show whose an upload is, only its key and its age. So under a
//! prefix that is ours alone each upload of a key that is not recorded is ours; elsewhere only one that is as old as the
//! request that was not answered. Nobody looks before that request is dead, nor at uploads that are younger than the
//! margin: such a one may be recorded just now. One that is given up although it was wanted is begun anew.
//!
//! What a crash leaves: the rows. What remains: requests that an origin answers later than deadline and margin, and on a
//! shared prefix clocks that jumped in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::contract::{AskedUpload, MountId};
use crate::object::Version;

/// See the file's head.
#[derive(Default)]
pub(crate) struct AskedUploads {
    /// Held for a look-up only.
    known: Mutex<BTreeMap<(Version, MountId), Known>>,
}

struct Known {
    asked: AskedUpload,
    /// When the last request is dead.
    due: Instant,
    /// Until then a look would say nothing new.
    settles: Option<Instant>,
}

impl Known {
    fn look_at(&self) -> Instant {
        self.settles.map_or(self.due, |settles| settles.max(self.due))
    }
}

impl AskedUploads {
    /// Takes one up whose requests are dead by `due`, or what was asked again.
    pub(crate) fn add(&self, asked: &AskedUpload, due: Instant) {
        let fresh = Known { asked: asked.clone(), due, settles: None };
        self.known.lock().insert((asked.version, asked.mount), fresh);
    }

    pub(crate) fn remove(&self, version: Version, mount: MountId) {
        self.known.lock().remove(&(version, mount));
    }

    /// Takes one away, unless it was asked again since.
    pub(crate) fn forget(&self, asked: &AskedUpload) {
        let mut known = self.known.lock();
        let name = (asked.version, asked.mount);
        if known.get(&name).is_some_and(|known| known.asked.until_ms == asked.until_ms) {
            known.remove(&name);
        }
    }

    /// One was looked for, and what was found is gone by `settles` only.
    pub(crate) fn settles(&self, asked: &AskedUpload, settles: Instant) {
        if let Some(known) = self.known.lock().get_mut(&(asked.version, asked.mount)) {
            known.settles = Some(settles);
        }
    }

    /// Those to look for now, and when the next is due.
    pub(crate) fn due(&self, now: Instant) -> (Vec<AskedUpload>, Option<Instant>) {
        let known = self.known.lock();
        let due = known.values().filter(|known| known.look_at() <= now).map(|known| known.asked.clone());
        let next = known.values().map(Known::look_at).filter(|at| *at > now).min();
        (due.collect(), next)
    }

    /// All, also those whose request may be alive.
    pub(crate) fn all(&self) -> Vec<AskedUpload> {
        self.known.lock().values().map(|known| known.asked.clone()).collect()
    }

    /// How many are to be looked for.
    pub(crate) fn due_len(&self, now: Instant) -> usize {
        self.known.lock().values().filter(|known| known.due <= now).count()
    }
}

/// What to do about an upload of the key that is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// It is the one that was asked for, or another of ours.
    Ours,
    /// It may be recorded just now.
    Young,
    /// Somebody else's.
    Theirs,
}

/// Judges an upload by its age. `shared`: others may write into the origin. `margin`: how far clocks may differ, and
/// requests be late.
pub(crate) fn judge(
    asked: &AskedUpload,
    age: Option<Duration>,
    now_ms: u64,
    margin: Duration,
    shared: bool,
) -> Stranger {
    if age.is_some_and(|age| age < margin) {
        return Stranger::Young;
    }
    if !shared {
        return Stranger::Ours;
    }
    let Some(age) = age else { return Stranger::Theirs };
    let before = |ms: u64| Duration::from_millis(now_ms.saturating_sub(ms));
    let youngest = before(asked.until_ms).saturating_sub(margin);
    match youngest <= age && age <= before(asked.from_ms) + margin {
        true => Stranger::Ours,
        false => Stranger::Theirs,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::object::BucketId;

    fn asked() -> AskedUpload {
        let (bucket, key) = (BucketId(1), Bytes::from_static(b"k"));
        AskedUpload {
            version: Version(1),
            bucket,
            key,
            mount: MountId(1),
            from_ms: 100_000,
            until_ms: 130_000,
            place: None,
        }
    }

    fn seconds(age: u64) -> Option<Duration> {
        Some(Duration::from_secs(age))
    }

    #[test]
    fn under_a_prefix_of_ours_only_what_may_be_recorded_just_now_is_spared() {
        let judged = |age| judge(&asked(), age, 200_000, Duration::from_secs(10), false);
        assert_eq!(judged(seconds(9)), Stranger::Young);
        for age in [seconds(10), seconds(85), seconds(100_000), None] {
            assert_eq!(judged(age), Stranger::Ours, "{age:?}");
        }
    }

    #[test]
    fn elsewhere_it_must_be_as_old_as_the_request() {
        // Asked 70 to 100 s ago.
        let judged = |age| judge(&asked(), age, 200_000, Duration::from_secs(10), true);
        for age in [60, 70, 100, 110] {
            assert_eq!(judged(seconds(age)), Stranger::Ours, "{age}");
        }
        for age in [59, 111, 100_000] {
            assert_eq!(judged(seconds(age)), Stranger::Theirs, "{age}");
        }
        assert_eq!(judged(None), Stranger::Theirs);
        assert_eq!(judged(seconds(1)), Stranger::Young);
    }
}
