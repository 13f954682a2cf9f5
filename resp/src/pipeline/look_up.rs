//! Keys that are looked up in their origins before a command that depends on them is planned.
//!
//! Owns when a look-up happens, and for which requests of a pipeline at once. Does not own what it finds: the core
//! adopts that, and the command reads local rows as ever.
//! What must hold: a command that depends on a key runs after a look-up of it that said what is there, or answers
//! an error; the writes before it in the pipeline are applied by then, since a key that was just written needs
//! none. A batch is closed only where a look-up is needed, and one look-up serves the requests behind as well.
//! INCR also needs its number in its row, where one from an origin does not stand. And what a command returns is not
//! left in an origin where a write of the same batch may replace it before it is fetched: a read at the head of a batch
//! says itself that it cannot be answered at once, all others are asked about before they are planned.

use std::ops::Range;

use forebay_storage::error::Error;
use forebay_storage::object::{BucketId, ObjectRow};
use forebay_storage::read::Lookup;
use forebay_storage::store::{Moved, Store};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use smallvec::SmallVec;

use super::Pipeline;
use crate::command::args::Args;
use crate::command::known::Known;
use crate::command::{self, Command, Flags};
use crate::error::CommandError;
use crate::parse::Parser;
use crate::session::{Queue, Watched};

/// Requests of one client whose keys are looked up at once.
const LOOK_UPS_MAX: usize = 32;

/// A watch follows an object that was only written anew with its bytes, for the transaction's own sake.
fn follow(watched: &mut [Watched], bucket: BucketId, key: &[u8], moved: Option<Moved>) {
    let Some(Moved { from, to }) = moved else { return };
    let same = |watch: &&mut Watched| watch.bucket == Some(bucket) && watch.key == key;
    for watch in watched.iter_mut().filter(same).filter(|watch| watch.version == Some(from)) {
        watch.version = Some(to);
    }
}

/// A longer text is no number.
const NUMBER_BYTES_MAX: u64 = 5 * 1024;

/// What the look-ups for the requests at hand have come to, by where each begins.
#[derive(Default)]
pub(super) struct LookUps {
    done: Vec<(usize, Result<(), CommandError>)>,
    /// The request whose number was put into its row last.
    number_of: Option<usize>,
    /// The request that runs alone, because what it returns is in an origin.
    alone: Option<usize>,
}

impl LookUps {
    /// Other requests come.
    pub(super) fn clear(&mut self) {
        self.done.clear();
        self.number_of = None;
        self.alone = None;
    }

    /// Whether the request is answered before anything behind it is planned.
    pub(super) fn is_alone(&self, request: &Range<usize>) -> bool {
        self.alone == Some(request.start)
    }

    fn of(&self, request: &Range<usize>) -> Option<&Result<(), CommandError>> {
        self.done.iter().find(|(start, _)| *start == request.start).map(|(_, done)| done)
    }
}

type Keys<'a> = SmallVec<[(BucketId, &'a [u8]); 4]>;

impl Pipeline {
    /// Whether a request depends on keys that have not been looked up; asked only where any mount looks up.
    #[inline(never)]
    pub(super) fn must_look_up(
        &mut self,
        command: &'static Command,
        request: &Range<usize>,
        args: Args<'_>,
    ) -> bool {
        let database = self.session.database();
        let looked_up = matches!(self.look_ups.of(request), Some(Ok(())));
        if !looked_up && !self.unknown_keys(command, args, database).is_empty() {
            return true;
        }
        // Later it could only be put into its row out of turn.
        command.known == Known::Number
            && self.look_ups.number_of != Some(request.start)
            && self.may_be_outside_of_row(database, args.at(1))
    }

    /// Whether a request returns bytes that may be in an origin only; asked only where there is any.
    #[inline(never)]
    pub(super) fn returns_what_is_away(
        &mut self,
        command: &'static Command,
        request: &Range<usize>,
        args: Args<'_>,
    ) -> bool {
        let database = self.session.database();
        !self.look_ups.is_alone(request) && !self.away_keys(command, args, database).is_empty()
    }

    /// Answers what stands before; what the request returns and replaces is brought here. One that only returns it
    /// is answered before anything behind it is submitted: a write there could reach the origin first.
    pub(super) async fn bring_here(
        &mut self,
        command: &'static Command,
        request: Range<usize>,
        args: Args<'_>,
        parser: &Parser,
    ) -> Result<(), CommandError> {
        self.close(parser).await;
        self.look_ups.alone = Some(request.start);
        if command.flags.has(Flags::WRITE) {
            let database = self.session.database();
            for (bucket, key) in self.away_keys(command, args, database) {
                self.server.store.bring_here(bucket, key).await?;
            }
        }
        Ok(())
    }

    /// The keys whose values a request returns and may have to fetch.
    fn away_keys<'a>(&mut self, command: &Command, args: Args<'a>, database: usize) -> Keys<'a> {
        let mut away = Keys::new();
        let Some(bucket) = self.session.database_at(database).bucket else { return away };
        for place in command.value_keys(args) {
            let key = args.at(place);
            if Store::check_key(key).is_ok() && self.server.store.is_away(bucket, key) {
                away.push((bucket, key));
            }
        }
        away
    }

    /// Answers what stands before, and looks up what the request still depends on, together with the keys of the
    /// requests behind it. After an error nothing may be planned for it.
    pub(super) async fn look_up(
        &mut self,
        command: &'static Command,
        request: Range<usize>,
        behind: &[Range<usize>],
        parser: &Parser,
    ) -> Result<(), CommandError> {
        self.close(parser).await;
        let args = parser.args(request.clone());
        let database = self.session.database();
        let unknown = self.unknown_keys(command, args, database);
        match self.look_ups.of(&request) {
            // What stood before may have made them known.
            _ if unknown.is_empty() => {}
            Some(done) => done.clone()?,
            None => self.look_up_with(request.clone(), unknown, behind, parser).await?,
        }
        if command.known == Known::Number {
            self.look_ups.number_of = Some(request.start);
            self.put_into_row(database, args.at(1)).await?;
        }
        Ok(())
    }

    async fn look_up_with<'a>(
        &mut self,
        request: Range<usize>,
        unknown: Keys<'a>,
        behind: &[Range<usize>],
        parser: &'a Parser,
    ) -> Result<(), CommandError> {
        let mut wanted = vec![(request.start, unknown)];
        for request in behind {
            let args = parser.args(request.clone());
            let Some(command) = command_on_data(args) else { break };
            let unknown = self.unknown_keys(command, args, self.session.database());
            if !unknown.is_empty() && self.look_ups.of(request).is_none() {
                wanted.push((request.start, unknown));
            }
        }
        let store = &self.server.store;
        let look_ups = wanted.iter().map(|(start, keys)| {
            async move { (*start, store.look_up(keys).await.map_err(CommandError::from)) }.boxed()
        });
        let look_ups: Vec<BoxFuture<'_, _>> = look_ups.collect();
        let looking_up = stream::iter(look_ups).buffer_unordered(LOOK_UPS_MAX).collect::<Vec<_>>();
        let done = tokio::select! {
            biased;
            done = looking_up => done,
            () = self.server.stopping.cancelled() => return Err(Error::Stopping.into()),
        };
        self.look_ups.done.extend(done);
        self.look_ups.of(&request).cloned().unwrap_or(Ok(()))
    }

    /// Whether a number under the key may not stand in its row, as far as that can be told without a wait.
    fn may_be_outside_of_row(&self, database: usize, key: &[u8]) -> bool {
        let Some(bucket) = self.session.database_at(database).bucket else { return false };
        if Store::check_key(key).is_err() {
            return false;
        }
        match self.server.store.get(bucket, key) {
            Ok(Lookup::Found(row)) => is_outside_of_row(&row),
            Ok(Lookup::Later) => true,
            Ok(Lookup::Absent) | Err(_) => false,
        }
    }

    /// Puts what the key holds into its row, if it is no longer than a number: the log adds to what stands there.
    async fn put_into_row(&mut self, database: usize, key: &[u8]) -> Result<Option<Moved>, CommandError> {
        let Some(bucket) = self.session.database_at(database).bucket else { return Ok(None) };
        Store::check_key(key)?;
        let row = self.server.store.view()?.fetch(bucket, key).await?;
        match row.is_some_and(|row| is_outside_of_row(&row)) {
            true => Ok(self.server.store.defragment(bucket, key).await?),
            false => Ok(None),
        }
    }

    /// Makes known what the commands of a transaction depend on, and what they add to ready for that: none of them
    /// can be tried again alone.
    pub(super) async fn look_up_queue(
        &mut self,
        queue: &Queue,
        watched: &mut [Watched],
        parser: &Parser,
    ) -> Result<(), CommandError> {
        if self.server.store.has_lookups() && !self.unknown_keys_of(queue).is_empty() {
            self.close(parser).await;
            let keys = self.unknown_keys_of(queue);
            tokio::select! {
                biased;
                looked_up = self.server.store.look_up(&keys) => looked_up?,
                () = self.server.stopping.cancelled() => return Err(Error::Stopping.into()),
            }
        }
        let (mut numbers, mut away) = (Vec::new(), Vec::new());
        let fetches =
            self.server.store.has_origins() && queue.iter().any(|(it, _)| it.flags.has(Flags::WRITE));
        self.each_queued(queue, |pipeline, command, args, database| {
            if command.known == Known::Number {
                numbers.push((database, args.at(1)));
            }
            if fetches {
                away.extend(pipeline.away_keys(command, args, database));
            }
        });
        for (bucket, key) in away {
            let moved = self.server.store.bring_here(bucket, key).await?;
            follow(watched, bucket, key, moved);
        }
        for (database, key) in numbers {
            if self.may_be_outside_of_row(database, key) {
                let moved = self.put_into_row(database, key).await?;
                if let Some(bucket) = self.session.database_at(database).bucket {
                    follow(watched, bucket, key, moved);
                }
            }
        }
        Ok(())
    }

    fn unknown_keys_of<'q>(&mut self, queue: &'q Queue) -> Vec<(BucketId, &'q [u8])> {
        let mut keys = Vec::new();
        self.each_queued(queue, |pipeline, command, args, database| {
            keys.extend(pipeline.unknown_keys(command, args, database));
        });
        keys
    }

    /// Visits the commands of a queue, each with the database that it will work in.
    fn each_queued<'q>(
        &mut self,
        queue: &'q Queue,
        mut visit: impl FnMut(&mut Pipeline, &'static Command, Args<'q>, usize),
    ) {
        let mut database = self.session.database();
        for (command, args) in queue.iter() {
            database = self.selected(command, args).unwrap_or(database);
            visit(self, command, args, database);
        }
    }

    /// The keys that a request depends on and of which nothing is known.
    fn unknown_keys<'a>(&mut self, command: &Command, args: Args<'a>, database: usize) -> Keys<'a> {
        let mut unknown = Keys::new();
        for (nth, place) in command.known_keys(args).into_iter().enumerate() {
            let database = match nth {
                1 if command.known == Known::Copy => self.copy_database(args, database),
                _ => database,
            };
            let Some(bucket) = self.session.database_at(database).bucket else { continue };
            let key = args.at(place);
            // One that is too long is refused when it is planned.
            if Store::check_key(key).is_ok() && self.server.store.is_unknown(bucket, key) {
                unknown.push((bucket, key));
            }
        }
        unknown
    }

    fn copy_database(&mut self, args: Args<'_>, database: usize) -> usize {
        let names = &self.server.keyspace;
        match command::key::copy_target(names, args) {
            Ok(Some(number)) => self.session.place_of(names.database(&self.server.store, number)),
            // A bad option is refused when it is planned.
            Ok(None) | Err(_) => database,
        }
    }
}

fn is_outside_of_row(row: &ObjectRow) -> bool {
    row.inline_body().is_none() && row.body_len() <= NUMBER_BYTES_MAX
}

/// The command of a request that works on data and leaves the session as it is.
fn command_on_data(args: Args<'_>) -> Option<&'static Command> {
    let command = command::find(args).ok()?;
    let on_data = command.flags.has(Flags::READONLY) || command.flags.has(Flags::WRITE);
    (on_data && command.takes(args.len())).then_some(command)
}
