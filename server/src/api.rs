//! The JSON of `/_/api/v1`, as the admin server writes and the command line reads it.
//!
//! Scripts depend on these names: fields are added, never renamed. Keys that are not UTF-8 are shown in
//! the reversible form that S3 clients see.

use serde::{Deserialize, Serialize};

/// What `forebay status` prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The one sentence to read: what would be lost, and when.
    pub(crate) exposure: String,
    /// Version of the binary.
    pub(crate) version: String,
    /// Identity of the cluster, hex.
    pub(crate) cluster_id: String,
    /// This node.
    pub(crate) node: Node,
    /// `always` or `everysec`.
    pub(crate) sync: String,
    /// On how many nodes an acknowledged write is.
    pub(crate) copies: u32,
    /// Addresses bound.
    pub(crate) listen: Endpoints,
    /// Objects kept.
    pub(crate) objects: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// What counts against `capacity_bytes`: bodies that are here, rows, and what is promised to arriving bodies.
    pub(crate) stored_bytes: u64,
    /// The limit, beyond which writes are refused.
    pub(crate) capacity_bytes: u64,
    /// The queue to the cloud.
    pub(crate) flush: FlushStatus,
    /// Mounts, in the order of the config.
    pub(crate) mounts: Vec<Mount>,
    /// Bytes on disk.
    pub(crate) disk: Disk,
}

/// A node of the cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Its number in the cluster.
    pub(crate) id: u64,
    /// Changes with every start.
    pub(crate) run_id: String,
    /// `leader` or `follower`.
    pub(crate) role: String,
    /// Whether it can serve.
    pub(crate) ready: bool,
    /// Milliseconds since its start.
    pub(crate) uptime_ms: u64,
    /// Raft term.
    pub(crate) term: u64,
    /// Last entry applied.
    pub(crate) applied_index: u64,
}

/// Addresses bound; also the content of `endpoints.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    /// RESP.
    pub(crate) resp: String,
    /// S3.
    pub(crate) s3: String,
    /// Admin.
    pub(crate) admin: String,
}

/// The queue to the cloud, in numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FlushStatus {
    /// Changes that have not reached their origin, parked ones included.
    pub(crate) pending_objects: u64,
    /// Bytes of those.
    pub(crate) pending_bytes: u64,
    /// What of them counts against `dirty_limit_bytes`: bodies, keys, and 256 for each change.
    pub(crate) charged_bytes: u64,
    /// The limit, beyond which writes are refused.
    pub(crate) dirty_limit_bytes: u64,
    /// Age of the oldest, milliseconds; 0 if there is none.
    pub(crate) oldest_age_ms: u64,
    /// Set aside, waiting for a hand.
    pub(crate) parked_objects: u64,
    /// Uploads and deletes under way.
    pub(crate) in_flight: u64,
    /// At the rate of the last minute, milliseconds until nothing waits; none if nothing moves.
    pub(crate) clear_in_ms: Option<u64>,
}

/// A mount and its origin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// `/bucket/prefix`.
    pub(crate) path: String,
    /// `write-back`, `write-through`, `read-only` or `local`.
    pub(crate) mode: String,
    /// `s3://bucket/prefix`; none for a local mount.
    pub(crate) origin: Option<String>,
    /// Whether the origin takes uploads; none for a local mount.
    pub(crate) up: Option<bool>,
    /// The same in words, with the cause; none for a local mount.
    pub(crate) state: Option<String>,
    /// When an upload last reached it, milliseconds since the Unix epoch.
    pub(crate) last_success_ms: Option<u64>,
}

/// Bytes on disk, by part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// Journal files, recycled ones included.
    pub(crate) journal_bytes: u64,
    /// Used pages of the checkpoint store.
    pub(crate) lmdb_used_bytes: u64,
    /// Segments of values over 512 bytes.
    pub(crate) segment_bytes: u64,
}

/// One page of `GET /_/api/v1/flush`. It may hold fewer rows than asked for; only a page without `next` is
/// the last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FlushPage {
    /// Rows of the queue.
    pub(crate) rows: Vec<FlushRow>,
    /// What to pass as `after` for the next page; none at the end.
    pub(crate) next: Option<String>,
}

/// One change that has not reached its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlushRow {
    /// Bucket.
    pub(crate) bucket: String,
    /// Key, as S3 clients see it.
    pub(crate) key: String,
    /// Version, hex.
    pub(crate) version: String,
    /// `put` or `delete`.
    pub(crate) kind: String,
    /// Whether it was a conditional write: nothing after it overtakes it.
    pub(crate) barrier: bool,
    /// Length of the body.
    pub(crate) bytes: u64,
    /// Milliseconds since its commit.
    pub(crate) age_ms: u64,
    /// `pending` or `parked`.
    pub(crate) state: String,
    /// Attempts that failed so far.
    pub(crate) failures: u32,
    /// Why it is not in its origin yet: why it is parked, or what it waits for.
    pub(crate) reason: Option<String>,
}

/// Answer of `POST /_/api/v1/flush/wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitAnswer {
    /// How it ended.
    pub(crate) outcome: WaitOutcome,
    /// Changes committed before the call that have not reached their origin, parked ones included.
    pub(crate) pending: u64,
    /// Those of them that are parked.
    pub(crate) parked: u64,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WaitOutcome {
    /// Everything is in the origin.
    Done,
    /// The time was over.
    Timeout,
    /// Something is set aside and waits for a hand.
    Parked,
}

impl WaitAnswer {
    /// Judges the numbers: something parked is told before a time-out, since waiting longer is no help.
    pub(crate) fn new(pending: u64, parked: u64) -> WaitAnswer {
        let outcome = match (pending, parked) {
            (0, _) => WaitOutcome::Done,
            (_, 0) => WaitOutcome::Timeout,
            _ => WaitOutcome::Parked,
        };
        WaitAnswer { outcome, pending, parked }
    }
}

/// Body of `POST /_/api/v1/flush/retry`: either all, or one key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryRequest {
    /// Every parked row.
    #[serde(default)]
    pub(crate) all: bool,
    /// Bucket of one key.
    #[serde(default)]
    pub(crate) bucket: Option<String>,
    /// The key.
    #[serde(default)]
    pub(crate) key: Option<String>,
}

/// Body of `POST /_/api/v1/flush/abandon`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AbandonRequest {
    /// Bucket.
    pub(crate) bucket: String,
    /// The key, whose parked rows are given up.
    pub(crate) key: String,
    /// Why; goes into the log.
    pub(crate) reason: String,
}

/// Answer of retry and abandon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    /// Rows taken up again, or given up.
    pub(crate) rows: u64,
}

/// Answer of `GET /_/api/v1/mounts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mounts {
    /// In the order in which they were first configured.
    pub(crate) mounts: Vec<RecordedMount>,
}

/// A mount as it is recorded, configured or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedMount {
    /// `/bucket/prefix`.
    pub(crate) path: String,
    /// `write-back`, `write-through`, `read-only` or `local`.
    pub(crate) mode: String,
    /// Where it goes; none for a local mount.
    pub(crate) origin: Option<String>,
    /// Whether the origin was reached, and may be written where the mode says so.
    pub(crate) attached: bool,
    /// Whether the origin held somebody's data when the mount came: what is not known here is looked up there.
    pub(crate) existing: bool,
    /// Whether it takes no more changes: it is being forgotten.
    pub(crate) leaving: bool,
    /// Changes that wait for it.
    pub(crate) queued: u64,
    /// How its origin stands, in words; none for a local mount.
    pub(crate) state: Option<String>,
}

/// Body of `POST /_/api/v1/mounts/forget`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForgetRequest {
    /// `/bucket/prefix`.
    pub(crate) path: String,
    /// Whether the changes that wait for it may be given up.
    #[serde(default)]
    pub(crate) abandon: bool,
    /// Why they are; goes into the log.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// Answer of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forgotten {
    /// Changes that were given up.
    pub(crate) abandoned: u64,
}

/// Answer of `GET /_/api/v1/import`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Imports {
    /// The last import of each mount that had one, or of the one that was asked for.
    pub(crate) imports: Vec<Import>,
}

/// How an import stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Import {
    /// `/bucket/prefix` of the mount.
    pub(crate) path: String,
    /// `running`, `done` or `cancelled`.
    pub(crate) state: ImportState,
    /// Objects that the origin has listed so far.
    pub(crate) listed_objects: u64,
    /// Objects taken over so far: those that were not known here.
    pub(crate) adopted_objects: u64,
    /// Name of the last object in the origin that it is done with.
    pub(crate) after: String,
    /// Why it waits, if it does: it goes on by itself.
    pub(crate) trouble: Option<String>,
}

/// Whether an import goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ImportState {
    /// Yes, also after a restart.
    Running,
    /// Everything was taken over.
    Done,
    /// It was ended before.
    Cancelled,
}

/// Body of `POST /_/api/v1/import/start` and `…/cancel`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportRequest {
    /// `/bucket/prefix` of the mount.
    pub(crate) path: String,
}

/// Body of `POST /_/api/v1/scrub/start`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScrubRequest {
    /// What it reads a second, at most; the config's without it.
    #[serde(default)]
    pub(crate) bytes_per_second: Option<u64>,
    /// Whether origins are asked for every object of which bytes are only there.
    #[serde(default)]
    pub(crate) ask_origins: bool,
}

/// The scrub that runs, or the last one since the node's start. Answer of `GET /_/api/v1/scrub`,
/// and of `POST` `…/start` and `…/cancel`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Scrub {
    /// How it stands.
    pub(crate) state: ScrubState,
    /// Why it did not come to its end, or what it could not look at.
    pub(crate) trouble: Option<String>,
    /// `extents`, `rows`, `blobs` or `mend`: what it is at, or was last.
    pub(crate) phase: String,
    /// When it began, milliseconds since the Unix epoch.
    pub(crate) started_ms: u64,
    /// When it ended.
    pub(crate) ended_ms: Option<u64>,
    /// What it reads a second, at most.
    pub(crate) bytes_per_second: u64,
    /// Whether origins are asked.
    pub(crate) ask_origins: bool,
    /// Bytes of extents that there were when it began.
    pub(crate) bytes_total: u64,
    /// Bytes of extents read.
    pub(crate) bytes_done: u64,
    /// Extents read.
    pub(crate) extents_done: u64,
    /// Objects that there were when it began.
    pub(crate) objects_total: u64,
    /// Rows looked at.
    pub(crate) rows_done: u64,
    /// Objects that an origin was asked for.
    pub(crate) asked: u64,
    /// Pieces of damage found.
    pub(crate) findings_total: u64,
    /// Those of them that are put right.
    pub(crate) mended_total: u64,
    /// The first thousand of them.
    pub(crate) findings: Vec<ScrubFinding>,
}

/// How a scrub stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ScrubState {
    /// There was none since the node's start.
    Never,
    /// It runs.
    Running,
    /// It came to its end.
    Done,
    /// Somebody ended it.
    Canceled,
    /// It could not go on.
    Failed,
}

/// A piece of damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScrubFinding {
    /// `extent`, `missing`, `origin`, `usage`, `references` or `row`.
    pub(crate) kind: String,
    /// Bucket of the object that it is of, if one is known.
    pub(crate) bucket: Option<String>,
    /// Its key, as S3 clients see it.
    pub(crate) key: Option<String>,
    /// What is wrong, and what is to be done.
    pub(crate) what: String,
    /// Whether it has been put right.
    pub(crate) mended: bool,
}

/// Every answer that is not a success.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    /// The cause, and what to do.
    pub(crate) error: String,
}
