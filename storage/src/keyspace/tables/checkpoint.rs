//! Local rows of the checkpoint: how far it reaches, and what a start must scan.

use std::sync::Arc;

use super::LAYOUT;
use super::fields::{take_u8, take_u32, take_u64};
use crate::blob::SegmentId;

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
