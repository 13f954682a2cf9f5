//! `forebay scrub` against a disk that changes bytes. Aim: damage is found, what the origin holds comes back right, and
//! what only this node had is kept and named; exit codes as documented. Method: bytes of known values are flipped in the
//! segment files of a node that runs, and of one that does not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::resp_wire::bulk;
use forebay_integration::wait;

const LIMIT: Duration = Duration::from_secs(60);
const VALUE_BYTES: usize = 50_000;

/// No two stretches of any two values are alike.
fn value(number: usize) -> Vec<u8> {
    (0..VALUE_BYTES / 8).flat_map(|at| ((number << 32 | at) as u64).to_le_bytes()).collect()
}

/// Flips a bit in the middle of a value, in every segment that has it; how many did.
fn flip(data_dir: &Path, number: usize) -> usize {
    let value = value(number);
    let middle = &value[VALUE_BYTES / 2..][..64];
    let mut flipped = 0;
    for entry in fs::read_dir(data_dir.join("blob")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for at in (0..bytes.len().saturating_sub(64)).filter(|at| bytes[*at..].starts_with(middle)) {
            file.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
            flipped += 1;
        }
    }
    flipped
}

fn scrub(node: &Node, arguments: &[&str]) -> (Option<i32>, String) {
    let output = node.forebay(&[&["scrub", "--bytes-per-second", "1GiB"], arguments].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn set(node: &Node, number: usize) {
    let reply = node.resp().call(&[b"SET", format!("k{number}").as_bytes(), &value(number)]).unwrap();
    assert_eq!(reply, b"+OK\r\n");
}

fn expect(node: &Node, number: usize) {
    let reply = node.resp().call(&["GET", &format!("k{number}")]).unwrap();
    let right = bulk(&reply).is_some_and(|found| found == value(number));
    assert!(right, "k{number}: {}", reply[..reply.len().min(200)].escape_ascii());
}

/// Waits until the value has left the memtable for a segment, and flips it there.
fn flip_when_there(node: &Node, number: usize) {
    wait::until("the value is in a segment", LIMIT, || match flip(&node.data_dir(), number) {
        0 => Err("in none".to_owned()),
        _ => Ok(()),
    })
    .unwrap();
}

#[test]
fn flipped_bits_are_found_and_what_the_origin_holds_is_mended() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let mut node = Node::start(NodeOptions::default().mount("/redis-0", &origin, "cloud/db")).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    for number in 0..20 {
        set(&node, number);
    }
    node.flush_wait(LIMIT);
    let (code, said) = scrub(&node, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing is wrong"), "{said}");

    flip_when_there(&node, 3);
    node.kill();
    assert!(flip(&node.data_dir(), 7) > 0);
    node.restart().unwrap();
    let (code, said) = scrub(&node, &["--origin"]);
    assert_eq!(code, Some(3), "{said}");
    for key in ["k3", "k7"] {
        assert!(said.contains(&format!("mended extent     redis-0/{key}: ")), "{key} in {said}");
    }
    let (code, shown) = (node.forebay(&["scrub", "--attach"]).status.code(), scrub(&node, &["--json"]));
    assert_eq!((code, shown.0), (Some(3), Some(0)), "{}", shown.1);
    assert!(shown.1.contains("\"state\": \"done\""), "{}", shown.1);
    for number in 0..20 {
        expect(&node, number);
    }

    origin.set_outage(true);
    set(&node, 30);
    flip_when_there(&node, 30);
    let (code, said) = scrub(&node, &[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("DAMAGE extent     redis-0/k30: ") && said.contains("write the object again"),
        "{said}"
    );
    origin.set_outage(false);
    set(&node, 30);
    node.flush_wait(LIMIT);
    expect(&node, 30);
    let (code, said) = scrub(&node, &[]);
    assert_eq!(code, Some(0), "{said}");
    let cancel = node.forebay(&["scrub", "--cancel"]);
    assert_eq!((cancel.status.code(), &cancel.stdout[..]), (Some(0), &b"none is running\n"[..]));
    node.finish(&["scrub", "flush", "origin", "could not be read", "upload"]);
}
