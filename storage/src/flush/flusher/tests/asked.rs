//! Uploads whose beginning was not answered: nothing of them stays at the origin.

use super::stale::{PARTS, counting};
use super::*;

/// Ten times the margin.
const LONG_AGO: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_upload_whose_name_was_lost_is_found_and_given_up() {
    let mut world = World::idle(MemoryOrigin::capable());
    once(&world.origin, Operation::BeginUpload, "p/a", Fault::ApplyThenUnknown);
    world.core.put("a", &long('1', 3));
    world.start();
    world.flush_all().await;
    assert_eq!(world.landings(), ["p/a"]);
    world.until("nothing is left", World::nothing_is_left).await;
    assert_eq!(world.flusher.status().leftover_uploads, 0);
}

#[tokio::test]
async fn it_is_found_after_a_restart_too_and_when_its_version_is_not_wanted_any_more() {
    let mut world = World::idle(MemoryOrigin::capable());
    world.origin.set_hook(|call| match call.operation {
        Operation::BeginUpload => Fault::ApplyThenUnknown,
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.start();
    world.until("it is begun", |world| !world.origin.uploads().is_empty()).await;
    world.core.delete("a");
    world.restart();
    world.until("nothing is left", World::nothing_is_left).await;
    assert_eq!(world.body("a"), None);
}

#[tokio::test]
async fn what_was_refused_for_certain_is_not_looked_for() {
    let mut world = World::idle(MemoryOrigin::capable());
    let lists = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = lists.clone();
    let mut left = 2;
    world.origin.set_hook(move |call| match call.operation {
        Operation::BeginUpload if left > 0 => {
            left -= 1;
            refusal(ErrorClass::Throttled)
        }
        Operation::ListUploads => {
            counted.fetch_add(1, Ordering::SeqCst);
            Fault::Ok
        }
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.start();
    world.flush_all().await;
    assert!(world.nothing_is_left());
    assert_eq!(lists.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_upload_that_is_recorded_goes_on_while_another_one_of_its_key_is_looked_for() {
    let mut world = World::idle(MemoryOrigin::capable());
    let parts_pass = Arc::new(AtomicBool::new(false));
    let passes = parts_pass.clone();
    let counts = counting(&world.origin, move |operation, n| match (operation, n) {
        (Operation::BeginUpload, 1) => Fault::ApplyThenUnknown,
        (Operation::PutPart, n) if n > 1 && !passes.load(Ordering::SeqCst) => refusal(ErrorClass::Auth),
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.flusher = fast_flusher(&world.core, &world.origin);
    world.start();
    world
        .until("the other one is given up", |world| {
            counts.of(PARTS)[0] == 2 && world.origin.uploads().len() == 1 && world.core.transfers_len() == 1
        })
        .await;
    parts_pass.store(true, Ordering::SeqCst);
    world.flush_all().await;
    assert_eq!((counts.of(PARTS)[0], world.landings()), (2, vec!["p/a".to_owned()]));
    assert!(world.nothing_is_left());
}

#[tokio::test]
async fn uploads_of_others_stay_where_others_may_write() {
    for existing in [false, true] {
        let mut world = World::idle(MemoryOrigin::capable());
        world.flusher = flusher_with(&world.core, &world.origin, |mount| mount.existing = existing);
        once(&world.origin, Operation::BeginUpload, "p/a", Fault::ApplyThenUnknown);
        world.origin.begin_foreign("p/a", LONG_AGO);
        world.origin.begin_foreign("p/other", LONG_AGO);
        world.core.put("a", &long('1', 3));
        world.start();
        world.flush_all().await;
        world.until("ours is found", |world| world.core.transfers_len() == 0).await;
        let mut left: Vec<String> = world.origin.uploads().into_iter().map(|(key, _)| key).collect();
        left.sort();
        let theirs: &[&str] = if existing { &["p/a", "p/other"] } else { &["p/other"] };
        assert_eq!(left, theirs);
    }
}

#[tokio::test]
async fn an_origin_that_cannot_tell_is_asked_again_and_the_status_says_so() {
    let mut world = World::idle(MemoryOrigin::capable());
    let mut begun = 0;
    world.origin.set_hook(move |call| match call.operation {
        Operation::BeginUpload => {
            begun += 1;
            if begun == 1 { Fault::ApplyThenUnknown } else { Fault::Ok }
        }
        Operation::ListUploads => refusal(ErrorClass::Auth),
        _ => Fault::Ok,
    });
    world.core.put("a", &long('1', 3));
    world.start();
    world.flush_all().await;
    world.until("it is due", |world| world.flusher.status().leftover_uploads == 1).await;
    assert_eq!(world.origin.uploads().len(), 1);
    world.origin.clear_hook();
    world.until("nothing is left", World::nothing_is_left).await;
}
