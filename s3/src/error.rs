//! Errors as S3 knows them: a code, a status, a text, and fields.
//!
//! Owns the one place where kinds of the core become S3 codes, and the XML of an error. The codes decide
//! what clients do: SDKs retry 500 and 503 and nothing else here, so a wrong code means a stuck or a
//! corrupting client.

use std::borrow::Cow;

use forebay_storage::error::Error;
use forebay_storage::mutation::{Outcome, Refusal};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use s3s::{Body, S3Error, S3ErrorCode, S3Response};

use crate::multipart::no_such_upload;
use crate::operation::complete_multipart_upload::{invalid_part, part_too_small};
use crate::xml::element;

/// A request that is answered with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    inner: Box<Inner>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    code: Cow<'static, str>,
    status: StatusCode,
    message: Cow<'static, str>,
    fields: Vec<(&'static str, String)>,
    headers: Vec<(http::HeaderName, HeaderValue)>,
}

impl Refused {
    pub(crate) fn new(
        code: impl Into<Cow<'static, str>>,
        status: u16,
        message: impl Into<Cow<'static, str>>,
    ) -> Refused {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (code, message) = (code.into(), message.into());
        Refused { inner: Box::new(Inner { code, status, message, fields: Vec::new(), headers: Vec::new() }) }
    }

    /// An operation or option that this version does not have; `what` names it.
    pub(crate) fn not_implemented(what: &str) -> Refused {
        Refused::new("NotImplemented", 501, format!("{what} is not implemented; nothing was changed"))
    }

    /// The bucket does not exist.
    pub(crate) fn no_such_bucket(bucket: &str) -> Refused {
        Refused::new("NoSuchBucket", 404, "The specified bucket does not exist")
            .with("BucketName", bucket.to_owned())
    }

    /// The object does not exist.
    pub(crate) fn no_such_key() -> Refused {
        Refused::new("NoSuchKey", 404, "The specified key does not exist.")
    }

    /// The object lies under a mount that nothing is written to.
    pub(crate) fn read_only() -> Refused {
        Refused::new("AccessDenied", 403, "The object lies under a read-only mount")
    }

    /// A condition of the request did not hold.
    pub(crate) fn precondition_failed(condition: &'static str) -> Refused {
        Refused::new(
            "PreconditionFailed",
            412,
            "At least one of the pre-conditions you specified did not hold",
        )
        .with("Condition", condition)
    }

    /// Adds a field to the XML.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Refused {
        self.inner.fields.push((name, value.into()));
        self
    }

    /// Adds a header.
    pub(crate) fn with_header(mut self, name: http::HeaderName, value: HeaderValue) -> Refused {
        self.inner.headers.push((name, value));
        self
    }

    pub(crate) fn code(&self) -> &str {
        &self.inner.code
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> u16 {
        self.inner.status.as_u16()
    }

    pub(crate) fn message(&self) -> &str {
        &self.inner.message
    }

    /// The body of the answer.
    pub(crate) fn to_xml(&self, resource: &str, request_id: &str, host_id: &str) -> String {
        let mut xml = String::with_capacity(256);
        xml.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>");
        let fields = self.inner.fields.iter().map(|(name, value)| (*name, value.as_str()));
        let head = [("Code", &*self.inner.code), ("Message", &*self.inner.message)];
        let tail = [("Resource", resource), ("RequestId", request_id), ("HostId", host_id)];
        for (name, value) in head.into_iter().chain(fields).chain(tail) {
            element(&mut xml, name, value);
        }
        xml.push_str("</Error>");
        xml
    }

    /// The whole answer.
    pub(crate) fn into_response(self, resource: &str, request_id: &str, host_id: &str) -> S3Response<Body> {
        let xml = self.to_xml(resource, request_id, host_id);
        let mut headers: HeaderMap = self.inner.headers.into_iter().collect();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        let mut response = S3Response::with_status(Body::from(xml), self.inner.status);
        response.headers = headers;
        response
    }
}

/// For the operations that s3s dispatches. Fields do not survive: s3s writes code and message only.
impl From<Refused> for S3Error {
    fn from(refused: Refused) -> S3Error {
        let inner = *refused.inner;
        let code = S3ErrorCode::from_bytes(inner.code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
        let mut error = S3Error::with_message(code, inner.message);
        error.set_status_code(inner.status);
        if !inner.headers.is_empty() {
            // s3s replaces its own headers by these, so the content type must come along.
            let mut headers: HeaderMap = inner.headers.into_iter().collect();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            error.set_headers(headers);
        }
        error
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        let text = error.to_string();
        match error {
            Error::Unavailable(_) => Refused::new("ServiceUnavailable", 503, text).retry_after(1),
            Error::Unknown(_) => Refused::new("ServiceUnavailable", 503, text).retry_after(1),
            // Sent again, it is written again, and waits again.
            Error::NotInOrigin(_) => Refused::new("ServiceUnavailable", 503, text).retry_after(5),
            Error::Full(_) => Refused::new("SlowDown", 503, text).retry_after(5),
            Error::KeyTooLong(size) => Refused::new("KeyTooLongError", 400, "Your key is too long")
                .with("Size", size.to_string())
                .with("MaxSizeAllowed", forebay_storage::object::KEY_BYTES_MAX.to_string()),
            Error::BodyLength { .. } => Refused::new("IncompleteBody", 400, text),
            Error::GroupTooLarge(..) | Error::BeyondCapacity(..) => Refused::new("InvalidRequest", 400, text),
            Error::Stopping => Refused::new("ServiceUnavailable", 503, text).retry_after(1),
            Error::Damaged(_) => Refused::new("InternalError", 500, text),
            Error::ChangedInOrigin(_) => Refused::new("OperationAborted", 409, text),
            Error::Disk(_) => Refused::new("InternalError", 500, text),
            Error::InvalidBucketName => Refused::new("InvalidBucketName", 400, text),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        let text = refusal.to_string();
        match refusal {
            Refusal::PreconditionFailed => Refused::precondition_failed("If-Match or If-None-Match"),
            Refusal::NoSuchKey => Refused::no_such_key(),
            Refusal::NoSuchBucket => Refused::new("NoSuchBucket", 404, "The specified bucket does not exist"),
            Refusal::BucketNotEmpty => {
                Refused::new("BucketNotEmpty", 409, "The bucket you tried to delete is not empty")
            }
            Refusal::Mounted(_) | Refusal::Existing(_) => Refused::new("InvalidBucketState", 409, text),
            Refusal::ReadOnly(_) => Refused::new("AccessDenied", 403, text),
            Refusal::OriginKeyTooLong(size) => Refused::new("KeyTooLongError", 400, text)
                .with("Size", size.to_string())
                .with("MaxSizeAllowed", "1024"),
            Refusal::OriginMetaTooLarge(size) => Refused::new("MetadataTooLarge", 400, text)
                .with("Size", size.to_string())
                .with("MaxSizeAllowed", "2048"),
            Refusal::TooFragmented => Refused::new("InvalidRequest", 400, text),
            Refusal::NoSuchUpload => no_such_upload(),
            Refusal::InvalidPart(number) => invalid_part(number),
            Refusal::PartTooSmall(number, len) => part_too_small(number, len),
            Refusal::Aborted | Refusal::NotHeld => {
                Refused::new("ServiceUnavailable", 503, text).retry_after(1)
            }
            Refusal::TooLarge(limit) => entity_too_large(None, limit),
            // Outcomes of RESP's commands and of an operator's; an S3 operation proposes none of them.
            Refusal::NotAnInteger
            | Refusal::MountBusy(_)
            | Refusal::NotAFloat
            | Refusal::Overflow
            | Refusal::NotFinite
            | Refusal::Malformed => Refused::new("InternalError", 500, text),
        }
    }
}

impl Refused {
    fn retry_after(self, seconds: u16) -> Refused {
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// For an outcome that the operation cannot have asked for.
    pub(crate) fn unexpected(outcome: Option<&Outcome>) -> Refused {
        debug_assert!(false, "unexpected outcome {outcome:?}");
        Refused::new("InternalError", 500, "We encountered an internal error. Please try again.")
    }
}

/// The body is over what this version takes.
pub(crate) fn entity_too_large(size: Option<u64>, limit: u64) -> Refused {
    let refused = Refused::new(
        "EntityTooLarge",
        400,
        format!("Your proposed upload exceeds the maximum allowed size: this version takes {limit} bytes"),
    )
    .with("MaxSizeAllowed", limit.to_string());
    match size {
        Some(size) => refused.with("ProposedSize", size.to_string()),
        None => refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_kinds_tell_clients_whether_to_retry() {
        for (error, code, status, retry) in [
            (Error::Unavailable("no leader"), "ServiceUnavailable", 503, true),
            (Error::Unknown("leadership lost"), "ServiceUnavailable", 503, true),
            (Error::Full("dirty limit reached".into()), "SlowDown", 503, true),
            (Error::Stopping, "ServiceUnavailable", 503, true),
            (Error::KeyTooLong(1025), "KeyTooLongError", 400, false),
            (Error::Damaged("row".into()), "InternalError", 500, false),
        ] {
            let response = Refused::from(error).into_response("/", "", "");
            assert_eq!(response.status.map(|s| s.as_u16()), Some(status), "{code}");
            assert_eq!(response.headers.contains_key(RETRY_AFTER), retry, "{code}");
            let body = response.output.bytes().expect("in memory");
            assert!(String::from_utf8_lossy(&body).contains(&format!("<Code>{code}</Code>")));
        }
    }

    #[test]
    fn if_match_on_a_missing_key_is_404_and_a_failed_condition_412() {
        assert_eq!(Refused::from(Refusal::NoSuchKey).status(), 404);
        assert_eq!(Refused::from(Refusal::PreconditionFailed).status(), 412);
    }

    #[test]
    fn s3s_keeps_code_status_and_headers() {
        let error = S3Error::from(Refused::from(Error::Full("full".into())));
        assert_eq!(error.code().as_str(), "SlowDown");
        assert_eq!(error.status_code().map(|s| s.as_u16()), Some(503));
        assert!(error.headers().is_some_and(|h| h.contains_key(RETRY_AFTER) && h.contains_key(CONTENT_TYPE)));
    }

    #[test]
    fn xml_is_escaped() {
        let xml = Refused::new("X", 400, "a<b>&\"c\u{1}").to_xml("/b/k&", "I", "H");
        assert!(xml.contains("<Message>a&lt;b&gt;&amp;&quot;c\u{FFFD}</Message>"), "{xml}");
        assert!(xml.contains("<Resource>/b/k&amp;</Resource>"), "{xml}");
    }
}
