//! One attempt: read the version, write its started row, send it, record what came of it.
//!
//! Owns the steps and their order. Does not own when an attempt may be made ([`super::queue`]) or what
//! follows from its end.
//!
//! What must hold: nothing is sent before the started row is applied; nothing is sent after the deadline
//! in it, by monotonic clock and by wall clock, or after this node's term. A crash at any step leaves
//! the started row, so that the next leader waits and asks.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::batch::Batcher;
use super::contract::{
    FlushKind, FlushObject, Flushed, OriginRow, RowId, SharedLog, SharedSource, SourceError, SourceObject,
    Started, TransferRecord, UploadPlace,
};
use super::queue::{Ended, Start, Work};
use super::stale::StaleUploads;
use super::tag::{ETAG_META, Held, OriginTag, VERSION_META, Verdict, judge, judge_blind};
use crate::object::{ClusterId, ObjectMeta, Version};
use crate::object_name::encode_key;
use crate::origin::{
    BodyChecksums, Capabilities, Condition, ContentHeaders, DeleteRequest, ErrorClass, Fence, Landing,
    Origin, OriginETag, OriginError, OriginKey, PutRequest,
};

/// Where a mount's rows go.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) origin: Arc<dyn Origin>,
    /// Bytes of the object key that the mount's own prefix takes, and that are not repeated in the origin.
    pub(crate) prefix_bytes: usize,
    pub(crate) origin_prefix: String,
    /// The origin, as records name it.
    pub(crate) origin_root: String,
    pub(crate) capabilities: Capabilities,
    /// Whether the origin seems to have refused the algorithm of a client's checksum.
    pub(crate) only_crc32c: Arc<AtomicBool>,
    /// Whether the origin may hold what this cluster has not put there.
    pub(crate) shared: bool,
}

impl Target {
    pub(super) fn key(&self, start: &Start) -> OriginKey {
        origin_key(&self.origin_prefix, start.key.get(self.prefix_bytes..).unwrap_or_default())
    }

    pub(super) fn place(&self, start: &Start) -> UploadPlace {
        UploadPlace { root: self.origin_root.clone(), key: self.key(start).0 }
    }
}

/// The origin key of an object key without its mount's prefix. The core refuses keys whose origin key
/// would exceed [`OriginKey::BYTES_MAX`] (PITFALLS 28).
pub fn origin_key(origin_prefix: &str, rest_of_key: &[u8]) -> OriginKey {
    OriginKey(format!("{origin_prefix}{}", encode_key(rest_of_key)))
}

/// The strictest condition that the origin honours for what it should hold now.
pub(crate) fn condition_for(known: Option<&OriginRow>, capabilities: Capabilities) -> Condition {
    match known {
        None if capabilities.if_none_match => Condition::IfAbsent,
        Some(row) if capabilities.if_match => Condition::IfMatch(OriginETag(row.etag.clone())),
        _ => Condition::None,
    }
}

/// The strictest condition that the origin honours for what it was just found to hold.
pub(crate) fn condition_of(held: &Held, capabilities: Capabilities) -> Condition {
    match held {
        Held::Nothing if capabilities.if_none_match => Condition::IfAbsent,
        Held::Ours { etag, .. } | Held::Foreign { etag } if capabilities.if_match => {
            Condition::IfMatch(OriginETag(etag.clone()))
        }
        _ => Condition::None,
    }
}

/// Whether an attempt wins over what is in the origin: nobody here knew of it when its row was written, nor now.
fn is_blind(start: &Start, target: &Target, known: Option<&OriginRow>) -> bool {
    start.blind && target.shared && known.is_none()
}

fn verdict(start: &Start, target: &Target, held: &Held, known: Option<&OriginRow>) -> Verdict {
    match is_blind(start, target, known) {
        true => judge_blind(held, start.version, start.kind),
        false => judge(held, start.version, start.kind, known),
    }
}

/// What every attempt needs.
pub(crate) struct Courier {
    pub(crate) cluster: ClusterId,
    pub(crate) log: SharedLog,
    pub(crate) source: SharedSource,
    pub(crate) starts: Batcher<Started, bool>,
    pub(crate) records: Batcher<Flushed, ()>,
    pub(crate) transfers: Batcher<TransferRecord, bool>,
    pub(crate) stale: Arc<StaleUploads>,
    /// Longer bodies go in parts of this length.
    pub(crate) part_bytes: u64,
    pub(crate) part_concurrency: usize,
    /// In MiB.
    pub(crate) part_memory: Semaphore,
    pub(crate) attempt_timeout: Duration,
    pub(crate) least_bandwidth: u64,
    pub(crate) attempt_max: Duration,
}

/// A started attempt's end, twice: for this process, and for the log.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    wall_ms: u64,
}

impl Courier {
    /// Makes one attempt. Dropping the future leaves the outcome unknown.
    pub(crate) async fn attempt(&self, start: &Start, target: &Target) -> Ended {
        // Taken before anything else: a later term makes it fall for good.
        let fence = self.source.fence();
        if !fence.holds() {
            return Ended::NotStarted;
        }
        let ended = match (start.work, start.kind) {
            (Work::Head, _) => self.ask(start, target).await,
            (Work::Write, FlushKind::Put) => self.put(start, target, fence).await,
            (Work::Write, FlushKind::Delete) => self.delete(start, target, fence).await,
        };
        ended.unwrap_or_else(|early| early)
    }

    /// `Err` is an early end, here and below.
    async fn put(&self, start: &Start, target: &Target, fence: Fence) -> Result<Ended, Ended> {
        let object = match self.source.object(start.bucket, &start.key, start.version).await {
            Ok(SourceObject::Found(object)) => *object,
            Ok(SourceObject::Superseded | SourceObject::Expired) => return Err(Ended::NotStarted),
            Err(error) => return Err(local_failure(&error)),
        };
        let key = target.key(start);
        if key.0.len() > OriginKey::BYTES_MAX {
            let message = format!("the origin key would have {} bytes", key.0.len());
            return Err(failed(OriginError::new(ErrorClass::TooLarge, Landing::NotApplied, message), 0));
        }
        if object.in_parts || object.body.len() > self.part_bytes {
            return self.put_in_parts(start, target, fence, object).await;
        }
        let deadline = self.started(start, object.body.len()).await?;
        let request = self.put_request(start, object, target).await?;
        let condition = self.condition(start, target, &key).await?;
        let fence = self.bounded(fence, deadline);
        let request = PutRequest { key, condition, deadline: deadline.at, fence, ..request };
        let beyond_crc32c = request.checksums.has_beyond_crc32c();
        let answer = target.origin.put(request).await;
        // The probe has tried CRC32C alone: that goes from the next attempt on, which has a fence and a time of its own.
        if beyond_crc32c && answer.as_ref().is_err_and(refuses_algorithm) {
            target.only_crc32c.store(true, Relaxed);
        }
        let reply = answer.map_err(|error| failed(error, deadline.alive_ms()))?;
        Ok(self.record(start, start.version, Some(reply.etag.0), Ended::Done, deadline.alive_ms()).await)
    }

    /// The condition of a version's request. What nobody here knows of, or the origin would not judge by, is looked
    /// at first; a change between that look and the request fails its condition, and is looked at again.
    pub(super) async fn condition(
        &self,
        start: &Start,
        target: &Target,
        key: &OriginKey,
    ) -> Result<Condition, Ended> {
        let known = self.known(start)?;
        let judges = match known {
            Some(_) => target.capabilities.if_match,
            None => target.capabilities.if_none_match,
        };
        if !is_blind(start, target, known.as_ref()) && (judges || !target.shared) {
            return Ok(condition_for(known.as_ref(), target.capabilities));
        }
        let held = self.held(target, key).await?;
        match verdict(start, target, &held, known.as_ref()) {
            Verdict::GoOn { .. } => Ok(condition_of(&held, target.capabilities)),
            Verdict::Conflict { reason } => Err(self.park(start, reason).await),
            Verdict::Landed { etag } => {
                Err(self.record(start, start.version, Some(etag), Ended::Done, 0).await)
            }
        }
    }

    /// What a version's bytes and metadata say of its request; the rest is the caller's.
    async fn put_request(
        &self,
        start: &Start,
        object: FlushObject,
        target: &Target,
    ) -> Result<PutRequest, Ended> {
        let takes = |sums: &BodyChecksums| !(sums.has_beyond_crc32c() && target.only_crc32c.load(Relaxed));
        let body = object.body.collect().await;
        let body = body.map_err(|error| local_failure(&SourceError(error.to_string())))?;
        let checksums = match target.capabilities.checksums {
            true => {
                let verified = BodyChecksums::verified(&object.meta);
                verified.filter(takes).unwrap_or_else(|| BodyChecksums::crc32c_of(&body))
            }
            false => BodyChecksums { md5: object.md5, ..BodyChecksums::default() },
        };
        let (headers, user_metadata) = self.headers(start, &object.meta, &object.etag);
        Ok(PutRequest {
            key: OriginKey(String::new()),
            body,
            headers,
            user_metadata,
            condition: Condition::None,
            checksums,
            deadline: Instant::now(),
            fence: Fence::new(|| false),
        })
    }

    /// Content headers and user metadata, ours among them.
    pub(super) fn headers(
        &self,
        start: &Start,
        meta: &ObjectMeta,
        etag: &str,
    ) -> (ContentHeaders, Vec<(String, String)>) {
        let tag = OriginTag { cluster: self.cluster, version: start.version };
        let mut user_metadata = meta.user.clone();
        user_metadata.push((VERSION_META.to_owned(), tag.to_string()));
        user_metadata.push((ETAG_META.to_owned(), etag.to_owned()));
        let headers = ContentHeaders {
            content_type: meta.content_type.clone(),
            content_encoding: meta.content_encoding.clone(),
            cache_control: meta.cache_control.clone(),
            content_disposition: meta.content_disposition.clone(),
            content_language: meta.content_language.clone(),
            expires: meta.expires.clone(),
        };
        (headers, user_metadata)
    }

    async fn delete(&self, start: &Start, target: &Target, fence: Fence) -> Result<Ended, Ended> {
        let deadline = self.started(start, 0).await?;
        let known = self.known(start)?;
        let key = target.key(start);
        let conditional = target.capabilities.if_match_delete;
        let if_match = match known {
            Some(row) if conditional => Some(OriginETag(row.etag)),
            known => {
                // The origin will not judge for us, or there is nothing to name: look before deleting.
                let held = self.held(target, &key).await?;
                let blind = is_blind(start, target, known.as_ref());
                match verdict(start, target, &held, known.as_ref()) {
                    Verdict::Conflict { reason } => return Ok(self.park(start, reason).await),
                    Verdict::GoOn { .. } | Verdict::Landed { .. } => match held {
                        // Nothing is known to have been there: no request is spent on a key that never was.
                        Held::Nothing if blind => {
                            return Ok(self.record(start, start.version, None, Ended::Done, 0).await);
                        }
                        Held::Ours { etag, .. } | Held::Foreign { etag } if conditional => {
                            Some(OriginETag(etag))
                        }
                        _ => None,
                    },
                }
            }
        };
        let fence = self.bounded(fence, deadline);
        let answer =
            target.origin.delete(DeleteRequest { key, if_match, deadline: deadline.at, fence }).await;
        answer.map_err(|error| failed(error, deadline.alive_ms()))?;
        Ok(self.record(start, start.version, None, Ended::Done, deadline.alive_ms()).await)
    }

    /// Asks what the origin holds. All requests of the key are dead by now.
    async fn ask(&self, start: &Start, target: &Target) -> Result<Ended, Ended> {
        self.give_up_older(start, target).await?;
        let held = self.held(target, &target.key(start)).await?;
        let known = self.known(start)?;
        Ok(match verdict(start, target, &held, known.as_ref()) {
            Verdict::Landed { etag } => self.record(start, start.version, Some(etag), Ended::Done, 0).await,
            Verdict::GoOn { record: None } => Ended::GoOn,
            Verdict::GoOn { record: Some((version, etag)) } => {
                self.record(start, version, etag, Ended::GoOn, 0).await
            }
            Verdict::Conflict { reason } => self.park(start, reason).await,
        })
    }

    pub(super) async fn held(&self, target: &Target, key: &OriginKey) -> Result<Held, Ended> {
        let head = target.origin.head(key).await.map_err(|error| failed(harmless(error), 0))?;
        Ok(Held::of(head.as_ref(), self.cluster))
    }

    pub(super) fn known(&self, start: &Start) -> Result<Option<OriginRow>, Ended> {
        self.source.origin_row(start.bucket, &start.key).map_err(|error| local_failure(&error))
    }

    /// Commits the started row.
    pub(super) async fn started(&self, start: &Start, bytes: u64) -> Result<Deadline, Ended> {
        let moving = Duration::from_secs(bytes / self.least_bandwidth.max(1));
        let timeout = (self.attempt_timeout + moving).min(self.attempt_max);
        // Before the proposal: what the commit takes is the attempt's own time.
        let wall_ms = self.source.now_ms().saturating_add(millis(timeout));
        let deadline = Deadline { at: Instant::now() + timeout, wall_ms };
        let row = Started {
            bucket: start.bucket,
            key: start.key.clone(),
            version: start.version,
            deadline_ms: wall_ms,
        };
        match self.starts.submit(row).await {
            Ok(true) => Ok(deadline),
            Ok(false) | Err(_) => Err(Ended::NotStarted),
        }
    }

    /// The fence of a request: term, and deadline by the wall clock too (a suspended machine stops the
    /// other).
    pub(super) fn bounded(&self, fence: Fence, deadline: Deadline) -> Fence {
        let source = self.source.clone();
        fence.and(move || source.now_ms() < deadline.wall_ms)
    }

    pub(super) async fn record(
        &self,
        start: &Start,
        version: Version,
        origin_etag: Option<String>,
        ended: Ended,
        alive_ms: u64,
    ) -> Ended {
        let (bucket, key, mount) = (start.bucket, start.key.clone(), Some(start.mount));
        let flushed = Flushed { bucket, key, version, mount, origin_etag };
        match self.records.submit(flushed).await {
            Ok(()) => ended,
            Err(_) => Ended::Unrecorded { alive_ms },
        }
    }

    async fn park(&self, start: &Start, reason: String) -> Ended {
        tracing::warn!(bucket = start.bucket.0, key = %encode_key(&start.key), version = %start.version,
            %reason, "flush row parked");
        let row = RowId { bucket: start.bucket, key: start.key.clone(), version: start.version };
        // If the log refuses, the queue asks the origin again after a while.
        let _ = self.log.park(row, reason).await;
        Ended::Conflict
    }
}

impl Deadline {
    pub(super) fn alive_ms(&self) -> u64 {
        millis(self.at.saturating_duration_since(Instant::now()))
    }
}

/// Whether the origin may not know the algorithm of a checksum.
fn refuses_algorithm(error: &OriginError) -> bool {
    let unknown = error.outcome == Landing::NotApplied && error.class == ErrorClass::Other;
    unknown || error.code.as_deref() == Some("NotImplemented")
}

pub(super) fn failed(error: OriginError, alive_ms: u64) -> Ended {
    Ended::Failed {
        class: error.class,
        landing: error.outcome,
        retry_after_ms: error.retry_after.map(millis),
        alive_ms,
        message: match error.code {
            Some(code) => format!("{} ({code})", error.message),
            None => error.message,
        },
    }
}

/// Of a request that changes no object: nothing is in doubt after its failure.
pub(super) fn harmless(error: OriginError) -> OriginError {
    OriginError { outcome: Landing::NotApplied, ..error }
}

/// Our own side failed; the origin was not asked.
pub(super) fn local_failure(error: &SourceError) -> Ended {
    failed(OriginError::new(ErrorClass::Fenced, Landing::NotApplied, error.to_string()), 0)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
