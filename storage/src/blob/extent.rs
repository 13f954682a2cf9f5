//! The bytes of a segment on disk, version 1. All integers are little-endian.
//!
//! ```text
//! segment  [header 64, zeros to 4096][spill][spill]...   each spill begins on a multiple of 4096
//!          or with staged pieces: [header][extent][extent]...   each begins on a multiple of 4096, and is padded
//! header   crc u32 · magic u32 · version u32 · segment u32 · generation u64 · opened u64 · zeros to 64
//! spill    [extent][extent]...                           each extent begins on a multiple of 8
//! extent   [header 48][chunk][chunk]...
//! header   crc u32 · magic u32 · generation u64 · blob id 2 x u64 · length u64 · own offset u32 · segment u32
//! chunk    crc u32 · up to 65,536 bytes of the body
//! ```
//!
//! A chunk's CRC32C is seeded by the blob id, the generation, the body's length and the chunk's number:
//! no chunk can pass for another one. Generations are random, so no client can store bytes that look like
//! an extent.

use super::{BlobId, Generation, Pointer, SegmentId};
use std::ops::Range;

/// Where the first spill begins, and what each begins on a multiple of.
pub(super) const BLOCK: u64 = 4096;
pub(super) const SEGMENT_HEADER_LEN: usize = 64;
pub(super) const EXTENT_HEADER_LEN: usize = 48;
/// Extents begin on multiples of this.
pub(super) const EXTENT_ALIGN: u64 = 8;
/// Body bytes under one checksum.
pub(super) const CHUNK_LEN: u64 = 64 * 1024;
/// The checksum before each chunk.
pub(super) const CHUNK_CRC_LEN: u64 = 4;

const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"FBS\x01");
const EXTENT_MAGIC: u32 = u32::from_le_bytes(*b"FBX\x01");
const VERSION: u32 = 1;

/// `opened`: the number of the use, counted over all segments: older ones are lower.
pub(super) fn encode_segment_header(
    segment: SegmentId,
    generation: Generation,
    opened: u64,
) -> [u8; SEGMENT_HEADER_LEN] {
    let mut bytes = [0; SEGMENT_HEADER_LEN];
    bytes[4..8].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&segment.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&generation.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&opened.to_le_bytes());
    let crc = crc32c(0, &bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn decode_segment_header(
    bytes: &[u8; SEGMENT_HEADER_LEN],
) -> Option<(SegmentId, Generation, u64)> {
    let (crc, rest) = split_u32(bytes);
    let (magic, fields) = split_u32(rest);
    let (version, fields) = split_u32(fields);
    let (segment, fields) = split_u32(fields);
    let (generation, fields) = split_u64(fields);
    let (opened, _) = split_u64(fields);
    let whole = crc == crc32c(0, rest) && magic == SEGMENT_MAGIC && version == VERSION;
    whole.then_some((SegmentId(segment), Generation(generation), opened))
}

/// What an extent says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExtentHeader {
    pub(super) blob: BlobId,
    pub(super) pointer: Pointer,
}

impl ExtentHeader {
    pub(super) fn encode(&self) -> [u8; EXTENT_HEADER_LEN] {
        let mut bytes = [0; EXTENT_HEADER_LEN];
        bytes[4..8].copy_from_slice(&EXTENT_MAGIC.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.pointer.generation.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.blob.a.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.blob.b.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.pointer.length.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.pointer.offset.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.pointer.segment.0.to_le_bytes());
        let crc = crc32c(0, &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, if it is whole.
    pub(super) fn decode(bytes: &[u8]) -> Option<ExtentHeader> {
        let bytes: &[u8; EXTENT_HEADER_LEN] = bytes.first_chunk()?;
        let (crc, rest) = split_u32(bytes);
        // The magic first: a scan asks this at many places.
        let (magic, fields) = split_u32(rest);
        if magic != EXTENT_MAGIC || crc != crc32c(0, rest) {
            return None;
        }
        let (generation, fields) = split_u64(fields);
        let (a, fields) = split_u64(fields);
        let (b, fields) = split_u64(fields);
        let (length, fields) = split_u64(fields);
        let (offset, fields) = split_u32(fields);
        let (segment, _) = split_u32(fields);
        let generation = Generation(generation);
        let pointer = Pointer { segment: SegmentId(segment), offset, generation, length };
        Some(ExtentHeader { blob: BlobId { a, b }, pointer })
    }

    /// Seeds the chunks' checksums.
    pub(super) fn chunk_seed(&self) -> ChunkSeed {
        let mut bytes = [0; 32];
        bytes[0..8].copy_from_slice(&self.blob.a.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.blob.b.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.pointer.generation.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.pointer.length.to_le_bytes());
        ChunkSeed(crc32c(0, &bytes))
    }
}

/// The checksum of everything that is the same for all chunks of an extent.
#[derive(Clone, Copy)]
pub(super) struct ChunkSeed(u32);

impl ChunkSeed {
    pub(super) fn crc(self, number: u64, chunk: &[u8]) -> u32 {
        let mut crc = self.begin(number);
        crc.update(chunk);
        crc.finish()
    }

    /// A chunk whose bytes arrive bit by bit.
    pub(super) fn begin(self, number: u64) -> ChunkCrc {
        let mut digest = crc_from(self.0);
        digest.update(&number.to_le_bytes());
        ChunkCrc(digest)
    }
}

/// The checksum of a chunk so far.
pub(super) struct ChunkCrc(crc_fast::Digest);

impl ChunkCrc {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> u32 {
        self.0.finalize() as u32
    }
}

/// Bytes of an extent whose body has `length` bytes.
pub(super) fn extent_len(length: u64) -> u64 {
    let chunks = length.div_ceil(CHUNK_LEN);
    (EXTENT_HEADER_LEN as u64).saturating_add(length).saturating_add(chunks.saturating_mul(CHUNK_CRC_LEN))
}

/// The chunks that hold a range of the body, by number; none for an empty range.
pub(super) fn chunks_of(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return 0..0;
    }
    range.start / CHUNK_LEN..range.end.div_ceil(CHUNK_LEN)
}

/// Bytes of the chunks that hold a range of a body of `length` bytes.
pub(super) fn cover_len(range: &Range<u64>, length: u64) -> usize {
    let chunks = chunks_of(range);
    let end = chunks.end.saturating_mul(CHUNK_LEN).min(length);
    end.saturating_sub(chunks.start * CHUNK_LEN) as usize
}

/// Where in the extent a chunk begins, its checksum included; for the number behind the last chunk, the
/// extent's end.
pub(super) fn chunk_start(number: u64, length: u64) -> u64 {
    EXTENT_HEADER_LEN as u64 + number * CHUNK_CRC_LEN + (number * CHUNK_LEN).min(length)
}

fn crc_from(seed: u32) -> crc_fast::Digest {
    crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, u64::from(!seed))
}

fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let mut digest = crc_from(seed);
    digest.update(bytes);
    digest.finalize() as u32
}

/// Reads fields off the front of bytes whose number is known to suffice.
pub(super) fn split_u32(bytes: &[u8]) -> (u32, &[u8]) {
    let (head, rest) = bytes.split_first_chunk().expect("the caller's array is long enough");
    (u32::from_le_bytes(*head), rest)
}

pub(super) fn split_u64(bytes: &[u8]) -> (u64, &[u8]) {
    let (head, rest) = bytes.split_first_chunk().expect("the caller's array is long enough");
    (u64::from_le_bytes(*head), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> ExtentHeader {
        let pointer =
            Pointer { segment: SegmentId(3), offset: 4096, generation: Generation(0xfeed), length: 70_000 };
        ExtentHeader { blob: BlobId { a: 1, b: 2 }, pointer }
    }

    #[test]
    fn headers_survive_the_codec_and_no_flipped_bit() {
        assert_eq!(ExtentHeader::decode(&header().encode()), Some(header()));
        for bit in 0..EXTENT_HEADER_LEN * 8 {
            let mut bytes = header().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ExtentHeader::decode(&bytes), None, "bit {bit}");
        }
        let bytes = encode_segment_header(SegmentId(9), Generation(7), 5);
        assert_eq!(decode_segment_header(&bytes), Some((SegmentId(9), Generation(7), 5)));
    }

    #[test]
    fn chunk_checksum_depends_on_identity_generation_and_number() {
        let seed = |change: fn(&mut ExtentHeader)| {
            let mut header = header();
            change(&mut header);
            header.chunk_seed()
        };
        let chunk = [5; 100];
        let crcs = [
            seed(|_| {}).crc(0, &chunk),
            seed(|_| {}).crc(1, &chunk),
            seed(|header| header.blob.b += 1).crc(0, &chunk),
            seed(|header| header.pointer.generation.0 += 1).crc(0, &chunk),
            seed(|header| header.pointer.length += 1).crc(0, &chunk),
        ];
        for (at, crc) in crcs.iter().enumerate() {
            assert!(!crcs[at + 1..].contains(crc), "{crcs:x?}");
        }
    }

    #[test]
    fn chunks_and_places_agree_at_the_edges() {
        assert_eq!(chunks_of(&(0..CHUNK_LEN)), 0..1);
        assert_eq!(chunks_of(&(CHUNK_LEN - 1..CHUNK_LEN + 1)), 0..2);
        assert_eq!(chunks_of(&(5..5)), 0..0);
        for length in [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 10 * CHUNK_LEN] {
            let chunks = length.div_ceil(CHUNK_LEN);
            assert_eq!(chunk_start(chunks, length), extent_len(length), "{length}");
        }
    }
}
