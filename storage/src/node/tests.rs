//! A node on a real directory: what was acknowledged is there after a stop and a start.

use bytes::Bytes;

use super::*;
use crate::body::BodyReader;
use crate::mutation::{Existence, Mutation, Outcome, PutIf, SetExpiry};
use crate::object::BucketId;
use crate::read::Lookup;
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
    let mut writer = store.stage_body(bucket, body.len() as u64).unwrap();
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
    let mut writer = store.stage_body(bucket, 100_000).unwrap();
    writer.write(Bytes::from(vec![1; 99_999])).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    assert!(matches!(error, Error::BodyLength { written: 99_999, announced: 100_000 }), "{error}");
    let mut writer = store.stage_body(bucket, 100_000).unwrap();
    let error = writer.write(Bytes::from(vec![1; 100_001])).await.unwrap_err();
    assert!(matches!(error, Error::BodyLength { .. }), "{error}");
    assert!(writer.write(Bytes::from(vec![1; 10])).await.is_err(), "it takes nothing more");
    drop(writer);
    assert_eq!(store.stats().segment_bytes, 0);
    node.stop().await;
}
