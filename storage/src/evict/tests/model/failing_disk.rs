//! A disk that fails, or is full, at any call of what a node does beside its clients' writes: checkpoints with their
//! spills, rounds of eviction, compaction, fills that are kept, copies of what was given up, bodies on their way in.
//!
//! What must hold: a full disk costs nothing but time, and a disk that fails costs at most the process; afterwards every
//! object is as it was. What would end a node ends it here: a sync that failed, a journal or a checkpoint that could not
//! be written.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::sync::atomic::Ordering::Relaxed;

use super::super::super::compact::{Thresholds, compact};
use super::super::super::{EvictError, Round, Sabotage, Want, make_room, submit_held};
use super::{KEYS, Missing, SEEDS, Site, is_noticed_by, key, number};
use crate::blob::BlobError;
use crate::io::{Disk, Operation};
use crate::keyspace::places::Batch;
use crate::mutation::{Existence, Mutation, SetExpiry};
use crate::replica::CheckpointJob;
use crate::submission::Submission;

/// An object that the model does not know: what becomes of it does not matter.
const SCRATCH: u64 = KEYS;

/// What the process can do after the disk has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    GoesOn,
    /// It would have ended itself.
    Ends,
}

/// Who waits for the changes of a round.
type Wait<'w> = &'w dyn Fn(&Batch) -> bool;

/// How often each work met a fault: in the order of `Site::work`, each with faults that ended the process, and others.
type Met = [[u64; 2]; 6];

impl Site {
    /// One work on a failing disk; the disk is well again when it returns.
    fn on_a_failing_disk(&mut self, number: u64, met: &mut Met) -> Result<(), String> {
        let disk = self.world.borrow().disk.clone();
        let (what, room, nth, full, operation) = {
            let mut random = self.random.borrow_mut();
            let operations = [
                Operation::Write,
                Operation::Write,
                Operation::Sync,
                Operation::Read,
                Operation::Create,
                Operation::Preallocate,
                Operation::SyncDir,
                Operation::Remove,
                Operation::Open,
                Operation::Length,
                Operation::FreeSpace,
            ];
            let operation = operations[random.usize(0..operations.len())];
            (random.usize(0..6), random.u64(0..60_000), random.u64(1..4), random.u8(0..4), operation)
        };
        let errors =
            || -> u64 { Operation::ALL.iter().map(|it| disk.metrics().of(*it).errors.load(Relaxed)).sum() };
        let before = errors();
        match full {
            0 | 1 => disk.set_capacity(Some(disk.used() + room)),
            2 => disk.fail_nth(operation, nth, ErrorKind::StorageFull),
            _ => disk.fail_nth(operation, nth, ErrorKind::Other),
        }
        let waiting = RefCell::new(None);
        let worked = self.work(what, number, &waiting);
        let struck = errors() > before;
        disk.clear_faults();
        disk.set_capacity(None);
        // A failed sync has lost what nobody can tell.
        let failed_sync = struck && full > 1 && matches!(operation, Operation::Sync | Operation::SyncDir);
        let after = if failed_sync { After::Ends } else { worked? };
        if struck {
            met[what][usize::from(after == After::GoesOn)] += 1;
        }
        match (after, waiting.into_inner()) {
            (After::Ends, _) => self.crash()?,
            (After::GoesOn, Some(job)) => self.world.borrow_mut().finish_checkpoint(&job)?,
            (After::GoesOn, None) => {}
        }
        let mut submission = Submission::new();
        submission.push(&Mutation::Delete { bucket: self.bucket, key: &key(SCRATCH) });
        self.submit(submission)?;
        self.verify(false)
    }

    /// `Err`: something that may not be.
    fn work(
        &mut self,
        what: usize,
        number: u64,
        waiting: &RefCell<Option<CheckpointJob>>,
    ) -> Result<After, String> {
        let shared = self.shared();
        match what {
            0 => Ok(self.try_checkpoint(waiting)),
            1 => self.try_round(waiting, &|wait| make_room(&shared, Want::Capacity(1 << 40), wait)),
            2 => {
                let eager = Thresholds { live_percent: 99, dead_percent: 0, dead_segments: 0 };
                shared.evictor.looked_at.lock().take();
                self.try_round(waiting, &|wait| compact(&shared, eager, wait))
            }
            3 => {
                shared.fills.blocks.forget();
                for (number, object) in &self.model {
                    let Ok(read) = self.read(*number) else { return Ok(After::Ends) };
                    if read.as_ref().is_ok_and(|read| read.as_ref() != Some(&object.body)) {
                        return Err(format!("key {number} has other bytes on a failing disk"));
                    }
                }
                if self.run_until(&|| shared.fills.keeping() == 0).is_err() {
                    return Ok(After::Ends);
                }
                Ok(self.try_checkpoint(waiting))
            }
            4 => {
                let (bucket, from, to) = (self.bucket, key(number), key(SCRATCH));
                let mut submission = Submission::new();
                let (from_bucket, to_bucket) = (bucket, bucket);
                submission.push(&Mutation::Copy {
                    from_bucket,
                    from: &from,
                    to_bucket,
                    to: &to,
                    replace: true,
                });
                Ok(self.try_submit(submission))
            }
            _ => {
                let (bucket, key, body) = (self.bucket, key(SCRATCH), vec![9; 200_000]);
                let Ok(staged) = self.world.borrow_mut().stage(&body) else { return Ok(After::GoesOn) };
                let mut submission = Submission::new();
                let (value, expiry, existence) = (staged.payload(), SetExpiry::Clear, Existence::Any);
                submission.push(&Mutation::SetString { bucket, key: &key, value, expiry, existence });
                submission.carry(staged);
                Ok(self.try_submit(submission))
            }
        }
    }

    /// The engine's own errors end the process, others are the client's.
    fn try_submit(&self, submission: Submission) -> After {
        match self.run(submit_held(&self.shared(), submission)) {
            Ok(_) => After::GoesOn,
            Err(_) => After::Ends,
        }
    }

    /// As the checkpoint thread does it: what lacks space waits for it.
    fn try_checkpoint(&self, waiting: &RefCell<Option<CheckpointJob>>) -> After {
        let mut waiting = waiting.borrow_mut();
        if waiting.is_none() {
            *waiting = self.world.borrow_mut().freeze();
        }
        let Some(job) = &*waiting else { return After::GoesOn };
        let run = self.shared().checkpointer.run(&job.frozen, job.row);
        match run {
            Ok(()) => {
                // Known to the engine as soon as a checkpoint has ended well.
                let job = waiting.take().expect("looked at above");
                match self.world.borrow_mut().finish_checkpoint(&job) {
                    Ok(()) => After::GoesOn,
                    Err(_) => After::Ends,
                }
            }
            Err(error) if error.is_full() => After::GoesOn,
            Err(_) => After::Ends,
        }
    }

    fn try_round(
        &self,
        waiting: &RefCell<Option<CheckpointJob>>,
        make: &dyn Fn(Wait<'_>) -> Result<Round, EvictError>,
    ) -> Result<After, String> {
        let (ends, stuck) = (Cell::new(false), Cell::new(false));
        let wait = |batch: &Batch| {
            if self.try_checkpoint(waiting) == After::Ends {
                ends.set(true);
                return false;
            }
            // One that lacks space has given the places up; else they are committed, or wait for the next one.
            if batch.wait(Default::default()).open > 0 && self.try_checkpoint(waiting) == After::Ends {
                ends.set(true);
                return false;
            }
            stuck.set(batch.wait(Default::default()).open > 0);
            !stuck.get()
        };
        let made = make(&wait);
        if stuck.get() {
            return Err("whoever waits for the round waits for ever".to_owned());
        }
        let failed_sync = matches!(made, Err(EvictError::Blob(BlobError::SyncFailed(_))));
        Ok(if ends.get() || failed_sync { After::Ends } else { After::GoesOn })
    }
}

/// A history with such works between everything else that changes objects.
fn failing(seed: u64, missing: Missing, met: &mut Met) -> Result<(), String> {
    let mut site = Site::new(seed, missing)?;
    let steps = site.random.borrow_mut().u64(30..90);
    for _ in 0..steps {
        let (what, number, other) = {
            let mut random = site.random.borrow_mut();
            (random.u8(0..16), random.u64(0..KEYS), random.u64(0..KEYS))
        };
        match what {
            0..3 => site.set(number)?,
            3 => site.append(number, false)?,
            4 => site.copy(number, other, false, false)?,
            5 => site.delete(number)?,
            6 => site.flush(6)?,
            7 => {
                if site.evict()? {
                    site.crash()?;
                }
            }
            _ => site.on_a_failing_disk(number, met)?,
        }
    }
    site.crash()?;
    site.verify(false)
}

#[test]
fn objects_outlive_a_disk_that_fails_or_is_full_at_any_call() {
    let mut met = Met::default();
    let seeds = match number("FOREBAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FOREBAY_SEEDS").unwrap_or(SEEDS),
    };
    let one = seeds.end - seeds.start == 1;
    for seed in seeds {
        if let Err(wrong) = failing(seed, Missing::default(), &mut met) {
            panic!("seed {seed}: {wrong} (run it alone with FOREBAY_SEED={seed})");
        }
    }
    println!("works that met a fault and ended the process, or went on: {met:?}");
    assert!(
        one || met.iter().all(|[ended, went_on]| ended + went_on > 0),
        "a work has met no fault: {met:?}"
    );
}

#[test]
fn using_a_segment_again_before_a_commit_that_may_fail_is_noticed() {
    let evictor = Sabotage { recycle_first: true, ..Sabotage::default() };
    let missing = Missing { evictor, ..Missing::default() };
    assert!(is_noticed_by(&|seed| failing(seed, missing, &mut Met::default())));
}
