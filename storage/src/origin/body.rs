//! Bodies on their way to an origin: in memory, or read piece by piece from where they lie.
//!
//! Owns nothing but the form. What must hold: a body can be read again from its beginning, as often as an
//! attempt is made, and says the same each time.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

/// Most bytes that are asked of a source at a time.
pub const READ_BYTES_MAX: u64 = 512 << 10;

/// Why a body could not be read. Says nothing about the origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading the body: {0}")]
pub struct BodyError(pub String);

/// A body that is read where it lies, any number of times.
#[async_trait]
pub trait BodySource: Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of it: at least one and at most `range`, from its start on. The caller asks for at most
    /// [`READ_BYTES_MAX`] inside the body. The future may be dropped.
    async fn read(&self, range: Range<u64>) -> Result<Bytes, BodyError>;
}

#[async_trait]
impl BodySource for Bytes {
    fn len(&self) -> u64 {
        Bytes::len(self) as u64
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, BodyError> {
        slice(self, range)
    }
}

fn slice(bytes: &Bytes, range: Range<u64>) -> Result<Bytes, BodyError> {
    let inside = range.start <= range.end && range.end <= bytes.len() as u64;
    match inside {
        true => Ok(bytes.slice(range.start as usize..range.end as usize)),
        false => Err(BodyError(format!("{range:?} of {} bytes", bytes.len()))),
    }
}

/// A body, or a part of one. Cheap to clone.
#[derive(Clone)]
pub struct UploadBody {
    /// Apart from sources, so that what is in memory is sent without a future.
    pub(crate) memory: Option<Bytes>,
    source: Arc<dyn BodySource>,
    range: Range<u64>,
}

impl UploadBody {
    /// The whole of a source.
    pub fn new(source: Arc<dyn BodySource>) -> UploadBody {
        let range = 0..source.len();
        UploadBody { memory: None, source, range }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A part of it, clamped.
    pub fn part(&self, range: Range<u64>) -> UploadBody {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        let memory = self.memory.as_ref().map(|bytes| bytes.slice(start as usize..end as usize));
        let range = self.range.start + start..self.range.start + end;
        UploadBody { memory, source: self.source.clone(), range }
    }

    /// The next bytes from `at` on, at most [`READ_BYTES_MAX`]; empty at the end.
    pub async fn read_at(&self, at: u64) -> Result<Bytes, BodyError> {
        let start = self.range.start.saturating_add(at).min(self.range.end);
        let end = start.saturating_add(READ_BYTES_MAX).min(self.range.end);
        if start == end {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = &self.memory {
            return slice(bytes, at..at + (end - start));
        }
        let bytes = self.source.read(start..end).await?;
        match bytes.is_empty() || bytes.len() as u64 > end - start {
            true => Err(BodyError(format!("{} bytes where {start}..{end} was asked for", bytes.len()))),
            false => Ok(bytes),
        }
    }

    /// All of it in memory; the caller has seen to its length.
    pub async fn collect(&self) -> Result<Bytes, BodyError> {
        if let Some(bytes) = &self.memory {
            return Ok(bytes.clone());
        }
        let first = self.read_at(0).await?;
        if first.len() as u64 == self.len() {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(self.len() as usize);
        all.extend_from_slice(&first);
        while (all.len() as u64) < self.len() {
            all.extend_from_slice(&self.read_at(all.len() as u64).await?);
        }
        Ok(all.freeze())
    }

    /// The CRC32C of its bytes, read once through.
    pub async fn crc32c(&self) -> Result<u32, BodyError> {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        let mut at = 0;
        while at < self.len() {
            let bytes = self.read_at(at).await?;
            digest.update(&bytes);
            at += bytes.len() as u64;
        }
        Ok(digest.finalize() as u32)
    }
}

impl From<Bytes> for UploadBody {
    fn from(bytes: Bytes) -> UploadBody {
        let range = 0..bytes.len() as u64;
        UploadBody { memory: Some(bytes.clone()), source: Arc::new(bytes), range }
    }
}

impl fmt::Debug for UploadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UploadBody({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slow(Bytes);

    #[async_trait]
    impl BodySource for Slow {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        async fn read(&self, range: Range<u64>) -> Result<Bytes, BodyError> {
            // Less than asked for, as a source may.
            slice(&self.0, range.start..range.end.min(range.start + 1_000))
        }
    }

    #[tokio::test]
    async fn parts_of_parts_read_the_same_from_memory_and_from_a_source() {
        let bytes: Bytes = (0..10_007_u32).map(|n| (n % 251) as u8).collect();
        let body = UploadBody::new(Arc::new(Slow(bytes.clone())));
        assert_eq!(body.collect().await.unwrap(), bytes);
        for body in [body, UploadBody::from(bytes.clone())] {
            let part = body.part(100..9_000).part(50..u64::MAX);
            assert_eq!(part.collect().await.unwrap(), bytes.slice(150..9_000));
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[150..9_000]) as u32;
            assert_eq!(part.crc32c().await.unwrap(), crc);
            assert!(part.read_at(8_850).await.unwrap().is_empty());
        }
    }
}
