//! A block as it arrives: pieces that readers get one by one, while the rest is on its way.
//!
//! Must hold: what has arrived never changes. Memory: a piece of 384 KiB or more takes a whole read buffer; readers
//! hold about twice the bytes that they asked for, at most.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::io::buffers::{PIECE_BYTES, ReadBuffer, ReadBuffers};

/// What has come of a block.
#[derive(Default)]
pub(super) struct Arrived {
    /// From its beginning on, cut where the body's offset is a multiple of [`PIECE_BYTES`].
    pieces: Vec<Bytes>,
    /// Their bytes.
    len: u64,
    failed: Option<Error>,
}

/// A block that is there, or on its way.
#[derive(Clone)]
pub(super) struct Block {
    len: u64,
    arrived: watch::Receiver<Arrived>,
}

impl Block {
    /// A block of which nothing has come. If the sender goes before the block is whole, its readers are told that the
    /// node stops.
    pub(super) fn begin(len: u64) -> (watch::Sender<Arrived>, Block) {
        let (arriving, arrived) = watch::channel(Arrived::default());
        (arriving, Block { len, arrived })
    }

    /// Length of the whole, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of it. They hold memory of about twice their length, at most.
    pub(super) async fn bytes(&mut self, range: Range<u64>) -> Result<Bytes> {
        let arrived = self.arrived.wait_for(|arrived| arrived.len >= range.end || arrived.failed.is_some());
        let arrived = arrived.await.map_err(|_| Error::Stopping)?;
        if let Some(error) = arrived.failed.as_ref().filter(|_| arrived.len < range.end) {
            return Err(error.clone());
        }
        // The fetch goes on while they are copied.
        let pieces = arrived.pieces.clone();
        drop(arrived);
        Ok(cut(&pieces, range))
    }

    /// Its pieces one by one; `None` behind the last.
    pub(super) async fn piece(&mut self, number: usize) -> Result<Option<Bytes>> {
        let len = self.len;
        let has = |arrived: &Arrived| arrived.pieces.len() > number || arrived.len == len;
        let arrived = self.arrived.wait_for(|arrived| has(arrived) || arrived.failed.is_some());
        let arrived = arrived.await.map_err(|_| Error::Stopping)?;
        match &arrived.failed {
            Some(error) if !has(&arrived) => Err(error.clone()),
            _ => Ok(arrived.pieces.get(number).cloned()),
        }
    }
}

impl Arrived {
    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The rest does not come.
    pub(super) fn fail(&mut self, error: Error) {
        self.failed = Some(error);
    }

    /// The next piece.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.len += piece.len() as u64;
        self.pieces.push(piece);
    }
}

/// Bytes out of pieces that follow each other.
fn cut(pieces: &[Bytes], range: Range<u64>) -> Bytes {
    let len = (range.end - range.start) as usize;
    let mut copy = BytesMut::new();
    let mut start = 0;
    for piece in pieces {
        let end = start + piece.len() as u64;
        let (from, to) = (range.start.clamp(start, end) - start, range.end.clamp(start, end) - start);
        let part = &piece[from as usize..to as usize];
        // Else a slow reader of a few bytes would keep all of the piece in memory.
        if part.len() == len && 2 * len >= piece.len() {
            return piece.slice_ref(part);
        }
        if !part.is_empty() {
            copy.reserve(len - copy.len());
            copy.extend_from_slice(part);
        }
        start = end;
    }
    copy.freeze()
}

/// Makes pieces of what arrives.
pub(super) struct Gathering<'a> {
    buffers: &'a ReadBuffers,
    /// What is to come behind `buffer`.
    rest: Range<u64>,
    buffer: Option<ReadBuffer>,
    /// Bytes of the piece, and how many of them are there.
    piece: usize,
    filled: usize,
}

impl Gathering<'_> {
    /// For these bytes of the body.
    pub(super) fn new(buffers: &ReadBuffers, range: Range<u64>) -> Gathering<'_> {
        Gathering { buffers, rest: range, buffer: None, piece: 0, filled: 0 }
    }

    /// Bytes that are still to come.
    pub(super) fn missing(&self) -> u64 {
        (self.piece - self.filled) as u64 + self.rest.end - self.rest.start
    }

    /// Takes from the chunk what the piece lacks; the piece, if that is all of it.
    pub(super) fn take(&mut self, chunk: &mut Bytes) -> Option<Bytes> {
        let buffer = self.buffer.get_or_insert_with(|| {
            let end = self.rest.end.min((self.rest.start / PIECE_BYTES + 1) * PIECE_BYTES);
            (self.piece, self.filled) = ((end - self.rest.start) as usize, 0);
            self.rest.start = end;
            self.buffers.take(self.piece)
        });
        let bytes = chunk.split_to(chunk.len().min(self.piece - self.filled));
        buffer[self.filled..self.filled + bytes.len()].copy_from_slice(&bytes);
        self.filled += bytes.len();
        if self.filled < self.piece {
            return None;
        }
        let piece = std::mem::take(&mut self.piece);
        self.filled = 0;
        self.buffer.take().map(|buffer| buffer.into_bytes(0..piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(range: Range<u64>) -> Bytes {
        range.map(|at| (at * 7 + at / 251) as u8).collect()
    }

    #[test]
    fn pieces_end_at_the_bodys_multiples_however_the_bytes_come() {
        let range = PIECE_BYTES - 100_000..2 * PIECE_BYTES + 5;
        for step in [1_000, 65_537, 3 << 20] {
            let buffers = ReadBuffers::default();
            let (mut gathering, mut pieces) = (Gathering::new(&buffers, range.clone()), Vec::new());
            let mut rest = bytes(range.clone());
            while !rest.is_empty() {
                assert_eq!(gathering.missing(), rest.len() as u64);
                let mut chunk = rest.split_to(rest.len().min(step));
                while !chunk.is_empty() {
                    pieces.extend(gathering.take(&mut chunk));
                }
            }
            assert_eq!(gathering.missing(), 0);
            let lens: Vec<usize> = pieces.iter().map(Bytes::len).collect();
            assert_eq!(lens, [100_000, PIECE_BYTES as usize, 5]);
            assert_eq!(pieces.concat(), bytes(range.clone()));
        }
    }

    #[test]
    fn cut_bytes_are_right_and_hold_no_piece_that_is_much_longer() {
        let pieces: Vec<Bytes> = [0..100, 100..612, 612..1000].map(bytes).to_vec();
        for start in (0..1000).step_by(7) {
            for end in (start + 1..=1000).step_by(13) {
                let part = cut(&pieces, start..end);
                assert_eq!(part, bytes(start..end), "{start}..{end}");
                let of = pieces.iter().find(|piece| piece.as_ptr_range().contains(&part.as_ptr()));
                assert!(of.is_none_or(|piece| piece.len() <= 2 * part.len()), "{start}..{end}");
            }
        }
        assert_eq!(cut(&pieces, 100..612).as_ptr(), pieces[1].as_ptr(), "a whole piece is copied");
        assert_eq!(cut(&pieces, 5..5), Bytes::new());
    }

    #[tokio::test]
    async fn readers_get_what_has_arrived_before_the_rest_and_whatever_becomes_of_it() {
        let (arriving, mut block) = Block::begin(1000);
        arriving.send_modify(|arrived| arrived.push(bytes(0..600)));
        assert_eq!(block.bytes(300..600).await.unwrap(), bytes(300..600));
        assert_eq!(block.piece(0).await.unwrap(), Some(bytes(0..600)));
        let mut late = block.clone();
        let mut waiting = std::pin::pin!(late.bytes(300..601));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        arriving.send_modify(|arrived| arrived.fail(Error::Unavailable("gone")));
        assert!(matches!(waiting.await, Err(Error::Unavailable("gone"))));
        assert!(matches!(block.piece(1).await, Err(Error::Unavailable("gone"))));
        assert_eq!(block.bytes(300..600).await.unwrap(), bytes(300..600));

        let (arriving, mut block) = Block::begin(1000);
        arriving.send_modify(|arrived| arrived.push(bytes(0..1000)));
        drop(arriving);
        assert_eq!(block.piece(0).await.unwrap(), Some(bytes(0..1000)));
        assert_eq!(block.piece(1).await.unwrap(), None);
        let (arriving, mut block) = Block::begin(1000);
        drop(arriving);
        assert!(matches!(block.bytes(0..1).await, Err(Error::Stopping)));
    }
}
