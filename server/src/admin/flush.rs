//! The verbs on the flush queue: ls, wait, retry, abandon.

use std::time::Duration;

use bytes::Bytes;
use forebay_storage::object_name::decode_key;
use http::StatusCode;
use serde::de::DeserializeOwned;

use super::core::{Core, RowState, Which};
use super::query::Query;
use super::reply::{self, Reply};
use crate::api::{AbandonRequest, Changed, RetryRequest, WaitAnswer};

/// Rows of a page if the request does not say, and at most.
const PAGE_ROWS: u64 = 100;
const PAGE_ROWS_MAX: u64 = 1_000;
/// Longest wait of one request; a client that wants more asks again.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3_600);
const WAIT_DEFAULT: Duration = Duration::from_secs(60);
/// Longest reason that is kept, in bytes.
pub(super) const REASON_BYTES_MAX: usize = 1_024;

/// `GET /_/api/v1/flush?state=pending|parked&limit=&after=`: one page of the queue.
pub(super) async fn list<C: Core>(core: &C, query: &Query<'_>) -> Reply {
    let page = match page_wanted(query) {
        Ok((state, limit, after)) => core.flush_list(state, after, limit).await,
        Err(cause) => return reply::error(StatusCode::BAD_REQUEST, cause),
    };
    page.map_or_else(Reply::from, |page| reply::json(StatusCode::OK, &page))
}

/// `POST /_/api/v1/flush/wait?timeout_ms=`: answers when everything committed before is in its origin, or
/// something is parked and nothing else is left, or the time is over.
pub(super) async fn wait<C: Core>(core: &C, query: &Query<'_>) -> Reply {
    let timeout = match query.number("timeout_ms") {
        Ok(timeout) => timeout.map_or(WAIT_DEFAULT, Duration::from_millis).min(WAIT_MAX),
        Err(cause) => return reply::error(StatusCode::BAD_REQUEST, cause),
    };
    let result = core.flush_wait(timeout).await;
    result.map_or_else(Reply::from, |(pending, parked)| {
        reply::json(StatusCode::OK, &WaitAnswer::new(pending, parked))
    })
}

/// `POST /_/api/v1/flush/retry`: takes parked rows up again.
pub(super) async fn retry<C: Core>(core: &C, body: &Bytes) -> Reply {
    let request: RetryRequest = match parse(body) {
        Ok(request) => request,
        Err(refusal) => return *refusal,
    };
    let rows = match (request.all, &request.bucket, &request.key) {
        (true, None, None) => core.flush_retry(Which::All).await,
        (false, Some(bucket), Some(key)) => match decode_key(key) {
            Some(key) => core.flush_retry(Which::Key { bucket, key: &key }).await,
            None => return no_such_name(key),
        },
        _ => {
            return reply::error(
                StatusCode::BAD_REQUEST,
                "give either \"all\": true, or \"bucket\" and \"key\"",
            );
        }
    };
    rows.map_or_else(Reply::from, |rows| reply::json(StatusCode::OK, &Changed { rows }))
}

/// `POST /_/api/v1/flush/abandon`: gives the parked rows of one key up; the origin keeps what it has.
pub(super) async fn abandon<C: Core>(core: &C, body: &Bytes) -> Reply {
    let request: AbandonRequest = match parse(body) {
        Ok(request) => request,
        Err(refusal) => return *refusal,
    };
    let reason = request.reason.trim();
    if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
        let cause = format!("\"reason\" must be 1 to {REASON_BYTES_MAX} bytes: it is the record of why");
        return reply::error(StatusCode::BAD_REQUEST, cause);
    }
    let Some(key) = decode_key(&request.key) else { return no_such_name(&request.key) };
    let rows = core.flush_abandon(&request.bucket, &key, reason).await;
    rows.map_or_else(Reply::from, |rows| reply::json(StatusCode::OK, &Changed { rows }))
}

fn page_wanted<'q>(query: &'q Query<'_>) -> Result<(RowState, usize, Option<&'q str>), String> {
    let state = match query.text("state")? {
        None => RowState::Any,
        Some("pending") => RowState::Pending,
        Some("parked") => RowState::Parked,
        Some(other) => return Err(format!("\"{other}\" is not a state; give pending or parked")),
    };
    let limit = query.number("limit")?.unwrap_or(PAGE_ROWS);
    if !(1..=PAGE_ROWS_MAX).contains(&limit) {
        return Err(format!("limit is {limit}; give 1 to {PAGE_ROWS_MAX}"));
    }
    Ok((state, limit as usize, query.text("after")?))
}

pub(super) fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Box<Reply>> {
    serde_json::from_slice(body).map_err(|error| {
        Box::new(reply::error(StatusCode::BAD_REQUEST, format!("the body is not what this takes: {error}")))
    })
}

fn no_such_name(key: &str) -> Reply {
    reply::error(
        StatusCode::BAD_REQUEST,
        format!("\"{key}\" is the name of no key; write it as flush ls shows it"),
    )
}
