//! The front layer and the listener over a socket, as raw bytes, with a map in place of the core.
//!
//! Each hole that s3s 0.14 leaves open has its test here or, where an object must be stored first, in
//! `core_tests.rs` over the real core.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::auth::SigningKeys;
use crate::body::{AlsoWanted, Announced, Receiving};
use crate::config::SecretAccessKey;
use crate::service::ObjectRoute;
use crate::testing::client::{Answer, Connection, within};
use crate::testing::{ACCESS_KEY, RawRequest, SECRET_KEY};
use crate::{listener, service};

const LIMIT: u64 = 65_536;

type Objects = Arc<Mutex<BTreeMap<Vec<u8>, Bytes>>>;

/// Stores verified bodies in a map; answers 412 without touching the body for keys that begin with
/// `refused`.
struct MapOperations {
    objects: Objects,
    keys: Arc<SigningKeys>,
    stall_timeout: Duration,
}

#[async_trait::async_trait]
impl ObjectOperations for MapOperations {
    async fn run(&self, facts: &RequestFacts, headers: &HeaderMap) -> Result<S3Response<Body>, Refused> {
        let Target::Object { key, .. } = &facts.target else {
            return Err(Refused::not_implemented("no object"));
        };
        match facts.operation {
            Operation::PutObject if key.starts_with(b"refused") => {
                Err(Refused::precondition_failed("If-Match"))
            }
            Operation::PutObject => {
                let announced = Announced::read(headers, LIMIT)?;
                let claim = facts.claim.as_ref().expect("s3s lets no anonymous request through");
                let receiving = Receiving {
                    body: &facts.body,
                    claim,
                    keys: &self.keys,
                    stall_timeout: self.stall_timeout,
                };
                let body = announced.receive(receiving, AlsoWanted::default()).await?;
                self.objects.lock().expect("unpoisoned").insert(key.clone(), body.bytes);
                Ok(S3Response::new(Body::empty()))
            }
            Operation::GetObject => match self.objects.lock().expect("unpoisoned").get(key) {
                Some(bytes) => Ok(S3Response::new(Body::from(bytes.clone()))),
                None => Err(Refused::no_such_key()),
            },
            Operation::NotImplemented(name) => Err(Refused::not_implemented(name)),
            _ => Err(Refused::not_implemented("not an operation of the map")),
        }
    }
}

/// s3s answers each bucket operation with 501.
struct NoBuckets;

impl S3 for NoBuckets {}

struct Server {
    address: SocketAddr,
    objects: Objects,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

fn config() -> S3Config {
    S3Config::new(ACCESS_KEY, SecretAccessKey::new(SECRET_KEY))
}

async fn start(config: S3Config) -> Server {
    let config = Arc::new(config);
    let objects = Objects::default();
    let keys = Arc::new(SigningKeys::new(config.secret_access_key.clone()));
    let operations = Arc::new(MapOperations {
        objects: Arc::clone(&objects),
        keys: Arc::clone(&keys),
        stall_timeout: config.stall_timeout,
    });
    let ids = Arc::new(RequestIds::new().expect("random bytes"));
    let mut builder = S3ServiceBuilder::new(NoBuckets);
    builder.set_route(ObjectRoute { objects: Arc::clone(&operations), ids: Arc::clone(&ids) });
    service::configure(&mut builder, &config);
    let front = Arc::new(Front::new(builder.build(), operations, keys, Arc::clone(&config), ids));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(listener::run(listener, front, config, shutdown.clone()));
    Server { address, objects, shutdown, task }
}

impl Server {
    async fn connect(&self) -> Connection {
        Connection::open(self.address).await
    }

    /// One request on a connection of its own.
    async fn ask(&self, wire: &[u8]) -> Answer {
        let mut connection = self.connect().await;
        connection.send(wire).await;
        connection.answer().await
    }

    fn stored(&self, key: &str) -> Option<Bytes> {
        self.objects.lock().expect("unpoisoned").get(key.as_bytes()).cloned()
    }
}

fn put(key: &str) -> RawRequest {
    RawRequest::new("PUT", &format!("/bucket/{key}"))
}

/// An unsigned chunked PUT with one CRC32 trailer announced; `wire` is the coded body.
fn put_with_trailer(key: &str, decoded_length: usize, wire: &[u8]) -> RawRequest {
    put(key)
        .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
        .header("content-encoding", "aws-chunked")
        .header("x-amz-decoded-content-length", &decoded_length.to_string())
        .header("x-amz-trailer", "x-amz-checksum-crc32")
        .body(wire)
}

const HELLO_CRC32: &str = "NhCmhg==";

#[tokio::test]
async fn bodies_arrive_in_every_coding() {
    let server = start(config()).await;
    let trailer = format!("5\r\nhello\r\n0\r\nx-amz-checksum-crc32:{HELLO_CRC32}\r\n\r\n");
    for (key, wire) in [
        ("hashed", put("hashed").body(b"hello").sign()),
        ("unsigned", put("unsigned").body(b"hello").payload("UNSIGNED-PAYLOAD").sign()),
        ("presigned", put("presigned").body(b"hello").presign(60)),
        ("trailer", put_with_trailer("trailer", 5, trailer.as_bytes()).sign()),
        ("chunks", put("chunks").signed_chunks(&[b"hel", b"lo"], &[]).sign()),
        (
            "both",
            put("both").signed_chunks(&[b"hel", b"lo"], &[("x-amz-checksum-crc32", HELLO_CRC32)]).sign(),
        ),
    ] {
        let answer = server.ask(&wire).await;
        assert_eq!(answer.status, 200, "{key}: {}", answer.body);
        assert_eq!(server.stored(key).as_deref(), Some(&b"hello"[..]), "{key}");
    }
}

#[tokio::test]
async fn body_in_pieces_of_every_size_is_the_same_body() {
    let server = start(config()).await;
    let request = put("pieces").signed_chunks(&[&[7; 300], &[8; 200]], &[]);
    for size in [1, 7, 100] {
        let mut connection = server.connect().await;
        for piece in request.sign().chunks(size) {
            connection.send(piece).await;
        }
        assert_eq!(connection.answer().await.status, 200);
        assert_eq!(server.stored("pieces").map(|bytes| bytes.len()), Some(500));
    }
}

/// Hole 1.
#[tokio::test]
async fn presigned_url_with_an_added_copy_source_is_refused() {
    let server = start(config()).await;
    let wire = put("copy").unsigned_header("x-amz-copy-source", "/bucket/secret").presign(60);
    let answer = server.ask(&wire).await;
    assert_eq!((answer.status, answer.code()), (403, "AccessDenied"));
    assert!(answer.body.contains("x-amz-copy-source"), "{}", answer.body);
    let answer = server.ask(&put("meta").unsigned_header("x-amz-meta-a", "b").body(b"x").sign()).await;
    assert_eq!((answer.status, answer.code()), (403, "AccessDenied"));
    assert!(server.objects.lock().expect("unpoisoned").is_empty());
}

/// Hole 2.
#[tokio::test]
async fn one_huge_chunk_is_refused_by_its_announcement() {
    let server = start(config()).await;
    let mut huge = put("huge").signed_chunks(&[b"hello"], &[]);
    for (name, value) in &mut huge.headers {
        if name == "x-amz-decoded-content-length" {
            *value = (512u64 << 20).to_string();
        }
    }
    let answer = server.ask(&huge.sign()).await;
    assert_eq!((answer.status, answer.code()), (400, "EntityTooLarge"));
    assert!(answer.body.contains("65536"), "{}", answer.body);
    // A small body announced, a huge chunk sent.
    let answer = server.ask(&put_with_trailer("huge", 5, b"20000000\r\nhello").sign()).await;
    assert_eq!((answer.status, answer.code()), (400, "IncompleteBody"));
    assert_eq!(server.stored("huge"), None);
}

/// Hole 3.
#[tokio::test]
async fn a_chunked_body_that_is_not_whole_stores_nothing() {
    let server = start(config()).await;
    let good = format!("5\r\nhello\r\n0\r\nx-amz-checksum-crc32:{HELLO_CRC32}\r\n\r\n");
    for (case, length, wire, code) in [
        ("no final chunk", 5, "5\r\nhello\r\n", "IncompleteBody"),
        ("no trailer", 5, "5\r\nhello\r\n0\r\n\r\n", "MalformedTrailerError"),
        ("wrong checksum", 5, "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", "BadDigest"),
        (
            "another trailer",
            5,
            "5\r\nhello\r\n0\r\nx-amz-checksum-crc32c:AAAAAA==\r\n\r\n",
            "MalformedTrailerError",
        ),
        ("shorter than announced", 6, &good, "IncompleteBody"),
        ("longer than announced", 4, &good, "IncompleteBody"),
        ("bytes behind the end", 5, &format!("{good}more"), "InvalidRequest"),
    ] {
        let answer = server.ask(&put_with_trailer("broken", length, wire.as_bytes()).sign()).await;
        assert_eq!((answer.status, answer.code()), (400, code), "{case}");
        assert_eq!(server.stored("broken"), None, "{case}");
    }
}

#[tokio::test]
async fn changed_signed_chunks_store_nothing() {
    let server = start(config()).await;
    let mut wire = put("changed").signed_chunks(&[b"hello"], &[]).sign();
    let at = wire.windows(5).rposition(|w| w == b"hello").expect("the data");
    wire[at] = b'j';
    let answer = server.ask(&wire).await;
    assert_eq!((answer.status, answer.code()), (403, "SignatureDoesNotMatch"));
    assert_eq!(server.stored("changed"), None);
}

#[tokio::test]
async fn bad_digests_store_nothing() {
    let server = start(config()).await;
    for (name, value, code) in [
        ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==", "BadDigest"),
        ("content-md5", "short", "InvalidDigest"),
        ("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "BadDigest"),
        ("x-amz-checksum-crc32", "no", "InvalidRequest"),
    ] {
        let answer = server.ask(&put("digest").header(name, value).body(b"hello").sign()).await;
        assert_eq!((answer.status, answer.code()), (400, code), "{name}: {value}");
    }
    let mut wire = put("digest").body(b"hello").sign();
    let last = wire.len() - 1;
    wire[last] = b'O';
    let answer = server.ask(&wire).await;
    assert_eq!((answer.status, answer.code()), (400, "XAmzContentSHA256Mismatch"));
    assert_eq!(server.stored("digest"), None);
}

/// Hole 4.
#[tokio::test]
async fn a_refused_body_is_drained_and_the_connection_lives() {
    let server = start(config()).await;
    let mut connection = server.connect().await;
    let refusals = [
        put("refused").body(&[1; 50_000]).sign(),
        put("refused").body(&[1; 50_000]).anonymous(),
        put("k").header("x-amz-copy-source", "/b/k").body(&[1; 50_000]).sign(),
        put("k").body(&[1; 100_000]).sign(),
    ];
    for (wire, status) in refusals.iter().zip([412, 403, 501, 400]) {
        connection.send(wire).await;
        let answer = connection.answer().await;
        assert_eq!((answer.status, answer.closes()), (status, false), "{}", answer.body);
    }
    connection.send(&put("after").body(b"hello").sign()).await;
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(server.stored("after").as_deref(), Some(&b"hello"[..]));
}

/// Hole 4, the other half.
#[tokio::test]
async fn a_refused_body_too_large_to_drain_closes_the_connection() {
    let server = start(S3Config { drain_bytes_max: 1000, ..config() }).await;
    let mut connection = server.connect().await;
    let wire = put("refused").body(&[1; 50_000]).sign();
    let head = wire.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    connection.send(&wire[..head]).await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.closes()), (412, true));
    assert!(connection.is_closed().await);
}

/// Hole 5: what this crate answers is not an error of the server.
#[tokio::test]
async fn refusals_of_object_operations_are_not_logged_as_errors() {
    let errors = Arc::new(Mutex::new(Vec::new()));
    let _guard = tracing::subscriber::set_default(ErrorLog(Arc::clone(&errors)));
    let server = start(config()).await;
    let answer = server.ask(&RawRequest::new("GET", "/bucket/absent").sign()).await;
    assert_eq!((answer.status, answer.code()), (404, "NoSuchKey"));
    assert_eq!(server.ask(&put("refused").body(b"x").sign()).await.status, 412);
    assert_eq!(*errors.lock().expect("unpoisoned"), Vec::<String>::new());
    // The counter-check: the subscriber does see what s3s logs.
    server.ask(&RawRequest::new("GET", "/").sign()).await;
    assert!(!errors.lock().expect("unpoisoned").is_empty());
}

/// Keeps the targets of ERROR events.
struct ErrorLog(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for ErrorLog {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        self.0.lock().expect("unpoisoned").push(event.metadata().target().to_owned());
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Hole 6.
#[tokio::test]
async fn post_forms_are_refused_before_s3s_reads_them() {
    let server = start(config()).await;
    for content_type in ["multipart/form-data; boundary=x", "Multipart/Form-Data;boundary=x", "text/plain"] {
        let wire = RawRequest::new("POST", "/bucket")
            .header("content-type", content_type)
            .body(b"--x\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n--x--\r\n")
            .sign();
        let answer = server.ask(&wire).await;
        assert_eq!((answer.status, answer.code()), (501, "NotImplemented"), "{content_type}");
    }
}

/// Hole 7, as far as s3s is concerned: it no longer judges ranges.
#[tokio::test]
async fn bad_ranges_pass_s3s() {
    let server = start(config()).await;
    server.ask(&put("ranged").body(b"hello").sign()).await;
    for range in ["bytes=a-b", "bytes=0-1,3-4", "lines=1"] {
        let answer =
            server.ask(&RawRequest::new("GET", "/bucket/ranged").header("range", range).sign()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"), "{range}");
    }
}

/// Hole 9.
#[tokio::test]
async fn every_answer_has_its_request_id() {
    let server = start(config()).await;
    let mut seen = std::collections::BTreeSet::new();
    for (case, wire, status) in [
        ("success", put("id").body(b"x").sign(), 200),
        ("our refusal", RawRequest::new("GET", "/bucket/absent").sign(), 404),
        ("admission", RawRequest::new("GET", "/NO/absent").sign(), 400),
        ("by s3s, of the signature", RawRequest::new("GET", "/bucket/absent").anonymous(), 403),
        ("by s3s, of a bucket operation", RawRequest::new("GET", "/").sign(), 501),
    ] {
        let answer = server.ask(&wire).await;
        assert_eq!(answer.status, status, "{case}");
        let id = answer.header("x-amz-request-id").expect(case).to_owned();
        assert!(answer.header("x-amz-id-2").is_some(), "{case}");
        if status >= 400 {
            assert_eq!(answer.body.matches(&format!("<RequestId>{id}</RequestId>")).count(), 1, "{case}");
            assert_eq!(answer.body.matches("<HostId>").count(), 1, "{case}");
            assert!(answer.body.ends_with("</Error>"), "{case}");
        }
        assert!(seen.insert(id), "{case}");
    }
}

#[tokio::test]
async fn only_the_holder_of_the_secret_gets_in() {
    let server = start(config()).await;
    assert_eq!(server.ask(&RawRequest::new("GET", "/bucket/k").anonymous()).await.code(), "AccessDenied");
    let signed = String::from_utf8(RawRequest::new("GET", "/bucket/k").sign()).expect("ASCII");
    let other_key = signed.replace(ACCESS_KEY, "AKIDOTHER");
    assert_eq!(server.ask(other_key.as_bytes()).await.code(), "InvalidAccessKeyId");
    let other_path = signed.replace("/bucket/k", "/bucket/l");
    let answer = server.ask(other_path.as_bytes()).await;
    assert_eq!((answer.status, answer.code()), (403, "SignatureDoesNotMatch"));
    let version_2 = signed.replace("AWS4-HMAC-SHA256 ", "AWS ");
    assert_eq!(server.ask(version_2.as_bytes()).await.code(), "InvalidRequest");
}

#[tokio::test]
async fn skewed_clocks_are_told_both_times() {
    let server = start(config()).await;
    for seconds in [1000, -1000] {
        let answer = server.ask(&RawRequest::new("GET", "/bucket/k").skew(seconds).sign()).await;
        assert_eq!((answer.status, answer.code()), (403, "RequestTimeTooSkewed"), "{seconds}");
        for field in ["RequestTime", "ServerTime", "MaxAllowedSkewMilliseconds"] {
            assert!(answer.body.contains(&format!("<{field}>")), "{field}");
        }
    }
    let answer = server.ask(&RawRequest::new("GET", "/bucket/k").skew(600).sign()).await;
    assert_eq!(answer.code(), "NoSuchKey");
    let answer = server.ask(&RawRequest::new("GET", "/bucket/k").skew(-120).presign(60)).await;
    assert_eq!((answer.status, answer.code()), (403, "AccessDenied"));
    assert!(answer.body.contains("expired"), "{}", answer.body);
}

#[tokio::test]
async fn subresources_are_refused_and_the_object_stays() {
    let server = start(config()).await;
    server.ask(&put("kept").body(b"hello").sign()).await;
    for method in ["PUT", "DELETE", "GET", "HEAD"] {
        for name in ["tagging", "acl", "uploadId", "attributes", "retention", "legal-hold"] {
            let wire = RawRequest::new(method, "/bucket/kept").query(name, "").body(b"evil").sign();
            let mut connection = server.connect().await;
            connection.send(&wire).await;
            assert!(connection.head().await.starts_with("HTTP/1.1 501"), "{method} ?{name}");
        }
    }
    assert_eq!(server.stored("kept").as_deref(), Some(&b"hello"[..]));
}

#[tokio::test]
async fn continue_is_sent_only_to_requests_that_will_be_read() {
    let server = start(config()).await;
    let split = |wire: Vec<u8>| {
        let head = wire.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        (wire[..head].to_vec(), wire[head..].to_vec())
    };
    let (head, body) = split(put("expected").unsigned_header("expect", "100-continue").body(b"hello").sign());
    let mut connection = server.connect().await;
    connection.send(&head).await;
    assert!(connection.head().await.starts_with("HTTP/1.1 100"));
    connection.send(&body).await;
    assert_eq!(connection.answer().await.status, 200);

    let (head, _) = split(put("refused").unsigned_header("expect", "100-continue").body(b"hello").sign());
    let mut connection = server.connect().await;
    connection.send(&head).await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.closes()), (412, true));
    assert!(connection.is_closed().await);
}

#[tokio::test]
async fn slow_senders_lose_their_place() {
    let server = start(S3Config {
        stall_timeout: Duration::from_millis(50),
        head_timeout: Duration::from_millis(50),
        ..config()
    })
    .await;
    // A head that never ends.
    let mut connection = server.connect().await;
    connection.send(b"GET /bucket/k HTTP/1.1\r\n").await;
    while connection.fill().await {}
    // A body that never comes.
    let wire = put("slow").body(b"hello").sign();
    let mut connection = server.connect().await;
    connection.send(&wire[..wire.len() - 1]).await;
    let answer = connection.answer().await;
    assert_eq!((answer.code(), answer.closes()), ("RequestTimeout", true));
    assert_eq!(server.stored("slow"), None);
}

#[tokio::test]
async fn readers_that_stop_lose_their_place() {
    let config = S3Config { connections_max: 1, stall_timeout: Duration::from_millis(50), ..config() };
    let server = start(config).await;
    let mut first = server.connect().await;
    first.send(&put("large").body(&[1; LIMIT as usize]).sign()).await;
    assert_eq!(first.answer().await.status, 200);
    // More answers than two socket buffers hold, and nobody takes them.
    for _ in 0..400 {
        first.send(&RawRequest::new("GET", "/bucket/large").sign()).await;
    }
    // There is one place: this is served when the first has lost it.
    assert_eq!(server.ask(&put("second").body(b"x").sign()).await.status, 200);
    drop(first);
}

#[tokio::test]
async fn huge_heads_are_refused() {
    let server = start(config()).await;
    let wire = RawRequest::new("GET", "/bucket/k").unsigned_header("x-pad", &"p".repeat(100_000)).sign();
    let answer = server.ask(&wire).await;
    assert_eq!(answer.status, 431);
    let mut many = RawRequest::new("GET", "/bucket/k");
    for i in 0..200 {
        many = many.unsigned_header(&format!("x-pad-{i}"), "p");
    }
    assert_eq!(server.ask(&many.sign()).await.status, 431);
}

#[tokio::test]
async fn garbage_never_takes_the_server_down() {
    let server = start(config()).await;
    let valid = put("fuzz").signed_chunks(&[b"hello"], &[("x-amz-checksum-crc32", HELLO_CRC32)]).sign();
    for seed in 0..200u64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut wire = valid.clone();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(0..wire.len());
            wire[at] = rng.u8(..);
        }
        let mut connection = server.connect().await;
        connection.send(&wire).await;
        // Half a request must not be waited for.
        connection.end().await;
        while connection.fill().await {}
    }
    if let Some(stored) = server.stored("fuzz") {
        assert_eq!(stored.as_ref(), b"hello");
    }
    assert_eq!(server.ask(&put("alive").body(b"x").sign()).await.status, 200);
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_for_a_place() {
    let server = start(S3Config { connections_max: 1, ..config() }).await;
    let mut first = server.connect().await;
    first.send(&put("first").body(b"x").sign()).await;
    assert_eq!(first.answer().await.status, 200);
    let mut second = server.connect().await;
    second.send(&put("second").body(b"x").sign()).await;
    // The first is still served while the second waits.
    first.send(&put("first").body(b"y").sign()).await;
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(server.stored("second"), None);
    drop(first);
    assert_eq!(second.answer().await.status, 200);
}

#[tokio::test]
async fn shutdown_lets_running_requests_end() {
    let server = start(config()).await;
    let mut idle = server.connect().await;
    idle.send(&put("idle").body(b"x").sign()).await;
    assert_eq!(idle.answer().await.status, 200);
    let wire = put("running").unsigned_header("expect", "100-continue").body(b"hello").sign();
    let (head, body) = wire.split_at(wire.len() - 5);
    let mut running = server.connect().await;
    running.send(head).await;
    assert!(running.head().await.starts_with("HTTP/1.1 100"));
    server.shutdown.cancel();
    assert!(idle.is_closed().await);
    running.send(body).await;
    assert_eq!(running.answer().await.status, 200);
    assert_eq!(server.stored("running").as_deref(), Some(&b"hello"[..]));
    within(server.task).await.expect("ends");
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let server = start(S3Config { shutdown_grace: Duration::from_millis(20), ..config() }).await;
    let wire = put("stuck").unsigned_header("expect", "100-continue").body(b"hello").sign();
    let mut stuck = server.connect().await;
    stuck.send(&wire[..wire.len() - 5]).await;
    assert!(stuck.head().await.starts_with("HTTP/1.1 100"));
    server.shutdown.cancel();
    within(server.task).await.expect("ends");
    assert_eq!(server.objects.lock().expect("unpoisoned").len(), 0);
}
