//! `/_/api/v1/status`: one screen about this node, the exposure first.

use std::fmt::Write;
use std::time::Duration;

use forebay_storage::store::Stats;
use http::StatusCode;

use super::Admin;
use super::core::Core;
use super::reply::{self, Reply};
use crate::api::{Disk, FlushStatus, Node, Status};
use crate::config::units::{ByteSize, human_duration};

/// Answers with [`Status`].
pub(super) fn status<C: Core>(admin: &Admin<C>) -> Reply {
    let (identity, stats) = (admin.core.identity(), admin.core.stats());
    let (mounts, uploads) = (admin.core.mounts(), admin.core.uploads());
    let mounted = mounts.iter().any(|mount| mount.origin.is_some());
    let status = Status {
        exposure: exposure(&stats, mounted, uploads.clear_in, &identity.sync),
        version: env!("CARGO_PKG_VERSION").into(),
        cluster_id: identity.cluster_id.clone(),
        node: node(admin, &stats),
        sync: identity.sync.clone(),
        copies: stats.voters.max(1),
        listen: identity.listen.clone(),
        objects: stats.objects,
        bytes: stats.bytes,
        stored_bytes: stats.stored_bytes,
        capacity_bytes: stats.capacity_bytes,
        flush: FlushStatus {
            pending_objects: stats.dirty_objects,
            pending_bytes: stats.dirty_bytes,
            charged_bytes: stats.dirty_charged_bytes,
            dirty_limit_bytes: stats.dirty_limit_bytes,
            oldest_age_ms: stats.oldest_dirty_age_ms,
            parked_objects: stats.parked_objects,
            in_flight: uploads.in_flight,
            clear_in_ms: uploads.clear_in.map(|clear_in| clear_in.as_millis() as u64),
        },
        mounts,
        disk: Disk {
            journal_bytes: stats.journal_bytes,
            lmdb_used_bytes: stats.lmdb_used_bytes,
            segment_bytes: stats.segment_bytes,
        },
    };
    reply::json(StatusCode::OK, &status)
}

/// This node as it stands.
pub(super) fn node<C: Core>(admin: &Admin<C>, stats: &Stats) -> Node {
    Node {
        id: admin.core.identity().node_id,
        run_id: stats.node_run_id.clone(),
        role: if stats.is_leader { "leader" } else { "follower" }.into(),
        ready: !admin.stopping.is_cancelled() && admin.core.ready().is_ok(),
        uptime_ms: admin.core.now_ms().saturating_sub(stats.started_ms),
        term: stats.term,
        applied_index: stats.applied_index,
    }
}

/// The one sentence to put first: what exists only on this site, and what would lose it.
pub(super) fn exposure(stats: &Stats, mounted: bool, clear_in: Option<Duration>, sync: &str) -> String {
    let copies = stats.voters.max(1);
    let count =
        |objects: u64| if objects == 1 { "1 object".to_owned() } else { format!("{objects} objects") };
    let mut line = String::from("Exposure: ");
    // Writing to a String does not fail.
    let _ = match (mounted, stats.dirty_objects) {
        (false, _) => write!(
            line,
            "{} / {} exist only on this site (no bucket is mounted)",
            count(stats.objects),
            ByteSize(stats.bytes)
        ),
        (true, 0) => {
            write!(line, "nothing waits for its upload; buckets without a mount exist only on this site")
        }
        (true, waiting) => {
            let age = human_duration(Duration::from_millis(stats.oldest_dirty_age_ms));
            write!(
                line,
                "{} / {} wait for their upload and exist only on this site; oldest {age}",
                count(waiting),
                ByteSize(stats.dirty_bytes)
            )
        }
    };
    if mounted
        && stats.dirty_objects > 0
        && let Some(clear_in) = clear_in
    {
        let _ = write!(line, "; at the present rate clear in {}", human_duration(clear_in));
    }
    if stats.parked_objects > 0 {
        let _ = write!(line, "; {} parked, see forebay flush ls --state parked", stats.parked_objects);
    }
    let _ = match copies {
        1 => write!(line, "; 1 copy: would be lost with this node's disk"),
        copies => write!(line, "; would be lost only if {} of {copies} nodes die", copies / 2 + 1),
    };
    if sync == "everysec" {
        line.push_str("; sync everysec: a power loss may cost the last second");
    }
    line.push('.');
    line
}
