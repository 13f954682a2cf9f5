//! `/metrics`: the counters of the node for Prometheus. Names begin with `forebay_`; units are in them.

use http::StatusCode;

use super::core::Core;
use super::exposition::{Exposition, Kind};
use super::reply::{self, METRICS_TYPE, Reply};
use crate::api::{Import, ImportState};

/// Answers with all metrics of this node.
pub(super) async fn metrics<C: Core>(core: &C) -> Reply {
    // A node that cannot say how its imports stand still has its other numbers.
    let imports = core.imports().await.unwrap_or_default();
    reply::typed(StatusCode::OK, METRICS_TYPE, render(core, &imports))
}

fn render<C: Core>(core: &C, imports: &[Import]) -> String {
    let (identity, stats) = (core.identity(), core.stats());
    let mut out = Exposition::new("forebay_");
    out.family(Kind::Gauge, "build_info", "Always 1; the labels say what runs.")
        .sample(&[("version", env!("CARGO_PKG_VERSION")), ("sync", &identity.sync)], 1);
    out.gauge(
        "process_start_time_seconds",
        "When this process started, Unix time.",
        seconds(stats.started_ms),
    );
    let ready = u8::from(core.ready().is_ok());
    out.gauge("quorum_writable", "1 if a write would be accepted by the log now.", ready);
    out.gauge("raft_is_leader", "1 if this node leads.", u8::from(stats.is_leader));
    out.gauge("raft_term", "Current term.", stats.term);
    out.gauge("raft_applied_index", "Last log entry applied.", stats.applied_index);
    out.gauge("checkpoint_index", "Last log entry in the checkpoint store.", stats.checkpoint_index);
    let checkpoint = seconds(stats.last_checkpoint_ms);
    out.gauge("last_checkpoint_timestamp_seconds", "When the last checkpoint ended, Unix time.", checkpoint);

    out.gauge("objects", "Objects kept.", stats.objects);
    out.gauge("object_bytes", "Bytes of their bodies, those that are only in an origin too.", stats.bytes);
    out.gauge(
        "stored_bytes",
        "Bytes that count against the capacity: bodies that are here, rows, and what is promised to arriving bodies.",
        stats.stored_bytes,
    );
    out.gauge("capacity_bytes", "Limit of stored_bytes; beyond it writes are refused.", stats.capacity_bytes);
    out.counter(
        "expired_objects_total",
        "Objects removed because their time had passed.",
        stats.expired_total,
    );

    out.counter("commits_total", "Mutations committed.", stats.commits_total);
    out.counter(
        "log_entries_total",
        "Log entries written; each holds a batch of mutations.",
        stats.entries_total,
    );
    let (sum, count) = (stats.fsync_seconds_sum, stats.fsyncs_total);
    out.summary("commit_fsync_seconds", "Time of the journal's fdatasync.", sum, count);

    out.gauge(
        "memtable_bytes",
        "Memory of rows that are not in the checkpoint store yet.",
        stats.memtable_bytes,
    );
    out.gauge("cache_bytes", "Memory of the read cache.", stats.cache_bytes);
    out.counter("cache_hits_total", "Reads of cold rows that the cache answered.", stats.cache_hits);
    out.counter(
        "cache_misses_total",
        "Reads of cold rows that went to the checkpoint store.",
        stats.cache_misses,
    );
    out.gauge("lmdb_used_bytes", "Used pages of the checkpoint store.", stats.lmdb_used_bytes);
    out.gauge("lmdb_map_bytes", "Size of its map.", stats.lmdb_map_bytes);
    out.gauge("journal_bytes", "Journal files, recycled ones included.", stats.journal_bytes);
    out.gauge(
        "journal_start_files",
        "Journal files kept for the next start alone: with one it needs no free byte on the disk.",
        stats.journal_start_files,
    );
    out.gauge("segment_bytes", "Segment files of values over 512 bytes.", stats.segment_bytes);

    out.gauge(
        "segment_dead_bytes",
        "Bytes of segment files that nothing needs, or that were not written yet.",
        stats.segment_dead_bytes,
    );

    for (reason, bytes) in [("capacity", stats.evicted_capacity_bytes), ("disk", stats.evicted_disk_bytes)] {
        out.counter(
            &format!("evicted_{reason}_bytes_total"),
            "Bytes given up here because their origin holds them, to stay below the capacity or the disk's reserve.",
            bytes,
        );
    }
    out.counter(
        "copied_forward_bytes_total",
        "Bytes that eviction moved to other segments.",
        stats.copied_forward_bytes,
    );
    out.counter(
        "compacted_bytes_total",
        "Of these, bytes moved because little else in their segment was needed.",
        stats.compacted_bytes,
    );
    out.counter(
        "released_objects_total",
        "Objects that were found to be in their origin, and marked as such, when room was wanted.",
        stats.released_objects_total,
    );
    out.counter("fills_total", "Blocks fetched from an origin for readers.", stats.fills_total);
    out.counter("fill_bytes_total", "Bytes of those.", stats.fill_bytes);
    out.counter("fills_kept_total", "Blobs kept here again after a fetch.", stats.fills_kept_total);
    out.counter("body_hits_total", "Bodies read with all their bytes here.", stats.body_hits);
    out.counter("body_misses_total", "Bodies read of which bytes were only in an origin.", stats.body_misses);

    out.counter("lookups_total", "Keys that an origin was asked about.", stats.lookups_total);
    out.counter(
        "lookup_errors_total",
        "Of these, ones that it could not be asked about.",
        stats.lookups_failed_total,
    );
    out.counter(
        "adopted_objects_total",
        "Objects of origins that were taken over, heads alone.",
        stats.adopted_total,
    );
    out.counter(
        "vanished_objects_total",
        "Objects that were dropped because their origin did not hold them any more.",
        stats.vanished_total,
    );
    out.gauge("scrub_running", "1 while a scrub runs.", u8::from(stats.scrub_running));
    out.counter("scrub_bytes_total", "Bytes of extents that scrubs have read.", stats.scrub_bytes);
    out.counter("scrub_findings_total", "Pieces of damage that scrubs have found.", stats.scrub_found_total);
    out.counter("scrub_mended_total", "Those of them that were put right.", stats.scrub_mended_total);
    let help = "When a scrub last came to its end, Unix time; 0 if none has since the start.";
    out.gauge("scrub_last_end_timestamp_seconds", help, seconds(stats.scrub_done_ms));

    let pending = stats.dirty_objects;
    out.gauge(
        "flush_pending_objects",
        "Changes that have not reached their origin, parked ones included.",
        pending,
    );
    out.gauge("flush_pending_bytes", "Bytes of those.", stats.dirty_bytes);
    let oldest = seconds(stats.oldest_dirty_age_ms);
    out.gauge("flush_oldest_pending_age_seconds", "Age of the oldest of those; 0 if there is none.", oldest);
    out.gauge("flush_parked_objects", "Changes set aside, waiting for a hand.", stats.parked_objects);
    out.gauge(
        "flush_charged_bytes",
        "Bytes that count against the dirty limit: pending bodies, their keys, and 256 for each change.",
        stats.dirty_charged_bytes,
    );
    out.gauge(
        "dirty_limit_bytes",
        "Limit of flush_charged_bytes; beyond it writes are refused.",
        stats.dirty_limit_bytes,
    );
    let mut admission = |name: &str, help: &str, counts: &[(&str, u64)]| {
        let mut family = out.family(Kind::Counter, name, help);
        for (reason, count) in counts {
            family.sample(&[("reason", reason)], count);
        }
    };
    let help = "Writes that had to wait for a limit, by its name.";
    admission("writes_throttled_total", help, &stats.writes_throttled);
    let help = "Writes that a limit refused, by its name.";
    admission("writes_rejected_total", help, &stats.writes_rejected);
    flush_and_origins(core, &mut out);
    import_progress(imports, &mut out);
    out.into_text()
}

fn flush_and_origins<C: Core>(core: &C, out: &mut Exposition) {
    let (uploads, mounts) = (core.uploads(), core.mounts());
    out.gauge("flush_inflight", "Requests to origins under way.", uploads.in_flight);
    out.counter("flush_flushed_objects_total", "Changes that reached their origin.", uploads.flushed_objects);
    out.counter("flush_flushed_bytes_total", "Bytes of their bodies.", uploads.flushed_bytes);
    let help = "Multipart uploads at origins that nobody wants, and that could not be given up yet.";
    out.gauge("flush_leftover_uploads", help, uploads.leftovers);
    let help = "Multipart uploads that are left at origins that no mount names any more; configure one to have them given up.";
    out.gauge("flush_unreachable_uploads", help, uploads.unreachable);
    let mut errors =
        out.family(Kind::Counter, "flush_errors_total", "Attempts that failed, by class of error.");
    for (reason, count) in &uploads.errors {
        errors.sample(&[("reason", reason)], count);
    }
    let traffic = core.origin_traffic();
    let help = "Requests to origins, of uploads, look-ups, reads, imports and scrubs alike. code: the HTTP status, or \
                the class of error if there was no answer; of an origin without HTTP: ok, or the class.";
    let mut requests = out.family(Kind::Counter, "origin_requests_total", help);
    for of in &traffic {
        for (op, code, count) in &of.requests {
            requests.sample(&[("mount", &of.mount), ("op", op), ("code", code)], count);
        }
    }
    let help =
        "Bytes of bodies sent to origins, those of requests that failed as well, and received from them.";
    let mut bytes = out.family(Kind::Counter, "origin_bytes_total", help);
    for of in &traffic {
        bytes.sample(&[("mount", &of.mount), ("direction", "sent")], of.sent_bytes);
        bytes.sample(&[("mount", &of.mount), ("direction", "received")], of.received_bytes);
    }
    let mut up = out.family(Kind::Gauge, "origin_up", "1 if the origin of a mount takes uploads.");
    for mount in &mounts {
        if let (Some(origin), Some(is_up)) = (&mount.origin, mount.up) {
            up.sample(&[("mount", &mount.path), ("origin", origin)], u8::from(is_up));
        }
    }
    let help = "When an upload last reached the origin of a mount, Unix time.";
    let mut success = out.family(Kind::Gauge, "origin_last_success_timestamp_seconds", help);
    for mount in &mounts {
        if let (Some(origin), Some(at_ms)) = (&mount.origin, mount.last_success_ms) {
            success.sample(&[("mount", &mount.path), ("origin", origin)], seconds(at_ms));
        }
    }
}

fn import_progress(imports: &[Import], out: &mut Exposition) {
    let running = |import: &Import| u64::from(import.state == ImportState::Running);
    let mut family = |name: &str, help: &str, number: &dyn Fn(&Import) -> u64| {
        let mut family = out.family(Kind::Gauge, name, help);
        for import in imports {
            family.sample(&[("mount", &import.path)], number(import));
        }
    };
    family("import_running", "1 while an import of the mount goes on.", &running);
    family("import_listed_objects", "Objects that its last import has been told of.", &|import| {
        import.listed_objects
    });
    family("import_adopted_objects", "Of these, those that it took over.", &|import| import.adopted_objects);
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}
