//! MD5 of what an origin without checksums gets, beside the sockets.
//!
//! Owns a few threads, started with the first body that is long. On a worker of the runtime a part of 8 MiB would hold
//! up every connection of that worker; among tokio's blocking threads nothing would bound how many run at once.
//!
//! Bounds: [`THREADS_MAX`] at work, [`WAITING_MAX`] behind them; further ones wait for their turn. Their bytes are those
//! of the requests they belong to.

use std::sync::OnceLock;

use bytes::Bytes;
use md5::{Digest, Md5};

use crate::io::threads::ReadPool;
use crate::origin::{ErrorClass, Landing, OriginError};

const THREADS_MAX: usize = 4;
const WAITING_MAX: usize = 64;
/// Shorter bodies are digested where they are.
const LONG_BYTES: usize = 32 << 10;

/// See the file's head.
#[derive(Default)]
pub(super) struct Digests {
    threads: OnceLock<std::io::Result<ReadPool>>,
}

impl Digests {
    /// The MD5 of these bytes. An error says that there is no thread for it; nothing was sent then.
    pub(super) async fn md5(&self, bytes: Bytes) -> Result<Vec<u8>, OriginError> {
        if bytes.len() < LONG_BYTES {
            return Ok(Md5::digest(&bytes).to_vec());
        }
        let failed = |text: String| OriginError::new(ErrorClass::Fenced, Landing::NotApplied, text);
        let threads = self.threads.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            ReadPool::new("origin-digest", cores.min(THREADS_MAX), WAITING_MAX)
        });
        let threads = threads.as_ref().map_err(|error| failed(format!("no thread for the MD5: {error}")))?;
        let digest = threads.run(move || Md5::digest(&bytes).to_vec()).await;
        digest.map_err(|_| failed("the MD5 was not computed".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn short_and_long_bodies_have_the_digest_they_should_and_only_long_ones_need_a_thread() {
        let digests = Digests::default();
        for len in [0, 1, LONG_BYTES - 1] {
            let bytes = Bytes::from(vec![b'x'; len]);
            assert_eq!(digests.md5(bytes.clone()).await.unwrap(), Md5::digest(&bytes).to_vec());
        }
        assert!(digests.threads.get().is_none());
        let bytes: Bytes = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
        let many = (0..20).map(|_| digests.md5(bytes.clone()));
        for digest in futures_util::future::join_all(many).await {
            assert_eq!(digest.unwrap(), Md5::digest(&bytes).to_vec());
        }
        assert!(digests.threads.get().is_some());
    }
}
