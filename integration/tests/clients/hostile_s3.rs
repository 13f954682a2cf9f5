//! The holes of the S3 library, and other bytes that no SDK sends. Aim: each hole is closed in front of it: a clear
//! answer, nothing stored, bounded memory, a server that lives. Method: requests signed by hand.

use std::net::SocketAddr;
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use forebay_integration::http_wire::{self, Answer, HttpWire, Signed, Signer, Unsigned, sha256_hex};
use forebay_integration::node::{ACCESS_KEY_ID, Node, NodeOptions, SECRET_ACCESS_KEY};

const MIB: u64 = 1 << 20;
const BUCKET: &str = "hostile";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const CHUNKED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const CHUNKED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

struct Front {
    node: Node,
    addr: SocketAddr,
}

impl Front {
    fn start() -> Self {
        let node = Node::start(NodeOptions::default()).unwrap();
        let addr = node.endpoints().s3;
        let front = Self { node, addr };
        assert_eq!(front.signed("PUT", "/hostile", "", b"").status, 200);
        front
    }

    fn sign(&self, request: &Unsigned<'_>) -> Signed {
        Signer::now(ACCESS_KEY_ID, SECRET_ACCESS_KEY).sign(self.addr, request)
    }

    /// A signed request with a body.
    fn signed(&self, method: &str, path: &str, query: &str, body: &[u8]) -> Answer {
        self.signed_with(method, path, query, &[], body)
    }

    fn signed_with(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut signed: Vec<(&str, String)> =
            headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        signed.push(("content-length", body.len().to_string()));
        let request = Unsigned {
            method,
            path,
            query,
            signed,
            content_sha256: &sha256_hex(body),
            ..Unsigned::default()
        };
        let mut bytes = self.sign(&request).head;
        bytes.extend_from_slice(body);
        http_wire::exchange(self.addr, &bytes).unwrap()
    }

    fn stored(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.signed("GET", &format!("/{BUCKET}/{key}"), "", b"");
        match answer.status {
            200 => Some(answer.body),
            404 => None,
            other => panic!("GET {key}: {other} {}", answer.text()),
        }
    }

    /// An aws-chunked PUT whose body is sent as given.
    fn chunked(&self, key: &str, decoded_length: u64, trailer: Option<&str>, body: &[u8]) -> Answer {
        let mut signed = vec![
            ("content-encoding", "aws-chunked".to_owned()),
            ("x-amz-decoded-content-length", decoded_length.to_string()),
            ("content-length", body.len().to_string()),
        ];
        signed.extend(trailer.map(|name| ("x-amz-trailer", name.to_owned())));
        let path = format!("/{BUCKET}/{key}");
        let request = Unsigned {
            method: "PUT",
            path: &path,
            signed,
            content_sha256: CHUNKED_TRAILER,
            ..Unsigned::default()
        };
        let mut bytes = self.sign(&request).head;
        bytes.extend_from_slice(body);
        http_wire::exchange(self.addr, &bytes).unwrap()
    }

    fn finish(self) {
        assert_eq!(self.signed("GET", "/", "", b"").status, 200, "the server lives");
        self.node.finish(&[]);
    }
}

#[tokio::test]
async fn unsigned_amz_headers_beside_a_presigned_url_are_refused() {
    let front = Front::start();
    assert_eq!(front.signed("PUT", "/hostile/secret", "", b"secret").status, 200);
    let lifetime = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let url = front.node.s3().put_object().bucket(BUCKET).key("target").presigned(lifetime).await.unwrap();
    let target = url.uri().strip_prefix(&front.node.s3_endpoint()).unwrap().to_owned();
    for extra in ["x-amz-copy-source: /hostile/secret", "x-amz-meta-a: b", "x-amz-acl: public-read"] {
        let request =
            format!("PUT {target} HTTP/1.1\r\nHost: {}\r\n{extra}\r\nContent-Length: 1\r\n\r\nx", front.addr);
        let answer = http_wire::exchange(front.addr, request.as_bytes()).unwrap();
        assert_eq!(answer.status, 403, "{extra}: {}", answer.text());
        assert_eq!(front.stored("target"), None, "{extra}");
    }
    let request = format!("PUT {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: 1\r\n\r\nx", front.addr);
    assert_eq!(http_wire::exchange(front.addr, request.as_bytes()).unwrap().status, 200);
    front.finish();
}

#[test]
fn unsigned_amz_headers_beside_a_signed_header_are_refused() {
    let front = Front::start();
    let request = Unsigned {
        method: "PUT",
        path: "/hostile/k",
        signed: vec![("content-length", "1".into())],
        unsigned: vec![("x-amz-meta-a", "b".into())],
        content_sha256: UNSIGNED,
        ..Unsigned::default()
    };
    let mut bytes = front.sign(&request).head;
    bytes.push(b'x');
    let answer = http_wire::exchange(front.addr, &bytes).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(front.stored("k"), None);
    front.finish();
}

#[test]
fn one_huge_chunk_does_not_fill_the_memory() {
    let front = Front::start();
    for (decoded_length, mode) in [(512 * MIB, CHUNKED), (10, CHUNKED), (512 * MIB, CHUNKED_TRAILER)] {
        let before = front.node.rss_bytes();
        let signed = vec![
            ("content-encoding", "aws-chunked".to_owned()),
            ("x-amz-decoded-content-length", decoded_length.to_string()),
            ("content-length", (512 * MIB + 200).to_string()),
        ];
        let path = "/hostile/huge";
        let request = Unsigned { method: "PUT", path, signed, content_sha256: mode, ..Unsigned::default() };
        let mut wire = HttpWire::connect(front.addr).unwrap();
        wire.send(&front.sign(&request).head).unwrap();
        let mark =
            if mode == CHUNKED { format!(";chunk-signature={}", "0".repeat(64)) } else { String::new() };
        let _ = wire.send(format!("20000000{mark}\r\n").as_bytes());
        let piece = vec![b'x'; 1 << 20];
        let mut most = 0;
        for _ in 0..96 {
            if wire.send(&piece).is_err() {
                break;
            }
            most = most.max(front.node.rss_bytes().saturating_sub(before));
        }
        assert!(most < 32 * MIB, "{} MiB for one chunk", most / MIB);
        drop(wire);
        assert_eq!(front.stored("huge"), None);
    }
    front.finish();
}

#[test]
fn chunked_bodies_that_do_not_add_up_store_nothing() {
    let front = Front::start();
    let crc = Some("x-amz-checksum-crc32");
    // CRC32 of "hello" is 3610a686.
    let right = "x-amz-checksum-crc32:NhCmhg==\r\n\r\n";
    let cases: [(&str, u64, Option<&str>, String); 8] = [
        ("no-final-chunk", 5, crc, "5\r\nhello\r\n".into()),
        ("no-trailer", 5, crc, "5\r\nhello\r\n0\r\n\r\n".into()),
        ("wrong-sum", 5, crc, "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n".into()),
        ("sum-of-another-name", 5, crc, "5\r\nhello\r\n0\r\nx-amz-checksum-crc32c:NhCmhg==\r\n\r\n".into()),
        ("too-few-bytes", 6, crc, format!("5\r\nhello\r\n0\r\n{right}")),
        ("too-many-bytes", 4, crc, format!("5\r\nhello\r\n0\r\n{right}")),
        ("no-chunk-size", 5, crc, format!("zz\r\nhello\r\n0\r\n{right}")),
        ("chunk-without-end", 5, crc, format!("5\r\nhelloXX0\r\n{right}")),
    ];
    for (key, length, trailer, body) in &cases {
        let answer = front.chunked(key, *length, *trailer, body.as_bytes());
        assert!((400..500).contains(&answer.status), "{key}: {} {}", answer.status, answer.text());
        assert!(answer.text().contains("<Code>"), "{key}: {}", answer.text());
        assert_eq!(front.stored(key), None, "{key}");
    }
    let answer = front.chunked("right", 5, crc, format!("5\r\nhello\r\n0\r\n{right}").as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(front.stored("right").as_deref(), Some(&b"hello"[..]));
    front.finish();
}

#[test]
fn signed_chunks_are_verified_one_by_one() {
    let front = Front::start();
    let path = "/hostile/signed";
    let body_length = |data: &[u8]| {
        let framing = |size: usize| format!("{size:x};chunk-signature={}\r\n\r\n", "0".repeat(64)).len();
        framing(data.len()) + data.len() + framing(0)
    };
    for (broken, status) in [(true, 403), (false, 200)] {
        let data = b"signed chunk";
        let signed = vec![
            ("content-encoding", "aws-chunked".to_owned()),
            ("x-amz-decoded-content-length", data.len().to_string()),
            ("content-length", body_length(data).to_string()),
        ];
        let request =
            Unsigned { method: "PUT", path, signed, content_sha256: CHUNKED, ..Unsigned::default() };
        let head = front.sign(&request);
        let (mut first, signature) = head.chunk(&head.signature, data);
        let (last, _) = head.chunk(&signature, b"");
        if broken {
            let at = first.len() - 4;
            first[at] ^= 1;
        }
        let bytes = [head.head, first, last].concat();
        let answer = http_wire::exchange(front.addr, &bytes).unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(front.stored("signed").is_some(), !broken);
    }
    front.finish();
}

#[test]
fn an_early_refusal_leaves_a_usable_connection_or_says_close() {
    let front = Front::start();
    front.signed("PUT", "/hostile/there", "", b"x");
    let condition = [("if-none-match", "*".to_owned())];
    let cases = [
        ("412", "/hostile/there", SECRET_ACCESS_KEY, 40_000, &condition[..]),
        ("403", "/hostile/k", "wrong secret", 40_000, &[]),
        ("404", "/no-such-bucket/k", SECRET_ACCESS_KEY, 40_000, &[]),
        ("404 with a long body", "/no-such-bucket/k", SECRET_ACCESS_KEY, 8_000_000, &[]),
    ];
    for (name, path, secret, length, extra) in cases {
        let body = vec![b'x'; length];
        let mut signed = vec![("content-length", length.to_string())];
        signed.extend(extra.iter().cloned());
        let request =
            Unsigned { method: "PUT", path, signed, content_sha256: UNSIGNED, ..Unsigned::default() };
        let mut wire = HttpWire::connect(front.addr).unwrap();
        wire.send(&Signer::now(ACCESS_KEY_ID, secret).sign(front.addr, &request).head).unwrap();
        // The server may stop reading: what it answered then still has to arrive.
        let _ = wire.send(&body);
        let answer = wire.answer(false).unwrap_or_else(|error| panic!("{name}: no answer: {error}"));
        assert_eq!(answer.status.to_string(), name[..3], "{}", answer.text());
        if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            continue;
        }
        let list = Unsigned { method: "GET", path: "/", content_sha256: UNSIGNED, ..Unsigned::default() };
        wire.send(&front.sign(&list).head).unwrap();
        let next =
            wire.answer(false).unwrap_or_else(|error| panic!("{name}: the connection is dead: {error}"));
        assert_eq!(next.status, 200, "{name}: {}", next.text());
    }
    front.finish();
}

#[test]
fn a_form_upload_is_refused_without_being_kept_in_memory() {
    let front = Front::start();
    let before = front.node.rss_bytes();
    let mut wire = HttpWire::connect(front.addr).unwrap();
    let head = format!(
        "POST /hostile HTTP/1.1\r\nHost: {}\r\nContent-Type: multipart/form-data; boundary=B\r\n\
         Content-Length: 104857600\r\n\r\n--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n",
        front.addr
    );
    wire.send(head.as_bytes()).unwrap();
    let piece = vec![b'x'; 1 << 20];
    let mut most = 0;
    for _ in 0..64 {
        if wire.send(&piece).is_err() {
            break;
        }
        most = most.max(front.node.rss_bytes().saturating_sub(before));
    }
    assert!(most < 32 * MIB, "{} MiB for a form", most / MIB);
    front.finish();
}

#[test]
fn a_range_that_cannot_be_read_is_ignored() {
    let front = Front::start();
    front.signed("PUT", "/hostile/k", "", b"0123456789");
    for range in ["bytes=0-1,3-4", "bytes=a-b", "lines=1-2", "bytes=5-2", "bytes", "bytes=-"] {
        let answer = front.signed_with("GET", "/hostile/k", "", &[("range", range)], b"");
        assert_eq!((answer.status, answer.body.len()), (200, 10), "{range}: {}", answer.text());
    }
    let answer = front.signed_with("GET", "/hostile/k", "", &[("range", "bytes=2-3")], b"");
    assert_eq!((answer.status, &answer.body[..]), (206, &b"23"[..]));
    let answer = front.signed_with("GET", "/hostile/k", "", &[("range", "bytes=10-")], b"");
    assert_eq!(answer.status, 416);
    front.finish();
}

#[test]
fn head_and_get_take_response_overrides() {
    let front = Front::start();
    front.signed("PUT", "/hostile/k", "", b"body");
    let query = "response-cache-control=no-cache&response-content-type=text%2Foverride";
    for method in ["GET", "HEAD"] {
        let answer = front.signed(method, "/hostile/k", query, b"");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/override"), "{method}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{method}");
    }
    front.finish();
}

#[test]
fn every_answer_carries_a_request_id_and_errors_repeat_it() {
    let front = Front::start();
    let mut seen = std::collections::BTreeSet::new();
    for (path, status) in [("/hostile/missing", 404), ("/", 200), ("/no-such-bucket/k", 404)] {
        let answer = front.signed("GET", path, "", b"");
        assert_eq!(answer.status, status, "{}", answer.text());
        let id = answer.header("x-amz-request-id").expect("x-amz-request-id").to_owned();
        if status != 200 {
            assert!(answer.text().contains(&format!("<RequestId>{id}</RequestId>")), "{}", answer.text());
        }
        assert!(seen.insert(id), "a request id was used twice");
    }
    let unsigned = http_wire::get(front.addr, "/hostile/k", &[]).unwrap();
    assert_eq!(unsigned.status, 403);
    assert!(unsigned.header("x-amz-request-id").is_some());
    front.finish();
}

#[test]
fn a_skewed_clock_is_answered_with_its_three_fields() {
    let front = Front::start();
    let mut signer = Signer::now(ACCESS_KEY_ID, SECRET_ACCESS_KEY);
    signer.at -= time::Duration::minutes(16);
    let request = Unsigned { method: "GET", path: "/", content_sha256: UNSIGNED, ..Unsigned::default() };
    let answer = http_wire::exchange(front.addr, &signer.sign(front.addr, &request).head).unwrap();
    assert_eq!(answer.status, 403);
    let text = answer.text();
    for part in
        ["RequestTimeTooSkewed", "<RequestTime>", "<ServerTime>", "<MaxAllowedSkewMilliseconds>900000<"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    front.finish();
}

#[test]
fn a_digest_that_does_not_match_stores_nothing() {
    let front = Front::start();
    let request = Unsigned {
        method: "PUT",
        path: "/hostile/k",
        signed: vec![("content-length", "5".into())],
        content_sha256: &sha256_hex(b"other"),
        ..Unsigned::default()
    };
    let bytes = [&front.sign(&request).head[..], b"hello"].concat();
    let answer = http_wire::exchange(front.addr, &bytes).unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("XAmzContentSHA256Mismatch"), "{}", answer.text());
    for (header, value) in
        [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="), ("x-amz-checksum-sha256", &"A".repeat(43))]
    {
        let value = if header == "content-md5" { value.to_owned() } else { format!("{value}=") };
        let answer = front.signed_with("PUT", "/hostile/k", "", &[(header, &value)], b"hello");
        assert_eq!(answer.status, 400, "{header}: {}", answer.text());
        assert!(answer.text().contains("BadDigest"), "{header}: {}", answer.text());
    }
    assert_eq!(front.stored("k"), None);
    front.finish();
}

#[test]
fn forebay_metadata_from_a_client_is_refused() {
    let front = Front::start();
    let answer = front.signed_with("PUT", "/hostile/k", "", &[("x-amz-meta-forebay-version", "1")], b"x");
    assert!((400..500).contains(&answer.status), "{}", answer.text());
    assert_eq!(front.stored("k"), None);
    front.finish();
}

#[test]
fn half_requests_and_slow_senders_disturb_nobody() {
    let front = Front::start();
    let before = front.node.rss_bytes();
    let mut waiting = Vec::new();
    for number in 0..200 {
        let mut wire = HttpWire::connect(front.addr).unwrap();
        let request = Unsigned {
            method: "PUT",
            path: "/hostile/half",
            signed: vec![("content-length", "60000".into())],
            content_sha256: UNSIGNED,
            ..Unsigned::default()
        };
        let head = front.sign(&request).head;
        let length = if number % 2 == 0 { head.len() } else { head.len() / 2 };
        wire.send(&head[..length]).unwrap();
        waiting.push(wire);
    }
    assert_eq!(front.signed("PUT", "/hostile/other", "", b"x").status, 200);
    let grown = front.node.rss_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB for 200 half requests", grown / MIB);
    drop(waiting);
    assert_eq!(front.stored("half"), None);
    front.finish();
}

#[test]
fn nonsense_is_answered_with_400_or_the_connection_is_closed() {
    let front = Front::start();
    let long_header = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(2_000_000));
    let many_headers = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(5_000));
    let requests = [
        "\x00\x01\x02\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /b/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        "PUT /hostile/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "PUT /hostile/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "PUT /hostile/k HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 Credential=,,,\r\n\r\n",
        "GET /?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=99999999999999999999 HTTP/1.1\r\nHost: x\r\n\r\n",
        &long_header,
        &many_headers,
    ];
    for request in requests {
        let shown = request[..request.len().min(50)].escape_debug().to_string();
        let mut wire = HttpWire::connect(front.addr).unwrap();
        let _ = wire.send(request.as_bytes());
        if let Ok(answer) = wire.answer(false) {
            assert!((400..500).contains(&answer.status), "{shown}: {} {}", answer.status, answer.text());
        }
    }
    front.finish();
}
