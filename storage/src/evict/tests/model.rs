//! Objects under a mount, by seed: written, copied, appended to, flushed, given up, read through, brought back, with
//! crashes at any of these and an origin that fails and is written to by others.
//!
//! Aim: every acknowledged object has its bytes, its ETag, its version and its place in the listing, and each write a
//! version above all before; what the origin does not hold is always here; what was changed there is an error. Method: a model beside the engine on a simulated disk,
//! driven turn by turn; the flush is the test's own. Taking one rule away must be noticed.
//! `FOREBAY_SEEDS=n` for the long form; `FOREBAY_SEED=n` runs one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::super::compact::{Thresholds, compact};
use super::super::{EvictError, Round, Sabotage, Want, make_room, submit_held};
use crate::admission::{Limits, SpaceWatch};
use crate::error::Error;
use crate::io::threads::ReadPool;
use crate::keyspace::Keyspace;
use crate::keyspace::places::Batch;
use crate::keyspace::tables::{QueueRow, Table, split_queue_key};
use crate::keyspace::view::View;
use crate::mutation::{Existence, MountMode, Mutation, Outcome, Payload, Refusal, SetExpiry};
use crate::object::{BucketId, Version};
use crate::origin::memory::{Fault, MemoryOrigin};
use crate::origin::{
    BodyChecksums, Condition, ContentHeaders, DeleteRequest, ErrorClass, Fence, Landing, Origin, OriginError,
    OriginKey, PutRequest,
};
use crate::read::ReadView;
use crate::replica::sim::World;
use crate::replica::{Arrived, Inbox, Pending};
use crate::scrub::tests::Stepwise;
use crate::store::Shared;
use crate::submission::{Outcomes, Submission};

mod failing_disk;
mod overlap;

const SEEDS: u64 = 30;
const KEYS: u64 = 10;
/// What stays free on the disk, where it has an end.
pub(super) const RESERVE: u64 = 1 << 20;

/// What somebody else writes to the origin: longer than every object.
static FOREIGN: [u8; 400_000] = [0xee; 400_000];

/// Which rule is missing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Missing {
    evictor: Sabotage,
    /// The checkpoint's own look at the clean rows.
    unjudged: bool,
    etags_unchecked: bool,
    /// The scrub's sums do not follow the checkpoints.
    audits_blind: bool,
    /// The place map is not asked for the entries of what was brought back.
    entries_unasked: bool,
}

#[derive(Debug, Clone)]
struct Object {
    body: Vec<u8>,
    etag: String,
    version: Version,
    /// The origin does not hold it.
    dirty: bool,
    /// Somebody else has changed it there.
    foreign: bool,
}

pub(super) struct Site {
    pub(super) world: RefCell<World>,
    origin: Arc<MemoryOrigin>,
    missing: Missing,
    random: RefCell<fastrand::Rng>,
    open: Option<Open>,
    pub(super) bucket: BucketId,
    model: BTreeMap<u64, Object>,
    /// Version of the last write that was acknowledged.
    newest: Version,
    /// The scrub under way.
    scrub: Option<Stepwise>,
    scrubbed: u64,
    /// Every body is staged, as one piece.
    of_one_piece: bool,
    /// Goes into the log right before what is submitted next.
    slips_in: RefCell<Option<Submission>>,
}

/// A run of the node. Its tasks end with it.
struct Open {
    shared: Arc<Shared>,
    runtime: Runtime,
}

pub(super) fn key(number: u64) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

fn text(number: u64) -> String {
    format!("key-{number}")
}

impl Site {
    pub(super) fn new(seed: u64, missing: Missing) -> Result<Site, String> {
        let mut site = Site {
            world: RefCell::new(World::new(seed)),
            origin: Arc::new(MemoryOrigin::capable()),
            missing,
            random: RefCell::new(fastrand::Rng::with_seed(seed ^ 0xfeed)),
            open: None,
            bucket: BucketId(0),
            model: BTreeMap::new(),
            newest: Version(0),
            scrub: None,
            scrubbed: 0,
            of_one_piece: false,
            slips_in: RefCell::default(),
        };
        site.open()?;
        Ok(site)
    }

    pub(super) fn open(&mut self) -> Result<(), String> {
        self.world.borrow_mut().open()?;
        self.bucket = self.world.borrow_mut().bucket();
        let world = self.world.borrow();
        let node = world.node.as_ref().unwrap();
        let shared = Arc::new(Shared {
            keyspace: node.keyspace.clone(),
            registry: node.registry.clone(),
            segments: node.segments.clone(),
            checkpointer: node.checkpointer.clone(),
            stager: node.stager.clone(),
            fills: Default::default(),
            lookups: Default::default(),
            admissions: Default::default(),
            evictor: Default::default(),
            recency: Default::default(),
            scrubber: Default::default(),
            space: SpaceWatch::new(self.world.borrow().disk.clone(), Some(RESERVE)),
            clock: node.clock.clone(),
            cluster: node.identity.cluster,
            run_id: String::new(),
            inbox: Arc::new(Inbox::default()),
            permits: Arc::new(Semaphore::new(1 << 16)),
            pool: ReadPool::new("read", 1, 64).map_err(|error| error.to_string())?,
            status: node.status.clone(),
            driver: node.stats.clone(),
            journal: node.engine.journal_metrics(),
            limits: Limits {
                capacity_bytes: 1 << 40,
                dirty_bytes: 1 << 40,
                inline_bytes: 64 << 10,
                body_bytes: 1 << 20,
                disk_reserve_bytes: None,
            },
            memtable_bytes: 1 << 20,
            kept_buckets: Default::default(),
            group_bytes_max: 1 << 20,
            sync: crate::replica::SyncMode::Always,
            voters: 1,
            started_ms: 0,
            expired: Default::default(),
            flusher: Default::default(),
        });
        drop(world);
        *shared.evictor.sabotage.lock() = self.missing.evictor;
        shared.checkpointer.places.unjudged.store(self.missing.unjudged, Relaxed);
        shared.checkpointer.places.entries_unasked.store(self.missing.entries_unasked, Relaxed);
        shared.fills.unchecked.store(self.missing.etags_unchecked, Relaxed);
        shared.checkpointer.audits.blind.store(self.missing.audits_blind, Relaxed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        self.open = Some(Open { shared, runtime });
        let mut submission = Submission::new();
        submission.push(&Mutation::Mount {
            bucket: b"redis-0",
            prefix: b"",
            origin: "memory://origin",
            origin_prefix: "",
            mode: MountMode::WriteBack,
            flushall: false,
            revalidate: false,
        });
        let mount = match self.submit(submission)?.results[..] {
            [Outcome::Mount(mount)] => mount,
            ref other => return Err(format!("the mount: {other:?}")),
        };
        self.shared().fills.add_origin(mount, b"", "", self.origin.clone());
        Ok(())
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.open.as_ref().unwrap().shared.clone()
    }

    /// Runs a future, and the engine beside it.
    pub(super) fn run<T>(&self, future: impl Future<Output = T>) -> Result<T, String> {
        let open = self.open.as_ref().unwrap();
        let inbox = open.shared.inbox.clone();
        let limit = Instant::now() + Duration::from_secs(30);
        open.runtime.block_on(async {
            let mut future = std::pin::pin!(future);
            loop {
                tokio::select! {
                    biased;
                    done = &mut future => return Ok(done),
                    () = tokio::time::sleep(Duration::from_micros(20)) => {}
                }
                if let Arrived::Batch(mut batch) = inbox.take(Duration::ZERO)
                    && !batch.is_empty()
                {
                    let first = self.slips_in.borrow_mut().take();
                    batch.splice(..0, first.map(|submission| Pending::new(submission, None).0));
                    let mut world = self.world.borrow_mut();
                    let engine = &mut world.node.as_mut().unwrap().engine;
                    engine.turn(batch).map_err(|fatal| fatal.to_string())?;
                }
                if Instant::now() > limit {
                    return Err("nothing came of it".to_owned());
                }
            }
        })
    }

    pub(super) fn submit(&self, submission: Submission) -> Result<Outcomes, String> {
        self.run(submit_held(&self.shared(), submission))?.map_err(|error| error.to_string())
    }

    fn view(&self) -> ReadView {
        let shared = self.shared();
        let view = View::latest(&shared.keyspace);
        ReadView::new(shared, view)
    }

    pub(super) fn checkpoint(&self) -> Result<(), String> {
        self.world.borrow_mut().checkpoint()
    }

    fn crash(&mut self) -> Result<(), String> {
        (self.open, self.scrub) = (None, None);
        let power = self.random.borrow_mut().bool();
        self.world.borrow_mut().crash(power);
        self.open()
    }

    /// An object's ETag, the version of its bytes, and its own.
    fn facts(&self, number: u64) -> Result<(String, Version, Version), String> {
        let view = self.view();
        let row = self.run(view.fetch(self.bucket, &key(number)))?.map_err(|error| error.to_string())?;
        let row = row.ok_or_else(|| format!("key {number} is gone"))?;
        Ok((row.etag(self.shared().cluster).to_string(), row.content_version(), row.version()))
    }

    fn written(&mut self, number: u64, body: Vec<u8>) -> Result<(), String> {
        let (etag, version, own) = self.facts(number)?;
        if version <= self.newest || own != version {
            return Err(format!("key {number} has version {version}, not above {}", self.newest));
        }
        self.newest = version;
        self.model.insert(number, Object { body, etag, version, dirty: true, foreign: false });
        Ok(())
    }

    fn body(&self) -> Vec<u8> {
        let mut random = self.random.borrow_mut();
        let len = match random.u8(0..5) {
            _ if self.of_one_piece => random.usize(65_537..70_000),
            0 => random.usize(0..600),
            1 => random.usize(600..9_000),
            2 => random.usize(9_000..65_000),
            _ => random.usize(65_537..250_000),
        };
        let first = random.u8(..);
        (0..len).map(|at| first.wrapping_add((at / 7) as u8)).collect()
    }

    /// A mutation with a body, staged where it is long.
    fn write(
        &self,
        body: &[u8],
        make: &dyn Fn(Payload<'_>, &mut Submission),
    ) -> Result<Result<Outcome, Error>, String> {
        let mut submission = Submission::new();
        if body.len() > 64 << 10 {
            let staged = self.world.borrow_mut().stage(body).map_err(|error| error.to_string())?;
            make(staged.payload(), &mut submission);
            submission.carry(staged);
        } else {
            make(Payload::Inline(body), &mut submission);
        }
        let outcomes = self.run(submit_held(&self.shared(), submission))?;
        Ok(outcomes.map(|mut outcomes| outcomes.results.remove(0)))
    }

    fn set(&mut self, number: u64) -> Result<(), String> {
        let body = self.body();
        self.put(number, body)
    }

    pub(super) fn put(&mut self, number: u64, body: Vec<u8>) -> Result<(), String> {
        let (bucket, name) = (self.bucket, key(number));
        let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
        let outcome = self.write(&body, &|value, submission| {
            submission.push(&Mutation::SetString { bucket, key: &name, value, expiry, existence });
        })?;
        match outcome {
            Ok(Outcome::Done(_)) => self.written(number, body),
            other => Err(format!("a SET of key {number}: {other:?}")),
        }
    }

    /// Whether an error may be: the bytes are in the origin, which is down or was changed.
    fn excused(&self, number: u64, error: &Error, outage: bool) -> bool {
        let Some(object) = self.model.get(&number) else { return false };
        match error {
            Error::Unavailable(_) => outage && !object.dirty,
            Error::ChangedInOrigin(_) => object.foreign && !object.dirty,
            _ => false,
        }
    }

    fn append(&mut self, number: u64, outage: bool) -> Result<(), String> {
        let (bucket, name, body) = (self.bucket, key(number), self.body());
        let outcome = self.write(&body, &|value, submission| {
            submission.push(&Mutation::Append { bucket, key: &name, value });
        })?;
        match outcome {
            Ok(Outcome::Length(_)) if body.is_empty() && self.model.contains_key(&number) => Ok(()),
            Ok(Outcome::Length(_)) => {
                let mut whole = self.model.get(&number).map_or(Vec::new(), |object| object.body.clone());
                whole.extend_from_slice(&body);
                self.written(number, whole)
            }
            Ok(Outcome::Refused(Refusal::TooLarge(_) | Refusal::TooFragmented)) => Ok(()),
            Err(error) if self.excused(number, &error, outage) => Ok(()),
            other => Err(format!("an APPEND to key {number}: {other:?}")),
        }
    }

    pub(super) fn copy(&mut self, from: u64, to: u64, rename: bool, outage: bool) -> Result<(), String> {
        if from == to {
            return Ok(());
        }
        let (bucket, from_key, to_key) = (self.bucket, key(from), key(to));
        let mut submission = Submission::new();
        let (from_name, to_name) = (&from_key[..], &to_key[..]);
        submission.push(&match rename {
            true => Mutation::Rename { bucket, from: from_name, to: to_name, if_absent: false },
            false => Mutation::Copy {
                from_bucket: bucket,
                from: from_name,
                to_bucket: bucket,
                to: to_name,
                replace: true,
            },
        });
        let outcome = self.run(submit_held(&self.shared(), submission))?;
        self.copied(from, to, rename, outage, outcome)
    }

    fn copied(
        &mut self,
        from: u64,
        to: u64,
        rename: bool,
        outage: bool,
        outcome: Result<Outcomes, Error>,
    ) -> Result<(), String> {
        match outcome.map(|mut outcomes| outcomes.results.remove(0)) {
            Ok(Outcome::Done(_)) => {
                let body = self.model.get(&from).ok_or("a copy of nothing")?.body.clone();
                if rename {
                    self.model.remove(&from);
                }
                self.written(to, body)
            }
            Ok(Outcome::Unmet | Outcome::Refused(Refusal::NoSuchKey)) if !self.model.contains_key(&from) => {
                Ok(())
            }
            Err(error) if self.excused(from, &error, outage) => Ok(()),
            other => Err(format!("a copy of key {from}: {other:?}")),
        }
    }

    pub(super) fn delete(&mut self, number: u64) -> Result<(), String> {
        let mut submission = Submission::new();
        submission.push(&Mutation::Delete { bucket: self.bucket, key: &key(number) });
        self.submit(submission)?;
        self.model.remove(&number);
        Ok(())
    }

    /// Takes up to `most` queue rows to the origin, as the flush worker would.
    pub(super) fn flush(&mut self, most: usize) -> Result<(), String> {
        for (version, key, row) in self.queued(most)? {
            self.flush_row(version, &key, &row)?;
        }
        Ok(())
    }

    fn flush_row(&mut self, version: Version, key: &[u8], row: &QueueRow) -> Result<(), String> {
        let submission = self.upload(version, key, row)?;
        self.submit(submission).map(|_| ())
    }

    /// Takes a row to the origin; returns what is to be recorded.
    fn upload(&mut self, version: Version, key: &[u8], row: &QueueRow) -> Result<Submission, String> {
        let (name, deadline) =
            (OriginKey(String::from_utf8_lossy(key).into_owned()), Instant::now() + Duration::from_secs(9));
        let number: u64 = name.0.trim_start_matches("key-").parse().unwrap();
        let mut etag = None;
        if row.delete {
            let request = DeleteRequest { key: name, if_match: None, deadline, fence: Fence::open() };
            self.run(self.origin.delete(request))?.map_err(|error| error.to_string())?;
        } else {
            let body = match self.read(number)? {
                Ok(Some(body)) => Bytes::from(body),
                other => return Err(format!("key {number} is to be flushed and reads as {other:?}")),
            };
            let request = PutRequest {
                key: name,
                body,
                headers: ContentHeaders::default(),
                user_metadata: Vec::new(),
                condition: Condition::None,
                checksums: BodyChecksums::default(),
                deadline,
                fence: Fence::open(),
            };
            let reply = self.run(self.origin.put(request))?.map_err(|error| error.to_string())?;
            etag = Some(reply.etag.0);
        }
        let mut submission = Submission::new();
        let (bucket, origin_etag) = (self.bucket, etag.as_deref());
        submission.push(&Mutation::Flushed { bucket, key, version, origin_etag, mount: None });
        if let Some(object) = self.model.get_mut(&number) {
            (object.dirty, object.foreign) = (false, false);
        }
        Ok(submission)
    }

    /// The object's flush is recorded behind the look of whatever comes next, right before it goes into the log.
    pub(super) fn let_flush_slip_in(&mut self, number: u64) -> Result<bool, String> {
        let name = key(number);
        let row = self.queued(10_000)?.into_iter().find(|(_, key, row)| *key == name && !row.delete);
        let Some((version, name, row)) = row else { return Ok(false) };
        let submission = self.upload(version, &name, &row)?;
        *self.slips_in.borrow_mut() = Some(submission);
        Ok(true)
    }

    /// If nothing went into the log meanwhile.
    fn record_what_slips_in(&self) -> Result<(), String> {
        let left = self.slips_in.borrow_mut().take();
        left.map_or(Ok(()), |submission| self.submit(submission).map(|_| ()))
    }

    fn queued(&self, most: usize) -> Result<Vec<(Version, Vec<u8>, QueueRow)>, String> {
        let view = View::latest(&self.shared().keyspace);
        let from = [Table::Queue as u8];
        let rows = view
            .range(std::ops::Bound::Included(&from), &Keyspace::table_end(Table::Queue), most)
            .map_err(|error| error.to_string())?;
        let decode = |(row_key, row): &(Arc<[u8]>, Arc<[u8]>)| {
            let (version, _, key) = split_queue_key(row_key)?;
            Some((version, key.to_vec(), QueueRow::decode(row)?))
        };
        rows.iter().map(|row| decode(row).ok_or_else(|| "a malformed queue row".to_owned())).collect()
    }

    fn read(&self, number: u64) -> Result<Result<Option<Vec<u8>>, Error>, String> {
        let view = self.view();
        let read = async {
            let Some(row) = view.fetch(self.bucket, &key(number)).await? else { return Ok(None) };
            if row.body_len() < 40_000 {
                return Ok(Some(view.read_body(&row, 0..row.body_len()).await?.to_vec()));
            }
            let reader = view.open_body(&row).await?;
            Ok(Some(reader.read(0..reader.len()).await?.to_vec()))
        };
        self.run(read)
    }

    /// Every object is as the model says, or, if `outage` or changed in the origin, an error that says so.
    pub(super) fn verify(&self, outage: bool) -> Result<(), String> {
        for (number, object) in &self.model {
            match self.read(*number)? {
                Ok(Some(found)) if found == object.body => {}
                Err(error) if self.excused(*number, &error, outage) => {}
                Ok(found) => {
                    let len = found.as_ref().map(Vec::len);
                    return Err(format!("key {number} has other bytes ({len:?} of {})", object.body.len()));
                }
                Err(error) => return Err(format!("key {number} ({} dirty): {error}", object.dirty)),
            }
            let (etag, version, own) = self.facts(*number)?;
            // Bytes that were brought back give the row a version of its own.
            if etag != object.etag || version != object.version || own < version {
                let wanted = (&object.etag, object.version);
                return Err(format!("key {number} has {:?} instead of {wanted:?}", (etag, version, own)));
            }
        }
        let view = self.view();
        let listed =
            self.run(view.list(self.bucket, b"", None, 10_000))?.map_err(|error| error.to_string())?;
        let listed: Vec<Vec<u8>> = listed.iter().map(|listed| listed.key.to_vec()).collect();
        let mut expected: Vec<Vec<u8>> = self.model.keys().map(|number| key(*number)).collect();
        expected.sort();
        (listed == expected).then_some(()).ok_or_else(|| "the listing differs".to_owned())
    }

    /// A few pages of a scrub, which finds nothing, whatever happens between them.
    fn scrub(&mut self) -> Result<(), String> {
        let shared = self.shared();
        let (steps, page) = {
            let mut random = self.random.borrow_mut();
            (random.usize(0..4), random.usize(1..4))
        };
        for _ in 0..steps {
            let scrub = self.scrub.get_or_insert_with(|| Stepwise::new(&shared, page));
            if scrub.step(&shared)? {
                self.scrub = None;
                self.scrubbed += 1;
            }
        }
        Ok(())
    }

    fn outage(&self) {
        self.origin.set_hook(|_| {
            Fault::Refuse(OriginError::new(ErrorClass::Network, Landing::NotApplied, "the line is cut"))
        });
    }

    /// Makes room; a crash may come between the queueing and the checkpoint.
    fn evict(&mut self) -> Result<bool, String> {
        let bytes = self.random.borrow_mut().u64(1..2_000_000);
        self.round(|shared, wait| make_room(shared, Want::Capacity(bytes), wait))
    }

    /// Empties segments of which anything is dead; likewise.
    fn compact(&mut self) -> Result<bool, String> {
        let eager = Thresholds { live_percent: 99, dead_percent: 0, dead_segments: 0 };
        self.round(|shared, wait| {
            shared.evictor.looked_at.lock().take();
            compact(shared, eager, wait)
        })
    }

    fn round(
        &mut self,
        make: impl Fn(&Arc<Shared>, &dyn Fn(&Batch) -> bool) -> Result<Round, EvictError>,
    ) -> Result<bool, String> {
        let shared = self.shared();
        let crash = self.random.borrow_mut().u8(0..4) == 0;
        let failed = RefCell::new(None);
        let wait = |_: &_| {
            if !crash && let Err(error) = self.checkpoint() {
                *failed.borrow_mut() = Some(error);
            }
            !crash
        };
        let round = make(&shared, &wait);
        drop(shared);
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        if let Err(error) = round {
            return Err(format!("eviction: {error}"));
        }
        Ok(crash)
    }
}

/// What a history has seen.
#[derive(Debug, Default)]
struct Seen {
    dropped_bytes: u64,
    moved_bytes: u64,
    fetched: u64,
    kept: u64,
    scrubbed: u64,
    released: u64,
    compacted: u64,
}

fn history(seed: u64, missing: Missing) -> Result<Seen, String> {
    let mut site = Site::new(seed, missing)?;
    let mut seen = Seen::default();
    let mut count = |site: &Site| {
        let (evicted, fills) = (site.shared().evictor.counts(), site.shared().fills.counts());
        seen.dropped_bytes += evicted.for_capacity;
        seen.moved_bytes += evicted.copied;
        seen.fetched += fills.blocks;
        seen.kept += fills.kept;
        seen.released += evicted.released;
        seen.compacted += evicted.compacted;
    };
    let steps = site.random.borrow_mut().u64(40..160);
    for _ in 0..steps {
        site.scrub()?;
        let (what, number, other) = {
            let mut random = site.random.borrow_mut();
            (random.u8(0..31), random.u64(0..KEYS), random.u64(0..KEYS))
        };
        match what {
            0..5 => site.set(number)?,
            5 | 6 => {
                if site.random.borrow_mut().bool() {
                    site.let_flush_slip_in(number)?;
                }
                site.append(number, false)?;
                site.record_what_slips_in()?;
            }
            7 | 8 => {
                if site.random.borrow_mut().bool() {
                    site.let_flush_slip_in(number)?;
                }
                site.copy(number, other, what == 8, false)?;
                site.record_what_slips_in()?;
            }
            9 => site.delete(number)?,
            10..14 => site.flush(4)?,
            14 => site.checkpoint()?,
            15 => {
                count(&site);
                site.crash()?;
                site.verify(false)?;
            }
            16 => {
                site.outage();
                // What is dirty is here whatever the origin does; building on it works.
                site.verify(true)?;
                site.append(number, true)?;
                site.copy(number, other, false, true)?;
                site.origin.clear_hook();
            }
            17 => {
                if let Some(object) = site.model.get_mut(&number).filter(|object| !object.dirty) {
                    object.foreign = true;
                    site.origin.put_foreign(&text(number), &FOREIGN);
                }
            }
            18 | 19 => {
                site.shared().fills.blocks.forget();
                site.verify(false)?;
            }
            20..24 => {
                if site.evict()? {
                    count(&site);
                    site.crash()?;
                }
                site.verify(false)?;
            }
            24 => site.evict_under_a_copy(number, other)?,
            29.. => {
                if site.compact()? {
                    count(&site);
                    site.crash()?;
                }
                site.verify(false)?;
            }
            27.. => {
                site.release_late(number, other)?;
                site.verify(false)?;
            }
            _ => {
                match what {
                    25 => site.fill_around_a_freeze(number, other)?,
                    _ => site.checkpoint_under_writes()?,
                }
                if site.random.borrow_mut().bool() {
                    count(&site);
                    site.crash()?;
                }
                site.verify(false)?;
            }
        }
    }
    site.shared().fills.blocks.forget();
    site.verify(false)?;
    count(&site);
    seen.scrubbed = site.scrubbed;
    Ok(seen)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn objects_outlive_evictions_fills_and_crashes() {
    if let Some(seed) = number("FOREBAY_SEED") {
        println!("{:?}", history(seed, Missing::default()).unwrap());
        return;
    }
    let mut all = Seen::default();
    for seed in 0..number("FOREBAY_SEEDS").unwrap_or(SEEDS) {
        match history(seed, Missing::default()) {
            Ok(seen) => {
                all.dropped_bytes += seen.dropped_bytes;
                all.moved_bytes += seen.moved_bytes;
                all.fetched += seen.fetched;
                all.kept += seen.kept;
                all.scrubbed += seen.scrubbed;
                all.released += seen.released;
                all.compacted += seen.compacted;
            }
            Err(wrong) => panic!("seed {seed}: {wrong} (run it alone with FOREBAY_SEED={seed})"),
        }
    }
    println!("{all:?}");
    let busy = all.dropped_bytes > 0 && all.moved_bytes > 0 && all.fetched > 0 && all.kept > 0;
    let busy = busy && all.compacted > 0;
    assert!(busy && all.scrubbed > 0 && all.released > 0, "the histories try nothing: {all:?}");
}

/// Whether one of the seeds notices that a rule is missing.
fn is_noticed(missing: Missing) -> bool {
    is_noticed_by(&|seed| history(seed, missing).map(|_| ()))
}

fn is_noticed_by(history: &dyn Fn(u64) -> Result<(), String>) -> bool {
    let notices = |seed| {
        let history = std::panic::AssertUnwindSafe(|| history(seed));
        let seen = std::panic::catch_unwind(history);
        if let Ok(Err(wrong)) = &seen {
            println!("seed {seed}: {wrong}");
        }
        !matches!(seen, Ok(Ok(())))
    };
    (0..SEEDS).any(notices)
}

#[test]
fn giving_up_what_is_not_clean_is_noticed() {
    let evictor = Sabotage { skip_clean_rows: true, ..Sabotage::default() };
    assert!(is_noticed(Missing { evictor, unjudged: true, ..Missing::default() }));
    // The checkpoint's look alone is enough for what is given up.
    assert!(!is_noticed(Missing { evictor, ..Missing::default() }));
}

#[test]
fn a_place_that_comes_back_for_what_is_gone_is_noticed() {
    assert!(is_noticed(Missing { unjudged: true, ..Missing::default() }));
}

#[test]
fn using_a_segment_again_before_the_commit_is_noticed() {
    let evictor = Sabotage { recycle_first: true, ..Sabotage::default() };
    assert!(is_noticed(Missing { evictor, ..Missing::default() }));
}

#[test]
fn reading_through_without_the_etag_is_noticed() {
    assert!(is_noticed(Missing { etags_unchecked: true, ..Missing::default() }));
}

#[test]
fn adding_up_without_following_the_checkpoints_is_noticed() {
    assert!(is_noticed(Missing { audits_blind: true, ..Missing::default() }));
}
