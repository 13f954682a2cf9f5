//! PutObject: a small body, verified whole, then one mutation.
//!
//! Conditions are judged at apply, so of any number of concurrent `If-None-Match: *` exactly one wins. A
//! PUT clears an expiry time that RESP had set. Nothing is visible before the answer's version is durable.

use forebay_storage::encode_meta;
use forebay_storage::mutation::{Mutation, Outcome, PutIf};
use forebay_storage::object::{BucketId, ETag, ObjectMeta, Version};
use forebay_storage::submission::Submission;
use http::{HeaderMap, HeaderValue};
use s3s::{Body, S3Response};

use crate::body::Announced;
use crate::condition::write_condition;
use crate::error::Refused;
use crate::metadata;
use crate::request::RequestFacts;
use crate::service::Operations;

/// Durable when it returns; a dropped future may leave the object written.
pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    check_storage_class(headers)?;
    let condition = PutIf {
        if_match: write_condition(headers, "if-match")?,
        if_none_match: write_condition(headers, "if-none-match")?,
    };
    let announced = Announced::read(headers, operations.store.inline_bytes_max())?;
    // Refuses bad metadata before the body travels; the checksum joins it below.
    let mut meta = metadata::from_headers(headers, None)?;
    let Some(claim) = &facts.claim else {
        return Err(Refused::new("AccessDenied", 403, "Signature is required"));
    };
    let stall_timeout = operations.config.stall_timeout;
    let body = announced.receive(&facts.body, claim, &operations.keys, stall_timeout).await?;
    meta.checksum = body.checksum.as_ref().map(|c| (c.algorithm.name().to_owned(), c.base64.clone()));

    let mut submission = Submission::new();
    let encoded = encode_meta(&meta);
    submission.push(&Mutation::PutObject {
        bucket,
        key,
        value: body.bytes[..].into(),
        meta: &encoded,
        md5: Some(body.md5),
        condition,
    });
    let outcomes = operations.store.submit(submission).await?;
    match outcomes.results.first() {
        Some(Outcome::Done(version)) => Ok(answer(operations, &meta, ETag::Md5(body.md5), *version)),
        Some(Outcome::Refused(refusal)) => Err(refusal.clone().into()),
        other => Err(Refused::unexpected(other)),
    }
}

fn answer(operations: &Operations, meta: &ObjectMeta, etag: ETag, version: Version) -> S3Response<Body> {
    let mut response = S3Response::new(Body::empty());
    let headers = &mut response.headers;
    if let Ok(etag) = HeaderValue::try_from(format!("\"{etag}\"")) {
        headers.insert(http::header::ETAG, etag);
    }
    if let Ok(version) = HeaderValue::try_from(version.to_string()) {
        headers.insert("x-forebay-version", version);
    }
    headers.insert("x-forebay-ack", operations.ack.clone());
    metadata::checksum_to_headers(meta, headers);
    response
}

/// There is one class; a colder one would be a false promise.
fn check_storage_class(headers: &HeaderMap) -> Result<(), Refused> {
    match headers.get("x-amz-storage-class").map(HeaderValue::as_bytes) {
        None | Some(b"STANDARD") => Ok(()),
        Some(_) => Err(Refused::new(
            "InvalidStorageClass",
            400,
            "The storage class you specified is not valid: only STANDARD exists here",
        )),
    }
}
