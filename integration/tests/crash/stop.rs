//! SIGTERM: everything taken is kept, the exit status is 0, and what still waits is named.

use std::time::Duration;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;

#[test]
fn sigterm_exits_with_0_and_says_how_many_rows_stay_queued() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let mut node = Node::start(NodeOptions::default().mount("/redis-0", &origin, "cloud/db")).unwrap();
    node.attach_mounts(&["redis-0"], Duration::from_secs(30));
    origin.set_outage(true);
    let mut resp = node.resp();
    for number in 0..137 {
        assert_eq!(resp.call(&["SET", &format!("k{number}"), "v"]).unwrap(), b"+OK\r\n");
    }
    let before = node.log().len();
    assert!(node.terminate().unwrap().success(), "{}", node.log_tail());
    let said = node.log().split_off(before);
    assert!(said.lines().any(|line| line.contains("137")), "the number is not named:\n{said}");
    origin.set_outage(false);
    node.restart().unwrap();
    node.flush_wait(Duration::from_secs(60));
    assert_eq!(origin.objects("cloud", "db/").len(), 137);
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

#[test]
fn a_stop_under_load_loses_and_refuses_nothing_it_took() {
    let mut node = Node::start(NodeOptions::default()).unwrap();
    let addr = node.endpoints().resp;
    let writer = std::thread::spawn(move || {
        let mut wire = forebay_integration::resp_wire::RespWire::connect(addr).unwrap();
        let mut acknowledged = 0_u64;
        loop {
            match wire.call(&["SET", &format!("k{acknowledged}"), "v"]) {
                Ok(reply) => assert_eq!(reply, b"+OK\r\n"),
                Err(_) => return acknowledged,
            }
            acknowledged += 1;
        }
    });
    let mut watch = node.resp();
    let busy = Duration::from_secs(20);
    forebay_integration::wait::until_true("the writer is busy", busy, || {
        watch.call(&["EXISTS", "k100"]).unwrap() == b":1\r\n"
    })
    .unwrap();
    drop(watch);
    assert!(node.terminate().unwrap().success(), "{}", node.log_tail());
    let acknowledged = writer.join().unwrap();
    node.restart().unwrap();
    let count = node.resp().call(&["DBSIZE"]).unwrap();
    let count: u64 = String::from_utf8_lossy(&count[1..count.len() - 2]).parse().unwrap();
    assert!(
        count == acknowledged || count == acknowledged + 1,
        "{count} keys of {acknowledged} acknowledged"
    );
    node.finish(&[]);
}
