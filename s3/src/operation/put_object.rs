//! PutObject: a body of any length, verified whole, then one mutation.
//!
//! Conditions are judged at apply, so of any number of concurrent `If-None-Match: *` exactly one wins. A
//! PUT clears an expiry time that RESP had set. Nothing is visible before the answer's version is durable.

use forebay_storage::encode_meta;
use forebay_storage::mutation::{Mutation, Outcome, PutIf};
use forebay_storage::object::{BucketId, ETag, ObjectMeta, Version};
use forebay_storage::stage::BodyOf;
use forebay_storage::submission::Submission;
use http::{HeaderMap, HeaderValue};
use s3s::{Body, S3Response};

use crate::body::{AlsoWanted, Announced};
use crate::condition::{judge_write, put_condition};
use crate::error::Refused;
use crate::metadata;
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::upload_body::{UPLOAD_BYTES_MAX, UploadBody, is_staged};

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
    let announced = Announced::read(headers, UPLOAD_BYTES_MAX)?;
    // Refuses bad metadata before the body travels; the checksum joins it below.
    let mut meta = metadata::from_headers(headers, None)?;
    if is_staged(operations, &announced) {
        refuse_early(operations, bucket, key, &condition).await?;
    }
    let fast = operations.config.fast_etags.contains(facts.target.bucket());
    let also = AlsoWanted { md5: !fast, checksum: None };
    let (body, verified) =
        UploadBody::receive(operations, facts, &announced, bucket, BodyOf::Object, also).await?;
    let md5 = verified.md5.filter(|_| !fast);
    meta.checksum = verified.checksum.map(|c| (c.algorithm.name().to_owned(), c.base64));

    let mut submission = Submission::new();
    let encoded = encode_meta(&meta);
    let value = body.payload();
    submission.push(&Mutation::PutObject { bucket, key, value, meta: &encoded, md5, condition });
    body.carry(&mut submission);
    let outcomes = operations.store.submit(submission).await?;
    match outcomes.results.first() {
        Some(Outcome::Done(version)) => {
            let etag = match md5 {
                Some(md5) => ETag::Md5(md5),
                None => ETag::derived(operations.store.cluster_id(), *version),
            };
            Ok(answer(operations, &meta, &etag, *version))
        }
        Some(Outcome::Refused(refusal)) => Err(refusal.clone().into()),
        other => Err(Refused::unexpected(other)),
    }
}

/// Judges the conditions before a long body travels in vain. Apply judges them again.
async fn refuse_early(
    operations: &Operations,
    bucket: BucketId,
    key: &[u8],
    condition: &PutIf<'_>,
) -> Result<(), Refused> {
    if condition.is_none() {
        return Ok(());
    }
    let row = operations.store.view()?.fetch(bucket, key).await?;
    let etag = row.map(|row| row.etag(operations.store.cluster_id()).to_string());
    judge_write(condition, etag.as_deref())
}

fn answer(operations: &Operations, meta: &ObjectMeta, etag: &ETag, version: Version) -> S3Response<Body> {
    let mut response = S3Response::new(Body::empty());
    let headers = &mut response.headers;
    if let Ok(etag) = HeaderValue::try_from(format!("\"{etag}\"")) {
        headers.insert(http::header::ETAG, etag);
    }
    operations.acknowledge(version, headers);
    metadata::checksum_to_headers(meta, headers);
    response
}
