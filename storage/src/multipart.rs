//! Multipart uploads as the front ends read them.
//!
//! Writing is by mutation ([`crate::mutation::Mutation::CreateUpload`] and its kin); a part reads like an
//! object.

use std::ops::Bound;

use bytes::Bytes;

use crate::error::Result;
use crate::keyspace::base::Pair;
use crate::keyspace::tables::{
    Table, UploadRow, decode_meta, object_key, part_key, split_part_key, split_upload_key, upload_key,
};
use crate::object::{BucketId, ObjectMeta, ObjectRow, Version};
use crate::read::{ReadView, prefix_end};

/// A multipart upload under way.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Its name.
    pub id: Version,
    /// Key of the object to be.
    pub key: Bytes,
    /// When it began, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Metadata of the object to be.
    pub meta: ObjectMeta,
    /// What the front end gave at its begin.
    pub options: Bytes,
}

impl Upload {
    fn decode(id: Version, key: &[u8], row: &[u8]) -> Option<Upload> {
        let row = UploadRow::decode(row)?;
        Some(Upload {
            id,
            key: Bytes::copy_from_slice(key),
            created_ms: row.created_ms,
            meta: decode_meta(&row.meta).unwrap_or_default(),
            options: Bytes::copy_from_slice(&row.options),
        })
    }
}

impl ReadView {
    /// The upload of that name, if it is still under way. The future may be dropped.
    pub async fn upload(&self, bucket: BucketId, key: &[u8], id: Version) -> Result<Option<Upload>> {
        let row = self.row(upload_key(bucket, key, id)).await?;
        Ok(row.and_then(|row| Upload::decode(id, key, &row)))
    }

    /// Up to `limit` uploads of keys that begin with `prefix`, by key and then by age, behind the one given;
    /// fewer than `limit` mean that the end was reached. The future may be dropped.
    pub async fn uploads(
        &self,
        bucket: BucketId,
        prefix: &[u8],
        after: Option<(&[u8], Version)>,
        limit: usize,
    ) -> Result<Vec<Upload>> {
        let first = object_key(Table::Upload, bucket, prefix);
        let end = prefix_end(&first);
        let after = after.map(|(key, id)| upload_key(bucket, key, id)).filter(|after| *after > first);
        let from = after.map_or(Bound::Included(first), Bound::Excluded);
        let rows = self.page(from, end, limit).await?;
        let upload = |(row_key, row): &Pair| {
            let (_, key, id) = split_upload_key(row_key)?;
            Upload::decode(id, key, row)
        };
        Ok(rows.iter().filter_map(upload).collect())
    }

    /// One part of an upload.
    pub async fn upload_part(&self, upload: Version, number: u16) -> Result<Option<ObjectRow>> {
        let row = self.row(part_key(upload, number).to_vec()).await?;
        Ok(row.map(ObjectRow::from_encoded))
    }

    /// Up to `limit` parts of an upload with numbers above `after`, in order.
    pub async fn upload_parts(
        &self,
        upload: Version,
        after: u16,
        limit: usize,
    ) -> Result<Vec<(u16, ObjectRow)>> {
        let from = Bound::Excluded(part_key(upload, after).to_vec());
        let end = prefix_end(&part_key(upload, 0)[..9]);
        let rows = self.page(from, end, limit).await?;
        let part = |(row_key, row): Pair| Some((split_part_key(&row_key)?, ObjectRow::from_encoded(row)));
        Ok(rows.into_iter().filter_map(part).collect())
    }
}
