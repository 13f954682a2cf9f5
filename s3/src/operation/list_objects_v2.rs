//! ListObjectsV2: keys and common prefixes in byte order, in pages. What a page holds is told in `listing`;
//! here is how V2 says where one continues: by a token, which is the last item of the page before.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use forebay_storage::object::KEY_BYTES_MAX;
use s3s::dto::{ListObjectsV2Input, ListObjectsV2Output};

use crate::error::Refused;
use crate::operation::listing::{
    Item, NameCoding, PageQuery, common_prefix_element, invalid, key_of, max_keys, object, page_of_bucket,
};
use crate::service::Operations;

/// First byte of a token, so that another layout can follow.
const TOKEN_LAYOUT: u8 = 1;

pub(crate) async fn run(
    operations: &Operations,
    input: ListObjectsV2Input,
) -> Result<ListObjectsV2Output, Refused> {
    let bucket = operations.bucket(&input.bucket)?;
    let coding = NameCoding::read(input.encoding_type.as_ref())?;
    let max_keys = max_keys(input.max_keys)?;
    let after = match (&input.continuation_token, &input.start_after) {
        (Some(token), _) => Some(decode_token(token)?),
        (None, Some(name)) if !name.is_empty() => Some(key_of(name)),
        (None, _) => None,
    };
    let query = PageQuery {
        prefix: key_of(input.prefix.as_deref().unwrap_or("")),
        delimiter: input.delimiter.clone().unwrap_or_default().into_bytes(),
        after,
        max_keys,
    };
    let page = page_of_bucket(operations, bucket, &query).await?;

    let fetch_owner = input.fetch_owner == Some(true);
    let key_count = page.items.len();
    let mut contents = Vec::new();
    let mut common_prefixes = Vec::new();
    for item in page.items {
        match item {
            Item::Row(listed) => contents.push(object(listed, fetch_owner, coding)),
            Item::CommonPrefix(prefix) => common_prefixes.push(common_prefix_element(&prefix, coding)),
        }
    }
    Ok(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(coding.text(input.prefix.unwrap_or_default())),
        max_keys: i32::try_from(max_keys).ok(),
        key_count: i32::try_from(key_count).ok(),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(encode_token),
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
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
