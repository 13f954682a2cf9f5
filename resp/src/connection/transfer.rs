//! Long values between one client's socket and the core: piece by piece, never held whole.
//!
//! Inward, the bytes of a long argument go from the socket into a [`BodyWriter`]; the client is not read from
//! while the disk is behind. Outward, the bytes of a long value are read as they are sent, one piece ahead; the
//! value's length is sent before, so a body that cannot be read to its end ends the connection. Either way
//! nothing of the core is held but the body itself: no view, no lock. A client that stands still for
//! [`stall_limit`](crate::config::RespConfig::stall_limit) is closed.
//!
//! Memory: [`PIECE_BYTES`] inward beside the writer's own two buffers, [`PIECE_BYTES`] twice outward.
//!
//! [`BodyWriter`]: forebay_storage::stage::BodyWriter

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use bytes::{BufMut, Bytes, BytesMut};
use forebay_storage::error::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::WaitForCancellationFuture;

use super::Connection;
use crate::parse::LongArgument;
use crate::pipeline::Intake;
use crate::reply::Stream;

/// Bytes of a long value that are moved at a time: whole chunks of the core's.
const PIECE_BYTES: usize = 256 * 1024;
/// What must have come of an argument before room is asked for it: a client that only announces much takes none.
const BEGUN_BYTES: usize = 64 * 1024;
/// Bytes that are read at a time until then.
const FIRST_READ_BYTES: usize = 16 * 1024;
/// What is kept of an argument that no command may have: more than any error's text repeats, and than any
/// option, number, float or key has.
const KEPT_BYTES: usize = 8 * 1024;
/// Pieces up to this length are gathered, so that many short ones leave in one write.
const GATHERED_BYTES_MAX: usize = 32 * 1024;

impl Connection {
    /// Takes a long argument to its end; false if the client left, or `stop` came.
    pub(super) async fn take_long(
        &mut self,
        long: &LongArgument,
        stop: &mut Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> io::Result<bool> {
        // It may take long to arrive: what came before is answered, and holds no view meanwhile.
        self.pipeline.close(&self.parser).await;
        self.pipeline.count_write();
        self.note();
        self.send().await?;
        let place = long.before.len();
        let mut intake = None;
        let mut kept = Vec::new();
        let mut left = long.len;
        let mut buffer = BytesMut::from(self.parser.long_buffered());
        self.parser.forget_long();
        let intake = loop {
            let room = if intake.is_none() { FIRST_READ_BYTES } else { PIECE_BYTES };
            let to_come = self.parser.long_left().min(room as u64) as usize;
            if intake.is_none() && (to_come == 0 || buffer.len() >= BEGUN_BYTES) {
                intake = Some(self.pipeline.begin_long(long, &self.parser).await);
            }
            if let Some(intake) = &mut intake {
                // The line end behind the argument is passed over.
                let mut bytes = buffer.split().freeze();
                bytes.truncate(left.min(bytes.len() as u64) as usize);
                left -= bytes.len() as u64;
                match intake {
                    Intake::Stage(writer) => {
                        if let Err(error) = writer.write(bytes).await {
                            self.pipeline.end_long(place, Err(error));
                            *intake = Intake::Drop;
                        }
                    }
                    Intake::Keep => {
                        let room = KEPT_BYTES - kept.len();
                        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    }
                    Intake::Drop => {}
                }
            }
            if to_come == 0 {
                break intake;
            }
            buffer.reserve(to_come);
            let mut room = (&mut buffer).limit(to_come);
            let reading = within(self.server.settings.stall_limit, self.stream.read_buf(&mut room));
            let received = tokio::select! {
                biased;
                () = &mut *stop => return Ok(false),
                received = reading => received?,
            };
            if received == 0 {
                return Ok(false);
            }
            self.parser.long_taken(received as u64);
            self.server.counters.bytes_in.fetch_add(received as u64, Ordering::Relaxed);
            self.registration.facts.touch();
        };
        let keeps = matches!(intake, Some(Intake::Keep));
        if let Some(Intake::Stage(writer)) = intake {
            self.pipeline.end_long(place, writer.finish().await);
        }
        self.parser.end_long(keeps.then_some(&kept[..]));
        Ok(true)
    }

    /// Sends replies with long values among them. Only the bytes of the long values are still to be counted.
    pub(super) async fn send_streams(&mut self) -> io::Result<()> {
        let streams = self.pipeline.take_streams();
        let mut gathered = Vec::new();
        let mut sent = 0;
        for stream in streams {
            gathered.extend_from_slice(&self.pipeline.replies()[sent..stream.at]);
            sent = stream.at;
            self.send_stream(&stream, &mut gathered).await?;
        }
        gathered.extend_from_slice(&self.pipeline.replies()[sent..]);
        self.write_all(&gathered).await
    }

    /// Sends one long value, after the bytes that are gathered; leaves what is short among them.
    async fn send_stream(&mut self, stream: &Stream, gathered: &mut Vec<u8>) -> io::Result<()> {
        let mut at = stream.range.start;
        let mut piece = read_piece(stream, &mut at).await?;
        while !piece.is_empty() {
            self.server.counters.bytes_out.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if piece.len() <= GATHERED_BYTES_MAX && gathered.len() <= PIECE_BYTES {
                gathered.extend_from_slice(&piece);
                piece = read_piece(stream, &mut at).await?;
                continue;
            }
            let sending = async {
                if !gathered.is_empty() {
                    self.write_all(gathered).await?;
                    gathered.clear();
                }
                self.write_all(&piece).await
            };
            let (sent, next) = tokio::join!(sending, read_piece(stream, &mut at));
            sent?;
            piece = next?;
        }
        Ok(())
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = within(self.server.settings.stall_limit, self.stream.write(bytes)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
            self.registration.facts.touch();
        }
        Ok(())
    }
}

/// The next piece of a long value, up to a multiple of [`PIECE_BYTES`]; empty at its end.
async fn read_piece(stream: &Stream, at: &mut u64) -> io::Result<Bytes> {
    let end = ((*at / PIECE_BYTES as u64 + 1) * PIECE_BYTES as u64).min(stream.range.end);
    if *at >= end {
        return Ok(Bytes::new());
    }
    stream.body.expect(*at..stream.range.end);
    let read = stream.body.read(*at..end).await;
    let read = read.and_then(|bytes| match bytes.len() as u64 == end - *at {
        true => Ok(bytes),
        false => Err(Error::Damaged("a body is shorter than its row says".into())),
    });
    let bytes = read.map_err(|error| {
        // Its length is on its way already: no error can follow it.
        tracing::error!(%error, "a value could not be read to its end, closing its client");
        io::Error::other(error.to_string())
    })?;
    *at = end;
    Ok(bytes)
}

/// A transfer that moves something within the limit.
async fn within<T>(
    limit: std::time::Duration,
    transfer: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match tokio::time::timeout(limit, transfer).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "stood still in the middle of a long value")),
    }
}
