//! What becomes of damaged extents: given up where an origin says that it holds the bytes, else kept and reported.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::ask::{Answer, Ask, REQUESTS_MAX};
use super::extents;
use super::rows::{NamedBy, Owner};
use super::walk::{Stop, finding, name_of};
use super::{FindingKind, Job};
use crate::blob::Pointer;
use crate::evict;
use crate::keyspace::places::Batch;
use crate::object::BlobId;
use crate::store::Shared;

/// Damaged extents that are given up with one checkpoint.
pub(super) const MENDED_AT_ONCE: usize = 64;

/// Longest wait for a checkpoint before the word to stop is looked for.
const COMMIT_LOOK: Duration = Duration::from_millis(100);

/// A damaged extent, and the row that names it, if one was seen.
pub(super) struct Damage {
    pub(super) blob: BlobId,
    pub(super) place: Pointer,
    pub(super) by: Option<NamedBy>,
}

impl Damage {
    fn object(&self) -> Option<&Owner> {
        match &self.by {
            Some(NamedBy::Object(owner)) => Some(owner),
            _ => None,
        }
    }
}

/// Reports damaged extents, and gives up those of which the origins hold the bytes.
pub(super) fn mend(shared: &Arc<Shared>, job: &Job, ask: &dyn Ask, damaged: Vec<Damage>) -> Result<(), Stop> {
    job.pace.spend(0)?;
    let mut wrong: Vec<(Damage, String)> = Vec::new();
    for damage in damaged {
        // It may have gone since, with its object or to another place.
        if let Some(what) = extents::check(shared, job, damage.blob, damage.place)? {
            let what = format!("{} is damaged: {what}", name_of(damage.blob));
            wrong.push((damage, what));
        }
    }
    let objects = wrong.iter().filter_map(|(damage, _)| damage.object().cloned());
    let objects: Vec<Owner> = objects.collect();
    let mut answers = Vec::with_capacity(objects.len());
    for objects in objects.chunks(REQUESTS_MAX) {
        answers.extend(ask.ask(shared, &job.pace, objects));
        job.pace.spend(0)?;
    }
    let mut answers = answers.into_iter();
    let mut give_up = Vec::new();
    let mut fates: Vec<Fate> = Vec::with_capacity(wrong.len());
    for (damage, _) in &wrong {
        fates.push(match damage.object().and_then(|_| answers.next()) {
            Some(Answer::Held) => {
                give_up.push((damage.blob, damage.place));
                Fate::GivenUp
            }
            answer => Fate::Kept(why_kept(damage, answer)),
        });
    }
    let given_up = give_up_all(shared, job, &give_up)?;
    for ((damage, what), fate) in wrong.into_iter().zip(fates) {
        let (rest, mended) = match fate {
            Fate::Kept(why) => (why, false),
            Fate::GivenUp if given_up.contains(&damage.blob) => (GIVEN_UP.to_owned(), true),
            Fate::GivenUp => (BUILT_ON.to_owned(), false),
        };
        let what = format!("{what}; {rest}");
        job.report(
            shared,
            match &damage.by {
                Some(by) => by.finding(shared, FindingKind::Extent, what, mended),
                None => finding(FindingKind::Extent, what, mended),
            },
        );
    }
    Ok(())
}

const GIVEN_UP: &str = "given up here, the next read fetches it from the origin";
const BUILT_ON: &str = "it is being built on, so it is kept as it is: run it again";

enum Fate {
    GivenUp,
    Kept(String),
}

/// Why a damaged extent stays, by what its origin says.
fn why_kept(damage: &Damage, answer: Option<Answer>) -> String {
    let only_here = "no origin holds it, so it is kept as it is: write the object again";
    match (answer, &damage.by) {
        (None, None) => "no row was seen that names it".to_owned(),
        (None | Some(Answer::Unknown | Answer::Held), _) => only_here.to_owned(),
        (Some(Answer::Moot), _) => "the object is another one by now".to_owned(),
        (Some(Answer::Silent(why)), _) => {
            format!(
                "its origin does not say that it holds the bytes, so they are kept as they are: run it again ({why})"
            )
        }
        (Some(Answer::Other(what)), _) => {
            format!("its origin does not hold it, there {what}; it is kept as it is: write the object again")
        }
    }
}

/// The blobs whose places were given up.
fn give_up_all(shared: &Arc<Shared>, job: &Job, places: &[(BlobId, Pointer)]) -> Result<Vec<BlobId>, Stop> {
    let wait = |batch: &Batch| {
        while batch.wait(COMMIT_LOOK).open > 0 {
            // Told to stop by somebody else, it still waits: what is being given up must not be built on.
            if job.stops.load(Relaxed) {
                return false;
            }
        }
        true
    };
    match evict::give_up(shared, places, &wait) {
        Ok(_) if job.stops.load(Relaxed) => Err(Stop::Canceled),
        Ok(given_up) => Ok(given_up),
        Err(error) => Err(Stop::Failed(error.to_string())),
    }
}
