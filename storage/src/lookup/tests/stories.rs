//! What clients see of objects that lie in an origin, and what never happens.

use super::*;
use crate::lookup::MergedList;
use crate::origin::ContentHeaders;

fn ttl(mut mount: MountConfig, ttl: Duration) -> MountConfig {
    mount.revalidate = Some(ttl);
    mount
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_the_origin_is_found_once_and_stays_known() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    let headers = ContentHeaders { content_type: Some("text/plain".to_owned()), ..ContentHeaders::default() };
    origin.inner.put_foreign_with("k", Bytes::from_static(b"theirs"), headers, &[("color", "red")]);
    let long: Vec<u8> = (0..10_000_000u32).map(|at| (at / 7) as u8).collect();
    origin.inner.put_foreign_with("long", Bytes::from(long.clone()), ContentHeaders::default(), &[]);
    let mounts = vec![mount("data", "", &origin)];
    let site = Site::start(dir.path(), mounts.clone()).await;
    assert!(site.store.has_lookups() && site.store.is_unknown(site.bucket, b"k"));
    let (before, reads) = (origin.heads(), origin.reads.load(SeqCst));
    let row = site.row("k").await.unwrap().unwrap();
    assert_eq!(origin.reads.load(SeqCst), reads, "a head brings no bytes");
    assert_eq!((row.body_len(), row.meta().content_type.as_deref()), (6, Some("text/plain")));
    assert_eq!(row.meta().user, [("color".to_owned(), "red".to_owned())]);
    let head = origin.inner.head(&OriginKey("k".to_owned())).await.unwrap().unwrap();
    assert_eq!((row.modified_ms(), site.etag("k").await), (head.modified_ms, Some(head.etag.0)));
    assert_eq!(site.get("k").await.unwrap().as_deref(), Some(&b"theirs"[..]));
    assert!(!site.store.is_unknown(site.bucket, b"k"));
    assert_eq!(origin.heads(), before + 1);
    assert!(site.get("long").await.unwrap().unwrap() == long);
    site.stop().await;

    let site = Site::start(dir.path(), mounts).await;
    let before = origin.heads();
    assert_eq!(site.get("k").await.unwrap().as_deref(), Some(&b"theirs"[..]));
    assert!(site.get("long").await.unwrap().unwrap() == long);
    assert_eq!(origin.heads(), before, "what was taken over is known after a restart");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absence_is_remembered_and_hides_nothing_of_ours() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    origin.inner.put_foreign("other", b"x");
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    let before = origin.heads();
    for _ in 0..5 {
        assert_eq!(site.get("k").await.unwrap(), None);
    }
    assert_eq!(origin.heads(), before + 1);
    site.set("k", b"ours").await;
    assert_eq!(site.get("k").await.unwrap().as_deref(), Some(&b"ours"[..]));
    site.flushed().await;
    assert_eq!(site.get("k").await.unwrap().as_deref(), Some(&b"ours"[..]));
    site.delete("k").await;
    assert_eq!(site.get("k").await.unwrap(), None);
    site.flushed().await;
    assert_eq!((site.get("k").await.unwrap(), origin.inner.body("k")), (None, None));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_the_origin_is_an_error_and_never_absence() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    origin.inner.put_foreign("k", b"theirs");
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    site.set("ours", b"here").await;
    let classes = [ErrorClass::Network, ErrorClass::Auth, ErrorClass::MissingBucket, ErrorClass::ServerError];
    for class in classes.into_iter().chain([ErrorClass::Throttled, ErrorClass::ClockSkew, ErrorClass::Other])
    {
        origin.inner.set_hook(move |_| Fault::Refuse(OriginError::new(class, Landing::NotApplied, "no")));
        for key in ["k", "nothing"] {
            let answer = site.get(key).await;
            assert!(matches!(answer, Err(Error::Unavailable(_))), "{class} {key}: {answer:?}");
        }
        assert_eq!(site.get("ours").await.unwrap().as_deref(), Some(&b"here"[..]), "{class}");
    }
    origin.up();
    assert_eq!(site.get("k").await.unwrap().as_deref(), Some(&b"theirs"[..]));
    assert_eq!(site.get("nothing").await.unwrap(), None);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_absent_before_the_origin_was_reached() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    origin.inner.put_foreign("k", b"theirs");
    origin.down();
    let site = Site::start_alone(dir.path(), vec![mount("data", "", &origin)]).await;
    assert!(matches!(site.get("k").await, Err(Error::Unavailable(_))));
    let listing = MergedList { prefix: b"", after: None, delimiter: b"", limit: 10 };
    assert!(matches!(site.store.list_merged(site.bucket, listing).await, Err(Error::Unavailable(_))));
    site.set("ours", b"here").await;
    assert_eq!(site.get("ours").await.unwrap().as_deref(), Some(&b"here"[..]));
    origin.up();
    until("an attached mount", || site.store.mounts()[0].attached).await;
    assert_eq!(site.get("k").await.unwrap().as_deref(), Some(&b"theirs"[..]));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_was_empty_is_never_asked() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    assert!(!site.store.has_lookups() && !site.store.lists_origin(site.bucket, b""));
    let (heads, lists) = (origin.heads(), origin.lists());
    assert_eq!(site.get("k").await.unwrap(), None);
    let listing = MergedList { prefix: b"", after: None, delimiter: b"", limit: 10 };
    assert!(site.store.list_merged(site.bucket, listing).await.unwrap().entries.is_empty());
    assert_eq!((origin.heads(), origin.lists()), (heads, lists));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_readers_of_an_unknown_key_ask_once() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    origin.inner.put_foreign("k", b"theirs");
    let site = Arc::new(Site::start(dir.path(), vec![mount("data", "", &origin)]).await);
    let before = origin.heads();
    origin.hold(Operation::Head);
    let readers: Vec<_> = (0..100)
        .map(|_| {
            let site = site.clone();
            tokio::spawn(async move { site.get("k").await })
        })
        .collect();
    origin.is_holding(1).await;
    origin.release();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap().as_deref(), Some(&b"theirs"[..]));
    }
    assert_eq!(origin.heads(), before + 1);
    Arc::into_inner(site).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_are_looked_up_together_and_a_client_that_goes_away_ends_nothing() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    for number in 0..300 {
        origin.inner.put_foreign(&format!("k{number}"), b"theirs");
    }
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    let keys: Vec<String> = (0..600).map(|number| format!("k{number}")).collect();
    let keys: Vec<_> = keys.iter().map(|key| (site.bucket, key.as_bytes())).collect();
    origin.hold(Operation::Head);
    {
        let mut going = std::pin::pin!(site.store.look_up(&keys[..1]));
        assert!(futures_util::poll!(&mut going).is_pending());
        origin.is_holding(1).await;
    }
    origin.release();
    let view = site.store.view().unwrap();
    drop(view);
    let known = || !site.store.is_unknown(site.bucket, b"k0");
    until("the first key", known).await;
    site.store.look_up(&keys).await.unwrap();
    let view = site.store.view().unwrap();
    for (number, (bucket, key)) in keys.iter().enumerate() {
        assert_eq!(view.fetch(*bucket, key).await.unwrap().is_some(), number < 300, "{number}");
    }
    assert!(keys.iter().all(|(bucket, key)| !site.store.is_unknown(*bucket, key)));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_before_a_delete_brings_nothing_back() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    origin.inner.put_foreign("k", b"theirs");
    let site = Arc::new(Site::start(dir.path(), vec![mount("data", "", &origin)]).await);
    origin.hold(Operation::Head);
    let reading = tokio::spawn({
        let site = site.clone();
        async move { site.get("k").await }
    });
    // The origin has said that it is there.
    origin.is_holding(1).await;
    assert!(matches!(site.delete("k").await, Outcome::Done(_)));
    site.flushed().await;
    assert_eq!(origin.inner.body("k"), None);
    // Nothing is known of the key any more when the answer comes.
    origin.release();
    assert_eq!(reading.await.unwrap().unwrap(), None, "the delete was answered before the look-up ended");
    assert_eq!(site.get("k").await.unwrap(), None);
    Arc::into_inner(site).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_older_than_a_flushed_delete_is_refused_by_the_mark_of_its_slot() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    origin.inner.put_foreign("k", b"theirs");
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    let read_at = site.store.shared().keyspace.visible();
    let head = origin.inner.head(&OriginKey("k".to_owned())).await.unwrap().unwrap();
    site.delete("k").await;
    site.flushed().await;
    let mount = site.store.mounts()[0].id.0;
    let found = super::super::found::Found::of(head).unwrap();
    let (bucket, key, replaces, head) = (site.bucket, &b"k"[..], None, found.head());
    let late = Mutation::Adopt { bucket, key, mount, read_at, replaces, head };
    assert_eq!(site.change(&late).await, Outcome::Unmet);
    // Nothing else speaks against it.
    let read_at = site.store.shared().keyspace.visible();
    let late = Mutation::Adopt { bucket, key, mount, read_at, replaces, head };
    assert!(matches!(site.change(&late).await, Outcome::Done(_)));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_before_a_write_hides_nothing() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    origin.inner.put_foreign("k", b"theirs");
    let site = Arc::new(Site::start(dir.path(), vec![mount("data", "", &origin)]).await);
    for key in ["k", "nothing"] {
        origin.hold(Operation::Head);
        let reading = tokio::spawn({
            let site = site.clone();
            async move { site.get(key).await }
        });
        origin.is_holding(1).await;
        site.set(key, b"ours").await;
        origin.release();
        assert_eq!(reading.await.unwrap().unwrap().as_deref(), Some(&b"ours"[..]), "{key}");
        site.flushed().await;
        assert_eq!(site.get(key).await.unwrap().as_deref(), Some(&b"ours"[..]), "{key}");
        assert_eq!(origin.inner.body(key).as_deref(), Some(&b"ours"[..]), "{key}");
    }
    Arc::into_inner(site).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_changes_are_seen_after_the_ttl_and_only_where_it_is_set() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    for key in ["k", "gone", "l/k"] {
        origin.inner.put_foreign(key, b"first");
    }
    let mut asked = ttl(mount("data", "", &origin), Duration::ZERO);
    asked.mode = MountMode::ReadOnly;
    let mut never = mount("data", "l/", &origin);
    never.origin.as_mut().unwrap().prefix = "l/".to_owned();
    let site = Site::start(dir.path(), vec![asked, never]).await;
    for key in ["k", "gone", "l/k"] {
        assert_eq!(site.get(key).await.unwrap().as_deref(), Some(&b"first"[..]));
    }
    assert_eq!((site.get("new").await.unwrap(), site.get("l/new").await.unwrap()), (None, None));
    let before = site.etag("k").await;
    for key in ["k", "l/k", "new", "l/new"] {
        origin.inner.put_foreign(key, b"second one");
    }
    origin.inner.delete_foreign("gone");
    for key in ["k", "new"] {
        assert_eq!(site.get(key).await.unwrap().as_deref(), Some(&b"second one"[..]), "{key}");
    }
    assert_ne!(site.etag("k").await, before);
    assert_eq!(site.get("gone").await.unwrap(), None);
    assert_eq!(site.row("l/k").await.unwrap().unwrap().body_len(), 5, "nobody asks there");
    assert_eq!(site.get("l/new").await.unwrap(), None);
    assert!(matches!(site.get("l/k").await, Err(Error::ChangedInOrigin(_)) | Ok(Some(_))));
    // Trouble is no answer.
    origin.down();
    assert_eq!(site.row("k").await.unwrap().unwrap().body_len(), 10);
    assert!(matches!(site.get("gone").await, Err(Error::Unavailable(_))));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_count_for_their_ttl_and_a_read_that_finds_other_bytes_ends_it() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    origin.inner.put_foreign("k", b"first");
    let site = Site::start(dir.path(), vec![ttl(mount("data", "", &origin), LIMIT * 60)]).await;
    site.row("k").await.unwrap().unwrap();
    let before = origin.heads();
    origin.inner.put_foreign("k", b"second one");
    assert_eq!(site.row("k").await.unwrap().unwrap().body_len(), 5);
    assert_eq!(origin.heads(), before, "the last answer counts");
    let read = site.get("k").await;
    assert!(matches!(read, Err(Error::ChangedInOrigin(_))), "{read:?}");
    assert_eq!(site.get("k").await.unwrap().as_deref(), Some(&b"second one"[..]));
    assert_eq!(origin.heads(), before + 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_queued_is_ours_and_not_asked_for() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    let site = Site::start(dir.path(), vec![ttl(mount("data", "", &origin), Duration::ZERO)]).await;
    origin.down();
    site.set("k", b"ours").await;
    // The flush asks the origin, too, and goes on asking while it is down.
    let asked = || site.store.shared().lookups.counts().asked;
    let before = asked();
    assert!(!site.store.is_unknown(site.bucket, b"k"));
    assert_eq!(site.get("k").await.unwrap().as_deref(), Some(&b"ours"[..]));
    site.delete("k").await;
    assert_eq!(site.get("k").await.unwrap(), None);
    assert_eq!(asked(), before);
    origin.up();
    site.set("k", b"again").await;
    site.flushed().await;
    origin.inner.delete_foreign("k");
    assert_eq!(site.get("k").await.unwrap(), None, "somebody has removed it there");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_prefix_says_where_a_key_is_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    let (outer, inner) = (Gated::new(), Gated::new());
    for key in ["k", "in/k", "in/here/k"] {
        outer.inner.put_foreign(key, b"outer");
    }
    inner.inner.put_foreign("k", b"inner");
    inner.inner.put_foreign("here/k", b"inner");
    let mut local = mount("data", "in/here/", &outer);
    local.origin = None;
    let site =
        Site::start(dir.path(), vec![mount("data", "", &outer), mount("data", "in/", &inner), local]).await;
    assert_eq!(site.get("k").await.unwrap().as_deref(), Some(&b"outer"[..]));
    assert_eq!(site.get("in/k").await.unwrap().as_deref(), Some(&b"inner"[..]));
    assert!(!site.store.is_unknown(site.bucket, b"in/here/k"));
    assert_eq!(site.get("in/here/k").await.unwrap(), None);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_mount_is_read_and_says_so() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    let mut mount = mount("data", "", &origin);
    mount.mode = MountMode::ReadOnly;
    let site = Site::start(dir.path(), vec![mount]).await;
    assert!(site.store.is_read_only(site.bucket, b"k"));
    assert_eq!(site.get("k").await.unwrap(), None);
    assert!(origin.inner.recorded().is_empty(), "nothing is written to it, not even a probe");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures: run it alone, in release"]
async fn what_a_look_at_a_known_key_costs() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    let measure = |site: &Site, what: &str| {
        let (rounds, begun) = (2_000_000, Instant::now());
        let mut unknown = 0;
        for _ in 0..rounds {
            unknown += u64::from(site.store.is_unknown(std::hint::black_box(site.bucket), b"k"));
        }
        println!("{what}: {:.1} ns", begun.elapsed().as_nanos() as f64 / f64::from(rounds));
        assert_eq!(unknown, 0);
    };
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    site.set("k", b"ours").await;
    assert!(!site.store.has_lookups());
    measure(&site, "nothing looks up");
    site.stop().await;
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    origin.inner.put_foreign("k", b"theirs");
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    site.row("k").await.unwrap().unwrap();
    measure(&site, "a known key where the mount looks up");
    site.stop().await;
}
