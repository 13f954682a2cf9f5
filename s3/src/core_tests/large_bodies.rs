//! Bodies over the inline threshold, both ways, over the real core.

use http_body_util::BodyExt;
use md5::{Digest, Md5};

use super::*;
use crate::body_stream::{PIECE_BYTES, PIECES_MAX, PieceBudget, SMALL_PIECE_BYTES, stream_body};

const MIB: usize = 1 << 20;

/// Printable, and different everywhere.
fn text(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(len as u64);
    (0..len).map(|_| b'a' + rng.u8(0..26)).collect()
}

fn md5_hex(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

fn crc32_base64(bytes: &[u8]) -> String {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes) as u32;
    BASE64.encode(crc.to_be_bytes())
}

/// Bytes that the store keeps in segments, staged ones included.
fn segment_bytes(server: &Server) -> u64 {
    server.node.store().stats().segment_bytes
}

/// Waits until what was given up is free again.
async fn until_free(server: &Server, before: u64) {
    within(async {
        while segment_bytes(server) > before {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_length_and_coding_comes_back_whole() {
    let server = start().await;
    for len in [65_537, MIB - 1, MIB, MIB + 1, 5 * MIB + 3] {
        let body = text(len);
        let crc = crc32_base64(&body);
        let chunks: Vec<&[u8]> = body.chunks(100_000).collect();
        let trailers = [("x-amz-checksum-crc32", crc.as_str())];
        for (name, request) in [
            ("signed", object("PUT", "k").body(&body)),
            ("unsigned", object("PUT", "k").payload("UNSIGNED-PAYLOAD").body(&body)),
            ("header", object("PUT", "k").header("x-amz-checksum-crc32", &crc).body(&body)),
            ("chunks", object("PUT", "k").signed_chunks(&chunks, &[])),
            ("trailer", object("PUT", "k").signed_chunks(&chunks, &trailers)),
        ] {
            let put = server.ask(request).await;
            assert_eq!(put.status, 200, "{name} {len}: {}", put.body);
            assert_eq!(put.header("etag"), Some(format!("\"{}\"", md5_hex(&body)).as_str()), "{name} {len}");
            let got = server.ask(object("GET", "k")).await;
            assert_eq!(got.header("content-length"), Some(len.to_string().as_str()));
            assert!(got.body.as_bytes() == body, "{name} {len}: another body");
            server.ask(object("DELETE", "k")).await;
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_long_body() {
    let server = start().await;
    let body = text(3 * MIB + 17);
    server.put("k", &body).await;
    let last = body.len() - 1;
    for (first, end) in [(0, 0), (0, MIB), (65_535, 65_536), (MIB - 1, 2 * MIB), (MIB, last), (last, last)] {
        let range = format!("bytes={first}-{end}");
        let answer = server.ask(object("GET", "k").header("range", &range)).await;
        assert_eq!(answer.status, 206, "{range}");
        assert!(answer.body.as_bytes() == &body[first..=end], "{range}: other bytes");
    }
    let whole = server.ask(object("GET", "k").query("partNumber", "1")).await;
    assert_eq!((whole.status, whole.body.len()), (206, body.len()));
    assert_eq!(server.ask(object("GET", "k").query("partNumber", "2")).await.status, 416);
    server.stop().await;
}

/// What a hostile or unlucky client sends: nothing becomes visible, and the space comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_that_fails_a_check_stores_nothing() {
    let server = start().await;
    let body = text(2 * MIB);
    let before = segment_bytes(&server);
    let chunks: Vec<&[u8]> = body.chunks(64 << 10).collect();
    let wrong = [("x-amz-checksum-crc32", "AAAAAA==")];
    let other_hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for (name, request, code) in [
        (
            "md5",
            object("PUT", "k").header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==").body(&body),
            "BadDigest",
        ),
        ("crc", object("PUT", "k").header("x-amz-checksum-crc32", "AAAAAA==").body(&body), "BadDigest"),
        ("sha256", object("PUT", "k").payload(other_hash).body(&body), "XAmzContentSHA256Mismatch"),
        ("trailer", object("PUT", "k").signed_chunks(&chunks, &wrong), "BadDigest"),
    ] {
        let answer = server.ask(request).await;
        assert_eq!((answer.status, answer.code()), (400, code), "{name}: {}", answer.body);
        assert_eq!(server.ask(object("HEAD", "k")).await.status, 404, "{name}");
        until_free(&server, before).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_that_breaks_off_stores_nothing() {
    let server = start().await;
    let body = text(2 * MIB);
    let before = segment_bytes(&server);
    let chunks: Vec<&[u8]> = body.chunks(64 << 10).collect();
    let trailer = [("x-amz-checksum-crc32", crc32_base64(&body))];
    let trailer: Vec<(&str, &str)> = trailer.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let plain = object("PUT", "k").body(&body).sign();
    let coded = object("PUT", "k").signed_chunks(&chunks, &trailer).sign();
    let final_chunk = coded.windows(3).rposition(|w| w == b"\r\n0").expect("a final chunk") + 2;
    for wire in [
        &plain[..plain.len() - 1],
        &plain[..plain.len() / 2],
        &coded[..coded.len() - 2],
        &coded[..final_chunk],
        &coded[..coded.len() / 2],
    ] {
        let mut connection = Connection::open(server.address).await;
        connection.send(wire).await;
        connection.end().await;
        while connection.fill().await {}
        assert_eq!(server.ask(object("HEAD", "k")).await.status, 404, "{} bytes", wire.len());
        until_free(&server, before).await;
    }
    // One byte of a chunk changed: its signature says so.
    let mut changed = coded.clone();
    changed[final_chunk - 1000] ^= 1;
    let mut connection = Connection::open(server.address).await;
    connection.send(&changed).await;
    assert_eq!(connection.answer().await.code(), "SignatureDoesNotMatch");
    until_free(&server, before).await;
    // More than was announced.
    let longer =
        object("PUT", "k").payload("UNSIGNED-PAYLOAD").header("content-length", "100000").body(&body);
    let mut connection = Connection::open(server.address).await;
    connection.send(&longer.sign()).await;
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(server.ask(object("GET", "k")).await.body.as_bytes(), &body[..100_000]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sender_holds_up_nobody_and_gets_its_answer() {
    let server = start().await;
    let body = text(3 * MIB);
    let wire = object("PUT", "slow").body(&body).sign();
    let mut slow = Connection::open(server.address).await;
    slow.send(&wire[..wire.len() / 2]).await;
    let other = text(2 * MIB);
    server.put("other", &other).await;
    assert!(server.ask(object("GET", "other")).await.body.as_bytes() == other);
    assert_eq!(server.ask(object("HEAD", "slow")).await.status, 404);
    slow.send(&wire[wire.len() / 2..]).await;
    assert_eq!(slow.answer().await.status, 200);
    assert!(server.ask(object("GET", "slow")).await.body.as_bytes() == body);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_does_not_break_a_get_under_way() {
    let server = start().await;
    // More than fits into the buffers between us and the server.
    let body = text(24 * MIB);
    server.put("k", &body).await;
    let mut slow = Connection::open(server.address).await;
    slow.send(&object("GET", "k").sign()).await;
    let head = slow.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    server.put("k", b"new").await;
    server.ask(object("DELETE", "k")).await;
    assert_eq!(server.ask(object("HEAD", "k")).await.status, 404);
    assert!(slow.body(body.len()).await == body, "another body");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_condition_is_told_before_the_body_travels() {
    let server = start().await;
    server.put("k", b"there").await;
    let request = |name: &str, value: &str| {
        object("PUT", "k")
            .payload("UNSIGNED-PAYLOAD")
            .header(name, value)
            .header("content-length", "1000000")
            .header("expect", "100-continue")
    };
    for (name, value, status) in [("if-none-match", "*", 412), ("if-match", "\"abc\"", 412)] {
        let mut connection = Connection::open(server.address).await;
        connection.send(&request(name, value).sign()).await;
        let answer = connection.answer().await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        assert!(answer.closes());
    }
    let body = text(1_000_000);
    let mut connection = Connection::open(server.address).await;
    connection.send(&request("if-match", "*").sign()).await;
    assert!(connection.head().await.starts_with("HTTP/1.1 100"));
    connection.send(&body).await;
    assert_eq!(connection.answer().await.status, 200);
    assert!(server.ask(object("GET", "k")).await.body.as_bytes() == body);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_long_creates_one_wins() {
    let server = start().await;
    let before = segment_bytes(&server);
    let wires: Vec<Vec<u8>> = (0..8u8)
        .map(|i| object("PUT", "k").header("if-none-match", "*").body(&vec![b'a' + i; 200_000]).sign())
        .collect();
    let asked = wires.iter().map(|wire| async {
        let mut connection = Connection::open(server.address).await;
        connection.send(wire).await;
        connection.answer().await.status
    });
    let statuses = futures_util::future::join_all(asked).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 7, "{statuses:?}");
    let body = server.ask(object("GET", "k")).await.body;
    assert!(body.len() == 200_000 && body.bytes().all(|b| b == body.as_bytes()[0]));
    server.ask(object("DELETE", "k")).await;
    until_free(&server, before + 4096).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_etags_are_derived_from_the_version() {
    let fast = || ["bucket".to_owned()].into();
    let server = start_with(|config| config.fast_etags = fast()).await;
    for len in [5, 200_000] {
        let body = text(len);
        let put = server.put("k", &body).await;
        let etag = put.header("etag").expect("an ETag").to_owned();
        assert!(etag.ends_with("-1\"") && etag.len() == 36, "{etag}");
        let got = server.ask(object("GET", "k").header("if-match", &etag)).await;
        assert_eq!((got.status, got.header("etag")), (200, Some(etag.as_str())));
        assert!(got.body.as_bytes() == body);
        let wrong = object("PUT", "k").header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==").body(&body);
        assert_eq!(server.ask(wrong).await.code(), "BadDigest");
        let right = BASE64.encode(Md5::digest(&body));
        assert_eq!(
            server.ask(object("PUT", "k").header("content-md5", &right).body(&body)).await.status,
            200
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_object_is_resps_too() {
    let server = start().await;
    let body = text(2 * MIB);
    server.put("k", &body).await;
    server.resp(&[Mutation::Append { bucket: server.bucket(), key: b"k", value: b"tail"[..].into() }]).await;
    let answer = server.ask(object("GET", "k")).await;
    assert!(answer.body.as_bytes() == [&body[..], b"tail"].concat(), "another body");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_nothing_hold_a_bounded_share_of_memory_and_stop_nobody() {
    let server = start().await;
    let body = text(5 * MIB + 7);
    server.put("k", &body).await;
    let store = server.node.store();
    let bucket = server.bucket();
    let view = store.view().unwrap();
    let row = view.fetch(bucket, b"k").await.unwrap().unwrap();
    let reader = view.open_body(&row).await.unwrap();
    drop(view);
    let (budget, mut standing) = (PieceBudget::new(), Vec::new());
    while budget.left() > 0 {
        let mut sent = stream_body(reader.clone(), 0..reader.len(), budget.clone());
        let first = sent.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first == body[..PIECE_BYTES as usize]);
        standing.push((sent, first));
        assert!(standing.len() <= PIECES_MAX);
    }
    // One more client gets all of it, in small pieces.
    let (mut sent, mut bytes) = (stream_body(reader.clone(), 3..reader.len(), budget.clone()), Vec::new());
    while let Some(frame) = sent.frame().await {
        let piece = frame.unwrap().into_data().unwrap();
        assert!(piece.len() as u64 <= SMALL_PIECE_BYTES);
        bytes.extend_from_slice(&piece);
    }
    assert!(bytes == body[3..]);
    assert_eq!(budget.left(), 0);
    let (sent, first) = standing.pop().unwrap();
    drop(sent);
    assert!(budget.left() > 0, "a body that is not sent any more reads ahead of nobody");
    drop(first);
    drop(standing);
    assert_eq!(budget.left(), PIECES_MAX);
    server.stop().await;
}
