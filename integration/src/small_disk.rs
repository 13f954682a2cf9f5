//! Disks of a fixed size, to be filled to the last byte.
//!
//! Owns: the mount and its balloon, a file that takes whatever is free. What lies on the disk is the test's.
//!
//! Three kinds, because they fill differently: a loop-mounted ext4 (blocks are reserved late, metadata needs
//! some too), a tmpfs (memory), and the FUSE filesystem of [`lossy_fs`](crate::lossy_fs), which needs no
//! root. Where a kind cannot be mounted, [`SmallDisk::mount`] says why.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::lossy_fs::LossyDisk;

/// Pieces that the balloon grows by, in bytes: the last byte of a disk takes the smallest.
const PIECES: [usize; 4] = [1 << 20, 64 << 10, 4 << 10, 512];

/// What a disk is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file with ext4 in it, without blocks reserved for root.
    Ext4,
    /// Memory.
    Tmpfs,
    /// A filesystem of our own.
    Fuse,
}

enum Mounted {
    ByRoot(TempDir),
    Fuse(LossyDisk),
}

/// One disk. Dropping it unmounts and removes it; whoever used it must be gone.
pub struct SmallDisk {
    mounted: Mounted,
    /// Of ext4: the file that it lies in. After the mount: fields are dropped in this order.
    _image: Option<tempfile::NamedTempFile>,
}

impl SmallDisk {
    /// Mounts an empty disk of `bytes`; the error says why such a disk cannot be had here.
    pub fn mount(kind: Kind, bytes: u64) -> Result<Self, String> {
        let text = |error: io::Error| format!("a disk of kind {kind:?}: {error}");
        if kind == Kind::Fuse {
            crate::lossy_fs::available()?;
            let disk = LossyDisk::mount_sized(bytes).map_err(text)?;
            return Ok(Self { mounted: Mounted::Fuse(disk), _image: None });
        }
        let mount_point = tempfile::Builder::new().prefix("small-disk-").tempdir().map_err(text)?;
        let image = match kind {
            Kind::Ext4 => Some(formatted(bytes)?),
            Kind::Tmpfs | Kind::Fuse => None,
        };
        let mut mount = Command::new("mount");
        match &image {
            Some(image) => mount.args(["-t", "ext4", "-o", "loop"]).arg(image.path()),
            None => mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]),
        };
        run(mount.arg(mount_point.path()))?;
        Ok(Self { mounted: Mounted::ByRoot(mount_point), _image: image })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        match &self.mounted {
            Mounted::ByRoot(directory) => directory.path(),
            Mounted::Fuse(disk) => disk.path(),
        }
    }

    /// Bytes that files could still take.
    pub fn free_bytes(&self) -> u64 {
        let path = std::ffi::CString::new(self.path().as_os_str().as_bytes()).expect("a path without NUL");
        let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: statvfs reads a path that ends with NUL and writes one struct; both outlive the call.
        let status = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) };
        assert_eq!(status, 0, "statvfs: {}", io::Error::last_os_error());
        // SAFETY: statvfs has succeeded, so that it is filled in.
        let found = unsafe { found.assume_init() };
        found.f_bavail * found.f_frsize
    }

    /// Somebody else takes every byte that is free.
    pub fn fill(&self) {
        self.inflate(u64::MAX);
        let left = self.free_bytes();
        assert!(left < 4_096, "{left} bytes are free on a disk that was filled");
    }

    /// Somebody else takes at most so many bytes more.
    pub fn inflate(&self, bytes: u64) {
        let mut balloon = self.open_balloon();
        let mut left = bytes;
        for size in PIECES {
            let zeros = vec![0; size];
            // Once more after the sync: space that was promised to writes in memory may come back with it.
            for _ in 0..2 {
                while left >= size as u64 {
                    match balloon.write_all(&zeros) {
                        Ok(()) => left -= size as u64,
                        Err(error) if error.kind() == ErrorKind::StorageFull => break,
                        Err(error) => panic!("the balloon: {error}"),
                    }
                }
                match balloon.sync_all() {
                    Err(error) if error.kind() != ErrorKind::StorageFull => panic!("the balloon: {error}"),
                    _ => {}
                }
            }
        }
    }

    /// Somebody else gives all of it back.
    pub fn release(&self) {
        match fs::remove_file(self.balloon()) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("the balloon: {error}"),
            _ => {}
        }
    }

    fn balloon(&self) -> PathBuf {
        self.path().join("balloon")
    }

    fn open_balloon(&self) -> File {
        let mut options = File::options();
        options.create(true).append(true).open(self.balloon()).expect("the balloon can be opened")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Mounted::ByRoot(directory) = &self.mounted
            // Lazily: a test that failed may have left a process on it.
            && let Err(error) = run(Command::new("umount").arg("--lazy").arg(directory.path()))
        {
            eprintln!("{error}");
        }
    }
}

fn formatted(bytes: u64) -> Result<tempfile::NamedTempFile, String> {
    let made = tempfile::Builder::new().prefix("small-disk-").suffix(".ext4").tempfile();
    let image = made.and_then(|image| image.as_file().set_len(bytes).map(|()| image));
    let image = image.map_err(|error| format!("the image of a disk: {error}"))?;
    // No block is kept for root: the tests may run as root, the daemon's users do not.
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image.path()))?;
    Ok(image)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{:?}: {}: {said}", command.get_program(), output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fills_and_empties(kind: Kind) {
        let disk = match SmallDisk::mount(kind, 24 << 20) {
            Ok(disk) => disk,
            Err(reason) => return crate::skip::tell("full disks", reason),
        };
        fs::write(disk.path().join("before"), [1; 100_000]).unwrap();
        disk.inflate(1 << 20);
        assert!(disk.free_bytes() > 4 << 20, "{} bytes are free", disk.free_bytes());
        disk.fill();
        let refused = fs::write(disk.path().join("after"), [1; 100_000]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        assert_eq!(fs::read(disk.path().join("before")).unwrap(), [1; 100_000]);
        disk.release();
        fs::write(disk.path().join("after"), [1; 100_000]).unwrap();
    }

    #[test]
    fn an_ext4_is_full_to_the_last_byte_until_it_is_released() {
        fills_and_empties(Kind::Ext4);
    }

    #[test]
    fn a_tmpfs_is_full_to_the_last_byte_until_it_is_released() {
        fills_and_empties(Kind::Tmpfs);
    }

    #[test]
    fn a_fuse_disk_is_full_to_the_last_byte_until_it_is_released() {
        fills_and_empties(Kind::Fuse);
    }
}
