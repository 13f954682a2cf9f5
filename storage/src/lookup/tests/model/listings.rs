//! What a listing must show, and listings that are compared with it.

use super::*;

impl World {
    pub(super) fn visible(&self, key: &[u8]) -> Option<(u64, String)> {
        match self.known.get(key) {
            Some(Known::Object { body, etag, .. }) => Some((body.len() as u64, etag.clone())),
            Some(Known::Gone) => None,
            Some(Known::Absent) | None if World::is_local(key) => None,
            Some(Known::Absent) | None => Some((self.in_origin(key)?.len() as u64, self.origin_etag(key))),
        }
    }

    /// The items of a listing by their definition.
    pub(super) fn items(&self, prefix: &[u8], delimiter: &[u8]) -> BTreeMap<Vec<u8>, Option<(u64, String)>> {
        let mut items = BTreeMap::new();
        for key in names().into_iter().filter(|key| key.starts_with(prefix)) {
            let Some(seen) = self.visible(&key) else { continue };
            let tail = &key[prefix.len()..];
            let at = (!delimiter.is_empty())
                .then(|| tail.windows(delimiter.len()).position(|window| window == delimiter))
                .flatten();
            match at {
                Some(at) => items.insert(key[..prefix.len() + at + delimiter.len()].to_vec(), None),
                None => items.insert(key, Some(seen)),
            };
        }
        items
    }

    /// What a listing shows of an origin is not remembered as absent any more.
    pub(super) fn shown(&mut self, key: &[u8]) {
        if !matches!(self.known.get(key), Some(Known::Object { .. } | Known::Gone)) {
            self.known.remove(key);
            self.maybe_absent.remove(key);
        }
    }

    pub(super) async fn list(&mut self, site: &Site) {
        let prefixes: [&[u8]; 9] = [b"", b"", b"b", b"b/", b"in", b"in/", b"in/local/", b"\xC3", b"x"];
        let delimiters: [&[u8]; 4] = [b"", b"/", b"/", b"1"];
        let prefix = prefixes[self.random.usize(0..prefixes.len())];
        let delimiter = delimiters[self.random.usize(0..delimiters.len())];
        let limit = [1, 2, 3, 7, 1000][self.random.usize(0..5)];
        let after = self.random.bool().then(|| self.key());
        let after = after.filter(|after| after.starts_with(prefix) || self.random.bool());
        let mut expected = self.items(prefix, delimiter);
        if let Some(after) = &after {
            expected.retain(|item, _| item > after);
        }
        let text = format!(
            "step {}: prefix {:?} delimiter {:?} after {:?} limit {limit}",
            self.step,
            String::from_utf8_lossy(prefix),
            String::from_utf8_lossy(delimiter),
            after.as_ref().map(|after| String::from_utf8_lossy(after).into_owned()),
        );
        let (mut listed, mut from, mut again) = (BTreeMap::new(), after.clone(), 0);
        loop {
            let page = match site.page(prefix, from.as_deref(), delimiter, limit).await {
                Ok(page) => page,
                Err(Error::Unavailable(_)) if self.down => {
                    assert!(site.store.lists_origin(site.bucket, prefix), "{text}: nobody need be asked");
                    self.seen.refused += 1;
                    return;
                }
                // A key that is not UTF-8 was found out of its place: known from now on.
                Err(Error::ChangedInOrigin(_)) if again == 0 => {
                    again += 1;
                    self.note_taken_over(site).await;
                    (listed, from) = (BTreeMap::new(), after.clone());
                    continue;
                }
                Err(error) => panic!("{text}: {error}"),
            };
            assert!(!self.down || !site.store.lists_origin(site.bucket, prefix), "{text}: no error");
            assert!(page.entries.len() == limit || !page.more, "{text}: a short page");
            for entry in &page.entries {
                let key = entry.key().to_vec();
                assert!(from.as_ref().is_none_or(|from| key > *from), "{text}: {key:?} out of order");
                from = Some(key.clone());
                let seen = match entry {
                    MergedEntry::Prefix(_) => None,
                    MergedEntry::Object { size, etag, .. } => Some((*size, etag.clone())),
                };
                listed.insert(key, seen);
            }
            if !page.more {
                break;
            }
        }
        assert_eq!(listed, expected, "{text}");
        self.seen.listed += 1;
        self.note_taken_over(site).await;
        // What was shown is not remembered as absent; what is not UTF-8 was taken over.
        for key in names() {
            if listed.get(&key).is_some_and(Option::is_some) {
                self.shown(&key);
            }
        }
    }

    /// Listings take keys over that are not UTF-8, wherever they meet them.
    pub(super) async fn note_taken_over(&mut self, site: &Site) {
        for key in names().into_iter().filter(|key| std::str::from_utf8(key).is_err()) {
            let unknown = !matches!(self.known.get(&key), Some(Known::Object { .. } | Known::Gone));
            let row = site.store.view().unwrap().fetch(site.bucket, &key).await.unwrap();
            if let (true, Some(_), Some(body)) = (unknown, row, self.in_origin(&key)) {
                let etag = self.origin_etag(&key);
                self.known.insert(key, Known::Object { body, etag, stale: false });
            }
        }
    }
}
