//! One client: read, run, write.
//!
//! Owns the socket and the read buffer. Reads only when everything received is answered and sent, so a
//! client that sends fast and reads slowly is held up by its own socket, and the node holds at most one
//! batch of its replies. Long values pass by the buffer and the replies: `transfer`.

mod transfer;

use std::io;
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::clients::{Activity, Registration};
use crate::error::CommandError;
use crate::parse::{Parsed, Parser, ProtocolError, Rules};
use crate::pipeline::Pipeline;
use crate::server::Server;
use crate::session::Session;

/// Requests that are parsed before the first of them is run, so that the rows they read can be asked for together.
const PARSED_AHEAD_MAX: usize = 64;
/// How much, and for how long, is still taken from a client after the last reply.
const DRAIN_BYTES_MAX: usize = 1024 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// One client's connection.
pub(crate) struct Connection {
    server: Arc<Server>,
    stream: TcpStream,
    parser: Parser,
    /// Parsed and about to be run.
    requests: Vec<Range<usize>>,
    pipeline: Pipeline,
    registration: Registration,
}

impl Connection {
    pub(crate) fn new(server: Arc<Server>, stream: TcpStream, registration: Registration) -> Connection {
        let session = Session::new(&server, Arc::clone(&registration.facts));
        Connection {
            pipeline: Pipeline::new(Arc::clone(&server), session),
            parser: Parser::new(),
            requests: Vec::new(),
            server,
            stream,
            registration,
        }
    }

    /// Serves until the client leaves, is closed, or `shutdown` is asked for: then what was read is still
    /// answered. An error is the socket's.
    pub(crate) async fn serve(mut self, shutdown: CancellationToken) -> io::Result<()> {
        let mut stop = std::pin::pin!(shutdown.cancelled());
        loop {
            let room = self.parser.make_room();
            let received = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                received = self.stream.read(room) => received?,
            };
            if received == 0 {
                return Ok(());
            }
            self.parser.filled(received);
            self.pipeline.count_read(received);
            if !self.run_received(&mut stop).await? {
                return Ok(());
            }
            self.pipeline.count_write();
            self.note();
            self.send().await?;
            if self.pipeline.session.closing {
                return self.hang_up().await;
            }
        }
    }

    /// Runs every request that has arrived whole, and takes long arguments as they arrive; false if the client
    /// left, or `stop` came, in the middle of one.
    async fn run_received(&mut self, stop: &mut Pin<&mut WaitForCancellationFuture<'_>>) -> io::Result<bool> {
        self.pipeline.session.refresh(&self.server.store);
        let settings = &self.server.settings;
        let mut rules = Rules {
            authenticated: self.pipeline.session.authenticated,
            bulk_bytes_max: settings.bulk_bytes_max.load(Ordering::Relaxed),
            inline_bytes_max: self.server.store.inline_bytes_max(),
            request_bytes_max: settings.request_bytes_max.load(Ordering::Relaxed),
        };
        while !self.pipeline.session.closing {
            rules.authenticated = self.pipeline.session.authenticated;
            let end = self.parse_ahead(&rules);
            self.pipeline.begin(&self.requests, &self.parser);
            let mut long = self.pipeline.has_long();
            for next in 0..self.requests.len() {
                let request = self.requests[next].clone();
                if mem::replace(&mut long, false) {
                    self.pipeline.long_request(request, &self.parser).await;
                } else if let Some(blocked) = self.pipeline.request(request.clone(), &self.parser) {
                    let behind = &self.requests[next + 1..];
                    self.pipeline.unblock(blocked, request, behind, &self.parser).await;
                }
                if self.pipeline.is_full() {
                    self.pipeline.close(&self.parser).await;
                }
                if self.pipeline.must_send() {
                    self.pipeline.close(&self.parser).await;
                    self.pipeline.count_write();
                    self.send().await?;
                }
                if self.pipeline.session.closing {
                    break;
                }
            }
            match end {
                _ if self.pipeline.session.closing => {}
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Request(_)) => {}
                Ok(Parsed::Long(long)) => {
                    if !self.take_long(&long, stop).await? {
                        return Ok(false);
                    }
                }
                Ok(Parsed::Dropped(limit)) => self.pipeline.refuse(limit),
                Err(error) => self.pipeline.protocol_error(&protocol_error_line(error)),
            }
        }
        self.pipeline.close(&self.parser).await;
        Ok(true)
    }

    /// Parses up to [`PARSED_AHEAD_MAX`] requests into `requests`; returns what the last bytes parsed were.
    fn parse_ahead(&mut self, rules: &Rules) -> Result<Parsed, ProtocolError> {
        self.requests.clear();
        loop {
            let parsed = self.parser.next(rules);
            let Ok(Parsed::Request(request)) = &parsed else { return parsed };
            self.requests.push(request.clone());
            // A client that has yet to give its password may do so with this request, and gains other limits.
            if !rules.authenticated || self.requests.len() == PARSED_AHEAD_MAX {
                return parsed;
            }
        }
    }

    async fn send(&mut self) -> io::Result<()> {
        let replies = self.pipeline.replies();
        if replies.is_empty() {
            self.pipeline.replies_sent();
            return Ok(());
        }
        if self.pipeline.has_streams() {
            self.send_streams().await?;
        } else {
            self.stream.write_all(replies).await?;
        }
        self.pipeline.replies_sent();
        Ok(())
    }

    /// Closes so that the last reply arrives: a socket closed over unread bytes is reset, and takes the
    /// reply with it.
    async fn hang_up(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let drain = async {
            let mut drained = 0;
            while drained < DRAIN_BYTES_MAX {
                match self.stream.read(self.parser.make_room()).await {
                    Ok(0) | Err(_) => break,
                    Ok(len) => drained += len,
                }
            }
        };
        // Whoever sends on does not get more of our time.
        let _ = tokio::time::timeout(DRAIN_LIMIT, drain).await;
        Ok(())
    }

    /// Tells the others what this client just did.
    fn note(&mut self) {
        self.server.counters.add(self.pipeline.take_tally());
        let session = &self.pipeline.session;
        self.registration.facts.note(Activity {
            command: self.pipeline.last_command(),
            database: session.database_number(),
            queued: session.queue.as_ref().map(|queue| queue.len()),
            protocol: session.protocol,
            unparsed_bytes: self.parser.unparsed(),
            read_buffer_bytes: self.parser.capacity(),
            unsent_bytes: self.pipeline.replies().len(),
        });
    }
}

fn protocol_error_line(error: ProtocolError) -> CommandError {
    match error {
        // The byte as it came, whatever it is.
        ProtocolError::ExpectedBulk(byte) => {
            CommandError::bytes([b"ERR Protocol error: expected '$', got '", &[byte][..], b"'"].concat())
        }
        other => CommandError::text(format!("ERR {other}")),
    }
}
