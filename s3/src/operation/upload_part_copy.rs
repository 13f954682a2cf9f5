//! UploadPartCopy: a part over bytes of an object that is there; none of them moves.
//!
//! The part has no MD5 of its own, so its ETag is derived from its version, and no checksum.

use std::ops::Range;

use forebay_storage::mutation::{Mutation, Outcome};
use forebay_storage::object::{BucketId, ETag};
use forebay_storage::submission::Submission;
use http::HeaderMap;
use s3s::{Body, S3Response};

use crate::copy_source::CopySource;
use crate::error::Refused;
use crate::multipart::{find_upload, part_number};
use crate::operation::copy_object::{ATTEMPTS, source_kept_changing};
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::timestamp;
use crate::upload_body::UPLOAD_BYTES_MAX;
use crate::xml::XmlWriter;

/// Durable when it returns; a dropped future may leave the part written.
pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    let number = part_number(facts)?;
    let source = CopySource::read(headers)?;
    let upload = find_upload(operations, facts, bucket, key).await?.id;
    for _ in 0..ATTEMPTS {
        let (from_bucket, row) = source.find(operations, headers).await?;
        let range = source_range(headers, row.body_len())?;
        if range.end - range.start > UPLOAD_BYTES_MAX {
            return Err(Refused::new(
                "InvalidRequest",
                400,
                format!(
                    "The specified copy source is larger than the maximum allowable size for a copy source: \
                     {UPLOAD_BYTES_MAX}"
                ),
            ));
        }
        let mut submission = Submission::new();
        submission.push(&Mutation::CopyPart {
            bucket,
            key,
            upload,
            number,
            from_bucket,
            from: &source.key,
            source: row.version(),
            start: range.start,
            len: range.end - range.start,
        });
        match operations.store.submit(submission).await?.results.first() {
            Some(Outcome::Done(version)) => {
                let etag = ETag::derived(operations.store.cluster_id(), *version);
                let modified = timestamp::from_ms(operations.store.now_ms());
                let mut xml = XmlWriter::new("CopyPartResult");
                xml.element("LastModified", &timestamp::rfc3339_millis(modified));
                xml.element("ETag", &format!("\"{etag}\""));
                return Ok(xml.into_response());
            }
            Some(Outcome::Unmet) => {}
            Some(Outcome::Refused(refusal)) => return Err(refusal.clone().into()),
            other => return Err(Refused::unexpected(other)),
        }
    }
    Err(source_kept_changing())
}

/// Reads `x-amz-copy-source-range`: here, unlike in a GET, both ends must be given and lie in the source.
fn source_range(headers: &HeaderMap, len: u64) -> Result<Range<u64>, Refused> {
    let Some(value) = headers.get("x-amz-copy-source-range") else { return Ok(0..len) };
    let invalid = |text: String| {
        Refused::new("InvalidArgument", 400, text).with("ArgumentName", "x-amz-copy-source-range")
    };
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    let ends = value.to_str().ok().and_then(|value| {
        let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
        Some((number(first)?, number(last)?))
    });
    let Some((first, last)) = ends.filter(|(first, last)| first <= last) else {
        return Err(invalid(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are \
             the zero-based offsets of the first and last bytes to copy"
                .to_owned(),
        ));
    };
    if last >= len {
        return Err(invalid(format!("Range specified is not valid for source object of size: {len}")));
    }
    Ok(first..last + 1)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn ranges_lie_in_the_source() {
        let range = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-amz-copy-source-range", HeaderValue::from_str(value).expect("a value"));
            source_range(&headers, 10).ok()
        };
        assert_eq!(source_range(&HeaderMap::new(), 10), Ok(0..10));
        assert_eq!(range("bytes=0-9"), Some(0..10));
        assert_eq!(range("bytes=3-3"), Some(3..4));
        for bad in ["bytes=0-10", "bytes=5-", "bytes=-5", "bytes=4-3", "0-9", "bytes=+1-2", "bytes=a-b", ""] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
