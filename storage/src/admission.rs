//! Admission: which writes may make the store larger now.
//!
//! Owns the limits, the looks at what is used of each, and the wait for room that may come. Does not own the room
//! itself: `evict/` makes it, the flush gives up what is dirty.
//! Writers are slowed down before they would be refused: near each limit (`slow`), and near a mount's `max_lag` (`lag`).
//! What must hold: what is refused is refused before it reaches the log, with the numbers; a replay judges nothing
//! (PITFALLS 11). Deletes of objects are never refused. A crash leaves nothing of it.

mod counts;
mod lag;
mod slow;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::flush::MountHealth;
use crate::io::{Disk, Space};
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{MountRow, Table};
use crate::keyspace::view::{View, ViewError};
use crate::mutation::Mutation;
use crate::object::BucketId;
use crate::read::view_error;
use crate::store::Shared;
use crate::submission::Submission;

pub(crate) use counts::{Admissions, Reason};
pub(crate) use lag::Lag;

/// Share of the LMDB map that may be used before writes are refused; deletes still fit into the rest.
const MAP_SOFT_PERCENT: u64 = 90;
/// Share of `capacity` below which room is plenty: less than what eviction leaves.
const PLENTY_PERCENT: u64 = 80;
/// Longest wait of a write for room that may come.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// Pause between its looks.
const ROOM_POLL: Duration = Duration::from_millis(20);
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
        Some((space, disk_reserve(self.reserve_bytes, space)))
    }
}

/// What stays free on a disk: as configured, or the usual share of it.
pub(crate) fn disk_reserve(configured: Option<u64>, space: Space) -> u64 {
    configured.unwrap_or(DISK_RESERVE_BYTES.min(space.total_bytes / 20))
}

impl Shared {
    /// What is used of each limit now.
    fn level(&self) -> Level {
        Level {
            stored: self.stored_bytes(),
            promised: self.stager.promised_bytes(),
            map: self.keyspace.base.usage(),
            dirty: self.status.dirty_charged.load(Relaxed),
            disk: self.disk_room(false),
        }
    }

    /// Why a write that makes these buckets larger, by a staged body of `more` bytes or by something short, is
    /// refused at this level.
    fn refuse_growth(&self, level: &Level, buckets: &[BucketId], more: u64) -> Option<Refused> {
        if buckets.is_empty() {
            return None;
        }
        if let Some(text) = keyspace_full(level.map) {
            return Some(Refused { error: full(text), by: Limit::Other, reason: Reason::Map });
        }
        let claimed = level.stored + level.promised;
        if claimed >= self.limits.capacity_bytes.saturating_sub(more) {
            return Some(self.no_capacity(claimed));
        }
        let limit = self.limits.dirty_bytes;
        if level.dirty >= limit.saturating_sub(more) && self.any_mounted(buckets) {
            let text = format!("forebay: dirty {}{}", share(level.dirty, limit), self.outage());
            return Some(Refused { error: full(text), by: Limit::Other, reason: Reason::DirtyLimit });
        }
        if let Some((room, reserve)) = level.disk
            && room < reserve.saturating_add(level.promised).saturating_add(more)
        {
            let text = format!(
                "forebay: {} MiB free on the disk, {} MiB are kept free (disk_reserve); make room on it",
                room.saturating_sub(self.segments.spare_bytes()) >> 20,
                reserve >> 20
            );
            return Some(Refused { error: full(text), by: Limit::Room, reason: Reason::Disk });
        }
        let (text, reason) = self.log_full()?;
        Some(Refused { error: full(text), by: Limit::Other, reason })
    }

    /// Why the log takes nothing that grows it.
    fn log_full(&self) -> Option<(String, Reason)> {
        let journal = self.status.journal_full.lock().clone().map(|why| (why, Reason::Journal));
        let why = journal
            .or_else(|| self.status.checkpoint_full.lock().clone().map(|why| (why, Reason::Checkpoint)));
        why.map(|(why, reason)| (format!("forebay: {why}"), reason))
    }

    /// Lets a write of `len` bytes that makes these buckets larger go on, beside bodies that were admitted for themselves:
    /// slows it down near a limit, refuses it where a mount is behind its `max_lag`, and waits for room as long as some
    /// may come, up to 10 s. Dropping the future does nothing.
    pub(crate) async fn admit_growth(&self, buckets: &[BucketId], len: u64) -> Result<()> {
        if buckets.is_empty() {
            return Ok(());
        }
        let lag = self.lag(buckets);
        if let Some(lag) = &lag {
            self.refuse_lag(lag)?;
        }
        let level = self.level();
        let refused = self.refuse_growth(&level, buckets, 0);
        let waits_for_room = refused.is_some();
        // Who is refused in any case is not made to wait for it.
        if let Some(refused) = refused.filter(|refused| self.is_hopeless(refused, 0)) {
            return Err(self.reject(refused));
        }
        let late = lag.map(|lag| (lag.delay(), Reason::MaxLag));
        let waits = late.into_iter().chain(self.growth_wait(&level, buckets, len));
        let slowed = waits.max_by_key(|(wait, _)| *wait).filter(|(wait, _)| !wait.is_zero());
        if let Some((wait, reason)) = slowed {
            self.admissions.note_throttled(reason);
            tokio::time::sleep(wait).await;
        }
        if slowed.is_none() && !waits_for_room {
            return Ok(());
        }
        let refused = || self.refuse_growth(&self.level(), buckets, 0);
        self.await_room(0, slowed.is_some(), &refused).await
    }

    fn refuse_lag(&self, lag: &Lag) -> Result<()> {
        if !lag.is_full() {
            return Ok(());
        }
        self.admissions.note_rejected(Reason::MaxLag);
        let (oldest, limit) = (age(lag.age.as_secs()), age(lag.limit.as_secs()));
        let why = match lag.behind_parked {
            true => ", behind one that is set aside: see forebay flush ls --state parked".to_owned(),
            false => self.outage(),
        };
        Err(full(format!("forebay: changes wait {oldest} for {}, max_lag {limit}{why}", lag.origin)))
    }

    fn lag(&self, buckets: &[BucketId]) -> Option<Lag> {
        if buckets.is_empty() || !self.admissions.watches_lag.load(Relaxed) {
            return None;
        }
        self.flusher()?.lag(buckets)
    }

    /// Refuses a row without a body where there is no room even for that: a look-up brings no bytes.
    pub(crate) fn admit_row(&self) -> Result<()> {
        let text =
            keyspace_full(self.keyspace.base.usage()).or_else(|| self.log_full().map(|(text, _)| text));
        text.map_or(Ok(()), |text| Err(full(text)))
    }

    /// Refuses deletes of keys that are not here where they would have to be queued all the same, while the limit of
    /// what may wait for an origin is reached: unlike deletes of objects they are bounded by nothing else.
    pub(crate) async fn refuse_unknown_deletes(self: &Arc<Self>, submission: &Submission) -> Result<()> {
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
            true => {
                self.admissions.note_rejected(Reason::DirtyLimit);
                Err(full(format!("forebay: dirty {}{}", share(dirty, limit), self.outage())))
            }
            false => Ok(()),
        }
    }

    /// Bytes of checkpoint store and segments that are needed.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let (used, _) = self.keyspace.base.usage();
        used + self.checkpointer.live_bytes() + self.segments.staged_bytes()
    }

    /// The same, with what is promised to bodies that are arriving: what counts against the capacity.
    pub(crate) fn claimed_bytes(&self) -> u64 {
        self.stored_bytes() + self.stager.promised_bytes()
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
        let most = self.limits.capacity_bytes / 100 * slow::CAPACITY_SLOW_PERCENT;
        let fits = self.claimed_bytes() + len <= most;
        fits && self.disk_room(false).is_none_or(|(room, reserve)| room > reserve + promised + len)
    }

    /// Whether another blob of `len` bytes leaves room that nobody has to make.
    pub(crate) fn has_plenty(&self, len: u64) -> bool {
        self.claimed_bytes() + len <= self.limits.capacity_bytes / 100 * PLENTY_PERCENT
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
        Refused { error: full(text), by: Limit::Room, reason: Reason::Capacity }
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
        let refused = || self.refuse_growth(&self.level(), buckets, more);
        self.await_room(more, false, &refused).await
    }

    /// Lets a body of `len` bytes begin to arrive: it may count on room that comes while it does.
    pub(crate) fn admit_staged(&self, bucket: BucketId, len: u64) -> Result<()> {
        if let Some(lag) = self.lag(&[bucket]) {
            self.refuse_lag(&lag)?;
        }
        if let Some(refused) = self.refuse_growth(&self.level(), &[bucket], len) {
            if self.is_hopeless(&refused, len) {
                return Err(self.reject(refused));
            }
            self.evictor.nudge();
        }
        Ok(())
    }

    /// Lets a piece of a body that was admitted whole go on: it is slowed down, and waits for room.
    pub(crate) async fn admit_piece(&self, bucket: BucketId, len: u64) -> Result<()> {
        if let Some((wait, _)) = self.growth_wait(&self.level(), &[bucket], len) {
            tokio::time::sleep(wait).await;
        }
        let refused = || {
            let stored = self.stored_bytes() + len;
            (stored > self.limits.capacity_bytes).then(|| self.no_capacity(stored))
        };
        self.await_room(len, false, &refused).await
    }

    /// `counted`: the write counts as slowed down already.
    async fn await_room(
        &self,
        more: u64,
        mut counted: bool,
        refused: &(dyn Fn() -> Option<Refused> + Sync),
    ) -> Result<()> {
        let until = Instant::now() + ROOM_WAIT;
        while let Some(refused) = refused() {
            if self.is_hopeless(&refused, more) || Instant::now() >= until {
                return Err(self.reject(refused));
            }
            if !std::mem::replace(&mut counted, true) {
                self.admissions.note_throttled(refused.reason);
            }
            self.evictor.nudge();
            tokio::time::sleep(ROOM_POLL).await;
        }
        Ok(())
    }

    /// Whether no waiting helps a write of `more` bytes.
    fn is_hopeless(&self, refused: &Refused, more: u64) -> bool {
        matches!(refused.by, Limit::Other) || more > self.limits.capacity_bytes || !self.room_may_come()
    }

    fn reject(&self, refused: Refused) -> Error {
        self.admissions.note_rejected(refused.reason);
        refused.error
    }

    pub(crate) fn any_mounted(&self, buckets: &[BucketId]) -> bool {
        let takes_rows = |mount: &MountRow| !mount.local && !mount.leaving;
        let mounts = self.status.mounts.lock();
        mounts.iter().any(|(_, mount)| takes_rows(mount) && buckets.contains(&mount.bucket))
    }
}

/// What is used of each limit, looked at once for everything that a write is judged by.
struct Level {
    /// Of [`Limits::capacity_bytes`].
    stored: u64,
    /// Bytes that bodies on their way will take.
    promised: u64,
    /// The LMDB map: used, and its size.
    map: (u64, u64),
    /// Of [`Limits::dirty_bytes`].
    dirty: u64,
    /// What the file system could take, and what stays free; `None` if nobody can say.
    disk: Option<(u64, u64)>,
}

/// Why growth is refused.
struct Refused {
    error: Error,
    by: Limit,
    reason: Reason,
}

/// Which limit it is.
enum Limit {
    /// Eviction may help.
    Room,
    /// It does not.
    Other,
}

/// Why the keyspace takes nothing that grows it.
fn keyspace_full((used, map): (u64, u64)) -> Option<String> {
    let is_full = used > map / 100 * MAP_SOFT_PERCENT;
    is_full
        .then(|| format!("forebay: keyspace {} of {} MiB used; raise lmdb.map_size", used >> 20, map >> 20))
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
