//! Stale uploads that no attempt of their key sees to: those that were never completed, those of keys without
//! changes of their own, and those that another mount's origin has.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Flusher, Mount};
use crate::flush::contract::{MountId, StaleTransfer};
use crate::flush::stale::Progress;
use crate::flush::upload::origin_key;

/// Longest wait without an event.
const IDLE: Duration = Duration::from_secs(3600);

impl Flusher {
    /// Gives them up at their origins, one after the other, for as long as it takes.
    pub(super) async fn give_up_leftovers(self: Arc<Self>) {
        loop {
            let mut wait = IDLE;
            // An origin that does not answer is not asked about the next one at once.
            let mut failed = HashSet::new();
            for stale in self.stale.all() {
                wait = wait.min(self.give_up(&stale, &mut failed).await.unwrap_or(IDLE));
            }
            tokio::select! {
                () = self.stale.added() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// When to look at it again, if anything is left of it, here or there.
    async fn give_up(&self, stale: &StaleTransfer, failed: &mut HashSet<MountId>) -> Option<Duration> {
        let retry = self.config.mount_retry.1;
        // While the queue is being loaded nobody can tell.
        if self.with_queue(|queue| queue.sees_to(stale)) != Some(false) {
            return Some(retry);
        }
        if let Some(mount) = self.giver_up(stale) {
            if failed.contains(&mount.spec.id) {
                return Some(retry);
            }
            let rest = stale.key.get(mount.spec.key_prefix.len()..).unwrap_or_default();
            let key = origin_key(&mount.spec.origin_prefix, rest);
            match self.stale.give_up(&*mount.spec.origin, &key, stale).await {
                Ok(Progress::Gone) => {}
                Ok(Progress::Again(after)) => return Some(after),
                Err(error) => {
                    tracing::debug!(%key, %error, "a stale upload could not be given up yet");
                    failed.insert(mount.spec.id);
                    return Some(retry);
                }
            }
        }
        let recorded = self.log.transfer_gone(stale.version).await;
        recorded.inspect(|()| self.stale.remove(stale.version)).err().map(|_| retry)
    }

    /// The mount at whose origin an upload is given up: its own, a forgotten one too. If that is gone, the one that
    /// covers its key now, which may have the same origin; another one does not know the upload, and says so.
    fn giver_up(&self, stale: &StaleTransfer) -> Option<&Mount> {
        self.mount(stale.mount).or_else(|| self.covering(stale.bucket, &stale.key))
    }

    /// Whether the origin of a mount may yet get an object from an upload of a mount that is gone.
    pub(super) fn awaits_strays(&self, mount: &Mount) -> bool {
        self.stale.has_tried(|stale| {
            let covering = || self.covering(stale.bucket, &stale.key);
            self.mount(stale.mount).is_none() && covering().is_some_and(|it| it.spec.id == mount.spec.id)
        })
    }
}
