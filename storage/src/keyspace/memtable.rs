//! One memtable: the rows written since a checkpoint, in memory.
//!
//! Owns rows by key with the versions that live readers may still need (PITFALLS 5). A point read hashes
//! into a shard and walks no ordered structure; the order that range reads and the checkpoint need is
//! extended lazily, once per key, by the first that asks for it.
//! Written by one thread (apply), read by many. Nothing here survives a crash: the journal does.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use crate::keyspace::cpu_cache::prefetch;
use crate::keyspace::tables::Table;
use crate::object::{BucketId, Version};

/// A row's value; `None` is a tombstone: the row is gone, whatever lies below.
pub(crate) type Value = Option<Arc<[u8]>>;

/// An encoded row key; short ones stand in the slot, which saves a look-up one cache miss.
pub(crate) type KeyBytes = SmallVec<[u8; 24]>;

const SHARDS: usize = 64;
const SHARD_BITS: u32 = SHARDS.trailing_zeros();
/// What a slot costs beside its key and value, in bytes (slot, table overhead, two allocation heads).
const SLOT_OVERHEAD: usize = 160;
/// What a version in the chain costs beside its value, in bytes.
const OLDER_OVERHEAD: usize = 64;

/// A row key in two pieces, so that a lookup by (table, bucket, key) copies nothing. Every row key has at
/// least five bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowKey<'a> {
    head: [u8; 5],
    tail: &'a [u8],
}

impl<'a> RowKey<'a> {
    /// The key of an object's row in `table`.
    #[inline]
    pub(crate) fn object(table: Table, bucket: BucketId, key: &'a [u8]) -> RowKey<'a> {
        let b = bucket.0.to_be_bytes();
        RowKey { head: [table as u8, b[0], b[1], b[2], b[3]], tail: key }
    }

    /// Splits an encoded key.
    #[inline]
    pub(crate) fn encoded(key: &'a [u8]) -> RowKey<'a> {
        match key.split_first_chunk::<5>() {
            Some((head, tail)) => RowKey { head: *head, tail },
            None => {
                debug_assert!(false, "row key of {} bytes", key.len());
                RowKey { head: [0; 5], tail: key }
            }
        }
    }

    /// The key in one piece.
    pub(crate) fn to_bytes(self) -> KeyBytes {
        let mut bytes = KeyBytes::with_capacity(self.len());
        bytes.extend_from_slice(&self.head);
        bytes.extend_from_slice(self.tail);
        bytes
    }

    /// Length of the encoded key in bytes.
    pub(crate) fn len(&self) -> usize {
        5 + self.tail.len()
    }

    /// The same bytes in one piece?
    #[inline]
    pub(crate) fn matches(&self, key: &[u8]) -> bool {
        key.split_first_chunk::<5>().is_some_and(|(head, tail)| *head == self.head && tail == self.tail)
    }

    /// Feeds a hasher; the same for every way of splitting.
    #[inline]
    pub(crate) fn hash_into(&self, hasher: &mut impl Hasher) {
        let [a, b, c, d, e] = self.head;
        hasher.write_u64(u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]));
        hasher.write(self.tail);
    }
}

/// What a lookup in one memtable finds.
#[derive(Debug)]
pub(crate) enum Found {
    /// A row, or a tombstone.
    Value(Value),
    /// Nothing at or before the version asked for: look in the older sources.
    Nothing,
    /// The version asked for has been dropped: only for a reader that holds no registered view; it starts
    /// again at a newer one.
    Dropped,
}

/// Which old versions readers may still ask for while an entry is applied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Horizon {
    /// The oldest version that anybody may read at.
    pub(crate) oldest: Version,
    /// The newest version that anybody reads at by now.
    pub(crate) newest: Version,
}

struct Slot {
    key: KeyBytes,
    version: Version,
    value: Value,
    /// The version before, without an allocation: nearly always all that readers may still ask for.
    previous: Option<(Version, Value)>,
    older: Option<Box<Older>>,
    /// An older version has been dropped: a miss below the kept ones proves nothing.
    dropped: bool,
    /// The horizon for which the chain was last cut: for the same one there is nothing to cut again.
    cut_for: Version,
}

struct Older {
    version: Version,
    value: Value,
    older: Option<Box<Older>>,
}

/// A shard on its own cache lines.
#[repr(align(128))]
struct Shard {
    slots: RwLock<HashTable<Slot>>,
}

/// See the file's head.
pub(crate) struct Memtable {
    hasher: RandomState,
    shards: Box<[Shard]>,
    /// Keys first written since the ordered run was last extended.
    pending: Mutex<Vec<KeyBytes>>,
    ordered: RwLock<BTreeSet<KeyBytes>>,
    bytes: AtomicUsize,
    rows: AtomicUsize,
}

impl Memtable {
    /// An empty memtable; the hasher is shared by all memtables of a keyspace.
    pub(crate) fn new(hasher: RandomState) -> Memtable {
        let shards = (0..SHARDS).map(|_| Shard { slots: RwLock::new(HashTable::new()) }).collect();
        Memtable {
            hasher,
            shards,
            pending: Mutex::default(),
            ordered: RwLock::default(),
            bytes: AtomicUsize::new(0),
            rows: AtomicUsize::new(0),
        }
    }

    /// Hash of a key, the same in every memtable of the keyspace.
    #[inline]
    pub(crate) fn hash(hasher: &RandomState, key: RowKey<'_>) -> u64 {
        let mut state = hasher.build_hasher();
        key.hash_into(&mut state);
        state.finish()
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard {
        // The table inside uses the low bits and the top seven; these lie between.
        &self.shards[(hash >> (57 - SHARD_BITS)) as usize % SHARDS]
    }

    /// Bytes held, estimated with overhead.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Number of rows, tombstones included.
    pub(crate) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// Writes a row. Only the apply thread calls this, with growing versions.
    pub(crate) fn put(&self, key: RowKey<'_>, version: Version, value: Value, horizon: Horizon) {
        let hash = Memtable::hash(&self.hasher, key);
        let value_len = value.as_ref().map_or(0, |v| v.len());
        let mut slots = self.shard(hash).slots.write();
        if let Some(slot) = slots.find_mut(hash, |slot| key.matches(&slot.key)) {
            let old_len = slot.value.as_ref().map_or(0, |v| v.len());
            let old_value = std::mem::replace(&mut slot.value, value);
            let old_version = std::mem::replace(&mut slot.version, version);
            if old_version > horizon.newest {
                // Written by this same entry and seen by nobody.
                self.adjust(value_len, old_len);
                return;
            }
            let mut freed = 0;
            if let Some((previous_version, previous_value)) = slot.previous.replace((old_version, old_value))
            {
                if old_version <= horizon.oldest {
                    // Nobody reads below the version that has just become the previous one.
                    freed += previous_value.as_ref().map_or(0, |v| v.len());
                    freed += slot.older.take().map_or(0, |older| older.bytes());
                    slot.dropped = true;
                } else {
                    let older = slot.older.take();
                    let mut kept =
                        Box::new(Older { version: previous_version, value: previous_value, older });
                    if slot.cut_for != horizon.oldest {
                        slot.cut_for = horizon.oldest;
                        slot.dropped |= prune(&mut kept, horizon.oldest, &mut freed);
                    }
                    slot.older = Some(kept);
                    self.adjust(OLDER_OVERHEAD, 0);
                }
            }
            self.adjust(value_len, freed);
            return;
        }
        let key_bytes = key.to_bytes();
        let slot = Slot {
            key: key_bytes.clone(),
            version,
            value,
            previous: None,
            older: None,
            dropped: false,
            cut_for: Version::ZERO,
        };
        slots.insert_unique(hash, slot, |slot| Memtable::hash(&self.hasher, RowKey::encoded(&slot.key)));
        drop(slots);
        self.pending.lock().push(key_bytes);
        self.adjust(value_len + key.len() + SLOT_OVERHEAD, 0);
        self.rows.fetch_add(1, Ordering::Relaxed);
    }

    fn adjust(&self, more: usize, less: usize) {
        // One writer, so that load and store do not race.
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.bytes.store((bytes + more).saturating_sub(less), Ordering::Relaxed);
    }

    /// Asks the CPU for the slot of a key that is about to be looked up; whether there may be one.
    #[inline]
    pub(crate) fn prefetch_slot(&self, hash: u64) -> bool {
        if self.is_empty() {
            return false;
        }
        let slots = self.shard(hash).slots.read();
        slots.find(hash, |_| true).is_some_and(|slot| {
            prefetch(slot);
            true
        })
    }

    /// Asks the CPU for the row's values; its slot should have arrived. Whether there is one.
    #[inline]
    pub(crate) fn prefetch_row(&self, hash: u64, key: RowKey<'_>) -> bool {
        if self.is_empty() {
            return false;
        }
        let slots = self.shard(hash).slots.read();
        slots.find(hash, |slot| key.matches(&slot.key)).is_some_and(|slot| {
            if let Some(value) = &slot.value {
                prefetch(&**value);
            }
            // A write drops it.
            if let Some((_, Some(value))) = &slot.previous {
                prefetch(&**value);
            }
            true
        })
    }

    /// Whether a reader finds nothing here. A row that its index shows has been counted before the index was
    /// published.
    #[inline]
    fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// The newest value at or before `at`.
    #[inline]
    pub(crate) fn get(&self, hash: u64, key: RowKey<'_>, at: Version) -> Found {
        if self.is_empty() {
            return Found::Nothing;
        }
        let slots = self.shard(hash).slots.read();
        let Some(slot) = slots.find(hash, |slot| key.matches(&slot.key)) else {
            return Found::Nothing;
        };
        if slot.version <= at {
            return Found::Value(slot.value.clone());
        }
        if let Some((version, value)) = &slot.previous
            && *version <= at
        {
            return Found::Value(value.clone());
        }
        let mut next = slot.older.as_deref();
        while let Some(older) = next {
            if older.version <= at {
                return Found::Value(older.value.clone());
            }
            next = older.older.as_deref();
        }
        if slot.dropped { Found::Dropped } else { Found::Nothing }
    }

    /// The newest value, whatever its version: for apply itself, and for a frozen memtable.
    #[inline]
    pub(crate) fn newest(&self, hash: u64, key: RowKey<'_>) -> Option<Value> {
        let slots = self.shard(hash).slots.read();
        slots.find(hash, |slot| key.matches(&slot.key)).map(|slot| slot.value.clone())
    }

    /// Up to `limit` keys of the range in order, tombstones included.
    pub(crate) fn keys(&self, from: Bound<&[u8]>, end: &[u8], limit: usize) -> Vec<KeyBytes> {
        self.extend_order();
        let ordered = self.ordered.read();
        let range = (from, Bound::Excluded(end));
        if is_empty_range(from, end) {
            return Vec::new();
        }
        ordered.range::<[u8], _>(range).take(limit).cloned().collect()
    }

    /// All keys in order: for the checkpoint, after the memtable was frozen.
    pub(crate) fn all_keys(&self) -> Vec<KeyBytes> {
        let ordered = self.ordered.read();
        if ordered.is_empty() {
            // The read lock keeps a range reader from moving the keys meanwhile.
            let mut keys = self.pending.lock().clone();
            drop(ordered);
            keys.sort_unstable();
            return keys;
        }
        drop(ordered);
        self.extend_order();
        self.ordered.read().iter().cloned().collect()
    }

    fn extend_order(&self) {
        // Under the write lock, so that no second reader sees the order without the keys this one took.
        if self.pending.lock().is_empty() {
            // A reader that is extending holds the lock until the keys are in.
            return;
        }
        let mut ordered = self.ordered.write();
        let keys = std::mem::take(&mut *self.pending.lock());
        ordered.extend(keys);
    }
}

impl Older {
    fn bytes(&self) -> usize {
        let (mut sum, mut next) = (0, Some(self));
        while let Some(older) = next {
            sum += older.value.as_ref().map_or(0, |v| v.len()) + OLDER_OVERHEAD;
            next = older.older.as_deref();
        }
        sum
    }
}

impl Drop for Older {
    /// Link by link: a chain may be longer than the stack is deep.
    fn drop(&mut self) {
        let mut next = self.older.take();
        while let Some(mut older) = next {
            next = older.older.take();
        }
    }
}

fn is_empty_range(from: Bound<&[u8]>, end: &[u8]) -> bool {
    match from {
        Bound::Included(from) | Bound::Excluded(from) => from >= end,
        Bound::Unbounded => false,
    }
}

/// Drops what lies below the first version at or before `oldest`; true if anything was.
fn prune(kept: &mut Older, oldest: Version, freed: &mut usize) -> bool {
    let mut node = kept;
    while node.version > oldest {
        match node.older {
            Some(ref mut next) => node = next,
            None => return false,
        }
    }
    let mut rest = node.older.take();
    let any = rest.is_some();
    while let Some(mut older) = rest {
        *freed += older.value.as_ref().map_or(0, |v| v.len()) + OLDER_OVERHEAD;
        rest = older.older.take();
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(version: u64) -> Horizon {
        Horizon { oldest: Version(version), newest: Version(u64::MAX) }
    }

    #[test]
    fn a_reader_finds_the_version_of_its_index() {
        let rows = Memtable::new(RandomState::default());
        let key = RowKey::encoded(b"Okkkkey");
        let hash = Memtable::hash(&rows.hasher, key);
        for version in 1..=5 {
            rows.put(key, Version(version * 10), Some(Arc::from([version as u8])), at(0));
        }
        for version in 1..=5 {
            match rows.get(hash, key, Version(version * 10 + 3)) {
                Found::Value(Some(value)) => assert_eq!(*value, [version as u8]),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(rows.get(hash, key, Version(9)), Found::Nothing));
        rows.put(key, Version(60), None, at(45));
        assert!(matches!(rows.get(hash, key, Version(61)), Found::Value(None)));
        assert!(matches!(rows.get(hash, key, Version(45)), Found::Value(Some(_))));
        assert!(matches!(rows.get(hash, key, Version(15)), Found::Dropped));
    }

    #[test]
    fn pitfall_7_a_listing_puts_only_the_keys_in_order_that_are_new() {
        let rows = Memtable::new(RandomState::default());
        let put = |number: u32, version| {
            let key = [b"Okkkk", &number.to_be_bytes()[..]].concat();
            rows.put(RowKey::encoded(&key), Version(version), Some(Arc::from([1])), at(0));
        };
        (0..1000).rev().for_each(|number| put(number, 1));
        let list = || rows.keys(Bound::Unbounded, b"P", usize::MAX);
        assert_eq!(rows.pending.lock().len(), 1000, "nothing is put in order before somebody asks");
        assert!(list().is_sorted() && list().len() == 1000);
        put(7, 2);
        put(5000, 2);
        assert_eq!(rows.pending.lock().len(), 1);
        assert_eq!(list().len(), 1001);
        assert_eq!(rows.pending.lock().len(), 0);
    }

    #[test]
    fn a_long_chain_of_versions_needs_no_deep_stack() {
        let build = std::thread::Builder::new().stack_size(256 << 10);
        let run = build.spawn(|| {
            let rows = Memtable::new(RandomState::default());
            let key = RowKey::encoded(b"Okkkkey");
            for version in 1..100_000 {
                rows.put(key, Version(version), None, at(0));
            }
            rows.put(key, Version(100_000), None, at(99_999));
            assert_eq!(rows.rows(), 1);
        });
        run.unwrap().join().unwrap();
    }
}
