//! The kill loop. Aim: no acknowledged write is ever missing and no deleted key returns, on the node and in the
//! origin. Method: writers on both APIs with ledgers, kill -9 at a random moment, restart, compare, again.
//! `FOREBAY_KILLS` sets the number of kills (5 without it), `FOREBAY_SEED` the seed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Calls, Fault, Keys, Op, Rule};
use forebay_integration::wait;

use crate::workload::{RESP_BUCKET, S3_BUCKET, Workload};

const KILLS_IN_CI: u64 = 5;
const LOAD_LIMIT: Duration = Duration::from_secs(120);
const FLUSH_LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn mounted(origin: &OriginSim) -> NodeOptions {
    NodeOptions::default().mount(&format!("/{RESP_BUCKET}"), origin, &format!("cloud/{RESP_BUCKET}")).mount(
        &format!("/{S3_BUCKET}"),
        origin,
        &format!("cloud/{S3_BUCKET}"),
    )
}

fn kill_loop(options: NodeOptions, seed: u64, kills: u64) -> (Node, Workload) {
    kill_loop_after(options, seed, kills, |_| {})
}

fn kill_loop_after(
    options: NodeOptions,
    seed: u64,
    kills: u64,
    prepare: impl FnOnce(&Node),
) -> (Node, Workload) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut node = Node::start(options).unwrap();
    prepare(&node);
    node.create_bucket(S3_BUCKET);
    let mut workload = Workload::new(seed);
    for kill in 1..=kills {
        let count = workload.acknowledged();
        let target = count.load(Ordering::Relaxed) + random.u64(50..3_000);
        let running = workload.start(&node);
        let loaded = wait::until_true("enough writes are acknowledged", LOAD_LIMIT, || {
            count.load(Ordering::Relaxed) >= target
        });
        node.kill();
        workload.join(running);
        loaded.unwrap_or_else(|error| panic!("kill {kill} of seed {seed}: {error}\n{}", node.log_tail()));
        if random.u32(0..3) == 0 {
            // Recovery must survive a kill too. The pause is the moment of the fault, not a wait.
            node.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(random.u64(0..120)));
            node.kill();
        }
        node.restart().unwrap_or_else(|error| panic!("restart after kill {kill} of seed {seed}: {error}"));
        workload.check_node(&node);
    }
    (node, workload)
}

#[test]
fn kills_under_load_lose_nothing_and_the_origin_equals_the_ledger() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let seed = number("FOREBAY_SEED", 1);
    let (node, workload) = kill_loop(mounted(&origin), seed, number("FOREBAY_KILLS", KILLS_IN_CI));
    node.flush_wait(FLUSH_LIMIT);
    workload.check_origin(&origin, "cloud");
    node.finish(&["unknown outcome", "fence"]);
}

#[test]
fn kills_with_the_origin_failing_throughout_lose_nothing() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let seed = number("FOREBAY_SEED", 2);
    for (share, fault) in [
        (100, Fault::Answer(503, "SlowDown")),
        (50, Fault::Answer(500, "InternalError")),
        (50, Fault::ResetBefore),
        (50, Fault::ResetMidBody),
        (50, Fault::ResetAfter),
        (10, Fault::HangBefore),
        (10, Fault::HangAfter),
        (10, Fault::ApplyLate(Duration::from_millis(700))),
    ] {
        // The keys of the writers hold a colon; what the probe of the origin writes does not.
        let keys = Keys::Containing(":".to_owned());
        let rule = Rule::new(&[Op::Put, Op::Delete, Op::Head], fault).on(keys);
        origin.add_fault(rule.calls(Calls::Share(share, seed)));
    }
    let (node, workload) = kill_loop(mounted(&origin), seed, number("FOREBAY_KILLS", KILLS_IN_CI));
    node.flush_wait(FLUSH_LIMIT);
    workload.check_origin(&origin, "cloud");
    node.finish(&["origin", "flush"]);
}

#[test]
fn kills_in_the_middle_of_multipart_uploads_lose_nothing_and_leave_no_upload() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let seed = number("FOREBAY_SEED", 5);
    // A fifth of the values are longer than this, some forty times.
    let options = mounted(&origin).set("flush.part_size", "\"1KiB\"");
    let keys = || Keys::Containing(":".to_owned());
    for (ops, share, fault) in [
        (&[Op::Part][..], 200, Fault::Slow(Duration::from_millis(20))),
        (&[Op::Part, Op::BeginUpload], 20, Fault::Answer(503, "SlowDown")),
        (&[Op::BeginUpload], 20, Fault::HangAfter),
        (&[Op::Part], 20, Fault::ResetMidBody),
        (&[Op::Part, Op::Complete, Op::AbortUpload], 20, Fault::ResetAfter),
        (&[Op::Complete], 20, Fault::Answer(500, "InternalError")),
        (&[Op::Complete], 20, Fault::HangAfter),
        (&[Op::Complete], 20, Fault::ApplyLate(Duration::from_millis(700))),
    ] {
        origin.add_fault(Rule::new(ops, fault).on(keys()).calls(Calls::Share(share, seed)));
    }
    let (node, workload) = kill_loop(options, seed, number("FOREBAY_KILLS", KILLS_IN_CI));
    node.flush_wait(FLUSH_LIMIT);
    workload.check_origin(&origin, "cloud");
    let large = origin.objects("cloud", "").iter().filter(|(_, object)| object.etag.contains('-')).count();
    assert!(large > 10, "{large} objects came in parts");
    origin.clear_faults();
    let none = wait::until_true("no upload of ours stays", FLUSH_LIMIT, || origin.uploads().is_empty());
    none.unwrap_or_else(|error| panic!("{error:?}: {:?}", origin.uploads()));
    node.finish(&["origin", "flush"]);
}

#[test]
fn kills_during_an_outage_of_the_origin_lose_nothing_and_everything_arrives_afterwards() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let seed = number("FOREBAY_SEED", 3);
    let kills = number("FOREBAY_KILLS", KILLS_IN_CI).min(20);
    // Of an origin that was never reached nobody knows what it holds: keys that are not here would be errors.
    let (node, workload) = kill_loop_after(mounted(&origin), seed, kills, |node| {
        node.attach_mounts(&[RESP_BUCKET, S3_BUCKET], FLUSH_LIMIT);
        origin.set_outage(true);
    });
    assert_eq!(origin.objects("cloud", "redis-0/").len(), 0, "nothing can have arrived");
    origin.set_outage(false);
    node.flush_wait(FLUSH_LIMIT);
    workload.check_origin(&origin, "cloud");
    node.finish(&["origin", "flush"]);
}

#[test]
fn everysec_loses_nothing_to_kill_9() {
    let seed = number("FOREBAY_SEED", 4);
    let options = NodeOptions::default().set("sync", "\"everysec\"");
    let (node, _) = kill_loop(options, seed, number("FOREBAY_KILLS", KILLS_IN_CI).min(20));
    let log = node.log();
    assert!(log.contains("everysec"), "the start line says so:\n{log}");
    node.finish(&["everysec"]);
}
