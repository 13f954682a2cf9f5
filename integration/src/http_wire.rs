//! An HTTP/1.1 client of raw bytes, and a SigV4 signer that signs what it is told to sign, so that a test can
//! send requests that no SDK would.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;

/// How long an answer may take before a test calls it missing.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// An answer, its header names in lower case.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, replacing what is not UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection.
pub struct HttpWire {
    stream: TcpStream,
    received: Vec<u8>,
}

impl HttpWire {
    /// Connects.
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, ANSWER_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Another limit for the reads that follow.
    pub fn set_answer_limit(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer; `no_body` for HEAD.
    pub fn answer(&mut self, no_body: bool) -> io::Result<Answer> {
        loop {
            let head_end = loop {
                if let Some(at) = find(&self.received, b"\r\n\r\n") {
                    break at + 4;
                }
                self.read_more()?;
            };
            let head = self.received.drain(..head_end).collect::<Vec<u8>>();
            let (status, headers) = parse_head(&head)?;
            if status == 100 {
                continue;
            }
            let mut answer = Answer { status, headers, body: Vec::new() };
            if !no_body && !matches!(status, 204 | 304) {
                answer.body = self.body(&answer)?;
            }
            return Ok(answer);
        }
    }

    /// As [`HttpWire::answer`] for a 2xx with a Content-Length, whose body is handed to `each` as it comes and
    /// not kept.
    pub fn answer_streamed(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<Answer> {
        let head_end = loop {
            if let Some(at) = find(&self.received, b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more()?;
        };
        let head = self.received.drain(..head_end).collect::<Vec<u8>>();
        let (status, headers) = parse_head(&head)?;
        let answer = Answer { status, headers, body: Vec::new() };
        let mut left: u64 = answer
            .header("content-length")
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| invalid("length"))?;
        let early = std::mem::take(&mut self.received);
        each(&early);
        left = left.saturating_sub(early.len() as u64);
        let mut piece = vec![0; 256 * 1024];
        while left > 0 {
            let most = left.min(piece.len() as u64) as usize;
            let read = self.stream.read(&mut piece[..most])?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            each(&piece[..read]);
            left -= read as u64;
        }
        Ok(answer)
    }

    /// Whether the server has closed its side, waiting for that up to the limit.
    pub fn closed(&mut self) -> bool {
        match self.read_more() {
            Ok(()) => false,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    fn body(&mut self, answer: &Answer) -> io::Result<Vec<u8>> {
        if let Some(length) = answer.header("content-length").and_then(|text| text.parse::<usize>().ok()) {
            while self.received.len() < length {
                self.read_more()?;
            }
            return Ok(self.received.drain(..length).collect());
        }
        if answer.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            return self.chunked();
        }
        loop {
            match self.read_more() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Ok(std::mem::take(&mut self.received));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn chunked(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line_end = loop {
                if let Some(at) = find(&self.received, b"\r\n") {
                    break at;
                }
                self.read_more()?;
            };
            let text = String::from_utf8_lossy(&self.received[..line_end]).into_owned();
            let size = usize::from_str_radix(text.trim(), 16).map_err(|_| invalid("chunk size"))?;
            while self.received.len() < line_end + 2 + size + 2 {
                self.read_more()?;
            }
            body.extend_from_slice(&self.received[line_end + 2..line_end + 2 + size]);
            self.received.drain(..line_end + 2 + size + 2);
            if size == 0 {
                return Ok(body);
            }
        }
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

/// One request on a connection of its own.
pub fn exchange(addr: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    let mut wire = HttpWire::connect(addr)?;
    wire.send(request)?;
    wire.answer(request.starts_with(b"HEAD "))
}

/// `GET path`, unsigned, with extra header lines (each `Name: value`).
pub fn get(addr: SocketAddr, path: &str, headers: &[&str]) -> io::Result<Answer> {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for line in headers {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    exchange(addr, request.as_bytes())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not HTTP: {what}"))
}

fn parse_head(head: &[u8]) -> io::Result<(u16, Vec<(String, String)>)> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok((status.ok_or_else(|| invalid("status line"))?, headers))
}

/// Credentials and time of a signature.
pub struct Signer {
    /// Access key.
    pub access_key_id: String,
    /// Secret.
    pub secret_access_key: String,
    /// Signing time; tests of clock skew move it.
    pub at: OffsetDateTime,
}

/// A request before it is signed.
#[derive(Debug, Clone, Default)]
pub struct Unsigned<'a> {
    /// GET, PUT, …
    pub method: &'a str,
    /// Path as it goes over the wire.
    pub path: &'a str,
    /// Query as it goes over the wire, parameters in order, `name=` for a flag.
    pub query: &'a str,
    /// Headers that are signed, `host` and the `x-amz-date` and `x-amz-content-sha256` of the signer left out.
    pub signed: Vec<(&'a str, String)>,
    /// Headers that are sent without being signed.
    pub unsigned: Vec<(&'a str, String)>,
    /// What stands in `x-amz-content-sha256`.
    pub content_sha256: &'a str,
}

/// A signed head and what chunk signatures continue from.
pub struct Signed {
    /// The head with its empty line; the body follows.
    pub head: Vec<u8>,
    /// Seed signature in hex.
    pub signature: String,
    /// The signing key, for chunks.
    pub key: Vec<u8>,
    /// `YYYYMMDDTHHMMSSZ`.
    pub amz_date: String,
    /// `YYYYMMDD/region/s3/aws4_request`.
    pub scope: String,
}

impl Signer {
    /// Credentials, signing now.
    pub fn now(access_key_id: &str, secret_access_key: &str) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            at: OffsetDateTime::now_utc(),
        }
    }

    /// Signs by SigV4 in the `Authorization` header.
    pub fn sign(&self, addr: SocketAddr, request: &Unsigned<'_>) -> Signed {
        let amz_date = self
            .at
            .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
            .expect("a date of this century has this form");
        let date = &amz_date[..8];
        let mut headers: Vec<(String, String)> =
            request.signed.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        headers.push(("host".to_owned(), addr.to_string()));
        headers.push(("x-amz-date".to_owned(), amz_date.clone()));
        headers.push(("x-amz-content-sha256".to_owned(), request.content_sha256.to_owned()));
        headers.sort();
        let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, request.query);
        for (name, value) in &headers {
            let _ = writeln!(canonical, "{name}:{}", value.trim());
        }
        let _ = write!(canonical, "\n{names}\n{}", request.content_sha256);
        let scope = format!("{date}/us-east-1/s3/aws4_request");
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{}",
            hex::encode(Sha256::digest(canonical.as_bytes()))
        );
        let mut key = hmac(format!("AWS4{}", self.secret_access_key).as_bytes(), date.as_bytes());
        for part in ["us-east-1", "s3", "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex::encode(hmac(&key, to_sign.as_bytes()));
        let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
        let mut head = format!("{} {}{query} HTTP/1.1\r\n", request.method, request.path);
        let unsigned = request.unsigned.iter().map(|(name, value)| (name.to_string(), value.clone()));
        for (name, value) in headers.into_iter().chain(unsigned) {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(
            head,
            "authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}\r\n\r\n",
            self.access_key_id
        );
        Signed { head: head.into_bytes(), signature, key, amz_date, scope }
    }
}

impl Signed {
    /// One signed chunk of an aws-chunked body with its framing, and its signature, which the next chunk
    /// continues from.
    pub fn chunk(&self, previous: &str, data: &[u8]) -> (Vec<u8>, String) {
        let empty = hex::encode(Sha256::digest(b""));
        let to_sign = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{previous}\n{empty}\n{}",
            self.amz_date,
            self.scope,
            hex::encode(Sha256::digest(data))
        );
        let signature = hex::encode(hmac(&self.key, to_sign.as_bytes()));
        let mut bytes = format!("{:x};chunk-signature={signature}\r\n", data.len()).into_bytes();
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(b"\r\n");
        (bytes, signature)
    }
}

/// SHA-256 in hex, as `x-amz-content-sha256` wants it.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin_sim::{ACCESS_KEY_ID, OriginSim, SECRET_ACCESS_KEY};

    #[test]
    fn an_independent_verifier_accepts_the_signature_and_refuses_a_wrong_one() {
        let origin = OriginSim::start(&["bkt"]).unwrap();
        let request = Unsigned {
            method: "PUT",
            path: "/bkt/k",
            signed: vec![("x-amz-meta-a", "1".into()), ("content-length", "3".into())],
            content_sha256: &sha256_hex(b"abc"),
            ..Unsigned::default()
        };
        for (secret, status) in [(SECRET_ACCESS_KEY, 200), ("wrong", 403)] {
            let mut bytes = Signer::now(ACCESS_KEY_ID, secret).sign(origin.addr(), &request).head;
            bytes.extend_from_slice(b"abc");
            let answer = exchange(origin.addr(), &bytes).unwrap();
            assert_eq!(answer.status, status, "{}", answer.text());
        }
        assert_eq!(&origin.object("bkt", "k").unwrap().body[..], b"abc");
    }
}
