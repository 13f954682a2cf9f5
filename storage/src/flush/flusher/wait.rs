//! Waiting for changes to arrive at their origin.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Flusher, Stage};
use crate::flush::arrivals::Waiter;
use crate::flush::contract::MountId;
use crate::flush::queue::{FlushQueue, Pending, RowState};
use crate::object::{BucketId, Version};

/// Least time between two looks of a wait at the queue.
const WAIT_PAUSE: Duration = Duration::from_millis(10);

impl Flusher {
    /// Waits until every change up to `up_to` (only those of `keys`, if given) has reached the origin,
    /// until nothing but parked rows is left of them, or until the timeout. Such rows do not wait for
    /// `min_interval`. `None` if this node does not work the queue. The future may be dropped.
    pub async fn wait(
        &self,
        up_to: Version,
        keys: Option<&[(BucketId, Bytes)]>,
        timeout: Duration,
    ) -> Option<Pending> {
        let until = tokio::time::Instant::now() + timeout;
        let mut changes = self.changes.subscribe();
        let mut urged = false;
        loop {
            changes.mark_unchanged();
            if let Stage::Running(queue) = &mut *self.stage.lock() {
                if !std::mem::replace(&mut urged, true) {
                    queue.urge(up_to, keys);
                    self.wake.notify_one();
                }
                let settled = match keys {
                    None => queue.settled(up_to),
                    Some(_) => {
                        let pending = queue.pending(up_to, keys);
                        pending.rows == pending.parked
                    }
                };
                if settled {
                    return Some(queue.pending(up_to, keys));
                }
            }
            let changed = async {
                // The sender lives as long as self.
                let _ = changes.changed().await;
                tokio::time::sleep(WAIT_PAUSE).await;
            };
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return self.with_queue(|queue| queue.pending(up_to, keys));
            }
        }
    }

    /// Watches changes of these keys up to `up_to` on their way to the origin; none of them waits for `min_interval`.
    pub(crate) fn arriving(self: &Arc<Self>, up_to: Version, keys: Vec<(BucketId, Bytes)>) -> Arriving {
        let waiter = self.arrivals.wait_for(keys);
        let since = tokio::time::Instant::now();
        let mut arriving = Arriving { flusher: self.clone(), waiter, up_to, since, urged: false };
        self.with_queue(|queue| arriving.urge(queue));
        arriving
    }

    /// How long a writer waits for the mount's origin.
    pub(crate) fn write_through_timeout(&self, mount: MountId) -> Option<Duration> {
        self.mount(mount).map(|mount| mount.spec.write_through_timeout)
    }
}

/// Changes on their way to their origins, and one who waits for them. Dropped, nobody does.
pub(crate) struct Arriving {
    flusher: Arc<Flusher>,
    waiter: Waiter,
    up_to: Version,
    since: tokio::time::Instant,
    urged: bool,
}

impl Arriving {
    /// Waits until every change of these of its keys has reached the origin. An error, for people, says why one has
    /// not: as soon as one is set aside, or when `timeout` has passed since the watch began. The rows stay queued. The
    /// future may be dropped.
    pub(crate) async fn wait(&mut self, keys: &[(BucketId, Bytes)], timeout: Duration) -> Result<(), String> {
        let until = self.since + timeout;
        // Once a key's changes up to there are settled they stay so.
        let mut rest: Vec<(BucketId, Bytes)> = keys.to_vec();
        loop {
            let flusher = self.flusher.clone();
            let parked = flusher.with_queue(|queue| {
                self.urge(queue);
                rest.retain(|key| queue.pending(self.up_to, Some(std::slice::from_ref(key))).rows > 0);
                let parked = queue.parked_len() > 0 && queue.pending(self.up_to, Some(&rest)).parked > 0;
                parked.then(|| why_pending(queue, &rest))
            });
            match parked {
                Some(Some(reason)) => return Err(reason),
                Some(None) if rest.is_empty() => return Ok(()),
                // Or the queue is not there yet.
                Some(None) | None => {}
            }
            if tokio::time::timeout_at(until, self.waiter.woken()).await.is_err() {
                let why = self.flusher.with_queue(|queue| why_pending(queue, &rest));
                let why = why.unwrap_or_else(|| "the flush queue is not worked yet".to_owned());
                return Err(format!("{why}; waited {timeout:?}"));
            }
        }
    }

    /// Lets all of them go at once, as soon as there is a queue.
    fn urge(&mut self, queue: &mut FlushQueue) {
        if !std::mem::replace(&mut self.urged, true) {
            queue.urge(self.up_to, Some(self.waiter.names()));
            self.flusher.wake.notify_one();
        }
    }
}

/// Why the first of these keys' rows is not in the origin, for people.
fn why_pending(queue: &FlushQueue, keys: &[(BucketId, Bytes)]) -> String {
    let rows = || keys.iter().flat_map(|(bucket, key)| queue.rows_of(*bucket, key));
    let parked = rows().find(|row| matches!(row.state, RowState::Parked { .. }));
    match parked.or_else(|| rows().next()).map(|row| row.state) {
        Some(RowState::Parked { reason }) => format!("set aside: {reason}"),
        Some(RowState::MountNotReady { reason }) => reason,
        Some(RowState::Waits { last_error: Some(error), .. }) => error,
        Some(RowState::Fenced { .. }) => "an earlier attempt may still be under way".to_owned(),
        Some(RowState::BehindBarrier { parked: Some(reason), .. })
        | Some(RowState::BehindOlderRows { parked: Some(reason), .. }) => {
            format!("an older change of its bucket is set aside: {reason}")
        }
        Some(RowState::BehindBarrier { .. } | RowState::BehindOlderRows { .. }) => {
            "older changes of its bucket go first".to_owned()
        }
        _ => "the origin has not answered yet".to_owned(),
    }
}
