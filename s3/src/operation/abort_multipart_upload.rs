//! AbortMultipartUpload: the parts go; the object of that name, if there is one, stays as it is.

use forebay_storage::mutation::{Mutation, Outcome};
use forebay_storage::object::BucketId;
use forebay_storage::submission::Submission;
use http::StatusCode;
use s3s::{Body, S3Response};

use crate::error::Refused;
use crate::multipart::upload_id;
use crate::request::RequestFacts;
use crate::service::Operations;

/// Durable when it returns. A part that is still being sent is refused when it ends.
pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    let upload = upload_id(facts)?;
    let mut submission = Submission::new();
    submission.push(&Mutation::AbortUpload { bucket, key, upload });
    match operations.store.submit(submission).await?.results.first() {
        Some(Outcome::Done(_)) => Ok(S3Response::with_status(Body::empty(), StatusCode::NO_CONTENT)),
        Some(Outcome::Refused(refusal)) => Err(refusal.clone().into()),
        other => Err(Refused::unexpected(other)),
    }
}
