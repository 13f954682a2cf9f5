//! Rows of clients' multipart uploads.

use std::sync::Arc;

use super::LAYOUT;
use super::fields::{put_bytes, take_bytes, take_u8, take_u64};

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
