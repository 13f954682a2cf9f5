//! LIST beside a sorted map. Aim: every page of every listing is exact, whatever prefix, delimiter, page size or
//! starting point. Method: random keys of few characters that collide often, by seed; the model is the origin
//! simulator's ordered map, which has its own tests.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::EncodingType;
use bytes::Bytes;
use fastrand::Rng;
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::buckets::{Buckets, Listing, StoredObject};

const BUCKET: &str = "listed";
const LISTINGS: usize = 150;

/// Characters that make trouble: the delimiter, what sorts next to it, what XML and URLs escape.
const LETTERS: [&str; 10] = ["a", "b", "/", "/", "-", "0", " ", "&", "ü", "%2F"];

#[tokio::test]
async fn every_page_of_every_listing_equals_the_model() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let s3 = node.s3();
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    let mut random = Rng::with_seed(7);
    let mut model = Buckets::default();
    model.create(BUCKET);
    for round in 0..3 {
        change(&s3, &mut model, &mut random).await;
        for number in 0..LISTINGS {
            let case = Case::random(&mut random);
            let expected = case.of_model(&model);
            let found = case.of_server(&s3).await;
            assert_eq!(found, expected, "round {round}, listing {number}: {case:?}");
        }
    }
    node.finish(&[]);
}

#[tokio::test]
async fn a_listing_is_the_same_after_kill_9_and_restart() {
    let mut node = Node::start(NodeOptions::default()).unwrap();
    let s3 = node.s3();
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    let mut random = Rng::with_seed(8);
    let mut model = Buckets::default();
    model.create(BUCKET);
    change(&s3, &mut model, &mut random).await;
    node.kill();
    node.restart().unwrap();
    let s3 = node.s3();
    let case = Case { prefix: String::new(), delimiter: "", after: String::new(), max_keys: 7, url: false };
    assert_eq!(case.of_server(&s3).await, case.of_model(&model));
    node.finish(&[]);
}

#[tokio::test]
async fn url_encoding_gives_keys_that_xml_cannot_hold() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let s3 = node.s3();
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    for key in ["plain", "with space", "plus+", "per%cent", "unit\u{1f}separator", "ü/\"quoted\"", "a&b<c>"]
    {
        s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(b"")).send().await.unwrap();
    }
    let listed = s3.list_objects_v2().bucket(BUCKET).encoding_type(EncodingType::Url).send().await.unwrap();
    let keys: Vec<&str> = listed.contents().iter().filter_map(|object| object.key()).collect();
    let expected = [
        "a%26b%3Cc%3E",
        "per%25cent",
        "plain",
        "plus%2B",
        "unit%1Fseparator",
        "with%20space",
        "%C3%BC/%22quoted%22",
    ];
    assert_eq!(keys, expected);
    node.finish(&[]);
}

async fn change(s3: &Client, model: &mut Buckets, random: &mut Rng) {
    for _ in 0..120 {
        let key = text(random, 1..7);
        if random.u32(0..4) == 0 {
            s3.delete_object().bucket(BUCKET).key(&key).send().await.unwrap();
            model.delete(BUCKET, &key);
        } else {
            let put = s3.put_object().bucket(BUCKET).key(&key);
            put.body(ByteStream::from_static(b"x")).send().await.unwrap();
            model.put(BUCKET, &key, StoredObject::plain(Bytes::from_static(b"x")));
        }
    }
}

fn text(random: &mut Rng, length: std::ops::Range<usize>) -> String {
    (0..random.usize(length)).map(|_| LETTERS[random.usize(0..LETTERS.len())]).collect()
}

#[derive(Debug)]
struct Case {
    prefix: String,
    delimiter: &'static str,
    after: String,
    max_keys: usize,
    url: bool,
}

/// Pages of (keys, common prefixes).
type Pages = Vec<(Vec<String>, Vec<String>)>;

impl Case {
    fn random(random: &mut Rng) -> Self {
        Self {
            prefix: text(random, 0..3),
            delimiter: ["", "/", "/", "//", "-", "a/"][random.usize(0..6)],
            after: if random.bool() { String::new() } else { text(random, 0..4) },
            max_keys: random.usize(1..20),
            url: random.bool(),
        }
    }

    fn of_model(&self, model: &Buckets) -> Pages {
        let mut pages = Vec::new();
        let mut after = self.after.clone();
        loop {
            let listing = Listing {
                prefix: &self.prefix,
                delimiter: self.delimiter,
                after: &after,
                max_keys: self.max_keys,
            };
            let page = model.list(BUCKET, &listing);
            pages.push((page.contents.into_iter().map(|(key, _)| key).collect(), page.prefixes));
            match page.next_after {
                Some(next) => after = next,
                None => return pages,
            }
        }
    }

    async fn of_server(&self, s3: &Client) -> Pages {
        let mut pages = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let request = s3
                .list_objects_v2()
                .bucket(BUCKET)
                .prefix(&self.prefix)
                .set_delimiter((!self.delimiter.is_empty()).then(|| self.delimiter.to_owned()))
                .set_start_after((!self.after.is_empty()).then(|| self.after.clone()))
                .set_encoding_type(self.url.then_some(EncodingType::Url))
                .max_keys(i32::try_from(self.max_keys).unwrap())
                .set_continuation_token(token);
            let page = request.send().await.unwrap();
            let plain = |text: &str| if self.url { url_decode(text) } else { text.to_owned() };
            let keys: Vec<String> =
                page.contents().iter().filter_map(|object| object.key().map(plain)).collect();
            let prefixes: Vec<String> =
                page.common_prefixes().iter().filter_map(|entry| entry.prefix().map(plain)).collect();
            assert_eq!(page.key_count(), i32::try_from(keys.len() + prefixes.len()).ok());
            pages.push((keys, prefixes));
            if page.is_truncated() != Some(true) {
                assert_eq!(page.next_continuation_token(), None);
                return pages;
            }
            token = page.next_continuation_token().map(str::to_owned);
        }
    }
}

fn url_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'%' => {
                bytes.extend(hex::decode(&tail[..2]).unwrap());
                rest = &tail[2..];
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).unwrap()
}
