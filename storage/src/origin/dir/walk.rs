//! A listing: the keys of a directory tree in the order of their bytes.
//!
//! Cost: each directory on the way is read and sorted whole, for every page that goes through it.

use std::io;
use std::path::{Path, PathBuf};

use super::name::{Named, named};
use super::{failed, file};
use crate::origin::OriginError;
use crate::origin::page::Page;

enum Entry {
    File(PathBuf),
    Directory(PathBuf),
}

/// Offers every key below `root` that may have a place in the page.
pub(super) fn walk(root: &Path, page: &mut Page<'_>) -> Result<(), OriginError> {
    let mut entries = Vec::new();
    read(root, "", true, &mut entries)?;
    visit(entries, "", page)
}

/// `key` is what all keys in there begin with.
fn visit(mut entries: Vec<(String, Entry)>, key: &str, page: &mut Page<'_>) -> Result<(), OriginError> {
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, entry) in entries {
        if page.is_full() {
            return Ok(());
        }
        let key = format!("{key}{name}");
        match entry {
            Entry::File(path) => {
                let mut facts = Ok(None);
                page.offer(&key, || {
                    facts = file::open(path);
                    let found = facts.as_ref().ok().and_then(Option::as_ref);
                    found.map(file::Found::facts).unwrap_or_default()
                });
                facts?;
            }
            Entry::Directory(path) if !page.passes_over(&key) => {
                let mut below = Vec::new();
                read(&path, "", false, &mut below)?;
                visit(below, &key, page)?;
            }
            Entry::Directory(_) => {}
        }
    }
    Ok(())
}

/// The entries of a directory by what they add to the key, those of long pieces put together.
fn read(dir: &Path, begun: &str, first: bool, entries: &mut Vec<(String, Entry)>) -> Result<(), OriginError> {
    let listing = match std::fs::read_dir(dir) {
        Ok(listing) => listing,
        // Gone since it was seen.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("listing", &error)),
    };
    for entry in listing {
        let entry = entry.map_err(|error| failed("listing", &error))?;
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("listing", &error)),
        };
        let Some(name) = named(&entry.file_name(), first) else { continue };
        let path = entry.path();
        match name {
            Named::Piece(piece) if kind.is_dir() => {
                entries.push((format!("{begun}{piece}/"), Entry::Directory(path)));
            }
            Named::Piece(piece) | Named::Aside(piece) if kind.is_file() => {
                entries.push((format!("{begun}{piece}"), Entry::File(path)));
            }
            Named::GoesOn(piece) if kind.is_dir() => read(&path, &format!("{begun}{piece}"), false, entries)?,
            _ => {}
        }
    }
    Ok(())
}
