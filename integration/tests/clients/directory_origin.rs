//! A directory as an origin (`file:///path`). Aim: it holds plain files under the users' keys, everything acknowledged
//! among them, whatever happens to the node; files that people put or change are objects. Method: a real node with little
//! room over a directory that the test reads and writes.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use forebay_integration::node::{Node, NodeOptions};
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

async fn read(s3: &Client, key: &str) -> Option<Vec<u8>> {
    match s3.get_object().bucket("photos").key(key).send().await {
        Ok(got) => Some(got.body.collect().await.unwrap().into_bytes().to_vec()),
        Err(error) if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 404) => None,
        Err(error) => panic!("{key}: {error:?}"),
    }
}

async fn put(s3: &Client, number: usize) {
    let put = || {
        let put = s3.put_object().bucket("photos").key(key(number)).body(ByteStream::from(body(number)));
        put.send()
    };
    let until = std::time::Instant::now() + LIMIT;
    // A writer that is told to slow down does.
    while let Err(error) = put().await {
        let slow = error.raw_response().is_some_and(|raw| raw.status().as_u16() == 503);
        assert!(slow && std::time::Instant::now() < until, "{error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn options(nas: &Path) -> NodeOptions {
    NodeOptions::default()
        .set("capacity", "\"40MiB\"")
        .set("dirty_limit", "\"40MiB\"")
        .set("flush.part_size", "\"512KiB\"")
        .directory("/photos", nas)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_site_holds_survives_kills_and_reads_back() {
    let nas = tempfile::tempdir().unwrap();
    // Somebody has used the directory before.
    std::fs::create_dir(nas.path().join("old")).unwrap();
    std::fs::write(nas.path().join("old/file"), body(7)).unwrap();
    let mut node = Node::start(options(nas.path())).unwrap();
    wait::until_true("the directory is ready", LIMIT, || node.log().contains("origin ready")).unwrap();
    for number in 0..OBJECTS {
        put(&node.s3(), number).await;
        if number % 25 == 20 {
            node.kill();
            node.restart().unwrap();
        }
    }
    node.flush_wait(LIMIT);
    let s3 = node.s3();
    assert!(node.metric("evicted_capacity_bytes_total") > 0.0, "everything fitted");
    for number in (0..OBJECTS).rev() {
        assert!(std::fs::read(nas.path().join(key(number))).unwrap() == body(number), "the file {number}");
        assert!(read(&s3, &key(number)).await == Some(body(number)), "the object {number}");
    }
    assert!(node.metric("fills_total") > 0.0);
    assert!(read(&s3, "old/file").await == Some(body(7)));
    let listed = s3.list_objects_v2().bucket("photos").send().await.unwrap();
    assert_eq!(listed.key_count(), Some(OBJECTS as i32 + 1));
    // What is deleted is gone there too, with the directories that nothing is left in.
    for number in 0..OBJECTS {
        s3.delete_object().bucket("photos").key(key(number)).send().await.unwrap();
    }
    node.flush_wait(LIMIT);
    assert!(nas.path().join("old/file").exists() && !nas.path().join("dir0").exists());
    node.finish(&["flush", "capacity"]);
}

#[tokio::test]
async fn what_people_change_in_the_directory_is_seen_after_the_time_that_was_set() {
    let nas = tempfile::tempdir().unwrap();
    std::fs::write(nas.path().join("theirs"), "first").unwrap();
    let node = Node::start(options(nas.path()).last_mount_set("revalidate", "\"200ms\"")).unwrap();
    wait::until_true("the directory is ready", LIMIT, || node.log().contains("origin ready")).unwrap();
    let s3 = node.s3();
    assert_eq!(read(&s3, "theirs").await, Some(b"first".to_vec()));
    put(&s3, 1).await;
    node.flush_wait(LIMIT);
    let becomes = async |key: &str, wanted: Option<&[u8]>| {
        let until = std::time::Instant::now() + LIMIT;
        loop {
            let found = read(&s3, key).await;
            if found.as_deref() == wanted {
                return;
            }
            assert!(std::time::Instant::now() < until, "{key} stays {:?}", found.map(|found| found.len()));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // As editors and file managers do it: in place, and by a rename over it.
    std::fs::write(nas.path().join("theirs"), "second, and longer").unwrap();
    becomes("theirs", Some(b"second, and longer")).await;
    std::fs::write(nas.path().join("new"), "ours no more").unwrap();
    std::fs::rename(nas.path().join("new"), nas.path().join(key(1))).unwrap();
    becomes(&key(1), Some(b"ours no more")).await;
    std::fs::remove_file(nas.path().join("theirs")).unwrap();
    becomes("theirs", None).await;
    node.finish(&["origin", "look"]);
}
