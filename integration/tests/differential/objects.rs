//! Objects over both APIs beside a model. Aim: whatever the order of writes of all kinds, deletes, evictions, reads from
//! the origin, outages of it and kill -9, every read has the bytes of the last write, an ETag stays as it was given until
//! the next write, listings are exact, and in the end the origin holds the same. Method: a small site, random operations
//! by seed on few keys, a sample read after each, everything read at the end.
//!
//! `FOREBAY_SEEDS` sets how many seeds are run (two without it), `FOREBAY_SEED` the first; `FOREBAY_LONG=1` makes each
//! three times as long. A failing seed is named with the operations that led there.

mod checks;
mod writes;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};
use bytes::Bytes;
use fastrand::Rng;
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::buckets::md5_hex;
use forebay_integration::resp_wire::{RespWire, bulk};

const SEEDS_IN_CI: u64 = 2;
const STEPS_IN_CI: usize = 120;
const LIMIT: Duration = Duration::from_secs(120);
const BUCKET: &str = "redis-0";
const KEYS: usize = 56;
const SHOWN: usize = 25;
/// Far less than the objects have together.
const CAPACITY: &str = "\"48MiB\"";
const PART_BYTES_MIN: usize = 5 << 20;
/// An outage ends by itself after so many operations.
const OUTAGE_STEPS: usize = 14;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn objects_are_as_the_model_says_through_evictions_outages_and_kills() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = variable("FOREBAY_SEED", 1);
    let steps = if std::env::var_os("FOREBAY_LONG").is_some() { 3 * STEPS_IN_CI } else { STEPS_IN_CI };
    let mut all = Tally::default();
    for seed in first..first + variable("FOREBAY_SEEDS", SEEDS_IN_CI) {
        let tally = runtime.block_on(World::start(seed).run(steps));
        eprintln!("seed {seed}: {tally:?}");
        all.add(&tally);
    }
    let many = all.evicted_bytes > 10 << 20 && all.fills > 10 && all.kills > 0 && all.outages > 0;
    assert!(many, "too little happened to test anything: {all:?}");
}

/// What a run came to; without evictions it would test nothing.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    written: u64,
    refused: u64,
    away: u64,
    kills: u64,
    outages: u64,
    evicted_bytes: u64,
    fills: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.written += other.written;
        self.refused += other.refused;
        self.away += other.away;
        self.kills += other.kills;
        self.outages += other.outages;
        self.evicted_bytes += other.evicted_bytes;
        self.fills += other.fills;
    }
}

/// What a key holds.
#[derive(Clone)]
struct Object {
    body: Bytes,
    /// Without quotes. As the write's answer said, or, for RESP, as it was first seen.
    etag: String,
    /// Lengths of the parts it was uploaded in; none for one that was written whole, or is a copy.
    parts: Vec<usize>,
    /// Its user metadata `m`, where the rules say what that is.
    meta: Known,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Value(Option<String>),
    Unsaid,
}

/// What an attempt to write came to.
enum Wrote {
    Done,
    /// No room: it must not have been applied.
    Refused,
}

/// What a read gave.
#[derive(PartialEq, Eq)]
enum Seen {
    Bytes(Bytes),
    Absent,
    /// Only the origin has it, and that cannot be reached.
    Away,
}

struct World {
    seed: u64,
    random: Rng,
    origin: OriginSim,
    node: Node,
    s3: Client,
    resp: RespWire,
    model: BTreeMap<String, Object>,
    bodies: u64,
    /// Longer bodies go to the origin in parts.
    part_bytes: usize,
    /// Operations until the origin comes back, while it is away.
    outage: Option<usize>,
    tally: Tally,
    said: VecDeque<String>,
}

impl World {
    fn start(seed: u64) -> Self {
        let origin = OriginSim::start(&["cloud"]).unwrap();
        let part_mib = if seed.is_multiple_of(2) { 1 } else { 8 };
        let options = NodeOptions::default()
            .set("capacity", CAPACITY)
            .set("dirty_limit", CAPACITY)
            .set("flush.part_size", &format!("\"{part_mib}MiB\""))
            // What was under way at a kill is waited for by its length.
            .set("flush.least_bandwidth", "\"64MiB\"")
            .mount("/redis-0", &origin, "cloud/db");
        let node = Node::start(options).unwrap();
        node.attach_mounts(&[BUCKET], LIMIT);
        let (s3, resp) = (node.s3(), connect(&node));
        let tally = Tally::default();
        let random = Rng::with_seed(seed);
        Self {
            seed,
            random,
            origin,
            node,
            s3,
            resp,
            model: BTreeMap::new(),
            bodies: 0,
            part_bytes: part_mib << 20,
            outage: None,
            tally,
            said: VecDeque::new(),
        }
    }

    async fn run(mut self, steps: usize) -> Tally {
        for step in 0..steps {
            self.step(step).await;
            for _ in 0..2 {
                let key = self.any_key();
                self.check(&key).await;
            }
            if self.random.u32(0..8) == 0 {
                self.check_listing().await;
            }
        }
        self.end_outage();
        self.flush_wait();
        self.check_everything().await;
        self.check_origin();
        self.restart();
        self.check_everything().await;
        self.count();
        self.node.finish(&["origin", "flush", "dirty", "capacity", "read through", "fence"]);
        self.tally
    }

    /// One operation, chosen at random.
    async fn step(&mut self, step: usize) {
        self.outage = self.outage.map(|left| left.saturating_sub(1));
        if self.outage == Some(0) {
            self.end_outage();
        }
        let key = self.any_key();
        let dice = self.random.u32(0..1_000);
        let name = match dice {
            0..230 => "PutObject",
            230..380 => "SET",
            380..430 => "APPEND",
            430..470 => "SETRANGE",
            470..520 => "CopyObject",
            520..545 => "COPY",
            545..570 => "RENAME",
            570..610 => "multipart",
            610..690 => "DeleteObject",
            690..740 => "DEL",
            740..760 => "DeleteObjects",
            760..780 => "GETDEL",
            780..840 => "flush wait",
            840..865 => "outage",
            865..890 => "kill -9",
            _ => "reads",
        };
        self.say(format!("{step} {name} {key:?}"));
        match name {
            "PutObject" => self.put(&key).await,
            "SET" => self.set(&key).await,
            "APPEND" => self.append(&key).await,
            "SETRANGE" => self.set_range(&key).await,
            "CopyObject" => self.copy_object(&key).await,
            "COPY" => self.copy(&key, false).await,
            "RENAME" => self.copy(&key, true).await,
            "multipart" => self.multipart(&key).await,
            "DeleteObject" => {
                self.s3.delete_object().bucket(BUCKET).key(&key).send().await.unwrap();
                self.model.remove(&key);
            }
            "DEL" => self.del(&key),
            "DeleteObjects" => self.delete_objects().await,
            "GETDEL" => self.get_del(&key),
            "flush wait" if self.outage.is_none() => self.flush_wait(),
            "outage" if self.outage.is_none() => {
                self.origin.set_outage(true);
                self.outage = Some(OUTAGE_STEPS);
                self.tally.outages += 1;
            }
            "kill -9" => {
                self.restart();
                self.tally.kills += 1;
            }
            _ => {
                for _ in 0..4 {
                    let key = self.any_key();
                    self.check(&key).await;
                }
            }
        }
    }

    fn any_key(&mut self) -> String {
        let number = self.random.usize(0..KEYS);
        let folder = ["", "a/", "a/b/", "b//", "ü/", "a b/"][number % 6];
        format!("{folder}k{number:02}")
    }

    fn size(&mut self) -> usize {
        match self.random.u32(0..12) {
            0 => self.random.usize(0..2),
            1..=2 => self.random.usize(2..600),
            3 => self.random.usize(511..514),
            4..=5 => self.random.usize(600..65_000),
            6 => self.random.usize(65_534..65_539),
            7..=9 => self.random.usize(65_540..1_500_000),
            _ => self.random.usize(1_500_000..4_000_000),
        }
    }

    /// Bytes that were never written before.
    fn body(&mut self, bytes: usize) -> Bytes {
        self.bodies += 1;
        let mut body = vec![0; bytes];
        Rng::with_seed(self.seed << 32 | self.bodies).fill(&mut body);
        body.into()
    }

    fn flush_wait(&mut self) {
        self.node.flush_wait(LIMIT);
        // While this thread waited, the connections of the client may have been closed unseen.
        self.s3 = self.node.s3();
    }

    fn end_outage(&mut self) {
        self.origin.set_outage(false);
        self.outage = None;
    }

    fn restart(&mut self) {
        self.count();
        self.node.kill();
        self.node.restart().unwrap_or_else(|error| panic!("{}: {error}", self.place()));
        (self.s3, self.resp) = (self.node.s3(), connect(&self.node));
    }

    /// The counters begin anew with each start.
    fn count(&mut self) {
        self.tally.evicted_bytes += self.node.metric("evicted_capacity_bytes_total") as u64;
        self.tally.fills += self.node.metric("fills_total") as u64;
    }

    fn call(&mut self, command: &[impl AsRef<[u8]>]) -> Vec<u8> {
        self.resp.call(command).unwrap_or_else(|error| panic!("{}: {error}", self.place()))
    }

    fn say(&mut self, text: String) {
        if self.said.len() == SHOWN {
            self.said.pop_front();
        }
        self.said.push_back(text);
    }

    /// Where a failure is.
    fn place(&self) -> String {
        let said: Vec<&str> = self.said.iter().map(String::as_str).collect();
        let outage = if self.outage.is_some() { ", the origin is away" } else { "" };
        format!("seed {}{outage}, after\n  {}\n", self.seed, said.join("\n  "))
    }
}

fn connect(node: &Node) -> RespWire {
    let resp = node.resp();
    resp.set_reply_limit(Duration::from_secs(60)).unwrap();
    resp
}

fn shown(object: Option<&Object>) -> String {
    object.map_or("nothing".to_owned(), |object| {
        format!("{} bytes, MD5 {}, ETag {}", object.body.len(), md5_hex(&object.body), object.etag)
    })
}

fn plain(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> String {
    error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default().to_owned()
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|answer| answer.status().as_u16())
}
