//! A node on a real directory: what was acknowledged is there after a stop and a start.

use super::*;
use crate::mutation::{Existence, Mutation, Outcome, SetExpiry};
use crate::object::BucketId;
use crate::read::Lookup;
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
