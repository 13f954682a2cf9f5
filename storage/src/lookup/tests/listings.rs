//! Listings of what is here together with what the origins list.

use std::collections::BTreeMap;

use super::*;
use crate::lookup::{MergedEntry, MergedList, MergedPage};

impl Site {
    pub(super) async fn page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        delimiter: &[u8],
        limit: usize,
    ) -> Result<MergedPage, Error> {
        self.store.list_merged(self.bucket, MergedList { prefix, after, delimiter, limit }).await
    }

    /// All pages, one behind the other, by their keys.
    pub(super) async fn list(
        &self,
        prefix: &[u8],
        delimiter: &[u8],
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        loop {
            let after = all.last().cloned();
            let page = self.page(prefix, after.as_deref(), delimiter, limit).await?;
            assert!(page.entries.len() == limit || !page.more, "a page with more behind it is full");
            all.extend(page.entries.iter().map(|entry| entry.key().to_vec()));
            if !page.more {
                return Ok(all);
            }
        }
    }
}

fn keys(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_tells_what_is_here_and_what_is_only_there() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    for key in ["a", "b", "dir/1", "dir/2", "z"] {
        origin.inner.put_foreign(key, b"theirs");
    }
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    site.set("b", b"ours and longer").await;
    site.set("c", b"only here").await;
    site.delete("z").await;
    assert_eq!(site.list(b"", b"", 2).await.unwrap(), keys(&["a", "b", "c", "dir/1", "dir/2"]));
    assert_eq!(site.list(b"", b"/", 100).await.unwrap(), keys(&["a", "b", "c", "dir/"]));
    assert_eq!(site.list(b"dir/", b"/", 1).await.unwrap(), keys(&["dir/1", "dir/2"]));
    let page = site.page(b"", None, b"", 3).await.unwrap();
    let head = origin.inner.head(&OriginKey("a".to_owned())).await.unwrap().unwrap();
    match &page.entries[0] {
        MergedEntry::Object { size, modified_ms, etag, row: None, .. } => {
            assert_eq!((*size, *modified_ms, etag), (6, head.modified_ms, &head.etag.0));
        }
        other => panic!("{other:?}"),
    }
    match &page.entries[1] {
        MergedEntry::Object { size, etag, row: Some(row), .. } => {
            let known = row.etag(site.store.cluster_id()).to_string();
            assert_eq!((*size, etag, row.body_len()), (15, &known, 15));
        }
        other => panic!("{other:?}"),
    }
    assert!(page.more);
    origin.down();
    assert!(matches!(site.page(b"", None, b"", 3).await, Err(Error::Unavailable(_))));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_from_before_a_delete_does_not_show_it() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    for key in ["a", "d/x", "k", "z"] {
        origin.inner.put_foreign(key, b"theirs");
    }
    let site = Arc::new(Site::start(dir.path(), vec![mount("data", "", &origin)]).await);
    // Queued, it is hidden.
    origin.inner.set_hook(|call| match call.operation == Operation::Delete {
        true => Fault::Refuse(OriginError::new(ErrorClass::Network, Landing::NotApplied, "cut")),
        false => Fault::Ok,
    });
    site.delete("k").await;
    site.delete("d/x").await;
    assert_eq!(site.list(b"", b"", 10).await.unwrap(), keys(&["a", "z"]));
    assert_eq!(site.list(b"", b"/", 10).await.unwrap(), keys(&["a", "z"]));
    // The origin's page is on its way while the deletes reach it.
    for delimiter in [&b""[..], b"/"] {
        for key in ["d/x", "k"] {
            origin.inner.put_foreign(key, b"theirs");
        }
        origin.hold(Operation::List);
        let listing = tokio::spawn({
            let (site, delimiter) = (site.clone(), delimiter.to_vec());
            async move { site.list(b"", &delimiter, 10).await }
        });
        origin.is_holding(1).await;
        origin.inner.clear_hook();
        site.delete("k").await;
        site.delete("d/x").await;
        site.flushed().await;
        assert_eq!((origin.inner.body("k"), origin.inner.body("d/x")), (None, None));
        origin.release();
        assert_eq!(listing.await.unwrap().unwrap(), keys(&["a", "z"]));
    }
    Arc::into_inner(site).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_from_before_a_write_shows_it_once_as_it_is_here() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    origin.inner.put_foreign("k", b"theirs");
    let site = Arc::new(Site::start(dir.path(), vec![mount("data", "", &origin)]).await);
    origin.hold(Operation::List);
    let listing = tokio::spawn({
        let site = site.clone();
        async move { site.page(b"", None, b"", 10).await }
    });
    origin.is_holding(1).await;
    site.set("k", b"ours and longer").await;
    site.set("new", b"x").await;
    origin.release();
    let page = listing.await.unwrap().unwrap();
    let sizes = page.entries.iter().map(|entry| match entry {
        MergedEntry::Object { key, size, .. } => (key.to_vec(), *size),
        MergedEntry::Prefix(_) => panic!("{entry:?}"),
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [(b"k".to_vec(), 15), (b"new".to_vec(), 1)]);
    Arc::into_inner(site).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_up_is_jumped_over_on_both_sides() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    for number in 0..5_000 {
        origin.inner.put_foreign(&format!("theirs/{number:04}"), b"x");
    }
    for name in ["both/1", "zz"] {
        origin.inner.put_foreign(name, b"x");
    }
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    for number in 0..3_000 {
        site.set(&format!("ours/{number:04}"), b"x").await;
    }
    site.set("both/2", b"x").await;
    let before = origin.lists();
    let listed = site.list(b"", b"/", 1000).await.unwrap();
    assert_eq!(listed, keys(&["both/", "ours/", "theirs/", "zz"]));
    assert_eq!(origin.lists(), before + 1, "one page of the origin");
    // A page that begins inside of what is rolled up goes on behind it.
    let page = site.page(b"", Some(b"ours/1"), b"/", 1).await.unwrap();
    assert_eq!((page.entries[0].key().as_ref(), page.more), (&b"theirs/"[..], true));
    assert_eq!(origin.lists(), before + 2);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_not_utf8_are_never_left_out_silently() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    // In the order of names: "é", then the escaped 0x80 and 0xFF.
    for name in ["a", "é", "\u{F780}k", "\u{F7FF}"] {
        origin.inner.put_foreign(name, b"theirs");
    }
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    let mut all: Vec<Vec<u8>> = vec![b"a".to_vec(), b"\x80k".to_vec(), "é".into(), b"\xFF".to_vec()];
    all.sort();
    // All of it is on the first page.
    assert_eq!(site.list(b"", b"", 1000).await.unwrap(), all);
    for name in ["\u{F781}k", "\u{F781}/1", "y/\u{F782}/1"] {
        origin.inner.put_foreign(name, b"theirs");
    }
    origin.inner.put_foreign("ö", b"theirs");
    all.extend([b"\x81k".to_vec(), b"\x81/1".to_vec(), b"y/\x82/1".to_vec(), "ö".into()]);
    all.sort();
    // Its place is behind the first page when the origin lists it: an error, and then it is known.
    for name in 0..200 {
        origin.inner.put_foreign(&format!("é{name:03}"), b"theirs");
        all.push(format!("é{name:03}").into_bytes());
    }
    all.sort();
    let refused = site.list(b"", b"", 50).await;
    assert!(matches!(refused, Err(Error::ChangedInOrigin(_))), "{refused:?}");
    assert_eq!(site.list(b"", b"", 50).await.unwrap(), all);
    let rolled = site.list(b"", b"/", 7).await.unwrap();
    assert!(rolled.contains(&b"\x81/".to_vec()) && rolled.contains(&b"y/".to_vec()));
    assert!(rolled.is_sorted() && rolled.len() == all.len());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_under_several_mounts_stand_in_one_order() {
    let dir = tempfile::tempdir().unwrap();
    let (outer, inner) = (Gated::new(), Gated::new());
    let mut expected = BTreeMap::new();
    for number in 0..40 {
        outer.inner.put_foreign(&format!("k{number:02}"), b"outer");
        expected.insert(format!("k{number:02}").into_bytes(), ());
        // Hidden: the keys are the other mount's.
        outer.inner.put_foreign(&format!("k2/{number:02}"), b"hidden");
        outer.inner.put_foreign(&format!("k3/here/{number:02}"), b"hidden");
    }
    for number in 0..30 {
        inner.inner.put_foreign(&format!("x{number}"), b"inner");
        expected.insert(format!("k2/x{number}").into_bytes(), ());
    }
    let mut local = mount("data", "k3/here/", &outer);
    local.origin = None;
    let mounts = vec![mount("data", "", &outer), mount("data", "k2/", &inner), local];
    let site = Site::start(dir.path(), mounts).await;
    let flat: Vec<Vec<u8>> = expected.into_keys().collect();
    for limit in [1, 3, 1000] {
        assert_eq!(site.list(b"", b"", limit).await.unwrap(), flat, "{limit}");
    }
    let mut rolled: Vec<Vec<u8>> = flat.iter().filter(|key| !key.contains(&b'/')).cloned().collect();
    rolled.push(b"k2/".to_vec());
    rolled.sort();
    for limit in [1, 3, 1000] {
        assert_eq!(site.list(b"", b"/", limit).await.unwrap(), rolled, "{limit}");
    }
    site.set("k3/here/1", b"local").await;
    rolled.push(b"k3/".to_vec());
    rolled.sort();
    assert_eq!(site.list(b"", b"/", 5).await.unwrap(), rolled);
    assert_eq!(site.list(b"k2/x1", b"", 4).await.unwrap().len(), 11);
    site.stop().await;
}
