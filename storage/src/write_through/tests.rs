//! Write-through mounts on a real directory and the memory origin: what an acknowledgement means, and what an error.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::*;
use crate::flush::ChecksumMode;
use crate::mutation::{Existence, Guard, MountMode, PutIf, SetExpiry};
use crate::node::{MountConfig, Node, OriginBackend, OriginConfig, StorageConfig};
use crate::origin::memory::{Fault, MemoryOrigin, Operation};
use crate::origin::{ErrorClass, Landing, OriginError};
use crate::store::{OriginState, Store};
use crate::submission::MutationSlot;

/// Long enough that a test which waits for it never ends in time.
const NEVER: Duration = Duration::from_secs(3600);

fn config(dir: &Path, origin: &Arc<MemoryOrigin>, timeout: Duration) -> StorageConfig {
    let mut config =
        StorageConfig { map_bytes: 1 << 30, journal_file_bytes: 16 << 20, ..StorageConfig::new(dir) };
    config.flush.attempt_timeout = Duration::from_millis(200);
    config.flush.fence_margin = Duration::from_millis(10);
    config.flush.retry_min = Duration::from_millis(5);
    config.flush.retry_max = Duration::from_millis(50);
    let mount = |prefix: &[u8], mode| MountConfig {
        bucket: "data".to_owned(),
        prefix: prefix.to_vec(),
        origin: Some(OriginConfig {
            url: format!("memory://{}", String::from_utf8_lossy(prefix)),
            prefix: String::from_utf8_lossy(prefix).into_owned(),
            backend: OriginBackend::Custom(origin.clone()),
        }),
        flushall: false,
        // Only who waits for the origin gets past this.
        min_interval: NEVER,
        fifo: false,
        checksums: ChecksumMode::Auto,
        mode,
        revalidate: None,
        write_through_timeout: timeout,
        max_lag: None,
    };
    config.mounts = vec![mount(b"through/", MountMode::WriteThrough), mount(b"back/", MountMode::WriteBack)];
    config
}

struct World {
    _dir: tempfile::TempDir,
    origin: Arc<MemoryOrigin>,
    node: Node,
    store: Store,
    bucket: BucketId,
}

impl World {
    async fn start(timeout: Duration) -> World {
        let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
        let node = Node::start(config(dir.path(), &origin, timeout)).await.unwrap();
        let store = node.store();
        let bucket = store.bucket(b"data").unwrap();
        let world = World { _dir: dir, origin, node, store, bucket };
        let up = |world: &World| world.store.mounts().iter().all(|mount| mount.attached);
        let until = Instant::now() + Duration::from_secs(20);
        while !up(&world) {
            assert!(Instant::now() < until, "{:?}", world.node.flush().status());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        world
    }

    fn set<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Mutation<'a> {
        let (bucket, expiry, existence) = (self.bucket, SetExpiry::Clear, Existence::Any);
        Mutation::SetString { bucket, key, value: value.into(), expiry, existence }
    }

    async fn submit(&self, mutations: &[Mutation<'_>]) -> Result<Vec<Outcome>> {
        let mut submission = Submission::new();
        for mutation in mutations {
            submission.push(mutation);
        }
        Ok(self.store.submit(submission).await?.results)
    }

    fn origin_has(&self, key: &str) -> Option<Bytes> {
        self.origin.body(key)
    }

    async fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let view = self.store.view().unwrap();
        let row = view.fetch(self.bucket, key).await.unwrap()?;
        Some(view.read_body(&row, 0..row.body_len()).await.unwrap().to_vec())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_29_what_is_acknowledged_is_in_the_origin_whatever_changed_it() {
    let world = World::start(NEVER).await;
    let (bucket, key) = (world.bucket, &b"through/a"[..]);
    for value in [&b"1"[..], b"2", b"3"] {
        world.submit(&[world.set(key, value)]).await.unwrap();
        assert_eq!(world.origin_has("through/a").as_deref(), Some(value));
    }
    let append = Mutation::Append { bucket, key, value: b"4".into() };
    let other = world.set(b"through/b", b"x");
    world.submit(&[append, other]).await.unwrap();
    assert_eq!(world.origin_has("through/a").as_deref(), Some(&b"34"[..]));
    assert_eq!(world.origin_has("through/b").as_deref(), Some(&b"x"[..]));
    let rename = Mutation::Rename { bucket, from: key, to: b"through/c", if_absent: false };
    world.submit(&[rename]).await.unwrap();
    assert_eq!(world.origin_has("through/a"), None);
    assert_eq!(world.origin_has("through/c").as_deref(), Some(&b"34"[..]));
    let (mutations, guards) = (vec![world.set(b"through/d", b"x"), world.set(key, b"5")], Vec::new());
    world.submit(&[Mutation::Atomic { guards, mutations }]).await.unwrap();
    assert_eq!(world.origin_has("through/d").as_deref(), Some(&b"x"[..]));
    assert_eq!(world.origin_has("through/a").as_deref(), Some(&b"5"[..]));
    let delete = |key| Mutation::Delete { bucket, key };
    world.submit(&[delete(key), delete(b"through/b")]).await.unwrap();
    assert_eq!((world.origin_has("through/a"), world.origin_has("through/b")), (None, None));
    // A conditional write is a barrier: everything older of its bucket is there with it.
    world.submit(&[world.set(b"back/x", b"1")]).await.unwrap();
    let condition = PutIf { if_match: None, if_none_match: Some("*") };
    let (value, meta, md5) = (b"m".into(), &b""[..], None);
    let put = Mutation::PutObject { bucket, key: b"through/m", value, meta, md5, condition };
    world.submit(&[put]).await.unwrap();
    assert_eq!(world.origin_has("through/m").as_deref(), Some(&b"m"[..]));
    assert_eq!(world.origin_has("back/x").as_deref(), Some(&b"1"[..]));
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_29_a_write_that_does_not_reach_the_origin_is_an_error_and_stays_queued() {
    let world = World::start(Duration::from_millis(300)).await;
    let key = &b"through/a"[..];
    world.origin.set_hook(|call| match call.operation {
        Operation::Put => Fault::DropUnknown,
        _ => Fault::Ok,
    });
    let error = world.submit(&[world.set(key, b"1")]).await.unwrap_err();
    let Error::NotInOrigin(reason) = &error else { panic!("{error:?}") };
    assert!(reason.contains("waited 300ms"), "{reason}");
    assert!(error.to_string().starts_with("stored here, not yet in origin ("), "{error}");
    // It is here, and on its way.
    assert_eq!(world.value(key).await.as_deref(), Some(&b"1"[..]));
    assert_eq!(world.origin_has("through/a"), None);
    let state = world.store.origin_state(world.bucket, key).await.unwrap();
    assert!(matches!(state, OriginState::Pending { .. }), "{state:?}");
    // Reads and what lies under other mounts do not care.
    world.submit(&[world.set(b"back/a", b"1")]).await.unwrap();
    world.submit(&[world.set(b"local", b"1")]).await.unwrap();
    world.origin.clear_hook();
    let limit = Some(Duration::from_secs(20));
    assert_eq!(world.store.flush_wait(None, limit).await.unwrap(), (0, 0));
    assert_eq!(world.origin_has("through/a").as_deref(), Some(&b"1"[..]));
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_29_a_delete_that_is_sent_again_is_not_done_before_the_first_is() {
    let world = World::start(Duration::from_millis(300)).await;
    let (bucket, key) = (world.bucket, &b"through/a"[..]);
    world.submit(&[world.set(key, b"1")]).await.unwrap();
    world.origin.set_hook(|call| match call.operation {
        Operation::Delete => {
            Fault::Refuse(OriginError::new(ErrorClass::ServerError, Landing::NotApplied, "not now"))
        }
        _ => Fault::Ok,
    });
    for _ in 0..2 {
        let deleted = world.submit(&[Mutation::Delete { bucket, key }]).await;
        assert!(matches!(deleted, Err(Error::NotInOrigin(_))), "{deleted:?}");
        assert!(world.origin_has("through/a").is_some());
    }
    world.origin.clear_hook();
    let limit = Some(Duration::from_secs(20));
    assert_eq!(world.store.flush_wait(None, limit).await.unwrap(), (0, 0));
    assert_eq!(world.submit(&[Mutation::Delete { bucket, key }]).await.unwrap(), [Outcome::Unmet]);
    assert_eq!(world.origin_has("through/a"), None);
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_set_aside_is_told_at_once_with_the_reason() {
    let world = World::start(NEVER).await;
    let key = &b"through/a"[..];
    world.submit(&[world.set(key, b"1")]).await.unwrap();
    world.origin.put_foreign("through/a", b"theirs");
    let error = world.submit(&[world.set(key, b"2")]).await.unwrap_err();
    let Error::NotInOrigin(reason) = &error else { panic!("{error:?}") };
    assert!(reason.contains("set aside") && reason.contains("did not write"), "{reason}");
    assert_eq!(world.value(key).await.as_deref(), Some(&b"2"[..]), "both are kept");
    assert_eq!(world.origin_has("through/a").as_deref(), Some(&b"theirs"[..]));
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_29_each_write_of_a_submission_arrives_by_itself() {
    let world = World::start(NEVER).await;
    let (bucket, theirs) = (world.bucket, &b"through/theirs"[..]);
    world.submit(&[world.set(theirs, b"1")]).await.unwrap();
    world.origin.put_foreign("through/theirs", b"foreign");
    let released = Arc::new(AtomicBool::new(false));
    let holds = released.clone();
    world.origin.set_hook(move |call| match call.operation {
        Operation::Put if call.key == "through/slow" && !holds.load(Relaxed) => {
            Fault::Refuse(OriginError::new(ErrorClass::ServerError, Landing::NotApplied, "not now"))
        }
        _ => Fault::Ok,
    });
    let mut submission = Submission::new();
    let slow = submission.push(&world.set(b"through/slow", b"1"));
    let view = submission.view();
    let set_aside = submission.push(&world.set(theirs, b"2"));
    let local = submission.push(&world.set(b"back/a", b"1"));
    let group = submission.begin_atomic(&[]);
    submission.push(&world.set(b"through/a", b"1"));
    submission.push(&Mutation::Append { bucket, key: b"through/b", value: b"1".into() });
    submission.end_atomic();
    let nothing = submission.push(&Mutation::Delete { bucket, key: b"through/none" });
    let (outcomes, mut arrival) = world.store.submit_reading(submission).await.unwrap();
    // Before anything has arrived.
    let view = &outcomes.views[view.0];
    assert!(view.fetch(bucket, b"through/slow").await.unwrap().is_some());
    assert_eq!(view.fetch(bucket, b"back/a").await.unwrap().map(|_| ()), None);
    let only = |slot: MutationSlot| slot.0..slot.0 + 1;
    assert!(arrival.concerns(only(slow)) && arrival.concerns(group.0..nothing.0));
    assert!(!arrival.concerns(only(local)) && !arrival.concerns(only(group)));
    // Each goes without anybody's asking for it.
    let until = Instant::now() + Duration::from_secs(20);
    while world.origin_has("through/a").is_none() || world.origin_has("through/b").is_none() {
        assert!(Instant::now() < until, "{:?}", world.node.flush().status());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let Err(Error::NotInOrigin(reason)) = arrival.of(only(set_aside)).await else { panic!("not told") };
    assert!(reason.contains("set aside"), "{reason}");
    arrival.of(group.0..nothing.0).await.unwrap();
    arrival.of(only(local)).await.unwrap();
    arrival.of(only(nothing)).await.unwrap();
    assert!(world.origin_has("through/slow").is_none());
    released.store(true, Relaxed);
    arrival.of(only(slow)).await.unwrap();
    assert_eq!(world.origin_has("through/slow").as_deref(), Some(&b"1"[..]));
    // All of it at once is what its worst part is.
    assert!(matches!(arrival.all().await, Err(Error::NotInOrigin(_))));
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_nothing_waits_for_nobody() {
    let world = World::start(NEVER).await;
    let (bucket, key) = (world.bucket, &b"through/a"[..]);
    world.submit(&[world.set(key, b"1")]).await.unwrap();
    // A change of somebody else's that does not arrive.
    world.origin.set_hook(|_| Fault::DropUnknown);
    let mut submission = Submission::new();
    submission.push(&world.set(key, b"2"));
    world.store.shared().submit(submission).await.unwrap();
    let (expiry, existence) = (SetExpiry::Clear, Existence::Absent);
    let nx = Mutation::SetString { bucket, key, value: b"3".into(), expiry, existence };
    let guards = vec![Guard::VersionIs { bucket, key, version: None }];
    let group = Mutation::Atomic { guards, mutations: vec![world.set(key, b"4")] };
    let none = Mutation::Delete { bucket, key: b"through/none" };
    let outcomes = world.submit(&[nx, group, none]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Unmet, Outcome::Unmet, Outcome::Skipped, Outcome::Unmet]);
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_wait_each_for_their_own_key() {
    let world = Arc::new(World::start(NEVER).await);
    let writers = (0..200).map(|n| {
        let world = world.clone();
        tokio::spawn(async move {
            let key = format!("through/{n}");
            for round in 0..5 {
                let value = format!("{n}-{round}");
                world.submit(&[world.set(key.as_bytes(), value.as_bytes())]).await.unwrap();
                assert_eq!(world.origin_has(&key).as_deref(), Some(value.as_bytes()));
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let world = Arc::into_inner(world).unwrap();
    assert_eq!(world.node.stop().await.queued_objects, 0);
}
