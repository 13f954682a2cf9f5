//! INFO: the node's state in Redis's sections and names, and one section of ours.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use forebay_storage::store::{Stats, SyncMode};

use super::args::Args;
use super::connection::REDIS_VERSION;
use super::plan::{Plan, Planner};
use super::server::last_save_seconds;
use crate::error::CommandError;

type Result<T> = std::result::Result<T, CommandError>;
type Section = (&'static str, fn(&mut Page<'_, '_>));

/// Sections by the name a client asks by, in the order they are shown.
const SECTIONS: &[Section] = &[
    ("server", server),
    ("clients", clients),
    ("memory", memory),
    ("persistence", persistence),
    ("stats", stats),
    ("replication", replication),
    ("cpu", cpu),
    ("cluster", cluster),
    ("keyspace", keyspace),
    ("forebay", forebay),
];

/// `INFO [section ...]`
pub(super) fn info(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let all = args.len() == 1
        || (1..args.len()).any(|arg| ["all", "default", "everything"].iter().any(|name| args.is(arg, name)));
    let stats = planner.server.store.stats();
    let mut page = Page { planner, stats, text: String::with_capacity(4096) };
    for (name, write) in SECTIONS {
        if all || (1..args.len()).any(|arg| args.is(arg, name)) {
            if !page.text.is_empty() {
                page.text.push_str("\r\n");
            }
            write(&mut page);
        }
    }
    let text = page.text;
    planner.reply.verbatim(text.as_bytes());
    Ok(Plan::Answered)
}

struct Page<'p, 'a> {
    planner: &'p Planner<'a>,
    stats: Stats,
    text: String,
}

impl Page<'_, '_> {
    fn head(&mut self, name: &str) {
        self.text.push_str("# ");
        self.text.push_str(name);
        self.text.push_str("\r\n");
    }

    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{name}:{value}\r\n");
    }

    fn lines(&mut self, lines: &[(&str, &str)]) {
        for (name, value) in lines {
            self.line(name, value);
        }
    }

    fn counter(&mut self, name: &str, counter: &std::sync::atomic::AtomicU64) {
        self.line(name, counter.load(Ordering::Relaxed));
    }
}

fn server(page: &mut Page<'_, '_>) {
    let shared = page.planner.server;
    let uptime = shared.started.elapsed().as_secs();
    page.head("Server");
    page.line("redis_version", REDIS_VERSION);
    page.lines(&[("redis_git_sha1", "00000000"), ("redis_git_dirty", "0"), ("redis_mode", "standalone")]);
    page.line("forebay_version", env!("CARGO_PKG_VERSION"));
    page.line("os", std::env::consts::OS);
    page.line("arch_bits", usize::BITS);
    page.line("process_id", std::process::id());
    page.line("run_id", page.stats.node_run_id.clone());
    page.line("tcp_port", shared.address.port());
    page.line("server_time_usec", shared.store.now_ms().saturating_mul(1000));
    page.line("uptime_in_seconds", uptime);
    page.line("uptime_in_days", uptime / 86_400);
}

fn clients(page: &mut Page<'_, '_>) {
    let shared = page.planner.server;
    page.head("Clients");
    page.line("connected_clients", shared.clients.len());
    page.lines(&[("cluster_connections", "0")]);
    page.counter("maxclients", &shared.settings.max_clients);
    page.lines(&[("blocked_clients", "0"), ("tracking_clients", "0"), ("clients_in_timeout_table", "0")]);
}

fn memory(page: &mut Page<'_, '_>) {
    let resident = resident_bytes();
    page.head("Memory");
    page.line("used_memory", resident);
    page.line("used_memory_human", human_bytes(resident));
    page.line("used_memory_rss", resident);
    page.line("used_memory_rss_human", human_bytes(resident));
    page.lines(&[("maxmemory", "0"), ("maxmemory_human", "0B"), ("maxmemory_policy", "noeviction")]);
    page.line("memtable_bytes", page.stats.memtable_bytes);
    page.line("read_cache_bytes", page.stats.cache_bytes);
}

fn persistence(page: &mut Page<'_, '_>) {
    page.head("Persistence");
    page.lines(&[("loading", "0"), ("async_loading", "0")]);
    let unsaved = page.stats.applied_index.saturating_sub(page.stats.checkpoint_index);
    page.line("rdb_changes_since_last_save", unsaved);
    page.lines(&[("rdb_bgsave_in_progress", "0")]);
    page.line("rdb_last_save_time", last_save_seconds(page.planner));
    page.lines(&[("rdb_last_bgsave_status", "ok")]);
    page.lines(&[("aof_enabled", "1"), ("aof_rewrite_in_progress", "0"), ("aof_rewrite_scheduled", "0")]);
    page.lines(&[("aof_last_bgrewrite_status", "ok"), ("aof_last_write_status", "ok")]);
    page.line("aof_current_size", page.stats.journal_bytes);
}

fn stats(page: &mut Page<'_, '_>) {
    let counters = &page.planner.server.counters;
    page.head("Stats");
    page.counter("total_connections_received", &counters.connections);
    page.counter("total_commands_processed", &counters.commands);
    page.counter("total_net_input_bytes", &counters.bytes_in);
    page.counter("total_net_output_bytes", &counters.bytes_out);
    page.counter("rejected_connections", &counters.connections_rejected);
    page.line("expired_keys", page.stats.expired_total);
    page.lines(&[("evicted_keys", "0")]);
    page.counter("keyspace_hits", &counters.keyspace_hits);
    page.counter("keyspace_misses", &counters.keyspace_misses);
    page.lines(&[("pubsub_channels", "0"), ("pubsub_patterns", "0")]);
    page.counter("total_error_replies", &counters.errors);
    page.counter("total_reads_processed", &counters.reads);
    page.counter("total_writes_processed", &counters.writes);
}

fn replication(page: &mut Page<'_, '_>) {
    page.head("Replication");
    page.lines(&[("role", "master"), ("connected_slaves", "0"), ("master_failover_state", "no-failover")]);
    page.line("master_replid", page.stats.node_run_id.clone());
    page.line("master_repl_offset", page.stats.applied_index);
}

fn cpu(page: &mut Page<'_, '_>) {
    let (user, system) = cpu_seconds();
    page.head("CPU");
    page.line("used_cpu_sys", format_args!("{system:.6}"));
    page.line("used_cpu_user", format_args!("{user:.6}"));
}

fn cluster(page: &mut Page<'_, '_>) {
    page.head("Cluster");
    page.lines(&[("cluster_enabled", "0")]);
}

fn keyspace(page: &mut Page<'_, '_>) {
    let shared = page.planner.server;
    page.head("Keyspace");
    for (number, bucket) in shared.keyspace.existing(&shared.store) {
        if bucket.objects > 0 {
            let _ = write!(page.text, "db{number}:keys={},expires=0,avg_ttl=0\r\n", bucket.objects);
        }
    }
}

fn forebay(page: &mut Page<'_, '_>) {
    page.head("Forebay");
    let sync = match page.planner.server.store.sync_mode() {
        SyncMode::Always => "always",
        SyncMode::EverySec => "everysec (a power loss may cost the last second)",
    };
    page.line("sync", sync);
    page.line("exposure", exposure(&page.stats));
    let stats = page.stats.clone();
    page.line("copies", stats.voters);
    page.line("is_leader", u8::from(stats.is_leader));
    for (name, value) in [
        ("term", stats.term),
        ("objects", stats.objects),
        ("object_bytes", stats.bytes),
        ("dirty_objects", stats.dirty_objects),
        ("dirty_bytes", stats.dirty_bytes),
        ("oldest_dirty_age_ms", stats.oldest_dirty_age_ms),
        ("parked_objects", stats.parked_objects),
        ("capacity_bytes", stats.capacity_bytes),
        ("dirty_limit_bytes", stats.dirty_limit_bytes),
        ("journal_bytes", stats.journal_bytes),
        ("segment_bytes", stats.segment_bytes),
        ("lmdb_used_bytes", stats.lmdb_used_bytes),
        ("lmdb_map_bytes", stats.lmdb_map_bytes),
        ("applied_index", stats.applied_index),
        ("checkpoint_index", stats.checkpoint_index),
        ("commits_total", stats.commits_total),
        ("entries_total", stats.entries_total),
        ("fsyncs_total", stats.fsyncs_total),
        ("read_cache_hits", stats.cache_hits),
        ("read_cache_misses", stats.cache_misses),
    ] {
        page.line(name, value);
    }
}

/// What would be lost with the site, in one line.
fn exposure(stats: &Stats) -> String {
    let mut line = match stats.dirty_objects {
        0 => "nothing waits for the origin".to_owned(),
        objects => format!(
            "{objects} objects / {} exist only on this site; oldest {} s",
            human_bytes(stats.dirty_bytes),
            stats.oldest_dirty_age_ms / 1000
        ),
    };
    if stats.parked_objects > 0 {
        let _ = write!(line, "; {} parked", stats.parked_objects);
    }
    if stats.voters <= 1 {
        line.push_str("; 1 copy");
    }
    line
}

/// As Redis writes sizes: `1.50M`.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.2}{unit}")
}

/// Resident memory of this process; 0 where /proc does not tell.
fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}

/// User and system time of this process in seconds; 0 where /proc does not tell.
fn cpu_seconds() -> (f64, f64) {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; fields are counted behind it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let seconds = |index: usize| {
        let ticks = fields.split_ascii_whitespace().nth(index).and_then(|field| field.parse::<f64>().ok());
        ticks.unwrap_or(0.0) / TICKS_PER_SECOND
    };
    (seconds(11), seconds(12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_redis_writes_them() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (1_572_864, "1.50M"), (1 << 31, "2.00G")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn exposure_names_what_is_only_here() {
        let stats = Stats {
            dirty_objects: 412,
            dirty_bytes: 1 << 30,
            oldest_dirty_age_ms: 3_200,
            parked_objects: 1,
            voters: 1,
            ..Stats::default()
        };
        assert_eq!(
            exposure(&stats),
            "412 objects / 1.00G exist only on this site; oldest 3 s; 1 parked; 1 copy"
        );
    }
}
