//! SET and GET over RESP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Report, nanos_since};
use crate::resp_wire::encode_command;

/// Batches are chosen at random among pre-encoded ones: at least so many,
const BATCHES_MIN: usize = 2_000;
/// and enough that they name up to so many keys, so that a large keyspace is not read through a small window.
const COMMANDS_ENCODED: u64 = 1_000_000;

/// Which command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `SET key value`.
    Set,
    /// `GET key`.
    Get,
}

/// Which keys a batch names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// At random.
    Random,
    /// Every key of the range once, for filling; ends by itself.
    Sequential,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Load {
    /// Server.
    pub addr: SocketAddr,
    /// Command.
    pub kind: Kind,
    /// Connections.
    pub clients: usize,
    /// Commands sent before the first reply is awaited.
    pub pipeline: usize,
    /// Keys are `key:000000000000` to below this number, 16 bytes long.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// How long, for [`Order::Random`].
    pub duration: Duration,
    /// Which keys.
    pub order: Order,
}

/// Writes the key of 16 bytes.
pub fn key(number: u64) -> String {
    format!("key:{number:012}")
}

impl Load {
    /// Runs on one thread.
    pub fn run(&self) -> io::Result<Report> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.drive())
    }

    async fn drive(&self) -> io::Result<Report> {
        let value = vec![b'x'; self.value_bytes];
        let batches = match self.order {
            Order::Random => Arc::new(self.random_batches(&value)),
            Order::Sequential => Arc::new(Vec::new()),
        };
        let mut streams = Vec::new();
        for _ in 0..self.clients {
            let stream = TcpStream::connect(self.addr).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let start = Instant::now();
        let mut tasks = Vec::new();
        for (number, stream) in streams.into_iter().enumerate() {
            let client = Client {
                stream,
                load: self.clone(),
                counter: ReplyCounter::default(),
                buffer: vec![0; 32 * 1024],
                errors: 0,
                batch_times: Vec::with_capacity(1 << 16),
            };
            let batches = Arc::clone(&batches);
            let until = start + self.duration;
            let value = value.clone();
            tasks.push(tokio::spawn(async move {
                match client.load.order {
                    Order::Random => client.random(number, &batches, until).await,
                    Order::Sequential => client.sequential(number, &value).await,
                }
            }));
        }
        let (mut ops, mut errors, mut batch_times) = (0, 0, Vec::new());
        for task in tasks {
            let done = task.await.map_err(io::Error::other)??;
            ops += done.0;
            errors += done.1;
            batch_times.extend(done.2);
        }
        Ok(Report::new(ops - errors, errors, start.elapsed(), batch_times))
    }

    fn random_batches(&self, value: &[u8]) -> Vec<Vec<u8>> {
        let mut random = fastrand::Rng::with_seed(1);
        let batch = |random: &mut fastrand::Rng| {
            let mut bytes = Vec::new();
            for _ in 0..self.pipeline {
                self.encode(&mut bytes, random.u64(0..self.keys), value);
            }
            bytes
        };
        let commands = usize::try_from(self.keys.min(COMMANDS_ENCODED)).unwrap_or(usize::MAX);
        let batches = (commands / self.pipeline.max(1)).max(BATCHES_MIN);
        (0..batches).map(|_| batch(&mut random)).collect()
    }

    fn encode(&self, out: &mut Vec<u8>, number: u64, value: &[u8]) {
        let key = key(number);
        match self.kind {
            Kind::Set => encode_command(out, &[b"SET", key.as_bytes(), value]),
            Kind::Get => encode_command(out, &[&b"GET"[..], key.as_bytes()]),
        }
    }
}

type Done = (u64, u64, Vec<u64>);

struct Client {
    stream: TcpStream,
    load: Load,
    counter: ReplyCounter,
    buffer: Vec<u8>,
    errors: u64,
    batch_times: Vec<u64>,
}

impl Client {
    async fn random(mut self, seed: usize, batches: &[Vec<u8>], until: Instant) -> io::Result<Done> {
        let mut random = fastrand::Rng::with_seed(seed as u64);
        let mut ops = 0;
        while Instant::now() < until {
            let batch = &batches[random.usize(0..batches.len())];
            self.exchange(batch, self.load.pipeline).await?;
            ops += self.load.pipeline as u64;
        }
        Ok((ops, self.errors, self.batch_times))
    }

    async fn sequential(mut self, number: usize, value: &[u8]) -> io::Result<Done> {
        let share = self.load.keys.div_ceil(self.load.clients as u64);
        let mut next = share * number as u64;
        let end = (next + share).min(self.load.keys);
        let mut ops = 0;
        let mut batch = Vec::new();
        while next < end {
            let stop = end.min(next + self.load.pipeline as u64);
            batch.clear();
            (next..stop).for_each(|key| self.load.encode(&mut batch, key, value));
            let count = stop - next;
            self.exchange(&batch, usize::try_from(count).map_err(io::Error::other)?).await?;
            ops += count;
            next = stop;
        }
        Ok((ops, self.errors, self.batch_times))
    }

    async fn exchange(&mut self, batch: &[u8], replies: usize) -> io::Result<()> {
        let start = Instant::now();
        self.stream.write_all(batch).await?;
        let mut missing = replies;
        while missing > 0 {
            let read = self.stream.read(&mut self.buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (whole, errors) = self.counter.count(&self.buffer[..read]);
            missing -= whole.min(missing);
            self.errors += errors;
        }
        self.batch_times.push(nanos_since(start));
        Ok(())
    }
}

/// Counts replies that are lines or bulk strings, kept across reads.
#[derive(Debug, Default)]
struct ReplyCounter {
    /// Bytes of a bulk string and its line end that are still to come.
    skip: usize,
    line: Vec<u8>,
}

impl ReplyCounter {
    /// Whole replies in `bytes`, and how many of them were errors.
    fn count(&mut self, mut bytes: &[u8]) -> (usize, u64) {
        let (mut whole, mut errors) = (0, 0);
        loop {
            if self.skip > 0 {
                let step = self.skip.min(bytes.len());
                bytes = &bytes[step..];
                self.skip -= step;
                if self.skip > 0 {
                    return (whole, errors);
                }
                whole += 1;
            }
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.line.extend_from_slice(bytes);
                return (whole, errors);
            };
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            self.line.extend_from_slice(line);
            match self.line.split_first() {
                Some((b'$', length)) if !length.starts_with(b"-1") => self.skip = decimal(length) + 2,
                Some((kind, _)) => {
                    whole += 1;
                    errors += u64::from(*kind == b'-');
                }
                None => {}
            }
            self.line.clear();
        }
    }
}

fn decimal(text: &[u8]) -> usize {
    text.iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |sum, byte| sum * 10 + usize::from(byte - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_alike_at_every_split() {
        let replies = b"+OK\r\n$5\r\na\r\nbc\r\n-ERR no\r\n$-1\r\n$0\r\n\r\n:12\r\n";
        for cut in 0..=replies.len() {
            let mut counter = ReplyCounter::default();
            let first = counter.count(&replies[..cut]);
            let second = counter.count(&replies[cut..]);
            assert_eq!((first.0 + second.0, first.1 + second.1), (6, 1), "cut at {cut}");
        }
    }

    #[test]
    fn keys_have_sixteen_bytes() {
        assert_eq!(key(9_999_999).len(), 16);
    }
}
