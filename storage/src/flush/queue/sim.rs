//! A small world around the queue, by seed: clients, a log that applies, a network that loses, delays
//! and repeats, leaders that change, and the memory origin. Half of the versions go as uploads, whose completion the
//! origin may work on long after its sender is dead; and it may forget an upload for up to the margin before it shows the
//! object.
//!
//! Aim: no schedule makes the origin go back, brings a deleted object back, or breaks a barrier; and
//! when the faults stop, the origin equals the newest rows. Method: virtual time, one event after the
//! other; every landing is judged against the history of commits, which knows nothing of the queue.
//! [`Sabotage`] takes one safety rule away.

mod judge;
mod network;
mod sabotage;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;

pub(crate) use self::sabotage::Sabotage;
use super::*;
use crate::flush::contract::{FlushKind, Loaded, Started, TransferRecord, TransferStep};
use crate::flush::stale::{Progress, StaleUploads};
use crate::flush::tag::{Held, OriginTag, VERSION_META, Verdict, judge, judge_blind};
use crate::flush::testing::{Change, ModelRows, Name, root_of};
use crate::flush::upload::{condition_for, condition_of};
use crate::object::ClusterId;
use crate::origin::memory::MemoryOrigin;
use crate::origin::{
    AbortReply, BeginRequest, BodyChecksums, Capabilities, CompleteRequest, Condition, ContentHeaders,
    DeleteRequest, ErrorClass, Fence, Landing, NO_SUCH_UPLOAD, Origin, OriginETag, OriginError, OriginKey,
    PartRequest, PutRequest, SentPart, UploadId,
};

const TIMEOUT_MS: u64 = 2_000;
const MARGIN_MS: u64 = 600;
const SKEW_MS: u64 = 250;
const CLUSTER: ClusterId = ClusterId([0xC1; 16]);
const BUCKETS: u32 = 2;
const KEYS: u32 = 4;

/// What a seed plays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Decides everything else.
    pub(crate) seed: u64,
    /// Whether the origin honours conditions.
    pub(crate) conditions: bool,
    /// Whether somebody else writes into the origin.
    pub(crate) foreign: bool,
    /// Whether the origin held data before, and nobody here knows of it.
    pub(crate) existing: bool,
    /// Whether the first bucket is fifo.
    pub(crate) fifo: bool,
    /// Rules taken away.
    pub(crate) sabotage: Sabotage,
}

/// Plays a seed; `Err` says which rule broke.
pub(crate) fn play(plan: Plan) -> Result<(), String> {
    let mut world = World::new(plan);
    world.run_with_faults()?;
    world.calm_down()
}

struct Commit {
    version: Version,
    name: Name,
    kind: FlushKind,
    barrier: bool,
}

/// A request on the network. `dead_at` is when its sender's deadline stops it.
#[derive(Clone)]
struct Request {
    /// Whether it wins over what nobody here knew of.
    blind: bool,
    name: Name,
    version: Version,
    kind: FlushKind,
    condition: Condition,
    dead_at: u64,
    /// The upload that it completes, if it is no whole PUT.
    upload: Option<(UploadId, SentPart)>,
}

enum Event {
    /// A client does something.
    Client,
    /// A proposal of the leader of this epoch is committed and applied.
    Applied { epoch: u64, proposal: Proposal },
    /// A request reaches the origin; the answer goes to the attempt, if anybody waits for it.
    Land { request: Request, answer_to: Option<(u64, AttemptId)> },
    /// The origin shows what has become of an upload that it does not know any more.
    Show { request: Request, answer_to: Option<(u64, AttemptId)> },
    /// The sender gives up on an attempt.
    GiveUp { epoch: u64, attempt: AttemptId, deadline_ms: u64 },
    /// The origin answers a HEAD; the request goes after it, if nothing forbids it.
    Head { epoch: u64, start: Start, then: Option<Request> },
    /// The leader changes.
    NewLeader,
    /// Somebody else writes into the origin.
    Foreign,
}

enum Proposal {
    Started {
        start: Start,
        deadline_ms: u64,
        dead_at: u64,
    },
    /// `Done` goes to the attempt when it is applied.
    Flushed {
        flushed: Flushed,
        then: Option<(AttemptId, Ended)>,
    },
    Park {
        row: RowId,
        then: Option<AttemptId>,
    },
    /// Of an upload that is given up; the attempt goes on when it is applied.
    TransferGone {
        version: Version,
        mount: MountId,
        then: Start,
    },
}

struct World {
    plan: Plan,
    random: fastrand::Rng,
    faults: bool,
    now: u64,
    sequence: u64,
    agenda: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    origin: MemoryOrigin,
    history: Vec<Commit>,
    rows: ModelRows,
    queue: FlushQueue,
    /// What this leader knows of uploads that are to be given up.
    uploads: StaleUploads,
    /// When the world began, by the clock that uploads are told.
    began: Instant,
    epoch: u64,
    /// How far this leader's clock is from the true one, plus `SKEW_MS`.
    clock: u64,
    landed: BTreeMap<Name, Version>,
    landed_barriers: BTreeSet<Version>,
    foreign: BTreeSet<Name>,
}

impl World {
    fn new(plan: Plan) -> World {
        let mut random = fastrand::Rng::with_seed(plan.seed);
        let origin = MemoryOrigin::new("memory://sim", honours(plan));
        let mut rows = ModelRows::new(plan.existing);
        rows.forgets_lost = plan.sabotage.forgets_lost;
        let mut foreign = BTreeSet::new();
        if plan.existing {
            for name in all_names().filter(|_| random.bool()) {
                put_foreign(&origin, &name);
                foreign.insert(name);
            }
        }
        World {
            random,
            faults: true,
            now: 1_000_000,
            sequence: 0,
            agenda: BinaryHeap::new(),
            events: BTreeMap::new(),
            origin,
            history: Vec::new(),
            rows,
            uploads: StaleUploads::new(Duration::from_millis(MARGIN_MS)),
            began: Instant::now(),
            queue: ready_queue(plan, fresh_queue(plan, 1, 0)),
            epoch: 1,
            clock: SKEW_MS,
            landed: BTreeMap::new(),
            landed_barriers: BTreeSet::new(),
            foreign,
            plan,
        }
    }

    fn run_with_faults(&mut self) -> Result<(), String> {
        let until = self.now + 40_000;
        self.at(10, Event::Client);
        self.at(4_000, Event::NewLeader);
        if self.plan.foreign {
            self.at(5_000, Event::Foreign);
        }
        while self.now < until {
            self.step()?;
        }
        Ok(())
    }

    /// No more clients and faults: everything must arrive, but for what stands behind a foreign object;
    /// and that too once the operator has taken the foreign objects away and the rows up again.
    fn calm_down(&mut self) -> Result<(), String> {
        self.faults = false;
        self.settle()?;
        self.judge_foreign()?;
        let foreign = std::mem::take(&mut self.foreign);
        for name in &foreign {
            if !self.pending(name) {
                // Nothing of ours will come back for it.
                self.history.retain(|commit| commit.name != *name);
            }
            self.origin.delete_foreign(&key_of(name));
        }
        for row in self.queue.list(true, usize::MAX) {
            let row = RowId { bucket: row.bucket, key: row.key, version: row.version };
            let event = self.rows.park(row, None);
            self.queue.observe(event);
        }
        self.settle()?;
        match self.queue.list(false, 10) {
            rows if rows.is_empty() => self.judge_end(),
            rows => Err(format!("rows stay behind: {rows:?}")),
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..200_000 {
            self.start_all();
            let waits = !self.events.is_empty() || self.queue.wake_at().is_some();
            if !waits && self.queue.in_flight() == 0 {
                return Ok(());
            }
            self.step()?;
        }
        Err(format!("never settles: {:?}", self.queue.list(false, 20)))
    }

    fn pending(&self, name: &Name) -> bool {
        !self.queue.rows_of(name.0, &name.1).is_empty()
    }

    fn start_all(&mut self) {
        while let Some(start) = self.queue.next_start(self.leader_now()) {
            self.begin(start);
        }
    }

    fn step(&mut self) -> Result<(), String> {
        self.start_all();
        let wake =
            self.queue.wake_at().map(|when| (when + SKEW_MS).saturating_sub(self.clock).max(self.now + 1));
        let next = self.agenda.peek().map(|Reverse((when, _))| *when);
        match (next, wake) {
            (Some(next), wake) if wake.is_none_or(|wake| next <= wake) => {
                let Some(Reverse((when, number))) = self.agenda.pop() else { return Ok(()) };
                self.now = self.now.max(when);
                match self.events.remove(&number) {
                    Some(event) => self.happen(event),
                    None => Ok(()),
                }
            }
            (_, Some(wake)) => {
                self.now = self.now.max(wake);
                Ok(())
            }
            _ => {
                self.now += 100;
                Ok(())
            }
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Client => self.client(),
            Event::Applied { epoch, proposal } => self.applied(epoch, proposal),
            Event::Land { request, answer_to } => return self.land(request, answer_to),
            Event::Show { request, answer_to } => return self.show(request, answer_to),
            Event::GiveUp { epoch, attempt, deadline_ms } => {
                self.finish(epoch, attempt, unknown(deadline_ms.saturating_sub(self.leader_now())));
            }
            Event::Head { epoch, start, then } => self.head(epoch, start, then),
            Event::NewLeader if self.faults => {
                self.new_leader();
                let wait = self.random.u64(500..9_000);
                self.at(wait, Event::NewLeader);
            }
            Event::Foreign if self.faults => {
                let name = self.any_name();
                // Nobody else comes between an origin's judgement of a completion and its object.
                let worked_on =
                    |event: &Event| matches!(event, Event::Show { request, .. } if request.name == name);
                if !self.events.values().any(worked_on) {
                    put_foreign(&self.origin, &name);
                    self.foreign.insert(name);
                }
                let wait = self.random.u64(5_000..20_000);
                self.at(wait, Event::Foreign);
            }
            Event::NewLeader | Event::Foreign => {}
        }
        Ok(())
    }

    fn client(&mut self) {
        if !self.faults {
            return;
        }
        for _ in 0..self.random.u32(1..4) {
            let name = self.any_name();
            let live =
                self.history.iter().rfind(|c| c.name == name).is_some_and(|c| c.kind == FlushKind::Put);
            let kind = match live && self.random.u8(..) < 80 {
                true => FlushKind::Delete,
                false => FlushKind::Put,
            };
            let barrier = kind == FlushKind::Put && self.random.u8(..) < 50;
            // The rest are like SET NX: judged by what is here.
            let wins = !barrier && (!self.plan.existing || self.random.u8(..) < 200);
            self.commit(name, kind, barrier, wins);
        }
        let wait = if self.random.u8(..) < 30 { 6_000 } else { 400 };
        let wait = self.random.u64(1..wait);
        self.at(wait, Event::Client);
    }

    /// What apply does when an object is written or deleted.
    fn commit(&mut self, name: Name, kind: FlushKind, barrier: bool, wins: bool) {
        let version =
            Version(self.history.last().map_or(1, |last| last.version.0 + 1 + self.random.u64(..2)));
        self.history.push(Commit { version, name: name.clone(), kind, barrier });
        let change = Change { version, kind, barrier, wins, stamp_ms: self.now, bytes: 8 };
        let (event, stale) = self.rows.change(name.clone(), change);
        [event].into_iter().chain(stale.clone()).for_each(|event| self.observe(event));
        if let Some(FlushEvent::Stale(stale)) = stale.filter(|_| self.rows.stale_of(&name).is_empty()) {
            // Never completed: given up by itself.
            self.abort(&stale);
            let gone = self.rows.transfer_gone(stale.version, stale.mount);
            gone.into_iter().for_each(|event| self.observe(event));
        }
    }

    /// What the worker does with an event.
    fn observe(&mut self, event: FlushEvent) {
        match &event {
            FlushEvent::Stale(stale) => self.uploads.add(stale),
            FlushEvent::GivenUp(stale) => self.uploads.remove(stale),
            _ => {}
        }
        self.queue.observe(event);
    }

    fn instant(&self) -> Instant {
        self.began + Duration::from_millis(self.now)
    }

    fn begin(&mut self, start: Start) {
        let epoch = self.epoch;
        let delay = self.random.u64(1..60);
        match start.work {
            Work::Head => self.at(delay, Event::Head { epoch, start, then: None }),
            Work::Write => {
                self.begin_upload(&start);
                let deadline_ms = self.leader_now() + TIMEOUT_MS;
                let proposal = Proposal::Started { start, deadline_ms, dead_at: self.now + TIMEOUT_MS };
                self.at(delay, Event::Applied { epoch, proposal });
            }
        }
    }

    fn applied(&mut self, epoch: u64, proposal: Proposal) {
        match proposal {
            Proposal::Started { start, deadline_ms, dead_at } => {
                let row = Started {
                    bucket: start.bucket,
                    key: start.key.clone(),
                    version: start.version,
                    deadline_ms,
                };
                if self.now >= dead_at || !self.rows.start(row) {
                    return self.finish(epoch, start.attempt, Ended::NotStarted);
                }
                let name = (start.bucket, start.key.clone());
                self.send(epoch, start, name, deadline_ms, dead_at);
            }
            Proposal::Flushed { flushed, then } => {
                if let Some(event) = self.rows.transfer_landed(&flushed) {
                    self.observe(event);
                }
                let event = self.rows.flushed(flushed);
                self.observe(event);
                if let Some((attempt, ended)) = then {
                    self.finish(epoch, attempt, ended);
                }
            }
            Proposal::TransferGone { version, mount, then } => {
                if let Some(event) = self.rows.transfer_gone(version, mount) {
                    self.observe(event);
                }
                if epoch == self.epoch {
                    self.head(epoch, then, None);
                }
            }
            Proposal::Park { row, then } => {
                let event = self.rows.park(row, Some("parked".to_owned()));
                self.queue.observe(event);
                if let Some(attempt) = then {
                    self.finish(epoch, attempt, Ended::Conflict);
                }
            }
        }
    }

    /// A proposal of a leader that lost its office goes nowhere.
    fn propose(&mut self, epoch: u64, proposal: Proposal) {
        if epoch == self.epoch {
            let delay = self.random.u64(1..60);
            self.at(delay, Event::Applied { epoch, proposal });
        }
    }

    fn finish(&mut self, epoch: u64, attempt: AttemptId, ended: Ended) {
        if epoch != self.epoch {
            return;
        }
        let order = self.queue.finish(attempt, ended, self.leader_now());
        if let Some(order) = order {
            self.propose(epoch, Proposal::Park { row: order.row, then: None });
        }
    }

    /// What is under way in the log is applied or lost; the new leader starts from the rows.
    fn new_leader(&mut self) {
        let proposals: Vec<u64> = self
            .events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Applied { .. }))
            .map(|(number, _)| *number)
            .collect();
        for number in proposals {
            let event = self.events.remove(&number);
            if let (Some(Event::Applied { epoch, proposal }), true) = (event, self.random.bool()) {
                self.applied(epoch, proposal);
            }
        }
        self.epoch += 1;
        self.clock = self.random.u64(0..=2 * SKEW_MS);
        let mut load = fresh_queue(self.plan, self.epoch, self.leader_now());
        self.uploads = StaleUploads::new(Duration::from_millis(MARGIN_MS));
        self.rows.load(&mut |loaded| {
            if let Loaded::Stale(stale) = &loaded {
                self.uploads.add(stale);
            }
            load.push(loaded);
        });
        self.queue = ready_queue(self.plan, load);
    }

    fn leader_now(&self) -> u64 {
        self.now + self.clock - SKEW_MS
    }

    fn any_name(&mut self) -> Name {
        let key = format!("k{}", self.random.u32(..KEYS));
        (BucketId(self.random.u32(..BUCKETS)), Bytes::from(key))
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.agenda.push(Reverse((self.now + delay, self.sequence)));
        self.events.insert(self.sequence, event);
    }
}

fn fresh_queue(plan: Plan, epoch: u64, now_ms: u64) -> QueueLoad {
    let config = QueueConfig {
        concurrency: 4,
        bytes_in_flight_max: 1 << 20,
        margin_ms: MARGIN_MS,
        attempt_ms_max: TIMEOUT_MS,
        ..QueueConfig::default()
    };
    let mounts = (0..BUCKETS).map(|bucket| QueueMount {
        id: MountId(bucket),
        bucket: BucketId(bucket),
        prefix: Bytes::new(),
        fifo: plan.fifo && bucket == 0,
        min_interval_ms: 300,
        read_only: false,
        origin_root: root_of(BucketId(bucket)),
        origin_prefix: String::new(),
        tells_age: false,
    });
    QueueLoad::new(config, mounts.collect(), plan.seed ^ epoch, now_ms)
}

fn ready_queue(plan: Plan, load: QueueLoad) -> FlushQueue {
    let mut queue = load.finish();
    queue.sabotage = plan.sabotage;
    for bucket in 0..BUCKETS {
        queue.set_mount_ready(MountId(bucket), Ok(()));
    }
    queue
}

fn honours(plan: Plan) -> Capabilities {
    let all = Capabilities { if_none_match: true, if_match: true, if_match_delete: true, checksums: true };
    if plan.conditions { all } else { Capabilities::default() }
}

fn all_names() -> impl Iterator<Item = Name> {
    let keys = |bucket| (0..KEYS).map(move |key| (BucketId(bucket), Bytes::from(format!("k{key}"))));
    (0..BUCKETS).flat_map(keys)
}

fn put_foreign(origin: &MemoryOrigin, name: &Name) {
    origin.put_foreign(Box::leak(key_of(name).into_boxed_str()), b"foreign");
}

fn key_of(name: &Name) -> String {
    format!("{}/{}", name.0.0, String::from_utf8_lossy(&name.1))
}

fn mark(version: Version) -> (String, String) {
    (VERSION_META.to_owned(), OriginTag { cluster: CLUSTER, version }.to_string())
}

fn body(version: Version) -> Bytes {
    Bytes::from(format!("{:x}", version.0))
}

fn unknown(alive_ms: u64) -> Ended {
    Ended::Failed {
        class: ErrorClass::Network,
        landing: Landing::Unknown,
        retry_after_ms: None,
        alive_ms,
        message: "lost".to_owned(),
    }
}
