//! Everything arrives at an S3 endpoint as plain objects; whether it has arrived can be asked in every way; and
//! what cannot wait any longer is refused with a reason.

use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use forebay_integration::http_wire::{self, Signer, Unsigned};
use forebay_integration::node::{self, Node, NodeOptions};
use forebay_integration::origin_sim::fault::{Fault, Op, Rule};
use forebay_integration::origin_sim::{ACCESS_KEY_ID, OriginSim, SECRET_ACCESS_KEY};
use forebay_integration::python::Moto;
use forebay_integration::s3_client;
use forebay_integration::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// The node's own header on HEAD.
fn origin_header(node: &Node, path: &str) -> String {
    let request =
        Unsigned { method: "HEAD", path, content_sha256: "UNSIGNED-PAYLOAD", ..Unsigned::default() };
    let addr = node.endpoints().s3;
    let head = Signer::now(node::ACCESS_KEY_ID, node::SECRET_ACCESS_KEY).sign(addr, &request).head;
    let answer = http_wire::exchange(addr, &head).unwrap();
    assert_eq!(answer.status, 200, "HEAD {path}");
    answer.header("x-forebay-origin").unwrap_or_default().to_owned()
}

#[tokio::test]
async fn redis_and_s3_writes_arrive_in_moto_with_their_metadata() {
    let moto = Moto::start().unwrap();
    let cloud = s3_client::client(&moto.endpoint(), ACCESS_KEY_ID, SECRET_ACCESS_KEY);
    cloud.create_bucket().bucket("cloud").send().await.unwrap();
    let options = NodeOptions::default().mount_at("/redis-0", &moto.endpoint(), "cloud/redis").mount_at(
        "/photos",
        &moto.endpoint(),
        "cloud/photos",
    );
    let mut node = Node::start(options).unwrap();
    node.attach_mounts(&["redis-0", "photos"], LIMIT);
    let s3 = node.s3();
    let mut resp = node.resp();
    for number in 0..200 {
        let (key, value) = (format!("k{number}"), format!("v{number}"));
        assert_eq!(resp.call(&["SET", &key, &value]).unwrap(), b"+OK\r\n");
    }
    assert_eq!(resp.call(&["DEL", "k7"]).unwrap(), b":1\r\n");
    let put = s3.put_object().bucket("photos").key("2026/ü 1.jpg").body(ByteStream::from_static(b"jpeg"));
    put.content_type("image/jpeg").metadata("camera", "box").send().await.unwrap();

    node.kill();
    node.restart().unwrap();
    node.flush_wait(LIMIT);

    let got = cloud.get_object().bucket("cloud").key("photos/2026/ü 1.jpg").send().await.unwrap();
    assert_eq!(got.content_type(), Some("image/jpeg"));
    assert_eq!(got.metadata().unwrap()["camera"], "box");
    assert_eq!(&got.body.collect().await.unwrap().into_bytes()[..], b"jpeg");
    let mut keys = Vec::new();
    let mut pages = cloud.list_objects_v2().bucket("cloud").prefix("redis/").into_paginator().send();
    while let Some(page) = pages.next().await {
        keys.extend(page.unwrap().contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    let mut expected: Vec<String> =
        (0..200).filter(|number| *number != 7).map(|number| format!("redis/k{number}")).collect();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    node.finish(&[]);
}

#[tokio::test]
async fn where_an_object_is_can_be_asked_by_header_by_command_and_by_the_command_line() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let options = NodeOptions::default().mount("/photos", &origin, "cloud/photos");
    let node = Node::start(options).unwrap();
    node.attach_mounts(&["photos"], LIMIT);
    origin.set_outage(true);
    let s3 = node.s3();
    let etag = {
        let put = s3.put_object().bucket("photos").key("a b").body(ByteStream::from_static(b"x"));
        put.send().await.unwrap().e_tag().unwrap().to_owned()
    };
    assert!(origin_header(&node, "/photos/a%20b").starts_with("pending age="));
    let mut resp = node.resp();
    resp.call(&["FB.USE", "photos"]).unwrap();
    let stat = resp.call(&["FB.STAT", "a b"]).unwrap();
    assert!(stat.escape_ascii().to_string().contains("pending"), "{}", stat.escape_ascii());
    assert_eq!(resp.call(&["FB.FLUSHWAIT", "10"]).unwrap(), b":1\r\n");
    assert_eq!(resp.call(&["FB.FLUSHWAIT", "10", "other"]).unwrap(), b":0\r\n");
    let listed = node.forebay(&["flush", "ls", "--format", "json"]).stdout;
    let listed: serde_json::Value = serde_json::from_slice(&listed).unwrap();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert!(listed.to_string().contains("a b"), "{listed}");
    origin.set_outage(false);
    node.flush_wait(LIMIT);
    assert_eq!(origin_header(&node, "/photos/a%20b"), "flushed");
    assert_eq!(resp.call(&["FB.FLUSHWAIT", "1000", "a b"]).unwrap(), b":0\r\n");
    let head = s3.head_object().bucket("photos").key("a b").send().await.unwrap();
    assert_eq!(head.e_tag(), Some(etag.as_str()), "the ETag given at PUT stays");
    origin.add_fault(Rule::new(&[Op::Put], Fault::Answer(400, "InvalidArgument")));
    s3.put_object().bucket("photos").key("a b").body(ByteStream::from_static(b"y")).send().await.unwrap();
    wait::until("it is parked", LIMIT, || {
        let header = origin_header(&node, "/photos/a%20b");
        if header.starts_with("parked reason=") { Ok(()) } else { Err(header) }
    })
    .unwrap();
    let abandoned = node.forebay(&["flush", "abandon", "--yes", "--reason", "a test", "photos", "a b"]);
    assert!(abandoned.status.success(), "{}", String::from_utf8_lossy(&abandoned.stderr));
    node.flush_wait(LIMIT);
    assert_eq!(&origin.object("cloud", "photos/a b").unwrap().body[..], b"x");
    node.finish(&["origin", "flush", "gave up"]);
}

#[test]
fn a_right_that_is_missing_is_named_where_an_operator_looks() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let refuse = |op| origin.add_fault(Rule::new(&[op], Fault::Answer(403, "AccessDenied")));
    let says = |node: &Node, command: &[&str], text: &str| {
        wait::until(text, LIMIT, || {
            let output = String::from_utf8_lossy(&node.forebay(command).stdout).into_owned();
            if output.contains(text) { Ok(()) } else { Err(output) }
        })
        .unwrap();
    };
    refuse(Op::List);
    let node = Node::start(NodeOptions::default().mount("/redis-0", &origin, "cloud/db")).unwrap();
    says(&node, &["mount", "ls"], "ListObjectsV2 was refused, which needs s3:ListBucket");
    origin.clear_faults();
    refuse(Op::Put);
    says(&node, &["mount", "ls"], "PutObject was refused, which needs s3:PutObject");
    origin.clear_faults();
    node.attach_mounts(&["redis-0"], LIMIT);
    let mut resp = node.resp();
    assert_eq!(resp.call(&["SET", "k", "v"]).unwrap(), b"+OK\r\n");
    node.flush_wait(LIMIT);
    refuse(Op::Delete);
    assert_eq!(resp.call(&["DEL", "k"]).unwrap(), b":1\r\n");
    says(&node, &["flush", "ls"], "DeleteObject was refused, which needs s3:DeleteObject");
    origin.clear_faults();
    node.flush_wait(LIMIT);
    assert!(origin.object("cloud", "db/k").is_none(), "it goes on by itself");
    node.finish(&["origin", "flush"]);
}

#[tokio::test]
async fn over_the_dirty_limit_writes_are_refused_with_a_reason_and_come_back_by_themselves() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let options = NodeOptions::default()
        .set("capacity", "\"64MiB\"")
        .set("dirty_limit", "\"1MiB\"")
        .mount("/redis-0", &origin, "cloud/db");
    let node = Node::start(options).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    origin.set_outage(true);
    let mut resp = node.resp();
    let value = "x".repeat(60_000);
    let mut taken = 0;
    let refused = loop {
        let reply = resp.call(&["SET", &format!("k{taken}"), &value]).unwrap();
        if reply != b"+OK\r\n" {
            break reply;
        }
        taken += 1;
        assert!(taken < 100, "6 MB of dirty bytes under a limit of 1 MiB");
    };
    assert!(refused.starts_with(b"-OOM"), "{}", refused.escape_ascii());
    let put = node.s3().put_object().bucket("redis-0").key("more").body(ByteStream::from(value.into_bytes()));
    assert_eq!(put.send().await.unwrap_err().code(), Some("SlowDown"));
    assert_eq!(resp.call(&["EXISTS", "k0"]).unwrap(), b":1\r\n");
    assert_eq!(resp.call(&["DEL", "k0"]).unwrap(), b":1\r\n", "deletes work when writes are refused");
    origin.set_outage(false);
    wait::until("writes are taken again", LIMIT, || {
        let reply = resp.call(&["SET", "again", "v"]).unwrap();
        if reply == b"+OK\r\n" { Ok(()) } else { Err(reply.escape_ascii().to_string()) }
    })
    .unwrap();
    node.flush_wait(LIMIT);
    assert_eq!(origin.objects("cloud", "db/k").len(), taken - 1);
    node.finish(&["origin", "flush", "dirty"]);
}

#[test]
fn flushall_spares_a_mount_by_name_unless_it_may() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let options = |flushall: &str| {
        NodeOptions::default().mount_set("flushall", flushall).mount(
            "/redis-0",
            &origin,
            &format!("cloud/{flushall}"),
        )
    };
    let node = Node::start(options("false")).unwrap();
    let mut resp = node.resp();
    resp.call(&["SET", "k", "v"]).unwrap();
    for command in ["FLUSHALL", "FLUSHDB"] {
        let refused = resp.call(&[command]).unwrap();
        let said = refused.escape_ascii().to_string();
        assert!(said.starts_with('-') && said.contains("/redis-0"), "{command}: {said}");
    }
    assert_eq!(resp.call(&["GET", "k"]).unwrap(), b"$1\r\nv\r\n");
    node.finish(&[]);

    let node = Node::start(options("true")).unwrap();
    let mut resp = node.resp();
    for number in 0..50 {
        resp.call(&["SET", &format!("k{number}"), "v"]).unwrap();
    }
    node.flush_wait(LIMIT);
    assert_eq!(origin.objects("cloud", "true/").len(), 50);
    assert_eq!(resp.call(&["FLUSHALL"]).unwrap(), b"+OK\r\n");
    assert_eq!(resp.call(&["DBSIZE"]).unwrap(), b":0\r\n");
    resp.call(&["SET", "after", "v"]).unwrap();
    node.flush_wait(LIMIT);
    let left: Vec<String> = origin.objects("cloud", "true/").into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, ["true/after"]);
    origin.record().assert_clean();
    node.finish(&[]);
}

#[tokio::test]
async fn keys_that_are_not_utf8_have_one_name_through_s3_and_in_the_origin() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = Node::start(NodeOptions::default().mount("/redis-0", &origin, "cloud/db")).unwrap();
    let mut resp = node.resp();
    let keys: [&[u8]; 4] = [b"\xff\xfe", b"a\xffb", b"plain", "ü".as_bytes()];
    for key in keys {
        assert_eq!(resp.call(&[b"SET", key, key]).unwrap(), b"+OK\r\n");
    }
    node.flush_wait(LIMIT);
    let listed = node.s3().list_objects_v2().bucket("redis-0").send().await.unwrap();
    let names: Vec<String> =
        listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    let mut bodies = std::collections::BTreeSet::new();
    for name in &names {
        let got = node.s3().get_object().bucket("redis-0").key(name).send().await.unwrap();
        let body = got.body.collect().await.unwrap().to_vec();
        assert_eq!(
            origin.object("cloud", &format!("db/{name}")).map(|object| object.body.to_vec()),
            Some(body.clone())
        );
        bodies.insert(body);
    }
    assert_eq!(bodies.len(), 4, "each name reaches its own key");
    for (name, expected) in [("plain", &b"plain"[..]), ("ü", "ü".as_bytes())] {
        assert_eq!(
            &origin.object("cloud", &format!("db/{name}")).unwrap().body[..],
            expected,
            "UTF-8 is not altered"
        );
    }
    node.finish(&[]);
}
