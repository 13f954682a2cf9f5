//! ListObjectsV2: keys and common prefixes in byte order, in pages. What a page holds is told in `listing`;
//! here is how V2 says where one continues: by a token, which is the last item of the page before.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use forebay_storage::object::KEY_BYTES_MAX;
use s3s::dto::{ListObjectsV2Input, ListObjectsV2Output};

use crate::error::Refused;
use crate::operation::listing::{Asked, invalid, marker, objects_page};
use crate::service::Operations;

/// First byte of a token, so that another layout can follow.
const TOKEN_LAYOUT: u8 = 1;

pub(crate) async fn run(
    operations: &Operations,
    input: ListObjectsV2Input,
) -> Result<ListObjectsV2Output, Refused> {
    let asked = Asked {
        bucket: &input.bucket,
        prefix: input.prefix.as_deref(),
        delimiter: input.delimiter.as_deref(),
        after: match &input.continuation_token {
            Some(token) => decode_token(token).map(Some),
            None => Ok(marker(input.start_after.as_deref())),
        },
        max_keys: input.max_keys,
        encoding_type: input.encoding_type.as_ref(),
        owner: input.fetch_owner == Some(true),
    };
    let page = objects_page(operations, asked).await?;
    let coding = page.coding;
    Ok(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(coding.text(input.prefix.unwrap_or_default())),
        max_keys: i32::try_from(page.max_keys).ok(),
        key_count: i32::try_from(page.contents.len() + page.common_prefixes.len()).ok(),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(encode_token),
        contents: Some(page.contents),
        common_prefixes: Some(page.common_prefixes),
        delimiter: input.delimiter.filter(|delimiter| !delimiter.is_empty()).map(|d| coding.text(d)),
        encoding_type: input.encoding_type,
        start_after: input.start_after.map(|name| coding.text(name)),
        request_charged: None,
    })
}

fn encode_token(item: &[u8]) -> String {
    BASE64.encode([&[TOKEN_LAYOUT], item].concat())
}

fn decode_token(token: &str) -> Result<Vec<u8>, Refused> {
    match BASE64.decode(token).ok().as_deref() {
        Some([TOKEN_LAYOUT, item @ ..]) if item.len() <= KEY_BYTES_MAX => Ok(item.to_vec()),
        _ => Err(invalid("continuation-token", "The continuation token provided is incorrect")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_opaque_and_checked() {
        assert_eq!(decode_token(&encode_token(b"a\xFF/")).ok().as_deref(), Some(&b"a\xFF/"[..]));
        for bad in ["", "!", "AA", "YQ", &encode_token(&[b'a'; 1025])] {
            assert!(decode_token(bad).is_err(), "{bad}");
        }
    }
}
