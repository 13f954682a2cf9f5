//! Recorded mounts: how the config's mounts get into the log, and how one is forgotten.
//!
//! Owns the comparison of config and record, and the order of the steps of forgetting. Does not own the
//! record itself (apply's), nor what a mount does (`flush/`).
//!
//! What must hold: an object is queued for the origin that its key has now, and what was learnt of another
//! origin says nothing about it; apply sees to that by the mount's number in the origin rows. Objects that were found
//! in a mount's origin and never written here go with it: their bytes are nowhere else. What a crash leaves: a mount
//! that takes no more rows and still has some, or such objects; the next start gives them up and forgets it.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::apply::mount_path;
use crate::error::{Error, Result};
use crate::evict::{bring_all_back, drop_adopted};
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
    /// How it treats the origin.
    pub mode: MountMode,
    /// The origin was reached.
    pub attached: bool,
    /// The origin held, or holds, what this cluster has not put there: keys without a row are looked up.
    pub existing: bool,
    /// Foreign changes are looked for.
    pub revalidate: bool,
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
        self.with_mount(bucket, key, |number, _| Some(number))
    }

    /// Whether the key lies under this mount, whatever that one does.
    pub(crate) fn lies_under(&self, mount: u32, bucket: BucketId, key: &[u8]) -> bool {
        let mounts = self.status.mounts.lock();
        covering(&mounts, bucket, key).is_some_and(|(number, _)| *number == mount)
    }

    /// What `look` says of the mount that takes a key's changes, if there is one. Takes a short lock.
    pub(crate) fn with_mount<T>(
        &self,
        bucket: BucketId,
        key: &[u8],
        look: impl FnOnce(u32, &MountRow) -> Option<T>,
    ) -> Option<T> {
        let mounts = self.status.mounts.lock();
        let (number, mount) =
            covering(&mounts, bucket, key).filter(|(_, mount)| !mount.local && !mount.leaving)?;
        look(*number, mount)
    }

    pub(crate) fn mount_path(&self, row: &MountRow) -> String {
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
            mode: row.mode(),
            attached: row.attached,
            existing: row.existing,
            revalidate: row.revalidate,
            leaving: row.leaving,
            queued: queued.iter().find(|(of, _)| of == number).map_or(0, |(_, rows)| *rows),
        });
        shown.collect()
    }

    /// Forgets the mount at `/bucket/prefix`: the origin keeps what it has, nothing more is sent to it, the
    /// objects stay here, and what was only in the origin is brought back first (an error if that cannot be done). But
    /// objects that were found in the origin and never written here go: they are there, as they were before. With
    /// `abandon`, changes that wait for it are given up; without, they refuse it.
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
        let _leaving = shared.evictor.leave(number).await?;
        match bring_all_back(shared, bucket, prefix, Some(number)).await {
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

/// The mount with the longest prefix of a key.
fn covering<'a>(mounts: &'a [(u32, MountRow)], bucket: BucketId, key: &[u8]) -> Option<&'a (u32, MountRow)> {
    let covers = |(_, mount): &&(u32, MountRow)| mount.bucket == bucket && key.starts_with(&mount.prefix);
    mounts.iter().filter(covers).max_by_key(|(_, mount)| mount.prefix.len())
}

async fn forget(shared: &Arc<Shared>, mount: u32, abandon: bool) -> Result<Forgotten> {
    let mut abandoned = 0;
    loop {
        let leaving = |(number, row): &(u32, MountRow)| {
            (*number == mount && row.leaving).then(|| (row.bucket, row.prefix.clone()))
        };
        // Also of one that a crash has interrupted.
        let place = shared.status.mounts.lock().iter().find_map(leaving);
        if let Some((bucket, prefix)) = place {
            if abandon {
                abandoned += abandon_rows(shared, mount).await?;
            }
            let objects = drop_adopted(shared, bucket, &prefix, Some(mount)).await?;
            if objects > 0 {
                tracing::info!(
                    objects,
                    mount,
                    "objects that were adopted and never written are gone from here"
                );
            }
        }
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
        shared.lookups.configure(id.0, mount.revalidate);
        // Also of one that was recorded before: until it is attached, the config may name another origin.
        shared.fills.add_origin(id.0, &row.prefix, &row.origin_prefix, connected.clone());
        // What lies here under a mount that is only read waits until it may be written.
        if (!row.attached || row.uncovered) && !row.read_only {
            mark_dirty(shared, row.bucket, &mount.prefix).await?;
        }
        if row.attached && row.uncovered && !row.read_only {
            let mut submission = Submission::new();
            submission.push(&Mutation::MountAttached { mount: id.0, existing: false });
            shared.submit(submission).await?;
        }
        specs.push(MountSpec {
            id,
            bucket: row.bucket,
            key_prefix: Bytes::copy_from_slice(&mount.prefix),
            origin: connected,
            origin_prefix: origin.prefix.clone(),
            origin_root: row.origin_root().to_owned(),
            attached: row.attached,
            fifo: mount.fifo,
            min_interval: mount.min_interval,
            checksums: mount.checksums,
            read_only: row.read_only,
            existing: row.existing,
            revalidate: row.revalidate,
            write_through_timeout: mount.write_through_timeout,
            max_lag: mount.max_lag,
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
    // What was found in the origin of a mount above is that mount's data, known here only because somebody asked.
    drop_adopted(shared, bucket, &mount.prefix, None).await?;
    match bring_all_back(shared, bucket, &mount.prefix, None).await {
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
        mode: if mount.origin.is_some() { mount.mode } else { MountMode::Local },
        flushall: mount.flushall,
        revalidate: mount.revalidate.is_some(),
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
