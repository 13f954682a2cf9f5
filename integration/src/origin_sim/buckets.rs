//! The objects of the simulated origin: ordered maps, no clock, no I/O.
//!
//! Must hold: keys are kept in byte order and never altered.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;
use md5::{Digest, Md5};
use time::OffsetDateTime;

/// Metadata key (without `x-amz-meta-`) in which the version travels.
pub const VERSION_META: &str = "forebay-version";

/// Everything that a PUT leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// The bytes.
    pub body: Bytes,
    /// Without quotes; MD5 in hex, or `<hex>-<parts>` after a multipart upload.
    pub etag: String,
    /// When it was stored.
    pub modified: OffsetDateTime,
    /// User metadata without the `x-amz-meta-` prefix, names in lower case.
    pub metadata: HashMap<String, String>,
    /// `content-type`, `cache-control`, … by header name.
    pub headers: BTreeMap<&'static str, String>,
    /// Checksums that a PUT came with and that were right, by header name.
    pub sums: BTreeMap<&'static str, String>,
}

impl StoredObject {
    /// An object without metadata.
    pub fn plain(body: Bytes) -> Self {
        let etag = md5_hex(&body);
        Self::with_etag(body, etag)
    }

    /// The same, if its ETag (without quotes) is known.
    pub fn with_etag(body: Bytes, etag: String) -> Self {
        Self {
            body,
            etag,
            modified: OffsetDateTime::now_utc(),
            metadata: HashMap::new(),
            headers: BTreeMap::new(),
            sums: BTreeMap::new(),
        }
    }

    /// What stands in `x-amz-meta-forebay-version`.
    pub fn version_text(&self) -> Option<&str> {
        self.metadata.get(VERSION_META).map(String::as_str)
    }
}

/// MD5 in lower-case hex.
pub fn md5_hex(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// One page of a listing.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// Keys not rolled up, with their objects.
    pub contents: Vec<(String, StoredObject)>,
    /// Common prefixes, delimiter included.
    pub prefixes: Vec<String>,
    /// Set if more follows: everything up to and including this (key or common prefix) was given.
    pub next_after: Option<String>,
}

/// Parameters of a listing.
#[derive(Debug, Default, Clone)]
pub struct Listing<'a> {
    /// Only keys that begin with it.
    pub prefix: &'a str,
    /// Rolls up what follows it; empty for none.
    pub delimiter: &'a str,
    /// Only keys after it, and no common prefix that it lies in.
    pub after: &'a str,
    /// Most entries (keys and common prefixes together).
    pub max_keys: usize,
}

/// Buckets by name.
#[derive(Debug, Default)]
pub struct Buckets(BTreeMap<String, BTreeMap<String, StoredObject>>);

impl Buckets {
    /// False if it was there.
    pub fn create(&mut self, bucket: &str) -> bool {
        if self.0.contains_key(bucket) {
            return false;
        }
        self.0.insert(bucket.to_owned(), BTreeMap::new());
        true
    }

    /// Removes a bucket and its objects.
    pub fn drop_bucket(&mut self, bucket: &str) {
        self.0.remove(bucket);
    }

    /// Whether there is such a bucket.
    pub fn has(&self, bucket: &str) -> bool {
        self.0.contains_key(bucket)
    }

    /// Bucket names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The object under `key`.
    pub fn get(&self, bucket: &str, key: &str) -> Option<&StoredObject> {
        self.0.get(bucket)?.get(key)
    }

    /// Stores `object`; false if there is no such bucket.
    pub fn put(&mut self, bucket: &str, key: &str, object: StoredObject) -> bool {
        match self.0.get_mut(bucket) {
            Some(objects) => {
                objects.insert(key.to_owned(), object);
                true
            }
            None => false,
        }
    }

    /// Removes the object; true if there was one.
    pub fn delete(&mut self, bucket: &str, key: &str) -> bool {
        self.0.get_mut(bucket).is_some_and(|objects| objects.remove(key).is_some())
    }

    /// Everything that begins with `prefix`.
    pub fn with_prefix(&self, bucket: &str, prefix: &str) -> Vec<(String, StoredObject)> {
        let Some(objects) = self.0.get(bucket) else { return Vec::new() };
        objects
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect()
    }

    /// One page as ListObjectsV2 defines it.
    pub fn list(&self, bucket: &str, listing: &Listing<'_>) -> Page {
        let mut page = Page { contents: Vec::new(), prefixes: Vec::new(), next_after: None };
        let Some(objects) = self.0.get(bucket) else { return page };
        let mut last: Option<String> = None;
        let from = if listing.after >= listing.prefix {
            Bound::Excluded(listing.after.to_owned())
        } else {
            Bound::Included(listing.prefix.to_owned())
        };
        for (key, object) in objects.range((from, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(listing.prefix) else { break };
            let rolled = match rest.find(listing.delimiter) {
                Some(at) if !listing.delimiter.is_empty() => {
                    Some(&key[..listing.prefix.len() + at + listing.delimiter.len()])
                }
                _ => None,
            };
            if let Some(prefix) = rolled
                && (page.prefixes.last().is_some_and(|seen| seen == prefix)
                    || listing.after.starts_with(prefix))
            {
                continue;
            }
            if page.contents.len() + page.prefixes.len() == listing.max_keys {
                page.next_after = last;
                break;
            }
            match rolled {
                Some(prefix) => page.prefixes.push(prefix.to_owned()),
                None => page.contents.push((key.clone(), object.clone())),
            }
            last = Some(rolled.unwrap_or(key).to_owned());
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket_of(keys: &[&str]) -> Buckets {
        let mut buckets = Buckets::default();
        buckets.create("b");
        for key in keys {
            buckets.put("b", key, StoredObject::plain(Bytes::new()));
        }
        buckets
    }

    fn keys(page: &Page) -> Vec<&str> {
        page.contents.iter().map(|(key, _)| key.as_str()).collect()
    }

    #[test]
    fn a_delimiter_rolls_up_and_counts_once() {
        let buckets = bucket_of(&["a", "b/1", "b/2", "b//", "c"]);
        let page = buckets.list("b", &Listing { delimiter: "/", max_keys: 10, ..Listing::default() });
        assert_eq!(keys(&page), ["a", "c"]);
        assert_eq!(page.prefixes, ["b/"]);
        assert_eq!(page.next_after, None);
    }

    #[test]
    fn pages_continue_after_a_common_prefix() {
        let buckets = bucket_of(&["a/1", "a/2", "b/1", "c"]);
        let first = buckets.list("b", &Listing { delimiter: "/", max_keys: 1, ..Listing::default() });
        assert_eq!((first.prefixes, first.next_after.as_deref()), (vec!["a/".to_owned()], Some("a/")));
        let second =
            buckets.list("b", &Listing { delimiter: "/", max_keys: 9, after: "a/", ..Listing::default() });
        assert_eq!(second.prefixes, ["b/"]);
        assert_eq!(keys(&second), ["c"]);
    }

    #[test]
    fn start_after_below_the_prefix_hides_nothing() {
        let buckets = bucket_of(&["p/1", "p/2", "q"]);
        let page =
            buckets.list("b", &Listing { prefix: "p/", after: "a", max_keys: 9, ..Listing::default() });
        assert_eq!(keys(&page), ["p/1", "p/2"]);
    }
}
