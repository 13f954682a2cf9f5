//! Long arguments: judged before they arrive, staged while they do, planned when their request is whole.
//!
//! Owns what is known of the arguments that are not in the read buffer. Does not own their bytes, which go from
//! the socket into a [`BodyWriter`], and which nobody looks at.
//! What must hold: only a value of a command that could be run is staged. A command with long values has a
//! submission of its own: whatever fails it gives the values up, so it is never tried again, and it takes no
//! other command's part down. However a request ends before that, its values go with [`Arriving`] or the queue of
//! MULTI, and their room is free again.

use std::mem;
use std::ops::Range;

use forebay_storage::error::{Error, Result};
use forebay_storage::mutation::Refusal;
use forebay_storage::object::ObjectRow;
use forebay_storage::stage::{BodyOf, BodyWriter, StagedBody};
use forebay_storage::store::Store;
use forebay_storage::submission::Submission;

use super::Pipeline;
use crate::command::args::Args;
use crate::command::plan::{LongValue, Planner};
use crate::command::{self, Command, Flags};
use crate::error::CommandError;
use crate::parse::{LongArgument, Parser};
use crate::reply::Reply;

/// Parts of a value that are put together before a long one is added to it. The core refuses more than 256, and
/// the long value is lost with its refusal; one of 512 MiB comes in 16 parts.
const PARTS_BEFORE_EXTENSION_MAX: usize = 230;

/// Long arguments of a request that has not arrived whole.
#[derive(Default)]
pub(super) struct Arriving {
    staged: Vec<LongValue>,
    /// The first that no command may have: its place and length in bytes.
    dropped: Option<(usize, u64)>,
    /// Why one could not be staged.
    failed: Option<CommandError>,
}

/// What is to be done with the bytes of a long argument.
pub(crate) enum Intake {
    /// They are staged.
    Stage(Box<BodyWriter>),
    /// Their first few are kept for an error's text, the others dropped.
    Keep,
    /// All are dropped.
    Drop,
}

impl Pipeline {
    /// A long argument is about to arrive; everything before its request is answered.
    pub(crate) async fn begin_long(&mut self, long: &LongArgument, parser: &Parser) -> Intake {
        if self.arriving.failed.is_some() {
            return Intake::Drop;
        }
        let args = parser.args(long.before.clone());
        let Some(database) = self.database_of_value(args, long.count) else {
            self.arriving.dropped.get_or_insert((args.len(), long.len));
            return Intake::Keep;
        };
        let refused = match long.len > self.server.store.body_bytes_max() {
            true => Some(CommandError::STRING_TOO_LONG),
            false => self.refused_by_mount(database, args),
        };
        if refused.is_some() {
            self.arriving.failed = refused;
            return Intake::Drop;
        }
        match self.stage(database, long.len).await {
            Ok(writer) => Intake::Stage(Box::new(writer)),
            Err(error) => {
                self.arriving.failed = Some(error);
                Intake::Drop
            }
        }
    }

    /// A long argument has arrived and was staged, or could not be.
    pub(crate) fn end_long(&mut self, place: usize, staged: Result<StagedBody>) {
        match staged {
            Ok(body) => self.arriving.staged.push(LongValue { place, body }),
            Err(error) => self.arriving.failed = Some(error.into()),
        }
    }

    /// Whether the request that arrives has long arguments.
    pub(crate) fn has_long(&self) -> bool {
        let Arriving { staged, dropped, failed } = &self.arriving;
        !staged.is_empty() || dropped.is_some() || failed.is_some()
    }

    /// Runs a request with long arguments, whole; when it returns, the request is answered.
    pub(crate) async fn long_request(&mut self, request: Range<usize>, parser: &Parser) {
        let arriving = mem::take(&mut self.arriving);
        let args = parser.args(request.clone());
        let Some(command) = self.enter(args, &request) else { return };
        let queued = self.session.queue.is_some() && !command.flags.has(Flags::NEVER_QUEUED);
        if let Some(error) = self.judge(command, args, &arriving) {
            match &mut self.session.queue {
                // As in Redis: the transaction will fail, and nobody looks closer.
                Some(queue) if queue.aborted => return self.answer(request, |reply| reply.simple("QUEUED")),
                Some(queue) => queue.aborted = true,
                None => {}
            }
            return self.answer(request, |reply| reply.error(&error));
        }
        if queued {
            return self.enqueue(command, args, request, arriving.staged);
        }
        if let Err(error) = self.prepare(command, request.clone(), parser).await {
            return self.answer(request, |reply| reply.error(&error));
        }
        self.long = arriving.staged;
        if let Some(blocked) = self.plan(command, request.clone(), args) {
            self.unblock(blocked, request, &[], parser).await;
        }
        self.long.clear();
        self.close(parser).await;
    }

    /// Hands the planned command's long values over with its mutations.
    pub(super) fn carry_long(&mut self) {
        for value in self.long.drain(..) {
            self.submission.carry(value.body);
        }
    }

    /// The database of the value that comes behind these arguments; `None` if it is no value, or the command
    /// cannot be run with what is known.
    fn database_of_value(&mut self, args: Args<'_>, count: usize) -> Option<usize> {
        let command = command::find_name(args.get(0)?)?;
        let is_value = command.takes(count) && command.values.of(count).any(|place| place == args.len());
        let keys_fit = command.keys.of(args.len()).all(|key| Store::check_key(args.at(key)).is_ok());
        let allowed = self.session.authenticated || command.flags.has(Flags::NO_AUTH);
        if !is_value || !keys_fit || !allowed {
            return None;
        }
        match &self.session.queue {
            None => Some(self.session.database()),
            Some(queue) if queue.aborted => None,
            Some(queue) => {
                let names = &self.server.keyspace;
                let selects = queue.iter().filter(|(command, _)| command.name == "select");
                let chosen = selects.filter_map(|(_, args)| names.checked(args.int(1).ok()?).ok()).last();
                Some(match chosen {
                    Some(number) => self.session.place_of(names.database(&self.server.store, number)),
                    None => self.session.database(),
                })
            }
        }
    }

    /// Why nothing can be written under one of the keys, if that is known before the log says so.
    fn refused_by_mount(&self, database: usize, args: Args<'_>) -> Option<CommandError> {
        let store = &self.server.store;
        if !store.has_lookups() {
            return None;
        }
        let command = command::find_name(args.get(0)?)?;
        let bucket = self.session.database_at(database).bucket?;
        let key = command
            .keys
            .of(args.len())
            .map(|place| args.at(place))
            .find(|key| store.is_read_only(bucket, key))?;
        let mounts = store.mounts();
        let object = [b"/", self.session.database_at(database).name.as_bytes(), b"/", key].concat();
        let covers =
            |path: &str| object.strip_prefix(path.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
        let mount = mounts.iter().filter(|mount| covers(&mount.path)).max_by_key(|mount| mount.path.len());
        let path = mount.map(|mount| mount.path.clone()).unwrap_or_default();
        Some((&Refusal::ReadOnly(path)).into())
    }

    async fn stage(&mut self, database: usize, len: u64) -> std::result::Result<BodyWriter, CommandError> {
        if self.session.database_at(database).bucket.is_none() {
            self.open_bucket(database).await?;
        }
        let bucket = self.session.database_at(database).bucket;
        let bucket = bucket.ok_or(Error::Unavailable("the bucket was just deleted"))?;
        Ok(self.server.store.stage_body(bucket, len, BodyOf::Value)?)
    }

    /// Why a command with such arguments cannot be run.
    fn judge(
        &mut self,
        command: &'static Command,
        args: Args<'_>,
        arriving: &Arriving,
    ) -> Option<CommandError> {
        if let Some(error) = &arriving.failed {
            return Some(error.clone());
        }
        let (place, len) = arriving.dropped?;
        for key in command.keys.of(args.len()) {
            let key_len = if key == place { len as usize } else { args.at(key).len() };
            if key == place || Store::check_key(args.at(key)).is_err() {
                return Some(Error::KeyTooLong(key_len).into());
            }
        }
        // What is kept of the argument is no option, number or float, so Redis's complaint comes from planning.
        // Commands that work on the session must not see it.
        if command.flags.has(Flags::WRITE) || command.flags.has(Flags::READONLY) {
            let database = self.session.database();
            let mut planner = Planner {
                server: &self.server,
                session: &mut self.session,
                submission: &mut Submission::new(),
                reply: &mut Reply::new(self.out.protocol()),
                command,
                database,
                in_exec: false,
                long: &arriving.staged,
            };
            if let Err(error) = (command.plan)(&mut planner, args) {
                return Some(error);
            }
        }
        let limit = self.server.store.inline_bytes_max();
        Some(CommandError::text(format!(
            "ERR forebay: argument {place} of '{}' is {len} bytes long, the limit is {limit}",
            command.name
        )))
    }

    /// Makes the keys known that the command depends on, and a value ready to take more.
    async fn prepare(
        &mut self,
        command: &'static Command,
        request: Range<usize>,
        parser: &Parser,
    ) -> std::result::Result<(), CommandError> {
        let args = parser.args(request.clone());
        if self.server.store.has_lookups() && self.must_look_up(command, &request, args) {
            self.look_up(command, request, &[], parser).await?;
        }
        if command.flags.has(Flags::EXTENDS) {
            self.join_parts(args.at(1)).await?;
        }
        Ok(())
    }

    /// Puts a value together that has too many parts to take more.
    async fn join_parts(&mut self, key: &[u8]) -> std::result::Result<(), CommandError> {
        let Some(bucket) = self.session.database_at(self.session.database()).bucket else { return Ok(()) };
        Store::check_key(key)?;
        let store = &self.server.store;
        let row = store.view()?.fetch(bucket, key).await?;
        // One that is too long already is refused as it is, and not copied for that.
        let extends = |row: &ObjectRow| row.body_len() <= store.body_bytes_max();
        if row.filter(extends).is_some_and(|row| row.parts_count() > PARTS_BEFORE_EXTENSION_MAX) {
            store.defragment(bucket, key).await?;
        }
        Ok(())
    }
}
