//! What a row that names blobs says, and whether their bytes are anywhere.

use std::collections::BTreeMap;

use super::{Finding, FindingKind};
use crate::blob::Pointer;
use crate::keyspace::audit::named_by;
use crate::keyspace::base::{Base, BaseError, Pair};
use crate::keyspace::checkpoint::decode_pointer;
use crate::keyspace::tables::{
    BucketRow, MountRow, OriginRow, QueueRow, RowReader, Table, blob_key, numbered_key, object_key,
    split_object_key, split_part_key, split_queue_key,
};
use crate::object::{BlobId, BucketId, Version};
use crate::store::Shared;

/// An object, as a version of it that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) bucket: BucketId,
    pub(super) key: Vec<u8>,
    pub(super) version: Version,
}

/// Which row names a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NamedBy {
    Object(Owner),
    /// A version that waits for its upload, and is not the object any more.
    Held(Owner),
    /// A part of a multipart upload under way.
    Part(u16),
}

impl NamedBy {
    /// A finding about this row.
    pub(super) fn finding(&self, shared: &Shared, kind: FindingKind, what: String, mended: bool) -> Finding {
        let (owner, what) = match self {
            NamedBy::Object(owner) => (Some(owner), what),
            NamedBy::Held(owner) => (Some(owner), format!("a version that waits for its upload: {what}")),
            NamedBy::Part(number) => (None, format!("part {number} of a multipart upload under way: {what}")),
        };
        let bucket = owner.and_then(|owner| shared.registry.get(owner.bucket));
        let bucket = bucket.map(|bucket| String::from_utf8_lossy(&bucket.name).into_owned());
        let key = owner.map(|owner| owner.key.clone().into());
        Finding { kind, bucket, key, what, mended }
    }
}

/// Damaged extents: blob, place, and the row that names it, once one was seen.
pub(super) type Damaged = BTreeMap<BlobId, (Pointer, Option<NamedBy>)>;

/// What a page of rows comes to.
#[derive(Default)]
pub(super) struct Looked {
    /// Blobs whose bytes are nowhere.
    pub(super) missing: Vec<(NamedBy, BlobId)>,
    /// Objects of which bytes are only in an origin.
    pub(super) away: Vec<Owner>,
    /// Who names the blobs that are damaged.
    pub(super) named: Vec<(BlobId, NamedBy)>,
    /// Rows that cannot be read.
    pub(super) unreadable: Vec<NamedBy>,
    pub(super) blobs: u64,
}

/// Looks at rows as of one commit. May block.
pub(super) fn look(base: &dyn Base, rows: &[Pair], damaged: &Damaged) -> Result<Looked, BaseError> {
    let mut looked = Looked::default();
    let mut epochs: BTreeMap<BucketId, Version> = BTreeMap::new();
    for (row_key, value) in rows {
        let Some((by, row)) = read(row_key, value) else { continue };
        let Some(content_version) = row else {
            looked.unreadable.push(by);
            continue;
        };
        let mut away = false;
        for blob in named_by(row_key[0], value) {
            looked.blobs += 1;
            if damaged.contains_key(&blob) {
                looked.named.push((blob, by.clone()));
            }
            if base.get(&blob_key(Table::Blob, blob))?.as_deref().and_then(decode_pointer).is_some() {
                continue;
            }
            match &by {
                NamedBy::Object(owner) if owner.version < epoch(base, owner.bucket, &mut epochs)? => {}
                NamedBy::Object(owner) if origin_holds(base, owner, content_version, blob)? => away = true,
                _ => looked.missing.push((by.clone(), blob)),
            }
        }
        if let (true, NamedBy::Object(owner)) = (away, by) {
            looked.away.push(owner);
        }
    }
    Ok(looked)
}

/// Which row it is, and its content version unless it cannot be read; `None` for one that holds no body.
fn read(row_key: &[u8], value: &[u8]) -> Option<(NamedBy, Option<Version>)> {
    let table = *row_key.first()?;
    if table == Table::Queue as u8 {
        let (version, bucket, key) = split_queue_key(row_key)?;
        let by = NamedBy::Held(Owner { bucket, key: key.to_vec(), version });
        let Some(row) = QueueRow::decode(value) else { return Some((by, None)) };
        let held = row.held?;
        return Some((by, RowReader::new(&held).map(|row| row.content_version)));
    }
    let row = RowReader::new(value);
    let by = if table == Table::UploadPart as u8 {
        NamedBy::Part(split_part_key(row_key)?)
    } else {
        let (bucket, key) = split_object_key(row_key)?;
        let version = row.map_or(Version::ZERO, |row| row.version);
        NamedBy::Object(Owner { bucket, key: key.to_vec(), version })
    };
    Some((by, row.map(|row| row.content_version)))
}

/// Rows of the bucket below this version are dead.
fn epoch(
    base: &dyn Base,
    bucket: BucketId,
    known: &mut BTreeMap<BucketId, Version>,
) -> Result<Version, BaseError> {
    if let Some(epoch) = known.get(&bucket) {
        return Ok(*epoch);
    }
    let row = base.get(&numbered_key(Table::Bucket, bucket.0))?;
    let epoch = row.as_deref().and_then(BucketRow::decode).map_or(Version::ZERO, |row| row.epoch);
    known.insert(bucket, epoch);
    Ok(epoch)
}

/// Whether the tables say that the origin of a mount that stands holds a blob of this object.
fn origin_holds(
    base: &dyn Base,
    owner: &Owner,
    content_version: Version,
    blob: BlobId,
) -> Result<bool, BaseError> {
    let clean = base.get(&blob_key(Table::Clean, blob))?;
    let Some(mount) = clean.as_deref().and_then(|row| row.first_chunk()).map(|n| u32::from_le_bytes(*n))
    else {
        return Ok(false);
    };
    let row = base.get(&numbered_key(Table::Mount, mount))?;
    if row.as_deref().and_then(MountRow::decode).is_none_or(|row| row.local) {
        return Ok(false);
    }
    let known = base.get(&object_key(Table::Origin, owner.bucket, &owner.key))?;
    let Some(known) = known.as_deref().and_then(OriginRow::decode) else { return Ok(false) };
    let is_there = known.origin.is_some_and(|(version, _)| version == content_version);
    Ok(is_there && known.mount.is_none_or(|of| of == mount))
}
