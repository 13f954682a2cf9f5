//! Uploads that were begun at an origin and are not wanted any more: giving them up there.
//!
//! Owns what is known of them in this process, and when one counts as given up. Does not own their rows (apply's),
//! nor who asks when: of a key with changes of its own its attempts do, of the others `flusher/leftovers.rs`.
//!
//! What must hold: an upload whose completion may have been sent can become the object long after its sender is
//! dead, for an origin may take its time to put a large object together. So no other version of the key is sent
//! before it is given up, after its fence; and only then a HEAD says what the origin holds.
//!
//! When is it given up? If the origin does not know it; or if it has said twice, with the margin between, that it
//! is. Not the first time: nothing is promised of a completion that is worked on just then, and a HEAD after the
//! margin sees it if it came through; nor of a part that was on its way, which would stay. Not only when it is not
//! known any more: AWS goes on saying "given up" of uploads that are gone for a day. What remains: an origin that puts
//! an object together for longer than the margin after it has said that the upload is given up, or not known.
//!
//! What a crash leaves: the rows. The next process starts over with each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::contract::{MountId, StaleTransfer};
use super::queue::{Ended, Start};
use super::upload::{Courier, Target, failed, harmless, millis};
use crate::object::{BucketId, Version};
use crate::origin::{AbortReply, Origin, OriginError, OriginKey, UploadId};

/// See the file's head.
pub(crate) struct StaleUploads {
    /// Held for a look-up only.
    known: Mutex<BTreeMap<Version, Known>>,
    /// Least time between the two answers that give up an upload.
    margin: Duration,
}

struct Known {
    transfer: StaleTransfer,
    /// When the origin first said that it is given up.
    answered: Option<Instant>,
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
        StaleUploads { known: Mutex::default(), margin }
    }

    /// Takes one up. The load of the rows and an event may tell of the same.
    pub(crate) fn add(&self, transfer: &StaleTransfer) {
        let fresh = || Known { transfer: transfer.clone(), answered: None };
        self.known.lock().entry(transfer.version).or_insert_with(fresh);
    }

    pub(crate) fn remove(&self, version: Version) {
        self.known.lock().remove(&version);
    }

    pub(crate) fn contains(&self, version: Version) -> bool {
        self.known.lock().contains_key(&version)
    }

    /// Whether one that may become an object satisfies `is_it`.
    pub(crate) fn has_tried(&self, is_it: impl Fn(&StaleTransfer) -> bool) -> bool {
        self.known.lock().values().any(|known| known.transfer.tried && is_it(&known.transfer))
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

    /// Those that may still become a key's object in the origin of this mount.
    fn of(&self, bucket: BucketId, key: &Bytes, mount: MountId) -> Vec<StaleTransfer> {
        let known = self.known.lock();
        let transfers = known.values().map(|known| &known.transfer).filter(|transfer| {
            transfer.tried && transfer.mount == mount && transfer.bucket == bucket && transfer.key == *key
        });
        transfers.cloned().collect()
    }

    /// Asks the origin once, if it is time.
    pub(crate) async fn give_up(
        &self,
        origin: &dyn Origin,
        key: &OriginKey,
        transfer: &StaleTransfer,
    ) -> Result<Progress, OriginError> {
        let answered = self.known.lock().get(&transfer.version).and_then(|known| known.answered);
        if let Some(left) = answered.and_then(|at| self.margin.checked_sub(at.elapsed()))
            && !left.is_zero()
        {
            return Ok(Progress::Again(left));
        }
        let reply = origin.abort_upload(key, &UploadId(transfer.upload_id.clone())).await?;
        if reply == AbortReply::NotKnown || answered.is_some() {
            return Ok(Progress::Gone);
        }
        if let Some(known) = self.known.lock().get_mut(&transfer.version) {
            known.answered.get_or_insert_with(Instant::now);
        }
        Ok(Progress::Again(self.margin))
    }
}

impl Courier {
    /// Gives up the uploads of older versions that may still become the key's object. `Err`: not yet.
    pub(super) async fn give_up_older(&self, start: &Start, target: &Target) -> Result<(), Ended> {
        let key = target.key(start);
        for transfer in self.stale.of(start.bucket, &start.key, start.mount) {
            match self.stale.give_up(&*target.origin, &key, &transfer).await {
                Ok(Progress::Gone) => {}
                Ok(Progress::Again(after)) => return Err(Ended::AskAgain { after_ms: millis(after) }),
                Err(error) => {
                    let message = format!("giving up the upload of an older version: {}", error.message);
                    return Err(failed(harmless(OriginError { message, ..error }), 0));
                }
            }
            self.log.transfer_gone(transfer.version).await.map_err(|_| Ended::NotStarted)?;
            self.stale.remove(transfer.version);
        }
        Ok(())
    }
}
