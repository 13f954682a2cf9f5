//! The read cache between memtable and checkpoint store: hot object rows, bounded by bytes.
//!
//! Apply never touches it (PITFALLS 6). A checkpoint removes the keys it has committed before the frozen
//! memtable that shadowed them goes; a reader's insert is refused if a checkpoint came between the moment
//! the reader noted the generation, before opening its read transaction, and the insert.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parking_lot::RwLock;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use crate::keyspace::memtable::{KeyBytes, RowKey};

/// Rows above this many bytes are not cached: reading them from the page cache is cheap in proportion.
const ROW_BYTES_MAX: usize = 4096;
/// What an entry costs beside key and row, in bytes.
const ENTRY_OVERHEAD: u64 = 96;

#[derive(Clone)]
struct CacheKey(KeyBytes);

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        RowKey::encoded(&self.0).hash_into(state);
    }
}

impl Hash for RowKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash_into(state);
    }
}

impl Equivalent<CacheKey> for RowKey<'_> {
    fn equivalent(&self, key: &CacheKey) -> bool {
        self.matches(&key.0)
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<CacheKey, Arc<[u8]>> for ByBytes {
    fn weight(&self, key: &CacheKey, row: &Arc<[u8]>) -> u64 {
        (key.0.len() + row.len()) as u64 + ENTRY_OVERHEAD
    }
}

/// Number of checkpoints that the cache has seen; a reader notes it before its read transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheGeneration(u64);

/// See the file's head.
pub(crate) struct ReadCache {
    rows: Cache<CacheKey, Arc<[u8]>, ByBytes, foldhash::fast::RandomState>,
    generation: RwLock<u64>,
}

impl ReadCache {
    /// A cache of at most `bytes`.
    pub(crate) fn new(bytes: u64) -> ReadCache {
        let items = (bytes / 256).clamp(64, 1 << 24) as usize;
        let rows =
            Cache::with(items, bytes, ByBytes, foldhash::fast::RandomState::default(), Default::default());
        ReadCache { rows, generation: RwLock::new(0) }
    }

    /// The cached row.
    #[inline]
    pub(crate) fn get(&self, key: RowKey<'_>) -> Option<Arc<[u8]>> {
        self.rows.get(&key)
    }

    /// To be noted before a read transaction is opened.
    pub(crate) fn generation(&self) -> CacheGeneration {
        CacheGeneration(*self.generation.read())
    }

    /// Offers a row read from the checkpoint store; refused if a checkpoint committed since `seen`.
    pub(crate) fn offer(&self, key: RowKey<'_>, row: &Arc<[u8]>, seen: CacheGeneration) {
        if row.len() > ROW_BYTES_MAX {
            return;
        }
        let generation = self.generation.read();
        if *generation == seen.0 {
            self.rows.insert(CacheKey(key.to_bytes()), row.clone());
        }
    }

    /// A checkpoint has committed these keys: called before the frozen memtable goes.
    pub(crate) fn checkpointed<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        *self.generation.write() += 1;
        for key in keys {
            self.rows.remove(&RowKey::encoded(key));
        }
    }

    /// Bytes held, hits and misses since the start.
    pub(crate) fn stats(&self) -> (u64, u64, u64) {
        (self.rows.weight(), self.rows.hits(), self.rows.misses())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pitfall_6_a_row_read_before_a_checkpoint_is_not_kept_after_it() {
        let cache = ReadCache::new(1 << 20);
        let key = RowKey::encoded(b"O\0\0\0\x01k");
        let old: Arc<[u8]> = Arc::from(&b"old"[..]);
        let seen = cache.generation();
        cache.offer(key, &old, seen);
        assert_eq!(cache.get(key).as_deref(), Some(&b"old"[..]));
        // A reader notes the generation, reads the old row, and is slow to offer it.
        let seen = cache.generation();
        cache.checkpointed([&b"O\0\0\0\x01k"[..]].into_iter());
        assert_eq!(cache.get(key), None);
        cache.offer(key, &old, seen);
        assert_eq!(cache.get(key), None);
    }
}
