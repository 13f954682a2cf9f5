//! How a key becomes a path: readable, reversible, and so that `a`, `a/` and `a/b` stand beside each other.
//!
//! A key is cut at its slashes; each piece is a name, the last one a file's. Most names are the piece
//! itself. `%` marks the rest, and never stands for itself:
//!
//! | in a key | in a path |
//! |---|---|
//! | `%`, control characters | `%25`, `%00` to `%1F`, `%7F` |
//! | an empty piece (`a/`, `a//b`) | `%_` |
//! | the pieces `.` and `..`, a first piece `.forebay` | `%2E`, `%2E.`, `%2Eforebay` |
//! | a piece of more than 200 bytes | directories that end in `%-`, and the rest in the last of them |
//! | `a` where `a/…` exists too | the file `a%~` beside the directory `a` |
//!
//! Names that no key has (somebody else's `100%`, symbolic links) are not listed.

use std::ffi::OsStr;
use std::path::PathBuf;

/// Longest name of a piece, in bytes; file systems take 255, and a mark follows.
const PIECE_BYTES_MAX: usize = 200;
/// Marks an empty piece.
const EMPTY: &str = "%_";
/// Ends the name of a directory that holds the rest of a piece.
const GOES_ON: &str = "%-";
/// Ends the name of a file whose place a directory has.
pub(super) const ASIDE: &str = "%~";
/// The directory that is ours.
pub(super) const OWN: &str = ".forebay";

/// The path of a key's file below the root, where no directory has its place.
pub(super) fn path_of(key: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for (at, piece) in key.split('/').enumerate() {
        let mut rest = escaped(piece, at == 0);
        while rest.len() > PIECE_BYTES_MAX {
            let cut = cut_of(&rest);
            path.push(format!("{}{GOES_ON}", &rest[..cut]));
            rest.drain(..cut);
        }
        // What a cut has left may be a name that means something else.
        path.push(match rest.as_str() {
            "." | ".." => escaped(&rest, false),
            _ => rest,
        });
    }
    path
}

/// What a name in a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// A piece, or its last part.
    Piece(String),
    /// The part of a piece whose rest lies below.
    GoesOn(String),
    /// A file set aside for a directory.
    Aside(String),
}

/// Reads a name back; `None` if no key has it. `first`: directly below the root.
pub(super) fn named(name: &OsStr, first: bool) -> Option<Named> {
    let name = name.to_str()?;
    if let Some(text) = name.strip_suffix(GOES_ON) {
        return Some(Named::GoesOn(unescaped(text)?));
    }
    let (text, aside) = match name.strip_suffix(ASIDE) {
        Some(text) => (text, true),
        None => (name, false),
    };
    let piece = if text == EMPTY { String::new() } else { unescaped(text)? };
    // The last part of a long piece is not escaped as a whole piece would be.
    let canonical =
        escaped(&piece, first) == text || (!first && !piece.is_empty() && escape_marks(&piece) == text);
    match canonical {
        true if aside => Some(Named::Aside(piece)),
        true => Some(Named::Piece(piece)),
        false => None,
    }
}

fn escaped(piece: &str, first: bool) -> String {
    match piece {
        "" => EMPTY.to_owned(),
        "." => "%2E".to_owned(),
        ".." => "%2E.".to_owned(),
        OWN if first => format!("%2E{}", &OWN[1..]),
        _ => escape_marks(piece),
    }
}

fn escape_marks(piece: &str) -> String {
    let mut out = String::with_capacity(piece.len());
    for c in piece.chars() {
        match c {
            '%' | '\0'..='\x1f' | '\x7f' => out.push_str(&format!("%{:02X}", c as u32)),
            _ => out.push(c),
        }
    }
    out
}

fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3)?;
        out.push(char::from(u8::from_str_radix(digits, 16).ok().filter(u8::is_ascii)?));
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

/// Where a long piece is cut: between two characters, not inside an escape.
fn cut_of(text: &str) -> usize {
    let mut cut = 0;
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        if end > PIECE_BYTES_MAX {
            break;
        }
        // An escape is a mark and two digits.
        let inside = text[..end].rfind('%').is_some_and(|mark| end < mark + 3);
        if !inside {
            cut = end;
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// The key of a path, as a walk puts it together.
    fn key_of(path: &std::path::Path) -> Option<String> {
        let names: Vec<_> = path.iter().collect();
        let mut key = String::new();
        let mut first = true;
        for (at, name) in names.iter().enumerate() {
            match named(name, first)? {
                Named::Piece(piece) if at + 1 < names.len() => key.push_str(&(piece + "/")),
                Named::Piece(piece) | Named::Aside(piece) | Named::GoesOn(piece) => key.push_str(&piece),
            }
            first = false;
        }
        Some(key)
    }

    #[test]
    fn most_keys_look_as_they_are() {
        for key in ["a", "photos/2026/grün.jpg", ".hidden", "a b/c+d", "x/.forebay/y", "100"] {
            assert_eq!(path_of(key).to_str(), Some(key));
        }
        let cases = [("a/", "a/%_"), ("/", "%_/%_"), ("", "%_"), ("..", "%2E."), ("a/../b", "a/%2E./b")];
        for (key, path) in cases {
            assert_eq!(path_of(key).to_str(), Some(path));
        }
        assert_eq!(path_of(".forebay/x").to_str(), Some("%2Eforebay/x"));
        assert_eq!(path_of("100%").to_str(), Some("100%25"));
    }

    #[test]
    fn nobody_elses_names_are_taken_for_keys() {
        for name in ["100%", "%", "%zz", "a%7", "%41", "%2e", "%C3%BC", "a%_"] {
            assert_eq!(named(OsStr::new(name), false), None, "{name}");
        }
        assert_eq!(named(OsStr::new(".forebay"), true), None);
    }

    #[test]
    fn all_short_keys_over_a_nasty_alphabet_have_paths_of_their_own() {
        let mut seen = HashMap::new();
        let alphabet = ["a", "/", ".", "%", "~", "-", "_", "2", "\0", "E"];
        let mut keys = vec![String::new()];
        for _ in 0..5 {
            let longer: Vec<String> =
                keys.iter().flat_map(|key| alphabet.map(|letter| format!("{key}{letter}"))).collect();
            for key in &longer {
                let path = path_of(key);
                assert!(
                    path.is_relative() && !path.iter().any(|name| name == ".." || name == OWN),
                    "{path:?}"
                );
                assert_eq!(key_of(&path).as_ref(), Some(key), "{path:?}");
                assert_eq!(seen.insert(path, key.clone()), None, "{key:?}");
            }
            keys = longer;
        }
    }

    #[test]
    fn what_is_left_of_a_long_piece_is_never_a_step_up_or_nothing() {
        for rest in [".", "..", "...", "./", "../b"] {
            let key = format!("{}{rest}", "x".repeat(PIECE_BYTES_MAX));
            let path = path_of(&key);
            assert!(
                path.components().all(|part| matches!(part, std::path::Component::Normal(_))),
                "{path:?}"
            );
            assert_eq!(key_of(&path), Some(key), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn long_keys_come_back_and_no_name_is_too_long(key in "[a%/.\u{7f}ü\u{F7E9}-]{0,1024}") {
            let path = path_of(&key);
            prop_assert!(path.iter().all(|name| name.len() <= 240));
            prop_assert_eq!(key_of(&path), Some(key));
        }
    }
}
