//! A connection about itself: AUTH, HELLO, SELECT, PING, ECHO, QUIT, RESET.

use super::args::Args;
use super::client::check_name;
use super::plan::{Plan, Planner};
use crate::error::CommandError;
use crate::reply::Protocol;

/// The Redis version that replies and error texts follow.
pub(super) const REDIS_VERSION: &str = "7.0.15";
/// The one user there is.
const DEFAULT_USER: &[u8] = b"default";

type Result<T> = std::result::Result<T, CommandError>;

/// `AUTH [username] password`
pub(super) fn auth(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let (user, password) = match args.len() {
        2 if !planner.server.settings.has_password() => {
            return Err(CommandError::new(
                "ERR AUTH <password> called without any password configured for the default user. Are you \
                 sure your configuration is correct?",
            ));
        }
        2 => (DEFAULT_USER, args.at(1)),
        3 => (args.at(1), args.at(2)),
        _ => return Err(CommandError::SYNTAX),
    };
    authenticate(planner, user, password)?;
    planner.reply.ok();
    Ok(Plan::Answered)
}

fn authenticate(planner: &mut Planner<'_>, user: &[u8], password: &[u8]) -> Result<()> {
    // Both are looked at, whatever the first says.
    let known = user == DEFAULT_USER;
    if !planner.server.settings.password_is(password) || !known {
        tracing::warn!(client = %planner.session.facts.address, "authentication failed");
        return Err(CommandError::WRONG_PASS);
    }
    planner.session.authenticated = true;
    Ok(())
}

/// `HELLO [version [AUTH username password] [SETNAME name]]`
pub(super) fn hello(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let version = match args.get(1) {
        None => None,
        Some(version) => Some(match crate::number::parse_i64(version) {
            Some(2) => Protocol::Two,
            Some(3) => Protocol::Three,
            Some(_) => return Err(CommandError::new("NOPROTO unsupported protocol version")),
            None => {
                return Err(CommandError::new("ERR Protocol version is not an integer or out of range"));
            }
        }),
    };
    let (mut login, mut name) = (None, None);
    let mut option = 2;
    while option < args.len() {
        if args.is(option, "auth") && option + 2 < args.len() {
            login = Some((args.at(option + 1), args.at(option + 2)));
            option += 3;
        } else if args.is(option, "setname") && option + 1 < args.len() {
            check_name(args.at(option + 1))?;
            name = args.get(option + 1);
            option += 2;
        } else {
            let text = [b"ERR Syntax error in HELLO option '", args.at(option), b"'"].concat();
            return Err(CommandError::bytes(text));
        }
    }
    if let Some((user, password)) = login {
        authenticate(planner, user, password)?;
    }
    if !planner.session.authenticated {
        return Err(CommandError::new(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
             the same time",
        ));
    }
    if let Some(name) = name {
        planner.session.facts.set_name(name);
    }
    if let Some(version) = version {
        planner.session.protocol = version;
        planner.reply.set_protocol(version);
    }
    reply_hello(planner);
    Ok(Plan::Answered)
}

fn reply_hello(planner: &mut Planner<'_>) {
    let proto = match planner.session.protocol {
        Protocol::Two => 2,
        Protocol::Three => 3,
    };
    let id = planner.session.id;
    let reply = &mut *planner.reply;
    reply.map(7);
    for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(proto);
    reply.bulk(b"id");
    reply.count(id);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
}

pub(super) fn ping(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    match args.len() {
        1 => planner.reply.simple("PONG"),
        2 => planner.reply.bulk(args.at(1)),
        _ => return Err(CommandError::wrong_arity("ping")),
    }
    Ok(Plan::Answered)
}

pub(super) fn echo(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    planner.reply.bulk(args.at(1));
    Ok(Plan::Answered)
}

pub(super) fn quit(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    planner.session.closing = true;
    planner.reply.ok();
    Ok(Plan::Answered)
}

pub(super) fn reset(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    planner.session.reset(planner.server);
    planner.reply.set_protocol(planner.session.protocol);
    planner.reply.simple("RESET");
    Ok(Plan::Answered)
}

pub(super) fn select(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let number = planner.server.keyspace.checked(args.int(1)?)?;
    let database = planner.server.keyspace.database(&planner.server.store, number);
    planner.session.select(database);
    planner.reply.ok();
    Ok(Plan::Answered)
}
