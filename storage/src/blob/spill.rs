//! Writes many bodies one after the other, large writes only, and makes them durable together.

use super::extent::{self, BLOCK, EXTENT_ALIGN, ExtentHeader};
use super::segment::{Segment, SegmentPin};
use super::store::SegmentStore;
use super::{BlobError, BlobId, Pointer};
use parking_lot::MutexGuard;
use std::sync::Arc;

/// Bytes gathered before they are written.
const WRITE_LEN: usize = 1 << 20;

/// Where the next spill begins: in a segment of this run of the process.
#[derive(Default)]
pub(super) struct Tail {
    open: Option<OpenSegment>,
}

#[derive(Clone)]
struct OpenSegment {
    /// Keeps it from being used anew while the next spill may go there.
    pin: SegmentPin,
    /// The next extent's place; what lies before is written or in the writer's buffer.
    end: u64,
}

impl Tail {
    /// Whether the next spill may go there.
    pub(super) fn is_in(&self, segment: &Segment) -> bool {
        self.open.as_ref().is_some_and(|open| open.pin.segment() == segment.id)
    }

    /// Lets go of the segment if it is the one being written: the next spill takes another one.
    pub(super) fn let_go_of(&mut self, segment: &Segment) {
        if self.is_in(segment) {
            self.open = None;
        }
    }
}

/// Takes bodies and gives pointers, which hold from [`SpillWriter::finish`] on, as long as their segments are
/// pinned or named. One at a time per store.
///
/// Dropped before that, or after an error, it leaves the store as it was; segments that it took are free as soon as
/// nobody has them pinned. After a lack of space the next spill begins in another segment: a free one's file has its
/// room, the one that was open would have to grow.
pub struct SpillWriter<'s> {
    store: &'s SegmentStore,
    tail: MutexGuard<'s, Tail>,
    /// The tail when this spill began.
    before: Option<OpenSegment>,
    /// Segments that this spill has taken.
    taken: Vec<SegmentPin>,
    /// Segments that hold bodies of this spill.
    filled: Vec<SegmentPin>,
    /// The bytes before the tail's end that are not written yet; they begin on a block.
    buffer: Vec<u8>,
    /// Whether the open segment holds bytes of this spill that are not synced.
    unsynced: bool,
    lacks_space: bool,
    finished: bool,
}

impl<'s> SpillWriter<'s> {
    pub(super) fn new(store: &'s SegmentStore, tail: MutexGuard<'s, Tail>) -> SpillWriter<'s> {
        let (before, taken) = (tail.open.clone(), Vec::new());
        let (filled, buffer) = (Vec::new(), Vec::new());
        let (unsynced, lacks_space, finished) = (false, false, false);
        SpillWriter { store, tail, before, taken, filled, buffer, unsynced, lacks_space, finished }
    }

    /// Appends a body. The pointer must not become durable anywhere before [`SpillWriter::finish`] has
    /// returned. After an error nothing of this spill may be used.
    pub fn push(&mut self, blob: BlobId, body: &[u8]) -> Result<Pointer, BlobError> {
        let pushed = self.try_push(blob, body);
        self.lacks_space |= matches!(pushed, Err(BlobError::NoSpace(_)));
        pushed
    }

    fn try_push(&mut self, blob: BlobId, body: &[u8]) -> Result<Pointer, BlobError> {
        let length = body.len() as u64;
        let length_max = self.store.body_len_max();
        if length > length_max {
            return Err(BlobError::TooLarge { length, length_max });
        }
        let len = extent::extent_len(length);
        let (segment, offset) = self.reserve(len)?;
        let generation = segment.generation();
        let pointer = Pointer { segment: segment.id, offset: offset as u32, generation, length };
        let header = ExtentHeader { blob, pointer };
        let seed = header.chunk_seed();
        self.buffer.extend_from_slice(&header.encode());
        for (number, chunk) in body.chunks(extent::CHUNK_LEN as usize).enumerate() {
            self.buffer.extend_from_slice(&seed.crc(number as u64, chunk).to_le_bytes());
            self.buffer.extend_from_slice(chunk);
        }
        self.pad(EXTENT_ALIGN);
        if self.buffer.len() >= WRITE_LEN {
            self.write_whole_blocks()?;
        }
        Ok(pointer)
    }

    /// Makes all bodies durable: from now on pointers to them may be committed. A failed sync is fatal. Returns
    /// what keeps the bodies until the tables name their segments.
    pub fn finish(mut self) -> Result<Vec<SegmentPin>, BlobError> {
        let closed = self.close();
        self.lacks_space |= matches!(closed, Err(BlobError::NoSpace(_)));
        closed?;
        self.finished = true;
        Ok(std::mem::take(&mut self.filled))
    }

    /// Room for an extent in the open segment, or in a fresh one.
    fn reserve(&mut self, len: u64) -> Result<(Arc<Segment>, u64), BlobError> {
        let fits = |open: &OpenSegment| open.end + len <= self.store.segment_bytes();
        if !self.tail.open.as_ref().is_some_and(fits) {
            self.close()?;
            let pin = self.store.take_free()?;
            self.taken.push(pin.clone());
            self.tail.open = Some(OpenSegment { pin, end: BLOCK });
        }
        let open = self.tail.open.as_mut().expect("opened just above");
        let offset = open.end;
        open.end += len.next_multiple_of(EXTENT_ALIGN);
        if self.filled.last().is_none_or(|last| last.segment() != open.pin.segment()) {
            self.filled.push(open.pin.clone());
        }
        Ok((open.pin.pinned().clone(), offset))
    }

    fn pad(&mut self, align: u64) {
        self.buffer.resize(self.buffer.len().next_multiple_of(align as usize), 0);
    }

    fn write_whole_blocks(&mut self) -> Result<(), BlobError> {
        let Some(open) = self.tail.open.as_ref() else { return Ok(()) };
        let whole = self.buffer.len() - self.buffer.len() % BLOCK as usize;
        let start = open.end - self.buffer.len() as u64;
        self.unsynced = true;
        open.pin.pinned().write(&self.buffer[..whole], start)?;
        self.buffer.drain(..whole);
        Ok(())
    }

    /// Writes what is left up to a block's end and syncs, so that the next spill begins on a fresh block.
    fn close(&mut self) -> Result<(), BlobError> {
        if !self.buffer.is_empty() {
            self.pad(BLOCK);
            if let Some(open) = self.tail.open.as_mut() {
                open.end = open.end.next_multiple_of(BLOCK);
            }
            self.write_whole_blocks()?;
        }
        if std::mem::take(&mut self.unsynced)
            && let Some(open) = self.tail.open.as_ref()
        {
            open.pin.pinned().sync()?;
        }
        Ok(())
    }
}

impl Drop for SpillWriter<'_> {
    /// Without a finish nobody points to what was written: the next spill may write over it.
    fn drop(&mut self) {
        if !self.finished {
            self.tail.open = self.before.take().filter(|_| !self.lacks_space);
            self.filled.clear();
            self.taken.drain(..).for_each(|pin| self.store.give_back(pin));
        }
    }
}
