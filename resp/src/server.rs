//! What all connections share: the core's handle, settings, the list of clients, SCAN's cursors, counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use forebay_storage::store::Store;
use tokio_util::sync::CancellationToken;

use crate::clients::Clients;
use crate::config::{RespConfig, Settings, ShutdownHook};
use crate::cursors::Cursors;
use crate::keyspace::DatabaseNames;

/// The front end's shared state.
pub(crate) struct Server {
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) keyspace: DatabaseNames,
    pub(crate) clients: Arc<Clients>,
    pub(crate) cursors: Cursors,
    pub(crate) counters: Counters,
    pub(crate) on_shutdown: Option<ShutdownHook>,
    /// Cancelled when the front end stops: nothing that only waits goes on waiting.
    pub(crate) stopping: CancellationToken,
    pub(crate) directory: String,
    pub(crate) address: SocketAddr,
    pub(crate) started: Instant,
    /// Seconds since the Unix epoch of the last SAVE or BGSAVE that was answered.
    pub(crate) last_save_seconds: AtomicU64,
}

/// Totals since the start, or since CONFIG RESETSTAT. On cache lines of their own: every connection writes to them,
/// and reads what lies beside them.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) connections_rejected: AtomicU64,
    pub(crate) commands: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) keyspace_hits: AtomicU64,
    pub(crate) keyspace_misses: AtomicU64,
    pub(crate) errors: AtomicU64,
}

/// One connection's counts since it last added them to [`Counters`]: shared cache lines are touched once
/// a batch.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) commands: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) errors: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

impl Counters {
    pub(crate) fn add(&self, tally: Tally) {
        for (counter, value) in [
            (&self.commands, tally.commands),
            (&self.keyspace_hits, tally.hits),
            (&self.keyspace_misses, tally.misses),
            (&self.errors, tally.errors),
            (&self.bytes_in, tally.bytes_in),
            (&self.bytes_out, tally.bytes_out),
            (&self.reads, tally.reads),
            (&self.writes, tally.writes),
        ] {
            if value > 0 {
                counter.fetch_add(value, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn reset(&self) {
        for counter in [
            &self.connections,
            &self.connections_rejected,
            &self.commands,
            &self.bytes_in,
            &self.bytes_out,
            &self.reads,
            &self.writes,
            &self.keyspace_hits,
            &self.keyspace_misses,
            &self.errors,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

impl Server {
    pub(crate) fn new(
        store: Store,
        config: &RespConfig,
        address: SocketAddr,
        stopping: CancellationToken,
    ) -> Server {
        Server {
            store,
            settings: Settings::new(config),
            keyspace: DatabaseNames::new(&config.bucket_prefix, config.databases),
            clients: Arc::default(),
            cursors: Cursors::new(),
            counters: Counters::default(),
            on_shutdown: config.on_shutdown.clone(),
            stopping,
            directory: config.directory.display().to_string(),
            address,
            started: Instant::now(),
            last_save_seconds: AtomicU64::new(0),
        }
    }
}
