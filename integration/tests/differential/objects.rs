//! Objects over both APIs beside a model. Aim: whatever the order of writes of all kinds, deletes, evictions, reads from
//! the origin, outages of it and kill -9, every read has the bytes of the last write, an ETag stays as it was given until
//! the next write, listings are exact, and in the end the origin holds the same. Method: a small site, random operations
//! by seed on few keys, a sample read after each, everything read at the end.
//!
//! `FOREBAY_SEEDS` sets how many seeds are run (two without it), `FOREBAY_SEED` the first; `FOREBAY_LONG=1` makes each
//! three times as long. A failing seed is named with the operations that led there.

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

    async fn put(&mut self, key: &str) {
        let size = self.size();
        let body = self.body(size);
        let meta = self.random.bool().then(|| format!("m{}", self.bodies));
        let stored = self.model.get(key).map(|object| object.etag.clone());
        let mut put = self.s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from(body.clone()));
        if let Some(meta) = &meta {
            put = put.metadata("m", meta);
        }
        let mut holds = true;
        match self.random.u32(0..10) {
            0 => {
                put = put.if_none_match("*");
                holds = stored.is_none();
            }
            1 => {
                let right = self.random.bool();
                let etag = stored.clone().filter(|_| right).unwrap_or_else(|| md5_hex(b"never written"));
                put = put.if_match(format!("\"{etag}\""));
                holds = right && stored.is_some();
            }
            _ => {}
        }
        match put.send().await {
            Ok(done) => {
                assert!(holds, "{}: the condition did not hold", self.place());
                let etag = plain(done.e_tag());
                assert_eq!(etag, md5_hex(&body), "{}", self.place());
                self.wrote(key, body, etag, Vec::new(), Known::Value(meta));
            }
            Err(error) => {
                let refused = code(&error);
                let right = match refused.as_str() {
                    "PreconditionFailed" => !holds && stored.is_some(),
                    "NoSuchKey" => !holds && stored.is_none(),
                    "SlowDown" => true,
                    _ => false,
                };
                assert!(right, "{}: {error:?}", self.place());
                self.tally.refused += u64::from(refused == "SlowDown");
            }
        }
    }

    async fn set(&mut self, key: &str) {
        let size = self.size();
        let body = self.body(size);
        let mut command = vec![b"SET".to_vec(), key.as_bytes().to_vec(), body.to_vec()];
        let there = self.model.contains_key(key);
        let applies = match self.random.u32(0..10) {
            0 => {
                command.push(b"NX".to_vec());
                !there
            }
            1 => {
                command.push(b"XX".to_vec());
                there
            }
            _ => true,
        };
        let reply = self.call(&command);
        if reply == b"$-1\r\n" {
            return assert!(!applies, "{}: SET {key} was not applied", self.place());
        }
        if let Wrote::Done = self.wrote_by_resp(&reply, b"+OK\r\n") {
            assert!(applies, "{}: SET {key} was applied", self.place());
            self.learn(key, body, Known::Value(None)).await;
        }
    }

    async fn append(&mut self, key: &str) {
        let bytes = self.random.usize(1..90_000);
        let more = self.body(bytes);
        let (mut body, meta) = self.held(key);
        body.extend_from_slice(&more);
        let reply = self.call(&[b"APPEND".to_vec(), key.as_bytes().to_vec(), more.to_vec()]);
        if let Wrote::Done = self.wrote_by_resp(&reply, format!(":{}\r\n", body.len()).as_bytes()) {
            self.learn(key, body.into(), meta).await;
        }
    }

    async fn set_range(&mut self, key: &str) {
        let bytes = self.random.usize(1..20_000);
        let patch = self.body(bytes);
        let (mut body, meta) = self.held(key);
        let at = self.random.usize(0..=body.len() + 5_000);
        if body.len() < at + patch.len() {
            body.resize(at + patch.len(), 0);
        }
        body[at..at + patch.len()].copy_from_slice(&patch);
        let arguments =
            [b"SETRANGE".to_vec(), key.as_bytes().to_vec(), at.to_string().into_bytes(), patch.to_vec()];
        let reply = self.call(&arguments);
        if let Wrote::Done = self.wrote_by_resp(&reply, format!(":{}\r\n", body.len()).as_bytes()) {
            self.learn(key, body.into(), meta).await;
        }
    }

    async fn copy_object(&mut self, to: &str) {
        let from = self.any_key();
        if from == to {
            return;
        }
        self.say(format!("  from {from:?}"));
        let source: String = format!("{BUCKET}/{from}").bytes().map(|byte| format!("%{byte:02X}")).collect();
        let copied = self.s3.copy_object().bucket(BUCKET).key(to).copy_source(source).send().await;
        match (copied, self.model.get(&from).cloned()) {
            (Ok(done), Some(object)) => {
                let etag = plain(done.copy_object_result().and_then(|result| result.e_tag()));
                self.wrote(to, object.body, etag, Vec::new(), object.meta);
            }
            (Err(error), None) if code(&error) == "NoSuchKey" => {}
            (Err(error), Some(_)) if code(&error) == "SlowDown" => self.tally.refused += 1,
            (copied, _) => panic!("{}: {copied:?}", self.place()),
        }
    }

    async fn copy(&mut self, from: &str, renames: bool) {
        let to = self.any_key();
        self.say(format!("  to {to:?}"));
        let object = self.model.get(from).cloned();
        let reply = match renames {
            true => self.call(&[&b"RENAME"[..], from.as_bytes(), to.as_bytes()]),
            false => self.call(&[&b"COPY"[..], from.as_bytes(), to.as_bytes(), b"REPLACE"]),
        };
        let Some(object) = object else {
            let missing = matches!(&reply[..], b":0\r\n" | b"-ERR no such key\r\n");
            let same = from == to && reply.starts_with(b"-ERR source and destination");
            return assert!(missing || same, "{}: {}", self.place(), reply.escape_ascii());
        };
        if from == to {
            let right =
                if renames { reply == b"+OK\r\n" } else { reply.starts_with(b"-ERR source and dest") };
            return assert!(right, "{}: {}", self.place(), reply.escape_ascii());
        }
        let done: &[u8] = if renames { b"+OK\r\n" } else { b":1\r\n" };
        if let Wrote::Done = self.wrote_by_resp(&reply, done) {
            if renames {
                self.model.remove(from);
            }
            self.learn(&to, object.body, Known::Unsaid).await;
        }
    }

    async fn multipart(&mut self, key: &str) {
        let meta = format!("m{}", self.bodies);
        let begun =
            self.s3.create_multipart_upload().bucket(BUCKET).key(key).metadata("m", &meta).send().await;
        let upload = match begun {
            Ok(begun) => begun.upload_id().unwrap().to_owned(),
            Err(error) if code(&error) == "SlowDown" => return self.tally.refused += 1,
            Err(error) => panic!("{}: {error:?}", self.place()),
        };
        let count = self.random.usize(1..=3);
        let (mut whole, mut parts, mut digests, mut completed) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut refused = false;
        for number in 1..=count {
            let last = number == count;
            let bytes = if last {
                self.random.usize(1..1_000_000)
            } else {
                PART_BYTES_MIN + self.random.usize(0..300_000)
            };
            let body = self.body(bytes);
            let part = self.s3.upload_part().bucket(BUCKET).key(key).upload_id(&upload);
            let part = part.part_number(i32::try_from(number).unwrap()).body(ByteStream::from(body.clone()));
            match part.send().await {
                Ok(done) => {
                    assert_eq!(plain(done.e_tag()), md5_hex(&body), "{}", self.place());
                    let done = CompletedPart::builder().e_tag(done.e_tag().unwrap());
                    completed.push(done.part_number(i32::try_from(number).unwrap()).build());
                    digests.extend(hex::decode(md5_hex(&body)).unwrap());
                    parts.push(body.len());
                    whole.extend_from_slice(&body);
                }
                Err(error) => {
                    assert_eq!(code(&error), "SlowDown", "{}: {error:?}", self.place());
                    refused = true;
                }
            }
        }
        if refused || self.random.u32(0..5) == 0 {
            let abort = self.s3.abort_multipart_upload().bucket(BUCKET).key(key).upload_id(upload);
            abort.send().await.unwrap();
            return self.tally.refused += u64::from(refused);
        }
        if self.random.u32(0..4) == 0 {
            self.say("  killed before Complete".to_owned());
            self.restart();
        }
        let list = CompletedMultipartUpload::builder().set_parts(Some(completed)).build();
        let complete = self.s3.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(upload);
        match complete.multipart_upload(list).send().await {
            Ok(done) => {
                let etag = plain(done.e_tag());
                assert_eq!(etag, format!("{}-{count}", md5_hex(&digests)), "{}", self.place());
                self.wrote(key, whole.into(), etag, parts, Known::Value(Some(meta)));
            }
            Err(error) => {
                assert_eq!(code(&error), "SlowDown", "{}: {error:?}", self.place());
                self.tally.refused += 1;
            }
        }
    }

    fn del(&mut self, key: &str) {
        let other = self.any_key();
        let keys = if other == key { vec![key] } else { vec![key, &other] };
        let there = keys.iter().filter(|key| self.model.contains_key(**key)).count();
        let command: Vec<&str> = std::iter::once("DEL").chain(keys.iter().copied()).collect();
        let reply = self.call(&command);
        assert_eq!(reply, format!(":{there}\r\n").as_bytes(), "{}: DEL {keys:?}", self.place());
        keys.iter().for_each(|key| _ = self.model.remove(*key));
    }

    async fn delete_objects(&mut self) {
        let keys: std::collections::BTreeSet<String> = (0..4).map(|_| self.any_key()).collect();
        self.say(format!("  {keys:?}"));
        let named = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
        let delete = Delete::builder().set_objects(Some(named.collect())).build().unwrap();
        let done = self.s3.delete_objects().bucket(BUCKET).delete(delete).send().await.unwrap();
        assert_eq!((done.deleted().len(), done.errors().len()), (keys.len(), 0), "{}", self.place());
        self.model.retain(|key, _| !keys.contains(key));
    }

    fn get_del(&mut self, key: &str) {
        let reply = match self.resp.call(&["GETDEL", key]) {
            Ok(reply) => reply,
            Err(error) => {
                // The reply was begun, so the key is gone: so much is not known to a client.
                assert!(self.outage.is_some(), "{}: {error}", self.place());
                self.resp = connect(&self.node);
                let there = self.call(&["EXISTS", key]);
                if there == b":0\r\n" {
                    self.model.remove(key);
                }
                return;
            }
        };
        if reply.starts_with(b"-TRYAGAIN") {
            // It cannot be given, so it must not be gone.
            assert!(self.outage.is_some() && self.model.contains_key(key), "{}", self.place());
            self.tally.away += 1;
            return;
        }
        let right = bulk(&reply) == self.model.get(key).map(|object| &object.body[..]);
        assert!(right, "{}: GETDEL {key:?}: {} bytes", self.place(), reply.len());
        self.model.remove(key);
    }

    /// What APPEND and SETRANGE build on.
    fn held(&self, key: &str) -> (Vec<u8>, Known) {
        match self.model.get(key) {
            Some(object) => (object.body.to_vec(), object.meta.clone()),
            None => (Vec::new(), Known::Value(None)),
        }
    }

    fn wrote(&mut self, key: &str, body: Bytes, etag: String, parts: Vec<usize>, meta: Known) {
        self.tally.written += 1;
        self.model.insert(key.to_owned(), Object { body, etag, parts, meta });
    }

    fn wrote_by_resp(&mut self, reply: &[u8], done: &[u8]) -> Wrote {
        if reply == done {
            return Wrote::Done;
        }
        assert!(reply.starts_with(b"-OOM "), "{}: {}", self.place(), reply.escape_ascii());
        self.tally.refused += 1;
        Wrote::Refused
    }

    /// After a write by RESP, which tells no ETag: a new one, of the form that is no MD5.
    async fn learn(&mut self, key: &str, body: Bytes, meta: Known) {
        let head = self.s3.head_object().bucket(BUCKET).key(key).send().await;
        let etag = plain(head.unwrap_or_else(|error| panic!("{}: {error:?}", self.place())).e_tag());
        let seen = self.model.values().any(|object| object.etag == etag);
        // A copy has the bytes of its source, and may have its ETag.
        assert!(meta == Known::Unsaid || !seen && etag.ends_with("-1"), "{}: ETag {etag}", self.place());
        self.wrote(key, body, etag, Vec::new(), meta);
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

    /// A read of one key, in one of the ways there are.
    async fn check(&mut self, key: &str) {
        let way = self.random.u32(0..8);
        self.check_as(key, way).await;
    }

    async fn check_as(&mut self, key: &str, way: u32) {
        let object = self.model.get(key).cloned();
        let length = object.as_ref().map_or(0, |object| object.body.len());
        let from = self.random.usize(0..=length);
        let until = self.random.usize(from..=length);
        match way {
            0 => self.check_head(key, object.as_ref()).await,
            1 if from < until => self.check_bytes(key, object.as_ref(), from..until, true).await,
            2 => self.check_bytes(key, object.as_ref(), from..until, false).await,
            3 => self.check_condition(key, object.as_ref()).await,
            4 => self.check_bytes(key, object.as_ref(), 0..length, false).await,
            5 => {
                let reply = self.call(&["STRLEN", key]);
                assert_eq!(reply, format!(":{length}\r\n").as_bytes(), "{}: STRLEN {key:?}", self.place());
            }
            6 => self.check_part(key, object.as_ref()).await,
            _ => self.check_bytes(key, object.as_ref(), 0..length, true).await,
        }
    }

    async fn check_head(&mut self, key: &str, object: Option<&Object>) {
        let head = self.s3.head_object().bucket(BUCKET).key(key).send().await;
        match (head, object) {
            (Ok(head), Some(object)) => {
                let place = self.place();
                assert_eq!(plain(head.e_tag()), object.etag, "{place}: ETag of {key:?}");
                assert_eq!(head.content_length(), i64::try_from(object.body.len()).ok(), "{place}: {key:?}");
                if let Known::Value(meta) = &object.meta {
                    let found = head.metadata().and_then(|map| map.get("m"));
                    assert_eq!(found, meta.as_ref(), "{place}: metadata of {key:?}");
                }
            }
            (Err(error), None) if status(&error) == Some(404) => {}
            (head, object) => {
                panic!("{}: HEAD {key:?}: {head:?}, the model {}", self.place(), shown(object));
            }
        }
    }

    /// A range over S3 or RESP; the whole where it is all of it.
    async fn check_bytes(&mut self, key: &str, object: Option<&Object>, range: Range<usize>, by_s3: bool) {
        let expected = object.map_or(Seen::Absent, |object| Seen::Bytes(object.body.slice(range.clone())));
        let whole = object.is_none_or(|object| range == (0..object.body.len()));
        // What GETRANGE says of a missing key is the empty string.
        let wanted = (!whole).then_some((range.start, range.end));
        let seen = self.read(key, object, wanted, by_s3).await;
        let absent = expected == Seen::Absent && seen == Seen::Bytes(Bytes::new()) && !by_s3;
        if seen == Seen::Away {
            self.tally.away += 1;
            return;
        }
        let found = match &seen {
            Seen::Bytes(bytes) => format!("{} bytes, MD5 {}", bytes.len(), md5_hex(bytes)),
            Seen::Absent | Seen::Away => "nothing".to_owned(),
        };
        assert!(
            seen == expected || absent,
            "{}: {key:?} {range:?} over {}: {found}, the model {}",
            self.place(),
            if by_s3 { "S3" } else { "RESP" },
            shown(object)
        );
    }

    /// Reads again while the origin is said to be away and is not: it takes a moment to be believed.
    async fn read(
        &mut self,
        key: &str,
        object: Option<&Object>,
        range: Option<(usize, usize)>,
        by_s3: bool,
    ) -> Seen {
        for _ in 0..200 {
            let seen =
                if by_s3 { self.read_s3(key, object, range).await } else { self.read_resp(key, range) };
            if seen != Seen::Away {
                return seen;
            }
            if self.outage.is_some() {
                assert!(object.is_some(), "{}: {key:?} is absent, not away", self.place());
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}: {key:?} stays away with the origin up", self.place());
    }

    async fn read_s3(&mut self, key: &str, object: Option<&Object>, range: Option<(usize, usize)>) -> Seen {
        let range = range.filter(|(from, until)| from < until);
        let header = range.map(|(from, until)| format!("bytes={from}-{}", until - 1));
        let get = self.s3.get_object().bucket(BUCKET).key(key).set_range(header).send().await;
        match get {
            Ok(got) => {
                let etag = plain(got.e_tag());
                assert_eq!(
                    Some(&etag),
                    object.map(|object| &object.etag),
                    "{}: ETag of {key:?}",
                    self.place()
                );
                match got.body.collect().await {
                    Ok(body) => Seen::Bytes(body.into_bytes()),
                    // Broken off: the head had been sent when the origin could not be reached.
                    Err(_) if self.outage.is_some() => Seen::Away,
                    Err(error) => panic!("{}: the body of {key:?}: {error}", self.place()),
                }
            }
            Err(error) => match status(&error) {
                Some(404) => Seen::Absent,
                Some(503) => Seen::Away,
                _ => panic!("{}: GET {key:?}: {error:?}", self.place()),
            },
        }
    }

    fn read_resp(&mut self, key: &str, range: Option<(usize, usize)>) -> Seen {
        let reply = match range {
            None => self.resp.call(&["GET", key]),
            Some((from, until)) if from < until => {
                self.resp.call(&["GETRANGE", key, &from.to_string(), &(until - 1).to_string()])
            }
            Some(_) => return self.read_nothing(key),
        };
        let reply = match reply {
            Ok(reply) => reply,
            // Broken off: RESP has no other way to say that the rest of a value cannot be had.
            Err(_) if self.outage.is_some() => {
                self.resp = connect(&self.node);
                return Seen::Away;
            }
            Err(error) => panic!("{}: {key:?}: {error}", self.place()),
        };
        if reply.starts_with(b"-TRYAGAIN") {
            return Seen::Away;
        }
        assert!(reply.starts_with(b"$"), "{}: {key:?}: {}", self.place(), reply.escape_ascii());
        bulk(&reply).map_or(Seen::Absent, |body| Seen::Bytes(Bytes::copy_from_slice(body)))
    }

    /// A range of no bytes.
    fn read_nothing(&mut self, key: &str) -> Seen {
        let reply = self.call(&["GETRANGE", key, "5", "3"]);
        assert_eq!(reply, b"$0\r\n\r\n", "{}: {key:?}", self.place());
        Seen::Bytes(Bytes::new())
    }

    async fn check_condition(&mut self, key: &str, object: Option<&Object>) {
        let Some(object) = object else { return };
        let get = || self.s3.get_object().bucket(BUCKET).key(key);
        let same = get().if_none_match(format!("\"{}\"", object.etag)).send().await.unwrap_err();
        assert_eq!(status(&same), Some(304), "{}: {key:?}: {same:?}", self.place());
        let other = get().if_match(format!("\"{}\"", md5_hex(b"never written"))).send().await.unwrap_err();
        assert_eq!(code(&other), "PreconditionFailed", "{}: {key:?}: {other:?}", self.place());
    }

    /// A part by its number.
    async fn check_part(&mut self, key: &str, object: Option<&Object>) {
        let Some(object) = object.filter(|object| !object.parts.is_empty()) else { return };
        let number = self.random.usize(0..object.parts.len());
        let from: usize = object.parts[..number].iter().sum();
        let part =
            self.s3.get_object().bucket(BUCKET).key(key).part_number(i32::try_from(number + 1).unwrap());
        match part.send().await {
            Ok(got) => match got.body.collect().await {
                Ok(body) => {
                    let expected = &object.body[from..from + object.parts[number]];
                    assert!(body.into_bytes() == expected, "{}: part {number} of {key:?}", self.place());
                }
                Err(error) => assert!(self.outage.is_some(), "{}: {key:?}: {error}", self.place()),
            },
            Err(error) => {
                let away = status(&error) == Some(503) && self.outage.is_some();
                assert!(away, "{}: part {number} of {key:?}: {error:?}", self.place());
            }
        }
    }

    /// A listing with a random prefix, delimiter and length of page.
    async fn check_listing(&mut self) {
        let prefix = ["", "a/", "a", "b/", "ü", "nothing"][self.random.usize(0..6)];
        let delimiter = ["", "/"][self.random.usize(0..2)];
        let page = self.random.i32(1..40);
        self.check_list_of(prefix, delimiter, page).await;
    }

    async fn check_list_of(&mut self, prefix: &str, delimiter: &str, page_keys: i32) {
        let mut expected = (Vec::new(), Vec::new());
        for (key, object) in self.model.range(prefix.to_owned()..) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(at) => {
                    let rolled = key[..prefix.len() + at + delimiter.len()].to_owned();
                    if expected.1.last() != Some(&rolled) {
                        expected.1.push(rolled);
                    }
                }
                None => expected.0.push((key.clone(), object.body.len(), object.etag.clone())),
            }
        }
        let mut found = (Vec::new(), Vec::new());
        let list = self.s3.list_objects_v2().bucket(BUCKET).prefix(prefix).max_keys(page_keys);
        let list = list.set_delimiter((!delimiter.is_empty()).then(|| delimiter.to_owned()));
        let mut pages = list.into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.unwrap_or_else(|error| panic!("{}: {error:?}", self.place()));
            found.0.extend(page.contents().iter().map(|entry| {
                let bytes = usize::try_from(entry.size().unwrap()).unwrap();
                (entry.key().unwrap().to_owned(), bytes, plain(entry.e_tag()))
            }));
            found.1.extend(page.common_prefixes().iter().map(|entry| entry.prefix().unwrap().to_owned()));
        }
        assert_eq!(found, expected, "{}: LIST {prefix:?} {delimiter:?}", self.place());
    }

    async fn check_everything(&mut self) {
        let mut keys: Vec<String> = self.model.keys().cloned().collect();
        keys.extend((0..KEYS / 2).map(|_| self.any_key()));
        for key in keys {
            for way in [0, 4, 6, 7] {
                self.check_as(&key, way).await;
            }
        }
        for (prefix, delimiter) in [("", ""), ("", "/"), ("a/", "/"), ("b", "/")] {
            self.check_list_of(prefix, delimiter, 7).await;
        }
        let count = self.call(&["DBSIZE"]);
        assert_eq!(count, format!(":{}\r\n", self.model.len()).as_bytes(), "{}", self.place());
    }

    /// The origin holds the same objects, each with the ETag that its clients know.
    fn check_origin(&self) {
        let stored: BTreeMap<String, _> = self.origin.objects("cloud", "db/").into_iter().collect();
        let expected: Vec<String> = self.model.keys().map(|key| format!("db/{key}")).collect();
        assert_eq!(
            stored.keys().collect::<Vec<_>>(),
            expected.iter().collect::<Vec<_>>(),
            "{}",
            self.place()
        );
        for (key, object) in &self.model {
            let found = &stored[&format!("db/{key}")];
            assert!(found.body == object.body, "{}: {key:?} in the origin", self.place());
            let etag = found.metadata.get("forebay-etag");
            assert_eq!(etag, Some(&object.etag), "{}: {key:?} in the origin", self.place());
            // In the client's parts, so that the origin makes the very same ETag of them.
            if !object.parts.is_empty() && object.body.len() > self.part_bytes.max(PART_BYTES_MIN) {
                assert_eq!(found.etag, object.etag, "{}: {key:?} in the origin", self.place());
            }
        }
        self.origin.record().assert_clean();
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
