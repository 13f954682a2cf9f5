//! The scrub: looks whether everything that is kept is there and right, at a modest pace, and mends what it can.
//!
//! Owns the one job that may run, its pace, its progress and what it found. `extents` reads every extent that the
//! tables name; `rows` looks whether every row's bytes are here or in an origin, and adds up references and usage
//! (`keyspace/audit.rs`); `ask` asks origins; `mend` decides on what is damaged. Does not own how a place is given up
//! (`evict/`).
//!
//! What must hold:
//! - Nobody waits for a scrub: it reads pages of the committed tables, registers no view over one, and its sums follow
//!   the checkpoints. Memory: 10,000 damaged extents, [`FINDINGS_MAX`] findings, a page, 1 MiB of an extent.
//! - A finding is true of one commit: what changes while it looks is looked at again, never reported.
//! - Damaged bytes are given up only if their origin says that it holds them. All others are kept as they are, and
//!   reported.
//!
//! A crash leaves nothing: the job is in memory, and a start begins without one.

mod ask;
mod extents;
mod mend;
mod pace;
mod rows;
#[cfg(test)]
pub(crate) mod tests;
mod walk;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::store::{Shared, Store};
use ask::AskOrigins;
use pace::Pace;
use walk::{Step, Stop, Walk};

/// Findings that are listed; further ones are counted.
pub const FINDINGS_MAX: usize = 1000;
/// The slowest pace, in bytes a second: below, a scrub of anything would not end.
pub const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// How a scrub is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bytes read a second, at most; at least [`BYTES_PER_SECOND_MIN`]. More: done sooner; less: readers and writers
    /// notice less of it.
    pub bytes_per_second: u64,
    /// Whether origins are asked (HEAD) for every object of which bytes are only there.
    pub ask_origins: bool,
}

/// What a scrub is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrubPhase {
    /// Reads extents.
    Extents,
    /// Looks at rows.
    Rows,
    /// Looks at blobs, their reference counts and segments.
    Blobs,
    /// Mends.
    Mend,
}

impl ScrubPhase {
    const ALL: [ScrubPhase; 4] = [ScrubPhase::Extents, ScrubPhase::Rows, ScrubPhase::Blobs, ScrubPhase::Mend];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            ScrubPhase::Extents => "extents",
            ScrubPhase::Rows => "rows",
            ScrubPhase::Blobs => "blobs",
            ScrubPhase::Mend => "mend",
        }
    }
}

/// How a scrub ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScrubEnd {
    /// It came to the end. `trouble`: what could not be looked at.
    Done {
        /// `None`: nothing was left out.
        trouble: Option<String>,
    },
    /// Somebody ended it.
    Canceled,
    /// It could not go on.
    Failed(String),
}

/// What kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingKind {
    /// An extent cannot be read, or its checksums are wrong.
    Extent,
    /// Bytes of a row are neither here nor in an origin.
    Missing,
    /// An origin has something else than it is said to have.
    Origin,
    /// A segment's live bytes are not the sum of its places.
    Usage,
    /// A blob's reference count is not the number of rows that name it.
    References,
    /// A row that cannot be read.
    Row,
}

impl FindingKind {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            FindingKind::Extent => "extent",
            FindingKind::Missing => "missing",
            FindingKind::Origin => "origin",
            FindingKind::Usage => "usage",
            FindingKind::References => "references",
            FindingKind::Row => "row",
        }
    }
}

/// A piece of damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of which kind.
    pub kind: FindingKind,
    /// Bucket of the object that it is of, if one is known.
    pub bucket: Option<String>,
    /// Its key.
    pub key: Option<Bytes>,
    /// What is wrong, and what is to be done.
    pub what: String,
    /// Whether it has been put right.
    pub mended: bool,
}

/// How a scrub stands, or stood when it ended.
#[derive(Debug, Clone)]
pub struct ScrubStatus {
    /// How it is done.
    pub options: ScrubOptions,
    /// When it began, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When and how it ended; `None` while it runs.
    pub ended: Option<(u64, ScrubEnd)>,
    /// What it is at.
    pub phase: ScrubPhase,
    /// Bytes of extents that there were when it began.
    pub bytes_total: u64,
    /// Bytes of extents read.
    pub bytes_done: u64,
    /// Extents read.
    pub extents_done: u64,
    /// Objects that there were when it began.
    pub objects_total: u64,
    /// Rows looked at.
    pub rows_done: u64,
    /// Objects that an origin was asked for.
    pub asked: u64,
    /// What it found, up to [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many it found.
    pub findings_total: u64,
    /// How many of them are put right.
    pub mended_total: u64,
}

/// Counters since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ScrubCounts {
    pub(crate) running: bool,
    /// Bytes of extents read.
    pub(crate) bytes: u64,
    pub(crate) found: u64,
    pub(crate) mended: u64,
    /// When the last one came to its end, milliseconds since the Unix epoch; 0 if none has.
    pub(crate) done_ms: u64,
}

/// See the file's head. One per store.
#[derive(Default)]
pub(crate) struct Scrubber {
    /// The job that runs, or the last one. Held for a look only.
    last: Mutex<Option<Arc<Job>>>,
    bytes: AtomicU64,
    found: AtomicU64,
    mended: AtomicU64,
    done_ms: AtomicU64,
}

/// One scrub.
struct Job {
    options: ScrubOptions,
    pace: Pace,
    /// The node stops.
    stops: AtomicBool,
    started_ms: u64,
    bytes_total: u64,
    objects_total: u64,
    phase: AtomicU8,
    bytes_done: AtomicU64,
    extents_done: AtomicU64,
    rows_done: AtomicU64,
    asked: AtomicU64,
    found: Mutex<Found>,
    ended: Mutex<Option<(u64, ScrubEnd)>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Found {
    listed: Vec<Finding>,
    total: u64,
    mended: u64,
}

impl Job {
    fn new(shared: &Shared, options: ScrubOptions) -> Job {
        Job {
            options,
            pace: Pace::new(options.bytes_per_second),
            stops: AtomicBool::new(false),
            started_ms: shared.clock.now_ms(),
            bytes_total: shared.checkpointer.live_bytes(),
            objects_total: shared.registry.all().iter().map(|bucket| bucket.objects()).sum(),
            phase: AtomicU8::new(0),
            bytes_done: AtomicU64::new(0),
            extents_done: AtomicU64::new(0),
            rows_done: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            found: Mutex::default(),
            ended: Mutex::default(),
            thread: Mutex::default(),
        }
    }

    fn set_phase(&self, phase: ScrubPhase) {
        self.phase.store(phase as u8, Relaxed);
    }

    fn report(&self, shared: &Shared, finding: Finding) {
        let Finding { kind, bucket, key, what, mended } = &finding;
        let (kind, bucket, key) =
            (kind.as_str(), bucket.as_deref().unwrap_or(""), key.as_deref().unwrap_or(b""));
        let key = crate::object_name::encode_key(key);
        match mended {
            true => tracing::warn!(kind, bucket, %key, what, "the scrub found damage, and mended it"),
            false => tracing::error!(kind, bucket, %key, what, "the scrub found damage"),
        }
        let mut found = self.found.lock();
        found.total += 1;
        found.mended += u64::from(*mended);
        shared.scrubber.found.fetch_add(1, Relaxed);
        shared.scrubber.mended.fetch_add(u64::from(*mended), Relaxed);
        if found.listed.len() < FINDINGS_MAX {
            found.listed.push(finding);
        }
    }

    fn status(&self) -> ScrubStatus {
        let ended = self.ended.lock().clone();
        let found = self.found.lock();
        ScrubStatus {
            options: self.options,
            started_ms: self.started_ms,
            ended,
            phase: ScrubPhase::ALL[usize::from(self.phase.load(Relaxed))],
            bytes_total: self.bytes_total,
            bytes_done: self.bytes_done.load(Relaxed),
            extents_done: self.extents_done.load(Relaxed),
            objects_total: self.objects_total,
            rows_done: self.rows_done.load(Relaxed),
            asked: self.asked.load(Relaxed),
            findings: found.listed.clone(),
            findings_total: found.total,
            mended_total: found.mended,
        }
    }

    fn runs(&self) -> bool {
        self.ended.lock().is_none()
    }
}

impl Scrubber {
    pub(crate) fn counts(&self) -> ScrubCounts {
        ScrubCounts {
            running: self.last.lock().as_ref().is_some_and(|job| job.runs()),
            bytes: self.bytes.load(Relaxed),
            found: self.found.load(Relaxed),
            mended: self.mended.load(Relaxed),
            done_ms: self.done_ms.load(Relaxed),
        }
    }

    fn start(&self, shared: &Arc<Shared>, options: ScrubOptions) -> Result<()> {
        let runtime = Handle::try_current().map_err(|_| Error::Unavailable("a scrub needs a runtime"))?;
        let mut last = self.last.lock();
        if last.as_ref().is_some_and(|job| job.runs()) {
            return Err(Error::Unavailable("a scrub is running already"));
        }
        let job = Arc::new(Job::new(shared, options));
        let (weak, running) = (Arc::downgrade(shared), job.clone());
        let run = move || {
            let work = std::panic::AssertUnwindSafe(|| run(&weak, &running, runtime));
            let end = std::panic::catch_unwind(work)
                .unwrap_or_else(|_| ScrubEnd::Failed("the scrub panicked; see the log".to_owned()));
            let at_ms = weak.upgrade().map_or(running.started_ms, |shared| end_with(&shared, &end));
            *running.ended.lock() = Some((at_ms, end));
        };
        let thread = std::thread::Builder::new().name("scrub".to_owned()).spawn(run);
        *job.thread.lock() = Some(thread.map_err(|_| Error::Unavailable("no thread could be started"))?);
        *last = Some(job);
        Ok(())
    }

    /// Ends the job that runs, if one does, because the node stops. Blocks until it has ended.
    pub(crate) fn stop(&self) {
        let Some(job) = self.last.lock().clone() else { return };
        job.stops.store(true, Relaxed);
        job.pace.cancel();
        if let Some(thread) = job.thread.lock().take() {
            // A panic in it was caught.
            let _ = thread.join();
        }
    }
}

/// Returns when that was.
fn end_with(shared: &Shared, end: &ScrubEnd) -> u64 {
    shared.checkpointer.audits.end();
    let now_ms = shared.clock.now_ms();
    match end {
        ScrubEnd::Done { trouble } => {
            shared.scrubber.done_ms.store(now_ms, Relaxed);
            tracing::info!(trouble = trouble.as_deref().unwrap_or("none"), "a scrub has ended");
        }
        ScrubEnd::Canceled => tracing::info!("a scrub was ended early"),
        ScrubEnd::Failed(why) => tracing::error!(why, "a scrub could not go on"),
    }
    now_ms
}

fn run(shared: &Weak<Shared>, job: &Job, runtime: Handle) -> ScrubEnd {
    let mut walk = Walk::default();
    let ask = AskOrigins(runtime);
    loop {
        // Not held between two steps: a node that was dropped ends.
        let Some(shared) = shared.upgrade() else { return ScrubEnd::Canceled };
        match walk.step(&shared, job, &ask) {
            Ok(Step::More) => {}
            Ok(Step::Done { trouble }) => return ScrubEnd::Done { trouble },
            Err(Stop::Canceled) => return ScrubEnd::Canceled,
            Err(Stop::Failed(why)) => return ScrubEnd::Failed(why),
        }
    }
}

impl Store {
    /// Begins a scrub in the background; [`Error::Unavailable`] while one runs. Must be called inside a runtime.
    pub fn start_scrub(&self, options: ScrubOptions) -> Result<()> {
        let bytes_per_second = options.bytes_per_second.max(BYTES_PER_SECOND_MIN);
        self.shared().scrubber.start(self.shared(), ScrubOptions { bytes_per_second, ..options })
    }

    /// The scrub that runs, or the last one since the start.
    pub fn scrub_status(&self) -> Option<ScrubStatus> {
        let job = self.shared().scrubber.last.lock().clone();
        job.map(|job| job.status())
    }

    /// Ends the scrub that runs, soon; whether one did.
    pub fn cancel_scrub(&self) -> bool {
        let job = self.shared().scrubber.last.lock().clone().filter(|job| job.runs());
        if let Some(job) = &job {
            job.pace.cancel();
        }
        job.is_some()
    }
}
