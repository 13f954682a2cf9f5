//! ListBuckets: all buckets by name, in pages if asked for.

use s3s::dto::{Bucket, ListBucketsInput, ListBucketsOutput};

use crate::error::Refused;
use crate::operation::listing::{owner, timestamp};
use crate::service::Operations;

/// The page's continuation token is the name of its last bucket.
pub(crate) fn run(operations: &Operations, input: ListBucketsInput) -> Result<ListBucketsOutput, Refused> {
    let max = match input.max_buckets {
        None => usize::MAX,
        Some(max @ 1..=10_000) => max as usize,
        Some(_) => {
            return Err(Refused::new("InvalidArgument", 400, "max-buckets must be between 1 and 10000"));
        }
    };
    let prefix = input.prefix.as_deref().unwrap_or("");
    let after = input.continuation_token.as_deref().unwrap_or("");
    let mut infos = operations.store.buckets();
    infos.retain(|info| info.name.starts_with(prefix) && info.name.as_str() > after);
    infos.sort_by(|a, b| a.name.cmp(&b.name));
    let truncated = infos.len() > max;
    infos.truncate(max);
    let continuation_token = infos.last().filter(|_| truncated).map(|info| info.name.clone());
    let region = &operations.config.region;
    let buckets = infos
        .into_iter()
        .map(|info| Bucket {
            bucket_region: Some(region.clone()),
            creation_date: Some(timestamp(info.created_ms)),
            name: Some(info.name),
        })
        .collect();
    Ok(ListBucketsOutput {
        buckets: Some(buckets),
        continuation_token,
        owner: Some(owner()),
        prefix: input.prefix,
    })
}
