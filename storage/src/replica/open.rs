//! Opening a data directory: identity, checkpoint, segments, journal, and an engine that goes on from there.
//!
//! The same code opens real directories and simulated disks. What must hold: everything the journal gives
//! is on disk before the engine relies on it (the journal sees to that), and entries reach the core
//! without a gap above the checkpoint.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;

use super::driver::{CheckpointDone, DriverStats};
use super::{Engine, EngineStatus, EventSink, Fatal, GROUP, MemtableLimits, SyncMode};
use crate::apply::Applier;
use crate::blob::{BlobError, SegmentConfig, SegmentStore};
use crate::clock::{Clock, SteadyClock};
use crate::consensus::{Core, LogPosition, RaftId, Recovered, RecoveredEntry, decode_voters, encode_voters};
use crate::identity::{Identity, IdentityError};
use crate::io::Disk;
use crate::journal::{Journal, JournalConfig, JournalError, Preparer, Record, Recovery};
use crate::keyspace::Keyspace;
use crate::keyspace::base::{Base, BaseError};
use crate::keyspace::checkpoint::{Checkpointer, read_usage};
use crate::keyspace::tables::{CHECKPOINT_KEY, CheckpointRow, SCAN_KEY, decode_scan};
use crate::registry::Registry;
use crate::stage::Stager;

/// What an engine is built from.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) base: Arc<dyn Base>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) preparer: Box<dyn Preparer>,
    pub(crate) journal: JournalConfig,
    pub(crate) segments: SegmentConfig,
    /// Threads that write staged bodies; 0: whoever stages writes.
    pub(crate) stage_threads: usize,
    pub(crate) sync: SyncMode,
    pub(crate) memtable: MemtableLimits,
    pub(crate) cache_bytes: u64,
    pub(crate) body_bytes_max: u64,
    pub(crate) events: EventSink,
}

/// What opening gives.
pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) identity: Identity,
    pub(crate) keyspace: Arc<Keyspace>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) segments: Arc<SegmentStore>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) stager: Arc<Stager>,
    pub(crate) clock: Arc<SteadyClock>,
    pub(crate) status: Arc<EngineStatus>,
    pub(crate) stats: Arc<DriverStats>,
    pub(crate) done: Arc<CheckpointDone>,
    pub(crate) recovery: Recovery,
}

/// Why a data directory could not be opened. Nothing was changed that a second try would miss.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The journal is damaged or cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The checkpoint store is damaged or cannot be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The segments are damaged or cannot be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The identity file is damaged, or is another cluster's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The pieces do not fit each other.
    #[error("{0}")]
    Mismatch(String),
    /// A thread could not be started.
    #[error("starting threads: {0}")]
    Threads(std::io::Error),
    /// The recovered log is not one that the consensus core can go on from.
    #[error("{0}")]
    Core(String),
}

/// Reads what is on disk and builds an engine; it does not run yet. Blocks.
pub(crate) fn open(parts: Parts) -> Result<Opened, OpenError> {
    let identity = Identity::open(&parts.disk)?;
    let base = parts.base;
    let checkpoint = base.get(CHECKPOINT_KEY)?.as_deref().and_then(CheckpointRow::decode).unwrap_or_default();
    let usage = read_usage(&*base)?;
    let to_scan = base.get(SCAN_KEY)?.as_deref().and_then(decode_scan).unwrap_or_default();
    let segments = Arc::new(SegmentStore::open(parts.disk.clone(), parts.segments, &usage, &to_scan)?);
    let stager = Stager::start(segments.clone(), parts.stage_threads).map_err(OpenError::Threads)?;
    let stager = Arc::new(stager);

    let mut log = LogReader::new(checkpoint);
    let visit = &mut |record: crate::journal::RecoveredRecord<'_>| log.visit(&record.record);
    let (mut journal, recovery) = Journal::open(parts.disk, parts.journal, parts.preparer, visit)?;
    let mut recovered = log.finish(recovery.commit_index)?;
    if recovered.voters.is_empty() {
        // A new directory: this disk is the one voter. On disk before the first vote.
        recovered.voters = vec![identity.disk.0];
        let voters = encode_voters(&recovered.voters);
        journal.append(&[Record::ConfState { group: GROUP, bytes: &voters }], 0)?;
        journal.sync()?;
    }
    if !recovered.voters.contains(&identity.disk.0) {
        let text = "the journal belongs to another disk of the cluster; restore its identity file";
        return Err(OpenError::Mismatch(text.to_owned()));
    }
    if recovered.voters.len() > 1 && parts.sync == SyncMode::EverySec {
        return Err(OpenError::Mismatch("sync = \"everysec\" is for a single node only".to_owned()));
    }
    let voted = recovered.hard_state.map_or((0, 0), |(term, vote, _)| (term, vote));
    let position = LogPosition { index: checkpoint.index, term: checkpoint.term };

    let keyspace = Arc::new(Keyspace::new(base, parts.cache_bytes, checkpoint.index));
    let checkpointer = Arc::new(Checkpointer::new(keyspace.clone(), segments.clone(), &usage));
    let registry = Arc::new(Registry::default());
    let applier = Applier::load(
        keyspace.clone(),
        registry.clone(),
        identity.cluster,
        checkpoint.index,
        checkpoint.stamp_ms,
    )?;
    let clock = Arc::new(SteadyClock::new(parts.clock));
    clock.observe(checkpoint.stamp_ms);
    let core =
        Core::new(RaftId(identity.disk.0), recovered).map_err(|error| OpenError::Core(error.to_string()))?;
    let status = Arc::new(EngineStatus::default());
    let checkpointed = Arc::new(AtomicU64::new(checkpoint.index));
    let stats =
        Arc::new(DriverStats { checkpointed: checkpointed.clone(), checkpointed_ms: AtomicU64::new(0) });
    let done = Arc::new(CheckpointDone::default());
    let engine = Engine {
        core,
        journal,
        applier,
        keyspace: keyspace.clone(),
        stager: stager.clone(),
        clock: clock.clone(),
        sync: parts.sync,
        body_bytes_max: parts.body_bytes_max,
        limits: parts.memtable,
        proposed: Default::default(),
        waiting: Default::default(),
        next_id: 0,
        events: parts.events,
        status: status.clone(),
        active_since_ms: None,
        last_applied: position,
        voted,
        // Whoever drives the engine puts its own in this place.
        relief: Box::new(|_| true),
        prefetcher: None,
        checkpointed,
    };
    Ok(Opened {
        engine,
        identity,
        keyspace,
        registry,
        segments,
        checkpointer,
        stager,
        clock,
        status,
        stats,
        done,
        recovery,
    })
}

impl Engine {
    /// Largest atomic group, in bytes: an entry must fit one journal file.
    pub(crate) fn group_bytes_max(&self) -> u64 {
        (super::GROUP_BYTES_MAX as u64).min(self.journal.record_bytes_max().saturating_sub(1024))
    }

    /// Counters of the journal.
    pub(crate) fn journal_metrics(&self) -> Arc<crate::journal::JournalMetrics> {
        self.journal.metrics()
    }
}

impl From<OpenError> for Fatal {
    fn from(error: OpenError) -> Fatal {
        match error {
            OpenError::Journal(error) => Fatal::Journal(error),
            other => Fatal::Base(BaseError::Failed(other.to_string().into())),
        }
    }
}

/// Gathers the log above the checkpoint from journal records.
struct LogReader {
    checkpoint: LogPosition,
    hard_state: Option<(u64, u64, u64)>,
    voters: Vec<u64>,
    entries: Vec<RecoveredEntry>,
}

impl LogReader {
    fn new(checkpoint: CheckpointRow) -> LogReader {
        LogReader {
            checkpoint: LogPosition { index: checkpoint.index, term: checkpoint.term },
            hard_state: None,
            voters: Vec::new(),
            entries: Vec::new(),
        }
    }

    fn visit(&mut self, record: &Record<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match *record {
            Record::HardState { group, term, vote, commit } if group == GROUP => {
                self.hard_state = Some((term, vote, commit));
            }
            Record::ConfState { group, bytes } if group == GROUP => {
                self.voters = decode_voters(bytes).ok_or("malformed voters")?;
            }
            Record::Entry { group, term, index, kind, data, .. } if group == GROUP => {
                if index <= self.checkpoint.index {
                    return Ok(());
                }
                // A new leader's entry replaces the old one and all behind it.
                let keep = (index - self.checkpoint.index - 1) as usize;
                if keep > self.entries.len() {
                    let next = self.checkpoint.index + self.entries.len() as u64 + 1;
                    return Err(format!("entry {index} follows, {next} was expected").into());
                }
                self.entries.truncate(keep);
                let at = LogPosition { index, term };
                self.entries.push(RecoveredEntry { at, kind, data: Bytes::copy_from_slice(data) });
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self, commit_index: u64) -> Result<Recovered, OpenError> {
        let hard_state = self.hard_state.map(|(term, vote, commit)| (term, vote, commit.max(commit_index)));
        if self.checkpoint.index > 0 && self.voters.is_empty() {
            let text =
                "the checkpoint holds entries but the journal is empty: the journal directory was lost";
            return Err(OpenError::Mismatch(text.to_owned()));
        }
        Ok(Recovered { hard_state, voters: self.voters, checkpoint: self.checkpoint, entries: self.entries })
    }
}
