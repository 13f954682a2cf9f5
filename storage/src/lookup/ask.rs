//! Questions to an origin: what stands under a key, and what comes next in a listing.
//!
//! Bounds: [`TURNS`] questions at once to one mount's origin, [`WAITING_MAX`] that wait for their turn behind all of
//! them, each for at most [`TURN_WAIT`]; a question is asked [`TRIES`] times, for at most its time-out each.
//! Beyond, the answer is an error: nobody takes trouble for absence.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::cover::Reach;
use crate::error::{Error, Result};
use crate::origin::{ErrorClass, HeadReply, ListReply, ListRequest, OriginError, OriginKey};

/// Questions at once to the origin of one mount. More find many unknown keys sooner, and load the origin more.
const TURNS: usize = 64;
/// Questions that may wait for their turn.
const WAITING_MAX: usize = 8192;
/// Longest wait for a turn.
const TURN_WAIT: Duration = Duration::from_secs(15);
/// Times that a question is asked, for errors that may pass.
const TRIES: usize = 2;
/// Pause before the second.
const RETRY_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });
/// Longest time of one try of a HEAD, and of a LIST.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Who may ask. One per store.
#[derive(Default)]
pub(super) struct Turns {
    /// By mount. Held for a look-up only.
    of: Mutex<HashMap<u32, Arc<Semaphore>>>,
    waiting: AtomicUsize,
}

/// Counts one that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Turns {
    /// Waits for a turn to ask the origin of `mount`.
    pub(super) async fn turn(&self, mount: u32) -> Result<OwnedSemaphorePermit> {
        let turns = self.of.lock().entry(mount).or_insert_with(|| Arc::new(Semaphore::new(TURNS))).clone();
        if let Ok(turn) = turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        let _waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Relaxed) >= WAITING_MAX {
            return Err(Error::Unavailable("too many look-ups wait for the origin"));
        }
        match tokio::time::timeout(TURN_WAIT, turns.acquire_owned()).await {
            Ok(turn) => turn.map_err(|_| Error::Stopping),
            Err(_) => Err(Error::Unavailable("the origin answers too slowly for all the look-ups that wait")),
        }
    }
}

/// Asks what stands under a name. `None` only if the origin says that there is nothing.
pub(super) async fn head(
    reach: &Reach,
    name: &OriginKey,
    stop: &CancellationToken,
) -> Result<Option<HeadReply>> {
    let answer = ask(HEAD_TIMEOUT, stop, || reach.origin.head(name)).await;
    answer.map_err(|trouble| trouble.told(reach, name))
}

/// Asks for a page of names.
pub(super) async fn list(
    reach: &Reach,
    request: &ListRequest,
    stop: &CancellationToken,
) -> Result<ListReply> {
    let answer = ask(LIST_TIMEOUT, stop, || reach.origin.list(request.clone())).await;
    answer.map_err(|trouble| trouble.told(reach, &request.prefix))
}

/// Why a question has no answer.
enum Trouble {
    Origin(OriginError),
    Silence,
    Stopping,
}

impl Trouble {
    fn told(self, reach: &Reach, about: &(impl std::fmt::Display + ?Sized)) -> Error {
        let origin = reach.origin.name();
        let line = || reach.log_limit.admit(Instant::now());
        match self {
            Trouble::Stopping => Error::Stopping,
            Trouble::Silence => {
                if let Some(not_shown) = line() {
                    tracing::warn!(origin, %about, not_shown, "the origin did not answer a look-up in time");
                }
                Error::Unavailable("the origin does not answer; what it holds is not known")
            }
            Trouble::Origin(error) => {
                if let Some(not_shown) = line() {
                    tracing::warn!(origin, %about, %error, not_shown, "a look-up in the origin failed");
                }
                Error::Unavailable(match error.class {
                    ErrorClass::Auth => {
                        "the origin refuses the mount's credentials; what it holds is not known"
                    }
                    ErrorClass::MissingBucket => "the origin's bucket is missing; what it holds is not known",
                    ErrorClass::Throttled => "the origin asks to slow down; what it holds is not known",
                    _ => "the origin cannot be asked now; what it holds is not known",
                })
            }
        }
    }
}

async fn ask<T, F: Future<Output = Result<T, OriginError>>>(
    limit: Duration,
    stop: &CancellationToken,
    question: impl Fn() -> F,
) -> Result<T, Trouble> {
    let mut tries = 0;
    loop {
        tries += 1;
        let answer = tokio::select! {
            () = stop.cancelled() => return Err(Trouble::Stopping),
            answer = tokio::time::timeout(limit, question()) => answer,
        };
        let trouble = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Trouble::Origin(error),
            Err(_) => Trouble::Silence,
        };
        let passes = match &trouble {
            Trouble::Origin(error) => {
                matches!(error.class, ErrorClass::Network | ErrorClass::ServerError | ErrorClass::Throttled)
            }
            Trouble::Silence | Trouble::Stopping => false,
        };
        if !passes || tries == TRIES {
            return Err(trouble);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
