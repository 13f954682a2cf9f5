//! A stop while the journal has no room: the driver's own threads, on a simulated disk.

use std::time::{Duration, Instant};

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < limit, "{what} never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The threads of a node over a world, and what tests look at.
struct Running {
    driver: Driver,
    inbox: Arc<Inbox>,
    status: Arc<EngineStatus>,
}

fn start(world: &mut World) -> Running {
    let Opened { engine, checkpointer, status, stats, done, .. } = world.node.take().unwrap();
    let inbox = Arc::new(Inbox::default());
    let parts = DriverParts {
        engine,
        inbox: inbox.clone(),
        checkpointer,
        stats,
        done,
        sync: SyncMode::Always,
        now_ms: Box::new(|| 0),
    };
    Running { driver: Driver::start(parts).unwrap(), inbox, status }
}

/// In LMDB's place, too, nothing of it finds room: it has to be spilled to a segment.
fn value(number: u64) -> Vec<u8> {
    (0..3000).map(|at| (number as usize * 31 + at) as u8).collect()
}

type Answer = tokio::sync::oneshot::Receiver<crate::error::Result<RawOutcomes>>;

fn set(inbox: &Inbox, bucket: BucketId, number: u64) -> Answer {
    let (name, body) = (key(number), value(number));
    let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
    let mut submission = Submission::new();
    let value = Payload::Inline(&body);
    submission.push(&Mutation::SetString { bucket, key: &name, value, expiry, existence });
    let (pending, answer) = Pending::new(submission, None);
    inbox.push(pending);
    answer
}

/// Writes until the journal has no room; returns how many were acknowledged, and the one that waits.
fn write_until_full(running: &Running, bucket: BucketId) -> (u64, Answer) {
    for number in 0.. {
        let mut answer = set(&running.inbox, bucket, number);
        let (mut answered, full) = (None, || running.status.journal_full.lock().is_some());
        until("an answer, or the journal's end", || {
            answered = answer.try_recv().ok();
            answered.is_some() || full()
        });
        match answered {
            Some(outcomes) => assert!(matches!(outcomes.unwrap().results[..], [Outcome::Done(_)])),
            None => return (number, answer),
        }
    }
    unreachable!("the journal has an end");
}

/// Stops the driver as a node does, and expects that to end.
fn stop(driver: Driver) {
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        driver.stop();
        let _ = ended.send(());
    });
    end.recv_timeout(LIMIT).expect("the stop never ends");
}

/// The threads over a world whose disk is full, and how many were acknowledged before one found no room; it waits.
fn start_without_room(world: &mut World, bucket: BucketId) -> (Running, u64, Answer) {
    // The journal has what it makes ahead, for the writer and for the next start.
    (0..2).for_each(|_| world.engine().tick().unwrap());
    let running = start(world);
    world.disk.set_capacity(Some(world.disk.used()));
    let (acknowledged, under_way) = write_until_full(&running, bucket);
    assert!(acknowledged > 20, "{acknowledged}");
    (running, acknowledged, under_way)
}

#[test]
fn whoever_waits_for_room_is_answered_when_a_stop_is_announced() {
    let mut world = World::new(1);
    world.open().unwrap();
    let bucket = world.bucket();
    let (running, _, mut under_way) = start_without_room(&mut world, bucket);
    assert!(under_way.try_recv().is_err(), "it waits for room");
    // A node waits for those who ask, before it stops the driver.
    running.inbox.announce_stop();
    let mut answer = None;
    until("an answer", || {
        answer = under_way.try_recv().ok();
        answer.is_some()
    });
    assert!(matches!(answer, Some(Err(Error::Unknown(_)))), "it may be in the log");
    stop(running.driver);
}

#[test]
fn a_stop_while_the_journal_has_no_room_ends_and_loses_nothing_that_was_answered() {
    for power in [false, true] {
        let mut world = World::new(1);
        world.open().unwrap();
        let bucket = world.bucket();
        let (running, acknowledged, mut under_way) = start_without_room(&mut world, bucket);
        let mut behind = set(&running.inbox, bucket, 9_999);
        assert!(under_way.try_recv().is_err() && behind.try_recv().is_err(), "they wait for room");
        stop(running.driver);
        let answers = [under_way.try_recv().unwrap().err(), behind.try_recv().unwrap().err()];
        assert!(matches!(answers, [Some(Error::Unknown(_)), Some(Error::Stopping)]), "{answers:?}");
        let mut late = set(&running.inbox, bucket, 9_998);
        assert!(matches!(late.try_recv().unwrap(), Err(Error::Stopping)));

        world.crash(power);
        // The start itself finds no room either.
        world.open().unwrap();
        for number in 0..acknowledged {
            assert_eq!(world.read(bucket, &key(number)), Some(value(number)), "{number} of {acknowledged}");
        }
        for number in [acknowledged, 9_999, 9_998] {
            assert_eq!(world.read(bucket, &key(number)), None);
        }
    }
}
