//! LMDB as the checkpoint store: fully synced, one big transaction at a time, read transactions without
//! thread-local slots, no read-ahead. The only file that names LMDB.
//!
//! A crash leaves the last committed checkpoint. Commits are few and large; a read transaction is opened
//! per read and never held, because one old reader keeps every page freed since.

use std::io::ErrorKind;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags, WithoutTls};

use crate::keyspace::base::{Base, BaseError, Change, Pair};

/// Read transactions open at once: async workers, read pool and apply together stay far below.
const READERS_MAX: u32 = 512;

/// What a process of 64 bits can map, with some to spare for all else.
const MAP_BYTES_MAX: u64 = 96 << 40;

/// A disk with more free than that was not full a moment ago either, whatever was made and removed on it meanwhile.
const NEARLY_FULL_BYTES: u64 = 256 << 20;

/// What LMDB calls its file.
const FILE: &str = "data.mdb";
/// What it calls the table of readers, which it writes through a map.
const READER_TABLE: &str = "lock.mdb";
/// At least what LMDB makes of [`READERS_MAX`]: 64 bytes for each, and a head.
const READER_TABLE_BYTES: usize = (READERS_MAX as usize + 4) * 64;
/// Where a new file is made, inside the directory. What a crash left there is of no use: the next file is made anew.
const UNFINISHED: &str = "new";

/// The environment of one data directory.
pub(crate) struct Lmdb {
    env: Env<WithoutTls>,
    rows: Database<'static, Bytes, Bytes>,
    map_bytes: u64,
    /// Above this many bytes in use, reads are taken to leave the page cache.
    resident_bytes: u64,
    used_bytes: AtomicU64,
    file_bytes: AtomicU64,
    /// LMDB's file once more, to learn of writes that failed behind LMDB's back.
    witness: std::fs::File,
}

impl Lmdb {
    /// Opens or creates the environment in `dir` (which must exist), for `map_bytes` of rows. The map is sparse and
    /// larger than that: see [`map_room`]. The name of a file just made is durable once the caller has synced `dir`;
    /// its bytes are before that. `memtable_bytes`: the limit of a memtable. `resident_bytes`: how much of the
    /// file the page cache may be expected to hold.
    pub(crate) fn open(
        dir: &Path,
        map_bytes: u64,
        memtable_bytes: u64,
        resident_bytes: u64,
    ) -> Result<Lmdb, BaseError> {
        let room = map_room(map_bytes, memtable_bytes);
        if !dir.join(FILE).try_exists().map_err(|error| io_failed(dir, &error))? {
            create_whole(dir, room)?;
        }
        fill_reader_table(dir).map_err(|error| io_failed(&dir.join(READER_TABLE), &error))?;
        let env = open_environment(dir, room)?;
        let txn = env.write_txn().map_err(failed)?;
        let opened = env.create_databases_and_commit(txn, |databases, txn| {
            let rows = databases.create_database::<Bytes, Bytes>(txn, None)?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(rows))
        });
        let rows = opened.map_err(failed)?.unwrap_commit();
        let lmdb = Lmdb {
            env,
            rows,
            map_bytes,
            resident_bytes,
            used_bytes: AtomicU64::new(0),
            file_bytes: AtomicU64::new(0),
            witness: std::fs::File::open(dir.join(FILE)).map_err(|error| io_failed(dir, &error))?,
        };
        lmdb.note_usage()?;
        Ok(lmdb)
    }

    /// Pages that hold rows, and the file's high-water mark: freed pages count for the second only.
    fn note_usage(&self) -> Result<(), BaseError> {
        let txn = self.env.read_txn().map_err(failed)?;
        let stat = self.rows.stat(&txn).map_err(failed)?;
        let page = u64::from(stat.page_size);
        let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        self.used_bytes.store(pages as u64 * page, Ordering::Relaxed);
        self.file_bytes.store((self.env.info().last_page_number as u64 + 1) * page, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, changes: &[Change]) -> Result<(), heed::Error> {
        let mut txn = self.env.write_txn()?;
        for (key, value) in changes {
            match value {
                Some(value) => self.rows.put_with_flags(&mut txn, PutFlags::empty(), key, value)?,
                None => drop(self.rows.delete(&mut txn, key)?),
            }
        }
        txn.commit()
    }

    /// What became of a transaction that failed, and has ended. Full is only what has certainly left nothing behind.
    fn commit_error(&self, error: heed::Error) -> BaseError {
        let is_full = match &error {
            heed::Error::Mdb(MdbError::MapFull) => true,
            // The map is sparse: the disk may be full before it is.
            heed::Error::Io(io) => self.is_full_disk(io) && self.is_unhurt(),
            _ => false,
        };
        if !is_full {
            return failed(error);
        }
        let (used, map) = self.usage();
        BaseError::Full { used, map }
    }

    /// Whether LMDB had no room. Of some pages it may have written a part, which it calls an input/output error: the
    /// disk took what it had room for. A try anew writes all of the transaction's pages again.
    fn is_full_disk(&self, error: &std::io::Error) -> bool {
        let is_nearly_full = || {
            let free = rustix::fs::statvfs(self.env.path()).map(|stat| stat.f_bavail * stat.f_frsize);
            free.is_ok_and(|free| free < NEARLY_FULL_BYTES)
        };
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            || (error.raw_os_error() == Some(libc::EIO) && is_nearly_full())
    }

    /// Whether no sync has failed, and no page that says which transaction is the last: LMDB takes no further
    /// transaction after the latter, and the kernel tells of bytes that it could not write by each file that was
    /// opened before.
    fn is_unhurt(&self) -> bool {
        self.env.write_txn().map(drop).is_ok() && self.witness.sync_data().is_ok()
    }
}

/// How large the map is made. A commit that touches every page, as one of many deletes may, writes all of them anew
/// before it gives the old ones back; and what memtables hold was admitted before it is counted. Were there less
/// room, a store that is nearly full could not even take the deletes that would help it.
fn map_room(map_bytes: u64, memtable_bytes: u64) -> u64 {
    let room = map_bytes.saturating_mul(2).saturating_add(memtable_bytes.saturating_mul(16));
    room.min(MAP_BYTES_MAX).max(map_bytes).next_multiple_of(4096)
}

fn open_environment(dir: &Path, map_bytes: u64) -> Result<Env<WithoutTls>, BaseError> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes as usize).max_readers(READERS_MAX);
    // SAFETY: NO_READ_AHEAD only advises the kernel; none of the flags that weaken durability or write
    // through the map is set. The directory is locked by the node, so that no other process maps it, and
    // a node opens it once.
    unsafe { options.flags(EnvFlags::NO_READ_AHEAD).open(dir) }.map_err(failed)
}

/// Makes the file elsewhere, syncs it and only then gives it its name. LMDB does not sync the first pages of a
/// new file before the first commit, and one that a power cut left with half of them never opens again.
fn create_whole(dir: &Path, map_bytes: u64) -> Result<(), BaseError> {
    let unfinished = dir.join(UNFINISHED);
    let io = |error: std::io::Error| io_failed(&unfinished, &error);
    remove_unfinished(&unfinished).map_err(io)?;
    std::fs::create_dir(&unfinished).map_err(io)?;
    let env = open_environment(&unfinished, map_bytes)?;
    env.force_sync().map_err(failed)?;
    env.prepare_for_closing().wait();
    std::fs::rename(unfinished.join(FILE), dir.join(FILE)).map_err(io)?;
    remove_unfinished(&unfinished).map_err(io)
}

/// Gives the table of readers its blocks. LMDB makes it sparse, and the first reader in a page that gets none, because
/// the disk is full, would end the process by SIGBUS. Its content is of no use: nobody else has it open.
fn fill_reader_table(dir: &Path) -> std::io::Result<()> {
    let mut options = std::fs::File::options();
    let table = options.create(true).truncate(false).write(true).open(dir.join(READER_TABLE))?;
    table.write_all_at(&[0; READER_TABLE_BYTES], 0)
}

fn remove_unfinished(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn io_failed(path: &Path, error: &std::io::Error) -> BaseError {
    BaseError::Failed(format!("{}: {error}", path.display()).into())
}

fn failed(error: heed::Error) -> BaseError {
    BaseError::Failed(error.to_string().into())
}

impl Base for Lmdb {
    fn get(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, BaseError> {
        let txn = self.env.read_txn().map_err(failed)?;
        Ok(self.rows.get(&txn, key).map_err(failed)?.map(Arc::from))
    }

    fn range(&self, from: Bound<&[u8]>, end: &[u8], limit: usize) -> Result<Vec<Pair>, BaseError> {
        if matches!(from, Bound::Included(from) | Bound::Excluded(from) if from >= end) {
            return Ok(Vec::new());
        }
        let txn = self.env.read_txn().map_err(failed)?;
        let range = self.rows.range(&txn, &(from, Bound::Excluded(end))).map_err(failed)?;
        let mut pairs = Vec::new();
        for row in range.take(limit) {
            let (key, value) = row.map_err(failed)?;
            pairs.push((Arc::from(key), Arc::from(value)));
        }
        Ok(pairs)
    }

    fn commit(&self, changes: &[Change]) -> Result<(), BaseError> {
        self.write(changes).map_err(|error| self.commit_error(error))?;
        self.note_usage()
    }

    fn usage(&self) -> (u64, u64) {
        (self.used_bytes.load(Ordering::Relaxed), self.map_bytes)
    }

    fn may_block(&self) -> bool {
        self.file_bytes.load(Ordering::Relaxed) > self.resident_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP_BYTES: u64 = 1 << 24;
    const MEMTABLE_BYTES: u64 = 1 << 20;

    #[test]
    fn a_file_that_a_crash_left_unfinished_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let unfinished = dir.path().join(UNFINISHED);
        std::fs::create_dir(&unfinished).unwrap();
        // What a power cut made of two pages that were not synced.
        std::fs::write(unfinished.join(FILE), [0; 8_192]).unwrap();
        drop(Lmdb::open(dir.path(), MAP_BYTES, MEMTABLE_BYTES, MAP_BYTES).unwrap());
        assert!(!unfinished.exists());
        Lmdb::open(dir.path(), MAP_BYTES, MEMTABLE_BYTES, MAP_BYTES).unwrap();
    }

    #[test]
    fn a_full_map_takes_a_commit_that_touches_every_page() {
        let dir = tempfile::tempdir().unwrap();
        let lmdb = Lmdb::open(dir.path(), MAP_BYTES, MEMTABLE_BYTES, MAP_BYTES).unwrap();
        let key = |number: u32| -> Arc<[u8]> { Arc::from(&number.to_be_bytes()[..]) };
        let value: Arc<[u8]> = Arc::from(vec![1; 400]);
        let mut count = 0;
        while lmdb.usage().0 < MAP_BYTES / 100 * 90 {
            let rows: Vec<Change> = (count..count + 1_000).map(|n| (key(n), Some(value.clone()))).collect();
            lmdb.commit(&rows).unwrap();
            count += 1_000;
        }
        let every_other: Vec<Change> = (0..count).step_by(2).map(|n| (key(n), None)).collect();
        lmdb.commit(&every_other).unwrap();
        assert_eq!(lmdb.get(&key(1)).unwrap(), Some(value));
        assert_eq!(lmdb.get(&key(2)).unwrap(), None);
    }

    /// Full means that nothing was left behind; where a sync has failed nobody knows, and the process has to end.
    #[test]
    fn a_commit_without_room_is_full_only_while_no_sync_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let mut lmdb = Lmdb::open(dir.path(), MAP_BYTES, MEMTABLE_BYTES, MAP_BYTES).unwrap();
        let commit_error =
            |lmdb: &Lmdb, errno| lmdb.commit_error(heed::Error::Io(std::io::Error::from_raw_os_error(errno)));
        for errno in [libc::ENOSPC, libc::EDQUOT] {
            assert!(matches!(commit_error(&lmdb, errno), BaseError::Full { .. }));
        }
        assert!(matches!(commit_error(&lmdb, libc::EBADF), BaseError::Failed(_)));
        // A file that no sync succeeds on.
        lmdb.witness = std::fs::File::open("/dev/null").unwrap();
        for errno in [libc::ENOSPC, libc::EDQUOT, libc::EIO] {
            assert!(matches!(commit_error(&lmdb, errno), BaseError::Failed(_)));
        }
    }

    #[test]
    fn the_table_of_readers_has_all_its_blocks() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            drop(Lmdb::open(dir.path(), MAP_BYTES, MEMTABLE_BYTES, MAP_BYTES).unwrap());
            let table = std::fs::metadata(dir.path().join(READER_TABLE)).unwrap();
            assert!(table.len() >= READER_TABLE_BYTES as u64, "{} bytes", table.len());
            assert!(
                table.blocks() * 512 >= table.len(),
                "{} blocks of {} bytes",
                table.blocks(),
                table.len()
            );
        }
    }

    #[test]
    fn a_file_that_has_its_name_is_never_made_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), [0; 8_192]).unwrap();
        assert!(Lmdb::open(dir.path(), MAP_BYTES, MEMTABLE_BYTES, MAP_BYTES).is_err());
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), [0; 8_192]);
    }
}
