//! The replicated side of the flush queue: rows written by the apply that wrote the object.
//!
//! Newest wins: a new version replaces the key's pending row, unless a pending barrier of the bucket lies
//! at or behind that row; then both stay, and the older row takes the object's row over with its blobs
//! (PITFALLS 22). A delete of something that the origin has never heard of cancels the upload.

use std::sync::Arc;

use bytes::Bytes;

use super::{Applier, Flushing, Loaded};
use crate::flush::{FlushEvent, FlushKind, FlushRow, Flushed, MountId, RowId};
use crate::keyspace::base::BaseError;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{OriginRow, QueueRow, RowReader, Table, encode_started, queue_key};
use crate::mutation::Outcome;
use crate::object::{BucketId, Version};

impl Applier {
    /// What is known of the origin that the key has now. Rows and an attempt of another mount still count:
    /// the key's present mount has taken them over.
    pub(super) fn origin_row(&self, bucket: BucketId, key: &[u8]) -> Result<OriginRow, BaseError> {
        let row = self.newest(RowKey::object(Table::Origin, bucket, key), false)?;
        let row = row.as_deref().and_then(OriginRow::decode).unwrap_or_default();
        Ok(row.seen_by(self.state.mount_of(bucket, key).map(|(mount, _)| mount)))
    }

    pub(super) fn put_origin_row(&mut self, bucket: BucketId, key: &[u8], row: &OriginRow) {
        let value = (!row.is_empty()).then(|| row.encode());
        self.put(RowKey::object(Table::Origin, bucket, key), value);
    }

    pub(super) fn put_queue_row(
        &mut self,
        version: Version,
        bucket: BucketId,
        key: &[u8],
        row: Option<&QueueRow>,
    ) {
        let row_key = queue_key(version, bucket, key);
        self.put(RowKey::encoded(&row_key), row.map(QueueRow::encode));
    }

    /// Queues the replacement of `old` by `new` (or by nothing). True if a queue row has taken the old
    /// object row over, with its blob references.
    pub(super) fn enqueue(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        old: &Loaded,
        new: Option<&RowReader<'_>>,
        flushing: Flushing,
    ) -> Result<bool, BaseError> {
        let Some((mount, row)) = self.state.mount_of(bucket, key) else { return Ok(false) };
        let looks_up = row.looks_up();
        let mut origin = self.origin_row(bucket, key)?;
        let known = !origin.is_empty();
        let mut held = false;
        let mut replaces = None;
        let mut wins = flushing == Flushing::Plain;
        if let Some(pending) = origin.pending {
            // What replaces a change, or follows it, stands for it too.
            wins = wins || self.read_queue_row(pending, bucket, key)?.is_some_and(|row| row.blind);
            let must_stay = self.barrier_at_or_behind(bucket, pending);
            if must_stay {
                held = self.hold(bucket, key, pending, old)?;
            } else {
                self.drop_queue_row(bucket, key, pending, &mut origin, false)?;
                replaces = Some(pending);
            }
        }
        let version = self.version();
        let blind = looks_up && wins && origin.origin.is_none();
        let nothing_there = origin.rows == 0 && origin.started.is_none() && origin.origin.is_none();
        if new.is_none() && nothing_there && !blind {
            // The origin has never heard of it: the delete cancels the upload.
            if let Some(version) = replaces {
                self.put_origin_row(bucket, key, &origin);
                let row = RowId { bucket, key: Bytes::copy_from_slice(key), version };
                self.events.push(FlushEvent::Removed(row));
            }
            return Ok(held);
        }
        let row = QueueRow {
            delete: new.is_none(),
            barrier: flushing == Flushing::Barrier,
            // Of what it goes before blindly, something may be in the origin.
            overwrite: known || blind,
            transfer: false,
            blind,
            mount,
            stamp_ms: self.place.stamp_ms,
            bytes: new.map_or(0, |row| row.body_len),
            parked: None,
            held: None,
        };
        self.put_queue_row(version, bucket, key, Some(&row));
        self.state.note_queued(bucket, key, version, &row);
        origin.rows += 1;
        origin.pending = Some(version);
        self.put_origin_row(bucket, key, &origin);
        let row = flush_row(bucket, key, version, &row);
        self.events.push(FlushEvent::Row { row, replaces });
        Ok(held)
    }

    fn barrier_at_or_behind(&self, bucket: BucketId, version: Version) -> bool {
        let newest = self.state.buckets.get(&bucket).and_then(|bucket| bucket.barriers.last());
        newest.is_some_and(|barrier| *barrier >= version)
    }

    /// The pending row keeps the bytes of the object row that is about to go.
    fn hold(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Version,
        old: &Loaded,
    ) -> Result<bool, BaseError> {
        let Some(mut row) = self.read_queue_row(version, bucket, key)? else { return Ok(false) };
        let is_its_content = old.any_row().is_some_and(|old| old.content_version == version);
        if row.delete || row.held.is_some() || !is_its_content {
            return Ok(false);
        }
        row.held = old.raw.clone();
        self.put_queue_row(version, bucket, key, Some(&row));
        Ok(true)
    }

    /// Removes a queue row, releasing what it held. An upload of it that did not become the object is given up.
    fn drop_queue_row(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Version,
        origin: &mut OriginRow,
        landed: bool,
    ) -> Result<bool, BaseError> {
        let Some(row) = self.read_queue_row(version, bucket, key)? else { return Ok(false) };
        self.put_queue_row(version, bucket, key, None);
        self.state.note_dequeued(bucket, key, version, &row);
        if row.transfer {
            self.end_transfer(version, landed)?;
        }
        origin.rows = origin.rows.saturating_sub(1);
        if origin.pending == Some(version) {
            origin.pending = None;
        }
        if let Some(held) = &row.held {
            self.move_blob_references(RowReader::new(held).as_ref(), None)?;
        }
        Ok(true)
    }

    /// Queues an object that was there before its mount.
    pub(super) fn mark_dirty(&mut self, bucket: BucketId, key: &[u8]) -> Result<Outcome, BaseError> {
        let old = self.load_row(bucket, key)?;
        let Some(object) = old.row() else { return Ok(Outcome::Unmet) };
        let mount = self.state.mount_of(bucket, key).filter(|(_, mount)| !mount.read_only);
        let Some((mount, mount_row)) = mount else { return Ok(Outcome::Unmet) };
        // A prefix that was ours before may hold what was written there then.
        let overwrite = mount_row.attached;
        let mut origin = self.origin_row(bucket, key)?;
        // An attempt that may be alive is no reason to leave it: the queue waits for that one.
        if origin.rows > 0 || origin.origin.is_some() {
            return Ok(Outcome::Unmet);
        }
        let overwrite = overwrite || origin.started.is_some();
        let version = object.content_version;
        let row = QueueRow {
            delete: false,
            barrier: false,
            overwrite,
            transfer: false,
            blind: false,
            mount,
            stamp_ms: self.place.stamp_ms,
            bytes: object.body_len,
            parked: None,
            held: None,
        };
        // What another mount's origin has of it does not count any more.
        for blob in super::blobs_of(&object) {
            self.unmark_clean(blob)?;
        }
        self.put_queue_row(version, bucket, key, Some(&row));
        self.state.note_queued(bucket, key, version, &row);
        origin.rows = 1;
        origin.pending = Some(version);
        self.put_origin_row(bucket, key, &origin);
        let row = flush_row(bucket, key, version, &row);
        self.events.push(FlushEvent::Row { row, replaces: None });
        Ok(Outcome::Done(self.version()))
    }

    pub(super) fn flush_started(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Version,
        deadline_ms: u64,
    ) -> Result<Outcome, BaseError> {
        let Some(row) = self.read_queue_row(version, bucket, key)? else { return Ok(Outcome::Unmet) };
        if row.transfer {
            self.transfer_tried(version)?;
        }
        let mut origin = self.origin_row(bucket, key)?;
        origin.started = Some((version, deadline_ms));
        self.put_origin_row(bucket, key, &origin);
        let started = encode_started(version, deadline_ms);
        self.put(RowKey::object(Table::Started, bucket, key), Some(started));
        Ok(Outcome::Done(self.version()))
    }

    pub(super) fn flushed(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Version,
        origin_etag: Option<&str>,
        told_by: Option<u32>,
    ) -> Result<Outcome, BaseError> {
        let mount = self.state.mount_of(bucket, key).map(|(mount, _)| mount);
        if told_by.is_some_and(|of| mount.is_some_and(|now| now != of)) {
            // The key has another origin by now, of which this says nothing; the row that waits is for that one.
            return Ok(Outcome::Unmet);
        }
        let mut origin = self.origin_row(bucket, key)?;
        let removed = self.drop_queue_row(bucket, key, version, &mut origin, true)?;
        if origin_etag.is_some() {
            self.transfer_landed(version, told_by)?;
        }
        // What is said of an older version leaves a newer one's attempt in doubt: its bytes may land yet.
        if origin.started.take_if(|(attempt, _)| *attempt <= version).is_some() {
            self.put(RowKey::object(Table::Started, bucket, key), None);
        }
        // Of a mount that is being forgotten nothing is kept.
        let looks_up = self.state.mount_of(bucket, key).is_some_and(|(_, row)| row.looks_up());
        if let (None, Some(mount), true) = (origin_etag, mount, looks_up) {
            self.mark_deleted(mount, key);
        }
        origin.mount = mount;
        origin.origin = origin_etag.filter(|_| origin.mount.is_some()).map(|etag| (version, etag.to_owned()));
        origin.adopted = false;
        self.put_origin_row(bucket, key, &origin);
        if let (true, Some(mount), Some(_)) = (removed, origin.mount, &origin.origin) {
            self.mark_clean(bucket, key, version, mount)?;
        }
        self.events.push(FlushEvent::Flushed(Flushed {
            bucket,
            key: Bytes::copy_from_slice(key),
            version,
            mount: told_by.map(MountId),
            origin_etag: origin_etag.map(str::to_owned),
        }));
        Ok(if removed { Outcome::Done(self.version()) } else { Outcome::Unmet })
    }

    pub(super) fn flush_park(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Version,
        reason: &str,
    ) -> Result<Outcome, BaseError> {
        let Some(mut row) = self.read_queue_row(version, bucket, key)? else { return Ok(Outcome::Unmet) };
        row.parked = (!reason.is_empty()).then(|| reason.to_owned());
        self.put_queue_row(version, bucket, key, Some(&row));
        let id = RowId { bucket, key: Bytes::copy_from_slice(key), version };
        self.events.push(FlushEvent::Parked { row: id, reason: row.parked, at_ms: self.place.stamp_ms });
        Ok(Outcome::Done(self.version()))
    }

    pub(super) fn flush_abandon(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Version,
    ) -> Result<Outcome, BaseError> {
        let mut origin = self.origin_row(bucket, key)?;
        if !self.drop_queue_row(bucket, key, version, &mut origin, false)? {
            return Ok(Outcome::Unmet);
        }
        let looks_up = self.state.mount_of(bucket, key).is_some_and(|(_, mount)| mount.looks_up());
        if looks_up && origin.rows == 0 && self.load_row(bucket, key)?.raw.is_none() {
            // A delete that is given up leaves what the origin holds: to be looked up like anything else.
            (origin.origin, origin.adopted) = (None, false);
        }
        self.put_origin_row(bucket, key, &origin);
        let row = RowId { bucket, key: Bytes::copy_from_slice(key), version };
        self.events.push(FlushEvent::Removed(row));
        Ok(Outcome::Done(self.version()))
    }
}

/// The flush worker's picture of a queue row.
pub(crate) fn flush_row(bucket: BucketId, key: &[u8], version: Version, row: &QueueRow) -> FlushRow {
    FlushRow {
        bucket,
        key: Bytes::copy_from_slice(key),
        version,
        kind: if row.delete { FlushKind::Delete } else { FlushKind::Put },
        barrier: row.barrier,
        overwrite: row.overwrite,
        blind: row.blind,
        stamp_ms: row.stamp_ms,
        bytes: row.bytes,
        parked: row.parked.clone(),
    }
}

/// The object row whose bytes a queue row needs: its own, or the object's if that is still its content.
pub(crate) fn content_of(row: &QueueRow, version: Version, object: Option<Arc<[u8]>>) -> Option<Arc<[u8]>> {
    if row.held.is_some() {
        return row.held.clone();
    }
    object.filter(|object| RowReader::new(object).is_some_and(|object| object.content_version == version))
}
