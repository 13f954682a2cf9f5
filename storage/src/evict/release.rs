//! Blobs that the origin holds and that nothing marks as such: looked for when room is wanted and nothing can be given
//! up, and marked again by `Release`, which apply judges.
//!
//! They come about where a blob loses its second reference (a copy, a part of an upload: whose the last one is nobody
//! knows at that time), where a crash or a change of the object keeps a hold from being released, and where a body is
//! written anew as it was. Whether one may have come about since the last walk says `EngineStatus::unmarked`.
//!
//! Owns the walk over the objects under mounts, a share of it at a time, from where the last one ended. What is found is
//! a hint: an object that is not clean when its `Release` is applied stays as it is, one that is marked stays marked.
//!
//! A crash loses the walk's place; the first of a run goes over all objects.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::EvictError;
use super::copy::wait_for;
use crate::apply::blobs_of;
use crate::keyspace::memtable::RowKey;
use crate::keyspace::tables::{OriginRow, RowReader, Table, blob_key, object_key, split_object_key};
use crate::keyspace::view::{View, ViewError};
use crate::mutation::{Mutation, Outcome};
use crate::object::Version;
use crate::read::prefix_end;
use crate::store::Shared;
use crate::submission::Submission;

/// Objects looked at by one share of a walk.
const SHARE_OBJECTS: usize = if cfg!(test) { 5 } else { 20_000 };
/// Objects looked at through one view: a checkpoint waits for it.
const PAGE: usize = if cfg!(test) { 2 } else { 1000 };
/// Objects that one share proposes to release.
const RELEASES_MAX: usize = 1000;

/// Where the walk is.
#[derive(Default)]
pub(super) struct Walk {
    /// The first walk of a run is due whatever has happened.
    begun: bool,
    /// The row key from which on nothing was looked at; `None` between two walks.
    next: Option<Vec<u8>>,
}

/// What a share of a walk has found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) releases: Submission,
    pub(super) objects: usize,
}

/// Takes the walk on by a share, and what it has found through the log; whether anything may be given up now that
/// could not be before. Blocks.
pub(super) fn release(shared: &Arc<Shared>) -> Result<bool, EvictError> {
    let Found { releases, objects } = find(shared)?;
    if objects == 0 {
        return Ok(false);
    }
    let released = wait_for(shared.submit(releases)).inspect_err(|_| {
        shared.status.unmarked.store(true, Relaxed);
    })?;
    Ok(note_released(shared, &released.results))
}

/// Whether any of the releases were right.
pub(super) fn note_released(shared: &Shared, outcomes: &[Outcome]) -> bool {
    let released = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Done(_))).count();
    shared.evictor.released.fetch_add(released as u64, Relaxed);
    if released > 0 {
        shared.evictor.barren.store(false, Relaxed);
    }
    released > 0
}

/// The next share of the walk. Blocks.
pub(super) fn find(shared: &Arc<Shared>) -> Result<Found, ViewError> {
    let mut walk = shared.evictor.walk.lock();
    if walk.next.is_none() {
        let due = shared.status.unmarked.swap(false, Relaxed) || !walk.begun;
        if !due {
            return Ok(Found::default());
        }
        walk.begun = true;
    }
    let (mut found, mut looked_at) = (Found::default(), 0);
    for (from, end) in ranges(shared) {
        loop {
            let from = walk.next.as_ref().map_or(&from, |next| next.max(&from));
            if *from >= end {
                break;
            }
            let view = View::latest(&shared.keyspace);
            let page = view.range(Bound::Included(from), &end, PAGE)?;
            for (row_key, row) in &page {
                if let Some(version) = unmarked(&view, row_key, row)?
                    && let Some((bucket, key)) = split_object_key(row_key)
                {
                    found.releases.push(&Mutation::Release { bucket, key, version });
                    found.objects += 1;
                }
            }
            looked_at += page.len();
            match page.last() {
                Some((last, _)) if page.len() == PAGE => walk.next = Some([last, &[0][..]].concat()),
                _ => walk.next = Some(end.clone()),
            }
            if looked_at >= SHARE_OBJECTS || found.objects >= RELEASES_MAX {
                return Ok(found);
            }
        }
    }
    walk.next = None;
    Ok(found)
}

/// Whether a walk is under way, or due.
#[cfg(test)]
pub(super) fn is_due(shared: &Shared) -> bool {
    let walk = shared.evictor.walk.lock();
    walk.next.is_some() || !walk.begun || shared.status.unmarked.load(Relaxed)
}

/// The object rows of the mounts whose bytes may be given up, in order.
fn ranges(shared: &Shared) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mounts = shared.status.mounts.lock();
    let may_go = mounts.iter().filter(|(number, row)| {
        !row.leaving && !row.local && shared.fills.knows(*number) && !shared.keeps(row.bucket)
    });
    let range = |row: &crate::keyspace::tables::MountRow| {
        let from = object_key(Table::Object, row.bucket, &row.prefix);
        let end = prefix_end(&from);
        (from, end)
    };
    let mut ranges: Vec<_> = may_go.map(|(_, row)| range(row)).collect();
    ranges.sort_unstable();
    ranges
}

/// The version of an object whose body its origin holds, if a blob that is its alone has no mark.
fn unmarked(view: &View, row_key: &[u8], row: &[u8]) -> Result<Option<Version>, ViewError> {
    let Some(row) = RowReader::new(row) else { return Ok(None) };
    let mut unmarked = false;
    for blob in blobs_of(&row) {
        let has = |table| -> Result<bool, ViewError> {
            let key = blob_key(table, blob);
            Ok(view.get(RowKey::encoded(&key), false, true)?.flatten().is_some())
        };
        unmarked |= !has(Table::Clean)? && !has(Table::Refs)?;
    }
    if !unmarked {
        return Ok(None);
    }
    let origin_key = [&[Table::Origin as u8], &row_key[1..]].concat();
    let origin = view.get(RowKey::encoded(&origin_key), false, true)?.flatten();
    let holds = origin.as_deref().and_then(OriginRow::decode).is_some_and(|origin| {
        origin.rows == 0 && origin.origin.is_some_and(|(version, _)| version == row.content_version)
    });
    Ok(holds.then_some(row.version))
}
