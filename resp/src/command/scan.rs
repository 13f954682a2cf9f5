//! Stretches of the keyspace: KEYS, SCAN, RANDOMKEY, DBSIZE.
//!
//! All list through one view in steps, so that no more than a step's rows are held at once.

use std::hash::{BuildHasher, RandomState};

use forebay_storage::object::BucketId;
use forebay_storage::read::{Listed, ReadView};

use super::args::Args;
use super::plan::{Plan, Planner, Read, Wait, Walk};
use crate::cursors::Position;
use crate::error::CommandError;
use crate::glob;
use crate::number::parse_cursor;
use crate::reply::Reply;

/// Keys listed at a time.
const STEP_KEYS: usize = 1000;
/// Keys a SCAN looks at unless it says COUNT.
const SCAN_COUNT_DEFAULT: usize = 10;
/// Keys that RANDOMKEY draws from, around a random place.
const SAMPLE_KEYS: usize = 256;

type Result<T> = std::result::Result<T, CommandError>;

pub(super) fn keys(_: &mut Planner<'_>, _: Args<'_>) -> Result<Plan> {
    Ok(Plan::Read(Read::Walk(|walk| Box::pin(reply_keys(walk)))))
}

pub(super) fn scan(_: &mut Planner<'_>, args: Args<'_>) -> Result<Plan> {
    ScanOptions::parse(args)?;
    Ok(Plan::Read(Read::Walk(|walk| Box::pin(reply_scan(walk)))))
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

async fn reply_keys(walk: Walk<'_>) -> Result<()> {
    let pattern = walk.args.at(1);
    let mut found = Found::new(&walk);
    if let Some(bucket) = walk.bucket {
        let mut stretch = Stretch::new(walk.view, bucket, glob::literal_prefix(pattern), None);
        while let Some(listed) = stretch.next(STEP_KEYS).await? {
            for object in &listed {
                if glob::matches(pattern, &object.key) {
                    found.push(&object.key)?;
                }
            }
        }
    }
    found.write(walk.reply);
    Ok(())
}

async fn reply_scan(walk: Walk<'_>) -> Result<()> {
    let options = ScanOptions::parse(walk.args)?;
    let mut found = Found::new(&walk);
    let mut cursor = 0;
    if let Some(position) = scan_from(&walk, options.cursor)? {
        let prefix = options.pattern.map(glob::literal_prefix).unwrap_or_default();
        let bucket = position.bucket;
        let after = (options.cursor != 0).then_some(position.after);
        let mut stretch = Stretch::new(walk.view, bucket, prefix, after);
        let mut left = options.count;
        while left > 0
            && let Some(listed) = stretch.next(left.min(STEP_KEYS)).await?
        {
            left -= listed.len().min(left);
            for object in &listed {
                if options.takes(&object.key) {
                    found.push(&object.key)?;
                }
            }
        }
        if !stretch.ended
            && let Some(after) = stretch.after
        {
            cursor = walk.server.cursors.remember(Position { bucket, after });
        }
    }
    walk.reply.array(2);
    walk.reply.bulk(itoa::Buffer::new().format(cursor).as_bytes());
    found.write(walk.reply);
    Ok(())
}

/// Where a SCAN begins; `None` if there is nothing to scan.
fn scan_from(walk: &Walk<'_>, cursor: u64) -> Result<Option<Position>> {
    if cursor == 0 {
        return Ok(walk.bucket.map(|bucket| Position { bucket, after: Vec::new() }));
    }
    let position = walk.server.cursors.find(cursor).filter(|known| Some(known.bucket) == walk.bucket);
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

/// A listing in steps.
struct Stretch<'a> {
    view: &'a ReadView,
    bucket: BucketId,
    prefix: Vec<u8>,
    /// The last key listed.
    after: Option<Vec<u8>>,
    ended: bool,
}

impl<'a> Stretch<'a> {
    fn new(view: &'a ReadView, bucket: BucketId, prefix: Vec<u8>, after: Option<Vec<u8>>) -> Stretch<'a> {
        Stretch { view, bucket, prefix, after, ended: false }
    }

    /// The next objects; `None` behind the last.
    async fn next(&mut self, limit: usize) -> Result<Option<Vec<Listed>>> {
        if self.ended {
            return Ok(None);
        }
        let listed = self.view.list(self.bucket, &self.prefix, self.after.as_deref(), limit).await?;
        self.ended = listed.len() < limit;
        if let Some(last) = listed.last() {
            self.after = Some(last.key.to_vec());
        }
        Ok((!listed.is_empty()).then_some(listed))
    }
}

/// Keys found so far: their number must be known before they are written.
struct Found {
    keys: Reply,
    count: usize,
    bytes_max: u64,
}

impl Found {
    fn new(walk: &Walk<'_>) -> Found {
        let bytes_max = walk.server.settings.reply_bytes_max;
        Found { keys: Reply::new(walk.reply.protocol()), count: 0, bytes_max }
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
