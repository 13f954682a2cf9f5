//! All segments of a data directory: which file is in which use, which are free.

use super::extent::{self, BLOCK, EXTENT_ALIGN, ExtentHeader};
use super::lane::Lanes;
use super::places::Places;
use super::segment::{Segment, SegmentPin, StagePin};
use super::spill::{SpillWriter, Tail};
use super::{BlobError, BlobId, DIR, Generation, PIECE_BYTES_MAX, Pointer, SegmentId, SegmentUsage};
use crate::io::Disk;
use crate::io::buffers::ReadBuffers;
use crate::mutation::BLOCK_BYTES;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Extents of [`BLOCK_BYTES`] that the usual segment holds, and the shortest one: what can be given up lies in such, so
/// that nothing of a segment stays empty behind them.
const SEGMENT_BLOCKS: u64 = 32;
const SEGMENT_BLOCKS_MIN: u64 = 2;

/// Settings of a segment store.
#[derive(Clone, Debug)]
pub struct SegmentConfig {
    /// Length of a segment. Larger ones mean fewer files and longer waits until one is dead as a whole.
    pub segment_bytes: u64,
    /// The most that free segments may take; more are removed.
    pub spare_bytes: u64,
    /// The longest piece that a staged body is cut into, at most [`super::PIECE_BYTES_MAX`]; what can be given up lies in
    /// shorter ones ([`crate::mutation::BLOCK_BYTES`]). Longer ones mean
    /// fewer rows and more room lost at a segment's end.
    pub piece_bytes: u64,
    /// A random number from the operating system, a new one for every open: generations come from it.
    pub nonce: u64,
}

impl SegmentConfig {
    /// The usual settings.
    pub fn new(nonce: u64) -> SegmentConfig {
        SegmentConfig::of_blocks(SEGMENT_BLOCKS, nonce)
    }

    /// The settings of a store of at most so many bytes: segments short enough that many of them fill it, because
    /// room is made by the segment.
    pub fn for_capacity(nonce: u64, capacity_bytes: u64) -> SegmentConfig {
        let blocks = (capacity_bytes / 16 / BLOCK_BYTES).clamp(SEGMENT_BLOCKS_MIN, SEGMENT_BLOCKS);
        SegmentConfig::of_blocks(blocks, nonce)
    }

    fn of_blocks(blocks: u64, nonce: u64) -> SegmentConfig {
        let segment_bytes = BLOCK + blocks * extent::extent_len(BLOCK_BYTES).next_multiple_of(BLOCK);
        // Four such pieces, with their checksums and paddings, fill a segment; in a short one, blocks do.
        let piece_bytes = (blocks * BLOCK_BYTES / 4 - extent::CHUNK_LEN).max(BLOCK_BYTES);
        SegmentConfig { segment_bytes, spare_bytes: 2 * segment_bytes, piece_bytes, nonce }
    }

    /// Checks the ranges.
    pub fn validate(&self) -> Result<(), BlobError> {
        if !self.segment_bytes.is_multiple_of(BLOCK) || !(16 << 10..=1 << 30).contains(&self.segment_bytes) {
            let text = "segment_bytes must be a multiple of 4096 between 16 KiB and 1 GiB";
            return Err(BlobError::Config(text.to_owned()));
        }
        if !(1..=PIECE_BYTES_MAX).contains(&self.piece_bytes) || self.piece_bytes > self.body_len_max() {
            let text = "piece_bytes must be at most 32 MiB and fit a segment";
            return Err(BlobError::Config(text.to_owned()));
        }
        Ok(())
    }

    /// The longest body that a segment takes.
    fn body_len_max(&self) -> u64 {
        let room = self.segment_bytes - BLOCK;
        let chunks = room.div_ceil(extent::CHUNK_LEN);
        room - extent::EXTENT_HEADER_LEN as u64 - chunks * extent::CHUNK_CRC_LEN
    }
}

/// The segments of one data directory. Calls block; reads may come from any thread.
pub struct SegmentStore {
    disk: Arc<dyn Disk>,
    config: SegmentConfig,
    /// Held for a look-up only; changed when files come and go.
    pub(super) segments: RwLock<BTreeMap<SegmentId, Arc<Segment>>>,
    /// Taken before `free`.
    tail: Mutex<Tail>,
    free: Mutex<FreeSegments>,
    /// Bytes of the free segments.
    spare: AtomicU64,
    pub(super) lanes: Lanes,
    pub(super) places: Places,
    buffers: ReadBuffers,
}

struct FreeSegments {
    segments: Vec<Arc<Segment>>,
    next_id: u32,
    /// Counts the generations of this run.
    generations: u64,
    /// The number of the last use of any segment.
    opened: u64,
}

impl FreeSegments {
    /// The one that takes most without taking more of the disk.
    fn take_longest(&mut self) -> Option<Arc<Segment>> {
        let at = (0..self.segments.len()).max_by_key(|at| self.segments[*at].len())?;
        Some(self.segments.swap_remove(at))
    }

    fn take_shortest(&mut self) -> Option<Arc<Segment>> {
        let at = (0..self.segments.len()).min_by_key(|at| self.segments[*at].len())?;
        Some(self.segments.swap_remove(at))
    }
}

/// An extent that a scan came across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundExtent {
    /// Whose body it is.
    pub blob: BlobId,
    /// Where it is. The body was not checked; a read does that.
    pub pointer: Pointer,
}

impl SegmentStore {
    /// Opens the segments of a data directory.
    ///
    /// `in_use` are the rows that the caller's tables hold durably. One that is in use and is not there, or is
    /// not what the row says, refuses the start. Every other segment, and those in `to_scan`, are looked through
    /// for staged extents, which become entries of the place map; without any a segment is free.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: SegmentConfig,
        in_use: &[SegmentUsage],
        to_scan: &[SegmentId],
    ) -> Result<SegmentStore, BlobError> {
        config.validate()?;
        disk.create_dir(DIR).map_err(BlobError::Disk)?;
        // The process before may have died between making a file and syncing its name, and a file that is used
        // again counts as one that has its name.
        disk.sync_dir(DIR).map_err(BlobError::SyncFailed)?;
        let wanted: BTreeMap<SegmentId, Generation> =
            in_use.iter().map(|usage| (usage.segment, usage.generation)).collect();
        let store = SegmentStore {
            disk,
            config,
            segments: RwLock::default(),
            tail: Mutex::default(),
            free: Mutex::new(FreeSegments { segments: Vec::new(), next_id: 0, generations: 0, opened: 0 }),
            spare: AtomicU64::new(0),
            lanes: Lanes::default(),
            places: Places::default(),
            buffers: ReadBuffers::default(),
        };
        for name in store.disk.list(DIR).map_err(BlobError::Disk)? {
            let Some(id) = SegmentId::of_name(&name) else { continue };
            let scanned = to_scan.contains(&id) || !wanted.contains_key(&id);
            store.open_segment(id, wanted.get(&id).copied(), scanned)?;
        }
        if let Some(id) = wanted.keys().find(|id| !store.segments.read().contains_key(id)) {
            let detail = "the tables name it, but it is not there";
            return Err(BlobError::Corrupt { file: id.path(), offset: 0, detail });
        }
        store.trim_spares(&mut store.free.lock());
        Ok(store)
    }

    fn open_segment(
        &self,
        id: SegmentId,
        wanted: Option<Generation>,
        scanned: bool,
    ) -> Result<(), BlobError> {
        let file = self.disk.open(&id.path()).map_err(BlobError::Disk)?;
        let len = file.len().map_err(BlobError::Disk)?;
        let segment = Arc::new(Segment::new(id, file, len, wanted.unwrap_or_default()));
        let header = read_header(&segment)?;
        let found = header.filter(|(found, ..)| *found == id);
        let opened = found.map_or(0, |(_, _, opened)| opened);
        let found = found.map(|(_, generation, _)| generation);
        if wanted.is_some() && found != wanted {
            return Err(segment.corrupt(0, "the header is not that of the segment that the tables name"));
        }
        segment.set_named(wanted.is_some());
        segment.set_generation(found.unwrap_or_default(), opened);
        if scanned && found.is_some() {
            scan_segment(&segment, &mut |FoundExtent { blob, pointer }| {
                if blob.is_staged()
                    && let Some(pin) = segment.clone().pin(pointer.generation)
                {
                    self.places.insert(blob, pointer, StagePin::new(pin));
                }
            })?;
        }
        let mut free = self.free.lock();
        free.next_id = free.next_id.max(id.0 + 1);
        free.opened = free.opened.max(opened);
        if found.is_none() || segment.is_unused() {
            segment.retire()?;
            free.segments.push(segment.clone());
        }
        self.segments.write().insert(id, segment);
        Ok(())
    }

    /// Begins to write bodies; waits while another spill runs.
    pub fn spill(&self) -> SpillWriter<'_> {
        SpillWriter::new(self, self.tail.lock())
    }

    /// Reads a range of a body and checks every chunk it touches. `None` if that takes a wait for a disk and
    /// `wait` is false.
    ///
    /// [`BlobError::Stale`] means that the row must be read again; a pin taken before the row's read
    /// transaction ended rules it out.
    pub fn read(
        &self,
        pointer: Pointer,
        blob: BlobId,
        range: Range<u64>,
        wait: bool,
    ) -> Result<Option<Vec<u8>>, BlobError> {
        let segment = self.segment_of(pointer, &range)?;
        let read = segment.read(pointer, blob, range, wait, |len| vec![0; len])?;
        Ok(read.map(|(mut bytes, filled)| {
            bytes.truncate(filled.end);
            bytes.drain(..filled.start);
            bytes
        }))
    }

    /// The same for bytes that are only passed on.
    pub(crate) fn read_shared(
        &self,
        pointer: Pointer,
        blob: BlobId,
        range: Range<u64>,
        wait: bool,
    ) -> Result<Option<Bytes>, BlobError> {
        let segment = self.segment_of(pointer, &range)?;
        let read = segment.read(pointer, blob, range, wait, |len| self.buffers.take(len))?;
        Ok(read.map(|(buffer, filled)| buffer.into_bytes(filled)))
    }

    /// The buffers of long reads.
    pub(crate) fn buffers(&self) -> &ReadBuffers {
        &self.buffers
    }

    fn segment_of(&self, pointer: Pointer, range: &Range<u64>) -> Result<Arc<Segment>, BlobError> {
        if range.start > range.end || range.end > pointer.length {
            let (start, end, length) = (range.start, range.end, pointer.length);
            return Err(BlobError::OutOfRange { start, end, length });
        }
        self.segment(pointer)
    }

    /// Keeps the pointer's segment from being recycled while the pin lives.
    pub fn pin(&self, pointer: Pointer) -> Result<SegmentPin, BlobError> {
        self.segment(pointer)?.pin(pointer.generation).ok_or(BlobError::Stale { pointer })
    }

    /// The same for a use of a segment; `None` if that is over.
    pub(crate) fn pin_use(&self, segment: SegmentId, generation: Generation) -> Option<SegmentPin> {
        self.segments.read().get(&segment).cloned()?.pin(generation)
    }

    /// Frees a segment whose row, with no live bytes, the caller has durably removed. Pointers into it are
    /// stale from now on. [`BlobError::InUse`] while it is pinned: [`SegmentStore::free_unused`] frees it later.
    ///
    /// Does nothing if the segment is in another use by now.
    pub fn recycle(&self, segment: SegmentId, generation: Generation) -> Result<(), BlobError> {
        // Nothing more is spilled into it, whether it can go now or later.
        let mut tail = self.tail.lock();
        let Some(found) = self.segments.read().get(&segment).cloned() else { return Ok(()) };
        if found.generation() != generation {
            return Ok(());
        }
        tail.let_go_of(&found);
        found.set_named(false);
        found.retire()?;
        let mut free = self.free.lock();
        free.segments.push(found);
        self.trim_spares(&mut free);
        Ok(())
    }

    /// Frees the segments that neither the tables nor a pin need: what was staged there was given up, or the
    /// last reader of a dead one has left.
    pub fn free_unused(&self) {
        // Under this lock none of them begins a new use. And whoever names a segment has its bytes pinned until
        // then: one that is unused here stays so.
        let mut free = self.free.lock();
        let unused: Vec<Arc<Segment>> = {
            let segments = self.segments.read();
            segments.values().filter(|segment| segment.is_unused()).cloned().collect()
        };
        free.segments.extend(unused.into_iter().filter(|segment| segment.retire().is_ok()));
        self.trim_spares(&mut free);
    }

    /// The tables are about to name this segment: only [`SegmentStore::recycle`] frees it from now on. Its
    /// bytes must be pinned. Whether it was not named before.
    pub(crate) fn set_named(&self, segment: SegmentId) -> bool {
        self.segments.read().get(&segment).is_some_and(|segment| !segment.set_named(true))
    }

    /// The tables do not name it after all.
    pub(crate) fn unset_named(&self, segment: SegmentId) {
        if let Some(segment) = self.segments.read().get(&segment) {
            segment.set_named(false);
        }
    }

    /// Where a staged blob lies that no checkpoint names yet, pinned.
    pub(crate) fn staged(&self, blob: BlobId) -> Option<(Pointer, SegmentPin)> {
        self.places.pinned(blob)
    }

    /// The same without a pin, for the checkpoint, which alone ends the entries of committed blobs.
    pub(crate) fn staged_pointer(&self, blob: BlobId) -> Option<Pointer> {
        self.places.pointer_of(blob)
    }

    /// Ends entries of the place map: the tables name these blobs now, or nobody ever will. Whether there was
    /// any of them.
    pub(crate) fn forget_staged(&self, blobs: &[BlobId]) -> bool {
        self.places.forget(blobs)
    }

    /// The blobs in the place map.
    pub(crate) fn staged_blobs(&self) -> Vec<BlobId> {
        self.places.blobs()
    }

    /// Bytes of the extents in the place map.
    pub(crate) fn staged_bytes(&self) -> u64 {
        self.places.bytes()
    }

    /// How many segments are not free.
    #[cfg(test)]
    pub(crate) fn segments_in_use(&self) -> usize {
        let segments = self.segments.read();
        segments.values().filter(|segment| segment.generation() != Generation::default()).count()
    }

    /// Bytes of the free segments, which take new bytes without taking more of the disk.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.spare.load(Ordering::Relaxed)
    }

    /// Bytes of the files that the tables name.
    pub(crate) fn named_bytes(&self) -> u64 {
        let segments = self.segments.read();
        segments.values().filter(|segment| segment.is_named()).map(|segment| segment.len()).sum()
    }

    /// The longest piece of a staged body.
    pub(crate) fn piece_bytes(&self) -> u64 {
        self.config.piece_bytes
    }

    /// Length of a segment's file.
    pub(crate) fn file_bytes(&self, segment: SegmentId) -> u64 {
        self.segments.read().get(&segment).map_or(0, |segment| segment.len())
    }

    /// The segments that the tables name and nobody writes to any more, oldest first. Waits while a spill runs.
    pub(crate) fn settled(&self) -> Vec<(SegmentId, Generation)> {
        let tail = self.tail.lock();
        let segments = self.segments.read();
        let settled =
            segments.values().filter(|it| it.is_named() && it.staged() == 0 && !tail.is_in(it.as_ref()));
        let mut settled: Vec<_> =
            settled.map(|segment| (segment.opened(), segment.id, segment.generation())).collect();
        settled.retain(|(_, _, generation)| *generation != Generation::default());
        settled.sort_unstable();
        settled.into_iter().map(|(_, id, generation)| (id, generation)).collect()
    }

    /// A blob that the tables know, and that has got a whole and synced extent again: it is looked for in the
    /// place map from now on.
    pub(crate) fn list(&self, blob: BlobId, pointer: Pointer, pin: StagePin) {
        self.places.insert(blob, pointer, pin);
    }

    /// The extents of a segment in the order of their places, from what they say themselves. Those of
    /// earlier uses are not shown; those that were never finished may be.
    pub fn scan(&self, segment: SegmentId, found: &mut dyn FnMut(FoundExtent)) -> Result<(), BlobError> {
        let Some(segment) = self.segments.read().get(&segment).cloned() else { return Ok(()) };
        let Some(_pin) = segment.clone().pin(segment.generation()) else { return Ok(()) };
        scan_segment(&segment, found)
    }

    /// Runs `read`, whose reads of this range of a segment ask the device and not the page cache.
    pub(crate) fn uncached<T>(&self, segment: SegmentId, range: Range<u64>, read: impl FnOnce() -> T) -> T {
        let segment = self.segments.read().get(&segment).cloned();
        match segment {
            Some(segment) => segment.uncached(range, read),
            None => read(),
        }
    }

    /// The longest body that a segment takes.
    pub fn body_len_max(&self) -> u64 {
        self.config.body_len_max()
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.config.segment_bytes
    }

    fn segment(&self, pointer: Pointer) -> Result<Arc<Segment>, BlobError> {
        self.segments.read().get(&pointer.segment).cloned().ok_or(BlobError::Stale { pointer })
    }

    /// A segment in a new use, its header on disk. It is unused again once nobody has it pinned, unless the tables
    /// name it by then.
    pub(super) fn take_free(&self) -> Result<SegmentPin, BlobError> {
        let none_free = self.free.lock().segments.is_empty();
        if none_free {
            self.free_unused();
        }
        let mut free = self.free.lock();
        free.generations += 1;
        free.opened += 1;
        let generation = generation(self.config.nonce, free.generations);
        let segment = match free.take_longest() {
            Some(segment) => segment,
            None => {
                let id = SegmentId(free.next_id);
                free.next_id += 1;
                let file = self.disk.create(&id.path()).map_err(BlobError::of_write)?;
                let segment = Segment::new(id, file, 0, Generation::default());
                segment.retire()?;
                Arc::new(segment)
            }
        };
        let fresh = segment.len() == 0;
        if let Err(error) = segment.begin(generation, free.opened) {
            free.segments.push(segment);
            return Err(error);
        }
        if fresh {
            self.disk.sync_dir(DIR).map_err(BlobError::SyncFailed)?;
        }
        self.note_spare(&free);
        self.segments.write().insert(segment.id, segment.clone());
        // Under the lock that whoever looks for unused segments takes first.
        Ok(segment.pin(generation).expect("the use has just begun"))
    }

    /// Takes back a segment that was taken for a spill that came to nothing.
    pub(super) fn give_back(&self, pin: SegmentPin) {
        let segment = pin.pinned().clone();
        drop(pin);
        let mut free = self.free.lock();
        // Somebody has it pinned: it is unused when they let go of it.
        if segment.retire().is_ok() {
            free.segments.push(segment);
            self.trim_spares(&mut free);
        }
    }

    /// Gives the bytes of all free segments back to the disk.
    pub(crate) fn remove_spares(&self) {
        self.trim_to(&mut self.free.lock(), 0);
    }

    fn trim_spares(&self, free: &mut FreeSegments) {
        self.trim_to(free, self.config.spare_bytes);
    }

    fn trim_to(&self, free: &mut FreeSegments, most: u64) {
        let mut bytes: u64 = free.segments.iter().map(|segment| segment.len()).sum();
        while bytes > most
            && let Some(segment) = free.take_shortest()
        {
            bytes -= segment.len();
            self.segments.write().remove(&segment.id);
            if let Err(error) = self.disk.remove(&segment.id.path()) {
                tracing::warn!(%error, "a free segment stays behind until the next start");
            }
        }
        self.note_spare(free);
    }

    fn note_spare(&self, free: &FreeSegments) {
        self.spare.store(free.segments.iter().map(|segment| segment.len()).sum(), Ordering::Relaxed);
    }
}

fn read_header(segment: &Segment) -> Result<Option<(SegmentId, Generation, u64)>, BlobError> {
    let mut header = [0; extent::SEGMENT_HEADER_LEN];
    if segment.len() < BLOCK {
        return Ok(None);
    }
    segment.read_at(&mut header, 0)?;
    Ok(extent::decode_segment_header(&header))
}

fn scan_segment(segment: &Segment, found: &mut dyn FnMut(FoundExtent)) -> Result<(), BlobError> {
    let generation = segment.generation();
    let mut window = Window { segment, start: 0, bytes: Vec::new() };
    let mut offset = BLOCK;
    while offset + extent::EXTENT_HEADER_LEN as u64 <= segment.len() {
        let header = ExtentHeader::decode(window.at(offset)?);
        let header = header.filter(|header| {
            let pointer = header.pointer;
            (pointer.segment, pointer.generation) == (segment.id, generation)
                && u64::from(pointer.offset) == offset
                && offset.saturating_add(extent::extent_len(pointer.length)) <= segment.len()
        });
        offset += match header {
            Some(ExtentHeader { blob, pointer }) => {
                found(FoundExtent { blob, pointer });
                extent::extent_len(pointer.length).next_multiple_of(EXTENT_ALIGN)
            }
            // Padding, a torn extent or an earlier use: the next one may begin anywhere.
            None => EXTENT_ALIGN,
        };
    }
    Ok(())
}

/// Never zero, and never the same twice but by a chance of 2^-64 per pair.
fn generation(nonce: u64, count: u64) -> Generation {
    let mut bits = nonce.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Generation((bits ^ (bits >> 31)).max(1))
}

/// A part of a segment in memory, for a scan.
struct Window<'s> {
    segment: &'s Segment,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    const LEN: u64 = 1 << 20;

    /// The bytes from `offset` on: at least an extent header's, if the file has them.
    fn at(&mut self, offset: u64) -> Result<&[u8], BlobError> {
        let wanted_end = offset + extent::EXTENT_HEADER_LEN as u64;
        if offset < self.start || wanted_end > self.start + self.bytes.len() as u64 {
            self.start = offset;
            self.bytes.resize(Self::LEN.min(self.segment.len() - offset) as usize, 0);
            self.segment.read_at(&mut self.bytes, offset)?;
        }
        Ok(&self.bytes[(offset - self.start) as usize..])
    }
}
