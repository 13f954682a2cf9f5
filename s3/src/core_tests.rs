//! The whole front end over the real core, as raw bytes on a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use forebay_storage::mutation::{Existence, Mutation, SetExpiry};
use forebay_storage::node::{Node, StorageConfig};
use forebay_storage::object_name;
use forebay_storage::submission::Submission;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::task::JoinHandle;

mod bucket_operations;
mod large_bodies;
mod multipart;

use super::*;
use crate::testing::client::{Answer, Connection, within};
use crate::testing::{ACCESS_KEY, RawRequest, SECRET_KEY};

/// What a canonical path leaves as it is.
const UNRESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

struct Server {
    address: SocketAddr,
    node: Node,
    shutdown: CancellationToken,
    task: JoinHandle<io::Result<()>>,
    _dir: tempfile::TempDir,
}

async fn start() -> Server {
    start_in("us-east-1", 64 << 10).await
}

/// With the bucket `bucket`, and bodies of up to `body_bytes`.
async fn start_in(region: &str, body_bytes: u64) -> Server {
    start_node(body_bytes, |config| config.region = region.to_owned()).await
}

/// With other settings of the front end.
async fn start_with(change: impl FnOnce(&mut S3Config)) -> Server {
    start_node(64 << 10, change).await
}

async fn start_node(body_bytes: u64, change: impl FnOnce(&mut S3Config)) -> Server {
    let dir = tempfile::tempdir().expect("a directory");
    let mut storage =
        StorageConfig { map_bytes: 1 << 30, journal_file_bytes: 16 << 20, ..StorageConfig::new(dir.path()) };
    storage.limits.inline_bytes = body_bytes;
    let node = Node::start(storage).await.expect("starts");
    node.store().open_bucket(b"bucket").await.expect("a bucket");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let shutdown = CancellationToken::new();
    let mut config = S3Config::new(ACCESS_KEY, SecretAccessKey::new(SECRET_KEY));
    change(&mut config);
    let task = tokio::spawn(serve(listener, node.store(), config, shutdown.clone()));
    Server { address, node, shutdown, task, _dir: dir }
}

impl Server {
    async fn ask(&self, request: RawRequest) -> Answer {
        let mut connection = Connection::open(self.address).await;
        connection.send(&request.sign()).await;
        if request.method == "HEAD" { connection.head_answer().await } else { connection.answer().await }
    }

    async fn put(&self, key: &str, body: &[u8]) -> Answer {
        let answer = self.ask(object("PUT", key).body(body)).await;
        assert_eq!(answer.status, 200, "{key}: {}", answer.body);
        answer
    }

    /// What RESP would do.
    async fn resp(&self, mutations: &[Mutation<'_>]) {
        let mut submission = Submission::new();
        for mutation in mutations {
            submission.push(mutation);
        }
        self.node.store().submit(submission).await.expect("applied");
    }

    fn bucket(&self) -> forebay_storage::object::BucketId {
        self.node.store().bucket(b"bucket").expect("the bucket")
    }

    async fn stop(self) {
        self.shutdown.cancel();
        within(self.task).await.expect("no panic").expect("served");
        self.node.stop().await;
    }
}

fn object(method: &'static str, key: &str) -> RawRequest {
    let key = utf8_percent_encode(key, UNRESERVED);
    RawRequest::new(method, &format!("/bucket/{key}"))
}

fn string<'a>(server: &Server, key: &'a [u8], value: &'a [u8], expiry: SetExpiry) -> Mutation<'a> {
    Mutation::SetString {
        bucket: server.bucket(),
        key,
        value: value.into(),
        expiry,
        existence: Existence::Any,
    }
}

/// The texts of all elements of that name.
fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open)
        .skip(1)
        .filter_map(|rest| rest.split_once(&close))
        .map(|(text, _)| text.to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn set_then_get_object_and_the_reverse() {
    let server = start().await;
    server.resp(&[string(&server, b"from-resp", b"hello", SetExpiry::Clear)]).await;
    let answer = server.ask(object("GET", "from-resp")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    assert!(answer.header("etag").is_some_and(|etag| etag.ends_with("-1\"")), "{}", answer.head);
    assert_eq!(answer.header("content-type"), Some("binary/octet-stream"));
    assert_eq!(answer.header("x-forebay-origin"), Some("local"));
    let first = answer.header("x-forebay-version").expect("a version").to_owned();

    let put = server.put("from-resp", b"world").await;
    assert_eq!(put.header("etag"), Some("\"7d793037a0760186574b0282f2f435e7\""));
    assert_eq!(put.header("x-forebay-ack"), Some("1/1 copy"));
    assert!(put.header("x-forebay-version").is_some_and(|version| version > first.as_str()));
    let view = server.node.store().view().expect("a view");
    let row = view.fetch(server.bucket(), b"from-resp").await.expect("read").expect("there");
    assert_eq!(row.inline_body(), Some(&b"world"[..]));
    drop(view);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_is_shown_and_a_put_clears_it() {
    let server = start().await;
    let at = server.node.store().now_ms() + 3_600_000;
    server.resp(&[string(&server, b"k", b"v", SetExpiry::At(at))]).await;
    for method in ["GET", "HEAD"] {
        let answer = server.ask(object(method, "k")).await;
        let expected = timestamp::rfc3339_millis(timestamp::from_ms(at));
        assert_eq!(answer.header("x-forebay-expires-at"), Some(expected.as_str()), "{method}");
    }
    server.put("k", b"v").await;
    assert_eq!(server.ask(object("HEAD", "k")).await.header("x-forebay-expires-at"), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_get_return_all_that_put_sent() {
    let server = start().await;
    let sent = [
        ("content-type", "text/plain"),
        ("content-encoding", "gzip"),
        ("content-language", "de"),
        ("content-disposition", "attachment; filename=\"a b\""),
        ("cache-control", "max-age=60"),
        ("expires", "Thu, 01 Dec 2033 16:00:00 GMT"),
        ("x-amz-meta-mtime", "1700000000.25"),
        ("x-amz-checksum-crc32", "NhCmhg=="),
    ];
    let request = sent.iter().fold(object("PUT", "meta").body(b"hello"), |r, (n, v)| r.header(n, v));
    let put = server.ask(request).await;
    assert_eq!((put.status, put.header("x-amz-checksum-crc32")), (200, Some("NhCmhg==")), "{}", put.body);
    for method in ["GET", "HEAD"] {
        let answer = server.ask(object(method, "meta").header("x-amz-checksum-mode", "ENABLED")).await;
        for (name, value) in sent {
            assert_eq!(answer.header(name), Some(value), "{method} {name}");
        }
        assert_eq!(answer.header("content-length"), Some("5"), "{method}");
        assert_eq!(answer.header("etag"), put.header("etag"), "{method}");
        assert!(answer.header("last-modified").is_some(), "{method}");
        let plain = server.ask(object(method, "meta")).await;
        assert_eq!(plain.header("x-amz-checksum-crc32"), None, "{method}");
        let part =
            object(method, "meta").header("x-amz-checksum-mode", "ENABLED").header("range", "bytes=0-1");
        assert_eq!(server.ask(part).await.header("x-amz-checksum-crc32"), None, "{method} of a part");
    }
    server.stop().await;
}

/// Hole 8.
#[tokio::test(flavor = "multi_thread")]
async fn response_parameters_override_on_get_and_head() {
    let server = start().await;
    server.put("k", b"v").await;
    for method in ["GET", "HEAD"] {
        let request = object(method, "k").query("response-content-type", "text%2Fx");
        assert_eq!(server.ask(request).await.header("content-type"), Some("text/x"), "{method}");
    }
    server.stop().await;
}

/// Hole 7, and the ranges themselves.
#[tokio::test(flavor = "multi_thread")]
async fn ranges() {
    let server = start().await;
    server.put("k", b"0123456789").await;
    for (range, status, body, content_range) in [
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
        ("bytes=-2", 206, "89", Some("bytes 8-9/10")),
        ("bytes=8-99", 206, "89", Some("bytes 8-9/10")),
        ("bytes=4-2", 200, "0123456789", None),
        ("bytes=0-1,4-5", 200, "0123456789", None),
        ("nonsense", 200, "0123456789", None),
    ] {
        let answer = server.ask(object("GET", "k").header("range", range)).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{range}");
        assert_eq!(answer.header("content-range"), content_range, "{range}");
        let head = server.ask(object("HEAD", "k").header("range", range)).await;
        assert_eq!((head.status, head.header("content-range")), (status, content_range), "{range}");
        assert_eq!(head.header("content-length"), Some(body.len().to_string().as_str()), "{range}");
    }
    let answer = server.ask(object("GET", "k").header("range", "bytes=10-")).await;
    assert_eq!((answer.status, answer.code()), (416, "InvalidRange"));
    assert_eq!(answer.header("content-range"), Some("bytes */10"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditional_reads() {
    let server = start().await;
    let etag = server.put("k", b"v").await.header("etag").expect("an ETag").to_owned();
    let bare = etag.trim_matches('"').to_owned();
    for (name, value, status) in [
        ("if-match", etag.as_str(), 200),
        ("if-match", bare.as_str(), 200),
        ("if-match", "\"other\"", 412),
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"other\"", 200),
        ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT", 304),
        ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 412),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = server.ask(object(method, "k").header(name, value)).await;
            assert_eq!(answer.status, status, "{method} {name}: {value}");
            if status == 304 {
                assert_eq!((answer.header("etag"), answer.body.as_str()), (Some(etag.as_str()), ""));
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditional_puts_are_judged_at_apply() {
    let server = start().await;
    let put = |name: &str, value: &str| object("PUT", "k").header(name, value).body(b"v");
    let absent = server.ask(put("if-match", "\"abc\"")).await;
    assert_eq!((absent.status, absent.code()), (404, "NoSuchKey"));
    let created = server.ask(put("if-none-match", "*")).await;
    assert_eq!(created.status, 200, "{}", created.body);
    let again = server.ask(put("if-none-match", "*")).await;
    assert_eq!((again.status, again.code()), (412, "PreconditionFailed"));
    let etag = created.header("etag").expect("an ETag");
    assert_eq!(server.ask(put("if-match", etag)).await.status, 200);
    assert_eq!(server.ask(put("if-match", etag.trim_matches('"'))).await.status, 200);
    assert_eq!(server.ask(put("if-match", "\"abc\"")).await.status, 412);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_concurrent_creates_one_wins() {
    let server = start().await;
    let wires: Vec<Vec<u8>> = (0..64)
        .map(|i| object("PUT", "one").header("if-none-match", "*").body(format!("{i}").as_bytes()).sign())
        .collect();
    let address = server.address;
    let tasks: Vec<JoinHandle<u16>> = wires
        .into_iter()
        .map(|wire| {
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                connection.send(&wire).await;
                connection.answer().await.status
            })
        })
        .collect();
    let mut statuses = BTreeMap::new();
    for task in tasks {
        *statuses.entry(task.await.expect("no panic")).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 1), (412, 63)]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_is_idempotent() {
    let server = start().await;
    server.put("k", b"v").await;
    assert_eq!(server.ask(object("DELETE", "k")).await.status, 204);
    assert_eq!(server.ask(object("DELETE", "k")).await.status, 204);
    let answer = server.ask(object("GET", "k")).await;
    assert_eq!((answer.status, answer.code()), (404, "NoSuchKey"));
    assert_eq!(server.ask(object("HEAD", "k")).await.status, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_missing_bucket() {
    let server = start().await;
    for method in ["GET", "PUT", "DELETE"] {
        let answer = server.ask(RawRequest::new(method, "/missing/k").body(b"v")).await;
        assert_eq!((answer.status, answer.code()), (404, "NoSuchBucket"), "{method}");
    }
    let answer = server.ask(RawRequest::new("GET", "/missing").query("list-type", "2")).await;
    assert_eq!((answer.status, answer.code()), (404, "NoSuchBucket"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn life_of_a_bucket() {
    let server = start().await;
    let bucket = |method| RawRequest::new(method, "/photos");
    assert_eq!(server.ask(bucket("HEAD")).await.status, 404);
    let created = server.ask(bucket("PUT")).await;
    assert_eq!((created.status, created.header("location")), (200, Some("/photos")), "{}", created.body);
    assert_eq!(server.ask(bucket("PUT")).await.status, 200);
    let head = server.ask(bucket("HEAD")).await;
    assert_eq!((head.status, head.header("x-amz-bucket-region")), (200, Some("us-east-1")));
    let location = server.ask(bucket("GET").query("location", "")).await;
    assert!(location.body.contains("LocationConstraint"), "{}", location.body);
    let names = elements(&server.ask(RawRequest::new("GET", "/")).await.body, "Name");
    assert_eq!(names, ["bucket", "photos"]);
    assert_eq!(server.ask(RawRequest::new("PUT", "/photos/k").body(b"v")).await.status, 200);
    let full = server.ask(bucket("DELETE")).await;
    assert_eq!((full.status, full.code()), (409, "BucketNotEmpty"));
    assert_eq!(server.ask(RawRequest::new("DELETE", "/photos/k")).await.status, 204);
    assert_eq!(server.ask(bucket("DELETE")).await.status, 204);
    let gone = server.ask(bucket("DELETE")).await;
    assert_eq!((gone.status, gone.code()), (404, "NoSuchBucket"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bucket_again_elsewhere_is_a_conflict() {
    let server = start_in("eu-central-1", 64 << 10).await;
    let again = server.ask(RawRequest::new("PUT", "/bucket")).await;
    assert_eq!((again.status, again.code()), (409, "BucketAlreadyOwnedByYou"));
    let location = server.ask(RawRequest::new("GET", "/bucket").query("location", "")).await;
    assert!(location.body.contains("eu-central-1"), "{}", location.body);
    let body = b"<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
        <LocationConstraint>eu-central-1</LocationConstraint></CreateBucketConfiguration>";
    let created = server.ask(RawRequest::new("PUT", "/photos").body(body)).await;
    assert_eq!(created.status, 200, "{}", created.body);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_on_the_wire_against_a_model() {
    let server = start().await;
    let names = [
        "a",
        "a/",
        "a//b",
        "a/b",
        "a/b/c",
        "a b",
        "a+b",
        "a%b",
        "a\"b",
        "a<&>b",
        "a\u{1F}b",
        "b",
        "c/1",
        "c/2",
        "ü",
        "日本/語",
        ".",
    ];
    for name in names {
        server.put(name, name.as_bytes()).await;
    }
    for delimiter in ["", "/"] {
        for max_keys in [1, 2, 3, 100] {
            let (mut keys, mut prefixes) = (Vec::new(), BTreeSet::new());
            let mut token: Option<String> = None;
            loop {
                let mut request = RawRequest::new("GET", "/bucket")
                    .query("list-type", "2")
                    .query("encoding-type", "url")
                    .query("max-keys", &max_keys.to_string());
                if !delimiter.is_empty() {
                    request = request.query("delimiter", "%2F");
                }
                if let Some(token) = &token {
                    request = request.query("continuation-token", token);
                }
                let page = server.ask(request).await;
                assert_eq!(page.status, 200, "{}", page.body);
                let decode = |text: &String| percent_decode_str(text).decode_utf8_lossy().into_owned();
                let found: Vec<String> = elements(&page.body, "Key").iter().map(decode).collect();
                let common = elements(&page.body, "CommonPrefixes");
                assert_eq!(elements(&page.body, "KeyCount"), [(found.len() + common.len()).to_string()]);
                assert!(found.len() + common.len() <= max_keys);
                keys.extend(found);
                prefixes.extend(common.iter().flat_map(|c| elements(c, "Prefix")).map(|p| decode(&p)));
                token = elements(&page.body, "NextContinuationToken").pop();
                assert_eq!(elements(&page.body, "IsTruncated"), [token.is_some().to_string()]);
                if token.is_none() {
                    break;
                }
            }
            let (mut expected_keys, mut expected_prefixes) = (BTreeSet::new(), BTreeSet::new());
            for name in names {
                match name.split_once('/').filter(|_| !delimiter.is_empty()) {
                    Some((directory, _)) => drop(expected_prefixes.insert(format!("{directory}/"))),
                    None => drop(expected_keys.insert(name.to_owned())),
                }
            }
            assert_eq!(keys, expected_keys.into_iter().collect::<Vec<_>>(), "{delimiter:?} {max_keys}");
            assert_eq!(prefixes, expected_prefixes, "{delimiter:?} {max_keys}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_has_etags_sizes_and_owners_and_checks_its_arguments() {
    let server = start().await;
    server.put("a", b"hello").await;
    let list = |name: &str, value: &str| {
        RawRequest::new("GET", "/bucket").query("list-type", "2").query(name, value)
    };
    let page = server.ask(list("fetch-owner", "true")).await.body;
    assert_eq!(elements(&page, "Size"), ["5"]);
    assert!(page.contains("5d41402abc4b2a76b9719d911017c592"), "{page}");
    assert_eq!(elements(&page, "Owner").len(), 1);
    assert_eq!(elements(&page, "StorageClass"), ["STANDARD"]);
    assert!(elements(&server.ask(list("start-after", "a")).await.body, "Key").is_empty());
    assert_eq!(elements(&server.ask(list("prefix", "a")).await.body, "Key"), ["a"]);
    for (name, value) in
        [("max-keys", "-1"), ("max-keys", "many"), ("encoding-type", "base64"), ("continuation-token", "no")]
    {
        assert_eq!(server.ask(list(name, value)).await.status, 400, "{name}={value}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_utf8_is_reached_by_its_name() {
    let server = start().await;
    let key = b"caf\xE9";
    server.resp(&[string(&server, key, b"latin", SetExpiry::Clear)]).await;
    let name = object_name::encode_key(key).into_owned();
    let page = server.ask(RawRequest::new("GET", "/bucket").query("list-type", "2")).await;
    assert_eq!(elements(&page.body, "Key"), [name.as_str()]);
    assert_eq!(server.ask(object("GET", &name)).await.body, "latin");
    server.put(&name, b"by S3").await;
    let view = server.node.store().view().expect("a view");
    assert!(view.fetch(server.bucket(), key).await.expect("read").is_some());
    drop(view);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_refused_with_its_limit() {
    let server = start().await;
    let limit = crate::upload_body::UPLOAD_BYTES_MAX;
    let head =
        object("PUT", "k").payload("UNSIGNED-PAYLOAD").header("content-length", &(limit + 1).to_string());
    let large = server.ask(head).await;
    assert_eq!((large.status, large.code()), (400, "EntityTooLarge"));
    assert!(large.body.contains(&limit.to_string()), "{}", large.body);
    let reserved = server.ask(object("PUT", "m").header("x-amz-meta-forebay-version", "1")).await;
    assert_eq!((reserved.status, reserved.code()), (400, "InvalidArgument"));
    let metadata = server.ask(object("PUT", "m").header("x-amz-meta-a", &"x".repeat(2048))).await;
    assert_eq!((metadata.status, metadata.code()), (400, "MetadataTooLarge"));
    let long = server.ask(object("PUT", &"k".repeat(1025))).await;
    assert_eq!((long.status, long.code()), (400, "KeyTooLongError"));
    assert_eq!(server.ask(object("PUT", &"k".repeat(1024))).await.status, 200);
    assert_eq!(server.ask(object("HEAD", "m")).await.status, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_composed_body_is_streamed() {
    let server = start_in("us-east-1", 1 << 20).await;
    let piece: Vec<u8> = (0..60_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    for _ in 0..10 {
        server
            .resp(&[Mutation::Append { bucket: server.bucket(), key: b"long", value: piece[..].into() }])
            .await;
    }
    let whole = piece.repeat(10);
    let answer = server.ask(object("GET", "long")).await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("600000")));
    assert!(answer.body.as_bytes() == whole, "the body differs");
    let answer = server.ask(object("GET", "long").header("range", "bytes=100000-499999")).await;
    assert_eq!(answer.status, 206);
    assert!(answer.body.as_bytes() == &whole[100_000..500_000], "the part differs");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_leave_the_object_as_it_is() {
    let server = start().await;
    let before = server.put("k", b"v").await.header("etag").map(str::to_owned);
    for (method, name, status) in [
        ("PUT", "tagging", 501),
        ("POST", "tagging", 501),
        ("DELETE", "tagging", 204),
        ("PUT", "acl", 501),
        ("DELETE", "acl", 501),
        ("PUT", "retention", 501),
        ("PUT", "versionId", 501),
        ("DELETE", "versionId", 501),
        ("PUT", "partNumber", 501),
        ("DELETE", "partNumber", 501),
        ("PUT", "uploadId", 501),
        ("PUT", "uploads", 501),
        ("DELETE", "uploads", 501),
        ("POST", "uploadId", 404),
        ("DELETE", "uploadId", 404),
    ] {
        let answer = server.ask(object(method, "k").query(name, "1").body(b"evil")).await;
        assert_eq!(answer.status, status, "{method} ?{name}: {}", answer.body);
    }
    let after = server.ask(object("GET", "k")).await;
    assert_eq!((after.body.as_str(), after.header("etag").map(str::to_owned)), ("v", before));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_put_and_get() {
    let server = start().await;
    for request in [object("PUT", "k").body(b"hello"), object("GET", "k")] {
        let mut connection = Connection::open(server.address).await;
        connection.send(&request.presign(60)).await;
        let answer = connection.answer().await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    assert_eq!(server.ask(object("GET", "k")).await.body, "hello");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_checksum_is_verified_kept_and_returned() {
    let server = start().await;
    for (name, digest) in [
        ("crc32", "cbf43926"),
        ("crc32c", "e3069283"),
        ("crc64nvme", "ae8b14860a799888"),
        ("sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("sha256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ] {
        let header = format!("x-amz-checksum-{name}");
        let value = BASE64.encode(hex::decode(digest).expect("hex"));
        let key = format!("sum-{name}");
        let by_header = server.ask(object("PUT", &key).header(&header, &value).body(b"123456789")).await;
        let trailers = [(header.as_str(), value.as_str())];
        let by_trailer = server.ask(object("PUT", &key).signed_chunks(&[b"12345", b"6789"], &trailers)).await;
        let read = server.ask(object("GET", &key).header("x-amz-checksum-mode", "ENABLED")).await;
        for answer in [by_header, by_trailer, read] {
            assert_eq!(
                (answer.status, answer.header(&header)),
                (200, Some(value.as_str())),
                "{}",
                answer.body
            );
            assert_eq!(answer.header("x-amz-checksum-type"), Some("FULL_OBJECT"), "{name}");
        }
    }
    server.stop().await;
}
