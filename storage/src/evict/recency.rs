//! Which blobs were read since eviction last looked at them: a bit each, by hash.
//!
//! Two blobs may share a bit: one of them is then copied forward in vain. Bits of blobs that are gone stay, so all
//! are cleared when too many are set.

use std::hash::BuildHasher;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use foldhash::fast::RandomState;

use crate::object::BlobId;

/// Bits: 128 KiB of memory.
const BITS: usize = 1 << 20;
/// Bits set at which all are cleared.
const SET_MAX: usize = BITS / 4;

/// See the file's head. Never waits.
pub(crate) struct Recency {
    words: Box<[AtomicU64]>,
    /// About how many bits are set.
    set: AtomicUsize,
    hasher: RandomState,
}

impl Default for Recency {
    fn default() -> Recency {
        let words = (0..BITS / 64).map(|_| AtomicU64::new(0)).collect();
        Recency { words, set: AtomicUsize::new(0), hasher: RandomState::default() }
    }
}

impl Recency {
    fn place(&self, blob: BlobId) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(blob) as usize % BITS;
        (&self.words[hash / 64], 1 << (hash % 64))
    }

    /// The blob was read.
    pub(crate) fn note(&self, blob: BlobId) {
        let (word, bit) = self.place(blob);
        // Most often it is set, and a look leaves the line shared between cores.
        if word.load(Relaxed) & bit == 0 && word.fetch_or(bit, Relaxed) & bit == 0 {
            self.set.fetch_add(1, Relaxed);
        }
    }

    /// Blobs were read.
    pub(crate) fn note_all(&self, blobs: impl Iterator<Item = BlobId>) {
        blobs.for_each(|blob| self.note(blob));
    }

    /// Whether it was read since this was last asked.
    pub(super) fn take(&self, blob: BlobId) -> bool {
        let (word, bit) = self.place(blob);
        let was = word.fetch_and(!bit, Relaxed) & bit != 0;
        if was {
            self.set.fetch_sub(1, Relaxed);
        }
        if self.set.load(Relaxed) > SET_MAX {
            self.words.iter().for_each(|word| word.store(0, Relaxed));
            self.set.store(0, Relaxed);
        }
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_counts_as_read_until_it_is_looked_at() {
        let (recency, blob) = (Recency::default(), BlobId { a: 7, b: 1 });
        assert!(!recency.take(blob));
        recency.note(blob);
        recency.note(blob);
        assert!(recency.take(blob));
        assert!(!recency.take(blob));
        assert_eq!(recency.set.load(Relaxed), 0);
    }
}
