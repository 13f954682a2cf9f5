//! The leader's housekeeping: proposes the removal of expired objects, of rows below a bucket's epoch, and of
//! multipart uploads that nobody will complete any more.
//!
//! Apply judges removals again, by the entry's stamp and the bucket's epoch. Only the age of an upload is judged here: the
//! time at which it began never changes, and one that is completed meanwhile is not there any more. Losing a run loses
//! nothing; the rows are found again.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::keyspace::Keyspace;
use crate::keyspace::tables::{
    RowReader, Table, UploadRow, object_key, split_expiry_key, split_object_key, split_upload_key,
};
use crate::keyspace::view::View;
use crate::mutation::{Mutation, Outcome};
use crate::object::{BucketId, Version};
use crate::object_name::encode_key;
use crate::read::view_error;
use crate::store::Shared;
use crate::submission::Submission;

/// Pause between looks at the expiry index when nothing is due.
const EXPIRY_PAUSE: Duration = Duration::from_millis(100);
/// Pause between looks for unswept buckets.
const SWEEP_PAUSE: Duration = Duration::from_millis(250);
/// Removals proposed at a time.
const BATCH: usize = 1000;

/// Longest pause between looks for stale uploads; shorter where they become stale soon.
const UPLOADS_PAUSE: Duration = Duration::from_secs(60);

/// Runs until cancelled; a multipart upload older than `upload_expiry` is given up.
pub(crate) async fn run(shared: Arc<Shared>, upload_expiry: Duration, stop: CancellationToken) {
    let expire = repeat(&stop, EXPIRY_PAUSE, || expire_batch(&shared));
    let sweep = repeat(&stop, SWEEP_PAUSE, || sweep_batch(&shared));
    let uploads_pause = UPLOADS_PAUSE.min(upload_expiry / 4);
    let uploads = repeat(&stop, uploads_pause, || abort_stale(&shared, upload_expiry));
    tokio::join!(expire, sweep, uploads);
}

/// Calls `work` again at once while it finds something, else after a pause.
async fn repeat<F: Future<Output = Result<bool>>>(
    stop: &CancellationToken,
    pause: Duration,
    work: impl Fn() -> F,
) {
    while !stop.is_cancelled() {
        match work().await {
            Ok(true) => continue,
            Ok(false) | Err(Error::Unavailable(_) | Error::Stopping | Error::Unknown(_)) => {}
            Err(error) => tracing::warn!(%error, "housekeeping"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn expire_batch(shared: &Arc<Shared>) -> Result<bool> {
    let now_ms = shared.clock.now_ms();
    let view = View::latest(&shared.keyspace);
    let read = move || {
        let end = [&[Table::Expiry as u8][..], &(now_ms + 1).to_be_bytes()].concat();
        view.range(Bound::Included(&[Table::Expiry as u8]), &end, BATCH)
    };
    let due = shared.pool.run(read).await.map_err(|_| Error::Stopping)?.map_err(view_error)?;
    let mut submission = Submission::new();
    for (row_key, _) in &due {
        if let Some((_, bucket, key)) = split_expiry_key(row_key) {
            submission.push(&Mutation::ExpireDue { bucket, key });
        }
    }
    if submission.is_empty() {
        return Ok(false);
    }
    let outcomes = shared.submit(submission).await?;
    let done = outcomes.results.iter().filter(|outcome| matches!(outcome, Outcome::Done(_))).count();
    shared.expired.fetch_add(done as u64, Relaxed);
    Ok(done == BATCH)
}

/// Gives uploads up by the time at which they began.
async fn abort_stale(shared: &Arc<Shared>, expiry: Duration) -> Result<bool> {
    let stale_ms = shared.clock.now_ms().saturating_sub(expiry.as_millis() as u64);
    let mut from = vec![Table::Upload as u8];
    loop {
        let view = View::latest(&shared.keyspace);
        let start = from.clone();
        let read = move || view.range(Bound::Excluded(&start), &Keyspace::table_end(Table::Upload), BATCH);
        let rows = shared.pool.run(read).await.map_err(|_| Error::Stopping)?.map_err(view_error)?;
        for (row_key, row) in &rows {
            let stale = UploadRow::decode(row).is_some_and(|row| row.created_ms < stale_ms);
            if let Some((bucket, key, upload)) = split_upload_key(row_key).filter(|_| stale) {
                // One by one: each may release ten thousand parts.
                let mut submission = Submission::new();
                submission.push(&Mutation::AbortUpload { bucket, key, upload });
                shared.submit(submission).await?;
                tracing::info!(bucket = bucket.0, key = %encode_key(key), "a multipart upload was never completed, and is given up");
            }
        }
        match rows.last() {
            Some((last, _)) if rows.len() == BATCH => from = last.to_vec(),
            _ => return Ok(false),
        }
    }
}

async fn sweep_batch(shared: &Arc<Shared>) -> Result<bool> {
    let Some((bucket, epoch)) = shared.status.unswept.lock().first().copied() else { return Ok(false) };
    let mut from = object_key(Table::Object, bucket, b"");
    loop {
        let view = View::latest(&shared.keyspace);
        let start = from.clone();
        let read = move || view.range(Bound::Included(&start), &bucket_end(bucket), BATCH);
        let rows = shared.pool.run(read).await.map_err(|_| Error::Stopping)?.map_err(view_error)?;
        let mut submission = Submission::new();
        for (row_key, row) in &rows {
            let dead = RowReader::new(row).is_some_and(|row| row.version < epoch);
            if let Some((_, key)) = split_object_key(row_key).filter(|_| dead) {
                submission.push(&Mutation::Sweep { bucket, key });
            }
        }
        if !submission.is_empty() {
            shared.submit(submission).await?;
        }
        match rows.last() {
            Some((last, _)) if rows.len() == BATCH => {
                from = last.to_vec();
                from.push(0);
            }
            _ => break,
        }
    }
    sweep_done(shared, bucket, epoch).await?;
    Ok(false)
}

async fn sweep_done(shared: &Arc<Shared>, bucket: BucketId, epoch: Version) -> Result<()> {
    let mut submission = Submission::new();
    submission.push(&Mutation::SweepDone { bucket, epoch });
    shared.submit(submission).await.map(|_| ())
}

fn bucket_end(bucket: BucketId) -> Vec<u8> {
    match bucket.0.checked_add(1) {
        Some(next) => object_key(Table::Object, BucketId(next), b""),
        None => Keyspace::table_end(Table::Object).to_vec(),
    }
}
