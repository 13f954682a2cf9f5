//! A long body on its way to a client: pieces of up to 1 MiB, one of them read ahead.
//!
//! The reader has pinned what it reads, so the object may be overwritten or deleted meanwhile: the client gets the
//! bytes that its headers announced. No read view is held.
//!
//! Bound: [`PIECES_MAX`] large pieces for all clients together, each counted until the socket has taken it. When
//! they are used up, further bodies go on in pieces of 64 KiB and without reading ahead.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use forebay_storage::BodyReader;
use forebay_storage::error::Error;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use s3s::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

/// Bytes read at a time.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;
/// The same when memory is short.
const SMALL_PIECE_BYTES: u64 = 64 << 10;
/// Large pieces at once: 64 MiB.
const PIECES_MAX: usize = 64;

/// The share of memory that bodies on their way out may take.
#[derive(Clone)]
pub(crate) struct PieceBudget(Arc<Semaphore>);

impl PieceBudget {
    pub(crate) fn new() -> PieceBudget {
        PieceBudget(Arc::new(Semaphore::new(PIECES_MAX)))
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

type Reading = AbortOnDropHandle<Result<Piece, Error>>;

/// What is still to be sent.
struct Sending {
    reader: BodyReader,
    range: Range<u64>,
    ahead: Option<Reading>,
    budget: PieceBudget,
}

/// The bytes `range` of a body. A piece that cannot be read breaks the connection: the client sees a short
/// body, never a wrong one.
pub(crate) fn stream_body(reader: BodyReader, range: Range<u64>, budget: PieceBudget) -> Body {
    let sending = Sending { reader, range, ahead: None, budget };
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
        let piece = match self.ahead.take() {
            Some(reading) => reading.await.map_err(|_| Error::Stopping)??,
            None if self.range.is_empty() => return Ok(None),
            None => {
                let share = self.budget.0.clone().try_acquire_owned().ok();
                let range = self.advance(if share.is_some() { PIECE_BYTES } else { SMALL_PIECE_BYTES });
                Piece { bytes: self.reader.read(range).await?, _share: share }
            }
        };
        if !self.range.is_empty()
            && let Ok(share) = self.budget.0.clone().try_acquire_owned()
        {
            let (reader, range) = (self.reader.clone(), self.advance(PIECE_BYTES));
            self.ahead = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                Ok(Piece { bytes: reader.read(range).await?, _share: Some(share) })
            })));
        }
        Ok(Some(piece))
    }

    /// The next range, up to a multiple of `bytes`, so that no checked chunk is read twice.
    fn advance(&mut self, bytes: u64) -> Range<u64> {
        let start = self.range.start;
        let end = self.range.end.min((start / bytes + 1) * bytes);
        self.range.start = end;
        start..end
    }
}
