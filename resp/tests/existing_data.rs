//! Commands on keys that only an origin knows: what is looked up, when, and what stands in a pipeline around it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Client, LIMIT, Server, encode};
use forebay_resp::RespConfig;
use forebay_storage::flush::ChecksumMode;
use forebay_storage::mutation::MountMode;
use forebay_storage::node::{MountConfig, OriginBackend, OriginConfig, WRITE_THROUGH_TIMEOUT};
use forebay_storage::origin::memory::{Fault, MemoryOrigin, Operation};
use forebay_storage::origin::{ErrorClass, Landing, OriginError};
use forebay_storage::read::Lookup;

fn mount(origin: &Arc<MemoryOrigin>, mode: MountMode) -> MountConfig {
    MountConfig {
        bucket: "redis-0".into(),
        prefix: Vec::new(),
        origin: Some(OriginConfig {
            url: "s3://cloud/db".into(),
            prefix: "db/".into(),
            backend: OriginBackend::Custom(origin.clone()),
        }),
        flushall: false,
        min_interval: Duration::ZERO,
        fifo: false,
        checksums: ChecksumMode::Auto,
        mode,
        revalidate: None,
        write_through_timeout: WRITE_THROUGH_TIMEOUT,
        max_lag: None,
    }
}

/// A front end over an origin with these objects, and a client, once the origin was reached.
async fn start(origin: &Arc<MemoryOrigin>, mode: MountMode) -> (Server, Client) {
    origin.put_foreign("db/was-here", b"before");
    let mount = mount(origin, mode);
    let server = Server::with_storage(RespConfig::default(), |storage| storage.mounts = vec![mount]).await;
    let mut client = server.client().await;
    let limit = Instant::now() + LIMIT;
    loop {
        let reply = client.call("EXISTS was-here").await;
        if reply == ":1\r\n" {
            return (server, client);
        }
        assert!(Instant::now() < limit, "{reply}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Counts the calls of one kind.
fn count(origin: &MemoryOrigin, operation: Operation) -> Arc<AtomicUsize> {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    origin.set_hook(move |call| {
        counted.fetch_add(usize::from(call.operation == operation), Ordering::Relaxed);
        Fault::Ok
    });
    calls
}

fn refuse(origin: &MemoryOrigin, operations: &'static [Operation]) {
    origin.set_hook(move |call| match operations.contains(&call.operation) {
        true => Fault::Refuse(OriginError::new(ErrorClass::Throttled, Landing::NotApplied, "slow down")),
        false => Fault::Ok,
    });
}

#[tokio::test]
async fn one_round_of_look_ups_serves_a_pipeline_and_its_order_stays() {
    let origin = Arc::new(MemoryOrigin::capable());
    for key in ["db/a", "db/b", "db/c"] {
        origin.put_foreign(key, b"7");
    }
    let (server, mut client) = start(&origin, MountMode::WriteBack).await;
    let heads = count(&origin, Operation::Head);
    client
        .send("SET x 1\nGET a\nSET a 2\nGET a\nINCR b\nGET b\nDEL c\nGET c\nGET nothing\nGET x\nMGET a b c x")
        .await;
    assert_eq!(
        client.replies(11).await,
        "+OK\r\n$1\r\n7\r\n+OK\r\n$1\r\n2\r\n:8\r\n$1\r\n8\r\n:1\r\n$-1\r\n$-1\r\n$1\r\n1\r\n\
         *4\r\n$1\r\n2\r\n$1\r\n8\r\n$-1\r\n$1\r\n1\r\n"
    );
    // Each key at most once: what is known, or was found absent, is not asked again.
    let asked = heads.load(Ordering::Relaxed);
    client.send("GET a\nGET b\nGET c\nGET nothing\nGET x\nEXISTS a b c nothing x").await;
    client.replies(6).await;
    assert_eq!(heads.load(Ordering::Relaxed), asked);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn what_replaces_a_key_asks_nothing() {
    let origin = Arc::new(MemoryOrigin::capable());
    for key in ["db/a", "db/b", "db/c", "db/d"] {
        origin.put_foreign(key, b"foreign");
    }
    let (server, mut client) = start(&origin, MountMode::WriteBack).await;
    let refused = &[Operation::Head, Operation::List, Operation::Get, Operation::Put, Operation::Delete];
    refuse(&origin, refused);
    client.send("SET a 1\nSETEX b 100 1\nMSET c 1 new 1\nDEL d\nSET a 2 EX 100\nSET a 3 KEEPTTL").await;
    assert_eq!(client.replies(6).await, "+OK\r\n+OK\r\n+OK\r\n:1\r\n+OK\r\n+OK\r\n");
    assert_eq!(
        client.call("MGET a b c d new").await,
        "*5\r\n$1\r\n3\r\n$1\r\n1\r\n$1\r\n1\r\n$-1\r\n$1\r\n1\r\n"
    );
    for command in
        ["GET e", "SET e 1 NX", "SET e 1 GET", "INCR e", "RENAME e a", "COPY a e", "WATCH e", "FB.STAT e"]
    {
        let reply = client.call(command).await;
        assert!(reply.starts_with("-TRYAGAIN"), "{command}: {reply}");
    }
    // One that cannot be answered takes no other down.
    client.send("SET f 1\nGET e\nGET f\nMGET e f\nINCR f").await;
    let replies = [client.reply().await, client.reply().await, client.reply().await];
    assert!(replies[1].starts_with("-TRYAGAIN"), "{replies:?}");
    assert_eq!((&*replies[0], &*replies[2]), ("+OK\r\n", "$1\r\n1\r\n"));
    assert!(client.reply().await.starts_with("-TRYAGAIN"));
    assert_eq!(client.reply().await, ":2\r\n");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_transaction_knows_all_of_its_keys_before_it_runs() {
    let origin = Arc::new(MemoryOrigin::capable());
    for key in ["db/a", "db/b", "db/w"] {
        origin.put_foreign(key, b"1");
    }
    let (server, mut client) = start(&origin, MountMode::WriteBack).await;
    client.send("WATCH w\nMULTI\nINCR a\nGET b\nAPPEND nothing x\nEXEC").await;
    assert_eq!(client.replies(5).await, "+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n");
    assert_eq!(client.reply().await, "*3\r\n:2\r\n$1\r\n1\r\n:1\r\n");
    // A key that changes after WATCH fails it, one that is merely looked up again does not.
    client.send("WATCH w\nSET w 2\nMULTI\nGET w\nSET a 9\nEXEC").await;
    assert_eq!(client.replies(6).await, "+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*-1\r\n");
    // Nothing of it runs if one of its keys cannot be known.
    refuse(&origin, &[Operation::Head]);
    client.send("MULTI\nSET a 10\nGET unknown\nEXEC").await;
    client.replies(3).await;
    assert!(client.reply().await.starts_with("-TRYAGAIN"));
    assert_eq!(client.call("GET a").await, "$1\r\n2\r\n");
    origin.clear_hook();
    // In another database nothing is looked up.
    let heads = count(&origin, Operation::Head);
    client.send("MULTI\nSELECT 1\nINCR unknown\nCOPY unknown elsewhere DB 0\nSELECT 0\nEXEC").await;
    client.replies(5).await;
    assert_eq!(client.reply().await, "*4\r\n+OK\r\n:1\r\n:1\r\n+OK\r\n");
    assert!(heads.load(Ordering::Relaxed) <= 1, "of the copy's target alone");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn scans_go_on_from_their_cursors_and_see_the_writes_before_them() {
    let origin = Arc::new(MemoryOrigin::capable());
    for number in 0..2_300 {
        let name: &'static str = format!("db/k{number:04}").leak();
        origin.put_foreign(name, b"v");
    }
    let (server, mut client) = start(&origin, MountMode::WriteBack).await;
    // Nothing behind a KEYS is in its answer.
    client.send("SET k0000x 1\nDEL k0001\nKEYS k000*\nSET k0000y 1\nDEL k0002\nDBSIZE").await;
    assert_eq!(client.replies(2).await, "+OK\r\n:1\r\n");
    let keys = client.reply().await;
    for (key, listed) in
        [("k0000\r", true), ("k0000x", true), ("k0001", false), ("k0002", true), ("k0000y", false)]
    {
        assert_eq!(keys.contains(key), listed, "{key}: {keys:?}");
    }
    client.replies(3).await;
    let (mut cursor, mut found, mut calls) = ("0".to_owned(), 0, 0);
    loop {
        let page = client.call(&format!("SCAN {cursor} MATCH k* COUNT 10")).await;
        let mut lines = page.split("\r\n");
        cursor = lines.nth(2).expect("a cursor").to_owned();
        found += lines.filter(|line| line.starts_with('k')).count();
        calls += 1;
        // Writes between the pages hide nothing that stays.
        client.call(&format!("SET new{calls} 1")).await;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found, 2_300 + 2 - 2);
    assert!(calls < 10, "{calls} pages: an origin's page is not asked for in tens");
    refuse(&origin, &[Operation::List]);
    for command in ["KEYS *", "SCAN 0", "SCAN 0 MATCH k*"] {
        let reply = client.call(command).await;
        assert!(reply.starts_with("-TRYAGAIN"), "{command}: {reply}");
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_long_value_under_a_read_only_mount_is_refused_before_it_is_staged() {
    let origin = Arc::new(MemoryOrigin::capable());
    let (server, mut client) = start(&origin, MountMode::ReadOnly).await;
    let value = vec![b'x'; 3 << 20];
    let refused = "-NOPERM forebay: /redis-0 is a read-only mount\r\n";
    assert_eq!(client.call_args(&[b"SET", b"k", &value]).await, refused);
    assert_eq!(client.call_args(&[b"MSET", b"k", b"1", b"l", &value]).await, refused);
    assert_eq!(client.call_args(&[b"APPEND", b"k", &value]).await, refused);
    assert_eq!(server.store().stats().segment_bytes, 0, "nothing was staged");
    // Inside of MULTI too, which then fails.
    client.send("MULTI").await;
    assert_eq!(client.reply().await, "+OK\r\n");
    assert_eq!(client.call_args(&[b"SET", b"k", &value]).await, refused);
    assert!(client.call("EXEC").await.starts_with("-EXECABORT"));
    for command in
        ["SET k v", "DEL was-here", "INCR n", "EXPIRE was-here 10", "RENAME was-here k", "GETDEL was-here"]
    {
        assert_eq!(client.call(command).await, refused, "{command}");
    }
    assert_eq!(client.call("FLUSHDB").await, refused);
    assert_eq!(client.call("GET was-here").await, "$6\r\nbefore\r\n");
    client.send("SELECT 1\nSET k v\nSELECT 0\nCOPY was-here k DB 1").await;
    assert_eq!(client.replies(4).await, "+OK\r\n+OK\r\n+OK\r\n:0\r\n");
    drop(client);
    server.stop().await;
}

/// The flush of a change may take away at the origin what a command before it in the pipeline is to return.
#[tokio::test]
async fn what_a_pipeline_returns_is_fetched_before_it_is_replaced() {
    let origin = Arc::new(MemoryOrigin::capable());
    for key in ["db/a", "db/b", "db/c", "db/d", "db/e"] {
        origin.put_foreign(key, b"old");
    }
    let (server, mut client) = start(&origin, MountMode::WriteBack).await;
    // Known, and their bytes are there only.
    assert_eq!(client.call("EXISTS a b c d e").await, ":5\r\n");
    let bucket = server.store().bucket(b"redis-0").unwrap();
    for (key, pipeline, replies) in [
        ("a", "GET a\nSET a new\nGET a", "$3\r\nold\r\n+OK\r\n$3\r\nnew\r\n"),
        ("b", "SET x 1\nGET b\nSET b new", "+OK\r\n$3\r\nold\r\n+OK\r\n"),
        ("c", "GET x\nMGET x c\nDEL c", "$1\r\n1\r\n*2\r\n$1\r\n1\r\n$3\r\nold\r\n:1\r\n"),
        ("d", "SET x 2\nMGET x d\nDEL d", "+OK\r\n*2\r\n$1\r\n2\r\n$3\r\nold\r\n:1\r\n"),
        ("e", "SET e new GET", "$3\r\nold\r\n"),
    ] {
        let store = server.store();
        let version = move || match store.get(bucket, key.as_bytes()) {
            Ok(Lookup::Found(row)) => Some(row.version()),
            _ => None,
        };
        let (known, fetched) = (version(), Arc::new(AtomicUsize::new(0)));
        assert!(known.is_some());
        let (count, late) = (fetched.clone(), Arc::new(AtomicUsize::new(0)));
        let seen = late.clone();
        origin.set_hook(move |call| {
            if call.operation == Operation::Get {
                count.fetch_add(1, Ordering::Relaxed);
                seen.fetch_add(usize::from(version() != known), Ordering::Relaxed);
            }
            Fault::Ok
        });
        client.send(pipeline).await;
        assert_eq!(client.replies(pipeline.lines().count()).await, replies, "{pipeline}");
        assert!(fetched.load(Ordering::Relaxed) > 0, "{pipeline}: the bytes were not there only");
        assert_eq!(late.load(Ordering::Relaxed), 0, "{pipeline}: fetched after the write");
        origin.clear_hook();
        let limit = Some(Duration::from_secs(20));
        assert_eq!(server.store().flush_wait(None, limit).await.unwrap(), (0, 0));
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_long_value_is_added_to_one_that_only_the_origin_has() {
    let origin = Arc::new(MemoryOrigin::capable());
    origin.put_foreign("db/k", b"begin ");
    let (server, mut client) = start(&origin, MountMode::WriteBack).await;
    let value = vec![b'x'; 1 << 20];
    assert_eq!(client.call_args(&[b"APPEND", b"k", &value]).await, format!(":{}\r\n", (1 << 20) + 6));
    assert_eq!(client.call("GETRANGE k 0 7").await, "$8\r\nbegin xx\r\n");
    assert_eq!(client.call_args(&[b"SET", b"k", &value, b"NX"]).await, "$-1\r\n");
    client.send_bytes(&encode(&[b"MULTI"])).await;
    client.send_bytes(&encode(&[b"APPEND", b"other", &value])).await;
    client.send_bytes(&encode(&[b"EXEC"])).await;
    assert_eq!(client.replies(3).await, format!("+OK\r\n+QUEUED\r\n*1\r\n:{}\r\n", 1 << 20));
    drop(client);
    server.stop().await;
}
