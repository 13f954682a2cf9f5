//! Reads one table of the config file, option by option, and finds the keys nobody asked for.
//!
//! Owns: line numbers, unknown keys with a suggestion, the list of problems. Does not own what options
//! exist: a key is known because it was asked for, so that the two cannot drift apart.
//!
//! What must hold: reading goes on after a problem, so that one run names them all; a message never holds
//! the value of a secret.

use std::cell::RefCell;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::secret::{Secret, SecretSource};
use super::value::OptionValue;

/// Where an option's value was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In the config file, on this line (from 1).
    Line(usize),
    /// In this environment variable.
    Environment(&'static str),
    /// In this flag.
    Flag(&'static str),
    /// Nowhere in particular: a rule that binds several options.
    Whole,
}

/// Something wrong with the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where.
    pub(crate) place: Place,
    /// What, and what to do.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Line(line) => write!(f, "line {line}: {}", self.message),
            Place::Environment(name) | Place::Flag(name) => write!(f, "{name}: {}", self.message),
            Place::Whole => f.write_str(&self.message),
        }
    }
}

/// All problems found so far. Shared by the sections that are being read.
#[derive(Debug, Default)]
pub(crate) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Notes one.
    pub(crate) fn add(&self, place: Place, message: impl Into<String>) {
        self.0.borrow_mut().push(Problem { place, message: message.into() });
    }

    /// Keeps a value, or notes why there is none.
    pub(crate) fn keep<T>(&self, place: Place, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.add(place, message)).ok()
    }

    /// All of them, those of the file in its order.
    pub(crate) fn into_vec(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by_key(|problem| problem.place);
        problems
    }
}

/// The text of a config file, to find lines in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The whole file.
    pub(crate) text: &'a str,
}

impl Source<'_> {
    /// The line of a byte offset, from 1.
    pub(crate) fn line(&self, offset: usize) -> Place {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        Place::Line(1 + before.iter().filter(|byte| **byte == b'\n').count())
    }
}

/// One table of the file on its way into types. Call [`Section::end`] when everything was asked for.
pub(crate) struct Section<'a> {
    /// As in messages: empty for the top level, else `flush` or `mount`.
    name: &'static str,
    source: Source<'a>,
    table: Option<&'a DeTable<'a>>,
    problems: &'a Problems,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The top level of a file; no file reads as an empty one.
    pub(crate) fn root(
        source: Source<'a>,
        table: Option<&'a DeTable<'a>>,
        problems: &'a Problems,
    ) -> Section<'a> {
        Section { name: "", source, table, problems, asked: Vec::new() }
    }

    /// The table `[name]`; one that is absent reads as empty.
    pub(crate) fn section(&mut self, name: &'static str) -> Section<'a> {
        let table = self.find(name).and_then(|(place, value)| match value.as_table() {
            Some(table) => Some(table),
            None => {
                let kind = value.type_str();
                self.problems.add(place, format!("{name} is a table; write [{name}], not {kind}"));
                None
            }
        });
        Section { name, source: self.source, table, problems: self.problems, asked: Vec::new() }
    }

    /// The tables `[[name]]` with their lines.
    pub(crate) fn sections(&mut self, name: &'static str) -> Vec<(Place, Section<'a>)> {
        let Some((place, value)) = self.find(name) else { return Vec::new() };
        let Some(array) = value.as_array() else {
            self.problems.add(place, format!("there may be several; write [[{name}]]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in array.iter() {
            let place = self.source.line(item.span().start);
            match item.get_ref().as_table() {
                Some(table) => sections.push((
                    place,
                    Section {
                        name,
                        source: self.source,
                        table: Some(table),
                        problems: self.problems,
                        asked: Vec::new(),
                    },
                )),
                None => self.problems.add(place, format!("expected a table; write [[{name}]]")),
            }
        }
        sections
    }

    /// The option `key`, if it is given and in order.
    pub(crate) fn get<T: OptionValue>(&mut self, key: &'static str) -> Option<T> {
        self.placed(key).map(|(_, value)| value)
    }

    /// As [`Section::get`], with its line.
    pub(crate) fn placed<T: OptionValue>(&mut self, key: &'static str) -> Option<(Place, T)> {
        let (place, value) = self.find(key)?;
        let result = T::from_toml(value).map_err(|message| format!("{key}: {message}"));
        self.problems.keep(place, result).map(|value| (place, value))
    }

    /// The secret of the options `key` and `key_file`, unread.
    pub(crate) fn secret(
        &mut self,
        key: &'static str,
        key_file: &'static str,
    ) -> Option<(Place, SecretSource)> {
        // Not through `get`: its messages may quote a value.
        let value = self.find(key).and_then(|(place, value)| match value.as_str() {
            Some(text) if !text.is_empty() => Some((place, SecretSource::Value(Secret::new(text)))),
            _ => {
                self.problems.add(place, format!("{key}: expected a string that is not empty"));
                None
            }
        });
        let file = self.placed(key_file).map(|(place, path)| (place, SecretSource::File(path)));
        match (value, file) {
            (Some(_), Some((place, _))) => {
                self.problems.add(place, format!("both {key} and {key_file} are given; keep one"));
                None
            }
            (value, file) => value.or(file),
        }
    }

    /// Refuses every key that was not asked for.
    pub(crate) fn end(self) {
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !self.asked.contains(&name) {
                let place = self.source.line(key.span().start);
                self.problems.add(place, unknown_key(self.name, name, &self.asked));
            }
        }
    }

    fn find(&mut self, key: &'static str) -> Option<(Place, &'a DeValue<'a>)> {
        self.asked.push(key);
        let value: &'a Spanned<DeValue<'a>> = self.table?.get(key)?;
        Some((self.source.line(value.span().start), value.get_ref()))
    }
}

fn unknown_key(section: &str, name: &str, known: &[&str]) -> String {
    let inside = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
    match suggestion(name, known) {
        Some(near) => format!("unknown key \"{name}\"{inside}; did you mean \"{near}\"?"),
        None => format!("unknown key \"{name}\"{inside}; known are: {}", known.join(", ")),
    }
}

/// The known name that `name` most likely stands for.
fn suggestion<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = name.to_ascii_lowercase().replace('-', "_");
    let near = known.iter().map(|known| (strsim::jaro_winkler(&plain, known), *known));
    near.filter(|(likeness, _)| *likeness > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}
