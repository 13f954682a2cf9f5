//! Imports of what the origins of mounts hold: how they stand, their start and their end.

use bytes::Bytes;
use http::StatusCode;

use super::core::Core;
use super::flush::parse;
use super::query::Query;
use super::reply::{self, Reply};
use crate::api::{ImportRequest, Imports};
use crate::config::parse_mount_path;

/// `GET /_/api/v1/import?path=`: the last import of each mount, or of one.
pub(super) async fn list<C: Core>(core: &C, query: &Query<'_>) -> Reply {
    let wanted = match query.text("path") {
        Ok(path) => path.map(|path| path.trim_end_matches('/')),
        Err(cause) => return reply::error(StatusCode::BAD_REQUEST, cause),
    };
    let imports = core.imports().await;
    imports.map_or_else(Reply::from, |mut imports| {
        imports.retain(|import| wanted.is_none_or(|path| import.path == path));
        reply::json(StatusCode::OK, &Imports { imports })
    })
}

/// `POST /_/api/v1/import/start`: begins one, or joins that under way. Answers at once.
pub(super) async fn start<C: Core>(core: &C, body: &Bytes) -> Reply {
    let (bucket, prefix) = match place(body) {
        Ok(place) => place,
        Err(refusal) => return *refusal,
    };
    let started = core.start_import(&bucket, &prefix).await;
    started.map_or_else(Reply::from, |import| reply::json(StatusCode::OK, &import))
}

/// `POST /_/api/v1/import/cancel`: ends the one under way.
pub(super) async fn cancel<C: Core>(core: &C, body: &Bytes) -> Reply {
    let (bucket, prefix) = match place(body) {
        Ok(place) => place,
        Err(refusal) => return *refusal,
    };
    let cancelled = core.cancel_import(&bucket, &prefix).await;
    cancelled.map_or_else(Reply::from, |import| reply::json(StatusCode::OK, &import))
}

/// Bucket and prefix of the mount that is meant.
fn place(body: &Bytes) -> Result<(String, String), Box<Reply>> {
    let request: ImportRequest = parse(body)?;
    parse_mount_path(&request.path).map_err(|cause| Box::new(reply::error(StatusCode::BAD_REQUEST, cause)))
}
