//! Conditional requests (RFC 9110, section 13): the read side is judged here, the write side is passed to
//! the core, which judges it at apply.

use forebay_storage::mutation::PutIf;
use http::HeaderMap;

use crate::error::Refused;
use crate::timestamp;

/// What the conditions of a GET or HEAD say about the object as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answer as usual.
    Proceed,
    /// 304.
    NotModified,
    /// 412, by this header.
    Failed(&'static str),
}

/// Where the four conditions of a read stand.
pub(crate) trait ReadConditions {
    fn text(&self, name: &'static str) -> Option<&str>;
}

impl ReadConditions for HeaderMap {
    fn text(&self, name: &'static str) -> Option<&str> {
        self.get(name).and_then(|value| value.to_str().ok())
    }
}

/// The headers of a copy: its source's conditions have a prefix.
pub(crate) struct CopyHeaders<'a>(pub(crate) &'a HeaderMap);

impl ReadConditions for CopyHeaders<'_> {
    fn text(&self, name: &'static str) -> Option<&str> {
        self.0.text(match name {
            "if-match" => "x-amz-copy-source-if-match",
            "if-none-match" => "x-amz-copy-source-if-none-match",
            "if-modified-since" => "x-amz-copy-source-if-modified-since",
            _ => "x-amz-copy-source-if-unmodified-since",
        })
    }
}

/// Judges the four headers in the order of RFC 9110, section 13.2.2. `etag` is unquoted; `modified` is in
/// seconds since the Unix epoch, as Last-Modified tells it. Dates that are none are ignored.
pub(crate) fn judge_read(headers: &impl ReadConditions, etag: &str, modified: i64) -> Verdict {
    let text = |name: &'static str| headers.text(name);
    let date = |name: &'static str| text(name).and_then(timestamp::parse_http_date);
    if let Some(list) = text("if-match") {
        if !lists(list, etag, Comparison::Strong) {
            return Verdict::Failed("If-Match");
        }
    } else if date("if-unmodified-since").is_some_and(|date| modified > date) {
        return Verdict::Failed("If-Unmodified-Since");
    }
    if let Some(list) = text("if-none-match") {
        if lists(list, etag, Comparison::Weak) {
            return Verdict::NotModified;
        }
    } else if date("if-modified-since").is_some_and(|date| modified <= date) {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether a `Range` counts: `If-Range` is absent or names exactly this state of the object.
pub(crate) fn range_counts(headers: &HeaderMap, etag: &str, modified: i64) -> bool {
    let Some(value) = headers.get("if-range") else { return true };
    let Ok(value) = value.to_str() else { return false };
    match timestamp::parse_http_date(value) {
        Some(date) => date == modified,
        None => lists(value, etag, Comparison::Strong),
    }
}

/// The conditions of a PUT on its own object.
pub(crate) fn put_condition(headers: &HeaderMap) -> Result<PutIf<'_>, Refused> {
    Ok(PutIf {
        if_match: write_condition(headers, "if-match")?,
        if_none_match: write_condition(headers, "if-none-match")?,
    })
}

/// Judges the conditions of a write as apply will, by the object's ETag (`None`: there is none).
pub(crate) fn judge_write(condition: &PutIf<'_>, etag: Option<&str>) -> Result<(), Refused> {
    match (condition.if_match, etag) {
        (Some(_), None) => return Err(Refused::no_such_key()),
        (Some(wanted), Some(etag)) if wanted != "*" && wanted != etag => {
            return Err(Refused::precondition_failed("If-Match"));
        }
        _ => {}
    }
    match (condition.if_none_match, etag) {
        (Some(unwanted), Some(etag)) if unwanted == "*" || unwanted == etag => {
            Err(Refused::precondition_failed("If-None-Match"))
        }
        _ => Ok(()),
    }
}

/// The condition of a PUT as the core takes it: unquoted ETags, or `*`.
///
/// One ETag a header, as S3 has it; both quoted and unquoted ones are in use.
pub(crate) fn write_condition<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refused> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match headers.contains_key(name) {
            true => Err(Refused::new("InvalidArgument", 400, format!("{name} is sent twice"))),
            false => Ok(None),
        };
    };
    let value = value.to_str().map(str::trim).unwrap_or("");
    let etag = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    if etag.is_empty() || etag.contains(['"', ',']) {
        return Err(Refused::new("InvalidArgument", 400, format!("{name} takes one ETag or *")));
    }
    Ok(Some(etag))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

fn lists(list: &str, etag: &str, comparison: Comparison) -> bool {
    list.split(',').map(str::trim).any(|item| {
        let item = match (item.strip_prefix("W/"), comparison) {
            (Some(_), Comparison::Strong) => return false,
            (Some(weak), Comparison::Weak) => weak,
            (None, _) => item,
        };
        item == "*" || item.trim_matches('"') == etag
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const ETAG: &str = "5d41402abc4b2a76b9719d911017c592";
    /// Sun, 06 Nov 1994 08:49:37 GMT
    const MODIFIED: i64 = 784_111_777;
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        map
    }

    fn judge(pairs: &[(&str, &str)]) -> Verdict {
        judge_read(&headers(pairs), ETAG, MODIFIED)
    }

    #[test]
    fn each_condition_alone() {
        let quoted = format!("\"{ETAG}\"");
        let weak = format!("W/\"{ETAG}\"");
        let listed = format!("\"aa\", \"{ETAG}\"");
        for good in [ETAG, &quoted, &listed, "*"] {
            assert_eq!(judge(&[("if-match", good)]), Verdict::Proceed, "{good}");
            assert_eq!(judge(&[("if-none-match", good)]), Verdict::NotModified, "{good}");
        }
        assert_eq!(judge(&[("if-match", &weak)]), Verdict::Failed("If-Match"));
        assert_eq!(judge(&[("if-none-match", &weak)]), Verdict::NotModified);
        assert_eq!(judge(&[("if-match", "\"aa\"")]), Verdict::Failed("If-Match"));
        assert_eq!(judge(&[("if-none-match", "\"aa\"")]), Verdict::Proceed);
        assert_eq!(judge(&[("if-modified-since", BEFORE)]), Verdict::Proceed);
        assert_eq!(judge(&[("if-modified-since", AT)]), Verdict::NotModified);
        assert_eq!(judge(&[("if-unmodified-since", BEFORE)]), Verdict::Failed("If-Unmodified-Since"));
        assert_eq!(judge(&[("if-unmodified-since", AT)]), Verdict::Proceed);
        assert_eq!(judge(&[("if-modified-since", "yesterday")]), Verdict::Proceed);
    }

    #[test]
    fn etags_go_before_dates() {
        assert_eq!(judge(&[("if-match", ETAG), ("if-unmodified-since", BEFORE)]), Verdict::Proceed);
        assert_eq!(judge(&[("if-none-match", "aa"), ("if-modified-since", AT)]), Verdict::Proceed);
        assert_eq!(judge(&[("if-match", "aa"), ("if-none-match", ETAG)]), Verdict::Failed("If-Match"));
    }

    #[test]
    fn if_range_of_another_state_drops_the_range() {
        assert!(range_counts(&headers(&[]), ETAG, MODIFIED));
        assert!(range_counts(&headers(&[("if-range", AT)]), ETAG, MODIFIED));
        assert!(range_counts(&headers(&[("if-range", ETAG)]), ETAG, MODIFIED));
        assert!(!range_counts(&headers(&[("if-range", BEFORE)]), ETAG, MODIFIED));
        assert!(!range_counts(&headers(&[("if-range", "\"aa\"")]), ETAG, MODIFIED));
    }

    #[test]
    fn a_copys_conditions_have_a_prefix() {
        let judge = |pairs: &[(&str, &str)]| judge_read(&CopyHeaders(&headers(pairs)), ETAG, MODIFIED);
        assert_eq!(judge(&[("if-match", "aa"), ("if-modified-since", AT)]), Verdict::Proceed);
        assert_eq!(judge(&[("x-amz-copy-source-if-match", "aa")]), Verdict::Failed("If-Match"));
        assert_eq!(judge(&[("x-amz-copy-source-if-none-match", ETAG)]), Verdict::NotModified);
        assert_eq!(judge(&[("x-amz-copy-source-if-modified-since", AT)]), Verdict::NotModified);
        assert_eq!(
            judge(&[("x-amz-copy-source-if-unmodified-since", BEFORE)]),
            Verdict::Failed("If-Unmodified-Since")
        );
    }

    #[test]
    fn writes_are_judged_by_the_object_that_stands_there() {
        let judge = |if_match, if_none_match, etag| {
            judge_write(&PutIf { if_match, if_none_match }, etag).err().map(|refused| refused.status())
        };
        assert_eq!(judge(None, None, Some("a")), None);
        assert_eq!(judge(Some("a"), None, Some("a")), None);
        assert_eq!(judge(Some("*"), None, Some("a")), None);
        assert_eq!(judge(Some("b"), None, Some("a")), Some(412));
        assert_eq!(judge(Some("a"), None, None), Some(404));
        assert_eq!(judge(None, Some("*"), None), None);
        assert_eq!(judge(None, Some("b"), Some("a")), None);
        assert_eq!(judge(None, Some("*"), Some("a")), Some(412));
        assert_eq!(judge(None, Some("a"), Some("a")), Some(412));
    }

    #[test]
    fn write_conditions_lose_their_quotes() {
        for (value, expected) in [("*", "*"), ("abc", "abc"), ("\"abc\"", "abc"), ("W/\"abc\"", "")] {
            let headers = headers(&[("if-match", value)]);
            let condition = write_condition(&headers, "if-match").ok().flatten().unwrap_or("");
            assert_eq!(condition, expected);
        }
        assert_eq!(write_condition(&headers(&[]), "if-match"), Ok(None));
        assert!(write_condition(&headers(&[("if-match", "a"), ("if-match", "b")]), "if-match").is_err());
        assert!(write_condition(&headers(&[("if-match", "")]), "if-match").is_err());
    }
}
