//! Every record layout of the keyspace, drawn and coded in one place.
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
//! T transfer 'T' version:u64be number:u32be           number 0: transfer row; else a part that the origin has
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
//! transfer row: layout:u8=1 flags:u8 (1 crc32c, 2 stale) mount:u32 bucket:u32 part_bytes:u64 last_part:u32 key
//!              upload_id;  part: layout:u8=1 flags:u8 (1 crc32c) [crc32c:u32] etag   (byte strings)
//! upload row:  layout:u8=1 created_ms:u64 last_part:u16 meta options   (byte strings)
//! meta: fields to the end: tag:u8 len:u16 bytes, user pairs as tag 7 (name) then tag 8 (value)
//! ```

use std::sync::Arc;

use crate::blob::SegmentId;
use crate::mutation::{ImportState, MountMode, import_state, import_tag};
use crate::object::{BlobId, BucketId, ObjectMeta, Version};

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

/// Key of a transfer row, or (from 1 on) of one of its parts.
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

const ROW_LAYOUT: u8 = 1;
const FLAG_EXPIRY: u8 = 1;
const FLAG_MD5: u8 = 2;
const FLAG_META: u8 = 4;
const FLAG_PARTS: u8 = 8;
const FLAG_CONTENT_VERSION: u8 = 16;
const FLAG_ETAG: u8 = 32;
const FLAG_PART_RUNS: u8 = 64;

/// One part of a body, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyPart<'a> {
    /// Bytes that stand in the row.
    Inline(&'a [u8]),
    /// A range of a blob.
    Extent {
        /// The blob.
        blob: BlobId,
        /// First byte in it.
        offset: u32,
        /// Number of bytes.
        len: u32,
    },
    /// A run of zero bytes (SETRANGE beyond the end).
    Zeros(u64),
}

impl BodyPart<'_> {
    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            BodyPart::Inline(bytes) => bytes.len() as u64,
            BodyPart::Extent { len, .. } => u64::from(*len),
            BodyPart::Zeros(len) => *len,
        }
    }

    /// Whether the part holds no byte.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The blob that it is of.
    pub(crate) fn blob(&self) -> Option<BlobId> {
        match self {
            BodyPart::Extent { blob, .. } => Some(*blob),
            BodyPart::Inline(_) | BodyPart::Zeros(_) => None,
        }
    }
}

/// The head of an object row, apart from its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowHead<'a> {
    pub(crate) version: Version,
    pub(crate) modified_ms: u64,
    pub(crate) expires_at_ms: Option<u64>,
    /// MD5 of the body, if S3 wrote it.
    pub(crate) md5: Option<[u8; 16]>,
    /// The version that wrote the body: EXPIRE and PERSIST move the version on, not this. It gives the
    /// derived ETag and names the bytes in the origin.
    pub(crate) content_version: Version,
    /// An ETag that can be computed from nothing here.
    pub(crate) etag: Option<&'a str>,
    /// Encoded part runs (see [`encode_part_runs`]); empty for none.
    pub(crate) part_runs: &'a [u8],
    /// Encoded metadata (see [`encode_meta`]).
    pub(crate) meta: &'a [u8],
}

impl RowHead<'_> {
    /// Appends the encoded head; `parts` says which body form follows.
    fn encode(&self, parts: bool, out: &mut Vec<u8>) {
        let own_content = self.content_version != self.version;
        let mut flags = 0;
        flags |= if self.expires_at_ms.is_some() { FLAG_EXPIRY } else { 0 };
        flags |= if self.md5.is_some() { FLAG_MD5 } else { 0 };
        flags |= if self.meta.is_empty() { 0 } else { FLAG_META };
        flags |= if parts { FLAG_PARTS } else { 0 };
        flags |= if own_content { FLAG_CONTENT_VERSION } else { 0 };
        flags |= if self.etag.is_some() { FLAG_ETAG } else { 0 };
        flags |= if self.part_runs.is_empty() { 0 } else { FLAG_PART_RUNS };
        out.extend_from_slice(&[ROW_LAYOUT, flags]);
        out.extend_from_slice(&self.version.0.to_le_bytes());
        out.extend_from_slice(&self.modified_ms.to_le_bytes());
        if let Some(at) = self.expires_at_ms {
            out.extend_from_slice(&at.to_le_bytes());
        }
        if let Some(md5) = &self.md5 {
            out.extend_from_slice(md5);
        }
        if own_content {
            out.extend_from_slice(&self.content_version.0.to_le_bytes());
        }
        if let Some(etag) = self.etag {
            put_bytes(out, etag.as_bytes());
        }
        if !self.part_runs.is_empty() {
            put_bytes(out, self.part_runs);
        }
        if !self.meta.is_empty() {
            out.extend_from_slice(&(self.meta.len() as u32).to_le_bytes());
            out.extend_from_slice(self.meta);
        }
    }

    /// A row whose body stands in it whole.
    pub(crate) fn row_inline(&self, body: &[u8], scratch: &mut Vec<u8>) -> Arc<[u8]> {
        scratch.clear();
        self.encode(false, scratch);
        scratch.extend_from_slice(body);
        Arc::from(scratch.as_slice())
    }

    /// A row whose body is a list of parts.
    pub(crate) fn row_parts(&self, parts: &[BodyPart<'_>], scratch: &mut Vec<u8>) -> Arc<[u8]> {
        scratch.clear();
        self.encode(true, scratch);
        let len: u64 = parts.iter().map(BodyPart::len).sum();
        scratch.extend_from_slice(&len.to_le_bytes());
        for part in parts {
            match part {
                BodyPart::Inline(bytes) => {
                    scratch.push(0);
                    scratch.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                    scratch.extend_from_slice(bytes);
                }
                BodyPart::Extent { blob, offset, len } => {
                    scratch.push(1);
                    scratch.extend_from_slice(&blob.a.to_le_bytes());
                    scratch.extend_from_slice(&blob.b.to_le_bytes());
                    scratch.extend_from_slice(&offset.to_le_bytes());
                    scratch.extend_from_slice(&len.to_le_bytes());
                }
                BodyPart::Zeros(len) => {
                    scratch.push(2);
                    scratch.extend_from_slice(&len.to_le_bytes());
                }
            }
        }
        Arc::from(scratch.as_slice())
    }
}

/// A parsed object row; fields borrow from the encoded bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowReader<'a> {
    pub(crate) version: Version,
    pub(crate) modified_ms: u64,
    pub(crate) expires_at_ms: Option<u64>,
    pub(crate) md5: Option<[u8; 16]>,
    pub(crate) content_version: Version,
    pub(crate) etag: Option<&'a str>,
    pub(crate) part_runs: &'a [u8],
    pub(crate) meta: &'a [u8],
    pub(crate) body_len: u64,
    has_parts: bool,
    body: &'a [u8],
}

impl<'a> RowReader<'a> {
    /// What an undecodable row reads as.
    pub(crate) const EMPTY: RowReader<'static> = RowReader {
        version: Version::ZERO,
        modified_ms: 0,
        expires_at_ms: None,
        md5: None,
        content_version: Version::ZERO,
        etag: None,
        part_runs: &[],
        meta: &[],
        body_len: 0,
        has_parts: false,
        body: &[],
    };

    /// Parses a row; `None` if it is of no known layout or cut short.
    #[inline]
    pub(crate) fn new(row: &'a [u8]) -> Option<RowReader<'a>> {
        let (&[layout, flags], mut rest) = row.split_first_chunk::<2>()?;
        if layout != ROW_LAYOUT {
            return None;
        }
        let version = Version(take_u64(&mut rest)?);
        let modified_ms = take_u64(&mut rest)?;
        let expires_at_ms = if flags & FLAG_EXPIRY != 0 { Some(take_u64(&mut rest)?) } else { None };
        let md5 = if flags & FLAG_MD5 != 0 {
            let (md5, tail) = rest.split_first_chunk::<16>()?;
            rest = tail;
            Some(*md5)
        } else {
            None
        };
        let content_version =
            if flags & FLAG_CONTENT_VERSION != 0 { Version(take_u64(&mut rest)?) } else { version };
        let mut etag = None;
        if flags & FLAG_ETAG != 0 {
            etag = Some(std::str::from_utf8(take_bytes(&mut rest)?).ok()?);
        }
        let mut part_runs: &[u8] = &[];
        if flags & FLAG_PART_RUNS != 0 {
            part_runs = take_bytes(&mut rest)?;
        }
        let mut meta: &[u8] = &[];
        if flags & FLAG_META != 0 {
            let len = take_u32(&mut rest)? as usize;
            meta = rest.get(..len)?;
            rest = &rest[len..];
        }
        let has_parts = flags & FLAG_PARTS != 0;
        let body_len = if has_parts { take_u64(&mut rest)? } else { rest.len() as u64 };
        Some(RowReader {
            version,
            modified_ms,
            expires_at_ms,
            md5,
            content_version,
            etag,
            part_runs,
            meta,
            body_len,
            has_parts,
            body: rest,
        })
    }

    /// The head, to be written again with changes.
    pub(crate) fn head(&self) -> RowHead<'a> {
        RowHead {
            version: self.version,
            modified_ms: self.modified_ms,
            expires_at_ms: self.expires_at_ms,
            md5: self.md5,
            content_version: self.content_version,
            etag: self.etag,
            part_runs: self.part_runs,
            meta: self.meta,
        }
    }

    /// The body, if it stands in the row whole.
    pub(crate) fn inline_body(&self) -> Option<&'a [u8]> {
        (!self.has_parts).then_some(self.body)
    }

    /// The body's parts in order; parsing stops at the first that is cut short.
    pub(crate) fn parts(&self) -> PartIter<'a> {
        PartIter { whole: !self.has_parts && !self.body.is_empty(), list: self.has_parts, rest: self.body }
    }

    /// The decoded metadata.
    pub(crate) fn meta(&self) -> ObjectMeta {
        decode_meta(self.meta).unwrap_or_default()
    }
}

/// Iterator over the parts of a body.
pub(crate) struct PartIter<'a> {
    whole: bool,
    list: bool,
    rest: &'a [u8],
}

impl<'a> Iterator for PartIter<'a> {
    type Item = BodyPart<'a>;

    fn next(&mut self) -> Option<BodyPart<'a>> {
        if self.whole {
            self.whole = false;
            return Some(BodyPart::Inline(self.rest));
        }
        if !self.list {
            return None;
        }
        let (&tag, rest) = self.rest.split_first()?;
        self.rest = rest;
        match tag {
            0 => {
                let len = take_u32(&mut self.rest)? as usize;
                let bytes = self.rest.get(..len)?;
                self.rest = &self.rest[len..];
                Some(BodyPart::Inline(bytes))
            }
            1 => {
                let blob = BlobId { a: take_u64(&mut self.rest)?, b: take_u64(&mut self.rest)? };
                let offset = take_u32(&mut self.rest)?;
                let len = take_u32(&mut self.rest)?;
                Some(BodyPart::Extent { blob, offset, len })
            }
            2 => Some(BodyPart::Zeros(take_u64(&mut self.rest)?)),
            _ => None,
        }
    }
}

/// Consecutive parts of one length of which a multipart object was put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRun {
    /// Length of each, in bytes.
    pub part_len: u64,
    /// How many.
    pub count: u32,
}

/// Encodes the lengths of parts, in order, as runs.
pub(crate) fn encode_part_runs(lens: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut runs: Vec<PartRun> = Vec::new();
    for part_len in lens {
        match runs.last_mut() {
            Some(run) if run.part_len == part_len => run.count += 1,
            _ => runs.push(PartRun { part_len, count: 1 }),
        }
    }
    let encode = |run: &PartRun| [&run.part_len.to_le_bytes()[..], &run.count.to_le_bytes()].concat();
    runs.iter().flat_map(encode).collect()
}

/// Decodes what [`encode_part_runs`] wrote, up to the first run that is cut short.
pub(crate) fn decode_part_runs(mut bytes: &[u8]) -> Vec<PartRun> {
    let b = &mut bytes;
    let run = || Some(PartRun { part_len: take_u64(b)?, count: take_u32(b)? });
    std::iter::from_fn(run).collect()
}

/// Encodes metadata for [`crate::mutation::Mutation::PutObject`]; empty for empty metadata.
pub fn encode_meta(meta: &ObjectMeta) -> Vec<u8> {
    fn field(out: &mut Vec<u8>, tag: u8, value: &str) {
        let value = &value.as_bytes()[..value.len().min(usize::from(u16::MAX))];
        out.push(tag);
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(value);
    }
    let mut out = Vec::new();
    let heads = [
        (1, &meta.content_type),
        (2, &meta.content_encoding),
        (3, &meta.content_language),
        (4, &meta.content_disposition),
        (5, &meta.cache_control),
        (6, &meta.expires),
    ];
    for (tag, value) in heads {
        if let Some(value) = value {
            field(&mut out, tag, value);
        }
    }
    for (name, value) in &meta.user {
        field(&mut out, 7, name);
        field(&mut out, 8, value);
    }
    if let Some((algorithm, value)) = &meta.checksum {
        field(&mut out, 9, algorithm);
        field(&mut out, 10, value);
    }
    out
}

/// Decodes what [`encode_meta`] wrote; `None` if it is malformed.
pub(crate) fn decode_meta(mut bytes: &[u8]) -> Option<ObjectMeta> {
    let mut meta = ObjectMeta::default();
    while let Some((&tag, rest)) = bytes.split_first() {
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_le_bytes(*len));
        let value = String::from_utf8(rest.get(..len)?.to_vec()).ok()?;
        bytes = &rest[len..];
        match tag {
            1 => meta.content_type = Some(value),
            2 => meta.content_encoding = Some(value),
            3 => meta.content_language = Some(value),
            4 => meta.content_disposition = Some(value),
            5 => meta.cache_control = Some(value),
            6 => meta.expires = Some(value),
            7 => meta.user.push((value, String::new())),
            8 => meta.user.last_mut()?.1 = value,
            9 => meta.checksum = Some((value, String::new())),
            10 => meta.checksum.as_mut()?.1 = value,
            _ => return None,
        }
    }
    Some(meta)
}

/// The encoded metadata without the checksum of a body that has changed: the checksum stands last.
pub(crate) fn meta_without_checksum(meta: &[u8]) -> &[u8] {
    let mut rest = meta;
    while let Some((&tag, tail)) = rest.split_first() {
        if tag >= 9 {
            return &meta[..meta.len() - rest.len()];
        }
        let Some((len, tail)) = tail.split_first_chunk::<2>() else { return meta };
        let Some(next) = tail.get(usize::from(u16::from_le_bytes(*len))..) else { return meta };
        rest = next;
    }
    meta
}

/// Takes a little-endian `u64` off the front.
#[inline]
pub(crate) fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*head))
}

/// Takes a little-endian `u32` off the front.
#[inline]
pub(crate) fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*head))
}

/// Takes one byte off the front.
#[inline]
pub(crate) fn take_u8(bytes: &mut &[u8]) -> Option<u8> {
    let (&head, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(head)
}

/// Takes bytes behind a little-endian `u32` length.
#[inline]
pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_u32(bytes)? as usize;
    let value = bytes.get(..len)?;
    *bytes = &bytes[len..];
    Some(value)
}

/// Appends bytes behind a little-endian `u32` length.
#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

const LAYOUT: u8 = 1;

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketRow {
    pub(crate) created_ms: u64,
    /// Rows below it are dead (FLUSHDB).
    pub(crate) epoch: Version,
    /// The epoch up to which dead rows have been removed.
    pub(crate) swept: Version,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) name: Box<[u8]>,
}

impl BucketRow {
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let mut out = vec![LAYOUT];
        for number in [self.created_ms, self.epoch.0, self.swept.0, self.objects, self.bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.name);
        Arc::from(out)
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<BucketRow> {
        let b = &mut row;
        if take_u8(b)? != LAYOUT {
            return None;
        }
        Some(BucketRow {
            created_ms: take_u64(b)?,
            epoch: Version(take_u64(b)?),
            swept: Version(take_u64(b)?),
            objects: take_u64(b)?,
            bytes: take_u64(b)?,
            name: Box::from(*b),
        })
    }
}

/// The next bucket and mount numbers, kept as bucket row 0 so that numbers are never given twice.
pub(crate) fn encode_next_numbers(bucket: u32, mount: u32) -> Arc<[u8]> {
    let mut out = vec![LAYOUT];
    out.extend_from_slice(&bucket.to_le_bytes());
    out.extend_from_slice(&mount.to_le_bytes());
    Arc::from(out)
}

/// Decodes what [`encode_next_numbers`] wrote.
pub(crate) fn decode_next_numbers(mut row: &[u8]) -> Option<(u32, u32)> {
    let b = &mut row;
    if take_u8(b)? != LAYOUT {
        return None;
    }
    Some((take_u32(b)?, take_u32(b)?))
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountRow {
    pub(crate) bucket: BucketId,
    pub(crate) local: bool,
    pub(crate) flushall: bool,
    pub(crate) attached: bool,
    /// Being forgotten: nothing is queued for it any more, what is queued is given up.
    pub(crate) leaving: bool,
    /// A mount below it was forgotten: what lay under that one must be looked at again.
    pub(crate) uncovered: bool,
    /// No object under it is changed by clients.
    pub(crate) read_only: bool,
    /// A change is acknowledged when the origin has it.
    pub(crate) write_through: bool,
    /// When it was attached, the origin held what this cluster had not put there.
    pub(crate) existing: bool,
    /// Foreign changes are looked for.
    pub(crate) revalidate: bool,
    pub(crate) prefix: Box<[u8]>,
    pub(crate) origin: String,
    pub(crate) origin_prefix: String,
}

impl MountRow {
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let flags = u8::from(self.local)
            | u8::from(self.flushall) << 1
            | u8::from(self.attached) << 2
            | u8::from(self.leaving) << 3
            | u8::from(self.uncovered) << 4
            | u8::from(self.read_only) << 5
            | u8::from(self.write_through) << 6
            | u8::from(self.existing) << 7;
        let mut out = vec![LAYOUT, flags];
        out.extend_from_slice(&self.bucket.0.to_le_bytes());
        put_bytes(&mut out, &self.prefix);
        put_bytes(&mut out, self.origin.as_bytes());
        put_bytes(&mut out, self.origin_prefix.as_bytes());
        out.push(u8::from(self.revalidate));
        Arc::from(out)
    }

    /// How it treats the origin.
    pub(crate) fn mode(&self) -> MountMode {
        match self {
            MountRow { local: true, .. } => MountMode::Local,
            MountRow { read_only: true, .. } => MountMode::ReadOnly,
            MountRow { write_through: true, .. } => MountMode::WriteThrough,
            _ => MountMode::WriteBack,
        }
    }

    /// Whether a key without a row may be an object of the origin all the same: nothing is known of what this
    /// cluster has not put there, or somebody else may put something there.
    pub(crate) fn looks_up(&self) -> bool {
        let unknown = self.existing || self.read_only || !self.attached || self.revalidate;
        !self.local && !self.leaving && unknown
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<MountRow> {
        let b = &mut row;
        if take_u8(b)? != LAYOUT {
            return None;
        }
        let flags = take_u8(b)?;
        Some(MountRow {
            local: flags & 1 != 0,
            flushall: flags & 2 != 0,
            attached: flags & 4 != 0,
            leaving: flags & 8 != 0,
            uncovered: flags & 16 != 0,
            read_only: flags & 32 != 0,
            write_through: flags & 64 != 0,
            existing: flags & 128 != 0,
            bucket: BucketId(take_u32(b)?),
            prefix: Box::from(take_bytes(b)?),
            origin: String::from_utf8(take_bytes(b)?.to_vec()).ok()?,
            origin_prefix: String::from_utf8(take_bytes(b)?.to_vec()).ok()?,
            revalidate: take_u8(b).is_some_and(|more| more & 1 != 0),
        })
    }
}

/// A change that must still reach the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueRow {
    pub(crate) delete: bool,
    pub(crate) barrier: bool,
    pub(crate) overwrite: bool,
    pub(crate) mount: u32,
    pub(crate) stamp_ms: u64,
    pub(crate) bytes: u64,
    /// Whether there is a transfer row of its version.
    pub(crate) transfer: bool,
    /// It was written without knowing what the origin holds under its key, and wins over whatever that is.
    pub(crate) blind: bool,
    /// Why it was set aside.
    pub(crate) parked: Option<String>,
    /// The object row whose bytes this still needs, once the object itself has moved on.
    pub(crate) held: Option<Arc<[u8]>>,
}

impl QueueRow {
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let flags = u8::from(self.delete)
            | u8::from(self.barrier) << 1
            | u8::from(self.overwrite) << 2
            | u8::from(self.parked.is_some()) << 3
            | u8::from(self.transfer) << 4
            | u8::from(self.blind) << 5;
        let mut out = vec![LAYOUT, flags];
        out.extend_from_slice(&self.mount.to_le_bytes());
        out.extend_from_slice(&self.stamp_ms.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        put_bytes(&mut out, self.parked.as_deref().unwrap_or("").as_bytes());
        put_bytes(&mut out, self.held.as_deref().unwrap_or(&[]));
        Arc::from(out)
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<QueueRow> {
        let b = &mut row;
        if take_u8(b)? != LAYOUT {
            return None;
        }
        let flags = take_u8(b)?;
        let (mount, stamp_ms, bytes) = (take_u32(b)?, take_u64(b)?, take_u64(b)?);
        let reason = String::from_utf8(take_bytes(b)?.to_vec()).ok()?;
        let held = take_bytes(b)?;
        Some(QueueRow {
            delete: flags & 1 != 0,
            barrier: flags & 2 != 0,
            overwrite: flags & 4 != 0,
            transfer: flags & 16 != 0,
            blind: flags & 32 != 0,
            mount,
            stamp_ms,
            bytes,
            parked: (flags & 8 != 0).then_some(reason),
            held: (!held.is_empty()).then(|| Arc::from(held)),
        })
    }
}

/// How far an import has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImportRow {
    pub(crate) state: ImportState,
    /// Names listed so far.
    pub(crate) listed: u64,
    /// Objects adopted so far.
    pub(crate) adopted: u64,
    /// The origin's last name that was looked at; empty before the first.
    pub(crate) after: Box<[u8]>,
}

impl ImportRow {
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let mut out = vec![LAYOUT, import_tag(self.state)];
        out.extend_from_slice(&self.listed.to_le_bytes());
        out.extend_from_slice(&self.adopted.to_le_bytes());
        out.extend_from_slice(&self.after);
        Arc::from(out)
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<ImportRow> {
        let b = &mut row;
        if take_u8(b)? != LAYOUT {
            return None;
        }
        Some(ImportRow {
            state: import_state(take_u8(b)?)?,
            listed: take_u64(b)?,
            adopted: take_u64(b)?,
            after: Box::from(*b),
        })
    }
}

/// A multipart upload under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UploadRow {
    pub(crate) created_ms: u64,
    /// The highest part number that was ever written; 0 before the first.
    pub(crate) last_part: u16,
    /// Encoded metadata of the object to be.
    pub(crate) meta: Box<[u8]>,
    /// What the front end keeps with it, opaque here.
    pub(crate) options: Box<[u8]>,
}

impl UploadRow {
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let mut out = vec![LAYOUT];
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.extend_from_slice(&self.last_part.to_le_bytes());
        put_bytes(&mut out, &self.meta);
        put_bytes(&mut out, &self.options);
        Arc::from(out)
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<UploadRow> {
        let b = &mut row;
        if take_u8(b)? != LAYOUT {
            return None;
        }
        let created_ms = take_u64(b)?;
        let (last_part, rest) = b.split_first_chunk()?;
        *b = rest;
        Some(UploadRow {
            created_ms,
            last_part: u16::from_le_bytes(*last_part),
            meta: Box::from(take_bytes(b)?),
            options: Box::from(take_bytes(b)?),
        })
    }
}

/// A multipart upload of ours at the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransferRow {
    /// Every part is sent with its CRC32C.
    pub(crate) crc32c: bool,
    /// Its version is not wanted any more: it is to be given up at the origin.
    pub(crate) stale: bool,
    /// The mount whose origin has it.
    pub(crate) mount: u32,
    pub(crate) bucket: BucketId,
    /// Length of the parts that we cut ourselves.
    pub(crate) part_bytes: u64,
    /// The highest number of a part that is recorded.
    pub(crate) last_part: u32,
    pub(crate) key: Box<[u8]>,
    /// As the origin gave it.
    pub(crate) upload_id: String,
}

impl TransferRow {
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let mut out = vec![LAYOUT, u8::from(self.crc32c) | u8::from(self.stale) << 1];
        out.extend_from_slice(&self.mount.to_le_bytes());
        out.extend_from_slice(&self.bucket.0.to_le_bytes());
        out.extend_from_slice(&self.part_bytes.to_le_bytes());
        out.extend_from_slice(&self.last_part.to_le_bytes());
        put_bytes(&mut out, &self.key);
        put_bytes(&mut out, self.upload_id.as_bytes());
        Arc::from(out)
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<TransferRow> {
        let b = &mut row;
        if take_u8(b)? != LAYOUT {
            return None;
        }
        let flags = take_u8(b)?;
        Some(TransferRow {
            crc32c: flags & 1 != 0,
            stale: flags & 2 != 0,
            mount: take_u32(b)?,
            bucket: BucketId(take_u32(b)?),
            part_bytes: take_u64(b)?,
            last_part: take_u32(b)?,
            key: Box::from(take_bytes(b)?),
            upload_id: String::from_utf8(take_bytes(b)?.to_vec()).ok()?,
        })
    }
}

/// Value of the row of a part that the origin has.
pub(crate) fn encode_sent_part(etag: &str, crc32c: Option<u32>) -> Arc<[u8]> {
    let mut out = vec![LAYOUT, u8::from(crc32c.is_some())];
    if let Some(crc) = crc32c {
        out.extend_from_slice(&crc.to_le_bytes());
    }
    put_bytes(&mut out, etag.as_bytes());
    Arc::from(out)
}

/// Decodes what [`encode_sent_part`] wrote.
pub(crate) fn decode_sent_part(mut row: &[u8]) -> Option<(String, Option<u32>)> {
    let b = &mut row;
    if take_u8(b)? != LAYOUT {
        return None;
    }
    let crc32c = if take_u8(b)? & 1 != 0 { Some(take_u32(b)?) } else { None };
    Some((String::from_utf8(take_bytes(b)?.to_vec()).ok()?, crc32c))
}

/// Value of a started row.
pub(crate) fn encode_started(version: Version, deadline_ms: u64) -> Arc<[u8]> {
    Arc::from([version.0.to_le_bytes(), deadline_ms.to_le_bytes()].concat())
}

/// Decodes what [`encode_started`] wrote.
pub(crate) fn decode_started(mut row: &[u8]) -> Option<(Version, u64)> {
    let b = &mut row;
    Some((Version(take_u64(b)?), take_u64(b)?))
}

/// What is known of the origin's side of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OriginRow {
    /// Number of queue rows of the key.
    pub(crate) rows: u32,
    /// The newest of them.
    pub(crate) pending: Option<Version>,
    /// An attempt for this version may send until then (wall clock, ms).
    pub(crate) started: Option<(Version, u64)>,
    /// What the origin holds.
    pub(crate) origin: Option<(Version, String)>,
    /// Whether that was found there, and not put there by this cluster.
    pub(crate) adopted: bool,
    /// The mount whose origin that is; `None` in rows that do not say.
    pub(crate) mount: Option<u32>,
}

impl OriginRow {
    /// Whether there is nothing left to know.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0 && self.pending.is_none() && self.started.is_none() && self.origin.is_none()
    }

    /// What `mount` may know of its origin by this row: what was learnt of another mount's says nothing.
    pub(crate) fn seen_by(mut self, mount: Option<u32>) -> OriginRow {
        if mount.is_none() || self.mount.is_some_and(|of| Some(of) != mount) {
            (self.origin, self.adopted, self.mount) = (None, false, None);
        }
        self
    }

    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let flags = u8::from(self.pending.is_some())
            | u8::from(self.started.is_some()) << 1
            | u8::from(self.origin.is_some()) << 2
            | u8::from(self.mount.is_some()) << 3
            | u8::from(self.adopted) << 4;
        let mut out = vec![LAYOUT, flags];
        out.extend_from_slice(&self.rows.to_le_bytes());
        if let Some(version) = self.pending {
            out.extend_from_slice(&version.0.to_le_bytes());
        }
        if let Some((version, deadline_ms)) = self.started {
            out.extend_from_slice(&version.0.to_le_bytes());
            out.extend_from_slice(&deadline_ms.to_le_bytes());
        }
        if let Some((version, etag)) = &self.origin {
            out.extend_from_slice(&version.0.to_le_bytes());
            put_bytes(&mut out, etag.as_bytes());
        }
        if let Some(mount) = self.mount {
            out.extend_from_slice(&mount.to_le_bytes());
        }
        Arc::from(out)
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<OriginRow> {
        let b = &mut row;
        if take_u8(b)? != LAYOUT {
            return None;
        }
        let flags = take_u8(b)?;
        let rows = take_u32(b)?;
        let pending = if flags & 1 != 0 { Some(Version(take_u64(b)?)) } else { None };
        let started = if flags & 2 != 0 { Some((Version(take_u64(b)?), take_u64(b)?)) } else { None };
        let origin = if flags & 4 != 0 {
            let version = Version(take_u64(b)?);
            Some((version, String::from_utf8(take_bytes(b)?.to_vec()).ok()?))
        } else {
            None
        };
        let mount = if flags & 8 != 0 { Some(take_u32(b)?) } else { None };
        Some(OriginRow { rows, pending, started, origin, adopted: flags & 16 != 0, mount })
    }
}

/// Key of the row that says what the checkpoint holds.
pub(crate) const CHECKPOINT_KEY: &[u8] = b"Xcheckpoint";

/// Up to where the checkpoint reaches: committed together with its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CheckpointRow {
    /// Index of the last entry in it.
    pub(crate) index: u64,
    /// That entry's term.
    pub(crate) term: u64,
    /// The newest stamp.
    pub(crate) stamp_ms: u64,
}

impl CheckpointRow {
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let mut out = vec![LAYOUT];
        for number in [self.index, self.term, self.stamp_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        Arc::from(out)
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<CheckpointRow> {
        let b = &mut row;
        if take_u8(b)? != LAYOUT {
            return None;
        }
        Some(CheckpointRow { index: take_u64(b)?, term: take_u64(b)?, stamp_ms: take_u64(b)? })
    }
}

#[cfg(test)]
mod tests;

/// Key of the scan row.
pub(crate) const SCAN_KEY: &[u8] = b"Xscan";

/// The scan row: the segments that usage rows cannot vouch for.
pub(crate) fn encode_scan(segments: &[SegmentId]) -> Arc<[u8]> {
    let mut out = Vec::with_capacity(1 + 4 * segments.len());
    out.push(1);
    segments.iter().for_each(|segment| out.extend_from_slice(&segment.0.to_le_bytes()));
    Arc::from(out)
}

/// The segments of a scan row; `None` if it is of no known layout.
pub(crate) fn decode_scan(mut row: &[u8]) -> Option<Vec<SegmentId>> {
    if take_u8(&mut row)? != 1 || !row.len().is_multiple_of(4) {
        return None;
    }
    let mut segments = Vec::with_capacity(row.len() / 4);
    while !row.is_empty() {
        segments.push(SegmentId(take_u32(&mut row)?));
    }
    Some(segments)
}
