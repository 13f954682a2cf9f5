//! One client's commands in their order: planned as they are parsed, submitted together, answered in turn.
//!
//! Owns the client's session, its open submission, the steps still to be answered, and the replies.
//! Does not own the socket or the read buffer: arguments of planned commands stay where they were read
//! until the batch is closed.
//! What must hold: replies leave in the order of the requests; a read sees every write before it in the
//! pipeline and none behind it; between two awaits of [`Pipeline::close`] nothing is planned.
//! A connection that dies midway leaves what it submitted submitted, as with any write whose reply is lost.

mod again;
mod close;
mod exec;
mod long;
mod look_up;
mod settle;
mod step;

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use forebay_storage::error::Error;
use forebay_storage::store::Store;
use forebay_storage::submission::Submission;
use smallvec::SmallVec;

use self::long::Arriving;
pub(crate) use self::long::Intake;
use self::look_up::LookUps;
use self::step::{ReadAt, Step, Work};
use crate::command::args::Args;
use crate::command::plan::{LongValue, Plan, Planner, Read, WaitFn, Waiting};
use crate::command::{self, Command, Flags};
use crate::error::CommandError;
use crate::keyspace::bucket_to_open;
use crate::parse::Parser;
use crate::read::{Cold, Held, Reader};
use crate::reply::{Reply, Stream};
use crate::server::{Server, Tally};
use crate::session::{Queue, Replies, Session};

/// A batch is submitted when its mutations reach this size, in bytes: a log entry's size.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Or when it holds this many commands.
const BATCH_STEPS_MAX: usize = 10_000;
/// Or this many reads that were not answered at once: their values may have to be opened together.
const BATCH_READS_MAX: usize = 1024;
/// Replies are sent before more requests are run when they reach this size, in bytes.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;
/// Memory kept for replies between batches, in bytes.
const REPLY_CAPACITY_KEPT: usize = 64 * 1024;

/// One client's commands on their way.
pub(crate) struct Pipeline {
    server: Arc<Server>,
    pub(crate) session: Session,
    /// Replies that may leave.
    out: Reply,
    submission: Submission,
    /// Commands whose replies are not in `out` yet. Once there is one, all that follow stand here too.
    steps: Vec<Step>,
    /// Replies of steps that are answered but must wait for those before them.
    ready: Reply,
    /// Hashes of keys with an APPEND or SETRANGE in the submission. Such a mutation may have to be
    /// repeated after the batch (`TooFragmented`), so nothing else may touch its key in the same batch.
    extended_keys: SmallVec<[u64; 4]>,
    /// Reads among the steps.
    reads: usize,
    /// What the unsent replies hold.
    held: Held,
    /// Long arguments of the request that arrives.
    arriving: Arriving,
    /// Those of the command that is planned.
    long: Vec<LongValue>,
    /// Requests whose keys were looked up in their origins.
    look_ups: LookUps,
    tally: Tally,
    last_command: &'static str,
}

/// Why a request could not be planned at once.
pub(crate) enum Blocked {
    /// The batch must be closed first.
    Close(&'static Command),
    /// The bucket of this database must be opened first.
    Open(&'static Command, usize),
    /// It waits for something itself.
    Wait(WaitFn),
    /// Its keys must be looked up in their origins first.
    LookUp(&'static Command),
    /// What it returns is in an origin, where what comes behind it may replace it: it is answered by itself.
    Away(&'static Command),
    /// EXEC.
    Exec(&'static Command, Box<Queue>),
}

impl Pipeline {
    pub(crate) fn new(server: Arc<Server>, session: Session) -> Pipeline {
        let (out, ready) = (Reply::new(session.protocol), Reply::new(session.protocol));
        Pipeline {
            server,
            session,
            out,
            submission: Submission::new(),
            steps: Vec::new(),
            ready,
            extended_keys: SmallVec::new(),
            reads: 0,
            held: Held::default(),
            arriving: Arriving::default(),
            long: Vec::new(),
            look_ups: LookUps::default(),
            tally: Tally::default(),
            last_command: "NULL",
        }
    }

    /// Replies that may be sent.
    pub(crate) fn replies(&self) -> &[u8] {
        self.out.bytes()
    }

    /// Whether long values are among them.
    #[inline]
    pub(crate) fn has_streams(&self) -> bool {
        self.out.has_streams()
    }

    /// Long values among them.
    pub(crate) fn take_streams(&mut self) -> Vec<Stream> {
        self.out.take_streams()
    }

    /// They were sent.
    pub(crate) fn replies_sent(&mut self) {
        self.out.clear(REPLY_CAPACITY_KEPT);
        self.held.release();
    }

    /// Whether replies should be sent before more is planned.
    #[inline]
    pub(crate) fn must_send(&self) -> bool {
        self.out.len() > UNSENT_BYTES_MAX || self.out.has_streams()
    }

    /// Whether the batch should be closed before more is planned.
    pub(crate) fn is_full(&self) -> bool {
        self.submission.bytes_len() >= BATCH_BYTES_MAX
            || self.steps.len() >= BATCH_STEPS_MAX
            || self.reads >= BATCH_READS_MAX
    }

    /// Full name of the last command.
    pub(crate) fn last_command(&self) -> &'static str {
        self.last_command
    }

    /// Bytes have been received.
    pub(crate) fn count_read(&mut self, bytes: usize) {
        self.tally.reads += 1;
        self.tally.bytes_in += bytes as u64;
    }

    /// The replies are about to be sent.
    pub(crate) fn count_write(&mut self) {
        let bytes = self.out.len() as u64;
        self.tally.writes += u64::from(bytes > 0);
        self.tally.bytes_out += bytes;
    }

    /// Counts since the last call.
    pub(crate) fn take_tally(&mut self) -> Tally {
        mem::take(&mut self.tally)
    }

    /// These requests come next. Asks for the rows that they are going to read, all at once: only a hint.
    pub(crate) fn begin(&mut self, requests: &[Range<usize>], parser: &Parser) {
        self.look_ups.clear();
        let Some(bucket) = self.session.database_at(self.session.database()).bucket else { return };
        if requests.len() < 2 {
            return;
        }
        let mut keys: SmallVec<[&[u8]; Store::PREFETCH_KEYS]> = SmallVec::new();
        for request in requests {
            let args = parser.args(request.clone());
            let command = command::find_name(args.at(0)).filter(|command| command.flags.has(Flags::READONLY));
            let Some(key) = command.and_then(|command| command.keys.of(args.len()).next()) else { continue };
            if keys.len() < Store::PREFETCH_KEYS {
                keys.push(args.at(key));
            }
        }
        if keys.len() > 1 {
            self.server.store.prefetch(bucket, keys.iter().copied());
        }
    }

    /// Plans a request, and answers it if nothing stands before it. What comes back must be given to
    /// [`Pipeline::unblock`].
    #[inline]
    pub(crate) fn request(&mut self, request: Range<usize>, parser: &Parser) -> Option<Blocked> {
        let args = parser.args(request.clone());
        let command = self.enter(args, &request)?;
        if self.session.queue.is_some() && !command.flags.has(Flags::NEVER_QUEUED) {
            self.enqueue(command, args, request, Vec::new());
            return None;
        }
        self.plan(command, request, args)
    }

    /// Counts a request, and names its command; one that is none is answered.
    #[inline]
    fn enter(&mut self, args: Args<'_>, request: &Range<usize>) -> Option<&'static Command> {
        self.tally.commands += 1;
        if self.session.replies == Replies::SkipNext {
            self.session.replies = Replies::Skip;
        }
        match self.admit(args) {
            Ok(command) => {
                self.last_command = command.name;
                Some(command)
            }
            Err(error) => {
                self.reject(args, request.clone(), error);
                None
            }
        }
    }

    /// Puts a command aside until EXEC.
    fn enqueue(
        &mut self,
        command: &'static Command,
        args: Args<'_>,
        request: Range<usize>,
        long: Vec<LongValue>,
    ) {
        let Some(queue) = &mut self.session.queue else { return };
        let queued = queue.push(command, args, long);
        self.answer(request, |reply| match queued {
            Ok(()) => reply.simple("QUEUED"),
            Err(error) => reply.error(&error),
        });
    }

    /// Answers what is no command, or not one with these arguments.
    fn reject(&mut self, args: Args<'_>, request: Range<usize>, error: CommandError) {
        let name = args.at(0);
        if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
            // A browser was sent here by a page that means harm: nothing behind this line is a command.
            tracing::warn!("HTTP on the Redis port, closing the connection");
            self.session.closing = true;
            return;
        }
        if name.eq_ignore_ascii_case(b"exec") {
            self.session.queue = None;
            self.session.watched.clear();
            let error = error.behind(b"EXECABORT Transaction discarded because of: ");
            return self.answer(request, |reply| reply.error(&error));
        }
        if let Some(queue) = &mut self.session.queue {
            queue.aborted = true;
        }
        self.answer(request, |reply| reply.error(&error));
    }

    /// Carries on with a request that could not be planned at once; `behind` are requests that come after it.
    pub(crate) async fn unblock(
        &mut self,
        blocked: Blocked,
        request: Range<usize>,
        behind: &[Range<usize>],
        parser: &Parser,
    ) {
        let args = parser.args(request.clone());
        let mut next = Some(blocked);
        while let Some(blocked) = next.take() {
            match blocked {
                Blocked::Close(command) => {
                    self.close(parser).await;
                    next = self.plan(command, request.clone(), args);
                }
                Blocked::Open(command, place) => match self.open_bucket(place).await {
                    Ok(()) => next = self.plan(command, request.clone(), args),
                    Err(error) => self.answer(request.clone(), |reply| reply.error(&error)),
                },
                Blocked::LookUp(command) => {
                    match self.look_up(command, request.clone(), behind, parser).await {
                        Ok(()) => next = self.plan(command, request.clone(), args),
                        Err(error) => self.answer(request.clone(), |reply| reply.error(&error)),
                    }
                }
                Blocked::Away(command) => match self.bring_here(command, request.clone(), args, parser).await
                {
                    Ok(()) => next = self.plan(command, request.clone(), args),
                    Err(error) => self.answer(request.clone(), |reply| reply.error(&error)),
                },
                Blocked::Wait(wait) => self.wait(wait, args).await,
                Blocked::Exec(command, queue) => {
                    self.exec(command, queue, request.clone(), parser).await;
                }
            }
        }
        if self.look_ups.is_alone(&request) {
            self.close(parser).await;
        }
    }

    /// Answers a request that was dropped for its size.
    pub(crate) fn refuse(&mut self, limit: u64) {
        self.tally.commands += 1;
        self.arriving = Arriving::default();
        let error = CommandError::text(format!("ERR forebay: a request may hold at most {limit} bytes"));
        if let Some(queue) = &mut self.session.queue {
            queue.aborted = true;
        }
        self.answer(0..0, |reply| reply.error(&error));
    }

    /// Answers bytes that are no request; nothing more can be read from the connection.
    pub(crate) fn protocol_error(&mut self, error: &CommandError) {
        self.session.closing = true;
        self.arriving = Arriving::default();
        self.answer(0..0, |reply| reply.error(error));
    }

    /// The checks that every command passes before it is planned or queued, in Redis's order.
    #[inline]
    fn admit(&self, args: Args<'_>) -> Result<&'static Command, CommandError> {
        let command = command::find(args)?;
        if !command.takes(args.len()) {
            return Err(CommandError::wrong_arity(command.name));
        }
        if !self.session.authenticated && !command.flags.has(Flags::NO_AUTH) {
            return Err(CommandError::NO_AUTH);
        }
        if self.session.queue.is_some() && command.flags.has(Flags::NO_MULTI) {
            return Err(CommandError::new("ERR Command not allowed inside a transaction"));
        }
        Ok(command)
    }

    #[inline]
    fn plan(&mut self, command: &'static Command, request: Range<usize>, args: Args<'_>) -> Option<Blocked> {
        let idle = self.steps.is_empty();
        if !idle && (command.flags.has(Flags::ALONE) || self.meets_extended_key(command, args)) {
            return Some(Blocked::Close(command));
        }
        let database = self.session.database();
        if command.flags.has(Flags::DENYOOM) {
            let (names, store) = (&self.server.keyspace, &self.server.store);
            if let Some(place) = bucket_to_open(names, store, &mut self.session, command, args, database) {
                return Some(Blocked::Open(command, place));
            }
        }
        if self.server.store.has_lookups() && self.must_look_up(command, &request, args) {
            return Some(Blocked::LookUp(command));
        }
        // A plain read says itself that bytes are away, unless it is carried out later.
        let asks = command.flags.has(Flags::WRITE) || !self.submission.is_empty();
        if asks && self.server.store.has_origins() && self.returns_what_is_away(command, &request, args) {
            return Some(Blocked::Away(command));
        }
        let reply = if idle { &mut self.out } else { &mut self.ready };
        let from = reply.len();
        reply.set_protocol(self.session.protocol);
        let mut planner = Planner {
            server: &self.server,
            session: &mut self.session,
            submission: &mut self.submission,
            reply,
            command,
            database,
            in_exec: false,
            long: &self.long,
        };
        match (command.plan)(&mut planner, args) {
            Ok(Plan::Answered) => self.answered(from, command, request),
            Err(error) => {
                reply_error(planner.reply, &mut self.tally, from, &error);
                self.answered(from, command, request);
            }
            Ok(Plan::Read(read)) => return self.plan_read(read, command, request, args, database),
            Ok(Plan::Write(write)) => {
                self.carry_long();
                if command.flags.has(Flags::EXTENDS) {
                    self.extended_keys.push(key_hash(args.at(1)));
                }
                self.push_step(command, request, database, Work::Write(write));
            }
            Ok(Plan::ReadThenWrite { view, read, write }) => {
                self.carry_long();
                self.push_step(command, request, database, Work::ReadThenWrite { view, read, write });
            }
            Ok(Plan::Wait(wait)) if idle => return Some(Blocked::Wait(wait)),
            Ok(Plan::Wait(_)) => return Some(Blocked::Close(command)),
            Ok(Plan::Exec(queue)) => return Some(Blocked::Exec(command, queue)),
        }
        None
    }

    /// Reads at once if no write stands before; else at its place in the submission.
    #[inline]
    fn plan_read(
        &mut self,
        read: Read,
        command: &'static Command,
        request: Range<usize>,
        args: Args<'_>,
        database: usize,
    ) -> Option<Blocked> {
        if !self.submission.is_empty() {
            let at = ReadAt::Slot(self.submission.view());
            self.push_step(command, request, database, Work::Read { at, read, fetched: None });
            return None;
        }
        let reply = if self.steps.is_empty() { &mut self.out } else { &mut self.ready };
        let from = reply.len();
        let bucket = self.session.database_at(database).bucket;
        let (tally, held) = (&mut self.tally, &self.held);
        let mut reader = Reader { server: &self.server, bucket, args, reply, tally, held };
        let done = match reader.read_latest(read) {
            Ok(done) => done,
            Err(Cold)
                if self.server.store.has_origins() && self.returns_what_is_away(command, &request, args) =>
            {
                return Some(Blocked::Away(command));
            }
            // Later writes of this pipeline must not be seen, so the view is taken now.
            Err(Cold) => match self.server.store.view() {
                Ok(view) => {
                    self.reads += 1;
                    let work = Work::Read { at: ReadAt::View(view), read, fetched: None };
                    self.push_step(command, request, database, work);
                    return None;
                }
                Err(error) => Err(error.into()),
            },
        };
        if let Err(error) = done {
            let reply = if self.steps.is_empty() { &mut self.out } else { &mut self.ready };
            reply_error(reply, &mut self.tally, from, &error);
        }
        self.answered(from, command, request);
        None
    }

    fn push_step(&mut self, command: &'static Command, args: Range<usize>, database: usize, work: Work) {
        let bucket = self.session.database_at(database).bucket;
        let silent = self.is_silent();
        self.steps.push(Step { command, args, database, bucket, silent, work });
    }

    /// Writes the reply of a request that needs no plan.
    fn answer(&mut self, request: Range<usize>, write: impl FnOnce(&mut Reply)) {
        let reply = if self.steps.is_empty() { &mut self.out } else { &mut self.ready };
        let from = reply.len();
        reply.set_protocol(self.session.protocol);
        write(reply);
        self.tally.errors += u64::from(reply.bytes().get(from) == Some(&b'-'));
        self.answered(from, &command::NONE, request);
    }

    /// A reply was written, from `from` on: it stays if nothing stands before it, else becomes a step.
    #[inline]
    fn answered(&mut self, from: usize, command: &'static Command, args: Range<usize>) {
        let silent = self.is_silent();
        if self.steps.is_empty() {
            if silent {
                self.out.truncate(from);
            }
        } else if silent {
            self.ready.truncate(from);
        } else {
            let database = self.session.database();
            let work = Work::Ready(from..self.ready.len());
            self.steps.push(Step { command, args, database, bucket: None, silent: false, work });
        }
    }

    /// Whether the present command gets no reply (CLIENT REPLY); asked once a command.
    #[inline]
    fn is_silent(&mut self) -> bool {
        match self.session.replies {
            Replies::On => false,
            Replies::Off | Replies::SkipNext => true,
            Replies::Skip => {
                self.session.replies = Replies::On;
                true
            }
        }
    }

    /// Whether the command must not share a batch with the APPENDs and SETRANGEs in it.
    fn meets_extended_key(&self, command: &Command, args: Args<'_>) -> bool {
        if self.extended_keys.is_empty() || command.flags.has(Flags::EXTENDS) {
            return false;
        }
        if command.keys.first == 0 {
            return command.flags.has(Flags::WRITE)
                || command.flags.has(Flags::READONLY)
                || command.name == "exec";
        }
        command.keys.of(args.len()).any(|key| self.extended_keys.contains(&key_hash(args.at(key))))
    }

    async fn open_bucket(&mut self, place: usize) -> Result<(), CommandError> {
        let name = Arc::clone(&self.session.database_at(place).name);
        let bucket = self.server.store.open_bucket(name.as_bytes()).await?;
        self.session.database_at_mut(place).bucket = Some(bucket);
        Ok(())
    }

    /// Carries out a command that waits for something else than the log; nothing stands before it.
    async fn wait(&mut self, wait: WaitFn, args: Args<'_>) {
        let from = self.out.len();
        let (server, session, reply) = (&*self.server, &mut self.session, &mut self.out);
        let waiting = Waiting { server, session, args, reply };
        let waited = tokio::select! {
            biased;
            waited = wait(waiting) => waited,
            () = server.stopping.cancelled() => Err(Error::Stopping.into()),
        };
        if let Err(error) = waited {
            reply_error(&mut self.out, &mut self.tally, from, &error);
        }
        if self.is_silent() {
            self.out.truncate(from);
        }
    }
}

/// Replaces what was written of a reply by an error.
fn reply_error(reply: &mut Reply, tally: &mut Tally, from: usize, error: &CommandError) {
    reply.truncate(from);
    reply.error(error);
    tally.errors += 1;
}

/// A hash to compare keys of one batch by; a collision only closes a batch early.
fn key_hash(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
