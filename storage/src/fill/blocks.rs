//! Blocks on their way from an origin: one fetch for each, however many readers wait; the last ones stay in memory
//! for a moment.
//!
//! Bounds: [`FETCHES_MAX`] fetches at once from each mount's origin, the others wait for their turn, but no longer than
//! [`TURN_TIMEOUT`]; [`RECENT_BYTES_MAX`] of blocks kept. So an origin that does not answer holds up nobody who reads
//! from another. A fetch runs in a task of its own: a reader that goes away ends nothing.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::{OriginBody, OriginPart, read_here};
use crate::error::{Error, Result};
use crate::object::BlobId;
use crate::origin::{ErrorClass, Origin, OriginETag, OriginError, OriginKey, ReadRequest};
use crate::store::Shared;

/// Fetches at once from one mount's origin, of at most 4 MiB each. More use a long line better and take more memory.
const FETCHES_MAX: usize = 8;
/// Blocks kept after their fetch: readers that follow each other ask once.
const RECENT_BYTES_MAX: usize = 32 << 20;
/// Tries of one fetch, for errors that may pass.
const TRIES: usize = 2;
/// Pause before the second.
const RETRY_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });
/// Longest wait for a turn: as many fetches as that have not moved for so long.
const TURN_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 60_000 });
/// Longest time of one try.
const TRY_TIMEOUT: Duration = Duration::from_secs(60);

/// One block, as one version of an origin's object has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct BlockName {
    blob: BlobId,
    start: u64,
    end: u64,
    etag: String,
}

type Fetched = Option<Result<Bytes>>;

/// See the file's head.
#[derive(Default)]
pub(crate) struct Blocks {
    /// Held for a look-up only.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fetches: HashMap<BlockName, watch::Receiver<Fetched>, foldhash::fast::RandomState>,
    /// The newest last.
    recent: VecDeque<(BlockName, Bytes)>,
    recent_bytes: usize,
}

/// The turns of one mount's fetches.
pub(super) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(FETCHES_MAX))
}

/// A block that is there, or on its way.
pub(super) enum Coming {
    Here(Bytes),
    Fetch(watch::Receiver<Fetched>),
}

impl Coming {
    pub(super) async fn bytes(self) -> Result<Bytes> {
        match self {
            Coming::Here(bytes) => Ok(bytes),
            Coming::Fetch(mut fetch) => {
                let fetched = fetch.wait_for(Option::is_some).await.map(|fetched| fetched.clone());
                fetched.ok().flatten().unwrap_or(Err(Error::Stopping))
            }
        }
    }
}

impl Blocks {
    /// Bytes `block` of the part's blob.
    pub(super) async fn get(
        &self,
        shared: &Arc<Shared>,
        body: &OriginBody,
        part: &OriginPart,
        block: Range<u64>,
    ) -> Result<Bytes> {
        self.begin(shared, body, part, block).bytes().await
    }

    /// Finds the block, or sees to it that it is fetched.
    pub(super) fn begin(
        &self,
        shared: &Arc<Shared>,
        body: &OriginBody,
        part: &OriginPart,
        block: Range<u64>,
    ) -> Coming {
        let etag = body.etag.0.clone();
        let name = BlockName { blob: part.blob, start: block.start, end: block.end, etag };
        let mut state = self.state.lock();
        if let Some((_, bytes)) = state.recent.iter().find(|(recent, _)| *recent == name) {
            return Coming::Here(bytes.clone());
        }
        if let Some(fetch) = state.fetches.get(&name) {
            return Coming::Fetch(fetch.clone());
        }
        let (told, fetch) = watch::channel(None);
        state.fetches.insert(name.clone(), fetch.clone());
        drop(state);
        let in_body = part.in_body + (block.start - part.in_blob.start);
        let asked = Asked {
            origin: body.origin.clone(),
            key: body.key.clone(),
            of: body.of.clone(),
            etag: body.etag.clone(),
            body_len: body.len,
            turns: body.turns.clone(),
            range: in_body..in_body + (block.end - block.start),
        };
        let mut run = Run { shared: shared.clone(), name, bytes: None };
        tokio::spawn(async move {
            let fetched = run.fetch(&asked).await;
            run.bytes = fetched.as_ref().ok().cloned();
            // Before anybody is told: who comes after an error asks again.
            drop(run);
            told.send_replace(Some(fetched));
        });
        Coming::Fetch(fetch)
    }

    fn end(&self, name: &BlockName, bytes: Option<Bytes>) {
        let mut state = self.state.lock();
        state.fetches.remove(name);
        if let Some(bytes) = bytes {
            state.recent_bytes += bytes.len();
            state.recent.push_back((name.clone(), bytes));
        }
        while state.recent_bytes > RECENT_BYTES_MAX
            && let Some((_, old)) = state.recent.pop_front()
        {
            state.recent_bytes -= old.len();
        }
    }

    /// Forgets what is kept in memory.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        state.recent.clear();
        state.recent_bytes = 0;
    }
}

/// What is asked of the origin.
struct Asked {
    origin: Arc<dyn Origin>,
    key: OriginKey,
    /// The mount, and the object's key.
    of: (u32, Bytes),
    etag: OriginETag,
    body_len: u64,
    turns: Arc<Semaphore>,
    range: Range<u64>,
}

/// A fetch under way; dropped, it is under way no more, whatever became of it.
struct Run {
    shared: Arc<Shared>,
    name: BlockName,
    /// What it came to.
    bytes: Option<Bytes>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.shared.fills.blocks.end(&self.name, self.bytes.take());
    }
}

impl Run {
    async fn fetch(&self, asked: &Asked) -> Result<Bytes> {
        let fills = &self.shared.fills;
        let turn = tokio::time::timeout(TURN_TIMEOUT, asked.turns.acquire()).await;
        let Ok(turn) = turn else {
            tracing::warn!(key = %asked.key, origin = asked.origin.name(), "reads through the origin do not end");
            return Err(Error::Unavailable(
                "the bytes are only in the origin, which does not answer in time",
            ));
        };
        let _turn = turn.map_err(|_| Error::Stopping)?;
        let (shared, blob, range) = (self.shared.clone(), self.name.blob, self.name.start..self.name.end);
        let here = self.shared.pool.run(move || read_here(&shared, blob, range)).await;
        if let Some(bytes) = here.map_err(|_| Error::Stopping)?? {
            return Ok(bytes);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let tried = tokio::time::timeout(TRY_TIMEOUT, self.ask(asked)).await;
            match tried.unwrap_or(Err(Trouble::Passing("the origin took too long".to_owned()))) {
                Ok(bytes) => {
                    fills.counters.blocks.fetch_add(1, Relaxed);
                    fills.counters.bytes.fetch_add(bytes.len() as u64, Relaxed);
                    return Ok(bytes);
                }
                Err(Trouble::Changed(what)) => {
                    self.shared.lookups.doubt(asked.of.0, &asked.of.1);
                    tracing::error!(key = %asked.key, origin = asked.origin.name(), what, "a read found the object changed in the origin");
                    let text = format!("forebay: the object's bytes are only in the origin, where {what}");
                    return Err(Error::ChangedInOrigin(text.into()));
                }
                Err(Trouble::Passing(_)) if tries < TRIES => tokio::time::sleep(RETRY_PAUSE).await,
                Err(Trouble::Passing(what)) => {
                    tracing::warn!(key = %asked.key, origin = asked.origin.name(), what, "a read through the origin failed");
                    return Err(Error::Unavailable(
                        "the bytes are only in the origin, which does not give them now",
                    ));
                }
            }
        }
    }

    async fn ask(&self, asked: &Asked) -> Result<Bytes, Trouble> {
        let checked = self.checked();
        let request = ReadRequest {
            key: asked.key.clone(),
            range: Some(asked.range.clone()),
            if_match: checked.then(|| asked.etag.clone()),
        };
        let reply = asked.origin.read(request).await.map_err(trouble)?;
        let Some(mut reply) = reply else {
            return Err(Trouble::Changed("somebody has removed it".to_owned()));
        };
        // Not every origin honours the condition.
        if checked && (reply.head.etag != asked.etag || reply.head.content_length != asked.body_len) {
            return Err(Trouble::Changed(format!("somebody has changed it (ETag {})", reply.head.etag.0)));
        }
        if reply.range != asked.range {
            return Err(Trouble::Passing(format!("bytes {:?} came for {:?}", reply.range, asked.range)));
        }
        let wanted = (asked.range.end - asked.range.start) as usize;
        let mut bytes = BytesMut::with_capacity(wanted);
        while let Some(chunk) = reply.body.next().await {
            let chunk = chunk.map_err(trouble)?;
            if bytes.len() + chunk.len() > wanted {
                return Err(Trouble::Passing("more bytes came than were asked for".to_owned()));
            }
            bytes.extend_from_slice(&chunk);
        }
        match bytes.len() == wanted {
            true => Ok(bytes.freeze()),
            false => Err(Trouble::Passing(format!("{} bytes came instead of {wanted}", bytes.len()))),
        }
    }

    #[cfg(not(test))]
    fn checked(&self) -> bool {
        true
    }

    #[cfg(test)]
    fn checked(&self) -> bool {
        !self.shared.fills.unchecked.load(Relaxed)
    }
}

/// Why a fetch gave nothing.
enum Trouble {
    /// The origin has something else.
    Changed(String),
    /// It may be better next time.
    Passing(String),
}

fn trouble(error: OriginError) -> Trouble {
    match error.class {
        ErrorClass::Conflict => Trouble::Changed("somebody has changed it".to_owned()),
        _ => Trouble::Passing(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Node, StorageConfig};
    use crate::origin::memory::{Fault, MemoryOrigin};

    fn body_in(origin: &Arc<MemoryOrigin>, turns: &Arc<Semaphore>) -> OriginBody {
        let etag = OriginETag(hex::encode(<md5::Md5 as md5::Digest>::digest(b"bytes")));
        let (origin, key, turns) = (origin.clone(), OriginKey("k".to_owned()), turns.clone());
        OriginBody { origin, key, of: (1, Bytes::from_static(b"k")), etag, len: 5, turns }
    }

    fn part(number: u64) -> OriginPart {
        let blob = BlobId { a: u64::MAX, b: number };
        OriginPart { blob, in_blob: 0..5, in_body: 0, whole: true }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_origin_that_does_not_answer_holds_up_its_own_readers_only() {
        let dir = tempfile::tempdir().unwrap();
        let config = StorageConfig {
            map_bytes: 1 << 30,
            journal_file_bytes: 16 << 20,
            ..StorageConfig::new(dir.path())
        };
        let node = Node::start(config).await.unwrap();
        let store = node.store();
        let (shared, blocks) = (store.shared(), &store.shared().fills.blocks);
        let (silent, healthy) = (Arc::new(MemoryOrigin::capable()), Arc::new(MemoryOrigin::capable()));
        silent.set_hook(|_| Fault::Stall);
        healthy.put_foreign("k", b"bytes");
        let (silents, healthys) = (body_in(&silent, &turns()), body_in(&healthy, &turns()));
        let stuck: Vec<Coming> =
            (0..FETCHES_MAX as u64).map(|n| blocks.begin(shared, &silents, &part(n), 0..5)).collect();
        // Whose turn comes first nobody says.
        let limit = std::time::Instant::now() + Duration::from_secs(60);
        while silent.calls() < FETCHES_MAX as u64 {
            assert!(std::time::Instant::now() < limit, "{} calls", silent.calls());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let late = blocks.get(shared, &silents, &part(100), 0..5).await;
        assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
        assert_eq!(silent.calls(), FETCHES_MAX as u64);
        let read = blocks.get(shared, &healthys, &part(200), 0..5).await.unwrap();
        assert_eq!(read, "bytes");
        drop(stuck);
        drop(store);
        node.stop().await;
    }
}
