//! Applying log entries: a function of the entry, its stamp and the replicated tables alone.
//!
//! No clock, no randomness, no I/O but the keyspace, never a body that may have left it. Every replica
//! computes the same, and replaying the journal twice gives identical tables. What must agree (object,
//! expiry, blob references, queue and origin rows, bucket counters) changes within one entry and becomes
//! visible with it.
//!
//! This file owns the walk over an entry and the one way a row is replaced ([`Applier::replace`]); the
//! families of mutations live beside it.

mod adopt;
mod body;
mod bucket;
mod clean;
mod float;
mod flush;
mod key;
mod multipart;
mod object;
mod state;
mod string;
mod transfer;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::flush::FlushEvent;
use crate::keyspace::base::BaseError;
use crate::keyspace::memtable::{Horizon, RowKey, Value};
use crate::keyspace::tables::{
    BodyPart, ImportRow, QueueRow, RowReader, Table, blob_key, expiry_key, object_key, take_u8, take_u64,
};
use crate::keyspace::view::View;
use crate::keyspace::{Keyspace, MemSet, PREFETCH_KEYS};
use crate::mutation::{Guard, Mutation, Outcome, Refusal};
use crate::object::{BlobId, BucketId, ClusterId, Version};
use crate::registry::Registry;

use adopt::ForeignKey;
use multipart::{PartSource, UploadName};

pub(crate) use adopt::ATTEMPT_DEAD_MS;
pub(crate) use bucket::mount_path;
pub(crate) use flush::{content_of, flush_row};
pub(crate) use state::State;
pub(crate) use transfer::{asked_upload, stale_transfer};

/// Version of the entry's byte form.
const ENTRY_LAYOUT: u8 = 1;
/// Mutations that are decoded, and whose rows are asked for, before the first of them is applied.
const LOOK_AHEAD: usize = 32;
/// Bytes before an entry's mutations.
pub(crate) const ENTRY_HEAD_BYTES: usize = 17;

/// What the leader lays down for an entry: judged alike on every replica and at every replay, whatever the
/// config says by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryHead {
    /// The leader's time, milliseconds since the Unix epoch.
    pub(crate) stamp_ms: u64,
    /// Longest body, in bytes.
    pub(crate) body_bytes_max: u64,
}

impl EntryHead {
    /// Appends the byte form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(ENTRY_LAYOUT);
        out.extend_from_slice(&self.stamp_ms.to_le_bytes());
        out.extend_from_slice(&self.body_bytes_max.to_le_bytes());
    }

    /// The head of an entry; `None` if it is malformed or empty (raft's own no-op).
    fn decode(mut data: &[u8]) -> Option<EntryHead> {
        if take_u8(&mut data)? != ENTRY_LAYOUT {
            return None;
        }
        Some(EntryHead { stamp_ms: take_u64(&mut data)?, body_bytes_max: take_u64(&mut data)? })
    }
}

/// The object rows that an entry's mutations will look up, as encoded row keys.
pub(crate) fn entry_keys(entry: &[u8], visit: &mut dyn FnMut(Vec<u8>)) {
    let mut bytes = entry.get(ENTRY_HEAD_BYTES..).unwrap_or(&[]);
    while let Some(mutation) = Mutation::decode(&mut bytes) {
        mutation.objects(&mut |bucket, key| visit(object_key(Table::Object, bucket, key)));
    }
}

/// What apply hands back of one entry.
#[derive(Default)]
pub(crate) struct Applied {
    /// One outcome for each mutation, in order; empty if nobody waits.
    pub(crate) results: Vec<Outcome>,
    /// One view for each place asked for.
    pub(crate) views: Vec<View>,
    /// What the flush worker must know, in order.
    pub(crate) events: Vec<FlushEvent>,
}

/// The object row as the running mutation finds it.
struct Loaded {
    raw: Option<Arc<[u8]>>,
    /// Not dead by epoch and not past its time.
    alive: bool,
}

impl Loaded {
    /// The row, if the object exists for the client.
    fn row(&self) -> Option<RowReader<'_>> {
        if self.alive { self.any_row() } else { None }
    }

    /// The row, dead or alive.
    fn any_row(&self) -> Option<RowReader<'_>> {
        self.raw.as_deref().and_then(RowReader::new)
    }
}

/// What was judged, or why the mutation is refused; apart from the checkpoint store's own errors.
type Judged<T> = Result<Result<T, Refusal>, BaseError>;

/// How a replacement counts for the flush queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flushing {
    /// The origin need not hear of it (EXPIRE, PERSIST, REWRITE).
    No,
    /// A write or delete that wins over whatever the origin holds.
    Plain,
    /// One that follows from what was here: it wins over nothing that was not known.
    Judged,
    /// A conditional write: a barrier.
    Barrier,
}

/// Where the walk stands.
struct Place {
    index: u64,
    position: u64,
    stamp_ms: u64,
    horizon: Horizon,
    set: Arc<MemSet>,
}

/// See the file's head. Owned by the thread that drives the replica.
pub(crate) struct Applier {
    keyspace: Arc<Keyspace>,
    registry: Arc<Registry>,
    cluster: ClusterId,
    /// Of the running entry.
    body_bytes_max: u64,
    state: State,
    place: Place,
    scratch: Vec<u8>,
    events: Vec<FlushEvent>,
    /// Blobs that the running mutation brings: each counts as one reference without a row.
    made: Vec<BlobId>,
    touched: HashSet<BucketId, foldhash::fast::RandomState>,
}

impl Applier {
    /// Reads the derived state from the tables; everything up to the entry at `applied` is in them.
    pub(crate) fn load(
        keyspace: Arc<Keyspace>,
        registry: Arc<Registry>,
        cluster: ClusterId,
        applied: u64,
        stamp_ms: u64,
    ) -> Result<Applier, BaseError> {
        let state = State::load(&keyspace, &registry)?;
        let set = keyspace.memtables();
        let horizon = keyspace.horizon();
        let place = Place { index: applied, position: 0, stamp_ms, horizon, set };
        Ok(Applier {
            keyspace,
            registry,
            cluster,
            body_bytes_max: 0,
            state,
            place,
            scratch: Vec::new(),
            events: Vec::new(),
            made: Vec::new(),
            touched: HashSet::default(),
        })
    }

    /// Index of the last applied entry.
    pub(crate) fn applied_index(&self) -> u64 {
        self.place.index
    }

    /// Stamp of the last applied entry.
    pub(crate) fn stamp_ms(&self) -> u64 {
        self.place.stamp_ms
    }

    /// The derived state.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Whether mounts or epochs have changed since this was last asked.
    pub(crate) fn take_tables_changed(&mut self) -> bool {
        self.state.take_tables_changed()
    }

    /// Whether a blob may have become clean without a mark since this was last asked.
    pub(crate) fn take_unmarked(&mut self) -> bool {
        std::mem::take(&mut self.state.unmarked)
    }

    /// Applies an entry and publishes it. `places`: for each view wanted, the number of outcomes before it,
    /// ascending. An error is the checkpoint store's and ends the process: the entry is half applied in
    /// memory and whole in the journal.
    pub(crate) fn apply(
        &mut self,
        index: u64,
        data: &[u8],
        places: &[usize],
        collect: bool,
    ) -> Result<Applied, BaseError> {
        assert_eq!(index, self.place.index + 1, "entries are applied in order");
        let mut applied = Applied::default();
        self.place.index = index;
        self.place.position = 0;
        self.place.horizon = self.keyspace.horizon();
        self.place.set = self.keyspace.memtables();
        let mut bytes = data;
        if let Some(head) = EntryHead::decode(data) {
            bytes = &data[ENTRY_HEAD_BYTES..];
            self.place.stamp_ms = self.place.stamp_ms.max(head.stamp_ms);
            self.body_bytes_max = head.body_bytes_max;
        } else if !data.is_empty() {
            tracing::error!(index, "an entry of an unknown layout was skipped");
            bytes = &[];
        }
        let mut walk = Walk { places, next: 0, applied: &mut applied, collect };
        let mut ahead: Vec<Mutation<'_>> = Vec::with_capacity(LOOK_AHEAD);
        while !bytes.is_empty() {
            let mut malformed = false;
            while ahead.len() < LOOK_AHEAD && !bytes.is_empty() && !malformed {
                match Mutation::decode(&mut bytes) {
                    Some(mutation) => ahead.push(mutation),
                    None => malformed = true,
                }
            }
            self.prefetch(&ahead);
            for mutation in ahead.drain(..) {
                self.step(&mutation, &mut walk)?;
            }
            if malformed {
                tracing::error!(
                    index,
                    position = self.place.position,
                    "malformed mutation; the rest of its entry was skipped"
                );
                walk.outcome(Outcome::Refused(Refusal::Malformed));
                break;
            }
        }
        walk.views(self);
        for bucket in std::mem::take(&mut self.touched) {
            self.write_bucket_row(bucket);
        }
        self.keyspace.publish(index);
        self.state.publish();
        applied.events = std::mem::take(&mut self.events);
        Ok(applied)
    }

    /// Asks the CPU for the rows of mutations that come next, instead of waiting for each in turn.
    fn prefetch(&self, ahead: &[Mutation<'_>]) {
        let mut keys: SmallVec<[RowKey<'_>; PREFETCH_KEYS]> = SmallVec::new();
        for mutation in ahead {
            mutation.objects(&mut |bucket, key| {
                if keys.len() < PREFETCH_KEYS {
                    keys.push(RowKey::object(Table::Object, bucket, key));
                }
            });
        }
        if keys.len() > 1 {
            self.keyspace.prefetch(keys.iter().copied());
        }
    }

    fn step(&mut self, mutation: &Mutation<'_>, walk: &mut Walk<'_>) -> Result<(), BaseError> {
        walk.views(self);
        let Mutation::Atomic { guards, mutations } = mutation else {
            let outcome = self.run(mutation)?;
            self.place.position += 1;
            walk.outcome(outcome);
            return Ok(());
        };
        let holds = self.guards_hold(guards)?;
        let version = self.version();
        self.place.position += 1;
        walk.outcome(if holds { Outcome::Done(version) } else { Outcome::Unmet });
        for mutation in mutations {
            if holds {
                self.step(mutation, walk)?;
            } else {
                self.skip(mutation, walk);
            }
        }
        Ok(())
    }

    fn skip(&mut self, mutation: &Mutation<'_>, walk: &mut Walk<'_>) {
        walk.views(self);
        self.place.position += 1;
        walk.outcome(Outcome::Skipped);
        if let Mutation::Atomic { mutations, .. } = mutation {
            for mutation in mutations {
                self.skip(mutation, walk);
            }
        }
    }

    fn guards_hold(&mut self, guards: &[Guard<'_>]) -> Result<bool, BaseError> {
        for Guard::VersionIs { bucket, key, version } in guards {
            let loaded = self.load_row(*bucket, key)?;
            if loaded.row().map(|row| row.version) != *version {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn run(&mut self, mutation: &Mutation<'_>) -> Result<Outcome, BaseError> {
        self.made.clear();
        match mutation {
            Mutation::SetString { bucket, key, value, expiry, existence } => {
                self.set_string(*bucket, key, value, *expiry, *existence)
            }
            Mutation::Append { bucket, key, value } => self.append(*bucket, key, value),
            Mutation::SetRange { bucket, key, offset, value } => self.set_range(*bucket, key, *offset, value),
            Mutation::IncrBy { bucket, key, delta } => self.incr_by(*bucket, key, *delta),
            Mutation::IncrByFloat { bucket, key, delta } => self.incr_by_float(*bucket, key, delta),
            Mutation::Delete { bucket, key } => self.delete(*bucket, key),
            Mutation::Expire { bucket, key, at_ms, condition } => {
                self.expire(*bucket, key, *at_ms, *condition)
            }
            Mutation::Persist { bucket, key } => self.persist(*bucket, key),
            Mutation::Rename { bucket, from, to, if_absent } => self.rename(*bucket, from, to, *if_absent),
            Mutation::Copy { from_bucket, from, to_bucket, to, replace } => {
                self.copy((*from_bucket, from), (*to_bucket, to), *replace)
            }
            Mutation::PutObject { bucket, key, value, meta, md5, condition } => {
                self.put_object(*bucket, key, value, meta, *md5, condition)
            }
            Mutation::Rewrite { bucket, key, version, value } => self.rewrite(*bucket, key, *version, value),
            Mutation::CreateBucket { name } => Ok(self.create_bucket(name)),
            Mutation::DeleteBucket { name } => Ok(self.delete_bucket(name)),
            Mutation::FlushBucket { bucket } => Ok(self.flush_bucket(*bucket)),
            Mutation::ExpireDue { bucket, key } => self.expire_due(*bucket, key),
            Mutation::Sweep { bucket, key } => self.sweep(*bucket, key),
            Mutation::SweepDone { bucket, epoch } => Ok(self.sweep_done(*bucket, *epoch)),
            Mutation::Mount { bucket, prefix, origin, origin_prefix, mode, flushall, revalidate } => {
                Ok(self.mount(bucket, prefix, origin, origin_prefix, *mode, (*flushall, *revalidate)))
            }
            Mutation::MountAttached { mount, existing } => Ok(self.mount_attached(*mount, *existing)),
            Mutation::Adopt { bucket, key, mount, read_at, replaces, head } => self.adopt(
                ForeignKey { bucket: *bucket, key, mount: *mount, read_at: *read_at },
                *replaces,
                head,
            ),
            Mutation::Vanish { bucket, key, mount, version, read_at } => {
                self.vanish(ForeignKey { bucket: *bucket, key, mount: *mount, read_at: *read_at }, *version)
            }
            Mutation::ImportNote { mount, after, listed, adopted, state } => {
                let note =
                    ImportRow { state: *state, listed: *listed, adopted: *adopted, after: Box::from(*after) };
                Ok(self.import_note(*mount, &note))
            }
            Mutation::MountForget { mount, abandon } => self.mount_forget(*mount, *abandon),
            Mutation::MarkDirty { bucket, key } => self.mark_dirty(*bucket, key),
            Mutation::FlushStarted { bucket, key, version, deadline_ms } => {
                self.flush_started(*bucket, key, *version, *deadline_ms)
            }
            Mutation::Flushed { bucket, key, version, origin_etag, mount } => {
                self.flushed(*bucket, key, *version, *origin_etag, *mount)
            }
            Mutation::Transfer { bucket, key, version, upload_id, step } => {
                self.transfer(*bucket, key, *version, upload_id, step)
            }
            Mutation::TransferGone { version, mount } => self.transfer_gone(*version, *mount),
            Mutation::FlushPark { bucket, key, version, reason } => {
                self.flush_park(*bucket, key, *version, reason)
            }
            Mutation::FlushAbandon { bucket, key, version } => self.flush_abandon(*bucket, key, *version),
            Mutation::CopyObject { from_bucket, from, source, to_bucket, to, meta, condition } => {
                self.copy_object((*from_bucket, from, *source), (*to_bucket, to), *meta, condition)
            }
            Mutation::CreateUpload { bucket, key, meta, options } => {
                Ok(self.create_upload(*bucket, key, meta, options))
            }
            Mutation::PutPart { bucket, key, upload, number, value, meta, md5 } => {
                let name = UploadName { bucket: *bucket, key, upload: *upload };
                self.put_part(name, *number, value, meta, *md5)
            }
            Mutation::CopyPart { bucket, key, upload, number, from_bucket, from, source, start, len } => {
                let name = UploadName { bucket: *bucket, key, upload: *upload };
                let source = PartSource {
                    bucket: *from_bucket,
                    key: from,
                    version: *source,
                    start: *start,
                    len: *len,
                };
                self.copy_part(name, *number, source)
            }
            Mutation::CompleteUpload { bucket, key, upload, parts, etag, checksum, condition } => {
                let name = UploadName { bucket: *bucket, key, upload: *upload };
                self.complete_upload(name, parts, *etag, checksum, condition)
            }
            Mutation::AbortUpload { bucket, key, upload } => {
                self.abort_upload(UploadName { bucket: *bucket, key, upload: *upload })
            }
            Mutation::Hold { bucket, key, version } => self.hold_bytes(*bucket, key, *version),
            Mutation::Release { bucket, key, version } => self.release_bytes(*bucket, key, *version),
            Mutation::AbortBefore { node } => Ok(self.abort_before(*node)),
            // Walked by `step`.
            Mutation::Atomic { .. } => Ok(Outcome::Refused(Refusal::Malformed)),
        }
    }

    /// The version of the running mutation.
    fn version(&self) -> Version {
        Version::new(self.place.index, self.place.position)
    }

    fn put(&self, key: RowKey<'_>, value: Value) {
        self.place.set.active.put(key, self.version(), value, self.place.horizon);
    }

    fn newest(&self, key: RowKey<'_>, cached: bool) -> Result<Value, BaseError> {
        self.keyspace.newest(&self.place.set, key, cached)
    }

    fn load_row(&self, bucket: BucketId, key: &[u8]) -> Result<Loaded, BaseError> {
        let raw = self.newest(RowKey::object(Table::Object, bucket, key), true)?;
        let epoch = self.state.epoch(bucket);
        let alive = raw.as_deref().and_then(RowReader::new).is_some_and(|row| {
            row.version >= epoch && row.expires_at_ms.is_none_or(|at| at > self.place.stamp_ms)
        });
        Ok(Loaded { raw, alive })
    }

    /// Puts `new` (or nothing) in the place of `old`, with everything that must change together: expiry
    /// index, counters, queue, blob references.
    fn replace(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        old: &Loaded,
        new: Option<Arc<[u8]>>,
        flushing: Flushing,
    ) -> Result<(), BaseError> {
        let old_row = old.any_row();
        let new_row = new.as_deref().and_then(RowReader::new);
        if old_row.is_none() && new_row.is_none() {
            return Ok(());
        }
        let old_expiry = old_row.and_then(|row| row.expires_at_ms);
        let new_expiry = new_row.and_then(|row| row.expires_at_ms);
        if old_expiry != new_expiry {
            if let Some(at) = old_expiry {
                self.put(RowKey::encoded(&expiry_key(at, bucket, key)), None);
            }
            if let Some(at) = new_expiry {
                self.put(RowKey::encoded(&expiry_key(at, bucket, key)), Some(Arc::from(&[][..])));
            }
        }
        self.state.count(bucket, old_row.as_ref(), new_row.as_ref());
        self.touched.insert(bucket);

        let held = match flushing {
            Flushing::No => false,
            _ => self.enqueue(bucket, key, old, new_row.as_ref(), flushing)?,
        };
        self.move_blob_references(old_row.filter(|_| !held).as_ref(), new_row.as_ref())?;
        self.put(RowKey::object(Table::Object, bucket, key), new);
        Ok(())
    }

    /// Blobs of `old` that `new` no longer uses are released; those it takes over from elsewhere are
    /// counted.
    fn move_blob_references(
        &mut self,
        old: Option<&RowReader<'_>>,
        new: Option<&RowReader<'_>>,
    ) -> Result<(), BaseError> {
        let old_blobs = old.map(blobs_of).unwrap_or_default();
        let new_blobs = new.map(blobs_of).unwrap_or_default();
        for blob in new_blobs.iter().filter(|blob| old_blobs.binary_search(blob).is_err()) {
            if !self.made.contains(blob) {
                self.change_references(*blob, 1)?;
            }
        }
        for blob in old_blobs.iter().filter(|blob| new_blobs.binary_search(blob).is_err()) {
            self.change_references(*blob, -1)?;
        }
        Ok(())
    }

    fn change_references(&mut self, blob: BlobId, by: i64) -> Result<(), BaseError> {
        let key = blob_key(Table::Refs, blob);
        let row = self.newest(RowKey::encoded(&key), false)?;
        let count =
            row.as_deref().and_then(|row| row.first_chunk::<4>()).map_or(1, |c| u32::from_le_bytes(*c));
        let count = i64::from(count) + by;
        debug_assert!(count >= 0, "blob {blob:?} has {count} references");
        if count <= 0 {
            self.put(RowKey::encoded(&blob_key(Table::Blob, blob)), None);
            self.unmark_clean(blob)?;
        }
        if count > 1 {
            self.put(RowKey::encoded(&key), Some(Arc::from(&(count as u32).to_le_bytes()[..])));
        } else if row.is_some() {
            self.put(RowKey::encoded(&key), None);
            // Whose the last reference is nobody here knows.
            self.state.unmarked |= count == 1 && self.state.has_origins();
        }
        Ok(())
    }

    fn write_bucket_row(&mut self, bucket: BucketId) {
        if let Some(row) = self.state.bucket_row(bucket) {
            let key = crate::keyspace::tables::numbered_key(Table::Bucket, bucket.0);
            self.put_at_end(RowKey::encoded(&key), Some(row.encode()));
        }
    }

    /// Writes a row once per entry, behind its last mutation.
    fn put_at_end(&self, key: RowKey<'_>, value: Value) {
        let version = Version::end_of(self.place.index);
        self.place.set.active.put(key, version, value, self.place.horizon);
    }

    fn read_queue_row(
        &self,
        version: Version,
        bucket: BucketId,
        key: &[u8],
    ) -> Result<Option<QueueRow>, BaseError> {
        let row_key = crate::keyspace::tables::queue_key(version, bucket, key);
        Ok(self.newest(RowKey::encoded(&row_key), false)?.as_deref().and_then(QueueRow::decode))
    }
}

/// The distinct blobs of a row, sorted; most rows have none.
pub(crate) fn blobs_of(row: &RowReader<'_>) -> Vec<BlobId> {
    let mut blobs = Vec::new();
    if row.inline_body().is_some() {
        return blobs;
    }
    for part in row.parts() {
        if let BodyPart::Extent { blob, .. } = part {
            blobs.push(blob);
        }
    }
    blobs.sort_unstable();
    blobs.dedup();
    blobs
}

/// Collects outcomes and views along an entry.
struct Walk<'a> {
    places: &'a [usize],
    next: usize,
    applied: &'a mut Applied,
    collect: bool,
}

impl Walk<'_> {
    fn outcome(&mut self, outcome: Outcome) {
        if self.collect {
            self.applied.results.push(outcome);
        }
    }

    /// Takes the views whose place has been reached.
    fn views(&mut self, applier: &mut Applier) {
        while self.places.get(self.next).is_some_and(|place| *place as u64 <= applier.place.position) {
            let at = Version::new(applier.place.index, applier.place.position).before();
            self.applied.views.push(View::in_entry(&applier.keyspace, at));
            // What this view sees must outlive the rest of the entry.
            applier.place.horizon.newest = applier.place.horizon.newest.max(at);
            self.next += 1;
        }
    }
}

/// A digest of all replicated tables, bodies by content and not by place: equal on every replica at the
/// same index, and after every replay.
#[cfg(test)]
pub(crate) fn digest(
    keyspace: &Arc<Keyspace>,
    body: &dyn Fn(&View, BlobId) -> Option<Vec<u8>>,
) -> Result<blake3::Hash, crate::keyspace::view::ViewError> {
    let view = View::latest(keyspace);
    let mut hasher = blake3::Hasher::new();
    let mut frame = Vec::new();
    for table in Table::REPLICATED {
        let mut from = vec![table as u8];
        let end = Keyspace::table_end(table);
        loop {
            let page = view.range(std::ops::Bound::Excluded(&from), &end, 1000)?;
            for (key, value) in &page {
                frame.clear();
                crate::keyspace::tables::put_bytes(&mut frame, key);
                match (table, crate::keyspace::tables::split_blob_key(key)) {
                    (Table::Blob, Some(blob)) => {
                        crate::keyspace::tables::put_bytes(
                            &mut frame,
                            &body(&view, blob).unwrap_or_default(),
                        );
                    }
                    _ => crate::keyspace::tables::put_bytes(&mut frame, value),
                }
                hasher.update(&frame);
            }
            match page.last() {
                Some((key, _)) if page.len() == 1000 => from = key.to_vec(),
                _ => break,
            }
        }
    }
    Ok(hasher.finalize())
}
