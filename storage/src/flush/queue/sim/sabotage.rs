//! Safety rules of the queue taken away, to see that the simulation notices.

use crate::flush::queue::FlushQueue;
use crate::flush::queue::row::{Flight, Phase};

/// Safety rules taken away, to see that the simulation notices.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sabotage {
    /// No wait after an unknown outcome.
    pub(crate) no_fence: bool,
    /// A newer version starts while the older one flies.
    pub(crate) many_in_flight: bool,
    /// Barriers are rows like any other.
    pub(crate) no_barrier: bool,
    /// No HEAD after a fence.
    pub(crate) no_head: bool,
    /// What nobody here knew of is a conflict, also for rows that win over it.
    pub(crate) no_blindness: bool,
    /// Uploads of older versions are left as they are.
    pub(crate) no_abort: bool,
    /// "Not known" is believed at once of an upload whose completion may have been sent.
    pub(crate) believes_not_known: bool,
    /// The record of an upload goes when the origin does not know it at its completion.
    pub(crate) forgets_lost: bool,
}

impl FlushQueue {
    /// Breaks what the plan says, where the queue would decide next about a key.
    pub(in crate::flush::queue) fn sabotage(&mut self, slot: u32) {
        let sabotage = self.sabotage;
        let Some(entry) = self.keys.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let newer = |flight: &Flight| entry.rows.first().is_some_and(|row| row.version > flight.version);
        match entry.phase {
            Phase::Fenced { doubt, .. } if sabotage.no_fence => entry.phase = Phase::Check { doubt },
            Phase::Flying if sabotage.many_in_flight && self.flights.get(&slot).is_some_and(newer) => {
                self.flights.remove(&slot);
                entry.phase = Phase::Idle;
            }
            _ => {}
        }
        if sabotage.no_head && matches!(entry.phase, Phase::Check { .. }) {
            entry.phase = Phase::Idle;
        }
    }
}
