//! Buckets as readers see them: names, numbers, epochs, counters. Written by apply, read by everybody.
//!
//! A derived, in-memory picture of the bucket table, so that a GET needs no second row. What must hold:
//! an epoch is looked at together with the version one reads at, because FLUSHDB may be applied while
//! a reader still reads before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::object::{BucketId, Version};

/// A bucket's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its number.
    pub id: BucketId,
    /// Its name.
    pub name: String,
    /// When it was created, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Objects in it; expired ones count until their removal is applied.
    pub objects: u64,
    /// Sum of their body lengths.
    pub bytes: u64,
}

/// One bucket, shared between apply and readers.
pub(crate) struct BucketEntry {
    pub(crate) id: BucketId,
    pub(crate) name: Box<[u8]>,
    pub(crate) created_ms: u64,
    epoch: AtomicU64,
    older_epochs: Mutex<Vec<Version>>,
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl BucketEntry {
    pub(crate) fn new(id: BucketId, name: &[u8], created_ms: u64, epoch: Version) -> BucketEntry {
        BucketEntry {
            id,
            name: Box::from(name),
            created_ms,
            epoch: AtomicU64::new(epoch.0),
            older_epochs: Mutex::default(),
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Rows below this version are dead for a reader at `at`.
    #[inline]
    pub(crate) fn epoch_at(&self, at: Version) -> Version {
        let epoch = Version(self.epoch.load(Ordering::Acquire));
        if epoch <= at {
            return epoch;
        }
        let older = self.older_epochs.lock();
        older.iter().rev().find(|epoch| **epoch <= at).copied().unwrap_or(Version::ZERO)
    }

    /// A new epoch begins; epochs that no reader at or after `oldest` needs are forgotten.
    pub(crate) fn begin_epoch(&self, epoch: Version, oldest: Version) {
        let mut older = self.older_epochs.lock();
        older.push(Version(self.epoch.load(Ordering::Acquire)));
        while older.len() > 1 && older[1] <= oldest {
            older.remove(0);
        }
        self.epoch.store(epoch.0, Ordering::Release);
    }

    /// Publishes the counters after an entry.
    pub(crate) fn publish(&self, objects: u64, bytes: u64) {
        self.objects.store(objects, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Objects in the bucket.
    pub(crate) fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    pub(crate) fn info(&self) -> BucketInfo {
        BucketInfo {
            id: self.id,
            name: String::from_utf8_lossy(&self.name).into_owned(),
            created_ms: self.created_ms,
            objects: self.objects(),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

#[derive(Default)]
struct Maps {
    by_id: Vec<Option<Arc<BucketEntry>>>,
    by_name: HashMap<Box<[u8]>, BucketId>,
}

/// All buckets.
#[derive(Default)]
pub(crate) struct Registry {
    maps: ArcSwap<Maps>,
}

impl Registry {
    /// The bucket of that number.
    #[inline]
    pub(crate) fn get(&self, id: BucketId) -> Option<Arc<BucketEntry>> {
        self.maps.load().by_id.get(id.0 as usize)?.clone()
    }

    /// Rows of the bucket below this version are dead at `at`; `None` if there is no such bucket.
    #[inline]
    pub(crate) fn epoch_at(&self, id: BucketId, at: Version) -> Option<Version> {
        let maps = self.maps.load();
        Some(maps.by_id.get(id.0 as usize)?.as_ref()?.epoch_at(at))
    }

    /// The bucket of that name.
    pub(crate) fn by_name(&self, name: &[u8]) -> Option<BucketId> {
        self.maps.load().by_name.get(name).copied()
    }

    /// All buckets, by name.
    pub(crate) fn all(&self) -> Vec<Arc<BucketEntry>> {
        let maps = self.maps.load();
        let mut all: Vec<_> = maps.by_id.iter().flatten().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Adds a bucket. Only apply calls this.
    pub(crate) fn insert(&self, bucket: Arc<BucketEntry>) {
        self.change(|maps| {
            let at = bucket.id.0 as usize;
            if maps.by_id.len() <= at {
                maps.by_id.resize(at + 1, None);
            }
            maps.by_name.insert(bucket.name.clone(), bucket.id);
            maps.by_id[at] = Some(bucket.clone());
        });
    }

    /// Removes a bucket. Only apply calls this.
    pub(crate) fn remove(&self, id: BucketId) {
        self.change(|maps| {
            if let Some(bucket) = maps.by_id.get_mut(id.0 as usize).and_then(Option::take) {
                maps.by_name.remove(&bucket.name);
            }
        });
    }

    fn change(&self, edit: impl Fn(&mut Maps)) {
        let old = self.maps.load();
        let mut maps = Maps { by_id: old.by_id.clone(), by_name: old.by_name.clone() };
        edit(&mut maps);
        self.maps.store(Arc::new(maps));
    }
}
