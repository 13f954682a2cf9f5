//! The only place that opens data files.
//!
//! Owns: file handles of one data directory, the counters of what is done with them, the pool of
//! threads for cold reads, the buffers of long ones. Does not own: what the bytes mean, and LMDB's files, which LMDB opens.
//! Must hold: every call is positioned (no shared cursor), a write returns only when all of it was
//! taken by the kernel, and nothing is durable before [`DiskFile::sync_data`] (contents and length)
//! and [`Disk::sync_dir`] (names) have returned. A crash leaves each un-synced sector old or new.
//!
//! Two backends: [`threads`] on the real file system, [`sim`] for tests by seed.

pub(crate) mod buffers;
pub mod sim;
pub mod threads;

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// One data directory. Paths are relative to it, `/`-separated, without `.` or `..`.
///
/// All calls block; none belongs on a tokio worker.
pub trait Disk: Send + Sync {
    /// Makes a directory and its parents, durably. One that exists already is no error.
    fn create_dir(&self, dir: &str) -> Result<(), DiskError>;

    /// Creates an empty file; an error if the name is taken. The name is durable after
    /// [`Disk::sync_dir`] of its directory.
    fn create(&self, path: &str) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// The names (not paths) of the plain files in a directory, sorted.
    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError>;

    /// Removes a file's name. Durable after [`Disk::sync_dir`]; before that a power cut may bring it back.
    fn remove(&self, path: &str) -> Result<(), DiskError>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> Result<(), DiskError>;

    /// Bytes that may still be written on this file system.
    fn free_bytes(&self) -> Result<u64, DiskError> {
        Ok(self.space()?.free_bytes)
    }

    /// How large the file system is, and what is left of it.
    fn space(&self) -> Result<Space, DiskError>;

    /// What was done so far, per operation.
    fn metrics(&self) -> &DiskMetrics;
}

/// The room of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes that it holds when full.
    pub total_bytes: u64,
}

/// One open file. Calls may come from several threads at once; overlapping writes are the
/// caller's mistake.
pub trait DiskFile: Send + Sync {
    /// The path under which it was opened.
    fn path(&self) -> &str;

    /// Writes all buffers, one after the other, starting at `offset`. An error may leave any part
    /// of them written.
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DiskError>;

    /// The same for one buffer, past the page cache if it is long, if buffer, length and offset are multiples of 4096,
    /// and if the file system can.
    fn write_direct_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.write_at(&[IoSlice::new(bytes)], offset)
    }

    /// Fills `buf` from `offset`; the end of the file before that is an error of kind `UnexpectedEof`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DiskError>;

    /// Fills `buf` from `offset` if that needs no wait for a device. `false`: some of it is not in memory, or
    /// that cannot be told, or it failed; `buf` then holds anything, and [`DiskFile::read_at`] knows more.
    fn read_resident_at(&self, buf: &mut [u8], offset: u64) -> bool {
        let _ = (buf, offset);
        false
    }

    /// Lets go of what is kept of these bytes in memory, so that the next read asks the device. A hint: what was not
    /// synced stays.
    fn forget_cached(&self, range: Range<u64>) {
        let _ = range;
    }

    /// As [`DiskFile::read_at`] into several buffers, one after the other.
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], mut offset: u64) -> Result<(), DiskError> {
        for buf in bufs {
            self.read_at(buf, offset)?;
            offset += buf.len() as u64;
        }
        Ok(())
    }

    /// As [`DiskFile::read_resident_at`] into several buffers, one after the other.
    fn read_resident_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], mut offset: u64) -> bool {
        bufs.iter_mut().all(|buf| {
            let read = self.read_resident_at(buf, offset);
            offset += buf.len() as u64;
            read
        })
    }

    /// Makes contents and length durable (fdatasync). After an error nothing may be assumed about
    /// what was written since the last success, however often it is tried again.
    fn sync_data(&self) -> Result<(), DiskError>;

    /// Length in bytes.
    fn len(&self) -> Result<u64, DiskError>;

    /// Whether nothing was ever written to it.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// Really writes `len` zero bytes from the start, then syncs, so that a later write inside
    /// changes neither length nor block map and its sync writes data only.
    fn preallocate_zeroed(&self, len: u64) -> Result<(), DiskError>;
}

/// What was being done to a file or directory when it failed, or was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
#[expect(missing_docs, reason = "the names of the calls above")]
pub enum Operation {
    CreateDir,
    Create,
    Open,
    List,
    Remove,
    SyncDir,
    FreeSpace,
    Write,
    Read,
    Sync,
    Length,
    Preallocate,
}

impl Operation {
    /// All of them, in the order of the counters.
    pub const ALL: [Operation; 12] = [
        Operation::CreateDir,
        Operation::Create,
        Operation::Open,
        Operation::List,
        Operation::Remove,
        Operation::SyncDir,
        Operation::FreeSpace,
        Operation::Write,
        Operation::Read,
        Operation::Sync,
        Operation::Length,
        Operation::Preallocate,
    ];

    /// The label in messages and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Operation::CreateDir => "create_dir",
            Operation::Create => "create",
            Operation::Open => "open",
            Operation::List => "list",
            Operation::Remove => "remove",
            Operation::SyncDir => "sync_dir",
            Operation::FreeSpace => "free_space",
            Operation::Write => "write",
            Operation::Read => "read",
            Operation::Sync => "sync",
            Operation::Length => "length",
            Operation::Preallocate => "preallocate",
        }
    }
}

/// A call to the disk that failed.
#[derive(Debug, thiserror::Error)]
#[error("disk: {} of {path}{} failed: {source}", operation.label(), At(*offset))]
pub struct DiskError {
    /// Relative to the data directory.
    pub path: String,
    /// The call that failed.
    pub operation: Operation,
    /// Where in the file, if the call names a place.
    pub offset: Option<u64>,
    /// The operating system's reason.
    pub source: std::io::Error,
}

impl DiskError {
    /// An error of `operation` on `path`.
    pub fn new(path: &str, operation: Operation, offset: Option<u64>, source: std::io::Error) -> DiskError {
        DiskError { path: path.to_owned(), operation, offset, source }
    }

    /// The class of the operating system's reason.
    pub fn kind(&self) -> std::io::ErrorKind {
        self.source.kind()
    }

    /// Whether space or quota ran out: the caller may go on once some is freed.
    pub fn is_no_space(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.kind(), StorageFull | QuotaExceeded)
    }
}

/// Prints an offset only where there is one.
struct At(Option<u64>);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at byte {offset}"),
            None => Ok(()),
        }
    }
}

/// Counters of one operation.
#[derive(Default, Debug)]
pub struct OperationMetrics {
    /// Calls, failed ones included.
    pub calls: AtomicU64,
    /// Calls that failed.
    pub errors: AtomicU64,
    /// Bytes read or written by calls that succeeded.
    pub bytes: AtomicU64,
    /// Time spent inside the calls (0 on the simulated disk).
    pub nanos: AtomicU64,
}

/// Counters of every operation of one disk.
#[derive(Default, Debug)]
pub struct DiskMetrics {
    operations: [OperationMetrics; Operation::ALL.len()],
}

impl DiskMetrics {
    /// The counters of one operation.
    pub fn of(&self, operation: Operation) -> &OperationMetrics {
        &self.operations[operation as usize]
    }

    fn count<T>(&self, operation: Operation, bytes: u64, elapsed: Duration, result: &Result<T, DiskError>) {
        let metrics = self.of(operation);
        metrics.calls.fetch_add(1, Relaxed);
        metrics.nanos.fetch_add(elapsed.as_nanos() as u64, Relaxed);
        match result {
            Ok(_) => metrics.bytes.fetch_add(bytes, Relaxed),
            Err(_) => metrics.errors.fetch_add(1, Relaxed),
        };
    }
}

/// Sum of the buffers' lengths.
fn total_len(bufs: &[IoSlice<'_>]) -> u64 {
    bufs.iter().map(|buf| buf.len() as u64).sum()
}

/// Refuses paths that would leave the data directory. Such a path is a mistake of ours.
fn check_relative(path: &str, operation: Operation) -> Result<(), DiskError> {
    let good = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if good {
        return Ok(());
    }
    let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a plain relative path");
    Err(DiskError::new(path, operation, None, source))
}
