//! Rows of buckets, mounts and imports: what names lie where.

use std::sync::Arc;

use super::LAYOUT;
use super::fields::{put_bytes, take_bytes, take_u8, take_u32, take_u64};
use crate::mutation::{ImportState, MountMode, import_state, import_tag};
use crate::object::{BucketId, Version};

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

    /// The origin without the mount's own prefix there: `s3://bucket`.
    pub(crate) fn origin_root(&self) -> &str {
        let own = self.origin_prefix.trim_end_matches('/');
        match self.origin.strip_suffix(own).and_then(|root| root.strip_suffix('/')) {
            Some(root) if !own.is_empty() => root,
            _ => &self.origin,
        }
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
