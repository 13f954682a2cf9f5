//! GetObject, and what HeadObject shares with it: conditions, ranges, and the headers of an object.
//!
//! Headers of ours, beside those of S3:
//! - `x-forebay-version`: the object's version, 16 hex digits, growing with every write;
//! - `x-forebay-expires-at`: when it will be removed, RFC 3339 with milliseconds; absent without expiry;
//! - `x-forebay-origin`: `local`, `pending age=12s`, `flushed`, or `parked reason=…`.

use std::ops::Range;

use bytes::Bytes;
use forebay_storage::object::{BucketId, ObjectRow};
use forebay_storage::read::ReadView;
use forebay_storage::store::OriginState;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, StatusCode};
use s3s::{Body, S3Response};

use crate::body_stream::{PIECE_BYTES, stream_body};
use crate::condition::{Verdict, judge_read, range_counts};
use crate::error::Refused;
use crate::range::{Selected, select};
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::{metadata, timestamp};

pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    let mut found = find(operations, facts, headers, bucket, key).await?;
    if found.status == StatusCode::NOT_MODIFIED {
        return Ok(found.response(Body::empty()));
    }
    let body = found.body(operations).await?;
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
    match judge_read(request, &etag, modified.unix_timestamp()) {
        Verdict::Failed(condition) => return Err(Refused::precondition_failed(condition)),
        Verdict::NotModified => {
            return Ok(Found { row, view, status: StatusCode::NOT_MODIFIED, headers, range: 0..0 });
        }
        Verdict::Proceed => {}
    }

    let (status, range) = match part_number(facts, request)? {
        Some(number) => select_part(&row, number, &mut headers)?,
        None => select_range(request, &etag, modified.unix_timestamp(), len)?,
    };
    if status == StatusCode::PARTIAL_CONTENT {
        let last = range.end.saturating_sub(1);
        insert(&mut headers, CONTENT_RANGE, format!("bytes {}-{last}/{len}", range.start));
    }
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
    async fn body(&mut self, operations: &Operations) -> Result<Body, Refused> {
        let range = self.range.clone();
        if let Some(body) = self.row.inline_body() {
            let bounds = range.start as usize..range.end as usize;
            let part = body.get(bounds).ok_or_else(|| {
                Refused::new("InternalError", 500, "We encountered an internal error. Please try again.")
            })?;
            return Ok(Body::from(Bytes::copy_from_slice(part)));
        }
        let Some(view) = self.view.take() else { return Err(Refused::unexpected(None)) };
        let reader = view.open_body(&self.row).await?;
        // What is read is pinned: a checkpoint need not wait for an origin.
        drop(view);
        if range.end - range.start <= PIECE_BYTES {
            return Ok(Body::from(reader.read(range).await?));
        }
        reader.reach(range.clone()).await?;
        Ok(stream_body(reader, range, operations.pieces.clone()))
    }
}

/// Reads `Range`, if it counts.
fn select_range(
    request: &HeaderMap,
    etag: &str,
    modified: i64,
    len: u64,
) -> Result<(StatusCode, Range<u64>), Refused> {
    let range_header = request
        .get(http::header::RANGE)
        .filter(|_| range_counts(request, etag, modified))
        .map(|value| value.to_str().unwrap_or(""));
    let several = request.get_all(http::header::RANGE).iter().count() > 1;
    match select(range_header.filter(|_| !several), len) {
        Selected::Whole => Ok((StatusCode::OK, 0..len)),
        Selected::Part(range) => Ok((StatusCode::PARTIAL_CONTENT, range)),
        Selected::Unsatisfiable => Err(unsatisfiable(range_header.unwrap_or(""), len)),
    }
}

/// Reads `partNumber`.
fn part_number(facts: &RequestFacts, request: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(text) = facts.query.get("partNumber") else { return Ok(None) };
    if request.contains_key(http::header::RANGE) {
        let text = "Cannot specify both Range header and partNumber query parameter";
        return Err(Refused::new("InvalidRequest", 400, text));
    }
    match text.parse() {
        Ok(number @ 1..=10_000) => Ok(Some(number)),
        _ => Err(Refused::new("InvalidArgument", 400, PART_NUMBER_RANGE).with("ArgumentName", "partNumber")),
    }
}

const PART_NUMBER_RANGE: &str = "Part number must be an integer between 1 and 10000, inclusive";

/// The bytes of a part. An object that was not put together of parts is its own first one.
fn select_part(
    row: &ObjectRow,
    number: u64,
    headers: &mut HeaderMap,
) -> Result<(StatusCode, Range<u64>), Refused> {
    let len = row.body_len();
    let runs = row.part_runs();
    if runs.is_empty() {
        return match (number, len) {
            (1, 0) => Ok((StatusCode::OK, 0..0)),
            (1, _) => Ok((StatusCode::PARTIAL_CONTENT, 0..len)),
            _ => Err(no_such_part(number, 1)),
        };
    }
    let count = runs.iter().map(|run| u64::from(run.count)).sum();
    let (mut at, mut before) = (0, 0);
    for run in &runs {
        let within = number - 1 - before;
        if within < u64::from(run.count) {
            headers.insert("x-amz-mp-parts-count", HeaderValue::from(count));
            let start = at + within * run.part_len;
            let end = (start + run.part_len).min(len);
            let status = if start < end { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
            return Ok((status, start..end));
        }
        at += run.part_len * u64::from(run.count);
        before += u64::from(run.count);
    }
    Err(no_such_part(number, count))
}

fn no_such_part(number: u64, count: u64) -> Refused {
    Refused::new("InvalidPartNumber", 416, "The requested partnumber is not satisfiable")
        .with("PartNumberRequested", number.to_string())
        .with("ActualPartCount", count.to_string())
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
