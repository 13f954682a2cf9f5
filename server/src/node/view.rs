//! The node as the admin server sees it: store and flush queue, in the words of the admin API.
//!
//! Owns the translation of names: bucket numbers to names, key bytes to the form that S3 clients see, why a
//! row waits to a sentence. Decides nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_storage::error::Error;
use forebay_storage::flush::{
    FlushKind, Flusher, LogError, MountHealth, MountStatus, RowId, RowPlace, RowState as QueueState, RowView,
};
use forebay_storage::lookup::ImportStatus;
use forebay_storage::mounts::Forgotten;
use forebay_storage::mutation::{ImportState as CoreImportState, MountMode as CoreMode};
use forebay_storage::object::BucketId;
use forebay_storage::object_name::encode_key;
use forebay_storage::scrub::{self, ScrubEnd, ScrubOptions, ScrubStatus};
use forebay_storage::store::{Stats, Store};
use tokio::task::JoinSet;

use super::rate::UploadRate;
use crate::admin::core::{Core, CoreError, Identity, OriginTraffic, RowState, Uploads, Which};
use crate::api::{
    FlushPage, FlushRow, Import, ImportState, Mount, RecordedMount, Scrub, ScrubFinding, ScrubRequest,
    ScrubState,
};
use crate::config::MountConfig;
use crate::config::units::human_duration;

/// Rows that one request changes at once: they share the log's commits.
const CHANGES_AT_ONCE: usize = 256;

/// Store and flush queue, asked by the admin server.
pub(super) struct NodeView {
    store: Store,
    flusher: Arc<Flusher>,
    identity: Identity,
    mounts: Vec<MountConfig>,
    rate: UploadRate,
    /// What a scrub reads a second if nobody says otherwise.
    scrub_bytes_per_second: u64,
}

impl NodeView {
    /// Puts it together and begins to sample the rate of uploads.
    pub(super) fn new(
        store: Store,
        flusher: Arc<Flusher>,
        identity: Identity,
        mounts: Vec<MountConfig>,
        scrub_bytes_per_second: u64,
    ) -> NodeView {
        let counted = Arc::clone(&flusher);
        let rate = UploadRate::start(move || counted.status().flushed_objects);
        NodeView { store, flusher, identity, mounts, rate, scrub_bytes_per_second }
    }

    fn bucket(&self, name: &str) -> Result<BucketId, CoreError> {
        let bucket = self.store.bucket(name.as_bytes());
        bucket.ok_or_else(|| CoreError::NotFound(format!("there is no bucket \"{name}\"")))
    }

    /// While the queue is being loaded it knows of no row, which says nothing about those that there are.
    fn queue_is_loaded(&self) -> Result<(), CoreError> {
        match self.flusher.status().running {
            true => Ok(()),
            false => Err(CoreError::Unavailable("the flush queue is being loaded; try again".to_owned())),
        }
    }

    /// The parked rows of one key; an error if there is none.
    fn parked_rows(&self, bucket: &str, key: &[u8]) -> Result<Vec<RowId>, CoreError> {
        self.queue_is_loaded()?;
        let rows = self.flusher.rows_of(self.bucket(bucket)?, key);
        let parked: Vec<RowId> = rows.into_iter().filter(is_parked).map(row_id).collect();
        if parked.is_empty() {
            let key = encode_key(key);
            return Err(CoreError::NotFound(format!(
                "nothing is parked under \"{key}\" in bucket \"{bucket}\""
            )));
        }
        Ok(parked)
    }

    async fn retry_rows(&self, rows: Vec<RowId>) -> Result<u64, CoreError> {
        let mut tasks = JoinSet::new();
        let count = rows.len() as u64;
        for row in rows {
            let flusher = Arc::clone(&self.flusher);
            tasks.spawn(async move { flusher.retry(row).await });
        }
        while let Some(retried) = tasks.join_next().await {
            retried.map_err(|error| CoreError::Unavailable(error.to_string()))?.map_err(log_error)?;
        }
        Ok(count)
    }
}

impl Core for NodeView {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn stats(&self) -> Stats {
        self.store.stats()
    }

    fn now_ms(&self) -> u64 {
        self.store.now_ms()
    }

    fn ready(&self) -> Result<(), String> {
        self.store.view().map(drop).map_err(|error| error.to_string())
    }

    fn uploads(&self) -> Uploads {
        let status = self.flusher.status();
        let errors = status.errors.iter().map(|(class, count)| (class.as_str(), *count));
        Uploads {
            in_flight: status.in_flight,
            flushed_objects: status.flushed_objects,
            flushed_bytes: status.flushed_bytes,
            leftovers: status.leftover_uploads,
            unreachable: status.unreachable_uploads,
            errors: errors.collect(),
            clear_in: self.rate.time_for(status.pending_objects.saturating_sub(status.parked_objects)),
        }
    }

    fn origin_traffic(&self) -> Vec<OriginTraffic> {
        let recorded = self.store.mounts();
        let shown = self.store.origin_traffic().into_iter().filter_map(|traffic| {
            let mount = recorded.iter().find(|recorded| recorded.id.0 == traffic.mount)?.path.clone();
            let requests = traffic.requests.iter().map(|(op, code, count)| (op.as_str(), *code, *count));
            let requests = requests.collect();
            let (sent_bytes, received_bytes) = (traffic.sent_bytes, traffic.received_bytes);
            Some(OriginTraffic { mount, requests, sent_bytes, received_bytes })
        });
        shown.collect()
    }

    fn mounts(&self) -> Vec<Mount> {
        let (workers, recorded) = (self.flusher.status().mounts, self.store.mounts());
        let shown = |mount: &MountConfig| {
            let path = mount.path.to_string();
            let id = recorded.iter().find(|recorded| recorded.path == path).map(|recorded| recorded.id);
            let worker = workers.iter().find(|worker| Some(worker.id) == id);
            let worker = worker.filter(|_| mount.origin.is_some());
            let forgotten = || (id.is_none() && mount.origin.is_some()).then(|| "forgotten".to_owned());
            Mount {
                path,
                mode: mount.mode.as_str().into(),
                origin: mount.origin.as_ref().map(|origin| origin.to_string()),
                up: worker.map(|worker| worker.health == MountHealth::Up),
                last_success_ms: worker.and_then(|worker| worker.last_success_ms),
                state: worker.map(|worker| health(worker, self.now_ms())).or_else(forgotten),
            }
        };
        self.mounts.iter().map(shown).collect()
    }

    async fn flush_list(
        &self,
        state: RowState,
        after: Option<&str>,
        limit: usize,
    ) -> Result<FlushPage, CoreError> {
        let after = after.map(parse_place).transpose()?;
        self.queue_is_loaded()?;
        let (rows, next) = self.flusher.page(state == RowState::Parked, after, limit);
        let now_ms = self.now_ms();
        let mut names = HashMap::new();
        let wanted = |row: &RowView| state != RowState::Pending || !is_parked(row);
        let mut shown = |row: RowView| {
            let name = names.entry(row.bucket).or_insert_with(|| match self.store.bucket_info(row.bucket) {
                Some(bucket) => bucket.name,
                None => format!("#{}", row.bucket.0),
            });
            flush_row(row, name.clone(), now_ms)
        };
        let rows = rows.into_iter().filter(wanted).map(&mut shown).collect();
        Ok(FlushPage { rows, next: next.map(place_text) })
    }

    async fn flush_wait(&self, timeout: Duration) -> Result<(u64, u64), CoreError> {
        let waited = self.store.flush_wait(None, Some(timeout)).await;
        waited.map_err(unavailable)
    }

    async fn flush_retry(&self, which: Which<'_>) -> Result<u64, CoreError> {
        if let Which::Key { bucket, key } = which {
            return self.retry_rows(self.parked_rows(bucket, key)?).await;
        }
        self.queue_is_loaded()?;
        // Rows that fail again and are parked anew stand at their old place, so each is come to once.
        let mut after = None;
        let mut changed = 0;
        loop {
            let (rows, next) = self.flusher.page(true, after, CHANGES_AT_ONCE);
            changed += self.retry_rows(rows.into_iter().map(row_id).collect()).await?;
            after = next;
            if after.is_none() {
                return Ok(changed);
            }
        }
    }

    async fn flush_abandon(&self, bucket: &str, key: &[u8], reason: &str) -> Result<u64, CoreError> {
        let rows = self.parked_rows(bucket, key)?;
        let count = rows.len() as u64;
        for row in rows {
            let version = row.version;
            self.flusher.abandon(row).await.map_err(log_error)?;
            tracing::warn!(bucket, key = %encode_key(key), %version, reason, "an operator gave up an upload");
        }
        Ok(count)
    }

    fn recorded_mounts(&self) -> Vec<RecordedMount> {
        let workers = self.flusher.status().mounts;
        let shown = self.store.mounts().into_iter().map(|mount| RecordedMount {
            state: workers
                .iter()
                .find(|worker| worker.id == mount.id)
                .map(|worker| health(worker, self.now_ms()))
                .or_else(|| mount.leaving.then(|| "being forgotten".to_owned())),
            path: mount.path,
            mode: mode_name(mount.mode).into(),
            origin: (!mount.local).then_some(mount.origin),
            attached: mount.attached,
            existing: mount.existing,
            leaving: mount.leaving,
            queued: mount.queued,
        });
        shown.collect()
    }

    async fn imports(&self) -> Result<Vec<Import>, CoreError> {
        let imports = self.store.imports().await;
        Ok(imports.map_err(unavailable)?.into_iter().map(import).collect())
    }

    async fn start_import(&self, bucket: &str, prefix: &str) -> Result<Import, CoreError> {
        let started = self.store.import(bucket, prefix.as_bytes()).await;
        let started = started.map_err(unavailable)?.ok_or_else(|| no_such_mount(bucket, prefix))?;
        let Import { path, .. } = import(started.clone());
        tracing::info!(path, "an operator asked for an import");
        Ok(import(started))
    }

    async fn cancel_import(&self, bucket: &str, prefix: &str) -> Result<Import, CoreError> {
        let cancelled = self.store.cancel_import(bucket, prefix.as_bytes()).await.map_err(unavailable)?;
        let status = self.store.import_status(bucket, prefix.as_bytes()).await.map_err(unavailable)?;
        match (cancelled, status) {
            (true, Some(status)) => Ok(import(status)),
            _ => Err(CoreError::NotFound(format!("no import of {} is under way", path_of(bucket, prefix)))),
        }
    }

    async fn forget_mount(
        &self,
        bucket: &str,
        prefix: &str,
        abandon: Option<&str>,
    ) -> Result<u64, CoreError> {
        let path = path_of(bucket, prefix);
        let forgotten = self.store.forget_mount(bucket, prefix.as_bytes(), abandon.is_some()).await;
        match forgotten.map_err(unavailable)? {
            Forgotten::Done { abandoned } => {
                let reason = abandon.unwrap_or_default();
                tracing::warn!(path, abandoned, reason, "an operator had a mount forgotten");
                Ok(abandoned)
            }
            Forgotten::NoSuchMount => Err(no_such_mount(bucket, prefix)),
            Forgotten::Busy(rows) => Err(CoreError::Conflict(format!(
                "{rows} changes wait for the origin of {path}; let them go (forebay flush wait), or give them up \
                 with --abandon --reason TEXT"
            ))),
        }
    }

    fn start_scrub(&self, request: &ScrubRequest) -> Result<Scrub, CoreError> {
        let bytes_per_second = request.bytes_per_second.unwrap_or(self.scrub_bytes_per_second);
        if bytes_per_second < scrub::BYTES_PER_SECOND_MIN {
            let least = scrub::BYTES_PER_SECOND_MIN;
            return Err(CoreError::Invalid(format!(
                "bytes_per_second is {bytes_per_second}; give at least {least}"
            )));
        }
        let options = ScrubOptions { bytes_per_second, ask_origins: request.ask_origins };
        if self.store.stats().scrub_running {
            return Err(CoreError::Conflict(
                "a scrub is running already; see how it stands (forebay scrub --attach), or end it (--cancel)".into(),
            ));
        }
        self.store.start_scrub(options).map_err(|error| CoreError::Unavailable(error.to_string()))?;
        Ok(self.scrub())
    }

    fn scrub(&self) -> Scrub {
        scrub_shown(self.store.scrub_status(), self.scrub_bytes_per_second)
    }

    fn cancel_scrub(&self) -> Scrub {
        self.store.cancel_scrub();
        self.scrub()
    }
}

/// A scrub in the words of the API.
fn scrub_shown(status: Option<ScrubStatus>, bytes_per_second: u64) -> Scrub {
    let Some(status) = status else {
        return Scrub {
            state: ScrubState::Never,
            trouble: None,
            phase: String::new(),
            started_ms: 0,
            ended_ms: None,
            bytes_per_second,
            ask_origins: false,
            bytes_total: 0,
            bytes_done: 0,
            extents_done: 0,
            objects_total: 0,
            rows_done: 0,
            asked: 0,
            findings_total: 0,
            mended_total: 0,
            findings: Vec::new(),
        };
    };
    let (state, trouble) = match &status.ended {
        None => (ScrubState::Running, None),
        Some((_, ScrubEnd::Done { trouble })) => (ScrubState::Done, trouble.clone()),
        Some((_, ScrubEnd::Canceled)) => (ScrubState::Canceled, None),
        Some((_, ScrubEnd::Failed(why))) => (ScrubState::Failed, Some(why.clone())),
    };
    let finding = |finding: scrub::Finding| ScrubFinding {
        kind: finding.kind.as_str().to_owned(),
        bucket: finding.bucket,
        key: finding.key.map(|key| encode_key(&key).into_owned()),
        what: finding.what,
        mended: finding.mended,
    };
    Scrub {
        state,
        trouble,
        phase: status.phase.as_str().to_owned(),
        started_ms: status.started_ms,
        ended_ms: status.ended.map(|(at_ms, _)| at_ms),
        bytes_per_second: status.options.bytes_per_second,
        ask_origins: status.options.ask_origins,
        bytes_total: status.bytes_total,
        bytes_done: status.bytes_done,
        extents_done: status.extents_done,
        objects_total: status.objects_total,
        rows_done: status.rows_done,
        asked: status.asked,
        findings_total: status.findings_total,
        mended_total: status.mended_total,
        findings: status.findings.into_iter().map(finding).collect(),
    }
}

fn unavailable(error: Error) -> CoreError {
    CoreError::Unavailable(error.to_string())
}

/// As `mount ls` shows it.
fn path_of(bucket: &str, prefix: &str) -> String {
    format!("/{bucket}/{prefix}").trim_end_matches('/').to_owned()
}

fn no_such_mount(bucket: &str, prefix: &str) -> CoreError {
    let path = path_of(bucket, prefix);
    CoreError::NotFound(format!("no mount {path} with an origin is recorded; see forebay mount ls"))
}

fn mode_name(mode: CoreMode) -> &'static str {
    match mode {
        CoreMode::WriteBack => "write-back",
        CoreMode::WriteThrough => "write-through",
        CoreMode::ReadOnly => "read-only",
        CoreMode::Local => "local",
    }
}

fn import(status: ImportStatus) -> Import {
    Import {
        path: status.path,
        state: match status.state {
            CoreImportState::Running => ImportState::Running,
            CoreImportState::Done => ImportState::Done,
            CoreImportState::Cancelled => ImportState::Cancelled,
        },
        listed_objects: status.listed,
        adopted_objects: status.adopted,
        after: status.after,
        trouble: status.trouble,
    }
}

fn is_parked(row: &RowView) -> bool {
    matches!(row.state, QueueState::Parked { .. })
}

fn row_id(row: RowView) -> RowId {
    RowId { bucket: row.bucket, key: row.key, version: row.version }
}

fn log_error(error: LogError) -> CoreError {
    CoreError::Unavailable(format!("{error}; try again"))
}

fn flush_row(row: RowView, bucket: String, now_ms: u64) -> FlushRow {
    FlushRow {
        bucket,
        key: encode_key(&row.key).into_owned(),
        version: row.version.to_string(),
        kind: match row.kind {
            FlushKind::Put => "put".into(),
            FlushKind::Delete => "delete".into(),
        },
        barrier: row.barrier,
        bytes: row.bytes,
        age_ms: now_ms.saturating_sub(row.since_ms),
        state: if is_parked(&row) { "parked".into() } else { "pending".into() },
        failures: u32::from(row.failures),
        reason: why(row.state, now_ms),
    }
}

/// Why a row is not in its origin yet, in words.
fn why(state: QueueState, now_ms: u64) -> Option<String> {
    let in_time = |until_ms: u64| human_duration(Duration::from_millis(until_ms.saturating_sub(now_ms)));
    let behind = |parked: Option<String>| match parked {
        Some(reason) => format!(", which is parked: {reason}"),
        None => String::new(),
    };
    Some(match state {
        QueueState::Ready => return None,
        QueueState::InFlight => "being uploaded".into(),
        QueueState::Parked { reason } => reason,
        QueueState::Fenced { until_ms } => {
            format!("an earlier request may still be under way, for {}", in_time(until_ms))
        }
        QueueState::Waits { until_ms, last_error: Some(error) } => {
            format!("tried again in {}: {error}", in_time(until_ms))
        }
        QueueState::Waits { until_ms, last_error: None } => {
            format!("min_interval, for {}", in_time(until_ms))
        }
        QueueState::BehindOwnKey => "an older change of the same key goes first".into(),
        QueueState::BehindBarrier { barrier, parked } => {
            format!("behind the conditional write {barrier}{}", behind(parked))
        }
        QueueState::BehindOlderRows { oldest, parked } => {
            format!("older changes go first, from {oldest}{}", behind(parked))
        }
        QueueState::MountNotReady { reason } => format!("the origin: {reason}"),
    })
}

/// How a mount stands, in words.
fn health(mount: &MountStatus, now_ms: u64) -> String {
    match &mount.health {
        MountHealth::Up => "up".into(),
        MountHealth::NotReady { reason } => format!("not ready: {reason}"),
        MountHealth::Down { since_ms, reason } => {
            let age = human_duration(Duration::from_millis(now_ms.saturating_sub(*since_ms)));
            format!("down for {age}: {reason}")
        }
    }
}

fn place_text(place: RowPlace) -> String {
    format!("{:x}.{:x}", place.version, place.slot)
}

fn parse_place(text: &str) -> Result<RowPlace, CoreError> {
    let place = text.split_once('.').and_then(|(version, slot)| {
        let version = u64::from_str_radix(version, 16).ok()?;
        Some(RowPlace { version, slot: u32::from_str_radix(slot, 16).ok()? })
    });
    place.ok_or_else(|| CoreError::Invalid("after must be the next of an earlier page".into()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_storage::object::Version;

    use super::*;

    #[test]
    fn a_row_that_waits_behind_a_parked_one_says_so() {
        let parked = Some("403 AccessDenied".to_owned());
        let row = RowView {
            bucket: BucketId(1),
            key: Bytes::from_static(b"caf\xe9"),
            version: Version(0x2a),
            kind: FlushKind::Delete,
            barrier: false,
            since_ms: 1_000,
            bytes: 0,
            failures: 0,
            state: QueueState::BehindBarrier { barrier: Version(7), parked },
        };
        let shown = flush_row(row, "photos".into(), 4_000);
        assert_eq!((shown.state.as_str(), shown.kind.as_str(), shown.age_ms), ("pending", "delete", 3_000));
        assert_eq!(shown.key, "caf\u{F7E9}");
        let reason = shown.reason.unwrap();
        assert!(reason.contains("0000000000000007, which is parked: 403 AccessDenied"), "{reason}");
    }

    #[test]
    fn places_come_back_from_their_text() {
        let place = RowPlace { version: u64::MAX - 1, slot: 77 };
        let again = parse_place(&place_text(place)).unwrap();
        assert_eq!((again.version, again.slot), (place.version, place.slot));
        for text in ["", ".", "1", "x.1", "1.x", "1.100000000"] {
            assert!(parse_place(text).is_err(), "{text:?}");
        }
    }
}
