//! What the flush worker shows of itself: for the admin API, metrics, `flush ls` and INFO.
//!
//! Owns plain values; a snapshot is taken under the queue's lock and formatted outside.

use super::contract::MountId;
use super::queue::MountHealth;
use crate::origin::{Capabilities, ErrorClass};

/// The whole worker at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushStatus {
    /// Whether this node works the queue now; if not, the counts of rows are zero.
    pub running: bool,
    /// Rows that have not reached the origin.
    pub pending_objects: u64,
    /// Bytes of their bodies.
    pub pending_bytes: u64,
    /// Rows set aside among them.
    pub parked_objects: u64,
    /// Attempts in flight.
    pub in_flight: u64,
    /// Age of the oldest change that has not reached the origin, milliseconds.
    pub oldest_age_ms: Option<u64>,
    /// Versions that reached the origin since this process started, deletes included.
    pub flushed_objects: u64,
    /// Bytes of their bodies.
    pub flushed_bytes: u64,
    /// Attempts that ended in an error since this process started, by class.
    pub errors: Vec<(ErrorClass, u64)>,
    /// Multipart uploads at origins that nobody wants any more, and that could not be given up yet.
    pub leftover_uploads: u64,
    /// Of these and of those that may still be answered, ones at origins that no mount names.
    pub unreachable_uploads: u64,
    /// Every mount.
    pub mounts: Vec<MountStatus>,
}

/// One mount at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountStatus {
    /// Number.
    pub id: MountId,
    /// `s3://bucket/prefix`.
    pub origin: String,
    /// Whether the origin prefix is recorded as ours.
    pub attached: bool,
    /// What the origin was found to do, once it was probed.
    pub capabilities: Option<Capabilities>,
    /// Whether it takes rows.
    pub health: MountHealth,
    /// When a row last reached it, milliseconds since the Unix epoch.
    pub last_success_ms: Option<u64>,
}
