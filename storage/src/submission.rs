//! One client's pipeline on its way into the log: mutations in their byte form, and the places where
//! reads stand between them.
//!
//! A submission's mutations go into the log together and in order; a view taken at a place sees exactly
//! the state between the mutations around it, so that `SET a 1, GET a, SET a 2` costs one fsync.

use crate::mutation::{Guard, Mutation, Outcome, encode_atomic_head};
use crate::object::{BlobId, BucketId};
use crate::read::ReadView;
use crate::stage::StagedBody;

/// Index of a mutation's outcome in [`Outcomes::results`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MutationSlot(pub usize);

/// Index of a view in [`Outcomes::views`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewSlot(pub usize);

/// A batch of mutations and view places, submitted by [`crate::store::Store::submit`].
#[derive(Debug, Default)]
pub struct Submission {
    /// Encoded top-level mutations, one behind the other.
    pub(crate) bytes: Vec<u8>,
    /// End of each top-level mutation in `bytes`, with the count of outcomes up to there: where a long
    /// submission may be cut.
    pub(crate) ends: Vec<(usize, usize)>,
    /// For each view: the number of outcomes before it.
    pub(crate) views: Vec<usize>,
    /// Buckets that it may make larger, for admission.
    pub(crate) grows: Vec<BucketId>,
    /// Whether a mutation carries an object's bytes over into something else.
    pub(crate) builds: bool,
    /// Staged bodies that its mutations name.
    staged: Vec<StagedBody>,
    outcomes: usize,
    group: Option<OpenGroup>,
}

#[derive(Debug)]
struct OpenGroup {
    start: usize,
    count: u32,
    count_at: usize,
}

/// What a submission came to.
#[derive(Debug)]
pub struct Outcomes {
    /// One for each mutation in order; for an atomic group one for itself, then one for each inside.
    pub results: Vec<Outcome>,
    /// One for each view asked for, in order.
    pub views: Vec<ReadView>,
}

impl Submission {
    /// An empty submission.
    pub fn new() -> Submission {
        Submission::default()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.outcomes == 0 && self.views.is_empty()
    }

    /// Size of its mutations in bytes.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a mutation; its outcome comes back at the slot (a group's members follow it).
    pub fn push(&mut self, mutation: &Mutation<'_>) -> MutationSlot {
        let slot = MutationSlot(self.outcomes);
        mutation.encode(&mut self.bytes);
        note_growth(mutation, &mut self.grows);
        self.builds |= builds(mutation);
        self.outcomes += outcomes_of(mutation);
        match &mut self.group {
            Some(group) => group.count += 1,
            None => self.ends.push((self.bytes.len(), self.outcomes)),
        }
        slot
    }

    /// Asks for a view of the state after everything pushed so far and before what follows. Two views at
    /// the same place share one slot.
    pub fn view(&mut self) -> ViewSlot {
        if self.views.last() != Some(&self.outcomes) {
            self.views.push(self.outcomes);
        }
        ViewSlot(self.views.len() - 1)
    }

    /// Opens an atomic group: what is pushed until [`Submission::end_atomic`] happens all or not at all.
    /// Its own outcome is at the slot: `Done`, or `Unmet` if a guard does not hold.
    pub fn begin_atomic(&mut self, guards: &[Guard<'_>]) -> MutationSlot {
        assert!(self.group.is_none(), "atomic groups are opened one at a time");
        let slot = MutationSlot(self.outcomes);
        let start = self.bytes.len();
        encode_atomic_head(&mut self.bytes, guards, 0);
        self.group = Some(OpenGroup { start, count: 0, count_at: self.bytes.len() - 4 });
        self.outcomes += 1;
        slot
    }

    /// Closes the group; returns its encoded size in bytes.
    pub fn end_atomic(&mut self) -> usize {
        let Some(group) = self.group.take() else { return 0 };
        self.bytes[group.count_at..group.count_at + 4].copy_from_slice(&group.count.to_le_bytes());
        self.ends.push((self.bytes.len(), self.outcomes));
        self.bytes.len() - group.start
    }

    /// Hands over a staged body that a mutation of this submission names. Once submitted, the log decides what
    /// becomes of it: it is the object's, or, if the mutation was refused or skipped, given up.
    pub fn carry(&mut self, staged: StagedBody) {
        self.staged.push(staged);
    }

    /// The same right behind other mutations, whose outcomes come first.
    pub(crate) fn behind(mut self, first: Submission) -> Submission {
        let (bytes, outcomes) = (first.bytes.len(), first.outcomes);
        self.bytes.splice(..0, first.bytes);
        let ends = self.ends.iter().map(|(end, count)| (end + bytes, count + outcomes));
        self.ends = first.ends.into_iter().chain(ends).collect();
        self.views.iter_mut().for_each(|before| *before += outcomes);
        self.outcomes += outcomes;
        self
    }

    /// The blobs it carries, which from here on are the log's.
    pub(crate) fn take_blobs(&mut self) -> Vec<BlobId> {
        self.staged.drain(..).flat_map(StagedBody::into_blobs).collect()
    }

    /// Number of outcomes that will come back.
    pub fn outcomes_len(&self) -> usize {
        self.outcomes
    }
}

fn note_growth(mutation: &Mutation<'_>, grows: &mut Vec<BucketId>) {
    let bucket = match mutation {
        Mutation::SetString { bucket, .. }
        | Mutation::Append { bucket, .. }
        | Mutation::SetRange { bucket, .. }
        | Mutation::IncrBy { bucket, .. }
        | Mutation::IncrByFloat { bucket, .. }
        | Mutation::PutObject { bucket, .. }
        | Mutation::PutPart { bucket, .. }
        | Mutation::CreateUpload { bucket, .. }
        | Mutation::CopyPart { bucket, .. }
        | Mutation::CompleteUpload { bucket, .. }
        | Mutation::CopyObject { to_bucket: bucket, .. }
        | Mutation::Rename { bucket, .. }
        | Mutation::Copy { to_bucket: bucket, .. } => *bucket,
        Mutation::Atomic { mutations, .. } => {
            return mutations.iter().for_each(|mutation| note_growth(mutation, grows));
        }
        _ => return,
    };
    if grows.last() != Some(&bucket) && !grows.contains(&bucket) {
        grows.push(bucket);
    }
}

fn builds(mutation: &Mutation<'_>) -> bool {
    match mutation {
        Mutation::Append { .. }
        | Mutation::SetRange { .. }
        | Mutation::Rename { .. }
        | Mutation::Copy { .. }
        | Mutation::CopyObject { .. }
        | Mutation::CopyPart { .. } => true,
        Mutation::Atomic { mutations, .. } => mutations.iter().any(builds),
        _ => false,
    }
}

fn outcomes_of(mutation: &Mutation<'_>) -> usize {
    match mutation {
        Mutation::Atomic { mutations, .. } => 1 + mutations.iter().map(outcomes_of).sum::<usize>(),
        _ => 1,
    }
}
