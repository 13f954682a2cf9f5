//! Barriers: nothing passes them that would break what they name.

use super::*;

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
