//! Failures: how long a row waits, when it is set aside, when a mount is.

use super::*;

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
fn the_ladders_follow_the_configured_scale() {
    let config = QueueConfig { retry_ms: (20, 300), ..QueueConfig::default() };
    assert_eq!((config.ladder(FAST), config.ladder(SLOW)), ((20, 300), (300, 300)));
    assert_eq!((QueueConfig::default().ladder(FAST), QueueConfig::default().ladder(SLOW)), (FAST, SLOW));
}
