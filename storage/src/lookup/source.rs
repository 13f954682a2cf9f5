//! What one mount's origin lists, as keys in order: pages on demand.
//!
//! Keys that are not the mount's, and names that are no key's, are left out. The origin lists by name and a bucket by
//! key; the two differ for names with escapes alone (see `object_name`). Such a key is taken over on sight, so that
//! its row stands in the right place; if its place in the listing has passed by then, the listing is refused, for it
//! would be incomplete, and the next one is whole.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::ask;
use super::cover::{Cover, Covered, Reach};
use super::local::{Local, deleted_at};
use super::merge::Listing;
use super::{Rule, settle};
use crate::error::{Error, Result};
use crate::keyspace::view::View;
use crate::object::Version;
use crate::object_name::encode_key;
use crate::origin::{ListRequest, ListedObject};
use crate::read::view_error;
use crate::store::Shared;

/// Most names of a page, as on S3.
const PAGE_MAX: usize = 1000;
/// Least names of a page: many of them may be known here.
const PAGE_MIN: usize = 100;
/// Pages in a row that an origin may give without a name on them.
const EMPTY_PAGES_MAX: usize = 1000;

/// What an origin lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Object {
        key: Bytes,
        size: u64,
        modified_ms: u64,
        etag: Option<String>,
    },
    /// Keys rolled up.
    Prefix(Bytes),
}

impl Item {
    pub(super) fn key(&self) -> &Bytes {
        match self {
            Item::Object { key, .. } | Item::Prefix(key) => key,
        }
    }
}

/// How far a source has been listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listed {
    /// Up to and including this key.
    UpTo(Vec<u8>),
    /// To its end.
    All,
}

/// See the file's head.
pub(super) struct Source {
    pub(super) mount: u32,
    reach: Reach,
    request: ListRequest,
    /// In order. All of one page, or of pages before which the same was visible.
    pub(super) items: VecDeque<Item>,
    /// What was visible before the page was asked for.
    pub(super) read_at: Version,
    pub(super) listed: Listed,
    empty_pages: usize,
}

impl Source {
    /// The mount's keys of a listing, behind `done`; a few more than `limit` of them at a time.
    pub(super) fn new(
        shared: &Shared,
        mount: &Covered,
        listing: &Listing,
        done: Option<&[u8]>,
        limit: usize,
    ) -> Result<Source> {
        let not_attached = Error::Unavailable("the origin was not reached yet; what it holds is not known");
        if !mount.attached {
            return Err(not_attached);
        }
        let reach = shared.fills.reach(mount.mount).ok_or(not_attached)?;
        let (prefix, is_exact) = reach.name_prefix(&listing.prefix);
        let below = mount.prefix.strip_prefix(&*listing.prefix).unwrap_or_default();
        let delimiter = std::str::from_utf8(&listing.delimiter).ok().filter(|text| {
            // Where the delimiter may lie in the mount's own prefix, or across its end, all is listed flat.
            let one = text.chars().count() == 1 && listing.common_prefix(&mount.prefix).is_none();
            is_exact && encode_key(text.as_bytes()) == *text && (below.is_empty() || one)
        });
        let delimiter = delimiter.filter(|text| !text.is_empty()).map(str::to_owned);
        let max = (limit + 2).clamp(PAGE_MIN, PAGE_MAX) as u16;
        let start_after = done.and_then(|done| reach.name_after(done));
        let request = ListRequest { start_after, delimiter, ..ListRequest::new(prefix, max) };
        Ok(Source {
            mount: mount.mount,
            reach,
            request,
            items: VecDeque::new(),
            read_at: Version::ZERO,
            listed: Listed::UpTo(done.unwrap_or_default().to_vec()),
            empty_pages: 0,
        })
    }

    /// Sees to it that there is an item behind `done`, unless the source has none any more.
    pub(super) async fn fill(
        &mut self,
        shared: &Arc<Shared>,
        cover: &Cover,
        listing: &Listing,
        done: Option<&[u8]>,
    ) -> Result<()> {
        while self.items.front().is_some_and(|item| done.is_some_and(|done| **item.key() <= *done)) {
            self.items.pop_front();
        }
        while self.items.is_empty() && self.listed != Listed::All {
            self.fetch(shared, cover, listing, done).await?;
        }
        Ok(())
    }

    async fn fetch(
        &mut self,
        shared: &Arc<Shared>,
        cover: &Cover,
        listing: &Listing,
        done: Option<&[u8]>,
    ) -> Result<()> {
        let Listed::UpTo(upto) = &self.listed else { return Ok(()) };
        // What the listing has jumped over need not be listed.
        if let Some(done) = done.filter(|done| *done > &upto[..]) {
            self.go_behind(done.to_vec());
        }
        let turn = shared.lookups.turns.turn(self.mount).await?;
        self.read_at = shared.keyspace.visible();
        let page = ask::list(&self.reach, &self.request, &shared.lookups.stop).await?;
        drop(turn);
        if !shared.lookups.has(Rule::Order) {
            self.read_at = shared.keyspace.visible();
        }
        let last = last_name(&page.objects, &page.prefixes)?;
        let mut escaped = Vec::new();
        for object in page.objects {
            let name = &object.key.0;
            let is_wanted =
                |key: &Bytes| self.is_wanted(cover, listing, key) || !shared.lookups.has(Rule::Owners);
            let Some(key) = self.reach.key(name).filter(is_wanted) else { continue };
            if self.reach.is_escaped(name) {
                escaped.push(key);
            } else if done.is_none_or(|done| *key > *done) {
                let etag = object.etag.map(|etag| etag.0);
                let (size, modified_ms) = (object.bytes, object.modified_ms);
                self.items.push_back(Item::Object { key, size, modified_ms, etag });
            }
        }
        for name in &page.prefixes {
            let Some(key) = self.reach.key(name).filter(|key| self.is_wanted(cover, listing, key)) else {
                continue;
            };
            if self.reach.is_escaped(name) {
                escaped.extend(self.visible_under(shared, cover, listing, &key, true).await?);
            } else if done.is_none_or(|done| *key > *done) {
                self.items.push_back(Item::Prefix(key));
            }
        }
        self.items.make_contiguous().sort_by(|a, b| a.key().cmp(b.key()));
        match (page.truncated, last) {
            (false, _) => self.listed = Listed::All,
            (true, Some((name, is_prefix))) => {
                self.empty_pages = 0;
                let rest = name.strip_prefix(&self.reach.origin_prefix).unwrap_or_default();
                let mut upto = [&self.reach.key_prefix[..], rest.as_bytes()].concat();
                if is_prefix {
                    upto = Listing::last_under(&upto);
                }
                self.request.token = page.next;
                let owner = cover.owner(listing.bucket, &upto);
                match owner.filter(|owner| owner.mount != self.mount && upto.starts_with(&owner.prefix)) {
                    // The rest of another mount's keys is none of this source's.
                    Some(other) => self.go_behind(Listing::last_under(&other.prefix)),
                    None => self.listed = Listed::UpTo(upto),
                }
            }
            (true, None) => {
                self.request.token = page.next;
                self.empty_pages += 1;
                if self.empty_pages > EMPTY_PAGES_MAX {
                    return Err(Error::Unavailable("the origin's listing does not end"));
                }
            }
        }
        self.take_over(shared, listing, escaped, done).await
    }

    fn go_behind(&mut self, key: Vec<u8>) {
        self.request.token = None;
        self.request.start_after = self.reach.name_after(&key);
        self.listed = Listed::UpTo(key);
    }

    fn is_wanted(&self, cover: &Cover, listing: &Listing, key: &[u8]) -> bool {
        let owner = cover.owner(listing.bucket, key);
        key.starts_with(&listing.prefix) && owner.is_some_and(|owner| owner.mount == self.mount)
    }

    /// Takes keys over that the origin lists elsewhere than in their place.
    async fn take_over(
        &self,
        shared: &Arc<Shared>,
        listing: &Listing,
        keys: Vec<Bytes>,
        done: Option<&[u8]>,
    ) -> Result<()> {
        let mut passed = 0;
        for key in keys {
            let of = (listing.bucket, &key[..]);
            if Local::look(shared, of, self.mount).await?.0 != Local::Unknown {
                continue;
            }
            shared.lookups.absent.forget(self.mount, &key);
            settle(shared, listing.bucket, &key).await?;
            let is_here = Local::look(shared, of, self.mount).await?.0.is_alive();
            passed += usize::from(is_here && done.is_some_and(|done| listing.position(&key) <= done));
        }
        if passed == 0 {
            return Ok(());
        }
        let text = "forebay: the origin holds keys that are not UTF-8, and they were found when their place in this \
                    listing had passed; they are known from now on: list again from the start";
        Err(Error::ChangedInOrigin(text.into()))
    }

    /// A key under `prefix` that a listing shows, if there is one; with `known` only one that has a row, which a
    /// look-up may give it.
    pub(super) async fn visible_under(
        &self,
        shared: &Arc<Shared>,
        cover: &Cover,
        listing: &Listing,
        prefix: &[u8],
        known: bool,
    ) -> Result<Option<Bytes>> {
        let (name_prefix, _) = self.reach.name_prefix(prefix);
        let name_prefix = self.reach.name(prefix).map_or(name_prefix, |name| name.0);
        let mut request = ListRequest::new(name_prefix, PAGE_MAX as u16);
        loop {
            let turn = shared.lookups.turns.turn(self.mount).await?;
            let read_at = shared.keyspace.visible();
            let page = ask::list(&self.reach, &request, &shared.lookups.stop).await?;
            drop(turn);
            for object in &page.objects {
                let Some(key) = self.reach.key(&object.key.0) else { continue };
                if !key.starts_with(prefix) || !self.is_wanted(cover, listing, &key) {
                    continue;
                }
                let of = (listing.bucket, &key[..]);
                let (local, _) = Local::look(shared, of, self.mount).await?;
                let mut is_shown = local.is_alive();
                if local == Local::Unknown {
                    let view = View::latest(&shared.keyspace);
                    is_shown = !known && deleted_at_on_pool(shared, view, self.mount, &key).await? <= read_at;
                    if !is_shown {
                        shared.lookups.absent.forget(self.mount, &key);
                        settle(shared, listing.bucket, &key).await?;
                        is_shown = Local::look(shared, of, self.mount).await?.0.is_alive();
                    }
                }
                if is_shown {
                    return Ok(Some(key));
                }
            }
            match page.next {
                Some(next) if page.truncated => request.token = Some(next),
                _ => return Ok(None),
            }
        }
    }
}

async fn deleted_at_on_pool(shared: &Arc<Shared>, view: View, mount: u32, key: &Bytes) -> Result<Version> {
    let key = key.clone();
    let read = move || deleted_at(&view, mount, &key);
    shared.pool.run(read).await.map_err(|_| Error::Stopping)?.map_err(view_error)
}

/// The last name of a page, and whether it is a rolled-up prefix; an error if the page is not in order.
fn last_name(objects: &[ListedObject], prefixes: &[String]) -> Result<Option<(String, bool)>> {
    let in_order = objects.is_sorted_by(|a, b| a.key < b.key) && prefixes.is_sorted_by(|a, b| a < b);
    if !in_order {
        return Err(Error::Unavailable("the origin does not list in the order of names"));
    }
    let object = objects.last().map(|object| (object.key.0.clone(), false));
    let prefix = prefixes.last().map(|prefix| (prefix.clone(), true));
    Ok(object.max(prefix))
}
