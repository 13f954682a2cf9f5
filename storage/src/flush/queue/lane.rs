//! A bucket's pending rows, and its ready keys sorted by what barriers do to them.

use std::collections::BTreeSet;

use crate::object::{BucketId, Version};

/// All pending rows of a bucket, whatever their state: barriers look at these.
pub(super) struct Bucket {
    pub(super) id: BucketId,
    /// Every pending row.
    pub(super) pending: BTreeSet<(Version, u32)>,
    /// The barriers among them.
    pub(super) barriers: BTreeSet<(Version, u32)>,
    /// Keys whose rows wait for `min_interval` alone.
    pub(super) cooling: BTreeSet<u32>,
}

impl Bucket {
    pub(super) fn new(id: BucketId) -> Bucket {
        Bucket { id, pending: BTreeSet::new(), barriers: BTreeSet::new(), cooling: BTreeSet::new() }
    }
}

/// What a ready key's next step is, as far as barriers care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadySet {
    /// A HEAD: changes nothing, so nothing holds it.
    Check,
    /// A put of a key that was not there before: harmless behind a barrier.
    NewPut,
    /// An overwrite or a delete.
    Other,
    /// A barrier.
    Barrier,
}

impl ReadySet {
    pub(super) const COUNT: usize = 4;
}

/// The ready keys of one bucket that go to one mount, each by the oldest change its next row stands for.
pub(super) struct Lane {
    pub(super) bucket: usize,
    pub(super) mount: Option<usize>,
    ready: [BTreeSet<(Version, u32)>; ReadySet::COUNT],
}

impl Lane {
    pub(super) fn new(bucket: usize, mount: Option<usize>) -> Lane {
        Lane { bucket, mount, ready: Default::default() }
    }

    /// Replaces all sets, in the order of [`ReadySet`].
    pub(super) fn fill(&mut self, ready: [BTreeSet<(Version, u32)>; ReadySet::COUNT]) {
        self.ready = ready;
    }

    pub(super) fn insert(&mut self, set: ReadySet, since: Version, slot: u32) {
        self.ready[set as usize].insert((since, slot));
    }

    pub(super) fn remove(&mut self, set: ReadySet, since: Version, slot: u32) {
        self.ready[set as usize].remove(&(since, slot));
    }

    pub(super) fn first(&self, set: ReadySet) -> Option<(Version, u32)> {
        self.ready[set as usize].first().copied()
    }

    pub(super) fn has_ready(&self) -> bool {
        self.ready.iter().any(|set| !set.is_empty())
    }
}
