//! Power cuts under the whole daemon, LMDB included. Aim: nothing acknowledged is lost when every unsynced
//! sector, size and name may be. Method: the data directory lies on the lossy filesystem; kill -9 under load,
//! at any moment or while a checkpoint has LMDB's file half written, cut, restart, compare.
//!
//! Every key is read back over RESP or S3; LIST must name exactly the keys that are left.
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
use forebay_integration::{skip, wait};

use crate::kill::number;
use crate::workload::{S3_BUCKET, Workload, is_of_writer};

const CUTS_IN_CI: u64 = 3;
const LOAD_LIMIT: Duration = Duration::from_secs(120);
const FREQUENT_CHECKPOINTS: &str = "\"100ms\"";
const NO_CHECKPOINT: &str = "\"1h\"";
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
    let seed = number("FOREBAY_SEED", 5);
    if let Some(tally) = cuts(seed, number("FOREBAY_CUTS", CUTS_IN_CI), Moment::Any, Directory::MadeBefore) {
        tally.report("under load", seed);
    }
}

#[test]
fn power_cuts_in_the_middle_of_a_checkpoint_lose_nothing_that_was_acknowledged() {
    let seed = number("FOREBAY_SEED", 7);
    let wanted = number("FOREBAY_CUTS", CUTS_IN_CI);
    if let Some(tally) = cuts(seed, wanted, Moment::InCheckpoint, Directory::MadeBefore) {
        tally.report("in a checkpoint", seed);
    }
}

/// Only the first cut can take the names of what the daemon made, so each has a disk of its own.
#[test]
fn a_data_directory_that_was_just_made_survives_a_power_cut() {
    let seed = number("FOREBAY_SEED", 6);
    let mut all = Tally::default();
    for cut in 0..number("FOREBAY_CUTS", CUTS_IN_CI) {
        // Before the first checkpoint the journal alone holds what was written, and LMDB's file is untouched
        // since it was made; after it LMDB holds it.
        let moment = if cut % 2 == 0 { Moment::Any } else { Moment::InCheckpoint };
        let Some(tally) = cuts(seed + cut, 1, moment, Directory::MadeByDaemon) else { return };
        all.merge(&tally);
    }
    all.report("directory just made", seed);
}

/// The disk really forgets: what the daemon had not synced is gone after a cut, and the ledger finds it. Even
/// then the node opens, and a key that went back holds a whole value of its own.
#[test]
fn power_cuts_cost_everysec_acknowledged_writes_but_never_a_whole_value() {
    const CUTS_MAX: u64 = 20;
    if let Err(reason) = lossy_fs::available() {
        return skip::tell("power cuts", reason);
    }
    let seed = number("FOREBAY_SEED", 8);
    let mut random = fastrand::Rng::with_seed(seed);
    // A checkpoint would sync what the journal has not.
    let options = NodeOptions::default().set("sync", "\"everysec\"").set("memtable.interval", NO_CHECKPOINT);
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
            assert!(is_of_writer(value, writer), "{gone}");
        }
        tally.lost += lost.len();
        if tally.lost > 0 && cut >= wanted {
            break;
        }
    }
    tally.report("everysec", seed);
    assert!(tally.lost > 0, "{} cuts cost nothing: such cuts test nothing", tally.cuts);
}

/// `None` where there is no such disk.
fn cuts(seed: u64, wanted: u64, moment: Moment, directory: Directory) -> Option<Tally> {
    if let Err(reason) = lossy_fs::available() {
        skip::tell("power cuts", reason);
        return None;
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let interval = match (moment, directory) {
        (Moment::Any, Directory::MadeByDaemon) => NO_CHECKPOINT,
        _ => FREQUENT_CHECKPOINTS,
    };
    let options = NodeOptions::default().set("memtable.interval", interval);
    let (mut disk, mut node) = on_lossy_disk(options, directory);
    let mut workload = Workload::new(seed);
    let mut tally = Tally::default();
    for cut in 1..=wanted {
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
        eprintln!("cut {cut} of seed {seed}: the node opened; comparing with the ledger");
        workload.check_node(&node);
    }
    tally.acknowledged = workload.acknowledged().load(Ordering::Relaxed);
    node.finish(&[]);
    Some(tally)
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

    fn merge(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.in_checkpoint += other.in_checkpoint;
        self.sectors += other.sectors;
        self.sectors_lost += other.sectors_lost;
        self.directories += other.directories;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
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
