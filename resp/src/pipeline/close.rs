//! The end of a batch: it is submitted, waited for, and answered in order.
//!
//! Owns the way from a step to its reply. Does not own what is planned, nor a reply that depends on more than the log
//! has said (`settle`, `again`).

use std::mem;

use forebay_storage::Arrival;
use forebay_storage::error::Error;
use forebay_storage::mutation::{Outcome, Refusal};
use forebay_storage::object::BucketId;
use forebay_storage::read::{Lookup, ReadView};
use forebay_storage::submission::{Outcomes, Submission, ViewSlot};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use super::settle::{Unsettled, Wait};
use super::step::{Step, Work};
use super::{Pipeline, REPLY_CAPACITY_KEPT, reply_error};
use crate::command::args::Args;
use crate::command::plan::{Needs, Read, Write};
use crate::error::CommandError;
use crate::parse::Parser;
use crate::read::{self, COLD_READS_MAX, Held, Reader};
use crate::reply::Reply;

impl Pipeline {
    /// Submits what is planned, waits for the log, and answers everything in order.
    pub(crate) async fn close(&mut self, parser: &Parser) {
        if self.steps.is_empty() {
            return;
        }
        let mut steps = mem::take(&mut self.steps);
        let submission = mem::take(&mut self.submission);
        self.extended_keys.clear();
        self.reads = 0;
        debug_assert!(!self.ready.has_streams(), "a reply that was not waited for has a long value");
        match self.submit(submission).await {
            Ok((outcomes, arrival)) => {
                fetch_cold(&mut steps, parser, &outcomes, &self.held).await;
                let mut unsettled = Vec::new();
                for step in steps.drain(..) {
                    unsettled.extend(self.finish(step, parser, &outcomes, &arrival).await);
                }
                // What is still to be waited for may take long, and holds no view.
                drop(outcomes);
                self.settle(unsettled, arrival, parser).await;
            }
            Err(error) => self.submit_failed(steps.drain(..), parser, &error).await,
        }
        self.steps = steps;
        self.ready.clear(REPLY_CAPACITY_KEPT);
    }

    /// What the submission came to, and what of it is on its way to write-through mounts.
    pub(super) async fn submit(&self, submission: Submission) -> Result<(Outcomes, Arrival), Error> {
        if submission.is_empty() {
            return Ok((Outcomes { results: Vec::new(), views: Vec::new() }, Arrival::default()));
        }
        self.server.store.submit_reading(submission).await
    }

    /// Writes a step's reply; returns the step if that is not the last word.
    #[inline]
    async fn finish(
        &mut self,
        step: Step,
        parser: &Parser,
        outcomes: &Outcomes,
        arrival: &Arrival,
    ) -> Option<Unsettled> {
        let from = self.out.len();
        let args = parser.args(step.args.clone());
        let mut wait = None;
        match self.finish_work(&step, args, outcomes).await {
            Ok(()) => {
                wait = step.work.outcomes().filter(|own| arrival.concerns(own.clone())).map(Wait::Arrival)
            }
            Err(Unfinished::Error(error)) => reply_error(&mut self.out, &mut self.tally, from, &error),
            Err(Unfinished::Refused(refusal)) => {
                self.out.truncate(from);
                wait = Some(Wait::Again(refusal));
            }
        }
        if step.silent {
            self.out.truncate(from);
        }
        wait.map(|wait| Unsettled { reply: from..self.out.len(), step, wait })
    }

    pub(super) async fn finish_work(
        &mut self,
        step: &Step,
        args: Args<'_>,
        outcomes: &Outcomes,
    ) -> Result<(), Unfinished> {
        match &step.work {
            Work::Ready(bytes) => {
                self.out.raw(&self.ready.bytes()[bytes.clone()]);
                Ok(())
            }
            Work::Write(write) => finish_write(write, outcomes, &mut self.out),
            Work::Read { read: Read::One { needs, reply, .. }, fetched: Some(fetched), .. } => {
                let fetched = fetched.as_ref().map_err(CommandError::clone)?;
                let (out, tally, held) = (&mut self.out, &mut self.tally, &self.held);
                let server = &self.server;
                let mut reader = Reader { server, bucket: step.bucket, args, reply: out, tally, held };
                Ok(reader.fetched(fetched, *needs, *reply)?)
            }
            Work::Read { at, read, .. } => {
                let view = at.view(outcomes)?;
                Ok(self.read(*read, view, step.bucket, args).await?)
            }
            Work::ReadThenWrite { view, read, write } => {
                check_outcomes(write, outcomes)?;
                let view = view_at(outcomes, *view)?;
                Ok(self.read(*read, view, step.bucket, args).await?)
            }
            Work::Exec(exec) => Ok(self.finish_exec(exec, outcomes).await?),
        }
    }

    async fn read(
        &mut self,
        read: Read,
        view: &ReadView,
        bucket: Option<BucketId>,
        args: Args<'_>,
    ) -> Result<(), CommandError> {
        let (reply, tally, held) = (&mut self.out, &mut self.tally, &self.held);
        Reader { server: &self.server, bucket, args, reply, tally, held }.read(read, view).await
    }
}

/// Waits for the cold single-key reads of a batch together: one after the other each would wait for its own
/// disk read.
async fn fetch_cold(steps: &mut [Step], parser: &Parser, outcomes: &Outcomes, held: &Held) {
    let cold = steps.iter_mut().filter_map(|step| {
        let (args, bucket) = (parser.args(step.args.clone()), step.bucket);
        let Work::Read { at, read: Read::One { key, needs, .. }, fetched } = &mut step.work else {
            return None;
        };
        let (view, key, needs) = (at.view(outcomes).ok()?, *key, *needs);
        let is_here = match view.get(bucket?, args.at(key)) {
            Lookup::Found(row) => matches!(needs, Needs::Nothing) || row.inline_body().is_some(),
            Lookup::Absent => true,
            Lookup::Later => false,
        };
        if is_here {
            return None;
        }
        let fetch = async move { *fetched = Some(read::fetch(view, bucket, args, key, needs, held).await) };
        Some(fetch.boxed())
    });
    let cold: Vec<BoxFuture<'_, ()>> = cold.collect();
    let mut fetches = stream::iter(cold).buffer_unordered(COLD_READS_MAX);
    while fetches.next().await.is_some() {}
}

/// Why a step has no reply yet.
pub(super) enum Unfinished {
    /// This is its reply.
    Error(CommandError),
    /// Its mutations were refused.
    Refused(Refusal),
}

impl<E: Into<CommandError>> From<E> for Unfinished {
    fn from(error: E) -> Unfinished {
        Unfinished::Error(error.into())
    }
}

#[inline]
fn finish_write(write: &Write, outcomes: &Outcomes, reply: &mut Reply) -> Result<(), Unfinished> {
    (write.reply)(check_outcomes(write, outcomes)?, reply);
    Ok(())
}

/// The outcomes of a command, none of them a refusal.
#[inline]
fn check_outcomes<'o>(write: &Write, outcomes: &'o Outcomes) -> Result<&'o [Outcome], Unfinished> {
    let own = outcomes.results.get(write.outcomes.clone()).ok_or(MISSING_OUTCOME)?;
    for outcome in own {
        if let Outcome::Refused(refusal) = outcome {
            return Err(Unfinished::Refused(refusal.clone()));
        }
    }
    Ok(own)
}

pub(super) fn view_at(outcomes: &Outcomes, slot: ViewSlot) -> Result<&ReadView, CommandError> {
    outcomes.views.get(slot.0).ok_or(MISSING_OUTCOME)
}

/// The core answered a submission with fewer outcomes than it had mutations.
const MISSING_OUTCOME: CommandError = CommandError::new("ERR forebay: internal error, an outcome is missing");
