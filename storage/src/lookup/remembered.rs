//! What was learnt lately, by key, in bounded memory.

use std::collections::HashMap;
use std::time::Instant;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;

/// Memory of one generation, in bytes; there are two.
const GENERATION_BYTES: usize = 8 << 20;
/// What an entry costs beside its key, in bytes.
const ENTRY_BYTES: usize = 64;

/// Times by mount and key. Two generations: when the younger is full the older one is forgotten, and what is asked
/// for again meanwhile is learnt again.
#[derive(Default)]
pub(crate) struct Remembered {
    /// Held for a look-up only.
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Name, Instant, RandomState>,
    old: HashMap<Name, Instant, RandomState>,
    young_bytes: usize,
}

type Name = SmallVec<[u8; 60]>;

fn name(mount: u32, key: &[u8]) -> Name {
    let mut name = Name::from_slice(&mount.to_be_bytes());
    name.extend_from_slice(key);
    name
}

impl Remembered {
    /// When it was noted.
    pub(crate) fn get(&self, mount: u32, key: &[u8]) -> Option<Instant> {
        let name = name(mount, key);
        let generations = self.generations.lock();
        generations.young.get(&name).or_else(|| generations.old.get(&name)).copied()
    }

    pub(crate) fn note(&self, mount: u32, key: &[u8], at: Instant) {
        let name = name(mount, key);
        let bytes = name.len() + ENTRY_BYTES;
        let mut generations = self.generations.lock();
        if generations.young.insert(name, at).is_none() {
            generations.young_bytes += bytes;
        }
        if generations.young_bytes > GENERATION_BYTES {
            generations.old = std::mem::take(&mut generations.young);
            generations.young_bytes = 0;
        }
    }

    pub(crate) fn forget(&self, mount: u32, key: &[u8]) {
        let name = name(mount, key);
        let mut generations = self.generations.lock();
        if generations.young.remove(&name).is_some() {
            generations.young_bytes -= name.len() + ENTRY_BYTES;
        }
        generations.old.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_known_until_so_much_more_was() {
        let (remembered, at) = (Remembered::default(), Instant::now());
        remembered.note(1, b"k", at);
        assert_eq!(remembered.get(1, b"k"), Some(at));
        assert_eq!(remembered.get(2, b"k"), None);
        let key = [7; 1000];
        let fill = |from: usize| {
            for number in from..from + GENERATION_BYTES / 1000 {
                remembered.note(3, &[&key[..], &number.to_be_bytes()].concat(), at);
            }
        };
        fill(0);
        assert_eq!(remembered.get(1, b"k"), Some(at), "a generation is kept");
        fill(1_000_000);
        assert_eq!(remembered.get(1, b"k"), None);
        let generations = remembered.generations.lock();
        let count = generations.young.len() + generations.old.len();
        assert!(count * 1000 <= 2 * GENERATION_BYTES, "{count}");
    }

    #[test]
    fn what_is_forgotten_is_gone_from_both_generations() {
        let (remembered, at) = (Remembered::default(), Instant::now());
        remembered.note(1, b"k", at);
        remembered.forget(1, b"k");
        assert_eq!((remembered.get(1, b"k"), remembered.generations.lock().young_bytes), (None, 0));
    }
}
