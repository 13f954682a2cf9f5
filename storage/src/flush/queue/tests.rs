//! The queue in stories, and under the simulation of `sim.rs`.

use super::sim::{Plan, Sabotage, play};
use super::*;
use crate::flush::contract::{FlushKind, Loaded, StaleTransfer, Started};
use crate::flush::testing::{Change, ModelRows};
use crate::origin::{ErrorClass, Landing};

const BUCKET: BucketId = BucketId(1);
const MOUNT: MountId = MountId(BUCKET.0);

/// A queue with one ready mount, the rows behind it, and a clock.
struct Story {
    queue: FlushQueue,
    settings: QueueConfig,
    mount: QueueMount,
    rows: ModelRows,
    version: u64,
    now: u64,
}

impl Story {
    fn new() -> Story {
        Story::with(|_| {}, |_| {})
    }

    fn with(config: impl Fn(&mut QueueConfig), mount: impl Fn(&mut QueueMount)) -> Story {
        let mut settings = QueueConfig {
            concurrency: 4,
            bytes_in_flight_max: 1000,
            margin_ms: 100,
            attempt_ms_max: 5_000,
            ..QueueConfig::default()
        };
        config(&mut settings);
        let mut spec = QueueMount {
            id: MOUNT,
            bucket: BUCKET,
            prefix: Bytes::new(),
            fifo: false,
            min_interval_ms: 0,
            read_only: false,
        };
        mount(&mut spec);
        let mut queue = FlushQueue::new(settings, vec![spec.clone()], 7);
        queue.set_mount_ready(MOUNT, Ok(()));
        Story { queue, settings, mount: spec, rows: ModelRows::default(), version: 0, now: 10_000 }
    }

    /// Builds the queue anew from the rows, as after a restart.
    fn reload(&mut self, started: Option<Started>) {
        let mut load = QueueLoad::new(self.settings, vec![self.mount.clone()], 7, self.now);
        self.rows.load(&mut |loaded| load.push(loaded));
        started.into_iter().for_each(|started| load.push(Loaded::Started(started)));
        self.queue = load.finish();
        self.queue.set_mount_ready(MOUNT, Ok(()));
    }

    fn change(&mut self, key: &'static str, kind: FlushKind, barrier: bool) -> Version {
        self.version += 1;
        let (version, wins) = (Version(self.version), !barrier);
        let change = Change { version, kind, barrier, wins, stamp_ms: self.now, bytes: 100 };
        let (event, stale) = self.rows.change((BUCKET, Bytes::from_static(key.as_bytes())), change);
        [event].into_iter().chain(stale).for_each(|event| self.queue.observe(event));
        change.version
    }

    fn put(&mut self, key: &'static str) -> Version {
        self.change(key, FlushKind::Put, false)
    }

    fn delete(&mut self, key: &'static str) -> Version {
        self.change(key, FlushKind::Delete, false)
    }

    fn barrier(&mut self, key: &'static str) -> Version {
        self.change(key, FlushKind::Put, true)
    }

    /// Everything that starts now.
    fn starts(&mut self) -> Vec<Start> {
        std::iter::from_fn(|| self.queue.next_start(self.now)).collect()
    }

    /// The keys of everything that starts now.
    fn started_keys(&mut self) -> Vec<String> {
        self.starts().iter().map(|start| String::from_utf8_lossy(&start.key).into_owned()).collect()
    }

    fn start_one(&mut self) -> Start {
        let mut starts = self.starts();
        assert_eq!(starts.len(), 1, "{starts:?}");
        starts.remove(0)
    }

    fn done(&mut self, start: &Start) {
        let origin_etag = (start.kind == FlushKind::Put).then(|| "e".to_owned());
        let flushed = Flushed {
            bucket: start.bucket,
            key: start.key.clone(),
            version: start.version,
            mount: Some(start.mount),
            origin_etag,
        };
        let event = self.rows.flushed(flushed);
        self.queue.observe(event);
        assert_eq!(self.queue.finish(start.attempt, Ended::Done, self.now), None);
    }

    fn fail(&mut self, start: &Start, class: ErrorClass, landing: Landing) -> Option<ParkOrder> {
        let ended =
            Ended::Failed { class, landing, retry_after_ms: None, alive_ms: 1_000, message: "no".to_owned() };
        self.queue.finish(start.attempt, ended, self.now)
    }

    fn state(&self, key: &str) -> RowState {
        self.queue.rows_of(BUCKET, key.as_bytes())[0].state.clone()
    }

    /// Lets time pass until something starts.
    fn wait_for_start(&mut self) -> Start {
        for _ in 0..100 {
            if let Some(start) = self.queue.next_start(self.now) {
                return start;
            }
            let wake = self.queue.wake_at().expect("something is to come");
            assert!(wake > self.now, "wakes at {wake}, it is {}", self.now);
            self.now = wake;
        }
        panic!("nothing starts: {:?}", self.queue.list(false, 10));
    }
}

#[test]
fn rows_go_oldest_first_and_no_more_at_once_than_allowed() {
    let mut story = Story::new();
    for key in ["c", "a", "d", "b", "e", "f"] {
        story.put(key);
    }
    assert_eq!(story.started_keys(), ["c", "a", "d", "b"]);
    assert_eq!((story.queue.in_flight(), story.queue.len(), story.queue.bytes()), (4, 6, 600));
}

#[test]
fn bytes_in_flight_are_bounded_but_one_attempt_always_may_start() {
    let mut story = Story::with(|config| config.bytes_in_flight_max = 50, |_| {});
    story.put("a");
    story.put("b");
    let start = story.start_one();
    story.done(&start);
    assert_eq!(story.started_keys(), ["b"]);
}

#[test]
fn a_newer_version_waits_for_the_one_in_flight_and_ends_its_wait() {
    let mut story = Story::new();
    let first = story.put("a");
    let start = story.start_one();
    let second = story.put("a");
    let third = story.put("a");
    assert!(story.starts().is_empty(), "one request per key");
    assert_eq!(story.queue.pending(first, None).rows, 1);
    story.done(&start);
    assert_eq!(story.queue.pending(first, None).rows, 0, "the first change is there");
    assert_eq!(story.queue.pending(second, None).rows, 1, "the second goes with the third");
    assert_eq!(story.start_one().version, third);
}

#[test]
fn a_change_that_keeps_being_replaced_does_not_lose_its_place() {
    let mut story = Story::with(|config| config.concurrency = 1, |_| {});
    story.put("hot");
    story.put("cold");
    story.put("hot");
    assert_eq!(story.started_keys(), ["hot"]);
}

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
    StaleTransfer { version, bucket: BUCKET, key, mount, upload_id, tried }
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
    story.queue.observe(FlushEvent::Parked { row: row.clone(), reason: Some("full".to_owned()) });
    assert!(!story.queue.sees_to(&old));
    story.queue.observe(FlushEvent::GivenUp(old));
    story.queue.observe(FlushEvent::Parked { row, reason: None });
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
fn a_queue_built_at_once_decides_like_one_that_grew() {
    let mut story = Story::with(|config| config.concurrency = 100, |_| {});
    for key in ["d1", "d2", "manifest"] {
        story.put(key);
    }
    for start in story.starts() {
        story.done(&start);
    }
    story.put("d2");
    let parked = story.put("stuck");
    let row = RowId { bucket: BUCKET, key: Bytes::from_static(b"stuck"), version: parked };
    let event = story.rows.park(row, Some("why".to_owned()));
    story.queue.observe(event);
    story.barrier("manifest");
    story.delete("d1");
    story.put("d3");
    story.put("d2");
    let shown = |queue: &FlushQueue| {
        queue.list(false, 100).into_iter().map(|row| (row.key, row.version, row.state)).collect::<Vec<_>>()
    };
    let grown = shown(&story.queue);
    story.reload(None);
    assert_eq!(shown(&story.queue), grown);
    assert_eq!((story.queue.len(), story.queue.parked_len()), (6, 1));
    assert_eq!(story.started_keys(), ["d2", "d3"]);
}

#[test]
fn events_told_twice_change_nothing() {
    let mut story = Story::new();
    story.put("a");
    story.put("a");
    let start = story.start_one();
    story.done(&start);
    assert!(story.queue.is_empty());
    let row = |version, replaces| FlushEvent::Row {
        row: FlushRow {
            bucket: BUCKET,
            key: Bytes::from_static(b"a"),
            version: Version(version),
            kind: FlushKind::Put,
            barrier: false,
            overwrite: false,
            blind: false,
            stamp_ms: 0,
            bytes: 100,
            parked: None,
        },
        replaces,
    };
    // What a queue sees that was loaded in the middle of these events.
    story.queue.observe(row(1, None));
    story.queue.observe(row(2, Some(Version(1))));
    story.queue.observe(row(2, Some(Version(1))));
    assert_eq!((story.queue.len(), story.queue.bytes()), (1, 100));
    assert_eq!(
        story.queue.pending(Version(1), None).rows,
        1,
        "a wait for the first change waits for the second"
    );
    let flushed = Flushed {
        bucket: BUCKET,
        key: Bytes::from_static(b"a"),
        version: Version(2),
        mount: None,
        origin_etag: Some("e".to_owned()),
    };
    story.queue.observe(FlushEvent::Flushed(flushed.clone()));
    story.queue.observe(FlushEvent::Flushed(flushed));
    assert_eq!((story.queue.len(), story.queue.bytes()), (0, 0));
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
fn the_manifest_of_pitfall_22_is_never_overtaken() {
    let mut story = Story::new();
    for key in ["d1", "manifest"] {
        story.put(key);
    }
    for start in story.starts() {
        story.done(&start);
    }
    let new_data = story.put("d2");
    story.barrier("manifest");
    story.delete("d1");
    let late_key = story.put("d3");
    let first = story.starts();
    assert_eq!(first.iter().map(|s| s.version).collect::<Vec<_>>(), [new_data, late_key]);
    assert!(matches!(story.state("d1"), RowState::BehindBarrier { .. }));
    story.done(&first[0]);
    let manifest = story.start_one();
    assert_eq!(manifest.key, "manifest");
    assert!(story.starts().is_empty(), "the delete waits until the manifest is confirmed");
    story.done(&manifest);
    assert_eq!(story.started_keys(), ["d1"]);
}

#[test]
fn a_superseded_barrier_still_goes_before_what_came_between() {
    let mut story = Story::with(|config| config.concurrency = 1, |_| {});
    story.put("d1");
    let start = story.start_one();
    story.done(&start);
    story.barrier("manifest");
    story.delete("d1");
    story.barrier("manifest");
    let mut order = Vec::new();
    for _ in 0..3 {
        let start = story.start_one();
        order.push((String::from_utf8_lossy(&start.key).into_owned(), start.version.0));
        story.done(&start);
    }
    assert_eq!(order, [("manifest".to_owned(), 2), ("d1".to_owned(), 3), ("manifest".to_owned(), 4)]);
}

#[test]
fn a_parked_row_holds_back_only_the_barriers_behind_it_and_they_say_so() {
    let mut story = Story::new();
    let bad = story.put("bad");
    let bad_start = story.start_one();
    let order = story.fail(&bad_start, ErrorClass::TooLarge, Landing::NotApplied);
    assert_eq!(order.as_ref().map(|order| order.row.version), Some(bad), "parked at once");
    let row = order.map(|order| order.row).unwrap();
    let event = story.rows.park(row.clone(), Some("too large".to_owned()));
    story.queue.observe(event);
    story.put("fine");
    story.barrier("manifest");
    story.delete("fine2");
    assert_eq!(story.started_keys(), ["fine"]);
    let held = RowState::BehindOlderRows { oldest: bad, parked: Some("too large".to_owned()) };
    assert_eq!(story.state("bad"), RowState::Parked { reason: "too large".to_owned() });
    // "fine" is older as well, but the reason to show is the oldest row.
    assert_eq!(story.state("manifest"), held);
    assert!(matches!(story.state("fine2"), RowState::BehindBarrier { .. }));
    assert!(!story.queue.settled(Version(u64::MAX)));
    let (event, _) = story.rows.abandon(row);
    story.queue.observe(event);
    assert_eq!(story.queue.parked_len(), 0);
}

#[test]
fn fifo_sends_one_row_at_a_time_in_order() {
    let mut story = Story::with(|_| {}, |mount| mount.fifo = true);
    for key in ["b", "a", "c"] {
        story.put(key);
    }
    for key in ["b", "a", "c"] {
        let start = story.start_one();
        assert_eq!(start.key, key);
        story.done(&start);
    }
}

#[test]
fn a_mount_that_is_not_ready_keeps_its_rows_with_the_reason() {
    let mut story = Story::new();
    story.queue.set_mount_ready(MOUNT, Err("origin prefix s3://b/p is not empty".to_owned()));
    story.put("a");
    assert!(story.starts().is_empty());
    assert_eq!(
        story.state("a"),
        RowState::MountNotReady { reason: "origin prefix s3://b/p is not empty".to_owned() }
    );
    story.queue.set_mount_ready(MOUNT, Ok(()));
    assert_eq!(story.started_keys(), ["a"]);
}

#[test]
fn a_key_under_no_mount_waits_and_says_so() {
    let mut story = Story::with(|_| {}, |mount| mount.prefix = Bytes::from_static(b"photos/"));
    story.put("elsewhere");
    story.put("photos/1");
    assert_eq!(story.started_keys(), ["photos/1"]);
    let RowState::MountNotReady { reason } = story.state("elsewhere") else { panic!() };
    assert_eq!(reason, "no mount covers the key");
}

#[test]
fn three_keys_failing_in_a_row_take_the_mount_down_to_single_trials() {
    let mut story = Story::new();
    for key in ["a", "b", "c", "d", "e"] {
        story.put(key);
    }
    for start in story.starts().iter().take(3) {
        story.fail(start, ErrorClass::Network, Landing::NotApplied);
    }
    assert!(matches!(story.queue.mount_health(MOUNT), Some(MountHealth::Down { .. })));
    assert!(story.starts().is_empty(), "no row is tried for its own sake");
    let trial = story.wait_for_start();
    assert!(story.starts().is_empty(), "one trial at a time");
    story.done(&trial);
    assert_eq!(story.queue.mount_health(MOUNT), Some(MountHealth::Up));
}

#[test]
fn one_failing_key_does_not_take_the_mount_down() {
    let mut story = Story::new();
    story.put("bad");
    for _ in 0..10 {
        let start = story.wait_for_start();
        assert_eq!(story.fail(&start, ErrorClass::ServerError, Landing::NotApplied), None);
    }
    assert_eq!(story.queue.mount_health(MOUNT), Some(MountHealth::Up));
    story.put("good");
    assert_eq!(story.started_keys(), ["good"]);
}

#[test]
fn a_key_that_fails_while_others_succeed_is_parked_in_the_end() {
    let mut story = Story::new();
    story.put("bad");
    let mut parked = None;
    let mut failures = 0;
    while parked.is_none() {
        let start = story.wait_for_start();
        assert_eq!(start.key, "bad");
        parked = story.fail(&start, ErrorClass::Auth, Landing::NotApplied);
        failures += 1;
        story.put("good");
        let good = story.start_one();
        story.done(&good);
        assert!(failures < 100);
    }
    assert_eq!(failures, 21, "the first failure has seen no success since");
    assert!(parked.unwrap().reason.contains("auth: no"));
}

#[test]
fn a_key_that_fails_behind_fences_is_parked_after_the_head() {
    let mut story = Story::new();
    story.put("bad");
    for _ in 0..8 {
        let write = story.wait_for_start();
        assert_eq!(write.work, Work::Write);
        assert_eq!(story.fail(&write, ErrorClass::Other, Landing::Unknown), None);
        let head = story.wait_for_start();
        assert_eq!(head.work, Work::Head);
        let order = story.queue.finish(head.attempt, Ended::GoOn, story.now);
        if let Some(order) = order {
            assert!(order.reason.contains("8 attempts"), "{}", order.reason);
            return;
        }
    }
    panic!("never parked");
}

#[test]
fn an_origin_that_asks_to_wait_is_left_alone_as_long() {
    let mut story = Story::new();
    story.put("a");
    let start = story.start_one();
    let ended = Ended::Failed {
        class: ErrorClass::Throttled,
        landing: Landing::NotApplied,
        retry_after_ms: Some(7_000),
        alive_ms: 0,
        message: "slow down".to_owned(),
    };
    story.queue.finish(start.attempt, ended, story.now);
    story.put("b");
    story.wait_for_start();
    assert_eq!(story.now, 17_000);
}

#[test]
fn an_entry_that_has_nothing_left_is_freed_after_its_interval() {
    let mut story = Story::with(|_| {}, |mount| mount.min_interval_ms = 1_000);
    story.put("a");
    let start = story.start_one();
    story.done(&start);
    assert_eq!(story.queue.wake_at(), Some(11_000));
    story.now = 11_000;
    assert!(story.starts().is_empty());
    assert_eq!((story.queue.wake_at(), story.queue.free.len()), (None, 1));
}

#[test]
fn a_report_of_an_attempt_that_is_over_is_ignored() {
    let mut story = Story::new();
    story.put("a");
    let start = story.start_one();
    story.done(&start);
    story.put("a");
    let second = story.wait_for_start();
    assert_eq!(story.queue.finish(start.attempt, Ended::Done, story.now), None);
    assert_eq!(story.queue.in_flight(), 1);
    story.done(&second);
    assert!(story.queue.is_empty());
}

#[test]
fn a_key_takes_few_bytes() {
    // With three sets of 16 bytes and a hash slot this stays near 300 bytes a row.
    assert!(size_of::<Option<KeyEntry>>() <= 176, "{}", size_of::<Option<KeyEntry>>());
}

#[test]
#[ignore = "prints what a million rows cost"]
fn a_million_rows() {
    let story = Story::new();
    let mut load = QueueLoad::new(story.settings, vec![story.mount], 7, 1);
    let before = resident_bytes();
    let begin = std::time::Instant::now();
    for n in 0..1_000_000_u64 {
        let row = FlushRow {
            bucket: BUCKET,
            key: Bytes::from(format!("some/usual/key/{n:016x}")),
            version: Version(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20),
            kind: FlushKind::Put,
            barrier: false,
            overwrite: n % 3 == 0,
            blind: false,
            stamp_ms: n,
            bytes: 100,
            parked: None,
        };
        load.push(Loaded::Row(row));
    }
    println!("gathered in {:?}", begin.elapsed());
    let mut queue = load.finish();
    queue.set_mount_ready(MOUNT, Ok(()));
    println!("loaded in {:?}, {} bytes a row", begin.elapsed(), (resident_bytes() - before) / 1_000_000);
    let begin = std::time::Instant::now();
    for _ in 0..100_000 {
        let start = queue.next_start(2).unwrap();
        queue.finish(start.attempt, Ended::Done, 2);
    }
    println!("100,000 starts and ends in {:?}", begin.elapsed());
    assert_eq!(queue.len(), 900_000);
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn plan(seed: u64) -> Plan {
    let seed_bits = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Plan {
        seed,
        conditions: seed_bits & 1 == 1,
        foreign: seed_bits & 7 == 7,
        existing: false,
        fifo: seed_bits & 8 == 8,
        sabotage: Sabotage::default(),
    }
}

/// Plays seeds with a rule taken away until one complains in the expected words.
fn must_complain(sabotage: Sabotage, words: &str) {
    let mut others = Vec::new();
    for seed in 0..200 {
        match play(Plan { sabotage, ..plan(seed) }) {
            Err(complaint) if complaint.contains(words) => return,
            Err(complaint) => others.push(complaint),
            Ok(()) => {}
        }
    }
    panic!("no seed complains of \"{words}\" with {sabotage:?}; others: {others:?}");
}

#[test]
fn no_schedule_breaks_the_origin() {
    for seed in 0..400 {
        if let Err(complaint) = play(plan(seed)) {
            panic!("seed {seed} {:?}: {complaint}", plan(seed));
        }
    }
}

/// The same over data that was there before, with clients that know nothing of it.
#[test]
fn no_schedule_of_blind_rows_breaks_the_origin() {
    for seed in 0..400 {
        let plan = Plan { existing: true, ..plan(seed) };
        if let Err(complaint) = play(plan) {
            panic!("seed {seed} {plan:?}: {complaint}");
        }
    }
}

#[test]
fn blind_rows_that_are_judged_like_others_are_set_aside() {
    let mut complaints = (0..50).filter_map(|seed| {
        let sabotage = Sabotage { no_blindness: true, ..Sabotage::default() };
        play(Plan { existing: true, sabotage, ..plan(seed) }).err()
    });
    assert!(complaints.any(|complaint| complaint.contains("a blind row was set aside")));
}

#[test]
fn without_the_fence_the_origin_goes_back_under_blind_rows_too() {
    let mut complaints = (0..200).filter_map(|seed| {
        let sabotage = Sabotage { no_fence: true, ..Sabotage::default() };
        play(Plan { existing: true, sabotage, ..plan(seed) }).err()
    });
    assert!(complaints.any(|complaint| complaint.contains("the origin went back")));
}

#[test]
#[ignore = "long form: minutes; `FOREBAY_SEEDS` sets the number"]
fn no_schedule_breaks_the_origin_in_many_seeds() {
    let seeds = std::env::var("FOREBAY_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40_000);
    for seed in 1_000..1_000 + seeds {
        let plan = Plan { existing: seed % 2 == 0, ..plan(seed) };
        if let Err(complaint) = play(plan) {
            panic!("seed {seed} {plan:?}: {complaint}");
        }
    }
}

#[test]
fn without_the_fence_the_origin_goes_back() {
    must_complain(Sabotage { no_fence: true, ..Sabotage::default() }, "the origin went back");
}

#[test]
fn with_two_requests_of_a_key_in_flight_the_origin_goes_back() {
    must_complain(Sabotage { many_in_flight: true, ..Sabotage::default() }, "the origin went back");
}

#[test]
fn without_barriers_a_manifest_arrives_before_what_it_names() {
    must_complain(Sabotage { no_barrier: true, ..Sabotage::default() }, "as a barrier before");
}

#[test]
fn without_barriers_an_overwrite_overtakes_the_manifest_that_needs_the_old_bytes() {
    must_complain(Sabotage { no_barrier: true, ..Sabotage::default() }, "overtook barrier");
}

#[test]
fn without_giving_up_older_uploads_the_origin_goes_back() {
    must_complain(Sabotage { no_abort: true, ..Sabotage::default() }, "the origin went back");
}

#[test]
fn without_the_head_a_version_that_landed_is_taken_for_a_conflict() {
    must_complain(Sabotage { no_head: true, ..Sabotage::default() }, "nothing foreign explains");
}

#[test]
fn pages_of_a_listing_hold_every_row_once() {
    let mut story = Story::new();
    for key in ["a", "b", "c", "d", "e", "f", "g"] {
        story.put(key);
    }
    let whole: Vec<Bytes> = story.queue.list(false, 100).into_iter().map(|row| row.key).collect();
    assert_eq!(whole.len(), 7);
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let (rows, next) = story.queue.page(false, after, 3);
        assert!(rows.len() == 3 || next.is_none(), "{} rows before the end", rows.len());
        paged.extend(rows.into_iter().map(|row| row.key));
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(paged, whole);
}

#[test]
fn the_ladders_follow_the_configured_scale() {
    let config = QueueConfig { retry_ms: (20, 300), ..QueueConfig::default() };
    assert_eq!((config.ladder(FAST), config.ladder(SLOW)), ((20, 300), (300, 300)));
    assert_eq!((QueueConfig::default().ladder(FAST), QueueConfig::default().ladder(SLOW)), (FAST, SLOW));
}
