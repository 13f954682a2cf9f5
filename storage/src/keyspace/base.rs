//! The checkpoint store's contract, and its in-memory form for the simulator.
//!
//! An ordered map of bytes to bytes. A commit is atomic, and durable when it returns; only the checkpoint
//! commits. LMDB keeps this contract in production (`lmdb.rs`), [`SimBase`] on simulated power cuts.

#[cfg(test)]
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

#[cfg(test)]
use parking_lot::Mutex;

/// What reading or committing can run into.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BaseError {
    /// The map is full: raise `lmdb.map_size`.
    #[error("the checkpoint store is full ({used} of {map} bytes)")]
    Full {
        /// Bytes in use.
        used: u64,
        /// Size of the map.
        map: u64,
    },
    /// The store reports damage or the disk failed.
    #[error("checkpoint store: {0}")]
    Failed(Arc<str>),
}

/// One change of a commit, in key order: the value, or `None` to delete.
pub(crate) type Change = (Arc<[u8]>, Option<Arc<[u8]>>);

/// A row read from a range: key and value.
pub(crate) type Pair = (Arc<[u8]>, Arc<[u8]>);

/// See the file's head.
pub(crate) trait Base: Send + Sync {
    /// The value at a key. May fault pages in from the disk.
    fn get(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, BaseError>;
    /// Up to `limit` pairs of the range in order.
    fn range(&self, from: Bound<&[u8]>, end: &[u8], limit: usize) -> Result<Vec<Pair>, BaseError>;
    /// Applies all changes, in key order, atomically and durably.
    fn commit(&self, changes: &[Change]) -> Result<(), BaseError>;
    /// Bytes in use, and size of the map.
    fn usage(&self) -> (u64, u64);
    /// Whether reads may block on the disk, so that they must leave the async worker.
    fn may_block(&self) -> bool;
}

#[cfg(test)]
type Rows = BTreeMap<Arc<[u8]>, Arc<[u8]>>;

/// The simulator's checkpoint store: survives simulated power cuts whole, by contract.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct SimBase {
    rows: Mutex<Rows>,
    full: std::sync::atomic::AtomicBool,
}

#[cfg(test)]
impl SimBase {
    /// Lets the next commit end for lack of space.
    pub(crate) fn fail_next_commit(&self) {
        self.full.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Base for SimBase {
    fn get(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, BaseError> {
        Ok(self.rows.lock().get(key).cloned())
    }

    fn range(&self, from: Bound<&[u8]>, end: &[u8], limit: usize) -> Result<Vec<Pair>, BaseError> {
        if matches!(from, Bound::Included(from) | Bound::Excluded(from) if from >= end) {
            return Ok(Vec::new());
        }
        let rows = self.rows.lock();
        let range = rows.range::<[u8], _>((from, Bound::Excluded(end)));
        Ok(range.take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn commit(&self, changes: &[Change]) -> Result<(), BaseError> {
        assert!(changes.is_sorted_by(|a, b| a.0 < b.0), "in the order of the keys, each once");
        if self.full.swap(false, std::sync::atomic::Ordering::Relaxed) {
            return Err(BaseError::Full { used: 1, map: 1 });
        }
        let mut rows = self.rows.lock();
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(())
    }

    fn usage(&self) -> (u64, u64) {
        let rows = self.rows.lock();
        (rows.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum(), u64::MAX)
    }

    fn may_block(&self) -> bool {
        false
    }
}
