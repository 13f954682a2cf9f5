//! Planned commands that have no reply yet: what is left to do for each.

use std::ops::Range;

use forebay_storage::object::BucketId;
use forebay_storage::read::ReadView;
use forebay_storage::submission::{Outcomes, ViewSlot};

use super::close::view_at;
use super::exec::ExecStep;
use crate::command::Command;
use crate::command::plan::{Read, Write};
use crate::error::CommandError;
use crate::read::Fetched;

/// A planned command.
pub(super) struct Step {
    pub(super) command: &'static Command,
    /// Its arguments in the parser.
    pub(super) args: Range<usize>,
    /// Its database in the session, and that one's bucket when it was planned.
    pub(super) database: usize,
    pub(super) bucket: Option<BucketId>,
    /// CLIENT REPLY: the reply is not sent.
    pub(super) silent: bool,
    pub(super) work: Work,
}

/// What is left to do for a planned command.
pub(super) enum Work {
    /// Copy its reply from `ready`.
    Ready(Range<usize>),
    Read {
        at: ReadAt,
        read: Read,
        /// What a cold read of one key found, waited for together with the others of the batch.
        fetched: Option<Result<Fetched, CommandError>>,
    },
    Write(Write),
    ReadThenWrite {
        view: ViewSlot,
        read: Read,
        write: Write,
    },
    Exec(Box<ExecStep>),
}

/// The place of a read.
pub(super) enum ReadAt {
    /// Taken when it was planned.
    View(ReadView),
    /// Between the mutations of the submission.
    Slot(ViewSlot),
}

impl Work {
    /// The outcomes that its reply tells of.
    #[inline]
    pub(super) fn outcomes(&self) -> Option<Range<usize>> {
        match self {
            Work::Ready(_) | Work::Read { .. } => None,
            Work::Write(write) | Work::ReadThenWrite { write, .. } => Some(write.outcomes.clone()),
            Work::Exec(exec) => Some(exec.outcomes()),
        }
    }

    pub(super) fn writes(&self) -> bool {
        match self {
            Work::Ready(_) | Work::Read { .. } => false,
            Work::Write(_) | Work::ReadThenWrite { .. } | Work::Exec(_) => true,
        }
    }
}

impl ReadAt {
    pub(super) fn view<'a>(&'a self, outcomes: &'a Outcomes) -> Result<&'a ReadView, CommandError> {
        match self {
            ReadAt::View(view) => Ok(view),
            ReadAt::Slot(slot) => view_at(outcomes, *slot),
        }
    }
}
