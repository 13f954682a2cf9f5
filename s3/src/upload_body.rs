//! Bodies of PutObject and UploadPart on their way to the core: small ones whole, large ones staged while they
//! arrive.
//!
//! Must hold: nothing is submitted before every check of the body has passed; a request that fails, or whose
//! client goes, gives up what was staged of it (a dropped writer does).

use bytes::Bytes;
use forebay_storage::mutation::Payload;
use forebay_storage::object::BucketId;
use forebay_storage::stage::{BodyOf, BodyWriter, StagedBody};
use forebay_storage::submission::Submission;

use crate::body::{AlsoWanted, Announced, Sink, Verified};
use crate::error::Refused;
use crate::request::RequestFacts;
use crate::service::Operations;

/// Longest body of one PUT, as on AWS.
pub(crate) const UPLOAD_BYTES_MAX: u64 = 5 << 30;

/// A body that was received and verified.
pub(crate) enum UploadBody {
    /// In memory, to travel in the mutation.
    Inline(Bytes),
    /// In segments, durable.
    Staged(StagedBody),
}

impl UploadBody {
    /// Takes the body off the socket.
    pub(crate) async fn receive(
        operations: &Operations,
        facts: &RequestFacts,
        announced: &Announced,
        bucket: BucketId,
        of: BodyOf,
        also: AlsoWanted,
    ) -> Result<(UploadBody, Verified), Refused> {
        let from = operations.receiving(facts)?;
        if !is_staged(operations, announced) {
            let body = announced.receive(from, also).await?;
            return Ok((UploadBody::Inline(body.bytes), body.verified));
        }
        let writer = operations.store.stage_body(bucket, announced.length(), of)?;
        let mut staging = Staging { writer: Some(writer), staged: None };
        let verified = announced.receive_into(from, also, &operations.digest_pool, &mut staging).await?;
        let staged = staging.staged.ok_or_else(|| Refused::unexpected(None))?;
        Ok((UploadBody::Staged(staged), verified))
    }

    /// What a mutation names it by.
    pub(crate) fn payload(&self) -> Payload<'_> {
        match self {
            UploadBody::Inline(bytes) => Payload::Inline(bytes),
            UploadBody::Staged(staged) => staged.payload(),
        }
    }

    /// Goes with the submission of that mutation.
    pub(crate) fn carry(self, submission: &mut Submission) {
        if let UploadBody::Staged(staged) = self {
            submission.carry(staged);
        }
    }
}

/// Whether the body is too long for the log.
pub(crate) fn is_staged(operations: &Operations, announced: &Announced) -> bool {
    announced.length() > operations.store.inline_bytes_max()
}

/// A staged body being written.
struct Staging {
    writer: Option<BodyWriter>,
    staged: Option<StagedBody>,
}

impl Sink for Staging {
    async fn take(&mut self, piece: Bytes) -> Result<(), Refused> {
        match &mut self.writer {
            Some(writer) => Ok(writer.write(piece).await?),
            None => Err(Refused::unexpected(None)),
        }
    }

    async fn end(&mut self) -> Result<(), Refused> {
        if let Some(writer) = self.writer.take() {
            self.staged = Some(writer.finish().await?);
        }
        Ok(())
    }
}
