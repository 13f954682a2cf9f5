//! Multipart uploads, copies, and staged bodies as stories.

use super::*;
use crate::keyspace::tables::part_key;
use crate::mutation::{PART_BYTES_MIN, PartNames, Payload, StagedPart, StagedParts};
use crate::object::PartRun;

const LARGE: u64 = PART_BYTES_MIN;

fn staged(blob: BlobId, len: u64) -> Vec<u8> {
    let mut encoded = Vec::new();
    StagedParts::encode_part(StagedPart { blob, len }, &mut encoded);
    encoded
}

impl Story {
    fn upload(&mut self, key: &[u8]) -> Version {
        let meta = ObjectMeta { content_type: Some("text/x".to_owned()), ..ObjectMeta::default() };
        let (bucket, meta) = (self.bucket, encode_meta(&meta));
        done(self.run(&Mutation::CreateUpload { bucket, key, meta: &meta, options: b"o" }))
    }

    fn part(&mut self, key: &[u8], upload: Version, number: u16, body: &[u8]) -> String {
        self.put_part(key, upload, number, body.into())
    }

    /// A part whose bytes are taken to lie in a segment.
    fn large_part(&mut self, key: &[u8], upload: Version, number: u16) -> String {
        let boot = self.boot();
        let encoded = staged(BlobId::staged(1, boot, u64::from(number)), LARGE);
        self.put_part(key, upload, number, Payload::Staged(StagedParts::of(&encoded)))
    }

    fn put_part(&mut self, key: &[u8], upload: Version, number: u16, value: Payload<'_>) -> String {
        let (bucket, md5) = (self.bucket, Some([number as u8; 16]));
        done(self.run(&Mutation::PutPart { bucket, key, upload, number, value, meta: &[], md5 }));
        ETag::Md5([number as u8; 16]).to_string()
    }

    fn boot(&mut self) -> u64 {
        match self.run(&Mutation::AbortBefore { node: 1 }) {
            Outcome::Boot(boot) => boot,
            other => panic!("{other:?}"),
        }
    }

    fn put_staged(&mut self, key: &[u8], blob: BlobId) -> Outcome {
        let encoded = staged(blob, LARGE);
        let value = Payload::Staged(StagedParts::of(&encoded));
        let (bucket, condition) = (self.bucket, PutIf::default());
        self.run(&Mutation::PutObject { bucket, key, value, meta: &[], md5: None, condition })
    }

    fn complete(
        &mut self,
        key: &[u8],
        upload: Version,
        parts: &[(u16, &str)],
        condition: PutIf<'_>,
    ) -> Outcome {
        let mut names = Vec::new();
        for (number, etag) in parts {
            PartNames::encode_part(*number, etag, &mut names);
        }
        let (bucket, parts, etag) = (self.bucket, PartNames::of(&names), Some("00ff-2"));
        self.run(&Mutation::CompleteUpload { bucket, key, upload, parts, etag, checksum: &[], condition })
    }

    fn references(&self, blob: BlobId) -> Option<u32> {
        let row = self.raw(RowKey::encoded(&blob_key(Table::Refs, blob)));
        row.map(|row| u32::from_le_bytes(*row.first_chunk().unwrap()))
    }

    fn blob_is_there(&self, blob: BlobId) -> bool {
        self.raw(RowKey::encoded(&blob_key(Table::Blob, blob))).is_some()
    }

    fn blobs(&self, key: &[u8]) -> Vec<BlobId> {
        let row = self.row(key).unwrap();
        let blob = |part| if let BodyPart::Extent { blob, .. } = part { Some(blob) } else { None };
        row.parts().filter_map(blob).collect()
    }
}

#[test]
fn parts_become_an_object_without_a_byte_moved() {
    let mut story = Story::new();
    let upload = story.upload(b"k");
    let first = story.large_part(b"k", upload, 2);
    story.part(b"k", upload, 5, &[b'x'; 600]);
    let last = story.part(b"k", upload, 7, b"end");
    assert!(story.row(b"k").is_none(), "an upload under way is no object");
    let outcome = story.complete(b"k", upload, &[(2, &first), (7, &last)], PutIf::default());
    let version = done(outcome);

    let row = story.row(b"k").unwrap();
    assert_eq!((row.version(), row.body_len()), (version, LARGE + 3));
    assert_eq!(row.etag(ClusterId([0; 16])).to_string(), "00ff-2");
    assert_eq!(row.meta().content_type.as_deref(), Some("text/x"));
    let runs = [PartRun { part_len: LARGE, count: 1 }, PartRun { part_len: 3, count: 1 }];
    assert_eq!(row.part_runs(), runs);
    let blobs = story.blobs(b"k");
    assert_eq!(blobs.len(), 1);
    assert_eq!(story.references(blobs[0]), None, "one row uses it");
    for number in [2, 5, 7] {
        assert!(story.raw(RowKey::encoded(&part_key(upload, number))).is_none());
    }
    assert_eq!(
        story.complete(b"k", upload, &[(2, &first)], PutIf::default()),
        Outcome::Refused(Refusal::NoSuchUpload)
    );
    story.run(&Mutation::Delete { bucket: story.bucket, key: b"k" });
    assert!(!story.blob_is_there(blobs[0]));
}

#[test]
fn what_makes_no_object_leaves_the_upload_as_it_was() {
    let mut story = Story::new();
    let upload = story.upload(b"k");
    let small = story.part(b"k", upload, 1, b"small");
    let other = story.part(b"k", upload, 2, b"other");
    let mut refused = |parts: &[(u16, &str)], condition| match story.complete(b"k", upload, parts, condition)
    {
        Outcome::Refused(refusal) => refusal,
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!(refused(&[(1, &small), (2, &other)], PutIf::default()), Refusal::PartTooSmall(1, 5));
    assert_eq!(refused(&[(1, &other)], PutIf::default()), Refusal::InvalidPart(1));
    assert_eq!(refused(&[(3, &other)], PutIf::default()), Refusal::InvalidPart(3));
    assert_eq!(refused(&[(2, &other), (2, &other)], PutIf::default()), Refusal::InvalidPart(2));
    assert_eq!(refused(&[], PutIf::default()), Refusal::InvalidPart(0));
    let if_match = PutIf { if_match: Some("*"), if_none_match: None };
    assert_eq!(refused(&[(2, &other)], if_match), Refusal::NoSuchKey);
    done(story.complete(b"k", upload, &[(2, &other)], PutIf::default()));
    assert_eq!(story.row(b"k").unwrap().inline_body().map(<[u8]>::len), None);
    assert_eq!(story.row(b"k").unwrap().body_len(), 5);
}

#[test]
fn an_upload_given_up_or_a_part_written_again_releases_its_blobs() {
    let mut story = Story::new();
    let upload = story.upload(b"k");
    story.part(b"k", upload, 1, &[1; 600]);
    let part = |story: &Story| {
        let row = story.raw(RowKey::encoded(&part_key(upload, 1))).unwrap();
        match ObjectRow::from_encoded(row).parts().next() {
            Some(BodyPart::Extent { blob, .. }) => blob,
            other => panic!("{other:?}"),
        }
    };
    let old = part(&story);
    story.part(b"k", upload, 1, &[2; 600]);
    assert!(!story.blob_is_there(old));
    let new = part(&story);
    assert!(story.blob_is_there(new));
    let bucket = story.bucket;
    assert_eq!(
        story.run(&Mutation::DeleteBucket { name: b"redis-0" }),
        Outcome::Refused(Refusal::BucketNotEmpty)
    );
    done(story.run(&Mutation::AbortUpload { bucket, key: b"k", upload }));
    assert!(!story.blob_is_there(new));
    assert_eq!(
        story.run(&Mutation::AbortUpload { bucket, key: b"k", upload }),
        Outcome::Refused(Refusal::NoSuchUpload)
    );
    done(story.run(&Mutation::DeleteBucket { name: b"redis-0" }));
}

#[test]
fn a_part_copied_twice_from_one_object_counts_its_blob_once_in_the_end() {
    let mut story = Story::new();
    let blob = BlobId::staged(1, story.boot(), 1);
    let source = done(story.put_staged(b"source", blob));
    let upload = story.upload(b"k");
    let (bucket, key) = (story.bucket, &b"k"[..]);
    let mut etags = Vec::new();
    for number in [1, 2] {
        let (from_bucket, from, len) = (bucket, &b"source"[..], u64::MAX);
        let copy =
            Mutation::CopyPart { bucket, key, upload, number, from_bucket, from, source, start: 0, len };
        let version = done(story.run(&copy));
        etags.push(ETag::derived(story.world.node.as_ref().unwrap().identity.cluster, version).to_string());
    }
    assert_eq!(story.references(blob), Some(3));
    done(story.complete(b"k", upload, &[(1, &etags[0]), (2, &etags[1])], PutIf::default()));
    assert_eq!(story.row(b"k").unwrap().body_len(), 2 * LARGE);
    assert_eq!(story.references(blob), Some(2));
    story.run(&Mutation::Delete { bucket, key: b"source" });
    story.run(&Mutation::Delete { bucket, key: b"k" });
    assert!(!story.blob_is_there(blob));
}

#[test]
fn a_copied_object_keeps_etag_and_metadata_unless_they_are_replaced() {
    let mut story = Story::new();
    let (bucket, md5) = (story.bucket, Some([9; 16]));
    let meta = encode_meta(&ObjectMeta { cache_control: Some("no".to_owned()), ..ObjectMeta::default() });
    let put = Mutation::PutObject {
        bucket,
        key: b"a",
        value: b"body".into(),
        meta: &meta,
        md5,
        condition: PutIf::default(),
    };
    let source = done(story.run(&put));
    let mut copy = |source, meta, condition| {
        let (from_bucket, from, to_bucket, to) = (bucket, &b"a"[..], bucket, &b"b"[..]);
        story.run(&Mutation::CopyObject { from_bucket, from, source, to_bucket, to, meta, condition })
    };
    assert_eq!(copy(Version::new(1, 0), None, PutIf::default()), Outcome::Unmet);
    let absent = PutIf { if_match: None, if_none_match: Some("*") };
    done(copy(source, None, absent.clone()));
    assert_eq!(copy(source, None, absent), Outcome::Refused(Refusal::PreconditionFailed));
    let row = story.row(b"b").unwrap();
    assert_eq!(row.etag(ClusterId([0; 16])), ETag::Md5([9; 16]));
    assert_eq!(row.meta().cache_control.as_deref(), Some("no"));
    let itself = Mutation::CopyObject {
        from_bucket: bucket,
        from: b"a",
        source,
        to_bucket: bucket,
        to: b"a",
        meta: Some(&[]),
        condition: PutIf::default(),
    };
    done(story.run(&itself));
    assert!(story.row(b"a").unwrap().meta().is_empty());
    assert_eq!(story.row(b"a").unwrap().inline_body(), Some(&b"body"[..]));
}

#[test]
fn pitfall_15_what_an_earlier_run_staged_is_refused_for_ever() {
    let mut story = Story::new();
    let aborted = Outcome::Refused(Refusal::Aborted);
    assert_eq!(story.put_staged(b"k", BlobId::staged(1, 99, 1)), aborted, "a run that never began");
    let boot = story.boot();
    done(story.put_staged(b"k", BlobId::staged(1, boot, 1)));
    let again = story.put_staged(b"k", BlobId::staged(1, boot, 1));
    assert_eq!(again, Outcome::Refused(Refusal::Malformed), "a body is taken over once");
    assert!(story.boot() > boot);
    assert_eq!(story.put_staged(b"k", BlobId::staged(1, boot, 2)), aborted);
    assert_eq!(story.row(b"k").unwrap().body_len(), LARGE, "what was committed stays");
}
