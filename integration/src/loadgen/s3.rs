//! PutObject and GetObject with requests that were pre-signed, and encoded whole, before the clock starts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client as Sdk;
use aws_sdk_s3::presigning::PresigningConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Report;

const SIGNATURE_LIFETIME: Duration = Duration::from_secs(3_600);

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
    /// Objects are `object-0` to below this number.
    pub keys: usize,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// How long; with zero every key is used once.
    pub duration: Duration,
}

impl Load {
    /// Signs all requests with the SDK, then runs on one thread.
    pub fn run(&self, sdk: &Sdk) -> io::Result<Report> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.drive(sdk))
    }

    async fn drive(&self, sdk: &Sdk) -> io::Result<Report> {
        let mut requests = Vec::with_capacity(self.keys);
        for number in 0..self.keys {
            requests.push(self.encode(sdk, number).await?);
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
        Ok(Report::new(ops - errors, errors, start.elapsed(), times))
    }

    async fn encode(&self, sdk: &Sdk, number: usize) -> io::Result<Vec<u8>> {
        let lifetime = PresigningConfig::expires_in(SIGNATURE_LIFETIME).map_err(io::Error::other)?;
        let key = format!("object-{number}");
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
        let mut request = format!("{} {target} HTTP/1.1\r\nHost: {}\r\n", signed.method(), self.addr);
        for (name, value) in signed.headers() {
            if !name.eq_ignore_ascii_case("host") && !name.eq_ignore_ascii_case("content-length") {
                request.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        let mut bytes = match self.kind {
            Kind::Put => format!("{request}Content-Length: {}\r\n\r\n", self.body_bytes).into_bytes(),
            Kind::Get => format!("{request}\r\n").into_bytes(),
        };
        if self.kind == Kind::Put {
            bytes.resize(bytes.len() + self.body_bytes, b'x');
        }
        Ok(bytes)
    }
}

type Done = (u64, u64, Vec<u32>);

/// With an end time: random keys until then. Without: this client's share of the keys, each once.
async fn client_loop(
    mut stream: TcpStream,
    requests: Arc<Vec<Vec<u8>>>,
    client: usize,
    clients: usize,
    until: Option<Instant>,
) -> io::Result<Done> {
    let mut random = fastrand::Rng::with_seed(client as u64);
    let mut buffer = Vec::with_capacity(64 * 1024);
    let (mut ops, mut errors, mut times) = (0, 0, Vec::new());
    let mut next = client;
    loop {
        let at = match until {
            Some(end) if Instant::now() >= end => break,
            Some(_) => random.usize(0..requests.len()),
            None if next >= requests.len() => break,
            None => next,
        };
        next += clients;
        let start = Instant::now();
        stream.write_all(&requests[at]).await?;
        let status = read_answer(&mut stream, &mut buffer).await?;
        times.push(u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX));
        ops += 1;
        errors += u64::from(!(200..300).contains(&status));
    }
    Ok((ops, errors, times))
}

/// Reads one answer whole and returns its status. Answers with a length only, as S3 gives them here.
async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<u16> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head_end) = memchr::memmem::find(buffer, b"\r\n\r\n").map(|at| at + 4) else { continue };
        let head = std::str::from_utf8(&buffer[..head_end]).map_err(io::Error::other)?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let length = head
            .split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse::<usize>().ok())
            .unwrap_or(0);
        while buffer.len() < head_end + length {
            if stream.read_buf(buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        return status.ok_or_else(|| io::Error::other("no status line"));
    }
}
