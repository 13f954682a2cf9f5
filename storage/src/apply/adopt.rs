//! Objects that lie in an origin without having been written here: taken over, dropped, imported.
//!
//! Owns the conditions under which what a look-up has learnt may be believed. A look-up notes what is visible
//! before it asks the origin, and what it learnt is refused if anything is known by now that it cannot have seen:
//! a row (dead or alive), a queued change, an attempt, what an upload left there, or a delete of ours that the
//! origin has taken since (PITFALLS 24). For the last one stands a mark for each slot of a mount, which outlives
//! every look-up and needs no sweep.

use std::sync::Arc;

use super::{Applier, Flushing, Loaded};
use crate::keyspace::base::BaseError;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{
    BodyPart, ImportRow, OriginRow, RowHead, Table, blob_key, decode_deletes, deletes_key, encode_deletes,
    numbered_key,
};
use crate::mutation::{AdoptedHead, OBJECT_BYTES_MAX, OBJECT_EXTENTS_MAX, Outcome, Refusal, piece_bytes};
use crate::object::{BlobId, BucketId, Version};
use crate::slot::{SLOTS, slot_of};

/// How long after its deadline an attempt is dead whatever the clocks and margins say, in milliseconds. Only for
/// attempts whose queue row is gone: the queue waits for the others by its own rules.
pub(crate) const ATTEMPT_DEAD_MS: u64 = 10 * 60 * 1000;

/// A key that an origin was asked about.
pub(super) struct ForeignKey<'a> {
    pub(super) bucket: BucketId,
    pub(super) key: &'a [u8],
    /// The mount whose origin it was.
    pub(super) mount: u32,
    /// What was visible before that.
    pub(super) read_at: Version,
}

impl Applier {
    /// Whether what was learnt of a key's origin may be believed, while the object stands at `version` (or is
    /// absent): its row, and what is known of its origin.
    fn believable(
        &self,
        asked: &ForeignKey<'_>,
        version: Option<Version>,
    ) -> Result<Option<(Loaded, OriginRow)>, BaseError> {
        let ForeignKey { bucket, key, mount, read_at } = *asked;
        let covering =
            self.state.covering(bucket, key).filter(|(number, row)| *number == mount && !row.local);
        let Some((_, row)) = covering else { return Ok(None) };
        let leaving = row.leaving;
        let object = self.load_row(bucket, key)?;
        let origin = self.newest(RowKey::object(Table::Origin, bucket, key), false)?;
        let origin = origin.as_deref().and_then(OriginRow::decode).unwrap_or_default().seen_by(Some(mount));
        // Of a mount that is being forgotten, only what was adopted goes.
        if leaving && !(version.is_some() && origin.adopted) {
            return Ok(None);
        }
        let stamp_ms = self.place.stamp_ms;
        let alive = |(_, deadline_ms): (Version, u64)| deadline_ms.saturating_add(ATTEMPT_DEAD_MS) > stamp_ms;
        if origin.rows > 0 || origin.pending.is_some() || origin.started.is_some_and(alive) {
            return Ok(None);
        }
        let known = origin.origin.as_ref().map(|(version, _)| *version);
        let stands = match version {
            None => object.raw.is_none() && known.is_none(),
            Some(version) => {
                object.row().is_some_and(|row| row.version == version && known == Some(row.content_version))
            }
        };
        let deleted = self.newest(RowKey::encoded(&deletes_key(mount, slot_of(key))), false)?;
        let deleted = deleted.as_deref().and_then(decode_deletes);
        if !stands || deleted.is_some_and(|deleted| deleted > read_at) {
            return Ok(None);
        }
        Ok(Some((object, origin)))
    }

    pub(super) fn adopt(
        &mut self,
        asked: ForeignKey<'_>,
        replaces: Option<Version>,
        found: &AdoptedHead<'_>,
    ) -> Result<Outcome, BaseError> {
        if found.len > OBJECT_BYTES_MAX {
            return Ok(Outcome::Refused(Refusal::TooLarge(OBJECT_BYTES_MAX)));
        }
        let Some((old, mut origin)) = self.believable(&asked, replaces)? else { return Ok(Outcome::Unmet) };
        let ForeignKey { bucket, key, mount, .. } = asked;
        if self.state.mount_of(bucket, key).is_none() {
            return Ok(Outcome::Unmet);
        }
        let version = self.version();
        let head = RowHead {
            version,
            content_version: version,
            modified_ms: found.modified_ms,
            expires_at_ms: None,
            md5: None,
            etag: Some(found.etag),
            part_runs: &[],
            meta: found.meta,
        };
        let new = self.adopted_row(&head, found.len, mount);
        self.replace(bucket, key, &old, Some(new), Flushing::No)?;
        self.forget_attempt(bucket, key, &mut origin);
        origin.origin = Some((version, found.origin_etag.to_owned()));
        (origin.adopted, origin.mount) = (true, Some(mount));
        self.put_origin_row(bucket, key, &origin);
        self.note_existing(mount);
        Ok(Outcome::Done(version))
    }

    pub(super) fn vanish(&mut self, asked: ForeignKey<'_>, version: Version) -> Result<Outcome, BaseError> {
        let Some((old, mut origin)) = self.believable(&asked, Some(version))? else {
            return Ok(Outcome::Unmet);
        };
        let ForeignKey { bucket, key, mount, .. } = asked;
        self.replace(bucket, key, &old, None, Flushing::No)?;
        self.forget_attempt(bucket, key, &mut origin);
        (origin.origin, origin.adopted) = (None, false);
        self.put_origin_row(bucket, key, &origin);
        // An answer that is older than the object's end must not bring its predecessor back.
        self.mark_deleted(mount, key);
        Ok(Outcome::Done(self.version()))
    }

    /// From here on, nothing that was learnt before of this mount's keys in this slot is believed.
    pub(super) fn mark_deleted(&mut self, mount: u32, key: &[u8]) {
        let mark = encode_deletes(self.version());
        self.put(RowKey::encoded(&deletes_key(mount, slot_of(key))), Some(mark));
    }

    /// From the first object on that was found in an origin, its mount is one over existing data.
    fn note_existing(&mut self, mount: u32) {
        let row = self.state.mounts.iter_mut().find(|(number, row)| *number == mount && !row.existing);
        let Some((_, row)) = row else { return };
        row.existing = true;
        let row = row.encode();
        self.state.tables_changed = true;
        self.put(RowKey::encoded(&numbered_key(Table::Mount, mount)), Some(row));
    }

    /// The mount is gone: nobody asks its origin any more.
    pub(super) fn forget_lookups(&mut self, mount: u32) -> Result<(), BaseError> {
        let marks = (0..SLOTS).map(|slot| deletes_key(mount, slot).to_vec());
        for key in marks.chain([numbered_key(Table::Import, mount).to_vec()]) {
            if self.newest(RowKey::encoded(&key), false)?.is_some() {
                self.put(RowKey::encoded(&key), None);
            }
        }
        Ok(())
    }

    fn forget_attempt(&mut self, bucket: BucketId, key: &[u8], origin: &mut OriginRow) {
        if origin.started.take().is_some() {
            self.put(RowKey::object(Table::Started, bucket, key), None);
        }
    }

    /// A row whose body is in the origin only: in pieces that are marked clean and lie nowhere on the site.
    fn adopted_row(&mut self, head: &RowHead<'_>, len: u64, mount: u32) -> Arc<[u8]> {
        if len == 0 {
            return head.row_inline(&[], &mut self.scratch);
        }
        let piece = piece_bytes(len, OBJECT_EXTENTS_MAX);
        let mut parts = Vec::with_capacity(len.div_ceil(piece) as usize);
        for number in 0..len.div_ceil(piece) {
            let blob = BlobId { a: head.version.0, b: number };
            let clean = blob_key(Table::Clean, blob);
            self.put(RowKey::encoded(&clean), Some(Arc::from(&mount.to_le_bytes()[..])));
            self.made.push(blob);
            let len = piece.min(len - number * piece) as u32;
            parts.push(BodyPart::Extent { blob, offset: 0, len });
        }
        head.row_parts(&parts, &mut self.scratch)
    }

    pub(super) fn import_note(&mut self, mount: u32, note: &ImportRow) -> Outcome {
        if !self.state.mounts.iter().any(|(number, _)| *number == mount) {
            return Outcome::Unmet;
        }
        self.put(RowKey::encoded(&numbered_key(Table::Import, mount)), Some(note.encode()));
        Outcome::Done(self.version())
    }
}
