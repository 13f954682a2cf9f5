//! Where s3s meets the operations.
//!
//! s3s verifies the signature and then dispatches in one of two ways. Bucket operations come through its
//! trait [`S3`]: it parses their parameters and writes their XML. Object operations, and everything that is
//! not implemented, come through its route, or from the front layer if that has proven the signature: their
//! headers are read and written here, because s3s's own types would change or refuse what S3 takes (bad
//! ranges, unquoted ETags, dates it cannot parse) and cost more than the operation.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use forebay_storage::error::Error;
use forebay_storage::object::{BucketId, ObjectRow, Version};
use forebay_storage::read::{Lookup, ReadView};
use forebay_storage::store::{Store, SyncMode};
use http::{Extensions, HeaderMap, HeaderValue, Method, Uri};
use s3s::auth::{S3Auth, SecretKey};
use s3s::config::{S3Config as S3sConfig, StaticConfigProvider};
use s3s::dto;
use s3s::route::S3Route;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::SigningKeys;
use crate::body::digest_pool::DigestPool;
use crate::body::{AlsoWanted, Announced, Receiving, too_long};
use crate::body_stream::PieceBudget;
use crate::config::S3Config;
use crate::error::Refused;
use crate::host::Domains;
use crate::operation::{self, Operation};
use crate::request::RequestFacts;
use crate::request_id::RequestIds;
use crate::target::Target;

/// XML documents that may be held at once, in permits of [`DOCUMENT_PERMIT_BYTES`]: 32 MiB. Further ones wait
/// unread.
const DOCUMENT_PERMITS: usize = 32 << 10;
const DOCUMENT_PERMIT_BYTES: u64 = 1 << 10;

/// An XML document that has passed the checks its headers asked for.
pub(crate) struct Document {
    bytes: Bytes,
    _held: OwnedSemaphorePermit,
}

impl std::ops::Deref for Document {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What operations work with.
pub(crate) struct Operations {
    pub(crate) store: Store,
    pub(crate) config: Arc<S3Config>,
    pub(crate) keys: Arc<SigningKeys>,
    /// `x-forebay-ack`: what an acknowledgement stands for. Voters and sync mode do not change while a
    /// node runs.
    pub(crate) ack: HeaderValue,
    documents: Arc<Semaphore>,
    pub(crate) digest_pool: DigestPool,
    pub(crate) pieces: PieceBudget,
}

impl Operations {
    /// # Errors
    ///
    /// If the operating system gives no threads.
    pub(crate) fn new(store: Store, config: Arc<S3Config>, keys: Arc<SigningKeys>) -> io::Result<Operations> {
        let voters = store.stats().voters.max(1);
        let copies = voters / 2 + 1;
        let noun = if copies == 1 { "copy" } else { "copies" };
        let sync = match store.sync_mode() {
            SyncMode::Always => "",
            SyncMode::EverySec => ", synced every second",
        };
        let ack = HeaderValue::try_from(format!("{copies}/{voters} {noun}{sync}"))
            .unwrap_or(HeaderValue::from_static("unknown"));
        let documents = Arc::new(Semaphore::new(DOCUMENT_PERMITS));
        let (digest_pool, pieces) = (DigestPool::start()?, PieceBudget::new());
        Ok(Operations { store, config, keys, ack, documents, digest_pool, pieces })
    }

    /// The bucket of that name.
    pub(crate) fn bucket(&self, name: &str) -> Result<BucketId, Refused> {
        self.store.bucket(name.as_bytes()).ok_or_else(|| Refused::no_such_bucket(name))
    }

    /// Writes what an acknowledged write is told by.
    pub(crate) fn acknowledge(&self, version: Version, headers: &mut HeaderMap) {
        if let Ok(version) = HeaderValue::try_from(version.to_string()) {
            headers.insert("x-forebay-version", version);
        }
        headers.insert("x-forebay-ack", self.ack.clone());
    }

    /// What is needed to take the request's body off the socket. s3s lets no anonymous request through.
    pub(crate) fn receiving<'a>(&'a self, facts: &'a RequestFacts) -> Result<Receiving<'a>, Refused> {
        let Some(claim) = &facts.claim else {
            return Err(Refused::new("AccessDenied", 403, "Signature is required"));
        };
        let stall_timeout = self.config.stall_timeout;
        Ok(Receiving { body: &facts.body, claim, keys: &self.keys, stall_timeout })
    }

    /// A whole XML document of at most `limit` bytes, verified. Waits while too much of such is held.
    pub(crate) async fn receive_document(
        &self,
        facts: &RequestFacts,
        announced: &Announced,
        limit: u64,
    ) -> Result<Document, Refused> {
        if announced.length() > limit {
            return Err(too_long(limit));
        }
        let permits = (announced.length() / DOCUMENT_PERMIT_BYTES + 1).min(DOCUMENT_PERMITS as u64) as u32;
        let held = Arc::clone(&self.documents).acquire_many_owned(permits).await;
        let held = held.map_err(|_| Refused::from(Error::Stopping))?;
        let body = announced.receive(self.receiving(facts)?, AlsoWanted::default()).await?;
        Ok(Document { bytes: body.bytes, _held: held })
    }

    /// Looks the key up in its origin, if it must be known and nothing is known of it here.
    pub(crate) async fn look_up(&self, bucket: BucketId, key: &[u8]) -> Result<(), Refused> {
        if self.store.has_lookups() && self.store.is_unknown(bucket, key) {
            self.store.look_up(&[(bucket, key)]).await?;
        }
        Ok(())
    }

    /// What an operation needs before it runs: a mount that takes its write, before a body travels in vain; and what
    /// it depends on looked up, under a mount over data that was there before.
    async fn prepare(
        &self,
        operation: Operation,
        headers: &HeaderMap,
        bucket: BucketId,
        key: &[u8],
    ) -> Result<(), Refused> {
        if !self.store.has_lookups() {
            return Ok(());
        }
        if operation.writes_object() && self.store.is_read_only(bucket, key) {
            return Err(Refused::read_only());
        }
        if operation.depends_on_object(headers) {
            self.look_up(bucket, key).await?;
        }
        Ok(())
    }

    /// The object as it stands, with a view that reads its body where the row does not hold it.
    pub(crate) async fn object(
        &self,
        bucket: BucketId,
        key: &[u8],
    ) -> Result<(ObjectRow, Option<ReadView>), Refused> {
        // The row must come from the view that its body is read through.
        let view = self.store.view()?;
        let row = match view.get(bucket, key) {
            Lookup::Found(row) => row,
            Lookup::Absent => return Err(Refused::no_such_key()),
            Lookup::Later => view.fetch(bucket, key).await?.ok_or_else(Refused::no_such_key)?,
        };
        let view = row.inline_body().is_none().then_some(view);
        Ok((row, view))
    }
}

/// Builds s3s around the operations.
pub(crate) fn build(operations: Arc<Operations>, ids: Arc<RequestIds>) -> S3Service {
    let config = Arc::clone(&operations.config);
    let mut builder = S3ServiceBuilder::new(BucketOperations(Arc::clone(&operations)));
    builder.set_route(ObjectRoute { objects: operations, ids });
    configure(&mut builder, &config);
    builder.build()
}

/// Credentials and limits of s3s.
pub(crate) fn configure(builder: &mut S3ServiceBuilder, config: &S3Config) {
    builder.set_auth(OneKey {
        access_key_id: config.access_key_id.clone(),
        secret: SecretKey::from(config.secret_access_key.expose()),
    });
    let mut s3s_config = S3sConfig::default();
    s3s_config.presigned_url_max_skew_time_secs =
        u32::try_from(config.skew_max.as_secs()).unwrap_or(u32::MAX);
    if !config.domains.is_empty() {
        builder.set_host(Domains(config.domains.clone()));
    }
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(s3s_config))));
}

struct OneKey {
    access_key_id: String,
    secret: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for OneKey {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key_id {
            return Ok(self.secret.clone());
        }
        Err(S3Error::with_message(
            S3ErrorCode::InvalidAccessKeyId,
            "The AWS Access Key Id you provided does not exist in our records.",
        ))
    }
}

/// Operations that s3s takes apart.
struct BucketOperations(Arc<Operations>);

#[async_trait::async_trait]
impl S3 for BucketOperations {
    async fn list_buckets(
        &self,
        req: S3Request<dto::ListBucketsInput>,
    ) -> S3Result<S3Response<dto::ListBucketsOutput>> {
        Ok(S3Response::new(operation::list_buckets::run(&self.0, req.input)?))
    }

    async fn create_bucket(
        &self,
        req: S3Request<dto::CreateBucketInput>,
    ) -> S3Result<S3Response<dto::CreateBucketOutput>> {
        Ok(S3Response::new(operation::create_bucket::run(&self.0, req.input).await?))
    }

    async fn head_bucket(
        &self,
        req: S3Request<dto::HeadBucketInput>,
    ) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        Ok(S3Response::new(operation::head_bucket::run(&self.0, &req.input)?))
    }

    async fn delete_bucket(
        &self,
        req: S3Request<dto::DeleteBucketInput>,
    ) -> S3Result<S3Response<dto::DeleteBucketOutput>> {
        operation::delete_bucket::run(&self.0, &req.input).await?;
        Ok(S3Response::with_status(dto::DeleteBucketOutput {}, http::StatusCode::NO_CONTENT))
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<dto::GetBucketLocationInput>,
    ) -> S3Result<S3Response<dto::GetBucketLocationOutput>> {
        Ok(S3Response::new(operation::get_bucket_location::run(&self.0, &req.input)?))
    }

    async fn list_objects(
        &self,
        req: S3Request<dto::ListObjectsInput>,
    ) -> S3Result<S3Response<dto::ListObjectsOutput>> {
        Ok(S3Response::new(operation::list_objects::run(&self.0, req.input).await?))
    }

    async fn list_object_versions(
        &self,
        req: S3Request<dto::ListObjectVersionsInput>,
    ) -> S3Result<S3Response<dto::ListObjectVersionsOutput>> {
        Ok(S3Response::new(operation::list_object_versions::run(&self.0, req.input).await?))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<dto::ListObjectsV2Input>,
    ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        Ok(S3Response::new(operation::list_objects_v2::run(&self.0, req.input).await?))
    }
}

/// Operations that read and write their own headers; also what is not implemented, which refuses.
#[async_trait::async_trait]
pub(crate) trait ObjectOperations: Send + Sync + 'static {
    /// Runs one for a request that is authentic.
    async fn run(&self, facts: &RequestFacts, headers: &HeaderMap) -> Result<S3Response<Body>, Refused>;
}

#[async_trait::async_trait]
impl ObjectOperations for Operations {
    async fn run(&self, facts: &RequestFacts, headers: &HeaderMap) -> Result<S3Response<Body>, Refused> {
        run_object_operation(self, facts, headers).await
    }
}

/// The way to them from s3s.
pub(crate) struct ObjectRoute<T> {
    pub(crate) objects: Arc<T>,
    pub(crate) ids: Arc<RequestIds>,
}

#[async_trait::async_trait]
impl<T: ObjectOperations> S3Route for ObjectRoute<T> {
    fn is_match(&self, _: &Method, _: &Uri, _: &HeaderMap, extensions: &mut Extensions) -> bool {
        RequestFacts::of(extensions).is_some_and(|facts| !facts.operation.is_dispatched_by_s3s())
    }

    async fn call(&self, req: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let Some(facts) = RequestFacts::of(&req.extensions) else {
            return Err(S3Error::with_message(S3ErrorCode::InternalError, "a request without facts"));
        };
        // A refusal is an answer like others to s3s: it would log each as an error.
        Ok(match self.objects.run(facts, &req.headers).await {
            Ok(response) => response,
            Err(refused) => {
                refused.into_response(req.uri.path(), &facts.id.to_string(), self.ids.host_id().1)
            }
        })
    }
}

async fn run_object_operation(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
) -> Result<S3Response<Body>, Refused> {
    if let Operation::NotImplemented(name) = facts.operation {
        return Err(Refused::not_implemented(name));
    }
    let (bucket, key) = match &facts.target {
        Target::Object { bucket, key } => (bucket, &key[..]),
        Target::Bucket { bucket } => (bucket, &b""[..]),
        Target::Service => return Err(Refused::not_implemented("this request")),
    };
    let bucket = operations.bucket(bucket)?;
    Store::check_key(key)?;
    operations.prepare(facts.operation, headers, bucket, key).await?;
    match facts.operation {
        Operation::PutObject => operation::put_object::run(operations, facts, headers, bucket, key).await,
        Operation::CopyObject => operation::copy_object::run(operations, facts, headers, bucket, key).await,
        Operation::CreateMultipartUpload => {
            operation::create_multipart_upload::run(operations, facts, headers, bucket, key).await
        }
        Operation::UploadPart => operation::upload_part::run(operations, facts, headers, bucket, key).await,
        Operation::UploadPartCopy => {
            operation::upload_part_copy::run(operations, facts, headers, bucket, key).await
        }
        Operation::CompleteMultipartUpload => {
            operation::complete_multipart_upload::run(operations, facts, headers, bucket, key).await
        }
        Operation::AbortMultipartUpload => {
            operation::abort_multipart_upload::run(operations, facts, bucket, key).await
        }
        Operation::ListParts => operation::list_parts::run(operations, facts, bucket, key).await,
        Operation::ListMultipartUploads => {
            operation::list_multipart_uploads::run(operations, facts, bucket).await
        }
        Operation::GetObject => operation::get_object::run(operations, facts, headers, bucket, key).await,
        Operation::HeadObject => operation::head_object::run(operations, facts, headers, bucket, key).await,
        Operation::DeleteObject => operation::delete_object::run(operations, bucket, key).await,
        Operation::DeleteObjects => operation::delete_objects::run(operations, facts, headers, bucket).await,
        Operation::GetObjectAttributes => {
            operation::get_object_attributes::run(operations, headers, bucket, key).await
        }
        Operation::GetObjectTagging => operation::tagging::get(operations, bucket, key).await,
        Operation::DeleteObjectTagging => operation::tagging::delete(operations, bucket, key).await,
        Operation::GetObjectAcl => operation::acl::get_object(operations, bucket, key).await,
        Operation::PutObjectAcl => operation::acl::put_object(operations, facts, headers, bucket, key).await,
        Operation::GetBucketAcl => Ok(operation::acl::get_bucket()),
        Operation::PutBucketAcl => operation::acl::put_bucket(facts, headers),
        Operation::GetBucketVersioning => Ok(operation::bucket_settings::versioning()),
        Operation::GetAbsentSetting(setting) => Err(operation::bucket_settings::absent(setting)),
        Operation::ListBuckets
        | Operation::CreateBucket
        | Operation::HeadBucket
        | Operation::DeleteBucket
        | Operation::GetBucketLocation
        | Operation::ListObjects
        | Operation::ListObjectsV2
        | Operation::ListObjectVersions
        | Operation::NotImplemented(_) => Err(Refused::not_implemented("this request")),
    }
}
