//! The body that a mutation brings: its bytes, or the names of blobs that hold them already.

use crate::keyspace::tables::{put_bytes, take_u32, take_u64};
use crate::object::BlobId;

/// Stands where the length of inline bytes would: no body of that length travels in a mutation.
const STAGED_MARK: u32 = u32::MAX;
/// Bytes of an encoded piece.
const PIECE_LEN: usize = 24;

/// A body on its way into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload<'a> {
    /// The bytes themselves.
    Inline(&'a [u8]),
    /// Durable already, in blobs that no row names yet.
    Staged(StagedParts<'a>),
}

impl<'a> Payload<'a> {
    /// Length of the body in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Payload::Inline(bytes) => bytes.len() as u64,
            Payload::Staged(parts) => parts.iter().map(|part| part.len).fold(0, u64::saturating_add),
        }
    }

    /// Whether the body has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Payload::Inline(bytes) => put_bytes(out, bytes),
            Payload::Staged(parts) => {
                out.extend_from_slice(&STAGED_MARK.to_le_bytes());
                put_bytes(out, parts.0);
            }
        }
    }

    pub(super) fn decode(bytes: &mut &'a [u8]) -> Option<Payload<'a>> {
        let len = take_u32(bytes)?;
        if len != STAGED_MARK {
            let value = bytes.get(..len as usize)?;
            *bytes = &bytes[len as usize..];
            return Some(Payload::Inline(value));
        }
        let len = take_u32(bytes)? as usize;
        let parts = bytes.get(..len).filter(|parts| parts.len().is_multiple_of(PIECE_LEN))?;
        *bytes = &bytes[len..];
        Some(Payload::Staged(StagedParts(parts)))
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Payload<'a> {
        Payload::Inline(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(bytes: &'a [u8; N]) -> Payload<'a> {
        Payload::Inline(bytes)
    }
}

/// One piece of a staged body: a whole blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagedPart {
    /// The blob.
    pub blob: BlobId,
    /// Its length in bytes.
    pub len: u64,
}

/// The pieces of a staged body in order, in their byte form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagedParts<'a>(&'a [u8]);

impl<'a> StagedParts<'a> {
    /// Appends the byte form of a piece to what [`StagedParts::of`] will read.
    pub fn encode_part(part: StagedPart, out: &mut Vec<u8>) {
        for number in [part.blob.a, part.blob.b, part.len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// What [`StagedParts::encode_part`] wrote; bytes behind the last whole piece are left out.
    pub fn of(encoded: &'a [u8]) -> StagedParts<'a> {
        StagedParts(&encoded[..encoded.len() - encoded.len() % PIECE_LEN])
    }

    /// The pieces.
    pub fn iter(&self) -> impl Iterator<Item = StagedPart> + use<'a> {
        self.0.chunks_exact(PIECE_LEN).map_while(|mut piece| {
            let b = &mut piece;
            Some(StagedPart { blob: BlobId { a: take_u64(b)?, b: take_u64(b)? }, len: take_u64(b)? })
        })
    }
}
