//! Who a data directory is: its cluster, its node, its disk.
//!
//! One small file, written and synced before anything else is; a copy of it never joins another cluster.
//!
//! ```text
//! identity/node: magic "FBID" layout:u32le=1 cluster:16 node:u64le disk:u64le crc32c:u32le
//! ```

use std::io::IoSlice;
use std::sync::Arc;

use crate::io::{Disk, DiskError};
use crate::object::ClusterId;

const DIR: &str = "identity";
const NAME: &str = "node";
const PATH: &str = "identity/node";
const MAGIC: &[u8; 4] = b"FBID";
const LAYOUT: u32 = 1;
const LEN: usize = 44;

/// Number of a disk: random, a new one for every data directory. Also its id in the Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiskId(pub u64);

/// See the file's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// Number of the node in the cluster's descriptor.
    pub node: u64,
    /// This data directory.
    pub disk: DiskId,
}

/// Why the identity could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is damaged although the directory is in use.
    #[error("the file identity/node is damaged; restore it from a copy, the data beside it belongs to it")]
    Damaged,
    /// No random numbers.
    #[error("the operating system gave no random numbers: {0}")]
    Random(getrandom::Error),
}

impl Identity {
    /// Reads the identity, or makes one in a new directory: durable when this returns.
    pub(crate) fn open(disk: &Arc<dyn Disk>) -> Result<Identity, IdentityError> {
        disk.create_dir(DIR)?;
        if disk.list(DIR)?.iter().any(|name| name == NAME) {
            let file = disk.open(PATH)?;
            let mut bytes = [0; LEN];
            if file.len()? >= LEN as u64 {
                file.read_at(&mut bytes, 0)?;
                if let Some(identity) = Identity::decode(&bytes) {
                    return Ok(identity);
                }
            }
            if disk.list("journal").is_ok_and(|files| !files.is_empty()) {
                return Err(IdentityError::Damaged);
            }
        }
        let identity = Identity::random()?;
        let file = disk.create(PATH)?;
        file.write_at(&[IoSlice::new(&identity.encode())], 0)?;
        file.sync_data()?;
        disk.sync_dir(DIR)?;
        Ok(identity)
    }

    fn random() -> Result<Identity, IdentityError> {
        let mut bytes = [0; 24];
        getrandom::fill(&mut bytes).map_err(IdentityError::Random)?;
        let (cluster, disk) = bytes.split_at(16);
        let disk = disk.first_chunk::<8>().map_or(1, |disk| u64::from_le_bytes(*disk));
        let cluster = cluster.first_chunk::<16>().copied().unwrap_or_default();
        // Zero means "none" to Raft.
        Ok(Identity { cluster: ClusterId(cluster), node: 1, disk: DiskId(disk.max(1)) })
    }

    fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[..4].copy_from_slice(MAGIC);
        out[4..8].copy_from_slice(&LAYOUT.to_le_bytes());
        out[8..24].copy_from_slice(&self.cluster.0);
        out[24..32].copy_from_slice(&self.node.to_le_bytes());
        out[32..40].copy_from_slice(&self.disk.0.to_le_bytes());
        let crc = checksum(&out[..40]);
        out[40..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; LEN]) -> Option<Identity> {
        let number = |at: usize| bytes[at..].first_chunk::<8>().map(|n| u64::from_le_bytes(*n));
        let crc = u32::from_le_bytes(*bytes.last_chunk::<4>()?);
        let layout = u32::from_le_bytes(*bytes[4..].first_chunk::<4>()?);
        if &bytes[..4] != MAGIC || layout != LAYOUT || crc != checksum(&bytes[..40]) {
            return None;
        }
        let cluster = ClusterId(*bytes[8..].first_chunk::<16>()?);
        Some(Identity { cluster, node: number(24)?, disk: DiskId(number(32)?) })
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
