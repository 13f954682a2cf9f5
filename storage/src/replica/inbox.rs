//! What waits to be proposed: filled by connections, drained by the driver thread once a turn.
//!
//! Bounded in bytes: a submission first takes its share of a semaphore and gives it back when it is
//! answered, so that writers wait in their own tasks when the log cannot keep up.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, oneshot};

use crate::error::{Error, Result};
use crate::keyspace::view::View;
use crate::mutation::Outcome;
use crate::submission::Submission;

/// What a submission came to, before its views are dressed for the front ends.
#[derive(Default)]
pub(crate) struct RawOutcomes {
    pub(crate) results: Vec<Outcome>,
    pub(crate) views: Vec<View>,
}

/// A submission and who waits for it.
pub(crate) struct Pending {
    pub(crate) submission: Submission,
    reply: oneshot::Sender<Result<RawOutcomes>>,
    /// Its share of the inbox.
    _permit: Option<OwnedSemaphorePermit>,
    /// Keeps eviction from judging what it builds on.
    _gate: Option<OwnedRwLockReadGuard<()>>,
}

impl Pending {
    pub(crate) fn new(
        submission: Submission,
        permit: Option<OwnedSemaphorePermit>,
    ) -> (Pending, oneshot::Receiver<Result<RawOutcomes>>) {
        let (reply, answer) = oneshot::channel();
        (Pending { submission, reply, _permit: permit, _gate: None }, answer)
    }

    /// The same; what it is given it keeps until it is answered.
    pub(crate) fn keeping(
        submission: Submission,
        permit: OwnedSemaphorePermit,
        gate: Option<OwnedRwLockReadGuard<()>>,
    ) -> (Pending, oneshot::Receiver<Result<RawOutcomes>>) {
        let (pending, answer) = Pending::new(submission, Some(permit));
        (Pending { _gate: gate, ..pending }, answer)
    }

    /// Answers; nobody may be waiting any more.
    pub(crate) fn answer(self, outcomes: Result<RawOutcomes>) {
        let _ = self.reply.send(outcomes);
    }
}

#[derive(Default)]
struct Queue {
    pending: Vec<Pending>,
    stopped: bool,
    stops_soon: bool,
    #[cfg(test)]
    dead: bool,
}

/// See the file's head.
#[derive(Default)]
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

/// What the driver finds.
pub(crate) enum Arrived {
    /// Submissions, or nothing until the time was over.
    Batch(Vec<Pending>),
    /// The inbox was closed and is empty.
    Stopped,
    /// The process is to be as good as dead.
    #[cfg(test)]
    Dead,
}

impl Inbox {
    /// Adds a submission; fails it at once if the inbox is closed.
    pub(crate) fn push(&self, pending: Pending) {
        let mut queue = self.queue.lock();
        if queue.stopped {
            drop(queue);
            pending.answer(Err(Error::Stopping));
            return;
        }
        queue.pending.push(pending);
        let first = queue.pending.len() == 1;
        drop(queue);
        if first {
            self.arrived.notify_one();
        }
    }

    /// Takes all that has arrived, waiting for the first until `until`.
    pub(crate) fn take(&self, wait: Duration) -> Arrived {
        let mut queue = self.queue.lock();
        if queue.pending.is_empty() && !queue.stopped {
            let until = Instant::now() + wait;
            while queue.pending.is_empty() && !queue.stopped {
                if self.arrived.wait_until(&mut queue, until).timed_out() {
                    break;
                }
            }
        }
        #[cfg(test)]
        if queue.dead {
            return Arrived::Dead;
        }
        if queue.pending.is_empty() && queue.stopped {
            return Arrived::Stopped;
        }
        Arrived::Batch(std::mem::take(&mut queue.pending))
    }

    /// Takes no more, and answers nothing of what is in it.
    #[cfg(test)]
    pub(crate) fn die(&self) {
        let mut queue = self.queue.lock();
        (queue.stopped, queue.dead) = (true, true);
        queue.pending.clear();
        self.arrived.notify_all();
    }

    /// Takes no more; what is in it is still worked off, as far as the log has room.
    pub(crate) fn stop(&self) {
        let mut queue = self.queue.lock();
        (queue.stopped, queue.stops_soon) = (true, true);
        self.arrived.notify_all();
    }

    /// A stop will follow: everything goes on but what finds no room in the log, which is not waited for any more. Those
    /// who wait for it may have to end before the stop can come.
    pub(crate) fn announce_stop(&self) {
        self.queue.lock().stops_soon = true;
    }

    pub(crate) fn stops_soon(&self) -> bool {
        self.queue.lock().stops_soon
    }

    /// Takes no more, and refuses what is in it.
    pub(crate) fn refuse_all(&self) {
        self.stop();
        let pending = std::mem::take(&mut self.queue.lock().pending);
        pending.into_iter().for_each(|pending| pending.answer(Err(Error::Stopping)));
    }
}
