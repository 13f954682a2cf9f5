//! What the site may drop, as stories.

use super::*;

impl Story {
    fn is_clean(&self, key: &[u8]) -> bool {
        let row = self.row(key).unwrap();
        let clean = |part| match part {
            BodyPart::Extent { blob, .. } => {
                self.raw(RowKey::encoded(&blob_key(Table::Clean, blob))).is_some()
            }
            _ => false,
        };
        row.parts().any(clean)
    }

    fn flushed(&mut self, key: &[u8], version: Version) -> Outcome {
        let (bucket, origin_etag) = (self.bucket, Some("e"));
        self.run(&Mutation::Flushed { bucket, key, version, origin_etag, mount: Some(1) })
    }
}

#[test]
fn bytes_may_be_dropped_only_while_the_origin_holds_them_under_one_object() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    let version = story.set(b"k", &[1; 600]);
    assert!(!story.is_clean(b"k"), "dirty");
    done(story.flushed(b"k", version));
    assert!(story.is_clean(b"k"));

    let older = story.set(b"k", &[2; 600]);
    let newer = story.set(b"k", &[3; 600]);
    story.flushed(b"k", older);
    assert!(!story.is_clean(b"k"), "the origin holds an older version");
    done(story.flushed(b"k", newer));

    let not_held = Outcome::Refused(Refusal::NotHeld);
    let (copy, append) = (
        Mutation::Copy { from_bucket: bucket, from: b"k", to_bucket: bucket, to: b"c", replace: false },
        Mutation::Append { bucket, key: b"k", value: b"x".into() },
    );
    assert_eq!(story.run(&copy), not_held);
    assert_eq!(story.run(&append), not_held);
    assert_eq!(story.run(&Mutation::Rename { bucket, from: b"k", to: b"c", if_absent: false }), not_held);
    assert!(story.row(b"c").is_none());

    assert_eq!(story.run(&Mutation::Hold { bucket, key: b"k", version: Some(older) }), Outcome::Unmet);
    done(story.run(&Mutation::Hold { bucket, key: b"k", version: Some(newer) }));
    assert!(!story.is_clean(b"k"));
    done(story.run(&Mutation::Release { bucket, key: b"k", version: newer }));
    assert!(story.is_clean(b"k"));
    done(story.run(&Mutation::Hold { bucket, key: b"k", version: Some(newer) }));
    done(story.run(&copy));
    done(story.run(&Mutation::Release { bucket, key: b"k", version: newer }));
    assert!(!story.is_clean(b"k"), "the copy is not in the origin yet");

    assert_eq!(story.run(&append), Outcome::Length(601));
    assert_eq!(story.run(&Mutation::Release { bucket, key: b"k", version: newer }), Outcome::Unmet);
}

#[test]
fn an_expiry_time_changes_nothing_about_the_bytes() {
    let mut story = Story::mounted();
    let bucket = story.bucket;
    let version = story.set(b"k", &[1; 600]);
    let condition = ExpireIf::default();
    done(story.run(&Mutation::Expire { bucket, key: b"k", at_ms: u64::MAX, condition }));
    done(story.flushed(b"k", version));
    assert!(story.is_clean(b"k"));
    done(story.run(&Mutation::Persist { bucket, key: b"k" }));
    assert!(story.is_clean(b"k"));
    story.run(&Mutation::Delete { bucket, key: b"k" });
    let blob = BlobId { a: version.0, b: 0 };
    assert!(story.raw(RowKey::encoded(&blob_key(Table::Clean, blob))).is_none());
}
