//! The one handle the front ends hold: look-ups, views, submissions.
//!
//! Owns what front ends may ask for, and the way of a submission into the log. Does not own what it refuses for want
//! of room (`admission.rs`), reading (`read.rs`), nor writing (`replica/`).

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedRwLockReadGuard, Semaphore};

use crate::admission::{Admissions, SpaceWatch};
use crate::blob::SegmentStore;
use crate::body::BodyReader;
use crate::clock::SteadyClock;
use crate::error::{Error, Result};
use crate::evict::{Evictor, Recency};
use crate::fill::Fills;
use crate::flush::Flusher;
use crate::io::threads::ReadPool;
use crate::journal::JournalMetrics;
use crate::keyspace::checkpoint::Checkpointer;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{OriginRow, QueueRow, Table, queue_key};
use crate::keyspace::view::View;
use crate::keyspace::{Got, Keyspace, PREFETCH_KEYS};
use crate::lookup::Lookups;
use crate::mutation::{Mutation, Outcome, Payload};
use crate::object::{BucketId, ClusterId, KEY_BYTES_MAX, ObjectRow, Version};
use crate::read::{Lookup, ReadView, base_error, judge, view_error};
use crate::registry::Registry;
use crate::replica::{DriverStats, EngineStatus, Inbox, Pending};
use crate::scrub::Scrubber;
use crate::stage::{BodyOf, BodyWriter, StagedBody, Stager};
use crate::submission::{Outcomes, Submission};
use crate::write_through::{self, Arrival};

pub use crate::admission::Limits;
pub use crate::fill::OriginTraffic;
pub use crate::registry::BucketInfo;
pub use crate::replica::SyncMode;
pub use crate::stats::Stats;

/// Bytes of one permit of the inbox.
const PERMIT_BYTES: usize = 1024;
/// What may wait to be proposed, in permits: 64 MiB.
pub(crate) const INBOX_PERMITS: usize = 64 * 1024;
/// A wait without a limit, in a form that clocks can add.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Pause between looks at whether an emptied mount has been swept.
const SWEEP_POLL: Duration = Duration::from_millis(20);
/// Bytes read at a time for a copy.
const COPY_BYTES: u64 = 1 << 20;

/// Where an object stands with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginState {
    /// Under no mount, or a `local` one.
    Local,
    /// Waits for upload since its commit.
    Pending {
        /// Milliseconds since then.
        age_ms: u64,
    },
    /// The origin holds this version.
    Flushed,
    /// Set aside; kept; listed.
    Parked {
        /// Why.
        reason: String,
    },
}

/// An object that was written anew with the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The version that was read.
    pub from: Version,
    /// The version that has its bytes since.
    pub to: Version,
}

/// What the store, its views and the background workers share.
pub(crate) struct Shared {
    pub(crate) keyspace: Arc<Keyspace>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) segments: Arc<SegmentStore>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) stager: Arc<Stager>,
    pub(crate) fills: Fills,
    pub(crate) lookups: Lookups,
    pub(crate) evictor: Evictor,
    pub(crate) recency: Recency,
    pub(crate) scrubber: Scrubber,
    pub(crate) space: SpaceWatch,
    pub(crate) clock: Arc<SteadyClock>,
    pub(crate) cluster: ClusterId,
    pub(crate) run_id: String,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) pool: ReadPool,
    pub(crate) status: Arc<EngineStatus>,
    pub(crate) driver: Arc<DriverStats>,
    pub(crate) journal: Arc<JournalMetrics>,
    pub(crate) limits: Limits,
    pub(crate) admissions: Admissions,
    /// Size at which a memtable goes to the checkpoint.
    pub(crate) memtable_bytes: u64,
    /// Names of the buckets whose objects are never given up.
    pub(crate) kept_buckets: HashSet<Box<[u8]>>,
    /// Largest atomic group: it must fit one journal file.
    pub(crate) group_bytes_max: u64,
    pub(crate) sync: SyncMode,
    pub(crate) voters: u32,
    pub(crate) started_ms: u64,
    pub(crate) expired: std::sync::atomic::AtomicU64,
    /// Weak, because the worker holds this in turn.
    pub(crate) flusher: Arc<OnceLock<Weak<Flusher>>>,
}

impl Shared {
    /// Begins a body in this bucket: if it has a mount in blocks, each to be given up and read back by itself; elsewhere
    /// nothing is given up.
    pub(crate) fn begin_staging(&self, bucket: BucketId, len: u64, of: BodyOf) -> Result<BodyWriter> {
        let writer = self.stager.begin(len)?;
        Ok(match self.any_mounted(&[bucket]) {
            true => writer.in_blocks(of),
            false => writer,
        })
    }

    /// Takes mutations through the log; see [`Store::submit`].
    pub(crate) async fn submit(self: &Arc<Self>, submission: Submission) -> Result<Outcomes> {
        self.submit_keeping(submission, None).await
    }

    /// The same; eviction judges nothing before the log has answered, be it that nobody waits for the answer.
    pub(crate) async fn submit_keeping(
        self: &Arc<Self>,
        submission: Submission,
        gate: Option<OwnedRwLockReadGuard<()>>,
    ) -> Result<Outcomes> {
        let permits = (submission.bytes.len() / PERMIT_BYTES + 1).min(INBOX_PERMITS) as u32;
        let permit = match self.permits.clone().try_acquire_many_owned(permits) {
            Ok(permit) => permit,
            Err(_) => self.permits.clone().acquire_many_owned(permits).await.map_err(|_| Error::Stopping)?,
        };
        let (pending, answer) = Pending::keeping(submission, permit, gate);
        self.inbox.push(pending);
        let outcomes = answer.await.map_err(|_| Error::Unknown("the node stopped before it answered"))??;
        let views = outcomes.views.into_iter().map(|view| ReadView::new(self.clone(), view)).collect();
        Ok(Outcomes { results: outcomes.results, views })
    }

    /// Whether deletes of an emptied, mounted bucket are still to be queued.
    fn sweeps_a_mount(&self) -> bool {
        let buckets: Vec<BucketId> = self.status.unswept.lock().iter().map(|(bucket, _)| *bucket).collect();
        self.any_mounted(&buckets)
    }

    /// The flush worker, once it is there.
    pub(crate) fn flusher(&self) -> Option<Arc<Flusher>> {
        self.flusher.get()?.upgrade()
    }
}

/// See the file's head. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Store {
    pub(crate) fn new(shared: Arc<Shared>) -> Store {
        Store { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Identity of the cluster.
    pub fn cluster_id(&self) -> ClusterId {
        self.shared.cluster
    }

    /// Longest body that RESP may make, in bytes.
    pub fn body_bytes_max(&self) -> u64 {
        self.shared.limits.body_bytes
    }

    /// Longest body that travels inside a mutation, in bytes; longer ones must be staged.
    pub fn inline_bytes_max(&self) -> u64 {
        self.shared.limits.inline_bytes
    }

    /// Begins to take a body of `len` bytes into segments, for a mutation in this bucket. [`Error::Full`] when
    /// there is no room for it, as [`Store::submit`]. What becomes of it: see [`BodyWriter`], [`StagedBody`].
    pub fn stage_body(&self, bucket: BucketId, len: u64, of: BodyOf) -> Result<BodyWriter> {
        let shared = &self.shared;
        shared.admit_staged(bucket, len)?;
        Ok(shared.begin_staging(bucket, len, of)?.within(shared, bucket))
    }

    /// Largest transaction, in encoded bytes.
    pub fn group_bytes_max(&self) -> u64 {
        self.shared.group_bytes_max
    }

    /// The core's wall clock, milliseconds since the Unix epoch; never goes back.
    pub fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    /// When replies leave.
    pub fn sync_mode(&self) -> SyncMode {
        self.shared.sync
    }

    /// Looks a bucket up by name; no I/O.
    pub fn bucket(&self, name: &[u8]) -> Option<BucketId> {
        self.shared.registry.by_name(name)
    }

    /// The bucket of that name, created through the log if there is none. A dropped future may leave it
    /// created.
    pub async fn open_bucket(&self, name: &[u8]) -> Result<BucketId> {
        if let Some(id) = self.bucket(name) {
            return Ok(id);
        }
        if !is_bucket_name(name) {
            return Err(Error::InvalidBucketName);
        }
        let mut submission = Submission::new();
        submission.push(&Mutation::CreateBucket { name });
        match self.submit(submission).await?.results.first() {
            Some(Outcome::Bucket(id, _)) => Ok(*id),
            _ => Err(Error::Unknown("the bucket could not be created")),
        }
    }

    /// All buckets, by name.
    pub fn buckets(&self) -> Vec<BucketInfo> {
        self.shared.registry.all().iter().map(|bucket| bucket.info()).collect()
    }

    /// Facts of one bucket.
    pub fn bucket_info(&self, id: BucketId) -> Option<BucketInfo> {
        self.shared.registry.get(id).map(|bucket| bucket.info())
    }

    pub(crate) fn check_readable(&self) -> Result<()> {
        // One voter that has committed an entry of its own term is always within its lease.
        match self.shared.status.leads.load(Relaxed) {
            true => Ok(()),
            false => Err(Error::Unavailable("this node does not lead yet")),
        }
    }

    /// A view at the latest visible entry: everything acknowledged before is in it.
    pub fn view(&self) -> Result<ReadView> {
        self.check_readable()?;
        Ok(ReadView::new(self.shared.clone(), View::latest(&self.shared.keyspace)))
    }

    /// Reads one key at the latest visible entry, without the cost of a view. On [`Lookup::Later`] take a
    /// view and `fetch`.
    #[inline]
    pub fn get(&self, bucket: BucketId, key: &[u8]) -> Result<Lookup> {
        self.check_readable()?;
        let keyspace = &self.shared.keyspace;
        let row_key = RowKey::object(Table::Object, bucket, key);
        match keyspace.read_latest(row_key, true, false).map_err(base_error)? {
            (Got::Value(raw), at) => Ok(judge(&self.shared, (bucket, key), raw, at)),
            (Got::Cold | Got::Restart, _) => Ok(Lookup::Later),
        }
    }

    /// Keys worth giving to [`Store::prefetch`] at once.
    pub const PREFETCH_KEYS: usize = PREFETCH_KEYS;

    /// Says which keys are about to be read, so that the CPU waits for their rows together instead of one by one. Only
    /// a hint; never blocks.
    pub fn prefetch<'a>(&self, bucket: BucketId, keys: impl Iterator<Item = &'a [u8]> + Clone) {
        self.shared.keyspace.prefetch(keys.map(|key| RowKey::object(Table::Object, bucket, key)));
    }

    /// Submits mutations; resolves when all of them are committed, durable (with `everysec`: written) and
    /// applied, and what they changed under write-through mounts is in the origin; [`Error::NotInOrigin`] if the last
    /// does not come true in time. Dropping the future does not undo what was submitted. Waits when too much is under
    /// way; refuses with [`Error::Full`] what would grow beyond a limit. Views of it would be held all the while: whoever
    /// asks for some takes [`Store::submit_reading`].
    pub async fn submit(&self, submission: Submission) -> Result<Outcomes> {
        let (outcomes, arrival) = self.submit_reading(submission).await?;
        arrival.all().await?;
        Ok(outcomes)
    }

    /// As [`Store::submit`], up to where all of it is applied: what is not in the origin of a write-through mount yet
    /// comes beside the outcomes, and nobody may be told that it is done before it has arrived. Read from the views
    /// before that is waited for.
    pub async fn submit_reading(&self, submission: Submission) -> Result<(Outcomes, Arrival)> {
        self.shared.admit_growth(&submission.grows, submission.bytes.len() as u64).await?;
        let (mut start, mut first) = (0, 0);
        for (end, outcomes) in &submission.ends {
            let too_many = (outcomes - first) as u64 >= Version::POSITIONS_MAX;
            if (end - start) as u64 > self.shared.group_bytes_max || too_many {
                return Err(Error::GroupTooLarge((end - start) as u64, self.shared.group_bytes_max));
            }
            (start, first) = (*end, *outcomes);
        }
        self.shared.refuse_unknown_deletes(&submission).await?;
        write_through::submit(&self.shared, submission).await
    }

    /// Whether clients may not change the key: its mount is read-only. One atomic load where no mount is.
    pub fn is_read_only(&self, bucket: BucketId, key: &[u8]) -> bool {
        let shared = &self.shared;
        shared.status.read_only.load(Relaxed)
            && shared.with_mount(bucket, key, |_, row| row.read_only.then_some(())).is_some()
    }

    /// Refuses keys longer than 1,024 bytes; every key of a submission must have passed.
    pub fn check_key(key: &[u8]) -> Result<()> {
        if key.len() > KEY_BYTES_MAX { Err(Error::KeyTooLong(key.len())) } else { Ok(()) }
    }

    /// After APPEND or SETRANGE came back as too fragmented: puts the object's parts into one piece. Then
    /// submit again. The future may be dropped.
    pub async fn defragment(&self, bucket: BucketId, key: &[u8]) -> Result<Option<Moved>> {
        let view = self.view()?;
        let Some(row) = view.fetch(bucket, key).await? else { return Ok(None) };
        let (version, mut submission) = (row.version(), Submission::new());
        if row.body_len() <= self.inline_bytes_max() {
            let body = view.read_body(&row, 0..row.body_len()).await?;
            let value = Payload::Inline(&body);
            submission.push(&Mutation::Rewrite { bucket, key, version, value });
        } else {
            let body = view.open_body(&row).await?;
            // A long copy must not hold old versions of rows.
            drop(view);
            let staged = self.stage_copy(bucket, &body).await?;
            let value = staged.payload();
            submission.push(&Mutation::Rewrite { bucket, key, version, value });
            submission.carry(staged);
        }
        let outcomes = self.shared.submit(submission).await?;
        Ok(match outcomes.results.first() {
            Some(Outcome::Done(to)) => Some(Moved { from: version, to: *to }),
            _ => None,
        })
    }

    /// Whether any object's bytes may be in an origin only: one atomic load.
    #[inline]
    pub fn has_origins(&self) -> bool {
        self.shared.fills.has_origins()
    }

    /// Whether bytes of the object may be in its origin only. Never waits, touches no disk; also true where it cannot
    /// be told so.
    pub fn is_away(&self, bucket: BucketId, key: &[u8]) -> bool {
        let Ok(view) = self.view() else { return true };
        match view.get(bucket, key) {
            Lookup::Found(row) => view.is_away(&row, false),
            Lookup::Absent => false,
            Lookup::Later => true,
        }
    }

    /// Brings the object's bytes here if some are in its origin only: what replaces the object may take them away
    /// there before they are read. The future may be dropped.
    pub async fn bring_here(&self, bucket: BucketId, key: &[u8]) -> Result<Option<Moved>> {
        let view = self.view()?;
        let Some(row) = view.fetch(bucket, key).await? else { return Ok(None) };
        let (len, capacity) = (row.body_len(), self.shared.limits.capacity_bytes);
        let look = move || view.is_away(&row, true);
        match self.shared.pool.run(look).await.map_err(|_| Error::Stopping)? {
            true if len > capacity => Err(Error::BeyondCapacity(len, capacity)),
            true => self.defragment(bucket, key).await,
            false => Ok(None),
        }
    }

    /// The same bytes, staged anew.
    async fn stage_copy(&self, bucket: BucketId, body: &BodyReader) -> Result<StagedBody> {
        let mut writer = self.stage_body(bucket, body.len(), BodyOf::Object)?;
        let mut at = 0;
        while at < body.len() {
            let bytes = body.read(at..at + COPY_BYTES).await?;
            at += bytes.len() as u64;
            writer.write(bytes).await?;
        }
        writer.finish().await
    }

    /// What was asked of each mount's origin since the start.
    pub fn origin_traffic(&self) -> Vec<OriginTraffic> {
        self.shared.fills.traffic()
    }

    /// Where an object stands with its origin. Reads two rows, on the read pool if they are cold.
    pub async fn origin_state(&self, bucket: BucketId, key: &[u8]) -> Result<OriginState> {
        let mount = self.shared.mount_of(bucket, key);
        if mount.is_none() {
            return Ok(OriginState::Local);
        }
        self.check_readable()?;
        let view = View::latest(&self.shared.keyspace);
        let (key, now_ms) = (key.to_vec(), self.now_ms());
        let read = move || {
            let row = view.get(RowKey::object(Table::Origin, bucket, &key), false, true)?.flatten();
            let origin = row.as_deref().and_then(OriginRow::decode).map(|row| row.seen_by(mount));
            let Some(origin) = origin.filter(|origin| !origin.is_empty()) else {
                return Ok(OriginState::Pending { age_ms: 0 });
            };
            let Some(version) = origin.pending else { return Ok(OriginState::Flushed) };
            let row_key = queue_key(version, bucket, &key);
            let row = view.get(RowKey::encoded(&row_key), false, true)?.flatten();
            Ok(match row.as_deref().and_then(QueueRow::decode) {
                None => OriginState::Flushed,
                Some(QueueRow { parked: Some(reason), .. }) => OriginState::Parked { reason },
                Some(row) => OriginState::Pending { age_ms: now_ms.saturating_sub(row.stamp_ms) },
            })
        };
        let state = self.shared.pool.run(read).await.map_err(|_| Error::Stopping)?;
        state.map_err(view_error)
    }

    /// Waits until what was committed before this call (of these keys; `None`: all) is in the origin, or
    /// set aside, or the time is over (`None`: waits for ever). Returns how many are still pending, parked
    /// ones included, and how many of those are parked.
    pub async fn flush_wait(
        &self,
        keys: Option<&[(BucketId, Vec<u8>)]>,
        timeout: Option<Duration>,
    ) -> Result<(u64, u64)> {
        let timeout = timeout.unwrap_or(FOR_EVER);
        let until = Instant::now() + timeout;
        // An emptied bucket's deletes are queued as it is swept; they count as committed with FLUSHALL.
        while self.shared.sweeps_a_mount() && Instant::now() < until {
            tokio::time::sleep(SWEEP_POLL).await;
        }
        let upto = self.shared.keyspace.visible();
        let Some(flusher) = self.shared.flusher() else { return Ok((0, 0)) };
        let keys: Option<Vec<(BucketId, Bytes)>> = keys
            .map(|keys| keys.iter().map(|(bucket, key)| (*bucket, Bytes::copy_from_slice(key))).collect());
        match flusher.wait(upto, keys.as_deref(), until.saturating_duration_since(Instant::now())).await {
            Some(pending) => Ok((pending.rows, pending.parked)),
            None => Err(Error::Unavailable("this node does not work the flush queue yet")),
        }
    }

    /// Estimated memory and disk use of an object, in bytes (MEMORY USAGE).
    pub fn object_usage(row: &ObjectRow, key: &[u8]) -> u64 {
        (row.encoded_len() + key.len() + 32) as u64
            + if row.inline_body().is_some() { 0 } else { row.body_len() }
    }
}

/// S3's rule for bucket names: 3 to 63 lower-case letters, digits, dots and hyphens, beginning and ending
/// with a letter or digit.
pub fn is_bucket_name(name: &[u8]) -> bool {
    let edge = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.first().is_some_and(edge)
        && name.last().is_some_and(edge)
        && name.iter().all(|c| edge(c) || *c == b'-' || *c == b'.')
        && !name.windows(2).any(|pair| pair == b"..")
}
