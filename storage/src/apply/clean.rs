//! Which bytes the site may drop: those that the origin holds under the one object that names them.
//!
//! Marked when the queue row goes, unmarked before anything that the origin does not hold is built on them.
//! Whether a node has dropped them is its own business, and nothing here asks.

use std::sync::Arc;

use super::{Applier, blobs_of};
use crate::keyspace::base::BaseError;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{RowReader, Table, blob_key};
use crate::mutation::{Outcome, Refusal};
use crate::object::{BlobId, BucketId, Version};

impl Applier {
    /// The origin of `mount` holds this content version of the key: if the object still has it, its blobs may
    /// be dropped from now on.
    pub(super) fn mark_clean(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Version,
        mount: u32,
    ) -> Result<(), BaseError> {
        let object = self.load_row(bucket, key)?;
        let Some(row) = object.any_row().filter(|row| row.content_version == version) else { return Ok(()) };
        for blob in blobs_of(&row) {
            // Shared: another object may still have to be uploaded from them.
            if self.newest(RowKey::encoded(&blob_key(Table::Refs, blob)), false)?.is_none() {
                let key = blob_key(Table::Clean, blob);
                self.put(RowKey::encoded(&key), Some(Arc::from(&mount.to_le_bytes()[..])));
            }
        }
        Ok(())
    }

    /// Why an object must not be built on the body of this row: its bytes may be in the origin only, and what
    /// is built would be the only thing that names them there.
    pub(super) fn refuse_clean(&self, row: &RowReader<'_>) -> Result<Option<Refusal>, BaseError> {
        if !self.state.has_origins() {
            return Ok(None);
        }
        for blob in blobs_of(row) {
            let row = self.newest(RowKey::encoded(&blob_key(Table::Clean, blob)), false)?;
            let mount = row.as_deref().and_then(|row| row.first_chunk()).map(|n| u32::from_le_bytes(*n));
            if mount.is_some_and(|mount| self.state.mounts.iter().any(|(number, _)| *number == mount)) {
                return Ok(Some(Refusal::NotHeld));
            }
        }
        Ok(None)
    }

    /// A blob is no longer what the origin holds under one object, or is gone. Whether it was marked.
    pub(super) fn unmark_clean(&self, blob: BlobId) -> Result<bool, BaseError> {
        let key = blob_key(Table::Clean, blob);
        // A node that never had a mount has no such row, and spares the look-up.
        let marked = self.state.next_mount > 1 && self.newest(RowKey::encoded(&key), false)?.is_some();
        if marked {
            self.put(RowKey::encoded(&key), None);
        }
        Ok(marked)
    }

    pub(super) fn hold_bytes(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Option<Version>,
    ) -> Result<Outcome, BaseError> {
        let object = self.load_row(bucket, key)?;
        let stands = |row: &RowReader<'_>| version.is_none_or(|version| row.version == version);
        let Some(row) = object.row().filter(stands) else { return Ok(Outcome::Unmet) };
        let mut marked = false;
        for blob in blobs_of(&row) {
            marked |= self.unmark_clean(blob)?;
        }
        Ok(if marked { Outcome::Done(self.version()) } else { Outcome::Unmet })
    }

    pub(super) fn release_bytes(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Version,
    ) -> Result<Outcome, BaseError> {
        let object = self.load_row(bucket, key)?;
        let Some(row) = object.row().filter(|row| row.version == version) else { return Ok(Outcome::Unmet) };
        let content = row.content_version;
        let origin = self.origin_row(bucket, key)?;
        let holds =
            origin.rows == 0 && origin.origin.as_ref().is_some_and(|(version, _)| *version == content);
        let Some(mount) = origin.mount.filter(|_| holds) else { return Ok(Outcome::Unmet) };
        self.mark_clean(bucket, key, content, mount)?;
        Ok(Outcome::Done(self.version()))
    }
}
