//! The journal against a disk that loses power, tears, flips, fills up and fails; the names say which of
//! PITFALLS 1-4 a case is for.

use super::*;
use crate::io::Operation;
use crate::io::sim::SimDisk;
use crate::io::threads::ThreadsDisk;
use std::io::ErrorKind;

mod random;
mod starts;

const GROUP: GroupId = GroupId(0);

fn config(nonce: u64) -> JournalConfig {
    JournalConfig {
        file_bytes: 16 << 10,
        hard_cap_bytes: 1 << 20,
        spare_bytes: 32 << 10,
        ..JournalConfig::new(nonce)
    }
}

/// What a visitor saw.
#[derive(Default, Debug, PartialEq, Eq)]
struct Seen {
    /// (index, term, data)
    entries: Vec<(u64, u64, Vec<u8>)>,
    hard_state: Option<(u64, u64, u64)>,
    conf_state: Option<Vec<u8>>,
    snapshot: Option<(u64, u64)>,
}

impl Seen {
    fn indexes(&self) -> Vec<u64> {
        self.entries.iter().map(|(index, _, _)| *index).collect()
    }

    fn note(&mut self, record: &Record<'_>) {
        match *record {
            Record::Entry { index, term, data, .. } => self.entries.push((index, term, data.to_vec())),
            Record::HardState { term, vote, commit, .. } => self.hard_state = Some((term, vote, commit)),
            Record::ConfState { bytes, .. } => self.conf_state = Some(bytes.to_vec()),
            Record::SnapshotMarker { index, term, .. } => self.snapshot = Some((index, term)),
        }
    }
}

fn try_open(disk: &SimDisk, config: JournalConfig) -> Result<(Journal, Seen, Recovery), JournalError> {
    let mut seen = Seen::default();
    let (journal, recovery) =
        Journal::open(Arc::new(disk.clone()), config, Box::new(InlinePreparer::default()), &mut |found| {
            seen.note(&found.record);
            Ok(())
        })?;
    Ok((journal, seen, recovery))
}

fn open(disk: &SimDisk, nonce: u64) -> (Journal, Seen) {
    let (journal, seen, _) = try_open(disk, config(nonce)).unwrap();
    (journal, seen)
}

fn entry(index: u64, data: &[u8]) -> Record<'_> {
    Record::Entry { group: GROUP, term: 1, index, kind: 0, context: b"", data }
}

/// Appends one entry of `len` bytes per index, a batch each.
fn fill(journal: &mut Journal, indexes: std::ops::RangeInclusive<u64>, len: usize) {
    for index in indexes {
        journal.append(&[entry(index, &vec![index as u8; len])], index).unwrap();
    }
}

/// The path of the file that is being written.
fn path(journal: &Journal) -> String {
    journal.live.back().unwrap().slot.path()
}

#[test]
fn records_of_every_kind_come_back_in_order() {
    let disk = SimDisk::new();
    let (mut journal, seen) = open(&disk, 1);
    assert_eq!(seen, Seen::default());
    let long = vec![9; 8000];
    let records = [
        Record::HardState { group: GROUP, term: 3, vote: 2, commit: 1 },
        Record::ConfState { group: GROUP, bytes: b"conf" },
        Record::SnapshotMarker { group: GROUP, index: 7, term: 2 },
        Record::Entry { group: GROUP, term: 3, index: 8, kind: 5, context: b"ctx", data: b"" },
        Record::Entry { group: GroupId(4), term: 3, index: 1, kind: 0, context: b"", data: &long },
    ];
    journal.append(&records, 6).unwrap();
    journal.append(&[], 0).unwrap();
    journal.sync().unwrap();
    drop(journal);

    let mut found = Vec::new();
    let visit: &mut Visitor<'_> = &mut |seen| {
        found.push(format!("{:?}", seen.record));
        Ok(())
    };
    let preparer = Box::new(InlinePreparer::default());
    let (_, recovery) = Journal::open(Arc::new(disk), config(2), preparer, visit).unwrap();
    assert_eq!(found, records.map(|record| format!("{record:?}")));
    assert_eq!((recovery.commit_index, recovery.files, recovery.records), (6, 1, 5));
}

#[test]
fn pitfall_1_unsynced_tail_is_on_disk_before_open_returns() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=5, 100);
    journal.sync().unwrap();
    fill(&mut journal, 6..=9, 100);
    drop(journal); // kill -9: the page cache still has 6..=9
    let (journal, seen) = open(&disk, 2);
    assert_eq!(seen.indexes(), (1..=9).collect::<Vec<_>>());
    drop(journal);
    disk.power_cut_losing_all();
    assert_eq!(open(&disk, 3).1.indexes(), (1..=9).collect::<Vec<_>>());
}

#[test]
fn pitfall_1_long_proven_file_is_kept_and_only_its_tail_is_copied() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    // One for the writer and one for the start are there.
    (0..2).for_each(|_| journal.tend());
    fill(&mut journal, 1..=8, 700);
    journal.sync().unwrap();
    fill(&mut journal, 9..=10, 700);
    drop(journal);
    let (journal, seen, recovery) = try_open(&disk, config(2)).unwrap();
    assert_eq!(seen.indexes(), (1..=10).collect::<Vec<_>>());
    assert_eq!(recovery.tail_bytes, 2 * 1024);
    assert_eq!(journal.live.len(), 2);
    drop(journal);
    disk.power_cut_losing_all();
    assert_eq!(open(&disk, 3).1.indexes(), (1..=10).collect::<Vec<_>>());
}

#[test]
fn pitfall_1_after_a_failed_sync_a_restart_does_not_trust_the_page_cache() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=20, 100);
    disk.fail_nth(Operation::Sync, 1, ErrorKind::Other);
    assert!(matches!(journal.sync(), Err(JournalError::SyncFailed(_))));
    drop(journal);
    let (journal, seen) = open(&disk, 2);
    drop(journal);
    disk.power_cut_losing_all();
    assert_eq!(open(&disk, 3).1, seen, "what a start relied on survives");
}

#[test]
fn pitfall_1_power_cut_at_any_write_or_sync_of_a_start_loses_nothing_synced() {
    for operation in [Operation::Write, Operation::Sync, Operation::Preallocate, Operation::SyncDir] {
        for nth in 1..6 {
            for seed in 0..8 {
                let disk = SimDisk::new();
                let (mut journal, _) = open(&disk, 1);
                fill(&mut journal, 1..=12, 700);
                journal.sync().unwrap();
                drop(journal);
                disk.fail_nth(operation, nth, ErrorKind::Other);
                let _ = try_open(&disk, config(2));
                disk.power_cut(seed);
                let (_, seen) = open(&disk, 3);
                assert_eq!(seen.indexes(), (1..=12).collect::<Vec<_>>(), "{operation:?} {nth} {seed}");
            }
        }
    }
}

/// Two starts in a row fail, the first by kill -9, the second with the power: whatever the second took
/// from the first's un-synced header must not have cost anything.
#[test]
fn pitfall_1_start_that_fails_after_a_start_that_failed_loses_nothing_synced() {
    let faults: Vec<_> = [Operation::Write, Operation::Sync]
        .into_iter()
        .flat_map(|op| (1..5).map(move |nth| (op, nth)))
        .collect();
    for ((first, second), released) in faults
        .iter()
        .flat_map(|first| faults.iter().map(move |second| (first, second)))
        .flat_map(|pair| [(pair, false), (pair, true)])
    {
        for seed in 0..8 {
            let disk = SimDisk::with_seed(seed);
            let (mut journal, _) = open(&disk, 1);
            let (last, len) = if released { (40, 900) } else { (2, 100) };
            fill(&mut journal, 1..=last, len);
            journal.sync().unwrap();
            if released {
                // A floor that only an un-synced batch names.
                journal.release(GROUP, last - 10);
                journal.append(&[entry(last + 1, b"")], 0).unwrap();
            }
            drop(journal);
            disk.fail_nth(first.0, first.1, ErrorKind::Other);
            let _ = try_open(&disk, config(2));
            disk.fail_nth(second.0, second.1, ErrorKind::Other);
            let _ = try_open(&disk, config(3));
            match seed % 2 {
                0 => disk.power_cut_losing_all(),
                _ => disk.power_cut(seed),
            }
            let seen = try_open(&disk, config(4)).map(|(_, seen, _)| seen);
            let context = format!("{first:?} {second:?} {released} {seed}");
            let indexes = seen.unwrap_or_else(|error| panic!("{context}: {error}")).indexes();
            assert!(indexes.contains(&last) && (released || indexes[0] == 1), "{context}: {indexes:?}");
        }
    }
}

#[test]
fn pitfall_2_stale_records_behind_a_torn_one_are_never_parsed() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=4, 100);
    journal.sync().unwrap();
    let file = path(&journal);
    let torn = journal.written().offset;
    fill(&mut journal, 5..=7, 100); // 5 is torn, 6 and 7 are whole
    drop(journal);
    disk.flip(&file, torn + BATCH_HEADER as u64 + 40);
    let (mut journal, seen) = open(&disk, 2);
    assert_eq!(seen.indexes(), [1, 2, 3, 4]);
    let again = vec![0xaa; 100];
    journal.append(&[entry(5, &again)], 5).unwrap();
    journal.sync().unwrap();
    drop(journal);
    let (_, seen) = open(&disk, 3);
    assert_eq!(seen.indexes(), [1, 2, 3, 4, 5]);
    assert_eq!(seen.entries[4].2, again);
}

#[test]
fn pitfall_2_good_records_before_a_torn_one_in_its_batch_count() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let start = journal.written().offset;
    let data = [7; 100];
    journal.append(&[entry(1, &data), entry(2, &data), entry(3, &data)], 0).unwrap();
    let file = path(&journal);
    drop(journal);
    let one = record_len(&entry(1, &data));
    disk.flip(&file, start + BATCH_HEADER as u64 + 2 * one + 50);
    assert_eq!(open(&disk, 2).1.indexes(), [1, 2]);
}

#[test]
fn pitfall_2_flip_below_a_named_position_refuses_the_start_with_file_and_offset() {
    let data = [7; 100];
    let mut places = 0;
    for offset_in_batch in [0, 5, 30, 90, BATCH_HEADER as u64 + 3, BATCH_HEADER as u64 + 60] {
        let disk = SimDisk::new();
        let (mut journal, _) = open(&disk, 1);
        let start = journal.written().offset;
        journal.append(&[entry(1, &data)], 0).unwrap();
        journal.append_empty_and_sync().unwrap();
        let file = path(&journal);
        drop(journal);
        disk.flip(&file, start + offset_in_batch);
        let error = try_open(&disk, config(2)).err().unwrap();
        let JournalError::Corrupt { file: named, offset, .. } = error else { panic!("{error}") };
        assert_eq!(named, file);
        assert!((start..=start + offset_in_batch).contains(&offset), "{offset} for {offset_in_batch}");
        places += 1;
    }
    assert_eq!(places, 6);
}

#[test]
fn pitfall_2_flip_in_an_older_file_refuses_the_start() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=30, 900);
    assert!(journal.live.len() > 2);
    let (file, end) = (journal.live[0].slot.path(), journal.live[0].end);
    drop(journal);
    disk.flip(&file, end / 2);
    let error = try_open(&disk, config(2)).err().unwrap();
    assert!(matches!(&error, JournalError::Corrupt { file: named, .. } if *named == file), "{error}");
}

#[test]
fn pitfall_2_unreadable_file_header_with_synced_batches_refuses_the_start() {
    for rotated in [false, true] {
        let disk = SimDisk::new();
        let (mut journal, _) = open(&disk, 1);
        if rotated {
            fill(&mut journal, 1..=17, 700);
            assert_eq!(journal.live.len(), 2);
        }
        fill(&mut journal, 18..=18, 700);
        journal.append_empty_and_sync().unwrap();
        let file = path(&journal);
        drop(journal);
        disk.flip(&file, 20);
        let error = try_open(&disk, config(2)).err().unwrap();
        assert!(
            matches!(&error, JournalError::Corrupt { file: named, offset: 0, .. } if *named == file),
            "{error}"
        );
    }
}

#[test]
fn pitfall_2_missing_file_in_the_middle_refuses_the_start() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=40, 900);
    let gone = journal.live[1].slot.path();
    drop(journal);
    disk.remove(&gone).unwrap();
    let error = try_open(&disk, config(2)).err().unwrap();
    assert!(matches!(error, JournalError::Corrupt { .. }), "{error}");
}

#[test]
fn pitfall_2_damage_above_the_last_named_position_is_a_tail() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=3, 100);
    journal.sync().unwrap();
    fill(&mut journal, 4..=4, 100); // names 1..=3 as synced
    let file = path(&journal);
    let start = journal.written().offset;
    fill(&mut journal, 5..=6, 100);
    drop(journal);
    disk.flip(&file, start + 10);
    assert_eq!(open(&disk, 2).1.indexes(), [1, 2, 3, 4]);
}

#[test]
fn pitfall_2_empty_batch_of_an_idle_writer_is_written_once() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=1, 100);
    let named = journal.append_empty_and_sync().unwrap();
    assert_eq!(journal.append_empty_and_sync().unwrap(), named);
    fill(&mut journal, 2..=2, 100);
    assert!(journal.append_empty_and_sync().unwrap() > named);
}

#[test]
fn pitfall_2_empty_batch_of_an_idle_writer_needs_no_new_file() {
    for len in (0..1600).step_by(13) {
        let disk = SimDisk::new();
        let (mut journal, _) = open(&disk, 1);
        disk.set_capacity(Some(0));
        let mut last = 0;
        while journal.append(&[entry(last + 1, &vec![1; len])], 0).is_ok() {
            last += 1;
        }
        let named = journal.append_empty_and_sync().unwrap();
        assert!(journal.append_empty_and_sync().unwrap() >= named);
        disk.set_capacity(None);
        fill(&mut journal, last + 1..=last + 1, 900);
    }
}

#[test]
fn pitfall_3_recycling_keeps_what_is_needed_and_restates_the_rest() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let states = [
        Record::HardState { group: GROUP, term: 9, vote: 2, commit: 0 },
        Record::ConfState { group: GROUP, bytes: b"voters" },
        Record::SnapshotMarker { group: GROUP, index: 0, term: 0 },
    ];
    journal.append(&states, 0).unwrap();
    for index in 1..=400 {
        fill(&mut journal, index..=index, 900);
        journal.sync().unwrap();
        journal.release(GROUP, index.saturating_sub(20));
    }
    assert!(journal.metrics().files_recycled.load(Ordering::Relaxed) > 10);
    assert!(disk.list("journal").unwrap().len() < 8, "{:?}", disk.list("journal"));
    drop(journal);
    disk.power_cut_losing_all();
    let (_, seen) = open(&disk, 2);
    let first = seen.indexes()[0];
    assert!(first > 1 && first <= 381, "{first}");
    assert_eq!(seen.indexes(), (first..=400).collect::<Vec<_>>());
    assert_eq!(seen.hard_state, Some((9, 2, 0)));
    assert_eq!(seen.conf_state.as_deref(), Some(&b"voters"[..]));
    assert_eq!(seen.snapshot, Some((0, 0)));
}

#[test]
fn pitfall_3_retained_bytes_stay_although_released() {
    let disk = SimDisk::new();
    let retaining = JournalConfig { retain_bytes: 100 << 10, ..config(1) };
    let (mut journal, ..) = try_open(&disk, retaining.clone()).unwrap();
    for index in 1..=400 {
        fill(&mut journal, index..=index, 900);
        journal.release(GROUP, index);
    }
    let live: u64 = journal.live.iter().map(LiveFile::bytes).sum();
    assert!((100 << 10..150 << 10).contains(&live), "{live}");
    journal.sync().unwrap();
    drop(journal);
    let (_, _, recovery) = try_open(&disk, JournalConfig { nonce: 2, ..retaining }).unwrap();
    assert!(recovery.bytes >= 100 << 10, "{recovery:?}");
}

#[test]
fn pitfall_3_recycled_file_shows_none_of_its_old_records() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=40, 400);
    journal.release(GROUP, 40);
    // Into a file that held older records, with the same batch lengths at the same places.
    while journal.metrics().files_recycled.load(Ordering::Relaxed) == 0 {
        let next = journal.commit_index + 1;
        fill(&mut journal, next..=next, 400);
        journal.sync().unwrap();
    }
    let last = journal.commit_index;
    drop(journal);
    let (_, seen) = open(&disk, 2);
    let first = seen.indexes()[0];
    assert_eq!(seen.indexes(), (first..=last).collect::<Vec<_>>());
}

#[test]
fn pitfall_4_synced_blocks_are_never_written_again() {
    for align in [512, 4096] {
        let disk = SimDisk::new();
        let (mut journal, ..) =
            try_open(&disk, JournalConfig { align, file_bytes: 32 << 10, ..config(1) }).unwrap();
        let mut synced = journal.written();
        for index in 1..=5 {
            fill(&mut journal, index..=index, 77);
            if journal.written().sequence == synced.sequence {
                assert_eq!(synced.offset % u64::from(align), 0);
            }
            synced = journal.sync().unwrap();
        }
        drop(journal);
        assert_eq!(open(&disk, 2).1.indexes(), [1, 2, 3, 4, 5]);
    }
}

#[test]
fn crash_loop_does_not_pile_up_files() {
    let disk = SimDisk::new();
    for start in 1..=40 {
        let (mut journal, _) = open(&disk, start);
        fill(&mut journal, start..=start, 20);
        journal.sync().unwrap();
        drop(journal);
        disk.power_cut(start);
    }
    // 40 batches of one sector: a file may be left behind for each quarter that is filled.
    let names = disk.list("journal").unwrap();
    assert!(names.len() <= 40 * 512 / (3 << 10) + 5, "{names:?}");
    assert_eq!(open(&disk, 41).1.indexes(), (1..=40).collect::<Vec<_>>());
}

#[test]
fn full_disk_refuses_the_append_and_goes_on_when_space_is_back() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    disk.set_capacity(Some(16 << 10));
    let mut last = 0;
    let error = loop {
        match journal.append(&[entry(last + 1, &[1; 900])], 0) {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, JournalError::NoSpace(_)) && !error.is_fatal(), "{error}");
    assert!(journal.append(&[entry(last + 1, &[1; 900])], 0).is_err());
    journal.sync().unwrap();
    disk.set_capacity(None);
    fill(&mut journal, last + 1..=last + 1, 900);
    journal.sync().unwrap();
    drop(journal);
    disk.power_cut_losing_all();
    assert_eq!(open(&disk, 2).1.indexes(), (1..=last + 1).collect::<Vec<_>>());
}

#[test]
fn files_that_wait_for_the_checkpoint_are_capped() {
    let disk = SimDisk::new();
    let capped = JournalConfig { hard_cap_bytes: 64 << 10, ..config(1) };
    let (mut journal, ..) = try_open(&disk, capped).unwrap();
    let mut last = 0;
    let error = loop {
        match journal.append(&[entry(last + 1, &[1; 900])], 0) {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, JournalError::Full { hard_cap_bytes: 65536, .. }), "{error}");
    journal.release(GROUP, last / 2);
    fill(&mut journal, last + 1..=last + 1, 900);
}

#[test]
fn failed_sync_is_fatal_and_closes_the_journal() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=1, 100);
    disk.fail_nth(Operation::Sync, 1, ErrorKind::Other);
    let error = journal.sync().unwrap_err();
    assert!(matches!(error, JournalError::SyncFailed(_)) && error.is_fatal());
    assert!(matches!(journal.sync(), Err(JournalError::Poisoned)), "never tried again");
    assert!(matches!(journal.append(&[entry(2, b"")], 0), Err(JournalError::Poisoned)));
}

#[test]
fn failed_write_is_fatal_and_closes_the_journal() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    disk.fail_nth(Operation::Write, 1, ErrorKind::Other);
    assert!(matches!(journal.append(&[entry(1, b"x")], 0), Err(JournalError::WriteFailed(_))));
    assert!(matches!(journal.sync(), Err(JournalError::Poisoned)));
}

#[test]
fn sync_on_another_thread_counts_when_it_is_noted() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=3, 100);
    let pending = journal.pending_sync();
    fill(&mut journal, 4..=4, 100);
    let position = std::thread::spawn(|| pending.run()).join().unwrap().unwrap();
    journal.note_synced(position);
    assert!(journal.synced() == position && position < journal.written());

    let failing = journal.pending_sync();
    disk.fail_nth(Operation::Sync, 1, ErrorKind::Other);
    assert!(failing.run().is_err());
    assert!(matches!(journal.append(&[entry(5, b"")], 0), Err(JournalError::Poisoned)));
}

#[test]
fn sync_of_an_earlier_file_is_old_news() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=1, 100);
    let pending = journal.pending_sync();
    fill(&mut journal, 2..=20, 900);
    let synced = journal.synced();
    journal.note_synced(pending.run().unwrap());
    assert_eq!(journal.synced(), synced);
}

#[test]
fn batch_larger_than_a_file_is_split_and_a_record_larger_than_one_is_refused() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let data = vec![3; 3000];
    let records: Vec<Record<'_>> = (1..=20).map(|index| entry(index, &data)).collect();
    journal.append(&records, 0).unwrap();
    let bytes_max = journal.record_bytes_max();
    let largest = vec![4; bytes_max as usize - 32];
    assert_eq!(record_len(&entry(21, &largest)), bytes_max);
    journal.append(&[entry(21, &largest)], 0).unwrap();
    let too_large = vec![4; largest.len() + 1];
    assert!(matches!(journal.append(&[entry(22, &too_large)], 0), Err(JournalError::RecordTooLarge { .. })));
    journal.sync().unwrap();
    drop(journal);
    disk.power_cut_losing_all();
    let (journal, seen) = open(&disk, 2);
    assert_eq!(seen.indexes(), (1..=21).collect::<Vec<_>>());
    assert_eq!(seen.entries[20].2, largest);
    drop(journal);
}

#[test]
fn state_that_grows_the_head_in_its_own_batch_cannot_rotate_for_ever() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let conf = vec![1; 5000];
    let largest = vec![2; journal.record_bytes_max() as usize - 32];
    let records = [Record::ConfState { group: GROUP, bytes: &conf }, entry(1, &largest)];
    assert!(matches!(journal.append(&records, 0), Err(JournalError::RecordTooLarge { .. })));
    fill(&mut journal, 1..=1, 100);
}

#[test]
fn full_file_whose_tail_is_unproven_is_recovered_into_a_larger_one() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let conf = vec![1; 3000];
    journal.append(&[Record::ConfState { group: GROUP, bytes: &conf }], 0).unwrap();
    let mut last = 0;
    while journal.room() > 1024 {
        last += 1;
        fill(&mut journal, last..=last, 100);
    }
    drop(journal);
    let (journal, seen) = open(&disk, 2);
    assert_eq!(seen.indexes().len() as u64, last);
    assert!(journal.writer.header.file_len > 16 << 10, "the state at its head and again in its tail");
    drop(journal);
    disk.power_cut_losing_all();
    let (mut journal, seen) = open(&disk, 3);
    assert_eq!(seen.indexes().len() as u64, last);
    // The odd length is not kept for recycling.
    fill(&mut journal, last + 1..=last + 40, 900);
    journal.release(GROUP, last + 40);
    fill(&mut journal, last + 41..=last + 80, 900);
    for name in disk.list("journal").unwrap() {
        assert_eq!(disk.contents(&format!("journal/{name}")).len(), 16 << 10);
    }
}

#[test]
fn visitor_may_refuse_a_record() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=2, 10);
    drop(journal);
    let preparer = Box::new(InlinePreparer::default());
    let refused = Journal::open(Arc::new(disk), config(2), preparer, &mut |_| Err("no".into()));
    assert!(matches!(refused.err().unwrap(), JournalError::Refused { .. }));
}

#[test]
fn stray_and_half_made_files_are_no_obstacle() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=2, 10);
    journal.sync().unwrap();
    drop(journal);
    for name in ["slot-0077", "slot-1", "lost+found"] {
        let file = disk.create(&format!("journal/{name}")).unwrap();
        file.write_at(&[std::io::IoSlice::new(&[0; 5000])], 0).unwrap();
    }
    assert_eq!(open(&disk, 2).1.indexes(), [1, 2]);
    let names = disk.list("journal").unwrap();
    assert!(!names.contains(&"slot-0077".to_owned()), "half-made files are removed");
    assert!(names.contains(&"slot-1".to_owned()), "not ours, not touched");
}

#[test]
fn bad_settings_are_refused() {
    let bad = [
        JournalConfig { align: 1024, ..config(1) },
        JournalConfig { align: 4096, ..config(1) },
        JournalConfig { file_bytes: 1000, ..config(1) },
        JournalConfig { retain_bytes: 1 << 20, ..config(1) },
        JournalConfig { file_bytes: FILE_BYTES_MAX * 2, hard_cap_bytes: u64::MAX, ..config(1) },
    ];
    for config in bad {
        assert!(matches!(config.validate(), Err(JournalError::Config(_))), "{config:?}");
    }
    assert!(JournalConfig::new(1).validate().is_ok());
}

#[test]
fn batch_is_one_write_of_whole_pages_and_copies_no_long_data() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let written = || {
        let metrics = disk.metrics().of(Operation::Write);
        (metrics.calls.load(Ordering::Relaxed), metrics.bytes.load(Ordering::Relaxed))
    };
    let (calls, bytes) = written();
    let start = journal.written().offset;
    fill(&mut journal, 1..=1, 8000);
    assert_eq!(written().0 - calls, 1);
    assert!((start + written().1 - bytes).is_multiple_of(format::PAGE));
    assert!(journal.scratch.len() < 200);
}

#[test]
fn real_files_survive_a_restart_with_a_background_preparer() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(ThreadsDisk::new(dir.path()));
    let mut expected = Seen::default();
    for start in 0..4u64 {
        let mut seen = Seen::default();
        let config = JournalConfig { file_bytes: 256 << 10, hard_cap_bytes: 4 << 20, ..config(start) };
        let preparer = Box::new(BackgroundPreparer::default());
        let (mut journal, _) = Journal::open(disk.clone(), config, preparer, &mut |found| {
            seen.note(&found.record);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, expected);
        for index in start * 100 + 1..=start * 100 + 100 {
            let data = vec![index as u8; 8000 + index as usize];
            let record = entry(index, &data);
            expected.note(&record);
            journal.append(&[record], index).unwrap();
            if index % 10 == 0 {
                journal.sync().unwrap();
            }
        }
    }
}
