//! One request that changes the origin: what it is allowed, and how far it came.
//!
//! Owns its signature's expiry and the last question to its fence. What must hold: nothing leaves after the deadline or
//! the term; an error says whether anything has left.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_runtime::auth::{HttpSignatureType, PayloadSigningOverride, SigV4OperationSigningConfig};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::SdkError;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeTransmitInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::count::AttemptOf;
use super::error::{SdkCause, SdkOrTimeout};
use crate::origin::traffic::OriginOp;
use crate::origin::{Fence, Landing, OriginError};

/// What one writing request is allowed, and how far it came.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) deadline: Instant,
    pub(super) fence: Fence,
    /// Set before the HTTP client sees the request: false proves that nothing left.
    pub(super) handed_over: AtomicBool,
    /// Set when the fence stopped the body.
    pub(super) fenced: AtomicBool,
}

impl Attempt {
    pub(super) fn may_go_on(&self) -> bool {
        Instant::now() < self.deadline && self.fence.holds()
    }

    pub(super) async fn send<T, E: SdkCause>(
        &self,
        op: OriginOp,
        answer: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, OriginError> {
        if !self.may_go_on() {
            return Err(OriginError::fenced(Landing::NotApplied));
        }
        let error = match tokio::time::timeout_at(self.deadline.into(), answer).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => SdkOrTimeout::Sdk(op, error).into_origin_error(),
            Err(_) => SdkOrTimeout::<E>::Timeout.into_origin_error(),
        };
        let mut error = error;
        if self.fenced.load(Ordering::Acquire) {
            error = OriginError::fenced(Landing::Unknown);
        }
        if !self.handed_over.load(Ordering::Acquire) {
            error.outcome = Landing::NotApplied;
        }
        Err(error)
    }
}

/// Signs an attempt with an expiry, and asks its fence a last time before the head leaves.
#[derive(Debug)]
pub(super) struct AttemptInterceptor {
    pub(super) attempt: Arc<Attempt>,
    pub(super) query_signed: bool,
}

#[dyn_dispatch_hint]
impl Intercept for AttemptInterceptor {
    fn name(&self) -> &'static str {
        "forebay attempt"
    }

    fn modify_before_signing(
        &self,
        _context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(AttemptOf(self.attempt.clone()));
        if !self.query_signed {
            return Ok(());
        }
        if let Some(mut signing) = config.load::<SigV4OperationSigningConfig>().cloned() {
            let left = self.attempt.deadline.saturating_duration_since(Instant::now());
            // Whole seconds, and the origin's clock counts from the signature's: never less than one.
            signing.signing_options.expires_in = Some(Duration::from_secs(left.as_secs() + 1));
            signing.signing_options.signature_type = HttpSignatureType::HttpRequestQueryParams;
            // What S3 assumes of a query-signed request; for a DELETE the SDK would sign the empty body's hash.
            let unsigned = PayloadSigningOverride::unsigned_payload().to_signable_body();
            signing.signing_options.payload_override = Some(unsigned);
            config.interceptor_state().store_put(signing);
        }
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // The query signature leaves this header out, and S3 refuses an `x-amz-*` header that is not signed.
        context.request_mut().headers_mut().remove("x-amz-user-agent");
        Ok(())
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if !self.attempt.may_go_on() {
            self.attempt.fenced.store(true, Ordering::Release);
            return Err("the attempt's deadline or term has passed".into());
        }
        self.attempt.handed_over.store(true, Ordering::Release);
        Ok(())
    }
}
