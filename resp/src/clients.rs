//! Who is connected: what CLIENT LIST shows and CLIENT KILL finds.
//!
//! Owns one entry for each open connection; the entry goes when the connection's [`Registration`] is
//! dropped, however the connection ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::reply::Protocol;

/// All open connections, by id.
#[derive(Default)]
pub(crate) struct Clients {
    open: Mutex<BTreeMap<u64, Arc<ClientFacts>>>,
    last_id: AtomicU64,
}

/// What others may see of a client, and how they end it.
pub(crate) struct ClientFacts {
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    pub(crate) local_address: SocketAddr,
    fd: i32,
    opened: Instant,
    /// Locked once a batch by the client, and by whoever lists clients.
    state: Mutex<State>,
}

struct State {
    name: Vec<u8>,
    activity: Activity,
    last_active: Instant,
    no_evict: bool,
    /// Set once its task runs.
    task: Option<AbortHandle>,
}

/// What changes with every batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Activity {
    /// Full name of the last command.
    pub(crate) command: &'static str,
    /// Number of its database, -1 for a bucket that is none.
    pub(crate) database: i64,
    /// Commands queued since MULTI.
    pub(crate) queued: Option<usize>,
    pub(crate) protocol: Protocol,
    /// Received and not yet parsed, in bytes.
    pub(crate) unparsed_bytes: usize,
    /// Size of the read buffer.
    pub(crate) read_buffer_bytes: usize,
    /// Written and not yet sent.
    pub(crate) unsent_bytes: usize,
}

/// Takes its client off the list when dropped.
pub(crate) struct Registration {
    clients: Arc<Clients>,
    pub(crate) facts: Arc<ClientFacts>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.clients.open.lock().remove(&self.facts.id);
    }
}

impl Clients {
    /// Puts a new connection on the list, unless `limit` are open.
    pub(crate) fn register(
        self: &Arc<Self>,
        address: SocketAddr,
        local_address: SocketAddr,
        fd: i32,
        limit: usize,
    ) -> Option<Registration> {
        let mut open = self.open.lock();
        if open.len() >= limit {
            return None;
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let facts = Arc::new(ClientFacts {
            id,
            address,
            local_address,
            fd,
            opened: now,
            state: Mutex::new(State {
                name: Vec::new(),
                activity: Activity {
                    command: "NULL",
                    database: 0,
                    queued: None,
                    protocol: Protocol::Two,
                    unparsed_bytes: 0,
                    read_buffer_bytes: 0,
                    unsent_bytes: 0,
                },
                last_active: now,
                no_evict: false,
                task: None,
            }),
        });
        open.insert(id, Arc::clone(&facts));
        Some(Registration { clients: Arc::clone(self), facts })
    }

    /// Number of open connections.
    pub(crate) fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// All open connections in the order they came.
    pub(crate) fn all(&self) -> Vec<Arc<ClientFacts>> {
        self.open.lock().values().cloned().collect()
    }

    /// Closes what has been silent for longer than `limit`.
    pub(crate) fn close_idle(&self, limit: Duration) {
        for client in self.all() {
            if client.idle() > limit {
                client.kill();
            }
        }
    }
}

impl ClientFacts {
    pub(crate) fn set_task(&self, task: AbortHandle) {
        self.state.lock().task = Some(task);
    }

    /// Ends the connection at its next await. What it has submitted to the log stays submitted.
    pub(crate) fn kill(&self) {
        if let Some(task) = &self.state.lock().task {
            task.abort();
        }
    }

    pub(crate) fn name(&self) -> Vec<u8> {
        self.state.lock().name.clone()
    }

    pub(crate) fn set_name(&self, name: &[u8]) {
        self.state.lock().name = name.to_vec();
    }

    pub(crate) fn set_no_evict(&self, on: bool) {
        self.state.lock().no_evict = on;
    }

    /// Notes a batch.
    pub(crate) fn note(&self, activity: Activity) {
        let mut state = self.state.lock();
        state.activity = activity;
        state.last_active = Instant::now();
    }

    /// Notes a command within its batch.
    pub(crate) fn note_now(&self, command: &'static str, database: i64, protocol: Protocol) {
        let mut state = self.state.lock();
        state.activity = Activity { command, database, protocol, ..state.activity };
        state.last_active = Instant::now();
    }

    /// Notes that bytes come or go.
    pub(crate) fn touch(&self) {
        self.state.lock().last_active = Instant::now();
    }

    fn idle(&self) -> Duration {
        self.state.lock().last_active.elapsed()
    }

    /// Its line in CLIENT LIST, as Redis 7.0 writes it.
    pub(crate) fn write_line(&self, out: &mut Vec<u8>) {
        let state = self.state.lock();
        let Activity { command, database, queued, protocol, .. } = state.activity;
        let Activity { unparsed_bytes, read_buffer_bytes, unsent_bytes, .. } = state.activity;
        let mut flags = String::new();
        if queued.is_some() {
            flags.push('x');
        }
        if state.no_evict {
            flags.push('e');
        }
        if flags.is_empty() {
            flags.push('N');
        }
        out.extend_from_slice(
            format!("id={} addr={} laddr={} fd={} name=", self.id, self.address, self.local_address, self.fd)
                .as_bytes(),
        );
        out.extend_from_slice(&state.name);
        let rest = format!(
            " age={age} idle={idle} flags={flags} db={database} sub=0 psub=0 ssub=0 multi={multi} \
             qbuf={unparsed_bytes} qbuf-free={free} argv-mem=0 multi-mem=0 rbs={read_buffer_bytes} rbp=0 \
             obl={unsent_bytes} oll=0 omem=0 tot-mem={total} events=r cmd={command} user=default redir=-1 \
             resp={resp}\n",
            age = self.opened.elapsed().as_secs(),
            idle = state.last_active.elapsed().as_secs(),
            multi = queued.map_or(-1, |queued| queued as i64),
            free = read_buffer_bytes.saturating_sub(unparsed_bytes),
            total = read_buffer_bytes + unsent_bytes,
            resp = match protocol {
                Protocol::Two => 2,
                Protocol::Three => 3,
            },
        );
        out.extend_from_slice(rest.as_bytes());
    }
}
