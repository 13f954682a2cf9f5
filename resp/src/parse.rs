//! The request parser: bytes from a socket to arguments, kept across reads, every limit named here.
//!
//! Owns the read buffer of one connection and how far it is understood. Knows no command. Arguments are
//! places in the buffer, so a request costs no allocation and no byte is looked at twice.
//! An argument over [`Rules::inline_bytes_max`] does not pass through here: [`Parsed::Long`] announces it, and
//! whoever reads the socket takes its bytes ([`Parser::long_left`]) before parsing goes on.
//! What must hold: whatever arrives, the buffer holds at most one unfinished request of
//! [`Rules::request_bytes_max`] plus one read; a request that is larger, long arguments not counted, is dropped
//! as it arrives and reported when it is over, and the connection lives on. What breaks the protocol itself is
//! an error after which the connection must be closed, as in Redis.

mod inline;

use std::mem;
use std::ops::Range;

use memchr::memchr;

use crate::command::args::Args;

/// Longest inline request and longest length line, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most arguments of one request.
const ARGS_MAX: u64 = 1024 * 1024;
/// Most arguments of a request before AUTH.
const ARGS_MAX_BEFORE_AUTH: u64 = 10;
/// Longest argument before AUTH, in bytes.
const BULK_BYTES_MAX_BEFORE_AUTH: u64 = 16 * 1024;
/// Free space offered to a read, at least.
const READ_BYTES_MIN: usize = 16 * 1024;
/// How far the buffer grows because a client sends fast; further only for one long request.
const READ_BYTES_MAX: usize = 128 * 1024;

/// The limits that depend on the client or on settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Whether the client has given its password, or needs none.
    pub(crate) authenticated: bool,
    /// `proto-max-bulk-len`: a longer argument breaks the protocol.
    pub(crate) bulk_bytes_max: u64,
    /// The longest argument that comes to lie in the buffer; a longer one is [`Parsed::Long`].
    pub(crate) inline_bytes_max: u64,
    /// The longest request that is kept, its long arguments not counted.
    pub(crate) request_bytes_max: u64,
}

/// What the next bytes were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Nothing whole: read on.
    Incomplete,
    /// A request; its arguments, at least one, are [`Parser::args`] of this.
    Request(Range<usize>),
    /// An argument that is too long for the buffer begins. Its bytes must be taken, then [`Parser::end_long`].
    Long(LongArgument),
    /// A request was dropped because it has more than this many bytes.
    Dropped(u64),
}

/// An argument whose bytes are about to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LongArgument {
    /// The arguments before it: [`Parser::args`] of this.
    pub(crate) before: Range<usize>,
    /// Number of arguments that its request has, the command name included.
    pub(crate) count: usize,
    /// Its length in bytes.
    pub(crate) len: u64,
}

/// Bytes that are no request; the text is Redis's, and the connection must be closed behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    #[error("Protocol error: too big mbulk count string")]
    CountLineTooBig,
    #[error("Protocol error: invalid multibulk length")]
    InvalidCount,
    #[error("Protocol error: unauthenticated multibulk length")]
    CountBeforeAuth,
    #[error("Protocol error: too big bulk count string")]
    LengthLineTooBig,
    #[error("Protocol error: expected '$', got '{}'", *.0 as char)]
    ExpectedBulk(u8),
    #[error("Protocol error: invalid bulk length")]
    InvalidLength,
    #[error("Protocol error: unauthenticated bulk length")]
    LengthBeforeAuth,
}

/// Where an argument stands in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// A long argument, which stands in no buffer: reads as empty. No other argument is empty at the very start
    /// of a buffer: its request's head comes before it.
    pub(crate) const LONG: Span = Span { start: 0, end: 0 };

    pub(crate) fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: end as u32 }
    }

    #[inline]
    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A connection's read buffer and how far it is parsed.
#[derive(Debug)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    /// Bytes of the buffer that came from the socket.
    filled: usize,
    /// First byte not yet parsed.
    at: usize,
    /// Bytes from `at` that were searched for a line end in vain.
    searched: usize,
    /// Where the request began that is being parsed.
    request_at: usize,
    /// Its arguments still to come; 0 between requests.
    args_left: u64,
    /// Length of the argument whose body comes next, if its length line is read; of one that is dropped or long
    /// what is still to come, with the line end behind it.
    body_len: Option<u64>,
    aside: Aside,
    /// Arguments of the requests since the last [`Parser::make_room`].
    spans: Vec<Span>,
    /// The first that belongs to the request being parsed.
    request_spans: usize,
}

impl Parser {
    pub(crate) fn new() -> Parser {
        Parser {
            buffer: Vec::new(),
            filled: 0,
            at: 0,
            searched: 0,
            request_at: 0,
            args_left: 0,
            body_len: None,
            aside: Aside::Nothing,
            spans: Vec::new(),
            request_spans: 0,
        }
    }

    /// The arguments of a parsed request, until [`Parser::make_room`].
    #[inline]
    pub(crate) fn args(&self, request: Range<usize>) -> Args<'_> {
        Args::new(&self.buffer, &self.spans[request])
    }

    /// Bytes received and not yet parsed.
    pub(crate) fn unparsed(&self) -> usize {
        self.filled - self.at
    }

    /// Size of the read buffer.
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Forgets the requests parsed so far and returns room for the next read.
    pub(crate) fn make_room(&mut self) -> &mut [u8] {
        let was_full = self.filled == self.buffer.len();
        self.forget_parsed();
        let body_to_come = match (self.body_len, self.aside) {
            (Some(len), Aside::Nothing) => {
                (self.at as u64 + len + 2).saturating_sub(self.filled as u64) as usize
            }
            _ => 0,
        };
        let mut size = self.filled + body_to_come.max(READ_BYTES_MIN);
        if was_full && self.buffer.len() < READ_BYTES_MAX {
            size = size.max(self.buffer.len() * 2);
        }
        if self.buffer.len() < size {
            self.buffer.resize(size.next_power_of_two(), 0);
        } else if self.buffer.len() > READ_BYTES_MAX && size <= READ_BYTES_MIN {
            self.buffer.truncate(READ_BYTES_MIN);
            self.buffer.shrink_to_fit();
        }
        &mut self.buffer[self.filled..]
    }

    /// `len` bytes were read into the room.
    pub(crate) fn filled(&mut self, len: usize) {
        self.filled += len;
        debug_assert!(self.filled <= self.buffer.len());
    }

    /// Parses on. After [`Parsed::Incomplete`], and not before, more must be read.
    pub(crate) fn next(&mut self, rules: &Rules) -> Result<Parsed, ProtocolError> {
        if self.args_left == 0 {
            // A long argument was the last of its request.
            if self.spans.len() > self.request_spans {
                return Ok(self.finish());
            }
            match self.begin(rules)? {
                Begun::Nothing => return Ok(Parsed::Incomplete),
                Begun::Inline => return Ok(self.finish()),
                Begun::Multibulk => {}
            }
        }
        while self.args_left > 0 {
            if !self.argument(rules)? {
                return Ok(self.unfinished());
            }
        }
        Ok(self.finish())
    }

    /// Bytes of the long argument that are still to be taken, the line end behind it (two bytes, passed over
    /// unseen) included; 0 if none is under way.
    pub(crate) fn long_left(&self) -> u64 {
        if self.aside == Aside::Long { self.body_len.unwrap_or(0) } else { 0 }
    }

    /// Those of them that came before it was known to be long. They must be taken first, and go by
    /// [`Parser::forget_long`].
    pub(crate) fn long_buffered(&self) -> &[u8] {
        let len = self.long_left().min(self.unparsed() as u64) as usize;
        &self.buffer[self.at..self.at + len]
    }

    /// What [`Parser::long_buffered`] gave is taken. It leaves the buffer, which many long arguments of one
    /// request would fill otherwise.
    pub(crate) fn forget_long(&mut self) {
        let len = self.long_buffered().len();
        self.buffer.copy_within(self.at + len..self.filled, self.at);
        self.filled -= len;
        self.long_taken(len as u64);
    }

    /// `len` more bytes of it were taken from the socket.
    pub(crate) fn long_taken(&mut self, len: u64) {
        self.body_len = self.body_len.map(|left| left - len);
    }

    /// The long argument has been taken to its end. `kept` is what stands for one that no command may have;
    /// `None` lets it stand as [`Span::LONG`].
    pub(crate) fn end_long(&mut self, kept: Option<&[u8]>) {
        debug_assert_eq!(self.long_left(), 0, "a long argument ended before its end");
        let span = match kept {
            None => Span::LONG,
            Some(kept) => {
                let (start, end) = (self.at, self.at + kept.len());
                if self.buffer.len() < self.filled + kept.len() {
                    self.buffer.resize(self.filled + kept.len(), 0);
                }
                self.buffer.copy_within(start..self.filled, end);
                self.buffer[start..end].copy_from_slice(kept);
                self.filled += kept.len();
                self.at = end;
                Span::new(start, end)
            }
        };
        self.spans.push(span);
        self.aside = Aside::Nothing;
        self.body_len = None;
        self.args_left -= 1;
    }

    /// Moves what is not yet parsed to the front of the buffer.
    fn forget_parsed(&mut self) {
        let has_some = self.args_left > 0 || self.spans.len() > self.request_spans;
        let collecting = has_some && !matches!(self.aside, Aside::Dropping(_));
        let keep_from = if collecting { self.request_at } else { self.at };
        self.spans.drain(..self.request_spans);
        self.request_spans = 0;
        if self.spans.is_empty() && self.spans.capacity() > 4096 {
            self.spans.shrink_to(4096);
        }
        if keep_from == 0 {
            return;
        }
        self.buffer.copy_within(keep_from..self.filled, 0);
        self.filled -= keep_from;
        self.at -= keep_from;
        self.request_at = 0;
        for span in &mut self.spans {
            // A long argument stays where it is: nowhere.
            let Span { start, end } = *span;
            let moved = keep_from as u32;
            *span = Span { start: start.saturating_sub(moved), end: end.saturating_sub(moved) };
        }
    }

    fn finish(&mut self) -> Parsed {
        let spans = self.request_spans..self.spans.len();
        self.request_spans = self.spans.len();
        match mem::replace(&mut self.aside, Aside::Nothing) {
            Aside::Dropping(limit) => Parsed::Dropped(limit),
            _ => Parsed::Request(spans),
        }
    }

    /// Why a request could not be parsed to its end.
    fn unfinished(&self) -> Parsed {
        if self.aside != Aside::Long {
            return Parsed::Incomplete;
        }
        let before = self.request_spans..self.spans.len();
        let count = before.len() + self.args_left as usize;
        Parsed::Long(LongArgument { before, count, len: self.long_left() - 2 })
    }

    /// Reads the head of the next request, or all of an inline one; skips empty ones.
    fn begin(&mut self, rules: &Rules) -> Result<Begun, ProtocolError> {
        loop {
            self.request_at = self.at;
            match self.buffer[self.at..self.filled].first() {
                None => return Ok(Begun::Nothing),
                Some(b'*') => {
                    let Some(count) =
                        self.length_line(ProtocolError::CountLineTooBig, ProtocolError::InvalidCount)?
                    else {
                        return Ok(Begun::Nothing);
                    };
                    match u64::try_from(count).unwrap_or(0) {
                        0 => continue,
                        count if count > ARGS_MAX => return Err(ProtocolError::InvalidCount),
                        count if count > ARGS_MAX_BEFORE_AUTH && !rules.authenticated => {
                            return Err(ProtocolError::CountBeforeAuth);
                        }
                        count => self.args_left = count,
                    }
                    return Ok(Begun::Multibulk);
                }
                Some(_) => {
                    if !self.inline_line()? {
                        return Ok(Begun::Nothing);
                    }
                    if self.spans.len() > self.request_spans {
                        return Ok(Begun::Inline);
                    }
                }
            }
        }
    }

    /// Splits one inline request; false if its line is not whole.
    fn inline_line(&mut self) -> Result<bool, ProtocolError> {
        let from = self.at + self.searched;
        let Some(offset) = memchr(b'\n', &self.buffer[from..self.filled]) else {
            self.searched = self.filled - self.at;
            if self.searched > LINE_BYTES_MAX {
                return Err(ProtocolError::InlineTooBig);
            }
            return Ok(false);
        };
        let (start, line_end) = (self.at, from + offset);
        if line_end - start > LINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooBig);
        }
        self.searched = 0;
        self.at = line_end + 1;
        inline::split(&mut self.buffer[start..line_end], start, &mut self.spans)?;
        Ok(true)
    }

    /// Takes one argument; false if it is not whole.
    #[inline]
    fn argument(&mut self, rules: &Rules) -> Result<bool, ProtocolError> {
        let len = match self.body_len {
            Some(len) => len,
            None => match self.bulk_header(rules)? {
                Some(len) => len,
                None => return Ok(false),
            },
        };
        match self.aside {
            Aside::Nothing => {}
            Aside::Long => return Ok(false),
            Aside::Dropping(_) => return Ok(self.drop_body(len)),
        }
        let start = self.at;
        let end = start + len as usize;
        // As Redis does: two bytes behind the body are passed over unseen.
        if end + 2 > self.filled {
            self.body_len = Some(len);
            return Ok(false);
        }
        self.spans.push(Span::new(start, end));
        self.at = end + 2;
        self.body_len = None;
        self.args_left -= 1;
        Ok(true)
    }

    fn bulk_header(&mut self, rules: &Rules) -> Result<Option<u64>, ProtocolError> {
        let bytes = &self.buffer[self.at..self.filled];
        // Redis wants the whole line before it looks at the first byte.
        let len = match quick_length_line(bytes) {
            Some((len, used)) if bytes[0] == b'$' => {
                self.at += used;
                self.searched = 0;
                len
            }
            _ => {
                let first = bytes.first().copied();
                let Some(len) = self.length_line_checked(first)? else { return Ok(None) };
                u64::try_from(len).map_err(|_| ProtocolError::InvalidLength)?
            }
        };
        if len > rules.bulk_bytes_max {
            return Err(ProtocolError::InvalidLength);
        }
        if len > BULK_BYTES_MAX_BEFORE_AUTH && !rules.authenticated {
            return Err(ProtocolError::LengthBeforeAuth);
        }
        if self.aside == Aside::Nothing {
            let request_len = (self.at - self.request_at) as u64 + len + 2;
            if len > rules.inline_bytes_max {
                self.aside = Aside::Long;
            } else if request_len > rules.request_bytes_max {
                self.aside = Aside::Dropping(rules.request_bytes_max);
                self.spans.truncate(self.request_spans);
            }
        }
        if self.aside != Aside::Nothing {
            self.body_len = Some(len + 2);
            return Ok(Some(len + 2));
        }
        Ok(Some(len))
    }

    fn length_line_checked(&mut self, first: Option<u8>) -> Result<Option<i64>, ProtocolError> {
        match first {
            None | Some(b'$') => {
                self.length_line(ProtocolError::LengthLineTooBig, ProtocolError::InvalidLength)
            }
            Some(other) => match self.find_line(ProtocolError::LengthLineTooBig)? {
                None => Ok(None),
                Some(_) => Err(ProtocolError::ExpectedBulk(other)),
            },
        }
    }

    /// Passes over what has come of a dropped argument; false if more of it is to come.
    fn drop_body(&mut self, left: u64) -> bool {
        let taken = left.min(self.unparsed() as u64);
        self.at += taken as usize;
        if taken < left {
            self.body_len = Some(left - taken);
            return false;
        }
        self.body_len = None;
        self.args_left -= 1;
        true
    }

    /// Reads a line of one type byte and a number; `None` if it is not whole.
    fn length_line(
        &mut self,
        too_big: ProtocolError,
        invalid: ProtocolError,
    ) -> Result<Option<i64>, ProtocolError> {
        if let Some((value, used)) = quick_length_line(&self.buffer[self.at..self.filled]) {
            self.at += used;
            self.searched = 0;
            return Ok(Some(value as i64));
        }
        let Some(line) = self.find_line(too_big)? else { return Ok(None) };
        let value = crate::number::parse_i64(&self.buffer[line.start + 1..line.end]).ok_or(invalid)?;
        self.at = line.end + 2;
        Ok(Some(value))
    }

    /// The line at the head, without its CR; as in Redis, one byte must stand behind the CR, and may be any.
    fn find_line(&mut self, too_big: ProtocolError) -> Result<Option<Range<usize>>, ProtocolError> {
        let from = self.at + self.searched;
        let found = memchr(b'\r', &self.buffer[from..self.filled]);
        let searched = found.map_or(self.filled - self.at, |offset| self.searched + offset);
        if searched > LINE_BYTES_MAX {
            return Err(too_big);
        }
        self.searched = searched;
        if found.is_none() || self.at + searched + 1 >= self.filled {
            return Ok(None);
        }
        self.searched = 0;
        Ok(Some(self.at..self.at + searched))
    }
}

/// What comes and does not come to lie in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aside {
    Nothing,
    /// A long argument.
    Long,
    /// The rest of a request that has more bytes than this.
    Dropping(u64),
}

enum Begun {
    Nothing,
    Inline,
    Multibulk,
}

/// The usual case of a length line: up to nine digits without a sign or a leading zero, all arrived. Returns
/// the number and the line's length; `None` sends it the careful way.
#[inline]
fn quick_length_line(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    let mut at = 1;
    while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')) {
        if digit > 9 {
            break;
        }
        value = value * 10 + u64::from(digit);
        at += 1;
        if at > 10 {
            return None;
        }
    }
    let leading_zero = at > 2 && bytes[1] == b'0';
    let whole = bytes.len() > at + 1 && bytes[at] == b'\r';
    (at > 1 && whole && !leading_zero).then_some((value, at + 2))
}

#[cfg(test)]
mod tests;
