//! Waits for single keys: who waits for which, and is told when a change of it is settled.
//!
//! Owns the list of waiters. Does not own what settles a change (the queue says it). Bounded by the submissions
//! under way: each has at most one waiter, with the keys that it changed. A write-through write waits for one
//! request of the origin, so unlike other waits it must not look at the queue for every change of anybody's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::contract::FlushEvent;
use crate::object::BucketId;

type Name = (BucketId, Bytes);

/// See the file's head.
#[derive(Default)]
pub(super) struct Arrivals {
    /// Held for a look-up only.
    waiting: Mutex<HashMap<Name, Vec<Arc<Notify>>>>,
    /// How many wait: nobody does where no mount is write-through.
    count: AtomicUsize,
}

/// One waiter; dropped, it is none any more.
pub(super) struct Waiter {
    arrivals: Arc<Arrivals>,
    names: Vec<Name>,
    woken: Arc<Notify>,
}

impl Arrivals {
    /// Begins to wait: from here on nothing is missed.
    pub(super) fn wait_for(self: &Arc<Self>, names: Vec<Name>) -> Waiter {
        let woken = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock();
        for name in &names {
            waiting.entry(name.clone()).or_default().push(woken.clone());
        }
        self.count.fetch_add(1, Ordering::SeqCst);
        drop(waiting);
        Waiter { arrivals: self.clone(), names, woken }
    }

    /// Whose waiters an event concerns.
    pub(super) fn name_of(&self, event: &FlushEvent) -> Option<Name> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        match event {
            FlushEvent::Flushed(flushed) => Some((flushed.bucket, flushed.key.clone())),
            FlushEvent::Parked { row, .. } | FlushEvent::Removed(row) => Some((row.bucket, row.key.clone())),
            FlushEvent::Row { .. }
            | FlushEvent::Stale(_)
            | FlushEvent::GivenUp(_)
            | FlushEvent::Asked(_)
            | FlushEvent::Answered { .. }
            | FlushEvent::Unmounted(_) => None,
        }
    }

    /// Tells the waiters of these keys to look.
    pub(super) fn wake(&self, names: &[Name]) {
        if names.is_empty() {
            return;
        }
        let waiting = self.waiting.lock();
        for waiter in names.iter().filter_map(|name| waiting.get(name)).flatten() {
            waiter.notify_one();
        }
    }

    /// Tells all of them.
    pub(super) fn wake_all(&self) {
        self.waiting.lock().values().flatten().for_each(|waiter| waiter.notify_one());
    }
}

impl Waiter {
    /// The keys that it waits for.
    pub(super) fn names(&self) -> &[Name] {
        &self.names
    }

    /// Waits for the next reason to look.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.arrivals.waiting.lock();
        for name in &self.names {
            if let Some(waiters) = waiting.get_mut(name) {
                waiters.retain(|waiter| !Arc::ptr_eq(waiter, &self.woken));
                if waiters.is_empty() {
                    waiting.remove(name);
                }
            }
        }
        self.arrivals.count.fetch_sub(1, Ordering::SeqCst);
    }
}
