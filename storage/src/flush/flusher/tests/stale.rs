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
async fn a_completion_that_lands_although_it_was_said_to_be_given_up_is_found() {
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
    assert_eq!((world.body("a"), world.landings()), (None, vec!["p/a".to_owned(), "-p/a".to_owned()]));
    world.until("nothing is left", World::nothing_is_left).await;
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
        (Operation::CompleteUpload, 1) => Fault::Refuse(invalid.clone()),
        // Until it is answered, nothing goes on.
        (Operation::AbortUpload, 1) => Fault::DropUnknown,
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.flusher = fast_flusher(&world.core, &world.origin);
    world.start();
    world.flush_all().await;
    assert_eq!(counts.of(PARTS), [2, 6, 2, 3], "a completion before that one might have been under way");
    assert!(world.nothing_is_left());
}

/// Serves a first completion late, and loses every abort but the first one until the flag is set: so that the origin
/// shows the object between its two answers.
fn forgetful(origin: &MemoryOrigin) -> (Counts, Arc<AtomicBool>) {
    let shown = Arc::new(AtomicBool::new(false));
    let answers = shown.clone();
    let counts = counting(origin, move |operation, n| match (operation, n) {
        (Operation::CompleteUpload, 1) => Fault::LandLate,
        (Operation::AbortUpload, n) if n > 1 && !answers.load(Ordering::SeqCst) => Fault::DropUnknown,
        _ => Fault::Ok,
    });
    (counts, shown)
}

#[tokio::test]
async fn an_upload_that_is_forgotten_before_its_object_is_shown_does_not_bring_an_old_version_back() {
    // Told by the answer to the abort, or already by that to a second completion.
    for completed_twice in [false, true] {
        let mut world = World::idle(MemoryOrigin::new("memory://bad", Capabilities::default()));
        let (counts, shown) = forgetful(&world.origin);
        let completion = world.completion_under_way().await;
        assert!(world.origin.forget_late(completion), "the origin takes it, and says nothing of it");
        if completed_twice {
            world.until("completed again", |_| counts.of(PARTS)[2] == 2).await;
        }
        world.core.put("a", "newer");
        world
            .until("it goes on, or asks again", |world| world.row("a").is_none() || counts.of(PARTS)[3] > 1)
            .await;
        assert!(world.origin.show_late(completion));
        shown.store(true, Ordering::SeqCst);
        world.flush_all().await;
        assert_eq!(world.body("a").as_deref(), Some("newer"), "completed twice: {completed_twice}");
        world.until("nothing is left", World::nothing_is_left).await;
    }
}

#[tokio::test]
async fn a_version_whose_upload_was_lost_is_found_if_it_lands_all_the_same_and_begun_anew_if_not() {
    for lands in [false, true] {
        let mut world = World::idle(MemoryOrigin::capable());
        let (counts, shown) = forgetful(&world.origin);
        let completion = world.completion_under_way().await;
        assert!(world.origin.forget_late(completion));
        world
            .until("completed again, and given up", |_| counts.of(PARTS)[2] == 2 && counts.of(PARTS)[3] > 1)
            .await;
        assert!(!lands || world.origin.show_late(completion));
        shown.store(true, Ordering::SeqCst);
        world.flush_all().await;
        let begun = if lands { 1 } else { 2 };
        assert_eq!((counts.of(PARTS)[0], world.landings().len()), (begun, 1));
        world.until("nothing is left", World::nothing_is_left).await;
    }
}

#[tokio::test]
async fn the_last_answer_of_an_upload_comes_when_its_parts_are_dead() {
    let mut world = World::idle(MemoryOrigin::capable());
    let (lost_at, aborted_at) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(Vec::new())));
    let (lost, aborted) = (lost_at.clone(), aborted_at.clone());
    counting(&world.origin, move |operation, n| match (operation, n) {
        (Operation::PutPart, 3) => {
            *lost.lock() = Some(Instant::now());
            Fault::DropUnknown
        }
        // The attempt ends with the part that is lost.
        (Operation::PutPart, n) if n > 3 => refusal(ErrorClass::Auth),
        (Operation::AbortUpload, _) => {
            aborted.lock().push(Instant::now());
            Fault::Ok
        }
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.start();
    world.until("a part is under way", |_| lost_at.lock().is_some()).await;
    world.core.put("a", "newer");
    world.until("nothing is left", World::nothing_is_left).await;
    let (lost_at, aborted_at) = (lost_at.lock().unwrap(), aborted_at.lock().clone());
    // It left before this was noted.
    let dead = world.flusher.config.attempt_timeout;
    assert!(
        aborted_at.len() > 1 && *aborted_at.last().unwrap() >= lost_at + dead,
        "{aborted_at:?}, {lost_at:?}"
    );
}

#[tokio::test]
async fn a_key_whose_older_upload_may_not_be_given_up_is_parked_and_says_which_right_is_missing() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.origin.set_hook(|call| match call.operation {
        Operation::CompleteUpload => Fault::LandLate,
        Operation::AbortUpload => refusal(ErrorClass::Auth),
        _ => Fault::Ok,
    });
    world.flusher = fast_flusher(&world.core, &world.origin);
    let completion = world.completion_under_way().await;
    world.core.put("a", "newer");
    world.core.put("b", "other");
    let parked = |world: &World| match world.row("a").map(|row| row.state) {
        Some(RowState::Parked { reason }) => Some(reason),
        _ => None,
    };
    world.until("it is parked", |world| parked(world).is_some()).await;
    let reason = parked(&world).unwrap();
    assert!(reason.contains("s3:AbortMultipartUpload") && reason.contains("refused: no"), "{reason}");
    world.until("other keys go on", |world| world.body("b").is_some()).await;
    assert_eq!(world.mount_health(), MountHealth::Up);
    // Until then nothing is sent for the key, for it would be undone by this.
    assert!(world.origin.land_late(completion));
    assert_eq!(world.landings(), ["p/b", "p/a"]);
    world.origin.clear_hook();
    let version = world.core.last_version();
    let row = |version| RowId { bucket: BUCKET, key: Bytes::from("a"), version };
    world.flusher.retry(row(Version(version.0 - 1))).await.unwrap();
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some("newer"));
    world.until("nothing is left", World::nothing_is_left).await;
}

#[tokio::test]
async fn an_upload_that_was_never_completed_and_may_not_be_given_up_holds_nothing_up() {
    let mut world = World::idle(MemoryOrigin::capable());
    let parts_pass = Arc::new(AtomicBool::new(false));
    let passes = parts_pass.clone();
    world.origin.set_hook(move |call| match call.operation {
        Operation::PutPart if !passes.load(Ordering::SeqCst) => refusal(ErrorClass::Quota),
        Operation::AbortUpload => refusal(ErrorClass::Auth),
        _ => Fault::Ok,
    });
    world.flusher = fast_flusher(&world.core, &world.origin);
    let version = world.core.put("a", &long('1', 2));
    world.start();
    let begun = |world: &World| world.core.inner.lock().rows.transfer_of(version).is_some();
    world.until("it is begun", begun).await;
    let newer = long('2', 2);
    world.core.put("a", &newer);
    parts_pass.store(true, Ordering::SeqCst);
    world.flush_all().await;
    assert_eq!(world.body("a").as_deref(), Some(&newer[..]));
    world.until("the status says so", |world| world.flusher.status().leftover_uploads == 1).await;
    world.origin.clear_hook();
    world.until("nothing is left", World::nothing_is_left).await;
}

/// An upload of `a` that may become its object, of a version that is not wanted any more.
async fn a_tried_upload(world: &mut World) -> u64 {
    let hook = |call: &crate::origin::memory::Call| match call.operation {
        Operation::CompleteUpload => Fault::LandLate,
        _ => Fault::Ok,
    };
    world.origin.set_hook(hook);
    world.completion_under_way().await
}

#[tokio::test]
async fn an_upload_whose_key_is_under_a_mount_that_is_not_written_any_more_is_given_up() {
    for read_only in [false, true] {
        let mut world = World::idle(MemoryOrigin::capable());
        a_tried_upload(&mut world).await;
        world.core.put("a", "newer");
        if read_only {
            if let Some(run) = world.run.take() {
                run.abort();
            }
            world.flusher = flusher_with(&world.core, &world.origin, |mount| {
                (mount.attached, mount.read_only) = (true, true);
            });
            world.start();
        } else {
            world.core.apply(|_| [FlushEvent::Unmounted(MountId(BUCKET.0))]).unwrap();
        }
        world.until("nothing is left", World::nothing_is_left).await;
        assert!(world.row("a").is_some(), "its change waits");
        assert_eq!(world.body("a"), None);
    }
}

impl World {
    /// Stops the worker as a kill does, and starts one with a mount of another number, and perhaps another place.
    fn restart_elsewhere(&mut self, origin: &Arc<MemoryOrigin>, change: impl FnOnce(&mut MountSpec)) {
        if let Some(run) = self.run.take() {
            run.abort();
        }
        self.flusher = flusher_with(&self.core, origin, |mount| {
            mount.id = MountId(77);
            change(mount);
        });
        self.start();
    }
}

#[tokio::test]
async fn what_is_left_at_the_origin_of_a_forgotten_mount_is_given_up_there_by_any_mount_of_that_origin() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.core.inner.lock().rows.places = true;
    a_tried_upload(&mut world).await;
    world.forget("a");
    let origin = world.origin.clone();
    // Another bucket, and another place of that origin.
    world.restart_elsewhere(&origin, |mount| {
        (mount.bucket, mount.key_prefix) = (BucketId(9), Bytes::from_static(b"new/"));
        mount.origin_prefix = "q/".to_owned();
    });
    world.until("nothing is left", World::nothing_is_left).await;
}

#[tokio::test]
async fn what_is_left_at_an_origin_that_no_mount_names_is_kept_and_shown_and_in_nobodys_way() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.core.inner.lock().rows.places = true;
    a_tried_upload(&mut world).await;
    world.forget("a");
    world.core.inner.lock().attached.clear();
    let other = Arc::new(MemoryOrigin::capable());
    world.restart_elsewhere(&other, |mount| mount.origin_root = "s3://elsewhere".to_owned());
    world.core.put("a", "newer");
    world.flush_all().await;
    assert_eq!(other.body("p/a").as_deref(), Some(&b"newer"[..]));
    let status = world.flusher.status();
    assert_eq!((status.leftover_uploads, status.unreachable_uploads), (1, 1));
    assert_eq!((world.origin.uploads().len(), world.core.transfers_len()), (1, 1));
    // With a mount of its origin it goes.
    let origin = world.origin.clone();
    world.restart_elsewhere(&origin, |mount| mount.id = MountId(78));
    world.until("nothing is left", World::nothing_is_left).await;
    assert_eq!(world.flusher.status().unreachable_uploads, 0);
}

#[tokio::test]
async fn an_origin_that_does_not_answer_holds_up_no_other_mounts_leftovers() {
    let mut world = World::idle(MemoryOrigin::capable());
    let slow = Arc::new(MemoryOrigin::capable());
    slow.set_hook(|call| if call.operation == Operation::AbortUpload { Fault::Stall } else { Fault::Ok });
    let other = BucketId(2);
    world.flusher = {
        let quick = flusher_with(&world.core, &world.origin, |_| {});
        let spec = quick.mounts[0].spec.clone();
        let silent: Arc<dyn Origin> = slow.clone();
        let second = MountSpec {
            id: MountId(other.0),
            bucket: other,
            origin: silent,
            origin_root: root_of(other),
            attached: true,
            ..spec.clone()
        };
        Flusher::new(quick.config.clone(), vec![second, spec], world.core.clone(), world.core.clone())
    };
    world.start();
    let upload = |n: u64, bucket: BucketId| StaleTransfer {
        version: Version(1_000 + n),
        bucket,
        key: Bytes::from(format!("k{n}")),
        mount: MountId(bucket.0),
        upload_id: format!("u{n}"),
        tried: true,
        place: None,
    };
    let silent: Vec<_> = (0..50).map(|n| FlushEvent::Stale(upload(n, other))).collect();
    world.flusher.observe(silent);
    world.flusher.observe([FlushEvent::Stale(upload(900, BUCKET))]);
    world.until("the other one is gone", |world| world.flusher.status().leftover_uploads == 50).await;
    // Nor does it wait for an answer for ever.
    slow.clear_hook();
    world.until("all are gone", |world| world.flusher.status().leftover_uploads == 0).await;
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
            // With what keeps it there.
            MountHealth::NotReady { reason } => {
                reason.contains("an upload of a forgotten mount") && reason.contains("so far: auth")
            }
            _ => !world.core.inner.lock().attached.is_empty(),
        })
        .await;
    assert!(world.origin.land_late(completion));
    world.origin.clear_hook();
    world.until("attached", |world| !world.core.inner.lock().attached.is_empty()).await;
    assert_eq!(world.core.inner.lock().attached, [(MountId(77), true)], "what has landed is there");
}
