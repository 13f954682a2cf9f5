//! The log on disk: the only thing a write waits for.
//!
//! Owns: the files under `journal/`, what a batch looks like, when a file may be used again, what a start
//! may rely on. Does not own: threads (but for zero-filling the next file), Raft's rules, when to sync,
//! what is in a checkpoint.
//!
//! Must hold:
//! - What was synced is found again, in order, whatever a crash does; what was never appended is not.
//!   A start that finds something synced missing is refused with file and offset.
//! - [`Journal::open`] returns only after all that it handed to the visitor is on disk.
//! - No synced sector that holds records is written again: batches begin on multiples of `align`. So a torn write can damage
//!   only batches that nobody was told of. That assumes that the device writes `align` bytes without
//!   touching their neighbours: 512, or 4096 where a device of 4 KiB sectors rewrites eight at a time.
//! - All files but the newest are synced whole. A sync or write that fails closes the journal for good.
//!
//! A crash leaves: the newest file with a tail of batches that nothing proves synced, each of its sectors old
//! or new; perhaps a file that was being made ready. `format.rs` draws the bytes, `recovery.rs` says how they
//! are read.

mod error;
mod files;
mod format;
mod metrics;
mod record;
mod recovery;
mod spares;
#[cfg(test)]
mod tests;

pub use error::JournalError;
pub use files::{BackgroundPreparer, InlinePreparer, PrepareJob, Preparer};
pub use format::Position;
pub use metrics::{DurationHistogram, JournalMetrics};
pub use record::{CONF_STATE_BYTES_MAX, GroupId, Record};
pub use recovery::{RecoveredRecord, Recovery, Visitor};

use crate::io::{Disk, DiskError, DiskFile};
use files::{BatchFacts, FileWriter, FreeFile, LiveFile, padded_batch_len};
use format::{BATCH_HEADER, FILE_HEADER, FLAG_RESTATED, FileHeader, record_len};
use record::Restatement;
use spares::Spares;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The largest configurable file. A start reads one file at a time into memory.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// At each file's end this share of it is only for the first [`START_BYTES`] of a run: a start writes a little, also
/// where no further file can be had. In a file of 64 MiB enough for 64 starts, whatever their clients send.
const START_SHARE: u64 = 64;
const START_BYTES: u64 = 16 << 10;

/// An unusually large batch of small records does not keep its memory.
const SCRATCH_BYTES_KEPT: usize = 4 << 20;

/// Settings of a journal.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// Length of a file. Larger ones mean fewer switches (one more sync each) and more memory at a start;
    /// an entry must fit into one.
    pub file_bytes: u64,
    /// Batches begin on multiples of this: 512, or 4096 where the device cannot write 512 bytes without
    /// rewriting their neighbours. The larger one costs up to 4 KiB on disk per batch.
    pub align: u32,
    /// Released records are kept until this many bytes came after them, for followers that were away.
    /// 0 with one voter.
    pub retain_bytes: u64,
    /// The most that files in use may take together; an append that needs one more is refused. Must leave
    /// room for `retain_bytes` and two files.
    pub hard_cap_bytes: u64,
    /// The most that released files may take that wait to be used again; more are removed. Making one
    /// anew costs writing it twice.
    /// The next start's own file counts beside them.
    pub spare_bytes: u64,
    /// What must stay free on the disk when a file is made for the next start alone. Larger: on a disk that is nearly
    /// full from the beginning there is none, and a start may need another free file.
    pub disk_reserve_bytes: u64,
    /// A random number from the operating system, a new one for every open: generations come from it.
    pub nonce: u64,
}

impl JournalConfig {
    /// The usual settings for one voter; with more, `retain_bytes` is 1 GiB.
    pub fn new(nonce: u64) -> JournalConfig {
        JournalConfig {
            file_bytes: 64 << 20,
            align: 512,
            retain_bytes: 0,
            hard_cap_bytes: 4 << 30,
            spare_bytes: 256 << 20,
            disk_reserve_bytes: 0,
            nonce,
        }
    }

    /// Checks the ranges and what the settings say together.
    pub fn validate(&self) -> Result<(), JournalError> {
        let refuse = |text: &str| Err(JournalError::Config(text.to_owned()));
        if !matches!(self.align, 512 | 4096) {
            return refuse("align must be 512 or 4096");
        }
        if !self.file_bytes.is_multiple_of(format::PAGE)
            || !(16 << 10..=FILE_BYTES_MAX).contains(&self.file_bytes)
        {
            return refuse("file_bytes must be a multiple of 4096 between 16 KiB and 1 GiB");
        }
        if self.file_bytes < 6 * u64::from(self.align) {
            return refuse("file_bytes must be at least six times align");
        }
        if self.hard_cap_bytes < self.retain_bytes.saturating_add(3 * self.file_bytes) {
            return refuse("hard_cap_bytes must exceed retain_bytes by at least three files");
        }
        Ok(())
    }
}

/// The journal of one data directory. One owner; calls block.
pub struct Journal {
    config: JournalConfig,
    writer: FileWriter,
    /// Bytes of batches of this run.
    run_bytes: u64,
    /// Everything before it is on disk.
    synced: Position,
    /// Files whose records may be needed, oldest first; the last is the one being written.
    live: VecDeque<LiveFile>,
    /// Files that hold nothing any more.
    spares: Spares,
    /// Files below this sequence are not needed.
    floor: u64,
    released: BTreeMap<GroupId, u64>,
    state: Restatement,
    commit_index: u64,
    /// The last batch is empty, synced, and nothing else was ever left unnamed.
    all_named: bool,
    scratch: Vec<u8>,
    /// Shared with syncs that run on other threads.
    poisoned: Arc<AtomicBool>,
    metrics: Arc<JournalMetrics>,
}

impl Journal {
    /// Opens the journal in a data directory, or begins one.
    ///
    /// `visit` sees every record that is there, in log order; states that are repeated at the head of a
    /// file come with it. When this returns, all of them are on disk, also those that the last run had
    /// only written. The preparer makes the next file ready beside the writer.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: JournalConfig,
        preparer: Box<dyn Preparer>,
        visit: &mut Visitor<'_>,
    ) -> Result<(Journal, Recovery), JournalError> {
        config.validate()?;
        let opened = recovery::open(&disk, &config, visit)?;
        let mut journal = Journal {
            spares: Spares::new(disk, &config, preparer, opened.free, opened.next_slot),
            config,
            run_bytes: 0,
            synced: opened.writer.position(),
            writer: opened.writer,
            live: opened.live,
            floor: opened.floor,
            released: BTreeMap::new(),
            state: opened.state,
            commit_index: opened.recovery.commit_index,
            all_named: false,
            scratch: Vec::new(),
            poisoned: Arc::default(),
            metrics: Arc::default(),
        };
        // Proves the fresh file's header: were it damaged before the first append, its records would
        // look like a copy that was never finished. Until then the next start may have to go on from what this one
        // found: nothing of it is touched.
        journal.append_empty_and_sync()?;
        if let Some(replaced) = opened.replaced {
            replaced.forget();
        }
        opened.unneeded.iter().for_each(|slot| journal.spares.discard(*slot));
        journal.spares.trim();
        journal.prepare_next();
        journal.show_live();
        Ok((journal, opened.recovery))
    }

    /// Writes records as one batch (several, if they are more than a file holds) and returns the position
    /// behind them. Not durable before a sync that covers the position.
    ///
    /// `commit_index` is remembered with the batch. After an error that is not fatal nothing was written,
    /// except as [`JournalError::NoSpace`] says.
    pub fn append(&mut self, records: &[Record<'_>], commit_index: u64) -> Result<Position, JournalError> {
        self.check_usable()?;
        self.check_sizes(records)?;
        self.commit_index = self.commit_index.max(commit_index);
        let (mut rest, mut fresh) = (records, false);
        while !rest.is_empty() {
            let len = self.batch_len(rest);
            let fitting = match len <= self.room() {
                true => rest.len(),
                false if len <= self.fresh_room() => 0,
                false => self.fitting(rest),
            };
            if fitting == 0 {
                // The head has grown since the check, by a state in this very batch.
                if fresh {
                    let (bytes, bytes_max) = (record_len(&rest[0]), self.record_bytes_max());
                    return Err(JournalError::RecordTooLarge { bytes, bytes_max });
                }
                self.rotate()?;
                fresh = true;
                continue;
            }
            let (batch, later) = rest.split_at(fitting);
            self.write_batch(batch, 0)?;
            (rest, fresh) = (later, false);
        }
        Ok(self.written())
    }

    /// Makes all that was appended durable, and returns the position up to which that is.
    pub fn sync(&mut self) -> Result<Position, JournalError> {
        self.check_usable()?;
        if self.synced < self.written() {
            self.synced = self.pending_sync().run()?;
        }
        Ok(self.synced)
    }

    /// For a writer that has nothing to do: syncs, then names that in an empty batch and syncs it too, so
    /// that any later damage to the last records is known as such. Does nothing the second time.
    pub fn append_empty_and_sync(&mut self) -> Result<Position, JournalError> {
        self.sync()?;
        if !self.all_named {
            self.write_batch(&[], 0)?;
            self.sync()?;
            self.all_named = true;
        }
        Ok(self.synced)
    }

    /// The sync that would cover all that was appended so far, to be run on another thread while the
    /// journal is used on; tell [`Journal::note_synced`] its result.
    pub fn pending_sync(&self) -> PendingSync {
        PendingSync {
            file: self.writer.file.clone(),
            position: self.written(),
            poisoned: self.poisoned.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// A [`PendingSync`] of this journal has returned this position.
    pub fn note_synced(&mut self, position: Position) {
        // One of an earlier file is old news: a file is synced before the next one begins.
        if position <= self.written() {
            self.synced = self.synced.max(position);
        }
    }

    /// Entries of the group up to `index` are in the checkpoint and in no running snapshot's way. Files that
    /// hold nothing above may be used again, once `retain_bytes` came after them.
    pub fn release(&mut self, group: GroupId, index: u64) {
        let released = self.released.entry(group).or_default();
        *released = (*released).max(index);
        let mut newer_bytes: u64 = self.live.iter().map(LiveFile::bytes).sum();
        for file in self.live.iter().take(self.live.len() - 1) {
            newer_bytes -= file.bytes();
            let covered = |(group, index): &(GroupId, u64)| self.released.get(group) >= Some(index);
            if newer_bytes < self.config.retain_bytes || !file.index_max.iter().all(covered) {
                break;
            }
            self.floor = self.floor.max(file.sequence + 1);
        }
    }

    /// To be called now and then, ten times a second or so: sees to it that the next start has a file to go on in, also
    /// when the disk is full by then. Costs nothing while it has.
    pub fn tend(&mut self) {
        self.spares.tend();
        self.show_live();
    }

    /// The position behind the last batch.
    pub fn written(&self) -> Position {
        self.writer.position()
    }

    /// Everything before this position is on disk.
    pub fn synced(&self) -> Position {
        self.synced
    }

    /// The largest record that can be appended, in encoded bytes: data, context and 32 more for an entry.
    pub fn record_bytes_max(&self) -> u64 {
        self.fresh_room().saturating_sub(BATCH_HEADER as u64)
    }

    /// Counters, for any thread.
    pub fn metrics(&self) -> Arc<JournalMetrics> {
        self.metrics.clone()
    }

    fn check_usable(&self) -> Result<(), JournalError> {
        match self.poisoned.load(Ordering::Acquire) {
            true => Err(JournalError::Poisoned),
            false => Ok(()),
        }
    }

    fn check_sizes(&self, records: &[Record<'_>]) -> Result<(), JournalError> {
        let bytes_max = self.record_bytes_max();
        for record in records {
            let limit = match record {
                Record::ConfState { .. } => bytes_max.min(CONF_STATE_BYTES_MAX as u64),
                _ => bytes_max,
            };
            let bytes = record_len(record);
            if bytes > limit {
                return Err(JournalError::RecordTooLarge { bytes, bytes_max: limit });
            }
        }
        Ok(())
    }

    fn batch_len(&self, records: &[Record<'_>]) -> u64 {
        padded_batch_len(records.iter().map(record_len).sum(), self.writer.header.align)
    }

    /// Bytes that batches may still take in the current file.
    fn room(&self) -> u64 {
        // No single batch of the run's beginning takes more of it than is this start's.
        let own = START_BYTES.saturating_sub(self.run_bytes);
        let kept = self.reserve() + self.room_for_starts().saturating_sub(own);
        self.writer.header.file_len.saturating_sub(self.writer.offset + kept)
    }

    fn room_for_starts(&self) -> u64 {
        (self.config.file_bytes / START_SHARE).next_multiple_of(u64::from(self.writer.header.align))
    }

    /// Kept at a file's end for two empty batches: an idle writer's, and the one that ends the file.
    fn reserve(&self) -> u64 {
        2 * self.batch_len(&[])
    }

    /// The same of a file that has only its head.
    fn fresh_room(&self) -> u64 {
        let head =
            FILE_HEADER + self.batch_len(&self.state.records()) + self.reserve() + self.room_for_starts();
        self.config.file_bytes.saturating_sub(head)
    }

    /// How many of the records, from the first, fit into the current file.
    fn fitting(&self, records: &[Record<'_>]) -> usize {
        let mut room = self.room().saturating_sub(BATCH_HEADER as u64);
        let fits = |record: &&Record<'_>| {
            let rest = room.checked_sub(record_len(record));
            room = rest.unwrap_or(room);
            rest.is_some()
        };
        records.iter().take_while(fits).count()
    }

    fn write_batch(&mut self, records: &[Record<'_>], flags: u32) -> Result<(), JournalError> {
        let facts =
            BatchFacts { synced: self.synced, commit_index: self.commit_index, floor: self.floor, flags };
        let written = self.writer.write_batch(&mut self.scratch, records, facts);
        let len = written.map_err(|error| self.poison(JournalError::WriteFailed(error)))?;
        self.scratch.shrink_to(SCRATCH_BYTES_KEPT);
        self.metrics.note_batch(records.len(), len);
        self.run_bytes += len;
        self.all_named = false;
        if let Some(file) = self.live.back_mut() {
            file.end = self.writer.offset;
            records.iter().for_each(|record| file.note(record));
        }
        if flags & FLAG_RESTATED == 0 {
            records.iter().for_each(|record| self.state.note(record));
        }
        Ok(())
    }

    fn poison(&self, error: JournalError) -> JournalError {
        self.poisoned.store(true, Ordering::Release);
        error
    }

    /// Ends the current file and begins the next one.
    ///
    /// The ending batch says which files are free, and is synced before one of them is overwritten and
    /// before the new file's header says where the old one ends.
    fn rotate(&mut self) -> Result<(), JournalError> {
        let live_bytes = self.bytes_needed();
        let hard_cap_bytes = self.config.hard_cap_bytes;
        if live_bytes + self.config.file_bytes > hard_cap_bytes {
            return Err(JournalError::Full { live_bytes, hard_cap_bytes });
        }
        let recyclable = |file: &LiveFile| file.sequence < self.floor && file.len == self.config.file_bytes;
        let made = match self.spares.is_empty() && !self.live.iter().any(recyclable) {
            true => Some(self.spares.take_prepared()?),
            false => None,
        };
        let counter = match made {
            Some(_) => &self.metrics.files_created,
            None => &self.metrics.files_recycled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.write_batch(&[], 0)?;
        self.sync()?;
        self.retire();
        let next = made.or_else(|| self.spares.take()).expect("a recyclable file was just retired");
        self.begin_file(next)?;
        self.spares.keep_for_start(self.live.len());
        self.spares.trim();
        self.prepare_next();
        self.show_live();
        Ok(())
    }

    /// Moves the files below the floor, which is durable by now, to the free ones.
    fn retire(&mut self) {
        while self.live.front().is_some_and(|file| file.sequence < self.floor) {
            let Some(LiveFile { slot, file, len, .. }) = self.live.pop_front() else { break };
            match len == self.config.file_bytes {
                true => self.spares.put(FreeFile { slot, file }),
                false => self.spares.discard(slot),
            }
        }
    }

    fn prepare_next(&mut self) {
        if self.bytes_needed() + self.config.file_bytes <= self.config.hard_cap_bytes {
            self.spares.prepare_next();
        }
    }

    fn begin_file(&mut self, FreeFile { slot, file }: FreeFile) -> Result<(), JournalError> {
        let sequence = self.writer.header.sequence + 1;
        let header = FileHeader {
            align: self.config.align,
            file_len: self.config.file_bytes,
            generation: recovery::generation(self.config.nonce, sequence),
            sequence,
            previous: Some(self.synced),
            floor: self.floor,
            synced_end: FILE_HEADER,
            replaces: None,
            ..self.writer.header
        };
        self.writer = FileWriter::new(file.clone(), header);
        self.writer.write_header().map_err(|error| self.poison(JournalError::WriteFailed(error)))?;
        self.live.push_back(LiveFile {
            slot,
            file,
            sequence,
            len: header.file_len,
            end: FILE_HEADER,
            index_max: Default::default(),
        });
        let state = std::mem::take(&mut self.state);
        let written = self.write_batch(&state.records(), FLAG_RESTATED);
        self.state = state;
        written
    }

    /// Lengths of the files that are not below the floor.
    fn bytes_needed(&self) -> u64 {
        self.live.iter().filter(|file| file.sequence >= self.floor).map(|file| file.len).sum()
    }

    fn show_live(&self) {
        self.metrics.files_live.store(self.live.len() as u64, Ordering::Relaxed);
        self.metrics.bytes_live.store(self.bytes_needed(), Ordering::Relaxed);
        self.metrics.files_for_start.store(u64::from(self.spares.has_start_file()), Ordering::Relaxed);
    }
}

/// A sync of the journal's file that any thread may run.
pub struct PendingSync {
    file: Arc<dyn DiskFile>,
    position: Position,
    poisoned: Arc<AtomicBool>,
    metrics: Arc<JournalMetrics>,
}

impl PendingSync {
    /// Syncs; everything before the returned position is on disk then. A failure closes the journal.
    pub fn run(self) -> Result<Position, JournalError> {
        let started = Instant::now();
        match self.file.sync_data() {
            Ok(()) => {
                self.metrics.note_sync(started.elapsed());
                Ok(self.position)
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    fn fail(&self, error: DiskError) -> JournalError {
        self.poisoned.store(true, Ordering::Release);
        JournalError::SyncFailed(error)
    }
}
