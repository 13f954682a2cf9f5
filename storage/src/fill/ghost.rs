//! The ghost queue: what was read from an origin and not kept, or given up, lately.
//!
//! While room is short, a blob is kept again only if it stands here: one that is read once must not push out others.
//! A queue of fingerprints in a table of sets, without order: each entry says how many bytes had passed when it came,
//! and counts as long as fewer than [`Ghosts::window`] have passed since; so the queue is as long as the store is
//! large, whatever the lengths of the blobs.
//!
//! Bound: eight bytes for each entry, at most [`ENTRIES_MAX`]; the oldest of a full set goes. Two blobs may have one
//! fingerprint (1 in 2^20): one of them is then kept a read too early. In memory only: after a start, everything
//! counts as not read before.

use std::hash::BuildHasher;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

// The fast one spreads numbers that follow each other too badly over the sets.
use foldhash::quality::RandomState;

use crate::object::BlobId;

/// Entries of a set, looked through at once: a line of the CPU's cache.
const SET: usize = 8;
/// The fewest entries, and the most: 8 MiB.
const ENTRIES_MIN: u64 = 1 << 12;
const ENTRIES_MAX: u64 = 1 << 20;
/// One entry for so much of the window.
const ENTRY_BYTES: u64 = 32 << 10;
/// Bytes of one tick of the clock.
const TICK_BYTES: u64 = 4096;
/// Bits of an entry that hold the tick, which suffice for 64 PiB; the others hold the fingerprint.
const TICK_BITS: u32 = 44;
const TICKS: u64 = (1 << TICK_BITS) - 1;

/// See the file's head. Never waits.
pub(crate) struct Ghosts {
    entries: Box<[AtomicU64]>,
    /// Ticks passed; begins at 1, so that no entry is 0.
    clock: AtomicU64,
    window: u64,
    hasher: RandomState,
}

impl Ghosts {
    /// `window`: bytes that pass before an entry counts no more.
    pub(crate) fn new(window: u64) -> Ghosts {
        let entries = (window / ENTRY_BYTES).clamp(ENTRIES_MIN, ENTRIES_MAX).next_power_of_two();
        Ghosts {
            entries: (0..entries).map(|_| AtomicU64::new(0)).collect(),
            clock: AtomicU64::new(1),
            window: (window / TICK_BYTES).max(1),
            hasher: RandomState::default(),
        }
    }

    /// The blob's set and fingerprint.
    fn place(&self, blob: BlobId) -> (&[AtomicU64], u64) {
        let hash = self.hasher.hash_one(blob);
        let set = hash as usize % (self.entries.len() / SET) * SET;
        (&self.entries[set..set + SET], hash >> TICK_BITS)
    }

    /// A blob of `len` bytes was read and not kept, or was given up.
    pub(crate) fn note(&self, blob: BlobId, len: u64) {
        let now = self.clock.fetch_add(len / TICK_BYTES + 1, Relaxed) & TICKS;
        let (set, fingerprint) = self.place(blob);
        let new = fingerprint << TICK_BITS | now;
        let is_it = |entry: &&AtomicU64| entry.load(Relaxed) >> TICK_BITS == fingerprint;
        let oldest = || set.iter().min_by_key(|entry| entry.load(Relaxed) & TICKS);
        // Two at once may take one entry: one of them is forgotten.
        if let Some(entry) = set.iter().find(is_it).or_else(oldest) {
            entry.store(new, Relaxed);
        }
    }

    /// Whether the blob was noted within the window.
    pub(crate) fn has(&self, blob: BlobId) -> bool {
        let now = self.clock.load(Relaxed);
        let (set, fingerprint) = self.place(blob);
        set.iter().any(|entry| {
            let entry = entry.load(Relaxed);
            let is_fresh = entry != 0 && now.saturating_sub(entry & TICKS) <= self.window;
            entry >> TICK_BITS == fingerprint && is_fresh
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u64) -> BlobId {
        BlobId { a: number, b: 0 }
    }

    #[test]
    fn a_blob_is_remembered_until_the_window_has_passed() {
        let ghosts = Ghosts::new(64 << 20);
        assert!(!ghosts.has(blob(1)));
        ghosts.note(blob(1), 1 << 20);
        assert!(ghosts.has(blob(1)) && !ghosts.has(blob(2)));
        for number in 100..160 {
            ghosts.note(blob(number), 1 << 20);
        }
        assert!(ghosts.has(blob(1)), "60 of 64 MiB have passed");
        ghosts.note(blob(1), 1 << 20);
        for number in 200..265 {
            ghosts.note(blob(number), 1 << 20);
        }
        assert!(!ghosts.has(blob(1)), "65 MiB have passed since");
        assert!(ghosts.has(blob(264)));
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let ghosts = Ghosts::new(u64::MAX);
        assert_eq!(ghosts.entries.len() as u64, ENTRIES_MAX);
        let small = Ghosts::new(1);
        assert_eq!(small.entries.len() as u64, ENTRIES_MIN);
        let ghosts = Ghosts::new(ENTRIES_MIN * ENTRY_BYTES);
        for number in 0..10 * ENTRIES_MIN {
            ghosts.note(blob(number), 1);
        }
        // The window is far longer; sets that are full forget their oldest.
        let newest =
            (9 * ENTRIES_MIN + ENTRIES_MIN / 2..10 * ENTRIES_MIN).filter(|number| ghosts.has(blob(*number)));
        assert!(newest.count() as u64 > ENTRIES_MIN / 2 * 9 / 10);
        assert!((0..ENTRIES_MIN).filter(|number| ghosts.has(blob(*number))).count() < 10);
    }
}
