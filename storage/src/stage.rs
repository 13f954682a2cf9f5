//! Bodies on their way in: written to segments while they arrive, never held whole.
//!
//! Owns the numbering of staged blobs, the buffers, and when a staged body is given up. Does not own extents and
//! their places (`blob/`), nor what a body means: a mutation that names it makes it an object's.
//!
//! What must hold (PITFALLS 15):
//! - A body belongs to whoever writes it, until a submission that carries it goes into the log. From then on the
//!   log decides: it is given up only once the submission was answered and no row names its blobs.
//! - A body is durable before it can be submitted.
//! - Nothing is given up by age. What an earlier run of the node has staged is given up by `AbortBefore`.
//!
//! Memory: a body holds two buffers of [`BUFFER_BYTES`], and the last ones of pieces that wait for their sync; all bodies
//! together [`FILLING_BYTES_MAX`] and [`IN_FLIGHT_BYTES_MAX`]; when the first is used up, further bodies make do with a
//! chunk of 64 KiB each.
//!
//! A crash leaves extents that the log names, which the next start finds, and others, which it frees.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::blob::{Answer, BlobError, Lane, PieceEncoder, Pointer, SegmentStore, SegmentWriters, StagePin};
use crate::error::{Error, Result};
use crate::io::buffers::WriteBuffer;
use crate::keyspace::Keyspace;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{Table, blob_key};
use crate::mutation::{OBJECT_EXTENTS_MAX, PART_NUMBER_MAX, Payload, StagedPart, StagedParts, piece_bytes};
use crate::object::{BlobId, BucketId};
use crate::store::Shared;

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;
/// Room in a buffer beyond that: a chunk that began before the limit, and padding.
const BUFFER_SLACK: usize = 72 << 10;
/// What bodies may hold in buffers that fill, before new ones get small.
const FILLING_BYTES_MAX: u64 = 32 << 20;
/// Bytes on their way to the disk; bodies wait for a share of it.
const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;
/// Bytes of one share.
const SHARE_BYTES: usize = 4096;
/// Empty buffers kept for the next body.
const SPARE_BUFFERS: usize = 16;
/// Pieces of one body that wait for their sync while the next one arrives.
const SYNCS_BEHIND: usize = 2;

/// What a body will be of: how many pieces it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyOf {
    /// An object.
    Object,
    /// One part of an upload. Few pieces: those of 10,000 parts make one object.
    Part,
    /// A value that may be added to another, or to which others are added. Few pieces: a value with too many is written
    /// anew.
    Value,
}

impl BodyOf {
    fn pieces_max(self) -> usize {
        match self {
            BodyOf::Object => OBJECT_EXTENTS_MAX,
            BodyOf::Part => OBJECT_EXTENTS_MAX / usize::from(PART_NUMBER_MAX),
            BodyOf::Value => 16,
        }
    }
}

/// Which run of which node stages.
#[derive(Debug, Clone, Copy)]
struct Run {
    node: u16,
    boot: u64,
}

/// See the file's head. One per store.
pub(crate) struct Stager {
    segments: Arc<SegmentStore>,
    writers: SegmentWriters,
    /// Set when the log has said which run this is; nothing is staged before.
    run: OnceLock<Run>,
    next: AtomicU64,
    in_flight: Arc<Semaphore>,
    /// Bytes of buffers that fill.
    filling: AtomicU64,
    /// Announced bytes of bodies under way that have no extent yet.
    promised: AtomicU64,
    spare: Mutex<Vec<WriteBuffer>>,
}

impl Stager {
    /// `threads`: as [`SegmentWriters::start`].
    pub(crate) fn start(segments: Arc<SegmentStore>, threads: usize) -> std::io::Result<Stager> {
        let writers = SegmentWriters::start(segments.clone(), threads)?;
        Ok(Stager {
            segments,
            writers,
            run: OnceLock::new(),
            next: AtomicU64::new(1),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX / SHARE_BYTES)),
            filling: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            spare: Mutex::default(),
        })
    }

    /// Takes no more bodies. Blocks until nothing writes to the segments any more.
    pub(crate) fn stop(&self) {
        self.writers.stop();
    }

    /// The log has given this run its number; everything before it is applied. Gives up what earlier runs have
    /// staged and no row names.
    pub(crate) fn begin_run(&self, node: u16, boot: u64, keyspace: &Keyspace) {
        self.settle(keyspace, &self.segments.staged_blobs());
        let _ = self.run.set(Run { node, boot });
    }

    /// A body of `len` bytes, in the longest pieces. Its blobs are counted from the first byte on.
    pub(crate) fn begin(self: &Arc<Self>, len: u64) -> Result<BodyWriter> {
        let run = *self.run.get().ok_or(Error::Unavailable("this node has not started yet"))?;
        self.promised.fetch_add(len, Relaxed);
        let body = StagedBody { stager: self.clone(), len, blobs: Vec::new(), parts: Vec::new() };
        Ok(BodyWriter {
            run,
            lane: Lane::of_body(len),
            piece_bytes: self.segments.piece_bytes(),
            body,
            taken: 0,
            promised: len,
            piece: None,
            filling: 0,
            writing: None,
            syncing: VecDeque::new(),
            failed: None,
            again: None,
            within: None,
        })
    }

    /// Another extent for a blob of `len` bytes, at most what a segment takes: to be ended with
    /// [`BodyWriter::finish_extent`]. Nobody finds it before; dropped, it is garbage.
    pub(crate) fn begin_extent(self: &Arc<Self>, blob: BlobId, len: u64) -> Result<BodyWriter> {
        let mut writer = self.begin(len)?;
        writer.again = Some(Again { blob, place: None });
        Ok(writer)
    }

    /// Blobs whose fate the log has decided: those without a row in memory are named by the checkpoint store, or
    /// by nobody; their entries in the place map end. The others' end with a checkpoint.
    pub(crate) fn settle(&self, keyspace: &Keyspace, blobs: &[BlobId]) {
        let decided = |blob: &BlobId| !keyspace.has_in_memory(RowKey::encoded(&blob_key(Table::Blob, *blob)));
        let ended: Vec<BlobId> = blobs.iter().copied().filter(decided).collect();
        self.give_up(&ended);
    }

    /// Gives blobs up that no mutation will ever name.
    pub(crate) fn give_up(&self, blobs: &[BlobId]) {
        if !blobs.is_empty() && self.segments.forget_staged(blobs) {
            self.writers.sweep();
        }
    }

    /// Bytes that bodies under way have announced and not sent.
    pub(crate) fn promised_bytes(&self) -> u64 {
        self.promised.load(Relaxed)
    }

    /// An empty buffer of this capacity.
    fn buffer(&self, capacity: usize) -> WriteBuffer {
        self.filling.fetch_add(capacity as u64, Relaxed);
        let whole = capacity == BUFFER_BYTES + BUFFER_SLACK;
        let spare = if whole { self.spare.lock().pop() } else { None };
        spare.unwrap_or_else(|| WriteBuffer::with_capacity(capacity))
    }

    /// Takes a buffer back for the next body.
    fn keep(&self, mut buffer: WriteBuffer) {
        let mut spare = self.spare.lock();
        if buffer.capacity() >= BUFFER_BYTES + BUFFER_SLACK && spare.len() < SPARE_BUFFERS {
            buffer.resize(0);
            spare.push(buffer);
        }
    }
}

/// A body that is durable and that no row names yet. Dropped without having been submitted it is given up: its
/// space is free again.
pub struct StagedBody {
    stager: Arc<Stager>,
    len: u64,
    blobs: Vec<BlobId>,
    /// Encoded pieces.
    parts: Vec<u8>,
}

impl StagedBody {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What a mutation names it by. The submission of that mutation must carry the body
    /// ([`crate::submission::Submission::carry`]).
    pub fn payload(&self) -> Payload<'_> {
        match self.blobs.is_empty() {
            true => Payload::Inline(&[]),
            false => Payload::Staged(StagedParts::of(&self.parts)),
        }
    }

    /// The log decides from here on: see [`Stager::settle`].
    pub(crate) fn into_blobs(mut self) -> Vec<BlobId> {
        std::mem::take(&mut self.blobs)
    }
}

impl Drop for StagedBody {
    fn drop(&mut self) {
        self.stager.give_up(&self.blobs);
    }
}

impl std::fmt::Debug for StagedBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StagedBody").field("len", &self.len).field("blobs", &self.blobs.len()).finish()
    }
}

/// Takes a body while it arrives. Dropped, it gives the body up. After an error, or when a future of it was
/// dropped unfinished, it takes nothing more.
pub struct BodyWriter {
    run: Run,
    lane: Lane,
    /// Of each piece, but the last.
    piece_bytes: u64,
    body: StagedBody,
    /// Bytes taken of the body.
    taken: u64,
    /// Of the announced bytes: those that count as promised.
    promised: u64,
    piece: Option<PieceEncoder>,
    /// Capacity of the buffer that fills, as it was counted.
    filling: usize,
    /// The write under way.
    writing: Option<Answer<()>>,
    /// Pieces that are written, or about to be, and wait for their sync.
    syncing: VecDeque<Answer<()>>,
    failed: Option<Error>,
    again: Option<Again>,
    /// Asked before each piece.
    within: Option<(Weak<Shared>, BucketId)>,
}

/// A blob that exists already and gets another extent.
struct Again {
    blob: BlobId,
    /// Keeps the extent while nothing else does.
    place: Option<(Pointer, StagePin)>,
}

impl BodyWriter {
    /// The same body, of an object of this bucket, which asks before each of its pieces whether it may go on.
    pub(crate) fn within(mut self, shared: &Arc<Shared>, bucket: BucketId) -> BodyWriter {
        self.within = Some((Arc::downgrade(shared), bucket));
        self
    }

    /// The same body, in pieces of which each can be given up and read back by itself, unless there would be too many.
    pub(crate) fn in_blocks(mut self, of: BodyOf) -> BodyWriter {
        self.piece_bytes = piece_bytes(self.body.len, of.pieces_max()).min(self.piece_bytes);
        self
    }

    /// Length of its pieces.
    #[cfg(test)]
    pub(crate) fn piece_bytes(&self) -> u64 {
        self.piece_bytes
    }

    /// Length of the whole body, as announced.
    pub fn len(&self) -> u64 {
        self.body.len
    }

    /// Whether the body has no byte.
    pub fn is_empty(&self) -> bool {
        self.body.len == 0
    }

    /// Takes the next bytes; waits while the disk is behind. Nothing is durable yet. A future that is dropped
    /// unfinished has taken any part of them.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.failed = Some(Error::Unavailable("a write of this body was not waited for"));
        let written = self.take(bytes).await;
        self.failed = written.clone().err();
        written
    }

    /// The body, durable. Refuses one of another length than was announced. The future may be dropped: that
    /// gives the body up.
    pub async fn finish(mut self) -> Result<StagedBody> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.taken != self.body.len {
            return Err(Error::BodyLength { written: self.taken, announced: self.body.len });
        }
        self.written().await?;
        while let Some(sync) = self.syncing.pop_front() {
            answer(sync).await?;
        }
        let nothing =
            StagedBody { stager: self.body.stager.clone(), len: 0, blobs: Vec::new(), parts: Vec::new() };
        Ok(std::mem::replace(&mut self.body, nothing))
    }

    /// The extent of [`Stager::begin_extent`], durable, and what keeps it.
    pub(crate) async fn finish_extent(mut self) -> Result<(Pointer, StagePin)> {
        let place = self.again.as_mut().and_then(|again| again.place.take());
        self.finish().await?;
        place.ok_or(Error::BodyLength { written: 0, announced: 0 })
    }

    async fn take(&mut self, mut bytes: Bytes) -> Result<()> {
        let written = self.taken + bytes.len() as u64;
        if written > self.body.len {
            return Err(Error::BodyLength { written, announced: self.body.len });
        }
        while !bytes.is_empty() {
            let piece = match &mut self.piece {
                Some(piece) => piece,
                None => {
                    let piece = self.begin_piece().await?;
                    self.piece.insert(piece)
                }
            };
            let taken = piece.take(&bytes);
            bytes.advance(taken);
            self.taken += taken as u64;
            // A buffer that has room for the rest of the piece waits for it.
            let short = (self.filling as u64) < piece.bytes_left();
            let full = short && piece.ready() > 0 && piece.ready() + BUFFER_SLACK >= self.filling;
            if piece.is_complete() || full {
                self.write_blocks().await?;
            }
        }
        Ok(())
    }

    /// A new blob, its extent and the first buffer.
    async fn begin_piece(&mut self) -> Result<PieceEncoder> {
        let stager = self.body.stager.clone();
        let (blob, len) = match &self.again {
            Some(again) => (again.blob, self.body.len),
            None => {
                let len = (self.body.len - self.taken).min(self.piece_bytes);
                let blob = BlobId::staged(self.run.node, self.run.boot, stager.next.fetch_add(1, Relaxed));
                // Known before its extent is: whatever happens from here on, a drop gives it up.
                self.body.blobs.push(blob);
                StagedParts::encode_part(StagedPart { blob, len }, &mut self.body.parts);
                (blob, len)
            }
        };
        if let Some((shared, bucket)) = &self.within
            && let Some(shared) = shared.upgrade()
        {
            shared.admit_piece(*bucket, len).await?;
        }
        let listed = self.again.is_none();
        let room = match stager.segments.try_reserve(self.lane, blob, len, listed) {
            Some(room) => room,
            None => answer(stager.writers.reserve(self.lane, blob, len, listed)).await?,
        };
        if let Some(again) = &mut self.again {
            again.place = Some((room.pointer(), room.pin().clone()));
        }
        // What is not in the place map counts as promised to its end.
        if listed {
            self.promised -= len;
            stager.promised.fetch_sub(len, Relaxed);
        }
        let bytes_left = room.bytes();
        let buffer = self.next_buffer(bytes_left);
        Ok(PieceEncoder::new(room, buffer))
    }

    /// A buffer for a piece of which `bytes_left` are still to be written.
    fn next_buffer(&mut self, bytes_left: u64) -> WriteBuffer {
        let stager = &self.body.stager;
        stager.filling.fetch_sub(self.filling as u64, Relaxed);
        let ample = stager.filling.load(Relaxed) + BUFFER_BYTES as u64 <= FILLING_BYTES_MAX;
        let most = BUFFER_SLACK + if ample { BUFFER_BYTES } else { 0 };
        self.filling = most.min(bytes_left as usize);
        stager.buffer(self.filling)
    }

    /// Sends the buffer's whole blocks to the disk; the last ones of a piece with a sync behind them.
    async fn write_blocks(&mut self) -> Result<()> {
        self.written().await?;
        let Some(piece) = &mut self.piece else { return Ok(()) };
        let complete = piece.is_complete();
        let left = piece.bytes_left() - piece.ready() as u64;
        let pin = piece.room().pin().clone();
        let next = match complete {
            true => WriteBuffer::default(),
            false => self.next_buffer(left),
        };
        let Some(piece) = &mut self.piece else { return Ok(()) };
        let (bytes, offset) = piece.cut(next);
        if complete {
            self.piece = None;
            self.body.stager.filling.fetch_sub(self.filling as u64, Relaxed);
            self.filling = 0;
        }
        let stager = &self.body.stager;
        let shares = bytes.len().div_ceil(SHARE_BYTES).min(IN_FLIGHT_BYTES_MAX / SHARE_BYTES);
        let share = stager.in_flight.clone().acquire_many_owned(shares as u32).await;
        let share = share.map_err(|_| Error::Stopping)?;
        let keeper = stager.clone();
        let done = Box::new(move |buffer| {
            keeper.keep(buffer);
            drop(share);
        });
        let answer_to_come = stager.writers.write(pin, bytes, offset, complete, done);
        if !complete {
            self.writing = Some(answer_to_come);
            return Ok(());
        }
        self.syncing.push_back(answer_to_come);
        if self.syncing.len() > SYNCS_BEHIND
            && let Some(oldest) = self.syncing.pop_front()
        {
            answer(oldest).await?;
        }
        Ok(())
    }

    /// Waits for the write under way.
    async fn written(&mut self) -> Result<()> {
        match self.writing.take() {
            Some(writing) => answer(writing).await,
            None => Ok(()),
        }
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        self.body.stager.promised.fetch_sub(self.promised, Relaxed);
        self.body.stager.filling.fetch_sub(self.filling as u64, Relaxed);
    }
}

impl std::fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyWriter").field("taken", &self.taken).field("len", &self.body.len).finish()
    }
}

async fn answer<T>(answer: Answer<T>) -> Result<T> {
    match answer.await {
        Ok(result) => result.map_err(stage_error),
        Err(_) => Err(Error::Stopping),
    }
}

fn stage_error(error: BlobError) -> Error {
    match error {
        BlobError::NoSpace(_) => Error::Full(format!("forebay: {error}").into()),
        error => {
            tracing::error!(%error, "a body could not be written");
            Error::Disk(error.to_string().into())
        }
    }
}

#[cfg(test)]
mod tests;
