//! Inline requests: one line typed by a person, split as Redis splits it, in place.

use super::{ProtocolError, Span};

/// Splits `line`, which stands at `base` in the read buffer, and pushes its arguments. Quoted arguments
/// are unescaped where they stand: they only get shorter.
pub(super) fn split(line: &mut [u8], base: usize, spans: &mut Vec<Span>) -> Result<(), ProtocolError> {
    let first_span = spans.len();
    let mut cursor = Cursor { line, read: 0, write: 0 };
    loop {
        cursor.skip_blanks();
        if cursor.peek().is_none() {
            return Ok(());
        }
        let Some((start, end)) = cursor.argument() else {
            spans.truncate(first_span);
            return Err(ProtocolError::UnbalancedQuotes);
        };
        spans.push(Span::new(base + start, base + end));
    }
}

struct Cursor<'a> {
    line: &'a mut [u8],
    read: usize,
    /// Never ahead of `read`.
    write: usize,
}

impl Cursor<'_> {
    /// The next byte; a NUL ends the line, as in Redis.
    fn peek(&self) -> Option<u8> {
        self.line.get(self.read).copied().filter(|&byte| byte != 0)
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.read += 1;
        }
    }

    fn put(&mut self, byte: u8) {
        self.line[self.write] = byte;
        self.write += 1;
    }

    /// One argument as (start, end) in the line; `None` if its quotes do not balance.
    fn argument(&mut self) -> Option<(usize, usize)> {
        self.write = self.read;
        let start = self.write;
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => break,
                b'"' => {
                    self.read += 1;
                    self.double_quoted()?;
                    break;
                }
                b'\'' => {
                    self.read += 1;
                    self.single_quoted()?;
                    break;
                }
                byte => {
                    self.read += 1;
                    self.put(byte);
                }
            }
        }
        Some((start, self.write))
    }

    fn double_quoted(&mut self) -> Option<()> {
        loop {
            match (self.peek()?, self.line.get(self.read + 1..)) {
                (b'"', _) => return self.close_quote(),
                (b'\\', Some([b'x', high, low, ..]))
                    if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                {
                    let byte = hex_digit(*high) << 4 | hex_digit(*low);
                    self.read += 4;
                    self.put(byte);
                }
                (b'\\', Some([escaped, ..])) if *escaped != 0 => {
                    let byte = match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'b' => 0x08,
                        b'a' => 0x07,
                        other => *other,
                    };
                    self.read += 2;
                    self.put(byte);
                }
                (byte, _) => {
                    self.read += 1;
                    self.put(byte);
                }
            }
        }
    }

    fn single_quoted(&mut self) -> Option<()> {
        loop {
            match (self.peek()?, self.line.get(self.read + 1)) {
                (b'\'', _) => return self.close_quote(),
                (b'\\', Some(b'\'')) => {
                    self.read += 2;
                    self.put(b'\'');
                }
                (byte, _) => {
                    self.read += 1;
                    self.put(byte);
                }
            }
        }
    }

    /// Behind a closing quote there must be a blank or nothing.
    fn close_quote(&mut self) -> Option<()> {
        self.read += 1;
        self.peek().is_none_or(is_space).then_some(())
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => byte - b'A' + 10,
    }
}
