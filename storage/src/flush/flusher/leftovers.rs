//! What is left at origins of uploads, and is no attempt's business: stale ones that were never completed, or whose key
//! has no changes of its own, or that another mount's origin has; and those that nobody knows the names of.
//!
//! Owns a task for each mount that gives them up at its origin, a few at a time, for as long as it takes: a request that
//! is not answered in time, an origin that is down, or one that refuses, holds up no other mount. What counts as given
//! up says `stale`, what is ours `asked`. Giving one up changes no object, so a forgotten mount's origin is asked as well.
//!
//! Which mount's origin is asked? Its own mount's, a forgotten one too while this process lives. Once that is gone,
//! that of any mount with the same origin, under the key that is on record. If the config names none, the upload is kept
//! on record and shown (a warning at the start, a metric): it costs some 300 bytes, is the only trace of what is paid
//! for at that origin, and holds nothing up elsewhere. A record that does not say where it is (of an earlier version) is
//! taken to the mount that covers its key now; the origin of another one does not know it, and says so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use super::{Flusher, Mount};
use crate::flush::asked::{Stranger, judge};
use crate::flush::contract::{
    AskedUpload, FlushEvent, MountId, SourceError, StaleTransfer, TransferRecord, TransferStep, UploadPlace,
};
use crate::flush::stale::{Progress, is_refused, so_far};
use crate::object::{BucketId, Version};
use crate::origin::{ErrorClass, Landing, OriginError, OriginKey};

/// Longest wait without an event.
const IDLE: Duration = Duration::from_secs(3600);
/// Most requests to a mount's origin at once, of each of the two kinds.
const AT_ONCE: usize = 4;
/// Failures without a success between them after which a mount's origin is left alone for a while.
const DOWN_AFTER: u32 = 3;

/// Names a leftover.
type Name = (Version, MountId);

/// Why one is not given up in this round.
enum Later {
    /// It is to be looked at again after this time.
    After(Duration),
    /// The origin failed.
    Failed(OriginError),
}

impl Flusher {
    pub(super) fn observe_leftover(&self, event: &FlushEvent) {
        match event {
            FlushEvent::Stale(stale) => {
                self.stale.add(stale);
                self.tell_leftovers();
            }
            FlushEvent::GivenUp(stale) => self.stale.remove(stale),
            FlushEvent::Asked(asked) => self.add_asked(asked),
            FlushEvent::Answered { version, mount } => self.asked.remove(*version, *mount),
            _ => {}
        }
    }

    /// Takes up one that was on record at the start. Who sent its parts does not live any more, or leads no more; a
    /// part of it may have been on its way.
    pub(super) fn add_loaded(&self, stale: &StaleTransfer) {
        self.stale.add_loaded(stale, self.config.attempt_timeout);
        self.tell_leftovers();
    }

    pub(super) fn add_asked(&self, asked: &AskedUpload) {
        let (now_ms, queue) = (self.source.now_ms(), &self.config.queue);
        // One that lies further in the future was written by a clock that was ahead.
        let left_ms = asked.until_ms.saturating_sub(now_ms).min(queue.attempt_ms_max);
        let due = Instant::now() + Duration::from_millis(left_ms.saturating_add(queue.margin_ms));
        self.asked.add(asked, due);
        self.tell_leftovers();
    }

    fn tell_leftovers(&self) {
        self.leftovers.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Gives up at the origin of a mount what is left there.
    pub(super) async fn see_to_leftovers(self: Arc<Self>, at: usize) {
        let mount = &self.mounts[at];
        let mut changes = self.leftovers.subscribe();
        let (mut giving_up, mut looking) = (Round::new(mount), Round::new(mount));
        loop {
            changes.mark_unchanged();
            let wait = self.give_up_all(mount, &mut giving_up).await;
            let wait = wait.min(self.look_for_all(mount, &mut looking).await);
            tokio::select! {
                // The sender lives as long as self.
                _ = changes.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One round over the stale uploads; until when the next one has time.
    async fn give_up_all(&self, mount: &Mount, round: &mut Round<'_>) -> Duration {
        let all = self.stale.all().into_iter().map(|stale| ((stale.version, stale.mount), stale));
        let here = |stale: &StaleTransfer| {
            self.giver_up(stale.mount, stale.bucket, &stale.key, stale.place.as_ref())
        };
        let mine = all.filter(|(_, stale)| here(stale).is_some_and(|giver| std::ptr::eq(giver, mount)));
        round.play(self.config.mount_retry.1, mine.collect(), |stale| self.give_up(stale, mount)).await
    }

    async fn look_for_all(&self, mount: &Mount, round: &mut Round<'_>) -> Duration {
        let (due, next) = self.asked.due(Instant::now());
        let next = next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()));
        let here =
            |asked: &AskedUpload| self.giver_up(asked.mount, asked.bucket, &asked.key, asked.place.as_ref());
        let all = due.into_iter().map(|asked| ((asked.version, asked.mount), asked));
        let mine = all.filter(|(_, asked)| here(asked).is_some_and(|giver| std::ptr::eq(giver, mount)));
        let retry = self.config.mount_retry.1;
        next.min(round.play(retry, mine.collect(), |asked| self.look_for(asked, mount)).await)
    }

    async fn give_up(&self, stale: StaleTransfer, mount: &Mount) -> Result<(), Later> {
        let retry = || Later::After(self.config.mount_retry.1);
        // While the queue is being loaded nobody can tell.
        if self.with_queue(|queue| queue.sees_to(&stale)) != Some(false) {
            return Err(retry());
        }
        let key = mount.origin_key(&stale.key);
        match self.in_time(self.stale.give_up(&*mount.spec.origin, &key, &stale)).await {
            Ok(Progress::Gone) => {}
            Ok(Progress::Again(after)) => return Err(Later::After(after)),
            Err(error) => {
                self.stale.note_trouble(&stale, error.to_string());
                return Err(Later::Failed(error));
            }
        }
        self.log.transfer_gone(stale.version, stale.mount).await.map_err(|_| retry())?;
        self.stale.remove(&stale);
        Ok(())
    }

    /// Gives up what an origin has begun for us without our knowing.
    async fn look_for(&self, asked: AskedUpload, mount: &Mount) -> Result<(), Later> {
        let retry = || Later::After(self.config.mount_retry.1);
        let (attached, shared) = {
            let state = mount.state.lock();
            (state.attached, state.existing || mount.spec.revalidate)
        };
        if !attached {
            // Nobody knows yet whose prefix it is.
            return Err(retry());
        }
        let recorded = asked.place.as_ref().map(|place| OriginKey(place.key.clone()));
        let key = recorded.unwrap_or_else(|| mount.origin_key(&asked.key));
        let margin = Duration::from_millis(self.config.queue.margin_ms);
        let listed = self.in_time(mount.spec.origin.list_uploads(&key)).await.map_err(Later::Failed)?;
        // Read after the list, so that what was recorded before it is known.
        let recorded = self.recorded_uploads(&asked, mount, &key).await.map_err(|_| retry())?;
        let mut again = false;
        for upload in listed.iter().filter(|listed| !recorded.contains(&listed.upload.0)) {
            match judge(&asked, upload.age, self.source.now_ms(), margin, shared) {
                Stranger::Theirs => {}
                Stranger::Young => again = true,
                Stranger::Ours => {
                    tracing::info!(%key, origin = mount.spec.origin.name(), upload = %upload.upload.0,
                        "an upload that was begun without an answer is given up");
                    let giving_up = mount.spec.origin.abort_upload(&key, &upload.upload);
                    self.in_time(giving_up).await.map_err(Later::Failed)?;
                    again = true;
                }
            }
        }
        if again {
            // Until it is seen that nothing is there.
            self.asked.settles(&asked, Instant::now() + margin);
            return Err(Later::After(margin));
        }
        let step = TransferStep::Looked { mount: asked.mount, until_ms: asked.until_ms };
        let (bucket, key, version, upload_id) =
            (asked.bucket, asked.key.clone(), asked.version, String::new());
        let record = TransferRecord { bucket, key, version, upload_id, step };
        // Gone already, or asked again, and then told anew.
        self.log.transfer(vec![record]).await.map_err(|_| retry())?;
        self.asked.forget(&asked);
        Ok(())
    }

    /// An origin that does not answer is left to itself after the time of an attempt.
    async fn in_time<T>(
        &self,
        asking: impl Future<Output = Result<T, OriginError>>,
    ) -> Result<T, OriginError> {
        let limit = self.config.attempt_timeout;
        tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| {
            let message = format!("no answer within {limit:?}");
            Err(OriginError::new(ErrorClass::Network, Landing::Unknown, message))
        })
    }

    /// Names of all uploads of a key of the origin that are on record: for the key that was asked for, and for the one
    /// that the mount has there now.
    async fn recorded_uploads(
        &self,
        asked: &AskedUpload,
        mount: &Mount,
        key: &OriginKey,
    ) -> Result<Vec<String>, SourceError> {
        let present = mount.key_of(key).map(|key| (mount.spec.bucket, key));
        let mut names = Vec::new();
        for (bucket, key) in [(asked.bucket, asked.key.clone())].into_iter().chain(present) {
            names.extend(self.stale.names_of(bucket, &key));
            for row in self.rows_of(bucket, &key) {
                names.extend(self.source.transfer(row.version).await?.map(|transfer| transfer.upload_id));
            }
        }
        Ok(names)
    }

    /// The mount at whose origin something is given up; see the file's head.
    fn giver_up(
        &self,
        mount: MountId,
        bucket: BucketId,
        key: &[u8],
        place: Option<&UploadPlace>,
    ) -> Option<&Mount> {
        let Some(place) = place else { return self.mount(mount).or_else(|| self.covering(bucket, key)) };
        let same = self.mounts.iter().filter(|mount| mount.spec.origin_root == place.root);
        // Its credentials may be good for its own prefix only.
        let nearest = || same.max_by_key(|mount| mount.shared_prefix(&place.key));
        self.mount(mount).or_else(nearest)
    }

    /// How many leftovers there are at origins that no mount names.
    pub(super) fn out_of_reach(&self) -> BTreeMap<String, u64> {
        let stale = self.stale.all().into_iter().map(|it| (it.mount, it.bucket, it.key, it.place));
        let asked = self.asked.all().into_iter().map(|it| (it.mount, it.bucket, it.key, it.place));
        let mut roots = BTreeMap::new();
        for (mount, bucket, key, place) in stale.chain(asked) {
            if self.giver_up(mount, bucket, &key, place.as_ref()).is_none() {
                let root =
                    place.map_or_else(|| "an origin that is not on record".to_owned(), |place| place.root);
                *roots.entry(root).or_default() += 1;
            }
        }
        roots
    }

    /// Says once which origins would have to be configured again for what is left there.
    pub(super) fn warn_of_unreachable(&self) {
        for (origin, uploads) in self.out_of_reach() {
            tracing::warn!(%origin, uploads, "multipart uploads are left at an origin that no mount names any more; they \
                are kept on record, and given up once a mount of that origin is configured");
        }
    }

    /// Whether the origin of a mount may yet get an object from an upload of a mount that is gone; if so, why it is
    /// still there.
    pub(super) fn awaits_strays(&self, mount: &Mount) -> Option<String> {
        let trouble = self.stale.find_tried(|stale| {
            let covers = || self.covering(stale.bucket, &stale.key).is_some_and(|it| std::ptr::eq(it, mount));
            let arrives = match &stale.place {
                Some(place) => {
                    place.root == mount.spec.origin_root && place.key.starts_with(&mount.spec.origin_prefix)
                }
                None => covers(),
            };
            self.mount(stale.mount).is_none() && arrives
        })?;
        Some(format!("an upload of a forgotten mount is given up first{}", so_far(trouble)))
    }
}

/// What is remembered of the rounds over a mount's leftovers.
struct Round<'a> {
    mount: &'a Mount,
    /// Until when the origin is left alone, whatever else is to be given up there.
    paused_until: Option<Instant>,
    /// Until when those are left alone that failed alone.
    failed: HashMap<Name, Instant>,
    /// Whether the present trouble has been told.
    told: bool,
}

impl<'a> Round<'a> {
    fn new(mount: &'a Mount) -> Round<'a> {
        Round { mount, paused_until: None, failed: HashMap::new(), told: false }
    }

    /// Sees to all of `mine`, those that failed before behind the others; until when the next round has time.
    async fn play<T, F>(&mut self, retry: Duration, mine: Vec<(Name, T)>, see_to: impl Fn(T) -> F) -> Duration
    where
        F: Future<Output = Result<(), Later>>,
    {
        let now = Instant::now();
        if let Some(left) = self
            .paused_until
            .and_then(|until| until.checked_duration_since(now))
            .filter(|left| !left.is_zero())
        {
            return left;
        }
        let names: HashSet<Name> = mine.iter().map(|(name, _)| *name).collect();
        self.failed.retain(|name, _| names.contains(name));
        let (later, mut due): (Vec<_>, Vec<_>) =
            mine.into_iter().partition(|(name, _)| self.failed.get(name).is_some_and(|until| *until > now));
        let lefts = later.iter().filter_map(|(name, _)| Some(self.failed.get(name)?.duration_since(now)));
        let mut wait = lefts.min().unwrap_or(IDLE);
        due.sort_by_key(|(name, _)| self.failed.contains_key(name));
        let tasks = due.into_iter().map(|(name, it)| {
            let seeing_to = see_to(it);
            async move { (name, seeing_to.await) }
        });
        let mut outcomes = stream::iter(tasks).buffer_unordered(AT_ONCE);
        let mut failures = 0;
        while let Some((name, outcome)) = outcomes.next().await {
            match outcome {
                Ok(()) => (failures, self.told) = (0, false),
                Err(Later::After(after)) => {
                    self.failed.remove(&name);
                    wait = wait.min(after);
                }
                Err(Later::Failed(error)) => {
                    failures += 1;
                    // An origin that cannot say it is not asked all the time.
                    let alone = if error.class == ErrorClass::Other { IDLE } else { retry };
                    self.failed.insert(name, Instant::now() + alone);
                    wait = wait.min(alone);
                    self.tell(&error);
                    if failures >= DOWN_AFTER {
                        self.paused_until = Some(Instant::now() + alone);
                        return alone;
                    }
                }
            }
        }
        wait
    }

    fn tell(&mut self, error: &OriginError) {
        let origin = self.mount.shown_origin();
        if is_refused(error) && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(%origin, %error, "uploads that nobody wants are left at the origin, because it refuses to give \
                them up; the mount's credentials need s3:AbortMultipartUpload and s3:ListBucketMultipartUploads");
        } else {
            tracing::debug!(%origin, %error, "an upload could not be given up yet");
        }
    }
}
