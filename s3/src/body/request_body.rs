//! A request's body on its socket: read at a pace, or dropped.
//!
//! Owns the time-outs of a sender and what becomes of the connection when a body was not wanted. Does not own
//! what a body means.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use crate::error::Refused;

/// A body slower than this is a slow sender's, once the stall time-out is over as well. Time in which we were
/// behind does not count.
const BYTES_PER_SECOND_MIN: u64 = 1024;
/// How long what is not wanted is read: nobody waits long for bytes that nobody wants.
const DRAIN_SECONDS_MAX: u64 = 2;

/// A request's body, on the socket until somebody wants it.
///
/// Shared between the operation, which may read it, and the front layer, which afterwards decides about
/// what was left.
pub(crate) struct RequestBody {
    /// Taken out while it is read; locked for the moment of taking and putting back.
    incoming: Mutex<Option<Incoming>>,
    /// Whether reading has begun: hyper has then answered `100 Continue` if that was asked for.
    begun: AtomicBool,
}

/// What is to become of the connection after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterBody {
    /// The body is gone: the next request may follow.
    KeepAlive,
    /// There may be more of it: close.
    Close,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming) -> RequestBody {
        RequestBody { incoming: Mutex::new(Some(incoming)), begun: AtomicBool::new(false) }
    }

    /// Whether none was announced, or all of it was read.
    pub(crate) fn is_empty(&self) -> bool {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        incoming.as_ref().is_some_and(|incoming| incoming.is_end_stream())
    }

    /// Begins to read.
    pub(super) fn read(&self, stall_timeout: Duration) -> Result<Reading<'_>, Refused> {
        let Some(incoming) = self.take() else {
            return Err(Refused::new("InternalError", 500, "the body was already read"));
        };
        self.begun.store(true, Ordering::Relaxed);
        let pace = Pace { stall_timeout, waited: Duration::ZERO, received: 0 };
        Ok(Reading { body: self, incoming: Some(incoming), pace })
    }

    /// Reads a whole small body, for operations that s3s takes apart.
    pub(crate) async fn read_small(&self, limit: u64, stall_timeout: Duration) -> Result<Bytes, Refused> {
        let mut reading = self.read(stall_timeout)?;
        let mut bytes = BytesMut::new();
        while let Some(data) = reading.next().await? {
            if bytes.len() as u64 + data.len() as u64 > limit {
                return Err(too_long(limit));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    }

    /// Drops what is left of the body, within bounds, so that the client gets to see the answer.
    pub(crate) async fn drain(&self, bytes_max: u64, expects_continue: bool) -> AfterBody {
        let Some(mut incoming) = self.take() else { return AfterBody::Close };
        if incoming.is_end_stream() {
            return AfterBody::KeepAlive;
        }
        // The client holds the body back until it hears `100 Continue`, and will not hear it.
        let held_back = expects_continue && !self.begun.load(Ordering::Relaxed);
        if held_back || incoming.size_hint().lower() > bytes_max {
            return AfterBody::Close;
        }
        let drained = async {
            let mut dropped = 0u64;
            while let Some(frame) = incoming.frame().await {
                dropped += frame.ok()?.data_ref().map_or(0, |data| data.len() as u64);
                if dropped > bytes_max {
                    return None;
                }
            }
            Some(())
        };
        match tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS_MAX), drained).await {
            Ok(Some(())) => AfterBody::KeepAlive,
            _ => AfterBody::Close,
        }
    }

    fn take(&self) -> Option<Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A document over what the operation takes.
pub(crate) fn too_long(limit: u64) -> Refused {
    Refused::new("MaxMessageLengthExceeded", 400, format!("Your request was too big: at most {limit} bytes"))
}

/// A body that is being read. What is left of it goes back when this is dropped, unless its sender was too
/// slow: only then is the rest not worth waiting for.
pub(super) struct Reading<'a> {
    body: &'a RequestBody,
    incoming: Option<Incoming>,
    pace: Pace,
}

/// How fast a sender is.
struct Pace {
    stall_timeout: Duration,
    /// Time spent waiting for it.
    waited: Duration,
    /// Bytes that came in that time.
    received: u64,
}

impl Pace {
    /// How long the next piece may take.
    fn patience(&self) -> Duration {
        let earned = Duration::from_secs(self.received / BYTES_PER_SECOND_MIN);
        self.stall_timeout.min((self.stall_timeout + earned).saturating_sub(self.waited))
    }
}

impl Reading<'_> {
    /// The next data of the body, `None` at its end. A dropped future has lost nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refused> {
        loop {
            let Some(incoming) = &mut self.incoming else { return Err(timed_out()) };
            let begun = Instant::now();
            let frame = tokio::time::timeout(self.pace.patience(), incoming.frame()).await;
            self.pace.waited += begun.elapsed();
            let Ok(frame) = frame else {
                self.incoming = None;
                return Err(timed_out());
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|_| {
                Refused::new("IncompleteBody", 400, "The request body terminated unexpectedly")
            })?;
            if let Ok(data) = frame.into_data() {
                self.pace.received += data.len() as u64;
                return Ok(Some(data));
            }
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            *self.body.incoming.lock().unwrap_or_else(PoisonError::into_inner) = Some(incoming);
        }
    }
}

fn timed_out() -> Refused {
    Refused::new(
        "RequestTimeout",
        400,
        "Your socket connection to the server was not read from or written to within the timeout period.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_the_stall_time_and_then_what_the_rate_has_earned() {
        let seconds = Duration::from_secs;
        let pace = |waited, received| Pace { stall_timeout: seconds(30), waited: seconds(waited), received };
        assert_eq!(pace(0, 0).patience(), seconds(30));
        assert_eq!(pace(20, 0).patience(), seconds(10));
        assert_eq!(pace(20, 1 << 30).patience(), seconds(30));
        assert_eq!(pace(40, 20 * BYTES_PER_SECOND_MIN).patience(), seconds(10));
        assert_eq!(pace(90, 20 * BYTES_PER_SECOND_MIN).patience(), seconds(0));
    }
}
