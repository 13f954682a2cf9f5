//! Imports: everything that a mount's origin lists is taken over, heads alone, so that no read of it begins with a
//! look-up, and listings and counts have it as rows.
//!
//! A job for each mount: pages of the origin's listing, a HEAD for each key of which nothing is known, `Adopt`s in
//! batches, and a note in the log behind each page. Trouble is waited out, with pauses that grow to [`PAUSE_MAX`]; a
//! job ends when it is done or cancelled. A crash leaves the last note, from which the next start goes on; what was
//! taken over behind it is known by then.
//!
//! Bounds: a page of names and [`HEADS`] heads of each job.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cover::Reach;
use super::found::Found;
use super::local::Local;
use super::{ask, settle};
use crate::error::{Error, Result};
use crate::flush::MountId;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{ImportRow, Table, numbered_key};
use crate::keyspace::view::{View, ViewError};
use crate::mutation::{ImportState, Mutation, Outcome};
use crate::object::{BucketId, Version};
use crate::origin::ListRequest;
use crate::read::view_error;
use crate::store::{Shared, Store};
use crate::submission::Submission;

/// Names of a page.
const PAGE: u16 = 1000;
/// HEADs at once. More import sooner, and load the origin more.
const HEADS: usize = 16;
/// Objects that go into the log at once.
const BATCH: usize = 64;
/// Batches on their way into the log while further heads come.
const BATCHES: usize = 2;
/// Pauses while an origin is in trouble, or there is no room: the first one; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 250 });
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How an import stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportStatus {
    /// The mount.
    pub mount: MountId,
    /// `/bucket/prefix`.
    pub path: String,
    /// Whether it goes on.
    pub state: ImportState,
    /// Names that the origin has listed, those of runs before a restart included.
    pub listed: u64,
    /// Objects taken over, likewise.
    pub adopted: u64,
    /// Where it stands: the last name of the origin that it is done with.
    pub after: String,
    /// Why it waits, if it does; it goes on by itself.
    pub trouble: Option<String>,
}

/// The jobs of this node, by mount.
#[derive(Default)]
pub(super) struct Imports {
    /// Held for a look-up only.
    jobs: Mutex<HashMap<u32, Job>>,
}

struct Job {
    progress: Arc<Mutex<Progress>>,
    cancel: CancellationToken,
    /// `None` once somebody waits for its end.
    task: Option<JoinHandle<()>>,
}

/// What a job has done.
#[derive(Debug, Clone, Default)]
struct Progress {
    note: ImportRow,
    trouble: Option<String>,
}

impl Store {
    /// Starts to import what the origin of the mount at `/bucket/prefix` holds, and says how that stands; if an import
    /// is under way, it goes on, else one begins anew. `None`: no such mount, or one without an origin. The job runs
    /// by itself, also beyond restarts.
    pub async fn import(&self, bucket: &str, prefix: &[u8]) -> Result<Option<ImportStatus>> {
        let shared = self.shared();
        let Some(mount) = find(shared, bucket, prefix) else { return Ok(None) };
        if !shared.lookups.imports.jobs.lock().contains_key(&mount) {
            let note = ImportRow::default();
            shared.note(mount, &note).await?;
            begin(shared, mount, note);
        }
        status(shared, mount).await
    }

    /// How the last import of the mount at `/bucket/prefix` stands. `None`: no such mount, or never imported.
    pub async fn import_status(&self, bucket: &str, prefix: &[u8]) -> Result<Option<ImportStatus>> {
        let shared = self.shared();
        match find(shared, bucket, prefix) {
            Some(mount) => status(shared, mount).await,
            None => Ok(None),
        }
    }

    /// How the last import of each mount stands.
    pub async fn imports(&self) -> Result<Vec<ImportStatus>> {
        let shared = self.shared();
        let mounts: Vec<u32> = shared.status.mounts.lock().iter().map(|(mount, _)| *mount).collect();
        let mut all = Vec::new();
        for mount in mounts {
            all.extend(status(shared, mount).await?);
        }
        Ok(all)
    }

    /// Ends the import of the mount at `/bucket/prefix`, for good: what was taken over stays. False if none is under
    /// way.
    pub async fn cancel_import(&self, bucket: &str, prefix: &[u8]) -> Result<bool> {
        let shared = self.shared();
        let Some(mount) = find(shared, bucket, prefix) else { return Ok(false) };
        let (progress, task) = {
            let mut jobs = shared.lookups.imports.jobs.lock();
            let Some(job) = jobs.get_mut(&mount) else { return Ok(false) };
            let Some(task) = job.task.take() else { return Ok(false) };
            job.cancel.cancel();
            (job.progress.clone(), task)
        };
        let ending = shared.clone();
        let ended = shared.lookups.tasks.spawn(async move {
            // Its own notes come before the last one.
            let _ = task.await;
            let note = ImportRow { state: ImportState::Cancelled, ..progress.lock().note.clone() };
            let noted = ending.note(mount, &note).await;
            ending.lookups.imports.jobs.lock().remove(&mount);
            noted
        });
        ended.await.map_err(|_| Error::Stopping)?.map(|()| true)
    }
}

/// Goes on with the imports that a restart has interrupted.
pub(crate) async fn resume(shared: &Arc<Shared>) -> Result<()> {
    let mounts: Vec<u32> = shared.status.mounts.lock().iter().map(|(mount, _)| *mount).collect();
    for mount in mounts {
        let note = read_note(shared, mount).await?;
        if let Some(note) = note.filter(|note| note.state == ImportState::Running) {
            tracing::info!(mount, adopted = note.adopted, "an import goes on");
            begin(shared, mount, note);
        }
    }
    Ok(())
}

/// The mount of a path, if it has an origin.
fn find(shared: &Shared, bucket: &str, prefix: &[u8]) -> Option<u32> {
    let bucket = shared.registry.by_name(bucket.as_bytes())?;
    let mounts = shared.status.mounts.lock();
    let mut mounts = mounts.iter().filter(|(_, row)| !row.local && !row.leaving);
    mounts.find(|(_, row)| row.bucket == bucket && *row.prefix == *prefix).map(|(mount, _)| *mount)
}

async fn status(shared: &Arc<Shared>, mount: u32) -> Result<Option<ImportStatus>> {
    let running = shared.lookups.imports.jobs.lock().get(&mount).map(|job| job.progress.lock().clone());
    let progress = match running {
        Some(progress) => progress,
        None => match read_note(shared, mount).await? {
            Some(note) => Progress { note, trouble: None },
            None => return Ok(None),
        },
    };
    let path = shared
        .status
        .mounts
        .lock()
        .iter()
        .find(|(of, _)| *of == mount)
        .map(|(_, row)| shared.mount_path(row));
    let Some(path) = path else { return Ok(None) };
    let Progress { note, trouble } = progress;
    let ImportRow { state, listed, adopted, after } = note;
    let after = String::from_utf8_lossy(&after).into_owned();
    Ok(Some(ImportStatus { mount: MountId(mount), path, state, listed, adopted, after, trouble }))
}

async fn read_note(shared: &Arc<Shared>, mount: u32) -> Result<Option<ImportRow>> {
    let view = View::latest(&shared.keyspace);
    let read = move || -> Result<_, ViewError> {
        view.get(RowKey::encoded(&numbered_key(Table::Import, mount)), false, true)
    };
    let row = shared.pool.run(read).await.map_err(|_| Error::Stopping)?.map_err(view_error)?;
    Ok(row.flatten().as_deref().and_then(ImportRow::decode))
}

impl Shared {
    async fn note(self: &Arc<Self>, mount: u32, note: &ImportRow) -> Result<()> {
        let ImportRow { state, listed, adopted, after } = note;
        let mut submission = Submission::new();
        submission.push(&Mutation::ImportNote {
            mount,
            after,
            listed: *listed,
            adopted: *adopted,
            state: *state,
        });
        self.submit(submission).await.map(drop)
    }
}

/// Starts a job, unless there is one.
fn begin(shared: &Arc<Shared>, mount: u32, note: ImportRow) {
    let mut jobs = shared.lookups.imports.jobs.lock();
    let std::collections::hash_map::Entry::Vacant(entry) = jobs.entry(mount) else { return };
    let cancel = shared.lookups.stop.child_token();
    let progress = Arc::new(Mutex::new(Progress { note, trouble: None }));
    let run = Run { shared: shared.clone(), mount, progress: progress.clone(), cancel: cancel.clone() };
    // It takes itself out of the jobs only once this one is in.
    let task = Some(shared.lookups.tasks.spawn(run.run()));
    entry.insert(Job { progress, cancel, task });
}

/// A job under way.
struct Run {
    shared: Arc<Shared>,
    mount: u32,
    progress: Arc<Mutex<Progress>>,
    cancel: CancellationToken,
}

/// What a key came to.
enum Head {
    /// Nothing is to be done: known here, or gone there.
    Settled,
    Found {
        key: Bytes,
        read_at: Version,
        found: Found,
        asked_at: Instant,
    },
}

impl Run {
    async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let step = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                step = self.page() => step,
            };
            let wait = match step {
                Ok(ImportState::Running) => {
                    pause = PAUSE_MIN;
                    self.progress.lock().trouble = None;
                    continue;
                }
                Ok(ImportState::Done | ImportState::Cancelled) => break,
                Err(Error::Stopping) => return,
                Err(error) => {
                    self.progress.lock().trouble = Some(error.to_string());
                    pause
                }
            };
            pause = (pause * 2).min(PAUSE_MAX);
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
        let note = self.progress.lock().note.clone();
        tracing::info!(mount = self.mount, listed = note.listed, adopted = note.adopted, "an import is done");
        let mut jobs = self.shared.lookups.imports.jobs.lock();
        if jobs.get(&self.mount).is_some_and(|job| Arc::ptr_eq(&job.progress, &self.progress)) {
            jobs.remove(&self.mount);
        }
    }

    /// Takes over what the next page of the origin's listing holds, and notes it.
    async fn page(&self) -> Result<ImportState> {
        let shared = &self.shared;
        let cover = shared.status.cover.load_full();
        // Forgotten meanwhile.
        let Some(mount) = cover.by_number(self.mount) else { return Err(Error::Stopping) };
        let reach = shared.fills.reach(self.mount).filter(|_| mount.attached);
        let reach = reach.ok_or(Error::Unavailable("the mount's origin is not attached yet"))?;
        let mut note = self.progress.lock().note.clone();
        let after = std::str::from_utf8(&note.after).ok().filter(|after| !after.is_empty());
        let request = ListRequest {
            start_after: after.map(str::to_owned),
            ..ListRequest::new(reach.origin_prefix.clone(), PAGE)
        };
        let page = ask::list(&reach, &request, &shared.lookups.stop).await?;
        let keys = page.objects.iter().filter_map(|object| reach.key(&object.key.0));
        let is_mine = |key: &Bytes| {
            let owner = cover.owner(mount.bucket, key);
            owner.is_some_and(|owner| owner.mount == self.mount)
        };
        let keys: Vec<Bytes> = keys.filter(is_mine).collect();
        self.take_over(&reach, mount.bucket, keys).await?;
        // As many as were taken over by now, whoever has noted it.
        note.adopted = self.progress.lock().note.adopted;
        note.listed += page.objects.len() as u64;
        if let Some(last) = page.objects.last() {
            note.after = Box::from(last.key.0.as_bytes());
        }
        note.state = if page.truncated { ImportState::Running } else { ImportState::Done };
        if page.truncated && page.objects.is_empty() {
            return Err(Error::Unavailable("the origin's listing does not go on"));
        }
        shared.note(self.mount, &note).await?;
        let state = note.state;
        self.progress.lock().note = note;
        Ok(state)
    }

    /// Takes over those of a page's keys of which nothing is known.
    async fn take_over(&self, reach: &Reach, bucket: BucketId, keys: Vec<Bytes>) -> Result<()> {
        let heads = keys.into_iter().map(|key| self.head(reach, bucket, key));
        let heads = futures_util::stream::iter(heads).buffer_unordered(HEADS);
        let batches = heads.ready_chunks(BATCH).map(|batch| self.adopt(bucket, batch));
        let mut batches = std::pin::pin!(batches.buffer_unordered(BATCHES));
        while let Some(adopted) = batches.next().await {
            adopted?;
        }
        Ok(())
    }

    async fn head(&self, reach: &Reach, bucket: BucketId, key: Bytes) -> Result<Head> {
        let shared = &self.shared;
        let (local, read_at) = Local::look(shared, (bucket, &key), self.mount).await?;
        let name = reach.name(&key).filter(|_| local == Local::Unknown);
        let Some(name) = name else { return Ok(Head::Settled) };
        let asked_at = Instant::now();
        match ask::head(reach, &name, &shared.lookups.stop).await? {
            Some(head) => {
                // It may have come up since it was found to be absent.
                shared.lookups.absent.forget(self.mount, &key);
                let found = Found::of(head).ok_or(super::NO_ETAG)?;
                // Written here since: known, or deleted again. A mount that does not look up marks no deletes.
                if found.is_newer(shared.cluster, read_at) {
                    return Ok(Head::Settled);
                }
                Ok(Head::Found { key, read_at, found, asked_at })
            }
            None => Ok(Head::Settled),
        }
    }

    async fn adopt(&self, bucket: BucketId, batch: Vec<Result<Head>>) -> Result<()> {
        let (shared, mount) = (&self.shared, self.mount);
        let mut submission = Submission::new();
        let mut heads = Vec::with_capacity(batch.len());
        for head in batch {
            let Head::Found { key, read_at, found, asked_at } = head? else { continue };
            let (name, replaces, head) = (&*key, None, found.head());
            submission.push(&Mutation::Adopt { bucket, key: name, mount, read_at, replaces, head });
            heads.push((key, asked_at));
        }
        if heads.is_empty() {
            return Ok(());
        }
        shared.admit_row()?;
        let outcomes = shared.submit(submission).await?.results;
        let (mut adopted, mut adopted_otherwise) = (0, 0);
        for ((key, asked_at), outcome) in heads.iter().zip(outcomes) {
            match outcome {
                Outcome::Done(_) => {
                    adopted += 1;
                    shared.lookups.answers.note(mount, key, *asked_at);
                }
                // It has changed, or a delete of another key of its slot has come between.
                Outcome::Unmet => {
                    settle(shared, bucket, key).await?;
                    let (local, _) = Local::look(shared, (bucket, key), mount).await?;
                    adopted_otherwise += u64::from(matches!(local, Local::Here { clean: Some(_), .. }));
                }
                outcome => {
                    if let Some(not_shown) = shared.lookups.refused_lines.admit(Instant::now()) {
                        tracing::warn!(
                            mount,
                            ?outcome,
                            not_shown,
                            "an object of an origin was not taken over"
                        );
                    }
                }
            }
        }
        shared.lookups.counters.adopted.fetch_add(adopted, std::sync::atomic::Ordering::Relaxed);
        self.progress.lock().note.adopted += adopted + adopted_otherwise;
        Ok(())
    }
}
