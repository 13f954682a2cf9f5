//! One segment's file, which use of it is current, and who reads from it.

use super::extent::{self, BLOCK, ExtentHeader};
use super::{BlobError, BlobId, Generation, Pointer, SegmentId};
use crate::io::{DiskError, DiskFile};
use std::io::{IoSlice, IoSliceMut};
use std::ops::{DerefMut, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(super) struct Segment {
    pub(super) id: SegmentId,
    file: Arc<dyn DiskFile>,
    /// The current use; 0 while the segment is free.
    generation: AtomicU64,
    /// Its number among all uses of all segments.
    opened: AtomicU64,
    /// Bytes of the file. Only grows.
    len: AtomicU64,
    /// Pins, and [`RETIRING`] while it is taken out of use.
    pins: AtomicU64,
    /// Whether the caller's tables name it, or are about to: then only they say when it is dead. One that is
    /// not named is free as soon as nobody pins it.
    named: AtomicBool,
    /// How many of the pins stand for staged bytes that the tables may not name yet.
    staged: AtomicU64,
}

/// Set in `pins` from the moment nobody may pin any more.
const RETIRING: u64 = 1 << 63;

impl Segment {
    pub(super) fn new(id: SegmentId, file: Arc<dyn DiskFile>, len: u64, generation: Generation) -> Segment {
        Segment {
            id,
            file,
            generation: AtomicU64::new(generation.0),
            opened: AtomicU64::new(0),
            len: AtomicU64::new(len),
            pins: AtomicU64::new(0),
            named: AtomicBool::new(false),
            staged: AtomicU64::new(0),
        }
    }

    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// What its header says, at a start.
    pub(super) fn set_generation(&self, generation: Generation, opened: u64) {
        self.opened.store(opened, Ordering::Release);
        self.generation.store(generation.0, Ordering::Release);
    }

    /// Lower for a use that began earlier, also in an earlier run.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Acquire)
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Begins a new use: nothing may be written before this has returned.
    pub(super) fn begin(&self, generation: Generation, opened: u64) -> Result<(), BlobError> {
        let mut block = [0; BLOCK as usize];
        let header = extent::encode_segment_header(self.id, generation, opened);
        block[..header.len()].copy_from_slice(&header);
        self.write(&block, 0)?;
        self.sync()?;
        self.opened.store(opened, Ordering::Release);
        self.generation.store(generation.0, Ordering::Release);
        // Not a store: somebody may be between counting a pin and taking it back.
        self.pins.fetch_and(!RETIRING, Ordering::AcqRel);
        Ok(())
    }

    /// Ends the current use, if nobody has it pinned: its pointers are stale from now on.
    pub(super) fn retire(&self) -> Result<(), BlobError> {
        self.pins
            .compare_exchange(0, RETIRING, Ordering::AcqRel, Ordering::Acquire)
            .map_err(|_| BlobError::InUse { segment: self.id })?;
        self.generation.store(0, Ordering::Release);
        self.set_named(false);
        Ok(())
    }

    /// What it was before.
    pub(super) fn set_named(&self, named: bool) -> bool {
        self.named.swap(named, Ordering::AcqRel)
    }

    /// Whether the caller's tables name it.
    pub(super) fn is_named(&self) -> bool {
        self.named.load(Ordering::Acquire)
    }

    /// Whether neither the tables nor a pin need what is in it.
    pub(super) fn is_unused(&self) -> bool {
        let in_use = self.named.load(Ordering::Acquire) || self.pins.load(Ordering::Acquire) > 0;
        !in_use && self.generation() != Generation::default()
    }

    /// Pins that stand for staged bytes.
    pub(super) fn staged(&self) -> u64 {
        self.staged.load(Ordering::Acquire)
    }

    pub(super) fn pin(self: Arc<Self>, generation: Generation) -> Option<SegmentPin> {
        // Counted first, judged then: a retirement sees the count, or this sees the retirement.
        if self.pins.fetch_add(1, Ordering::AcqRel) & RETIRING != 0 {
            self.pins.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        let pin = SegmentPin { segment: self };
        (pin.segment.generation() == generation).then_some(pin)
    }

    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), BlobError> {
        let written = self.file.write_at(&[IoSlice::new(bytes)], offset);
        self.note_written(written, bytes, offset)
    }

    /// The same past the page cache, where that is possible.
    pub(super) fn write_direct(&self, bytes: &[u8], offset: u64) -> Result<(), BlobError> {
        self.note_written(self.file.write_direct_at(bytes, offset), bytes, offset)
    }

    fn note_written(
        &self,
        written: Result<(), DiskError>,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), BlobError> {
        written.map_err(BlobError::of_write)?;
        self.len.fetch_max(offset + bytes.len() as u64, Ordering::AcqRel);
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), BlobError> {
        self.file.sync_data().map_err(BlobError::SyncFailed)
    }

    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), BlobError> {
        self.file.read_at(bytes, offset).map_err(BlobError::Disk)
    }

    /// Reads a range of the body that the pointer names into a buffer that takes at least as many bytes as `buffer` is
    /// asked for; returns where in it they are.
    ///
    /// Whatever does not check out is stale if the segment's use has changed meanwhile, and corrupt if not.
    /// `None` if that takes a wait and `wait` is false.
    pub(super) fn read<B: DerefMut<Target = [u8]>>(
        &self,
        pointer: Pointer,
        blob: BlobId,
        range: Range<u64>,
        wait: bool,
        buffer: impl FnOnce(usize) -> B,
    ) -> Result<Option<(B, Range<usize>)>, BlobError> {
        let read = || {
            self.check_current(pointer)?;
            let start = u64::from(pointer.offset);
            if start.saturating_add(extent::extent_len(pointer.length)) > self.len() {
                return Err(self.corrupt(start, "the extent ends behind the file's end"));
            }
            let mut buffer = buffer(extent::cover_len(&range, pointer.length));
            let filled = self.read_checked(pointer, blob, range, wait, &mut buffer)?;
            Ok(filled.map(|filled| (buffer, filled)))
        };
        read().or_else(|error| self.check_current(pointer).and(Err(error)))
    }

    fn check_current(&self, pointer: Pointer) -> Result<(), BlobError> {
        match self.generation() == pointer.generation {
            true => Ok(()),
            false => Err(BlobError::Stale { pointer }),
        }
    }

    fn read_checked(
        &self,
        pointer: Pointer,
        blob: BlobId,
        range: Range<u64>,
        wait: bool,
        out: &mut [u8],
    ) -> Result<Option<Range<usize>>, BlobError> {
        let start = u64::from(pointer.offset);
        let chunks = extent::chunks_of(&range);
        let out = &mut out[..extent::cover_len(&range, pointer.length)];
        let mut head = [0; extent::EXTENT_HEADER_LEN];
        let mut sums = vec![[0; extent::CHUNK_CRC_LEN as usize]; (chunks.end - chunks.start) as usize];
        // Checksums apart from bodies, which so come to lie side by side. The header lies before the first chunk:
        // one read for both, if that chunk is wanted.
        let mut bufs = Vec::with_capacity(1 + 2 * sums.len());
        let chunks_start = extent::chunk_start(chunks.start, pointer.length);
        let from = if chunks.start == 0 { 0 } else { chunks_start };
        if from == 0 {
            bufs.push(IoSliceMut::new(&mut head));
        }
        for (sum, chunk) in sums.iter_mut().zip(out.chunks_mut(extent::CHUNK_LEN as usize)) {
            bufs.extend([IoSliceMut::new(sum), IoSliceMut::new(chunk)]);
        }
        if !self.fill(&mut bufs, start + from, wait)? {
            return Ok(None);
        }
        if from > 0 && !self.fill(&mut [IoSliceMut::new(&mut head)], start, wait)? {
            return Ok(None);
        }
        let header = ExtentHeader::decode(&head);
        let header = header.ok_or_else(|| self.corrupt(start, "the extent's header"))?;
        if header != (ExtentHeader { blob, pointer }) {
            return Err(BlobError::Stale { pointer });
        }
        let seed = header.chunk_seed();
        let bodies = out.chunks(extent::CHUNK_LEN as usize);
        for ((number, sum), body) in chunks.clone().zip(&sums).zip(bodies) {
            if u32::from_le_bytes(*sum) != seed.crc(number, body) {
                let chunk = extent::chunk_start(number, pointer.length);
                return Err(self.corrupt(start + chunk, "a chunk's checksum"));
            }
        }
        if range.is_empty() {
            return Ok(Some(0..0));
        }
        // The range may begin inside the first chunk and end inside the last.
        let first = chunks.start * extent::CHUNK_LEN;
        Ok(Some((range.start - first) as usize..(range.end - first) as usize))
    }

    /// `false` if that takes a wait and `wait` is false.
    fn fill(&self, bufs: &mut [IoSliceMut<'_>], offset: u64, wait: bool) -> Result<bool, BlobError> {
        if !wait {
            return Ok(self.file.read_resident_vectored_at(bufs, offset));
        }
        self.file.read_vectored_at(bufs, offset).map(|()| true).map_err(BlobError::Disk)
    }

    /// Has the device itself asked for these bytes while `read` runs, and leaves in memory what was there before.
    pub(super) fn uncached<T>(&self, range: Range<u64>, read: impl FnOnce() -> T) -> T {
        let was_resident = self.file.read_resident_at(&mut [0], range.start);
        self.file.forget_cached(range.clone());
        let result = read();
        if !was_resident {
            self.file.forget_cached(range);
        }
        result
    }

    pub(super) fn corrupt(&self, offset: u64, detail: &'static str) -> BlobError {
        BlobError::Corrupt { file: self.id.path(), offset, detail }
    }
}

/// Keeps a segment from being recycled while it lives.
pub struct SegmentPin {
    segment: Arc<Segment>,
}

impl SegmentPin {
    /// The segment.
    pub fn segment(&self) -> SegmentId {
        self.segment.id
    }

    pub(super) fn pinned(&self) -> &Arc<Segment> {
        &self.segment
    }
}

impl std::fmt::Debug for SegmentPin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentPin({})", self.segment.id.0)
    }
}

impl Clone for SegmentPin {
    fn clone(&self) -> SegmentPin {
        // The clone needs no judgement: this pin keeps the segment as it is.
        self.segment.pins.fetch_add(1, Ordering::AcqRel);
        SegmentPin { segment: self.segment.clone() }
    }
}

impl Drop for SegmentPin {
    fn drop(&mut self) {
        self.segment.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A pin that stands for staged bytes: while it lives, a start must look into the segment itself for what the
/// tables do not name.
pub(crate) struct StagePin {
    pin: SegmentPin,
}

impl StagePin {
    pub(super) fn new(pin: SegmentPin) -> StagePin {
        pin.segment.staged.fetch_add(1, Ordering::AcqRel);
        StagePin { pin }
    }

    /// A pin for a reader.
    pub(crate) fn for_reading(&self) -> SegmentPin {
        self.pin.clone()
    }

    pub(super) fn segment(&self) -> &Segment {
        &self.pin.segment
    }
}

impl Clone for StagePin {
    fn clone(&self) -> StagePin {
        StagePin::new(self.pin.clone())
    }
}

impl Drop for StagePin {
    fn drop(&mut self) {
        self.pin.segment.staged.fetch_sub(1, Ordering::AcqRel);
    }
}
