//! A body on its way to the origin, which asks its fence before the last chunk leaves (PITFALLS 25).
//!
//! Owns the cut into chunks. A body that is not in memory is read as it is sent, one piece at a time.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use aws_smithy_runtime_api::box_error::BoxError;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Frame, SizeHint};

use super::attempt::Attempt;
use crate::origin::traffic::Traffic;
use crate::origin::{BodyError, UploadBody};

/// Bytes of a body handed to the socket at once; the last piece waits for the fence.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// A body that asks the fence before its last chunk.
pub(super) struct FencedBody {
    body: UploadBody,
    at: u64,
    attempt: Arc<Attempt>,
    traffic: Arc<Traffic>,
    /// The next bytes of a body that is not in memory. The lock is for `Sync` alone: nobody shares it.
    reading: Mutex<Option<BoxFuture<'static, Result<Bytes, BodyError>>>>,
    /// Why the body could not be read.
    pub(super) unreadable: Arc<Mutex<Option<BodyError>>>,
}

impl FencedBody {
    pub(super) fn new(body: UploadBody, attempt: Arc<Attempt>, traffic: Arc<Traffic>) -> FencedBody {
        FencedBody { body, at: 0, attempt, traffic, reading: Mutex::new(None), unreadable: Arc::default() }
    }

    /// The next bytes to hand over.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        if let Some(bytes) = &self.body.memory {
            let start = self.at as usize;
            return Poll::Ready(Ok(bytes.slice(start..bytes.len().min(start + CHUNK_BYTES))));
        }
        let reading = self.reading.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (body, at) = (&self.body, self.at);
        let future = reading.get_or_insert_with(|| {
            let body = body.clone();
            Box::pin(async move { body.read_at(at).await })
        });
        let bytes = std::task::ready!(future.as_mut().poll(context));
        *reading = None;
        Poll::Ready(bytes)
    }
}

impl http_body::Body for FencedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.at == self.body.len() {
            return Poll::Ready(None);
        }
        let bytes = match std::task::ready!(self.poll_bytes(context)) {
            Ok(bytes) => bytes,
            Err(error) => {
                *self.unreadable.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
                    Some(error.clone());
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        self.at += bytes.len() as u64;
        let last = self.at == self.body.len();
        if last && !self.attempt.may_go_on() {
            self.attempt.fenced.store(true, Ordering::Release);
            return Poll::Ready(Some(Err("the attempt's deadline or term has passed".into())));
        }
        self.traffic.count_sent(bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.body.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.len() - self.at)
    }
}
