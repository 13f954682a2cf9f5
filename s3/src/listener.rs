//! The S3 port: accepts connections, bounds them, and winds them down.
//!
//! Owns: the number of connections, time-outs on heads and on stalled answers, sizes of heads, and an
//! orderly end. Does not own anything that looks into a request.
//!
//! When `connections_max` are open, further ones wait in the kernel's accept queue; an idle or slow one
//! gives up its place after `head_timeout`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::S3Config;
use crate::front::Front;

/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Read and write buffer of a connection: one small body with its head.
const BUFFER_BYTES: usize = 128 * 1024;

/// Accepts until `shutdown`, then lets running requests end within the grace time.
pub(crate) async fn run(
    listener: TcpListener,
    front: Arc<Front>,
    config: Arc<S3Config>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    let http = http_settings(&config);
    loop {
        let place = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an S3 connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (front, shutdown, abort) = (Arc::clone(&front), shutdown.clone(), abort.clone());
        let (http, stall_timeout) = (http.clone(), config.stall_timeout);
        connections.spawn(async move {
            let _place = place;
            tokio::select! {
                biased;
                () = abort.cancelled() => {}
                () = serve_connection(stream, &http, front, stall_timeout, shutdown) => {}
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(config.shutdown_grace, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "closing S3 connections that did not end in time");
        abort.cancel();
        connections.wait().await;
    }
}

fn http_settings(config: &S3Config) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_header_size(config.head_bytes_max)
        .max_buf_size(BUFFER_BYTES.max(config.head_bytes_max));
    http
}

async fn serve_connection(
    stream: TcpStream,
    http: &http1::Builder,
    front: Arc<Front>,
    stall_timeout: Duration,
    shutdown: CancellationToken,
) {
    // Answers are written whole; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(StallGuard { stream, stall_timeout, stalled: None });
    let service = service_fn(move |request| {
        let front = Arc::clone(&front);
        async move { Ok::<_, std::convert::Infallible>(front.call(request).await) }
    });
    let mut connection = std::pin::pin!(http.serve_connection(io, service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an S3 connection ended early");
    }
}

/// A socket whose peer must take what is written: a client that stops reading would else hold its
/// connection, and the read view of its object, for ever.
struct StallGuard {
    stream: TcpStream,
    stall_timeout: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl StallGuard {
    fn guard<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = write(Pin::new(&mut self.stream), cx) {
            self.stalled = None;
            return Poll::Ready(result);
        }
        let stall_timeout = self.stall_timeout;
        let sleep = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_timeout)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take the answer")))
    }
}

impl AsyncRead for StallGuard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for StallGuard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().guard(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().guard(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
