//! Which mount a key lies under, and how its key and its origin's key say the same.
//!
//! A picture of the recorded mounts, drawn anew whenever they change, so that a look at it needs no lock. The mount
//! with the longest prefix has a key, whatever its mode: a local one, or one that is being forgotten, hides those
//! above.

use std::sync::Arc;

use bytes::Bytes;

use crate::flush::origin_key;
use crate::keyspace::tables::MountRow;
use crate::log_limit::LogLimit;
use crate::object::{BucketId, KEY_BYTES_MAX};
use crate::object_name::{decode_key, encode_key};
use crate::origin::{Origin, OriginKey, PROBE_NAME};

/// The last character that a name may have.
const LAST_CHAR: char = '\u{10FFFF}';

/// One recorded mount.
#[derive(Debug, Clone)]
pub(crate) struct Covered {
    pub(crate) mount: u32,
    pub(crate) bucket: BucketId,
    pub(crate) prefix: Box<[u8]>,
    /// Whether a key without a row may be an object of its origin.
    pub(crate) looks_up: bool,
    /// Whether the origin was reached since the mount was recorded.
    pub(crate) attached: bool,
    /// Whether foreign changes are looked for.
    pub(crate) revalidate: bool,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Cover {
    /// The longest prefix first.
    mounts: Vec<Covered>,
}

impl Cover {
    pub(crate) fn of(rows: &[(u32, MountRow)]) -> Cover {
        let covered = |(mount, row): &(u32, MountRow)| Covered {
            mount: *mount,
            bucket: row.bucket,
            prefix: row.prefix.clone(),
            looks_up: row.looks_up(),
            attached: row.attached,
            revalidate: row.revalidate,
        };
        let mut mounts: Vec<Covered> = rows.iter().map(covered).collect();
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.prefix.len()));
        Cover { mounts }
    }

    /// A mount by its number.
    pub(crate) fn by_number(&self, mount: u32) -> Option<&Covered> {
        self.mounts.iter().find(|it| it.mount == mount)
    }

    /// The mount that has the key, of any mode.
    pub(crate) fn owner(&self, bucket: BucketId, key: &[u8]) -> Option<&Covered> {
        self.mounts.iter().find(|mount| mount.bucket == bucket && key.starts_with(&mount.prefix))
    }

    /// The mount that has the key, if it looks up.
    pub(crate) fn looking(&self, bucket: BucketId, key: &[u8]) -> Option<&Covered> {
        self.owner(bucket, key).filter(|mount| mount.looks_up)
    }

    /// The mounts that look up and may have keys that begin with `prefix`.
    pub(crate) fn within<'a>(
        &'a self,
        bucket: BucketId,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = &'a Covered> + 'a {
        let above = self.owner(bucket, prefix).map(|mount| mount.mount);
        let below =
            move |mount: &&Covered| mount.prefix.len() > prefix.len() && mount.prefix.starts_with(prefix);
        let of = self.mounts.iter().filter(move |mount| mount.bucket == bucket && mount.looks_up);
        of.filter(move |mount| Some(mount.mount) == above || below(mount))
    }

    /// Whether a mount other than `mount` has keys that begin with `prefix`, which is `mount`'s.
    pub(crate) fn is_shared(&self, bucket: BucketId, prefix: &[u8], mount: u32) -> bool {
        let below = |other: &&Covered| other.prefix.len() > prefix.len() && other.prefix.starts_with(prefix);
        let mut others = self.mounts.iter().filter(|other| other.bucket == bucket && other.mount != mount);
        others.any(|other| below(&other))
    }
}

/// A mount's origin, and where in it the mount's keys are.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) origin: Arc<dyn Origin>,
    pub(crate) key_prefix: Bytes,
    pub(crate) origin_prefix: String,
    /// For lines about the origin's trouble, of which an outage has one for each key.
    pub(crate) log_limit: Arc<LogLimit>,
}

impl Reach {
    /// Where the origin has a key of the mount. `None`: nowhere, for the name would be too long, or be none.
    pub(crate) fn name(&self, key: &[u8]) -> Option<OriginKey> {
        let name = origin_key(&self.origin_prefix, key.strip_prefix(&*self.key_prefix)?);
        (!key.is_empty() && name.0.len() <= OriginKey::BYTES_MAX).then_some(name)
    }

    /// The key of what the origin has there. `None`: it is no key's, or left over from a probe.
    pub(crate) fn key(&self, name: &str) -> Option<Bytes> {
        let rest = name.strip_prefix(self.origin_prefix.as_str())?;
        let key = [&self.key_prefix[..], &decode_key(rest)?].concat();
        let is_one = !key.is_empty() && key.len() <= KEY_BYTES_MAX && !rest.starts_with(PROBE_NAME);
        is_one.then(|| Bytes::from(key))
    }

    /// Whether the name is not the key itself, so that it stands elsewhere in the order of names than the key in
    /// that of keys.
    pub(crate) fn is_escaped(&self, name: &str) -> bool {
        let rest = name.strip_prefix(self.origin_prefix.as_str()).unwrap_or_default();
        encode_key(rest.as_bytes()) != rest
    }

    /// The names of all keys of the mount that begin with `prefix` begin with the first; the second says whether
    /// all keys whose names do are meant.
    pub(crate) fn name_prefix(&self, prefix: &[u8]) -> (String, bool) {
        let rest = prefix.strip_prefix(&*self.key_prefix).unwrap_or_default();
        let plain = plain_beginning(rest);
        (format!("{}{plain}", self.origin_prefix), plain.len() == rest.len())
    }

    /// A name that is before those of all keys behind `key` (but escaped ones), and behind most of the others. `None`
    /// if `key` lies before all of the mount's.
    pub(crate) fn name_after(&self, key: &[u8]) -> Option<String> {
        match key.strip_prefix(&*self.key_prefix) {
            Some(rest) => {
                let room = OriginKey::BYTES_MAX.saturating_sub(self.origin_prefix.len());
                Some(format!("{}{}", self.origin_prefix, floor(rest, room)))
            }
            None if *key < *self.key_prefix => None,
            None => Some(format!("{}{}", self.origin_prefix, last_under("", OriginKey::BYTES_MAX))),
        }
    }
}

/// The longest beginning that is its own name.
fn plain_beginning(key: &[u8]) -> &str {
    let text = key.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let end = text
        .char_indices()
        .find(|(_, c)| encode_key(c.encode_utf8(&mut [0; 4]).as_bytes()).len() > c.len_utf8());
    end.map_or(text, |(at, _)| &text[..at])
}

/// A text of at most `room` bytes (where `key` has no more) that is not above `key`, with few texts between them.
fn floor(key: &[u8], room: usize) -> String {
    let chunk = key.utf8_chunks().next();
    let text = chunk.as_ref().map_or("", |chunk| chunk.valid());
    let rest = &key[text.len()..];
    if rest.is_empty() {
        return text.to_owned();
    }
    // The last character whose bytes are below what is not UTF-8.
    let below = |number: u32| {
        let mut bytes = [0; 4];
        // Surrogates stand between two characters; as the one below them they are in order.
        let character = char::from_u32(number).unwrap_or('\u{D7FF}');
        character.encode_utf8(&mut bytes).as_bytes() < rest
    };
    let (mut low, mut high) = (0, LAST_CHAR as u32 + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if below(middle) { low = middle } else { high = middle }
    }
    // What begins with that character is below too.
    last_under(&format!("{text}{}", char::from_u32(low).unwrap_or('\u{D7FF}')), room)
}

/// Behind all but a few of the names that begin with `prefix`, and before those behind them.
fn last_under(prefix: &str, room: usize) -> String {
    let mut name = prefix.to_owned();
    while name.len() + LAST_CHAR.len_utf8() <= room {
        name.push(LAST_CHAR);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::memory::MemoryOrigin;

    fn reach(key_prefix: &str, origin_prefix: &str) -> Reach {
        Reach {
            origin: Arc::new(MemoryOrigin::capable()),
            key_prefix: Bytes::copy_from_slice(key_prefix.as_bytes()),
            origin_prefix: origin_prefix.to_owned(),
            log_limit: Arc::default(),
        }
    }

    fn mount(mount: u32, prefix: &str, looks_up: bool) -> (u32, MountRow) {
        let row = MountRow {
            bucket: BucketId(1),
            local: !looks_up,
            flushall: false,
            attached: true,
            leaving: false,
            uncovered: false,
            read_only: false,
            write_through: false,
            existing: true,
            revalidate: false,
            prefix: Box::from(prefix.as_bytes()),
            origin: String::new(),
            origin_prefix: String::new(),
        };
        (mount, row)
    }

    #[test]
    fn the_longest_prefix_has_a_key_and_hides_those_above() {
        let cover = Cover::of(&[mount(1, "", true), mount(2, "a/", false), mount(3, "a/b/", true)]);
        let looking = |key: &str| cover.looking(BucketId(1), key.as_bytes()).map(|mount| mount.mount);
        assert_eq!(
            [looking("x"), looking("a"), looking("a/x"), looking("a/b/x")],
            [Some(1), Some(1), None, Some(3)]
        );
        assert!(cover.looking(BucketId(2), b"x").is_none());
        let within = |prefix: &str| {
            let mut numbers: Vec<u32> =
                cover.within(BucketId(1), prefix.as_bytes()).map(|mount| mount.mount).collect();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(
            (within(""), within("a"), within("a/"), within("a/b/c")),
            (vec![1, 3], vec![1, 3], vec![3], vec![3])
        );
        assert_eq!(within("x"), [1]);
        assert!(cover.is_shared(BucketId(1), b"a", 1) && !cover.is_shared(BucketId(1), b"b", 1));
    }

    #[test]
    fn names_and_keys_say_the_same() {
        let reach = reach("data/", "o/");
        let both = |key: &[u8], name: &str| {
            assert_eq!(reach.name(key), Some(OriginKey(name.to_owned())));
            assert_eq!(reach.key(name).as_deref(), Some(key));
        };
        both(b"data/x", "o/x");
        both(b"data/", "o/");
        both(b"data/caf\xE9", "o/caf\u{F7E9}");
        for none in ["x", "o/.forebay-probe-01", "o/\u{F7C3}\u{F7A9}"] {
            assert_eq!(reach.key(none), None, "{none}");
        }
        assert_eq!(reach.name(&[b"data/", &[b'x'; 1000][..], &[0xFF; 19]].concat()), None, "too long");
        assert_eq!(super::tests::reach("", "o/").key("o/"), None, "a folder's mark is not the empty key");
        assert!(reach.is_escaped("o/caf\u{F7E9}") && !reach.is_escaped("o/grün"));
    }

    #[test]
    fn a_prefix_that_ends_inside_a_character_is_asked_for_without_it() {
        let reach = reach("d/", "o/");
        assert_eq!(reach.name_prefix(b"d/gr\xC3"), ("o/gr".to_owned(), false));
        assert_eq!(reach.name_prefix("d/grü".as_bytes()), ("o/grü".to_owned(), true));
        assert_eq!(reach.name_prefix("d/x\u{F780}y".as_bytes()), ("o/x".to_owned(), false));
        assert_eq!(reach.name_prefix(b"d"), ("o/".to_owned(), true), "the mount lies below it");
    }

    #[test]
    fn no_name_behind_a_key_is_left_out() {
        let reach = reach("", "");
        let texts =
            ["", "a", "a/", "a/b", "az", "b", "é", "a\u{7F}", "a\u{80}", "a\u{7FF}", "a\u{800}", "a\u{D7FF}"];
        let more = ["a\u{E000}", "a\u{FFFF}", "a\u{10000}", "a\u{10FFFF}", "a\u{10FFFF}z", "\u{10FFFF}"];
        let keys: [&[u8]; 12] = [
            b"a",
            b"a\x80",
            b"a\xC2",
            b"a\xC3\x28",
            b"a\xE0\xA0",
            b"a\xED\xA0\x80",
            b"a\xF4\x90",
            b"a\xFF",
            b"\xFF",
            b"a/\xFF\xFF\xFF",
            b"a\xC2\x80",
            b"a\xEF\xBF",
        ];
        for key in keys {
            let after = reach.name_after(key).unwrap();
            assert!(after.as_bytes() <= key, "{key:02x?}");
            for text in texts.into_iter().chain(more) {
                let is_behind = text.as_bytes() > key;
                assert_eq!(text > after.as_str(), is_behind, "{text:?} and {key:02x?}: {after:?}");
            }
        }
        let under = super::tests::reach("m/", "o/");
        assert_eq!(under.name_after(b"a"), None);
        assert!(under.name_after(b"z").unwrap().as_str() > "o/zzz");
        assert_eq!(under.name_after(b"m/k").as_deref(), Some("o/k"));
    }
}
