//! CLIENT: who is connected, and what a connection says of itself.

use std::sync::Arc;

use super::args::Args;
use super::key::help as reply_help;
use super::plan::{Plan, Planner};
use crate::clients::ClientFacts;
use crate::error::CommandError;
use crate::session::Replies;

type Result<T> = std::result::Result<T, CommandError>;

pub(super) fn id(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    planner.reply.count(planner.session.id);
    Ok(Plan::Answered)
}

pub(super) fn getname(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    let name = planner.session.facts.name();
    if name.is_empty() {
        planner.reply.nil()
    } else {
        planner.reply.bulk(&name)
    }
    Ok(Plan::Answered)
}

pub(super) fn setname(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    check_name(args.at(2))?;
    planner.session.facts.set_name(args.at(2));
    planner.reply.ok();
    Ok(Plan::Answered)
}

/// A name must not break the lines of CLIENT LIST.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err(CommandError::new("ERR Client names cannot contain spaces, newlines or special characters."))
}

/// CLIENT SETINFO LIB-NAME | LIB-VER value: of a later Redis; taken so that clients connect without a warning.
pub(super) fn setinfo(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    if !args.is(2, "lib-name") && !args.is(2, "lib-ver") {
        return Err(CommandError::bytes([b"ERR Unrecognized option '", args.at(2), b"'"].concat()));
    }
    planner.reply.ok();
    Ok(Plan::Answered)
}

pub(super) fn info(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    note_self(planner);
    let mut line = Vec::new();
    planner.session.facts.write_line(&mut line);
    planner.reply.verbatim(&line);
    Ok(Plan::Answered)
}

/// `CLIENT LIST [TYPE type] [ID id ...]`
pub(super) fn list(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    note_self(planner);
    let mut clients = planner.server.clients.all();
    if args.len() == 4 && args.is(2, "type") {
        if !is_normal(args.at(3))? {
            clients.clear();
        }
    } else if args.len() >= 4 && args.is(2, "id") {
        let mut ids = Vec::with_capacity(args.len() - 3);
        for index in 3..args.len() {
            let id = args.integer(index).map_err(|_| CommandError::new("ERR Invalid client ID"))?;
            ids.push(u64::try_from(id).unwrap_or(0));
        }
        clients.retain(|client| ids.contains(&client.id));
    } else if args.len() != 2 {
        return Err(CommandError::SYNTAX);
    }
    let mut lines = Vec::new();
    for client in clients {
        client.write_line(&mut lines);
    }
    planner.reply.verbatim(&lines);
    Ok(Plan::Answered)
}

/// CLIENT KILL address, or CLIENT KILL with filters that must all hold.
pub(super) fn kill(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    if args.len() == 3 {
        let filter = Filter { address: Some(args.at(2)), skip_me: false, ..Filter::default() };
        if kill_matching(planner, &filter) == 0 {
            return Err(CommandError::new("ERR No such client"));
        }
        planner.reply.ok();
        return Ok(Plan::Answered);
    }
    let filter = Filter::parse(args)?;
    let killed = kill_matching(planner, &filter);
    planner.reply.count(killed);
    Ok(Plan::Answered)
}

fn kill_matching(planner: &mut Planner<'_>, filter: &Filter<'_>) -> u64 {
    let mut killed = 0;
    for client in planner.server.clients.all() {
        let is_self = Arc::ptr_eq(&client, &planner.session.facts);
        if (is_self && filter.skip_me) || !filter.takes(&client) {
            continue;
        }
        killed += 1;
        // One's own reply must still leave.
        if is_self { planner.session.closing = true } else { client.kill() }
    }
    killed
}

struct Filter<'a> {
    id: Option<u64>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    /// False if a type is asked for that no client here has.
    of_any_type: bool,
    skip_me: bool,
}

impl Default for Filter<'_> {
    fn default() -> Self {
        Filter { id: None, address: None, local_address: None, of_any_type: true, skip_me: true }
    }
}

impl<'a> Filter<'a> {
    fn parse(args: Args<'a>) -> Result<Filter<'a>> {
        let mut filter = Filter::default();
        let mut option = 2;
        while option < args.len() {
            let Some(value) = args.get(option + 1) else { return Err(CommandError::SYNTAX) };
            if args.is(option, "id") {
                let id = args.integer(option + 1).ok().filter(|&id| id > 0);
                let id = id.ok_or(CommandError::new("ERR client-id should be greater than 0"))?;
                filter.id = u64::try_from(id).ok();
            } else if args.is(option, "type") {
                filter.of_any_type = is_normal(value)?;
            } else if args.is(option, "addr") {
                filter.address = Some(value);
            } else if args.is(option, "laddr") {
                filter.local_address = Some(value);
            } else if args.is(option, "user") {
                if value != b"default" {
                    return Err(CommandError::bytes([b"ERR No such user '", value, b"'"].concat()));
                }
            } else if args.is(option, "skipme") && args.is(option + 1, "yes") {
                filter.skip_me = true;
            } else if args.is(option, "skipme") && args.is(option + 1, "no") {
                filter.skip_me = false;
            } else {
                return Err(CommandError::SYNTAX);
            }
            option += 2;
        }
        Ok(filter)
    }

    fn takes(&self, client: &ClientFacts) -> bool {
        let is = |wanted: Option<&[u8]>, address: std::net::SocketAddr| {
            wanted.is_none_or(|wanted| wanted == address.to_string().as_bytes())
        };
        self.of_any_type
            && self.id.is_none_or(|id| id == client.id)
            && is(self.address, client.address)
            && is(self.local_address, client.local_address)
    }
}

/// Whether a client type's name is the one that all clients have here.
fn is_normal(name: &[u8]) -> Result<bool> {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("normal") {
        return Ok(true);
    }
    if is("master") || is("replica") || is("slave") || is("pubsub") {
        return Ok(false);
    }
    Err(CommandError::bytes([b"ERR Unknown client type '", name, b"'"].concat()))
}

pub(super) fn no_evict(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    planner.session.facts.set_no_evict(on_or_off(args)?);
    planner.reply.ok();
    Ok(Plan::Answered)
}

pub(super) fn no_touch(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    on_or_off(args)?;
    planner.reply.ok();
    Ok(Plan::Answered)
}

fn on_or_off(args: Args<'_>) -> Result<bool> {
    match (args.is(2, "on"), args.is(2, "off")) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(CommandError::SYNTAX),
    }
}

/// CLIENT REPLY ON | OFF | SKIP
pub(super) fn reply(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    if args.is(2, "on") {
        planner.session.replies = Replies::On;
        planner.reply.ok();
    } else if args.is(2, "off") {
        planner.session.replies = Replies::Off;
    } else if args.is(2, "skip") {
        if planner.session.replies != Replies::Off {
            planner.session.replies = Replies::SkipNext;
        }
    } else {
        return Err(CommandError::SYNTAX);
    }
    Ok(Plan::Answered)
}

pub(super) fn help(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    reply_help(
        planner,
        &[
            "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "GETNAME",
            "    Return the name of the current connection.",
            "ID",
            "    Return the ID of the current connection.",
            "INFO",
            "    Return information about the current client connection.",
            "KILL <ip:port>",
            "    Kill connection made from <ip:port>.",
            "KILL <option> <value> [<option> <value> [...]]",
            "    Kill connections. Options are: ID, TYPE, ADDR, LADDR, USER, SKIPME.",
            "LIST [TYPE <type> | ID <id> [<id> ...]]",
            "    Return information about client connections.",
            "REPLY (ON|OFF|SKIP)",
            "    Control the replies sent to the current connection.",
            "SETNAME <name>",
            "    Assign the name <name> to the current connection.",
            "NO-EVICT (ON|OFF)",
            "    Accepted: no client is evicted here.",
            "HELP",
            "    Prints this help.",
        ],
    )
}

/// Makes this client's own line say what it is doing now.
fn note_self(planner: &Planner<'_>) {
    let session = &*planner.session;
    session.facts.note_now(planner.command.name, session.database_number(), session.protocol);
}
