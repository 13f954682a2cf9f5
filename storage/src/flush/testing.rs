//! The replicated rows as apply keeps them, in a few maps: the contract of `contract.rs` in code, for tests.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::contract::{FlushEvent, FlushKind, FlushRow, Flushed, Loaded, OriginRow, RowId, Started};
use crate::object::{BucketId, Version};

pub(crate) type Name = (BucketId, Bytes);

/// Flush rows, started rows and origin rows.
#[derive(Debug, Default)]
pub(crate) struct ModelRows {
    rows: BTreeMap<Name, Vec<FlushRow>>,
    started: BTreeMap<Name, Started>,
    origin: BTreeMap<Name, OriginRow>,
}

/// A change of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) version: Version,
    pub(crate) kind: FlushKind,
    pub(crate) barrier: bool,
    pub(crate) stamp_ms: u64,
    pub(crate) bytes: u64,
}

impl ModelRows {
    /// Writes the row of a change.
    pub(crate) fn change(&mut self, name: Name, change: Change) -> FlushEvent {
        let in_bucket = self.rows.iter().filter(|((bucket, _), _)| *bucket == name.0);
        let barriers: Vec<Version> =
            in_bucket.flat_map(|(_, rows)| rows).filter(|row| row.barrier).map(|row| row.version).collect();
        let known = self.origin.contains_key(&name) || self.started.contains_key(&name);
        let rows = self.rows.entry(name.clone()).or_default();
        let overwrite = known || !rows.is_empty();
        let needed =
            |older: Version| barriers.iter().any(|barrier| (older..change.version).contains(barrier));
        let replaces = rows.last().map(|row| row.version).filter(|older| !needed(*older));
        if replaces.is_some() {
            rows.pop();
        }
        let row = FlushRow {
            bucket: name.0,
            key: name.1,
            version: change.version,
            kind: change.kind,
            barrier: change.barrier,
            overwrite,
            stamp_ms: change.stamp_ms,
            bytes: change.bytes,
            parked: None,
        };
        rows.push(row.clone());
        FlushEvent::Row { row, replaces }
    }

    /// Writes a started row, if its flush row still waits.
    pub(crate) fn start(&mut self, started: Started) -> bool {
        let name = (started.bucket, started.key.clone());
        let waits = self.row(&name, started.version).is_some();
        if waits {
            self.started.insert(name, started);
        }
        waits
    }

    /// Records what the origin holds.
    pub(crate) fn flushed(&mut self, flushed: Flushed) -> FlushEvent {
        let name = (flushed.bucket, flushed.key.clone());
        self.remove(&name, flushed.version);
        match &flushed.origin_etag {
            Some(etag) => {
                let row = OriginRow { version: flushed.version, etag: etag.clone() };
                self.origin.insert(name.clone(), row);
            }
            None => drop(self.origin.remove(&name)),
        }
        self.started.remove(&name);
        FlushEvent::Flushed(flushed)
    }

    /// Parks a row, or takes it up again.
    pub(crate) fn park(&mut self, row: RowId, reason: Option<String>) -> FlushEvent {
        let name = (row.bucket, row.key.clone());
        for known in self.rows.get_mut(&name).into_iter().flatten() {
            if known.version == row.version {
                known.parked = reason.clone();
            }
        }
        FlushEvent::Parked { row, reason }
    }

    /// Gives a row up.
    pub(crate) fn abandon(&mut self, row: RowId) -> FlushEvent {
        self.remove(&(row.bucket, row.key.clone()), row.version);
        FlushEvent::Removed(row)
    }

    /// One row.
    pub(crate) fn row(&self, name: &Name, version: Version) -> Option<&FlushRow> {
        self.rows.get(name)?.iter().find(|row| row.version == version)
    }

    /// What the origin is known to hold.
    pub(crate) fn origin(&self, name: &Name) -> Option<OriginRow> {
        self.origin.get(name).cloned()
    }

    /// Everything a queue is built from.
    pub(crate) fn load(&self, sink: &mut dyn FnMut(Loaded)) {
        self.rows.values().flatten().for_each(|row| sink(Loaded::Row(row.clone())));
        self.started.values().for_each(|started| sink(Loaded::Started(started.clone())));
    }

    fn remove(&mut self, name: &Name, version: Version) {
        if let Some(rows) = self.rows.get_mut(name) {
            rows.retain(|row| row.version != version);
        }
    }
}
