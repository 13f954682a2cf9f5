//! CopyObject: a new row over the same bytes; none of them moves.
//!
//! The source's conditions are judged by its row as read; the mutation names that version and does nothing if
//! another stands there by then, in which case everything is judged again. Conditions on the destination are
//! judged at apply.

use forebay_storage::encode_meta;
use forebay_storage::mutation::{Mutation, Outcome, PutIf};
use forebay_storage::object::{BucketId, ETag, ObjectMeta, ObjectRow, Version};
use forebay_storage::read::Lookup;
use forebay_storage::submission::Submission;
use http::HeaderMap;
use s3s::{Body, S3Response};

use crate::condition::put_condition;
use crate::copy_source::CopySource;
use crate::error::Refused;
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::xml::XmlWriter;
use crate::{metadata, timestamp};

/// Times the source may change under the copy before the client is told to try again.
pub(crate) const ATTEMPTS: usize = 8;

/// Durable when it returns; a dropped future may leave the object written.
pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    metadata::check_storage_class(headers)?;
    let condition = put_condition(headers)?;
    let replaced = match headers.get("x-amz-metadata-directive").map(|value| value.as_bytes()) {
        None | Some(b"COPY") => None,
        Some(b"REPLACE") => Some(metadata::from_headers(headers, None)?),
        Some(_) => {
            return Err(Refused::new("InvalidArgument", 400, "Unknown metadata directive.")
                .with("ArgumentName", "x-amz-metadata-directive"));
        }
    };
    let source = CopySource::read(headers)?;
    if source.bucket == facts.target.bucket() && source.key == key && replaced.is_none() {
        return Err(Refused::new("InvalidRequest", 400, COPY_TO_ITSELF));
    }
    for _ in 0..ATTEMPTS {
        let (from_bucket, row) = source.find(operations, headers).await?;
        // The checksum is of the bytes, and they stay.
        let kept = row.meta();
        let meta = match &replaced {
            Some(meta) => ObjectMeta { checksum: kept.checksum, ..meta.clone() },
            None => kept,
        };
        let encoded = encode_meta(&meta);
        let mut submission = Submission::new();
        submission.push(&Mutation::CopyObject {
            from_bucket,
            from: &source.key,
            source: row.version(),
            to_bucket: bucket,
            to: key,
            meta: replaced.is_some().then_some(&encoded[..]),
            condition: PutIf { if_match: condition.if_match, if_none_match: condition.if_none_match },
        });
        match operations.store.submit(submission).await?.results.first() {
            Some(Outcome::Done(version)) => {
                return Ok(answer(operations, bucket, key, &row, &meta, *version));
            }
            Some(Outcome::Unmet) => {}
            Some(Outcome::Refused(refusal)) => return Err(refusal.clone().into()),
            other => return Err(Refused::unexpected(other)),
        }
    }
    Err(source_kept_changing())
}

pub(crate) fn source_kept_changing() -> Refused {
    Refused::new("SlowDown", 503, "The source kept changing while it was copied. Please try again.")
}

const COPY_TO_ITSELF: &str = "This copy request is illegal because it is trying to copy an object to itself \
                              without changing the object's metadata, storage class, website redirect \
                              location or encryption attributes.";

fn answer(
    operations: &Operations,
    bucket: BucketId,
    key: &[u8],
    source: &ObjectRow,
    meta: &ObjectMeta,
    version: Version,
) -> S3Response<Body> {
    let cluster = operations.store.cluster_id();
    let etag = match source.etag(cluster) {
        ETag::Derived(_) => ETag::derived(cluster, version),
        kept => kept,
    };
    // The entry's time, unless the copy is gone already.
    let modified_ms = match operations.store.get(bucket, key) {
        Ok(Lookup::Found(row)) if row.version() == version => row.modified_ms(),
        _ => operations.store.now_ms(),
    };
    let mut xml = XmlWriter::new("CopyObjectResult");
    xml.element("LastModified", &timestamp::rfc3339_millis(timestamp::from_ms(modified_ms)));
    xml.element("ETag", &format!("\"{etag}\""));
    metadata::checksum_to_xml(meta, &mut xml);
    let mut response = xml.into_response();
    operations.acknowledge(version, &mut response.headers);
    response
}
