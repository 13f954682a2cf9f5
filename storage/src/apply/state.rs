//! What apply keeps in memory, derived from the replicated tables: buckets, mounts, pending barriers.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use crate::keyspace::Keyspace;
use crate::keyspace::base::BaseError;
use crate::keyspace::tables::{
    BucketRow, MountRow, QueueRow, RowReader, Table, decode_next_numbers, split_queue_key, split_upload_key,
};
use crate::object::{BucketId, Version};
use crate::registry::{BucketEntry, Registry};

/// Looked up for every mutation, iterated only where order does not matter.
type FastMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// Rows read at a time while loading.
const PAGE: usize = 4096;

/// What a queue row costs beside its body and its key, in bytes: the rows that keep it, on disk and in the
/// worker's memory.
const QUEUE_ROW_BYTES: u64 = 256;

/// What waits for its origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dirty {
    /// Queue rows.
    pub(crate) rows: u64,
    /// Bytes of their bodies.
    pub(crate) body_bytes: u64,
    /// What they are charged for against `dirty_limit`: bodies, keys and the rows themselves, so that
    /// deletes and empty objects count too.
    pub(crate) charged_bytes: u64,
}

fn charge(key: &[u8], row: &QueueRow) -> u64 {
    row.bytes + key.len() as u64 + QUEUE_ROW_BYTES
}

/// One bucket.
pub(super) struct BucketState {
    pub(super) row: BucketRow,
    pub(super) shared: Arc<BucketEntry>,
    /// Pending flush barriers.
    pub(super) barriers: BTreeSet<Version>,
    /// Queue rows.
    pub(super) pending_rows: u64,
    /// Multipart uploads under way.
    pub(super) uploads: u64,
    changed: bool,
}

/// See the file's head.
pub(crate) struct State {
    pub(super) buckets: FastMap<BucketId, BucketState>,
    pub(super) names: FastMap<Box<[u8]>, BucketId>,
    /// By number, which is never given again.
    pub(super) mounts: Vec<(u32, MountRow)>,
    /// Queue rows of each mount.
    mount_rows: FastMap<u32, u64>,
    /// The present run of each node.
    pub(super) boots: FastMap<u16, u64>,
    pub(super) next_bucket: u32,
    pub(super) next_mount: u32,
    /// What waits for its origin.
    dirty: Dirty,
    /// Mounts or epochs have changed since they were last shown.
    pub(super) tables_changed: bool,
    /// A blob may have become clean without a mark since this was last taken.
    pub(super) unmarked: bool,
}

impl State {
    /// Reads everything from the tables and fills the registry.
    pub(super) fn load(keyspace: &Keyspace, registry: &Registry) -> Result<State, BaseError> {
        let mut state = State {
            buckets: FastMap::default(),
            names: FastMap::default(),
            mounts: Vec::new(),
            mount_rows: FastMap::default(),
            boots: FastMap::default(),
            next_bucket: 1,
            next_mount: 1,
            dirty: Dirty::default(),
            tables_changed: true,
            unmarked: false,
        };
        scan(keyspace, Table::Bucket, &mut |key, value| {
            let number =
                key.get(1..5).and_then(|k| k.first_chunk::<4>()).map_or(0, |n| u32::from_be_bytes(*n));
            if number == 0 {
                if let Some((bucket, mount)) = decode_next_numbers(value) {
                    (state.next_bucket, state.next_mount) = (bucket, mount);
                }
            } else if let Some(row) = BucketRow::decode(value) {
                state.insert_bucket(BucketId(number), row, registry);
            }
        })?;
        scan(keyspace, Table::Mount, &mut |key, value| {
            let number =
                key.get(1..5).and_then(|k| k.first_chunk::<4>()).map_or(0, |n| u32::from_be_bytes(*n));
            if let Some(row) = MountRow::decode(value) {
                state.mounts.push((number, row));
            }
        })?;
        scan(keyspace, Table::Upload, &mut |key, _| {
            if let Some((bucket, _, _)) = split_upload_key(key) {
                state.count_upload(bucket, 1);
            }
        })?;
        scan(keyspace, Table::Boot, &mut |key, value| {
            let node = key.get(1..).and_then(|node| node.first_chunk()).map(|n| u32::from_be_bytes(*n));
            if let (Some(Ok(node)), Some(boot)) = (node.map(u16::try_from), value.first_chunk()) {
                state.boots.insert(node, u64::from_le_bytes(*boot));
            }
        })?;
        scan(keyspace, Table::Queue, &mut |key, value| {
            if let (Some((version, bucket, key)), Some(row)) = (split_queue_key(key), QueueRow::decode(value))
            {
                state.note_queued(bucket, key, version, &row);
            }
        })?;
        Ok(state)
    }

    pub(super) fn insert_bucket(&mut self, id: BucketId, row: BucketRow, registry: &Registry) {
        let shared = Arc::new(BucketEntry::new(id, &row.name, row.created_ms, row.epoch));
        shared.publish(row.objects, row.bytes);
        registry.insert(shared.clone());
        self.names.insert(row.name.clone(), id);
        let bucket = BucketState {
            row,
            shared,
            barriers: BTreeSet::new(),
            pending_rows: 0,
            uploads: 0,
            changed: false,
        };
        self.buckets.insert(id, bucket);
    }

    /// Rows of the bucket below this version are dead.
    pub(super) fn epoch(&self, bucket: BucketId) -> Version {
        self.buckets.get(&bucket).map_or(Version::ZERO, |b| b.row.epoch)
    }

    /// Counts a replacement.
    pub(super) fn count(
        &mut self,
        bucket: BucketId,
        old: Option<&RowReader<'_>>,
        new: Option<&RowReader<'_>>,
    ) {
        let Some(bucket) = self.buckets.get_mut(&bucket) else { return };
        if let Some(old) = old.filter(|old| old.version >= bucket.row.epoch) {
            bucket.row.objects = bucket.row.objects.saturating_sub(1);
            bucket.row.bytes = bucket.row.bytes.saturating_sub(old.body_len);
        }
        if let Some(new) = new {
            bucket.row.objects += 1;
            bucket.row.bytes += new.body_len;
        }
        bucket.changed = true;
    }

    /// The bucket's counters must be shown again.
    pub(super) fn mark_changed(&mut self, bucket: BucketId) {
        if let Some(bucket) = self.buckets.get_mut(&bucket) {
            bucket.changed = true;
        }
    }

    /// The row to be written for a bucket.
    pub(super) fn bucket_row(&self, bucket: BucketId) -> Option<&BucketRow> {
        self.buckets.get(&bucket).map(|bucket| &bucket.row)
    }

    /// Shows the counters of changed buckets to readers.
    pub(super) fn publish(&mut self) {
        for bucket in self.buckets.values_mut().filter(|bucket| bucket.changed) {
            bucket.changed = false;
            bucket.shared.publish(bucket.row.objects, bucket.row.bytes);
        }
    }

    /// A multipart upload began (1) or ended (-1).
    pub(super) fn count_upload(&mut self, bucket: BucketId, by: i64) {
        if let Some(bucket) = self.buckets.get_mut(&bucket) {
            bucket.uploads = bucket.uploads.saturating_add_signed(by);
        }
    }

    /// A queue row was written.
    pub(super) fn note_queued(&mut self, bucket: BucketId, key: &[u8], version: Version, row: &QueueRow) {
        self.dirty.rows += 1;
        self.dirty.body_bytes += row.bytes;
        self.dirty.charged_bytes += charge(key, row);
        *self.mount_rows.entry(row.mount).or_default() += 1;
        if let Some(bucket) = self.buckets.get_mut(&bucket) {
            bucket.pending_rows += 1;
            if row.barrier {
                bucket.barriers.insert(version);
            }
        }
    }

    /// A queue row was removed.
    pub(super) fn note_dequeued(&mut self, bucket: BucketId, key: &[u8], version: Version, row: &QueueRow) {
        self.dirty.rows = self.dirty.rows.saturating_sub(1);
        self.dirty.body_bytes = self.dirty.body_bytes.saturating_sub(row.bytes);
        self.dirty.charged_bytes = self.dirty.charged_bytes.saturating_sub(charge(key, row));
        if let Some(rows) = self.mount_rows.get_mut(&row.mount) {
            *rows = rows.saturating_sub(1);
        }
        if let Some(bucket) = self.buckets.get_mut(&bucket) {
            bucket.pending_rows = bucket.pending_rows.saturating_sub(1);
            bucket.barriers.remove(&version);
        }
    }

    /// Queue rows of every mount, in place of what `shown` held.
    pub(crate) fn show_mount_rows(&self, shown: &mut Vec<(u32, u64)>) {
        shown.clear();
        shown.extend(self.mounts.iter().map(|(number, _)| (*number, self.mount_rows(*number))));
    }

    /// Queue rows of a mount.
    pub(super) fn mount_rows(&self, mount: u32) -> u64 {
        self.mount_rows.get(&mount).copied().unwrap_or(0)
    }

    /// The mount with an origin that a key lies under: the longest prefix wins; one that is local or being
    /// forgotten hides those above.
    pub(super) fn mount_of(&self, bucket: BucketId, key: &[u8]) -> Option<(u32, &MountRow)> {
        self.covering(bucket, key).filter(|(_, mount)| !mount.local && !mount.leaving)
    }

    /// The mount with the longest prefix of a key, whatever it does.
    pub(super) fn covering(&self, bucket: BucketId, key: &[u8]) -> Option<(u32, &MountRow)> {
        let covers = |(_, mount): &&(u32, MountRow)| mount.bucket == bucket && key.starts_with(&mount.prefix);
        let longest = self.mounts.iter().filter(covers).max_by_key(|(_, mount)| mount.prefix.len());
        longest.map(|(number, mount)| (*number, mount))
    }

    /// Whether any mount has an origin: without one, nothing is clean.
    pub(super) fn has_origins(&self) -> bool {
        self.mounts.iter().any(|(_, mount)| !mount.local)
    }

    /// Whether mounts or epochs have changed since this was last asked.
    pub(crate) fn take_tables_changed(&mut self) -> bool {
        std::mem::take(&mut self.tables_changed)
    }

    /// All mounts.
    pub(crate) fn mounts(&self) -> &[(u32, MountRow)] {
        &self.mounts
    }

    /// What waits for its origin.
    pub(crate) fn dirty(&self) -> Dirty {
        self.dirty
    }

    /// Buckets with dead rows that have not been swept: bucket and epoch.
    pub(crate) fn unswept(&self) -> Vec<(BucketId, Version)> {
        let unswept =
            |(id, b): (&BucketId, &BucketState)| (b.row.swept < b.row.epoch).then_some((*id, b.row.epoch));
        self.buckets.iter().filter_map(unswept).collect()
    }
}

fn scan(keyspace: &Keyspace, table: Table, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BaseError> {
    let mut from: Arc<[u8]> = Arc::from(&[table as u8][..]);
    let end = Keyspace::table_end(table);
    loop {
        let page = keyspace.base.range(Bound::Excluded(&from), &end, PAGE)?;
        for (key, value) in &page {
            row(key, value);
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => from = key.clone(),
            _ => return Ok(()),
        }
    }
}
