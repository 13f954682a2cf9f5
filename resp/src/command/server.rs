//! The node as a whole: time, durability, emptying, stopping.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_storage::mutation::{Mutation, Outcome};
use forebay_storage::object::BucketId;
use forebay_storage::store::SyncMode;

use super::args::Args;
use super::plan::{Plan, Planner, Waiting};
use crate::error::CommandError;
use crate::reply::Reply;

/// How often WAITAOF looks whether a sync has happened.
const SYNC_POLL: Duration = Duration::from_millis(20);

type Result<T> = std::result::Result<T, CommandError>;

pub(super) fn time(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    let now = since_epoch();
    planner.reply.array(2);
    planner.reply.bulk(itoa::Buffer::new().format(now.as_secs()).as_bytes());
    planner.reply.bulk(itoa::Buffer::new().format(now.subsec_micros()).as_bytes());
    Ok(Plan::Answered)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `FLUSHDB [ASYNC | SYNC]`: either way keys are gone at once and their space comes back in the background.
/// Refused in a bucket that is no Redis database.
pub(super) fn flushdb(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    check_flush_options(args)?;
    if planner.session.database_number() < 0 {
        return Err(CommandError::new(
            "ERR forebay: FLUSHDB empties Redis databases only; this bucket is none",
        ));
    }
    flush(planner, Vec::from_iter(planner.bucket()))
}

/// `FLUSHALL [ASYNC | SYNC]`: every bucket that is a Redis database, and no other.
pub(super) fn flushall(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    check_flush_options(args)?;
    let buckets = planner.server.keyspace.existing(&planner.server.store);
    flush(planner, buckets.into_iter().map(|(_, bucket)| bucket.id).collect())
}

fn check_flush_options(args: Args<'_>) -> Result<()> {
    match args.len() {
        1 => Ok(()),
        2 if args.is(1, "async") || args.is(1, "sync") => Ok(()),
        _ => Err(CommandError::SYNTAX),
    }
}

fn flush(planner: &mut Planner<'_>, buckets: Vec<BucketId>) -> Result<Plan> {
    if buckets.is_empty() {
        planner.reply.ok();
        return Ok(Plan::Answered);
    }
    let ok = |_: &[Outcome], reply: &mut Reply| reply.ok();
    match buckets.as_slice() {
        [only] => Ok(planner.write(&Mutation::FlushBucket { bucket: *only }, ok)),
        _ => {
            let flushes = buckets.into_iter().map(|bucket| Mutation::FlushBucket { bucket });
            Ok(planner.write_together(flushes, ok))
        }
    }
}

/// WAIT numreplicas timeout: with one voter no replica holds anything, and waiting would not change that.
pub(super) fn wait(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    args.integer(1)?;
    check_timeout(args, 2)?;
    planner.reply.integer(0);
    Ok(Plan::Answered)
}

fn check_timeout(args: Args<'_>, index: usize) -> Result<Duration> {
    let timeout = args
        .integer(index)
        .map_err(|_| CommandError::new("ERR timeout is not an integer or out of range"))?;
    match u64::try_from(timeout) {
        Ok(ms) => Ok(Duration::from_millis(ms)),
        Err(_) => Err(CommandError::new("ERR timeout is negative")),
    }
}

/// WAITAOF numlocal numreplicas timeout
pub(super) fn waitaof(_: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    if !(0..=1).contains(&args.integer(1)?) {
        return Err(CommandError::new("ERR value is out of range, value must between 0 and 1"));
    }
    if args.integer(2)? < 0 {
        return Err(CommandError::new("ERR value is out of range, must be positive"));
    }
    check_timeout(args, 3)?;
    Ok(Plan::Wait(|waiting| Box::pin(wait_for_sync(waiting))))
}

/// With `sync = always` whatever was acknowledged is on disk. With `everysec` it is once a sync that began
/// later is done: the second one from now is such.
async fn wait_for_sync(waiting: Waiting<'_>) -> Result<()> {
    let Waiting { server, args, reply, .. } = waiting;
    let synced = match server.store.sync_mode() {
        SyncMode::Always => true,
        SyncMode::EverySec if args.integer(1)? == 0 => false,
        SyncMode::EverySec => {
            let timeout = check_timeout(args, 3)?;
            let limit = if timeout.is_zero() { Duration::from_secs(3) } else { timeout };
            let deadline = tokio::time::Instant::now() + limit;
            let syncs = server.store.stats().fsyncs_total;
            loop {
                if server.store.stats().fsyncs_total >= syncs + 2 {
                    break true;
                }
                if tokio::time::Instant::now() >= deadline {
                    break false;
                }
                tokio::time::sleep(SYNC_POLL).await;
            }
        }
    };
    reply.array(2);
    reply.integer(i64::from(synced));
    reply.integer(0);
    Ok(())
}

/// SAVE: a write is on disk when it is acknowledged, so there is nothing left to do but to note the time.
pub(super) fn save(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    note_save(planner);
    planner.reply.ok();
    Ok(Plan::Answered)
}

/// `BGSAVE [SCHEDULE]`
pub(super) fn bgsave(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    if args.len() > 2 || (args.len() == 2 && !args.is(1, "schedule")) {
        return Err(CommandError::SYNTAX);
    }
    note_save(planner);
    planner.reply.simple("Background saving started");
    Ok(Plan::Answered)
}

fn note_save(planner: &Planner<'_>) {
    planner.server.last_save_seconds.store(since_epoch().as_secs(), Ordering::Relaxed);
}

pub(super) fn lastsave(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    let seconds = last_save_seconds(planner);
    planner.reply.count(seconds);
    Ok(Plan::Answered)
}

/// The later of the last checkpoint and the last SAVE, in seconds since the epoch.
pub(super) fn last_save_seconds(planner: &Planner<'_>) -> u64 {
    let stats = planner.server.store.stats();
    let checkpoint = stats.last_checkpoint_ms.max(stats.started_ms) / 1000;
    checkpoint.max(planner.server.last_save_seconds.load(Ordering::Relaxed))
}

/// `SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]`: no reply; the connection closes with the node.
pub(super) fn shutdown(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let (mut saves, mut abort) = (0, false);
    for option in 1..args.len() {
        if args.is(option, "save") || args.is(option, "nosave") {
            saves += 1;
        } else if args.is(option, "abort") {
            abort = true;
        } else if !args.is(option, "now") && !args.is(option, "force") {
            return Err(CommandError::SYNTAX);
        }
    }
    if saves > 1 || (abort && args.len() > 2) {
        return Err(CommandError::SYNTAX);
    }
    if abort {
        return Err(CommandError::new("ERR No shutdown in progress."));
    }
    let Some(hook) = &planner.server.on_shutdown else {
        return Err(CommandError::new("ERR forebay: this node cannot be stopped over RESP"));
    };
    tracing::info!(client = %planner.session.facts.address, "SHUTDOWN");
    hook();
    planner.session.closing = true;
    Ok(Plan::Answered)
}
