//! ListObjectVersions where there is no versioning: every object is its own one version, `null`.

use s3s::dto::{self, ListObjectVersionsInput, ListObjectVersionsOutput};

use crate::error::Refused;
use crate::operation::listing::{
    Item, NameCoding, PageQuery, common_prefix_element, key_of, max_keys, object, page_of_bucket,
};
use crate::service::Operations;

/// The version of every object.
const NULL_VERSION: &str = "null";

pub(crate) async fn run(
    operations: &Operations,
    input: ListObjectVersionsInput,
) -> Result<ListObjectVersionsOutput, Refused> {
    let bucket = operations.bucket(&input.bucket)?;
    let coding = NameCoding::read(input.encoding_type.as_ref())?;
    let max_keys = max_keys(input.max_keys)?;
    let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
    let query = PageQuery {
        prefix: key_of(input.prefix.as_deref().unwrap_or("")),
        delimiter: delimiter.clone().unwrap_or_default().into_bytes(),
        // Behind a key's one version comes the next key, whichever version the marker names.
        after: input.key_marker.as_deref().filter(|marker| !marker.is_empty()).map(key_of),
        max_keys,
    };
    let page = page_of_bucket(operations, bucket, &query).await?;

    let next_is_key = matches!(page.items.last(), Some(Item::Row(_)));
    let mut versions = Vec::new();
    let mut common_prefixes = Vec::new();
    for item in page.items {
        match item {
            Item::Row(listed) => versions.push(version(object(listed, true, coding))),
            Item::CommonPrefix(prefix) => common_prefixes.push(common_prefix_element(&prefix, coding)),
        }
    }
    Ok(ListObjectVersionsOutput {
        name: Some(input.bucket),
        prefix: Some(coding.text(input.prefix.unwrap_or_default())),
        key_marker: Some(coding.text(input.key_marker.unwrap_or_default())),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        max_keys: i32::try_from(max_keys).ok(),
        is_truncated: Some(page.next.is_some()),
        next_version_id_marker: page
            .next
            .is_some()
            .then(|| if next_is_key { NULL_VERSION.to_owned() } else { String::new() }),
        next_key_marker: page.next.map(|next| coding.key(&next)),
        versions: Some(versions),
        common_prefixes: Some(common_prefixes),
        delimiter: delimiter.map(|delimiter| coding.text(delimiter)),
        encoding_type: input.encoding_type,
        ..Default::default()
    })
}

fn version(object: dto::Object) -> dto::ObjectVersion {
    dto::ObjectVersion {
        key: object.key,
        e_tag: object.e_tag,
        last_modified: object.last_modified,
        size: object.size,
        owner: object.owner,
        checksum_algorithm: object.checksum_algorithm,
        checksum_type: object.checksum_type,
        is_latest: Some(true),
        version_id: Some(NULL_VERSION.to_owned()),
        storage_class: Some(dto::ObjectVersionStorageClass::from_static(
            dto::ObjectVersionStorageClass::STANDARD,
        )),
        ..Default::default()
    }
}
