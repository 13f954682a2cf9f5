//! How a key that is not UTF-8 is named where only UTF-8 can be said: through S3 and in the origin.
//!
//! Owns the mapping from key bytes to names and back. Knows nothing of buckets, prefixes or lengths.
//!
//! A key that is valid UTF-8 is its own name. Every byte that is not part of valid UTF-8 becomes one
//! character of the private use range U+F780..=U+F7FF: byte `0xNN` is U+F7NN (such bytes are always
//! `0x80` or above). So `caf\xE9` is named `caf\u{F7E9}`. A character of that range which really stands
//! in a key would be ambiguous; its three bytes are escaped in the same way, one character each.
//!
//! What must hold: two different keys never share a name, and every name that [`encode_key`] makes
//! decodes to its key. A name that no key encodes to (the escapes of a whole UTF-8 character) is refused
//! by [`decode_key`], so that no object has two names.
//!
//! Costs, documented for users: an escaped byte takes three bytes of the origin's 1,024. And since the
//! order of listings is the order of the *keys*, names with escapes may stand elsewhere than their own
//! bytes say: U+F7FF sorts before U+10000, the byte `0xFF` after it. Pagination goes by key, so no name
//! is skipped or repeated; only a client that merges listings of a bucket with such keys by name must
//! sort them itself. The origin lists by name.

use std::borrow::Cow;

const ESCAPES: std::ops::RangeInclusive<char> = '\u{F780}'..='\u{F7FF}';
const ESCAPE_BASE: u32 = 0xF700;

/// The name of a key. Allocates only for keys that need an escape.
pub fn encode_key(key: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(key)
        && !text.contains(is_escape)
    {
        return Cow::Borrowed(text);
    }
    let mut name = String::with_capacity(key.len() + 16);
    for chunk in key.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_escape(character) {
                let mut bytes = [0; 4];
                character.encode_utf8(&mut bytes).bytes().for_each(|byte| name.push(escape(byte)));
            } else {
                name.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| name.push(escape(*byte)));
    }
    Cow::Owned(name)
}

/// The key of a name; `None` for a name that [`encode_key`] never makes.
pub fn decode_key(name: &str) -> Option<Cow<'_, [u8]>> {
    if !name.contains(is_escape) {
        return Some(Cow::Borrowed(name.as_bytes()));
    }
    let mut key = Vec::with_capacity(name.len());
    for character in name.chars() {
        if is_escape(character) {
            key.push((character as u32 - ESCAPE_BASE) as u8);
        } else {
            let mut bytes = [0; 4];
            key.extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
        }
    }
    let canonical = encode_key(&key) == name;
    canonical.then_some(Cow::Owned(key))
}

fn is_escape(character: char) -> bool {
    ESCAPES.contains(&character)
}

fn escape(byte: u8) -> char {
    debug_assert!(byte >= 0x80, "ASCII byte {byte:#x} is never escaped");
    char::from_u32(ESCAPE_BASE + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn utf8_keys_are_their_own_names() {
        for key in ["", "a", "a/", "a//b", "grün", "\u{0}\n", "\u{10FFFF}", "%FF", "\u{F77F}\u{F800}"] {
            assert_eq!(encode_key(key.as_bytes()), key);
            assert_eq!(decode_key(key).as_deref(), Some(key.as_bytes()));
        }
    }

    #[test]
    fn golden_names_of_other_keys() {
        let cases: [(&[u8], &str); 4] = [
            (b"caf\xE9", "caf\u{F7E9}"),
            (b"\xFF", "\u{F7FF}"),
            (b"\xE2\x82", "\u{F7E2}\u{F782}"),
            // U+F780 itself, as a client may really have written it.
            (b"\xEF\x9E\x80", "\u{F7EF}\u{F79E}\u{F780}"),
        ];
        for (key, name) in cases {
            assert_eq!(encode_key(key), name);
            assert_eq!(decode_key(name).as_deref(), Some(key));
        }
    }

    #[test]
    fn a_second_name_for_a_utf8_key_is_refused() {
        assert_eq!(decode_key("\u{F7C3}\u{F7A9}"), None, "the escapes of é");
        assert_eq!(decode_key("a\u{F7E2}\u{F782}\u{F7AC}"), None, "the escapes of €");
    }

    #[test]
    fn all_short_keys_over_a_nasty_alphabet_have_distinct_names() {
        let alphabet = [b'a', 0x80, 0x9E, 0x9F, 0xBF, 0xC3, 0xE2, 0xEF, 0xF0, 0xFF];
        let mut keys = vec![Vec::new()];
        let mut names = HashMap::new();
        for _ in 0..4 {
            keys = keys
                .iter()
                .flat_map(|key: &Vec<u8>| alphabet.map(|byte| [key.as_slice(), &[byte]].concat()))
                .collect();
            for key in &keys {
                let name = encode_key(key).into_owned();
                assert_eq!(decode_key(&name).map(Cow::into_owned), Some(key.clone()));
                assert_eq!(names.insert(name, key.clone()), None, "{key:02x?}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_key_returns_from_its_name(key in proptest::collection::vec(any::<u8>(), 0..64)) {
            let name = encode_key(&key).into_owned();
            prop_assert_eq!(decode_key(&name).map(Cow::into_owned), Some(key));
        }

        #[test]
        fn a_name_that_decodes_is_the_name_of_that_key(name in "[a\u{80}-\u{FF}\u{F780}-\u{F7FF}]{0,12}") {
            if let Some(key) = decode_key(&name) {
                let encoded = encode_key(&key).into_owned();
                prop_assert_eq!(encoded, name.clone());
            }
        }
    }
}
