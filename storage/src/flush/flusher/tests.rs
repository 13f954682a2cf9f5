//! The worker against the memory origin and a core of a few maps, in real time with short timeouts.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;

use super::*;
use crate::flush::contract::{
    FlushKind, FlushLog, FlushObject, FlushSource, Flushed, Loaded, OriginRow, SourceObject, Started,
    TransferRecord, TransferState,
};
use crate::flush::queue::RowState;
use crate::flush::tag::OriginTag;
use crate::flush::testing::{Change, ModelRows, Name};
use crate::object::ObjectMeta;
use crate::origin::memory::{Fault, MemoryOrigin, Operation};
use crate::origin::{Fence, OriginError};

mod asked;
mod existing;
mod stale;

const BUCKET: BucketId = BucketId(1);
const CLUSTER: ClusterId = ClusterId([0xAB; 16]);
const LIMIT: Duration = Duration::from_secs(20);
/// Bodies longer than this go in parts here.
const PART_BYTES: u64 = 1000;

/// Log and source at once: rows, bodies, and an office that can be lost.
#[derive(Default)]
struct Core {
    inner: Mutex<Inner>,
    flusher: Mutex<Option<Arc<Flusher>>>,
    deposed: AtomicBool,
    refuse_flushed: AtomicBool,
}

#[derive(Default)]
struct Inner {
    rows: ModelRows,
    bodies: HashMap<Version, Bytes>,
    newest: HashMap<Bytes, Option<Version>>,
    version: u64,
    /// With whether something lay there.
    attached: Vec<(MountId, bool)>,
    starts: u64,
}

impl Core {
    fn put(&self, key: &str, body: &str) -> Version {
        self.change(key, Some(body), false)
    }

    fn delete(&self, key: &str) -> Version {
        self.change(key, None, false)
    }

    fn change(&self, key: &str, body: Option<&str>, barrier: bool) -> Version {
        let key = Bytes::from(key.to_owned());
        let flusher = self.flusher.lock().clone();
        let mut inner = self.inner.lock();
        inner.version += 1;
        let version = Version(inner.version);
        let kind = if body.is_some() { FlushKind::Put } else { FlushKind::Delete };
        if let Some(body) = body {
            inner.bodies.insert(version, Bytes::from(body.to_owned()));
        }
        inner.newest.insert(key.clone(), body.map(|_| version));
        let bytes = body.map_or(0, |body| body.len() as u64);
        let (wins, stamp_ms) = (!barrier, self.now_ms());
        let change = Change { version, kind, barrier, wins, stamp_ms, bytes };
        let (event, stale) = inner.rows.change((BUCKET, key), change);
        // Under the lock, as apply does: events come in the order of the log.
        if let Some(flusher) = flusher {
            flusher.observe([event].into_iter().chain(stale));
        }
        version
    }

    fn apply<E>(&self, change: impl FnOnce(&mut Inner) -> E) -> Result<(), LogError>
    where
        E: IntoIterator<Item = FlushEvent>,
    {
        if self.deposed.load(Ordering::SeqCst) {
            return Err(LogError::Unknown);
        }
        let flusher = self.flusher.lock().clone();
        let mut inner = self.inner.lock();
        let events = change(&mut inner);
        if let Some(flusher) = flusher {
            flusher.observe(events);
        }
        Ok(())
    }

    fn last_version(&self) -> Version {
        Version(self.inner.lock().version)
    }
}

#[async_trait]
impl FlushLog for Core {
    async fn flush_started(&self, batch: Vec<Started>) -> Result<Vec<bool>, LogError> {
        if self.deposed.load(Ordering::SeqCst) {
            return Err(LogError::NotLeader);
        }
        let mut inner = self.inner.lock();
        inner.starts += batch.len() as u64;
        Ok(batch.into_iter().map(|started| inner.rows.start(started)).collect())
    }

    async fn flushed(&self, batch: Vec<Flushed>) -> Result<(), LogError> {
        if self.refuse_flushed.load(Ordering::SeqCst) {
            return Err(LogError::Unknown);
        }
        batch.into_iter().try_for_each(|flushed| {
            self.apply(|inner| {
                let landed = inner.rows.transfer_landed(&flushed);
                landed.into_iter().chain([inner.rows.flushed(flushed)])
            })
        })
    }

    async fn transfer(&self, batch: Vec<TransferRecord>) -> Result<Vec<bool>, LogError> {
        if self.deposed.load(Ordering::SeqCst) {
            return Err(LogError::Unknown);
        }
        let mut done = Vec::new();
        self.apply(|inner| {
            let (results, events): (Vec<bool>, Vec<_>) =
                batch.into_iter().map(|record| inner.rows.transfer(record)).unzip();
            done = results;
            events.into_iter().flatten()
        })?;
        Ok(done)
    }

    async fn transfer_gone(&self, version: Version) -> Result<(), LogError> {
        self.apply(|inner| inner.rows.transfer_gone(version))
    }

    async fn park(&self, row: RowId, reason: String) -> Result<(), LogError> {
        self.apply(|inner| [inner.rows.park(row, Some(reason))])
    }

    async fn unpark(&self, row: RowId) -> Result<(), LogError> {
        self.apply(|inner| [inner.rows.park(row, None)])
    }

    async fn abandon(&self, row: RowId) -> Result<(), LogError> {
        self.apply(|inner| {
            let (event, stale) = inner.rows.abandon(row);
            [event].into_iter().chain(stale)
        })
    }

    async fn attach(&self, mount: MountId, existing: bool) -> Result<(), LogError> {
        self.inner.lock().attached.push((mount, existing));
        Ok(())
    }
}

#[async_trait]
impl FlushSource for Core {
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    fn fence(&self) -> Fence {
        let deposed = self.deposed.load(Ordering::SeqCst);
        Fence::new(move || !deposed)
    }

    fn load(&self, sink: &mut dyn FnMut(Loaded)) -> Result<(), SourceError> {
        self.inner.lock().rows.load(sink);
        Ok(())
    }

    async fn transfer(&self, version: Version) -> Result<Option<TransferState>, SourceError> {
        Ok(self.inner.lock().rows.transfer_of(version))
    }

    fn origin_row(&self, bucket: BucketId, key: &Bytes) -> Result<Option<OriginRow>, SourceError> {
        Ok(self.inner.lock().rows.origin(&(bucket, key.clone())))
    }

    async fn object(
        &self,
        bucket: BucketId,
        key: &Bytes,
        version: Version,
    ) -> Result<SourceObject, SourceError> {
        let inner = self.inner.lock();
        let name: Name = (bucket, key.clone());
        match (inner.rows.row(&name, version), inner.bodies.get(&version)) {
            (Some(_), Some(body)) => Ok(SourceObject::Found(Box::new(FlushObject {
                body: body.clone().into(),
                part_runs: Vec::new(),
                meta: ObjectMeta {
                    content_type: Some("text/plain".to_owned()),
                    user: vec![("colour".to_owned(), "blue".to_owned())],
                    ..ObjectMeta::default()
                },
                etag: format!("etag-of-{}", version.0),
                md5: None,
                in_parts: inner.rows.transfer_of(version).is_some(),
            }))),
            _ => Ok(SourceObject::Superseded),
        }
    }
}

struct World {
    core: Arc<Core>,
    origin: Arc<MemoryOrigin>,
    flusher: Arc<Flusher>,
    stop: CancellationToken,
    run: Option<tokio::task::JoinHandle<Result<u64, SourceError>>>,
}

impl World {
    /// Core and origin, and no worker yet.
    fn idle(origin: MemoryOrigin) -> World {
        let core = Arc::new(Core::default());
        let origin = Arc::new(origin);
        let flusher = flusher(&core, &origin, false, Duration::ZERO);
        World { core, origin, flusher, stop: CancellationToken::new(), run: None }
    }

    fn started(origin: MemoryOrigin) -> World {
        let mut world = World::idle(origin);
        world.start();
        world
    }

    fn start(&mut self) {
        *self.core.flusher.lock() = Some(self.flusher.clone());
        self.stop = CancellationToken::new();
        let (flusher, stop) = (self.flusher.clone(), self.stop.clone());
        self.run = Some(tokio::spawn(async move { flusher.run(stop).await }));
    }

    /// A new process over the same rows and the same origin: nothing of the old worker is left but its
    /// requests.
    fn restart(&mut self) {
        if let Some(run) = self.run.take() {
            run.abort();
        }
        self.flusher = flusher(&self.core, &self.origin, true, Duration::ZERO);
        self.start();
    }

    async fn stop(&mut self) -> u64 {
        self.stop.cancel();
        self.run.take().unwrap().await.unwrap().unwrap()
    }

    async fn flush_all(&self) {
        let pending = self.flusher.wait(self.core.last_version(), None, LIMIT).await;
        assert_eq!(pending, Some(Pending::default()), "{:?}", self.flusher.list(false, 10));
    }

    /// Waits until a look at the world is satisfied.
    async fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let end = Instant::now() + LIMIT;
        while !holds(self) {
            assert!(Instant::now() < end, "{what}; status {:?}", self.flusher.status());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn body(&self, key: &str) -> Option<String> {
        let body = self.origin.body(&format!("p/{key}"))?;
        Some(String::from_utf8_lossy(&body).into_owned())
    }

    /// Keys of the puts and deletes that reached the origin, probes left out.
    fn landings(&self) -> Vec<String> {
        let recorded = self.origin.recorded().into_iter().filter(|change| !change.key.contains(".forebay"));
        let shown = recorded.map(|change| match change.put {
            Some(_) => change.key,
            None => format!("-{}", change.key),
        });
        shown.collect()
    }

    fn row(&self, key: &str) -> Option<RowView> {
        self.flusher.rows_of(BUCKET, key.as_bytes()).into_iter().next()
    }

    fn mount_health(&self) -> MountHealth {
        self.flusher.status().mounts[0].health.clone()
    }
}

fn flusher(
    core: &Arc<Core>,
    origin: &Arc<MemoryOrigin>,
    attached: bool,
    min_interval: Duration,
) -> Arc<Flusher> {
    flusher_with(core, origin, |mount| (mount.attached, mount.min_interval) = (attached, min_interval))
}

fn flusher_with(
    core: &Arc<Core>,
    origin: &Arc<MemoryOrigin>,
    change: impl FnOnce(&mut MountSpec),
) -> Arc<Flusher> {
    let config = FlusherConfig {
        queue: QueueConfig { margin_ms: 40, attempt_ms_max: 300, ..QueueConfig::default() },
        attempt_timeout: Duration::from_millis(300),
        mount_retry: (Duration::from_millis(5), Duration::from_millis(20)),
        stop_grace: Duration::from_secs(5),
        part_bytes: PART_BYTES,
        ..FlusherConfig::new(CLUSTER)
    };
    let mut mount = MountSpec {
        id: MountId(BUCKET.0),
        bucket: BUCKET,
        key_prefix: Bytes::new(),
        origin: origin.clone(),
        origin_prefix: "p/".to_owned(),
        attached: false,
        fifo: false,
        min_interval: Duration::ZERO,
        checksums: ChecksumMode::Auto,
        read_only: false,
        existing: false,
        revalidate: false,
        write_through_timeout: LIMIT,
    };
    change(&mut mount);
    Flusher::new(config, vec![mount], core.clone(), core.clone())
}

/// Applies a fault to the first call of a kind on a key, and serves the rest.
fn once(origin: &MemoryOrigin, operation: Operation, key: &'static str, fault: Fault) {
    let mut left = Some(fault);
    origin.set_hook(move |call| match call.operation == operation && call.key == key {
        true => left.take().unwrap_or(Fault::Ok),
        false => Fault::Ok,
    });
}

fn refusal(class: ErrorClass) -> Fault {
    Fault::Refuse(OriginError::new(class, Landing::NotApplied, "no"))
}

#[tokio::test]
async fn puts_and_deletes_arrive_with_their_marks() {
    let world = World::started(MemoryOrigin::capable());
    let version = world.core.put("a", "1");
    world.core.put("b", "2");
    world.flush_all().await;
    world.core.delete("b");
    world.flush_all().await;
    assert_eq!((world.body("a").as_deref(), world.body("b")), (Some("1"), None));
    let head = world.origin.head(&crate::origin::OriginKey("p/a".to_owned())).await.unwrap().unwrap();
    let tag = OriginTag { cluster: CLUSTER, version }.to_string();
    assert_eq!(head.user("forebay-version"), Some(tag.as_str()));
    assert_eq!(head.user("forebay-etag"), Some(format!("etag-of-{}", version.0).as_str()));
    assert_eq!(head.user("colour"), Some("blue"));
    assert_eq!(head.headers.content_type.as_deref(), Some("text/plain"));
    assert_eq!(world.core.inner.lock().attached, [(MountId(BUCKET.0), false)]);
    let status = world.flusher.status();
    assert_eq!((status.flushed_objects, status.pending_objects, status.oldest_age_ms), (3, 0, None));
    assert!(status.mounts[0].attached && status.mounts[0].last_success_ms.is_some());
}

#[tokio::test]
async fn superseded_versions_are_not_uploaded() {
    let mut world = World::idle(MemoryOrigin::capable());
    for n in 0..50 {
        world.core.put("hot", &n.to_string());
    }
    world.core.put("gone", "x");
    world.core.delete("gone");
    world.start();
    world.until("loaded", |world| world.flusher.status().running).await;
    world.flush_all().await;
    assert_eq!(world.body("hot").as_deref(), Some("49"));
    assert_eq!(world.landings(), ["p/hot", "-p/gone"]);
}

#[tokio::test]
async fn an_attached_prefix_may_hold_data_after_a_restart() {
    let mut world = World::started(MemoryOrigin::capable());
    world.core.put("a", "1");
    world.flush_all().await;
    world.restart();
    world.core.put("b", "2");
    world.flush_all().await;
    assert_eq!(world.body("b").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_wait_that_begins_before_the_queue_is_there_ends_when_it_holds_nothing() {
    let mut world = World::idle(MemoryOrigin::capable());
    let flusher = world.flusher.clone();
    let mut waiting = std::pin::pin!(flusher.wait(Version(u64::MAX), None, Duration::from_secs(3600)));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    world.start();
    let waited = tokio::time::timeout(LIMIT, waiting).await.expect("nobody told the waiter");
    assert_eq!(waited, Some(Pending::default()));
}

#[tokio::test]
async fn an_origin_that_is_down_at_start_is_waited_for() {
    let origin = MemoryOrigin::capable();
    origin.set_hook(|_| Fault::DropUnknown);
    let world = World::started(origin);
    for n in 0..200 {
        world.core.put(&format!("k{n}"), "x");
    }
    world.until("tried", |world| world.origin.calls() > 3).await;
    assert_eq!(world.flusher.status().pending_objects, 200);
    assert_eq!(world.flusher.status().parked_objects, 0);
    world.origin.clear_hook();
    world.flush_all().await;
    assert_eq!(world.landings().len(), 200);
}

#[tokio::test]
async fn an_outage_stops_the_mount_but_for_trials_and_heals_by_itself() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("first", "x");
    world.flush_all().await;
    world.origin.set_hook(|_| refusal(ErrorClass::Auth));
    for n in 0..300 {
        world.core.put(&format!("k{n}"), "x");
    }
    world.until("down", |world| matches!(world.mount_health(), MountHealth::Down { .. })).await;
    world.until("idle", |world| world.flusher.status().in_flight == 0).await;
    let status = world.flusher.status();
    assert_eq!((status.pending_objects, status.parked_objects), (300, 0));
    assert!(world.origin.calls() < 150, "one outage is not tried row by row: {}", world.origin.calls());
    let auth = status.errors.iter().find(|(class, _)| *class == ErrorClass::Auth).unwrap();
    assert!(auth.1 >= 3);
    assert!(matches!(world.row("k299").unwrap().state, RowState::MountNotReady { .. }));
    world.origin.clear_hook();
    world.flush_all().await;
    assert_eq!(world.mount_health(), MountHealth::Up);
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_found_by_head_and_not_sent_again() {
    let world = World::started(MemoryOrigin::capable());
    once(&world.origin, Operation::Put, "p/a", Fault::ApplyThenUnknown);
    world.core.put("a", "1");
    world.flush_all().await;
    assert_eq!(world.landings(), ["p/a"]);
    assert_eq!(world.core.inner.lock().starts, 1);
}

#[tokio::test]
async fn a_put_that_is_lost_is_sent_again_after_its_fence() {
    let world = World::started(MemoryOrigin::capable());
    once(&world.origin, Operation::Put, "p/a", Fault::DropUnknown);
    world.core.put("a", "1");
    world
        .until("fenced", |world| {
            world.row("a").is_some_and(|row| matches!(row.state, RowState::Fenced { .. }))
        })
        .await;
    world.core.put("a", "2");
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some("2"));
    assert_eq!(world.landings(), ["p/a"]);
}

#[tokio::test]
async fn a_put_that_lands_late_is_behind_the_fence_of_its_successor() {
    for origin in [MemoryOrigin::capable(), MemoryOrigin::new("memory://bad", Capabilities::default())] {
        let world = World::started(origin);
        once(&world.origin, Operation::Put, "p/a", Fault::LandLate);
        world.core.put("a", "old");
        world.until("late", |world| !world.origin.late_calls().is_empty()).await;
        world.core.put("a", "new");
        let late = world.origin.late_calls()[0];
        assert!(world.origin.land_late(late));
        world.flush_all().await;
        assert_eq!(world.body("a").as_deref(), Some("new"));
        assert_eq!(world.landings(), ["p/a", "p/a"]);
    }
}

#[tokio::test]
async fn a_delete_whose_answer_is_lost_is_repeated_and_the_object_stays_away() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("a", "1");
    world.flush_all().await;
    once(&world.origin, Operation::Delete, "p/a", Fault::ApplyThenUnknown);
    world.core.delete("a");
    world.flush_all().await;
    assert_eq!(world.body("a"), None);
    assert_eq!(world.core.inner.lock().rows.origin(&(BUCKET, Bytes::from("a"))), None);
}

#[tokio::test]
async fn a_foreign_object_is_never_overwritten_and_the_row_is_parked_with_the_reason() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("other", "x");
    world.flush_all().await;
    world.origin.put_foreign("p/a", b"theirs");
    let version = world.core.put("a", "ours");
    world.core.put("b", "1");
    let waited = world.flusher.wait(world.core.last_version(), None, LIMIT).await;
    assert_eq!(waited, Some(Pending { rows: 1, parked: 1 }), "parked rows end a wait");
    assert_eq!(world.body("a").as_deref(), Some("theirs"));
    assert_eq!(world.body("b").as_deref(), Some("1"), "it delays no other");
    let parked = world.flusher.list(true, 10);
    let RowState::Parked { reason } = &parked[0].state else { panic!("{parked:?}") };
    assert!(reason.contains("did not write"), "{reason}");

    let row = RowId { bucket: BUCKET, key: Bytes::from("a"), version };
    world.flusher.retry(row.clone()).await.unwrap();
    let waited = world.flusher.wait(version, None, LIMIT).await;
    assert_eq!(waited, Some(Pending { rows: 1, parked: 1 }), "still theirs");
    world.origin.delete_foreign("p/a");
    world.flusher.retry(row).await.unwrap();
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some("ours"));
}

#[tokio::test]
async fn a_foreign_object_is_not_deleted() {
    for honours in
        [Capabilities::default(), Capabilities { if_match_delete: true, ..Capabilities::default() }]
    {
        let world = World::started(MemoryOrigin::new("memory://o", honours));
        world.core.put("a", "ours");
        world.flush_all().await;
        world.origin.put_foreign("p/a", b"theirs");
        world.core.delete("a");
        let waited = world.flusher.wait(world.core.last_version(), None, LIMIT).await;
        assert_eq!(waited, Some(Pending { rows: 1, parked: 1 }), "{honours:?}");
        assert_eq!(world.body("a").as_deref(), Some("theirs"));
    }
}

#[tokio::test]
async fn an_abandoned_row_leaves_the_origin_as_it_is() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("other", "x");
    world.flush_all().await;
    world.origin.put_foreign("p/a", b"theirs");
    let version = world.core.put("a", "ours");
    world.until("parked", |world| world.flusher.status().parked_objects == 1).await;
    world.flusher.abandon(RowId { bucket: BUCKET, key: Bytes::from("a"), version }).await.unwrap();
    world.flush_all().await;
    assert_eq!(world.flusher.status().parked_objects, 0);
    assert_eq!(world.body("a").as_deref(), Some("theirs"));
}

#[tokio::test]
async fn one_object_that_always_fails_delays_no_other_and_is_parked() {
    let world = World::started(MemoryOrigin::capable());
    world.origin.set_hook(|call| match call.key.as_str() {
        "p/bad" if call.operation == Operation::Put => refusal(ErrorClass::Checksum),
        _ => Fault::Ok,
    });
    world.core.put("bad", "x");
    for n in 0..300 {
        world.core.put(&format!("k{n}"), "x");
    }
    let waited = world.flusher.wait(world.core.last_version(), None, LIMIT).await;
    assert_eq!(waited, Some(Pending { rows: 1, parked: 1 }));
    let RowState::Parked { reason } = world.row("bad").unwrap().state else { panic!() };
    assert!(reason.contains("checksum"), "{reason}");
    assert_eq!(world.landings().len(), 300);
}

#[tokio::test]
async fn a_barrier_waits_for_what_it_names_and_holds_what_would_break_it() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("old-data", "1");
    world.flush_all().await;
    // The data of the new manifest fails for a while.
    let blocked = Arc::new(AtomicBool::new(true));
    let still = blocked.clone();
    world.origin.set_hook(move |call| match call.key.as_str() {
        "p/data" if call.operation == Operation::Put && still.load(Ordering::SeqCst) => {
            refusal(ErrorClass::Network)
        }
        _ => Fault::Ok,
    });
    world.core.put("data", "2");
    world.core.change("manifest", Some("names data"), true);
    world.core.delete("old-data");
    world.core.put("unrelated", "3");
    world.until("new puts pass", |world| world.body("unrelated").is_some()).await;
    assert_eq!(world.body("manifest"), None);
    assert_eq!(world.body("old-data").as_deref(), Some("1"));
    let held = world.row("old-data").unwrap().state;
    assert!(matches!(held, RowState::BehindBarrier { .. }), "{held:?}");
    let barrier = world.row("manifest").unwrap().state;
    assert!(matches!(barrier, RowState::BehindOlderRows { .. }), "{barrier:?}");
    blocked.store(false, Ordering::SeqCst);
    world.flush_all().await;
    let landings = world.landings();
    let at = |key: &str| landings.iter().position(|landed| landed == key).unwrap();
    assert!(at("p/data") < at("p/manifest") && at("p/manifest") < at("-p/old-data"), "{landings:?}");
}

#[tokio::test]
async fn after_a_kill_the_key_waits_until_the_old_request_is_dead() {
    let mut world = World::started(MemoryOrigin::new("memory://bad", Capabilities::default()));
    once(&world.origin, Operation::Put, "p/a", Fault::LandLate);
    world.core.put("a", "old");
    world.until("in flight", |world| !world.origin.late_calls().is_empty()).await;
    world.core.put("a", "new");
    world.restart();
    world
        .until("fenced", |world| {
            world.row("a").is_some_and(|row| matches!(row.state, RowState::Fenced { .. }))
        })
        .await;
    let late = world.origin.late_calls()[0];
    assert!(world.origin.land_late(late));
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some("new"));
}

#[tokio::test]
async fn what_landed_but_was_not_recorded_is_found_after_a_restart() {
    let mut world = World::started(MemoryOrigin::capable());
    world.core.refuse_flushed.store(true, Ordering::SeqCst);
    world.core.put("a", "1");
    world.until("landed", |world| world.body("a").is_some()).await;
    world.restart();
    world.core.refuse_flushed.store(false, Ordering::SeqCst);
    world.until("loaded", |world| world.flusher.status().running).await;
    world.flush_all().await;
    assert_eq!(world.landings(), ["p/a"], "not sent twice");
}

#[tokio::test]
async fn without_office_nothing_is_sent() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("a", "1");
    world.flush_all().await;
    world.core.deposed.store(true, Ordering::SeqCst);
    let calls = world.origin.calls();
    world.core.put("b", "2");
    let waited = world.flusher.wait(world.core.last_version(), None, Duration::from_millis(100)).await;
    assert_eq!(waited, Some(Pending { rows: 1, parked: 0 }));
    assert_eq!(world.origin.calls(), calls);
}

#[tokio::test]
async fn min_interval_gathers_changes_and_a_wait_overrides_it() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.flusher = flusher(&world.core, &world.origin, false, Duration::from_secs(3600));
    world.start();
    world.core.put("hot", "0");
    world.flush_all().await;
    for n in 1..100 {
        world.core.put("hot", &n.to_string());
    }
    world.core.put("other", "x");
    world.until("other is not held", |world| world.body("other").is_some()).await;
    assert_eq!(world.body("hot").as_deref(), Some("0"));
    assert!(matches!(world.row("hot").unwrap().state, RowState::Waits { .. }));
    let keys = [(BUCKET, Bytes::from("hot"))];
    let waited = world.flusher.wait(world.core.last_version(), Some(&keys), LIMIT).await;
    assert_eq!(waited, Some(Pending::default()));
    assert_eq!(world.body("hot").as_deref(), Some("99"));
    assert_eq!(world.landings().iter().filter(|key| *key == "p/hot").count(), 2);
}

#[tokio::test]
async fn a_barrier_overrides_min_interval() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.flusher = flusher(&world.core, &world.origin, false, Duration::from_secs(3600));
    world.start();
    world.core.put("data", "0");
    world.core.change("manifest", Some("0"), true);
    world.flush_all().await;
    world.core.put("data", "1");
    world.core.change("manifest", Some("1"), true);
    world.until("both", |world| world.body("manifest").as_deref() == Some("1")).await;
    assert_eq!(world.body("data").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_stop_lets_attempts_end_and_says_how_many_rows_stay() {
    let mut world = World::started(MemoryOrigin::capable());
    world.core.put("a", "1");
    world.flush_all().await;
    world.origin.set_hook(|_| refusal(ErrorClass::Quota));
    for n in 0..20 {
        world.core.put(&format!("k{n}"), "x");
    }
    assert_eq!(world.stop().await, 20);
    assert!(!world.flusher.status().running);
    let waited = world.flusher.wait(world.core.last_version(), None, Duration::from_millis(10)).await;
    assert_eq!(waited, None, "a node that does not work the queue cannot tell");
}

#[tokio::test]
async fn thousands_of_changes_under_faults_end_with_the_origin_equal_to_the_core() {
    for (seed, honours) in [(1, true), (2, false), (3, true)] {
        let origin = match honours {
            true => MemoryOrigin::capable(),
            false => MemoryOrigin::new("memory://bad", Capabilities::default()),
        };
        let mut world = World::started(origin);
        world.until("ready", |world| world.mount_health() == MountHealth::Up).await;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut fate = random.fork();
        world.origin.set_hook(move |call| match (call.operation, fate.u8(..100)) {
            (Operation::List, _) => Fault::Ok,
            (_, 0..4) => Fault::ApplyThenUnknown,
            (_, 4..7) => Fault::DropUnknown,
            (_, 7..9) => Fault::Refuse(OriginError::new(ErrorClass::ServerError, Landing::Unknown, "500")),
            (_, 9..10) => refusal(ErrorClass::Throttled),
            _ => Fault::Ok,
        });
        for n in 0..2_000 {
            let key = format!("k{}", random.u32(..300));
            let live = world.core.inner.lock().newest.get(key.as_bytes()).copied().flatten().is_some();
            match random.u8(..10) {
                0..3 if live => drop(world.core.delete(&key)),
                3 => drop(world.core.change(&key, Some(&n.to_string()), true)),
                _ => drop(world.core.put(&key, &n.to_string())),
            }
            if n % 16 == 0 {
                tokio::task::yield_now().await;
            }
            if n == 1_000 {
                world.restart();
            }
        }
        world.origin.clear_hook();
        world.until("loaded", |world| world.flusher.status().running).await;
        world.flush_all().await;
        let inner = world.core.inner.lock();
        for (key, version) in &inner.newest {
            let wanted = version.map(|version| inner.bodies[&version].clone());
            let held = world.origin.body(&format!("p/{}", String::from_utf8_lossy(key)));
            assert_eq!(held, wanted, "seed {seed}, {key:?}");
        }
    }
}

/// A body of so many parts, with a mark of its own.
fn long(mark: char, parts: usize) -> String {
    (0..parts * PART_BYTES as usize - 7)
        .map(|n| if n % 97 == 0 { mark } else { char::from(b'a' + (n % 26) as u8) })
        .collect()
}

impl Core {
    fn transfers_len(&self) -> usize {
        self.inner.lock().rows.transfers_len()
    }
}

#[tokio::test]
async fn a_long_body_goes_in_parts_and_becomes_one_object_with_its_marks() {
    let world = World::started(MemoryOrigin::capable());
    let body = long('1', 9);
    let version = world.core.put("a", &body);
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some(&body[..]));
    let put = world.origin.recorded().pop().unwrap().put.unwrap();
    let mark = OriginTag { cluster: CLUSTER, version }.to_string();
    assert!(put.contains(&("forebay-version".to_owned(), mark)), "{put:?}");
    assert!(put.contains(&("forebay-etag".to_owned(), format!("etag-of-{}", version.0))), "{put:?}");
    assert_eq!((world.origin.uploads().len(), world.core.transfers_len()), (0, 0));
    assert_eq!(world.core.inner.lock().starts, 1, "only the completion is fenced");
}

#[tokio::test]
async fn a_part_that_fails_is_sent_again_whatever_the_error_and_no_other() {
    let faults = [
        Fault::DropUnknown,
        Fault::ApplyThenUnknown,
        refusal(ErrorClass::ServerError),
        refusal(ErrorClass::Throttled),
        refusal(ErrorClass::Checksum),
        // These end the attempt; the next one goes on where it stood.
        refusal(ErrorClass::Auth),
        refusal(ErrorClass::Quota),
        refusal(ErrorClass::MissingBucket),
        refusal(ErrorClass::ClockSkew),
        refusal(ErrorClass::Other),
    ];
    for fault in faults {
        let mut world = World::idle(MemoryOrigin::capable());
        let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (counted, mut left) = (sent.clone(), Some(fault.clone()));
        world.origin.set_hook(move |call| match call.operation {
            Operation::PutPart if counted.fetch_add(1, Ordering::SeqCst) == 3 => {
                left.take().unwrap_or(Fault::Ok)
            }
            _ => Fault::Ok,
        });
        let body = long('1', 12);
        world.core.put("a", &body);
        world.flusher = fast_flusher(&world.core, &world.origin);
        world.start();
        world.flush_all().await;
        assert_eq!(world.body("a").as_deref(), Some(&body[..]), "{fault:?}");
        // The one that failed, and those whose answers were dropped with its attempt.
        let again = sent.load(Ordering::SeqCst) - 12;
        assert!((1..=4).contains(&again), "{fault:?}: {again} parts sent again");
        assert_eq!(world.core.transfers_len(), 0);
    }
}

#[tokio::test]
async fn a_restart_sends_only_the_parts_that_the_origin_lacks() {
    let mut world = World::idle(MemoryOrigin::capable());
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    // After ten parts the origin falls silent.
    world.origin.set_hook(move |call| match call.operation {
        Operation::PutPart if counted.fetch_add(1, Ordering::SeqCst) >= 10 => Fault::DropUnknown,
        _ => Fault::Ok,
    });
    let body = long('1', 30);
    let version = world.core.put("a", &body);
    world.start();
    let recorded =
        |world: &World| world.core.inner.lock().rows.transfer_of(version).map_or(0, |t| t.parts.len());
    world.until("ten parts are recorded", |world| recorded(world) == 10).await;
    let counted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let again = counted.clone();
    world.origin.set_hook(move |call| {
        again.fetch_add(usize::from(call.operation == Operation::PutPart), Ordering::SeqCst);
        Fault::Ok
    });
    world.restart();
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some(&body[..]));
    assert_eq!(counted.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn a_crash_between_the_parts_and_the_completion_waits_for_its_fence_and_asks() {
    for fault in [Fault::ApplyThenUnknown, Fault::DropUnknown, Fault::LandLate] {
        let mut world = World::idle(MemoryOrigin::capable());
        once(&world.origin, Operation::CompleteUpload, "p/a", fault.clone());
        let body = long('1', 5);
        world.core.put("a", &body);
        world.start();
        world
            .until("it is fenced", |world| {
                matches!(world.row("a").map(|row| row.state), Some(RowState::Fenced { .. }))
            })
            .await;
        world.restart();
        world.flush_all().await;
        assert_eq!(world.body("a").as_deref(), Some(&body[..]), "{fault:?}");
        // What lands late finds its upload used up, or its condition broken.
        for call in world.origin.late_calls() {
            world.origin.land_late(call);
        }
        assert_eq!(world.landings(), ["p/a"], "{fault:?}");
    }
}

#[tokio::test]
async fn an_upload_that_the_origin_has_lost_is_begun_anew() {
    let mut world = World::idle(MemoryOrigin::capable());
    let mut parts = 0;
    let gone = OriginError::new(ErrorClass::Other, Landing::NotApplied, "gone");
    let gone = OriginError { code: Some(crate::origin::NO_SUCH_UPLOAD.to_owned()), ..gone };
    world.origin.set_hook(move |call| {
        parts += usize::from(call.operation == Operation::PutPart);
        match call.operation == Operation::PutPart && parts == 4 {
            true => Fault::Refuse(gone.clone()),
            false => Fault::Ok,
        }
    });
    let body = long('1', 6);
    world.core.put("a", &body);
    world.flusher = fast_flusher(&world.core, &world.origin);
    world.start();
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some(&body[..]));
}

/// As [`flusher`], with waits that a test can sit out.
fn fast_flusher(core: &Arc<Core>, origin: &Arc<MemoryOrigin>) -> Arc<Flusher> {
    let attached = !core.inner.lock().attached.is_empty();
    let quick = flusher(core, origin, attached, Duration::ZERO);
    let queue = QueueConfig { retry_ms: (2, 20), ..quick.config.queue };
    let config = FlusherConfig { queue, ..quick.config.clone() };
    let mounts = quick.mounts.iter().map(|mount| mount.spec.clone()).collect();
    Flusher::new(config, mounts, core.clone(), core.clone())
}

/// Large and small bodies, faults of every kind, and restarts, by seed: in the end the origin holds what the
/// core holds, and never went back on the way.
#[tokio::test]
async fn long_bodies_under_faults_and_restarts_end_with_the_origin_equal_to_the_core() {
    for seed in 1..=20_u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::idle(MemoryOrigin::capable());
        let mut dice = fastrand::Rng::with_seed(seed * 31);
        world.origin.set_hook(move |_| match dice.u8(0..40) {
            0 => Fault::DropUnknown,
            1 => Fault::ApplyThenUnknown,
            2 => Fault::LandLate,
            3 => refusal(ErrorClass::ServerError),
            _ => Fault::Ok,
        });
        world.flusher = fast_flusher(&world.core, &world.origin);
        world.start();
        let mut expected: HashMap<String, Option<String>> = HashMap::new();
        for step in 0..25 {
            let key = format!("k{}", random.u8(0..4));
            let mark = char::from(b'A' + (step % 26) as u8);
            let body = match random.u8(0..4) {
                0 => None,
                1 => Some(mark.to_string()),
                _ => Some(long(mark, random.usize(2..20))),
            };
            match &body {
                Some(body) => world.core.put(&key, body),
                None => world.core.delete(&key),
            };
            expected.insert(key, body);
            if random.u8(0..6) == 0 {
                if let Some(run) = world.run.take() {
                    run.abort();
                }
                world.flusher = fast_flusher(&world.core, &world.origin);
                world.start();
            }
            tokio::time::sleep(Duration::from_millis(random.u64(0..8))).await;
        }
        for call in world.origin.late_calls() {
            world.origin.land_late(call);
        }
        world.origin.clear_hook();
        world.flush_all().await;
        for (key, body) in &expected {
            assert_eq!(&world.body(key), body, "seed {seed}, {key}");
        }
        let mut newest: HashMap<String, Version> = HashMap::new();
        for change in world.origin.recorded() {
            let Some(mark) =
                change.put.as_ref().and_then(|put| put.iter().find(|(name, _)| name == "forebay-version"))
            else {
                continue;
            };
            let version = OriginTag::parse(&mark.1).unwrap().version;
            let before = newest.insert(change.key.clone(), version);
            assert!(before.is_none_or(|before| before <= version), "seed {seed}: {} went back", change.key);
        }
        world
            .until("no upload is left", |world| {
                world.origin.uploads().is_empty() || world.core.transfers_len() == 0
            })
            .await;
    }
}
