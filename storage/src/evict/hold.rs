//! Holding bytes that something is about to be built on, so that they are not given up under it.
//!
//! A mutation that carries a clean blob over into something that the origin does not hold is refused by apply. So
//! such mutations go into the log right behind a `Hold` of each of their sources, which takes the marks away, whatever
//! stands there by then; what is not here is brought back before. When they are answered, a `Release` puts the marks
//! back where the source still stands.
//!
//! What must hold: from the look that finds the bytes here, in a place that is committed, until the log has answered
//! for the `Hold`, nothing of them is judged for eviction: the submission itself keeps the [`Evictor::gate`] open. Between
//! `Hold` and mutations nothing else stands in the log: no `Release`, and no `Flushed` of what was dirty at the look.
//! Bringing back runs in a task of its own, which a client that goes away does not end. A crash leaves bytes that count
//! as not clean until room is wanted and nothing else is found (`release.rs`).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};

use crate::error::{Error, Result};
use crate::keyspace::checkpoint::decode_pointer;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{OriginRow, Table, blob_key};
use crate::keyspace::view::{View, ViewError};
use crate::mutation::{Mutation, Outcome, Payload};
use crate::object::{BlobId, BucketId, ObjectRow, Version};
use crate::read::{ReadView, view_error};
use crate::stage::BodyOf;
use crate::store::Shared;
use crate::submission::{Outcomes, Submission};

/// Times that sources are looked at again after something of them was away.
const TRIES: usize = 8;
/// Bytes read at a time of a body that is brought back.
const COPY_BYTES: u64 = 1 << 20;
/// Objects looked at at a time.
const PAGE: usize = 1000;

type Key = (BucketId, Vec<u8>);

/// Takes a submission through the log, holding what it builds on.
pub(crate) async fn submit_held(shared: &Arc<Shared>, submission: Submission) -> Result<Outcomes> {
    if !submission.builds || !shared.fills.has_origins() {
        return shared.submit(submission).await;
    }
    let sources = sources(&submission);
    if let Ok(held) = look_at_all(shared, &sources, &HashSet::new()).await? {
        return held.submit(shared, submission).await;
    }
    let (answer, answered) = oneshot::channel();
    let shared = shared.clone();
    tokio::spawn(async move {
        let outcomes = match bring_sources_back(&shared, &sources).await {
            Ok(held) => held.submit(&shared, submission).await,
            Err(error) => Err(error),
        };
        // Nobody may be waiting any more.
        let _ = answer.send(outcomes);
    });
    answered.await.map_err(|_| Error::Unknown("the node stopped before it answered"))?
}

/// Looks until all sources are here.
async fn bring_sources_back(shared: &Arc<Shared>, sources: &[Key]) -> Result<Held> {
    let mut brought_back = HashSet::new();
    for _ in 0..TRIES {
        let missing = match look_at_all(shared, sources, &brought_back).await? {
            Ok(held) => return Ok(held),
            Err(missing) => missing,
        };
        shared.evictor.wait_dropped(&missing.dropping).await?;
        for key in missing.away {
            bring_back(shared, key.0, &key.1).await?;
            brought_back.insert(key);
        }
    }
    Err(Error::Unavailable("the object changes too fast to be built on"))
}

/// Sources whose bytes are here, and stay until the log has answered for their holds.
struct Held {
    sources: Vec<Source>,
    gate: OwnedRwLockReadGuard<()>,
}

struct Source {
    key: Key,
    /// As it was seen; `None` if it has no blobs.
    version: Option<Version>,
    /// Whether marks were seen, or went when it was brought back.
    marked: bool,
}

impl Held {
    async fn submit(self, shared: &Arc<Shared>, submission: Submission) -> Result<Outcomes> {
        let Held { mut sources, gate } = self;
        let mut holds = Submission::new();
        for Source { key: (bucket, key), .. } in &sources {
            holds.push(&Mutation::Hold { bucket: *bucket, key, version: None });
        }
        let marked = sources.iter().filter(|source| source.marked).filter_map(Source::name).collect();
        let mut releasing = Releasing { shared, marked };
        let mut outcomes = shared.submit_keeping(submission.behind(holds), Some(gate)).await?;
        // And those that the flush has marked since the look.
        let holds = outcomes.results.drain(..sources.len().min(outcomes.results.len()));
        for (source, hold) in sources.iter_mut().zip(holds) {
            source.marked |= matches!(hold, Outcome::Done(_));
        }
        releasing.marked = sources.iter().filter(|source| source.marked).filter_map(Source::name).collect();
        Ok(outcomes)
    }
}

impl Source {
    fn name(&self) -> Option<(Key, Version)> {
        self.version.map(|version| (self.key.clone(), version))
    }
}

/// Puts marks back when it is dropped, be it that nobody waited for the answer: behind the holds in any case.
struct Releasing<'s> {
    shared: &'s Arc<Shared>,
    marked: Vec<(Key, Version)>,
}

impl Drop for Releasing<'_> {
    fn drop(&mut self) {
        let marked = std::mem::take(&mut self.marked);
        // Without a runtime the process is about to end.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if marked.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        runtime.spawn(async move {
            let mut submission = Submission::new();
            for ((bucket, key), version) in &marked {
                submission.push(&Mutation::Release { bucket: *bucket, key, version: *version });
            }
            let released = shared.submit(submission).await;
            let all = |results: &[Outcome]| results.iter().all(|it| matches!(it, Outcome::Done(_)));
            if !released.is_ok_and(|released| all(&released.results)) {
                shared.status.unmarked.store(true, Relaxed);
            }
        });
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

/// What of the sources is not here.
#[derive(Default)]
struct Missing {
    dropping: Vec<BlobId>,
    away: Vec<Key>,
}

/// How an object's bytes stand.
enum Stand {
    /// They are here, if it has any; its version, and whether some are marked as clean.
    Here(Option<Version>, bool),
    /// Some are about to be given up.
    Dropping(Vec<BlobId>),
    /// Some are not here.
    Away,
}

/// Looks at every source under one gate, which stays open if all are here.
async fn look_at_all(
    shared: &Arc<Shared>,
    sources: &[Key],
    brought_back: &HashSet<Key>,
) -> Result<std::result::Result<Held, Missing>> {
    let gate = shared.evictor.gate.clone().read_owned().await;
    let (mut here, mut missing) = (Vec::with_capacity(sources.len()), Missing::default());
    for key in sources {
        match stand(shared, key).await? {
            Stand::Here(version, marked) => {
                let marked = marked || brought_back.contains(key);
                here.push(Source { key: key.clone(), version, marked });
            }
            Stand::Dropping(blobs) => missing.dropping.extend(blobs),
            Stand::Away => missing.away.push(key.clone()),
        }
    }
    match here.len() == sources.len() {
        true => Ok(Ok(Held { sources: here, gate })),
        false => Ok(Err(missing)),
    }
}

async fn stand(shared: &Arc<Shared>, (bucket, key): &Key) -> Result<Stand> {
    let view = ReadView::new(shared.clone(), View::latest(&shared.keyspace));
    let row = view.fetch(*bucket, key).await?;
    let Some(row) = row.filter(|row| row.inline_body().is_none()) else {
        return Ok(Stand::Here(None, false));
    };
    let (shared, (_, view)) = (shared.clone(), view.parts());
    let looking = shared.clone();
    let look = move || look(&looking, &view, &row);
    shared.pool.run(look).await.map_err(|_| Error::Stopping)?.map_err(view_error)
}

fn look(shared: &Shared, view: &View, row: &ObjectRow) -> Result<Stand, ViewError> {
    let mut clean = Vec::new();
    for blob in row.parts().filter_map(|part| part.blob()) {
        if view.get(RowKey::encoded(&blob_key(Table::Clean, blob)), false, true)?.flatten().is_some() {
            clean.push(blob);
        }
    }
    if clean.is_empty() {
        return Ok(Stand::Here(Some(row.version()), false));
    }
    #[cfg(test)]
    if shared.evictor.sabotage.lock().places_first {
        let away = any_away(view, &clean)?;
        shared.evictor.between_looks();
        let dropping = dropping_of(shared, &clean);
        return Ok(match dropping.is_empty() {
            false => Stand::Dropping(dropping),
            true if away => Stand::Away,
            true => Stand::Here(Some(row.version()), true),
        });
    }
    // Before the look at the places: a round that ends in between has dropped its own by then, and under the gate
    // no other begins. The reverse would find the old place, and then nobody who gives it up.
    let dropping = dropping_of(shared, &clean);
    #[cfg(test)]
    shared.evictor.between_looks();
    if !dropping.is_empty() {
        return Ok(Stand::Dropping(dropping));
    }
    if any_away(view, &clean)? {
        return Ok(Stand::Away);
    }
    Ok(Stand::Here(Some(row.version()), true))
}

/// Those of the blobs that are about to be given up.
fn dropping_of(shared: &Shared, blobs: &[BlobId]) -> Vec<BlobId> {
    let all = shared.evictor.dropping.lock();
    blobs.iter().copied().filter(|blob| all.contains(blob)).collect()
}

fn any_away(view: &View, blobs: &[BlobId]) -> Result<bool, ViewError> {
    for blob in blobs {
        if is_away(view, *blob)? {
            return Ok(true);
        }
    }
    Ok(false)
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

/// Reads an object's body whole, wherever it is, and puts it into new places here. Nothing else of it changes; its
/// bytes count as not clean from then on. Does nothing if it has changed meanwhile.
pub(crate) async fn bring_back(shared: &Arc<Shared>, bucket: BucketId, key: &[u8]) -> Result<()> {
    let view = ReadView::new(shared.clone(), View::latest(&shared.keyspace));
    let Some(row) = view.fetch(bucket, key).await? else { return Ok(()) };
    let (len, version, mut submission) = (row.body_len(), row.version(), Submission::new());
    if len > shared.limits.capacity_bytes {
        return Err(Error::BeyondCapacity(len, shared.limits.capacity_bytes));
    }
    let body = view.open_body(&row).await?;
    // A long copy must not hold old versions of rows.
    drop((view, row));
    shared.admit(&[bucket], len).await?;
    if len <= shared.limits.inline_bytes {
        let value = body.read(0..len).await?;
        let value = Payload::Inline(&value);
        submission.push(&Mutation::Rewrite { bucket, key, version, value });
    } else {
        let mut writer = shared.begin_staging(bucket, len, BodyOf::Object)?;
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
