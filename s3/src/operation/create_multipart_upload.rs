//! CreateMultipartUpload: metadata and the way of its checksum are kept until the parts are put together.

use forebay_storage::encode_meta;
use forebay_storage::mutation::{Mutation, Outcome};
use forebay_storage::object::BucketId;
use forebay_storage::submission::Submission;
use http::{HeaderMap, HeaderValue};
use s3s::{Body, S3Response};

use crate::error::Refused;
use crate::metadata;
use crate::multipart::UploadChecksum;
use crate::operation::listing::NameCoding;
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::xml::XmlWriter;

/// Durable when it returns; a dropped future may leave an upload that nobody knows, until it expires.
pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    metadata::check_storage_class(headers)?;
    let meta = encode_meta(&metadata::from_headers(headers, None)?);
    let checksum = UploadChecksum::read(headers)?;
    let options = UploadChecksum::encode(checksum);
    let mut submission = Submission::new();
    submission.push(&Mutation::CreateUpload { bucket, key, meta: &meta, options: &options });
    let upload = match operations.store.submit(submission).await?.results.first() {
        Some(Outcome::Done(upload)) => *upload,
        Some(Outcome::Refused(refusal)) => return Err(refusal.clone().into()),
        other => return Err(Refused::unexpected(other)),
    };
    let mut xml = XmlWriter::new("InitiateMultipartUploadResult");
    xml.element("Bucket", facts.target.bucket());
    xml.element("Key", &NameCoding::Plain.key(key));
    xml.element("UploadId", &upload.to_string());
    let mut response = xml.into_response();
    if let Some(checksum) = checksum {
        let algorithm = checksum.algorithm.name().to_uppercase();
        if let Ok(algorithm) = HeaderValue::try_from(algorithm) {
            response.headers.insert("x-amz-checksum-algorithm", algorithm);
        }
        let kind = HeaderValue::from_static(checksum.kind.name());
        response.headers.insert("x-amz-checksum-type", kind);
    }
    Ok(response)
}
