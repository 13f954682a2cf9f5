//! GetObjectAttributes: what a HEAD tells, as XML, and only what was asked for.

use forebay_storage::object::BucketId;
use http::header::LAST_MODIFIED;
use http::{HeaderMap, HeaderValue};
use s3s::{Body, S3Response};

use crate::error::Refused;
use crate::service::Operations;
use crate::timestamp;
use crate::xml::XmlWriter;

/// Names that `x-amz-object-attributes` may list.
const ATTRIBUTES: [&str; 5] = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];

pub(crate) async fn run(
    operations: &Operations,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    let asked = asked(headers)?;
    let asked = |name: &str| asked.contains(&name);
    let (row, _) = operations.object(bucket, key).await?;
    let mut xml = XmlWriter::new("GetObjectAttributesResponse");
    if asked("ETag") {
        // Without quotes, here alone.
        xml.element("ETag", &row.etag(operations.store.cluster_id()).to_string());
    }
    if asked("Checksum")
        && let Some((algorithm, value)) = row.meta().checksum
    {
        xml.group("Checksum", |xml| {
            xml.element(&format!("Checksum{}", algorithm.to_uppercase()), &value);
            xml.element("ChecksumType", "FULL_OBJECT");
        });
    }
    if asked("StorageClass") {
        xml.element("StorageClass", "STANDARD");
    }
    if asked("ObjectSize") {
        xml.element("ObjectSize", &row.body_len().to_string());
    }
    let mut response = xml.into_response();
    let modified = timestamp::http_date(timestamp::from_ms(row.modified_ms()));
    if let Ok(modified) = HeaderValue::try_from(modified) {
        response.headers.insert(LAST_MODIFIED, modified);
    }
    Ok(response)
}

fn asked(headers: &HeaderMap) -> Result<Vec<&str>, Refused> {
    let values = headers.get_all("x-amz-object-attributes").iter();
    let names = values.flat_map(|value| value.to_str().unwrap_or("?").split(',')).map(str::trim);
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.iter().any(|name| !ATTRIBUTES.contains(name)) {
        return Err(Refused::new("InvalidArgument", 400, "Invalid attribute name specified.")
            .with("ArgumentName", "x-amz-object-attributes"));
    }
    Ok(names)
}
