//! Batch deletes, the older listings, harmless sub-resources and virtual hosts, over the real core.

use md5::{Digest, Md5};

use super::*;

fn delete_request(document: &str) -> RawRequest {
    let md5 = BASE64.encode(Md5::digest(document.as_bytes()));
    RawRequest::new("POST", "/bucket")
        .query("delete", "")
        .header("content-md5", &md5)
        .body(document.as_bytes())
}

fn keys_document(keys: &[&str], rest: &str) -> String {
    let objects: String = keys
        .iter()
        .map(|key| {
            let mut xml = String::new();
            crate::xml::element(&mut xml, "Key", key);
            format!("<Object>{xml}</Object>")
        })
        .collect();
    format!("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{objects}{rest}</Delete>")
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_objects_answers_for_each_key() {
    let server = start().await;
    for key in ["a", "a/", "b & c", "stays"] {
        server.put(key, b"v").await;
    }
    let document = keys_document(&["a", "a/", "b & c", "missing"], "");
    let answer = server.ask(delete_request(&document)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(elements(&answer.body, "Key"), ["a", "a/", "b &amp; c", "missing"]);
    assert_eq!(elements(&answer.body, "Deleted").len(), 4);
    assert_eq!(elements(&answer.body, "Error").len(), 0);
    assert_eq!(answer.header("x-forebay-ack"), Some("1/1 copy"));
    for (key, status) in [("a", 404), ("a/", 404), ("b & c", 404), ("stays", 200)] {
        assert_eq!(server.ask(object("HEAD", key)).await.status, status, "{key}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_objects_tells_errors_apart_and_is_quiet_if_asked() {
    let server = start().await;
    server.put("gone", b"v").await;
    server.put("kept", b"v").await;
    let objects = format!(
        "<Object><Key>gone</Key><VersionId>null</VersionId></Object>\
         <Object><Key>kept</Key><VersionId>1</VersionId></Object>\
         <Object><Key>kept</Key><ETag>\"x\"</ETag></Object>\
         <Object><Key>{}</Key></Object>",
        "k".repeat(1025)
    );
    let document = keys_document(&[], &format!("{objects}<Quiet>true</Quiet>"));
    let answer = server.ask(delete_request(&document)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(elements(&answer.body, "Deleted").len(), 0);
    assert_eq!(elements(&answer.body, "Code"), ["NoSuchVersion", "NotImplemented", "KeyTooLongError"]);
    assert_eq!(server.ask(object("HEAD", "gone")).await.status, 404);
    assert_eq!(server.ask(object("HEAD", "kept")).await.status, 200);
    let loud = server.ask(delete_request(&keys_document(&[], &objects))).await;
    assert!(elements(&loud.body, "Deleted")[0].contains("<VersionId>null</VersionId>"), "{}", loud.body);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_keys_are_deleted_at_once() {
    let server = start().await;
    let names: Vec<String> = (0..1000).map(|i| format!("k{i:04}")).collect();
    let mut submission = Submission::new();
    for name in &names {
        submission.push(&string(&server, name.as_bytes(), b"v", SetExpiry::Clear));
    }
    server.node.store().submit(submission).await.expect("written");
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    let answer = server.ask(delete_request(&keys_document(&keys, ""))).await;
    assert_eq!(elements(&answer.body, "Deleted").len(), 1000);
    let page = server.ask(RawRequest::new("GET", "/bucket").query("list-type", "2")).await;
    assert_eq!(elements(&page.body, "KeyCount"), ["0"]);
    let mut too_many = keys.clone();
    too_many.push("one-more");
    let answer = server.ask(delete_request(&keys_document(&too_many, ""))).await;
    assert_eq!((answer.status, answer.code()), (400, "MalformedXML"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_objects_wants_a_digest_that_fits() {
    let server = start().await;
    server.put("k", b"v").await;
    let document = keys_document(&["k"], "");
    let bare = || RawRequest::new("POST", "/bucket").query("delete", "").body(document.as_bytes());
    let missing = server.ask(bare()).await;
    assert_eq!((missing.status, missing.code()), (400, "InvalidRequest"), "{}", missing.body);
    let wrong = server.ask(bare().header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")).await;
    assert_eq!((wrong.status, wrong.code()), (400, "BadDigest"));
    let wrong = server.ask(bare().header("x-amz-checksum-crc32", "AAAAAA==")).await;
    assert_eq!((wrong.status, wrong.code()), (400, "BadDigest"));
    let long = server.ask(delete_request(&"x".repeat((6 << 20) + 1))).await;
    assert_eq!((long.status, long.code()), (400, "MaxMessageLengthExceeded"));
    assert_eq!(server.ask(object("HEAD", "k")).await.status, 200);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, document.as_bytes()) as u32;
    let right = bare().header("x-amz-checksum-crc32", &BASE64.encode(crc.to_be_bytes()));
    assert_eq!(server.ask(right).await.status, 200);
    assert_eq!(server.ask(object("HEAD", "k")).await.status, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn list_objects_v1_walks_by_marker() {
    let server = start().await;
    for key in ["a", "b/1", "b/2", "c d", "ü", "z/9"] {
        server.put(key, b"v").await;
    }
    let list = |marker: &str, delimiter: &str| {
        RawRequest::new("GET", "/bucket")
            .query("delimiter", delimiter)
            .query("encoding-type", "url")
            .query("marker", marker)
            .query("max-keys", "2")
    };
    let first = server.ask(list("", "%2F")).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(elements(&first.body, "Key"), ["a"]);
    assert_eq!(elements(&first.body, "NextMarker"), ["b/"]);
    assert_eq!(elements(&first.body, "IsTruncated"), ["true"]);
    assert_eq!(elements(&first.body, "Owner").len(), 1);
    assert_eq!(elements(&first.body, "KeyCount").len(), 0);
    let second = server.ask(list("b%2F", "%2F")).await;
    assert_eq!(elements(&second.body, "Key"), ["c%20d"]);
    assert_eq!(elements(&second.body, "CommonPrefixes"), ["<Prefix>z/</Prefix>"]);
    // Without a delimiter AWS gives no NextMarker.
    let flat = server.ask(list("", "")).await;
    assert_eq!(elements(&flat.body, "IsTruncated"), ["true"]);
    assert_eq!(elements(&flat.body, "NextMarker").len(), 0);
    assert_eq!(elements(&server.ask(list("c%20d", "")).await.body, "Key"), ["z/9", "%C3%BC"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_object_is_its_one_version() {
    let server = start().await;
    for key in ["a", "b", "c"] {
        server.put(key, b"v").await;
    }
    let list = |marker: &str| {
        RawRequest::new("GET", "/bucket")
            .query("key-marker", marker)
            .query("max-keys", "2")
            .query("versions", "")
    };
    let first = server.ask(list("")).await;
    assert_eq!(elements(&first.body, "Key"), ["a", "b"], "{}", first.body);
    assert_eq!(elements(&first.body, "VersionId"), ["null", "null"]);
    assert_eq!(elements(&first.body, "NextKeyMarker"), ["b"]);
    let last = server.ask(list("b")).await;
    assert_eq!(
        (elements(&last.body, "Key"), elements(&last.body, "IsTruncated")),
        (vec!["c".to_owned()], vec!["false".to_owned()])
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn harmless_subresources_are_answered() {
    let server = start().await;
    server.put("k", b"hello").await;
    let bucket = |name| RawRequest::new("GET", "/bucket").query(name, "");
    let versioning = server.ask(bucket("versioning")).await;
    assert_eq!(versioning.status, 200);
    assert!(versioning.body.contains("<VersioningConfiguration") && !versioning.body.contains("Status"));
    for name in ["policy", "lifecycle", "cors", "tagging", "encryption"] {
        let answer = server.ask(bucket(name)).await;
        assert_eq!(answer.status, 404, "{name}: {}", answer.body);
        assert!(answer.code() != "NoSuchBucket" && !answer.code().is_empty(), "{name}");
    }
    for request in [bucket("acl"), object("GET", "k").query("acl", "")] {
        let answer = server.ask(request).await;
        assert_eq!(elements(&answer.body, "Permission"), ["FULL_CONTROL"], "{}", answer.body);
    }
    for request in [RawRequest::new("PUT", "/bucket"), object("PUT", "k")] {
        let request = request.query("acl", "");
        assert_eq!(server.ask(request.clone().header("x-amz-acl", "private")).await.status, 200);
        assert_eq!(server.ask(request.clone().header("x-amz-acl", "public-read")).await.status, 501);
        assert_eq!(
            server.ask(request.clone().header("x-amz-acl", "private").body(b"<x/>")).await.status,
            501
        );
        assert_eq!(server.ask(request.body(b"<AccessControlPolicy/>")).await.status, 501);
    }
    let tags = server.ask(object("GET", "k").query("tagging", "")).await;
    assert_eq!((tags.status, elements(&tags.body, "TagSet")), (200, vec![String::new()]), "{}", tags.body);
    assert_eq!(server.ask(object("DELETE", "k").query("tagging", "")).await.status, 204);
    for name in ["tagging", "acl"] {
        let missing = server.ask(object("GET", "missing").query(name, "")).await;
        assert_eq!((missing.status, missing.code()), (404, "NoSuchKey"), "{name}");
    }
    assert_eq!(server.ask(object("GET", "k")).await.body, "hello");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_object_attributes_tells_what_was_asked_for() {
    let server = start().await;
    server.ask(object("PUT", "k").header("x-amz-checksum-crc32", "NhCmhg==").body(b"hello")).await;
    let ask =
        |names: &str| object("GET", "k").query("attributes", "").header("x-amz-object-attributes", names);
    let answer = server.ask(ask("ETag,Checksum,ObjectSize,StorageClass")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(elements(&answer.body, "ETag"), ["5d41402abc4b2a76b9719d911017c592"]);
    assert_eq!(elements(&answer.body, "ChecksumCRC32"), ["NhCmhg=="]);
    assert_eq!(elements(&answer.body, "ObjectSize"), ["5"]);
    assert!(answer.header("last-modified").is_some());
    let one = server.ask(ask("ObjectSize")).await;
    assert_eq!(elements(&one.body, "ETag").len(), 0);
    assert_eq!(server.ask(ask("Colour")).await.status, 400);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn virtual_hosts_name_buckets() {
    let server = start_with(|config| config.domains = vec!["s3.test".to_owned()]).await;
    let at = |method, path: &str, host: &str| RawRequest::new(method, path).host(host);
    let put = server.ask(at("PUT", "/bucket/k", "bucket.s3.test:9000").body(b"v")).await;
    assert_eq!(put.status, 200, "{}", put.body);
    for (path, host) in [
        ("/bucket/bucket/k", "s3.test"),
        ("/bucket/bucket/k", "127.0.0.1:9000"),
        ("/bucket/bucket/k", "other.example"),
        ("/bucket/k", "bucket.s3.test"),
        ("/bucket/k", "bucket.S3.test"),
    ] {
        let answer = server.ask(at("GET", path, host)).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "v"), "{path} at {host}");
    }
    let list = server.ask(at("GET", "/", "bucket.s3.test").query("list-type", "2")).await;
    assert_eq!(elements(&list.body, "Key"), ["bucket/k"], "{}", list.body);
    let created = server.ask(at("PUT", "/", "photos.s3.test")).await;
    assert_eq!(created.status, 200, "{}", created.body);
    let buckets = server.ask(at("GET", "/", "s3.test")).await;
    assert_eq!(elements(&buckets.body, "Name"), ["bucket", "photos"]);
    // The signature is over the host as sent.
    let mut wire = at("GET", "/k", "bucket.s3.test").sign();
    let text = String::from_utf8(std::mem::take(&mut wire)).expect("ASCII");
    let forged = text.replace("host: bucket.s3.test", "host: photos.s3.test");
    let mut connection = Connection::open(server.address).await;
    connection.send(forged.as_bytes()).await;
    assert_eq!(connection.answer().await.code(), "SignatureDoesNotMatch");
    let doubled = text.replace("host: bucket.s3.test", "host: bucket.s3.test\r\nhost: photos.s3.test");
    let mut connection = Connection::open(server.address).await;
    connection.send(doubled.as_bytes()).await;
    assert_eq!(connection.answer().await.status, 400);
    server.stop().await;
}
