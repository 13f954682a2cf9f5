//! How fast one core computes MD5: the ceiling of a PutObject whose ETag is one.

use std::time::{Duration, Instant};

use md5::{Digest, Md5};

use super::{Report, nanos_since};

/// Bytes that are digested at a time: more than any cache holds, as they come from a socket.
const BODY_BYTES: usize = 64 << 20;

/// Digests bodies of 64 MiB for a while; an operation is one of them.
pub fn run(duration: Duration) -> Report {
    let mut body = vec![0; BODY_BYTES];
    fastrand::Rng::with_seed(1).fill(&mut body);
    let start = Instant::now();
    let (mut times, mut last) = (Vec::new(), [0; 16]);
    while times.is_empty() || start.elapsed() < duration {
        let begun = Instant::now();
        last = Md5::digest(&body).into();
        times.push(nanos_since(begun));
    }
    let elapsed = start.elapsed();
    std::hint::black_box(last);
    Report::new(times.len() as u64, 0, elapsed, times).of_bytes(BODY_BYTES)
}
