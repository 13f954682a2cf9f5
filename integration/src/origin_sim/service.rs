//! The S3 operations of the simulated origin, on s3s.
//!
//! Bodies are verified before the state lock is taken; conditions are judged and applied under it, so
//! conditional writes are atomic.
//!
//! Of a body only the digests that its request announces are computed, and its MD5 once: the benchmarks measure
//! those who send to this origin.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use md5::{Digest, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum as _;
use s3s::dto::*;
use s3s::{Body, S3, S3Request, S3Response, S3Result, TrailingHeaders, s3_error};
use time::OffsetDateTime;

use super::Shared;
use super::buckets::{Buckets, Listing, StoredObject};
use super::record::{Change, Source};

const LIST_PAGE_MAX: usize = 1_000;
/// Room that is made for a body because of its announced length.
const BODY_RESERVE_MAX: usize = 1 << 30;
/// What a body's checksum may come in: a header, or a trailer.
const SUM_HEADERS: [&str; 5] = [
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-checksum-crc64nvme",
];

/// Request extension: conditional headers count as absent.
#[derive(Debug, Clone, Copy)]
pub(super) struct IgnoreConditions;

/// Request extension: applied after its sender gave up.
#[derive(Debug, Clone, Copy)]
pub(super) struct LateRequest;

/// Request extension: a change that is worked on for so long, after it was found authentic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assembling(pub(super) Duration);

impl Assembling {
    async fn is_over<T>(request: &S3Request<T>) {
        if let Some(Assembling(delay)) = request.extensions.get() {
            tokio::time::sleep(*delay).await;
        }
    }
}

/// A multipart upload under way.
pub(crate) struct Upload {
    bucket: String,
    pub(crate) key: String,
    metadata: HashMap<String, String>,
    headers: BTreeMap<&'static str, String>,
    /// The algorithm that its parts must come with.
    checksum: Option<String>,
    begun: OffsetDateTime,
    pub(crate) parts: BTreeMap<i32, Part>,
}

/// A part that has arrived.
pub(crate) struct Part {
    body: Bytes,
    md5: [u8; 16],
}

pub(super) struct SimS3 {
    shared: Arc<Shared>,
}

impl SimS3 {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn store(&self, target: &Write<'_>, object: StoredObject) -> S3Result<String> {
        let etag = object.etag.clone();
        let change = Change::put(self.shared.elapsed(), target.bucket, target.key, &object, target.source);
        let mut state = self.shared.state.lock();
        target.judge(&state.buckets)?;
        state.buckets.put(target.bucket, target.key, object);
        state.record.push(change);
        Ok(etag)
    }

    fn remove(&self, target: &Write<'_>) -> S3Result<()> {
        let change = Change::delete(self.shared.elapsed(), target.bucket, target.key, target.source);
        let mut state = self.shared.state.lock();
        target.judge(&state.buckets)?;
        state.buckets.delete(target.bucket, target.key);
        state.record.push(change);
        Ok(())
    }

    fn find(&self, bucket: &str, key: &str) -> S3Result<StoredObject> {
        let state = self.shared.state.lock();
        if !state.buckets.has(bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        state.buckets.get(bucket, key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }
}

/// A change about to be applied, with its conditions.
struct Write<'a> {
    bucket: &'a str,
    key: &'a str,
    if_match: Option<&'a ETagCondition>,
    if_none_match: Option<&'a ETagCondition>,
    source: Source,
}

impl<'a> Write<'a> {
    fn of<T>(request: &S3Request<T>, bucket: &'a str, key: &'a str) -> Self {
        let late = request.extensions.get::<LateRequest>().is_some();
        let source = if late { Source::Late } else { Source::Request };
        Self { bucket, key, if_match: None, if_none_match: None, source }
    }

    fn when<T>(
        mut self,
        request: &S3Request<T>,
        if_match: Option<&'a ETagCondition>,
        if_none_match: Option<&'a ETagCondition>,
    ) -> Self {
        if request.extensions.get::<IgnoreConditions>().is_none() {
            (self.if_match, self.if_none_match) = (if_match, if_none_match);
        }
        self
    }

    fn judge(&self, buckets: &Buckets) -> S3Result<()> {
        if !buckets.has(self.bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        let stored = buckets.get(self.bucket, self.key);
        if let Some(condition) = self.if_match {
            match stored {
                None => return Err(s3_error!(NoSuchKey)),
                Some(object) if !matches(condition, object) => return Err(s3_error!(PreconditionFailed)),
                Some(_) => {}
            }
        }
        match (self.if_none_match, stored) {
            (Some(condition), Some(object)) if matches(condition, object) => {
                Err(s3_error!(PreconditionFailed))
            }
            _ => Ok(()),
        }
    }
}

fn matches(condition: &ETagCondition, object: &StoredObject) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.etag,
    }
}

#[async_trait::async_trait]
impl S3 for SimS3 {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        if !self.shared.state.lock().buckets.create(&req.input.bucket) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        if !self.shared.state.lock().buckets.has(&req.input.bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let state = self.shared.state.lock();
        let buckets = state
            .buckets
            .names()
            .map(|name| Bucket { name: Some(name.to_owned()), ..Bucket::default() })
            .collect();
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(buckets), ..ListBucketsOutput::default() }))
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let body = read(req.input.body.take(), req.input.content_length).await?;
        let md5 = <[u8; 16]>::from(Md5::digest(&body));
        check_md5(req.input.content_md5.as_deref(), &md5)?;
        check_sums(&announced(&req.input), req.trailing_headers.as_ref(), &body)?;
        let mut object = StoredObject::with_etag(body, hex::encode(md5));
        object.metadata = req.input.metadata.clone().unwrap_or_default();
        object.headers = content_headers(&req.input)?;
        object.sums = announced(&req.input).into_iter().collect();
        object.sums.extend(req.input.content_md5.clone().map(|md5| ("content-md5", md5)));
        Assembling::is_over(&req).await;
        let target = Write::of(&req, &req.input.bucket, &req.input.key).when(
            &req,
            req.input.if_match.as_ref(),
            req.input.if_none_match.as_ref(),
        );
        let etag = self.store(&target, object)?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..PutObjectOutput::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let object = self.find(&req.input.bucket, &req.input.key)?;
        if req.input.if_match.as_ref().is_some_and(|condition| !matches(condition, &object)) {
            return Err(s3_error!(PreconditionFailed));
        }
        if req.input.if_none_match.as_ref().is_some_and(|condition| matches(condition, &object)) {
            return Err(s3_error!(NotModified));
        }
        let full = object.body.len() as u64;
        let (body, content_range) = match req.input.range {
            None => (object.body.clone(), None),
            Some(range) => {
                let range = range.check(full).map_err(|_| s3_error!(InvalidRange))?;
                let text = format!("bytes {}-{}/{full}", range.start, range.end.saturating_sub(1));
                let bounds = usize_of(range.start)?..usize_of(range.end)?;
                (object.body.slice(bounds), Some(text))
            }
        };
        self.shared.bodies_read.fetch_add(1, Ordering::AcqRel);
        let header = |name: &str| object.headers.get(name).cloned();
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length_of(body.len())?),
            body: Some(StreamingBlob::from(Body::from(body))),
            content_range,
            cache_control: header("cache-control"),
            content_disposition: header("content-disposition"),
            content_encoding: header("content-encoding"),
            content_language: header("content-language"),
            content_type: header("content-type"),
            e_tag: Some(ETag::Strong(object.etag.clone())),
            last_modified: Some(object.modified.into()),
            metadata: Some(object.metadata.clone()),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let object = self.find(&req.input.bucket, &req.input.key)?;
        let header = |name: &str| object.headers.get(name).cloned();
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length_of(object.body.len())?),
            cache_control: header("cache-control"),
            content_disposition: header("content-disposition"),
            content_encoding: header("content-encoding"),
            content_language: header("content-language"),
            content_type: header("content-type"),
            e_tag: Some(ETag::Strong(object.etag.clone())),
            last_modified: Some(object.modified.into()),
            metadata: Some(object.metadata.clone()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        Assembling::is_over(&req).await;
        let target =
            Write::of(&req, &req.input.bucket, &req.input.key).when(&req, req.input.if_match.as_ref(), None);
        self.remove(&target)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let mut deleted = Vec::new();
        for object in &req.input.delete.objects {
            self.remove(&Write::of(&req, &req.input.bucket, &object.key))?;
            deleted.push(DeletedObject { key: Some(object.key.clone()), ..DeletedObject::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..DeleteObjectsOutput::default() }))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let max_keys =
            usize::try_from(input.max_keys.unwrap_or(1_000)).map_err(|_| s3_error!(InvalidArgument))?;
        let after = match &input.continuation_token {
            Some(token) => {
                let bytes = BASE64.decode(token).map_err(|_| s3_error!(InvalidArgument))?;
                String::from_utf8(bytes).map_err(|_| s3_error!(InvalidArgument))?
            }
            None => input.start_after.clone().unwrap_or_default(),
        };
        let listing = Listing {
            prefix: input.prefix.as_deref().unwrap_or(""),
            delimiter: input.delimiter.as_deref().unwrap_or(""),
            after: &after,
            max_keys: max_keys.min(LIST_PAGE_MAX),
        };
        let page = {
            let state = self.shared.state.lock();
            if !state.buckets.has(&input.bucket) {
                return Err(s3_error!(NoSuchBucket));
            }
            state.buckets.list(&input.bucket, &listing)
        };
        let mut contents = Vec::with_capacity(page.contents.len());
        for (key, object) in page.contents {
            contents.push(Object {
                key: Some(key),
                size: Some(length_of(object.body.len())?),
                e_tag: Some(ETag::Strong(object.etag)),
                last_modified: Some(object.modified.into()),
                ..Object::default()
            });
        }
        let prefixes: Vec<_> =
            page.prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) }).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            start_after: input.start_after,
            continuation_token: input.continuation_token,
            key_count: i32::try_from(contents.len() + prefixes.len()).ok(),
            max_keys: i32::try_from(max_keys).ok(),
            is_truncated: Some(page.next_after.is_some()),
            next_continuation_token: page.next_after.map(|last| BASE64.encode(last)),
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        if !self.shared.state.lock().buckets.has(&input.bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        let id = format!("{:032x}", fastrand::u128(..));
        let mut headers = BTreeMap::new();
        for (name, value) in [
            ("content-type", &input.content_type),
            ("cache-control", &input.cache_control),
            ("content-disposition", &input.content_disposition),
            ("content-encoding", &input.content_encoding),
            ("content-language", &input.content_language),
        ] {
            headers.extend(value.clone().map(|value| (name, value)));
        }
        let checksum = input.checksum_algorithm.as_ref().map(|algorithm| algorithm.as_str().to_owned());
        let upload = Upload {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            metadata: input.metadata.unwrap_or_default(),
            headers,
            checksum,
            begun: OffsetDateTime::now_utc(),
            parts: BTreeMap::new(),
        };
        self.shared.uploads.lock().insert(id.clone(), upload);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        mut req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let body = read(req.input.body.take(), req.input.content_length).await?;
        let md5 = <[u8; 16]>::from(Md5::digest(&body));
        check_md5(req.input.content_md5.as_deref(), &md5)?;
        let sums: Sums =
            req.input.checksum_crc32c.iter().map(|sum| ("x-amz-checksum-crc32c", sum.clone())).collect();
        check_sums(&sums, req.trailing_headers.as_ref(), &body)?;
        let etag = hex::encode(md5);
        let mut uploads = self.shared.uploads.lock();
        let upload = uploads.get_mut(&req.input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        // As AWS: the algorithm is named when the upload is begun, and every part comes with it.
        if (upload.checksum.as_deref() == Some("CRC32C")) != req.input.checksum_crc32c.is_some() {
            return Err(s3_error!(InvalidRequest));
        }
        upload.parts.insert(req.input.part_number, Part { body, md5 });
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..UploadPartOutput::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = &req.input;
        Assembling::is_over(&req).await;
        // Held to the end: of two completions one finds no upload.
        let mut uploads = self.shared.uploads.lock();
        let upload = uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let wanted = input.multipart_upload.as_ref().and_then(|list| list.parts.as_ref());
        let mut body = BytesMut::with_capacity(upload.parts.values().map(|part| part.body.len()).sum());
        let mut digests = Md5::new();
        let mut count = 0;
        for part in wanted.into_iter().flatten() {
            let number = part.part_number.ok_or_else(|| s3_error!(InvalidPart))?;
            let stored = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().is_some_and(|etag| etag.value() != hex::encode(stored.md5)) {
                return Err(s3_error!(InvalidPart));
            }
            if upload.checksum.is_some() && part.checksum_crc32c.is_none() {
                return Err(s3_error!(InvalidRequest));
            }
            body.extend_from_slice(&stored.body);
            digests.update(stored.md5);
            count += 1;
        }
        let etag = format!("{}-{count}", hex::encode(digests.finalize()));
        let mut object = StoredObject::with_etag(body.freeze(), etag);
        object.metadata = upload.metadata.clone();
        object.headers = upload.headers.clone();
        let target = Write::of(&req, &upload.bucket, &upload.key).when(
            &req,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        );
        let etag = self.store(&target, object)?;
        let output = CompleteMultipartUploadOutput {
            bucket: Some(upload.bucket.clone()),
            key: Some(upload.key.clone()),
            e_tag: Some(ETag::Strong(etag)),
            ..CompleteMultipartUploadOutput::default()
        };
        uploads.remove(&input.upload_id);
        Ok(S3Response::new(output))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = &req.input;
        let prefix = input.prefix.as_deref().unwrap_or("");
        let max = usize::try_from(input.max_uploads.unwrap_or(1_000)).unwrap_or(0).min(LIST_PAGE_MAX);
        let after = (input.key_marker.as_deref().unwrap_or(""), input.upload_id_marker.as_deref());
        let uploads = self.shared.uploads.lock();
        let mut listed: Vec<_> = uploads.iter().filter(|(_, upload)| upload.bucket == input.bucket).collect();
        listed.retain(|(id, upload)| {
            let behind = match after {
                (key, Some(marker)) => (upload.key.as_str(), id.as_str()) > (key, marker),
                (key, None) => upload.key.as_str() > key,
            };
            upload.key.starts_with(prefix) && behind
        });
        listed.sort_by(|(a_id, a), (b_id, b)| (&a.key, a_id).cmp(&(&b.key, b_id)));
        let truncated = listed.len() > max;
        listed.truncate(max);
        let last = listed.last().filter(|_| truncated);
        let output = ListMultipartUploadsOutput {
            bucket: Some(input.bucket.clone()),
            prefix: input.prefix.clone(),
            is_truncated: Some(truncated),
            next_key_marker: last.map(|(_, upload)| upload.key.clone()),
            next_upload_id_marker: last.map(|(id, _)| (*id).clone()),
            uploads: Some(
                listed
                    .iter()
                    .map(|(id, upload)| MultipartUpload {
                        key: Some(upload.key.clone()),
                        upload_id: Some((*id).clone()),
                        initiated: Some(Timestamp::from(upload.begun)),
                        ..MultipartUpload::default()
                    })
                    .collect(),
            ),
            ..ListMultipartUploadsOutput::default()
        };
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.shared.uploads.lock().remove(&req.input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

/// A body whole, which has the length that was announced.
async fn read(body: Option<StreamingBlob>, announced: Option<i64>) -> S3Result<Bytes> {
    let announced = announced.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0).min(BODY_RESERVE_MAX));
    if let Some(mut stream) = body {
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|_| s3_error!(IncompleteBody))?);
        }
    }
    if announced.is_some_and(|length| length != bytes.len()) {
        return Err(s3_error!(IncompleteBody));
    }
    Ok(bytes.freeze())
}

fn check_md5(announced: Option<&str>, md5: &[u8; 16]) -> S3Result<()> {
    let Some(announced) = announced else { return Ok(()) };
    let digest = BASE64.decode(announced).map_err(|_| s3_error!(InvalidDigest))?;
    if digest == md5 { Ok(()) } else { Err(s3_error!(BadDigest)) }
}

/// Announced checksums by header name.
type Sums = Vec<(&'static str, String)>;

fn announced(input: &PutObjectInput) -> Sums {
    [
        ("x-amz-checksum-crc32", &input.checksum_crc32),
        ("x-amz-checksum-crc32c", &input.checksum_crc32c),
        ("x-amz-checksum-crc64nvme", &input.checksum_crc64nvme),
        ("x-amz-checksum-sha1", &input.checksum_sha1),
        ("x-amz-checksum-sha256", &input.checksum_sha256),
    ]
    .into_iter()
    .filter_map(|(name, sum)| Some((name, sum.clone()?)))
    .collect()
}

fn check_sums(headers: &Sums, trailers: Option<&TrailingHeaders>, body: &[u8]) -> S3Result<()> {
    let mut expected = headers.clone();
    for name in SUM_HEADERS {
        let trailer = trailers.and_then(|handle| {
            handle.read(|map| map.get(name).and_then(|value| value.to_str().ok().map(str::to_owned)))
        });
        expected.extend(trailer.flatten().map(|value| (name, value)));
    }
    if expected.is_empty() {
        return Ok(());
    }
    let actual = sums_of(body, |name| expected.iter().any(|(wanted, _)| *wanted == name));
    if expected.iter().all(|pair| actual.contains(pair)) { Ok(()) } else { Err(s3_error!(BadDigest)) }
}

/// The checksums of a body that are wanted.
fn sums_of(body: &[u8], wanted: impl Fn(&str) -> bool) -> Sums {
    let [crc32, crc32c, sha1, sha256, crc64nvme] = SUM_HEADERS.map(wanted);
    let mut hasher = ChecksumHasher {
        crc32: crc32.then(s3s::crypto::Crc32::new),
        crc32c: crc32c.then(s3s::crypto::Crc32c::new),
        sha1: sha1.then(s3s::crypto::Sha1::new),
        sha256: sha256.then(s3s::crypto::Sha256::new),
        crc64nvme: crc64nvme.then(s3s::crypto::Crc64Nvme::new),
    };
    hasher.update(body);
    let sums = hasher.finalize();
    let [crc32, crc32c, sha1, sha256, crc64nvme] = SUM_HEADERS;
    [
        (crc32, sums.checksum_crc32),
        (crc32c, sums.checksum_crc32c),
        (sha1, sums.checksum_sha1),
        (sha256, sums.checksum_sha256),
        (crc64nvme, sums.checksum_crc64nvme),
    ]
    .into_iter()
    .filter_map(|(name, sum)| Some((name, sum?)))
    .collect()
}

fn content_headers(input: &PutObjectInput) -> S3Result<BTreeMap<&'static str, String>> {
    let mut headers = BTreeMap::new();
    for (name, value) in [
        ("content-type", &input.content_type),
        ("cache-control", &input.cache_control),
        ("content-disposition", &input.content_disposition),
        ("content-encoding", &input.content_encoding),
        ("content-language", &input.content_language),
    ] {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
    if let Some(expires) = &input.expires {
        let at = OffsetDateTime::from(expires.clone());
        headers.insert("expires", at.unix_timestamp().to_string());
    }
    let bytes: usize = input.metadata.iter().flatten().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > 2_048 {
        return Err(s3_error!(MetadataTooLarge));
    }
    Ok(headers)
}

fn usize_of(value: u64) -> S3Result<usize> {
    usize::try_from(value).map_err(|_| s3_error!(InvalidRange))
}

fn length_of(value: usize) -> S3Result<i64> {
    i64::try_from(value).map_err(|_| s3_error!(InternalError))
}
