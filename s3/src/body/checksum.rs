//! The checksums a client may send with a body: five algorithms, in a header or a trailer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::Refused;

/// An algorithm of `x-amz-checksum-*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChecksumAlgorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl ChecksumAlgorithm {
    pub(crate) const ALL: [ChecksumAlgorithm; 5] = [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ];

    /// As in `x-amz-sdk-checksum-algorithm`, any case, and as kept in an object's metadata.
    pub(crate) fn from_name(name: &str) -> Option<ChecksumAlgorithm> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// The algorithm of a header or trailer name in lower case.
    pub(crate) fn from_header(name: &str) -> Option<ChecksumAlgorithm> {
        Self::ALL.into_iter().find(|algorithm| algorithm.header() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        &self.header()["x-amz-checksum-".len()..]
    }

    pub(crate) fn header(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32 => "x-amz-checksum-crc32",
            ChecksumAlgorithm::Crc32c => "x-amz-checksum-crc32c",
            ChecksumAlgorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
            ChecksumAlgorithm::Sha1 => "x-amz-checksum-sha1",
            ChecksumAlgorithm::Sha256 => "x-amz-checksum-sha256",
        }
    }

    pub(crate) fn digest_len(self) -> usize {
        match self {
            ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
            ChecksumAlgorithm::Crc64Nvme => 8,
            ChecksumAlgorithm::Sha1 => 20,
            ChecksumAlgorithm::Sha256 => 32,
        }
    }

    /// The polynomial of a CRC; `None` of a hash.
    pub(crate) fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
        }
    }
}

/// A checksum that is being computed.
pub(crate) enum ChecksumState {
    Crc(ChecksumAlgorithm, crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl ChecksumState {
    pub(crate) fn new(algorithm: ChecksumAlgorithm) -> ChecksumState {
        match (algorithm, algorithm.crc()) {
            (_, Some(crc)) => ChecksumState::Crc(algorithm, crc_fast::Digest::new(crc)),
            (ChecksumAlgorithm::Sha1, _) => ChecksumState::Sha1(Sha1::new()),
            (_, _) => ChecksumState::Sha256(Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            ChecksumState::Crc(_, digest) => digest.update(bytes),
            ChecksumState::Sha1(hash) => hash.update(bytes),
            ChecksumState::Sha256(hash) => hash.update(bytes),
        }
    }

    /// The digest's bytes, as base64 encodes them.
    pub(crate) fn finish(self) -> Vec<u8> {
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
    fn known_values_verify_and_others_do_not() {
        for (name, digest) in KNOWN {
            let algorithm = ChecksumAlgorithm::from_name(&name.to_uppercase()).expect(name);
            let value = BASE64.encode(hex::decode(digest).expect("hex"));
            let checksum = Checksum::parse(algorithm, &value).expect(name);
            let digest = |pieces: &[&[u8]]| {
                let mut state = ChecksumState::new(algorithm);
                pieces.iter().for_each(|piece| state.update(piece));
                state.finish()
            };
            assert_eq!(checksum.verify(&digest(&[b"1234", b"", b"56789"])), Ok(()), "{name}");
            assert_eq!(checksum.verify(&digest(&[b"12345678"])).expect_err(name).code(), "BadDigest");
            assert_eq!(Checksum::computed(algorithm, digest(&[b"123456789"])), checksum, "{name}");
            assert_eq!(ChecksumAlgorithm::from_header(algorithm.header()), Some(algorithm));
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
