//! Recorded mounts: the list, and forgetting one.

use bytes::Bytes;
use http::StatusCode;

use super::core::Core;
use super::flush::{REASON_BYTES_MAX, parse};
use super::reply::{self, Reply};
use crate::api::{ForgetRequest, Forgotten, Mounts};
use crate::config::parse_mount_path;

/// `GET /_/api/v1/mounts`: what is recorded, configured or not.
pub(super) fn list<C: Core>(core: &C) -> Reply {
    reply::json(StatusCode::OK, &Mounts { mounts: core.recorded_mounts() })
}

/// `POST /_/api/v1/mounts/forget`: lets a mount go; 409 while changes wait for it, unless they may be given up.
pub(super) async fn forget<C: Core>(core: &C, body: &Bytes) -> Reply {
    let request: ForgetRequest = match parse(body) {
        Ok(request) => request,
        Err(refusal) => return *refusal,
    };
    let reason = request.reason.as_deref().map(str::trim).unwrap_or_default();
    if request.abandon != !reason.is_empty() || reason.len() > REASON_BYTES_MAX {
        let cause = format!(
            "give \"abandon\": true and \"reason\" (1 to {REASON_BYTES_MAX} bytes: it is the record of why) \
             together, or neither"
        );
        return reply::error(StatusCode::BAD_REQUEST, cause);
    }
    let (bucket, prefix) = match parse_mount_path(&request.path) {
        Ok(place) => place,
        Err(cause) => return reply::error(StatusCode::BAD_REQUEST, cause),
    };
    let abandon = request.abandon.then_some(reason);
    let abandoned = core.forget_mount(&bucket, &prefix, abandon).await;
    abandoned.map_or_else(Reply::from, |abandoned| reply::json(StatusCode::OK, &Forgotten { abandoned }))
}
