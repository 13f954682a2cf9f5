//! What eviction and fills make of a skewed trace: the hit ratio, and the bytes written for each byte requested.
//!
//! Method: a real node with room for a quarter of its objects, an origin in memory; the objects are written once, then
//! clients read them by a zipf distribution and overwrite some. The first third of the requests warms up. Beside it the
//! same trace through a simulated cache that knows each object's last use and writes whatever it misses: per-object LRU.
//!
//! `integration/bench/run zipf`, or `cargo test --release -p forebay-storage --lib zipf -- --ignored --nocapture`;
//! `FOREBAY_TRACE=0.9,10` for one trace (skew, percent of writes).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::stories::{body, config, flushed, get, put_patiently};
use crate::io::Operation;
use crate::node::Node;
use crate::origin::memory::MemoryOrigin;

const CAPACITY: u64 = 256 << 20;
const POPULATION: u64 = 4 * CAPACITY;
const REQUESTS: usize = 24_000;
const CLIENTS: usize = 4;
/// Of all clients, so that fills, checkpoints and eviction keep up as they do with a real origin.
const REQUESTS_PER_SECOND: u32 = 500;

#[derive(Clone, Copy)]
struct Request {
    object: usize,
    write: bool,
}

struct Trace {
    lens: Vec<usize>,
    requests: Vec<Request>,
}

impl Trace {
    /// `skew`: the exponent; `writes`: percent.
    fn new(skew: f64, writes: u32) -> Trace {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut lens, mut total) = (Vec::new(), 0);
        while total < POPULATION {
            // From 8 KiB to 4 MiB, as many of each doubling.
            let len = (8192.0 * 2f64.powf(random.f64() * 9.0)) as usize;
            lens.push(len);
            total += len as u64;
        }
        let mut ranks: Vec<usize> = (0..lens.len()).collect();
        random.shuffle(&mut ranks);
        let mut sums = Vec::with_capacity(lens.len());
        let mut sum = 0.0;
        for rank in 1..=lens.len() {
            sum += (rank as f64).powf(-skew);
            sums.push(sum);
        }
        let request = |_| {
            let at = random.f64() * sum;
            let object = ranks[sums.partition_point(|sum| *sum < at).min(ranks.len() - 1)];
            Request { object, write: random.u32(0..100) < writes }
        };
        let requests = (0..REQUESTS).map(request).collect();
        Trace { lens, requests }
    }

    fn is_measured(number: usize) -> bool {
        number >= REQUESTS / 3
    }

    fn requested_bytes(&self) -> u64 {
        let measured = self.requests.iter().enumerate().filter(|(number, _)| Trace::is_measured(*number));
        measured.map(|(_, request)| self.lens[request.object] as u64).sum()
    }
}

#[derive(Default)]
struct Outcome {
    reads: u64,
    hits: u64,
    written: u64,
}

impl Outcome {
    fn print(&self, name: &str, requested: u64, more: &str) {
        println!(
            "  {name:<34} object hit ratio {:.3}, bytes written per byte requested {:.3}{more}",
            self.hits as f64 / self.reads as f64,
            self.written as f64 / requested as f64
        );
    }
}

/// Per-object LRU with the whole capacity for bodies.
fn simulate_lru(trace: &Trace) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut by_use, mut last_use): (BTreeMap<usize, usize>, HashMap<usize, usize>) = Default::default();
    let mut stored = 0;
    for (number, request) in trace.requests.iter().enumerate() {
        let (len, measured) = (trace.lens[request.object] as u64, Trace::is_measured(number));
        let before = last_use.insert(request.object, number);
        if let Some(before) = before {
            by_use.remove(&before);
        } else {
            stored += len;
        }
        by_use.insert(number, request.object);
        while stored > CAPACITY {
            let Some((_, object)) = by_use.pop_first() else { break };
            last_use.remove(&object);
            stored -= trace.lens[object] as u64;
        }
        if measured {
            outcome.reads += u64::from(!request.write);
            outcome.hits += u64::from(!request.write && before.is_some());
            outcome.written += if request.write || before.is_none() { len } else { 0 };
        }
    }
    outcome
}

async fn run(trace: &Arc<Trace>, unghosted: bool) -> (Outcome, String) {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    let mut config = config(dir.path(), &origin, CAPACITY);
    config.journal_file_bytes = 64 << 20;
    let node = Node::start(config).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    store.shared().fills.unghosted.store(unghosted, Relaxed);
    let bodies: Vec<_> = (0..trace.lens.len()).collect();
    for object in bodies {
        put_patiently(&store, bucket, &format!("k{object}"), &body(object, trace.lens[object])).await;
    }
    flushed(&store).await;
    let written = || store.shared().space.disk().metrics().of(Operation::Write).bytes.load(Relaxed);
    let next = Arc::new(AtomicUsize::new(0));
    let run_to = |end: usize| {
        let clients = (0..CLIENTS).map(|_| {
            let (store, trace, next) = (store.clone(), trace.clone(), next.clone());
            tokio::spawn(async move {
                let mut pace =
                    tokio::time::interval(Duration::from_secs(CLIENTS as u64) / REQUESTS_PER_SECOND);
                loop {
                    pace.tick().await;
                    let number = next.fetch_add(1, Relaxed);
                    if number >= end {
                        next.fetch_min(end, Relaxed);
                        return;
                    }
                    let Request { object, write } = trace.requests[number];
                    let key = format!("k{object}");
                    if write {
                        put_patiently(&store, bucket, &key, &body(object, trace.lens[object])).await;
                    } else {
                        let found = get(&store, bucket, &key).await.unwrap().unwrap();
                        assert_eq!(found.len(), trace.lens[object]);
                    }
                }
            })
        });
        futures_util::future::join_all(clients.collect::<Vec<_>>())
    };
    run_to(REQUESTS / 3).await;
    let (before, written_before) = (store.stats(), written());
    run_to(REQUESTS).await;
    flushed(&store).await;
    let (after, written_after) = (store.stats(), written());
    let hits = after.body_hits - before.body_hits;
    let outcome = Outcome {
        reads: hits + after.body_misses - before.body_misses,
        hits,
        written: written_after - written_before,
    };
    let mib = |after: u64, before: u64| (after - before) >> 20;
    let more = format!(
        " ({} blobs kept again, {} MiB copied forward, {} MiB given up, {} MiB from the origin)",
        after.fills_kept_total - before.fills_kept_total,
        mib(after.copied_forward_bytes, before.copied_forward_bytes),
        mib(after.evicted_capacity_bytes, before.evicted_capacity_bytes),
        mib(after.fill_bytes, before.fill_bytes),
    );
    drop(store);
    node.stop().await;
    (outcome, more)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints hit ratios and bytes written on a zipf trace at capacity; some six minutes"]
async fn zipf_trace_at_capacity() {
    let only = std::env::var("FOREBAY_TRACE").ok();
    for (skew, writes) in [(0.9, 0), (0.9, 10), (0.7, 0)] {
        if only.as_ref().is_some_and(|only| *only != format!("{skew},{writes}")) {
            continue;
        }
        let trace = Arc::new(Trace::new(skew, writes));
        let requested = trace.requested_bytes();
        println!(
            "zipf {skew}, {writes} % writes: {} objects, {} MiB, {} MiB of them fit; {} requests for {} MiB measured",
            trace.lens.len(),
            POPULATION >> 20,
            CAPACITY >> 20,
            REQUESTS - REQUESTS / 3,
            requested >> 20
        );
        simulate_lru(&trace).print("per-object LRU, simulated", requested, "");
        for (name, unghosted) in [("store, everything read is kept", true), ("store, ghost queue", false)] {
            let (outcome, more) = run(&trace, unghosted).await;
            outcome.print(name, requested, &more);
        }
    }
}
