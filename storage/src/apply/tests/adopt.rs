//! Mounts over existing data, as stories and by seed: what a look-up may say, and when it comes too late.

use super::*;
use crate::keyspace::tables::{ImportRow, deletes_key};
use crate::mutation::{AdoptedHead, BLOCK_BYTES, ImportState, PartNames, Payload};
use crate::slot::slot_of;

const FAR: u64 = 1 << 40;

fn head(len: u64, etag: &str) -> AdoptedHead<'_> {
    AdoptedHead { len, modified_ms: 77, origin_etag: etag, etag, meta: &[] }
}

impl Story {
    /// A mounted story whose origin held data when it was attached.
    fn existing() -> Story {
        let mut story = Story::mounted();
        done(story.run(&Mutation::MountAttached { mount: 1, existing: true }));
        story
    }

    fn visible(&self) -> Version {
        self.world.node.as_ref().unwrap().keyspace.visible()
    }

    fn adopt_at(
        &mut self,
        key: &[u8],
        read_at: Version,
        replaces: Option<Version>,
        head: AdoptedHead<'_>,
    ) -> Outcome {
        let bucket = self.bucket;
        self.run(&Mutation::Adopt { bucket, key, mount: 1, read_at, replaces, head })
    }

    fn adopt(&mut self, key: &[u8], etag: &str) -> Version {
        let read_at = self.visible();
        done(self.adopt_at(key, read_at, None, head(10, etag)))
    }

    fn vanish(&mut self, key: &[u8], version: Version) -> Outcome {
        let (bucket, read_at) = (self.bucket, self.visible());
        self.run(&Mutation::Vanish { bucket, key, mount: 1, version, read_at })
    }

    fn delete(&mut self, key: &[u8]) -> Outcome {
        let bucket = self.bucket;
        self.run(&Mutation::Delete { bucket, key })
    }

    fn flush(&mut self, key: &[u8], version: Version, origin_etag: Option<&str>) {
        let bucket = self.bucket;
        done(self.run(&Mutation::Flushed { bucket, key, version, mount: None, origin_etag }));
    }

    fn mount_row(&self) -> Option<MountRow> {
        let row = self.raw(RowKey::encoded(&numbered_key(Table::Mount, 1)))?;
        Some(MountRow::decode(&row).unwrap())
    }

    fn set_mode(&mut self, mode: MountMode) -> Outcome {
        self.run(&Mutation::Mount {
            bucket: b"redis-0",
            prefix: b"",
            origin: "s3://cloud/p",
            origin_prefix: "p/",
            mode,
            flushall: true,
            revalidate: false,
        })
    }

    /// Blobs of the object, and how many of them are marked clean, and how many have bytes here.
    fn blob_marks(&self, key: &[u8]) -> (usize, usize, usize) {
        let raw = self.raw(RowKey::object(Table::Object, self.bucket, key)).unwrap();
        let blobs = blobs_of(&RowReader::new(&raw).unwrap());
        let with = |table| {
            let there = |blob: &&BlobId| self.raw(RowKey::encoded(&blob_key(table, **blob))).is_some();
            blobs.iter().filter(there).count()
        };
        (blobs.len(), with(Table::Clean), with(Table::Blob))
    }
}

#[test]
fn an_adopted_object_is_one_whose_bytes_were_given_up() {
    let mut story = Story::existing();
    let len = 3 * BLOCK_BYTES + 5;
    let meta = ObjectMeta { content_type: Some("text/plain".to_owned()), ..ObjectMeta::default() };
    let encoded = encode_meta(&meta);
    let read_at = story.visible();
    let found = AdoptedHead { etag: "ours", meta: &encoded, ..head(len, "theirs") };
    let version = done(story.adopt_at(b"k", read_at, None, found));
    let row = story.row(b"k").unwrap();
    assert_eq!((row.version(), row.content_version(), row.body_len()), (version, version, len));
    assert_eq!((row.modified_ms(), row.meta()), (77, meta));
    assert_eq!(row.etag(ClusterId([0; 16])).to_string(), "ours");
    let pieces: Vec<u64> = row.parts().map(|part| part.len()).collect();
    let piece = BLOCK_BYTES;
    assert_eq!(pieces, [piece, piece, piece, 5]);
    assert_eq!(story.blob_marks(b"k"), (4, 4, 0));
    let origin = story.origin(b"k");
    assert_eq!((origin.origin, origin.mount), (Some((version, "theirs".to_owned())), Some(1)));
    assert_eq!((origin.rows, origin.pending, origin.adopted), (0, None, true));
    assert_eq!(story.queued(b"k", version), None);
    assert_eq!(story.objects(), 1);
    // Once more is once too often.
    assert_eq!(story.adopt_at(b"k", read_at, None, found), Outcome::Unmet);
}

#[test]
fn the_longest_object_has_no_more_pieces_than_a_row_takes_and_the_empty_one_none() {
    let mut story = Story::existing();
    let read_at = story.visible();
    done(story.adopt_at(b"long", read_at, None, head(5 << 40, "e")));
    let row = story.row(b"long").unwrap();
    assert_eq!((row.body_len(), row.parts().count()), (5 << 40, 65_536));
    let too_long = Outcome::Refused(Refusal::TooLarge(5 << 40));
    assert_eq!(story.adopt_at(b"longer", read_at, None, head((5 << 40) + 1, "e")), too_long);
    assert_eq!(story.adopt_at(b"longer", read_at, None, head(u64::MAX, "e")), too_long);
    done(story.adopt_at(b"empty", read_at, None, head(0, "e")));
    assert_eq!(story.row(b"empty").unwrap().inline_body(), Some(&b""[..]));
}

#[test]
fn pitfall_24_a_look_up_never_brings_back_what_was_deleted_while_it_asked() {
    let mut story = Story::existing();
    // It asks, the origin answers with the object, and the answer is slow.
    let read_at = story.visible();
    let deleted = done(story.delete(b"k"));
    assert_eq!(story.adopt_at(b"k", read_at, None, head(10, "e")), Outcome::Unmet, "a delete is queued");
    // The delete reaches the origin, and nothing of the key is left here but the mark.
    story.flush(b"k", deleted, None);
    assert_eq!(story.origin(b"k"), tables::OriginRow::default());
    assert_eq!(story.adopt_at(b"k", read_at, None, head(10, "e")), Outcome::Unmet, "a delete came between");
    story.world.checkpoint().unwrap();
    story.world.crash(true);
    story.world.open().unwrap();
    assert_eq!(story.adopt_at(b"k", read_at, None, head(10, "e")), Outcome::Unmet, "after a restart too");
    assert_eq!(story.row(b"k").map(|row| row.version()), None);
    // What is asked from now on may be believed: somebody has put it there again.
    story.adopt(b"k", "new");
}

#[test]
fn a_look_up_that_was_overtaken_by_a_write_or_an_absence_is_not_believed() {
    let mut story = Story::existing();
    let read_at = story.visible();
    let version = story.set(b"k", b"mine");
    assert_eq!(story.adopt_at(b"k", read_at, None, head(10, "old")), Outcome::Unmet);
    story.flush(b"k", version, Some("e"));
    assert_eq!(story.adopt_at(b"k", read_at, None, head(10, "old")), Outcome::Unmet);
    // Somebody deletes it there, and that is found out: the first answer is still older than that.
    let version = story.row(b"k").unwrap().version();
    done(story.vanish(b"k", version));
    assert!(story.row(b"k").is_none());
    assert_eq!(story.adopt_at(b"k", read_at, None, head(10, "old")), Outcome::Unmet);
    story.adopt(b"k", "newer");
}

#[test]
fn a_mark_of_a_delete_concerns_its_slot_and_mount_alone_and_goes_with_the_mount() {
    let mut story = Story::existing();
    let read_at = story.visible();
    let deleted = done(story.delete(b"{a}1"));
    story.flush(b"{a}1", deleted, None);
    assert_ne!(slot_of(b"{a}2"), slot_of(b"{b}2"));
    assert_eq!(story.adopt_at(b"{a}2", read_at, None, head(1, "e")), Outcome::Unmet, "the same slot");
    done(story.adopt_at(b"{b}2", read_at, None, head(1, "e")));
    let mark = deletes_key(1, slot_of(b"{a}1"));
    assert!(story.raw(RowKey::encoded(&mark)).is_some());
    let state = ImportState::Running;
    done(story.run(&Mutation::ImportNote { mount: 1, after: b"k", listed: 4, adopted: 3, state }));
    let import = numbered_key(Table::Import, 1);
    let noted = story.raw(RowKey::encoded(&import)).unwrap();
    let row = ImportRow { state, listed: 4, adopted: 3, after: Box::from(&b"k"[..]) };
    assert_eq!(ImportRow::decode(&noted), Some(row));
    done(story.run(&forget(1, false)));
    done(story.run(&forget(1, false)));
    assert_eq!(story.mount_row(), None);
    for row in [&mark[..], &import[..]] {
        assert!(story.raw(RowKey::encoded(row)).is_none());
    }
    let note = Mutation::ImportNote { mount: 1, after: b"", listed: 0, adopted: 0, state };
    assert_eq!(story.run(&note), Outcome::Unmet);
}

#[test]
fn what_an_attempt_may_still_send_is_not_overtaken_by_a_look_up() {
    let mut story = Story::existing();
    let bucket = story.bucket;
    story.world.clock.set(1_000_000);
    let version = done(story.delete(b"k"));
    let deadline_ms = 1_030_000;
    done(story.run(&Mutation::FlushStarted { bucket, key: b"k", version, deadline_ms }));
    done(story.run(&Mutation::FlushAbandon { bucket, key: b"k", version }));
    let read_at = story.visible();
    assert_eq!(story.adopt_at(b"k", read_at, None, head(1, "e")), Outcome::Unmet);
    // A delete that was given up leaves the object where it is, and long after its deadline it can be seen again.
    story.world.clock.set(deadline_ms + 10 * 60 * 1000);
    story.adopt(b"k", "e");
    assert_eq!(story.origin(b"k").started, None);
}

#[test]
fn another_mounts_look_ups_and_those_of_a_leaving_one_are_not_believed() {
    let mut story = Story::existing();
    assert_eq!(story.run(&mount_at(b"sub/", "s3://other")), Outcome::Mount(2));
    let read_at = story.visible();
    assert_eq!(story.adopt_at(b"sub/k", read_at, None, head(1, "e")), Outcome::Unmet);
    done(story.adopt_at(b"k", read_at, None, head(1, "e")));
    done(story.run(&forget(1, true)));
    assert!(story.mount_row().unwrap().leaving);
    assert_eq!(story.adopt_at(b"l", read_at, None, head(1, "e")), Outcome::Unmet);
}

#[test]
fn a_revalidated_object_takes_the_place_of_what_the_origin_held() {
    let mut story = Story::existing();
    let bucket = story.bucket;
    let first = story.adopt(b"k", "one");
    let raw = story.raw(RowKey::object(Table::Object, bucket, b"k")).unwrap();
    let blob = blobs_of(&RowReader::new(&raw).unwrap())[0];
    let condition = ExpireIf::default();
    let expired = done(story.run(&Mutation::Expire { bucket, key: b"k", at_ms: FAR, condition }));
    let origin = story.origin(b"k");
    assert_eq!(origin.origin, Some((first, "one".to_owned())), "EXPIRE changes no content");
    assert_eq!(story.row(b"k").unwrap().content_version(), first);
    let read_at = story.visible();
    assert_eq!(story.adopt_at(b"k", read_at, Some(first), head(5, "two")), Outcome::Unmet);
    let second = done(story.adopt_at(b"k", read_at, Some(expired), head(5, "two")));
    let row = story.row(b"k").unwrap();
    assert_eq!((row.version(), row.body_len(), row.expires_at_ms()), (second, 5, None));
    assert_eq!(story.origin(b"k").origin, Some((second, "two".to_owned())));
    assert!(story.raw(RowKey::encoded(&blob_key(Table::Clean, blob))).is_none());
    assert_eq!(story.objects(), 1);
    // Nothing is revalidated over a change that waits.
    let read_at = story.visible();
    let third = story.set(b"k", b"mine");
    for replaces in [second, third] {
        assert_eq!(story.adopt_at(b"k", read_at, Some(replaces), head(5, "x")), Outcome::Unmet);
        assert_eq!(story.vanish(b"k", replaces), Outcome::Unmet);
    }
    story.flush(b"k", third, Some("three"));
    done(story.vanish(b"k", third));
    assert_eq!((story.objects(), story.origin(b"k")), (0, tables::OriginRow::default()));
}

#[test]
fn writes_to_keys_that_nobody_knows_are_blind_and_what_follows_them_too() {
    let mut story = Story::existing();
    let (bucket, expiry) = (story.bucket, SetExpiry::Clear);
    let blind = |story: &Story, key: &[u8], version| {
        let row = story.queued(key, version).unwrap();
        assert!(!row.blind || row.overwrite, "a blind row may overwrite something");
        row.blind
    };
    let first = story.set(b"k", b"1");
    assert!(blind(&story, b"k", first));
    story.run(&Mutation::Append { bucket, key: b"k", value: b"2".into() });
    let appended = story.origin(b"k").pending.unwrap();
    assert!(blind(&story, b"k", appended), "it stands for the SET too");
    // Conditional writes were judged by what a look-up said.
    let existence = Existence::Absent;
    let nx = Mutation::SetString { bucket, key: b"nx", value: b"1".into(), expiry, existence };
    let version = done(story.run(&nx));
    assert!(!blind(&story, b"nx", version) && !story.queued(b"nx", version).unwrap().overwrite);
    let put = story.put(b"put", b"1", PutIf { if_match: None, if_none_match: Some("*") });
    assert!(!blind(&story, b"put", done(put)));
    let plain = done(story.put(b"plain", b"1", PutIf::default()));
    assert!(blind(&story, b"plain", plain));
    // What is known is not blind.
    story.adopt(b"known", "e");
    let version = story.set(b"known", b"1");
    assert!(!blind(&story, b"known", version));
    story.flush(b"k", appended, Some("e"));
    let version = story.set(b"k", b"3");
    assert!(!blind(&story, b"k", version));
    // Rows for what lay here before the mount are not blind either.
    let mut story = Story::new();
    let before = story.set(b"before", b"1");
    assert_eq!(story.run(&mount_at(b"", "s3://cloud")), Outcome::Mount(1));
    done(story.run(&Mutation::MountAttached { mount: 1, existing: true }));
    done(story.run(&Mutation::MarkDirty { bucket, key: b"before" }));
    assert!(!story.queued(b"before", before).unwrap().blind);
}

#[test]
fn a_mount_that_was_found_empty_has_no_blind_rows_and_one_not_reached_yet_has() {
    let mut story = Story::mounted();
    let version = story.set(b"k", b"1");
    assert!(!story.queued(b"k", version).unwrap().blind);
    assert_eq!(story.delete(b"none"), Outcome::Unmet);
    let mut story = Story::new();
    assert_eq!(story.run(&mount_at(b"", "s3://cloud")), Outcome::Mount(1));
    let version = story.set(b"k", b"1");
    assert!(story.queued(b"k", version).unwrap().blind);
}

#[test]
fn a_delete_of_what_is_not_here_is_queued_once_and_a_cancelled_upload_still_deletes() {
    let mut story = Story::existing();
    let deleted = done(story.delete(b"k"));
    let row = story.queued(b"k", deleted).unwrap();
    assert_eq!((row.delete, row.blind, row.overwrite), (true, true, true));
    assert_eq!(story.delete(b"k"), Outcome::Unmet);
    story.flush(b"k", deleted, None);
    assert!(story.queued(b"k", deleted).is_none());
    let again = done(story.delete(b"k"));
    assert!(story.queued(b"k", again).is_some(), "somebody may have put it there again");
    // A SET that waited may have hidden something of the origin's.
    story.set(b"s", b"1");
    let deleted = done(story.delete(b"s"));
    let row = story.queued(b"s", deleted).unwrap();
    assert!(row.delete && row.blind);
    // A key that is too long for the origin is not there.
    assert_eq!(story.delete(&[b'k'; 1023]), Outcome::Unmet);
}

#[test]
fn a_lock_that_never_left_is_cancelled_by_its_expiry() {
    let mut story = Story::existing();
    story.world.clock.set(1_001_000);
    let (bucket, existence) = (story.bucket, Existence::Absent);
    let expiry = SetExpiry::At(1_002_000);
    let lock = Mutation::SetString { bucket, key: b"lock", value: b"1".into(), expiry, existence };
    let version = done(story.run(&lock));
    story.world.clock.set(1_003_000);
    done(story.run(&Mutation::ExpireDue { bucket, key: b"lock" }));
    assert_eq!(story.queued(b"lock", version), None);
    assert_eq!(story.origin(b"lock"), tables::OriginRow::default());
    // One that overwrote without asking leaves nothing either.
    let existence = Existence::Any;
    let (key, expiry) = (&b"set"[..], SetExpiry::At(1_004_000));
    done(story.run(&Mutation::SetString { bucket, key, value: b"1".into(), expiry, existence }));
    story.world.clock.set(1_005_000);
    let expired = done(story.run(&Mutation::ExpireDue { bucket, key }));
    assert!(story.queued(key, expired).is_some_and(|row| row.delete && row.blind));
}

#[test]
fn an_adopted_object_that_expires_is_deleted_in_the_origin() {
    let mut story = Story::existing();
    story.world.clock.set(1_001_000);
    let (bucket, condition) = (story.bucket, ExpireIf::default());
    let adopted = story.adopt(b"k", "e");
    done(story.run(&Mutation::Expire { bucket, key: b"k", at_ms: 1_002_000, condition }));
    assert_eq!(story.origin(b"k").pending, None, "nothing to upload");
    story.world.clock.set(1_003_000);
    let expired = done(story.run(&Mutation::ExpireDue { bucket, key: b"k" }));
    let row = story.queued(b"k", expired).unwrap();
    assert_eq!((row.delete, row.blind), (true, false));
    assert_eq!(story.origin(b"k").origin, Some((adopted, "e".to_owned())), "a condition for the delete");
}

#[test]
fn a_read_only_mount_refuses_every_change_by_name_and_takes_look_ups() {
    let mut story = Story::existing();
    let (bucket, other) = (story.bucket, b"local/k");
    let version = story.set(b"old", b"1");
    assert_eq!(story.set_mode(MountMode::ReadOnly), Outcome::Mount(1));
    let mut local = mount_at(b"local/", "");
    if let Mutation::Mount { mode, .. } = &mut local {
        *mode = MountMode::Local;
    }
    assert_eq!(story.run(&local), Outcome::Mount(2));
    story.adopt(b"k", "e");
    let adopted = story.row(b"k").unwrap();
    story.set(other, b"1");
    let (key, value, existence) = (&b"k"[..], Payload::Inline(b"1"), Existence::Any);
    let (expiry, condition) = (SetExpiry::Clear, PutIf::default);
    let (meta, md5) = (&b""[..], None);
    let changes = [
        set(bucket, key, b"2"),
        Mutation::SetString { bucket, key: b"new", value, expiry, existence },
        Mutation::Append { bucket, key, value },
        Mutation::SetRange { bucket, key, offset: 0, value },
        Mutation::IncrBy { bucket, key, delta: 1 },
        Mutation::IncrByFloat { bucket, key, delta: b"1" },
        Mutation::Delete { bucket, key },
        Mutation::Delete { bucket, key: b"none" },
        Mutation::Expire { bucket, key, at_ms: FAR, condition: ExpireIf::default() },
        Mutation::Persist { bucket, key },
        Mutation::Rename { bucket, from: key, to: other, if_absent: false },
        Mutation::Rename { bucket, from: other, to: key, if_absent: false },
        Mutation::Copy { from_bucket: bucket, from: other, to_bucket: bucket, to: key, replace: true },
        Mutation::PutObject { bucket, key, value, meta, md5, condition: condition() },
        Mutation::CopyObject {
            from_bucket: bucket,
            from: other,
            source: story.row(other).unwrap().version(),
            to_bucket: bucket,
            to: key,
            meta: None,
            condition: condition(),
        },
        Mutation::CreateUpload { bucket, key, meta, options: b"" },
        Mutation::FlushBucket { bucket },
    ];
    let refused = Outcome::Refused(Refusal::ReadOnly("/redis-0".to_owned()));
    for change in &changes {
        assert_eq!(story.run(change), refused, "{change:?}");
    }
    assert_eq!(story.run(&Mutation::MarkDirty { bucket, key }), Outcome::Unmet);
    assert_eq!(story.row(b"k").unwrap().version(), adopted.version());
    // What was queued before waits, and is not lost.
    assert!(story.queued(b"old", version).is_some());
    // Written again, it is attached anew: what it can was not tried, and what lies here was not queued.
    assert_eq!(story.set_mode(MountMode::WriteBack), Outcome::Mount(1));
    let row = story.mount_row().unwrap();
    assert_eq!((row.attached, row.existing, row.read_only), (false, true, false));
    done(story.run(&set(bucket, key, b"2")));
}

#[test]
fn an_upload_from_before_is_not_completed_in_a_read_only_mount() {
    let mut story = Story::existing();
    let bucket = story.bucket;
    let create = Mutation::CreateUpload { bucket, key: b"k", meta: b"", options: b"" };
    let upload = done(story.run(&create));
    let value = Payload::Inline(b"part");
    let (number, meta, md5) = (1, &b""[..], Some([1; 16]));
    done(story.run(&Mutation::PutPart { bucket, key: b"k", upload, number, value, meta, md5 }));
    story.set_mode(MountMode::ReadOnly);
    let mut names = Vec::new();
    PartNames::encode_part(1, &hex::encode([1; 16]), &mut names);
    let parts = PartNames::of(&names);
    let (etag, checksum, condition) = (None, &b""[..], PutIf::default());
    let complete = Mutation::CompleteUpload { bucket, key: b"k", upload, parts, etag, checksum, condition };
    assert_eq!(story.run(&complete), Outcome::Refused(Refusal::ReadOnly("/redis-0".to_owned())));
    done(story.run(&Mutation::AbortUpload { bucket, key: b"k", upload }));
}

#[test]
fn pitfall_26_what_was_there_before_is_never_emptied_whatever_the_config_says() {
    let mut story = Story::existing();
    let bucket = story.bucket;
    assert_eq!(story.set_mode(MountMode::WriteBack), Outcome::Mount(1), "with flushall = true");
    story.adopt(b"k", "e");
    let refused = Outcome::Refused(Refusal::Existing("/redis-0".to_owned()));
    assert_eq!(story.run(&Mutation::FlushBucket { bucket }), refused);
    assert!(story.row(b"k").is_some());
    // A mount that was found empty becomes such a one with the first object of somebody else.
    let mut story = Story::mounted();
    story.set_mode(MountMode::WriteBack);
    done(story.run(&Mutation::FlushBucket { bucket }));
    story.adopt(b"k", "e");
    assert_eq!(story.run(&Mutation::FlushBucket { bucket }), refused);
    // So does one over an origin that others change at any time: what is not known here is not emptied either.
    let mut story = Story::mounted();
    let (origin, origin_prefix, mode) = ("s3://cloud/p", "p/", MountMode::WriteBack);
    let (flushall, revalidate) = (true, true);
    let (bucket_name, prefix) = (&b"redis-0"[..], &b""[..]);
    story.run(&Mutation::Mount {
        bucket: bucket_name,
        prefix,
        origin,
        origin_prefix,
        mode,
        flushall,
        revalidate,
    });
    done(story.run(&Mutation::FlushBucket { bucket }));
    story.adopt(b"k", "e");
    assert_eq!(story.run(&Mutation::FlushBucket { bucket }), refused);
    assert!(story.row(b"k").is_some());
}

#[test]
fn a_mount_keeps_its_origin_while_anything_is_known_of_it_and_changes_its_mode_at_will() {
    let mut story = Story::existing();
    for mode in [MountMode::WriteThrough, MountMode::ReadOnly, MountMode::WriteThrough, MountMode::WriteBack]
    {
        assert_eq!(story.set_mode(mode), Outcome::Mount(1));
        assert_eq!(story.mount_row().unwrap().mode(), mode);
        assert!(story.mount_row().unwrap().existing);
    }
    let elsewhere = story.run(&mount_at(b"", "s3://other"));
    assert_eq!(elsewhere, Outcome::Refused(Refusal::Mounted("s3://cloud/p".to_owned())));
    assert!(!story.mount_row().unwrap().attached, "not even while it is to be attached anew");
}

#[test]
fn a_mount_over_existing_data_leaves_in_two_steps_and_lets_what_it_adopted_go_between() {
    let mut story = Story::existing();
    story.adopt(b"k", "e");
    let own = story.set(b"own", b"1");
    story.flush(b"own", own, Some("o"));
    done(story.run(&forget(1, false)));
    let adopted = story.row(b"k").unwrap().version();
    assert_eq!(story.vanish(b"own", own), Outcome::Unmet, "what was written here stays");
    done(story.vanish(b"k", adopted));
    done(story.run(&forget(1, false)));
    assert_eq!(story.mount_row(), None);
    assert_eq!((story.row(b"k").is_some(), story.row(b"own").is_some()), (false, true));
}

/// Aim: whatever order look-ups, writes, flushes and restarts come in, what is known here of a key agrees with the
/// origin as long as nobody else has touched it. Method: an origin of a map, answers that are kept for a while before
/// they are proposed, and a count of foreign changes for each key by which the comparison knows what it may expect.
#[test]
fn late_answers_of_look_ups_never_contradict_the_origin() {
    for seed in 0..60 {
        if let Err(complaint) = Answers::play(seed) {
            panic!("seed {seed}: {complaint}");
        }
    }
}

const KEYS: [&[u8]; 4] = [b"{s}a", b"{s}b", b"c", b"d"];

/// An answer of the origin on its way.
struct Answer {
    key: usize,
    read_at: Version,
    replaces: Option<Version>,
    found: Option<String>,
    foreign: u64,
}

struct Answers {
    story: Story,
    random: fastrand::Rng,
    origin: [Option<String>; 4],
    /// How often somebody else has changed it.
    foreign: [u64; 4],
    /// That count when what is known here was learnt; `None`: nothing is known.
    known_at: [Option<u64>; 4],
    /// A flush that has reached the origin and not the log: version, ETag, and the foreign count then.
    landed: [Option<(Version, Option<String>, u64)>; 4],
    answers: Vec<Answer>,
    etags: u64,
}

impl Answers {
    fn play(seed: u64) -> Result<(), String> {
        let mut random = fastrand::Rng::with_seed(seed);
        let origin = std::array::from_fn(|n| random.bool().then(|| format!("theirs-{n}")));
        let story = Story::existing();
        let (foreign, known_at) = ([0; 4], [None; 4]);
        let landed = std::array::from_fn(|_| None);
        let mut world =
            Answers { story, random, origin, foreign, known_at, landed, answers: Vec::new(), etags: 0 };
        for _ in 0..200 {
            let what = world.step();
            world.check().map_err(|complaint| format!("after {what}: {complaint}"))?;
        }
        let before = world.story.world.digest();
        world.story.world.crash(true);
        world.story.world.replay()?;
        match world.story.world.digest() == before {
            true => Ok(()),
            false => Err("a replay came to something else".to_owned()),
        }
    }

    fn step(&mut self) -> String {
        let n = self.random.usize(..KEYS.len());
        let key = KEYS[n];
        match self.random.u8(0..20) {
            0..3 => {
                self.story.set(key, b"value");
                format!("SET {n}")
            }
            3..6 => format!("DEL {n}: {:?}", self.story.delete(key)),
            6..10 => format!("flush {n}: {}", self.flush(n)),
            10..14 => {
                let row = self.story.row(key);
                let known = self.story.origin(key);
                let content = known.origin.as_ref().map(|(version, _)| *version);
                // What waits is not asked about; a key that is not here always is.
                if row.as_ref().is_some_and(|row| known.rows > 0 || content != Some(row.content_version())) {
                    return "nothing".to_owned();
                }
                let replaces = row.map(|row| row.version());
                let (found, foreign) = (self.origin[n].clone(), self.foreign[n]);
                let read_at = self.story.visible();
                self.answers.push(Answer { key: n, read_at, replaces, found, foreign });
                format!("look-up of {n}")
            }
            14..18 if !self.answers.is_empty() => {
                let at = self.random.usize(..self.answers.len());
                let answer = self.answers.remove(at);
                self.end(answer)
            }
            18 => {
                self.etags += 1;
                self.origin[n] = self.random.bool().then(|| format!("theirs-{}", self.etags));
                self.foreign[n] += 1;
                format!("somebody else changes {n}")
            }
            19 if self.random.u8(0..4) == 0 => {
                self.story.world.checkpoint().unwrap();
                self.story.world.crash(true);
                self.story.world.open().unwrap();
                "a restart".to_owned()
            }
            _ => "nothing".to_owned(),
        }
    }

    /// What the worker does for the oldest change of a key: one step of two.
    fn flush(&mut self, n: usize) -> String {
        let (bucket, key) = (self.story.bucket, KEYS[n]);
        if let Some((version, etag, foreign)) = self.landed[n].take() {
            let outcome = self.story.run(&Mutation::Flushed {
                bucket,
                key,
                version,
                mount: None,
                origin_etag: etag.as_deref(),
            });
            self.known_at[n] = Some(foreign);
            return format!("recorded {version} ({outcome:?})");
        }
        let known = self.story.origin(key);
        let Some(version) = known.pending else { return "nothing".to_owned() };
        let row = self.story.queued(key, version).unwrap();
        let expected = known.origin.map(|(_, etag)| etag);
        if !row.blind && self.origin[n] != expected {
            // A conflict, which an operator decides for the origin.
            self.story.run(&Mutation::FlushAbandon { bucket, key, version });
            self.known_at[n] = None;
            return format!("conflict of {version}");
        }
        let deadline_ms = 1;
        done(self.story.run(&Mutation::FlushStarted { bucket, key, version, deadline_ms }));
        self.origin[n] = (!row.delete).then(|| format!("ours-{}", version.0));
        self.landed[n] = Some((version, self.origin[n].clone(), self.foreign[n]));
        format!("landed {version}")
    }

    fn end(&mut self, answer: Answer) -> String {
        let Answer { key: n, read_at, replaces, found, foreign } = answer;
        let outcome = match (&found, replaces) {
            (Some(etag), replaces) => self.story.adopt_at(KEYS[n], read_at, replaces, head(10, etag)),
            (None, Some(version)) => {
                let (bucket, key, mount) = (self.story.bucket, KEYS[n], 1);
                self.story.run(&Mutation::Vanish { bucket, key, mount, version, read_at })
            }
            (None, None) => return format!("{n} is not there"),
        };
        if let Outcome::Done(_) = outcome {
            self.known_at[n] = Some(foreign);
        }
        format!("answer {found:?} of {n} at {read_at}: {outcome:?}")
    }

    fn check(&self) -> Result<(), String> {
        let mut live = 0;
        for (n, key) in KEYS.into_iter().enumerate() {
            let (row, known) = (self.story.row(key), self.story.origin(key));
            live += u64::from(row.is_some());
            let clean = |row: &ObjectRow| match row.inline_body() {
                None => self.story.blob_marks(key).1 > 0,
                Some(_) => false,
            };
            let content = known.origin.as_ref().map(|(version, _)| *version);
            if let Some(row) = row.as_ref().filter(|row| clean(row))
                && content != Some(row.content_version())
            {
                return Err(format!("the bytes of {n} may be dropped, and its origin holds {content:?}"));
            }
            if known.rows > 0 || self.landed[n].is_some() || self.known_at[n] != Some(self.foreign[n]) {
                continue;
            }
            let (here, there) = (known.origin.map(|(_, etag)| etag), &self.origin[n]);
            if here != *there || row.is_some() != there.is_some() {
                return Err(format!("{n} is {here:?} here (row {}) and {there:?} there", row.is_some()));
            }
        }
        match self.story.objects() == live {
            true => Ok(()),
            false => Err(format!("{} objects are counted, {live} are there", self.story.objects())),
        }
    }
}
