//! COMMAND: the table, told to clients.

use super::args::Args;
use super::key::help as reply_help;
use super::plan::{Plan, Planner};
use super::{COMMANDS, Command, Flags, find_name, find_subcommand};
use crate::error::CommandError;
use crate::glob;
use crate::reply::Reply;

type Result<T> = std::result::Result<T, CommandError>;

/// COMMAND
pub(super) fn command(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    planner.reply.array(COMMANDS.len());
    for command in COMMANDS {
        reply_info(command, planner.reply);
    }
    Ok(Plan::Answered)
}

pub(super) fn count(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    planner.reply.count(COMMANDS.len() as u64);
    Ok(Plan::Answered)
}

/// `COMMAND INFO [name ...]`
pub(super) fn info(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    if args.len() == 2 {
        return command(planner, args);
    }
    planner.reply.array(args.len() - 2);
    for name in args.from(2).iter() {
        match by_full_name(name) {
            Some(command) => reply_info(command, planner.reply),
            None => planner.reply.nil(),
        }
    }
    Ok(Plan::Answered)
}

/// `COMMAND DOCS [name ...]`: unknown names are left out.
pub(super) fn docs(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let wanted: Vec<&Command> = match args.len() {
        2 => COMMANDS.iter().collect(),
        _ => args.from(2).iter().filter_map(by_full_name).collect(),
    };
    planner.reply.map(wanted.len());
    for command in wanted {
        reply_docs(command, planner.reply);
    }
    Ok(Plan::Answered)
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`
pub(super) fn list(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let filter = match args.len() {
        2 => None,
        5 if args.is(2, "filterby")
            && ["module", "aclcat", "pattern"].iter().any(|kind| args.is(3, kind)) =>
        {
            Some(args.at(4))
        }
        _ => return Err(CommandError::SYNTAX),
    };
    let takes = |command: &Command| match filter {
        None => true,
        Some(wanted) if args.is(3, "aclcat") => {
            categories(command).iter().any(|known| known.as_bytes().eq_ignore_ascii_case(wanted))
        }
        Some(wanted) if args.is(3, "pattern") => glob::matches_ignoring_case(wanted, command.name.as_bytes()),
        // No command comes from a module.
        Some(_) => false,
    };
    let mut names = Vec::new();
    for command in COMMANDS {
        names.extend(takes(command).then_some(command.name));
        if filter.is_some() {
            names.extend(command.subcommands.iter().filter(|sub| takes(sub)).map(|sub| sub.name));
        }
    }
    planner.reply.array(names.len());
    for name in names {
        planner.reply.bulk(name.as_bytes());
    }
    Ok(Plan::Answered)
}

/// COMMAND GETKEYS name argument ...
pub(super) fn getkeys(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let request = args.from(2);
    let named = find_name(request.at(0)).and_then(|command| match command.subcommands {
        [] => Some(command),
        _ => request.get(1).and_then(|name| find_subcommand(command, name)),
    });
    let Some(command) = named else {
        return Err(CommandError::new("ERR Invalid command specified"));
    };
    if command.keys.first == 0 {
        return Err(CommandError::new("ERR The command has no key arguments"));
    }
    if !command.takes(request.len()) {
        return Err(CommandError::new("ERR Invalid number of arguments specified for command"));
    }
    let keys: Vec<usize> = command.keys.of(request.len()).collect();
    planner.reply.array(keys.len());
    for key in keys {
        planner.reply.bulk(request.at(key));
    }
    Ok(Plan::Answered)
}

pub(super) fn help(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    reply_help(
        planner,
        &[
            "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "(no subcommand)",
            "    Return details about all commands.",
            "COUNT",
            "    Return the total number of commands in this server.",
            "LIST",
            "    Return a list of all commands in this server.",
            "INFO [<command-name> ...]",
            "    Return details about multiple commands.",
            "DOCS [<command-name> ...]",
            "    Return documentation details about multiple commands.",
            "GETKEYS <full-command>",
            "    Return the keys from a full command.",
            "HELP",
            "    Prints this help.",
        ],
    )
}

/// A command by `name` or `name|subcommand`.
fn by_full_name(name: &[u8]) -> Option<&'static Command> {
    match name.iter().position(|&byte| byte == b'|') {
        None => find_name(name),
        Some(bar) => find_subcommand(find_name(&name[..bar])?, &name[bar + 1..]),
    }
}

fn reply_info(command: &Command, reply: &mut Reply) {
    let Command { name, arity, flags, keys, about, subcommands, .. } = command;
    reply.array(10);
    reply.bulk(name.as_bytes());
    reply.integer(i64::from(*arity));
    let flags: Vec<&str> =
        Flags::SHOWN.iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, name)| *name).collect();
    reply.set(flags.len());
    for flag in flags {
        reply.simple(flag);
    }
    for place in [keys.first, keys.last, keys.step] {
        reply.integer(i64::from(place));
    }
    let categories = categories(command);
    reply.set(categories.len());
    for category in categories {
        reply.simple(&format!("@{category}"));
    }
    reply.set(about.tips.len());
    for tip in about.tips {
        reply.bulk(tip.as_bytes());
    }
    reply_key_specs(command, reply);
    // An empty list is a set here, for whatever reason: clients see what Redis sends.
    match subcommands.len() {
        0 => reply.set(0),
        len => reply.array(len),
    }
    for sub in *subcommands {
        reply_info(sub, reply);
    }
}

/// Categories in Redis's order: those that a command is filed under, and those that follow from its flags.
fn categories(command: &Command) -> Vec<&'static str> {
    let flags = command.flags;
    let filed = |name: &str| command.about.categories.contains(&name);
    let admin = flags.has(Flags::ADMIN) || filed("admin");
    [
        ("keyspace", filed("keyspace")),
        ("read", flags.has(Flags::READONLY)),
        ("write", flags.has(Flags::WRITE)),
        ("string", filed("string")),
        ("admin", admin),
        ("fast", flags.has(Flags::FAST)),
        ("slow", !flags.has(Flags::FAST)),
        ("dangerous", admin || filed("dangerous")),
        ("connection", filed("connection")),
        ("transaction", filed("transaction")),
    ]
    .into_iter()
    .filter_map(|(name, is)| is.then_some(name))
    .collect()
}

/// Each run of keys; two of them where source and target are treated differently (RENAME, COPY).
fn reply_key_specs(command: &Command, reply: &mut Reply) {
    let access = command.about.access;
    reply.set(access.len());
    for (run, words) in access.iter().enumerate() {
        let several = access.len() > 1;
        let first = i64::from(command.keys.first) + run as i64;
        // Counted from the first key, or from the end if negative.
        let last = match command.keys.last {
            _ if several => 0,
            last if last < 0 => last,
            last => last - command.keys.first,
        };
        let words: Vec<&str> = words.split(' ').collect();
        reply.map(3);
        reply.bulk(b"flags");
        reply.set(words.len());
        for word in words {
            reply.simple(word);
        }
        reply.bulk(b"begin_search");
        reply.map(2);
        reply.bulk(b"type");
        reply.bulk(b"index");
        reply.bulk(b"spec");
        reply.map(1);
        reply.bulk(b"index");
        reply.integer(first);
        reply.bulk(b"find_keys");
        reply.map(2);
        reply.bulk(b"type");
        reply.bulk(b"range");
        reply.bulk(b"spec");
        reply.map(3);
        for (name, value) in
            [("lastkey", i64::from(last)), ("keystep", i64::from(command.keys.step)), ("limit", 0)]
        {
            reply.bulk(name.as_bytes());
            reply.integer(value);
        }
    }
}

fn reply_docs(command: &Command, reply: &mut Reply) {
    reply.bulk(command.name.as_bytes());
    let about = &command.about;
    reply.map(if command.subcommands.is_empty() { 3 } else { 4 });
    for (name, value) in [("summary", about.summary), ("since", about.since), ("group", about.group)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    if !command.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(command.subcommands.len());
        for sub in command.subcommands {
            reply_docs(sub, reply);
        }
    }
}
