//! One object as a file: its bytes, its metadata in an extended attribute, and the change of its name.
//!
//! The attribute `user.forebay.object`: layout:u8=1 etag:16 bytes:u64 mtime_s:i64 mtime_ns:i64 metadata (as in
//! object rows); an upload's has zeros before the metadata, and its key in `user.forebay.upload`. It holds for the bytes that it was written for: a
//! file with another length or time of change was changed by somebody else, and is theirs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

use super::name::{ASIDE, path_of};
use super::{Root, failed, random_hex, unknown};
use crate::keyspace::tables::{decode_meta, encode_meta};
use crate::object::ObjectMeta;
use crate::origin::page::Facts;
use crate::origin::{
    Condition, ContentHeaders, ErrorClass, Fence, HeadReply, Landing, OriginETag, OriginError, OriginKey,
    PutReply,
};

const ATTRIBUTE: &str = "user.forebay.object";
/// An upload's key.
const UPLOAD_KEY: &str = "user.forebay.upload";
/// Most bytes of an attribute: what ext4 has room for.
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;
const LAYOUT: u8 = 1;
const HEAD_BYTES: usize = 1 + 16 + 8 + 8 + 8;

/// What an object carries beside its bytes.
pub(super) struct Meta {
    encoded: Vec<u8>,
}

/// The bytes that an attribute holds for.
type Stamp = (u64, i64, i64);

impl Meta {
    pub(super) fn new(headers: &ContentHeaders, user: &[(String, String)]) -> Result<Meta, OriginError> {
        let headers = headers.clone();
        let meta = ObjectMeta {
            content_type: headers.content_type,
            content_encoding: headers.content_encoding,
            content_language: headers.content_language,
            content_disposition: headers.content_disposition,
            cache_control: headers.cache_control,
            expires: headers.expires,
            user: user.to_vec(),
            checksum: None,
        };
        Ok(Meta { encoded: encode_meta(&meta) })
    }

    /// The metadata of an upload that was begun.
    pub(super) fn of(file: &File) -> Result<Option<Meta>, OriginError> {
        let attribute = read_attribute(file)?;
        Ok(attribute.and_then(|bytes| bytes.get(HEAD_BYTES..).map(|rest| Meta { encoded: rest.to_vec() })))
    }

    /// Writes it beside a file's bytes: an object's with its ETag, an upload's without.
    pub(super) fn attach(&self, file: &File, object: Option<([u8; 16], Stamp)>) -> Result<(), OriginError> {
        let (etag, (bytes, seconds, nanos)) = object.unwrap_or_default();
        let mut value = vec![LAYOUT];
        value.extend_from_slice(&etag);
        value.extend_from_slice(&bytes.to_le_bytes());
        value.extend_from_slice(&seconds.to_le_bytes());
        value.extend_from_slice(&nanos.to_le_bytes());
        value.extend_from_slice(&self.encoded);
        fsetxattr(file, ATTRIBUTE, &value, XattrFlags::empty()).map_err(|error| {
            let class = match error {
                rustix::io::Errno::NOSPC | rustix::io::Errno::TOOBIG | rustix::io::Errno::RANGE => {
                    ErrorClass::TooLarge
                }
                _ => ErrorClass::ServerError,
            };
            let message = format!("keeping the metadata as an extended attribute: {error}");
            OriginError::new(class, Landing::NotApplied, message)
        })
    }
}

fn stamp_of(file: &File) -> Result<Stamp, OriginError> {
    let found = file.metadata().map_err(|error| failed("looking at a file", &error))?;
    Ok((found.len(), found.mtime(), found.mtime_nsec()))
}

/// The attribute, `None` if there is none or the file system has none.
fn read_attribute(file: &File) -> Result<Option<Vec<u8>>, OriginError> {
    let mut value = vec![0; 4096];
    loop {
        match fgetxattr(file, ATTRIBUTE, &mut value[..]) {
            Ok(len) => {
                value.truncate(len);
                return Ok(Some(value));
            }
            Err(rustix::io::Errno::RANGE) if value.len() < ATTRIBUTE_BYTES_MAX => {
                value.resize(value.len() * 4, 0)
            }
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(failed("reading metadata", &error.into())),
        }
    }
}

/// Says beside an upload's bytes which key it is for.
pub(super) fn name_upload(file: &File, key: &OriginKey) -> Result<(), OriginError> {
    let named = fsetxattr(file, UPLOAD_KEY, key.0.as_bytes(), XattrFlags::empty());
    named.map_err(|error| failed("naming an upload", &error.into()))
}

/// If the file is an upload for this key, its age, as far as that is known. One that is gone by now is none.
pub(super) fn upload_of(path: &Path, key: &OriginKey) -> Result<Option<Option<Duration>>, OriginError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("looking at an upload", &error)),
    };
    let mut named = vec![0; OriginKey::BYTES_MAX];
    let len = match fgetxattr(&file, UPLOAD_KEY, &mut named[..]) {
        Ok(len) => len,
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP | rustix::io::Errno::RANGE) => {
            return Ok(None);
        }
        Err(error) => return Err(failed("looking at an upload", &error.into())),
    };
    if named[..len] != *key.0.as_bytes() {
        return Ok(None);
    }
    let found = file.metadata().map_err(|error| failed("looking at an upload", &error))?;
    Ok(Some(found.created().ok().and_then(|created| created.elapsed().ok())))
}

/// A file that was found under a key.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) etag: OriginETag,
    modified_ms: u64,
    meta: ObjectMeta,
}

impl Found {
    pub(super) fn facts(&self) -> Facts {
        Facts { etag: Some(self.etag.clone()), bytes: self.bytes, modified_ms: self.modified_ms }
    }

    pub(super) fn head(&self) -> HeadReply {
        let meta = self.meta.clone();
        let mut user_metadata = meta.user;
        user_metadata.sort();
        HeadReply {
            etag: self.etag.clone(),
            content_length: self.bytes,
            modified_ms: self.modified_ms,
            headers: ContentHeaders {
                content_type: meta.content_type,
                content_encoding: meta.content_encoding,
                cache_control: meta.cache_control,
                content_disposition: meta.content_disposition,
                content_language: meta.content_language,
                expires: meta.expires,
            },
            user_metadata,
        }
    }
}

/// As [`find`], once the directory itself was seen.
pub(super) fn find_below(root: &Root, key: &OriginKey) -> Result<Option<Found>, OriginError> {
    root.check()?;
    find(&root.path, key)
}

/// What stands under a key. First its own place, then beside it: a file is only ever moved from the one to the
/// other.
pub(super) fn find(root: &Path, key: &OriginKey) -> Result<Option<Found>, OriginError> {
    let path = root.join(path_of(&key.0));
    for path in [path.clone(), aside(&path)] {
        if let Some(found) = open(path)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

pub(super) fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.extend_from_slice(ASIDE.as_bytes());
    PathBuf::from(<std::ffi::OsStr as OsStrExt>::from_bytes(&name))
}

/// Opens a plain file; anything else counts as nothing.
pub(super) fn open(path: PathBuf) -> Result<Option<Found>, OriginError> {
    // Not through a symbolic link, and without waiting for the other end of a pipe.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) => {
            let nothing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
                || error.raw_os_error() == Some(libc::ELOOP);
            return if nothing { Ok(None) } else { Err(failed("opening", &error)) };
        }
    };
    let found = file.metadata().map_err(|error| failed("looking at a file", &error))?;
    if !found.is_file() {
        return Ok(None);
    }
    let stamp = (found.len(), found.mtime(), found.mtime_nsec());
    let ours = read_attribute(&file)?.and_then(|value| parse(&value, stamp));
    let (etag, meta) = ours.unwrap_or_else(|| {
        let mut hasher = blake3::Hasher::new();
        for number in [found.ino(), found.len(), found.mtime() as u64, found.mtime_nsec() as u64] {
            hasher.update(&number.to_le_bytes());
        }
        (format!("file-{}", &hasher.finalize().to_hex()[..32]), ObjectMeta::default())
    });
    // A file may be older than the epoch.
    let modified_ms = found.mtime().saturating_mul(1_000).saturating_add(found.mtime_nsec() / 1_000_000);
    let modified_ms = u64::try_from(modified_ms).unwrap_or(0);
    Ok(Some(Found { path, file, bytes: found.len(), etag: OriginETag(etag), modified_ms, meta }))
}

fn parse(value: &[u8], (bytes, seconds, nanos): Stamp) -> Option<(String, ObjectMeta)> {
    let (head, meta) = value.split_at_checked(HEAD_BYTES)?;
    let expected = [&bytes.to_le_bytes()[..], &seconds.to_le_bytes(), &nanos.to_le_bytes()].concat();
    if head[0] != LAYOUT || head[17..] != expected[..] {
        return None;
    }
    Some((hex::encode(&head[1..17]), decode_meta(meta)?))
}

pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<File, OriginError> {
    let write = || {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.write_all_at(bytes, 0)?;
        Ok(file)
    };
    write().map_err(|error: io::Error| {
        let _ = std::fs::remove_file(path);
        failed("writing", &error)
    })
}

pub(super) fn open_to_write(path: &Path) -> Result<File, OriginError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| failed("opening an upload", &error))
}

pub(super) fn write_at(file: &File, bytes: &[u8], at: u64) -> Result<(), OriginError> {
    file.write_all_at(bytes, at).map_err(|error| failed("writing a part", &error))
}

pub(super) fn read_at(file: &File, at: u64, bytes: u64) -> Result<Bytes, OriginError> {
    let mut buffer = BytesMut::zeroed(bytes as usize);
    file.read_exact_at(&mut buffer, at).map_err(|error| failed("reading", &error))?;
    Ok(buffer.freeze())
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The change of a name: what makes an object of a file.
pub(super) struct Commit<'a> {
    pub(super) root: &'a Root,
    pub(super) key: &'a OriginKey,
    pub(super) condition: &'a Condition,
    pub(super) deadline: Instant,
    pub(super) fence: &'a Fence,
}

impl Commit<'_> {
    /// Syncs the file at `from` with its metadata and puts it under the key. Durable when it returns.
    pub(super) fn store(&self, file: File, from: &Path, meta: Meta) -> Result<PutReply, OriginError> {
        let mut etag = [0; 16];
        // Not a digest of the bytes: the same bytes put again are another object to a condition.
        hex::decode_to_slice(random_hex()?, &mut etag)
            .map_err(|error| OriginError::new(ErrorClass::Other, Landing::NotApplied, error.to_string()))?;
        meta.attach(&file, Some((etag, stamp_of(&file)?)))?;
        file.sync_all().map_err(|error| failed("syncing", &error))?;
        let changed = {
            let _names = self.root.names.lock();
            if !self.fence.holds() || Instant::now() >= self.deadline {
                return Err(OriginError::fenced(Landing::NotApplied));
            }
            self.root.judge(self.key, self.condition)?;
            let (place, mut changed) = self.place()?;
            rename(from, &place, *self.condition == Condition::IfAbsent)?;
            changed.push(place.parent().map(Path::to_owned).unwrap_or_default());
            changed
        };
        for dir in changed {
            sync_dir(&dir).map_err(|error| unknown("syncing a name", &error))?;
        }
        Ok(PutReply { etag: OriginETag(hex::encode(etag)) })
    }

    /// Where the key's file goes, its directories made; with the directories whose names have changed.
    fn place(&self) -> Result<(PathBuf, Vec<PathBuf>), OriginError> {
        let path = self.root.path.join(path_of(&self.key.0));
        let mut changed = Vec::new();
        let below = path.parent().and_then(|dir| dir.strip_prefix(&self.root.path).ok());
        let mut dir = self.root.path.clone();
        for name in below.into_iter().flat_map(Path::iter) {
            let parent = dir.clone();
            dir.push(name);
            match std::fs::create_dir(&dir) {
                Ok(()) => changed.push(parent),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // The file of a shorter key makes room.
                    let moved = std::fs::rename(&dir, aside(&dir)).and_then(|()| std::fs::create_dir(&dir));
                    moved.map_err(|error| failed("making a directory", &error))?;
                    changed.push(parent);
                }
                Err(error) => return Err(failed("making a directory", &error)),
            }
        }
        let beside = aside(&path);
        let place = if path.is_dir() || beside.symlink_metadata().is_ok() { beside } else { path };
        Ok((place, changed))
    }
}

/// With `absent`, somebody else's file that has come up meanwhile is not overwritten, where the file system
/// has links.
fn rename(from: &Path, to: &Path, absent: bool) -> Result<(), OriginError> {
    if absent {
        match std::fs::hard_link(from, to) {
            Ok(()) => {
                let _ = std::fs::remove_file(from);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(super::precondition_failed());
            }
            Err(_) => {}
        }
    }
    std::fs::rename(from, to).map_err(|error| failed("renaming", &error))
}
