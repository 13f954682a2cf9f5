//! F1: an origin that fails in every way, once each, while thousands of objects go to it. Aim: the queue moves only on
//! what the origin confirmed; no kind of error loses an object, sets one aside or needs a hand. Method: a fault plan
//! that strikes each kind once on a whole PUT and once on each step of a multipart upload, spread over the objects, and
//! credentials that expire for a while; then what was written is compared with the bucket.
//!
//! 1,500 objects, 10,000 with `FOREBAY_LONG=1`; `rclone check` judges, too.

use std::process::{Command, Stdio};
use std::time::Duration;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::fault::{Calls, Fault, Keys, Op, Rule, RuleId};
use forebay_integration::origin_sim::{ACCESS_KEY_ID, OriginSim, REGION, SECRET_ACCESS_KEY};
use forebay_integration::python;
use forebay_integration::wait;

use crate::faults::passing_faults;
use crate::written::{Api, CLOUD, Clients, Written};

const LIMIT: Duration = Duration::from_secs(300);
/// Bodies over this go in parts.
const PART_BYTES: usize = 32 << 10;

fn is_long() -> bool {
    std::env::var_os("FOREBAY_LONG").is_some()
}

/// Every `LARGE_EACH`th object goes in parts.
const LARGE_EACH: usize = 20;

/// Every kind once on each operation, and on few of one object: what meets four refusals of its own in a row is set
/// aside, and rightly so.
fn plan(origin: &OriginSim, objects: usize) -> Vec<(Op, Fault, RuleId)> {
    let faults = passing_faults();
    let (small_step, large_step) = (objects / faults.len(), objects / LARGE_EACH / (faults.len() + 1));
    assert!(small_step >= 2 && large_step >= 2, "{objects} objects for {} kinds", faults.len());
    let mut rules = Vec::new();
    for (number, fault) in faults.into_iter().enumerate() {
        let small = number * small_step;
        let small = if small.is_multiple_of(LARGE_EACH) { small + 1 } else { small };
        let large = |place: usize| (number * large_step + place) * LARGE_EACH;
        for (op, object) in
            [(Op::Put, small), (Op::BeginUpload, large(0)), (Op::Part, large(1)), (Op::Complete, large(2))]
        {
            let rule = Rule::new(&[op], fault.clone()).on(Keys::Containing(key(object))).calls(Calls::Nth(1));
            rules.push((op, fault.clone(), origin.add_fault(rule)));
        }
    }
    rules
}

fn key(number: usize) -> String {
    format!("f1-{number:05}")
}

#[test]
fn f1_every_kind_of_error_once_loses_nothing_and_fails_nothing() {
    let objects = if is_long() { 10_000 } else { 1_500 };
    let origin = OriginSim::start(&[CLOUD]).unwrap();
    let options = NodeOptions::default().set("flush.part_size", &format!("\"{}KiB\"", PART_BYTES >> 10));
    let node = Node::start(Written::mounted(options, &origin)).unwrap();
    node.attach_mounts(&[Api::Resp.bucket(), Api::S3.bucket()], LIMIT);
    let rules = plan(&origin, objects);
    let mut written = Written::default();
    let mut clients = Clients::of(&node);
    let mut expired = None;
    for number in 0..objects {
        let api = if number % 3 == 0 { Api::Resp } else { Api::S3 };
        let bytes = if number.is_multiple_of(LARGE_EACH) { 3 * PART_BYTES - 7 } else { 1 + number % 1_999 };
        written.write(&mut clients, api, &key(number), bytes).unwrap();
        if number == objects / 2 {
            let token = Rule::new(&[], Fault::Answer(400, "ExpiredToken")).on(Keys::Containing("f1-".into()));
            expired = Some(origin.add_fault(token));
        }
    }
    let expired = expired.expect("half of the objects were written");
    wait::until_true("many requests came with an expired token", LIMIT, || origin.strikes(expired) >= 8)
        .unwrap();
    origin.remove_fault(expired);
    node.flush_wait(LIMIT);

    let missed: Vec<_> = rules.iter().filter(|(.., rule)| origin.strikes(*rule) != 1).collect();
    assert!(missed.is_empty(), "not once: {missed:?}");
    assert_eq!(node.metric("flush_parked_objects"), 0.0, "something failed for good");
    assert_eq!(node.metric("flush_pending_objects"), 0.0);
    assert!(!node.log().contains("flush row parked"), "{}", node.log());
    written.check_origin(&origin);
    rclone_check(&written, &origin);
    // Also of those whose names were never learnt, because the answer to their beginning was lost.
    let none = wait::until_true("no upload of ours stays", LIMIT, || origin.uploads().is_empty());
    none.unwrap_or_else(|error| panic!("{error:?}: {:?}", origin.uploads()));
    eprintln!("{objects} objects, {} kinds of error on {} operations, once each", passing_faults().len(), 4);
    node.finish(&["origin", "flush"]);
}

/// Somebody else's comparison: of files with what the bucket gives when it is read.
fn rclone_check(written: &Written, origin: &OriginSim) {
    let directory = tempfile::tempdir().unwrap();
    written.write_files(directory.path());
    let mut command = Command::new("rclone");
    command.env_remove("AWS_CA_BUNDLE");
    for (name, value) in [
        ("TYPE", "s3"),
        ("PROVIDER", "Other"),
        ("LIST_VERSION", "2"),
        ("ACCESS_KEY_ID", ACCESS_KEY_ID),
        ("SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ("REGION", REGION),
        ("ENDPOINT", &origin.endpoint()),
    ] {
        command.env(format!("RCLONE_CONFIG_ORIGIN_{name}"), value);
    }
    command.args(["--config", "/dev/null", "check", "--download", "--checkers", "8"]).stdin(Stdio::null());
    python::run(command.arg(directory.path()).arg(format!("origin:{CLOUD}")));
}

/// The control: an origin that says 200 and stores nothing cannot be seen through, but the comparison sees it.
#[test]
fn f1_the_comparison_finds_what_an_origin_lied_about() {
    let origin = OriginSim::start(&[CLOUD]).unwrap();
    let node = Node::start(Written::mounted(NodeOptions::default(), &origin)).unwrap();
    node.attach_mounts(&[Api::Resp.bucket(), Api::S3.bucket()], LIMIT);
    let lie = Rule::new(&[Op::Put], Fault::LieApplied).on(Keys::Containing("f1-lied".into()));
    origin.add_fault(lie);
    let mut written = Written::default();
    let mut clients = Clients::of(&node);
    for key in ["f1-a", "f1-lied", "f1-z"] {
        written.write(&mut clients, Api::S3, key, 1_000).unwrap();
    }
    node.flush_wait(LIMIT);
    assert_eq!(written.differences(&origin), ["photos/f1-lied: missing"]);
    node.finish(&[]);
}
