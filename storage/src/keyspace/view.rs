//! A registered view: everything read through it is as of one place in the log.
//!
//! Holds its memtables; apply keeps the versions it may ask for, and a checkpoint newer than it waits for
//! it (for a limited time). Keep it short: a page of a listing, one command, one transaction.

use std::ops::Bound;
use std::sync::Arc;

use crate::keyspace::base::Pair;
use crate::keyspace::memtable::{RowKey, Value};
use crate::keyspace::{BaseError, Got, Keyspace, MemSet};
use crate::object::Version;

/// Why a view could not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    /// A checkpoint has passed the view: it lived too long.
    #[error("the read took too long and lost its place in the log")]
    TooOld,
    /// The checkpoint store failed.
    #[error(transparent)]
    Base(#[from] BaseError),
}

/// See the file's head. Cheap to clone.
#[derive(Clone)]
pub(crate) struct View {
    inner: Arc<Inner>,
}

struct Inner {
    keyspace: Arc<Keyspace>,
    set: Arc<MemSet>,
    at: Version,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keyspace.unregister(self.at);
    }
}

impl View {
    /// A view at the newest visible entry.
    pub(crate) fn latest(keyspace: &Arc<Keyspace>) -> View {
        let at = keyspace.register(None);
        View::registered(keyspace, at)
    }

    /// A view at `at`, taken by the apply thread before it applies what comes after `at`.
    pub(crate) fn in_entry(keyspace: &Arc<Keyspace>, at: Version) -> View {
        keyspace.register(Some(at));
        View::registered(keyspace, at)
    }

    fn registered(keyspace: &Arc<Keyspace>, at: Version) -> View {
        let set = keyspace.memtables();
        View { inner: Arc::new(Inner { keyspace: keyspace.clone(), set, at }) }
    }

    /// Where in the log.
    pub(crate) fn at(&self) -> Version {
        self.inner.at
    }

    /// The row at a key; `None` if only a blocking read can tell and `wait` is false.
    pub(crate) fn get(&self, key: RowKey<'_>, cached: bool, wait: bool) -> Result<Option<Value>, ViewError> {
        let inner = &*self.inner;
        match inner.keyspace.read_at(&inner.set, key, inner.at, cached, wait)? {
            Got::Value(value) => Ok(Some(value)),
            Got::Restart => Err(ViewError::TooOld),
            Got::Cold => Ok(None),
        }
    }

    /// The row if a memtable has it: its value, or that it is gone.
    pub(crate) fn in_memory(&self, key: RowKey<'_>) -> Option<Value> {
        self.inner.keyspace.in_memory(&self.inner.set, key, self.inner.at)
    }

    /// The row in the checkpoint store, whatever the memtables say. May block.
    pub(crate) fn in_base(&self, key: &[u8]) -> Result<Value, ViewError> {
        self.inner.keyspace.in_base_at(key, self.inner.at)?.ok_or(ViewError::TooOld)
    }

    /// Whether reading the checkpoint store may block on the disk.
    pub(crate) fn may_block(&self) -> bool {
        self.inner.keyspace.base.may_block()
    }

    /// Up to `limit` rows of [from, end) in order. May block.
    pub(crate) fn range(&self, from: Bound<&[u8]>, end: &[u8], limit: usize) -> Result<Vec<Pair>, ViewError> {
        let inner = &*self.inner;
        inner.keyspace.range_at(&inner.set, inner.at, from, end, limit)?.ok_or(ViewError::TooOld)
    }
}
