//! What the front layer found out about a request, handed to the operation through s3s.

use std::sync::Arc;

use http::Extensions;

use crate::auth::ClaimedSignature;
use crate::body::RequestBody;
use crate::operation::Operation;
use crate::query::Query;
use crate::request_id::RequestId;
use crate::target::Target;

/// Facts about one request. They travel in its extensions; s3s passes those on untouched.
pub(crate) struct RequestFacts {
    pub(crate) id: RequestId,
    pub(crate) operation: Operation,
    pub(crate) target: Target,
    pub(crate) query: Query,
    /// The signature that `signature` or s3s verifies before any operation runs; `None` is refused by s3s.
    pub(crate) claim: Option<ClaimedSignature>,
    /// Still on the socket.
    pub(crate) body: Arc<RequestBody>,
}

impl RequestFacts {
    /// The facts of the request with these extensions.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Arc<RequestFacts>> {
        extensions.get::<Arc<RequestFacts>>()
    }
}
