//! Starts on a disk without a free byte: they succeed again and again, die at any call, and take nothing from the
//! writer but the one file that is theirs.

use super::*;

/// A journal whose writer's file is well filled, all of it synced, with a file for the next start; the disk is full.
fn full(disk: &SimDisk) -> u64 {
    let (mut journal, _) = open(disk, 1);
    (0..2).for_each(|_| journal.tend());
    assert!(journal.spares.has_start_file());
    fill(&mut journal, 1..=8, 700);
    journal.sync().unwrap();
    disk.set_capacity(Some(0));
    8
}

#[test]
fn starts_without_a_free_byte_succeed_again_and_again() {
    for power in [false, true] {
        let disk = SimDisk::new();
        let mut last = full(&disk);
        for start in 2..30 {
            let (mut journal, seen) = open(&disk, start);
            assert_eq!(seen.indexes(), (1..=last).collect::<Vec<_>>(), "start {start}");
            if start % 4 == 0 {
                last += 1;
                fill(&mut journal, last..=last, 20);
                journal.sync().unwrap();
            }
            drop(journal);
            if power {
                disk.power_cut(start);
            }
        }
        disk.set_capacity(None);
        let (mut journal, _) = open(&disk, 30);
        fill(&mut journal, last + 1..=last + 40, 700);
        journal.sync().unwrap();
        assert!(journal.spares.has_start_file());
    }
}

/// One start after the other dies at a call, by kill -9 or with the power; only the last one may go on.
#[test]
fn pitfall_1_starts_that_die_at_any_call_leave_the_next_one_its_file_and_all_that_was_synced() {
    let faults =
        || [Operation::Write, Operation::Sync].into_iter().flat_map(|op| (1..7).map(move |n| (op, n)));
    for (number, deaths) in
        faults().flat_map(|a| faults().flat_map(move |b| faults().map(move |c| [a, b, c]))).enumerate()
    {
        let disk = SimDisk::with_seed(number as u64);
        let last = full(&disk);
        for (start, (operation, nth)) in deaths.into_iter().enumerate() {
            disk.fail_nth(operation, nth, ErrorKind::Other);
            match try_open(&disk, config(2 + start as u64)) {
                Err(JournalError::NoSpace(error)) => panic!("{deaths:?}, start {start}: {error}"),
                Err(JournalError::Corrupt { file, offset, detail }) => {
                    panic!("{deaths:?}, start {start}: {file} {offset} {detail}")
                }
                _ => {}
            }
            disk.clear_faults();
            match (number + start) % 3 {
                0 => disk.power_cut_losing_all(),
                1 => disk.power_cut(number as u64),
                _ => {}
            }
        }
        let seen = try_open(&disk, config(9)).map(|(_, seen, _)| seen.indexes());
        let seen = seen.unwrap_or_else(|error| panic!("{deaths:?}: {error}"));
        assert_eq!(seen, (1..=last).collect::<Vec<_>>(), "{deaths:?}");
    }
}

/// A start reads from the page cache that its predecessor has proven itself, and writes into the file that that one stood
/// for; the power goes, and the proof with it. The file must not pass for what it was.
#[test]
fn pitfall_1_a_proof_that_is_lost_brings_back_no_file_that_was_written_since() {
    let mut writes = 0;
    for (nth, seed) in (1..12).flat_map(|nth| (0..8).map(move |seed| (nth, seed))) {
        let disk = SimDisk::with_seed(seed);
        let last = full(&disk);
        // Its last sync, that of its proof, fails: the proof is in the page cache alone.
        disk.fail_nth(Operation::Sync, 3, ErrorKind::Other);
        assert!(matches!(try_open(&disk, config(2)), Err(JournalError::SyncFailed(_))));
        disk.fail_nth(Operation::Write, nth, ErrorKind::Other);
        let died = try_open(&disk, config(3)).is_err();
        writes += u64::from(died);
        disk.power_cut_losing_all();
        assert_eq!(open(&disk, 4).1.indexes(), (1..=last).collect::<Vec<_>>(), "{nth} {seed}");
    }
    assert!(writes > 40, "{writes} starts died");
}

#[test]
fn the_writer_never_takes_the_file_of_the_next_start() {
    let disk = SimDisk::new();
    let mut last = full(&disk);
    let (mut journal, _) = open(&disk, 2);
    let error = loop {
        match journal.append(&[entry(last + 1, &[1; 900])], 0) {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
        journal.sync().unwrap();
    };
    assert!(matches!(error, JournalError::NoSpace(_)), "{error}");
    assert!(journal.spares.has_start_file());
    drop(journal);
    assert_eq!(open(&disk, 3).1.indexes(), (1..=last).collect::<Vec<_>>());
}

/// What a start itself appends (term and vote, the number of the run) finds room in a journal that took writes until it
/// had none.
#[test]
fn runs_begin_in_a_journal_that_has_no_room_for_others() {
    let disk = SimDisk::new();
    let config = |nonce| JournalConfig { file_bytes: 512 << 10, hard_cap_bytes: 4 << 20, ..config(nonce) };
    let (mut journal, ..) = try_open(&disk, config(1)).unwrap();
    (0..2).for_each(|_| journal.tend());
    disk.set_capacity(Some(0));
    let mut last = 0;
    while journal.append(&[entry(last + 1, &[1; 9000])], 0).is_ok() {
        last += 1;
    }
    while journal.append(&[entry(last + 1, &[1; 10])], 0).is_ok() {
        last += 1;
    }
    journal.sync().unwrap();
    drop(journal);
    for start in 2..7 {
        let (mut journal, seen, _) = try_open(&disk, config(start)).unwrap();
        assert_eq!(seen.entries.len() as u64, last, "start {start}");
        last += 2;
        fill(&mut journal, last - 1..=last, 30);
        journal.sync().unwrap();
    }
}

#[test]
fn a_file_for_starts_is_made_only_beyond_what_is_kept_free() {
    let disk = SimDisk::new();
    let reserve = JournalConfig { disk_reserve_bytes: 100 << 10, ..config(1) };
    let (mut journal, ..) = try_open(&disk, reserve).unwrap();
    let room = |bytes| disk.set_capacity(Some(disk.used() + bytes));
    room(50 << 10);
    // The writer's next file is made all the same.
    journal.tend();
    room((116 << 10) - 1);
    let used = disk.used();
    (0..3).for_each(|_| journal.tend());
    assert_eq!((journal.spares.has_start_file(), disk.used()), (false, used));
    room(116 << 10);
    (0..3).for_each(|_| journal.tend());
    assert_eq!((journal.spares.has_start_file(), disk.used()), (true, used + (16 << 10)));
}

#[test]
fn a_file_that_could_not_be_made_is_tried_again_later() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    disk.fail_nth(Operation::Preallocate, 2, ErrorKind::Other);
    (0..9).for_each(|_| journal.tend());
    assert!(!journal.spares.has_start_file());
    let calls = || disk.metrics().of(Operation::Preallocate).calls.load(Ordering::Relaxed);
    let before = calls();
    (0..200).for_each(|_| journal.tend());
    assert!(journal.spares.has_start_file());
    assert_eq!(calls() - before, 1);
}

/// A directory from before starts had files of their own: the first start leaves one.
#[test]
fn a_directory_without_a_file_for_starts_has_one_after_its_next_start() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 1..=9, 700);
    journal.sync().unwrap();
    drop(journal);
    assert_eq!(disk.list("journal").unwrap().len(), 1);
    let (journal, _) = open(&disk, 2);
    assert!(journal.spares.has_start_file());
    disk.set_capacity(Some(0));
    drop(journal);
    for start in 3..6 {
        assert_eq!(open(&disk, start).1.indexes(), (1..=9).collect::<Vec<_>>());
    }
}

#[test]
fn files_of_another_length_do_on_a_disk_without_a_free_byte() {
    for file_bytes in [16 << 10, 64 << 10] {
        let disk = SimDisk::new();
        let before = JournalConfig { file_bytes: 32 << 10, ..config(1) };
        let (mut journal, ..) = try_open(&disk, before).unwrap();
        (0..2).for_each(|_| journal.tend());
        fill(&mut journal, 1..=8, 700);
        journal.sync().unwrap();
        drop(journal);
        disk.set_capacity(Some(0));
        let after = JournalConfig { file_bytes, ..config(2) };
        let (_, seen, _) = try_open(&disk, after).unwrap();
        assert_eq!(seen.indexes(), (1..=8).collect::<Vec<_>>());
    }
}

#[test]
fn a_released_file_becomes_the_next_starts_if_the_writer_has_others() {
    let disk = SimDisk::new();
    // Nothing is ever made for starts alone.
    let kept_free = JournalConfig { disk_reserve_bytes: u64::MAX, ..config(1) };
    let (mut journal, ..) = try_open(&disk, kept_free).unwrap();
    for index in 1..=100 {
        fill(&mut journal, index..=index, 900);
        journal.sync().unwrap();
        journal.tend();
        // Late, so that several files are freed together.
        if index % 40 == 0 {
            journal.release(GROUP, index);
        }
    }
    assert!(journal.spares.has_start_file());
}
