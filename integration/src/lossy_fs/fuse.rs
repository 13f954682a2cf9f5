//! The image as a mounted filesystem: one call of the kernel, one operation of the image.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;

use super::image::{Image, Refused, Status};

/// Only the kernel's own calls change the image while it is mounted.
const CACHED: Duration = Duration::from_secs(60);
const BLOCK: u32 = 4_096;

pub(super) struct LossyFs(pub(super) Arc<Mutex<Image>>);

impl From<Refused> for Errno {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotFound => Errno::ENOENT,
            Refused::Exists => Errno::EEXIST,
            Refused::NotADirectory => Errno::ENOTDIR,
            Refused::IsADirectory => Errno::EISDIR,
            Refused::NotEmpty => Errno::ENOTEMPTY,
            Refused::NoSpace => Errno::ENOSPC,
        }
    }
}

fn attributes(request: &Request, status: Status) -> FileAttr {
    FileAttr {
        ino: INodeNo(status.inode),
        size: status.size,
        blocks: status.size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind(status),
        perm: u16::try_from(status.mode & 0o7777).unwrap_or(0o600),
        nlink: 1,
        uid: request.uid(),
        gid: request.gid(),
        rdev: 0,
        flags: 0,
        blksize: BLOCK,
    }
}

fn kind(status: Status) -> FileType {
    if status.directory { FileType::Directory } else { FileType::RegularFile }
}

fn entry(request: &Request, found: Result<Status, Refused>, reply: ReplyEntry) {
    match found {
        Ok(status) => reply.entry(&CACHED, &attributes(request, status), Generation(0)),
        Err(refused) => reply.error(refused.into()),
    }
}

fn done(result: Result<(), Refused>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(refused) => reply.error(refused.into()),
    }
}

impl Filesystem for LossyFs {
    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(request, self.0.lock().lookup(parent.0, name), reply);
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().status(inode.0) {
            Ok(status) => reply.attr(&CACHED, &attributes(request, status)),
            Err(refused) => reply.error(refused.into()),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut image = self.0.lock();
        let changed = mode
            .map_or(Ok(()), |mode| image.set_mode(inode.0, mode))
            .and_then(|()| size.map_or(Ok(()), |size| image.set_size(inode.0, size)))
            .and_then(|()| image.status(inode.0));
        match changed {
            Ok(status) => reply.attr(&CACHED, &attributes(request, status)),
            Err(refused) => reply.error(refused.into()),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        entry(request, self.0.lock().create(parent.0, name, mode & !umask, true), reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.0.lock().create(parent.0, name, mode & !umask, false) {
            Ok(status) => {
                let attributes = attributes(request, status);
                reply.created(&CACHED, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
            }
            Err(refused) => reply.error(refused.into()),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.0.lock().remove(parent.0, name, false), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.0.lock().remove(parent.0, name, true), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        done(self.0.lock().rename(parent.0, name, new_parent.0, new_name), reply);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.lock().read(inode.0, offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(refused) => reply.error(refused.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut image = self.0.lock();
        let mut written = image.write(inode.0, offset, bytes);
        // LMDB writes its meta page like this and syncs nothing afterwards. O_SYNC includes the bit.
        if flags.0 & libc::O_DSYNC != 0 {
            written = written.and_then(|()| image.sync_range(inode.0, offset, bytes.len()));
        }
        match (written, u32::try_from(bytes.len())) {
            (Ok(()), Ok(written)) => reply.written(written),
            (Err(refused), _) => reply.error(refused.into()),
            (_, Err(_)) => reply.error(Errno::EINVAL),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.0.lock().sync(inode.0), reply);
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.0.lock().sync_directory(inode.0), reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode == 0 {
            done(self.0.lock().allocate(inode.0, offset, length), reply);
        } else {
            reply.error(Errno::EOPNOTSUPP);
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let names = match self.0.lock().names(inode.0) {
            Ok(names) => names,
            Err(refused) => return reply.error(refused.into()),
        };
        for (position, (name, status)) in (1..).zip(&names).skip_while(|(position, _)| *position <= offset) {
            if reply.add(INodeNo(status.inode), position, kind(*status), name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 24;
        let (all, free) = self.0.lock().pages().unwrap_or((BLOCKS, BLOCKS));
        reply.statfs(all, free, free, 1 << 20, 1 << 20, BLOCK, 255, BLOCK);
    }
}
