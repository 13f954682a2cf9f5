//! Building the queue from the rows, while apply goes on.
//!
//! What must hold: no change is missed. Events are kept from before the rows are read, and taken up after them; what the
//! rows have shown already may be told again. Bounded by [`LOADING_EVENTS_MAX`]; beyond it the load starts over.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Flusher, Stage};
use crate::flush::contract::{Loaded, SourceError};
use crate::flush::queue::{FlushQueue, QueueLoad, QueueMount};

/// Most events kept while the queue is being loaded.
pub(super) const LOADING_EVENTS_MAX: usize = 1 << 20;

impl Flusher {
    /// Builds the queue from the rows, while apply goes on.
    pub(super) async fn load(self: &Arc<Self>) -> Result<(), SourceError> {
        loop {
            *self.stage.lock() = Stage::Loading { events: Vec::new(), overflown: false };
            let this = self.clone();
            let loaded = tokio::task::spawn_blocking(move || this.load_blocking()).await;
            let loaded =
                loaded.unwrap_or_else(|panic| Err(SourceError(format!("loading panicked: {panic}"))));
            let mut queue = match loaded {
                Ok(queue) => queue,
                Err(error) => {
                    *self.stage.lock() = Stage::Stopped;
                    return Err(error);
                }
            };
            let mut stage = self.stage.lock();
            let Stage::Loading { events, overflown } = &mut *stage else { continue };
            if *overflown {
                tracing::warn!("more changes than expected while the flush queue was loaded; loading again");
                continue;
            }
            events.drain(..).for_each(|event| queue.observe(event));
            tracing::info!(rows = queue.len(), bytes = queue.bytes(), "flush queue loaded");
            self.note_ages(&queue);
            *stage = Stage::Running(queue);
            drop(stage);
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
            self.arrivals.wake_all();
            return Ok(());
        }
    }

    fn load_blocking(&self) -> Result<Box<FlushQueue>, SourceError> {
        let mounts = self.mounts.iter().map(|mount| QueueMount {
            id: mount.spec.id,
            bucket: mount.spec.bucket,
            prefix: mount.spec.key_prefix.clone(),
            fifo: mount.spec.fifo,
            min_interval_ms: u64::try_from(mount.spec.min_interval.as_millis()).unwrap_or(u64::MAX),
            read_only: mount.spec.read_only,
            origin_root: mount.spec.origin_root.clone(),
            origin_prefix: mount.spec.origin_prefix.clone(),
            tells_age: mount.spec.max_lag.is_some(),
        });
        let (clock_ms, wall_ms) = (self.clock.now_ms(), self.source.now_ms());
        let mut load = QueueLoad::new(self.config.queue, mounts.collect(), self.config.seed, clock_ms);
        self.source.load(&mut |mut loaded| {
            match &loaded {
                Loaded::Stale(stale) => self.add_loaded(stale),
                Loaded::Asked(asked) => self.add_asked(asked),
                Loaded::Row(_) | Loaded::Started(_) => {}
            }
            if let Loaded::Started(started) = &mut loaded {
                // From the wall clock of the log to the queue's own.
                started.deadline_ms = clock_ms.saturating_add(started.deadline_ms.saturating_sub(wall_ms));
                if !self.has_attached(started.bucket, &started.key) {
                    let most = clock_ms.saturating_add(self.config.queue.attempt_ms_max);
                    let dead = started.deadline_ms.min(most).saturating_add(self.config.queue.margin_ms);
                    self.strays_until_ms.fetch_max(dead, Ordering::Relaxed);
                }
            }
            load.push(loaded);
        })?;
        Ok(Box::new(load.finish()))
    }
}
