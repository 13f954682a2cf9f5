//! Keys, whatever they hold: deletion, renaming, copies, and what is told of one key.

use forebay_storage::mutation::{Mutation, Outcome};

use super::args::Args;
use super::plan::{Needs, Plan, Planner, Read, Seen, SeenBody};
use super::string::one_if_done;
use crate::error::CommandError;
use crate::keyspace::DatabaseNames;
use crate::number::parse_i64;
use crate::reply::Reply;

type Result<T> = std::result::Result<T, CommandError>;

/// DEL and UNLINK: here both take the same time, whatever the key holds.
pub(super) fn del(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    for key in 1..args.len() {
        planner.key(args, key)?;
    }
    let Some(bucket) = planner.bucket() else {
        planner.reply.integer(0);
        return Ok(Plan::Answered);
    };
    if args.len() == 2 {
        return Ok(planner.write(&Mutation::Delete { bucket, key: args.at(1) }, done_count));
    }
    let deletes = args.from(1).iter().map(|key| Mutation::Delete { bucket, key });
    Ok(planner.write_together(deletes, done_count))
}

fn done_count(outcomes: &[Outcome], reply: &mut Reply) {
    let done = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Done(_))).count();
    reply.count(done as u64);
}

/// EXISTS and TOUCH.
pub(super) fn count(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    for key in 1..args.len() {
        planner.key(args, key)?;
    }
    Ok(Plan::Read(Read::Count { first: 1 }))
}

pub(super) fn kind(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    planner.key(args, 1)?;
    let reply = |seen: &Seen<'_>, reply: &mut Reply| {
        reply.simple(if seen.row.is_some() { "string" } else { "none" });
        Ok(())
    };
    Ok(Plan::Read(Read::One { key: 1, needs: Needs::Nothing, reply }))
}

pub(super) fn rename(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    move_key(planner, args, false)
}

pub(super) fn renamenx(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    move_key(planner, args, true)
}

fn move_key(planner: &mut Planner<'_>, args: Args<'_>, if_absent: bool) -> Result<Plan> {
    let (from, to) = (planner.key(args, 1)?, planner.key(args, 2)?);
    let Some(bucket) = planner.bucket() else { return Err(CommandError::NO_SUCH_KEY) };
    if from == to {
        let reply = if if_absent { zero_if_there } else { ok_if_there };
        return Ok(Plan::Read(Read::One { key: 1, needs: Needs::Nothing, reply }));
    }
    let reply = if if_absent { one_if_done } else { |_: &[Outcome], reply: &mut Reply| reply.ok() };
    Ok(planner.write(&Mutation::Rename { bucket, from, to, if_absent }, reply))
}

fn ok_if_there(seen: &Seen<'_>, reply: &mut Reply) -> Result<()> {
    seen.row.ok_or(CommandError::NO_SUCH_KEY)?;
    reply.ok();
    Ok(())
}

fn zero_if_there(seen: &Seen<'_>, reply: &mut Reply) -> Result<()> {
    seen.row.ok_or(CommandError::NO_SUCH_KEY)?;
    reply.integer(0);
    Ok(())
}

/// `COPY source destination [DB n] [REPLACE]`
pub(super) fn copy(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let target = copy_target(&planner.server.keyspace, args)?;
    let replace = (3..args.len()).any(|option| args.is(option, "replace"));
    let (from, to) = (planner.key(args, 1)?, planner.key(args, 2)?);
    let to_database = match target {
        Some(number) => {
            let database = planner.server.keyspace.database(&planner.server.store, number);
            planner.session.place_of(database)
        }
        None => planner.database,
    };
    if to_database == planner.database && from == to {
        return Err(CommandError::new("ERR source and destination objects are the same"));
    }
    let Some(from_bucket) = planner.bucket() else {
        planner.reply.integer(0);
        return Ok(Plan::Answered);
    };
    let Some(to_bucket) = planner.session.database_at(to_database).bucket else {
        return planner.bucket_to_write().map(|_| Plan::Answered);
    };
    let mutation = Mutation::Copy { from_bucket, from, to_bucket, to, replace };
    Ok(planner.write(&mutation, one_if_done))
}

/// The database that a COPY goes to, if it says one; judges its options on the way.
pub(crate) fn copy_target(names: &DatabaseNames, args: Args<'_>) -> Result<Option<u32>> {
    let mut target = None;
    let mut option = 3;
    while option < args.len() {
        if args.is(option, "db") && option + 1 < args.len() {
            target = Some(names.checked(args.int(option + 1)?)?);
            option += 1;
        } else if !args.is(option, "replace") {
            return Err(CommandError::SYNTAX);
        }
        option += 1;
    }
    Ok(target)
}

/// OBJECT ENCODING: what Redis would choose for such a value.
pub(super) fn object_encoding(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    about_object(planner, args, |seen, reply| {
        if seen.row.is_none() {
            reply.nil();
            return Ok(());
        }
        let name: &[u8] = match seen.row.map_or(0, |row| row.body_len()) {
            len if len <= NUMBER_BYTES_MAX && number(seen).is_some() => b"int",
            len if len <= EMBSTR_BYTES_MAX => b"embstr",
            _ => b"raw",
        };
        reply.bulk(name);
        Ok(())
    })
}

/// Up to this length Redis keeps a string beside its header.
const EMBSTR_BYTES_MAX: u64 = 44;
/// Longest text of an integer, in bytes.
const NUMBER_BYTES_MAX: u64 = 20;

/// The value as an integer; the read asked for no more of it than one can have.
fn number(seen: &Seen<'_>) -> Option<i64> {
    match seen.body {
        SeenBody::Here(bytes) => parse_i64(bytes),
        SeenBody::Long(..) => None,
    }
}

pub(super) fn object_freq(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    about_object(planner, args, |seen, reply| {
        if seen.row.is_none() {
            reply.nil();
            return Ok(());
        }
        Err(CommandError::new(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
             switching between policies at runtime LRU and LFU data will take some time to adjust.",
        ))
    })
}

/// OBJECT IDLETIME: reads leave no trace here, so no key is ever called idle: something might delete it.
pub(super) fn object_idletime(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    about_object(planner, args, |seen, reply| {
        match seen.row {
            Some(_) => reply.integer(0),
            None => reply.nil(),
        }
        Ok(())
    })
}

/// OBJECT REFCOUNT: Redis shares the integers below 10,000.
pub(super) fn object_refcount(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    about_object(planner, args, |seen, reply| {
        if seen.row.is_none() {
            reply.nil();
            return Ok(());
        }
        let shared = number(seen).is_some_and(|value| (0..10_000).contains(&value));
        reply.integer(if shared { i64::from(i32::MAX) } else { 1 });
        Ok(())
    })
}

fn about_object(
    planner: &Planner<'_>,
    args: Args<'_>,
    about: fn(&Seen<'_>, &mut Reply) -> Result<()>,
) -> Result<Plan> {
    planner.key(args, 2)?;
    let needs = Needs::Range(|_, body_len| 0..body_len.min(NUMBER_BYTES_MAX + 1));
    Ok(Plan::Read(Read::One { key: 2, needs, reply: about }))
}

pub(super) fn object_help(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    help(
        planner,
        &[
            "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "ENCODING <key>",
            "    Return the kind of internal representation used in order to store the value",
            "    associated with a <key>.",
            "FREQ <key>",
            "    Return the access frequency index of the <key>. The returned integer is",
            "    proportional to the logarithm of the recent access frequency of the key.",
            "IDLETIME <key>",
            "    Return the idle time of the <key>, that is the approximated number of",
            "    seconds elapsed since the last access to the key.",
            "REFCOUNT <key>",
            "    Return the number of references of the value associated with the specified",
            "    <key>.",
            "HELP",
            "    Prints this help.",
        ],
    )
}

/// `MEMORY USAGE key [SAMPLES n]`
pub(super) fn memory_usage(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let mut option = 3;
    while option < args.len() {
        if !args.is(option, "samples") || option + 1 >= args.len() {
            return Err(CommandError::SYNTAX);
        }
        if args.integer(option + 1)? < 0 {
            return Err(CommandError::SYNTAX);
        }
        option += 2;
    }
    planner.key(args, 2)?;
    let about = |seen: &Seen<'_>, reply: &mut Reply| {
        let Some(row) = seen.row else {
            reply.nil();
            return Ok(());
        };
        let outside = if row.inline_body().is_some() { 0 } else { row.body_len() };
        reply.count((row.encoded_len() + seen.args.at(2).len()) as u64 + outside);
        Ok(())
    };
    Ok(Plan::Read(Read::One { key: 2, needs: Needs::Nothing, reply: about }))
}

pub(super) fn memory_help(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    help(
        planner,
        &[
            "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "USAGE <key> [SAMPLES <count>]",
            "    Return the bytes that <key> and its value take. The count changes nothing.",
            "HELP",
            "    Prints this help.",
        ],
    )
}

/// Answers one of the HELP subcommands.
pub(super) fn help(planner: &mut Planner<'_>, lines: &[&str]) -> Result<Plan> {
    planner.reply.array(lines.len());
    for line in lines {
        planner.reply.simple(line);
    }
    Ok(Plan::Answered)
}
