//! The threads that write staged pieces, and sync them: one sync for everybody who waits for a file.
//!
//! Owns the queue of writes, who waits for which segment's sync, and the sweep of segments that nobody needs any
//! more. Does not own how much may be queued: whoever queues a write has taken its share of a bound before.
//!
//! Must hold: a sync answers only those whose writes had returned before it began. A sync that fails ends the
//! process: what it covered is in doubt, and nothing may be acknowledged on it.

use super::lane::{Lane, Room};
use super::segment::StagePin;
use super::store::SegmentStore;
use super::{BlobError, BlobId, SegmentId};
use crate::io::buffers::WriteBuffer;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Syncs at once; the other threads go on writing.
const SYNCS_MAX: usize = 2;

/// What comes of a job.
pub(crate) type Answer<T> = oneshot::Receiver<Result<T, BlobError>>;

/// Called when a write is done, or has failed: gives buffers and shares back.
type Done = Box<dyn FnOnce(WriteBuffer) + Send>;
type Reply<T> = oneshot::Sender<Result<T, BlobError>>;

/// See the file's head.
pub(crate) struct SegmentWriters {
    inner: Arc<Inner>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

struct Inner {
    segments: Arc<SegmentStore>,
    /// Without threads, jobs run where they are queued.
    threads: usize,
    /// Held for a push or a pop only.
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Who waits for a sync that has not begun.
    waiting: BTreeMap<SegmentId, Vec<Waiter>>,
    /// Segments with somebody in `waiting` and no sync under way, in the order of arrival.
    due: VecDeque<SegmentId>,
    syncing: BTreeSet<SegmentId>,
    sweep: bool,
    closed: bool,
}

struct Waiter {
    pin: StagePin,
    reply: Reply<()>,
}

enum Job {
    Reserve { lane: Lane, blob: BlobId, length: u64, listed: bool, reply: Reply<Room> },
    Write { pin: StagePin, bytes: WriteBuffer, offset: u64, sync: bool, done: Done, reply: Reply<()> },
}

enum Work {
    Job(Job),
    Sync(SegmentId, Vec<Waiter>),
    Sweep,
}

impl SegmentWriters {
    /// Starts the threads. With `threads` = 0 every job runs at once, where it is queued: for tests by seed.
    pub(crate) fn start(segments: Arc<SegmentStore>, threads: usize) -> std::io::Result<SegmentWriters> {
        let inner = Inner { segments, threads, queue: Mutex::default(), arrived: Condvar::new() };
        let writers = SegmentWriters { inner: Arc::new(inner), running: Mutex::default() };
        for number in 0..threads {
            let inner = writers.inner.clone();
            let work = move || {
                // A panic means a broken invariant: nothing more may be acknowledged.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| inner.work())).is_err() {
                    std::process::abort();
                }
            };
            // If one cannot be started, the drop ends the earlier ones.
            let thread = std::thread::Builder::new().name(format!("stage-{number}")).spawn(work)?;
            writers.running.lock().push(thread);
        }
        Ok(writers)
    }

    /// Reserves an extent, opening a segment where needed. If nobody takes the answer, the extent is given up.
    pub(crate) fn reserve(&self, lane: Lane, blob: BlobId, length: u64, listed: bool) -> Answer<Room> {
        let (reply, answer) = oneshot::channel();
        self.queue(Job::Reserve { lane, blob, length, listed, reply });
        answer
    }

    /// Writes whole blocks of a piece; with `sync` the answer comes once all that was written of the piece before
    /// and now is durable. `done` gets the buffer back as soon as it is not needed.
    pub(crate) fn write(
        &self,
        pin: StagePin,
        bytes: WriteBuffer,
        offset: u64,
        sync: bool,
        done: Done,
    ) -> Answer<()> {
        let (reply, answer) = oneshot::channel();
        self.queue(Job::Write { pin, bytes, offset, sync, done, reply });
        answer
    }

    /// Frees segments that nobody needs any more, soon.
    pub(crate) fn sweep(&self) {
        if self.inner.threads == 0 {
            self.inner.segments.free_unused();
            return;
        }
        self.inner.queue.lock().sweep = true;
        self.inner.arrived.notify_one();
    }

    /// Takes no more, works off what was queued, and ends the threads. Blocks. When it returns nothing writes to
    /// the segments any more.
    pub(crate) fn stop(&self) {
        self.close();
        for thread in std::mem::take(&mut *self.running.lock()) {
            // A thread that panicked has ended the process.
            let _ = thread.join();
        }
    }

    fn close(&self) {
        self.inner.queue.lock().closed = true;
        self.inner.arrived.notify_all();
    }

    /// Segments being synced.
    #[cfg(test)]
    pub(crate) fn syncing(&self) -> usize {
        self.inner.queue.lock().syncing.len()
    }

    /// Pieces that wait for a sync that has not begun.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.inner.queue.lock().waiting.values().map(Vec::len).sum()
    }

    fn queue(&self, job: Job) {
        let mut queue = self.inner.queue.lock();
        if queue.closed {
            // Whoever waits for it learns that the channel is closed.
            return;
        }
        queue.jobs.push_back(job);
        drop(queue);
        if self.inner.threads > 0 {
            self.inner.arrived.notify_one();
            return;
        }
        while let Some(work) = self.inner.next(false) {
            self.inner.run(work);
        }
    }
}

impl Drop for SegmentWriters {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn work(&self) {
        while let Some(work) = self.next(true) {
            self.run(work);
        }
    }

    fn next(&self, wait: bool) -> Option<Work> {
        let mut queue = self.queue.lock();
        loop {
            // Syncs first, but never on all threads: those who wait for one have waited longest.
            if queue.syncing.len() < SYNCS_MAX
                && let Some(segment) = queue.due.pop_front()
            {
                queue.syncing.insert(segment);
                return Some(Work::Sync(segment, queue.waiting.remove(&segment).unwrap_or_default()));
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(Work::Job(job));
            }
            if std::mem::take(&mut queue.sweep) {
                return Some(Work::Sweep);
            }
            if queue.closed || !wait {
                return None;
            }
            self.arrived.wait(&mut queue);
        }
    }

    fn run(&self, work: Work) {
        match work {
            Work::Job(Job::Reserve { lane, blob, length, listed, reply }) => {
                let room = self.segments.reserve(lane, blob, length, listed);
                self.stop_at_failed_sync(room.as_ref().err());
                if reply.send(room).is_err() && listed {
                    self.segments.forget_staged(&[blob]);
                }
            }
            Work::Job(Job::Write { pin, bytes, offset, sync, done, reply }) => {
                let written = pin.segment().write_direct(&bytes, offset);
                done(bytes);
                match written {
                    Ok(()) if sync => self.await_sync(Waiter { pin, reply }),
                    written => {
                        let _ = reply.send(written);
                    }
                }
            }
            Work::Sync(segment, waiters) => self.sync(segment, waiters),
            Work::Sweep => self.segments.free_unused(),
        }
    }

    fn stop_at_failed_sync(&self, error: Option<&BlobError>) {
        if let Some(error @ BlobError::SyncFailed(_)) = error
            && self.threads > 0
        {
            tracing::error!(%error, "the node stops at once; a restart recovers what was acknowledged");
            std::process::abort();
        }
    }

    fn await_sync(&self, waiter: Waiter) {
        let segment = waiter.pin.segment().id;
        let mut queue = self.queue.lock();
        let waiting = queue.waiting.entry(segment).or_default();
        waiting.push(waiter);
        if waiting.len() == 1 && !queue.syncing.contains(&segment) {
            queue.due.push_back(segment);
            drop(queue);
            self.arrived.notify_one();
        }
    }

    fn sync(&self, id: SegmentId, waiters: Vec<Waiter>) {
        let Some(first) = waiters.first() else { return };
        let mut synced = Some(first.pin.segment().sync());
        self.stop_at_failed_sync(synced.as_ref().and_then(|synced| synced.as_ref().err()));
        let mut queue = self.queue.lock();
        queue.syncing.remove(&id);
        if queue.waiting.contains_key(&id) {
            queue.due.push_back(id);
        }
        drop(queue);
        // A sync may have been held back by the number of those under way.
        self.arrived.notify_one();
        let all_well = matches!(synced, Some(Ok(())));
        for Waiter { reply, .. } in waiters {
            // Behind the first, a waiter of a failed sync finds its channel closed.
            if let Some(answer) = synced.take().or_else(|| all_well.then_some(Ok(()))) {
                let _ = reply.send(answer);
            }
        }
    }
}
