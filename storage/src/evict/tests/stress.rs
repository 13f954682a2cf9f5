//! Everything at once: a whole node on a real directory, several clients, an origin in memory that takes what it gets.
//!
//! Aim: whatever eviction, read-back, flush and checkpoints do to each other, every acknowledged object has its bytes,
//! here and in the origin, also after the process has died in the middle of it. Method: each client changes objects of
//! its own, beside a model of them, and copies from objects that all share; together they write more than the store
//! holds, so that eviction never rests. A node dies without a stop, is opened again, and everything is compared. That a
//! rule that is taken away is noticed shows `model`, where it is known what meets what.
//! `FOREBAY_SEEDS=n` for the long form; `FOREBAY_SEED=n` runs one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::stories::{config, flushed, get};
use crate::error::Error;
use crate::mutation::{Existence, Mutation, Outcome, Payload, PutIf, Refusal, SetExpiry};
use crate::node::{Node, StorageConfig};
use crate::object::BucketId;
use crate::origin::memory::MemoryOrigin;
use crate::stage::BodyOf;
use crate::store::Store;
use crate::submission::Submission;

const SEEDS: u64 = 1;
const CLIENTS: usize = 6;
/// Objects of each client.
const KEYS: usize = 80;
/// Objects that all copy from, and nobody changes.
const COMMON: usize = 12;
/// Runs of the node, the last of which ends in order.
const RUNS: usize = 3;
const CAPACITY: u64 = 64 << 20;
const BODY_BYTES_MAX: usize = 2 << 20;
/// Longest wait for room, or for the handles of a node that died.
const LIMIT: Duration = Duration::from_secs(60);

/// What the clients do, in shares.
#[derive(Debug, Clone, Copy)]
struct Mix {
    /// Steps of a client in a run that ends in order.
    steps: usize,
    set: u32,
    append: u32,
    copy: u32,
    rename: u32,
    delete: u32,
    /// A transaction that counts, copies and appends.
    group: u32,
    get: u32,
    /// A read of an object, and another one in its place before what was read can be kept.
    replace: u32,
}

const MIX: Mix =
    Mix { steps: 150, set: 24, append: 14, copy: 18, rename: 8, delete: 6, group: 6, get: 20, replace: 4 };

/// What bodies are cut from: no two places of it look alike.
fn noise() -> Bytes {
    static NOISE: OnceLock<Bytes> = OnceLock::new();
    let make = || {
        let mut noise = vec![0; 8 << 20];
        fastrand::Rng::with_seed(7).fill(&mut noise);
        Bytes::from(noise)
    };
    NOISE.get_or_init(make).clone()
}

/// A body in the pieces that it was written in.
type Body = Vec<Bytes>;

fn is(body: &Body, found: &[u8]) -> bool {
    let mut rest = found;
    let all = body.iter().all(|piece| match rest.split_at_checked(piece.len()) {
        Some((first, left)) => {
            rest = left;
            first == &piece[..]
        }
        None => false,
    });
    all && rest.is_empty()
}

fn len(body: &Body) -> usize {
    body.iter().map(Bytes::len).sum()
}

/// What an operation changes, if it happens.
#[derive(Debug, Clone, Default)]
struct Change {
    objects: Vec<(String, Option<Body>)>,
    count: i64,
}

/// Why a client ends.
enum End {
    /// The node died; an operation may have been under way.
    Died,
    Wrong(String),
}

struct Client {
    name: usize,
    random: fastrand::Rng,
    objects: BTreeMap<String, Body>,
    counter: i64,
    /// Under way when the node died.
    perhaps: Option<Change>,
}

/// The node as the clients see it.
#[derive(Clone)]
struct Site {
    store: Store,
    bucket: BucketId,
    common: Arc<BTreeMap<String, Body>>,
    /// Errors are no wonder any more.
    dies: Arc<AtomicBool>,
}

impl Site {
    /// Tries again while there is no room.
    async fn patiently<T, F: Future<Output = Result<T, Error>>>(
        &self,
        what: &str,
        run: impl Fn() -> F,
    ) -> Result<T, End> {
        let until = Instant::now() + LIMIT;
        loop {
            match run().await {
                Ok(done) => return Ok(done),
                _ if self.dies.load(Relaxed) => return Err(End::Died),
                Err(Error::Full(_)) if Instant::now() < until => {}
                Err(error) => return Err(End::Wrong(format!("{what}: {error}"))),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, End> {
        self.patiently(&format!("a read of {key}"), || get(&self.store, self.bucket, key)).await
    }

    async fn submit(&self, what: &str, make: impl Fn(&mut Submission) + Sync) -> Result<Vec<Outcome>, End> {
        let run = || async {
            let mut submission = Submission::new();
            make(&mut submission);
            self.store.submit(submission).await
        };
        Ok(self.patiently(what, run).await?.results)
    }

    /// A mutation with a body, staged where it is long.
    async fn write(
        &self,
        what: &str,
        body: &Bytes,
        make: impl for<'p> Fn(Payload<'p>, &mut Submission) + Sync,
    ) -> Result<Outcome, End> {
        let run = || async {
            let mut submission = Submission::new();
            if body.len() as u64 <= self.store.inline_bytes_max() {
                make((&body[..]).into(), &mut submission);
                return self.store.submit(submission).await;
            }
            let mut writer = self.store.stage_body(self.bucket, body.len() as u64, BodyOf::Object)?;
            for at in (0..body.len()).step_by(300_000) {
                writer.write(body.slice(at..body.len().min(at + 300_000))).await?;
            }
            let staged = writer.finish().await?;
            make(staged.payload(), &mut submission);
            submission.carry(staged);
            self.store.submit(submission).await
        };
        Ok(self.patiently(what, run).await?.results.remove(0))
    }
}

fn expect(what: &str, outcome: &Outcome, expected: impl FnOnce(&Outcome) -> bool) -> Result<(), End> {
    match expected(outcome) {
        true => Ok(()),
        false => Err(End::Wrong(format!("{what}: {outcome:?}"))),
    }
}

impl Client {
    fn new(name: usize, seed: u64) -> Client {
        let random = fastrand::Rng::with_seed(seed.wrapping_mul(1000) + name as u64);
        Client { name, random, objects: BTreeMap::new(), counter: 0, perhaps: None }
    }

    fn counter_key(&self) -> String {
        format!("c{}-count", self.name)
    }

    fn body(&mut self) -> Bytes {
        let len = match self.random.u8(0..10) {
            0..3 => self.random.usize(0..9_000),
            3..5 => self.random.usize(9_000..65_000),
            5..9 => self.random.usize(65_537..300_000),
            _ => self.random.usize(1 << 20..BODY_BYTES_MAX),
        };
        let noise = noise();
        let from = self.random.usize(0..noise.len() - BODY_BYTES_MAX);
        noise.slice(from..from + len)
    }

    fn any_key(&mut self) -> String {
        format!("c{}-{}", self.name, self.random.usize(0..KEYS))
    }

    fn own(&mut self) -> Option<(String, Body)> {
        let at = self.random.usize(0..self.objects.len().max(1));
        self.objects.iter().nth(at).map(|(key, body)| (key.clone(), body.clone()))
    }

    fn apply(&mut self, change: Change) {
        self.counter += change.count;
        for (key, body) in change.objects {
            match body {
                Some(body) => self.objects.insert(key, body),
                None => self.objects.remove(&key),
            };
        }
    }

    /// Writes each of its objects once.
    async fn fill(mut self, site: Site) -> (Client, Result<(), String>) {
        for number in 0..KEYS {
            match self.put(&site, format!("c{}-{number}", self.name)).await {
                Ok(change) => {
                    self.perhaps = None;
                    self.apply(change);
                }
                Err(End::Died) => return (self, Err("nobody died".to_owned())),
                Err(End::Wrong(text)) => return (self, Err(text)),
            }
        }
        (self, Ok(()))
    }

    /// Works until it has made its steps, or the node dies.
    async fn run(mut self, site: Site, steps: usize) -> (Client, Result<(), String>) {
        for _ in 0..steps {
            match self.step(&site).await {
                Ok(change) => {
                    self.perhaps = None;
                    self.apply(change);
                }
                Err(End::Died) => return (self, Ok(())),
                Err(End::Wrong(text)) => return (self, Err(text)),
            }
        }
        (self, Ok(()))
    }

    /// Says what is about to happen, so that it is known if the answer never comes.
    fn begin(&mut self, change: Change) -> Change {
        self.perhaps = Some(change.clone());
        change
    }

    async fn step(&mut self, site: &Site) -> Result<Change, End> {
        let Mix { set, append, copy, rename, delete, group, get, replace, .. } = MIX;
        let shares = [set, append, copy, rename, delete, group, get, replace];
        let mut dice = self.random.u32(0..shares.iter().sum());
        let what = shares.iter().position(|share| {
            let hit = dice < *share;
            dice = dice.wrapping_sub(*share);
            hit
        });
        let own = self.own();
        match (what, own) {
            (Some(1), Some((key, body))) => self.append(site, key, body).await,
            (Some(2), own) => {
                let shared = self.random.usize(0..COMMON);
                let common = site.common.iter().nth(shared).map(|(key, body)| (key.clone(), body.clone()));
                let from = own.filter(|_| self.random.bool()).or(common);
                match from {
                    Some((from, body)) => self.copy(site, from, body).await,
                    None => Ok(Change::default()),
                }
            }
            (Some(3), Some((from, body))) => self.rename(site, from, body).await,
            (Some(4), Some((key, _))) => self.delete(site, key).await,
            (Some(5), Some((key, body))) => self.group(site, key, body).await,
            (Some(6), Some((key, body))) => self.compare(site, &key, &body).await,
            (Some(7), Some((key, body))) => {
                self.compare(site, &key, &body).await?;
                let change = self.delete(site, key).await?;
                self.perhaps = None;
                self.apply(change);
                self.set(site).await
            }
            _ => self.set(site).await,
        }
    }

    async fn set(&mut self, site: &Site) -> Result<Change, End> {
        let key = self.any_key();
        self.put(site, key).await
    }

    async fn put(&mut self, site: &Site, key: String) -> Result<Change, End> {
        let (body, bucket, s3) = (self.body(), site.bucket, self.random.bool());
        let objects = vec![(key.clone(), Some(vec![body.clone()]))];
        let change = self.begin(Change { objects, count: 0 });
        let what = format!("a write of {key}");
        let outcome = site.write(&what, &body, |value: Payload<'_>, submission: &mut Submission| {
            let key = key.as_bytes();
            submission.push(&match s3 {
                true => {
                    let (meta, md5, condition) = (&[][..], Some([7; 16]), PutIf::default());
                    Mutation::PutObject { bucket, key, value, meta, md5, condition }
                }
                false => {
                    let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
                    Mutation::SetString { bucket, key, value, expiry, existence }
                }
            });
        });
        expect(&key, &outcome.await?, |it| matches!(it, Outcome::Done(_)))?;
        Ok(change)
    }

    async fn append(&mut self, site: &Site, key: String, body: Body) -> Result<Change, End> {
        let (mut tail, bucket, what) = (self.body(), site.bucket, format!("an APPEND to {key}"));
        if len(&body) + tail.len() > 4 << 20 {
            return self.delete(site, key).await;
        }
        tail.truncate(200_000);
        let whole = [body, vec![tail.clone()]].concat();
        let change = self.begin(Change { objects: vec![(key.clone(), Some(whole.clone()))], count: 0 });
        loop {
            let outcome = site.write(&what, &tail, |value: Payload<'_>, submission: &mut Submission| {
                submission.push(&Mutation::Append { bucket, key: key.as_bytes(), value });
            });
            match outcome.await? {
                Outcome::Refused(Refusal::TooFragmented) => {
                    let run = || site.store.defragment(bucket, key.as_bytes());
                    site.patiently("putting a body together", run).await?;
                }
                outcome => {
                    let length = len(&whole) as u64;
                    expect(&what, &outcome, |it| *it == Outcome::Length(length))?;
                    return Ok(change);
                }
            }
        }
    }

    /// Copies by RESP or by S3.
    async fn copy(&mut self, site: &Site, from: String, body: Body) -> Result<Change, End> {
        let (to, bucket, what) = (self.any_key(), site.bucket, format!("a copy of {from}"));
        if from == to {
            return Ok(Change::default());
        }
        let change = self.begin(Change { objects: vec![(to.clone(), Some(body))], count: 0 });
        let s3 = self.random.bool();
        for _ in 0..8 {
            let row = || async {
                let row = site.store.view()?.fetch(bucket, from.as_bytes()).await?;
                Ok(row.map(|row| row.version()))
            };
            let version = match s3 {
                true => site.patiently(&what, row).await?,
                false => None,
            };
            let outcomes = site.submit(&what, |submission: &mut Submission| {
                let (from, to, from_bucket, to_bucket) = (from.as_bytes(), to.as_bytes(), bucket, bucket);
                submission.push(&match version {
                    Some(source) => {
                        let (meta, condition) = (None, PutIf::default());
                        Mutation::CopyObject { from_bucket, from, source, to_bucket, to, meta, condition }
                    }
                    None => Mutation::Copy { from_bucket, from, to_bucket, to, replace: true },
                });
            });
            match &outcomes.await?[..] {
                // Brought back meanwhile, which makes a version.
                [Outcome::Unmet] if version.is_some() => {}
                outcomes => {
                    expect(&what, &outcomes[0], |it| matches!(it, Outcome::Done(_)))?;
                    return Ok(change);
                }
            }
        }
        Err(End::Wrong(format!("{what}: the source changes all the time")))
    }

    async fn rename(&mut self, site: &Site, from: String, body: Body) -> Result<Change, End> {
        let (to, bucket, what) = (self.any_key(), site.bucket, format!("a RENAME of {from}"));
        if from == to {
            return Ok(Change::default());
        }
        let objects = vec![(to.clone(), Some(body)), (from.clone(), None)];
        let change = self.begin(Change { objects, count: 0 });
        let outcomes = site.submit(&what, |submission: &mut Submission| {
            let (from, to) = (from.as_bytes(), to.as_bytes());
            submission.push(&Mutation::Rename { bucket, from, to, if_absent: false });
        });
        expect(&what, &outcomes.await?[0], |it| matches!(it, Outcome::Done(_)))?;
        Ok(change)
    }

    async fn delete(&mut self, site: &Site, key: String) -> Result<Change, End> {
        let bucket = site.bucket;
        let change = self.begin(Change { objects: vec![(key.clone(), None)], count: 0 });
        let outcomes = site.submit("a delete", |submission: &mut Submission| {
            submission.push(&Mutation::Delete { bucket, key: key.as_bytes() });
        });
        expect(&key, &outcomes.await?[0], |it| matches!(it, Outcome::Done(_)))?;
        Ok(change)
    }

    /// Happens all or not at all, and once.
    async fn group(&mut self, site: &Site, from: String, body: Body) -> Result<Change, End> {
        let (to, bucket, count) = (self.any_key(), site.bucket, self.counter_key());
        let (what, counted) = (format!("a transaction on {from}"), self.counter + 1);
        if from == to {
            return Ok(Change::default());
        }
        let tail = Bytes::from_static(b"-tail");
        let whole = [body.clone(), vec![tail.clone()]].concat();
        let (length, objects) =
            (len(&whole) as u64, vec![(to.clone(), Some(body)), (from.clone(), Some(whole))]);
        let change = self.begin(Change { objects, count: 1 });
        let outcomes = site.submit(&what, |submission: &mut Submission| {
            let (from, to, from_bucket, to_bucket) = (from.as_bytes(), to.as_bytes(), bucket, bucket);
            submission.begin_atomic(&[]);
            submission.push(&Mutation::IncrBy { bucket, key: count.as_bytes(), delta: 1 });
            submission.push(&Mutation::Copy { from_bucket, from, to_bucket, to, replace: true });
            submission.push(&Mutation::Append { bucket, key: from, value: (&tail[..]).into() });
            submission.end_atomic();
        });
        let outcomes = outcomes.await?;
        let done = matches!(outcomes[..], [Outcome::Done(_), _, Outcome::Done(_), _]);
        if !done || outcomes[1] != Outcome::Integer(counted) || outcomes[3] != Outcome::Length(length) {
            // A body in too many pieces takes no more; the rest of the group has happened, as in Redis.
            let fragmented = Outcome::Refused(Refusal::TooFragmented);
            if !done || outcomes[3] != fragmented {
                return Err(End::Wrong(format!("{what}: {outcomes:?}")));
            }
            let mut change = change;
            change.objects.pop();
            return Ok(change);
        }
        Ok(change)
    }

    async fn compare(&mut self, site: &Site, key: &str, body: &Body) -> Result<Change, End> {
        match site.get(key).await? {
            Some(found) if is(body, &found) => Ok(Change::default()),
            found => {
                let lens = (found.map(|found| found.len()), len(body));
                Err(End::Wrong(format!("{key} has other bytes: {lens:?}")))
            }
        }
    }

    /// Settles what was under way when the node died: all of it has happened, or nothing.
    async fn settle(&mut self, site: &Site) -> Result<(), End> {
        let Some(change) = self.perhaps.take() else { return Ok(()) };
        let (mut before, mut after) = (true, true);
        for (key, body) in &change.objects {
            let found = site.get(key).await?;
            let equals = |body: Option<&Body>| match (body, &found) {
                (Some(body), Some(found)) => is(body, found),
                (None, None) => true,
                _ => false,
            };
            before &= equals(self.objects.get(key));
            after &= equals(body.as_ref());
        }
        if change.count > 0 {
            let found = site.get(&self.counter_key()).await?;
            let counts =
                |count: i64| found.as_ref().is_some_and(|found| **found == *count.to_string().as_bytes());
            before &= counts(self.counter) || found.is_none() && self.counter == 0;
            after &= counts(self.counter + change.count);
        }
        match (before, after) {
            (_, true) => self.apply(change),
            (true, false) => {}
            (false, false) => return Err(End::Wrong(format!("client {}: half of a change", self.name))),
        }
        Ok(())
    }
}

/// What the origin should hold, and every reader find.
fn expected(clients: &[Client], common: &BTreeMap<String, Body>) -> BTreeMap<String, Body> {
    let mut all = common.clone();
    for client in clients {
        all.extend(client.objects.clone());
        if client.counter > 0 {
            all.insert(client.counter_key(), vec![Bytes::from(client.counter.to_string())]);
        }
    }
    all
}

async fn verify(site: &Site, clients: &[Client]) -> Result<(), String> {
    let all = expected(clients, &site.common);
    let mut wrong = Vec::new();
    for (key, body) in &all {
        match get(&site.store, site.bucket, key).await {
            Ok(Some(found)) if is(body, &found) => {}
            Ok(found) => {
                wrong.push(format!("{key} has other bytes: {:?}", (found.map(|it| it.len()), len(body))));
            }
            Err(error) => wrong.push(format!("{key}: {error}")),
        }
    }
    let listed = site.store.view().map_err(|error| error.to_string())?;
    let listed = listed.list(site.bucket, b"", None, 10_000).await.map_err(|error| error.to_string())?;
    if !listed.iter().map(|it| &it.key[..]).eq(all.keys().map(|key| key.as_bytes())) {
        wrong.push("the listing differs".to_owned());
    }
    match wrong.len() {
        0 => Ok(()),
        count => Err(format!("{count} of {}: {}", all.len(), wrong.join("; "))),
    }
}

fn stress_config(dir: &Path, origin: &Arc<MemoryOrigin>) -> StorageConfig {
    let mut config =
        StorageConfig { memtable_age: Duration::from_millis(50), ..config(dir, origin, CAPACITY) };
    // Short fences: attempts of a node that died are waited for.
    config.flush.attempt_timeout = Duration::from_secs(3);
    config.flush.least_bandwidth = 64 << 20;
    config
}

struct Opened {
    node: Node,
    site: Site,
}

async fn open(dir: &Path, origin: &Arc<MemoryOrigin>, common: &Arc<BTreeMap<String, Body>>) -> Opened {
    let node = Node::start(stress_config(dir, origin)).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    Opened { node, site: Site { store, bucket, common: common.clone(), dies: Arc::default() } }
}

/// Waits until nobody has the store any more.
async fn gone(store: std::sync::Weak<crate::store::Shared>) -> Result<(), String> {
    let limit = Instant::now() + LIMIT;
    while store.strong_count() > 0 {
        if Instant::now() > limit {
            return Err("somebody keeps the store of a node that has ended".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// What a history has seen.
#[derive(Debug, Default)]
struct Seen {
    evicted_bytes: u64,
    copied_bytes: u64,
    fills: u64,
    kept: u64,
    died_in: usize,
}

async fn history(seed: u64) -> Result<Seen, String> {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut maker = Client::new(CLIENTS, seed);
    let common = (0..COMMON).map(|number| (format!("common-{number}"), vec![maker.body(), maker.body()]));
    let common = Arc::new(common.collect::<BTreeMap<String, Body>>());
    let mut clients: Vec<Client> = (0..CLIENTS).map(|name| Client::new(name, seed)).collect();
    let mut seen = Seen::default();
    for run in 0..RUNS {
        let Opened { node, site } = open(dir.path(), &origin, &common).await;
        if run == 0 {
            for (key, body) in &*common {
                let whole = Bytes::from(body.concat());
                super::stories::put_patiently(&site.store, site.bucket, key, &whole).await;
            }
            let filling: Vec<_> =
                clients.drain(..).map(|client| tokio::spawn(client.fill(site.clone()))).collect();
            for client in filling {
                let (client, filled) = client.await.map_err(|error| error.to_string())?;
                filled?;
                clients.push(client);
            }
        }
        for client in &mut clients {
            client.settle(&site).await.map_err(|end| match end {
                End::Died => "nobody died".to_owned(),
                End::Wrong(text) => format!("run {run}: {text}"),
            })?;
        }
        verify(&site, &clients).await.map_err(|text| format!("at the beginning of run {run}: {text}"))?;
        let last = run + 1 == RUNS;
        let tasks: Vec<_> = std::mem::take(&mut clients)
            .into_iter()
            .map(|client| tokio::spawn(client.run(site.clone(), if last { MIX.steps } else { usize::MAX })))
            .collect();
        let mut node = Some(node);
        if !last {
            tokio::time::sleep(Duration::from_millis(random.u64(700..2500))).await;
            site.dies.store(true, Relaxed);
            if let Some(node) = node.take() {
                node.crash().await;
            }
        }
        let mut wrong = Vec::new();
        for task in tasks {
            let (client, result) = task.await.map_err(|error| error.to_string())?;
            wrong.extend(result.err());
            seen.died_in += usize::from(client.perhaps.is_some());
            clients.push(client);
        }
        let stats = site.store.stats();
        seen.evicted_bytes += stats.evicted_capacity_bytes;
        seen.copied_bytes += stats.copied_forward_bytes;
        seen.fills += stats.fills_total;
        seen.kept += stats.fills_kept_total;
        if !wrong.is_empty() {
            return Err(format!("run {run}: {}", wrong.join("; ")));
        }
        if let Some(node) = node {
            verify(&site, &clients).await.map_err(|text| format!("at the end: {text}"))?;
            let pending =
                site.store.flush_wait(None, Some(LIMIT)).await.map_err(|error| error.to_string())?;
            if pending != (0, 0) {
                return Err(format!("{pending:?} never came to the origin"));
            }
            let store = Arc::downgrade(site.store.shared());
            drop(site);
            node.stop().await;
            gone(store).await?;
        } else {
            let store = Arc::downgrade(site.store.shared());
            drop(site);
            gone(store).await?;
        }
    }
    let all = expected(&clients, &common);
    for (key, body) in &all {
        if !origin.body(key).is_some_and(|found| is(body, &found)) {
            return Err(format!("the origin has something else of {key}"));
        }
    }
    if !origin.keys().iter().eq(all.keys()) {
        return Err("the origin has other objects".to_owned());
    }
    let Opened { node, site } = open(dir.path(), &origin, &common).await;
    verify(&site, &clients).await.map_err(|text| format!("after the last restart: {text}"))?;
    flushed(&site.store).await;
    drop(site);
    node.stop().await;
    Ok(seen)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_outlive_everything_at_once() {
    let seeds = match number("FOREBAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FOREBAY_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        match history(seed).await {
            Ok(seen) => {
                println!("seed {seed}: {seen:?}");
                let busy = seen.evicted_bytes > 0 && seen.copied_bytes > 0 && seen.fills > 0 && seen.kept > 0;
                assert!(busy && seen.died_in > 0, "the history tries nothing: {seen:?}");
            }
            Err(wrong) => panic!("seed {seed}: {wrong} (FOREBAY_SEED={seed} tries it alone)"),
        }
    }
}
