//! ListObjects, the first version: the page before is continued by a key. `NextMarker` comes only with a
//! delimiter, as on AWS; without one, clients take the last key they got.

use s3s::dto::{ListObjectsInput, ListObjectsOutput};

use crate::error::Refused;
use crate::operation::listing::{Asked, marker, objects_page};
use crate::service::Operations;

pub(crate) async fn run(
    operations: &Operations,
    input: ListObjectsInput,
) -> Result<ListObjectsOutput, Refused> {
    let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
    let asked = Asked {
        bucket: &input.bucket,
        prefix: input.prefix.as_deref(),
        delimiter: delimiter.as_deref(),
        after: Ok(marker(input.marker.as_deref())),
        max_keys: input.max_keys,
        encoding_type: input.encoding_type.as_ref(),
        // Version 1 always names the owner.
        owner: true,
    };
    let page = objects_page(operations, asked).await?;
    let coding = page.coding;
    Ok(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(coding.text(input.prefix.unwrap_or_default())),
        marker: Some(coding.text(input.marker.unwrap_or_default())),
        max_keys: i32::try_from(page.max_keys).ok(),
        is_truncated: Some(page.next.is_some()),
        next_marker: page.next.filter(|_| delimiter.is_some()).map(|next| coding.key(&next)),
        contents: Some(page.contents),
        common_prefixes: Some(page.common_prefixes),
        delimiter: delimiter.map(|delimiter| coding.text(delimiter)),
        encoding_type: input.encoding_type,
        request_charged: None,
    })
}
