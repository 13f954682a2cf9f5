//! Uploads that nobody wants any more, and completions that land late.

use super::*;

#[tokio::test]
async fn a_version_that_is_superseded_while_it_is_sent_is_given_up_at_the_origin() {
    let mut world = World::idle(MemoryOrigin::capable());
    let core = world.core.clone();
    let newer = long('2', 3);
    let (mut sent, body) = (0, newer.clone());
    world.origin.set_hook(move |call| {
        if call.operation == Operation::PutPart {
            sent += 1;
            if sent == 5 {
                // Not in the hook itself: it runs under the origin's lock.
                let (core, body) = (core.clone(), body.clone());
                tokio::spawn(async move { core.put("a", &body) });
            }
        }
        Fault::Ok
    });
    world.core.put("a", &long('1', 200));
    world.start();
    world.until("the newer version is there", |world| world.body("a").as_deref() == Some(&newer[..])).await;
    world
        .until("nothing is left of the older upload", |world| {
            world.origin.uploads().is_empty() && world.core.transfers_len() == 0
        })
        .await;
    assert_eq!(world.landings(), ["p/a"]);
}

#[tokio::test]
async fn a_stale_upload_is_given_up_after_a_restart_too() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.origin.set_hook(|call| match call.operation {
        Operation::PutPart => refusal(ErrorClass::Auth),
        Operation::AbortUpload => Fault::DropUnknown,
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.start();
    world.until("it is begun", |world| world.core.transfers_len() == 1).await;
    world.core.put("a", "short");
    // It was never completed, so it holds nothing up.
    world.until("the newer version is there", |world| world.body("a").is_some()).await;
    assert_eq!((world.origin.uploads().len(), world.core.transfers_len()), (1, 1));
    world.origin.clear_hook();
    world.restart();
    world.until("it is gone", World::nothing_is_left).await;
}

impl World {
    pub(super) fn nothing_is_left(&self) -> bool {
        self.origin.uploads().is_empty() && self.core.transfers_len() == 0
    }

    /// Puts `a` in parts, and returns the number of its completion, which has not arrived.
    async fn completion_under_way(&mut self) -> u64 {
        self.core.put("a", &long('1', 3));
        self.start();
        self.until("its completion is under way", |world| !world.origin.late_calls().is_empty()).await;
        self.origin.late_calls()[0]
    }
}

/// Whether the row waits because an older upload could not be given up.
fn waits_for_giving_up(row: Option<RowView>) -> bool {
    row.is_some_and(|row| match row.state {
        RowState::Waits { last_error: Some(error), .. } => error.contains("giving up the upload of an older"),
        _ => false,
    })
}

#[tokio::test]
async fn a_completion_that_lands_after_its_fence_does_not_bring_a_deleted_object_back() {
    for restart in [false, true] {
        let mut world = World::idle(MemoryOrigin::capable());
        world.origin.set_hook(|call| match call.operation {
            Operation::CompleteUpload => Fault::LandLate,
            Operation::AbortUpload => refusal(ErrorClass::Auth),
            _ => Fault::Ok,
        });
        let completion = world.completion_under_way().await;
        world.core.delete("a");
        if restart {
            world.restart();
        }
        // Its sender is dead, and a HEAD finds nothing: that is not enough.
        world
            .until("the delete waits, and says why", |world| {
                let row = world.row("a");
                row.is_none() || waits_for_giving_up(row)
            })
            .await;
        assert!(world.origin.land_late(completion));
        world.origin.clear_hook();
        world.flush_all().await;
        assert_eq!(world.body("a"), None, "restart {restart}");
        assert_eq!(world.landings(), ["p/a", "-p/a"]);
        world.until("nothing is left", World::nothing_is_left).await;
    }
}

#[tokio::test]
async fn a_completion_that_is_given_up_never_lands_and_a_newer_version_goes_on() {
    let mut world = World::idle(MemoryOrigin::new("memory://bad", Capabilities::default()));
    once(&world.origin, Operation::CompleteUpload, "p/a", Fault::LandLate);
    let completion = world.completion_under_way().await;
    world.core.put("a", "newer");
    world.flush_all().await;
    assert!(world.origin.land_late(completion));
    assert_eq!((world.body("a").as_deref(), world.landings()), (Some("newer"), vec!["p/a".to_owned()]));
    assert!(world.nothing_is_left());
}

#[tokio::test]
async fn a_completion_that_lands_although_it_was_said_to_be_given_up_is_found_after_the_margin() {
    let mut world = World::idle(MemoryOrigin::capable());
    let aborts = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = aborts.clone();
    world.origin.set_hook(move |call| match call.operation {
        Operation::CompleteUpload => Fault::LandLate,
        Operation::AbortUpload if counted.fetch_add(1, Ordering::SeqCst) == 0 => Fault::Pretend,
        _ => Fault::Ok,
    });
    let completion = world.completion_under_way().await;
    world.core.delete("a");
    world.until("the origin has said so", |_| aborts.load(Ordering::SeqCst) == 1).await;
    assert!(world.origin.land_late(completion));
    world.flush_all().await;
    assert_eq!((world.body("a"), aborts.load(Ordering::SeqCst)), (None, 2));
}

#[tokio::test]
async fn an_origin_that_says_given_up_for_ever_is_believed_the_second_time() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.origin.set_hook(|call| match call.operation {
        Operation::CompleteUpload => Fault::DropUnknown,
        Operation::AbortUpload => Fault::Pretend,
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.start();
    world
        .until("fenced", |world| {
            world.row("a").is_some_and(|row| matches!(row.state, RowState::Fenced { .. }))
        })
        .await;
    world.core.put("a", "newer");
    world.flush_all().await;
    assert_eq!((world.body("a").as_deref(), world.core.transfers_len()), (Some("newer"), 0));
}

#[tokio::test]
async fn an_abandoned_upload_is_given_up_and_what_comes_after_waits_for_that() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.origin.set_hook(|call| match call.operation {
        Operation::CompleteUpload => Fault::LandLate,
        Operation::AbortUpload => Fault::DropUnknown,
        _ => Fault::Ok,
    });
    let completion = world.completion_under_way().await;
    let version = world.core.last_version();
    world.flusher.abandon(RowId { bucket: BUCKET, key: Bytes::from("a"), version }).await.unwrap();
    world.until("its fence has passed", |world| world.flusher.status().in_flight == 0).await;
    world.core.put("a", "newer");
    world.until("it waits", |world| world.row("a").is_none() || waits_for_giving_up(world.row("a"))).await;
    assert!(world.origin.land_late(completion));
    world.origin.clear_hook();
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some("newer"));

    // And without anything after it.
    once(&world.origin, Operation::CompleteUpload, "p/b", Fault::DropUnknown);
    let version = world.core.put("b", &long('2', 3));
    world
        .until("fenced", |world| {
            world.row("b").is_some_and(|row| matches!(row.state, RowState::Fenced { .. }))
        })
        .await;
    world.flusher.abandon(RowId { bucket: BUCKET, key: Bytes::from("b"), version }).await.unwrap();
    world.until("nothing is left", World::nothing_is_left).await;
    assert_eq!(world.body("b"), None);
}

/// Counts the calls of each kind on `p/a`.
pub(super) fn counting(
    origin: &MemoryOrigin,
    mut fault: impl FnMut(Operation, usize) -> Fault + Send + 'static,
) -> Counts {
    let counts = Counts::default();
    let counted = counts.0.clone();
    origin.set_hook(move |call| {
        let mut counted = counted.lock();
        let so_far = counted.entry(call.operation).or_default();
        *so_far += 1;
        match call.key.as_str() {
            "p/a" => fault(call.operation, *so_far),
            _ => Fault::Ok,
        }
    });
    counts
}

#[derive(Default)]
pub(super) struct Counts(Arc<Mutex<HashMap<Operation, usize>>>);

impl Counts {
    pub(super) fn of(&self, operations: [Operation; 4]) -> [usize; 4] {
        let counts = self.0.lock();
        operations.map(|operation| counts.get(&operation).copied().unwrap_or(0))
    }
}

pub(super) const PARTS: [Operation; 4] =
    [Operation::BeginUpload, Operation::PutPart, Operation::CompleteUpload, Operation::AbortUpload];

#[tokio::test]
async fn a_version_whose_completion_is_lost_completes_the_same_upload_again() {
    let mut world = World::idle(MemoryOrigin::capable());
    let counts = counting(&world.origin, |operation, n| match (operation, n) {
        (Operation::CompleteUpload, 1) => Fault::DropUnknown,
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.start();
    world.flush_all().await;
    assert_eq!(counts.of(PARTS), [1, 3, 2, 0]);
    assert!(world.nothing_is_left());
}

#[tokio::test]
async fn a_completion_that_arrives_twice_is_found_and_sends_nothing_again() {
    let mut world = World::idle(MemoryOrigin::capable());
    let counts = counting(&world.origin, |operation, n| match (operation, n) {
        (Operation::CompleteUpload, 1) => Fault::Twice,
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.start();
    world.flush_all().await;
    assert_eq!((counts.of(PARTS), world.landings()), ([1, 3, 1, 0], vec!["p/a".to_owned()]));
    assert!(world.nothing_is_left());
}

#[tokio::test]
async fn an_upload_whose_parts_are_refused_is_given_up_before_it_is_begun_anew() {
    let mut world = World::idle(MemoryOrigin::capable());
    let invalid = OriginError::new(ErrorClass::Other, Landing::NotApplied, "no such part");
    let invalid = OriginError { code: Some("InvalidPart".to_owned()), ..invalid };
    let counts = counting(&world.origin, move |operation, n| match (operation, n) {
        (Operation::CompleteUpload, 1 | 2) => Fault::Refuse(invalid.clone()),
        // Until it is answered, the upload is the one that is recorded.
        (Operation::AbortUpload, 1) => Fault::DropUnknown,
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.flusher = fast_flusher(&world.core, &world.origin);
    world.start();
    world.flush_all().await;
    assert_eq!(counts.of(PARTS), [2, 6, 3, 2]);
    assert!(world.nothing_is_left());
}

#[tokio::test]
async fn a_body_that_was_begun_in_parts_goes_on_in_parts_whatever_the_settings_say() {
    let mut world = World::idle(MemoryOrigin::new("memory://bad", Capabilities::default()));
    once(&world.origin, Operation::CompleteUpload, "p/a", Fault::LandLate);
    let completion = world.completion_under_way().await;
    if let Some(run) = world.run.take() {
        run.abort();
    }
    let config = FlusherConfig { part_bytes: 1 << 20, ..world.flusher.config.clone() };
    let mounts = world.flusher.mounts.iter().map(|mount| mount.spec.clone()).collect();
    world.flusher = Flusher::new(config, mounts, world.core.clone(), world.core.clone());
    world.start();
    world.flush_all().await;
    world.core.put("a", "newer");
    world.flush_all().await;
    assert!(world.origin.land_late(completion));
    assert_eq!(world.body("a").as_deref(), Some("newer"));
}

impl World {
    /// Stops the worker as a kill does, and starts one whose mount has another number.
    fn restart_under_another_mount(&mut self, attached: bool) {
        if let Some(run) = self.run.take() {
            run.abort();
        }
        self.flusher = flusher_with(&self.core, &self.origin, |mount| {
            (mount.id, mount.attached) = (MountId(77), attached);
        });
        self.start();
    }

    /// Forgets the mount; its changes are given up.
    fn forget(&self, key: &str) {
        self.core.apply(|_| [FlushEvent::Unmounted(MountId(BUCKET.0))]).unwrap();
        let (bucket, key) = (BUCKET, Bytes::from(key.to_owned()));
        let row = RowId { bucket, key, version: self.core.last_version() };
        self.core
            .apply(|inner| {
                let (event, stale) = inner.rows.abandon(row);
                [event].into_iter().chain(stale)
            })
            .unwrap();
    }
}

#[tokio::test]
async fn an_upload_of_a_mount_that_was_forgotten_and_configured_again_is_given_up() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.origin.set_hook(|call| match call.operation {
        Operation::PutPart | Operation::AbortUpload => refusal(ErrorClass::Auth),
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.start();
    world.until("it is begun", |world| world.core.transfers_len() == 1).await;
    world.forget("a");
    world.origin.clear_hook();
    world.restart_under_another_mount(true);
    world.until("nothing is left", World::nothing_is_left).await;
}

#[tokio::test]
async fn what_was_begun_at_a_forgotten_origin_is_given_up_while_the_process_lives() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.origin.set_hook(|call| match call.operation {
        Operation::PutPart => refusal(ErrorClass::Auth),
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.start();
    world.until("it is begun", |world| world.core.transfers_len() == 1).await;
    world.forget("a");
    world.until("nothing is left", World::nothing_is_left).await;
}

#[tokio::test]
async fn no_prefix_is_found_empty_while_an_upload_of_a_forgotten_mount_may_become_an_object_there() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.origin.set_hook(|call| match call.operation {
        Operation::CompleteUpload => Fault::LandLate,
        Operation::AbortUpload => refusal(ErrorClass::Auth),
        _ => Fault::Ok,
    });
    let completion = world.completion_under_way().await;
    world.forget("a");
    world.core.inner.lock().attached.clear();
    world.restart_under_another_mount(false);
    world
        .until("the mount waits", |world| match world.mount_health() {
            MountHealth::NotReady { reason } => reason.contains("an upload of a forgotten mount"),
            _ => !world.core.inner.lock().attached.is_empty(),
        })
        .await;
    assert!(world.origin.land_late(completion));
    world.origin.clear_hook();
    world.until("attached", |world| !world.core.inner.lock().attached.is_empty()).await;
    assert_eq!(world.core.inner.lock().attached, [(MountId(77), true)], "what has landed is there");
}
