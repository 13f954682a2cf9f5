//! Objects that lie in an origin and have no row here: mounts over existing data.
//!
//! Owns the questions to origins (`ask`) and what follows from their answers: a key without a row is looked up with a
//! HEAD and taken over with its head alone (`Adopt`), or remembered as absent; `revalidate` asks again for what is
//! known; `merge` lists what is here together with what the origins list (`source`); `import` takes over all of it.
//! Does not own bytes (`fill/` reads them), nor the judgement whether an answer may be believed: that is apply's
//! (`apply/adopt.rs`).
//!
//! What must hold (PITFALLS 24):
//! - An answer from before a write or a delete of ours never brings an old object back. Whoever asks notes the
//!   visible version first; what was learnt goes through the log with it, and is refused if the key, or the mark of
//!   deletes of its slot, has changed since. A listing looks at the same rows after the origin's page has come.
//! - Trouble with an origin is an error, and never absence.
//! - What is remembered as absent counts only while no row is there and nothing else is known of the key: it hides
//!   nothing that was written or taken over here.
//!
//! Everything here but the rows is this node's memory: a crash leaves nothing, and what was learnt is learnt again.
//! Imports go on from their last note.

mod ask;
mod cover;
mod found;
mod import;
mod local;
mod merge;
mod remembered;
mod revalidate;
mod source;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};
use crate::keyspace::tables::Table;
use crate::log_limit::LogLimit;
use crate::mutation::{Mutation, Outcome};
use crate::object::{BucketId, Version};
use crate::store::{Shared, Store};
use crate::submission::Submission;

use ask::Turns;
use cover::Covered;
use found::Found;
use import::Imports;
use local::{Local, glance};
use remembered::Remembered;
use revalidate::Answers;

pub(crate) use cover::{Cover, Reach};
pub use import::ImportStatus;
pub(crate) use import::resume;
pub use merge::{MergedEntry, MergedList, MergedPage};

/// Times that a key is looked at again after it has changed while its origin was asked.
const TRIES: usize = 8;
/// Keys of one call that are looked up at once.
const KEYS_AT_ONCE: usize = 16;

/// What look-ups have done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LookupCounts {
    /// Keys that an origin was asked about.
    pub(crate) asked: u64,
    /// Of these, ones that it could not be asked about.
    pub(crate) failed: u64,
    /// Objects taken over.
    pub(crate) adopted: u64,
    /// Objects dropped because the origin does not hold them any more.
    pub(crate) vanished: u64,
}

#[derive(Default)]
struct Counters {
    asked: AtomicU64,
    failed: AtomicU64,
    adopted: AtomicU64,
    vanished: AtomicU64,
}

type Flown = Option<Result<()>>;
type Flights = HashMap<(BucketId, Bytes), watch::Receiver<Flown>, RandomState>;

/// See the file's head. One per store.
#[derive(Default)]
pub(crate) struct Lookups {
    /// One look-up of a key, however many wait for it. Held for a look-up only.
    flights: Mutex<Flights>,
    turns: Turns,
    /// Keys that an origin did not hold when it was asked.
    absent: Remembered,
    answers: Answers,
    imports: Imports,
    stop: CancellationToken,
    tasks: TaskTracker,
    counters: Counters,
    /// For lines about objects that the log does not take over.
    refused_lines: LogLimit,
    #[cfg(test)]
    missing: Mutex<Option<Rule>>,
}

/// A rule that a test takes away, and must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// What is visible is noted before an origin is asked.
    Order,
    /// What was deleted here is not listed.
    Deletes,
    /// Trouble is an error.
    Trouble,
    /// What is known under a common prefix is looked at.
    Prefixes,
    /// The longest prefix has a key.
    Owners,
}

impl Lookups {
    /// Sets how long what an origin has answered counts; `None`: for ever.
    pub(crate) fn configure(&self, mount: u32, ttl: Option<Duration>) {
        self.answers.configure(mount, ttl);
    }

    /// Ends what is under way; whoever waits gets an error.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A read of the key's bytes has found something else in the origin: what was learnt of it does not count.
    pub(crate) fn doubt(&self, mount: u32, key: &[u8]) {
        self.answers.doubt(mount, key);
    }

    /// The key's change was given up: the origin may hold something that was taken for gone.
    pub(crate) fn forget_absence(&self, mount: u32, key: &[u8]) {
        self.absent.forget(mount, key);
    }

    pub(crate) fn counts(&self) -> LookupCounts {
        let Counters { asked, failed, adopted, vanished } = &self.counters;
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let (asked, failed, adopted, vanished) = (load(asked), load(failed), load(adopted), load(vanished));
        LookupCounts { asked, failed, adopted, vanished }
    }

    /// Whether a rule is in force: always, but in tests.
    #[cfg(not(test))]
    const fn has(&self, _: Rule) -> bool {
        true
    }

    #[cfg(test)]
    fn has(&self, rule: Rule) -> bool {
        *self.missing.lock() != Some(rule)
    }

    fn is_absent(&self, mount: u32, key: &[u8]) -> bool {
        self.absent.get(mount, key).is_some_and(|asked_at| self.answers.counts(mount, asked_at))
    }
}

impl Store {
    /// Whether any mount looks up: one atomic load. Without, everything about an object is known here.
    #[inline]
    pub fn has_lookups(&self) -> bool {
        self.shared().status.looks_up.load(Relaxed)
    }

    /// Whether the key must be looked up before anything that depends on what it holds: its mount is over existing
    /// data and nothing is known of it, or what is known is to be asked again. Never waits, touches no disk; also
    /// true where it cannot be told so.
    pub fn is_unknown(&self, bucket: BucketId, key: &[u8]) -> bool {
        if !self.has_lookups() {
            return false;
        }
        let shared = self.shared();
        let cover = shared.status.cover.load();
        cover.looking(bucket, key).is_some_and(|mount| is_unknown(shared, mount, key).unwrap_or(true))
    }

    /// Makes keys known: looks those up in their origins that are not, and takes over what is there. Afterwards the
    /// rows here say what is. Keys that are known cost a look.
    ///
    /// [`Error::Unavailable`] when an origin cannot be asked, [`Error::Full`] when there is no room for a row more;
    /// some keys may be known all the same. One look-up of a key runs at a time, at most 64 of a mount, and 8,192
    /// wait for at most 15 s. The future may be dropped: look-ups under way go on.
    pub async fn look_up(&self, keys: &[(BucketId, &[u8])]) -> Result<()> {
        let unknown = |(bucket, key): &&(BucketId, &[u8])| self.is_unknown(*bucket, key);
        let owned = |(bucket, key): &(BucketId, &[u8])| (*bucket, Bytes::copy_from_slice(key));
        let unknown: Vec<(BucketId, Bytes)> = keys.iter().filter(unknown).map(owned).collect();
        let shared = self.shared();
        match &unknown[..] {
            [] => Ok(()),
            [(bucket, key)] => settle(shared, *bucket, key).await,
            _ => settle_all(shared, unknown).await,
        }
    }

    /// Whether listings of keys that begin with `prefix` ask an origin.
    pub fn lists_origin(&self, bucket: BucketId, prefix: &[u8]) -> bool {
        self.has_lookups() && self.shared().status.cover.load().within(bucket, prefix).next().is_some()
    }
}

fn is_unknown(shared: &Shared, mount: &Covered, key: &[u8]) -> Result<bool> {
    let (lookups, number, bucket) = (&shared.lookups, mount.mount, mount.bucket);
    let Some((object, at)) = glance(shared, Table::Object, bucket, key)? else { return Ok(true) };
    if key.is_empty() || object.is_some() && !mount.revalidate {
        return Ok(false);
    }
    if object.is_none() && lookups.is_absent(number, key) {
        return Ok(false);
    }
    // Read after the object row: what comes between makes something known, and never unknown.
    let Some((origin, _)) = glance(shared, Table::Origin, bucket, key)? else { return Ok(true) };
    Ok(match Local::of(shared, (bucket, at), number, object, origin) {
        Local::Unknown => true,
        Local::Here { clean: Some(_), .. } => lookups.answers.is_due(number, key),
        Local::Here { clean: None, .. } | Local::Gone => false,
    })
}

async fn settle_all(shared: &Arc<Shared>, keys: Vec<(BucketId, Bytes)>) -> Result<()> {
    let settled = keys.into_iter().map(|(bucket, key)| async move { settle(shared, bucket, &key).await });
    futures_util::stream::iter(settled).buffer_unordered(KEYS_AT_ONCE).try_collect::<()>().await
}

/// Looks a key up, or waits for the look-up that is under way.
async fn settle(shared: &Arc<Shared>, bucket: BucketId, key: &Bytes) -> Result<()> {
    let mut flight = {
        let mut flights = shared.lookups.flights.lock();
        match flights.get(&(bucket, key.clone())) {
            Some(flight) => flight.clone(),
            None => {
                let (told, flight) = watch::channel(None);
                flights.insert((bucket, key.clone()), flight.clone());
                let run = Flight { shared: shared.clone(), bucket, key: key.clone() };
                shared.lookups.tasks.spawn(async move {
                    let flown = run.fly().await;
                    // Before anybody is told: who comes after an error asks again.
                    drop(run);
                    told.send_replace(Some(flown));
                });
                flight
            }
        }
    };
    let flown = flight.wait_for(Option::is_some).await.map(|flown| flown.clone());
    flown.ok().flatten().unwrap_or(Err(Error::Stopping))
}

/// A look-up under way; dropped, it is under way no more, whatever became of it.
struct Flight {
    shared: Arc<Shared>,
    bucket: BucketId,
    key: Bytes,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.lookups.flights.lock().remove(&(self.bucket, self.key.clone()));
    }
}

/// What is to be asked of an origin.
struct Question {
    /// What was visible before.
    read_at: Version,
    /// The version that is here, and the ETag by which the origin is known to hold it.
    stands: Option<(Version, String)>,
}

impl Flight {
    async fn fly(&self) -> Result<()> {
        let counters = &self.shared.lookups.counters;
        for _ in 0..TRIES {
            let cover = self.shared.status.cover.load_full();
            let Some(mount) = cover.looking(self.bucket, &self.key) else { return Ok(()) };
            if self.question(mount).await?.is_none() {
                return Ok(());
            }
            if !mount.attached {
                return Err(Error::Unavailable("the origin was not reached yet; what it holds is not known"));
            }
            let reach = self.shared.fills.reach(mount.mount);
            let reach = reach.ok_or(Error::Unavailable("the mount's origin is not attached yet"))?;
            let Some(name) = reach.name(&self.key) else { return Ok(()) };
            let _turn = self.shared.lookups.turns.turn(mount.mount).await?;
            // Anew: the wait may have been long.
            let Some(question) = self.question(mount).await? else { return Ok(()) };
            let asked_at = Instant::now();
            counters.asked.fetch_add(1, Relaxed);
            let answer = ask::head(&reach, &name, &self.shared.lookups.stop).await;
            if answer.is_err() {
                counters.failed.fetch_add(1, Relaxed);
            }
            let answer = match self.shared.lookups.has(Rule::Trouble) {
                true => answer,
                false => Ok(answer.unwrap_or(None)),
            };
            let question = match self.shared.lookups.has(Rule::Order) {
                true => question,
                false => Question { read_at: self.shared.keyspace.visible(), ..question },
            };
            let found = match answer {
                Ok(Some(head)) => Found::of(head).map(Some).ok_or(NO_ETAG),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            if self.take(mount, question, found, asked_at).await? {
                return Ok(());
            }
        }
        Err(Error::Unavailable("the key changes faster than its origin answers"))
    }

    /// What must be asked, if anything.
    async fn question(&self, mount: &Covered) -> Result<Option<Question>> {
        let (lookups, key) = (&self.shared.lookups, &self.key);
        let (local, read_at) = Local::look(&self.shared, (self.bucket, key), mount.mount).await?;
        let stands = match local {
            Local::Unknown if lookups.is_absent(mount.mount, key) => return Ok(None),
            Local::Unknown => None,
            Local::Here { version, clean: Some(etag), .. } if lookups.answers.is_due(mount.mount, key) => {
                Some((version, etag))
            }
            Local::Here { .. } | Local::Gone => return Ok(None),
        };
        Ok(Some(Question { read_at, stands }))
    }

    /// Does what follows from an answer; false if the key has changed meanwhile.
    async fn take(
        &self,
        mount: &Covered,
        question: Question,
        answer: Result<Option<Found>>,
        asked_at: Instant,
    ) -> Result<bool> {
        let (lookups, bucket, key) = (&self.shared.lookups, self.bucket, &*self.key);
        let (mount, Question { read_at, stands }) = (mount.mount, question);
        let found = match (answer, &stands) {
            (Ok(found), _) => found,
            (Err(error), None) => return Err(error),
            (Err(_), Some(_)) => {
                lookups.answers.note_trouble(mount);
                return Ok(true);
            }
        };
        let done = match (&found, stands) {
            (None, None) => {
                lookups.absent.note(mount, key, asked_at);
                return Ok(true);
            }
            (Some(found), Some((_, etag))) if found.origin_etag() == etag => true,
            (Some(found), stands) => {
                let (replaces, head) = (stands.map(|(version, _)| version), found.head());
                self.submit(&Mutation::Adopt { bucket, key, mount, read_at, replaces, head }).await?
            }
            (None, Some((version, _))) => {
                self.submit(&Mutation::Vanish { bucket, key, mount, version, read_at }).await?
            }
        };
        match (done, found) {
            (false, _) => {}
            (true, Some(_)) => lookups.answers.note(mount, key, asked_at),
            (true, None) => lookups.absent.note(mount, key, asked_at),
        }
        Ok(done)
    }

    /// Whether apply took it.
    async fn submit(&self, mutation: &Mutation<'_>) -> Result<bool> {
        self.shared.admit_row()?;
        let mut submission = Submission::new();
        submission.push(mutation);
        let counters = &self.shared.lookups.counters;
        match self.shared.submit(submission).await?.results.first() {
            Some(Outcome::Done(_)) => {
                let adopts = matches!(mutation, Mutation::Adopt { .. });
                if adopts { &counters.adopted } else { &counters.vanished }.fetch_add(1, Relaxed);
                Ok(true)
            }
            Some(Outcome::Refused(refusal)) => {
                if let Some(not_shown) = self.shared.lookups.refused_lines.admit(Instant::now()) {
                    let bucket = bucket_name(&self.shared, self.bucket);
                    tracing::warn!(bucket, %refusal, not_shown, "an object of an origin was not taken over");
                }
                Err(Error::Unavailable("the origin holds an object that cannot be taken over"))
            }
            _ => Ok(false),
        }
    }
}

const NO_ETAG: Error = Error::Unavailable("the origin gives no ETag of the object that it holds");

fn bucket_name(shared: &Shared, bucket: BucketId) -> String {
    shared
        .registry
        .get(bucket)
        .map_or_else(String::new, |bucket| String::from_utf8_lossy(&bucket.name).into_owned())
}

#[cfg(test)]
mod tests;
