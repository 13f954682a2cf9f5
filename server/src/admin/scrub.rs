//! The scrub: begin one, ask how it stands, end it.

use bytes::Bytes;
use http::StatusCode;

use super::core::Core;
use super::flush::parse;
use super::reply::{self, Reply};
use crate::api::ScrubRequest;

/// `GET /_/api/v1/scrub`: how it stands.
pub(super) fn show<C: Core>(core: &C) -> Reply {
    reply::json(StatusCode::OK, &core.scrub())
}

/// `POST /_/api/v1/scrub/start`: begins one; 409 while one runs.
pub(super) fn start<C: Core>(core: &C, body: &Bytes) -> Reply {
    let request: ScrubRequest = match parse(body) {
        Ok(request) => request,
        Err(refusal) => return *refusal,
    };
    core.start_scrub(&request).map_or_else(Reply::from, |scrub| reply::json(StatusCode::ACCEPTED, &scrub))
}

/// `POST /_/api/v1/scrub/cancel`: ends the one that runs, soon; no error if none does.
pub(super) fn cancel<C: Core>(core: &C) -> Reply {
    reply::json(StatusCode::OK, &core.cancel_scrub())
}
