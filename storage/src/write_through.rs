//! Writes to write-through mounts: acknowledged when the origin has them.
//!
//! Owns what of a submission is waited for, and the wait. What must hold (PITFALLS 29): the change is committed here
//! first and queued like any other; its writer is told of success only after `Flushed` was applied for it, or for a
//! newer change that stands in its place. A wait that ends otherwise takes nothing back: the change is here, stays
//! queued, and the error says so. A crash while somebody waits leaves the same.
//!
//! Each change of a submission is waited for by itself, all from the same moment on. The outcomes come before any of
//! that, so that whoever waits need not hold their views.
//!
//! FLUSHDB does not wait: its deletes are queued as the bucket is swept.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::evict::submit_held;
use crate::flush::{Arriving, Flusher, MountId};
use crate::mutation::{Mutation, Outcome};
use crate::object::BucketId;
use crate::store::Shared;
use crate::submission::{Outcomes, Submission};

/// A key that a mutation of a submission may change.
struct Change {
    /// Index of the mutation's outcome.
    outcome: usize,
    /// Whether it deletes: one that finds nothing waits for the delete that took it away, like whoever sends a delete
    /// again because its first answer was an error.
    deletes: bool,
    bucket: BucketId,
    key: Bytes,
    mount: MountId,
}

impl Change {
    fn is_awaited(&self, outcome: &Outcome) -> bool {
        has_changed(outcome) || (self.deletes && *outcome == Outcome::Unmet)
    }
}

/// What a submission has changed under write-through mounts, on its way to their origins. Dropped, nobody waits for
/// it; it arrives all the same.
#[derive(Default)]
pub struct Arrival {
    /// In the order of their outcomes.
    changes: Vec<Change>,
    /// The worker that carries them, if there is one yet, and the wait for it.
    on_the_way: Option<(Arc<Flusher>, Arriving)>,
}

impl Arrival {
    /// Whether nothing is waited for.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether one of these outcomes is waited for.
    pub fn concerns(&self, outcomes: Range<usize>) -> bool {
        !self.changes_of(outcomes).is_empty()
    }

    /// Waits until what led to these outcomes is in its origin; [`Error::NotInOrigin`] says why it is not: as soon as
    /// a change is set aside, or when the mount's `write_through_timeout` has passed since the commit. Asked of several
    /// one after the other, all of them are on their way from the first time on. The future may be dropped.
    pub async fn of(&mut self, outcomes: Range<usize>) -> Result<()> {
        let Range { start, end } = self.places_of(outcomes);
        if start == end {
            return Ok(());
        }
        let changes = &self.changes[start..end];
        let Some((flusher, arriving)) = &mut self.on_the_way else {
            return Err(Error::NotInOrigin("the flush queue is not worked yet".into()));
        };
        let timeouts = changes.iter().filter_map(|change| flusher.write_through_timeout(change.mount));
        let timeout = timeouts.max().unwrap_or(Duration::ZERO);
        arriving.wait(&names(changes), timeout).await.map_err(|reason| Error::NotInOrigin(reason.into()))
    }

    /// The same for all of it at once.
    pub async fn all(mut self) -> Result<()> {
        self.of(0..usize::MAX).await
    }

    fn places_of(&self, outcomes: Range<usize>) -> Range<usize> {
        let before = |outcome: usize| self.changes.partition_point(|change| change.outcome < outcome);
        before(outcomes.start)..before(outcomes.end)
    }

    fn changes_of(&self, outcomes: Range<usize>) -> &[Change] {
        &self.changes[self.places_of(outcomes)]
    }
}

fn names(changes: &[Change]) -> Vec<(BucketId, Bytes)> {
    let mut names: Vec<_> = changes.iter().map(|change| (change.bucket, change.key.clone())).collect();
    names.sort();
    names.dedup();
    names
}

/// Takes a submission through the log; with what it came to, how far that is on its way to write-through mounts.
pub(crate) async fn submit(shared: &Arc<Shared>, submission: Submission) -> Result<(Outcomes, Arrival)> {
    if !shared.status.write_through.load(Relaxed) {
        return Ok((submit_held(shared, submission).await?, Arrival::default()));
    }
    let mut changes = changes_of(shared, &submission);
    let outcomes = submit_held(shared, submission).await?;
    changes.retain(|change| outcomes.results.get(change.outcome).is_some_and(|it| change.is_awaited(it)));
    if changes.is_empty() {
        return Ok((outcomes, Arrival::default()));
    }
    let up_to = shared.keyspace.visible();
    let on_the_way = shared.flusher().map(|flusher| {
        let arriving = flusher.arriving(up_to, names(&changes));
        (flusher, arriving)
    });
    Ok((outcomes, Arrival { changes, on_the_way }))
}

fn has_changed(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Done(_) | Outcome::Integer(_) | Outcome::Length(_) | Outcome::Text(_) => true,
        Outcome::Unmet
        | Outcome::Bucket(..)
        | Outcome::Mount(_)
        | Outcome::Boot(_)
        | Outcome::Refused(_)
        | Outcome::Skipped => false,
    }
}

/// What a submission may change under write-through mounts.
fn changes_of(shared: &Shared, submission: &Submission) -> Vec<Change> {
    type Visit<'v> = dyn FnMut(usize, bool, BucketId, &[u8]) + 'v;
    fn add(mutation: &Mutation<'_>, outcome: &mut usize, visit: &mut Visit<'_>) {
        let own = *outcome;
        *outcome += 1;
        let deletes = matches!(mutation, Mutation::Delete { .. });
        match mutation {
            Mutation::SetString { bucket, key, .. }
            | Mutation::Append { bucket, key, .. }
            | Mutation::SetRange { bucket, key, .. }
            | Mutation::IncrBy { bucket, key, .. }
            | Mutation::IncrByFloat { bucket, key, .. }
            | Mutation::Delete { bucket, key }
            | Mutation::Expire { bucket, key, .. }
            | Mutation::PutObject { bucket, key, .. }
            | Mutation::Copy { to_bucket: bucket, to: key, .. }
            | Mutation::CopyObject { to_bucket: bucket, to: key, .. }
            | Mutation::CompleteUpload { bucket, key, .. } => visit(own, deletes, *bucket, key),
            Mutation::Rename { bucket, from, to, .. } => {
                visit(own, deletes, *bucket, from);
                visit(own, deletes, *bucket, to);
            }
            Mutation::Atomic { mutations, .. } => {
                mutations.iter().for_each(|mutation| add(mutation, outcome, visit));
            }
            // Nothing of these is for the origin, or nobody waits for it.
            _ => {}
        }
    }
    let mut changes = Vec::new();
    let (mut bytes, mut outcome) = (&submission.bytes[..], 0);
    while let Some(mutation) = Mutation::decode(&mut bytes) {
        add(&mutation, &mut outcome, &mut |outcome, deletes, bucket, key| {
            if let Some(mount) =
                shared.with_mount(bucket, key, |mount, row| row.write_through.then_some(mount))
            {
                changes.push(Change {
                    outcome,
                    deletes,
                    bucket,
                    key: Bytes::copy_from_slice(key),
                    mount: MountId(mount),
                });
            }
        });
    }
    changes
}

#[cfg(test)]
mod tests;
