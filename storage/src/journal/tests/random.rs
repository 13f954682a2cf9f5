//! Random histories by seed: append, sync, release, kill, power cut, failing calls, full disk; a crash also
//! inside a start. After every start the records found must be an unbroken run that begins no later than
//! what was released allows, reaches at least what was synced, and holds nothing that was never appended. Once a start
//! had a file of its own, no later one lacks space, however full the disk and however often starts have died.

use super::*;

/// Seeds that run by default; `FOREBAY_SEEDS` sets another number.
const SEEDS: u64 = 300;

fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("FOREBAY_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

#[test]
fn everything_synced_is_recovered_and_nothing_else() {
    let starts_on_full_disks: u64 = seeds().map(run).sum();
    assert!(starts_on_full_disks > 100, "{starts_on_full_disks} starts without a free byte");
}

#[test]
fn damage_anywhere_refuses_the_start_or_costs_only_the_end() {
    let (mut refused, mut shortened) = (0, 0);
    for seed in seeds() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::with_seed(seed);
        let (mut journal, _) = open(&disk, seed);
        let last = rng.u64(1..30);
        for index in 1..=last {
            journal.append(&[entry(index, &bytes(index, 1, rng.usize(..2000)))], index).unwrap();
            if rng.bool() {
                journal.sync().unwrap();
            }
        }
        drop(journal);
        let (mut journal, seen) = open(&disk, seed + 1);
        let mut before = seen.entries;
        if rng.bool() {
            for index in last + 1..=last + 5 {
                let data = bytes(index, 1, 300);
                journal.append(&[entry(index, &data)], index).unwrap();
                before.push((index, 1, data));
            }
        }
        drop(journal);
        for _ in 0..rng.usize(1..4) {
            let names = disk.list("journal").unwrap();
            let path = format!("journal/{}", names[rng.usize(..names.len())]);
            // Mostly where something is.
            let used: Vec<usize> = disk
                .contents(&path)
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte != 0)
                .map(|(at, _)| at)
                .collect();
            if !used.is_empty() {
                disk.flip(&path, used[rng.usize(..used.len())] as u64);
            }
        }
        match try_open(&disk, config(seed + 2)) {
            Ok((_, seen, _)) => {
                assert!(before.starts_with(&seen.entries), "seed {seed}");
                assert!(
                    seen.entries.len() as u64 >= last,
                    "seed {seed}: the last start had all this on disk"
                );
                shortened += u64::from(before != seen.entries);
            }
            Err(JournalError::Corrupt { .. }) => refused += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(refused > 0 && shortened > 0, "{refused} refused, {shortened} shortened");
}

#[test]
fn decoders_take_any_bytes() {
    for seed in seeds() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut file: Vec<u8> = (0..rng.usize(..9000)).map(|_| rng.u8(..)).collect();
        // A record whose checksum is right and whose lengths are not.
        if file.len() > 100 {
            let length = rng.u32(..60);
            file[4..8].copy_from_slice(&length.to_le_bytes());
            file[8] = rng.u8(..6);
            let crc = format::crc32c(0, &file[4..12 + length as usize]);
            file[..4].copy_from_slice(&crc.to_le_bytes());
        }
        let mut chain = 0;
        if let Some((_, len)) = format::decode_record(&file, &mut chain) {
            assert!(len <= file.len());
        }
        assert_eq!(format::FileHeader::decode(&file, file.len() as u64), None);
        assert_eq!(format::BatchHeader::decode(&file, rng.u64(..)), None);
    }
}

/// What the disk must and may hold.
struct Model {
    /// (term, length) of the entry with index i + 1; an entry's bytes follow from its index and term.
    entries: Vec<(u64, usize)>,
    /// Entries up to this index are durable.
    synced_index: u64,
    released_index: u64,
    /// Numbers of the newest hard state that is durable, and of the newest appended.
    synced_state: u64,
    state: u64,
    run: u64,
    /// A file for starts was there.
    has_start_file: bool,
    starts_on_full_disks: u64,
}

impl Model {
    fn new() -> Model {
        Model {
            entries: Vec::new(),
            synced_index: 0,
            released_index: 0,
            synced_state: 0,
            state: 0,
            run: 0,
            has_start_file: false,
            starts_on_full_disks: 0,
        }
    }

    fn note_synced(&mut self) {
        self.synced_index = self.entries.len() as u64;
        self.synced_state = self.state;
    }

    /// Checks what a start found and takes it as durable, as the start promised.
    fn check(&mut self, seen: &Seen, seed: u64) {
        let context = format!("seed {seed}, run {}", self.run);
        let last = seen.entries.last().map_or(self.released_index, |(index, _, _)| *index);
        if let Some((first, _, _)) = seen.entries.first() {
            assert!(
                *first <= self.released_index + 1,
                "{context}: starts at {first}, {}",
                self.released_index
            );
        }
        let last = last.max(self.released_index);
        assert!(last >= self.synced_index, "{context}: {last} of {} synced", self.synced_index);
        assert!(last <= self.entries.len() as u64, "{context}: {last} was never appended");
        for pair in seen.entries.windows(2) {
            assert_eq!(pair[0].0 + 1, pair[1].0, "{context}: a gap");
        }
        for (index, term, data) in &seen.entries {
            let (expected_term, len) = self.entries[*index as usize - 1];
            assert_eq!((*term, data.len()), (expected_term, len), "{context}: entry {index}");
            assert!(*data == bytes(*index, *term, len), "{context}: bytes of entry {index}");
        }
        let state = seen.hard_state.map_or(0, |(term, vote, commit)| {
            assert!(vote == term ^ 5 && commit == term / 2, "{context}");
            term
        });
        // Of a torn batch the conf state may be there without the hard state after it.
        let conf = seen.conf_state.as_deref().map_or(0, |bytes| bytes[0].into());
        assert!((state..=self.state).contains(&conf) && conf < 256, "{context}: conf {conf}, state {state}");
        assert!((self.synced_state..=self.state).contains(&state), "{context}: state {state}");
        self.entries.truncate(last as usize);
        self.state = state;
        self.note_synced();
    }
}

fn bytes(index: u64, term: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (index as usize * 31 + term as usize * 7 + at) as u8).collect()
}

/// Returns how many starts succeeded without a free byte.
fn run(seed: u64) -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::with_seed(seed);
    let config = JournalConfig {
        align: [512, 4096][rng.usize(..2)],
        file_bytes: [28 << 10, 40 << 10][rng.usize(..2)],
        retain_bytes: [0, 0, 50 << 10][rng.usize(..3)],
        disk_reserve_bytes: [0, 60 << 10][rng.usize(..2)],
        ..config(0)
    };
    let mut model = Model::new();
    while model.run < 12 {
        model.run += 1;
        if rng.u8(..4) == 0 {
            fail_something(&disk, &mut rng, 8);
        }
        let is_full = rng.u8(..3) == 0;
        if is_full {
            disk.set_capacity(Some(0));
        }
        let config = JournalConfig { nonce: rng.u64(..), ..config.clone() };
        match try_open(&disk, config) {
            Ok((mut journal, seen, _)) => {
                model.check(&seen, seed);
                model.starts_on_full_disks += u64::from(is_full);
                live(&mut journal, &disk, &mut model, &mut rng);
                assert!(journal.spares.has_start_file() || !model.has_start_file, "seed {seed}");
                model.has_start_file |= journal.spares.has_start_file();
            }
            Err(JournalError::NoSpace(error)) => {
                assert!(!model.has_start_file, "seed {seed}, run {}: {error}", model.run);
            }
            Err(JournalError::Corrupt { file, offset, detail }) => {
                panic!("seed {seed}, run {}: {file} {offset} {detail}", model.run)
            }
            Err(_) => {}
        }
        disk.set_capacity(None);
        match rng.u8(..4) {
            0 => disk.power_cut_losing_all(),
            1 | 2 => disk.power_cut(rng.u64(..)),
            _ => {} // kill -9
        }
    }
    model.starts_on_full_disks
}

fn fail_something(disk: &SimDisk, rng: &mut fastrand::Rng, calls: u64) {
    use Operation::{Create, Open, Preallocate, Read, Remove, Sync, SyncDir, Write};
    let operation = [Create, Open, Preallocate, Read, Remove, Sync, SyncDir, Write][rng.usize(..8)];
    let kind = [ErrorKind::Other, ErrorKind::StorageFull][rng.usize(..2)];
    disk.fail_nth(operation, rng.u64(1..=calls), kind);
}

/// One run of the process, until a fatal error or as long as it likes.
fn live(journal: &mut Journal, disk: &SimDisk, model: &mut Model, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(..40) {
        let result = match rng.u8(..13) {
            0..=4 => append(journal, model, rng),
            5..=7 => journal.sync().map(|_| model.note_synced()),
            8 => journal.append_empty_and_sync().map(|_| model.note_synced()),
            9 => journal.pending_sync().run().map(|position| {
                journal.note_synced(position);
                model.note_synced();
            }),
            10 => {
                model.released_index = rng.u64(model.released_index..=model.synced_index);
                journal.release(GROUP, model.released_index);
                Ok(())
            }
            11 => {
                journal.tend();
                Ok(())
            }
            _ => {
                match rng.u8(..8) {
                    0 => fail_something(disk, rng, 4),
                    1 => disk.set_capacity(Some(rng.u64(..400_000))),
                    _ => disk.set_capacity(None),
                }
                Ok(())
            }
        };
        if result.is_err_and(|error| error.is_fatal()) {
            return;
        }
    }
}

fn append(journal: &mut Journal, model: &mut Model, rng: &mut fastrand::Rng) -> Result<(), JournalError> {
    let term = model.run;
    let first = model.entries.len() as u64 + 1;
    let longest = [20, 600, 3000][rng.usize(..3)];
    let lens: Vec<usize> = (0..rng.usize(1..4)).map(|_| rng.usize(..longest)).collect();
    let data: Vec<Vec<u8>> = lens.iter().zip(first..).map(|(len, index)| bytes(index, term, *len)).collect();
    let mut records = Vec::new();
    let state = model.state + 1;
    let with_state = rng.bool();
    let conf = state.to_le_bytes();
    if with_state {
        records.push(Record::ConfState { group: GROUP, bytes: &conf });
        records.push(Record::HardState { group: GROUP, term: state, vote: state ^ 5, commit: state / 2 });
    }
    for (data, index) in data.iter().zip(first..) {
        records.push(Record::Entry { group: GROUP, term, index, kind: 1, context: b"c", data });
    }
    let result = journal.append(&records, first);
    if result.as_ref().map_or_else(JournalError::is_fatal, |_| true) {
        model.entries.extend(lens.iter().map(|len| (term, *len)));
        model.state += u64::from(with_state);
    }
    result.map(|_| ())
}
