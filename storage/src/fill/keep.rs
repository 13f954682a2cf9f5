//! Keeping a blob again that is being read from its origin: block by block into an extent, whose place the next
//! checkpoint makes known.
//!
//! While room is plenty everything is kept that is read; then what the ghost queue (`ghost.rs`) knows, and what is of a
//! bucket that is kept. A blob of one block is kept at once; a longer one when a second block of it is asked for, or
//! expected to be, from its beginning on. It takes the blocks that its readers have fetched, which stay until they are
//! written (`blocks.rs`), and fetches itself what nobody has asked for. Best effort: readers of longer blobs wait for
//! it a fifth of their time at most, and whatever goes wrong costs a fetch later. Bounds: [`KEEPING_MAX`] blobs at once,
//! beyond them nothing is kept; [`ASKED_MAX`] blobs remembered.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::block::Block;
use super::{OriginBody, OriginPart, block_of};
use crate::error::{Error, Result};
use crate::keyspace::checkpoint::decode_pointer;
use crate::keyspace::places::PlaceChange;
use crate::keyspace::tables::{Table, blob_key};
use crate::mutation::BLOCK_BYTES;
use crate::object::BlobId;
use crate::read::base_error;
use crate::store::Shared;

/// Blobs that are kept at once.
const KEEPING_MAX: usize = 8;
/// Long blobs of which one block was asked for.
const ASKED_MAX: usize = 4096;

/// See the file's head.
#[derive(Default)]
pub(super) struct Keeping {
    /// Held for a look-up only.
    state: Mutex<State>,
}

/// Holds up what is kept at some place, while somebody holds `shut`.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) shut: Arc<tokio::sync::RwLock<()>>,
    /// How many wait there.
    pub(crate) waiting: std::sync::atomic::AtomicUsize,
}

#[cfg(test)]
impl Gate {
    async fn pass(&self) {
        self.waiting.fetch_add(1, Relaxed);
        drop(self.shut.read().await);
        self.waiting.fetch_sub(1, Relaxed);
    }
}

#[derive(Default)]
struct State {
    running: HashSet<BlobId>,
    /// Which block of a long blob was asked for first.
    asked: HashMap<BlobId, u64>,
}

#[cfg(test)]
impl Keeping {
    /// How many blobs are being kept.
    pub(super) fn running(&self) -> usize {
        self.state.lock().running.len()
    }
}

/// Whether a reader's blob is to be kept: decided once for each reader of the body.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    wanted: OnceLock<bool>,
    /// It was, but the disk is too slow for this reader: another one's turn.
    given_up: AtomicBool,
}

impl Wish {
    /// This reader's blob is not kept after all.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Relaxed);
    }

    fn is(&self, decide: impl FnOnce() -> bool) -> bool {
        *self.wanted.get_or_init(decide) && !self.given_up.load(Relaxed)
    }
}

/// A block of the part is asked of the origin, or was: decides whether the blob is kept.
pub(super) fn consider(shared: &Arc<Shared>, body: &OriginBody, part: &OriginPart, block: &Range<u64>) {
    let len = part.in_blob.end;
    if !part.wish.is(|| is_wanted(shared, body, part.blob, len)) {
        return;
    }
    let keeping = &shared.fills.keeping;
    let fits = part.whole && part.in_blob.start == 0 && len <= shared.segments.body_len_max();
    // Most calls end here.
    if !fits || keeping.state.lock().running.contains(&part.blob) {
        return;
    }
    if !shared.has_room_to_keep(len) || shared.segments.staged(part.blob).is_some() {
        return;
    }
    {
        let mut state = keeping.state.lock();
        if state.running.len() >= KEEPING_MAX || state.running.contains(&part.blob) {
            return;
        }
        if len > BLOCK_BYTES {
            if state.asked.len() >= ASKED_MAX {
                state.asked.clear();
            }
            if *state.asked.entry(part.blob).or_insert(block.start) == block.start {
                return;
            }
            state.asked.remove(&part.blob);
        }
        state.running.insert(part.blob);
        shared.fills.blocks.hold(part.blob);
    }
    let running = Running { shared: shared.clone(), part: part.clone() };
    let body = body.clone();
    // Before the reader's own fetch is over: one that fails is not tried again for this.
    let first = shared.fills.blocks.begin(shared, &body, part, block_of(part, 0));
    tokio::spawn(async move {
        match running.keep(&body, first).await {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, blob = ?running.part.blob, "a blob is not kept"),
        }
    });
}

/// Whether a blob that is read is kept again: always while room is plenty, then only if another reader had it, or it
/// was given up, lately.
fn is_wanted(shared: &Shared, body: &OriginBody, blob: BlobId, len: u64) -> bool {
    #[cfg(test)]
    if shared.fills.unghosted.load(Relaxed) {
        return true;
    }
    if body.kept || shared.has_plenty(len) {
        return true;
    }
    let ghosts = shared.fills.ghosts(shared);
    let known = ghosts.has(blob);
    if !known {
        ghosts.note(blob, len);
    }
    known
}

/// A blob that is being kept; dropped, it is no more.
struct Running {
    shared: Arc<Shared>,
    part: OriginPart,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.shared.fills.keeping.state.lock();
        self.shared.fills.blocks.release(self.part.blob);
        state.running.remove(&self.part.blob);
    }
}

impl Running {
    async fn keep(&self, body: &OriginBody, mut next: Block) -> Result<()> {
        let (shared, part) = (&self.shared, &self.part);
        if self.is_here().await? {
            return Ok(());
        }
        let len = part.in_blob.end;
        let blocks = &shared.fills.blocks;
        let mut writer = shared.stager.begin_extent(part.blob, len)?;
        // Counted as promised from here on, as others are that began since the reader looked.
        if !shared.has_room_to_keep(0) {
            return Err(Error::Unavailable("others are kept in its place"));
        }
        let mut at = 0;
        while at < len {
            at = block_of(part, at).end;
            // One block ahead of the disk.
            let ahead = blocks.begin(shared, body, part, block_of(part, at.min(len - 1)));
            let mut block = std::mem::replace(&mut next, ahead);
            #[cfg(test)]
            shared.fills.writes.pass().await;
            let mut number = 0;
            while let Some(piece) = block.piece(number).await? {
                writer.write(piece).await?;
                number += 1;
            }
            if !blocks.note_written(part.blob, at) {
                return Err(Error::Unavailable("the disk is slower than the origin"));
            }
        }
        let (pointer, pin) = writer.finish_extent().await?;
        #[cfg(test)]
        shared.fills.ends.pass().await;
        let change = PlaceChange {
            blob: part.blob,
            from: None,
            to: Some(pointer),
            decided_at: shared.keyspace.visible(),
            _pin: Some(pin.for_reading()),
            batch: None,
        };
        shared.segments.list(part.blob, pointer, pin);
        shared.checkpointer.places.push([change]);
        shared.fills.counters.kept.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Whether somebody has kept it since the reader looked.
    async fn is_here(&self) -> Result<bool> {
        let (shared, blob) = (self.shared.clone(), self.part.blob);
        if shared.segments.staged(blob).is_some() {
            return Ok(true);
        }
        let look = move || shared.keyspace.base.get(&blob_key(Table::Blob, blob));
        let row = self.shared.pool.run(look).await.map_err(|_| Error::Stopping)?;
        Ok(row.map_err(base_error)?.as_deref().and_then(decode_pointer).is_some())
    }
}

#[cfg(test)]
mod tests;
