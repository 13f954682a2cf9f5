//! Multipart uploads: begun, sent part by part, completed, given up, listed.
//!
//! What must hold: only the completion changes an object; it is one request, fenced as a PUT is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, EncodingType};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_types::date_time::Format as DateTimeFormat;
use aws_smithy_types::{DateTime, base64};

use super::S3Origin;
use super::body::FencedBody;
use super::error::SdkOrTimeout;
use super::text::{header_text, millis, quoted, unquoted, url_decoded, with_expires};
use crate::origin::traffic::OriginOp;
use crate::origin::{
    AbortReply, BeginRequest, CompleteRequest, Condition, ErrorClass, Fence, LISTED_UPLOADS_MAX, Landing,
    ListedUpload, NO_SUCH_UPLOAD, OriginError, OriginKey, PartRequest, PutReply, SentPart, UploadId,
};

impl S3Origin {
    pub(super) async fn create_upload(&self, request: BeginRequest) -> Result<UploadId, OriginError> {
        let (attempt, interceptor) = self.attempt(request.deadline, Fence::open());
        let headers = request.headers;
        let metadata = request.user_metadata.into_iter().map(|(name, value)| (name, header_text(value)));
        let call = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(request.key.0)
            .set_content_type(headers.content_type)
            .set_content_encoding(headers.content_encoding)
            .set_cache_control(headers.cache_control)
            .set_content_disposition(headers.content_disposition)
            .set_content_language(headers.content_language)
            .set_metadata(Some(metadata.collect()))
            .set_checksum_algorithm(request.crc32c.then_some(ChecksumAlgorithm::Crc32C))
            .customize()
            .interceptor(interceptor);
        let call = with_expires(call, headers.expires);
        let reply = attempt.send(OriginOp::CreateMultipartUpload, call.send()).await?;
        match reply.upload_id() {
            Some(id) if !id.is_empty() => Ok(UploadId(id.to_owned())),
            _ => {
                Err(OriginError::new(ErrorClass::Other, Landing::Unknown, "the origin gave the upload no id"))
            }
        }
    }

    pub(super) async fn upload_part(&self, request: PartRequest) -> Result<SentPart, OriginError> {
        let (attempt, interceptor) = self.attempt(request.deadline, request.fence);
        let length = request.body.len();
        let (number, crc32c) = (request.number, request.crc32c);
        let md5 = match (crc32c, &request.body.memory) {
            (None, Some(bytes)) => Some(self.digests.md5(bytes.clone()).await?),
            // Read as it is sent, so its digest would come too late for a header.
            _ => None,
        };
        let body = FencedBody::new(request.body, attempt.clone(), self.traffic.clone());
        let unreadable = body.unreadable.clone();
        let call = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(request.key.0)
            .upload_id(request.upload.0)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .body(ByteStream::new(SdkBody::from_body_1_x(body)))
            .content_length(i64::try_from(length).unwrap_or(i64::MAX))
            .set_content_md5(md5.map(base64::encode))
            .set_checksum_crc32_c(crc32c.map(|crc| base64::encode(crc.to_be_bytes())))
            .customize()
            .interceptor(interceptor);
        let reply = attempt.send(OriginOp::UploadPart, call.send()).await;
        if let Some(error) = unreadable.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take() {
            return Err(OriginError::new(ErrorClass::Fenced, Landing::Unknown, error.to_string()));
        }
        match reply?.e_tag() {
            Some(etag) => Ok(SentPart { number, etag: unquoted(etag), crc32c }),
            None => {
                let message = "the origin answered a part without an ETag";
                Err(OriginError::new(ErrorClass::Other, Landing::Unknown, message))
            }
        }
    }

    pub(super) async fn finish_upload(&self, request: CompleteRequest) -> Result<PutReply, OriginError> {
        let (attempt, interceptor) = self.attempt(request.deadline, request.fence);
        let (if_none_match, if_match) = match request.condition {
            Condition::None => (None, None),
            Condition::IfAbsent => (Some("*".to_owned()), None),
            Condition::IfMatch(etag) => (None, Some(quoted(&etag))),
        };
        let parts = request.parts.into_iter().map(|part| {
            CompletedPart::builder()
                .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
                .e_tag(quoted(&part.etag))
                .set_checksum_crc32_c(part.crc32c.map(|crc| base64::encode(crc.to_be_bytes())))
                .build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let call = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(request.key.0)
            .upload_id(request.upload.0)
            .multipart_upload(parts)
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .customize()
            .interceptor(interceptor);
        let reply = attempt.send(OriginOp::CompleteMultipartUpload, call.send()).await?;
        match reply.e_tag() {
            Some(etag) => Ok(PutReply { etag: unquoted(etag) }),
            None => {
                let message = "the origin completed an upload without an ETag";
                Err(OriginError::new(ErrorClass::Other, Landing::Unknown, message))
            }
        }
    }

    pub(super) async fn give_upload_up(
        &self,
        key: &OriginKey,
        upload: &UploadId,
    ) -> Result<AbortReply, OriginError> {
        let call =
            self.client.abort_multipart_upload().bucket(&self.bucket).key(&key.0).upload_id(&upload.0).send();
        match self.wait(OriginOp::AbortMultipartUpload, call).await {
            Ok(_) => Ok(AbortReply::GivenUp),
            Err(error) if error.code() == Some(NO_SUCH_UPLOAD) => Ok(AbortReply::NotKnown),
            Err(error) => Err(error.into_origin_error()),
        }
    }

    pub(super) async fn uploads_of(&self, key: &OriginKey) -> Result<Vec<ListedUpload>, OriginError> {
        let mut uploads = Vec::new();
        let mut from: Option<(Option<String>, Option<String>)> = None;
        loop {
            let (key_marker, upload_id_marker) = from.take().unwrap_or_default();
            let date = AnswerDate::default();
            let call = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(&key.0)
                .encoding_type(EncodingType::Url)
                .set_key_marker(key_marker)
                .set_upload_id_marker(upload_id_marker)
                .customize()
                .interceptor(date.clone())
                .send();
            let reply = self
                .wait(OriginOp::ListMultipartUploads, call)
                .await
                .map_err(SdkOrTimeout::into_origin_error)?;
            let encoded = reply.encoding_type() == Some(&EncodingType::Url);
            let now_ms = date.millis();
            for listed in reply.uploads() {
                let named = listed.key().unwrap_or_default();
                let named = if encoded { url_decoded(named) } else { Some(named.to_owned()) };
                if named.as_deref() != Some(&key.0) {
                    continue;
                }
                let Some(id) = listed.upload_id() else { continue };
                let begun_ms = listed.initiated().map(|begun| millis(Some(begun)));
                let age =
                    now_ms.zip(begun_ms).map(|(now, begun)| Duration::from_millis(now.saturating_sub(begun)));
                uploads.push(ListedUpload { upload: UploadId(id.to_owned()), age });
            }
            // Those of longer keys come behind.
            let (next_key, next_id) = (reply.next_key_marker(), reply.next_upload_id_marker());
            let past = next_key.is_none_or(|next| {
                let next = if encoded { url_decoded(next) } else { Some(next.to_owned()) };
                next.as_deref() != Some(&key.0)
            });
            if !reply.is_truncated().unwrap_or(false) || past || uploads.len() >= LISTED_UPLOADS_MAX {
                uploads.truncate(LISTED_UPLOADS_MAX);
                return Ok(uploads);
            }
            from = Some((next_key.map(|_| key.0.clone()), next_id.map(str::to_owned)));
        }
    }
}

/// What an answer says of the time at the origin.
#[derive(Debug, Clone, Default)]
struct AnswerDate(Arc<AtomicU64>);

impl AnswerDate {
    /// Milliseconds since the Unix epoch.
    fn millis(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Acquire)).filter(|millis| *millis > 0)
    }
}

#[dyn_dispatch_hint]
impl Intercept for AnswerDate {
    fn name(&self) -> &'static str {
        "forebay answer date"
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        self.0.store(millis(date.as_ref()), Ordering::Release);
        Ok(())
    }
}
