//! Steps of a history that lie within each other: what a client does while a round, a fill or a checkpoint is under way.

use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;

use super::{KEYS, Missing, SEEDS, Site, is_noticed_by, key, number};
use crate::error::Error;
use crate::evict::release::{find, is_due, note_released};
use crate::evict::{Sabotage, Want, make_room, submit_held};
use crate::mutation::Mutation;
use crate::replica::CheckpointJob;
use crate::submission::{Outcomes, Submission};

impl Site {
    /// Makes room, and begins to copy an object while the changes of the round wait for their checkpoint: the copy looks
    /// at its source once before they are committed, and once when the round is over.
    pub(super) fn evict_under_a_copy(&mut self, from: u64, to: u64) -> Result<(), String> {
        if from == to || !self.model.contains_key(&from) {
            return Ok(());
        }
        let shared = self.shared();
        let bytes = self.random.borrow_mut().u64(1..2_000_000);
        let (entered, has_entered) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        *shared.evictor.between_looks.lock() = Some(Box::new(move || {
            let _ = entered.send(());
            // Until the other end is dropped.
            let _ = may_go_on.recv();
        }));
        let (copying, failed) = (RefCell::new(None), RefCell::new(None));
        let wait = |_: &_| {
            // Before the copy opens its view: a checkpoint waits for older ones.
            let job = self.freeze();
            let copy = self.begin_copy(from, to);
            let met = self.run(async {
                while has_entered.try_recv().is_err() && !copy.is_finished() {
                    tokio::task::yield_now().await;
                }
            });
            *copying.borrow_mut() = Some(copy);
            *failed.borrow_mut() = met.and_then(|()| self.finish_checkpoint(job)).err();
            true
        };
        let round = make_room(&shared, Want::Capacity(bytes), &wait);
        *shared.evictor.between_looks.lock() = None;
        drop(go_on);
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        round.map_err(|error| format!("eviction: {error}"))?;
        if let Some(copy) = copying.into_inner() {
            let copied = self.run(copy)?.map_err(|error| error.to_string())?;
            self.copied(from, to, false, false, copied)?;
        }
        self.verify(false)
    }

    fn begin_copy(&self, from: u64, to: u64) -> tokio::task::JoinHandle<Result<Outcomes, Error>> {
        let (shared, bucket, mut submission) = (self.shared(), self.bucket, Submission::new());
        submission.push(&Mutation::Copy {
            from_bucket: bucket,
            from: &key(from),
            to_bucket: bucket,
            to: &key(to),
            replace: true,
        });
        let runtime = &self.open.as_ref().unwrap().runtime;
        runtime.spawn(async move { submit_held(&shared, submission).await })
    }

    /// Keeps what an object has in the origin only, and deletes the object meanwhile. Either both are done before a
    /// checkpoint begins, or it begins in between, with another write behind it.
    pub(super) fn fill_around_a_freeze(&mut self, number: u64, other: u64) -> Result<(), String> {
        self.flush(10_000)?;
        self.checkpoint()?;
        let shared = self.shared();
        let failed = RefCell::new(None);
        let wait = |_: &_| {
            *failed.borrow_mut() = self.checkpoint().err();
            true
        };
        // The first leaves some that were read.
        for _ in 0..2 {
            make_room(&shared, Want::Capacity(1 << 40), &wait)
                .map_err(|error| format!("eviction: {error}"))?;
        }
        failed.into_inner().map_or(Ok(()), Err)?;
        let fills = &shared.fills;
        self.run_until(&|| fills.keeping() == 0)?;
        fills.blocks.forget();
        let shut = fills.ends.shut.clone().try_write_owned().map_err(|_| "somebody else shuts it")?;
        // Errors of one that was changed in the origin are another step's.
        let _ = self.read(number)?;
        self.run_until(&|| fills.ends.waiting.load(Relaxed) == fills.keeping())?;
        if self.random.borrow_mut().bool() {
            drop(shut);
            self.run_until(&|| fills.keeping() == 0)?;
            self.delete(number)?;
            return self.checkpoint_under_writes();
        }
        self.delete(number)?;
        let job = self.freeze();
        let sets = self.random.borrow_mut().bool();
        match sets {
            true => self.set(other)?,
            false => self.delete(other)?,
        }
        drop(shut);
        self.run_until(&|| fills.keeping() == 0)?;
        self.finish_checkpoint(job)?;
        self.checkpoint_under_writes()
    }

    /// Looks for what is clean and not marked. Objects are changed, flushed and copied before it is released.
    pub(super) fn release_late(&mut self, number: u64, other: u64) -> Result<(), String> {
        let shared = self.shared();
        let found = find(&shared).map_err(|error| error.to_string())?;
        let what = self.random.borrow_mut().u8(0..5);
        match what {
            0 => self.set(number)?,
            1 => self.append(number, false)?,
            2 => self.copy(number, other, false, false)?,
            3 => self.flush(4)?,
            _ => {}
        }
        if found.objects > 0 {
            note_released(&shared, &self.submit(found.releases)?.results);
        }
        Ok(())
    }

    /// Looks for it in all objects, and releases it.
    pub(in crate::evict::tests) fn release_all(&self) {
        let shared = self.shared();
        while is_due(&shared) {
            let found = find(&shared).unwrap();
            if found.objects > 0 {
                note_released(&shared, &self.submit(found.releases).unwrap().results);
            }
        }
    }

    pub(super) fn run_until(&self, is: &dyn Fn() -> bool) -> Result<(), String> {
        self.run(async {
            while !is() {
                tokio::task::yield_now().await;
            }
        })
    }

    /// A checkpoint; objects are written between its beginning and its commit.
    pub(super) fn checkpoint_under_writes(&mut self) -> Result<(), String> {
        let job = self.freeze();
        let writes = self.random.borrow_mut().u8(2..6);
        for _ in 0..writes {
            let number = self.random.borrow_mut().u64(0..KEYS);
            self.set(number)?;
        }
        self.finish_checkpoint(job)
    }

    fn freeze(&self) -> Option<CheckpointJob> {
        self.world.borrow_mut().freeze()
    }

    fn finish_checkpoint(&self, job: Option<CheckpointJob>) -> Result<(), String> {
        job.map_or(Ok(()), |job| self.world.borrow_mut().finish_checkpoint(&job))
    }
}

/// A history of such steps alone.
fn overlaps(seed: u64, missing: Missing) -> Result<(), String> {
    let mut site = Site::new(seed, missing)?;
    site.of_one_piece = true;
    let rounds = site.random.borrow_mut().u64(4..12);
    for _ in 0..rounds {
        let (what, number, other, more) = {
            let mut random = site.random.borrow_mut();
            (random.u8(0..3), random.u64(0..KEYS), random.u64(0..KEYS), random.u64(2..5))
        };
        // The segment of the first is full by then: an open one cannot be emptied.
        for number in [number, other].into_iter().chain(KEYS..KEYS + more) {
            site.set(number)?;
        }
        site.flush(10_000)?;
        site.checkpoint()?;
        match what {
            0 => site.evict_under_a_copy(number, other)?,
            _ => {
                // What is kept goes to the beginning of a segment, or behind what is there.
                if what == 1 {
                    site.crash()?;
                }
                site.fill_around_a_freeze(number, other)?;
                site.crash()?;
            }
        }
        site.verify(false)?;
        // Else what is kept takes room whenever it comes to its turn.
        let shared = site.shared();
        site.run_until(&|| shared.fills.keeping() == 0)?;
    }
    Ok(())
}

#[test]
fn objects_outlive_what_lies_within_each_other() {
    for seed in 0..number("FOREBAY_SEEDS").unwrap_or(SEEDS) {
        overlaps(seed, Missing::default()).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

#[test]
fn a_hold_that_looks_at_the_places_first_is_noticed() {
    let evictor = Sabotage { places_first: true, ..Sabotage::default() };
    assert!(is_noticed_by(&|seed| overlaps(seed, Missing { evictor, ..Missing::default() })));
}

#[test]
fn a_place_that_is_counted_without_its_entry_is_noticed() {
    assert!(is_noticed_by(&|seed| overlaps(seed, Missing { entries_unasked: true, ..Missing::default() })));
}

#[test]
fn who_waits_for_a_round_that_never_ends_is_told_that_the_node_stops() {
    let mut site = Site::new(1, Missing::default()).unwrap();
    site.of_one_piece = true;
    (0..4).for_each(|number| site.set(number).unwrap());
    site.flush(10_000).unwrap();
    site.checkpoint().unwrap();
    let copying = RefCell::new(None);
    let wait = |_: &_| {
        // The first stays, because the flush has read it.
        *copying.borrow_mut() = Some(site.begin_copy(2, 3));
        false
    };
    make_room(&site.shared(), Want::Capacity(1 << 40), &wait).unwrap();
    let copied = site.run(copying.into_inner().unwrap()).unwrap().unwrap();
    assert!(matches!(copied, Err(Error::Stopping)), "{:?}", copied.map(|it| it.results));
}
