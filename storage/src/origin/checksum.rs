//! Checksums of bodies that go to an origin: what a client's upload was verified with, or what is computed here.
//!
//! Algorithms as S3 has them: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;

use crate::object::ObjectMeta;

/// Checksums of the body that are known already; the origin checks what it supports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BodyChecksums {
    /// CRC32.
    pub crc32: Option<u32>,
    /// CRC32C.
    pub crc32c: Option<u32>,
    /// CRC64NVME.
    pub crc64nvme: Option<u64>,
    /// SHA-1.
    pub sha1: Option<[u8; 20]>,
    /// SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// MD5.
    pub md5: Option<[u8; 16]>,
}

impl BodyChecksums {
    /// The CRC32C of a body, for origins that check nothing else.
    pub fn crc32c_of(body: &[u8]) -> BodyChecksums {
        BodyChecksums { crc32c: Some(crc32c(body)), ..BodyChecksums::default() }
    }

    /// What was verified when the body arrived; `None` if nothing was, or not of the whole body.
    pub fn verified(meta: &ObjectMeta) -> Option<BodyChecksums> {
        let (algorithm, value) = meta.checksum.as_ref()?;
        let value = STANDARD.decode(value).ok()?;
        let mut sums = BodyChecksums::default();
        match algorithm.as_str() {
            "crc32" => sums.crc32 = Some(u32::from_be_bytes(value.try_into().ok()?)),
            "crc32c" => sums.crc32c = Some(u32::from_be_bytes(value.try_into().ok()?)),
            "crc64nvme" => sums.crc64nvme = Some(u64::from_be_bytes(value.try_into().ok()?)),
            "sha1" => sums.sha1 = Some(value.try_into().ok()?),
            "sha256" => sums.sha256 = Some(value.try_into().ok()?),
            _ => return None,
        }
        Some(sums)
    }

    /// Whether there is one that S3 takes in an `x-amz-checksum-` header.
    pub fn has_flexible(&self) -> bool {
        self.crc32c.is_some() || self.has_beyond_crc32c()
    }

    /// Whether there is one that an origin which checks CRC32C may not know.
    pub fn has_beyond_crc32c(&self) -> bool {
        let BodyChecksums { crc32, crc32c: _, crc64nvme, sha1, sha256, md5: _ } = self;
        crc32.is_some() || crc64nvme.is_some() || sha1.is_some() || sha256.is_some()
    }

    /// Whether these are the body's.
    pub fn are_of(&self, body: &[u8]) -> bool {
        let crc = |algorithm| crc_fast::checksum(algorithm, body);
        let BodyChecksums { crc32, crc32c: castagnoli, crc64nvme, sha1, sha256, md5 } = self;
        crc32.is_none_or(|sum| u64::from(sum) == crc(CrcAlgorithm::Crc32IsoHdlc))
            && castagnoli.is_none_or(|sum| sum == crc32c(body))
            && crc64nvme.is_none_or(|sum| sum == crc(CrcAlgorithm::Crc64Nvme))
            && sha1.is_none_or(|sum| Sha1::digest(body)[..] == sum)
            && sha256.is_none_or(|sum| Sha256::digest(body)[..] == sum)
            && md5.is_none_or(|sum| Md5::digest(body)[..] == sum)
    }
}

fn crc32c(body: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, body) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `123456789`: the check values of the CRC catalogue, and of RFC 3174 and FIPS 180-4 implementations.
    const KNOWN: [(&str, &str); 5] = [
        ("crc32", "cbf43926"),
        ("crc32c", "e3069283"),
        ("crc64nvme", "ae8b14860a799888"),
        ("sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("sha256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ];

    #[test]
    fn what_a_client_verified_is_passed_on_whatever_its_algorithm() {
        for (algorithm, sum) in KNOWN {
            let value = STANDARD.encode(hex::decode(sum).unwrap());
            let meta = ObjectMeta { checksum: Some((algorithm.to_owned(), value)), ..ObjectMeta::default() };
            let sums = BodyChecksums::verified(&meta).unwrap();
            assert!(sums.are_of(b"123456789") && !sums.are_of(b"123456780"), "{algorithm}");
            assert_eq!(sums.has_beyond_crc32c(), algorithm != "crc32c");
            assert!(sums.has_flexible());
        }
        for (algorithm, value) in [("crc32", "AAAA"), ("md6", "AAAAAA=="), ("sha1", "?")] {
            let checksum = Some((algorithm.to_owned(), value.to_owned()));
            assert_eq!(BodyChecksums::verified(&ObjectMeta { checksum, ..ObjectMeta::default() }), None);
        }
        assert_eq!(BodyChecksums::verified(&ObjectMeta::default()), None);
    }
}
