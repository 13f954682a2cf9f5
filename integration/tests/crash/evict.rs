//! A site smaller than its data. Aim: everything acknowledged reads back right, nothing dirty is ever given up, and
//! what is only in the origin is an error while that is away, never absence. Method: the real binary with a small
//! capacity, an origin that can be cut off, kill -9 while room is being made.

use std::time::{Duration, Instant};

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use forebay_integration::http_wire;
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Fault, Op, Rule};
use forebay_integration::resp_wire::{RespWire, bulk};
use forebay_integration::wait;

use crate::kill::number;

const LIMIT: Duration = Duration::from_secs(180);
const VALUE_BYTES: usize = 60_000;

fn options(origin: &OriginSim, capacity: &str) -> NodeOptions {
    NodeOptions::default()
        .set("capacity", &format!("\"{capacity}\""))
        .set("dirty_limit", &format!("\"{capacity}\""))
        .mount("/redis-0", origin, "cloud/db")
}

/// Different for each number, and from place to place.
fn value(number: usize) -> Vec<u8> {
    (0..VALUE_BYTES).map(|at| (number * 131 + at * 7 + at / 251) as u8).collect()
}

fn key(number: usize) -> String {
    format!("k{number}")
}

fn set(resp: &mut RespWire, number: usize) -> Vec<u8> {
    resp.call(&[b"SET", key(number).as_bytes(), &value(number)]).unwrap()
}

/// Writes again while there is no room.
fn set_patiently(resp: &mut RespWire, number: usize) {
    let until = Instant::now() + LIMIT;
    loop {
        let reply = set(resp, number);
        if reply == b"+OK\r\n" {
            return;
        }
        assert!(reply.starts_with(b"-OOM forebay: "), "{}", reply.escape_ascii());
        assert!(Instant::now() < until, "no room came: {}", reply.escape_ascii());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn expect(resp: &mut RespWire, number: usize) {
    let reply = resp.call(&["GET", &key(number)]).unwrap();
    let right = reply.starts_with(b"$") && bulk(&reply).is_some_and(|found| found == value(number));
    assert!(right, "k{number}: {}", reply[..reply.len().min(200)].escape_ascii());
}

fn metric(node: &Node, name: &str) -> u64 {
    let text = http_wire::get(node.endpoints().admin, "/metrics", &[]).unwrap().text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("forebay_{name} ")));
    line.unwrap_or_else(|| panic!("no metric {name}")).trim().parse::<f64>().unwrap() as u64
}

#[test]
fn a_gibibyte_goes_through_a_quarter_of_it() {
    // In CI a quarter of that, through a quarter of it.
    let mib = if std::env::var_os("FOREBAY_LONG").is_some() { 1024 } else { 256 };
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = Node::start(options(&origin, &format!("{}MiB", mib / 4))).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    let mut resp = node.resp();
    resp.set_reply_limit(Duration::from_secs(60)).unwrap();
    let count = (mib << 20) / VALUE_BYTES;
    for number in 0..count {
        set_patiently(&mut resp, number);
    }
    node.flush_wait(LIMIT);
    for number in 0..count {
        expect(&mut resp, number);
    }
    let evicted = metric(&node, "evicted_capacity_bytes_total");
    let (fills, misses) = (metric(&node, "fills_total"), metric(&node, "body_misses_total"));
    println!("{count} values, {evicted} bytes evicted, {fills} fills, {misses} misses");
    let many = evicted > (mib as u64 / 2) << 20 && fills > count as u64 / 2;
    assert!(many, "{evicted} bytes evicted, {fills} fills");
    node.finish(&["flush", "dirty", "origin"]);
}

/// Bodies that are answered piece by piece, older than everything else; most of them in segments that are full.
const LONGS: usize = 32;
const LONG_BYTES: usize = 1 << 20;

fn long_value(number: usize) -> Vec<u8> {
    (0..LONG_BYTES).map(|at| (number * 77 + at * 3 + at / 509) as u8).collect()
}

#[tokio::test]
async fn f3_with_the_origin_away_nothing_dirty_goes_and_writes_come_back_by_themselves() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let mut node = Node::start(options(&origin, "96MiB")).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    let mut resp = node.resp();
    resp.set_reply_limit(Duration::from_secs(60)).unwrap();
    for number in 0..LONGS {
        let reply = resp.call(&[b"SET", format!("long{number}").as_bytes(), &long_value(number)]).unwrap();
        assert_eq!(reply, b"+OK\r\n");
    }
    let clean = (160 << 20) / VALUE_BYTES;
    for number in 0..clean {
        set_patiently(&mut resp, number);
    }
    node.flush_wait(LIMIT);

    // An origin that takes nothing and gives everything: several times what the site can hold flows through it.
    let refuses =
        origin.add_fault(Rule::new(&[Op::Put, Op::BeginUpload], Fault::Answer(503, "ServiceUnavailable")));
    let half = clean + (36 << 20) / VALUE_BYTES;
    for number in clean..half {
        set_patiently(&mut resp, number);
    }
    for _ in 0..3 {
        for number in 0..half {
            expect(&mut resp, number);
        }
    }
    let (fills, pending) = (metric(&node, "fills_total"), metric(&node, "flush_pending_objects"));
    assert!(fills > clean as u64, "{fills} fills");
    assert!(pending >= (half - clean) as u64, "{pending} of {} wait", half - clean);

    origin.set_outage(true);
    origin.remove_fault(refuses);
    let mut next = half;
    let refused = loop {
        let reply = set(&mut resp, next);
        if reply != b"+OK\r\n" {
            break reply;
        }
        next += 1;
        assert!(next < 2 * clean, "more dirty bytes than capacity");
    };
    let said = refused.escape_ascii().to_string();
    println!("{} dirty values, then {said}", next - clean);
    assert!(said.starts_with("-OOM forebay: ") && said.contains("/96.0 MiB"), "{said}");
    assert!(said.contains(", origin down "), "{said}");
    assert!((next - clean) * VALUE_BYTES > 60 << 20, "clean bytes made room for {}", next - clean);
    let put = node.s3().put_object().bucket("redis-0").key("more").body(ByteStream::from(value(0)));
    let refused = put.send().await.unwrap_err();
    assert_eq!(refused.code(), Some("SlowDown"));
    assert!(refused.message().is_some_and(|text| text.contains(", origin down ")), "{refused:?}");
    assert!(refused.raw_response().unwrap().headers().get("retry-after").is_some());

    let mut away = None;
    for number in 0..clean {
        let reply = resp.call(&["GET", &key(number)]).unwrap();
        if reply.starts_with(b"-") {
            assert!(reply.starts_with(b"-TRYAGAIN"), "k{number}: {}", reply.escape_ascii());
            away = Some(number);
            break;
        }
        assert!(bulk(&reply).is_some_and(|found| found == value(number)), "k{number} has other bytes");
    }
    let away = away.expect("some value is only in the origin");
    assert_eq!(resp.call(&["EXISTS", &key(away)]).unwrap(), b":1\r\n");
    let long = (0..LONGS).map(|number| format!("long{number}")).find(|key| {
        let reply = resp.call(&["GET", key]).unwrap();
        assert!(reply.starts_with(b"$") || reply.starts_with(b"-TRYAGAIN"), "{key}");
        reply.starts_with(b"-")
    });
    let long = long.expect("some long value is only in the origin");
    for (key, range) in [(key(away), None), (long.clone(), None), (long, Some("bytes=9-900000"))] {
        let got = node.s3().get_object().bucket("redis-0").key(key).set_range(range.map(str::to_owned));
        let got = got.send().await.unwrap_err();
        assert_eq!(got.raw_response().unwrap().status().as_u16(), 503, "{got:?}");
    }

    node.kill();
    node.restart().unwrap();
    let mut resp = node.resp();
    resp.set_reply_limit(Duration::from_secs(60)).unwrap();
    for number in clean..next {
        expect(&mut resp, number);
    }
    origin.set_outage(false);
    wait::until("writes are taken again", LIMIT, || {
        let reply = set(&mut resp, next);
        if reply == b"+OK\r\n" { Ok(()) } else { Err(reply.escape_ascii().to_string()) }
    })
    .unwrap();
    node.flush_wait(LIMIT);
    for number in 0..=next {
        expect(&mut resp, number);
    }
    for number in 0..LONGS {
        let reply = resp.call(&["GET", &format!("long{number}")]).unwrap();
        assert!(
            bulk(&reply).is_some_and(|found| found == long_value(number)),
            "long{number} has other bytes"
        );
    }
    assert_eq!(origin.objects("cloud", "db/k").len(), next + 1);
    node.finish(&["flush", "dirty", "origin", "read through"]);
}

#[test]
fn kills_while_room_is_made_lose_nothing() {
    let mut random = fastrand::Rng::with_seed(number("FOREBAY_SEED", 5));
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let mut node = Node::start(options(&origin, "64MiB")).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    let mut next = 0;
    for round in 0..number("FOREBAY_KILLS", 2).min(20) {
        let mut resp = node.resp();
        resp.set_reply_limit(Duration::from_secs(60)).unwrap();
        let until = next + (96 << 20) / VALUE_BYTES + random.usize(0..400);
        while next < until {
            set_patiently(&mut resp, next);
            next += 1;
        }
        assert!(metric(&node, "evicted_capacity_bytes_total") > 0, "round {round}");
        node.kill();
        node.restart().unwrap();
        let mut resp = node.resp();
        resp.set_reply_limit(Duration::from_secs(60)).unwrap();
        for number in 0..next {
            expect(&mut resp, number);
        }
    }
    node.flush_wait(LIMIT);
    node.finish(&["flush", "dirty", "origin"]);
}
