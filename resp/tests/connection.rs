//! Connections: passwords, limits, hostile bytes, and how they end.

mod common;

use std::sync::Arc;

use common::{Client, LIMIT, Server, encode};
use forebay_resp::{RespConfig, Secret};
use tokio::io::AsyncReadExt;

const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";

#[tokio::test]
async fn nothing_but_a_login_works_before_auth() {
    let server =
        Server::with(RespConfig { password: Some(Secret::new("pw")), ..RespConfig::default() }).await;
    let mut client = server.client().await;
    assert_eq!(client.call("GET a").await, NOAUTH);
    assert_eq!(client.call("MULTI").await, NOAUTH);
    assert!(client.call("HELLO 3").await.starts_with("-NOAUTH HELLO must be called"));
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    assert_eq!(client.call("AUTH nope").await, wrong);
    assert_eq!(client.call("AUTH somebody pw").await, wrong);
    assert_eq!(client.call("AUTH pw").await, "+OK\r\n");
    assert_eq!(client.call("GET a").await, "$-1\r\n");
    assert_eq!(client.call("RESET").await, "+RESET\r\n");
    assert_eq!(client.call("GET a").await, NOAUTH);
    assert!(client.call("HELLO 3 AUTH default pw SETNAME me").await.starts_with("%7\r\n"));
    assert_eq!(client.call("CLIENT GETNAME").await, "$2\r\nme\r\n");
    assert_eq!(client.call("CONFIG GET requirepass").await, "%1\r\n$11\r\nrequirepass\r\n$0\r\n\r\n");
    server.stop().await;
}

#[tokio::test]
async fn large_requests_before_auth_end_the_connection() {
    let server =
        Server::with(RespConfig { password: Some(Secret::new("pw")), ..RespConfig::default() }).await;
    for (bytes, text) in [
        ("*11\r\n", "-ERR Protocol error: unauthenticated multibulk length\r\n"),
        ("*2\r\n$4\r\nAUTH\r\n$20000\r\n", "-ERR Protocol error: unauthenticated bulk length\r\n"),
    ] {
        let mut client = server.client().await;
        client.send_bytes(bytes.as_bytes()).await;
        assert_eq!(client.until_closed().await, text);
    }
    server.stop().await;
}

#[tokio::test]
async fn password_set_at_run_time_holds_for_new_clients() {
    let server = Server::start().await;
    let mut old = server.client().await;
    assert_eq!(old.call("CONFIG SET requirepass secret").await, "+OK\r\n");
    let mut new = server.client().await;
    assert_eq!(new.call("GET a").await, NOAUTH);
    assert_eq!(old.call("GET a").await, "$-1\r\n");
    assert_eq!(new.call("AUTH secret").await, "+OK\r\n");
    server.stop().await;
}

#[tokio::test]
async fn client_over_the_limit_is_told_and_closed() {
    let server = Server::with(RespConfig { max_clients: 2, ..RespConfig::default() }).await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    one.call("PING").await;
    two.call("PING").await;
    let mut three = server.client().await;
    assert_eq!(three.until_closed().await, "-ERR max number of clients reached\r\n");
    assert_eq!(one.call("CONFIG SET maxclients 3").await, "+OK\r\n");
    assert_eq!(server.client().await.call("PING").await, "+PONG\r\n");
    server.stop().await;
}

#[tokio::test]
async fn key_over_the_limit_is_refused_by_every_command() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (longest, too_long) = ("k".repeat(1024), "k".repeat(1025));
    assert_eq!(client.call(&format!("SET {longest} v")).await, "+OK\r\n");
    assert_eq!(client.call(&format!("GET {longest}")).await, "$1\r\nv\r\n");
    for command in [
        format!("SET {too_long} v"),
        format!("GET {too_long}"),
        format!("DEL a {too_long}"),
        format!("RENAME {longest} {too_long}"),
        format!("MSET a 1 {too_long} 2"),
        format!("EXPIRE {too_long} 1"),
        format!("WATCH {too_long}"),
    ] {
        assert_eq!(
            client.call(&command).await,
            "-ERR forebay: key is 1025 bytes long, the limit is 1024\r\n",
            "{}",
            &command[..12]
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn broken_protocol_is_answered_and_closed_after_the_replies_before_it() {
    let server = Server::start().await;
    for (bytes, text) in [
        ("SET a 1\r\n*x\r\n", "+OK\r\n-ERR Protocol error: invalid multibulk length\r\n"),
        ("*1\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
        ("GET \"a\r\nPING\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
        (&"*1\r\n".repeat(10_000), "-ERR Protocol error: expected '$', got '*'\r\n"),
    ] {
        let mut client = server.client().await;
        client.send_bytes(bytes.as_bytes()).await;
        assert_eq!(client.until_closed().await, text);
    }
    assert_eq!(server.client().await.call("GET a").await, "$1\r\n1\r\n");
    server.stop().await;
}

#[tokio::test]
async fn half_a_request_is_dropped_with_its_connection() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("SET a 1").await;
    client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n").await;
    assert_eq!(client.reply().await, "+OK\r\n");
    drop(client);
    assert_eq!(server.client().await.call("GET a").await, "$1\r\n1\r\n");
    server.stop().await;
}

#[tokio::test]
async fn replies_can_be_turned_off_and_skipped() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client
        .send("CLIENT REPLY SKIP\nSET a 1\nGET a\nCLIENT REPLY OFF\nSET a 2\nNOPE\nCLIENT REPLY ON\nGET a")
        .await;
    assert_eq!(client.replies(3).await, "$1\r\n1\r\n+OK\r\n$1\r\n2\r\n");
    server.stop().await;
}

#[tokio::test]
async fn killed_client_is_closed_and_leaves_the_list() {
    let server = Server::start().await;
    let (mut killer, mut victim) = (server.client().await, server.client().await);
    victim.call("CLIENT SETNAME victim").await;
    let id = victim.call("CLIENT ID").await.trim().trim_start_matches(':').to_owned();
    assert!(killer.call("CLIENT LIST").await.contains("name=victim"));
    assert_eq!(killer.call(&format!("CLIENT KILL ID {id}")).await, ":1\r\n");
    assert_eq!(victim.until_closed().await, "");
    wait_until(&mut killer, "CLIENT LIST", |list| !list.contains("name=victim")).await;
    assert_eq!(killer.call(&format!("CLIENT KILL ID {id}")).await, ":0\r\n");
    assert_eq!(killer.call("CLIENT KILL TYPE normal SKIPME no").await, ":1\r\n");
    assert_eq!(killer.until_closed().await, "");
    server.stop().await;
}

async fn wait_until(client: &mut Client, command: &str, holds: impl Fn(&str) -> bool) {
    let limit = std::time::Instant::now() + LIMIT;
    while !holds(&client.call(command).await) {
        assert!(std::time::Instant::now() < limit, "{command} never shows it");
    }
}

#[tokio::test]
async fn resp3_has_its_own_shapes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    assert!(client.call("HELLO 3").await.starts_with("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"));
    assert_eq!(client.call("GET nothing").await, "_\r\n");
    assert_eq!(
        client.call("CONFIG GET maxmemory-policy").await,
        "%1\r\n$16\r\nmaxmemory-policy\r\n$10\r\nnoeviction\r\n"
    );
    let info = client.call("INFO").await;
    assert!(info.starts_with('='), "{info}");
    for line in [
        "redis_version:7.0.15\r\n",
        "loading:0\r\n",
        "role:master\r\n",
        "aof_enabled:1\r\n",
        "maxmemory_policy:noeviction\r\n",
        "sync:always\r\n",
    ] {
        assert!(info.contains(line), "{line:?} in {info}");
    }
    server.stop().await;
}

#[tokio::test]
async fn info_counts_keys_by_database() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("SET a 1\nSET b 1\nSELECT 2\nSET c 1\nINFO keyspace").await;
    let replies = client.replies(5).await;
    assert!(replies.contains("# Keyspace\r\ndb0:keys=2,expires=0,avg_ttl=0\r\ndb2:keys=1,"), "{replies}");
    server.stop().await;
}

#[tokio::test]
async fn slow_reader_is_held_up_and_others_are_not() {
    let server = Server::start().await;
    let mut slow = server.client().await;
    slow.send_bytes(&encode(&[b"SET", b"big", &vec![b'x'; 60_000]])).await;
    assert_eq!(slow.reply().await, "+OK\r\n");
    // 600 MB of replies asked for and not read.
    let requests = encode(&[b"GET", b"big"]).repeat(10_000);
    let (mut reading, mut writing) = slow.stream.into_split();
    let sending = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writing, &requests).await.map(|()| writing)
    });
    let mut other = server.client().await;
    for _ in 0..100 {
        assert_eq!(other.call("STRLEN big").await, ":60000\r\n");
    }
    let list = other.call("CLIENT LIST").await;
    assert!(list.contains("cmd=client|list"), "{list}");
    // Now it reads, and everything comes.
    let (mut total, mut piece) = (0usize, vec![0; 1 << 20]);
    let whole = 10_000 * (60_000 + "$60000\r\n\r\n".len());
    while total < whole {
        total += match tokio::time::timeout(LIMIT, reading.read(&mut piece)).await {
            Ok(Ok(len)) if len > 0 => len,
            other => panic!("after {total} bytes: {other:?}"),
        };
    }
    assert_eq!(total, whole);
    sending.await.expect("no panic").expect("sent");
    server.stop().await;
}

#[tokio::test]
async fn shutdown_answers_what_was_received_and_closes() {
    let server = Server::start().await;
    let (mut idle, mut busy) = (server.client().await, server.client().await);
    idle.call("PING").await;
    busy.send("SET a 1").await;
    assert_eq!(busy.reply().await, "+OK\r\n");
    server.shutdown.cancel();
    assert_eq!(idle.until_closed().await, "");
    assert_eq!(busy.until_closed().await, "");
    server.stop().await;
}

#[tokio::test]
async fn shutdown_command_calls_the_node() {
    let asked = tokio_util::sync::CancellationToken::new();
    let hook = asked.clone();
    let config = RespConfig { on_shutdown: Some(Arc::new(move || hook.cancel())), ..RespConfig::default() };
    let server = Server::with(config).await;
    let mut client = server.client().await;
    assert_eq!(client.call("SHUTDOWN ABORT").await, "-ERR No shutdown in progress.\r\n");
    client.send("SHUTDOWN NOSAVE").await;
    assert_eq!(client.until_closed().await, "");
    assert!(asked.is_cancelled());
    server.stop().await;
    let server = Server::start().await;
    assert!(server.client().await.call("SHUTDOWN").await.starts_with("-ERR forebay: "));
    server.stop().await;
}

#[tokio::test]
async fn idle_clients_are_closed_after_the_timeout() {
    let server = Server::start().await;
    let (mut idle, mut busy) = (server.client().await, server.client().await);
    idle.call("PING").await;
    assert_eq!(busy.call("CONFIG SET timeout 1").await, "+OK\r\n");
    assert_eq!(idle.until_closed().await, "");
    server.stop().await;
}

#[tokio::test]
async fn binary_keys_and_values_come_back_as_they_were() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for key in [&b"\x00\xff\r\n"[..], b"", b"a/", b"a//b", b"/a", b"."] {
        client.send_bytes(&encode(&[b"SET", key, b"\x00\r\n\xfe"])).await;
        assert_eq!(client.reply().await, "+OK\r\n", "{key:?}");
        client.send_bytes(&encode(&[b"STRLEN", key])).await;
        assert_eq!(client.reply().await, ":4\r\n", "{key:?}");
    }
    assert_eq!(client.call("DBSIZE").await, ":6\r\n");
    server.stop().await;
}
