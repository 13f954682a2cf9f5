//! What a client sees of eviction and fill, and what never happens.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::Error;
use crate::flush::ChecksumMode;
use crate::mounts::Forgotten;
use crate::mutation::{Existence, Mutation, Outcome, PutIf, Refusal, SetExpiry};
use crate::node::{MountConfig, Node, OriginBackend, OriginConfig, StorageConfig};
use crate::object::BucketId;
use crate::origin::memory::{Fault, MemoryOrigin, Operation};
use crate::origin::{ErrorClass, Landing, Origin, OriginError};
use crate::stage::BodyOf;
use crate::store::Store;
use crate::submission::Submission;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const CAPACITY: u64 = 64 << 20;

pub(crate) fn config(dir: &Path, origin: &Arc<MemoryOrigin>, capacity: u64) -> StorageConfig {
    let mut config = StorageConfig {
        map_bytes: 1 << 30,
        journal_file_bytes: 16 << 20,
        memtable_age: Duration::from_millis(200),
        ..StorageConfig::new(dir)
    };
    config.limits.capacity_bytes = capacity;
    config.limits.dirty_bytes = capacity;
    config.limits.disk_reserve_bytes = Some(0);
    config.flush.retry_min = Duration::from_millis(20);
    config.flush.retry_max = Duration::from_millis(100);
    config.flush.fence_margin = Duration::from_millis(10);
    config.mounts = vec![mount("data", b"", origin)];
    config
}

pub(crate) fn mount(bucket: &str, prefix: &[u8], origin: &Arc<MemoryOrigin>) -> MountConfig {
    MountConfig {
        bucket: bucket.to_owned(),
        prefix: prefix.to_vec(),
        origin: Some(OriginConfig {
            url: origin.name().to_owned(),
            prefix: String::new(),
            backend: OriginBackend::Custom(origin.clone()),
        }),
        flushall: false,
        min_interval: Duration::ZERO,
        fifo: false,
        checksums: ChecksumMode::Auto,
        mode: Default::default(),
        revalidate: None,
        write_through_timeout: crate::node::WRITE_THROUGH_TIMEOUT,
        max_lag: None,
    }
}

/// Bytes that differ from place to place and from object to object.
pub(crate) fn body(number: usize, len: usize) -> Bytes {
    (0..len).map(|at| (number * 131 + at * 7 + at / 251) as u8).collect()
}

pub(crate) async fn put(store: &Store, bucket: BucketId, key: &str, body: &Bytes) -> Result<Outcome, Error> {
    let mut submission = Submission::new();
    let mut staged = None;
    if body.len() as u64 > store.inline_bytes_max() {
        let mut writer = store.stage_body(bucket, body.len() as u64, BodyOf::Object)?;
        let mut rest = body.clone();
        while !rest.is_empty() {
            writer.write(rest.split_to(rest.len().min(500_000))).await?;
        }
        staged = Some(writer.finish().await?);
    }
    let value = staged.as_ref().map_or((&body[..]).into(), |staged| staged.payload());
    let (key, md5, condition) = (key.as_bytes(), None, PutIf::default());
    submission.push(&Mutation::PutObject { bucket, key, value, meta: &[], md5, condition });
    if let Some(staged) = staged {
        submission.carry(staged);
    }
    Ok(store.submit(submission).await?.results.remove(0))
}

/// Writes again while there is no room.
pub(crate) async fn put_patiently(store: &Store, bucket: BucketId, key: &str, body: &Bytes) {
    let until = Instant::now() + LIMIT;
    loop {
        match put(store, bucket, key, body).await {
            Ok(outcome) => return assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}"),
            Err(Error::Full(text)) => assert!(Instant::now() < until, "no room came: {text}"),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn get(store: &Store, bucket: BucketId, key: &str) -> Result<Option<Bytes>, Error> {
    let view = store.view()?;
    let Some(row) = view.fetch(bucket, key.as_bytes()).await? else { return Ok(None) };
    let reader = view.open_body(&row).await?;
    drop(view);
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < reader.len() {
        let at = bytes.len() as u64;
        bytes.extend_from_slice(&reader.read(at..at + (1 << 20)).await?);
    }
    Ok(Some(Bytes::from(bytes)))
}

pub(crate) async fn flushed(store: &Store) {
    assert_eq!(store.flush_wait(None, Some(LIMIT)).await.unwrap(), (0, 0));
}

pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < limit, "{what} never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn down(origin: &MemoryOrigin) {
    origin.set_hook(|_| {
        Fault::Refuse(OriginError::new(ErrorClass::Network, Landing::NotApplied, "the line is cut"))
    });
}

/// Objects until the first ones are given up: number and length of them.
pub(crate) async fn fill_up(store: &Store, bucket: BucketId) -> (usize, usize) {
    let len = 2 << 20;
    let count = 2 * CAPACITY as usize / len;
    for number in 0..count {
        put_patiently(store, bucket, &format!("k{number}"), &body(number, len)).await;
    }
    flushed(store).await;
    until("room", || store.stats().evicted_capacity_bytes > CAPACITY / 2).await;
    (count, len)
}

#[tokio::test(flavor = "multi_thread")]
async fn twice_the_capacity_is_written_and_read_back_also_after_a_restart() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    let (count, len) = fill_up(&store, bucket).await;
    for number in 0..count {
        let found = get(&store, bucket, &format!("k{number}")).await.unwrap().unwrap();
        assert!(found == body(number, len), "k{number}");
    }
    let stats = store.stats();
    assert!(stats.fills_total > 0 && stats.body_misses > 0 && stats.fills_kept_total > 0, "{stats:?}");
    assert!(stats.segment_bytes + stats.lmdb_used_bytes <= CAPACITY, "{stats:?}");
    drop(store);
    node.stop().await;

    let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
    let store = node.store();
    for number in 0..count {
        let found = get(&store, bucket, &format!("k{number}")).await.unwrap().unwrap();
        assert!(found == body(number, len), "k{number} after a restart");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_origin_down_nothing_dirty_goes_and_what_is_away_is_an_error() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    let (count, len) = fill_up(&store, bucket).await;
    down(&origin);
    let mut dirty = 0;
    let refused = loop {
        match put(&store, bucket, &format!("d{dirty}"), &body(1000 + dirty, len)).await {
            Ok(_) => dirty += 1,
            Err(Error::Full(text)) => break text,
            Err(error) => panic!("{error}"),
        }
        assert!(dirty < 100, "more was taken than there is room for");
    };
    assert!(refused.contains("forebay: ") && refused.contains("64.0 MiB"), "{refused}");
    assert!(dirty > 16, "clean bytes make room for {dirty} dirty objects");
    let mut away = 0;
    for number in 0..count {
        match get(&store, bucket, &format!("k{number}")).await {
            Ok(Some(found)) => assert!(found == body(number, len)),
            Err(Error::Unavailable(_)) => away += 1,
            other => panic!("k{number}: {other:?}"),
        }
    }
    assert!(away > 0, "everything was here");
    drop(store);
    node.stop().await;

    let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
    let store = node.store();
    for number in 0..dirty {
        let found = get(&store, bucket, &format!("d{number}")).await.unwrap().unwrap();
        assert!(found == body(1000 + number, len), "d{number} was dirty and is gone");
    }
    origin.clear_hook();
    put_patiently(&store, bucket, "after", &body(7, len)).await;
    flushed(&store).await;
    for number in 0..count {
        assert!(get(&store, bucket, &format!("k{number}")).await.unwrap().unwrap() == body(number, len));
    }
    node.stop().await;
}

/// Objects of which at least one is not here.
pub(crate) async fn away(store: &Store, bucket: BucketId, count: usize) -> usize {
    let shared = store.shared();
    for number in 0..count {
        let view = store.view().unwrap();
        let row = view.fetch(bucket, format!("k{number}").as_bytes()).await.unwrap().unwrap();
        let (_, raw) = view.parts();
        let here = row.parts().all(|part| {
            let found = crate::body::find_blob(&raw, &shared.segments, part.blob().unwrap(), true);
            !matches!(found, Ok(Some(crate::body::Found::Elsewhere)))
        });
        if !here {
            return number;
        }
    }
    panic!("everything is here");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_given_up_lies_in_blocks() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let node = Node::start(config(dir.path(), &origin, 1 << 30)).await.unwrap();
    let store = node.store();
    let (data, plain) = (store.bucket(b"data").unwrap(), store.open_bucket(b"plain").await.unwrap());
    let long = body(1, 10 << 20);
    let pieces = |bucket, key: &'static [u8]| {
        let store = store.clone();
        async move {
            let row = store.view().unwrap().fetch(bucket, key).await.unwrap().unwrap();
            row.parts().map(|part| part.len() >> 20).collect::<Vec<_>>()
        }
    };
    put(&store, data, "a", &long).await.unwrap();
    assert_eq!(pieces(data, b"a").await, [4, 4, 2]);
    put(&store, plain, "a", &long).await.unwrap();
    assert_eq!(pieces(plain, b"a").await, [10]);
    // An object of many long parts would have too many.
    let part = |len: u64| store.stage_body(data, len, BodyOf::Part).unwrap().piece_bytes() >> 20;
    assert_eq!([24, 25, 40, 48, 49].map(|mib| part(mib << 20)), [4, 8, 8, 8, 12]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_cold_readers_of_a_block_make_one_get() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    let (count, len) = fill_up(&store, bucket).await;
    let number = away(&store, bucket, count).await;
    let gets = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counting = gets.clone();
    origin.set_hook(move |call| {
        counting.fetch_add(u64::from(call.operation == Operation::Get), Relaxed);
        Fault::Ok
    });
    let readers = (0..100).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let view = store.view().unwrap();
            let row = view.fetch(bucket, format!("k{number}").as_bytes()).await.unwrap().unwrap();
            view.open_body(&row).await.unwrap().read(1000..301_000).await.unwrap()
        })
    });
    let readers: Vec<_> = readers.collect();
    for reader in readers {
        assert!(reader.await.unwrap() == body(number, len)[1000..301_000]);
    }
    assert_eq!(gets.load(Relaxed), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changed_in_the_origin_is_an_error_and_never_other_bytes() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    let (count, _) = fill_up(&store, bucket).await;
    let number = away(&store, bucket, count).await;
    let key = format!("k{number}");
    origin.put_foreign(&key, b"somebody else's");
    let changed = get(&store, bucket, &key).await;
    assert!(matches!(&changed, Err(Error::ChangedInOrigin(_))), "{changed:?}");
    origin.delete_foreign(&key);
    let removed = get(&store, bucket, &key).await;
    assert!(matches!(&removed, Err(Error::ChangedInOrigin(_))), "{removed:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_away_is_brought_back_before_it_is_built_on() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    let (count, len) = fill_up(&store, bucket).await;
    let number = away(&store, bucket, count).await;
    let key = format!("k{number}");
    // Without the hold apply refuses it.
    let append = Mutation::Append { bucket, key: key.as_bytes(), value: b"tail".into() };
    let mut bare = Submission::new();
    bare.push(&append);
    let outcome = store.shared().submit(bare).await.unwrap().results.remove(0);
    assert_eq!(outcome, Outcome::Refused(Refusal::NotHeld));
    let mut submission = Submission::new();
    let copy = Mutation::Copy {
        from_bucket: bucket,
        from: key.as_bytes(),
        to_bucket: bucket,
        to: b"copy",
        replace: true,
    };
    submission.push(&copy);
    submission.push(&append);
    let outcomes = store.submit(submission).await.unwrap().results;
    assert!(matches!(outcomes[..], [Outcome::Done(_), Outcome::Length(_)]), "{outcomes:?}");
    down(&origin);
    assert!(get(&store, bucket, "copy").await.unwrap().unwrap() == body(number, len));
    let appended = get(&store, bucket, &key).await.unwrap().unwrap();
    assert!(appended[..len] == body(number, len) && &appended[len..] == b"tail");
    origin.clear_hook();
    flushed(&store).await;
    assert!(origin.body("copy").unwrap() == body(number, len));
    assert!(origin.body(&key).unwrap() == appended);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_is_forgotten_only_with_its_bytes_here() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    let (count, len) = fill_up(&store, bucket).await;
    down(&origin);
    let refused = store.forget_mount("data", b"", false).await;
    // Whichever is found first: no origin, or no room.
    assert!(matches!(refused, Err(Error::Unavailable(_) | Error::Full(_))), "{refused:?}");
    origin.clear_hook();
    // They do not fit all together.
    let refused = store.forget_mount("data", b"", false).await;
    assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    for number in count / 3..count {
        let mut submission = Submission::new();
        submission.push(&Mutation::Delete { bucket, key: format!("k{number}").as_bytes() });
        store.submit(submission).await.unwrap();
    }
    flushed(&store).await;
    let limit = Instant::now() + LIMIT;
    loop {
        match store.forget_mount("data", b"", false).await {
            Ok(forgotten) => break assert_eq!(forgotten, Forgotten::Done { abandoned: 0 }),
            Err(Error::Full(text)) => assert!(Instant::now() < limit, "{text}"),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    down(&origin);
    for number in 0..count / 3 {
        assert!(get(&store, bucket, &format!("k{number}")).await.unwrap().unwrap() == body(number, len));
    }
    node.stop().await;
}

/// Twenty-nine objects of 2 MiB: all of them fit, and more than eviction leaves here.
async fn nearly_full(store: &Store, bucket: BucketId) -> (usize, usize) {
    let (count, len) = (29, 2 << 20);
    for number in 0..count {
        put_patiently(store, bucket, &format!("k{number}"), &body(number, len)).await;
    }
    flushed(store).await;
    until("room", || store.stats().evicted_capacity_bytes > 0).await;
    (count, len)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgetting_that_fails_or_is_dropped_ends_itself_and_no_other() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    let (count, len) = nearly_full(&store, bucket).await;
    let evictor = &store.shared().evictor;

    let dropped = tokio::time::timeout(Duration::ZERO, evictor.leave(1)).await;
    drop(dropped);
    assert!(!evictor.is_leaving(1), "dropped");
    let first = evictor.leave(1).await.unwrap();
    let mut second = std::pin::pin!(evictor.leave(1));
    assert!(futures_util::poll!(second.as_mut()).is_pending(), "two at a time");
    drop(first);
    let second = second.await.unwrap();
    assert!(evictor.is_leaving(1), "the first has ended the second");
    drop(second);
    assert!(!evictor.is_leaving(1));

    // Every read fails until the first of two has failed.
    let refused = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let failing = refused.clone();
    origin.set_hook(move |call| match call.operation == Operation::Get && !failing.load(Relaxed) {
        true => Fault::Refuse(OriginError::new(ErrorClass::Network, Landing::NotApplied, "the line is cut")),
        false => Fault::Ok,
    });
    let forget = |store: Store, refused: Arc<std::sync::atomic::AtomicBool>| async move {
        let forgotten = store.forget_mount("data", b"", false).await;
        refused.fetch_or(forgotten.is_err(), Relaxed);
        forgotten
    };
    let both = tokio::join!(forget(store.clone(), refused.clone()), forget(store.clone(), refused.clone()));
    let forgotten = [both.0, both.1];
    assert!(forgotten.iter().any(|it| matches!(it, Err(Error::Unavailable(_)))), "{forgotten:?}");
    assert!(forgotten.iter().any(|it| matches!(it, Ok(Forgotten::Done { abandoned: 0 }))), "{forgotten:?}");
    down(&origin);
    for number in 0..count {
        assert!(get(&store, bucket, &format!("k{number}")).await.unwrap().unwrap() == body(number, len));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_values_are_given_up_and_come_back_too() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let node = Node::start(config(dir.path(), &origin, CAPACITY)).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    let (count, len) = (2000, 50_000);
    for from in (0..count).step_by(50) {
        let until = Instant::now() + LIMIT;
        loop {
            let bodies: Vec<Bytes> = (from..from + 50).map(|number| body(number, len)).collect();
            let keys: Vec<String> = (from..from + 50).map(|number| format!("s{number}")).collect();
            let mut submission = Submission::new();
            for (key, value) in keys.iter().zip(&bodies) {
                let (key, value, expiry) = (key.as_bytes(), (&value[..]).into(), SetExpiry::Clear);
                let existence = Existence::Any;
                submission.push(&Mutation::SetString { bucket, key, value, expiry, existence });
            }
            match store.submit(submission).await {
                Ok(_) => break,
                Err(Error::Full(text)) => assert!(Instant::now() < until, "no room came: {text}"),
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    flushed(&store).await;
    until("room", || store.stats().evicted_capacity_bytes > 16 << 20).await;
    for number in 0..count {
        let view = store.view().unwrap();
        let row = view.fetch(bucket, format!("s{number}").as_bytes()).await.unwrap().unwrap();
        let found = view.read_body(&row, 0..row.body_len()).await.unwrap();
        assert!(found == body(number, len), "s{number}");
    }
    assert!(store.stats().fills_total > 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_stays_readable_however_much_goes_through_beside_it() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let other = Arc::new(MemoryOrigin::capable());
    let mut config = config(dir.path(), &origin, CAPACITY);
    config.mounts.push(mount("ours", b"", &other));
    config.kept_buckets = vec!["ours".to_owned()];
    let node = Node::start(config.clone()).await.unwrap();
    let store = node.store();
    let (bucket, ours) = (store.bucket(b"data").unwrap(), store.bucket(b"ours").unwrap());
    let (kept, len) = (8, 2 << 20);
    for number in 0..kept {
        put_patiently(&store, ours, &format!("o{number}"), &body(number, len)).await;
    }
    flushed(&store).await;
    for round in 1..=3u64 {
        for number in 0..CAPACITY as usize / len {
            put_patiently(&store, bucket, &format!("k{number}"), &body(number, len)).await;
        }
        flushed(&store).await;
        until("room", || store.stats().evicted_capacity_bytes > (round - 1) * CAPACITY / 2).await;
    }
    down(&origin);
    down(&other);
    for number in 0..kept {
        assert!(get(&store, ours, &format!("o{number}")).await.unwrap().unwrap() == body(number, len));
    }
    assert!(store.stats().evicted_capacity_bytes > CAPACITY, "{:?}", store.stats());
    drop(store);
    node.stop().await;

    // As one of the others from here on; and kept again, what has come back stays.
    origin.clear_hook();
    other.clear_hook();
    let as_cache = StorageConfig { kept_buckets: Vec::new(), ..config.clone() };
    let node = Node::start(as_cache).await.unwrap();
    let store = node.store();
    let misses = || store.stats().body_misses;
    for number in 0..2 * CAPACITY as usize / len {
        put_patiently(&store, bucket, &format!("n{number}"), &body(number, len)).await;
    }
    flushed(&store).await;
    for number in 0..kept {
        assert!(get(&store, ours, &format!("o{number}")).await.unwrap().unwrap() == body(number, len));
    }
    assert!(misses() > 0, "all of it was still here");
    drop(store);
    node.stop().await;

    let node = Node::start(config).await.unwrap();
    let store = node.store();
    for number in 0..kept {
        let _ = get(&store, ours, &format!("o{number}")).await.unwrap();
    }
    let all_here = || async {
        store.shared().fills.blocks.forget();
        let before = store.stats().body_misses;
        for number in 0..kept {
            let found = get(&store, ours, &format!("o{number}")).await.unwrap();
            assert!(found.unwrap() == body(number, len));
        }
        store.stats().body_misses == before
    };
    let limit = Instant::now() + LIMIT;
    while !all_here().await {
        assert!(Instant::now() < limit, "what is kept never came back");
    }
    for number in 0..2 * CAPACITY as usize / len {
        put_patiently(&store, bucket, &format!("m{number}"), &body(number, len)).await;
    }
    flushed(&store).await;
    down(&other);
    assert!(all_here().await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_full_of_what_is_kept_says_so() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let mut config = config(dir.path(), &origin, CAPACITY);
    config.kept_buckets = vec!["data".to_owned()];
    let node = Node::start(config).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    let refused = async {
        for number in 0..CAPACITY as usize >> 20 {
            if let Err(error) = put(&store, bucket, &format!("k{number}"), &body(number, 2 << 20)).await {
                return error;
            }
            flushed(&store).await;
        }
        panic!("more was taken than there is room for");
    };
    let Error::Full(said) = refused.await else { panic!("not for lack of room") };
    assert!(said.contains("MiB in buckets that are kept"), "{said}");
    assert_eq!(store.stats().evicted_capacity_bytes, 0);
    node.stop().await;
}
