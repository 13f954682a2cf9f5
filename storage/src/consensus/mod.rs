//! The Raft core: the crate `raft` driven by hand, one group, no clock, no I/O, no threads.
//!
//! [`Core::step`] takes an event and says what must happen: entries to be written, a hard state, what is
//! committed. Its drivers are one OS thread (`replica/`) and the simulator. The only file that names the
//! library. What must hold: what a step asks to be written is on disk before [`Event::Persisted`] is fed
//! back; votes and terms with it.

mod log;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState};
use raft::{Config, RawNode, Ready, StateRole};

use log::LogStore;

/// Ticks without a leader before an election; a tick is 100 ms.
const ELECTION_TICKS: usize = 10;

/// Number of a disk in the Raft group: each disk has its own, and a replaced one never comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RaftId(pub u64);

/// A log position: index and term of the entry there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogPosition {
    /// Index; 0 before the first entry.
    pub index: u64,
    /// Term of the entry.
    pub term: u64,
}

/// What recovery found.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Term, vote, commit index.
    pub hard_state: Option<(u64, u64, u64)>,
    /// Voters.
    pub voters: Vec<u64>,
    /// The last entry in the checkpoint.
    pub checkpoint: LogPosition,
    /// Entries above the checkpoint, in order and without gaps.
    pub entries: Vec<RecoveredEntry>,
}

/// One entry read from the journal.
#[derive(Debug)]
pub(crate) struct RecoveredEntry {
    /// Position.
    pub at: LogPosition,
    /// Raft's entry type.
    pub kind: u8,
    /// Payload.
    pub data: bytes::Bytes,
}

/// What happens to the core.
pub(crate) enum Event {
    /// Become a candidate: the only voter does so at start.
    Campaign,
    /// 100 ms have passed.
    Tick,
    /// Append this payload, if this node leads.
    Propose(Vec<u8>),
    /// What the last effects asked to be written is on disk.
    Persisted,
    /// Everything up to this index has been applied.
    Applied(u64),
}

/// What must happen, in this order: write, sync, `Persisted`, apply.
#[derive(Default)]
pub(crate) struct Effects {
    /// To be written before `Persisted`.
    pub(crate) append: Vec<LogEntry>,
    /// Term, vote, commit: to be written before the entries.
    pub(crate) hard_state: Option<(u64, u64, u64)>,
    /// To be applied.
    pub(crate) committed: Vec<LogEntry>,
    /// Whether `Persisted` is awaited.
    pub(crate) await_persist: bool,
}

/// An entry on its way to the journal or to apply.
#[derive(Debug, Clone)]
pub(crate) struct LogEntry {
    pub(crate) at: LogPosition,
    pub(crate) kind: u8,
    pub(crate) data: bytes::Bytes,
}

impl From<Entry> for LogEntry {
    fn from(entry: Entry) -> LogEntry {
        LogEntry {
            at: LogPosition { index: entry.index, term: entry.term },
            kind: entry.entry_type as u8,
            data: entry.data,
        }
    }
}

/// An error of the library: a broken contract between it and its driver; ends the process.
#[derive(Debug, thiserror::Error)]
#[error("consensus: {0}")]
pub(crate) struct CoreError(#[from] raft::Error);

/// See the file's head.
pub(crate) struct Core {
    node: RawNode<LogStore>,
    unpersisted: Option<Ready>,
}

impl Core {
    /// A core that goes on where recovery left off.
    pub(crate) fn new(id: RaftId, recovered: Recovered) -> Result<Core, CoreError> {
        let config = Config {
            id: id.0,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: 2,
            applied: recovered.checkpoint.index,
            check_quorum: true,
            pre_vote: true,
            max_inflight_msgs: 256,
            max_size_per_msg: 1 << 20,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, LogStore::new(recovered), &logger)?;
        Ok(Core { node, unpersisted: None })
    }

    /// Feeds an event; effects that are due are appended to `effects`.
    pub(crate) fn step(&mut self, event: Event, effects: &mut Effects) -> Result<(), CoreError> {
        match event {
            Event::Campaign => self.node.campaign()?,
            Event::Tick => {
                self.node.tick();
            }
            Event::Propose(data) => self.node.propose(Vec::new(), data)?,
            Event::Persisted => {
                if let Some(ready) = self.unpersisted.take() {
                    let mut light = self.node.advance(ready);
                    if let Some(commit) = light.commit_index() {
                        self.node.mut_store().set_commit(commit);
                    }
                    effects.committed.extend(light.take_committed_entries().into_iter().map(LogEntry::from));
                }
            }
            Event::Applied(index) => {
                self.node.advance_apply_to(index);
                self.node.mut_store().compact(index);
            }
        }
        Ok(())
    }

    /// Takes what is due. Not before the last effects were persisted.
    pub(crate) fn take_ready(&mut self, effects: &mut Effects) {
        if self.unpersisted.is_some() || !self.node.has_ready() {
            return;
        }
        let mut ready = self.node.ready();
        effects.committed.extend(ready.take_committed_entries().into_iter().map(LogEntry::from));
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        effects.append.extend(entries.into_iter().map(LogEntry::from));
        if let Some(hard_state) = ready.hs() {
            effects.hard_state = Some((hard_state.term, hard_state.vote, hard_state.commit));
            let hard_state = hard_state.clone();
            self.node.mut_store().set_hard_state(hard_state);
        }
        effects.await_persist = true;
        self.unpersisted = Some(ready);
    }

    /// Whether this node leads and has committed an entry of its own term: proposals and reads are allowed.
    pub(crate) fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.node.raft.commit_to_current_term()
    }

    /// Position of the last entry in the log, persisted or not.
    pub(crate) fn last(&self) -> LogPosition {
        let log = &self.node.raft.raft_log;
        LogPosition { index: log.last_index(), term: self.node.raft.term }
    }

    /// The current term.
    pub(crate) fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The commit index.
    pub(crate) fn commit_index(&self) -> u64 {
        self.node.raft.raft_log.committed
    }
}

/// Whether an entry carries mutations (and not a change of the voters).
pub(crate) fn is_normal(kind: u8) -> bool {
    kind == EntryType::EntryNormal as u8
}

/// The byte form of the voters, for the journal.
pub(crate) fn encode_voters(voters: &[u64]) -> Vec<u8> {
    let mut out = vec![1];
    for voter in voters {
        out.extend_from_slice(&voter.to_le_bytes());
    }
    out
}

/// Decodes what [`encode_voters`] wrote.
pub(crate) fn decode_voters(bytes: &[u8]) -> Option<Vec<u64>> {
    let (&layout, rest) = bytes.split_first()?;
    let (voters, tail) = rest.as_chunks::<8>();
    (layout == 1 && tail.is_empty()).then(|| voters.iter().map(|v| u64::from_le_bytes(*v)).collect())
}

fn entry_type(kind: u8) -> EntryType {
    match kind {
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => EntryType::EntryNormal,
    }
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit, ..HardState::default() }
}

fn conf_state(voters: Vec<u64>) -> ConfState {
    ConfState { voters, ..ConfState::default() }
}
