//! The flush worker's two views of the core: proposals into the log, reads of queue, origin and bodies.
//!
//! Owns nothing; `flush/` decides, `apply/flush.rs` judges.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::apply::{asked_upload, content_of, flush_row, stale_transfer};
use crate::body::BodyReader;
use crate::error::Error;
use crate::flush::{
    FlushLog, FlushObject, FlushSource, Flushed, Flusher, FlusherConfig, Loaded, LogError, MountId,
    MountSpec, OriginRow, QueueConfig, RowId, SourceError, SourceObject, Started, TransferRecord,
    TransferState, TransferStep,
};
use crate::keyspace::Keyspace;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{
    self, ASKED, AskedRow, QueueRow, STALE, Table, TransferRow, decode_sent_part, decode_started, queue_key,
    split_object_key, split_queue_key, split_transfer_key, transfer_key,
};
use crate::keyspace::view::View;
use crate::mutation::{self, Mutation, Outcome};
use crate::node::{FlushSettings, StartError};
use crate::object::{BucketId, ETag, ObjectRow, Version};
use crate::origin::{BodyError, BodySource, Fence, OriginETag, SentPart, UploadBody};
use crate::read::ReadView;
use crate::store::Shared;
use crate::submission::Submission;

/// Rows read at a time while loading the queue.
const PAGE: usize = 4096;
/// Longest wait between two tries to attach or reach a mount.
const MOUNT_RETRY_MAX: Duration = Duration::from_secs(30);

/// See the file's head.
pub(crate) struct CoreLink {
    shared: Arc<Shared>,
}

impl CoreLink {
    pub(crate) fn new(shared: Arc<Shared>) -> CoreLink {
        CoreLink { shared }
    }

    async fn propose(&self, submission: Submission) -> Result<Vec<Outcome>, LogError> {
        match self.shared.submit(submission).await {
            Ok(outcomes) => Ok(outcomes.results),
            Err(Error::Unavailable(_) | Error::Stopping) => Err(LogError::NotLeader),
            Err(_) => Err(LogError::Unknown),
        }
    }

    async fn propose_one(&self, mutation: &Mutation<'_>) -> Result<(), LogError> {
        let mut submission = Submission::new();
        submission.push(mutation);
        self.propose(submission).await.map(|_| ())
    }

    fn view(&self) -> View {
        View::latest(&self.shared.keyspace)
    }
}

#[async_trait]
impl FlushLog for CoreLink {
    async fn flush_started(&self, batch: Vec<Started>) -> Result<Vec<bool>, LogError> {
        let mut submission = Submission::new();
        for Started { bucket, key, version, deadline_ms } in &batch {
            let (bucket, version, deadline_ms) = (*bucket, *version, *deadline_ms);
            submission.push(&Mutation::FlushStarted { bucket, key, version, deadline_ms });
        }
        let results = self.propose(submission).await?;
        Ok(results.iter().map(|outcome| matches!(outcome, Outcome::Done(_))).collect())
    }

    async fn flushed(&self, batch: Vec<Flushed>) -> Result<(), LogError> {
        let mut submission = Submission::new();
        for Flushed { bucket, key, version, mount, origin_etag } in &batch {
            let (bucket, version, origin_etag) = (*bucket, *version, origin_etag.as_deref());
            let mount = mount.map(|mount| mount.0);
            submission.push(&Mutation::Flushed { bucket, key, version, origin_etag, mount });
        }
        self.propose(submission).await.map(|_| ())
    }

    async fn transfer(&self, batch: Vec<TransferRecord>) -> Result<Vec<bool>, LogError> {
        let mut submission = Submission::new();
        for TransferRecord { bucket, key, version, upload_id, step } in &batch {
            let step = match step {
                TransferStep::Begun { part_bytes, crc32c } => {
                    mutation::TransferStep::Begun { part_bytes: *part_bytes, crc32c: *crc32c }
                }
                TransferStep::Sent(SentPart { number, etag, crc32c }) => {
                    mutation::TransferStep::Sent { number: *number, etag: &etag.0, crc32c: *crc32c }
                }
                TransferStep::Lost => mutation::TransferStep::Lost,
                TransferStep::Asked { from_ms, until_ms } => {
                    mutation::TransferStep::Asked { from_ms: *from_ms, until_ms: *until_ms }
                }
                TransferStep::Refused => mutation::TransferStep::Refused,
                TransferStep::Looked { mount, until_ms } => {
                    mutation::TransferStep::Looked { mount: mount.0, until_ms: *until_ms }
                }
            };
            let (bucket, version) = (*bucket, *version);
            submission.push(&Mutation::Transfer { bucket, key, version, upload_id, step });
        }
        let results = self.propose(submission).await?;
        Ok(results.iter().map(|outcome| matches!(outcome, Outcome::Done(_))).collect())
    }

    async fn transfer_gone(&self, version: Version, mount: MountId) -> Result<(), LogError> {
        self.propose_one(&Mutation::TransferGone { version, mount: Some(mount.0) }).await
    }

    async fn park(&self, row: RowId, reason: String) -> Result<(), LogError> {
        let (bucket, version, key, reason) = (row.bucket, row.version, &row.key, &reason);
        self.propose_one(&Mutation::FlushPark { bucket, key, version, reason }).await
    }

    async fn unpark(&self, row: RowId) -> Result<(), LogError> {
        let (bucket, version, key, reason) = (row.bucket, row.version, &row.key, "");
        self.propose_one(&Mutation::FlushPark { bucket, key, version, reason }).await
    }

    async fn abandon(&self, row: RowId) -> Result<(), LogError> {
        let (bucket, version, key) = (row.bucket, row.version, &row.key);
        self.propose_one(&Mutation::FlushAbandon { bucket, key, version }).await?;
        if let Some(mount) = self.shared.mount_of(bucket, key) {
            self.shared.lookups.forget_absence(mount, key);
        }
        Ok(())
    }

    async fn attach(&self, mount: MountId, existing: bool) -> Result<(), LogError> {
        self.propose_one(&Mutation::MountAttached { mount: mount.0, existing }).await
    }
}

#[async_trait]
impl FlushSource for CoreLink {
    fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    fn fence(&self) -> Fence {
        let status = self.shared.status.clone();
        let term = status.term.load(Relaxed);
        Fence::new(move || status.leads.load(Relaxed) && status.term.load(Relaxed) == term)
    }

    fn load(&self, sink: &mut dyn FnMut(Loaded)) -> Result<(), SourceError> {
        // Queue rows first, started rows after: what is queued in between is told as an event as well.
        self.scan(Table::Queue, &mut |key, value| {
            if let (Some((version, bucket, key)), Some(row)) = (split_queue_key(key), QueueRow::decode(value))
            {
                sink(Loaded::Row(flush_row(bucket, key, version, &row)));
            }
        })?;
        self.scan(Table::Started, &mut |key, value| {
            if let (Some((bucket, key)), Some((version, deadline_ms))) =
                (split_object_key(key), decode_started(value))
            {
                let key = Bytes::copy_from_slice(key);
                sink(Loaded::Started(Started { bucket, key, version, deadline_ms }));
            }
        })?;
        self.scan(Table::Transfer, &mut |key, value| match split_transfer_key(key) {
            Some((version, number)) if number == 0 || number & (STALE | ASKED) == STALE => {
                if let Some(row) = TransferRow::decode(value).filter(|row| row.stale) {
                    sink(Loaded::Stale(stale_transfer(version, row)));
                }
            }
            Some((version, number)) if number & ASKED != 0 => {
                if let Some(row) = AskedRow::decode(value) {
                    sink(Loaded::Asked(asked_upload(version, number & !ASKED, row)));
                }
            }
            _ => {}
        })
    }

    async fn transfer(&self, version: Version) -> Result<Option<TransferState>, SourceError> {
        let view = self.view();
        let read = move || read_transfer(&view, version);
        self.shared.pool.run(read).await.map_err(|error| SourceError(error.to_string()))?
    }

    fn origin_row(&self, bucket: BucketId, key: &Bytes) -> Result<Option<OriginRow>, SourceError> {
        let row = self.view().get(RowKey::object(Table::Origin, bucket, key), false, true);
        let row = row.map_err(source_error)?.flatten();
        let mount = self.shared.mount_of(bucket, key);
        let row = row.as_deref().and_then(tables::OriginRow::decode);
        let origin = row.and_then(|row| row.seen_by(mount).origin);
        Ok(origin.map(|(version, etag)| OriginRow { version, etag }))
    }

    async fn object(
        &self,
        bucket: BucketId,
        key: &Bytes,
        version: Version,
    ) -> Result<SourceObject, SourceError> {
        let view = self.view();
        let reading = {
            let (view, key) = (view.clone(), key.clone());
            self.shared.pool.run(move || read_content(&view, bucket, &key, version))
        };
        let content = reading.await.map_err(|error| SourceError(error.to_string()))??;
        let (row, in_parts) = match content {
            Content::Row(row, in_parts) => (row, in_parts),
            Content::Superseded => return Ok(SourceObject::Superseded),
            Content::Gone => return Ok(SourceObject::Expired),
        };
        let view = ReadView::new(self.shared.clone(), view);
        let body = view.open_body(&row).await.map_err(|error| SourceError(error.to_string()))?;
        let body = UploadBody::new(Arc::new(body));
        let etag = row.etag(self.shared.cluster);
        let md5 = match etag {
            ETag::Md5(md5) => Some(md5),
            ETag::Derived(_) | ETag::Text(_) => None,
        };
        let part_runs = row.part_runs();
        let (meta, etag) = (row.meta(), etag.to_string());
        let object = FlushObject { body, part_runs, meta, etag, md5, in_parts };
        Ok(SourceObject::Found(Box::new(object)))
    }
}

impl CoreLink {
    fn scan(&self, table: Table, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), SourceError> {
        let mut from = vec![table as u8];
        loop {
            // A view per page: a long one would hold the checkpoint up. A row that changes between
            // two pages is told as an event.
            let page = self.view().range(Bound::Excluded(&from), &Keyspace::table_end(table), PAGE);
            let page = page.map_err(source_error)?;
            for (key, value) in &page {
                row(key, value);
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = key.to_vec(),
                _ => return Ok(()),
            }
        }
    }
}

enum Content {
    /// With whether an upload of it is recorded.
    Row(ObjectRow, bool),
    Superseded,
    /// Dead by FLUSHDB: the sweep queues its delete.
    Gone,
}

fn read_content(view: &View, bucket: BucketId, key: &[u8], version: Version) -> Result<Content, SourceError> {
    let row_key = queue_key(version, bucket, key);
    let row = view.get(RowKey::encoded(&row_key), false, true).map_err(source_error)?.flatten();
    let Some(row) = row.as_deref().and_then(QueueRow::decode) else { return Ok(Content::Superseded) };
    let object = view.get(RowKey::object(Table::Object, bucket, key), false, true);
    let object = object.map_err(source_error)?.flatten();
    Ok(match content_of(&row, version, object) {
        Some(raw) => Content::Row(ObjectRow::from_encoded(raw), row.transfer),
        None => Content::Gone,
    })
}

/// The recorded upload of a version, if it is wanted.
fn read_transfer(view: &View, version: Version) -> Result<Option<TransferState>, SourceError> {
    let head = view.get(RowKey::encoded(&transfer_key(version, 0)), false, true).map_err(source_error)?;
    let head = head.flatten().as_deref().and_then(TransferRow::decode).filter(|row| !row.stale);
    let Some(head) = head else { return Ok(None) };
    let mut parts = Vec::new();
    let end = transfer_key(version, STALE);
    let mut from = transfer_key(version, 0).to_vec();
    loop {
        let page = view.range(Bound::Excluded(&from), &end, PAGE).map_err(source_error)?;
        for (key, value) in &page {
            if let (Some((_, number)), Some((etag, crc32c))) =
                (split_transfer_key(key), decode_sent_part(value))
            {
                parts.push(SentPart { number, etag: OriginETag(etag), crc32c });
            }
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => from = key.to_vec(),
            _ => break,
        }
    }
    let TransferRow { upload_id, mount, part_bytes, crc32c, .. } = head;
    Ok(Some(TransferState { upload_id, mount: MountId(mount), part_bytes, crc32c, parts }))
}

#[async_trait]
impl BodySource for BodyReader {
    fn len(&self) -> u64 {
        BodyReader::len(self)
    }

    async fn read(&self, range: std::ops::Range<u64>) -> Result<Bytes, BodyError> {
        BodyReader::read(self, range).await.map_err(|error| BodyError(error.to_string()))
    }
}

fn source_error(error: crate::keyspace::view::ViewError) -> SourceError {
    SourceError(error.to_string())
}

/// Builds the worker over recorded mounts.
pub(crate) fn start(
    shared: &Arc<Shared>,
    specs: Vec<MountSpec>,
    settings: &FlushSettings,
) -> Result<Arc<Flusher>, StartError> {
    let watches_lag = specs.iter().any(|spec| spec.max_lag.is_some());
    shared.admissions.watches_lag.store(watches_lag, Relaxed);
    let link = Arc::new(CoreLink::new(shared.clone()));
    let mut seed = [0; 8];
    getrandom::fill(&mut seed)
        .map_err(|error| StartError::Threads(std::io::Error::other(error.to_string())))?;
    let config = FlusherConfig {
        queue: QueueConfig {
            concurrency: settings.concurrency,
            margin_ms: settings.fence_margin.as_millis() as u64,
            retry_ms: (settings.retry_min.as_millis() as u64, settings.retry_max.as_millis() as u64),
            ..QueueConfig::default()
        },
        attempt_timeout: settings.attempt_timeout,
        least_bandwidth: settings.least_bandwidth,
        part_bytes: settings.part_bytes,
        part_concurrency: settings.part_concurrency,
        mount_retry: (settings.retry_min * 4, settings.retry_max.min(MOUNT_RETRY_MAX)),
        seed: u64::from_le_bytes(seed),
        ..FlusherConfig::new(shared.cluster)
    };
    Ok(Flusher::new(config, specs, link.clone(), link))
}
