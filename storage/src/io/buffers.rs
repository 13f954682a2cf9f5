//! Buffers for long reads, used again while they are warm: the pages of a fresh one cost the kernel more than the
//! read does. And buffers for long writes, which lie where a device can take them from.
//!
//! Owns the spare ones for reads, at most [`SPARE_MAX`]. A buffer in use belongs to the bytes that were read into it, and comes
//! back when nobody holds them any more; how many are in use is bounded by whoever reads.

use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

/// Bytes of a buffer: a range of [`PIECE_BYTES`], wherever in a checked chunk of 64 KiB it begins.
pub(crate) const BUFFER_BYTES: usize = PIECE_BYTES as usize + (64 << 10);
/// Bytes that are best read at a time. More have left the processor's cache before they are sent on; fewer cost more
/// switches between threads.
pub(crate) const PIECE_BYTES: u64 = 512 << 10;
/// Shorter reads get memory of their own length.
const POOLED_BYTES_MIN: usize = 384 << 10;
/// Buffers kept for the next read: 18 MiB.
const SPARE_MAX: usize = 32;

/// See the file's head. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ReadBuffers {
    /// Held for a push or a pop only.
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl ReadBuffers {
    /// A buffer of at least `len` bytes, with whatever is in it, and at most half as much again.
    pub(crate) fn take(&self, len: usize) -> ReadBuffer {
        let bytes = match (POOLED_BYTES_MIN..=BUFFER_BYTES).contains(&len) {
            true => self.spare.lock().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES]),
            false => vec![0; len],
        };
        ReadBuffer { bytes, filled: 0..0, home: self.clone() }
    }
}

/// A buffer; dropped, it is spare again.
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    filled: Range<usize>,
    home: ReadBuffers,
}

impl ReadBuffer {
    /// What was read into this range of it, which lies inside.
    pub(crate) fn into_bytes(mut self, filled: Range<usize>) -> Bytes {
        self.filled = filled;
        Bytes::from_owner(self)
    }
}

impl Deref for ReadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for ReadBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.filled.clone()]
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        if self.bytes.len() != BUFFER_BYTES {
            return;
        }
        let mut spare = self.home.spare.lock();
        if spare.len() < SPARE_MAX {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// A multiple of every device's sectors and of the pages of memory.
pub(crate) const DIRECT_ALIGN: usize = 4096;

/// Bytes to be written, the first of them on a multiple of [`DIRECT_ALIGN`] in memory, as long as no more come than
/// there was room for.
#[derive(Default)]
pub(crate) struct WriteBuffer {
    /// What is in front of the first byte counts for nothing.
    bytes: Vec<u8>,
    start: usize,
}

impl WriteBuffer {
    /// An empty one with room for so many bytes.
    pub(crate) fn with_capacity(capacity: usize) -> WriteBuffer {
        let mut bytes: Vec<u8> = Vec::with_capacity(capacity + DIRECT_ALIGN);
        // At most DIRECT_ALIGN - 1; if it cannot be told, the bytes lie anywhere.
        let start = bytes.as_ptr().align_offset(DIRECT_ALIGN) % DIRECT_ALIGN;
        bytes.resize(start, 0);
        WriteBuffer { bytes, start }
    }

    /// Room for so many bytes in all.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity().saturating_sub(DIRECT_ALIGN)
    }

    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Cut, or filled up with zeros, to so many bytes.
    pub(crate) fn resize(&mut self, len: usize) {
        self.bytes.resize(self.start + len, 0);
    }
}

impl Deref for WriteBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for WriteBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_slice_of_it_has_gone() {
        let buffers = ReadBuffers::default();
        let mut buffer = buffers.take(BUFFER_BYTES);
        buffer[10..13].copy_from_slice(b"abc");
        let bytes = buffer.into_bytes(10..13);
        let slice = bytes.slice(1..2);
        drop(bytes);
        assert_eq!((&slice[..], buffers.spare.lock().len()), (&b"b"[..], 0));
        drop(slice);
        assert_eq!(buffers.spare.lock().len(), 1);
        let many: Vec<ReadBuffer> = (0..2 * SPARE_MAX).map(|_| buffers.take(POOLED_BYTES_MIN)).collect();
        drop(many);
        assert_eq!(buffers.spare.lock().len(), SPARE_MAX);
    }

    #[test]
    fn a_write_buffer_is_aligned_as_long_as_it_has_room() {
        for capacity in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let mut buffer = WriteBuffer::with_capacity(capacity);
            assert!(buffer.is_empty() && buffer.capacity() >= capacity);
            let address = buffer.as_ptr() as usize;
            assert_eq!(address % DIRECT_ALIGN, 0);
            buffer.extend_from_slice(&vec![3; capacity / 2]);
            buffer.resize(capacity);
            assert_eq!((buffer.as_ptr() as usize, buffer.len()), (address, capacity));
            assert!(buffer[..capacity / 2].iter().all(|byte| *byte == 3));
            assert!(buffer[capacity / 2..].iter().all(|byte| *byte == 0));
            buffer.resize(0);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_does_not_fit_a_buffer_holds_its_own_length() {
        let buffers = ReadBuffers::default();
        for len in [0, 1, POOLED_BYTES_MIN - 1, BUFFER_BYTES + 1] {
            assert_eq!(buffers.take(len).len(), len);
        }
        assert!(buffers.spare.lock().is_empty());
    }
}
