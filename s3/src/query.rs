//! The query string, decoded once.
//!
//! Decodes exactly as s3s does (percent and plus), so that what the front layer judges and what s3s
//! verifies are the same names.

use std::borrow::Cow;

use percent_encoding::percent_decode;
use smallvec::SmallVec;

/// Decoded name and value pairs in the order sent.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// All names and values, one behind the other.
    text: String,
    pairs: SmallVec<[Pair; 8]>,
}

/// Where one pair ends, each beginning at the end of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    name_end: usize,
    value_end: usize,
}

impl Query {
    /// Parses what stands behind the `?`.
    pub(crate) fn parse(query: &str) -> Query {
        let mut parsed = Query { text: String::with_capacity(query.len()), pairs: SmallVec::new() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            push_decoded(&mut parsed.text, name);
            let name_end = parsed.text.len();
            push_decoded(&mut parsed.text, value);
            parsed.pairs.push(Pair { name_end, value_end: parsed.text.len() });
        }
        parsed
    }

    /// All pairs, decoded, in the order sent.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.pairs.iter().map(move |pair| {
            let begin = std::mem::replace(&mut start, pair.value_end);
            (&self.text[begin..pair.name_end], &self.text[pair.name_end..pair.value_end])
        })
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Whether the name occurs, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The first value of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// How often the name occurs.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.names().filter(|n| *n == name).count()
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs().map(|(name, _)| name)
    }
}

fn push_decoded(out: &mut String, text: &str) {
    if !text.contains(['%', '+']) {
        return out.push_str(text);
    }
    let spaced: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    out.push_str(&percent_decode(spaced.as_bytes()).decode_utf8_lossy());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_names_are_seen_decoded() {
        let query = Query::parse("X%2DAmz%2DSignature=ab&acl&prefix=a+b%2Bc&&x=1=2");
        assert!(query.has("X-Amz-Signature") && query.has("acl"));
        assert_eq!(query.get("prefix"), Some("a b+c"));
        assert_eq!(query.get("acl"), Some(""));
        assert_eq!(query.get("x"), Some("1=2"));
        let pairs: Vec<_> = query.pairs().collect();
        assert_eq!(pairs, [("X-Amz-Signature", "ab"), ("acl", ""), ("prefix", "a b+c"), ("x", "1=2")]);
    }
}
