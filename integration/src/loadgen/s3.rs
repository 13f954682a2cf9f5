//! PutObject and GetObject with requests that were pre-signed, and encoded, before the clock starts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client as Sdk;
use aws_sdk_s3::presigning::PresigningConfig;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Report, nanos_since};

const SIGNATURE_LIFETIME: Duration = Duration::from_secs(3_600);
/// Bytes of an answer read at a time.
const READ_BYTES: usize = 256 * 1024;
/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Which operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PutObject.
    Put,
    /// GetObject.
    Get,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Load {
    /// Server.
    pub addr: SocketAddr,
    /// Operation.
    pub kind: Kind,
    /// Connections.
    pub clients: usize,
    /// Bucket, which must exist.
    pub bucket: String,
    /// What keys begin with.
    pub prefix: String,
    /// Objects are `object-N`, from this number on.
    pub first: usize,
    /// How many objects.
    pub keys: usize,
    /// Bytes of a body; all bodies are the same bytes.
    pub body_bytes: usize,
    /// How long; with zero every key is used once.
    pub duration: Duration,
}

/// What is sent: a head of its own, and the body that all requests share.
struct Requests {
    heads: Vec<Vec<u8>>,
    body: Bytes,
}

impl Load {
    /// Signs all requests with the SDK, then runs on one thread.
    pub fn run(&self, sdk: &Sdk) -> io::Result<Report> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.drive(sdk))
    }

    async fn drive(&self, sdk: &Sdk) -> io::Result<Report> {
        let mut requests = Requests { heads: Vec::with_capacity(self.keys), body: Bytes::new() };
        for number in self.first..self.first + self.keys {
            requests.heads.push(self.head(sdk, number).await?);
        }
        if self.kind == Kind::Put {
            let mut body = vec![0; self.body_bytes];
            fastrand::Rng::with_seed(1).fill(&mut body);
            requests.body = body.into();
        }
        let requests = Arc::new(requests);
        let start = Instant::now();
        let mut tasks = Vec::new();
        for client in 0..self.clients {
            let stream = TcpStream::connect(self.addr).await?;
            stream.set_nodelay(true)?;
            tasks.push(tokio::spawn(client_loop(
                stream,
                Arc::clone(&requests),
                client,
                self.clients,
                (!self.duration.is_zero()).then(|| start + self.duration),
            )));
        }
        let (mut ops, mut errors, mut times) = (0, 0, Vec::new());
        for task in tasks {
            let done = task.await.map_err(io::Error::other)??;
            ops += done.0;
            errors += done.1;
            times.extend(done.2);
        }
        Ok(Report::new(ops - errors, errors, start.elapsed(), times).of_bytes(self.body_bytes))
    }

    async fn head(&self, sdk: &Sdk, number: usize) -> io::Result<Vec<u8>> {
        let lifetime = PresigningConfig::expires_in(SIGNATURE_LIFETIME).map_err(io::Error::other)?;
        let key = format!("{}object-{number}", self.prefix);
        let signed = match self.kind {
            Kind::Put => {
                let put = sdk.put_object().bucket(&self.bucket).key(key);
                put.presigned(lifetime).await.map_err(io::Error::other)?
            }
            Kind::Get => {
                let get = sdk.get_object().bucket(&self.bucket).key(key);
                get.presigned(lifetime).await.map_err(io::Error::other)?
            }
        };
        let target = signed
            .uri()
            .strip_prefix(&format!("http://{}", self.addr))
            .ok_or_else(|| io::Error::other(format!("signed for {}, not for {}", signed.uri(), self.addr)))?;
        let mut head = format!("{} {target} HTTP/1.1\r\nHost: {}\r\n", signed.method(), self.addr);
        for (name, value) in signed.headers() {
            if !name.eq_ignore_ascii_case("host") && !name.eq_ignore_ascii_case("content-length") {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        if self.kind == Kind::Put {
            head.push_str(&format!("Content-Length: {}\r\n", self.body_bytes));
        }
        head.push_str("\r\n");
        Ok(head.into_bytes())
    }
}

type Done = (u64, u64, Vec<u64>);

/// With an end time: random keys until then. Without: this client's share of the keys, each once.
async fn client_loop(
    mut stream: TcpStream,
    requests: Arc<Requests>,
    client: usize,
    clients: usize,
    until: Option<Instant>,
) -> io::Result<Done> {
    let mut random = fastrand::Rng::with_seed(client as u64);
    let mut buffer = vec![0; READ_BYTES];
    let (mut ops, mut errors, mut times) = (0, 0, Vec::new());
    let mut next = client;
    loop {
        let at = match until {
            Some(end) if Instant::now() >= end => break,
            Some(_) => random.usize(0..requests.heads.len()),
            None if next >= requests.heads.len() => break,
            None => next,
        };
        next += clients;
        let start = Instant::now();
        // Head and body in one call, where the socket takes them.
        let mut request = Buf::chain(&requests.heads[at][..], &requests.body[..]);
        stream.write_all_buf(&mut request).await?;
        let status = read_answer(&mut stream, &mut buffer).await?;
        times.push(nanos_since(start));
        ops += 1;
        errors += u64::from(!(200..300).contains(&status));
    }
    Ok((ops, errors, times))
}

/// Reads one answer whole, drops its body, and returns its status. Answers with a length only, as S3 gives them
/// here.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<u16> {
    let mut filled = 0;
    let (status, mut missing) = loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        let Some(head_end) = memchr::memmem::find(&buffer[..filled], b"\r\n\r\n").map(|at| at + 4) else {
            if filled > HEAD_BYTES_MAX {
                return Err(io::Error::other("an answer with a head without end"));
            }
            continue;
        };
        let head = std::str::from_utf8(&buffer[..head_end]).map_err(io::Error::other)?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let length = head
            .split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse::<usize>().ok())
            .unwrap_or(0);
        let missing = (head_end + length)
            .checked_sub(filled)
            .ok_or_else(|| io::Error::other("more came than the answer's head announces"))?;
        break (status, missing);
    };
    while missing > 0 {
        let most = missing.min(buffer.len());
        let read = stream.read(&mut buffer[..most]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        missing -= read;
    }
    status.ok_or_else(|| io::Error::other("no status line"))
}
