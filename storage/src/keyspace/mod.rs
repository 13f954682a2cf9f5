//! The ordered key-value map: memtables over a checkpoint store, read at one index.
//!
//! Owns the set of memtables, the visible index, registered views, the read cache and the checkpoint
//! store behind them. Does not own what the rows mean (`apply/`) nor when a checkpoint runs (`replica/`).
//!
//! What must hold (PITFALLS 5, 6):
//! - A reader takes its index first, then the memtable set, then a read transaction; so whatever it
//!   misses in the memtables of the set is in the transaction.
//! - A checkpoint announces the version it commits ([`Keyspace::committing`]) before the commit; a reader
//!   whose index is older starts again, because the transaction may hold newer rows.
//! - The visible index is published after a whole entry. Apply keeps every version that the visible
//!   index or a registered view may ask for.
//!
//! A crash leaves the last checkpoint; the journal above it is applied again.

pub(crate) mod audit;
pub(crate) mod base;
pub(crate) mod cache;
pub(crate) mod checkpoint;
mod cpu_cache;
pub(crate) mod lmdb;
pub(crate) mod memtable;
pub(crate) mod places;
pub(crate) mod tables;
pub(crate) mod view;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use base::{Base, BaseError, Pair};
use cache::ReadCache;
use memtable::{Found, Horizon, Memtable, RowKey, Value};
use tables::Table;

use crate::object::Version;

/// Keys that are worth prefetching together: more would push each other out of the nearest cache.
pub(crate) const PREFETCH_KEYS: usize = 64;

/// A frozen memtable and the last version in it.
pub(crate) struct Frozen {
    pub(crate) rows: Arc<Memtable>,
    pub(crate) upto: Version,
}

/// The memtables that readers see, newest first.
pub(crate) struct MemSet {
    pub(crate) active: Arc<Memtable>,
    pub(crate) frozen: Option<Arc<Frozen>>,
}

impl MemSet {
    /// The memtables, newest first.
    fn tables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(self.frozen.as_ref().map(|frozen| &frozen.rows))
    }
}

/// What a read at an index comes to.
pub(crate) enum Got {
    /// The row, or that there is none.
    Value(Value),
    /// The index has become too old for an unregistered reader: take the newest and read again.
    Restart,
    /// Only the checkpoint store can tell, and it may block.
    Cold,
}

/// See the file's head.
pub(crate) struct Keyspace {
    set: ArcSwap<MemSet>,
    visible: AtomicU64,
    committing: AtomicU64,
    pub(crate) base: Arc<dyn Base>,
    pub(crate) cache: ReadCache,
    views: Mutex<BTreeMap<Version, usize>>,
    view_released: Condvar,
    hasher: RandomState,
}

impl Keyspace {
    /// An empty set of memtables over `base`, which holds everything up to the entry at `applied`.
    pub(crate) fn new(base: Arc<dyn Base>, cache_bytes: u64, applied: u64) -> Keyspace {
        let hasher = RandomState::default();
        let active = Arc::new(Memtable::new(hasher.clone()));
        let at = Version::end_of(applied).0;
        Keyspace {
            set: ArcSwap::from_pointee(MemSet { active, frozen: None }),
            visible: AtomicU64::new(at),
            committing: AtomicU64::new(at),
            base,
            cache: ReadCache::new(cache_bytes),
            views: Mutex::default(),
            view_released: Condvar::new(),
            hasher,
        }
    }

    /// The newest version that readers may see.
    #[inline]
    pub(crate) fn visible(&self) -> Version {
        Version(self.visible.load(Ordering::SeqCst))
    }

    /// Publishes a whole entry.
    pub(crate) fn publish(&self, index: u64) {
        self.visible.store(Version::end_of(index).0, Ordering::SeqCst);
    }

    /// The current memtables.
    pub(crate) fn memtables(&self) -> Arc<MemSet> {
        self.set.load_full()
    }

    /// Reads at the newest visible index, which it returns too, without registering a view. `wait`: whether
    /// the caller may block on the disk.
    #[inline]
    pub(crate) fn read_latest(
        &self,
        key: RowKey<'_>,
        cached: bool,
        wait: bool,
    ) -> Result<(Got, Version), BaseError> {
        loop {
            let at = self.visible();
            let set = self.set.load();
            match self.read_at(&set, key, at, cached, wait)? {
                Got::Restart => continue,
                got => return Ok((got, at)),
            }
        }
    }

    /// Reads in a memtable set at an index. `cached`: whether rows of this table may be in the cache.
    #[inline]
    pub(crate) fn read_at(
        &self,
        set: &MemSet,
        key: RowKey<'_>,
        at: Version,
        cached: bool,
        wait: bool,
    ) -> Result<Got, BaseError> {
        let hash = Memtable::hash(&self.hasher, key);
        for table in set.tables() {
            match table.get(hash, key, at) {
                Found::Value(value) => return Ok(Got::Value(value)),
                Found::Nothing => {}
                Found::Dropped => return Ok(Got::Restart),
            }
        }
        let value = if let Some(row) = cached.then(|| self.cache.get(hash, key)).flatten() {
            Some(row)
        } else if !wait && self.base.may_block() {
            return Ok(Got::Cold);
        } else {
            let generation = self.cache.generation();
            let row = self.base.get(&key.to_bytes())?;
            if cached && let Some(row) = &row {
                self.cache.offer(hash, key, row, generation);
            }
            row
        };
        // The cache and the transaction may hold what a checkpoint committed after `at`.
        if self.committing.load(Ordering::SeqCst) > at.0 {
            return Ok(Got::Restart);
        }
        Ok(Got::Value(value))
    }

    /// The row as of `at` if a memtable of the set has it.
    pub(crate) fn in_memory(&self, set: &MemSet, key: RowKey<'_>, at: Version) -> Option<Value> {
        let hash = Memtable::hash(&self.hasher, key);
        set.tables().find_map(|table| match table.get(hash, key, at) {
            Found::Value(value) => Some(value),
            Found::Nothing | Found::Dropped => None,
        })
    }

    /// Whether a memtable has anything to say of the row, be it that it is gone.
    pub(crate) fn has_in_memory(&self, key: RowKey<'_>) -> bool {
        let hash = Memtable::hash(&self.hasher, key);
        self.set.load().tables().any(|table| table.newest(hash, key).is_some())
    }

    /// The row in the checkpoint store, whatever the memtables say; `None` if it may be newer than `at`. May
    /// block.
    pub(crate) fn in_base_at(&self, key: &[u8], at: Version) -> Result<Option<Value>, BaseError> {
        let row = self.base.get(key)?;
        Ok((self.committing.load(Ordering::SeqCst) <= at.0).then_some(row))
    }

    /// The newest row, for the apply thread: sees what the running entry has written. May block.
    pub(crate) fn newest(&self, set: &MemSet, key: RowKey<'_>, cached: bool) -> Result<Value, BaseError> {
        let hash = Memtable::hash(&self.hasher, key);
        for table in set.tables() {
            if let Some(value) = table.newest(hash, key) {
                return Ok(value);
            }
        }
        if let Some(row) = cached.then(|| self.cache.get(hash, key)).flatten() {
            return Ok(Some(row));
        }
        self.base.get(&key.to_bytes())
    }

    /// Brings the row's page into memory, unless a memtable or the cache has the row.
    pub(crate) fn touch(&self, key: RowKey<'_>) {
        let set = self.set.load();
        let hash = Memtable::hash(&self.hasher, key);
        if set.tables().any(|table| table.newest(hash, key).is_some()) || self.cache.get(hash, key).is_some()
        {
            return;
        }
        if let Err(error) = self.base.get(&key.to_bytes()) {
            // Whoever needs the row meets the error again, and handles it.
            tracing::debug!(%error, "a row could not be touched");
        }
    }

    /// Asks the CPU for what look-ups of these rows will read, all at once; a hint, and never blocks.
    pub(crate) fn prefetch<'a>(&self, keys: impl Iterator<Item = RowKey<'a>> + Clone) {
        let set = self.set.load();
        let hashes: SmallVec<[u64; PREFETCH_KEYS]> =
            keys.clone().map(|key| Memtable::hash(&self.hasher, key)).collect();
        for hash in &hashes {
            // A memtable that may hold the row is looked at first, and most often that is all.
            if !set.tables().any(|table| table.prefetch_slot(*hash)) {
                self.cache.prefetch_slot(*hash);
            }
        }
        for (hash, key) in hashes.iter().zip(keys) {
            if !set.tables().any(|table| table.prefetch_row(*hash, key)) {
                self.cache.prefetch_row(*hash);
            }
        }
    }

    /// The hash by which memtables and cache know a row.
    pub(crate) fn hash(&self, key: RowKey<'_>) -> u64 {
        Memtable::hash(&self.hasher, key)
    }

    /// Up to `limit` rows of [from, end) in order, as of `at`, merged from all sources. May block.
    /// `None`: the index has become too old.
    pub(crate) fn range_at(
        &self,
        set: &MemSet,
        at: Version,
        from: Bound<&[u8]>,
        end: &[u8],
        limit: usize,
    ) -> Result<Option<Vec<Pair>>, BaseError> {
        let mut rows: Vec<Pair> = Vec::new();
        let mut start: (Arc<[u8]>, bool) = match from {
            Bound::Included(key) => (Arc::from(key), true),
            Bound::Excluded(key) => (Arc::from(key), false),
            Bound::Unbounded => (Arc::from(&[][..]), true),
        };
        while rows.len() < limit {
            let page = (limit - rows.len()).max(16) + 1;
            let bound = if start.1 { Bound::Included(&*start.0) } else { Bound::Excluded(&*start.0) };
            let mut merged: BTreeMap<Arc<[u8]>, Option<Arc<[u8]>>> = BTreeMap::new();
            // A source that returned a full page says nothing about keys behind its last.
            let mut horizon: Option<Arc<[u8]>> = None;
            let mut note_end = |keys: usize, last: Option<&Arc<[u8]>>| {
                if keys == page
                    && let Some(last) = last
                    && horizon.as_ref().is_none_or(|h| last < h)
                {
                    horizon = Some(last.clone());
                }
            };
            for table in set.tables() {
                let keys: Vec<Arc<[u8]>> =
                    table.keys(bound, end, page).iter().map(|key| Arc::from(&key[..])).collect();
                note_end(keys.len(), keys.last());
                for key in keys {
                    if merged.contains_key(&key) {
                        continue;
                    }
                    let row_key = RowKey::encoded(&key);
                    match table.get(Memtable::hash(&self.hasher, row_key), row_key, at) {
                        Found::Value(value) => {
                            merged.insert(key, value);
                        }
                        Found::Nothing => {}
                        Found::Dropped => return Ok(None),
                    }
                }
            }
            let pairs = self.base.range(bound, end, page)?;
            if self.committing.load(Ordering::SeqCst) > at.0 {
                return Ok(None);
            }
            note_end(pairs.len(), pairs.last().map(|(key, _)| key));
            for (key, value) in pairs {
                merged.entry(key).or_insert(Some(value));
            }
            for (key, value) in merged {
                if horizon.as_ref().is_some_and(|h| key > *h) || rows.len() == limit {
                    break;
                }
                if let Some(value) = value {
                    rows.push((key, value));
                }
            }
            match horizon {
                Some(last) => start = (last, false),
                None => break,
            }
        }
        Ok(Some(rows))
    }

    /// Registers a view at `at`, or at the newest visible version.
    pub(crate) fn register(&self, at: Option<Version>) -> Version {
        let mut views = self.views.lock();
        // Read under the lock, so that apply's horizon never passes between reading and registering.
        let at = at.unwrap_or_else(|| self.visible());
        *views.entry(at).or_insert(0) += 1;
        at
    }

    fn unregister(&self, at: Version) {
        let mut views = self.views.lock();
        if let Some(count) = views.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                views.remove(&at);
                self.view_released.notify_all();
            }
        }
    }

    /// Which versions apply must keep while it writes the next entry.
    pub(crate) fn horizon(&self) -> Horizon {
        let views = self.views.lock();
        let visible = self.visible();
        let oldest = views.keys().next().map_or(visible, |oldest| visible.min(*oldest));
        let newest = views.keys().next_back().map_or(visible, |newest| visible.max(*newest));
        Horizon { oldest, newest }
    }

    /// Waits until no view older than `upto` is left, or the time is over. Views that outlive it answer
    /// that they have become too old.
    pub(crate) fn wait_for_views(&self, upto: Version, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut views = self.views.lock();
        while views.keys().next().is_some_and(|oldest| *oldest < upto) {
            if self.view_released.wait_until(&mut views, until).timed_out() {
                return false;
            }
        }
        true
    }

    /// Starts a new memtable; the old one goes to the checkpoint. Only between entries, only by the apply
    /// thread, and only when no other is frozen.
    pub(crate) fn freeze(&self) -> Arc<Frozen> {
        let set = self.set.load_full();
        debug_assert!(set.frozen.is_none(), "one frozen memtable at a time");
        let frozen = Arc::new(Frozen { rows: set.active.clone(), upto: self.visible() });
        let active = Arc::new(Memtable::new(self.hasher.clone()));
        self.set.store(Arc::new(MemSet { active, frozen: Some(frozen.clone()) }));
        frozen
    }

    /// A checkpoint is about to commit everything up to `upto`.
    pub(crate) fn announce_commit(&self, upto: Version) {
        self.committing.store(upto.0, Ordering::SeqCst);
    }

    /// The checkpoint has been committed: drops the frozen memtable. Never races with a freeze, which waits
    /// until none is there.
    pub(crate) fn drop_frozen(&self) {
        let set = self.set.load_full();
        self.set.store(Arc::new(MemSet { active: set.active.clone(), frozen: None }));
    }

    /// The exclusive end of a table's key range.
    pub(crate) fn table_end(table: Table) -> [u8; 1] {
        [table as u8 + 1]
    }
}
