//! Holding bytes that something is about to be built on, so that they are not given up under it.
//!
//! A mutation that carries a clean blob over into something that the origin does not hold is refused by apply. So
//! before such mutations are submitted their sources are held: what is not here is brought back, a `Hold` takes the
//! marks away, and when the mutations are answered a `Release` puts them back where the source still stands.
//!
//! What must hold: between the look that finds the bytes here, in a place that is committed, and the `Hold` in the
//! log, nothing of them is judged for eviction ([`Evictor::gate`]); and no `Release` of one holder comes between the
//! `Hold` and the mutations of another. The work runs in a task of its own, which a client that goes away does not
//! end. A crash leaves bytes that count as not clean until the object is written again.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::{Mutex, oneshot};

use super::Evictor;
use crate::error::{Error, Result};
use crate::keyspace::checkpoint::decode_pointer;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{OriginRow, Table, blob_key};
use crate::keyspace::view::{View, ViewError};
use crate::mutation::{Mutation, Outcome, Payload};
use crate::object::{BlobId, BucketId, ObjectRow, Version};
use crate::read::{ReadView, view_error};
use crate::store::Shared;
use crate::submission::{Outcomes, Submission};

/// Times that a source is looked at again after it has changed.
const TRIES: usize = 8;
/// Locks of holders, by key.
const SHARDS: usize = 16;
/// Bytes read at a time of a body that is brought back.
const COPY_BYTES: u64 = 1 << 20;
/// Objects looked at at a time.
const PAGE: usize = 1000;

type Key = (BucketId, Vec<u8>);

/// Who holds what. One entry for each source of a submission under way.
#[derive(Default)]
pub(super) struct Holders {
    /// Held while a `Hold` or a `Release` goes through the log.
    shards: [Mutex<HashMap<Key, Holder>>; SHARDS],
    hasher: RandomState,
}

#[derive(Default)]
struct Holder {
    count: u32,
    /// The version that marks were taken from.
    held: Option<Version>,
}

impl Holders {
    fn shard(&self, key: &Key) -> &Mutex<HashMap<Key, Holder>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

/// Takes a submission through the log, holding what it builds on.
pub(crate) async fn submit_held(shared: &Arc<Shared>, submission: Submission) -> Result<Outcomes> {
    if !submission.builds || !shared.fills.has_origins() {
        return shared.submit(submission).await;
    }
    // Before the look: marks that another holder has taken away do not come back from here on.
    let entered = Entered::enter(shared, sources(&submission)).await;
    let mut wanted = false;
    for key in &entered.keys {
        wanted = wanted || !matches!(stand(shared, key).await?, Stand::Free(_));
    }
    if !wanted {
        return shared.submit(submission).await;
    }
    let (answer, answered) = oneshot::channel();
    let shared = shared.clone();
    tokio::spawn(async move {
        let mut held = Ok(());
        for key in &entered.keys {
            held = hold(&shared, key).await;
            if held.is_err() {
                break;
            }
        }
        let outcomes = match held {
            Ok(()) => shared.submit(submission).await,
            Err(error) => Err(error),
        };
        // Nobody may be waiting any more.
        let _ = answer.send(outcomes);
        drop(entered);
    });
    answered.await.map_err(|_| Error::Unknown("the node stopped before it answered"))?
}

/// A holder of sources; dropped, it is none any more, and the last one of a source has the marks put back.
struct Entered {
    shared: Arc<Shared>,
    keys: Vec<Key>,
}

impl Entered {
    async fn enter(shared: &Arc<Shared>, keys: Vec<Key>) -> Entered {
        let mut entered = Entered { shared: shared.clone(), keys: Vec::with_capacity(keys.len()) };
        for key in keys {
            let mut shard = shared.evictor.holders.shard(&key).lock().await;
            shard.entry(key.clone()).or_default().count += 1;
            entered.keys.push(key);
        }
        entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut later = Vec::new();
        for key in std::mem::take(&mut self.keys) {
            let left = match self.shared.evictor.holders.shard(&key).try_lock() {
                Ok(mut shard) => match shard.get_mut(&key) {
                    Some(holder) if holder.count > 1 => {
                        holder.count -= 1;
                        true
                    }
                    Some(holder) if holder.held.is_none() => shard.remove(&key).is_some(),
                    _ => false,
                },
                Err(_) => false,
            };
            if !left {
                later.push(key);
            }
        }
        if later.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        // Without a runtime the process is about to end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for key in later {
                    release(&shared, key).await;
                }
            });
        }
    }
}

/// The objects whose bytes a submission carries over.
fn sources(submission: &Submission) -> Vec<Key> {
    fn add(mutation: &Mutation<'_>, keys: &mut HashSet<Key>) {
        let (bucket, key) = match mutation {
            Mutation::Append { bucket, key, .. } | Mutation::SetRange { bucket, key, .. } => (bucket, key),
            Mutation::Rename { bucket, from, .. } => (bucket, from),
            Mutation::Copy { from_bucket, from, .. }
            | Mutation::CopyObject { from_bucket, from, .. }
            | Mutation::CopyPart { from_bucket, from, .. } => (from_bucket, from),
            Mutation::Atomic { mutations, .. } => {
                return mutations.iter().for_each(|mutation| add(mutation, keys));
            }
            _ => return,
        };
        keys.insert((*bucket, key.to_vec()));
    }
    let (mut bytes, mut keys) = (&submission.bytes[..], HashSet::new());
    while let Some(mutation) = Mutation::decode(&mut bytes) {
        add(&mutation, &mut keys);
    }
    keys.into_iter().collect()
}

/// How an object's bytes stand.
enum Stand {
    /// None of them is clean, if there is an object at all.
    Free(Option<Version>),
    /// Some are clean, and all of those are here.
    Here(Version),
    /// Some are about to be given up.
    Dropping(Vec<BlobId>),
    /// Some are not here.
    Away,
}

async fn stand(shared: &Arc<Shared>, (bucket, key): &Key) -> Result<Stand> {
    let view = ReadView::new(shared.clone(), View::latest(&shared.keyspace));
    let Some(row) = view.fetch(*bucket, key).await? else { return Ok(Stand::Free(None)) };
    if row.inline_body().is_some() {
        return Ok(Stand::Free(Some(row.version())));
    }
    let (shared, (_, view)) = (shared.clone(), view.parts());
    let looking = shared.clone();
    let look = move || look(&looking, &view, &row);
    shared.pool.run(look).await.map_err(|_| Error::Stopping)?.map_err(view_error)
}

fn look(shared: &Shared, view: &View, row: &ObjectRow) -> Result<Stand, ViewError> {
    let (mut clean, mut away) = (Vec::new(), false);
    for blob in row.parts().filter_map(|part| part.blob()) {
        if view.get(RowKey::encoded(&blob_key(Table::Clean, blob)), false, true)?.flatten().is_some() {
            clean.push(blob);
            away |= is_away(view, blob)?;
        }
    }
    if clean.is_empty() {
        return Ok(Stand::Free(Some(row.version())));
    }
    let dropping = shared.evictor.dropping.lock();
    clean.retain(|blob| dropping.contains(blob));
    Ok(match (clean.is_empty(), away) {
        (false, _) => Stand::Dropping(clean),
        (true, true) => Stand::Away,
        (true, false) => Stand::Here(row.version()),
    })
}

/// Whether a blob has no place here that a crash would leave. May block.
fn is_away(view: &View, blob: BlobId) -> Result<bool, ViewError> {
    let key = blob_key(Table::Blob, blob);
    if view.in_memory(RowKey::encoded(&key)).is_some() {
        // Spilled or named by the next checkpoint, and never given up before.
        return Ok(false);
    }
    // One that was brought back and is not committed yet does not count.
    Ok(view.in_base(&key)?.as_deref().and_then(decode_pointer).is_none())
}

/// Sees to it that the object's bytes are here and stay while there are holders, of which the caller is one.
async fn hold(shared: &Arc<Shared>, key: &Key) -> Result<()> {
    let evictor = &shared.evictor;
    let mut rewritten = false;
    for _ in 0..TRIES {
        let gate = evictor.gate.read().await;
        match stand(shared, key).await? {
            Stand::Free(version) => {
                if rewritten && let Some(version) = version {
                    note_held(evictor, key, version).await;
                }
                return Ok(());
            }
            Stand::Here(version) => {
                let mut shard = evictor.holders.shard(key).lock().await;
                let mut submission = Submission::new();
                submission.push(&Mutation::Hold { bucket: key.0, key: &key.1, version });
                let outcomes = shared.submit(submission).await?;
                if let Some(Outcome::Done(_)) = outcomes.results.first() {
                    shard.entry(key.clone()).or_default().held = Some(version);
                    return Ok(());
                }
            }
            Stand::Dropping(blobs) => {
                drop(gate);
                evictor.wait_dropped(|dropping| !blobs.iter().any(|blob| dropping.contains(blob))).await;
            }
            Stand::Away => {
                drop(gate);
                bring_back(shared, key.0, &key.1).await?;
                rewritten = true;
            }
        }
    }
    Err(Error::Unavailable("the object changes too fast to be built on"))
}

async fn note_held(evictor: &Evictor, key: &Key, version: Version) {
    evictor.holders.shard(key).lock().await.entry(key.clone()).or_default().held = Some(version);
}

/// A holder leaves; the last one has the marks put back.
async fn release(shared: &Arc<Shared>, key: Key) {
    let mut shard = shared.evictor.holders.shard(&key).lock().await;
    let Some(holder) = shard.get_mut(&key) else { return };
    holder.count -= 1;
    if holder.count > 0 {
        return;
    }
    let held = shard.remove(&key).and_then(|holder| holder.held);
    let Some(version) = held else { return };
    let mut submission = Submission::new();
    submission.push(&Mutation::Release { bucket: key.0, key: &key.1, version });
    if let Err(error) = shared.submit(submission).await {
        tracing::debug!(%error, "bytes stay here until their object is written again");
    }
}

/// Reads an object's body whole, wherever it is, and puts it into new places here. Nothing else of it changes; its
/// bytes count as not clean from then on. Does nothing if it has changed meanwhile.
pub(crate) async fn bring_back(shared: &Arc<Shared>, bucket: BucketId, key: &[u8]) -> Result<()> {
    let view = ReadView::new(shared.clone(), View::latest(&shared.keyspace));
    let Some(row) = view.fetch(bucket, key).await? else { return Ok(()) };
    let (len, version, mut submission) = (row.body_len(), row.version(), Submission::new());
    let body = view.open_body(&row).await?;
    // A long copy must not hold old versions of rows.
    drop((view, row));
    shared.admit(&[bucket], len).await?;
    if len <= shared.limits.inline_bytes {
        let value = body.read(0..len).await?;
        let value = Payload::Inline(&value);
        submission.push(&Mutation::Rewrite { bucket, key, version, value });
    } else {
        let mut writer = shared.stager.begin(len)?;
        let mut at = 0;
        while at < len {
            let bytes = body.read(at..at + COPY_BYTES).await?;
            at += bytes.len() as u64;
            writer.write(bytes).await?;
        }
        let staged = writer.finish().await?;
        submission.push(&Mutation::Rewrite { bucket, key, version, value: staged.payload() });
        submission.carry(staged);
    }
    shared.submit(submission).await.map(|_| ())
}

/// Brings every object under a prefix back that has bytes which are not here; of a mount's, if it is named. What was
/// adopted and never written here is left where it is. Whoever calls it has seen to it that nothing more is given up
/// meanwhile. Returns how many there were.
pub(crate) async fn bring_all_back(
    shared: &Arc<Shared>,
    bucket: BucketId,
    prefix: &[u8],
    of: Option<u32>,
) -> Result<u64> {
    let (mut after, mut brought): (Option<Bytes>, u64) = (None, 0);
    loop {
        let (rows, view, last) = page_of(shared, bucket, prefix, after.as_deref()).await?;
        let looking = shared.clone();
        let look = move || -> Result<Vec<Bytes>, ViewError> {
            let mut away = Vec::new();
            for (key, row) in rows {
                let elsewhere = of.is_some_and(|of| !looking.lies_under(of, bucket, &key));
                if elsewhere || adopted_from(&view, bucket, &key, &row)?.is_some() {
                    continue;
                }
                for blob in row.parts().filter_map(|part| part.blob()) {
                    if is_away(&view, blob)? {
                        away.push(key);
                        break;
                    }
                }
            }
            Ok(away)
        };
        let away = shared.pool.run(look).await.map_err(|_| Error::Stopping)?.map_err(view_error)?;
        for key in away {
            bring_back(shared, bucket, &key).await?;
            brought += 1;
        }
        match last {
            Some(last) => after = Some(last),
            None => return Ok(brought),
        }
    }
}

/// Drops what was adopted under a prefix (from the origin of a mount, if it is named) and never written here: it is in
/// that origin, and nowhere else. Whoever calls it has seen to it that nothing more is adopted meanwhile. Returns how
/// many objects there were.
pub(crate) async fn drop_adopted(
    shared: &Arc<Shared>,
    bucket: BucketId,
    prefix: &[u8],
    of: Option<u32>,
) -> Result<u64> {
    let (mut after, mut dropped): (Option<Bytes>, u64) = (None, 0);
    loop {
        let (rows, view, last) = page_of(shared, bucket, prefix, after.as_deref()).await?;
        // Nothing was asked of the origin, so nothing can have come too late.
        let read_at = Version(u64::MAX);
        let look = move || -> Result<Submission, ViewError> {
            let mut submission = Submission::new();
            for (key, row) in rows {
                let from = adopted_from(&view, bucket, &key, &row)?;
                if let Some(mount) = from.filter(|from| of.is_none_or(|of| of == *from)) {
                    let (key, version) = (&key[..], row.version());
                    submission.push(&Mutation::Vanish { bucket, key, mount, version, read_at });
                }
            }
            Ok(submission)
        };
        let submission = shared.pool.run(look).await.map_err(|_| Error::Stopping)?.map_err(view_error)?;
        if !submission.is_empty() {
            let results = shared.submit(submission).await?.results;
            dropped += results.iter().filter(|outcome| matches!(outcome, Outcome::Done(_))).count() as u64;
        }
        match last {
            Some(last) => after = Some(last),
            None => return Ok(dropped),
        }
    }
}

type Rows = Vec<(Bytes, ObjectRow)>;

/// The next objects under a prefix, and the last of them if there may be more.
async fn page_of(
    shared: &Arc<Shared>,
    bucket: BucketId,
    prefix: &[u8],
    after: Option<&[u8]>,
) -> Result<(Rows, View, Option<Bytes>)> {
    let view = ReadView::new(shared.clone(), View::latest(&shared.keyspace));
    let page = view.list(bucket, prefix, after, PAGE).await?;
    let last = page.last().filter(|_| page.len() == PAGE).map(|last| last.key.clone());
    let rows = page.into_iter().map(|it| (it.key, it.row)).collect();
    let (_, view) = view.parts();
    Ok((rows, view, last))
}

/// The mount that an object was adopted from, if it is still exactly what was found there. May block.
fn adopted_from(
    view: &View,
    bucket: BucketId,
    key: &[u8],
    row: &ObjectRow,
) -> Result<Option<u32>, ViewError> {
    let origin = view.get(RowKey::object(Table::Origin, bucket, key), false, true)?.flatten();
    let origin = origin.as_deref().and_then(OriginRow::decode).filter(|origin| origin.adopted);
    let same = |origin: &OriginRow| {
        origin.origin.as_ref().is_some_and(|(version, _)| *version == row.content_version())
    };
    Ok(origin.filter(same).and_then(|origin| origin.mount))
}
