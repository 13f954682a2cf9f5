//! A disk that loses power: a FUSE filesystem in memory that forgets what was not synced.
//!
//! Owns: the image, which outlives every mount, and the mount. A cut is only made while nothing is mounted, so
//! that no cache of the kernel survives it.

mod fuse;
pub mod image;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption};
use parking_lot::Mutex;
use tempfile::TempDir;

use image::{Damage, Image};

/// Whether filesystems can be mounted here; the reason if not.
pub fn available() -> Result<(), String> {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map(drop)
        .map_err(|error| format!("/dev/fuse: {error}"))
}

/// A disk, mounted in a temporary directory. Dropping it unmounts.
pub struct LossyDisk {
    image: Arc<Mutex<Image>>,
    // Before the directory it is mounted on: fields are dropped in this order.
    session: Option<BackgroundSession>,
    mount_point: TempDir,
}

impl LossyDisk {
    /// Mounts an empty disk.
    pub fn mount() -> io::Result<Self> {
        Self::mount_image(Image::default())
    }

    /// Mounts an empty disk whose files may take `bytes` together.
    pub fn mount_sized(bytes: u64) -> io::Result<Self> {
        Self::mount_image(Image::sized(bytes))
    }

    fn mount_image(image: Image) -> io::Result<Self> {
        let mount_point = tempfile::Builder::new().prefix("lossy-").tempdir()?;
        let image = Arc::new(Mutex::new(image));
        let mut disk = Self { image, session: None, mount_point };
        disk.remount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.mount_point.path()
    }

    /// The power goes: what was not synced is kept or lost by `seed`. Everything that used the disk must be
    /// gone; it is mounted again on return.
    pub fn power_cut(&mut self, seed: u64) -> io::Result<Damage> {
        if let Some(session) = self.session.take() {
            session.umount_and_join()?;
        }
        let damage = self.image.lock().power_cut(&mut fastrand::Rng::with_seed(seed));
        self.remount()?;
        Ok(damage)
    }

    /// Sectors of the files called `name`, in whatever directory, that a cut could lose now.
    pub fn unsynced_sectors(&self, name: &str) -> u64 {
        self.image.lock().unsynced_sectors(OsStr::new(name))
    }

    fn remount(&mut self) -> io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("lossy".to_owned()), MountOption::NoAtime];
        let files = fuse::LossyFs(Arc::clone(&self.image));
        self.session = Some(fuser::spawn_mount(files, self.mount_point.path(), &config)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use super::*;

    #[test]
    fn a_mounted_disk_keeps_what_was_synced_through_a_cut() {
        if let Err(reason) = available() {
            return crate::skip::tell("the lossy filesystem", reason);
        }
        let mut disk = LossyDisk::mount().unwrap();
        let directory = disk.path().join("d");
        fs::create_dir(&directory).unwrap();
        let mut file = File::create(directory.join("new")).unwrap();
        file.write_all(&[1; 10_000]).unwrap();
        file.sync_data().unwrap();
        drop(file);
        fs::rename(directory.join("new"), directory.join("f")).unwrap();
        File::open(&directory).unwrap().sync_all().unwrap();
        File::open(disk.path()).unwrap().sync_all().unwrap();
        let mut file = File::options().append(true).open(directory.join("f")).unwrap();
        file.write_all(&[2; 10_000]).unwrap();
        drop(file);
        assert_eq!(fs::read(directory.join("f")).unwrap().len(), 20_000);
        let mut lost = false;
        for seed in 0..8 {
            disk.power_cut(seed).unwrap();
            let found = fs::read(directory.join("f")).unwrap();
            assert!(found.len() >= 10_000 && found[..10_000].iter().all(|byte| *byte == 1), "seed {seed}");
            lost |= found.len() < 20_000 || found[10_000..].contains(&0);
        }
        assert!(lost, "a cut that loses nothing tests nothing");
    }

    #[test]
    fn a_write_through_dsync_is_durable_and_seen_through_a_mapping_of_the_file() {
        use std::os::unix::fs::{FileExt, OpenOptionsExt};
        if let Err(reason) = available() {
            return crate::skip::tell("the lossy filesystem", reason);
        }
        let mut disk = LossyDisk::mount().unwrap();
        let path = disk.path().join("f");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_DSYNC)
            .open(&path)
            .unwrap();
        File::open(disk.path()).unwrap().sync_all().unwrap();
        file.write_all_at(&[1; 8_192], 0).unwrap();
        let mapped = Mapping::of(&file, 8_192);
        assert_eq!(mapped.byte(5_000), 1);
        file.write_all_at(&[2; 512], 4_608).unwrap();
        assert_eq!(mapped.byte(5_000), 2);
        drop((mapped, file));
        for seed in 0..8 {
            assert_eq!(disk.power_cut(seed).unwrap(), Damage::default());
            assert_eq!(fs::read(&path).unwrap(), [vec![1; 4_608], vec![2; 512], vec![1; 3_072]].concat());
        }
    }

    /// The first bytes of a file, mapped shared and read only, as LMDB has its data file.
    struct Mapping {
        at: *mut libc::c_void,
        length: usize,
    }

    impl Mapping {
        fn of(file: &File, length: usize) -> Self {
            use std::os::fd::AsRawFd;
            // SAFETY: a new mapping at an address of the kernel's choice replaces no memory of ours; the
            // descriptor is open during the call.
            let at = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    length,
                    libc::PROT_READ,
                    libc::MAP_SHARED,
                    file.as_raw_fd(),
                    0,
                )
            };
            assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
            Self { at, length }
        }

        fn byte(&self, offset: usize) -> u8 {
            assert!(offset < self.length);
            // SAFETY: the mapping is `length` bytes long and the file was never shorter; volatile, because
            // the file is written meanwhile through its descriptor.
            unsafe { self.at.cast::<u8>().add(offset).read_volatile() }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: made by `of` with this length and not unmapped before; no reference into it exists.
            unsafe { libc::munmap(self.at, self.length) };
        }
    }
}
