//! MULTI, EXEC, DISCARD, WATCH, UNWATCH. How EXEC is carried out stands in `pipeline/exec.rs`.

use std::mem;

use super::args::Args;
use super::plan::{Plan, Planner, Waiting};
use crate::error::CommandError;
use crate::session::{Queue, Watched};

/// Most keys under WATCH on one connection.
const WATCHED_MAX: usize = 100_000;

type Result<T> = std::result::Result<T, CommandError>;

pub(super) fn multi(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    if planner.session.queue.is_some() {
        return Err(CommandError::new("ERR MULTI calls can not be nested"));
    }
    planner.session.queue = Some(Box::new(Queue::default()));
    planner.reply.ok();
    Ok(Plan::Answered)
}

pub(super) fn exec(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    let Some(queue) = planner.session.queue.take() else {
        return Err(CommandError::new("ERR EXEC without MULTI"));
    };
    if queue.aborted {
        planner.session.watched.clear();
        return Err(CommandError::EXEC_ABORT);
    }
    Ok(Plan::Exec(queue))
}

pub(super) fn discard(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    if planner.session.queue.take().is_none() {
        return Err(CommandError::new("ERR DISCARD without MULTI"));
    }
    planner.session.watched.clear();
    planner.reply.ok();
    Ok(Plan::Answered)
}

pub(super) fn watch(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    if planner.session.queue.is_some() {
        return Err(CommandError::new("ERR WATCH inside MULTI is not allowed"));
    }
    for key in 1..args.len() {
        planner.key(args, key)?;
    }
    Ok(Plan::Wait(|waiting| Box::pin(watch_keys(waiting))))
}

/// Notes the versions at one index.
async fn watch_keys(waiting: Waiting<'_>) -> Result<()> {
    let Waiting { server, session, args, reply } = waiting;
    let database = session.database();
    session.refresh(&server.store);
    let bucket = session.database_at(database).bucket;
    let view = server.store.view()?;
    let mut watched = mem::take(&mut session.watched);
    for key in args.from(1).iter() {
        if watched.iter().any(|known| known.database == database && known.key == key) {
            continue;
        }
        if watched.len() >= WATCHED_MAX {
            return Err(CommandError::text(format!(
                "ERR forebay: at most {WATCHED_MAX} keys can be watched at once"
            )));
        }
        let version = match bucket {
            Some(bucket) => view.fetch(bucket, key).await?.map(|row| row.version()),
            None => None,
        };
        watched.push(Watched { database, bucket, key: key.to_vec(), version });
    }
    session.watched = watched;
    reply.ok();
    Ok(())
}

pub(super) fn unwatch(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    planner.session.watched.clear();
    planner.reply.ok();
    Ok(Plan::Answered)
}
