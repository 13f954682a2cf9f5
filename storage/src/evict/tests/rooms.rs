//! Rounds of eviction on a simulated disk that gets full, fails, or has nothing to give.

use std::io::ErrorKind;
use std::ops::Bound;
use std::sync::atomic::Ordering::Relaxed;

use super::super::{EvictError, ROUND_EXTENTS, Round, Want, make_room};
use super::model::{Missing, RESERVE, Site, key};
use crate::blob::BlobError;
use crate::io::{Disk, Operation};
use crate::keyspace::Keyspace;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::places::Batch;
use crate::keyspace::tables::{Table, object_key};
use crate::keyspace::view::View;
use crate::mutation::{Mutation, Outcome};
use crate::object::ObjectRow;
use crate::replica::CheckpointJob;
use crate::submission::Submission;

/// Bodies of this length: twelve to a segment.
const LEN: usize = 20_000;
const BODIES: u64 = 12;
const SEGMENT: u64 = 256 << 10;

fn body(number: u64) -> Vec<u8> {
    (0..LEN).map(|at| (number as usize * 131 + at * 7 + at / 251) as u8).collect()
}

/// So many segments full of bodies that are not in the origin, the first of which lie in the first segment.
fn site(segments: u64) -> Site {
    let mut site = Site::new(1, Missing::default()).unwrap();
    site.world.borrow().disk.set_capacity(Some(1 << 40));
    for number in 0..segments * BODIES {
        site.put(number, body(number)).unwrap();
    }
    // And one that takes the tail.
    site.put(u64::MAX, body(0)).unwrap();
    site.checkpoint().unwrap();
    assert_eq!(site.shared().segments.settled().len() as u64, segments);
    site
}

/// The same, a third of each of the first ones garbage.
fn site_with_garbage(segments: u64, with_garbage: u64) -> Site {
    let mut site = site(segments);
    (0..with_garbage * BODIES)
        .filter(|number| number % 3 == 0)
        .for_each(|number| site.delete(number).unwrap());
    site.checkpoint().unwrap();
    site
}

fn frozen(site: &Site) -> CheckpointJob {
    site.world.borrow_mut().node.as_mut().unwrap().engine.maybe_freeze(true).unwrap()
}

/// Tries to checkpoint what was frozen.
fn checkpoint(site: &Site, job: &CheckpointJob) -> bool {
    match site.shared().checkpointer.run(&job.frozen, job.row) {
        Ok(()) => true,
        Err(error) => {
            assert!(error.is_full(), "{error}");
            false
        }
    }
}

fn in_use(site: &Site) -> usize {
    let segments = &site.shared().segments;
    segments.free_unused();
    segments.segments_in_use()
}

/// A round of which the checkpoint is this one.
fn round(site: &Site, wanted: Want) -> Result<Round, EvictError> {
    make_room(&site.shared(), wanted, &|_: &Batch| {
        site.checkpoint().unwrap();
        true
    })
}

/// More objects than any story has.
const ALL: usize = 10_000;
const MUCH: Want = Want::Disk(1 << 40);

#[test]
fn a_checkpoint_that_lacks_room_gives_up_what_a_round_has_copied() {
    let mut site = site_with_garbage(10, 10);
    (1000..1020).for_each(|number| site.put(number, body(number)).unwrap());
    let (before, disk) = (in_use(&site), site.world.borrow().disk.clone());
    let round = make_room(&site.shared(), MUCH, &|batch: &Batch| {
        assert!(batch.wait(Default::default()).open > 0);
        // Somebody else has filled the disk.
        disk.set_capacity(Some(disk.used()));
        let job = frozen(&site);
        assert!(!checkpoint(&site, &job), "there was room");
        assert_eq!(batch.wait(Default::default()).open, 0, "whoever waits for the round waits for ever");
        assert!(checkpoint(&site, &job), "the copies stay in the way");
        true
    });
    assert_eq!(round.unwrap(), Round::Vain);
    // The new bodies: two segments, and the tail.
    assert!(in_use(&site) <= before + 3, "{} were {before}", in_use(&site));
    site.verify(false).unwrap();
    disk.set_capacity(Some(1 << 40));
    assert_eq!(self::round(&site, MUCH).unwrap(), Round::Made);
    site.verify(false).unwrap();
}

#[test]
fn places_of_a_commit_that_failed_are_given_up_and_its_rows_are_tried_again() {
    let mut site = site_with_garbage(10, 10);
    (1000..1020).for_each(|number| site.put(number, body(number)).unwrap());
    let before = in_use(&site);
    let round = make_room(&site.shared(), MUCH, &|batch: &Batch| {
        site.world.borrow().base.fail_next_commit();
        let job = frozen(&site);
        assert!(!checkpoint(&site, &job), "it was committed");
        assert_eq!(batch.wait(Default::default()).open, 0);
        assert!(checkpoint(&site, &job));
        true
    });
    assert_eq!(round.unwrap(), Round::Vain);
    assert!(in_use(&site) <= before + 3, "{} were {before}", in_use(&site));
    site.verify(false).unwrap();
    site.world.borrow_mut().crash(true);
    site.open().unwrap();
    site.verify(false).unwrap();
    assert_eq!(self::round(&site, MUCH).unwrap(), Round::Made);
    site.verify(false).unwrap();
}

#[test]
fn copies_leave_the_room_that_the_next_checkpoint_needs() {
    let mut site = site_with_garbage(10, 10);
    (1000..1030).for_each(|number| site.put(number, body(number)).unwrap());
    let disk = site.world.borrow().disk.clone();
    disk.set_capacity(Some(disk.used() + RESERVE));
    let round = make_room(&site.shared(), MUCH, &|_: &Batch| {
        let job = frozen(&site);
        assert!(checkpoint(&site, &job), "the copies have taken its room");
        true
    });
    assert_eq!(round.unwrap(), Round::Made, "there was room for some copies");
    site.verify(false).unwrap();
}

#[test]
fn a_copy_that_lacks_space_at_any_write_leaves_nothing_behind_and_is_tried_again_in_vain_at_most_once() {
    for nth in 1..4 {
        let site = site_with_garbage(4, 1);
        let before = in_use(&site);
        let disk = site.world.borrow().disk.clone();
        disk.fail_nth(Operation::Write, nth, ErrorKind::StorageFull);
        let failed = round(&site, MUCH).unwrap();
        disk.clear_faults();
        if failed != Round::Made {
            assert_eq!((failed, in_use(&site)), (Round::Barren, before), "write {nth}");
            assert!(!site.shared().status.checkpoint_wanted.load(Relaxed), "nothing was queued");
            assert_eq!(round(&site, MUCH).unwrap(), Round::Made, "write {nth}");
        }
        assert_eq!(round(&site, MUCH).unwrap(), Round::Barren, "write {nth}");
        assert!(in_use(&site) <= before);
        site.verify(false).unwrap();
    }
}

#[test]
fn what_the_next_checkpoint_frees_by_itself_is_waited_for_and_not_counted() {
    let mut site = site(3);
    (0..BODIES).for_each(|number| site.delete(number).unwrap());
    let before = in_use(&site);
    for wanted in [MUCH, Want::Capacity(1 << 30)] {
        let round = make_room(&site.shared(), wanted, &|_: &Batch| panic!("nothing is queued"));
        assert_eq!(round.unwrap(), Round::Vain);
        assert!(site.shared().status.checkpoint_wanted.load(Relaxed));
    }
    site.checkpoint().unwrap();
    assert_eq!(in_use(&site), before - 1);
    assert_eq!(round(&site, MUCH).unwrap(), Round::Barren);
}

/// What a node does by itself, round by round, until it wants no more or gets no further.
fn make_all_room(site: &Site) -> usize {
    let shared = site.shared();
    let wait = |_: &Batch| {
        site.checkpoint().unwrap();
        true
    };
    for rounds in 0..1000 {
        // A look at the disk as it is now.
        shared.disk_room(true);
        if super::super::round(&shared, &wait).unwrap() != Round::Made {
            return rounds;
        }
    }
    panic!("rounds are made for ever");
}

#[test]
fn deletes_alone_make_room_on_a_disk_that_its_own_writes_have_filled() {
    // Less than the reserve is left: the log of the deletes, and what they have made of the tables.
    for room in [SEGMENT, SEGMENT / 2] {
        let mut site = site(24);
        let disk = site.world.borrow().disk.clone();
        disk.set_capacity(Some(disk.used() + room));
        // One in twelve stays, so that no segment becomes free by itself.
        let gone = (0..24 * BODIES).filter(|number| number % BODIES != number / BODIES % BODIES);
        gone.for_each(|number| site.delete(number).unwrap());
        site.checkpoint().unwrap();
        assert!(site.shared().disk_room(true).unwrap().0 <= room, "room came without a copy");
        let rounds = make_all_room(&site);
        let (room, reserve) = site.shared().disk_room(true).unwrap();
        assert!(room >= reserve + 2 * SEGMENT, "{rounds} rounds, {} of {reserve} KiB", room >> 10);
        site.verify(false).unwrap();
        for number in 1000..1050 {
            site.put(number, body(number)).unwrap();
        }
        site.checkpoint().unwrap();
        site.verify(false).unwrap();
    }
}

#[test]
fn segments_of_which_little_is_live_are_emptied_before_anybody_wants_room() {
    let mut site = site(24);
    // All of it may be given up, and nothing is.
    site.flush(ALL).unwrap();
    let gone = (0..24 * BODIES).filter(|number| number % BODIES != number / BODIES % BODIES);
    gone.for_each(|number| site.delete(number).unwrap());
    site.flush(ALL).unwrap();
    site.checkpoint().unwrap();
    let shared = site.shared();
    let wait = |_: &Batch| {
        site.checkpoint().unwrap();
        true
    };
    let dead = || shared.segments.named_bytes() - shared.checkpointer.live_bytes();
    let before = dead();
    let mut rounds = 0;
    while super::super::round(&shared, &wait).unwrap() == Round::Compacted {
        rounds += 1;
        assert!(rounds < 100, "{} of {before} bytes are dead", dead());
    }
    assert!(before > 20 * SEGMENT && rounds > 1, "{before} bytes were dead, {rounds} rounds");
    // What is borne, and the segment that is being written.
    let borne = shared.checkpointer.live_bytes() / 2 + 3 * SEGMENT;
    assert!(dead() <= borne, "{} dead bytes, {borne} are borne", dead());
    let counts = shared.evictor.counts();
    assert_eq!((counts.for_capacity, counts.for_disk, counts.compacted), (0, 0, counts.copied));
    // Each round copies what one segment takes, at most.
    assert!(counts.copied > 0 && counts.copied <= rounds * SEGMENT);
    assert_eq!(shared.fills.counts().blocks, 0);
    site.verify(false).unwrap();
    assert_eq!(shared.fills.counts().blocks, 0, "some of it had gone");
    // Nothing has changed: nobody looks again.
    let reads = || site.world.borrow().disk.metrics().of(Operation::Read).calls.load(Relaxed);
    let before = reads();
    assert_eq!((super::super::round(&shared, &wait).unwrap(), reads()), (Round::Idle, before));
}

#[test]
fn padding_at_the_end_of_segments_is_not_copied_about() {
    // Files with their whole length on the disk: a use before this one filled them.
    let mut site = site(12);
    (0..12 * BODIES).for_each(|number| site.delete(number).unwrap());
    site.checkpoint().unwrap();
    // Four to a segment, which leaves a fifth of it.
    for number in 0..16 {
        site.put(number, [body(number), body(number), vec![7; 12_000]].concat()).unwrap();
    }
    site.checkpoint().unwrap();
    let shared = site.shared();
    let files: Vec<u64> =
        shared.segments.settled().iter().map(|it| shared.segments.file_bytes(it.0)).collect();
    assert!(files.iter().filter(|len| **len > SEGMENT / 10 * 9).count() >= 2, "{files:?}");
    assert_eq!(round(&site, MUCH).unwrap(), Round::Barren);
    assert_eq!(shared.evictor.counts().copied, 0);
}

#[test]
fn a_segment_that_cannot_be_read_is_passed_over() {
    for nth in 1..6 {
        let site = site_with_garbage(6, 6);
        let disk = site.world.borrow().disk.clone();
        // The look at a segment, or one of the bodies in it.
        disk.fail_nth(Operation::Read, nth, ErrorKind::Other);
        assert_eq!(round(&site, MUCH).unwrap(), Round::Made, "read {nth}");
        disk.clear_faults();
        site.verify(false).unwrap();
    }
}

#[test]
fn a_sync_that_fails_ends_the_round_and_the_process() {
    let site = site_with_garbage(6, 6);
    site.world.borrow().disk.fail_nth(Operation::Sync, 1, ErrorKind::Other);
    let error = round(&site, MUCH).unwrap_err();
    assert!(matches!(&error, EvictError::Blob(BlobError::SyncFailed(_))) && error.ends_round(), "{error}");
}

#[test]
fn a_round_in_vain_reads_each_segment_once_and_without_origins_none() {
    let site = site(6);
    let disk = site.world.borrow().disk.clone();
    let reads = || disk.metrics().of(Operation::Read).calls.load(Relaxed);
    for (wanted, expected) in [(MUCH, 6), (Want::Capacity(1 << 30), 6)] {
        let before = reads();
        assert_eq!(round(&site, wanted).unwrap(), Round::Barren);
        assert_eq!(reads() - before, expected, "{wanted:?}");
    }
    site.shared().fills.forget_origins();
    let before = reads();
    assert_eq!(round(&site, Want::Capacity(1 << 30)).unwrap(), Round::Barren);
    assert_eq!(reads(), before);
}

#[test]
fn what_was_read_lately_is_spared_by_the_whole_round() {
    let mut site = site(2);
    // Half of the first segment may go.
    site.flush(BODIES as usize / 2).unwrap();
    site.checkpoint().unwrap();
    let shared = site.shared();
    let view = View::latest(&shared.keyspace);
    for number in 0..BODIES {
        let row = object_key(Table::Object, site.bucket, &key(number));
        let row = view.get(RowKey::encoded(&row), false, true).unwrap().unwrap();
        shared.recency.note_all(ObjectRow::from_encoded(row.unwrap()).parts().filter_map(|part| part.blob()));
    }
    drop(view);
    let wanted = Want::Capacity(1);
    assert_eq!((round(&site, wanted).unwrap(), shared.evictor.counts().for_capacity), (Round::Vain, 0));
    assert!(!shared.evictor.is_barren(), "it goes at the next look");
    assert_eq!(round(&site, wanted).unwrap(), Round::Made);
    site.verify(false).unwrap();
}

#[test]
fn a_round_ends_when_it_holds_many_changes() {
    let mut site = Site::new(1, Missing::default()).unwrap();
    let small = |number: u64| body(number)[..520].to_vec();
    for number in 0..4000 {
        site.put(number, small(number)).unwrap();
    }
    site.checkpoint().unwrap();
    site.flush(ALL).unwrap();
    site.checkpoint().unwrap();
    let queued = std::cell::Cell::new(0);
    let made = make_room(&site.shared(), Want::Capacity(1 << 40), &|batch: &Batch| {
        queued.set(batch.wait(Default::default()).open);
        site.checkpoint().unwrap();
        true
    });
    assert_eq!(made.unwrap(), Round::Made);
    let segment = SEGMENT as usize / 560;
    assert!((ROUND_EXTENTS..ROUND_EXTENTS + segment).contains(&queued.get()), "{}", queued.get());
    site.verify(false).unwrap();
}

#[test]
fn a_flush_that_is_recorded_behind_the_look_refuses_nothing() {
    let mut site = Site::new(1, Missing::default()).unwrap();
    let bucket = site.bucket;
    for (number, grouped) in [(1, false), (2, true)] {
        site.put(number, body(number)).unwrap();
        assert!(site.let_flush_slip_in(number).unwrap());
        let (name, counter) = (key(number), format!("counter-{number}"));
        let (append, count) = (
            Mutation::Append { bucket, key: &name, value: b"tail".into() },
            Mutation::IncrBy { bucket, key: counter.as_bytes(), delta: 1 },
        );
        let mut submission = Submission::new();
        if grouped {
            submission.begin_atomic(&[]);
        }
        submission.push(&count);
        let between = submission.view();
        submission.push(&append);
        submission.end_atomic();
        let mut outcomes = site.submit(submission).unwrap();
        if grouped {
            assert!(matches!(outcomes.results.remove(0), Outcome::Done(_)));
        }
        let length = Outcome::Length(LEN as u64 + 4);
        assert_eq!(outcomes.results, [Outcome::Integer(1), length], "grouped: {grouped}");
        // The view's place is still the one between the two.
        let view = outcomes.views.remove(between.0);
        let row = site.run(view.fetch(bucket, &name)).unwrap().unwrap().unwrap();
        assert_eq!(row.body_len(), LEN as u64);
        let row = site.run(view.fetch(bucket, counter.as_bytes())).unwrap().unwrap();
        assert!(row.is_some());
    }
}

#[test]
fn a_source_is_clean_again_when_what_was_built_on_it_is_gone() {
    let mut site = Site::new(1, Missing::default()).unwrap();
    let bucket = site.bucket;
    site.put(1, body(1)).unwrap();
    assert!(site.let_flush_slip_in(1).unwrap());
    let (from, to) = (key(1), key(2));
    let mut submission = Submission::new();
    let (from_bucket, to_bucket, replace) = (bucket, bucket, true);
    submission.push(&Mutation::Copy { from_bucket, from: &from, to_bucket, to: &to, replace });
    submission.push(&Mutation::Delete { bucket, key: &to });
    let results = site.submit(submission).unwrap().results;
    assert!(matches!(results[..], [Outcome::Done(_), Outcome::Done(_)]), "{results:?}");
    let shared = site.shared();
    let marks = || {
        let (from, end) = ([Table::Clean as u8], Keyspace::table_end(Table::Clean));
        View::latest(&shared.keyspace).range(Bound::Included(&from), &end, 10).unwrap().len()
    };
    let come_back = async {
        while marks() == 0 {
            tokio::task::yield_now().await;
        }
    };
    site.run(come_back).unwrap();
}
