//! Times as S3 writes and reads them.

use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc2822;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
const RFC3339_SECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const RFC3339_MILLIS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A wall-clock time in milliseconds since the Unix epoch; far-future values are cut to the year 9999.
pub(crate) fn from_ms(ms: u64) -> OffsetDateTime {
    const MS_MAX: u64 = 253_402_300_799_999;
    let nanos = i128::from(ms.min(MS_MAX)) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110).
pub(crate) fn http_date(time: OffsetDateTime) -> String {
    const WEEKDAYS: &[u8; 21] = b"MonTueWedThuFriSatSun";
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut text = *b"Mon, 00 Jan 0000 00:00:00 GMT";
    let mut put = |at: usize, number: u8| {
        text[at] = b'0' + number / 10;
        text[at + 1] = b'0' + number % 10;
    };
    // Years of OffsetDateTime have four digits; those before our era are nobody's.
    let year = u16::try_from(time.year()).unwrap_or(0).min(9999);
    put(5, time.day());
    put(12, (year / 100) as u8);
    put(14, (year % 100) as u8);
    put(17, time.hour());
    put(20, time.minute());
    put(23, time.second());
    let weekday = 3 * usize::from(time.weekday().number_days_from_monday());
    let month = 3 * (usize::from(u8::from(time.month())) - 1);
    text[..3].copy_from_slice(&WEEKDAYS[weekday..weekday + 3]);
    text[8..11].copy_from_slice(&MONTHS[month..month + 3]);
    std::str::from_utf8(&text).unwrap_or_default().to_owned()
}

/// `1994-11-06T08:49:37Z`
pub(crate) fn rfc3339_seconds(time: OffsetDateTime) -> String {
    time.format(RFC3339_SECONDS).unwrap_or_default()
}

/// `1994-11-06T08:49:37.000Z`
pub(crate) fn rfc3339_millis(time: OffsetDateTime) -> String {
    time.format(RFC3339_MILLIS).unwrap_or_default()
}

/// Seconds since the Unix epoch of an HTTP date; `None` if it is none, which callers ignore.
pub(crate) fn parse_http_date(text: &str) -> Option<i64> {
    let exact = PrimitiveDateTime::parse(text, HTTP_DATE).map(|time| time.assume_utc().unix_timestamp());
    exact.ok().or_else(|| OffsetDateTime::parse(text, &Rfc2822).ok().map(OffsetDateTime::unix_timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_round_trip() {
        let time = from_ms(784_111_777_123);
        assert_eq!(http_date(time), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 09:49:37 +0100"), Some(784_111_777));
        assert_eq!(parse_http_date("yesterday"), None);
        assert_eq!(rfc3339_millis(time), "1994-11-06T08:49:37.123Z");
        assert_eq!(rfc3339_seconds(time), "1994-11-06T08:49:37Z");
    }

    #[test]
    fn http_dates_are_those_of_the_format() {
        for day in 0..800 {
            // A step that meets every field's values.
            let time = from_ms(day * 86_400_000 * 37 + day * 3_723_000);
            assert_eq!(Some(http_date(time)), time.format(HTTP_DATE).ok(), "{time}");
        }
        assert_eq!(http_date(from_ms(u64::MAX)), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn far_future_is_cut() {
        assert!(rfc3339_millis(from_ms(u64::MAX)).starts_with("9999-12-31T23:59:59"));
    }
}
