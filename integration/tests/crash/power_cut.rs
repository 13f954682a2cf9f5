//! Power cuts under the whole daemon, LMDB included. Aim: nothing acknowledged is lost when every unsynced
//! sector, size and name may be. Method: the data directory lies on the lossy filesystem; kill -9 under load, cut,
//! restart, compare. Needs /dev/fuse; where it cannot be opened the test says loudly that it was skipped.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_integration::lossy_fs::{self, LossyDisk};
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::wait;

use crate::kill::number;
use crate::workload::{S3_BUCKET, Workload};

const CUTS_IN_CI: u64 = 3;

#[test]
fn power_cuts_under_load_lose_nothing_that_was_acknowledged() {
    if let Err(reason) = lossy_fs::available() {
        eprintln!("!!! SKIPPED: power cuts: {reason}");
        return;
    }
    let seed = number("FOREBAY_SEED", 5);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut disk = LossyDisk::mount().unwrap();
    let data = disk.path().join("data");
    let mut node = Node::start(NodeOptions::default().data_dir(&data)).unwrap();
    node.create_bucket(S3_BUCKET);
    let mut workload = Workload::new(seed);
    for cut in 1..=number("FOREBAY_KILLS", CUTS_IN_CI) {
        let count = workload.acknowledged();
        let target = count.load(Ordering::Relaxed) + random.u64(50..1_500);
        let running = workload.start(&node);
        let loaded = wait::until_true("enough writes are acknowledged", Duration::from_secs(120), || {
            count.load(Ordering::Relaxed) >= target
        });
        node.kill();
        workload.join(running);
        loaded.unwrap_or_else(|error| panic!("cut {cut} of seed {seed}: {error}\n{}", node.log_tail()));
        disk.power_cut(random.u64(..)).unwrap();
        if random.u32(0..3) == 0 {
            // Power goes again during recovery. The pause is the moment of the fault, not a wait.
            node.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(random.u64(0..150)));
            node.kill();
            disk.power_cut(random.u64(..)).unwrap();
        }
        node.restart().unwrap_or_else(|error| panic!("restart after cut {cut} of seed {seed}: {error}"));
        workload.check_node(&node);
    }
    node.finish(&[]);
}
