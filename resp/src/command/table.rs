//! The command table.
//!
//! Arity, flags, key places, categories and tips are Redis 7.0's, since clients and proxies act on them.

use super::known::Known;
use super::plan::{Plan, PlanFn};
use super::{About, Command, Flags, Places};
use super::{client, config, connection, expire, forebay, info, introspect, key, scan, server};
use super::{string, transaction};

const R: Flags = Flags::READONLY;
const W: Flags = Flags::WRITE;
const W_OOM: Flags = Flags::WRITE.and(Flags::DENYOOM);
const FAST: Flags = Flags::FAST;
const VALUE: Flags = Flags::RETURNS_VALUE;
const STALE: Flags = Flags::LOADING.and(Flags::STALE);
const SESSION: Flags = Flags::NOSCRIPT.and(STALE);
const ADMIN: Flags = Flags::ADMIN.and(SESSION);
const OPEN: Flags = SESSION.and(FAST).and(Flags::NO_AUTH).and(Flags::ALLOW_BUSY);
const ALONE: Flags = Flags::ALONE;
const NOT_QUEUED: Flags = Flags::NEVER_QUEUED;
const WAITS: Flags = Flags::ALONE.and(Flags::NO_MULTI);

const UNORDERED: &str = "nondeterministic_output_order";
const VARYING: &str = "nondeterministic_output";
const MULTI_SHARD: &str = "request_policy:multi_shard";
const ALL_SHARDS: &str = "request_policy:all_shards";
const ALL_SUCCEEDED: &str = "response_policy:all_succeeded";
const SUM: &str = "response_policy:agg_sum";
const SPECIAL: &str = "response_policy:special";

const STRING: &[&str] = &["string"];
const KEYSPACE: &[&str] = &["keyspace"];
const CONNECTION: &[&str] = &["connection"];
const TRANSACTION: &[&str] = &["transaction"];
const DANGEROUS: &[&str] = &["dangerous"];

/// What a request that names no command is filed under.
pub(crate) static NONE: Command = command("none", 0, |_, _| Ok(Plan::Answered), Flags::EMPTY);

/// Every command, in no order.
#[rustfmt::skip]
pub(crate) static COMMANDS: &[Command] = &[
    command("get", 2, string::get, R.and(FAST).and(VALUE)).string(1, 1, 1, &["RO access"]).since("1.0.0").says("Returns a value."),
    command("set", -3, string::set, W_OOM.and(VALUE)).string(1, 1, 1, &["RW access update variable_flags"]).value(2).knows(Known::Options).since("1.0.0").says("Sets a value, with conditions and an expiry time."),
    command("setnx", 3, string::setnx, W_OOM.and(FAST)).string(1, 1, 1, &["OW insert"]).value(2).since("1.0.0").says("Sets a value if the key is absent."),
    command("setex", 4, string::setex, W_OOM).string(1, 1, 1, &["OW update"]).value(3).knows(Known::Nothing).since("2.0.0").says("Sets a value that expires in so many seconds."),
    command("psetex", 4, string::psetex, W_OOM).string(1, 1, 1, &["OW update"]).value(3).knows(Known::Nothing).since("2.6.0").says("Sets a value that expires in so many milliseconds."),
    command("getset", 3, string::getset, W_OOM.and(FAST).and(VALUE)).string(1, 1, 1, &["RW access update"]).value(2).since("1.0.0").says("Sets a value and returns the one before."),
    command("getdel", 2, string::getdel, W.and(FAST).and(VALUE)).string(1, 1, 1, &["RW access delete"]).since("6.2.0").says("Returns a value and deletes the key."),
    command("getex", -2, string::getex, W.and(FAST).and(VALUE)).string(1, 1, 1, &["RW access update"]).since("6.2.0").says("Returns a value and sets or drops its expiry time."),
    command("mget", -2, string::mget, R.and(FAST).and(VALUE)).string(1, -1, 1, &["RO access"]).since("1.0.0").tips(&[MULTI_SHARD]).says("Returns several values, read at one moment."),
    command("mset", -3, string::mset, W_OOM).string(1, -1, 2, &["OW update"]).values(2, -1, 2).knows(Known::Nothing).since("1.0.1").tips(&[MULTI_SHARD, ALL_SUCCEEDED]).says("Sets several values together."),
    command("msetnx", -3, string::msetnx, W_OOM).string(1, -1, 2, &["OW insert"]).values(2, -1, 2).since("1.0.1").tips(&[MULTI_SHARD, "response_policy:agg_min"]).says("Sets several values if all keys are absent."),
    command("append", 3, string::append, W_OOM.and(FAST).and(Flags::EXTENDS)).string(1, 1, 1, &["RW insert"]).value(2).since("2.0.0").says("Appends to a value."),
    command("strlen", 2, string::strlen, R.and(FAST)).string(1, 1, 1, &["RO"]).since("2.2.0").says("Returns a value's length."),
    command("getrange", 4, string::getrange, R.and(VALUE)).string(1, 1, 1, &["RO access"]).since("2.4.0").says("Returns a part of a value."),
    command("setrange", 4, string::setrange, W_OOM.and(Flags::EXTENDS)).string(1, 1, 1, &["RW update"]).value(3).since("2.2.0").says("Overwrites a part of a value."),
    command("substr", 4, string::getrange, R.and(VALUE)).string(1, 1, 1, &["RO access"]).since("1.0.0").says("An old name of GETRANGE."),
    command("incr", 2, string::incr, W_OOM.and(FAST)).string(1, 1, 1, &["RW access update"]).knows(Known::Number).since("1.0.0").says("Adds one to a number."),
    command("decr", 2, string::decr, W_OOM.and(FAST)).string(1, 1, 1, &["RW access update"]).knows(Known::Number).since("1.0.0").says("Takes one from a number."),
    command("incrby", 3, string::incrby, W_OOM.and(FAST)).string(1, 1, 1, &["RW access update"]).knows(Known::Number).since("1.0.0").says("Adds to a number."),
    command("decrby", 3, string::decrby, W_OOM.and(FAST)).string(1, 1, 1, &["RW access update"]).knows(Known::Number).since("1.0.0").says("Takes from a number."),
    command("incrbyfloat", 3, string::incrbyfloat, W_OOM.and(FAST)).string(1, 1, 1, &["RW access update"]).knows(Known::Number).since("2.6.0").says("Adds to a floating-point number."),

    command("del", -2, key::del, W).keyspace(1, -1, 1, &["RM delete"]).knows(Known::Nothing).since("1.0.0").tips(&[MULTI_SHARD, SUM]).says("Deletes keys."),
    command("unlink", -2, key::del, W.and(FAST)).keyspace(1, -1, 1, &["RM delete"]).knows(Known::Nothing).since("4.0.0").tips(&[MULTI_SHARD, SUM]).says("Deletes keys, as DEL does here."),
    command("exists", -2, key::count, R.and(FAST)).keyspace(1, -1, 1, &["RO"]).since("1.0.0").tips(&[MULTI_SHARD, SUM]).says("Counts how many of the keys exist."),
    command("touch", -2, key::count, R.and(FAST)).keyspace(1, -1, 1, &["RO"]).since("3.2.1").tips(&[MULTI_SHARD, SUM]).says("Counts how many of the keys exist."),
    command("type", 2, key::kind, R.and(FAST)).keyspace(1, 1, 1, &["RO"]).since("1.0.0").says("Returns the type of a value."),
    command("rename", 3, key::rename, W).keyspace(1, 2, 1, &["RW access delete", "OW update"]).knows(Known::First).since("1.0.0").says("Renames a key, replacing another."),
    command("renamenx", 3, key::renamenx, W.and(FAST)).keyspace(1, 2, 1, &["RW access delete", "OW insert"]).since("1.0.0").says("Renames a key if the new name is absent."),
    command("copy", -3, key::copy, W_OOM).keyspace(1, 2, 1, &["RO access", "OW update"]).knows(Known::Copy).since("6.2.0").says("Copies a key, also to another database."),
    command("persist", 2, expire::persist, W.and(FAST)).keyspace(1, 1, 1, &["RW update"]).since("2.2.0").says("Drops an expiry time."),
    command("expire", -3, expire::expire, W.and(FAST)).keyspace(1, 1, 1, &["RW update"]).since("1.0.0").says("Lets a key expire in so many seconds."),
    command("pexpire", -3, expire::pexpire, W.and(FAST)).keyspace(1, 1, 1, &["RW update"]).since("2.6.0").says("Lets a key expire in so many milliseconds."),
    command("expireat", -3, expire::expireat, W.and(FAST)).keyspace(1, 1, 1, &["RW update"]).since("1.2.0").says("Lets a key expire at a Unix time in seconds."),
    command("pexpireat", -3, expire::pexpireat, W.and(FAST)).keyspace(1, 1, 1, &["RW update"]).since("2.6.0").says("Lets a key expire at a Unix time in milliseconds."),
    command("ttl", 2, expire::ttl, R.and(FAST)).keyspace(1, 1, 1, &["RO access"]).since("1.0.0").tips(&[VARYING]).says("Returns the seconds a key has left."),
    command("pttl", 2, expire::pttl, R.and(FAST)).keyspace(1, 1, 1, &["RO access"]).since("2.6.0").tips(&[VARYING]).says("Returns the milliseconds a key has left."),
    command("expiretime", 2, expire::expiretime, R.and(FAST)).keyspace(1, 1, 1, &["RO access"]).since("7.0.0").says("Returns when a key expires, as a Unix time in seconds."),
    command("pexpiretime", 2, expire::pexpiretime, R.and(FAST)).keyspace(1, 1, 1, &["RO access"]).since("7.0.0").says("Returns when a key expires, as a Unix time in milliseconds."),
    command("keys", 2, scan::keys, R).filed("generic", &["keyspace", "dangerous"]).knows(Known::Listing).since("1.0.0").tips(&[ALL_SHARDS, UNORDERED]).says("Returns all keys that match a pattern."),
    command("scan", -2, scan::scan, R).filed("generic", KEYSPACE).knows(Known::Listing).since("2.8.0").tips(&[VARYING, "request_policy:special"]).says("Walks the keys in steps."),
    command("randomkey", 1, scan::randomkey, R).filed("generic", KEYSPACE).since("1.0.0").tips(&[ALL_SHARDS, VARYING]).says("Returns some key."),
    command("object", -2, container, Flags::EMPTY).filed("generic", &[]).since("2.2.3").says("Tells how a value is kept.").with(OBJECT),
    command("wait", 3, server::wait, Flags::NOSCRIPT).filed("generic", CONNECTION).since("3.0.0").tips(&[ALL_SHARDS, "response_policy:agg_min"]).says("Returns how many replicas hold all writes so far."),
    command("waitaof", 4, server::waitaof, Flags::NOSCRIPT.and(WAITS)).filed("generic", CONNECTION).since("7.2.0").tips(&[ALL_SHARDS, "response_policy:agg_min"]).says("Returns how many nodes have all writes so far on disk."),

    command("auth", -2, connection::auth, OPEN).filed("connection", CONNECTION).since("1.0.0").says("Gives the password."),
    command("echo", 2, connection::echo, STALE.and(FAST)).filed("connection", CONNECTION).since("1.0.0").says("Returns its argument."),
    command("hello", -1, connection::hello, OPEN.and(ALONE)).filed("connection", CONNECTION).since("6.0.0").says("Agrees on a protocol version."),
    command("ping", -1, connection::ping, FAST).filed("connection", CONNECTION).since("1.0.0").tips(&[ALL_SHARDS, ALL_SUCCEEDED]).says("Answers PONG, or its argument."),
    command("quit", -1, connection::quit, OPEN.and(NOT_QUEUED)).filed("connection", CONNECTION).since("1.0.0").says("Closes the connection."),
    command("reset", 1, connection::reset, OPEN.and(ALONE).and(NOT_QUEUED)).filed("connection", CONNECTION).since("6.2.0").says("Makes the connection as if it were new."),
    command("select", 2, connection::select, STALE.and(FAST)).filed("connection", CONNECTION).since("1.0.0").says("Switches to another database."),
    command("client", -2, container, Flags::EMPTY).filed("connection", &[]).since("2.4.0").says("Tells of connections.").with(CLIENT),

    command("command", -1, introspect::command, STALE).filed("server", CONNECTION).since("2.8.13").tips(&[UNORDERED]).says("Tells of commands.").with(COMMAND),
    command("config", -2, container, Flags::EMPTY).filed("server", &[]).since("2.0.0").says("Shows and changes settings.").with(CONFIG),
    command("info", -1, info::info, STALE.and(ALONE)).filed("server", DANGEROUS).since("1.0.0").tips(&[VARYING, ALL_SHARDS, SPECIAL]).says("Tells of the node's state."),
    command("dbsize", 1, scan::dbsize, R.and(FAST).and(ALONE)).filed("server", KEYSPACE).since("1.0.0").tips(&[ALL_SHARDS, SUM]).says("Returns the number of keys."),
    command("time", 1, server::time, STALE.and(FAST)).filed("server", &[]).since("2.6.0").tips(&[VARYING]).says("Returns the node's time."),
    command("flushdb", -1, server::flushdb, W).filed("server", &["keyspace", "dangerous"]).since("1.0.0").tips(&[ALL_SHARDS, ALL_SUCCEEDED]).says("Deletes all keys of the database."),
    command("flushall", -1, server::flushall, W).filed("server", &["keyspace", "dangerous"]).since("1.0.0").tips(&[ALL_SHARDS, ALL_SUCCEEDED]).says("Deletes all keys of all Redis databases."),
    command("memory", -2, container, Flags::EMPTY).filed("server", &[]).since("4.0.0").says("Tells of memory use.").with(MEMORY),
    command("save", 1, server::save, Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING).and(WAITS)).filed("server", &[]).since("1.0.0").says("Answers when all writes so far are on disk."),
    command("bgsave", -1, server::bgsave, Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING).and(ALONE)).filed("server", &[]).since("1.0.0").says("As SAVE: writes are on disk when they are acknowledged."),
    command("lastsave", 1, server::lastsave, STALE.and(FAST).and(ALONE)).filed("server", &["admin", "dangerous"]).since("1.0.0").tips(&[VARYING]).says("Returns when all writes were on disk last."),
    command("shutdown", -1, server::shutdown, ADMIN.and(Flags::ALLOW_BUSY).and(WAITS)).filed("server", &[]).since("1.0.0").says("Stops the node in good order."),

    command("multi", 1, transaction::multi, SESSION.and(FAST).and(Flags::ALLOW_BUSY).and(NOT_QUEUED)).filed("transactions", TRANSACTION).since("1.2.0").says("Begins a transaction."),
    command("exec", 1, transaction::exec, SESSION.and(Flags::SKIP_SLOWLOG).and(NOT_QUEUED)).filed("transactions", TRANSACTION).since("1.2.0").says("Carries out a transaction."),
    command("discard", 1, transaction::discard, SESSION.and(FAST).and(Flags::ALLOW_BUSY).and(NOT_QUEUED)).filed("transactions", TRANSACTION).since("2.0.0").says("Gives up a transaction."),
    command("watch", -2, transaction::watch, SESSION.and(FAST).and(Flags::ALLOW_BUSY).and(NOT_QUEUED).and(ALONE)).keyed(1, -1, 1, &["RO"]).filed("transactions", TRANSACTION).since("2.2.0").says("Lets EXEC fail if a key changes."),
    command("unwatch", 1, transaction::unwatch, SESSION.and(FAST).and(Flags::ALLOW_BUSY)).filed("transactions", TRANSACTION).since("2.2.0").says("Forgets all watched keys."),

    command("fb.stat", 2, forebay::stat, R.and(WAITS)).keyspace(1, 1, 1, &["RO"]).since("0.1.0").says("Tells of an object: version, ETag, and where it stands with its origin."),
    command("fb.use", 2, forebay::use_bucket, SESSION.and(WAITS)).filed("connection", CONNECTION).since("0.1.0").says("Switches to any bucket by name."),
    command("fb.flushwait", -2, forebay::flushwait, Flags::NOSCRIPT.and(WAITS)).keyed(2, -1, 1, &["RO"]).filed("server", &[]).knows(Known::Nothing).since("0.1.0").says("Waits until writes so far are in the origin; returns how many are not."),
];

#[rustfmt::skip]
static OBJECT: &[Command] = &[
    command("object|encoding", 3, key::object_encoding, R).keyspace(2, 2, 1, &["RO"]).since("2.2.3").tips(&[VARYING]).says("Returns what Redis would encode the value as."),
    command("object|freq", 3, key::object_freq, R).keyspace(2, 2, 1, &["RO"]).since("4.0.0").tips(&[VARYING]).says("An error: access frequencies are not tracked."),
    command("object|idletime", 3, key::object_idletime, R).keyspace(2, 2, 1, &["RO"]).since("2.2.3").tips(&[VARYING]).says("Returns 0: accesses are not tracked, so no key is called idle."),
    command("object|refcount", 3, key::object_refcount, R).keyspace(2, 2, 1, &["RO"]).since("2.2.3").tips(&[VARYING]).says("Returns what Redis would count."),
    command("object|help", 2, key::object_help, STALE).filed("generic", KEYSPACE).since("6.2.0").says("Lists the subcommands."),
];

#[rustfmt::skip]
static CLIENT: &[Command] = &[
    command("client|getname", 2, client::getname, SESSION).filed("connection", CONNECTION).since("2.6.9").says("Returns the connection's name."),
    command("client|help", 2, client::help, STALE).filed("connection", CONNECTION).since("5.0.0").says("Lists the subcommands."),
    command("client|id", 2, client::id, SESSION).filed("connection", CONNECTION).since("5.0.0").says("Returns the connection's number."),
    command("client|info", 2, client::info, SESSION).filed("connection", CONNECTION).since("6.2.0").tips(&[VARYING]).says("Tells of this connection."),
    command("client|kill", -3, client::kill, ADMIN).filed("connection", CONNECTION).since("2.4.0").says("Closes connections."),
    command("client|list", -2, client::list, ADMIN).filed("connection", CONNECTION).since("2.4.0").tips(&[VARYING]).says("Tells of all connections."),
    command("client|no-evict", 3, client::no_evict, ADMIN).filed("connection", CONNECTION).since("7.0.0").says("Marks the connection; none is ever evicted here."),
    command("client|no-touch", 3, client::no_touch, SESSION).filed("connection", CONNECTION).since("7.2.0").says("Accepted: accesses are not tracked here."),
    command("client|reply", 3, client::reply, SESSION).filed("connection", CONNECTION).since("3.2.0").says("Turns replies off and on."),
    command("client|setinfo", 4, client::setinfo, SESSION).filed("connection", CONNECTION).since("7.2.0").says("Takes the client library's name."),
    command("client|setname", 3, client::setname, SESSION).filed("connection", CONNECTION).since("2.6.9").says("Names the connection."),
];

#[rustfmt::skip]
static COMMAND: &[Command] = &[
    command("command|count", 2, introspect::count, STALE).filed("server", CONNECTION).since("2.8.13").says("Counts the commands."),
    command("command|docs", -2, introspect::docs, STALE).filed("server", CONNECTION).since("7.0.0").tips(&[UNORDERED]).says("Says what commands are for."),
    command("command|getkeys", -4, introspect::getkeys, STALE).filed("server", CONNECTION).since("2.8.13").says("Returns the keys of a request."),
    command("command|help", 2, introspect::help, STALE).filed("server", CONNECTION).since("5.0.0").says("Lists the subcommands."),
    command("command|info", -2, introspect::info, STALE).filed("server", CONNECTION).since("2.8.13").tips(&[UNORDERED]).says("Tells of some commands."),
    command("command|list", -2, introspect::list, STALE).filed("server", CONNECTION).since("7.0.0").tips(&[UNORDERED]).says("Returns the commands' names."),
];

#[rustfmt::skip]
static CONFIG: &[Command] = &[
    command("config|get", -3, config::get, ADMIN).filed("server", &[]).since("2.0.0").says("Shows settings."),
    command("config|help", 2, config::help, STALE).filed("server", &[]).since("5.0.0").says("Lists the subcommands."),
    command("config|resetstat", 2, config::resetstat, ADMIN).filed("server", &[]).since("2.0.0").says("Sets the counters of INFO to zero."),
    command("config|rewrite", 2, config::rewrite, ADMIN).filed("server", &[]).since("2.8.0").says("Refused: the config file is the operator's."),
    command("config|set", -4, config::set, ADMIN).filed("server", &[]).since("2.0.0").tips(&["request_policy:all_nodes", ALL_SUCCEEDED]).says("Changes settings until the next start."),
];

#[rustfmt::skip]
static MEMORY: &[Command] = &[
    command("memory|help", 2, key::memory_help, STALE).filed("server", &[]).since("4.0.0").says("Lists the subcommands."),
    command("memory|usage", -3, key::memory_usage, R).keyed(2, 2, 1, &["RO"]).filed("server", &[]).since("4.0.0").says("Returns the bytes that a key and its value take."),
];

/// A command with subcommands takes part only through them.
fn container(
    planner: &mut super::plan::Planner<'_>,
    _: super::args::Args<'_>,
) -> Result<Plan, crate::error::CommandError> {
    Err(crate::error::CommandError::wrong_arity(planner.command.name))
}

const fn command(name: &'static str, arity: i32, plan: PlanFn, flags: Flags) -> Command {
    Command {
        name,
        arity,
        flags,
        keys: Places::NONE,
        values: Places::NONE,
        known: Known::Nothing,
        plan,
        subcommands: &[],
        about: About { group: "", since: "", summary: "", categories: &[], tips: &[], access: &[] },
    }
}

impl Command {
    const fn keyed(mut self, first: i32, last: i32, step: i32, access: &'static [&'static str]) -> Command {
        self.keys = Places { first, last, step };
        self.known = Known::Keys;
        self.about.access = access;
        self
    }

    const fn knows(mut self, known: Known) -> Command {
        self.known = known;
        self
    }

    const fn value(self, place: i32) -> Command {
        self.values(place, place, 1)
    }

    const fn values(mut self, first: i32, last: i32, step: i32) -> Command {
        self.values = Places { first, last, step };
        self
    }

    const fn filed(mut self, group: &'static str, categories: &'static [&'static str]) -> Command {
        self.about.group = group;
        self.about.categories = categories;
        self
    }

    const fn string(self, first: i32, last: i32, step: i32, access: &'static [&'static str]) -> Command {
        self.keyed(first, last, step, access).filed("string", STRING)
    }

    const fn keyspace(self, first: i32, last: i32, step: i32, access: &'static [&'static str]) -> Command {
        self.keyed(first, last, step, access).filed("generic", KEYSPACE)
    }

    const fn since(mut self, version: &'static str) -> Command {
        self.about.since = version;
        self
    }

    const fn says(mut self, summary: &'static str) -> Command {
        self.about.summary = summary;
        self
    }

    const fn tips(mut self, tips: &'static [&'static str]) -> Command {
        self.about.tips = tips;
        self
    }

    const fn with(mut self, subcommands: &'static [Command]) -> Command {
        self.subcommands = subcommands;
        self
    }
}

/// Longest command name, in bytes.
const NAME_BYTES_MAX: usize = 16;

/// A name as one number, letters in upper case; `None` if it is too long for a command's.
#[inline]
pub(super) const fn name_key(name: &[u8]) -> Option<u128> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut key = [0; NAME_BYTES_MAX];
    let mut at = 0;
    while at < name.len() {
        key[at] = name[at].to_ascii_uppercase();
        at += 1;
    }
    Some(u128::from_le_bytes(key))
}

/// Where a name is looked for first in [`INDEX`].
#[inline]
pub(super) const fn slot(key: u128) -> usize {
    let folded = (key as u64) ^ ((key >> 64) as u64).rotate_left(29);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize
}

/// Command names by place in [`COMMANDS`].
pub(super) static KEYS: [u128; COMMANDS.len()] = {
    let mut keys = [0; COMMANDS.len()];
    let mut place = 0;
    while place < COMMANDS.len() {
        keys[place] = match name_key(COMMANDS[place].name.as_bytes()) {
            Some(key) => key,
            None => panic!("a command's name is too long"),
        };
        place += 1;
    }
    keys
};

/// An open-addressed table of place + 1, 0 for free: filled when the program is compiled.
pub(super) static INDEX: [u8; 512] = {
    assert!(COMMANDS.len() < 255);
    let mut index = [0; 512];
    let mut place = 0;
    while place < COMMANDS.len() {
        let mut at = slot(KEYS[place]);
        while index[at] != 0 {
            at = (at + 1) % index.len();
        }
        index[at] = place as u8 + 1;
        place += 1;
    }
    index
};
