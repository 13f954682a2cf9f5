//! Accepts clients, counts them, and ends them in good order.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_storage::store::Store;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::RespConfig;
use crate::connection::Connection;
use crate::server::Server;

/// How long clients may take to receive their last replies when the node stops.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How often idle clients are looked for.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves Redis clients on `listener` until `shutdown` is cancelled: then accepts no more, answers what was
/// received, and returns when the last client is gone or has had five seconds to take its replies.
///
/// Every acknowledged write is as durable as the store's sync mode says. Dropping the future stops
/// accepting and leaves open connections running: cancel `shutdown` instead.
///
/// # Errors
/// Only if the listener's own address cannot be read; a failed accept is logged and tried again.
pub async fn serve(
    listener: TcpListener,
    store: Store,
    config: RespConfig,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let server = Arc::new(Server::new(store, &config, listener.local_addr()?, shutdown.clone()));
    let connections = TaskTracker::new();
    let mut idle_check = tokio::time::interval(IDLE_CHECK);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(&server, stream, &connections, &shutdown),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a Redis client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = idle_check.tick() => close_idle(&server),
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(CLOSE_LIMIT, connections.wait()).await.is_err() {
        tracing::warn!(clients = server.clients.len(), "closing Redis clients that take no replies");
        for client in server.clients.all() {
            client.kill();
        }
        connections.wait().await;
    }
    Ok(())
}

fn close_idle(server: &Server) {
    let seconds = server.settings.idle_timeout_seconds.load(Ordering::Relaxed);
    if seconds > 0 {
        server.clients.close_idle(Duration::from_secs(seconds));
    }
}

fn admit(server: &Arc<Server>, stream: TcpStream, connections: &TaskTracker, shutdown: &CancellationToken) {
    server.counters.connections.fetch_add(1, Ordering::Relaxed);
    let (Ok(address), Ok(local_address)) = (stream.peer_addr(), stream.local_addr()) else {
        // The client has left already.
        return;
    };
    let limit = server.settings.max_clients.load(Ordering::Relaxed);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let Some(registration) = server.clients.register(address, local_address, stream.as_raw_fd(), limit)
    else {
        server.counters.connections_rejected.fetch_add(1, Ordering::Relaxed);
        connections.spawn(turn_away(stream));
        return;
    };
    if let Err(error) = tune(server, &stream) {
        tracing::debug!(%error, client = %address, "cannot set socket options");
    }
    let facts = Arc::clone(&registration.facts);
    let connection = Connection::new(Arc::clone(server), stream, registration);
    // A child token: connections come and go without touching the shared list of waiters at every read.
    let shutdown = shutdown.child_token();
    let task = connections.spawn(async move {
        if let Err(error) = connection.serve(shutdown).await {
            tracing::debug!(%error, client = %address, "connection ended");
        }
    });
    facts.set_task(task.abort_handle());
}

fn tune(server: &Server, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let seconds = server.settings.tcp_keepalive_seconds.load(Ordering::Relaxed);
    if seconds > 0 {
        let interval = Duration::from_secs((seconds / 3).max(1));
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(seconds)).with_interval(interval);
        SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

async fn turn_away(mut stream: TcpStream) {
    // Whether the client still reads it is its own affair.
    let _ = stream.write_all(b"-ERR max number of clients reached\r\n").await;
    let _ = stream.shutdown().await;
}
