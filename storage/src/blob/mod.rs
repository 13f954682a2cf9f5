//! Segments: recycled files that hold bodies too large for LMDB.
//!
//! Owns: the files under `blob/`, what an extent looks like, generations, pins. Does not own: which
//! extents are needed (the caller keeps pointers and [`SegmentUsage`] in its tables and says when a segment
//! is dead), and what a blob id means.
//!
//! Must hold:
//! - A pointer gives the bytes it was made for, or an error; never other bytes. Identity, generation and
//!   chunk number are in every checksum, and a recycled segment has a new generation on disk before
//!   anything is written into it.
//! - No synced block of 4 KiB is written again while its segment's generation lasts: a torn write harms
//!   only what nobody points to.
//! - A pinned segment is not recycled.
//!
//! - A segment is free if neither the tables name it nor a pin holds it. Staged blobs that no table names yet
//!   hold pins in the place map.
//!
//! A crash leaves: extents that no table names, at the end of segments or in segments of their own. A start
//! never writes on in an old segment. It looks for staged extents, which the log may name, wherever the tables
//! cannot vouch for all that a segment holds; every other extent that they do not name is garbage.

mod extent;
mod lane;
mod places;
mod segment;
mod spill;
mod store;
#[cfg(test)]
mod tests;
mod writers;

pub(crate) use lane::{Lane, PieceEncoder};
pub use segment::SegmentPin;
pub(crate) use segment::StagePin;
pub use spill::SpillWriter;
pub use store::{FoundExtent, SegmentConfig, SegmentStore};
pub(crate) use writers::{Answer, SegmentWriters};

use crate::io::DiskError;

/// The name of a blob: unique for ever.
///
/// ```text
/// made by apply   a = version (its first bit is 0)              b = 0, 1, ...
/// staged          a = 1 << 63 | node:15 << 48 | boot number:48  b = counter of that run of the node, from 1
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId {
    /// First half.
    pub a: u64,
    /// Second half.
    pub b: u64,
}

impl BlobId {
    const STAGED: u64 = 1 << 63;
    const BOOT_BITS: u32 = 48;
    /// The largest node number that a staged blob can name.
    pub const NODE_MAX: u16 = (1 << 15) - 1;
    /// The largest boot number.
    pub const BOOT_MAX: u64 = (1 << Self::BOOT_BITS) - 1;

    /// The name of the `n`th piece that this node stages in this run.
    pub fn staged(node: u16, boot: u64, n: u64) -> BlobId {
        debug_assert!(node <= Self::NODE_MAX && boot <= Self::BOOT_MAX, "node {node}, boot {boot}");
        let node = u64::from(node & Self::NODE_MAX);
        BlobId { a: Self::STAGED | node << Self::BOOT_BITS | (boot & Self::BOOT_MAX), b: n }
    }

    /// Whether a node staged it, as opposed to apply.
    pub fn is_staged(self) -> bool {
        self.a & Self::STAGED != 0
    }

    /// The node that staged it; meaningless for a blob that apply made.
    pub fn node(self) -> u16 {
        (self.a >> Self::BOOT_BITS) as u16 & Self::NODE_MAX
    }

    /// The run of that node; meaningless for a blob that apply made.
    pub fn boot(self) -> u64 {
        self.a & Self::BOOT_MAX
    }
}

/// A staged body is cut into pieces of at most this many bytes; each is a blob.
pub const PIECE_BYTES_MAX: u64 = 32 << 20;

/// A segment's fixed name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

impl SegmentId {
    pub(crate) fn path(self) -> String {
        format!("{DIR}/segment-{:06}", self.0)
    }

    fn of_name(name: &str) -> Option<SegmentId> {
        let id = SegmentId(name.strip_prefix("segment-")?.parse().ok()?);
        // Only the one spelling that `path` gives: no two names for one segment.
        id.path().ends_with(&format!("/{name}")).then_some(id)
    }
}

/// The segments' directory inside the data directory.
const DIR: &str = "blob";

/// Which use of a segment's file is meant. Never repeats, never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// Where a body lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pointer {
    /// The file.
    pub segment: SegmentId,
    /// Bytes from the file's start to the extent.
    pub offset: u32,
    /// The use of the file for which this holds.
    pub generation: Generation,
    /// Bytes of the body.
    pub length: u64,
}

impl Pointer {
    /// Bytes of an encoded pointer.
    pub const LEN: usize = 24;

    /// Segment, offset, generation, length, little-endian. The table that stores it carries the version.
    pub fn encode(&self) -> [u8; Pointer::LEN] {
        let mut bytes = [0; Pointer::LEN];
        bytes[0..4].copy_from_slice(&self.segment.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.generation.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// The pointer that [`Pointer::encode`] wrote. Any 24 bytes decode; what they name is checked by the read.
    pub fn decode(bytes: &[u8; Pointer::LEN]) -> Pointer {
        let (segment, rest) = extent::split_u32(bytes);
        let (offset, rest) = extent::split_u32(rest);
        let (generation, rest) = extent::split_u64(rest);
        let (length, _) = extent::split_u64(rest);
        Pointer { segment: SegmentId(segment), offset, generation: Generation(generation), length }
    }

    /// What the extent takes in its segment: to be added to, and later taken from, its live bytes.
    pub fn bytes_on_disk(&self) -> u64 {
        extent::extent_len(self.length)
    }
}

/// How much of a segment is in use: one row per segment, kept by the caller beside the pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentUsage {
    /// The file.
    pub segment: SegmentId,
    /// The use of the file that is accounted here.
    pub generation: Generation,
    /// Bytes of the extents that pointers name; at 0 the segment may be recycled.
    pub live_bytes: u64,
}

impl SegmentUsage {
    /// Bytes of an encoded row.
    pub const LEN: usize = 20;

    /// Segment (big-endian, so that rows sort), generation and live bytes (little-endian).
    pub fn encode(&self) -> [u8; SegmentUsage::LEN] {
        let mut bytes = [0; SegmentUsage::LEN];
        bytes[0..4].copy_from_slice(&self.segment.0.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.generation.0.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.live_bytes.to_le_bytes());
        bytes
    }

    /// The row that [`SegmentUsage::encode`] wrote.
    pub fn decode(bytes: &[u8; SegmentUsage::LEN]) -> SegmentUsage {
        let (segment, rest) = extent::split_u32(bytes);
        let (generation, rest) = extent::split_u64(rest);
        let (live_bytes, _) = extent::split_u64(rest);
        let segment = SegmentId(segment.swap_bytes());
        SegmentUsage { segment, generation: Generation(generation), live_bytes }
    }
}

/// An error of the segment store, by what the caller has to do.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// A setting is out of range.
    #[error("blob segments: {0}")]
    Config(String),

    /// A call to the disk failed that made nothing durable and damaged nothing.
    #[error("blob segments: {0}")]
    Disk(#[source] DiskError),

    /// The file system is full. What was spilled and not finished is lost; try again once there is space.
    #[error("blob segments: no space left ({0}); free some on this file system")]
    NoSpace(#[source] DiskError),

    /// A sync failed: never tried again, the process must end.
    #[error("blob segments: sync failed, the process must end: {0}")]
    SyncFailed(#[source] DiskError),

    /// A body that no segment can hold.
    #[error("blob segments: a body of {length} bytes does not fit a segment, which takes {length_max}")]
    TooLarge {
        /// Its length.
        length: u64,
        /// What a fresh segment takes.
        length_max: u64,
    },

    /// The segment was recycled since the pointer was made, or the pointer is of another blob: read the
    /// row again.
    #[error("blob segments: the pointer to {} at byte {} is out of date", pointer.segment.path(), pointer.offset)]
    Stale {
        /// The pointer as it was given.
        pointer: Pointer,
    },

    /// The bytes are not those that were written.
    #[error("blob segments: corruption in {file} at byte {offset}: {detail}")]
    Corrupt {
        /// Relative to the data directory.
        file: String,
        /// The header or chunk that is bad.
        offset: u64,
        /// What is wrong with it.
        detail: &'static str,
    },

    /// The range asked for is not inside the body.
    #[error("blob segments: bytes {start}..{end} of a body of {length}")]
    OutOfRange {
        /// First byte asked for.
        start: u64,
        /// Behind the last one.
        end: u64,
        /// The body's length.
        length: u64,
    },

    /// Somebody reads from the segment, or it is being written: recycle it later.
    #[error("blob segments: {} is in use", segment.path())]
    InUse {
        /// The segment.
        segment: SegmentId,
    },
}

impl BlobError {
    fn of_write(error: DiskError) -> BlobError {
        if error.is_no_space() { BlobError::NoSpace(error) } else { BlobError::Disk(error) }
    }
}
