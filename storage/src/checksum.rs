//! The checksums that S3 knows of a body: five algorithms, as clients send them and as origins check them.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>.

use crc_fast::CrcAlgorithm;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// An algorithm of `x-amz-checksum-*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// CRC-32, as of ISO HDLC.
    Crc32,
    /// CRC-32C, as of iSCSI.
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl ChecksumAlgorithm {
    /// All of them.
    pub const ALL: [ChecksumAlgorithm; 5] = [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ];

    /// As in `x-amz-sdk-checksum-algorithm`, any case, and as kept in an object's metadata.
    pub fn from_name(name: &str) -> Option<ChecksumAlgorithm> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// The algorithm of a header or trailer name in lower case.
    pub fn from_header(name: &str) -> Option<ChecksumAlgorithm> {
        Self::ALL.into_iter().find(|algorithm| algorithm.header() == name)
    }

    /// Lower case, as kept in an object's metadata.
    pub fn name(self) -> &'static str {
        &self.header()["x-amz-checksum-".len()..]
    }

    /// The header, or trailer, that it comes in.
    pub fn header(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32 => "x-amz-checksum-crc32",
            ChecksumAlgorithm::Crc32c => "x-amz-checksum-crc32c",
            ChecksumAlgorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
            ChecksumAlgorithm::Sha1 => "x-amz-checksum-sha1",
            ChecksumAlgorithm::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Length of a digest, in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
            ChecksumAlgorithm::Crc64Nvme => 8,
            ChecksumAlgorithm::Sha1 => 20,
            ChecksumAlgorithm::Sha256 => 32,
        }
    }

    /// The polynomial of a CRC; `None` of a hash.
    pub fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
        }
    }

    /// The digest of these bytes.
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        let mut state = ChecksumState::new(self);
        state.update(bytes);
        state.finish()
    }
}

/// A checksum that is being computed.
pub enum ChecksumState {
    /// One of the CRCs.
    Crc(ChecksumAlgorithm, crc_fast::Digest),
    /// SHA-1.
    Sha1(Sha1),
    /// SHA-256.
    Sha256(Sha256),
}

impl ChecksumState {
    /// Of no bytes yet.
    pub fn new(algorithm: ChecksumAlgorithm) -> ChecksumState {
        match (algorithm, algorithm.crc()) {
            (_, Some(crc)) => ChecksumState::Crc(algorithm, crc_fast::Digest::new(crc)),
            (ChecksumAlgorithm::Sha1, _) => ChecksumState::Sha1(Sha1::new()),
            (_, _) => ChecksumState::Sha256(Sha256::new()),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            ChecksumState::Crc(_, digest) => digest.update(bytes),
            ChecksumState::Sha1(hash) => hash.update(bytes),
            ChecksumState::Sha256(hash) => hash.update(bytes),
        }
    }

    /// The digest's bytes, as base64 encodes them.
    pub fn finish(self) -> Vec<u8> {
        match self {
            // The lower bytes of the number, the most significant first.
            ChecksumState::Crc(algorithm, digest) => {
                digest.finalize().to_be_bytes()[8 - algorithm.digest_len()..].to_vec()
            }
            ChecksumState::Sha1(hash) => hash.finalize().to_vec(),
            ChecksumState::Sha256(hash) => hash.finalize().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the CRC catalogue and of FIPS 180, over "123456789".
    const KNOWN: [(&str, &str); 5] = [
        ("crc32", "cbf43926"),
        ("crc32c", "e3069283"),
        ("crc64nvme", "ae8b14860a799888"),
        ("sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("sha256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ];

    #[test]
    fn known_values_however_the_bytes_are_cut() {
        for (name, digest) in KNOWN {
            let algorithm = ChecksumAlgorithm::from_name(&name.to_uppercase()).expect(name);
            let mut state = ChecksumState::new(algorithm);
            [&b"1234"[..], b"", b"56789"].into_iter().for_each(|piece| state.update(piece));
            assert_eq!(hex::encode(state.finish()), digest, "{name}");
            assert_eq!(hex::encode(algorithm.digest(b"123456789")), digest, "{name}");
            assert_eq!(digest.len(), 2 * algorithm.digest_len());
            assert_eq!(ChecksumAlgorithm::from_header(algorithm.header()), Some(algorithm));
        }
        assert_eq!(ChecksumAlgorithm::from_name("md6"), None);
    }
}
