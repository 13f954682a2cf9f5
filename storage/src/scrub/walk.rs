//! The way of a scrub, step by step: extents, rows, blobs, and what is to be mended.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use foldhash::fast::RandomState;

use super::ask::{Answer, Ask, REQUESTS_MAX};
use super::extents::Extents;
use super::mend::{Damage, MENDED_AT_ONCE, mend};
use super::pace::Canceled;
use super::rows::{self, Damaged, Looked, NamedBy, Owner};
use super::{Finding, FindingKind, Job, ScrubPhase};
use crate::keyspace::audit::{self, Audit, BlobsUpto, Compared};
use crate::keyspace::base::BaseError;
use crate::keyspace::checkpoint::read_usage;
use crate::object::BlobId;
use crate::store::Shared;

/// Damaged extents that one scrub deals with; at more it stops reading further ones.
pub(super) const DAMAGED_MAX: usize = 10_000;
/// Rows of the first page.
const ROWS: usize = 64;
/// Rows of the longest.
const ROWS_MAX: usize = 1024;
/// Bytes that a page should have.
const PAGE_BYTES: usize = 256 << 10;
/// What a row, and each blob that it names, counts for in the pace beside its bytes: a page of the store may have to
/// be read for it.
const ROW_COST: u64 = 512;
/// Sums of references of which the blobs are counted one by one. The others wait for the next scrub.
const SUMS_MAX: usize = 4;
/// Whether there is more to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    More,
    /// `trouble`: what could not be looked at.
    Done {
        trouble: Option<String>,
    },
}

/// Why a scrub ends early.
#[derive(Debug)]
pub(super) enum Stop {
    Canceled,
    Failed(String),
}

impl From<Canceled> for Stop {
    fn from(Canceled: Canceled) -> Stop {
        Stop::Canceled
    }
}

impl From<BaseError> for Stop {
    fn from(error: BaseError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

enum Phase {
    Extents(Extents),
    Rows {
        /// The last key that was looked at.
        after: Vec<u8>,
        /// Sums whose blobs are counted one by one; empty: all are added up.
        sums: Vec<usize>,
    },
    Blobs {
        after: BlobsUpto,
        exact: bool,
    },
    Mend,
}

/// See the file's head.
pub(super) struct Walk {
    phase: Phase,
    hasher: RandomState,
    /// Rows of a page, and the most that it may have.
    page: usize,
    page_max: usize,
    damaged: Damaged,
    unasked: u64,
    unasked_because: String,
    unread: bool,
}

impl Default for Walk {
    fn default() -> Walk {
        Walk {
            phase: Phase::Extents(Extents::default()),
            hasher: RandomState::default(),
            page: ROWS,
            page_max: ROWS_MAX,
            damaged: Damaged::new(),
            unasked: 0,
            unasked_because: String::new(),
            unread: false,
        }
    }
}

#[cfg(test)]
impl Walk {
    /// With pages of at most so many rows.
    pub(super) fn in_pages(rows: usize) -> Walk {
        Walk { page: rows, page_max: rows, ..Walk::default() }
    }
}

impl Walk {
    /// One page. Blocks.
    pub(super) fn step(&mut self, shared: &Arc<Shared>, job: &Job, ask: &dyn Ask) -> Result<Step, Stop> {
        if job.pace.is_canceled() {
            return Err(Stop::Canceled);
        }
        match &mut self.phase {
            Phase::Extents(walk) => {
                job.set_phase(ScrubPhase::Extents);
                let damaged = &mut self.damaged;
                let more = walk.step(shared, job, &mut |blob, place| {
                    damaged.insert(blob, (place, None));
                })?;
                self.unread = more && self.damaged.len() >= DAMAGED_MAX;
                if !more || self.unread {
                    self.add_up(shared, Vec::new());
                }
            }
            Phase::Rows { after, sums } => {
                job.set_phase(ScrubPhase::Rows);
                let (after, first) = (after.clone(), sums.is_empty());
                self.rows(shared, job, ask, &after, first)?;
            }
            Phase::Blobs { after, exact } => {
                job.set_phase(ScrubPhase::Blobs);
                let (after, exact) = (*after, *exact);
                match after {
                    BlobsUpto::All => self.compare(shared, job, exact)?,
                    after => self.blobs(shared, job, after)?,
                }
            }
            Phase::Mend => {
                job.set_phase(ScrubPhase::Mend);
                let next = std::iter::from_fn(|| self.damaged.pop_first()).take(MENDED_AT_ONCE);
                let next = next.map(|(blob, (place, by))| Damage { blob, place, by });
                let next: Vec<Damage> = next.collect();
                if next.is_empty() {
                    return Ok(Step::Done { trouble: self.trouble() });
                }
                mend(shared, job, ask, next)?;
            }
        }
        Ok(Step::More)
    }

    fn trouble(&self) -> Option<String> {
        let mut trouble = Vec::new();
        if self.unread {
            trouble.push(format!(
                "more than {DAMAGED_MAX} extents are damaged, further ones were not read; run it again"
            ));
        }
        if self.unasked > 0 {
            let (objects, why) = (self.unasked, &self.unasked_because);
            trouble.push(format!("the origin gave no answer about {objects} objects ({why})"));
        }
        (!trouble.is_empty()).then(|| trouble.join("; "))
    }

    /// Begins to add up references: all, or those of some sums one by one.
    fn add_up(&mut self, shared: &Shared, sums: Vec<usize>) {
        let audit = match sums.is_empty() {
            true => Audit::new(self.hasher.clone()),
            false => Audit::of_sums(self.hasher.clone(), sums.clone()),
        };
        shared.checkpointer.audits.begin(audit);
        self.phase = Phase::Rows { after: audit::first_row(), sums };
    }

    fn rows(
        &mut self,
        shared: &Arc<Shared>,
        job: &Job,
        ask: &dyn Ask,
        after: &[u8],
        first: bool,
    ) -> Result<(), Stop> {
        let (base, damaged, limit) = (&*shared.keyspace.base, &self.damaged, self.page);
        let read = || {
            let Some((rows, upto)) = audit::rows_page(base, after, limit)? else { return Ok(None) };
            let looked = if first { rows::look(base, &rows, damaged)? } else { Looked::default() };
            Ok(Some((rows, upto, looked)))
        };
        let page = shared.checkpointer.audits.between(read, |audit, page| {
            if let (Some(audit), Some((rows, upto, _))) = (audit, &page) {
                audit.add_rows(rows, upto.clone());
            }
            page
        })?;
        let Some(page) = page else {
            self.page = (self.page / 2).max(1);
            return Ok(job.pace.spend(0)?);
        };
        let Some((rows, upto, looked)) = page else {
            self.page = ROWS.min(self.page_max);
            self.phase = Phase::Blobs { after: BlobsUpto::Nothing, exact: !first };
            return Ok(());
        };
        if let Phase::Rows { after, .. } = &mut self.phase {
            *after = upto;
        }
        let bytes: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.page = match bytes {
            ..PAGE_BYTES => (self.page * 2).min(self.page_max),
            _ => (self.page / 2).max(1),
        };
        let cost = bytes as u64 + (rows.len() as u64 + looked.blobs) * ROW_COST;
        if first {
            job.rows_done.fetch_add(rows.len() as u64, Relaxed);
            drop(rows);
            self.report(shared, job, ask, looked)?;
        }
        Ok(job.pace.spend(cost)?)
    }

    fn report(&mut self, shared: &Arc<Shared>, job: &Job, ask: &dyn Ask, looked: Looked) -> Result<(), Stop> {
        for by in looked.unreadable {
            let what = "the row is of no known form".to_owned();
            job.report(shared, by.finding(shared, FindingKind::Row, what, false));
        }
        for (by, blob) in looked.missing {
            let what = format!("{} is neither here nor in an origin: write the object again", name_of(blob));
            job.report(shared, by.finding(shared, FindingKind::Missing, what, false));
        }
        for (blob, by) in looked.named {
            if let Some((_, named)) = self.damaged.get_mut(&blob) {
                named.get_or_insert(by);
            }
        }
        if job.options.ask_origins {
            for objects in looked.away.chunks(REQUESTS_MAX) {
                let answers = ask.ask(shared, &job.pace, objects);
                job.pace.spend(0)?;
                job.asked.fetch_add(objects.len() as u64, Relaxed);
                for (object, answer) in objects.iter().zip(answers) {
                    self.judge(shared, job, object, answer);
                }
            }
        }
        Ok(())
    }

    fn judge(&mut self, shared: &Shared, job: &Job, object: &Owner, answer: Answer) {
        let what = match answer {
            Answer::Held | Answer::Moot => return,
            Answer::Silent(why) => {
                self.unasked += 1;
                self.unasked_because = why;
                return;
            }
            Answer::Other(what) => format!("bytes of it are only in its origin, where {what}"),
            Answer::Unknown => {
                "bytes of it are not here, and its origin is not known to have them".to_owned()
            }
        };
        let by = NamedBy::Object(object.clone());
        job.report(shared, by.finding(shared, FindingKind::Origin, what, false));
    }

    fn blobs(&mut self, shared: &Arc<Shared>, job: &Job, after: BlobsUpto) -> Result<(), Stop> {
        let (base, limit) = (&*shared.keyspace.base, self.page);
        let read = || audit::blobs_page(base, after, limit);
        let page = shared.checkpointer.audits.between(read, |audit, (blobs, upto)| {
            if let Some(audit) = audit {
                audit.add_blobs(&blobs, upto);
            }
            (blobs.len(), upto)
        })?;
        let Some((blobs, upto)) = page else {
            self.page = (self.page / 2).max(1);
            return Ok(job.pace.spend(0)?);
        };
        self.page = (self.page * 2).min(self.page_max);
        if let Phase::Blobs { after, .. } = &mut self.phase {
            *after = upto;
        }
        Ok(job.pace.spend(blobs as u64 * ROW_COST)?)
    }

    /// Both walks have come to their end: what they came to.
    fn compare(&mut self, shared: &Arc<Shared>, job: &Job, exact: bool) -> Result<(), Stop> {
        let base = &*shared.keyspace.base;
        let compared = shared
            .checkpointer
            .audits
            .between(|| read_usage(base), |audit, usage| audit.map(|audit| audit.compare(&usage)))?;
        // A commit came between.
        let Some(compared) = compared else { return Ok(job.pace.spend(0)?) };
        shared.checkpointer.audits.end();
        match compared {
            None => return Err(Stop::Failed("the sums are gone".to_owned())),
            Some(Compared::Failed(error)) => return Err(error.into()),
            Some(Compared::Sums(mut sums, usage)) => {
                debug_assert!(!exact);
                for wrong in &usage {
                    let what = format!(
                        "{} has {} live bytes by its places and {} by its row; the row is put right",
                        wrong.segment.path(),
                        wrong.counted,
                        wrong.recorded
                    );
                    job.report(shared, finding(FindingKind::Usage, what, true));
                }
                if !usage.is_empty() {
                    shared.checkpointer.correct_usage(&usage);
                    shared.status.checkpoint_wanted.store(true, Relaxed);
                }
                sums.truncate(SUMS_MAX);
                match sums.is_empty() {
                    true => self.phase = Phase::Mend,
                    false => self.add_up(shared, sums),
                }
            }
            Some(Compared::Exact(blobs)) => {
                for (blob, named, counted) in blobs {
                    let what =
                        format!("{} is named by {named} rows and counted for {counted}", name_of(blob));
                    job.report(shared, finding(FindingKind::References, what, false));
                }
                self.phase = Phase::Mend;
            }
        }
        Ok(())
    }
}

pub(super) fn finding(kind: FindingKind, what: String, mended: bool) -> Finding {
    Finding { kind, bucket: None, key: None, what, mended }
}

pub(super) fn name_of(blob: BlobId) -> String {
    format!("blob {:016x}.{:x}", blob.a, blob.b)
}
