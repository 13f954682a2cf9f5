//! The layer in front of s3s: what a request must pass before s3s sees it, and what every answer carries.
//!
//! Owns: admission (names, the operation table, signature coverage, clock), request ids, the body's way
//! around s3s, and the state of the connection after an answer. Does not own: the signature itself
//! (`signature`, s3s), and what operations do.
//!
//! An object operation whose signature `signature` proves runs at once. Everything else goes through s3s: it
//! has the last word on what was not proven, and writes the refusal.
//!
//! The body goes around s3s: s3s gets the request's head with an empty body, verifies the signature over
//! the original headers, and hands the head on. Its own decoders for signed and chunked bodies are lazy,
//! so they are built and never polled. The operation then takes the body from [`RequestFacts::body`], where
//! it is decoded, bounded and verified whole (`body`). So the request is authentic before a byte of its body
//! is read, and nothing of s3s's chunk handling is relied upon.
//!
//! Knows no core: tests run it over a map.

use std::sync::Arc;

use http::header::{CONNECTION, EXPECT, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use s3s::Body;
use s3s::service::S3Service;
use time::OffsetDateTime;

use crate::auth::{ClaimedSignature, SigningKeys};
use crate::body::{AfterBody, RequestBody};
use crate::config::S3Config;
use crate::error::Refused;
use crate::host::bucket_of_host;
use crate::operation::Operation;
use crate::query::Query;
use crate::request::RequestFacts;
use crate::request_id::{RequestId, RequestIds};
use crate::service::ObjectOperations;
use crate::signature::SignatureVerifier;
use crate::target::Target;
use crate::xml::element;

/// Largest XML body of a bucket operation, in bytes. It is read before the signature is checked, since s3s
/// wants it whole.
const XML_BYTES_MAX: u64 = 16 * 1024;

/// The front layer over one s3s service.
pub(crate) struct Front {
    service: S3Service,
    objects: Arc<dyn ObjectOperations>,
    verifier: SignatureVerifier,
    config: Arc<S3Config>,
    ids: Arc<RequestIds>,
}

impl Front {
    /// `objects` must be the operations that `service` has as its route.
    pub(crate) fn new(
        service: S3Service,
        objects: Arc<dyn ObjectOperations>,
        keys: Arc<SigningKeys>,
        config: Arc<S3Config>,
        ids: Arc<RequestIds>,
    ) -> Front {
        let verifier = SignatureVerifier::new(&config.access_key_id, keys);
        Front { service, objects, verifier, config, ids }
    }

    /// Answers one request. Never fails: every error is an answer.
    pub(crate) async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        let id = self.ids.next();
        let (parts, incoming) = request.into_parts();
        let body = Arc::new(RequestBody::new(incoming));
        let expects_continue = parts.headers.get(EXPECT).is_some();
        let uri = parts.uri.clone();
        let resource = uri.path();
        let mut response = match self.answer(parts, &body, id).await {
            Ok(response) => response,
            Err(refused) => {
                let (_, host_id) = self.ids.host_id();
                into_http(refused.into_response(resource, &id.to_string(), host_id))
            }
        };
        self.identify(&mut response, resource, id);
        if body.drain(self.config.drain_bytes_max, expects_continue).await == AfterBody::Close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        tracing::debug!(%id, status = response.status().as_u16(), resource, "answered");
        response
    }

    async fn answer(
        &self,
        mut parts: Parts,
        body: &Arc<RequestBody>,
        id: RequestId,
    ) -> Result<Response<Body>, Refused> {
        let facts = self.admit(&parts, body, id, OffsetDateTime::now_utc())?;
        if self.may_skip_s3s(&parts, &facts) {
            return self.objects.run(&facts, &parts.headers).await.map(into_http);
        }
        let head_body = match facts.operation {
            Operation::CreateBucket => {
                Body::from(body.read_small(XML_BYTES_MAX, self.config.stall_timeout).await?)
            }
            _ => Body::empty(),
        };
        parts.extensions.insert(facts);
        let request = Request::from_parts(parts, head_body);
        self.service.call(request).await.map_err(|error| {
            tracing::error!(%id, ?error, "s3s could not write its answer");
            Refused::new("InternalError", 500, "We encountered an internal error. Please try again.")
        })
    }

    /// Whether s3s would do no more than hand the request to its route.
    fn may_skip_s3s(&self, parts: &Parts, facts: &RequestFacts) -> bool {
        let Some(claim) = &facts.claim else { return false };
        !facts.operation.is_dispatched_by_s3s() && self.verifier.proves(parts, &facts.query, claim)
    }

    /// Everything that can be refused from the head alone.
    fn admit(
        &self,
        parts: &Parts,
        body: &Arc<RequestBody>,
        id: RequestId,
        now: OffsetDateTime,
    ) -> Result<Arc<RequestFacts>, Refused> {
        // s3s would parse a form, and up to 0.16 gather its file, before it checks any signature.
        if parts.method == Method::POST && is_form(&parts.headers) {
            return Err(Refused::not_implemented("PostObject (POST with a form)"));
        }
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        let target = Target::parse(parts.uri.path(), bucket_of_host(&self.config.domains, host))?;
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let claim = ClaimedSignature::read(&parts.headers, &query)?;
        if let Some(claim) = &claim {
            claim.check_coverage(&parts.headers)?;
            claim.check_time(now, &self.config)?;
        }
        let operation = Operation::classify(&parts.method, &target, &query, &parts.headers);
        Ok(Arc::new(RequestFacts { id, operation, target, query, claim, body: Arc::clone(body) }))
    }

    /// Puts the ids into the headers, and into an error that s3s wrote.
    fn identify(&self, response: &mut Response<Body>, resource: &str, id: RequestId) {
        let (host_header, host_id) = self.ids.host_id();
        response.headers_mut().insert("x-amz-request-id", id.header());
        response.headers_mut().insert("x-amz-id-2", host_header.clone());
        if !response.status().is_client_error() && !response.status().is_server_error() {
            return;
        }
        let Some(bytes) = response.body().bytes() else { return };
        if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(%id, answer = %String::from_utf8_lossy(&bytes), "a request failed on our side");
        }
        let Some(head) = bytes.strip_suffix(b"</Error>") else { return };
        let Ok(head) = std::str::from_utf8(head) else { return };
        if head.contains("<RequestId>") {
            return;
        }
        let mut xml = head.to_owned();
        for (name, value) in [("Resource", resource), ("RequestId", &id.to_string()), ("HostId", host_id)] {
            element(&mut xml, name, value);
        }
        xml.push_str("</Error>");
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(xml);
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| {
        value.as_bytes().trim_ascii_start().to_ascii_lowercase().starts_with(b"multipart/")
    })
}

fn into_http(response: s3s::S3Response<Body>) -> Response<Body> {
    let mut http = Response::new(response.output);
    *http.status_mut() = response.status.unwrap_or_default();
    *http.headers_mut() = response.headers;
    http
}

#[cfg(test)]
#[path = "front_tests.rs"]
mod tests;
