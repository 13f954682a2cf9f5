//! The threads of a replica: the driver, which owns the engine, the checkpoint, those that touch cold rows
//! ahead of apply, and with `everysec` the syncer.
//!
//! The driver waits for submissions, runs a turn, hands a full memtable to the checkpoint thread, and
//! names the last batch as synced when nothing arrives for a while. Any fatal error ends the process:
//! what was answered is on disk, and a restart recovers it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::inbox::{Arrived, Inbox};
use super::prefetch::Prefetcher;
use super::{CheckpointJob, Engine, Fatal, SyncMode};
use crate::journal::{JournalError, PendingSync, Position};
use crate::keyspace::checkpoint::Checkpointer;

/// A tick of the consensus clock.
const TICK: Duration = Duration::from_millis(100);
/// Quiet time after which the last batch is named as synced.
const QUIET: Duration = Duration::from_millis(20);
/// Pause between syncs with `everysec`.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Pause before a checkpoint that failed for lack of space is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Longest wait of a stop for a checkpoint.
const STOP_WAIT: Duration = Duration::from_secs(60);

/// Counters of the checkpoint, for any thread.
#[derive(Default)]
pub(crate) struct DriverStats {
    /// Index of the last entry in the checkpoint.
    pub(crate) checkpointed: Arc<AtomicU64>,
    /// When that was, milliseconds since the Unix epoch.
    pub(crate) checkpointed_ms: AtomicU64,
}

/// Tells the driver that a checkpoint has ended.
#[derive(Default)]
pub(crate) struct CheckpointDone {
    /// Jobs sent and not ended; a new one may be sent while the last one tidies up.
    running: Mutex<u32>,
    ended: Condvar,
    /// The node stops: a checkpoint that waits for space ends, too. What it was to hold is in the journal.
    stopping: AtomicBool,
}

impl CheckpointDone {
    /// Waits until none is running, or the time is over.
    pub(crate) fn wait(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut running = self.running.lock();
        while *running > 0 {
            if self.ended.wait_until(&mut running, until).timed_out() {
                return;
            }
        }
    }

    /// Waits a moment: for the running checkpoint, or for space to come back.
    pub(crate) fn wait_or_pause(&self) {
        let mut running = self.running.lock();
        self.ended.wait_for(&mut running, Duration::from_millis(50));
    }

    fn is_running(&self) -> bool {
        *self.running.lock() > 0
    }

    fn begin(&self) {
        *self.running.lock() += 1;
    }

    fn end(&self) {
        let mut running = self.running.lock();
        *running = running.saturating_sub(1);
        self.ended.notify_all();
    }
}

/// The running threads.
pub(crate) struct Driver {
    inbox: Arc<Inbox>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share with the rest of the node.
pub(crate) struct DriverParts {
    pub(crate) engine: Engine,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) stats: Arc<DriverStats>,
    pub(crate) done: Arc<CheckpointDone>,
    pub(crate) sync: SyncMode,
    pub(crate) now_ms: Box<dyn Fn() -> u64 + Send>,
}

impl Driver {
    /// Starts the threads.
    pub(crate) fn start(parts: DriverParts) -> std::io::Result<Driver> {
        let DriverParts { mut engine, inbox, checkpointer, stats, done, sync, now_ms } = parts;
        let (jobs, job_queue) = sync_channel::<CheckpointJob>(1);
        let mut threads = Vec::new();
        let checkpoint_done = done.clone();
        let full = engine.status.clone();
        threads.push(spawn("checkpoint", move || {
            while let Ok(job) = job_queue.recv() {
                let stopping = &checkpoint_done.stopping;
                if checkpoint_until_done(&checkpointer, &job, &full.checkpoint_full, stopping) {
                    stats.checkpointed.store(job.row.index, Ordering::Release);
                    stats.checkpointed_ms.store(now_ms(), Ordering::Relaxed);
                }
                checkpoint_done.end();
            }
        })?);
        let syncer = match sync {
            SyncMode::Always => None,
            SyncMode::EverySec => {
                let (syncer, thread) = Syncer::start()?;
                threads.push(thread);
                Some(syncer)
            }
        };
        let (prefetcher, touching) = Prefetcher::start(engine.keyspace.clone())?;
        threads.extend(touching);
        let driver_inbox = inbox.clone();
        threads.push(spawn("driver", move || {
            let (relief_jobs, relief_done, relief_inbox) = (jobs.clone(), done.clone(), driver_inbox.clone());
            engine.relief = Box::new(move |job| {
                if let Some(job) = job {
                    send_job(&relief_jobs, &relief_done, job);
                }
                if !relief_inbox.stops_soon() {
                    relief_done.wait_or_pause();
                    return true;
                }
                relief_done.stopping.store(true, Ordering::Relaxed);
                let was_running = relief_done.is_running();
                relief_done.wait(STOP_WAIT);
                was_running
            });
            engine.prefetcher = Some(prefetcher);
            let mut driving = Driving { jobs, done, syncer };
            if let Err(fatal) = driving.run(&mut engine, &driver_inbox) {
                tracing::error!(error = %fatal, "the node stops at once; a restart recovers what was acknowledged");
                std::process::abort();
            }
        })?);
        Ok(Driver { inbox, threads })
    }

    /// Ends the threads, and leaves everything else as it stands. Blocks.
    #[cfg(test)]
    pub(crate) fn die(self) {
        self.inbox.die();
        self.join();
    }

    /// Works off the inbox, syncs, checkpoints what is in memory, and ends the threads. Blocks.
    pub(crate) fn stop(self) {
        self.inbox.stop();
        self.join();
    }

    fn join(self) {
        for thread in self.threads.into_iter().rev() {
            if thread.join().is_err() {
                tracing::error!("a storage thread panicked");
            }
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    // A panic in a storage thread means a broken invariant: nothing more may be acknowledged.
    let run = move || {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            std::process::abort();
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// Tries until it is in: true, or until the node stops. Only a lack of space is waited for; anything else about the
/// disk ends the process.
fn checkpoint_until_done(
    checkpointer: &Checkpointer,
    job: &CheckpointJob,
    full: &Mutex<Option<Arc<str>>>,
    stopping: &AtomicBool,
) -> bool {
    let pause = CheckpointDone { running: Mutex::new(1), ..CheckpointDone::default() };
    loop {
        match checkpointer.run(&job.frozen, job.row) {
            Ok(()) => {
                *full.lock() = None;
                return true;
            }
            Err(error) if error.is_full() && stopping.load(Ordering::Relaxed) => {
                tracing::warn!(%error, "stopped without a checkpoint; the next start reads the journal");
                return false;
            }
            Err(error) if error.is_full() => {
                if full.lock().is_none() {
                    tracing::error!(%error, "the checkpoint waits for space");
                }
                *full.lock() = Some(error.to_string().into());
                pause.wait(RETRY);
            }
            Err(error) => {
                tracing::error!(%error, "the checkpoint failed; the node stops at once");
                std::process::abort();
            }
        }
    }
}

fn send_job(jobs: &SyncSender<CheckpointJob>, done: &CheckpointDone, job: CheckpointJob) {
    done.begin();
    if jobs.send(job).is_err() {
        tracing::error!("the checkpoint thread is gone; the node stops at once");
        std::process::abort();
    }
}

/// Why the driver works no more.
enum Ended {
    Stopped,
    #[cfg(test)]
    Dead,
}

struct Driving {
    jobs: SyncSender<CheckpointJob>,
    done: Arc<CheckpointDone>,
    syncer: Option<Syncer>,
}

impl Driving {
    fn run(&mut self, engine: &mut Engine, inbox: &Inbox) -> Result<(), Fatal> {
        match self.work(engine, inbox) {
            Ok(Ended::Stopped) => {}
            #[cfg(test)]
            Ok(Ended::Dead) => return Ok(()),
            Err(error @ Fatal::Stopped) => {
                tracing::warn!("{error}");
                inbox.refuse_all();
                engine.answer_unknown();
            }
            Err(fatal) => return Err(fatal),
        }
        self.finish(engine)
    }

    /// Works until told to stop, and works off what there is by then.
    fn work(&mut self, engine: &mut Engine, inbox: &Inbox) -> Result<Ended, Fatal> {
        engine.start()?;
        let mut next_tick = Instant::now() + TICK;
        let mut named = false;
        loop {
            let wait = if named { TICK } else { QUIET };
            match inbox.take(wait) {
                Arrived::Stopped => return Ok(Ended::Stopped),
                #[cfg(test)]
                Arrived::Dead => return Ok(Ended::Dead),
                Arrived::Batch(batch) if batch.is_empty() => {
                    if self.syncer.is_none() && !named {
                        engine.idle()?;
                        named = true;
                    }
                }
                Arrived::Batch(batch) => {
                    engine.turn(batch)?;
                    named = false;
                }
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                engine.tick()?;
            }
            if let Some(syncer) = &mut self.syncer {
                syncer.turn(engine)?;
            }
            engine.release();
            self.maybe_checkpoint(engine, false);
            // While the checkpoint waits for space, only what shrinks is admitted, and that must go on.
            // Before a stop the last one may have been given up: then there is none to wait for.
            while engine.overgrown()
                && engine.status.checkpoint_full.lock().is_none()
                && self.done.is_running()
            {
                self.done.wait(Duration::from_secs(1));
            }
        }
    }

    /// Syncs what was written, and checkpoints it if there is room. Appends nothing but what a file has room for.
    fn finish(&mut self, engine: &mut Engine) -> Result<(), Fatal> {
        self.done.stopping.store(true, Ordering::Relaxed);
        engine.idle()?;
        self.done.wait(STOP_WAIT);
        self.maybe_checkpoint(engine, true);
        self.done.wait(STOP_WAIT);
        engine.release();
        engine.idle()
    }

    fn maybe_checkpoint(&self, engine: &mut Engine, now: bool) {
        if let Some(job) = engine.maybe_freeze(now) {
            send_job(&self.jobs, &self.done, job);
        }
    }
}

/// Syncs once a second beside the driver.
struct Syncer {
    requests: SyncSender<PendingSync>,
    results: Receiver<Result<Position, JournalError>>,
    busy: bool,
    next: Instant,
}

impl Syncer {
    fn start() -> std::io::Result<(Syncer, JoinHandle<()>)> {
        let (requests, queue) = sync_channel::<PendingSync>(1);
        let (done, results) = sync_channel(1);
        let thread = spawn("syncer", move || {
            while let Ok(sync) = queue.recv() {
                if done.send(sync.run()).is_err() {
                    return;
                }
            }
        })?;
        Ok((Syncer { requests, results, busy: false, next: Instant::now() }, thread))
    }

    fn turn(&mut self, engine: &mut Engine) -> Result<(), Fatal> {
        match self.results.try_recv() {
            Ok(result) => {
                self.busy = false;
                engine.journal.note_synced(result.map_err(Fatal::Journal)?);
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        let behind = engine.journal.synced() < engine.journal.written();
        if !self.busy && behind && Instant::now() >= self.next {
            self.next = Instant::now() + SYNC_EVERY;
            self.busy = self.requests.try_send(engine.journal.pending_sync()).is_ok();
        }
        Ok(())
    }
}
