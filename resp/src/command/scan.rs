//! Stretches of the keyspace: KEYS, SCAN, RANDOMKEY, DBSIZE.
//!
//! All list in steps, so that no more than a step's rows are held at once: through one view, at the command's place
//! in the pipeline. Under a mount over data that was there before, KEYS and SCAN list what the origin has as well.
//! A page of an origin's is no view's, so they wait for it by themselves, with nothing before them. RANDOMKEY and
//! DBSIZE know the keys that are here.

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use forebay_storage::lookup::MergedList;
use forebay_storage::object::BucketId;
use forebay_storage::read::ReadView;
use forebay_storage::store::Store;

use super::args::Args;
use super::plan::{Plan, Planner, Read, Wait, Waiting, Walk};
use crate::cursors::Position;
use crate::error::CommandError;
use crate::glob;
use crate::number::parse_cursor;
use crate::reply::Reply;
use crate::server::Server;

/// Keys listed at a time.
const STEP_KEYS: usize = 1000;
/// Keys a SCAN looks at unless it says COUNT.
const SCAN_COUNT_DEFAULT: usize = 10;
/// Keys that RANDOMKEY draws from, around a random place.
const SAMPLE_KEYS: usize = 256;

type Result<T> = std::result::Result<T, CommandError>;

pub(super) fn keys(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    if asks_origin(planner, &glob::literal_prefix(args.at(1)))? {
        return Ok(Plan::Wait(|waiting| Box::pin(wait_for_keys(waiting))));
    }
    Ok(Plan::Read(Read::Walk(|walk| Box::pin(reply_keys(Scan::of_walk(walk))))))
}

pub(super) fn scan(planner: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    let options = ScanOptions::parse(args)?;
    if asks_origin(planner, &options.prefix())? {
        return Ok(Plan::Wait(|waiting| Box::pin(wait_for_scan(waiting))));
    }
    Ok(Plan::Read(Read::Walk(|walk| Box::pin(reply_scan(Scan::of_walk(walk))))))
}

/// Whether a listing of such keys asks an origin; inside of EXEC it cannot.
fn asks_origin(planner: &Planner<'_>, prefix: &[u8]) -> Result<bool> {
    let store = &planner.server.store;
    let asks =
        store.has_lookups() && planner.bucket().is_some_and(|bucket| store.lists_origin(bucket, prefix));
    match asks && planner.in_exec {
        true => Err(CommandError::text(format!(
            "ERR forebay: '{}' has to ask an origin here, which a transaction cannot wait for",
            planner.command.name
        ))),
        false => Ok(asks),
    }
}

async fn wait_for_keys(waiting: Waiting<'_>) -> Result<()> {
    reply_keys(Scan::of_waiting(waiting)).await
}

async fn wait_for_scan(waiting: Waiting<'_>) -> Result<()> {
    reply_scan(Scan::of_waiting(waiting)).await
}

pub(super) fn randomkey(_: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    Ok(Plan::Read(Read::Walk(|walk| Box::pin(reply_randomkey(walk)))))
}

/// DBSIZE: the core counts as of now, so outside of EXEC the answer is fetched at once, with nothing before it.
pub(super) fn dbsize(planner: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    if planner.in_exec {
        return Ok(Plan::Read(Read::Walk(reply_dbsize)));
    }
    let count = match planner.bucket() {
        Some(bucket) => planner.server.store.view()?.count(bucket),
        None => 0,
    };
    planner.reply.count(count);
    Ok(Plan::Answered)
}

fn reply_dbsize(walk: Walk<'_>) -> Wait<'_> {
    walk.reply.count(walk.bucket.map_or(0, |bucket| walk.view.count(bucket)));
    Box::pin(std::future::ready(Ok(())))
}

/// A KEYS or SCAN that is carried out.
struct Scan<'a> {
    server: &'a Server,
    keys: Keys<'a>,
    bucket: Option<BucketId>,
    args: Args<'a>,
    reply: &'a mut Reply,
}

impl<'a> Scan<'a> {
    fn of_walk(walk: Walk<'a>) -> Scan<'a> {
        let Walk { server, view, bucket, args, reply } = walk;
        Scan { server, keys: Keys::Here(view), bucket, args, reply }
    }

    fn of_waiting(waiting: Waiting<'a>) -> Scan<'a> {
        let Waiting { server, session, args, reply } = waiting;
        let bucket = session.database_at(session.database()).bucket;
        Scan { server, keys: Keys::Merged(&server.store), bucket, args, reply }
    }
}

async fn reply_keys(scan: Scan<'_>) -> Result<()> {
    let pattern = scan.args.at(1);
    let mut found = Found::new(scan.server, scan.reply);
    if let Some(bucket) = scan.bucket {
        let mut stretch = Stretch::new(scan.keys, bucket, glob::literal_prefix(pattern), None);
        while let Some(listed) = stretch.next(STEP_KEYS).await? {
            for key in &listed {
                if glob::matches(pattern, key) {
                    found.push(key)?;
                }
            }
        }
    }
    found.write(scan.reply);
    Ok(())
}

async fn reply_scan(scan: Scan<'_>) -> Result<()> {
    let options = ScanOptions::parse(scan.args)?;
    let mut found = Found::new(scan.server, scan.reply);
    let mut cursor = 0;
    if let Some(position) = scan_from(&scan, options.cursor)? {
        let bucket = position.bucket;
        let after = (options.cursor != 0).then_some(position.after);
        let mut left = match scan.keys {
            Keys::Here(_) => options.count,
            // COUNT is a hint, and a page of an origin costs the same however little it holds.
            Keys::Merged(_) => options.count.max(STEP_KEYS),
        };
        let mut stretch = Stretch::new(scan.keys, bucket, options.prefix(), after);
        while left > 0
            && let Some(listed) = stretch.next(left.min(STEP_KEYS)).await?
        {
            left -= listed.len().min(left);
            for key in &listed {
                if options.takes(key) {
                    found.push(key)?;
                }
            }
        }
        if !stretch.ended
            && let Some(after) = stretch.after
        {
            cursor = scan.server.cursors.remember(Position { bucket, after });
        }
    }
    scan.reply.array(2);
    scan.reply.bulk(itoa::Buffer::new().format(cursor).as_bytes());
    found.write(scan.reply);
    Ok(())
}

/// Where a SCAN begins; `None` if there is nothing to scan.
fn scan_from(scan: &Scan<'_>, cursor: u64) -> Result<Option<Position>> {
    if cursor == 0 {
        return Ok(scan.bucket.map(|bucket| Position { bucket, after: Vec::new() }));
    }
    let position = scan.server.cursors.find(cursor).filter(|known| Some(known.bucket) == scan.bucket);
    position.map(Some).ok_or_else(|| {
        CommandError::text(format!("ERR forebay: unknown SCAN cursor {cursor}, start again with 0"))
    })
}

/// `SCAN cursor [MATCH pattern] [COUNT n] [TYPE name]`
struct ScanOptions<'a> {
    cursor: u64,
    pattern: Option<&'a [u8]>,
    count: usize,
    /// Whether keys of this type exist at all.
    has_type: bool,
}

impl<'a> ScanOptions<'a> {
    fn parse(args: Args<'a>) -> Result<ScanOptions<'a>> {
        let cursor = parse_cursor(args.at(1)).ok_or(CommandError::new("ERR invalid cursor"))?;
        let mut options = ScanOptions { cursor, pattern: None, count: SCAN_COUNT_DEFAULT, has_type: true };
        let mut option = 2;
        while option < args.len() {
            let Some(value) = args.get(option + 1) else { return Err(CommandError::SYNTAX) };
            if args.is(option, "count") {
                let count = usize::try_from(args.integer(option + 1)?).unwrap_or(0);
                options.count = count;
                if count == 0 {
                    return Err(CommandError::SYNTAX);
                }
            } else if args.is(option, "match") {
                options.pattern = Some(value);
            } else if args.is(option, "type") {
                options.has_type = value.eq_ignore_ascii_case(b"string");
            } else {
                return Err(CommandError::SYNTAX);
            }
            option += 2;
        }
        Ok(options)
    }

    /// What every key that it takes begins with.
    fn prefix(&self) -> Vec<u8> {
        self.pattern.map(glob::literal_prefix).unwrap_or_default()
    }

    fn takes(&self, key: &[u8]) -> bool {
        self.has_type && self.pattern.is_none_or(|pattern| glob::matches(pattern, key))
    }
}

async fn reply_randomkey(walk: Walk<'_>) -> Result<()> {
    let Some(bucket) = walk.bucket else {
        walk.reply.nil();
        return Ok(());
    };
    let mut random = Random::new();
    // A random place in the key space as far as the first keys show its shape; behind the last key the
    // sample is the first keys again.
    let first = walk.view.list(bucket, b"", None, SAMPLE_KEYS).await?;
    let mut sample = first;
    if sample.len() == SAMPLE_KEYS {
        let mut place = sample[random.below(sample.len())].key.to_vec();
        let at = random.below(place.len().max(1));
        place.truncate(at);
        place.extend_from_slice(&random.next().to_be_bytes());
        let around = walk.view.list(bucket, b"", Some(&place), SAMPLE_KEYS).await?;
        if !around.is_empty() {
            sample = around;
        }
    }
    match sample.len() {
        0 => walk.reply.nil(),
        len => walk.reply.bulk(&sample[random.below(len)].key),
    }
    Ok(())
}

/// Numbers that need to be neither good nor secret.
struct Random(RandomState, u64);

impl Random {
    fn new() -> Random {
        Random(RandomState::new(), 0)
    }

    fn next(&mut self) -> u64 {
        self.1 += 1;
        self.0.hash_one(self.1)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Where keys are listed.
#[derive(Clone, Copy)]
enum Keys<'a> {
    /// Those that are here, as of one place in the log.
    Here(&'a ReadView),
    /// And those that only origins have; each page as of its own place.
    Merged(&'a Store),
}

impl Keys<'_> {
    /// The next `limit` keys at most, and whether there are more.
    async fn list(
        self,
        bucket: BucketId,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<Bytes>, bool)> {
        match self {
            Keys::Here(view) => {
                let listed = view.list(bucket, prefix, after, limit).await?;
                let more = listed.len() == limit;
                Ok((listed.into_iter().map(|listed| listed.key).collect(), more))
            }
            Keys::Merged(store) => {
                let page =
                    store.list_merged(bucket, MergedList { prefix, after, delimiter: b"", limit }).await?;
                Ok((page.entries.iter().map(|entry| entry.key().clone()).collect(), page.more))
            }
        }
    }
}

/// A listing in steps.
struct Stretch<'a> {
    keys: Keys<'a>,
    bucket: BucketId,
    prefix: Vec<u8>,
    /// The last key listed.
    after: Option<Vec<u8>>,
    ended: bool,
}

impl<'a> Stretch<'a> {
    fn new(keys: Keys<'a>, bucket: BucketId, prefix: Vec<u8>, after: Option<Vec<u8>>) -> Stretch<'a> {
        Stretch { keys, bucket, prefix, after, ended: false }
    }

    /// The next keys; `None` behind the last.
    async fn next(&mut self, limit: usize) -> Result<Option<Vec<Bytes>>> {
        if self.ended {
            return Ok(None);
        }
        let (keys, more) = self.keys.list(self.bucket, &self.prefix, self.after.as_deref(), limit).await?;
        self.ended = !more;
        if let Some(last) = keys.last() {
            self.after = Some(last.to_vec());
        }
        Ok((!keys.is_empty()).then_some(keys))
    }
}

/// Keys found so far: their number must be known before they are written.
struct Found {
    keys: Reply,
    count: usize,
    bytes_max: u64,
}

impl Found {
    fn new(server: &Server, reply: &Reply) -> Found {
        let bytes_max = server.settings.reply_bytes_max;
        Found { keys: Reply::new(reply.protocol()), count: 0, bytes_max }
    }

    fn push(&mut self, key: &[u8]) -> Result<()> {
        self.keys.bulk(key);
        self.count += 1;
        if self.keys.len() as u64 > self.bytes_max { Err(CommandError::REPLY_TOO_LONG) } else { Ok(()) }
    }

    fn write(&self, reply: &mut Reply) {
        reply.array(self.count);
        reply.raw(self.keys.bytes());
    }
}
