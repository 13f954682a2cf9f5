//! Sizes and durations as people write them in a config file, and as they are printed for people.
//!
//! Owns the grammar: `"10GiB"`, `"2s"`. A size without a unit is bytes; a duration without a unit is
//! refused, since `timeout = 30` means seconds to some and milliseconds to others.

use std::fmt;
use std::time::Duration;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl ByteSize {
    /// So many MiB.
    pub(crate) const fn mib(count: u64) -> ByteSize {
        ByteSize(count << 20)
    }

    /// So many GiB.
    pub(crate) const fn gib(count: u64) -> ByteSize {
        ByteSize(count << 30)
    }

    /// Parses `"10GiB"`, `"64 KiB"`, `"5MB"` or plain bytes.
    pub(crate) fn parse(text: &str) -> Result<ByteSize, String> {
        let (number, unit) = split_number(text);
        let factor = match unit {
            "" => Some(1),
            unit => {
                SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
            }
        };
        let (Ok(number), Some(factor)) = (number.parse::<u64>(), factor) else {
            return Err(format!(
                "\"{text}\" is not a size; write a whole number and a unit, as in \"10GiB\""
            ));
        };
        let bytes = number.checked_mul(factor).filter(|bytes| *bytes <= i64::MAX as u64);
        bytes.map(ByteSize).ok_or_else(|| format!("\"{text}\" is too large"))
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit, with one decimal where it is not exact: `8 GiB`, `1.2 GiB`, `512 B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.into_iter().find(|(_, shift)| self.0 >> shift > 0) {
            None => write!(f, "{} B", self.0),
            Some((unit, shift)) if self.0.trailing_zeros() >= shift => {
                write!(f, "{} {unit}", self.0 >> shift)
            }
            Some((unit, shift)) => write!(f, "{:.1} {unit}", self.0 as f64 / (1u64 << shift) as f64),
        }
    }
}

/// Parses `"500ms"`, `"2s"`, `"5m"`, `"1h"`, `"7d"`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_number(text);
    let factor = DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let (Ok(number), Some(factor)) = (number.parse::<u64>(), factor) else {
        return Err(format!(
            "\"{text}\" is not a duration; write a whole number and a unit (ms, s, m, h, d), as in \"2s\""
        ));
    };
    number.checked_mul(factor).map(Duration::from_millis).ok_or_else(|| format!("\"{text}\" is too long"))
}

/// A span of time for people: `850 ms`, `12 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    (number, unit.trim_start_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_and_decimal_units() {
        assert_eq!(ByteSize::parse("10GiB"), Ok(ByteSize::gib(10)));
        assert_eq!(ByteSize::parse("64 kib"), Ok(ByteSize(65_536)));
        assert_eq!(ByteSize::parse("5MB"), Ok(ByteSize(5_000_000)));
        assert_eq!(ByteSize::parse("512"), Ok(ByteSize(512)));
    }

    #[test]
    fn sizes_that_are_none_are_refused() {
        for text in ["", "GiB", "10G", "-1", "1.5GiB", "10 GiB now", "99999999999TiB", "9223372036854775808"]
        {
            assert!(ByteSize::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3_600)));
        for text in ["", "2", "s", "2 weeks", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_and_ages_read_well() {
        assert_eq!(ByteSize(0).to_string(), "0 B");
        assert_eq!(ByteSize::gib(8).to_string(), "8 GiB");
        assert_eq!(ByteSize(1_288_490_189).to_string(), "1.2 GiB");
        assert_eq!(human_duration(Duration::from_millis(192_900)), "3 min 12 s");
        assert_eq!(human_duration(Duration::from_millis(40)), "40 ms");
        assert_eq!(human_duration(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
