//! Pipelines and transactions on the real core, through a socket.

mod common;

use std::time::{Duration, Instant};

use common::{Server, encode};
use forebay_resp::RespConfig;

#[tokio::test]
async fn reads_in_a_pipeline_see_exactly_the_writes_before_them() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("GET a\nSET a 1\nGET a\nINCR a\nGET a\nDEL a\nGET a\nEXISTS a\nSET a 3\nMGET a b").await;
    assert_eq!(
        client.replies(10).await,
        "$-1\r\n+OK\r\n$1\r\n1\r\n:2\r\n$1\r\n2\r\n:1\r\n$-1\r\n:0\r\n+OK\r\n*2\r\n$1\r\n3\r\n$-1\r\n"
    );
    server.stop().await;
}

#[tokio::test]
async fn pipeline_replies_alike_at_every_split() {
    let server = Server::start().await;
    let mut bytes = Vec::new();
    for args in [
        &[&b"SET"[..], b"k", b"v1"][..],
        &[b"GET", b"k"],
        &[b"APPEND", b"k", b"\r\n"],
        &[b"GETDEL", b"k"],
        &[b"NOPE", b"k"],
        &[b"EXISTS", b"k"],
    ] {
        bytes.extend_from_slice(&encode(args));
    }
    let expected = "+OK\r\n$2\r\nv1\r\n:4\r\n$4\r\nv1\r\n\r\n-ERR unknown command 'NOPE', with args beginning \
                    with: 'k' \r\n:0\r\n";
    for split in 1..bytes.len() {
        let mut client = server.client().await;
        client.stream.set_nodelay(true).expect("nodelay");
        client.send_bytes(&bytes[..split]).await;
        tokio::task::yield_now().await;
        client.send_bytes(&bytes[split..]).await;
        assert_eq!(client.replies(6).await, expected, "split at {split}");
    }
    server.stop().await;
}

#[tokio::test]
async fn ten_thousand_pipelined_commands_are_answered_in_order() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut bytes = Vec::new();
    for n in 0..10_000u32 {
        let value = n.to_string();
        bytes.extend_from_slice(&encode(&[b"SET", b"k", value.as_bytes()]));
        bytes.extend_from_slice(&encode(&[b"GET", b"k"]));
    }
    let (mut reading, mut writing) = client.stream.split();
    let mut received = Vec::new();
    let expected: String =
        (0..10_000u32).map(|n| format!("+OK\r\n${}\r\n{n}\r\n", n.to_string().len())).collect();
    let send = tokio::io::AsyncWriteExt::write_all(&mut writing, &bytes);
    let receive = async {
        while received.len() < expected.len() {
            assert!(tokio::io::AsyncReadExt::read_buf(&mut reading, &mut received).await.expect("reads") > 0);
        }
    };
    let (sent, ()) = tokio::time::timeout(common::LIMIT, async { tokio::join!(send, receive) })
        .await
        .expect("all replies in time");
    sent.expect("sent");
    assert!(received == expected.as_bytes(), "replies differ");
    server.stop().await;
}

#[tokio::test]
async fn old_value_commands_answer_with_what_was_before() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("SET a 1\nGETSET a 2\nSET a 3 GET\nSET a 4 XX GET\nSET b 1 XX GET\nGETDEL a\nGETDEL a").await;
    assert_eq!(client.replies(7).await, "+OK\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$-1\r\n$1\r\n4\r\n$-1\r\n");
    server.stop().await;
}

#[tokio::test]
async fn appends_of_one_pipeline_all_arrive_however_many() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for _ in 0..300 {
        client.send("APPEND log x").await;
    }
    client.send("STRLEN log\nSET log y\nGET log").await;
    let replies = client.replies(303).await;
    assert!(replies.starts_with(":1\r\n:2\r\n:3\r\n"), "{replies}");
    assert!(replies.ends_with(":300\r\n:300\r\n+OK\r\n$1\r\ny\r\n"), "{replies}");
    server.stop().await;
}

#[tokio::test]
async fn exec_runs_its_commands_at_their_places() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client
        .send("MULTI\nSET a 1\nGET a\nINCR a\nLPUSHX\nEXEC\nMULTI\nSET a 1\nGET a\nINCR a\nSTRLEN a\nEXEC")
        .await;
    assert_eq!(
        client.replies(12).await,
        "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n-ERR unknown command 'LPUSHX', with args beginning with: \r\n\
         -EXECABORT Transaction discarded because of previous errors.\r\n\
         +OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*4\r\n+OK\r\n$1\r\n1\r\n:2\r\n:1\r\n"
    );
    server.stop().await;
}

#[tokio::test]
async fn error_inside_exec_leaves_the_rest_done() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("MULTI\nSET a x\nINCR a\nSET a 5 EX 0\nSET b 1\nEXEC\nMGET a b").await;
    assert_eq!(
        client.replies(7).await,
        "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*4\r\n+OK\r\n\
         -ERR value is not an integer or out of range\r\n-ERR invalid expire time in 'set' command\r\n+OK\r\n\
         *2\r\n$1\r\nx\r\n$1\r\n1\r\n"
    );
    server.stop().await;
}

#[tokio::test]
async fn watch_lets_exec_fail_after_another_clients_write() {
    let server = Server::start().await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    for queued in ["SET a mine", "GET a"] {
        one.call("SET a 1").await;
        assert_eq!(one.call("WATCH a").await, "+OK\r\n");
        two.call("SET a theirs").await;
        one.send(&format!("MULTI\n{queued}\nEXEC\nGET a")).await;
        assert_eq!(one.replies(4).await, "+OK\r\n+QUEUED\r\n*-1\r\n$6\r\ntheirs\r\n");
        // The watch is used up.
        one.send(&format!("MULTI\n{queued}\nEXEC")).await;
        assert!(one.replies(3).await.contains("*1\r\n"), "{queued}");
    }
    server.stop().await;
}

#[tokio::test]
async fn exec_that_fails_does_not_switch_the_database() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("SET a 0\nWATCH a\nSET a 1\nMULTI\nSELECT 5\nSET a 2\nEXEC\nGET a").await;
    assert_eq!(
        client.replies(8).await,
        "+OK\r\n+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*-1\r\n$1\r\n1\r\n"
    );
    client.send("MULTI\nSELECT 5\nSET a 2\nEXEC\nGET a\nSELECT 0\nGET a").await;
    assert_eq!(
        client.replies(7).await,
        "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n+OK\r\n$1\r\n2\r\n+OK\r\n$1\r\n1\r\n"
    );
    server.stop().await;
}

#[tokio::test]
async fn watch_of_an_absent_key_in_a_missing_database_holds_until_it_is_created() {
    let server = Server::start().await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    one.send("SELECT 7\nWATCH a\nMULTI\nSET a 1\nEXEC").await;
    assert_eq!(one.replies(5).await, "+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    one.send("SELECT 8\nWATCH a").await;
    one.replies(2).await;
    two.send("SELECT 8\nSET a 1").await;
    two.replies(2).await;
    one.send("MULTI\nSET a 2\nEXEC\nGET a").await;
    assert_eq!(one.replies(4).await, "+OK\r\n+QUEUED\r\n*-1\r\n$1\r\n1\r\n");
    server.stop().await;
}

#[tokio::test]
async fn concurrent_increments_under_watch_lose_none() {
    const CLIENTS: u64 = 4;
    const ROUNDS: u64 = 25;
    let server = Server::start().await;
    server.client().await.call("SET counter 0").await;
    let mut tasks = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = server.client().await;
        tasks.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                loop {
                    client.call("WATCH counter").await;
                    let value = client.call("GET counter").await;
                    let value: u64 = value.split("\r\n").nth(1).expect("a value").parse().expect("a number");
                    client.send(&format!("MULTI\nSET counter {}\nEXEC", value + 1)).await;
                    if client.replies(3).await.ends_with("*1\r\n+OK\r\n") {
                        break;
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    let total = CLIENTS * ROUNDS;
    assert_eq!(server.client().await.call("GET counter").await, format!("$3\r\n{total}\r\n"));
    server.stop().await;
}

#[tokio::test]
async fn msetnx_sets_all_or_none() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("SET a 1\nMSETNX b 2 a 3\nMSETNX b 2 c 3\nMGET a b c").await;
    assert_eq!(client.replies(4).await, "+OK\r\n:0\r\n:1\r\n*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n");
    server.stop().await;
}

#[tokio::test]
async fn mget_never_sees_half_an_mset() {
    let server = Server::start().await;
    let mut writer = server.client().await;
    let mut reader = server.client().await;
    let writing = tokio::spawn(async move {
        for n in 0..300 {
            assert_eq!(writer.call(&format!("MSET x {n} y {n} z {n}")).await, "+OK\r\n");
        }
    });
    while !writing.is_finished() {
        let reply = reader.call("MGET x y z").await;
        let values: Vec<&str> = reply.split("\r\n").skip(1).collect();
        let [first, ..] = values.as_slice() else { panic!("{reply}") };
        if *first != "$-1" {
            assert!(values[1] == values[3] && values[3] == values[5], "{reply:?}");
        }
    }
    writing.await.expect("no panic");
    server.stop().await;
}

#[tokio::test]
async fn scan_returns_every_key_once_and_refuses_strange_cursors() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for n in 0..250 {
        client.send(&format!("SET key:{n} v")).await;
    }
    client.send("SET other v").await;
    client.replies(251).await;
    let mut seen = std::collections::BTreeSet::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.call(&format!("SCAN {cursor} MATCH key:* COUNT 40")).await;
        let lines: Vec<&str> = reply.split("\r\n").collect();
        cursor = lines[2].to_owned();
        for key in lines[4..].iter().filter(|line| line.starts_with("key:")) {
            assert!(seen.insert((*key).to_owned()), "{key} came twice");
        }
        if cursor == "0" {
            break;
        }
        // Another database knows nothing of it.
        client.call("SELECT 1").await;
        let refused = client.call(&format!("SCAN {cursor}")).await;
        assert_eq!(refused, format!("-ERR forebay: unknown SCAN cursor {cursor}, start again with 0\r\n"));
        client.call("SELECT 0").await;
    }
    assert_eq!(seen.len(), 250);
    assert_eq!(
        client.call("SCAN 12345").await,
        "-ERR forebay: unknown SCAN cursor 12345, start again with 0\r\n"
    );
    server.stop().await;
}

#[tokio::test]
async fn expired_key_is_gone_for_every_kind_of_read() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("SET a v PX 20\nSET b v").await;
    client.replies(2).await;
    let limit = Instant::now() + common::LIMIT;
    while client.call("EXISTS a").await != ":0\r\n" {
        assert!(Instant::now() < limit, "the key does not expire");
    }
    client.send("GET a\nTTL a\nTYPE a\nMGET a b\nKEYS *\nSETNX a w\nDBSIZE").await;
    assert_eq!(
        client.replies(7).await,
        "$-1\r\n:-2\r\n+none\r\n*2\r\n$-1\r\n$1\r\nv\r\n*1\r\n$1\r\nb\r\n:1\r\n:2\r\n"
    );
    server.stop().await;
}

#[tokio::test]
async fn flushall_empties_databases_and_no_other_bucket() {
    let server = Server::start().await;
    server.store().open_bucket(b"photos").await.expect("a bucket");
    let mut client = server.client().await;
    client.send("SET a 1\nSELECT 3\nSET a 1\nFB.USE photos\nSET a 1\nFLUSHALL\nGET a\nSELECT 0\nGET a\nSELECT 3\nGET a").await;
    assert_eq!(
        client.replies(11).await,
        "+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n$1\r\n1\r\n+OK\r\n$-1\r\n+OK\r\n$-1\r\n"
    );
    assert_eq!(client.call("FB.USE nowhere").await, "-ERR forebay: no such bucket\r\n");
    server.stop().await;
}

#[tokio::test]
async fn object_is_told_and_its_flush_waited_for() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client
        .send("SET a hello\nFB.STAT a\nFB.STAT b\nFB.FLUSHWAIT 1000\nFB.FLUSHWAIT 1000 a b\nFB.FLUSHWAIT -1")
        .await;
    assert_eq!(client.reply().await, "+OK\r\n");
    let stat = client.reply().await;
    for part in ["*14\r\n", "$7\r\nredis-0\r\n", "$5\r\nbytes\r\n:5\r\n", "-1\r\n", "$5\r\nlocal\r\n"] {
        assert!(stat.contains(part), "{part:?} in {stat:?}");
    }
    assert_eq!(client.replies(4).await, "$-1\r\n:0\r\n:0\r\n-ERR timeout is negative\r\n");
    server.stop().await;
}

#[tokio::test]
async fn values_that_have_left_memory_are_read_in_order() {
    const KEYS: usize = 200;
    let server = Server::with_storage(RespConfig::default(), |storage| {
        storage.memtable_age = Duration::from_millis(100);
        storage.cache_bytes = 64 << 10;
    })
    .await;
    let mut client = server.client().await;
    let value = |n: usize| format!("{n:04}").repeat(500);
    for n in 0..KEYS {
        let (key, value) = (format!("k{n}"), value(n));
        client.send_bytes(&encode(&[b"SET", key.as_bytes(), value.as_bytes()])).await;
        assert_eq!(client.reply().await, "+OK\r\n");
    }
    let written = server.store().stats().applied_index;
    let limit = Instant::now() + common::LIMIT;
    while server.store().stats().checkpoint_index < written {
        assert!(Instant::now() < limit, "no checkpoint: {:?}", server.store().stats());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for n in 0..KEYS {
        client.send(&format!("GET k{n}\nSTRLEN k{n}")).await;
    }
    for n in 0..KEYS {
        assert_eq!(client.replies(2).await, format!("$2000\r\n{}\r\n:2000\r\n", value(n)));
    }
    let names: Vec<String> = (0..KEYS).rev().map(|n| format!("k{n}")).collect();
    let expected: String = (0..KEYS).rev().map(|n| format!("$2000\r\n{}\r\n", value(n))).collect();
    let names = names.join(" ");
    client.send(&format!("MGET {names}\nEXISTS {names} nothing\nAPPEND k7 !\nGETRANGE k7 1999 -1")).await;
    assert_eq!(client.replies(4).await, format!("*{KEYS}\r\n{expected}:{KEYS}\r\n:2001\r\n$2\r\n7!\r\n"));
    server.stop().await;
}
