use std::time::{Duration, Instant};

use proptest::prelude::*;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::BytesFrame;

use super::*;

const RULES: Rules = Rules {
    authenticated: true,
    bulk_bytes_max: 512 * 1024 * 1024,
    value_bytes_max: 64 * 1024,
    request_bytes_max: 1024 * 1024,
};

/// What came out, with arguments copied.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Request(Vec<Vec<u8>>),
    Dropped(TooLarge),
    Error(ProtocolError),
}

/// Feeds the pieces one after the other, as reads would bring them, and takes all that can be parsed after each.
fn parse_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, rules: &Rules) -> (Vec<Event>, Parser) {
    let mut parser = Parser::new();
    let mut events = Vec::new();
    for mut piece in pieces {
        while !piece.is_empty() {
            let room = parser.make_room();
            let taken = piece.len().min(room.len());
            room[..taken].copy_from_slice(&piece[..taken]);
            parser.filled(taken);
            piece = &piece[taken..];
            loop {
                match parser.next(rules) {
                    Ok(Parsed::Incomplete) => break,
                    Ok(Parsed::Request(request)) => {
                        events
                            .push(Event::Request(parser.args(request).iter().map(<[u8]>::to_vec).collect()));
                    }
                    Ok(Parsed::Dropped(too_large)) => events.push(Event::Dropped(too_large)),
                    Err(error) => {
                        events.push(Event::Error(error));
                        return (events, parser);
                    }
                }
            }
        }
    }
    (events, parser)
}

fn parse(bytes: &[u8]) -> Vec<Event> {
    parse_pieces([bytes], &RULES).0
}

fn request(args: &[&str]) -> Event {
    Event::Request(args.iter().map(|arg| arg.as_bytes().to_vec()).collect())
}

/// The same at every split into two, and byte by byte.
fn assert_parses(bytes: &[u8], expected: &[Event]) {
    assert_eq!(parse(bytes), expected, "in one piece");
    for split in 1..bytes.len() {
        let (head, tail) = bytes.split_at(split);
        assert_eq!(parse_pieces([head, tail], &RULES).0, expected, "split at {split}");
    }
    assert_eq!(parse_pieces(bytes.chunks(1), &RULES).0, expected, "byte by byte");
}

#[test]
fn requests_parse_alike_at_every_split() {
    assert_parses(
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n*1\r\nPING\r\n*1\r\n$4\r\nQUIT\r\n",
        &[
            request(&["GET", "a"]),
            request(&["SET", "", "\r\n*1"]),
            request(&["PING"]),
            request(&["QUIT"]),
        ],
    );
}

#[test]
fn inline_requests_follow_redis_quoting() {
    for (line, args) in [
        ("SET a b", vec!["SET", "a", "b"]),
        ("  SET\ta   b  ", vec!["SET", "a", "b"]),
        (r#"SET "a b" 'c d'"#, vec!["SET", "a b", "c d"]),
        (r#"SET "\x41\x42" '\x41'"#, vec!["SET", "AB", r"\x41"]),
        (r#"SET "\n\r\t\a\b\"\\" x"#, vec!["SET", "\n\r\t\x07\x08\"\\", "x"]),
        (r#"SET 'it\'s' "it's""#, vec!["SET", "it's", "it's"]),
        (r#"SET a"b c""#, vec!["SET", "ab c"]),
        (r#"SET "" ''"#, vec!["SET", "", ""]),
        (r#"SET "\xZZ""#, vec!["SET", "xZZ"]),
    ] {
        assert_parses(format!("{line}\r\n").as_bytes(), &[request(&args)]);
        assert_parses(format!("{line}\n").as_bytes(), &[request(&args)]);
    }
}

#[test]
fn unbalanced_quotes_break_the_protocol() {
    for line in [r#"SET "a"#, r#"SET "a"b"#, "SET 'a", "SET 'a'b", r#"SET "a\"#] {
        let bytes = format!("{line}\r\n");
        assert_parses(bytes.as_bytes(), &[Event::Error(ProtocolError::UnbalancedQuotes)]);
    }
}

#[test]
fn empty_requests_are_passed_over() {
    assert_parses(b"\r\n\n   \r\n*0\r\n*-1\r\nPING\r\n", &[request(&["PING"])]);
}

#[test]
fn broken_lengths_are_told_in_redis_words() {
    for (bytes, text) in [
        ("*a\r\n", "Protocol error: invalid multibulk length"),
        ("*\r\n\r\n", "Protocol error: invalid multibulk length"),
        ("*03\r\n\r\n", "Protocol error: invalid multibulk length"),
        ("*+1\r\n\r\n", "Protocol error: invalid multibulk length"),
        ("*1048577\r\n", "Protocol error: invalid multibulk length"),
        ("*99999999999999999999\r\n", "Protocol error: invalid multibulk length"),
        ("*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        ("*1\r\n$a\r\n", "Protocol error: invalid bulk length"),
        ("*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
        ("*1\r\n$99999999999999999999\r\n", "Protocol error: invalid bulk length"),
        ("*1\r\n:1\r\n", "Protocol error: expected '$', got ':'"),
        ("*1\r\n*1\r\n", "Protocol error: expected '$', got '*'"),
    ] {
        match parse(bytes.as_bytes()).as_slice() {
            [Event::Error(error)] => assert_eq!(error.to_string(), text, "{bytes:?}"),
            other => panic!("{bytes:?} gave {other:?}"),
        }
    }
}

#[test]
fn lines_without_an_end_are_cut_off() {
    for (head, error) in [
        ("a", ProtocolError::InlineTooBig),
        ("*", ProtocolError::CountLineTooBig),
        ("*1\r\n$", ProtocolError::LengthLineTooBig),
    ] {
        let mut bytes = head.as_bytes().to_vec();
        bytes.resize(bytes.len() + 70_000, b'1');
        assert_eq!(parse(&bytes), [Event::Error(error)], "{head:?}");
    }
}

#[test]
fn before_auth_requests_must_be_small() {
    let rules = Rules { authenticated: false, ..RULES };
    let parse = |bytes: &[u8]| parse_pieces([bytes], &rules).0;
    assert_eq!(parse(b"*11\r\n"), [Event::Error(ProtocolError::CountBeforeAuth)]);
    assert_eq!(parse(b"*1\r\n$16385\r\n"), [Event::Error(ProtocolError::LengthBeforeAuth)]);
    assert_eq!(parse(b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n"), [request(&["AUTH", "x"])]);
}

#[test]
fn value_over_the_limit_is_dropped_and_the_connection_lives_on() {
    let mut bytes = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$3000000\r\n".to_vec();
    bytes.resize(bytes.len() + 3_000_000, b'x');
    bytes.extend_from_slice(b"\r\nPING\r\n");
    let (events, parser) = parse_pieces(bytes.chunks(1000), &RULES);
    assert_eq!(events, [Event::Dropped(TooLarge::Value(3_000_000)), request(&["PING"])]);
    assert!(parser.capacity() <= READ_BYTES_MAX, "{} bytes were buffered", parser.capacity());
}

#[test]
fn request_over_the_limit_is_dropped_and_the_connection_lives_on() {
    let mut bytes = b"*101\r\n$4\r\nMSET\r\n".to_vec();
    for _ in 0..100 {
        bytes.extend_from_slice(b"$50000\r\n");
        bytes.resize(bytes.len() + 50_000, b'x');
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"PING\r\n");
    let (events, parser) = parse_pieces(bytes.chunks(7777), &RULES);
    let limit = RULES.request_bytes_max;
    assert_eq!(events, [Event::Dropped(TooLarge::Request(limit)), request(&["PING"])]);
    assert!(parser.capacity() <= 2 * limit as usize, "{} bytes were buffered", parser.capacity());
}

#[test]
fn buffer_shrinks_again_after_a_long_request() {
    let mut bytes = b"*11\r\n$3\r\nDEL\r\n".to_vec();
    for _ in 0..10 {
        bytes.extend_from_slice(b"$60000\r\n");
        bytes.resize(bytes.len() + 60_000, b'k');
        bytes.extend_from_slice(b"\r\n");
    }
    let (events, mut parser) = parse_pieces(bytes.chunks(4096), &RULES);
    assert_eq!(events.len(), 1);
    assert!(parser.capacity() > READ_BYTES_MAX);
    parser.make_room();
    assert_eq!(parser.capacity(), READ_BYTES_MIN);
}

/// A request in a million reads must not be looked at again from its start at each.
#[test]
fn slow_sender_costs_linear_time() {
    let mut bytes = b"*20001\r\n$3\r\nDEL\r\n".to_vec();
    for _ in 0..20_000 {
        bytes.extend_from_slice(b"$2\r\nkk\r\n");
    }
    let (events, _) = parse_pieces(bytes.chunks(1), &RULES);
    assert!(matches!(events.as_slice(), [Event::Request(args)] if args.len() == 20_001));
}

/// Requests as another codec encodes them.
fn encoded(requests: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    for args in requests {
        let args = args.iter().map(|arg| BytesFrame::BulkString(arg.clone().into())).collect();
        extend_encode(&mut out, &BytesFrame::Array(args), false).expect("encodes");
    }
    out.to_vec()
}

proptest! {
    #[test]
    fn what_another_codec_encodes_parses_alike_at_every_split(
        requests in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..5), 1..4),
    ) {
        let bytes = encoded(&requests);
        let expected: Vec<Event> = requests.into_iter().map(Event::Request).collect();
        prop_assert_eq!(&parse(&bytes), &expected);
        for split in 1..bytes.len() {
            let (head, tail) = bytes.split_at(split);
            prop_assert_eq!(&parse_pieces([head, tail], &RULES).0, &expected, "split at {}", split);
        }
    }
}

/// Aim: no bytes make the parser panic, hold more than its bounds, or depend on how they were cut.
/// Method: seeded mutations of good requests; FOREBAY_FUZZ_SECONDS lets it run longer than a moment.
#[test]
fn mutated_requests_never_panic_and_parse_alike_however_cut() {
    let seconds = std::env::var("FOREBAY_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seeds: &[&[u8]] = &[
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$5\r\nhello\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
        b"SET a \"b\\x41\" 'c'\r\nPING\r\n\r\n*0\r\n",
        b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$10\r\n0123456789\r\n",
    ];
    let rules = Rules { bulk_bytes_max: 1000, value_bytes_max: 100, request_bytes_max: 200, ..RULES };
    let mut round = 0u64;
    while round < 3000 || end.is_some_and(|end| Instant::now() < end) {
        let mut random = fastrand::Rng::with_seed(round);
        let mut bytes = seeds[random.usize(..seeds.len())].repeat(random.usize(1..4));
        for _ in 0..random.usize(..6) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes.insert(at, *random.choice(b"*$\r\n0192-\"'\\ ").unwrap_or(&b'*')),
                2 if bytes.len() > 1 => {
                    bytes.remove(at);
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        let (whole, parser) = parse_pieces([bytes.as_slice()], &rules);
        assert!(parser.capacity() <= READ_BYTES_MAX, "seed {round}");
        let mut pieces = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(random.usize(1..=rest.len().min(20)));
            pieces.push(piece);
            rest = tail;
        }
        assert_eq!(parse_pieces(pieces, &rules).0, whole, "seed {round}");
        round += 1;
    }
}
