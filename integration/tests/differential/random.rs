//! Random commands on few keys, by seed. A failing seed is named with the commands that led there.
//! `FOREBAY_SEEDS` sets how many seeds are run.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;
use forebay_integration::resp_wire::{RespWire, encode_command};

use crate::servers::{Agreement, Servers, show_command};

const SEEDS_IN_CI: u64 = 40;
const COMMANDS: usize = 400;
const SHOWN: usize = 12;

type Command = Vec<Vec<u8>>;

#[test]
fn random_commands_give_the_replies_of_redis() {
    let servers = Servers::start();
    let seeds = std::env::var("FOREBAY_SEEDS").ok().map_or(SEEDS_IN_CI, |text| text.parse().unwrap());
    let mut found = Vec::new();
    for seed in 0..seeds {
        servers.clear();
        let protocol = if seed % 2 == 0 { 2 } else { 3 };
        let mut pair = servers.connect(protocol);
        let mut random = Rng::with_seed(seed);
        let mut before: VecDeque<String> = VecDeque::new();
        for _ in 0..COMMANDS {
            let (command, agreement) = command(&mut random);
            if let Err(difference) = pair.compare(&command, agreement) {
                let before: Vec<_> = before.iter().cloned().collect();
                found.push(format!(
                    "seed {seed} RESP{protocol}, after\n    {}\n  {}\n    redis   {}\n    forebay {}",
                    before.join("\n    "),
                    difference.command,
                    difference.redis,
                    difference.forebay
                ));
                break;
            }
            if before.len() == SHOWN {
                before.pop_front();
            }
            before.push_back(show_command(&command));
        }
        if found.len() == 5 {
            break;
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n\n"));
    servers.finish();
}

#[test]
fn a_long_pipeline_split_anywhere_gives_the_replies_of_redis() {
    let servers = Servers::start();
    for seed in 1_000..1_004 {
        servers.clear();
        let mut random = Rng::with_seed(seed);
        let mut bytes = Vec::new();
        let mut count = 0;
        while count < 3_000 {
            let (command, agreement) = command(&mut random);
            if agreement == Agreement::Exact {
                encode_command(&mut bytes, &command);
                count += 1;
            }
        }
        let redis = replies(servers.redis_addr(), &bytes, count, |rest| rest);
        let forebay = replies(servers.forebay_addr(), &bytes, count, |rest| random.usize(1..=rest.min(700)));
        let first = redis.iter().zip(&forebay).position(|(redis, forebay)| redis != forebay);
        if let Some(at) = first {
            panic!(
                "seed {seed}, reply {at}: redis {}, forebay {}",
                redis[at].escape_ascii(),
                forebay[at].escape_ascii()
            );
        }
    }
    servers.finish();
}

#[test]
fn a_pipeline_cut_at_every_byte_gives_the_same_replies() {
    let servers = Servers::start();
    let mut bytes = Vec::new();
    for line in
        [&["SET", "k", "a\r\nb"][..], &["GET", "k"], &["MGET", "k", "no", ""], &["NOSUCH"], &["ECHO", ""]]
    {
        encode_command(&mut bytes, line);
    }
    bytes.extend_from_slice(b"PING inline\r\nSET k \"quoted \\x41\"\r\n\r\n*0\r\nGET k\n");
    let whole = replies(servers.redis_addr(), &bytes, 8, |rest| rest);
    for cut in 1..bytes.len() {
        let mut first = true;
        let split =
            replies(
                servers.forebay_addr(),
                &bytes,
                8,
                |rest| {
                    if std::mem::take(&mut first) { cut } else { rest }
                },
            );
        assert_eq!(split, whole, "cut at byte {cut}");
    }
    servers.finish();
}

/// Sends `bytes` in pieces whose sizes `piece` chooses from what is left, and reads `count` replies.
fn replies(
    addr: std::net::SocketAddr,
    bytes: &[u8],
    count: usize,
    mut piece: impl FnMut(usize) -> usize,
) -> Vec<Vec<u8>> {
    let mut sender = RespWire::connect(addr).unwrap();
    sender.set_reply_limit(Duration::from_secs(60)).unwrap();
    let mut rest = bytes;
    let mut got = Vec::new();
    while !rest.is_empty() {
        let size = piece(rest.len()).min(rest.len());
        sender.send(&rest[..size]).unwrap();
        rest = &rest[size..];
        // Read along, so that neither side's buffers fill up.
        while got.len() < count
            && sender.buffered_reply().unwrap().is_some_and(|reply| {
                got.push(reply);
                true
            })
        {}
    }
    while got.len() < count {
        got.push(sender.reply().unwrap());
    }
    got
}

fn command(random: &mut Rng) -> (Command, Agreement) {
    let (name, agreement, arguments) = SHAPES[random.usize(0..SHAPES.len())];
    let mut words = vec![name.as_bytes().to_vec()];
    for kind in arguments.chars() {
        match kind {
            'k' => words.push(key(random)),
            'v' => words.push(value(random)),
            'i' => words.push(integer(random)),
            'f' => words.push(float(random)),
            'o' => words.extend(set_options(random)),
            'x' => words.extend(expiry(random)),
            'c' => words.extend(expire_condition(random)),
            'p' => words.push(pattern(random)),
            't' => words.push(future(random)),
            'm' => words.push(from_now(random)),
            '+' => (0..random.usize(0..3)).for_each(|_| words.push(key(random))),
            '=' => (0..random.usize(0..3)).for_each(|_| words.extend([key(random), value(random)])),
            other => unreachable!("shape {other}"),
        }
    }
    // Now and then too few or too many words.
    match random.u32(0..60) {
        0 => _ = words.pop(),
        1 => words.push(integer(random)),
        _ => {}
    }
    if words.is_empty() {
        words.push(b"PING".to_vec());
    }
    (words, agreement)
}

/// Name, agreement, and one letter for each argument (see `command`). DBSIZE of Redis counts keys whose time has
/// passed until it comes to them, so its number is not compared.
const SHAPES: &[(&str, Agreement, &str)] = &[
    ("SET", Agreement::Exact, "kv"),
    ("SET", Agreement::Exact, "kvo"),
    ("SET", Agreement::Exact, "kvo"),
    ("SETNX", Agreement::Exact, "kv"),
    ("SETEX", Agreement::Exact, "kmv"),
    ("PSETEX", Agreement::Exact, "kmv"),
    ("GET", Agreement::Exact, "k"),
    ("GET", Agreement::Exact, "k"),
    ("GETSET", Agreement::Exact, "kv"),
    ("GETDEL", Agreement::Exact, "k"),
    ("GETEX", Agreement::Exact, "k"),
    ("GETEX", Agreement::Exact, "kx"),
    ("MGET", Agreement::Exact, "k+"),
    ("MSET", Agreement::Exact, "kv="),
    ("MSETNX", Agreement::Exact, "kv="),
    ("APPEND", Agreement::Exact, "kv"),
    ("APPEND", Agreement::Exact, "kv"),
    ("STRLEN", Agreement::Exact, "k"),
    ("GETRANGE", Agreement::Exact, "kii"),
    ("SUBSTR", Agreement::Exact, "kii"),
    ("SETRANGE", Agreement::Exact, "kiv"),
    ("INCR", Agreement::Exact, "k"),
    ("DECR", Agreement::Exact, "k"),
    ("INCRBY", Agreement::Exact, "ki"),
    ("DECRBY", Agreement::Exact, "ki"),
    ("INCRBYFLOAT", Agreement::Exact, "kf"),
    ("INCRBYFLOAT", Agreement::Exact, "kf"),
    ("DEL", Agreement::Exact, "k+"),
    ("UNLINK", Agreement::Exact, "k+"),
    ("EXISTS", Agreement::Exact, "k+"),
    ("TOUCH", Agreement::Exact, "k+"),
    ("TYPE", Agreement::Exact, "k"),
    ("RENAME", Agreement::Exact, "kk"),
    ("RENAMENX", Agreement::Exact, "kk"),
    ("COPY", Agreement::Exact, "kk"),
    ("EXPIREAT", Agreement::Exact, "ktc"),
    ("PEXPIREAT", Agreement::Exact, "ktc"),
    ("PERSIST", Agreement::Exact, "k"),
    ("EXPIRE", Agreement::Exact, "kmc"),
    ("PEXPIRE", Agreement::Exact, "kmc"),
    ("TTL", Agreement::Near, "k"),
    ("PTTL", Agreement::Near, "k"),
    ("KEYS", Agreement::AnyOrder, "p"),
    ("DBSIZE", Agreement::Kind, ""),
    ("OBJECT", Agreement::Exact, "v"),
    ("ECHO", Agreement::Exact, "i"),
    ("PING", Agreement::Exact, ""),
];

fn choose(random: &mut Rng, words: &[&str]) -> Vec<u8> {
    words[random.usize(0..words.len())].as_bytes().to_vec()
}

fn key(random: &mut Rng) -> Vec<u8> {
    // "\u{1}" and "" stand for keys that are not words.
    choose(random, &["a", "b", "c", "d", "e{t}", "{t}", "\u{1}\u{ff}", ""])
}

fn value(random: &mut Rng) -> Vec<u8> {
    match random.u32(0..10) {
        // On both sides of what is kept in memory; some of several pieces.
        0 if random.u32(0..8) == 0 => {
            let byte = random.u8(b'a'..=b'z');
            let lengths = [65_535, 65_536, 65_537, 65_600, 100_000, 1 << 20, 3_000_000];
            let weighted = random.usize(0..lengths.len()).min(random.usize(0..lengths.len()));
            let mut long = vec![byte; lengths[weighted]];
            long.iter_mut().step_by(1_021).for_each(|byte| *byte = random.u8(b'0'..=b'9'));
            long
        }
        0..=3 => integer(random),
        4..=5 => float(random),
        6 => Vec::new(),
        7 => (0..random.usize(0..2_000)).map(|_| random.u8(b'a'..=b'z')).collect(),
        8 => (0..random.usize(0..40)).map(|_| random.u8(..)).collect(),
        _ => choose(random, &["NX", "abc", "+OK\r\n", "1 ", " 1", "0x1f", "-0", "00", "+5", "١"]),
    }
}

fn integer(random: &mut Rng) -> Vec<u8> {
    match random.u32(0..12) {
        0 => choose(
            random,
            &["9223372036854775807", "-9223372036854775808", "9223372036854775808", "4611686018427387904"],
        ),
        1 => choose(random, &["", "x", "1.0", "1e3", " 7"]),
        2 => random.i64(..).to_string().into_bytes(),
        3 if random.u32(0..4) == 0 => random.i32(-200_000..200_000).to_string().into_bytes(),
        3 => random.i32(-9_000..9_000).to_string().into_bytes(),
        _ => random.i32(-12..30).to_string().into_bytes(),
    }
}

fn float(random: &mut Rng) -> Vec<u8> {
    match random.u32(0..8) {
        0 => choose(
            random,
            &["inf", "-inf", "nan", "1e400", "", ".", "1.", ".5", "-.5e1", "0x1p3", "1e", "1e308"],
        ),
        1 => format!("{}e{}", random.i32(-999..999), random.i32(-20..20)).into_bytes(),
        2 => format!("{}.{}", random.i32(-9_999..9_999), random.u64(0..1_000_000_000)).into_bytes(),
        3 => random.i64(..).to_string().into_bytes(),
        _ => format!("{:.2}", random.f64() * 200.0 - 100.0).into_bytes(),
    }
}

/// Far in the future, or long ago: never a moment that passes between two servers.
fn future(random: &mut Rng) -> Vec<u8> {
    choose(
        random,
        &["33177117420", "33177117420001", "33177117999999", "1", "0", "-1", "x", "9223372036854775807"],
    )
}

/// Long enough in seconds or milliseconds that nothing expires during a run, or not positive.
fn from_now(random: &mut Rng) -> Vec<u8> {
    match random.u32(0..3) {
        0 => choose(random, &["0", "-1", "x", "", "1.5", "9223372036854775807", "-9223372036854775808"]),
        _ => random.u32(100_000..1_000_000).to_string().into_bytes(),
    }
}

fn expiry(random: &mut Rng) -> Command {
    match random.u32(0..5) {
        0 => vec![b"PERSIST".to_vec()],
        1 => vec![b"PXAT".to_vec(), future(random)],
        2 => vec![b"EXAT".to_vec(), future(random)],
        3 => vec![b"EX".to_vec(), from_now(random)],
        _ => vec![b"px".to_vec(), from_now(random)],
    }
}

fn expire_condition(random: &mut Rng) -> Command {
    (0..random.usize(0..3)).map(|_| choose(random, &["NX", "XX", "GT", "LT", "gt", "WHAT"])).collect()
}

fn set_options(random: &mut Rng) -> Command {
    let mut words = Vec::new();
    for _ in 0..random.usize(0..4) {
        match random.u32(0..7) {
            0 => words.push(b"NX".to_vec()),
            1 => words.push(b"xx".to_vec()),
            2 => words.push(b"GET".to_vec()),
            3 => words.push(b"KEEPTTL".to_vec()),
            4 => words.push(choose(random, &["WHAT", "EX", "PX"])),
            _ => words.extend(expiry(random)),
        }
    }
    words
}

fn pattern(random: &mut Rng) -> Vec<u8> {
    choose(random, &["*", "?", "a", "[a-c]", "[^a]", "*t*", "\\a", "[", "[]", "", "**", "e{?}", "[c-a]"])
}
