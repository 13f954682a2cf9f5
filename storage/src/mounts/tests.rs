//! Mounts over restarts of a node on a real directory: forgotten, moved, put elsewhere.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::mutation::{Existence, SetExpiry};
use crate::node::{Node, OriginBackend, OriginConfig, StorageConfig};
use crate::origin::memory::{Fault, MemoryOrigin};
use crate::store::OriginState;

mod existing;
mod lag;

fn mounted(dir: &Path, origin: Option<(&str, &Arc<MemoryOrigin>)>) -> StorageConfig {
    let mut config =
        StorageConfig { map_bytes: 1 << 30, journal_file_bytes: 16 << 20, ..StorageConfig::new(dir) };
    config.mounts.extend(origin.map(|(url, origin)| MountConfig {
        bucket: "photos".to_owned(),
        prefix: Vec::new(),
        origin: Some(OriginConfig {
            url: url.to_owned(),
            prefix: "p/".to_owned(),
            backend: OriginBackend::Custom(origin.clone()),
        }),
        flushall: false,
        min_interval: Duration::ZERO,
        fifo: false,
        checksums: Default::default(),
        mode: Default::default(),
        revalidate: None,
        write_through_timeout: crate::node::WRITE_THROUGH_TIMEOUT,
        max_lag: None,
    }));
    config
}

async fn set(store: &Store, key: &[u8], value: &[u8]) {
    let bucket = store.bucket(b"photos").unwrap();
    let mut submission = Submission::new();
    let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
    submission.push(&Mutation::SetString { bucket, key, value: value.into(), expiry, existence });
    assert!(matches!(store.submit(submission).await.unwrap().results[..], [Outcome::Done(_)]));
}

async fn flushed(store: &Store) {
    assert_eq!(store.flush_wait(None, Some(Duration::from_secs(30))).await.unwrap(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_mount_goes_to_another_origin_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Arc::new(MemoryOrigin::capable()), Arc::new(MemoryOrigin::capable()));
    let node = Node::start(mounted(dir.path(), Some(("s3://old/p", &old)))).await.unwrap();
    let store = node.store();
    set(&store, b"a", b"1").await;
    flushed(&store).await;
    drop(store);
    node.stop().await;

    // Neither without it nor with another origin does it start.
    for config in [mounted(dir.path(), None), mounted(dir.path(), Some(("s3://new/p", &new)))] {
        let error = Node::start(config).await.err().expect("it must not start");
        let StartError::Mount(path, text) = error else { panic!("{error}") };
        assert_eq!(path, "/photos");
        assert!(text.contains("s3://old/p") && text.contains("forebay mount forget /photos"), "{text}");
    }

    let node = Node::start(mounted(dir.path(), Some(("s3://old/p", &old)))).await.unwrap();
    let store = node.store();
    assert_eq!(store.forget_mount("photos", b"none/", false).await.unwrap(), Forgotten::NoSuchMount);
    assert_eq!(store.forget_mount("photos", b"", false).await.unwrap(), Forgotten::Done { abandoned: 0 });
    assert!(store.mounts().is_empty());
    set(&store, b"b", b"2").await;
    let bucket = store.bucket(b"photos").unwrap();
    assert_eq!(store.origin_state(bucket, b"a").await.unwrap(), OriginState::Local);
    flushed(&store).await;
    drop(store);
    node.stop().await;
    assert_eq!(old.keys(), ["p/a"]);

    let node = Node::start(mounted(dir.path(), Some(("s3://new/p", &new)))).await.unwrap();
    let store = node.store();
    flushed(&store).await;
    assert_eq!(new.keys(), ["p/a", "p/b"]);
    assert_eq!(store.origin_state(bucket, b"a").await.unwrap(), OriginState::Flushed);
    assert_eq!((old.keys(), store.mounts()[0].id), (vec!["p/a".to_owned()], MountId(2)));
    drop(store);
    node.stop().await;
    // And away with it: a node without mounts starts.
    let node = Node::start(mounted(dir.path(), Some(("s3://new/p", &new)))).await.unwrap();
    node.store().forget_mount("photos", b"", false).await.unwrap();
    node.stop().await;
    Node::start(mounted(dir.path(), None)).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_never_answers_is_forgotten_by_giving_up_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Arc::new(MemoryOrigin::capable());
    origin.set_hook(|_| Fault::DropUnknown);
    let node = Node::start(mounted(dir.path(), Some(("s3://old/p", &origin)))).await.unwrap();
    let store = node.store();
    for n in 0..2_500 {
        set(&store, format!("k{n}").as_bytes(), b"v").await;
    }
    assert_eq!(store.forget_mount("photos", b"", false).await.unwrap(), Forgotten::Busy(2_500));
    assert!(store.mounts()[0].queued >= 2_499, "shown a moment later");
    assert_eq!(store.forget_mount("photos", b"", true).await.unwrap(), Forgotten::Done { abandoned: 2_500 });
    assert_eq!((store.stats().dirty_objects, store.mounts().len()), (0, 0));
    flushed(&store).await;
    drop(store);
    node.stop().await;
    assert!(origin.keys().is_empty());
    Node::start(mounted(dir.path(), None)).await.unwrap().stop().await;
}
