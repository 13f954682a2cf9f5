//! The commands: what each is called, takes and touches, and the function that plans it.
//!
//! One entry of [`table::COMMANDS`] says everything about a command; dispatch, COMMAND, and the checks before
//! planning all read it there. `plan` says how a command is carried out.

pub(crate) mod args;
pub(crate) mod plan;
mod table;

mod client;
mod config;
mod connection;
mod expire;
mod forebay;
mod info;
mod introspect;
pub(crate) mod key;
pub(crate) mod known;
mod scan;
mod server;
mod string;
mod transaction;

pub(crate) use table::{COMMANDS, NONE};

use self::args::Args;
use self::known::Known;
use self::plan::PlanFn;
use crate::error::CommandError;

/// One command.
pub(crate) struct Command {
    /// In lower case; of a subcommand the whole, as in `config|get`.
    pub(crate) name: &'static str,
    /// Number of arguments with the name; negative: at least that many.
    pub(crate) arity: i32,
    pub(crate) flags: Flags,
    /// Which arguments are keys.
    pub(crate) keys: Places,
    /// Which arguments are values: only these may be longer than what is kept in memory.
    pub(crate) values: Places,
    /// What must be known of its keys before it is planned.
    pub(crate) known: Known,
    pub(crate) plan: PlanFn,
    pub(crate) subcommands: &'static [Command],
    /// What is told about it.
    pub(crate) about: About,
}

/// What COMMAND tells of a command and nothing else needs.
pub(crate) struct About {
    pub(crate) group: &'static str,
    pub(crate) since: &'static str,
    pub(crate) summary: &'static str,
    /// Categories beyond those that follow from the flags.
    pub(crate) categories: &'static [&'static str],
    pub(crate) tips: &'static [&'static str],
    /// For each run of keys what is done with them, in Redis's words.
    pub(crate) access: &'static [&'static str],
}

/// Which arguments are keys, or values: Redis's triple. A last below 0 counts from the end; a first of 0 means
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) first: i32,
    pub(crate) last: i32,
    pub(crate) step: i32,
}

impl Places {
    pub(crate) const NONE: Places = Places { first: 0, last: 0, step: 0 };

    /// The places among `len` arguments.
    pub(crate) fn of(self, len: usize) -> impl Iterator<Item = usize> {
        let last = if self.last < 0 { len as i32 + self.last } else { self.last };
        let range = if self.first == 0 { 1..1 } else { self.first..(last + 1).min(len as i32) };
        range.step_by(self.step.max(1) as usize).map(|place| place as usize)
    }
}

/// Properties of a command, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u32);

impl Flags {
    pub(crate) const EMPTY: Flags = Flags(0);
    pub(crate) const WRITE: Flags = Flags(1);
    pub(crate) const READONLY: Flags = Flags(1 << 1);
    /// May create a key or make one larger.
    pub(crate) const DENYOOM: Flags = Flags(1 << 2);
    pub(crate) const ADMIN: Flags = Flags(1 << 3);
    pub(crate) const NOSCRIPT: Flags = Flags(1 << 4);
    pub(crate) const LOADING: Flags = Flags(1 << 5);
    pub(crate) const STALE: Flags = Flags(1 << 6);
    pub(crate) const SKIP_SLOWLOG: Flags = Flags(1 << 7);
    pub(crate) const FAST: Flags = Flags(1 << 8);
    /// Works before AUTH.
    pub(crate) const NO_AUTH: Flags = Flags(1 << 9);
    pub(crate) const NO_ASYNC_LOADING: Flags = Flags(1 << 10);
    /// Refused between MULTI and EXEC.
    pub(crate) const NO_MULTI: Flags = Flags(1 << 11);
    pub(crate) const ALLOW_BUSY: Flags = Flags(1 << 12);
    // Ours, which no client sees.
    /// Everything before it in the pipeline is answered before it is planned: it waits for something, or
    /// tells of the node's state.
    pub(crate) const ALONE: Flags = Flags(1 << 16);
    /// Works between MULTI and EXEC instead of being queued.
    pub(crate) const NEVER_QUEUED: Flags = Flags(1 << 17);
    /// Adds a part to a value, which may have to be put together first.
    pub(crate) const EXTENDS: Flags = Flags(1 << 18);
    /// Returns bytes of a value.
    pub(crate) const RETURNS_VALUE: Flags = Flags(1 << 19);

    /// Names that COMMAND shows, in Redis's order.
    pub(crate) const SHOWN: [(Flags, &'static str); 13] = [
        (Flags::WRITE, "write"),
        (Flags::READONLY, "readonly"),
        (Flags::DENYOOM, "denyoom"),
        (Flags::ADMIN, "admin"),
        (Flags::NOSCRIPT, "noscript"),
        (Flags::LOADING, "loading"),
        (Flags::STALE, "stale"),
        (Flags::SKIP_SLOWLOG, "skip_slowlog"),
        (Flags::FAST, "fast"),
        (Flags::NO_AUTH, "no_auth"),
        (Flags::NO_ASYNC_LOADING, "no_async_loading"),
        (Flags::NO_MULTI, "no_multi"),
        (Flags::ALLOW_BUSY, "allow_busy"),
    ];

    pub(crate) const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    #[inline]
    pub(crate) const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Command {
    /// Whether it takes this many arguments, the name included.
    #[inline]
    pub(crate) fn takes(&self, len: usize) -> bool {
        if self.arity >= 0 { len == self.arity as usize } else { len >= self.arity.unsigned_abs() as usize }
    }
}

/// The command that a request names, or Redis's complaint.
#[inline]
pub(crate) fn find(args: Args<'_>) -> Result<&'static Command, CommandError> {
    let Some(command) = find_name(args.at(0)) else { return Err(unknown(args)) };
    if command.subcommands.is_empty() || args.len() == 1 {
        return Ok(command);
    }
    find_subcommand(command, args.at(1)).ok_or_else(|| {
        let mut text = b"ERR unknown subcommand '".to_vec();
        text.extend_from_slice(c_string(args.at(1), 128));
        text.extend_from_slice(b"'. Try ");
        text.extend_from_slice(command.name.to_ascii_uppercase().as_bytes());
        text.extend_from_slice(b" HELP.");
        CommandError::bytes(text)
    })
}

/// The top-level command of this name, in any case.
#[inline]
pub(crate) fn find_name(name: &[u8]) -> Option<&'static Command> {
    let key = table::name_key(name)?;
    let mut slot = table::slot(key);
    loop {
        match table::INDEX[slot] {
            0 => return None,
            place => {
                let (known, command) = (&table::KEYS[place as usize - 1], &COMMANDS[place as usize - 1]);
                if *known == key {
                    return Some(command);
                }
            }
        }
        slot = (slot + 1) % table::INDEX.len();
    }
}

/// A subcommand by its own name, in any case. A few commands (COMMAND) work without one.
pub(crate) fn find_subcommand(command: &Command, name: &[u8]) -> Option<&'static Command> {
    command.subcommands.iter().find(|sub| own_name(sub).as_bytes().eq_ignore_ascii_case(name))
}

/// `get` of `config|get`.
pub(crate) fn own_name(command: &Command) -> &'static str {
    command.name.split_once('|').map_or(command.name, |(_, own)| own)
}

fn unknown(args: Args<'_>) -> CommandError {
    const SHOWN_MAX: usize = 128;
    let mut shown = Vec::new();
    for arg in args.from(1).iter() {
        if shown.len() >= SHOWN_MAX {
            break;
        }
        let room = SHOWN_MAX - shown.len();
        shown.push(b'\'');
        shown.extend_from_slice(c_string(arg, room));
        shown.extend_from_slice(b"' ");
    }
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(c_string(args.at(0), SHOWN_MAX));
    text.extend_from_slice(b"', with args beginning with: ");
    text.extend_from_slice(&shown);
    CommandError::bytes(text)
}

/// As C prints a string: up to the first NUL, and at most `max` bytes.
fn c_string(bytes: &[u8], max: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(max)];
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case() {
        for command in COMMANDS {
            let found = find_name(command.name.as_bytes()).expect("is in the index");
            assert!(std::ptr::eq(found, command), "{}", command.name);
            assert!(find_name(command.name.to_uppercase().as_bytes()).is_some(), "{}", command.name);
        }
        for unknown in ["", "g", "gett", "hset", "a name that is longer than any of them"] {
            assert!(find_name(unknown.as_bytes()).is_none(), "{unknown}");
        }
    }

    #[test]
    fn arity_is_exact_or_a_minimum() {
        let (get, set) = (find_name(b"get").expect("get"), find_name(b"set").expect("set"));
        assert!(get.takes(2) && !get.takes(1) && !get.takes(3));
        assert!(set.takes(3) && set.takes(9) && !set.takes(2));
    }

    #[test]
    fn keys_are_where_the_triple_says() {
        let of = |name: &str, len| find_name(name.as_bytes()).expect(name).keys.of(len).collect::<Vec<_>>();
        assert_eq!(of("get", 2), [1]);
        assert_eq!(of("mset", 5), [1, 3]);
        assert_eq!(of("del", 4), [1, 2, 3]);
        assert_eq!(of("rename", 3), [1, 2]);
        assert!(of("ping", 1).is_empty());
    }

    #[test]
    fn what_waits_runs_alone_and_outside_of_transactions() {
        let all = COMMANDS.iter().flat_map(|command| std::iter::once(command).chain(command.subcommands));
        for command in all.filter(|command| command.flags.has(Flags::NO_MULTI)) {
            assert!(command.flags.has(Flags::ALONE), "{}", command.name);
        }
    }
}
