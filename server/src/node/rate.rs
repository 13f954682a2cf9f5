//! How fast the queue moves: a counter sampled over the last minute.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// Between two samples.
const SAMPLE: Duration = Duration::from_secs(5);
/// Samples that are kept: one minute.
const SAMPLES: usize = 13;

/// The rate of a counter. Stops sampling when dropped.
pub(super) struct UploadRate {
    samples: Arc<Mutex<Samples>>,
    sampler: JoinHandle<()>,
}

#[derive(Default)]
struct Samples(VecDeque<(Instant, u64)>);

impl UploadRate {
    /// Begins to sample. Must run inside a tokio runtime.
    pub(super) fn start(counter: impl Fn() -> u64 + Send + 'static) -> UploadRate {
        let samples = Arc::new(Mutex::new(Samples::default()));
        let kept = Arc::clone(&samples);
        let sampler = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SAMPLE);
            loop {
                ticks.tick().await;
                let count = counter();
                kept.lock().add(Instant::now(), count);
            }
        });
        UploadRate { samples, sampler }
    }

    /// How long `left` more take at the present rate; `None` if nothing moved.
    pub(super) fn time_for(&self, left: u64) -> Option<Duration> {
        self.samples.lock().time_for(left)
    }
}

impl Drop for UploadRate {
    fn drop(&mut self) {
        self.sampler.abort();
    }
}

impl Samples {
    fn add(&mut self, at: Instant, count: u64) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back((at, count));
    }

    fn time_for(&self, left: u64) -> Option<Duration> {
        let ((first, before), (last, after)) = (self.0.front()?, self.0.back()?);
        let moved = after.saturating_sub(*before);
        let seconds = last.duration_since(*first).as_secs_f64();
        if moved == 0 || seconds <= 0.0 {
            return None;
        }
        Duration::try_from_secs_f64(left as f64 * seconds / moved as f64).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let start = Instant::now();
        let mut samples = Samples::default();
        assert_eq!(samples.time_for(10), None);
        for sample in 0..30 {
            // Nothing for a minute and a half, then ten a second.
            let count = 50 * u64::saturating_sub(sample, 17);
            samples.add(start + SAMPLE * sample as u32, count);
        }
        assert_eq!(samples.0.len(), SAMPLES);
        assert_eq!(samples.time_for(480), Some(Duration::from_secs(48)));
    }

    #[test]
    fn a_queue_that_stands_still_has_no_end() {
        let start = Instant::now();
        let mut samples = Samples::default();
        samples.add(start, 7);
        samples.add(start + SAMPLE, 7);
        assert_eq!(samples.time_for(1), None);
    }
}
