//! The read cache between memtable and checkpoint store: hot object rows, bounded by bytes.
//!
//! Apply never touches it (PITFALLS 6). A checkpoint removes the rows it has committed before the frozen
//! memtable that shadowed them goes; a reader's insert is refused if a checkpoint came between the moment
//! the reader noted the generation, before opening its read transaction, and the insert.
//!
//! Which rows stay is decided by S3-FIFO, in each shard by itself: a new row passes a small queue, and moves
//! to the main one if it was read there; a row that comes back soon after it was evicted goes to the
//! main queue at once. A hit changes two bits and no queue.
//! What must hold: every slot stands in exactly one queue, once. So a removed row leaves its slot behind
//! empty, until its turn in the queue comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hashbrown::HashTable;
use parking_lot::RwLock;

use crate::keyspace::cpu_cache::prefetch;
use crate::keyspace::memtable::{KeyBytes, RowKey};

/// Rows above this many bytes are not cached: reading them from the page cache is cheap in proportion.
const ROW_BYTES_MAX: usize = 4096;
/// What an entry costs beside key and row, in bytes: slot, table overhead, place in the queue, allocation head.
const ENTRY_OVERHEAD: usize = 112;
/// A shard holds at least so many bytes, and there are at most so many shards.
const SHARD_BYTES_MIN: u64 = 1 << 20;
const SHARDS_MAX: u64 = 64;
/// The small queue's share of a shard is one part in this many.
const SMALL_PART: usize = 10;
/// Bytes of a shard for each remembered eviction.
const BYTES_PER_GHOST: usize = 256;
/// Hits that count.
const HEAT_MAX: u8 = 3;

/// A cached row; one cache line, as long as the key is short.
#[repr(align(64))]
struct Slot {
    key: KeyBytes,
    /// `None` once a checkpoint has removed it.
    row: Option<Arc<[u8]>>,
    hash: u64,
    heat: AtomicU8,
    in_main: bool,
}

impl Slot {
    fn weight(&self) -> usize {
        self.key.len() + self.row.as_ref().map_or(0, |row| row.len()) + ENTRY_OVERHEAD
    }
}

/// Rows, and the order in which they are looked at when one must go. The queues hold hashes: two slots of the
/// same hash may change places, which costs nothing but a guess.
struct Rows {
    slots: HashTable<Slot>,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    small_bytes: usize,
    main_bytes: usize,
    bytes_max: usize,
    /// What was evicted from the small queue lately: at the place of a hash, some of its bits.
    ghosts: Vec<u32>,
}

#[repr(align(128))]
struct Shard {
    rows: RwLock<Rows>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Number of checkpoints that the cache has seen; a reader notes it before its read transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheGeneration(u64);

/// See the file's head. Hashes are those of [`crate::keyspace::memtable::Memtable::hash`].
pub(crate) struct ReadCache {
    shards: Box<[Shard]>,
    generation: RwLock<u64>,
}

impl ReadCache {
    /// A cache of at most `bytes`.
    pub(crate) fn new(bytes: u64) -> ReadCache {
        let shards = (bytes / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX).next_power_of_two();
        let bytes_max = (bytes / shards) as usize;
        let shards = (0..shards).map(|_| Shard {
            rows: RwLock::new(Rows::new(bytes_max)),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        });
        ReadCache { shards: shards.collect(), generation: RwLock::new(0) }
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard {
        // The table inside uses the low bits and the top seven; these lie between.
        &self.shards[(hash >> 40) as usize % self.shards.len()]
    }

    /// The cached row.
    #[inline]
    pub(crate) fn get(&self, hash: u64, key: RowKey<'_>) -> Option<Arc<[u8]>> {
        let shard = self.shard(hash);
        let rows = shard.rows.read();
        if let Some(slot) = rows.slots.find(hash, |slot| key.matches(&slot.key))
            && let Some(row) = &slot.row
        {
            shard.hits.fetch_add(1, Ordering::Relaxed);
            // Two readers may count as one; once a row is hot, its line is only read.
            let heat = slot.heat.load(Ordering::Relaxed);
            if heat < HEAT_MAX {
                slot.heat.store(heat + 1, Ordering::Relaxed);
            }
            return Some(row.clone());
        }
        shard.misses.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Asks the CPU for the slot of a key that is about to be looked up.
    #[inline]
    pub(crate) fn prefetch_slot(&self, hash: u64) {
        if let Some(slot) = self.shard(hash).rows.read().slots.find(hash, |_| true) {
            prefetch(slot);
        }
    }

    /// Asks the CPU for the row; its slot should have arrived.
    #[inline]
    pub(crate) fn prefetch_row(&self, hash: u64) {
        if let Some(slot) = self.shard(hash).rows.read().slots.find(hash, |slot| slot.hash == hash)
            && let Some(row) = &slot.row
        {
            prefetch(&**row);
        }
    }

    /// To be noted before a read transaction is opened.
    pub(crate) fn generation(&self) -> CacheGeneration {
        CacheGeneration(*self.generation.read())
    }

    /// Offers a row read from the checkpoint store; refused if a checkpoint committed since `seen`.
    pub(crate) fn offer(&self, hash: u64, key: RowKey<'_>, row: &Arc<[u8]>, seen: CacheGeneration) {
        if row.len() > ROW_BYTES_MAX {
            return;
        }
        let generation = self.generation.read();
        if *generation == seen.0 {
            self.shard(hash).rows.write().insert(hash, key, row);
        }
    }

    /// A checkpoint has committed these keys, given with their hashes: called before the frozen memtable goes.
    pub(crate) fn checkpointed<'a>(&self, keys: impl Iterator<Item = (u64, RowKey<'a>)>) {
        *self.generation.write() += 1;
        for (hash, key) in keys {
            self.shard(hash).rows.write().remove(hash, key);
        }
    }

    /// Bytes held, hits and misses since the start.
    pub(crate) fn stats(&self) -> (u64, u64, u64) {
        self.shards.iter().fold((0, 0, 0), |(bytes, hits, misses), shard| {
            let rows = shard.rows.read();
            (
                bytes + (rows.small_bytes + rows.main_bytes) as u64,
                hits + shard.hits.load(Ordering::Relaxed),
                misses + shard.misses.load(Ordering::Relaxed),
            )
        })
    }
}

impl Rows {
    fn new(bytes_max: usize) -> Rows {
        Rows {
            slots: HashTable::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            small_bytes: 0,
            main_bytes: 0,
            bytes_max,
            ghosts: vec![0; (bytes_max / BYTES_PER_GHOST).max(1)],
        }
    }

    fn insert(&mut self, hash: u64, key: RowKey<'_>, row: &Arc<[u8]>) {
        if let Some(slot) = self.slots.find_mut(hash, |slot| key.matches(&slot.key)) {
            let before = slot.weight();
            slot.row = Some(row.clone());
            let bytes = if slot.in_main { &mut self.main_bytes } else { &mut self.small_bytes };
            *bytes = *bytes + slot.weight() - before;
        } else {
            let in_main = self.take_ghost(hash);
            let slot =
                Slot { key: key.to_bytes(), row: Some(row.clone()), hash, heat: AtomicU8::new(0), in_main };
            if in_main {
                self.main_bytes += slot.weight();
                self.main.push_back(hash);
            } else {
                self.small_bytes += slot.weight();
                self.small.push_back(hash);
            }
            self.slots.insert_unique(hash, slot, |slot| slot.hash);
        }
        while self.small_bytes + self.main_bytes > self.bytes_max {
            if self.small_bytes > self.bytes_max / SMALL_PART || self.main.is_empty() {
                self.shrink_small();
            } else {
                self.shrink_main();
            }
        }
    }

    /// Empties the slot and leaves it in its queue.
    fn remove(&mut self, hash: u64, key: RowKey<'_>) {
        let Some(slot) = self.slots.find_mut(hash, |slot| key.matches(&slot.key)) else { return };
        let bytes = if slot.in_main { &mut self.main_bytes } else { &mut self.small_bytes };
        *bytes -= slot.row.take().map_or(0, |row| row.len());
    }

    /// Looks at the oldest row of the small queue: it goes, or, if it was read, moves to the main queue.
    fn shrink_small(&mut self) {
        let Some(hash) = self.small.pop_front() else { return };
        let Ok(mut entry) = self.slots.find_entry(hash, |slot| slot.hash == hash && !slot.in_main) else {
            debug_assert!(false, "a queued row has no slot");
            return;
        };
        let slot = entry.get_mut();
        let weight = slot.weight();
        self.small_bytes -= weight;
        if slot.row.is_some() && *slot.heat.get_mut() > 0 {
            *slot.heat.get_mut() = 0;
            slot.in_main = true;
            self.main_bytes += weight;
            self.main.push_back(hash);
            return;
        }
        let evicted = slot.row.is_some();
        entry.remove();
        if evicted {
            let place = self.ghost_place(hash);
            self.ghosts[place] = ghost_mark(hash);
        }
    }

    /// Looks at the oldest row of the main queue: it goes, or, if it was read, stays for another round.
    fn shrink_main(&mut self) {
        let Some(hash) = self.main.pop_front() else { return };
        let Ok(mut entry) = self.slots.find_entry(hash, |slot| slot.hash == hash && slot.in_main) else {
            debug_assert!(false, "a queued row has no slot");
            return;
        };
        let slot = entry.get_mut();
        if slot.row.is_some() && *slot.heat.get_mut() > 0 {
            *slot.heat.get_mut() -= 1;
            self.main.push_back(hash);
            return;
        }
        self.main_bytes -= slot.weight();
        entry.remove();
    }

    fn ghost_place(&self, hash: u64) -> usize {
        (hash >> 8) as usize % self.ghosts.len()
    }

    /// Whether the row was evicted lately.
    fn take_ghost(&mut self, hash: u64) -> bool {
        let place = self.ghost_place(hash);
        let known = self.ghosts[place] == ghost_mark(hash);
        if known {
            self.ghosts[place] = 0;
        }
        known
    }
}

/// Bits of a hash that tell it from others of its place; never 0.
fn ghost_mark(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::memtable::Memtable;
    use foldhash::fast::RandomState;

    /// A cache, and the hasher of its keyspace.
    struct Cached {
        cache: ReadCache,
        hasher: RandomState,
    }

    impl Cached {
        fn new(bytes: u64) -> Cached {
            Cached { cache: ReadCache::new(bytes), hasher: RandomState::default() }
        }

        fn hash(&self, key: &[u8]) -> u64 {
            Memtable::hash(&self.hasher, RowKey::encoded(key))
        }

        fn get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
            self.cache.get(self.hash(key), RowKey::encoded(key))
        }

        fn offer(&self, key: &[u8], row: &[u8], seen: CacheGeneration) {
            self.cache.offer(self.hash(key), RowKey::encoded(key), &Arc::from(row), seen);
        }

        fn checkpointed(&self, keys: &[&[u8]]) {
            self.cache.checkpointed(keys.iter().map(|key| (self.hash(key), RowKey::encoded(key))));
        }

        /// Looks every slot up in its queue, and adds the weights up again.
        fn check(&self) {
            for shard in &self.cache.shards {
                let rows = shard.rows.read();
                assert_eq!(rows.slots.len(), rows.small.len() + rows.main.len());
                assert!(rows.small_bytes + rows.main_bytes <= rows.bytes_max);
                let sum = |main: bool| {
                    rows.slots.iter().filter(|slot| slot.in_main == main).map(Slot::weight).sum::<usize>()
                };
                assert_eq!((rows.small_bytes, rows.main_bytes), (sum(false), sum(true)));
                for (queue, main) in [(&rows.small, false), (&rows.main, true)] {
                    for hash in queue {
                        let found = |slot: &Slot| slot.hash == *hash && slot.in_main == main;
                        assert!(rows.slots.find(*hash, found).is_some());
                    }
                }
            }
        }
    }

    #[test]
    fn pitfall_6_a_row_read_before_a_checkpoint_is_not_kept_after_it() {
        let cached = Cached::new(1 << 20);
        let key = &b"O\0\0\0\x01k"[..];
        let seen = cached.cache.generation();
        cached.offer(key, b"old", seen);
        assert_eq!(cached.get(key).as_deref(), Some(&b"old"[..]));
        // A reader notes the generation, reads the old row, and is slow to offer it.
        let seen = cached.cache.generation();
        cached.checkpointed(&[key]);
        assert_eq!(cached.get(key), None);
        cached.offer(key, b"old", seen);
        assert_eq!(cached.get(key), None);
        cached.offer(key, b"new", cached.cache.generation());
        assert_eq!(cached.get(key).as_deref(), Some(&b"new"[..]));
        cached.check();
    }

    #[test]
    fn it_stays_within_its_bytes_and_every_slot_in_one_queue() {
        let cached = Cached::new(64 << 10);
        let mut random = fastrand::Rng::with_seed(7);
        for step in 0..50_000u32 {
            let key = [b"O\0\0\0\x01", &random.u32(0..2_000).to_be_bytes()[..]].concat();
            match random.u32(0..10) {
                0 => cached.checkpointed(&[&key]),
                _ if cached.get(&key).is_some() => {}
                _ => {
                    let row = vec![0; random.usize(0..200)];
                    cached.offer(&key, &row, cached.cache.generation());
                }
            }
            if step % 1_000 == 0 {
                cached.check();
            }
        }
        let (bytes, hits, misses) = cached.cache.stats();
        assert!(bytes <= 64 << 10 && bytes > 60 << 10, "{bytes}");
        assert!(hits > 0 && misses > 0);
    }

    #[test]
    fn rows_that_are_read_again_outlive_a_scan() {
        let cached = Cached::new(64 << 10);
        let seen = cached.cache.generation();
        let key = |table: u8, number: u32| [b"O\0\0\0", &[table][..], &number.to_be_bytes()].concat();
        for number in 0..50 {
            cached.offer(&key(1, number), &[0; 64], seen);
            assert!(cached.get(&key(1, number)).is_some());
        }
        for number in 0..5_000 {
            cached.offer(&key(2, number), &[0; 64], seen);
        }
        let left = (0..50).filter(|number| cached.get(&key(1, *number)).is_some()).count();
        assert_eq!(left, 50);
        cached.check();
    }

    #[test]
    fn a_row_larger_than_a_shard_is_not_kept_and_harms_nobody() {
        let cached = Cached::new(1 << 10);
        let seen = cached.cache.generation();
        cached.offer(b"O\0\0\0\x01large", &[0; 4_000], seen);
        assert_eq!(cached.get(b"O\0\0\0\x01large"), None);
        cached.offer(b"O\0\0\0\x01small", &[0; 10], seen);
        assert!(cached.get(b"O\0\0\0\x01small").is_some());
        cached.check();
    }
}
