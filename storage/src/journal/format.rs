//! The journal's bytes on disk, version 1. All integers are little-endian.
//!
//! ```text
//! file    [header 4096][batch][batch]...[room for two empty batches]
//! header  crc u32 · magic u32 · version u16 · 0 u16 · align u32 · file length u64 · secret u64
//!         · generation u64 · sequence u64 · previous sequence u64 · previous end u64 · floor u64
//!         · synced end u64 · replaced sequence u64 · zeros to 4096 (not under the crc, so its 512-byte sector is all that counts)
//! batch   [batch header 104][record][record]...[zeros; the next batch begins on a multiple of align]
//! batch header
//!         crc u32 · magic u32 · secret u64 · generation u64 · sequence u64 · own offset u64
//!         · body length u32 · records u32 · synced sequence u64 · synced offset u64
//!         · commit index u64 · floor u64 · chain u32 · flags u32 · 0 u64 · 0 u64
//! record  [crc u32 · length u32 · type u8 · kind u8 · group u16][length bytes]
//!         1 entry       term u64 · index u64 · context length u32 · context · data
//!         2 hard state  term u64 · vote u64 · commit u64
//!         3 conf state  bytes
//!         4 snapshot    term u64 · index u64
//! ```
//!
//! `sequence` orders the files; `generation` is new with every use of a file, `secret` is the
//! journal's own for life. Both are random, so that no client can store bytes that look like a batch.
//! A batch header's CRC stands alone and covers its place and the CRC of the record before (`chain`);
//! a record's CRC is seeded by the CRC before it. So nothing parses that was not written in this use of
//! the file, at this place, after exactly these records.
//! A batch header names a position below which all was on disk before the batch was written; a file
//! header names the same of the file before (`previous end`, where that file's use ends) and of its own
//! start (`synced end`). `replaced sequence` is that of a file of which a start has put all into this one; 0 in every
//! other, and in those that were written before there was such a field.

use super::record::{GroupId, Record};
use std::ops::Range;

/// Bytes before the first batch.
pub(super) const FILE_HEADER: u64 = 4096;
/// Bytes of a batch header.
pub(super) const BATCH_HEADER: usize = 104;
/// Bytes of a record before its payload.
pub(super) const RECORD_HEADER: usize = 12;
/// The bytes of a file header that are written and checked: one sector.
pub(super) const FILE_HEADER_USED: usize = 512;

/// What the kernel caches a file in; lengths of files are multiples of it.
pub(super) const PAGE: u64 = 4096;

const FILE_MAGIC: u32 = u32::from_le_bytes(*b"FBJ\x01");
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"FBB\x01");
const VERSION: u16 = 1;

/// The batch restates what the journal already held when the file began.
pub(super) const FLAG_RESTATED: u32 = 1;

/// A place in the journal: between two batches, or before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The file, in log order.
    pub sequence: u64,
    /// Bytes from the file's start.
    pub offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) align: u32,
    pub(super) file_len: u64,
    pub(super) secret: u64,
    pub(super) generation: u64,
    pub(super) sequence: u64,
    /// Where the log before this file ends; `None` for the first file of a journal.
    pub(super) previous: Option<Position>,
    /// Files below this sequence are not needed, and that is durable.
    pub(super) floor: u64,
    /// All before this offset was synced before the header was written.
    pub(super) synced_end: u64,
    /// The file that this one holds a copy of, and stands for.
    pub(super) replaces: Option<u64>,
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_USED] {
        let mut bytes = [0; FILE_HEADER_USED];
        let previous = self.previous.unwrap_or_default();
        let mut put = Put { bytes: &mut bytes, at: 4 };
        put.u32(FILE_MAGIC);
        put.u32(u32::from(VERSION));
        put.u32(self.align);
        for value in [
            self.file_len,
            self.secret,
            self.generation,
            self.sequence,
            previous.sequence,
            previous.offset,
            self.floor,
            self.synced_end,
            self.replaces.unwrap_or(0),
        ] {
            put.u64(value);
        }
        let crc = crc32c(0, &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of a file, if it is whole and describes the file it stands in.
    pub(super) fn decode(bytes: &[u8], file_len: u64) -> Option<FileHeader> {
        let bytes = bytes.get(..FILE_HEADER_USED)?;
        let mut get = Get { bytes };
        let crc = get.u32()?;
        if crc != crc32c(0, &bytes[4..]) || get.u32()? != FILE_MAGIC || get.u32()? != u32::from(VERSION) {
            return None;
        }
        let align = get.u32()?;
        let named_len = get.u64()?;
        let (secret, generation, sequence) = (get.u64()?, get.u64()?, get.u64()?);
        let previous = Position { sequence: get.u64()?, offset: get.u64()? };
        let previous = (previous.sequence != 0).then_some(previous);
        let (floor, synced_end) = (get.u64()?, get.u64()?);
        let replaces = Some(get.u64()?).filter(|replaced| *replaced != 0);
        let header = FileHeader {
            align,
            file_len,
            secret,
            generation,
            sequence,
            previous,
            floor,
            synced_end,
            replaces,
        };
        let sound = matches!(align, 512 | 4096) && named_len == file_len && sequence > 0;
        sound.then_some(header)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) secret: u64,
    pub(super) generation: u64,
    /// The batch's own place.
    pub(super) start: Position,
    pub(super) body_len: u32,
    pub(super) records: u32,
    /// All before this position was synced before the batch was written.
    pub(super) synced: Position,
    pub(super) commit_index: u64,
    /// Files below this sequence are not needed.
    pub(super) floor: u64,
    /// CRC of the record (or batch header) before.
    pub(super) chain: u32,
    pub(super) flags: u32,
}

impl BatchHeader {
    /// The header's bytes and its CRC, which begins the chain of its records.
    pub(super) fn encode(&self) -> ([u8; BATCH_HEADER], u32) {
        let mut bytes = [0; BATCH_HEADER];
        let mut put = Put { bytes: &mut bytes, at: 4 };
        put.u32(BATCH_MAGIC);
        put.u64(self.secret);
        put.u64(self.generation);
        put.u64(self.start.sequence);
        put.u64(self.start.offset);
        put.u32(self.body_len);
        put.u32(self.records);
        put.u64(self.synced.sequence);
        put.u64(self.synced.offset);
        put.u64(self.commit_index);
        put.u64(self.floor);
        put.u32(self.chain);
        put.u32(self.flags);
        let crc = crc32c(0, &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// A batch header at `offset` of a file, if one that is whole was written for that place; with
    /// its CRC.
    pub(super) fn decode(file: &[u8], offset: u64) -> Option<(BatchHeader, u32)> {
        let start = usize::try_from(offset).ok()?;
        let bytes = file.get(start..start.checked_add(BATCH_HEADER)?)?;
        let mut get = Get { bytes };
        let crc = get.u32()?;
        // The magic first: the forward scan asks this of every sector.
        if get.u32()? != BATCH_MAGIC || crc != crc32c(0, &bytes[4..]) {
            return None;
        }
        let header = BatchHeader {
            secret: get.u64()?,
            generation: get.u64()?,
            start: Position { sequence: get.u64()?, offset: get.u64()? },
            body_len: get.u32()?,
            records: get.u32()?,
            synced: Position { sequence: get.u64()?, offset: get.u64()? },
            commit_index: get.u64()?,
            floor: get.u64()?,
            chain: get.u32()?,
            flags: get.u32()?,
        };
        (header.start.offset == offset).then_some((header, crc))
    }
}

/// Bytes of a record on disk.
pub(super) fn record_len(record: &Record<'_>) -> u64 {
    let payload = match record {
        Record::Entry { context, data, .. } => 20 + context.len() as u64 + data.len() as u64,
        Record::HardState { .. } => 24,
        Record::ConfState { bytes, .. } => bytes.len() as u64,
        Record::SnapshotMarker { .. } => 16,
    };
    RECORD_HEADER as u64 + payload
}

/// Entry data up to this length is copied beside its record header; longer data is handed to the
/// kernel where it lies.
const COPY_MAX: usize = 2048;

/// The bytes of one batch, gathered for one vectored write.
///
/// Small things are copied into one scratch buffer, which keeps its allocation between batches; long
/// entry data stays with the caller.
pub(super) struct BatchEncoder<'s, 'a> {
    scratch: &'s mut Vec<u8>,
    /// (end of the scratch bytes that come before it, the caller's bytes)
    loose: smallvec::SmallVec<[(usize, &'a [u8]); 16]>,
    chain: u32,
}

impl<'s, 'a> BatchEncoder<'s, 'a> {
    pub(super) fn new(scratch: &'s mut Vec<u8>, header: &BatchHeader) -> BatchEncoder<'s, 'a> {
        let (bytes, chain) = header.encode();
        scratch.clear();
        scratch.extend_from_slice(&bytes);
        BatchEncoder { scratch, loose: smallvec::SmallVec::new(), chain }
    }

    pub(super) fn push(&mut self, record: &Record<'a>) {
        let start = self.scratch.len();
        let length = (record_len(record) - RECORD_HEADER as u64) as u32;
        let (tag, kind, group) = match *record {
            Record::Entry { group, kind, .. } => (1, kind, group),
            Record::HardState { group, .. } => (2, 0, group),
            Record::ConfState { group, .. } => (3, 0, group),
            Record::SnapshotMarker { group, .. } => (4, 0, group),
        };
        let out = &mut *self.scratch;
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[tag, kind]);
        out.extend_from_slice(&group.0.to_le_bytes());
        let mut loose: &[u8] = &[];
        match *record {
            Record::Entry { term, index, context, data, .. } => {
                out.extend_from_slice(&term.to_le_bytes());
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&(context.len() as u32).to_le_bytes());
                out.extend_from_slice(context);
                if data.len() <= COPY_MAX {
                    out.extend_from_slice(data);
                } else {
                    loose = data;
                }
            }
            Record::HardState { term, vote, commit, .. } => {
                for value in [term, vote, commit] {
                    out.extend_from_slice(&value.to_le_bytes());
                }
            }
            Record::ConfState { bytes, .. } => out.extend_from_slice(bytes),
            Record::SnapshotMarker { term, index, .. } => {
                out.extend_from_slice(&term.to_le_bytes());
                out.extend_from_slice(&index.to_le_bytes());
            }
        }
        self.chain = crc32c_of(self.chain, &[&self.scratch[start + 4..], loose]);
        self.scratch[start..start + 4].copy_from_slice(&self.chain.to_le_bytes());
        if !loose.is_empty() {
            self.loose.push((self.scratch.len(), loose));
        }
    }

    /// Hands the batch that begins at `offset` to `write`; returns the CRC that the next batch continues.
    ///
    /// Zeros follow up to the page's end, also where the next batch will begin earlier: the kernel would
    /// first have to read a page of a recycled file that is written in part.
    pub(super) fn write<E>(
        self,
        offset: u64,
        write: impl FnOnce(&[std::io::IoSlice<'_>]) -> Result<(), E>,
    ) -> Result<u32, E> {
        static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
        let mut slices = smallvec::SmallVec::<[std::io::IoSlice<'_>; 34]>::new();
        let (mut start, mut total) = (0, 0);
        for (end, loose) in &self.loose {
            slices.push(std::io::IoSlice::new(&self.scratch[start..*end]));
            slices.push(std::io::IoSlice::new(loose));
            total += end - start + loose.len();
            start = *end;
        }
        slices.push(std::io::IoSlice::new(&self.scratch[start..]));
        total += self.scratch.len() - start;
        let end = offset + total as u64;
        let padding = end.next_multiple_of(PAGE) - end;
        slices.push(std::io::IoSlice::new(&ZEROS[..padding as usize]));
        write(&slices)?;
        Ok(self.chain)
    }
}

/// The record at the start of `body` and its length on disk, if it is whole and follows `chain`;
/// `chain` moves on to its CRC.
pub(super) fn decode_record<'b>(body: &'b [u8], chain: &mut u32) -> Option<(Record<'b>, usize)> {
    let mut get = Get { bytes: body };
    let crc = get.u32()?;
    let length = get.u32()? as usize;
    let end = RECORD_HEADER.checked_add(length)?;
    let bytes = body.get(..end)?;
    if crc != crc32c(*chain, &bytes[4..]) {
        return None;
    }
    let record = decode_payload(&bytes[8..])?;
    *chain = crc;
    Some((record, end))
}

fn decode_payload(bytes: &[u8]) -> Option<Record<'_>> {
    let mut get = Get { bytes };
    let (tag, kind, group) = (get.u8()?, get.u8()?, GroupId(get.u16()?));
    let record = match tag {
        1 => {
            let (term, index) = (get.u64()?, get.u64()?);
            let context_len = get.u32()? as usize;
            let context = get.take(context_len)?;
            Record::Entry { group, term, index, kind, context, data: get.rest() }
        }
        2 => Record::HardState { group, term: get.u64()?, vote: get.u64()?, commit: get.u64()? },
        3 => Record::ConfState { group, bytes: get.rest() },
        4 => Record::SnapshotMarker { group, term: get.u64()?, index: get.u64()? },
        _ => return None,
    };
    get.bytes.is_empty().then_some(record)
}

/// What a batch's body holds.
pub(super) fn body_range(header: &BatchHeader) -> Option<Range<usize>> {
    let start = usize::try_from(header.start.offset).ok()?.checked_add(BATCH_HEADER)?;
    Some(start..start.checked_add(header.body_len as usize)?)
}

pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    crc32c_of(seed, &[bytes])
}

fn crc32c_of(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut digest =
        crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, u64::from(!seed));
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

struct Put<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Put<'_> {
    fn u32(&mut self, value: u32) {
        self.bytes[self.at..self.at + 4].copy_from_slice(&value.to_le_bytes());
        self.at += 4;
    }

    fn u64(&mut self, value: u64) {
        self.bytes[self.at..self.at + 8].copy_from_slice(&value.to_le_bytes());
        self.at += 8;
    }
}

/// Reads fields off the front; `None` when too few bytes are left.
struct Get<'a> {
    bytes: &'a [u8],
}

impl<'a> Get<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(n)?;
        self.bytes = rest;
        Some(head)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
