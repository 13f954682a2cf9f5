//! A running storage node: opens the data directory, starts the threads and tasks, stops them in reverse.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admission::{Limits, SpaceWatch, disk_reserve};
use crate::background;
use crate::blob::SegmentConfig;
use crate::clock::SystemClock;
use crate::error::Error;
use crate::evict::EvictThread;
use crate::flush::{ChecksumMode, Flusher, SourceError};
use crate::flush_link;
use crate::io::Disk;
use crate::io::threads::{ReadPool, ThreadsDisk};
use crate::journal::{BackgroundPreparer, JournalConfig};
use crate::keyspace::base::BaseError;
use crate::keyspace::lmdb::Lmdb;
use crate::mounts;
use crate::mutation::{MountMode, Mutation, Outcome};
use crate::object::BlobId;
use crate::origin::dir::DirOrigin;
use crate::origin::s3::{S3Origin, S3OriginConfig};
use crate::origin::{Counted, Origin};
use crate::replica::{Driver, DriverParts, Inbox, MemtableLimits, OpenError, Opened, Parts, SyncMode, open};
use crate::store::{INBOX_PERMITS, Shared, Store};
use crate::submission::Submission;

/// How long a start waits for its own election.
const LEAD_WAIT: Duration = Duration::from_secs(30);
/// Name of the lock file.
const LOCK: &str = "lock";
/// Directory of the checkpoint store.
const KEYSPACE: &str = "keyspace";

/// Settings of a node. Sizes in bytes.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    /// The data directory; created if it does not exist.
    pub data_dir: PathBuf,
    /// When replies leave.
    pub sync: SyncMode,
    /// Byte limits.
    pub limits: Limits,
    /// A memtable goes to the checkpoint at this size. Larger: fewer, larger checkpoints and a longer
    /// replay; up to three times this is held in memory.
    pub memtable_bytes: usize,
    /// ... or after this many rows,
    pub memtable_rows: usize,
    /// ... or after this time.
    pub memtable_age: Duration,
    /// Read cache. Larger: more reads without LMDB's page walk.
    pub cache_bytes: u64,
    /// LMDB's map: address space and a sparse file, not memory. Writes are refused at nine tenths of it.
    pub map_bytes: u64,
    /// Length of a journal file. An atomic group must fit.
    pub journal_file_bytes: u64,
    /// Alignment of journal batches: 512, or 4096 for disks that rewrite 4 KiB sectors.
    pub journal_align: u32,
    /// Threads for cold reads.
    pub read_threads: usize,
    /// Threads that write and sync staged bodies.
    pub stage_threads: usize,
    /// Age at which a multipart upload that nobody has completed is given up, with its parts: 7 days by default. Looked
    /// for every minute, or four times in that time if it is shorter.
    pub upload_expiry: Duration,
    /// The flush workers' settings.
    pub flush: FlushSettings,
    /// Buckets and prefixes with an origin.
    pub mounts: Vec<MountConfig>,
    /// Buckets of class `keep`: what is here of their objects is never given up, whatever their origin holds. They count
    /// against the capacity like what waits for its upload.
    pub kept_buckets: Vec<String>,
}

impl StorageConfig {
    /// The defaults for a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> StorageConfig {
        StorageConfig {
            data_dir: data_dir.into(),
            sync: SyncMode::Always,
            limits: Limits {
                capacity_bytes: 10 << 30,
                dirty_bytes: 8 << 30,
                inline_bytes: 64 << 10,
                body_bytes: 512 << 20,
                disk_reserve_bytes: None,
            },
            memtable_bytes: 96 << 20,
            memtable_rows: 500_000,
            memtable_age: Duration::from_secs(5),
            cache_bytes: 128 << 20,
            map_bytes: 256 << 30,
            journal_file_bytes: 64 << 20,
            journal_align: 512,
            read_threads: 8,
            stage_threads: 4,
            upload_expiry: Duration::from_secs(7 * 24 * 3600),
            flush: FlushSettings::default(),
            mounts: Vec::new(),
            kept_buckets: Vec::new(),
        }
    }
}

/// Settings of the flush workers.
#[derive(Debug, Clone)]
pub struct FlushSettings {
    /// Most uploads under way at once. More use the uplink better; after a crash more keys wait for their
    /// fence.
    pub concurrency: usize,
    /// Time of an attempt before that of its bytes. Longer lets a slow origin answer; shorter makes the wait
    /// after a lost answer or a crash shorter.
    pub attempt_timeout: Duration,
    /// Wait beyond an attempt's deadline before it counts as dead: covers clocks that differ.
    pub fence_margin: Duration,
    /// Bytes per second that a body may be expected to move at, at worst.
    pub least_bandwidth: u64,
    /// Longer bodies go by multipart upload, in parts of this length, or the client's.
    pub part_bytes: u64,
    /// Parts of one body that are sent at once.
    pub part_concurrency: usize,
    /// First wait after a failure. Shorter: a hiccup passes sooner; longer: fewer requests in vain.
    pub retry_min: Duration,
    /// Longest wait between two tries. Longer: less load on an origin in trouble, whose return is noticed
    /// later.
    pub retry_max: Duration,
}

impl Default for FlushSettings {
    fn default() -> FlushSettings {
        FlushSettings {
            concurrency: 32,
            attempt_timeout: Duration::from_secs(30),
            fence_margin: Duration::from_secs(5),
            least_bandwidth: 256 << 10,
            part_bytes: 8 << 20,
            part_concurrency: 4,
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(120),
        }
    }
}

/// A bucket or prefix and where it goes.
#[derive(Debug, Clone)]
pub struct MountConfig {
    /// Bucket; created if it does not exist.
    pub bucket: String,
    /// Keys under it begin with this; empty for the whole bucket. Not repeated in the origin.
    pub prefix: Vec<u8>,
    /// Where to; `None` keeps it local, also below a mounted prefix.
    pub origin: Option<OriginConfig>,
    /// Whether FLUSHDB and FLUSHALL may empty it, origin included.
    pub flushall: bool,
    /// Least time between two uploads of one key. Longer saves requests for keys that change often.
    pub min_interval: Duration,
    /// Uploads in the order of commits, one at a time.
    pub fifo: bool,
    /// Whether bodies travel with a checksum.
    pub checksums: ChecksumMode,
    /// How it treats the origin. Without an origin, a mount is local whatever stands here.
    pub mode: MountMode,
    /// Age at which what was learnt of the origin's object is asked again; `None`: never. Shorter shows foreign
    /// changes sooner, at one HEAD for each key that is read.
    pub revalidate: Option<Duration>,
    /// Longest wait of a write to a write-through mount for its origin; then the writer is told that the change is
    /// here and not there yet.
    pub write_through_timeout: Duration,
    /// Age of the oldest change that waits for the origin at which writes to the mount's bucket that grow it are
    /// refused; from half of it on they are slowed down. `None`: never. Shorter: less is lost with this node, and an
    /// outage of the origin is noticed by writers earlier.
    pub max_lag: Option<Duration>,
}

/// Default of [`MountConfig::write_through_timeout`].
pub const WRITE_THROUGH_TIMEOUT: Duration = Duration::from_secs(30);

impl MountConfig {
    /// `/bucket/prefix`, for people.
    pub fn path(&self) -> String {
        format!("/{}/{}", self.bucket, String::from_utf8_lossy(&self.prefix)).trim_end_matches('/').to_owned()
    }
}

/// An origin.
#[derive(Debug, Clone)]
pub struct OriginConfig {
    /// `s3://bucket/prefix`: shown to people, and recorded: another one means another origin.
    pub url: String,
    /// What origin keys begin with: empty, or ending in `/`.
    pub prefix: String,
    /// How to reach it.
    pub backend: OriginBackend,
}

/// The kinds of origin.
#[derive(Clone)]
pub enum OriginBackend {
    /// S3 or what speaks it.
    S3(Box<S3OriginConfig>),
    /// A directory of this machine.
    Directory(PathBuf),
    /// An origin of the caller's: tests.
    Custom(Arc<dyn Origin>),
}

impl OriginBackend {
    pub(crate) fn connect(&self) -> std::io::Result<Arc<dyn Origin>> {
        Ok(match self {
            OriginBackend::S3(config) => Arc::new(S3Origin::new((**config).clone())),
            OriginBackend::Directory(path) => Arc::new(Counted::new(DirOrigin::new(path)?)),
            OriginBackend::Custom(origin) => origin.clone(),
        })
    }
}

impl std::fmt::Debug for OriginBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OriginBackend::S3(config) => config.fmt(f),
            OriginBackend::Directory(path) => path.fmt(f),
            OriginBackend::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has the data directory.
    #[error("the data directory {0} is in use by another process")]
    InUse(PathBuf),
    /// The directory cannot be made or written.
    #[error("the data directory {0}: {1}")]
    Directory(PathBuf, std::io::Error),
    /// What is on disk cannot be gone on from.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A thread or pool could not be started.
    #[error("starting threads: {0}")]
    Threads(std::io::Error),
    /// The core refused what a start must write.
    #[error("starting: {0}")]
    Core(#[from] Error),
    /// A mount cannot be served.
    #[error("mount {0}: {1}")]
    Mount(String, String),
}

/// What a stop leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Queue rows that wait on disk for their origin.
    pub queued_objects: u64,
    /// Their bytes.
    pub queued_bytes: u64,
}

/// See the file's head.
pub struct Node {
    shared: Arc<Shared>,
    driver: Driver,
    stop: CancellationToken,
    housekeeping: JoinHandle<()>,
    flusher: Arc<Flusher>,
    flushing: JoinHandle<Result<u64, SourceError>>,
    evicting: EvictThread,
    _lock: File,
}

impl Node {
    /// Opens the data directory and starts. When this returns, everything acknowledged before is visible
    /// and the node takes writes; the origin need not be reachable. Must run inside a tokio runtime.
    pub async fn start(config: StorageConfig) -> Result<Node, StartError> {
        let lock = lock_directory(&config.data_dir)?;
        let flusher = Arc::new(OnceLock::new());
        let disk: Arc<dyn Disk> = Arc::new(ThreadsDisk::new(&config.data_dir));
        let (settings, sink, files) = (config.clone(), flusher.clone(), disk.clone());
        let opening = tokio::task::spawn_blocking(move || open_directory(&settings, files, sink));
        let opened = opening.await.map_err(|error| StartError::Threads(std::io::Error::other(error)))??;
        let Opened {
            engine,
            identity,
            keyspace,
            registry,
            segments,
            checkpointer,
            stager,
            clock,
            status,
            stats,
            done,
            recovery,
        } = opened;
        tracing::info!(
            cluster = %identity.cluster,
            journal_records = recovery.records,
            journal_bytes = recovery.bytes,
            rewritten_tail_bytes = recovery.tail_bytes,
            "data directory opened"
        );
        let inbox = Arc::new(Inbox::default());
        let shared = Arc::new(Shared {
            keyspace,
            registry,
            segments,
            checkpointer: checkpointer.clone(),
            stager,
            fills: Default::default(),
            lookups: Default::default(),
            admissions: Default::default(),
            evictor: Default::default(),
            recency: Default::default(),
            scrubber: Default::default(),
            space: SpaceWatch::new(disk, config.limits.disk_reserve_bytes),
            clock: clock.clone(),
            cluster: identity.cluster,
            run_id: run_id()?,
            inbox: inbox.clone(),
            permits: Arc::new(Semaphore::new(INBOX_PERMITS)),
            pool: ReadPool::new("read", config.read_threads, 1024).map_err(StartError::Threads)?,
            status,
            driver: stats.clone(),
            journal: engine.journal_metrics(),
            limits: config.limits,
            memtable_bytes: config.memtable_bytes as u64,
            kept_buckets: config.kept_buckets.iter().map(|name| Box::from(name.as_bytes())).collect(),
            group_bytes_max: engine.group_bytes_max(),
            sync: config.sync,
            voters: 1,
            started_ms: clock.now_ms(),
            expired: Default::default(),
            flusher: flusher.clone(),
        });
        let now_ms = Box::new(move || clock.now_ms());
        let sync = config.sync;
        let parts = DriverParts { engine, inbox, checkpointer, stats, done, sync, now_ms };
        let driver = Driver::start(parts).map_err(StartError::Threads)?;
        let begun = match wait_until_leading(&shared).await {
            Ok(()) => begin_run(&shared, identity.node).await,
            Err(error) => Err(error),
        };
        let started = match begun {
            Ok(()) => mounts::record(&shared, &config.mounts)
                .await
                .and_then(|specs| flush_link::start(&shared, specs, &config.flush)),
            Err(error) => Err(error),
        };
        let started = started
            .and_then(|worker| Ok((worker, EvictThread::start(&shared).map_err(StartError::Threads)?)));
        let (worker, evicting) = match started {
            Ok(started) => started,
            Err(error) => {
                // The threads end before the lock goes: nobody else may open the directory earlier.
                let stop = move || {
                    driver.stop();
                    shared.stager.stop();
                };
                let _ = tokio::task::spawn_blocking(stop).await;
                drop(lock);
                return Err(error);
            }
        };

        let stop = CancellationToken::new();
        // From here on apply tells it what happens; what was before it reads when it starts.
        flusher.get_or_init(|| Arc::downgrade(&worker));
        let flushing = tokio::spawn({
            let (worker, stop) = (worker.clone(), stop.clone());
            async move { worker.run(stop).await }
        });
        // What is wrong with it now is found by whoever asks for it.
        if let Err(error) = crate::lookup::resume(&shared).await {
            tracing::warn!(%error, "imports that were under way do not go on");
        }
        let housekeeping = tokio::spawn(background::run(shared.clone(), config.upload_expiry, stop.clone()));
        Ok(Node { shared, driver, stop, housekeeping, flusher: worker, flushing, evicting, _lock: lock })
    }

    /// The handle for front ends.
    pub fn store(&self) -> Store {
        Store::new(self.shared.clone())
    }

    /// The flush workers, for admin and metrics.
    pub fn flush(&self) -> Arc<Flusher> {
        self.flusher.clone()
    }

    /// Lets uploads under way finish for a moment, works off what was submitted, syncs, and closes the
    /// directory. The front ends must have been stopped.
    pub async fn stop(self) -> Stopped {
        self.stop.cancel();
        // Some of those that are waited for below may wait for room in the log, which may never come.
        self.shared.inbox.announce_stop();
        self.shared.lookups.stop().await;
        match self.flushing.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "the flush worker had stopped"),
            Err(error) => tracing::error!(%error, "the flush worker panicked"),
        }
        let _ = self.housekeeping.await;
        let (driver, evicting) = (self.driver, self.evicting);
        let stager = self.shared.stager.clone();
        let scrubbed = self.shared.clone();
        let stop = move || {
            scrubbed.scrubber.stop();
            drop(scrubbed);
            // While there are checkpoints to wait for.
            evicting.stop();
            driver.stop();
            stager.stop();
        };
        let _ = tokio::task::spawn_blocking(stop).await;
        let stats = Store::new(self.shared).stats();
        Stopped { queued_objects: stats.dirty_objects, queued_bytes: stats.dirty_bytes }
    }
}

#[cfg(test)]
impl Node {
    /// Ends it as kill -9 would: what was written is there, and nothing more is written or answered. The directory may
    /// be opened again once every handle of the store is gone.
    pub(crate) async fn crash(self) {
        let (driver, evicting, stager) = (self.driver, self.evicting, self.shared.stager.clone());
        let die = move || {
            driver.die();
            evicting.stop();
            stager.stop();
        };
        tokio::task::spawn_blocking(die).await.unwrap();
        self.stop.cancel();
        let _ = self.flushing.await;
        let _ = self.housekeeping.await;
    }
}

fn lock_directory(dir: &Path) -> Result<File, StartError> {
    let failed = |error| StartError::Directory(dir.to_owned(), error);
    create_durably(dir).map_err(failed)?;
    let lock =
        File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(dir.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Creates a directory and those above it; their names survive a power cut when this returns, also where
/// somebody else has just made them.
fn create_durably(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let dir = dir.canonicalize()?;
    for parent in dir.ancestors().skip(1) {
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            Ok(()) => {}
            // One that is not ours to read was not made just now.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => break,
            // Some file systems cannot sync a directory.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open_directory(
    config: &StorageConfig,
    disk: Arc<dyn Disk>,
    flusher: Arc<OnceLock<Weak<Flusher>>>,
) -> Result<Opened, StartError> {
    let keyspace = config.data_dir.join(KEYSPACE);
    let failed = |error| StartError::Directory(keyspace.clone(), error);
    create_durably(&keyspace).map_err(failed)?;
    let memtable_bytes = config.memtable_bytes as u64;
    let lmdb = Lmdb::open(&keyspace, config.map_bytes, memtable_bytes, resident_bytes());
    let lmdb = lmdb.map_err(OpenError::Base)?;
    // LMDB syncs its file, not the name of it.
    File::open(&keyspace).and_then(|dir| dir.sync_all()).map_err(failed)?;
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(|e| StartError::Threads(std::io::Error::other(e.to_string())))?;
    let nonce = u64::from_le_bytes(nonce);
    let reserve = |space| disk_reserve(config.limits.disk_reserve_bytes, space);
    let journal = JournalConfig {
        file_bytes: config.journal_file_bytes,
        align: config.journal_align,
        // A disk that does not say what is free keeps all of it.
        disk_reserve_bytes: disk.space().map_or(u64::MAX, reserve),
        ..JournalConfig::new(nonce)
    };
    let parts = Parts {
        disk,
        base: Arc::new(lmdb),
        clock: Arc::new(SystemClock),
        preparer: Box::new(BackgroundPreparer::default()),
        journal,
        segments: SegmentConfig::for_capacity(nonce, config.limits.capacity_bytes),
        stage_threads: config.stage_threads.max(1),
        sync: config.sync,
        memtable: MemtableLimits {
            bytes: config.memtable_bytes,
            rows: config.memtable_rows,
            age_ms: config.memtable_age.as_millis() as u64,
        },
        cache_bytes: config.cache_bytes,
        body_bytes_max: config.limits.body_bytes,
        events: Box::new(move |events| {
            if let Some(flusher) = flusher.get().and_then(Weak::upgrade) {
                flusher.observe(events);
            }
        }),
    };
    Ok(open(parts)?)
}

/// How much of LMDB the page cache may be expected to hold: half of what this process may use.
fn resident_bytes() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let total = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let total = total.map_or(1 << 30, |kib| kib << 10);
    let limit = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse::<u64>().ok());
    limit.map_or(total, |limit| limit.min(total)) / 2
}

fn run_id() -> Result<String, StartError> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).map_err(|e| StartError::Threads(std::io::Error::other(e.to_string())))?;
    Ok(hex::encode(bytes))
}

async fn wait_until_leading(shared: &Shared) -> Result<(), StartError> {
    let until = tokio::time::Instant::now() + LEAD_WAIT;
    while !shared.status.leads.load(std::sync::atomic::Ordering::Relaxed) {
        if tokio::time::Instant::now() >= until {
            return Err(StartError::Core(Error::Unavailable("no leader was elected")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Has the log number this run, and give up what earlier runs of the node have staged and not committed.
async fn begin_run(shared: &Arc<Shared>, node: u64) -> Result<(), StartError> {
    let node = u16::try_from(node).ok().filter(|node| *node <= BlobId::NODE_MAX);
    let node = node.ok_or(StartError::Core(Error::Unavailable("the node's number is too large")))?;
    let mut submission = Submission::new();
    submission.push(&Mutation::AbortBefore { node });
    match shared.submit(submission).await?.results.first() {
        Some(Outcome::Boot(boot)) => {
            shared.stager.begin_run(node, *boot, &shared.keyspace);
            Ok(())
        }
        _ => Err(StartError::Core(Error::Unknown("the log did not number this run"))),
    }
}

impl From<BaseError> for StartError {
    fn from(error: BaseError) -> StartError {
        StartError::Open(OpenError::Base(error))
    }
}

#[cfg(test)]
mod tests;
