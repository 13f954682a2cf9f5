//! Checksums of bodies that go to an origin: what a client's upload was verified with, or what is computed here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use crate::checksum::ChecksumAlgorithm;
use crate::object::ObjectMeta;

/// Checksums of the body that are known already; the origin checks what it supports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BodyChecksums {
    /// What goes in an `x-amz-checksum-` header, with its digest: S3 takes one.
    pub sum: Option<(ChecksumAlgorithm, Vec<u8>)>,
    /// MD5.
    pub md5: Option<[u8; 16]>,
}

impl BodyChecksums {
    /// A CRC32C alone: what every origin that checks anything was seen to check.
    pub fn crc32c(crc: u32) -> BodyChecksums {
        let sum = Some((ChecksumAlgorithm::Crc32c, crc.to_be_bytes().to_vec()));
        BodyChecksums { sum, md5: None }
    }

    /// The CRC32C of a body.
    pub fn crc32c_of(body: &[u8]) -> BodyChecksums {
        let algorithm = ChecksumAlgorithm::Crc32c;
        BodyChecksums { sum: Some((algorithm, algorithm.digest(body))), md5: None }
    }

    /// What was verified when the body arrived; `None` if nothing was, or not of the whole body.
    pub fn verified(meta: &ObjectMeta) -> Option<BodyChecksums> {
        let (name, value) = meta.checksum.as_ref()?;
        let algorithm = ChecksumAlgorithm::from_name(name)?;
        let digest = STANDARD.decode(value).ok().filter(|digest| digest.len() == algorithm.digest_len())?;
        Some(BodyChecksums { sum: Some((algorithm, digest)), md5: None })
    }

    /// Whether there is one that an origin which checks CRC32C may not know.
    pub fn has_beyond_crc32c(&self) -> bool {
        self.sum.as_ref().is_some_and(|(algorithm, _)| *algorithm != ChecksumAlgorithm::Crc32c)
    }

    /// Whether these are the body's.
    pub fn are_of(&self, body: &[u8]) -> bool {
        self.sum.as_ref().is_none_or(|(algorithm, digest)| algorithm.digest(body) == *digest)
            && self.md5.is_none_or(|md5| Md5::digest(body)[..] == md5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_verified_is_passed_on_whatever_its_algorithm() {
        let meta = |name: &str, value: &str| {
            let checksum = Some((name.to_owned(), value.to_owned()));
            ObjectMeta { checksum, ..ObjectMeta::default() }
        };
        for algorithm in ChecksumAlgorithm::ALL {
            let value = STANDARD.encode(algorithm.digest(b"123456789"));
            let sums = BodyChecksums::verified(&meta(algorithm.name(), &value)).unwrap();
            assert!(sums.are_of(b"123456789") && !sums.are_of(b"123456780"), "{algorithm:?}");
            assert_eq!(sums.has_beyond_crc32c(), algorithm != ChecksumAlgorithm::Crc32c);
        }
        assert_eq!(BodyChecksums::crc32c(0xe306_9283), BodyChecksums::crc32c_of(b"123456789"));
        for (name, value) in [("crc32", "AAAA"), ("md6", "AAAAAA=="), ("sha1", "?")] {
            assert_eq!(BodyChecksums::verified(&meta(name, value)), None);
        }
        assert_eq!(BodyChecksums::verified(&ObjectMeta::default()), None);
    }
}
