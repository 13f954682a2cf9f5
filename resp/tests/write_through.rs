//! Pipelines to a write-through mount (PITFALLS 29): each write has an answer of its own, given when its origin has it,
//! and reads between writes are answered from their places however long an origin takes.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Client, LIMIT, Server};
use forebay_resp::RespConfig;
use forebay_storage::flush::ChecksumMode;
use forebay_storage::mutation::MountMode;
use forebay_storage::node::{MountConfig, OriginBackend, OriginConfig};
use forebay_storage::origin::memory::{Fault, MemoryOrigin, Operation};
use forebay_storage::origin::{ErrorClass, Landing, OriginError};

/// Long enough that a test which waits for it never ends in time.
const NEVER: Duration = Duration::from_secs(3600);

struct World {
    origin: Arc<MemoryOrigin>,
    server: Server,
    client: Client,
    /// Until it is set, keys that begin with `slow` do not reach the origin.
    released: Arc<AtomicBool>,
}

impl World {
    /// Database 0 is written through.
    async fn start(timeout: Duration) -> World {
        let (origin, released) = (Arc::new(MemoryOrigin::capable()), Arc::new(AtomicBool::new(false)));
        let mount = MountConfig {
            bucket: "redis-0".into(),
            prefix: Vec::new(),
            origin: Some(OriginConfig {
                url: "s3://cloud/db".into(),
                prefix: "db/".into(),
                backend: OriginBackend::Custom(origin.clone()),
            }),
            flushall: false,
            // Only what somebody waits for gets past this.
            min_interval: NEVER,
            fifo: false,
            checksums: ChecksumMode::Auto,
            mode: MountMode::WriteThrough,
            revalidate: None,
            write_through_timeout: timeout,
            max_lag: None,
        };
        let server = Server::with_storage(RespConfig::default(), |storage| {
            storage.mounts = vec![mount];
            storage.memtable_age = Duration::from_millis(50);
            storage.flush.retry_min = Duration::from_millis(5);
            storage.flush.retry_max = Duration::from_millis(50);
        })
        .await;
        let until = Instant::now() + LIMIT;
        while !server.store().mounts().iter().all(|mount| mount.attached) {
            assert!(Instant::now() < until, "the origin is not attached");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let holds = released.clone();
        origin.set_hook(move |call| {
            let held = call.key.starts_with("db/slow") && !holds.load(Ordering::Acquire);
            match held && call.operation == Operation::Put {
                true => {
                    Fault::Refuse(OriginError::new(ErrorClass::ServerError, Landing::NotApplied, "not now"))
                }
                false => Fault::Ok,
            }
        });
        let client = server.client().await;
        World { origin, server, client, released }
    }

    fn origin_has(&self, key: &str) -> bool {
        self.origin.body(&format!("db/{key}")).is_some()
    }

    async fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let until = Instant::now() + LIMIT;
        while !holds(self) {
            assert!(Instant::now() < until, "{what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn stop(self) {
        drop(self.client);
        self.server.stop().await;
    }
}

#[tokio::test]
async fn pitfall_29_a_write_that_is_set_aside_is_an_error_of_its_own() {
    let mut world = World::start(NEVER).await;
    // Somebody else has written there since.
    assert_eq!(world.client.call("SET theirs 1").await, "+OK\r\n");
    world.origin.put_foreign("db/theirs", b"foreign");
    let set_aside = |reply: &str| {
        reply.starts_with("-ERR forebay: stored here, not yet in origin (set aside: ")
            && reply.contains("did not write")
    };
    world
        .client
        .send(
            "SET a 1\nGET a\nSET theirs 2\nGET theirs\nMSET b 1 theirs 3\nSET a 2 GET\nINCR n\nGETSET theirs 4\nMGET \
             a b theirs n",
        )
        .await;
    assert_eq!(world.client.replies(2).await, "+OK\r\n$1\r\n1\r\n");
    let reply = world.client.reply().await;
    assert!(set_aside(&reply), "{reply}");
    assert_eq!(world.client.reply().await, "$1\r\n2\r\n", "it is here");
    let reply = world.client.reply().await;
    assert!(set_aside(&reply), "{reply}");
    assert_eq!(world.client.replies(2).await, "$1\r\n1\r\n:1\r\n");
    let reply = world.client.reply().await;
    assert!(set_aside(&reply), "{reply}");
    assert_eq!(world.client.reply().await, "*4\r\n$1\r\n2\r\n$1\r\n1\r\n$1\r\n4\r\n$1\r\n1\r\n");
    for key in ["a", "b", "n"] {
        assert!(world.origin_has(key), "{key} was acknowledged");
    }
    // A transaction has one answer, and so has each of several in a pipeline.
    world
        .client
        .send("MULTI\nSET c 1\nGET c\nEXEC\nMULTI\nSET d 1\nSET theirs 5\nEXEC\nMULTI\nSELECT 0\nSET theirs 6\nEXEC\nGET d")
        .await;
    assert_eq!(world.client.replies(3).await, "+OK\r\n+QUEUED\r\n+QUEUED\r\n");
    assert_eq!(world.client.reply().await, "*2\r\n+OK\r\n$1\r\n1\r\n");
    for _ in 0..2 {
        assert_eq!(world.client.replies(3).await, "+OK\r\n+QUEUED\r\n+QUEUED\r\n");
        let reply = world.client.reply().await;
        assert!(set_aside(&reply), "{reply}");
    }
    assert_eq!(world.client.reply().await, "$1\r\n1\r\n", "all of a transaction is here");
    assert!(world.origin_has("c"));
    world.stop().await;
}

#[tokio::test]
async fn pitfall_29_a_write_that_takes_too_long_takes_no_other_down() {
    let mut world = World::start(Duration::from_secs(3)).await;
    world
        .client
        .send("SET a 1\nSET slow 1\nSET b 1\nGET slow\nDEL a\nCLIENT REPLY SKIP\nSET slow 2\nSET c 1")
        .await;
    assert_eq!(world.client.reply().await, "+OK\r\n");
    let reply = world.client.reply().await;
    assert!(reply.starts_with("-ERR forebay: stored here, not yet in origin ("), "{reply}");
    assert!(reply.contains("waited 3s"), "{reply}");
    // These went at once: they did not begin to wait when it was their turn.
    let rest = world.client.replies(4).await;
    assert_eq!(rest, "+OK\r\n$1\r\n1\r\n:1\r\n+OK\r\n");
    assert!(world.origin_has("b") && world.origin_has("c") && !world.origin_has("a"));
    world.released.store(true, Ordering::Release);
    world.until("it stays queued, and arrives", |world| world.origin_has("slow")).await;
    world.stop().await;
}

/// A checkpoint waits for views up to 10 s, and then ends them.
#[tokio::test]
async fn reads_between_slow_writes_hold_nothing_and_are_answered_in_order() {
    let mut world = World::start(NEVER).await;
    let long = "x".repeat(10_000);
    world.client.send(&format!("SET long {long}\nSET n 1")).await;
    assert_eq!(world.client.replies(2).await, "+OK\r\n+OK\r\n");
    world
        .client
        .send("INCR n\nGET n\nSET slow 1\nGET slow\nSTRLEN long\nGETRANGE long 9998 -1\nSCAN 0 MATCH slo*\nSET n 7\nGET n")
        .await;
    world.until("the writes are applied", |world| world.server.store().stats().dirty_objects > 0).await;
    // Two more, so that the views' memtable is gone for sure.
    let mut other = world.server.client().await;
    other.send("SELECT 1").await;
    assert_eq!(other.reply().await, "+OK\r\n");
    for round in 0..2 {
        assert_eq!(other.call(&format!("SET round {round}")).await, "+OK\r\n");
        let index = world.server.store().stats().applied_index;
        world.until("a checkpoint", |world| world.server.store().stats().checkpoint_index >= index).await;
    }
    assert!(!world.origin_has("slow"));
    world.released.store(true, Ordering::Release);
    assert_eq!(world.client.replies(6).await, ":2\r\n$1\r\n2\r\n+OK\r\n$1\r\n1\r\n:10000\r\n$2\r\nxx\r\n");
    assert!(world.client.reply().await.contains("$4\r\nslow\r\n"));
    assert_eq!(world.client.replies(2).await, "+OK\r\n$1\r\n7\r\n");
    drop(other);
    world.stop().await;
}
