//! Values of many megabytes over RESP: through other people's clients, and in bounded memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
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

/// Sets a value of `len` bytes and reads it back. The bytes are made as they are sent and judged as they come:
/// here nothing holds them.
fn set_and_get(address: SocketAddr, key: &str, len: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let piece = random_bytes(MIB - 7);
    let pieces = || {
        let whole = std::iter::repeat_n(&piece[..], len / piece.len());
        whole.chain(std::iter::once(&piece[..len % piece.len()]))
    };
    let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${len}\r\n", key.len());
    stream.write_all(head.as_bytes()).unwrap();
    for piece in pieces() {
        stream.write_all(piece).unwrap();
    }
    stream.write_all(format!("\r\nGET small\r\nGET {key}\r\nSTRLEN {key}\r\n").as_bytes()).unwrap();
    let mut expect = |bytes: &[u8]| {
        let mut found = vec![0; bytes.len()];
        stream.read_exact(&mut found).unwrap();
        assert!(found == bytes, "{}", found[..found.len().min(100)].escape_ascii());
    };
    expect(format!("+OK\r\n$1\r\n1\r\n${len}\r\n").as_bytes());
    pieces().for_each(&mut expect);
    expect(format!("\r\n:{len}\r\n").as_bytes());
}

/// `count` clients at once, each with a value of `len` bytes; by how much the node's memory grew at most.
fn growth(count: usize, len: usize) -> u64 {
    let node = Node::start(NodeOptions::default()).unwrap();
    assert_eq!(node.resp().call(&["SET", "small", "1"]).unwrap(), b"+OK\r\n");
    let before = node.rss_anon_bytes();
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(node.rss_anon_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let address = node.endpoints().resp;
        let set_and_get = |number| move || set_and_get(address, &format!("long{number}"), len);
        let clients: Vec<_> = (0..count).map(|number| scope.spawn(set_and_get(number))).collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a client failed");
    });
    let grown = most.load(Ordering::Relaxed).saturating_sub(before) / MIB as u64;
    eprintln!("{count} x {} MiB: RssAnon grew by {grown} MiB at most", len / MIB);
    node.finish(&[]);
    grown
}

fn is_long_run() -> bool {
    std::env::var_os("FOREBAY_LONG").is_some()
}

#[test]
fn the_longest_value_passes_through_in_bounded_memory() {
    let grown = growth(1, if is_long_run() { 512 * MIB } else { 128 * MIB });
    assert!(grown < 128, "RssAnon grew by {grown} MiB");
}

#[test]
fn sixteen_long_values_at_once_pass_through_in_bounded_memory() {
    let grown = growth(16, if is_long_run() { 512 * MIB } else { 32 * MIB });
    assert!(grown < 256, "RssAnon grew by {grown} MiB");
}
