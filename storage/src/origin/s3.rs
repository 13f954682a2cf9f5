//! An S3 bucket as origin, by the AWS SDK: one request per call (a HEAD that finds nothing: two), every safety of
//! ours around it.
//!
//! Owns the SDK client and its settings; the SDK is named nowhere but here and in the files below: `config`, `attempt`
//! one request that changes something, `body` its bytes, `digest` their MD5, `count` how many there were, `write`, `upload`, `read`, `list` the
//! operations, `text` and `error` how the SDK's values become ours.
//!
//! What must hold: the SDK retries nothing; a PUT whose fence fell or whose deadline passed does not
//! send the last chunk of its body (PITFALLS 25); secrets appear in no `Debug` and no message.
//!
//! A request that outlives its sender is held off four times: the fence before the last chunk,
//! signatures in the query that expire at the deadline (an origin judges them when the head of a request
//! arrives), conditions where the origin has them, and the wait of the queue. What remains: an origin
//! without conditions, and a sender that is stopped *between* the fence's answer and the socket, or
//! bytes that wait in the network, for longer than deadline and margin.

mod attempt;
mod body;
mod config;
mod count;
mod digest;
mod error;
mod list;
mod read;
#[cfg(test)]
mod tests;
mod text;
mod upload;
mod write;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
};
use aws_sdk_s3::error::SdkError;
use aws_smithy_http_client::Builder as HttpClientBuilder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use self::attempt::{Attempt, AttemptInterceptor};
pub use self::config::{S3OriginConfig, Secret};
use self::count::CountInterceptor;
use self::digest::Digests;
use self::error::{SdkCause, SdkOrTimeout};
use super::traffic::{OriginOp, Traffic};
use super::{
    AbortReply, BeginRequest, CompleteRequest, DeleteRequest, Fence, HeadReply, ListReply, ListRequest,
    ListedUpload, Origin, OriginError, OriginKey, PartRequest, PutReply, PutRequest, ReadReply, ReadRequest,
    SentPart, UploadId,
};

/// One bucket.
pub struct S3Origin {
    client: Client,
    bucket: String,
    name: String,
    request_timeout: Duration,
    query_signed: bool,
    digests: Digests,
    traffic: Arc<Traffic>,
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
        let traffic: Arc<Traffic> = Arc::default();
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
            .http_client(http_client(plain))
            .interceptor(CountInterceptor { traffic: traffic.clone() });
        builder.set_endpoint_url(config.endpoint);
        S3Origin {
            client: Client::from_conf(builder.build()),
            name: format!("s3://{}", config.bucket),
            bucket: config.bucket,
            request_timeout: config.request_timeout,
            query_signed: config.query_signed,
            digests: Digests::default(),
            traffic,
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
        op: OriginOp,
        answer: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, SdkOrTimeout<E>> {
        match tokio::time::timeout(self.request_timeout, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(SdkOrTimeout::Sdk(op, error)),
            Err(_) => Err(SdkOrTimeout::Timeout),
        }
    }
}

#[async_trait]
impl Origin for S3Origin {
    fn name(&self) -> &str {
        &self.name
    }

    fn traffic(&self) -> Option<&Traffic> {
        Some(&self.traffic)
    }

    async fn put(&self, request: PutRequest) -> Result<PutReply, OriginError> {
        self.put_object(request).await
    }

    async fn begin_upload(&self, request: BeginRequest) -> Result<UploadId, OriginError> {
        self.create_upload(request).await
    }

    async fn put_part(&self, request: PartRequest) -> Result<SentPart, OriginError> {
        self.upload_part(request).await
    }

    async fn complete_upload(&self, request: CompleteRequest) -> Result<PutReply, OriginError> {
        self.finish_upload(request).await
    }

    async fn abort_upload(&self, key: &OriginKey, upload: &UploadId) -> Result<AbortReply, OriginError> {
        self.give_upload_up(key, upload).await
    }

    async fn list_uploads(&self, key: &OriginKey) -> Result<Vec<ListedUpload>, OriginError> {
        self.uploads_of(key).await
    }

    async fn read(&self, request: ReadRequest) -> Result<Option<ReadReply>, OriginError> {
        self.read_object(request).await
    }

    async fn head(&self, key: &OriginKey) -> Result<Option<HeadReply>, OriginError> {
        self.head_object(key).await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), OriginError> {
        self.delete_object(request).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListReply, OriginError> {
        self.list_objects(request).await
    }
}

fn http_client(plain: bool) -> SharedHttpClient {
    let builder = HttpClientBuilder::new().pool_idle_timeout(Duration::from_secs(20));
    match plain {
        // No certificates are loaded for an endpoint that needs none.
        true => builder.build_http(),
        false => builder.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https(),
    }
}
