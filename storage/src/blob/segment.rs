//! One segment's file, which use of it is current, and who reads from it.

use super::extent::{self, BLOCK, ExtentHeader};
use super::{BlobError, BlobId, Generation, Pointer, SegmentId};
use crate::io::DiskFile;
use std::io::IoSlice;
use std::ops::Range;
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
        self.file.write_at(&[IoSlice::new(bytes)], offset).map_err(BlobError::of_write)?;
        self.len.fetch_max(offset + bytes.len() as u64, Ordering::AcqRel);
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), BlobError> {
        self.file.sync_data().map_err(BlobError::SyncFailed)
    }

    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), BlobError> {
        self.file.read_at(bytes, offset).map_err(BlobError::Disk)
    }

    /// Reads a range of the body that the pointer names.
    ///
    /// Whatever does not check out is stale if the segment's use has changed meanwhile, and corrupt if not.
    /// `None` if that takes a wait and `wait` is false.
    pub(super) fn read(
        &self,
        pointer: Pointer,
        blob: BlobId,
        range: Range<u64>,
        wait: bool,
    ) -> Result<Option<Vec<u8>>, BlobError> {
        let read = || {
            self.check_current(pointer)?;
            self.read_checked(pointer, blob, range, wait)
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
    ) -> Result<Option<Vec<u8>>, BlobError> {
        let start = u64::from(pointer.offset);
        if start.saturating_add(extent::extent_len(pointer.length)) > self.len() {
            return Err(self.corrupt(start, "the extent ends behind the file's end"));
        }
        let chunks = extent::chunks_of(&range);
        let chunks_start = extent::chunk_start(chunks.start, pointer.length);
        let chunks_end = extent::chunk_start(chunks.end, pointer.length);
        // The header lies before the first chunk: one read for both, if that chunk is wanted.
        let mut head = [0; extent::EXTENT_HEADER_LEN];
        let skipped = if chunks.start == 0 { head.len() } else { 0 };
        let mut bytes = vec![0; (chunks_end - chunks_start) as usize + skipped];
        if !self.fill(&mut bytes, start + chunks_start - skipped as u64, wait)? {
            return Ok(None);
        }
        let header = match skipped {
            0 => {
                if !self.fill(&mut head, start, wait)? {
                    return Ok(None);
                }
                ExtentHeader::decode(&head)
            }
            _ => ExtentHeader::decode(&bytes),
        };
        let header = header.ok_or_else(|| self.corrupt(start, "the extent's header"))?;
        if header != (ExtentHeader { blob, pointer }) {
            return Err(BlobError::Stale { pointer });
        }
        self.strip(&mut bytes, skipped, &header, chunks.clone())?;
        // Now the bytes of whole chunks; the range may begin inside the first and end inside the last.
        let first = chunks.start * extent::CHUNK_LEN;
        bytes.truncate((range.end - first) as usize);
        bytes.drain(..bytes.len().min((range.start - first) as usize));
        Ok(Some(bytes))
    }

    /// `false` if that takes a wait and `wait` is false.
    fn fill(&self, bytes: &mut [u8], offset: u64, wait: bool) -> Result<bool, BlobError> {
        if !wait {
            return Ok(self.file.read_resident_at(bytes, offset));
        }
        self.read_at(bytes, offset).map(|()| true)
    }

    /// Checks the chunks that follow `skipped` bytes and moves their bodies together to the front.
    fn strip(
        &self,
        bytes: &mut Vec<u8>,
        skipped: usize,
        header: &ExtentHeader,
        chunks: Range<u64>,
    ) -> Result<(), BlobError> {
        let seed = header.chunk_seed();
        let (mut from, mut to) = (skipped, 0);
        for number in chunks {
            let body_start = from + extent::CHUNK_CRC_LEN as usize;
            let body_len = extent::CHUNK_LEN.min(header.pointer.length - number * extent::CHUNK_LEN) as usize;
            let body = body_start..body_start + body_len;
            let (crc, _) = extent::split_u32(&bytes[from..]);
            if crc != seed.crc(number, &bytes[body.clone()]) {
                let chunk = extent::chunk_start(number, header.pointer.length);
                return Err(self.corrupt(u64::from(header.pointer.offset) + chunk, "a chunk's checksum"));
            }
            from = body.end;
            bytes.copy_within(body, to);
            to += body_len;
        }
        bytes.truncate(to);
        Ok(())
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
