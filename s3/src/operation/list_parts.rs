//! ListParts: what has arrived of an upload, by number, in pages.

use forebay_storage::object::BucketId;
use s3s::{Body, S3Response};

use crate::error::Refused;
use crate::multipart::{UploadChecksum, no_such_upload, part_facts, upload_id};
use crate::operation::listing::{NameCoding, owner_to_xml, page_size};
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::timestamp;
use crate::xml::XmlWriter;

pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    let max_parts = page_size(&facts.query, "max-parts")?;
    let marker = match facts.query.get("part-number-marker").unwrap_or("") {
        "" => 0,
        text => text.parse::<u16>().map_err(|_| {
            Refused::new(
                "InvalidArgument",
                400,
                "Argument part-number-marker must be an integer between 0 and 10000",
            )
            .with("ArgumentName", "part-number-marker")
        })?,
    };
    let view = operations.store.view()?;
    let upload = view.upload(bucket, key, upload_id(facts)?).await?.ok_or_else(no_such_upload)?;
    let mut parts = part_facts(operations, &view, upload.id, marker, max_parts + 1).await?;
    let truncated = parts.len() > max_parts;
    parts.truncate(max_parts);

    let mut xml = XmlWriter::new("ListPartsResult");
    xml.element("Bucket", facts.target.bucket());
    xml.element("Key", &NameCoding::Plain.key(key));
    xml.element("UploadId", &upload.id.to_string());
    xml.element("PartNumberMarker", &marker.to_string());
    let next = parts.last().map_or(marker, |part| part.number);
    xml.element("NextPartNumberMarker", &next.to_string());
    xml.element("MaxParts", &max_parts.to_string());
    xml.element("IsTruncated", &truncated.to_string());
    for part in &parts {
        xml.group("Part", |xml| {
            xml.element("PartNumber", &part.number.to_string());
            let modified = timestamp::from_ms(part.modified_ms);
            xml.element("LastModified", &timestamp::rfc3339_millis(modified));
            xml.element("ETag", &format!("\"{}\"", part.etag));
            xml.element("Size", &part.len.to_string());
            if let Some((algorithm, value)) = &part.checksum {
                xml.element(&format!("Checksum{}", algorithm.to_uppercase()), value);
            }
        });
    }
    xml.group("Initiator", owner_to_xml);
    xml.group("Owner", owner_to_xml);
    xml.element("StorageClass", "STANDARD");
    if let Some(checksum) = UploadChecksum::of(&upload) {
        xml.element("ChecksumAlgorithm", &checksum.algorithm.name().to_uppercase());
        xml.element("ChecksumType", checksum.kind.name());
    }
    Ok(xml.into_response())
}
