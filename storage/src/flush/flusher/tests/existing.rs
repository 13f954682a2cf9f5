//! The worker over an origin that held data before: what wins over it, what is a conflict, what only waits.

use super::*;

/// A core whose clients know nothing of the origin.
fn unknowing(origin: MemoryOrigin) -> World {
    let world = World::idle(origin);
    world.core.inner.lock().rows = ModelRows::new(true);
    world
}

fn without_conditions() -> MemoryOrigin {
    MemoryOrigin::new("memory://origin", Capabilities::default())
}

impl World {
    /// What the origin is asked from now on, probes left out.
    fn watch(&self) -> Arc<Mutex<Vec<(Operation, String)>>> {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = calls.clone();
        self.origin.set_hook(move |call| {
            if !call.key.contains(".forebay") {
                seen.lock().push((call.operation, call.key.clone()));
            }
            Fault::Ok
        });
        calls
    }

    async fn etag(&self, key: &str) -> String {
        let head = self.origin.head(&crate::origin::OriginKey(format!("p/{key}"))).await;
        head.unwrap().unwrap().etag.0
    }

    fn adopt(&self, key: &'static str, etag: String) {
        let mut inner = self.core.inner.lock();
        inner.version += 1;
        let version = Version(inner.version);
        inner.rows.adopt((BUCKET, Bytes::from(key)), OriginRow { version, etag });
    }

    async fn parked_reason(&self, key: &str) -> String {
        self.until("parked", |world| {
            matches!(world.row(key).map(|row| row.state), Some(RowState::Parked { .. }))
        })
        .await;
        match self.row(key).unwrap().state {
            RowState::Parked { reason } => reason,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_prefix_that_holds_data_is_attached_as_such_and_unconditional_changes_win() {
    for origin in [MemoryOrigin::capable(), without_conditions()] {
        for key in ["p/put", "p/long", "p/deleted", "p/stays"] {
            origin.put_foreign(key, b"theirs");
        }
        let mut world = unknowing(origin);
        let calls = world.watch();
        let body = long('1', 4);
        world.core.put("put", "ours");
        world.core.put("long", &body);
        world.core.put("new", "ours");
        world.core.delete("deleted");
        world.core.delete("never-was");
        world.start();
        world.until("loaded", |world| world.flusher.status().running).await;
        world.flush_all().await;
        assert_eq!(world.core.inner.lock().attached, [(MountId(BUCKET.0), true)]);
        assert_eq!(
            (world.body("put").as_deref(), world.body("new").as_deref()),
            (Some("ours"), Some("ours"))
        );
        assert_eq!((world.body("long"), world.body("deleted")), (Some(body), None));
        assert_eq!(world.body("stays").as_deref(), Some("theirs"));
        let calls = calls.lock();
        let asked = |operation, key: &str| calls.contains(&(operation, key.to_owned()));
        assert!(asked(Operation::Head, "p/never-was") && !asked(Operation::Delete, "p/never-was"));
        assert!(!calls.iter().any(|(_, key)| key == "p/stays"));
    }
}

#[tokio::test]
async fn what_comes_between_the_look_and_the_request_is_looked_at_again() {
    let origin = MemoryOrigin::capable();
    origin.put_foreign("p/a", b"theirs");
    origin.put_foreign("p/b", b"theirs");
    let mut world = unknowing(origin);
    let heads = Arc::new(Mutex::new(0));
    let (counted, mut refused) = (heads.clone(), [false; 2]);
    world.origin.set_hook(move |call| match (call.operation, call.key.as_str()) {
        (Operation::Head, "p/a" | "p/b") => {
            *counted.lock() += 1;
            Fault::Ok
        }
        (Operation::Put, "p/a") if !std::mem::replace(&mut refused[0], true) => refusal(ErrorClass::Conflict),
        (Operation::Delete, "p/b") if !std::mem::replace(&mut refused[1], true) => {
            refusal(ErrorClass::Conflict)
        }
        _ => Fault::Ok,
    });
    world.core.put("a", "ours");
    world.core.delete("b");
    world.start();
    world.until("loaded", |world| world.flusher.status().running).await;
    world.flush_all().await;
    assert_eq!((world.body("a").as_deref(), world.body("b")), (Some("ours"), None));
    assert_eq!(*heads.lock(), 6, "before the first try, after its failure, before the second");
}

#[tokio::test]
async fn a_blind_put_whose_answer_is_lost_is_found_by_its_mark() {
    let origin = MemoryOrigin::capable();
    origin.put_foreign("p/a", b"theirs");
    let mut world = unknowing(origin);
    once(&world.origin, Operation::Put, "p/a", Fault::ApplyThenUnknown);
    world.core.put("a", "ours");
    world.start();
    world.until("loaded", |world| world.flusher.status().running).await;
    world.flush_all().await;
    assert_eq!((world.body("a").as_deref(), world.landings().len()), (Some("ours"), 1));
}

#[tokio::test]
async fn what_was_adopted_is_overwritten_only_while_it_is_what_was_adopted() {
    // Where the origin cannot judge, it is looked at first.
    for origin in [MemoryOrigin::capable(), without_conditions()] {
        for key in ["p/same", "p/changed", "p/same-deleted", "p/changed-deleted"] {
            origin.put_foreign(key, b"theirs");
        }
        let mut world = unknowing(origin);
        let etag = world.etag("same").await;
        for key in ["same", "changed", "same-deleted", "changed-deleted"] {
            world.adopt(key, etag.clone());
        }
        world.origin.put_foreign("p/changed", b"theirs, and newer");
        world.origin.put_foreign("p/changed-deleted", b"theirs, and newer");
        world.core.put("same", "ours");
        world.core.put("changed", "ours");
        world.core.delete("same-deleted");
        world.core.delete("changed-deleted");
        world.start();
        world.until("loaded", |world| world.flusher.status().running).await;
        for key in ["changed", "changed-deleted"] {
            let reason = world.parked_reason(key).await;
            assert!(reason.contains("did not write"), "{reason}");
            assert_eq!(world.body(key).as_deref(), Some("theirs, and newer"));
        }
        let waited = world.flusher.wait(world.core.last_version(), None, LIMIT).await;
        assert_eq!(waited, Some(Pending { rows: 2, parked: 2 }));
        assert_eq!((world.body("same").as_deref(), world.body("same-deleted")), (Some("ours"), None));
    }
}

#[tokio::test]
async fn a_conditional_write_over_what_was_not_there_when_it_was_judged_is_a_conflict() {
    for origin in [MemoryOrigin::capable(), without_conditions()] {
        origin.put_foreign("p/a", b"theirs");
        let mut world = unknowing(origin);
        world.core.change("a", Some("ours"), true);
        world.start();
        let reason = world.parked_reason("a").await;
        assert!(reason.contains("did not write"), "{reason}");
        assert_eq!(world.body("a").as_deref(), Some("theirs"));
    }
}

#[tokio::test]
async fn a_read_only_mount_is_listed_once_and_its_rows_wait() {
    let origin = MemoryOrigin::capable();
    origin.put_foreign("p/theirs", b"x");
    let mut world = unknowing(origin);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    world.origin.set_hook(move |call| {
        seen.lock().push(call.operation);
        Fault::Ok
    });
    world.core.put("a", "1");
    world.flusher = flusher_with(&world.core, &world.origin, |mount| mount.read_only = true);
    world.start();
    world.until("up", |world| world.mount_health() == MountHealth::Up).await;
    let waited = world.flusher.wait(world.core.last_version(), None, Duration::from_millis(30)).await;
    assert_eq!(waited, Some(Pending { rows: 1, parked: 0 }));
    let RowState::MountNotReady { reason } = world.row("a").unwrap().state else { panic!("it went") };
    assert!(reason.contains("read-only"), "{reason}");
    assert_eq!(*calls.lock(), [Operation::List]);
    assert_eq!(world.core.inner.lock().attached, [(MountId(BUCKET.0), true)]);
    assert_eq!(world.origin.keys(), ["p/theirs"]);
    // Written again, they go.
    world.stop().await;
    world.flusher = flusher_with(&world.core, &world.origin, |mount| mount.existing = true);
    world.start();
    world.until("loaded", |world| world.flusher.status().running).await;
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_wait_for_single_keys_ends_with_them_and_says_why_when_it_does_not() {
    let mut world = World::idle(MemoryOrigin::capable());
    let long = Duration::from_secs(3600);
    world.flusher = flusher(&world.core, &world.origin, true, long);
    world.start();
    world.until("loaded", |world| world.flusher.status().running).await;
    let (a, b) = ((BUCKET, Bytes::from("a")), (BUCKET, Bytes::from("b")));
    let arrived = async |keys: &[(BucketId, Bytes)], limit| {
        world.flusher.arriving(world.core.last_version(), keys.to_vec()).wait(keys, limit).await
    };
    world.core.put("a", "1");
    assert_eq!(arrived(std::slice::from_ref(&a), LIMIT).await, Ok(()));
    // The second does not wait for `min_interval`, nor for other keys.
    once(&world.origin, Operation::Put, "p/b", Fault::DropUnknown);
    world.core.put("b", "1");
    world.core.put("a", "2");
    assert_eq!(arrived(std::slice::from_ref(&a), LIMIT).await, Ok(()));
    assert_eq!(world.body("a").as_deref(), Some("2"));
    // What was changed by nobody has arrived.
    assert_eq!(arrived(&[(BUCKET, Bytes::from("none"))], LIMIT).await, Ok(()));
    // A foreign object: set aside, and told at once.
    world.origin.put_foreign("p/a", b"theirs");
    world.core.put("a", "3");
    let error = arrived(&[a.clone(), b.clone()], LIMIT).await.unwrap_err();
    assert!(error.contains("set aside") && error.contains("did not write"), "{error}");
    world.origin.set_hook(|_| refusal(ErrorClass::Auth));
    world.core.put("b", "2");
    let error = arrived(std::slice::from_ref(&b), Duration::from_millis(50)).await.unwrap_err();
    assert!(error.contains("waited 50ms"), "{error}");
    assert!(world.row("b").is_some(), "it stays queued");
    world.origin.clear_hook();
    assert_eq!(arrived(std::slice::from_ref(&b), LIMIT).await, Ok(()));
    // A worker that stops leaves nobody waiting beyond the time.
    world.core.put("b", "3");
    let flusher = world.flusher.clone();
    let waiting = tokio::spawn({
        let (version, keys) = (world.core.last_version(), [b.clone()]);
        world.origin.set_hook(|_| Fault::DropUnknown);
        async move { flusher.arriving(version, keys.to_vec()).wait(&keys, Duration::from_millis(100)).await }
    });
    assert!(waiting.await.unwrap().is_err());
}
