//! A front end on a real core in a temporary directory, and a client that shows raw bytes.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::time::Duration;

use forebay_resp::RespConfig;
use forebay_storage::node::{Node, StorageConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A running front end.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<std::io::Result<()>>,
    node: Node,
    directory: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Server {
        Server::with(RespConfig::default()).await
    }

    pub(crate) async fn with(config: RespConfig) -> Server {
        Server::with_storage(config, |_| {}).await
    }

    pub(crate) async fn with_storage(config: RespConfig, tune: impl FnOnce(&mut StorageConfig)) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut storage = StorageConfig::new(directory.path());
        storage.journal_file_bytes = 8 << 20;
        storage.map_bytes = 1 << 30;
        tune(&mut storage);
        let node = Node::start(storage).await.expect("the node starts");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(forebay_resp::serve(listener, node.store(), config, shutdown.clone()));
        Server { address, shutdown, serving, node, directory }
    }

    /// Where the node keeps its files.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn store(&self) -> forebay_storage::store::Store {
        self.node.store()
    }

    pub(crate) async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.expect("connects"), received: Vec::new() }
    }

    /// Stops everything in order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.expect("no panic").expect("no error");
        self.node.stop().await;
    }
}

/// A client that speaks in lines and hears bytes.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// Sends inline commands, one a line.
    pub(crate) async fn send(&mut self, lines: &str) {
        let bytes: String = lines.lines().map(|line| format!("{}\r\n", line.trim())).collect();
        self.send_bytes(bytes.as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sends");
    }

    /// Sends one command and returns its raw reply.
    pub(crate) async fn call(&mut self, line: &str) -> String {
        self.send(line).await;
        self.reply().await
    }

    /// The next reply, whole and raw.
    pub(crate) async fn reply(&mut self) -> String {
        loop {
            if let Some(len) = reply_len(&self.received) {
                let reply = self.received.drain(..len).collect::<Vec<u8>>();
                return String::from_utf8_lossy(&reply).into_owned();
            }
            assert!(self.receive().await > 0, "closed after {:?}", String::from_utf8_lossy(&self.received));
        }
    }

    pub(crate) async fn replies(&mut self, count: usize) -> String {
        let mut all = String::new();
        for _ in 0..count {
            all.push_str(&self.reply().await);
        }
        all
    }

    /// Sends one command with arguments of any bytes and returns its raw reply.
    pub(crate) async fn call_args(&mut self, args: &[&[u8]]) -> String {
        self.send_bytes(&encode(args)).await;
        self.reply().await
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn until_closed(&mut self) -> String {
        while self.receive().await > 0 {}
        String::from_utf8_lossy(&std::mem::take(&mut self.received)).into_owned()
    }

    async fn receive(&mut self) -> usize {
        let read = self.stream.read_buf(&mut self.received);
        match tokio::time::timeout(LIMIT, read).await.expect("a reply in time") {
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Encodes a command with arguments of any bytes.
pub(crate) fn encode(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Length of the first reply, if it is whole.
fn reply_len(bytes: &[u8]) -> Option<usize> {
    let line_end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let head = line_end + 2;
    let number = || std::str::from_utf8(&bytes[1..line_end]).ok()?.parse::<i64>().ok();
    match bytes[0] {
        b'$' | b'=' => {
            let len = usize::try_from(number()?).map_or(head, |len| head + len + 2);
            (bytes.len() >= len).then_some(len)
        }
        kind @ (b'*' | b'~' | b'%') => {
            let count = number()?.max(0) * if kind == b'%' { 2 } else { 1 };
            (0..count).try_fold(head, |at, _| Some(at + reply_len(&bytes[at..])?))
        }
        _ => Some(head),
    }
}
