//! The `Range` header of a GET (RFC 9110, section 14), as S3 treats it.

use std::ops::Range;

/// What part of a body is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selected {
    /// All of it, 200.
    Whole,
    /// These bytes, 206.
    Part(Range<u64>),
    /// There is no such part, 416.
    Unsatisfiable,
}

/// Reads the header for a body of `len` bytes. What cannot be understood, and more than one range, is as if
/// it were not there, as AWS does it.
pub(crate) fn select(header: Option<&str>, len: u64) -> Selected {
    let Some(spec) = header.and_then(|value| value.trim().strip_prefix("bytes=")) else {
        return Selected::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else { return Selected::Whole };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Selected::Whole,
        (Some(first), _) if first >= len && (last.is_empty() || number(last).is_some()) => {
            Selected::Unsatisfiable
        }
        (Some(first), Some(last)) => Selected::Part(first..last.saturating_add(1).min(len)),
        (Some(first), None) if last.is_empty() => Selected::Part(first..len),
        (None, Some(_)) if !first.is_empty() => Selected::Whole,
        (None, Some(0)) => Selected::Unsatisfiable,
        (None, Some(_)) if len == 0 => Selected::Unsatisfiable,
        (None, Some(suffix)) => Selected::Part(len.saturating_sub(suffix)..len),
        _ => Selected::Whole,
    }
}

/// Digits only; what is beyond u64 counts as its largest.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_ranges_on_ten_bytes() {
        for (header, selected) in [
            ("bytes=0-3", Selected::Part(0..4)),
            ("bytes=9-9", Selected::Part(9..10)),
            ("bytes=5-", Selected::Part(5..10)),
            ("bytes=-3", Selected::Part(7..10)),
            ("bytes=-100", Selected::Part(0..10)),
            ("bytes=3-100", Selected::Part(3..10)),
            ("bytes=0-18446744073709551615", Selected::Part(0..10)),
            ("bytes=0-99999999999999999999999", Selected::Part(0..10)),
            ("bytes=10-", Selected::Unsatisfiable),
            ("bytes=10-12", Selected::Unsatisfiable),
            ("bytes=-0", Selected::Unsatisfiable),
            ("bytes=3-1", Selected::Whole),
            ("bytes=0-1,3-4", Selected::Whole),
            ("bytes=a-b", Selected::Whole),
            ("bytes=a-3", Selected::Whole),
            ("bytes=3-b", Selected::Whole),
            ("bytes=100-b", Selected::Whole),
            ("bytes=", Selected::Whole),
            ("bytes=-", Selected::Whole),
            ("bytes=--3", Selected::Whole),
            ("bytes=+1-3", Selected::Whole),
            ("lines=0-3", Selected::Whole),
            ("", Selected::Whole),
        ] {
            assert_eq!(select(Some(header), 10), selected, "{header}");
        }
        assert_eq!(select(None, 10), Selected::Whole);
    }

    #[test]
    fn empty_body_satisfies_no_range() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(select(Some(header), 0), Selected::Unsatisfiable, "{header}");
        }
    }
}
