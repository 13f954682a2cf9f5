//! What the tables say of a key under a mount that looks up, before anybody is asked.

use std::sync::Arc;

use crate::apply::ATTEMPT_DEAD_MS;
use crate::error::{Error, Result};
use crate::keyspace::Got;
use crate::keyspace::memtable::{RowKey, Value};
use crate::keyspace::tables::{OriginRow, RowReader, Table, decode_deletes, deletes_key, numbered_key};
use crate::keyspace::view::{View, ViewError};
use crate::object::{BucketId, Version};
use crate::read::{base_error, view_error};
use crate::slot::slot_of;
use crate::store::Shared;

/// See the file's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Local {
    /// A row is here, dead or alive.
    Here {
        /// Its version.
        version: Version,
        /// Whether it is an object for clients.
        alive: bool,
        /// The ETag of the origin's object if the origin held exactly this content when it was last heard of, and
        /// nothing is on its way there.
        clean: Option<String>,
    },
    /// It was deleted here: the origin may hold it still.
    Gone,
    /// Nothing is known.
    Unknown,
}

impl Local {
    pub(super) fn is_alive(&self) -> bool {
        matches!(self, Local::Here { alive: true, .. })
    }

    /// From an object row and an origin row, as of one place in the log.
    pub(super) fn of(
        shared: &Shared,
        (bucket, at): (BucketId, Version),
        mount: u32,
        object: Option<Arc<[u8]>>,
        origin: Option<Arc<[u8]>>,
    ) -> Local {
        let origin = origin.as_deref().and_then(OriginRow::decode).unwrap_or_default().seen_by(Some(mount));
        let now_ms = shared.clock.now_ms();
        let Some(raw) = object else {
            // An attempt whose row is gone is believed dead only so much later.
            let alive =
                |(_, deadline_ms): (Version, u64)| deadline_ms.saturating_add(ATTEMPT_DEAD_MS) > now_ms;
            let known = origin.rows > 0 || origin.pending.is_some() || origin.origin.is_some();
            return if known || origin.started.is_some_and(alive) { Local::Gone } else { Local::Unknown };
        };
        let Some(row) = RowReader::new(&raw) else {
            return Local::Here { version: Version::ZERO, alive: false, clean: None };
        };
        let expired = row.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms);
        let dead = shared.registry.epoch_at(bucket, at).is_none_or(|epoch| row.version < epoch);
        let settled = origin.rows == 0 && origin.pending.is_none() && origin.started.is_none();
        let clean = origin.origin.filter(|(version, _)| settled && *version == row.content_version);
        let alive = !expired && !dead;
        Local::Here { version: row.version, alive, clean: clean.filter(|_| alive).map(|(_, etag)| etag) }
    }

    /// Reads in a view. May block.
    pub(super) fn read(
        shared: &Shared,
        view: &View,
        (bucket, key): (BucketId, &[u8]),
        mount: u32,
    ) -> Result<Local, ViewError> {
        let object = view.get(RowKey::object(Table::Object, bucket, key), true, true)?.flatten();
        let origin = view.get(RowKey::object(Table::Origin, bucket, key), false, true)?.flatten();
        Ok(Local::of(shared, (bucket, view.at()), mount, object, origin))
    }

    /// Reads in a view at the newest place, which it returns too; on the read pool where it may block.
    pub(super) async fn look(
        shared: &Arc<Shared>,
        (bucket, key): (BucketId, &[u8]),
        mount: u32,
    ) -> Result<(Local, Version)> {
        let view = View::latest(&shared.keyspace);
        let at = view.at();
        if !view.may_block() {
            return Ok((Local::read(shared, &view, (bucket, key), mount).map_err(view_error)?, at));
        }
        let (of, key) = (shared.clone(), key.to_vec());
        let read = move || Local::read(&of, &view, (bucket, &key), mount);
        let local = shared.pool.run(read).await.map_err(|_| Error::Stopping)?.map_err(view_error)?;
        Ok((local, at))
    }
}

/// A row of the key in a table, as of the newest place, and that place; `None` if that would take a blocking read.
pub(super) fn glance(
    shared: &Shared,
    table: Table,
    bucket: BucketId,
    key: &[u8],
) -> Result<Option<(Value, Version)>> {
    let row_key = RowKey::object(table, bucket, key);
    Ok(match shared.keyspace.read_latest(row_key, table == Table::Object, false).map_err(base_error)? {
        (Got::Value(raw), at) => Some((raw, at)),
        (Got::Cold | Got::Restart, _) => None,
    })
}

/// When the origin last took a delete of ours of a key in this one's slot, if ever. May block.
pub(super) fn deleted_at(view: &View, mount: u32, key: &[u8]) -> Result<Version, ViewError> {
    let row = view.get(RowKey::encoded(&deletes_key(mount, slot_of(key))), false, true)?.flatten();
    Ok(row.as_deref().and_then(decode_deletes).unwrap_or(Version::ZERO))
}

/// The same of all keys of the mount. May block.
pub(super) fn last_deleted_at(view: &View, mount: u32) -> Result<Version, ViewError> {
    let (from, end) = (numbered_key(Table::Deletes, mount), numbered_key(Table::Deletes, mount + 1));
    let rows = view.range(std::ops::Bound::Included(&from), &end, usize::from(crate::slot::SLOTS))?;
    Ok(rows.iter().filter_map(|(_, row)| decode_deletes(row)).max().unwrap_or(Version::ZERO))
}
