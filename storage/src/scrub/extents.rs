//! Every extent that the committed tables name, read from the device and checked: header and chunks.
//!
//! Each page is read in the order of its places. Bytes that were not in the page cache before do not stay in it.

use std::cmp::Reverse;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Job;
use super::walk::Stop;
use crate::blob::{BlobError, Pointer};
use crate::keyspace::Keyspace;
use crate::keyspace::base::BaseError;
use crate::keyspace::checkpoint::decode_pointer;
use crate::keyspace::tables::{Table, blob_key, split_blob_key};
use crate::object::BlobId;
use crate::store::Shared;

/// Places looked up at a time.
const PAGE: usize = 4096;
/// Bytes of an extent read at a time.
const READ_BYTES: u64 = 1 << 20;
/// Extents that lie this close to each other are read as one stretch.
const STRETCH_BYTES: u64 = 4 << 20;

/// The walk over the blobs that have a place.
#[derive(Default)]
pub(super) struct Extents {
    /// The last blob of the page; `None` before the first.
    after: Option<BlobId>,
    /// There is no page behind this one.
    is_last: bool,
    /// What is left of the page, the next place last.
    places: Vec<(Pointer, BlobId)>,
}

impl Extents {
    /// Reads the next stretch of a segment; `bad` gets what is damaged. False at the end.
    pub(super) fn step(
        &mut self,
        shared: &Arc<Shared>,
        job: &Job,
        bad: &mut dyn FnMut(BlobId, Pointer),
    ) -> Result<bool, Stop> {
        if self.places.is_empty() {
            if self.is_last {
                return Ok(false);
            }
            self.look_up(shared)?;
        }
        let Some((first, _)) = self.places.last() else { return Ok(true) };
        let (segment, start) = (first.segment, u64::from(first.offset));
        let is_far = |(pointer, _): &&(Pointer, BlobId)| {
            pointer.segment != segment || u64::from(pointer.offset) >= start + STRETCH_BYTES
        };
        let near = self.places.iter().rev().position(|place| is_far(&place)).unwrap_or(self.places.len());
        let stretch = self.places.split_off(self.places.len() - near);
        let end = stretch.iter().map(|(pointer, _)| end_of(pointer)).max().unwrap_or(start);
        shared.segments.uncached(segment, start..end, || {
            for (pointer, blob) in stretch.into_iter().rev() {
                if let Some(what) = check(shared, job, blob, pointer)? {
                    tracing::warn!(?blob, what, "the scrub came across damage");
                    bad(blob, pointer);
                }
                job.extents_done.fetch_add(1, Relaxed);
            }
            Ok(true)
        })
    }

    fn look_up(&mut self, shared: &Shared) -> Result<(), Stop> {
        let (base, end) = (&*shared.keyspace.base, Keyspace::table_end(Table::Blob));
        let rows = match self.after {
            Some(after) => base.range(Bound::Excluded(&blob_key(Table::Blob, after)), &end, PAGE)?,
            None => base.range(Bound::Included(&[Table::Blob as u8]), &end, PAGE)?,
        };
        self.is_last = rows.len() < PAGE;
        self.after = rows.last().and_then(|(key, _)| split_blob_key(key)).or(self.after);
        let places = rows.iter().filter_map(|(key, row)| Some((decode_pointer(row)?, split_blob_key(key)?)));
        self.places = places.collect();
        self.places.sort_unstable_by_key(|(pointer, _)| Reverse((pointer.segment, pointer.offset)));
        Ok(())
    }
}

fn end_of(pointer: &Pointer) -> u64 {
    u64::from(pointer.offset) + pointer.bytes_on_disk()
}

/// What is wrong with an extent that is still the blob's place; `None` if nothing is.
pub(super) fn check(
    shared: &Arc<Shared>,
    job: &Job,
    blob: BlobId,
    pointer: Pointer,
) -> Result<Option<String>, Stop> {
    let mut wrong = read(shared, job, blob, pointer)?;
    if wrong.is_some() {
        // Once more: the extent may have gone, or an error have passed.
        if !is_place_of(shared, blob, pointer)? {
            return Ok(None);
        }
        let range = u64::from(pointer.offset)..end_of(&pointer);
        wrong = shared.segments.uncached(pointer.segment, range, || read(shared, job, blob, pointer))?;
    }
    match wrong {
        Some(what) if is_place_of(shared, blob, pointer)? => Ok(Some(what)),
        _ => Ok(None),
    }
}

/// Whether the committed tables name this place of the blob.
pub(super) fn is_place_of(shared: &Shared, blob: BlobId, pointer: Pointer) -> Result<bool, BaseError> {
    let row = shared.keyspace.base.get(&blob_key(Table::Blob, blob))?;
    Ok(row.as_deref().and_then(decode_pointer) == Some(pointer))
}

fn read(shared: &Arc<Shared>, job: &Job, blob: BlobId, pointer: Pointer) -> Result<Option<String>, Stop> {
    let segments = &shared.segments;
    let _pin = match segments.pin(pointer) {
        Ok(pin) => pin,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let mut at = 0;
    loop {
        let end = pointer.length.min(at + READ_BYTES);
        match segments.read(pointer, blob, at..end, true) {
            Ok(_) => {}
            Err(BlobError::Stale { .. }) => {
                return Ok(Some(format!(
                    "what lies in {} at byte {} is not this extent",
                    pointer.segment.path(),
                    pointer.offset
                )));
            }
            Err(error) => return Ok(Some(error.to_string())),
        }
        job.bytes_done.fetch_add(end - at, Relaxed);
        shared.scrubber.bytes.fetch_add(end - at, Relaxed);
        job.pace.spend(end - at)?;
        at = end;
        if at == pointer.length {
            return Ok(None);
        }
    }
}
