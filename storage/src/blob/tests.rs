//! Segments under power cuts, flips, full disks and recycling; the names say which of PITFALLS 4, 12 and 13
//! a case is for.

use super::*;
use crate::io::sim::SimDisk;
use crate::io::threads::ThreadsDisk;
use crate::io::{Disk, Operation};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

fn config(nonce: u64) -> SegmentConfig {
    SegmentConfig { segment_bytes: 64 << 10, piece_bytes: 10_000, ..SegmentConfig::new(nonce) }
}

fn open(disk: &SimDisk, nonce: u64, in_use: &[SegmentUsage]) -> SegmentStore {
    SegmentStore::open(Arc::new(disk.clone()), config(nonce), in_use, &[]).unwrap()
}

fn id(number: u64) -> BlobId {
    BlobId { a: 7, b: number }
}

fn body(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number as usize * 131 + at * 7 + at / 251) as u8).collect()
}

/// Spills one body and finishes.
fn spill(store: &SegmentStore, number: u64, len: usize) -> Pointer {
    let mut writer = store.spill();
    let pointer = writer.push(id(number), &body(number, len)).unwrap();
    let _pins = writer.finish().unwrap();
    store.set_named(pointer.segment);
    pointer
}

fn read(store: &SegmentStore, pointer: Pointer, number: u64) -> Result<Vec<u8>, BlobError> {
    read_range(store, pointer, id(number), 0..pointer.length)
}

fn read_range(
    store: &SegmentStore,
    pointer: Pointer,
    blob: BlobId,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, BlobError> {
    store.read(pointer, blob, range, true).map(|bytes| bytes.expect("a read that waits has an end"))
}

fn usages<'p>(pointers: impl IntoIterator<Item = &'p Pointer>) -> Vec<SegmentUsage> {
    let mut live: BTreeMap<(SegmentId, Generation), u64> = BTreeMap::new();
    for pointer in pointers {
        *live.entry((pointer.segment, pointer.generation)).or_default() += pointer.bytes_on_disk();
    }
    let usage = |((segment, generation), live_bytes)| SegmentUsage { segment, generation, live_bytes };
    live.into_iter().map(usage).collect()
}

#[test]
fn bodies_of_all_lengths_come_back_after_a_restart() {
    let disk = SimDisk::new();
    let large = SegmentConfig { segment_bytes: 1 << 20, ..config(1) };
    let store = SegmentStore::open(Arc::new(disk.clone()), large.clone(), &[], &[]).unwrap();
    let lens = [0, 1, 513, 4000, 65_535, 65_536, 65_537, 200_000];
    let mut writer = store.spill();
    let pointers: Vec<Pointer> = lens
        .iter()
        .zip(0..)
        .map(|(len, number)| writer.push(id(number), &body(number, *len)).unwrap())
        .collect();
    writer.finish().unwrap();
    drop(store);
    disk.power_cut_losing_all();
    let store =
        SegmentStore::open(Arc::new(disk), SegmentConfig { nonce: 2, ..large }, &usages(&pointers), &[])
            .unwrap();
    for (pointer, number) in pointers.iter().zip(0..) {
        assert_eq!(read(&store, *pointer, number).unwrap(), body(number, pointer.length as usize));
    }
}

#[test]
fn ranges_are_cut_out_of_checked_chunks() {
    let disk = SimDisk::new();
    let large = SegmentConfig { segment_bytes: 1 << 20, ..config(1) };
    let store = SegmentStore::open(Arc::new(disk), large, &[], &[]).unwrap();
    let pointer = spill(&store, 1, 200_000);
    let whole = body(1, 200_000);
    let edges = [0, 1, 65_535, 65_536, 65_537, 131_072, 199_999, 200_000];
    for start in edges {
        for end in edges.into_iter().filter(|end| *end >= start) {
            let part = read_range(&store, pointer, id(1), start..end).unwrap();
            assert!(part == whole[start as usize..end as usize], "{start}..{end}");
        }
    }
    assert!(matches!(read_range(&store, pointer, id(1), 5..200_001), Err(BlobError::OutOfRange { .. })));
}

#[test]
fn a_read_that_may_not_wait_is_checked_like_any_other() {
    // The simulated disk cannot tell what is in memory.
    let sim = SegmentStore::open(Arc::new(SimDisk::new()), config(1), &[], &[]).unwrap();
    let pointer = spill(&sim, 1, 4_000);
    assert_eq!(sim.read(pointer, id(1), 0..4_000, false).unwrap(), None);

    let dir = tempfile::tempdir().unwrap();
    let store = SegmentStore::open(Arc::new(ThreadsDisk::new(dir.path())), config(1), &[], &[]).unwrap();
    let pointer = spill(&store, 1, 4_000);
    let Some(bytes) = store.read(pointer, id(1), 7..4_000, false).unwrap() else {
        eprintln!("SKIPPED: the file system of {} cannot tell", dir.path().display());
        return;
    };
    assert_eq!(bytes, body(1, 4_000)[7..]);
    assert!(matches!(store.read(pointer, id(2), 0..4_000, false), Err(BlobError::Stale { .. })));
    let file = std::fs::File::options().write(true).open(dir.path().join(pointer.segment.path())).unwrap();
    let inside = u64::from(pointer.offset) + extent::chunk_start(0, 4_000) + 100;
    file.write_all_at(b"not what was there", inside).unwrap();
    assert!(matches!(store.read(pointer, id(1), 0..4_000, false), Err(BlobError::Corrupt { .. })));
}

#[test]
fn staged_names_say_node_and_boot_and_are_never_apply_s() {
    let id = BlobId::staged(BlobId::NODE_MAX, BlobId::BOOT_MAX, 9);
    assert_eq!((id.node(), id.boot(), id.b, id.is_staged()), (BlobId::NODE_MAX, BlobId::BOOT_MAX, 9, true));
    let id = BlobId::staged(3, 7, 1);
    assert_eq!((id.node(), id.boot(), id.a), (3, 7, 1 << 63 | 3 << 48 | 7));
    let made_by_apply = BlobId { a: crate::object::Version::new(1 << 40, 5).0, b: 0 };
    assert!(!made_by_apply.is_staged());
}

#[test]
fn pointer_and_usage_survive_their_codecs() {
    let pointer =
        Pointer { segment: SegmentId(1), offset: 2, generation: Generation(u64::MAX - 3), length: 1 << 40 };
    assert_eq!(Pointer::decode(&pointer.encode()), pointer);
    let usage = SegmentUsage { segment: SegmentId(258), generation: Generation(9), live_bytes: 5 };
    assert_eq!(SegmentUsage::decode(&usage.encode()), usage);
    assert_eq!(usage.encode()[..4], [0, 0, 1, 2]);
}

#[test]
fn pitfall_12_power_cut_at_any_call_of_a_spill_loses_nothing_that_a_pointer_names() {
    let operations = [Operation::Write, Operation::Sync, Operation::SyncDir, Operation::Create];
    for (operation, seed) in
        operations.into_iter().flat_map(|operation| (0..24).map(move |seed| (operation, seed)))
    {
        let disk = SimDisk::new();
        let store = open(&disk, 1, &[]);
        let mut named: Vec<Pointer> = (0..4).map(|number| spill(&store, number, 9000)).collect();
        disk.fail_nth(operation, seed % 6 + 1, ErrorKind::Other);
        for round in 0..4u64 {
            let mut writer = store.spill();
            let numbers = 4 + round * 3..4 + round * 3 + 3;
            let pushed: Result<Vec<Pointer>, BlobError> =
                numbers.map(|number| writer.push(id(number), &body(number, 9000))).collect();
            let Ok(pushed) = pushed else { break };
            if writer.finish().is_err() {
                break;
            }
            named.extend(pushed);
        }
        drop(store);
        disk.power_cut(seed);
        let store = open(&disk, 2, &usages(&named));
        for (pointer, number) in named.iter().zip(0..) {
            assert!(read(&store, *pointer, number).unwrap() == body(number, 9000), "{operation:?} {seed}");
        }
        // And what is written next harms none of them.
        for number in 100..110 {
            named.push(spill(&store, number, 9000));
        }
        for (pointer, number) in named.iter().zip((0..named.len() as u64 - 10).chain(100..110)) {
            assert!(read(&store, *pointer, number).unwrap() == body(number, 9000), "{operation:?} {seed}");
        }
    }
}

#[test]
fn pitfall_12_a_segment_whose_name_the_process_before_never_synced_has_it_before_it_is_used() {
    let disk = SimDisk::new();
    let store = open(&disk, 1, &[]);
    disk.fail_nth(Operation::Write, 1, ErrorKind::Other);
    // The file is made, its header fails, and the process is killed.
    assert!(store.spill().push(id(1), b"x").is_err());
    drop(store);
    let store = open(&disk, 2, &[]);
    let pointer = spill(&store, 1, 5000);
    drop(store);
    disk.power_cut_losing_all();
    let store = open(&disk, 3, &usages([&pointer]));
    assert_eq!(read(&store, pointer, 1).unwrap(), body(1, 5000));
}

#[test]
fn pitfall_12_segment_that_the_tables_name_and_is_gone_refuses_the_start() {
    let disk = SimDisk::new();
    let pointer = spill(&open(&disk, 1, &[]), 1, 600);
    disk.remove(&pointer.segment.path()).unwrap();
    let error = SegmentStore::open(Arc::new(disk), config(2), &usages([&pointer]), &[]).err().unwrap();
    assert!(matches!(&error, BlobError::Corrupt { file, .. } if *file == pointer.segment.path()), "{error}");
}

#[test]
fn pitfall_12_segment_of_another_generation_refuses_the_start() {
    let disk = SimDisk::new();
    let mut pointer = spill(&open(&disk, 1, &[]), 1, 600);
    pointer.generation.0 += 1;
    assert!(SegmentStore::open(Arc::new(disk), config(2), &usages([&pointer]), &[]).is_err());
}

#[test]
fn pitfall_12_scan_finds_every_extent_and_none_of_an_earlier_use() {
    let disk = SimDisk::new();
    let store = open(&disk, 1, &[]);
    let old = spill(&store, 1, 40_000);
    store.recycle(old.segment, old.generation).unwrap();
    let pointers: Vec<Pointer> = (2..8).map(|number| spill(&store, number, number as usize * 600)).collect();
    assert!(pointers.iter().all(|pointer| pointer.segment == old.segment), "the file was used again");
    drop(store);
    let store = open(&disk, 2, &usages(&pointers));
    let mut found = Vec::new();
    store.scan(old.segment, &mut |extent| found.push(extent)).unwrap();
    let expected: Vec<FoundExtent> = pointers
        .iter()
        .zip(2..)
        .map(|(&pointer, number)| FoundExtent { blob: id(number), pointer })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn pitfall_12_scan_goes_on_behind_a_damaged_extent() {
    let disk = SimDisk::new();
    let store = open(&disk, 1, &[]);
    let mut writer = store.spill();
    let pointers: Vec<Pointer> =
        (0..5).map(|number| writer.push(id(number), &body(number, 700)).unwrap()).collect();
    writer.finish().unwrap();
    disk.flip(&pointers[2].segment.path(), u64::from(pointers[2].offset) + 20);
    let mut found = Vec::new();
    store.scan(pointers[0].segment, &mut |extent| found.push(extent.blob.b)).unwrap();
    assert_eq!(found, [0, 1, 3, 4]);
}

#[test]
fn pitfall_13_stale_pointer_after_a_recycle_never_gives_other_bytes() {
    let disk = SimDisk::new();
    let store = open(&disk, 1, &[]);
    let old = spill(&store, 1, 5000);
    store.recycle(old.segment, old.generation).unwrap();
    assert!(matches!(read(&store, old, 1), Err(BlobError::Stale { .. })), "free");
    // The same length at the same place, even under the same id.
    let new = spill(&store, 1, 5000);
    assert_eq!((new.segment, new.offset), (old.segment, old.offset));
    assert!(matches!(read(&store, old, 1), Err(BlobError::Stale { .. })), "used again");
    assert!(matches!(store.pin(old), Err(BlobError::Stale { .. })));
    assert_eq!(read(&store, new, 1).unwrap(), body(1, 5000));
    // Also when memory has forgotten the old generation.
    drop(store);
    let store = open(&disk, 2, &usages([&new]));
    assert!(matches!(read(&store, old, 1), Err(BlobError::Stale { .. })));
}

#[test]
fn pitfall_13_pointer_of_another_blob_is_stale_and_not_corruption() {
    let store = open(&SimDisk::new(), 1, &[]);
    let pointer = spill(&store, 1, 5000);
    assert!(matches!(read(&store, pointer, 2), Err(BlobError::Stale { .. })));
    let other_length = Pointer { length: 4999, ..pointer };
    assert!(matches!(read(&store, other_length, 1), Err(BlobError::Stale { .. })));
    let unknown = Pointer { segment: SegmentId(99), ..pointer };
    assert!(matches!(read(&store, unknown, 1), Err(BlobError::Stale { .. })));
}

#[test]
fn pitfall_13_pinned_segment_is_not_recycled() {
    let store = open(&SimDisk::new(), 1, &[]);
    let pointer = spill(&store, 1, 5000);
    let pin = store.pin(pointer).unwrap();
    let second = pin.clone();
    let recycle = || store.recycle(pointer.segment, pointer.generation);
    assert!(matches!(recycle(), Err(BlobError::InUse { .. })));
    drop(pin);
    assert!(matches!(recycle(), Err(BlobError::InUse { .. })), "the clone still holds it");
    assert_eq!(read(&store, pointer, 1).unwrap(), body(1, 5000));
    assert_eq!(second.segment(), pointer.segment);
    drop(second);
    recycle().unwrap();
    recycle().unwrap();
}

#[test]
fn pitfall_13_readers_beside_a_recycling_writer_see_their_bytes_or_stale() {
    let store = open(&SimDisk::new(), 1, &[]);
    let current = parking_lot::Mutex::new((spill(&store, 0, 3000), 0));
    let (reads, rounds) = (std::sync::atomic::AtomicU64::new(0), 60);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let (pointer, number) = *current.lock();
                    let pin = store.pin(pointer);
                    match read(&store, pointer, number) {
                        Ok(bytes) => assert!(bytes == body(number, 3000)),
                        Err(BlobError::Stale { .. }) => assert!(pin.is_err(), "a pin rules this out"),
                        Err(error) => panic!("{error}"),
                    }
                    reads.fetch_add(1, Relaxed);
                    if number == rounds {
                        break;
                    }
                }
            });
        }
        for number in 1..=rounds {
            let (old, _) = *current.lock();
            while let Err(BlobError::InUse { .. }) = store.recycle(old.segment, old.generation) {
                std::thread::yield_now();
            }
            let new = spill(&store, number, 3000);
            *current.lock() = (new, number);
        }
    });
    assert!(reads.load(Relaxed) >= 2);
}

#[test]
fn pitfall_13_recycled_segment_has_its_new_generation_on_disk_before_its_first_extent() {
    let disk = SimDisk::new();
    let store = open(&disk, 1, &[]);
    let old = spill(&store, 1, 5000);
    store.recycle(old.segment, old.generation).unwrap();
    let mut writer = store.spill();
    let new = writer.push(id(2), &body(2, 5000)).unwrap();
    drop(writer);
    drop(store);
    disk.power_cut_losing_all();
    let header = disk.contents(&old.segment.path());
    let header = extent::decode_segment_header(header.first_chunk().unwrap());
    let named = header.map(|(segment, generation, _)| (segment, generation));
    assert_eq!(named, Some((new.segment, new.generation)));
}

#[test]
fn flipped_byte_is_found_in_the_chunk_that_is_read_and_nowhere_else() {
    let disk = SimDisk::new();
    let large = SegmentConfig { segment_bytes: 1 << 20, ..config(1) };
    let store = SegmentStore::open(Arc::new(disk.clone()), large, &[], &[]).unwrap();
    let pointer = spill(&store, 1, 200_000);
    let in_second_chunk = u64::from(pointer.offset) + extent::chunk_start(1, 200_000) + 4000;
    disk.flip(&pointer.segment.path(), in_second_chunk);
    assert_eq!(read_range(&store, pointer, id(1), 0..65_536).unwrap(), body(1, 200_000)[..65_536]);
    assert_eq!(read_range(&store, pointer, id(1), 131_072..200_000).unwrap(), body(1, 200_000)[131_072..]);
    let error = read_range(&store, pointer, id(1), 65_536..65_537).unwrap_err();
    assert!(matches!(error, BlobError::Corrupt { offset, .. } if offset <= in_second_chunk), "{error}");
    disk.flip(&pointer.segment.path(), u64::from(pointer.offset) + 33);
    assert!(matches!(read_range(&store, pointer, id(1), 0..1), Err(BlobError::Corrupt { .. })), "the header");
}

#[test]
fn pitfall_4_block_with_a_synced_extent_is_never_torn_by_a_later_spill() {
    for seed in 0..32 {
        let disk = SimDisk::new();
        let store = open(&disk, 1, &[]);
        let first = spill(&store, 1, 700);
        let mut writer = store.spill();
        let second = writer.push(id(2), &body(2, 700)).unwrap();
        assert_ne!(first.offset / 4096, second.offset / 4096);
        for number in 3..80 {
            writer.push(id(number), &body(number, 700)).unwrap();
        }
        drop(writer);
        drop(store);
        disk.power_cut(seed);
        let store = open(&disk, 2, &usages([&first]));
        assert_eq!(read(&store, first, 1).unwrap(), body(1, 700));
    }
}

#[test]
fn extents_of_one_spill_share_blocks_and_few_writes() {
    let disk = SimDisk::new();
    let store = open(&disk, 1, &[]);
    let mut writer = store.spill();
    let pointers: Vec<Pointer> =
        (0..40).map(|number| writer.push(id(number), &body(number, 600)).unwrap()).collect();
    let calls = |operation| disk.metrics().of(operation).calls.load(Relaxed);
    let (writes, syncs) = (calls(Operation::Write), calls(Operation::Sync));
    writer.finish().unwrap();
    assert_eq!((calls(Operation::Write) - writes, calls(Operation::Sync) - syncs), (1, 1));
    assert_eq!(
        u64::from(pointers[1].offset - pointers[0].offset),
        pointers[0].bytes_on_disk().next_multiple_of(8)
    );
}

#[test]
fn full_disk_fails_the_spill_and_leaves_room_for_the_next() {
    let disk = SimDisk::new();
    let store = open(&disk, 1, &[]);
    let kept = spill(&store, 1, 9000);
    let files = disk.list("blob").unwrap().len();
    for _ in 0..5 {
        disk.set_capacity(Some(100_000));
        let mut writer = store.spill();
        let error = (2..40)
            .find_map(|number| writer.push(id(number), &body(number, 9000)).err())
            .or_else(|| writer.finish().err());
        assert!(matches!(error, Some(BlobError::NoSpace(_))), "{error:?}");
    }
    assert!(disk.list("blob").unwrap().len() <= files + 2, "failed spills give their segments back");
    disk.set_capacity(None);
    let pointers: Vec<Pointer> = (2..40).map(|number| spill(&store, number, 9000)).collect();
    for (pointer, number) in [kept].iter().chain(&pointers).zip(1..) {
        assert_eq!(read(&store, *pointer, number).unwrap(), body(number, 9000));
    }
}

#[test]
fn what_is_spilled_and_never_named_is_free_when_its_pins_go() {
    let disk = SimDisk::new();
    let store = open(&disk, 1, &[]);
    let kept = spill(&store, 1, 9000);
    for finishes in [false, true] {
        disk.set_capacity((!finishes).then(|| disk.used() + 5 * (64 << 10)));
        let (mut writer, mut pins) = (store.spill(), Vec::new());
        let failed = (2..44).find_map(|number| match writer.push(id(number), &body(number, 9000)) {
            Ok(pointer) => {
                pins.push(store.pin(pointer).unwrap());
                None
            }
            Err(error) => Some(error),
        });
        let spilled = match failed {
            None => writer.finish().unwrap(),
            Some(error) => {
                assert!(matches!(error, BlobError::NoSpace(_)), "{error}");
                drop(writer);
                Vec::new()
            }
        };
        assert_eq!(!spilled.is_empty(), finishes);
        store.free_unused();
        assert!(store.segments_in_use() > 4, "pinned");
        drop((pins, spilled));
        store.free_unused();
        // The one that is named, and the tail.
        assert!(store.segments_in_use() <= 2, "{}", store.segments_in_use());
        disk.set_capacity(None);
    }
    assert_eq!(read(&store, kept, 1).unwrap(), body(1, 9000));
}

#[test]
fn body_that_no_segment_holds_is_refused_and_the_largest_one_fits() {
    let store = open(&SimDisk::new(), 1, &[]);
    let length_max = store.body_len_max();
    let mut writer = store.spill();
    let error = writer.push(id(1), &vec![0; length_max as usize + 1]).unwrap_err();
    assert!(matches!(error, BlobError::TooLarge { .. }));
    let pointer = writer.push(id(2), &body(2, length_max as usize)).unwrap();
    writer.finish().unwrap();
    assert_eq!(read(&store, pointer, 2).unwrap(), body(2, length_max as usize));
}

#[test]
fn segments_that_no_table_names_are_used_again_and_surplus_ones_removed() {
    let disk = SimDisk::new();
    let store = open(&disk, 1, &[]);
    let pointers: Vec<Pointer> = (0..10).map(|number| spill(&store, number, 60_000)).collect();
    drop(store);
    let spare = SegmentConfig { spare_bytes: 128 << 10, ..config(2) };
    let store = SegmentStore::open(Arc::new(disk.clone()), spare, &usages(&pointers[..2]), &[]).unwrap();
    assert_eq!(disk.list("blob").unwrap().len(), 4, "two in use, two spare");
    let next = spill(&store, 11, 100);
    assert!(pointers.iter().any(|pointer| pointer.segment == next.segment));
    assert_eq!(read(&store, pointers[1], 1).unwrap(), body(1, 60_000));
}

#[test]
fn failed_sync_of_a_spill_is_told_apart() {
    let disk = SimDisk::new();
    let store = open(&disk, 1, &[]);
    spill(&store, 1, 100);
    let mut writer = store.spill();
    writer.push(id(2), b"x").unwrap();
    disk.fail_nth(Operation::Sync, 1, ErrorKind::Other);
    assert!(matches!(writer.finish(), Err(BlobError::SyncFailed(_))));
}

#[test]
fn pointer_out_of_the_file_is_an_error_without_a_large_allocation() {
    let store = open(&SimDisk::new(), 1, &[]);
    let pointer = spill(&store, 1, 100);
    let beyond = Pointer { length: u64::MAX, ..pointer };
    assert!(matches!(read_range(&store, beyond, id(1), 0..u64::MAX), Err(BlobError::Corrupt { .. })));
    let behind = Pointer { offset: u32::MAX, ..pointer };
    assert!(matches!(read_range(&store, behind, id(1), 0..100), Err(BlobError::Corrupt { .. })));
}

#[test]
fn real_files_hold_spills_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(ThreadsDisk::new(dir.path()));
    let mut pointers = Vec::new();
    for run in 0..3u64 {
        let store = SegmentStore::open(disk.clone(), config(run), &usages(&pointers), &[]).unwrap();
        let mut writer = store.spill();
        for number in run * 50..run * 50 + 50 {
            pointers.push(writer.push(id(number), &body(number, 513 + number as usize * 60)).unwrap());
        }
        writer.finish().unwrap();
        for (pointer, number) in pointers.iter().zip(0..) {
            assert_eq!(read(&store, *pointer, number).unwrap(), body(number, pointer.length as usize));
        }
    }
}
