//! Blocks: what is read back from an origin at once, and so in which pieces bodies lie that an origin has, or will have.

/// Length of a block, in bytes. Apply cuts by it what it adopts, so it is part of what the log means, and never changes.
pub const BLOCK_BYTES: u64 = 4 << 20;

/// Length of the pieces of a body of `len` bytes: a block, or as many of them as leave at most `pieces_max` pieces.
pub(crate) fn piece_bytes(len: u64, pieces_max: usize) -> u64 {
    BLOCK_BYTES * len.div_ceil(BLOCK_BYTES).div_ceil(pieces_max as u64).max(1)
}
