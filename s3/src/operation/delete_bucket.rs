//! DeleteBucket: only an empty one, judged at apply.

use forebay_storage::mutation::{Mutation, Outcome};
use forebay_storage::submission::Submission;
use s3s::dto::DeleteBucketInput;

use crate::error::Refused;
use crate::service::Operations;

/// Durable when it returns.
pub(crate) async fn run(operations: &Operations, input: &DeleteBucketInput) -> Result<(), Refused> {
    let mut submission = Submission::new();
    submission.push(&Mutation::DeleteBucket { name: input.bucket.as_bytes() });
    let outcomes = operations.store.submit(submission).await?;
    match outcomes.results.first() {
        Some(Outcome::Done(_)) => Ok(()),
        Some(Outcome::Refused(refusal)) => Err(refusal.clone().into()),
        other => Err(Refused::unexpected(other)),
    }
}
