//! The worker against the memory origin and a core of a few maps, in real time with short timeouts.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::flush::contract::{
    FlushKind, FlushLog, FlushObject, FlushSource, Flushed, Loaded, MountId, OriginRow, SourceObject,
    StaleTransfer, Started, TransferRecord, TransferState,
};
use crate::flush::queue::{MountHealth, Pending, QueueConfig, RowState, RowView};
use crate::flush::tag::OriginTag;
use crate::flush::testing::{Change, ModelRows, Name, root_of};
use crate::object::{BucketId, ClusterId, ObjectMeta, Version};
use crate::origin::memory::{Fault, MemoryOrigin, Operation};
use crate::origin::{Capabilities, Fence, Origin, OriginError};

mod asked;
mod existing;
mod order;
mod outcomes;
mod parts;
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

    async fn transfer_gone(&self, version: Version, mount: MountId) -> Result<(), LogError> {
        self.apply(|inner| inner.rows.transfer_gone(version, mount))
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
        origin_root: root_of(BUCKET),
        attached: false,
        fifo: false,
        min_interval: Duration::ZERO,
        checksums: ChecksumMode::Auto,
        read_only: false,
        existing: false,
        revalidate: false,
        write_through_timeout: LIMIT,
        max_lag: None,
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

/// As [`flusher`], with waits that a test can sit out.
fn fast_flusher(core: &Arc<Core>, origin: &Arc<MemoryOrigin>) -> Arc<Flusher> {
    let attached = !core.inner.lock().attached.is_empty();
    let quick = flusher(core, origin, attached, Duration::ZERO);
    let queue = QueueConfig { retry_ms: (2, 20), ..quick.config.queue };
    let config = FlusherConfig { queue, ..quick.config.clone() };
    let mounts = quick.mounts.iter().map(|mount| mount.spec.clone()).collect();
    Flusher::new(config, mounts, core.clone(), core.clone())
}
