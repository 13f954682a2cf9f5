//! The directory origin against real files.

use std::os::unix::fs::symlink;

use super::*;
use crate::origin::conformance::{conforms, put};

fn origin() -> (tempfile::TempDir, DirOrigin) {
    let dir = tempfile::tempdir().unwrap();
    let origin = DirOrigin::new(dir.path()).unwrap();
    (dir, origin)
}

fn key(text: &str) -> OriginKey {
    OriginKey(text.to_owned())
}

#[tokio::test]
async fn it_does_what_every_origin_must() {
    let (dir, origin) = origin();
    conforms(&origin).await;
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [name::OWN], "empty directories go with their last file");
    for part in ["tmp", "uploads"] {
        assert_eq!(std::fs::read_dir(dir.path().join(name::OWN).join(part)).unwrap().count(), 0, "{part}");
    }
}

#[tokio::test]
async fn people_see_the_names_and_the_bytes() {
    let (dir, origin) = origin();
    origin.put(put("photos/2026/grün.jpg", b"jpeg", Condition::None)).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("photos/2026/grün.jpg")).unwrap(), b"jpeg");
}

#[tokio::test]
async fn a_file_makes_room_for_a_directory_and_keeps_its_metadata() {
    let (dir, origin) = origin();
    let etag = origin.put(put("a", b"file", Condition::None)).await.unwrap().etag;
    origin.put(put("a/b/c", b"below", Condition::None)).await.unwrap();
    assert!(dir.path().join("a").is_dir() && dir.path().join("a%~").is_file());
    assert_eq!(origin.head(&key("a")).await.unwrap().unwrap().etag, etag);
    // It stays there, so that there is never a moment without it.
    let request = DeleteRequest {
        key: key("a/b/c"),
        if_match: None,
        deadline: std::time::Instant::now() + std::time::Duration::from_secs(9),
        fence: crate::origin::Fence::open(),
    };
    origin.delete(request).await.unwrap();
    assert!(!dir.path().join("a").exists());
    origin.put(put("a", b"again", Condition::IfMatch(etag))).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("a%~")).unwrap(), b"again");
}

#[tokio::test]
async fn what_people_put_or_change_is_somebody_elses() {
    let (dir, origin) = origin();
    std::fs::write(dir.path().join("theirs.txt"), "x").unwrap();
    let head = origin.head(&key("theirs.txt")).await.unwrap().unwrap();
    assert!(head.user_metadata.is_empty() && head.content_length == 1);
    assert!(!origin.is_empty("").await.unwrap());
    let refused = origin.put(put("theirs.txt", b"ours", Condition::IfAbsent)).await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::Conflict);

    let ours = origin.put(put("ours", b"1234", Condition::None)).await.unwrap().etag;
    std::fs::write(dir.path().join("ours"), "edited").unwrap();
    let head = origin.head(&key("ours")).await.unwrap().unwrap();
    assert!(head.etag != ours && head.user_metadata.is_empty());
    assert!(origin.put(put("ours", b"x", Condition::IfMatch(ours))).await.is_err());
}

#[tokio::test]
async fn links_and_names_that_no_key_has_are_left_alone() {
    let (dir, origin) = origin();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "x").unwrap();
    symlink(outside.path().join("secret"), dir.path().join("link")).unwrap();
    symlink(outside.path(), dir.path().join("linked")).unwrap();
    std::fs::write(dir.path().join("100%"), "x").unwrap();
    assert_eq!(origin.head(&key("link")).await, Ok(None));
    let page = origin.list(ListRequest::new("", 10)).await.unwrap();
    assert!(page.objects.is_empty(), "{page:?}");
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_trouble_and_never_absence() {
    let (dir, origin) = origin();
    let path = dir.path().to_owned();
    drop(dir);
    assert!(!path.exists());
    assert_eq!(origin.head(&key("a")).await.unwrap_err().class, ErrorClass::MissingBucket);
    let error = origin.put(put("a", b"x", Condition::None)).await.unwrap_err();
    assert_eq!((error.class, error.outcome), (ErrorClass::MissingBucket, Landing::NotApplied));
    assert!(!path.exists(), "a disk that is not mounted is not written beside");
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_uploads_go_on() {
    let (dir, origin) = origin();
    origin.probe("").await.unwrap();
    let own = dir.path().join(name::OWN);
    std::fs::write(own.join("tmp/leftover"), "half").unwrap();
    let begin = BeginRequest {
        key: key("k"),
        headers: Default::default(),
        user_metadata: Vec::new(),
        crc32c: false,
        deadline: std::time::Instant::now() + std::time::Duration::from_secs(9),
    };
    origin.begin_upload(begin).await.unwrap();
    origin.probe("").await.unwrap();
    assert_eq!(std::fs::read_dir(own.join("tmp")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(own.join("uploads")).unwrap().count(), 1);
}
