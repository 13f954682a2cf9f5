//! The arguments of one request: slices of the buffer they arrived in.

use std::ops::Index;

use crate::error::CommandError;
use crate::number::parse_i64;
use crate::parse::Span;

/// A request's arguments, its command name first. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Args<'a> {
    buffer: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    pub(crate) fn new(buffer: &'a [u8], spans: &'a [Span]) -> Args<'a> {
        Args { buffer, spans }
    }

    /// Number of arguments, the command name included.
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.spans.len()
    }

    /// The argument at `index`, which the caller has checked by [`Args::len`] or arity.
    #[inline]
    pub(crate) fn at(self, index: usize) -> &'a [u8] {
        &self.buffer[self.spans[index].range()]
    }

    /// Whether the argument is a long one, whose bytes are not here: it reads as empty.
    #[inline]
    pub(crate) fn is_long(self, index: usize) -> bool {
        self.spans[index] == Span::LONG
    }

    pub(crate) fn get(self, index: usize) -> Option<&'a [u8]> {
        Some(&self.buffer[self.spans.get(index)?.range()])
    }

    /// The arguments from `first` on.
    pub(crate) fn from(self, first: usize) -> Args<'a> {
        Args { buffer: self.buffer, spans: self.spans.get(first..).unwrap_or_default() }
    }

    pub(crate) fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.spans.iter().map(move |span| &self.buffer[span.range()])
    }

    /// Whether the argument is this word, in any case; `word` is in lower case.
    pub(crate) fn is(self, index: usize, word: &str) -> bool {
        self.get(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// The argument as an integer, or Redis's complaint.
    pub(crate) fn integer(self, index: usize) -> Result<i64, CommandError> {
        parse_i64(self.at(index)).ok_or(CommandError::NOT_AN_INTEGER)
    }

    /// The argument as a C `int`, or Redis's two complaints.
    pub(crate) fn int(self, index: usize) -> Result<i32, CommandError> {
        i32::try_from(self.integer(index)?).map_err(|_| {
            CommandError::new("ERR value is out of range, value must between -2147483648 and 2147483647")
        })
    }

    /// All bytes of the arguments together.
    pub(crate) fn bytes_len(self) -> usize {
        self.spans.iter().map(|span| span.range().len()).sum()
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];

    #[inline]
    fn index(&self, index: usize) -> &[u8] {
        self.at(index)
    }
}
