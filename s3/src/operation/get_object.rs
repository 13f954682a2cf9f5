//! GetObject, and what HeadObject shares with it: conditions, ranges, and the headers of an object.
//!
//! Headers of ours, beside those of S3:
//! - `x-forebay-version`: the object's version, 16 hex digits, growing with every write;
//! - `x-forebay-expires-at`: when it will be removed, RFC 3339 with milliseconds; absent without expiry;
//! - `x-forebay-origin`: `local`, `pending age=12s`, `flushed`, or `parked reason=…`.

use std::ops::Range;

use bytes::Bytes;
use forebay_storage::error::Error;
use forebay_storage::object::{BucketId, ETag as ObjectETag, ObjectRow};
use forebay_storage::read::ReadView;
use forebay_storage::store::{OriginState, Store};
use futures_util::stream;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use s3s::{Body, S3Response};

use crate::condition::{Verdict, judge_read, range_counts};
use crate::error::Refused;
use crate::range::{Selected, select};
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::{metadata, timestamp};

/// Larger bodies are read and sent in pieces of this size.
const PIECE_BYTES: u64 = 256 * 1024;

pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    let found = find(operations, facts, headers, bucket, key).await?;
    if found.status == StatusCode::NOT_MODIFIED {
        return Ok(found.response(Body::empty()));
    }
    let body = found.body(&operations.store, bucket, key).await?;
    Ok(found.response(body))
}

/// An object that passed the conditions, with its answer but for the body.
pub(crate) struct Found {
    row: ObjectRow,
    view: Option<ReadView>,
    status: StatusCode,
    headers: HeaderMap,
    range: Range<u64>,
}

/// Looks the object up, judges conditions and range, and writes the headers.
pub(crate) async fn find(
    operations: &Operations,
    facts: &RequestFacts,
    request: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<Found, Refused> {
    let (row, view) = operations.object(bucket, key).await?;
    let etag = row.etag(operations.store.cluster_id()).to_string();
    let modified = timestamp::from_ms(row.modified_ms());
    let len = row.body_len();

    let mut headers = HeaderMap::with_capacity(16);
    insert(&mut headers, ETAG, format!("\"{etag}\""));
    insert(&mut headers, LAST_MODIFIED, timestamp::http_date(modified));
    let status = match judge_read(request, &etag, modified.unix_timestamp()) {
        Verdict::Failed(condition) => return Err(Refused::precondition_failed(condition)),
        Verdict::NotModified => {
            return Ok(Found { row, view, status: StatusCode::NOT_MODIFIED, headers, range: 0..0 });
        }
        Verdict::Proceed => StatusCode::OK,
    };

    let range_header = request
        .get(http::header::RANGE)
        .filter(|_| range_counts(request, &etag, modified.unix_timestamp()))
        .map(|value| value.to_str().unwrap_or(""));
    let several = request.get_all(http::header::RANGE).iter().count() > 1;
    let (status, range) = match select(range_header.filter(|_| !several), len) {
        Selected::Whole => (status, 0..len),
        Selected::Part(range) => {
            let last = range.end.saturating_sub(1);
            insert(&mut headers, CONTENT_RANGE, format!("bytes {}-{last}/{len}", range.start));
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Selected::Unsatisfiable => return Err(unsatisfiable(range_header.unwrap_or(""), len)),
    };
    headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let meta = row.meta();
    metadata::to_headers(&meta, &facts.query, &mut headers)?;
    // Of the whole body only: a client would compare it with the part it got.
    if status == StatusCode::OK && wants_checksum(request) {
        metadata::checksum_to_headers(&meta, &mut headers);
    }
    insert(&mut headers, "x-forebay-version", row.version().to_string());
    if let Some(at) = row.expires_at_ms() {
        insert(&mut headers, "x-forebay-expires-at", timestamp::rfc3339_millis(timestamp::from_ms(at)));
    }
    let origin = operations.store.origin_state(bucket, key).await?;
    headers.insert("x-forebay-origin", origin_header(&origin));
    Ok(Found { row, view, status, headers, range })
}

impl Found {
    pub(crate) fn response(self, body: Body) -> S3Response<Body> {
        let mut response = S3Response::with_status(body, self.status);
        response.headers = self.headers;
        response
    }

    /// The selected bytes.
    async fn body(&self, store: &Store, bucket: BucketId, key: &[u8]) -> Result<Body, Refused> {
        let range = self.range.clone();
        if let Some(body) = self.row.inline_body() {
            let bounds = range.start as usize..range.end as usize;
            let part = body.get(bounds).ok_or_else(|| {
                Refused::new("InternalError", 500, "We encountered an internal error. Please try again.")
            })?;
            return Ok(Body::from(Bytes::copy_from_slice(part)));
        }
        if let Some(view) = &self.view
            && range.end - range.start <= PIECE_BYTES
        {
            return Ok(Body::from(view.read_body(&self.row, range).await?));
        }
        let etag = self.row.etag(store.cluster_id());
        Ok(stream_body(Sending { store: store.clone(), bucket, key: key.to_vec(), etag, range }))
    }
}

/// A body in pieces, each through a view of its own: a view held while a slow client reads would hold up
/// the checkpoint. A piece that cannot be read, or an object that has changed meanwhile, breaks the
/// connection: the client sees a short body, never a wrong one.
fn stream_body(sending: Sending) -> Body {
    let pieces = stream::try_unfold(sending, |mut sending| async move {
        if sending.range.is_empty() {
            return Ok(None);
        }
        let piece = sending.next_piece().await.inspect_err(|error| {
            tracing::warn!(%error, "a body broke off while it was sent");
        })?;
        Ok::<_, Error>(Some((Frame::data(piece), sending)))
    });
    Body::http_body_unsync(StreamBody::new(Box::pin(pieces)))
}

/// A long body on its way.
struct Sending {
    store: Store,
    bucket: BucketId,
    key: Vec<u8>,
    /// The state of the object that was promised in the headers.
    etag: ObjectETag,
    /// What is still to be sent.
    range: Range<u64>,
}

impl Sending {
    async fn next_piece(&mut self) -> Result<Bytes, Error> {
        let view = self.store.view()?;
        let row = view.fetch(self.bucket, &self.key).await?;
        let same = row.filter(|row| row.etag(self.store.cluster_id()) == self.etag);
        let row = same.ok_or(Error::Unavailable("the object changed while it was sent"))?;
        let end = self.range.end.min(self.range.start + PIECE_BYTES);
        let piece = view.read_body(&row, self.range.start..end).await?;
        self.range.start = end;
        Ok(piece)
    }
}

fn wants_checksum(request: &HeaderMap) -> bool {
    request.get("x-amz-checksum-mode").is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"enabled"))
}

fn unsatisfiable(range: &str, len: u64) -> Refused {
    let refused = Refused::new("InvalidRange", 416, "The requested range is not satisfiable")
        .with("RangeRequested", range)
        .with("ActualObjectSize", len.to_string());
    match HeaderValue::try_from(format!("bytes */{len}")) {
        Ok(value) => refused.with_header(CONTENT_RANGE, value),
        Err(_) => refused,
    }
}

fn origin_header(state: &OriginState) -> HeaderValue {
    let text = match state {
        OriginState::Local => return HeaderValue::from_static("local"),
        OriginState::Flushed => return HeaderValue::from_static("flushed"),
        OriginState::Pending { age_ms } => format!("pending age={}s", age_ms / 1000),
        OriginState::Parked { reason } => {
            let reason = reason.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' });
            format!("parked reason={}", reason.collect::<String>().trim())
        }
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Inserts a value made of digits, dates and hex, which every header takes.
fn insert(headers: &mut HeaderMap, name: impl http::header::IntoHeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_states_as_headers() {
        for (state, text) in [
            (OriginState::Local, "local"),
            (OriginState::Pending { age_ms: 12_345 }, "pending age=12s"),
            (OriginState::Flushed, "flushed"),
            (
                OriginState::Parked { reason: "auth: denied\r\nX: y".to_owned() },
                "parked reason=auth: denied  X: y",
            ),
        ] {
            assert_eq!(origin_header(&state).to_str().ok(), Some(text));
        }
    }
}
