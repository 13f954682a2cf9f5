//! Listings of buckets with mounts over existing data: what is here, merged with what the origins list.
//!
//! The rule that everything follows from is that of every listing: a bucket's *items* under a prefix and delimiter are
//! its keys that do not hold the delimiter behind the prefix, and the distinct common prefixes of those that do, in
//! byte order; a page is the first of them behind `after`, a key or the last item of the page before.
//!
//! Order matters (PITFALLS 24). A page of each origin is asked for, then a view is opened. What only an origin has is
//! shown if the view knows nothing of the key, and the origin has taken no delete of ours of its slot since before the
//! page; else it is asked by a HEAD. So a listing shows no object whose delete was answered before it began, and every
//! object that stood throughout. What is rolled up is jumped over on both sides.
//!
//! Bounds: a page of at most [`LIMIT_MAX`] items, and one page of each origin at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};

use super::cover::Cover;
use super::local::{Local, deleted_at, last_deleted_at};
use super::source::{Item, Listed as SourceListed, Source};
use super::{KEYS_AT_ONCE, Rule, settle};
use crate::error::{Error, Result};
use crate::keyspace::tables::{Table, object_key};
use crate::keyspace::view::{View, ViewError};
use crate::object::{BucketId, KEY_BYTES_MAX, ObjectRow, Version};
use crate::read::{Listed, Lookup, ReadView, judge, prefix_end, view_error};
use crate::store::{Shared, Store};

/// Most items of a page.
const LIMIT_MAX: usize = 1000;
/// Rows of the first batch under a delimiter: each may be the head of a long common prefix to be jumped over.
const BATCH_MIN: usize = 16;
/// Rows under a common prefix that are looked at for one that is alive.
const ROWS_UNDER: usize = 8;

/// Which items a page is to hold.
#[derive(Debug, Clone, Copy)]
pub struct MergedList<'a> {
    /// Keys begin with this.
    pub prefix: &'a [u8],
    /// Items behind this one: a key, or the last item of the page before.
    pub after: Option<&'a [u8]>,
    /// Keys that hold it behind the prefix are rolled up; empty: none are.
    pub delimiter: &'a [u8],
    /// Most items; at most 1,000 come.
    pub limit: usize,
}

/// One item.
#[derive(Debug, Clone)]
pub enum MergedEntry {
    /// An object.
    Object {
        /// Its key.
        key: Bytes,
        /// Length of its body, in bytes.
        size: u64,
        /// When it was last changed, milliseconds since the Unix epoch; by the origin's clock if it is only there.
        modified_ms: u64,
        /// Its ETag, without quotes. Of an object that is only in the origin it is the origin's.
        etag: String,
        /// Its row, if it has one.
        row: Option<ObjectRow>,
    },
    /// Keys rolled up: what they have in common, with the delimiter.
    Prefix(Bytes),
}

impl MergedEntry {
    /// The key, or the common prefix.
    pub fn key(&self) -> &Bytes {
        match self {
            MergedEntry::Object { key, .. } | MergedEntry::Prefix(key) => key,
        }
    }
}

/// Items in byte order.
#[derive(Debug, Clone, Default)]
pub struct MergedPage {
    /// They.
    pub entries: Vec<MergedEntry>,
    /// Whether there are more behind the last.
    pub more: bool,
}

impl Store {
    /// A page of what is here and of what only the origins have, in key order, complete and exact; or an error.
    /// [`Error::Unavailable`] when an origin cannot be asked. A listing is not a snapshot over its pages. The future
    /// may be dropped.
    pub async fn list_merged(&self, bucket: BucketId, request: MergedList<'_>) -> Result<MergedPage> {
        self.check_readable()?;
        let limit = request.limit.min(LIMIT_MAX);
        if limit == 0 {
            return Ok(MergedPage::default());
        }
        let listing = Listing {
            bucket,
            prefix: Bytes::copy_from_slice(request.prefix),
            delimiter: Bytes::copy_from_slice(request.delimiter),
        };
        let mut done = request.after.map(<[u8]>::to_vec);
        if let Some(common) = done.as_deref().and_then(|after| listing.common_prefix(after)) {
            done = Some(Listing::last_under(common));
        }
        let shared = self.shared().clone();
        let cover = shared.status.cover.load_full();
        let mut sources = Vec::new();
        for mount in cover.within(bucket, &listing.prefix) {
            sources.push(Source::new(&shared, mount, &listing, done.as_deref(), limit)?);
        }
        Merge { shared, cover, listing, done, sources, limit, entries: Vec::new() }.run().await
    }
}

/// What is listed.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub(super) bucket: BucketId,
    pub(super) prefix: Bytes,
    pub(super) delimiter: Bytes,
}

impl Listing {
    /// The key up to and including the first delimiter behind the prefix.
    pub(super) fn common_prefix<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        if self.delimiter.is_empty() {
            return None;
        }
        let tail = key.strip_prefix(&*self.prefix)?;
        let at = tail.windows(self.delimiter.len()).position(|window| window == self.delimiter)?;
        Some(&key[..self.prefix.len() + at + self.delimiter.len()])
    }

    /// The key of the item that a key is shown as.
    pub(super) fn position<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        self.common_prefix(key).unwrap_or(key)
    }

    /// Not less than any key under the prefix, and less than every key behind them.
    pub(super) fn last_under(prefix: &[u8]) -> Vec<u8> {
        let mut key = prefix.to_vec();
        key.resize(KEY_BYTES_MAX.max(prefix.len()), 0xFF);
        key
    }
}

/// A page being made.
struct Merge {
    shared: Arc<Shared>,
    cover: Arc<Cover>,
    listing: Listing,
    /// Keys up to and including this one are done.
    done: Option<Vec<u8>>,
    sources: Vec<Source>,
    limit: usize,
    entries: Vec<MergedEntry>,
}

/// What an origin lists, to be judged.
#[derive(Debug, Clone)]
struct Candidate {
    mount: u32,
    /// What was visible before the origin was asked.
    read_at: Version,
    item: Item,
}

/// What the tables say of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    Shown,
    Hidden,
    /// Whether the origin holds it now must be asked.
    Doubtful,
}

impl Merge {
    async fn run(mut self) -> Result<MergedPage> {
        loop {
            let (candidates, end) = self.candidates().await?;
            let shown = self.judge(candidates).await?;
            let full = self.emit(shown, end.as_deref()).await?;
            if full || end.is_none() {
                break;
            }
            self.done = self.done.max(end);
        }
        let more = self.entries.len() > self.limit;
        self.entries.truncate(self.limit);
        Ok(MergedPage { entries: self.entries, more })
    }

    /// Items that are still wanted: one more than the page holds tells whether there are more.
    fn wanted(&self) -> usize {
        self.limit + 1 - self.entries.len()
    }

    /// The next items of the origins, in order, and the key up to which they are all of them; `None`: to the end.
    async fn candidates(&mut self) -> Result<(Vec<Candidate>, Option<Vec<u8>>)> {
        let Merge { shared, cover, listing, done, sources, .. } = self;
        let fills = sources.iter_mut().map(|source| source.fill(shared, cover, listing, done.as_deref()));
        futures_util::future::try_join_all(fills).await?;
        let listed = self.sources.iter().filter_map(|source| match &source.listed {
            SourceListed::UpTo(key) => Some(key.clone()),
            SourceListed::All => None,
        });
        let mut end = listed.min();
        let (wanted, mut candidates) = (self.wanted(), Vec::new());
        loop {
            let next = self.sources.iter_mut().filter_map(|source| {
                let key = source.items.front()?.key().clone();
                Some((key, source))
            });
            let Some((key, source)) = next.min_by(|a, b| a.0.cmp(&b.0)) else { break };
            if end.as_ref().is_some_and(|end| *key > **end) {
                break;
            }
            if candidates.len() == wanted {
                // What lies before the next item is complete.
                end = candidates.last().map(|last: &Candidate| match &last.item {
                    Item::Object { key, .. } => key.to_vec(),
                    Item::Prefix(prefix) => Listing::last_under(prefix),
                });
                break;
            }
            let (mount, read_at) = (source.mount, source.read_at);
            candidates.extend(source.items.pop_front().map(|item| Candidate { mount, read_at, item }));
        }
        Ok((candidates, end))
    }

    /// The items that are shown as of a view behind the origins' pages.
    async fn judge(&self, candidates: Vec<Candidate>) -> Result<Vec<MergedEntry>> {
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let (shared, cover, listing) = (self.shared.clone(), self.cover.clone(), self.listing.clone());
        let view = View::latest(&shared.keyspace);
        let read = move || {
            let judged = judge_all(&shared, &cover, &listing, &view, &candidates);
            judged.map(|judged| (judged, candidates))
        };
        let judged = self.shared.pool.run(read).await.map_err(|_| Error::Stopping)?;
        let (judged, candidates) = judged.map_err(view_error)?;
        let entries = candidates.into_iter().zip(judged).map(|(candidate, judged)| async move {
            match judged {
                Judged::Hidden => Ok(None),
                Judged::Shown => Ok(Some(self.entry(candidate))),
                Judged::Doubtful => self.ask(candidate).await,
            }
        });
        let entries = futures_util::stream::iter(entries).buffered(KEYS_AT_ONCE);
        entries.try_filter_map(|entry| async { Ok(entry) }).try_collect().await
    }

    fn entry(&self, candidate: Candidate) -> MergedEntry {
        match candidate.item {
            Item::Object { key, size, modified_ms, etag } => {
                // It may have come up since it was found to be absent.
                self.shared.lookups.absent.forget(candidate.mount, &key);
                MergedEntry::Object { key, size, modified_ms, etag: etag.unwrap_or_default(), row: None }
            }
            Item::Prefix(prefix) => MergedEntry::Prefix(prefix),
        }
    }

    async fn ask(&self, candidate: Candidate) -> Result<Option<MergedEntry>> {
        let (shared, bucket) = (&self.shared, self.listing.bucket);
        match candidate.item {
            Item::Object { key, .. } => {
                shared.lookups.absent.forget(candidate.mount, &key);
                settle(shared, bucket, &key).await?;
                let view = ReadView::new(shared.clone(), View::latest(&shared.keyspace));
                let row = view.fetch(bucket, &key).await?;
                Ok(row.map(|row| self.local_entry(Listed { key, row })))
            }
            Item::Prefix(prefix) => {
                let source = self.sources.iter().find(|source| source.mount == candidate.mount);
                let Some(source) = source else { return Ok(None) };
                let found = source.visible_under(shared, &self.cover, &self.listing, &prefix, false).await?;
                Ok(found.map(|_| MergedEntry::Prefix(prefix)))
            }
        }
    }

    fn local_entry(&self, listed: Listed) -> MergedEntry {
        let Listed { key, row } = listed;
        MergedEntry::Object {
            key,
            size: row.body_len(),
            modified_ms: row.modified_ms(),
            etag: row.etag(self.shared.cluster).to_string(),
            row: Some(row),
        }
    }

    /// Merges the rows that are here up to `end` with what the origins add; true once there are enough.
    async fn emit(&mut self, shown: Vec<MergedEntry>, end: Option<&[u8]>) -> Result<bool> {
        let view = ReadView::new(self.shared.clone(), View::latest(&self.shared.keyspace));
        let mut rows = Rows { view, batch: VecDeque::new(), batch_len: BATCH_MIN, ended: false };
        if self.listing.delimiter.is_empty() {
            rows.batch_len = LIMIT_MAX;
        }
        let mut shown = VecDeque::from(shown);
        while self.entries.len() <= self.limit {
            rows.fill(&self.listing, self.done.as_deref(), end, self.wanted()).await?;
            while shown.front().is_some_and(|entry| self.is_done(self.listing.position(entry.key()))) {
                shown.pop_front();
            }
            let row = rows.batch.front().map(|row| self.listing.position(&row.key));
            let other = shown.front().map(|entry| self.listing.position(entry.key()));
            let take_row = match (row, other) {
                (None, None) => return Ok(false),
                (Some(row), Some(other)) => row <= other,
                (row, None) => row.is_some(),
                (None, Some(_)) => false,
            };
            let entry = match take_row {
                true => rows.batch.pop_front().map(|row| self.local_entry(row)),
                false => shown.pop_front(),
            };
            let Some(entry) = entry else { return Ok(false) };
            match self.listing.common_prefix(entry.key()) {
                Some(common) => {
                    self.done = Some(Listing::last_under(common));
                    let common = entry.key().slice(..common.len());
                    self.entries.push(MergedEntry::Prefix(common));
                }
                None => {
                    self.done = Some(entry.key().to_vec());
                    self.entries.push(entry);
                }
            }
        }
        Ok(true)
    }

    fn is_done(&self, key: &[u8]) -> bool {
        self.done.as_deref().is_some_and(|done| key <= done)
    }
}

/// What is here, in order, a batch at a time.
struct Rows {
    view: ReadView,
    batch: VecDeque<Listed>,
    batch_len: usize,
    ended: bool,
}

impl Rows {
    /// Sees to it that there is a row behind `done`, unless there is none up to `end`.
    async fn fill(
        &mut self,
        listing: &Listing,
        done: Option<&[u8]>,
        end: Option<&[u8]>,
        wanted: usize,
    ) -> Result<()> {
        let mut jumped = false;
        while self.batch.front().is_some_and(|row| done.is_some_and(|done| *row.key <= *done)) {
            self.batch.pop_front();
            jumped = true;
        }
        if !self.batch.is_empty() || self.ended {
            return Ok(());
        }
        // Long runs under one prefix are jumped over, so small batches are enough there.
        self.batch_len = if jumped { BATCH_MIN } else { self.batch_len };
        let limit = wanted.min(self.batch_len);
        self.batch_len = (self.batch_len * 2).min(LIMIT_MAX);
        let Listing { bucket, prefix, .. } = listing;
        self.batch = self.view.list_until(*bucket, prefix, done, end, limit).await?.into();
        self.ended = self.batch.len() < limit;
        Ok(())
    }
}

/// Judges what origins list by a view that was opened later. May block.
fn judge_all(
    shared: &Arc<Shared>,
    cover: &Cover,
    listing: &Listing,
    view: &View,
    candidates: &[Candidate],
) -> Result<Vec<Judged>, ViewError> {
    // Of the mount that was last asked for.
    let mut deleted: Option<(u32, Version)> = None;
    let mut judged = Vec::with_capacity(candidates.len());
    for Candidate { mount, read_at, item } in candidates {
        judged.push(match item {
            Item::Object { key, etag, .. } => match Local::read(shared, view, (listing.bucket, key), *mount)?
            {
                // Rows are listed by themselves.
                Local::Here { .. } => Judged::Hidden,
                Local::Gone if shared.lookups.has(Rule::Deletes) => Judged::Hidden,
                Local::Gone => Judged::Shown,
                Local::Unknown if etag.is_none() || deleted_at(view, *mount, key)? > *read_at => {
                    Judged::Doubtful
                }
                Local::Unknown => Judged::Shown,
            },
            Item::Prefix(prefix) => {
                let deleted_at = match deleted {
                    Some((of, at)) if of == *mount => at,
                    _ => last_deleted_at(view, *mount)?,
                };
                deleted = Some((*mount, deleted_at));
                let is_certain = deleted_at <= *read_at && !cover.is_shared(listing.bucket, prefix, *mount);
                judge_prefix(shared, listing, view, prefix, is_certain)?
            }
        });
    }
    Ok(judged)
}

/// `is_certain`: what the origin has under the prefix is shown, unless something is known of it here.
fn judge_prefix(
    shared: &Arc<Shared>,
    listing: &Listing,
    view: &View,
    prefix: &[u8],
    is_certain: bool,
) -> Result<Judged, ViewError> {
    let under = |table: Table, limit: usize| {
        let from = object_key(table, listing.bucket, prefix);
        view.range(std::ops::Bound::Included(&from), &prefix_end(&from), limit)
    };
    let rows = under(Table::Object, ROWS_UNDER)?;
    let known = !rows.is_empty() || !under(Table::Origin, 1)?.is_empty();
    let is_alive =
        |raw| matches!(judge(shared, (listing.bucket, prefix), Some(raw), view.at()), Lookup::Found(_));
    Ok(match rows.into_iter().any(|(_, raw)| is_alive(raw)) {
        true => Judged::Shown,
        false if is_certain && !known || !shared.lookups.has(Rule::Prefixes) => Judged::Shown,
        false => Judged::Doubtful,
    })
}
