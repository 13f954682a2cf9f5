//! Reading a body: where its parts lie, pinned, and bytes out of them.
//!
//! Owns the way from a blob's name to its bytes: a memtable, the place map, a pointer in the checkpoint store.
//! Must hold (PITFALLS 13): a segment is pinned before the view goes that led to it, so that a body reads whole
//! however the object fares meanwhile. A pointer that has become stale is looked up again.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::blob::{BlobError, Pointer, SegmentPin, SegmentStore};
use crate::error::{Error, Result};
use crate::fill::{self, OriginBody, OriginPart};
use crate::io::buffers::PIECE_BYTES;
use crate::keyspace::checkpoint::decode_pointer;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{BodyPart, Table, blob_key};
use crate::keyspace::view::View;
use crate::object::{BlobId, ObjectRow};
use crate::read::{ReadView, view_error};
use crate::store::Shared;

/// Bytes that a thread of the read pool reads at a time.
const READ_BYTES_MAX: u64 = 1 << 20;
/// How far ahead of a reader [`BodyReader::expect`] looks.
const EXPECTED_BYTES_MAX: u64 = 24 << 20;
/// Parts looked up on the caller's thread, if none of them takes a blocking read.
const INLINE_PARTS: usize = 64;
/// What is read from the page cache on the caller's thread, from one segment; more goes to the read pool.
/// Larger: other connections of the thread wait for the copy. Smaller: more switches of threads.
pub(crate) const RESIDENT_READ_BYTES_MAX: u64 = 64 << 10;
/// Times a place is looked up again after its segment was recycled in between.
const ATTEMPTS: usize = 4;

/// Where the bytes of a blob are.
pub(crate) enum Found {
    /// In memory: apply made it, and no checkpoint has spilled it.
    Memory(Arc<[u8]>),
    /// In a segment, which stays as it is while the pin lives.
    Extent(Pointer, SegmentPin),
    /// Not on this node: the origin has them.
    Elsewhere,
}

/// Looks a blob up as of a view; `None` if that takes a blocking read and `wait` is false.
pub(crate) fn find_blob(
    view: &View,
    segments: &SegmentStore,
    blob: BlobId,
    wait: bool,
) -> Result<Option<Found>> {
    let key = blob_key(Table::Blob, blob);
    for _ in 0..ATTEMPTS {
        match view.in_memory(RowKey::encoded(&key)) {
            Some(None) => return Err(Error::Damaged(format!("{blob:?} is gone").into())),
            Some(Some(bytes)) if !bytes.is_empty() || !blob.is_staged() => {
                return Ok(Some(Found::Memory(bytes)));
            }
            // Staged: the place map has it, or a checkpoint has taken it over meanwhile.
            Some(Some(_)) => {
                if let Some((pointer, pin)) = segments.staged(blob) {
                    return Ok(Some(Found::Extent(pointer, pin)));
                }
            }
            None => {}
        }
        if !wait && view.may_block() {
            return Ok(None);
        }
        let row = view.in_base(&key).map_err(view_error)?;
        let Some(pointer) = row.as_deref().and_then(decode_pointer) else {
            // Brought back, and no checkpoint has said so yet?
            let found = segments.staged(blob).map(|(pointer, pin)| Found::Extent(pointer, pin));
            return Ok(Some(found.unwrap_or(Found::Elsewhere)));
        };
        match segments.pin(pointer) {
            Ok(pin) => return Ok(Some(Found::Extent(pointer, pin))),
            Err(BlobError::Stale { .. }) => {}
            Err(error) => return Err(blob_error(error)),
        }
    }
    Err(Error::Unavailable("the object moved while it was read"))
}

pub(crate) fn blob_error(error: BlobError) -> Error {
    tracing::error!(%error, "a body could not be read");
    Error::Damaged(error.to_string().into())
}

/// Reads a body piece by piece. It keeps the bytes as they were when it was opened: neither the view nor the
/// object need to be there any more. While it lives, its segments are not used again; drop it soon. Cheap to
/// clone.
#[derive(Clone)]
pub struct BodyReader {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    len: u64,
    /// In order, without gaps, none empty.
    parts: Vec<Part>,
    /// Where the bytes are that are not here.
    origin: Option<OriginBody>,
}

struct Part {
    /// Where in the body it begins.
    start: u64,
    source: Source,
}

enum Source {
    Bytes(Bytes),
    Zeros,
    Extent {
        blob: BlobId,
        pointer: Pointer,
        /// Where in the blob the part begins.
        offset: u64,
        _pin: SegmentPin,
    },
    Origin(OriginPart),
}

impl ReadView {
    /// Opens the body of a row that came from this view. Blocks nobody: places that are not in memory are looked
    /// up on the read pool. Bytes that the site has given up are asked of the origin when they are read;
    /// [`Error::Damaged`] if they are neither here nor there. The future may be dropped.
    pub async fn open_body(&self, row: &ObjectRow) -> Result<BodyReader> {
        let (shared, view) = self.parts();
        let few = row.parts().take(INLINE_PARTS + 1).count() <= INLINE_PARTS;
        let wait = !shared.keyspace.base.may_block();
        let parts = if few { find_parts(&view, &shared.segments, row, wait)? } else { None };
        let parts = match parts {
            Some(parts) => parts,
            None => {
                let (row, segments) = (row.clone(), shared.segments.clone());
                let find = move || find_parts(&view, &segments, &row, true);
                let found = shared.pool.run(find).await.map_err(|_| Error::Stopping)??;
                found.ok_or_else(|| Error::Damaged("a body part is missing".into()))?
            }
        };
        shared.recency.note_all(parts.iter().filter_map(Part::extent));
        let away = parts.iter().any(|part| matches!(part.source, Source::Origin(_)));
        shared.fills.count_body(!away);
        let origin = if away { Some(shared.fills.locate(self, row).await?) } else { None };
        Ok(BodyReader { inner: Arc::new(Inner { shared, len: row.body_len(), parts, origin }) })
    }
}

fn find_parts(
    view: &View,
    segments: &SegmentStore,
    row: &ObjectRow,
    wait: bool,
) -> Result<Option<Vec<Part>>> {
    let (mut parts, mut start) = (Vec::new(), 0u64);
    // How many parts name each blob; counted once one of them is away.
    let mut named: Option<HashMap<BlobId, usize>> = None;
    for part in row.parts().filter(|part| !part.is_empty()) {
        let source = match part {
            BodyPart::Inline(bytes) => Source::Bytes(Bytes::copy_from_slice(bytes)),
            BodyPart::Zeros(_) => Source::Zeros,
            BodyPart::Extent { blob, offset, len } => {
                let (offset, end) = (u64::from(offset), u64::from(offset) + u64::from(len));
                match find_blob(view, segments, blob, wait)? {
                    None => return Ok(None),
                    Some(Found::Elsewhere) => {
                        let named = named.get_or_insert_with(|| count_named(row));
                        let only = named.get(&blob) == Some(&1);
                        // Bytes that no part of the object names are not in the origin.
                        let whole = only && offset == 0;
                        Source::Origin(OriginPart {
                            blob,
                            in_blob: offset..end,
                            in_body: start,
                            whole,
                            wish: Arc::default(),
                        })
                    }
                    Some(Found::Memory(bytes)) => {
                        let bytes = Bytes::from_owner(bytes);
                        if end > bytes.len() as u64 {
                            return Err(short(blob));
                        }
                        Source::Bytes(bytes.slice(offset as usize..end as usize))
                    }
                    Some(Found::Extent(pointer, _)) if end > pointer.length => return Err(short(blob)),
                    Some(Found::Extent(pointer, pin)) => Source::Extent { blob, pointer, offset, _pin: pin },
                }
            }
        };
        parts.push(Part { start, source });
        start = start.checked_add(part.len()).ok_or_else(contradiction)?;
    }
    if start != row.body_len() {
        return Err(contradiction());
    }
    Ok(Some(parts))
}

fn count_named(row: &ObjectRow) -> HashMap<BlobId, usize> {
    let mut named = HashMap::new();
    for blob in row.parts().filter_map(|part| part.blob()) {
        *named.entry(blob).or_default() += 1;
    }
    named
}

pub(crate) fn short(blob: BlobId) -> Error {
    Error::Damaged(format!("{blob:?} is shorter than its row says").into())
}

fn contradiction() -> Error {
    Error::Damaged("an object row contradicts itself".into())
}

impl Part {
    fn extent(&self) -> Option<BlobId> {
        match &self.source {
            Source::Extent { blob, .. } => Some(*blob),
            _ => None,
        }
    }
}

impl BodyReader {
    /// The bytes that are best read at a time.
    pub const PIECE_BYTES: u64 = PIECE_BYTES;

    /// Length of the body in bytes.
    pub fn len(&self) -> u64 {
        self.inner.len
    }

    /// Whether the body has no byte.
    pub fn is_empty(&self) -> bool {
        self.inner.len == 0
    }

    /// The bytes of a range, clamped to the body; every chunk of 64 KiB that they touch is checked. They are
    /// held in memory whole: ask for at most 1 MiB at a time, best from one multiple of [`BodyReader::PIECE_BYTES`] to
    /// the next. Bytes in memory
    /// do not wait, others are read on the read pool, or asked of the origin ([`Error::Unavailable`] when it does
    /// not answer, [`Error::ChangedInOrigin`]). The future may be dropped.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let mut pieces = self.pieces(range, READ_BYTES_MAX);
        let (first, second) = (pieces.next(), pieces.next());
        let Some(first) = first else { return Ok(Bytes::new()) };
        let first = self.read_piece(first).await?;
        if second.is_none() {
            return Ok(first);
        }
        let mut bytes = BytesMut::from(&first[..]);
        for piece in second.into_iter().chain(pieces) {
            bytes.extend_from_slice(&self.read_piece(piece).await?);
        }
        Ok(bytes.freeze())
    }

    /// Says which bytes will be read next, one after the other: those of the first ones that only the origin has are
    /// asked of it now, as far as memory allows. Waits for nothing; needs a runtime.
    pub fn expect(&self, range: Range<u64>) {
        let Some(origin) = &self.inner.origin else { return };
        let range = range.start..range.end.min(range.start.saturating_add(EXPECTED_BYTES_MAX));
        for (number, range) in self.pieces(range, EXPECTED_BYTES_MAX) {
            if let Source::Origin(part) = &self.inner.parts[number].source
                && !fill::expect(&self.inner.shared, origin, part, range)
            {
                return;
            }
        }
    }

    /// Waits until what the range has in the origin alone can be read, so that an error is known before the first byte is
    /// on its way to a client: until the first bytes of it that nobody has fetched yet have come, if a reader comes to
    /// them soon, else until the origin has answered for the object. Returns at once where all is here. Errors as of
    /// [`BodyReader::read`]. The future may be dropped.
    pub async fn reach(&self, range: Range<u64>) -> Result<()> {
        let Inner { shared, parts, origin, .. } = &*self.inner;
        let Some(origin) = origin else { return Ok(()) };
        let away = self.pieces(range.clone(), u64::MAX).find_map(|(number, of_part)| {
            let Source::Origin(part) = &parts[number].source else { return None };
            let at = fill::first_to_fetch(shared, origin, part, of_part)?;
            Some((number, at))
        });
        let Some((number, at)) = away else { return Ok(()) };
        if parts[number].start + at - range.start >= EXPECTED_BYTES_MAX {
            return fill::ask(shared, origin).await;
        }
        self.expect(range);
        self.read_piece((number, at..at + 1)).await.map(drop)
    }

    /// The range cut at the ends of parts, and every `most` bytes: which part, which bytes of it.
    fn pieces(&self, range: Range<u64>, most: u64) -> impl Iterator<Item = (usize, Range<u64>)> {
        let Inner { parts, len, .. } = &*self.inner;
        let (mut at, end) = (range.start.min(*len), range.end.min(*len));
        let mut number = parts.partition_point(|part| part.start <= at).saturating_sub(1);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (of, start) = (number, parts[number].start);
            let part_end = parts.get(number + 1).map_or(*len, |next| next.start);
            let piece_end = end.min(part_end).min(at.saturating_add(most));
            let piece = at - start..piece_end - start;
            at = piece_end;
            number += usize::from(at == part_end);
            Some((of, piece))
        })
    }

    async fn read_piece(&self, (number, range): (usize, Range<u64>)) -> Result<Bytes> {
        match &self.inner.parts[number].source {
            Source::Bytes(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Source::Zeros => Ok(Bytes::from(vec![0; (range.end - range.start) as usize])),
            Source::Origin(part) => {
                let origin = self.inner.origin.as_ref().ok_or_else(contradiction)?;
                fill::read(&self.inner.shared, origin, part, range).await
            }
            Source::Extent { blob, pointer, offset, .. } => {
                let (blob, pointer, inner) = (*blob, *pointer, self.inner.clone());
                let range = offset + range.start..offset + range.end;
                if range.end - range.start <= RESIDENT_READ_BYTES_MAX {
                    let resident = inner.shared.segments.read_shared(pointer, blob, range.clone(), false);
                    if let Some(bytes) = resident.map_err(blob_error)? {
                        return Ok(bytes);
                    }
                }
                let read = move || inner.shared.segments.read_shared(pointer, blob, range, true);
                let read = self.inner.shared.pool.run(read).await.map_err(|_| Error::Stopping)?;
                read.map_err(blob_error)?.ok_or_else(contradiction)
            }
        }
    }
}

impl std::fmt::Debug for BodyReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyReader").field("len", &self.inner.len).finish()
    }
}
