//! Uploads that were begun at an origin and are not wanted any more: giving them up there.
//!
//! Owns what is known of them in this process, and when one counts as given up. Does not own their rows (apply's),
//! nor who asks when: of a key with changes of its own its attempts do, of the others `flusher/leftovers.rs`.
//!
//! What must hold: an upload whose completion may have been sent can become the object long after its sender is
//! dead, for an origin may take its time to put a large object together. So no other version of the key is sent
//! before it is given up, after its fence; and only then a HEAD says what the origin holds.
//!
//! When is it given up? If its origin has answered twice, with the margin between, that it is given up, or that it does
//! not know it; or if its object is there, which it becomes once. Not at the first answer, whatever that says: nothing is
//! promised of a completion that is worked on just then, and an origin may forget an upload before it shows the object; a
//! HEAD after the margin sees it if it came through. Not only when it is not known any more: AWS goes on saying "given
//! up" of uploads that are gone for a day. An upload that was never completed cannot become the object, and holds nothing
//! up; its last answer counts only once its parts are dead, for a part that arrives after the first may stay for good.
//! What remains: an origin that puts an object together for longer than the margin after its first answer.
//!
//! An origin may refuse it for ever, because the credentials lack that right. One that was tried then goes on holding up
//! its key, whose row is parked and says so; the others are asked about again.
//!
//! What a crash leaves: the rows. The next process starts over with each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::contract::{MountId, StaleTransfer, UploadPlace};
use super::flying::FlyingParts;
use super::queue::{Ended, Start};
use super::tag::Held;
use super::upload::{Courier, Target, failed, harmless, millis};
use crate::object::{BucketId, Version};
use crate::origin::{AbortReply, ErrorClass, Landing, Origin, OriginError, OriginKey, UploadId};

/// See the file's head.
pub(crate) struct StaleUploads {
    /// Held for a look-up only.
    known: Mutex<BTreeMap<(Version, MountId), Known>>,
    /// Least time between the two answers that give up an upload.
    margin: Duration,
    /// Parts that this process has sent.
    pub(super) parts: FlyingParts,
}

struct Known {
    transfer: StaleTransfer,
    /// When the origin was first asked with an answer that says that it is gone.
    answered: Option<Instant>,
    /// Until then parts may fly that a process before this one has sent.
    parts_fly_until: Option<Instant>,
    /// Why it could not be given up yet.
    trouble: Option<String>,
}

/// How far it is with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is given up.
    Gone,
    /// The origin is to be asked again after this time.
    Again(Duration),
}

impl StaleUploads {
    pub(crate) fn new(margin: Duration) -> StaleUploads {
        StaleUploads { known: Mutex::default(), margin, parts: FlyingParts::new(margin) }
    }

    /// Takes one up. The load of the rows and an event may tell of the same.
    pub(crate) fn add(&self, transfer: &StaleTransfer) {
        self.add_known(transfer, None);
    }

    /// Takes up one of a process before this one, of which no part leaves later than `alive` from now.
    pub(crate) fn add_loaded(&self, transfer: &StaleTransfer, alive: Duration) {
        self.add_known(transfer, Some(Instant::now() + alive + self.margin));
    }

    fn add_known(&self, transfer: &StaleTransfer, parts_fly_until: Option<Instant>) {
        let transfer = transfer.clone();
        let fresh = || Known { transfer: transfer.clone(), answered: None, parts_fly_until, trouble: None };
        self.known.lock().entry((transfer.version, transfer.mount)).or_insert_with(fresh);
    }

    pub(crate) fn remove(&self, transfer: &StaleTransfer) {
        self.known.lock().remove(&(transfer.version, transfer.mount));
    }

    /// One of this version, in the way of another at the same mount: why it could not be given up yet, if that is known.
    pub(crate) fn trouble_of(&self, version: Version, mount: MountId) -> Option<Option<String>> {
        self.known.lock().get(&(version, mount)).map(|known| known.trouble.clone())
    }

    /// Notes why one could not be given up yet, for people.
    pub(crate) fn note_trouble(&self, transfer: &StaleTransfer, trouble: String) {
        if let Some(known) = self.known.lock().get_mut(&(transfer.version, transfer.mount)) {
            known.trouble = Some(trouble);
        }
    }

    /// One that may become an object and satisfies `is_it`: why it could not be given up yet, if that is known.
    pub(crate) fn find_tried(&self, is_it: impl Fn(&StaleTransfer) -> bool) -> Option<Option<String>> {
        let known = self.known.lock();
        let found = known.values().find(|known| known.transfer.tried && is_it(&known.transfer));
        found.map(|known| known.trouble.clone())
    }

    pub(crate) fn all(&self) -> Vec<StaleTransfer> {
        self.known.lock().values().map(|known| known.transfer.clone()).collect()
    }

    /// The origin's names of those of a key.
    pub(crate) fn names_of(&self, bucket: BucketId, key: &[u8]) -> Vec<String> {
        let known = self.known.lock();
        let transfers = known.values().map(|known| &known.transfer);
        let of_key = transfers.filter(|transfer| transfer.bucket == bucket && transfer.key == *key);
        of_key.map(|transfer| transfer.upload_id.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.known.lock().len()
    }

    /// Those that may still become a key's object where its changes go now.
    fn of(&self, bucket: BucketId, key: &Bytes, mount: MountId, place: &UploadPlace) -> Vec<StaleTransfer> {
        let known = self.known.lock();
        let transfers = known.values().map(|known| &known.transfer).filter(|transfer| {
            let of_key = transfer.bucket == bucket && transfer.key == *key;
            transfer.tried && of_key && transfer.is_at(mount, place)
        });
        transfers.cloned().collect()
    }

    /// Asks its origin once, if it is time. `key`: where it is, if its record does not say.
    pub(crate) async fn give_up(
        &self,
        origin: &dyn Origin,
        key: &OriginKey,
        stale: &StaleTransfer,
    ) -> Result<Progress, OriginError> {
        let asked = Instant::now();
        if let Some(left) = self.wait(stale, asked) {
            return Ok(Progress::Again(left));
        }
        let recorded = stale.place.as_ref().map(|place| OriginKey(place.key.clone()));
        let key = recorded.as_ref().unwrap_or(key);
        let reply = origin.abort_upload(key, &UploadId(stale.upload_id.clone())).await?;
        Ok(self.settle(stale, reply, asked))
    }

    /// How long the origin is not to be asked yet: an answer before that would say nothing new.
    pub(crate) fn wait(&self, transfer: &StaleTransfer, now: Instant) -> Option<Duration> {
        let (version, margin) = (transfer.version, self.margin);
        let (answered, parts_fly_until) = {
            let known = self.known.lock();
            let known = known.get(&(version, transfer.mount))?;
            (known.answered?, known.parts_fly_until)
        };
        let due = Some(answered + margin).max(self.parts.fly_until(version, now)).max(parts_fly_until)?;
        due.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// What an answer to a question of that time means.
    pub(crate) fn settle(&self, transfer: &StaleTransfer, reply: AbortReply, asked: Instant) -> Progress {
        let waits = self.wait(transfer, asked);
        let mut known = self.known.lock();
        let Some(known) = known.get_mut(&(transfer.version, transfer.mount)) else { return Progress::Gone };
        if known.answered.is_some() {
            // Somebody else may have asked at the same time.
            return waits.map_or(Progress::Gone, Progress::Again);
        }
        let parts_fly_until = self.parts.fly_until(transfer.version, asked).max(known.parts_fly_until);
        let parts_fly = parts_fly_until.is_some_and(|until| asked < until);
        if !transfer.tried && !parts_fly && reply == AbortReply::NotKnown {
            return Progress::Gone;
        }
        known.answered = Some(asked);
        Progress::Again(self.margin)
    }
}

impl Courier {
    /// Gives up the uploads of older versions that may still become the key's object. `Err`: not yet, or one of them
    /// has become it by now, and that is recorded.
    pub(super) async fn give_up_older(&self, start: &Start, target: &Target) -> Result<(), Ended> {
        let (key, place) = (target.key(start), target.place(start));
        let older = self.stale.of(start.bucket, &start.key, start.mount, &place);
        if older.is_empty() {
            return Ok(());
        }
        // Also shows whether the origin answers these credentials at all.
        if let Held::Ours { version, etag } = self.held(target, &key).await?
            && older.iter().any(|stale| stale.version == version)
        {
            let ended = if version == start.version { Ended::Done } else { Ended::GoOn };
            return Err(self.record(start, version, Some(etag), ended, 0).await);
        }
        for stale in older {
            match self.stale.give_up(&*target.origin, &key, &stale).await {
                Ok(Progress::Gone) => {}
                Ok(Progress::Again(after)) => return Err(Ended::AskAgain { after_ms: millis(after) }),
                Err(error) if is_refused(&error) => {
                    return Err(Ended::MayNotGiveUp { message: refusal(&stale, &error) });
                }
                Err(error) => {
                    let message = format!("giving up the upload of an older version: {}", error.message);
                    return Err(failed(harmless(OriginError { message, ..error }), 0));
                }
            }
            self.log.transfer_gone(stale.version, stale.mount).await.map_err(|_| Ended::NotStarted)?;
            self.stale.remove(&stale);
        }
        Ok(())
    }
}

/// Whether an origin that answers otherwise says that it will not give uploads up for these credentials, or for
/// nobody.
pub(crate) fn is_refused(error: &OriginError) -> bool {
    error.outcome == Landing::NotApplied && matches!(error.class, ErrorClass::Auth | ErrorClass::Other)
}

/// The end of a sentence that says what is waited for.
pub(crate) fn so_far(trouble: Option<String>) -> String {
    trouble.map(|trouble| format!("; so far: {trouble}")).unwrap_or_default()
}

fn refusal(stale: &StaleTransfer, error: &OriginError) -> String {
    let code = error.code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default();
    format!(
        "giving up the upload of an older version ({}) is refused: {}{code}; that upload may still become the object, so \
         nothing is sent for the key before; the mount's credentials need the right to abort uploads \
         (s3:AbortMultipartUpload), then retry",
        stale.version, error.message
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn upload(tried: bool) -> StaleTransfer {
        let (key, upload_id) = (Bytes::from_static(b"a"), "u".to_owned());
        StaleTransfer {
            version: Version(1),
            bucket: BucketId(1),
            key,
            mount: MountId(1),
            upload_id,
            tried,
            place: None,
        }
    }

    #[test]
    fn one_that_was_tried_is_given_up_by_two_answers_with_the_margin_between_whatever_they_say() {
        for first in [AbortReply::GivenUp, AbortReply::NotKnown] {
            for second in [AbortReply::GivenUp, AbortReply::NotKnown] {
                let (uploads, stale, start) = (StaleUploads::new(MARGIN), upload(true), Instant::now());
                uploads.add(&stale);
                assert_eq!(uploads.wait(&stale, start), None);
                assert_eq!(uploads.settle(&stale, first, start), Progress::Again(MARGIN));
                assert_eq!(uploads.wait(&stale, start + SECOND), Some(MARGIN - SECOND));
                // Of somebody who asked at nearly the same time.
                let early = uploads.settle(&stale, second, start + SECOND);
                assert_eq!(early, Progress::Again(MARGIN - SECOND));
                assert_eq!(uploads.settle(&stale, second, start + MARGIN), Progress::Gone);
            }
        }
    }

    #[test]
    fn one_that_was_never_completed_and_is_not_known_is_gone_once_its_parts_are_dead() {
        let (uploads, stale, start) = (StaleUploads::new(MARGIN), upload(false), Instant::now());
        uploads.add(&stale);
        assert_eq!(uploads.settle(&stale, AbortReply::NotKnown, start), Progress::Gone);

        let uploads = StaleUploads::new(MARGIN);
        let part = uploads.parts.begin(stale.version, start + 30 * SECOND);
        uploads.add(&stale);
        assert_eq!(uploads.wait(&stale, start), None, "the first answer spares the others");
        assert_eq!(uploads.settle(&stale, AbortReply::NotKnown, start), Progress::Again(MARGIN));
        // Nobody has heard of the part since.
        drop(part);
        let asked = start + 20 * SECOND;
        assert_eq!(uploads.settle(&stale, AbortReply::NotKnown, asked), Progress::Again(20 * SECOND));
        assert_eq!(uploads.settle(&stale, AbortReply::NotKnown, start + 40 * SECOND), Progress::Gone);
    }

    #[test]
    fn parts_of_a_process_before_are_waited_for() {
        let (uploads, stale) = (StaleUploads::new(MARGIN), upload(false));
        uploads.add_loaded(&stale, 30 * SECOND);
        let now = Instant::now();
        assert_eq!(uploads.settle(&stale, AbortReply::NotKnown, now), Progress::Again(MARGIN));
        assert!(uploads.wait(&stale, now + 39 * SECOND).is_some());
        assert_eq!(uploads.settle(&stale, AbortReply::GivenUp, now + 41 * SECOND), Progress::Gone);
    }
}
