//! Record layouts: round trips, and no bytes that make a decoder panic.

use proptest::prelude::*;

use super::*;
use crate::mutation::ImportState;

fn decode_all(bytes: &[u8]) {
    if let Some(row) = RowReader::new(bytes) {
        row.parts().for_each(|part| {
            part.len();
        });
        row.meta();
    }
    BucketRow::decode(bytes);
    MountRow::decode(bytes);
    QueueRow::decode(bytes);
    TransferRow::decode(bytes);
    AskedRow::decode(bytes);
    ImportRow::decode(bytes);
    decode_deletes(bytes);
    decode_sent_part(bytes);
    split_transfer_key(bytes);
    OriginRow::decode(bytes);
    CheckpointRow::decode(bytes);
    decode_started(bytes);
    decode_next_numbers(bytes);
    decode_meta(bytes);
    meta_without_checksum(bytes);
    split_object_key(bytes);
    split_expiry_key(bytes);
    split_queue_key(bytes);
    split_blob_key(bytes);
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
        let known = [&[1u8][..], &bytes].concat();
        decode_all(&known);
    }

    #[test]
    fn an_object_row_reads_back_whole_and_cut_short_it_never_reads_more(
        version in any::<u64>(),
        expiry in proptest::option::of(any::<u64>()),
        md5 in proptest::option::of(any::<[u8; 16]>()),
        content in any::<u64>(),
        etag in proptest::option::of("[0-9a-f-]{0,40}"),
        lens in proptest::collection::vec(1..3u64, 0..9),
        meta in proptest::collection::vec(any::<u8>(), 0..40),
        body in proptest::collection::vec(any::<u8>(), 0..600),
        cut in any::<proptest::sample::Index>(),
    ) {
        let part_runs = encode_part_runs(lens.iter().copied());
        let run_lens: Vec<u64> = decode_part_runs(&part_runs)
            .iter()
            .flat_map(|run| vec![run.part_len; run.count as usize])
            .collect();
        prop_assert_eq!(run_lens, lens);
        let head = RowHead {
            version: Version(version),
            modified_ms: 7,
            expires_at_ms: expiry,
            md5,
            content_version: Version(content),
            etag: etag.as_deref(),
            part_runs: &part_runs,
            meta: &meta,
        };
        let row = head.row_inline(&body, &mut Vec::new());
        let read = RowReader::new(&row).unwrap();
        prop_assert_eq!(read.head(), head);
        prop_assert_eq!(read.inline_body(), Some(&body[..]));
        decode_all(&row[..cut.index(row.len())]);
        let blob = BlobId { a: 1, b: 2 };
        let parts = [BodyPart::Inline(&body), BodyPart::Zeros(9), BodyPart::Extent { blob, offset: 3, len: 4 }];
        let row = head.row_parts(&parts, &mut Vec::new());
        let read = RowReader::new(&row).unwrap();
        prop_assert_eq!(read.parts().collect::<Vec<_>>(), parts.to_vec());
        prop_assert_eq!(read.body_len, body.len() as u64 + 13);
        decode_all(&row[..cut.index(row.len())]);
    }

    #[test]
    fn an_origin_row_and_a_queue_row_read_back(
        rows in any::<u32>(),
        pending in proptest::option::of(any::<u64>()),
        started in proptest::option::of(any::<(u64, u64)>()),
        origin in proptest::option::of((any::<u64>(), "[a-f0-9]{0,40}")),
        flags in any::<[bool; 3]>(),
        parked in proptest::option::of("[ -~]{0,60}"),
    ) {
        let row = OriginRow {
            rows,
            pending: pending.map(Version),
            started: started.map(|(version, at)| (Version(version), at)),
            origin: origin.map(|(version, etag)| (Version(version), etag)),
            adopted: flags[0],
            mount: pending.map(|_| rows),
        };
        prop_assert_eq!(OriginRow::decode(&row.encode()), Some(row));
        let [delete, barrier, overwrite] = flags;
        let (mount, stamp_ms, bytes) = (rows, 5, 6);
        let transfer = barrier;
        let (blind, held) = (overwrite, None);
        let row =
            QueueRow { delete, barrier, overwrite, transfer, blind, mount, stamp_ms, bytes, parked, held };
        prop_assert_eq!(QueueRow::decode(&row.encode()), Some(row));
        let row = MountRow {
            bucket: BucketId(rows),
            local: delete,
            flushall: barrier,
            attached: overwrite,
            leaving: barrier,
            uncovered: delete,
            read_only: overwrite,
            write_through: barrier,
            existing: delete,
            revalidate: barrier,
            prefix: Box::from(&b"p/"[..]),
            origin: "s3://o/p".to_owned(),
            origin_prefix: "p/".to_owned(),
        };
        prop_assert_eq!(MountRow::decode(&row.encode()), Some(row));
        let row = TransferRow {
            crc32c: delete,
            stale: barrier,
            tried: overwrite,
            mount,
            bucket: BucketId(rows),
            part_bytes: 7,
            last_part: rows,
            key: Box::from(&b"k"[..]),
            upload_id: "id".to_owned(),
            origin: "s3://o".to_owned(),
            origin_key: "p/k".to_owned(),
        };
        prop_assert_eq!(TransferRow::decode(&row.encode()), Some(row));
        let row = AskedRow {
            bucket: BucketId(rows),
            count: mount,
            from_ms: 5,
            until_ms: u64::MAX,
            origin: "s3://o".to_owned(),
            origin_key: "p/k".to_owned(),
            key: Box::from(&b"k"[..]),
        };
        prop_assert_eq!(AskedRow::decode(&row.encode()), Some(row));
        let row = ImportRow { state: ImportState::Cancelled, listed: 9, adopted: 7, after: Box::from(&b"k"[..]) };
        prop_assert_eq!(ImportRow::decode(&row.encode()), Some(row));
        let crc = delete.then_some(rows);
        prop_assert_eq!(decode_sent_part(&encode_sent_part("e", crc)), Some(("e".to_owned(), crc)));
        prop_assert_eq!(split_transfer_key(&transfer_key(Version(5), rows)), Some((Version(5), rows)));
    }
}

/// Bytes as they were written before rows of uploads said where the upload is.
#[test]
fn rows_of_uploads_of_the_first_layout_are_still_read() {
    let transfer = [
        &[1, 1 | 2][..],
        &3_u32.to_le_bytes(),
        &9_u32.to_le_bytes(),
        &7_u64.to_le_bytes(),
        &2_u32.to_le_bytes(),
        &[1, 0, 0, 0, b'k'],
        &[2, 0, 0, 0, b'i', b'd'],
    ]
    .concat();
    let row = TransferRow::decode(&transfer).unwrap();
    assert!(row.crc32c && row.stale && row.tried, "{row:?}");
    assert_eq!((row.mount, row.bucket, row.part_bytes, row.last_part), (3, BucketId(9), 7, 2));
    assert_eq!((&*row.key, &*row.upload_id, &*row.origin, &*row.origin_key), (&b"k"[..], "id", "", ""));
    let asked = [
        &[1][..],
        &9_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &5_u64.to_le_bytes(),
        &6_u64.to_le_bytes(),
        b"key",
    ]
    .concat();
    let row = AskedRow::decode(&asked).unwrap();
    assert_eq!((row.bucket, row.count, row.from_ms, row.until_ms), (BucketId(9), 1, 5, 6));
    assert_eq!((&*row.key, &*row.origin, &*row.origin_key), (&b"key"[..], "", ""));
}

#[test]
fn an_origin_is_known_without_the_prefix_of_the_mount() {
    let root = |origin: &str, origin_prefix: &str| {
        let (origin, origin_prefix) = (origin.to_owned(), origin_prefix.to_owned());
        let row = MountRow {
            bucket: BucketId(1),
            local: false,
            flushall: false,
            attached: false,
            leaving: false,
            uncovered: false,
            read_only: false,
            write_through: false,
            existing: false,
            revalidate: false,
            prefix: Box::default(),
            origin,
            origin_prefix,
        };
        row.origin_root().to_owned()
    };
    assert_eq!(root("s3://b", ""), "s3://b");
    assert_eq!(root("s3://b/p/q", "p/q/"), "s3://b");
    assert_eq!(root("s3://bb", "b/"), "s3://bb");
    assert_eq!(root("file:///d/e", ""), "file:///d/e");
}
