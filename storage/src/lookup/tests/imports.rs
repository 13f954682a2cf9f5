//! Imports: what they take over, and what becomes of them.

use super::*;
use crate::lookup::ImportStatus;
use crate::mutation::ImportState;

async fn ended(site: &Site) -> ImportStatus {
    let limit = Instant::now() + LIMIT;
    loop {
        let status = site.store.import_status("data", b"").await.unwrap().unwrap();
        if status.state != ImportState::Running {
            return status;
        }
        assert!(Instant::now() < limit, "{status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn fill(origin: &Gated, count: usize) {
    for number in 0..count {
        origin.inner.put_foreign(&format!("k{number:05}"), b"theirs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_taken_over_by_its_head_and_known_without_the_origin() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    fill(&origin, 10_000);
    origin.inner.put_foreign(".forebay-probe-0011", b"left over");
    origin.inner.put_foreign("\u{F7C3}\u{F7A9}", b"no key's name");
    let site = Site::start(dir.path(), vec![mount("data", "", &origin)]).await;
    site.set("k00007", b"ours").await;
    site.delete("k00008").await;
    let (begun, reads) = (Instant::now(), origin.reads.load(SeqCst));
    let status = site.store.import("data", b"").await.unwrap().unwrap();
    assert_eq!((status.path.as_str(), status.state), ("/data", ImportState::Running));
    let status = ended(&site).await;
    println!("10,000 keys imported in {:?}: {status:?}", begun.elapsed());
    assert_eq!((status.state, status.adopted, status.trouble), (ImportState::Done, 9_998, None));
    assert_eq!(origin.reads.load(SeqCst), reads, "no bytes were downloaded");
    site.flushed().await;
    origin.down();
    let view = site.store.view().unwrap();
    for number in 0..10_000 {
        let row = view.fetch(site.bucket, format!("k{number:05}").as_bytes()).await.unwrap();
        assert_eq!(row.is_some(), number != 8, "{number}");
    }
    assert_eq!(view.count(site.bucket), 9_999);
    assert!(site.store.import("nothing", b"").await.unwrap().is_none());
    assert!(!site.store.cancel_import("data", b"").await.unwrap());
    drop(view);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_the_last_note_stands() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    fill(&origin, 3_500);
    let mounts = vec![mount("data", "", &origin)];
    let site = Site::start(dir.path(), mounts.clone()).await;
    // The third page never comes.
    origin.inner.set_hook(|call| match call.operation == Operation::Head && call.key.as_str() >= "k02300" {
        true => Fault::DropUnknown,
        false => Fault::Ok,
    });
    site.store.import("data", b"").await.unwrap();
    let limit = Instant::now() + LIMIT;
    let status = loop {
        let status = site.store.import_status("data", b"").await.unwrap().unwrap();
        if status.listed == 2_000 && status.trouble.is_some() {
            break status;
        }
        assert!(Instant::now() < limit, "{status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(status.adopted >= 2_000 && status.after == "k01999", "{status:?}");
    site.stop().await;

    let before = origin.heads();
    origin.up();
    let site = Site::start(dir.path(), mounts).await;
    let status = ended(&site).await;
    assert_eq!((status.state, status.listed), (ImportState::Done, 3_500), "{status:?}");
    assert!(origin.heads() - before <= 1_500, "what was noted is not asked for again");
    assert_eq!(site.store.view().unwrap().count(site.bucket), 3_500);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_import_stays_so_and_another_begins_anew() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Gated::new());
    fill(&origin, 1_200);
    let mounts = vec![mount("data", "", &origin)];
    let site = Site::start(dir.path(), mounts.clone()).await;
    origin.hold_many(Operation::Head, u64::MAX);
    site.store.import("data", b"").await.unwrap();
    origin.is_holding(1).await;
    assert!(site.store.cancel_import("data", b"").await.unwrap());
    assert_eq!(ended(&site).await.state, ImportState::Cancelled);
    origin.release();
    site.stop().await;

    let site = Site::start(dir.path(), mounts).await;
    assert_eq!(ended(&site).await.state, ImportState::Cancelled);
    assert_eq!(site.store.view().unwrap().count(site.bucket), 0);
    site.store.import("data", b"").await.unwrap();
    let status = ended(&site).await;
    assert_eq!((status.state, status.adopted), (ImportState::Done, 1_200));
    assert_eq!(site.store.imports().await.unwrap(), [status]);
    site.stop().await;
}
