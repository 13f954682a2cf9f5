//! CONFIG: settings under Redis's names.
//!
//! What can be changed takes effect at once and lasts until the next start; everything else shows how this node
//! is, and takes only the value that it has.

use std::sync::atomic::{AtomicU64, Ordering};

use forebay_storage::store::SyncMode;

use super::args::Args;
use super::key::help as reply_help;
use super::plan::{Plan, Planner};
use crate::config::{REQUEST_BYTES_LIMIT, Settings};
use crate::error::CommandError;
use crate::glob;
use crate::number::parse_i64;
use crate::server::Server;

type Result<T> = std::result::Result<T, CommandError>;

/// A setting by its Redis name.
struct Entry {
    name: &'static str,
    kind: Kind,
}

enum Kind {
    /// A number that can be changed.
    Number { of: fn(&Settings) -> &AtomicU64, unit: Unit, min: u64, max: u64 },
    /// `requirepass`: can be changed, is never shown.
    Password,
    /// As the node is.
    Fixed(&'static str),
    /// As the node is, asked when shown.
    Shown(fn(&Server) -> String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Plain,
    /// Takes `1gb` and its like.
    Memory,
}

static ENTRIES: &[Entry] = &[
    Entry { name: "appendfsync", kind: Kind::Shown(sync_name) },
    Entry { name: "appendonly", kind: Kind::Fixed("yes") },
    Entry { name: "bind", kind: Kind::Shown(|server| server.address.ip().to_string()) },
    Entry {
        name: "client-query-buffer-limit",
        kind: memory(|settings| &settings.request_bytes_max, REQUEST_BYTES_LIMIT),
    },
    Entry { name: "cluster-enabled", kind: Kind::Fixed("no") },
    Entry { name: "databases", kind: Kind::Shown(|server| server.keyspace.count().to_string()) },
    Entry { name: "dir", kind: Kind::Shown(|server| server.directory.clone()) },
    Entry { name: "maxclients", kind: number(|settings| &settings.max_clients, 1, u32::MAX as u64) },
    Entry { name: "maxmemory", kind: Kind::Fixed("0") },
    Entry { name: "maxmemory-policy", kind: Kind::Fixed("noeviction") },
    Entry { name: "notify-keyspace-events", kind: Kind::Fixed("") },
    Entry { name: "port", kind: Kind::Shown(|server| server.address.port().to_string()) },
    Entry { name: "proto-max-bulk-len", kind: memory(|settings| &settings.bulk_bytes_max, i64::MAX as u64) },
    Entry { name: "requirepass", kind: Kind::Password },
    Entry { name: "save", kind: Kind::Fixed("") },
    Entry {
        name: "tcp-keepalive",
        kind: number(|settings| &settings.tcp_keepalive_seconds, 0, i32::MAX as u64),
    },
    Entry { name: "timeout", kind: number(|settings| &settings.idle_timeout_seconds, 0, i32::MAX as u64) },
];

const fn number(of: fn(&Settings) -> &AtomicU64, min: u64, max: u64) -> Kind {
    Kind::Number { of, unit: Unit::Plain, min, max }
}

const fn memory(of: fn(&Settings) -> &AtomicU64, max: u64) -> Kind {
    Kind::Number { of, unit: Unit::Memory, min: 1024 * 1024, max }
}

fn sync_name(server: &Server) -> String {
    match server.store.sync_mode() {
        SyncMode::Always => "always".into(),
        SyncMode::EverySec => "everysec".into(),
    }
}

impl Entry {
    fn show(&self, server: &Server) -> String {
        match &self.kind {
            Kind::Number { of, .. } => of(&server.settings).load(Ordering::Relaxed).to_string(),
            // Whether there is one is told by the NOAUTH that a stranger gets.
            Kind::Password => String::new(),
            Kind::Fixed(value) => (*value).into(),
            Kind::Shown(show) => show(server),
        }
    }

    /// Judges a new value: what is to be done, or why not.
    fn judge<'a>(&'static self, server: &Server, value: &'a [u8]) -> std::result::Result<Change<'a>, String> {
        match &self.kind {
            Kind::Number { of, unit, min, max } => {
                let parsed = match unit {
                    Unit::Plain => parse_i64(value).ok_or("argument couldn't be parsed into an integer")?,
                    Unit::Memory => parse_memory(value).ok_or("argument must be a memory value")?,
                };
                match u64::try_from(parsed) {
                    Ok(number) if (*min..=*max).contains(&number) => Ok(Change::Number(*of, number)),
                    _ => Err(format!("argument must be between {min} and {max} inclusive")),
                }
            }
            Kind::Password => Ok(Change::Password(value)),
            Kind::Fixed(_) | Kind::Shown(_) if self.show(server).as_bytes() == value => Ok(Change::Nothing),
            Kind::Fixed(_) | Kind::Shown(_) => Err("can't set immutable config".into()),
        }
    }
}

enum Change<'a> {
    Nothing,
    Number(fn(&Settings) -> &AtomicU64, u64),
    Password(&'a [u8]),
}

impl Change<'_> {
    fn make(&self, settings: &Settings) {
        match self {
            Change::Nothing => {}
            Change::Number(of, number) => of(settings).store(*number, Ordering::Relaxed),
            Change::Password(password) => settings.set_password(password),
        }
    }
}

/// A number of bytes as Redis's config takes it: `1k` is 1000, `1kb` is 1024.
fn parse_memory(text: &[u8]) -> Option<i64> {
    let digits = text.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'-').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1000,
        b"kb" => 1024,
        b"m" => 1000 * 1000,
        b"mb" => 1024 * 1024,
        b"g" => 1000 * 1000 * 1000,
        b"gb" => 1024 * 1024 * 1024,
        _ => return None,
    };
    parse_i64(number)?.checked_mul(factor)
}

/// `CONFIG GET pattern [pattern ...]`: a name that is no pattern comes back as the client wrote it.
pub(super) fn get(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let mut found: Vec<(&[u8], &Entry)> = Vec::new();
    for pattern in args.from(2).iter() {
        let is_pattern = pattern.iter().any(|byte| b"[*?".contains(byte));
        for entry in ENTRIES {
            let name = entry.name.as_bytes();
            let shown = if is_pattern { name } else { pattern };
            if glob::matches_ignoring_case(pattern, name)
                && !found.iter().any(|(known, _)| known.eq_ignore_ascii_case(shown))
            {
                found.push((shown, entry));
            }
        }
    }
    planner.reply.map(found.len());
    for (name, entry) in found {
        planner.reply.bulk(name);
        planner.reply.bulk(entry.show(planner.server).as_bytes());
    }
    Ok(Plan::Answered)
}

/// `CONFIG SET name value [name value ...]`: all or none.
pub(super) fn set(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    if !args.len().is_multiple_of(2) {
        return Err(CommandError::wrong_arity(planner.command.name));
    }
    let mut changes: Vec<(&str, Change<'_>)> = Vec::with_capacity(args.len() / 2 - 1);
    for name in (2..args.len()).step_by(2) {
        let Some(entry) = ENTRIES.iter().find(|entry| args.is(name, entry.name)) else {
            return Err(CommandError::bytes(
                [b"ERR Unknown option or number of arguments for CONFIG SET - '", args.at(name), b"'"]
                    .concat(),
            ));
        };
        let failed = |why: &str| {
            CommandError::text(format!(
                "ERR CONFIG SET failed (possibly related to argument '{}') - {why}",
                entry.name
            ))
        };
        if changes.iter().any(|(known, _)| *known == entry.name) {
            return Err(failed("duplicate parameter"));
        }
        let change = entry.judge(planner.server, args.at(name + 1)).map_err(|why| failed(&why))?;
        changes.push((entry.name, change));
    }
    for (name, change) in changes {
        change.make(&planner.server.settings);
        tracing::info!(setting = name, client = %planner.session.facts.address, "CONFIG SET");
    }
    planner.reply.ok();
    Ok(Plan::Answered)
}

pub(super) fn resetstat(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    planner.server.counters.reset();
    planner.reply.ok();
    Ok(Plan::Answered)
}

pub(super) fn rewrite(_: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    Err(CommandError::new("ERR The server is running without a config file"))
}

pub(super) fn help(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    reply_help(
        planner,
        &[
            "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "GET <pattern>",
            "    Return parameters matching the glob-like <pattern> and their values.",
            "SET <directive> <value>",
            "    Set the configuration <directive> to <value>.",
            "RESETSTAT",
            "    Reset statistics reported by the INFO command.",
            "REWRITE",
            "    Refused: the configuration file is the operator's.",
            "HELP",
            "    Prints this help.",
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_values_take_decimal_and_binary_units() {
        for (text, bytes) in [
            ("1048576", Some(1_048_576)),
            ("1mb", Some(1_048_576)),
            ("1M", Some(1_000_000)),
            ("2gb", Some(2_147_483_648)),
            ("1tb", None),
            ("mb", None),
            ("", None),
            ("9223372036854775807gb", None),
        ] {
            assert_eq!(parse_memory(text.as_bytes()), bytes, "{text:?}");
        }
    }
}
