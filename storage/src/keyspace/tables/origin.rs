//! Rows of what the origin has, and of what it must still get.

use std::sync::Arc;

use super::fields::{put_bytes, take_bytes, take_u8, take_u32, take_u64};
use super::{LAYOUT, LAYOUT_PLACED};
use crate::object::{BucketId, Version};

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

/// A multipart upload of ours at the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransferRow {
    /// Every part is sent with its CRC32C.
    pub(crate) crc32c: bool,
    /// Its version is not wanted any more: it is to be given up at the origin.
    pub(crate) stale: bool,
    /// Its completion may have been sent; so it counts for rows that do not say.
    pub(crate) tried: bool,
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
    /// The origin, as [`MountRow::origin_root`](super::MountRow::origin_root) names it; empty in rows that do not say.
    pub(crate) origin: String,
    /// Its key there; empty in rows that do not say.
    pub(crate) origin_key: String,
}

impl TransferRow {
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let flags = u8::from(self.crc32c) | u8::from(self.stale) << 1 | u8::from(!self.tried) << 2;
        let mut out = vec![LAYOUT_PLACED, flags];
        out.extend_from_slice(&self.mount.to_le_bytes());
        out.extend_from_slice(&self.bucket.0.to_le_bytes());
        out.extend_from_slice(&self.part_bytes.to_le_bytes());
        out.extend_from_slice(&self.last_part.to_le_bytes());
        put_bytes(&mut out, &self.key);
        put_bytes(&mut out, self.upload_id.as_bytes());
        put_bytes(&mut out, self.origin.as_bytes());
        put_bytes(&mut out, self.origin_key.as_bytes());
        Arc::from(out)
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<TransferRow> {
        let b = &mut row;
        let layout = take_u8(b)?;
        if !matches!(layout, LAYOUT | LAYOUT_PLACED) {
            return None;
        }
        let flags = take_u8(b)?;
        Some(TransferRow {
            crc32c: flags & 1 != 0,
            stale: flags & 2 != 0,
            tried: flags & 4 == 0,
            mount: take_u32(b)?,
            bucket: BucketId(take_u32(b)?),
            part_bytes: take_u64(b)?,
            last_part: take_u32(b)?,
            key: Box::from(take_bytes(b)?),
            upload_id: take_text(b)?,
            origin: if layout == LAYOUT_PLACED { take_text(b)? } else { String::new() },
            origin_key: if layout == LAYOUT_PLACED { take_text(b)? } else { String::new() },
        })
    }
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(bytes)?.to_vec()).ok()
}

/// Uploads that an origin was asked to begin, and that nobody has learnt the names of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AskedRow {
    pub(crate) bucket: BucketId,
    /// How often it was asked without an answer that is recorded.
    pub(crate) count: u32,
    /// All of these requests left after this, milliseconds since the Unix epoch.
    pub(crate) from_ms: u64,
    /// And before this.
    pub(crate) until_ms: u64,
    /// As in a [`TransferRow`].
    pub(crate) origin: String,
    /// As in a [`TransferRow`].
    pub(crate) origin_key: String,
    pub(crate) key: Box<[u8]>,
}

impl AskedRow {
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let mut out = vec![LAYOUT_PLACED];
        out.extend_from_slice(&self.bucket.0.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.from_ms.to_le_bytes());
        out.extend_from_slice(&self.until_ms.to_le_bytes());
        put_bytes(&mut out, self.origin.as_bytes());
        put_bytes(&mut out, self.origin_key.as_bytes());
        out.extend_from_slice(&self.key);
        Arc::from(out)
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<AskedRow> {
        let b = &mut row;
        let layout = take_u8(b)?;
        if !matches!(layout, LAYOUT | LAYOUT_PLACED) {
            return None;
        }
        Some(AskedRow {
            bucket: BucketId(take_u32(b)?),
            count: take_u32(b)?,
            from_ms: take_u64(b)?,
            until_ms: take_u64(b)?,
            origin: if layout == LAYOUT_PLACED { take_text(b)? } else { String::new() },
            origin_key: if layout == LAYOUT_PLACED { take_text(b)? } else { String::new() },
            key: Box::from(*b),
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
