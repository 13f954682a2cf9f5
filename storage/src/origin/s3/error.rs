//! What the SDK's errors say of a request: the class, whether it can have changed anything, and a sentence.
//!
//! What must hold: a message holds no secret and no URL, and is short; what did not certainly fail before it left is
//! unknown.

use std::error::Error;
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::origin::classify::{class_of, landing_of};
use crate::origin::traffic::OriginOp;
use crate::origin::{ErrorClass, Landing, OriginError};

/// Longest message taken over from an origin, in bytes.
const MESSAGE_BYTES_MAX: usize = 300;

/// What the SDK's operation errors all are.
pub(super) trait SdkCause: ProvideErrorMetadata + Error + Send + Sync + 'static {}
impl<E: ProvideErrorMetadata + Error + Send + Sync + 'static> SdkCause for E {}

#[expect(clippy::large_enum_variant, reason = "lives for one match, boxing would cost more")]
pub(super) enum SdkOrTimeout<E> {
    /// Of this request.
    Sdk(OriginOp, SdkError<E, HttpResponse>),
    Timeout,
}

impl<E: SdkCause> SdkOrTimeout<E> {
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            SdkOrTimeout::Sdk(_, error) => error.raw_response().map(|raw| raw.status().as_u16()),
            SdkOrTimeout::Timeout => None,
        }
    }

    pub(super) fn code(&self) -> Option<&str> {
        match self {
            SdkOrTimeout::Sdk(_, SdkError::ServiceError(error)) => error.err().code(),
            _ => None,
        }
    }

    pub(super) fn into_origin_error(self) -> OriginError {
        let network = |outcome, message: &str| OriginError::new(ErrorClass::Network, outcome, message);
        let (op, error) = match self {
            SdkOrTimeout::Timeout => return network(Landing::Unknown, "timed out waiting for the origin"),
            SdkOrTimeout::Sdk(op, error) => (op, error),
        };
        match &error {
            SdkError::ServiceError(service) => {
                let raw = service.raw();
                let status = raw.status().as_u16();
                let code = service.err().code().filter(|code| !code.is_empty());
                let message = match service.err().message() {
                    Some(message) => shortened(message),
                    None => format!("HTTP status {status}"),
                };
                let message = match code {
                    // A refused HEAD has no body that could say why.
                    Some("AccessDenied" | "AllAccessDisabled" | "UnauthorizedAccess") => {
                        refused(op, &message)
                    }
                    None if status == 403 => refused(op, &message),
                    _ => message,
                };
                OriginError {
                    class: class_of(status, code),
                    outcome: landing_of(status),
                    code: code.map(shortened),
                    message,
                    retry_after: retry_after(raw),
                }
            }
            SdkError::ResponseError(odd) => {
                let status = odd.raw().status().as_u16();
                let message = format!("the answer (HTTP status {status}) could not be read");
                OriginError::new(class_of(status, None), landing_of(status), message)
            }
            SdkError::DispatchFailure(failure) => {
                let Some(connector) = failure.as_connector_error() else {
                    return network(Landing::Unknown, "the request failed on its way");
                };
                match never_connected(connector) {
                    true => {
                        let message = format!("cannot connect: {}", innermost(connector));
                        network(Landing::NotApplied, &message)
                    }
                    false => {
                        network(Landing::Unknown, &format!("connection failed: {}", innermost(connector)))
                    }
                }
            }
            SdkError::TimeoutError(_) => network(Landing::Unknown, "timed out waiting for the origin"),
            SdkError::ConstructionFailure(_) => {
                let message = format!(
                    "the request could not be built: {}",
                    error.source().map(innermost).unwrap_or_default()
                );
                OriginError::new(ErrorClass::Other, Landing::NotApplied, message)
            }
            _ => network(Landing::Unknown, "the request failed"),
        }
    }
}

/// Names the request that was refused, and what must be allowed.
fn refused(op: OriginOp, message: &str) -> String {
    let also = match op {
        // Without it an absent key is refused instead of being called absent.
        OriginOp::GetObject | OriginOp::HeadObject => " and s3:ListBucket",
        _ => "",
    };
    format!("{} was refused, which needs {}{also}: {message}", op.as_str(), op.permission())
}

/// The text of the innermost cause. Outer layers repeat it or name URLs.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    shortened(&inner.to_string())
}

/// Whether an error proves that no connection was made for this request, so that no byte of it left.
fn never_connected(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(client) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return client.is_connect();
        }
        cause = error.source();
    }
    false
}

fn retry_after(raw: &HttpResponse) -> Option<Duration> {
    let seconds = raw.headers().get("retry-after")?.parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

/// At most [`MESSAGE_BYTES_MAX`] of it.
pub(super) fn shortened(message: &str) -> String {
    let end = (0..=MESSAGE_BYTES_MAX.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message[..end.unwrap_or(0)].to_owned()
}
