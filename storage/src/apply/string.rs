//! RESP strings: SET, APPEND, SETRANGE, INCR and their kin.

use super::body::{payload_parts, slice_parts};
use super::float::add_decimal;
use super::{Applier, Flushing, Loaded};
use crate::keyspace::base::BaseError;
use crate::keyspace::tables::{BodyPart, RowHead};
use crate::mutation::{Existence, Outcome, Payload, Refusal, SetExpiry};
use crate::object::{BucketId, Version};

/// Longest text that can be an integer; Redis judges alike.
const INTEGER_BYTES_MAX: u64 = 20;
/// Longest stored text that can be a float: what has room in its row.
const FLOAT_BYTES_MAX: u64 = super::body::ROW_BODY_BYTES_MAX as u64;

impl Applier {
    pub(super) fn set_string(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        value: &Payload<'_>,
        expiry: SetExpiry,
        existence: Existence,
    ) -> Result<Outcome, BaseError> {
        if let Some(refusal) = self.refuse_write(bucket, key, value.len()) {
            return Ok(Outcome::Refused(refusal));
        }
        let old = self.load_row(bucket, key)?;
        let unmet = match existence {
            Existence::Any => false,
            Existence::Absent => old.alive,
            Existence::Present => !old.alive,
        };
        if unmet {
            return Ok(Outcome::Unmet);
        }
        let flushing = match existence {
            Existence::Any => Flushing::Plain,
            Existence::Absent | Existence::Present => Flushing::Judged,
        };
        let expires_at_ms = match expiry {
            SetExpiry::Clear => None,
            SetExpiry::Keep => old.row().and_then(|row| row.expires_at_ms),
            SetExpiry::At(at) => Some(at),
        };
        if expires_at_ms.is_some_and(|at| at <= self.place.stamp_ms) {
            self.replace(bucket, key, &old, None, flushing)?;
            return Ok(Outcome::Done(self.version()));
        }
        let head = RowHead { expires_at_ms, ..self.fresh_head() };
        let row = match self.payload_row(&head, value)? {
            Ok(row) => row,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        self.replace(bucket, key, &old, Some(row), flushing)?;
        Ok(Outcome::Done(self.version()))
    }

    pub(super) fn append(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        value: &Payload<'_>,
    ) -> Result<Outcome, BaseError> {
        let old = self.load_row(bucket, key)?;
        let at = old.row().map_or(0, |row| row.body_len);
        if value.is_empty() && old.alive {
            return Ok(Outcome::Length(at));
        }
        self.splice(bucket, key, &old, at, value)
    }

    pub(super) fn set_range(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        offset: u64,
        value: &Payload<'_>,
    ) -> Result<Outcome, BaseError> {
        let old = self.load_row(bucket, key)?;
        self.splice(bucket, key, &old, offset, value)
    }

    /// Writes `value` at `offset`; what lies between the end and the offset reads as zeros.
    fn splice(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        old: &Loaded,
        offset: u64,
        value: &Payload<'_>,
    ) -> Result<Outcome, BaseError> {
        let end = offset.saturating_add(value.len());
        let refusal = match self.refuse_write(bucket, key, end) {
            Some(refusal) => Some(refusal),
            None => self.refuse_payload(value)?,
        };
        if let Some(refusal) = refusal {
            return Ok(Outcome::Refused(refusal));
        }
        let mut parts = Vec::new();
        let mut len = 0;
        if let Some(row) = old.row() {
            if let Some(refusal) = self.refuse_clean(&row)? {
                return Ok(Outcome::Refused(refusal));
            }
            len = row.body_len;
            slice_parts(row.parts(), 0, offset, &mut parts);
        }
        if offset > len {
            parts.push(BodyPart::Zeros(offset - len));
        }
        payload_parts(value, &mut parts);
        if let Some(row) = old.row() {
            slice_parts(row.parts(), end, u64::MAX, &mut parts);
        }
        let head = self.kept_head(old);
        let row = match self.row_of_parts(&head, &parts) {
            Ok(row) => row,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        self.own_payload(value);
        self.replace(bucket, key, old, Some(row), Flushing::Judged)?;
        Ok(Outcome::Length(len.max(end)))
    }

    pub(super) fn incr_by(&mut self, bucket: BucketId, key: &[u8], delta: i64) -> Result<Outcome, BaseError> {
        if let Some(refusal) = self.refuse_write(bucket, key, 0) {
            return Ok(Outcome::Refused(refusal));
        }
        let old = self.load_row(bucket, key)?;
        let number = match old.row().map(|row| (row.body_len, row.inline_body())) {
            None => Some(0),
            Some((len, _)) if len > INTEGER_BYTES_MAX => None,
            Some((_, Some(text))) => parse_integer(text),
            // Found in an origin, or a part of an upload: the store puts it into its row.
            Some((_, None)) => return Ok(Outcome::Refused(Refusal::TooFragmented)),
        };
        let Some(number) = number else { return Ok(Outcome::Refused(Refusal::NotAnInteger)) };
        let Some(sum) = number.checked_add(delta) else { return Ok(Outcome::Refused(Refusal::Overflow)) };
        let head = self.kept_head(&old);
        let row = self.whole_row(&head, sum.to_string().as_bytes());
        self.replace(bucket, key, &old, Some(row), Flushing::Judged)?;
        Ok(Outcome::Integer(sum))
    }

    pub(super) fn incr_by_float(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        delta: &[u8],
    ) -> Result<Outcome, BaseError> {
        if let Some(refusal) = self.refuse_write(bucket, key, 0) {
            return Ok(Outcome::Refused(refusal));
        }
        let old = self.load_row(bucket, key)?;
        let sum = match old.row().map(|row| (row.body_len, row.inline_body())) {
            None => add_decimal(b"0", delta),
            Some((len, _)) if len > FLOAT_BYTES_MAX => Err(Refusal::NotAFloat),
            Some((_, Some(text))) => add_decimal(text, delta),
            Some((_, None)) => Err(Refusal::TooFragmented),
        };
        let sum = match sum {
            Ok(sum) => sum,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        let head = self.kept_head(&old);
        let row = self.whole_row(&head, sum.as_bytes());
        self.replace(bucket, key, &old, Some(row), Flushing::Judged)?;
        Ok(Outcome::Text(sum.into_bytes().into_boxed_slice()))
    }

    /// The same bytes in one piece: neither ETag nor origin notice.
    pub(super) fn rewrite(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        version: Version,
        value: &Payload<'_>,
    ) -> Result<Outcome, BaseError> {
        let old = self.load_row(bucket, key)?;
        let Some(row) = old.row().filter(|row| row.version == version && row.body_len == value.len()) else {
            return Ok(Outcome::Unmet);
        };
        let head = RowHead { version: self.version(), ..row.head() };
        let row = match self.payload_row(&head, value)? {
            Ok(row) => row,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        self.replace(bucket, key, &old, Some(row), Flushing::No)?;
        self.state.unmarked |= self.state.has_origins();
        Ok(Outcome::Done(self.version()))
    }

    /// The head of an object that RESP writes anew.
    pub(super) fn fresh_head(&self) -> RowHead<'static> {
        RowHead {
            version: self.version(),
            modified_ms: self.place.stamp_ms,
            expires_at_ms: None,
            md5: None,
            content_version: self.version(),
            etag: None,
            part_runs: &[],
            meta: &[],
        }
    }

    /// The head of an object whose body RESP changes: expiry and metadata stay, the checksums do not.
    fn kept_head<'a>(&self, old: &'a Loaded) -> RowHead<'a> {
        let fresh = self.fresh_head();
        match old.row() {
            Some(row) => RowHead {
                expires_at_ms: row.expires_at_ms,
                meta: crate::keyspace::tables::meta_without_checksum(row.meta),
                ..fresh
            },
            None => fresh,
        }
    }
}

/// Redis's rule for an integer: canonical decimal, no sign but minus, no leading zero, no space.
fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
