//! Read views as the front ends hold them: objects, alive ones only, with their bodies.
//!
//! Adds to the keyspace's view what a row means: bucket epochs, expiry, body parts. An object past its
//! time reads as absent only after its removal was applied (PITFALLS 19).

use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;

use crate::body::{Found, RESIDENT_READ_BYTES_MAX, blob_error, find_blob, short};
use crate::error::{Error, Result};
use crate::keyspace::base::{BaseError, Pair};
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{BodyPart, RowReader, Table, object_key, split_object_key};
use crate::keyspace::view::{View, ViewError};
use crate::mutation::Mutation;
use crate::object::{BlobId, BucketId, ObjectRow, Version};
use crate::store::Shared;
use crate::submission::Submission;

/// Rows read at a time for a listing.
const PAGE: usize = 1000;
/// Listings up to this length run on the caller's thread when the store is in memory.
const INLINE_LIMIT: usize = 64;
/// Memory that is asked for before the bytes are there to fill it.
const RESERVED_BYTES_MAX: u64 = 1 << 20;

/// Outcome of a lookup that may not wait.
#[derive(Debug)]
pub enum Lookup {
    /// The object, alive.
    Found(ObjectRow),
    /// No such object.
    Absent,
    /// Needs the slow path (cold page, or a row past its time whose removal must first be applied):
    /// await [`ReadView::fetch`].
    Later,
}

/// One listed object.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Object key.
    pub key: Bytes,
    /// Its row.
    pub row: ObjectRow,
}

/// Everything read through it is as of one place in the log. Cheap to clone; keep it short: it holds old
/// row versions, and the checkpoint waits for it up to 10 s, after which it answers an error.
#[derive(Clone)]
pub struct ReadView {
    shared: Arc<Shared>,
    view: View,
}

impl std::fmt::Debug for ReadView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadView({})", self.view.at())
    }
}

/// What a try to read a body came to.
enum Body {
    Bytes(Bytes),
    /// It takes a blocking read.
    Cold,
    /// Bytes of it are only in the origin.
    Elsewhere,
}

/// What a raw object row means to a reader at `at`.
pub(crate) fn judge(
    shared: &Shared,
    (bucket, key): (BucketId, &[u8]),
    raw: Option<Arc<[u8]>>,
    at: Version,
) -> Lookup {
    let Some(raw) = raw else { return Lookup::Absent };
    let (version, expires_at_ms, has_parts) = match RowReader::new(&raw) {
        Some(row) => (row.version, row.expires_at_ms, row.inline_body().is_none()),
        None => {
            tracing::error!(bucket = bucket.0, "an object row of an unknown layout reads as absent");
            return Lookup::Absent;
        }
    };
    match shared.registry.epoch_at(bucket, at) {
        Some(epoch) if version >= epoch => {}
        _ => return Lookup::Absent,
    }
    if expires_at_ms.is_some_and(|expiry| expiry <= shared.clock.now_ms()) {
        return Lookup::Later;
    }
    let row = ObjectRow::from_encoded(raw);
    // Bytes that are not here are found by the object's name.
    Lookup::Found(if has_parts && shared.fills.has_origins() { row.named(bucket, key) } else { row })
}

impl ReadView {
    pub(crate) fn new(shared: Arc<Shared>, view: View) -> ReadView {
        ReadView { shared, view }
    }

    pub(crate) fn parts(&self) -> (Arc<Shared>, View) {
        (self.shared.clone(), self.view.clone())
    }

    /// The version this view reads at.
    pub fn at(&self) -> Version {
        self.view.at()
    }

    /// Looks an object up. Never waits, never touches a disk.
    pub fn get(&self, bucket: BucketId, key: &[u8]) -> Lookup {
        match self.view.get(RowKey::object(Table::Object, bucket, key), true, false) {
            Ok(Some(raw)) => judge(&self.shared, (bucket, key), raw, self.view.at()),
            Ok(None) | Err(_) => Lookup::Later,
        }
    }

    /// As [`ReadView::get`], waiting where needed: for a cold page on the read pool, for the removal of an
    /// expired object in the log. The future may be dropped.
    pub async fn fetch(&self, bucket: BucketId, key: &[u8]) -> Result<Option<ObjectRow>> {
        let row_key = RowKey::object(Table::Object, bucket, key);
        let raw = match self.view.get(row_key, true, false).map_err(view_error)? {
            Some(raw) => raw,
            None => {
                let (view, key) = (self.view.clone(), object_key(Table::Object, bucket, key));
                let read = move || view.get(RowKey::encoded(&key), true, true);
                self.on_pool(read).await?.map_err(view_error)?.flatten()
            }
        };
        match judge(&self.shared, (bucket, key), raw, self.view.at()) {
            Lookup::Found(row) => Ok(Some(row)),
            Lookup::Absent => Ok(None),
            Lookup::Later => {
                self.remove_expired(&[(bucket, key)]).await?;
                Ok(None)
            }
        }
    }

    /// A row of any table; no cache is asked.
    pub(crate) async fn row(&self, row_key: Vec<u8>) -> Result<Option<Arc<[u8]>>> {
        match self.view.get(RowKey::encoded(&row_key), false, false).map_err(view_error)? {
            Some(row) => Ok(row),
            None => {
                let view = self.view.clone();
                let read = move || view.get(RowKey::encoded(&row_key), false, true);
                Ok(self.on_pool(read).await?.map_err(view_error)?.flatten())
            }
        }
    }

    async fn remove_expired(&self, keys: &[(BucketId, &[u8])]) -> Result<()> {
        let mut submission = Submission::new();
        for (bucket, key) in keys {
            submission.push(&Mutation::ExpireDue { bucket: *bucket, key });
        }
        self.shared.submit(submission).await.map(|_| ())
    }

    /// Bytes `range` (clamped to the body) of a row that came from this view, held in memory whole: for short
    /// ones, others through [`ReadView::open_body`]. Bodies in the row, in a memtable, and small ones in the
    /// page cache do not wait; others are read and verified on the read pool. The future may be dropped.
    pub async fn read_body(&self, row: &ObjectRow, range: Range<u64>) -> Result<Bytes> {
        let range = range.start.min(row.body_len())..range.end.min(row.body_len());
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(body) = row.inline_body() {
            return Ok(Bytes::copy_from_slice(&body[range.start as usize..range.end as usize]));
        }
        let mut body = self.body(row, &range, false)?;
        if matches!(body, Body::Cold) {
            let (this, row, range) = (self.clone(), row.clone(), range.clone());
            body = self.on_pool(move || this.body(&row, &range, true)).await??;
        }
        match body {
            Body::Bytes(bytes) => {
                self.shared.fills.count_body(true);
                Ok(bytes)
            }
            Body::Cold => Err(Error::Damaged("a body part is missing".into())),
            Body::Elsewhere => self.open_body(row).await?.read(range).await,
        }
    }

    /// The body; `Cold` only if `wait` is false.
    fn body(&self, row: &ObjectRow, range: &Range<u64>, wait: bool) -> Result<Body> {
        let len = row.parts().try_fold(0u64, |sum, part| sum.checked_add(part.len()));
        if len != Some(row.body_len()) {
            return Err(Error::Damaged("an object row contradicts itself".into()));
        }
        // A row that leaves the disk damaged must not decide how much memory is asked for.
        let mut out = Vec::with_capacity((range.end - range.start).min(RESERVED_BYTES_MAX) as usize);
        let mut at = 0;
        for part in row.parts() {
            let (start, end) = (range.start.max(at), range.end.min(at + part.len()));
            let from = at;
            at += part.len();
            if start >= end {
                continue;
            }
            let (skip, len) = ((start - from) as usize, (end - start) as usize);
            match part {
                BodyPart::Inline(bytes) => out.extend_from_slice(&bytes[skip..skip + len]),
                BodyPart::Zeros(_) => out.resize(out.len() + len, 0),
                BodyPart::Extent { blob, offset, .. } => {
                    let start = offset as usize + skip;
                    match self.blob(blob, start..start + len, wait, &mut out)? {
                        Body::Bytes(_) => {}
                        other => return Ok(other),
                    }
                }
            }
        }
        Ok(Body::Bytes(Bytes::from(out)))
    }

    /// Whether bytes of a row from this view are in an origin only; without `wait` also true if that is not known.
    pub(crate) fn is_away(&self, row: &ObjectRow, wait: bool) -> bool {
        let mut blobs = row.parts().filter_map(|part| part.blob());
        row.inline_body().is_none()
            && blobs.any(|blob| {
                let found = find_blob(&self.view, &self.shared.segments, blob, wait);
                matches!(found, Ok(Some(Found::Elsewhere) | None))
            })
    }

    /// Appends a range of a blob to `out`; the answer's own bytes are empty.
    fn blob(&self, blob: BlobId, range: Range<usize>, wait: bool, out: &mut Vec<u8>) -> Result<Body> {
        match find_blob(&self.view, &self.shared.segments, blob, wait)? {
            Some(Found::Memory(bytes)) => {
                out.extend_from_slice(bytes.get(range).ok_or_else(|| short(blob))?);
            }
            Some(Found::Extent(pointer, _pin)) if wait || range.len() as u64 <= RESIDENT_READ_BYTES_MAX => {
                let range = range.start as u64..range.end as u64;
                self.shared.recency.note(blob);
                match self.shared.segments.read(pointer, blob, range, wait).map_err(blob_error)? {
                    Some(bytes) => out.extend_from_slice(&bytes),
                    None => return Ok(Body::Cold),
                }
            }
            Some(Found::Elsewhere) => return Ok(Body::Elsewhere),
            _ => return Ok(Body::Cold),
        }
        Ok(Body::Bytes(Bytes::new()))
    }

    /// Up to `limit` live objects whose keys begin with `prefix` and lie behind `after`, in byte order; fewer
    /// than `limit` mean that the end was reached. The future may be dropped.
    pub async fn list(
        &self,
        bucket: BucketId,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        self.list_until(bucket, prefix, after, None, limit).await
    }

    /// The same up to a last key.
    pub(crate) async fn list_until(
        &self,
        bucket: BucketId,
        prefix: &[u8],
        after: Option<&[u8]>,
        last: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        let mut end = prefix_end(&object_key(Table::Object, bucket, prefix));
        if let Some(last) = last {
            // No key lies between one and itself with a zero behind it.
            let behind = object_key(Table::Object, bucket, &[last, &[0]].concat());
            end = end.min(behind);
        }
        let mut from = match after {
            Some(after) if after >= prefix => Bound::Excluded(object_key(Table::Object, bucket, after)),
            _ => Bound::Included(object_key(Table::Object, bucket, prefix)),
        };
        while listed.len() < limit {
            let page = (limit - listed.len()).min(PAGE);
            let rows = self.page(from, end.clone(), page).await?;
            let full = rows.len() == page;
            let last = rows.last().map(|(key, _)| key.to_vec());
            let mut expired = Vec::new();
            for (row_key, raw) in rows {
                let Some((_, key)) = split_object_key(&row_key) else { continue };
                match judge(&self.shared, (bucket, key), Some(raw), self.view.at()) {
                    Lookup::Found(row) => listed.push(Listed { key: Bytes::copy_from_slice(key), row }),
                    Lookup::Absent => {}
                    Lookup::Later => expired.push(key.to_vec()),
                }
            }
            if !expired.is_empty() {
                let keys: Vec<_> = expired.iter().map(|key| (bucket, &key[..])).collect();
                self.remove_expired(&keys).await?;
            }
            match last {
                Some(last) if full => from = Bound::Excluded(last),
                _ => break,
            }
        }
        Ok(listed)
    }

    pub(crate) async fn page(&self, from: Bound<Vec<u8>>, end: Vec<u8>, limit: usize) -> Result<Vec<Pair>> {
        let view = self.view.clone();
        let read = move || view.range(from.as_ref().map(Vec::as_slice), &end, limit).map_err(view_error);
        if limit <= INLINE_LIMIT && !self.shared.keyspace.base.may_block() {
            return read();
        }
        self.on_pool(read).await?
    }

    /// Number of objects in the bucket as of the latest applied entry; expired ones that are not yet removed
    /// count, as in Redis.
    pub fn count(&self, bucket: BucketId) -> u64 {
        self.shared.registry.get(bucket).map_or(0, |bucket| bucket.objects())
    }

    async fn on_pool<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.shared.pool.run(job).await.map_err(|_| Error::Stopping)
    }
}

/// The end of the range of keys that begin with `prefix`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX]
}

pub(crate) fn view_error(error: ViewError) -> Error {
    match error {
        ViewError::TooOld => Error::Unavailable("the read took too long"),
        ViewError::Base(error) => base_error(error),
    }
}

pub(crate) fn base_error(error: BaseError) -> Error {
    Error::Disk(error.to_string().into())
}
