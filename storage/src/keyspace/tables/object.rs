//! Object rows: head, metadata, and the body's parts.

use std::sync::Arc;

use super::fields::{put_bytes, take_bytes, take_u32, take_u64};
use crate::object::{BlobId, ObjectMeta, Version};

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
