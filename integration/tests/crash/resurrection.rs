//! F4: what was deleted stays deleted, and the bucket ends at the last version. Aim: no schedule of slow, lost or late
//! requests lets an older version or a deleted object come back, also over kill -9 in the middle. Method: the origin
//! treats the first upload of each key in one of several ways; while it is under way the key is deleted, or
//! goes through v1, v2, DELETE, v3; then every late request has its time, and the bucket and its history are judged.

use std::time::Duration;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Calls, Fault, Keys, Op, Rule, RuleId};
use forebay_integration::wait;

use crate::written::{Api, CLOUD, Clients, Written};

const LIMIT: Duration = Duration::from_secs(120);
/// Longer bodies go in parts: the short ones of these stories whole, the long ones in five.
const PART_BYTES: usize = 32 << 10;
const SHORT: usize = 2_000;
const LONG: usize = 4 * PART_BYTES + 100;

/// How long a lost request counts as alive after its deadline. The late ones arrive so long after they reached the origin:
/// when their senders have given up (attempts have 2 s), and within the fence.
const MARGIN_S: u64 = 4;
/// The same where the node starts anew meanwhile.
const MARGIN_OVER_A_START_S: u64 = 20;

/// What becomes of the upload that is under way when its key changes.
fn ways(late: Duration) -> Vec<(&'static str, Fault)> {
    vec![
        ("late", Fault::TakeLate(late)),
        ("slow", Fault::Slow(Duration::from_millis(600))),
        ("unanswered", Fault::HangAfter),
        ("reset-after", Fault::ResetAfter),
        ("reset-amid", Fault::ResetMidBody),
        ("failed", Fault::Answer(500, "InternalError")),
    ]
}

#[derive(Clone, Copy)]
struct Story {
    /// Whether the node is killed while the upload is under way.
    kill: bool,
    /// Whether the origin honours conditions.
    conditions: bool,
}

#[test]
fn f4_a_key_that_changes_during_its_upload_ends_at_its_last_version() {
    run(Story { kill: false, conditions: true });
}

#[test]
fn f4_the_same_on_an_origin_that_ignores_conditions() {
    run(Story { kill: false, conditions: false });
}

#[test]
fn f4_the_same_with_a_kill_9_during_the_upload() {
    run(Story { kill: true, conditions: true });
}

#[test]
fn f4_the_same_with_a_kill_9_on_an_origin_that_ignores_conditions() {
    run(Story { kill: true, conditions: false });
}

struct Case {
    api: Api,
    key: String,
    bytes: usize,
    rule: RuleId,
    /// Whether the key ends deleted, or at v3.
    ends_deleted: bool,
}

fn run(story: Story) {
    let origin = OriginSim::start(&[CLOUD]).unwrap();
    if !story.conditions {
        origin.add_fault(Rule::new(&[Op::Put, Op::Complete, Op::Delete], Fault::IgnoreConditions));
    }
    let margin_s = if story.kill { MARGIN_OVER_A_START_S } else { MARGIN_S };
    let late = Duration::from_secs(margin_s);
    let options = NodeOptions::default()
        .set("flush.part_size", &format!("\"{}KiB\"", PART_BYTES >> 10))
        .set("flush.fence_margin", &format!("\"{margin_s}s\""));
    let mut node = Node::start(Written::mounted(options, &origin)).unwrap();
    node.attach_mounts(&[Api::Resp.bucket(), Api::S3.bucket()], LIMIT);

    let mut cases = Vec::new();
    for (name, fault) in ways(late) {
        for ends_deleted in [false, true] {
            for (api, bytes, op) in [
                (Api::Resp, SHORT, Op::Put),
                (Api::S3, SHORT, Op::Put),
                (Api::Resp, LONG, Op::Complete),
                (Api::S3, LONG, Op::Complete),
            ] {
                let key = format!("{name}-{bytes}-{ends_deleted}");
                let place = format!("{}/{key}", api.bucket());
                let rule = Rule::new(&[op], fault.clone()).on(Keys::Exactly(place)).calls(Calls::First(1));
                cases.push(Case { api, key, bytes, rule: origin.add_fault(rule), ends_deleted });
            }
        }
    }
    let mut written = Written::default();
    let mut clients = Clients::of(&node);
    let is_under_way = |case: &Case| {
        let under_way = || origin.strikes(case.rule) == 1;
        wait::until_true(&format!("{} is under way", case.key), LIMIT, under_way).unwrap();
    };
    if story.kill {
        for case in &cases {
            written.write(&mut clients, case.api, &case.key, case.bytes).unwrap();
        }
        cases.iter().for_each(is_under_way);
        node.kill();
        node.restart().unwrap();
        clients = Clients::of(&node);
    }
    for case in &cases {
        if !story.kill {
            written.write(&mut clients, case.api, &case.key, case.bytes).unwrap();
            // At once, so that it is still under way when the key changes.
            is_under_way(case);
        }
        written.delete(&mut clients, case.api, &case.key);
        if !case.ends_deleted {
            written.write(&mut clients, case.api, &case.key, case.bytes).unwrap();
            written.write(&mut clients, case.api, &case.key, SHORT).unwrap();
            written.delete(&mut clients, case.api, &case.key);
            written.write(&mut clients, case.api, &case.key, case.bytes).unwrap();
        }
    }
    node.flush_wait(LIMIT);
    written.check_origin(&origin);
    wait::until_true("no late request is left", LIMIT, || origin.held_back() == 0).unwrap();
    written.check_origin(&origin);
    // Nothing here remembers a deleted key either, and nothing is uploaded again for it.
    node.kill();
    node.restart().unwrap();
    // Now the probe of the start is over, which leaves nothing.
    node.attach_mounts(&[Api::Resp.bucket(), Api::S3.bucket()], LIMIT);
    written.check_origin(&origin);
    written.check_node(&mut Clients::of(&node), 1);
    assert_eq!(origin.uploads(), [], "an upload was left behind");
    node.finish(&["origin", "flush", "unknown outcome", "fence"]);
}
