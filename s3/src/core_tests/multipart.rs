//! Multipart uploads and copies, over the real core.

use md5::{Digest, Md5};

use super::*;

/// Least length of a part that is not the last.
const PART: usize = 5 << 20;

fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| b'a' + rng.u8(0..26)).collect()
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes) as u32).to_be_bytes()
}

fn part_request(key: &str, upload: &str, number: usize) -> RawRequest {
    object("PUT", key).query("partNumber", &number.to_string()).query("uploadId", upload)
}

fn complete_request(key: &str, upload: &str, parts: &[(usize, &str)]) -> RawRequest {
    let parts: String = parts
        .iter()
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    let document = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    object("POST", key).query("uploadId", upload).body(document.as_bytes())
}

fn copy_request(key: &str, source: &str) -> RawRequest {
    object("PUT", key).header("x-amz-copy-source", source)
}

impl Server {
    async fn create(&self, request: RawRequest) -> String {
        let answer = self.ask(request.query("uploads", "")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        elements(&answer.body, "UploadId").remove(0)
    }

    /// Its ETag, with quotes.
    async fn part(&self, key: &str, upload: &str, number: usize, body: &[u8]) -> String {
        let answer = self.ask(part_request(key, upload, number).body(body)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.header("etag").expect("an ETag").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_become_an_object() {
    let server = start().await;
    let create = object("POST", "dir/k").header("content-type", "text/x").header("x-amz-meta-a", "b");
    let upload = server.create(create).await;
    let bodies = [text(1, PART), text(2, PART + 1), text(3, 10)];
    let mut etags = Vec::new();
    // Out of order, and the second one twice: the last write of a number counts.
    server.part("dir/k", &upload, 2, &text(9, PART)).await;
    for at in [2, 0, 1] {
        etags.push((at + 1, server.part("dir/k", &upload, at + 1, &bodies[at]).await));
    }
    etags.sort();
    assert_eq!(server.ask(object("GET", "dir/k")).await.status, 404, "not before Complete");

    let list = server.ask(object("GET", "dir/k").query("max-parts", "2").query("uploadId", &upload)).await;
    assert_eq!(elements(&list.body, "PartNumber"), ["1", "2"], "{}", list.body);
    assert_eq!(elements(&list.body, "NextPartNumberMarker"), ["2"]);
    assert_eq!(elements(&list.body, "IsTruncated"), ["true"]);
    assert_eq!(elements(&list.body, "Size"), [PART.to_string(), (PART + 1).to_string()]);
    let rest = object("GET", "dir/k").query("part-number-marker", "2").query("uploadId", &upload);
    assert_eq!(elements(&server.ask(rest).await.body, "PartNumber"), ["3"]);

    let named: Vec<(usize, &str)> = etags.iter().map(|(number, etag)| (*number, etag.as_str())).collect();
    let request = complete_request("dir/k", &upload, &named);
    let completed = server.ask(request.clone()).await;
    assert_eq!(completed.status, 200, "{}", completed.body);
    let md5s: Vec<u8> = bodies.iter().flat_map(|body| Md5::digest(body)).collect();
    let etag = format!("\"{}-3\"", hex::encode(Md5::digest(&md5s)));
    assert_eq!(elements(&completed.body, "ETag"), [etag.replace('"', "&quot;")]);

    let got = server.ask(object("GET", "dir/k")).await;
    assert_eq!((got.status, got.header("etag")), (200, Some(etag.as_str())));
    assert_eq!((got.header("content-type"), got.header("x-amz-meta-a")), (Some("text/x"), Some("b")));
    assert!(got.body.as_bytes() == bodies.concat(), "another body");
    for (number, body) in bodies.iter().enumerate() {
        let number = (number + 1).to_string();
        let part = server.ask(object("GET", "dir/k").query("partNumber", &number)).await;
        assert_eq!((part.status, part.header("x-amz-mp-parts-count")), (206, Some("3")));
        assert!(part.body.as_bytes() == body, "part {number}");
        let head = server.ask(object("HEAD", "dir/k").query("partNumber", &number)).await;
        assert_eq!(head.header("content-length"), Some(body.len().to_string().as_str()));
    }
    assert_eq!(server.ask(object("GET", "dir/k").query("partNumber", "4")).await.status, 416);
    let attributes =
        object("GET", "dir/k").query("attributes", "").header("x-amz-object-attributes", "ObjectParts");
    let attributes = server.ask(attributes).await;
    assert_eq!(elements(&attributes.body, "PartsCount"), ["3"], "{}", attributes.body);
    // The client did not hear the answer.
    let again = server.ask(request).await;
    assert_eq!((again.status, elements(&again.body, "ETag")), (200, elements(&completed.body, "ETag")));
    let unknown = server.ask(complete_request("dir/k", &upload, &named[..1])).await;
    assert_eq!((unknown.status, unknown.code()), (404, "NoSuchUpload"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_object_is_refused_by_name_and_the_upload_stays() {
    let server = start().await;
    let upload = server.create(object("POST", "k")).await;
    let small = server.part("k", &upload, 1, b"small").await;
    let large = server.part("k", &upload, 2, &text(1, PART)).await;
    for (parts, code) in [
        (&[(1, small.as_str()), (2, large.as_str())][..], "EntityTooSmall"),
        (&[(2, &large), (1, &small)], "InvalidPartOrder"),
        (&[(2, &small)], "InvalidPart"),
        (&[(3, &large)], "InvalidPart"),
        (&[], "MalformedXML"),
    ] {
        let answer = server.ask(complete_request("k", &upload, parts)).await;
        assert_eq!((answer.status, answer.code()), (400, code), "{}", answer.body);
    }
    for number in ["0", "10001", "x"] {
        let request = object("PUT", "k").query("partNumber", number).query("uploadId", &upload).body(b"x");
        assert_eq!(server.ask(request).await.code(), "InvalidArgument", "{number}");
    }
    let missing = server.ask(part_request("k", "0123456789abcdef", 1).body(b"x")).await;
    assert_eq!((missing.status, missing.code()), (404, "NoSuchUpload"));
    let size = complete_request("k", &upload, &[(2, &large)]).header("x-amz-mp-object-size", "1");
    assert_eq!(server.ask(size).await.code(), "InvalidRequest");
    let condition = complete_request("k", &upload, &[(2, &large)]).header("if-match", "\"abc\"");
    assert_eq!(server.ask(condition).await.status, 404);
    server.put("k", b"there").await;
    let condition = complete_request("k", &upload, &[(2, &large)]).header("if-none-match", "*");
    assert_eq!(server.ask(condition).await.status, 412);
    assert_eq!(server.ask(object("GET", "k")).await.body, "there");
    // A part that the list leaves out is dropped.
    let condition = complete_request("k", &upload, &[(2, &large)]).header("if-match", "*");
    assert_eq!(server.ask(condition).await.status, 200);
    assert_eq!(server.ask(object("HEAD", "k")).await.header("content-length"), Some("5242880"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_leaves_the_object_and_gives_the_space_back() {
    let server = start().await;
    server.put("k", b"old").await;
    let before = server.node.store().stats().segment_bytes;
    let upload = server.create(object("POST", "k")).await;
    server.part("k", &upload, 1, &text(1, 300_000)).await;
    let abort = object("DELETE", "k").query("uploadId", &upload);
    assert_eq!(server.ask(abort.clone()).await.status, 204);
    let again = server.ask(abort).await;
    assert_eq!((again.status, again.code()), (404, "NoSuchUpload"));
    assert_eq!(server.ask(part_request("k", &upload, 2).body(b"x")).await.code(), "NoSuchUpload");
    assert_eq!(server.ask(object("GET", "k")).await.body, "old");
    within(async {
        while server.node.store().stats().segment_bytes > before + 4096 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_of_parts_and_of_the_whole() {
    let server = start().await;
    let bodies = [text(1, PART), text(2, 1000)];
    for (kind, whole) in [
        ("FULL_OBJECT", BASE64.encode(crc32(&bodies.concat()))),
        (
            "COMPOSITE",
            format!("{}-2", BASE64.encode(crc32(&[crc32(&bodies[0]), crc32(&bodies[1])].concat()))),
        ),
    ] {
        let create = object("POST", "k")
            .header("x-amz-checksum-algorithm", "CRC32")
            .header("x-amz-checksum-type", kind);
        let upload = server.create(create).await;
        let sent = BASE64.encode(crc32(&bodies[0]));
        let request = part_request("k", &upload, 1).header("x-amz-checksum-crc32", &sent).body(&bodies[0]);
        let first = server.ask(request).await;
        assert_eq!((first.status, first.header("x-amz-checksum-crc32")), (200, Some(sent.as_str())));
        // One that the client does not send is computed.
        let second = server.ask(part_request("k", &upload, 2).body(&bodies[1])).await;
        let computed = BASE64.encode(crc32(&bodies[1]));
        assert_eq!(second.header("x-amz-checksum-crc32"), Some(computed.as_str()));
        let other = part_request("k", &upload, 3).header("x-amz-checksum-crc32c", "AAAAAA==").body(b"x");
        assert_eq!(server.ask(other).await.code(), "InvalidRequest");
        let etags = [first.header("etag").expect("one"), second.header("etag").expect("one")];
        let complete = || complete_request("k", &upload, &[(1, etags[0]), (2, etags[1])]);
        let wrong = server.ask(complete().header("x-amz-checksum-crc32", "AAAAAA==")).await;
        assert_eq!((wrong.status, wrong.code()), (400, "BadDigest"), "{}", wrong.body);
        let right = complete().header("x-amz-checksum-crc32", &whole).header("x-amz-checksum-type", kind);
        let completed = server.ask(right).await;
        assert_eq!(completed.status, 200, "{}", completed.body);
        assert_eq!(elements(&completed.body, "ChecksumCRC32"), [whole.as_str()]);
        let head = server.ask(object("HEAD", "k").header("x-amz-checksum-mode", "ENABLED")).await;
        assert_eq!(head.header("x-amz-checksum-crc32"), Some(whole.as_str()));
        assert_eq!(head.header("x-amz-checksum-type"), Some(kind));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_listed_by_key_and_age() {
    let server = start().await;
    let mut ids = Vec::new();
    for key in ["a", "a", "dir/1", "dir/2", "z"] {
        ids.push(server.create(object("POST", key)).await);
    }
    let list = |pairs: &[(&str, &str)]| {
        pairs.iter().fold(RawRequest::new("GET", "/bucket"), |r, (n, v)| r.query(n, v)).query("uploads", "")
    };
    let all = server.ask(list(&[])).await;
    assert_eq!(elements(&all.body, "UploadId"), ids, "{}", all.body);
    let flat = server.ask(list(&[("delimiter", "%2F")])).await;
    assert_eq!(elements(&flat.body, "CommonPrefixes"), ["<Prefix>dir/</Prefix>"]);
    assert_eq!(elements(&flat.body, "Key"), ["a", "a", "z"]);
    let under = server.ask(list(&[("prefix", "dir%2F")])).await;
    assert_eq!(elements(&under.body, "UploadId"), &ids[2..4]);
    // Page by page.
    let (mut found, mut prefixes) = (Vec::new(), 0);
    let (mut key, mut id) = (String::new(), String::new());
    loop {
        let page =
            list(&[("delimiter", "%2F"), ("key-marker", &key.replace('/', "%2F")), ("max-uploads", "1")]);
        let page = server.ask(page.query("upload-id-marker", &id)).await;
        found.extend(elements(&page.body, "UploadId"));
        prefixes += elements(&page.body, "CommonPrefixes").len();
        if elements(&page.body, "IsTruncated") == ["false"] {
            break;
        }
        key = elements(&page.body, "NextKeyMarker").remove(0);
        id = elements(&page.body, "NextUploadIdMarker").remove(0);
    }
    assert_eq!((found, prefixes), (vec![ids[0].clone(), ids[1].clone(), ids[4].clone()], 1));
    let busy = server.ask(RawRequest::new("DELETE", "/bucket")).await;
    assert_eq!((busy.status, busy.code()), (409, "BucketNotEmpty"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_keep_or_replace_metadata() {
    let server = start().await;
    let body = text(1, 300_000);
    let put = object("PUT", "from/ü b")
        .header("content-type", "text/x")
        .header("x-amz-meta-a", "1")
        .header("x-amz-checksum-crc32", &BASE64.encode(crc32(&body)))
        .body(&body);
    let etag = server.ask(put).await.header("etag").expect("an ETag").to_owned();
    let kept = server.ask(copy_request("kept", "/bucket/from/%C3%BC%20b")).await;
    assert_eq!(kept.status, 200, "{}", kept.body);
    assert_eq!(elements(&kept.body, "ETag"), [etag.replace('"', "&quot;")]);
    let replace = copy_request("new", "bucket/from/%C3%BC%20b")
        .header("x-amz-metadata-directive", "REPLACE")
        .header("content-type", "text/y")
        .header("x-amz-meta-b", "2");
    assert_eq!(server.ask(replace).await.status, 200);
    for (key, kind, a, b) in [("kept", "text/x", Some("1"), None), ("new", "text/y", None, Some("2"))] {
        let got = server.ask(object("GET", key).header("x-amz-checksum-mode", "ENABLED")).await;
        assert_eq!((got.header("content-type"), got.header("etag")), (Some(kind), Some(etag.as_str())));
        assert_eq!((got.header("x-amz-meta-a"), got.header("x-amz-meta-b")), (a, b), "{key}");
        assert_eq!(got.header("x-amz-checksum-crc32"), Some(BASE64.encode(crc32(&body)).as_str()));
        assert!(got.body.as_bytes() == body, "{key}");
    }
    // The source may go.
    server.ask(object("DELETE", "from/%C3%BC%20b")).await;
    server.ask(object("DELETE", "from/ü b")).await;
    assert!(server.ask(object("GET", "kept")).await.body.as_bytes() == body);
    // Onto itself: only with other metadata.
    let itself = server.ask(copy_request("kept", "bucket/kept")).await;
    assert_eq!((itself.status, itself.code()), (400, "InvalidRequest"));
    let itself = copy_request("kept", "bucket/kept").header("x-amz-metadata-directive", "REPLACE");
    assert_eq!(server.ask(itself.header("x-amz-meta-c", "3")).await.status, 200);
    let got = server.ask(object("GET", "kept")).await;
    assert_eq!((got.header("x-amz-meta-c"), got.body.len()), (Some("3"), body.len()));
    // What RESP wrote has a derived ETag, and so has its copy.
    server.resp(&[string(&server, b"resp", b"value", SetExpiry::Clear)]).await;
    let copied = server.ask(copy_request("copied", "bucket/resp")).await;
    let got = server.ask(object("GET", "copied")).await;
    assert_eq!(elements(&copied.body, "ETag"), [got.header("etag").expect("one").replace('"', "&quot;")]);
    assert_eq!(got.body, "value");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_judged_by_source_and_destination() {
    let server = start().await;
    let etag = server.put("from", b"v").await.header("etag").expect("an ETag").to_owned();
    for (name, value, status) in [
        ("x-amz-copy-source-if-match", etag.as_str(), 200),
        ("x-amz-copy-source-if-match", "\"other\"", 412),
        ("x-amz-copy-source-if-none-match", etag.as_str(), 412),
        ("x-amz-copy-source-if-none-match", "\"other\"", 200),
        ("x-amz-copy-source-if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT", 412),
        ("x-amz-copy-source-if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 412),
        ("if-none-match", "*", 412),
        ("if-match", etag.as_str(), 200),
        ("if-match", "\"other\"", 412),
        ("x-amz-metadata-directive", "MAYBE", 400),
        ("x-amz-storage-class", "GLACIER", 400),
        ("x-amz-server-side-encryption", "aws:kms", 501),
    ] {
        let answer = server.ask(copy_request("to", "bucket/from").header(name, value)).await;
        assert_eq!(answer.status, status, "{name}: {value}: {}", answer.body);
    }
    for (source, status, code) in [
        ("bucket/missing", 404, "NoSuchKey"),
        ("missing/from", 404, "NoSuchBucket"),
        ("bucket", 400, "InvalidArgument"),
        ("bucket/from?versionId=7", 501, "NotImplemented"),
    ] {
        let answer = server.ask(copy_request("to", source)).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{source}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_copied_with_ranges() {
    let server = start().await;
    let source = text(1, PART + 1000);
    server.put("from", &source).await;
    let upload = server.create(object("POST", "k")).await;
    let mut etags = Vec::new();
    for (number, range) in [(1, Some("bytes=1000-5243879")), (2, Some("bytes=0-99")), (3, None)] {
        let mut request = part_request("k", &upload, number).header("x-amz-copy-source", "bucket/from");
        if let Some(range) = range {
            request = request.header("x-amz-copy-source-range", range);
        }
        let answer = server.ask(request).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        etags.push(elements(&answer.body, "ETag").remove(0).replace("&quot;", "\""));
    }
    let beyond = part_request("k", &upload, 4)
        .header("x-amz-copy-source", "bucket/from")
        .header("x-amz-copy-source-range", "bytes=0-9999999");
    assert_eq!(server.ask(beyond).await.code(), "InvalidArgument");
    let completed = server.ask(complete_request("k", &upload, &[(1, &etags[0]), (3, &etags[2])])).await;
    assert_eq!(completed.status, 200, "{}", completed.body);
    let got = server.ask(object("GET", "k")).await;
    assert!(got.body.as_bytes() == [&source[1000..], &source[..]].concat(), "another body");
    assert!(got.header("etag").is_some_and(|etag| etag.ends_with("-2\"")), "{}", got.head);
    server.stop().await;
}
