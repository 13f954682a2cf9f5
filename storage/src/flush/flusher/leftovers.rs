//! What is left at origins of uploads, and is no attempt's business: stale ones that were never completed, or whose key
//! has no changes of its own, or that another mount's origin has; and those that nobody knows the names of.
//!
//! Owns the tasks that give them up, one after the other, for as long as it takes. What counts as given up says
//! `stale`, what is ours `asked`. Giving one up changes no object, so a forgotten mount's origin is asked as well.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Flusher, Mount};
use crate::flush::asked::{Stranger, judge};
use crate::flush::contract::{
    AskedUpload, FlushEvent, MountId, SourceError, StaleTransfer, TransferRecord, TransferStep,
};
use crate::flush::stale::Progress;
use crate::object::BucketId;
use crate::origin::{ErrorClass, OriginError};

/// Longest wait without an event.
const IDLE: Duration = Duration::from_secs(3600);

/// Why one is not given up in this round.
enum Later {
    /// It is to be looked at again after this time.
    After(Duration),
    /// The origin of this mount failed.
    Failed(MountId, OriginError),
}

impl Flusher {
    pub(super) fn observe_leftover(&self, event: &FlushEvent) {
        match event {
            FlushEvent::Stale(stale) => self.add_stale(stale),
            FlushEvent::GivenUp(stale) => self.stale.remove(stale.version),
            FlushEvent::Asked(asked) => self.add_asked(asked),
            FlushEvent::Answered { version, mount } => self.asked.remove(*version, *mount),
            _ => {}
        }
    }

    pub(super) fn add_stale(&self, stale: &StaleTransfer) {
        self.stale.add(stale);
        self.stale_added.notify_one();
    }

    pub(super) fn add_asked(&self, asked: &AskedUpload) {
        let (now_ms, queue) = (self.source.now_ms(), &self.config.queue);
        // One that lies further in the future was written by a clock that was ahead.
        let left_ms = asked.until_ms.saturating_sub(now_ms).min(queue.attempt_ms_max);
        let due = Instant::now() + Duration::from_millis(left_ms.saturating_add(queue.margin_ms));
        self.asked.add(asked, due);
        self.asked_added.notify_one();
    }

    /// Gives stale uploads up at their origins.
    pub(super) async fn give_up_leftovers(self: Arc<Self>) {
        let mut patience = Patience::new(self.config.mount_retry.1);
        loop {
            let mut wait = IDLE;
            for stale in self.stale.all() {
                let mount = self.giver_up(stale.mount, stale.bucket, &stale.key);
                wait = wait.min(match patience.left_for(mount) {
                    Some(left) => left,
                    None => patience.settle(self.give_up(&stale, mount).await),
                });
            }
            tokio::select! {
                () = self.stale_added.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Gives those up at their origins whose names nobody knows.
    pub(super) async fn look_for_leftovers(self: Arc<Self>) {
        let mut patience = Patience::new(self.config.mount_retry.1);
        loop {
            let (due, next) = self.asked.due(Instant::now());
            let mut wait = next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()));
            for asked in due {
                let mount = self.giver_up(asked.mount, asked.bucket, &asked.key);
                wait = wait.min(match patience.left_for(mount) {
                    Some(left) => left,
                    None => patience.settle(self.look_for(&asked, mount).await),
                });
            }
            tokio::select! {
                () = self.asked_added.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn give_up(&self, stale: &StaleTransfer, mount: Option<&Mount>) -> Result<(), Later> {
        let retry = Later::After(self.config.mount_retry.1);
        // While the queue is being loaded nobody can tell.
        if self.with_queue(|queue| queue.sees_to(stale)) != Some(false) {
            return Err(retry);
        }
        if let Some(mount) = mount {
            let key = mount.origin_key(&stale.key);
            match self.stale.give_up(&*mount.spec.origin, &key, stale).await {
                Ok(Progress::Gone) => {}
                Ok(Progress::Again(after)) => return Err(Later::After(after)),
                Err(error) => return Err(Later::Failed(mount.spec.id, error)),
            }
        }
        self.log.transfer_gone(stale.version).await.map_err(|_| retry)?;
        self.stale.remove(stale.version);
        Ok(())
    }

    /// Gives up what an origin has begun for us without our knowing.
    async fn look_for(&self, asked: &AskedUpload, mount: Option<&Mount>) -> Result<(), Later> {
        let retry = || Later::After(self.config.mount_retry.1);
        if let Some(mount) = mount {
            let key = mount.origin_key(&asked.key);
            let failed = |error| Later::Failed(mount.spec.id, error);
            let (attached, shared) = {
                let state = mount.state.lock();
                (state.attached, state.existing || mount.spec.revalidate)
            };
            if !attached {
                // Nobody knows yet whose prefix it is.
                return Err(retry());
            }
            let margin = Duration::from_millis(self.config.queue.margin_ms);
            let listed = mount.spec.origin.list_uploads(&key).await.map_err(failed)?;
            // Read after the list, so that what was recorded before it is known.
            let recorded = self.recorded_uploads(asked.bucket, &asked.key).await.map_err(|_| retry())?;
            let mut again = false;
            for upload in listed.iter().filter(|listed| !recorded.contains(&listed.upload.0)) {
                match judge(asked, upload.age, self.source.now_ms(), margin, shared) {
                    Stranger::Theirs => {}
                    Stranger::Young => again = true,
                    Stranger::Ours => {
                        tracing::info!(%key, origin = mount.spec.origin.name(), upload = %upload.upload.0,
                            "an upload that was begun without an answer is given up");
                        mount.spec.origin.abort_upload(&key, &upload.upload).await.map_err(failed)?;
                        again = true;
                    }
                }
            }
            if again {
                // Until it is seen that nothing is there.
                return Err(Later::After(margin));
            }
        }
        let step = TransferStep::Looked { mount: asked.mount, until_ms: asked.until_ms };
        let (bucket, key, version, upload_id) =
            (asked.bucket, asked.key.clone(), asked.version, String::new());
        let record = TransferRecord { bucket, key, version, upload_id, step };
        match self.log.transfer(vec![record]).await {
            // Gone already, or asked again, and then told anew.
            Ok(_) => {
                self.asked.forget(asked);
                Ok(())
            }
            Err(_) => Err(retry()),
        }
    }

    /// Names of all uploads of a key that are on record.
    async fn recorded_uploads(&self, bucket: BucketId, key: &[u8]) -> Result<Vec<String>, SourceError> {
        let mut names = self.stale.names_of(bucket, key);
        for row in self.rows_of(bucket, key) {
            names.extend(self.source.transfer(row.version).await?.map(|transfer| transfer.upload_id));
        }
        Ok(names)
    }

    /// The mount at whose origin something is given up: its own, a forgotten one too. If that is gone, the one that
    /// covers the key now, which may have the same origin; another one does not know the upload, and says so.
    fn giver_up(&self, mount: MountId, bucket: BucketId, key: &[u8]) -> Option<&Mount> {
        self.mount(mount).or_else(|| self.covering(bucket, key))
    }

    /// Whether the origin of a mount may yet get an object from an upload of a mount that is gone.
    pub(super) fn awaits_strays(&self, mount: &Mount) -> bool {
        self.stale.has_tried(|stale| {
            let covering = || self.covering(stale.bucket, &stale.key);
            self.mount(stale.mount).is_none() && covering().is_some_and(|it| it.spec.id == mount.spec.id)
        })
    }
}

/// Until when origins that failed are left alone, whatever else is to be given up there.
struct Patience {
    retry: Duration,
    until: HashMap<MountId, Instant>,
}

impl Patience {
    fn new(retry: Duration) -> Patience {
        Patience { retry, until: HashMap::new() }
    }

    fn left_for(&mut self, mount: Option<&Mount>) -> Option<Duration> {
        let until = self.until.get(&mount?.spec.id)?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// How long to wait, after this outcome.
    fn settle(&mut self, outcome: Result<(), Later>) -> Duration {
        match outcome {
            Ok(()) => IDLE,
            Err(Later::After(after)) => after,
            Err(Later::Failed(mount, error)) => {
                tracing::debug!(?mount, %error, "an upload could not be given up yet");
                // An origin that cannot say it is not asked all the time.
                let wait = if error.class == ErrorClass::Other { IDLE } else { self.retry };
                self.until.insert(mount, Instant::now() + wait);
                wait
            }
        }
    }
}
