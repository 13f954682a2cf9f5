//! Stale uploads that no attempt of their key sees to: those that were never completed, those of keys without
//! changes of their own, and those that another mount's origin has.

use std::sync::Arc;
use std::time::Duration;

use super::Flusher;
use crate::flush::contract::StaleTransfer;
use crate::flush::stale::Progress;
use crate::flush::upload::origin_key;

/// Longest wait without an event.
const IDLE: Duration = Duration::from_secs(3600);

impl Flusher {
    /// Gives them up at their origins, one after the other, for as long as it takes.
    pub(super) async fn give_up_leftovers(self: Arc<Self>) {
        loop {
            let mut wait = IDLE;
            for stale in self.stale.all() {
                wait = wait.min(self.give_up(&stale).await.unwrap_or(IDLE));
            }
            tokio::select! {
                () = self.stale.added() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// When to look at it again, if anything is left of it, here or there.
    async fn give_up(&self, stale: &StaleTransfer) -> Option<Duration> {
        let retry = self.config.mount_retry.1;
        let own = self.mount(stale.mount);
        if own.is_some_and(|mount| mount.state.lock().forgotten) {
            // Nothing more is sent there. The next start may find the same origin under another mount.
            return Some(IDLE);
        }
        // While the queue is being loaded nobody can tell.
        if self.with_queue(|queue| queue.sees_to(stale)) != Some(false) {
            return Some(retry);
        }
        // Of a mount that is gone: an origin that does not have it says so.
        if let Some(mount) = own.or_else(|| self.covering(stale.bucket, &stale.key)) {
            let rest = stale.key.get(mount.spec.key_prefix.len()..).unwrap_or_default();
            let key = origin_key(&mount.spec.origin_prefix, rest);
            match self.stale.give_up(&*mount.spec.origin, &key, stale).await {
                Ok(Progress::Gone) => {}
                Ok(Progress::Again(after)) => return Some(after),
                Err(error) => {
                    tracing::debug!(%key, %error, "a stale upload could not be given up yet");
                    return Some(retry);
                }
            }
        }
        self.log.transfer_gone(stale.version).await.err().map(|_| retry)
    }
}
