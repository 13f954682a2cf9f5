//! Mounts over a bucket that was in use before Forebay came. Aim: other people's objects are there under their keys,
//! with everything that belongs to them; writes go on from them; what was deleted stays deleted. Method: objects put
//! straight into the simulated origin, and clients that know nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use forebay_integration::existing_data::{get, options, said, start};
use forebay_integration::node::{ACCESS_KEY_ID, NodeOptions, SECRET_ACCESS_KEY};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::buckets::{StoredObject, md5_hex};
use forebay_integration::origin_sim::fault::{Fault, Keys, Op, Rule};
use forebay_integration::python;
use forebay_integration::resp_wire::{RespWire, bulk};
use forebay_integration::wait;

use crate::s3_clients::aws;

const LIMIT: Duration = Duration::from_secs(60);

/// Different for each number, and from place to place.
fn bytes(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 131 + at * 7 + at / 251) as u8).collect()
}

/// An object as somebody else may have stored it, an hour ago.
fn foreign(number: usize, len: usize) -> StoredObject {
    let mut object = StoredObject::plain(bytes(number, len).into());
    object.modified -= Duration::from_secs(3_600 + number as u64);
    object.metadata.insert("owner".into(), format!("somebody {number}"));
    object.headers.insert("content-type", "image/x-test".into());
    object.headers.insert("cache-control", "max-age=60".into());
    object
}

#[tokio::test]
async fn foreign_objects_read_alike_whoever_asks() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let lens = [0, 1, 500, 70_000, 10 << 20];
    for (number, len) in lens.into_iter().enumerate() {
        origin.foreign_store("cloud", &format!("pics/2026/ü {number}.jpg"), foreign(number, len));
    }
    let (node, mut resp) = start(&origin, options(&origin));
    node.attach_mounts(&["photos"], LIMIT);
    let changes = origin.changes();
    let s3 = node.s3();
    for (number, len) in lens.into_iter().enumerate() {
        let key = format!("2026/ü {number}.jpg");
        let (body, object) = (bytes(number, len), foreign(number, len));
        let head = s3.head_object().bucket("photos").key(&key).send().await.unwrap();
        assert_eq!(head.content_length(), Some(len as i64), "{key}");
        let got = s3.get_object().bucket("photos").key(&key).send().await.unwrap();
        assert_eq!(got.e_tag(), Some(&*format!("\"{}\"", md5_hex(&body))), "{key}");
        assert_eq!(got.content_type(), Some("image/x-test"), "{key}");
        assert_eq!(got.cache_control(), Some("max-age=60"), "{key}");
        assert_eq!(got.metadata().unwrap().len(), 1, "{key}: {:?}", got.metadata());
        assert_eq!(got.metadata().unwrap()["owner"], format!("somebody {number}"));
        let modified = got.last_modified().unwrap().secs();
        assert!((modified - object.modified.unix_timestamp()).abs() < 60, "{key}: {modified}");
        assert_eq!(&got.body.collect().await.unwrap().into_bytes()[..], &body[..], "{key}");
        assert_eq!(get(&mut resp, &key), Some(body), "{key}");
        let stat = said(&resp.call(&["FB.STAT", &key]).unwrap());
        assert!(stat.contains("flushed"), "{key}: {stat}");
        let part = s3.get_object().bucket("photos").key(&key).range("bytes=0-9").send().await;
        match len {
            0 => assert_eq!(part.unwrap_err().code(), Some("InvalidRange")),
            _ => assert_eq!(part.unwrap().content_length(), Some(len.min(10) as i64), "{key}"),
        }
    }
    assert_eq!(resp.call(&["STRLEN", "2026/ü 2.jpg"]).unwrap(), b":500\r\n");
    assert_eq!(resp.call(&["TTL", "2026/ü 2.jpg"]).unwrap(), b":-1\r\n");
    assert_eq!(resp.call(&["EXISTS", "2026/ü 1.jpg", "2026/ü 9.jpg"]).unwrap(), b":1\r\n");
    assert_eq!(get(&mut resp, "2026/ü 9.jpg"), None);
    let missing = s3.get_object().bucket("photos").key("2026/ü 9.jpg").send().await.unwrap_err();
    assert_eq!(missing.code(), Some("NoSuchKey"));
    assert_eq!(origin.changes(), changes, "reading changes nothing in the origin");
    node.finish(&[]);
}

/// What is asked of one batch is asked of the origin at once, and answered in order.
#[test]
fn a_pipeline_of_unknown_keys_is_answered_in_its_order() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for number in 0..300 {
        origin.foreign_put("cloud", &format!("pics/k{number}"), format!("foreign {number}"));
    }
    let (node, mut resp) = start(&origin, options(&origin));
    let mut requests = Vec::new();
    for number in 0..300 {
        let key = format!("k{number}");
        let mut push = |arguments: &[&str]| {
            forebay_integration::resp_wire::encode_command(&mut requests, arguments);
        };
        push(&["GET", &key]);
        push(&["SET", &key, &format!("ours {number}")]);
        push(&["GET", &key]);
        push(&["DEL", &key]);
        push(&["GET", &key]);
        push(&["MULTI"]);
        push(&["APPEND", &format!("{key}/new"), "a"]);
        push(&["GET", &format!("{key}/new")]);
        push(&["EXEC"]);
    }
    resp.send(&requests).unwrap();
    for number in 0..300 {
        let mut next = || resp.reply().unwrap();
        assert_eq!(bulk(&next()), Some(format!("foreign {number}").as_bytes()), "{number}");
        assert_eq!(next(), b"+OK\r\n");
        assert_eq!(bulk(&next()), Some(format!("ours {number}").as_bytes()), "{number}");
        assert_eq!(next(), b":1\r\n");
        assert_eq!(bulk(&next()), None, "{number}");
        for expected in [&b"+OK\r\n"[..], b"+QUEUED\r\n", b"+QUEUED\r\n", b"*2\r\n:1\r\n$1\r\na\r\n"] {
            assert_eq!(next(), expected, "{number}");
        }
    }
    node.flush_wait(LIMIT);
    assert_eq!(origin.objects("cloud", "pics/k").len(), 300, "only the new ones are left");
    node.finish(&[]);
}

/// 2,500 foreign keys, some overwritten, some deleted, whether the origin knows or not, and keys of ours between.
#[test]
fn listings_are_whole_for_every_client() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for number in 0..2_500 {
        let key = match number % 3 {
            0 => format!("pics/k{number:05}"),
            1 => format!("pics/dir {}/k{number:05}", number % 10),
            _ => format!("pics/z/é/k{number:05}"),
        };
        origin.foreign_store("cloud", &key, foreign(number, number % 40));
    }
    let (node, mut resp) = start(&origin, options(&origin));
    let keys: Vec<String> =
        origin.objects("cloud", "pics/").into_iter().map(|(key, _)| key[5..].into()).collect();
    assert_eq!(keys.len(), 2_501);
    let mut expected: BTreeMap<String, Option<StoredObject>> = origin
        .objects("cloud", "pics/")
        .into_iter()
        .map(|(key, object)| (key[5..].to_owned(), Some(object)))
        .collect();
    // Half of the deletes and writes stay on their way.
    for step in 0..2 {
        if step == 1 {
            for op in [Op::Put, Op::Delete] {
                origin.add_fault(
                    Rule::new(&[op], Fault::Answer(503, "SlowDown")).on(Keys::Containing("pics/".into())),
                );
            }
        }
        for key in keys.iter().skip(step * 7).step_by(29) {
            assert_eq!(resp.call(&["DEL", key]).unwrap(), b":1\r\n", "{key}");
            expected.remove(key);
        }
        for key in keys.iter().skip(step * 7 + 3).step_by(37) {
            assert_eq!(resp.call(&["SET", key, "ours"]).unwrap(), b"+OK\r\n");
            expected.insert(key.clone(), None);
        }
        for number in 0..150 {
            let key = format!("{}ours-{step}-{number}", ["", "dir 3/", "z/é/"][number % 3]);
            assert_eq!(resp.call(&["SET", &key, "new"]).unwrap(), b"+OK\r\n");
            expected.insert(key, None);
        }
        if step == 0 {
            node.flush_wait(LIMIT);
        }
    }
    let names: BTreeSet<Vec<u8>> = expected.keys().map(|key| key.as_bytes().to_vec()).collect();

    assert_eq!(scan(&mut resp, &["COUNT", "100"]), names);
    assert_eq!(scan(&mut resp, &[]), names);
    let under_z: BTreeSet<Vec<u8>> = names.iter().filter(|key| key.starts_with(b"z/")).cloned().collect();
    assert_eq!(scan(&mut resp, &["MATCH", "z/*", "COUNT", "333"]), under_z);
    assert_eq!(array(&resp.call(&["KEYS", "z/*"]).unwrap()), under_z);
    assert_eq!(array(&resp.call(&["KEYS", "*"]).unwrap()), names);

    let listed = python::run(aws(&node).args([
        "s3api",
        "list-objects-v2",
        "--bucket",
        "photos",
        "--page-size",
        "113",
        "--query",
        "Contents[].Key",
    ]));
    let listed: Vec<String> = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed, expected.keys().cloned().collect::<Vec<_>>());

    // The facts of what is ours are told by the node, those of what is foreign by the origin.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let s3 = node.s3();
    let facts: serde_json::Map<String, serde_json::Value> = expected
        .iter()
        .map(|(key, object)| {
            let facts = match object {
                Some(object) => serde_json::json!({
                    "size": object.body.len(), "etag": object.etag, "metadata": object.metadata,
                    "modified": object.modified.unix_timestamp(),
                }),
                None => {
                    let put =
                        s3.put_object().bucket("photos").key(key).body(ByteStream::from_static(b"S3's"));
                    runtime.block_on(put.send()).unwrap();
                    let head = runtime.block_on(s3.head_object().bucket("photos").key(key).send()).unwrap();
                    serde_json::json!({
                        "size": 4, "etag": md5_hex(b"S3's"), "metadata": {},
                        "modified": head.last_modified().unwrap().secs(),
                    })
                }
            };
            (key.clone(), facts)
        })
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_json::to_vec(&facts).unwrap()).unwrap();
    let mut script = python::script("existing_data.py");
    script.arg(node.s3_endpoint()).args([ACCESS_KEY_ID, SECRET_ACCESS_KEY, "photos"]).arg(file.path());
    assert!(python::run(&mut script).starts_with("ok"), "every page of boto3");

    origin.clear_faults();
    node.flush_wait(LIMIT);
    let left: Vec<String> =
        origin.objects("cloud", "pics/").into_iter().map(|(key, _)| key[5..].into()).collect();
    assert_eq!(left, expected.keys().cloned().collect::<Vec<_>>(), "the origin has come to the same");
    assert_eq!(scan(&mut resp, &[]), names);
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

/// Every key that a SCAN gives, to its end.
fn scan(resp: &mut RespWire, options: &[&str]) -> BTreeSet<Vec<u8>> {
    let (mut cursor, mut found) = ("0".to_owned(), BTreeSet::new());
    loop {
        let reply = resp.call(&[&["SCAN", &cursor], options].concat()).unwrap();
        let (head, rest) =
            reply.split_at(forebay_integration::resp_wire::reply_length(&reply[4..]).unwrap().unwrap() + 4);
        cursor = String::from_utf8(bulk(&head[4..]).expect("a cursor").to_vec()).unwrap();
        for key in array(rest) {
            assert!(found.insert(key.clone()), "{} is given twice", key.escape_ascii());
        }
        if cursor == "0" {
            return found;
        }
    }
}

/// The strings of an array.
fn array(reply: &[u8]) -> BTreeSet<Vec<u8>> {
    assert!(reply.starts_with(b"*"), "{}", said(reply));
    let mut rest = &reply[memchr::memchr(b'\n', reply).unwrap() + 1..];
    let mut found = BTreeSet::new();
    while !rest.is_empty() {
        let len = forebay_integration::resp_wire::reply_length(rest).unwrap().unwrap();
        found.insert(bulk(&rest[..len]).unwrap().to_vec());
        rest = &rest[len..];
    }
    found
}

#[tokio::test]
async fn conditional_puts_know_foreign_objects() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    origin.foreign_put("cloud", "pics/lock", "theirs");
    origin.foreign_put("cloud", "pics/big", vec![7; 200_000]);
    let (node, _) = start(&origin, options(&origin));
    let s3 = node.s3();
    let put = |key: &str, body: &'static [u8]| {
        s3.put_object().bucket("photos").key(key).body(ByteStream::from_static(body))
    };
    let refused = put("lock", b"ours").if_none_match("*").send().await.unwrap_err();
    assert_eq!(refused.code(), Some("PreconditionFailed"));
    let refused =
        put("lock", b"ours").if_match("\"00000000000000000000000000000000\"").send().await.unwrap_err();
    assert_eq!(refused.code(), Some("PreconditionFailed"));
    let refused =
        put("nothing", b"ours").if_match("\"00000000000000000000000000000000\"").send().await.unwrap_err();
    assert_eq!(refused.code(), Some("NoSuchKey"));
    // Over the inline threshold: refused before its body travels.
    let long: &'static [u8] = vec![1; 300_000].leak();
    let refused = put("big", long).if_none_match("*").send().await.unwrap_err();
    assert_eq!(refused.code(), Some("PreconditionFailed"));
    node.flush_wait(LIMIT);
    assert_eq!(&origin.object("cloud", "pics/lock").unwrap().body[..], b"theirs");

    put("lock", b"ours").if_match(format!("\"{}\"", md5_hex(b"theirs"))).send().await.unwrap();
    put("big", long).if_match(format!("\"{}\"", md5_hex(&vec![7; 200_000]))).send().await.unwrap();
    put("new", b"ours").if_none_match("*").send().await.unwrap();
    let again = put("new", b"again").if_none_match("*").send().await.unwrap_err();
    assert_eq!(again.code(), Some("PreconditionFailed"));
    node.flush_wait(LIMIT);
    assert_eq!(&origin.object("cloud", "pics/lock").unwrap().body[..], b"ours");
    assert_eq!(&origin.object("cloud", "pics/big").unwrap().body[..], long);
    assert_eq!(&origin.object("cloud", "pics/new").unwrap().body[..], b"ours");
    node.finish(&[]);
}

#[tokio::test]
async fn copies_of_foreign_objects_are_whole() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    origin.foreign_store("cloud", "pics/a", foreign(3, 6 << 20));
    let (node, _) = start(&origin, options(&origin));
    let s3 = node.s3();
    s3.create_bucket().bucket("elsewhere").send().await.unwrap();
    for (bucket, key) in [("photos", "copy"), ("elsewhere", "copy")] {
        s3.copy_object().copy_source("photos/a").bucket(bucket).key(key).send().await.unwrap();
        let got = s3.get_object().bucket(bucket).key(key).send().await.unwrap();
        assert_eq!(got.metadata().unwrap()["owner"], "somebody 3", "{bucket}");
        assert_eq!(&got.body.collect().await.unwrap().into_bytes()[..], &bytes(3, 6 << 20)[..], "{bucket}");
    }
    let upload = s3.create_multipart_upload().bucket("photos").key("joined").send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let part = s3.upload_part_copy().bucket("photos").key("joined").upload_id(id).part_number(1);
    let part = part.copy_source("photos/a").copy_source_range("bytes=1-5999999").send().await.unwrap();
    let etag = part.copy_part_result().unwrap().e_tag().unwrap();
    let part = aws_sdk_s3::types::CompletedPart::builder().part_number(1).e_tag(etag).build();
    let parts = aws_sdk_s3::types::CompletedMultipartUpload::builder().parts(part).build();
    let complete = s3.complete_multipart_upload().bucket("photos").key("joined").upload_id(id);
    complete.multipart_upload(parts).send().await.unwrap();
    let got = s3.get_object().bucket("photos").key("joined").send().await.unwrap();
    assert_eq!(&got.body.collect().await.unwrap().into_bytes()[..], &bytes(3, 6 << 20)[1..6_000_000]);
    node.flush_wait(LIMIT);
    assert_eq!(&origin.object("cloud", "pics/copy").unwrap().body[..], &bytes(3, 6 << 20)[..]);
    assert_eq!(&origin.object("cloud", "pics/joined").unwrap().body[..], &bytes(3, 6 << 20)[1..6_000_000]);
    node.finish(&[]);
}

/// What is built on comes back whole first; what never can is an error that says so, and no reason to try again.
#[tokio::test]
async fn what_is_longer_than_the_site_is_read_and_not_built_on() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let long = bytes(1, 40 << 20);
    origin.foreign_put("cloud", "pics/long", long.clone());
    let (node, mut resp) = start(&origin, options(&origin).set("capacity", "\"32MiB\""));
    let s3 = node.s3();
    let copy = s3.copy_object().copy_source("photos/long").bucket("photos").key("copy").send().await;
    let copy = copy.unwrap_err();
    assert_eq!(copy.code(), Some("InvalidRequest"));
    assert!(copy.message().is_some_and(|text| text.contains("capacity is 33554432 bytes")), "{copy:?}");
    let append = said(&resp.call(&["APPEND", "long", "x"]).unwrap());
    let says = append.starts_with("-ERR forebay: ") && append.contains("41943040 bytes are not all here");
    assert!(says, "{append}");
    let taken = said(&resp.call(&["GETDEL", "long"]).unwrap());
    assert!(
        taken.starts_with("-ERR forebay: ") && taken.contains("41943040 bytes are not all here"),
        "{taken}"
    );
    assert!(get(&mut resp, "long") == Some(long));
    // What was kept of it takes nobody's room.
    assert_eq!(resp.call(&["SET", "long", "short"]).unwrap(), b"+OK\r\n");
    assert_eq!(get(&mut resp, "long"), Some(b"short".to_vec()));
    node.flush_wait(LIMIT);
    node.finish(&[]);
}

#[test]
fn commands_carry_foreign_values_on() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for (key, value) in [
        ("counter", "41"),
        ("float", "1.5"),
        ("text", "abc"),
        ("hole", "0123456789"),
        ("old", "before"),
        ("taken", "before"),
        ("source", "moved"),
        ("copied", "twice"),
        ("target", "before"),
        ("expiring", "soon gone"),
        ("read-out", "once"),
        ("a", "1"),
        ("watched", "1"),
    ] {
        origin.foreign_put("cloud", &format!("pics/{key}"), value);
    }
    origin.foreign_put("cloud", "pics/long", vec![b'x'; 5 << 20]);
    let (node, mut resp) = start(&origin, options(&origin));
    let mut expect = |request: &[&str], reply: &str| {
        assert_eq!(said(&resp.call(request).unwrap()), said(reply.as_bytes()), "{request:?}");
    };
    expect(&["INCR", "counter"], ":42\r\n");
    expect(&["INCRBYFLOAT", "float", "0.25"], "$4\r\n1.75\r\n");
    expect(&["APPEND", "text", "def"], ":6\r\n");
    expect(&["GET", "text"], "$6\r\nabcdef\r\n");
    expect(&["SETRANGE", "hole", "3", "xyz"], ":10\r\n");
    expect(&["GETRANGE", "hole", "2", "6"], "$5\r\n2xyz6\r\n");
    expect(&["SET", "taken", "mine", "NX"], "$-1\r\n");
    expect(&["SETNX", "taken", "mine"], ":0\r\n");
    expect(&["MSETNX", "free", "1", "taken", "2"], ":0\r\n");
    expect(&["EXISTS", "free"], ":0\r\n");
    expect(&["SET", "absent", "mine", "XX"], "$-1\r\n");
    expect(&["SET", "old", "after", "XX", "GET"], "$6\r\nbefore\r\n");
    expect(&["RENAMENX", "source", "taken"], ":0\r\n");
    expect(&["RENAME", "source", "target"], "+OK\r\n");
    expect(&["GET", "target"], "$5\r\nmoved\r\n");
    expect(&["EXISTS", "source"], ":0\r\n");
    expect(&["RENAME", "absent", "x"], "-ERR no such key\r\n");
    expect(&["COPY", "copied", "taken"], ":0\r\n");
    expect(&["COPY", "copied", "copy"], ":1\r\n");
    expect(&["GETDEL", "read-out"], "$4\r\nonce\r\n");
    expect(&["GET", "read-out"], "$-1\r\n");
    expect(&["TYPE", "copied"], "+string\r\n");
    expect(&["TYPE", "absent"], "+none\r\n");
    expect(&["PEXPIRE", "expiring", "1"], ":1\r\n");
    expect(&["MGET", "a", "absent", "copied"], "*3\r\n$1\r\n1\r\n$-1\r\n$5\r\ntwice\r\n");
    expect(&["APPEND", "long", "end"], &format!(":{}\r\n", (5 << 20) + 3));
    expect(&["GETRANGE", "long", "-5", "-1"], "$5\r\nxxend\r\n");
    expect(&["WATCH", "watched"], "+OK\r\n");
    expect(&["MULTI"], "+OK\r\n");
    expect(&["INCR", "watched"], "+QUEUED\r\n");
    expect(&["INCR", "a"], "+QUEUED\r\n");
    expect(&["KEYS", "*"], "+QUEUED\r\n");
    expect(
        &["EXEC"],
        "*3\r\n:2\r\n:2\r\n-ERR forebay: 'keys' has to ask an origin here, which a transaction cannot wait for\r\n",
    );
    wait::until("the key has expired in the origin", LIMIT, || {
        match origin.object("cloud", "pics/expiring") {
            None => Ok(()),
            Some(_) => Err("it is there"),
        }
    })
    .unwrap();
    node.flush_wait(LIMIT);
    for (key, value) in [
        ("counter", "42"),
        ("float", "1.75"),
        ("text", "abcdef"),
        ("hole", "012xyz6789"),
        ("old", "after"),
        ("taken", "before"),
        ("target", "moved"),
        ("copied", "twice"),
        ("copy", "twice"),
        ("a", "2"),
        ("watched", "2"),
    ] {
        let object = origin.object("cloud", &format!("pics/{key}")).unwrap_or_else(|| panic!("no {key}"));
        assert_eq!(object.body.escape_ascii().to_string(), value, "{key}");
    }
    for key in ["source", "read-out", "free", "absent", "x"] {
        assert!(origin.object("cloud", &format!("pics/{key}")).is_none(), "{key}");
    }
    assert_eq!(origin.object("cloud", "pics/long").unwrap().body.len(), (5 << 20) + 3);
    origin.record().assert_clean();
    node.finish(&[]);
}

#[tokio::test]
async fn a_read_only_mount_is_read_and_never_written() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    for number in 0..50 {
        origin.foreign_store("cloud", &format!("pics/k{number}"), foreign(number, 100));
    }
    origin.foreign_put("cloud", "pics/counter", "1");
    let options = NodeOptions::default()
        .mount("/photos", &origin, "cloud/pics")
        .last_mount_set("mode", "\"read-only\"")
        .mount("/scratch", &origin, "cloud/scratch");
    let (node, mut resp) = start(&origin, options);
    let (changes, s3) = (origin.changes(), node.s3());
    assert_eq!(get(&mut resp, "k7"), Some(bytes(7, 100)));
    assert_eq!(get(&mut resp, "nothing"), None);
    assert_eq!(array(&resp.call(&["KEYS", "k*"]).unwrap()).len(), 50);

    let long = "x".repeat(1 << 20);
    for request in [
        &["SET", "k1", "v"][..],
        &["SET", "new", "v"],
        &["SET", "long", &long],
        &["MSET", "k1", "v", "k2", &long],
        &["SETEX", "k1", "10", "v"],
        &["APPEND", "k1", "v"],
        &["INCR", "counter"],
        &["DEL", "k1"],
        &["DEL", "never-seen"],
        &["GETDEL", "k1"],
        &["EXPIRE", "k1", "10"],
        &["RENAME", "k1", "k2"],
        &["COPY", "k1", "new"],
        &["SETRANGE", "k1", "0", "v"],
    ] {
        let reply = said(&resp.call(request).unwrap());
        assert!(
            reply.starts_with("-NOPERM forebay: /photos is a read-only mount"),
            "{}: {reply}",
            request[0]
        );
    }
    for (key, len) in [("k1", 3), ("new", 3), ("long", 1 << 20)] {
        let put = s3.put_object().bucket("photos").key(key).body(ByteStream::from(vec![1; len])).send().await;
        assert_eq!(put.unwrap_err().code(), Some("AccessDenied"), "{key}");
    }
    let begun = s3.create_multipart_upload().bucket("photos").key("new").send().await.unwrap_err();
    assert_eq!(begun.code(), Some("AccessDenied"));
    let deleted = s3.delete_object().bucket("photos").key("k1").send().await.unwrap_err();
    assert_eq!(deleted.code(), Some("AccessDenied"));
    let copied =
        s3.copy_object().copy_source("photos/k1").bucket("photos").key("k2").send().await.unwrap_err();
    assert_eq!(copied.code(), Some("AccessDenied"));
    let many = aws_sdk_s3::types::Delete::builder()
        .objects(aws_sdk_s3::types::ObjectIdentifier::builder().key("k1").build().unwrap())
        .build()
        .unwrap();
    let deleted = s3.delete_objects().bucket("photos").delete(many).send().await.unwrap();
    assert_eq!(deleted.errors().len(), 1, "{deleted:?}");
    assert_eq!(deleted.errors()[0].code(), Some("AccessDenied"));

    // What is read there can be written elsewhere.
    s3.copy_object().copy_source("photos/k3").bucket("scratch").key("k3").send().await.unwrap();
    node.flush_wait(LIMIT);
    assert_eq!(&origin.object("cloud", "scratch/k3").unwrap().body[..], &bytes(3, 100)[..]);
    let touched = origin.record();
    let touched = touched.changes()[changes..].iter().filter(|change| change.key.starts_with("pics/"));
    assert_eq!(touched.count(), 0, "nothing was written where nothing may be");
    let stray = origin.record();
    let stray = stray
        .changes()
        .iter()
        .filter(|change| change.source != forebay_integration::origin_sim::record::Source::Foreign);
    assert!(stray.filter(|change| change.key.starts_with("pics/")).count() == 0, "not even by a probe");
    let listed = String::from_utf8(node.forebay(&["mount", "ls"]).stdout).unwrap();
    assert!(listed.contains("/photos -> s3://cloud/pics, read-only"), "{listed}");
    node.finish(&[]);
}
