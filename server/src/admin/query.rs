//! Parameters in a request's query string.
//!
//! Pairs are split at `&` and `=`, then percent-decoded to bytes; `+` stays a plus. A parameter that
//! nobody asked for is refused, so that a misspelled `limt=5` is not taken for no limit.

use percent_encoding::percent_decode_str;

/// The parameters of one request.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pairs: Vec<(&'a str, Vec<u8>)>,
}

impl<'a> Query<'a> {
    /// Splits a query string; only `known` names are allowed, each once.
    pub(crate) fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Query<'a>, String> {
        let mut pairs: Vec<(&str, Vec<u8>)> = Vec::new();
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                return Err(format!("unknown parameter \"{name}\"; known are: {}", known.join(", ")));
            }
            if pairs.iter().any(|(seen, _)| *seen == name) {
                return Err(format!("parameter \"{name}\" is given twice"));
            }
            pairs.push((name, percent_decode_str(value).collect()));
        }
        Ok(Query { pairs })
    }

    /// A parameter's bytes.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.pairs.iter().find(|(seen, _)| *seen == name).map(|(_, value)| value.as_slice())
    }

    /// A parameter as text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, String> {
        let text = self.bytes(name).map(std::str::from_utf8).transpose();
        text.map_err(|_| format!("parameter \"{name}\" is not UTF-8"))
    }

    /// A parameter as a number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let number = self.text(name)?.map(str::parse::<u64>).transpose();
        number.map_err(|_| format!("parameter \"{name}\" is not a whole number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_byte_for_byte() {
        let query = Query::parse(Some("path=/a%20b%2Fc%FF+d&limit=7"), &["path", "limit"]).unwrap();
        assert_eq!(query.bytes("path"), Some(b"/a b/c\xff+d".as_slice()));
        assert_eq!(query.number("limit"), Ok(Some(7)));
        assert!(query.text("path").is_err());
        assert_eq!(query.text("after"), Ok(None));
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        assert!(Query::parse(Some("limt=7"), &["limit"]).unwrap_err().contains("limit"));
        assert!(Query::parse(Some("limit=7&limit=8"), &["limit"]).is_err());
        assert!(Query::parse(Some("limit=x"), &["limit"]).unwrap().number("limit").is_err());
        assert!(Query::parse(None, &[]).is_ok());
    }
}
