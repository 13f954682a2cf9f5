//! ListObjects, the first version: the page before is continued by a key. `NextMarker` comes only with a
//! delimiter, as on AWS; without one, clients take the last key they got.

use s3s::dto::{ListObjectsInput, ListObjectsOutput};

use crate::error::Refused;
use crate::operation::listing::{
    Item, NameCoding, PageQuery, common_prefix_element, key_of, max_keys, object, page_of_bucket,
};
use crate::service::Operations;

pub(crate) async fn run(
    operations: &Operations,
    input: ListObjectsInput,
) -> Result<ListObjectsOutput, Refused> {
    let bucket = operations.bucket(&input.bucket)?;
    let coding = NameCoding::read(input.encoding_type.as_ref())?;
    let max_keys = max_keys(input.max_keys)?;
    let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
    let query = PageQuery {
        prefix: key_of(input.prefix.as_deref().unwrap_or("")),
        delimiter: delimiter.clone().unwrap_or_default().into_bytes(),
        after: input.marker.as_deref().filter(|marker| !marker.is_empty()).map(key_of),
        max_keys,
    };
    let page = page_of_bucket(operations, bucket, &query).await?;

    let mut contents = Vec::new();
    let mut common_prefixes = Vec::new();
    for item in page.items {
        match item {
            // Version 1 always names the owner.
            Item::Row(listed) => contents.push(object(listed, true, coding)),
            Item::CommonPrefix(prefix) => common_prefixes.push(common_prefix_element(&prefix, coding)),
        }
    }
    Ok(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(coding.text(input.prefix.unwrap_or_default())),
        marker: Some(coding.text(input.marker.unwrap_or_default())),
        max_keys: i32::try_from(max_keys).ok(),
        is_truncated: Some(page.next.is_some()),
        next_marker: page.next.filter(|_| delimiter.is_some()).map(|next| coding.key(&next)),
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        delimiter: delimiter.map(|delimiter| coding.text(delimiter)),
        encoding_type: input.encoding_type,
        request_charged: None,
    })
}
