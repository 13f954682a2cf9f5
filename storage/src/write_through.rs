//! Writes to write-through mounts: acknowledged when the origin has them.
//!
//! Owns the choice of what a submission waits for, and the wait. What must hold (PITFALLS 29): the change is committed
//! here first and queued like any other; its writer is told of success only after `Flushed` was applied for it, or for
//! a newer change that stands in its place. A wait that ends otherwise takes nothing back: the change is here, stays
//! queued, and the error says so. A crash while somebody waits leaves the same.
//!
//! FLUSHDB does not wait: its deletes are queued as the bucket is swept.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::evict::submit_held;
use crate::flush::MountId;
use crate::mutation::{Mutation, Outcome};
use crate::object::BucketId;
use crate::store::Shared;
use crate::submission::{Outcomes, Submission};

/// A key that a mutation of a submission may change.
struct Change {
    /// Index of the mutation's outcome.
    outcome: usize,
    bucket: BucketId,
    key: Bytes,
    mount: u32,
}

/// Takes a submission through the log and, as far as it changes keys of write-through mounts, to their origins; with
/// what it came to, why not all of it is there in time.
pub(crate) async fn submit(
    shared: &Arc<Shared>,
    submission: Submission,
) -> Result<(Outcomes, Option<Error>)> {
    if !shared.status.write_through.load(Relaxed) {
        return Ok((submit_held(shared, submission).await?, None));
    }
    let changes = changes_of(shared, &submission);
    let outcomes = submit_held(shared, submission).await?;
    let changed = changes.into_iter().filter(|change| has_changed(&outcomes.results[change.outcome]));
    let changed: Vec<Change> = changed.collect();
    if changed.is_empty() {
        return Ok((outcomes, None));
    }
    let Some(flusher) = shared.flusher() else {
        return Ok((outcomes, Some(Error::NotInOrigin("the flush queue is not worked yet".into()))));
    };
    let timeout = |change: &Change| flusher.write_through_timeout(MountId(change.mount));
    let timeout = changed.iter().filter_map(timeout).max().unwrap_or(Duration::ZERO);
    let mut keys: Vec<(BucketId, Bytes)> = changed.into_iter().map(|it| (it.bucket, it.key)).collect();
    keys.sort();
    keys.dedup();
    let arrived = flusher.arrived(shared.keyspace.visible(), &keys, timeout).await;
    Ok((outcomes, arrived.err().map(|reason| Error::NotInOrigin(reason.into()))))
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
    fn add(mutation: &Mutation<'_>, outcome: &mut usize, visit: &mut dyn FnMut(usize, BucketId, &[u8])) {
        let own = *outcome;
        *outcome += 1;
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
            | Mutation::CompleteUpload { bucket, key, .. } => visit(own, *bucket, key),
            Mutation::Rename { bucket, from, to, .. } => {
                visit(own, *bucket, from);
                visit(own, *bucket, to);
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
        add(&mutation, &mut outcome, &mut |outcome, bucket, key| {
            if let Some(mount) =
                shared.with_mount(bucket, key, |mount, row| row.write_through.then_some(mount))
            {
                changes.push(Change { outcome, bucket, key: Bytes::copy_from_slice(key), mount });
            }
        });
    }
    changes
}

#[cfg(test)]
mod tests;
