//! Mounts over data that was there before, when something breaks. Aim: trouble with an origin is an error and never
//! absence (F7); a deleted object never comes back; write-through means there; an import goes on where it was. Method:
//! the real binary, an origin that somebody else uses too and that fails on command, kill -9.

use std::process::{Command, Stdio};
use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use forebay_integration::existing_data::{connect, connect_at_once, get, options, said, start};
use forebay_integration::http_wire;
use forebay_integration::node::{Node, forebay_program};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Calls, Fault, Keys, Op, Rule};
use forebay_integration::resp_wire::RespWire;
use forebay_integration::wait;

const LIMIT: Duration = Duration::from_secs(120);

fn metric(node: &Node, name: &str) -> u64 {
    let text = http_wire::get(node.endpoints().admin, "/metrics", &[]).unwrap().body;
    let text = String::from_utf8(text).unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix(&format!("forebay_{name} ")).map(str::to_owned));
    // A mount that was never imported has no such line.
    line.map_or(0, |number| number.parse::<f64>().unwrap() as u64)
}

/// Everything that depends on a key nobody here knows is refused while its origin does not answer, in whichever
/// way it does not; and what was written here reads back all the same.
#[tokio::test]
async fn f7_trouble_of_the_origin_is_an_error_and_never_absence() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for number in 0..200 {
        origin.foreign_put("cloud", &format!("pics/k{number}"), format!("foreign {number}"));
    }
    // Known here, but not its bytes: those are not read before the last trouble is over.
    let long = vec![7; 40 << 20];
    origin.foreign_put("cloud", "pics/long", long.clone());
    let (node, mut resp) = start(&origin, options(&origin).set("flush.attempt_timeout", "\"500ms\""));
    resp.set_reply_limit(LIMIT).unwrap();
    let s3 = node.s3();
    let troubles: [Option<Fault>; 7] = [
        Some(Fault::Answer(503, "SlowDown")),
        Some(Fault::Answer(500, "InternalError")),
        Some(Fault::Answer(403, "AccessDenied")),
        Some(Fault::Answer(404, "NoSuchBucket")),
        Some(Fault::HangBefore),
        Some(Fault::ResetBefore),
        // Not reached at all.
        None,
    ];
    s3.head_object().bucket("photos").key("long").send().await.unwrap();
    for (round, trouble) in troubles.into_iter().enumerate() {
        match &trouble {
            Some(fault) => {
                origin.add_fault(Rule::new(&[], fault.clone()));
            }
            None => origin.set_outage(true),
        }
        // Each key is asked for once, so that no answer is remembered.
        let mut next = round * 20;
        let mut key = || {
            next += 1;
            format!("k{next}")
        };
        for request in [
            vec!["GET".to_owned(), key()],
            vec!["MGET".into(), "was-here".into(), key()],
            vec!["EXISTS".into(), key()],
            vec!["STRLEN".into(), key()],
            vec!["INCR".into(), key()],
            vec!["APPEND".into(), key(), "x".into()],
            vec!["SET".into(), key(), "x".into(), "NX".into()],
            vec!["EXPIRE".into(), key(), "10".into()],
            vec!["RENAME".into(), key(), "x".into()],
            vec!["SCAN".into(), "0".into()],
            vec!["KEYS".into(), "*".into()],
            vec!["GET".into(), format!("absent-{round}")],
        ] {
            let reply = said(&resp.call(&request).unwrap());
            assert!(reply.starts_with("-TRYAGAIN"), "{trouble:?}: {request:?}: {reply}");
        }
        // A long answer does not begin before its origin has.
        for request in
            [vec!["GET", "long"], vec!["GETRANGE", "long", "1000000", "3000000"], vec!["MGET", "long"]]
        {
            let reply = said(&resp.call(&request).unwrap());
            assert!(reply.starts_with("-TRYAGAIN"), "{trouble:?}: {request:?}: {reply}");
        }
        for range in [None, Some("bytes=1000000-3000000")] {
            let got = s3.get_object().bucket("photos").key("long").set_range(range.map(str::to_owned));
            assert_eq!(got.send().await.unwrap_err().code(), Some("ServiceUnavailable"), "{trouble:?}");
        }
        for unknown in [key(), format!("absent-{round}")] {
            let status = |error: Option<u16>| error.unwrap_or(0);
            let got = s3.get_object().bucket("photos").key(&unknown).send().await.unwrap_err();
            assert_eq!(
                status(got.raw_response().map(|raw| raw.status().as_u16())),
                503,
                "{trouble:?}: {got:?}"
            );
            let head = s3.head_object().bucket("photos").key(&unknown).send().await.unwrap_err();
            assert_eq!(
                status(head.raw_response().map(|raw| raw.status().as_u16())),
                503,
                "{trouble:?}: {head:?}"
            );
            let put = s3.put_object().bucket("photos").key(&unknown).if_none_match("*");
            let put = put.body(ByteStream::from_static(b"x")).send().await.unwrap_err();
            assert_eq!(put.code(), Some("ServiceUnavailable"), "{trouble:?}");
        }
        let listed = s3.list_objects_v2().bucket("photos").send().await.unwrap_err();
        assert_eq!(listed.code(), Some("ServiceUnavailable"), "{trouble:?}");
        // Writes are taken, and what is written is known.
        let ours = format!("ours-{round}");
        assert_eq!(resp.call(&["SET", &ours, "v"]).unwrap(), b"+OK\r\n");
        assert_eq!(get(&mut resp, &ours), Some(b"v".to_vec()), "{trouble:?}");
        assert_eq!(resp.call(&["DEL", &ours]).unwrap(), b":1\r\n");
        assert_eq!(get(&mut resp, &ours), None, "{trouble:?}: it was deleted here");
        s3.put_object().bucket("photos").key(&ours).body(ByteStream::from_static(b"w")).send().await.unwrap();
        s3.head_object().bucket("photos").key(&ours).send().await.unwrap();
        assert_eq!(resp.call(&["EXISTS", "was-here"]).unwrap(), b":1\r\n", "{trouble:?}: it was seen before");

        origin.clear_faults();
        origin.set_outage(false);
        wait::until("the origin is asked again", LIMIT, || {
            let reply = resp.call(&["GET", &format!("k{}", round * 20 + 1)]).unwrap();
            if reply.starts_with(b"$") { Ok(()) } else { Err(said(&reply)) }
        })
        .unwrap();
        for number in round * 20 + 1..=next {
            let found = get(&mut resp, &format!("k{number}"));
            assert_eq!(found, Some(format!("foreign {number}").into_bytes()), "{trouble:?}: k{number}");
        }
        assert_eq!(get(&mut resp, &format!("absent-{round}")), None);
    }
    let got = s3.get_object().bucket("photos").key("long").send().await.unwrap();
    assert!(got.body.collect().await.unwrap().into_bytes() == long);
    assert!(get(&mut resp, "long") == Some(long));
    node.flush_wait(LIMIT);
    node.finish(&["origin", "flush", "looked up", "look-up", "listing", "read through"]);
}

/// Where the origin was empty at first everything in it is ours: nothing is asked, so nothing fails.
#[tokio::test]
async fn f7_what_is_only_ours_needs_no_origin_to_be_read_and_listed() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = Node::start(options(&origin)).unwrap();
    node.attach_mounts(&["photos"], LIMIT);
    origin.set_outage(true);
    let s3 = node.s3();
    s3.put_object().bucket("photos").key("k").body(ByteStream::from_static(b"v")).send().await.unwrap();
    s3.get_object().bucket("photos").key("k").send().await.unwrap();
    s3.head_object().bucket("photos").key("k").send().await.unwrap();
    let listed = s3.list_objects_v2().bucket("photos").send().await.unwrap();
    assert_eq!(listed.contents().len(), 1);
    let missing = s3.get_object().bucket("photos").key("other").send().await.unwrap_err();
    assert_eq!(missing.code(), Some("NoSuchKey"));
    let mut resp = connect_at_once(&node);
    assert_eq!(get(&mut resp, "other"), None);
    assert_eq!(resp.call(&["KEYS", "*"]).unwrap(), b"*1\r\n$1\r\nk\r\n");
    let heads = origin.requests(Op::Head);
    origin.set_outage(false);
    node.flush_wait(LIMIT);
    assert!(origin.requests(Op::Head) <= heads + 1, "no key was looked up");
    node.finish(&["origin", "flush"]);
}

/// Deletes that the origin has not taken, that it took while nobody listened, and that a crash stands between.
#[test]
fn a_deleted_foreign_object_never_comes_back() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for number in 0..60 {
        origin.foreign_put("cloud", &format!("pics/k{number}"), format!("foreign {number}"));
    }
    let (mut node, mut resp) = start(&origin, options(&origin));
    let slow = Fault::Slow(Duration::from_millis(100));
    origin.add_fault(Rule::new(&[Op::Head, Op::List, Op::Get], slow.clone()).calls(Calls::EachNth(3)));
    origin.add_fault(Rule::new(&[Op::Delete], Fault::Answer(503, "SlowDown")).calls(Calls::EachNth(2)));
    let expect_gone = |resp: &mut RespWire, when: &str| {
        for number in 0..60 {
            assert_eq!(get(resp, &format!("k{number}")), None, "{when}: k{number}");
        }
        let listed = said(&resp.call(&["KEYS", "*"]).unwrap());
        assert_eq!(listed, "*1\\r\\n$8\\r\\nwas-here\\r\\n", "{when}");
    };
    for number in 0..60 {
        let key = format!("k{number}");
        // Every other one was seen before.
        if number % 2 == 0 {
            assert!(get(&mut resp, &key).is_some());
        }
        assert_eq!(resp.call(&["DEL", &key]).unwrap(), b":1\r\n");
        assert_eq!(get(&mut resp, &key), None, "{key}");
    }
    expect_gone(&mut resp, "at once");
    node.kill();
    node.restart().unwrap();
    let mut resp = connect(&node);
    expect_gone(&mut resp, "after a crash");
    origin.clear_faults();
    node.flush_wait(LIMIT);
    expect_gone(&mut resp, "in the origin too");
    assert_eq!(origin.objects("cloud", "pics/k").len(), 0);
    node.kill();
    node.restart().unwrap();
    let mut resp = connect(&node);
    expect_gone(&mut resp, "after another");
    // Somebody else may bring one back, and a node that has forgotten sees it.
    node.finish(&["origin", "flush"]);
}

#[test]
fn an_overwrite_of_a_foreign_object_waits_out_an_outage() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for number in 0..40 {
        origin.foreign_put("cloud", &format!("pics/k{number}"), format!("foreign {number}"));
    }
    let (mut node, mut resp) = start(&origin, options(&origin));
    for number in 0..10 {
        assert!(get(&mut resp, &format!("k{number}")).is_some());
    }
    origin.set_outage(true);
    for number in 0..30 {
        assert_eq!(
            resp.call(&["SET", &format!("k{number}"), &format!("ours {number}")]).unwrap(),
            b"+OK\r\n"
        );
        assert_eq!(get(&mut resp, &format!("k{number}")), Some(format!("ours {number}").into_bytes()));
    }
    for number in 30..40 {
        assert_eq!(resp.call(&["DEL", &format!("k{number}")]).unwrap(), b":1\r\n");
    }
    node.kill();
    node.restart().unwrap();
    let mut resp = connect_at_once(&node);
    for number in 0..30 {
        assert_eq!(get(&mut resp, &format!("k{number}")), Some(format!("ours {number}").into_bytes()));
    }
    let held = origin.objects("cloud", "pics/k");
    assert!(held.iter().all(|(_, object)| object.body.starts_with(b"foreign")), "nothing could arrive");
    origin.set_outage(false);
    node.flush_wait(LIMIT);
    let held = origin.objects("cloud", "pics/k");
    assert_eq!(held.len(), 30);
    for (key, object) in held {
        let number = key.strip_prefix("pics/k").unwrap();
        assert_eq!(object.body, format!("ours {number}"), "{key}");
    }
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

/// The row that an operator sees: somebody else has overwritten what we were about to.
#[test]
fn a_foreign_overwrite_of_a_dirty_key_is_a_parked_conflict() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    origin.foreign_put("cloud", "pics/known", "first");
    origin.foreign_put("cloud", "pics/blind", "first");
    let (node, mut resp) = start(&origin, options(&origin));
    assert_eq!(get(&mut resp, "known"), Some(b"first".to_vec()));
    let held = origin.add_fault(Rule::new(&[Op::Put], Fault::Answer(503, "SlowDown")));
    assert_eq!(resp.call(&["SET", "known", "ours"]).unwrap(), b"+OK\r\n");
    assert_eq!(resp.call(&["SET", "blind", "ours"]).unwrap(), b"+OK\r\n");
    origin.foreign_put("cloud", "pics/known", "second");
    origin.foreign_put("cloud", "pics/blind", "second");
    origin.remove_fault(held);
    let parked = || {
        let listed = node.forebay(&["flush", "ls", "--state", "parked", "--format", "json"]).stdout;
        serde_json::from_slice::<serde_json::Value>(&listed).unwrap()
    };
    wait::until("the conflict is parked", LIMIT, || match parked().as_array().map(Vec::len) {
        Some(1) => Ok(()),
        _ => Err(parked().to_string()),
    })
    .unwrap();
    assert_eq!(parked()[0]["key"], "known");
    assert_eq!(&origin.object("cloud", "pics/known").unwrap().body[..], b"second", "it is not overwritten");
    assert_eq!(get(&mut resp, "known"), Some(b"ours".to_vec()), "what was acknowledged is read here");
    wait::until("the write that knew of nothing wins", LIMIT, || {
        let body = origin.object("cloud", "pics/blind").unwrap().body;
        if body == "ours" { Ok(()) } else { Err(format!("{body:?}")) }
    })
    .unwrap();
    node.finish(&["origin", "flush", "parked"]);
}

/// Foreign changes are seen once the last answer is old.
#[test]
fn foreign_changes_are_seen_after_the_time_that_was_set() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for (key, value) in [("changes", "first"), ("goes", "first"), ("stays", "first")] {
        origin.foreign_put("cloud", &format!("pics/{key}"), value);
    }
    let (node, mut resp) = start(&origin, options(&origin).mount_set("revalidate", "\"200ms\""));
    for key in ["changes", "goes", "stays"] {
        assert_eq!(get(&mut resp, key), Some(b"first".to_vec()), "{key}");
    }
    assert_eq!(get(&mut resp, "comes"), None);
    origin.foreign_put("cloud", "pics/changes", "second, and longer");
    origin.foreign_delete("cloud", "pics/goes");
    origin.foreign_put("cloud", "pics/comes", "new");
    for (key, value) in [("changes", Some("second, and longer")), ("goes", None), ("comes", Some("new"))] {
        wait::until("the change is seen", LIMIT, || {
            let found = get(&mut resp, key);
            if found.as_deref() == value.map(str::as_bytes) {
                Ok(())
            } else {
                Err(format!("{key}: {found:?}"))
            }
        })
        .unwrap();
    }
    assert_eq!(get(&mut resp, "stays"), Some(b"first".to_vec()));
    // What is here answers while the origin cannot be asked.
    origin.set_outage(true);
    for _ in 0..30 {
        assert_eq!(resp.call(&["STRLEN", "changes"]).unwrap(), b":18\r\n");
    }
    origin.set_outage(false);
    assert_eq!(resp.call(&["SET", "changes", "ours"]).unwrap(), b"+OK\r\n");
    node.flush_wait(LIMIT);
    assert_eq!(&origin.object("cloud", "pics/changes").unwrap().body[..], b"ours");
    node.finish(&["origin", "flush"]);
}

#[tokio::test]
async fn a_start_without_the_origin_serves_what_is_known() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for number in 0..20 {
        origin.foreign_put("cloud", &format!("pics/k{number}"), format!("foreign {number}"));
    }
    let (mut node, mut resp) = start(&origin, options(&origin));
    for number in 0..10 {
        assert!(get(&mut resp, &format!("k{number}")).is_some());
    }
    assert_eq!(resp.call(&["DEL", "k3"]).unwrap(), b":1\r\n");
    node.flush_wait(LIMIT);
    assert_eq!(node.terminate().unwrap().code(), Some(0));
    origin.set_outage(true);
    node.restart().unwrap();
    let mut resp = connect_at_once(&node);
    let s3 = node.s3();
    for number in [0, 1, 2, 4, 9] {
        let len = format!("foreign {number}").len();
        assert_eq!(resp.call(&["STRLEN", &format!("k{number}")]).unwrap(), format!(":{len}\r\n").as_bytes());
        s3.head_object().bucket("photos").key(format!("k{number}")).send().await.unwrap();
    }
    assert!(said(&resp.call(&["GET", "k12"]).unwrap()).starts_with("-TRYAGAIN"));
    assert_eq!(resp.call(&["SET", "k12", "ours"]).unwrap(), b"+OK\r\n");
    assert_eq!(resp.call(&["DEL", "k13"]).unwrap(), b":1\r\n");
    assert_eq!(get(&mut resp, "k12"), Some(b"ours".to_vec()));
    assert_eq!(get(&mut resp, "k13"), None);
    origin.set_outage(false);
    node.flush_wait(LIMIT);
    let mut resp = connect(&node);
    assert_eq!(get(&mut resp, "k3"), None);
    assert_eq!(get(&mut resp, "k14"), Some(b"foreign 14".to_vec()));
    assert_eq!(&origin.object("cloud", "pics/k12").unwrap().body[..], b"ours");
    assert!(origin.object("cloud", "pics/k13").is_none());
    node.finish(&["origin", "flush", "look"]);
}

/// An acknowledgement of a write-through mount is one of its origin: nothing but that is asked after a kill.
#[tokio::test]
async fn write_through_is_acknowledged_when_the_origin_has_it() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let options = options(&origin)
        .mount_set("mode", "\"write-through\"")
        .mount_set("min_interval", "\"10s\"")
        .mount_set("write_through_timeout", "\"5s\"");
    let (mut node, mut resp) = start(&origin, options);
    origin.foreign_put("cloud", "pics/counter", "41");
    for round in 0..4 {
        let key = format!("k{round}");
        let s3 = node.s3();
        for value in ["first", "second"] {
            assert_eq!(resp.call(&["SET", &key, value]).unwrap(), b"+OK\r\n");
            assert_eq!(origin.object("cloud", &format!("pics/{key}")).unwrap().body, value);
        }
        assert_eq!(resp.call(&["INCR", "counter"]).unwrap(), format!(":{}\r\n", 42 + round).as_bytes());
        let body = format!("S3 {round}");
        let put = s3.put_object().bucket("photos").key(format!("s{round}"));
        put.body(ByteStream::from(body.clone().into_bytes())).send().await.unwrap();
        node.kill();
        assert_eq!(origin.object("cloud", &format!("pics/s{round}")).unwrap().body, body);
        assert_eq!(origin.object("cloud", &format!("pics/{key}")).unwrap().body, "second");
        assert_eq!(origin.object("cloud", "pics/counter").unwrap().body, (42 + round).to_string());
        node.restart().unwrap();
        resp = connect(&node);
    }
    // A pipeline waits once, and a delete waits as well.
    let mut requests = Vec::new();
    for number in 0..100 {
        let request = ["SET", &format!("p{number}"), "piped"];
        forebay_integration::resp_wire::encode_command(&mut requests, &request);
    }
    resp.send(&requests).unwrap();
    for number in 0..100 {
        assert_eq!(resp.reply().unwrap(), b"+OK\r\n");
        assert!(origin.object("cloud", &format!("pics/p{number}")).is_some(), "p{number}");
    }
    assert_eq!(resp.call(&["DEL", "p7"]).unwrap(), b":1\r\n");
    assert!(origin.object("cloud", "pics/p7").is_none());

    // An origin that is too slow: the write is kept, and the client is told how it stands.
    let held = origin.add_fault(Rule::new(&[Op::Put, Op::Delete], Fault::Answer(503, "SlowDown")));
    let late = said(&resp.call(&["SET", "late", "v"]).unwrap());
    assert!(late.starts_with("-ERR forebay: stored here, not yet in origin ("), "{late}");
    assert_eq!(get(&mut resp, "late"), Some(b"v".to_vec()));
    let put = node.s3().put_object().bucket("photos").key("late-too").body(ByteStream::from_static(b"w"));
    let put = put.send().await.unwrap_err();
    assert_eq!(put.code(), Some("ServiceUnavailable"));
    assert!(put.message().unwrap_or_default().contains("not yet in origin"), "{put:?}");
    let deleted = said(&resp.call(&["DEL", "p8"]).unwrap());
    assert!(deleted.starts_with("-ERR forebay: stored here, not yet in origin ("), "{deleted}");
    // The reads of a batch see what stood at their places, whatever becomes of its writes.
    for request in [&["SET", "late", "1"][..], &["GET", "late"], &["INCR", "late"], &["GET", "late"]] {
        resp.send_command(request).unwrap();
    }
    let replies: Vec<String> = (0..4).map(|_| said(&resp.reply().unwrap())).collect();
    assert!(
        replies[0].contains("not yet in origin") && replies[2].contains("not yet in origin"),
        "{replies:?}"
    );
    assert_eq!((&*replies[1], &*replies[3]), ("$1\\r\\n1\\r\\n", "$1\\r\\n2\\r\\n"));
    origin.remove_fault(held);
    node.flush_wait(LIMIT);
    assert_eq!(origin.object("cloud", "pics/late").unwrap().body, "2");
    assert_eq!(origin.object("cloud", "pics/late-too").unwrap().body, "w");
    assert!(origin.object("cloud", "pics/p8").is_none());

    // One that can never arrive is an error of its own, in a pipeline and among the keys of a DeleteObjects.
    let refuse = |op, key: &str| {
        let rule = Rule::new(&[op], Fault::Answer(400, "InvalidArgument"));
        origin.add_fault(rule.on(Keys::Exactly(format!("pics/{key}"))))
    };
    refuse(Op::Put, "stuck");
    for number in 0..20 {
        let key = if number == 7 { "stuck".to_owned() } else { format!("q{number}") };
        resp.send_command(&["SET", &key, "v"]).unwrap();
        resp.send_command(&["GET", &key]).unwrap();
    }
    for number in 0..20 {
        let (set, got) = (said(&resp.reply().unwrap()), said(&resp.reply().unwrap()));
        assert_eq!(got, "$1\\r\\nv\\r\\n", "{number}");
        if number == 7 {
            assert!(set.starts_with("-ERR forebay: stored here, not yet in origin ("), "{set}");
            continue;
        }
        assert_eq!(set, "+OK\\r\\n", "{number}");
        assert!(origin.object("cloud", &format!("pics/q{number}")).is_some(), "{number} was acknowledged");
    }
    refuse(Op::Delete, "p10");
    let named = |key: &str| ObjectIdentifier::builder().key(key).build().unwrap();
    let wanted = Delete::builder().objects(named("p9")).objects(named("p10")).objects(named("p11"));
    let delete = node.s3().delete_objects().bucket("photos").delete(wanted.build().unwrap());
    let answer = delete.send().await.unwrap();
    let deleted: Vec<_> = answer.deleted().iter().filter_map(|deleted| deleted.key()).collect();
    assert_eq!(deleted, ["p9", "p11"]);
    let [error] = answer.errors() else { panic!("{answer:?}") };
    assert_eq!((error.key(), error.code()), (Some("p10"), Some("ServiceUnavailable")), "{error:?}");
    assert!(error.message().unwrap_or_default().contains("not yet in origin"), "{error:?}");
    assert!(origin.object("cloud", "pics/p9").is_none() && origin.object("cloud", "pics/p11").is_none());
    origin.clear_faults();
    let retried = node.forebay(&["flush", "retry", "--all"]);
    assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    node.flush_wait(LIMIT);
    assert!(origin.object("cloud", "pics/stuck").is_some() && origin.object("cloud", "pics/p10").is_none());
    origin.record().assert_clean();
    node.finish(&["origin", "flush", "write-through"]);
}

/// Row 33: a bucket of 10,000 objects is known, and not a byte of them was fetched.
#[test]
fn an_import_takes_heads_only_and_goes_on_after_a_kill() {
    const OBJECTS: usize = 10_000;
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for number in 0..OBJECTS - 1 {
        origin.foreign_put(
            "cloud",
            &format!("pics/dir{}/k{number:05}", number % 7),
            format!("body {number}"),
        );
    }
    let (mut node, mut resp) = start(&origin, options(&origin));
    assert_eq!(resp.call(&["SET", "dir3/ours", "v"]).unwrap(), b"+OK\r\n");
    assert_eq!(resp.call(&["DEL", "dir2/k00002"]).unwrap(), b":1\r\n");
    node.flush_wait(LIMIT);

    // An operator's Ctrl-C ends the waiting, not the import.
    let mut waiting = Command::new(forebay_program())
        .args(["fs", "import", "/photos", "--wait"])
        .env("FOREBAY_ADMIN", format!("http://{}", node.endpoints().admin))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let adopted = |node: &Node| metric(node, "import_adopted_objects{mount=\"/photos\"}");
    wait::until("the import has begun", LIMIT, || match adopted(&node) {
        0 => Err("nothing yet"),
        _ => Ok(()),
    })
    .unwrap();
    // SAFETY: kill takes two integers and touches no memory; the child has not been waited for.
    unsafe { libc::kill(waiting.id() as i32, libc::SIGINT) };
    waiting.wait().unwrap();
    wait::until("the import has come some way", LIMIT, || match adopted(&node) {
        far if far > 1_000 => Ok(()),
        near => Err(near),
    })
    .unwrap();
    node.kill();
    let heads_before = origin.requests(Op::Head);
    node.restart().unwrap();
    connect(&node);
    let output = node.forebay(&["fs", "import", "/photos", "--wait"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().last().unwrap_or_default().contains("done"), "{text}");
    assert!(origin.requests(Op::Head) - heads_before < OBJECTS as u64, "it went on where it was");

    let mut resp = connect(&node);
    assert_eq!(resp.call(&["DBSIZE"]).unwrap(), format!(":{OBJECTS}\r\n").as_bytes());
    assert_eq!(origin.bodies_read(), 0, "not one body was fetched");
    let heads = origin.requests(Op::Head);
    for number in (0..OBJECTS - 1).step_by(501) {
        let reply = resp.call(&["STRLEN", &format!("dir{}/k{number:05}", number % 7)]).unwrap();
        assert_eq!(reply, format!(":{}\r\n", format!("body {number}").len()).as_bytes());
    }
    assert_eq!(origin.requests(Op::Head), heads, "what was imported needs no look-up");
    assert_eq!(get(&mut resp, "dir2/k00002"), None, "what was deleted here is not imported");
    assert_eq!(get(&mut resp, "dir6/k00006"), Some(b"body 6".to_vec()));
    assert_eq!(origin.bodies_read(), 1);
    let again = node.forebay(&["fs", "import", "/photos", "--wait"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let unknown = node.forebay(&["fs", "import", "/nowhere"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", String::from_utf8_lossy(&unknown.stderr));
    node.finish(&["origin", "flush"]);
}

/// An import that meets trouble says so, and goes on by itself or when it is asked again.
#[test]
fn an_import_survives_an_origin_that_fails() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for number in 0..3_000 {
        origin.foreign_put("cloud", &format!("pics/k{number:05}"), format!("body {number}"));
    }
    let (node, mut resp) = start(&origin, options(&origin));
    origin.add_fault(Rule::new(&[Op::Head], Fault::Answer(503, "SlowDown")).calls(Calls::EachNth(50)));
    origin.add_fault(Rule::new(&[Op::List], Fault::Answer(500, "InternalError")).calls(Calls::EachNth(2)));
    origin.add_fault(
        Rule::new(&[Op::Head], Fault::ResetBefore)
            .on(Keys::Containing("k00777".into()))
            .calls(Calls::First(3)),
    );
    wait::until("the import is done", LIMIT, || {
        let output = node.forebay(&["fs", "import", "/photos", "--wait"]);
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    })
    .unwrap();
    assert_eq!(resp.call(&["DBSIZE"]).unwrap(), b":3001\r\n");
    assert_eq!(origin.bodies_read(), 0);
    node.finish(&["origin", "flush", "import"]);
}
