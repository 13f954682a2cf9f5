//! What can go wrong, by what the caller has to do about it.

use crate::io::DiskError;

/// An error of the journal. [`JournalError::is_fatal`] ones end the process.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A setting is out of range, or settings contradict each other.
    #[error("journal: {0}")]
    Config(String),

    /// A file could not be read, made or listed. Nothing of the batch was written.
    #[error("journal: {0}")]
    Disk(#[source] DiskError),

    /// There is no space for one more file. Nothing of the batch was written (but for a batch larger than
    /// a file, whose first part may have been); it may be tried again once space was freed.
    #[error("journal: no space for another file ({0}); free some on this file system")]
    NoSpace(#[source] DiskError),

    /// Files that may not be recycled yet have reached the hard cap. As [`JournalError::NoSpace`]: try again
    /// after a release.
    #[error(
        "journal: {live_bytes} bytes wait for the checkpoint, the cap is {hard_cap_bytes}; \
         writes go on when the checkpoint has caught up"
    )]
    Full {
        /// Lengths of all files in use.
        live_bytes: u64,
        /// The configured cap.
        hard_cap_bytes: u64,
    },

    /// A record that no file can hold. Nothing was written.
    #[error("journal: a record of {bytes} bytes does not fit a journal file, which takes {bytes_max}")]
    RecordTooLarge {
        /// Its encoded length.
        bytes: u64,
        /// What a fresh file takes.
        bytes_max: u64,
    },

    /// A write failed. What is in the file is unknown; the journal takes no more calls.
    #[error("journal: write failed, the process must end: {0}")]
    WriteFailed(#[source] DiskError),

    /// A sync failed. The page cache may lie now, so it is never tried again: the process must end and
    /// recover from what is on disk.
    #[error("journal: sync failed, the process must end: {0}")]
    SyncFailed(#[source] DiskError),

    /// A call after a fatal error.
    #[error("journal: closed by an earlier failed write or sync")]
    Poisoned,

    /// Bytes that were once synced are not there any more. The start is refused.
    #[error(
        "journal: corruption in {file} at byte {offset}: {detail}; restore this node from its peers or a copy"
    )]
    Corrupt {
        /// Relative to the data directory.
        file: String,
        /// The first bad byte's record, batch or header.
        offset: u64,
        /// What is wrong with it.
        detail: String,
    },

    /// The visitor of the recovered records refused one.
    #[error("journal: record in {file} at byte {offset} was refused: {source}")]
    Refused {
        /// Relative to the data directory.
        file: String,
        /// The batch that holds the record.
        offset: u64,
        /// The visitor's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl JournalError {
    /// Whether the journal takes no more calls and the process must end.
    pub fn is_fatal(&self) -> bool {
        match self {
            JournalError::WriteFailed(_) | JournalError::SyncFailed(_) | JournalError::Poisoned => true,
            JournalError::Config(_)
            | JournalError::Disk(_)
            | JournalError::NoSpace(_)
            | JournalError::Full { .. }
            | JournalError::RecordTooLarge { .. }
            | JournalError::Corrupt { .. }
            | JournalError::Refused { .. } => false,
        }
    }

    pub(super) fn of_preparation(error: DiskError) -> JournalError {
        if error.is_no_space() { JournalError::NoSpace(error) } else { JournalError::Disk(error) }
    }
}
