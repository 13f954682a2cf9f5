//! DeleteObject: 204, whether the object was there or not.

use forebay_storage::mutation::{Mutation, Outcome};
use forebay_storage::object::BucketId;
use forebay_storage::submission::Submission;
use http::StatusCode;
use s3s::{Body, S3Response};

use crate::error::Refused;
use crate::service::Operations;

/// Durable when it returns; a dropped future may leave the object deleted.
pub(crate) async fn run(
    operations: &Operations,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    let mut submission = Submission::new();
    submission.push(&Mutation::Delete { bucket, key });
    let outcomes = operations.store.submit(submission).await?;
    let mut response = S3Response::with_status(Body::empty(), StatusCode::NO_CONTENT);
    match outcomes.results.first() {
        Some(Outcome::Done(version)) => {
            operations.acknowledge(*version, &mut response.headers);
            Ok(response)
        }
        Some(Outcome::Unmet) => Ok(response),
        Some(Outcome::Refused(refusal)) => Err(refusal.clone().into()),
        other => Err(Refused::unexpected(other)),
    }
}
