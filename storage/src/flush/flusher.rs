//! The flush worker: turns the queue's decisions into attempts, and their ends into what the log knows.
//!
//! Owns the queue and its lock, the attempts in flight, and each mount's way from configured to ready
//! (attach, probe). Does not own rows or bodies (the core's, through [`FlushLog`] and [`FlushSource`]),
//! nor any decision about order ([`FlushQueue`]).
//!
//! What must hold: only one `run` at a time, on the leader; every change of a flush row is told to
//! [`Flusher::observe`] before its proposal is answered. Bounds: attempts by the queue's settings,
//! events while loading by [`LOADING_EVENTS_MAX`] (beyond it the load starts over).
//!
//! What a crash leaves: rows and started rows. The next `run` loads them, waits for what may still be
//! alive, and goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::arrivals::Arrivals;
use super::asked::AskedUploads;
use super::batch::Batcher;
use super::contract::{FlushEvent, Loaded, LogError, MountId, RowId, SharedLog, SharedSource, SourceError};
use super::parts::MEMORY_MIB;
use super::queue::{
    Ended, FlushQueue, MountHealth, ParkOrder, Pending, QueueConfig, QueueLoad, QueueMount, RowPlace,
    RowState, RowView, Start,
};
use super::stale::StaleUploads;
use super::status::{FlushStatus, MountStatus};
use super::upload::{Courier, Target};
use crate::object::{BucketId, ClusterId, Version};
use crate::object_name::encode_key;
use crate::origin::{Capabilities, ErrorClass, Landing, Origin};

/// Most events kept while the queue is being loaded.
const LOADING_EVENTS_MAX: usize = 1 << 20;
/// Longest sleep of the loop.
const SLEEP_MAX: Duration = Duration::from_secs(5);
/// Least time between two looks of a wait at the queue.
const WAIT_PAUSE: Duration = Duration::from_millis(10);

/// Settings of the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlusherConfig {
    /// Whose mark objects carry in the origin.
    pub cluster: ClusterId,
    /// Settings of the queue.
    pub queue: QueueConfig,
    /// Time of an attempt before that of its bytes. Longer lets a slow origin answer; shorter makes the
    /// wait after a lost answer or a crash shorter.
    pub attempt_timeout: Duration,
    /// Bytes per second that a body may be expected to move at, at worst.
    pub least_bandwidth: u64,
    /// Longer bodies go by multipart upload, in parts of this length (or the client's). Shorter: less is sent
    /// again after a failure; longer: fewer requests.
    pub part_bytes: u64,
    /// Parts of one body that are sent at once.
    pub part_concurrency: usize,
    /// First and longest wait between two tries to attach or reach a mount.
    pub mount_retry: (Duration, Duration),
    /// How long attempts in flight may go on after a stop.
    pub stop_grace: Duration,
    /// Seed of the jitter of waits.
    pub seed: u64,
}

impl FlusherConfig {
    /// Defaults: 30 s an attempt and 256 KiB/s, mounts retried every 1 to 30 s, 5 s of grace.
    pub fn new(cluster: ClusterId) -> FlusherConfig {
        FlusherConfig {
            cluster,
            queue: QueueConfig::default(),
            attempt_timeout: Duration::from_secs(30),
            least_bandwidth: 256 * 1024,
            part_bytes: 8 << 20,
            part_concurrency: 4,
            mount_retry: (Duration::from_secs(1), Duration::from_secs(30)),
            stop_grace: Duration::from_secs(5),
            seed: 1,
        }
    }
}

/// One mount, as configured and recorded.
#[derive(Clone)]
pub struct MountSpec {
    /// Number, from its record in the log.
    pub id: MountId,
    /// Bucket.
    pub bucket: BucketId,
    /// Keys under it begin with this; not repeated in the origin.
    pub key_prefix: Bytes,
    /// The origin.
    pub origin: Arc<dyn Origin>,
    /// What origin keys begin with: empty, or ending in `/`.
    pub origin_prefix: String,
    /// Whether the record says that the origin prefix is ours.
    pub attached: bool,
    /// `order = "fifo"`.
    pub fifo: bool,
    /// Least time between two uploads of one key.
    pub min_interval: Duration,
    /// Whether bodies travel with a checksum.
    pub checksums: ChecksumMode,
    /// Whether nothing is sent: rows from before wait.
    pub read_only: bool,
    /// Whether the record says that the origin held what this cluster had not put there.
    pub existing: bool,
    /// Whether others write into the origin.
    pub revalidate: bool,
    /// How long a writer waits for this origin, if the mount is write-through.
    pub write_through_timeout: Duration,
}

/// Whether bodies travel to an origin with a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChecksumMode {
    /// Where the origin was seen to check it.
    #[default]
    Auto,
    /// Always: an origin that does not check it is not used.
    Required,
    /// Never, but for Content-MD5.
    None,
}

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
    stale_added: Notify,
    /// Uploads whose names nobody knows, to be looked for there.
    asked: AskedUploads,
    asked_added: Notify,
    wake: Notify,
    /// Counts changes that a wait may wait for.
    changes: watch::Sender<u64>,
    arrivals: Arrivals,
    clock: Clock,
    /// Until then, by `clock`, requests of mounts that are gone may arrive: no prefix is found empty before.
    strays_until_ms: AtomicU64,
    counters: Counters,
}

struct Mount {
    spec: MountSpec,
    state: Mutex<MountState>,
}

#[derive(Debug, Clone, Default)]
struct MountState {
    attached: bool,
    existing: bool,
    forgotten: bool,
    capabilities: Option<Capabilities>,
    last_success_ms: Option<u64>,
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
            Mount { spec, state: Mutex::new(state) }
        });
        Arc::new(Flusher {
            mounts: mounts.collect(),
            clock: Clock { base_ms: source.now_ms(), start: Instant::now() },
            stage: Mutex::new(Stage::Stopped),
            stale: Arc::new(StaleUploads::new(Duration::from_millis(config.queue.margin_ms))),
            asked: AskedUploads::default(),
            stale_added: Notify::new(),
            asked_added: Notify::new(),
            wake: Notify::new(),
            changes: watch::Sender::new(0),
            arrivals: Arrivals::default(),
            strays_until_ms: AtomicU64::new(0),
            counters: Counters::default(),
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
        }
        attaching.spawn(self.clone().give_up_leftovers());
        attaching.spawn(self.clone().look_for_leftovers());
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

    /// Waits until every change up to `up_to` (only those of `keys`, if given) has reached the origin,
    /// until nothing but parked rows is left of them, or until the timeout. Such rows do not wait for
    /// `min_interval`. `None` if this node does not work the queue. The future may be dropped.
    pub async fn wait(
        &self,
        up_to: Version,
        keys: Option<&[(BucketId, Bytes)]>,
        timeout: Duration,
    ) -> Option<Pending> {
        let until = tokio::time::Instant::now() + timeout;
        let mut changes = self.changes.subscribe();
        let mut urged = false;
        loop {
            changes.mark_unchanged();
            if let Stage::Running(queue) = &mut *self.stage.lock() {
                if !std::mem::replace(&mut urged, true) {
                    queue.urge(up_to, keys);
                    self.wake.notify_one();
                }
                let settled = match keys {
                    None => queue.settled(up_to),
                    Some(_) => {
                        let pending = queue.pending(up_to, keys);
                        pending.rows == pending.parked
                    }
                };
                if settled {
                    return Some(queue.pending(up_to, keys));
                }
            }
            let changed = async {
                // The sender lives as long as self.
                let _ = changes.changed().await;
                tokio::time::sleep(WAIT_PAUSE).await;
            };
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return self.with_queue(|queue| queue.pending(up_to, keys));
            }
        }
    }

    /// Waits until every change of these keys up to `up_to` has reached the origin; such rows do not wait for
    /// `min_interval`. An error, for people, says why one has not: as soon as one is set aside, or when the timeout is
    /// over. The rows stay queued. The future may be dropped.
    pub async fn arrived(
        &self,
        up_to: Version,
        keys: &[(BucketId, Bytes)],
        timeout: Duration,
    ) -> Result<(), String> {
        let waiter = self.arrivals.wait_for(keys);
        let until = tokio::time::Instant::now() + timeout;
        // Once a key's changes up to there are settled they stay so.
        let mut rest: Vec<(BucketId, Bytes)> = keys.to_vec();
        let mut urged = false;
        loop {
            let parked = self.with_queue(|queue| {
                if !std::mem::replace(&mut urged, true) {
                    queue.urge(up_to, Some(keys));
                    self.wake.notify_one();
                }
                rest.retain(|key| queue.pending(up_to, Some(std::slice::from_ref(key))).rows > 0);
                let parked = queue.parked_len() > 0 && queue.pending(up_to, Some(&rest)).parked > 0;
                parked.then(|| why_pending(queue, &rest))
            });
            match parked {
                Some(Some(reason)) => return Err(reason),
                Some(None) if rest.is_empty() => return Ok(()),
                // Or the queue is not there yet.
                Some(None) | None => {}
            }
            if tokio::time::timeout_at(until, waiter.woken()).await.is_err() {
                let why = self.with_queue(|queue| why_pending(queue, &rest));
                let why = why.unwrap_or_else(|| "the flush queue is not worked yet".to_owned());
                return Err(format!("{why}; waited {timeout:?}"));
            }
        }
    }

    /// How long a writer waits for the mount's origin.
    pub(crate) fn write_through_timeout(&self, mount: MountId) -> Option<Duration> {
        self.mount(mount).map(|mount| mount.spec.write_through_timeout)
    }

    /// The rows of one key that have not reached the origin, oldest first: what `x-forebay-origin` says.
    pub fn rows_of(&self, bucket: BucketId, key: &[u8]) -> Vec<RowView> {
        self.with_queue(|queue| queue.rows_of(bucket, key)).unwrap_or_default()
    }

    /// At most `max` rows, oldest changes first, or parked ones only.
    pub fn list(&self, parked_only: bool, max: usize) -> Vec<RowView> {
        self.with_queue(|queue| queue.list(parked_only, max)).unwrap_or_default()
    }

    /// As [`Flusher::list`], from behind `after` on; with the place to go on from, if there may be more.
    pub fn page(
        &self,
        parked_only: bool,
        after: Option<RowPlace>,
        max: usize,
    ) -> (Vec<RowView>, Option<RowPlace>) {
        self.with_queue(|queue| queue.page(parked_only, after, max)).unwrap_or_default()
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

    /// The worker at this moment.
    pub fn status(&self) -> FlushStatus {
        let now_ms = self.source.now_ms();
        let stage = self.stage.lock();
        let queue = match &*stage {
            Stage::Running(queue) => Some(queue),
            Stage::Stopped | Stage::Loading { .. } => None,
        };
        let known = self.mounts.iter().filter(|mount| !mount.state.lock().forgotten);
        let mounts = known.map(|mount| {
            let state = mount.state.lock().clone();
            let health = queue.and_then(|queue| queue.mount_health(mount.spec.id));
            MountStatus {
                id: mount.spec.id,
                origin: mount.shown_origin(),
                attached: state.attached,
                capabilities: state.capabilities,
                health: health
                    .unwrap_or(MountHealth::NotReady { reason: "the queue is not loaded".to_owned() }),
                last_success_ms: state.last_success_ms,
            }
        });
        let errors = ErrorClass::ALL.iter().zip(&self.counters.errors);
        FlushStatus {
            running: queue.is_some(),
            mounts: mounts.collect(),
            pending_objects: queue.map_or(0, |queue| queue.len()),
            leftover_uploads: (self.stale.len() + self.asked.due_len(Instant::now())) as u64,
            pending_bytes: queue.map_or(0, |queue| queue.bytes()),
            parked_objects: queue.map_or(0, |queue| queue.parked_len() as u64),
            in_flight: queue.map_or(0, |queue| queue.in_flight() as u64),
            oldest_age_ms: queue
                .and_then(|queue| queue.oldest_since_ms())
                .map(|since_ms| now_ms.saturating_sub(since_ms)),
            flushed_objects: self.counters.flushed_objects.load(Ordering::Relaxed),
            flushed_bytes: self.counters.flushed_bytes.load(Ordering::Relaxed),
            errors: errors.map(|(class, count)| (*class, count.load(Ordering::Relaxed))).collect(),
        }
    }

    fn with_queue<T>(&self, look: impl FnOnce(&mut FlushQueue) -> T) -> Option<T> {
        match &mut *self.stage.lock() {
            Stage::Running(queue) => Some(look(queue)),
            Stage::Stopped | Stage::Loading { .. } => None,
        }
    }

    /// Builds the queue from the rows, while apply goes on.
    async fn load(self: &Arc<Self>) -> Result<(), SourceError> {
        loop {
            *self.stage.lock() = Stage::Loading { events: Vec::new(), overflown: false };
            let this = self.clone();
            let loaded = tokio::task::spawn_blocking(move || this.load_blocking()).await;
            let loaded =
                loaded.unwrap_or_else(|panic| Err(SourceError(format!("loading panicked: {panic}"))));
            let mut queue = match loaded {
                Ok(queue) => queue,
                Err(error) => {
                    *self.stage.lock() = Stage::Stopped;
                    return Err(error);
                }
            };
            let mut stage = self.stage.lock();
            let Stage::Loading { events, overflown } = &mut *stage else { continue };
            if *overflown {
                tracing::warn!("more changes than expected while the flush queue was loaded; loading again");
                continue;
            }
            events.drain(..).for_each(|event| queue.observe(event));
            tracing::info!(rows = queue.len(), bytes = queue.bytes(), "flush queue loaded");
            *stage = Stage::Running(queue);
            drop(stage);
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
            self.arrivals.wake_all();
            return Ok(());
        }
    }

    fn load_blocking(&self) -> Result<Box<FlushQueue>, SourceError> {
        let mounts = self.mounts.iter().map(|mount| QueueMount {
            id: mount.spec.id,
            bucket: mount.spec.bucket,
            prefix: mount.spec.key_prefix.clone(),
            fifo: mount.spec.fifo,
            min_interval_ms: u64::try_from(mount.spec.min_interval.as_millis()).unwrap_or(u64::MAX),
            read_only: mount.spec.read_only,
        });
        let (clock_ms, wall_ms) = (self.clock.now_ms(), self.source.now_ms());
        let mut load = QueueLoad::new(self.config.queue, mounts.collect(), self.config.seed, clock_ms);
        self.source.load(&mut |mut loaded| {
            match &loaded {
                Loaded::Stale(stale) => self.add_stale(stale),
                Loaded::Asked(asked) => self.add_asked(asked),
                Loaded::Row(_) | Loaded::Started(_) => {}
            }
            if let Loaded::Started(started) = &mut loaded {
                // From the wall clock of the log to the queue's own.
                started.deadline_ms = clock_ms.saturating_add(started.deadline_ms.saturating_sub(wall_ms));
                if !self.has_attached(started.bucket, &started.key) {
                    let most = clock_ms.saturating_add(self.config.queue.attempt_ms_max);
                    let dead = started.deadline_ms.min(most).saturating_add(self.config.queue.margin_ms);
                    self.strays_until_ms.fetch_max(dead, Ordering::Relaxed);
                }
            }
            load.push(loaded);
        })?;
        Ok(Box::new(load.finish()))
    }

    /// Whether the key's attempts went, as far as we know, where they would go now.
    fn has_attached(&self, bucket: BucketId, key: &[u8]) -> bool {
        self.covering(bucket, key).is_some_and(|mount| mount.spec.attached)
    }

    /// The mount with the longest prefix that covers a key.
    fn covering(&self, bucket: BucketId, key: &[u8]) -> Option<&Mount> {
        let covers = |mount: &&Mount| mount.spec.bucket == bucket && key.starts_with(&mount.spec.key_prefix);
        self.mounts.iter().filter(covers).max_by_key(|mount| mount.spec.key_prefix.len())
    }

    /// Starts what may start, and says how long nothing will happen by time alone.
    fn start_all(&self, courier: &Arc<Courier>, flights: &mut Flights) -> Duration {
        loop {
            let now_ms = self.clock.now_ms();
            let next = self.with_queue(|queue| (queue.next_start(now_ms), queue.wake_at()));
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

    fn target(&self, id: MountId) -> Option<Target> {
        let mount = self.mount(id)?;
        let MountState { capabilities, existing, .. } = mount.state.lock().clone();
        Some(Target {
            origin: mount.spec.origin.clone(),
            prefix_bytes: mount.spec.key_prefix.len(),
            origin_prefix: mount.spec.origin_prefix.clone(),
            capabilities: capabilities?,
            shared: existing || mount.spec.revalidate,
        })
    }

    fn mount(&self, id: MountId) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.spec.id == id)
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
        }
    }

    async fn park(self: Arc<Self>, order: ParkOrder) {
        let ParkOrder { row, reason } = order;
        tracing::warn!(bucket = row.bucket.0, key = %encode_key(&row.key), version = %row.version, %reason,
            "flush row parked");
        // If the log refuses, the row fails again and is ordered to be parked again.
        let _ = self.log.park(row, reason).await;
    }

    /// Brings a mount from configured to ready: its origin reached, what it was found to be recorded, and, where it
    /// is to be written, probed. Tries until it works; until then the mount's rows wait with the reason.
    async fn make_ready(self: Arc<Self>, at: usize) {
        let mount = &self.mounts[at];
        let (mut wait, longest) = self.config.mount_retry;
        while !mount.state.lock().forgotten {
            if self.awaits_strays(mount) && !mount.state.lock().attached {
                let reason = "an upload of a forgotten mount is given up first".to_owned();
                self.with_queue(|queue| queue.set_mount_ready(mount.spec.id, Err(reason)));
                tokio::time::sleep(wait).await;
                continue;
            }
            let dead_in_ms = self.strays_until_ms.load(Ordering::Relaxed).saturating_sub(self.clock.now_ms());
            if dead_in_ms > 0 && !mount.state.lock().attached {
                let reason =
                    format!("requests of a forgotten mount may be under way for {dead_in_ms} ms more");
                self.with_queue(|queue| queue.set_mount_ready(mount.spec.id, Err(reason)));
                tokio::time::sleep(Duration::from_millis(dead_in_ms)).await;
                continue;
            }
            match self.try_mount(mount).await {
                Ok(capabilities) => {
                    mount.state.lock().capabilities = capabilities;
                    let MountState { existing, .. } = mount.state.lock().clone();
                    tracing::info!(origin = %mount.shown_origin(), existing, ?capabilities, "origin ready");
                    self.with_queue(|queue| queue.set_mount_ready(mount.spec.id, Ok(())));
                    self.wake.notify_one();
                    return;
                }
                Err(reason) => {
                    tracing::warn!(origin = %mount.shown_origin(), %reason, "origin not ready");
                    self.with_queue(|queue| queue.set_mount_ready(mount.spec.id, Err(reason)));
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }

    /// What the origin can; nothing of one that is only read.
    async fn try_mount(&self, mount: &Mount) -> Result<Option<Capabilities>, String> {
        let MountSpec { origin, origin_prefix, id, read_only, .. } = &mount.spec;
        let attached = mount.state.lock().attached;
        if !attached || *read_only {
            // One listing: nothing is written before this is recorded, and to one that is read only nothing at all.
            let empty = origin.is_empty(origin_prefix).await.map_err(|error| error.to_string())?;
            if !attached {
                let attaching = self.log.attach(*id, !empty).await;
                attaching.map_err(|error| format!("recording the mount: {error}"))?;
                let mut state = mount.state.lock();
                (state.attached, state.existing) = (true, state.existing || !empty);
            }
        }
        if *read_only {
            return Ok(None);
        }
        let found = origin.probe(origin_prefix).await.map_err(|error| error.to_string())?;
        match mount.spec.checksums {
            ChecksumMode::Required if !found.checksums => {
                Err("the origin does not check checksums, and the mount requires it".to_owned())
            }
            ChecksumMode::None => Ok(Some(Capabilities { checksums: false, ..found })),
            ChecksumMode::Auto | ChecksumMode::Required => Ok(Some(found)),
        }
    }
}

/// Why the first of these keys' rows is not in the origin, for people.
fn why_pending(queue: &FlushQueue, keys: &[(BucketId, Bytes)]) -> String {
    let rows = || keys.iter().flat_map(|(bucket, key)| queue.rows_of(*bucket, key));
    let parked = rows().find(|row| matches!(row.state, RowState::Parked { .. }));
    match parked.or_else(|| rows().next()).map(|row| row.state) {
        Some(RowState::Parked { reason }) => format!("set aside: {reason}"),
        Some(RowState::MountNotReady { reason }) => reason,
        Some(RowState::Waits { last_error: Some(error), .. }) => error,
        Some(RowState::Fenced { .. }) => "an earlier attempt may still be under way".to_owned(),
        Some(RowState::BehindBarrier { parked: Some(reason), .. })
        | Some(RowState::BehindOlderRows { parked: Some(reason), .. }) => {
            format!("an older change of its bucket is set aside: {reason}")
        }
        Some(RowState::BehindBarrier { .. } | RowState::BehindOlderRows { .. }) => {
            "older changes of its bucket go first".to_owned()
        }
        _ => "the origin has not answered yet".to_owned(),
    }
}

impl Mount {
    fn shown_origin(&self) -> String {
        format!("{}/{}", self.spec.origin.name(), self.spec.origin_prefix)
    }
}

mod leftovers;
#[cfg(test)]
mod tests;
