//! An audit: sums over the committed tables, which stay right while checkpoints commit.
//!
//! Owns the sums, how far each walk over the tables has come, and what a commit changes of what was walked
//! already. Does not own the walks, nor what a difference means (`scrub/`).
//!
//! Two things are added up, each from both of its sides:
//! - *References.* Every row that names a blob counts one; every blob counts what its reference row says, one
//!   without such a row, none if it is not there. A keyed hash of the blob goes into one of [`SUMS`] sums as often as
//!   it is named, and out of it as often as it counts: sums that are not zero tell where to look, and a second audit
//!   counts the blobs of these one by one. So the memory is bounded whatever the number of blobs.
//! - *Usage.* The bytes on disk of every place, by segment.
//!
//! What must hold: rows are read, added and compared as of one commit ([`Audits::between`]); a commit changes the
//! sums by exactly what it changes behind the walks. No view is registered and no transaction held for longer than
//! a page: neither apply nor a checkpoint waits for an audit. What a checkpoint pays while one runs is a look at the
//! old value of each row that it changes.
//!
//! A crash leaves nothing: an audit is in memory.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::ops::Bound;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex};

use super::Keyspace;
use super::base::{Base, BaseError, Change, Pair};
use super::checkpoint::decode_pointer;
use super::tables::{QueueRow, RowReader, Table, blob_key, split_blob_key};
use crate::apply::blobs_of;
use crate::blob::{Generation, Pointer, SegmentId, SegmentUsage};
use crate::object::BlobId;

/// Sums of references. More: fewer blobs to count one by one after a difference.
pub(crate) const SUMS: usize = 4096;
/// How long a page waits for a commit under way before its caller is asked again.
const COMMIT_WAIT: Duration = Duration::from_millis(100);

/// The tables whose rows name blobs, in the order of their keys.
const NAMING: [Table; 3] = [Table::Object, Table::Queue, Table::UploadPart];

/// The blobs that a row names, each once: an object's, those of a version that a queue row holds, an upload part's.
pub(crate) fn named_by(table: u8, value: &[u8]) -> Vec<BlobId> {
    let of_row = |row: &[u8]| RowReader::new(row).as_ref().map(blobs_of).unwrap_or_default();
    match table {
        it if it == Table::Object as u8 || it == Table::UploadPart as u8 => of_row(value),
        it if it == Table::Queue as u8 => {
            QueueRow::decode(value).and_then(|row| row.held).as_deref().map(of_row).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// What the tables say of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlobRows {
    pub(crate) blob: BlobId,
    pub(crate) place: Option<Pointer>,
    pub(crate) clean: bool,
    /// What its reference row says.
    pub(crate) count: Option<u32>,
}

impl BlobRows {
    fn read(base: &dyn Base, blob: BlobId) -> Result<BlobRows, BaseError> {
        let row = |table| base.get(&blob_key(table, blob));
        let mut rows = BlobRows { blob, place: None, clean: false, count: None };
        rows.set(Table::Blob, row(Table::Blob)?.as_deref());
        rows.set(Table::Clean, row(Table::Clean)?.as_deref());
        rows.set(Table::Refs, row(Table::Refs)?.as_deref());
        Ok(rows)
    }

    fn set(&mut self, table: Table, value: Option<&[u8]>) {
        match table {
            Table::Blob => self.place = value.and_then(decode_pointer),
            Table::Clean => self.clean = value.is_some(),
            Table::Refs => {
                self.count = value.and_then(|row| row.first_chunk()).map(|count| u32::from_le_bytes(*count));
            }
            _ => {}
        }
    }

    /// How many rows should name it.
    fn counted(&self) -> i64 {
        let there = self.place.is_some() || self.clean;
        i64::from(self.count.unwrap_or(u32::from(there)))
    }
}

/// How far a walk over the blobs has come: all up to here are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlobsUpto {
    Nothing,
    Blob(BlobId),
    All,
}

impl BlobsUpto {
    fn covers(self, blob: BlobId) -> bool {
        match self {
            BlobsUpto::Nothing => false,
            BlobsUpto::Blob(upto) => blob <= upto,
            BlobsUpto::All => true,
        }
    }
}

/// How references are added up.
enum Tally {
    /// All blobs, in sums.
    Sums(Box<[u64]>),
    /// Those of some sums, one by one: named, and counted.
    Exact { sums: Vec<usize>, blobs: HashMap<BlobId, (i64, i64), RandomState> },
}

/// See the file's head.
pub(crate) struct Audit {
    hasher: RandomState,
    tally: Tally,
    /// The last key of the rows that name blobs which is added.
    rows: Vec<u8>,
    blobs: BlobsUpto,
    segments: BTreeMap<(SegmentId, Generation), i64>,
    /// A commit could not be followed.
    failed: Option<BaseError>,
}

/// A segment whose usage row is not the sum of its places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsageDifference {
    pub(crate) segment: SegmentId,
    pub(crate) generation: Generation,
    /// What the row says; 0 if there is none.
    pub(crate) recorded: u64,
    /// What the places take.
    pub(crate) counted: u64,
}

/// What an audit came to.
pub(crate) enum Compared {
    Failed(BaseError),
    /// Sums of references that are not zero, and usage rows that are wrong.
    Sums(Vec<usize>, Vec<UsageDifference>),
    /// Blobs that are named another number of times than they count: blob, named, counted.
    Exact(Vec<(BlobId, i64, i64)>),
}

impl Audit {
    /// Adds up everything.
    pub(crate) fn new(hasher: RandomState) -> Audit {
        Audit::of(hasher, Tally::Sums(vec![0; SUMS].into_boxed_slice()))
    }

    /// Counts the blobs of these sums one by one. `hasher`: that of the audit that found them.
    pub(crate) fn of_sums(hasher: RandomState, sums: Vec<usize>) -> Audit {
        Audit::of(hasher, Tally::Exact { sums, blobs: HashMap::default() })
    }

    fn of(hasher: RandomState, tally: Tally) -> Audit {
        Audit {
            hasher,
            tally,
            rows: vec![NAMING[0] as u8],
            blobs: BlobsUpto::Nothing,
            segments: BTreeMap::new(),
            failed: None,
        }
    }

    /// Adds rows that name blobs, which follow on those that were added before, and all up to the key `upto`.
    pub(crate) fn add_rows(&mut self, rows: &[Pair], upto: Vec<u8>) {
        for (key, value) in rows {
            self.name(key[0], value, 1);
        }
        self.rows = upto;
    }

    /// Adds blobs, which follow on those that were added before.
    pub(crate) fn add_blobs(&mut self, blobs: &[BlobRows], upto: BlobsUpto) {
        blobs.iter().for_each(|rows| self.count(rows, 1));
        self.blobs = upto;
    }

    fn name(&mut self, table: u8, value: &[u8], times: i64) {
        for blob in named_by(table, value) {
            self.tally(blob, times, 0);
        }
    }

    fn count(&mut self, rows: &BlobRows, times: i64) {
        self.tally(rows.blob, 0, rows.counted() * times);
        if let Some(place) = rows.place {
            let bytes = self.segments.entry((place.segment, place.generation)).or_default();
            *bytes += place.bytes_on_disk() as i64 * times;
        }
    }

    fn tally(&mut self, blob: BlobId, named: i64, counted: i64) {
        let hash = self.hasher.hash_one(blob);
        let sum = hash as usize % SUMS;
        match &mut self.tally {
            Tally::Sums(sums) => {
                // A hash of zero would hide its blob.
                let times = (named - counted) as u64;
                sums[sum] = sums[sum].wrapping_add((hash | 1).wrapping_mul(times));
            }
            Tally::Exact { sums, blobs } if sums.contains(&sum) => {
                let entry = blobs.entry(blob).or_default();
                entry.0 += named;
                entry.1 += counted;
                if *entry == (0, 0) {
                    blobs.remove(&blob);
                }
            }
            Tally::Exact { .. } => {}
        }
    }

    /// What a commit changes (`sign` = 1), or would have changed (-1), of what was added already. Called while the
    /// store still holds the old rows.
    fn follow(&mut self, base: &dyn Base, changes: &[Change], sign: i64) -> Result<(), BaseError> {
        for table in NAMING {
            let rows = of_table(changes, table);
            for (key, new) in &rows[..rows.partition_point(|(key, _)| **key <= *self.rows)] {
                if let Some(old) = base.get(key)? {
                    self.name(table as u8, &old, -sign);
                }
                if let Some(new) = new {
                    self.name(table as u8, new, sign);
                }
            }
        }
        let mut tables =
            [Table::Blob, Table::Clean, Table::Refs].map(|table| (table, of_table(changes, table)));
        while let Some(blob) = tables.iter().filter_map(|(_, rows)| split_blob_key(&rows.first()?.0)).min() {
            if !self.blobs.covers(blob) {
                return Ok(());
            }
            let old = BlobRows::read(base, blob)?;
            let mut new = old;
            for (table, rows) in &mut tables {
                if let Some((first, rest)) = rows.split_first()
                    && split_blob_key(&first.0) == Some(blob)
                {
                    new.set(*table, first.1.as_deref());
                    *rows = rest;
                }
            }
            self.count(&old, -sign);
            self.count(&new, sign);
        }
        Ok(())
    }

    /// Compares both sides. Both walks must have ended, and `usage` be of the same commit.
    pub(crate) fn compare(&self, usage: &[SegmentUsage]) -> Compared {
        if let Some(error) = &self.failed {
            return Compared::Failed(error.clone());
        }
        debug_assert!(self.blobs == BlobsUpto::All && *self.rows >= *end_of(NAMING[NAMING.len() - 1]));
        match &self.tally {
            Tally::Sums(sums) => {
                let wrong = sums.iter().enumerate().filter(|(_, sum)| **sum != 0).map(|(at, _)| at);
                Compared::Sums(wrong.collect(), self.compare_usage(usage))
            }
            Tally::Exact { blobs, .. } => {
                let wrong = blobs.iter().filter(|(_, (named, counted))| named != counted);
                let mut wrong: Vec<_> =
                    wrong.map(|(blob, (named, counted))| (*blob, *named, *counted)).collect();
                wrong.sort_unstable();
                Compared::Exact(wrong)
            }
        }
    }

    fn compare_usage(&self, usage: &[SegmentUsage]) -> Vec<UsageDifference> {
        let mut all: BTreeMap<(SegmentId, Generation), (u64, u64)> = BTreeMap::new();
        for row in usage {
            all.entry((row.segment, row.generation)).or_default().0 = row.live_bytes;
        }
        for (place, bytes) in &self.segments {
            all.entry(*place).or_default().1 = (*bytes).max(0) as u64;
        }
        let wrong = all.into_iter().filter(|(_, (recorded, counted))| recorded != counted);
        wrong
            .map(|((segment, generation), (recorded, counted))| UsageDifference {
                segment,
                generation,
                recorded,
                counted,
            })
            .collect()
    }
}

/// The changes of one table; all are in the order of their keys.
fn of_table(changes: &[Change], table: Table) -> &[Change] {
    let from = changes.partition_point(|(key, _)| key.first().is_some_and(|first| *first < table as u8));
    let rest = &changes[from..];
    &rest[..rest.partition_point(|(key, _)| key.first() == Some(&(table as u8)))]
}

/// What stands behind all keys of a table and before those of the next.
fn end_of(table: Table) -> Vec<u8> {
    Keyspace::table_end(table).to_vec()
}

/// Where the walk over the rows that name blobs begins.
pub(crate) fn first_row() -> Vec<u8> {
    vec![NAMING[0] as u8]
}

/// Rows that name blobs, and the key up to which all of them are known.
pub(crate) type RowsPage = (Vec<Pair>, Vec<u8>);

/// The next rows that name blobs behind the key `after`; `None` behind the last. May block.
pub(crate) fn rows_page(base: &dyn Base, after: &[u8], limit: usize) -> Result<Option<RowsPage>, BaseError> {
    let Some(table) = NAMING.into_iter().find(|table| *after < *end_of(*table)) else { return Ok(None) };
    let from = if after < &[table as u8][..] { &[table as u8][..] } else { after };
    let rows = base.range(Bound::Excluded(from), &end_of(table), limit)?;
    let upto = match rows.last() {
        Some((key, _)) if rows.len() == limit => key.to_vec(),
        _ => end_of(table),
    };
    Ok(Some((rows, upto)))
}

/// What the tables say of the next blobs behind `after`, and up to where all of them are known. May block.
pub(crate) fn blobs_page(
    base: &dyn Base,
    after: BlobsUpto,
    limit: usize,
) -> Result<(Vec<BlobRows>, BlobsUpto), BaseError> {
    let mut found: BTreeMap<BlobId, BlobRows> = BTreeMap::new();
    let mut upto = BlobsUpto::All;
    for table in [Table::Blob, Table::Clean, Table::Refs] {
        let rows = match after {
            BlobsUpto::All => return Ok((Vec::new(), BlobsUpto::All)),
            BlobsUpto::Nothing => base.range(Bound::Included(&[table as u8]), &end_of(table), limit)?,
            BlobsUpto::Blob(blob) => {
                base.range(Bound::Excluded(&blob_key(table, blob)), &end_of(table), limit)?
            }
        };
        if rows.len() == limit
            && let Some(last) = rows.last().and_then(|(key, _)| split_blob_key(key))
            && !matches!(upto, BlobsUpto::Blob(upto) if upto < last)
        {
            upto = BlobsUpto::Blob(last);
        }
        for (key, value) in &rows {
            if let Some(blob) = split_blob_key(key) {
                let rows =
                    found.entry(blob).or_insert(BlobRows { blob, place: None, clean: false, count: None });
                rows.set(table, Some(value));
            }
        }
    }
    let known = found.into_values().filter(|rows| upto.covers(rows.blob)).collect();
    Ok((known, upto))
}

/// The audit that runs, if one does, and the commits that it follows.
#[derive(Default)]
pub(crate) struct Audits {
    /// Held for sums, and while the checkpoint thread looks at the rows that it is about to change.
    state: Mutex<State>,
    settled: Condvar,
    /// Commits are not followed: for the test that must notice.
    #[cfg(test)]
    pub(crate) blind: std::sync::atomic::AtomicBool,
}

#[derive(Default)]
struct State {
    /// Begun and ended ones; odd while one is under way.
    commits: u64,
    audit: Option<Audit>,
}

impl Audits {
    /// Begins an audit, in the place of any before.
    pub(crate) fn begin(&self, audit: Audit) {
        self.state.lock().audit = Some(audit);
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        self.state.lock().audit = None;
    }

    /// Reads something of the committed tables as of one commit, and does something about it before the next one.
    /// `None` if a commit came between: the same again, or less of it. `read` may block, `then` must not.
    pub(crate) fn between<T, R>(
        &self,
        read: impl FnOnce() -> Result<T, BaseError>,
        then: impl FnOnce(Option<&mut Audit>, T) -> R,
    ) -> Result<Option<R>, BaseError> {
        let before = {
            let mut state = self.state.lock();
            if !state.commits.is_multiple_of(2) {
                self.settled.wait_for(&mut state, COMMIT_WAIT);
            }
            state.commits
        };
        if !before.is_multiple_of(2) {
            return Ok(None);
        }
        let read = read()?;
        let mut state = self.state.lock();
        if state.commits != before {
            return Ok(None);
        }
        Ok(Some(then(state.audit.as_mut(), read)))
    }

    fn follows(&self) -> bool {
        #[cfg(test)]
        if self.blind.load(std::sync::atomic::Ordering::Relaxed) {
            return false;
        }
        true
    }

    /// These changes, in the order of their keys, are about to be committed.
    pub(super) fn committing(&self, base: &dyn Base, changes: &[Change]) {
        let mut state = self.state.lock();
        state.commits += 1;
        if self.follows() {
            follow(&mut state, base, changes, 1);
        }
    }

    /// They are, or `done` is false and nothing is changed.
    pub(super) fn committed(&self, base: &dyn Base, changes: &[Change], done: bool) {
        let mut state = self.state.lock();
        if !done && self.follows() {
            follow(&mut state, base, changes, -1);
        }
        state.commits += 1;
        self.settled.notify_all();
    }
}

fn follow(state: &mut State, base: &dyn Base, changes: &[Change], sign: i64) {
    if let Some(audit) = state.audit.as_mut().filter(|audit| audit.failed.is_none())
        && let Err(error) = audit.follow(base, changes, sign)
    {
        audit.failed = Some(error);
    }
}
