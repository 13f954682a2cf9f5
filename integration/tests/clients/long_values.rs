//! Values of many megabytes over RESP: through other people's clients, and in bounded memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::python;
use sha2::{Digest, Sha256};

use crate::s3_clients::aws;

const MIB: usize = 1 << 20;
/// No pattern that repeats, made once for each test.
const SEED: u64 = 0x0f0e_bae5;

fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(SEED).fill(&mut bytes);
    bytes
}

#[test]
fn redis_py_and_aws_cli_see_the_same_thirty_megabytes() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (there, back) = (directory.path().join("there"), directory.path().join("back"));
    let value = random_bytes(30 * MIB + 1);
    std::fs::write(&there, &value).unwrap();
    let expected = hex::encode(Sha256::digest(&value));
    let port = node.endpoints().resp.port().to_string();
    let said = python::run(python::script("redis_long_values.py").args([&port]).arg(&there).arg("film"));
    assert_eq!(said.trim(), expected, "over RESP");
    python::run(aws(&node).args(["s3", "cp", "s3://redis-0/film"]).arg(&back));
    assert_eq!(hex::encode(Sha256::digest(std::fs::read(&back).unwrap())), expected, "over S3");
    node.finish(&[]);
}

/// Method: the bytes are made as they are sent and judged as they come, here and there nothing holds them; a
/// thread watches the node's memory.
#[test]
fn long_values_pass_through_in_bounded_memory() {
    let len = if std::env::var_os("FOREBAY_LONG").is_some() { 512 * MIB } else { 128 * MIB };
    let node = Node::start(NodeOptions::default()).unwrap();
    let mut small = node.resp();
    assert_eq!(small.call(&["SET", "small", "1"]).unwrap(), b"+OK\r\n");
    let before = node.rss_anon_bytes();
    let (done, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(node.rss_anon_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let mut stream = TcpStream::connect(node.endpoints().resp).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let piece = random_bytes(MIB - 7);
        let pieces = || {
            let whole = std::iter::repeat_n(&piece[..], len / piece.len());
            whole.chain(std::iter::once(&piece[..len % piece.len()]))
        };
        stream.write_all(format!("*3\r\n$3\r\nSET\r\n$4\r\nlong\r\n${len}\r\n").as_bytes()).unwrap();
        for piece in pieces() {
            stream.write_all(piece).unwrap();
        }
        stream.write_all(b"\r\nGET small\r\nGET long\r\nSTRLEN long\r\n").unwrap();
        let mut expect = |bytes: &[u8]| {
            let mut found = vec![0; bytes.len()];
            stream.read_exact(&mut found).unwrap();
            assert!(found == bytes, "{}", found[..found.len().min(100)].escape_ascii());
        };
        expect(format!("+OK\r\n$1\r\n1\r\n${len}\r\n").as_bytes());
        pieces().for_each(&mut expect);
        expect(format!("\r\n:{len}\r\n").as_bytes());
        done.store(true, Ordering::Relaxed);
    });
    let grown = most.load(Ordering::Relaxed).saturating_sub(before);
    eprintln!("{} MiB: RssAnon grew by {} MiB at most", len / MIB, grown / MIB as u64);
    assert!(grown < 128 * MIB as u64, "RssAnon grew by {} MiB", grown / MIB as u64);
    node.finish(&[]);
}
