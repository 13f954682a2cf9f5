//! Look-ups, listings and imports through a real node, over an origin in memory whose answers can be held back.

mod imports;
mod listings;
mod model;

mod stories;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::Error;
use crate::flush::{ChecksumMode, MountHealth};
use crate::mutation::{Existence, MountMode, Mutation, Outcome, Payload, SetExpiry};
use crate::node::{MountConfig, Node, OriginBackend, OriginConfig, StorageConfig, WRITE_THROUGH_TIMEOUT};
use crate::object::{BucketId, ObjectRow};
use crate::origin::memory::{Fault, MemoryOrigin, Operation};
use crate::origin::{
    AbortReply, BeginRequest, CompleteRequest, DeleteRequest, ErrorClass, HeadReply, Landing, ListReply,
    ListRequest, ListedUpload, Origin, OriginError, OriginKey, PartRequest, PutReply, PutRequest, ReadReply,
    ReadRequest, SentPart, UploadId,
};
use crate::store::Store;
use crate::submission::Submission;

const LIMIT: Duration = Duration::from_secs(60);

/// An origin in memory that counts questions, and holds answers back that it has given already.
struct Gated {
    inner: MemoryOrigin,
    /// Kinds of answers that are held, and how many of each are still to be.
    holds: Mutex<Vec<(Operation, u64)>>,
    /// Counts releases.
    released: watch::Sender<u64>,
    waiting: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    reads: AtomicU64,
}

impl Gated {
    fn new() -> Arc<Gated> {
        Arc::new(Gated {
            inner: MemoryOrigin::capable(),
            holds: Mutex::default(),
            released: watch::Sender::new(0),
            waiting: AtomicU64::new(0),
            heads: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        })
    }

    /// The next answer of this kind does not leave.
    fn hold(&self, operation: Operation) {
        self.hold_many(operation, 1);
    }

    /// Nor do those behind it.
    fn hold_many(&self, operation: Operation, answers: u64) {
        self.holds.lock().push((operation, answers));
    }

    fn release(&self) {
        self.holds.lock().clear();
        self.released.send_modify(|count| *count += 1);
    }

    /// Waits until so many answers are held.
    async fn is_holding(&self, answers: u64) {
        until("a held answer", || self.waiting.load(SeqCst) >= answers).await;
    }

    async fn pass(&self, operation: Operation) {
        let mut released = self.released.subscribe();
        let before = *released.borrow();
        {
            let mut holds = self.holds.lock();
            let Some((_, left)) = holds.iter_mut().find(|(of, left)| *of == operation && *left > 0) else {
                return;
            };
            *left -= 1;
        }
        self.waiting.fetch_add(1, SeqCst);
        let _ = released.wait_for(|count| *count > before).await;
        self.waiting.fetch_sub(1, SeqCst);
    }

    fn down(&self) {
        self.inner.set_hook(|_| {
            Fault::Refuse(OriginError::new(ErrorClass::Network, Landing::NotApplied, "the line is cut"))
        });
    }

    fn up(&self) {
        self.inner.clear_hook();
    }

    fn heads(&self) -> u64 {
        self.heads.load(SeqCst)
    }

    fn lists(&self) -> u64 {
        self.lists.load(SeqCst)
    }
}

#[async_trait]
impl Origin for Gated {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn put(&self, request: PutRequest) -> Result<PutReply, OriginError> {
        self.inner.put(request).await
    }

    async fn begin_upload(&self, request: BeginRequest) -> Result<UploadId, OriginError> {
        self.inner.begin_upload(request).await
    }

    async fn put_part(&self, request: PartRequest) -> Result<SentPart, OriginError> {
        self.inner.put_part(request).await
    }

    async fn complete_upload(&self, request: CompleteRequest) -> Result<PutReply, OriginError> {
        self.inner.complete_upload(request).await
    }

    async fn abort_upload(&self, key: &OriginKey, upload: &UploadId) -> Result<AbortReply, OriginError> {
        self.inner.abort_upload(key, upload).await
    }

    async fn list_uploads(&self, key: &OriginKey) -> Result<Vec<ListedUpload>, OriginError> {
        self.inner.list_uploads(key).await
    }

    async fn read(&self, request: ReadRequest) -> Result<Option<ReadReply>, OriginError> {
        self.reads.fetch_add(1, SeqCst);
        self.inner.read(request).await
    }

    async fn head(&self, key: &OriginKey) -> Result<Option<HeadReply>, OriginError> {
        self.heads.fetch_add(1, SeqCst);
        let answer = self.inner.head(key).await;
        self.pass(Operation::Head).await;
        answer
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), OriginError> {
        self.inner.delete(request).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListReply, OriginError> {
        self.lists.fetch_add(1, SeqCst);
        let answer = self.inner.list(request).await;
        self.pass(Operation::List).await;
        answer
    }
}

fn mount(bucket: &str, prefix: &str, origin: &Arc<Gated>) -> MountConfig {
    MountConfig {
        bucket: bucket.to_owned(),
        prefix: prefix.as_bytes().to_vec(),
        origin: Some(OriginConfig {
            url: format!("memory://origin/{prefix}"),
            prefix: String::new(),
            backend: OriginBackend::Custom(origin.clone()),
        }),
        flushall: false,
        min_interval: Duration::ZERO,
        fifo: false,
        checksums: ChecksumMode::Auto,
        mode: MountMode::WriteBack,
        revalidate: None,
        write_through_timeout: WRITE_THROUGH_TIMEOUT,
        max_lag: None,
    }
}

fn config(dir: &Path, mounts: Vec<MountConfig>) -> StorageConfig {
    let mut config = StorageConfig {
        map_bytes: 1 << 30,
        journal_file_bytes: 16 << 20,
        memtable_age: Duration::from_millis(200),
        ..StorageConfig::new(dir)
    };
    config.limits.disk_reserve_bytes = Some(0);
    // A restart in the middle of an attempt fences its key for as long.
    config.flush.attempt_timeout = Duration::from_secs(1);
    config.flush.retry_min = Duration::from_millis(20);
    config.flush.retry_max = Duration::from_millis(100);
    config.flush.fence_margin = Duration::from_millis(10);
    config.mounts = mounts;
    config
}

/// A node over origins that hold data.
struct Site {
    /// Apart, so that it can be stopped whatever becomes of the rest.
    node: Arc<Mutex<Option<Node>>>,
    store: Store,
    bucket: BucketId,
}

impl Site {
    /// Starts, and waits until every origin was reached.
    async fn start(dir: &Path, mounts: Vec<MountConfig>) -> Site {
        let site = Site::start_alone(dir, mounts).await;
        let store = &site.store;
        until("an attached mount", || store.mounts().iter().all(|mount| mount.local || mount.attached)).await;
        // Behind its probe.
        let flush = site.node.lock().as_ref().unwrap().flush();
        let is_up = || flush.status().mounts.iter().all(|mount| matches!(mount.health, MountHealth::Up));
        until("an origin that is up", is_up).await;
        site
    }

    async fn start_alone(dir: &Path, mounts: Vec<MountConfig>) -> Site {
        let node = Node::start(config(dir, mounts)).await.unwrap();
        let store = node.store();
        let bucket = store.bucket(b"data").unwrap();
        Site { node: Arc::new(Mutex::new(Some(node))), store, bucket }
    }

    async fn stop(self) {
        drop(self.store);
        let node = self.node.lock().take();
        node.unwrap().stop().await;
    }

    /// As the front ends read.
    async fn row(&self, key: &str) -> Result<Option<ObjectRow>, Error> {
        let key = key.as_bytes();
        if self.store.is_unknown(self.bucket, key) {
            self.store.look_up(&[(self.bucket, key)]).await?;
        }
        self.store.view()?.fetch(self.bucket, key).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        if self.row(key).await?.is_none() {
            return Ok(None);
        }
        let view = self.store.view()?;
        let Some(row) = view.fetch(self.bucket, key.as_bytes()).await? else { return Ok(None) };
        let reader = view.open_body(&row).await?;
        drop(view);
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < reader.len() {
            let at = bytes.len() as u64;
            bytes.extend_from_slice(&reader.read(at..at + (1 << 20)).await?);
        }
        Ok(Some(Bytes::from(bytes)))
    }

    async fn etag(&self, key: &str) -> Option<String> {
        let row = self.row(key).await.unwrap()?;
        Some(row.etag(self.store.cluster_id()).to_string())
    }

    async fn change(&self, mutation: &Mutation<'_>) -> Outcome {
        let mut submission = Submission::new();
        submission.push(mutation);
        self.store.submit(submission).await.unwrap().results.remove(0)
    }

    async fn set(&self, key: &str, body: &[u8]) {
        let (bucket, key, value) = (self.bucket, key.as_bytes(), Payload::Inline(body));
        let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
        let outcome = self.change(&Mutation::SetString { bucket, key, value, expiry, existence }).await;
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }

    async fn delete(&self, key: &str) -> Outcome {
        self.change(&Mutation::Delete { bucket: self.bucket, key: key.as_bytes() }).await
    }

    async fn flushed(&self) {
        assert_eq!(self.store.flush_wait(None, Some(LIMIT)).await.unwrap(), (0, 0));
    }
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < limit, "{what} never came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
