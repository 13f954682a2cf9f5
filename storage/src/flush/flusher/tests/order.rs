//! What goes when: the newest version, barriers, intervals, mounts in trouble, a stop.

use super::*;

#[tokio::test]
async fn puts_and_deletes_arrive_with_their_marks() {
    let world = World::started(MemoryOrigin::capable());
    let version = world.core.put("a", "1");
    world.core.put("b", "2");
    world.flush_all().await;
    world.core.delete("b");
    world.flush_all().await;
    assert_eq!((world.body("a").as_deref(), world.body("b")), (Some("1"), None));
    let head = world.origin.head(&crate::origin::OriginKey("p/a".to_owned())).await.unwrap().unwrap();
    let tag = OriginTag { cluster: CLUSTER, version }.to_string();
    assert_eq!(head.user("forebay-version"), Some(tag.as_str()));
    assert_eq!(head.user("forebay-etag"), Some(format!("etag-of-{}", version.0).as_str()));
    assert_eq!(head.user("colour"), Some("blue"));
    assert_eq!(head.headers.content_type.as_deref(), Some("text/plain"));
    assert_eq!(world.core.inner.lock().attached, [(MountId(BUCKET.0), false)]);
    let status = world.flusher.status();
    assert_eq!((status.flushed_objects, status.pending_objects, status.oldest_age_ms), (3, 0, None));
    assert!(status.mounts[0].attached && status.mounts[0].last_success_ms.is_some());
}

#[tokio::test]
async fn superseded_versions_are_not_uploaded() {
    let mut world = World::idle(MemoryOrigin::capable());
    for n in 0..50 {
        world.core.put("hot", &n.to_string());
    }
    world.core.put("gone", "x");
    world.core.delete("gone");
    world.start();
    world.until("loaded", |world| world.flusher.status().running).await;
    world.flush_all().await;
    assert_eq!(world.body("hot").as_deref(), Some("49"));
    assert_eq!(world.landings(), ["p/hot", "-p/gone"]);
}

#[tokio::test]
async fn an_attached_prefix_may_hold_data_after_a_restart() {
    let mut world = World::started(MemoryOrigin::capable());
    world.core.put("a", "1");
    world.flush_all().await;
    world.restart();
    world.core.put("b", "2");
    world.flush_all().await;
    assert_eq!(world.body("b").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_wait_that_begins_before_the_queue_is_there_ends_when_it_holds_nothing() {
    let mut world = World::idle(MemoryOrigin::capable());
    let flusher = world.flusher.clone();
    let mut waiting = std::pin::pin!(flusher.wait(Version(u64::MAX), None, Duration::from_secs(3600)));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    world.start();
    let waited = tokio::time::timeout(LIMIT, waiting).await.expect("nobody told the waiter");
    assert_eq!(waited, Some(Pending::default()));
}

#[tokio::test]
async fn an_origin_that_is_down_at_start_is_waited_for() {
    let origin = MemoryOrigin::capable();
    origin.set_hook(|_| Fault::DropUnknown);
    let world = World::started(origin);
    for n in 0..200 {
        world.core.put(&format!("k{n}"), "x");
    }
    world.until("tried", |world| world.origin.calls() > 3).await;
    assert_eq!(world.flusher.status().pending_objects, 200);
    assert_eq!(world.flusher.status().parked_objects, 0);
    world.origin.clear_hook();
    world.flush_all().await;
    assert_eq!(world.landings().len(), 200);
}

#[tokio::test]
async fn an_outage_stops_the_mount_but_for_trials_and_heals_by_itself() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("first", "x");
    world.flush_all().await;
    world.origin.set_hook(|_| refusal(ErrorClass::Auth));
    for n in 0..300 {
        world.core.put(&format!("k{n}"), "x");
    }
    world.until("down", |world| matches!(world.mount_health(), MountHealth::Down { .. })).await;
    world.until("idle", |world| world.flusher.status().in_flight == 0).await;
    let status = world.flusher.status();
    assert_eq!((status.pending_objects, status.parked_objects), (300, 0));
    assert!(world.origin.calls() < 150, "one outage is not tried row by row: {}", world.origin.calls());
    let auth = status.errors.iter().find(|(class, _)| *class == ErrorClass::Auth).unwrap();
    assert!(auth.1 >= 3);
    assert!(matches!(world.row("k299").unwrap().state, RowState::MountNotReady { .. }));
    world.origin.clear_hook();
    world.flush_all().await;
    assert_eq!(world.mount_health(), MountHealth::Up);
}

#[tokio::test]
async fn an_abandoned_row_leaves_the_origin_as_it_is() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("other", "x");
    world.flush_all().await;
    world.origin.put_foreign("p/a", b"theirs");
    let version = world.core.put("a", "ours");
    world.until("parked", |world| world.flusher.status().parked_objects == 1).await;
    world.flusher.abandon(RowId { bucket: BUCKET, key: Bytes::from("a"), version }).await.unwrap();
    world.flush_all().await;
    assert_eq!(world.flusher.status().parked_objects, 0);
    assert_eq!(world.body("a").as_deref(), Some("theirs"));
}

#[tokio::test]
async fn one_object_that_always_fails_delays_no_other_and_is_parked() {
    let world = World::started(MemoryOrigin::capable());
    world.origin.set_hook(|call| match call.key.as_str() {
        "p/bad" if call.operation == Operation::Put => refusal(ErrorClass::Checksum),
        _ => Fault::Ok,
    });
    world.core.put("bad", "x");
    for n in 0..300 {
        world.core.put(&format!("k{n}"), "x");
    }
    let waited = world.flusher.wait(world.core.last_version(), None, LIMIT).await;
    assert_eq!(waited, Some(Pending { rows: 1, parked: 1 }));
    let RowState::Parked { reason } = world.row("bad").unwrap().state else { panic!() };
    assert!(reason.contains("checksum"), "{reason}");
    assert_eq!(world.landings().len(), 300);
}

#[tokio::test]
async fn a_barrier_waits_for_what_it_names_and_holds_what_would_break_it() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("old-data", "1");
    world.flush_all().await;
    // The data of the new manifest fails for a while.
    let blocked = Arc::new(AtomicBool::new(true));
    let still = blocked.clone();
    world.origin.set_hook(move |call| match call.key.as_str() {
        "p/data" if call.operation == Operation::Put && still.load(Ordering::SeqCst) => {
            refusal(ErrorClass::Network)
        }
        _ => Fault::Ok,
    });
    world.core.put("data", "2");
    world.core.change("manifest", Some("names data"), true);
    world.core.delete("old-data");
    world.core.put("unrelated", "3");
    world.until("new puts pass", |world| world.body("unrelated").is_some()).await;
    assert_eq!(world.body("manifest"), None);
    assert_eq!(world.body("old-data").as_deref(), Some("1"));
    let held = world.row("old-data").unwrap().state;
    assert!(matches!(held, RowState::BehindBarrier { .. }), "{held:?}");
    let barrier = world.row("manifest").unwrap().state;
    assert!(matches!(barrier, RowState::BehindOlderRows { .. }), "{barrier:?}");
    blocked.store(false, Ordering::SeqCst);
    world.flush_all().await;
    let landings = world.landings();
    let at = |key: &str| landings.iter().position(|landed| landed == key).unwrap();
    assert!(at("p/data") < at("p/manifest") && at("p/manifest") < at("-p/old-data"), "{landings:?}");
}

#[tokio::test]
async fn min_interval_gathers_changes_and_a_wait_overrides_it() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.flusher = flusher(&world.core, &world.origin, false, Duration::from_secs(3600));
    world.start();
    world.core.put("hot", "0");
    world.flush_all().await;
    for n in 1..100 {
        world.core.put("hot", &n.to_string());
    }
    world.core.put("other", "x");
    world.until("other is not held", |world| world.body("other").is_some()).await;
    assert_eq!(world.body("hot").as_deref(), Some("0"));
    assert!(matches!(world.row("hot").unwrap().state, RowState::Waits { .. }));
    let keys = [(BUCKET, Bytes::from("hot"))];
    let waited = world.flusher.wait(world.core.last_version(), Some(&keys), LIMIT).await;
    assert_eq!(waited, Some(Pending::default()));
    assert_eq!(world.body("hot").as_deref(), Some("99"));
    assert_eq!(world.landings().iter().filter(|key| *key == "p/hot").count(), 2);
}

#[tokio::test]
async fn a_barrier_overrides_min_interval() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.flusher = flusher(&world.core, &world.origin, false, Duration::from_secs(3600));
    world.start();
    world.core.put("data", "0");
    world.core.change("manifest", Some("0"), true);
    world.flush_all().await;
    world.core.put("data", "1");
    world.core.change("manifest", Some("1"), true);
    world.until("both", |world| world.body("manifest").as_deref() == Some("1")).await;
    assert_eq!(world.body("data").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_stop_lets_attempts_end_and_says_how_many_rows_stay() {
    let mut world = World::started(MemoryOrigin::capable());
    world.core.put("a", "1");
    world.flush_all().await;
    world.origin.set_hook(|_| refusal(ErrorClass::Quota));
    for n in 0..20 {
        world.core.put(&format!("k{n}"), "x");
    }
    assert_eq!(world.stop().await, 20);
    assert!(!world.flusher.status().running);
    let waited = world.flusher.wait(world.core.last_version(), None, Duration::from_millis(10)).await;
    assert_eq!(waited, None, "a node that does not work the queue cannot tell");
}
