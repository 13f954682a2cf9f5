//! A small world around the queue, by seed: clients, a log that applies, a network that loses, delays
//! and repeats, leaders that change, and the memory origin. Half of the versions go as uploads, whose completion the
//! origin may work on long after its sender is dead.
//!
//! Aim: no schedule makes the origin go back, brings a deleted object back, or breaks a barrier; and
//! when the faults stop, the origin equals the newest rows. Method: virtual time, one event after the
//! other; every landing is judged against the history of commits, which knows nothing of the queue.
//! [`Sabotage`] takes one safety rule away.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;

use super::*;
use crate::flush::contract::{FlushKind, Started, TransferRecord, TransferStep};
use crate::flush::tag::{Held, OriginTag, VERSION_META, Verdict, judge, judge_blind};
use crate::flush::testing::{Change, ModelRows, Name};
use crate::flush::upload::{condition_for, condition_of};
use crate::object::ClusterId;
use crate::origin::memory::MemoryOrigin;
use crate::origin::{
    BeginRequest, BodyChecksums, Capabilities, CompleteRequest, Condition, ContentHeaders, DeleteRequest,
    ErrorClass, Fence, Landing, NO_SUCH_UPLOAD, Origin, OriginETag, OriginError, OriginKey, PartRequest,
    PutRequest, SentPart, UploadId,
};

/// Safety rules taken away, to see that the simulation notices.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sabotage {
    /// No wait after an unknown outcome.
    pub(crate) no_fence: bool,
    /// A newer version starts while the older one flies.
    pub(crate) many_in_flight: bool,
    /// Barriers are rows like any other.
    pub(crate) no_barrier: bool,
    /// No HEAD after a fence.
    pub(crate) no_head: bool,
    /// What nobody here knew of is a conflict, also for rows that win over it.
    pub(crate) no_blindness: bool,
    /// Uploads of older versions are left as they are.
    pub(crate) no_abort: bool,
}

impl FlushQueue {
    /// Breaks what the plan says, where the queue would decide next about a key.
    pub(super) fn sabotage(&mut self, slot: u32) {
        let sabotage = self.sabotage;
        let Some(entry) = self.keys.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let newer = |flight: &Flight| entry.rows.first().is_some_and(|row| row.version > flight.version);
        match entry.phase {
            Phase::Fenced { doubt, .. } if sabotage.no_fence => entry.phase = Phase::Check { doubt },
            Phase::Flying if sabotage.many_in_flight && self.flights.get(&slot).is_some_and(newer) => {
                self.flights.remove(&slot);
                entry.phase = Phase::Idle;
            }
            _ => {}
        }
        if sabotage.no_head && matches!(entry.phase, Phase::Check { .. }) {
            entry.phase = Phase::Idle;
        }
    }
}

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
            rows: ModelRows::new(plan.existing),
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

    /// Theirs stays theirs, and only what they stand in the way of is parked.
    fn judge_foreign(&self) -> Result<(), String> {
        for name in &self.foreign {
            let held = self.origin.body(&key_of(name));
            if held.as_deref() != Some(b"foreign") {
                return Err(format!("{name:?}: the foreign object became {held:?}"));
            }
        }
        let parked = self.queue.list(true, 100);
        let wins = |row: &&RowView| {
            let name = (row.bucket, row.key.clone());
            let blind = self.rows.row(&name, row.version).is_some_and(|row| row.blind);
            blind && self.rows.origin(&name).is_none()
        };
        if let Some(row) = parked.iter().find(wins) {
            return Err(format!("a blind row was set aside: {row:?}"));
        }
        match parked.iter().find(|row| !self.foreign.contains(&(row.bucket, row.key.clone()))) {
            Some(row) => Err(format!("nothing foreign explains {row:?}")),
            None => Ok(()),
        }
    }

    fn judge_end(&self) -> Result<(), String> {
        if self.rows.transfers_len() > 0 && !self.plan.sabotage.no_abort {
            return Err(format!("{} uploads are left", self.rows.transfers_len()));
        }
        for name in self.history.iter().map(|commit| &commit.name).collect::<BTreeSet<_>>() {
            let held = self.origin.body(&key_of(name));
            let newest = self.history.iter().rfind(|commit| commit.name == *name);
            let wanted =
                newest.filter(|commit| commit.kind == FlushKind::Put).map(|commit| body(commit.version));
            if held != wanted {
                return Err(format!("{name:?}: the origin holds {held:?} instead of {wanted:?}"));
            }
        }
        Ok(())
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
                put_foreign(&self.origin, &name);
                self.foreign.insert(name);
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
        [event].into_iter().chain(stale.clone()).for_each(|event| self.queue.observe(event));
        if let Some(FlushEvent::Stale(stale)) = stale.filter(|_| self.rows.stale_of(&name).is_empty()) {
            // Never completed: given up by itself.
            self.abort(&stale);
            let gone = self.rows.transfer_gone(stale.version);
            gone.into_iter().for_each(|event| self.queue.observe(event));
        }
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
                    self.queue.observe(event);
                }
                let event = self.rows.flushed(flushed);
                self.queue.observe(event);
                if let Some((attempt, ended)) = then {
                    self.finish(epoch, attempt, ended);
                }
            }
            Proposal::TransferGone { version, then } => {
                if let Some(event) = self.rows.transfer_gone(version) {
                    self.queue.observe(event);
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

    /// The started row is committed: the request may leave, even if its sender leads no more.
    fn send(&mut self, epoch: u64, start: Start, name: Name, deadline_ms: u64, dead_at: u64) {
        let known = self.rows.origin(&name);
        let capabilities = honours(self.plan);
        let condition = condition_for(known.as_ref(), capabilities);
        let blind = self.is_blind(&start);
        let judges = condition != Condition::None;
        let upload = self
            .rows
            .transfer_of(start.version)
            .and_then(|transfer| Some((UploadId(transfer.upload_id), transfer.parts.into_iter().next()?)));
        let (version, kind) = (start.version, start.kind);
        let request = Request { blind, name, version, kind, condition, dead_at, upload };
        if start.kind == FlushKind::Delete || blind || (self.plan.existing && !judges) {
            // The origin cannot delete conditionally, or cannot judge, or nothing is known: it is asked first.
            let delay = self.random.u64(1..50);
            return self.at(delay, Event::Head { epoch, start, then: Some(request) });
        }
        self.travel(epoch, start.attempt, request, deadline_ms);
    }

    fn is_blind(&self, start: &Start) -> bool {
        let known = self.rows.origin(&(start.bucket, start.key.clone()));
        start.blind && known.is_none() && !self.plan.sabotage.no_blindness
    }

    fn travel(&mut self, epoch: u64, attempt: AttemptId, request: Request, deadline_ms: u64) {
        let left = request.dead_at.saturating_sub(self.now).max(2);
        let fate = if self.faults { self.random.u8(..100) } else { 0 };
        let quick = self.random.u64(1..left.min(80));
        // An origin may work on a completion for long; everything else is dead with its sender.
        let late = if request.upload.is_some() { left + 9_000 } else { left };
        let late = self.random.u64(1..late);
        let give_up = Event::GiveUp { epoch, attempt, deadline_ms };
        let alone = |request: &Request| Event::Land { request: request.clone(), answer_to: None };
        match fate {
            // Arrives and is answered.
            0..55 => self.at(quick, Event::Land { request, answer_to: Some((epoch, attempt)) }),
            // Arrives, is answered, and a proxy repeats it.
            55..60 => {
                self.at(quick, alone(&request));
                self.at(quick + 1, Event::Land { request, answer_to: Some((epoch, attempt)) });
            }
            // Arrives, the answer is lost.
            60..70 => {
                self.at(quick, alone(&request));
                self.at(quick + 1, give_up);
            }
            // The sender gives up first, the request arrives late, perhaps twice.
            70..90 => {
                self.at(quick, give_up);
                self.at(late.max(quick), alone(&request));
                if fate >= 85 {
                    self.at(self.random.clone().u64(1..left), alone(&request));
                }
            }
            // Is lost.
            _ => self.at(quick, give_up),
        }
    }

    fn land(&mut self, request: Request, answer_to: Option<(u64, AttemptId)>) -> Result<(), String> {
        let key = OriginKey(key_of(&request.name));
        let before = self.origin.recorded().len();
        let answer = match request.kind {
            FlushKind::Put if request.upload.is_some() => self.complete(&request),
            FlushKind::Put => {
                let put = PutRequest {
                    key,
                    body: body(request.version),
                    headers: ContentHeaders::default(),
                    user_metadata: vec![mark(request.version)],
                    condition: request.condition.clone(),
                    checksums: BodyChecksums::default(),
                    deadline: Instant::now() + Duration::from_secs(60),
                    fence: Fence::open(),
                };
                let answer = self.origin.put(put).now_or_never().expect("the memory origin never waits");
                answer.map(|reply| Some(reply.etag.0))
            }
            FlushKind::Delete => {
                let delete = DeleteRequest {
                    key,
                    if_match: match &request.condition {
                        Condition::IfMatch(etag) => Some(etag.clone()),
                        _ => None,
                    },
                    deadline: Instant::now() + Duration::from_secs(60),
                    fence: Fence::open(),
                };
                let answer =
                    self.origin.delete(delete).now_or_never().expect("the memory origin never waits");
                answer.map(|()| None)
            }
        };
        if self.origin.recorded().len() > before {
            self.judge_landing(&request)?;
        }
        let Some((epoch, attempt)) = answer_to else { return Ok(()) };
        let ended = match answer {
            Err(error) => Ended::Failed {
                class: error.class,
                landing: error.outcome,
                retry_after_ms: None,
                alive_ms: 0,
                message: error.message,
            },
            Ok(origin_etag) => {
                let flushed = Flushed {
                    bucket: request.name.0,
                    key: request.name.1,
                    version: request.version,
                    mount: None,
                    origin_etag,
                };
                self.propose(epoch, Proposal::Flushed { flushed, then: Some((attempt, Ended::Done)) });
                return Ok(());
            }
        };
        self.finish(epoch, attempt, ended);
        Ok(())
    }

    /// The rules, by history alone.
    fn judge_landing(&mut self, request: &Request) -> Result<(), String> {
        let (name, version) = (&request.name, request.version);
        let what = format!("{:?} {version:?} of {name:?} landed at {}", request.kind, self.now);
        if self.foreign.contains(name) {
            match request.kind {
                FlushKind::Put if request.blind => self.foreign.remove(name),
                FlushKind::Put => return Err(format!("{what}: over a foreign object")),
                // Nothing was there when it was asked, so the delete had nothing to name: the one gap
                // that is left.
                FlushKind::Delete => self.foreign.remove(name),
            };
        }
        if let Some(last) = self.landed.get(name)
            && version < *last
        {
            return Err(format!("{what}: the origin went back from {last:?}"));
        }
        self.landed.insert(name.clone(), version);
        let in_bucket = || self.history.iter().filter(|commit| commit.name.0 == name.0);
        let pending = in_bucket().find(|c| c.barrier && !self.landed_barriers.contains(&c.version));
        let Some(barrier) = pending.map(|commit| commit.version) else { return Ok(()) };
        if version > barrier {
            let then = in_bucket().rfind(|c| c.name == *name && c.version <= barrier);
            let was_absent = then.is_none_or(|commit| commit.kind == FlushKind::Delete);
            if request.kind == FlushKind::Delete || !was_absent {
                return Err(format!("{what}: overtook barrier {barrier:?}"));
            }
        }
        if in_bucket().any(|c| c.barrier && c.version == version) {
            for older in in_bucket().filter(|c| c.version < version) {
                if self.landed.get(&older.name).is_none_or(|landed| *landed < older.version) {
                    let (key, older) = (&older.name, older.version);
                    return Err(format!("{what}: as a barrier before {older:?} of {key:?}"));
                }
            }
            self.landed_barriers.insert(version);
        }
        Ok(())
    }

    fn head(&mut self, epoch: u64, start: Start, then: Option<Request>) {
        let name = (start.bucket, start.key.clone());
        if then.is_none() && self.faults && self.random.u8(..) < 40 {
            return self.finish(epoch, start.attempt, unknown(0));
        }
        let older = if then.is_none() { self.rows.stale_of(&name) } else { Vec::new() };
        if let Some(stale) = older.first().filter(|_| !self.plan.sabotage.no_abort) {
            self.abort(stale);
            return match self.faults && self.random.u8(..) < 80 {
                // The answer is lost, or there must be another.
                true if self.random.bool() => self.finish(epoch, start.attempt, unknown(0)),
                true => self.finish(epoch, start.attempt, Ended::AskAgain { after_ms: MARGIN_MS }),
                false => {
                    let gone = Proposal::TransferGone { version: stale.version, then: start };
                    self.propose(epoch, gone)
                }
            };
        }
        let head = self.origin.head(&OriginKey(key_of(&name))).now_or_never();
        let head = head.expect("the memory origin never waits").expect("and was given no faults");
        let held = Held::of(head.as_ref(), CLUSTER);
        let known = self.rows.origin(&name);
        let blind = self.is_blind(&start);
        let verdict = match blind {
            true => judge_blind(&held, start.version, start.kind),
            false => judge(&held, start.version, start.kind, known.as_ref()),
        };
        match verdict {
            Verdict::Landed { etag } => {
                let flushed = Flushed {
                    bucket: start.bucket,
                    key: start.key,
                    version: start.version,
                    mount: None,
                    origin_etag: Some(etag),
                };
                let then = Some((start.attempt, Ended::Done));
                self.propose(epoch, Proposal::Flushed { flushed, then });
            }
            Verdict::Conflict { .. } => {
                let row = RowId { bucket: start.bucket, key: start.key, version: start.version };
                self.propose(epoch, Proposal::Park { row, then: Some(start.attempt) });
            }
            Verdict::GoOn { record } => match (then, record) {
                (Some(request), _) if blind && request.kind == FlushKind::Delete && held == Held::Nothing => {
                    // Nothing to delete: as good as landed.
                    self.landed.insert(name, start.version);
                    let (bucket, key, version) = (start.bucket, start.key, start.version);
                    let flushed = Flushed { bucket, key, version, mount: None, origin_etag: None };
                    let then = Some((start.attempt, Ended::Done));
                    self.propose(epoch, Proposal::Flushed { flushed, then });
                }
                (Some(mut request), _) => {
                    request.condition = match (request.kind, held) {
                        (FlushKind::Put, held) => condition_of(&held, honours(self.plan)),
                        (_, Held::Ours { etag, .. } | Held::Foreign { etag }) => {
                            Condition::IfMatch(OriginETag(etag))
                        }
                        (_, Held::Nothing) => Condition::None,
                    };
                    let deadline_ms = self.leader_now() + request.dead_at.saturating_sub(self.now);
                    self.travel(epoch, start.attempt, request, deadline_ms);
                }
                (None, None) => self.finish(epoch, start.attempt, Ended::GoOn),
                (None, Some((version, origin_etag))) => {
                    let flushed =
                        Flushed { bucket: start.bucket, key: start.key, version, mount: None, origin_etag };
                    let then = Some((start.attempt, Ended::GoOn));
                    self.propose(epoch, Proposal::Flushed { flushed, then });
                }
            },
        }
    }

    /// A proposal of a leader that lost its office goes nowhere.
    fn propose(&mut self, epoch: u64, proposal: Proposal) {
        if epoch == self.epoch {
            let delay = self.random.u64(1..60);
            self.at(delay, Event::Applied { epoch, proposal });
        }
    }

    /// Sends the one part of a version that goes as an upload. Parts change no object.
    fn begin_upload(&mut self, start: &Start) {
        let goes_in_parts = start.kind == FlushKind::Put && start.version.0.is_multiple_of(2);
        if !goes_in_parts || self.rows.transfer_of(start.version).is_some() {
            return;
        }
        let key = OriginKey(key_of(&(start.bucket, start.key.clone())));
        let deadline = Instant::now() + Duration::from_secs(60);
        let begin = BeginRequest {
            key: key.clone(),
            headers: ContentHeaders::default(),
            user_metadata: vec![mark(start.version)],
            crc32c: false,
            deadline,
        };
        let upload = self.origin.begin_upload(begin).now_or_never().expect("the memory origin never waits");
        let upload = upload.expect("and was given no faults");
        let part = PartRequest {
            key,
            upload: upload.clone(),
            number: 1,
            offset: 0,
            body: body(start.version).into(),
            crc32c: None,
            deadline,
            fence: Fence::open(),
        };
        let sent = self.origin.put_part(part).now_or_never().expect("the memory origin never waits");
        let sent = sent.expect("and was given no faults");
        for step in [TransferStep::Begun { part_bytes: 8, crc32c: false }, TransferStep::Sent(sent)] {
            self.transfer(start.bucket, &start.key, start.version, &upload, step);
        }
    }

    fn transfer(
        &mut self,
        bucket: BucketId,
        key: &Bytes,
        version: Version,
        upload: &UploadId,
        step: TransferStep,
    ) {
        let (key, upload_id) = (key.clone(), upload.0.clone());
        self.rows.transfer(TransferRecord { bucket, key, version, upload_id, step });
    }

    fn complete(&mut self, request: &Request) -> Result<Option<String>, OriginError> {
        let (upload, part) = request.upload.clone().expect("of one that goes in parts");
        let complete = CompleteRequest {
            key: OriginKey(key_of(&request.name)),
            upload: upload.clone(),
            parts: vec![part],
            condition: request.condition.clone(),
            deadline: Instant::now() + Duration::from_secs(60),
            fence: Fence::open(),
        };
        let answer =
            self.origin.complete_upload(complete).now_or_never().expect("the memory origin never waits");
        answer.map(|reply| Some(reply.etag.0)).map_err(|error| match error.code.as_deref() {
            Some(NO_SUCH_UPLOAD) => {
                let (bucket, key) = &request.name;
                self.transfer(*bucket, key, request.version, &upload, TransferStep::Lost);
                OriginError { class: ErrorClass::Conflict, ..error }
            }
            _ => error,
        })
    }

    fn abort(&self, stale: &StaleTransfer) {
        let key = OriginKey(key_of(&(stale.bucket, stale.key.clone())));
        let upload = UploadId(stale.upload_id.clone());
        let reply = self.origin.abort_upload(&key, &upload).now_or_never();
        reply.expect("the memory origin never waits").expect("and was given no faults");
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
        self.rows.load(&mut |loaded| load.push(loaded));
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
