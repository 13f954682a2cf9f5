//! Building bodies: a body is a list of counted parts, and apply changes only the list.
//!
//! Up to [`ROW_BODY_BYTES_MAX`] bytes without a blob stand whole in the row; longer ones become a blob,
//! whose bytes stay in the memtable until the checkpoint spills them to a segment. Bytes that have left
//! the memtable are never read here (PITFALLS 27).

use std::sync::Arc;

use super::{Applier, Judged};
use crate::keyspace::base::BaseError;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{BodyPart, RowHead, Table, blob_key};
use crate::mutation::{Payload, Refusal, StagedPart};
use crate::object::BlobId;

/// Longest body that stands in its row; beyond, values never enter LMDB.
pub(crate) const ROW_BODY_BYTES_MAX: usize = 512;
/// Zeros that are written out where a body is made of bytes and zeros alone.
const ZEROS_WRITTEN_MAX: u64 = 64 << 10;
/// Most parts of a body; the store rewrites a body before it gets there.
pub(crate) const PARTS_MAX: usize = 256;

impl Applier {
    /// A row with this body, given whole.
    pub(super) fn whole_row(&mut self, head: &RowHead<'_>, body: &[u8]) -> Arc<[u8]> {
        if body.len() <= ROW_BODY_BYTES_MAX {
            return head.row_inline(body, &mut self.scratch);
        }
        let blob = self.new_blob(body);
        let part = BodyPart::Extent { blob, offset: 0, len: body.len() as u32 };
        head.row_parts(&[part], &mut self.scratch)
    }

    /// A row with the body that a mutation brings.
    pub(super) fn payload_row(&mut self, head: &RowHead<'_>, payload: &Payload<'_>) -> Judged<Arc<[u8]>> {
        if let Payload::Inline(body) = payload {
            return Ok(Ok(self.whole_row(head, body)));
        }
        if let Some(refusal) = self.refuse_payload(payload)? {
            return Ok(Err(refusal));
        }
        let mut parts = Vec::new();
        payload_parts(payload, &mut parts);
        self.own_payload(payload);
        Ok(Ok(head.row_parts(&parts, &mut self.scratch)))
    }

    /// Why a staged body may not be taken over: given up, taken over before, or malformed.
    pub(super) fn refuse_payload(&self, payload: &Payload<'_>) -> Result<Option<Refusal>, BaseError> {
        let Payload::Staged(parts) = payload else { return Ok(None) };
        for StagedPart { blob, len } in parts.iter() {
            if !blob.is_staged() || len == 0 || len > u64::from(u32::MAX) {
                return Ok(Some(Refusal::Malformed));
            }
            if self.state.boots.get(&blob.node()).is_none_or(|boot| blob.boot() != *boot) {
                return Ok(Some(Refusal::Aborted));
            }
            if self.newest(RowKey::encoded(&blob_key(Table::Blob, blob)), false)?.is_some() {
                return Ok(Some(Refusal::Malformed));
            }
        }
        Ok(None)
    }

    /// Takes the blobs over that [`Applier::refuse_payload`] let pass, once nothing can refuse the mutation
    /// any more.
    pub(super) fn own_payload(&mut self, payload: &Payload<'_>) {
        let Payload::Staged(staged) = payload else { return };
        for part in staged.iter() {
            self.put(RowKey::encoded(&blob_key(Table::Blob, part.blob)), Some(Arc::from(&[][..])));
            self.made.push(part.blob);
        }
    }

    /// The one blob that the running mutation may make of inline bytes.
    fn blob_id(&self) -> BlobId {
        BlobId { a: self.version().0, b: 0 }
    }

    fn new_blob(&mut self, bytes: &[u8]) -> BlobId {
        let blob = self.blob_id();
        self.made.push(blob);
        self.put(RowKey::encoded(&blob_key(Table::Blob, blob)), Some(Arc::from(bytes)));
        blob
    }

    /// A row with the body that these parts make. Inline parts that together are too long for a row become
    /// one new blob.
    pub(super) fn row_of_parts(
        &mut self,
        head: &RowHead<'_>,
        parts: &[BodyPart<'_>],
    ) -> Result<Arc<[u8]>, Refusal> {
        let len: u64 = parts.iter().map(BodyPart::len).sum();
        if len > self.body_bytes_max {
            return Err(Refusal::TooLarge(self.body_bytes_max));
        }
        let has_extent = parts.iter().any(|part| matches!(part, BodyPart::Extent { .. }));
        // A gap of any length must not become bytes.
        let zeros: u64 = parts.iter().map(zeros_len).sum();
        if !has_extent && zeros <= ZEROS_WRITTEN_MAX {
            return Ok(self.whole_row(head, &gather(parts)));
        }
        let inline: usize = parts.iter().map(inline_len).sum();
        let spilled = (inline > ROW_BODY_BYTES_MAX).then(|| self.blob_id());
        let mut list: Vec<BodyPart<'_>> = Vec::with_capacity(parts.len());
        let mut spilled_at = 0;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let part = match (part, spilled) {
                (BodyPart::Inline(bytes), Some(blob)) => {
                    let offset = spilled_at;
                    spilled_at += bytes.len() as u32;
                    BodyPart::Extent { blob, offset, len: bytes.len() as u32 }
                }
                (part, _) => *part,
            };
            match (list.last_mut(), part) {
                (
                    Some(BodyPart::Extent { blob: last, offset, len }),
                    BodyPart::Extent { blob, offset: next, len: more },
                ) if *last == blob && *offset + *len == next => *len += more,
                _ => list.push(part),
            }
        }
        if list.len() > PARTS_MAX {
            return Err(Refusal::TooFragmented);
        }
        if spilled.is_some() {
            self.new_blob(&gather_inline(parts));
        }
        Ok(head.row_parts(&list, &mut self.scratch))
    }
}

/// The parts that a mutation's body stands for.
pub(super) fn payload_parts<'a>(payload: &Payload<'a>, out: &mut Vec<BodyPart<'a>>) {
    match payload {
        Payload::Inline(bytes) => out.push(BodyPart::Inline(bytes)),
        Payload::Staged(staged) => out.extend(staged.iter().map(|part| BodyPart::Extent {
            blob: part.blob,
            offset: 0,
            len: part.len as u32,
        })),
    }
}

fn inline_len(part: &BodyPart<'_>) -> usize {
    match part {
        BodyPart::Inline(bytes) => bytes.len(),
        _ => 0,
    }
}

fn zeros_len(part: &BodyPart<'_>) -> u64 {
    match part {
        BodyPart::Zeros(len) => *len,
        _ => 0,
    }
}

fn gather_inline(parts: &[BodyPart<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        if let BodyPart::Inline(inline) = part {
            bytes.extend_from_slice(inline);
        }
    }
    bytes
}

/// The bytes of parts that have no extent.
fn gather(parts: &[BodyPart<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            BodyPart::Inline(inline) => bytes.extend_from_slice(inline),
            BodyPart::Zeros(len) => bytes.resize(bytes.len() + *len as usize, 0),
            BodyPart::Extent { .. } => debug_assert!(false, "the caller has looked for extents"),
        }
    }
    bytes
}

/// The parts of `[from, to)` of a body; the end may lie beyond it.
pub(super) fn slice_parts<'a>(
    parts: impl Iterator<Item = BodyPart<'a>>,
    from: u64,
    to: u64,
    out: &mut Vec<BodyPart<'a>>,
) {
    let mut at = 0;
    for part in parts {
        let (start, end) = (from.max(at), to.min(at + part.len()));
        if start < end {
            let (skip, len) = (start - at, end - start);
            out.push(match part {
                BodyPart::Inline(bytes) => BodyPart::Inline(&bytes[skip as usize..(skip + len) as usize]),
                BodyPart::Extent { blob, offset, .. } => {
                    BodyPart::Extent { blob, offset: offset + skip as u32, len: len as u32 }
                }
                BodyPart::Zeros(_) => BodyPart::Zeros(len),
            });
        }
        at += part.len();
    }
}
