//! How a command is carried out: it is *planned* at once and *finished* when the log has answered.
//!
//! Planning looks at the arguments, writes mutations into the client's submission, and says where the
//! reply will come from. It never waits, so that a whole pipeline is planned before the one wait for the
//! log, and so that EXEC plans its queue in one atomic group by the very same functions.
//! What must hold: a plan function checks everything before its first push; once it has pushed, it
//! returns a plan and no error.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use forebay_storage::BodyReader;
use forebay_storage::mutation::{Guard, Mutation, Outcome, Payload};
use forebay_storage::object::{BucketId, ObjectRow};
use forebay_storage::read::ReadView;
use forebay_storage::stage::StagedBody;
use forebay_storage::store::Store;
use forebay_storage::submission::{Submission, ViewSlot};

use super::Command;
use super::args::Args;
use crate::error::CommandError;
use crate::reply::Reply;
use crate::server::Server;
use crate::session::{Queue, Session};

/// Plans one command.
pub(crate) type PlanFn = fn(&mut Planner<'_>, Args<'_>) -> Result<Plan, CommandError>;

/// A future that a command makes when it has to wait.
pub(crate) type Wait<'a> = Pin<Box<dyn Future<Output = Result<(), CommandError>> + Send + 'a>>;

/// Where a command's reply comes from.
pub(crate) enum Plan {
    /// It is written.
    Answered,
    /// From objects as they stand at the command's place.
    Read(Read),
    /// From the outcomes of mutations.
    Write(Write),
    /// From an object as it stood before the mutations, unless these were refused (GETDEL, SET GET).
    ReadThenWrite {
        /// The place before the mutations.
        view: ViewSlot,
        read: Read,
        write: Write,
    },
    /// From something that must be waited for; only commands that run alone may plan this.
    Wait(WaitFn),
    /// From the commands queued since MULTI.
    Exec(Box<Queue>),
}

/// Mutations in the submission and how their outcomes read.
pub(crate) struct Write {
    /// Their outcomes.
    pub(crate) outcomes: Range<usize>,
    /// Called if none of them was refused.
    pub(crate) reply: fn(&[Outcome], &mut Reply),
}

/// What a command reads. Keys are named by their place among the arguments.
#[derive(Clone, Copy)]
pub(crate) enum Read {
    /// One object.
    One { key: usize, needs: Needs, reply: SeenFn },
    /// An array with one reply for each key from `first` on (MGET).
    Each { first: usize, reply: SeenFn },
    /// How many of the keys from `first` on exist; one named twice counts twice.
    Count { first: usize },
    /// A stretch of the keyspace.
    Walk(WalkFn),
}

/// What of an object a reply needs beside its row.
#[derive(Clone, Copy)]
pub(crate) enum Needs {
    Nothing,
    /// All of its bytes.
    Body,
    /// The bytes of a range that follows from the arguments and the body's length, which must hold it.
    Range(fn(Args<'_>, u64) -> Range<u64>),
}

impl Needs {
    pub(crate) fn range(self, args: Args<'_>, body_len: u64) -> Range<u64> {
        match self {
            Needs::Nothing => 0..0,
            Needs::Body => 0..body_len,
            Needs::Range(range) => range(args, body_len),
        }
    }
}

/// Writes the reply for one object.
pub(crate) type SeenFn = fn(&Seen<'_>, &mut Reply) -> Result<(), CommandError>;

/// Writes the reply for a stretch of the keyspace.
pub(crate) type WalkFn = for<'a> fn(Walk<'a>) -> Wait<'a>;

/// Carries out a command that waits for something else than the log.
pub(crate) type WaitFn = for<'a> fn(Waiting<'a>) -> Wait<'a>;

/// What one key was found to be.
pub(crate) struct Seen<'a> {
    /// The object, if there is one.
    pub(crate) row: Option<&'a ObjectRow>,
    /// The bytes that the read asked for.
    pub(crate) body: SeenBody<'a>,
    /// The command's arguments.
    pub(crate) args: Args<'a>,
    pub(crate) store: &'a Store,
}

/// Bytes of an object.
#[derive(Clone, Copy)]
pub(crate) enum SeenBody<'a> {
    Here(&'a [u8]),
    /// Too many to be held: these of the body are read when they are sent.
    Long(&'a BodyReader, &'a Range<u64>),
}

impl Seen<'_> {
    /// Writes the bytes that the read asked for.
    #[inline]
    pub(crate) fn write_body(&self, reply: &mut Reply) {
        match self.body {
            SeenBody::Here(bytes) => reply.bulk(bytes),
            SeenBody::Long(body, range) => reply.bulk_of(body, range.clone()),
        }
    }
}

/// What a walk is given.
pub(crate) struct Walk<'a> {
    pub(crate) server: &'a Server,
    pub(crate) view: &'a ReadView,
    /// `None` if the database's bucket does not exist yet: nothing is in it.
    pub(crate) bucket: Option<BucketId>,
    pub(crate) args: Args<'a>,
    pub(crate) reply: &'a mut Reply,
}

/// What a waiting command is given.
pub(crate) struct Waiting<'a> {
    pub(crate) server: &'a Server,
    pub(crate) session: &'a mut Session,
    pub(crate) args: Args<'a>,
    pub(crate) reply: &'a mut Reply,
}

/// What a plan function works with.
pub(crate) struct Planner<'a> {
    pub(crate) server: &'a Server,
    pub(crate) session: &'a mut Session,
    pub(crate) submission: &'a mut Submission,
    /// Takes the reply of a command that answers at once.
    pub(crate) reply: &'a mut Reply,
    pub(crate) command: &'static Command,
    /// The session's database that the command works in.
    pub(crate) database: usize,
    /// Whether an atomic group is open already.
    pub(crate) in_exec: bool,
    /// The command's long arguments; whoever let it plan a write hands them to the submission.
    pub(crate) long: &'a [LongValue],
}

/// A long argument, staged while it arrived.
#[derive(Debug)]
pub(crate) struct LongValue {
    /// Its place among the arguments.
    pub(crate) place: usize,
    pub(crate) body: StagedBody,
}

impl<'a> Planner<'a> {
    /// The core's clock, in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.server.store.now_ms()
    }

    /// The database's bucket; `None` if nothing was ever written there.
    #[inline]
    pub(crate) fn bucket(&self) -> Option<BucketId> {
        self.session.database_at(self.database).bucket
    }

    /// The database's bucket for a command that may create keys; it was opened before planning.
    #[inline]
    pub(crate) fn bucket_to_write(&self) -> Result<BucketId, CommandError> {
        self.bucket().ok_or(CommandError::new("TRYAGAIN forebay: the bucket was just deleted, try again"))
    }

    /// The argument as a key, refused if it is too long.
    #[inline]
    pub(crate) fn key<'k>(&self, args: Args<'k>, index: usize) -> Result<&'k [u8], CommandError> {
        let key = args.at(index);
        Store::check_key(key)?;
        Ok(key)
    }

    /// The argument as a value, of any length.
    #[inline]
    pub(crate) fn value<'k>(&self, args: Args<'k>, index: usize) -> Result<Payload<'k>, CommandError>
    where
        'a: 'k,
    {
        if args.is_long(index) { self.long_value(index) } else { Ok(args.at(index).into()) }
    }

    fn long_value(&self, index: usize) -> Result<Payload<'a>, CommandError> {
        let long: &'a [LongValue] = self.long;
        let value = long.iter().find(|value| value.place == index);
        // A command that is tried again has given its values to the log, which did not want them.
        let gone = CommandError::new("TRYAGAIN forebay: the value was given up, send it again");
        value.map(|value| value.body.payload()).ok_or(gone)
    }

    /// Plans one mutation.
    #[inline]
    pub(crate) fn write(&mut self, mutation: &Mutation<'_>, reply: fn(&[Outcome], &mut Reply)) -> Plan {
        Plan::Write(self.push(mutation, reply))
    }

    /// Plans one mutation whose reply is the object as it was before.
    pub(crate) fn read_then_write(
        &mut self,
        read: Read,
        mutation: &Mutation<'_>,
        reply: fn(&[Outcome], &mut Reply),
    ) -> Plan {
        let view = self.submission.view();
        Plan::ReadThenWrite { view, read, write: self.push(mutation, reply) }
    }

    #[inline]
    fn push(&mut self, mutation: &Mutation<'_>, reply: fn(&[Outcome], &mut Reply)) -> Write {
        let first = self.submission.outcomes_len();
        self.submission.push(mutation);
        Write { outcomes: first..self.submission.outcomes_len(), reply }
    }

    /// Plans several mutations that happen together. The reply sees their outcomes without the group's own.
    pub(crate) fn write_together<'m>(
        &mut self,
        mutations: impl Iterator<Item = Mutation<'m>>,
        reply: fn(&[Outcome], &mut Reply),
    ) -> Plan {
        if !self.in_exec {
            self.submission.begin_atomic(&[]);
        }
        let first = self.submission.outcomes_len();
        for mutation in mutations {
            self.submission.push(&mutation);
        }
        let outcomes = first..self.submission.outcomes_len();
        if !self.in_exec {
            self.submission.end_atomic();
        }
        Plan::Write(Write { outcomes, reply })
    }

    /// Plans several mutations that happen together if all guards hold. The reply sees the group's outcome
    /// first.
    pub(crate) fn write_guarded<'m>(
        &mut self,
        guards: Vec<Guard<'m>>,
        mutations: Vec<Mutation<'m>>,
        reply: fn(&[Outcome], &mut Reply),
    ) -> Plan {
        self.write(&Mutation::Atomic { guards, mutations }, reply)
    }
}
