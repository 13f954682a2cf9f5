//! The byte form of mutations: round trips, damage, nesting.

use proptest::prelude::*;

use super::codec::TAG_ATOMIC;
use super::*;

fn examples<'a>(key: &'a [u8], bytes: &'a [u8], text: &'a str, number: u64) -> Vec<Mutation<'a>> {
    let (bucket, version) = (BucketId(3), Version(number));
    let (existence, expiry) = (Existence::Absent, SetExpiry::At(number));
    let condition = || PutIf { if_match: Some(text), if_none_match: None };
    let (value, staged) = (Payload::Inline(bytes), Payload::Staged(StagedParts::of(bytes)));
    let plain = vec![
        Mutation::SetString { bucket, key, value, expiry, existence },
        Mutation::Append { bucket, key, value },
        Mutation::SetRange { bucket, key, offset: number, value },
        Mutation::IncrBy { bucket, key, delta: number as i64 },
        Mutation::IncrByFloat { bucket, key, delta: bytes },
        Mutation::Delete { bucket, key },
        Mutation::Expire {
            bucket,
            key,
            at_ms: number,
            condition: ExpireIf { gt: true, ..ExpireIf::default() },
        },
        Mutation::Persist { bucket, key },
        Mutation::Rename { bucket, from: key, to: key, if_absent: true },
        Mutation::Copy { from_bucket: bucket, from: key, to_bucket: bucket, to: key, replace: false },
        Mutation::PutObject { bucket, key, value, meta: bytes, md5: Some([7; 16]), condition: condition() },
        Mutation::PutObject { bucket, key, value: staged, meta: bytes, md5: None, condition: condition() },
        Mutation::SetString { bucket, key, value: staged, expiry: SetExpiry::Keep, existence },
        Mutation::Rewrite { bucket, key, version, value },
        Mutation::AbortBefore { node: 7 },
        Mutation::Hold { bucket, key, version: Some(version) },
        Mutation::Hold { bucket, key, version: None },
        Mutation::Release { bucket, key, version },
        Mutation::CopyObject {
            from_bucket: bucket,
            from: key,
            source: version,
            to_bucket: bucket,
            to: key,
            meta: Some(bytes),
            condition: condition(),
        },
        Mutation::CreateUpload { bucket, key, meta: bytes, options: bytes },
        Mutation::PutPart { bucket, key, upload: version, number: 7, value, meta: bytes, md5: None },
        Mutation::CopyPart {
            bucket,
            key,
            upload: version,
            number: 7,
            from_bucket: bucket,
            from: key,
            source: version,
            start: number,
            len: number,
        },
        Mutation::CompleteUpload {
            bucket,
            key,
            upload: version,
            parts: PartNames::of(bytes),
            etag: Some(text),
            checksum: bytes,
            condition: condition(),
        },
        Mutation::AbortUpload { bucket, key, upload: version },
        Mutation::CreateBucket { name: bytes },
        Mutation::DeleteBucket { name: bytes },
        Mutation::FlushBucket { bucket },
        Mutation::ExpireDue { bucket, key },
        Mutation::Sweep { bucket, key },
        Mutation::SweepDone { bucket, epoch: version },
        Mutation::Mount {
            bucket: bytes,
            prefix: key,
            origin: text,
            origin_prefix: text,
            mode: MountMode::Local,
            flushall: true,
            revalidate: true,
        },
        Mutation::MountAttached { mount: 9, existing: true },
        Mutation::Adopt {
            bucket,
            key,
            mount: 9,
            read_at: version,
            replaces: Some(version),
            head: AdoptedHead { len: number, modified_ms: 7, origin_etag: text, etag: text, meta: bytes },
        },
        Mutation::Vanish { bucket, key, mount: 9, version, read_at: version },
        Mutation::ImportNote {
            mount: 9,
            after: key,
            listed: 3,
            adopted: number,
            state: ImportState::Cancelled,
        },
        Mutation::MountForget { mount: 9, abandon: true },
        Mutation::MarkDirty { bucket, key },
        Mutation::FlushStarted { bucket, key, version, deadline_ms: number },
        Mutation::Flushed { bucket, key, version, origin_etag: Some(text), mount: Some(7) },
        Mutation::Flushed { bucket, key, version, origin_etag: None, mount: None },
        Mutation::FlushPark { bucket, key, version, reason: text },
        Mutation::Transfer {
            bucket,
            key,
            version,
            upload_id: text,
            step: TransferStep::Begun { part_bytes: number, crc32c: true },
        },
        Mutation::Transfer {
            bucket,
            key,
            version,
            upload_id: text,
            step: TransferStep::Sent { number: 7, etag: text, crc32c: Some(9) },
        },
        Mutation::Transfer { bucket, key, version, upload_id: text, step: TransferStep::Lost },
        Mutation::Transfer { bucket, key, version, upload_id: text, step: TransferStep::Forgotten },
        Mutation::Transfer {
            bucket,
            key,
            version,
            upload_id: "",
            step: TransferStep::Asked { from_ms: number, until_ms: number + 1 },
        },
        Mutation::Transfer { bucket, key, version, upload_id: "", step: TransferStep::Refused },
        Mutation::Transfer {
            bucket,
            key,
            version,
            upload_id: "",
            step: TransferStep::Looked { mount: 3, until_ms: number },
        },
        Mutation::TransferGone { version, mount: None },
        Mutation::TransferGone { version, mount: Some(7) },
        Mutation::FlushAbandon { bucket, key, version },
    ];
    let guards = vec![Guard::VersionIs { bucket, key, version: Some(version) }];
    let group = Mutation::Atomic { guards: Vec::new(), mutations: plain.clone() };
    let nested = Mutation::Atomic { guards, mutations: vec![group] };
    plain.into_iter().chain([nested]).collect()
}

proptest! {
    #[test]
    fn every_mutation_reads_back_and_damaged_it_never_panics(
        key in proptest::collection::vec(any::<u8>(), 0..40),
        value in proptest::collection::vec(any::<u8>(), 0..80),
        text in "[ -~]{0,20}",
        number in any::<u64>(),
        at in any::<proptest::sample::Index>(),
        flip in 1..=255u8,
    ) {
        for mutation in examples(&key, &value, &text, number) {
            let mut bytes = Vec::new();
            mutation.encode(&mut bytes);
            let mut rest = &bytes[..];
            let read = Mutation::decode(&mut rest);
            prop_assert_eq!(read, Some(mutation));
            prop_assert!(rest.is_empty());
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] ^= flip;
            Mutation::decode(&mut &damaged[..]);
            Mutation::decode(&mut &bytes[..at.index(bytes.len())]);
        }
    }
}

#[test]
fn every_mode_of_a_mount_reads_back_and_old_attachments_were_of_empty_prefixes() {
    for mode in [MountMode::WriteBack, MountMode::WriteThrough, MountMode::ReadOnly, MountMode::Local] {
        for flushall in [false, true] {
            let (bucket, prefix) = (&b"b"[..], &b"p/"[..]);
            let (origin, origin_prefix, revalidate) = ("o", "", !flushall);
            let mount = Mutation::Mount { bucket, prefix, origin, origin_prefix, mode, flushall, revalidate };
            let mut bytes = Vec::new();
            mount.encode(&mut bytes);
            assert_eq!(Mutation::decode(&mut &bytes[..]), Some(mount));
        }
    }
    let attached = Mutation::decode(&mut &[19, 7, 0, 0, 0][..]);
    assert_eq!(attached, Some(Mutation::MountAttached { mount: 7, existing: false }));
}

#[test]
fn groups_nest_no_deeper_than_the_codec_allows() {
    let nest = |inner| Mutation::Atomic { guards: Vec::new(), mutations: vec![inner] };
    let deep = nest(nest(nest(Mutation::FlushBucket { bucket: BucketId(1) })));
    let mut bytes = Vec::new();
    deep.encode(&mut bytes);
    assert_eq!(Mutation::decode(&mut &bytes[..]), None);
    // Ten thousand heads, each announcing one more inside.
    let endless = [TAG_ATOMIC, 0, 0, 0, 0, 1, 0, 0, 0].repeat(10_000);
    assert_eq!(Mutation::decode(&mut &endless[..]), None);
}
