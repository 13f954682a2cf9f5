//! A directory as an origin (`file:///path`). Aim: it holds plain files under the users' keys, everything acknowledged
//! among them, whatever happens to the node; files that people put or change are objects. Method: a real node with little
//! room over a directory that the test reads and writes.

use std::path::Path;
use std::time::Duration;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::s3_wire::S3Wire;
use forebay_integration::wait;

const LIMIT: Duration = Duration::from_secs(120);
const OBJECTS: usize = 60;

#[test]
fn keys_are_readable_paths() {
    let nas = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    let node =
        Node::start(NodeOptions::default().data_dir(data.path()).directory("/redis-0", nas.path())).unwrap();
    let mut resp = node.resp();
    for (key, value) in [("a", "1"), ("a/b", "2"), ("photos/x.jpg", "3"), ("..", "4")] {
        assert_eq!(resp.call(&["SET", key, value]).unwrap(), b"+OK\r\n");
    }
    resp.call(&["SET", "gone", "5"]).unwrap();
    resp.call(&["SET", "long", &"l".repeat(60_000)]).unwrap();
    node.flush_wait(LIMIT);
    resp.call(&["DEL", "gone"]).unwrap();
    node.flush_wait(LIMIT);
    let read = |name: &str| std::fs::read_to_string(nas.path().join(name)).unwrap_or_default();
    assert_eq!(
        (read("a%~"), read("a/b"), read("photos/x.jpg"), read("%2E.")),
        ("1".into(), "2".into(), "3".into(), "4".into())
    );
    assert_eq!(read("long").len(), 60_000);
    assert!(!nas.path().join("gone").exists());
    node.finish(&[]);
}

/// Different for each number; longer than a part.
fn body(number: usize) -> Vec<u8> {
    (0..(1 << 20) + number * 9_973).map(|at| (number * 131 + at * 7 + at / 251) as u8).collect()
}

fn key(number: usize) -> String {
    format!("dir{}/k{number}", number % 5)
}

fn read(wire: &mut S3Wire, key: &str) -> Option<Vec<u8>> {
    let got = wire.get(&format!("/photos/{key}")).unwrap();
    assert!([200, 404].contains(&got.status), "{key}: {}", got.text());
    (got.status == 200).then_some(got.body)
}

/// A writer that is told to slow down does.
fn put(wire: &mut S3Wire, number: usize) {
    wait::until("there is room", LIMIT, || {
        let put = wire.put(&format!("/photos/{}", key(number)), &body(number)).unwrap();
        assert!([200, 503].contains(&put.status), "{}", put.text());
        if put.status == 200 { Ok(()) } else { Err(put.text()) }
    })
    .unwrap();
}

fn options(nas: &Path) -> NodeOptions {
    NodeOptions::default()
        .set("capacity", "\"40MiB\"")
        .set("dirty_limit", "\"40MiB\"")
        .set("flush.part_size", "\"512KiB\"")
        .directory("/photos", nas)
}

#[test]
fn more_than_the_site_holds_survives_kills_and_reads_back() {
    let nas = tempfile::tempdir().unwrap();
    // Somebody has used the directory before.
    std::fs::create_dir(nas.path().join("old")).unwrap();
    std::fs::write(nas.path().join("old/file"), body(7)).unwrap();
    let mut node = Node::start(options(nas.path())).unwrap();
    node.wait_origins(1, LIMIT);
    let mut wire = node.s3_wire();
    for number in 0..OBJECTS {
        put(&mut wire, number);
        if number % 25 == 20 {
            node.kill();
            node.restart().unwrap();
            wire = node.s3_wire();
        }
    }
    node.flush_wait(LIMIT);
    assert!(node.metric("evicted_capacity_bytes_total") > 0.0, "everything fitted");
    for number in (0..OBJECTS).rev() {
        assert!(std::fs::read(nas.path().join(key(number))).unwrap() == body(number), "the file {number}");
        assert!(read(&mut wire, &key(number)) == Some(body(number)), "the object {number}");
    }
    assert!(node.metric("fills_total") > 0.0);
    assert!(read(&mut wire, "old/file") == Some(body(7)));
    let listed = wire.get("/photos").unwrap().text();
    assert_eq!(listed.matches("<Key>").count(), OBJECTS + 1, "{listed}");
    // What is deleted is gone there too, with the directories that nothing is left in.
    for number in 0..OBJECTS {
        assert_eq!(wire.delete(&format!("/photos/{}", key(number))).unwrap().status, 204);
    }
    node.flush_wait(LIMIT);
    assert!(nas.path().join("old/file").exists() && !nas.path().join("dir0").exists());
    node.finish(&["flush", "capacity"]);
}

#[test]
fn what_people_change_in_the_directory_is_seen_after_the_time_that_was_set() {
    let nas = tempfile::tempdir().unwrap();
    std::fs::write(nas.path().join("theirs"), "first").unwrap();
    let node = Node::start(options(nas.path()).last_mount_set("revalidate", "\"200ms\"")).unwrap();
    node.wait_origins(1, LIMIT);
    let mut wire = node.s3_wire();
    assert_eq!(read(&mut wire, "theirs"), Some(b"first".to_vec()));
    put(&mut wire, 1);
    node.flush_wait(LIMIT);
    let mut becomes = |key: &str, wanted: Option<&[u8]>| {
        wait::until("the change is seen", LIMIT, || {
            let found = read(&mut wire, key);
            if found.as_deref() == wanted {
                Ok(())
            } else {
                Err(format!("{key}: {:?}", found.map(|it| it.len())))
            }
        })
        .unwrap();
    };
    // As editors and file managers do it: in place, and by a rename over it.
    std::fs::write(nas.path().join("theirs"), "second, and longer").unwrap();
    becomes("theirs", Some(b"second, and longer"));
    std::fs::write(nas.path().join("new"), "ours no more").unwrap();
    std::fs::rename(nas.path().join("new"), nas.path().join(key(1))).unwrap();
    becomes(&key(1), Some(b"ours no more"));
    std::fs::remove_file(nas.path().join("theirs")).unwrap();
    becomes("theirs", None);
    node.finish(&["origin", "look"]);
}
