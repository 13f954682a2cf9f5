//! The engine on a simulated disk, by seed: load, power cuts, kills, full disks, replays.
//!
//! Aim: after any crash the node opens, everything acknowledged is there, nothing unacknowledged shows in
//! part, two replays of the same journal give the same tables, and what was given up is free. Method: a model of acknowledged and
//! perhaps-landed writes beside the engine, driven turn by turn with no thread and no clock but the test's.
//! `FOREBAY_SEEDS=n` for the long form; `FOREBAY_SEED=n` runs one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::*;
use crate::apply::digest;
use crate::blob::SegmentConfig;
use crate::body::{Found, find_blob};
use crate::clock::ManualClock;
use crate::io::Operation;
use crate::io::sim::SimDisk;
use crate::journal::{InlinePreparer, JournalConfig};
use crate::keyspace::base::SimBase;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{BodyPart, RowReader, Table};
use crate::mutation::{Existence, Guard, Mutation, Outcome, Payload, SetExpiry};
use crate::object::{BlobId, BucketId};
use crate::stage::StagedBody;

mod staged;
mod stop;

const SEEDS: u64 = 60;
const KEYS: u64 = 12;
const BODY_BYTES_MAX: u64 = 1 << 20;
/// The node's number.
const NODE: u16 = 1;

/// A disk, a checkpoint store and an engine that may die at any moment.
pub(crate) struct World {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) base: Arc<SimBase>,
    pub(crate) clock: Arc<ManualClock>,
    random: fastrand::Rng,
    journal_file_bytes: u64,
    pub(crate) body_bytes_max: u64,
    pub(crate) node: Option<Opened>,
}

/// What a key may hold: the acknowledged body, and those of writes whose answer never came.
#[derive(Default, Clone)]
struct Expected {
    acknowledged: Option<Vec<u8>>,
    perhaps: Vec<Option<Vec<u8>>>,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        World {
            disk: Arc::new(SimDisk::with_seed(seed)),
            base: Arc::default(),
            clock: Arc::new(ManualClock::new(1_000_000)),
            random: fastrand::Rng::with_seed(seed),
            // Small, so that histories cross many files.
            journal_file_bytes: 256 << 10,
            body_bytes_max: BODY_BYTES_MAX,
            node: None,
        }
    }

    pub(crate) fn open(&mut self) -> Result<(), String> {
        self.replay()?;
        self.begin_run()
    }

    /// Opens and applies what the journal holds; nothing more.
    pub(crate) fn replay(&mut self) -> Result<(), String> {
        let journal = JournalConfig {
            file_bytes: self.journal_file_bytes,
            hard_cap_bytes: 64 << 20,
            spare_bytes: 1 << 20,
            ..JournalConfig::new(self.random.u64(1..))
        };
        let parts = Parts {
            disk: self.disk.clone(),
            base: self.base.clone(),
            clock: self.clock.clone(),
            preparer: Box::new(InlinePreparer::default()),
            journal,
            // Small, so that bodies cross pieces, and histories segments.
            segments: SegmentConfig {
                segment_bytes: 256 << 10,
                spare_bytes: 512 << 10,
                piece_bytes: 70_000,
                nonce: self.random.u64(1..),
            },
            stage_threads: 0,
            sync: SyncMode::Always,
            memtable: MemtableLimits { bytes: 1 << 20, rows: 100, age_ms: u64::MAX },
            cache_bytes: 64 << 10,
            body_bytes_max: self.body_bytes_max,
            events: Box::new(|_| {}),
        };
        let mut opened = open(parts).map_err(|error| format!("open: {error}"))?;
        let (disk, checkpointer, stats) =
            (self.disk.clone(), opened.checkpointer.clone(), opened.stats.clone());
        opened.engine.relief = Box::new(move |job| {
            // Whoever runs the node makes room.
            disk.set_capacity(None);
            if let Some(job) = job {
                checkpointer.run(&job.frozen, job.row).unwrap();
                stats.checkpointed.store(job.row.index, Relaxed);
            }
            true
        });
        opened.engine.start().map_err(|error| format!("start: {error}"))?;
        self.node = Some(opened);
        Ok(())
    }

    fn begin_run(&mut self) -> Result<(), String> {
        let mut submission = Submission::new();
        submission.push(&Mutation::AbortBefore { node: NODE });
        match self.submit(submission)?.results[..] {
            [Outcome::Boot(boot)] => {
                let node = self.node.as_ref().unwrap();
                node.stager.begin_run(NODE, boot, &node.keyspace);
                Ok(())
            }
            ref other => Err(format!("a run began with {other:?}")),
        }
    }

    /// Stages a body, in writes of odd lengths.
    pub(crate) fn stage(&mut self, body: &[u8]) -> Result<StagedBody, Error> {
        let stager = self.node.as_ref().unwrap().stager.clone();
        let mut writer = stager.begin(body.len() as u64)?;
        let mut rest = body;
        while !rest.is_empty() {
            let (bytes, left) = rest.split_at(self.random.usize(1..=rest.len().min(100_000)));
            rest = left;
            // Without threads nothing is ever waited for.
            writer.write(Bytes::copy_from_slice(bytes)).now_or_never().unwrap()?;
        }
        writer.finish().now_or_never().unwrap()
    }

    fn engine(&mut self) -> &mut Engine {
        &mut self.node.as_mut().unwrap().engine
    }

    /// One turn with one submission; its outcomes, or the reason why the process would have died.
    pub(crate) fn submit(&mut self, submission: Submission) -> Result<RawOutcomes, String> {
        let (pending, mut answer) = Pending::new(submission, None);
        self.engine().turn(vec![pending]).map_err(|fatal| fatal.to_string())?;
        answer.try_recv().map_err(|_| "no answer after a turn".to_owned())?.map_err(|error| error.to_string())
    }

    pub(crate) fn checkpoint(&mut self) -> Result<(), String> {
        self.freeze().map_or(Ok(()), |job| self.finish_checkpoint(&job))
    }

    pub(crate) fn freeze(&mut self) -> Option<CheckpointJob> {
        self.engine().maybe_freeze(true)
    }

    pub(crate) fn finish_checkpoint(&mut self, job: &CheckpointJob) -> Result<(), String> {
        let node = self.node.as_mut().unwrap();
        node.checkpointer.run(&job.frozen, job.row).map_err(|error| error.to_string())?;
        node.stats.checkpointed.store(job.row.index, Relaxed);
        node.engine.release();
        Ok(())
    }

    pub(crate) fn bucket(&mut self) -> BucketId {
        let mut submission = Submission::new();
        submission.push(&Mutation::CreateBucket { name: b"redis-0" });
        match self.submit(submission).unwrap().results[0] {
            Outcome::Bucket(id, _) => id,
            ref other => panic!("{other:?}"),
        }
    }

    fn read(&self, bucket: BucketId, key: &[u8]) -> Option<Vec<u8>> {
        let node = self.node.as_ref().unwrap();
        let view = View::latest(&node.keyspace);
        let row = view.get(RowKey::object(Table::Object, bucket, key), true, true).unwrap()??;
        let row = RowReader::new(&row).unwrap();
        let mut body = Vec::new();
        for part in row.parts() {
            match part {
                BodyPart::Inline(bytes) => body.extend_from_slice(bytes),
                BodyPart::Zeros(len) => body.resize(body.len() + len as usize, 0),
                BodyPart::Extent { blob, offset, len } => {
                    let bytes =
                        read_blob(node, &view, blob).unwrap_or_else(|| panic!("{blob:?} has no bytes"));
                    body.extend_from_slice(&bytes[offset as usize..(offset + len) as usize]);
                }
            }
        }
        Some(body)
    }

    pub(crate) fn digest(&self) -> blake3::Hash {
        let node = self.node.as_ref().unwrap();
        digest(&node.keyspace, &|view, blob| read_blob(node, view, blob)).unwrap()
    }

    /// The process dies; `power` goes with it, or the page cache stays.
    pub(crate) fn crash(&mut self, power: bool) {
        self.node = None;
        if power {
            let seed = self.random.u64(..);
            self.disk.power_cut(seed);
        }
    }
}

fn read_blob(node: &Opened, view: &View, blob: BlobId) -> Option<Vec<u8>> {
    match find_blob(view, &node.segments, blob, true) {
        Ok(Some(Found::Memory(bytes))) => Some(bytes.to_vec()),
        Ok(Some(Found::Extent(pointer, _pin))) => {
            Some(node.segments.read(pointer, blob, 0..pointer.length, true).unwrap().unwrap())
        }
        other => panic!("{blob:?}: {:?}", other.map(|_| "nothing")),
    }
}

/// One random change: as a mutation, and as what it does to a body.
fn random_change(random: &mut fastrand::Rng, old: Option<&[u8]>) -> (Change, Option<Vec<u8>>) {
    let len = match random.u8(0..5) {
        0 => random.usize(0..20),
        1 => random.usize(0..600),
        2 => random.usize(500..3000),
        3 => random.usize(0..8000),
        _ => random.usize(1..200_000),
    };
    let staged = len > 8000 || len > 0 && random.u8(0..8) == 0;
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
    let change = |what| Change { what, bytes: bytes.clone(), staged };
    match random.u8(0..10) {
        0..5 => (change(What::Set), Some(bytes)),
        5..7 => {
            let body = [old.unwrap_or(&[]), &bytes].concat();
            if body.len() as u64 > BODY_BYTES_MAX {
                return (change(What::Delete), None);
            }
            (change(What::Append), Some(body))
        }
        7 if !bytes.is_empty() => {
            let offset = random.usize(0..4000);
            let mut body = old.unwrap_or(&[]).to_vec();
            body.resize(body.len().max(offset + bytes.len()), 0);
            body[offset..offset + bytes.len()].copy_from_slice(&bytes);
            (change(What::SetRange(offset as u64)), Some(body))
        }
        _ => (change(What::Delete), None),
    }
}

enum What {
    Set,
    Append,
    SetRange(u64),
    Delete,
}

struct Change {
    what: What,
    bytes: Vec<u8>,
    staged: bool,
}

impl Change {
    fn mutation<'a>(&self, bucket: BucketId, key: &'a [u8], value: Payload<'a>) -> Mutation<'a> {
        let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
        match self.what {
            What::Set => Mutation::SetString { bucket, key, value, expiry, existence },
            What::Append => Mutation::Append { bucket, key, value },
            What::SetRange(offset) => Mutation::SetRange { bucket, key, offset, value },
            What::Delete => Mutation::Delete { bucket, key },
        }
    }

    /// Takes it through the log, and the body through segments if it is staged.
    fn run(&self, world: &mut World, bucket: BucketId, key: &[u8]) -> Result<RawOutcomes, String> {
        let mut submission = Submission::new();
        if self.staged && !matches!(self.what, What::Delete) {
            let staged = world.stage(&self.bytes).map_err(|error| error.to_string())?;
            submission.push(&self.mutation(bucket, key, staged.payload()));
            submission.carry(staged);
        } else {
            submission.push(&self.mutation(bucket, key, Payload::Inline(&self.bytes)));
        }
        world.submit(submission)
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

/// Runs a history; `Err` names what went wrong.
fn history(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed);
    let mut expected: BTreeMap<u64, Expected> = BTreeMap::new();
    world.open()?;
    let bucket = world.bucket();
    for _ in 0..world.random.u64(20..120) {
        match world.random.u8(0..20) {
            0 => world.checkpoint()?,
            1 => {
                world.clock.advance(100);
                world.engine().tick().map_err(|fatal| fatal.to_string())?;
                world.engine().idle().map_err(|fatal| fatal.to_string())?;
            }
            2 => {
                let power = world.random.bool();
                world.crash(power);
                world.open()?;
                verify(&mut world, bucket, &mut expected)?;
            }
            3 => {
                // Copies share blobs; the model follows.
                let (from, to) = (world.random.u64(0..KEYS), world.random.u64(0..KEYS));
                let body = expected.get(&from).and_then(|e| e.acknowledged.clone());
                let mut submission = Submission::new();
                let (from, to_key) = (key(from), key(to));
                submission.push(&Mutation::Copy {
                    from_bucket: bucket,
                    from: &from,
                    to_bucket: bucket,
                    to: &to_key,
                    replace: true,
                });
                world.submit(submission)?;
                if let Some(body) = body {
                    expected.insert(to, Expected { acknowledged: Some(body), perhaps: Vec::new() });
                }
            }
            4 => die_in_a_write(&mut world, bucket, &mut expected)?,
            5 => give_up_or_be_refused(&mut world, bucket, &expected)?,
            6 => stage_on_a_failing_disk(&mut world)?,
            _ => {
                let number = world.random.u64(0..KEYS);
                let old = expected.get(&number).and_then(|e| e.acknowledged.clone());
                let (change, body) = random_change(&mut world.random, old.as_deref());
                change.run(&mut world, bucket, &key(number))?;
                expected.insert(number, Expected { acknowledged: body, perhaps: Vec::new() });
            }
        }
    }
    verify(&mut world, bucket, &mut expected)?;
    let before = world.digest();
    world.crash(true);
    world.replay()?;
    if world.digest() != before {
        return Err("a replay gave other tables".to_owned());
    }
    world.checkpoint()?;
    world.crash(true);
    world.replay()?;
    if world.digest() != before {
        return Err("a checkpoint changed the tables".to_owned());
    }
    world.begin_run()?;
    verify(&mut world, bucket, &mut expected)?;
    nothing_is_left_behind(&mut world, bucket)
}

/// Once every object is deleted no segment is in use, but for those that are open.
fn nothing_is_left_behind(world: &mut World, bucket: BucketId) -> Result<(), String> {
    for number in 0..KEYS {
        let mut submission = Submission::new();
        submission.push(&Mutation::Delete { bucket, key: &key(number) });
        world.submit(submission)?;
    }
    world.checkpoint()?;
    let node = world.node.as_ref().unwrap();
    let staged = node.segments.staged_blobs();
    let (live, used) = (node.checkpointer.live_bytes(), node.segments.segments_in_use());
    // A spill's, and one of each lane.
    if !staged.is_empty() || live > 0 || used > 3 {
        return Err(format!("left behind: {staged:?}, {live} bytes, {used} segments"));
    }
    Ok(())
}

/// A write during which the disk fails: the process dies, and the write may or may not have landed.
fn die_in_a_write(
    world: &mut World,
    bucket: BucketId,
    expected: &mut BTreeMap<u64, Expected>,
) -> Result<(), String> {
    let number = world.random.u64(0..KEYS);
    let entry = expected.entry(number).or_default();
    let old = entry.acknowledged.clone();
    let (change, body) = random_change(&mut world.random, old.as_deref());
    entry.perhaps.push(body.clone());
    let operation = if world.random.bool() { Operation::Write } else { Operation::Sync };
    let nth = if change.staged { world.random.u64(1..8) } else { 1 };
    world.disk.fail_nth(operation, nth, std::io::ErrorKind::Other);
    if change.run(world, bucket, &key(number)).is_ok() {
        if !change.staged {
            return Err("a write was acknowledged although the disk had failed".to_owned());
        }
        expected.insert(number, Expected { acknowledged: body, perhaps: Vec::new() });
    }
    world.crash(true);
    world.open()?;
    verify(world, bucket, expected)
}

/// A body that is dropped half-way or whole, or whose mutation apply refuses: nothing changes.
fn give_up_or_be_refused(
    world: &mut World,
    bucket: BucketId,
    expected: &BTreeMap<u64, Expected>,
) -> Result<(), String> {
    let body = vec![7; world.random.usize(1..300_000)];
    if world.random.bool() {
        let mut writer =
            world.node.as_ref().unwrap().stager.begin(400_000).map_err(|error| error.to_string())?;
        let written = writer.write(Bytes::from(body)).now_or_never().unwrap();
        return written.map_err(|error| error.to_string());
    }
    let staged = world.stage(&body).map_err(|error| error.to_string())?;
    let number = world.random.u64(0..KEYS);
    if world.random.bool() {
        return Ok(());
    }
    let mut submission = Submission::new();
    let (key, existence) = (key(number), Existence::Present);
    let there = expected.get(&number).is_some_and(|expected| expected.acknowledged.is_some());
    let existence = if there { Existence::Absent } else { existence };
    let (value, expiry) = (staged.payload(), SetExpiry::Clear);
    submission.push(&Mutation::SetString { bucket, key: &key, value, expiry, existence });
    submission.carry(staged);
    match world.submit(submission)?.results[..] {
        [Outcome::Unmet] => Ok(()),
        ref other => Err(format!("{other:?} instead of a refusal")),
    }
}

/// A body for which the disk has no space, or whose write fails: that body alone is lost.
fn stage_on_a_failing_disk(world: &mut World) -> Result<(), String> {
    let body = vec![8; world.random.usize(1..300_000)];
    if world.random.bool() {
        world.disk.set_capacity(Some(world.disk.used() + world.random.u64(0..100_000)));
    } else {
        world.disk.fail_nth(Operation::Write, world.random.u64(1..4), std::io::ErrorKind::Other);
    }
    let _ = world.stage(&body);
    world.disk.set_capacity(None);
    world.disk.clear_faults();
    Ok(())
}

fn verify(world: &mut World, bucket: BucketId, expected: &mut BTreeMap<u64, Expected>) -> Result<(), String> {
    for (number, expected) in expected.iter_mut() {
        let found = world.read(bucket, &key(*number));
        if found != expected.acknowledged && !expected.perhaps.contains(&found) {
            let len = |body: &Option<Vec<u8>>| body.as_ref().map(Vec::len);
            return Err(format!(
                "key {number}: found {:?} bytes, acknowledged {:?}",
                len(&found),
                len(&expected.acknowledged)
            ));
        }
        // What is found now is what every later read must find.
        *expected = Expected { acknowledged: found, perhaps: Vec::new() };
    }
    let counted = world.node.as_ref().unwrap().registry.get(bucket).map_or(0, |bucket| bucket.objects());
    let alive = expected.values().filter(|expected| expected.acknowledged.is_some()).count() as u64;
    if counted != alive {
        return Err(format!("the bucket counts {counted} objects, {alive} are there"));
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_on_a_failing_disk() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("FOREBAY_SEED") {
        history(seed).unwrap();
        return;
    }
    for seed in 0..number("FOREBAY_SEEDS").unwrap_or(SEEDS) {
        let run = std::panic::catch_unwind(|| history(seed));
        if let Ok(Err(_)) | Err(_) = run {
            panic!("seed {seed}: {run:?} (run it alone with FOREBAY_SEED={seed})");
        }
    }
}

#[test]
fn a_full_disk_delays_a_write_and_loses_nothing() {
    let mut world = World::new(7);
    world.open().unwrap();
    let bucket = world.bucket();
    // No further journal file fits; the relief makes room when the writer asks for it.
    world.disk.set_capacity(Some(0));
    for round in 0..200u64 {
        let value = vec![round as u8; 8000];
        let mut submission = Submission::new();
        let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
        submission.push(&Mutation::SetString {
            bucket,
            key: b"k",
            value: (&value[..]).into(),
            expiry,
            existence,
        });
        world.submit(submission).unwrap();
    }
    world.crash(true);
    world.open().unwrap();
    assert_eq!(world.read(bucket, b"k"), Some(vec![199; 8000]));
}

#[test]
fn entries_that_change_nothing_free_the_journal_too() {
    let mut world = World::new(3);
    world.open().unwrap();
    world.checkpoint().unwrap();
    let unmet = || {
        let mut submission = Submission::new();
        submission.push(&Mutation::Delete { bucket: BucketId(77), key: b"none" });
        submission
    };
    world.submit(unmet()).unwrap();
    let job = world.engine().maybe_freeze(true).expect("a checkpoint is due after any entry");
    assert_eq!((job.frozen.rows.rows(), job.row.index), (0, world.engine().last_applied.index));
}

#[test]
fn a_view_between_two_writes_of_one_submission_sees_what_stood_there() {
    let mut world = World::new(1);
    world.open().unwrap();
    let bucket = world.bucket();
    let mut submission = Submission::new();
    let set = |value| Mutation::SetString {
        bucket,
        key: b"k",
        value,
        expiry: SetExpiry::Clear,
        existence: Existence::Any,
    };
    let before = submission.view();
    submission.push(&set(b"1".into()));
    let between = submission.view();
    submission.push(&set(b"2".into()));
    let after = submission.view();
    let outcomes = world.submit(submission).unwrap();
    let read = |slot: crate::submission::ViewSlot| {
        let row =
            outcomes.views[slot.0].get(RowKey::object(Table::Object, bucket, b"k"), true, true).unwrap();
        row.flatten().map(|row| RowReader::new(&row).unwrap().inline_body().unwrap().to_vec())
    };
    assert_eq!((read(before), read(between), read(after)), (None, Some(b"1".to_vec()), Some(b"2".to_vec())));
}

#[test]
fn a_submission_longer_than_an_entry_is_cut_and_answered_whole() {
    let mut world = World { journal_file_bytes: 4 << 20, ..World::new(2) };
    world.open().unwrap();
    let bucket = world.bucket();
    let mut submission = Submission::new();
    let value = vec![1; 60_000];
    let mut places = Vec::new();
    for number in 0..100 {
        let key = key(number);
        let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
        submission.push(&Mutation::SetString {
            bucket,
            key: &key,
            value: (&value[..]).into(),
            expiry,
            existence,
        });
        places.push(submission.view());
    }
    let outcomes = world.submit(submission).unwrap();
    assert_eq!((outcomes.results.len(), outcomes.views.len()), (100, 100));
    for (number, place) in places.iter().enumerate() {
        let view = &outcomes.views[place.0];
        let there = |number| {
            let key = key(number);
            view.get(RowKey::object(Table::Object, bucket, &key), true, true).unwrap().flatten().is_some()
        };
        assert!(there(number as u64) && !there(number as u64 + 1), "view {number}");
    }
}
