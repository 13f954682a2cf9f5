//! The journal's files: names, the one being written, how a fresh one is made ready.
//!
//! A file keeps its name (its slot) for life; the header inside says where in the log it stands. So
//! recycling renames nothing and needs no directory sync.

use super::format::{BATCH_HEADER, BatchEncoder, BatchHeader, FILE_HEADER, FileHeader, Position, record_len};
use super::record::{GroupId, Record};
use crate::io::{Disk, DiskError, DiskFile, Operation};
use smallvec::SmallVec;
use std::io::IoSlice;
use std::sync::Arc;

/// The journal's directory inside the data directory.
pub(super) const DIR: &str = "journal";

/// A file's fixed name, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u32);

impl Slot {
    pub(super) fn path(self) -> String {
        format!("{DIR}/slot-{:04}", self.0)
    }

    pub(super) fn of_name(name: &str) -> Option<Slot> {
        let slot = Slot(name.strip_prefix("slot-")?.parse().ok()?);
        // Only the one spelling that `path` gives: no two names for one slot.
        slot.path().ends_with(&format!("/{name}")).then_some(slot)
    }
}

/// A file of the configured length that nothing needs.
pub(super) struct FreeFile {
    pub(super) slot: Slot,
    pub(super) file: Arc<dyn DiskFile>,
}

/// A file whose records may be needed.
pub(super) struct LiveFile {
    pub(super) slot: Slot,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) sequence: u64,
    pub(super) len: u64,
    /// Where its use ends, or has come to.
    pub(super) end: u64,
    /// The highest index of each group in it. After a truncated log this may be too high, which only
    /// keeps the file longer.
    pub(super) index_max: SmallVec<[(GroupId, u64); 1]>,
}

impl LiveFile {
    /// Bytes of its batches.
    pub(super) fn bytes(&self) -> u64 {
        self.end.saturating_sub(FILE_HEADER)
    }

    pub(super) fn note(&mut self, record: &Record<'_>) {
        let Record::Entry { group, index, .. } = *record else { return };
        match self.index_max.iter_mut().find(|(known, _)| *known == group) {
            Some((_, max)) => *max = (*max).max(index),
            None => self.index_max.push((group, index)),
        }
    }
}

/// What a batch header says besides its place and size.
#[derive(Clone, Copy)]
pub(super) struct BatchFacts {
    pub(super) synced: Position,
    pub(super) commit_index: u64,
    pub(super) floor: u64,
    pub(super) flags: u32,
}

/// The file at the log's end, and where in it the next batch goes.
pub(super) struct FileWriter {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) header: FileHeader,
    pub(super) offset: u64,
    chain: u32,
}

impl FileWriter {
    /// A writer at the start of a file; writes nothing, not even the header.
    pub(super) fn new(file: Arc<dyn DiskFile>, header: FileHeader) -> FileWriter {
        FileWriter { file, offset: FILE_HEADER, chain: first_chain(&header), header }
    }

    pub(super) fn position(&self) -> Position {
        Position { sequence: self.header.sequence, offset: self.offset }
    }

    pub(super) fn write_header(&self) -> Result<(), DiskError> {
        self.file.write_at(&[IoSlice::new(&self.header.encode())], 0)
    }

    /// Writes one batch and returns its length, padding included. After an error the writer must not
    /// be used again.
    pub(super) fn write_batch(
        &mut self,
        scratch: &mut Vec<u8>,
        records: &[Record<'_>],
        facts: BatchFacts,
    ) -> Result<u64, DiskError> {
        let body_len: u64 = records.iter().map(record_len).sum();
        let header = BatchHeader {
            secret: self.header.secret,
            generation: self.header.generation,
            start: self.position(),
            body_len: body_len as u32,
            records: records.len() as u32,
            synced: facts.synced,
            commit_index: facts.commit_index,
            floor: facts.floor,
            chain: self.chain,
            flags: facts.flags,
        };
        let mut batch = BatchEncoder::new(scratch, &header);
        for record in records {
            batch.push(record);
        }
        let offset = header.start.offset;
        self.chain = batch.write(offset, |slices| self.file.write_at(slices, offset))?;
        let len = padded_batch_len(body_len, self.header.align);
        self.offset += len;
        Ok(len)
    }
}

/// The chain's beginning: before the first batch there is no record.
pub(super) fn first_chain(header: &FileHeader) -> u32 {
    header.generation as u32
}

/// Bytes of a batch with `body_len` bytes of records, padding included.
pub(super) fn padded_batch_len(body_len: u64, align: u32) -> u64 {
    (BATCH_HEADER as u64 + body_len).next_multiple_of(u64::from(align))
}

/// Makes one fresh file ready: creates it, writes it full of zeros, syncs it and its directory.
pub struct PrepareJob {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) slot: Slot,
    pub(super) bytes: u64,
}

impl PrepareJob {
    /// Does it. After an error nothing of the file is left, as far as the disk allows.
    pub fn run(&self) -> Result<Arc<dyn DiskFile>, DiskError> {
        let path = self.slot.path();
        // One that cannot succeed would take what others need, if only for a moment.
        if self.disk.free_bytes().is_ok_and(|free| free < self.bytes) {
            let full = std::io::ErrorKind::StorageFull.into();
            return Err(DiskError::new(&path, Operation::Preallocate, None, full));
        }
        let file = self.disk.create(&path)?;
        let prepared = file.preallocate_zeroed(self.bytes).and_then(|()| self.disk.sync_dir(DIR));
        if let Err(error) = prepared {
            // Its space may be what somebody needs to go on. What stays is found at the next start.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        Ok(file)
    }
}

/// Where the zero-filling of the next file runs: beside the writer, or (in simulations) inside its calls.
pub trait Preparer: Send {
    /// Begins the one job; the former one was finished.
    fn begin(&mut self, job: PrepareJob);

    /// Waits for the job that was begun. `None` if none was.
    fn finish(&mut self) -> Option<Result<Arc<dyn DiskFile>, DiskError>>;

    /// The same, but `None` also while the job runs.
    fn try_finish(&mut self) -> Option<Result<Arc<dyn DiskFile>, DiskError>>;
}

/// Prepares when the file is needed or asked for, on the writer's thread.
#[derive(Default)]
pub struct InlinePreparer {
    job: Option<PrepareJob>,
}

impl Preparer for InlinePreparer {
    fn begin(&mut self, job: PrepareJob) {
        self.job = Some(job);
    }

    fn finish(&mut self) -> Option<Result<Arc<dyn DiskFile>, DiskError>> {
        self.job.take().map(|job| job.run())
    }

    fn try_finish(&mut self) -> Option<Result<Arc<dyn DiskFile>, DiskError>> {
        self.finish()
    }
}

/// Prepares on a thread of its own, started once per file. Dropping it waits for that thread, so that
/// nobody writes into the directory afterwards.
#[derive(Default)]
pub struct BackgroundPreparer {
    thread: Option<std::thread::JoinHandle<Result<Arc<dyn DiskFile>, DiskError>>>,
}

impl Preparer for BackgroundPreparer {
    fn begin(&mut self, job: PrepareJob) {
        let thread = std::thread::Builder::new().name("journal-prepare".to_owned());
        // Without a thread the next `finish` finds nothing, and the journal begins anew then.
        self.thread = thread.spawn(move || job.run()).ok();
    }

    fn finish(&mut self) -> Option<Result<Arc<dyn DiskFile>, DiskError>> {
        self.thread.take()?.join().ok()
    }

    fn try_finish(&mut self) -> Option<Result<Arc<dyn DiskFile>, DiskError>> {
        if !self.thread.as_ref()?.is_finished() {
            return None;
        }
        self.finish()
    }
}

impl Drop for BackgroundPreparer {
    fn drop(&mut self) {
        self.finish();
    }
}
