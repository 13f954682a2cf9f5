//! Values over the inline threshold: staged while they arrive, streamed while they leave.

mod common;

use std::time::{Duration, Instant};

use common::{Client, LIMIT, Server, encode};
use forebay_resp::{RespConfig, Secret};
use tokio::io::AsyncReadExt;

/// The inline threshold in its default.
const THRESHOLD: usize = 64 * 1024;

/// `len` letters that follow from the seed.
fn letters(len: usize, seed: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed as u64);
    (0..len).map(|_| b'a' + (random.u8(..) & 15)).collect()
}

fn bulk(bytes: &[u8]) -> String {
    format!("${}\r\n{}\r\n", bytes.len(), String::from_utf8_lossy(bytes))
}

/// Compares without showing megabytes.
#[track_caller]
fn assert_same(reply: &str, expected: &str) {
    let differs = reply.bytes().zip(expected.bytes()).position(|(a, b)| a != b);
    assert!(
        reply == expected,
        "{} bytes {:?}..., expected {} bytes {:?}..., the first difference at {differs:?}",
        reply.len(),
        &reply[..reply.len().min(80)],
        expected.len(),
        &expected[..expected.len().min(80)]
    );
}

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn segment_bytes(server: &Server) -> u64 {
    server.store().stats().segment_bytes
}

#[tokio::test]
async fn values_on_both_sides_of_the_threshold_come_back() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for len in [THRESHOLD - 1, THRESHOLD, THRESHOLD + 1, 131_072, 1_000_000, 5_000_001] {
        let value = letters(len, len);
        assert_eq!(client.call_args(&[b"SET", b"k", &value]).await, "+OK\r\n");
        assert_eq!(client.call("STRLEN k").await, format!(":{len}\r\n"));
        assert_same(&client.call("GET k").await, &bulk(&value));
        for (start, end) in [(0, 0), (len - 1, len - 1), (60_000, 65_000), (1, len), (THRESHOLD, THRESHOLD)] {
            let range = value.get(start..(end + 1).min(len)).unwrap_or_default();
            assert_same(&client.call(&format!("GETRANGE k {start} {end}")).await, &bulk(range));
        }
        assert_same(&client.call("SUBSTR k -10 -1").await, &bulk(&value[len - 10..]));
    }
    server.stop().await;
}

/// The split falls into the head, the body, its end and what follows; the threshold is low, so that the whole
/// can be cut at each of its bytes.
#[tokio::test]
async fn pipeline_with_long_values_replies_alike_at_every_split() {
    let server =
        Server::with_storage(RespConfig::default(), |storage| storage.limits.inline_bytes = 50).await;
    let (long, longer) = (letters(51, 1), letters(120, 2));
    let mut pipeline = encode(&[b"SET", b"a", b"short"]);
    pipeline.extend(encode(&[b"SET", b"a", &long, b"EX", b"100"]));
    pipeline.extend(encode(&[b"GET", b"a"]));
    pipeline.extend(encode(&[b"MSET", b"a", &longer, b"b", b"2", b"c", &long]));
    pipeline.extend(encode(&[b"NOSUCH", &longer]));
    pipeline.extend(encode(&[b"SET", b"a", &longer, &long]));
    pipeline.extend(encode(&[b"MGET", b"a", b"b", b"c"]));
    let expected = format!(
        "+OK\r\n+OK\r\n{}+OK\r\n-ERR unknown command 'NOSUCH', with args beginning with: '{}' \r\n\
         -ERR syntax error\r\n*3\r\n{}{}{}",
        bulk(&long),
        String::from_utf8_lossy(&longer),
        bulk(&longer),
        bulk(b"2"),
        bulk(&long)
    );
    let mut client = server.client().await;
    client.stream.set_nodelay(true).expect("an option");
    for split in 1..pipeline.len() {
        client.send_bytes(&pipeline[..split]).await;
        tokio::task::yield_now().await;
        client.send_bytes(&pipeline[split..]).await;
        assert_eq!(client.replies(7).await, expected, "split at {split}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_command_that_sets_takes_long_values() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (one, two) = (letters(100_000, 1), letters(300_000, 2));
    let (ok, nil) = ("+OK\r\n", "$-1\r\n");
    assert_eq!(client.call_args(&[b"SET", b"k", &one, b"XX"]).await, nil);
    assert_eq!(client.call_args(&[b"SET", b"k", &one, b"NX", b"PX", b"500000"]).await, ok);
    assert_eq!(client.call_args(&[b"SET", b"k", &two, b"NX"]).await, nil);
    assert_same(&client.call_args(&[b"SET", b"k", &two, b"KEEPTTL", b"GET"]).await, &bulk(&one));
    assert_ne!(client.call("PTTL k").await, ":-1\r\n");
    assert_same(&client.call_args(&[b"GETSET", b"k", &one]).await, &bulk(&two));
    assert_eq!(client.call("PTTL k").await, ":-1\r\n");
    assert_eq!(client.call_args(&[b"SETEX", b"k", b"100", &two]).await, ok);
    assert_eq!(client.call("TTL k").await, ":100\r\n");
    assert_eq!(client.call_args(&[b"PSETEX", b"k", b"100000", &one]).await, ok);
    assert_eq!(client.call_args(&[b"SETNX", b"k", &two]).await, ":0\r\n");
    assert_eq!(client.call_args(&[b"SETNX", b"n", &two]).await, ":1\r\n");
    assert_eq!(client.call_args(&[b"MSETNX", b"x", &one, b"n", b"1"]).await, ":0\r\n");
    assert_eq!(client.call_args(&[b"MSETNX", b"x", &one, b"y", b"1"]).await, ":1\r\n");
    assert_eq!(client.call_args(&[b"MSET", b"x", &two, b"y", &one, b"z", b"1"]).await, ok);
    let all = format!("*5\r\n{}{}{nil}{}{}", bulk(&two), bulk(&one), bulk(b"1"), bulk(&two));
    assert_same(&client.call("MGET x y nothing z x").await, &all);
    assert_eq!(client.call_args(&[b"APPEND", b"z", &one]).await, ":100001\r\n");
    assert_eq!(client.call_args(&[b"APPEND", b"new", &one]).await, ":100000\r\n");
    assert_eq!(client.call("APPEND z tail").await, ":100005\r\n");
    let appended = [b"1", &one[..], b"tail"].concat();
    assert_same(&client.call("GET z").await, &bulk(&appended));
    assert_eq!(client.call_args(&[b"SETRANGE", b"z", b"3", &two]).await, ":300003\r\n");
    assert_eq!(client.call("SETRANGE z 400000 end").await, ":400003\r\n");
    let patched = [&appended[..3], &two[..], &[0; 99_997], b"end"].concat();
    assert_same(&client.call("GET z").await, &bulk(&patched));
    assert_eq!(client.call("COPY z copy").await, ":1\r\n");
    assert_eq!(client.call("RENAME z other").await, ok);
    assert_same(&client.call("GETDEL other").await, &bulk(&patched));
    assert_same(&client.call("GETEX copy PERSIST").await, &bulk(&patched));
    assert_eq!(client.call("GET other").await, nil);
    assert_eq!(client.call("INCR copy").await, "-ERR value is not an integer or out of range\r\n");
    assert_eq!(client.call("INCRBYFLOAT copy 1").await, "-ERR value is not a valid float\r\n");
    assert_eq!(client.call("OBJECT ENCODING copy").await, "$3\r\nraw\r\n");
    let usage = client.call("MEMORY USAGE copy").await;
    let usage: usize = usage.trim_matches([':', '\r', '\n']).parse().expect("a number");
    assert!(usage >= patched.len(), "{usage}");
    server.stop().await;
}

/// Each is answered as by Redis, and the next command of the connection works.
#[tokio::test]
async fn broken_commands_with_long_arguments_leave_the_stream_in_step_and_no_bytes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    assert_eq!(client.call("SET number 1").await, "+OK\r\n");
    let base = segment_bytes(&server);
    let long = letters(200_000, 3);
    let begins = String::from_utf8_lossy(&long[..128]).into_owned();
    let key_too_long = "-ERR forebay: key is 200000 bytes long, the limit is 1024\r\n".to_owned();
    let not_an_integer = "-ERR value is not an integer or out of range\r\n".to_owned();
    let wrong_arity = |name: &str| format!("-ERR wrong number of arguments for '{name}' command\r\n");
    let syntax = "-ERR syntax error\r\n".to_owned();
    let cases: Vec<(Vec<&[u8]>, String)> = vec![
        (vec![b"GET", b"a", &long], wrong_arity("get")),
        (vec![b"SET", &long], wrong_arity("set")),
        (vec![b"MSET", b"a", &long, b"b"], wrong_arity("mset")),
        (vec![b"SETEX", b"a", &long], wrong_arity("setex")),
        (vec![&long, b"a"], format!("-ERR unknown command '{begins}', with args beginning with: 'a' \r\n")),
        (
            vec![b"NOPE", b"a", &long],
            format!("-ERR unknown command 'NOPE', with args beginning with: 'a' '{}' \r\n", &begins[..124]),
        ),
        (vec![b"CONFIG", &long], format!("-ERR unknown subcommand '{begins}'. Try CONFIG HELP.\r\n")),
        (vec![b"SET", b"a", &long, b"NOPE"], syntax.clone()),
        (vec![b"SET", b"a", &long, b"EX", b"0"], "-ERR invalid expire time in 'set' command\r\n".into()),
        (vec![b"SET", b"a", &long, b"EX", &long], not_an_integer.clone()),
        (vec![b"SET", b"a", b"1", &long], syntax.clone()),
        (vec![b"SET", &long, b"1"], key_too_long.clone()),
        (vec![b"SET", &long, &long], key_too_long.clone()),
        (
            vec![b"SET", &[b'k'; 2000], &long],
            "-ERR forebay: key is 2000 bytes long, the limit is 1024\r\n".into(),
        ),
        (vec![b"MSET", b"a", &long, &long, b"1"], key_too_long.clone()),
        (vec![b"GET", &long], key_too_long.clone()),
        (vec![b"DEL", b"a", &long, b"b"], key_too_long),
        (vec![b"SETEX", b"a", b"x", &long], not_an_integer.clone()),
        (vec![b"SETEX", b"a", &long, b"1"], not_an_integer.clone()),
        (vec![b"SETRANGE", b"a", b"-1", &long], "-ERR offset is out of range\r\n".into()),
        (
            vec![b"SETRANGE", b"a", b"536870912", &long],
            "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n".into(),
        ),
        (vec![b"INCRBY", b"number", &long], not_an_integer.clone()),
        (vec![b"INCRBYFLOAT", b"number", &long], "-ERR value is not a valid float\r\n".into()),
        (vec![b"EXPIRE", b"number", &long], not_an_integer),
        (
            vec![b"ECHO", &long],
            "-ERR forebay: argument 1 of 'echo' is 200000 bytes long, the limit is 65536\r\n".into(),
        ),
    ];
    for (args, error) in cases {
        client.send_bytes(&encode(&args)).await;
        client.send("GET number\nEXISTS a").await;
        let name = String::from_utf8_lossy(&args[0][..args[0].len().min(10)]);
        assert_same(&client.replies(3).await, &format!("{error}$1\r\n1\r\n:0\r\n"));
        wait_for(&format!("{name} keeps bytes"), || segment_bytes(&server) == base).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn transactions_carry_long_values() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (one, two) = (letters(150_000, 1), letters(70_000, 2));
    client.send("SET c 1\nMULTI").await;
    client.send_bytes(&encode(&[b"SET", b"a", &one])).await;
    client.send("INCR c\nSELECT 3").await;
    client.send_bytes(&encode(&[b"MSET", b"a", &two, b"b", &one])).await;
    client.send("GET a\nSELECT 0\nEXEC\nGET a\nSTRLEN a").await;
    let queued = "+QUEUED\r\n".repeat(6);
    let expected = format!(
        "+OK\r\n+OK\r\n{queued}*6\r\n+OK\r\n:2\r\n+OK\r\n+OK\r\n{}+OK\r\n{}:150000\r\n",
        bulk(&two),
        bulk(&one)
    );
    assert_same(&client.replies(11).await, &expected);
    let base = segment_bytes(&server);

    // Given up by DISCARD, by WATCH, by an error in the queue.
    client.send("MULTI").await;
    client.send_bytes(&encode(&[b"SET", b"a", &two])).await;
    assert_eq!(client.replies(2).await, "+OK\r\n+QUEUED\r\n");
    assert!(segment_bytes(&server) > base);
    assert_eq!(client.call("DISCARD").await, "+OK\r\n");
    wait_for("DISCARD keeps bytes", || segment_bytes(&server) == base).await;
    let mut other = server.client().await;
    client.send("WATCH c\nMULTI").await;
    client.send_bytes(&encode(&[b"APPEND", b"a", &two])).await;
    assert_eq!(client.replies(3).await, "+OK\r\n+OK\r\n+QUEUED\r\n");
    assert_eq!(other.call("INCR c").await, ":3\r\n");
    assert_eq!(client.call("EXEC").await, "*-1\r\n");
    wait_for("a failed WATCH keeps bytes", || segment_bytes(&server) == base).await;
    client.send("MULTI\nNOPE").await;
    client.send_bytes(&encode(&[b"SET", b"a", &two])).await;
    client.send("EXEC").await;
    let replies = client.replies(4).await;
    assert!(replies.ends_with("+QUEUED\r\n-EXECABORT Transaction discarded because of previous errors.\r\n"));
    client.send("MULTI").await;
    client.send_bytes(&encode(&[b"GET", &two])).await;
    client.send("EXEC").await;
    let replies = client.replies(3).await;
    assert!(
        replies.ends_with("-EXECABORT Transaction discarded because of previous errors.\r\n"),
        "{replies}"
    );
    assert_eq!(segment_bytes(&server), base);
    assert_eq!(client.call("STRLEN a").await, ":150000\r\n");
    server.stop().await;
}

#[tokio::test]
async fn slow_sender_holds_up_nobody_and_gives_its_room_back() {
    let server = Server::start().await;
    let (mut slow, mut other) = (server.client().await, server.client().await);
    let base = segment_bytes(&server);
    slow.send("SET a 1\nGET a").await;
    slow.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$30000000\r\n").await;
    assert_eq!(slow.replies(2).await, "+OK\r\n$1\r\n1\r\n", "what came before is answered");
    slow.send_bytes(&letters(3_000_000, 1)).await;
    wait_for("nothing is staged", || segment_bytes(&server) > base).await;
    assert_eq!(other.call("SET a 2").await, "+OK\r\n");
    assert_eq!(other.call("GET a").await, "$1\r\n2\r\n");
    let written = server.store().stats().applied_index;
    assert!(written > 0);
    drop(slow);
    wait_for("a client that is gone keeps its room", || segment_bytes(&server) == base).await;
    assert_eq!(other.call("GET a").await, "$1\r\n2\r\n");
    server.stop().await;
}

#[tokio::test]
async fn lengths_that_are_only_announced_take_no_room() {
    let server =
        Server::with_storage(RespConfig::default(), |storage| storage.limits.capacity_bytes = 520 << 20)
            .await;
    let mut client = server.client().await;
    assert_eq!(client.call("SET a 1").await, "+OK\r\n");
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut announcer = server.client().await;
        announcer.send_bytes(b"PING\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\nthese").await;
        assert_eq!(announcer.reply().await, "+PONG\r\n");
        waiting.push(announcer);
    }
    assert_eq!(client.call_args(&[b"SET", b"a", &letters(20_000_000, 1)]).await, "+OK\r\n");
    server.stop().await;
}

#[tokio::test]
async fn client_that_stands_still_within_a_long_value_is_closed() {
    let config = RespConfig { stall_limit: Duration::from_millis(100), ..RespConfig::default() };
    let server = Server::with(config).await;
    let base = segment_bytes(&server);
    let mut client = server.client().await;
    client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$30000000\r\n").await;
    client.send_bytes(&letters(2_000_000, 1)).await;
    assert_eq!(client.until_closed().await, "");
    wait_for("a stalled client keeps its room", || segment_bytes(&server) == base).await;
    let mut reader = server.client().await;
    assert_eq!(reader.call_args(&[b"SET", b"a", &letters(50_000_000, 1)]).await, "+OK\r\n");
    reader.send("GET a").await;
    let mut list = server.client().await;
    let limit = Instant::now() + LIMIT;
    while list.call("CLIENT LIST").await.matches("id=").count() > 1 {
        assert!(Instant::now() < limit, "a reader that stands still is kept");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn long_value_that_does_not_fit_is_refused_and_the_rest_drained() {
    let server =
        Server::with_storage(RespConfig::default(), |storage| storage.limits.capacity_bytes = 8 << 20).await;
    let mut client = server.client().await;
    let value = letters(20_000_000, 1);
    for _ in 0..2 {
        client.send_bytes(&encode(&[b"SET", b"a", &value, b"NOPE"])).await;
        client.send("SET b 1\nGET b").await;
        let replies = client.replies(3).await;
        assert!(replies.starts_with("-OOM forebay: capacity "), "{replies}");
        assert!(replies.ends_with("\r\n+OK\r\n$1\r\n1\r\n"), "{replies}");
    }
    client.send("MULTI").await;
    client.send_bytes(&encode(&[b"SET", b"a", &value])).await;
    client.send("EXEC").await;
    let replies = client.replies(3).await;
    assert!(replies.contains("-OOM forebay: capacity "), "{replies}");
    assert!(
        replies.ends_with("-EXECABORT Transaction discarded because of previous errors.\r\n"),
        "{replies}"
    );
    assert_eq!(client.call_args(&[b"SET", b"a", &value[..1_000_000]]).await, "+OK\r\n");
    server.stop().await;
}

#[tokio::test]
async fn lengths_are_limited_as_by_redis() {
    let server =
        Server::with(RespConfig { password: Some(Secret::new("pw")), ..RespConfig::default() }).await;
    let mut client = server.client().await;
    client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$16385\r\n").await;
    assert_eq!(client.until_closed().await, "-ERR Protocol error: unauthenticated bulk length\r\n");
    let mut client = server.client().await;
    assert_eq!(client.call("AUTH pw").await, "+OK\r\n");
    client.send("SET a 1").await;
    client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870913\r\n").await;
    assert_eq!(client.until_closed().await, "+OK\r\n-ERR Protocol error: invalid bulk length\r\n");
    let mut client = server.client().await;
    assert_eq!(client.call("AUTH pw").await, "+OK\r\n");
    let error = "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n";
    assert_eq!(client.call("SETRANGE a 536870911 xy").await, error);
    assert_eq!(client.call("SETRANGE a 536870911 x").await, ":536870912\r\n");
    assert_eq!(client.call("APPEND a y").await, error);
    assert_eq!(client.call_args(&[b"APPEND", b"a", &letters(70_000, 1)]).await, error);
    assert_eq!(client.call("GETRANGE a -2 -1").await, "$2\r\n\0x\r\n");
    server.stop().await;
}

/// Method: the socket's buffers fill up long before the replies are sent; meanwhile the values are overwritten
/// and deleted.
#[tokio::test]
async fn slow_reader_gets_each_value_as_it_was_when_it_was_asked_for() {
    const GETS: usize = 12;
    let server = Server::with_storage(RespConfig::default(), |storage| {
        storage.memtable_age = Duration::from_millis(50);
    })
    .await;
    let (mut reader, mut writer) = (server.client().await, server.client().await);
    let value = letters(4_000_000, 1);
    assert_eq!(writer.call_args(&[b"SET", b"a", &value]).await, "+OK\r\n");
    for _ in 0..GETS {
        reader.send("GET a\nSTRLEN a").await;
    }
    // The first bytes are here: all of the batch is judged.
    let mut first = [0; 1];
    reader.stream.read_exact(&mut first).await.expect("a byte");
    for seed in 2..5 {
        assert_eq!(writer.call_args(&[b"SET", b"a", &letters(3_000_000, seed)]).await, "+OK\r\n");
    }
    assert_eq!(writer.call("DEL a").await, ":1\r\n");
    let written = server.store().stats().applied_index;
    wait_for("no checkpoint", || server.store().stats().checkpoint_index >= written).await;
    let expected = bulk(&value) + ":4000000\r\n";
    let mut rest = vec![0; expected.len() * GETS - 1];
    reader.stream.read_exact(&mut rest).await.expect("the rest");
    let all = [&first[..], &rest].concat();
    for reply in all.chunks(expected.len()) {
        assert_same(&String::from_utf8_lossy(reply), &expected);
    }
    assert_eq!(reader.call("GET a").await, "$-1\r\n");
    server.stop().await;
}

#[tokio::test]
async fn many_pipelined_reads_of_long_values_are_answered_in_order() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let values: Vec<Vec<u8>> = (0..4).map(|seed| letters(66_000 + seed * 1000, seed)).collect();
    for (n, value) in values.iter().enumerate() {
        assert_eq!(client.call_args(&[b"SET", format!("k{n}").as_bytes(), value]).await, "+OK\r\n");
    }
    let mut request = Vec::new();
    for n in 0..3000 {
        let key = format!("k{}", n % 4);
        request.extend(encode(&[b"GETRANGE", key.as_bytes(), b"65000", b"-1"]));
        request.extend(encode(&[b"GET", key.as_bytes()]));
        request.extend(encode(&[b"GET", b"nothing"]));
    }
    let (mut read, mut write) = client.stream.split();
    let sending = async { tokio::io::AsyncWriteExt::write_all(&mut write, &request).await };
    let receiving = async {
        for n in 0..3000 {
            let value = &values[n % 4];
            let expected = bulk(&value[65_000..]) + &bulk(value) + "$-1\r\n";
            let mut reply = vec![0; expected.len()];
            read.read_exact(&mut reply).await?;
            assert_same(&String::from_utf8_lossy(&reply), &expected);
        }
        Ok::<_, std::io::Error>(())
    };
    let (sent, received) = tokio::join!(sending, receiving);
    sent.expect("sent");
    received.expect("received");
    server.stop().await;
}

#[tokio::test]
async fn replies_that_are_not_wanted_take_their_long_values_with_them() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let value = letters(200_000, 1);
    assert_eq!(client.call_args(&[b"SET", b"a", &value]).await, "+OK\r\n");
    client.send("CLIENT REPLY SKIP\nGET a\nGET a\nCLIENT REPLY SKIP\nMGET a a\nPING").await;
    assert_same(&client.replies(2).await, &(bulk(&value) + "+PONG\r\n"));
    client.send("CLIENT REPLY OFF\nGET a\nGET a").await;
    client.send_bytes(&encode(&[b"GETSET", b"a", &value])).await;
    client.send("CLIENT REPLY ON\nSTRLEN a").await;
    assert_eq!(client.replies(2).await, "+OK\r\n:200000\r\n");
    server.stop().await;
}

#[tokio::test]
async fn long_appends_go_on_beyond_what_one_row_can_name() {
    let server =
        Server::with_storage(RespConfig::default(), |storage| storage.limits.inline_bytes = 50).await;
    let mut client = server.client().await;
    let mut expected = Vec::new();
    for n in 0..600 {
        let piece = letters(60 + n % 7, n);
        expected.extend_from_slice(&piece);
        assert_eq!(
            client.call_args(&[b"APPEND", b"a", &piece]).await,
            format!(":{}\r\n", expected.len()),
            "{n}"
        );
    }
    assert_same(&client.call("GET a").await, &bulk(&expected));
    server.stop().await;
}

/// Method: every byte of the value is turned over in the segments.
#[tokio::test]
async fn damaged_value_ends_the_connection_and_never_gives_a_wrong_byte() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let value = letters(3_000_000, 1);
    assert_eq!(client.call_args(&[b"SET", b"a", &value]).await, "+OK\r\n");
    assert_eq!(damage(server.directory(), &value[2_000_000..2_000_100]), 1);
    client.send("SET b 1\nGET a\nGET b").await;
    let received = client.until_closed().await;
    let whole = format!("+OK\r\n{}", bulk(&value));
    assert!(received.len() < 2_000_100 && whole.starts_with(&received), "{} bytes", received.len());
    let mut client: Client = server.client().await;
    assert_eq!(client.call("GET b").await, "$1\r\n1\r\n");
    server.stop().await;
}

/// Turns the first byte of `needle` over wherever it lies; returns how often.
fn damage(directory: &std::path::Path, needle: &[u8]) -> usize {
    let mut found = 0;
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("is listed").map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            let Some(at) = memchr::memmem::find(&bytes, needle) else { continue };
            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
            let turned = [bytes[at] ^ 0xff];
            std::os::unix::fs::FileExt::write_all_at(&file, &turned, at as u64).expect("is written");
            found += 1;
        }
    }
    found
}
