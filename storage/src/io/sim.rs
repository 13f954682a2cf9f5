//! A simulated disk, by seed.
//!
//! Every file has a durable and a volatile image. Reads see the volatile one, [`DiskFile::sync_data`]
//! makes the durable one equal to it, [`Disk::sync_dir`] does the same for names. A power cut decides
//! for each un-synced 512-byte sector, each length and each name by a coin whether it survived. A sync
//! that fails leaves the page cache lying: what it failed to write reads well until the power goes,
//! and no later sync writes it.

use super::{Disk, DiskError, DiskFile, DiskMetrics, Operation, Space, check_relative, total_len};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, IoSlice};
use std::sync::Arc;
use std::time::Duration;

/// The unit that a power cut keeps or loses whole.
pub const SECTOR: usize = 512;

/// A data directory in memory that can lose power. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    metrics: DiskMetrics,
}

#[derive(Default)]
struct State {
    files: BTreeMap<FileId, Image>,
    dirs: BTreeSet<String>,
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    next_file: FileId,
    /// Handles of an earlier power-on are dead.
    power_on: u64,
    capacity: Option<u64>,
    faults: BTreeMap<Operation, Fault>,
    /// Decides what a failing sync has written.
    coins: Coins,
}

type FileId = u64;

#[derive(Default)]
struct Image {
    volatile: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors in which the two may differ and that a sync will still write.
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Copy)]
struct Fault {
    /// Calls until it fires; 1 is the next one.
    countdown: u64,
    kind: ErrorKind,
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk without limits or faults.
    pub fn new() -> SimDisk {
        SimDisk::with_seed(0)
    }

    /// The same; what failing syncs have written follows from the seed.
    pub fn with_seed(seed: u64) -> SimDisk {
        let state = Mutex::new(State { coins: Coins(seed), ..State::default() });
        SimDisk { shared: Arc::new(Shared { state, metrics: DiskMetrics::default() }) }
    }

    /// Takes the power away and gives it back: what was not synced survives by coin, every open
    /// handle is dead.
    pub fn power_cut(&self, seed: u64) {
        let mut coins = Coins(seed);
        self.shared.state.lock().power_cut(&mut || coins.toss());
    }

    /// A power cut after which nothing un-synced is left.
    pub fn power_cut_losing_all(&self) {
        self.shared.state.lock().power_cut(&mut || false);
    }

    /// Inverts the byte at `offset`, durably, as a failing medium would.
    ///
    /// # Panics
    /// If the file is not that long.
    pub fn flip(&self, path: &str, offset: u64) {
        let mut state = self.shared.state.lock();
        let image = state.image_of(path);
        image.volatile[offset as usize] ^= 0xff;
        if let Some(byte) = image.durable.get_mut(offset as usize) {
            *byte ^= 0xff;
        }
    }

    /// Lets the `nth` call of `operation` from now (1 is the next) fail once. A failing write may have
    /// written its first half; a failing sync has written each sector by a coin.
    pub fn fail_nth(&self, operation: Operation, nth: u64, kind: ErrorKind) {
        assert!(nth > 0, "calls are counted from 1");
        let fault = Fault { countdown: nth, kind };
        self.shared.state.lock().faults.insert(operation, fault);
    }

    /// Limits the sum of all file lengths; writes beyond it fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state.lock().capacity = bytes;
    }

    /// Sum of all file lengths.
    pub fn used(&self) -> u64 {
        let state = self.shared.state.lock();
        state.names.values().map(|id| state.files[id].volatile.len() as u64).sum()
    }

    /// Takes back the faults that have not fired.
    pub fn clear_faults(&self) {
        self.shared.state.lock().faults.clear();
    }

    /// The bytes of a file as a reader sees them.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn contents(&self, path: &str) -> Vec<u8> {
        self.shared.state.lock().image_of(path).volatile.clone()
    }

    fn call<T>(
        &self,
        operation: Operation,
        path: &str,
        run: impl FnOnce(&mut State) -> std::io::Result<T>,
    ) -> Result<T, DiskError> {
        check_relative(path, operation)?;
        let mut state = self.shared.state.lock();
        let result = match state.fault(operation) {
            Some(fault) => Err(fault.kind.into()),
            None => run(&mut state),
        };
        let result = result.map_err(|source| DiskError::new(path, operation, None, source));
        self.shared.metrics.count(operation, 0, Duration::ZERO, &result);
        result
    }

    fn handle(&self, state: &State, path: &str, id: FileId) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), path: path.to_owned(), id, power_on: state.power_on })
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.call(Operation::CreateDir, dir, |state| {
            let ends = dir.match_indices('/').map(|(end, _)| end).chain([dir.len()]);
            state.dirs.extend(ends.map(|end| dir[..end].to_owned()));
            Ok(())
        })
    }

    fn create(&self, path: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.call(Operation::Create, path, |state| {
            if !state.dirs.contains(dir_of(path)) && !dir_of(path).is_empty() {
                return Err(ErrorKind::NotFound.into());
            }
            if state.names.contains_key(path) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            let id = state.next_file;
            state.next_file += 1;
            state.files.insert(id, Image::default());
            state.names.insert(path.to_owned(), id);
            Ok(self.handle(state, path, id))
        })
    }

    fn open(&self, path: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.call(Operation::Open, path, |state| {
            let id = *state.names.get(path).ok_or(ErrorKind::NotFound)?;
            Ok(self.handle(state, path, id))
        })
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.call(Operation::List, dir, |state| {
            if !state.dirs.contains(dir) {
                return Err(ErrorKind::NotFound.into());
            }
            let inside = state.names.keys().filter(|path| dir_of(path) == dir);
            Ok(inside.map(|path| path[dir.len() + 1..].to_owned()).collect())
        })
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.call(Operation::Remove, path, |state| {
            state.names.remove(path).map(|_| ()).ok_or_else(|| ErrorKind::NotFound.into())
        })
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.call(Operation::SyncDir, dir, |state| {
            state.durable_names.retain(|path, _| dir_of(path) != dir);
            let inside = state.names.iter().filter(|(path, _)| dir_of(path) == dir);
            state.durable_names.extend(inside.map(|(path, id)| (path.clone(), *id)));
            Ok(())
        })
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.call(Operation::FreeSpace, "disk", |state| {
            Ok(Space { free_bytes: state.free_bytes(), total_bytes: state.capacity.unwrap_or(u64::MAX) })
        })
    }

    fn metrics(&self) -> &DiskMetrics {
        &self.shared.metrics
    }
}

struct SimFile {
    disk: SimDisk,
    path: String,
    id: FileId,
    power_on: u64,
}

impl SimFile {
    fn call<T>(
        &self,
        operation: Operation,
        offset: Option<u64>,
        bytes: u64,
        run: impl FnOnce(&mut State, Option<Fault>) -> std::io::Result<T>,
    ) -> Result<T, DiskError> {
        let mut state = self.disk.shared.state.lock();
        let result = if state.power_on != self.power_on {
            Err(Error::other("a handle from before the power cut"))
        } else {
            let fault = state.fault(operation);
            run(&mut state, fault)
        };
        let result = result.map_err(|source| DiskError::new(&self.path, operation, offset, source));
        self.disk.shared.metrics.count(operation, bytes, Duration::ZERO, &result);
        result
    }
}

impl DiskFile for SimFile {
    fn path(&self) -> &str {
        &self.path
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DiskError> {
        self.call(Operation::Write, Some(offset), total_len(bufs), |state, fault| {
            let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            match &fault {
                Some(fault) => {
                    let half = &bytes[..bytes.len() / 2];
                    state.write(self.id, half, offset).and(Err(fault.kind.into()))
                }
                None => state.write(self.id, &bytes, offset),
            }
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.call(Operation::Read, Some(offset), buf.len() as u64, |state, fault| {
            if let Some(fault) = fault {
                return Err(fault.kind.into());
            }
            let image = state.image(self.id)?;
            let range = offset as usize..(offset as usize).saturating_add(buf.len());
            buf.copy_from_slice(image.volatile.get(range).ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.call(Operation::Sync, None, 0, |state, fault| {
            let State { files, coins, .. } = state;
            let image = files.get_mut(&self.id).ok_or(ErrorKind::NotFound)?;
            image.sync(&mut || fault.is_none() || coins.toss());
            fault.map_or(Ok(()), |fault| Err(fault.kind.into()))
        })
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.call(Operation::Length, None, 0, |state, fault| match fault {
            Some(fault) => Err(fault.kind.into()),
            None => Ok(state.image(self.id)?.volatile.len() as u64),
        })
    }

    fn preallocate_zeroed(&self, len: u64) -> Result<(), DiskError> {
        self.call(Operation::Preallocate, None, len, |state, fault| {
            if let Some(fault) = fault {
                return Err(fault.kind.into());
            }
            state.write(self.id, &vec![0; len as usize], 0)?;
            state.image(self.id)?.sync(&mut || true);
            Ok(())
        })
    }
}

impl State {
    /// The fault that fires at this call, if its turn has come.
    fn fault(&mut self, operation: Operation) -> Option<Fault> {
        let fault = self.faults.get_mut(&operation)?;
        fault.countdown -= 1;
        if fault.countdown > 0 {
            return None;
        }
        self.faults.remove(&operation)
    }

    fn image(&mut self, id: FileId) -> std::io::Result<&mut Image> {
        self.files.get_mut(&id).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn image_of(&mut self, path: &str) -> &mut Image {
        let found = self.names.get(path).and_then(|id| self.files.get_mut(id));
        found.unwrap_or_else(|| panic!("no file {path} on the simulated disk"))
    }

    fn free_bytes(&self) -> u64 {
        let used: usize = self.names.values().map(|id| self.files[id].volatile.len()).sum();
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used as u64))
    }

    /// Writes as much as there is space for.
    fn write(&mut self, id: FileId, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        let free = self.free_bytes();
        let image = self.image(id)?;
        let most = (image.volatile.len() as u64).saturating_add(free).saturating_sub(offset);
        let fits = bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        image.write(&bytes[..fits], offset as usize);
        if fits < bytes.len() {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn power_cut(&mut self, survives: &mut dyn FnMut() -> bool) {
        self.power_on += 1;
        self.faults.clear();
        for image in self.files.values_mut() {
            image.power_cut(survives);
        }
        let paths: BTreeSet<&String> = self.names.keys().chain(self.durable_names.keys()).collect();
        let mut names = BTreeMap::new();
        for path in paths {
            let (volatile, durable) = (self.names.get(path), self.durable_names.get(path));
            let kept = if volatile != durable && survives() { volatile } else { durable };
            if let Some(id) = kept {
                names.insert(path.clone(), *id);
            }
        }
        self.files.retain(|id, _| names.values().any(|kept| kept == id));
        self.durable_names = names.clone();
        self.names = names;
    }
}

impl Image {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        // A gap that the file grows over is zeros, and dirty like the rest.
        let first = offset.min(self.volatile.len());
        if self.volatile.len() < end {
            self.volatile.resize(end, 0);
        }
        self.volatile[offset..end].copy_from_slice(bytes);
        self.dirty.extend(first / SECTOR..=(end - 1) / SECTOR);
    }

    /// Writes the dirty sectors that the medium `takes`; none is dirty afterwards.
    fn sync(&mut self, takes: &mut dyn FnMut() -> bool) {
        if self.durable.len() < self.volatile.len() && takes() {
            self.durable.resize(self.volatile.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.durable.len());
            if start < end && takes() {
                self.durable[start..end].copy_from_slice(&self.volatile[start..end]);
            }
        }
    }

    fn power_cut(&mut self, survives: &mut dyn FnMut() -> bool) {
        self.sync(survives);
        self.volatile.clone_from(&self.durable);
    }
}

/// The directory part of a path; empty for a file in the data directory itself.
fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// SplitMix64: a coin of 64 bits whose tosses are fixed by the seed.
#[derive(Default)]
struct Coins(u64);

impl Coins {
    fn toss(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    fn file(disk: &SimDisk, bytes: &[u8]) -> Arc<dyn DiskFile> {
        disk.create_dir("d").unwrap();
        let file = disk.create("d/a").unwrap();
        file.write_at(&[IoSlice::new(bytes)], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir("d").unwrap();
        file
    }

    #[test]
    fn power_cut_keeps_synced_bytes_and_tears_unsynced_ones_by_sector() {
        let (mut torn, sectors) = (0, 8);
        for seed in 0..32 {
            let disk = SimDisk::new();
            let old = file(&disk, &vec![1; SECTOR * sectors]);
            old.write_at(&[IoSlice::new(&vec![2; SECTOR * (sectors - 1)])], 0).unwrap();
            disk.power_cut(seed);
            assert!(old.sync_data().is_err(), "old handles are dead");
            let image = disk.contents("d/a");
            for sector in image.chunks(SECTOR) {
                assert!(sector.iter().all(|byte| *byte == sector[0]));
            }
            assert_eq!(image[SECTOR * (sectors - 1)..], [1; SECTOR], "never written again");
            let new = image.chunks(SECTOR).filter(|sector| sector[0] == 2).count();
            torn += usize::from(new > 0 && new < sectors - 1);
        }
        assert!(torn > 16, "most cuts tear: {torn}");
    }

    #[test]
    fn name_that_was_never_synced_may_be_lost_and_a_removed_one_may_return() {
        let (mut lost, mut returned) = (0, 0);
        for seed in 0..32 {
            let disk = SimDisk::new();
            file(&disk, b"x");
            disk.remove("d/a").unwrap();
            disk.create("d/b").unwrap().sync_data().unwrap();
            disk.power_cut(seed);
            let names = disk.list("d").unwrap();
            returned += usize::from(names.contains(&"a".to_owned()));
            lost += usize::from(!names.contains(&"b".to_owned()));
        }
        assert!((4..28).contains(&lost) && (4..28).contains(&returned), "{lost} {returned}");
    }

    #[test]
    fn after_a_failed_sync_the_next_one_succeeds_and_lies() {
        let disk = SimDisk::new();
        let handle = file(&disk, &[1; SECTOR * 64]);
        handle.write_at(&[IoSlice::new(&[2; SECTOR * 64])], 0).unwrap();
        disk.fail_nth(Operation::Sync, 1, ErrorKind::Other);
        assert!(handle.sync_data().is_err());
        handle.sync_data().unwrap();
        assert_eq!(disk.contents("d/a"), [2; SECTOR * 64]);
        disk.power_cut(1);
        assert!(disk.contents("d/a").contains(&1), "some sectors were never written");
    }

    #[test]
    fn full_disk_takes_what_fits_and_says_so() {
        let disk = SimDisk::new();
        let handle = file(&disk, &[1; 100]);
        disk.set_capacity(Some(150));
        let error = handle.write_at(&[IoSlice::new(&[2; 100])], 80).unwrap_err();
        assert!(error.is_no_space());
        assert_eq!((handle.len().unwrap(), disk.free_bytes().unwrap()), (150, 0));
        handle.write_at(&[IoSlice::new(&[3; 150])], 0).unwrap();
    }

    #[test]
    fn nth_call_fails_once_and_is_counted() {
        let disk = SimDisk::new();
        let handle = file(&disk, &[1; 8]);
        disk.fail_nth(Operation::Read, 2, ErrorKind::Other);
        let read = || handle.read_at(&mut [0; 8], 0).is_ok();
        assert_eq!([read(), read(), read()], [true, false, true]);
        let metrics = disk.metrics().of(Operation::Read);
        let counted = [&metrics.calls, &metrics.errors, &metrics.bytes].map(|counter| counter.load(Relaxed));
        assert_eq!(counted, [3, 1, 16]);
    }

    #[test]
    fn flip_changes_the_durable_byte() {
        let disk = SimDisk::new();
        file(&disk, &[7; 8]);
        disk.flip("d/a", 3);
        disk.power_cut_losing_all();
        assert_eq!(disk.contents("d/a"), [7, 7, 7, !7, 7, 7, 7, 7]);
    }
}
