//! What all listings of a bucket share: the items of a page in byte order, and how they are written.
//!
//! The rule that everything follows from: a bucket's *items* under a prefix and delimiter are its keys that
//! do not hold the delimiter behind the prefix, and the distinct common prefixes of those that do, in byte
//! order. A page is the first `max_keys` items greater than `after`, which is where the client says it
//! stands: a key, or the last item of the page before. So a page that ends in a common prefix continues
//! behind all of its keys.
//!
//! A page is read at one view; a listing is not a snapshot over its pages, as on S3. Where an origin is asked, the
//! core puts a page together of what is here and what only the origin has, by the same rule.

use std::borrow::Cow;

use bytes::Bytes;
use forebay_storage::lookup::{MergedEntry, MergedList};
use forebay_storage::object::{BucketId, KEY_BYTES_MAX};
use forebay_storage::object_name;
use forebay_storage::read::{Listed, ReadView};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto;

use crate::error::Refused;
use crate::metadata;
use crate::query::Query;
use crate::service::Operations;
use crate::xml::XmlWriter;

/// Most items of a page, as on AWS.
const MAX_KEYS: usize = 1000;
/// Rows of the first batch under a delimiter: each may be the head of a long common prefix to be skipped.
const BATCH_MIN: usize = 16;
/// What `encoding-type=url` leaves as it is.
const URL_ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'*').remove(b'/');

/// How names are written in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameCoding {
    /// As they are; XML has no way to write some of them.
    Plain,
    /// `encoding-type=url`.
    Url,
}

impl NameCoding {
    /// Reads `encoding-type`.
    pub(super) fn read(encoding_type: Option<&dto::EncodingType>) -> Result<NameCoding, Refused> {
        match encoding_type.map(dto::EncodingType::as_str) {
            None => Ok(NameCoding::Plain),
            Some("url") => Ok(NameCoding::Url),
            Some(_) => Err(invalid("encoding-type", "Invalid Encoding Method specified in Request")),
        }
    }

    pub(super) fn text(self, text: String) -> String {
        match self {
            NameCoding::Plain => text,
            NameCoding::Url => utf8_percent_encode(&text, URL_ENCODED).to_string(),
        }
    }

    /// The name of a key or of the beginning of one.
    pub(super) fn key(self, key: &[u8]) -> String {
        self.text(object_name::encode_key(key).into_owned())
    }
}

/// Reads `max-keys`.
fn max_keys(given: Option<i32>) -> Result<usize, Refused> {
    let Some(given) = given else { return Ok(MAX_KEYS) };
    let text = "Argument max-keys must be an integer between 0 and 2147483647";
    Ok(usize::try_from(given).map_err(|_| invalid("max-keys", text))?.min(MAX_KEYS))
}

/// What a listing tells of an object.
#[derive(Debug)]
struct ListedObject {
    pub(super) key: Bytes,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) modified_ms: u64,
    pub(super) size: u64,
    /// Algorithm and value.
    pub(super) checksum: Option<(String, String)>,
}

/// An object as listings show it.
fn object(listed: ListedObject, fetch_owner: bool, coding: NameCoding) -> dto::Object {
    dto::Object {
        key: Some(coding.key(&listed.key)),
        e_tag: Some(dto::ETag::Strong(listed.etag)),
        last_modified: Some(timestamp(listed.modified_ms)),
        size: i64::try_from(listed.size).ok(),
        storage_class: Some(dto::ObjectStorageClass::from_static(dto::ObjectStorageClass::STANDARD)),
        owner: fetch_owner.then(owner),
        checksum_type: listed
            .checksum
            .as_ref()
            .map(|(_, value)| dto::ChecksumType::from_static(metadata::checksum_type(value))),
        checksum_algorithm: listed
            .checksum
            .map(|(algorithm, _)| vec![dto::ChecksumAlgorithm::from(algorithm.to_uppercase())]),
        ..Default::default()
    }
}

/// A common prefix as listings show it.
fn common_prefix_element(prefix: &[u8], coding: NameCoding) -> dto::CommonPrefix {
    dto::CommonPrefix { prefix: Some(coding.key(prefix)) }
}

/// Reads the size of a page from the query, as `max-keys` is read.
pub(super) fn page_size(query: &Query, name: &'static str) -> Result<usize, Refused> {
    match query.get(name).filter(|text| !text.is_empty()) {
        None => Ok(MAX_KEYS),
        Some(text) => match text.parse::<i32>() {
            Ok(size @ 0..) => Ok((size as usize).min(MAX_KEYS)),
            _ => Err(Refused::new(
                "InvalidArgument",
                400,
                format!("Argument {name} must be an integer between 0 and 2147483647"),
            )
            .with("ArgumentName", name)),
        },
    }
}

/// The one owner of everything, inside an element.
pub(super) fn owner_to_xml(xml: &mut XmlWriter) {
    let owner = owner();
    xml.optional("ID", owner.id.as_deref());
    xml.optional("DisplayName", owner.display_name.as_deref());
}

/// The one owner of everything.
pub(super) fn owner() -> dto::Owner {
    dto::Owner { display_name: Some("forebay".to_owned()), id: Some("forebay".to_owned()) }
}

pub(super) fn timestamp(ms: u64) -> dto::Timestamp {
    crate::timestamp::from_ms(ms).into()
}

/// The key behind a name or the beginning of one. What is no whole name stands for itself.
pub(super) fn key_of(name: &str) -> Vec<u8> {
    object_name::decode_key(name).map_or_else(|| name.as_bytes().to_vec(), Cow::into_owned)
}

pub(super) fn invalid(argument: &'static str, message: &'static str) -> Refused {
    Refused::new("InvalidArgument", 400, message).with("ArgumentName", argument)
}

/// Which items a page is to hold.
#[derive(Debug, Clone)]
struct PageQuery {
    pub(super) prefix: Vec<u8>,
    /// Empty: none.
    pub(super) delimiter: Vec<u8>,
    pub(super) after: Option<Vec<u8>>,
    pub(super) max_keys: usize,
}

struct Page<R> {
    pub(super) items: Vec<Item<R>>,
    /// The last item, if there are more behind it.
    pub(super) next: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Item<R> {
    Row(R),
    CommonPrefix(Vec<u8>),
}

/// A request for a page of a bucket's objects, in whichever of its forms.
pub(super) struct Asked<'a> {
    pub(super) bucket: &'a str,
    pub(super) prefix: Option<&'a str>,
    pub(super) delimiter: Option<&'a str>,
    /// Behind what the page begins.
    pub(super) after: Result<Option<Vec<u8>>, Refused>,
    pub(super) max_keys: Option<i32>,
    pub(super) encoding_type: Option<&'a dto::EncodingType>,
    /// Whether objects name their owner.
    pub(super) owner: bool,
}

/// The page, as answers write it.
pub(super) struct ObjectsPage {
    pub(super) coding: NameCoding,
    pub(super) max_keys: usize,
    pub(super) contents: Vec<dto::Object>,
    pub(super) common_prefixes: Vec<dto::CommonPrefix>,
    /// The last item, if there are more behind it.
    pub(super) next: Option<Vec<u8>>,
    /// Whether the last item is an object.
    pub(super) ends_in_object: bool,
}

/// Reads a page of a bucket's objects.
pub(super) async fn objects_page(operations: &Operations, asked: Asked<'_>) -> Result<ObjectsPage, Refused> {
    let bucket = operations.bucket(asked.bucket)?;
    let coding = NameCoding::read(asked.encoding_type)?;
    let max_keys = max_keys(asked.max_keys)?;
    let query = PageQuery {
        prefix: key_of(asked.prefix.unwrap_or("")),
        delimiter: asked.delimiter.unwrap_or("").as_bytes().to_vec(),
        after: asked.after?,
        max_keys,
    };
    let page = page_of_bucket(operations, bucket, &query).await?;
    let ends_in_object = matches!(page.items.last(), Some(Item::Row(_)));
    let (mut contents, mut common_prefixes) = (Vec::new(), Vec::new());
    for item in page.items {
        match item {
            Item::Row(listed) => contents.push(object(listed, asked.owner, coding)),
            Item::CommonPrefix(prefix) => common_prefixes.push(common_prefix_element(&prefix, coding)),
        }
    }
    Ok(ObjectsPage { coding, max_keys, contents, common_prefixes, next: page.next, ends_in_object })
}

/// The key that a page begins behind, as a client names it; an empty name is none.
pub(super) fn marker(name: Option<&str>) -> Option<Vec<u8>> {
    name.filter(|name| !name.is_empty()).map(key_of)
}

/// A bucket's rows in byte order; a map in tests.
trait Rows: Sync {
    type Row: Send;
    fn key(row: &Self::Row) -> &[u8];
    /// Up to `limit` rows with keys greater than `after` that begin with `prefix`; fewer mean the end.
    fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Self::Row>, Refused>> + Send;
}

/// The page of a bucket's objects, those that only an origin has among them.
async fn page_of_bucket(
    operations: &Operations,
    bucket: BucketId,
    query: &PageQuery,
) -> Result<Page<ListedObject>, Refused> {
    let store = &operations.store;
    if store.has_lookups() && store.lists_origin(bucket, &query.prefix) {
        return merged_page(operations, bucket, query).await;
    }
    let page = page(&BucketRows { view: store.view()?, bucket }, query).await?;
    let cluster = store.cluster_id();
    let show = |Listed { key, row }| ListedObject {
        key,
        etag: row.etag(cluster).to_string(),
        modified_ms: row.modified_ms(),
        size: row.body_len(),
        checksum: row.meta().checksum,
    };
    let items = page.items.into_iter().map(|item| match item {
        Item::Row(listed) => Item::Row(show(listed)),
        Item::CommonPrefix(prefix) => Item::CommonPrefix(prefix),
    });
    Ok(Page { items: items.collect(), next: page.next })
}

async fn merged_page(
    operations: &Operations,
    bucket: BucketId,
    query: &PageQuery,
) -> Result<Page<ListedObject>, Refused> {
    let list = MergedList {
        prefix: &query.prefix,
        after: query.after.as_deref(),
        delimiter: &query.delimiter,
        limit: query.max_keys,
    };
    let page = operations.store.list_merged(bucket, list).await?;
    let next = page.entries.last().filter(|_| page.more).map(|last| last.key().to_vec());
    let items = page.entries.into_iter().map(|entry| match entry {
        MergedEntry::Object { key, size, modified_ms, etag, row } => {
            let checksum = row.and_then(|row| row.meta().checksum);
            Item::Row(ListedObject { key, etag, modified_ms, size, checksum })
        }
        MergedEntry::Prefix(prefix) => Item::CommonPrefix(prefix.to_vec()),
    });
    Ok(Page { items: items.collect(), next })
}

struct BucketRows {
    view: ReadView,
    bucket: BucketId,
}

impl Rows for BucketRows {
    type Row = Listed;

    fn key(row: &Listed) -> &[u8] {
        &row.key
    }

    async fn list(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Listed>, Refused> {
        Ok(self.view.list(self.bucket, prefix, after, limit).await?)
    }
}

async fn page<S: Rows>(rows: &S, query: &PageQuery) -> Result<Page<S::Row>, Refused> {
    let mut items: Vec<Item<S::Row>> = Vec::new();
    if query.max_keys == 0 {
        return Ok(Page { items, next: None });
    }
    // Keys up to and including this one are done.
    let mut done = query.after.clone();
    if let Some(common) = done.as_deref().and_then(|after| common_prefix(after, query)) {
        done = Some(last_key_under(common));
    }
    let mut last_item: Vec<u8> = Vec::new();
    let mut batch_len = if query.delimiter.is_empty() { MAX_KEYS } else { BATCH_MIN };
    loop {
        let wanted = query.max_keys - items.len() + 1;
        let limit = wanted.min(batch_len);
        let batch = rows.list(&query.prefix, done.as_deref(), limit).await?;
        let is_last = batch.len() < limit;
        let mut skipped = false;
        for row in batch {
            let key = S::key(&row);
            if done.as_deref().is_some_and(|done| key <= done) {
                // Under the common prefix that this batch has just met.
                skipped = true;
                continue;
            }
            if items.len() == query.max_keys {
                return Ok(Page { items, next: Some(last_item) });
            }
            if let Some(common) = common_prefix(key, query) {
                last_item = common.to_vec();
                done = Some(last_key_under(common));
                items.push(Item::CommonPrefix(last_item.clone()));
            } else {
                last_item = key.to_vec();
                done = Some(last_item.clone());
                items.push(Item::Row(row));
            }
        }
        if is_last {
            return Ok(Page { items, next: None });
        }
        // Long runs under one prefix are jumped over, so small batches are enough there.
        batch_len = if skipped { BATCH_MIN } else { (batch_len * 2).min(MAX_KEYS + 1) };
    }
}

fn common_prefix<'a>(key: &'a [u8], query: &PageQuery) -> Option<&'a [u8]> {
    common_prefix_of(key, &query.prefix, &query.delimiter)
}

/// The key up to and including the first delimiter behind the prefix.
pub(super) fn common_prefix_of<'a>(key: &'a [u8], prefix: &[u8], delimiter: &[u8]) -> Option<&'a [u8]> {
    if delimiter.is_empty() {
        return None;
    }
    let tail = key.strip_prefix(prefix)?;
    let at = tail.windows(delimiter.len()).position(|window| window == delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// Not less than any key under the prefix, and less than every key behind them.
pub(super) fn last_key_under(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.resize(KEY_BYTES_MAX.max(prefix.len()), 0xFF);
    key
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;
    use std::ops::Bound;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Model {
        keys: BTreeSet<Vec<u8>>,
        rows_read: AtomicUsize,
    }

    impl Model {
        fn new(keys: impl IntoIterator<Item = Vec<u8>>) -> Model {
            Model { keys: keys.into_iter().collect(), rows_read: AtomicUsize::new(0) }
        }

        /// The items by their definition, all of them.
        fn items(&self, query: &PageQuery) -> Vec<Vec<u8>> {
            let item = |key: &Vec<u8>| match common_prefix(key, query) {
                Some(common) => common.to_vec(),
                None => key.clone(),
            };
            let under = self.keys.iter().filter(|key| key.starts_with(&query.prefix)).map(item);
            let items: BTreeSet<Vec<u8>> = under.collect();
            items.into_iter().filter(|item| query.after.as_ref().is_none_or(|after| item > after)).collect()
        }
    }

    impl Rows for Model {
        type Row = Vec<u8>;

        fn key(row: &Vec<u8>) -> &[u8] {
            row
        }

        async fn list(
            &self,
            prefix: &[u8],
            after: Option<&[u8]>,
            limit: usize,
        ) -> Result<Vec<Vec<u8>>, Refused> {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let range = self.keys.range::<[u8], _>((from, Bound::Unbounded));
            let rows: Vec<_> = range.filter(|key| key.starts_with(prefix)).take(limit).cloned().collect();
            self.rows_read.fetch_add(rows.len(), Ordering::Relaxed);
            Ok(rows)
        }
    }

    fn query(prefix: &[u8], delimiter: &[u8], max_keys: usize) -> PageQuery {
        PageQuery { prefix: prefix.to_vec(), delimiter: delimiter.to_vec(), after: None, max_keys }
    }

    fn names(page: &Page<Vec<u8>>) -> Vec<Vec<u8>> {
        page.items
            .iter()
            .map(|item| match item {
                Item::Row(key) | Item::CommonPrefix(key) => key.clone(),
            })
            .collect()
    }

    /// All pages, one behind the other.
    async fn walk(model: &Model, mut query: PageQuery) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let page = page(model, &query).await.expect("a page");
            assert!(page.items.len() <= query.max_keys);
            all.extend(names(&page));
            let Some(next) = page.next else { return all };
            assert_eq!(page.items.len(), query.max_keys, "a truncated page is full");
            assert_eq!(Some(&next), all.last());
            query.after = Some(next);
        }
    }

    #[tokio::test]
    async fn random_buckets_against_the_definition() {
        for seed in 0..400u64 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let alphabet = [b'a', b'b', b'/', b'-', 0x00, 0xFF];
            let word = |rng: &mut fastrand::Rng, max: usize| -> Vec<u8> {
                let len = rng.usize(0..=max);
                (0..len).map(|_| alphabet[rng.usize(0..alphabet.len())]).collect()
            };
            let count = rng.usize(0..120);
            let keys: Vec<_> = (0..count).map(|_| word(&mut rng, 6)).filter(|key| !key.is_empty()).collect();
            let model = Model::new(keys);
            for _ in 0..10 {
                let delimiter: &[u8] = [&b""[..], b"/", b"a", b"/-"][rng.usize(0..4)];
                let mut query = query(&word(&mut rng, 2), delimiter, rng.usize(1..8));
                query.after = rng.bool().then(|| word(&mut rng, 4));
                let expected = model.items(&query);
                let truncated = expected.len() > query.max_keys;
                let first = page(&model, &query).await.expect("a page");
                assert_eq!(first.next.is_some(), truncated, "seed {seed}");
                assert_eq!(walk(&model, query).await, expected, "seed {seed}");
            }
        }
    }

    #[tokio::test]
    async fn long_common_prefixes_are_jumped_over() {
        let keys = (0..50).flat_map(|dir| (0..2_000).map(move |i| format!("d{dir:02}/{i:04}").into_bytes()));
        let model = Model::new(keys);
        let page = page(&model, &query(b"", b"/", 1000)).await.expect("a page");
        assert_eq!((page.items.len(), page.next), (50, None));
        let read = model.rows_read.load(Ordering::Relaxed);
        assert!(read <= 51 * BATCH_MIN, "{read} rows read for 50 prefixes");
    }

    #[tokio::test]
    async fn common_prefixes_count_in_max_keys() {
        let model = Model::new(["a/1", "a/2", "b", "c/1"].map(|key| key.as_bytes().to_vec()));
        let first = page(&model, &query(b"", b"/", 2)).await.expect("a page");
        assert_eq!(names(&first), [b"a/".to_vec(), b"b".to_vec()]);
        assert_eq!(first.next, Some(b"b".to_vec()));
    }

    #[tokio::test]
    async fn start_after_inside_a_common_prefix_skips_it() {
        let model = Model::new(["a/1", "a/2", "b"].map(|key| key.as_bytes().to_vec()));
        for (after, expected) in
            [("a", vec!["a/", "b"]), ("a/", vec!["b"]), ("a/1", vec!["b"]), ("b", vec![])]
        {
            let mut query = query(b"", b"/", 10);
            query.after = Some(after.as_bytes().to_vec());
            let found = names(&page(&model, &query).await.expect("a page"));
            assert_eq!(found, expected.iter().map(|e| e.as_bytes().to_vec()).collect::<Vec<_>>(), "{after}");
        }
    }

    #[tokio::test]
    async fn no_keys_wanted_is_an_empty_last_page() {
        let model = Model::new([b"a".to_vec()]);
        let page = page(&model, &query(b"", b"", 0)).await.expect("a page");
        assert!(page.items.is_empty() && page.next.is_none());
    }

    #[test]
    fn url_encoding_leaves_no_byte_that_xml_or_a_decoder_could_misread() {
        let encoded = utf8_percent_encode("a b+c%d/ü\x1F<\"", URL_ENCODED).to_string();
        assert_eq!(encoded, "a%20b%2Bc%25d/%C3%BC%1F%3C%22");
        let seen = Cell::new(0);
        encoded.bytes().for_each(|b| {
            assert!(b.is_ascii_graphic());
            seen.set(seen.get() + 1);
        });
        assert_eq!(seen.get(), encoded.len());
    }
}
