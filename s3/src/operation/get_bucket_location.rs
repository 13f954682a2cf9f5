//! GetBucketLocation: the configured region; us-east-1 is an empty element, as on AWS.

use s3s::dto::{BucketLocationConstraint, GetBucketLocationInput, GetBucketLocationOutput};

use crate::error::Refused;
use crate::service::Operations;

pub(crate) fn run(
    operations: &Operations,
    input: &GetBucketLocationInput,
) -> Result<GetBucketLocationOutput, Refused> {
    operations.bucket(&input.bucket)?;
    let region = &operations.config.region;
    let location_constraint = (region != "us-east-1").then(|| BucketLocationConstraint::from(region.clone()));
    Ok(GetBucketLocationOutput { location_constraint })
}
