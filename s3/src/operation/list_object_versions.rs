//! ListObjectVersions where there is no versioning: every object is its own one version, `null`.

use s3s::dto::{self, ListObjectVersionsInput, ListObjectVersionsOutput};

use crate::error::Refused;
use crate::operation::listing::{Asked, marker, objects_page};
use crate::service::Operations;

/// The version of every object.
const NULL_VERSION: &str = "null";

pub(crate) async fn run(
    operations: &Operations,
    input: ListObjectVersionsInput,
) -> Result<ListObjectVersionsOutput, Refused> {
    let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
    let asked = Asked {
        bucket: &input.bucket,
        prefix: input.prefix.as_deref(),
        delimiter: delimiter.as_deref(),
        // Behind a key's one version comes the next key, whichever version the marker names.
        after: Ok(marker(input.key_marker.as_deref())),
        max_keys: input.max_keys,
        encoding_type: input.encoding_type.as_ref(),
        owner: true,
    };
    let page = objects_page(operations, asked).await?;
    let coding = page.coding;
    Ok(ListObjectVersionsOutput {
        name: Some(input.bucket),
        prefix: Some(coding.text(input.prefix.unwrap_or_default())),
        key_marker: Some(coding.text(input.key_marker.unwrap_or_default())),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        max_keys: i32::try_from(page.max_keys).ok(),
        is_truncated: Some(page.next.is_some()),
        next_version_id_marker: page
            .next
            .is_some()
            .then(|| if page.ends_in_object { NULL_VERSION.to_owned() } else { String::new() }),
        next_key_marker: page.next.map(|next| coding.key(&next)),
        versions: Some(page.contents.into_iter().map(version).collect()),
        common_prefixes: Some(page.common_prefixes),
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
