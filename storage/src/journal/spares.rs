//! Files that hold nothing which is needed: those that the writer takes next, and one that is the next start's.
//!
//! Owns: both, the making of more, and how many stay. Does not own: when a file is needed no more, nor how a start
//! chooses among those that it finds (`recovery.rs`).
//!
//! What must hold:
//! - The writer never takes the start's file. A start copies what nothing proves synced into a file that exists (PITFALLS
//!   1), so that on a disk without a free byte it succeeds; and it leaves one for the next start, the one it copied from.
//! - The start's file is made beside the writer, and only while the disk has more free than what growth is refused below:
//!   it takes no room that the refusals leave to others.
//!
//! A crash leaves all of them; to a start they are alike, also one that is not full of zeros yet.

use std::collections::VecDeque;
use std::sync::Arc;

use super::JournalConfig;
use super::error::JournalError;
use super::files::{FreeFile, PrepareJob, Preparer, Slot};
use crate::io::{Disk, DiskError, DiskFile};

/// Calls of [`Spares::tend`] before a file that could not be made is tried again.
const RETRY_CALLS: u32 = 100;

/// See the file's head.
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    file_bytes: u64,
    /// The writer's at most.
    free_max: usize,
    /// Free bytes on the disk below which no file is made for a start.
    start_file_needs: u64,
    preparer: Box<dyn Preparer>,
    /// The slot that the preparer is working on.
    preparing: Option<Slot>,
    next_slot: u32,
    /// Below the floor, and the log on disk says so: any may be overwritten.
    free: VecDeque<FreeFile>,
    for_start: Option<FreeFile>,
    calls_to_wait: u32,
}

impl Spares {
    /// `files`: what nothing needs after a start. The first is the next start's, whatever the writer lacks.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        config: &JournalConfig,
        preparer: Box<dyn Preparer>,
        mut files: VecDeque<FreeFile>,
        next_slot: u32,
    ) -> Spares {
        Spares {
            disk,
            file_bytes: config.file_bytes,
            free_max: (config.spare_bytes / config.file_bytes).max(1) as usize,
            start_file_needs: start_file_needs(config),
            preparer,
            preparing: None,
            next_slot,
            for_start: files.pop_front(),
            free: files,
            calls_to_wait: 0,
        }
    }

    /// Whether the writer's next file has to be made.
    pub(super) fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Whether the next start has a file.
    pub(super) fn has_start_file(&self) -> bool {
        self.for_start.is_some()
    }

    /// A file for the writer that is there.
    pub(super) fn take(&mut self) -> Option<FreeFile> {
        self.free.pop_front()
    }

    /// The file that was made ready, or one that is made now.
    pub(super) fn take_prepared(&mut self) -> Result<FreeFile, JournalError> {
        if let Some(slot) = self.preparing.take()
            && let Some(Ok(file)) = self.preparer.finish()
        {
            return Ok(FreeFile { slot, file });
        }
        // It failed in the background, perhaps long ago: what counts is whether it works now.
        let job = self.next_job();
        let slot = job.slot;
        job.run().map(|file| FreeFile { slot, file }).map_err(JournalError::of_preparation)
    }

    /// Takes a file that nothing needs any more.
    pub(super) fn put(&mut self, file: FreeFile) {
        self.free.push_back(file);
    }

    /// Sets a file aside for the next start, if it has none and the writer, which uses `live` files, gets on without:
    /// with two it writes one while the other waits for a checkpoint.
    pub(super) fn keep_for_start(&mut self, live: usize) {
        if self.for_start.is_none() && live + self.free.len() > 2 {
            self.for_start = self.free.pop_back();
        }
    }

    /// Begins to make the writer's next file, if it has none.
    pub(super) fn prepare_next(&mut self) {
        if self.free.is_empty() && self.preparing.is_none() {
            self.begin();
        }
    }

    /// To be called now and then: takes what has been made, and has the start's file made when there is room for it.
    pub(super) fn tend(&mut self) {
        if self.preparing.is_some()
            && let Some(made) = self.preparer.try_finish()
        {
            self.note_made(made);
        }
        if self.for_start.is_some() || self.preparing.is_some() {
            return;
        }
        self.calls_to_wait = self.calls_to_wait.saturating_sub(1);
        if self.calls_to_wait == 0 && is_roomy(&*self.disk, self.start_file_needs) {
            self.begin();
        }
    }

    fn note_made(&mut self, made: Result<Arc<dyn DiskFile>, DiskError>) {
        let Some(slot) = self.preparing.take() else { return };
        match made {
            Ok(file) if !self.free.is_empty() && self.for_start.is_none() => {
                self.for_start = Some(FreeFile { slot, file });
            }
            Ok(file) => self.free.push_back(FreeFile { slot, file }),
            Err(error) => {
                tracing::debug!(%error, "a journal file could not be made ahead");
                self.calls_to_wait = RETRY_CALLS;
            }
        }
    }

    /// Removes the free files that are too many.
    pub(super) fn trim(&mut self) {
        while self.free.len() > self.free_max
            && let Some(file) = self.free.pop_back()
        {
            self.discard(file.slot);
        }
    }

    /// Removes a file that nothing needs; if that fails the next start does it.
    pub(super) fn discard(&self, slot: Slot) {
        match self.disk.remove(&slot.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "an unneeded journal file stays behind");
            }
            _ => {}
        }
    }

    fn begin(&mut self) {
        let job = self.next_job();
        self.preparing = Some(job.slot);
        self.preparer.begin(job);
    }

    fn next_job(&mut self) -> PrepareJob {
        let slot = Slot(self.next_slot);
        self.next_slot += 1;
        PrepareJob { disk: self.disk.clone(), slot, bytes: self.file_bytes }
    }
}

/// Free bytes on the disk that there must be for a file that is only for a start.
pub(super) fn start_file_needs(config: &JournalConfig) -> u64 {
    config.disk_reserve_bytes.saturating_add(config.file_bytes)
}

/// Whether the disk has so many bytes free. One that cannot tell has not.
pub(super) fn is_roomy(disk: &dyn Disk, bytes: u64) -> bool {
    disk.free_bytes().is_ok_and(|free| free >= bytes)
}
