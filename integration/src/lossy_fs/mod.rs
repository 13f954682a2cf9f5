//! A disk that loses power: a FUSE filesystem in memory that forgets what was not synced.
//!
//! Owns: the image, which outlives every mount, and the mount. A cut is only made while nothing is mounted, so
//! that no cache of the kernel survives it.

mod fuse;
pub mod image;

use std::io;
use std::path::Path;
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption};
use parking_lot::Mutex;
use tempfile::TempDir;

use image::Image;

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
        let mount_point = tempfile::Builder::new().prefix("lossy-").tempdir()?;
        let mut disk = Self { image: Arc::default(), session: None, mount_point };
        disk.remount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.mount_point.path()
    }

    /// The power goes: what was not synced is kept or lost by `seed`. Everything that used the disk must be
    /// gone; it is mounted again on return.
    pub fn power_cut(&mut self, seed: u64) -> io::Result<()> {
        if let Some(session) = self.session.take() {
            session.umount_and_join()?;
        }
        self.image.lock().power_cut(&mut fastrand::Rng::with_seed(seed));
        self.remount()
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
            eprintln!("SKIPPED: the lossy filesystem: {reason}");
            return;
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
}
