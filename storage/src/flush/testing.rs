//! The replicated rows as apply keeps them, in a few maps: the contract of `contract.rs` in code, for tests.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::contract::{
    AskedUpload, FlushEvent, FlushKind, FlushRow, Flushed, Loaded, MountId, OriginRow, RowId, StaleTransfer,
    Started, TransferRecord, TransferState, TransferStep, UploadPlace,
};
use crate::object::{BucketId, Version};

pub(crate) type Name = (BucketId, Bytes);

/// Where the tests' mounts have a key: each bucket is one, without a prefix of its own.
pub(crate) fn place_of(bucket: BucketId, key: &Bytes) -> UploadPlace {
    UploadPlace { root: root_of(bucket), key: format!("p/{}", String::from_utf8_lossy(key)) }
}

/// The origin of a bucket.
pub(crate) fn root_of(bucket: BucketId) -> String {
    format!("s3://origin-{}", bucket.0)
}

/// Flush rows, started rows and origin rows.
#[derive(Debug, Default)]
pub(crate) struct ModelRows {
    rows: BTreeMap<Name, Vec<FlushRow>>,
    started: BTreeMap<Name, Started>,
    origin: BTreeMap<Name, OriginRow>,
    /// Whether the origin may hold what nobody here knows of.
    pub(crate) looks_up: bool,
    transfers: BTreeMap<Version, TransferState>,
    tried: BTreeSet<Version>,
    stale: BTreeMap<(Version, MountId), StaleTransfer>,
    /// Whether records of uploads say where these are.
    pub(crate) places: bool,
    /// A rule taken away: the record of an upload that the origin has lost goes, whatever was tried.
    pub(crate) forgets_lost: bool,
    /// With how often.
    asked: BTreeMap<Version, (u32, AskedUpload)>,
}

/// A change of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) version: Version,
    pub(crate) kind: FlushKind,
    pub(crate) barrier: bool,
    /// Whether it is unconditional.
    pub(crate) wins: bool,
    pub(crate) stamp_ms: u64,
    pub(crate) bytes: u64,
}

impl ModelRows {
    /// No rows; `looks_up`: the origin may hold what nobody here knows of.
    pub(crate) fn new(looks_up: bool) -> ModelRows {
        ModelRows { looks_up, ..ModelRows::default() }
    }

    /// Writes the row of a change.
    pub(crate) fn change(&mut self, name: Name, change: Change) -> (FlushEvent, Option<FlushEvent>) {
        let in_bucket = self.rows.iter().filter(|((bucket, _), _)| *bucket == name.0);
        let barriers: Vec<Version> =
            in_bucket.flat_map(|(_, rows)| rows).filter(|row| row.barrier).map(|row| row.version).collect();
        let known = self.origin.contains_key(&name) || self.started.contains_key(&name);
        let rows = self.rows.entry(name.clone()).or_default();
        let stands_for_blind = rows.last().is_some_and(|row| row.blind);
        let wins = change.wins || stands_for_blind;
        let blind = self.looks_up && wins && !self.origin.contains_key(&name);
        let overwrite = known || !rows.is_empty() || blind;
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
            blind,
            stamp_ms: change.stamp_ms,
            bytes: change.bytes,
            parked: None,
        };
        rows.push(row.clone());
        let name = (row.bucket, row.key.clone());
        let stale = replaces.and_then(|version| self.end_transfer(&name, version, false));
        (FlushEvent::Row { row, replaces }, stale)
    }

    /// Takes over what was found in the origin.
    pub(crate) fn adopt(&mut self, name: Name, found: OriginRow) {
        self.origin.insert(name, found);
    }

    /// Records a step of an upload; with what is told of it.
    pub(crate) fn transfer(&mut self, record: TransferRecord) -> (bool, Option<FlushEvent>) {
        let TransferRecord { bucket, key, version, upload_id, step } = record;
        // Each bucket is a mount, of the same number.
        let mount = MountId(bucket.0);
        match step {
            TransferStep::Refused => return self.answered(version),
            TransferStep::Looked { until_ms, .. } => {
                let known = self.asked.get(&version).filter(|(_, asked)| asked.until_ms == until_ms);
                return match known {
                    Some(_) => self.nothing_asked(version),
                    None => (false, None),
                };
            }
            _ => {}
        }
        if self.row(&(bucket, key.clone()), version).is_none() || self.stale.contains_key(&(version, mount)) {
            return (false, None);
        }
        match (step, self.transfers.get_mut(&version)) {
            (TransferStep::Asked { from_ms, until_ms }, None) => {
                let place = self.places.then(|| place_of(bucket, &key));
                let fresh = AskedUpload { version, bucket, key, mount, from_ms, until_ms, place };
                let (count, asked) = self.asked.entry(version).or_insert((0, fresh));
                *count += 1;
                asked.from_ms = asked.from_ms.min(from_ms);
                asked.until_ms = asked.until_ms.max(until_ms);
                return (true, Some(FlushEvent::Asked(asked.clone())));
            }
            (TransferStep::Begun { part_bytes, crc32c }, None) => {
                let state = TransferState { upload_id, mount, part_bytes, crc32c, parts: Vec::new() };
                self.transfers.insert(version, state);
                return (true, self.answered(version).1);
            }
            (TransferStep::Sent(part), Some(state)) if state.upload_id == upload_id => {
                state.parts.retain(|known| known.number != part.number);
                state.parts.push(part);
            }
            (TransferStep::Lost, Some(state)) if state.upload_id == upload_id => {
                let forgotten = !self.tried.contains(&version) || self.forgets_lost;
                return (true, self.end_transfer(&(bucket, key), version, forgotten));
            }
            _ => return (false, None),
        }
        (true, None)
    }

    fn answered(&mut self, version: Version) -> (bool, Option<FlushEvent>) {
        let Some((count, asked)) = self.asked.get_mut(&version) else { return (false, None) };
        *count -= 1;
        match *count {
            0 => self.nothing_asked(version),
            _ => (true, Some(FlushEvent::Asked(asked.clone()))),
        }
    }

    fn nothing_asked(&mut self, version: Version) -> (bool, Option<FlushEvent>) {
        let gone = self.asked.remove(&version);
        (gone.is_some(), gone.map(|(_, asked)| FlushEvent::Answered { version, mount: asked.mount }))
    }

    /// The upload of a version.
    pub(crate) fn transfer_of(&self, version: Version) -> Option<TransferState> {
        self.transfers.get(&version).cloned()
    }

    /// A stale upload is gone.
    pub(crate) fn transfer_gone(&mut self, version: Version, mount: MountId) -> Option<FlushEvent> {
        self.stale.remove(&(version, mount)).map(FlushEvent::GivenUp)
    }

    /// What becomes of an upload when the origin confirms its version, whose row is gone already.
    pub(crate) fn transfer_landed(&mut self, flushed: &Flushed) -> Option<FlushEvent> {
        flushed.origin_etag.as_ref()?;
        self.transfer_gone(flushed.version, MountId(flushed.bucket.0))
    }

    /// Uploads of the key that may still become its object.
    pub(crate) fn stale_of(&self, name: &Name) -> Vec<StaleTransfer> {
        let stale = self.stale.values().filter(|stale| (stale.bucket, &stale.key) == (name.0, &name.1));
        stale.filter(|stale| stale.tried).cloned().collect()
    }

    /// Uploads that are recorded, stale ones and those without a name too.
    pub(crate) fn transfers_len(&self) -> usize {
        self.transfers.len() + self.stale.len() + self.asked.len()
    }

    fn end_transfer(&mut self, name: &Name, version: Version, landed: bool) -> Option<FlushEvent> {
        let (state, tried) = (self.transfers.remove(&version)?, self.tried.remove(&version));
        if landed {
            return None;
        }
        let (bucket, key) = name.clone();
        let TransferState { mount, upload_id, .. } = state;
        let place = self.places.then(|| place_of(bucket, &key));
        let stale = StaleTransfer { version, bucket, key, mount, upload_id, tried, place };
        self.stale.insert((version, mount), stale.clone());
        Some(FlushEvent::Stale(stale))
    }

    /// Writes a started row, if its flush row still waits.
    pub(crate) fn start(&mut self, started: Started) -> bool {
        let name = (started.bucket, started.key.clone());
        let waits = self.row(&name, started.version).is_some();
        if waits {
            self.tried.extend(self.transfers.contains_key(&started.version).then_some(started.version));
            self.started.insert(name, started);
        }
        waits
    }

    /// Records what the origin holds.
    pub(crate) fn flushed(&mut self, flushed: Flushed) -> FlushEvent {
        let name = (flushed.bucket, flushed.key.clone());
        self.remove(&name, flushed.version);
        self.end_transfer(&name, flushed.version, true);
        match &flushed.origin_etag {
            Some(etag) => {
                let row = OriginRow { version: flushed.version, etag: etag.clone() };
                self.origin.insert(name.clone(), row);
            }
            None => drop(self.origin.remove(&name)),
        }
        if self.started.get(&name).is_some_and(|started| started.version <= flushed.version) {
            self.started.remove(&name);
        }
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
        FlushEvent::Parked { row, reason, at_ms: 0 }
    }

    /// Gives a row up.
    pub(crate) fn abandon(&mut self, row: RowId) -> (FlushEvent, Option<FlushEvent>) {
        let name = (row.bucket, row.key.clone());
        self.remove(&name, row.version);
        let stale = self.end_transfer(&name, row.version, false);
        (FlushEvent::Removed(row), stale)
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
        self.stale.values().for_each(|stale| sink(Loaded::Stale(stale.clone())));
        self.asked.values().for_each(|(_, asked)| sink(Loaded::Asked(asked.clone())));
    }

    fn remove(&mut self, name: &Name, version: Version) {
        if let Some(rows) = self.rows.get_mut(name) {
            rows.retain(|row| row.version != version);
        }
    }
}
