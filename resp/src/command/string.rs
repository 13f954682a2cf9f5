//! Strings.

use std::ops::Range;

use forebay_storage::mutation::{Existence, ExpireIf, Guard, Mutation, Outcome, SetExpiry};

use super::args::Args;
use super::expire::{TimeUnit, deadline};
use super::plan::{Needs, Plan, Planner, Read, Seen};
use crate::error::CommandError;
use crate::reply::Reply;

/// A text of this length is no float to Redis.
const REDIS_FLOAT_BYTES_MAX: usize = 5 * 1024;

type Result<T> = std::result::Result<T, CommandError>;

#[inline]
pub(super) fn get(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    planner.key(args, 1)?;
    Ok(Plan::Read(VALUE))
}

/// `SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]`
pub(super) fn set(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let options = Options::parse(args, 3, Takes::Set)?;
    let expiry = match options.expiry {
        Some(expiry) => SetExpiry::At(expiry.deadline(planner, args)?),
        None if options.keep_ttl => SetExpiry::Keep,
        None => SetExpiry::Clear,
    };
    let bucket = planner.bucket_to_write()?;
    let (key, value) = (planner.key(args, 1)?, planner.value(args, 2)?);
    let mutation = Mutation::SetString { bucket, key, value, expiry, existence: options.existence };
    Ok(match options.get {
        true => planner.read_then_write(VALUE, &mutation, ok_or_nil),
        false => planner.write(&mutation, ok_or_nil),
    })
}

pub(super) fn setnx(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let mutation = plain_set(planner, args, 1, 2, SetExpiry::Clear, Existence::Absent)?;
    Ok(planner.write(&mutation, one_if_done))
}

pub(super) fn setex(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    set_with_ttl(planner, args, TimeUnit::Seconds)
}

pub(super) fn psetex(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    set_with_ttl(planner, args, TimeUnit::Milliseconds)
}

fn set_with_ttl(planner: &mut Planner<'_>, args: Args<'_>, unit: TimeUnit) -> Result<Plan> {
    let at_ms = deadline(args.integer(2)?, unit, Some(planner.now_ms()), planner.command.name)?;
    let mutation = plain_set(planner, args, 1, 3, SetExpiry::At(at_ms), Existence::Any)?;
    Ok(planner.write(&mutation, ok_or_nil))
}

pub(super) fn getset(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let mutation = plain_set(planner, args, 1, 2, SetExpiry::Clear, Existence::Any)?;
    Ok(planner.read_then_write(VALUE, &mutation, ok_or_nil))
}

pub(super) fn getdel(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let key = planner.key(args, 1)?;
    let Some(bucket) = planner.bucket() else { return Ok(Plan::Read(VALUE)) };
    Ok(planner.read_then_write(VALUE, &Mutation::Delete { bucket, key }, ok_or_nil))
}

/// `GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]`
pub(super) fn getex(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let options = Options::parse(args, 2, Takes::GetEx)?;
    let key = planner.key(args, 1)?;
    let Some(bucket) = planner.bucket() else { return Ok(Plan::Read(VALUE)) };
    let mutation = match options.expiry {
        None if options.persist => Mutation::Persist { bucket, key },
        None => return Ok(Plan::Read(VALUE)),
        Some(expiry) => match expiry.deadline(planner, args) {
            Ok(at_ms) => Mutation::Expire { bucket, key, at_ms, condition: ExpireIf::default() },
            // Redis looks for the key first: an absent one is nil whatever the time says.
            Err(_) => {
                return Ok(Plan::Read(Read::One { key: 1, needs: Needs::Nothing, reply: nil_or_bad_time }));
            }
        },
    };
    Ok(planner.read_then_write(VALUE, &mutation, ok_or_nil))
}

pub(super) fn mget(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    for key in 1..args.len() {
        planner.key(args, key)?;
    }
    Ok(Plan::Read(Read::Each { first: 1, reply: value }))
}

pub(super) fn mset(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let sets = pairs(planner, args, Existence::Any)?;
    match sets.as_slice() {
        [only] => Ok(planner.write(only, ok_or_nil)),
        _ => Ok(planner.write_together(sets.into_iter(), |_, reply| reply.ok())),
    }
}

pub(super) fn msetnx(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let sets = pairs(planner, args, Existence::Any)?;
    let bucket = planner.bucket_to_write()?;
    let guards = (1..args.len())
        .step_by(2)
        .map(|key| Guard::VersionIs { bucket, key: args.at(key), version: None })
        .collect();
    Ok(planner.write_guarded(guards, sets, one_if_done))
}

pub(super) fn append(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let bucket = planner.bucket_to_write()?;
    let (key, value) = (planner.key(args, 1)?, planner.value(args, 2)?);
    Ok(planner.write(&Mutation::Append { bucket, key, value }, length))
}

pub(super) fn strlen(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    planner.key(args, 1)?;
    Ok(Plan::Read(LENGTH))
}

/// GETRANGE key start end
pub(super) fn getrange(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    args.integer(2)?;
    args.integer(3)?;
    planner.key(args, 1)?;
    Ok(Plan::Read(Read::One { key: 1, needs: Needs::Range(range_of_value), reply: value_or_empty }))
}

/// SETRANGE key offset value
pub(super) fn setrange(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let Ok(offset) = u64::try_from(args.integer(2)?) else {
        return Err(CommandError::new("ERR offset is out of range"));
    };
    let (key, value) = (planner.key(args, 1)?, planner.value(args, 3)?);
    if value.is_empty() {
        return Ok(Plan::Read(LENGTH));
    }
    let len = offset.saturating_add(value.len());
    if len > planner.server.store.body_bytes_max() {
        return Err(CommandError::STRING_TOO_LONG);
    }
    let bucket = planner.bucket_to_write()?;
    Ok(planner.write(&Mutation::SetRange { bucket, key, offset, value }, length))
}

pub(super) fn incr(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    add(planner, args, 1)
}

pub(super) fn decr(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    add(planner, args, -1)
}

pub(super) fn incrby(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    add(planner, args, args.integer(2)?)
}

pub(super) fn decrby(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let delta = args.integer(2)?.checked_neg();
    add(planner, args, delta.ok_or(CommandError::new("ERR decrement would overflow"))?)
}

pub(super) fn incrbyfloat(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    if args.at(2).len() >= REDIS_FLOAT_BYTES_MAX {
        return Err(CommandError::NOT_A_FLOAT);
    }
    let bucket = planner.bucket_to_write()?;
    let key = planner.key(args, 1)?;
    Ok(planner.write(&Mutation::IncrByFloat { bucket, key, delta: args.at(2) }, text))
}

fn add(planner: &mut Planner<'_>, args: Args<'_>, delta: i64) -> Result<Plan> {
    let bucket = planner.bucket_to_write()?;
    let key = planner.key(args, 1)?;
    Ok(planner.write(&Mutation::IncrBy { bucket, key, delta }, integer))
}

/// A SET of the arguments at `key` and `value`.
fn plain_set<'a>(
    planner: &Planner<'a>,
    args: Args<'a>,
    key: usize,
    value: usize,
    expiry: SetExpiry,
    existence: Existence,
) -> Result<Mutation<'a>> {
    let bucket = planner.bucket_to_write()?;
    let (key, value) = (planner.key(args, key)?, planner.value(args, value)?);
    Ok(Mutation::SetString { bucket, key, value, expiry, existence })
}

/// The sets of MSET and MSETNX.
fn pairs<'a>(planner: &Planner<'a>, args: Args<'a>, existence: Existence) -> Result<Vec<Mutation<'a>>> {
    if args.len().is_multiple_of(2) {
        return Err(CommandError::wrong_arity(planner.command.name));
    }
    (1..args.len())
        .step_by(2)
        .map(|key| plain_set(planner, args, key, key + 1, SetExpiry::Clear, existence))
        .collect()
}

const VALUE: Read = Read::One { key: 1, needs: Needs::Body, reply: value };
const LENGTH: Read = Read::One {
    key: 1,
    needs: Needs::Nothing,
    reply: |seen, reply| {
        reply.count(seen.body_len());
        Ok(())
    },
};

impl Seen<'_> {
    /// Length of the value in bytes, 0 if there is none.
    fn body_len(&self) -> u64 {
        self.row.map_or(0, |row| row.body_len())
    }
}

#[inline]
fn value(seen: &Seen<'_>, reply: &mut Reply) -> Result<()> {
    match seen.row {
        Some(_) => seen.write_body(reply),
        None => reply.nil(),
    }
    Ok(())
}

fn nil_or_bad_time(seen: &Seen<'_>, reply: &mut Reply) -> Result<()> {
    match seen.row {
        None => reply.nil(),
        // What the planner refused it by.
        Some(_) => {
            let options = Options::parse(seen.args, 2, Takes::GetEx)?;
            let bad =
                options.expiry.map(|expiry| expiry.deadline_at(seen.store.now_ms(), "getex", seen.args));
            bad.transpose()?;
            reply.bulk(b"");
        }
    }
    Ok(())
}

fn value_or_empty(seen: &Seen<'_>, reply: &mut Reply) -> Result<()> {
    seen.write_body(reply);
    Ok(())
}

/// The bytes that GETRANGE asks for.
fn range_of_value(args: Args<'_>, body_len: u64) -> Range<u64> {
    // Judged when it was planned.
    let (Ok(start), Ok(end)) = (args.integer(2), args.integer(3)) else { return 0..0 };
    let len = i64::try_from(body_len).unwrap_or(i64::MAX);
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from_end = |place: i64| if place < 0 { (len.saturating_add(place)).max(0) } else { place };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if start > end { 0..0 } else { start as u64..end as u64 + 1 }
}

fn ok_or_nil(outcomes: &[Outcome], reply: &mut Reply) {
    match outcomes.first() {
        Some(Outcome::Unmet) => reply.nil(),
        _ => reply.ok(),
    }
}

/// 1 if the first outcome is that it was done, else 0.
pub(super) fn one_if_done(outcomes: &[Outcome], reply: &mut Reply) {
    reply.count(u64::from(matches!(outcomes.first(), Some(Outcome::Done(_)))));
}

fn length(outcomes: &[Outcome], reply: &mut Reply) {
    match outcomes.first() {
        Some(Outcome::Length(len)) => reply.count(*len),
        _ => reply.error(&UNEXPECTED),
    }
}

fn integer(outcomes: &[Outcome], reply: &mut Reply) {
    match outcomes.first() {
        Some(Outcome::Integer(value)) => reply.integer(*value),
        _ => reply.error(&UNEXPECTED),
    }
}

fn text(outcomes: &[Outcome], reply: &mut Reply) {
    match outcomes.first() {
        Some(Outcome::Text(value)) => reply.bulk(value),
        _ => reply.error(&UNEXPECTED),
    }
}

const UNEXPECTED: CommandError = CommandError::new("ERR forebay: internal error, an outcome of another kind");

/// The options of SET and GETEX.
#[derive(Debug)]
struct Options {
    existence: Existence,
    get: bool,
    keep_ttl: bool,
    persist: bool,
    expiry: Option<Expiry>,
}

/// EX, PX, EXAT or PXAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expiry {
    unit: TimeUnit,
    relative: bool,
    /// Place of its number.
    value: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Set,
    GetEx,
}

impl Options {
    fn parse(args: Args<'_>, first: usize, takes: Takes) -> Result<Options> {
        let mut options =
            Options { existence: Existence::Any, get: false, keep_ttl: false, persist: false, expiry: None };
        let set = takes == Takes::Set;
        let mut at = first;
        while at < args.len() {
            let is = |word| args.is(at, word);
            if set && is("nx") && options.existence != Existence::Present {
                options.existence = Existence::Absent;
            } else if set && is("xx") && options.existence != Existence::Absent {
                options.existence = Existence::Present;
            } else if set && is("get") {
                options.get = true;
            } else if set && is("keepttl") && options.expiry.is_none() {
                options.keep_ttl = true;
            } else if !set && is("persist") && options.expiry.is_none() {
                options.persist = true;
            } else if let Some((unit, relative)) = Expiry::kind(args.at(at))
                && !options.keep_ttl
                && !options.persist
                && at + 1 < args.len()
                && options.expiry.is_none_or(|before| (before.unit, before.relative) == (unit, relative))
            {
                options.expiry = Some(Expiry { unit, relative, value: at + 1 });
                at += 1;
            } else {
                return Err(CommandError::SYNTAX);
            }
            at += 1;
        }
        Ok(options)
    }
}

impl Expiry {
    fn kind(word: &[u8]) -> Option<(TimeUnit, bool)> {
        [
            ("ex", (TimeUnit::Seconds, true)),
            ("px", (TimeUnit::Milliseconds, true)),
            ("exat", (TimeUnit::Seconds, false)),
            ("pxat", (TimeUnit::Milliseconds, false)),
        ]
        .into_iter()
        .find_map(|(name, kind)| word.eq_ignore_ascii_case(name.as_bytes()).then_some(kind))
    }

    fn deadline(self, planner: &Planner<'_>, args: Args<'_>) -> Result<u64> {
        self.deadline_at(planner.now_ms(), planner.command.name, args)
    }

    fn deadline_at(self, now_ms: u64, command: &str, args: Args<'_>) -> Result<u64> {
        deadline(args.integer(self.value)?, self.unit, self.relative.then_some(now_ms), command)
    }
}
