//! Requests that outlive their sender, and the order that readers of the bucket rely on.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Calls, Fault, Keys, Op, Rule};
use forebay_integration::origin_sim::record::Source;
use forebay_integration::wait;

const LIMIT: Duration = Duration::from_secs(120);
/// Lost requests arrive when their senders have given up (attempts have 2 s), and before the fence is over.
const LATE: Fault = Fault::TakeLate(Duration::from_secs(4));

fn mounted(origin: &OriginSim) -> Node {
    mounted_with(origin, NodeOptions::default())
}

/// With a fence that outlasts what is late.
fn fenced(origin: &OriginSim) -> Node {
    mounted_with(origin, NodeOptions::default().set("flush.fence_margin", "\"4s\""))
}

fn mounted_with(origin: &OriginSim, options: NodeOptions) -> Node {
    let options = options.mount("/redis-0", origin, "cloud/db").mount("/lake", origin, "cloud/lake");
    let node = Node::start(options).unwrap();
    node.attach_mounts(&["redis-0", "lake"], LIMIT);
    node
}

#[test]
fn a_late_put_never_lands_on_a_newer_version() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    // Nothing but the fence is in its way.
    origin.add_fault(Rule::new(&[Op::Put], Fault::IgnoreConditions));
    let node = fenced(&origin);
    let rule =
        origin.add_fault(Rule::new(&[Op::Put], LATE).on(Keys::Exactly("db/k".into())).calls(Calls::Nth(1)));
    let mut resp = node.resp();
    resp.call(&["SET", "k", "old"]).unwrap();
    wait::until_true("the first upload is under way", LIMIT, || origin.strikes(rule) == 1).unwrap();
    resp.call(&["SET", "k", "new"]).unwrap();
    node.flush_wait(LIMIT);
    wait::until_true("the late one has arrived", LIMIT, || origin.held_back() == 0).unwrap();
    assert_eq!(&origin.object("cloud", "db/k").unwrap().body[..], b"new");
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

#[test]
fn a_late_put_never_resurrects_a_deleted_key() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = fenced(&origin);
    let mut resp = node.resp();
    // A delete that comes before the body has left stops the upload, and nothing lands late: tried with
    // further keys until one upload was whole on its way.
    let late = (0..20).any(|round| {
        let (key, place) = (format!("k{round}"), format!("db/k{round}"));
        let rule = Rule::new(&[Op::Put], LATE).on(Keys::Exactly(place.clone())).calls(Calls::Nth(1));
        let rule = origin.add_fault(rule);
        resp.call(&["SET", &key, "old"]).unwrap();
        wait::until_true("the first upload is under way", LIMIT, || origin.strikes(rule) == 1).unwrap();
        resp.call(&["DEL", &key]).unwrap();
        // The fence outlasts the late request: it has landed by now, or never will.
        node.flush_wait(LIMIT);
        wait::until_true("the late one has arrived", LIMIT, || origin.held_back() == 0).unwrap();
        assert!(origin.object("cloud", &place).is_none());
        origin.record().of_key("cloud", &place).any(|change| change.source == Source::Late)
    });
    assert!(late, "no upload was whole on its way when its key was deleted");
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

#[test]
fn a_restart_waits_for_what_was_in_flight_at_kill_9() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    origin.add_fault(Rule::new(&[Op::Put], Fault::IgnoreConditions));
    // Long enough for a start on a busy machine.
    let mut node = mounted_with(&origin, NodeOptions::default().set("flush.fence_margin", "\"20s\""));
    let late = Fault::TakeLate(Duration::from_secs(20));
    let rule =
        origin.add_fault(Rule::new(&[Op::Put], late).on(Keys::Exactly("db/k".into())).calls(Calls::Nth(1)));
    node.resp().call(&["SET", "k", "old"]).unwrap();
    wait::until_true("the upload is under way", LIMIT, || origin.strikes(rule) == 1).unwrap();
    node.kill();
    node.restart().unwrap();
    node.resp().call(&["SET", "k", "new"]).unwrap();
    node.flush_wait(LIMIT);
    wait::until_true("the late one has arrived", LIMIT, || origin.held_back() == 0).unwrap();
    assert_eq!(&origin.object("cloud", "db/k").unwrap().body[..], b"new");
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

#[test]
fn an_unknown_outcome_is_looked_up_before_anything_else_is_sent() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = mounted(&origin);
    origin.add_fault(
        Rule::new(&[Op::Put], Fault::HangAfter).on(Keys::Exactly("db/k".into())).calls(Calls::Nth(1)),
    );
    node.resp().call(&["SET", "k", "once"]).unwrap();
    node.flush_wait(LIMIT);
    assert_eq!(origin.record().of_key("cloud", "db/k").count(), 1, "it was there already: no second upload");
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

#[tokio::test]
async fn a_manifest_arrives_after_its_data_and_a_delete_after_the_next_manifest() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = mounted(&origin);
    let s3 = node.s3();
    // The data is slow, the manifests are not: without the barrier they would overtake it.
    origin.add_fault(
        Rule::new(&[Op::Put], Fault::Slow(Duration::from_millis(300))).on(Keys::Containing("data".into())),
    );
    let put = |key: &str, body: &str| {
        s3.put_object().bucket("lake").key(key).body(ByteStream::from(body.as_bytes().to_vec()))
    };
    put("data-1", "d1").send().await.unwrap();
    let first = put("manifest", "uses data-1").if_none_match("*").send().await.unwrap();
    put("data-2", "d2").send().await.unwrap();
    put("manifest", "uses data-2").if_match(first.e_tag().unwrap()).send().await.unwrap();
    s3.delete_object().bucket("lake").key("data-1").send().await.unwrap();
    node.flush_wait(LIMIT);
    let record = origin.record();
    let position = |key: &str| record.last_position("cloud", &format!("lake/{key}"));
    let (data, manifest, delete) = (position("data-2"), position("manifest"), position("data-1"));
    assert!(data < manifest, "the manifest names data that has not arrived: {:?}", record.changes());
    // data-1 may never have been uploaded at all; if it was, its delete is last.
    if delete.is_some() {
        assert!(manifest < delete, "the delete overtook the manifest: {:?}", record.changes());
    }
    assert_eq!(&origin.object("cloud", "lake/manifest").unwrap().body[..], b"uses data-2");
    assert!(origin.object("cloud", "lake/data-1").is_none());
    // At no moment did a manifest in the origin name data that was not there.
    let mut there = std::collections::BTreeSet::new();
    for change in record.changes().iter().filter(|change| change.key.starts_with("lake/")) {
        use forebay_integration::origin_sim::record::ChangeKind;
        match (&change.kind, change.key.as_str()) {
            (ChangeKind::Put { .. }, "lake/manifest") => {
                assert!(
                    there.contains("lake/data-1") || there.contains("lake/data-2"),
                    "{:?}",
                    record.changes()
                );
            }
            (ChangeKind::Put { .. }, key) => _ = there.insert(key.to_owned()),
            (ChangeKind::Delete, key) => _ = there.remove(key),
        }
    }
    record.assert_clean();
    node.finish(&[]);
}

#[tokio::test]
async fn a_barrier_holds_later_overwrites_back_while_its_own_upload_fails() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = mounted(&origin);
    let s3 = node.s3();
    let put = |key: &str, body: &str| {
        s3.put_object().bucket("lake").key(key).body(ByteStream::from(body.as_bytes().to_vec()))
    };
    put("data", "v1").send().await.unwrap();
    node.flush_wait(LIMIT);
    let fails = Rule::new(&[Op::Put], Fault::Answer(503, "SlowDown")).on(Keys::Containing("manifest".into()));
    let rule = origin.add_fault(fails);
    put("manifest", "uses data v1").if_none_match("*").send().await.unwrap();
    put("data", "v2").send().await.unwrap();
    put("fresh", "new key").send().await.unwrap();
    wait::until_true("the barrier was tried a few times", LIMIT, || origin.strikes(rule) >= 4).unwrap();
    assert_eq!(
        &origin.object("cloud", "lake/data").unwrap().body[..],
        b"v1",
        "an overwrite passed the barrier"
    );
    origin.clear_faults();
    node.flush_wait(LIMIT);
    let record = origin.record();
    let position = |key: &str| record.last_position("cloud", &format!("lake/{key}"));
    assert!(position("manifest") < position("data"), "{:?}", record.changes());
    record.assert_clean();
    node.finish(&["origin", "flush"]);
}

#[test]
fn a_completion_that_the_origin_works_on_beyond_the_fence_never_resurrects_a_deleted_key() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let options =
        NodeOptions::default().mount("/redis-0", &origin, "cloud/db").set("flush.part_size", "\"1KiB\"");
    let node = Node::start(options).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    // Attempts and margin are over by then.
    let late = Fault::Assemble(Duration::from_secs(8));
    let rule = origin.add_fault(Rule::new(&[Op::Complete], late).on(Keys::Exactly("db/k".into())));
    origin.add_fault(Rule::new(&[Op::AbortUpload], Fault::Answer(503, "SlowDown")));
    let mut resp = node.resp();
    resp.call(&["SET", "k", &"x".repeat(5_000)]).unwrap();
    wait::until_true("its completion is under way", LIMIT, || origin.strikes(rule) == 1).unwrap();
    resp.call(&["DEL", "k"]).unwrap();
    wait::until_true("the completion is over", LIMIT, || origin.held_back() == 0).unwrap();
    origin.clear_faults();
    node.flush_wait(LIMIT);
    assert!(origin.object("cloud", "db/k").is_none());
    wait::until_true("nothing is left there", LIMIT, || origin.uploads().is_empty()).unwrap();
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}
