//! The flush worker: turns the queue's decisions into attempts, and their ends into what the log knows.
//!
//! Owns the queue and its lock, and the attempts in flight. Below: `config`, `load` the queue's beginning, `mount` each
//! mount's way from configured to ready, `leftovers` what is given up at origins, `wait`, `view`. Does not own rows or
//! bodies (the core's, through [`FlushLog`](super::FlushLog) and [`FlushSource`](super::FlushSource)), nor any decision
//! about order ([`FlushQueue`]).
//!
//! What must hold: only one `run` at a time, on the leader; every change of a flush row is told to
//! [`Flusher::observe`] before its proposal is answered. Bounds: attempts by the queue's settings, events while loading
//! by [`LOADING_EVENTS_MAX`].
//!
//! What a crash leaves: rows and started rows. The next `run` loads them, waits for what may still be
//! alive, and goes on.

mod config;
mod leftovers;
mod load;
mod mount;
#[cfg(test)]
mod tests;
mod view;
mod wait;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use self::config::{ChecksumMode, FlusherConfig, MountSpec};
use self::load::LOADING_EVENTS_MAX;
use self::mount::{Mount, MountState};
pub(crate) use self::wait::Arriving;
use super::arrivals::Arrivals;
use super::asked::AskedUploads;
use super::batch::Batcher;
use super::contract::{FlushEvent, LogError, RowId, SharedLog, SharedSource, SourceError};
use super::parts::MEMORY_MIB;
use super::queue::{Ended, FlushQueue, ParkOrder, Start};
use super::stale::StaleUploads;
use super::upload::Courier;
use crate::log_limit::LogLimit;
use crate::object_name::encode_key;
use crate::origin::{ErrorClass, Landing};

/// Longest sleep of the loop.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// The worker. Shared between apply (which tells events), the server (which runs it) and the front ends
/// (which ask and wait).
pub struct Flusher {
    config: FlusherConfig,
    mounts: Vec<Mount>,
    log: SharedLog,
    source: SharedSource,
    /// Held for single steps of the queue, never over an await; apply takes it for each event.
    stage: Mutex<Stage>,
    /// Uploads to be given up at their origins; rows of theirs are kept until then.
    stale: Arc<StaleUploads>,
    /// Uploads whose names nobody knows, to be looked for there.
    asked: AskedUploads,
    /// Counts what was added to both.
    leftovers: watch::Sender<u64>,
    wake: Notify,
    /// Counts changes that a wait may wait for.
    changes: watch::Sender<u64>,
    arrivals: Arc<Arrivals>,
    clock: Clock,
    /// Until then, by `clock`, requests of mounts that are gone may arrive: no prefix is found empty before.
    strays_until_ms: AtomicU64,
    counters: Counters,
    parked_lines: LogLimit,
}

enum Stage {
    /// Events are dropped: the next load sees what they say.
    Stopped,
    Loading {
        events: Vec<FlushEvent>,
        overflown: bool,
    },
    Running(Box<FlushQueue>),
}

/// The queue's clock: starts at the wall clock and never jumps, so that no jump ends a fence or stops a
/// timer.
struct Clock {
    base_ms: u64,
    start: Instant,
}

impl Clock {
    fn now_ms(&self) -> u64 {
        self.base_ms.saturating_add(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

#[derive(Default)]
struct Counters {
    flushed_objects: AtomicU64,
    flushed_bytes: AtomicU64,
    errors: [AtomicU64; ErrorClass::ALL.len()],
}

/// Attempts in flight: their tasks, and which attempt each task is (a task that panics cannot say it).
#[derive(Default)]
struct Flights {
    tasks: JoinSet<Ended>,
    starts: HashMap<Id, Start>,
}

impl Flusher {
    /// A worker that does nothing yet. `mounts` are those with an origin.
    pub fn new(
        config: FlusherConfig,
        mounts: Vec<MountSpec>,
        log: SharedLog,
        source: SharedSource,
    ) -> Arc<Flusher> {
        let mounts = mounts.into_iter().map(|spec| {
            let MountSpec { attached, existing, .. } = spec;
            let state = MountState { attached, existing, ..MountState::default() };
            let (oldest_ms, only_crc32c) = (AtomicU64::new(u64::MAX), Arc::default());
            Mount { spec, state: Mutex::new(state), oldest_ms, only_crc32c }
        });
        Arc::new(Flusher {
            mounts: mounts.collect(),
            clock: Clock { base_ms: source.now_ms(), start: Instant::now() },
            stage: Mutex::new(Stage::Stopped),
            stale: Arc::new(StaleUploads::new(Duration::from_millis(config.queue.margin_ms))),
            asked: AskedUploads::default(),
            leftovers: watch::Sender::new(0),
            wake: Notify::new(),
            changes: watch::Sender::new(0),
            arrivals: Arc::default(),
            strays_until_ms: AtomicU64::new(0),
            counters: Counters::default(),
            parked_lines: LogLimit::default(),
            config,
            log,
            source,
        })
    }

    /// Takes up changes of flush rows, in the order of the log. Called by apply; takes a short lock and
    /// never waits.
    pub fn observe(&self, events: impl IntoIterator<Item = FlushEvent>) {
        let mut settles = false;
        let mut arrived = Vec::new();
        {
            let mut stage = self.stage.lock();
            for event in events {
                arrived.extend(self.arrivals.name_of(&event));
                settles |= !matches!(event, FlushEvent::Row { .. });
                self.observe_leftover(&event);
                if let FlushEvent::Unmounted(mount) = &event
                    && let Some(mount) = self.mount(*mount)
                {
                    mount.state.lock().forgotten = true;
                }
                match &mut *stage {
                    Stage::Stopped => {}
                    Stage::Loading { events, overflown } if events.len() >= LOADING_EVENTS_MAX => {
                        events.clear();
                        *overflown = true;
                    }
                    Stage::Loading { events, .. } => events.push(event),
                    Stage::Running(queue) => queue.observe(event),
                }
            }
        }
        self.wake.notify_one();
        self.arrivals.wake(&arrived);
        if settles {
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Works the queue until `stop`: loads the rows, attaches and probes the mounts, makes attempts.
    /// Then gives those in flight the grace period, and returns the number of rows that stay queued. To
    /// be called when this node leads and has applied an entry of its own term. Dropping the future
    /// abandons the attempts in flight; their started rows say so.
    pub async fn run(self: &Arc<Self>, stop: CancellationToken) -> Result<u64, SourceError> {
        self.load().await?;
        let most = self.config.queue.concurrency.max(1);
        let log = self.log.clone();
        let (starts, _) = Batcher::spawn(most, move |batch| {
            let log = log.clone();
            async move { log.flush_started(batch).await }
        });
        let log = self.log.clone();
        let (records, _) = Batcher::spawn(most, move |batch: Vec<_>| {
            let (log, count) = (log.clone(), batch.len());
            async move { log.flushed(batch).await.map(|()| vec![(); count]) }
        });
        let log = self.log.clone();
        let (transfers, _) = Batcher::spawn(most, move |batch| {
            let log = log.clone();
            async move { log.transfer(batch).await }
        });
        let courier = Arc::new(Courier {
            cluster: self.config.cluster,
            log: self.log.clone(),
            source: self.source.clone(),
            starts,
            records,
            transfers,
            stale: self.stale.clone(),
            part_bytes: self.config.part_bytes,
            part_concurrency: self.config.part_concurrency,
            part_memory: Semaphore::new(MEMORY_MIB),
            attempt_timeout: self.config.attempt_timeout,
            least_bandwidth: self.config.least_bandwidth,
            attempt_max: Duration::from_millis(self.config.queue.attempt_ms_max),
        });
        let mut attaching = JoinSet::new();
        for mount in 0..self.mounts.len() {
            attaching.spawn(self.clone().make_ready(mount));
            attaching.spawn(self.clone().see_to_leftovers(mount));
        }
        self.warn_of_unreachable();
        let mut flights = Flights::default();
        let mut parking = JoinSet::new();
        loop {
            let sleep = self.start_all(&courier, &mut flights);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(sleep) => {}
                Some(ended) = flights.tasks.join_next_with_id() => {
                    self.ended(&mut flights, ended, &mut parking);
                }
                Some(_) = parking.join_next() => {}
            }
        }
        attaching.shutdown().await;
        let grace = tokio::time::timeout(self.config.stop_grace, async {
            while let Some(ended) = flights.tasks.join_next_with_id().await {
                self.ended(&mut flights, ended, &mut parking);
            }
        });
        if grace.await.is_err() {
            tracing::info!(attempts = flights.starts.len(), "flush stops with attempts in flight");
        }
        // What is aborted here keeps its started row; the next run waits for it.
        flights.tasks.shutdown().await;
        parking.shutdown().await;
        let stage = std::mem::replace(&mut *self.stage.lock(), Stage::Stopped);
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        self.arrivals.wake_all();
        Ok(match stage {
            Stage::Running(queue) => queue.len(),
            Stage::Stopped | Stage::Loading { .. } => 0,
        })
    }

    /// Takes a row up again: unparks it, and tries it at once.
    pub async fn retry(&self, row: RowId) -> Result<(), LogError> {
        let (bucket, key) = (row.bucket, row.key.clone());
        self.log.unpark(row).await?;
        self.with_queue(|queue| queue.retry_now(bucket, &key));
        self.wake.notify_one();
        Ok(())
    }

    /// Gives a row up by an operator's word: the origin stays as it is.
    pub async fn abandon(&self, row: RowId) -> Result<(), LogError> {
        self.log.abandon(row).await
    }

    fn with_queue<T>(&self, look: impl FnOnce(&mut FlushQueue) -> T) -> Option<T> {
        match &mut *self.stage.lock() {
            Stage::Running(queue) => Some(look(queue)),
            Stage::Stopped | Stage::Loading { .. } => None,
        }
    }

    /// Starts what may start, and says how long nothing will happen by time alone.
    fn start_all(&self, courier: &Arc<Courier>, flights: &mut Flights) -> Duration {
        loop {
            let now_ms = self.clock.now_ms();
            let next = self.with_queue(|queue| {
                self.note_ages(queue);
                (queue.next_start(now_ms), queue.wake_at())
            });
            let Some((start, wake_at)) = next else { return SLEEP_MAX };
            let Some(start) = start else {
                let wait =
                    wake_at.map(|wake_at| Duration::from_millis(wake_at.saturating_sub(now_ms).max(1)));
                return wait.map_or(SLEEP_MAX, |wait| wait.min(SLEEP_MAX));
            };
            let target = self.target(start.mount);
            let courier = courier.clone();
            let attempt = start.clone();
            let task = flights.tasks.spawn(async move {
                match target {
                    Some(target) => courier.attempt(&attempt, &target).await,
                    None => Ended::NotStarted,
                }
            });
            flights.starts.insert(task.id(), start);
        }
    }

    fn ended(
        self: &Arc<Self>,
        flights: &mut Flights,
        ended: Result<(Id, Ended), JoinError>,
        parking: &mut JoinSet<()>,
    ) {
        let (id, ended) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // Nothing is known of what it sent.
                let ended = Ended::Failed {
                    class: ErrorClass::Other,
                    landing: Landing::Unknown,
                    retry_after_ms: None,
                    alive_ms: self.config.queue.attempt_ms_max,
                    message: "the attempt's task panicked".to_owned(),
                };
                (error.id(), ended)
            }
        };
        let Some(start) = flights.starts.remove(&id) else { return };
        self.count(&start, &ended);
        let now_ms = self.clock.now_ms();
        let order = self.with_queue(|queue| queue.finish(start.attempt, ended, now_ms)).flatten();
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        if let Some(order) = order {
            parking.spawn(self.clone().park(order));
        }
    }

    fn count(&self, start: &Start, ended: &Ended) {
        match ended {
            Ended::Done => {
                self.counters.flushed_objects.fetch_add(1, Ordering::Relaxed);
                self.counters.flushed_bytes.fetch_add(start.bytes, Ordering::Relaxed);
                if let Some(mount) = self.mount(start.mount) {
                    mount.state.lock().last_success_ms = Some(self.source.now_ms());
                }
            }
            Ended::Failed { class, landing, message, .. } => {
                if let Some(at) = ErrorClass::ALL.iter().position(|known| known == class) {
                    self.counters.errors[at].fetch_add(1, Ordering::Relaxed);
                }
                tracing::debug!(bucket = start.bucket.0, key = %encode_key(&start.key),
                    version = %start.version, %class, ?landing, %message, "flush attempt failed");
            }
            Ended::GoOn
            | Ended::NotStarted
            | Ended::Conflict
            | Ended::AskAgain { .. }
            | Ended::Unrecorded { .. } => {}
            Ended::MayNotGiveUp { message } => {
                tracing::debug!(bucket = start.bucket.0, key = %encode_key(&start.key),
                    version = %start.version, %message, "flush attempt waits");
            }
        }
    }

    async fn park(self: Arc<Self>, order: ParkOrder) {
        let ParkOrder { row, reason } = order;
        // What an origin refuses it may refuse of every key; `forebay flush ls --state parked` has them all.
        if let Some(not_shown) = self.parked_lines.admit(Instant::now()) {
            tracing::warn!(bucket = row.bucket.0, key = %encode_key(&row.key), version = %row.version, %reason,
                not_shown, "flush row parked");
        }
        // If the log refuses, the row fails again and is ordered to be parked again.
        let _ = self.log.park(row, reason).await;
    }
}
