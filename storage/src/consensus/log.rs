//! The part of the log that the library may ask for: what is not yet applied, in memory.
//!
//! Durable is the journal; this is filled from it at start and compacted as entries are applied.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use super::{LogPosition, Recovered, conf_state, entry_type, hard_state};

/// See the file's head.
pub(super) struct LogStore {
    hard_state: HardState,
    conf_state: ConfState,
    /// The last position that is no longer here.
    compacted: LogPosition,
    entries: VecDeque<Entry>,
}

impl LogStore {
    pub(super) fn new(recovered: Recovered) -> LogStore {
        let compacted = recovered.checkpoint;
        let entries: VecDeque<Entry> = recovered
            .entries
            .into_iter()
            .map(|entry| Entry {
                entry_type: entry_type(entry.kind),
                term: entry.at.term,
                index: entry.at.index,
                data: entry.data,
                ..Entry::default()
            })
            .collect();
        let (term, vote, commit) = recovered.hard_state.unwrap_or_default();
        let last = entries.back().map_or(compacted.index, |entry| entry.index);
        let last_term = entries.back().map_or(compacted.term, |entry| entry.term);
        // The commit index travels lazily; the checkpoint and the log bound it from both sides.
        let commit = commit.clamp(compacted.index, last);
        LogStore {
            hard_state: hard_state(term.max(last_term), vote, commit),
            conf_state: conf_state(recovered.voters),
            compacted,
            entries,
        }
    }

    /// Replaces the log from the first of `new` on.
    pub(super) fn append(&mut self, new: &[Entry]) {
        let Some(first) = new.first() else { return };
        let keep = first.index.saturating_sub(self.compacted.index + 1) as usize;
        assert!(keep <= self.entries.len(), "gap in the log before {}", first.index);
        self.entries.truncate(keep);
        self.entries.extend(new.iter().cloned());
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(super) fn set_commit(&mut self, commit: u64) {
        self.hard_state.commit = commit;
    }

    /// Forgets entries up to `index`, which are applied.
    pub(super) fn compact(&mut self, index: u64) {
        while let Some(entry) = self.entries.front().filter(|entry| entry.index <= index) {
            self.compacted = LogPosition { index: entry.index, term: entry.term };
            self.entries.pop_front();
        }
    }

    fn at(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.compacted.index + 1)?;
        self.entries.get(offset as usize)
    }
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut entries = Vec::new();
        let mut size = 0;
        for index in low..high {
            let entry = self.at(index).ok_or(Error::Store(StorageError::Unavailable))?;
            size += entry.data.len() as u64;
            if size > max_size && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.index {
            return Ok(self.compacted.term);
        }
        if index < self.compacted.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.at(index).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.entries.back().map_or(self.compacted.index, |entry| entry.index))
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // Only a follower needs one, and there is none yet.
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
