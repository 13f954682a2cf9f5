//! GetObjectAttributes: what a HEAD tells, as XML, and only what was asked for.

use forebay_storage::object::{BucketId, ObjectRow};
use http::header::LAST_MODIFIED;
use http::{HeaderMap, HeaderValue};
use s3s::{Body, S3Response};

use crate::error::Refused;
use crate::service::Operations;
use crate::xml::XmlWriter;
use crate::{metadata, timestamp};

/// Names that `x-amz-object-attributes` may list.
const ATTRIBUTES: [&str; 5] = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];

/// Most parts of one answer, as on AWS.
const PARTS_MAX: u64 = 1000;

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
            xml.element("ChecksumType", metadata::checksum_type(&value));
        });
    }
    if asked("ObjectParts") && !row.part_runs().is_empty() {
        let page = PartsPage::read(headers)?;
        xml.group("ObjectParts", |xml| parts_to_xml(&row, &page, xml));
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

/// Which parts are asked for.
struct PartsPage {
    after: u64,
    max: u64,
}

impl PartsPage {
    fn read(headers: &HeaderMap) -> Result<PartsPage, Refused> {
        let number = |name: &'static str, default| match headers.get(name) {
            None => Ok(default),
            Some(text) => text.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
                Refused::new("InvalidArgument", 400, format!("the header {name} is not a number"))
                    .with("ArgumentName", name)
            }),
        };
        let max: u64 = number("x-amz-max-parts", PARTS_MAX)?;
        Ok(PartsPage { after: number("x-amz-part-number-marker", 0)?, max: max.min(PARTS_MAX) })
    }
}

/// The parts that a multipart object was put together of, numbered from one.
fn parts_to_xml(row: &ObjectRow, page: &PartsPage, xml: &mut XmlWriter) {
    let runs = row.part_runs();
    let lens = runs.iter().flat_map(|run| std::iter::repeat_n(run.part_len, run.count as usize));
    let count = runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
    let last = page.after.saturating_add(page.max).min(count);
    // The element is not called like the field of the SDKs.
    xml.element("PartsCount", &count.to_string());
    xml.element("PartNumberMarker", &page.after.to_string());
    xml.element("NextPartNumberMarker", &last.to_string());
    xml.element("MaxParts", &page.max.to_string());
    xml.element("IsTruncated", &(last < count).to_string());
    for (number, len) in (1..).zip(lens).filter(|(number, _)| *number > page.after && *number <= last) {
        xml.group("Part", |xml| {
            xml.element("PartNumber", &number.to_string());
            xml.element("Size", &len.to_string());
        });
    }
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
