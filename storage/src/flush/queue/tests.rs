//! The queue in stories, and under the simulation of `sim.rs`.

use super::*;
use crate::flush::contract::{FlushKind, Loaded, StaleTransfer, Started, UploadPlace};
use crate::flush::testing::{Change, ModelRows};
use crate::origin::{ErrorClass, Landing};

mod barriers;
mod fence;
mod seeds;
mod trouble;

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
            origin_root: "s3://origin-1".to_owned(),
            origin_prefix: "p/".to_owned(),
            tells_age: true,
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
fn the_age_of_a_mount_is_that_of_its_oldest_change_that_is_not_set_aside() {
    let mut story = Story::new();
    assert_eq!(story.queue.waits_since_ms(MOUNT), None);
    let first = story.put("a");
    story.now += 10;
    story.put("b");
    story.now += 10;
    // Stands for the change before it, too.
    story.put("a");
    assert_eq!(story.queue.waits_since_ms(MOUNT), Some(10_000));
    let row = RowId { bucket: BUCKET, key: Bytes::from_static(b"a"), version: Version(first.0 + 2) };
    let parked = story.rows.park(row.clone(), Some("no".to_owned()));
    story.queue.observe(parked);
    assert_eq!(story.queue.waits_since_ms(MOUNT), Some(10_010));
    story.reload(None);
    assert_eq!(story.queue.waits_since_ms(MOUNT), Some(10_010));
    // It waited for a hand: its time counts from now on.
    story.now += 500;
    let started = story.starts();
    story.rows.park(row.clone(), None);
    story.queue.observe(FlushEvent::Parked { row, reason: None, at_ms: story.now });
    for start in started.into_iter().chain(story.starts()) {
        story.done(&start);
        let left = story.queue.waits_since_ms(MOUNT);
        assert!(left.is_none_or(|since_ms| since_ms == 10_520), "{left:?}");
    }
    assert_eq!(story.queue.waits_since_ms(MOUNT), None);
    assert_eq!(story.queue.waits_since_ms(MountId(99)), None);
}

#[test]
fn what_replaces_a_change_that_was_set_aside_does_not_inherit_its_age() {
    let mut story = Story::new();
    let version = story.put("a");
    let row = RowId { bucket: BUCKET, key: Bytes::from_static(b"a"), version };
    let parked = story.rows.park(row, Some("no".to_owned()));
    story.queue.observe(parked);
    story.now += 10_000;
    story.put("a");
    assert_eq!(story.queue.waits_since_ms(MOUNT), Some(20_000));
    // A wait for the first change is one for the second, all the same.
    assert_eq!(story.queue.oldest_since_ms(), Some(10_000));
}

#[test]
fn a_change_behind_one_that_is_set_aside_says_so() {
    let mut story = Story::new();
    story.put("old");
    let version = story.barrier("manifest");
    story.delete("old");
    assert!(!story.queue.waits_for_parked(MOUNT));
    let first = story.start_one();
    story.done(&first);
    let row = RowId { bucket: BUCKET, key: Bytes::from_static(b"manifest"), version };
    let parked = story.rows.park(row, Some("no".to_owned()));
    story.queue.observe(parked);
    assert!(story.starts().is_empty() && story.queue.waits_for_parked(MOUNT));
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
