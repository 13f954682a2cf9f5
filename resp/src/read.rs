//! Carries out what a command reads: at once where nothing has to be waited for, else through a view.
//!
//! Both ways write the same replies; the quick one gives up, without a trace, at the first key that is cold.
//! Of what is waited for, short values come along with their rows while [`Held`] has room. All others are opened
//! here, which pins their bytes as they are, and read when they are sent.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use forebay_storage::BodyReader;
use forebay_storage::error::Error;
use forebay_storage::object::{BucketId, ObjectRow};
use forebay_storage::read::{Lookup, ReadView};
use forebay_storage::store::Store;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use crate::command::args::Args;
use crate::command::plan::{Needs, Read, Seen, SeenBody, SeenFn, Walk};
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
    pub(crate) held: &'a Held,
}

/// How many cold objects one client waits for at once.
pub(crate) const COLD_READS_MAX: usize = 32;

/// Longest range of a value that is held from its look-up until it is sent, in bytes.
const HELD_VALUE_BYTES_MAX: u64 = 64 * 1024;
/// What one client's replies hold of such ranges between two sends, in bytes.
const HELD_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Parts that the values opened for one client have together, between two sends. A value of RESP's has at most
/// 256, an object of S3's 10,000.
const HELD_PARTS_MAX: u64 = 1024 * 1024;

/// What one client's replies hold until they are sent.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: AtomicU64,
    parts: AtomicU64,
}

impl Held {
    /// The replies were sent.
    pub(crate) fn release(&mut self) {
        *self = Held::default();
    }

    fn takes_bytes(&self, len: u64) -> bool {
        len <= HELD_VALUE_BYTES_MAX && self.bytes.fetch_add(len, Relaxed) + len <= HELD_BYTES_MAX
    }

    fn takes_parts(&self, count: u64) -> bool {
        self.parts.fetch_add(count, Relaxed) + count <= HELD_PARTS_MAX
    }
}

/// An object that had to be waited for; `None` if there is none.
pub(crate) type Fetched = Option<(ObjectRow, FetchedBody)>;

/// What was fetched of an object's bytes.
#[derive(Debug)]
pub(crate) enum FetchedBody {
    /// Nothing: they stand in the row, or none were asked for.
    InRow,
    /// Those asked for.
    Here(Bytes),
    /// These are to be read when they are sent.
    Long(BodyReader, Range<u64>),
}

/// Looks an object up, waiting where it must. Its bytes come along, or can be read later, if they are asked for
/// and do not stand in the row.
pub(crate) async fn fetch(
    view: &ReadView,
    bucket: Option<BucketId>,
    args: Args<'_>,
    key: usize,
    needs: Needs,
    held: &Held,
) -> Result<Fetched, CommandError> {
    let Some(bucket) = bucket else { return Ok(None) };
    let Some(row) = view.fetch(bucket, args.at(key)).await? else { return Ok(None) };
    let range = needs.range(args, row.body_len());
    let body = if matches!(needs, Needs::Nothing) || row.inline_body().is_some() {
        FetchedBody::InRow
    } else if range.is_empty() {
        FetchedBody::Here(Bytes::new())
    } else if held.takes_bytes(range.end - range.start) {
        FetchedBody::Here(view.read_body(&row, range).await?)
    } else if held.takes_parts(row.parts_count() as u64) {
        let body = view.open_body(&row).await?;
        body.reach(range.clone()).await?;
        FetchedBody::Long(body, range)
    } else {
        return Err(CommandError::REPLY_TOO_LONG);
    };
    Ok(Some((row, body)))
}

/// A read that met a key which must be waited for; nothing is written.
#[derive(Debug)]
pub(crate) struct Cold;

impl Reader<'_> {
    /// Reads the newest state without waiting; several keys are read at one index.
    #[inline]
    pub(crate) fn read_latest(&mut self, read: Read) -> Result<Result<(), CommandError>, Cold> {
        match read {
            Read::One { key, needs, reply } => match self.lookup_latest(key) {
                Err(error) => Ok(Err(error.into())),
                Ok(lookup) => self.one(lookup, needs, reply),
            },
            Read::Count { first } if first + 1 == self.args.len() => match self.lookup_latest(first) {
                Err(error) => Ok(Err(error.into())),
                Ok(lookup) => self.one(lookup, Needs::Nothing, |seen, reply| {
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
            Read::One { key, needs, reply } => {
                let fetched = fetch(view, bucket, args, key, needs, self.held).await?;
                self.fetched(&fetched, needs, reply)
            }
            Read::Each { first, reply } => {
                let from = self.reply.len();
                self.reply.array(args.len() - first);
                for chunk in (first..args.len()).step_by(COLD_READS_MAX) {
                    for fetched in self.fetch_chunk(view, chunk, Needs::Body).await {
                        self.fetched(&fetched?, Needs::Body, reply)?;
                        self.check_reply_len(from)?;
                    }
                }
                Ok(())
            }
            Read::Count { first } => {
                let mut count = 0;
                for chunk in (first..args.len()).step_by(COLD_READS_MAX) {
                    for fetched in self.fetch_chunk(view, chunk, Needs::Nothing).await {
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

    /// The objects of the next [`COLD_READS_MAX`] keys from argument `first` on, waited for together.
    async fn fetch_chunk(
        &self,
        view: &ReadView,
        first: usize,
        needs: Needs,
    ) -> Vec<Result<Fetched, CommandError>> {
        let (bucket, args, held) = (self.bucket, self.args, self.held);
        let end = args.len().min(first + COLD_READS_MAX);
        let fetches: Vec<BoxFuture<'_, _>> =
            (first..end).map(|key| fetch(view, bucket, args, key, needs, held).boxed()).collect();
        join_all(fetches).await
    }

    fn try_read(&mut self, read: Read, view: &ReadView) -> Result<Result<(), CommandError>, Cold> {
        match read {
            Read::One { key, needs, reply } => {
                let lookup = self.lookup(view, key);
                self.one(lookup, needs, reply)
            }
            Read::Each { first, reply } => {
                let from = self.reply.len();
                self.reply.array(self.args.len() - first);
                for key in first..self.args.len() {
                    let lookup = self.lookup(view, key);
                    if let Err(error) = self.one(lookup, Needs::Body, reply)? {
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
    fn one(&mut self, lookup: Lookup, needs: Needs, reply: SeenFn) -> Result<Result<(), CommandError>, Cold> {
        match lookup {
            Lookup::Later => Err(Cold),
            Lookup::Absent => Ok(self.seen(None, SeenBody::Here(b""), reply)),
            Lookup::Found(row) => match (row.inline_body(), needs) {
                (_, Needs::Nothing) => Ok(self.seen(Some(&row), SeenBody::Here(b""), reply)),
                (Some(body), Needs::Body) => Ok(self.seen(Some(&row), SeenBody::Here(body), reply)),
                (Some(body), Needs::Range(_)) => {
                    let body = self.ranged(body, needs);
                    Ok(self.seen(Some(&row), SeenBody::Here(body), reply))
                }
                (None, _) => Err(Cold),
            },
        }
    }

    /// Replies for an object that was waited for.
    pub(crate) fn fetched(
        &mut self,
        fetched: &Fetched,
        needs: Needs,
        reply: SeenFn,
    ) -> Result<(), CommandError> {
        let Some((row, body)) = fetched else { return self.seen(None, SeenBody::Here(b""), reply) };
        let body = match body {
            FetchedBody::InRow => SeenBody::Here(self.ranged(row.inline_body().unwrap_or_default(), needs)),
            FetchedBody::Here(bytes) => SeenBody::Here(bytes),
            FetchedBody::Long(body, range) => SeenBody::Long(body, range),
        };
        self.seen(Some(row), body, reply)
    }

    /// What a read needs of a whole body.
    fn ranged<'b>(&self, body: &'b [u8], needs: Needs) -> &'b [u8] {
        let range = needs.range(self.args, body.len() as u64);
        body.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    #[inline]
    fn seen(
        &mut self,
        row: Option<&ObjectRow>,
        body: SeenBody<'_>,
        reply: SeenFn,
    ) -> Result<(), CommandError> {
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
