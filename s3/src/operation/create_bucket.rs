//! CreateBucket.
//!
//! The same owner again: as AWS does it, 200 in us-east-1 (the default region here) and 409
//! BucketAlreadyOwnedByYou elsewhere. There is one owner, so BucketAlreadyExists does not occur. ACL,
//! ownership and location of the request are not judged.

use forebay_storage::mutation::{Mutation, Outcome};
use forebay_storage::submission::Submission;
use s3s::dto::{CreateBucketInput, CreateBucketOutput};

use crate::error::Refused;
use crate::service::Operations;

/// Durable when it returns; a dropped future may leave the bucket created.
pub(crate) async fn run(
    operations: &Operations,
    input: CreateBucketInput,
) -> Result<CreateBucketOutput, Refused> {
    if input.object_lock_enabled_for_bucket == Some(true) {
        return Err(Refused::not_implemented("object lock (x-amz-bucket-object-lock-enabled)"));
    }
    let mut submission = Submission::new();
    submission.push(&Mutation::CreateBucket { name: input.bucket.as_bytes() });
    let outcomes = operations.store.submit(submission).await?;
    match outcomes.results.first() {
        Some(Outcome::Bucket(_, created)) if *created || operations.config.region == "us-east-1" => {
            Ok(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) })
        }
        Some(Outcome::Bucket(..)) => Err(Refused::new(
            "BucketAlreadyOwnedByYou",
            409,
            "Your previous request to create the named bucket succeeded and you already own it.",
        )),
        Some(Outcome::Refused(refusal)) => Err(refusal.clone().into()),
        other => Err(Refused::unexpected(other)),
    }
}
