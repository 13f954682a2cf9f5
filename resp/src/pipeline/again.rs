//! Commands that are tried again alone, because their batch or their mutations were refused.

use forebay_storage::error::Error;
use forebay_storage::mutation::Refusal;
use forebay_storage::submission::Submission;

use super::close::Unfinished;
use super::step::{ReadAt, Step, Work};
use super::{Pipeline, reply_error};
use crate::command::Flags;
use crate::command::args::Args;
use crate::command::plan::{Plan, Planner};
use crate::error::CommandError;
use crate::parse::Parser;

/// How often a command is tried whose bucket vanished or whose value had to be put together.
const ATTEMPTS_MAX: usize = 4;

impl Pipeline {
    /// The whole submission was refused, or its fate is unknown.
    pub(super) async fn submit_failed(
        &mut self,
        steps: impl Iterator<Item = Step>,
        parser: &Parser,
        error: &Error,
    ) {
        let steps: Vec<Step> = steps.collect();
        let writes = steps.iter().filter(|step| step.work.writes()).count();
        // Nothing was written, but perhaps only one of the commands is to blame, and a DEL must work even
        // when the disk is full.
        let one_by_one = writes > 1
            && match error {
                // One command may build on bytes that are only in an origin, and cannot be had now.
                Error::Unavailable(_) | Error::ChangedInOrigin(_) => true,
                Error::Full(_) | Error::GroupTooLarge(..) | Error::BeyondCapacity(..) => true,
                Error::Unknown(_)
                | Error::KeyTooLong(_)
                | Error::BodyLength { .. }
                | Error::Stopping
                // All of it is done here.
                | Error::NotInOrigin(_)
                | Error::Damaged(_)
                | Error::Disk(_)
                | Error::InvalidBucketName => false,
            };
        for step in steps {
            let from = self.out.len();
            let args = parser.args(step.args.clone());
            match &step.work {
                Work::Ready(bytes) => self.out.raw(&self.ready.bytes()[bytes.clone()]),
                work if work.writes() && !one_by_one => {
                    reply_error(&mut self.out, &mut self.tally, from, &error.clone().into());
                }
                _ => self.run_alone(&step, args, None).await,
            }
            if step.silent {
                self.out.truncate(from);
            }
        }
    }

    /// Plans a step again and submits it by itself, after doing what its refusal asks for.
    pub(super) async fn run_alone(&mut self, step: &Step, args: Args<'_>, refusal: Option<Refusal>) {
        let from = self.out.len();
        let mut refusal = refusal;
        for _ in 0..ATTEMPTS_MAX {
            self.out.truncate(from);
            if let Some(refusal) = refusal.take()
                && let Err(error) = self.make_amends(step, args, &refusal).await
            {
                return reply_error(&mut self.out, &mut self.tally, from, &error);
            }
            match self.attempt(step, args).await {
                Ok(()) => return,
                Err(Unfinished::Error(error)) => {
                    return reply_error(&mut self.out, &mut self.tally, from, &error);
                }
                Err(Unfinished::Refused(again)) => refusal = Some(again),
            }
        }
        let error = refusal.as_ref().map_or(CommandError::SYNTAX, CommandError::from);
        reply_error(&mut self.out, &mut self.tally, from, &error);
    }

    /// Removes the cause of a refusal that is not the client's.
    async fn make_amends(
        &mut self,
        step: &Step,
        args: Args<'_>,
        refusal: &Refusal,
    ) -> Result<(), CommandError> {
        match refusal {
            Refusal::NoSuchBucket if step.command.flags.has(Flags::DENYOOM) => {
                self.open_bucket(step.database).await
            }
            Refusal::NoSuchBucket => {
                self.session.database_at_mut(step.database).bucket = None;
                Ok(())
            }
            Refusal::TooFragmented => match step.bucket {
                Some(bucket) => Ok(self.server.store.defragment(bucket, args.at(1)).await.map(|_| ())?),
                None => Ok(()),
            },
            other => Err(other.into()),
        }
    }

    async fn attempt(&mut self, step: &Step, args: Args<'_>) -> Result<(), Unfinished> {
        if let Work::Exec(exec) = &step.work {
            return Ok(self.exec_alone(exec).await?);
        }
        let mut submission = Submission::new();
        let mut planner = Planner {
            server: &self.server,
            session: &mut self.session,
            submission: &mut submission,
            reply: &mut self.out,
            command: step.command,
            database: step.database,
            in_exec: false,
            // Given to the log already.
            long: &[],
        };
        let work = match (step.command.plan)(&mut planner, args)? {
            Plan::Write(write) => Work::Write(write),
            Plan::ReadThenWrite { view, read, write } => Work::ReadThenWrite { view, read, write },
            Plan::Read(read) => {
                Work::Read { at: ReadAt::View(self.server.store.view()?), read, fetched: None }
            }
            Plan::Answered | Plan::Wait(_) | Plan::Exec(_) => return Ok(()),
        };
        let (outcomes, arrival) = self.submit(submission).await?;
        let bucket = self.session.database_at(step.database).bucket;
        let again = Step {
            command: step.command,
            args: step.args.clone(),
            database: step.database,
            bucket,
            silent: false,
            work,
        };
        Box::pin(self.finish_work(&again, args, &outcomes)).await?;
        drop((outcomes, again));
        Ok(arrival.all().await?)
    }
}
