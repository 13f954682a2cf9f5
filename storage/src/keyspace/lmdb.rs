//! LMDB as the checkpoint store: fully synced, one big transaction at a time, read transactions without
//! thread-local slots, no read-ahead. The only file that names LMDB.
//!
//! A crash leaves the last committed checkpoint. Commits are few and large; a read transaction is opened
//! per read and never held, because one old reader keeps every page freed since.

use std::io::ErrorKind;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags, WithoutTls};

use crate::keyspace::base::{Base, BaseError, Change, Pair};

/// Read transactions open at once: async workers, read pool and apply together stay far below.
const READERS_MAX: u32 = 512;

/// The environment of one data directory.
pub(crate) struct Lmdb {
    env: Env<WithoutTls>,
    rows: Database<'static, Bytes, Bytes>,
    map_bytes: u64,
    /// Above this many bytes in use, reads are taken to leave the page cache.
    resident_bytes: u64,
    used_bytes: AtomicU64,
    file_bytes: AtomicU64,
}

impl Lmdb {
    /// Opens or creates the environment in `dir` (which must exist), `map_bytes` large and sparse.
    /// `resident_bytes`: how much of it the page cache may be expected to hold.
    pub(crate) fn open(dir: &Path, map_bytes: u64, resident_bytes: u64) -> Result<Lmdb, BaseError> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_bytes as usize).max_readers(READERS_MAX);
        // SAFETY: NO_READ_AHEAD only advises the kernel; none of the flags that weaken durability or write
        // through the map is set. The directory is locked by the node, so that no other process maps it, and
        // a node opens it once.
        let env = unsafe { options.flags(EnvFlags::NO_READ_AHEAD).open(dir) }.map_err(failed)?;
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

    fn commit_error(&self, error: heed::Error) -> BaseError {
        match error {
            heed::Error::Mdb(MdbError::MapFull) => {
                let (used, map) = self.usage();
                BaseError::Full { used, map }
            }
            // The map is sparse: the disk may be full before it is.
            heed::Error::Io(error)
                if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                let (used, map) = self.usage();
                BaseError::Full { used, map }
            }
            other => failed(other),
        }
    }
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
        let mut txn = self.env.write_txn().map_err(failed)?;
        for (key, value) in changes {
            match value {
                Some(value) => self
                    .rows
                    .put_with_flags(&mut txn, PutFlags::empty(), key, value)
                    .map_err(|e| self.commit_error(e))?,
                None => {
                    self.rows.delete(&mut txn, key).map_err(|e| self.commit_error(e))?;
                }
            }
        }
        txn.commit().map_err(|e| self.commit_error(e))?;
        self.note_usage()
    }

    fn usage(&self) -> (u64, u64) {
        (self.used_bytes.load(Ordering::Relaxed), self.map_bytes)
    }

    fn may_block(&self) -> bool {
        self.file_bytes.load(Ordering::Relaxed) > self.resident_bytes
    }
}
