//! F6: space runs out. Aim: growth is refused with the reason (S3 503 SlowDown with Retry-After, RESP -OOM), reads and
//! deletes go on, kill -9 and a start work on a disk without a free byte, freed space is used without an operator,
//! and nothing acknowledged is lost. Method: the data directory on a small disk that a balloon fills to the last
//! byte; and LMDB's map made small.
//!
//! Disks that cannot be had here are skipped loudly. `FOREBAY_SEED` sets the seed of the kills, `FOREBAY_KILLS` their number.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::skip;
use forebay_integration::small_disk::{Kind, SmallDisk};
use forebay_integration::wait;

use crate::kill::number;
use crate::workload::{S3_BUCKET, Workload};
use crate::written::{Api, Clients, Written};

const LIMIT: Duration = Duration::from_secs(120);
const DISK_BYTES: u64 = 320 << 20;
/// What a node may say on a full disk.
const ALLOWED: [&str; 8] =
    ["No space left", "no space", "space", "full", "origin", "flush", "dirty", "endpoints.json"];

fn options(disk: &SmallDisk) -> NodeOptions {
    // Longer bodies than 64 KiB are staged into segments, shorter ones travel in the journal.
    NodeOptions::default().set("journal.file_size", "\"8MiB\"").data_dir(&disk.path().join("data"))
}

fn small_disk(kind: Kind, bytes: u64) -> Option<SmallDisk> {
    match SmallDisk::mount(kind, bytes) {
        Ok(disk) => Some(disk),
        Err(reason) => {
            skip::tell(format_args!("a full disk of kind {kind:?}"), reason);
            None
        }
    }
}

/// Somebody else takes every byte of the disk: two starts after kill -9 and one after a stop find none free.
fn lives_without_a_free_byte(kind: Kind) {
    let Some(disk) = small_disk(kind, DISK_BYTES) else { return };
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let mut node = Node::start(Written::mounted(options(&disk), &origin)).unwrap();
    node.attach_mounts(&["redis-0", S3_BUCKET], LIMIT);
    // What it holds would be given up for room.
    origin.set_outage(true);
    let mut written = Written::default();
    let mut clients = Clients::of(&node);
    let api_of = |number: usize| if number.is_multiple_of(2) { Api::Resp } else { Api::S3 };
    // Bodies in rows, in the log, and in segments; more of them than a journal file holds.
    let length_of = |number: usize| [100, 3_000, 40_000, 200_000][number / 2 % 4];
    for number in 0..400 {
        written.write(&mut clients, api_of(number), &format!("k{number:03}"), length_of(number)).unwrap();
    }
    wait::until_true("a journal file for the next start", LIMIT, || {
        node.metric("journal_start_files") == 1.0
    })
    .unwrap();
    disk.fill();
    let mut next = 0..400;
    for start in 0..=3 {
        if start > 0 {
            match start < 3 {
                true => node.kill(),
                // What waits for room does not hold it up.
                false => assert!(node.terminate().unwrap().success(), "{}", node.log_tail()),
            }
            // Not even what a crash has let go of.
            disk.fill();
            node.restart().unwrap_or_else(|error| panic!("start {start}: {error}\n{}", node.log_tail()));
            clients = Clients::of(&node);
        }
        for api in [Api::Resp, Api::S3] {
            let refused = wait::until("growth is refused", LIMIT, || {
                match written.write(&mut clients, api, &format!("more-{start}"), 5_000) {
                    Ok(()) => Err("it was taken"),
                    Err(refused) => Ok(refused),
                }
            });
            let refused = refused.unwrap_or_else(|error| panic!("{error}\n{}", node.log_tail()));
            assert!(refused.0.contains("free on the disk") || refused.0.contains("space"), "{refused}");
        }
        for number in next.by_ref().take(60) {
            written.delete(&mut clients, api_of(number), &format!("k{number:03}"));
        }
        written.check_node(&mut clients, 1);
    }
    disk.release();
    for number in 0..40 {
        written.write_patiently(&mut clients, api_of(number), &format!("after{number}"), length_of(number));
    }
    written.check_node(&mut clients, 1);
    tokio::runtime::Runtime::new().unwrap().block_on(written.check_list(&node));
    origin.set_outage(false);
    node.flush_wait(LIMIT);
    written.check_origin(&origin);
    assert!(node.terminate().unwrap().success(), "{}", node.log_tail());
    node.restart().unwrap();
    written.check_node(&mut Clients::of(&node), 1);
    node.finish(&ALLOWED);
}

#[test]
fn f6_a_node_on_an_ext4_without_a_free_byte_reads_deletes_starts_again_and_comes_back() {
    lives_without_a_free_byte(Kind::Ext4);
}

#[test]
fn f6_a_node_on_a_tmpfs_without_a_free_byte_reads_deletes_starts_again_and_comes_back() {
    lives_without_a_free_byte(Kind::Tmpfs);
}

/// The disk is filled by nobody else, and nothing can be given up: there is no origin. Nine of ten objects are deleted
/// where they lie, so that no segment becomes free by itself.
#[test]
fn f6_deletes_make_room_on_an_ext4_that_its_own_writes_have_filled() {
    let Some(disk) = small_disk(Kind::Ext4, DISK_BYTES) else { return };
    let mut node = Node::start(options(&disk).set("capacity", "\"320MiB\"")).unwrap();
    node.create_bucket(S3_BUCKET);
    let mut written = Written::default();
    let mut clients = Clients::of(&node);
    let api_of = |number: usize| if number.is_multiple_of(2) { Api::Resp } else { Api::S3 };
    let fill = |written: &mut Written, clients: &mut Clients, name: &str| {
        for number in 0.. {
            let key = format!("{name}{number:05}");
            if let Err(refused) = written.write(clients, api_of(number), &key, 150_000) {
                return (number, refused);
            }
        }
        unreachable!("the disk has an end");
    };
    let (count, refused) = fill(&mut written, &mut clients, "a");
    eprintln!("{count} objects, {} MiB free, then {refused}", disk.free_bytes() >> 20);
    assert!(refused.0.contains("disk_reserve"), "{refused}");
    for number in (0..count).filter(|number| !number.is_multiple_of(10)) {
        written.delete(&mut clients, api_of(number), &format!("a{number:05}"));
    }
    // More than half of what was deleted fits again.
    for number in 0..count / 2 {
        written.write_patiently(&mut clients, api_of(number), &format!("b{number:05}"), 150_000);
    }
    written.check_node(&mut clients, 1);
    node.kill();
    node.restart().unwrap();
    written.check_node(&mut Clients::of(&node), 3);
    node.finish(&ALLOWED);
}

/// Rows fill the map of the checkpoint store, deletes make room in it again.
#[tokio::test]
async fn f6_a_full_map_refuses_growth_and_deletes_make_room() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let options = NodeOptions::default().set("lmdb.map_size", "\"64MiB\"");
    let mut node = Node::start(Written::mounted(options, &origin)).unwrap();
    node.attach_mounts(&["redis-0", S3_BUCKET], LIMIT);
    origin.set_outage(true);
    let mut written = Written::default();
    let mut clients = Clients::of(&node);
    // Bodies that stay in their rows, and keys that stand in a queue row too.
    let key = |number: usize| format!("{number:06}{}", "k".repeat(850));
    let row = |written: &mut Written, clients: &mut Clients, number: usize| {
        let api = if number.is_multiple_of(8) { Api::S3 } else { Api::Resp };
        written.write(clients, api, &key(number), 480)
    };
    let mut count = 0;
    let refused = loop {
        match row(&mut written, &mut clients, count) {
            Ok(()) => count += 1,
            Err(refused) => break refused,
        }
        assert!(count < 200_000, "the map does not fill");
    };
    let (used, map) = (node.metric("lmdb_used_bytes"), node.metric("lmdb_map_bytes"));
    eprintln!("{count} rows, {used} of {map} bytes used, then {refused}");
    assert!(refused.0.contains("lmdb.map_size"), "{refused}");
    let refuses_both = |written: &mut Written, clients: &mut Clients| {
        for api in [Api::Resp, Api::S3] {
            assert!(written.write(clients, api, &format!("more{}", "k".repeat(850)), 480).is_err());
        }
    };
    refuses_both(&mut written, &mut clients);
    written.check_node(&mut clients, 31);

    node.kill();
    node.restart().unwrap();
    clients = Clients::of(&node);
    refuses_both(&mut written, &mut clients);
    written.check_node(&mut clients, 31);
    let keys = written.keys();
    for (api, key) in keys.iter().filter(|(_, key)| !key.starts_with("more")).step_by(2) {
        written.delete(&mut clients, *api, key);
    }
    // What was deleted may have to go on as deletes; what was never uploaded needs none.
    wait::until("writes are taken again", LIMIT, || row(&mut written, &mut clients, count))
        .unwrap_or_else(|error| panic!("{error}\n{}", node.log_tail()));
    node.kill();
    node.restart().unwrap();
    written.check_node(&mut Clients::of(&node), 1);
    written.check_list(&node).await;
    origin.set_outage(false);
    node.flush_wait(LIMIT);
    written.check_origin(&origin);
    node.finish(&ALLOWED);
}

#[test]
fn f6_writers_that_meet_the_end_of_an_ext4_in_the_middle_lose_nothing() {
    fills_up_under_load(Kind::Ext4);
}

#[test]
fn f6_writers_that_meet_the_end_of_a_tmpfs_in_the_middle_lose_nothing() {
    fills_up_under_load(Kind::Tmpfs);
}

/// No reserve is left to anybody: the last byte goes while bodies are on their way, and kill -9 comes at any moment.
fn fills_up_under_load(kind: Kind) {
    let Some(disk) = small_disk(kind, DISK_BYTES / 2) else { return };
    let seed = number("FOREBAY_SEED", 11);
    let mut random = fastrand::Rng::with_seed(seed);
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let mut node = Node::start(Written::mounted(options(&disk), &origin)).unwrap();
    node.create_bucket(S3_BUCKET);
    let mut workload = Workload::new(seed).that_may_be_refused();
    let mut refused = 0;
    for kill in 1..=number("FOREBAY_KILLS", 2).min(50) {
        let (taken, refusals) = (workload.acknowledged(), workload.refusals());
        let running = workload.start(&node);
        let more = |count: &std::sync::atomic::AtomicU64, by| {
            let target = count.load(Ordering::Relaxed) + by;
            let come =
                wait::until_true("the load goes on", LIMIT, || count.load(Ordering::Relaxed) >= target);
            come.unwrap_or_else(|error| panic!("kill {kill} of seed {seed}: {error}\n{}", node.log_tail()));
        };
        more(&taken, random.u64(50..500));
        disk.fill();
        more(&refusals, random.u64(1..200));
        if random.bool() {
            disk.release();
            more(&taken, random.u64(50..500));
            disk.fill();
            more(&refusals, random.u64(1..20));
        }
        node.kill();
        workload.join(running);
        disk.fill();
        node.restart().unwrap_or_else(|error| panic!("start after kill {kill} of seed {seed}: {error}"));
        workload.check_node(&node);
        disk.release();
        refused = refusals.load(Ordering::Relaxed);
    }
    eprintln!(
        "{kind:?}: {} writes taken, {refused} refused",
        workload.acknowledged().load(Ordering::Relaxed)
    );
    node.flush_wait(LIMIT);
    workload.check_origin(&origin, "cloud");
    node.finish(&ALLOWED);
}
