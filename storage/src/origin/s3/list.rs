//! Listings of keys.

use aws_sdk_s3::types::EncodingType;

use super::S3Origin;
use super::error::SdkOrTimeout;
use super::text::{millis, unquoted, url_decoded};
use crate::origin::traffic::OriginOp;
use crate::origin::{ErrorClass, Landing, ListReply, ListRequest, ListedObject, OriginError, OriginKey};

impl S3Origin {
    pub(super) async fn list_objects(&self, request: ListRequest) -> Result<ListReply, OriginError> {
        let call = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(request.prefix)
            .max_keys(i32::from(request.max.min(1000)))
            .set_start_after(request.start_after)
            .set_delimiter(request.delimiter)
            .set_continuation_token(request.token)
            .encoding_type(EncodingType::Url)
            .send();
        let reply = self.wait(OriginOp::ListObjects, call).await.map_err(SdkOrTimeout::into_origin_error)?;
        let encoded = reply.encoding_type() == Some(&EncodingType::Url);
        let text_of = |text: &str| {
            let text = if encoded { url_decoded(text) } else { Some(text.to_owned()) };
            let message = "the origin listed a key that is not UTF-8";
            text.ok_or_else(|| OriginError::new(ErrorClass::Other, Landing::NotApplied, message))
        };
        let mut prefixes = Vec::with_capacity(reply.common_prefixes().len());
        for prefix in reply.common_prefixes() {
            prefixes.push(text_of(prefix.prefix().unwrap_or_default())?);
        }
        let mut objects = Vec::with_capacity(reply.contents().len());
        for object in reply.contents() {
            let key = text_of(object.key().unwrap_or_default())?;
            objects.push(ListedObject {
                key: OriginKey(key),
                etag: object.e_tag().map(unquoted),
                bytes: u64::try_from(object.size().unwrap_or(0)).unwrap_or(0),
                modified_ms: millis(object.last_modified()),
            });
        }
        let next = reply.next_continuation_token().map(str::to_owned);
        let truncated = reply.is_truncated().unwrap_or(false);
        if truncated && next.is_none() {
            let message = "the origin cut a listing short without saying how to go on";
            return Err(OriginError::new(ErrorClass::Other, Landing::NotApplied, message));
        }
        Ok(ListReply { objects, prefixes, truncated, next })
    }
}
