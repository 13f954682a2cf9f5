//! UploadPart: received like a PUT, kept as a part of its upload.

use forebay_storage::encode_meta;
use forebay_storage::mutation::{Mutation, Outcome};
use forebay_storage::object::{BucketId, ETag, ObjectMeta};
use forebay_storage::stage::BodyOf;
use forebay_storage::submission::Submission;
use http::{HeaderMap, HeaderValue};
use s3s::{Body, S3Response};

use crate::body::{AlsoWanted, Announced};
use crate::error::Refused;
use crate::multipart::{UploadChecksum, find_upload, part_number};
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::upload_body::{UPLOAD_BYTES_MAX, UploadBody};

/// Durable when it returns; a dropped future may leave the part written.
pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    let number = part_number(facts)?;
    let announced = Announced::read(headers, UPLOAD_BYTES_MAX)?;
    // Before the body travels; apply looks again.
    let upload = find_upload(operations, facts, bucket, key).await?;
    let expected = UploadChecksum::of(&upload).map(|checksum| checksum.algorithm);
    if let (Some(expected), Some(sent)) = (expected, announced.checksum_algorithm())
        && expected != sent
    {
        return Err(Refused::new(
            "InvalidRequest",
            400,
            format!(
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                expected.name(),
                sent.name()
            ),
        ));
    }
    let fast = operations.config.fast_etags.contains(facts.target.bucket());
    let also = AlsoWanted { md5: !fast, checksum: expected };
    let (body, verified) =
        UploadBody::receive(operations, facts, &announced, bucket, BodyOf::Part, also).await?;
    let md5 = verified.md5.filter(|_| !fast);
    let checksum = verified.checksum.map(|c| (c.algorithm, c.base64));

    let kept = checksum.as_ref().map(|(algorithm, value)| (algorithm.name().to_owned(), value.clone()));
    let meta = encode_meta(&ObjectMeta { checksum: kept, ..ObjectMeta::default() });
    let mut submission = Submission::new();
    let value = body.payload();
    submission.push(&Mutation::PutPart { bucket, key, upload: upload.id, number, value, meta: &meta, md5 });
    body.carry(&mut submission);
    let version = match operations.store.submit(submission).await?.results.first() {
        Some(Outcome::Done(version)) => *version,
        Some(Outcome::Refused(refusal)) => return Err(refusal.clone().into()),
        other => return Err(Refused::unexpected(other)),
    };
    let etag = match md5 {
        Some(md5) => ETag::Md5(md5),
        None => ETag::derived(operations.store.cluster_id(), version),
    };
    let mut response = S3Response::new(Body::empty());
    if let Ok(etag) = HeaderValue::try_from(format!("\"{etag}\"")) {
        response.headers.insert(http::header::ETAG, etag);
    }
    if let Some((algorithm, value)) = checksum
        && let Ok(value) = HeaderValue::try_from(value)
    {
        response.headers.insert(algorithm.header(), value);
    }
    response.headers.insert("x-forebay-ack", operations.ack.clone());
    Ok(response)
}
