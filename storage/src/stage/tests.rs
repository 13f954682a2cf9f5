//! Staged bodies on the simulated disk, and on one that stands still: what is given up is free, what waits is
//! bounded. The names say which of PITFALLS 4, 12, 13 and 15 a case is for.

use std::future::Future;
use std::io::{ErrorKind, IoSlice};
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Condvar;

use super::*;
use crate::blob::{SegmentConfig, SegmentUsage};
use crate::io::sim::SimDisk;
use crate::io::{Disk, DiskError, DiskFile, DiskMetrics, Operation, Space};
use crate::mutation::BLOCK_BYTES;

const PIECE: usize = 70_000;

fn segments(disk: Arc<dyn Disk>, nonce: u64, in_use: &[SegmentUsage]) -> Arc<SegmentStore> {
    let config =
        SegmentConfig { segment_bytes: 256 << 10, spare_bytes: 512 << 10, piece_bytes: PIECE as u64, nonce };
    Arc::new(SegmentStore::open(disk, config, in_use, &[]).unwrap())
}

/// A stager in its first run. Without threads nothing it does ever waits.
fn stager(disk: Arc<dyn Disk>, threads: usize) -> Arc<Stager> {
    let stager = Stager::start(segments(disk, 1, &[]), threads).unwrap();
    stager.run.set(Run { node: 1, boot: 1 }).unwrap();
    Arc::new(stager)
}

fn body(number: usize, len: usize) -> Bytes {
    (0..len).map(|at| (number * 131 + at * 7 + at / 251) as u8).collect()
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing to wait for")
}

fn stage(stager: &Arc<Stager>, body: &Bytes) -> Result<StagedBody> {
    let mut writer = stager.begin(body.len() as u64)?;
    for at in (0..body.len()).step_by(50_000) {
        now(writer.write(body.slice(at..body.len().min(at + 50_000))))?;
    }
    now(writer.finish())
}

fn read(segments: &SegmentStore, staged: &StagedBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    for blob in &staged.blobs {
        let (pointer, _pin) = segments.staged(*blob).expect("in the place map");
        bytes.extend(segments.read(pointer, *blob, 0..pointer.length, true).unwrap().unwrap());
    }
    bytes
}

#[test]
fn bodies_of_all_lengths_are_cut_into_pieces_and_come_back() {
    let disk = Arc::new(SimDisk::new());
    let stager = stager(disk, 0);
    let lens = [0, 1, 4000, 65_535, 65_536, 65_537, PIECE, PIECE + 1, 3 * PIECE, 1_000_000, 3_000_000];
    let staged: Vec<StagedBody> = lens.iter().map(|len| stage(&stager, &body(*len, *len)).unwrap()).collect();
    for (staged, len) in staged.iter().zip(lens) {
        assert!(read(&stager.segments, staged) == body(len, len)[..], "{len}");
        assert_eq!(staged.payload().len(), len as u64);
        assert_eq!(staged.blobs.len(), len.div_ceil(PIECE));
    }
    assert_eq!(stager.promised_bytes(), 0);
    assert_eq!(stager.filling.load(Relaxed), 0);
}

#[test]
fn blocks_fill_a_segment_to_its_end_however_small_the_store() {
    let block = body(1, BLOCK_BYTES as usize);
    for (capacity, blocks) in [(1, 2), (256 << 20, 4), (1 << 40, 32)] {
        let config = SegmentConfig::for_capacity(1, capacity);
        config.validate().unwrap();
        let segments = Arc::new(SegmentStore::open(Arc::new(SimDisk::new()), config, &[], &[]).unwrap());
        let stager = Arc::new(Stager::start(segments, 0).unwrap());
        stager.run.set(Run { node: 1, boot: 1 }).unwrap();
        let mut writer = stager.begin((blocks + 1) * BLOCK_BYTES).unwrap().in_blocks(BodyOf::Object);
        (0..blocks).for_each(|_| now(writer.write(block.clone())).unwrap());
        assert_eq!(stager.segments.segments_in_use(), 1, "{blocks} blocks in a store of {capacity} bytes");
        now(writer.write(block.clone())).unwrap();
        assert_eq!(stager.segments.segments_in_use(), 2);
    }
}

#[test]
fn pitfall_4_a_staged_piece_shares_no_block_with_what_is_written_later() {
    for seed in 0..32 {
        let disk = SimDisk::new();
        let stager = stager(Arc::new(disk.clone()), 0);
        let first = stage(&stager, &body(1, 70_001)).unwrap();
        // Begins behind it, and is torn by the power cut.
        let mut second = stager.begin(300_000).unwrap();
        now(second.write(body(2, 290_000))).unwrap();
        let places: Vec<_> = first.blobs.iter().map(|blob| stager.segments.staged_pointer(*blob)).collect();
        assert!(places.iter().flatten().all(|place| place.offset % 4096 == 0), "{places:?}");
        let blobs = first.blobs.clone();
        std::mem::forget((first, second));
        disk.power_cut(seed);
        let segments = segments(Arc::new(disk), 2, &[]);
        let mut found = Vec::new();
        for blob in blobs {
            let (pointer, _pin) = segments.staged(blob).expect("found by the scan");
            found.extend(segments.read(pointer, blob, 0..pointer.length, true).unwrap().unwrap());
        }
        assert!(found == body(1, 70_001)[..], "seed {seed}");
    }
}

#[test]
fn pitfall_12_power_cut_at_any_call_loses_no_body_that_was_finished() {
    let operations = [Operation::Write, Operation::Sync, Operation::SyncDir, Operation::Create];
    for (operation, seed) in
        operations.into_iter().flat_map(|operation| (0..40).map(move |seed| (operation, seed)))
    {
        let disk = SimDisk::with_seed(seed);
        let stager = stager(Arc::new(disk.clone()), 0);
        disk.fail_nth(operation, seed + 1, ErrorKind::Other);
        let staged: Vec<(StagedBody, Bytes)> = (1..8)
            .map_while(|number| {
                let body = body(number, number * 37_000);
                Some((stage(&stager, &body).ok()?, body))
            })
            .collect();
        disk.power_cut(seed);
        let segments = segments(Arc::new(disk), 2, &[]);
        for (staged, body) in staged {
            assert!(read(&segments, &staged) == body[..], "{operation:?} {seed}");
            std::mem::forget(staged);
        }
    }
}

#[test]
fn pitfall_15_what_is_given_up_is_free_again_without_a_restart() {
    let disk = SimDisk::new();
    let stager = stager(Arc::new(disk.clone()), 0);
    let mut most = 0;
    for number in 0..50 {
        // Dropped whole, and half-way.
        drop(stage(&stager, &body(number, 400_000)).unwrap());
        let mut writer = stager.begin(1_000_000).unwrap();
        now(writer.write(body(number, 300_000))).unwrap();
        drop(writer);
        assert!(stager.segments.staged_blobs().is_empty());
        assert_eq!((stager.segments.staged_bytes(), stager.promised_bytes()), (0, 0));
        most = most.max(disk.used());
    }
    assert_eq!(stager.segments.segments_in_use(), 1, "the open one");
    assert!(most < 2 << 20, "{most} bytes for bodies of 400,000");
}

#[test]
fn a_body_without_space_or_with_a_failing_write_is_the_only_one_lost() {
    let disk = SimDisk::new();
    let stager = stager(Arc::new(disk.clone()), 0);
    let kept = stage(&stager, &body(1, 100_000)).unwrap();
    disk.set_capacity(Some(disk.used() + 50_000));
    let error = stage(&stager, &body(2, 200_000)).unwrap_err();
    assert!(matches!(error, Error::Full(_)), "{error}");
    disk.set_capacity(None);
    disk.fail_nth(Operation::Write, 2, ErrorKind::Other);
    let error = stage(&stager, &body(3, 200_000)).unwrap_err();
    assert!(matches!(error, Error::Disk(_)), "{error}");
    let later = stage(&stager, &body(4, 500_000)).unwrap();
    for (staged, body) in [(&kept, body(1, 100_000)), (&later, body(4, 500_000))] {
        assert!(read(&stager.segments, staged) == body[..]);
    }
    assert_eq!(stager.segments.staged_blobs().len(), kept.blobs.len() + later.blobs.len());
}

#[test]
fn a_failed_sync_never_finishes_a_body() {
    let disk = SimDisk::new();
    let stager = stager(Arc::new(disk.clone()), 0);
    stage(&stager, &body(1, 1000)).unwrap();
    disk.fail_nth(Operation::Sync, 1, ErrorKind::Other);
    assert!(stage(&stager, &body(2, 1000)).is_err());
}

#[test]
fn nothing_is_staged_before_the_log_has_numbered_the_run() {
    let stager = Arc::new(Stager::start(segments(Arc::new(SimDisk::new()), 1, &[]), 0).unwrap());
    assert!(matches!(stager.begin(5), Err(Error::Unavailable(_))));
}

/// A disk whose writes and syncs can be made to stand still.
#[derive(Clone)]
struct HeldDisk {
    disk: SimDisk,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    held: Mutex<Option<Operation>>,
    opened: Condvar,
}

impl HeldDisk {
    fn new() -> HeldDisk {
        HeldDisk { disk: SimDisk::new(), gate: Arc::default() }
    }

    fn hold(&self, operation: Option<Operation>) {
        *self.gate.held.lock() = operation;
        self.gate.opened.notify_all();
    }
}

impl Gate {
    fn pass(&self, operation: Operation) {
        let mut held = self.held.lock();
        while *held == Some(operation) {
            self.opened.wait(&mut held);
        }
    }
}

struct HeldFile {
    file: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl Disk for HeldDisk {
    fn create_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.disk.create_dir(dir)
    }

    fn create(&self, path: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let file = self.disk.create(path)?;
        Ok(Arc::new(HeldFile { file, gate: self.gate.clone() }))
    }

    fn open(&self, path: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let file = self.disk.open(path)?;
        Ok(Arc::new(HeldFile { file, gate: self.gate.clone() }))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.disk.list(dir)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.disk.sync_dir(dir)
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.disk.space()
    }

    fn metrics(&self) -> &DiskMetrics {
        self.disk.metrics()
    }
}

impl DiskFile for HeldFile {
    fn path(&self) -> &str {
        self.file.path()
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DiskError> {
        self.gate.pass(Operation::Write);
        self.file.write_at(bufs, offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.file.read_at(buf, offset)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.gate.pass(Operation::Sync);
        self.file.sync_data()
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }

    fn preallocate_zeroed(&self, len: u64) -> Result<(), DiskError> {
        self.file.preallocate_zeroed(len)
    }
}

/// Waits until it holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

async fn stage_slowly(stager: Arc<Stager>, number: usize, len: usize) -> Result<StagedBody> {
    let mut writer = stager.begin(len as u64)?;
    let body = body(number, len);
    for at in (0..len).step_by(64 << 10) {
        writer.write(body.slice(at..len.min(at + (64 << 10)))).await?;
    }
    writer.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sync_serves_everybody_who_waits_for_a_segment() {
    let disk = HeldDisk::new();
    let stager = stager(Arc::new(disk.clone()), 3);
    drop(stage_slowly(stager.clone(), 0, 1000).await.unwrap());
    let syncs = || disk.metrics().of(Operation::Sync).calls.load(Relaxed);
    let before = syncs();
    disk.hold(Some(Operation::Sync));
    let bodies = 20;
    let first = tokio::spawn(stage_slowly(stager.clone(), 0, 1000));
    eventually("the first waits", || stager.writers.syncing() == 1).await;
    let rest: Vec<_> =
        (1..bodies).map(|number| tokio::spawn(stage_slowly(stager.clone(), number, 1000))).collect();
    eventually("all wait", || stager.writers.waiting() == bodies - 1).await;
    disk.hold(None);
    for (number, staged) in std::iter::once(first).chain(rest).enumerate() {
        let staged = staged.await.unwrap().unwrap();
        assert!(read(&stager.segments, &staged) == body(number, 1000)[..], "{number}");
    }
    assert_eq!(syncs() - before, 2, "one for the first, one for all who came while it ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_wait_while_the_disk_stands_still_and_hold_little() {
    let disk = HeldDisk::new();
    let config = SegmentConfig { segment_bytes: 64 << 20, ..SegmentConfig::new(1) };
    let segments = Arc::new(SegmentStore::open(Arc::new(disk.clone()), config, &[], &[]).unwrap());
    let stager = Stager::start(segments, 2).unwrap();
    stager.run.set(Run { node: 1, boot: 1 }).unwrap();
    let stager = Arc::new(stager);
    // So that a segment is open before everything stands still.
    drop(stage_slowly(stager.clone(), 0, 2 << 20).await.unwrap());
    disk.hold(Some(Operation::Write));
    let bodies: Vec<_> =
        (0..40).map(|number| tokio::spawn(stage_slowly(stager.clone(), number, 3 << 19))).collect();
    eventually("the shares are taken", || stager.in_flight.available_permits() < 1 << 8).await;
    let held = || {
        let in_flight = IN_FLIGHT_BYTES_MAX as u64;
        stager.filling.load(Relaxed) + in_flight
    };
    for _ in 0..20 {
        let most = FILLING_BYTES_MAX + IN_FLIGHT_BYTES_MAX as u64 + 40 * BUFFER_SLACK as u64;
        assert!(held() <= most, "{} bytes", held());
        tokio::task::yield_now().await;
    }
    assert!(bodies.iter().all(|body| !body.is_finished()));
    disk.hold(None);
    for (number, staged) in bodies.into_iter().enumerate() {
        let staged = staged.await.unwrap().unwrap();
        assert!(read(&stager.segments, &staged) == body(number, 3 << 19)[..], "{number}");
    }
    assert_eq!((stager.filling.load(Relaxed), stager.promised_bytes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_15_a_body_dropped_while_it_waits_is_given_up() {
    let disk = HeldDisk::new();
    let stager = stager(Arc::new(disk.clone()), 2);
    for operation in [Operation::Write, Operation::Sync] {
        disk.hold(Some(operation));
        {
            // It waits for a segment to be opened, or for its bytes, or for their sync.
            let mut staging = pin!(stage_slowly(stager.clone(), 1, 200_000));
            for _ in 0..50 {
                assert!(staging.as_mut().now_or_never().is_none());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        disk.hold(None);
        eventually("it is given up", || stager.segments.staged_blobs().is_empty()).await;
        assert_eq!((stager.filling.load(Relaxed), stager.promised_bytes()), (0, 0));
        let staged = stage_slowly(stager.clone(), 2, 200_000).await.unwrap();
        assert!(read(&stager.segments, &staged) == body(2, 200_000)[..]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_not_waited_for_ends_the_body() {
    let disk = HeldDisk::new();
    let stager = stager(Arc::new(disk.clone()), 2);
    disk.hold(Some(Operation::Write));
    let mut writer = stager.begin(100_000).unwrap();
    assert!(writer.write(body(1, 50_000)).now_or_never().is_none());
    disk.hold(None);
    // Nobody knows how much of the dropped write was taken.
    assert!(writer.write(body(1, 50_000)).await.is_err());
    assert!(writer.finish().await.is_err());
}
