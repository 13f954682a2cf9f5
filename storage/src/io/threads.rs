//! The real file system: plain positioned system calls on the threads of the callers, and the pool
//! of threads that takes cold reads off the tokio workers.
//!
//! Measured on the commit path, `pwritev` and `fdatasync` were twice as fast as io_uring (DESIGN.md,
//! Journal); a read through a pool of plain threads costs a tenth of `tokio::fs`.

use super::buffers::DIRECT_ALIGN;
use super::{Disk, DiskError, DiskFile, DiskMetrics, Operation, Space, check_relative, total_len};
use parking_lot::{Condvar, Mutex};
use rustix::io::{Errno, ReadWriteFlags};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Shorter writes go through the page cache: it gathers them.
const DIRECT_BYTES_MIN: usize = 256 << 10;
/// A page of the page cache, or several on machines with larger ones.
const PAGE_BYTES: u64 = 64 << 10;

/// A data directory on a mounted file system.
pub struct ThreadsDisk {
    root: PathBuf,
    metrics: Arc<DiskMetrics>,
}

impl ThreadsDisk {
    /// A disk whose paths are relative to `root`, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> ThreadsDisk {
        ThreadsDisk { root: root.into(), metrics: Arc::default() }
    }

    fn timed<T>(
        &self,
        operation: Operation,
        path: &str,
        call: impl FnOnce(&Path) -> std::io::Result<T>,
    ) -> Result<T, DiskError> {
        check_relative(path, operation)?;
        let started = Instant::now();
        let result =
            call(&self.root.join(path)).map_err(|source| DiskError::new(path, operation, None, source));
        self.metrics.count(operation, 0, started.elapsed(), &result);
        result
    }

    fn file(&self, path: &str, file: File) -> Arc<dyn DiskFile> {
        Arc::new(ThreadsFile {
            path: path.to_owned(),
            full: self.root.join(path),
            file,
            direct: Mutex::default(),
            metrics: self.metrics.clone(),
        })
    }
}

impl Disk for ThreadsDisk {
    fn create_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.timed(Operation::CreateDir, dir, |_| {
            let mut path = self.root.clone();
            for part in dir.split('/') {
                let parent = path.clone();
                path.push(part);
                match std::fs::create_dir(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
                // Also when it existed: whoever made it may have died before this sync.
                File::open(parent)?.sync_all()?;
            }
            Ok(())
        })
    }

    fn create(&self, path: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let file = self.timed(Operation::Create, path, |full| {
            OpenOptions::new().read(true).write(true).create_new(true).open(full)
        })?;
        Ok(self.file(path, file))
    }

    fn open(&self, path: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let file =
            self.timed(Operation::Open, path, |full| OpenOptions::new().read(true).write(true).open(full))?;
        Ok(self.file(path, file))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.timed(Operation::List, dir, |full| {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(full)? {
                let entry = entry?;
                // A name that is not UTF-8 is not one of ours.
                if entry.file_type()?.is_file()
                    && let Ok(name) = entry.file_name().into_string()
                {
                    names.push(name);
                }
            }
            names.sort_unstable();
            Ok(names)
        })
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.timed(Operation::Remove, path, |full| std::fs::remove_file(full))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.timed(Operation::SyncDir, dir, |full| File::open(full)?.sync_all())
    }

    fn space(&self) -> Result<Space, DiskError> {
        let started = Instant::now();
        let result =
            space(&self.root).map_err(|source| DiskError::new(".", Operation::FreeSpace, None, source));
        self.metrics.count(Operation::FreeSpace, 0, started.elapsed(), &result);
        result
    }

    fn metrics(&self) -> &DiskMetrics {
        &self.metrics
    }
}

fn space(path: &Path) -> std::io::Result<Space> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is NUL-terminated and lives through the call; statvfs fills the struct, which is
    // read only when the call says that it did. std offers no call for it.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return Err(Error::last_os_error());
        }
        stat.assume_init()
    };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space { free_bytes: bytes(stat.f_bavail), total_bytes: bytes(stat.f_blocks) })
}

struct ThreadsFile {
    path: String,
    full: PathBuf,
    file: File,
    /// The same file for writes past the page cache, between the first of them and a sync: two descriptors for each
    /// segment would be many. Held for a look only.
    direct: Mutex<Direct>,
    metrics: Arc<DiskMetrics>,
}

#[derive(Default)]
enum Direct {
    #[default]
    Closed,
    Open(Arc<File>),
    /// The file system cannot, or not like this.
    Refused,
}

impl ThreadsFile {
    fn direct(&self) -> Option<Arc<File>> {
        let mut direct = self.direct.lock();
        if matches!(*direct, Direct::Closed) {
            let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&self.full);
            *direct = file.map_or(Direct::Refused, |file| Direct::Open(Arc::new(file)));
        }
        match &*direct {
            Direct::Open(file) => Some(file.clone()),
            _ => None,
        }
    }

    fn timed<T>(
        &self,
        operation: Operation,
        offset: Option<u64>,
        bytes: u64,
        call: impl FnOnce(&File) -> std::io::Result<T>,
    ) -> Result<T, DiskError> {
        let started = Instant::now();
        let result = call(&self.file).map_err(|source| DiskError::new(&self.path, operation, offset, source));
        self.metrics.count(operation, bytes, started.elapsed(), &result);
        result
    }
}

impl DiskFile for ThreadsFile {
    fn path(&self) -> &str {
        &self.path
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DiskError> {
        self.timed(Operation::Write, Some(offset), total_len(bufs), |file| {
            write_all_vectored(file, bufs, offset)
        })
    }

    fn write_direct_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        let aligned = bytes.len() >= DIRECT_BYTES_MIN
            && (bytes.as_ptr() as usize | bytes.len() | offset as usize).is_multiple_of(DIRECT_ALIGN);
        let direct = if aligned { self.direct() } else { None };
        self.timed(Operation::Write, Some(offset), bytes.len() as u64, |file| {
            let mut written = 0;
            while let Some(direct) = direct.as_ref().filter(|_| written < bytes.len()) {
                match rustix::io::pwrite(direct, &bytes[written..], offset + written as u64) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(more) => written += more,
                    Err(Errno::INTR) => {}
                    Err(Errno::INVAL) => {
                        *self.direct.lock() = Direct::Refused;
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            file.write_all_at(&bytes[written..], offset + written as u64)
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let bytes = buf.len() as u64;
        self.timed(Operation::Read, Some(offset), bytes, |file| file.read_exact_at(buf, offset))
    }

    fn read_resident_at(&self, buf: &mut [u8], offset: u64) -> bool {
        self.read_resident_vectored_at(&mut [IoSliceMut::new(buf)], offset)
    }

    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<(), DiskError> {
        let bytes = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.timed(Operation::Read, Some(offset), bytes, |file| read_all_vectored(file, bufs, offset))
    }

    fn read_resident_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> bool {
        let started = Instant::now();
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        // More buffers than one call takes are no read that is done at once. The way over the read pool costs two
        // switches of threads, 8 us of CPU for 4 KiB.
        let read = bufs.len() <= BUFFERS_PER_CALL
            && rustix::io::preadv2(&self.file, bufs, offset, ReadWriteFlags::NOWAIT) == Ok(bytes);
        // If not: the end of the file or of what is cached, a file system that cannot tell, or another failure. The
        // read that waits finds out which.
        if read {
            self.metrics.count(Operation::Read, bytes as u64, started.elapsed(), &Ok(()));
        }
        read
    }

    fn forget_cached(&self, range: Range<u64>) {
        // Pages that the range covers in part stay: from the first page's start to the last one's end.
        let start = range.start / PAGE_BYTES * PAGE_BYTES;
        let Some(len) = NonZeroU64::new(range.end.next_multiple_of(PAGE_BYTES) - start) else { return };
        if let Err(error) = rustix::fs::fadvise(&self.file, start, Some(len), rustix::fs::Advice::DontNeed) {
            tracing::debug!(path = self.path, %error, "cached pages stay");
        }
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        let synced = self.timed(Operation::Sync, None, 0, File::sync_data);
        let mut direct = self.direct.lock();
        if matches!(*direct, Direct::Open(_)) {
            *direct = Direct::Closed;
        }
        synced
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.timed(Operation::Length, None, 0, |file| Ok(file.metadata()?.len()))
    }

    fn preallocate_zeroed(&self, len: u64) -> Result<(), DiskError> {
        self.timed(Operation::Preallocate, None, len, |file| {
            let zeros = vec![0u8; len.min(1 << 20) as usize];
            let mut offset = 0;
            while offset < len {
                let step = (len - offset).min(zeros.len() as u64);
                file.write_all_at(&zeros[..step as usize], offset)?;
                offset += step;
            }
            file.sync_all()
        })
    }
}

/// The most buffers one system call takes (Linux's UIO_MAXIOV).
const BUFFERS_PER_CALL: usize = 1024;

fn write_all_vectored(file: &File, bufs: &[IoSlice<'_>], mut offset: u64) -> std::io::Result<()> {
    for group in bufs.chunks(BUFFERS_PER_CALL) {
        let expected = total_len(group);
        let written = write_vectored(file, group, offset)?;
        if written < expected {
            write_rest(file, group, offset, written)?;
        }
        offset += expected;
    }
    Ok(())
}

/// Finishes a short write buffer by buffer: rare, so it may be slow.
fn write_rest(file: &File, bufs: &[IoSlice<'_>], offset: u64, mut done: u64) -> std::io::Result<()> {
    let mut start = 0;
    for buf in bufs {
        let end = start + buf.len() as u64;
        if end > done {
            file.write_all_at(&buf[(done - start) as usize..], offset + done)?;
            done = end;
        }
        start = end;
    }
    Ok(())
}

fn write_vectored(file: &File, bufs: &[IoSlice<'_>], offset: u64) -> std::io::Result<u64> {
    loop {
        match rustix::io::pwritev(file, bufs, offset) {
            Ok(0) if total_len(bufs) > 0 => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written as u64),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn read_all_vectored(file: &File, mut bufs: &mut [IoSliceMut<'_>], mut offset: u64) -> std::io::Result<()> {
    // Empty ones at the front would look like the file's end.
    IoSliceMut::advance_slices(&mut bufs, 0);
    while !bufs.is_empty() {
        let group = bufs.len().min(BUFFERS_PER_CALL);
        match rustix::io::preadv2(file, &mut bufs[..group], offset, ReadWriteFlags::empty()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                IoSliceMut::advance_slices(&mut bufs, read);
                offset += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A job's result will never come: the pool was closed, or the job panicked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the read pool is closed, or the job panicked")]
pub struct JobLost;

type Job = Box<dyn FnOnce() + Send>;

/// Threads for blocking reads. At most `queue` jobs wait; a further caller waits for its turn.
pub struct ReadPool {
    shared: Arc<PoolShared>,
    turns: Arc<Semaphore>,
}

struct PoolShared {
    /// Held for a push or a pop only.
    queue: Mutex<PoolQueue>,
    arrived: Condvar,
}

#[derive(Default)]
struct PoolQueue {
    jobs: VecDeque<(Job, OwnedSemaphorePermit)>,
    closed: bool,
}

impl ReadPool {
    /// Starts `threads` threads; `queue` further jobs may wait behind those that run.
    pub fn new(name: &str, threads: usize, queue: usize) -> std::io::Result<ReadPool> {
        let shared = Arc::new(PoolShared { queue: Mutex::default(), arrived: Condvar::new() });
        let pool = ReadPool { shared, turns: Arc::new(Semaphore::new(threads + queue)) };
        for number in 0..threads {
            let shared = pool.shared.clone();
            // If one cannot be started, dropping the pool ends the earlier ones.
            std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || shared.work())?;
        }
        Ok(pool)
    }

    /// Runs a job on a thread of the pool.
    ///
    /// The future may be dropped: a job that was queued by then still runs, its result is thrown away.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobLost> {
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| JobLost)?;
        let (sender, result) = oneshot::channel();
        let job = Box::new(move || {
            // A reader that went away before its job began needs nothing read.
            if !sender.is_closed() {
                let _ = sender.send(job());
            }
        });
        self.shared.queue.lock().jobs.push_back((job, turn));
        self.shared.arrived.notify_one();
        result.await.map_err(|_| JobLost)
    }
}

impl Drop for ReadPool {
    /// Lets the threads end once the queue is empty. They are not joined: the last owner may be one
    /// of their own jobs.
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.arrived.notify_all();
    }
}

impl PoolShared {
    fn work(&self) {
        while let Some((job, turn)) = self.next() {
            // The job's sender is dropped by the unwinding, so its caller learns of it.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                tracing::error!("a read job panicked");
            }
            drop(turn);
        }
    }

    fn next(&self) -> Option<(Job, OwnedSemaphorePermit)> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            self.arrived.wait(&mut queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buffers::WriteBuffer;
    use futures_util::FutureExt;
    use std::pin::pin;

    fn disk() -> (tempfile::TempDir, ThreadsDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = ThreadsDisk::new(dir.path());
        (dir, disk)
    }

    #[test]
    fn vectored_write_of_more_buffers_than_one_call_takes_is_whole() {
        let (_dir, disk) = disk();
        let file = disk.create("a").unwrap();
        let parts: Vec<[u8; 3]> = (0..2500u32).map(|n| [n as u8, (n >> 8) as u8, 7]).collect();
        let bufs: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_at(&bufs, 5).unwrap();
        let mut read = vec![0; parts.len() * 3];
        file.read_at(&mut read, 5).unwrap();
        assert_eq!(read, parts.concat());
        assert_eq!(
            disk.metrics().of(Operation::Write).bytes.load(std::sync::atomic::Ordering::Relaxed),
            7500
        );
    }

    #[test]
    fn short_write_is_continued_from_where_it_stopped() {
        let (_dir, disk) = disk();
        let full = disk.root.join("a");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(full).unwrap();
        let bufs = [IoSlice::new(b"abc"), IoSlice::new(b"def"), IoSlice::new(b"ghi")];
        for done in 0..=9 {
            file.write_all_at(&b"abcdefghi"[..done], 100).unwrap();
            write_rest(&file, &bufs, 100, done as u64).unwrap();
            let mut read = [0; 9];
            file.read_exact_at(&mut read, 100).unwrap();
            assert_eq!(&read, b"abcdefghi", "after {done} bytes");
            file.write_all_at(&[0; 9], 100).unwrap();
        }
    }

    #[test]
    fn read_past_the_end_is_an_error_with_path_and_offset() {
        let (_dir, disk) = disk();
        let file = disk.create("a").unwrap();
        file.write_at(&[IoSlice::new(b"xy")], 0).unwrap();
        let error = file.read_at(&mut [0; 3], 0).unwrap_err();
        assert_eq!(
            (error.kind(), error.offset, error.path.as_str()),
            (ErrorKind::UnexpectedEof, Some(0), "a")
        );
    }

    #[test]
    fn a_read_that_does_not_wait_gives_the_bytes_or_says_no() {
        let (_dir, disk) = disk();
        let file = disk.create("a").unwrap();
        file.write_at(&[IoSlice::new(b"0123456789")], 0).unwrap();
        let mut read = [0; 4];
        // Some file systems cannot tell.
        if file.read_resident_at(&mut read, 3) {
            assert_eq!(&read, b"3456");
            let metrics = disk.metrics().of(Operation::Read);
            assert_eq!(metrics.bytes.load(std::sync::atomic::Ordering::Relaxed), 4);
        }
        assert!(!file.read_resident_at(&mut read, 7), "three bytes are not four");
        assert!(!file.read_resident_at(&mut read, 1 << 40));
    }

    fn direct_state(file: &ThreadsFile) -> &'static str {
        match &*file.direct.lock() {
            Direct::Closed => "closed",
            Direct::Open(_) => "open",
            Direct::Refused => "refused",
        }
    }

    fn threads_file(dir: &tempfile::TempDir, name: &str) -> ThreadsFile {
        let full = dir.path().join(name);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&full).unwrap();
        ThreadsFile { path: name.to_owned(), full, file, direct: Mutex::default(), metrics: Arc::default() }
    }

    #[test]
    fn what_goes_past_the_page_cache_is_what_is_read_whatever_was_cached() {
        let dir = tempfile::tempdir().unwrap();
        let file = threads_file(&dir, "a");
        let mut long = WriteBuffer::with_capacity(1 << 20);
        long.extend_from_slice(&(0..1u32 << 20).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
        file.write_at(&[IoSlice::new(&vec![7; 2 << 20])], 0).unwrap();
        let mut read = vec![0; 2 << 20];
        file.read_at(&mut read, 0).unwrap();
        file.write_direct_at(&long, 4096).unwrap();
        // Where nothing was before, too.
        file.write_direct_at(&long, 2 << 20).unwrap();
        file.read_at(&mut read, 0).unwrap();
        assert!(read[..4096] == [7; 4096] && read[4096..4096 + (1 << 20)] == long[..]);
        assert!(read[4096 + (1 << 20)..].iter().all(|byte| *byte == 7));
        file.read_at(&mut read[..1 << 20], 2 << 20).unwrap();
        assert!(read[..1 << 20] == long[..]);
        assert_eq!(
            file.metrics.of(Operation::Write).bytes.load(std::sync::atomic::Ordering::Relaxed),
            4 << 20
        );
        // Some file systems cannot; on all others the second descriptor goes with the sync.
        assert_ne!(direct_state(&file), "closed");
        file.sync_data().unwrap();
        assert_ne!(direct_state(&file), "open");
    }

    #[test]
    fn what_cannot_go_past_the_page_cache_goes_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = threads_file(&dir, "a");
        let mut buffer = WriteBuffer::with_capacity(1 << 20);
        buffer.resize(1 << 20);
        for (number, (range, offset)) in
            [(1..DIRECT_BYTES_MIN + 1, 0), (0..DIRECT_BYTES_MIN + 1, 4096), (0..1 << 20, 8191), (0..4096, 0)]
                .into_iter()
                .enumerate()
        {
            buffer.fill(number as u8 + 1);
            let bytes = &buffer[range];
            file.write_direct_at(bytes, offset).unwrap();
            let mut read = vec![0; bytes.len()];
            file.read_at(&mut read, offset).unwrap();
            assert!(read == bytes, "{number}");
        }
        assert_eq!(direct_state(&file), "closed", "none of them was one for the other descriptor");
        *file.direct.lock() = Direct::Refused;
        file.write_direct_at(&buffer, 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(direct_state(&file), "refused");
        // A descriptor that takes nothing.
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        *file.direct.lock() = Direct::Open(Arc::new(full));
        let error = file.write_direct_at(&buffer, 4096).unwrap_err();
        assert!(error.is_no_space(), "{error}");
        assert_eq!((error.operation, error.offset), (Operation::Write, Some(4096)));
    }

    #[test]
    fn vectored_reads_fill_every_buffer_or_fail() {
        let (_dir, disk) = disk();
        let file = disk.create("a").unwrap();
        let bytes: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
        file.write_at(&[IoSlice::new(&bytes)], 0).unwrap();
        let mut parts = vec![[0; 3]; 2_500];
        let mut bufs: Vec<IoSliceMut<'_>> = parts.iter_mut().map(|part| IoSliceMut::new(part)).collect();
        file.read_vectored_at(&mut bufs, 7).unwrap();
        assert_eq!(parts.concat(), bytes[7..7_507]);
        let (mut head, mut tail) = ([0; 4], [0; 6]);
        let mut both = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)];
        // Some file systems cannot tell.
        if file.read_resident_vectored_at(&mut both, 9_990) {
            assert_eq!([&head[..], &tail[..]].concat(), bytes[9_990..]);
        }
        let mut both = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)];
        assert!(!file.read_resident_vectored_at(&mut both, 9_991), "nine bytes are not ten");
        let error = file.read_vectored_at(&mut both, 9_991).unwrap_err();
        assert_eq!((error.kind(), error.offset), (ErrorKind::UnexpectedEof, Some(9_991)));
    }

    #[test]
    fn preallocation_writes_every_byte() {
        let (_dir, disk) = disk();
        disk.create_dir("j/k").unwrap();
        disk.create_dir("j/k").unwrap();
        let file = disk.create("j/k/a").unwrap();
        file.preallocate_zeroed((1 << 20) + 17).unwrap();
        assert_eq!(file.len().unwrap(), (1 << 20) + 17);
        assert_eq!(disk.list("j/k").unwrap(), ["a"]);
    }

    #[test]
    fn paths_cannot_leave_the_data_directory() {
        let (_dir, disk) = disk();
        for path in ["../a", "/a", "a//b", ".", ""] {
            assert_eq!(disk.open(path).err().unwrap().kind(), ErrorKind::InvalidInput, "{path}");
        }
    }

    #[tokio::test]
    async fn pool_answers_and_survives_a_panic() {
        let pool = ReadPool::new("test-read", 2, 1).unwrap();
        assert_eq!(pool.run(|| 6 * 7).await, Ok(42));
        for _ in 0..4 {
            assert_eq!(pool.run(|| panic!("on purpose")).await, Err::<(), _>(JobLost));
        }
        assert_eq!(pool.run(|| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn pool_makes_the_caller_wait_when_its_queue_is_full() {
        let pool = ReadPool::new("test-read", 1, 1).unwrap();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let running = pool.run(move || blocked.recv().is_ok());
        let queued = pool.run(|| true);
        let refused = pool.run(|| true);
        let (mut running, mut queued, mut refused) = (pin!(running), pin!(queued), pin!(refused));
        assert!(running.as_mut().now_or_never().is_none());
        assert!(queued.as_mut().now_or_never().is_none());
        assert!(refused.as_mut().now_or_never().is_none());
        assert_eq!(pool.turns.available_permits(), 0);
        assert!(pool.shared.queue.lock().jobs.len() <= 2, "the third waits outside the queue");
        release.send(()).unwrap();
        assert_eq!((running.await, queued.await, refused.await), (Ok(true), Ok(true), Ok(true)));
    }

    #[tokio::test]
    async fn dropping_a_future_gives_its_turn_back() {
        let pool = ReadPool::new("test-read", 1, 1).unwrap();
        for _ in 0..100 {
            let _ = pool.run(|| ()).now_or_never();
        }
        assert_eq!(pool.run(|| 5).await, Ok(5));
    }
}
