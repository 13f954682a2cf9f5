//! Mounts over data that was there before, on a real directory: attached as they are, read, forgotten.

use super::*;
use crate::mutation::{AdoptedHead, BLOCK_BYTES, ExpireIf};
use crate::origin::memory::Operation;
use crate::origin::{Origin, OriginKey};

fn existing(dir: &Path, origin: &Arc<MemoryOrigin>, mode: MountMode) -> StorageConfig {
    let mut config = mounted(dir, Some(("s3://theirs/p", origin)));
    config.mounts[0].mode = mode;
    config
}

async fn start(config: StorageConfig) -> (Node, Store, BucketId) {
    let node = Node::start(config).await.unwrap();
    let store = node.store();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !store.mounts()[0].attached {
        assert!(std::time::Instant::now() < until, "{:?}", node.flush().status());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let bucket = store.bucket(b"photos").unwrap();
    (node, store, bucket)
}

async fn run(store: &Store, mutation: &Mutation<'_>) -> Result<Outcome> {
    let mut submission = Submission::new();
    submission.push(mutation);
    Ok(store.submit(submission).await?.results.remove(0))
}

/// Takes an object over as a look-up does.
async fn adopt(store: &Store, origin: &MemoryOrigin, bucket: BucketId, key: &str) -> Outcome {
    let read_at = store.shared().keyspace.visible();
    let found = origin.head(&OriginKey(format!("p/{key}"))).await.unwrap().unwrap();
    let (etag, mount) = (&found.etag.0, store.mounts()[0].id.0);
    let head = AdoptedHead { len: found.content_length, modified_ms: 1, origin_etag: etag, etag, meta: b"" };
    let (key, replaces) = (key.as_bytes(), None);
    run(store, &Mutation::Adopt { bucket, key, mount, read_at, replaces, head }).await.unwrap()
}

async fn body(store: &Store, bucket: BucketId, key: &[u8]) -> Option<Vec<u8>> {
    let view = store.view().unwrap();
    let row = view.fetch(bucket, key).await.unwrap()?;
    let (body, mut bytes) = (view.open_body(&row).await.unwrap(), Vec::new());
    while (bytes.len() as u64) < body.len() {
        let at = bytes.len() as u64;
        bytes.extend_from_slice(&body.read(at..at + (1 << 20)).await.unwrap());
    }
    Some(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_holds_data_is_attached_and_what_is_written_blindly_wins() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    for key in ["p/put", "p/deleted", "p/stays"] {
        origin.put_foreign(key, b"theirs");
    }
    let (node, store, bucket) = start(existing(dir.path(), &origin, MountMode::WriteBack)).await;
    let mount = store.mounts().remove(0);
    assert_eq!((mount.existing, mount.mode), (true, MountMode::WriteBack));
    set(&store, b"put", b"ours").await;
    for key in [&b"deleted"[..], b"never-was"] {
        assert!(matches!(run(&store, &Mutation::Delete { bucket, key }).await, Ok(Outcome::Done(_))));
    }
    flushed(&store).await;
    assert_eq!(origin.body("p/put").as_deref(), Some(&b"ours"[..]));
    assert_eq!(origin.keys(), ["p/put", "p/stays"]);
    drop(store);
    node.stop().await;
    let (node, store, _) = start(existing(dir.path(), &origin, MountMode::WriteBack)).await;
    assert!(store.mounts()[0].existing, "over a restart");
    drop(store);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_object_is_read_expires_and_is_built_on_and_a_foreign_change_is_a_conflict() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let long: Vec<u8> = (0..2 * BLOCK_BYTES as usize + 77).map(|n| (n % 251) as u8).collect();
    let long: &'static [u8] = long.leak();
    origin.put_foreign("p/long", long);
    origin.put_foreign("p/short", b"theirs");
    origin.put_foreign("p/empty", b"");
    let (node, store, bucket) = start(existing(dir.path(), &origin, MountMode::WriteBack)).await;
    for key in ["long", "short", "empty"] {
        assert!(matches!(adopt(&store, &origin, bucket, key).await, Outcome::Done(_)));
    }
    assert_eq!(store.stats().dirty_objects, 0);
    assert_eq!(store.origin_state(bucket, b"long").await.unwrap(), OriginState::Flushed);
    assert!(body(&store, bucket, b"long").await.as_deref() == Some(long));
    assert_eq!(body(&store, bucket, b"empty").await.as_deref(), Some(&b""[..]));
    // Metadata of ours does not separate it from its bytes.
    let at_ms = store.now_ms() + 3_600_000;
    let condition = ExpireIf::default();
    run(&store, &Mutation::Expire { bucket, key: b"short", at_ms, condition }).await.unwrap();
    assert_eq!(body(&store, bucket, b"short").await.as_deref(), Some(&b"theirs"[..]));
    let append = Mutation::Append { bucket, key: b"short", value: b", and ours".into() };
    assert_eq!(run(&store, &append).await.unwrap(), Outcome::Length(16));
    flushed(&store).await;
    assert_eq!(origin.body("p/short").as_deref(), Some(&b"theirs, and ours"[..]));
    // Known, and changed by somebody else: set aside, both kept.
    origin.put_foreign("p/long", b"changed");
    set(&store, b"long", b"ours").await;
    assert_eq!(store.flush_wait(None, Some(Duration::from_secs(30))).await.unwrap(), (1, 1));
    let state = store.origin_state(bucket, b"long").await.unwrap();
    assert!(matches!(state, OriginState::Parked { .. }), "{state:?}");
    assert_eq!(body(&store, bucket, b"long").await.as_deref(), Some(&b"ours"[..]));
    assert_eq!(origin.body("p/long").as_deref(), Some(&b"changed"[..]));
    drop(store);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_mount_writes_nothing_to_its_origin_until_it_is_one_no_more() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    origin.put_foreign("p/theirs", b"theirs");
    let local = mounted(dir.path(), None);
    let node = Node::start(local).await.unwrap();
    node.store().open_bucket(b"photos").await.unwrap();
    set(&node.store(), b"before", b"1").await;
    node.stop().await;

    let (node, store, bucket) = start(existing(dir.path(), &origin, MountMode::ReadOnly)).await;
    assert_eq!(store.mounts()[0].mode, MountMode::ReadOnly);
    assert!(store.is_read_only(bucket, b"any") && !store.is_read_only(BucketId(99), b"any"));
    let refused = Outcome::Refused(Refusal::ReadOnly("/photos".to_owned()));
    for key in [&b"before"[..], b"theirs"] {
        assert_eq!(run(&store, &Mutation::Delete { bucket, key }).await.unwrap(), refused);
    }
    assert!(matches!(adopt(&store, &origin, bucket, "theirs").await, Outcome::Done(_)));
    assert_eq!(body(&store, bucket, b"theirs").await.as_deref(), Some(&b"theirs"[..]));
    assert_eq!(body(&store, bucket, b"before").await.as_deref(), Some(&b"1"[..]));
    flushed(&store).await;
    drop(store);
    node.stop().await;
    assert!(origin.recorded().is_empty(), "not even a probe: {:?}", origin.recorded());

    // Written again: what lay here goes there, and what was adopted does not.
    let (node, store, bucket) = start(existing(dir.path(), &origin, MountMode::WriteThrough)).await;
    assert!(!store.is_read_only(bucket, b"any") && store.mounts()[0].existing);
    flushed(&store).await;
    assert_eq!(origin.body("p/before").as_deref(), Some(&b"1"[..]));
    set(&store, b"theirs", b"ours").await;
    assert_eq!(origin.body("p/theirs").as_deref(), Some(&b"ours"[..]), "written through");
    drop(store);
    node.stop().await;
    let changes: Vec<String> =
        origin.recorded().into_iter().map(|it| it.key).filter(|key| !key.contains(".forebay")).collect();
    assert_eq!(changes, ["p/before", "p/theirs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_mount_takes_what_it_adopted_with_it_and_fetches_none_of_it() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let names: Vec<String> = (0..1_500).map(|n| format!("a{n:04}")).collect();
    for name in &names {
        origin.put_foreign(&format!("p/{name}"), b"theirs");
    }
    let (node, store, bucket) = start(existing(dir.path(), &origin, MountMode::WriteBack)).await;
    for name in &names {
        assert!(matches!(adopt(&store, &origin, bucket, name).await, Outcome::Done(_)));
    }
    set(&store, b"own", b"ours").await;
    set(&store, b"a0007", b"ours").await;
    let condition = ExpireIf::default();
    let at_ms = store.now_ms() + 3_600_000;
    run(&store, &Mutation::Expire { bucket, key: b"a0008", at_ms, condition }).await.unwrap();
    flushed(&store).await;
    origin.set_hook(|call| match call.operation {
        Operation::Get => panic!("{call:?}"),
        _ => Fault::Ok,
    });
    assert_eq!(store.forget_mount("photos", b"", false).await.unwrap(), Forgotten::Done { abandoned: 0 });
    assert!(store.mounts().is_empty());
    assert_eq!(store.bucket_info(bucket).unwrap().objects, 2);
    for key in [&b"own"[..], b"a0007"] {
        assert_eq!(body(&store, bucket, key).await.as_deref(), Some(&b"ours"[..]));
    }
    assert_eq!(body(&store, bucket, b"a0008").await, None);
    drop(store);
    node.stop().await;
    assert_eq!(origin.keys().len(), 1_501);
    Node::start(mounted(dir.path(), None)).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_was_leaving_when_the_node_stopped_is_forgotten_at_the_next_start() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    origin.put_foreign("p/theirs", b"theirs");
    let (node, store, bucket) = start(existing(dir.path(), &origin, MountMode::WriteBack)).await;
    assert!(matches!(adopt(&store, &origin, bucket, "theirs").await, Outcome::Done(_)));
    set(&store, b"own", b"ours").await;
    flushed(&store).await;
    let leaving = Mutation::MountForget { mount: store.mounts()[0].id.0, abandon: false };
    assert!(matches!(run(&store, &leaving).await, Ok(Outcome::Done(_))));
    assert!(store.mounts()[0].leaving);
    drop(store);
    node.stop().await;
    let node = Node::start(mounted(dir.path(), None)).await.unwrap();
    let store = node.store();
    assert!(store.mounts().is_empty());
    assert_eq!(body(&store, bucket, b"theirs").await, None);
    assert_eq!(body(&store, bucket, b"own").await.as_deref(), Some(&b"ours"[..]));
    drop(store);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_mount_below_does_not_take_what_was_adopted_from_the_one_above() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    origin.put_foreign("p/sub/theirs", b"theirs");
    let (node, store, bucket) = start(existing(dir.path(), &origin, MountMode::WriteBack)).await;
    assert!(matches!(adopt(&store, &origin, bucket, "sub/theirs").await, Outcome::Done(_)));
    set(&store, b"sub/own", b"ours").await;
    flushed(&store).await;
    drop(store);
    node.stop().await;
    let below = Arc::new(MemoryOrigin::capable());
    let mut config = existing(dir.path(), &origin, MountMode::WriteBack);
    let mut sub = mounted(dir.path(), Some(("s3://below/p", &below))).mounts.remove(0);
    sub.prefix = b"sub/".to_vec();
    config.mounts.push(sub);
    let (node, store, _) = start(config).await;
    flushed(&store).await;
    assert_eq!(below.keys(), ["p/own"]);
    assert_eq!(body(&store, bucket, b"sub/theirs").await, None);
    drop(store);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_of_what_is_not_here_are_bounded_by_the_dirty_limit_and_others_are_not() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    origin.put_foreign("p/theirs", b"theirs");
    let mut config = existing(dir.path(), &origin, MountMode::WriteBack);
    config.limits.dirty_bytes = 4_000;
    let (node, store, bucket) = start(config).await;
    set(&store, b"own", b"ours").await;
    flushed(&store).await;
    origin.set_hook(|_| Fault::DropUnknown);
    let mut queued = 0;
    let error = loop {
        let key = format!("k{queued}");
        match run(&store, &Mutation::Delete { bucket, key: key.as_bytes() }).await {
            Ok(Outcome::Done(_)) => queued += 1,
            other => break other.unwrap_err(),
        }
        assert!(queued < 100, "no bound");
    };
    assert!(matches!(&error, Error::Full(text) if text.contains("dirty")), "{error}");
    assert!(matches!(run(&store, &Mutation::Delete { bucket, key: b"own" }).await, Ok(Outcome::Done(_))));
    origin.clear_hook();
    flushed(&store).await;
    assert!(matches!(run(&store, &Mutation::Delete { bucket, key: b"kn" }).await, Ok(Outcome::Done(_))));
    drop(store);
    node.stop().await;
}
