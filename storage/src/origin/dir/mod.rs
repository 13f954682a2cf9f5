//! A directory of this machine as origin: a NAS, a second disk, a test.
//!
//! Owns the way an object becomes a file ([`name`]) and keeps its metadata (an extended attribute beside the
//! bytes). Does not own the directory: people see readable names in it, and may look at, copy and add files;
//! what they add or change is somebody else's object.
//!
//! What must hold: a file under its own name is whole. Bytes and metadata are written beside, synced,
//! renamed, and the name is synced before an answer. Nothing here runs on a tokio worker. What a crash
//! leaves: files in `.forebay/tmp`, which the next probe removes, and uploads in `.forebay/uploads`, which
//! can go on.

mod file;
mod name;
#[cfg(test)]
mod tests;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use self::file::{Commit, Found, Meta};
use super::page::Page;
use super::{
    AbortReply, BeginRequest, Capabilities, CompleteRequest, Condition, DeleteRequest, ErrorClass, HeadReply,
    LISTED_UPLOADS_MAX, Landing, ListReply, ListRequest, ListedUpload, NO_SUCH_UPLOAD, Origin, OriginETag,
    OriginError, OriginKey, PartRequest, PutReply, PutRequest, ReadReply, ReadRequest, SentPart, UploadId,
    probe,
};
use crate::io::threads::ReadPool;

/// Threads for one directory, and jobs that may wait behind them.
const THREADS: usize = 8;
const JOBS_MAX: usize = 256;
/// Bytes read at a time.
const READ_BYTES: u64 = 512 << 10;

/// See the file's head.
pub struct DirOrigin {
    name: String,
    pool: Arc<ReadPool>,
    root: Arc<Root>,
}

/// What jobs share.
struct Root {
    path: PathBuf,
    /// Held while names change: what stands under a key, and which directories are there.
    names: Mutex<()>,
}

impl DirOrigin {
    /// Takes a directory, which must exist by the time of the first request. Starts its threads.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<DirOrigin> {
        let path = path.into();
        Ok(DirOrigin {
            name: format!("file://{}", path.display()),
            pool: Arc::new(ReadPool::new("dir-origin", THREADS, JOBS_MAX)?),
            root: Arc::new(Root { path, names: Mutex::new(()) }),
        })
    }

    /// Runs a job on the directory's threads. If the future is dropped a job that has begun ends by itself:
    /// it asks deadline and fence before it changes a name.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Root) -> Result<T, OriginError> + Send + 'static,
    ) -> Result<T, OriginError> {
        let root = self.root.clone();
        let lost =
            || OriginError::new(ErrorClass::Other, Landing::Unknown, "the directory's threads have ended");
        self.pool.run(move || job(&root)).await.map_err(|_| lost())?
    }
}

impl Root {
    /// The directory itself must be there: one that is made on the fly would hide a disk that is not mounted.
    fn check(&self) -> Result<(), OriginError> {
        match std::fs::metadata(&self.path) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(missing(&self.path, "is not a directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(missing(&self.path, "does not exist; make it, or mount its disk"))
            }
            Err(error) => Err(failed("looking at the directory", &error)),
        }
    }

    fn own(&self, part: &str) -> Result<PathBuf, OriginError> {
        self.check()?;
        let path = self.path.join(name::OWN).join(part);
        std::fs::create_dir_all(&path).map_err(|error| failed("making .forebay", &error))?;
        Ok(path)
    }

    fn upload(&self, upload: &UploadId) -> Result<PathBuf, OriginError> {
        let plain = upload.0.len() == 32 && upload.0.bytes().all(|byte| byte.is_ascii_hexdigit());
        let path = self.own("uploads")?.join(&upload.0);
        // A disk in trouble says nothing about the upload.
        let known = plain && path.try_exists().map_err(|error| failed("looking for an upload", &error))?;
        if known { Ok(path) } else { Err(no_such_upload()) }
    }

    fn judge(&self, key: &OriginKey, condition: &Condition) -> Result<(), OriginError> {
        let held = file::find(&self.path, key)?;
        let holds = match (condition, &held) {
            (Condition::None, _) | (Condition::IfAbsent, None) => true,
            (Condition::IfAbsent, Some(_)) | (Condition::IfMatch(_), None) => false,
            (Condition::IfMatch(etag), Some(found)) => *etag == found.etag,
        };
        if holds { Ok(()) } else { Err(precondition_failed()) }
    }

    fn put(&self, request: &PutRequest) -> Result<PutReply, OriginError> {
        if !request.checksums.are_of(&request.body) {
            return Err(bad_digest());
        }
        let temporary = self.own("tmp")?.join(random_hex()?);
        let meta = Meta::new(&request.headers, &request.user_metadata)?;
        let commit = Commit {
            root: self,
            key: &request.key,
            condition: &request.condition,
            deadline: request.deadline,
            fence: &request.fence,
        };
        let stored = file::write_whole(&temporary, &request.body)
            .and_then(|file| commit.store(file, &temporary, meta));
        if stored.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        stored
    }

    fn delete(&self, request: &DeleteRequest) -> Result<(), OriginError> {
        self.check()?;
        let names = self.names.lock();
        if !request.fence.holds() || std::time::Instant::now() >= request.deadline {
            return Err(OriginError::fenced(Landing::NotApplied));
        }
        let Some(found) = file::find(&self.path, &request.key)? else { return Ok(()) };
        if request.if_match.as_ref().is_some_and(|etag| *etag != found.etag) {
            return Err(precondition_failed());
        }
        std::fs::remove_file(&found.path).map_err(|error| failed("deleting", &error))?;
        // Directories that nothing is left in; one that is not empty stays.
        let mut dir = found.path.parent().map(Path::to_owned).unwrap_or_default();
        while dir != self.path && std::fs::remove_dir(&dir).is_ok() {
            dir.pop();
        }
        drop(names);
        file::sync_dir(&dir).map_err(|error| unknown("syncing the deletion", &error))
    }
}

#[async_trait]
impl Origin for DirOrigin {
    fn name(&self) -> &str {
        &self.name
    }

    async fn put(&self, request: PutRequest) -> Result<PutReply, OriginError> {
        self.run(move |root| root.put(&request)).await
    }

    async fn begin_upload(&self, request: BeginRequest) -> Result<UploadId, OriginError> {
        self.run(move |root| {
            let id = random_hex()?;
            let path = root.own("uploads")?.join(&id);
            let meta = Meta::new(&request.headers, &request.user_metadata)?;
            let file = file::write_whole(&path, b"")?;
            let named = meta.attach(&file, None).and_then(|()| file::name_upload(&file, &request.key));
            if let Err(error) = named {
                // Nobody will ever ask for it by its name.
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
            Ok(UploadId(id))
        })
        .await
    }

    async fn put_part(&self, request: PartRequest) -> Result<SentPart, OriginError> {
        let upload = request.upload.clone();
        let file = self.run(move |root| file::open_to_write(&root.upload(&upload)?)).await?;
        let file = Arc::new(file);
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        let mut at = 0;
        while at < request.body.len() {
            let unread = |error: super::BodyError| {
                OriginError::new(ErrorClass::Fenced, Landing::NotApplied, error.to_string())
            };
            let bytes = request.body.read_at(at).await.map_err(unread)?;
            if !request.fence.holds() || std::time::Instant::now() >= request.deadline {
                return Err(OriginError::fenced(Landing::NotApplied));
            }
            digest.update(&bytes);
            let (file, offset) = (file.clone(), request.offset + at);
            at += bytes.len() as u64;
            self.run(move |_| file::write_at(&file, &bytes, offset)).await?;
        }
        let crc = digest.finalize() as u32;
        if request.crc32c.is_some_and(|sent| sent != crc) {
            return Err(bad_digest());
        }
        self.run(move |_| file.sync_data().map_err(|error| failed("syncing a part", &error))).await?;
        let etag = OriginETag(format!("{crc:08x}-{}", request.body.len()));
        Ok(SentPart { number: request.number, etag, crc32c: request.crc32c })
    }

    async fn complete_upload(&self, request: CompleteRequest) -> Result<PutReply, OriginError> {
        self.run(move |root| {
            let path = root.upload(&request.upload)?;
            let file = file::open_to_write(&path)?;
            let lens = request.parts.iter().map(|part| part.etag.0.rsplit_once('-')?.1.parse::<u64>().ok());
            let len = lens.sum::<Option<u64>>();
            let there = file.metadata().map_err(|error| failed("looking at an upload", &error))?.len();
            if len != Some(there) {
                let message = format!("the parts have {len:?} bytes, {there} arrived");
                let error = OriginError::new(ErrorClass::Other, Landing::NotApplied, message);
                return Err(OriginError { code: Some("InvalidPart".to_owned()), ..error });
            }
            let meta = Meta::of(&file)?.ok_or_else(no_such_upload)?;
            let commit = Commit {
                root,
                key: &request.key,
                condition: &request.condition,
                deadline: request.deadline,
                fence: &request.fence,
            };
            commit.store(file, &path, meta)
        })
        .await
    }

    async fn abort_upload(&self, _key: &OriginKey, upload: &UploadId) -> Result<AbortReply, OriginError> {
        let upload = upload.clone();
        self.run(move |root| match root.upload(&upload) {
            Ok(path) => match std::fs::remove_file(path) {
                Ok(()) => Ok(AbortReply::GivenUp),
                // Completed at this moment.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(AbortReply::NotKnown),
                Err(error) => Err(failed("giving an upload up", &error)),
            },
            Err(error) if error.code.as_deref() == Some(NO_SUCH_UPLOAD) => Ok(AbortReply::NotKnown),
            Err(error) => Err(error),
        })
        .await
    }

    async fn list_uploads(&self, key: &OriginKey) -> Result<Vec<ListedUpload>, OriginError> {
        let key = key.clone();
        self.run(move |root| {
            let uploads = root.own("uploads")?;
            let entries = std::fs::read_dir(&uploads).map_err(|error| failed("listing uploads", &error))?;
            let mut found = Vec::new();
            for entry in entries.flatten() {
                let Ok(id) = entry.file_name().into_string() else { continue };
                match file::upload_of(&entry.path(), &key)? {
                    Some(age) if found.len() < LISTED_UPLOADS_MAX => {
                        found.push(ListedUpload { upload: UploadId(id), age });
                    }
                    _ => {}
                }
            }
            Ok(found)
        })
        .await
    }

    async fn read(&self, request: ReadRequest) -> Result<Option<ReadReply>, OriginError> {
        let key = request.key.clone();
        let found = self.run(move |root| file::find_below(root, &key)).await?;
        let Some(found) = found else { return Ok(None) };
        if request.if_match.is_some_and(|etag| etag != found.etag) {
            return Err(precondition_failed());
        }
        let len = found.bytes;
        let range = request.range.unwrap_or(0..len);
        let range = range.start.min(len)..range.end.min(len).max(range.start.min(len));
        let head = found.head();
        let state = (self.pool.clone(), Arc::new(found.file), range.clone());
        let body = futures_util::stream::try_unfold(state, |(pool, file, left)| async move {
            if left.is_empty() {
                return Ok(None);
            }
            let (at, want) = (left.start, (left.end - left.start).min(READ_BYTES));
            let reading = file.clone();
            let lost = |_| {
                OriginError::new(ErrorClass::Other, Landing::NotApplied, "the directory's threads have ended")
            };
            let bytes: Bytes = pool.run(move || file::read_at(&reading, at, want)).await.map_err(lost)??;
            let left = at + bytes.len() as u64..left.end;
            Ok(Some((bytes, (pool, file, left))))
        });
        Ok(Some(ReadReply { head, range, body: Box::pin(body) }))
    }

    async fn head(&self, key: &OriginKey) -> Result<Option<HeadReply>, OriginError> {
        let key = key.clone();
        self.run(move |root| Ok(file::find_below(root, &key)?.map(|found: Found| found.head()))).await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), OriginError> {
        self.run(move |root| root.delete(&request)).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListReply, OriginError> {
        self.run(move |root| {
            root.check()?;
            let mut page = Page::new(&request);
            walk::walk(&root.path, &mut page)?;
            Ok(page.finish())
        })
        .await
    }

    async fn probe(&self, prefix: &str) -> Result<Capabilities, OriginError> {
        self.run(|root| {
            let temporary = root.own("tmp")?;
            for entry in
                std::fs::read_dir(temporary).map_err(|error| failed("cleaning up", &error))?.flatten()
            {
                let _ = std::fs::remove_file(entry.path());
            }
            Ok(())
        })
        .await?;
        probe::probe(self, prefix).await
    }
}

fn random_hex() -> Result<String, OriginError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| OriginError::new(ErrorClass::Other, Landing::NotApplied, error.to_string()))?;
    Ok(hex::encode(id))
}

fn missing(path: &Path, what: &str) -> OriginError {
    let message = format!("{} {what}", path.display());
    OriginError::new(ErrorClass::MissingBucket, Landing::NotApplied, message)
}

/// A system error before any name was changed.
fn failed(what: &str, error: &io::Error) -> OriginError {
    let class = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorClass::Quota,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorClass::Auth,
        io::ErrorKind::InvalidFilename | io::ErrorKind::FileTooLarge => ErrorClass::TooLarge,
        _ => ErrorClass::ServerError,
    };
    OriginError::new(class, Landing::NotApplied, format!("{what}: {error}"))
}

/// A system error after a name was changed.
fn unknown(what: &str, error: &io::Error) -> OriginError {
    OriginError { outcome: Landing::Unknown, ..failed(what, error) }
}

fn precondition_failed() -> OriginError {
    let message = "another file stands there than the condition says";
    let error = OriginError::new(ErrorClass::Conflict, Landing::NotApplied, message);
    OriginError { code: Some("PreconditionFailed".to_owned()), ..error }
}

fn no_such_upload() -> OriginError {
    let error = OriginError::new(ErrorClass::Other, Landing::NotApplied, "the upload is not known");
    OriginError { code: Some(NO_SUCH_UPLOAD.to_owned()), ..error }
}

fn bad_digest() -> OriginError {
    OriginError::new(ErrorClass::Checksum, Landing::NotApplied, "the bytes have another checksum")
}
