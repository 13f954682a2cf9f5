//! Bytes that no client sends. Aim: a clear answer, bounded memory, and a server that lives. Method: raw bytes;
//! where Redis 7.0 has an answer, ours is the same.

use std::time::Duration;

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::peer::RedisServer;
use forebay_integration::resp_wire::RespWire;
use forebay_integration::wait;

const MIB: u64 = 1 << 20;

fn lives(node: &Node) {
    assert_eq!(node.resp().call(&["PING"]).unwrap(), b"+PONG\r\n");
}

/// What comes back until the server closes, or until the client's own end was seen.
fn answer(addr: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut wire = RespWire::connect(addr).unwrap();
    // A server that closes early may refuse the rest: that is an answer too.
    let _ = wire.send(bytes);
    let _ = wire.finish_sending();
    wire.read_to_close().unwrap()
}

#[test]
fn malformed_requests_get_the_answers_of_redis() {
    let redis = RedisServer::start();
    let node = Node::start(NodeOptions::default()).unwrap();
    let digits = "9".repeat(70_000);
    let requests = [
        "*1\r\n*1\r\n*1\r\n$4\r\nPING\r\n".to_owned(),
        "*2147483648\r\n".to_owned(),
        "*99999999999999999999\r\n".to_owned(),
        "*x\r\n".to_owned(),
        "*1\r\n+PING\r\n".to_owned(),
        "*1\r\n$536870913\r\n".to_owned(),
        "*1\r\n$-1\r\n".to_owned(),
        "*1\r\n$x\r\n".to_owned(),
        "*-5\r\n*0\r\nPING\r\n".to_owned(),
        format!("*{digits}"),
        format!("*1\r\n${digits}"),
        "a".repeat(70_000),
        "SET k \"unbalanced\r\n".to_owned(),
        "SET k \"a\"b\r\n".to_owned(),
        "\r\n\r\n\nPING\r\n".to_owned(),
        "*2\r\n$4\r\nECHO\r\n$5\r\nhel".to_owned(),
    ];
    for request in &requests {
        let shown = &request[..request.len().min(60)];
        let expected = answer(redis.addr(), request.as_bytes());
        let found = answer(node.endpoints().resp, request.as_bytes());
        assert_eq!(found.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{shown:?}");
    }
    lives(&node);
    node.finish(&[]);
}

/// A browser that was made to send a request here must not have the rest of it carried out.
#[test]
fn an_http_request_ends_the_connection_before_its_body_is_read_as_commands() {
    let node = Node::start(NodeOptions::default()).unwrap();
    for method in ["POST", "GET"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\nSET k v\r\nPING\r\n");
        let said = answer(node.endpoints().resp, request.as_bytes());
        assert!(!said.ends_with(b"+PONG\r\n"), "{}", said.escape_ascii());
    }
    assert_eq!(node.resp().call(&["EXISTS", "k"]).unwrap(), b":0\r\n");
    node.finish(&["HTTP on the Redis port"]);
}

/// Redis 7.0 takes up to 2^31 arguments; ours are a million at most, so that a request stays bounded.
#[test]
fn more_than_a_million_arguments_are_refused() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let said = answer(node.endpoints().resp, b"*1048577\r\n");
    assert_eq!(said, b"-ERR Protocol error: invalid multibulk length\r\n");
    node.finish(&[]);
}

#[test]
fn a_million_nested_arrays_are_an_error_and_not_a_deep_recursion() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let said = answer(node.endpoints().resp, "*1\r\n".repeat(1_000_000).as_bytes());
    assert!(said.starts_with(b"-ERR Protocol error"), "{}", said.escape_ascii());
    lives(&node);
    node.finish(&[]);
}

#[test]
fn before_auth_requests_are_short() {
    let redis = RedisServer::start_with(&["--save", "", "--requirepass", "secret"]);
    let node = Node::start(NodeOptions::default().env("FOREBAY_PASSWORD", "secret")).unwrap();
    for request in
        ["*11\r\n", "*1\r\n$16385\r\n", "*10\r\n$16384\r\n", "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n*11\r\n"]
    {
        let expected = answer(redis.addr(), request.as_bytes());
        let found = answer(node.endpoints().resp, request.as_bytes());
        assert_eq!(found.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{request:?}");
    }
    node.finish(&[]);
}

#[test]
fn announced_lengths_cost_nothing_until_the_bytes_come() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let before = node.rss_bytes();
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let mut wire = node.resp();
        wire.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nonly these").unwrap();
        let mut many = node.resp();
        many.send(b"*1048576\r\n$1\r\na\r\n").unwrap();
        waiting.extend([wire, many]);
    }
    lives(&node);
    let grown = node.rss_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB for 400 half requests", grown / MIB);
    drop(waiting);
    lives(&node);
    node.finish(&[]);
}

#[test]
fn half_requests_and_slow_senders_disturb_nobody() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let mut slow = node.resp();
    for byte in b"*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$5\r\nvalue\r\n" {
        slow.send(&[*byte]).unwrap();
        let mut half = node.resp();
        half.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk").unwrap();
        drop(half);
        lives(&node);
    }
    assert_eq!(slow.reply().unwrap(), b"+OK\r\n");
    assert_eq!(node.resp().call(&["EXISTS", "k"]).unwrap(), b":0\r\n", "half a SET was applied");
    node.finish(&[]);
}

#[test]
fn a_client_that_never_reads_its_replies_is_held_back() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let mut wire = node.resp();
    assert_eq!(wire.call(&["SET", "big", &"x".repeat(60_000)]).unwrap(), b"+OK\r\n");
    let before = node.rss_bytes();
    let request = b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n".repeat(20_000);
    // 1.2 GB of replies that nobody reads: the sender gets stuck, or is cut off.
    let addr = node.endpoints().resp;
    let sender = std::thread::spawn(move || {
        let mut greedy = RespWire::connect(addr).unwrap();
        let _ = greedy.send(&request);
        greedy
    });
    let mut most = 0;
    let settled = wait::until("the replies no longer pile up", Duration::from_secs(30), || {
        let now = node.rss_bytes().saturating_sub(before);
        assert!(now < 256 * MIB, "{} MiB of replies are held for one client", now / MIB);
        let grew = now > most;
        most = most.max(now);
        if grew { Err("memory grows") } else { Ok(()) }
    });
    settled.unwrap();
    lives(&node);
    drop(sender.join().unwrap());
    lives(&node);
    node.finish(&["output buffer"]);
}

#[test]
fn one_connection_too_many_gets_the_answer_of_redis() {
    let node = Node::start(NodeOptions::default().set("resp.maxclients", "5")).unwrap();
    let full: Vec<RespWire> = (0..5).map(|_| node.resp()).collect();
    wait::until("the sixth connection is refused", Duration::from_secs(20), || {
        let said = answer(node.endpoints().resp, b"PING\r\n");
        if said == b"-ERR max number of clients reached\r\n" {
            Ok(())
        } else {
            Err(said.escape_ascii().to_string())
        }
    })
    .unwrap();
    drop(full);
    wait::until("there is room again", Duration::from_secs(20), || {
        let said = answer(node.endpoints().resp, b"PING\r\n");
        if said == b"+PONG\r\n" { Ok(()) } else { Err(said.escape_ascii().to_string()) }
    })
    .unwrap();
    node.finish(&["maxclients", "max number of clients"]);
}
