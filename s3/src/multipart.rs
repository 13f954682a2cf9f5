//! What the multipart operations share: an upload's name, and which checksum its parts are put together by.
//!
//! An upload's name is its version in the log, as 16 hex digits: unique for ever, and nothing to be guessed by
//! it that a signature would not have to cover.

use forebay_storage::multipart::Upload;
use forebay_storage::object::{BucketId, Version};
use forebay_storage::read::ReadView;
use http::HeaderMap;

use crate::body::checksum::ChecksumAlgorithm;
use crate::error::Refused;
use crate::request::RequestFacts;
use crate::service::Operations;

/// First byte of an upload's options, so that another layout can follow.
const OPTIONS_LAYOUT: u8 = 1;

/// Parts read at a time: the row of a short one holds its body.
const PARTS_BATCH: usize = 100;

/// How the checksum of the whole comes out of those of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChecksumType {
    /// It is that of the whole body; only CRCs can be put together.
    FullObject,
    /// It is that of the parts' checksums, with their number behind.
    Composite,
}

impl ChecksumType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ChecksumType::FullObject => "FULL_OBJECT",
            ChecksumType::Composite => "COMPOSITE",
        }
    }

    /// What S3 takes where nobody says.
    pub(crate) fn default_of(algorithm: ChecksumAlgorithm) -> ChecksumType {
        match algorithm {
            ChecksumAlgorithm::Crc64Nvme => ChecksumType::FullObject,
            _ => ChecksumType::Composite,
        }
    }

    /// Reads `x-amz-checksum-type`.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Option<ChecksumType>, Refused> {
        match headers.get("x-amz-checksum-type").map(|value| value.as_bytes().to_ascii_uppercase()) {
            None => Ok(None),
            Some(name) if name == b"FULL_OBJECT" => Ok(Some(ChecksumType::FullObject)),
            Some(name) if name == b"COMPOSITE" => Ok(Some(ChecksumType::Composite)),
            Some(_) => {
                Err(Refused::new("InvalidRequest", 400, "Value for x-amz-checksum-type header is invalid."))
            }
        }
    }
}

/// The checksum that an upload was begun with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UploadChecksum {
    pub(crate) algorithm: ChecksumAlgorithm,
    pub(crate) kind: ChecksumType,
}

impl UploadChecksum {
    /// Reads `x-amz-checksum-algorithm` and `x-amz-checksum-type` of CreateMultipartUpload.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Option<UploadChecksum>, Refused> {
        let kind = ChecksumType::read(headers)?;
        let Some(name) = headers.get("x-amz-checksum-algorithm") else {
            return match kind {
                None => Ok(None),
                Some(_) => Err(Refused::new(
                    "InvalidRequest",
                    400,
                    "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
                )),
            };
        };
        let algorithm = name.to_str().ok().and_then(ChecksumAlgorithm::from_name).ok_or_else(|| {
            Refused::new(
                "InvalidRequest",
                400,
                "Checksum algorithm provided is unsupported. Please try again with any of the valid types: \
                 [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
            )
        })?;
        let kind = kind.unwrap_or(ChecksumType::default_of(algorithm));
        let possible = match kind {
            ChecksumType::FullObject => algorithm.crc().is_some(),
            ChecksumType::Composite => algorithm != ChecksumAlgorithm::Crc64Nvme,
        };
        if !possible {
            let (kind, name) = (kind.name(), algorithm.name());
            return Err(Refused::new(
                "InvalidRequest",
                400,
                format!("The {kind} checksum type cannot be used with the {name} checksum algorithm."),
            ));
        }
        Ok(Some(UploadChecksum { algorithm, kind }))
    }

    /// What the core keeps with the upload.
    pub(crate) fn encode(checksum: Option<UploadChecksum>) -> Vec<u8> {
        let text = checksum.map(|checksum| format!("{} {}", checksum.algorithm.name(), checksum.kind.name()));
        [&[OPTIONS_LAYOUT], text.unwrap_or_default().as_bytes()].concat()
    }

    /// Reads what [`UploadChecksum::encode`] wrote.
    pub(crate) fn of(upload: &Upload) -> Option<UploadChecksum> {
        UploadChecksum::decode(&upload.options)
    }

    fn decode(options: &[u8]) -> Option<UploadChecksum> {
        let [OPTIONS_LAYOUT, text @ ..] = options else { return None };
        let (algorithm, kind) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        let kind = match kind {
            "FULL_OBJECT" => ChecksumType::FullObject,
            _ => ChecksumType::Composite,
        };
        Some(UploadChecksum { algorithm: ChecksumAlgorithm::from_name(algorithm)?, kind })
    }
}

/// The upload's name in `uploadId`. What is none of ours names no upload.
pub(crate) fn upload_id(facts: &RequestFacts) -> Result<Version, Refused> {
    parse_upload_id(facts.query.get("uploadId").unwrap_or("")).ok_or_else(no_such_upload)
}

/// Reads a name as `Version` shows it, and no other spelling of it.
pub(crate) fn parse_upload_id(text: &str) -> Option<Version> {
    let id = Version(u64::from_str_radix(text, 16).ok()?);
    (id.to_string() == text).then_some(id)
}

/// Reads `partNumber`.
pub(crate) fn part_number(facts: &RequestFacts) -> Result<u16, Refused> {
    match facts.query.get("partNumber").unwrap_or("").parse() {
        Ok(number @ 1..=10_000) => Ok(number),
        _ => Err(Refused::new(
            "InvalidArgument",
            400,
            "Part number must be an integer between 1 and 10000, inclusive",
        )
        .with("ArgumentName", "partNumber")),
    }
}

/// What is told of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartFacts {
    pub(crate) number: u16,
    pub(crate) len: u64,
    /// Without quotes.
    pub(crate) etag: String,
    /// Algorithm and base64.
    pub(crate) checksum: Option<(String, String)>,
    pub(crate) modified_ms: u64,
}

/// Up to `limit` parts of an upload with numbers above `after`, in order.
pub(crate) async fn part_facts(
    operations: &Operations,
    view: &ReadView,
    upload: Version,
    mut after: u16,
    limit: usize,
) -> Result<Vec<PartFacts>, Refused> {
    let cluster = operations.store.cluster_id();
    let mut facts: Vec<PartFacts> = Vec::new();
    while facts.len() < limit {
        let batch_len = PARTS_BATCH.min(limit - facts.len());
        let batch = view.upload_parts(upload, after, batch_len).await?;
        let is_last = batch.len() < batch_len;
        for (number, row) in batch {
            after = number;
            facts.push(PartFacts {
                number,
                len: row.body_len(),
                etag: row.etag(cluster).to_string(),
                checksum: row.meta().checksum,
                modified_ms: row.modified_ms(),
            });
        }
        if is_last {
            break;
        }
    }
    Ok(facts)
}

/// The upload that the request names.
pub(crate) async fn find_upload(
    operations: &Operations,
    facts: &RequestFacts,
    bucket: BucketId,
    key: &[u8],
) -> Result<Upload, Refused> {
    let id = upload_id(facts)?;
    operations.store.view()?.upload(bucket, key, id).await?.ok_or_else(no_such_upload)
}

pub(crate) fn no_such_upload() -> Refused {
    Refused::new(
        "NoSuchUpload",
        404,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted \
         or completed.",
    )
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<UploadChecksum>, Refused> {
        let headers = pairs.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        });
        UploadChecksum::read(&headers.collect())
    }

    #[test]
    fn checksums_of_an_upload_and_what_is_kept_of_them() {
        let algorithm = "x-amz-checksum-algorithm";
        let kind = "x-amz-checksum-type";
        for (pairs, expected) in [
            (&[][..], None),
            (&[(algorithm, "CRC32")], Some((ChecksumAlgorithm::Crc32, ChecksumType::Composite))),
            (&[(algorithm, "CRC64NVME")], Some((ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject))),
            (
                &[(algorithm, "CRC32C"), (kind, "FULL_OBJECT")],
                Some((ChecksumAlgorithm::Crc32c, ChecksumType::FullObject)),
            ),
            (&[(algorithm, "SHA256")], Some((ChecksumAlgorithm::Sha256, ChecksumType::Composite))),
        ] {
            let expected = expected.map(|(algorithm, kind)| UploadChecksum { algorithm, kind });
            assert_eq!(read(pairs), Ok(expected), "{pairs:?}");
            assert_eq!(UploadChecksum::decode(&UploadChecksum::encode(expected)), expected);
        }
        for pairs in [
            &[(algorithm, "MD4")][..],
            &[(kind, "COMPOSITE")],
            &[(algorithm, "SHA1"), (kind, "FULL_OBJECT")],
            &[(algorithm, "CRC64NVME"), (kind, "COMPOSITE")],
            &[(algorithm, "CRC32"), (kind, "HALF")],
        ] {
            assert_eq!(read(pairs).expect_err("refused").code(), "InvalidRequest", "{pairs:?}");
        }
    }

    #[test]
    fn upload_ids_have_one_spelling() {
        let id = Version::new(7, 3);
        assert_eq!(parse_upload_id(&id.to_string()), Some(id));
        for other in ["", "7", "+000000000700003", &id.to_string().to_uppercase().replace('0', "O")] {
            assert_eq!(parse_upload_id(other), None, "{other}");
        }
    }
}
