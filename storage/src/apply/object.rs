//! S3 objects: PUT and copy with their conditions.

use super::{Applier, Flushing, Loaded};
use crate::keyspace::base::BaseError;
use crate::keyspace::tables::RowHead;
use crate::mutation::{Outcome, Payload, PutIf, Refusal};
use crate::object::{BucketId, ObjectRow, Version};

impl Applier {
    pub(super) fn put_object(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        value: &Payload<'_>,
        meta: &[u8],
        md5: Option<[u8; 16]>,
        condition: &PutIf<'_>,
    ) -> Result<Outcome, BaseError> {
        if let Some(refusal) = self.refuse_object(bucket, key, meta) {
            return Ok(Outcome::Refused(refusal));
        }
        let old = self.load_row(bucket, key)?;
        if let Some(refusal) = self.refuse_condition(&old, condition) {
            return Ok(Outcome::Refused(refusal));
        }
        let head = RowHead { md5, meta, ..self.fresh_head() };
        let row = match self.payload_row(&head, value)? {
            Ok(row) => row,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        let flushing = if condition.is_none() { Flushing::Plain } else { Flushing::Barrier };
        self.replace(bucket, key, &old, Some(row), flushing)?;
        Ok(Outcome::Done(self.version()))
    }

    pub(super) fn copy_object(
        &mut self,
        (from_bucket, from, version): (BucketId, &[u8], Version),
        (to_bucket, to): (BucketId, &[u8]),
        meta: Option<&[u8]>,
        condition: &PutIf<'_>,
    ) -> Result<Outcome, BaseError> {
        let source = self.load_row(from_bucket, from)?;
        let Some(row) = source.row().filter(|row| row.version == version) else { return Ok(Outcome::Unmet) };
        let meta = meta.unwrap_or(row.meta);
        if let Some(refusal) = self.refuse_object(to_bucket, to, meta) {
            return Ok(Outcome::Refused(refusal));
        }
        let old = self.load_row(to_bucket, to)?;
        if let Some(refusal) = self.refuse_condition(&old, condition) {
            return Ok(Outcome::Refused(refusal));
        }
        if let Some(refusal) = self.refuse_clean(&row)? {
            return Ok(Outcome::Refused(refusal));
        }
        let (md5, etag, part_runs) = (row.md5, row.etag, row.part_runs);
        let head = RowHead { md5, etag, part_runs, meta, ..self.fresh_head() };
        let new = self.same_body(&head, &row);
        let flushing = if condition.is_none() { Flushing::Plain } else { Flushing::Barrier };
        self.replace(to_bucket, to, &old, Some(new), flushing)?;
        Ok(Outcome::Done(self.version()))
    }

    pub(super) fn refuse_condition(&self, old: &Loaded, condition: &PutIf<'_>) -> Option<Refusal> {
        let etag = old
            .raw
            .as_ref()
            .filter(|_| old.alive)
            .map(|raw| ObjectRow::from_encoded(raw.clone()).etag(self.cluster).to_string());
        let matches = |wanted: &str| etag.as_deref().is_some_and(|etag| wanted == "*" || wanted == etag);
        if let Some(wanted) = condition.if_match
            && !matches(wanted)
        {
            return Some(if etag.is_none() { Refusal::NoSuchKey } else { Refusal::PreconditionFailed });
        }
        if let Some(unwanted) = condition.if_none_match
            && matches(unwanted)
        {
            return Some(Refusal::PreconditionFailed);
        }
        None
    }
}
