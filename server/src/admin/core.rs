//! What the admin server asks of the node: one trait, so that handlers are tested without a disk.

use std::time::Duration;

use forebay_storage::store::Stats;

use crate::api::{Endpoints, FlushPage, Import, Mount, RecordedMount, Scrub, ScrubRequest};

/// Facts that do not change while the node runs.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Cluster, hex.
    pub(crate) cluster_id: String,
    /// This node's number.
    pub(crate) node_id: u64,
    /// `always` or `everysec`.
    pub(crate) sync: String,
    /// Addresses bound.
    pub(crate) listen: Endpoints,
}

/// What the upload workers have done since the start, and do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Uploads {
    /// Requests to origins under way.
    pub(crate) in_flight: u64,
    /// Changes that reached their origin.
    pub(crate) flushed_objects: u64,
    /// Bytes of their bodies.
    pub(crate) flushed_bytes: u64,
    /// Multipart uploads at origins that nobody wants, and that could not be given up yet.
    pub(crate) leftovers: u64,
    /// Of these, ones at origins that no mount names.
    pub(crate) unreachable: u64,
    /// Attempts that failed, by class of error.
    pub(crate) errors: Vec<(&'static str, u64)>,
    /// At the rate of the last minute, until nothing waits; none if nothing moves.
    pub(crate) clear_in: Option<Duration>,
}

/// What was asked of a mount's origin since the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct OriginTraffic {
    /// Path of the mount.
    pub(crate) mount: String,
    /// Operation, what came back, how many.
    pub(crate) requests: Vec<(&'static str, &'static str, u64)>,
    /// Bytes of bodies that have left.
    pub(crate) sent_bytes: u64,
    /// Bytes of objects that have arrived.
    pub(crate) received_bytes: u64,
}

/// Which rows of the flush queue are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowState {
    /// All.
    Any,
    /// On their way.
    Pending,
    /// Set aside.
    Parked,
}

/// Which parked rows are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which<'a> {
    /// All of them.
    All,
    /// Those of one key.
    Key {
        /// Bucket name.
        bucket: &'a str,
        /// Key bytes.
        key: &'a [u8],
    },
}

/// Why a request to the node failed, as the status it is answered with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CoreError {
    /// There is no such bucket, or no parked row of that key: 404.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense: 400.
    #[error("{0}")]
    Invalid(String),
    /// Something stands in the way that only its owner can remove: 409.
    #[error("{0}")]
    Conflict(String),
    /// Not now: 503.
    #[error("{0}")]
    Unavailable(String),
}

/// The node, as the admin server sees it.
///
/// Every future may be dropped: a wait ends; of a retry or abandon, the rows it had come to are changed.
pub(crate) trait Core: Send + Sync + 'static {
    /// Who this is.
    fn identity(&self) -> &Identity;
    /// Counters.
    fn stats(&self) -> Stats;
    /// Wall clock, milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
    /// Why this node cannot serve now. Never asks the origin, never waits.
    fn ready(&self) -> Result<(), String>;
    /// What the upload workers do.
    fn uploads(&self) -> Uploads;

    /// What was asked of the origins, those of forgotten mounts left out.
    fn origin_traffic(&self) -> Vec<OriginTraffic>;
    /// Mounts and how their origins stand.
    fn mounts(&self) -> Vec<Mount>;
    /// One page of the flush queue, at most `limit` rows after the cursor of an earlier page.
    fn flush_list(
        &self,
        state: RowState,
        after: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<FlushPage, CoreError>> + Send;
    /// Waits until all changes committed before are in their origin or parked, at most so long. Returns how
    /// many are not in the origin, and how many of those are parked.
    fn flush_wait(&self, timeout: Duration) -> impl Future<Output = Result<(u64, u64), CoreError>> + Send;
    /// Takes parked rows up again; returns how many.
    fn flush_retry(&self, which: Which<'_>) -> impl Future<Output = Result<u64, CoreError>> + Send;
    /// Gives the parked rows of one key up; returns how many. The origin keeps what it has.
    fn flush_abandon(
        &self,
        bucket: &str,
        key: &[u8],
        reason: &str,
    ) -> impl Future<Output = Result<u64, CoreError>> + Send;
    /// Mounts as they are recorded, configured or not.
    fn recorded_mounts(&self) -> Vec<RecordedMount>;
    /// Forgets a mount; with a reason to abandon, what waits for it is given up. Returns how many rows were. A
    /// dropped future may leave a mount that takes no more rows.
    fn forget_mount(
        &self,
        bucket: &str,
        prefix: &str,
        abandon: Option<&str>,
    ) -> impl Future<Output = Result<u64, CoreError>> + Send;
    /// How the last import of each mount stands.
    fn imports(&self) -> impl Future<Output = Result<Vec<Import>, CoreError>> + Send;
    /// Begins to import what a mount's origin holds, or joins the import under way, which goes on by itself.
    fn start_import(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> impl Future<Output = Result<Import, CoreError>> + Send;
    /// Ends the import of a mount; what was taken over stays. An error if none is under way.
    fn cancel_import(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> impl Future<Output = Result<Import, CoreError>> + Send;
    /// Begins a scrub; a conflict while one runs.
    fn start_scrub(&self, request: &ScrubRequest) -> Result<Scrub, CoreError>;
    /// The scrub that runs, or the last one.
    fn scrub(&self) -> Scrub;
    /// Ends the scrub that runs, soon.
    fn cancel_scrub(&self) -> Scrub;
}
