//! Scrubs of whole nodes on real directories, whose files are damaged under them; and page by page, for models.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::ask::Answer;
use super::rows::Owner;
use super::*;
use crate::blob::Pointer;
use crate::evict::tests::stories::{
    CAPACITY, away, body, config, down, fill_up, flushed, get, put, put_patiently, until,
};
use crate::keyspace::audit::named_by;
use crate::keyspace::checkpoint::decode_pointer;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{Table, blob_key, numbered_key};
use crate::keyspace::view::View;
use crate::mutation::{Existence, Mutation, Outcome, SetExpiry};
use crate::node::Node;
use crate::object::{BlobId, BucketId};
use crate::origin::memory::MemoryOrigin;
use crate::submission::Submission;

/// A scrub of a model's store, a page at a time. There is no damage in a model, and so nothing to ask.
pub(crate) struct Stepwise {
    job: Job,
    walk: Walk,
}

struct NobodyToAsk;

impl ask::Ask for NobodyToAsk {
    fn ask(&self, _: &Arc<Shared>, _: &Pace, objects: &[Owner]) -> Vec<Answer> {
        objects.iter().map(|_| Answer::Silent("a model".to_owned())).collect()
    }
}

impl Stepwise {
    pub(crate) fn new(shared: &Shared, page: usize) -> Stepwise {
        let options = ScrubOptions { bytes_per_second: u64::MAX, ask_origins: false };
        Stepwise { job: Job::new(shared, options), walk: Walk::in_pages(page) }
    }

    /// Whether it has come to its end; an error if it found anything.
    pub(crate) fn step(&mut self, shared: &Arc<Shared>) -> std::result::Result<bool, String> {
        let step = self.walk.step(shared, &self.job, &NobodyToAsk).map_err(|stop| format!("{stop:?}"))?;
        match self.job.status().findings.first() {
            Some(finding) => Err(format!("a scrub found {finding:?}")),
            None => Ok(step != Step::More),
        }
    }
}

const FAST: ScrubOptions = ScrubOptions { bytes_per_second: 10 << 30, ask_origins: false };

async fn scrub(store: &Store, options: ScrubOptions) -> ScrubStatus {
    store.start_scrub(options).unwrap();
    ended(store).await
}

async fn ended(store: &Store) -> ScrubStatus {
    until("the end of the scrub", || store.scrub_status().is_some_and(|status| status.ended.is_some())).await;
    store.scrub_status().unwrap()
}

#[track_caller]
fn assert_clean(status: &ScrubStatus) {
    assert_eq!(status.findings, []);
    assert_eq!(status.ended.as_ref().map(|(_, end)| end.clone()), Some(ScrubEnd::Done { trouble: None }));
}

/// The first blob of an object.
fn blob_of(store: &Store, bucket: BucketId, key: &str) -> BlobId {
    let view = View::latest(&store.shared().keyspace);
    let row = view.get(RowKey::object(Table::Object, bucket, key.as_bytes()), false, true).unwrap();
    named_by(Table::Object as u8, &row.flatten().unwrap())[0]
}

/// Where the committed tables say that it lies.
async fn place_of(store: &Store, bucket: BucketId, key: &str) -> Pointer {
    let place = || {
        let row =
            store.shared().keyspace.base.get(&blob_key(Table::Blob, blob_of(store, bucket, key))).unwrap();
        row.as_deref().and_then(decode_pointer)
    };
    until("a checkpoint of the place", || place().is_some()).await;
    place().unwrap()
}

/// Flips a bit of a byte in the middle of the extent.
fn flip(dir: &Path, place: Pointer) {
    let file = File::options().read(true).write(true).open(dir.join(place.segment.path())).unwrap();
    let (mut byte, at) = ([0], u64::from(place.offset) + place.bytes_on_disk() / 2);
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 4;
    file.write_all_at(&byte, at).unwrap();
    file.sync_all().unwrap();
}

struct Site {
    dir: tempfile::TempDir,
    origin: Arc<MemoryOrigin>,
    node: Node,
    store: Store,
    bucket: BucketId,
}

impl Site {
    async fn start() -> Site {
        let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
        let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
        let store = node.store();
        let bucket = store.bucket(b"data").unwrap();
        Site { dir, origin, node, store, bucket }
    }

    /// Objects of 300,000 bytes, `k0` and on, in the origin.
    async fn with_objects(count: usize) -> Site {
        let site = Site::start().await;
        for number in 0..count {
            put_patiently(&site.store, site.bucket, &format!("k{number}"), &body(number, 300_000)).await;
        }
        flushed(&site.store).await;
        site
    }

    async fn restart_after(self, meanwhile: impl FnOnce(&Path)) -> Site {
        let Site { dir, origin, node, store, .. } = self;
        drop(store);
        node.stop().await;
        meanwhile(dir.path());
        let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
        let store = node.store();
        let bucket = store.bucket(b"data").unwrap();
        Site { dir, origin, node, store, bucket }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_damage_is_clean() {
    let site = Site::with_objects(20).await;
    let mut submission = Submission::new();
    let bucket = site.bucket;
    let copy =
        Mutation::Copy { from_bucket: bucket, from: b"k1", to_bucket: bucket, to: b"copy", replace: true };
    submission.push(&copy);
    submission.push(&Mutation::CreateUpload { bucket, key: b"u", meta: &[], options: &[] });
    let outcomes = site.store.submit(submission).await.unwrap().results;
    let [Outcome::Done(_), Outcome::Done(upload)] = outcomes[..] else { panic!("{outcomes:?}") };
    let (number, value, md5) = (1, (&[7; 5000][..]).into(), None);
    let part = Mutation::PutPart { bucket, key: b"u", upload, number, value, meta: &[], md5 };
    let mut submission = Submission::new();
    submission.push(&part);
    site.store.submit(submission).await.unwrap();
    let _last = place_of(&site.store, bucket, "k19").await;
    let status = scrub(&site.store, FAST).await;
    assert_clean(&status);
    assert!(status.extents_done >= 20 && status.bytes_done >= 20 * 300_000, "{status:?}");
    assert!(status.rows_done >= 22, "{status:?}");
    assert!(site.store.stats().scrub_done_ms > 0 && !site.store.stats().scrub_running);
    site.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_clean_extent_is_given_up_and_comes_back_right() {
    let site = Site::with_objects(5).await;
    let place = place_of(&site.store, site.bucket, "k3").await;
    // First of a stopped node, then of one that runs.
    let site = site.restart_after(|dir| flip(dir, place)).await;
    for key in ["k3", "k4"] {
        flip(site.dir.path(), place_of(&site.store, site.bucket, key).await);
        // Two flips of one bit: the second time k3 is whole again.
        if key == "k3" {
            flip(site.dir.path(), place);
        }
    }
    assert!(matches!(get(&site.store, site.bucket, "k3").await, Err(Error::Damaged(_))));
    let status = scrub(&site.store, FAST).await;
    assert_eq!((status.findings_total, status.mended_total), (2, 2), "{status:?}");
    let mut found: Vec<_> = status.findings.iter().map(|it| (it.kind, it.key.clone().unwrap())).collect();
    found.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(found, [(FindingKind::Extent, Bytes::from("k3")), (FindingKind::Extent, Bytes::from("k4"))]);
    assert_eq!(status.findings[0].bucket.as_deref(), Some("data"));
    for (number, key) in [(3, "k3"), (4, "k4")] {
        assert!(get(&site.store, site.bucket, key).await.unwrap().unwrap() == body(number, 300_000));
    }
    assert_clean(&scrub(&site.store, ScrubOptions { ask_origins: true, ..FAST }).await);
    assert_eq!(site.store.stats().scrub_mended_total, 2);
    site.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_dirty_extent_is_kept_and_reported() {
    let site = Site::start().await;
    down(&site.origin);
    put_patiently(&site.store, site.bucket, "dirty", &body(1, 300_000)).await;
    let place = place_of(&site.store, site.bucket, "dirty").await;
    flip(site.dir.path(), place);
    let status = scrub(&site.store, FAST).await;
    assert_eq!((status.findings_total, status.mended_total), (1, 0), "{status:?}");
    assert!(status.findings[0].what.contains("no origin holds it"), "{status:?}");
    assert_eq!(place_of(&site.store, site.bucket, "dirty").await, place);
    assert!(matches!(get(&site.store, site.bucket, "dirty").await, Err(Error::Damaged(_))));
    // Its source still has it.
    site.origin.clear_hook();
    put_patiently(&site.store, site.bucket, "dirty", &body(1, 300_000)).await;
    flushed(&site.store).await;
    let _ = place_of(&site.store, site.bucket, "dirty").await;
    assert_clean(&scrub(&site.store, FAST).await);
    site.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_kept_while_the_origin_does_not_say_that_it_has_them() {
    let site = Site::with_objects(2).await;
    let place = place_of(&site.store, site.bucket, "k1").await;
    flip(site.dir.path(), place);
    down(&site.origin);
    let status = scrub(&site.store, FAST).await;
    assert!(status.findings[0].what.contains("does not say that it holds the bytes"), "{status:?}");
    site.origin.clear_hook();
    site.origin.put_foreign("k1", b"somebody else's");
    let status = scrub(&site.store, FAST).await;
    assert!(status.findings[0].what.contains("somebody has changed it"), "{status:?}");
    assert_eq!(status.mended_total, 0);
    assert_eq!(place_of(&site.store, site.bucket, "k1").await, place);
    site.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extents_that_the_disk_has_lost_are_found() {
    let site = Site::with_objects(6).await;
    let mut places = Vec::new();
    for number in 0..6 {
        places.push(place_of(&site.store, site.bucket, &format!("k{number}")).await);
    }
    let last = places.iter().max_by_key(|place| (place.segment, place.offset)).unwrap();
    let file = File::options().write(true).open(site.dir.path().join(last.segment.path())).unwrap();
    file.set_len(u64::from(last.offset) + 1000).unwrap();
    let status = scrub(&site.store, FAST).await;
    assert!(status.findings_total > 0 && status.findings_total == status.mended_total, "{status:?}");
    for number in 0..6 {
        let key = format!("k{number}");
        assert!(get(&site.store, site.bucket, &key).await.unwrap().unwrap() == body(number, 300_000));
    }
    assert_clean(&scrub(&site.store, FAST).await);
    site.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_bytes_anywhere_are_found() {
    let site = Site::with_objects(3).await;
    down(&site.origin);
    put_patiently(&site.store, site.bucket, "dirty", &body(9, 300_000)).await;
    let mut changes = Vec::new();
    for key in ["k1", "dirty"] {
        let _ = place_of(&site.store, site.bucket, key).await;
        changes.push((Arc::from(&blob_key(Table::Blob, blob_of(&site.store, site.bucket, key))[..]), None));
    }
    changes.sort();
    site.store.shared().keyspace.base.commit(&changes).unwrap();
    let status = scrub(&site.store, FAST).await;
    let missing: Vec<_> = status.findings.iter().filter(|it| it.kind == FindingKind::Missing).collect();
    // The other one is in the origin.
    assert_eq!(missing.len(), 1, "{status:?}");
    assert_eq!(missing[0].key.as_deref(), Some(&b"dirty"[..]));
    assert!(!missing[0].mended);
    site.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_sums_are_found_and_usage_is_put_right() {
    let site = Site::with_objects(10).await;
    let place = place_of(&site.store, site.bucket, "k9").await;
    let base = &site.store.shared().keyspace.base;
    let usage = numbered_key(Table::Usage, place.segment.0);
    let mut row = base.get(&usage).unwrap().unwrap().to_vec();
    row[12] ^= 1;
    let (blob, count) = (blob_of(&site.store, site.bucket, "k5"), 3u32);
    let refs = (Arc::from(&blob_key(Table::Refs, blob)[..]), Some(Arc::from(&count.to_le_bytes()[..])));
    base.commit(&[refs, (Arc::from(&usage[..]), Some(Arc::from(&row[..])))]).unwrap();
    let status = scrub(&site.store, FAST).await;
    let kinds: Vec<_> = status.findings.iter().map(|it| (it.kind, it.mended)).collect();
    assert_eq!(kinds, [(FindingKind::Usage, true), (FindingKind::References, false)], "{status:?}");
    assert!(status.findings[1].what.contains("named by 1 rows and counted for 3"), "{status:?}");
    let checkpoint = site.store.stats().checkpoint_index;
    put_patiently(&site.store, site.bucket, "another", &body(1, 1000)).await;
    until("a checkpoint", || site.store.stats().checkpoint_index > checkpoint).await;
    let status = scrub(&site.store, FAST).await;
    let kinds: Vec<_> = status.findings.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [FindingKind::References], "{status:?}");
    site.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_are_asked_for_what_is_only_there() {
    let site = Site::start().await;
    let (count, _) = fill_up(&site.store, site.bucket).await;
    let asking = ScrubOptions { ask_origins: true, ..FAST };
    let status = scrub(&site.store, asking).await;
    assert_clean(&status);
    assert!(status.asked > 0, "{status:?}");
    let number = away(&site.store, site.bucket, count).await;
    site.origin.put_foreign(&format!("k{number}"), b"somebody else's");
    let status = scrub(&site.store, asking).await;
    assert_eq!(status.findings_total, 1, "{status:?}");
    assert_eq!(status.findings[0].kind, FindingKind::Origin);
    assert_eq!(status.findings[0].key, Some(format!("k{number}").into()));
    down(&site.origin);
    let status = scrub(&site.store, asking).await;
    let Some((_, ScrubEnd::Done { trouble: Some(trouble) })) = status.ended else { panic!("{status:?}") };
    assert!(trouble.contains("gave no answer about"), "{trouble}");
    // Without being asked it cannot know.
    assert_clean(&scrub(&site.store, FAST).await);
    site.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_reported_of_a_store_that_changes_all_the_time() {
    let site = Site::start().await;
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), 6);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4usize {
        let (store, bucket, stop) = (site.store.clone(), site.bucket, stop.clone());
        writers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(writer as u64);
            while !stop.load(Relaxed) {
                let key = format!("w{writer}-{}", random.u32(0..40));
                match random.u8(0..10) {
                    0..7 => {
                        let len = [300, 5_000, 60_000, 900_000, 3_000_000][random.usize(0..5)];
                        // Without room it goes on with something else.
                        let _ = put(&store, bucket, &key, &body(random.usize(0..99), len)).await;
                    }
                    7 => {
                        let mut submission = Submission::new();
                        submission.push(&Mutation::Delete { bucket, key: key.as_bytes() });
                        store.submit(submission).await.unwrap();
                    }
                    8 => {
                        let (to, mut submission) = (format!("w{writer}-copy"), Submission::new());
                        let (from, to) = (key.as_bytes(), to.as_bytes());
                        let (from_bucket, to_bucket) = (bucket, bucket);
                        submission.push(&Mutation::Copy { from_bucket, from, to_bucket, to, replace: true });
                        let _ = store.submit(submission).await;
                    }
                    _ => {
                        let _ = get(&store, bucket, &key).await.unwrap();
                    }
                }
            }
        });
    }
    let asking = ScrubOptions { ask_origins: true, ..FAST };
    until("eviction", || site.store.stats().evicted_capacity_bytes > CAPACITY).await;
    for round in 0..rounds {
        let status = scrub(&site.store, if round % 2 == 0 { FAST } else { asking }).await;
        assert_clean(&status);
        assert!(status.extents_done > 0 && status.rows_done > 0, "{status:?}");
    }
    stop.store(true, Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    site.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scrub_runs_at_a_time_and_can_be_ended() {
    let site = Site::with_objects(10).await;
    let _ = place_of(&site.store, site.bucket, "k9").await;
    assert!(site.store.scrub_status().is_none() && !site.store.cancel_scrub());
    let slow = ScrubOptions { bytes_per_second: BYTES_PER_SECOND_MIN, ask_origins: false };
    site.store.start_scrub(slow).unwrap();
    assert!(matches!(site.store.start_scrub(FAST), Err(Error::Unavailable(_))));
    assert!(site.store.stats().scrub_running);
    assert!(site.store.cancel_scrub());
    let status = ended(&site.store).await;
    assert_eq!(status.ended.map(|(_, end)| end), Some(ScrubEnd::Canceled));
    // A stop of the node ends one, too.
    site.store.start_scrub(slow).unwrap();
    site.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_apply_makes_are_checked_like_staged_ones() {
    let site = Site::start().await;
    let (bucket, value) = (site.bucket, body(5, 40_000));
    let mut submission = Submission::new();
    let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
    submission.push(&Mutation::SetString {
        bucket,
        key: b"s",
        value: (&value[..]).into(),
        expiry,
        existence,
    });
    site.store.submit(submission).await.unwrap();
    flushed(&site.store).await;
    flip(site.dir.path(), place_of(&site.store, bucket, "s").await);
    let status = scrub(&site.store, FAST).await;
    assert_eq!((status.findings_total, status.mended_total), (1, 1), "{status:?}");
    assert!(get(&site.store, bucket, "s").await.unwrap().unwrap() == value);
    site.node.stop().await;
}
