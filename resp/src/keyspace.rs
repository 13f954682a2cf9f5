//! Redis database to bucket, Redis key to object key: only here.
//!
//! Database *n* is the bucket `redis-<n>`; a key is the object's key, byte for byte. A database's bucket is
//! created by the first command that may create a key in it; until then it reads as empty.

use std::sync::Arc;

use forebay_storage::object::BucketId;
use forebay_storage::store::{BucketInfo, Store};

use crate::command::args::Args;
use crate::command::{Command, Flags};
use crate::error::CommandError;
use crate::session::Session;

/// Names of the databases' buckets.
#[derive(Debug, Clone)]
pub(crate) struct DatabaseNames {
    prefix: Arc<str>,
    count: u32,
}

/// A bucket as a client works in it.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    /// The bucket's name.
    pub(crate) name: Arc<str>,
    /// Its Redis number, if it has one.
    pub(crate) number: Option<u32>,
    /// The bucket, if it exists.
    pub(crate) bucket: Option<BucketId>,
}

impl Database {
    /// The bucket `name`, whether it exists or not.
    pub(crate) fn named(store: &Store, name: &str, number: Option<u32>) -> Database {
        Database { name: name.into(), number, bucket: store.bucket(name.as_bytes()) }
    }

    pub(crate) fn refresh(&mut self, store: &Store) {
        self.bucket = store.bucket(self.name.as_bytes());
    }
}

impl DatabaseNames {
    pub(crate) fn new(prefix: &str, count: u32) -> DatabaseNames {
        DatabaseNames { prefix: prefix.into(), count }
    }

    /// Number of databases.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Database `number`, which the caller has checked.
    pub(crate) fn database(&self, store: &Store, number: u32) -> Database {
        Database::named(store, &format!("{}{number}", self.prefix), Some(number))
    }

    /// The number a client gave, if there is such a database.
    pub(crate) fn checked(&self, number: i32) -> Result<u32, CommandError> {
        u32::try_from(number).ok().filter(|&number| number < self.count).ok_or(CommandError::DB_INDEX)
    }

    /// The number of the database that a bucket is, if it is one.
    pub(crate) fn number_of(&self, bucket: &str) -> Option<u32> {
        let digits = bucket.strip_prefix(&*self.prefix)?;
        let number = crate::number::parse_i64(digits.as_bytes())?;
        u32::try_from(number).ok()
    }

    /// Every existing bucket that is a Redis database, by number; numbers beyond the configured count too, since
    /// FLUSHALL means them all.
    pub(crate) fn existing(&self, store: &Store) -> Vec<(u32, BucketInfo)> {
        let mut found: Vec<(u32, BucketInfo)> = store
            .buckets()
            .into_iter()
            .filter_map(|bucket| Some((self.number_of(&bucket.name)?, bucket)))
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found
    }
}

/// The place of the database whose bucket must exist before `command` is planned, if it does not yet.
pub(crate) fn bucket_to_open(
    names: &DatabaseNames,
    store: &Store,
    session: &mut Session,
    command: &Command,
    args: Args<'_>,
    database: usize,
) -> Option<usize> {
    if !command.flags.has(Flags::DENYOOM) {
        return None;
    }
    let target = match command.name {
        // Without a source there is nothing to create.
        "copy" if session.database_at(database).bucket.is_none() => return None,
        "copy" => match crate::command::key::copy_target(names, args) {
            Ok(Some(number)) => session.place_of(names.database(store, number)),
            Ok(None) => database,
            Err(_) => return None,
        },
        _ => database,
    };
    session.database_at(target).bucket.is_none().then_some(target)
}
