//! The digests of one body while it goes by.

use md5::{Digest, Md5};
use sha2::Sha256;

use super::checksum::{ChecksumAlgorithm, ChecksumState};

/// Which digests are wanted of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WantedDigests {
    pub(crate) md5: bool,
    pub(crate) sha256: bool,
    pub(crate) checksum: Option<ChecksumAlgorithm>,
}

/// Digests that are being computed.
pub(crate) struct Digests {
    length: u64,
    md5: Option<Md5>,
    sha256: Option<Sha256>,
    checksum: Option<ChecksumState>,
}

/// What came of them; those that were wanted are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Digested {
    /// Of the body, in bytes.
    pub(crate) length: u64,
    pub(crate) md5: Option<[u8; 16]>,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) checksum: Option<Vec<u8>>,
}

impl Digests {
    pub(crate) fn new(wanted: WantedDigests) -> Digests {
        Digests {
            length: 0,
            md5: wanted.md5.then(Md5::new),
            sha256: wanted.sha256.then(Sha256::new),
            checksum: wanted.checksum.map(ChecksumState::new),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(checksum) = &mut self.checksum {
            checksum.update(bytes);
        }
    }

    pub(crate) fn finish(self) -> Digested {
        Digested {
            length: self.length,
            md5: self.md5.map(|md5| md5.finalize().into()),
            sha256: self.sha256.map(|sha256| sha256.finalize().into()),
            checksum: self.checksum.map(ChecksumState::finish),
        }
    }
}
