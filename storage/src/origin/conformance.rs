//! What every origin must do, whatever it is made of.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub(super) fn put(key: &str, body: &[u8], condition: Condition) -> PutRequest {
    PutRequest {
        key: OriginKey(key.to_owned()),
        body: Bytes::copy_from_slice(body),
        headers: ContentHeaders { content_type: Some("text/plain".to_owned()), ..ContentHeaders::default() },
        user_metadata: vec![
            ("forebay-version".to_owned(), "1".to_owned()),
            ("a".to_owned(), "grün".to_owned()),
        ],
        condition,
        checksums: BodyChecksums::default(),
        deadline: soon(),
        fence: Fence::open(),
    }
}

fn delete(key: &str, if_match: Option<OriginETag>) -> DeleteRequest {
    DeleteRequest { key: OriginKey(key.to_owned()), if_match, deadline: soon(), fence: Fence::open() }
}

async fn body(origin: &dyn Origin, key: &str) -> Option<Bytes> {
    origin.get(&OriginKey(key.to_owned()), 1 << 30).await.unwrap().map(|got| got.body)
}

/// Runs all of it against an empty origin, and leaves it empty.
pub(super) async fn conforms(origin: &dyn Origin) {
    assert!(origin.is_empty("").await.unwrap());
    assert_eq!(
        origin.probe("").await.unwrap(),
        Capabilities { if_none_match: true, if_match: true, if_match_delete: true, checksums: true }
    );
    assert!(origin.is_empty("").await.unwrap(), "a probe leaves nothing");
    objects(origin).await;
    conditions(origin).await;
    fences(origin).await;
    reads(origin).await;
    uploads(origin).await;
    listings(origin).await;
    assert!(origin.is_empty("").await.unwrap());
}

/// Keys that trip over each other in a tree of files.
const KEYS: [&str; 16] = [
    "a",
    "a/",
    "a//",
    "a/b",
    "a/b/c",
    "a-b",
    "a%",
    "a%~",
    ".",
    "..",
    "../up",
    ".forebay/x",
    "caf\u{F7E9}",
    "x\u{1F}y",
    "grün/ß",
    "/",
];

async fn objects(origin: &dyn Origin) {
    let long = format!("{}/{}", "n".repeat(500), "ü".repeat(261));
    let keys: Vec<&str> = KEYS.into_iter().chain([long.as_str()]).collect();
    for round in 0..2 {
        for (n, key) in keys.iter().enumerate() {
            let bytes = format!("{round} {n}");
            let etag = origin.put(put(key, bytes.as_bytes(), Condition::None)).await.unwrap().etag;
            let head = origin.head(&OriginKey((*key).to_owned())).await.unwrap().unwrap();
            assert_eq!((&head.etag, head.content_length), (&etag, bytes.len() as u64), "{key}");
            assert_eq!((head.user("a"), head.user("forebay-version")), (Some("grün"), Some("1")), "{key}");
            assert_eq!(head.headers.content_type.as_deref(), Some("text/plain"));
        }
    }
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(body(origin, key).await, Some(Bytes::from(format!("1 {n}"))), "{key}");
    }
    for object in origin.list(ListRequest::new("", 1000)).await.unwrap().objects {
        let head = origin.head(&object.key).await.unwrap().unwrap();
        // To the second: a HEAD says no more.
        let (listed, told) = (object.modified_ms / 1_000, head.modified_ms / 1_000);
        assert!(told > 1_500_000_000 && listed == told, "{}: {listed} {told}", object.key);
    }
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    for max in [1, 3, 1000] {
        assert_eq!(
            listed(origin, ListRequest::new("", max)).await,
            (sorted.iter().map(|k| (*k).to_owned()).collect(), vec![])
        );
    }
    for key in &keys {
        origin.delete(delete(key, None)).await.unwrap();
        origin.delete(delete(key, None)).await.unwrap();
        assert_eq!(origin.head(&OriginKey((*key).to_owned())).await, Ok(None), "{key}");
    }
    assert!(origin.is_empty("").await.unwrap());
}

async fn conditions(origin: &dyn Origin) {
    let refused = |error: OriginError| (error.class, error.outcome);
    let conflict = (ErrorClass::Conflict, Landing::NotApplied);
    let first = origin.put(put("k", b"1", Condition::IfAbsent)).await.unwrap().etag;
    assert_eq!(origin.put(put("k", b"2", Condition::IfAbsent)).await.map_err(refused), Err(conflict));
    let second = origin.put(put("k", b"2", Condition::IfMatch(first.clone()))).await.unwrap().etag;
    assert_ne!(first, second);
    let stale = Condition::IfMatch(first.clone());
    assert_eq!(origin.put(put("k", b"3", stale)).await.map_err(refused), Err(conflict));
    let nothing = Condition::IfMatch(first.clone());
    assert_eq!(origin.put(put("none", b"3", nothing)).await.map_err(refused), Err(conflict));
    assert_eq!(origin.delete(delete("k", Some(first))).await.map_err(refused), Err(conflict));
    assert_eq!(body(origin, "k").await.as_deref(), Some(&b"2"[..]));
    origin.delete(delete("k", Some(second))).await.unwrap();
}

async fn fences(origin: &dyn Origin) {
    let fallen = PutRequest { fence: Fence::new(|| false), ..put("k", b"1", Condition::None) };
    let error = origin.put(fallen).await.unwrap_err();
    assert_eq!((error.class, error.outcome), (ErrorClass::Fenced, Landing::NotApplied));
    assert_eq!(body(origin, "k").await, None);
}

async fn reads(origin: &dyn Origin) {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let etag = origin.put(put("k", &bytes, Condition::None)).await.unwrap().etag;
    let read = |range: Option<Range<u64>>, if_match: Option<OriginETag>| async move {
        let request = ReadRequest { key: OriginKey("k".to_owned()), range, if_match };
        let reply = origin.read(request).await?.unwrap();
        assert_eq!(reply.head.content_length, 3_000_000);
        let chunks: Vec<Bytes> = reply.body.map(|bytes| bytes.unwrap()).collect().await;
        Ok::<_, OriginError>((reply.range, chunks.concat()))
    };
    assert_eq!(read(None, Some(etag.clone())).await.unwrap(), (0..3_000_000, bytes.clone()));
    let middle = read(Some(1_000_001..2_500_000), Some(etag)).await.unwrap();
    assert_eq!(middle, (1_000_001..2_500_000, bytes[1_000_001..2_500_000].to_vec()));
    assert_eq!(
        read(Some(2_999_999..9_000_000), None).await.unwrap(),
        (2_999_999..3_000_000, bytes[2_999_999..].to_vec())
    );
    assert_eq!(read(Some(3_000_000..3_000_001), None).await.unwrap(), (3_000_000..3_000_000, vec![]));
    let other = OriginETag("other".to_owned());
    assert_eq!(read(None, Some(other)).await.unwrap_err().class, ErrorClass::Conflict);
    let absent = ReadRequest { key: OriginKey("none".to_owned()), range: Some(0..1), if_match: None };
    assert!(origin.read(absent).await.unwrap().is_none());
    origin.delete(delete("k", None)).await.unwrap();
}

async fn uploads(origin: &dyn Origin) {
    let key = OriginKey("up/load".to_owned());
    let begin = BeginRequest {
        key: key.clone(),
        headers: ContentHeaders { cache_control: Some("no-store".to_owned()), ..ContentHeaders::default() },
        user_metadata: vec![("forebay-version".to_owned(), "2".to_owned())],
        crc32c: true,
        deadline: soon(),
    };
    let bytes: Bytes = (0..2_000_003_u32).map(|n| (n % 241) as u8).collect();
    let part = |upload: &UploadId, number: u32, range: Range<u64>, wrong: u32| {
        let body = UploadBody::from(bytes.clone()).part(range.clone());
        let crc = crc_fast::checksum(
            crc_fast::CrcAlgorithm::Crc32Iscsi,
            &bytes[range.start as usize..range.end as usize],
        );
        PartRequest {
            key: key.clone(),
            upload: upload.clone(),
            number,
            offset: range.start,
            body,
            crc32c: Some(crc as u32 ^ wrong),
            deadline: soon(),
            fence: Fence::open(),
        }
    };
    let complete = |upload: &UploadId, parts: Vec<SentPart>, condition| CompleteRequest {
        key: key.clone(),
        upload: upload.clone(),
        parts,
        condition,
        deadline: soon(),
        fence: Fence::open(),
    };
    let upload = origin.begin_upload(begin.clone()).await.unwrap();
    assert_eq!(origin.head(&key).await, Ok(None));
    // Out of order, one damaged on the way, one sent twice.
    let second = origin.put_part(part(&upload, 2, 1_000_000..2_000_003, 0)).await.unwrap();
    let error = origin.put_part(part(&upload, 1, 0..1_000_000, 1)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Checksum);
    for _ in 0..2 {
        origin.put_part(part(&upload, 1, 0..1_000_000, 0)).await.unwrap();
    }
    let first = origin.put_part(part(&upload, 1, 0..1_000_000, 0)).await.unwrap();
    let fallen = CompleteRequest {
        fence: Fence::new(|| false),
        ..complete(&upload, vec![first.clone(), second.clone()], Condition::None)
    };
    assert_eq!(origin.complete_upload(fallen).await.unwrap_err().class, ErrorClass::Fenced);
    let missing = origin.complete_upload(complete(&upload, vec![first.clone()], Condition::None)).await;
    if let Err(error) = missing {
        assert_eq!(error.code.as_deref(), Some("InvalidPart"));
        let reply = origin
            .complete_upload(complete(&upload, vec![first, second], Condition::IfAbsent))
            .await
            .unwrap();
        let head = origin.head(&key).await.unwrap().unwrap();
        assert_eq!((&head.etag, head.user("forebay-version")), (&reply.etag, Some("2")));
        assert_eq!(head.headers.cache_control.as_deref(), Some("no-store"));
        assert_eq!(body(origin, "up/load").await, Some(bytes.clone()));
    }
    let again = origin.complete_upload(complete(&upload, Vec::new(), Condition::None)).await.unwrap_err();
    assert_eq!((again.code.as_deref(), again.outcome), (Some(NO_SUCH_UPLOAD), Landing::NotApplied));
    assert_eq!(origin.list_uploads(&key).await, Ok(Vec::new()));
    // A condition is judged when it is completed.
    let late = origin.begin_upload(begin.clone()).await.unwrap();
    let longer = OriginKey(format!("{}er", key.0));
    let other = origin.begin_upload(BeginRequest { key: longer.clone(), ..begin.clone() }).await.unwrap();
    let second = origin.begin_upload(begin).await.unwrap();
    let mut listed = origin.list_uploads(&key).await.unwrap();
    listed.sort_by(|a, b| a.upload.0.cmp(&b.upload.0));
    let mut both = [&late, &second];
    both.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(listed.iter().map(|listed| &listed.upload).collect::<Vec<_>>(), both);
    assert!(listed.iter().all(|listed| listed.age < Some(Duration::from_secs(7200))), "{listed:?}");
    for (key, upload) in [(&key, &second), (&longer, &other)] {
        assert_eq!(origin.abort_upload(key, upload).await.unwrap(), AbortReply::GivenUp);
    }
    assert_eq!(origin.list_uploads(&key).await.unwrap().len(), 1);
    let all = origin.put_part(part(&late, 1, 0..2_000_003, 0)).await.unwrap();
    let refused = origin.complete_upload(complete(&late, vec![all], Condition::IfAbsent)).await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::Conflict);
    assert_eq!(origin.abort_upload(&key, &late).await.unwrap(), AbortReply::GivenUp);
    // Of one that is gone, origins say either.
    origin.abort_upload(&key, &late).await.unwrap();
    let gone = origin.put_part(part(&late, 1, 0..5, 0)).await.unwrap_err();
    assert_eq!(gone.code.as_deref(), Some(NO_SUCH_UPLOAD));
    origin.delete(delete("up/load", None)).await.unwrap();
}

async fn listed(origin: &dyn Origin, mut request: ListRequest) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    loop {
        let page = origin.list(request.clone()).await.unwrap();
        assert!(page.objects.len() + page.prefixes.len() <= usize::from(request.max));
        keys.extend(page.objects.into_iter().map(|object| object.key.0));
        prefixes.extend(page.prefixes);
        match page.next {
            Some(next) if page.truncated => request.token = Some(next),
            _ => return (keys, prefixes),
        }
    }
}

async fn listings(origin: &dyn Origin) {
    let keys = ["a", "a-", "a/", "a/1", "a/2", "a/b/1", "a/b/2", "a0", "b/x/y", "c"];
    for key in keys {
        origin.put(put(key, b"x", Condition::None)).await.unwrap();
    }
    for max in [1, 2, 1000] {
        let request = |prefix: &str, after: Option<&str>, delimiter: Option<&str>| ListRequest {
            start_after: after.map(str::to_owned),
            delimiter: delimiter.map(str::to_owned),
            ..ListRequest::new(prefix, max)
        };
        let owned = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<String>>();
        let cases: [(ListRequest, &[&str], &[&str]); 7] = [
            (request("", None, None), &keys, &[]),
            (request("", None, Some("/")), &["a", "a-", "a0", "c"], &["a/", "b/"]),
            (request("a/", None, Some("/")), &["a/", "a/1", "a/2"], &["a/b/"]),
            (request("a/", Some("a/1"), None), &["a/2", "a/b/1", "a/b/2"], &[]),
            (request("a/b", None, Some("/")), &[], &["a/b/"]),
            (request("", Some("a/2"), Some("/")), &["a0", "c"], &["a/", "b/"]),
            (request("z", None, None), &[], &[]),
        ];
        for (request, keys, prefixes) in cases {
            assert_eq!(listed(origin, request.clone()).await, (owned(keys), owned(prefixes)), "{request:?}");
        }
    }
    for key in keys {
        origin.delete(delete(key, None)).await.unwrap();
    }
}
