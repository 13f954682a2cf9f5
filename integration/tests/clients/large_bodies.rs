//! Large bodies over S3: memory stays bounded, whoever sends and however slowly, and what fails leaves nothing.
//! Method: requests written by hand, the daemon's anonymous memory watched while they run.
//!
//! In CI a body has 128 MiB, with FOREBAY_LONG=1 a GiB: sixteen of them at once take 17 GiB of the disk.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use forebay_integration::http_wire::{self, HttpWire, Signer, Unsigned};
use forebay_integration::node::{ACCESS_KEY_ID, Node, NodeOptions, SECRET_ACCESS_KEY};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::wait;
use md5::{Digest, Md5};

const MIB: u64 = 1 << 20;
/// How long sixteen bodies may take at once.
const LIMIT: Duration = Duration::from_secs(500);

fn body_bytes() -> u64 {
    if std::env::var_os("FOREBAY_LONG").is_some() { 1024 * MIB } else { 128 * MIB }
}

/// The piece that bodies are made of: different at each place of a chunk.
fn piece() -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(1);
    (0..MIB).map(|_| rng.u8(..)).collect()
}

fn head(addr: SocketAddr, method: &str, path: &str, headers: &[(&'static str, String)]) -> Vec<u8> {
    let request = Unsigned {
        method,
        path,
        signed: headers.to_vec(),
        content_sha256: "UNSIGNED-PAYLOAD",
        ..Unsigned::default()
    };
    Signer::now(ACCESS_KEY_ID, SECRET_ACCESS_KEY).sign(addr, &request).head
}

fn put(addr: SocketAddr, path: &str, length: u64) -> String {
    let piece = piece();
    let mut wire = HttpWire::connect(addr).unwrap();
    wire.send(&head(addr, "PUT", path, &[("content-length", length.to_string())])).unwrap();
    let mut md5 = Md5::new();
    for _ in 0..length / MIB {
        wire.send(&piece).unwrap();
        md5.update(&piece);
    }
    let answer = wire.answer(false).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    let etag = answer.header("etag").unwrap().trim_matches('"').to_owned();
    assert_eq!(etag, hex::encode(md5.finalize()), "{path}");
    etag
}

fn get(addr: SocketAddr, path: &str, etag: &str) {
    let mut wire = HttpWire::connect(addr).unwrap();
    wire.send(&head(addr, "GET", path, &[])).unwrap();
    let mut md5 = Md5::new();
    let answer = wire.answer_streamed(|bytes| md5.update(bytes)).unwrap();
    assert_eq!((answer.status, hex::encode(md5.finalize()).as_str()), (200, etag), "{path}");
}

/// The same by multipart upload, four parts of 8 MiB at a time; the ETag that it was given.
fn put_in_parts(addr: SocketAddr, path: &str, length: u64) -> String {
    const PART_BYTES: u64 = 8 * MIB;
    const AT_ONCE: u64 = 4;
    let call = |method: &'static str, query: &str, body: &[u8]| {
        let signed = vec![("content-length", body.len().to_string())];
        let content_sha256 = "UNSIGNED-PAYLOAD";
        let request = Unsigned { method, path, query, signed, content_sha256, ..Unsigned::default() };
        let mut bytes = Signer::now(ACCESS_KEY_ID, SECRET_ACCESS_KEY).sign(addr, &request).head;
        bytes.extend_from_slice(body);
        let answer = http_wire::exchange(addr, &bytes).unwrap();
        assert_eq!(answer.status, 200, "{path} {query}: {}", answer.text());
        answer
    };
    let begun = call("POST", "uploads=", b"").text();
    let (_, id) = begun.split_once("<UploadId>").expect("an upload id");
    let (id, _) = id.split_once("</UploadId>").expect("an upload id");
    let part = piece().repeat((PART_BYTES / MIB) as usize);
    let md5 = Md5::digest(&part);
    let count = length / PART_BYTES;
    thread::scope(|scope| {
        for first in 1..=AT_ONCE {
            let (call, part) = (&call, &part);
            scope.spawn(move || {
                for number in (first..=count).step_by(AT_ONCE as usize) {
                    call("PUT", &format!("partNumber={number}&uploadId={id}"), part);
                }
            });
        }
    });
    let each = |number| {
        format!("<Part><PartNumber>{number}</PartNumber><ETag>&quot;{}&quot;</ETag></Part>", hex::encode(md5))
    };
    let list: String = (1..=count).map(each).collect();
    let list = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    call("POST", &format!("uploadId={id}"), list.as_bytes());
    format!("{}-{count}", hex::encode(Md5::digest(md5.repeat(count as usize))))
}

fn status(addr: SocketAddr, method: &str, path: &str) -> u16 {
    http_wire::exchange(addr, &head(addr, method, path, &[])).unwrap().status
}

fn node() -> (Node, SocketAddr) {
    let node = Node::start(NodeOptions::default().set("capacity", "\"40GiB\"")).unwrap();
    let addr = node.endpoints().s3;
    assert_eq!(status(addr, "PUT", "/large"), 200);
    (node, addr)
}

/// Runs work in threads; the most that the daemon's anonymous memory grew meanwhile.
fn growth(node: &Node, work: Vec<Box<dyn FnOnce() + Send>>) -> u64 {
    let before = node.rss_anon_bytes();
    let mut most = before;
    let threads: Vec<_> = work.into_iter().map(thread::spawn).collect();
    wait::until("all bodies are through", LIMIT, || {
        most = most.max(node.rss_anon_bytes());
        if threads.iter().all(thread::JoinHandle::is_finished) { Ok(()) } else { Err("some run") }
    })
    .unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    most - before
}

/// The same of sixteen at once, each with a path of its own.
fn growth_of_sixteen(node: &Node, work: impl Fn(&str) + Copy + Send + 'static) -> u64 {
    let one = |number| -> Box<dyn FnOnce() + Send> { Box::new(move || work(&format!("/large/{number}"))) };
    growth(node, (0..16).map(one).collect())
}

#[test]
fn a_body_in_parts_costs_little_memory() {
    let (node, addr) = node();
    let length = body_bytes();
    let grown = growth(
        &node,
        vec![Box::new(move || {
            let etag = put_in_parts(addr, "/large/parts", length);
            let mut wire = HttpWire::connect(addr).unwrap();
            wire.send(&head(addr, "GET", "/large/parts", &[])).unwrap();
            let (mut md5, mut expected, piece) = (Md5::new(), Md5::new(), piece());
            let answer = wire.answer_streamed(|bytes| md5.update(bytes)).unwrap();
            assert_eq!(answer.header("etag"), Some(format!("\"{etag}\"").as_str()));
            (0..length / MIB).for_each(|_| expected.update(&piece));
            assert_eq!(md5.finalize(), expected.finalize());
        })],
    );
    assert!(grown < 128 * MIB, "a body of {} MiB in parts: {} MiB", length / MIB, grown / MIB);
    assert_eq!(status(addr, "DELETE", "/large/parts"), 204);
    let sixteen = growth_of_sixteen(&node, move |path| {
        put_in_parts(addr, path, length / 2);
        assert_eq!(status(addr, "DELETE", path), 204);
    });
    assert!(
        sixteen < 256 * MIB,
        "sixteen bodies of {} MiB in parts: {} MiB",
        length / 2 / MIB,
        sixteen / MIB
    );
    eprintln!(
        "growth of RssAnon in parts of 8 MiB, four at a time: {} MiB: {} MiB, sixteen of half that: {} MiB",
        length / MIB,
        grown / MIB,
        sixteen / MIB
    );
    node.finish(&[]);
}

/// Long bodies on their way to an origin while they arrive, and back from it once they were given up.
#[test]
fn bodies_to_and_from_an_origin_cost_little_memory() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let length = body_bytes();
    let capacity = format!("\"{}MiB\"", length * 5 / 2 / MIB);
    let options = NodeOptions::default().set("capacity", &capacity).set("dirty_limit", &capacity);
    // A part takes its time on a busy machine.
    let options = options.set("flush.attempt_timeout", "\"30s\"").mount("/large", &origin, "cloud/large");
    let mut node = Node::start(options).unwrap();
    node.attach_mounts(&["large"], Duration::from_secs(30));
    let (addr, admin) = (node.endpoints().s3, node.endpoints().admin);
    let (into, etags) = mpsc::channel();
    let work = move || {
        for number in 0..4 {
            into.send(put(addr, &format!("/large/{number}"), length)).unwrap();
            wait::until_true("the body is in the origin", LIMIT, || {
                let metrics = http_wire::get(admin, "/metrics", &[]).unwrap().text();
                metrics.contains("\nforebay_flush_pending_objects 0\n")
            })
            .unwrap();
        }
    };
    let there = growth(&node, vec![Box::new(work)]);
    let evicted = node.metric("evicted_capacity_bytes_total");
    // Each way by itself: what the uploads leave in pools is not the reads'.
    node.terminate().unwrap();
    let addr = node.restart().unwrap().s3;
    let work = move || {
        etags.iter().enumerate().for_each(|(number, etag)| get(addr, &format!("/large/{number}"), &etag));
    };
    let back = growth(&node, vec![Box::new(work)]);
    let fetched = node.metric("fill_bytes_total");
    assert!(evicted.min(fetched) >= length as f64, "{evicted} bytes given up, {fetched} fetched");
    assert!(there.max(back) < 128 * MIB, "of {} MiB: {} MiB, {} MiB", length / MIB, there / MIB, back / MIB);
    eprintln!(
        "growth of RssAnon with bodies of {} MiB: to an origin {} MiB, back {} MiB",
        length / MIB,
        there / MIB,
        back / MIB
    );
    node.finish(&[]);
}

#[test]
fn one_body_costs_little_memory_and_sixteen_at_once_not_much_more() {
    let (node, addr) = node();
    let length = body_bytes();
    let one = growth(
        &node,
        vec![Box::new(move || {
            let etag = put(addr, "/large/one", length);
            get(addr, "/large/one", &etag);
        })],
    );
    assert!(one < 128 * MIB, "one body of {} MiB: {} MiB", length / MIB, one / MIB);
    assert_eq!(status(addr, "DELETE", "/large/one"), 204);
    let sixteen = growth_of_sixteen(&node, move |path| {
        let etag = put(addr, path, length);
        get(addr, path, &etag);
        assert_eq!(status(addr, "DELETE", path), 204);
    });
    assert!(sixteen < 256 * MIB, "sixteen bodies of {} MiB: {} MiB", length / MIB, sixteen / MIB);
    eprintln!(
        "growth of RssAnon with bodies of {} MiB: one {} MiB, sixteen {} MiB",
        length / MIB,
        one / MIB,
        sixteen / MIB
    );
    node.finish(&[]);
}

/// Two hundred clients that announce a large body, send a little of it and wait.
#[test]
fn slow_senders_of_large_bodies_hold_little_memory_and_disturb_nobody() {
    let (node, addr) = node();
    let before = node.rss_anon_bytes();
    let waiting: Vec<HttpWire> = (0..200)
        .map(|number| {
            let length = [("content-length", (64 * MIB).to_string())];
            let mut wire = HttpWire::connect(addr).unwrap();
            wire.send(&head(addr, "PUT", &format!("/large/slow-{number}"), &length)).unwrap();
            wire.send(&[b'x'; 100_000]).unwrap();
            wire
        })
        .collect();
    let etag = put(addr, "/large/fast", 64 * MIB);
    get(addr, "/large/fast", &etag);
    let grown = node.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 128 * MIB, "{} MiB for 200 slow senders", grown / MIB);
    drop(waiting);
    for number in [0, 199] {
        assert_eq!(status(addr, "HEAD", &format!("/large/slow-{number}")), 404);
    }
    node.finish(&[]);
}

/// Two hundred clients that ask for a large body and do not read it.
#[test]
fn slow_readers_of_large_bodies_hold_little_memory_and_disturb_nobody() {
    let (node, addr) = node();
    let etag = put(addr, "/large/k", 64 * MIB);
    let before = node.rss_anon_bytes();
    let waiting: Vec<HttpWire> = (0..200)
        .map(|_| {
            let mut wire = HttpWire::connect(addr).unwrap();
            wire.send(&head(addr, "GET", "/large/k", &[])).unwrap();
            wire
        })
        .collect();
    get(addr, "/large/k", &etag);
    let grown = node.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 192 * MIB, "{} MiB for 200 slow readers", grown / MIB);
    drop(waiting);
    node.finish(&[]);
}

/// Bodies that break off in the middle, many times more than the capacity holds: their space comes back.
#[test]
fn broken_uploads_give_their_space_back() {
    let node = Node::start(NodeOptions::default().set("capacity", "\"1GiB\"")).unwrap();
    let addr = node.endpoints().s3;
    assert_eq!(status(addr, "PUT", "/large"), 200);
    let piece = piece();
    for number in 0..40 {
        let mut wire = HttpWire::connect(addr).unwrap();
        let length = [("content-length", (128 * MIB).to_string())];
        wire.send(&head(addr, "PUT", "/large/broken", &length)).unwrap();
        for _ in 0..64 {
            if wire.send(&piece).is_err() {
                break;
            }
        }
        drop(wire);
        // What was announced counts until the break is seen.
        wait::until("there is room again", Duration::from_secs(20), || {
            match http_wire::exchange(addr, &{
                let mut request = head(addr, "PUT", "/large/small", &[("content-length", "1".to_owned())]);
                request.push(b'x');
                request
            }) {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("upload {number}: {}", answer.text())),
                Err(error) => Err(error.to_string()),
            }
        })
        .unwrap();
    }
    assert_eq!(status(addr, "HEAD", "/large/broken"), 404);
    let etag = put(addr, "/large/whole", 128 * MIB);
    get(addr, "/large/whole", &etag);
    node.finish(&[]);
}
