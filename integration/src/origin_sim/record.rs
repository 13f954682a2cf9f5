//! What happened to the origin, in order, and the two rules that every run must keep.
//!
//! 1. A key never goes back: after version v no older version is stored, and after a DELETE nothing that is
//!    not newer than all stored before it.
//! 2. One mutation of a key in flight: a second one that arrives while the first may still be applied is a
//!    violation, whether or not anybody still waits for the first one's answer.
//!
//! Pure: times are passed in.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::buckets::StoredObject;

/// Who changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A request, applied while its sender could still be waiting.
    Request,
    /// A request applied after [`ApplyLate`](super::fault::Fault::ApplyLate).
    Late,
    /// Somebody who is not Forebay.
    Foreign,
}

/// The order of versions as Forebay writes them: `<cluster id>-<version>`, the version 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OriginVersion(u64);

impl OriginVersion {
    /// Reads the last 16 hex digits; what stands before them is the cluster's. `None` if there are none.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.get(text.len().checked_sub(16)?..)?;
        u64::from_str_radix(digits, 16).ok().map(Self)
    }
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// An object was stored.
    Put {
        /// Its ETag without quotes.
        etag: String,
        /// Its length in bytes.
        size: usize,
        /// Its `x-amz-meta-forebay-version`.
        version: Option<String>,
    },
    /// The key was removed, or was not there.
    Delete,
}

/// One applied change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Since the origin started.
    pub at: Duration,
    /// Bucket name.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// What happened.
    pub kind: ChangeKind,
    /// Who did it.
    pub source: Source,
}

impl Change {
    /// An object was stored.
    pub fn put(at: Duration, bucket: &str, key: &str, object: &StoredObject, source: Source) -> Self {
        let kind = ChangeKind::Put {
            etag: object.etag.clone(),
            size: object.body.len(),
            version: object.version_text().map(str::to_owned),
        };
        Self { at, bucket: bucket.to_owned(), key: key.to_owned(), kind, source }
    }

    /// A key was removed.
    pub fn delete(at: Duration, bucket: &str, key: &str, source: Source) -> Self {
        Self { at, bucket: bucket.to_owned(), key: key.to_owned(), kind: ChangeKind::Delete, source }
    }
}

/// A rule that was broken, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Every change in order, and what was seen in flight.
#[derive(Debug, Clone, Default)]
pub struct Record {
    changes: Vec<Change>,
    in_flight: HashMap<(String, String), u32>,
    overlaps: Vec<Violation>,
}

impl Record {
    /// Appends a change. Called under the same lock as the change itself.
    pub fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Everything applied, oldest first.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The changes of one key, oldest first.
    pub fn of_key<'a>(&'a self, bucket: &'a str, key: &'a str) -> impl Iterator<Item = &'a Change> {
        self.changes.iter().filter(move |change| change.bucket == bucket && change.key == key)
    }

    /// The position in the record at which `key` was last changed.
    pub fn last_position(&self, bucket: &str, key: &str) -> Option<usize> {
        self.changes.iter().rposition(|change| change.bucket == bucket && change.key == key)
    }

    /// A mutation of `key` has arrived.
    pub fn arrive(&mut self, at: Duration, bucket: &str, key: &str) {
        let count = self.in_flight.entry((bucket.to_owned(), key.to_owned())).or_default();
        *count += 1;
        if *count > 1 {
            self.overlaps.push(Violation(format!("{count} mutations of {bucket}/{key} in flight at {at:?}")));
        }
    }

    /// A mutation of `key` can no longer be applied.
    pub fn depart(&mut self, bucket: &str, key: &str) {
        let name = (bucket.to_owned(), key.to_owned());
        if let Some(count) = self.in_flight.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                self.in_flight.remove(&name);
            }
        }
    }

    /// Every breach of the two rules.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = self.overlaps.clone();
        let mut newest: HashMap<(&str, &str), (OriginVersion, bool)> = HashMap::new();
        for change in &self.changes {
            if change.source == Source::Foreign {
                continue;
            }
            let name = (change.bucket.as_str(), change.key.as_str());
            let seen = newest.get_mut(&name);
            match &change.kind {
                ChangeKind::Delete => {
                    if let Some((_, deleted)) = seen {
                        *deleted = true;
                    }
                }
                ChangeKind::Put { version, .. } => {
                    let Some(stored) = version.as_deref().and_then(OriginVersion::parse) else { continue };
                    if let Some((top, deleted)) = seen {
                        if *deleted && stored <= *top {
                            found.push(Violation(format!(
                                "{}/{} returned after its DELETE: {change:?}",
                                name.0, name.1
                            )));
                        } else if stored < *top {
                            found.push(Violation(format!(
                                "{}/{} went back from {top:?}: {change:?}",
                                name.0, name.1
                            )));
                        }
                        if stored > *top {
                            *top = stored;
                            *deleted = false;
                        }
                    } else {
                        newest.insert(name, (stored, false));
                    }
                }
            }
        }
        found
    }

    /// Panics with every breach, if there is one.
    pub fn assert_clean(&self) {
        let found = self.violations();
        let lines: Vec<String> = found.iter().map(Violation::to_string).collect();
        assert!(found.is_empty(), "the origin saw {} violations:\n{}", found.len(), lines.join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(version: u64) -> Change {
        let mut object = StoredObject::plain("x".into());
        object.metadata.insert("forebay-version".into(), format!("c-{version:016x}"));
        Change::put(Duration::ZERO, "b", "k", &object, Source::Request)
    }

    fn delete() -> Change {
        Change::delete(Duration::ZERO, "b", "k", Source::Request)
    }

    fn violations(changes: Vec<Change>) -> usize {
        let mut record = Record::default();
        changes.into_iter().for_each(|change| record.push(change));
        record.violations().len()
    }

    #[test]
    fn versions_are_ordered_by_their_last_sixteen_hex_digits() {
        let parse = |text| OriginVersion::parse(text).unwrap();
        assert!(parse("c0ffee-0000000000000009") < parse("a-000000000000000a"));
        assert_eq!(OriginVersion::parse("c0ffee-9"), None);
    }

    #[test]
    fn the_same_version_twice_is_a_retry() {
        assert_eq!(violations(vec![put(1), put(1), put(2)]), 0);
    }

    #[test]
    fn an_older_version_is_found() {
        assert_eq!(violations(vec![put(2), put(1)]), 1);
    }

    #[test]
    fn a_return_after_delete_is_found_and_a_newer_put_is_not() {
        assert_eq!(violations(vec![put(2), delete(), put(2)]), 1);
        assert_eq!(violations(vec![put(2), delete(), put(3), put(3)]), 0);
    }

    #[test]
    fn two_in_flight_are_found_even_if_nobody_waits() {
        let mut record = Record::default();
        record.arrive(Duration::ZERO, "b", "k");
        record.arrive(Duration::ZERO, "b", "other");
        assert!(record.violations().is_empty());
        record.arrive(Duration::ZERO, "b", "k");
        assert_eq!(record.violations().len(), 1);
        record.depart("b", "k");
        record.depart("b", "k");
        record.arrive(Duration::ZERO, "b", "k");
        assert_eq!(record.violations().len(), 1);
    }
}
