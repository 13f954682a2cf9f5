//! Whole objects put and deleted.

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_types::base64;

use super::S3Origin;
use super::body::FencedBody;
use super::text::{header_text, quoted, unquoted, with_expires};
use crate::checksum::ChecksumAlgorithm;
use crate::origin::traffic::OriginOp;
use crate::origin::{Condition, DeleteRequest, ErrorClass, Landing, OriginError, PutReply, PutRequest};

impl S3Origin {
    pub(super) async fn put_object(&self, request: PutRequest) -> Result<PutReply, OriginError> {
        let (attempt, interceptor) = self.attempt(request.deadline, request.fence);
        let length = request.body.len();
        let checksums = request.checksums;
        let md5 = match checksums.md5 {
            None if checksums.sum.is_none() => Some(self.digests.md5(request.body.clone()).await?),
            md5 => md5.map(Vec::from),
        };
        let sum = |of: ChecksumAlgorithm| {
            let sum = checksums.sum.as_ref().filter(|(algorithm, _)| *algorithm == of);
            sum.map(|(_, digest)| base64::encode(digest))
        };
        let body = FencedBody::new(request.body.into(), attempt.clone(), self.traffic.clone());
        let headers = request.headers;
        let (if_none_match, if_match) = match request.condition {
            Condition::None => (None, None),
            Condition::IfAbsent => (Some("*".to_owned()), None),
            Condition::IfMatch(etag) => (None, Some(quoted(&etag))),
        };
        let metadata = request.user_metadata.into_iter().map(|(name, value)| (name, header_text(value)));
        let call = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(request.key.0)
            .body(ByteStream::new(SdkBody::from_body_1_x(body)))
            .content_length(i64::try_from(length).unwrap_or(i64::MAX))
            .set_content_type(headers.content_type)
            .set_content_encoding(headers.content_encoding)
            .set_cache_control(headers.cache_control)
            .set_content_disposition(headers.content_disposition)
            .set_content_language(headers.content_language)
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .set_metadata(Some(metadata.collect()))
            .set_content_md5(md5.map(base64::encode))
            .set_checksum_crc32(sum(ChecksumAlgorithm::Crc32))
            .set_checksum_crc32_c(sum(ChecksumAlgorithm::Crc32c))
            .set_checksum_crc64_nvme(sum(ChecksumAlgorithm::Crc64Nvme))
            .set_checksum_sha1(sum(ChecksumAlgorithm::Sha1))
            .set_checksum_sha256(sum(ChecksumAlgorithm::Sha256))
            .customize()
            .interceptor(interceptor);
        let call = with_expires(call, headers.expires);
        let reply = attempt.send(OriginOp::PutObject, call.send()).await?;
        match reply.e_tag() {
            Some(etag) => Ok(PutReply { etag: unquoted(etag) }),
            None => {
                let message = "the origin answered a PUT without an ETag";
                Err(OriginError::new(ErrorClass::Other, Landing::Unknown, message))
            }
        }
    }

    pub(super) async fn delete_object(&self, request: DeleteRequest) -> Result<(), OriginError> {
        let (attempt, interceptor) = self.attempt(request.deadline, request.fence);
        let call = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(request.key.0)
            .set_if_match(request.if_match.as_ref().map(quoted))
            .customize()
            .interceptor(interceptor);
        match attempt.send(OriginOp::DeleteObject, call.send()).await {
            Ok(_) => Ok(()),
            Err(error) if error.code.as_deref() == Some("NoSuchKey") => Ok(()),
            Err(error) => Err(error),
        }
    }
}
