//! The rules that bind several options, or an option to the world around it.
//!
//! Every message names the cause and what to do.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use forebay_storage::scrub::BYTES_PER_SECOND_MIN as SCRUB_BYTES_PER_SECOND_MIN;

use super::section::{Place, Problems};
use super::units::ByteSize;
use super::{Config, FlushConfig, JournalConfig, MemtableConfig, RespConfig};

/// Notes everything that is wrong with a config whose options are right one by one.
pub(super) fn validate(config: &Config, problems: &Problems) {
    let wrong = |message: String| problems.add(Place::Whole, message);
    listen_rules(config, &wrong);
    size_rules(config, &wrong);
    resp_rules(&config.resp, &wrong);
    journal_rules(config.journal, &wrong);
    memtable_rules(config.memtable, &wrong);
    flush_rules(config.flush, &wrong);
    if config.scrub.bytes_per_second.0 < SCRUB_BYTES_PER_SECOND_MIN {
        wrong(format!(
            "scrub.bytes_per_second is {}; give at least {}",
            config.scrub.bytes_per_second,
            ByteSize(SCRUB_BYTES_PER_SECOND_MIN)
        ));
    }
    if let Err(error) = config.log.level.parse::<tracing_subscriber::EnvFilter>() {
        wrong(format!("log.level \"{}\": {error}; write as in \"info\"", config.log.level));
    }
    if config.stop_timeout.is_zero() || config.stop_timeout > Duration::from_secs(3_600) {
        wrong("stop_timeout must be from 1ms to 1h".into());
    }
}

/// Whether only programs of this machine can connect.
pub(crate) fn is_loopback(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    }
}

fn listen_rules(config: &Config, wrong: &impl Fn(String)) {
    let beyond = |address: SocketAddr| !is_loopback(address);
    if beyond(config.resp.listen) && config.resp.password.is_none() {
        wrong(format!(
            "RESP listens on {}, which other machines can reach, and has no password; set FOREBAY_PASSWORD, \
             or password_file in [resp], or listen on 127.0.0.1",
            config.resp.listen
        ));
    }
    if beyond(config.s3.listen) && config.s3.credentials.is_none() {
        wrong(format!(
            "S3 listens on {}, which other machines can reach, and has no credentials; set FOREBAY_ACCESS_KEY_ID \
             and FOREBAY_SECRET_ACCESS_KEY, or their keys in [s3], or listen on 127.0.0.1",
            config.s3.listen
        ));
    }
    if beyond(config.admin.listen) && config.admin.token.is_none() {
        wrong(format!(
            "admin listens on {}, which other machines can reach, and has no token; set FOREBAY_ADMIN_TOKEN, \
             or token_file in [admin], or listen on 127.0.0.1",
            config.admin.listen
        ));
    }
    let listeners = [("RESP", config.resp.listen), ("S3", config.s3.listen), ("admin", config.admin.listen)];
    for (index, (name, address)) in listeners.iter().enumerate() {
        for (other, taken) in &listeners[..index] {
            if address == taken && address.port() != 0 {
                wrong(format!("{other} and {name} both listen on {address}; give each its own port"));
            }
        }
    }
}

fn size_rules(config: &Config, wrong: &impl Fn(String)) {
    if config.capacity < ByteSize::mib(1) {
        wrong(format!("capacity is {}; give at least 1 MiB", config.capacity));
    }
    if config.dirty_limit > config.capacity {
        wrong(format!(
            "dirty_limit ({}) is larger than capacity ({}): bytes that wait for their upload need room here; \
             lower the one or raise the other",
            config.dirty_limit, config.capacity
        ));
    }
    if !(ByteSize(1 << 10)..=ByteSize::mib(1)).contains(&config.inline_threshold) {
        wrong(format!("inline_threshold is {}; give 1 KiB to 1 MiB", config.inline_threshold));
    }
    if !(ByteSize::mib(64)..=ByteSize::gib(64 << 10)).contains(&config.lmdb.map_size)
        || !config.lmdb.map_size.0.is_multiple_of(4096)
    {
        wrong(format!(
            "lmdb.map_size is {}; give 64 MiB to 64 TiB, a multiple of 4 KiB",
            config.lmdb.map_size
        ));
    }
    if config.dirty_limit.0 == 0 {
        wrong("dirty_limit is 0, so that no write to a mount could be taken; give at least 1 MiB".into());
    }
}

fn resp_rules(resp: &RespConfig, wrong: &impl Fn(String)) {
    if resp.maxclients == 0 {
        wrong("resp.maxclients is 0; give at least 1".into());
    }
    if !(1..=10_000).contains(&resp.databases) {
        wrong(format!("resp.databases is {}; give 1 to 10000", resp.databases));
    }
}

fn journal_rules(journal: JournalConfig, wrong: &impl Fn(String)) {
    let range = ByteSize::mib(4)..=ByteSize::gib(1);
    if !range.contains(&journal.file_size) || !journal.file_size.0.is_multiple_of(4096) {
        wrong(format!(
            "journal.file_size is {}; give 4 MiB to 1 GiB, a multiple of 4 KiB",
            journal.file_size
        ));
    }
    if !matches!(journal.align.0, 512 | 4096) {
        wrong(format!("journal.align is {}; give 512 or 4096", journal.align.0));
    }
}

fn memtable_rules(memtable: MemtableConfig, wrong: &impl Fn(String)) {
    if !(ByteSize::mib(1)..=ByteSize::gib(4)).contains(&memtable.bytes) {
        wrong(format!("memtable.bytes is {}; give 1 MiB to 4 GiB", memtable.bytes));
    }
    if !(1_000..=50_000_000).contains(&memtable.rows) {
        wrong(format!("memtable.rows is {}; give 1000 to 50000000", memtable.rows));
    }
    if !(Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&memtable.interval) {
        wrong("memtable.interval must be from 100ms to 1h".into());
    }
}

fn flush_rules(flush: FlushConfig, wrong: &impl Fn(String)) {
    if !(1..=1024).contains(&flush.concurrency) {
        wrong(format!("flush.concurrency is {}; give 1 to 1024", flush.concurrency));
    }
    if !(Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&flush.attempt_timeout) {
        wrong("flush.attempt_timeout must be from 100ms to 1h".into());
    }
    if flush.part_size < ByteSize(1 << 10) || flush.part_size > ByteSize::mib(16) {
        wrong(format!(
            "flush.part_size is {}; give 1 KiB to 16 MiB (S3 itself takes 5 MiB and more)",
            flush.part_size
        ));
    }
    if flush.part_concurrency == 0 || flush.part_concurrency > 64 {
        wrong(format!("flush.part_concurrency is {}; give 1 to 64", flush.part_concurrency));
    }
    if flush.least_bandwidth < ByteSize(1 << 10) {
        wrong(format!("flush.least_bandwidth is {}; give at least 1 KiB", flush.least_bandwidth));
    }
    if flush.fence_margin > Duration::from_secs(3_600) {
        wrong("flush.fence_margin must be at most 1h".into());
    }
    if flush.retry_min.is_zero() || flush.retry_min > flush.retry_max {
        wrong("flush.retry_min must be above 0 and at most flush.retry_max".into());
    }
}
