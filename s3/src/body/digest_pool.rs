//! Threads that compute the digests of large bodies, beside the sockets and the disk.
//!
//! MD5 is the ceiling of an upload: some 0.7 GB/s on one core. On a connection's own task it would hold up
//! the other connections of that worker and leave the disk idle meanwhile.
//!
//! Owns the order of one body's pieces and the bound on what waits. A body is at work on at most one thread
//! at a time; after [`TURN_BYTES`] it stands in line again, so that bodies share the threads evenly.
//!
//! Bounds: [`WAITING_BYTES_MAX`] of one body, shared with the buffers they came in; once those of all bodies are
//! [`ALL_WAITING_BYTES_MAX`], [`WAITING_BYTES_LEAST`] of each; then its sender waits. The line of bodies holds each
//! at most once, so it is bounded by the connections.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::digest::{Digested, Digests, WantedDigests};

/// Bytes of one body that may wait for their digest. Fewer: whenever the sender's task does not run for a moment,
/// the digest waits, and it is what takes longest; with 1 MiB an upload alone was 8 % slower.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// The same when there are many.
const WAITING_BYTES_LEAST: usize = 256 << 10;
/// Bytes of all bodies that wait, from which on there are many.
const ALL_WAITING_BYTES_MAX: usize = 64 << 20;
/// Bytes of one body that are worked off before the next one's turn.
const TURN_BYTES: usize = 1 << 20;
/// Threads at most: MD5 of more bodies at once than that would starve the rest of a large machine.
const THREADS_MAX: usize = 16;

/// The threads. They end when the pool is dropped and what waits is done.
pub(crate) struct DigestPool {
    line: Arc<Line>,
}

/// Bodies with pieces to work off, in order of arrival.
struct Line {
    state: Mutex<LineState>,
    arrived: Condvar,
    /// Of all bodies, also of those at work.
    waiting_bytes: AtomicUsize,
}

#[derive(Default)]
struct LineState {
    bodies: VecDeque<Arc<Body>>,
    closed: bool,
}

struct Body {
    state: Mutex<BodyState>,
    /// For the one task that owns the body.
    progress: Notify,
}

struct BodyState {
    pieces: VecDeque<Bytes>,
    /// Of `pieces` and of the one being worked off.
    waiting_bytes: usize,
    /// `None` while a thread has them.
    digests: Option<Digests>,
    /// Whether it stands in line, or is at work.
    in_line: bool,
}

impl DigestPool {
    /// Starts a thread a core.
    ///
    /// # Errors
    ///
    /// If the operating system gives no thread.
    pub(crate) fn start() -> io::Result<DigestPool> {
        let line = Arc::new(Line {
            state: Mutex::default(),
            arrived: Condvar::new(),
            waiting_bytes: AtomicUsize::new(0),
        });
        let pool = DigestPool { line };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        for number in 0..threads {
            let line = Arc::clone(&pool.line);
            thread::Builder::new().name(format!("digest-{number}")).spawn(move || line.work())?;
        }
        Ok(pool)
    }

    /// Begins with a body.
    pub(crate) fn body(&self, wanted: WantedDigests) -> PooledDigests {
        let state = BodyState {
            pieces: VecDeque::new(),
            waiting_bytes: 0,
            digests: Some(Digests::new(wanted)),
            in_line: false,
        };
        let body = Arc::new(Body { state: Mutex::new(state), progress: Notify::new() });
        PooledDigests { body, line: Arc::clone(&self.line) }
    }
}

impl Drop for DigestPool {
    fn drop(&mut self) {
        self.line.state.lock().closed = true;
        self.line.arrived.notify_all();
    }
}

impl Line {
    fn push(&self, body: Arc<Body>) {
        self.state.lock().bodies.push_back(body);
        self.arrived.notify_one();
    }

    fn work(&self) {
        loop {
            let body = {
                let mut state = self.state.lock();
                loop {
                    match state.bodies.pop_front() {
                        Some(body) => break body,
                        None if state.closed => return,
                        None => self.arrived.wait(&mut state),
                    }
                }
            };
            while body.work(&self.waiting_bytes) {
                // Alone, it stays with the thread that has its state in the cache.
                let mut state = self.state.lock();
                if !state.bodies.is_empty() {
                    state.bodies.push_back(body);
                    break;
                }
            }
        }
    }
}

impl Body {
    /// One turn; whether there is more to do. `all_waiting`: what waits of all bodies.
    fn work(&self, all_waiting: &AtomicUsize) -> bool {
        let Some(mut digests) = self.state.lock().digests.take() else { return false };
        let mut done = 0;
        loop {
            let mut state = self.state.lock();
            let piece = if done < TURN_BYTES { state.pieces.pop_front() } else { None };
            let Some(piece) = piece else {
                state.in_line = !state.pieces.is_empty();
                state.digests = Some(digests);
                let in_line = state.in_line;
                drop(state);
                self.progress.notify_one();
                return in_line;
            };
            drop(state);
            digests.update(&piece);
            done += piece.len();
            all_waiting.fetch_sub(piece.len(), Relaxed);
            let mut state = self.state.lock();
            // An abandoned body has counted down already.
            state.waiting_bytes = state.waiting_bytes.saturating_sub(piece.len());
            let half = state.waiting_bytes <= WAITING_BYTES_MAX / 2;
            drop(state);
            drop(piece);
            if half {
                self.progress.notify_one();
            }
        }
    }
}

/// The digests of one body, computed elsewhere. Dropping it gives them up.
pub(crate) struct PooledDigests {
    body: Arc<Body>,
    line: Arc<Line>,
}

impl PooledDigests {
    /// Adds the next piece; waits while too much of the body is still to be worked off. A dropped future has
    /// not taken the piece.
    pub(crate) async fn update(&mut self, piece: Bytes) {
        loop {
            {
                let mut state = self.body.state.lock();
                let all = self.line.waiting_bytes.load(Relaxed) + piece.len();
                let most = if all <= ALL_WAITING_BYTES_MAX { WAITING_BYTES_MAX } else { WAITING_BYTES_LEAST };
                if state.waiting_bytes == 0 || state.waiting_bytes + piece.len() <= most {
                    self.line.waiting_bytes.fetch_add(piece.len(), Relaxed);
                    state.waiting_bytes += piece.len();
                    state.pieces.push_back(piece);
                    if std::mem::replace(&mut state.in_line, true) {
                        return;
                    }
                    break;
                }
            }
            self.body.progress.notified().await;
        }
        self.line.push(Arc::clone(&self.body));
    }

    /// Waits for the last piece.
    pub(crate) async fn finish(self) -> Digested {
        loop {
            {
                let mut state = self.body.state.lock();
                if !state.in_line
                    && let Some(digests) = state.digests.take()
                {
                    return digests.finish();
                }
            }
            self.body.progress.notified().await;
        }
    }
}

impl Drop for PooledDigests {
    fn drop(&mut self) {
        let mut state = self.body.state.lock();
        let given_up = state.pieces.drain(..).map(|piece| piece.len()).sum();
        self.line.waiting_bytes.fetch_sub(given_up, Relaxed);
        state.waiting_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::body::checksum::ChecksumAlgorithm;

    const ALL: WantedDigests =
        WantedDigests { md5: true, sha256: true, checksum: Some(ChecksumAlgorithm::Crc64Nvme) };

    fn bytes(seed: u64, len: usize) -> Bytes {
        let mut rng = fastrand::Rng::with_seed(seed);
        Bytes::from((0..len).map(|_| rng.u8(..)).collect::<Vec<u8>>())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_bodies_at_once_keep_their_order() {
        let pool = DigestPool::start().expect("threads");
        let bodies: Vec<_> = (0..20)
            .map(|seed| {
                let mut digests = pool.body(ALL);
                tokio::spawn(async move {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let whole = bytes(seed, 3 << 20);
                    let mut rest = whole.clone();
                    while !rest.is_empty() {
                        let piece = rest.split_to(rng.usize(1..=200_000).min(rest.len()));
                        digests.update(piece).await;
                    }
                    let mut expected = Digests::new(ALL);
                    expected.update(&whole);
                    assert_eq!(digests.finish().await, expected.finish(), "body {seed}");
                })
            })
            .collect();
        for body in bodies {
            body.await.expect("equal");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waits_is_bounded() {
        let pool = DigestPool::start().expect("threads");
        let mut digests = pool.body(ALL);
        let piece = bytes(1, 100_000);
        for _ in 0..200 {
            digests.update(piece.clone()).await;
            let waiting: usize = digests.body.state.lock().pieces.iter().map(Bytes::len).sum();
            assert!(waiting <= WAITING_BYTES_MAX, "{waiting}");
        }
        // A piece beyond the bound is taken when nothing else waits.
        digests.update(bytes(2, 2 * WAITING_BYTES_MAX)).await;
        assert_eq!(digests.finish().await.length, 20_000_000 + 2 * WAITING_BYTES_MAX as u64);
        assert_eq!(pool.line.waiting_bytes.load(Relaxed), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn beyond_the_bound_of_all_each_body_has_a_little() {
        // No thread works anything off.
        let line = Arc::new(Line {
            state: Mutex::default(),
            arrived: Condvar::new(),
            waiting_bytes: AtomicUsize::new(0),
        });
        let pool = DigestPool { line };
        let piece = bytes(1, WAITING_BYTES_LEAST / 2);
        let mut bodies = Vec::new();
        let fill = async |bodies: &mut Vec<PooledDigests>| {
            let mut digests = pool.body(ALL);
            let mut taken = 0;
            while digests.update(piece.clone()).now_or_never().is_some() {
                taken += piece.len();
            }
            bodies.push(digests);
            taken
        };
        for number in 0..ALL_WAITING_BYTES_MAX / WAITING_BYTES_MAX {
            assert_eq!(fill(&mut bodies).await, WAITING_BYTES_MAX, "body {number}");
        }
        assert_eq!(fill(&mut bodies).await, WAITING_BYTES_LEAST);
        bodies.swap_remove(0);
        let given_back = fill(&mut bodies).await;
        assert_eq!(
            given_back,
            WAITING_BYTES_MAX - WAITING_BYTES_LEAST,
            "an abandoned body gives its share back"
        );
        bodies.clear();
        assert_eq!(pool.line.waiting_bytes.load(Relaxed), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_empty_body_and_an_abandoned_one() {
        let pool = DigestPool::start().expect("threads");
        let mut abandoned = pool.body(ALL);
        abandoned.update(bytes(3, 500_000)).await;
        drop(abandoned);
        let empty = pool.body(ALL).finish().await;
        assert_eq!(empty, Digests::new(ALL).finish());
    }
}
