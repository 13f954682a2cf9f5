//! Keys of any kind: delete, expiry, rename, copy, and the removal of what is dead.

use super::{Applier, Flushing, Loaded};
use crate::keyspace::base::BaseError;
use crate::keyspace::tables::{BodyPart, RowHead, RowReader};
use crate::mutation::{ExpireIf, Outcome, Refusal};
use crate::object::BucketId;

impl Applier {
    pub(super) fn delete(&mut self, bucket: BucketId, key: &[u8]) -> Result<Outcome, BaseError> {
        if let Some(refusal) = self.refuse_read_only(bucket, key) {
            return Ok(Outcome::Refused(refusal));
        }
        let old = self.load_row(bucket, key)?;
        if old.raw.is_none() {
            return self.delete_unknown(bucket, key, &old);
        }
        let outcome = if old.alive { Outcome::Done(self.version()) } else { Outcome::Unmet };
        self.replace(bucket, key, &old, None, Flushing::Plain)?;
        Ok(outcome)
    }

    /// Nothing is here; the origin may hold something all the same.
    fn delete_unknown(&mut self, bucket: BucketId, key: &[u8], old: &Loaded) -> Result<Outcome, BaseError> {
        let looks_up = self.state.mount_of(bucket, key).is_some_and(|(_, mount)| mount.looks_up());
        // A key that is too long for the origin names nothing there.
        if !looks_up || self.refuse_write(bucket, key, 0).is_some() {
            return Ok(Outcome::Unmet);
        }
        if self.origin_row(bucket, key)?.pending.is_some() {
            return Ok(Outcome::Unmet);
        }
        self.enqueue(bucket, key, old, None, Flushing::Plain)?;
        Ok(Outcome::Done(self.version()))
    }

    /// An expiry that is due by the entry's stamp; anything else is left alone.
    pub(super) fn expire_due(&mut self, bucket: BucketId, key: &[u8]) -> Result<Outcome, BaseError> {
        let old = self.load_row(bucket, key)?;
        if old.alive || old.raw.is_none() {
            return Ok(Outcome::Unmet);
        }
        self.replace(bucket, key, &old, None, Flushing::Judged)?;
        Ok(Outcome::Done(self.version()))
    }

    pub(super) fn expire(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        at_ms: u64,
        condition: ExpireIf,
    ) -> Result<Outcome, BaseError> {
        if let Some(refusal) = self.refuse_read_only(bucket, key) {
            return Ok(Outcome::Refused(refusal));
        }
        let old = self.load_row(bucket, key)?;
        let Some(row) = old.row() else { return Ok(Outcome::Unmet) };
        let now = row.expires_at_ms;
        let met = (!condition.nx || now.is_none())
            && (!condition.xx || now.is_some())
            && (!condition.gt || now.is_some_and(|now| at_ms > now))
            && (!condition.lt || now.is_none_or(|now| at_ms < now));
        if !met {
            return Ok(Outcome::Unmet);
        }
        if at_ms <= self.place.stamp_ms {
            self.replace(bucket, key, &old, None, Flushing::Judged)?;
        } else {
            self.rewrite_expiry(bucket, key, &old, row, Some(at_ms))?;
        }
        Ok(Outcome::Done(self.version()))
    }

    pub(super) fn persist(&mut self, bucket: BucketId, key: &[u8]) -> Result<Outcome, BaseError> {
        if let Some(refusal) = self.refuse_read_only(bucket, key) {
            return Ok(Outcome::Refused(refusal));
        }
        let old = self.load_row(bucket, key)?;
        let Some(row) = old.row().filter(|row| row.expires_at_ms.is_some()) else {
            return Ok(Outcome::Unmet);
        };
        self.rewrite_expiry(bucket, key, &old, row, None)?;
        Ok(Outcome::Done(self.version()))
    }

    fn rewrite_expiry(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        old: &Loaded,
        row: RowReader<'_>,
        expires_at_ms: Option<u64>,
    ) -> Result<(), BaseError> {
        let head = RowHead { version: self.version(), expires_at_ms, ..row.head() };
        let new = self.same_body(&head, &row);
        self.replace(bucket, key, old, Some(new), Flushing::No)
    }

    pub(super) fn rename(
        &mut self,
        bucket: BucketId,
        from: &[u8],
        to: &[u8],
        if_absent: bool,
    ) -> Result<Outcome, BaseError> {
        if let Some(refusal) = self.refuse_read_only(bucket, from) {
            return Ok(Outcome::Refused(refusal));
        }
        let source = self.load_row(bucket, from)?;
        let Some(row) = source.row() else { return Ok(Outcome::Refused(Refusal::NoSuchKey)) };
        if let Some(refusal) = self.refuse_object(bucket, to, row.meta) {
            return Ok(Outcome::Refused(refusal));
        }
        let target = self.load_row(bucket, to)?;
        if if_absent && target.alive {
            return Ok(Outcome::Unmet);
        }
        if from == to {
            return Ok(Outcome::Done(self.version()));
        }
        if let Some(refusal) = self.refuse_clean(&row)? {
            return Ok(Outcome::Refused(refusal));
        }
        let new = self.moved_row(&row);
        let flushing = if if_absent { Flushing::Judged } else { Flushing::Plain };
        self.replace(bucket, to, &target, Some(new), flushing)?;
        self.replace(bucket, from, &source, None, Flushing::Judged)?;
        Ok(Outcome::Done(self.version()))
    }

    pub(super) fn copy(
        &mut self,
        (from_bucket, from): (BucketId, &[u8]),
        (to_bucket, to): (BucketId, &[u8]),
        replace: bool,
    ) -> Result<Outcome, BaseError> {
        let source = self.load_row(from_bucket, from)?;
        let Some(row) = source.row() else { return Ok(Outcome::Unmet) };
        if let Some(refusal) = self.refuse_object(to_bucket, to, row.meta) {
            return Ok(Outcome::Refused(refusal));
        }
        let target = self.load_row(to_bucket, to)?;
        if target.alive && !replace {
            return Ok(Outcome::Unmet);
        }
        if let Some(refusal) = self.refuse_clean(&row)? {
            return Ok(Outcome::Refused(refusal));
        }
        let new = self.moved_row(&row);
        let flushing = if replace { Flushing::Plain } else { Flushing::Judged };
        self.replace(to_bucket, to, &target, Some(new), flushing)?;
        Ok(Outcome::Done(self.version()))
    }

    /// The row of a copy: expiry, metadata and body of its source, a version of its own.
    fn moved_row(&mut self, row: &RowReader<'_>) -> std::sync::Arc<[u8]> {
        let head = RowHead {
            version: self.version(),
            content_version: self.version(),
            modified_ms: self.place.stamp_ms,
            ..row.head()
        };
        self.same_body(&head, row)
    }

    /// A row with another head and the same body.
    pub(super) fn same_body(&mut self, head: &RowHead<'_>, row: &RowReader<'_>) -> std::sync::Arc<[u8]> {
        match row.inline_body() {
            Some(body) => head.row_inline(body, &mut self.scratch),
            None => {
                let parts: Vec<BodyPart<'_>> = row.parts().collect();
                head.row_parts(&parts, &mut self.scratch)
            }
        }
    }

    /// Physically removes a row below its bucket's epoch.
    pub(super) fn sweep(&mut self, bucket: BucketId, key: &[u8]) -> Result<Outcome, BaseError> {
        let old = self.load_row(bucket, key)?;
        let epoch = self.state.epoch(bucket);
        if old.any_row().is_none_or(|row| row.version >= epoch) {
            return Ok(Outcome::Unmet);
        }
        self.replace(bucket, key, &old, None, Flushing::Judged)?;
        Ok(Outcome::Done(self.version()))
    }
}
