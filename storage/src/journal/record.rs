//! What the journal holds, as its user sees it.

/// The Raft group that a record belongs to. One group is in use; records carry it so that more stay possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u16);

/// One record. Term, vote, index and commit are Raft's; the journal compares indexes only to know
/// which files a release frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A log entry. One with an index that was there before replaces that and all above (as in Raft).
    Entry {
        /// Its group.
        group: GroupId,
        /// The term in which it was proposed.
        term: u64,
        /// Its place in the group's log.
        index: u64,
        /// The user's own distinction, as raft's entry type.
        kind: u8,
        /// The user's small companion of the data.
        context: &'a [u8],
        /// The entry itself.
        data: &'a [u8],
    },
    /// Term, vote and commit index; the newest one counts. A batch should name it before entries of its term:
    /// of a batch that was never synced a crash may leave only the first records.
    HardState {
        /// Its group.
        group: GroupId,
        /// The current term.
        term: u64,
        /// The node voted for in that term; 0 is none, as in raft.
        vote: u64,
        /// The commit index known then.
        commit: u64,
    },
    /// The voters and learners, in the user's encoding; the newest one counts.
    ConfState {
        /// Its group.
        group: GroupId,
        /// At most [`CONF_STATE_BYTES_MAX`].
        bytes: &'a [u8],
    },
    /// The log up to here is contained in a snapshot; the newest one counts.
    SnapshotMarker {
        /// Its group.
        group: GroupId,
        /// The last index inside the snapshot.
        index: u64,
        /// That entry's term.
        term: u64,
    },
}

/// The longest conf state that is accepted: it is written again at the head of every file.
pub const CONF_STATE_BYTES_MAX: usize = 16 * 1024;

/// What a group's newest hard state, conf state and snapshot marker say.
#[derive(Default)]
pub(super) struct GroupState {
    hard_state: Option<(u64, u64, u64)>,
    conf_state: Option<Vec<u8>>,
    snapshot: Option<(u64, u64)>,
}

/// The newest states of all groups: what each new file begins with, so that no older file is needed for them.
#[derive(Default)]
pub(super) struct Restatement {
    groups: std::collections::BTreeMap<GroupId, GroupState>,
}

impl Restatement {
    /// Remembers a record if it replaces an older state.
    pub(super) fn note(&mut self, record: &Record<'_>) {
        match *record {
            Record::Entry { .. } => {}
            Record::HardState { group, term, vote, commit } => {
                self.groups.entry(group).or_default().hard_state = Some((term, vote, commit));
            }
            Record::ConfState { group, bytes } => {
                let state = self.groups.entry(group).or_default().conf_state.get_or_insert_default();
                state.clear();
                state.extend_from_slice(bytes);
            }
            Record::SnapshotMarker { group, index, term } => {
                self.groups.entry(group).or_default().snapshot = Some((index, term));
            }
        }
    }

    /// The records to write at the head of a file.
    pub(super) fn records(&self) -> Vec<Record<'_>> {
        let mut records = Vec::new();
        for (&group, state) in &self.groups {
            if let Some((index, term)) = state.snapshot {
                records.push(Record::SnapshotMarker { group, index, term });
            }
            if let Some(bytes) = &state.conf_state {
                records.push(Record::ConfState { group, bytes });
            }
            if let Some((term, vote, commit)) = state.hard_state {
                records.push(Record::HardState { group, term, vote, commit });
            }
        }
        records
    }
}
