//! How the tests of mounts over data that was there before begin: `/photos` over `cloud/pics`, in which somebody else's
//! object `was-here` lies.

use std::time::Duration;

use crate::node::{Node, NodeOptions};
use crate::origin_sim::OriginSim;
use crate::resp_wire::{RespWire, bulk};
use crate::wait;

const LIMIT: Duration = Duration::from_secs(120);

/// `/photos` over `cloud/pics`.
pub fn options(origin: &OriginSim) -> NodeOptions {
    NodeOptions::default().mount("/photos", origin, "cloud/pics")
}

/// A node over an origin in which somebody else's objects lie, and a connection to its bucket.
///
/// # Panics
/// If it does not start, or the origin is not reached in time.
pub fn start(origin: &OriginSim, options: NodeOptions) -> (Node, RespWire) {
    // Without a single object there would be nothing that existed before.
    origin.foreign_put("cloud", "pics/was-here", "before");
    let node = Node::start(options).unwrap();
    let resp = connect(&node);
    // Until then objects of its probe may lie there.
    node.wait_origins(1, LIMIT);
    (node, resp)
}

/// A connection to the bucket, once its origin was reached: until then nothing is known of its keys.
///
/// # Panics
/// If the origin is not reached in time.
pub fn connect(node: &Node) -> RespWire {
    let mut resp = connect_at_once(node);
    wait::until("the mount is attached", LIMIT, || {
        let reply = resp.call(&["EXISTS", "was-here"]).unwrap();
        if reply.starts_with(b":") { Ok(()) } else { Err(said(&reply)) }
    })
    .unwrap();
    resp
}

/// A connection to the bucket.
///
/// # Panics
/// If the bucket is not there.
pub fn connect_at_once(node: &Node) -> RespWire {
    let mut resp = node.resp();
    assert_eq!(resp.call(&["FB.USE", "photos"]).unwrap(), b"+OK\r\n");
    resp
}

/// A reply for people.
pub fn said(reply: &[u8]) -> String {
    reply.escape_ascii().to_string()
}

/// What is under a key.
///
/// # Panics
/// If that cannot be said.
pub fn get(resp: &mut RespWire, key: &str) -> Option<Vec<u8>> {
    bulk(&resp.call(&["GET", key]).unwrap()).map(<[u8]>::to_vec)
}
