//! Multipart uploads: a row for the upload, one for each part, and the step that makes an object of them.
//!
//! A part is an object row without a name: its blobs are counted like any other's, so that putting parts
//! together changes lists and counts and moves no byte.

use std::sync::Arc;

use super::body::slice_parts;
use super::{Applier, Flushing, Judged};
use crate::keyspace::base::BaseError;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{
    BodyPart, RowHead, RowReader, UploadRow, encode_part_runs, part_key, upload_key,
};
use crate::mutation::{
    COPIED_EXTENTS_MAX, OBJECT_BYTES_MAX, OBJECT_EXTENTS_MAX, Outcome, PART_BYTES_MIN, PART_NUMBER_MAX,
    PartNames, Payload, PutIf, Refusal,
};
use crate::object::{BucketId, ObjectRow, Version};

/// An upload that a mutation names.
#[derive(Clone, Copy)]
pub(super) struct UploadName<'a> {
    pub(super) bucket: BucketId,
    pub(super) key: &'a [u8],
    pub(super) upload: Version,
}

/// Where a copied part comes from.
pub(super) struct PartSource<'a> {
    pub(super) bucket: BucketId,
    pub(super) key: &'a [u8],
    pub(super) version: Version,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Applier {
    pub(super) fn create_upload(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        meta: &[u8],
        options: &[u8],
    ) -> Outcome {
        if let Some(refusal) = self.refuse_object(bucket, key, meta) {
            return Outcome::Refused(refusal);
        }
        let upload = self.version();
        let row = UploadRow {
            created_ms: self.place.stamp_ms,
            last_part: 0,
            meta: Box::from(meta),
            options: Box::from(options),
        };
        self.put_upload(UploadName { bucket, key, upload }, Some(&row));
        self.state.count_upload(bucket, 1);
        Outcome::Done(upload)
    }

    pub(super) fn put_part(
        &mut self,
        name: UploadName<'_>,
        number: u16,
        value: &Payload<'_>,
        meta: &[u8],
        md5: Option<[u8; 16]>,
    ) -> Result<Outcome, BaseError> {
        let Some(upload) = self.upload(name)? else { return Ok(Outcome::Refused(Refusal::NoSuchUpload)) };
        if !(1..=PART_NUMBER_MAX).contains(&number) {
            return Ok(Outcome::Refused(Refusal::InvalidPart(number)));
        }
        let head = RowHead { md5, meta, ..self.fresh_head() };
        match self.payload_row(&head, value)? {
            Ok(row) => self.place_part(name, upload, number, row),
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        }
    }

    pub(super) fn copy_part(
        &mut self,
        name: UploadName<'_>,
        number: u16,
        source: PartSource<'_>,
    ) -> Result<Outcome, BaseError> {
        let Some(upload) = self.upload(name)? else { return Ok(Outcome::Refused(Refusal::NoSuchUpload)) };
        if !(1..=PART_NUMBER_MAX).contains(&number) {
            return Ok(Outcome::Refused(Refusal::InvalidPart(number)));
        }
        let found = self.load_row(source.bucket, source.key)?;
        let Some(row) = found.row().filter(|row| row.version == source.version) else {
            return Ok(Outcome::Unmet);
        };
        if let Some(refusal) = self.refuse_clean(&row)? {
            return Ok(Outcome::Refused(refusal));
        }
        let mut parts = Vec::new();
        slice_parts(row.parts(), source.start, source.start.saturating_add(source.len), &mut parts);
        if parts.len() > COPIED_EXTENTS_MAX {
            return Ok(Outcome::Refused(Refusal::TooFragmented));
        }
        let row = self.fresh_head().row_parts(&parts, &mut self.scratch);
        self.place_part(name, upload, number, row)
    }

    /// Puts a part in the place of the one that had its number.
    fn place_part(
        &mut self,
        name: UploadName<'_>,
        mut upload: UploadRow,
        number: u16,
        row: Arc<[u8]>,
    ) -> Result<Outcome, BaseError> {
        let old = self.part(name.upload, number)?;
        let old = old.as_deref().and_then(RowReader::new);
        self.move_blob_references(old.as_ref(), RowReader::new(&row).as_ref())?;
        self.put(RowKey::encoded(&part_key(name.upload, number)), Some(row));
        if number > upload.last_part {
            upload.last_part = number;
            self.put_upload(name, Some(&upload));
        }
        Ok(Outcome::Done(self.version()))
    }

    pub(super) fn complete_upload(
        &mut self,
        name: UploadName<'_>,
        names: &PartNames<'_>,
        etag: Option<&str>,
        checksum: &[u8],
        condition: &PutIf<'_>,
    ) -> Result<Outcome, BaseError> {
        let Some(upload) = self.upload(name)? else { return Ok(Outcome::Refused(Refusal::NoSuchUpload)) };
        let parts = match self.named_parts(name.upload, names)? {
            Ok(parts) => parts,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        let meta = [&upload.meta, checksum].concat();
        if let Some(refusal) = self.refuse_object(name.bucket, name.key, &meta) {
            return Ok(Outcome::Refused(refusal));
        }
        let old = self.load_row(name.bucket, name.key)?;
        if let Some(refusal) = self.refuse_condition(&old, condition) {
            return Ok(Outcome::Refused(refusal));
        }
        let rows: Vec<RowReader<'_>> = parts.iter().filter_map(|raw| RowReader::new(raw)).collect();
        let len = rows.iter().map(|row| row.body_len).fold(0, u64::saturating_add);
        if len > OBJECT_BYTES_MAX {
            return Ok(Outcome::Refused(Refusal::TooLarge(OBJECT_BYTES_MAX)));
        }
        let extents = rows.iter().flat_map(RowReader::parts).take(OBJECT_EXTENTS_MAX + 1).count();
        if extents > OBJECT_EXTENTS_MAX {
            return Ok(Outcome::Refused(Refusal::TooFragmented));
        }
        let part_runs = encode_part_runs(rows.iter().map(|row| row.body_len));
        let body: Vec<BodyPart<'_>> = rows.iter().flat_map(RowReader::parts).collect();
        let head = RowHead { etag, part_runs: &part_runs, meta: &meta, ..self.fresh_head() };
        let row = head.row_parts(&body, &mut self.scratch);
        let flushing = if condition.is_none() { Flushing::Plain } else { Flushing::Barrier };
        self.replace(name.bucket, name.key, &old, Some(row), flushing)?;
        // The object counts its blobs now; the parts let go of theirs.
        self.drop_upload(name, &upload)?;
        Ok(Outcome::Done(self.version()))
    }

    /// The rows of the parts that the client names, or why they make no object.
    fn named_parts(&self, upload: Version, names: &PartNames<'_>) -> Judged<Vec<Arc<[u8]>>> {
        let mut parts: Vec<Arc<[u8]>> = Vec::new();
        let mut last = (0, 0);
        for (number, etag) in names.iter() {
            let part = self.part(upload, number)?;
            let part = part.filter(|part| {
                let found = ObjectRow::from_encoded(part.clone()).etag(self.cluster);
                number > last.0 && found.to_string().as_bytes() == etag
            });
            let Some(part) = part else { return Ok(Err(Refusal::InvalidPart(number))) };
            if last.0 > 0 && last.1 < PART_BYTES_MIN {
                return Ok(Err(Refusal::PartTooSmall(last.0, last.1)));
            }
            last = (number, RowReader::new(&part).map_or(0, |row| row.body_len));
            parts.push(part);
        }
        Ok(if parts.is_empty() { Err(Refusal::InvalidPart(0)) } else { Ok(parts) })
    }

    pub(super) fn abort_upload(&mut self, name: UploadName<'_>) -> Result<Outcome, BaseError> {
        let Some(upload) = self.upload(name)? else { return Ok(Outcome::Refused(Refusal::NoSuchUpload)) };
        self.drop_upload(name, &upload)?;
        Ok(Outcome::Done(self.version()))
    }

    /// Removes an upload with its parts, and releases their blobs.
    fn drop_upload(&mut self, name: UploadName<'_>, upload: &UploadRow) -> Result<(), BaseError> {
        for number in 1..=upload.last_part {
            let Some(part) = self.part(name.upload, number)? else { continue };
            self.move_blob_references(RowReader::new(&part).as_ref(), None)?;
            self.put(RowKey::encoded(&part_key(name.upload, number)), None);
        }
        self.put_upload(name, None);
        self.state.count_upload(name.bucket, -1);
        Ok(())
    }

    fn upload(&self, name: UploadName<'_>) -> Result<Option<UploadRow>, BaseError> {
        let key = upload_key(name.bucket, name.key, name.upload);
        Ok(self.newest(RowKey::encoded(&key), false)?.as_deref().and_then(UploadRow::decode))
    }

    fn put_upload(&self, name: UploadName<'_>, row: Option<&UploadRow>) {
        let key = upload_key(name.bucket, name.key, name.upload);
        self.put(RowKey::encoded(&key), row.map(UploadRow::encode));
    }

    fn part(&self, upload: Version, number: u16) -> Result<Option<Arc<[u8]>>, BaseError> {
        self.newest(RowKey::encoded(&part_key(upload, number)), false)
    }
}
