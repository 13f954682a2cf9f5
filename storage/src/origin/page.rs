//! One page of a listing, gathered from keys in order: what origins share that list by themselves.

use super::{ListReply, ListRequest, ListedObject, OriginETag, OriginKey};

/// What a listing says of an object beside its key.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) etag: Option<OriginETag>,
    pub(super) bytes: u64,
    pub(super) modified_ms: u64,
}

/// See the file's head. Keys are offered in ascending order; those before the page, and those that are rolled
/// up already, are passed over.
pub(super) struct Page<'a> {
    request: &'a ListRequest,
    reply: ListReply,
    /// The last item, an object or a prefix.
    last: Option<String>,
    full: bool,
}

impl<'a> Page<'a> {
    pub(super) fn new(request: &'a ListRequest) -> Page<'a> {
        let reply = ListReply { objects: Vec::new(), prefixes: Vec::new(), truncated: false, next: None };
        Page { request, reply, last: request.token.clone(), full: false }
    }

    /// Whether no further key can change the page.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether no key that begins with `prefix` has a place in the page: a listing need not go there.
    pub(super) fn passes_over(&self, prefix: &str) -> bool {
        let beyond = |bound: &str| prefix < bound && !bound.starts_with(prefix);
        let related = prefix.starts_with(&self.request.prefix) || self.request.prefix.starts_with(prefix);
        !related
            || self.request.start_after.as_deref().is_some_and(beyond)
            || self.last.as_deref().is_some_and(|last| beyond(last) || self.rolled_up(prefix, last))
    }

    /// Whether `key` lies under `last`, which was listed as a prefix.
    fn rolled_up(&self, key: &str, last: &str) -> bool {
        let delimiter = self.request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        delimiter.is_some_and(|delimiter| {
            last.len() > self.request.prefix.len() && last.ends_with(delimiter) && key.starts_with(last)
        })
    }

    pub(super) fn offer(&mut self, key: &str, facts: impl FnOnce() -> Facts) {
        let Some(rest) = key.strip_prefix(self.request.prefix.as_str()) else { return };
        let after = |bound: &Option<String>| bound.as_deref().is_none_or(|bound| key > bound);
        if self.full || !after(&self.request.start_after) || !after(&self.last) {
            return;
        }
        if self.last.as_deref().is_some_and(|last| self.rolled_up(key, last)) {
            return;
        }
        if self.reply.objects.len() + self.reply.prefixes.len() >= usize::from(self.request.max.min(1_000)) {
            self.full = true;
            self.reply.truncated = true;
            self.reply.next = self.last.clone();
            return;
        }
        let delimiter = self.request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        if let Some((delimiter, at)) =
            delimiter.and_then(|delimiter| Some((delimiter, rest.find(delimiter)?)))
        {
            let prefix = key[..self.request.prefix.len() + at + delimiter.len()].to_owned();
            self.last = Some(prefix.clone());
            self.reply.prefixes.push(prefix);
            return;
        }
        let Facts { etag, bytes, modified_ms } = facts();
        self.last = Some(key.to_owned());
        self.reply.objects.push(ListedObject { key: OriginKey(key.to_owned()), etag, bytes, modified_ms });
    }

    pub(super) fn finish(self) -> ListReply {
        self.reply
    }
}
