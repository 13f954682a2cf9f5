//! Requests that are lost, late, refused or forgotten, and what is done about them.

use super::*;

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_found_by_head_and_not_sent_again() {
    let world = World::started(MemoryOrigin::capable());
    once(&world.origin, Operation::Put, "p/a", Fault::ApplyThenUnknown);
    world.core.put("a", "1");
    world.flush_all().await;
    assert_eq!(world.landings(), ["p/a"]);
    assert_eq!(world.core.inner.lock().starts, 1);
}

#[tokio::test]
async fn a_put_that_is_lost_is_sent_again_after_its_fence() {
    let world = World::started(MemoryOrigin::capable());
    once(&world.origin, Operation::Put, "p/a", Fault::DropUnknown);
    world.core.put("a", "1");
    world
        .until("fenced", |world| {
            world.row("a").is_some_and(|row| matches!(row.state, RowState::Fenced { .. }))
        })
        .await;
    world.core.put("a", "2");
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some("2"));
    assert_eq!(world.landings(), ["p/a"]);
}

#[tokio::test]
async fn a_put_that_lands_late_is_behind_the_fence_of_its_successor() {
    for origin in [MemoryOrigin::capable(), MemoryOrigin::new("memory://bad", Capabilities::default())] {
        let world = World::started(origin);
        once(&world.origin, Operation::Put, "p/a", Fault::LandLate);
        world.core.put("a", "old");
        world.until("late", |world| !world.origin.late_calls().is_empty()).await;
        world.core.put("a", "new");
        let late = world.origin.late_calls()[0];
        assert!(world.origin.land_late(late));
        world.flush_all().await;
        assert_eq!(world.body("a").as_deref(), Some("new"));
        assert_eq!(world.landings(), ["p/a", "p/a"]);
    }
}

#[tokio::test]
async fn a_delete_whose_answer_is_lost_is_repeated_and_the_object_stays_away() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("a", "1");
    world.flush_all().await;
    once(&world.origin, Operation::Delete, "p/a", Fault::ApplyThenUnknown);
    world.core.delete("a");
    world.flush_all().await;
    assert_eq!(world.body("a"), None);
    assert_eq!(world.core.inner.lock().rows.origin(&(BUCKET, Bytes::from("a"))), None);
}

#[tokio::test]
async fn a_foreign_object_is_never_overwritten_and_the_row_is_parked_with_the_reason() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("other", "x");
    world.flush_all().await;
    world.origin.put_foreign("p/a", b"theirs");
    let version = world.core.put("a", "ours");
    world.core.put("b", "1");
    let waited = world.flusher.wait(world.core.last_version(), None, LIMIT).await;
    assert_eq!(waited, Some(Pending { rows: 1, parked: 1 }), "parked rows end a wait");
    assert_eq!(world.body("a").as_deref(), Some("theirs"));
    assert_eq!(world.body("b").as_deref(), Some("1"), "it delays no other");
    let parked = world.flusher.list(true, 10);
    let RowState::Parked { reason } = &parked[0].state else { panic!("{parked:?}") };
    assert!(reason.contains("did not write"), "{reason}");

    let row = RowId { bucket: BUCKET, key: Bytes::from("a"), version };
    world.flusher.retry(row.clone()).await.unwrap();
    let waited = world.flusher.wait(version, None, LIMIT).await;
    assert_eq!(waited, Some(Pending { rows: 1, parked: 1 }), "still theirs");
    world.origin.delete_foreign("p/a");
    world.flusher.retry(row).await.unwrap();
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some("ours"));
}

#[tokio::test]
async fn a_foreign_object_is_not_deleted() {
    for honours in
        [Capabilities::default(), Capabilities { if_match_delete: true, ..Capabilities::default() }]
    {
        let world = World::started(MemoryOrigin::new("memory://o", honours));
        world.core.put("a", "ours");
        world.flush_all().await;
        world.origin.put_foreign("p/a", b"theirs");
        world.core.delete("a");
        let waited = world.flusher.wait(world.core.last_version(), None, LIMIT).await;
        assert_eq!(waited, Some(Pending { rows: 1, parked: 1 }), "{honours:?}");
        assert_eq!(world.body("a").as_deref(), Some("theirs"));
    }
}

#[tokio::test]
async fn after_a_kill_the_key_waits_until_the_old_request_is_dead() {
    let mut world = World::started(MemoryOrigin::new("memory://bad", Capabilities::default()));
    once(&world.origin, Operation::Put, "p/a", Fault::LandLate);
    world.core.put("a", "old");
    world.until("in flight", |world| !world.origin.late_calls().is_empty()).await;
    world.core.put("a", "new");
    world.restart();
    world
        .until("fenced", |world| {
            world.row("a").is_some_and(|row| matches!(row.state, RowState::Fenced { .. }))
        })
        .await;
    let late = world.origin.late_calls()[0];
    assert!(world.origin.land_late(late));
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some("new"));
}

#[tokio::test]
async fn what_landed_but_was_not_recorded_is_found_after_a_restart() {
    let mut world = World::started(MemoryOrigin::capable());
    world.core.refuse_flushed.store(true, Ordering::SeqCst);
    world.core.put("a", "1");
    world.until("landed", |world| world.body("a").is_some()).await;
    world.restart();
    world.core.refuse_flushed.store(false, Ordering::SeqCst);
    world.until("loaded", |world| world.flusher.status().running).await;
    world.flush_all().await;
    assert_eq!(world.landings(), ["p/a"], "not sent twice");
}

#[tokio::test]
async fn without_office_nothing_is_sent() {
    let world = World::started(MemoryOrigin::capable());
    world.core.put("a", "1");
    world.flush_all().await;
    world.core.deposed.store(true, Ordering::SeqCst);
    let calls = world.origin.calls();
    world.core.put("b", "2");
    let waited = world.flusher.wait(world.core.last_version(), None, Duration::from_millis(100)).await;
    assert_eq!(waited, Some(Pending { rows: 1, parked: 0 }));
    assert_eq!(world.origin.calls(), calls);
}

#[tokio::test]
async fn thousands_of_changes_under_faults_end_with_the_origin_equal_to_the_core() {
    for (seed, honours) in [(1, true), (2, false), (3, true)] {
        let origin = match honours {
            true => MemoryOrigin::capable(),
            false => MemoryOrigin::new("memory://bad", Capabilities::default()),
        };
        let mut world = World::started(origin);
        world.until("ready", |world| world.mount_health() == MountHealth::Up).await;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut fate = random.fork();
        world.origin.set_hook(move |call| match (call.operation, fate.u8(..100)) {
            (Operation::List, _) => Fault::Ok,
            (_, 0..4) => Fault::ApplyThenUnknown,
            (_, 4..7) => Fault::DropUnknown,
            (_, 7..9) => Fault::Refuse(OriginError::new(ErrorClass::ServerError, Landing::Unknown, "500")),
            (_, 9..10) => refusal(ErrorClass::Throttled),
            _ => Fault::Ok,
        });
        for n in 0..2_000 {
            let key = format!("k{}", random.u32(..300));
            let live = world.core.inner.lock().newest.get(key.as_bytes()).copied().flatten().is_some();
            match random.u8(..10) {
                0..3 if live => drop(world.core.delete(&key)),
                3 => drop(world.core.change(&key, Some(&n.to_string()), true)),
                _ => drop(world.core.put(&key, &n.to_string())),
            }
            if n % 16 == 0 {
                tokio::task::yield_now().await;
            }
            if n == 1_000 {
                world.restart();
            }
        }
        world.origin.clear_hook();
        world.until("loaded", |world| world.flusher.status().running).await;
        world.flush_all().await;
        let inner = world.core.inner.lock();
        for (key, version) in &inner.newest {
            let wanted = version.map(|version| inner.bodies[&version].clone());
            let held = world.origin.body(&format!("p/{}", String::from_utf8_lossy(key)));
            assert_eq!(held, wanted, "seed {seed}, {key:?}");
        }
    }
}
