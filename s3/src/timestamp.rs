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
    time.format(HTTP_DATE).unwrap_or_default()
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
    fn far_future_is_cut() {
        assert!(rfc3339_millis(from_ms(u64::MAX)).starts_with("9999-12-31T23:59:59"));
    }
}
