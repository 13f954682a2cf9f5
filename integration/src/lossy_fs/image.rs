//! What a disk holds now, and what it would hold after a power cut. Pure: no clock, no I/O, seeded.
//!
//! Every file has a volatile and a durable image. `fsync` makes a file's bytes and size durable, `fsyncdir` a
//! directory's names, a write through an `O_DSYNC` descriptor its own bytes: as POSIX promises, and nothing
//! beyond it. A power cut keeps, by seed, any of the unsynced sectors of 512 bytes, either size, and any
//! earlier state of an unsynced directory.
//!
//! It may have a size: then a write that needs a page more than there are is refused, as by a full disk.
//!
//! Must hold: what was synced is never lost; a sector is kept whole or not at all; what lies beyond the end of a
//! file reads as zeros once the file has grown over it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;

/// Inode number of the root directory.
pub const ROOT: u64 = 1;

const PAGE: usize = 4_096;
const SECTOR: usize = 512;
const SECTORS: usize = PAGE / SECTOR;
const DIRECTORY_MODE: u32 = 0o755;

type Page = [u8; PAGE];
type Names = BTreeMap<OsString, u64>;

/// Why an operation was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No such file or directory.
    NotFound,
    /// The name is taken.
    Exists,
    /// A directory is needed.
    NotADirectory,
    /// A file is needed.
    IsADirectory,
    /// The directory holds names.
    NotEmpty,
    /// No page is free.
    NoSpace,
}

/// A file or directory as `stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Inode number.
    pub inode: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// Length in bytes; 0 for a directory.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
}

#[derive(Debug, Default)]
struct FileNode {
    mode: u32,
    volatile: BTreeMap<u64, Arc<Page>>,
    volatile_size: u64,
    durable: BTreeMap<u64, Arc<Page>>,
    durable_size: u64,
    /// Per page a bit for each sector written or cut off since the last sync; a page that is here and not in
    /// `volatile` reads as zeros.
    dirty: BTreeMap<u64, u8>,
}

#[derive(Debug, Default)]
struct DirectoryNode {
    mode: u32,
    names: Names,
    /// The synced state and every one since, the present one left out; empty if nothing changed.
    unsynced: Vec<Names>,
}

#[derive(Debug)]
enum Node {
    File(FileNode),
    Directory(DirectoryNode),
}

/// What a power cut did to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornFile {
    /// Where the file lies, from the root of the disk, after the cut.
    pub path: PathBuf,
    /// Sectors that were not synced.
    pub unsynced_sectors: u64,
    /// How many of them went back to what was synced before.
    pub lost_sectors: u64,
}

/// What a power cut did. Files that no directory names any more are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// Files with unsynced sectors, in the order of their paths.
    pub files: Vec<TornFile>,
    /// Directories that went back to an earlier state.
    pub directories: u64,
}

/// The whole disk.
#[derive(Debug)]
pub struct Image {
    nodes: HashMap<u64, Node>,
    next_inode: u64,
    /// Pages that files may take together; `None` for no limit.
    pages_max: Option<u64>,
}

impl Default for Image {
    fn default() -> Self {
        let root = DirectoryNode { mode: DIRECTORY_MODE, ..DirectoryNode::default() };
        let nodes = HashMap::from([(ROOT, Node::Directory(root))]);
        Self { nodes, next_inode: ROOT + 1, pages_max: None }
    }
}

impl Image {
    /// An empty disk whose files may take `bytes` together, in pages of 4 KiB. Names take nothing.
    pub fn sized(bytes: u64) -> Self {
        Self { pages_max: Some(bytes / PAGE as u64), ..Self::default() }
    }

    /// Pages of 4 KiB: all, and those that are free. `None` for a disk without a size.
    pub fn pages(&self) -> Option<(u64, u64)> {
        let max = self.pages_max?;
        Some((max, max.saturating_sub(self.pages_used())))
    }

    /// Of files that have a name; whoever still has another one open does not keep its pages.
    fn pages_used(&self) -> u64 {
        let named = self.nodes.values().filter_map(|node| match node {
            Node::Directory(directory) => Some(directory.names.values()),
            Node::File(_) => None,
        });
        let files = named.flatten().filter_map(|inode| self.file(*inode).ok());
        files.map(|file| file.volatile.len() as u64).sum()
    }

    /// Finds a name.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Status, Refused> {
        let inode = self.directory(parent)?.names.get(name).copied().ok_or(Refused::NotFound)?;
        self.status(inode)
    }

    /// `stat`.
    pub fn status(&self, inode: u64) -> Result<Status, Refused> {
        Ok(match self.nodes.get(&inode).ok_or(Refused::NotFound)? {
            Node::File(file) => Status { inode, directory: false, size: file.volatile_size, mode: file.mode },
            Node::Directory(directory) => Status { inode, directory: true, size: 0, mode: directory.mode },
        })
    }

    /// Makes an empty file or directory.
    pub fn create(
        &mut self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        directory: bool,
    ) -> Result<Status, Refused> {
        if self.directory(parent)?.names.contains_key(name) {
            return Err(Refused::Exists);
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        let node = if directory {
            Node::Directory(DirectoryNode { mode, ..DirectoryNode::default() })
        } else {
            Node::File(FileNode { mode, ..FileNode::default() })
        };
        self.nodes.insert(inode, node);
        self.change(parent, |names| _ = names.insert(name.to_owned(), inode))?;
        self.status(inode)
    }

    /// Removes a name. The bytes stay as long as a durable directory may still name them.
    pub fn remove(&mut self, parent: u64, name: &OsStr, directory: bool) -> Result<(), Refused> {
        let found = self.lookup(parent, name)?;
        match (found.directory, directory) {
            (true, false) => return Err(Refused::IsADirectory),
            (false, true) => return Err(Refused::NotADirectory),
            (true, true) if !self.directory(found.inode)?.names.is_empty() => return Err(Refused::NotEmpty),
            _ => {}
        }
        self.change(parent, |names| _ = names.remove(name))
    }

    /// Moves a name, replacing what the new name held.
    pub fn rename(&mut self, from: u64, name: &OsStr, to: u64, new_name: &OsStr) -> Result<(), Refused> {
        let inode = self.lookup(from, name)?.inode;
        self.directory(to)?;
        if from == to {
            return self.change(from, |names| {
                names.remove(name);
                names.insert(new_name.to_owned(), inode);
            });
        }
        self.change(to, |names| _ = names.insert(new_name.to_owned(), inode))?;
        self.change(from, |names| _ = names.remove(name))
    }

    /// Names and inodes of a directory.
    pub fn names(&self, inode: u64) -> Result<Vec<(OsString, Status)>, Refused> {
        let names = &self.directory(inode)?.names;
        names.iter().map(|(name, inode)| Ok((name.clone(), self.status(*inode)?))).collect()
    }

    /// At most `length` bytes from `offset`; fewer at the end of the file.
    pub fn read(&self, inode: u64, offset: u64, length: usize) -> Result<Vec<u8>, Refused> {
        let file = self.file(inode)?;
        let left = file.volatile_size.saturating_sub(offset);
        let length = usize::try_from(left).map_or(length, |left| left.min(length));
        let mut bytes = vec![0; length];
        for (page, from, part) in pieces(offset, length) {
            if let Some(stored) = file.volatile.get(&page) {
                bytes[part.clone()].copy_from_slice(&stored[from..from + part.len()]);
            }
        }
        Ok(bytes)
    }

    /// Number of unsynced sectors of the files called `name`, in whatever directory.
    pub fn unsynced_sectors(&self, name: &OsStr) -> u64 {
        let named = self.nodes.values().filter_map(|node| match node {
            Node::Directory(directory) => directory.names.get(name),
            Node::File(_) => None,
        });
        named.filter_map(|inode| self.file(*inode).ok()).map(FileNode::unsynced_sectors).sum()
    }

    /// Writes into the volatile image: all or, where pages are missing, nothing.
    pub fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) -> Result<(), Refused> {
        if let Some((_, free)) = self.pages() {
            let file = self.file(inode)?;
            let new = pieces(offset, bytes.len()).filter(|(page, ..)| !file.volatile.contains_key(page));
            if new.count() as u64 > free {
                return Err(Refused::NoSpace);
            }
        }
        let file = self.file_mut(inode)?;
        for (page, from, part) in pieces(offset, bytes.len()) {
            let stored = file.volatile.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            let until = from + part.len();
            Arc::make_mut(stored)[from..until].copy_from_slice(&bytes[part]);
            let dirty = file.dirty.entry(page).or_default();
            (from / SECTOR..until.div_ceil(SECTOR)).for_each(|sector| *dirty |= 1 << sector);
        }
        file.volatile_size = file.volatile_size.max(offset + bytes.len() as u64);
        Ok(())
    }

    /// Sets the length; what lies beyond it is gone, what is new reads as zeros.
    pub fn set_size(&mut self, inode: u64, size: u64) -> Result<(), Refused> {
        let file = self.file_mut(inode)?;
        if size < file.volatile_size {
            let (page, from) = (size / PAGE as u64, usize_of(size % PAGE as u64));
            let first_gone = page + u64::from(from > 0);
            drop(file.volatile.split_off(&first_gone));
            // Only what a cut could bring back is at risk.
            drop(file.dirty.split_off(&first_gone));
            file.dirty.extend(file.durable.range(first_gone..).map(|(page, _)| (*page, u8::MAX)));
            if let Some(stored) = file.volatile.get_mut(&page).filter(|_| from > 0) {
                Arc::make_mut(stored)[from..].fill(0);
                let dirty = file.dirty.entry(page).or_default();
                (from / SECTOR..SECTORS).for_each(|sector| *dirty |= 1 << sector);
            }
        }
        file.volatile_size = size;
        Ok(())
    }

    /// Grows the file to hold `offset + length` bytes.
    pub fn allocate(&mut self, inode: u64, offset: u64, length: u64) -> Result<(), Refused> {
        let file = self.file_mut(inode)?;
        file.volatile_size = file.volatile_size.max(offset + length);
        Ok(())
    }

    /// Sets the permission bits.
    pub fn set_mode(&mut self, inode: u64, mode: u32) -> Result<(), Refused> {
        match self.nodes.get_mut(&inode).ok_or(Refused::NotFound)? {
            Node::File(file) => file.mode = mode,
            Node::Directory(directory) => directory.mode = mode,
        }
        Ok(())
    }

    /// Makes bytes and size of a file durable; its name is the directory's matter.
    pub fn sync(&mut self, inode: u64) -> Result<(), Refused> {
        let file = self.file_mut(inode)?;
        for page in std::mem::take(&mut file.dirty).into_keys() {
            match file.volatile.get(&page) {
                Some(stored) => drop(file.durable.insert(page, Arc::clone(stored))),
                None => drop(file.durable.remove(&page)),
            }
        }
        file.durable_size = file.volatile_size;
        file.drop_durable_beyond_end();
        Ok(())
    }

    /// Makes the sectors that hold `length` bytes from `offset` durable, and the size up to their end: what a
    /// write through an `O_DSYNC` descriptor promises. The rest of the file stays as unsynced as it was.
    pub fn sync_range(&mut self, inode: u64, offset: u64, length: usize) -> Result<(), Refused> {
        let file = self.file_mut(inode)?;
        for (page, from, part) in pieces(offset, length) {
            let dirty = file.dirty.get(&page).copied().unwrap_or_default();
            let written = (from / SECTOR..(from + part.len()).div_ceil(SECTOR))
                .filter(|sector| dirty & (1 << sector) != 0)
                .fold(0, |sectors, sector| sectors | 1 << sector);
            file.make_durable(page, written);
            if dirty == written {
                file.dirty.remove(&page);
            } else {
                file.dirty.insert(page, dirty & !written);
            }
        }
        file.durable_size = file.durable_size.max((offset + length as u64).min(file.volatile_size));
        Ok(())
    }

    /// Makes the names of a directory durable.
    pub fn sync_directory(&mut self, inode: u64) -> Result<(), Refused> {
        self.directory_mut(inode)?.unsynced.clear();
        Ok(())
    }

    /// The power goes and comes back. Nothing has the disk mounted meanwhile.
    pub fn power_cut(&mut self, random: &mut fastrand::Rng) -> Damage {
        // In the order of inode numbers, so that a seed always means the same.
        let mut inodes: Vec<u64> = self.nodes.keys().copied().collect();
        inodes.sort_unstable();
        let mut torn = HashMap::new();
        let mut directories = 0;
        for inode in inodes {
            match self.nodes.get_mut(&inode) {
                Some(Node::File(file)) => {
                    let unsynced = file.unsynced_sectors();
                    let lost = file.power_cut(random);
                    if unsynced > 0 {
                        torn.insert(inode, (unsynced, lost));
                    }
                }
                Some(Node::Directory(directory)) => directories += u64::from(directory.power_cut(random)),
                None => {}
            }
        }
        let paths = self.drop_unreachable();
        let files = paths.into_iter().filter_map(|(path, inode)| {
            let (unsynced_sectors, lost_sectors) = *torn.get(&inode)?;
            Some(TornFile { path, unsynced_sectors, lost_sectors })
        });
        Damage { files: files.collect(), directories }
    }

    /// Forgets what no directory names; returns what is left by path.
    fn drop_unreachable(&mut self) -> BTreeMap<PathBuf, u64> {
        let mut reached = BTreeMap::new();
        let mut open = vec![(PathBuf::new(), ROOT)];
        while let Some((path, inode)) = open.pop() {
            if let Some(Node::Directory(directory)) = self.nodes.get(&inode) {
                open.extend(directory.names.iter().map(|(name, inode)| (path.join(name), *inode)));
            }
            reached.insert(path, inode);
        }
        let inodes: HashSet<u64> = reached.values().copied().collect();
        self.nodes.retain(|inode, _| inodes.contains(inode));
        reached
    }

    fn change(&mut self, inode: u64, edit: impl FnOnce(&mut Names)) -> Result<(), Refused> {
        let directory = self.directory_mut(inode)?;
        directory.unsynced.push(directory.names.clone());
        edit(&mut directory.names);
        Ok(())
    }

    fn directory(&self, inode: u64) -> Result<&DirectoryNode, Refused> {
        match self.nodes.get(&inode).ok_or(Refused::NotFound)? {
            Node::Directory(directory) => Ok(directory),
            Node::File(_) => Err(Refused::NotADirectory),
        }
    }

    fn directory_mut(&mut self, inode: u64) -> Result<&mut DirectoryNode, Refused> {
        match self.nodes.get_mut(&inode).ok_or(Refused::NotFound)? {
            Node::Directory(directory) => Ok(directory),
            Node::File(_) => Err(Refused::NotADirectory),
        }
    }

    fn file(&self, inode: u64) -> Result<&FileNode, Refused> {
        match self.nodes.get(&inode).ok_or(Refused::NotFound)? {
            Node::File(file) => Ok(file),
            Node::Directory(_) => Err(Refused::IsADirectory),
        }
    }

    fn file_mut(&mut self, inode: u64) -> Result<&mut FileNode, Refused> {
        match self.nodes.get_mut(&inode).ok_or(Refused::NotFound)? {
            Node::File(file) => Ok(file),
            Node::Directory(_) => Err(Refused::IsADirectory),
        }
    }
}

impl FileNode {
    fn unsynced_sectors(&self) -> u64 {
        self.dirty.values().map(|sectors| u64::from(sectors.count_ones())).sum()
    }

    /// Returns how many unsynced sectors were lost.
    fn power_cut(&mut self, random: &mut fastrand::Rng) -> u64 {
        let mut lost = 0;
        for (page, unsynced) in std::mem::take(&mut self.dirty) {
            let kept = (0..SECTORS)
                .filter(|sector| unsynced & (1 << sector) != 0 && random.bool())
                .fold(0_u8, |sectors, sector| sectors | 1 << sector);
            lost += u64::from((unsynced & !kept).count_ones());
            self.make_durable(page, kept);
        }
        if self.volatile_size != self.durable_size && random.bool() {
            self.durable_size = self.volatile_size;
        }
        self.drop_durable_beyond_end();
        self.volatile = self.durable.clone();
        self.volatile_size = self.durable_size;
        lost
    }

    /// Copies sectors of a page to the durable image.
    fn make_durable(&mut self, page: u64, sectors: u8) {
        if sectors == 0 {
            return;
        }
        let durable = self.durable.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
        let durable = Arc::make_mut(durable);
        for sector in (0..SECTORS).filter(|sector| sectors & (1 << sector) != 0) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            match self.volatile.get(&page) {
                Some(written) => durable[range.clone()].copy_from_slice(&written[range]),
                None => durable[range].fill(0),
            }
        }
    }

    fn drop_durable_beyond_end(&mut self) {
        let (page, from) = (self.durable_size / PAGE as u64, usize_of(self.durable_size % PAGE as u64));
        drop(self.durable.split_off(&(page + u64::from(from > 0))));
        if let Some(stored) = self.durable.get_mut(&page).filter(|_| from > 0)
            && stored[from..].iter().any(|byte| *byte != 0)
        {
            Arc::make_mut(stored)[from..].fill(0);
        }
    }
}

impl DirectoryNode {
    /// Returns whether it went back.
    fn power_cut(&mut self, random: &mut fastrand::Rng) -> bool {
        let states = self.unsynced.len() + 1;
        let kept = random.usize(0..states);
        match self.unsynced.drain(..).nth(kept) {
            Some(names) => {
                self.names = names;
                true
            }
            None => false,
        }
    }
}

/// Cuts a range of a file into (page, first byte in the page, range in the buffer).
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let from = usize_of(at % PAGE as u64);
        let step = (PAGE - from).min(length - done);
        let part = done..done + step;
        done += step;
        Some((at / PAGE as u64, from, part))
    })
}

fn usize_of(within_page: u64) -> usize {
    usize::try_from(within_page).unwrap_or(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file() -> (Image, u64) {
        let mut image = Image::default();
        let inode = image.create(ROOT, OsStr::new("f"), 0o600, false).unwrap().inode;
        image.sync_directory(ROOT).unwrap();
        (image, inode)
    }

    fn all(image: &Image, inode: u64) -> Vec<u8> {
        image.read(inode, 0, 1 << 20).unwrap()
    }

    /// What a property looks like after a cut, over many seeds.
    fn outcomes<T: Ord>(
        make: impl Fn() -> Image,
        look: impl Fn(&Image) -> T,
    ) -> std::collections::BTreeSet<T> {
        (0..64)
            .map(|seed| {
                let mut image = make();
                image.power_cut(&mut fastrand::Rng::with_seed(seed));
                look(&image)
            })
            .collect()
    }

    #[test]
    fn a_full_disk_refuses_what_needs_a_page_more_and_takes_what_does_not() {
        let mut image = Image::sized(2 * PAGE as u64);
        let inode = image.create(ROOT, OsStr::new("f"), 0o600, false).unwrap().inode;
        assert_eq!(image.write(inode, 0, &[1; 2 * PAGE + 1]), Err(Refused::NoSpace));
        image.write(inode, 0, &[1; 2 * PAGE]).unwrap();
        assert_eq!(image.pages(), Some((2, 0)));
        image.write(inode, 5, &[2; PAGE]).unwrap();
        let other = image.create(ROOT, OsStr::new("g"), 0o600, false).unwrap().inode;
        assert_eq!(image.write(other, 0, &[1]), Err(Refused::NoSpace));
        image.set_size(inode, PAGE as u64).unwrap();
        image.write(other, 0, &[1]).unwrap();
        image.remove(ROOT, OsStr::new("f"), false).unwrap();
        assert_eq!(image.pages(), Some((2, 1)));
    }

    #[test]
    fn synced_bytes_survive_every_cut() {
        let make = || {
            let (mut image, inode) = with_file();
            image.write(inode, 3_000, &[7; 5_000]).unwrap();
            image.sync(inode).unwrap();
            image
        };
        let expected = [vec![0; 3_000], vec![7; 5_000]].concat();
        assert!(outcomes(make, |image| all(image, 2) == expected).iter().all(|kept| *kept));
    }

    #[test]
    fn unsynced_sectors_are_kept_whole_or_not_at_all_and_in_any_choice() {
        let make = || {
            let (mut image, inode) = with_file();
            image.write(inode, 0, &[1; 1_536]).unwrap();
            image.sync(inode).unwrap();
            image.write(inode, 0, &[2; 1_536]).unwrap();
            image
        };
        let seen = outcomes(make, |image| {
            let bytes = all(image, 2);
            bytes.chunks(512).for_each(|sector| assert!(sector.iter().all(|byte| *byte == sector[0])));
            [bytes[0], bytes[512], bytes[1_024]]
        });
        assert_eq!(seen.len(), 8, "{seen:?}");
    }

    #[test]
    fn a_new_file_needs_its_directory_synced() {
        let make = || {
            let mut image = Image::default();
            let inode = image.create(ROOT, OsStr::new("f"), 0o600, false).unwrap().inode;
            image.write(inode, 0, b"x").unwrap();
            image.sync(inode).unwrap();
            image
        };
        assert_eq!(outcomes(make, |image| image.lookup(ROOT, OsStr::new("f")).is_ok()).len(), 2);
    }

    #[test]
    fn a_rename_is_seen_before_or_after_and_never_half() {
        let make = || {
            let (mut image, _) = with_file();
            image.rename(ROOT, OsStr::new("f"), ROOT, OsStr::new("g")).unwrap();
            image
        };
        let seen = outcomes(make, |image| {
            let names: Vec<_> = image.names(ROOT).unwrap().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), 1);
            names
        });
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_shorter_file_reads_as_zeros_when_it_grows_again() {
        let (mut image, inode) = with_file();
        image.write(inode, 0, &[9; 6_000]).unwrap();
        image.set_size(inode, 100).unwrap();
        image.set_size(inode, 5_000).unwrap();
        assert_eq!(all(&image, inode), [vec![9; 100], vec![0; 4_900]].concat());
    }

    #[test]
    fn bytes_cut_off_do_not_return_when_the_file_was_synced_after_it_grew_again() {
        let make = || {
            let (mut image, inode) = with_file();
            image.write(inode, 0, &[9; 9_000]).unwrap();
            image.sync(inode).unwrap();
            image.set_size(inode, 100).unwrap();
            image.set_size(inode, 9_000).unwrap();
            image.sync(inode).unwrap();
            image
        };
        let expected = [vec![9; 100], vec![0; 8_900]].concat();
        assert!(outcomes(make, |image| all(image, 2) == expected).iter().all(|right| *right));
    }

    #[test]
    fn bytes_cut_off_may_return_as_long_as_that_was_not_synced() {
        let make = || {
            let (mut image, inode) = with_file();
            image.write(inode, 0, &[9; 8_192]).unwrap();
            image.sync(inode).unwrap();
            image.set_size(inode, 0).unwrap();
            image.set_size(inode, 8_192).unwrap();
            image
        };
        assert_eq!(outcomes(make, |image| all(image, 2)[5_000]).into_iter().collect::<Vec<_>>(), [0, 9]);
    }

    #[test]
    fn a_kept_sector_beyond_a_lost_size_reads_as_zeros_when_the_file_grows() {
        for seed in 0..64 {
            let (mut image, inode) = with_file();
            image.write(inode, 0, &[1; 100]).unwrap();
            image.sync(inode).unwrap();
            image.write(inode, 100, &[2; 300]).unwrap();
            image.power_cut(&mut fastrand::Rng::with_seed(seed));
            if image.status(inode).unwrap().size == 100 {
                image.set_size(inode, 400).unwrap();
                assert_eq!(all(&image, inode), [vec![1; 100], vec![0; 300]].concat(), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_synced_range_survives_and_its_neighbours_do_not_have_to() {
        let make = || {
            let (mut image, inode) = with_file();
            image.write(inode, 0, &[1; 2_048]).unwrap();
            image.sync_range(inode, 512, 512).unwrap();
            image
        };
        let seen = outcomes(make, |image| {
            let bytes = all(image, 2);
            assert_eq!(bytes[512..1_024], [1; 512]);
            (bytes[0], bytes.get(1_024).copied())
        });
        let first: std::collections::BTreeSet<u8> = seen.iter().map(|(first, _)| *first).collect();
        assert_eq!(first.into_iter().collect::<Vec<_>>(), [0, 1]);
        assert!(seen.iter().any(|(_, second)| *second != Some(1)), "{seen:?}");
    }

    #[test]
    fn the_damage_names_the_file_and_counts_its_sectors() {
        let (mut image, inode) = with_file();
        image.write(inode, 0, &[1; 512 * 40]).unwrap();
        assert_eq!(image.unsynced_sectors(OsStr::new("f")), 40);
        let damage = image.power_cut(&mut fastrand::Rng::with_seed(1));
        let [torn] = &damage.files[..] else { panic!("{damage:?}") };
        assert_eq!((torn.path.as_os_str(), torn.unsynced_sectors), (OsStr::new("f"), 40));
        assert!((1..40).contains(&torn.lost_sectors), "{damage:?}");
        assert_eq!(image.unsynced_sectors(OsStr::new("f")), 0);
    }
}
