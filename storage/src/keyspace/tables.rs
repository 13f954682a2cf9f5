//! Every record layout of the keyspace, drawn in one place; here the keys, the rows in the files beside.
//!
//! All tables share one ordered map; a key begins with its table's byte, so tables never mix and each is
//! one contiguous range. *Replicated* tables are a function of the log alone: they are compared between
//! replicas and are all that apply may read. *Local* tables say where this node keeps things.
//!
//! ```text
//! table      key                                      value
//! O object   'O' bucket:u32be key                     object row (below)
//! E expiry   'E' when_ms:u64be bucket:u32be key       (empty)
//! B blob     'B' blob.a:u64be blob.b:u64be            memtable: the bytes, or nothing for a staged blob, whose place
//!                                                     the node knows; LMDB: pointer, 24 bytes (local)
//! R refs     'R' blob.a:u64be blob.b:u64be            count:u32le of rows that share it; absent = 1
//! C clean    'C' blob.a:u64be blob.b:u64be            mount:u32le whose origin holds the bytes: the site may drop them
//! K bucket   'K' bucket:u32be                         bucket row; number 0: the next numbers to give
//! M mount    'M' mount:u32be                          mount row
//! Q queue    'Q' version:u64be bucket:u32be key      queue row: what must still reach the origin
//! G origin   'G' bucket:u32be key                     origin row: what is known of the key's origin object
//! S started  'S' bucket:u32be key                     version:u64le deadline_ms:u64le: the origin rows with an attempt
//! V upload   'V' bucket:u32be key upload:u64be        upload row
//! W part     'W' upload:u64be number:u16be            object row: the part's body, MD5 and checksum
//! T transfer 'T' version:u64be number:u32be           number 0: transfer row; from 1 a part that the origin has; from 2^30
//!                                                     by mount a stale transfer row, from 2^31 by mount an asked row
//! D deletes  'D' mount:u32be slot:u16be               version:u64le of the last delete of ours that this origin took, of
//!                                                     the keys of a slot; only of mounts that look up
//! I import   'I' mount:u32be                          import row: how far an import has come
//! A boot     'A' node:u32be                           number:u64le of the node's present run
//! X meta     'X' name                                 applied index, cluster identity, ... (local and replicated)
//! U usage    'U' segment:u32be                        live bytes of a segment (local)
//!
//! object row, little-endian, layout 1:
//!   0  layout:u8 = 1
//!   1  flags:u8      1 expiry | 2 md5 | 4 meta | 8 parts | 16 content version | 32 etag | 64 part runs
//!   2  version:u64
//!  10  modified_ms:u64
//!      [expires_at_ms:u64] [md5:16] [content_version:u64] [etag: len:u32 text]
//!      [part runs: len:u32 of (part_len:u64 count:u32)] [meta_len:u32 meta]
//!      without parts: the body is the rest of the row
//!      with parts:    body_len:u64, then parts to the end:
//!                     0 len:u32 bytes | 1 blob.a:u64 blob.b:u64 offset:u32 len:u32 | 2 len:u64 zeros
//!
//! scan row:    'Xscan' (local): layout:u8=1, then segment:u32le to the end: where a start must look for staged
//!              extents that no B row names yet
//! bucket row:  layout:u8=1 created_ms:u64 epoch:u64 swept:u64 objects:u64 bytes:u64 name (to the end)
//! mount row:   layout:u8=1 flags:u8 (1 local, 2 flushall, 4 attached, 8 leaving, 16 uncovered, 32 read_only,
//!              64 write_through, 128 existing) bucket:u32 prefix origin origin_prefix [more:u8 (1 revalidate)]
//! queue row:   layout:u8=1 flags:u8 (1 delete, 2 barrier, 4 overwrite, 8 parked, 16 transfer, 32 blind) mount:u32
//!              stamp_ms:u64 bytes:u64 reason held (an object row, or empty)
//! import row:  layout:u8=1 state:u8 (0 running, 1 done, 2 cancelled) listed:u64 adopted:u64 the origin's last name (to
//!              the end)
//! origin row:  layout:u8=1 flags:u8 (1 pending, 2 started, 4 origin, 8 mount, 16 adopted) rows:u32 [pending:u64]
//!              [started:u64 deadline_ms:u64] [origin:u64 etag] [mount:u32]   (byte strings: len:u32 bytes)
//! transfer row: layout:u8=2 flags:u8 (1 crc32c, 2 stale, 4 not tried) mount:u32 bucket:u32 part_bytes:u64
//!              last_part:u32 key upload_id origin origin_key;  part: layout:u8=1 flags:u8 (1 crc32c) [crc32c:u32] etag
//!              asked: layout:u8=2 bucket:u32 count:u32 from_ms:u64 until_ms:u64 origin origin_key key (to the end)
//!              (byte strings). In layout 1 both lack origin and origin_key, and a stale row may have the number 0.
//! upload row:  layout:u8=1 created_ms:u64 last_part:u16 meta options   (byte strings)
//! meta: fields to the end: tag:u8 len:u16 bytes, user pairs as tag 7 (name) then tag 8 (value)
//! ```

use std::sync::Arc;

mod checkpoint;
mod fields;
mod namespace;
mod object;
mod origin;
#[cfg(test)]
mod tests;
mod upload;

pub(crate) use checkpoint::*;
pub(crate) use fields::*;
pub(crate) use namespace::*;
pub(crate) use object::*;
pub use object::{PartRun, encode_meta};
pub(crate) use origin::*;
pub(crate) use upload::*;

use crate::object::{BlobId, BucketId, Version};

/// Layout of every row but the object row, which has a number of its own.
const LAYOUT: u8 = 1;
/// Layout of rows of uploads that say at which origin, and under which key of it.
const LAYOUT_PLACED: u8 = 2;

/// First byte of every key: which table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Table {
    /// Object rows.
    Object = b'O',
    /// Expiry index.
    Expiry = b'E',
    /// Blob bytes (memtable) or their place (checkpoint).
    Blob = b'B',
    /// How many rows share a blob.
    Refs = b'R',
    /// Buckets.
    Bucket = b'K',
    /// Mounts.
    Mount = b'M',
    /// The durable flush queue.
    Queue = b'Q',
    /// What is known of the origin's side of a key.
    Origin = b'G',
    /// Index of the origin rows with an attempt that may still be under way.
    Started = b'S',
    /// Multipart uploads under way.
    Upload = b'V',
    /// Their parts.
    UploadPart = b'W',
    /// Blobs that the site may drop.
    Clean = b'C',
    /// Multipart uploads of ours at the origin.
    Transfer = b'T',
    /// The last delete of ours that an origin took, by slot.
    Deletes = b'D',
    /// How far imports have come.
    Import = b'I',
    /// The present run of each node.
    Boot = b'A',
    /// Live bytes by segment (local).
    Usage = b'U',
}

impl Table {
    /// Tables that are a function of the log alone.
    #[cfg(test)]
    pub(crate) const REPLICATED: [Table; 16] = [
        Table::Object,
        Table::Expiry,
        Table::Blob,
        Table::Refs,
        Table::Bucket,
        Table::Mount,
        Table::Queue,
        Table::Origin,
        Table::Started,
        Table::Upload,
        Table::UploadPart,
        Table::Clean,
        Table::Transfer,
        Table::Deletes,
        Table::Import,
        Table::Boot,
    ];
}

/// Key of a row that belongs to an object: `table bucket key`.
pub(crate) fn object_key(table: Table, bucket: BucketId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + key.len());
    out.push(table as u8);
    out.extend_from_slice(&bucket.0.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// Splits a key made by [`object_key`] into bucket and object key.
pub(crate) fn split_object_key(row_key: &[u8]) -> Option<(BucketId, &[u8])> {
    let (bucket, key) = row_key.get(1..)?.split_first_chunk::<4>()?;
    Some((BucketId(u32::from_be_bytes(*bucket)), key))
}

/// Key of an expiry row.
pub(crate) fn expiry_key(when_ms: u64, bucket: BucketId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(13 + key.len());
    out.push(Table::Expiry as u8);
    out.extend_from_slice(&when_ms.to_be_bytes());
    out.extend_from_slice(&bucket.0.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// Splits an expiry key into time, bucket and object key.
pub(crate) fn split_expiry_key(row_key: &[u8]) -> Option<(u64, BucketId, &[u8])> {
    let (when, rest) = row_key.get(1..)?.split_first_chunk::<8>()?;
    let (bucket, key) = rest.split_first_chunk::<4>()?;
    Some((u64::from_be_bytes(*when), BucketId(u32::from_be_bytes(*bucket)), key))
}

/// Key of a blob or reference-count row.
pub(crate) fn blob_key(table: Table, blob: BlobId) -> [u8; 17] {
    let mut out = [0; 17];
    out[0] = table as u8;
    out[1..9].copy_from_slice(&blob.a.to_be_bytes());
    out[9..].copy_from_slice(&blob.b.to_be_bytes());
    out
}

/// The blob that a key made by [`blob_key`] names.
pub(crate) fn split_blob_key(row_key: &[u8]) -> Option<BlobId> {
    let (a, rest) = row_key.get(1..)?.split_first_chunk::<8>()?;
    let (b, _) = rest.split_first_chunk::<8>()?;
    Some(BlobId { a: u64::from_be_bytes(*a), b: u64::from_be_bytes(*b) })
}

/// Key of a row numbered by a `u32` (bucket, mount, node's boot, segment usage).
pub(crate) fn numbered_key(table: Table, number: u32) -> [u8; 5] {
    let mut out = [0; 5];
    out[0] = table as u8;
    out[1..].copy_from_slice(&number.to_be_bytes());
    out
}

/// Key of the mark of the last delete of a slot.
pub(crate) fn deletes_key(mount: u32, slot: u16) -> [u8; 7] {
    let mut out = [0; 7];
    out[..5].copy_from_slice(&numbered_key(Table::Deletes, mount));
    out[5..].copy_from_slice(&slot.to_be_bytes());
    out
}

/// Value of the mark of the last delete of a slot.
pub(crate) fn encode_deletes(version: Version) -> Arc<[u8]> {
    Arc::from(&version.0.to_le_bytes()[..])
}

/// Decodes what [`encode_deletes`] wrote.
pub(crate) fn decode_deletes(mut row: &[u8]) -> Option<Version> {
    take_u64(&mut row).map(Version)
}

/// Key of a boot row.
pub(crate) fn boot_key(node: u16) -> [u8; 5] {
    // Not shorter: a memtable tells keys by their first five bytes and the rest.
    numbered_key(Table::Boot, u32::from(node))
}

/// Key of an upload row.
pub(crate) fn upload_key(bucket: BucketId, key: &[u8], upload: Version) -> Vec<u8> {
    let mut out = object_key(Table::Upload, bucket, key);
    out.extend_from_slice(&upload.0.to_be_bytes());
    out
}

/// Splits an upload key into bucket, object key and upload.
pub(crate) fn split_upload_key(row_key: &[u8]) -> Option<(BucketId, &[u8], Version)> {
    let (bucket, rest) = split_object_key(row_key)?;
    let (key, upload) = rest.split_last_chunk::<8>()?;
    Some((bucket, key, Version(u64::from_be_bytes(*upload))))
}

/// Key of an upload's part.
pub(crate) fn part_key(upload: Version, number: u16) -> [u8; 11] {
    let mut out = [0; 11];
    out[0] = Table::UploadPart as u8;
    out[1..9].copy_from_slice(&upload.0.to_be_bytes());
    out[9..].copy_from_slice(&number.to_be_bytes());
    out
}

/// The part's number in a key made by [`part_key`].
pub(crate) fn split_part_key(row_key: &[u8]) -> Option<u16> {
    row_key.get(9..)?.first_chunk().map(|number| u16::from_be_bytes(*number))
}

/// Key of a queue row.
pub(crate) fn queue_key(version: Version, bucket: BucketId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(13 + key.len());
    out.push(Table::Queue as u8);
    out.extend_from_slice(&version.0.to_be_bytes());
    out.extend_from_slice(&bucket.0.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// From this number on the rows of a version are stale transfer rows, one for each mount.
pub(crate) const STALE: u32 = 1 << 30;
/// From this number on the rows of a version tell what was asked of origins, one for each mount.
pub(crate) const ASKED: u32 = 1 << 31;

/// Key of a transfer row, or (from 1 on) of one of its parts, or (from [`STALE`] on, by mount) of a stale one, or (from
/// [`ASKED`] on, by mount) of what was asked.
pub(crate) fn transfer_key(version: Version, number: u32) -> [u8; 13] {
    let mut out = [0; 13];
    out[0] = Table::Transfer as u8;
    out[1..9].copy_from_slice(&version.0.to_be_bytes());
    out[9..].copy_from_slice(&number.to_be_bytes());
    out
}

/// Splits a key made by [`transfer_key`].
pub(crate) fn split_transfer_key(row_key: &[u8]) -> Option<(Version, u32)> {
    let (version, rest) = row_key.get(1..)?.split_first_chunk::<8>()?;
    let (number, _) = rest.split_first_chunk::<4>()?;
    Some((Version(u64::from_be_bytes(*version)), u32::from_be_bytes(*number)))
}

/// Splits a queue key into version, bucket and object key.
pub(crate) fn split_queue_key(row_key: &[u8]) -> Option<(Version, BucketId, &[u8])> {
    let (version, bucket, key) = split_expiry_key(row_key)?;
    Some((Version(version), bucket, key))
}
