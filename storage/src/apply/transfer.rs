//! The replicated record of a large body's way to the origin: which upload, and which parts the origin has.
//!
//! It lets an upload go on after a restart, and one that is not wanted any more be given up at the origin: it
//! is put aside as stale, by version and mount, with the entry that takes its queue row away or says that the origin has
//! lost it, and goes when the origin has let it go. Until then it is the only trace of a completion that may still land;
//! no other upload of the version begins at the same mount. At another mount's origin one may: it is another object.
//! Each record names its origin and the key there, so that both are known after the mount is forgotten.
//!
//! Before an origin is asked to begin one, that is recorded too: an upload whose name was lost on the way is looked for
//! there. Such a row is independent of the version's queue row.

use bytes::Bytes;

use super::Applier;
use crate::flush::{AskedUpload, FlushEvent, MountId, StaleTransfer, UploadPlace, origin_key};
use crate::keyspace::base::BaseError;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{
    ASKED, AskedRow, MountRow, STALE, TransferRow, encode_sent_part, transfer_key,
};
use crate::mutation::{Outcome, TransferStep};
use crate::object::{BucketId, Version};

impl Applier {
    fn transfer_row(&self, version: Version) -> Result<Option<TransferRow>, BaseError> {
        let row = self.newest(RowKey::encoded(&transfer_key(version, 0)), false)?;
        Ok(row.as_deref().and_then(TransferRow::decode))
    }

    fn put_transfer_row(&mut self, version: Version, row: Option<&TransferRow>) {
        self.put(RowKey::encoded(&transfer_key(version, 0)), row.map(TransferRow::encode));
    }

    fn stale_row(&self, version: Version, mount: u32) -> Result<Option<TransferRow>, BaseError> {
        let row = self.newest(RowKey::encoded(&transfer_key(version, STALE | mount)), false)?;
        Ok(row.as_deref().and_then(TransferRow::decode))
    }

    fn put_stale_row(&mut self, version: Version, mount: u32, row: Option<&TransferRow>) {
        self.put(RowKey::encoded(&transfer_key(version, STALE | mount)), row.map(TransferRow::encode));
    }

    /// The upload of a version that is still wanted. A stale row in its place, where they once stood, is put aside.
    fn wanted_transfer(&mut self, version: Version) -> Result<Option<TransferRow>, BaseError> {
        match self.transfer_row(version)? {
            Some(row) if row.stale => {
                self.put_transfer_row(version, None);
                self.put_stale_row(version, row.mount, Some(&row));
                Ok(None)
            }
            row => Ok(row),
        }
    }

    pub(super) fn transfer(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Version,
        upload_id: &str,
        step: &TransferStep<'_>,
    ) -> Result<Outcome, BaseError> {
        let place = self.state.mount_of(bucket, key).map(|(mount, row)| (mount, place_of(row, key)));
        let mount = place.as_ref().map(|(mount, _)| *mount);
        match (step, mount) {
            (TransferStep::Looked { mount, until_ms }, _) => {
                return self.looked_for(version, *mount, *until_ms);
            }
            (TransferStep::Refused, Some(mount)) => return self.answered(version, mount),
            _ => {}
        }
        let Some(mut queued) = self.read_queue_row(version, bucket, key)? else { return Ok(Outcome::Unmet) };
        let known = self.wanted_transfer(version)?;
        let begins = matches!(step, TransferStep::Asked { .. } | TransferStep::Begun { .. });
        if let (true, Some(mount)) = (begins, mount)
            && self.stale_row(version, mount)?.is_some()
        {
            return Ok(Outcome::Unmet);
        }
        match (step, known) {
            (TransferStep::Asked { from_ms, until_ms }, None) => {
                let Some((mount, place)) = place else { return Ok(Outcome::Unmet) };
                self.ask((bucket, key), version, mount, place, (*from_ms, *until_ms))?;
            }
            (TransferStep::Begun { part_bytes, crc32c }, None) => {
                let Some((mount, place)) = place else { return Ok(Outcome::Unmet) };
                self.answered(version, mount)?;
                let row = TransferRow {
                    crc32c: *crc32c,
                    stale: false,
                    tried: false,
                    mount,
                    bucket,
                    part_bytes: *part_bytes,
                    last_part: 0,
                    key: Box::from(key),
                    upload_id: upload_id.to_owned(),
                    origin: place.root,
                    origin_key: place.key,
                };
                self.put_transfer_row(version, Some(&row));
                queued.transfer = true;
                self.put_queue_row(version, bucket, key, Some(&queued));
            }
            (TransferStep::Sent { number, etag, crc32c }, Some(mut row))
                if row.upload_id == upload_id && *number > 0 =>
            {
                let part = encode_sent_part(etag, *crc32c);
                self.put(RowKey::encoded(&transfer_key(version, *number)), Some(part));
                row.last_part = row.last_part.max(*number);
                self.put_transfer_row(version, Some(&row));
            }
            (TransferStep::Lost, Some(row)) if row.upload_id == upload_id => {
                // At an origin that the key has left it may be there still. One that was tried may be on its way to
                // become the object: an origin may forget an upload before it shows what became of it.
                self.end_transfer(version, mount == Some(row.mount) && !row.tried)?;
                queued.transfer = false;
                self.put_queue_row(version, bucket, key, Some(&queued));
            }
            (TransferStep::Forgotten, Some(row)) if row.upload_id == upload_id => {
                self.end_transfer(version, mount == Some(row.mount))?;
                queued.transfer = false;
                self.put_queue_row(version, bucket, key, Some(&queued));
            }
            _ => return Ok(Outcome::Unmet),
        }
        Ok(Outcome::Done(self.version()))
    }

    fn asked_row(&self, version: Version, mount: u32) -> Result<Option<AskedRow>, BaseError> {
        let row = self.newest(RowKey::encoded(&transfer_key(version, ASKED | mount)), false)?;
        Ok(row.as_deref().and_then(AskedRow::decode))
    }

    fn put_asked_row(&mut self, version: Version, mount: u32, row: Option<AskedRow>) {
        let value = row.as_ref().map(AskedRow::encode);
        self.put(RowKey::encoded(&transfer_key(version, ASKED | mount)), value);
        self.events.push(match row {
            Some(row) => FlushEvent::Asked(asked_upload(version, mount, row)),
            None => FlushEvent::Answered { version, mount: MountId(mount) },
        });
    }

    fn ask(
        &mut self,
        (bucket, key): (BucketId, &[u8]),
        version: Version,
        mount: u32,
        place: UploadPlace,
        (from_ms, until_ms): (u64, u64),
    ) -> Result<(), BaseError> {
        let row = match self.asked_row(version, mount)? {
            Some(row) => AskedRow {
                count: row.count.saturating_add(1),
                from_ms: row.from_ms.min(from_ms),
                until_ms: row.until_ms.max(until_ms),
                ..row
            },
            None => {
                let UploadPlace { root: origin, key: origin_key } = place;
                AskedRow { bucket, count: 1, from_ms, until_ms, origin, origin_key, key: Box::from(key) }
            }
        };
        self.put_asked_row(version, mount, Some(row));
        Ok(())
    }

    /// One of the requests is answered.
    fn answered(&mut self, version: Version, mount: u32) -> Result<Outcome, BaseError> {
        let Some(row) = self.asked_row(version, mount)? else { return Ok(Outcome::Unmet) };
        let left = row.count.saturating_sub(1);
        self.put_asked_row(version, mount, (left > 0).then_some(AskedRow { count: left, ..row }));
        Ok(Outcome::Done(self.version()))
    }

    fn looked_for(&mut self, version: Version, mount: u32, until_ms: u64) -> Result<Outcome, BaseError> {
        match self.asked_row(version, mount)? {
            Some(row) if row.until_ms == until_ms => {
                self.put_asked_row(version, mount, None);
                Ok(Outcome::Done(self.version()))
            }
            _ => Ok(Outcome::Unmet),
        }
    }

    fn drop_sent_parts(&mut self, version: Version, row: &TransferRow) {
        for number in 1..=row.last_part {
            self.put(RowKey::encoded(&transfer_key(version, number)), None);
        }
    }

    /// The upload of the version is not wanted any more: it has become the object (or is certain never to), or is
    /// stale.
    pub(super) fn end_transfer(&mut self, version: Version, landed: bool) -> Result<(), BaseError> {
        let Some(mut row) = self.wanted_transfer(version)? else { return Ok(()) };
        self.drop_sent_parts(version, &row);
        self.put_transfer_row(version, None);
        if landed {
            return Ok(());
        }
        (row.stale, row.last_part) = (true, 0);
        self.put_stale_row(version, row.mount, Some(&row));
        self.events.push(FlushEvent::Stale(stale_transfer(version, row)));
        Ok(())
    }

    /// An attempt for the version is about to start: if it goes in parts, with these it is completed.
    pub(super) fn transfer_tried(&mut self, version: Version) -> Result<(), BaseError> {
        if let Some(row) = self.wanted_transfer(version)?.filter(|row| !row.tried) {
            self.put_transfer_row(version, Some(&TransferRow { tried: true, ..row }));
        }
        Ok(())
    }

    /// The origin of `mount` holds this version: a stale upload of it has become the object, which it can once.
    pub(super) fn transfer_landed(&mut self, version: Version, mount: Option<u32>) -> Result<(), BaseError> {
        if let Some(mount) = mount {
            self.drop_stale(version, mount)?;
        }
        Ok(())
    }

    pub(super) fn transfer_gone(
        &mut self,
        version: Version,
        mount: Option<u32>,
    ) -> Result<Outcome, BaseError> {
        let mounts = match mount {
            Some(mount) => mount..=mount,
            // As it was written at first, when there was one at most.
            None => 1..=self.state.next_mount,
        };
        let mut dropped = false;
        for mount in mounts {
            dropped |= self.drop_stale(version, mount)?;
        }
        Ok(if dropped { Outcome::Done(self.version()) } else { Outcome::Unmet })
    }

    fn drop_stale(&mut self, version: Version, mount: u32) -> Result<bool, BaseError> {
        self.wanted_transfer(version)?;
        let Some(row) = self.stale_row(version, mount)? else { return Ok(false) };
        self.put_stale_row(version, mount, None);
        self.events.push(FlushEvent::GivenUp(stale_transfer(version, row)));
        Ok(true)
    }
}

/// Where a mount's origin has a key.
fn place_of(mount: &MountRow, key: &[u8]) -> UploadPlace {
    let rest = key.get(mount.prefix.len()..).unwrap_or_default();
    UploadPlace { root: mount.origin_root().to_owned(), key: origin_key(&mount.origin_prefix, rest).0 }
}

fn place_in_row(root: String, key: String) -> Option<UploadPlace> {
    (!root.is_empty()).then_some(UploadPlace { root, key })
}

/// The flush worker's picture of what was asked of an origin.
pub(crate) fn asked_upload(version: Version, mount: u32, row: AskedRow) -> AskedUpload {
    AskedUpload {
        version,
        bucket: row.bucket,
        key: Bytes::from(row.key.into_vec()),
        mount: MountId(mount),
        from_ms: row.from_ms,
        until_ms: row.until_ms,
        place: place_in_row(row.origin, row.origin_key),
    }
}

/// The flush worker's picture of a stale upload.
pub(crate) fn stale_transfer(version: Version, row: TransferRow) -> StaleTransfer {
    StaleTransfer {
        version,
        bucket: row.bucket,
        key: Bytes::from(row.key.into_vec()),
        mount: MountId(row.mount),
        upload_id: row.upload_id,
        tried: row.tried,
        place: place_in_row(row.origin, row.origin_key),
    }
}
