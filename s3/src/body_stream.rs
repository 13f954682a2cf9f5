//! A long body on its way to a client: pieces of up to 512 KiB, some of them read ahead.
//!
//! The reader has pinned what it reads, so the object may be overwritten or deleted meanwhile: the client gets the
//! bytes that its headers announced. No read view is held.
//!
//! Bound: [`PIECES_MAX`] large pieces for all clients together, each counted until the socket has taken it. When
//! they are used up, further bodies go on in pieces of 64 KiB and without reading ahead. A body that is dropped, sent or
//! not, gives its pieces back.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use forebay_storage::BodyReader;
use forebay_storage::error::Error;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use s3s::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes read at a time.
pub(crate) const PIECE_BYTES: u64 = BodyReader::PIECE_BYTES;
/// The same when memory is short.
pub(crate) const SMALL_PIECE_BYTES: u64 = 64 << 10;
/// Pieces of one body that are read ahead of what is sent.
const AHEAD: usize = 3;
/// Large pieces at once: 64 MiB.
pub(crate) const PIECES_MAX: usize = 128;

/// The share of memory that bodies on their way out may take.
#[derive(Clone)]
pub(crate) struct PieceBudget(Arc<Semaphore>);

impl PieceBudget {
    pub(crate) fn new() -> PieceBudget {
        PieceBudget(Arc::new(Semaphore::new(PIECES_MAX)))
    }

    /// Large pieces that may still be read.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.0.available_permits()
    }
}

/// Bytes that give their share back once they are sent.
struct Piece {
    bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

type Reading = BoxFuture<'static, Result<Piece, Error>>;

/// What is still to be sent.
struct Sending {
    reader: BodyReader,
    /// Behind what is read ahead.
    range: Range<u64>,
    ahead: VecDeque<Reading>,
    budget: PieceBudget,
}

/// The bytes `range` of a body. A piece that cannot be read breaks the connection: the client sees a short
/// body, never a wrong one.
pub(crate) fn stream_body(reader: BodyReader, range: Range<u64>, budget: PieceBudget) -> Body {
    let sending = Sending { reader, range, ahead: VecDeque::with_capacity(AHEAD), budget };
    let pieces = stream::try_unfold(sending, |mut sending| async move {
        let piece = sending.next_piece().await.inspect_err(|error| {
            tracing::warn!(%error, "a body broke off while it was sent");
        })?;
        Ok::<_, Error>(piece.map(|piece| (Frame::data(Bytes::from_owner(piece)), sending)))
    });
    Body::http_body_unsync(StreamBody::new(Box::pin(pieces)))
}

impl Sending {
    async fn next_piece(&mut self) -> Result<Option<Piece>, Error> {
        let reading = match self.ahead.pop_front() {
            Some(reading) => reading,
            None if self.range.is_empty() => return Ok(None),
            None => {
                let share = self.budget.0.clone().try_acquire_owned().ok();
                self.begin_piece(share)
            }
        };
        while self.ahead.len() < AHEAD
            && !self.range.is_empty()
            && let Ok(share) = self.budget.0.clone().try_acquire_owned()
        {
            let reading = self.begin_piece(Some(share));
            self.ahead.push_back(reading);
            self.reader.expect(self.range.clone());
        }
        reading.await.map(Some)
    }

    fn begin_piece(&mut self, share: Option<OwnedSemaphorePermit>) -> Reading {
        let range = self.advance(if share.is_some() { PIECE_BYTES } else { SMALL_PIECE_BYTES });
        let reader = self.reader.clone();
        let mut reading: Reading =
            Box::pin(async move { Ok(Piece { bytes: reader.read(range).await?, _share: share }) });
        // Begun now, not when it is its turn: the work is done on other threads. It is not polled before, so that a
        // client that stands still may keep a place in the line of the read pool: one for each large piece, at most.
        match reading.as_mut().now_or_never() {
            Some(read) => std::future::ready(read).boxed(),
            None => reading,
        }
    }

    /// The next range, up to a multiple of `bytes`, so that no checked chunk is read twice.
    fn advance(&mut self, bytes: u64) -> Range<u64> {
        let start = self.range.start;
        let end = self.range.end.min((start / bytes + 1) * bytes);
        self.range.start = end;
        start..end
    }
}
