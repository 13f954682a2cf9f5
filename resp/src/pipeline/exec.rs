//! EXEC: the queued commands planned by their ordinary plan functions, in one atomic group.
//!
//! With a write among them the group goes into the log with WATCH as its guards, and its reads stand at
//! their places in it. Without one nothing needs the log: the reads share one view, and WATCH is judged on
//! that view. WATCH compares versions, so a key that was absent and is absent again counts as unchanged,
//! where Redis would count what happened in between.

use std::mem;
use std::ops::Range;

use forebay_storage::error::Error;
use forebay_storage::mutation::{Guard, Outcome};
use forebay_storage::read::ReadView;
use forebay_storage::submission::{Outcomes, Submission};

use super::close::Unfinished;
use super::step::{ReadAt, Step, Work};
use super::{Pipeline, reply_error};
use crate::command::args::Args;
use crate::command::plan::{LongValue, Plan, Planner};
use crate::command::{Command, Flags};
use crate::error::CommandError;
use crate::keyspace::bucket_to_open;
use crate::parse::Parser;
use crate::reply::Reply;
use crate::session::{Queue, QueuedValues, Watched};

/// A planned EXEC.
pub(super) struct ExecStep {
    queue: Box<Queue>,
    watched: Vec<Watched>,
    /// The database it began in.
    database: usize,
    planned: Planned,
}

impl ExecStep {
    /// All of the group.
    pub(super) fn outcomes(&self) -> Range<usize> {
        self.planned.outcomes.clone()
    }
}

/// The commands of a queue, planned.
struct Planned {
    /// One step for each command.
    steps: Vec<Step>,
    /// Replies of those that needed no plan.
    ready: Reply,
    /// Of the group itself, then of each mutation in it.
    outcomes: Range<usize>,
}

impl Pipeline {
    pub(super) async fn exec(
        &mut self,
        command: &'static Command,
        mut queue: Box<Queue>,
        request: Range<usize>,
        parser: &Parser,
    ) {
        let mut watched = mem::take(&mut self.session.watched);
        if let Err(error) = self.look_up_queue(&queue, &mut watched, parser).await {
            return self.answer(request, |reply| reply.error(&error));
        }
        let long = queue.take_long();
        let alone = !long.is_empty();
        let database = self.session.database();
        let has = |flag| queue.iter().any(|(command, _)| command.flags.has(flag));
        let only_data = queue
            .iter()
            .all(|(command, _)| command.flags.has(Flags::WRITE) || command.flags.has(Flags::READONLY));
        if !only_data || !has(Flags::WRITE) {
            self.close(parser).await;
            let from = self.out.len();
            let ran = match has(Flags::WRITE) {
                true => self.exec_with_session(&queue, &watched, long).await,
                false => self.exec_reads(&queue, &watched).await,
            };
            if !matches!(ran, Ok(true)) {
                self.session.select_place(database);
            }
            if let Err(error) = ran {
                reply_error(&mut self.out, &mut self.tally, from, &error);
            }
            if self.is_silent() {
                self.out.truncate(from);
            }
            return;
        }
        if let Err(error) = self.open_buckets(&queue).await {
            return self.answer(request, |reply| reply.error(&error));
        }
        if alone {
            // A submission that fails takes the long values with it, and then no other command's part in it.
            self.close(parser).await;
        }
        let mut submission = mem::take(&mut self.submission);
        let planned = self.plan_group(&queue, &watched, &long, &mut submission);
        if planned.is_some() {
            carry(long, &mut submission);
        }
        self.submission = submission;
        match planned {
            Some(planned) => {
                let exec = ExecStep { queue, watched, database, planned };
                self.push_step(command, request, database, Work::Exec(Box::new(exec)));
            }
            None => self.answer(request, |reply| reply.nil_array()),
        }
        if alone {
            self.close(parser).await;
        }
    }

    /// Plans and submits an EXEC again, by itself.
    pub(super) async fn exec_alone(&mut self, exec: &ExecStep) -> Result<(), CommandError> {
        let present = self.session.database();
        self.session.select_place(exec.database);
        let ran = self.run_group(&exec.queue, &exec.watched, Vec::new()).await;
        self.session.select_place(present);
        ran.map(|_| ())
    }

    /// Carries out a queue that writes and also has commands which change more than data (SELECT). These take
    /// effect when they are planned, so WATCH is judged before that too.
    async fn exec_with_session(
        &mut self,
        queue: &Queue,
        watched: &[Watched],
        long: QueuedValues,
    ) -> Result<bool, CommandError> {
        if !watched.is_empty() {
            let view = self.server.store.view()?;
            if self.watch_is_broken(&view, watched).await? {
                self.out.nil_array();
                return Ok(false);
            }
        }
        self.open_buckets(queue).await?;
        self.run_group(queue, watched, long).await
    }

    /// Plans and submits a group, and writes its reply; whether it ran.
    async fn run_group(
        &mut self,
        queue: &Queue,
        watched: &[Watched],
        long: QueuedValues,
    ) -> Result<bool, CommandError> {
        let mut submission = Submission::new();
        let Some(planned) = self.plan_group(queue, watched, &long, &mut submission) else {
            self.out.nil_array();
            return Ok(false);
        };
        carry(long, &mut submission);
        let from = self.out.len();
        let (outcomes, arrival) = self.submit(submission).await?;
        let ran = self.finish_group(queue, &planned, &outcomes).await?;
        drop(outcomes);
        if let Err(error) = arrival.all().await {
            // It ran all the same, and what it changed of the session holds.
            reply_error(&mut self.out, &mut self.tally, from, &error.into());
        }
        Ok(ran)
    }

    pub(super) async fn finish_exec(
        &mut self,
        exec: &ExecStep,
        outcomes: &Outcomes,
    ) -> Result<(), CommandError> {
        self.finish_group(&exec.queue, &exec.planned, outcomes).await.map(|_| ())
    }

    /// Writes the reply of a group; whether it ran.
    async fn finish_group(
        &mut self,
        queue: &Queue,
        planned: &Planned,
        outcomes: &Outcomes,
    ) -> Result<bool, CommandError> {
        match outcomes.results.get(planned.outcomes.start) {
            Some(Outcome::Refused(refusal)) => return Err(refusal.into()),
            Some(Outcome::Unmet | Outcome::Skipped) => {
                self.out.nil_array();
                return Ok(false);
            }
            _ => {}
        }
        self.out.array(planned.steps.len());
        // A HELLO in the queue has spoken by now.
        self.out.set_protocol(self.session.protocol);
        for (index, step) in planned.steps.iter().enumerate() {
            let from = self.out.len();
            let (_, args) = queue.command(index);
            let finished = match &step.work {
                Work::Ready(bytes) => {
                    self.out.raw(&planned.ready.bytes()[bytes.clone()]);
                    Ok(())
                }
                _ => Box::pin(self.finish_work(step, args, outcomes)).await,
            };
            match finished {
                Ok(()) => {}
                Err(Unfinished::Error(error)) => reply_error(&mut self.out, &mut self.tally, from, &error),
                Err(Unfinished::Refused(refusal)) => {
                    reply_error(&mut self.out, &mut self.tally, from, &CommandError::from(&refusal));
                }
            }
        }
        Ok(true)
    }

    /// Carries out a queue without writes on one view.
    async fn exec_reads(&mut self, queue: &Queue, watched: &[Watched]) -> Result<bool, CommandError> {
        let view = self.server.store.view()?;
        if self.watch_is_broken(&view, watched).await? {
            self.out.nil_array();
            return Ok(false);
        }
        let mut submission = Submission::new();
        let mut planned = self.plan_queue(queue, &[], &mut submission);
        for step in &mut planned.steps {
            if let Work::Read { at, .. } = &mut step.work {
                *at = ReadAt::View(view.clone());
            }
        }
        let outcomes = Outcomes { results: Vec::new(), views: Vec::new() };
        self.finish_group(queue, &planned, &outcomes).await
    }

    async fn watch_is_broken(&self, view: &ReadView, watched: &[Watched]) -> Result<bool, Error> {
        for watch in watched {
            let bucket = self.server.store.bucket(self.session.database_at(watch.database).name.as_bytes());
            let version = match bucket {
                Some(bucket) => view.fetch(bucket, &watch.key).await?.map(|row| row.version()),
                None => None,
            };
            if version != watch.version {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Creates the buckets that the queue's commands will write to.
    async fn open_buckets(&mut self, queue: &Queue) -> Result<(), CommandError> {
        let present = self.session.database();
        let mut missing = Vec::new();
        let mut database = present;
        for (command, args) in queue.iter() {
            database = self.selected(command, args).unwrap_or(database);
            let (names, session) = (&self.server.keyspace, &mut self.session);
            missing.extend(bucket_to_open(names, &self.server.store, session, command, args, database));
        }
        for place in missing {
            self.open_bucket(place).await?;
        }
        Ok(())
    }

    /// The place of the database that a queued SELECT switches to.
    pub(super) fn selected(&mut self, command: &Command, args: Args<'_>) -> Option<usize> {
        let names = &self.server.keyspace;
        if command.name != "select" {
            return None;
        }
        let number = args.int(1).and_then(|number| names.checked(number)).ok()?;
        Some(self.session.place_of(names.database(&self.server.store, number)))
    }

    /// Plans the queue as one group; `None` if a watched key's bucket has changed, so that the guards
    /// cannot hold.
    fn plan_group(
        &mut self,
        queue: &Queue,
        watched: &[Watched],
        long: &[(usize, Vec<LongValue>)],
        submission: &mut Submission,
    ) -> Option<Planned> {
        let mut guards = Vec::with_capacity(watched.len());
        for watch in watched {
            let present = self.server.store.bucket(self.session.database_at(watch.database).name.as_bytes());
            match (watch.bucket, present) {
                (Some(then), now) if now != Some(then) => return None,
                (_, None) => {}
                (_, Some(bucket)) => {
                    guards.push(Guard::VersionIs { bucket, key: &watch.key, version: watch.version });
                }
            }
        }
        let group = submission.outcomes_len();
        submission.begin_atomic(&guards);
        let planned = self.plan_queue(queue, long, submission);
        submission.end_atomic();
        Some(Planned { outcomes: group..submission.outcomes_len(), ..planned })
    }

    fn plan_queue(
        &mut self,
        queue: &Queue,
        long: &[(usize, Vec<LongValue>)],
        submission: &mut Submission,
    ) -> Planned {
        let mut ready = Reply::new(self.session.protocol);
        let mut steps = Vec::with_capacity(queue.len());
        for (place, (command, args)) in queue.iter().enumerate() {
            let from = ready.len();
            let values = long.binary_search_by_key(&place, |(place, _)| *place).map(|at| &long[at].1[..]);
            let database = self.session.database();
            let mut planner = Planner {
                server: &self.server,
                session: &mut self.session,
                submission: &mut *submission,
                reply: &mut ready,
                command,
                database,
                in_exec: true,
                long: values.unwrap_or_default(),
            };
            let work = match (command.plan)(&mut planner, args) {
                Ok(Plan::Answered) => Work::Ready(from..ready.len()),
                Ok(Plan::Read(read)) => {
                    Work::Read { at: ReadAt::Slot(submission.view()), read, fetched: None }
                }
                Ok(Plan::Write(write)) => Work::Write(write),
                Ok(Plan::ReadThenWrite { view, read, write }) => Work::ReadThenWrite { view, read, write },
                // Such commands are refused when they are queued.
                Ok(Plan::Wait(_) | Plan::Exec(_)) => {
                    ready.error(&CommandError::new("ERR Command not allowed inside a transaction"));
                    Work::Ready(from..ready.len())
                }
                Err(error) => {
                    reply_error(&mut ready, &mut self.tally, from, &error);
                    Work::Ready(from..ready.len())
                }
            };
            let bucket = self.session.database_at(database).bucket;
            steps.push(Step { command, args: 0..0, database, bucket, silent: false, work });
        }
        Planned { steps, ready, outcomes: 0..0 }
    }
}

/// Hands the group's long values over with it; those of a command that could not be planned are given up there.
fn carry(long: QueuedValues, submission: &mut Submission) {
    for value in long.into_iter().flat_map(|(_, values)| values) {
        submission.carry(value.body);
    }
}
