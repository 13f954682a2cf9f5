//! F5: a long queue. Aim: a start does not wait for the queue, however long it is; while more is written than the
//! origin takes, the oldest goes first, nothing starves, the age of the oldest is shown, and beyond
//! `dirty_limit` writers are slowed by name until there is room again, and with `max_lag` before what waits becomes older.
//! Method: a queue of many rows and kill -9; an origin that takes its time with every PUT, and writers that do not wait
//! for it; an origin that is away for longer than `max_lag`.
//!
//! 50,000 rows, a million with `FOREBAY_LONG=1`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use forebay_integration::loadgen::resp::{Kind, Load, Order};
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Fault, Op, Rule};
use forebay_integration::origin_sim::record::{ChangeKind, OriginVersion};
use forebay_integration::resp_wire::RespWire;
use forebay_integration::wait;

use crate::written::{Api, CLOUD, Clients, Written};

const LIMIT: Duration = Duration::from_secs(300);
/// How soon a start serves, however long its queue.
const SERVES_WITHIN: Duration = Duration::from_secs(5);
const LOADED: &str = "flush queue loaded";

fn is_long() -> bool {
    std::env::var_os("FOREBAY_LONG").is_some()
}

/// What is seen of one start: writes and reads were answered, and the queue was not loaded yet.
fn serves_before_the_queue_is_loaded(node: &mut Node, rows: u64) -> bool {
    let before = node.log().len();
    let start = Instant::now();
    node.spawn().unwrap();
    node.wait_ready().unwrap();
    let ready = start.elapsed();
    let mut resp = node.resp();
    assert_eq!(resp.call(&["SET", "at-start", "1"]).unwrap(), b"+OK\r\n");
    assert_eq!(
        resp.call(&["GET", "key:000000000007"]).unwrap(),
        format!("$64\r\n{}\r\n", "x".repeat(64)).as_bytes()
    );
    assert_eq!(node.s3_wire().put("/redis-0/at-start-too", b"1").unwrap().status, 200);
    let served = start.elapsed();
    let loading = !node.log()[before..].contains(LOADED);
    assert_eq!(resp.call(&["DBSIZE"]).unwrap(), format!(":{}\r\n", rows + 2).as_bytes());
    assert!(node.metric("flush_pending_objects") >= rows as f64, "the queue is shown at once");
    // It may not say that everything has arrived before it knows what there is.
    let listed = node.forebay(&["flush", "ls"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(!listed.contains("nothing waits"), "{listed}");
    let waited = node.forebay(&["flush", "wait", "--timeout", "10ms"]).status.code();
    assert_ne!(waited, Some(0), "flush wait does not know of the queue");
    // What users are promised; in CI the machine is busy with all the other tests.
    assert!(!is_long() || served < SERVES_WITHIN, "served after {served:?}");
    wait::until_true("the queue is loaded", LIMIT, || node.log()[before..].contains(LOADED)).unwrap();
    eprintln!(
        "{rows} queued rows: ready after {ready:?}, a SET, a GET and a PUT answered after {served:?}, the queue \
         loaded {} {:?}",
        if loading { "later, within" } else { "before that, within" },
        start.elapsed()
    );
    loading
}

#[test]
fn f5_a_start_serves_before_its_queue_is_loaded_however_long_that_is() {
    const STARTS_MAX: usize = 10;
    let rows = if is_long() { 1_000_000 } else { 50_000 };
    let origin = OriginSim::start(&[CLOUD]).unwrap();
    let mut node = Node::start(NodeOptions::default().mount("/redis-0", &origin, "cloud/db")).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    origin.set_outage(true);
    let load = Load {
        addr: node.endpoints().resp,
        kind: Kind::Set,
        clients: 16,
        pipeline: 64,
        keys: rows,
        value_bytes: 64,
        duration: Duration::ZERO,
        order: Order::Sequential,
    };
    let report = load.run().unwrap();
    assert_eq!((report.ops, report.errors), (rows, 0));
    // The queue may be loaded by the time that the first answer was read: then once more.
    let served = (0..STARTS_MAX).any(|_| {
        node.kill();
        serves_before_the_queue_is_loaded(&mut node, rows)
    });
    assert!(served, "{STARTS_MAX} starts served nothing before the queue was loaded");
    node.kill();
    drains_oldest_first(&mut node, &origin, rows as usize);
}

/// Before how many older versions that arrived any of them went, at most, and how many were written at a start. What was
/// under way at a kill comes late: it waits for its fence.
fn out_of_turn(origin: &OriginSim) -> (usize, usize) {
    let record = origin.record();
    let puts = record.changes().iter().filter_map(|change| match &change.kind {
        ChangeKind::Put { version, .. } => {
            Some((OriginVersion::parse(version.as_deref()?)?, change.key.contains("at-start")))
        }
        ChangeKind::Delete => None,
    });
    let arrived: Vec<_> = puts.collect();
    let mut in_order: Vec<_> = arrived.iter().map(|(version, _)| *version).collect();
    in_order.sort();
    let turn = |version| in_order.partition_point(|earlier| *earlier < version);
    let ahead = arrived.iter().enumerate().map(|(at, (version, _))| turn(*version).saturating_sub(at));
    (ahead.max().unwrap_or(0), arrived.iter().filter(|(_, at_start)| *at_start).count())
}

/// The origin comes back: what was written first goes first.
fn drains_oldest_first(node: &mut Node, origin: &OriginSim, rows: usize) {
    /// So many uploads are under way at once and change places, and so many may have been under way at each kill.
    const AHEAD_MAX: usize = 512;
    /// A build for tests takes its time; what comes behind these has waited no longer.
    const ARRIVALS_IN_CI: usize = 10_000;
    let wanted = if is_long() { rows } else { ARRIVALS_IN_CI };
    origin.set_outage(false);
    let start = Instant::now();
    node.restart().unwrap();
    wait::until_true("the queue drains", 6 * LIMIT, || origin.changes() >= wanted).unwrap();
    let took = start.elapsed();
    if is_long() {
        node.flush_wait(LIMIT);
        assert!(origin.objects(CLOUD, "db/").len() >= rows, "something is missing");
    }
    node.kill();
    let (ahead, newest) = out_of_turn(origin);
    eprintln!(
        "{wanted} of {rows} rows arrived within {took:?} of the start, none before more than {ahead} older ones"
    );
    assert!(ahead <= AHEAD_MAX, "a version went before {ahead} older ones");
    assert!(is_long() || newest == 0, "what was written last went before what waited");
}

/// The numbers of keys `n…` that the origin has had, in the order of their first arrival.
fn arrivals(origin: &OriginSim) -> Vec<usize> {
    let record = origin.record();
    let mut seen = BTreeMap::new();
    let mut order = Vec::new();
    for change in record.changes() {
        let name = change.key.rsplit('/').next().unwrap_or_default();
        if let Some(number) = name.strip_prefix('n').and_then(|text| text.parse::<usize>().ok())
            && seen.insert(number, ()).is_none()
        {
            order.push(number);
        }
    }
    order
}

/// How many changes the origin applied between two arrivals of `key`, at most; from the beginning on.
fn longest_gap(origin: &OriginSim, key: &str) -> (usize, usize) {
    let (mut last, mut longest, mut count) = (0, 0, 0);
    for (at, change) in origin.record().changes().iter().enumerate() {
        if change.key == key && matches!(change.kind, ChangeKind::Put { .. }) {
            longest = longest.max(at - last);
            (last, count) = (at, count + 1);
        }
    }
    (longest, count)
}

#[test]
fn f5_writes_above_the_drain_rate_go_oldest_first_and_are_slowed_by_name() {
    const BODY_BYTES: usize = 2_000;
    /// With 256 bytes and the key for each change.
    const DIRTY_LIMIT: usize = 1 << 20;
    const BACKLOG_MAX: usize = DIRTY_LIMIT / BODY_BYTES;
    /// Uploads at once, and how far their ends may change places: far less than a backlog.
    const CONCURRENCY: usize = 4;
    const DISORDER_MAX: usize = 64;
    let objects = if is_long() { 10_000 } else { 1_600 };
    let origin = OriginSim::start(&[CLOUD]).unwrap();
    let options = NodeOptions::default()
        .set("dirty_limit", "\"1MiB\"")
        .set("flush.concurrency", &CONCURRENCY.to_string());
    let node = Node::start(Written::mounted(options, &origin)).unwrap();
    node.attach_mounts(&[Api::Resp.bucket(), Api::S3.bucket()], LIMIT);
    origin.add_fault(Rule::new(&[Op::Put], Fault::Slow(Duration::from_millis(60))));

    let mut written = Written::default();
    let mut clients = Clients::of(&node);
    let mut acknowledged: Vec<Instant> = Vec::new();
    let mut refusals = [0, 0];
    let mut oldest = Duration::ZERO;
    for number in 0..objects {
        let at = number % 2;
        let api = [Api::Resp, Api::S3][at];
        refusals[at] += written.write_patiently(&mut clients, api, &format!("n{number:05}"), BODY_BYTES);
        acknowledged.push(Instant::now());
        if number % 10 == 0 {
            refusals[0] += written.write_patiently(&mut clients, Api::Resp, "hot", BODY_BYTES);
        }
        if number % 100 == 99 {
            let asked = Instant::now();
            let age = Duration::from_secs_f64(node.metric("flush_oldest_pending_age_seconds"));
            oldest = oldest.max(age);
            let bytes = node.metric("flush_pending_bytes");
            assert!(bytes <= DIRTY_LIMIT as f64, "{bytes} bytes wait, the limit is {DIRTY_LIMIT}");
            // This one waits still: the oldest is at least as old.
            let arrived: std::collections::BTreeSet<usize> = arrivals(&origin).into_iter().collect();
            if let Some(first) = (0..=number).find(|number| !arrived.contains(number)) {
                let waits = asked.saturating_duration_since(acknowledged[first]);
                // Stamps are in whole milliseconds.
                assert!(
                    age + Duration::from_millis(20) >= waits,
                    "{age:?} shown, n{first} waits for {waits:?}"
                );
                let since =
                    acknowledged[first.saturating_sub(BACKLOG_MAX)].elapsed() + Duration::from_secs(1);
                assert!(age <= since.max(waits), "{age:?} shown, nothing is older than {since:?}");
            }
        }
    }
    // Most are slowed down before they meet the limit.
    let slowed = node.metric("writes_throttled_total{reason=\"dirty_limit\"}");
    assert!(slowed > 0.0, "nobody was slowed: {refusals:?}");
    node.flush_wait(LIMIT);
    written.check_origin(&origin);
    assert_eq!(node.metric("flush_oldest_pending_age_seconds"), 0.0);

    let order = arrivals(&origin);
    let off = order.iter().enumerate().map(|(at, number)| at.abs_diff(*number)).max().unwrap_or(0);
    assert!(off <= DISORDER_MAX, "a key arrived {off} places from its turn");
    let (gap, arrived) = longest_gap(&origin, "redis-0/hot");
    // However often it changes, it goes when what was written before its oldest change has gone.
    assert!(gap <= BACKLOG_MAX + DISORDER_MAX, "the key that always changes was passed by {gap} others");
    eprintln!(
        "{objects} objects: {slowed} slowed, {refusals:?} refused over RESP and S3, the oldest waited {oldest:?}, at most {off} places \
         out of turn; the hot key arrived {arrived} times, at most {gap} changes apart"
    );
    node.finish(&["origin", "flush", "dirty"]);
}

/// Writes until it is refused; the refusal.
fn refusal(resp: &mut RespWire, after: Instant) -> String {
    for number in 0.. {
        let reply = resp.call(&["SET", &format!("m{number}"), "1"]).unwrap();
        if reply != b"+OK\r\n" {
            return reply.escape_ascii().to_string();
        }
        assert!(after.elapsed() < LIMIT, "{number} writes, and nothing is refused");
    }
    unreachable!()
}

#[test]
fn f5_an_origin_that_is_away_for_longer_than_max_lag_slows_and_then_refuses_writers_by_name() {
    let counted =
        |node: &Node, what: &str| node.metric(&format!("writes_{what}_total{{reason=\"max_lag\"}}"));
    let origin = OriginSim::start(&[CLOUD]).unwrap();
    let options =
        NodeOptions::default().mount("/redis-0", &origin, "cloud/db").mount_set("max_lag", "\"4s\"");
    let mut node = Node::start(options).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    node.create_bucket("local");
    let mut resp = node.resp();
    for _ in 0..2 {
        let mut s3 = node.s3_wire();
        assert_eq!((counted(&node, "throttled"), counted(&node, "rejected")), (0.0, 0.0));
        origin.set_outage(true);
        let said = refusal(&mut resp, Instant::now());
        assert!(said.starts_with("-OOM forebay: changes wait "), "{said}");
        assert!(said.contains(" for s3://cloud/db") && said.contains("max_lag 4s"), "{said}");
        assert!(counted(&node, "throttled") >= 1.0);
        assert_eq!(counted(&node, "rejected"), 1.0);
        let refused = s3.put("/redis-0/refused", b"1").unwrap();
        assert!(
            refused.status == 503 && refused.text().contains("<Code>SlowDown</Code>"),
            "{}",
            refused.text()
        );
        assert_eq!(counted(&node, "rejected"), 2.0);
        // Reads, deletes, and what waits for nobody go on.
        assert_eq!(resp.call(&["GET", "m0"]).unwrap(), b"$1\r\n1\r\n");
        assert_eq!(resp.call(&["DEL", "m0"]).unwrap(), b":1\r\n");
        assert_eq!(s3.put("/local/a", b"1").unwrap().status, 200);
        // Over a restart it is the changes' own age that counts.
        node.kill();
        node.restart().unwrap();
        resp = node.resp();
        wait::until_true("refused again", LIMIT, || {
            resp.call(&["SET", "late", "1"]).unwrap().starts_with(b"-OOM")
        })
        .unwrap();
        origin.set_outage(false);
        node.flush_wait(LIMIT);
        assert_eq!(resp.call(&["SET", "back", "1"]).unwrap(), b"+OK\r\n");
        node.flush_wait(LIMIT);
        node.kill();
        node.restart().unwrap();
        resp = node.resp();
    }
}
