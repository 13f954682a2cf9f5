//! Stories of staged bodies through the engine: what a checkpoint names and what a start must look for, readers
//! beside overwrites, and whose the bytes are. The names say which of PITFALLS 12, 13 and 15 a case is for.

use super::*;
use crate::blob::SegmentPin;
use crate::keyspace::base::Base;
use crate::mutation::Refusal;

fn body(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 131 + at * 7 + at / 251) as u8).collect()
}

fn world(seed: u64) -> (World, BucketId) {
    let mut world = World::new(seed);
    world.open().unwrap();
    let bucket = world.bucket();
    (world, bucket)
}

fn set<'a>(bucket: BucketId, key: &'a [u8], value: Payload<'a>) -> Mutation<'a> {
    Mutation::SetString { bucket, key, value, expiry: SetExpiry::Clear, existence: Existence::Any }
}

impl World {
    fn put(&mut self, bucket: BucketId, key: &[u8], body: &[u8]) {
        let staged = self.stage(body).unwrap();
        self.commit(bucket, key, staged);
    }

    fn commit(&mut self, bucket: BucketId, key: &[u8], staged: StagedBody) {
        let mut submission = Submission::new();
        submission.push(&set(bucket, key, staged.payload()));
        submission.carry(staged);
        let results = self.submit(submission).unwrap().results;
        assert!(matches!(results[..], [Outcome::Done(_)]), "{results:?}");
    }

    fn delete(&mut self, bucket: BucketId, key: &[u8]) {
        let mut submission = Submission::new();
        submission.push(&Mutation::Delete { bucket, key });
        self.submit(submission).unwrap();
    }

    fn lose_power(&mut self) {
        self.node = None;
        self.disk.power_cut_losing_all();
        self.open().unwrap();
    }

    fn segments(&self) -> &crate::blob::SegmentStore {
        &self.node.as_ref().unwrap().segments
    }

    /// The first blob of an object, as a view finds it.
    fn first_blob(&self, view: &View, bucket: BucketId, key: &[u8]) -> BlobId {
        let row =
            view.get(RowKey::object(Table::Object, bucket, key), true, true).unwrap().flatten().unwrap();
        let blob = RowReader::new(&row).unwrap().parts().find_map(|part| match part {
            BodyPart::Extent { blob, .. } => Some(blob),
            _ => None,
        });
        blob.expect("a blob")
    }

    fn pin(&self, view: &View, blob: BlobId) -> (crate::blob::Pointer, SegmentPin) {
        match find_blob(view, self.segments(), blob, true) {
            Ok(Some(Found::Extent(pointer, pin))) => (pointer, pin),
            _ => panic!("{blob:?} lies in no segment"),
        }
    }
}

#[test]
fn pitfall_12_a_body_that_no_checkpoint_names_is_found_by_its_extents() {
    let (mut world, bucket) = world(1);
    world.put(bucket, b"k", &body(1, 200_000));
    world.lose_power();
    assert_eq!(world.read(bucket, b"k"), Some(body(1, 200_000)));
}

#[test]
fn pitfall_12_a_body_behind_one_that_the_checkpoint_names_in_the_same_segment_is_found() {
    let (mut world, bucket) = world(2);
    world.put(bucket, b"a", &body(1, 20_000));
    world.checkpoint().unwrap();
    // The segment has a usage row now, and takes more.
    world.put(bucket, b"b", &body(2, 20_000));
    let view = View::latest(&world.node.as_ref().unwrap().keyspace);
    let segments: Vec<_> =
        [&b"a"[..], b"b"].map(|key| world.pin(&view, world.first_blob(&view, bucket, key)).0.segment).into();
    assert_eq!(segments[0], segments[1], "the case is about one segment");
    drop(view);
    world.lose_power();
    assert_eq!(world.read(bucket, b"a"), Some(body(1, 20_000)));
    assert_eq!(world.read(bucket, b"b"), Some(body(2, 20_000)));
}

#[test]
fn pitfall_12_an_upload_that_outlives_a_checkpoint_and_its_open_segment_is_found() {
    let (mut world, bucket) = world(3);
    world.put(bucket, b"a", &body(1, 20_000));
    // In the same segment, finished and not committed; then others fill it up and open the next one.
    let under_way = world.stage(&body(2, 20_000)).unwrap();
    for number in 0..8 {
        world.put(bucket, format!("fill-{number}").as_bytes(), &body(number, 60_000));
    }
    world.checkpoint().unwrap();
    world.commit(bucket, b"b", under_way);
    world.lose_power();
    assert_eq!(world.read(bucket, b"b"), Some(body(2, 20_000)));
}

#[test]
fn pitfall_12_a_checkpoint_asks_only_for_scans_of_what_it_does_not_name() {
    let (mut world, bucket) = world(4);
    for number in 0..12 {
        world.put(bucket, format!("k{number}").as_bytes(), &body(number, 100_000));
    }
    world.checkpoint().unwrap();
    let row = world.base.get(crate::keyspace::tables::SCAN_KEY).unwrap().unwrap();
    let to_scan = crate::keyspace::tables::decode_scan(&row).unwrap();
    assert_eq!(to_scan.len(), 1, "the open segment alone: {to_scan:?}");
    assert!(world.segments().segments_in_use() > 3);
}

#[test]
fn pitfall_13_a_pinned_body_reads_whole_after_overwrite_checkpoint_and_reuse() {
    let (mut world, bucket) = world(5);
    world.put(bucket, b"k", &body(1, 150_000));
    world.checkpoint().unwrap();
    let view = View::latest(&world.node.as_ref().unwrap().keyspace);
    let blob = world.first_blob(&view, bucket, b"k");
    let (pointer, pin) = world.pin(&view, blob);
    drop(view);
    world.delete(bucket, b"k");
    world.checkpoint().unwrap();
    // Enough to use every free segment again, many times.
    for round in 0..30 {
        world.put(bucket, b"other", &body(round, 200_000));
        world.checkpoint().unwrap();
        let bytes = world.segments().read(pointer, blob, 0..pointer.length, true).unwrap().unwrap();
        assert!(bytes == body(1, 150_000)[..pointer.length as usize], "round {round}");
    }
    drop(pin);
    let used = world.segments().segments_in_use();
    world.checkpoint().unwrap();
    world.segments().free_unused();
    assert!(world.segments().segments_in_use() < used, "its segment is free once the reader has left");
    assert!(matches!(world.segments().pin(pointer), Err(crate::blob::BlobError::Stale { .. })));
}

#[test]
fn pitfall_13_a_view_from_before_the_checkpoint_finds_a_body_that_it_took_over() {
    let (mut world, bucket) = world(6);
    world.put(bucket, b"k", &body(1, 30_000));
    let view = View::latest(&world.node.as_ref().unwrap().keyspace);
    let blob = world.first_blob(&view, bucket, b"k");
    world.checkpoint().unwrap();
    assert!(world.segments().staged(blob).is_none(), "the place map has forgotten it");
    let (pointer, _pin) = world.pin(&view, blob);
    assert_eq!(world.segments().read(pointer, blob, 0..30_000, true).unwrap().unwrap(), body(1, 30_000));
}

#[test]
fn pitfall_15_a_body_of_an_earlier_run_is_refused_and_its_space_free() {
    let (mut world, bucket) = world(7);
    let staged = world.stage(&body(1, 200_000)).unwrap();
    let mut late = Submission::new();
    late.push(&set(bucket, b"k", staged.payload()));
    // The process dies: nothing is given up by anybody.
    std::mem::forget(staged);
    world.node = None;
    world.replay().unwrap();
    assert!(!world.segments().staged_blobs().is_empty(), "the scan has found it");
    world.begin_run().unwrap();
    assert!(world.segments().staged_blobs().is_empty());
    assert_eq!(world.segments().segments_in_use(), 0);
    let results = world.submit(late).unwrap().results;
    assert_eq!(results, [Outcome::Refused(Refusal::Aborted)]);
    assert_eq!(world.read(bucket, b"k"), None);
}

#[test]
fn pitfall_15_a_body_whose_mutation_is_refused_or_skipped_is_given_up_when_it_is_answered() {
    let (mut world, bucket) = world(8);
    world.put(bucket, b"there", &body(1, 10_000));
    let kept = world.segments().staged_blobs();
    for _ in 0..2 {
        let staged = world.stage(&body(2, 100_000)).unwrap();
        let mut submission = Submission::new();
        submission.begin_atomic(&[Guard::VersionIs { bucket, key: b"there", version: None }]);
        submission.push(&set(bucket, b"k", staged.payload()));
        submission.end_atomic();
        submission.carry(staged);
        let results = world.submit(submission).unwrap().results;
        assert_eq!(results, [Outcome::Unmet, Outcome::Skipped]);
        assert_eq!(world.segments().staged_blobs(), kept);
    }
    assert_eq!(world.read(bucket, b"there"), Some(body(1, 10_000)));
}

#[test]
fn pitfall_15_a_body_overwritten_in_its_own_submission_lasts_for_the_view_between() {
    let (mut world, bucket) = world(9);
    let staged = world.stage(&body(1, 100_000)).unwrap();
    let mut submission = Submission::new();
    submission.push(&set(bucket, b"k", staged.payload()));
    submission.view();
    submission.push(&Mutation::Delete { bucket, key: b"k" });
    submission.carry(staged);
    let outcomes = world.submit(submission).unwrap();
    let view = &outcomes.views[0];
    let (pointer, _pin) = world.pin(view, world.first_blob(view, bucket, b"k"));
    assert_eq!(pointer.length, 70_000);
    drop(outcomes);
    world.checkpoint().unwrap();
    assert!(world.segments().staged_blobs().is_empty());
}

#[test]
fn pitfall_15_dead_bodies_free_their_segments_without_a_restart_and_after_one() {
    let (mut world, bucket) = world(10);
    let mut most = 0;
    for round in 0..40 {
        world.put(bucket, b"k", &body(round, 300_000));
        world.checkpoint().unwrap();
        most = most.max(world.disk.used());
    }
    assert!(most < 8 << 20, "{most} bytes on disk for a body of 300,000");
    world.lose_power();
    assert_eq!(world.read(bucket, b"k"), Some(body(39, 300_000)));
    world.delete(bucket, b"k");
    world.checkpoint().unwrap();
    let node = world.node.as_ref().unwrap();
    assert_eq!((node.segments.segments_in_use(), node.checkpointer.live_bytes()), (0, 0));
}
