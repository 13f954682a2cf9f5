//! How values look in headers and listings.

use std::ops::Range;

use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_smithy_types::{DateTime, base64};

use crate::origin::OriginETag;

/// A call that carries `Expires` as a client sent it: the SDK itself takes only dates that it understands.
pub(super) fn with_expires<T, E, B>(
    call: CustomizableOperation<T, E, B>,
    expires: Option<String>,
) -> CustomizableOperation<T, E, B> {
    let Some(expires) = expires else { return call };
    call.mutate_request(move |http| {
        if let Ok(value) = http::HeaderValue::try_from(&expires) {
            http.headers_mut().insert("expires", value);
        }
    })
}

/// An ETag as headers have it.
pub(super) fn quoted(etag: &OriginETag) -> String {
    format!("\"{}\"", etag.0)
}

/// And without its quotes.
pub(super) fn unquoted(etag: &str) -> OriginETag {
    OriginETag(etag.trim_matches('"').to_owned())
}

/// Metadata values are ASCII on the wire; anything else travels as S3 itself shows it, in RFC 2047's
/// base64 form.
pub(super) fn header_text(value: String) -> String {
    match value.bytes().all(|byte| (0x20..0x7F).contains(&byte) || byte == b'\t') {
        true => value,
        false => format!("=?UTF-8?B?{}?=", base64::encode(value)),
    }
}

/// Percent decoding as LIST does it (`+` is a space); `None` if the result is not UTF-8.
pub(super) fn url_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let mut byte = [0];
        rest = match first {
            b'%' if tail.len() >= 2 && hex::decode_to_slice(&tail[..2], &mut byte).is_ok() => {
                out.push(byte[0]);
                &tail[2..]
            }
            b'+' => {
                out.push(b' ');
                tail
            }
            plain => {
                out.push(*plain);
                tail
            }
        };
    }
    String::from_utf8(out).ok()
}

/// Milliseconds since the Unix epoch; 0 for no time, or one before.
pub(super) fn millis(time: Option<&DateTime>) -> u64 {
    time.and_then(|time| u64::try_from(time.to_millis().ok()?).ok()).unwrap_or(0)
}

/// Reads `bytes 0-9/100`.
pub(super) fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total.parse().ok()?);
    let range = first..last.checked_add(1)?;
    (range.start < range.end && range.end <= total).then_some((range, total))
}
