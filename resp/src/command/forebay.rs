//! Commands of ours: buckets and origins, which Redis does not know.

use std::time::Duration;

use forebay_storage::object::BucketId;
use forebay_storage::store::OriginState;

use super::args::Args;
use super::plan::{Plan, Planner, Waiting};
use crate::error::CommandError;
use crate::keyspace::Database;

type Result<T> = std::result::Result<T, CommandError>;

/// FB.USE bucket: works in any bucket that exists.
pub(super) fn use_bucket(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let no_such_bucket = || CommandError::new("ERR forebay: no such bucket");
    let name = std::str::from_utf8(args.at(1)).map_err(|_| no_such_bucket())?;
    let number = planner.server.keyspace.number_of(name);
    let database = Database::named(&planner.server.store, name, number);
    if database.bucket.is_none() {
        return Err(no_such_bucket());
    }
    planner.session.select(database);
    planner.reply.ok();
    Ok(Plan::Answered)
}

/// FB.STAT key
pub(super) fn stat(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    planner.key(args, 1)?;
    Ok(Plan::Wait(|waiting| Box::pin(reply_stat(waiting))))
}

async fn reply_stat(waiting: Waiting<'_>) -> Result<()> {
    let Waiting { server, session, args, reply } = waiting;
    let database = session.database_at(session.database());
    let row = match database.bucket {
        Some(bucket) => {
            let row = server.store.view()?.fetch(bucket, args.at(1)).await?;
            row.map(|row| (bucket, row))
        }
        None => None,
    };
    let Some((bucket, row)) = row else {
        reply.nil();
        return Ok(());
    };
    let origin = match server.store.origin_state(bucket, args.at(1)).await? {
        OriginState::Local => "local".to_owned(),
        OriginState::Pending { age_ms } => format!("pending age={}s", age_ms / 1000),
        OriginState::Flushed => "flushed".to_owned(),
        OriginState::Parked { reason } => format!("parked reason={reason}"),
    };
    reply.map(7);
    reply.bulk(b"bucket");
    reply.bulk(database.name.as_bytes());
    reply.bulk(b"version");
    reply.bulk(row.version().to_string().as_bytes());
    reply.bulk(b"etag");
    reply.bulk(row.etag(server.store.cluster_id()).to_string().as_bytes());
    reply.bulk(b"bytes");
    reply.count(row.body_len());
    reply.bulk(b"modified-ms");
    reply.count(row.modified_ms());
    reply.bulk(b"expires-at-ms");
    match row.expires_at_ms() {
        Some(at_ms) => reply.count(at_ms),
        None => reply.integer(-1),
    }
    reply.bulk(b"origin");
    reply.bulk(origin.as_bytes());
    Ok(())
}

/// `FB.FLUSHWAIT timeout-ms [key ...]`: 0 waits for ever, as in WAIT. Without keys: all that was written
/// before. Replies with the number still pending.
pub(super) fn flushwait(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    timeout(args)?;
    for key in 2..args.len() {
        planner.key(args, key)?;
    }
    Ok(Plan::Wait(|waiting| Box::pin(wait_for_flush(waiting))))
}

fn timeout(args: Args<'_>) -> Result<Option<Duration>> {
    let ms =
        args.integer(1).map_err(|_| CommandError::new("ERR timeout is not an integer or out of range"))?;
    match u64::try_from(ms) {
        Ok(0) => Ok(None),
        Ok(ms) => Ok(Some(Duration::from_millis(ms))),
        Err(_) => Err(CommandError::new("ERR timeout is negative")),
    }
}

async fn wait_for_flush(waiting: Waiting<'_>) -> Result<()> {
    let Waiting { server, session, args, reply } = waiting;
    let timeout = timeout(args)?;
    let bucket = session.database_at(session.database()).bucket;
    let keys: Option<Vec<(BucketId, Vec<u8>)>> = match bucket {
        _ if args.len() == 2 => None,
        Some(bucket) => Some(args.from(2).iter().map(|key| (bucket, key.to_vec())).collect()),
        // Nothing was ever written there.
        None => {
            reply.integer(0);
            return Ok(());
        }
    };
    let (pending, _) = server.store.flush_wait(keys.as_deref(), timeout).await?;
    reply.count(pending);
    Ok(())
}
