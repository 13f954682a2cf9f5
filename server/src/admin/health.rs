//! Is it alive, can it serve, who is there, who has this key.

use forebay_storage::slot::slot_of;
use http::StatusCode;
use serde_json::json;

use super::Admin;
use super::core::Core;
use super::query::Query;
use super::reply::{self, Reply};
use super::status::node;

/// `/livez`: this loop turns. Nothing else is looked at.
pub(super) fn live() -> Reply {
    reply::text(StatusCode::OK, "ok\n")
}

/// `/readyz`: this node can serve here and now. Says no as soon as a stop begins.
pub(super) fn ready<C: Core>(admin: &Admin<C>) -> Reply {
    match why_not_ready(admin) {
        None => reply::text(StatusCode::OK, "ready\n"),
        Some(cause) => reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {cause}\n")),
    }
}

/// `/_/api/v1/healthz`: the same as JSON.
pub(super) fn healthz<C: Core>(admin: &Admin<C>) -> Reply {
    let cause = why_not_ready(admin);
    let status = if cause.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let state = if cause.is_none() { "ok" } else { "not ready" };
    reply::json(status, &json!({ "status": state, "ready": cause.is_none(), "cause": cause }))
}

/// `/_/api/v1/nodes`.
pub(super) fn nodes<C: Core>(admin: &Admin<C>) -> Reply {
    let (identity, stats) = (admin.core.identity(), admin.core.stats());
    let nodes = json!({
        "cluster_id": identity.cluster_id,
        "voters": stats.voters,
        "nodes": [{ "node": node(admin, &stats), "listen": identity.listen, "version": env!("CARGO_PKG_VERSION") }],
    });
    reply::json(StatusCode::OK, &nodes)
}

/// `/_/api/v1/slots/resolve?path=/bucket/key`: the key's slot, by its raw bytes, and the node that owns it.
pub(super) fn resolve<C: Core>(core: &C, query: &Query<'_>) -> Reply {
    let place = query.bytes("path").and_then(|path| path.strip_prefix(b"/")).and_then(|path| {
        let slash = path.iter().position(|byte| *byte == b'/')?;
        let (bucket, key) = (&path[..slash], &path[slash + 1..]);
        (!bucket.is_empty() && !key.is_empty()).then_some((bucket, key))
    });
    let Some((bucket, key)) = place else {
        return reply::error(StatusCode::BAD_REQUEST, "give path=/bucket/key, percent-encoded");
    };
    let node = core.identity().node_id;
    let answer = json!({
        "bucket": String::from_utf8_lossy(bucket),
        "key_hex": hex::encode(key),
        "slot": slot_of(key),
        "owner": node,
        "nodes": [node],
    });
    reply::json(StatusCode::OK, &answer)
}

fn why_not_ready<C: Core>(admin: &Admin<C>) -> Option<String> {
    if admin.stopping.is_cancelled() {
        return Some("the node is stopping".into());
    }
    admin.core.ready().err()
}
