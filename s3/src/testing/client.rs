//! A client that sends raw bytes and reads answers, and knows no more of HTTP than that.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The error code in the body.
    pub(crate) fn code(&self) -> &str {
        self.body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(c, _)| c)
    }

    pub(crate) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Connection {
        let stream = within(TcpStream::connect(address)).await.expect("connects");
        Connection { stream, buffer: Vec::new() }
    }

    /// No more will be sent.
    pub(crate) async fn end(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The server may close while we send: it has then answered.
    pub(crate) async fn send(&mut self, wire: &[u8]) {
        let _ = within(self.stream.write_all(wire)).await;
    }

    pub(crate) async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).expect("ASCII");
            }
            assert!(
                self.fill().await,
                "closed before an answer: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.read_answer(false).await
    }

    /// The answer to a HEAD.
    pub(crate) async fn head_answer(&mut self) -> Answer {
        self.read_answer(true).await
    }

    async fn read_answer(&mut self, head_only: bool) -> Answer {
        let head = self.head().await;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let mut answer = Answer { status, head, body: String::new() };
        let length: usize =
            answer.header("content-length").map_or(0, |length| length.parse().expect("a number"));
        let length = if head_only { 0 } else { length };
        while self.buffer.len() < length {
            assert!(self.fill().await, "closed inside the body");
        }
        answer.body = String::from_utf8_lossy(&self.buffer.drain(..length).collect::<Vec<u8>>()).into_owned();
        answer
    }

    /// The next `length` bytes.
    pub(crate) async fn body(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.fill().await, "closed inside the body");
        }
        self.buffer.drain(..length).collect()
    }

    /// Whether something came; false at the end.
    pub(crate) async fn fill(&mut self) -> bool {
        let mut piece = vec![0; 64 << 10];
        let n = within(self.stream.read(&mut piece)).await.unwrap_or(0);
        self.buffer.extend_from_slice(&piece[..n]);
        n > 0
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        assert!(self.buffer.is_empty(), "unread bytes");
        !self.fill().await
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("must not take that long")
}
