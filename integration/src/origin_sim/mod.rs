//! An S3 origin in memory that fails on command and remembers everything.
//!
//! Owns: the objects ([`buckets`]), the fault plan ([`fault`]), the record of every mutation in the order in
//! which it was applied ([`record`]), and a listener on its own thread, so that a test that blocks never
//! stops the origin.
//!
//! Does not own: what is right. `record` knows two rules that hold for every run (a key never goes back to
//! an older version, one mutation of a key in flight); the rest is the test's.
//!
//! Must hold: an object changes only under the state lock, and its record entry is written under the same
//! lock, so the record's order is the order in which the bucket changed.
//!
//! Signatures, expiry of presigned requests, checksums and `Content-MD5` are verified as a real service does.

pub mod buckets;
pub mod fault;
mod http;
pub mod line;
pub mod record;
mod service;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use buckets::{Buckets, StoredObject};
use fault::{FaultPlan, Op, Rule, RuleId};
use line::Line;
use record::{Change, Record, Source};

/// The only access key the origin knows.
pub const ACCESS_KEY_ID: &str = "origin-access-key";
/// Its secret.
pub const SECRET_ACCESS_KEY: &str = "origin-secret-key";
/// The region it signs for.
pub const REGION: &str = "us-east-1";

/// A running origin. Dropping it closes the listener and every connection.
pub struct OriginSim {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the listener, the S3 operations and the test share.
pub(crate) struct Shared {
    /// Objects and their record: one lock, because they must agree.
    pub(crate) state: Mutex<State>,
    /// Separate from `state`: it is asked before a request touches anything.
    pub(crate) plan: Mutex<FaultPlan>,
    /// Multipart uploads under way, by id. Taken before `state`.
    pub(crate) uploads: Mutex<HashMap<String, service::Upload>>,
    /// Requests held back by [`ApplyLate`](fault::Fault::ApplyLate) or [`Assemble`](fault::Fault::Assemble).
    pub(crate) held_back: AtomicUsize,
    /// Requests that arrived, by what they asked for.
    pub(crate) requests: Mutex<HashMap<Op, u64>>,
    /// The same once they are over, by the status that they were answered with, if they were.
    pub(crate) answers: Mutex<HashMap<(Op, Option<u16>), u64>>,
    /// GETs that were answered with bytes of an object.
    pub(crate) bodies_read: AtomicU64,
    /// How far away the origin is. Leaked: one a process.
    pub(crate) line: OnceLock<&'static Line>,
    started: Instant,
}

/// Objects and the record of how they came to be.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) buckets: Buckets,
    pub(crate) record: Record,
}

impl Shared {
    pub(crate) fn elapsed(&self) -> std::time::Duration {
        self.started.elapsed()
    }
}

impl OriginSim {
    /// Starts an origin on a free loopback port with the given buckets.
    pub fn start(bucket_names: &[&str]) -> io::Result<Self> {
        Self::start_on("127.0.0.1:0", bucket_names)
    }

    /// Starts an origin on `listen` (`host:port`, port 0 for a free one).
    pub fn start_on(listen: &str, bucket_names: &[&str]) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            plan: Mutex::default(),
            uploads: Mutex::default(),
            held_back: AtomicUsize::new(0),
            requests: Mutex::default(),
            answers: Mutex::default(),
            bodies_read: AtomicU64::new(0),
            line: OnceLock::new(),
            started: Instant::now(),
        });
        for name in bucket_names {
            shared.state.lock().buckets.create(name);
        }
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("origin-sim".to_owned())
            .spawn(move || http::serve(listener, serving, stopped))?;
        Ok(Self { addr, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The endpoint URL for a client's configuration.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Puts the origin at the other end of a line, for good.
    pub fn set_line(&self, line: Line) {
        let _ = self.shared.line.set(Box::leak(Box::new(line)));
    }

    /// Adds a rule to the fault plan; rules added later are asked first.
    pub fn add_fault(&self, rule: Rule) -> RuleId {
        self.shared.plan.lock().add(rule)
    }

    /// Removes one rule. Requests that it already holds back stay held back.
    pub fn remove_fault(&self, id: RuleId) {
        self.shared.plan.lock().remove(id);
    }

    /// Removes every rule.
    pub fn clear_faults(&self) {
        self.shared.plan.lock().clear();
    }

    /// How often a rule has struck.
    pub fn strikes(&self, id: RuleId) -> u64 {
        self.shared.plan.lock().strikes(id)
    }

    /// While true, every connection is closed as soon as it is accepted, and open ones at their next request.
    pub fn set_outage(&self, down: bool) {
        self.shared.plan.lock().outage = down;
    }

    /// Creates a bucket, as its owner would from elsewhere.
    pub fn create_bucket(&self, bucket: &str) {
        self.shared.state.lock().buckets.create(bucket);
    }

    /// Removes a bucket with everything in it.
    pub fn drop_bucket(&self, bucket: &str) {
        self.shared.state.lock().buckets.drop_bucket(bucket);
    }

    /// Somebody else writes `key`: no Forebay metadata, recorded as foreign.
    pub fn foreign_put(&self, bucket: &str, key: &str, body: impl Into<Bytes>) {
        self.shared.foreign_put(bucket, key, body.into());
    }

    /// Somebody else stores an object with all that belongs to it.
    pub fn foreign_store(&self, bucket: &str, key: &str, object: StoredObject) {
        self.shared.foreign_store(bucket, key, object);
    }

    /// Somebody else removes `key`.
    pub fn foreign_delete(&self, bucket: &str, key: &str) {
        let change = Change::delete(self.shared.elapsed(), bucket, key, Source::Foreign);
        let mut state = self.shared.state.lock();
        if state.buckets.delete(bucket, key) {
            state.record.push(change);
        }
    }

    /// Requests of this kind that have arrived so far, failed ones too.
    pub fn requests(&self, op: Op) -> u64 {
        self.shared.requests.lock().get(&op).copied().unwrap_or(0)
    }

    /// Requests that are over, by kind and status; none if they got no answer, be it that nobody waited for it.
    pub fn answers(&self) -> HashMap<(Op, Option<u16>), u64> {
        self.shared.answers.lock().clone()
    }

    /// GETs so far that were answered with bytes of an object.
    pub fn bodies_read(&self) -> u64 {
        self.shared.bodies_read.load(Ordering::Acquire)
    }

    /// The object as stored now.
    pub fn object(&self, bucket: &str, key: &str) -> Option<StoredObject> {
        self.shared.state.lock().buckets.get(bucket, key).cloned()
    }

    /// Every key of `bucket` that begins with `prefix`, in byte order, with its object.
    pub fn objects(&self, bucket: &str, prefix: &str) -> Vec<(String, StoredObject)> {
        self.shared.state.lock().buckets.with_prefix(bucket, prefix)
    }

    /// A copy of the record so far.
    pub fn record(&self) -> Record {
        self.shared.state.lock().record.clone()
    }

    /// Requests that [`ApplyLate`](fault::Fault::ApplyLate) or [`Assemble`](fault::Fault::Assemble) still holds
    /// back. One of the former that comes too late for its signature is refused when its time has come.
    pub fn held_back(&self) -> usize {
        self.shared.held_back.load(Ordering::Acquire)
    }

    /// Multipart uploads under way: their keys, and how many parts of each have arrived.
    pub fn uploads(&self) -> Vec<(String, usize)> {
        self.shared.uploads.lock().values().map(|upload| (upload.key.clone(), upload.parts.len())).collect()
    }

    /// Number of changes applied so far, to wait on.
    pub fn changes(&self) -> usize {
        self.shared.state.lock().record.changes().len()
    }
}

impl Shared {
    pub(crate) fn foreign_put(&self, bucket: &str, key: &str, body: Bytes) {
        self.foreign_store(bucket, key, StoredObject::plain(body));
    }

    pub(crate) fn foreign_store(&self, bucket: &str, key: &str, object: StoredObject) {
        let change = Change::put(self.elapsed(), bucket, key, &object, Source::Foreign);
        let mut state = self.state.lock();
        if state.buckets.put(bucket, key, object) {
            state.record.push(change);
        }
    }
}

impl Drop for OriginSim {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
