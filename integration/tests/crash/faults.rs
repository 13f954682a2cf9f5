//! The origin fails each way once, and everything still arrives. Aim: no kind of failure drops, reorders or
//! blocks. Method: a fault plan per key, healthy keys beside them, then the origin is compared.

use std::time::Duration;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Calls, Fault, Keys, Op, Rule};
use forebay_integration::wait;

const LIMIT: Duration = Duration::from_secs(120);

/// Every failure that must end by itself, once each.
pub(crate) fn passing_faults() -> Vec<Fault> {
    let answers = [
        (500, "InternalError"),
        (502, "BadGateway"),
        (503, "ServiceUnavailable"),
        (503, "SlowDown"),
        (504, "GatewayTimeout"),
        (429, "TooManyRequests"),
        (408, "RequestTimeout"),
        (400, "RequestTimeout"),
        (400, "ExpiredToken"),
        (400, "InvalidToken"),
        (403, "AccessDenied"),
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (403, "RequestTimeTooSkewed"),
        (403, "QuotaExceeded"),
        (404, "NoSuchBucket"),
        (409, "OperationAborted"),
        (409, "ConditionalRequestConflict"),
        (400, "BadDigest"),
        (400, "IncompleteBody"),
        (411, "MissingContentLength"),
        (418, "Teapot"),
        (301, "PermanentRedirect"),
    ];
    let mut faults: Vec<Fault> = answers.iter().map(|(status, code)| Fault::Answer(*status, code)).collect();
    faults.extend([
        Fault::ResetBefore,
        Fault::ResetMidBody,
        Fault::ResetAfter,
        Fault::HangBefore,
        Fault::HangAfter,
        Fault::ApplyLate(Duration::from_millis(900)),
        Fault::Slow(Duration::from_millis(500)),
        Fault::IgnoreConditions,
    ]);
    faults
}

fn node(origin: &OriginSim) -> Node {
    let node = Node::start(NodeOptions::default().mount("/redis-0", origin, "cloud/db")).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    node
}

/// `flush wait`; what was parked is retried, as an operator would after mending the cause.
fn settle(node: &Node) -> String {
    let wait = || node.forebay(&["flush", "wait", "--timeout", "120s"]);
    let first = wait();
    if first.status.code() != Some(3) {
        assert_eq!(
            first.status.code(),
            Some(0),
            "{}\n{}",
            String::from_utf8_lossy(&first.stdout),
            node.log_tail()
        );
        return String::new();
    }
    let parked = String::from_utf8_lossy(&node.forebay(&["flush", "ls"]).stdout).into_owned();
    let retry = node.forebay(&["flush", "retry", "--all"]);
    assert!(retry.status.success(), "flush retry: {}", String::from_utf8_lossy(&retry.stderr));
    assert_eq!(wait().status.code(), Some(0), "parked again:\n{parked}\n{}", node.log_tail());
    parked
}

#[test]
fn every_kind_of_failure_once_and_everything_arrives() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = node(&origin);
    let faults = passing_faults();
    for (number, fault) in faults.iter().enumerate() {
        let keys = Keys::Containing(format!("case{number:02}"));
        origin.add_fault(Rule::new(&[Op::Put], fault.clone()).on(keys).calls(Calls::First(1)));
    }
    let mut resp = node.resp();
    for number in 0..1_000 {
        assert_eq!(resp.call(&["SET", &format!("healthy{number}"), "v"]).unwrap(), b"+OK\r\n");
        if let Some(fault) = faults.get(number) {
            let key = format!("case{number:02}");
            assert_eq!(resp.call(&["SET", &key, &format!("{fault:?}")]).unwrap(), b"+OK\r\n");
        }
    }
    let parked = settle(&node);
    for (number, fault) in faults.iter().enumerate() {
        let key = format!("db/case{number:02}");
        let object = origin.object("cloud", &key).unwrap_or_else(|| panic!("{fault:?}: {key} never arrived"));
        assert_eq!(object.body, format!("{fault:?}"));
    }
    assert_eq!(origin.objects("cloud", "db/healthy").len(), 1_000);
    origin.record().assert_clean();
    eprintln!("parked until retried:\n{parked}");
    node.finish(&["origin", "flush"]);
}

#[test]
fn every_kind_of_failure_of_a_part_a_beginning_and_a_completion_passes() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let options = NodeOptions::default().mount("/redis-0", &origin, "cloud/db");
    let node = Node::start(options.set("flush.part_size", "\"4KiB\"")).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    let faults = passing_faults();
    let cases =
        [(Op::BeginUpload, Calls::First(1)), (Op::Part, Calls::Nth(3)), (Op::Complete, Calls::First(1))];
    let mut expected = Vec::new();
    let mut resp = node.resp();
    for (op, calls) in cases {
        for (number, fault) in faults.iter().enumerate() {
            let key = format!("{op:?}{number:02}");
            let rule = Rule::new(&[op], fault.clone()).on(Keys::Containing(key.clone()));
            origin.add_fault(rule.calls(calls));
            let value = format!("{key} {fault:?};").repeat(2_000)[..20_000].to_owned();
            assert_eq!(resp.call(&["SET", &key, &value]).unwrap(), b"+OK\r\n");
            expected.push((format!("db/{key}"), value));
        }
    }
    let parked = settle(&node);
    for (key, value) in &expected {
        let object = origin.object("cloud", key).unwrap_or_else(|| panic!("{key} never arrived"));
        assert!(object.body == value.as_bytes() && object.etag.ends_with("-5"), "{key}: {}", object.etag);
    }
    origin.record().assert_clean();
    wait::until_true("no upload of ours stays", LIMIT, || origin.uploads().is_empty()).unwrap();
    eprintln!("parked until retried:\n{parked}");
    node.finish(&["origin", "flush"]);
}

#[test]
fn deletes_survive_every_kind_of_failure_too() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = node(&origin);
    let faults = passing_faults();
    let mut resp = node.resp();
    for number in 0..faults.len() {
        resp.call(&["SET", &format!("case{number:02}"), "v"]).unwrap();
    }
    node.flush_wait(LIMIT);
    for (number, fault) in faults.iter().enumerate() {
        let keys = Keys::Containing(format!("case{number:02}"));
        origin.add_fault(Rule::new(&[Op::Delete], fault.clone()).on(keys).calls(Calls::First(1)));
        assert_eq!(resp.call(&["DEL", &format!("case{number:02}")]).unwrap(), b":1\r\n");
    }
    settle(&node);
    assert_eq!(origin.objects("cloud", "db/case").len(), 0);
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

#[test]
fn one_poisoned_object_delays_no_other_and_is_parked_with_its_reason() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = node(&origin);
    let poison =
        Rule::new(&[Op::Put], Fault::Answer(400, "InvalidArgument")).on(Keys::Containing("poison".into()));
    origin.add_fault(poison);
    let mut resp = node.resp();
    resp.call(&["SET", "poison", "v"]).unwrap();
    for number in 0..200 {
        resp.call(&["SET", &format!("healthy{number}"), "v"]).unwrap();
    }
    let arrived = || origin.objects("cloud", "db/healthy").len() == 200;
    wait::until_true("the healthy keys have arrived", LIMIT, arrived).unwrap();
    let parked = wait::until("flush wait says that something is parked", LIMIT, || {
        let code = node.forebay(&["flush", "wait", "--timeout", "1s"]).status.code();
        if code == Some(3) { Ok(()) } else { Err(format!("{code:?}")) }
    });
    parked.unwrap();
    let listed = String::from_utf8_lossy(&node.forebay(&["flush", "ls"]).stdout).into_owned();
    assert!(listed.contains("poison") && listed.contains("InvalidArgument"), "{listed}");
    origin.clear_faults();
    settle(&node);
    assert!(origin.object("cloud", "db/poison").is_some());
    node.finish(&["origin", "flush"]);
}

#[test]
fn put_put_delete_with_a_flapping_origin_ends_where_the_client_ended() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = node(&origin);
    let mut random = fastrand::Rng::with_seed(5);
    let mut resp = node.resp();
    let mut last = std::collections::BTreeMap::new();
    for round in 0..40 {
        origin.set_outage(round % 2 == 0);
        for _ in 0..20 {
            let key = format!("k{}", random.u32(0..15));
            if random.u32(0..3) == 0 {
                resp.call(&["DEL", &key]).unwrap();
                last.remove(&key);
            } else {
                let value = format!("round {round} {}", random.u32(..));
                resp.call(&["SET", &key, &value]).unwrap();
                last.insert(key, value);
            }
        }
    }
    origin.set_outage(false);
    node.flush_wait(LIMIT);
    let found: std::collections::BTreeMap<String, String> = origin
        .objects("cloud", "db/")
        .into_iter()
        .map(|(key, object)| {
            (key["db/".len()..].to_owned(), String::from_utf8_lossy(&object.body).into_owned())
        })
        .collect();
    assert_eq!(found, last);
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

#[test]
fn an_expired_key_leaves_the_origin_too() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = node(&origin);
    let mut resp = node.resp();
    resp.call(&["SET", "short", "v", "PX", "1500"]).unwrap();
    let there = || origin.object("cloud", "db/short").is_some();
    wait::until_true("it arrived", LIMIT, there).unwrap();
    wait::until_true("it has left again", LIMIT, || !there()).unwrap();
    assert_eq!(resp.call(&["GET", "short"]).unwrap(), b"$-1\r\n");
    origin.record().assert_clean();
    node.finish(&[]);
}

#[test]
fn boots_and_serves_while_the_origin_cannot_be_reached() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    origin.set_outage(true);
    let node = Node::start(NodeOptions::default().mount("/redis-0", &origin, "cloud/db")).unwrap();
    let mut resp = node.resp();
    assert_eq!(resp.call(&["SET", "k", "v"]).unwrap(), b"+OK\r\n");
    assert_eq!(node.forebay(&["flush", "wait", "--timeout", "1s"]).status.code(), Some(1));
    origin.set_outage(false);
    node.flush_wait(LIMIT);
    assert_eq!(&origin.object("cloud", "db/k").unwrap().body[..], b"v");
    node.finish(&["origin", "flush"]);
}

#[test]
fn a_foreign_write_to_our_key_is_a_conflict_and_both_are_kept() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = node(&origin);
    let mut resp = node.resp();
    resp.call(&["SET", "shared", "ours"]).unwrap();
    node.flush_wait(LIMIT);
    origin.foreign_put("cloud", "db/shared", "theirs");
    resp.call(&["SET", "shared", "ours again"]).unwrap();
    let code = node.forebay(&["flush", "wait", "--timeout", "60s"]).status.code();
    assert_eq!(code, Some(3), "a conflict is parked");
    assert_eq!(&origin.object("cloud", "db/shared").unwrap().body[..], b"theirs");
    assert_eq!(resp.call(&["GET", "shared"]).unwrap(), b"$10\r\nours again\r\n");
    let listed = String::from_utf8_lossy(&node.forebay(&["flush", "ls"]).stdout).into_owned();
    assert!(listed.contains("shared") && listed.contains("did not write"), "{listed}");
    node.finish(&["origin", "flush", "conflict"]);
}

#[test]
fn keys_that_could_never_be_flushed_are_refused_at_once() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = node(&origin);
    let mut resp = node.resp();
    let fits = "k".repeat(1_024 - "db/".len());
    assert_eq!(resp.call(&["SET", &fits, "v"]).unwrap(), b"+OK\r\n");
    let refused = resp.call(&["SET", &format!("{fits}k"), "v"]).unwrap();
    assert!(refused.starts_with(b"-ERR"), "{}", refused.escape_ascii());
    node.flush_wait(LIMIT);
    assert!(origin.object("cloud", &format!("db/{fits}")).is_some());
    node.finish(&[]);
}

/// Some services take conditional headers and do nothing about them: the order must hold without.
#[test]
fn an_origin_that_ignores_conditions_ends_equal_and_never_goes_back() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    origin.add_fault(Rule::new(&[Op::Put], Fault::IgnoreConditions));
    let node = node(&origin);
    let late = Rule::new(&[Op::Put], Fault::ApplyLate(Duration::from_millis(800)));
    origin.add_fault(late.calls(Calls::EachNth(9)));
    let mut resp = node.resp();
    for round in 0..6 {
        for key in 0..10 {
            let value = format!("round {round}");
            assert_eq!(resp.call(&["SET", &format!("k{key}"), &value]).unwrap(), b"+OK\r\n");
        }
    }
    node.flush_wait(LIMIT);
    for key in 0..10 {
        assert_eq!(origin.object("cloud", &format!("db/k{key}")).unwrap().body, "round 5");
    }
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}
