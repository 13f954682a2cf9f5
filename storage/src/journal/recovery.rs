//! Reads the journal at a start and makes what it read safe to rely on.
//!
//! Owns: the judgement between a tail and corruption, the order of the steps below. Must hold, so that
//! power may go at any moment, again and again, and nothing synced is lost:
//!
//! 1. Every start continues in a fresh file of a new generation. What was read above the last position
//!    that the newest file proves synced is copied into it: what was only read may exist nowhere but in
//!    the page cache, and after a failed sync even a second sync of it proves nothing.
//! 2. The copy is synced before the fresh file's header is written, and the header is synced before
//!    [`open`] returns. Until the header is there, the old files are the log.
//! 3. The newest file's own header is such a thing that was only read, unless a batch in it names a
//!    position in it as synced. Without that, all of it is copied and the fresh file follows its predecessor.
//! 4. The fresh file takes the place of no file that an un-synced statement alone calls free.
//! 5. Where files are scarce the fresh one takes all of the newest, and stands for it: so a start leaves as many files that
//!    nothing needs as it finds, and a disk without a free byte is started from again and again. Until the fresh file
//!    has proven itself nothing but rule 4's file is touched. A start that finds both ends that first, on disk: if the
//!    fresh one proves itself the other one's header goes; if not, it is the work of a start that never ended, on which
//!    nobody relied, and its own header goes.

use super::error::JournalError;
use super::files::{
    BatchFacts, DIR, FileWriter, FreeFile, LiveFile, PrepareJob, Slot, first_chain, padded_batch_len,
};
use super::format::{
    self, BatchHeader, FILE_HEADER, FILE_HEADER_USED, FLAG_RESTATED, FileHeader, Position, body_range,
    decode_record,
};
use super::record::{Record, Restatement};
use super::spares::{is_roomy, start_file_needs};
use super::{FILE_BYTES_MAX, JournalConfig};
use crate::io::{Disk, DiskError, DiskFile};
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

/// A record that was found at a start.
#[derive(Clone, Copy, Debug)]
pub struct RecoveredRecord<'a> {
    /// The record; its bytes live until the visitor returns.
    pub record: Record<'a>,
    /// Whether it repeats, at the head of a file, a state that was recorded before.
    pub restated: bool,
}

/// Called for every record in log order.
pub type Visitor<'v> =
    dyn FnMut(RecoveredRecord<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'v;

/// What a start found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Files that were read; 0 means that this is a new journal.
    pub files: u64,
    /// Records handed to the visitor.
    pub records: u64,
    /// Bytes of the batches that held them.
    pub bytes: u64,
    /// Of these, bytes that were written again because nothing proved them synced.
    pub tail_bytes: u64,
    /// The highest commit index that any batch carried.
    pub commit_index: u64,
}

/// All that a journal needs to go on after a start.
pub(super) struct Opened {
    pub(super) writer: FileWriter,
    pub(super) live: VecDeque<LiveFile>,
    /// Files of the configured length that nothing needs, lowest slot first.
    pub(super) free: VecDeque<FreeFile>,
    /// Files of other lengths that nothing needs once the writer's file has proven itself.
    pub(super) unneeded: Vec<Slot>,
    /// The file that the writer's file stands for, likewise.
    pub(super) replaced: Option<Replaced>,
    pub(super) next_slot: u32,
    pub(super) floor: u64,
    pub(super) state: Restatement,
    pub(super) recovery: Recovery,
}

/// A file that was copied whole.
pub(super) struct Replaced {
    file: Arc<dyn DiskFile>,
}

impl Replaced {
    /// Lets the copy alone be the log, also for a start that finds its proof damaged. Not synced: no crash needs it.
    pub(super) fn forget(self) {
        if let Err(error) = erase_header(&*self.file) {
            tracing::warn!(%error, "an unneeded journal file keeps its header");
        }
    }
}

fn erase_header(file: &dyn DiskFile) -> Result<(), DiskError> {
    file.write_at(&[IoSlice::new(&[0; FILE_HEADER_USED])], 0)
}

fn erase_header_durably(file: &dyn DiskFile) -> Result<(), JournalError> {
    erase_header(file).map_err(JournalError::WriteFailed)?;
    file.sync_data().map_err(JournalError::SyncFailed)
}

pub(super) fn open(
    disk: &Arc<dyn Disk>,
    config: &JournalConfig,
    visit: &mut Visitor<'_>,
) -> Result<Opened, JournalError> {
    disk.create_dir(DIR).map_err(JournalError::Disk)?;
    let mut files = Files::list(&**disk)?;
    files.end_unfinished_starts()?;
    let mut replay = Replay { visit, state: Restatement::default(), recovery: Recovery::default() };
    let mut live = VecDeque::new();
    let mut newest_bytes = Vec::new();
    let newest = match files.newest() {
        None => {
            files.refuse_if_used(None)?;
            None
        }
        Some(file) => {
            file.read_into(&mut newest_bytes)?;
            let newest = Newest::judge(file, &newest_bytes, &files)?;
            let older = files.before(&newest)?;
            let mut bytes = Vec::new();
            for (file, end) in older {
                file.read_into(&mut bytes)?;
                live.push_back(replay.file(file, &bytes, Some(end))?);
            }
            live.push_back(replay.file(file, &newest_bytes, None)?);
            Some(newest)
        }
    };
    let Replay { state, mut recovery, .. } = replay;

    let chain = newest.as_ref().map(|newest| (newest, files.chain(newest)));
    let chain = chain.as_ref().map(|(newest, chain)| (*newest, chain));
    let garbage: Vec<&Found> = files.all.iter().filter(|file| file.is_garbage(chain)).collect();
    let usable = garbage.iter().filter(|file| file.len == config.file_bytes).count();
    // Where files are scarce this start leaves as many as it finds.
    let keeps_newest = usable > 1 && is_roomy(&**disk, start_file_needs(config));
    let plan = |keeps_newest| {
        Fresh::plan(newest.as_ref(), &newest_bytes, config, keeps_newest, recovery.commit_index)
    };
    let mut fresh = plan(keeps_newest);
    if fresh.bytes_needed(config, &state) > config.file_bytes {
        fresh = plan(true);
    }
    recovery.tail_bytes = fresh.copied_bytes;
    let mut replaced = None;
    if fresh.header.replaces.is_some() {
        replaced = live.pop_back().map(|LiveFile { file, .. }| Replaced { file });
    } else if let (Some(kept), Some(previous)) = (live.back_mut(), fresh.header.previous) {
        kept.end = previous.offset;
    }
    let (FreeFile { slot, file }, header) = fresh.place(disk, config, &files, &garbage, &state)?;
    let mut current = LiveFile {
        slot,
        file: file.clone(),
        sequence: header.sequence,
        len: header.file_len,
        end: 0,
        index_max: Default::default(),
    };
    let writer = fresh.write(file, header, &state, &mut current)?;
    current.end = writer.offset;
    live.push_back(current);

    let mut free = VecDeque::new();
    let mut unneeded = Vec::new();
    for file in files.all.iter().filter(|file| live.iter().all(|live| live.slot != file.slot)) {
        match file.len == config.file_bytes {
            true => free.push_back(file.as_free()),
            false => unneeded.push(file.slot),
        }
    }
    let next_slot = files.all.iter().map(|file| file.slot.0 + 1).chain([slot.0 + 1]).max().unwrap_or(0);
    Ok(Opened { writer, live, free, unneeded, replaced, next_slot, floor: fresh.floor, state, recovery })
}

fn remove_if_there(disk: &dyn Disk, slot: Slot) -> Result<(), JournalError> {
    match disk.remove(&slot.path()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(JournalError::Disk(error)),
        _ => Ok(()),
    }
}

/// The files in the directory, as their headers describe them.
struct Files {
    all: Vec<Found>,
}

struct Found {
    slot: Slot,
    file: Arc<dyn DiskFile>,
    len: u64,
    header: Option<FileHeader>,
}

impl Found {
    fn read_into(&self, bytes: &mut Vec<u8>) -> Result<(), JournalError> {
        bytes.resize(self.len as usize, 0);
        self.file.read_at(bytes, 0).map_err(JournalError::Disk)
    }

    /// Whether nothing needs it, and that is on disk: the fresh file may be written over it.
    fn is_garbage(&self, newest: Option<(&Newest<'_>, &Chain)>) -> bool {
        let (Some(header), Some((newest, chain))) = (self.header, newest) else {
            // Without a readable header: it never was in use, or what it held was never synced.
            return self.header.is_none();
        };
        header.sequence < newest.floor_synced || chain.leaves_out(header.sequence, newest)
    }

    fn as_free(&self) -> FreeFile {
        FreeFile { slot: self.slot, file: self.file.clone() }
    }

    fn corrupt(&self, offset: u64, detail: impl Into<String>) -> JournalError {
        JournalError::Corrupt { file: self.slot.path(), offset, detail: detail.into() }
    }
}

impl Files {
    fn list(disk: &dyn Disk) -> Result<Files, JournalError> {
        let mut all = Vec::new();
        for name in disk.list(DIR).map_err(JournalError::Disk)? {
            let Some(slot) = Slot::of_name(&name) else { continue };
            let file = disk.open(&slot.path()).map_err(JournalError::Disk)?;
            let len = file.len().map_err(JournalError::Disk)?;
            let mut found = Found { slot, file, len, header: None };
            if len > FILE_BYTES_MAX * 2 {
                return Err(found.corrupt(0, format!("{len} bytes are more than any journal file has")));
            }
            let mut head = [0; FILE_HEADER_USED];
            if len >= FILE_HEADER {
                found.file.read_at(&mut head, 0).map_err(JournalError::Disk)?;
                found.header = FileHeader::decode(&head, len);
            }
            all.push(found);
        }
        all.sort_by_key(|file| file.slot);
        let mut known = BTreeMap::new();
        for file in &all {
            let Some(header) = file.header else { continue };
            if let Some(other) = known.insert(header.sequence, file.slot) {
                let detail =
                    format!("claims the place {} in the log, as {} does", header.sequence, other.path());
                return Err(file.corrupt(0, detail));
            }
        }
        Ok(Files { all })
    }

    fn newest(&self) -> Option<&Found> {
        let sequence = |file: &&Found| file.header.map(|header| header.sequence);
        self.all.iter().filter(|file| file.header.is_some()).max_by_key(sequence)
    }

    /// Rule 5: what starts have made of a file that is still there.
    fn end_unfinished_starts(&mut self) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        while let Some(newest) = self.newest()
            && let Some(header) = newest.header
            && let Some(replaced) = header.replaces
            && let Some(other) =
                self.all.iter().find(|it| it.header.is_some_and(|it| it.sequence == replaced))
        {
            newest.read_into(&mut bytes)?;
            let is_proven = batches_of(&bytes, &header).any(|batch| batch.synced.sequence == header.sequence);
            let ended = if is_proven { other } else { newest };
            // Whether the proof is on disk nobody can tell: a later start may see other than this one.
            erase_header_durably(&*ended.file)?;
            let slot = ended.slot;
            self.all.iter_mut().filter(|file| file.slot == slot).for_each(|file| file.header = None);
        }
        Ok(())
    }

    /// The highest position that batches in files without a readable header, younger than the newest
    /// readable one, name as synced. A start is refused if that is inside such a file: it was in use.
    fn refuse_if_used(&self, newest: Option<&FileHeader>) -> Result<Position, JournalError> {
        let mut named = Position::default();
        let mut bytes = Vec::new();
        for file in self.all.iter().filter(|file| file.header.is_none()) {
            file.read_into(&mut bytes)?;
            for header in headers_from(&bytes, FILE_HEADER, 512) {
                let ours = newest.is_none_or(|newest| header.secret == newest.secret);
                let younger = newest.is_none_or(|newest| header.start.sequence > newest.sequence);
                if !(ours && younger) {
                    continue;
                }
                if header.synced.sequence == header.start.sequence {
                    return Err(
                        file.corrupt(0, "the file header is unreadable, but batches in it were synced")
                    );
                }
                named = named.max(header.synced);
            }
        }
        Ok(named)
    }

    /// The files that come before the newest, oldest first, each with the end of its use.
    fn before(&self, newest: &Newest<'_>) -> Result<Vec<(&Found, u64)>, JournalError> {
        let mut older = Vec::new();
        let (mut file, mut previous) = (newest.file, newest.header.previous);
        while let Some(position) = previous.filter(|position| position.sequence >= newest.floor) {
            let wanted = |found: &&Found| found.header.is_some_and(|h| h.sequence == position.sequence);
            let Some(found) = self.all.iter().find(wanted) else {
                return Err(self.missing(file, position.sequence)?);
            };
            older.push((found, position.offset));
            previous = found.header.and_then(|header| header.previous);
            // Ever lower, whatever the bytes say: the walk ends.
            previous = previous.filter(|before| before.sequence < position.sequence);
            file = found;
        }
        older.reverse();
        Ok(older)
    }

    /// The files that the headers name as those before the newest, whether they are needed or not.
    fn chain(&self, newest: &Newest<'_>) -> Chain {
        let mut chain = Chain::default();
        let mut previous = newest.header.previous;
        while let Some(Position { sequence, .. }) = previous {
            let headers = self.all.iter().filter_map(|file| file.header);
            let Some(header) = headers.into_iter().find(|header| header.sequence == sequence) else {
                chain.unknown_up_to = sequence;
                break;
            };
            chain.sequences.push(sequence);
            previous = header.previous.filter(|before| before.sequence < sequence);
        }
        chain
    }

    /// Names the file that should be at a place in the log, if its batches still tell which it is.
    fn missing(&self, follower: &Found, sequence: u64) -> Result<JournalError, JournalError> {
        let mut bytes = Vec::new();
        for file in self.all.iter().filter(|file| file.header.is_none()) {
            file.read_into(&mut bytes)?;
            if headers_from(&bytes, FILE_HEADER, 512).any(|header| header.start.sequence == sequence) {
                return Ok(file.corrupt(0, "the file header is unreadable, but the log needs the file"));
            }
        }
        Ok(follower.corrupt(0, format!("it follows the file with sequence {sequence}, which is missing")))
    }
}

/// What comes before the newest file.
#[derive(Default)]
struct Chain {
    sequences: Vec<u64>,
    /// Of files up to this one nobody can tell: it is not there any more.
    unknown_up_to: u64,
}

impl Chain {
    /// Whether a file is no part of the log, and that is on disk: one that a start has replaced.
    fn leaves_out(&self, sequence: u64, newest: &Newest<'_>) -> bool {
        // If the newest header is on disk, then its chain is the log. The file that it follows was synced, whatever
        // becomes of the newest: the same holds of what is older than that one.
        let follows = newest.header.previous.map_or(0, |previous| previous.sequence);
        let is_certain = newest.synced_end.is_some() || sequence < follows;
        is_certain
            && sequence > self.unknown_up_to
            && sequence != newest.header.sequence
            && !self.sequences.contains(&sequence)
    }
}

/// Whole batch headers, whatever their file, at or above an offset.
fn headers_from(bytes: &[u8], start: u64, align: u64) -> impl Iterator<Item = BatchHeader> + '_ {
    (start..bytes.len() as u64)
        .step_by(align as usize)
        .filter_map(|offset| BatchHeader::decode(bytes, offset))
        .map(|(header, _)| header)
}

/// The same, of one use of a file.
fn batches_of(bytes: &[u8], header: &FileHeader) -> impl Iterator<Item = BatchHeader> {
    let FileHeader { generation, secret, sequence, align, .. } = *header;
    headers_from(bytes, FILE_HEADER, u64::from(align)).filter(move |batch| {
        batch.generation == generation && batch.secret == secret && batch.start.sequence == sequence
    })
}

/// The file at the log's end and what is proven about it.
struct Newest<'f> {
    file: &'f Found,
    header: FileHeader,
    /// Up to here it proves itself to be synced, its header included.
    synced_end: Option<u64>,
    /// The end of its last whole batch.
    end: u64,
    /// Files below are not needed.
    floor: u64,
    /// The same, and that is on disk.
    floor_synced: u64,
}

impl<'f> Newest<'f> {
    /// Tells the tail from corruption.
    fn judge(file: &'f Found, bytes: &[u8], files: &Files) -> Result<Newest<'f>, JournalError> {
        let Some(header) = file.header else {
            return Err(file.corrupt(0, "the file header is unreadable"));
        };
        let named_elsewhere = files.refuse_if_used(Some(&header))?;
        let mut batches = Batches::new(bytes, &header);
        let mut records = Vec::new();
        let mut named = Position { sequence: header.sequence, offset: header.synced_end };
        let mut own_synced = None;
        let mut floors = vec![(0, header.floor)];
        while let Some(batch) = batches.next(&mut records) {
            floors.push((batch.header.start.offset, batch.header.floor));
        }
        for batch in batches_of(bytes, &header) {
            named = named.max(batch.synced);
            if batch.synced.sequence == header.sequence {
                own_synced = own_synced.max(Some(batch.synced.offset));
            }
        }
        if named_elsewhere.sequence == header.sequence {
            named = named.max(named_elsewhere);
        }
        if named.offset > batches.end {
            let detail = format!("a bad record, but the log names byte {} as synced", named.offset);
            return Err(file.corrupt(batches.bad, detail));
        }
        let floor = floors.iter().map(|(_, floor)| *floor).max().unwrap_or(0);
        let proven = floors.iter().filter(|(start, _)| *start < own_synced.unwrap_or(1));
        let floor_synced = proven.map(|(_, floor)| *floor).max().unwrap_or(0);
        Ok(Newest { file, header, synced_end: own_synced, end: batches.end, floor, floor_synced })
    }
}

/// Walks the batches of one file in order, up to the first thing that does not check out.
struct Batches<'b> {
    bytes: &'b [u8],
    header: FileHeader,
    chain: u32,
    /// End of the last whole batch.
    end: u64,
    /// Where the first bad thing is, once the walk has ended.
    bad: u64,
    ended: bool,
}

struct Batch {
    header: BatchHeader,
}

impl<'b> Batches<'b> {
    fn new(bytes: &'b [u8], header: &FileHeader) -> Batches<'b> {
        Batches {
            bytes,
            header: *header,
            chain: first_chain(header),
            end: FILE_HEADER,
            bad: FILE_HEADER,
            ended: false,
        }
    }

    /// The next batch, its good records in `records`: all of them, or the first ones of the last batch.
    fn next(&mut self, records: &mut Vec<Record<'b>>) -> Option<Batch> {
        records.clear();
        if self.ended {
            return None;
        }
        self.bad = self.end;
        self.ended = true;
        let (header, crc) = BatchHeader::decode(self.bytes, self.end)?;
        let follows = header.secret == self.header.secret
            && header.generation == self.header.generation
            && header.start.sequence == self.header.sequence
            && header.chain == self.chain;
        if !follows {
            return None;
        }
        let range = body_range(&header)?;
        let mut body = self.bytes.get(range)?;
        let mut chain = crc;
        while !body.is_empty() {
            let Some((record, len)) = decode_record(body, &mut chain) else { break };
            records.push(record);
            body = &body[len..];
            self.bad += len as u64;
        }
        if body.is_empty() && records.len() == header.records as usize {
            self.chain = chain;
            self.end += padded_batch_len(u64::from(header.body_len), self.header.align);
            self.ended = false;
        } else {
            self.bad += format::BATCH_HEADER as u64;
        }
        Some(Batch { header })
    }
}

/// Hands records to the visitor and keeps the newest states.
struct Replay<'r, 'v> {
    visit: &'r mut Visitor<'v>,
    state: Restatement,
    recovery: Recovery,
}

impl Replay<'_, '_> {
    /// Replays a file up to `end`, which must be reached, or up to the last good record.
    fn file(&mut self, file: &Found, bytes: &[u8], end: Option<u64>) -> Result<LiveFile, JournalError> {
        let Some(header) = file.header else {
            return Err(file.corrupt(0, "the file header is unreadable"));
        };
        let mut live = LiveFile {
            slot: file.slot,
            file: file.file.clone(),
            sequence: header.sequence,
            len: file.len,
            end: FILE_HEADER,
            index_max: Default::default(),
        };
        let mut batches = Batches::new(bytes, &header);
        let mut records = Vec::new();
        self.recovery.files += 1;
        while end.is_none_or(|end| batches.end < end) {
            let Some(batch) = batches.next(&mut records) else { break };
            let restated = batch.header.flags & FLAG_RESTATED != 0;
            for record in &records {
                live.note(record);
                self.state.note(record);
                self.recovery.records += 1;
                (self.visit)(RecoveredRecord { record: *record, restated }).map_err(|source| {
                    JournalError::Refused {
                        file: file.slot.path(),
                        offset: batch.header.start.offset,
                        source,
                    }
                })?;
            }
            self.recovery.commit_index = self.recovery.commit_index.max(batch.header.commit_index);
        }
        if let Some(end) = end.filter(|end| batches.end != *end) {
            let detail = format!("a bad record, but the next file names byte {end} as synced");
            return Err(file.corrupt(batches.bad, detail));
        }
        live.end = batches.end;
        self.recovery.bytes += batches.end - FILE_HEADER;
        Ok(live)
    }
}

/// The file with which this start continues the log.
struct Fresh<'b> {
    /// All but the file's length and alignment is decided.
    header: FileHeader,
    /// The batches to copy, in log order.
    copied: Vec<(BatchHeader, Vec<Record<'b>>)>,
    copied_bytes: u64,
    commit_index: u64,
    floor: u64,
}

impl<'b> Fresh<'b> {
    fn plan(
        newest: Option<&Newest<'_>>,
        bytes: &'b [u8],
        config: &JournalConfig,
        keeps_newest: bool,
        commit_index: u64,
    ) -> Fresh<'b> {
        let mut header = FileHeader {
            align: config.align,
            file_len: config.file_bytes,
            secret: mix(config.nonce),
            generation: generation(config.nonce, 1),
            sequence: 1,
            previous: None,
            floor: 0,
            synced_end: FILE_HEADER,
            replaces: None,
        };
        let Some(newest) = newest else {
            return Fresh { header, copied: Vec::new(), copied_bytes: 0, commit_index, floor: 0 };
        };
        header.secret = newest.header.secret;
        header.sequence = newest.header.sequence + 1;
        header.generation = generation(config.nonce, header.sequence);
        header.floor = newest.floor_synced;

        // A short file is copied whole even if its start is proven: else every start would leave a
        // nearly empty file behind, and a crash loop would fill the disk.
        let short = newest.end - FILE_HEADER <= (config.file_bytes - FILE_HEADER) / 4;
        let kept_end = newest.synced_end.filter(|_| !short && keeps_newest);
        header.previous = match kept_end {
            Some(offset) => Some(Position { sequence: newest.header.sequence, offset }),
            None => newest.header.previous,
        };
        header.replaces = kept_end.is_none().then_some(newest.header.sequence);
        let mut fresh =
            Fresh { header, copied: Vec::new(), copied_bytes: 0, commit_index, floor: newest.floor };
        let mut batches = Batches::new(bytes, &newest.header);
        let mut records = Vec::new();
        while let Some(batch) = batches.next(&mut records) {
            let above = batch.header.start.offset >= kept_end.unwrap_or(0);
            // The states are restated once, for all.
            if above && batch.header.flags & FLAG_RESTATED == 0 && !records.is_empty() {
                let body_len = records.iter().map(format::record_len).sum();
                fresh.copied_bytes += padded_batch_len(body_len, config.align);
                fresh.copied.push((batch.header, std::mem::take(&mut records)));
            }
        }
        fresh
    }

    /// Bytes of the file that takes the states and the copy.
    fn bytes_needed(&self, config: &JournalConfig, state: &Restatement) -> u64 {
        let restated = state.records().iter().map(format::record_len).sum();
        let ends = 2 * u64::from(config.align);
        FILE_HEADER + padded_batch_len(restated, config.align) + self.copied_bytes + ends
    }

    /// Finds or makes a file that is large enough.
    fn place(
        &self,
        disk: &Arc<dyn Disk>,
        config: &JournalConfig,
        files: &Files,
        garbage: &[&Found],
        state: &Restatement,
    ) -> Result<(FreeFile, FileHeader), JournalError> {
        let needed = self.bytes_needed(config, state);
        let mut header = self.header;
        header.file_len = config.file_bytes.max(needed.next_multiple_of(format::PAGE));
        if let Some(file) = garbage.iter().find(|file| file.len == header.file_len) {
            return Ok((file.as_free(), header));
        }
        let slot = Slot(files.all.iter().map(|file| file.slot.0 + 1).max().unwrap_or(0));
        let job = PrepareJob { disk: disk.clone(), slot, bytes: header.file_len };
        let error = match job.run() {
            Ok(file) => return Ok((FreeFile { slot, file }, header)),
            Err(error) if error.is_no_space() => error,
            Err(error) => return Err(JournalError::of_preparation(error)),
        };
        // Of another length, from before the setting was changed.
        let fitting = garbage.iter().filter(|file| file.len >= needed && file.len <= FILE_BYTES_MAX);
        if let Some(file) = fitting.min_by_key(|file| file.len) {
            header.file_len = file.len;
            return Ok((file.as_free(), header));
        }
        // What a start or a preparation did not finish may be the space that is missing.
        let mut half_made = files.all.iter().filter(|it| it.header.is_none() && it.len != config.file_bytes);
        if half_made.clone().next().is_none() {
            return Err(JournalError::of_preparation(error));
        }
        half_made.try_for_each(|file| remove_if_there(&**disk, file.slot))?;
        let file = job.run().map_err(JournalError::of_preparation)?;
        Ok((FreeFile { slot, file }, header))
    }

    /// Writes the states and the copy, syncs, writes the header, syncs.
    fn write(
        &self,
        file: Arc<dyn DiskFile>,
        header: FileHeader,
        state: &Restatement,
        live: &mut LiveFile,
    ) -> Result<FileWriter, JournalError> {
        let mut writer = FileWriter::new(file, header);
        let mut scratch = Vec::new();
        let mut facts = BatchFacts {
            synced: header.previous.unwrap_or_default(),
            commit_index: self.commit_index,
            floor: self.floor,
            flags: FLAG_RESTATED,
        };
        let mut write = |writer: &mut FileWriter, records: &[Record<'_>], facts| {
            writer.write_batch(&mut scratch, records, facts).map_err(JournalError::WriteFailed)
        };
        write(&mut writer, &state.records(), facts)?;
        facts.flags = 0;
        for (batch, records) in &self.copied {
            records.iter().for_each(|record| live.note(record));
            write(&mut writer, records, BatchFacts { commit_index: batch.commit_index, ..facts })?;
        }
        writer.file.sync_data().map_err(JournalError::SyncFailed)?;
        writer.header.synced_end = writer.offset;
        writer.write_header().map_err(JournalError::WriteFailed)?;
        writer.file.sync_data().map_err(JournalError::SyncFailed)?;
        Ok(writer)
    }
}

/// The generation of the file at a place in the log, in one run of the process.
pub(super) fn generation(nonce: u64, sequence: u64) -> u64 {
    mix(nonce ^ mix(sequence))
}

/// SplitMix64's finaliser: a bijection without visible structure.
fn mix(value: u64) -> u64 {
    let mut bits = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
