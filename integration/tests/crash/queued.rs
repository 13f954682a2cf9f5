//! F2: what is queued outlives the process, however it ends. Aim: everything acknowledged while the origin was away
//! arrives once it is back, over SIGTERM and SIGKILL alike; a stop is quick and names what stays queued. Method: writes
//! over both APIs with the origin down, a stop of each kind between them, then the origin returns.
//!
//! 800 objects, 5,000 with `FOREBAY_LONG=1`.

use std::time::{Duration, Instant};

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Fault, Keys, Op, Rule};
use forebay_integration::wait;

use crate::written::{Api, CLOUD, Clients, Written};

const LIMIT: Duration = Duration::from_secs(300);
/// What a supervisor may be told to wait for a stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

fn attached(origin: &OriginSim, options: NodeOptions) -> Node {
    let node = Node::start(Written::mounted(options, origin)).unwrap();
    node.attach_mounts(&[Api::Resp.bucket(), Api::S3.bucket()], LIMIT);
    node
}

/// Overwrites and deletes among new keys; some bodies in the journal, some in segments.
fn write_some(written: &mut Written, node: &Node, numbers: std::ops::Range<usize>) {
    let mut clients = Clients::of(node);
    for number in numbers {
        let api = if number % 2 == 0 { Api::Resp } else { Api::S3 };
        let bytes = match number % 40 {
            0 | 1 => 70_000 + number,
            _ => number % 3_000,
        };
        written.write(&mut clients, api, &format!("k{number:05}"), bytes).unwrap();
        if number % 10 > 7 {
            written.write(&mut clients, api, &format!("k{:05}", number - 8), 50).unwrap();
        }
        if number % 25 > 22 {
            written.delete(&mut clients, api, &format!("k{number:05}"));
        }
    }
}

/// The number in "…; N objects (… bytes) stay queued on disk", of the last stop.
fn said_to_stay(node: &Node) -> Option<u64> {
    let log = node.log();
    let line = log.lines().rev().find(|line| line.contains("stay queued on disk"))?;
    line.split_once("stopped; ")?.1.split(' ').next()?.parse().ok()
}

#[tokio::test]
async fn f2_what_is_queued_outlives_sigterm_and_sigkill_and_arrives() {
    let objects = if std::env::var_os("FOREBAY_LONG").is_some() { 5_000 } else { 800 };
    let origin = OriginSim::start(&[CLOUD]).unwrap();
    let mut node = attached(&origin, NodeOptions::default());
    origin.set_outage(true);
    let mut written = Written::default();
    let part = objects / 4;
    write_some(&mut written, &node, 0..part);
    for (round, signal) in [(1, libc::SIGTERM), (2, libc::SIGKILL), (3, libc::SIGTERM)] {
        // A key that was written and deleted before it ever went out leaves nothing to do.
        let queued = node.metric("flush_pending_objects") as u64;
        assert!(queued as usize >= written.len(), "{queued} queued, {} written", written.len());
        if signal == libc::SIGTERM {
            let start = Instant::now();
            assert!(node.terminate().unwrap().success(), "{}", node.log_tail());
            eprintln!("SIGTERM with {queued} objects queued: ended after {:?}", start.elapsed());
            assert_eq!(said_to_stay(&node), Some(queued), "{}", node.log_tail());
        } else {
            node.kill();
        }
        node.restart().unwrap();
        assert_eq!(node.metric("flush_pending_objects") as u64, queued, "round {round}");
        written.check_node(&mut Clients::of(&node), 5);
        write_some(&mut written, &node, round * part..(round + 1) * part);
    }
    assert!(origin.objects(CLOUD, "").is_empty(), "nothing can have arrived");
    node.kill();
    node.restart().unwrap();
    origin.set_outage(false);
    node.flush_wait(LIMIT);
    written.check_origin(&origin);
    written.check_node(&mut Clients::of(&node), 1);
    written.check_list(&node).await;
    node.finish(&["origin", "flush"]);
}

/// A stop does not wait for an origin that never answers: these attempts would live for an hour.
#[test]
fn f2_a_stop_waits_for_no_upload_that_hangs() {
    let origin = OriginSim::start(&[CLOUD]).unwrap();
    let options = NodeOptions::default().set("flush.attempt_timeout", "\"1h\"");
    let mut node = attached(&origin, options);
    let hang = Rule::new(&[Op::Put], Fault::HangBefore).on(Keys::Containing("k0".into()));
    let hang = origin.add_fault(hang);
    let mut written = Written::default();
    write_some(&mut written, &node, 0..40);
    wait::until_true("uploads hang", LIMIT, || origin.strikes(hang) >= 10).unwrap();
    let queued = node.metric("flush_pending_objects") as u64;
    node.signal(libc::SIGTERM);
    let ended = wait::until_true("the node has ended", STOP_LIMIT, || !node.is_running());
    ended.unwrap_or_else(|error| panic!("{error}\n{}", node.log_tail()));
    assert!(node.wait_exit().unwrap().success(), "{}", node.log_tail());
    assert_eq!(said_to_stay(&node), Some(queued), "{}", node.log_tail());
}
