//! Limits that stop writers, and what waits for an origin for too long.

use std::time::Instant;

use super::*;
use crate::stage::BodyOf;

const LIMIT: Duration = Duration::from_secs(60);

async fn try_set(store: &Store, key: &[u8]) -> Result<Vec<Outcome>> {
    let bucket = store.bucket(b"photos").unwrap();
    let mut submission = Submission::new();
    let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
    let value = (&b"some bytes of a value"[..]).into();
    submission.push(&Mutation::SetString { bucket, key, value, expiry, existence });
    Ok(store.submit(submission).await?.results)
}

fn count(counts: &[(&'static str, u64)], reason: &str) -> u64 {
    counts.iter().find(|(name, _)| *name == reason).unwrap().1
}

fn sum(counts: &[(&'static str, u64)]) -> u64 {
    counts.iter().map(|(_, count)| count).sum()
}

/// Writes until one is refused; how many were taken, and the refusal.
async fn fill(store: &Store) -> (u64, String) {
    let until = Instant::now() + LIMIT;
    for taken in 0.. {
        match try_set(store, format!("k{taken}").as_bytes()).await {
            Ok(_) => assert!(Instant::now() < until, "nothing is refused"),
            Err(Error::Full(text)) => return (taken, text.to_string()),
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_slowed_down_then_refused_by_max_lag_and_go_on_when_the_origin_is_back() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let mut config = mounted(dir.path(), Some(("s3://old/p", &origin)));
    config.mounts[0].max_lag = Some(Duration::from_secs(2));
    config.flush.retry_min = Duration::from_millis(20);
    config.flush.retry_max = Duration::from_millis(100);
    config.flush.fence_margin = Duration::from_millis(10);
    config.flush.attempt_timeout = Duration::from_millis(200);
    let node = Node::start(config).await.unwrap();
    let store = node.store();
    set(&store, b"before", b"1").await;
    flushed(&store).await;
    origin.set_hook(|_| Fault::DropUnknown);
    let (taken, text) = fill(&store).await;
    assert!(text.contains("changes wait ") && text.contains(" for memory://origin"), "{text}");
    assert!(text.contains("max_lag 2s"), "{text}");
    let stats = store.stats();
    let throttled = count(&stats.writes_throttled, "max_lag");
    assert!((1..=taken).contains(&throttled), "{throttled} of {taken}");
    assert_eq!((count(&stats.writes_rejected, "max_lag"), sum(&stats.writes_rejected)), (1, 1));
    // What does not grow the bucket goes on, and so does what waits for nobody.
    let bucket = store.bucket(b"photos").unwrap();
    let mut submission = Submission::new();
    submission.push(&Mutation::Delete { bucket, key: b"before" });
    assert!(matches!(store.submit(submission).await.unwrap().results[..], [Outcome::Done(_)]));
    store.open_bucket(b"elsewhere").await.unwrap();
    assert!(matches!(store.stage_body(bucket, 1 << 20, BodyOf::Object), Err(Error::Full(_))));
    assert_eq!(count(&store.stats().writes_rejected, "max_lag"), 2);
    origin.clear_hook();
    flushed(&store).await;
    try_set(&store, b"after").await.unwrap();
    flushed(&store).await;
    drop(store);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_counts_the_writes_that_it_refuses() {
    type Change = fn(&mut StorageConfig);
    let limits: [(&str, Change); 3] = [
        ("dirty_limit", |config| config.limits.dirty_bytes = 4_000),
        ("disk", |config| config.limits.disk_reserve_bytes = Some(1 << 62)),
        ("capacity", |config| config.limits.capacity_bytes = 1),
    ];
    for (reason, change) in limits {
        let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
        origin.set_hook(|_| Fault::DropUnknown);
        let mut config = mounted(dir.path(), Some(("s3://old/p", &origin)));
        change(&mut config);
        let node = Node::start(config).await.unwrap();
        let store = node.store();
        let (taken, _) = fill(&store).await;
        let stats = store.stats();
        // Who adds to what waits for an origin is slowed down before; the other limits are too small to be neared.
        let throttled = count(&stats.writes_throttled, reason);
        let slowed = (1..=taken).contains(&throttled);
        assert!(slowed || reason != "dirty_limit", "{throttled} of {taken}");
        assert_eq!((count(&stats.writes_rejected, reason), sum(&stats.writes_rejected)), (1, 1), "{reason}");
        assert!(try_set(&store, b"again").await.is_err());
        assert_eq!(count(&store.stats().writes_rejected, reason), 2);
        drop(store);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_slowed_down_near_capacity_and_near_the_end_of_the_map_and_taken() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let config = || mounted(dir.path(), Some(("s3://old/p", &origin)));
    let node = Node::start(config()).await.unwrap();
    let store = node.store();
    for key in 0..2_000 {
        set(&store, format!("before{key}").as_bytes(), &[7; 1_000]).await;
    }
    flushed(&store).await;
    drop(store);
    node.stop().await;
    type Change = fn(&mut StorageConfig, (u64, u64));
    let limits: [(&str, u64, Change); 3] = [
        ("capacity", 1, |config, (stored, _)| config.limits.capacity_bytes = stored * 100 / 97),
        ("map", 1, |config, (_, used)| config.map_bytes = used * 100 / 85),
        ("map", 0, |config, (_, used)| config.map_bytes = used * 100 / 70),
    ];
    for (reason, slowed, change) in limits {
        let used = used_by(config()).await;
        let mut config = config();
        change(&mut config, used);
        let node = Node::start(config).await.unwrap();
        let store = node.store();
        try_set(&store, b"one more").await.unwrap();
        let stats = store.stats();
        let throttled = (count(&stats.writes_throttled, reason), sum(&stats.writes_throttled));
        let (now, map) = (store.shared().stored_bytes(), store.shared().keyspace.base.usage());
        assert_eq!(throttled, (slowed, slowed), "{reason} {used:?}: {now} stored, map {map:?}");
        assert_eq!(sum(&stats.writes_rejected), 0, "{reason}");
        drop(store);
        node.stop().await;
    }
}

/// What a start finds stored, and used of the map, when starts alone change it no more: pages that one checkpoint leaves
/// are free for the next one.
async fn used_by(config: StorageConfig) -> (u64, u64) {
    let mut before = (0, 0);
    for _ in 0..20 {
        let node = Node::start(config.clone()).await.unwrap();
        let shared = node.store().shared().clone();
        let used = (shared.stored_bytes(), shared.keyspace.base.usage().0);
        drop(shared);
        node.stop().await;
        if used == before {
            return used;
        }
        before = used;
    }
    panic!("it never stays: {before:?}")
}
