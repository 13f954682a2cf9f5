//! The thread that makes room: a round, a pause, and again. A refused write wakes it.
//!
//! Owns when the next round begins. A round that looked through the store in vain is followed by a pause in
//! proportion to its time, so that a store that is full of what must stay is not read all the time.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::blob::BlobError;
use crate::keyspace::places::Batch;
use crate::store::Shared;

use super::release::release;
use super::{EvictError, Round, round};

/// Pause between looks at how full the store is; a refused write looks at once.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest pause after rounds that found nothing, if they took no time.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// After a round in vain: pause in terms of its time, and the shortest if somebody asks for the next one.
const REST: u32 = 8;
const REST_ASKED: u32 = 2;
/// After a round of compaction: pause in terms of its time. A fifth of the time at most goes into it.
const REST_COMPACTED: u32 = 4;
/// Longest pause of all.
const REST_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a checkpoint before its state is looked at again.
const COMMIT_LOOK: Duration = Duration::from_millis(100);

/// See the file's head.
pub(crate) struct EvictThread {
    shared: Weak<Shared>,
    thread: JoinHandle<()>,
}

impl EvictThread {
    pub(crate) fn start(shared: &Arc<Shared>) -> std::io::Result<EvictThread> {
        let weak = Arc::downgrade(shared);
        let run = move || {
            // A panic means a broken invariant: nothing more may be given up.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&weak))).is_err() {
                std::process::abort();
            }
        };
        let thread = std::thread::Builder::new().name("evict".to_owned()).spawn(run)?;
        Ok(EvictThread { shared: Arc::downgrade(shared), thread })
    }

    /// Ends it; what it has queued is committed or not. Blocks.
    pub(crate) fn stop(self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.evictor.stopping.store(true, Relaxed);
            shared.evictor.nudge();
        }
        if self.thread.join().is_err() {
            tracing::error!("the eviction thread panicked");
        }
    }
}

/// How long the thread rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rest {
    /// At least, even if it is asked for more room.
    asked: Duration,
    unasked: Duration,
}

/// The pause after a round that took so long, behind one of `last`.
fn rest(round: Round, took: Duration, last: Duration) -> Rest {
    let doubled = (last * 2).clamp(PAUSE, PAUSE_MAX);
    match round {
        Round::Made => Rest { asked: Duration::ZERO, unasked: Duration::ZERO },
        Round::Idle => Rest { asked: Duration::ZERO, unasked: PAUSE },
        Round::Compacted => {
            Rest { asked: Duration::ZERO, unasked: (took * REST_COMPACTED).clamp(PAUSE, REST_MAX) }
        }
        Round::Vain => Rest { asked: PAUSE, unasked: PAUSE },
        Round::Barren => Rest {
            asked: (took * REST_ASKED).clamp(PAUSE, REST_MAX),
            unasked: (took * REST).clamp(doubled, REST_MAX),
        },
    }
}

fn run(shared: &Weak<Shared>) {
    let mut last = PAUSE;
    while let Some(shared) = shared.upgrade() {
        let evictor = &shared.evictor;
        if evictor.stopping.load(Relaxed) {
            return;
        }
        if let Some(flusher) = shared.flusher() {
            let status = flusher.status();
            evictor.note_taken(status.flushed_objects + status.flushed_bytes);
        }
        let wait = |batch: &Batch| {
            while batch.wait(COMMIT_LOOK).open > 0 {
                if evictor.stopping.load(Relaxed) {
                    return false;
                }
            }
            true
        };
        let began = Instant::now();
        let became = round(&shared, &wait).unwrap_or_else(|error| {
            if let EvictError::Blob(BlobError::SyncFailed(_)) = error {
                tracing::error!(%error, "the node stops at once; a restart recovers what was acknowledged");
                std::process::abort();
            }
            tracing::error!(%error, "making room failed");
            Round::Barren
        });
        let became = match became {
            Round::Barren => look_for_unmarked(&shared),
            became => became,
        };
        let rest = rest(became, began.elapsed(), last);
        last = rest.unasked;
        let now = Instant::now();
        let (earliest, until) = (now + rest.asked, now + rest.unasked);
        let mut nudged = evictor.nudged.lock();
        while (!*nudged || Instant::now() < earliest) && !evictor.stopping.load(Relaxed) {
            if evictor.nudge.wait_until(&mut nudged, until).timed_out() {
                break;
            }
        }
        *nudged = false;
    }
}

/// What a round comes to that found nothing to give up.
fn look_for_unmarked(shared: &Arc<Shared>) -> Round {
    // Its releases would not fit.
    if shared.status.checkpoint_full.lock().is_some() || shared.status.journal_full.lock().is_some() {
        return Round::Barren;
    }
    match release(shared) {
        Ok(true) => Round::Vain,
        Ok(false) => Round::Barren,
        Err(error) => {
            tracing::debug!(%error, "nobody has looked for what is clean and not marked");
            Round::Barren
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_in_vain_take_a_small_share_of_the_time_however_often_room_is_asked_for() {
        let (none, long) = (Duration::ZERO, Duration::from_secs(3));
        assert_eq!(rest(Round::Made, long, none), Rest { asked: none, unasked: none });
        assert_eq!(rest(Round::Idle, none, none).asked, none);
        assert_eq!(rest(Round::Compacted, long, none), Rest { asked: none, unasked: 4 * long });
        let Rest { asked, unasked } = rest(Round::Barren, long, PAUSE);
        assert!(asked >= 2 * long && unasked >= 8 * long);
        let mut last = PAUSE;
        for _ in 0..8 {
            let Rest { asked, unasked } = rest(Round::Barren, none, last);
            assert!(asked == PAUSE && unasked >= last && unasked <= PAUSE_MAX);
            last = unasked;
        }
        assert_eq!(last, PAUSE_MAX);
        assert_eq!(rest(Round::Barren, 1000 * long, last).unasked, REST_MAX);
    }
}
