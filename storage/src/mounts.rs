//! Recorded mounts: how the config's mounts get into the log, and how one is forgotten.
//!
//! Owns the comparison of config and record, and the order of the steps of forgetting. Does not own the
//! record itself (apply's), nor what a mount does (`flush/`).
//!
//! What must hold: an object is queued for the origin that its key has now, and what was learnt of another
//! origin says nothing about it; apply sees to that by the mount's number in the origin rows. What a crash
//! leaves: a mount that takes no more rows and still has some; the next start gives them up and forgets it.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::apply::mount_path;
use crate::error::{Error, Result};
use crate::evict::bring_all_back;
use crate::flush::{MountId, MountSpec};
use crate::keyspace::Keyspace;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{MountRow, QueueRow, Table, numbered_key, split_queue_key};
use crate::keyspace::view::View;
use crate::mutation::{MountMode, Mutation, Outcome, Refusal};
use crate::node::{MountConfig, StartError};
use crate::object::{BucketId, Version};
use crate::read::{ReadView, view_error};
use crate::store::{Shared, Store, is_bucket_name};
use crate::submission::Submission;

/// Rows looked at, and mutations proposed, at a time.
const PAGE: usize = 1000;

/// A mount as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedMount {
    /// Number.
    pub id: MountId,
    /// `/bucket/prefix`.
    pub path: String,
    /// Where it goes, as shown to people; empty for a local one.
    pub origin: String,
    /// No origin.
    pub local: bool,
    /// The origin prefix is ours.
    pub attached: bool,
    /// Takes no more rows: it is being forgotten.
    pub leaving: bool,
    /// Changes that wait for its origin.
    pub queued: u64,
}

/// What became of forgetting a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// It is gone; so many queued changes were given up.
    Done {
        /// How many.
        abandoned: u64,
    },
    /// Nothing is recorded under that path.
    NoSuchMount,
    /// So many changes wait for its origin; nothing was changed.
    Busy(u64),
}

impl Shared {
    /// The number of the mount that takes a key's changes.
    pub(crate) fn mount_of(&self, bucket: BucketId, key: &[u8]) -> Option<u32> {
        let mounts = self.status.mounts.lock();
        mounts
            .iter()
            .filter(|(_, mount)| mount.bucket == bucket && key.starts_with(&mount.prefix))
            .max_by_key(|(_, mount)| mount.prefix.len())
            .filter(|(_, mount)| !mount.local && !mount.leaving)
            .map(|(number, _)| *number)
    }

    fn mount_path(&self, row: &MountRow) -> String {
        let bucket = self.registry.get(row.bucket);
        mount_path(bucket.as_ref().map_or(&[][..], |bucket| &bucket.name), &row.prefix)
    }
}

impl Store {
    /// Every recorded mount, in the order in which they were first configured.
    pub fn mounts(&self) -> Vec<RecordedMount> {
        let shared = self.shared();
        let queued = shared.status.mount_rows.lock().clone();
        let mounts = shared.status.mounts.lock().clone();
        let shown = mounts.iter().map(|(number, row)| RecordedMount {
            id: MountId(*number),
            path: shared.mount_path(row),
            origin: row.origin.clone(),
            local: row.local,
            attached: row.attached,
            leaving: row.leaving,
            queued: queued.iter().find(|(of, _)| of == number).map_or(0, |(_, rows)| *rows),
        });
        shown.collect()
    }

    /// Forgets the mount at `/bucket/prefix`: the origin keeps what it has, nothing more is sent to it, the
    /// objects stay here, and what was only in the origin is brought back first (an error if that cannot be done).
    /// With `abandon`, changes that wait for it are given up; without, they refuse it.
    /// A dropped future, or an error, may leave a mount that takes no more rows; call this again.
    pub async fn forget_mount(&self, bucket: &str, prefix: &[u8], abandon: bool) -> Result<Forgotten> {
        let shared = self.shared();
        let Some(bucket) = self.bucket(bucket.as_bytes()) else { return Ok(Forgotten::NoSuchMount) };
        let number =
            shared.status.mounts.lock().iter().find_map(|(number, row)| {
                (row.bucket == bucket && *row.prefix == *prefix).then_some(*number)
            });
        let Some(number) = number else { return Ok(Forgotten::NoSuchMount) };
        // What a turn of the log did is shown before the next one is answered.
        let mut nothing = Submission::new();
        nothing.push(&Mutation::Release { bucket, key: b"", version: Version::ZERO });
        shared.submit(nothing).await?;
        let queued =
            shared.status.mount_rows.lock().iter().find(|(of, _)| *of == number).map(|(_, rows)| *rows);
        if let Some(rows) = queued.filter(|rows| *rows > 0 && !abandon) {
            return Ok(Forgotten::Busy(rows));
        }
        let _leaving = shared.evictor.leave(number).await;
        match bring_all_back(shared, bucket, prefix).await {
            Ok(0) => forget(shared, number, abandon).await,
            Ok(objects) => {
                tracing::info!(
                    objects,
                    mount = number,
                    "objects that were only in the origin are here again"
                );
                forget(shared, number, abandon).await
            }
            Err(error) => Err(error),
        }
    }
}

async fn forget(shared: &Arc<Shared>, mount: u32, abandon: bool) -> Result<Forgotten> {
    let mut abandoned = 0;
    loop {
        let mut submission = Submission::new();
        submission.push(&Mutation::MountForget { mount, abandon });
        match shared.submit(submission).await?.results.first() {
            Some(Outcome::Done(_)) => {}
            Some(Outcome::Unmet) => return Ok(Forgotten::NoSuchMount),
            Some(Outcome::Refused(Refusal::MountBusy(rows))) => return Ok(Forgotten::Busy(*rows)),
            _ => return Err(Error::Unknown("the mount could not be forgotten")),
        }
        if !shared.status.mounts.lock().iter().any(|(number, _)| *number == mount) {
            return Ok(Forgotten::Done { abandoned });
        }
        abandoned += abandon_rows(shared, mount).await?;
    }
}

/// Gives up every row that is queued for a mount which takes no more.
async fn abandon_rows(shared: &Arc<Shared>, mount: u32) -> Result<u64> {
    let mut from = vec![Table::Queue as u8];
    let mut abandoned = 0;
    loop {
        let after = from.clone();
        let view = View::latest(&shared.keyspace);
        let end = Keyspace::table_end(Table::Queue);
        let reading = shared.pool.run(move || view.range(Bound::Excluded(&after), &end, PAGE));
        let page = reading.await.map_err(|_| Error::Stopping)?.map_err(view_error)?;
        let mut submission = Submission::new();
        for (row_key, value) in &page {
            let (Some((version, bucket, key)), Some(row)) =
                (split_queue_key(row_key), QueueRow::decode(value))
            else {
                continue;
            };
            if row.mount == mount {
                submission.push(&Mutation::FlushAbandon { bucket, key, version });
            }
        }
        if !submission.is_empty() {
            let results = shared.submit(submission).await?.results;
            abandoned += results.iter().filter(|outcome| matches!(outcome, Outcome::Done(_))).count() as u64;
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => from = key.to_vec(),
            _ => return Ok(abandoned),
        }
    }
}

/// Records the config's mounts in the log and queues what lay under a new one before it.
pub(crate) async fn record(
    shared: &Arc<Shared>,
    mounts: &[MountConfig],
) -> std::result::Result<Vec<MountSpec>, StartError> {
    let leaving: Vec<u32> = {
        let recorded = shared.status.mounts.lock();
        recorded.iter().filter(|(_, row)| row.leaving).map(|(number, _)| *number).collect()
    };
    for mount in leaving {
        let forgotten = forget(shared, mount, true).await?;
        tracing::info!(mount, ?forgotten, "a mount that was being forgotten is gone");
    }
    refuse_missing(shared, mounts)?;
    let mut connected = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let origin = match &mount.origin {
            Some(origin) => Some(origin.backend.connect().map_err(StartError::Threads)?),
            None => None,
        };
        // Before anything is read: bytes may be in the origin only.
        if let (Some((number, row)), Some(origin)) = (recorded(shared, mount), &origin) {
            shared.fills.add_origin(number, &row.prefix, &row.origin_prefix, origin.clone());
        }
        connected.push(origin);
    }
    let mut specs = Vec::new();
    for (mount, connected) in mounts.iter().zip(connected) {
        let before = recorded(shared, mount);
        if before.is_none() && connected.is_some() {
            bring_back_for(shared, mount).await?;
        }
        let (id, row) = record_one(shared, mount).await?;
        let (Some(origin), Some(connected)) = (&mount.origin, connected) else { continue };
        if before.is_none() {
            shared.fills.add_origin(id.0, &row.prefix, &row.origin_prefix, connected.clone());
        }
        if !row.attached || row.uncovered {
            mark_dirty(shared, row.bucket, &mount.prefix).await?;
        }
        if row.attached && row.uncovered {
            let mut submission = Submission::new();
            submission.push(&Mutation::MountAttached { mount: id.0 });
            shared.submit(submission).await?;
        }
        specs.push(MountSpec {
            id,
            bucket: row.bucket,
            key_prefix: Bytes::copy_from_slice(&mount.prefix),
            origin: connected,
            origin_prefix: origin.prefix.clone(),
            attached: row.attached,
            fifo: mount.fifo,
            min_interval: mount.min_interval,
            checksums: mount.checksums,
        });
    }
    Ok(specs)
}

/// The record of a configured mount, if there is one.
fn recorded(shared: &Shared, mount: &MountConfig) -> Option<(u32, MountRow)> {
    let bucket = shared.registry.by_name(mount.bucket.as_bytes())?;
    let mounts = shared.status.mounts.lock();
    let is_it = |row: &MountRow| row.bucket == bucket && *row.prefix == *mount.prefix && !row.local;
    mounts.iter().find(|(_, row)| is_it(row)).cloned()
}

/// A new mount takes objects over that another one's origin has: their bytes must be here for that.
async fn bring_back_for(shared: &Arc<Shared>, mount: &MountConfig) -> std::result::Result<(), StartError> {
    let Some(bucket) = shared.registry.by_name(mount.bucket.as_bytes()) else { return Ok(()) };
    match bring_all_back(shared, bucket, &mount.prefix).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = format!(
                "objects under it are only in the origin of another mount, and could not be brought back: {error}; \
                 start without it, see to that, and add it then"
            );
            Err(StartError::Mount(mount.path(), text))
        }
    }
}

async fn record_one(
    shared: &Arc<Shared>,
    mount: &MountConfig,
) -> std::result::Result<(MountId, MountRow), StartError> {
    let refused = |text: String| StartError::Mount(mount.path(), text);
    let (origin, origin_prefix) = match &mount.origin {
        Some(origin) => (origin.url.as_str(), origin.prefix.as_str()),
        None => ("", ""),
    };
    if !is_bucket_name(mount.bucket.as_bytes()) {
        return Err(refused("the bucket's name is not one that S3 allows".to_owned()));
    }
    let mut submission = Submission::new();
    submission.push(&Mutation::Mount {
        bucket: mount.bucket.as_bytes(),
        prefix: &mount.prefix,
        origin,
        origin_prefix,
        mode: if mount.origin.is_some() { MountMode::WriteBack } else { MountMode::Local },
        flushall: mount.flushall,
    });
    let outcomes = shared.submit(submission).await?;
    let id = match outcomes.results.first() {
        Some(Outcome::Mount(id)) => *id,
        Some(Outcome::Refused(Refusal::Mounted(origin))) => {
            return Err(refused(format!(
                "is attached to {origin}; name that origin, start, and forget it (forebay mount forget {}) before \
                 another takes its place",
                mount.path()
            )));
        }
        other => return Err(refused(format!("the core answered {other:?}"))),
    };
    let row = View::latest(&shared.keyspace)
        .get(RowKey::encoded(&numbered_key(Table::Mount, id)), false, true)
        .map_err(view_error)?
        .flatten();
    let row = row.as_deref().and_then(MountRow::decode);
    Ok((MountId(id), row.ok_or_else(|| refused("its record cannot be read".to_owned()))?))
}

/// A mount that was recorded and is no longer configured would gather rows that nobody uploads.
fn refuse_missing(shared: &Shared, mounts: &[MountConfig]) -> std::result::Result<(), StartError> {
    for (_, row) in shared.status.mounts.lock().iter().filter(|(_, row)| !row.local) {
        let bucket = shared.registry.get(row.bucket);
        let name = bucket.as_ref().map_or(&[][..], |bucket| &bucket.name);
        let configured =
            |mount: &MountConfig| mount.bucket.as_bytes() == name && *mount.prefix == *row.prefix;
        if !mounts.iter().any(configured) {
            let path = shared.mount_path(row);
            let text = format!(
                "is recorded with origin {} and missing from the config; put it back, or put it back once and forget \
                 it (forebay mount forget {path})",
                row.origin
            );
            return Err(StartError::Mount(path, text));
        }
    }
    Ok(())
}

/// Queues the objects that were there before their mount; those that its origin knows are left alone.
async fn mark_dirty(
    shared: &Arc<Shared>,
    bucket: BucketId,
    prefix: &[u8],
) -> std::result::Result<(), StartError> {
    let mut after: Option<Bytes> = None;
    loop {
        let view = ReadView::new(shared.clone(), View::latest(&shared.keyspace));
        let page = view.list(bucket, prefix, after.as_deref(), PAGE).await?;
        drop(view);
        let mut submission = Submission::new();
        for listed in &page {
            submission.push(&Mutation::MarkDirty { bucket, key: &listed.key });
        }
        if !submission.is_empty() {
            shared.submit(submission).await?;
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
