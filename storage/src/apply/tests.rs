//! Apply as stories: what each rule of the pitfalls keeps from happening. Run on the simulated node, so that
//! every outcome is one that went through log and tables.

use super::*;
use crate::keyspace::tables::{self, MountRow, encode_meta, numbered_key, queue_key};
use crate::mutation::{Existence, ExpireIf, MountMode, PutIf, SetExpiry};
use crate::object::{ETag, ObjectMeta, ObjectRow};
use crate::replica::sim::World;
use crate::submission::Submission;

mod adopt;
mod clean;
mod multipart;
mod transfer;

struct Story {
    world: World,
    bucket: BucketId,
}

impl Story {
    fn new() -> Story {
        let mut world = World::new(1);
        world.open().unwrap();
        let bucket = world.bucket();
        Story { world, bucket }
    }

    /// A story in a bucket that is mounted.
    fn mounted() -> Story {
        let mut story = Story::new();
        let outcome = story.run(&Mutation::Mount {
            bucket: b"redis-0",
            prefix: b"",
            origin: "s3://cloud/p",
            origin_prefix: "p/",
            mode: MountMode::WriteBack,
            flushall: false,
            revalidate: false,
        });
        assert_eq!(outcome, Outcome::Mount(1));
        done(story.run(&Mutation::MountAttached { mount: 1, existing: false }));
        story
    }

    fn run(&mut self, mutation: &Mutation<'_>) -> Outcome {
        let mut submission = Submission::new();
        submission.push(mutation);
        self.world.submit(submission).unwrap().results.remove(0)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Version {
        done(self.run(&set(self.bucket, key, value)))
    }

    fn put(&mut self, key: &[u8], value: &[u8], condition: PutIf<'_>) -> Outcome {
        let (bucket, md5) = (self.bucket, [9; 16]);
        self.run(&Mutation::PutObject {
            bucket,
            key,
            value: value.into(),
            meta: &[],
            md5: Some(md5),
            condition,
        })
    }

    fn row(&self, key: &[u8]) -> Option<ObjectRow> {
        let raw = self.raw(RowKey::object(Table::Object, self.bucket, key))?;
        Some(ObjectRow::from_encoded(raw))
    }

    fn raw(&self, key: RowKey<'_>) -> Option<Arc<[u8]>> {
        let node = self.world.node.as_ref().unwrap();
        View::latest(&node.keyspace).get(key, false, true).unwrap().flatten()
    }

    fn queued(&self, key: &[u8], version: Version) -> Option<QueueRow> {
        let row_key = queue_key(version, self.bucket, key);
        self.raw(RowKey::encoded(&row_key)).map(|row| QueueRow::decode(&row).unwrap())
    }

    fn origin(&self, key: &[u8]) -> tables::OriginRow {
        let row = self.raw(RowKey::object(Table::Origin, self.bucket, key));
        row.map_or_else(Default::default, |row| tables::OriginRow::decode(&row).unwrap())
    }

    fn objects(&self) -> u64 {
        self.world.node.as_ref().unwrap().registry.get(self.bucket).unwrap().objects()
    }
}

fn set<'a>(bucket: BucketId, key: &'a [u8], value: &'a [u8]) -> Mutation<'a> {
    let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
    Mutation::SetString { bucket, key, value: value.into(), expiry, existence }
}

fn done(outcome: Outcome) -> Version {
    match outcome {
        Outcome::Done(version) => version,
        other => panic!("{other:?}"),
    }
}

#[test]
fn set_with_nx_keeps_old_value() {
    let mut story = Story::new();
    story.set(b"k", b"old");
    let (bucket, expiry) = (story.bucket, SetExpiry::Clear);
    let existence = Existence::Absent;
    let outcome =
        story.run(&Mutation::SetString { bucket, key: b"k", value: b"new".into(), expiry, existence });
    assert_eq!(outcome, Outcome::Unmet);
    assert_eq!(story.row(b"k").unwrap().inline_body(), Some(&b"old"[..]));
}

#[test]
fn append_keeps_metadata_and_expiry_but_neither_checksum_nor_md5() {
    let mut story = Story::new();
    let meta = ObjectMeta {
        content_type: Some("text/plain".to_owned()),
        user: vec![("a".to_owned(), "b".to_owned())],
        checksum: Some(("crc32".to_owned(), "AAAAAA==".to_owned())),
        ..ObjectMeta::default()
    };
    let (bucket, encoded, md5) = (story.bucket, encode_meta(&meta), [1; 16]);
    let condition = PutIf::default();
    story.run(&Mutation::PutObject {
        bucket,
        key: b"k",
        value: b"ab".into(),
        meta: &encoded,
        md5: Some(md5),
        condition,
    });
    let (at_ms, condition) = (9_000_000, ExpireIf::default());
    done(story.run(&Mutation::Expire { bucket, key: b"k", at_ms, condition }));
    assert_eq!(story.run(&Mutation::Append { bucket, key: b"k", value: b"c".into() }), Outcome::Length(3));
    let row = story.row(b"k").unwrap();
    assert_eq!((row.meta(), row.expires_at_ms()), (ObjectMeta { checksum: None, ..meta }, Some(9_000_000)));
    assert!(matches!(row.etag(ClusterId([0; 16])), ETag::Derived(_)));
}

#[test]
fn an_s3_put_clears_the_expiry_and_set_drops_the_metadata() {
    let mut story = Story::new();
    let (bucket, existence) = (story.bucket, Existence::Any);
    let expiry = SetExpiry::At(9_000_000);
    story.run(&Mutation::SetString { bucket, key: b"k", value: b"v".into(), expiry, existence });
    done(story.put(b"k", b"w", PutIf::default()));
    assert_eq!(story.row(b"k").unwrap().expires_at_ms(), None);
    story.set(b"k", b"x");
    assert!(story.row(b"k").unwrap().meta().is_empty());
}

#[test]
fn expire_moves_the_version_on_and_leaves_the_etag() {
    let mut story = Story::new();
    story.set(b"k", b"v");
    let before = story.row(b"k").unwrap();
    let (bucket, condition) = (story.bucket, ExpireIf::default());
    done(story.run(&Mutation::Expire { bucket, key: b"k", at_ms: 9_000_000, condition }));
    let after = story.row(b"k").unwrap();
    let cluster = ClusterId([3; 16]);
    assert!(after.version() > before.version());
    assert_eq!(after.etag(cluster), before.etag(cluster));
}

#[test]
fn pitfall_23_versions_grow_over_a_delete() {
    let mut story = Story::new();
    let first = story.set(b"k", b"1");
    let bucket = story.bucket;
    done(story.run(&Mutation::Delete { bucket, key: b"k" }));
    assert!(story.set(b"k", b"2") > first);
}

#[test]
fn pitfall_27_numeric_commands_judge_the_length_first() {
    let mut story = Story::new();
    story.set(b"k", &[b'1'; 4000]);
    story.world.checkpoint().unwrap();
    let bucket = story.bucket;
    let outcome = story.run(&Mutation::IncrBy { bucket, key: b"k", delta: 1 });
    assert_eq!(outcome, Outcome::Refused(Refusal::NotAnInteger));
    let outcome = story.run(&Mutation::IncrByFloat { bucket, key: b"k", delta: b"1" });
    assert_eq!(outcome, Outcome::Refused(Refusal::NotAFloat));
}

#[test]
fn the_newest_version_replaces_the_one_that_waits() {
    let mut story = Story::mounted();
    let first = story.set(b"k", b"1");
    let second = story.set(b"k", b"2");
    assert_eq!(story.queued(b"k", first), None);
    assert!(story.queued(b"k", second).is_some());
    assert_eq!(story.origin(b"k").rows, 1);
}

#[test]
fn pitfall_23_a_late_mark_of_an_older_version_leaves_the_newer_row() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    let first = story.set(b"k", b"1");
    done(story.run(&Mutation::FlushStarted { bucket, key: b"k", version: first, deadline_ms: 5 }));
    let second = story.set(b"k", b"2");
    let flushed =
        Mutation::Flushed { bucket, key: b"k", version: first, origin_etag: Some("e"), mount: None };
    assert_eq!(story.run(&flushed), Outcome::Unmet);
    assert!(story.queued(b"k", second).is_some());
    assert_eq!(story.origin(b"k").origin, Some((first, "e".to_owned())));
}

#[test]
fn a_delete_cancels_an_upload_that_never_started_and_follows_one_that_did() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    let first = story.set(b"a", b"1");
    done(story.run(&Mutation::Delete { bucket, key: b"a" }));
    assert_eq!((story.queued(b"a", first), story.origin(b"a")), (None, tables::OriginRow::default()));

    let first = story.set(b"b", b"1");
    done(story.run(&Mutation::FlushStarted { bucket, key: b"b", version: first, deadline_ms: 5 }));
    let delete = done(story.run(&Mutation::Delete { bucket, key: b"b" }));
    assert!(story.queued(b"b", delete).unwrap().delete);
}

#[test]
fn pitfall_25_what_is_known_of_an_older_version_leaves_a_newer_attempt_in_doubt() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    let first = story.set(b"k", b"1");
    done(story.run(&Mutation::FlushStarted { bucket, key: b"k", version: first, deadline_ms: 5 }));
    let arrived =
        Mutation::Flushed { bucket, key: b"k", version: first, origin_etag: Some("e"), mount: None };
    done(story.run(&arrived));
    let second = story.set(b"k", b"2");
    done(story.run(&Mutation::FlushStarted { bucket, key: b"k", version: second, deadline_ms: 9 }));
    // Somebody took the object away at the origin: it is found gone while the second attempt is under way.
    let gone = Mutation::Flushed { bucket, key: b"k", version: first, origin_etag: None, mount: None };
    assert_eq!(story.run(&gone), Outcome::Unmet);
    assert_eq!(story.origin(b"k").started, Some((second, 9)));
    // So a delete has to follow it to the origin.
    let delete = done(story.run(&Mutation::Delete { bucket, key: b"k" }));
    assert!(story.queued(b"k", delete).unwrap().delete);
}

#[test]
fn pitfall_22_a_pending_barrier_holds_the_version_behind_it_with_its_bytes() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    let body = vec![5; 3000];
    let data = story.set(b"data", &body);
    let absent = PutIf { if_match: None, if_none_match: Some("*") };
    let barrier = done(story.put(b"manifest", b"m1", absent));
    assert!(story.queued(b"manifest", barrier).unwrap().barrier);
    let newer = story.set(b"data", b"new");
    let held = story.queued(b"data", data).unwrap().held.expect("the older version keeps its row");
    assert!(story.queued(b"data", newer).unwrap().overwrite);
    // Its blob outlives the object's own row, also over a checkpoint, until it has been flushed.
    story.world.checkpoint().unwrap();
    let blob = blobs_of(&RowReader::new(&held).unwrap())[0];
    let blob_row = blob_key(Table::Blob, blob);
    assert!(story.raw(RowKey::encoded(&blob_row)).is_some());
    done(story.run(&Mutation::Flushed {
        bucket,
        key: b"data",
        version: data,
        origin_etag: Some("e"),
        mount: None,
    }));
    assert!(story.raw(RowKey::encoded(&blob_row)).is_none());
    assert_eq!(story.origin(b"data").pending, Some(newer));
}

#[test]
fn pitfall_28_what_could_never_be_flushed_is_refused_at_once() {
    let mut story = Story::mounted();
    let key = [b'k'; 1024];
    let bucket = story.bucket;
    let refused = Outcome::Refused(Refusal::OriginKeyTooLong(1026));
    assert_eq!(story.run(&set(bucket, &key, b"v")), refused);
    let user = vec![("n".to_owned(), "v".repeat(2000))];
    let meta = encode_meta(&ObjectMeta { user, ..ObjectMeta::default() });
    let (md5, condition) = ([0; 16], PutIf::default());
    let put =
        Mutation::PutObject { bucket, key: b"k", value: b"v".into(), meta: &meta, md5: Some(md5), condition };
    assert!(matches!(story.run(&put), Outcome::Refused(Refusal::OriginMetaTooLarge(_))));
    assert_eq!(story.objects(), 0);
}

#[test]
fn pitfall_26_flushdb_hides_everything_at_once_and_is_refused_on_a_mount() {
    let mut story = Story::new();
    let bucket = story.bucket;
    story.set(b"a", b"1");
    let epoch = done(story.run(&Mutation::FlushBucket { bucket }));
    assert_eq!(story.objects(), 0);
    story.set(b"b", b"2");
    assert_eq!(story.objects(), 1);
    done(story.run(&Mutation::Sweep { bucket, key: b"a" }));
    assert_eq!(story.run(&Mutation::Sweep { bucket, key: b"b" }), Outcome::Unmet);
    done(story.run(&Mutation::SweepDone { bucket, epoch }));
    assert_eq!((story.row(b"a").is_none(), story.objects()), (true, 1));

    let mut story = Story::mounted();
    let bucket = story.bucket;
    story.set(b"a", b"1");
    let refused = Outcome::Refused(Refusal::Mounted("/redis-0".to_owned()));
    assert_eq!(story.run(&Mutation::FlushBucket { bucket }), refused);
    assert_eq!(story.objects(), 1);
}

#[test]
fn a_group_whose_guard_fails_changes_nothing() {
    let mut story = Story::new();
    let bucket = story.bucket;
    let seen = story.set(b"k", b"1");
    story.set(b"k", b"2");
    let guard = Guard::VersionIs { bucket, key: b"k", version: Some(seen) };
    let mutations = vec![set(bucket, b"k", b"3"), set(bucket, b"other", b"x")];
    let mut submission = Submission::new();
    submission.push(&Mutation::Atomic { guards: vec![guard], mutations });
    let results = story.world.submit(submission).unwrap().results;
    assert_eq!(results, [Outcome::Unmet, Outcome::Skipped, Outcome::Skipped]);
    assert_eq!(story.row(b"k").unwrap().inline_body(), Some(&b"2"[..]));
}

#[test]
fn conditions_of_a_put_are_judged_where_it_is_applied() {
    let mut story = Story::new();
    let absent = PutIf { if_match: None, if_none_match: Some("*") };
    done(story.put(b"k", b"1", absent.clone()));
    assert_eq!(story.put(b"k", b"2", absent), Outcome::Refused(Refusal::PreconditionFailed));
    let etag = ETag::Md5([9; 16]).to_string();
    let matching = PutIf { if_match: Some(&etag), if_none_match: None };
    done(story.put(b"k", b"3", matching.clone()));
    assert_eq!(story.put(b"none", b"4", matching), Outcome::Refused(Refusal::NoSuchKey));
}

#[test]
fn copies_share_a_blob_until_the_last_of_them_goes() {
    let mut story = Story::new();
    let bucket = story.bucket;
    story.set(b"a", &[7; 2000]);
    let raw = story.raw(RowKey::object(Table::Object, bucket, b"a")).unwrap();
    let blob = blob_key(Table::Blob, blobs_of(&RowReader::new(&raw).unwrap())[0]);
    for to in [&b"b"[..], b"c"] {
        let (from_bucket, to_bucket) = (bucket, bucket);
        done(story.run(&Mutation::Copy { from_bucket, from: b"a", to_bucket, to, replace: false }));
    }
    for key in [&b"a"[..], b"b"] {
        done(story.run(&Mutation::Delete { bucket, key }));
        assert!(story.raw(RowKey::encoded(&blob)).is_some());
    }
    done(story.run(&Mutation::Delete { bucket, key: b"c" }));
    assert!(story.raw(RowKey::encoded(&blob)).is_none());
}

#[test]
fn a_lower_limit_in_the_config_does_not_change_what_a_replay_comes_to() {
    let mut story = Story::new();
    story.set(b"k", &[1; 60_000]);
    story.world.body_bytes_max = 1024;
    story.world.crash(true);
    story.world.open().unwrap();
    assert_eq!(story.row(b"k").map(|row| row.body_len()), Some(60_000));
    let bucket = story.bucket;
    let outcome = story.run(&set(bucket, b"k", &[1; 2000]));
    assert_eq!(outcome, Outcome::Refused(Refusal::TooLarge(1024)));
}

#[test]
fn pitfall_19_an_expired_key_stays_gone_when_the_clock_goes_back() {
    let mut story = Story::new();
    let start = 1_000_000;
    let (bucket, existence) = (story.bucket, Existence::Any);
    let until = |at| Mutation::SetString {
        bucket,
        key: b"k",
        value: b"v".into(),
        expiry: SetExpiry::At(at),
        existence,
    };
    done(story.run(&until(start + 100)));
    story.world.clock.set(start + 200);
    done(story.run(&Mutation::ExpireDue { bucket, key: b"k" }));
    // The next leader's clock is behind; the stamps of the log are not.
    story.world.crash(true);
    story.world.clock.set(start);
    story.world.open().unwrap();
    assert!(story.row(b"k").is_none());
    done(story.run(&until(start + 150)));
    assert!(story.row(b"k").is_none(), "a time that has passed by the log's stamps has passed");
    done(story.run(&until(start + 250)));
    assert!(story.row(b"k").is_some());
}

fn forget(mount: u32, abandon: bool) -> Mutation<'static> {
    Mutation::MountForget { mount, abandon }
}

fn mount_at<'a>(prefix: &'a [u8], origin: &'a str) -> Mutation<'a> {
    Mutation::Mount {
        bucket: b"redis-0",
        prefix,
        origin,
        origin_prefix: "",
        mode: MountMode::WriteBack,
        flushall: false,
        revalidate: false,
    }
}

#[test]
fn a_mount_with_queued_rows_is_not_forgotten_without_abandoning_them() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    let version = story.set(b"k", b"1");
    assert_eq!(story.run(&forget(1, false)), Outcome::Refused(Refusal::MountBusy(1)));
    assert!(story.queued(b"k", version).is_some(), "nothing has changed");
    done(story.run(&Mutation::Flushed { bucket, key: b"k", version, origin_etag: Some("e"), mount: None }));
    done(story.run(&forget(1, false)));
    assert_eq!(story.run(&forget(1, false)), Outcome::Unmet);
    let later = story.set(b"k", b"2");
    assert_eq!(story.queued(b"k", later), None, "the key is local");
}

#[test]
fn a_mount_that_is_leaving_takes_no_rows_and_goes_with_its_last() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    let version = story.set(b"k", b"1");
    done(story.run(&forget(1, true)));
    story.world.crash(true);
    story.world.open().unwrap();
    let later = story.set(b"k", b"2");
    assert_eq!(story.queued(b"k", later), None);
    assert_eq!(
        story.run(&mount_at(b"", "s3://cloud/p")),
        Outcome::Refused(Refusal::Mounted("s3://cloud/p".into()))
    );
    assert_eq!(story.run(&forget(1, false)), Outcome::Refused(Refusal::MountBusy(1)));
    // An upload that was under way may still tell of its end.
    done(story.run(&Mutation::Flushed {
        bucket,
        key: b"k",
        version,
        origin_etag: Some("e"),
        mount: Some(1),
    }));
    assert_eq!(story.origin(b"k").origin, None);
    done(story.run(&forget(1, false)));
    assert_eq!(story.run(&mount_at(b"", "s3://other")), Outcome::Mount(2));
}

#[test]
fn what_was_learnt_of_a_forgotten_origin_says_nothing_of_the_next() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    for key in [&b"kept"[..], b"deleted"] {
        let version = story.set(key, b"1");
        done(story.run(&Mutation::Flushed { bucket, key, version, origin_etag: Some("old"), mount: None }));
    }
    done(story.run(&forget(1, false)));
    assert_eq!(story.run(&mount_at(b"", "s3://other")), Outcome::Mount(2));
    // Also what was given up while an attempt may still have been under way.
    let version = story.set(b"tried", b"1");
    done(story.run(&Mutation::FlushStarted { bucket, key: b"tried", version, deadline_ms: 5 }));
    done(story.run(&Mutation::FlushAbandon { bucket, key: b"tried", version }));
    done(story.run(&Mutation::MarkDirty { bucket, key: b"tried" }));
    assert!(story.queued(b"tried", version).unwrap().overwrite);
    // Everything is dirty anew; a delete of what the new origin never had needs no request.
    done(story.run(&Mutation::MarkDirty { bucket, key: b"kept" }));
    let row = story.row(b"kept").unwrap();
    let queued = story.queued(b"kept", row.content_version()).unwrap();
    assert_eq!((queued.mount, queued.overwrite), (2, false));
    done(story.run(&Mutation::MountAttached { mount: 2, existing: false }));
    let gone = done(story.run(&Mutation::Delete { bucket, key: b"deleted" }));
    assert_eq!(story.queued(b"deleted", gone), None);
    let version = row.content_version();
    done(story.run(&Mutation::Flushed {
        bucket,
        key: b"kept",
        version,
        origin_etag: Some("new"),
        mount: None,
    }));
    assert_eq!(story.origin(b"kept").mount, Some(2));
    assert_eq!(story.run(&Mutation::MarkDirty { bucket, key: b"kept" }), Outcome::Unmet);
}

#[test]
fn a_mount_above_a_forgotten_one_looks_at_what_it_uncovers() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    done(story.run(&Mutation::MountAttached { mount: 1, existing: false }));
    assert_eq!(story.run(&mount_at(b"sub/", "s3://other")), Outcome::Mount(2));
    let version = story.set(b"sub/k", b"1");
    done(story.run(&Mutation::Flushed {
        bucket,
        key: b"sub/k",
        version,
        origin_etag: Some("e"),
        mount: None,
    }));
    done(story.run(&forget(2, false)));
    let row = story.raw(RowKey::encoded(&numbered_key(Table::Mount, 1))).unwrap();
    assert!(MountRow::decode(&row).unwrap().uncovered);
    done(story.run(&Mutation::MarkDirty { bucket, key: b"sub/k" }));
    assert!(story.queued(b"sub/k", version).unwrap().overwrite, "the origin above may hold an older one");
    done(story.run(&Mutation::MountAttached { mount: 1, existing: false }));
    let row = story.raw(RowKey::encoded(&numbered_key(Table::Mount, 1))).unwrap();
    assert!(!MountRow::decode(&row).unwrap().uncovered);
}

#[test]
fn a_late_end_of_a_forgotten_mounts_upload_says_nothing_of_the_mount_above() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    done(story.run(&Mutation::MountAttached { mount: 1, existing: false }));
    assert_eq!(story.run(&mount_at(b"sub/", "s3://other")), Outcome::Mount(2));
    let version = story.set(b"sub/k", b"1");
    done(story.run(&Mutation::FlushStarted { bucket, key: b"sub/k", version, deadline_ms: 5 }));
    done(story.run(&forget(2, true)));
    done(story.run(&Mutation::FlushAbandon { bucket, key: b"sub/k", version }));
    done(story.run(&forget(2, false)));
    let late = Mutation::Flushed { bucket, key: b"sub/k", version, origin_etag: Some("e"), mount: Some(2) };
    assert_eq!(story.run(&late), Outcome::Unmet);
    assert_eq!(story.origin(b"sub/k").origin, None, "the origin above has never seen it");
    // So the next start queues it there; and that row, too, is not the other origin's to take away.
    done(story.run(&Mutation::MarkDirty { bucket, key: b"sub/k" }));
    assert_eq!(story.run(&late), Outcome::Unmet);
    assert_eq!(story.queued(b"sub/k", version).unwrap().mount, 1);
    done(story.run(&Mutation::Flushed {
        bucket,
        key: b"sub/k",
        version,
        origin_etag: Some("e"),
        mount: Some(1),
    }));
    assert_eq!(story.origin(b"sub/k").origin, Some((version, "e".to_owned())));
}

#[test]
fn deletes_and_empty_bodies_are_charged_against_the_dirty_limit() {
    let charged = |story: &Story| {
        let status = &story.world.node.as_ref().unwrap().status;
        status.dirty_charged.load(std::sync::atomic::Ordering::Relaxed)
    };
    let mut story = Story::mounted();
    let bucket = story.bucket;
    let version = story.set(b"key", b"");
    assert_eq!(charged(&story), 256 + 3);
    done(story.run(&Mutation::Flushed { bucket, key: b"key", version, origin_etag: Some("e"), mount: None }));
    assert_eq!(charged(&story), 0);
    done(story.run(&Mutation::Delete { bucket, key: b"key" }));
    assert_eq!(charged(&story), 256 + 3);
    story.world.checkpoint().unwrap();
    story.world.crash(true);
    story.world.open().unwrap();
    story.set(b"other", b"12345");
    assert_eq!(charged(&story), 256 + 3 + 256 + 5 + 5, "counted again from the rows after a start");
}
