//! HeadObject: the answer of a GET without its body.

use forebay_storage::object::BucketId;
use http::HeaderMap;
use s3s::{Body, S3Response};

use crate::error::Refused;
use crate::operation::get_object;
use crate::request::RequestFacts;
use crate::service::Operations;

pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    let found = get_object::find(operations, facts, headers, bucket, key).await?;
    Ok(found.response(Body::empty()))
}
