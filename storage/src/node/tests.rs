//! A node on a real directory: what was acknowledged is there after a stop and a start.

use bytes::Bytes;

use super::*;
use crate::body::BodyReader;
use crate::mutation::{Existence, Mutation, Outcome, PutIf, Refusal, SetExpiry};
use crate::object::BucketId;
use crate::read::Lookup;
use crate::stage::BodyOf;
use crate::stage::StagedBody;
use crate::submission::Submission;

fn config(dir: &Path) -> StorageConfig {
    StorageConfig { map_bytes: 1 << 30, journal_file_bytes: 16 << 20, ..StorageConfig::new(dir) }
}

fn set<'a>(bucket: BucketId, key: &'a [u8], value: &'a [u8]) -> Mutation<'a> {
    Mutation::SetString {
        bucket,
        key,
        value: value.into(),
        expiry: SetExpiry::Clear,
        existence: Existence::Any,
    }
}

async fn body(store: &Store, bucket: BucketId, key: &[u8]) -> Option<Vec<u8>> {
    let view = store.view().unwrap();
    let row = view.fetch(bucket, key).await.unwrap()?;
    Some(view.read_body(&row, 0..row.body_len()).await.unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let long = vec![7; 60_000];
    let node = Node::start(config(dir.path())).await.unwrap();
    let store = node.store();
    let bucket = store.open_bucket(b"redis-0").await.unwrap();
    let mut submission = Submission::new();
    submission.push(&set(bucket, b"a", b"1"));
    let between = submission.view();
    submission.push(&set(bucket, b"a", b"2"));
    submission.push(&set(bucket, b"long", &long));
    submission.push(&Mutation::Append { bucket, key: b"long", value: b"tail".into() });
    let outcomes = store.submit(submission).await.unwrap();
    assert!(
        outcomes.results.iter().all(|o| matches!(o, Outcome::Done(_) | Outcome::Length(_))),
        "{outcomes:?}"
    );
    let Lookup::Found(row) = outcomes.views[between.0].get(bucket, b"a") else {
        panic!("no row in the view")
    };
    assert_eq!(row.inline_body(), Some(&b"1"[..]));
    drop(outcomes);
    assert_eq!(body(&store, bucket, b"a").await.as_deref(), Some(&b"2"[..]));
    drop(store);
    let stopped = node.stop().await;
    assert_eq!(stopped.queued_objects, 0);

    for _ in 0..2 {
        let node = Node::start(config(dir.path())).await.unwrap();
        let store = node.store();
        assert_eq!(store.bucket(b"redis-0"), Some(bucket));
        assert_eq!(body(&store, bucket, b"a").await.as_deref(), Some(&b"2"[..]));
        let read = body(&store, bucket, b"long").await.unwrap();
        assert_eq!((read.len(), &read[60_000..]), (60_004, &b"tail"[..]));
        assert_eq!(store.bucket_info(bucket).unwrap().objects, 2);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    assert!(matches!(Node::start(config(dir.path())).await, Err(StartError::InUse(_))));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_object_is_gone_once_its_removal_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    let store = node.store();
    let bucket = store.open_bucket(b"redis-0").await.unwrap();
    let mut submission = Submission::new();
    let expiry = SetExpiry::At(store.now_ms() + 30);
    let existence = Existence::Any;
    submission.push(&Mutation::SetString { bucket, key: b"k", value: b"v".into(), expiry, existence });
    store.submit(submission).await.unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while body(&store, bucket, b"k").await.is_some() {
        assert!(std::time::Instant::now() < until, "the object never expired");
        tokio::task::yield_now().await;
    }
    assert_eq!(store.bucket_info(bucket).unwrap().objects, 0);
    node.stop().await;
}

fn put<'a>(bucket: BucketId, key: &'a [u8], staged: &'a StagedBody) -> Mutation<'a> {
    let (value, md5, condition) = (staged.payload(), None, PutIf::default());
    Mutation::PutObject { bucket, key, value, meta: &[], md5, condition }
}

/// Bytes that differ from place to place and from number to number.
fn long_body(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 131 + at * 7 + at / 251) as u8).collect()
}

async fn stage(store: &Store, bucket: BucketId, body: &[u8]) -> StagedBody {
    let mut writer = store.stage_body(bucket, body.len() as u64, BodyOf::Object).unwrap();
    for bytes in body.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(bytes)).await.unwrap();
    }
    writer.finish().await.unwrap()
}

async fn put_long(store: &Store, bucket: BucketId, key: &[u8], body: &[u8]) -> Outcome {
    let staged = stage(store, bucket, body).await;
    let mut submission = Submission::new();
    submission.push(&put(bucket, key, &staged));
    submission.carry(staged);
    store.submit(submission).await.unwrap().results.remove(0)
}

async fn open(store: &Store, bucket: BucketId, key: &[u8]) -> BodyReader {
    let view = store.view().unwrap();
    let row = view.fetch(bucket, key).await.unwrap().expect("it is there");
    view.open_body(&row).await.unwrap()
}

async fn read_all(body: &BodyReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < body.len() {
        let at = bytes.len() as u64;
        bytes.extend_from_slice(&body.read(at..at + (1 << 20)).await.unwrap());
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn long_bodies_come_back_before_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    let store = node.store();
    let bucket = store.open_bucket(b"redis-0").await.unwrap();
    // One that crosses pieces and a segment's end; one that is a chunk and a byte.
    let lens = [(64 << 10) + 1, 3 << 20, 140 << 20];
    let bodies: Vec<Vec<u8>> = lens.iter().zip(1..).map(|(len, number)| long_body(number, *len)).collect();
    let key = |number: usize| format!("k{number}").into_bytes();
    for (number, body) in bodies.iter().enumerate() {
        assert!(matches!(put_long(&store, bucket, &key(number), body).await, Outcome::Done(_)));
        assert!(read_all(&open(&store, bucket, &key(number)).await).await == *body, "{number}");
    }
    let reader = open(&store, bucket, &key(2)).await;
    for (start, end) in [(0, 1), (65_535, 65_537), (33 << 20, (33 << 20) + 5), (lens[2] - 1, lens[2] + 9)] {
        let bytes = reader.read(start as u64..end as u64).await.unwrap();
        assert!(bytes[..] == bodies[2][start..end.min(lens[2])], "{start}..{end}");
    }
    assert!(reader.read(lens[2] as u64..u64::MAX).await.unwrap().is_empty());
    drop((reader, store));
    node.stop().await;
    let node = Node::start(config(dir.path())).await.unwrap();
    let store = node.store();
    for (number, body) in bodies.iter().enumerate() {
        assert!(read_all(&open(&store, bucket, &key(number)).await).await == *body, "{number}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_length_than_announced_is_refused_and_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    let store = node.store();
    let bucket = store.open_bucket(b"redis-0").await.unwrap();
    let mut writer = store.stage_body(bucket, 100_000, BodyOf::Object).unwrap();
    writer.write(Bytes::from(vec![1; 99_999])).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    assert!(matches!(error, Error::BodyLength { written: 99_999, announced: 100_000 }), "{error}");
    let mut writer = store.stage_body(bucket, 100_000, BodyOf::Object).unwrap();
    let error = writer.write(Bytes::from(vec![1; 100_001])).await.unwrap_err();
    assert!(matches!(error, Error::BodyLength { .. }), "{error}");
    assert!(writer.write(Bytes::from(vec![1; 10])).await.is_err(), "it takes nothing more");
    drop(writer);
    assert_eq!(store.stats().segment_bytes, 0);
    node.stop().await;
}

fn full_text(error: Error) -> String {
    match error {
        Error::Full(text) => text.to_string(),
        other => panic!("{other:?} instead of a lack of room"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_counted_against_the_capacity_from_their_announcement_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.limits.capacity_bytes = 16 << 20;
    let node = Node::start(config).await.unwrap();
    let store = node.store();
    let bucket = store.open_bucket(b"redis-0").await.unwrap();
    let refused = |len| full_text(store.stage_body(bucket, len, BodyOf::Object).unwrap_err());
    assert!(refused(17 << 20).contains("capacity"), "{}", refused(17 << 20));
    let mut writer = store.stage_body(bucket, 10 << 20, BodyOf::Object).unwrap();
    assert!(refused(10 << 20).contains("capacity"), "announced, not a byte written");
    writer.write(Bytes::from(long_body(1, 9 << 20))).await.unwrap();
    assert!(refused(10 << 20).contains("capacity"), "half written");
    drop(writer);
    assert!(matches!(put_long(&store, bucket, b"k", &long_body(1, 10 << 20)).await, Outcome::Done(_)));
    assert!(refused(10 << 20).contains("capacity"), "committed");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_less_than_its_reserve_refuses_growth_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    let store = node.store();
    let bucket = store.open_bucket(b"redis-0").await.unwrap();
    let body = long_body(1, 100_000);
    assert!(matches!(put_long(&store, bucket, b"k", &body).await, Outcome::Done(_)));
    drop(store);
    node.stop().await;
    let mut config = config(dir.path());
    config.limits.disk_reserve_bytes = Some(1 << 60);
    let node = Node::start(config).await.unwrap();
    let store = node.store();
    let text = full_text(store.stage_body(bucket, 100_000, BodyOf::Object).unwrap_err());
    assert!(text.contains("kept free"), "{text}");
    let mut submission = Submission::new();
    submission.push(&set(bucket, b"a", b"1"));
    full_text(store.submit(submission).await.unwrap_err());
    assert!(read_all(&open(&store, bucket, b"k").await).await == body);
    let mut submission = Submission::new();
    submission.push(&Mutation::Delete { bucket, key: b"k" });
    assert!(matches!(store.submit(submission).await.unwrap().results[..], [Outcome::Done(_)]));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_13_an_open_body_outlives_overwrite_delete_and_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    // A checkpoint every few rows.
    config.memtable_rows = 4;
    let node = Node::start(config).await.unwrap();
    let store = node.store();
    let bucket = store.open_bucket(b"redis-0").await.unwrap();
    let body = long_body(1, 3 << 20);
    put_long(&store, bucket, b"k", &body).await;
    let reader = open(&store, bucket, b"k").await;
    for round in 2..40 {
        put_long(&store, bucket, b"k", &long_body(round, 2 << 20)).await;
    }
    let mut submission = Submission::new();
    submission.push(&Mutation::Delete { bucket, key: b"k" });
    store.submit(submission).await.unwrap();
    let again = reader.clone();
    drop(reader);
    assert!(read_all(&again).await == body);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_in_many_parts_is_read_in_any_range_and_put_into_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    let store = node.store();
    let bucket = store.open_bucket(b"redis-0").await.unwrap();
    let mut body = long_body(1, 300_000);
    put_long(&store, bucket, b"k", &body).await;
    // A gap of zeros, then short parts and longer ones, until there are too many.
    let mut submission = Submission::new();
    let (offset, value) = (400_000, b"behind a gap".into());
    submission.push(&Mutation::SetRange { bucket, key: b"k", offset, value });
    store.submit(submission).await.unwrap();
    body.resize(offset as usize, 0);
    body.extend_from_slice(b"behind a gap");
    let mut rewritten = 0;
    for number in 0..400 {
        let more = long_body(number, if number % 9 == 0 { 20 } else { 700 });
        loop {
            let mut submission = Submission::new();
            submission.push(&Mutation::Append { bucket, key: b"k", value: more[..].into() });
            match store.submit(submission).await.unwrap().results[..] {
                [Outcome::Length(_)] => break,
                [Outcome::Refused(Refusal::TooFragmented)] => {
                    store.defragment(bucket, b"k").await.unwrap();
                    rewritten += 1;
                }
                ref other => panic!("{other:?}"),
            }
        }
        body.extend_from_slice(&more);
        if number % 40 == 7 {
            let reader = open(&store, bucket, b"k").await;
            assert_eq!(reader.len(), body.len() as u64);
            let mut random = fastrand::Rng::with_seed(number as u64);
            for _ in 0..60 {
                let start = random.usize(..body.len());
                let end = random.usize(start..=body.len());
                let bytes = reader.read(start as u64..end as u64).await.unwrap();
                assert!(bytes[..] == body[start..end], "{start}..{end} after {number}");
            }
        }
    }
    assert!((1..5).contains(&rewritten), "{rewritten} rewrites");
    assert!(read_all(&open(&store, bucket, b"k").await).await == body);
    node.stop().await;
}

/// Bytes per second of bodies that `writers` stage and commit one after the other, and of readers after them.
async fn throughput(
    store: &Store,
    bucket: BucketId,
    writers: usize,
    len: usize,
    rounds: usize,
) -> (f64, f64) {
    let bytes = Bytes::from(long_body(7, len.min(1 << 20)));
    let started = std::time::Instant::now();
    let tasks = (0..writers).map(|writer| {
        let (store, bytes) = (store.clone(), bytes.clone());
        tokio::spawn(async move {
            for _ in 0..rounds {
                let mut body = store.stage_body(bucket, len as u64, BodyOf::Object).unwrap();
                for at in (0..len).step_by(bytes.len()) {
                    body.write(bytes.slice(..bytes.len().min(len - at))).await.unwrap();
                }
                let staged = body.finish().await.unwrap();
                let mut submission = Submission::new();
                submission.push(&put(bucket, format!("t{writer}").as_bytes(), &staged));
                submission.carry(staged);
                store.submit(submission).await.unwrap();
            }
        })
    });
    futures_util::future::try_join_all(tasks).await.unwrap();
    let total = (writers * rounds * len) as f64;
    let written = total / started.elapsed().as_secs_f64();
    let started = std::time::Instant::now();
    let tasks = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..rounds {
                let body = open(&store, bucket, format!("t{writer}").as_bytes()).await;
                let mut at = 0;
                while at < body.len() {
                    at += body.read(at..at + (1 << 20)).await.unwrap().len() as u64;
                }
            }
        })
    });
    futures_util::future::try_join_all(tasks).await.unwrap();
    (written, total / started.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints what staging moves on this disk; give a directory on it in TMPDIR"]
async fn staged_throughput() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    let store = node.store();
    let bucket = store.open_bucket(b"redis-0").await.unwrap();
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<f64>().unwrap() / 100.0 + fields[12].parse::<f64>().unwrap() / 100.0
    };
    for _ in 0..2 {
        for (writers, len, rounds) in [
            (16, 64 << 10, 2000),
            (16, (64 << 10) + 1, 2000),
            (16, 1 << 20, 100),
            (1, 256 << 20, 6),
            (4, 64 << 20, 6),
        ] {
            let before = cpu();
            let (written, read) = throughput(&store, bucket, writers, len, rounds).await;
            let gib = (writers * rounds * len) as f64 / f64::from(1 << 30);
            println!(
                "{writers} x {} KiB x {rounds}: written {:.0} MB/s, read {:.0} MB/s, {:.2} s CPU per GiB for both",
                len >> 10,
                written / 1e6,
                read / 1e6,
                (cpu() - before) / gib,
            );
        }
    }
    node.stop().await;
}
