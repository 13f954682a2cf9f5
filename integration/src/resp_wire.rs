//! A RESP client of raw bytes: what was sent and what came back, nothing interpreted on the way.
//!
//! Owns: telling where a reply ends, without recursion and for RESP2 and RESP3 alike.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a reply may take before a test calls it missing.
pub const REPLY_LIMIT: Duration = Duration::from_secs(20);

/// One connection.
pub struct RespWire {
    stream: TcpStream,
    received: Vec<u8>,
}

impl RespWire {
    /// Connects; every read is limited by [`REPLY_LIMIT`].
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, REPLY_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_LIMIT))?;
        stream.set_write_timeout(Some(REPLY_LIMIT))?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Another limit for the reads that follow.
    pub fn set_reply_limit(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends one command as an array of bulk strings.
    pub fn send_command(&mut self, arguments: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode_command(&mut bytes, arguments);
        self.send(&bytes)
    }

    /// Sends one command and returns the raw bytes of its reply.
    pub fn call(&mut self, arguments: &[impl AsRef<[u8]>]) -> io::Result<Vec<u8>> {
        self.send_command(arguments)?;
        self.reply()
    }

    /// The raw bytes of the next whole reply.
    pub fn reply(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match reply_length(&self.received) {
                Ok(Some(length)) => {
                    let rest = self.received.split_off(length);
                    return Ok(std::mem::replace(&mut self.received, rest));
                }
                Ok(None) => self.read_more()?,
                Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
            }
        }
    }

    /// The next reply if it has arrived already; never waits.
    pub fn buffered_reply(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.stream.set_nonblocking(true)?;
        let read = loop {
            match self.read_more() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.stream.set_nonblocking(false)?;
        read?;
        match reply_length(&self.received) {
            Ok(Some(_)) => self.reply().map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(io::Error::new(ErrorKind::InvalidData, error)),
        }
    }

    /// Everything until the server closes; an error if it does not within the limit.
    pub fn read_to_close(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.received);
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                Ok(bytes)
            }
            Err(error) => Err(error),
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk)?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&chunk[..read]);
        Ok(())
    }
}

/// Appends `arguments` as an array of bulk strings.
pub fn encode_command(out: &mut Vec<u8>, arguments: &[impl AsRef<[u8]>]) {
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// The payload of a bulk reply; `None` for nil in either protocol.
///
/// # Panics
/// If the reply is of another kind.
pub fn bulk(reply: &[u8]) -> Option<&[u8]> {
    if matches!(reply, b"$-1\r\n" | b"_\r\n") {
        return None;
    }
    assert_eq!(reply.first(), Some(&b'$'), "not a bulk string: {}", reply.escape_ascii());
    let head = memchr::memchr(b'\n', reply).expect("a whole reply has a line end") + 1;
    Some(&reply[head..reply.len() - 2])
}

/// A reply does not follow the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not RESP: {0}")]
pub struct NotResp(String);

/// Length in bytes of the first reply in `bytes`, or `None` if it is not whole yet.
pub fn reply_length(bytes: &[u8]) -> Result<Option<usize>, NotResp> {
    let mut at = 0;
    let mut pending: u64 = 1;
    while pending > 0 {
        let Some(end) = memchr::memchr(b'\n', &bytes[at..]).map(|offset| at + offset + 1) else {
            return Ok(None);
        };
        let line = &bytes[at..end];
        let Some((kind, text)) = line.strip_suffix(b"\r\n").and_then(<[u8]>::split_first) else {
            return Err(NotResp(line.escape_ascii().to_string()));
        };
        at = end;
        pending -= 1;
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            b'$' | b'=' | b'!' => {
                if let Some(length) = count(text)? {
                    at += usize::try_from(length).map_err(|_| NotResp(format!("length {length}")))? + 2;
                    if bytes.len() < at {
                        return Ok(None);
                    }
                }
            }
            b'*' | b'~' | b'>' => pending += count(text)?.unwrap_or(0),
            b'%' => pending += 2 * count(text)?.unwrap_or(0),
            b'|' => pending += 2 * count(text)?.unwrap_or(0) + 1,
            other => return Err(NotResp(format!("kind {}", other.escape_ascii()))),
        }
    }
    Ok(Some(at))
}

fn count(text: &[u8]) -> Result<Option<u64>, NotResp> {
    if text == b"-1" {
        return Ok(None);
    }
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| NotResp(format!("length \"{}\"", text.escape_ascii())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_where_its_last_part_ends() {
        let replies: [&[u8]; 8] = [
            b"+OK\r\n",
            b"$3\r\na\nb\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"*2\r\n*1\r\n:1\r\n$0\r\n\r\n",
            b"%1\r\n+k\r\n*0\r\n",
            b"|1\r\n+k\r\n+v\r\n:7\r\n",
            b"=7\r\ntxt:abc\r\n",
        ];
        for reply in replies {
            let mut more = reply.to_vec();
            more.extend_from_slice(b"+next\r\n");
            assert_eq!(reply_length(&more), Ok(Some(reply.len())), "{}", reply.escape_ascii());
            for cut in 0..reply.len() {
                assert_eq!(reply_length(&reply[..cut]), Ok(None), "{}", reply[..cut].escape_ascii());
            }
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(reply_length(b"HTTP/1.1 400\r\n").is_err());
        assert!(reply_length(b"*x\r\n").is_err());
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut bytes = Vec::new();
        encode_command(&mut bytes, &["SET", "k", ""]);
        assert_eq!(bytes, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }
}
