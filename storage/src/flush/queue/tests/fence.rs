//! What may still be on its way, and what is asked before anything else goes.

use super::*;

#[test]
fn an_unknown_outcome_fences_the_key_then_asks_then_goes_on() {
    let mut story = Story::new();
    story.put("a");
    let start = story.start_one();
    assert_eq!(story.fail(&start, ErrorClass::Network, Landing::Unknown), None);
    assert_eq!(story.state("a"), RowState::Fenced { until_ms: 10_000 + 1_000 + 100 });
    story.put("other");
    assert_eq!(story.started_keys(), ["other"], "it holds back nobody else");
    let head = story.wait_for_start();
    assert_eq!((head.work, story.now), (Work::Head, 11_100));
    story.queue.finish(head.attempt, Ended::GoOn, story.now);
    assert_eq!(story.start_one().work, Work::Write);
}

#[test]
fn a_head_that_fails_is_asked_again_before_anything_is_sent() {
    let mut story = Story::new();
    story.put("a");
    let start = story.start_one();
    story.fail(&start, ErrorClass::Network, Landing::Unknown);
    for _ in 0..3 {
        let head = story.wait_for_start();
        assert_eq!(head.work, Work::Head);
        story.fail(&head, ErrorClass::Network, Landing::NotApplied);
    }
}

#[test]
fn a_refused_condition_is_asked_about_without_a_fence() {
    let mut story = Story::new();
    story.put("a");
    let start = story.start_one();
    story.fail(&start, ErrorClass::Conflict, Landing::NotApplied);
    let head = story.wait_for_start();
    assert_eq!(head.work, Work::Head);
    assert!(story.now < 11_000, "no request is in doubt: {}", story.now);
}

#[test]
fn a_started_row_found_at_start_fences_its_key() {
    let mut story = Story::new();
    story.put("a");
    let key = Bytes::from_static(b"a");
    let started = Started { bucket: BUCKET, key, version: Version(1), deadline_ms: story.now + 500 };
    story.reload(Some(started));
    let head = story.wait_for_start();
    assert_eq!((head.work, story.now), (Work::Head, 10_600));
}

#[test]
fn a_started_row_from_a_clock_far_ahead_is_waited_for_as_long_as_an_attempt_may_last() {
    let mut story = Story::new();
    story.put("a");
    let key = Bytes::from_static(b"a");
    let started = Started { bucket: BUCKET, key, version: Version(1), deadline_ms: u64::MAX - 5 };
    story.reload(Some(started));
    story.wait_for_start();
    assert_eq!(story.now, 10_000 + 5_000 + 100);
}

/// An upload of an older version of `a`.
fn stale(version: Version, mount: MountId, tried: bool) -> StaleTransfer {
    let (key, upload_id) = (Bytes::from_static(b"a"), "u".to_owned());
    StaleTransfer { version, bucket: BUCKET, key, mount, upload_id, tried, place: None }
}

#[test]
fn an_older_upload_of_an_idle_key_is_asked_about_before_anything_is_sent() {
    let mut story = Story::new();
    let old = stale(Version(0), MOUNT, true);
    story.queue.observe(FlushEvent::Stale(old.clone()));
    assert!(!story.queue.sees_to(&old), "nobody would ask for its key");
    story.put("a");
    story.put("other");
    assert!(story.queue.sees_to(&old));
    let starts = story.starts();
    assert_eq!(starts.iter().map(|start| start.work).collect::<Vec<_>>(), [Work::Head, Work::Write]);
    // As long as it is not gone, an answer is not enough.
    story.queue.finish(starts[0].attempt, Ended::GoOn, story.now);
    let again = story.start_one();
    assert_eq!(again.work, Work::Head);
    story.queue.finish(again.attempt, Ended::AskAgain { after_ms: 700 }, story.now);
    assert!(matches!(story.state("a"), RowState::Waits { until_ms: 10_700, .. }));
    let head = story.wait_for_start();
    assert_eq!((head.work, story.now), (Work::Head, 10_700));
    story.queue.observe(FlushEvent::GivenUp(old.clone()));
    story.queue.finish(head.attempt, Ended::GoOn, story.now);
    assert_eq!(story.start_one().work, Work::Write);
    assert!(!story.queue.sees_to(&old));
}

#[test]
fn an_upload_that_is_superseded_in_flight_is_asked_about_at_its_end_or_after_its_fence() {
    for landing in [Landing::NotApplied, Landing::Unknown] {
        let mut story = Story::new();
        let first = story.put("a");
        let start = story.start_one();
        story.put("a");
        let old = stale(first, MOUNT, true);
        story.queue.observe(FlushEvent::Stale(old.clone()));
        assert!(story.starts().is_empty() && story.queue.sees_to(&old));
        story.fail(&start, ErrorClass::ServerError, landing);
        let head = story.wait_for_start();
        assert_eq!((head.work, head.version), (Work::Head, Version(2)));
        let fenced = landing == Landing::Unknown;
        assert_eq!(story.now >= 11_100, fenced, "{landing:?}: {}", story.now);
    }
}

#[test]
fn an_older_upload_behind_a_row_that_is_set_aside_is_left_to_others() {
    let mut story = Story::new();
    let old = stale(Version(0), MOUNT, true);
    story.queue.observe(FlushEvent::Stale(old.clone()));
    let version = story.put("a");
    assert!(story.queue.sees_to(&old));
    let row = RowId { bucket: BUCKET, key: Bytes::from_static(b"a"), version };
    story.queue.observe(FlushEvent::Parked { row: row.clone(), reason: Some("full".to_owned()), at_ms: 0 });
    assert!(!story.queue.sees_to(&old));
    story.queue.observe(FlushEvent::GivenUp(old));
    story.queue.observe(FlushEvent::Parked { row, reason: None, at_ms: 0 });
    assert_eq!(story.start_one().work, Work::Head, "nobody has looked since");
}

#[test]
fn an_older_upload_found_at_start_is_asked_about() {
    let mut story = Story::new();
    story.put("a");
    let old = stale(Version(0), MOUNT, true);
    let mut load = QueueLoad::new(story.settings, vec![story.mount.clone()], 7, story.now);
    load.push(Loaded::Stale(old));
    story.rows.load(&mut |loaded| load.push(loaded));
    story.queue = load.finish();
    story.queue.set_mount_ready(MOUNT, Ok(()));
    assert_eq!(story.start_one().work, Work::Head);
}

#[test]
fn an_older_upload_of_another_mount_at_the_same_place_is_asked_about() {
    let at = |root: &str, key: &str| {
        let place = UploadPlace { root: root.to_owned(), key: key.to_owned() };
        StaleTransfer { place: Some(place), ..stale(Version(0), MountId(77), true) }
    };
    for (old, work) in [
        (at("s3://origin-1", "p/a"), Work::Head),
        (at("s3://origin-1", "q/a"), Work::Write),
        (at("s3://origin-2", "p/a"), Work::Write),
    ] {
        let mut story = Story::new();
        story.put("a");
        story.queue.observe(FlushEvent::Stale(old.clone()));
        assert_eq!(story.start_one().work, work, "{old:?}");
    }
}

#[test]
fn an_older_upload_that_cannot_become_the_object_holds_nothing_up() {
    for old in [stale(Version(0), MOUNT, false), stale(Version(0), MountId(77), true)] {
        let mut story = Story::new();
        story.put("a");
        story.queue.observe(FlushEvent::Stale(old.clone()));
        assert!(!story.queue.sees_to(&old));
        assert_eq!(story.start_one().work, Work::Write);
    }
}

#[test]
fn a_late_flushed_of_an_older_version_keeps_the_row_and_its_fence() {
    let mut story = Story::new();
    story.put("a");
    let key = Bytes::from_static(b"a");
    let started =
        Started { bucket: BUCKET, key: key.clone(), version: Version(1), deadline_ms: story.now + 500 };
    story.reload(Some(started));
    let old =
        Flushed { bucket: BUCKET, key, version: Version(0), mount: None, origin_etag: Some("e".to_owned()) };
    story.queue.observe(FlushEvent::Flushed(old));
    assert_eq!(story.state("a"), RowState::Fenced { until_ms: 10_600 });
}

#[test]
fn a_look_that_tells_of_an_older_version_says_nothing_of_those_between() {
    let mut story = Story::new();
    let first = story.put("k");
    let start = story.start_one();
    story.fail(&start, ErrorClass::Network, Landing::Unknown);
    let second = story.put("k");
    let look = story.wait_for_start();
    assert_eq!(look.version, second);
    story.put("k");
    let (key, origin_etag) = (look.key.clone(), Some("e".to_owned()));
    let flushed = Flushed { bucket: BUCKET, key, version: first, mount: Some(MOUNT), origin_etag };
    let event = story.rows.flushed(flushed);
    story.queue.observe(event);
    assert_eq!(story.queue.pending(second, Some(&[(BUCKET, look.key)])).rows, 1, "it has not arrived");
}
