//! The one handle the front ends hold: look-ups, views, submissions.
//!
//! Owns admission (keys, limits, back-pressure) and nothing else; reading is `read.rs`, writing is
//! `replica/`.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, Semaphore};

use crate::blob::SegmentStore;
use crate::body::BodyReader;
use crate::clock::SteadyClock;
use crate::error::{Error, Result};
use crate::evict::{EvictCounts, Evictor, Recency};
use crate::fill::{FillCounts, Fills};
use crate::flush::{Flusher, MountHealth};
use crate::io::threads::ReadPool;
use crate::io::{Disk, Space};
use crate::journal::JournalMetrics;
use crate::keyspace::checkpoint::Checkpointer;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{MountRow, OriginRow, QueueRow, Table, queue_key};
use crate::keyspace::view::{View, ViewError};
use crate::keyspace::{Got, Keyspace, PREFETCH_KEYS};
use crate::lookup::Lookups;
use crate::mutation::{Mutation, Outcome, Payload};
use crate::object::{BucketId, ClusterId, KEY_BYTES_MAX, ObjectRow, Version};
use crate::read::{Lookup, ReadView, base_error, judge, view_error};
use crate::registry::Registry;
use crate::replica::{DriverStats, EngineStatus, Inbox, Pending};
use crate::scrub::{ScrubCounts, Scrubber};
use crate::stage::{BodyWriter, StagedBody, Stager};
use crate::submission::{Outcomes, Submission};
use crate::write_through;

pub use crate::registry::BucketInfo;
pub use crate::replica::SyncMode;

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
/// Share of the LMDB map that may be used before writes are refused; deletes still fit into the rest.
const MAP_SOFT_PERCENT: u64 = 90;
/// Share of `capacity` below which room is plenty: less than what eviction leaves.
const PLENTY_PERCENT: u64 = 80;
/// Longest wait of a write for room that may come.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// Pause between its looks.
const ROOM_POLL: Duration = Duration::from_millis(20);

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

/// Byte limits of a node.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of checkpoint store and segments together; beyond, writes that grow are refused.
    pub capacity_bytes: u64,
    /// Bytes that wait for their origin (bodies, keys, and 256 for each queued change, deletes included);
    /// beyond, writes to mounted buckets that grow are refused.
    pub dirty_bytes: u64,
    /// Longest body that travels inside the log, in bytes; longer ones are staged. Larger: fewer files' syncs
    /// for middling bodies, a longer log.
    pub inline_bytes: u64,
    /// Longest body that RESP may make, in bytes.
    pub body_bytes: u64,
    /// What must stay free on the file system: growth is refused below. `None`: 1 GiB or 5 % of it, whichever is
    /// smaller.
    pub disk_reserve_bytes: Option<u64>,
}

/// Never more than this is kept free by default.
const DISK_RESERVE_BYTES: u64 = 1 << 30;
/// How long a look at the file system's free space counts.
const SPACE_AGE: Duration = Duration::from_millis(100);

/// The free space of the file system, looked at now and then.
pub(crate) struct SpaceWatch {
    disk: Arc<dyn Disk>,
    reserve_bytes: Option<u64>,
    /// Held for a look only.
    last: Mutex<Option<(Instant, Space)>>,
}

impl SpaceWatch {
    pub(crate) fn new(disk: Arc<dyn Disk>, reserve_bytes: Option<u64>) -> SpaceWatch {
        SpaceWatch { disk, reserve_bytes, last: Mutex::default() }
    }

    /// The disk that is watched.
    #[cfg(test)]
    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// The space, `now` or a moment ago, and what of it must stay free; `None` if nobody can say.
    fn look(&self, now: bool) -> Option<(Space, u64)> {
        let mut last = self.last.lock();
        let space = match *last {
            Some((at, space)) if !now && at.elapsed() < SPACE_AGE => space,
            _ => match self.disk.space() {
                Ok(space) => last.insert((Instant::now(), space)).1,
                Err(error) => {
                    tracing::warn!(%error, "the free space is not known");
                    return None;
                }
            },
        };
        let usual = DISK_RESERVE_BYTES.min(space.total_bytes / 20);
        Some((space, self.reserve_bytes.unwrap_or(usual)))
    }
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

    /// Why a write that makes these buckets larger, by a staged body of `more` bytes or by something short, is
    /// refused now.
    fn refuse_growth(&self, buckets: &[BucketId], more: u64) -> Option<Refused> {
        let other = |text: String| Some(Refused { error: full(text), by: Limit::Other });
        if buckets.is_empty() {
            return None;
        }
        if let Some(text) = self.keyspace_full() {
            return other(text);
        }
        let promised = self.stager.promised_bytes();
        let stored = self.stored_bytes() + promised;
        if stored >= self.limits.capacity_bytes.saturating_sub(more) {
            return Some(self.no_capacity(stored));
        }
        let dirty = self.status.dirty_charged.load(Relaxed);
        if dirty >= self.limits.dirty_bytes.saturating_sub(more) && self.any_mounted(buckets) {
            let limit = self.limits.dirty_bytes;
            let text = format!("forebay: dirty {}{}", share(dirty, limit), self.outage());
            return Some(Refused { error: full(text), by: Limit::Other });
        }
        if let Some((space, reserve)) = self.space.look(false) {
            // Free segments are filled again before the file system has to give more.
            let room = space.free_bytes.saturating_add(self.segments.spare_bytes());
            if room < reserve.saturating_add(promised).saturating_add(more) {
                let text = format!(
                    "forebay: {} MiB free on the disk, {} MiB are kept free (disk_reserve); make room on it",
                    space.free_bytes >> 20,
                    reserve >> 20
                );
                return Some(Refused { error: full(text), by: Limit::Room });
            }
        }
        self.log_full().and_then(other)
    }

    /// Why the keyspace takes nothing that grows it.
    fn keyspace_full(&self) -> Option<String> {
        let (used, map) = self.keyspace.base.usage();
        let is_full = used > map / 100 * MAP_SOFT_PERCENT;
        let text =
            || format!("forebay: keyspace {} of {} MiB used; raise lmdb.map_size", used >> 20, map >> 20);
        is_full.then(text)
    }

    /// Why the log takes nothing that grows it.
    fn log_full(&self) -> Option<String> {
        let why =
            self.status.journal_full.lock().clone().or_else(|| self.status.checkpoint_full.lock().clone());
        why.map(|why| format!("forebay: {why}"))
    }

    /// Refuses a row without a body where there is no room even for that: a look-up brings no bytes.
    pub(crate) fn admit_row(&self) -> Result<()> {
        self.keyspace_full().or_else(|| self.log_full()).map_or(Ok(()), |text| Err(full(text)))
    }

    /// Refuses deletes of keys that are not here where they would have to be queued all the same, while the limit of
    /// what may wait for an origin is reached: unlike deletes of objects they are bounded by nothing else.
    async fn refuse_unknown_deletes(self: &Arc<Self>, submission: &Submission) -> Result<()> {
        let (dirty, limit) = (self.status.dirty_charged.load(Relaxed), self.limits.dirty_bytes);
        if dirty < limit || !self.status.looks_up.load(Relaxed) {
            return Ok(());
        }
        let (mut bytes, mut asked) = (&submission.bytes[..], Vec::new());
        while let Some(mutation) = Mutation::decode(&mut bytes) {
            mutation.deletes(&mut |bucket, key| {
                if self.with_mount(bucket, key, |_, row| row.looks_up().then_some(())).is_some() {
                    asked.push((bucket, key.to_vec()));
                }
            });
        }
        let view = View::latest(&self.keyspace);
        let look = move || -> Result<bool, ViewError> {
            for (bucket, key) in &asked {
                let row = view.get(RowKey::object(Table::Object, *bucket, key), true, true)?.flatten();
                if row.is_none() {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match self.pool.run(look).await.map_err(|_| Error::Stopping)?.map_err(view_error)? {
            true => Err(full(format!("forebay: dirty {}{}", share(dirty, limit), self.outage()))),
            false => Ok(()),
        }
    }

    /// Bytes of checkpoint store and segments that are needed.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let (used, _) = self.keyspace.base.usage();
        used + self.checkpointer.live_bytes() + self.segments.staged_bytes()
    }

    /// Bytes that the file system could take, `now` or a moment ago, free segments included, and what of them is
    /// kept free; `None` if nobody can say.
    pub(crate) fn disk_room(&self, now: bool) -> Option<(u64, u64)> {
        let (space, reserve) = self.space.look(now)?;
        Some((space.free_bytes.saturating_add(self.segments.spare_bytes()), reserve))
    }

    /// Whether the bucket's objects are never given up.
    pub(crate) fn keeps(&self, bucket: BucketId) -> bool {
        let named =
            || self.registry.get(bucket).is_some_and(|bucket| self.kept_buckets.contains(&bucket.name));
        !self.kept_buckets.is_empty() && named()
    }

    /// Whether a blob that was read from the origin may be kept without taking room from writers.
    pub(crate) fn has_room_to_keep(&self, len: u64) -> bool {
        let promised = self.stager.promised_bytes();
        let fits = self.stored_bytes() + promised + len <= self.limits.capacity_bytes;
        fits && self.disk_room(false).is_none_or(|(room, reserve)| room > reserve + promised + len)
    }

    /// Whether another blob of `len` bytes leaves room that nobody has to make.
    pub(crate) fn has_plenty(&self, len: u64) -> bool {
        let stored = self.stored_bytes() + self.stager.promised_bytes() + len;
        stored <= self.limits.capacity_bytes / 100 * PLENTY_PERCENT
    }

    fn no_capacity(&self, stored: u64) -> Refused {
        let dirty = self.status.dirty_bytes.load(Relaxed);
        let pinned = match dirty {
            0 => String::new(),
            dirty => format!(", {} of it waiting for the origin{}", share_text(dirty), self.outage()),
        };
        let kept = self.kept_buckets.iter().filter_map(|name| self.registry.by_name(name));
        let kept =
            kept.filter_map(|bucket| self.registry.get(bucket)).map(|bucket| bucket.info().bytes).sum();
        let kept = match kept {
            0 => String::new(),
            kept => format!(", {} in buckets that are kept", share_text(kept)),
        };
        let text = format!("forebay: capacity {}{pinned}{kept}", share(stored, self.limits.capacity_bytes));
        Refused { error: full(text), by: Limit::Room }
    }

    /// For how long an origin has been down, as the end of a sentence.
    fn outage(&self) -> String {
        let Some(flusher) = self.flusher() else { return String::new() };
        let now_ms = self.clock.now_ms();
        let mounts = flusher.status().mounts.into_iter();
        let since = mounts.filter_map(|mount| match mount.health {
            MountHealth::Down { since_ms, .. } => Some(since_ms),
            MountHealth::Up | MountHealth::NotReady { .. } => None,
        });
        match since.min() {
            Some(since_ms) => format!(", origin down {}", age(now_ms.saturating_sub(since_ms) / 1000)),
            None => String::new(),
        }
    }

    /// Whether waiting for room is worth it: eviction finds something, or the origin takes what is pinned.
    fn room_may_come(&self) -> bool {
        self.fills.has_origins() && (!self.evictor.is_barren() || self.evictor.origin_takes_bytes())
    }

    /// Lets a write that makes these buckets larger by `more` bytes go on: waits for room as long as some may
    /// come, up to 10 s. Dropping the future does nothing.
    pub(crate) async fn admit(&self, buckets: &[BucketId], more: u64) -> Result<()> {
        let refused = || self.refuse_growth(buckets, more);
        self.await_room(more, &refused).await
    }

    /// The same for a piece of a body that was admitted whole.
    pub(crate) async fn admit_piece(&self, len: u64) -> Result<()> {
        let refused = || {
            let stored = self.stored_bytes() + len;
            (stored > self.limits.capacity_bytes).then(|| self.no_capacity(stored))
        };
        self.await_room(len, &refused).await
    }

    async fn await_room(&self, more: u64, refused: &(dyn Fn() -> Option<Refused> + Sync)) -> Result<()> {
        let until = Instant::now() + ROOM_WAIT;
        while let Some(Refused { error, by }) = refused() {
            let hopeless = more > self.limits.capacity_bytes || !self.room_may_come();
            if matches!(by, Limit::Other) || hopeless || Instant::now() >= until {
                return Err(error);
            }
            self.evictor.nudge();
            tokio::time::sleep(ROOM_POLL).await;
        }
        Ok(())
    }

    fn any_mounted(&self, buckets: &[BucketId]) -> bool {
        let takes_rows = |mount: &MountRow| !mount.local && !mount.leaving;
        let mounts = self.status.mounts.lock();
        mounts.iter().any(|(_, mount)| takes_rows(mount) && buckets.contains(&mount.bucket))
    }
}

/// Why growth is refused.
struct Refused {
    error: Error,
    by: Limit,
}

/// Which limit it is.
enum Limit {
    /// Eviction may help.
    Room,
    /// It does not.
    Other,
}

/// `8.0/8.0 GiB`, or MiB where that says more.
fn share(used: u64, limit: u64) -> String {
    let (unit, name) = if limit >= 1 << 30 { (1u64 << 30, "GiB") } else { (1 << 20, "MiB") };
    format!("{:.1}/{:.1} {name}", used as f64 / unit as f64, limit as f64 / unit as f64)
}

fn share_text(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64)
}

/// `42s`, `42m`, `42h`.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

fn full(text: String) -> Error {
    Error::Full(text.into())
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
    pub fn stage_body(&self, bucket: BucketId, len: u64) -> Result<BodyWriter> {
        let shared = &self.shared;
        if let Some(Refused { error, by }) = shared.refuse_growth(&[bucket], len) {
            let hope = matches!(by, Limit::Room) && shared.room_may_come();
            if !hope || len > shared.limits.capacity_bytes {
                return Err(error);
            }
            shared.evictor.nudge();
        }
        Ok(shared.stager.begin(len)?.within(shared))
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
    /// way; refuses with [`Error::Full`] what would grow beyond a limit.
    pub async fn submit(&self, submission: Submission) -> Result<Outcomes> {
        match self.submit_reading(submission).await? {
            (outcomes, None) => Ok(outcomes),
            (_, Some(error)) => Err(error),
        }
    }

    /// As [`Store::submit`]; but what was only not in its origin in time comes beside the outcomes, whose views are
    /// good all the same.
    pub async fn submit_reading(&self, submission: Submission) -> Result<(Outcomes, Option<Error>)> {
        self.shared.admit(&submission.grows, 0).await?;
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
        let look = move || view.is_away(&row, true);
        match self.shared.pool.run(look).await.map_err(|_| Error::Stopping)? {
            true => self.defragment(bucket, key).await,
            false => Ok(None),
        }
    }

    /// The same bytes, staged anew.
    async fn stage_copy(&self, bucket: BucketId, body: &BodyReader) -> Result<StagedBody> {
        let mut writer = self.stage_body(bucket, body.len())?;
        let mut at = 0;
        while at < body.len() {
            let bytes = body.read(at..at + COPY_BYTES).await?;
            at += bytes.len() as u64;
            writer.write(bytes).await?;
        }
        writer.finish().await
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

    /// A snapshot of counters.
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let set = shared.keyspace.memtables();
        let (lmdb_used_bytes, lmdb_map_bytes) = shared.keyspace.base.usage();
        let (cache_bytes, cache_hits, cache_misses) = shared.keyspace.cache.stats();
        let buckets = self.buckets();
        let flush = shared.flusher().map(|flusher| flusher.status());
        let (evicted, fills): (EvictCounts, FillCounts) = (shared.evictor.counts(), shared.fills.counts());
        let lookups = shared.lookups.counts();
        let scrub: ScrubCounts = shared.scrubber.counts();
        let frozen = set.frozen.as_ref().map_or(0, |frozen| frozen.rows.bytes());
        Stats {
            started_ms: shared.started_ms,
            node_run_id: shared.run_id.clone(),
            objects: buckets.iter().map(|bucket| bucket.objects).sum(),
            bytes: buckets.iter().map(|bucket| bucket.bytes).sum(),
            memtable_bytes: (set.active.bytes() + frozen) as u64,
            cache_bytes,
            cache_hits,
            cache_misses,
            lmdb_used_bytes,
            lmdb_map_bytes,
            journal_bytes: shared.journal.bytes_live.load(Relaxed),
            segment_bytes: shared.checkpointer.live_bytes() + shared.segments.staged_bytes(),
            applied_index: shared.status.applied_index.load(Relaxed),
            checkpoint_index: shared.driver.checkpointed.load(Relaxed),
            last_checkpoint_ms: shared.driver.checkpointed_ms.load(Relaxed),
            term: shared.status.term.load(Relaxed),
            is_leader: shared.status.leads.load(Relaxed),
            voters: shared.voters,
            commits_total: shared.status.mutations.load(Relaxed),
            entries_total: shared.status.entries.load(Relaxed),
            fsyncs_total: shared.journal.syncs.load(Relaxed),
            fsync_seconds_sum: shared.journal.sync_nanos.load(Relaxed) as f64 / 1e9,
            expired_total: shared.expired.load(Relaxed),
            dirty_objects: shared.status.dirty_objects.load(Relaxed),
            dirty_bytes: shared.status.dirty_bytes.load(Relaxed),
            oldest_dirty_age_ms: flush.as_ref().and_then(|flush| flush.oldest_age_ms).unwrap_or(0),
            parked_objects: flush.map_or(0, |flush| flush.parked_objects),
            capacity_bytes: shared.limits.capacity_bytes,
            dirty_limit_bytes: shared.limits.dirty_bytes,
            evicted_capacity_bytes: evicted.for_capacity,
            evicted_disk_bytes: evicted.for_disk,
            copied_forward_bytes: evicted.copied,
            released_objects_total: evicted.released,
            fills_total: fills.blocks,
            fill_bytes: fills.bytes,
            fills_kept_total: fills.kept,
            body_hits: fills.hits,
            body_misses: fills.misses,
            lookups_total: lookups.asked,
            lookups_failed_total: lookups.failed,
            adopted_total: lookups.adopted,
            vanished_total: lookups.vanished,
            scrub_running: scrub.running,
            scrub_bytes: scrub.bytes,
            scrub_found_total: scrub.found,
            scrub_mended_total: scrub.mended,
            scrub_done_ms: scrub.done_ms,
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

/// Facts for INFO, status and metrics. Times in milliseconds since the Unix epoch unless named otherwise.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// When this process opened the store.
    pub started_ms: u64,
    /// Random, a new one per start (40 hex digits).
    pub node_run_id: String,
    /// Objects in all buckets.
    pub objects: u64,
    /// Sum of their body lengths.
    pub bytes: u64,
    /// Memory of the memtables.
    pub memtable_bytes: u64,
    /// Memory of the read cache.
    pub cache_bytes: u64,
    /// Read cache hits since the start.
    pub cache_hits: u64,
    /// Read cache misses since the start.
    pub cache_misses: u64,
    /// Bytes used in the LMDB map.
    pub lmdb_used_bytes: u64,
    /// Size of the map.
    pub lmdb_map_bytes: u64,
    /// Bytes of journal files that may be needed.
    pub journal_bytes: u64,
    /// Bytes of segment files in use.
    pub segment_bytes: u64,
    /// Index of the last applied entry.
    pub applied_index: u64,
    /// Index of the last entry in the checkpoint.
    pub checkpoint_index: u64,
    /// When the last checkpoint ended.
    pub last_checkpoint_ms: u64,
    /// Raft term.
    pub term: u64,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Voters of the cluster.
    pub voters: u32,
    /// Mutations applied for this node's clients since the start.
    pub commits_total: u64,
    /// Entries applied since the start.
    pub entries_total: u64,
    /// Journal syncs since the start.
    pub fsyncs_total: u64,
    /// Time in them, seconds.
    pub fsync_seconds_sum: f64,
    /// Objects removed because their time had passed, since the start.
    pub expired_total: u64,
    /// Queue rows waiting for their origin.
    pub dirty_objects: u64,
    /// Their bytes.
    pub dirty_bytes: u64,
    /// Age of the oldest, milliseconds.
    pub oldest_dirty_age_ms: u64,
    /// Queue rows set aside.
    pub parked_objects: u64,
    /// Configured capacity.
    pub capacity_bytes: u64,
    /// Configured limit of dirty bytes.
    pub dirty_limit_bytes: u64,
    /// Bytes given up because of `capacity`, since the start.
    pub evicted_capacity_bytes: u64,
    /// Bytes given up because the file system was nearly full, since the start.
    pub evicted_disk_bytes: u64,
    /// Bytes that eviction copied to other segments, since the start.
    pub copied_forward_bytes: u64,
    /// Objects found in their origin with no mark of it, and marked, when room was wanted, since the start.
    pub released_objects_total: u64,
    /// Blocks fetched from origins for readers, since the start.
    pub fills_total: u64,
    /// Their bytes.
    pub fill_bytes: u64,
    /// Blobs that were kept again after a fill, since the start.
    pub fills_kept_total: u64,
    /// Bodies opened with all their bytes here, since the start.
    pub body_hits: u64,
    /// Bodies opened of which bytes were only in an origin, since the start.
    pub body_misses: u64,
    /// Keys that an origin was asked about, since the start.
    pub lookups_total: u64,
    /// Of these, ones that it could not be asked about.
    pub lookups_failed_total: u64,
    /// Objects of origins that were taken over, since the start.
    pub adopted_total: u64,
    /// Objects that were dropped because their origin did not hold them any more, since the start.
    pub vanished_total: u64,
    /// Whether a scrub is running.
    pub scrub_running: bool,
    /// Bytes of extents that scrubs have read, since the start.
    pub scrub_bytes: u64,
    /// Pieces of damage that scrubs have found, since the start.
    pub scrub_found_total: u64,
    /// Those of them that were put right.
    pub scrub_mended_total: u64,
    /// When a scrub last came to its end; 0 if none has since the start.
    pub scrub_done_ms: u64,
}
