//! Each HTTP request to the origin, counted by what came back.
//!
//! What must hold: a request counts once, also one that nobody waits for any more; one that never left does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use super::attempt::Attempt;
use crate::origin::ErrorClass;
use crate::origin::traffic::{Answer, OriginOp, Traffic};

/// Counts the requests of a client.
#[derive(Debug)]
pub(super) struct CountInterceptor {
    pub(super) traffic: Arc<Traffic>,
}

/// Which attempt a request belongs to, if it may change something.
#[derive(Debug)]
pub(super) struct AttemptOf(pub(super) Arc<Attempt>);

impl Storable for AttemptOf {
    type Storer = StoreReplace<AttemptOf>;
}

/// A request that leaves. Lives as long as somebody waits for its answer.
#[derive(Debug)]
struct Leaving {
    traffic: Arc<Traffic>,
    op: OriginOp,
    attempt: Option<Arc<Attempt>>,
    answered: AtomicBool,
}

impl Storable for Leaving {
    type Storer = StoreReplace<Leaving>;
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let is = |mark: fn(&Attempt) -> &AtomicBool| {
            self.attempt.as_ref().is_some_and(|attempt| mark(attempt).load(Ordering::Acquire))
        };
        let never_left = self.attempt.is_some() && !is(|attempt| &attempt.handed_over);
        if never_left || self.answered.load(Ordering::Acquire) {
            return;
        }
        let class = if is(|attempt| &attempt.fenced) { ErrorClass::Fenced } else { ErrorClass::Network };
        self.traffic.count(self.op, Answer::Failed(class));
    }
}

#[dyn_dispatch_hint]
impl Intercept for CountInterceptor {
    fn name(&self) -> &'static str {
        "forebay traffic"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(op) = config.load::<Metadata>().and_then(|asked| OriginOp::named(asked.name())) else {
            return Ok(());
        };
        let attempt = config.load::<AttemptOf>().map(|of| of.0.clone());
        let answered = AtomicBool::new(false);
        config.interceptor_state().store_put(Leaving {
            traffic: self.traffic.clone(),
            op,
            attempt,
            answered,
        });
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(leaving) = config.load::<Leaving>() {
            leaving.answered.store(true, Ordering::Release);
            self.traffic.count(leaving.op, Answer::Status(context.response().status().as_u16()));
        }
        Ok(())
    }
}
