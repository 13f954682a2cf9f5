//! Which keys a command depends on. Under a mount over data that was there before, these must be known, by a
//! look-up in the origin, before the command is planned.
//!
//! A command that is filed wrongly here would take a foreign object for absent, so a command with keys depends on
//! all of them unless the table says less.

use smallvec::SmallVec;

use super::args::Args;
use super::{Command, Flags};

/// What a command has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing: it works on no key, or replaces or removes whatever is there.
    Nothing,
    /// All of its keys.
    Keys,
    /// Its key, and what it holds, if that may be a number (INCR).
    Number,
    /// The first of its keys; the others are replaced (RENAME).
    First,
    /// Its key, if an option asks for what is there (SET).
    Options,
    /// The first of its keys, and the second unless it says REPLACE (COPY).
    Copy,
    /// The keys of a stretch, which it lists itself (SCAN).
    Listing,
}

/// Places of the keys that a request depends on.
pub(crate) type KnownKeys = SmallVec<[usize; 4]>;

impl Command {
    /// Places of the keys that a request of this command depends on.
    pub(crate) fn known_keys(&self, args: Args<'_>) -> KnownKeys {
        let keys = self.keys.of(args.len());
        match self.known {
            Known::Nothing | Known::Listing => KnownKeys::new(),
            Known::Keys | Known::Number => keys.collect(),
            Known::First => keys.take(1).collect(),
            Known::Options if set_depends_on_key(args) => keys.collect(),
            Known::Options => KnownKeys::new(),
            Known::Copy if (3..args.len()).any(|option| args.is(option, "replace")) => keys.take(1).collect(),
            Known::Copy => keys.collect(),
        }
    }
}

impl Command {
    /// Places of the keys whose values it returns.
    pub(crate) fn value_keys(&self, args: Args<'_>) -> KnownKeys {
        let returns = self.flags.has(Flags::RETURNS_VALUE)
            && (self.known != Known::Options || (3..args.len()).any(|option| args.is(option, "get")));
        if returns { self.keys.of(args.len()).collect() } else { KnownKeys::new() }
    }
}

fn set_depends_on_key(args: Args<'_>) -> bool {
    (3..args.len()).any(|option| ["nx", "xx", "get"].iter().any(|word| args.is(option, word)))
}

#[cfg(test)]
mod tests {
    use super::super::{COMMANDS, find_name};
    use super::*;
    use crate::parse::Span;

    fn known(request: &str) -> Vec<usize> {
        let mut spans = Vec::new();
        let mut at = 0;
        for word in request.split(' ') {
            spans.push(Span::new(at, at + word.len()));
            at += word.len() + 1;
        }
        let args = Args::new(request.as_bytes(), &spans);
        find_name(args.at(0)).expect(request).known_keys(args).to_vec()
    }

    #[test]
    fn what_replaces_a_key_needs_not_know_it() {
        for request in [
            "set k v",
            "set k v ex 10",
            "set k v keepttl",
            "setex k 1 v",
            "psetex k 1 v",
            "mset a 1 b 2",
            "del a b",
            "unlink a",
        ] {
            assert!(known(request).is_empty(), "{request}");
        }
        assert_eq!(known("rename a b"), [1]);
        assert_eq!(known("copy a b replace"), [1]);
        assert_eq!(known("copy a b DB 3 REPLACE"), [1]);
    }

    #[test]
    fn what_depends_on_a_key_knows_it_first() {
        for request in [
            "get k",
            "set k v nx",
            "set k v XX",
            "set k v ex 10 get",
            "setnx k v",
            "getset k v",
            "getdel k",
            "getex k",
            "append k v",
            "setrange k 0 v",
            "incr k",
            "decrby k 2",
            "incrbyfloat k 1",
            "expire k 1",
            "persist k",
            "type k",
            "ttl k",
            "strlen k",
            "fb.stat k",
            "watch k",
        ] {
            assert_eq!(known(request), [1], "{request}");
        }
        assert_eq!(known("mget a b c"), [1, 2, 3]);
        assert_eq!(known("exists a b"), [1, 2]);
        assert_eq!(known("msetnx a 1 b 2"), [1, 3]);
        assert_eq!(known("renamenx a b"), [1, 2]);
        assert_eq!(known("copy a b"), [1, 2]);
    }

    #[test]
    fn every_read_of_a_key_looks_it_up() {
        let all = COMMANDS.iter().flat_map(|command| std::iter::once(command).chain(command.subcommands));
        for command in all.filter(|command| command.flags.has(Flags::READONLY) && command.keys.first != 0) {
            assert_eq!(command.known, Known::Keys, "{}", command.name);
        }
    }
}
