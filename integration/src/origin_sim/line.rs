//! The line to a distant origin, for benchmarks: every answer comes a while later, and all answers together come no
//! faster than so many bytes per second. Bodies of requests are not slowed down.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use s3s::Body;
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes that have their turn at once.
const TURN_BYTES: usize = 64 * 1024;
/// Timers are no finer: shorter waits are left to the next turn.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// How much of the time that nobody used may be made up for: a single answer whose waits end late has the whole rate.
const BURST: Duration = Duration::from_millis(10);

/// A line.
#[derive(Debug)]
pub struct Line {
    bytes_per_second: f64,
    latency: Duration,
    /// When all bytes that had their turn have passed.
    free_at: Mutex<Option<Instant>>,
}

impl Line {
    /// A line of this rate, on which an answer begins `latency` after its request.
    pub fn new(bytes_per_second: f64, latency: Duration) -> Self {
        Self { bytes_per_second, latency, free_at: Mutex::new(None) }
    }

    /// When so many bytes that come now have passed, behind all that came before.
    fn passed_at(&self, now: Instant, bytes: usize) -> Instant {
        #[allow(clippy::cast_precision_loss, reason = "a turn of at most 64 KiB")]
        let took = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        let mut free_at = self.free_at.lock();
        let from = now.checked_sub(BURST).unwrap_or(now);
        let end = free_at.map_or(now, |free_at| free_at.max(from)) + took;
        *free_at = Some(end);
        end
    }

    /// Waits until so many bytes have passed.
    async fn pass(&self, bytes: usize) {
        let now = Instant::now();
        let passed_at = self.passed_at(now, bytes);
        if passed_at > now + WAIT_MIN {
            sleep_until(passed_at).await;
        }
    }
}

/// The answer at the other end of the line.
pub(super) async fn over(line: &'static Line, response: Response<Body>) -> Response<Body> {
    sleep(line.latency).await;
    let (parts, body) = response.into_parts();
    let turns = stream::unfold((body, Bytes::new()), move |(mut body, mut rest)| async move {
        while rest.is_empty() {
            match body.frame().await? {
                Ok(frame) => rest = frame.into_data().unwrap_or_default(),
                Err(error) => return Some((Err(error), (body, rest))),
            }
        }
        let turn = rest.split_to(rest.len().min(TURN_BYTES));
        line.pass(turn.len()).await;
        Some((Ok(Frame::data(turn)), (body, rest)))
    });
    Response::from_parts(parts, Body::http_body_unsync(StreamBody::new(Box::pin(turns))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_answers_share_the_rate_and_little_of_what_nobody_used_is_made_up_for() {
        let line = Line::new(1e6, Duration::ZERO);
        let (begin, millis) = (Instant::now(), Duration::from_millis);
        for turn in 1..=10 {
            assert_eq!(line.passed_at(begin, 100_000), begin + millis(100 * turn));
        }
        assert_eq!(line.passed_at(begin + millis(999), 100_000), begin + millis(1_100));
        assert_eq!(line.passed_at(begin + millis(1_105), 100_000), begin + millis(1_200));
        assert_eq!(line.passed_at(begin + millis(5_000), 100_000), begin + millis(5_090));
    }

    #[tokio::test]
    async fn an_answer_comes_whole_and_after_the_latency() {
        let latency = Duration::from_millis(20);
        let line: &'static Line = Box::leak(Box::new(Line::new(1e9, latency)));
        let body: Bytes = (0..500_000u32).map(|at| at as u8).collect();
        let begin = Instant::now();
        let answer = over(line, Response::new(Body::from(body.clone()))).await;
        assert!(begin.elapsed() >= latency);
        assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes(), body);
    }
}
