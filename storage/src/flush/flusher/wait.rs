//! Waiting for changes to arrive at their origin.

use std::time::Duration;

use bytes::Bytes;

use super::{Flusher, Stage};
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

    /// Waits until every change of these keys up to `up_to` has reached the origin; such rows do not wait for
    /// `min_interval`. An error, for people, says why one has not: as soon as one is set aside, or when the timeout is
    /// over. The rows stay queued. The future may be dropped.
    pub async fn arrived(
        &self,
        up_to: Version,
        keys: &[(BucketId, Bytes)],
        timeout: Duration,
    ) -> Result<(), String> {
        let waiter = self.arrivals.wait_for(keys);
        let until = tokio::time::Instant::now() + timeout;
        // Once a key's changes up to there are settled they stay so.
        let mut rest: Vec<(BucketId, Bytes)> = keys.to_vec();
        let mut urged = false;
        loop {
            let parked = self.with_queue(|queue| {
                if !std::mem::replace(&mut urged, true) {
                    queue.urge(up_to, Some(keys));
                    self.wake.notify_one();
                }
                rest.retain(|key| queue.pending(up_to, Some(std::slice::from_ref(key))).rows > 0);
                let parked = queue.parked_len() > 0 && queue.pending(up_to, Some(&rest)).parked > 0;
                parked.then(|| why_pending(queue, &rest))
            });
            match parked {
                Some(Some(reason)) => return Err(reason),
                Some(None) if rest.is_empty() => return Ok(()),
                // Or the queue is not there yet.
                Some(None) | None => {}
            }
            if tokio::time::timeout_at(until, waiter.woken()).await.is_err() {
                let why = self.with_queue(|queue| why_pending(queue, &rest));
                let why = why.unwrap_or_else(|| "the flush queue is not worked yet".to_owned());
                return Err(format!("{why}; waited {timeout:?}"));
            }
        }
    }

    /// How long a writer waits for the mount's origin.
    pub(crate) fn write_through_timeout(&self, mount: MountId) -> Option<Duration> {
        self.mount(mount).map(|mount| mount.spec.write_through_timeout)
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
