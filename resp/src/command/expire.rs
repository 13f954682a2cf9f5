//! Expiry times. Relative ones become absolute here, before they are replicated.

use forebay_storage::mutation::{ExpireIf, Mutation};

use super::args::Args;
use super::plan::{Needs, Plan, Planner, Read, Seen};
use super::string::one_if_done;
use crate::error::CommandError;
use crate::reply::Reply;

type Result<T> = std::result::Result<T, CommandError>;

/// What a client counts time in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeUnit {
    Seconds,
    Milliseconds,
}

/// The expiry time of SET and its kin in Unix milliseconds: `value` counts from `base_ms`, or from the epoch.
pub(super) fn deadline(value: i64, unit: TimeUnit, base_ms: Option<u64>, command: &str) -> Result<u64> {
    let refused = || CommandError::expire_time(command);
    if value <= 0 {
        return Err(refused());
    }
    let at_ms = absolute(value, unit, base_ms.unwrap_or(0)).ok_or_else(refused)?;
    u64::try_from(at_ms).map_err(|_| refused())
}

/// `value` after `base_ms` in milliseconds, unless that leaves the range of i64.
fn absolute(value: i64, unit: TimeUnit, base_ms: u64) -> Option<i64> {
    let ms = match unit {
        TimeUnit::Seconds => value.checked_mul(1000)?,
        TimeUnit::Milliseconds => value,
    };
    ms.checked_add_unsigned(base_ms)
}

pub(super) fn expire(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    expire_after(planner, args, TimeUnit::Seconds, true)
}

pub(super) fn pexpire(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    expire_after(planner, args, TimeUnit::Milliseconds, true)
}

pub(super) fn expireat(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    expire_after(planner, args, TimeUnit::Seconds, false)
}

pub(super) fn pexpireat(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    expire_after(planner, args, TimeUnit::Milliseconds, false)
}

/// `EXPIRE key time [NX | XX | GT | LT]`
fn expire_after(planner: &mut Planner<'_>, args: Args<'_>, unit: TimeUnit, relative: bool) -> Result<Plan> {
    let condition = parse_condition(args)?;
    let base_ms = if relative { planner.now_ms() } else { 0 };
    let at_ms = absolute(args.integer(2)?, unit, base_ms)
        .ok_or_else(|| CommandError::expire_time(planner.command.name))?;
    let key = planner.key(args, 1)?;
    let Some(bucket) = planner.bucket() else {
        planner.reply.integer(0);
        return Ok(Plan::Answered);
    };
    // Whatever lies before the epoch has passed as well as the epoch has.
    let at_ms = u64::try_from(at_ms).unwrap_or(0);
    Ok(planner.write(&Mutation::Expire { bucket, key, at_ms, condition }, one_if_done))
}

fn parse_condition(args: Args<'_>) -> Result<ExpireIf> {
    let mut condition = ExpireIf::default();
    for option in 3..args.len() {
        if args.is(option, "nx") {
            condition.nx = true;
        } else if args.is(option, "xx") {
            condition.xx = true;
        } else if args.is(option, "gt") {
            condition.gt = true;
        } else if args.is(option, "lt") {
            condition.lt = true;
        } else {
            return Err(CommandError::bytes([b"ERR Unsupported option ", args.at(option)].concat()));
        }
    }
    if condition.nx && (condition.xx || condition.gt || condition.lt) {
        return Err(CommandError::new("ERR NX and XX, GT or LT options at the same time are not compatible"));
    }
    if condition.gt && condition.lt {
        return Err(CommandError::new("ERR GT and LT options at the same time are not compatible"));
    }
    Ok(condition)
}

pub(super) fn persist(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let key = planner.key(args, 1)?;
    let Some(bucket) = planner.bucket() else {
        planner.reply.integer(0);
        return Ok(Plan::Answered);
    };
    Ok(planner.write(&Mutation::Persist { bucket, key }, one_if_done))
}

pub(super) fn ttl(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    read_time(planner, args, |seen, reply| time_reply(seen, reply, |at, now| (left(at, now) + 500) / 1000))
}

pub(super) fn pttl(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    read_time(planner, args, |seen, reply| time_reply(seen, reply, left))
}

pub(super) fn expiretime(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    read_time(planner, args, |seen, reply| time_reply(seen, reply, |at, _| at.saturating_add(500) / 1000))
}

pub(super) fn pexpiretime(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    read_time(planner, args, |seen, reply| time_reply(seen, reply, |at, _| at))
}

fn read_time(planner: &Planner<'_>, args: Args<'_>, reply: super::plan::SeenFn) -> Result<Plan> {
    planner.key(args, 1)?;
    Ok(Plan::Read(Read::One { key: 1, needs: Needs::Nothing, reply }))
}

fn left(at_ms: u64, now_ms: u64) -> u64 {
    at_ms.saturating_sub(now_ms)
}

/// -2 without a key, -1 without an expiry time, else what `show` makes of it and the present time.
fn time_reply(seen: &Seen<'_>, reply: &mut Reply, show: fn(u64, u64) -> u64) -> Result<()> {
    match seen.row.map(|row| row.expires_at_ms()) {
        None => reply.integer(-2),
        Some(None) => reply.integer(-1),
        Some(Some(at_ms)) => reply.count(show(at_ms, seen.store.now_ms())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_refused_where_redis_refuses_them() {
        let seconds = |value, base| deadline(value, TimeUnit::Seconds, base, "set");
        assert_eq!(seconds(10, Some(1_000)), Ok(11_000));
        assert_eq!(seconds(10, None), Ok(10_000));
        assert_eq!(deadline(5, TimeUnit::Milliseconds, Some(1_000), "set"), Ok(1_005));
        for value in [0, -1, i64::MAX, i64::MAX / 1000 + 1] {
            assert_eq!(seconds(value, Some(1)), Err(CommandError::expire_time("set")), "{value}");
        }
        assert!(deadline(i64::MAX, TimeUnit::Milliseconds, Some(1), "set").is_err());
        assert!(deadline(i64::MAX, TimeUnit::Milliseconds, None, "set").is_ok());
    }
}
