//! Carries out what a command reads: at once where nothing has to be waited for, else through a view.
//!
//! Both ways write the same replies; the quick one gives up, without a trace, at the first key that is cold.

use std::ops::ControlFlow;

use bytes::Bytes;
use forebay_storage::error::Error;
use forebay_storage::object::{BucketId, ObjectRow};
use forebay_storage::read::{Lookup, ReadView};
use forebay_storage::store::Store;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use crate::command::args::Args;
use crate::command::plan::{Read, Seen, SeenFn, Walk};
use crate::error::CommandError;
use crate::reply::Reply;
use crate::server::{Server, Tally};

/// Where and for whom a read is carried out.
pub(crate) struct Reader<'a> {
    pub(crate) server: &'a Server,
    /// `None` if the database has no bucket yet: every key is absent.
    pub(crate) bucket: Option<BucketId>,
    pub(crate) args: Args<'a>,
    pub(crate) reply: &'a mut Reply,
    pub(crate) tally: &'a mut Tally,
}

/// How many cold objects one client waits for at once.
pub(crate) const COLD_READS_MAX: usize = 32;

/// An object that had to be waited for; `None` if there is none.
pub(crate) type Fetched = Option<(ObjectRow, Bytes)>;

/// Looks an object up, waiting where it must. Its bytes come along if they are asked for and do not stand
/// in the row.
pub(crate) async fn fetch(
    view: &ReadView,
    bucket: Option<BucketId>,
    key: &[u8],
    needs_body: bool,
) -> Result<Fetched, Error> {
    let Some(bucket) = bucket else { return Ok(None) };
    let Some(row) = view.fetch(bucket, key).await? else { return Ok(None) };
    let body = match row.inline_body() {
        None if needs_body => view.read_body(&row, 0..row.body_len()).await?,
        _ => Bytes::new(),
    };
    Ok(Some((row, body)))
}

/// The objects of the next [`COLD_READS_MAX`] keys from argument `first` on, waited for together.
async fn fetch_chunk(
    view: &ReadView,
    bucket: Option<BucketId>,
    args: Args<'_>,
    first: usize,
    needs_body: bool,
) -> Vec<Result<Fetched, Error>> {
    let end = args.len().min(first + COLD_READS_MAX);
    let fetches: Vec<BoxFuture<'_, _>> =
        (first..end).map(|key| fetch(view, bucket, args.at(key), needs_body).boxed()).collect();
    join_all(fetches).await
}

/// A read that met a key which must be waited for; nothing is written.
#[derive(Debug)]
pub(crate) struct Cold;

impl Reader<'_> {
    /// Reads the newest state without waiting; several keys are read at one index.
    #[inline]
    pub(crate) fn read_latest(&mut self, read: Read) -> Result<Result<(), CommandError>, Cold> {
        match read {
            Read::One { key, body, reply } => match self.lookup_latest(key) {
                Err(error) => Ok(Err(error.into())),
                Ok(lookup) => self.one(lookup, body, reply),
            },
            Read::Count { first } if first + 1 == self.args.len() => match self.lookup_latest(first) {
                Err(error) => Ok(Err(error.into())),
                Ok(lookup) => self.one(lookup, false, |seen, reply| {
                    reply.count(u64::from(seen.row.is_some()));
                    Ok(())
                }),
            },
            Read::Each { .. } | Read::Count { .. } => match self.server.store.view() {
                Err(error) => Ok(Err(error.into())),
                Ok(view) => self.read_hot(read, &view),
            },
            Read::Walk(_) => Err(Cold),
        }
    }

    #[inline]
    fn lookup_latest(&self, key: usize) -> Result<Lookup, Error> {
        match self.bucket {
            None => Ok(Lookup::Absent),
            Some(bucket) => self.server.store.get(bucket, self.args.at(key)),
        }
    }

    /// Reads through a view without waiting.
    pub(crate) fn read_hot(&mut self, read: Read, view: &ReadView) -> Result<Result<(), CommandError>, Cold> {
        let from = self.reply.len();
        let tally = *self.tally;
        let read = self.try_read(read, view);
        if matches!(read, Err(Cold)) {
            self.reply.truncate(from);
            *self.tally = tally;
        }
        read
    }

    /// Reads through a view, waiting where it must.
    pub(crate) async fn read(&mut self, read: Read, view: &ReadView) -> Result<(), CommandError> {
        if let Ok(done) = self.read_hot(read, view) {
            return done;
        }
        let (bucket, args) = (self.bucket, self.args);
        match read {
            Read::One { key, body, reply } => {
                let fetched = fetch(view, bucket, args.at(key), body).await?;
                self.fetched(&fetched, reply)
            }
            Read::Each { first, reply } => {
                let from = self.reply.len();
                self.reply.array(args.len() - first);
                for chunk in (first..args.len()).step_by(COLD_READS_MAX) {
                    for fetched in fetch_chunk(view, bucket, args, chunk, true).await {
                        self.fetched(&fetched?, reply)?;
                        self.check_reply_len(from)?;
                    }
                }
                Ok(())
            }
            Read::Count { first } => {
                let mut count = 0;
                for chunk in (first..args.len()).step_by(COLD_READS_MAX) {
                    for fetched in fetch_chunk(view, bucket, args, chunk, false).await {
                        count += u64::from(fetched?.is_some());
                    }
                }
                self.reply.count(count);
                Ok(())
            }
            Read::Walk(walk) => {
                let walking = Walk {
                    server: self.server,
                    view,
                    bucket: self.bucket,
                    args: self.args,
                    reply: &mut *self.reply,
                };
                walk(walking).await
            }
        }
    }

    fn try_read(&mut self, read: Read, view: &ReadView) -> Result<Result<(), CommandError>, Cold> {
        match read {
            Read::One { key, body, reply } => {
                let lookup = self.lookup(view, key);
                self.one(lookup, body, reply)
            }
            Read::Each { first, reply } => {
                let from = self.reply.len();
                self.reply.array(self.args.len() - first);
                for key in first..self.args.len() {
                    let lookup = self.lookup(view, key);
                    if let Err(error) = self.one(lookup, true, reply)? {
                        return Ok(Err(error));
                    }
                    if let Err(error) = self.check_reply_len(from) {
                        return Ok(Err(error));
                    }
                }
                Ok(Ok(()))
            }
            Read::Count { first } => {
                let counted =
                    (first..self.args.len()).try_fold(0, |count, key| match self.lookup(view, key) {
                        Lookup::Found(_) => ControlFlow::Continue(count + 1),
                        Lookup::Absent => ControlFlow::Continue(count),
                        Lookup::Later => ControlFlow::Break(()),
                    });
                let ControlFlow::Continue(count) = counted else { return Err(Cold) };
                self.tally.hits += count;
                self.tally.misses += (self.args.len() - first) as u64 - count;
                self.reply.count(count);
                Ok(Ok(()))
            }
            Read::Walk(_) => Err(Cold),
        }
    }

    fn lookup(&self, view: &ReadView, key: usize) -> Lookup {
        match self.bucket {
            None => Lookup::Absent,
            Some(bucket) => view.get(bucket, self.args.at(key)),
        }
    }

    /// Replies for one object if all that it takes is here.
    #[inline]
    fn one(
        &mut self,
        lookup: Lookup,
        needs_body: bool,
        reply: SeenFn,
    ) -> Result<Result<(), CommandError>, Cold> {
        match lookup {
            Lookup::Later => Err(Cold),
            Lookup::Absent => Ok(self.seen(None, b"", reply)),
            Lookup::Found(row) => match row.inline_body() {
                Some(body) => Ok(self.seen(Some(&row), body, reply)),
                None if !needs_body => Ok(self.seen(Some(&row), b"", reply)),
                None => Err(Cold),
            },
        }
    }

    /// Replies for an object that was waited for.
    pub(crate) fn fetched(&mut self, fetched: &Fetched, reply: SeenFn) -> Result<(), CommandError> {
        match fetched {
            Some((row, body)) => self.seen(Some(row), row.inline_body().unwrap_or(body), reply),
            None => self.seen(None, b"", reply),
        }
    }

    #[inline]
    fn seen(&mut self, row: Option<&ObjectRow>, body: &[u8], reply: SeenFn) -> Result<(), CommandError> {
        match row {
            Some(_) => self.tally.hits += 1,
            None => self.tally.misses += 1,
        }
        let store: &Store = &self.server.store;
        reply(&Seen { row, body, args: self.args, store }, self.reply)
    }

    fn check_reply_len(&self, from: usize) -> Result<(), CommandError> {
        if (self.reply.len() - from) as u64 > self.server.settings.reply_bytes_max {
            return Err(CommandError::REPLY_TOO_LONG);
        }
        Ok(())
    }
}
