//! What one client has written over both APIs, and the comparison afterwards, with the node and with the origin.
//!
//! Bodies are made from a number, so that gigabytes of them need no memory. Keys stay in the API that wrote them:
//! RESP's in database 0, S3's in a bucket of their own. Each is read back over the other one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::resp_wire::{RespWire, bulk};
use forebay_integration::s3_wire::{S3Wire, error_code};

use crate::workload::{RESP_BUCKET, S3_BUCKET};

/// Bucket of the origin that both buckets are mounted on, each under its name.
pub(crate) const CLOUD: &str = "cloud";
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Who writes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Api {
    Resp,
    S3,
}

impl Api {
    pub(crate) fn bucket(self) -> &'static str {
        match self {
            Self::Resp => RESP_BUCKET,
            Self::S3 => S3_BUCKET,
        }
    }
}

/// A body: which, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Body {
    number: u64,
    bytes: usize,
}

impl Body {
    /// Its bytes: of no pattern, and different for each number.
    pub(crate) fn make(self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        fastrand::Rng::with_seed(self.number).fill(&mut bytes);
        bytes
    }
}

/// Connections over both APIs to one start of a node.
pub(crate) struct Clients {
    resp: RespWire,
    /// Bound to the bucket that S3 writes.
    other: RespWire,
    s3: S3Wire,
}

impl Clients {
    pub(crate) fn of(node: &Node) -> Self {
        let (resp, mut other) = (node.resp(), node.resp());
        for wire in [&resp, &other] {
            wire.set_reply_limit(ANSWER_LIMIT).unwrap();
        }
        assert_eq!(other.call(&["FB.USE", S3_BUCKET]).unwrap(), b"+OK\r\n");
        Self { resp, other, s3: node.s3_wire().with_limit(ANSWER_LIMIT) }
    }

    fn read(&mut self, api: Api, key: &str) -> Result<Option<Vec<u8>>, String> {
        let path = format!("/{}/{key}", api.bucket());
        match api {
            Api::Resp => {
                let answer = self.s3.get(&path).map_err(|error| error.to_string())?;
                match (answer.status, error_code(&answer).as_str()) {
                    (200, _) => Ok(Some(answer.body)),
                    (404, "NoSuchKey") => Ok(None),
                    (status, code) => Err(format!("{status} {code}")),
                }
            }
            Api::S3 => {
                let reply = self.other.call(&["GET", key]).map_err(|error| error.to_string())?;
                match reply.first() {
                    Some(b'-') => Err(reply.escape_ascii().to_string()),
                    _ => Ok(bulk(&reply).map(<[u8]>::to_vec)),
                }
            }
        }
    }
}

/// A write that was refused: it must not have been applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// See the file's head.
#[derive(Default)]
pub(crate) struct Written {
    objects: BTreeMap<(Api, String), Option<Body>>,
    count: u64,
}

impl Written {
    /// Both buckets on the origin.
    pub(crate) fn mounted(options: NodeOptions, origin: &OriginSim) -> NodeOptions {
        [Api::Resp, Api::S3].into_iter().fold(options, |options, api| {
            let bucket = api.bucket();
            options.mount(&format!("/{bucket}"), origin, &format!("{CLOUD}/{bucket}"))
        })
    }

    /// Writes a new body under a key. `Err`: the server refused by a limit, and said why. Any other answer ends the test.
    pub(crate) fn write(
        &mut self,
        to: &mut Clients,
        api: Api,
        key: &str,
        bytes: usize,
    ) -> Result<(), Refused> {
        self.count += 1;
        let body = Body { number: self.count, bytes };
        match api {
            Api::Resp => {
                let reply = to.resp.call(&[b"SET", key.as_bytes(), &body.make()]).unwrap();
                if reply.starts_with(b"-OOM ") {
                    return Err(Refused(reply.escape_ascii().to_string()));
                }
                assert_eq!(reply, b"+OK\r\n", "SET {key}: {}", reply.escape_ascii());
            }
            Api::S3 => {
                let path = format!("/{S3_BUCKET}/{key}");
                let answer =
                    to.s3.put(&path, &body.make()).unwrap_or_else(|error| panic!("PUT {key}: {error}"));
                if answer.status == 503 && error_code(&answer) == "SlowDown" {
                    assert!(answer.header("retry-after").is_some(), "no Retry-After: {:?}", answer.headers);
                    return Err(Refused(answer.text()));
                }
                assert_eq!(answer.status, 200, "PUT {key}: {}", answer.text());
            }
        }
        self.objects.insert((api, key.to_owned()), Some(body));
        Ok(())
    }

    /// The same, again and again while the server refuses.
    pub(crate) fn write_patiently(&mut self, to: &mut Clients, api: Api, key: &str, bytes: usize) -> u64 {
        let until = Instant::now() + Duration::from_secs(120);
        let mut refusals = 0;
        while let Err(refused) = self.write(to, api, key, bytes) {
            assert!(Instant::now() < until, "{key} was refused for two minutes: {refused}");
            refusals += 1;
            // A client that is told to slow down does.
            std::thread::sleep(Duration::from_millis(10));
        }
        refusals
    }

    /// Deletes a key, which must be taken.
    pub(crate) fn delete(&mut self, to: &mut Clients, api: Api, key: &str) {
        match api {
            Api::Resp => {
                let reply = to.resp.call(&["DEL", key]).unwrap();
                assert!(reply.starts_with(b":"), "DEL {key}: {}", reply.escape_ascii());
            }
            Api::S3 => {
                let answer = to.s3.delete(&format!("/{S3_BUCKET}/{key}")).unwrap();
                assert_eq!(answer.status, 204, "DELETE {key}: {}", answer.text());
            }
        }
        self.objects.insert((api, key.to_owned()), None);
    }

    /// Every key that was ever written, with its writer; deleted ones too.
    pub(crate) fn keys(&self) -> Vec<(Api, String)> {
        self.objects.keys().cloned().collect()
    }

    /// Keys that hold something.
    pub(crate) fn len(&self) -> usize {
        self.objects.values().flatten().count()
    }

    /// Reads every `step`-th key over the API that did not write it.
    pub(crate) fn check_node(&self, to: &mut Clients, step: usize) {
        let mut wrong = Vec::new();
        for ((api, key), body) in self.objects.iter().step_by(step) {
            let found = to.read(*api, key);
            let right = match (&found, body) {
                (Ok(Some(found)), Some(body)) => *found == body.make(),
                (Ok(None), None) => true,
                _ => false,
            };
            if !right {
                let found = found.map(|found| found.map(|bytes| format!("{} bytes", bytes.len())));
                wrong.push(format!("{api:?} {key}: {found:?}, not {body:?}"));
            }
        }
        assert!(wrong.is_empty(), "{} keys are wrong:\n{}", wrong.len(), shown(&wrong));
    }

    /// LIST names exactly the keys that hold something.
    pub(crate) async fn check_list(&self, node: &Node) {
        for api in [Api::Resp, Api::S3] {
            let mut found = Vec::new();
            let mut pages = node.s3().list_objects_v2().bucket(api.bucket()).into_paginator().send();
            while let Some(page) = pages.next().await {
                let page = page.unwrap();
                found.extend(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
            }
            let all = self.objects.iter().filter(|((writer, _), body)| *writer == api && body.is_some());
            let expected: Vec<String> = all.map(|((_, key), _)| key.clone()).collect();
            assert!(
                found == expected,
                "LIST of {}: {} keys, not {}",
                api.bucket(),
                found.len(),
                expected.len()
            );
        }
    }

    /// Where the origin is not what was written.
    pub(crate) fn differences(&self, origin: &OriginSim) -> Vec<String> {
        let mut wrong = Vec::new();
        for api in [Api::Resp, Api::S3] {
            let prefix = format!("{}/", api.bucket());
            let mut stored: BTreeMap<String, _> = origin.objects(CLOUD, &prefix).into_iter().collect();
            for ((_, key), body) in self.objects.iter().filter(|((writer, _), _)| *writer == api) {
                match (stored.remove(&format!("{prefix}{key}")), body) {
                    (Some(object), Some(body)) if object.body == body.make() => {}
                    (None, None) => {}
                    (Some(object), Some(body)) => {
                        wrong.push(format!("{prefix}{key}: other {} bytes than {body:?}", object.body.len()));
                    }
                    (Some(_), None) => wrong.push(format!("{prefix}{key}: was deleted")),
                    (None, Some(_)) => wrong.push(format!("{prefix}{key}: missing")),
                }
            }
            wrong.extend(stored.into_keys().map(|key| format!("{key}: nobody wrote it")));
        }
        wrong
    }

    /// The origin holds exactly what was written, and its history broke no rule.
    pub(crate) fn check_origin(&self, origin: &OriginSim) {
        let wrong = self.differences(origin);
        assert!(wrong.is_empty(), "{} differences in the origin:\n{}", wrong.len(), shown(&wrong));
        origin.record().assert_clean();
    }

    /// Everything as files under `directory`, `bucket/key`.
    pub(crate) fn write_files(&self, directory: &Path) {
        for ((api, key), body) in &self.objects {
            let Some(body) = body else { continue };
            let path = directory.join(api.bucket()).join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, body.make()).unwrap();
        }
    }
}

fn shown(lines: &[String]) -> String {
    lines[..lines.len().min(20)].join("\n")
}
