//! The checksums a client may send with a body, in a header or a trailer: read, compared, refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
pub(crate) use forebay_storage::checksum::{ChecksumAlgorithm, ChecksumState};

use crate::error::Refused;

/// A checksum as the client sent it, well formed, not yet compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checksum {
    pub(crate) algorithm: ChecksumAlgorithm,
    /// Base64, as sent and as given back.
    pub(crate) base64: String,
    digest: Vec<u8>,
}

impl Checksum {
    /// Parses a header's or trailer's value.
    pub(crate) fn parse(algorithm: ChecksumAlgorithm, value: &str) -> Result<Checksum, Refused> {
        match BASE64.decode(value) {
            Ok(digest) if digest.len() == algorithm.digest_len() => {
                Ok(Checksum { algorithm, base64: value.to_owned(), digest })
            }
            _ => Err(Refused::new(
                "InvalidRequest",
                400,
                format!("Value for {} header is invalid.", algorithm.header()),
            )),
        }
    }

    /// A checksum that was computed here.
    pub(crate) fn computed(algorithm: ChecksumAlgorithm, digest: Vec<u8>) -> Checksum {
        Checksum { algorithm, base64: BASE64.encode(&digest), digest }
    }

    /// The digest's bytes.
    pub(crate) fn digest(&self) -> &[u8] {
        &self.digest
    }

    /// Compares with the digest of the body.
    pub(crate) fn verify(&self, computed: &[u8]) -> Result<(), Refused> {
        if self.digest == computed {
            return Ok(());
        }
        let name = self.algorithm.name().to_uppercase();
        Err(Refused::new(
            "BadDigest",
            400,
            format!("The {name} you specified did not match the calculated checksum."),
        ))
    }
}

/// Compares a `Content-MD5` header with a body's MD5.
pub(crate) fn verify_content_md5(value: &[u8], md5: &[u8; 16]) -> Result<(), Refused> {
    match BASE64.decode(value) {
        Ok(sent) if sent == md5 => Ok(()),
        Ok(sent) if sent.len() == md5.len() => Err(Refused::new(
            "BadDigest",
            400,
            "The Content-MD5 you specified did not match what we received.",
        )),
        _ => Err(Refused::new("InvalidDigest", 400, "The Content-MD5 you specified is not valid.")),
    }
}

#[cfg(test)]
mod tests {
    use md5::Digest;

    use super::*;

    #[test]
    fn right_values_verify_and_others_do_not() {
        for algorithm in ChecksumAlgorithm::ALL {
            let digest = algorithm.digest(b"123456789");
            let checksum = Checksum::parse(algorithm, &BASE64.encode(&digest)).expect("well formed");
            assert_eq!(checksum.verify(&digest), Ok(()), "{algorithm:?}");
            let other = algorithm.digest(b"12345678");
            assert_eq!(checksum.verify(&other).expect_err("another body").code(), "BadDigest");
            assert_eq!(Checksum::computed(algorithm, digest), checksum, "{algorithm:?}");
        }
    }

    #[test]
    fn malformed_values_are_invalid_requests() {
        for value in ["", "!!!!", "AAAA", "AAAAAAAAAAA="] {
            let refused = Checksum::parse(ChecksumAlgorithm::Crc32, value).expect_err(value);
            assert_eq!((refused.code(), refused.status()), ("InvalidRequest", 400));
        }
    }

    #[test]
    fn content_md5_wrong_and_malformed_differ() {
        let md5 = <[u8; 16]>::from(md5::Md5::digest(b"hello"));
        assert_eq!(verify_content_md5(b"XUFAKrxLKna5cZ2REBfFkg==", &md5), Ok(()));
        assert_eq!(
            verify_content_md5(b"AAAAAAAAAAAAAAAAAAAAAA==", &md5).expect_err("wrong").code(),
            "BadDigest"
        );
        assert_eq!(verify_content_md5(b"AAAA", &md5).expect_err("short").code(), "InvalidDigest");
    }
}
