//! Buckets and mounts, and what refuses a write before it is looked at.

use std::sync::Arc;

use super::Applier;
use crate::flush::{FlushEvent, MountId};
use crate::keyspace::base::BaseError;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{
    BucketRow, MountRow, Table, boot_key, decode_meta, encode_next_numbers, numbered_key,
};
use crate::mutation::{MountMode, Outcome, Refusal};
use crate::object::{BucketId, Version};
use crate::object_name::encode_key;

/// Longest key an S3 origin takes, in bytes.
const ORIGIN_KEY_BYTES_MAX: u64 = 1024;
/// Most user metadata an S3 origin takes, in bytes.
const ORIGIN_META_BYTES_MAX: u64 = 2048;
/// What our own two metadata headers take of it (names and values), in bytes.
const OWN_META_BYTES: u64 = 128;

impl Applier {
    /// Why no write to this key can be taken: no such bucket, too long, or never flushable (PITFALLS 28).
    pub(super) fn refuse_write(&self, bucket: BucketId, key: &[u8], body_len: u64) -> Option<Refusal> {
        if !self.state.buckets.contains_key(&bucket) {
            return Some(Refusal::NoSuchBucket);
        }
        if body_len > self.body_bytes_max {
            return Some(Refusal::TooLarge(self.body_bytes_max));
        }
        let (_, mount) = self.state.mount_of(bucket, key)?;
        if mount.read_only {
            return self.refuse_read_only(bucket, key);
        }
        let below = key.get(mount.prefix.len()..).unwrap_or(&[]);
        let len = (mount.origin_prefix.len() + encode_key(below).len()) as u64;
        (len > ORIGIN_KEY_BYTES_MAX).then_some(Refusal::OriginKeyTooLong(len))
    }

    /// Why an object under a read-only mount is not changed.
    pub(super) fn refuse_read_only(&self, bucket: BucketId, key: &[u8]) -> Option<Refusal> {
        let (_, mount) = self.state.mount_of(bucket, key).filter(|(_, mount)| mount.read_only)?;
        Some(Refusal::ReadOnly(self.path_of(mount)))
    }

    fn path_of(&self, mount: &MountRow) -> String {
        let name = self.state.buckets.get(&mount.bucket).map_or(&[][..], |bucket| &bucket.row.name);
        mount_path(name, &mount.prefix)
    }

    /// As [`Applier::refuse_write`], for an object with metadata and a body of any length.
    pub(super) fn refuse_object(&self, bucket: BucketId, key: &[u8], meta: &[u8]) -> Option<Refusal> {
        if let Some(refusal) = self.refuse_write(bucket, key, 0) {
            return Some(refusal);
        }
        self.state.mount_of(bucket, key)?;
        let len = decode_meta(meta).map_or(0, |meta| meta.user_bytes() as u64) + OWN_META_BYTES;
        (len > ORIGIN_META_BYTES_MAX).then_some(Refusal::OriginMetaTooLarge(len))
    }

    pub(super) fn create_bucket(&mut self, name: &[u8]) -> Outcome {
        if let Some(id) = self.state.names.get(name) {
            return Outcome::Bucket(*id, false);
        }
        let id = BucketId(self.state.next_bucket);
        self.state.next_bucket += 1;
        let row = BucketRow {
            created_ms: self.place.stamp_ms,
            epoch: Version::ZERO,
            swept: Version::ZERO,
            objects: 0,
            bytes: 0,
            name: Box::from(name),
        };
        self.state.insert_bucket(id, row, &self.registry);
        self.touched.insert(id);
        self.write_next_numbers();
        Outcome::Bucket(id, true)
    }

    fn write_next_numbers(&mut self) {
        let row = encode_next_numbers(self.state.next_bucket, self.state.next_mount);
        self.put(RowKey::encoded(&numbered_key(Table::Bucket, 0)), Some(row));
    }

    pub(super) fn delete_bucket(&mut self, name: &[u8]) -> Outcome {
        let Some(id) = self.state.names.get(name).copied() else {
            return Outcome::Refused(Refusal::NoSuchBucket);
        };
        let Some(bucket) = self.state.buckets.get(&id) else {
            return Outcome::Refused(Refusal::NoSuchBucket);
        };
        if let Some((_, mount)) =
            self.state.mounts.iter().find(|(_, mount)| mount.bucket == id && !mount.local)
        {
            return Outcome::Refused(Refusal::Mounted(mount_path(name, &mount.prefix)));
        }
        let busy = bucket.pending_rows > 0 || bucket.uploads > 0;
        if bucket.row.objects > 0 || busy || bucket.row.swept < bucket.row.epoch {
            return Outcome::Refused(Refusal::BucketNotEmpty);
        }
        self.state.buckets.remove(&id);
        self.state.names.remove(name);
        self.registry.remove(id);
        self.touched.remove(&id);
        self.put(RowKey::encoded(&numbered_key(Table::Bucket, id.0)), None);
        Outcome::Done(self.version())
    }

    pub(super) fn abort_before(&mut self, node: u16) -> Outcome {
        let boot = self.state.boots.get(&node).map_or(1, |boot| boot + 1);
        self.state.boots.insert(node, boot);
        self.put(RowKey::encoded(&boot_key(node)), Some(Arc::from(&boot.to_le_bytes()[..])));
        Outcome::Boot(boot)
    }

    /// Everything in the bucket below this version is dead at once; the sweep removes it row by row.
    pub(super) fn flush_bucket(&mut self, id: BucketId) -> Outcome {
        let version = self.version();
        let oldest = self.place.horizon.oldest;
        let mounts = || self.state.mounts.iter().filter(|(_, m)| m.bucket == id && !m.local);
        // What was there before us is not ours to delete, whatever the config says (PITFALLS 26).
        let refusal = mounts().find_map(|(_, mount)| match mount {
            _ if mount.read_only => Some(Refusal::ReadOnly(self.path_of(mount))),
            _ if mount.existing => Some(Refusal::Existing(self.path_of(mount))),
            _ if !mount.flushall => Some(Refusal::Mounted(self.path_of(mount))),
            _ => None,
        });
        if let Some(refusal) = refusal {
            return Outcome::Refused(refusal);
        }
        let Some(bucket) = self.state.buckets.get_mut(&id) else {
            return Outcome::Refused(Refusal::NoSuchBucket);
        };
        bucket.shared.begin_epoch(version, oldest);
        bucket.row.epoch = version;
        bucket.row.objects = 0;
        bucket.row.bytes = 0;
        self.state.mark_changed(id);
        self.state.tables_changed = true;
        self.touched.insert(id);
        Outcome::Done(version)
    }

    pub(super) fn sweep_done(&mut self, id: BucketId, epoch: Version) -> Outcome {
        let version = self.version();
        match self.state.buckets.get_mut(&id) {
            Some(bucket) if bucket.row.epoch == epoch => {
                bucket.row.swept = epoch;
                self.state.tables_changed = true;
                self.touched.insert(id);
                Outcome::Done(version)
            }
            _ => Outcome::Unmet,
        }
    }

    /// Records a mount, or new settings of one; the number stays the same for the same bucket and prefix. One
    /// that is attached keeps its origin: what is known of the origin's objects holds for that one only.
    pub(super) fn mount(
        &mut self,
        bucket: &[u8],
        prefix: &[u8],
        origin: &str,
        origin_prefix: &str,
        mode: MountMode,
        (flushall, revalidate): (bool, bool),
    ) -> Outcome {
        let Outcome::Bucket(bucket, _) = self.create_bucket(bucket) else {
            return Outcome::Refused(Refusal::NoSuchBucket);
        };
        let row = MountRow {
            bucket,
            local: mode == MountMode::Local,
            flushall,
            attached: false,
            leaving: false,
            uncovered: false,
            read_only: mode == MountMode::ReadOnly,
            write_through: mode == MountMode::WriteThrough,
            existing: false,
            revalidate,
            prefix: Box::from(prefix),
            origin: origin.to_owned(),
            origin_prefix: origin_prefix.to_owned(),
        };
        let known = self.state.mounts.iter().position(|(_, m)| m.bucket == bucket && *m.prefix == *prefix);
        let at = match known {
            Some(at) => {
                let old = &self.state.mounts[at].1;
                let same_origin = old.origin == row.origin && old.local == row.local;
                if old.leaving || ((old.attached || old.existing) && !same_origin) {
                    return Outcome::Refused(Refusal::Mounted(old.origin.clone()));
                }
                // What lay here before was not queued, and the origin was not tried for writing.
                let attached = old.attached && (row.read_only || !old.read_only);
                let (uncovered, existing) = (old.uncovered, old.existing);
                self.state.mounts[at].1 = MountRow { attached, uncovered, existing, ..row };
                at
            }
            None => {
                self.state.mounts.push((self.state.next_mount, row));
                self.state.next_mount += 1;
                self.write_next_numbers();
                self.state.mounts.len() - 1
            }
        };
        let (number, row) = &self.state.mounts[at];
        let (number, row) = (*number, row.encode());
        self.state.tables_changed = true;
        self.put(RowKey::encoded(&numbered_key(Table::Mount, number)), Some(row));
        Outcome::Mount(number)
    }

    pub(super) fn mount_attached(&mut self, mount: u32, existing: bool) -> Outcome {
        let Some((_, row)) = self.state.mounts.iter_mut().find(|(number, _)| *number == mount) else {
            return Outcome::Unmet;
        };
        (row.attached, row.uncovered) = (true, false);
        row.existing |= existing;
        let row = row.encode();
        self.state.tables_changed = true;
        self.put(RowKey::encoded(&numbered_key(Table::Mount, mount)), Some(row));
        Outcome::Done(self.version())
    }

    /// What is known of the forgotten mount's origin stays in the origin rows under its number, which no
    /// mount has again.
    pub(super) fn mount_forget(&mut self, mount: u32, abandon: bool) -> Result<Outcome, BaseError> {
        let Some(at) = self.state.mounts.iter().position(|(number, _)| *number == mount) else {
            return Ok(Outcome::Unmet);
        };
        let rows = self.state.mount_rows(mount);
        if rows > 0 && !abandon {
            return Ok(Outcome::Refused(Refusal::MountBusy(rows)));
        }
        let row = &mut self.state.mounts[at].1;
        // What was adopted is dropped once nothing more is, and before nobody knows any more whose it was.
        let has_adopted = row.existing && !row.leaving;
        if rows > 0 || has_adopted {
            row.leaving = true;
            let row = row.encode();
            self.put(RowKey::encoded(&numbered_key(Table::Mount, mount)), Some(row));
        } else {
            let (_, gone) = self.state.mounts.remove(at);
            self.put(RowKey::encoded(&numbered_key(Table::Mount, mount)), None);
            self.forget_lookups(mount)?;
            self.uncover(&gone);
        }
        self.state.tables_changed = true;
        self.events.push(FlushEvent::Unmounted(MountId(mount)));
        Ok(Outcome::Done(self.version()))
    }

    /// The keys of a forgotten mount lie under the next one above from now on, if there is one.
    fn uncover(&mut self, gone: &MountRow) {
        let above = self
            .state
            .mounts
            .iter_mut()
            .filter(|(_, mount)| mount.bucket == gone.bucket && gone.prefix.starts_with(&mount.prefix));
        let above = above.max_by_key(|(_, mount)| mount.prefix.len());
        let Some((number, row)) = above.filter(|(_, mount)| !mount.local) else { return };
        row.uncovered = true;
        let (number, row) = (*number, row.encode());
        self.put(RowKey::encoded(&numbered_key(Table::Mount, number)), Some(row));
    }
}

/// `/bucket/prefix`, as the config names a mount.
pub(crate) fn mount_path(bucket: &[u8], prefix: &[u8]) -> String {
    let path = [b"/", bucket, b"/", prefix].concat();
    String::from_utf8_lossy(&path).trim_end_matches('/').to_owned()
}
