//! Blocks on their way from an origin: one fetch for each, however many readers wait; the last ones stay in memory
//! for a moment.
//!
//! A block comes in pieces, which readers get as they arrive. What a sequential reader will ask for next is fetched
//! before it does. While a blob is written into a segment again (`keep.rs`), the blocks that it still needs stay, so
//! that what a reader had is not fetched a second time.
//!
//! Bounds: [`FETCHES_MAX`] fetches at once from each mount's origin, the others wait for their turn, but no longer than
//! [`TURN_TIMEOUT`]; [`RECENT_BYTES_MAX`] of blocks that stay; [`EXPECTED_MAX`] blocks fetched before anybody waits for
//! them. So an origin that does not answer holds up nobody who reads from another. A fetch runs in a task of its own: a
//! reader that goes away ends nothing. Where the disk is so far behind that [`NEEDED_BYTES_MAX`] are to be written,
//! nothing more of such blobs is fetched ahead, and their readers wait for it as long as [`Patience`] lasts; then the
//! blob is not kept. A blob of one block holds nobody up: it is kept or not, as `keep.rs` has room.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use super::block::{Arrived, Block, Gathering};
use super::{OriginBody, OriginPart, read_here};
use crate::error::{Error, Result};
use crate::object::BlobId;
use crate::origin::{ErrorClass, OriginError, ReadRequest};
use crate::store::Shared;

/// Fetches at once from one mount's origin, of at most 4 MiB each. More use a long line better and take more memory.
const FETCHES_MAX: usize = 8;
/// Blocks kept after their fetch: readers that follow each other ask once.
const RECENT_BYTES_MAX: usize = 48 << 20;
/// Of these: blocks that are still to be written into a segment, before readers wait for that. There is room beside
/// them for what one reader has on its way.
const NEEDED_BYTES_MAX: u64 = 24 << 20;
/// Blocks that were fetched, or are being fetched, for readers who have not come to them yet. Fewer than are kept: a
/// block must still be there when its reader comes. Fewer than may be fetched: who waits goes before who will. 20 MiB
/// keep a line of 1 Gbit/s and 150 ms busy.
const EXPECTED_MAX: usize = 5;
/// Tries of one fetch, for errors that may pass.
const TRIES: usize = 2;
/// Pause before the second.
const RETRY_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });
/// Longest wait for a turn: as many fetches as that have not moved for so long.
const TURN_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 60_000 });
/// Longest time of one try.
pub(super) const TRY_TIMEOUT: Duration = Duration::from_secs(60);

/// One block, as one version of an origin's object has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct BlockName {
    blob: BlobId,
    start: u64,
    end: u64,
    etag: String,
}

impl BlockName {
    fn of(body: &OriginBody, part: &OriginPart, block: &Range<u64>) -> BlockName {
        BlockName { blob: part.blob, start: block.start, end: block.end, etag: body.etag.0.clone() }
    }
}

/// See the file's head.
#[derive(Default)]
pub(crate) struct Blocks {
    /// Held for a look-up only.
    state: Mutex<State>,
    /// Told when less is to be written.
    written: Notify,
    patience: Mutex<Patience>,
    /// Readers that wait for the disk.
    #[cfg(test)]
    waiting: std::sync::atomic::AtomicUsize,
}

#[derive(Default)]
struct State {
    fetches: HashMap<BlockName, Block, foldhash::fast::RandomState>,
    /// Blocks of `fetches` and `recent` that no reader has asked for yet, but one will.
    expected: HashSet<BlockName, foldhash::fast::RandomState>,
    /// Whole ones, the newest last.
    recent: VecDeque<(BlockName, Block)>,
    recent_bytes: u64,
    /// Blobs that are being kept, and how far each is written.
    keeping: HashMap<BlobId, u64>,
}

impl State {
    /// Whether the block is still to be written into a segment.
    fn is_needed(&self, name: &BlockName) -> bool {
        self.keeping.get(&name.blob).is_some_and(|written| name.start >= *written)
    }

    /// Bytes that have come and are.
    fn needed_bytes(&self) -> u64 {
        let needed = self.recent.iter().filter(|(name, _)| self.is_needed(name));
        needed.map(|(_, block)| block.len()).sum()
    }

    /// Whether a fetch of this block must wait for what is written.
    fn must_wait(&self, name: &BlockName) -> bool {
        self.is_needed(name) && self.find(name).is_none() && self.needed_bytes() >= NEEDED_BYTES_MAX
    }

    /// Which recent block goes first: the oldest of those that nobody writes; then of blobs that are being written,
    /// because another reader may come behind; and what is still to be written last.
    fn first_to_go(&self) -> Option<usize> {
        let rank = |name: &BlockName| match self.keeping.get(&name.blob) {
            None => 0,
            Some(written) if name.start < *written => 1,
            Some(_) => 2,
        };
        let ranks = self.recent.iter().map(|(name, _)| rank(name)).enumerate();
        ranks.min_by_key(|(at, rank)| (*rank, *at)).map(|(at, _)| at)
    }

    fn find(&self, name: &BlockName) -> Option<Block> {
        let recent = self.recent.iter().find(|(recent, _)| recent == name).map(|(_, block)| block);
        recent.or_else(|| self.fetches.get(name)).cloned()
    }
}

/// The turns of one mount's fetches.
pub(super) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(FETCHES_MAX))
}

impl Blocks {
    /// A block of the part's blob for a reader. Waits only while the disk is far behind.
    pub(super) async fn get(
        &self,
        shared: &Arc<Shared>,
        body: &OriginBody,
        part: &OriginPart,
        block: Range<u64>,
    ) -> Block {
        let name = BlockName::of(body, part, &block);
        if !self.wait_for_room(&name).await {
            part.wish.give_up();
            self.release(name.blob);
        }
        let mut state = self.state.lock();
        state.expected.remove(&name);
        state.find(&name).unwrap_or_else(|| fetch(&mut state, name, shared, body, part))
    }

    /// As [`Blocks::get`], for somebody else than the readers that are expected.
    pub(super) fn begin(
        &self,
        shared: &Arc<Shared>,
        body: &OriginBody,
        part: &OriginPart,
        block: Range<u64>,
    ) -> Block {
        let name = BlockName::of(body, part, &block);
        let mut state = self.state.lock();
        state.find(&name).unwrap_or_else(|| fetch(&mut state, name, shared, body, part))
    }

    /// Whether the whole block was fetched lately, and is still in memory.
    pub(super) fn has_whole(&self, body: &OriginBody, part: &OriginPart, block: &Range<u64>) -> bool {
        let name = BlockName::of(body, part, block);
        self.state.lock().recent.iter().any(|(recent, _)| *recent == name)
    }

    /// A reader will soon ask for the block: has it fetched now, if it is not here and there is room for it. `false` if
    /// there is none.
    pub(super) fn expect(
        &self,
        shared: &Arc<Shared>,
        body: &OriginBody,
        part: &OriginPart,
        block: Range<u64>,
    ) -> bool {
        let name = BlockName::of(body, part, &block);
        let mut state = self.state.lock();
        if state.find(&name).is_some() {
            return true;
        }
        let room = state.expected.len() < EXPECTED_MAX && state.fetches.len() < FETCHES_MAX;
        let room = room && !state.must_wait(&name);
        if room {
            state.expected.insert(name.clone());
            fetch(&mut state, name, shared, body, part);
        }
        room
    }

    /// A fetch is over; `block`, if it has come whole.
    fn end(&self, name: &BlockName, block: Option<Block>) {
        let mut state = self.state.lock();
        state.fetches.remove(name);
        match block {
            Some(block) => {
                state.recent_bytes += block.len();
                state.recent.push_back((name.clone(), block));
            }
            None => drop(state.expected.remove(name)),
        }
        while state.recent_bytes > RECENT_BYTES_MAX as u64
            && let Some(first) = state.first_to_go()
            && let Some((name, old)) = state.recent.remove(first)
        {
            state.recent_bytes -= old.len();
            // Whoever expected it does not read any more, or is far behind.
            state.expected.remove(&name);
        }
    }

    /// The blob is being written into a segment from here on: its blocks stay until they are.
    pub(super) fn hold(&self, blob: BlobId) {
        self.state.lock().keeping.insert(blob, 0);
    }

    /// It is written up to `end`; `false` if it is not held any more.
    pub(super) fn note_written(&self, blob: BlobId, end: u64) -> bool {
        let held = self.state.lock().keeping.get_mut(&blob).map(|written| *written = end).is_some();
        self.written.notify_waiters();
        held
    }

    /// Nobody writes the blob any more.
    pub(super) fn release(&self, blob: BlobId) {
        self.state.lock().keeping.remove(&blob);
        self.written.notify_waiters();
    }

    /// Waits until a fetch of the block may begin; `false` if that takes too long.
    async fn wait_for_room(&self, name: &BlockName) -> bool {
        loop {
            let mut written = std::pin::pin!(self.written.notified());
            written.as_mut().enable();
            if !self.state.lock().must_wait(name) {
                return true;
            }
            let begun = Instant::now();
            let left = self.patience.lock().left(begun);
            #[cfg(test)]
            self.waiting.fetch_add(1, Relaxed);
            let told = tokio::time::timeout(left, written).await;
            #[cfg(test)]
            self.waiting.fetch_sub(1, Relaxed);
            self.patience.lock().take(begun.elapsed());
            if told.is_err() {
                return false;
            }
        }
    }

    /// How many readers wait for the disk.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Readers have waited for the disk as long as they may.
    #[cfg(test)]
    pub(super) fn lose_patience(&self) {
        self.patience.lock().take(Patience::MAX);
    }

    /// Forgets what is kept in memory.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        for (name, _) in std::mem::take(&mut state.recent) {
            state.expected.remove(&name);
        }
        state.recent_bytes = 0;
    }
}

/// How long readers may still wait for the disk, so that what is read is kept: a fifth of the time that passes, saved
/// up to [`Patience::MAX`]. So a disk that is slower than the origin's line costs readers a fifth of their time, at most.
struct Patience {
    saved: Duration,
    at: Instant,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { saved: Patience::MAX, at: Instant::now() }
    }
}

impl Patience {
    /// In tests nobody loses it by chance.
    const MAX: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 500 });

    fn left(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.saved = (self.saved + passed / 5).min(Patience::MAX);
        self.saved
    }

    fn take(&mut self, waited: Duration) {
        self.saved = self.saved.saturating_sub(waited);
    }
}

/// Begins to fetch a block that is neither here nor on its way.
fn fetch(
    state: &mut State,
    name: BlockName,
    shared: &Arc<Shared>,
    body: &OriginBody,
    part: &OriginPart,
) -> Block {
    let in_body = part.in_body + (name.start - part.in_blob.start);
    let len = name.end - name.start;
    let (arriving, block) = Block::begin(len);
    state.fetches.insert(name.clone(), block.clone());
    let (body, in_body) = (body.clone(), in_body..in_body + len);
    let mut run = Run { shared: shared.clone(), name, block: block.clone(), whole: false };
    tokio::spawn(async move {
        let fetched = run.fetch(&body, &in_body, &arriving).await;
        run.whole = fetched.is_ok();
        // Before anybody is told: who comes after an error asks again.
        drop(run);
        if let Err(error) = fetched {
            arriving.send_modify(|arrived| arrived.fail(error));
        }
    });
    block
}

/// A fetch under way; dropped, it is under way no more, whatever became of it.
struct Run {
    shared: Arc<Shared>,
    name: BlockName,
    block: Block,
    /// Whether it has come to its end.
    whole: bool,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.shared.fills.blocks.end(&self.name, self.whole.then(|| self.block.clone()));
    }
}

impl Run {
    /// `in_body`: where in the body the block's bytes are.
    async fn fetch(
        &self,
        body: &OriginBody,
        in_body: &Range<u64>,
        arriving: &watch::Sender<Arrived>,
    ) -> Result<()> {
        let fills = &self.shared.fills;
        let turn = tokio::time::timeout(TURN_TIMEOUT, body.turns.acquire()).await;
        let Ok(turn) = turn else {
            body.log_failure("reads do not end");
            return Err(Error::Unavailable(
                "the bytes are only in the origin, which does not answer in time",
            ));
        };
        let _turn = turn.map_err(|_| Error::Stopping)?;
        let (shared, blob, range) = (self.shared.clone(), self.name.blob, self.name.start..self.name.end);
        let here = self.shared.pool.run(move || read_here(&shared, blob, range)).await;
        if let Some(bytes) = here.map_err(|_| Error::Stopping)?? {
            arriving.send_modify(|arrived| arrived.push(bytes));
            return Ok(());
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let tried = tokio::time::timeout(TRY_TIMEOUT, self.ask(body, in_body, arriving)).await;
            match tried.unwrap_or(Err(Trouble::Passing("the origin took too long".to_owned()))) {
                Ok(()) => {
                    fills.counters.blocks.fetch_add(1, Relaxed);
                    fills.counters.bytes.fetch_add(self.block.len(), Relaxed);
                    return Ok(());
                }
                Err(Trouble::Changed(what)) => return Err(body.changed(&self.shared, &what)),
                Err(Trouble::Passing(_)) if tries < TRIES => tokio::time::sleep(RETRY_PAUSE).await,
                Err(Trouble::Passing(what)) => return Err(body.not_now(&what)),
            }
        }
    }

    /// One try, from where the one before broke off.
    async fn ask(
        &self,
        body: &OriginBody,
        in_body: &Range<u64>,
        arriving: &watch::Sender<Arrived>,
    ) -> Result<(), Trouble> {
        let checked = self.checked();
        let start = in_body.start + arriving.borrow().len();
        let range = start..in_body.end;
        let request = ReadRequest {
            key: body.key.clone(),
            range: Some(range.clone()),
            if_match: checked.then(|| body.etag.clone()),
        };
        let reply = body.origin.read(request).await.map_err(trouble)?;
        let Some(mut reply) = reply else {
            return Err(Trouble::Changed("somebody has removed it".to_owned()));
        };
        // Not every origin honours the condition.
        if checked && (reply.head.etag != body.etag || reply.head.content_length != body.len) {
            return Err(Trouble::Changed(format!("somebody has changed it (ETag {})", reply.head.etag.0)));
        }
        if reply.range != range {
            return Err(Trouble::Passing(format!("bytes {:?} came for {range:?}", reply.range)));
        }
        let mut gathering = Gathering::new(self.shared.segments.buffers(), range.clone());
        while let Some(chunk) = reply.body.next().await {
            let mut chunk = chunk.map_err(trouble)?;
            while !chunk.is_empty() {
                if gathering.missing() == 0 {
                    return Err(Trouble::Passing("more bytes came than were asked for".to_owned()));
                }
                if let Some(piece) = gathering.take(&mut chunk) {
                    arriving.send_modify(|arrived| arrived.push(piece));
                }
            }
        }
        match gathering.missing() {
            0 => Ok(()),
            missing => Err(Trouble::Passing(format!("{missing} bytes of {range:?} did not come"))),
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
pub(super) mod tests;
