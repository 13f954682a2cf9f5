//! What one client has set up on its connection, as its commands see it.
//!
//! Owned by the connection's task alone; what other clients may see of it (CLIENT LIST) is copied into
//! [`ClientFacts`] after each batch.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use forebay_storage::object::{BucketId, Version};
use forebay_storage::store::Store;

use crate::clients::ClientFacts;
use crate::command::Command;
use crate::command::args::Args;
use crate::command::plan::LongValue;
use crate::error::CommandError;
use crate::keyspace::Database;
use crate::parse::Span;
use crate::reply::Protocol;
use crate::server::Server;

/// Most bytes of commands queued between MULTI and EXEC.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// State of one client.
pub(crate) struct Session {
    /// Its number, as CLIENT ID gives it.
    pub(crate) id: u64,
    pub(crate) protocol: Protocol,
    /// Whether it has given the password, or needs none.
    pub(crate) authenticated: bool,
    /// The databases it has worked in: only ever grows, since planned commands refer to them by place.
    databases: Vec<Database>,
    /// The present one.
    database: usize,
    /// Set between MULTI and EXEC.
    pub(crate) queue: Option<Box<Queue>>,
    pub(crate) watched: Vec<Watched>,
    pub(crate) replies: Replies,
    /// Close once what is written has left.
    pub(crate) closing: bool,
    /// What others see.
    pub(crate) facts: Arc<ClientFacts>,
}

/// CLIENT REPLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replies {
    On,
    Off,
    /// The next command gets none.
    SkipNext,
    /// The present command gets none.
    Skip,
}

/// A key under WATCH.
pub(crate) struct Watched {
    /// The session's database.
    pub(crate) database: usize,
    /// Its bucket then; `None` if it did not exist.
    pub(crate) bucket: Option<BucketId>,
    pub(crate) key: Vec<u8>,
    /// The object's version then; `None` if it did not exist.
    pub(crate) version: Option<Version>,
}

/// Commands between MULTI and EXEC, copied out of the read buffer.
#[derive(Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    commands: Vec<(&'static Command, Range<usize>)>,
    /// Long values, with the places of their commands, in order.
    long: QueuedValues,
    /// A command could not be queued: EXEC will refuse.
    pub(crate) aborted: bool,
}

/// Long values of queued commands: for each command that has any, its place in the queue and its values.
pub(crate) type QueuedValues = Vec<(usize, Vec<LongValue>)>;

impl Queue {
    /// Takes a command over, with its long values.
    pub(crate) fn push(
        &mut self,
        command: &'static Command,
        args: Args<'_>,
        long: Vec<LongValue>,
    ) -> Result<(), CommandError> {
        if self.bytes.len() + args.bytes_len() > QUEUE_BYTES_MAX {
            self.aborted = true;
            return Err(CommandError::text(format!(
                "ERR forebay: a transaction may hold at most {QUEUE_BYTES_MAX} bytes"
            )));
        }
        let first = self.spans.len();
        for (place, arg) in args.iter().enumerate() {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(arg);
            let span = if args.is_long(place) { Span::LONG } else { Span::new(start, self.bytes.len()) };
            self.spans.push(span);
        }
        if !long.is_empty() {
            self.long.push((self.commands.len(), long));
        }
        self.commands.push((command, first..self.spans.len()));
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Takes the long values out.
    pub(crate) fn take_long(&mut self) -> QueuedValues {
        mem::take(&mut self.long)
    }

    pub(crate) fn command(&self, index: usize) -> (&'static Command, Args<'_>) {
        let (command, spans) = &self.commands[index];
        (command, Args::new(&self.bytes, &self.spans[spans.clone()]))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static Command, Args<'_>)> {
        (0..self.len()).map(|index| self.command(index))
    }
}

impl Session {
    pub(crate) fn new(server: &Server, facts: Arc<ClientFacts>) -> Session {
        Session {
            id: facts.id,
            protocol: Protocol::Two,
            authenticated: !server.settings.has_password(),
            databases: vec![server.keyspace.database(&server.store, 0)],
            database: 0,
            queue: None,
            watched: Vec::new(),
            replies: Replies::On,
            closing: false,
            facts,
        }
    }

    /// Place of the present database.
    #[inline]
    pub(crate) fn database(&self) -> usize {
        self.database
    }

    /// Redis number of the present database, -1 for a bucket that is none.
    pub(crate) fn database_number(&self) -> i64 {
        self.databases[self.database].number.map_or(-1, i64::from)
    }

    #[inline]
    pub(crate) fn database_at(&self, place: usize) -> &Database {
        &self.databases[place]
    }

    pub(crate) fn database_at_mut(&mut self, place: usize) -> &mut Database {
        &mut self.databases[place]
    }

    /// Looks the present database's bucket up again: it may have come or gone since.
    pub(crate) fn refresh(&mut self, store: &Store) {
        self.databases[self.database].refresh(store);
    }

    /// Switches to a database.
    pub(crate) fn select(&mut self, database: Database) {
        self.database = self.place_of(database);
    }

    /// Switches to a database by its place.
    pub(crate) fn select_place(&mut self, place: usize) {
        self.database = place;
    }

    /// The place of a database, which is kept from now on.
    pub(crate) fn place_of(&mut self, database: Database) -> usize {
        match self.databases.iter().position(|known| known.name == database.name) {
            Some(place) => {
                self.databases[place] = database;
                place
            }
            None => {
                self.databases.push(database);
                self.databases.len() - 1
            }
        }
    }

    /// RESET: as the connection was when it opened, but for its number.
    pub(crate) fn reset(&mut self, server: &Server) {
        let facts = Arc::clone(&self.facts);
        facts.set_name(b"");
        *self = Session { closing: self.closing, ..Session::new(server, facts) };
    }
}
