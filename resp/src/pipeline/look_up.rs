//! Keys that are looked up in their origins before a command that depends on them is planned.
//!
//! Owns when a look-up happens, and for which requests of a pipeline at once. Does not own what it finds: the core
//! adopts that, and the command reads local rows as ever.
//! What must hold: a command that depends on a key runs after a look-up of it that said what is there, or answers
//! an error; the writes before it in the pipeline are applied by then, since a key that was just written needs
//! none. A batch is closed only where a look-up is needed, and one look-up serves the requests behind as well.

use std::ops::Range;

use forebay_storage::error::Error;
use forebay_storage::object::BucketId;
use forebay_storage::store::Store;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use smallvec::SmallVec;

use super::Pipeline;
use crate::command::args::Args;
use crate::command::known::Known;
use crate::command::{self, Command, Flags};
use crate::error::CommandError;
use crate::parse::Parser;
use crate::session::Queue;

/// Requests of one client whose keys are looked up at once.
const LOOK_UPS_MAX: usize = 32;

/// What the look-ups for the requests at hand have come to.
#[derive(Default)]
pub(super) struct LookUps(Vec<(usize, Result<(), CommandError>)>);

impl LookUps {
    /// Other requests come.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn of(&self, request: &Range<usize>) -> Option<&Result<(), CommandError>> {
        self.0.iter().find(|(start, _)| *start == request.start).map(|(_, done)| done)
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
        let done = matches!(self.look_ups.of(request), Some(Ok(())));
        !done && !self.unknown_keys(command, args, self.session.database()).is_empty()
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
        let unknown = self.unknown_keys(command, args, self.session.database());
        match self.look_ups.of(&request) {
            // What stood before has made them known.
            _ if unknown.is_empty() => return Ok(()),
            Some(done) => return done.clone(),
            None => {}
        }
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
        self.look_ups.0.extend(done);
        self.look_ups.of(&request).cloned().unwrap_or(Ok(()))
    }

    /// Makes known what the commands of a transaction depend on.
    pub(super) async fn look_up_queue(&mut self, queue: &Queue, parser: &Parser) -> Result<(), CommandError> {
        if !self.server.store.has_lookups() || self.unknown_keys_of(queue).is_empty() {
            return Ok(());
        }
        self.close(parser).await;
        let keys = self.unknown_keys_of(queue);
        tokio::select! {
            biased;
            looked_up = self.server.store.look_up(&keys) => Ok(looked_up?),
            () = self.server.stopping.cancelled() => Err(Error::Stopping.into()),
        }
    }

    fn unknown_keys_of<'q>(&mut self, queue: &'q Queue) -> Vec<(BucketId, &'q [u8])> {
        let mut database = self.session.database();
        let mut keys = Vec::new();
        for (command, args) in queue.iter() {
            if let Some(selected) = self.selected(command, args) {
                database = selected;
            }
            keys.extend(self.unknown_keys(command, args, database));
        }
        keys
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

/// The command of a request that works on data and leaves the session as it is.
fn command_on_data(args: Args<'_>) -> Option<&'static Command> {
    let command = command::find(args).ok()?;
    let on_data = command.flags.has(Flags::READONLY) || command.flags.has(Flags::WRITE);
    (on_data && command.takes(args.len())).then_some(command)
}
