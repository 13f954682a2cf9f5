//! The listener: asks the fault plan, then lets the request through to the S3 operations, or fails it.
//!
//! Owns: connections, and the account of which mutations may still be applied ([`Flight`]).
//! A fault that applies a request without its sender collects the body first and then no longer depends on
//! the connection.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::fault::{Fault, Op};
use super::line;
use super::service::{Assembling, IgnoreConditions, LateRequest, SimS3};
use super::{ACCESS_KEY_ID, SECRET_ACCESS_KEY, Shared};

/// Long enough that a half body is on the wire before the connection breaks.
const BREAK_OFF_AFTER: Duration = Duration::from_millis(50);

/// Tells hyper to drop the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the fault plan closes this connection")]
struct Hangup;

/// Runs until `stopped` resolves. One thread: the order of arrival is the order of handling.
pub(super) fn serve(listener: StdListener, shared: Arc<Shared>, stopped: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("origin simulator: no runtime: {error}"),
    };
    runtime.block_on(async move {
        tokio::select! {
            result = accept(listener, shared) => panic!("origin simulator: accept failed: {result:?}"),
            _ = stopped => {}
        }
    });
}

async fn accept(listener: StdListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut builder = S3ServiceBuilder::new(SimS3::new(Arc::clone(&shared)));
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
    let s3 = builder.build();
    loop {
        let (stream, _) = listener.accept().await?;
        if shared.plan.lock().outage {
            continue;
        }
        let origin = Origin { s3: s3.clone(), shared: Arc::clone(&shared) };
        tokio::spawn(serve_connection(stream, origin));
    }
}

async fn serve_connection(stream: TcpStream, origin: Origin) {
    let service = service_fn(move |request| {
        let origin = origin.clone();
        async move { origin.handle(request).await }
    });
    // An error here is a client that went away or a fault that we made: both are the test's business.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[derive(Clone)]
struct Origin {
    s3: S3Service,
    shared: Arc<Shared>,
}

impl Origin {
    /// One request. Dropping the future (the sender left) ends its flight, unless the request was handed
    /// to a task of its own.
    async fn handle(self, request: Request<Incoming>) -> Result<Response<Body>, Hangup> {
        let target = Target::of(&request);
        let fault = {
            let mut plan = self.shared.plan.lock();
            if plan.outage {
                return Err(Hangup);
            }
            plan.decide(target.op, &target.key)
        };
        *self.shared.requests.lock().entry(target.op).or_default() += 1;
        let mut over = Over { shared: Arc::clone(&self.shared), op: target.op, status: None };
        let flight = Flight::start(&self.shared, &target);
        let response = match fault {
            None => {
                let response = self.apply(request.map(Body::from)).await;
                drop(flight);
                response
            }
            Some(fault) => self.fail(fault, target, request, flight).await,
        };
        over.status = response.as_ref().ok().map(|response| response.status().as_u16());
        response
    }

    async fn fail(
        self,
        fault: Fault,
        target: Target,
        request: Request<Incoming>,
        flight: Flight,
    ) -> Result<Response<Body>, Hangup> {
        match fault {
            Fault::ResetBefore => Err(Hangup),
            Fault::ResetMidBody => {
                let mut body = request.into_body();
                let _ = body.frame().await;
                Err(Hangup)
            }
            Fault::Answer(status, code) => {
                drain(request.into_body()).await;
                Ok(error_answer(status, code, target.head))
            }
            Fault::RefuseChecksums | Fault::RefuseOtherChecksums
                if carries_checksum(request.headers(), &fault) =>
            {
                drain(request.into_body()).await;
                Ok(error_answer(501, "NotImplemented", target.head))
            }
            Fault::RefuseChecksums | Fault::RefuseOtherChecksums => self.apply(request.map(Body::from)).await,
            Fault::LieApplied => {
                let body = collect(request.into_body()).await?;
                let status = if target.op == Op::Delete { 204 } else { 200 };
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Hangup)?;
                if let Ok(etag) = format!("\"{}\"", super::buckets::md5_hex(&body)).parse() {
                    response.headers_mut().insert(http::header::ETAG, etag);
                }
                Ok(response)
            }
            Fault::HangBefore => {
                drain(request.into_body()).await;
                std::future::pending().await
            }
            Fault::HangAfter => {
                let request = buffered(request).await?;
                let _ = self.apply(request).await;
                drop(flight);
                std::future::pending().await
            }
            Fault::ResetAfter => {
                let request = buffered(request).await?;
                let _ = self.apply(request).await;
                Err(Hangup)
            }
            Fault::ApplyLate(delay) => {
                let mut request = buffered(request).await?;
                request.extensions_mut().insert(LateRequest);
                self.shared.held_back.fetch_add(1, Ordering::AcqRel);
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = self.apply(request).await;
                    drop(flight);
                    self.shared.held_back.fetch_sub(1, Ordering::AcqRel);
                });
                std::future::pending().await
            }
            Fault::TakeLate(delay) => {
                let mut request = buffered(request).await?;
                request.extensions_mut().insert(LateRequest);
                request.extensions_mut().insert(Assembling(delay));
                self.shared.held_back.fetch_add(1, Ordering::AcqRel);
                tokio::spawn(async move {
                    let _ = self.apply(request).await;
                    drop(flight);
                    self.shared.held_back.fetch_sub(1, Ordering::AcqRel);
                });
                std::future::pending().await
            }
            Fault::Assemble(delay) => {
                let mut request = buffered(request).await?;
                request.extensions_mut().insert(LateRequest);
                request.extensions_mut().insert(Assembling(delay));
                self.shared.held_back.fetch_add(1, Ordering::AcqRel);
                // Not a request of its sender's any more: others may come.
                drop(flight);
                tokio::spawn(async move {
                    let _ = self.apply(request).await;
                    self.shared.held_back.fetch_sub(1, Ordering::AcqRel);
                });
                std::future::pending().await
            }
            Fault::Slow(delay) => {
                tokio::time::sleep(delay).await;
                self.apply(request.map(Body::from)).await
            }
            Fault::IgnoreConditions => {
                let mut request = request.map(Body::from);
                request.extensions_mut().insert(IgnoreConditions);
                self.apply(request).await
            }
            Fault::ForeignWriteBefore => {
                self.shared.foreign_put(
                    &target.bucket,
                    &target.key,
                    Bytes::from_static(b"somebody else's bytes"),
                );
                self.apply(request.map(Body::from)).await
            }
            Fault::CorruptBody => {
                self.damage(request, |body| {
                    let middle = body.len() / 2;
                    if let Some(byte) = body.get_mut(middle) {
                        *byte ^= 0x01;
                    }
                })
                .await
            }
            Fault::TruncateBody => self.truncate(request).await,
        }
    }

    async fn apply(&self, request: Request<Body>) -> Result<Response<Body>, Hangup> {
        let response = self.s3.call(request).await.map_err(|_| Hangup)?;
        Ok(match self.shared.line.get() {
            Some(line) => line::over(line, response).await,
            None => response,
        })
    }

    async fn damage(
        &self,
        request: Request<Incoming>,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Response<Body>, Hangup> {
        let (parts, body) = self.apply(request.map(Body::from)).await?.into_parts();
        let mut bytes = BodyExt::collect(body).await.map_err(|_| Hangup)?.to_bytes().to_vec();
        change(&mut bytes);
        Ok(Response::from_parts(parts, Body::from(bytes)))
    }

    /// Keeps the announced length and breaks off half-way.
    async fn truncate(&self, request: Request<Incoming>) -> Result<Response<Body>, Hangup> {
        let (parts, body) = self.apply(request.map(Body::from)).await?.into_parts();
        let bytes = BodyExt::collect(body).await.map_err(|_| Hangup)?.to_bytes();
        let half = bytes.slice(..bytes.len() / 2);
        // hyper drops what it has not written yet when a body fails, so the break comes a moment later.
        let broken = futures_util::stream::once(async {
            tokio::time::sleep(BREAK_OFF_AFTER).await;
            Err(Hangup)
        });
        let frames = futures_util::stream::iter([Ok(Frame::data(half))]).chain(broken);
        Ok(Response::from_parts(parts, Body::http_body_unsync(StreamBody::new(frames.boxed()))))
    }
}

/// What a request is about, read from its line.
struct Target {
    op: Op,
    bucket: String,
    key: String,
    head: bool,
}

impl Target {
    fn of<B>(request: &Request<B>) -> Self {
        let path = request.uri().path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = request.uri().query().unwrap_or("");
        let has = |name: &str| {
            query.split('&').any(|pair| pair.split('=').next().is_some_and(|found| found == name))
        };
        let op = match (request.method(), key.is_empty()) {
            (&Method::GET, true) if !bucket.is_empty() && query.contains("list-type") => Op::List,
            (&Method::GET, true) if has("uploads") => Op::ListUploads,
            (&Method::POST, true) if has("delete") => Op::DeleteMany,
            (_, true) => Op::Bucket,
            (&Method::POST, false) if has("uploads") => Op::BeginUpload,
            (&Method::PUT, false) if has("uploadId") => Op::Part,
            (&Method::POST, false) if has("uploadId") => Op::Complete,
            (&Method::DELETE, false) if has("uploadId") => Op::AbortUpload,
            (&Method::PUT, false) => Op::Put,
            (&Method::DELETE, false) => Op::Delete,
            (&Method::HEAD, false) => Op::Head,
            (_, false) => Op::Get,
        };
        Self {
            op,
            bucket: percent_decode(bucket),
            key: percent_decode(key),
            head: request.method() == Method::HEAD,
        }
    }
}

/// Percent-decodes into UTF-8; bytes that are not UTF-8 are replaced, as no S3 key may hold them.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%'
            && let Some(byte) = tail.get(..2).and_then(|digits| hex::decode(digits).ok())
        {
            bytes.extend_from_slice(&byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Counts a request when it is over, however it ends.
struct Over {
    shared: Arc<Shared>,
    op: Op,
    status: Option<u16>,
}

impl Drop for Over {
    fn drop(&mut self) {
        *self.shared.answers.lock().entry((self.op, self.status)).or_default() += 1;
    }
}

/// A mutation between its arrival and the moment after which it can no longer be applied.
struct Flight {
    shared: Arc<Shared>,
    name: Option<(String, String)>,
}

impl Flight {
    fn start(shared: &Arc<Shared>, target: &Target) -> Self {
        // The parts of one multipart upload go up side by side; DeleteObjects names its keys in its body.
        let counted = matches!(target.op, Op::Put | Op::Delete | Op::Complete);
        let name = counted.then(|| (target.bucket.clone(), target.key.clone()));
        if let Some((bucket, key)) = &name {
            shared.state.lock().record.arrive(shared.elapsed(), bucket, key);
        }
        Self { shared: Arc::clone(shared), name }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some((bucket, key)) = &self.name {
            self.shared.state.lock().record.depart(bucket, key);
        }
    }
}

async fn collect(body: Incoming) -> Result<Bytes, Hangup> {
    Ok(body.collect().await.map_err(|_| Hangup)?.to_bytes())
}

async fn buffered(request: Request<Incoming>) -> Result<Request<Body>, Hangup> {
    let (parts, body) = request.into_parts();
    let bytes = collect(body).await?;
    Ok(Request::from_parts(parts, Body::http_body(Full::new(bytes))))
}

async fn drain(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// Whether a request carries a checksum that is refused.
fn carries_checksum(headers: &HeaderMap, fault: &Fault) -> bool {
    let other = matches!(fault, Fault::RefuseOtherChecksums);
    headers.keys().any(|name| {
        let name = name.as_str();
        if other && (name == "x-amz-checksum-crc32c" || name == "x-amz-sdk-checksum-algorithm") {
            return false;
        }
        name.starts_with("x-amz-checksum-")
            || name == "x-amz-sdk-checksum-algorithm"
            || name == "x-amz-trailer"
    })
}

fn error_answer(status: u16, code: &str, head: bool) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>planned fault</Message><RequestId>origin-sim</RequestId></Error>"
    );
    let body = if head { Body::empty() } else { Body::from(xml) };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = http::HeaderValue::from_static("application/xml");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &str, uri: &str) -> (Op, String, String) {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let target = Target::of(&request);
        (target.op, target.bucket, target.key)
    }

    #[test]
    fn operations_are_told_by_method_path_and_query() {
        assert_eq!(target("PUT", "/b/a%20b/%C3%BC"), (Op::Put, "b".into(), "a b/ü".into()));
        assert_eq!(target("GET", "/b?list-type=2&prefix=x").0, Op::List);
        assert_eq!(target("POST", "/b?delete").0, Op::DeleteMany);
        assert_eq!(target("PUT", "/b/k?partNumber=1&uploadId=7").0, Op::Part);
        assert_eq!(target("POST", "/b/k?uploads=").0, Op::BeginUpload);
        assert_eq!(target("POST", "/b/k?uploadId=7").0, Op::Complete);
        assert_eq!(target("DELETE", "/b/k?uploadId=7").0, Op::AbortUpload);
        assert_eq!(target("GET", "/b?uploads&prefix=k").0, Op::ListUploads);
        assert_eq!(target("HEAD", "/b").0, Op::Bucket);
        assert_eq!(target("DELETE", "/b//"), (Op::Delete, "b".into(), "/".into()));
    }
}
