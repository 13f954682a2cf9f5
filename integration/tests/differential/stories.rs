//! Stories from `stories.txt`, each on empty databases, over RESP2 and RESP3.

use crate::servers::{Agreement, Difference, Servers};

const STORIES: &str = include_str!("stories.txt");

/// One line of a story.
struct Step {
    line: usize,
    connection: usize,
    agreement: Agreement,
    command: Vec<Vec<u8>>,
}

#[test]
fn every_story_gives_the_replies_of_redis() {
    let servers = Servers::start();
    let mut found = Vec::new();
    for protocol in [2, 3] {
        for story in stories(STORIES) {
            servers.clear();
            let mut connections = [servers.connect(protocol), servers.connect(protocol)];
            for step in &story {
                if let Err(Difference { command, redis, forebay }) =
                    connections[step.connection].compare(&step.command, step.agreement)
                {
                    found.push(format!(
                        "stories.txt:{} RESP{protocol} {command}\n    redis   {redis}\n    forebay {forebay}",
                        step.line
                    ));
                }
            }
        }
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    servers.finish();
}

/// Paragraphs of the text; lines that begin with `#` are comments.
fn stories(text: &str) -> Vec<Vec<Step>> {
    let mut all = vec![Vec::new()];
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() {
            all.push(Vec::new());
        } else if !line.starts_with('#')
            && let Some(story) = all.last_mut()
        {
            story.push(step(number + 1, line));
        }
    }
    all.retain(|story| !story.is_empty());
    all
}

/// `2>` runs on the second connection; then `kind`, `near` or `any` in brackets loosens the comparison.
fn step(number: usize, line: &str) -> Step {
    let (connection, rest) = line.strip_prefix("2> ").map_or((0, line), |rest| (1, rest));
    let (agreement, rest) =
        [("[kind] ", Agreement::Kind), ("[near] ", Agreement::Near), ("[any] ", Agreement::AnyOrder)]
            .into_iter()
            .find_map(|(mark, agreement)| Some((agreement, rest.strip_prefix(mark)?)))
            .unwrap_or((Agreement::Exact, rest));
    Step { line: number, connection, agreement, command: words(rest) }
}

/// Words divided by blanks; in double quotes `\n`, `\r`, `\xHH`, `\"` and `\\` are understood, and `@N*c`
/// stands for N times the character c.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut bytes = line.bytes().peekable();
    while let Some(first) = bytes.next() {
        let mut word = Vec::new();
        match first {
            b' ' => continue,
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => word.push(escape(&mut bytes)),
                        other => word.push(other),
                    }
                }
            }
            other => {
                word.push(other);
                while let Some(byte) = bytes.next_if(|byte| *byte != b' ') {
                    word.push(byte);
                }
            }
        }
        words.push(repeated(&word).unwrap_or(word));
    }
    words
}

fn escape(bytes: &mut impl Iterator<Item = u8>) -> u8 {
    match bytes.next() {
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b'x') => {
            let digits: Vec<u8> = bytes.take(2).collect();
            hex::decode(digits).expect("two hex digits")[0]
        }
        Some(other) => other,
        None => panic!("a lonely backslash"),
    }
}

fn repeated(word: &[u8]) -> Option<Vec<u8>> {
    let (count, character) = std::str::from_utf8(word).ok()?.strip_prefix('@')?.split_once('*')?;
    Some(character.repeat(count.parse().ok()?).into_bytes())
}

#[test]
fn the_text_is_read_as_written() {
    let all = stories("# a\nSET k \"a\\x00\\\"b\"\n\n2> [near] TTL k\nGET @3*x");
    assert_eq!(all.len(), 2);
    assert_eq!(all[0][0].command, [b"SET".to_vec(), b"k".to_vec(), b"a\x00\"b".to_vec()]);
    assert_eq!((all[1][0].connection, all[1][0].agreement), (1, Agreement::Near));
    assert_eq!(all[1][1].command[1], b"xxx");
}
