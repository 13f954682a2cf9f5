//! One object, two protocols: what SET wrote GetObject reads, and the reverse.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::EncodingType;
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::resp_wire::{RespWire, bulk};

fn node() -> (Node, RespWire) {
    let node = Node::start(NodeOptions::default()).unwrap();
    let resp = node.resp();
    (node, resp)
}

fn ok(reply: &[u8]) {
    assert_eq!(reply, b"+OK\r\n", "{}", reply.escape_ascii());
}

async fn body(s3: &aws_sdk_s3::Client, bucket: &str, key: &str) -> Vec<u8> {
    let got = s3.get_object().bucket(bucket).key(key).send().await.unwrap();
    got.body.collect().await.unwrap().to_vec()
}

#[tokio::test]
async fn set_is_read_by_get_object_and_put_object_by_get() {
    let (node, mut resp) = node();
    let s3 = node.s3();
    for size in [0, 1, 512, 513, 65_536] {
        let bytes: Vec<u8> = (0..size).map(|at: usize| at.to_le_bytes()[0]).collect();
        let key = format!("dir//k{size}");
        ok(&resp.call(&[&b"SET"[..], key.as_bytes(), &bytes]).unwrap());
        assert_eq!(body(&s3, "redis-0", &key).await, bytes, "SET of {size} bytes");
        let back = format!("back{size}");
        let put = s3.put_object().bucket("redis-0").key(&back).body(ByteStream::from(bytes.clone()));
        put.send().await.unwrap();
        assert_eq!(bulk(&resp.call(&["GET", back.as_str()]).unwrap()), Some(&bytes[..]));
    }
    node.finish(&[]);
}

#[tokio::test]
async fn a_delete_on_one_side_is_a_miss_on_the_other() {
    let (node, mut resp) = node();
    let s3 = node.s3();
    ok(&resp.call(&["MSET", "a", "1", "b", "2"]).unwrap());
    s3.delete_object().bucket("redis-0").key("a").send().await.unwrap();
    assert_eq!(resp.call(&["GET", "a"]).unwrap(), b"$-1\r\n");
    assert_eq!(resp.call(&["DEL", "b"]).unwrap(), b":1\r\n");
    let missing = s3.get_object().bucket("redis-0").key("b").send().await.unwrap_err();
    assert_eq!(missing.code(), Some("NoSuchKey"));
    node.finish(&[]);
}

#[tokio::test]
async fn set_drops_metadata_and_ttl_while_append_keeps_both() {
    let (node, mut resp) = node();
    let s3 = node.s3();
    let put = s3.put_object().bucket("redis-0").key("k").body(ByteStream::from_static(b"1"));
    put.metadata("colour", "green").content_type("text/x").send().await.unwrap();
    assert_eq!(resp.call(&["PEXPIRE", "k", "1000000"]).unwrap(), b":1\r\n");
    assert_eq!(resp.call(&["APPEND", "k", "2"]).unwrap(), b":2\r\n");
    assert_eq!(resp.call(&["INCR", "k"]).unwrap(), b":13\r\n");
    assert_eq!(resp.call(&["SETRANGE", "k", "1", "4"]).unwrap(), b":2\r\n");
    let head = s3.head_object().bucket("redis-0").key("k").send().await.unwrap();
    assert_eq!(head.metadata().unwrap().get("colour").map(String::as_str), Some("green"));
    assert_eq!(head.content_type(), Some("text/x"));
    assert_eq!(body(&s3, "redis-0", "k").await, b"14");
    assert_ne!(resp.call(&["PTTL", "k"]).unwrap(), b":-1\r\n");
    ok(&resp.call(&["SET", "k", "new", "KEEPTTL"]).unwrap());
    assert_ne!(resp.call(&["PTTL", "k"]).unwrap(), b":-1\r\n");
    let head = s3.head_object().bucket("redis-0").key("k").send().await.unwrap();
    assert!(head.metadata().is_none_or(|map| map.is_empty()), "SET keeps metadata: {head:?}");
    ok(&resp.call(&["SET", "k", "newer"]).unwrap());
    assert_eq!(resp.call(&["PTTL", "k"]).unwrap(), b":-1\r\n");
    node.finish(&[]);
}

#[tokio::test]
async fn an_s3_put_clears_the_ttl_and_a_get_shows_it() {
    let (node, mut resp) = node();
    let s3 = node.s3();
    ok(&resp.call(&["SET", "k", "v", "EX", "1000"]).unwrap());
    let expires = || async {
        let head = s3.head_object().bucket("redis-0").key("k").customize();
        let seen = std::sync::Arc::new(std::sync::Mutex::new(None));
        let keep = std::sync::Arc::clone(&seen);
        let config = aws_sdk_s3::config::Builder::new().interceptor(Headers(keep));
        head.config_override(config).send().await.unwrap();
        seen.lock().unwrap().clone()
    };
    assert!(expires().await.is_some(), "x-forebay-expires-at is missing");
    s3.put_object().bucket("redis-0").key("k").body(ByteStream::from_static(b"w")).send().await.unwrap();
    assert_eq!(expires().await, None);
    assert_eq!(resp.call(&["TTL", "k"]).unwrap(), b":-1\r\n");
    node.finish(&[]);
}

/// Keeps the header `x-forebay-expires-at` of the last answer.
#[derive(Debug)]
struct Headers(std::sync::Arc<std::sync::Mutex<Option<String>>>);

impl aws_sdk_s3::config::Intercept for Headers {
    fn name(&self) -> &'static str {
        "keep x-forebay-expires-at"
    }

    fn read_after_transmit(
        &self,
        context: &aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef<'_>,
        _: &aws_sdk_s3::config::RuntimeComponents,
        _: &mut aws_sdk_s3::config::ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let value = context.response().headers().get("x-forebay-expires-at").map(str::to_owned);
        *self.0.lock().map_err(|_| "poisoned")? = value;
        Ok(())
    }
}

#[tokio::test]
async fn any_bucket_is_open_to_resp_and_keys_are_never_altered() {
    let (node, mut resp) = node();
    let s3 = node.s3();
    s3.create_bucket().bucket("photos").send().await.unwrap();
    ok(&resp.call(&["FB.USE", "photos"]).unwrap());
    for key in ["a", "a/", "a//b", "/a", ".", "..", "a/../b", "ü %+", "\u{1f}"] {
        ok(&resp.call(&["SET", key, key]).unwrap());
    }
    let longest = "k".repeat(1_024);
    ok(&resp.call(&["SET", longest.as_str(), "longest"]).unwrap());
    let refused = resp.call(&["SET", "k".repeat(1_025).as_str(), "too long"]).unwrap();
    assert!(refused.starts_with(b"-ERR"), "{}", refused.escape_ascii());
    let listed = s3.list_objects_v2().bucket("photos").encoding_type(EncodingType::Url).send().await.unwrap();
    let mut keys: Vec<&str> = listed.contents().iter().filter_map(|object| object.key()).collect();
    let mut expected = vec!["a", "a/", "a//b", "/a", ".", "..", "a/../b", "%C3%BC%20%25%2B", "%1F", &longest];
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    for key in ["a", "a/", "a//b", "/a", "ü %+"] {
        assert_eq!(body(&s3, "photos", key).await, key.as_bytes(), "{key}");
    }
    node.finish(&[]);
}

#[tokio::test]
async fn the_etag_of_a_resp_value_has_the_form_of_a_multipart_one_and_changes_with_every_write() {
    let (node, mut resp) = node();
    let s3 = node.s3();
    let mut seen = Vec::new();
    for _ in 0..2 {
        ok(&resp.call(&["SET", "k", "same"]).unwrap());
        let head = s3.head_object().bucket("redis-0").key("k").send().await.unwrap();
        let etag = head.e_tag().unwrap().trim_matches('"').to_owned();
        assert!(etag.ends_with("-1") && etag.len() == 34, "{etag}");
        seen.push(etag);
    }
    assert_ne!(seen[0], seen[1]);
    let put = s3.put_object().bucket("redis-0").key("k").if_match(&seen[0]);
    assert_eq!(
        put.body(ByteStream::from_static(b"x")).send().await.unwrap_err().code(),
        Some("PreconditionFailed")
    );
    let put = s3.put_object().bucket("redis-0").key("k").if_match(&seen[1]);
    put.body(ByteStream::from_static(b"x")).send().await.unwrap();
    node.finish(&[]);
}
