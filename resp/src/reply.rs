//! The reply writer: RESP2 or RESP3, appended to one buffer that leaves in one write.
//!
//! Owns the bytes on their way to the client, and the places among them where long values go, whose bytes are
//! read when they are sent. Knows no command and no socket. What is begun is whole: an array's length is
//! written before its elements, and whoever writes it writes that many.

use std::mem;
use std::ops::Range;

use forebay_storage::BodyReader;

use crate::error::CommandError;

/// The protocol a client has agreed to with HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// RESP2, the default.
    Two,
    /// RESP3.
    Three,
}

/// Replies in the order of their requests.
#[derive(Debug)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
    protocol: Protocol,
    /// In order of their places.
    streams: Vec<Stream>,
}

/// Bytes of a long value that belong into a reply.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Written bytes that go before them.
    pub(crate) at: usize,
    pub(crate) body: BodyReader,
    /// Which bytes of the body.
    pub(crate) range: Range<u64>,
}

impl Reply {
    pub(crate) fn new(protocol: Protocol) -> Reply {
        Reply { bytes: Vec::new(), protocol, streams: Vec::new() }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// What is written and not yet taken away, without the bytes of long values.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets what was written after the first `len` bytes: a reply that could not be finished.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        if !self.streams.is_empty() {
            self.streams.retain(|stream| stream.at <= len);
        }
    }

    /// Takes away what was written after the first `len` bytes, to be put back with [`Reply::append`].
    pub(crate) fn split_off(&mut self, len: usize) -> Reply {
        let streams = self.streams.partition_point(|stream| stream.at <= len);
        let mut streams = self.streams.split_off(streams);
        streams.iter_mut().for_each(|stream| stream.at -= len);
        Reply { bytes: self.bytes.split_off(len), protocol: self.protocol, streams }
    }

    /// Puts another's replies behind its own.
    pub(crate) fn append(&mut self, mut other: Reply) {
        let len = self.bytes.len();
        other.streams.iter_mut().for_each(|stream| stream.at += len);
        self.bytes.append(&mut other.bytes);
        self.streams.append(&mut other.streams);
    }

    /// Whether long values are among what is written.
    #[inline]
    pub(crate) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Takes the long values, in order.
    pub(crate) fn take_streams(&mut self) -> Vec<Stream> {
        mem::take(&mut self.streams)
    }

    /// Empties it, and gives back memory that one long reply took.
    pub(crate) fn clear(&mut self, capacity_kept: usize) {
        self.bytes.clear();
        debug_assert!(self.streams.is_empty(), "a long value was not sent");
        if self.bytes.capacity() > capacity_kept {
            self.bytes.shrink_to(capacity_kept);
        }
    }

    /// Bytes that are replies already.
    #[inline]
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    #[inline]
    pub(crate) fn ok(&mut self) {
        self.raw(b"+OK\r\n");
    }

    /// `+text`; the text has no line ends.
    pub(crate) fn simple(&mut self, text: &str) {
        self.bytes.push(b'+');
        self.raw(text.as_bytes());
        self.raw(b"\r\n");
    }

    /// `-CODE text`; line ends that came from the client become spaces, as in Redis.
    pub(crate) fn error(&mut self, error: &CommandError) {
        self.bytes.push(b'-');
        self.bytes.extend(error.as_bytes().iter().map(|&byte| match byte {
            b'\r' | b'\n' => b' ',
            byte => byte,
        }));
        self.raw(b"\r\n");
    }

    #[inline]
    pub(crate) fn integer(&mut self, value: i64) {
        self.prefixed(b':', value);
    }

    /// An unsigned count.
    #[inline]
    pub(crate) fn count(&mut self, value: u64) {
        self.prefixed(b':', value);
    }

    #[inline]
    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.bytes.reserve(bytes.len() + 16);
        self.prefixed(b'$', bytes.len());
        self.raw(bytes);
        self.raw(b"\r\n");
    }

    /// A range of a long value; its bytes are read when it is sent.
    pub(crate) fn bulk_of(&mut self, body: &BodyReader, range: Range<u64>) {
        self.prefixed(b'$', range.end - range.start);
        self.streams.push(Stream { at: self.bytes.len(), body: body.clone(), range });
        self.raw(b"\r\n");
    }

    /// No value.
    #[inline]
    pub(crate) fn nil(&mut self) {
        match self.protocol {
            Protocol::Two => self.raw(b"$-1\r\n"),
            Protocol::Three => self.raw(b"_\r\n"),
        }
    }

    /// No array: the answer of an EXEC whose WATCH failed.
    pub(crate) fn nil_array(&mut self) {
        match self.protocol {
            Protocol::Two => self.raw(b"*-1\r\n"),
            Protocol::Three => self.raw(b"_\r\n"),
        }
    }

    /// The head of an array; its elements follow.
    pub(crate) fn array(&mut self, len: usize) {
        self.prefixed(b'*', len);
    }

    /// The head of a map of `len` pairs; in RESP2 a flat array.
    pub(crate) fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Two => self.prefixed(b'*', len * 2),
            Protocol::Three => self.prefixed(b'%', len),
        }
    }

    /// The head of a set; in RESP2 an array.
    pub(crate) fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Two => self.prefixed(b'*', len),
            Protocol::Three => self.prefixed(b'~', len),
        }
    }

    /// Text for people, marked as such in RESP3 (INFO, CLIENT LIST).
    pub(crate) fn verbatim(&mut self, text: &[u8]) {
        match self.protocol {
            Protocol::Two => self.bulk(text),
            Protocol::Three => {
                self.prefixed(b'=', text.len() + 4);
                self.raw(b"txt:");
                self.raw(text);
                self.raw(b"\r\n");
            }
        }
    }

    #[inline]
    fn prefixed(&mut self, kind: u8, value: impl itoa::Integer) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(value).as_bytes();
        // One copy from the stack instead of three growing appends: this runs once or more per reply.
        let mut line = [0; 48];
        line[0] = kind;
        line[1..=digits.len()].copy_from_slice(digits);
        line[digits.len() + 1] = b'\r';
        line[digits.len() + 2] = b'\n';
        self.bytes.extend_from_slice(&line[..digits.len() + 3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use redis_protocol::resp2::decode::decode_bytes as decode2;
    use redis_protocol::resp2::types::BytesFrame as Frame2;
    use redis_protocol::resp3::decode::complete::decode_bytes as decode3;
    use redis_protocol::resp3::types::BytesFrame as Frame3;

    fn written(protocol: Protocol, write: impl Fn(&mut Reply)) -> Vec<u8> {
        let mut reply = Reply::new(protocol);
        write(&mut reply);
        reply.bytes
    }

    #[test]
    fn both_protocols_have_their_own_nil_map_set_and_verbatim() {
        let write = |reply: &mut Reply| {
            reply.nil();
            reply.nil_array();
            reply.map(1);
            reply.set(2);
            reply.verbatim(b"a b");
        };
        assert_eq!(written(Protocol::Two, write), b"$-1\r\n*-1\r\n*2\r\n*2\r\n$3\r\na b\r\n");
        assert_eq!(written(Protocol::Three, write), b"_\r\n_\r\n%1\r\n~2\r\n=7\r\ntxt:a b\r\n");
    }

    #[test]
    fn error_text_stays_on_one_line() {
        let error = CommandError::bytes(b"ERR no 'a\r\nb'".to_vec());
        assert_eq!(written(Protocol::Two, |reply| reply.error(&error)), b"-ERR no 'a  b'\r\n");
    }

    /// Writes one of each, with the extremes of integers among them.
    fn one_of_each(reply: &mut Reply) {
        reply.ok();
        reply.simple("QUEUED");
        reply.error(&CommandError::SYNTAX);
        for value in [0, 1, -1, i64::MAX, i64::MIN, 999_999_999_999_999, 99_999_999_999_999_999] {
            reply.integer(value);
        }
        reply.bulk(b"");
        reply.bulk(b"a\r\nb\0c");
        reply.nil();
        reply.array(2);
        reply.bulk(b"x");
        reply.nil();
        reply.map(1);
        reply.bulk(b"key");
        reply.integer(1);
        reply.set(1);
        reply.bulk(b"member");
        reply.verbatim(b"for people\r\n");
        reply.nil_array();
        reply.array(0);
    }

    #[test]
    fn resp2_replies_are_decoded_whole_by_another_codec() {
        let bytes = Bytes::from(written(Protocol::Two, one_of_each));
        let mut rest = bytes.clone();
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (frame, used) = decode2(&rest).expect("decodes").expect("is whole");
            frames.push(frame);
            rest = rest.slice(used..);
        }
        assert_eq!(frames.len(), 19);
        assert_eq!(frames[0], Frame2::SimpleString("OK".into()));
        assert_eq!(frames[6], Frame2::Integer(i64::MAX));
        assert_eq!(frames[11], Frame2::BulkString(Bytes::from_static(b"a\r\nb\0c")));
        assert_eq!(frames[12], Frame2::Null);
    }

    #[test]
    fn resp3_replies_are_decoded_whole_by_another_codec() {
        let bytes = Bytes::from(written(Protocol::Three, one_of_each));
        let mut rest = bytes.clone();
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (frame, used) = decode3(&rest).expect("decodes").expect("is whole");
            frames.push(frame);
            rest = rest.slice(used..);
        }
        assert_eq!(frames.len(), 19);
        assert!(matches!(frames[12], Frame3::Null));
        assert!(matches!(&frames[14], Frame3::Map { data, .. } if data.len() == 1));
        assert!(matches!(&frames[15], Frame3::Set { data, .. } if data.len() == 1));
        assert!(matches!(&frames[16], Frame3::VerbatimString { data, .. } if &data[..] == b"for people\r\n"));
    }
}
