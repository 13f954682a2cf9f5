//! The wiring diagram in code: store, listeners, front ends, admin, signals; and down again in reverse.
//!
//! Owns the order of start and stop. Does not own what it connects.
//!
//! Start: data directory (its lock, recovery), credentials, listeners, front ends, admin, `endpoints.json`.
//! What must hold: nothing is bound before the data directory is ours, and `endpoints.json` appears only
//! when everything in it answers. Stop: the front ends stop accepting and finish what runs, for at most
//! `stop_timeout`; the store syncs; then the process ends with 0 and says what stays queued. A crash at any
//! point leaves only a stale `endpoints.json`, which the next start removes.

mod limits;
mod rate;
mod storage;
mod view;

use std::fs::DirBuilder;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forebay_storage::node::{Node, StartError};
use forebay_storage::store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use self::view::NodeView;
use crate::admin::core::Identity;
use crate::admin::{self, Admin};
use crate::api::Endpoints;
use crate::cli::say;
use crate::config::{Config, S3Credentials, SyncMode};
use crate::kept_files::{EndpointsFile, kept_credentials};

/// How long the admin server may take to finish after everything else: it answered `/readyz` until then.
const ADMIN_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a node did not start, or ended otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The core did not open the data directory.
    #[error("cannot start: {0}")]
    Storage(#[from] StartError),
    /// The buckets of the RESP databases were not made.
    #[error("cannot make the buckets of the RESP databases: {0}")]
    Databases(forebay_storage::error::Error),
    /// The data directory was not made.
    #[error("cannot make the data directory {}: {cause}", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// The system's words.
        cause: io::Error,
    },
    /// A listener was not bound.
    #[error(
        "{name} cannot listen on {address}: {cause}; is another program using it? ({flag} chooses another)"
    )]
    Bind {
        /// Which.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// The flag that chooses another.
        flag: &'static str,
        /// The system's words.
        cause: io::Error,
    },
    /// A front end ended by itself.
    #[error("the {name} server ended: {cause}")]
    Ended {
        /// Which.
        name: &'static str,
        /// Why.
        cause: String,
    },
    /// A small file beside the data, or the signals.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's words.
        cause: io::Error,
    },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> NodeError {
    move |cause| NodeError::Io { what, cause }
}

/// Runs a node until a signal or SHUTDOWN stops it.
pub(crate) async fn run(config: Config) -> Result<(), NodeError> {
    limits::raise_descriptor_limit(config.resp.maxclients);
    let mut signals = StopSignals::install().map_err(io_error("cannot watch for signals"))?;
    make_directory(&config.data_dir)?;
    let node = tokio::select! {
        node = Node::start(storage::storage_config(&config)) => node?,
        // Nothing was acknowledged yet; recovery begins anew at the next start.
        () = signals.next() => {
            say("stopped before it was ready");
            return Ok(());
        }
    };
    let served = serve(&config, &node, &mut signals).await;
    let stopped = node.stop().await;
    served?;
    say(format_args!(
        "stopped; {} objects ({} bytes) stay queued on disk",
        stopped.queued_objects, stopped.queued_bytes
    ));
    Ok(())
}

/// Makes the data directory, if there is none, for this user alone: it holds everybody's data.
fn make_directory(path: &Path) -> Result<(), NodeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|cause| NodeError::Directory { path: path.to_owned(), cause })
}

/// Every RESP database is a bucket from the first start on: S3 may write to it first.
async fn open_databases(config: &Config, node: &Node) -> Result<(), NodeError> {
    let prefix = storage::resp_config(config, &CancellationToken::new()).bucket_prefix;
    for database in 0..config.resp.databases {
        node.store()
            .open_bucket(format!("{prefix}{database}").as_bytes())
            .await
            .map_err(NodeError::Databases)?;
    }
    Ok(())
}

/// Serves until told to stop, and stops serving.
async fn serve(config: &Config, node: &Node, signals: &mut StopSignals) -> Result<(), NodeError> {
    EndpointsFile::remove_stale(&config.data_dir)
        .map_err(io_error("cannot remove the old endpoints.json"))?;
    let credentials = Credentials::of(config)?;
    let listeners = Listeners::bind(config).await?;
    open_databases(config, node).await?;
    let endpoints = listeners.endpoints().map_err(io_error("cannot read the address that was bound"))?;

    let stopping = CancellationToken::new();
    let admin_stop = CancellationToken::new();
    let mut front_ends =
        FrontEnds::start(config, node.store(), &credentials, listeners.resp, listeners.s3, &stopping);
    let admin = start_admin(config, node, listeners.admin, &endpoints, &stopping, &admin_stop);
    let file = EndpointsFile::write(&config.data_dir, &endpoints)
        .map_err(io_error("cannot write endpoints.json"))?;
    greet(config, &endpoints, &credentials);

    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        () = stopping.cancelled() => Ok(()),
        ended = front_ends.next() => Err(ended),
    };
    tracing::info!("stopping: no new connections, finishing what runs");
    stopping.cancel();
    front_ends.finish(config.stop_timeout, signals).await;
    if let Err(error) = file.remove() {
        tracing::warn!(%error, "cannot remove endpoints.json");
    }
    admin_stop.cancel();
    stop_admin(admin).await;
    ended
}

fn start_admin(
    config: &Config,
    node: &Node,
    listener: TcpListener,
    endpoints: &Endpoints,
    stopping: &CancellationToken,
    shutdown: &CancellationToken,
) -> JoinHandle<io::Result<()>> {
    let identity = Identity {
        cluster_id: node.store().cluster_id().to_string(),
        node_id: storage::NODE_ID,
        sync: config.sync.to_string(),
        listen: endpoints.clone(),
    };
    let core = NodeView::new(
        node.store(),
        node.flush(),
        identity,
        config.mounts.clone(),
        config.scrub.bytes_per_second.0,
    );
    let admin = Arc::new(Admin { core, token: config.admin.token.clone(), stopping: stopping.clone() });
    tokio::spawn(admin::serve(listener, admin, shutdown.clone()))
}

async fn stop_admin(mut task: JoinHandle<io::Result<()>>) {
    if tokio::time::timeout(ADMIN_STOP_TIMEOUT, &mut task).await.is_err() {
        // A `flush wait` that outlives the node: its client sees the connection end.
        task.abort();
    }
}

/// The three sockets, bound and not yet served.
struct Listeners {
    resp: TcpListener,
    s3: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Listeners, NodeError> {
        Ok(Listeners {
            resp: bind("RESP", config.resp.listen, "--resp-listen").await?,
            s3: bind("S3", config.s3.listen, "--s3-listen").await?,
            admin: bind("admin", config.admin.listen, "--admin-listen").await?,
        })
    }

    fn endpoints(&self) -> io::Result<Endpoints> {
        let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string());
        Ok(Endpoints { resp: address(&self.resp)?, s3: address(&self.s3)?, admin: address(&self.admin)? })
    }
}

async fn bind(name: &'static str, address: SocketAddr, flag: &'static str) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|cause| NodeError::Bind { name, address, flag, cause })
}

/// What S3 clients must sign with, and whether it was made here.
struct Credentials {
    s3: S3Credentials,
    kept_in: Option<PathBuf>,
}

impl Credentials {
    fn of(config: &Config) -> Result<Credentials, NodeError> {
        if let Some(s3) = &config.s3.credentials {
            return Ok(Credentials { s3: s3.clone(), kept_in: None });
        }
        let kept = kept_credentials(&config.data_dir).map_err(io_error("cannot keep S3 credentials"))?;
        Ok(Credentials { s3: kept.credentials, kept_in: Some(kept.path) })
    }
}

/// The RESP and S3 servers.
struct FrontEnds {
    tasks: JoinSet<(&'static str, io::Result<()>)>,
}

impl FrontEnds {
    fn start(
        config: &Config,
        store: Store,
        credentials: &Credentials,
        resp: TcpListener,
        s3: TcpListener,
        stopping: &CancellationToken,
    ) -> FrontEnds {
        let mut tasks = JoinSet::new();
        let resp_server = forebay_resp::serve(
            resp,
            store.clone(),
            storage::resp_config(config, stopping),
            stopping.clone(),
        );
        tasks.spawn(async move { ("RESP", resp_server.await) });
        let s3_server =
            forebay_s3::serve(s3, store, storage::s3_config(config, &credentials.s3), stopping.clone());
        tasks.spawn(async move { ("S3", s3_server.await) });
        FrontEnds { tasks }
    }

    /// Waits for one that ends by itself: it should not.
    async fn next(&mut self) -> NodeError {
        let (name, cause) = match self.tasks.join_next().await {
            Some(Ok((name, Ok(())))) => (name, "without an error".to_owned()),
            Some(Ok((name, Err(error)))) => (name, error.to_string()),
            Some(Err(error)) => ("RESP or S3", error.to_string()),
            None => std::future::pending().await,
        };
        NodeError::Ended { name, cause }
    }

    /// Waits for all to finish what runs, for at most so long; a second signal cuts it short.
    async fn finish(&mut self, timeout: Duration, signals: &mut StopSignals) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let cut_short = tokio::select! {
            () = all => None,
            () = tokio::time::sleep(timeout) => Some("stop_timeout"),
            () = signals.next() => Some("a second signal"),
        };
        if let Some(cause) = cut_short {
            tracing::warn!(cause, "ending connections that still worked; what was acknowledged is safe");
            self.tasks.shutdown().await;
        }
    }
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn install() -> io::Result<StopSignals> {
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of either. May be dropped.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The start line; on a terminal also what to try, with generated credentials in it.
fn greet(config: &Config, endpoints: &Endpoints, credentials: &Credentials) {
    let Endpoints { resp, s3, admin } = endpoints;
    let sync = match config.sync {
        SyncMode::Always => "sync always",
        SyncMode::EverySec => "sync everysec (a power loss may cost the last second)",
    };
    say(format_args!(
        "forebay {} ready: RESP {resp}, S3 {s3}, admin {admin}; {sync}, 1 copy; data in {}",
        env!("CARGO_PKG_VERSION"),
        config.data_dir.display()
    ));
    let terminal = io::stdout().is_terminal();
    if let (Some(file), false) = (&credentials.kept_in, terminal) {
        say(format_args!("S3 credentials are in {}", file.display()));
    }
    if terminal {
        let [resp_host, resp_port] = host_and_port(resp);
        let auth = if config.resp.password.is_some() { " --askpass" } else { "" };
        let keys = match &credentials.kept_in {
            Some(_) => format!(
                "AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} ",
                credentials.s3.access_key_id.reveal(),
                credentials.s3.secret_access_key.reveal()
            ),
            None => String::new(),
        };
        let token = match config.admin.token {
            Some(_) => " -H \"Authorization: Bearer $FOREBAY_ADMIN_TOKEN\"",
            None => "",
        };
        say("try:");
        say(format_args!("  redis-cli -h {resp_host} -p {resp_port}{auth} set greeting hello"));
        say(format_args!("  {keys}aws --endpoint-url http://{s3} s3 cp s3://redis-0/greeting -"));
        say(format_args!("  curl{token} http://{admin}/_/api/v1/status"));
    }
}

fn host_and_port(address: &str) -> [&str; 2] {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    [host.trim_start_matches('[').trim_end_matches(']'), port]
}
