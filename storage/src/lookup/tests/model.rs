//! Objects under mounts over existing data, by seed: somebody else's and ours, written, conditionally written, deleted,
//! appended to, copied, flushed, given up, changed by others, read, listed and imported, with restarts, an origin that
//! is down at times, and answers that come late.
//!
//! Aim: bytes, ETags and listings are always right, and trouble is always an error. Method: a model beside a real node,
//! which is told what happens and says what must be seen. `FOREBAY_SEEDS=n` for the long form; `FOREBAY_SEED=n` runs
//! one. Taking one rule away must be noticed.

mod late;
mod listings;
mod writes;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::evict::give_up_all;
use crate::lookup::ask::{HEAD_TIMEOUT, LIST_TIMEOUT};
use crate::lookup::{MergedEntry, Rule};
use crate::mutation::{ImportState, PutIf, Refusal};
use crate::object_name::encode_key;
use crate::origin::ContentHeaders;

const SEEDS: u64 = 12;

/// Where a mount of the model lies, and where its origin keeps it.
const MOUNTS: [(&str, Option<&str>); 3] = [("", Some("")), ("in/", Some("deep/")), ("in/local/", None)];

fn names() -> Vec<Vec<u8>> {
    let text = [
        "a",
        "b",
        "b/1",
        "b/2",
        "b/c/1",
        "b/c/2",
        "c",
        "d/1",
        "e",
        "in",
        "in/1",
        "in/2",
        "in/d/1",
        "in/local/1",
        "in/local/d/2",
        "in/localx",
        "z",
        "é",
        "é/1",
    ];
    let mut names: Vec<Vec<u8>> = text.iter().map(|text| text.as_bytes().to_vec()).collect();
    names.push(b"b\xE9".to_vec());
    names
}

/// What is known of a key here.
#[derive(Debug, Clone, PartialEq)]
enum Known {
    Object {
        body: Bytes,
        etag: String,
        /// Somebody else has changed or removed it in the origin.
        stale: bool,
    },
    /// Deleted; the origin is to follow.
    Gone,
    /// Looked up, and not there: counts for ever where foreign changes are not looked for.
    Absent,
}

struct World {
    dir: std::path::PathBuf,
    node: Arc<Mutex<Option<Node>>>,
    /// One for each mount that has one; by the mount's place.
    origins: [Arc<Gated>; 2],
    revalidate: bool,
    random: fastrand::Rng,
    known: BTreeMap<Vec<u8>, Known>,
    /// Keys that may be remembered as absent from before they were written and deleted here.
    maybe_absent: BTreeSet<Vec<u8>>,
    /// Keys that the origin has not got yet.
    dirty: BTreeSet<Vec<u8>>,
    down: bool,
    step: u64,
    seen: Seen,
    missing: Option<Rule>,
}

/// What a history has tried.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    found: u64,
    absent: u64,
    refused: u64,
    revalidated: u64,
    listed: u64,
    late: u64,
    evicted: u64,
    imported: u64,
}

impl World {
    fn mounts(&self) -> Vec<MountConfig> {
        let mut origins = self.origins.iter();
        let mounts = MOUNTS.iter().map(|(prefix, at)| {
            let origin = at.and_then(|_| origins.next());
            let mut mount = mount("data", prefix, origin.unwrap_or(&self.origins[0]));
            match (&mut mount.origin, at) {
                (Some(origin), Some(at)) => origin.prefix = (*at).to_owned(),
                (origin, _) => *origin = None,
            }
            mount.revalidate = self.revalidate.then_some(Duration::ZERO);
            mount
        });
        mounts.collect()
    }

    async fn start(&mut self) -> Site {
        let mut config = config(&self.dir, self.mounts());
        // Short segments, so that some are full.
        config.limits.capacity_bytes = 64 << 20;
        let node = Node::start(config).await.unwrap();
        let store = node.store();
        let bucket = store.bucket(b"data").unwrap();
        *store.shared().lookups.missing.lock() = self.missing;
        until("attached mounts", || store.mounts().iter().all(|mount| mount.local || mount.attached)).await;
        *self.node.lock() = Some(node);
        Site { node: self.node.clone(), store, bucket }
    }

    /// The mount of a key: its place.
    fn owner(key: &[u8]) -> usize {
        let mounts = MOUNTS.iter().enumerate().filter(|(_, (prefix, _))| key.starts_with(prefix.as_bytes()));
        mounts.max_by_key(|(_, (prefix, _))| prefix.len()).map_or(0, |(place, _)| place)
    }

    fn is_local(key: &[u8]) -> bool {
        MOUNTS[World::owner(key)].1.is_none()
    }

    /// The origin of a key, and its name there.
    fn place(&self, key: &[u8]) -> Option<(&Arc<Gated>, String)> {
        let owner = World::owner(key);
        let (prefix, at) = (MOUNTS[owner].0, MOUNTS[owner].1?);
        Some((&self.origins[owner], format!("{at}{}", encode_key(&key[prefix.len()..]))))
    }

    fn in_origin(&self, key: &[u8]) -> Option<Bytes> {
        let (origin, name) = self.place(key)?;
        origin.inner.body(&name)
    }

    fn text(&self, key: &[u8]) -> String {
        format!("step {}, {:?}", self.step, String::from_utf8_lossy(key))
    }

    fn body(&mut self) -> Bytes {
        let len = match self.random.u8(0..6) {
            0..3 => self.random.usize(1..600),
            3 | 4 => self.random.usize(600..60_000),
            _ => self.random.usize(300_000..1_200_000),
        };
        let first = self.random.u8(..);
        let step = self.step.to_le_bytes();
        let bytes = (0..len).map(|at| first.wrapping_add((at / 7) as u8));
        step.into_iter().take(len).chain(bytes.skip(8)).collect()
    }

    fn key(&mut self) -> Vec<u8> {
        let names = names();
        names[self.random.usize(0..names.len())].clone()
    }

    fn set_down(&mut self, down: bool) {
        self.down = down;
        for origin in &self.origins {
            if down { origin.down() } else { origin.up() }
        }
    }

    /// Everything that was written is in the origins.
    async fn flush(&mut self, site: &Site) {
        assert!(!self.down);
        let left = site.store.flush_wait(None, Some(LIMIT)).await.unwrap();
        assert_eq!(left, (0, 0), "step {}: {:?}", self.step, site.store.shared().flusher().unwrap().status());
        self.dirty.clear();
        for (key, known) in &self.known {
            match known {
                Known::Object { body, stale: false, .. } if !World::is_local(key) => {
                    assert!(self.in_origin(key).as_ref() == Some(body), "{}", self.text(key));
                }
                Known::Gone => assert_eq!(self.in_origin(key), None, "{}", self.text(key)),
                _ => {}
            }
        }
        // Of one that was deleted while it was listed, the origin was asked.
        let gone = self.known.iter().filter(|(_, known)| **known == Known::Gone);
        self.maybe_absent.extend(gone.map(|(key, _)| key.clone()));
        self.known.retain(|_, known| *known != Known::Gone);
    }

    /// What a reader of the key must see, and how that changes what is known. `Err`: an error.
    fn look(&mut self, key: &[u8]) -> Result<Option<(Bytes, String)>, ()> {
        let is_dirty = self.dirty.contains(key);
        match self.known.get(key).cloned() {
            Some(Known::Gone) => return Ok(None),
            Some(Known::Object { body, etag, .. })
                if World::is_local(key) || is_dirty || !self.revalidate || self.down =>
            {
                return Ok(Some((body, etag)));
            }
            Some(Known::Object { body, etag, stale: false }) => return Ok(Some((body, etag))),
            Some(Known::Object { stale: true, .. }) => self.seen.revalidated += 1,
            Some(Known::Absent) if !self.revalidate => return Ok(None),
            Some(Known::Absent) | None => {}
        }
        if World::is_local(key) {
            return Ok(None);
        }
        if self.down {
            return Err(());
        }
        match self.in_origin(key) {
            Some(body) => {
                self.seen.found += 1;
                let etag = self.origin_etag(key);
                let known = Known::Object { body: body.clone(), etag: etag.clone(), stale: false };
                self.known.insert(key.to_vec(), known);
                Ok(Some((body, etag)))
            }
            None => {
                self.seen.absent += 1;
                self.known.insert(key.to_vec(), Known::Absent);
                self.maybe_absent.insert(key.to_vec());
                Ok(None)
            }
        }
    }

    /// The ETag that clients see of what the origin has: of what is somebody else's, its own.
    fn origin_etag(&self, key: &[u8]) -> String {
        use md5::{Digest, Md5};
        hex::encode(Md5::digest(self.in_origin(key).unwrap()))
    }

    fn is_stale(&self, key: &[u8]) -> bool {
        matches!(self.known.get(key), Some(Known::Object { stale: true, .. }))
    }

    /// Whether a conditional write would meet something in the origin that nobody looks for.
    fn is_hidden(&self, key: &[u8]) -> bool {
        let known = matches!(self.known.get(key), Some(Known::Object { .. } | Known::Gone));
        !known && self.maybe_absent.contains(key) && !self.revalidate && self.in_origin(key).is_some()
    }

    /// Makes the key known as front ends do, and says what is there. `None` if an origin could not be asked, rightly.
    async fn make_known(&mut self, site: &Site, key: &[u8]) -> Option<Option<(Bytes, String)>> {
        // A delete that its origin has taken by now leaves nothing that is known.
        let may_fail = self.down && self.known.get(key) == Some(&Known::Gone);
        let unsure = !self.revalidate && !self.known.contains_key(key) && self.maybe_absent.contains(key);
        let expected = if unsure { Err(()) } else { self.look(key) };
        let asked = match site.store.is_unknown(site.bucket, key) {
            true => site.store.look_up(&[(site.bucket, key)]).await,
            false => Ok(()),
        };
        match (asked, expected) {
            (Ok(()), Ok(expected)) => Some(expected),
            (Ok(()), Err(())) if unsure => {
                let row = site.store.view().unwrap().fetch(site.bucket, key).await.unwrap();
                let body = row.and(self.in_origin(key));
                let Some(body) = body else {
                    self.known.insert(key.to_vec(), Known::Absent);
                    return Some(None);
                };
                let etag = self.origin_etag(key);
                self.known.insert(
                    key.to_vec(),
                    Known::Object { body: body.clone(), etag: etag.clone(), stale: false },
                );
                Some(Some((body, etag)))
            }
            (Err(Error::Unavailable(_)), _) if unsure => {
                assert!(self.down, "{}", self.text(key));
                None
            }
            (Err(Error::Unavailable(_)), expected) if expected.is_err() || may_fail => {
                self.seen.refused += 1;
                None
            }
            (asked, expected) => panic!("{}: {asked:?} instead of {expected:?}", self.text(key)),
        }
    }

    async fn read(&mut self, site: &Site, key: &[u8]) {
        let text = self.text(key);
        let was_stale = self.is_stale(key);
        let Some(expected) = self.make_known(site, key).await else { return };
        let view = site.store.view().unwrap();
        let row = view.fetch(site.bucket, key).await.unwrap();
        assert_eq!(row.is_some(), expected.is_some(), "{text}: {row:?}");
        let (Some(row), Some((body, etag))) = (row, expected) else { return };
        assert_eq!(row.etag(site.store.cluster_id()).to_string(), etag, "{text}");
        assert_eq!(row.body_len(), body.len() as u64, "{text}");
        let is_dirty = self.dirty.contains(key) || World::is_local(key);
        let stale = was_stale && !self.revalidate || self.is_stale(key);
        let bytes = match view.open_body(&row).await {
            Ok(reader) => {
                drop(view);
                let mut bytes = Vec::new();
                let mut failed = None;
                while (bytes.len() as u64) < reader.len() && failed.is_none() {
                    let at = bytes.len() as u64;
                    match reader.read(at..at + (1 << 20)).await {
                        Ok(more) => bytes.extend_from_slice(&more),
                        Err(error) => failed = Some(error),
                    }
                }
                failed.map_or(Ok(bytes), Err)
            }
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => assert!(bytes == body, "{text}: other bytes"),
            Err(Error::Unavailable(_)) if self.down && !is_dirty => {}
            Err(Error::ChangedInOrigin(_)) if stale => {}
            Err(error) => panic!("{text}: {error}"),
        }
    }

    /// Makes it known first what somebody else has done, where that is looked for.
    async fn refresh(&mut self, site: &Site, key: &[u8]) -> bool {
        if self.is_stale(key) && self.revalidate && !self.down {
            self.read(site, key).await;
        }
        !self.is_stale(key)
    }

    async fn import(&mut self, site: &Site, mount: usize) {
        if self.down {
            return;
        }
        let prefix = MOUNTS[mount].0.as_bytes();
        site.store.import("data", prefix).await.unwrap().unwrap();
        let limit = Instant::now() + LIMIT;
        loop {
            let status = site.store.import_status("data", prefix).await.unwrap().unwrap();
            if status.state == ImportState::Done {
                break;
            }
            assert!(Instant::now() < limit, "step {}: {status:?}", self.step);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.seen.imported += 1;
        for key in names().into_iter().filter(|key| World::owner(key) == mount) {
            let unknown = !matches!(self.known.get(&key), Some(Known::Object { .. } | Known::Gone));
            let body = self.in_origin(&key).filter(|_| unknown);
            if let Some(body) = body {
                let etag = self.origin_etag(&key);
                self.known.insert(key, Known::Object { body, etag, stale: false });
            }
        }
    }

    async fn verify(&mut self, site: &Site) {
        for key in names() {
            self.read(site, &key).await;
        }
    }
}

async fn history(
    seed: u64,
    dir: std::path::PathBuf,
    node: Arc<Mutex<Option<Node>>>,
    missing: Option<Rule>,
) -> Seen {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World {
        dir,
        node,
        origins: [Gated::new(), Gated::new()],
        revalidate: random.bool(),
        random,
        known: BTreeMap::new(),
        maybe_absent: BTreeSet::new(),
        dirty: BTreeSet::new(),
        down: false,
        step: 0,
        seen: Seen::default(),
        missing,
    };
    // Something of somebody else's everywhere.
    for key in names() {
        if !World::is_local(&key) && world.random.u8(0..3) > 0 {
            let body = world.body();
            let (origin, name) = world.place(&key).unwrap();
            origin.inner.put_foreign_with(&name, body, ContentHeaders::default(), &[]);
        }
    }
    // Where the keys of other mounts would be: not to be seen.
    world.origins[0].inner.put_foreign("in/1", b"hidden");
    world.origins[0].inner.put_foreign("in/local/1", b"hidden");
    world.origins[1].inner.put_foreign("deep/local/1", b"hidden");
    world.origins[1].inner.put_foreign("other/1", b"outside");
    for origin in &world.origins {
        origin.inner.put_foreign(".forebay-probe-00", b"left over");
    }
    let mut site = Arc::new(world.start().await);
    let steps = world.random.u64(40..120);
    for step in 0..steps {
        world.step = step + 1;
        let (what, key, other) = (world.random.u8(0..40), world.key(), world.key());
        let begun = Instant::now();
        match what {
            0..8 => world.read(&site, &key).await,
            8..13 => {
                if world.refresh(&site, &key).await {
                    world.set(&site, &key).await;
                }
            }
            13..15 => {
                if world.refresh(&site, &key).await {
                    world.put_if_absent(&site, &key).await;
                }
            }
            15 => world.append(&site, &key).await,
            16..19 => {
                if world.refresh(&site, &key).await {
                    world.delete(&site, &key).await;
                }
            }
            19 => {
                if world.refresh(&site, &other).await {
                    world.copy(&site, &key, &other).await;
                }
            }
            20..27 => world.list(&site).await,
            27..30 => {
                if !world.down {
                    world.flush(&site).await;
                }
                world.change_foreign(&key);
            }
            30 => {
                world.set_down(!world.down);
            }
            31 | 32 => world.set_down(false),
            33 => world.late_look_up(&site, &key).await,
            34 => world.late_listing(&site, &key).await,
            35 => {
                if !world.down {
                    world.flush(&site).await;
                    let shared = site.store.shared().clone();
                    let before = shared.evictor.counts().for_capacity;
                    let shared = tokio::task::spawn_blocking(move || {
                        give_up_all(&shared).unwrap();
                        shared
                    });
                    let shared = shared.await.unwrap();
                    world.seen.evicted += shared.evictor.counts().for_capacity - before;
                }
            }
            36 => {
                let mount = usize::from(world.random.bool());
                world.import(&site, mount).await;
            }
            37 => {
                Arc::into_inner(site).unwrap().stop().await;
                world.known.retain(|_, known| *known != Known::Absent);
                world.maybe_absent.clear();
                site = Arc::new(world.start().await);
            }
            _ => world.verify(&site).await,
        }
        if number("FOREBAY_SEED").is_some() && begun.elapsed() > Duration::from_millis(200) {
            println!("step {} ({what}) took {:?}", world.step, begun.elapsed());
        }
    }
    world.set_down(false);
    world.flush(&site).await;
    world.verify(&site).await;
    world.list(&site).await;
    Arc::into_inner(site).unwrap().stop().await;
    world.seen
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn run(seed: u64, missing: Option<Rule>) -> Seen {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (dir, node) = (tempfile::tempdir().unwrap(), Arc::new(Mutex::new(None)));
    let ran = runtime.block_on(async {
        let ran = tokio::spawn(history(seed, dir.path().to_owned(), node.clone(), missing)).await;
        // Its threads must not outlive the directory.
        let left = node.lock().take();
        if let Some(node) = left {
            node.stop().await;
        }
        ran
    });
    ran.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

#[test]
fn objects_of_origins_and_ours_are_always_right() {
    if let Some(seed) = number("FOREBAY_SEED") {
        println!("{:?}", run(seed, None));
        return;
    }
    let mut all = Seen::default();
    for seed in 0..number("FOREBAY_SEEDS").unwrap_or(SEEDS) {
        let ran = std::panic::catch_unwind(|| run(seed, None));
        let Ok(seen) = ran else { panic!("seed {seed} (run it alone with FOREBAY_SEED={seed})") };
        all.found += seen.found;
        all.absent += seen.absent;
        all.refused += seen.refused;
        all.revalidated += seen.revalidated;
        all.listed += seen.listed;
        all.late += seen.late;
        all.evicted += seen.evicted;
        all.imported += seen.imported;
    }
    println!("{all:?}");
    let busy = all.found > 0 && all.absent > 0 && all.refused > 0 && all.revalidated > 0 && all.listed > 0;
    assert!(
        busy && all.late > 0 && all.evicted > 0 && all.imported > 0,
        "the histories try nothing: {all:?}"
    );
}

/// Whether one of the seeds notices that a rule is missing.
fn is_noticed(missing: Rule) -> bool {
    (0..40).any(|seed| std::panic::catch_unwind(|| run(seed, Some(missing))).is_err())
}

#[test]
fn an_answer_that_is_taken_for_newer_than_it_is_is_noticed() {
    assert!(is_noticed(Rule::Order));
}

#[test]
fn listing_what_is_deleted_here_is_noticed() {
    assert!(is_noticed(Rule::Deletes));
}

#[test]
fn trouble_that_is_taken_for_absence_is_noticed() {
    assert!(is_noticed(Rule::Trouble));
}

#[test]
fn rolling_up_what_is_deleted_here_is_noticed() {
    assert!(is_noticed(Rule::Prefixes));
}

#[test]
fn a_prefix_of_another_mount_that_is_asked_anyway_is_noticed() {
    assert!(is_noticed(Rule::Owners));
}
