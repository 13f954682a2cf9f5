//! An S3 bucket as origin, by the AWS SDK: one request per call (a HEAD that finds nothing: two), every safety of
//! ours around it.
//!
//! Owns the SDK client, its settings, and the translation of its errors. The SDK is named nowhere else.
//!
//! What must hold: the SDK retries nothing; a PUT whose fence fell or whose deadline passed does not
//! send the last chunk of its body (PITFALLS 25); secrets appear in no `Debug` and no message.
//!
//! A request that outlives its sender is held off four times: the fence before the last chunk,
//! signatures in the query that expire at the deadline (an origin judges them when the head of a request
//! arrives), conditions where the origin has them, and the wait of the queue. What remains: an origin
//! without conditions, and a sender that is stopped *between* the fence's answer and the socket, or
//! bytes that wait in the network, for longer than deadline and margin.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_runtime::auth::{HttpSignatureType, PayloadSigningOverride, SigV4OperationSigningConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, ConfigBag, Intercept, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    RuntimeComponents, SharedHttpClient,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, EncodingType};
use aws_smithy_http_client::Builder as HttpClientBuilder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
    BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::date_time::Format as DateTimeFormat;
use aws_smithy_types::{DateTime, base64};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Frame, SizeHint};
use md5::{Digest, Md5};

use super::classify::{class_of, landing_of};
use super::{
    AbortReply, BeginRequest, BodyError, CompleteRequest, Condition, ContentHeaders, DeleteRequest,
    ErrorClass, Fence, HeadReply, LISTED_UPLOADS_MAX, Landing, ListReply, ListRequest, ListedObject,
    ListedUpload, NO_SUCH_UPLOAD, Origin, OriginETag, OriginError, OriginKey, PartRequest, PutReply,
    PutRequest, ReadReply, ReadRequest, SentPart, UploadBody, UploadId,
};

/// Bytes of a body handed to the socket at once; the last piece waits for the fence.
const CHUNK_BYTES: usize = 64 * 1024;
/// Longest message taken over from an origin, in bytes.
const MESSAGE_BYTES_MAX: usize = 300;

/// A secret: shown by nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Where an S3 origin is and how to speak to it.
#[derive(Debug, Clone)]
pub struct S3OriginConfig {
    /// URL of the endpoint, `http://` or `https://`; `None` for AWS itself.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: String,
    /// Bucket.
    pub bucket: String,
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: Secret,
    /// Session token of temporary credentials.
    pub session_token: Option<Secret>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`. Almost every custom endpoint needs it.
    pub path_style: bool,
    /// Longest wait for a TCP and TLS connection.
    pub connect_timeout: Duration,
    /// Longest wait for a request without a deadline of its own (head, list), and for the next bytes of a body.
    pub request_timeout: Duration,
    /// Whether PUT and DELETE are signed in the query, with an expiry at their deadline. Off only for an
    /// origin that refuses presigned requests.
    pub query_signed: bool,
}

impl S3OriginConfig {
    /// A config with the defaults: 3 s to connect, 30 s a request; path style for custom endpoints.
    pub fn new(
        endpoint: Option<String>,
        region: impl Into<String>,
        bucket: impl Into<String>,
        access_key_id: impl Into<String>,
        secret_access_key: Secret,
    ) -> S3OriginConfig {
        S3OriginConfig {
            path_style: endpoint.is_some(),
            endpoint,
            region: region.into(),
            bucket: bucket.into(),
            access_key_id: access_key_id.into(),
            secret_access_key,
            session_token: None,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(30),
            query_signed: true,
        }
    }
}

/// One bucket.
pub struct S3Origin {
    client: Client,
    bucket: String,
    name: String,
    request_timeout: Duration,
    query_signed: bool,
}

impl S3Origin {
    /// Builds the client; sends nothing.
    pub fn new(config: S3OriginConfig) -> S3Origin {
        let timeouts = TimeoutConfig::builder().connect_timeout(config.connect_timeout).build();
        let credentials = Credentials::new(
            config.access_key_id,
            config.secret_access_key.0,
            config.session_token.map(|token| token.0),
            None,
            "forebay config",
        );
        let plain = config.endpoint.as_deref().is_some_and(|url| url.starts_with("http://"));
        let mut builder = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(config.region))
            .credentials_provider(credentials)
            .force_path_style(config.path_style)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .http_client(http_client(plain));
        builder.set_endpoint_url(config.endpoint);
        S3Origin {
            client: Client::from_conf(builder.build()),
            name: format!("s3://{}", config.bucket),
            bucket: config.bucket,
            request_timeout: config.request_timeout,
            query_signed: config.query_signed,
        }
    }

    fn attempt(&self, deadline: Instant, fence: Fence) -> (Arc<Attempt>, AttemptInterceptor) {
        let attempt = Arc::new(Attempt {
            deadline,
            fence,
            handed_over: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
        });
        let interceptor = AttemptInterceptor { attempt: attempt.clone(), query_signed: self.query_signed };
        (attempt, interceptor)
    }

    /// Waits for an answer to what changes no object.
    async fn wait<T, E: SdkCause>(
        &self,
        answer: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, SdkOrTimeout<E>> {
        match tokio::time::timeout(self.request_timeout, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(SdkOrTimeout::Sdk(error)),
            Err(_) => Err(SdkOrTimeout::Timeout),
        }
    }

    /// A range that holds no byte of the object, which is there.
    async fn behind_the_end(&self, request: ReadRequest) -> Result<Option<ReadReply>, OriginError> {
        let call = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(&request.key.0)
            .set_if_match(request.if_match.as_ref().map(quoted))
            .send();
        let head = head_of_head(&self.wait(call).await.map_err(SdkOrTimeout::into_origin_error)?);
        let end = head.content_length;
        Ok(Some(ReadReply { head, range: end..end, body: Box::pin(futures_util::stream::empty()) }))
    }
}

/// A body on its way here.
struct Arrival {
    body: ByteStream,
    /// Where the next byte stands in the object.
    at: u64,
    wanted: Range<u64>,
    /// Up to where the answer was announced to reach.
    end: u64,
    /// Longest wait for some bytes.
    stall: Duration,
}

impl Arrival {
    async fn next(mut self) -> Result<Option<(Bytes, Arrival)>, OriginError> {
        let network = |text: String| OriginError::new(ErrorClass::Network, Landing::NotApplied, text);
        while self.at < self.wanted.end {
            let bytes = match tokio::time::timeout(self.stall, self.body.next()).await {
                Err(_) => return Err(network("timed out reading the body".to_owned())),
                Ok(None) => {
                    let missing = self.end - self.at;
                    return Err(network(format!(
                        "the body ended {missing} bytes short of what was announced"
                    )));
                }
                Ok(Some(Err(error))) => return Err(network(format!("reading the body: {error}"))),
                Ok(Some(Ok(bytes))) => bytes,
            };
            let start = self.at;
            self.at += bytes.len() as u64;
            if self.at > self.end {
                return Err(network("the body is longer than was announced".to_owned()));
            }
            let from = self.wanted.start.clamp(start, self.at) - start;
            let to = self.wanted.end.clamp(start, self.at) - start;
            if from < to {
                return Ok(Some((bytes.slice(from as usize..to as usize), self)));
            }
        }
        Ok(None)
    }
}

/// Reads `bytes 0-9/100`.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total.parse().ok()?);
    let range = first..last.checked_add(1)?;
    (range.start < range.end && range.end <= total).then_some((range, total))
}

/// Off the runtime's threads: a part takes tens of milliseconds.
async fn md5_of(bytes: Bytes) -> Result<Vec<u8>, OriginError> {
    let digest = tokio::task::spawn_blocking(move || Md5::digest(&bytes).to_vec()).await;
    digest.map_err(|error| OriginError::new(ErrorClass::Other, Landing::NotApplied, error.to_string()))
}

#[async_trait]
impl Origin for S3Origin {
    fn name(&self) -> &str {
        &self.name
    }

    async fn put(&self, request: PutRequest) -> Result<PutReply, OriginError> {
        let (attempt, interceptor) = self.attempt(request.deadline, request.fence);
        let length = request.body.len();
        let checksums = request.checksums;
        let md5 = match (checksums.crc32c, checksums.crc64nvme, checksums.sha256, checksums.md5) {
            (None, None, None, None) => Some(Md5::digest(&request.body).to_vec()),
            (.., md5) => md5.map(Vec::from),
        };
        let body = FencedBody::new(request.body.into(), attempt.clone());
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
            .set_checksum_crc32_c(checksums.crc32c.map(|crc| base64::encode(crc.to_be_bytes())))
            .set_checksum_crc64_nvme(checksums.crc64nvme.map(|crc| base64::encode(crc.to_be_bytes())))
            .set_checksum_sha256(checksums.sha256.map(base64::encode))
            .customize()
            .interceptor(interceptor);
        // The SDK takes only dates it understands; a client's `Expires` is kept as it was sent.
        let call = match headers.expires {
            Some(expires) => call.mutate_request(move |http| {
                if let Ok(value) = http::HeaderValue::try_from(&expires) {
                    http.headers_mut().insert("expires", value);
                }
            }),
            None => call,
        };
        let reply = attempt.send(call.send()).await?;
        match reply.e_tag() {
            Some(etag) => Ok(PutReply { etag: unquoted(etag) }),
            None => {
                let message = "the origin answered a PUT without an ETag";
                Err(OriginError::new(ErrorClass::Other, Landing::Unknown, message))
            }
        }
    }

    async fn begin_upload(&self, request: BeginRequest) -> Result<UploadId, OriginError> {
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
        let call = match headers.expires {
            Some(expires) => call.mutate_request(move |http| {
                if let Ok(value) = http::HeaderValue::try_from(&expires) {
                    http.headers_mut().insert("expires", value);
                }
            }),
            None => call,
        };
        let reply = attempt.send(call.send()).await?;
        match reply.upload_id() {
            Some(id) if !id.is_empty() => Ok(UploadId(id.to_owned())),
            _ => {
                Err(OriginError::new(ErrorClass::Other, Landing::Unknown, "the origin gave the upload no id"))
            }
        }
    }

    async fn put_part(&self, request: PartRequest) -> Result<SentPart, OriginError> {
        let (attempt, interceptor) = self.attempt(request.deadline, request.fence);
        let length = request.body.len();
        let (number, crc32c) = (request.number, request.crc32c);
        let md5 = match (crc32c, &request.body.memory) {
            (None, Some(bytes)) => Some(md5_of(bytes.clone()).await?),
            // Read as it is sent, so its digest would come too late for a header.
            _ => None,
        };
        let body = FencedBody::new(request.body, attempt.clone());
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
        let reply = attempt.send(call.send()).await;
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

    async fn complete_upload(&self, request: CompleteRequest) -> Result<PutReply, OriginError> {
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
        let reply = attempt.send(call.send()).await?;
        match reply.e_tag() {
            Some(etag) => Ok(PutReply { etag: unquoted(etag) }),
            None => {
                let message = "the origin completed an upload without an ETag";
                Err(OriginError::new(ErrorClass::Other, Landing::Unknown, message))
            }
        }
    }

    async fn abort_upload(&self, key: &OriginKey, upload: &UploadId) -> Result<AbortReply, OriginError> {
        let call =
            self.client.abort_multipart_upload().bucket(&self.bucket).key(&key.0).upload_id(&upload.0).send();
        match self.wait(call).await {
            Ok(_) => Ok(AbortReply::GivenUp),
            Err(error) if error.code() == Some(NO_SUCH_UPLOAD) => Ok(AbortReply::NotKnown),
            Err(error) => Err(error.into_origin_error()),
        }
    }

    async fn list_uploads(&self, key: &OriginKey) -> Result<Vec<ListedUpload>, OriginError> {
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
            let reply = self.wait(call).await.map_err(SdkOrTimeout::into_origin_error)?;
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

    async fn read(&self, request: ReadRequest) -> Result<Option<ReadReply>, OriginError> {
        let header = request.range.as_ref().map(|range| {
            // Inclusive on the wire; an empty range cannot be said there.
            format!("bytes={}-{}", range.start, range.end.saturating_sub(1).max(range.start))
        });
        let call = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(&request.key.0)
            .set_range(header)
            .set_if_match(request.if_match.as_ref().map(quoted))
            .send();
        let reply = match self.wait(call).await {
            Ok(reply) => reply,
            Err(error) if error.code() == Some("NoSuchKey") && error.status() == Some(404) => {
                return Ok(None);
            }
            Err(error) if error.status() == Some(416) => return self.behind_the_end(request).await,
            Err(error) => return Err(error.into_origin_error()),
        };
        let mut head = head_of_get(&reply);
        let range = match (&request.range, reply.content_range()) {
            (None, _) => 0..head.content_length,
            // A server that does not know ranges sends everything.
            (Some(_), None) => 0..head.content_length,
            (Some(_), Some(text)) => {
                let (range, total) = content_range(text).ok_or_else(|| {
                    let message = format!("the origin's Content-Range cannot be read: {}", shortened(text));
                    OriginError::new(ErrorClass::Other, Landing::NotApplied, message)
                })?;
                head.content_length = total;
                range
            }
        };
        let wanted = request.range.unwrap_or(0..u64::MAX);
        let wanted =
            wanted.start.max(range.start)..wanted.end.min(range.end).max(wanted.start.max(range.start));
        let stall = self.request_timeout;
        let state =
            Arrival { body: reply.body, at: range.start, wanted: wanted.clone(), end: range.end, stall };
        let body = futures_util::stream::try_unfold(state, Arrival::next);
        Ok(Some(ReadReply { head, range: wanted, body: Box::pin(body) }))
    }

    async fn head(&self, key: &OriginKey) -> Result<Option<HeadReply>, OriginError> {
        let call = self.client.head_object().bucket(&self.bucket).key(&key.0).send();
        match self.wait(call).await {
            Ok(reply) => Ok(Some(head_of_head(&reply))),
            // A 404 to HEAD has no body: a missing bucket looks the same. A GET says which it is.
            Err(error) if error.status() == Some(404) => {
                let request = ReadRequest { key: key.clone(), range: Some(0..1), if_match: None };
                Ok(self.read(request).await?.map(|reply| reply.head))
            }
            Err(error) => Err(error.into_origin_error()),
        }
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), OriginError> {
        let (attempt, interceptor) = self.attempt(request.deadline, request.fence);
        let call = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(request.key.0)
            .set_if_match(request.if_match.as_ref().map(quoted))
            .customize()
            .interceptor(interceptor);
        match attempt.send(call.send()).await {
            Ok(_) => Ok(()),
            Err(error) if error.code.as_deref() == Some("NoSuchKey") => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, request: ListRequest) -> Result<ListReply, OriginError> {
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
        let reply = self.wait(call).await.map_err(SdkOrTimeout::into_origin_error)?;
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

/// What one writing request is allowed, and how far it came.
#[derive(Debug)]
struct Attempt {
    deadline: Instant,
    fence: Fence,
    /// Set before the HTTP client sees the request: false proves that nothing left.
    handed_over: AtomicBool,
    /// Set when the fence stopped the body.
    fenced: AtomicBool,
}

impl Attempt {
    fn may_go_on(&self) -> bool {
        Instant::now() < self.deadline && self.fence.holds()
    }

    async fn send<T, E: SdkCause>(
        &self,
        answer: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, OriginError> {
        if !self.may_go_on() {
            return Err(OriginError::fenced(Landing::NotApplied));
        }
        let error = match tokio::time::timeout_at(self.deadline.into(), answer).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => SdkOrTimeout::Sdk(error).into_origin_error(),
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
struct AttemptInterceptor {
    attempt: Arc<Attempt>,
    query_signed: bool,
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

/// A body that asks the fence before its last chunk.
struct FencedBody {
    body: UploadBody,
    at: u64,
    attempt: Arc<Attempt>,
    /// The next bytes of a body that is not in memory. The lock is for `Sync` alone: nobody shares it.
    reading: Mutex<Option<BoxFuture<'static, Result<Bytes, BodyError>>>>,
    /// Why the body could not be read.
    unreadable: Arc<Mutex<Option<BodyError>>>,
}

impl FencedBody {
    fn new(body: UploadBody, attempt: Arc<Attempt>) -> FencedBody {
        FencedBody { body, at: 0, attempt, reading: Mutex::new(None), unreadable: Arc::default() }
    }

    /// The next bytes to hand over.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        if let Some(bytes) = &self.body.memory {
            let start = self.at as usize;
            return Poll::Ready(Ok(bytes.slice(start..bytes.len().min(start + CHUNK_BYTES))));
        }
        let reading = self.reading.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (body, at) = (&self.body, self.at);
        let future = reading.get_or_insert_with(|| {
            let body = body.clone();
            Box::pin(async move { body.read_at(at).await })
        });
        let bytes = std::task::ready!(future.as_mut().poll(context));
        *reading = None;
        Poll::Ready(bytes)
    }
}

impl http_body::Body for FencedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.at == self.body.len() {
            return Poll::Ready(None);
        }
        let bytes = match std::task::ready!(self.poll_bytes(context)) {
            Ok(bytes) => bytes,
            Err(error) => {
                *self.unreadable.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
                    Some(error.clone());
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        self.at += bytes.len() as u64;
        let last = self.at == self.body.len();
        if last && !self.attempt.may_go_on() {
            self.attempt.fenced.store(true, Ordering::Release);
            return Poll::Ready(Some(Err("the attempt's deadline or term has passed".into())));
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.body.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.len() - self.at)
    }
}

/// What the SDK's operation errors all are.
trait SdkCause: ProvideErrorMetadata + Error + Send + Sync + 'static {}
impl<E: ProvideErrorMetadata + Error + Send + Sync + 'static> SdkCause for E {}

#[expect(clippy::large_enum_variant, reason = "lives for one match, boxing would cost more")]
enum SdkOrTimeout<E> {
    Sdk(SdkError<E, HttpResponse>),
    Timeout,
}

impl<E: SdkCause> SdkOrTimeout<E> {
    fn status(&self) -> Option<u16> {
        match self {
            SdkOrTimeout::Sdk(error) => error.raw_response().map(|raw| raw.status().as_u16()),
            SdkOrTimeout::Timeout => None,
        }
    }

    fn code(&self) -> Option<&str> {
        match self {
            SdkOrTimeout::Sdk(SdkError::ServiceError(error)) => error.err().code(),
            _ => None,
        }
    }

    fn into_origin_error(self) -> OriginError {
        let network = |outcome, message: &str| OriginError::new(ErrorClass::Network, outcome, message);
        let error = match self {
            SdkOrTimeout::Timeout => return network(Landing::Unknown, "timed out waiting for the origin"),
            SdkOrTimeout::Sdk(error) => error,
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

fn shortened(message: &str) -> String {
    let end = (0..=MESSAGE_BYTES_MAX.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message[..end.unwrap_or(0)].to_owned()
}

fn quoted(etag: &OriginETag) -> String {
    format!("\"{}\"", etag.0)
}

fn unquoted(etag: &str) -> OriginETag {
    OriginETag(etag.trim_matches('"').to_owned())
}

/// Metadata values are ASCII on the wire; anything else travels as S3 itself shows it, in RFC 2047's
/// base64 form.
fn header_text(value: String) -> String {
    match value.bytes().all(|byte| (0x20..0x7F).contains(&byte) || byte == b'\t') {
        true => value,
        false => format!("=?UTF-8?B?{}?=", base64::encode(value)),
    }
}

/// Percent decoding as LIST does it (`+` is a space); `None` if the result is not UTF-8.
fn url_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let mut byte = [0];
        rest = match first {
            b'%' if tail.len() >= 2 && hex::decode_to_slice(&tail[..2], &mut byte).is_ok() => {
                out.push(byte[0]);
                &tail[2..]
            }
            b'+' => {
                out.push(b' ');
                tail
            }
            plain => {
                out.push(*plain);
                tail
            }
        };
    }
    String::from_utf8(out).ok()
}

/// Milliseconds since the Unix epoch; 0 for no time, or one before.
fn millis(time: Option<&DateTime>) -> u64 {
    time.and_then(|time| u64::try_from(time.to_millis().ok()?).ok()).unwrap_or(0)
}

macro_rules! head_reply {
    ($reply:expr) => {{
        let reply = $reply;
        let mut user_metadata: Vec<(String, String)> =
            reply.metadata().map(|all| all.clone().into_iter().collect()).unwrap_or_default();
        user_metadata.sort();
        HeadReply {
            etag: unquoted(reply.e_tag().unwrap_or_default()),
            content_length: u64::try_from(reply.content_length().unwrap_or(0)).unwrap_or(0),
            modified_ms: millis(reply.last_modified()),
            headers: ContentHeaders {
                content_type: reply.content_type().map(str::to_owned),
                content_encoding: reply.content_encoding().map(str::to_owned),
                cache_control: reply.cache_control().map(str::to_owned),
                content_disposition: reply.content_disposition().map(str::to_owned),
                content_language: reply.content_language().map(str::to_owned),
                expires: reply.expires_string().map(str::to_owned),
            },
            user_metadata,
        }
    }};
}

fn head_of_get(reply: &GetObjectOutput) -> HeadReply {
    head_reply!(reply)
}

fn head_of_head(reply: &HeadObjectOutput) -> HeadReply {
    head_reply!(reply)
}

fn http_client(plain: bool) -> SharedHttpClient {
    let builder = HttpClientBuilder::new().pool_idle_timeout(Duration::from_secs(20));
    match plain {
        // No certificates are loaded for an endpoint that needs none.
        true => builder.build_http(),
        false => builder.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https(),
    }
}

#[cfg(test)]
mod tests;
