//! What the worker shows: rows, and itself at one moment.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Flusher, Stage};
use crate::flush::queue::{MountHealth, RowPlace, RowView};
use crate::flush::status::{FlushStatus, MountStatus};
use crate::object::BucketId;
use crate::origin::ErrorClass;

impl Flusher {
    /// The rows of one key that have not reached the origin, oldest first: what `x-forebay-origin` says.
    pub fn rows_of(&self, bucket: BucketId, key: &[u8]) -> Vec<RowView> {
        self.with_queue(|queue| queue.rows_of(bucket, key)).unwrap_or_default()
    }

    /// At most `max` rows, oldest changes first, or parked ones only.
    pub fn list(&self, parked_only: bool, max: usize) -> Vec<RowView> {
        self.with_queue(|queue| queue.list(parked_only, max)).unwrap_or_default()
    }

    /// As [`Flusher::list`], from behind `after` on; with the place to go on from, if there may be more.
    pub fn page(
        &self,
        parked_only: bool,
        after: Option<RowPlace>,
        max: usize,
    ) -> (Vec<RowView>, Option<RowPlace>) {
        self.with_queue(|queue| queue.page(parked_only, after, max)).unwrap_or_default()
    }

    /// The worker at this moment.
    pub fn status(&self) -> FlushStatus {
        let now_ms = self.source.now_ms();
        let stage = self.stage.lock();
        let queue = match &*stage {
            Stage::Running(queue) => Some(queue),
            Stage::Stopped | Stage::Loading { .. } => None,
        };
        let known = self.mounts.iter().filter(|mount| !mount.state.lock().forgotten);
        let mounts = known.map(|mount| {
            let state = mount.state.lock().clone();
            let health = queue.and_then(|queue| queue.mount_health(mount.spec.id));
            MountStatus {
                id: mount.spec.id,
                origin: mount.shown_origin(),
                attached: state.attached,
                capabilities: state.capabilities,
                health: health
                    .unwrap_or(MountHealth::NotReady { reason: "the queue is not loaded".to_owned() }),
                last_success_ms: state.last_success_ms,
            }
        });
        let errors = ErrorClass::ALL.iter().zip(&self.counters.errors);
        FlushStatus {
            running: queue.is_some(),
            mounts: mounts.collect(),
            pending_objects: queue.map_or(0, |queue| queue.len()),
            leftover_uploads: (self.stale.len() + self.asked.due_len(Instant::now())) as u64,
            unreachable_uploads: self.out_of_reach().values().sum(),
            pending_bytes: queue.map_or(0, |queue| queue.bytes()),
            parked_objects: queue.map_or(0, |queue| queue.parked_len() as u64),
            in_flight: queue.map_or(0, |queue| queue.in_flight() as u64),
            oldest_age_ms: queue
                .and_then(|queue| queue.oldest_since_ms())
                .map(|since_ms| now_ms.saturating_sub(since_ms)),
            flushed_objects: self.counters.flushed_objects.load(Ordering::Relaxed),
            flushed_bytes: self.counters.flushed_bytes.load(Ordering::Relaxed),
            errors: errors.map(|(class, count)| (*class, count.load(Ordering::Relaxed))).collect(),
        }
    }
}
