//! Staging: extents whose length is known before their bytes, written side by side into an open segment while
//! the bytes arrive.
//!
//! Owns the open segment of each lane, and how a piece's bytes become an extent, buffer by buffer. Does not own
//! threads (`writers.rs`), nor the place map's meaning (`places.rs`).
//!
//! Must hold:
//! - A piece begins on a block and is padded to one; a block is written once (PITFALLS 4).
//! - A reserved extent of a new body is in the place map before anybody else can open the lane's next segment, and its
//!   segment counts it as staged: what a checkpoint does not name, the next start finds (PITFALLS 12).
//!
//! A crash leaves extents that are whole, torn or never begun; only the whole ones can be named by the log,
//! because a body is synced before it is submitted.

use super::extent::{self, BLOCK, CHUNK_CRC_LEN, CHUNK_LEN, ChunkCrc, ChunkSeed, ExtentHeader};
use super::segment::StagePin;
use super::store::SegmentStore;
use super::{BlobError, BlobId, Pointer, SegmentId};
use crate::io::buffers::WriteBuffer;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Which open segment a body goes to: a short body's sync must not wait for a long one's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Bodies below [`LONG_BODY_BYTES`].
    Short,
    /// The rest.
    Long,
}

/// Bodies from this length on are long.
const LONG_BODY_BYTES: u64 = 1 << 20;

impl Lane {
    /// The lane of a body.
    pub(crate) fn of_body(len: u64) -> Lane {
        if len < LONG_BODY_BYTES { Lane::Short } else { Lane::Long }
    }
}

/// The open segments.
#[derive(Default)]
pub(super) struct Lanes {
    lanes: [LaneState; 2],
}

#[derive(Default)]
struct LaneState {
    /// Held for arithmetic only.
    open: Mutex<Option<OpenLane>>,
    /// Held while the next segment is opened: one at a time.
    opening: Mutex<()>,
}

struct OpenLane {
    pin: StagePin,
    /// The next extent's place.
    end: u64,
}

impl Lanes {
    fn of(&self, lane: Lane) -> &LaneState {
        &self.lanes[lane as usize]
    }
}

/// Room for one piece, in the place map already.
pub(crate) struct Room {
    pin: StagePin,
    header: ExtentHeader,
}

impl Room {
    /// Bytes of the extent with its padding.
    pub(crate) fn bytes(&self) -> u64 {
        self.header.pointer.bytes_on_disk().next_multiple_of(BLOCK)
    }

    /// Where it is.
    pub(crate) fn pointer(&self) -> Pointer {
        self.header.pointer
    }

    /// The segment.
    pub(crate) fn pin(&self) -> &StagePin {
        &self.pin
    }
}

impl SegmentStore {
    /// Reserves an extent for a piece in the open segment, without any I/O; `None` if a segment must be
    /// opened first. `listed`: whether it enters the place map at once; one that does not is the caller's to pin.
    pub(crate) fn try_reserve(&self, lane: Lane, blob: BlobId, length: u64, listed: bool) -> Option<Room> {
        let len = extent::extent_len(length).next_multiple_of(BLOCK);
        let mut guard = self.lanes.of(lane).open.lock();
        let open = guard.as_mut().filter(|open| open.end + len <= self.segment_bytes())?;
        let pin = open.pin.clone();
        let segment = pin.segment();
        let generation = segment.generation();
        let pointer = Pointer { segment: segment.id, offset: open.end as u32, generation, length };
        open.end += len;
        if listed {
            self.places.insert(blob, pointer, pin.clone());
        }
        Some(Room { pin, header: ExtentHeader { blob, pointer } })
    }

    /// The same; opens a segment where needed. Blocks.
    pub(crate) fn reserve(
        &self,
        lane: Lane,
        blob: BlobId,
        length: u64,
        listed: bool,
    ) -> Result<Room, BlobError> {
        let length_max = self.body_len_max();
        if length > length_max {
            return Err(BlobError::TooLarge { length, length_max });
        }
        loop {
            if let Some(room) = self.try_reserve(lane, blob, length, listed) {
                return Ok(room);
            }
            let _opening = self.lanes.of(lane).opening.lock();
            if let Some(room) = self.try_reserve(lane, blob, length, listed) {
                return Ok(room);
            }
            let pin = StagePin::new(self.take_free()?);
            *self.lanes.of(lane).open.lock() = Some(OpenLane { pin, end: BLOCK });
        }
    }

    /// The segments that a start must look into for staged extents if a checkpoint commits that names, or drops,
    /// `settled` of them (a number by segment). One that is opened from here on the tables do not name.
    pub(crate) fn to_scan(&self, settled: &BTreeMap<SegmentId, u64>) -> Vec<SegmentId> {
        let segments = self.segments.read();
        let unsettled = segments
            .values()
            .filter(|segment| segment.staged() > settled.get(&segment.id).copied().unwrap_or_default());
        unsettled.map(|segment| segment.id).collect()
    }
}

/// Makes an extent of the bytes of a piece as they arrive.
pub(crate) struct PieceEncoder {
    room: Room,
    seed: ChunkSeed,
    /// Bytes of the piece taken.
    taken: u64,
    /// The chunk being taken: its checksum so far, and where in the buffer it goes.
    chunk: Option<(ChunkCrc, usize)>,
    /// What is not cut off yet; begins on a block of the file.
    buffer: WriteBuffer,
    /// Where in the file the buffer begins.
    buffer_at: u64,
}

impl PieceEncoder {
    /// `buffer` is empty.
    pub(crate) fn new(room: Room, mut buffer: WriteBuffer) -> PieceEncoder {
        let seed = room.header.chunk_seed();
        let buffer_at = u64::from(room.header.pointer.offset);
        buffer.extend_from_slice(&room.header.encode());
        PieceEncoder { room, seed, taken: 0, chunk: None, buffer, buffer_at }
    }

    /// The room being filled.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    fn length(&self) -> u64 {
        self.room.header.pointer.length
    }

    /// Takes bytes up to the end of the chunk; returns how many.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let in_chunk = self.taken % CHUNK_LEN;
        let chunk_left = (CHUNK_LEN - in_chunk).min(self.length() - self.taken);
        let bytes = &bytes[..bytes.len().min(chunk_left as usize)];
        if bytes.is_empty() {
            return 0;
        }
        let (mut crc, crc_at) = self.chunk.take().unwrap_or_else(|| {
            let crc_at = self.buffer.len();
            self.buffer.extend_from_slice(&[0; CHUNK_CRC_LEN as usize]);
            (self.seed.begin(self.taken / CHUNK_LEN), crc_at)
        });
        crc.update(bytes);
        self.buffer.extend_from_slice(bytes);
        self.taken += bytes.len() as u64;
        if bytes.len() as u64 == chunk_left {
            let end = crc_at + CHUNK_CRC_LEN as usize;
            self.buffer[crc_at..end].copy_from_slice(&crc.finish().to_le_bytes());
        } else {
            self.chunk = Some((crc, crc_at));
        }
        bytes.len()
    }

    /// Whether all bytes of the piece were taken.
    pub(crate) fn is_complete(&self) -> bool {
        self.taken == self.length()
    }

    /// Bytes that [`PieceEncoder::cut`] would give now: none inside a chunk.
    pub(crate) fn ready(&self) -> usize {
        match self.chunk {
            Some(_) => 0,
            None if self.is_complete() => self.buffer.len().next_multiple_of(BLOCK as usize),
            None => self.buffer.len() - self.buffer.len() % BLOCK as usize,
        }
    }

    /// Cuts whole blocks off: the bytes and where in the file they go. What is left moves to `next`, an empty
    /// buffer.
    pub(crate) fn cut(&mut self, mut next: WriteBuffer) -> (WriteBuffer, u64) {
        let whole = self.ready();
        if self.buffer.len() < whole {
            self.buffer.resize(whole);
        }
        next.extend_from_slice(&self.buffer[whole..]);
        self.buffer.resize(whole);
        let at = self.buffer_at;
        self.buffer_at += whole as u64;
        (std::mem::replace(&mut self.buffer, next), at)
    }

    /// Bytes that the buffer will have taken when the piece is complete.
    pub(crate) fn bytes_left(&self) -> u64 {
        let end = u64::from(self.room.header.pointer.offset) + extent::extent_len(self.length());
        end.next_multiple_of(BLOCK) - self.buffer_at
    }
}
