//! The memory of what was acknowledged.
//!
//! Owns: for every key the last acknowledged state, and the states of requests whose outcome is unknown (no
//! answer, connection lost, an error that says so). Such a request may have been applied or not; both are right
//! until somebody reads the key, and then only what was read is.
//!
//! Does not own: clients. One writer per key at a time is assumed and asserted.
//!
//! Pure: no I/O, so that its own tests can show that each kind of loss is found.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

/// What a key holds.
#[derive(Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Absent,
    /// These bytes.
    Value(Bytes),
}

impl State {
    /// From an optional value, as GET returns it.
    pub fn of(value: Option<&[u8]>) -> Self {
        value.map_or(Self::Absent, |bytes| Self::Value(Bytes::copy_from_slice(bytes)))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("nothing"),
            Self::Value(bytes) => {
                let shown = &bytes[..bytes.len().min(40)];
                write!(f, "{} bytes \"{}\"", bytes.len(), shown.escape_ascii())
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    acknowledged: State,
    /// Requests after the acknowledged one with an unknown outcome, oldest first.
    maybe: Vec<State>,
    open: Option<State>,
}

/// The memory itself: keys in byte order.
#[derive(Debug, Clone, Default)]
pub struct Ledger(BTreeMap<Vec<u8>, Entry>);

/// A key does not hold what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key \"{}\" holds {found:?}; acknowledged was {acknowledged:?}, possible besides: {maybe:?}", key.escape_ascii())]
pub struct Discrepancy {
    /// The key.
    pub key: Vec<u8>,
    /// What was read.
    pub found: State,
    /// What was acknowledged last.
    pub acknowledged: State,
    /// What requests of unknown outcome may have left.
    pub maybe: Vec<State>,
}

impl Ledger {
    /// A request that will leave `state` is about to be sent.
    ///
    /// # Panics
    /// If the key already has one under way: the caller broke "one writer per key".
    pub fn begin(&mut self, key: &[u8], state: State) {
        let entry = self.0.entry(key.to_vec()).or_insert_with(|| Entry {
            acknowledged: State::Absent,
            maybe: Vec::new(),
            open: None,
        });
        assert!(entry.open.is_none(), "two writers on key \"{}\"", key.escape_ascii());
        entry.open = Some(state);
    }

    /// The request under way was acknowledged: from now on nothing older may be seen.
    pub fn acknowledge(&mut self, key: &[u8]) {
        if let Some((entry, state)) = self.close(key) {
            entry.acknowledged = state;
            entry.maybe.clear();
        }
    }

    /// The request under way has no known outcome.
    pub fn unknown(&mut self, key: &[u8]) {
        if let Some((entry, state)) = self.close(key) {
            entry.maybe.push(state);
        }
    }

    /// The request under way was refused: it must not have been applied.
    pub fn refuse(&mut self, key: &[u8]) {
        let _ = self.close(key);
    }

    /// Every request under way lost its connection.
    pub fn all_open_unknown(&mut self) {
        for entry in self.0.values_mut() {
            if let Some(state) = entry.open.take() {
                entry.maybe.push(state);
            }
        }
    }

    /// Compares a read with the memory. What was read is from now on the only right state: a request of
    /// unknown outcome may not change its mind after its effect, or its absence, was seen. Call it only when
    /// the server that could still apply them is gone.
    pub fn observe(&mut self, key: &[u8], found: State) -> Result<(), Discrepancy> {
        let Some(entry) = self.0.get_mut(key) else {
            let absent = found == State::Absent;
            let stranger =
                Discrepancy { key: key.to_vec(), found, acknowledged: State::Absent, maybe: Vec::new() };
            return if absent { Ok(()) } else { Err(stranger) };
        };
        if entry.acknowledged != found && !entry.maybe.contains(&found) {
            return Err(Discrepancy {
                key: key.to_vec(),
                found,
                acknowledged: entry.acknowledged.clone(),
                maybe: entry.maybe.clone(),
            });
        }
        entry.acknowledged = found;
        entry.maybe.clear();
        Ok(())
    }

    /// [`observe`](Self::observe) for every key of the memory; all discrepancies.
    pub fn observe_all(&mut self, mut read: impl FnMut(&[u8]) -> State) -> Vec<Discrepancy> {
        let keys: Vec<Vec<u8>> = self.0.keys().cloned().collect();
        keys.iter().filter_map(|key| self.observe(key, read(key)).err()).collect()
    }

    /// Every key with what it must hold, in byte order. Only meaningful after everything was observed.
    pub fn settled(&self) -> impl Iterator<Item = (&[u8], &State)> {
        self.0.iter().map(|(key, entry)| (key.as_slice(), &entry.acknowledged))
    }

    /// Number of keys ever written.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn close(&mut self, key: &[u8]) -> Option<(&mut Entry, State)> {
        let entry = self.0.get_mut(key)?;
        let state = entry.open.take()?;
        Some((entry, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> State {
        State::Value(Bytes::from_static(text.as_bytes()))
    }

    fn with_acknowledged(text: &'static str) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.begin(b"k", value(text));
        ledger.acknowledge(b"k");
        ledger
    }

    #[test]
    fn a_lost_write_is_found() {
        assert!(with_acknowledged("1").observe(b"k", State::Absent).is_err());
    }

    #[test]
    fn an_older_value_is_found() {
        let mut ledger = with_acknowledged("1");
        ledger.begin(b"k", value("2"));
        ledger.acknowledge(b"k");
        assert!(ledger.observe(b"k", value("1")).is_err());
    }

    #[test]
    fn an_unknown_outcome_may_be_either_until_it_was_seen() {
        let mut ledger = with_acknowledged("1");
        ledger.begin(b"k", value("2"));
        ledger.unknown(b"k");
        assert!(ledger.clone().observe(b"k", value("1")).is_ok());
        assert!(ledger.observe(b"k", value("2")).is_ok());
        assert!(ledger.observe(b"k", value("1")).is_err(), "it went back after it was seen");
    }

    #[test]
    fn an_acknowledgement_ends_older_doubts() {
        let mut ledger = with_acknowledged("1");
        ledger.begin(b"k", value("2"));
        ledger.unknown(b"k");
        ledger.begin(b"k", State::Absent);
        ledger.acknowledge(b"k");
        assert!(ledger.observe(b"k", value("2")).is_err(), "the deleted key returned");
    }

    #[test]
    fn a_refused_write_must_not_be_there() {
        let mut ledger = with_acknowledged("1");
        ledger.begin(b"k", value("2"));
        ledger.refuse(b"k");
        assert!(ledger.observe(b"k", value("2")).is_err());
    }

    #[test]
    fn a_key_that_nobody_wrote_is_found() {
        assert!(Ledger::default().observe(b"stranger", value("x")).is_err());
        assert!(Ledger::default().observe(b"stranger", State::Absent).is_ok());
    }

    #[test]
    fn losing_the_connection_makes_all_open_requests_unknown() {
        let mut ledger = with_acknowledged("1");
        ledger.begin(b"k", value("2"));
        ledger.all_open_unknown();
        let found = ledger.observe_all(|_| value("2"));
        assert_eq!(found, []);
        assert_eq!(ledger.settled().collect::<Vec<_>>(), [(&b"k"[..], &value("2"))]);
    }
}
