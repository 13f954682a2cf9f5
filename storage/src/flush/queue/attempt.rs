//! Attempts: how one starts, and what its end means for its key and its mount.

use bytes::Bytes;

use super::FlushQueue;
use super::row::{Flight, Phase, Trouble};
use crate::flush::classify::{ALONE, ParkAfter, Policy, SLOW, ladder_step, policy};
use crate::flush::contract::{FlushKind, MountId, RowId};
use crate::object::{BucketId, Version};
use crate::origin::{ErrorClass, Landing};

/// Wait of a row whose attempt did not start: the event that supersedes it is on its way.
const NOT_STARTED_WAIT_MS: u64 = 500;
/// Wait of a row in conflict, until the log has parked it.
const CONFLICT_WAIT_MS: u64 = 5_000;

/// Names one attempt; its outcome is reported under it, and ignored if the queue no longer waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptId {
    slot: u32,
    number: u32,
}

/// What an attempt is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Put or delete the version.
    Write,
    /// Give up what uploads of older versions are left, and find out what the origin holds; all earlier requests of the
    /// key are dead.
    Head,
}

/// One attempt that starts now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Name it when it ends.
    pub attempt: AttemptId,
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: Bytes,
    /// The key's oldest flush row.
    pub version: Version,
    /// What the row does.
    pub kind: FlushKind,
    /// Whether it wins over what nobody here knows of.
    pub blind: bool,
    /// Length of its body.
    pub bytes: u64,
    /// Where it goes.
    pub mount: MountId,
    /// What to do.
    pub work: Work,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The origin holds the version, and the log knows it (`Flushed` was applied).
    Done,
    /// A HEAD found nothing that forbids the attempt.
    GoOn,
    /// Nothing was sent: the row is superseded or expired, or this node does not lead.
    NotStarted,
    /// A HEAD found a foreign object; the row is being parked.
    Conflict,
    /// The upload of an older version is being given up; the origin is to be asked again after this time.
    AskAgain {
        /// Milliseconds.
        after_ms: u64,
    },
    /// The origin answers, but refuses to give an upload up that may become the object: nothing else may be sent.
    MayNotGiveUp {
        /// For people.
        message: String,
    },
    /// The origin confirmed, but the log did not: a HEAD will tell again after this time.
    Unrecorded {
        /// How much longer the attempt may live, milliseconds.
        alive_ms: u64,
    },
    /// The origin, or the way to it, failed.
    Failed {
        /// Class of the error.
        class: ErrorClass,
        /// What it proves.
        landing: Landing,
        /// How long the origin asks to wait.
        retry_after_ms: Option<u64>,
        /// How much longer what was sent may live, milliseconds.
        alive_ms: u64,
        /// For people.
        message: String,
    },
}

/// A row that has failed too often; the caller parks it through the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkOrder {
    /// Which.
    pub row: RowId,
    /// Why.
    pub reason: String,
}

/// Refusals to give an upload up after which the row is set aside.
const REFUSALS: u16 = 3;
/// The first wait between trials of a mount that is down, in first waits of a row.
const TRIAL_STEPS: u64 = 4;

impl FlushQueue {
    /// Reports how an attempt ended. Returns a row to park, if it has failed too often.
    pub fn finish(&mut self, attempt: AttemptId, ended: Ended, now_ms: u64) -> Option<ParkOrder> {
        self.now_ms = self.now_ms.max(now_ms);
        if self.flights.get(&attempt.slot)?.number != attempt.number {
            return None;
        }
        let flight = self.flights.remove(&attempt.slot)?;
        let order = self.settle(attempt.slot, &flight, ended);
        self.place(attempt.slot);
        order
    }

    pub(super) fn start(&mut self, slot: u32, trial: bool) -> Start {
        self.unplace(slot);
        let entry = self.keys[slot as usize].as_mut().expect("a ready key has an entry");
        let lane = &self.lanes[entry.lane as usize];
        let mount = &mut self.mounts[lane.mount.expect("a ready key has a mount")];
        mount.trial_in_flight |= trial;
        let doubt = match std::mem::replace(&mut entry.phase, Phase::Flying) {
            Phase::Check { doubt } => Some(doubt),
            Phase::Idle | Phase::Flying | Phase::Fenced { .. } => None,
        };
        self.attempts = self.attempts.wrapping_add(1);
        let row = &entry.rows[0];
        let flight = Flight {
            number: self.attempts,
            version: row.version,
            bytes: row.bytes,
            trial,
            doubt,
            after: None,
        };
        self.flights.insert(slot, flight);
        Start {
            attempt: AttemptId { slot, number: self.attempts },
            bucket: self.buckets[lane.bucket].id,
            key: entry.key.clone(),
            version: row.version,
            kind: row.kind,
            blind: row.blind,
            bytes: row.bytes,
            mount: mount.mount.id,
            work: if doubt.is_some() { Work::Head } else { Work::Write },
        }
    }

    /// Draws the consequences of an attempt's end for its key and its mount.
    fn settle(&mut self, slot: u32, flight: &Flight, ended: Ended) -> Option<ParkOrder> {
        let (now_ms, version) = (self.now_ms, flight.version);
        let dead_at_ms =
            |alive_ms: u64| now_ms.saturating_add(alive_ms).saturating_add(self.config.margin_ms);
        let entry = self.keys[slot as usize].as_mut()?;
        let mount = self.lanes[entry.lane as usize].mount.and_then(|mount| self.mounts.get_mut(mount))?;
        if flight.trial {
            mount.trial_in_flight = false;
        }
        // What was in doubt before a HEAD is in doubt until it has been answered.
        let before = flight.doubt.map_or(Phase::Idle, |doubt| Phase::Check { doubt });
        match ended {
            Ended::Done => {
                entry.phase = Phase::Idle;
                entry.reset_failures();
                entry.not_before_ms = now_ms.saturating_add(mount.mount.min_interval_ms);
                entry.cooling = true;
                let aged = entry.land(version, flight.after);
                mount.succeeded();
                aged.into_iter().for_each(|aged| self.age_anew(slot, aged));
                self.remove_row(slot, version);
                None
            }
            Ended::GoOn => {
                // An answer to a HEAD is no success of the mount: an origin may read well and refuse
                // every write.
                entry.phase = Phase::Idle;
                entry.wait_until(now_ms);
                let exhausted = entry.trouble.as_ref().is_some_and(|trouble| trouble.exhausted);
                exhausted.then(|| self.park_order(slot, version)).flatten()
            }
            Ended::NotStarted => {
                entry.phase = before;
                entry.wait_until(now_ms.saturating_add(NOT_STARTED_WAIT_MS));
                None
            }
            Ended::AskAgain { after_ms } => {
                entry.phase = before;
                entry.wait_until(now_ms.saturating_add(after_ms));
                None
            }
            Ended::MayNotGiveUp { message } => {
                entry.phase = before;
                self.refused(slot, version, message)
            }
            Ended::Conflict => {
                entry.phase = Phase::Check { doubt: flight.doubt.unwrap_or(version) };
                entry.wait_until(now_ms.saturating_add(CONFLICT_WAIT_MS));
                None
            }
            Ended::Unrecorded { alive_ms } => {
                entry.phase = Phase::Fenced { until_ms: dead_at_ms(alive_ms), doubt: version };
                None
            }
            Ended::Failed { class, landing, retry_after_ms, alive_ms, message } => {
                entry.phase = match (landing, class) {
                    _ if flight.doubt.is_some() => before,
                    (Landing::Unknown, _) => Phase::Fenced { until_ms: dead_at_ms(alive_ms), doubt: version },
                    (Landing::NotApplied, ErrorClass::Conflict) => Phase::Check { doubt: version },
                    (Landing::NotApplied, _) => Phase::Idle,
                };
                self.fail(slot, version, class, flight.doubt.is_some(), retry_after_ms, &message)
            }
        }
    }

    /// Climbs the ladder, and decides whether the row or its mount is set aside.
    fn fail(
        &mut self,
        slot: u32,
        version: Version,
        class: ErrorClass,
        asked: bool,
        retry_after_ms: Option<u64>,
        message: &str,
    ) -> Option<ParkOrder> {
        let policy = match policy(class) {
            // The answer to a HEAD has no body that would say why: nothing is held against the object.
            policy if asked && policy.park != ParkAfter::Never => Policy { park: ALONE, ..policy },
            policy => policy,
        };
        let entry = self.keys[slot as usize].as_mut()?;
        let mount = self.lanes[entry.lane as usize].mount.and_then(|mount| self.mounts.get_mut(mount))?;
        let trouble = entry.trouble.get_or_insert_with(|| {
            Box::new(Trouble { mount_successes: mount.successes, ..Trouble::default() })
        });
        trouble.failures = trouble.failures.saturating_add(1);
        if trouble.mount_successes != mount.successes {
            trouble.mount_successes = mount.successes;
            trouble.failures_alone = trouble.failures_alone.saturating_add(1);
        }
        trouble.last_error = format!("{class}: {message}");
        if matches!(policy.park, ParkAfter::Failures(_)) {
            trouble.failures_own = trouble.failures_own.saturating_add(1);
        }
        trouble.exhausted |= match policy.park {
            ParkAfter::Never => false,
            ParkAfter::Failures(most) => trouble.failures_own >= most,
            ParkAfter::FailuresAlone(most) => trouble.failures_alone >= most,
        };
        let exhausted = trouble.exhausted;
        let ladder_ms = self.config.ladder(policy.ladder_ms);
        let step = ladder_step(ladder_ms, trouble.failures);
        let wait_ms = jitter(&mut self.random, step).max(retry_after_ms.unwrap_or(0));
        if policy.mount_wide {
            let trial_ms =
                jitter(&mut self.random, mount.ladder(ladder_ms, TRIAL_STEPS * self.config.retry_ms.0));
            mount.failed(slot, self.now_ms, trial_ms, retry_after_ms, &trouble.last_error);
        }
        entry.wait_until(self.now_ms.saturating_add(wait_ms));
        // Behind a fence the row may have landed: it is parked after the HEAD, if at all.
        let certain = !matches!(entry.phase, Phase::Fenced { .. });
        (exhausted && certain).then(|| self.park_order(slot, version)).flatten()
    }

    /// Waits, and sets the row aside when the origin has refused often enough that a hand is needed. Says nothing of the
    /// mount, which takes other rows.
    fn refused(&mut self, slot: u32, version: Version, message: String) -> Option<ParkOrder> {
        let step_ms = ladder_step(self.config.ladder(SLOW), {
            let trouble = self.keys[slot as usize].as_mut()?.trouble.get_or_insert_default();
            trouble.failures = trouble.failures.saturating_add(1);
            trouble.refusals = trouble.refusals.saturating_add(1);
            trouble.last_error = message;
            trouble.failures
        });
        let wait_ms = jitter(&mut self.random, step_ms);
        let entry = self.keys[slot as usize].as_mut()?;
        entry.wait_until(self.now_ms.saturating_add(wait_ms));
        let refusals = entry.trouble.as_ref().map_or(0, |trouble| trouble.refusals);
        (refusals >= REFUSALS).then(|| self.park_order(slot, version)).flatten()
    }

    fn park_order(&self, slot: u32, version: Version) -> Option<ParkOrder> {
        let entry = self.entry(slot)?;
        let trouble = entry.trouble.as_ref()?;
        entry.rows.iter().any(|row| row.version == version).then(|| ParkOrder {
            row: RowId { bucket: self.bucket_id(entry), key: entry.key.clone(), version },
            reason: format!("{} attempts failed, the last one: {}", trouble.failures, trouble.last_error),
        })
    }
}

/// A value of the range by xorshift: good enough to spread waits, and repeatable.
fn jitter(random: &mut u64, range: std::ops::RangeInclusive<u64>) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let width = range.end() - range.start() + 1;
    range.start() + *random % width
}
