//! What an origin's answer means: one table from status and code to class, one rule what it proves.
//!
//! Owns the classes and the table. What the queue does about a class is `flush/classify.rs`.

use std::fmt;

use super::Landing;

/// What kind of trouble an origin gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorClass {
    /// Credentials refused or expired, or no permission.
    Auth,
    /// A quota, billing or storage limit of the account.
    Quota,
    /// The bucket does not exist (or not at this endpoint).
    MissingBucket,
    /// A condition did not hold: the origin holds something else than we think.
    Conflict,
    /// The origin saw other bytes than we sent.
    Checksum,
    /// The origin failed inside (5xx).
    ServerError,
    /// The origin asks to slow down.
    Throttled,
    /// No answer: connect failure, reset, timeout, DNS.
    Network,
    /// The clocks of the two ends differ too much for signatures.
    ClockSkew,
    /// The object or its metadata is larger than the origin takes.
    TooLarge,
    /// Our own fence fell while sending: deadline passed or leadership lost.
    Fenced,
    /// Refused for a reason that none of the others names.
    Other,
}

impl ErrorClass {
    /// Every class, for tables and metrics.
    pub const ALL: [ErrorClass; 12] = [
        ErrorClass::Auth,
        ErrorClass::Quota,
        ErrorClass::MissingBucket,
        ErrorClass::Conflict,
        ErrorClass::Checksum,
        ErrorClass::ServerError,
        ErrorClass::Throttled,
        ErrorClass::Network,
        ErrorClass::ClockSkew,
        ErrorClass::TooLarge,
        ErrorClass::Fenced,
        ErrorClass::Other,
    ];

    /// The name used in metrics, logs and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorClass::Auth => "auth",
            ErrorClass::Quota => "quota",
            ErrorClass::MissingBucket => "missing_bucket",
            ErrorClass::Conflict => "conflict",
            ErrorClass::Checksum => "checksum",
            ErrorClass::ServerError => "server_error",
            ErrorClass::Throttled => "throttled",
            ErrorClass::Network => "network",
            ErrorClass::ClockSkew => "clock_skew",
            ErrorClass::TooLarge => "too_large",
            ErrorClass::Fenced => "fenced",
            ErrorClass::Other => "other",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Codes first: a code says more than its status, and compatible origins disagree on statuses.
const CODES: [(&str, ErrorClass); 44] = [
    ("AccessDenied", ErrorClass::Auth),
    ("AccountProblem", ErrorClass::Auth),
    ("AllAccessDisabled", ErrorClass::Auth),
    ("ExpiredToken", ErrorClass::Auth),
    ("InvalidAccessKeyId", ErrorClass::Auth),
    ("InvalidClientTokenId", ErrorClass::Auth),
    ("InvalidSecurity", ErrorClass::Auth),
    ("InvalidToken", ErrorClass::Auth),
    ("NotSignedUp", ErrorClass::Auth),
    ("SignatureDoesNotMatch", ErrorClass::Auth),
    ("UnauthorizedAccess", ErrorClass::Auth),
    ("XMinioInvalidAccessKeyId", ErrorClass::Auth),
    ("AccountQuotaExceeded", ErrorClass::Quota),
    ("BucketQuotaExceeded", ErrorClass::Quota),
    ("QuotaExceeded", ErrorClass::Quota),
    ("ServiceQuotaExceeded", ErrorClass::Quota),
    ("XMinioAdminBucketQuotaExceeded", ErrorClass::Quota),
    ("XMinioStorageFull", ErrorClass::Quota),
    ("InsufficientStorage", ErrorClass::Quota),
    ("NoSuchBucket", ErrorClass::MissingBucket),
    ("PermanentRedirect", ErrorClass::MissingBucket),
    ("AuthorizationHeaderMalformed", ErrorClass::MissingBucket),
    ("ConditionalRequestConflict", ErrorClass::Conflict),
    ("OperationAborted", ErrorClass::Conflict),
    ("PreconditionFailed", ErrorClass::Conflict),
    ("BadDigest", ErrorClass::Checksum),
    ("ChecksumMismatch", ErrorClass::Checksum),
    ("InvalidDigest", ErrorClass::Checksum),
    ("XAmzContentChecksumMismatch", ErrorClass::Checksum),
    ("XAmzContentSHA256Mismatch", ErrorClass::Checksum),
    ("IncompleteBody", ErrorClass::Network),
    ("RequestTimeout", ErrorClass::Network),
    ("RequestExpired", ErrorClass::ClockSkew),
    ("RequestInTheFuture", ErrorClass::ClockSkew),
    ("RequestTimeTooSkewed", ErrorClass::ClockSkew),
    // With the status 200, as the late answer to the completion of an upload.
    ("InternalError", ErrorClass::ServerError),
    ("ServiceUnavailable", ErrorClass::ServerError),
    ("RequestLimitExceeded", ErrorClass::Throttled),
    ("SlowDown", ErrorClass::Throttled),
    ("SlowDownWrite", ErrorClass::Throttled),
    ("TooManyRequests", ErrorClass::Throttled),
    ("EntityTooLarge", ErrorClass::TooLarge),
    ("KeyTooLongError", ErrorClass::TooLarge),
    ("MetadataTooLarge", ErrorClass::TooLarge),
];

/// The class of an HTTP answer.
pub fn class_of(status: u16, code: Option<&str>) -> ErrorClass {
    if let Some(code) = code
        && let Some((_, class)) = CODES.iter().find(|(name, _)| *name == code)
    {
        return *class;
    }
    match status {
        301 | 307 => ErrorClass::MissingBucket,
        401 | 403 => ErrorClass::Auth,
        402 | 507 => ErrorClass::Quota,
        408 => ErrorClass::Network,
        409 | 412 => ErrorClass::Conflict,
        413 | 414 | 431 => ErrorClass::TooLarge,
        429 => ErrorClass::Throttled,
        500.. => ErrorClass::ServerError,
        _ => ErrorClass::Other,
    }
}

/// What an HTTP answer proves about a request that was sent: only a 3xx or 4xx is a refusal.
///
/// 408 is not: it is also what a proxy says that gave up waiting for the server behind it. No 5xx is
/// either, not even a throttling one: some origins answer 503 after a write that reached part of their
/// disks.
pub fn landing_of(status: u16) -> Landing {
    match status {
        300..=407 | 409..=499 => Landing::NotApplied,
        _ => Landing::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_win_over_statuses() {
        assert_eq!(class_of(400, Some("ExpiredToken")), ErrorClass::Auth);
        assert_eq!(class_of(403, Some("RequestTimeTooSkewed")), ErrorClass::ClockSkew);
        assert_eq!(class_of(503, Some("SlowDown")), ErrorClass::Throttled);
        assert_eq!(class_of(400, Some("BadDigest")), ErrorClass::Checksum);
        assert_eq!(class_of(404, Some("NoSuchBucket")), ErrorClass::MissingBucket);
    }

    #[test]
    fn statuses_decide_without_a_known_code() {
        assert_eq!(class_of(412, None), ErrorClass::Conflict);
        assert_eq!(class_of(403, Some("MadeUp")), ErrorClass::Auth);
        assert_eq!(class_of(500, None), ErrorClass::ServerError);
        assert_eq!(class_of(599, None), ErrorClass::ServerError);
        assert_eq!(class_of(429, None), ErrorClass::Throttled);
        assert_eq!(class_of(413, None), ErrorClass::TooLarge);
        // A length that was lost on the way says nothing of the object.
        assert_eq!(class_of(411, Some("MissingContentLength")), ErrorClass::Other);
        assert_eq!(class_of(418, None), ErrorClass::Other);
    }

    #[test]
    fn only_refusals_prove_that_nothing_was_applied() {
        for status in [400, 401, 403, 404, 409, 412, 413, 429] {
            assert_eq!(landing_of(status), Landing::NotApplied, "{status}");
        }
        for status in [100, 200, 204, 408, 500, 502, 503, 504, 507] {
            assert_eq!(landing_of(status), Landing::Unknown, "{status}");
        }
    }
}
