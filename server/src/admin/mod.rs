//! The admin HTTP server: health, metrics, status, and the verbs on the flush queue.
//!
//! Owns routes, limits and who may ask ([`auth`]). Does not own any state: it asks the node through
//! [`core::Core`] and answers. Nothing here may be needed for serving data.
//!
//! What must hold: `/livez` says only that this loop turns, and neither it nor `/readyz` asks the origin,
//! so that an outage of the cloud restarts no node. Connections, heads, bodies and time are bounded. No
//! answer holds a secret.

mod auth;
pub(crate) mod core;
mod exposition;
mod flush;
mod health;
mod import;
mod metrics;
mod mounts;
mod query;
mod reply;
mod scrub;
mod status;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::core::Core;
use self::query::Query;
use self::reply::Reply;
use crate::config::Secret;

/// Connections at once; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 128;
/// Largest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Largest request body, in bytes: a key and a reason in JSON.
const BODY_BYTES_MAX: usize = 16 << 10;
/// How long a client may take to send its head, and again its body.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one accepted error (such as no file descriptor left) pauses accepting.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The admin server's parts.
#[derive(Debug)]
pub(crate) struct Admin<C> {
    /// The node.
    pub(crate) core: C,
    /// What requests must carry.
    pub(crate) token: Option<Secret>,
    /// Set when the node begins to stop: `/readyz` then says no.
    pub(crate) stopping: CancellationToken,
}

/// Serves until `shutdown`, then finishes the requests under way.
pub(crate) async fn serve<C: Core>(
    listener: TcpListener,
    admin: Arc<Admin<C>>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let accepting = async {
        loop {
            // The semaphore is never closed, so this waits for a place.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (admin, shutdown) = (Arc::clone(&admin), shutdown.clone());
                    connections.spawn(async move {
                        serve_connection(stream, admin, shutdown).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn serve_connection<C: Core>(stream: TcpStream, admin: Arc<Admin<C>>, shutdown: CancellationToken) {
    let service = service_fn(|request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<Reply, Infallible>(answer(&admin, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(RECEIVE_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an admin connection ended early");
    }
}

/// Answers one request. Dropping the future (the client went away) ends a wait.
async fn answer<C: Core, B>(admin: &Admin<C>, request: Request<B>) -> Reply
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let open = matches!(path, "/livez" | "/readyz");
    if !open && let Err(refusal) = auth::authorize(admin.token.as_ref(), &head.headers) {
        return *refusal;
    }
    let Some(route) = Route::of(path) else {
        return reply::error(
            StatusCode::NOT_FOUND,
            format!("there is nothing at {path}; see /_/api/v1/status"),
        );
    };
    let allowed = route.method();
    if head.method != allowed && !(allowed == Method::GET && head.method == Method::HEAD) {
        let cause = format!("{path} takes {allowed}, not {}", head.method);
        let mut refusal = reply::error(StatusCode::METHOD_NOT_ALLOWED, cause);
        let allow = if allowed == Method::GET { "GET, HEAD" } else { "POST" };
        refusal.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static(allow));
        return refusal;
    }
    let query = match Query::parse(head.uri.query(), route.parameters()) {
        Ok(query) => query,
        Err(cause) => return reply::error(StatusCode::BAD_REQUEST, cause),
    };
    match route {
        Route::Live => health::live(),
        Route::Ready => health::ready(admin),
        Route::Metrics => metrics::metrics(&admin.core).await,
        Route::Health => health::healthz(admin),
        Route::Nodes => health::nodes(admin),
        Route::Resolve => health::resolve(&admin.core, &query),
        Route::Status => status::status(admin),
        Route::FlushList => flush::list(&admin.core, &query).await,
        Route::FlushWait => flush::wait(&admin.core, &query).await,
        Route::FlushRetry => match receive(&head.headers, body).await {
            Ok(body) => flush::retry(&admin.core, &body).await,
            Err(refusal) => *refusal,
        },
        Route::FlushAbandon => match receive(&head.headers, body).await {
            Ok(body) => flush::abandon(&admin.core, &body).await,
            Err(refusal) => *refusal,
        },
        Route::ScrubStart => match receive(&head.headers, body).await {
            Ok(body) => scrub::start(&admin.core, &body),
            Err(refusal) => *refusal,
        },
        Route::Scrub => scrub::show(&admin.core),
        Route::ScrubCancel => match receive(&head.headers, body).await {
            Ok(_) => scrub::cancel(&admin.core),
            Err(refusal) => *refusal,
        },
        Route::MountList => mounts::list(&admin.core),
        Route::ImportList => import::list(&admin.core, &query).await,
        Route::ImportStart => match receive(&head.headers, body).await {
            Ok(body) => import::start(&admin.core, &body).await,
            Err(refusal) => *refusal,
        },
        Route::ImportCancel => match receive(&head.headers, body).await {
            Ok(body) => import::cancel(&admin.core, &body).await,
            Err(refusal) => *refusal,
        },
        Route::MountForget => match receive(&head.headers, body).await {
            Ok(body) => mounts::forget(&admin.core, &body).await,
            Err(refusal) => *refusal,
        },
    }
}

/// Everything that can be asked for.
#[derive(Debug, Clone, Copy)]
enum Route {
    Live,
    Ready,
    Metrics,
    Health,
    Nodes,
    Resolve,
    Status,
    FlushList,
    FlushWait,
    FlushRetry,
    FlushAbandon,
    MountList,
    MountForget,
    ImportList,
    ImportStart,
    ImportCancel,
    Scrub,
    ScrubStart,
    ScrubCancel,
}

impl Route {
    fn of(path: &str) -> Option<Route> {
        Some(match path {
            "/livez" => Route::Live,
            "/readyz" => Route::Ready,
            "/metrics" => Route::Metrics,
            "/_/api/v1/healthz" => Route::Health,
            "/_/api/v1/nodes" => Route::Nodes,
            "/_/api/v1/slots/resolve" => Route::Resolve,
            "/_/api/v1/status" => Route::Status,
            "/_/api/v1/flush" => Route::FlushList,
            "/_/api/v1/flush/wait" => Route::FlushWait,
            "/_/api/v1/flush/retry" => Route::FlushRetry,
            "/_/api/v1/flush/abandon" => Route::FlushAbandon,
            "/_/api/v1/mounts" => Route::MountList,
            "/_/api/v1/mounts/forget" => Route::MountForget,
            "/_/api/v1/import" => Route::ImportList,
            "/_/api/v1/import/start" => Route::ImportStart,
            "/_/api/v1/import/cancel" => Route::ImportCancel,
            "/_/api/v1/scrub" => Route::Scrub,
            "/_/api/v1/scrub/start" => Route::ScrubStart,
            "/_/api/v1/scrub/cancel" => Route::ScrubCancel,
            _ => return None,
        })
    }

    fn method(self) -> Method {
        match self {
            Route::FlushWait | Route::FlushRetry | Route::FlushAbandon => Method::POST,
            Route::MountForget | Route::ImportStart | Route::ImportCancel => Method::POST,
            Route::ScrubStart | Route::ScrubCancel => Method::POST,
            _ => Method::GET,
        }
    }

    fn parameters(self) -> &'static [&'static str] {
        match self {
            Route::Resolve => &["path"],
            Route::FlushList => &["state", "limit", "after"],
            Route::FlushWait => &["timeout_ms"],
            Route::ImportList => &["path"],
            _ => &[],
        }
    }
}

/// Takes a JSON body whole, within the bounds.
async fn receive<B>(headers: &HeaderMap, body: B) -> Result<Bytes, Box<Reply>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    auth::require_json(headers)?;
    let collected = tokio::time::timeout(RECEIVE_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let (status, cause) = match collected {
        Ok(Ok(body)) => return Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {BODY_BYTES_MAX} bytes"))
        }
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, format!("cannot read the body: {error}")),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned()),
    };
    Err(Box::new(reply::error(status, cause)))
}
