//! ListMultipartUploads: uploads under way, by key and then by age, in pages.
//!
//! As in listings of objects, the uploads whose keys hold the delimiter behind the prefix count as one item,
//! their common prefix.

use forebay_storage::multipart::Upload;
use forebay_storage::object::{BucketId, Version};
use s3s::dto;
use s3s::{Body, S3Response};

use crate::error::Refused;
use crate::multipart::{UploadChecksum, parse_upload_id};
use crate::operation::listing::{
    NameCoding, common_prefix_of, key_of, last_key_under, owner_to_xml, page_size,
};
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::timestamp;
use crate::xml::XmlWriter;

/// Uploads read at a time.
const BATCH: usize = 250;

enum Item {
    Upload(Box<Upload>),
    CommonPrefix(Vec<u8>),
}

impl Item {
    /// Where the next page begins: behind this key and upload.
    fn place(&self) -> (&[u8], Option<Version>) {
        match self {
            Item::Upload(upload) => (&upload.key, Some(upload.id)),
            Item::CommonPrefix(prefix) => (prefix, None),
        }
    }
}

pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    bucket: BucketId,
) -> Result<S3Response<Body>, Refused> {
    let query = &facts.query;
    let text = |name: &str| query.get(name).unwrap_or("");
    let encoding_type = query.get("encoding-type").map(|name| dto::EncodingType::from(name.to_owned()));
    let coding = NameCoding::read(encoding_type.as_ref())?;
    let max_uploads = page_size(query, "max-uploads")?;
    let (prefix, delimiter) = (key_of(text("prefix")), text("delimiter").as_bytes());
    let (key_marker, id_marker) = (text("key-marker"), text("upload-id-marker"));
    // An upload id without a key means nothing; a key without one stands behind all of its uploads.
    let after = (!key_marker.is_empty())
        .then(|| (key_of(key_marker), parse_upload_id(id_marker).unwrap_or(Version(u64::MAX))));
    let after = after.map(|(key, id)| match common_prefix_of(&key, &prefix, delimiter) {
        Some(common) => (last_key_under(common), Version(u64::MAX)),
        None => (key, id),
    });
    let items = items(operations, bucket, &prefix, delimiter, after, max_uploads + 1).await?;
    let truncated = items.len() > max_uploads;
    let items = &items[..items.len().min(max_uploads)];

    let mut xml = XmlWriter::new("ListMultipartUploadsResult");
    xml.element("Bucket", facts.target.bucket());
    xml.element("KeyMarker", &coding.text(key_marker.to_owned()));
    xml.element("UploadIdMarker", id_marker);
    if let Some(last) = items.last().filter(|_| truncated) {
        let (key, id) = last.place();
        xml.element("NextKeyMarker", &coding.key(key));
        xml.element("NextUploadIdMarker", &id.map(|id| id.to_string()).unwrap_or_default());
    }
    xml.element("Prefix", &coding.text(text("prefix").to_owned()));
    if !delimiter.is_empty() {
        xml.element("Delimiter", &coding.text(text("delimiter").to_owned()));
    }
    xml.optional("EncodingType", encoding_type.as_ref().map(dto::EncodingType::as_str));
    xml.element("MaxUploads", &max_uploads.to_string());
    xml.element("IsTruncated", &truncated.to_string());
    for item in items {
        match item {
            Item::Upload(upload) => xml.group("Upload", |xml| upload_to_xml(upload, coding, xml)),
            Item::CommonPrefix(prefix) => {
                xml.group("CommonPrefixes", |xml| xml.element("Prefix", &coding.key(prefix)));
            }
        }
    }
    Ok(xml.into_response())
}

fn upload_to_xml(upload: &Upload, coding: NameCoding, xml: &mut XmlWriter) {
    xml.element("Key", &coding.key(&upload.key));
    xml.element("UploadId", &upload.id.to_string());
    xml.group("Initiator", owner_to_xml);
    xml.group("Owner", owner_to_xml);
    xml.element("StorageClass", "STANDARD");
    xml.element("Initiated", &timestamp::rfc3339_millis(timestamp::from_ms(upload.created_ms)));
    if let Some(checksum) = UploadChecksum::of(upload) {
        xml.element("ChecksumAlgorithm", &checksum.algorithm.name().to_uppercase());
        xml.element("ChecksumType", checksum.kind.name());
    }
}

/// Up to `limit` items behind `after`.
async fn items(
    operations: &Operations,
    bucket: BucketId,
    prefix: &[u8],
    delimiter: &[u8],
    mut after: Option<(Vec<u8>, Version)>,
    limit: usize,
) -> Result<Vec<Item>, Refused> {
    let view = operations.store.view()?;
    let mut items: Vec<Item> = Vec::new();
    loop {
        let from = after.as_ref().map(|(key, id)| (&key[..], *id));
        let batch = view.uploads(bucket, prefix, from, BATCH).await?;
        let is_last = batch.len() < BATCH;
        for upload in batch {
            let common = common_prefix_of(&upload.key, prefix, delimiter).map(<[u8]>::to_vec);
            match common {
                Some(common) => {
                    after = Some((last_key_under(&common), Version(u64::MAX)));
                    let seen = matches!(items.last(), Some(Item::CommonPrefix(last)) if *last == common);
                    if !seen {
                        items.push(Item::CommonPrefix(common));
                    }
                }
                None => {
                    after = Some((upload.key.to_vec(), upload.id));
                    items.push(Item::Upload(Box::new(upload)));
                }
            }
            if items.len() == limit {
                return Ok(items);
            }
        }
        if is_last {
            return Ok(items);
        }
    }
}
