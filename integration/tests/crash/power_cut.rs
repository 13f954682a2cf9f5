//! Power cuts under the whole daemon, LMDB included. Aim: nothing acknowledged is lost when every unsynced
//! sector, size and name may be. Method: the data directory lies on the lossy filesystem; kill -9 under load,
//! at any moment or while a checkpoint has LMDB's file half written, cut, restart, compare.
//!
//! `sync = "everysec"` is the control: the same cuts must cost it acknowledged writes, or they test nothing.
//!
//! `FOREBAY_CUTS` sets the number of cuts of each test (3 without it), `FOREBAY_SEED` the seed. Needs /dev/fuse;
//! where it cannot be opened the tests say loudly that they were skipped.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_integration::ledger::State;
use forebay_integration::lossy_fs::{self, LossyDisk, image::Damage};
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::wait;

use crate::kill::number;
use crate::workload::{S3_BUCKET, Workload, lines};

const CUTS_IN_CI: u64 = 3;
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// What LMDB calls its file.
const LMDB_FILE: &str = "data.mdb";
const DATA_DIRECTORY: &str = "data";

/// When the power goes.
#[derive(Clone, Copy, PartialEq)]
enum Moment {
    /// As soon as enough was written.
    Any,
    /// Then as soon as LMDB's file has sectors that are not synced.
    InCheckpoint,
}

/// Who makes the data directory.
#[derive(Clone, Copy, PartialEq)]
enum Directory {
    MadeBefore,
    /// The daemon: its name is as much at risk as its files.
    MadeByDaemon,
}

#[test]
fn power_cuts_under_load_lose_nothing_that_was_acknowledged() {
    cuts("under load", 5, Moment::Any, Directory::MadeBefore, frequent_checkpoints());
}

#[test]
fn a_data_directory_that_was_just_made_survives_a_power_cut() {
    cuts("directory just made", 6, Moment::Any, Directory::MadeByDaemon, frequent_checkpoints());
}

#[test]
fn power_cuts_in_the_middle_of_a_checkpoint_lose_nothing_that_was_acknowledged() {
    cuts("in a checkpoint", 7, Moment::InCheckpoint, Directory::MadeBefore, frequent_checkpoints());
}

/// The disk really forgets: what the daemon had not synced is gone after a cut, and the ledger finds it. Even
/// then the node opens, and a key that went back holds a whole value of its own.
#[test]
fn power_cuts_cost_everysec_acknowledged_writes_but_never_a_whole_value() {
    const CUTS_MAX: u64 = 20;
    if let Err(reason) = lossy_fs::available() {
        eprintln!("!!! SKIPPED: power cuts: {reason}");
        return;
    }
    let seed = number("FOREBAY_SEED", 8);
    let mut random = fastrand::Rng::with_seed(seed);
    // A checkpoint would sync what the journal has not.
    let options = NodeOptions::default().set("sync", "\"everysec\"").set("memtable.interval", "\"1h\"");
    let mut tally = Tally::default();
    let wanted = number("FOREBAY_CUTS", 1);
    for cut in 1..=wanted.max(CUTS_MAX) {
        let (mut disk, mut node) = on_lossy_disk(options.clone(), Directory::MadeBefore);
        let mut workload = Workload::new(seed + cut);
        load_and_kill(&mut node, &mut workload, &disk, random.u64(500..3_000), Moment::Any);
        tally.add(&disk.power_cut(random.u64(..)).unwrap());
        tally.acknowledged += workload.acknowledged().load(Ordering::Relaxed);
        node.restart().unwrap_or_else(|error| panic!("restart after cut {cut} of seed {seed}: {error}"));
        let lost = workload.discrepancies(&node);
        for gone in &lost {
            let State::Value(value) = &gone.found else { continue };
            let (writer, _) = gone.key.split_at(gone.key.iter().position(|byte| *byte == b':').unwrap());
            let rest = value.strip_prefix(writer).and_then(|rest| rest.strip_prefix(b"#"));
            let filler = rest.and_then(|rest| rest.splitn(2, |byte| *byte == b';').nth(1));
            assert!(filler.is_some_and(|filler| filler.iter().all(|byte| *byte == b'.')), "{gone}");
        }
        tally.lost += lost.len();
        if tally.lost > 0 && cut >= wanted {
            break;
        }
    }
    tally.report("everysec", seed);
    assert!(tally.lost > 0, "{} cuts cost nothing: such cuts test nothing", tally.cuts);
}

fn frequent_checkpoints() -> NodeOptions {
    NodeOptions::default().set("memtable.interval", "\"100ms\"")
}

fn cuts(name: &str, seed: u64, moment: Moment, directory: Directory, options: NodeOptions) {
    if let Err(reason) = lossy_fs::available() {
        eprintln!("!!! SKIPPED: power cuts: {reason}");
        return;
    }
    let seed = number("FOREBAY_SEED", seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut disk, mut node) = on_lossy_disk(options, directory);
    let mut workload = Workload::new(seed);
    let mut tally = Tally::default();
    for cut in 1..=number("FOREBAY_CUTS", CUTS_IN_CI) {
        load_and_kill(&mut node, &mut workload, &disk, random.u64(50..1_500), moment);
        tally.add(&disk.power_cut(random.u64(..)).unwrap());
        if random.u32(0..3) == 0 {
            // Power goes again during recovery. The pause is the moment of the fault, not a wait.
            node.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(random.u64(0..150)));
            node.kill();
            tally.add(&disk.power_cut(random.u64(..)).unwrap());
        }
        node.restart().unwrap_or_else(|error| panic!("restart after cut {cut} of seed {seed}: {error}"));
        let lost = workload.discrepancies(&node);
        assert!(
            lost.is_empty(),
            "cut {cut} of seed {seed}, {} keys:\n{}\nlog:\n{}",
            lost.len(),
            lines(&lost),
            node.log_tail()
        );
        workload.check_node(&node);
    }
    tally.acknowledged = workload.acknowledged().load(Ordering::Relaxed);
    tally.report(name, seed);
    node.finish(&[]);
}

fn on_lossy_disk(options: NodeOptions, directory: Directory) -> (LossyDisk, Node) {
    let disk = LossyDisk::mount().unwrap();
    let data = disk.path().join(DATA_DIRECTORY);
    if directory == Directory::MadeBefore {
        fs::create_dir(&data).unwrap();
        File::open(disk.path()).unwrap().sync_all().unwrap();
    }
    let node = Node::start(options.data_dir(&data)).unwrap();
    node.create_bucket(S3_BUCKET);
    (disk, node)
}

/// Kills the node once `writes` more are acknowledged and the moment has come.
fn load_and_kill(node: &mut Node, workload: &mut Workload, disk: &LossyDisk, writes: u64, moment: Moment) {
    let count = workload.acknowledged();
    let target = count.load(Ordering::Relaxed) + writes;
    let running = workload.start(node);
    let come = wait::until_true("enough writes are acknowledged", LOAD_LIMIT, || {
        count.load(Ordering::Relaxed) >= target
    })
    .and_then(|()| match moment {
        Moment::Any => Ok(()),
        Moment::InCheckpoint => wait::until_true("a checkpoint writes to LMDB's file", LOAD_LIMIT, || {
            disk.unsynced_sectors(LMDB_FILE) > 0
        }),
    });
    node.kill();
    workload.join(running);
    come.unwrap_or_else(|error| panic!("{error}\n{}", node.log_tail()));
}

/// What the cuts of one test did.
#[derive(Default)]
struct Tally {
    cuts: u64,
    in_checkpoint: u64,
    sectors: u64,
    sectors_lost: u64,
    directories: u64,
    acknowledged: u64,
    lost: usize,
}

impl Tally {
    fn add(&mut self, damage: &Damage) {
        self.cuts += 1;
        let lmdb = damage.files.iter().any(|file| file.path.file_name() == Path::new(LMDB_FILE).file_name());
        self.in_checkpoint += u64::from(lmdb);
        self.sectors += damage.files.iter().map(|file| file.unsynced_sectors).sum::<u64>();
        self.sectors_lost += damage.files.iter().map(|file| file.lost_sectors).sum::<u64>();
        self.directories += damage.directories;
    }

    fn report(&self, name: &str, seed: u64) {
        eprintln!(
            "power cuts {name} (seed {seed}): {} cuts, {} of them with LMDB's file half synced, {} of {} unsynced \
             sectors lost, {} directories went back; {} writes acknowledged, {} lost",
            self.cuts,
            self.in_checkpoint,
            self.sectors_lost,
            self.sectors,
            self.directories,
            self.acknowledged,
            self.lost,
        );
    }
}
