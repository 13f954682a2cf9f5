//! Both servers side by side: one command goes to both, and the raw replies are compared.

use std::net::SocketAddr;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::peer::RedisServer;
use forebay_integration::resp_wire::RespWire;

/// How two replies must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// Byte for byte.
    Exact,
    /// The same kind of reply: values that belong to a server (ids, times, sizes).
    Kind,
    /// Integers that lie close together: what is left of a TTL.
    Near,
    /// The same elements in any order.
    AnyOrder,
}

/// Redis and Forebay.
pub(crate) struct Servers {
    redis: RedisServer,
    forebay: Node,
}

/// One connection to each.
pub(crate) struct Pair {
    redis: RespWire,
    forebay: RespWire,
}

/// Replies that should have agreed.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) command: String,
    pub(crate) redis: String,
    pub(crate) forebay: String,
}

impl Servers {
    pub(crate) fn start() -> Self {
        Self { redis: RedisServer::start(), forebay: Node::start(NodeOptions::default()).unwrap() }
    }

    pub(crate) fn redis_addr(&self) -> SocketAddr {
        self.redis.addr()
    }

    pub(crate) fn forebay_addr(&self) -> SocketAddr {
        self.forebay.endpoints().resp
    }

    /// Fresh connections that speak RESP2, or RESP3 after HELLO.
    pub(crate) fn connect(&self, protocol: u8) -> Pair {
        let mut pair = Pair {
            redis: RespWire::connect(self.redis_addr()).unwrap(),
            forebay: RespWire::connect(self.forebay_addr()).unwrap(),
        };
        if protocol == 3 {
            for wire in [&mut pair.redis, &mut pair.forebay] {
                let reply = wire.call(&["HELLO", "3"]).unwrap();
                assert_eq!(reply.first(), Some(&b'%'), "HELLO 3: {}", reply.escape_ascii());
            }
        }
        pair
    }

    /// Empties both.
    pub(crate) fn clear(&self) {
        let mut pair = self.connect(2);
        for wire in [&mut pair.redis, &mut pair.forebay] {
            assert_eq!(wire.call(&["FLUSHALL"]).unwrap(), b"+OK\r\n");
        }
    }

    pub(crate) fn finish(self) {
        self.forebay.finish(&[]);
    }
}

impl Pair {
    /// Sends the command to both and compares.
    pub(crate) fn compare(&mut self, command: &[Vec<u8>], agreement: Agreement) -> Result<(), Difference> {
        let redis = self.redis.call(command).map_err(|error| error.to_string());
        let forebay = self.forebay.call(command).map_err(|error| error.to_string());
        let agree = match (&redis, &forebay) {
            (Ok(redis), Ok(forebay)) => agree(redis, forebay, agreement),
            (Err(_), Err(_)) => true,
            _ => false,
        };
        let show = |reply: Result<Vec<u8>, String>| {
            reply.map_or_else(|error| error, |bytes| bytes.escape_ascii().to_string())
        };
        if agree {
            return Ok(());
        }
        Err(Difference { command: show_command(command), redis: show(redis), forebay: show(forebay) })
    }
}

pub(crate) fn show_command(command: &[Vec<u8>]) -> String {
    let words = command.iter().map(|word| {
        let shown = word[..word.len().min(60)].escape_ascii().to_string();
        if word.is_empty() || shown.contains(' ') { format!("\"{shown}\"") } else { shown }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn agree(redis: &[u8], forebay: &[u8], agreement: Agreement) -> bool {
    let error = redis.starts_with(b"-") || forebay.starts_with(b"-");
    match agreement {
        _ if redis == forebay => true,
        Agreement::Exact => false,
        _ if error => false,
        Agreement::Kind => redis.first() == forebay.first(),
        Agreement::Near => match (integer(redis), integer(forebay)) {
            (Some(a), Some(b)) => a.abs_diff(b) <= 2_000 && (a < 0) == (b < 0),
            _ => false,
        },
        Agreement::AnyOrder => sorted_lines(redis) == sorted_lines(forebay),
    }
}

fn integer(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(reply).ok()?.strip_prefix(':')?.trim_end().parse().ok()
}

/// Good for replies whose elements hold no line ends.
fn sorted_lines(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = reply.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}
