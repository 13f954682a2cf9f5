//! GetObjectTagging and DeleteObjectTagging: no object here has tags.

use forebay_storage::object::BucketId;
use http::StatusCode;
use s3s::{Body, S3Response};

use crate::error::Refused;
use crate::service::Operations;
use crate::xml::XmlWriter;

/// The empty set, of an object that is there.
pub(crate) async fn get(
    operations: &Operations,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    operations.object(bucket, key).await?;
    let mut xml = XmlWriter::new("Tagging");
    xml.group("TagSet", |_| {});
    Ok(xml.into_response())
}

/// There is nothing to remove.
pub(crate) async fn delete(
    operations: &Operations,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    operations.object(bucket, key).await?;
    Ok(S3Response::with_status(Body::empty(), StatusCode::NO_CONTENT))
}
