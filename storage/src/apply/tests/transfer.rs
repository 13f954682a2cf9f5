//! The records of uploads to origins, as stories.

use super::*;
use crate::keyspace::tables::{ASKED, AskedRow, STALE, TransferRow, transfer_key};
use crate::mutation::TransferStep;

const BEGUN: TransferStep<'_> = TransferStep::Begun { part_bytes: 8, crc32c: false };

impl Story {
    fn transfer(&mut self, key: &[u8], version: Version, upload_id: &str, step: TransferStep<'_>) -> Outcome {
        self.run(&Mutation::Transfer { bucket: self.bucket, key, version, upload_id, step })
    }

    fn recorded(&self, version: Version) -> Option<TransferRow> {
        let row = self.raw(RowKey::encoded(&transfer_key(version, 0)));
        row.map(|row| TransferRow::decode(&row).unwrap())
    }

    fn stale(&self, version: Version, mount: u32) -> Option<TransferRow> {
        let row = self.raw(RowKey::encoded(&transfer_key(version, STALE | mount)));
        row.map(|row| TransferRow::decode(&row).unwrap())
    }

    fn gone(&mut self, version: Version, mount: u32) -> Outcome {
        self.run(&Mutation::TransferGone { version, mount: Some(mount) })
    }

    fn start(&mut self, key: &[u8], version: Version) {
        done(self.run(&Mutation::FlushStarted { bucket: self.bucket, key, version, deadline_ms: 5 }));
    }
}

#[test]
fn an_upload_may_become_the_object_once_an_attempt_for_it_has_started() {
    let mut story = Story::mounted();
    let version = story.set(b"k", b"1");
    done(story.transfer(b"k", version, "u", BEGUN));
    done(story.transfer(b"k", version, "u", TransferStep::Sent { number: 1, etag: "e", crc32c: None }));
    assert!(!story.recorded(version).unwrap().tried);
    story.start(b"k", version);
    assert!(story.recorded(version).unwrap().tried);
    story.set(b"k", b"2");
    assert_eq!(story.recorded(version), None);
    let row = story.stale(version, 1).unwrap();
    assert!(row.stale && row.tried && row.upload_id == "u");
    assert!(story.raw(RowKey::encoded(&transfer_key(version, 1))).is_none(), "nobody goes on with it");
    done(story.gone(version, 1));
    assert_eq!(story.stale(version, 1), None);
    assert_eq!(story.gone(version, 1), Outcome::Unmet);
}

#[test]
fn a_record_says_where_its_upload_is() {
    let mut story = Story::mounted();
    assert_eq!(story.run(&mount_at(b"sub/", "s3://other/p")), Outcome::Mount(2));
    for (key, origin, origin_key) in [(&b"k"[..], "s3://cloud", "p/k"), (b"sub/k", "s3://other/p", "k")] {
        let version = story.set(key, b"1");
        done(story.transfer(key, version, "", TransferStep::Asked { from_ms: 1, until_ms: 2 }));
        done(story.transfer(key, version, "", TransferStep::Asked { from_ms: 1, until_ms: 2 }));
        done(story.transfer(key, version, "u", BEGUN));
        let row = story.recorded(version).unwrap();
        assert_eq!((&*row.origin, &*row.origin_key), (origin, origin_key));
        let asked = story.raw(RowKey::encoded(&transfer_key(version, ASKED | row.mount))).unwrap();
        let asked = AskedRow::decode(&asked).unwrap();
        assert_eq!((&*asked.origin, &*asked.origin_key), (origin, origin_key));
    }
}

#[test]
fn a_stale_upload_that_became_the_object_is_no_more_to_be_given_up() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    let version = story.set(b"k", b"1");
    done(story.transfer(b"k", version, "u", BEGUN));
    story.start(b"k", version);
    story.set(b"k", b"2");
    let told = |mount, origin_etag| Mutation::Flushed { bucket, key: b"k", version, origin_etag, mount };
    for nothing_of_it in [told(Some(1), None), told(None, Some("e")), told(Some(2), Some("e"))] {
        story.run(&nothing_of_it);
        assert!(story.stale(version, 1).is_some(), "{nothing_of_it:?}");
    }
    story.run(&told(Some(1), Some("e")));
    assert_eq!(story.stale(version, 1), None);
}

#[test]
fn an_upload_that_is_lost_after_it_was_tried_leaves_its_trace_until_it_is_given_up_or_lands() {
    for lands in [false, true] {
        let mut story = Story::mounted();
        let bucket = story.bucket;
        let version = story.set(b"k", b"1");
        done(story.transfer(b"k", version, "u", BEGUN));
        story.start(b"k", version);
        done(story.transfer(b"k", version, "u", TransferStep::Lost));
        let row = story.stale(version, 1).unwrap();
        assert!(row.stale && row.tried && row.upload_id == "u");
        assert!(!story.queued(b"k", version).unwrap().transfer);
        for step in [TransferStep::Asked { from_ms: 1, until_ms: 2 }, BEGUN, TransferStep::Lost] {
            assert_eq!(
                story.transfer(b"k", version, "u", step),
                Outcome::Unmet,
                "{step:?}: it is in the way"
            );
        }
        match lands {
            false => {
                done(story.gone(version, 1));
                done(story.transfer(b"k", version, "v", BEGUN));
                assert_eq!(story.recorded(version).unwrap().upload_id, "v");
            }
            true => {
                let origin_etag = Some("e");
                done(story.run(&Mutation::Flushed {
                    bucket,
                    key: b"k",
                    version,
                    origin_etag,
                    mount: Some(1),
                }));
            }
        }
        assert_eq!(story.stale(version, 1), None);
    }
    // Without a completion there is nothing that could land.
    let mut story = Story::mounted();
    let version = story.set(b"k", b"1");
    done(story.transfer(b"k", version, "u", BEGUN));
    done(story.transfer(b"k", version, "u", TransferStep::Lost));
    assert_eq!((story.recorded(version), story.stale(version, 1)), (None, None));
}

#[test]
fn an_upload_at_an_origin_that_the_key_has_left_is_stale_and_in_nobodys_way_at_another() {
    let mut story = Story::mounted();
    let version = story.set(b"sub/k", b"1");
    done(story.transfer(b"sub/k", version, "u", BEGUN));
    assert_eq!(story.run(&mount_at(b"sub/", "s3://other")), Outcome::Mount(2));
    done(story.transfer(b"sub/k", version, "u", TransferStep::Lost));
    let row = story.stale(version, 1).unwrap();
    assert!(row.stale && row.mount == 1 && !story.queued(b"sub/k", version).unwrap().transfer);
    assert_eq!(story.transfer(b"sub/k", version, "u", TransferStep::Lost), Outcome::Unmet);
    done(story.transfer(b"sub/k", version, "v", BEGUN));
    assert_eq!(story.recorded(version).unwrap().mount, 2);
    assert!(story.stale(version, 1).is_some());
    done(story.gone(version, 1));
    assert_eq!(story.recorded(version).unwrap().upload_id, "v");
}

#[test]
fn entries_of_older_logs_keep_their_meaning() {
    // What was forgotten then stays forgotten: another upload of the version was begun behind it.
    let mut story = Story::mounted();
    let version = story.set(b"k", b"1");
    done(story.transfer(b"k", version, "u", BEGUN));
    story.start(b"k", version);
    done(story.transfer(b"k", version, "u", TransferStep::Forgotten));
    assert_eq!(story.stale(version, 1), None);
    done(story.transfer(b"k", version, "v", BEGUN));
    // What was given up without the name of a mount is found where such rows stand now.
    story.set(b"k", b"2");
    assert!(story.stale(version, 1).is_some());
    done(story.run(&Mutation::TransferGone { version, mount: None }));
    assert_eq!(story.stale(version, 1), None);
}

/// A stale row once took the place of the wanted one.
#[test]
fn a_stale_record_of_the_first_layout_is_put_aside_and_given_up_like_any_other() {
    for by_mount in [None, Some(1)] {
        let mut story = Story::mounted();
        let version = story.set(b"k", b"1");
        done(story.transfer(b"k", version, "u", BEGUN));
        let row = TransferRow { stale: true, ..story.recorded(version).unwrap() };
        {
            let keyspace = &story.world.node.as_ref().unwrap().keyspace;
            let (row_key, horizon) = (transfer_key(version, 0), keyspace.horizon());
            let rows = keyspace.memtables();
            rows.active.put(RowKey::encoded(&row_key), keyspace.visible(), Some(row.encode()), horizon);
        }
        assert_eq!(story.transfer(b"k", version, "v", BEGUN), Outcome::Unmet, "it is in the way");
        done(story.run(&Mutation::TransferGone { version, mount: by_mount }));
        done(story.transfer(b"k", version, "v", BEGUN));
    }
}

#[test]
fn what_was_asked_of_an_origin_is_on_record_until_it_is_answered_or_looked_for() {
    let mut story = Story::mounted();
    let version = story.set(b"k", b"1");
    let asked = |story: &Story| {
        let row = story.raw(RowKey::encoded(&transfer_key(version, ASKED | 1)));
        row.map(|row| AskedRow::decode(&row).unwrap()).map(|row| (row.count, row.from_ms, row.until_ms))
    };
    let ask = |from_ms, until_ms| TransferStep::Asked { from_ms, until_ms };
    let looked = |until_ms| TransferStep::Looked { mount: 1, until_ms };
    done(story.transfer(b"k", version, "", ask(10, 20)));
    done(story.transfer(b"k", version, "", TransferStep::Refused));
    assert_eq!(asked(&story), None);
    done(story.transfer(b"k", version, "", ask(10, 20)));
    done(story.transfer(b"k", version, "", ask(30, 40)));
    assert_eq!(asked(&story), Some((2, 10, 40)));
    // One answer says nothing of the other request.
    done(story.transfer(b"k", version, "u", BEGUN));
    assert_eq!(asked(&story), Some((1, 10, 40)));
    assert_eq!(story.transfer(b"k", version, "", ask(50, 60)), Outcome::Unmet, "one is recorded");
    // It outlives its version.
    story.start(b"k", version);
    let (bucket, origin_etag) = (story.bucket, Some("e"));
    done(story.run(&Mutation::Flushed { bucket, key: b"k", version, origin_etag, mount: Some(1) }));
    assert_eq!((story.recorded(version), asked(&story)), (None, Some((1, 10, 40))));
    assert_eq!(story.transfer(b"k", version, "", ask(50, 60)), Outcome::Unmet, "nobody wants it");
    assert_eq!(story.transfer(b"k", version, "", looked(20)), Outcome::Unmet, "it was asked again since");
    done(story.transfer(b"k", version, "", looked(40)));
    assert_eq!(asked(&story), None);
}
