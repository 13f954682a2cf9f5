//! Long bodies: sent in parts, resumed, completed.

use super::*;

#[tokio::test]
async fn a_long_body_goes_in_parts_and_becomes_one_object_with_its_marks() {
    let world = World::started(MemoryOrigin::capable());
    let body = long('1', 9);
    let version = world.core.put("a", &body);
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some(&body[..]));
    let put = world.origin.recorded().pop().unwrap().put.unwrap();
    let mark = OriginTag { cluster: CLUSTER, version }.to_string();
    assert!(put.contains(&("forebay-version".to_owned(), mark)), "{put:?}");
    assert!(put.contains(&("forebay-etag".to_owned(), format!("etag-of-{}", version.0))), "{put:?}");
    assert_eq!((world.origin.uploads().len(), world.core.transfers_len()), (0, 0));
    assert_eq!(world.core.inner.lock().starts, 1, "only the completion is fenced");
}

#[tokio::test]
async fn a_part_that_fails_is_sent_again_whatever_the_error_and_no_other() {
    let faults = [
        Fault::DropUnknown,
        Fault::ApplyThenUnknown,
        refusal(ErrorClass::ServerError),
        refusal(ErrorClass::Throttled),
        refusal(ErrorClass::Checksum),
        // These end the attempt; the next one goes on where it stood.
        refusal(ErrorClass::Auth),
        refusal(ErrorClass::Quota),
        refusal(ErrorClass::MissingBucket),
        refusal(ErrorClass::ClockSkew),
        refusal(ErrorClass::Other),
    ];
    for fault in faults {
        let mut world = World::idle(MemoryOrigin::capable());
        let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (counted, mut left) = (sent.clone(), Some(fault.clone()));
        world.origin.set_hook(move |call| match call.operation {
            Operation::PutPart if counted.fetch_add(1, Ordering::SeqCst) == 3 => {
                left.take().unwrap_or(Fault::Ok)
            }
            _ => Fault::Ok,
        });
        let body = long('1', 12);
        world.core.put("a", &body);
        world.flusher = fast_flusher(&world.core, &world.origin);
        world.start();
        world.flush_all().await;
        assert_eq!(world.body("a").as_deref(), Some(&body[..]), "{fault:?}");
        // The one that failed, and those whose answers were dropped with its attempt.
        let again = sent.load(Ordering::SeqCst) - 12;
        assert!((1..=4).contains(&again), "{fault:?}: {again} parts sent again");
        assert_eq!(world.core.transfers_len(), 0);
    }
}

#[tokio::test]
async fn a_restart_sends_only_the_parts_that_the_origin_lacks() {
    let mut world = World::idle(MemoryOrigin::capable());
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    // After ten parts the origin falls silent.
    world.origin.set_hook(move |call| match call.operation {
        Operation::PutPart if counted.fetch_add(1, Ordering::SeqCst) >= 10 => Fault::DropUnknown,
        _ => Fault::Ok,
    });
    let body = long('1', 30);
    let version = world.core.put("a", &body);
    world.start();
    let recorded =
        |world: &World| world.core.inner.lock().rows.transfer_of(version).map_or(0, |t| t.parts.len());
    world.until("ten parts are recorded", |world| recorded(world) == 10).await;
    let counted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let again = counted.clone();
    world.origin.set_hook(move |call| {
        again.fetch_add(usize::from(call.operation == Operation::PutPart), Ordering::SeqCst);
        Fault::Ok
    });
    world.restart();
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some(&body[..]));
    assert_eq!(counted.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn a_crash_between_the_parts_and_the_completion_waits_for_its_fence_and_asks() {
    for fault in [Fault::ApplyThenUnknown, Fault::DropUnknown, Fault::LandLate] {
        let mut world = World::idle(MemoryOrigin::capable());
        once(&world.origin, Operation::CompleteUpload, "p/a", fault.clone());
        let body = long('1', 5);
        world.core.put("a", &body);
        world.start();
        world
            .until("it is fenced", |world| {
                matches!(world.row("a").map(|row| row.state), Some(RowState::Fenced { .. }))
            })
            .await;
        world.restart();
        world.flush_all().await;
        assert_eq!(world.body("a").as_deref(), Some(&body[..]), "{fault:?}");
        // What lands late finds its upload used up, or its condition broken.
        for call in world.origin.late_calls() {
            world.origin.land_late(call);
        }
        assert_eq!(world.landings(), ["p/a"], "{fault:?}");
    }
}

#[tokio::test]
async fn an_upload_that_the_origin_has_lost_is_begun_anew() {
    let mut world = World::idle(MemoryOrigin::capable());
    let mut parts = 0;
    let gone = OriginError::new(ErrorClass::Other, Landing::NotApplied, "gone");
    let gone = OriginError { code: Some(crate::origin::NO_SUCH_UPLOAD.to_owned()), ..gone };
    world.origin.set_hook(move |call| {
        parts += usize::from(call.operation == Operation::PutPart);
        match call.operation == Operation::PutPart && parts == 4 {
            true => Fault::Refuse(gone.clone()),
            false => Fault::Ok,
        }
    });
    let body = long('1', 6);
    world.core.put("a", &body);
    world.flusher = fast_flusher(&world.core, &world.origin);
    world.start();
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some(&body[..]));
}

/// Large and small bodies, faults of every kind, and restarts, by seed: in the end the origin holds what the
/// core holds, and never went back on the way.
#[tokio::test]
async fn long_bodies_under_faults_and_restarts_end_with_the_origin_equal_to_the_core() {
    for seed in 1..=20_u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::idle(MemoryOrigin::capable());
        let mut dice = fastrand::Rng::with_seed(seed * 31);
        world.origin.set_hook(move |_| match dice.u8(0..40) {
            0 => Fault::DropUnknown,
            1 => Fault::ApplyThenUnknown,
            2 => Fault::LandLate,
            3 => refusal(ErrorClass::ServerError),
            _ => Fault::Ok,
        });
        world.flusher = fast_flusher(&world.core, &world.origin);
        world.start();
        let mut expected: HashMap<String, Option<String>> = HashMap::new();
        for step in 0..25 {
            let key = format!("k{}", random.u8(0..4));
            let mark = char::from(b'A' + (step % 26) as u8);
            let body = match random.u8(0..4) {
                0 => None,
                1 => Some(mark.to_string()),
                _ => Some(long(mark, random.usize(2..20))),
            };
            match &body {
                Some(body) => world.core.put(&key, body),
                None => world.core.delete(&key),
            };
            expected.insert(key, body);
            if random.u8(0..6) == 0 {
                if let Some(run) = world.run.take() {
                    run.abort();
                }
                world.flusher = fast_flusher(&world.core, &world.origin);
                world.start();
            }
            tokio::time::sleep(Duration::from_millis(random.u64(0..8))).await;
        }
        for call in world.origin.late_calls() {
            world.origin.land_late(call);
        }
        world.origin.clear_hook();
        world.flush_all().await;
        for (key, body) in &expected {
            assert_eq!(&world.body(key), body, "seed {seed}, {key}");
        }
        let mut newest: HashMap<String, Version> = HashMap::new();
        for change in world.origin.recorded() {
            let Some(mark) =
                change.put.as_ref().and_then(|put| put.iter().find(|(name, _)| name == "forebay-version"))
            else {
                continue;
            };
            let version = OriginTag::parse(&mark.1).unwrap().version;
            let before = newest.insert(change.key.clone(), version);
            assert!(before.is_none_or(|before| before <= version), "seed {seed}: {} went back", change.key);
        }
        world
            .until("no upload is left", |world| {
                world.origin.uploads().is_empty() || world.core.transfers_len() == 0
            })
            .await;
    }
}
