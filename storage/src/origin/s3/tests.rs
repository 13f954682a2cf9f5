//! The S3 origin against a scripted HTTP server on loopback: what leaves, and what each answer proves.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use bytes::Bytes;

use super::body::CHUNK_BYTES;
use super::*;
use crate::origin::*;

/// What the server does with one connection's request.
#[derive(Clone)]
enum Answer {
    /// Reads the whole request, sends these bytes, closes.
    Reply(&'static str),
    /// Reads the whole request and closes without a word.
    Close,
    /// Reads and never answers.
    Silence,
}

/// Serves one connection after the other and keeps what arrived on each.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Server {
    async fn start(answer: Answer) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), kept.clone()));
            }
        });
        Server { url, requests }
    }

    fn only_request(&self) -> String {
        let requests = self.requests.lock();
        assert_eq!(requests.len(), 1, "one attempt is one request");
        String::from_utf8_lossy(&requests[0]).into_owned()
    }

    /// Waits until a connection has ended, and returns what arrived on it.
    async fn ended_request(&self) -> Vec<u8> {
        for _ in 0..2000 {
            if let Some(request) = self.requests.lock().first() {
                return request.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no request ended");
    }

    fn origin(&self) -> S3Origin {
        origin_at(&self.url)
    }
}

async fn serve(mut stream: TcpStream, answer: Answer, kept: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut request = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    while !is_whole(&request) {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => request.extend_from_slice(&buffer[..n]),
        }
    }
    kept.lock().push(request);
    match answer {
        Answer::Reply(bytes) => {
            let _ = stream.write_all(bytes.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        Answer::Close => {}
        Answer::Silence => {
            let _ = stream.read(&mut buffer).await;
        }
    }
}

fn is_whole(request: &[u8]) -> bool {
    let Some(head) = request.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    request.len() - head - 4 >= length.trim().parse::<usize>().unwrap_or(0)
}

fn origin_at(url: &str) -> S3Origin {
    let secret = Secret::new("very-secret-key");
    let config = S3OriginConfig::new(Some(url.to_owned()), "us-east-1", "bucket", "AKIDEXAMPLE", secret);
    S3Origin::new(config)
}

fn put(body: Bytes, wait: Duration, fence: Fence) -> PutRequest {
    PutRequest {
        key: OriginKey("a dir/grün".to_owned()),
        body,
        headers: ContentHeaders {
            content_type: Some("text/plain".to_owned()),
            expires: Some("not a date".to_owned()),
            ..ContentHeaders::default()
        },
        user_metadata: vec![
            ("forebay-version".to_owned(), "00-01".to_owned()),
            ("name".to_owned(), "grün".to_owned()),
        ],
        condition: Condition::IfAbsent,
        checksums: BodyChecksums::default(),
        deadline: Instant::now() + wait,
        fence,
    }
}

fn small_put() -> PutRequest {
    put(Bytes::from_static(b"hello"), Duration::from_secs(20), Fence::open())
}

const CREATED: &str = "HTTP/1.1 200 OK\r\netag: \"abc\"\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn put_carries_condition_metadata_digest_and_an_expiring_query_signature() {
    let server = Server::start(Answer::Reply(CREATED)).await;
    let reply = server.origin().put(small_put()).await.unwrap();
    assert_eq!(reply.etag, OriginETag("abc".to_owned()));
    let request = server.only_request();
    assert!(request.starts_with("PUT /bucket/a%20dir/gr%C3%BCn?"), "{request}");
    for part in [
        "X-Amz-Signature=",
        "if-none-match: *\r\n",
        "content-md5: XUFAKrxLKna5cZ2REBfFkg==\r\n",
        "content-type: text/plain\r\n",
        "expires: not a date\r\n",
        "x-amz-meta-forebay-version: 00-01\r\n",
        "x-amz-meta-name: =?UTF-8?B?Z3LDvG4=?=\r\n",
    ] {
        assert!(request.contains(part), "{part} in {request}");
    }
    let signed = request.split("X-Amz-SignedHeaders=").nth(1).unwrap().split('&').next().unwrap();
    for header in request.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name) {
        let free = !header.starts_with("x-amz-");
        assert!(free || signed.contains(header), "S3 refuses the unsigned {header}: {request}");
    }
    let head = request.to_lowercase();
    let expires = head.split("x-amz-expires=").nth(1).unwrap();
    let seconds: u64 = expires.split(['&', ' ']).next().unwrap().parse().unwrap();
    assert!((1..=20).contains(&seconds), "the signature dies with the deadline: {seconds}");
    assert!(request.ends_with("\r\n\r\nhello"));
    assert!(!request.contains("very-secret-key"));
}

#[tokio::test]
async fn known_checksums_are_sent_instead_of_hashing_again() {
    let server = Server::start(Answer::Reply(CREATED)).await;
    let mut request = small_put();
    request.checksums = BodyChecksums::crc32c(0x9a71_bb4c);
    server.origin().put(request).await.unwrap();
    let head = server.only_request();
    assert!(head.contains("x-amz-checksum-crc32c: mnG7TA=="), "{head}");
    assert!(!head.contains("content-md5"), "{head}");
    assert!(!head.contains("aws-chunked"), "{head}");
}

#[tokio::test]
async fn an_empty_body_is_put_too() {
    let server = Server::start(Answer::Reply(CREATED)).await;
    server.origin().put(put(Bytes::new(), Duration::from_secs(20), Fence::open())).await.unwrap();
    assert!(server.only_request().to_lowercase().contains("content-length: 0"));
}

#[tokio::test]
async fn a_refused_connection_is_certainly_not_applied() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = origin_at(&url).put(small_put()).await.unwrap_err();
    assert_eq!((error.class, error.outcome), (ErrorClass::Network, Landing::NotApplied), "{error}");
}

#[tokio::test]
async fn a_connection_closed_after_the_request_proves_nothing() {
    let server = Server::start(Answer::Close).await;
    let error = server.origin().put(small_put()).await.unwrap_err();
    assert_eq!((error.class, error.outcome), (ErrorClass::Network, Landing::Unknown), "{error}");
    server.only_request();
}

#[tokio::test]
async fn silence_until_the_deadline_proves_nothing() {
    let server = Server::start(Answer::Silence).await;
    let request = put(Bytes::from_static(b"x"), Duration::from_millis(300), Fence::open());
    let error = server.origin().put(request).await.unwrap_err();
    assert_eq!((error.class, error.outcome), (ErrorClass::Network, Landing::Unknown), "{error}");
}

#[tokio::test]
async fn answers_are_classified_by_code_and_status() {
    let precondition = "HTTP/1.1 412 Precondition Failed\r\ncontent-length: 68\r\n\r\n\
        <Error><Code>PreconditionFailed</Code><Message>no</Message></Error> ";
    let slow_down = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\ncontent-length: 58\r\n\r\n\
        <Error><Code>SlowDown</Code><Message>no</Message></Error> ";
    let bare_500 = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
    let html_403 = "HTTP/1.1 403 Forbidden\r\ncontent-length: 15\r\n\r\n<html>no</html>";
    let odd_200 = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let garbage = "this is no HTTP\r\n\r\n";
    let cases = [
        (precondition, ErrorClass::Conflict, Landing::NotApplied, None),
        (slow_down, ErrorClass::Throttled, Landing::Unknown, Some(7)),
        (bare_500, ErrorClass::ServerError, Landing::Unknown, None),
        (html_403, ErrorClass::Auth, Landing::NotApplied, None),
        (odd_200, ErrorClass::Other, Landing::Unknown, None),
        (garbage, ErrorClass::Network, Landing::Unknown, None),
    ];
    for (answer, class, outcome, wait) in cases {
        let server = Server::start(Answer::Reply(answer)).await;
        let error = server.origin().put(small_put()).await.unwrap_err();
        assert_eq!((error.class, error.outcome), (class, outcome), "{answer}: {error}");
        assert_eq!(error.retry_after, wait.map(Duration::from_secs), "{answer}");
        server.only_request();
        for secret in ["very-secret-key", "X-Amz-Signature"] {
            assert!(!format!("{error:?}").contains(secret), "{error:?}");
        }
    }
}

#[tokio::test]
async fn the_last_chunk_stays_here_when_the_fence_falls_while_sending() {
    let server = Server::start(Answer::Silence).await;
    // Asked at the start of the call, before the head, and before the last chunk.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let fence = Fence::new(move || count.fetch_add(1, Ordering::SeqCst) < 2);
    let body = Bytes::from(vec![b'x'; 3 * CHUNK_BYTES]);
    let error = server.origin().put(put(body, Duration::from_secs(20), fence)).await.unwrap_err();
    assert_eq!((error.class, error.outcome), (ErrorClass::Fenced, Landing::Unknown), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let arrived = server.ended_request().await;
    let sent = arrived.iter().filter(|byte| **byte == b'x').count();
    assert!(sent < 3 * CHUNK_BYTES, "the last chunk must not leave");
}

#[tokio::test]
async fn a_fallen_fence_sends_nothing() {
    let server = Server::start(Answer::Reply(CREATED)).await;
    let request = put(Bytes::from_static(b"x"), Duration::from_secs(20), Fence::new(|| false));
    let error = server.origin().put(request).await.unwrap_err();
    assert_eq!((error.class, error.outcome), (ErrorClass::Fenced, Landing::NotApplied));
    let delete = DeleteRequest {
        key: OriginKey("k".to_owned()),
        if_match: None,
        deadline: Instant::now(),
        fence: Fence::open(),
    };
    assert_eq!(server.origin().delete(delete).await.unwrap_err().class, ErrorClass::Fenced);
    assert!(server.requests.lock().is_empty());
}

#[tokio::test]
async fn head_tells_absence_from_trouble() {
    let not_found = |code: &str| {
        let body = format!("<Error><Code>{code}</Code></Error>");
        let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        Server::start(Answer::Reply(Box::leak(answer.into_boxed_str())))
    };
    let missing = not_found("NoSuchKey").await;
    assert_eq!(missing.origin().head(&OriginKey("k".to_owned())).await, Ok(None));
    // A bucket that is gone, or a server that is no origin, says nothing about the key.
    let error = not_found("NoSuchBucket").await.origin().head(&OriginKey("k".to_owned())).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::MissingBucket);
    let bare = Server::start(Answer::Reply("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")).await;
    assert!(bare.origin().head(&OriginKey("k".to_owned())).await.is_err());
    let broken = Server::start(Answer::Reply("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")).await;
    assert!(broken.origin().head(&OriginKey("k".to_owned())).await.is_err());
    let found = "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: 5\r\n\
        last-modified: Mon, 12 Oct 2009 17:50:00 GMT\r\nx-amz-meta-forebay-version: 00-01\r\nexpires: never\r\n\r\n";
    let found = Server::start(Answer::Reply(found)).await;
    let head = found.origin().head(&OriginKey("k".to_owned())).await.unwrap().unwrap();
    assert_eq!(head.user("forebay-version"), Some("00-01"));
    assert_eq!((head.content_length, head.headers.expires.as_deref()), (5, Some("never")));
    assert_eq!(head.modified_ms, 1_255_369_800_000);
}

#[tokio::test]
async fn get_refuses_a_body_beyond_the_limit() {
    let five = "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: 5\r\n\r\nhello";
    let key = OriginKey("k".to_owned());
    let server = Server::start(Answer::Reply(five)).await;
    assert_eq!(server.origin().get(&key, 5).await.unwrap().unwrap().body, "hello");
    assert_eq!(server.origin().get(&key, 4).await.unwrap_err().class, ErrorClass::TooLarge);
    let cut = "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: 9\r\n\r\nhello";
    let server = Server::start(Answer::Reply(cut)).await;
    assert_eq!(server.origin().get(&key, 100).await.unwrap_err().class, ErrorClass::Network);
}

#[tokio::test]
async fn list_decodes_url_encoded_keys() {
    let body = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
        <NextContinuationToken>next</NextContinuationToken><Contents><Key>a%2Bb+c%25</Key><Size>3</Size>\
        <LastModified>2009-10-12T17:50:00.250Z</LastModified></Contents></ListBucketResult>";
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let server = Server::start(Answer::Reply(Box::leak(answer.into_boxed_str()))).await;
    let request = ListRequest::new(String::new(), 1);
    let reply = server.origin().list(request).await.unwrap();
    assert_eq!(reply.objects[0].key, OriginKey("a+b c%".to_owned()));
    assert_eq!((reply.objects[0].bytes, reply.objects[0].modified_ms), (3, 1_255_369_800_250));
    assert_eq!((reply.truncated, reply.next.as_deref()), (true, Some("next")));
}

#[test]
fn debug_hides_secrets() {
    let mut config = S3OriginConfig::new(None, "r", "b", "AKID", Secret::new("very-secret-key"));
    config.session_token = Some(Secret::new("very-secret-token"));
    let text = format!("{config:?}");
    assert!(text.contains("AKID") && !text.contains("very-secret"), "{text}");
}

#[tokio::test]
#[ignore = "needs an S3 endpoint in FOREBAY_TEST_S3 with a bucket fbtest (keys: test, test)"]
async fn a_real_origin_serves_every_operation() {
    let url = std::env::var("FOREBAY_TEST_S3").expect("FOREBAY_TEST_S3 names an endpoint");
    let config = S3OriginConfig::new(Some(url), "us-east-1", "fbtest", "test", Secret::new("test"));
    let origin = S3Origin::new(config);
    println!("{:?}", origin.probe("probe/").await.unwrap());
    assert!(origin.is_empty("probe/").await.unwrap());
    let names =
        ["plain", "a dir/grün", "a//b", "q?&+%20=\"'", "x\u{1F}y", "caf\u{F7E9}", "end/", "../up", "*"];
    for name in names {
        let mut request = small_put();
        request.key = OriginKey(format!("t/{name}"));
        request.condition = Condition::None;
        request.headers.expires = None;
        let reply = origin.put(request).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let key = OriginKey(format!("t/{name}"));
        let got = origin.get(&key, 100).await.unwrap().unwrap_or_else(|| panic!("{name} is not there"));
        assert_eq!((&got.body[..], &got.head.etag), (&b"hello"[..], &reply.etag), "{name}");
        assert_eq!(got.head.user("forebay-version"), Some("00-01"), "{name}");
        assert_eq!(got.head.headers.content_type.as_deref(), Some("text/plain"), "{name}");
        assert_eq!(origin.head(&key).await.unwrap().unwrap().etag, reply.etag, "{name}");
    }
    let mut listed = Vec::new();
    loop {
        let start_after = listed.last().cloned();
        let request = ListRequest { start_after, ..ListRequest::new("t/", 2) };
        let page = origin.list(request).await.unwrap();
        listed.extend(page.objects.into_iter().map(|object| object.key.0));
        if !page.truncated {
            break;
        }
    }
    let mut wanted: Vec<String> = names.iter().map(|name| format!("t/{name}")).collect();
    wanted.sort();
    assert_eq!(listed, wanted);
    for name in names {
        let key = OriginKey(format!("t/{name}"));
        let deadline = Instant::now() + Duration::from_secs(20);
        let delete = DeleteRequest { key: key.clone(), if_match: None, deadline, fence: Fence::open() };
        origin.delete(delete.clone()).await.unwrap();
        origin.delete(delete).await.unwrap_or_else(|error| panic!("deleting nothing succeeds: {error}"));
        assert_eq!(origin.head(&key).await, Ok(None), "{name}");
    }
    assert!(origin.is_empty("t/").await.unwrap());
    let begin = |key: &str| BeginRequest {
        key: OriginKey(key.to_owned()),
        headers: ContentHeaders::default(),
        user_metadata: Vec::new(),
        crc32c: false,
        deadline: Instant::now() + Duration::from_secs(20),
    };
    let key = OriginKey("t/grün +%".to_owned());
    let upload = origin.begin_upload(begin(&key.0)).await.unwrap();
    let longer = origin.begin_upload(begin("t/grün +%er")).await.unwrap();
    let listed = origin.list_uploads(&key).await.unwrap();
    assert_eq!(listed.iter().map(|listed| &listed.upload).collect::<Vec<_>>(), [&upload]);
    println!("an upload begun just now is {:?} old", listed[0].age);
    origin.abort_upload(&key, &upload).await.unwrap();
    origin.abort_upload(&OriginKey("t/grün +%er".to_owned()), &longer).await.unwrap();
    assert_eq!(origin.list_uploads(&key).await, Ok(Vec::new()));
    let missing = S3OriginConfig::new(
        std::env::var("FOREBAY_TEST_S3").ok(),
        "us-east-1",
        "no-such-bucket-here",
        "test",
        Secret::new("test"),
    );
    let error = S3Origin::new(missing).put(small_put()).await.unwrap_err();
    assert_eq!((error.class, error.outcome), (ErrorClass::MissingBucket, Landing::NotApplied), "{error}");
}

fn counted(origin: &S3Origin) -> Vec<(OriginOp, &'static str, u64)> {
    origin.traffic().unwrap().requests()
}

#[tokio::test]
async fn each_request_counts_once_by_what_came_back() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let teapot = "HTTP/1.1 418 I'm a teapot\r\ncontent-length: 0\r\n\r\n";
    for (answer, code) in [
        (Answer::Reply(CREATED), "200"),
        (Answer::Reply(busy), "503"),
        (Answer::Reply(teapot), "4xx"),
        (Answer::Reply("this is no HTTP\r\n\r\n"), "network"),
        (Answer::Close, "network"),
        // Nobody waits any more.
        (Answer::Silence, "network"),
    ] {
        let origin = Server::start(answer).await.origin();
        let request = put(Bytes::from_static(b"hello"), Duration::from_millis(500), Fence::open());
        let _ = origin.put(request).await;
        assert_eq!(counted(&origin), [(OriginOp::PutObject, code, 1)]);
        assert_eq!(origin.traffic().unwrap().sent_bytes(), 5, "{code}");
    }
    // What its own fence stopped is nobody's trouble, and what never left is no request.
    let body = Bytes::from(vec![7; CHUNK_BYTES * 3]);
    let asked = AtomicUsize::new(0);
    let falls = Fence::new(move || asked.fetch_add(1, Ordering::SeqCst) < 2);
    let origin = Server::start(Answer::Reply(CREATED)).await.origin();
    let _ = origin.put(put(body, Duration::from_secs(20), falls)).await;
    assert_eq!(counted(&origin), [(OriginOp::PutObject, "fenced", 1)]);
    assert_eq!(origin.traffic().unwrap().sent_bytes(), 2 * CHUNK_BYTES as u64, "the last chunk stayed");
    let origin = Server::start(Answer::Reply(CREATED)).await.origin();
    let _ = origin.put(put(Bytes::new(), Duration::from_secs(20), Fence::new(|| false))).await;
    assert_eq!(counted(&origin), []);
    // Absence takes two requests to be sure of.
    let missing = "HTTP/1.1 404 Not Found\r\ncontent-length: 60\r\n\r\n\
        <Error><Code>NoSuchKey</Code><Message>no</Message></Error>  ";
    let origin = Server::start(Answer::Reply(missing)).await.origin();
    assert!(origin.head(&OriginKey("k".into())).await.unwrap().is_none());
    assert_eq!(counted(&origin), [(OriginOp::GetObject, "404", 1), (OriginOp::HeadObject, "404", 1)]);
    assert_eq!(origin.traffic().unwrap().received_bytes(), 0, "no object's bytes");
}

#[tokio::test]
async fn a_refused_request_names_the_right_that_is_missing() {
    let denied = "HTTP/1.1 403 Forbidden\r\ncontent-length: 61\r\n\r\n\
        <Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    let origin = Server::start(Answer::Reply(denied)).await.origin();
    let key = OriginKey("k".into());
    let said = |error: OriginError| {
        assert_eq!(error.class, ErrorClass::Auth);
        error.to_string()
    };
    let put = said(origin.put(small_put()).await.unwrap_err());
    assert_eq!(put, "auth: PutObject was refused, which needs s3:PutObject: no (AccessDenied)");
    let head = said(origin.head(&key).await.unwrap_err());
    assert!(head.contains("HeadObject was refused, which needs s3:GetObject and s3:ListBucket: "), "{head}");
    let list = said(origin.list(ListRequest::new("", 1)).await.unwrap_err());
    assert!(list.contains("ListObjectsV2 was refused, which needs s3:ListBucket: "), "{list}");
    let uploads = said(origin.list_uploads(&key).await.unwrap_err());
    assert!(uploads.contains("which needs s3:ListBucketMultipartUploads: "), "{uploads}");
    let upload = UploadId("u".into());
    let abort = said(origin.abort_upload(&key, &upload).await.unwrap_err());
    assert!(abort.contains("which needs s3:AbortMultipartUpload: "), "{abort}");
    // A key that the origin does not know has no rights to name.
    let unknown = "HTTP/1.1 403 Forbidden\r\ncontent-length: 67\r\n\r\n\
        <Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>";
    let origin = Server::start(Answer::Reply(unknown)).await.origin();
    assert_eq!(said(origin.put(small_put()).await.unwrap_err()), "auth: no (InvalidAccessKeyId)");
}
