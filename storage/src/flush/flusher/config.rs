//! Settings of the flush worker, and the mounts that it works for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::flush::contract::MountId;
use crate::flush::queue::QueueConfig;
use crate::object::{BucketId, ClusterId};
use crate::origin::Origin;

/// Settings of the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlusherConfig {
    /// Whose mark objects carry in the origin.
    pub cluster: ClusterId,
    /// Settings of the queue.
    pub queue: QueueConfig,
    /// Time of an attempt before that of its bytes. Longer lets a slow origin answer; shorter makes the
    /// wait after a lost answer or a crash shorter.
    pub attempt_timeout: Duration,
    /// Bytes per second that a body may be expected to move at, at worst.
    pub least_bandwidth: u64,
    /// Longer bodies go by multipart upload, in parts of this length (or the client's). Shorter: less is sent
    /// again after a failure; longer: fewer requests.
    pub part_bytes: u64,
    /// Parts of one body that are sent at once.
    pub part_concurrency: usize,
    /// First and longest wait between two tries to attach or reach a mount.
    pub mount_retry: (Duration, Duration),
    /// How long attempts in flight may go on after a stop.
    pub stop_grace: Duration,
    /// Seed of the jitter of waits.
    pub seed: u64,
}

impl FlusherConfig {
    /// Defaults: 30 s an attempt and 256 KiB/s, mounts retried every 1 to 30 s, 5 s of grace.
    pub fn new(cluster: ClusterId) -> FlusherConfig {
        FlusherConfig {
            cluster,
            queue: QueueConfig::default(),
            attempt_timeout: Duration::from_secs(30),
            least_bandwidth: 256 * 1024,
            part_bytes: 8 << 20,
            part_concurrency: 4,
            mount_retry: (Duration::from_secs(1), Duration::from_secs(30)),
            stop_grace: Duration::from_secs(5),
            seed: 1,
        }
    }
}

/// One mount, as configured and recorded.
#[derive(Clone)]
pub struct MountSpec {
    /// Number, from its record in the log.
    pub id: MountId,
    /// Bucket.
    pub bucket: BucketId,
    /// Keys under it begin with this; not repeated in the origin.
    pub key_prefix: Bytes,
    /// The origin.
    pub origin: Arc<dyn Origin>,
    /// What origin keys begin with: empty, or ending in `/`.
    pub origin_prefix: String,
    /// The origin without that prefix, as the record names it: `s3://bucket`.
    pub origin_root: String,
    /// Whether the record says that the origin prefix is ours.
    pub attached: bool,
    /// `order = "fifo"`.
    pub fifo: bool,
    /// Least time between two uploads of one key.
    pub min_interval: Duration,
    /// Whether bodies travel with a checksum.
    pub checksums: ChecksumMode,
    /// Whether nothing is sent: rows from before wait.
    pub read_only: bool,
    /// Whether the record says that the origin held what this cluster had not put there.
    pub existing: bool,
    /// Whether others write into the origin.
    pub revalidate: bool,
    /// How long a writer waits for this origin, if the mount is write-through.
    pub write_through_timeout: Duration,
    /// How old its oldest change may become before writers are refused.
    pub max_lag: Option<Duration>,
}

/// Whether bodies travel to an origin with a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChecksumMode {
    /// Where the origin was seen to check it.
    #[default]
    Auto,
    /// Always: an origin that does not check it is not used.
    Required,
    /// Never, but for Content-MD5.
    None,
}
