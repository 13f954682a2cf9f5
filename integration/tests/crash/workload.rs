//! Writers on both APIs that remember what was acknowledged, and the comparison afterwards.
//!
//! Each writer owns its keys, so that every key has one writer; the ledgers are compared one by one.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use forebay_integration::ledger::{Discrepancy, Ledger, State};
use forebay_integration::node::Node;
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::resp_wire::{RespWire, bulk, encode_command};

/// Bucket that the S3 writers use; the RESP writers use database 0.
pub(crate) const S3_BUCKET: &str = "photos";
pub(crate) const RESP_BUCKET: &str = "redis-0";

const RESP_WRITERS: usize = 3;
const S3_WRITERS: usize = 2;
const KEYS_PER_WRITER: u64 = 60;
const PIPELINE_MAX: usize = 12;

/// All writers with their memories; they live through every kill.
pub(crate) struct Workload {
    resp: Vec<Writer>,
    s3: Vec<Writer>,
    acknowledged: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

struct Writer {
    name: String,
    random: fastrand::Rng,
    counter: u64,
    ledger: Ledger,
    acknowledged: Arc<AtomicU64>,
    /// Writes refused by a limit are counted here; without it they end the test.
    refused: Option<Arc<AtomicU64>>,
}

/// Writers under way; they end when their connection does.
pub(crate) struct Running {
    resp: Vec<JoinHandle<Writer>>,
    s3: Vec<JoinHandle<Writer>>,
}

impl Workload {
    pub(crate) fn new(seed: u64) -> Self {
        let acknowledged: Arc<AtomicU64> = Arc::default();
        let writer = |kind: &str, number: usize| Writer {
            name: format!("{kind}{number}"),
            random: fastrand::Rng::with_seed(seed * 1_000 + number as u64),
            counter: 0,
            ledger: Ledger::default(),
            acknowledged: Arc::clone(&acknowledged),
            refused: None,
        };
        Self {
            resp: (0..RESP_WRITERS).map(|number| writer("r", number)).collect(),
            s3: (0..S3_WRITERS).map(|number| writer("s", 100 + number)).collect(),
            acknowledged: Arc::clone(&acknowledged),
            refused: Arc::default(),
        }
    }

    /// A write that a limit refuses must not have been applied, and the writer goes on.
    pub(crate) fn that_may_be_refused(mut self) -> Self {
        for writer in self.resp.iter_mut().chain(&mut self.s3) {
            writer.refused = Some(Arc::clone(&self.refused));
        }
        self
    }

    /// Writes refused since the beginning.
    pub(crate) fn refusals(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.refused)
    }

    /// Writes acknowledged since the beginning, over all writers and kills.
    pub(crate) fn acknowledged(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.acknowledged)
    }

    pub(crate) fn start(&mut self, node: &Node) -> Running {
        let resp = self.resp.drain(..).map(|mut writer| {
            let addr = node.endpoints().resp;
            std::thread::spawn(move || {
                // Ends when the node is killed; what was open then has no known outcome.
                let _: io::Result<()> =
                    RespWire::connect(addr).and_then(|mut wire| writer.write_resp(&mut wire));
                writer.ledger.all_open_unknown();
                writer
            })
        });
        let resp = resp.collect();
        let s3 = self.s3.drain(..).map(|mut writer| {
            let client = node.s3();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(writer.write_s3(&client));
                writer.ledger.all_open_unknown();
                writer
            })
        });
        let s3 = s3.collect();
        Running { resp, s3 }
    }

    /// Takes the writers back after the node was killed.
    pub(crate) fn join(&mut self, running: Running) {
        self.resp = running.resp.into_iter().map(|thread| thread.join().unwrap()).collect();
        self.s3 = running.s3.into_iter().map(|thread| thread.join().unwrap()).collect();
    }

    /// Reads every key back over RESP and the S3 keys over S3 too; what is not as acknowledged.
    pub(crate) fn discrepancies(&mut self, node: &Node) -> Vec<Discrepancy> {
        let mut wire = node.resp();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = node.s3();
        let mut lost = Vec::new();
        for writer in &mut self.resp {
            lost.extend(writer.ledger.observe_all(|key| {
                let reply = wire.call(&[&b"GET"[..], key]).unwrap();
                State::of(bulk(&reply))
            }));
        }
        for writer in &mut self.s3 {
            lost.extend(writer.ledger.observe_all(|key| {
                let key = std::str::from_utf8(key).unwrap();
                runtime.block_on(get_object(&client, S3_BUCKET, key))
            }));
        }
        lost
    }

    /// Nothing may be in [`discrepancies`](Self::discrepancies); then LIST must name exactly the keys that
    /// are left, and S3 must show what RESP wrote.
    pub(crate) fn check_node(&mut self, node: &Node) {
        let lost = self.discrepancies(node);
        assert!(lost.is_empty(), "{} keys:\n{}\nlog:\n{}", lost.len(), lines(&lost), node.log_tail());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = node.s3();
        for (bucket, writers) in [(RESP_BUCKET, &self.resp), (S3_BUCKET, &self.s3)] {
            let expected = settled(writers);
            let listed = runtime.block_on(list(&client, bucket));
            let expected: Vec<&String> = expected.keys().collect();
            assert_eq!(listed.iter().collect::<Vec<_>>(), expected, "LIST of {bucket}");
        }
        // One core: what RESP wrote is the same through S3.
        for (key, body) in settled(&self.resp).iter().step_by(7) {
            let found = runtime.block_on(get_object(&client, RESP_BUCKET, key));
            assert_eq!(found, State::Value(body.clone()), "{key} over S3");
        }
    }

    /// The origin holds exactly what was acknowledged, and its history broke no rule. Both buckets are mounted
    /// under their names in `bucket`.
    pub(crate) fn check_origin(&self, origin: &OriginSim, bucket: &str) {
        for (place, writers) in [(RESP_BUCKET, &self.resp), (S3_BUCKET, &self.s3)] {
            let prefix = format!("{place}/");
            let mut expected = settled(writers);
            let mut wrong = Vec::new();
            for (key, object) in origin.objects(bucket, &prefix) {
                let key = key.strip_prefix(&prefix).unwrap_or(&key).to_owned();
                match expected.remove(&key) {
                    Some(body) if body == object.body => {}
                    Some(body) => wrong.push(format!("{place}/{key}: {:?}, not {body:?}", object.body)),
                    None => wrong.push(format!("{place}/{key}: was deleted or never written")),
                }
            }
            wrong.extend(expected.keys().map(|key| format!("{place}/{key}: missing")));
            assert!(wrong.is_empty(), "{} differences in the origin:\n{}", wrong.len(), wrong.join("\n"));
        }
        origin.record().assert_clean();
    }
}

impl Writer {
    fn key(&mut self) -> String {
        format!("{}:{:03}", self.name, self.random.u64(0..KEYS_PER_WRITER))
    }

    /// A value that names its writer and number at every place; most as [`Writer::value`], some over the inline
    /// threshold (64 KiB), a few of several pieces.
    fn long_value(&mut self) -> Bytes {
        let size = match self.random.u32(0..60) {
            0 => self.random.usize(1_000_000..4_000_000),
            1..=3 => self.random.usize(65_530..300_000),
            _ => return self.value(),
        };
        self.counter += 1;
        let name = format!("{}#{};", self.name, self.counter).into_bytes();
        name.iter().copied().cycle().take(size).collect()
    }

    /// A value that names its writer and number; sizes on both sides of the inline row limit (512 B) and some
    /// of many blocks.
    fn value(&mut self) -> Bytes {
        self.counter += 1;
        let size = match self.random.u32(0..20) {
            0 => self.random.usize(4_000..40_000),
            1..=4 => self.random.usize(500..2_000),
            _ => self.random.usize(10..200),
        };
        let mut value = format!("{}#{};", self.name, self.counter).into_bytes();
        value.resize(size.max(value.len()), b'.');
        value.into()
    }

    fn acknowledge(&mut self, key: &str) {
        self.ledger.acknowledge(key.as_bytes());
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// A refusal by a limit, if such are expected; any other answer ends the test.
    fn refuse(&mut self, key: &str, deletes: bool, answer: &str) {
        let by_limit = !deletes && (answer.contains("OOM") || answer.contains("SlowDown"));
        let (Some(refused), true) = (&self.refused, by_limit) else { panic!("{key}: {answer}") };
        refused.fetch_add(1, Ordering::Relaxed);
        self.ledger.refuse(key.as_bytes());
    }

    fn write_resp(&mut self, wire: &mut RespWire) -> io::Result<()> {
        loop {
            let mut keys: Vec<(String, bool)> = Vec::new();
            let mut batch = Vec::new();
            for _ in 0..self.random.usize(1..=PIPELINE_MAX) {
                let key = self.key();
                if keys.iter().any(|(used, _)| *used == key) {
                    continue;
                }
                let deletes = self.random.u32(0..4) == 0;
                if deletes {
                    self.ledger.begin(key.as_bytes(), State::Absent);
                    encode_command(&mut batch, &["DEL", &key]);
                } else {
                    let value = self.long_value();
                    self.ledger.begin(key.as_bytes(), State::Value(value.clone()));
                    encode_command(&mut batch, &[&b"SET"[..], key.as_bytes(), &value]);
                }
                keys.push((key, deletes));
            }
            wire.send(&batch)?;
            for (key, deletes) in &keys {
                let reply = wire.reply()?;
                match reply.first() {
                    Some(b'+' | b':') => self.acknowledge(key),
                    _ => self.refuse(key, *deletes, &reply.escape_ascii().to_string()),
                }
            }
        }
    }

    async fn write_s3(&mut self, client: &Client) {
        loop {
            let key = self.key();
            let deletes = self.random.u32(0..4) == 0;
            let outcome = if deletes {
                self.ledger.begin(key.as_bytes(), State::Absent);
                let sent = client.delete_object().bucket(S3_BUCKET).key(&key).send().await;
                sent.map(|_| ()).map_err(|error| answered(&error))
            } else {
                let value = self.value();
                self.ledger.begin(key.as_bytes(), State::Value(value.clone()));
                let put = client.put_object().bucket(S3_BUCKET).key(&key).body(ByteStream::from(value));
                put.send().await.map(|_| ()).map_err(|error| answered(&error))
            };
            match outcome {
                Ok(()) => self.acknowledge(&key),
                Err(Some(answer)) => self.refuse(&key, deletes, &answer),
                Err(None) => return,
            }
        }
    }
}

/// Whether these are bytes of one value of the writer's, all through.
pub(crate) fn is_of_writer(value: &[u8], writer: &[u8]) -> bool {
    let Some(end) = value.iter().position(|byte| *byte == b';') else { return false };
    let (name, filler) = value.split_at(end + 1);
    let named = name.strip_prefix(writer).is_some_and(|rest| rest.starts_with(b"#"));
    let repeats = || filler.iter().eq(name.iter().cycle().take(filler.len()));
    named && (filler.iter().all(|byte| *byte == b'.') || repeats())
}

/// The server's answer, if there was one; none means that the connection broke.
fn answered<E: std::fmt::Debug>(error: &SdkError<E>) -> Option<String> {
    error.raw_response().map(|_| format!("{error:?}"))
}

fn settled(writers: &[Writer]) -> BTreeMap<String, Bytes> {
    let mut all = BTreeMap::new();
    for (key, state) in writers.iter().flat_map(|writer| writer.ledger.settled()) {
        if let State::Value(body) = state {
            all.insert(String::from_utf8_lossy(key).into_owned(), body.clone());
        }
    }
    all
}

async fn get_object(client: &Client, bucket: &str, key: &str) -> State {
    match client.get_object().bucket(bucket).key(key).send().await {
        Ok(got) => State::Value(got.body.collect().await.unwrap().into_bytes()),
        // A bucket that is gone took its keys with it: the ledger says which.
        Err(error) if matches!(error.code(), Some("NoSuchKey" | "NoSuchBucket")) => State::Absent,
        Err(error) => panic!("GetObject {bucket}/{key}: {error:?}"),
    }
}

async fn list(client: &Client, bucket: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut pages = client.list_objects_v2().bucket(bucket).max_keys(37).into_paginator().send();
    while let Some(page) = pages.next().await {
        keys.extend(page.unwrap().contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    keys
}

fn lines(items: &[impl std::fmt::Display]) -> String {
    items.iter().take(20).map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
