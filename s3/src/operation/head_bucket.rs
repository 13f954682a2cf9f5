//! HeadBucket: whether it exists.

use s3s::dto::{HeadBucketInput, HeadBucketOutput};

use crate::error::Refused;
use crate::service::Operations;

pub(crate) fn run(operations: &Operations, input: &HeadBucketInput) -> Result<HeadBucketOutput, Refused> {
    operations.bucket(&input.bucket)?;
    Ok(HeadBucketOutput { bucket_region: Some(operations.config.region.clone()), ..Default::default() })
}
