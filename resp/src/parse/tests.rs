use std::time::{Duration, Instant};

use proptest::prelude::*;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::BytesFrame;

use super::*;

const RULES: Rules = Rules {
    authenticated: true,
    bulk_bytes_max: 512 * 1024 * 1024,
    inline_bytes_max: 64 * 1024,
    request_bytes_max: 1024 * 1024,
};

/// What came out, with arguments copied.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Request(Vec<Vec<u8>>),
    Dropped(u64),
    /// A long argument, taken: those before it, how many there are in all, its bytes.
    Long(Vec<Vec<u8>>, usize, Vec<u8>),
    Error(ProtocolError),
}

/// Feeds a parser, and takes long arguments as a connection does.
struct Feeder {
    parser: Parser,
    events: Vec<Event>,
    /// The long argument under way, with what has come of it.
    long: Option<(LongArgument, Vec<u8>)>,
    /// What is kept of long arguments.
    kept: Option<usize>,
}

impl Feeder {
    fn copied(&self, request: Range<usize>) -> Vec<Vec<u8>> {
        self.parser.args(request).iter().map(<[u8]>::to_vec).collect()
    }

    /// Takes what comes of a long argument by itself; returns the rest.
    fn feed_long<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let Some((_, bytes)) = &mut self.long else { return piece };
        let (own, rest) = piece.split_at(piece.len().min(self.parser.long_left() as usize));
        bytes.extend_from_slice(own);
        self.parser.long_taken(own.len() as u64);
        self.end_long();
        rest
    }

    fn end_long(&mut self) {
        if self.parser.long_left() > 0 {
            return;
        }
        let Some((long, mut bytes)) = self.long.take() else { return };
        bytes.truncate(long.len as usize);
        let before = self.copied(long.before);
        self.parser.end_long(self.kept.map(|kept| &bytes[..kept]));
        self.events.push(Event::Long(before, long.count, bytes));
    }
}

/// Feeds the pieces one after the other, as reads would bring them, and takes all that can be parsed after each.
fn parse_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, rules: &Rules) -> (Vec<Event>, Parser) {
    parse_keeping(None, pieces, rules)
}

/// Feeds the pieces; of long arguments the first `kept` bytes are put in their place.
fn parse_keeping<'a>(
    kept: Option<usize>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    rules: &Rules,
) -> (Vec<Event>, Parser) {
    let mut feeder = Feeder { parser: Parser::new(), events: Vec::new(), long: None, kept };
    for mut piece in pieces {
        loop {
            piece = feeder.feed_long(piece);
            // A long argument may end with the piece, and more be there behind it.
            let fed = !piece.is_empty() && feeder.long.is_none();
            if fed {
                let room = feeder.parser.make_room();
                let taken = piece.len().min(room.len());
                room[..taken].copy_from_slice(&piece[..taken]);
                feeder.parser.filled(taken);
                piece = &piece[taken..];
            }
            while feeder.long.is_none() {
                match feeder.parser.next(rules) {
                    Ok(Parsed::Incomplete) => break,
                    Ok(Parsed::Request(request)) => {
                        let args = feeder.copied(request);
                        feeder.events.push(Event::Request(args));
                    }
                    Ok(Parsed::Long(long)) => {
                        let bytes = feeder.parser.long_buffered().to_vec();
                        feeder.parser.forget_long();
                        feeder.long = Some((long, bytes));
                        feeder.end_long();
                    }
                    Ok(Parsed::Dropped(limit)) => feeder.events.push(Event::Dropped(limit)),
                    Err(error) => {
                        feeder.events.push(Event::Error(error));
                        return (feeder.events, feeder.parser);
                    }
                }
            }
            if piece.is_empty() {
                break;
            }
        }
    }
    (feeder.events, feeder.parser)
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

/// `MSET` of a long value between short ones and another long one at the end, and PING behind.
fn long_request(len: usize) -> (Vec<u8>, Vec<Event>) {
    let body: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    let args: [&[u8]; 7] = [b"MSET", b"a", &body, b"b", b"2", b"c", &body];
    let mut bytes = b"*7\r\n".to_vec();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"PING\r\n");
    let copied = |args: &[&[u8]]| args.iter().map(|arg| arg.to_vec()).collect::<Vec<_>>();
    let before: [&[u8]; 6] = [b"MSET", b"a", b"", b"b", b"2", b"c"];
    let events = vec![
        Event::Long(copied(&before[..2]), 7, body.clone()),
        Event::Long(copied(&before), 7, body.clone()),
        Event::Request(copied(&[b"MSET", b"a", b"", b"b", b"2", b"c", b""])),
        request(&["PING"]),
    ];
    (bytes, events)
}

#[test]
fn long_arguments_pass_by_the_buffer_at_every_split() {
    let rules = Rules { inline_bytes_max: 60, ..RULES };
    let (bytes, expected) = long_request(61);
    for split in 1..bytes.len() {
        let (head, tail) = bytes.split_at(split);
        assert_eq!(parse_pieces([head, tail], &rules).0, expected, "split at {split}");
    }
    assert_eq!(parse_pieces(bytes.chunks(1), &rules).0, expected, "byte by byte");
    let (bytes, _) = long_request(60);
    let events = parse_pieces([&bytes[..]], &rules).0;
    assert!(matches!(&events[..], [Event::Request(args), _] if args[2].len() == 60), "{events:?}");
}

#[test]
fn long_arguments_are_told_apart_from_empty_ones_and_leave_no_byte() {
    let (bytes, expected) = long_request(300_000);
    for piece in [1000, 70_001, bytes.len()] {
        let (events, parser) = parse_pieces(bytes.chunks(piece), &RULES);
        assert!(events == expected, "in pieces of {piece}");
        assert!(parser.capacity() <= READ_BYTES_MAX, "{} bytes were buffered", parser.capacity());
    }
    let mut parser = Parser::new();
    let head = b"*3\r\n$0\r\n\r\n$3000000\r\n";
    parser.make_room()[..head.len()].copy_from_slice(head);
    parser.filled(head.len());
    let Ok(Parsed::Long(long)) = parser.next(&RULES) else { panic!("a long argument") };
    assert_eq!((long.before.len(), long.count, long.len), (1, 3, 3_000_000));
    parser.long_taken(3_000_002);
    parser.end_long(None);
    parser.make_room()[..6].copy_from_slice(b"$0\r\n\r\n");
    parser.filled(6);
    let Ok(Parsed::Request(request)) = parser.next(&RULES) else { panic!("a request") };
    let args = parser.args(request);
    assert_eq!([0, 1, 2].map(|place| args.is_long(place)), [false, true, false]);
}

#[test]
fn what_is_kept_of_a_long_argument_stands_in_its_place() {
    let rules = Rules { inline_bytes_max: 60, ..RULES };
    let (bytes, _) = long_request(100);
    for piece in [1, 7, 130, bytes.len()] {
        let (events, _) = parse_keeping(Some(10), bytes.chunks(piece), &rules);
        let Some(Event::Request(args)) = events.get(2) else { panic!("{events:?}") };
        let kept: Vec<u8> = (0..10).collect();
        assert_eq!([&args[2], &args[4], &args[6]], [&kept, &b"2".to_vec(), &kept], "in pieces of {piece}");
        assert_eq!(events[3], request(&["PING"]));
    }
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
    assert_eq!(events, [Event::Dropped(limit), request(&["PING"])]);
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
    let rules = Rules { bulk_bytes_max: 1000, inline_bytes_max: 100, request_bytes_max: 200, ..RULES };
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
