//! Reads of objects: heads, and bodies as streams.
//!
//! What must hold: absence is what the origin says of the key, not a bare 404; a body that ends short of what was
//! announced, or stalls, is an error.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::S3Origin;
use super::error::{SdkOrTimeout, shortened};
use super::text::{content_range, millis, quoted, unquoted};
use crate::origin::traffic::{OriginOp, Traffic};
use crate::origin::{
    ContentHeaders, ErrorClass, HeadReply, Landing, OriginError, OriginKey, ReadReply, ReadRequest,
};

impl S3Origin {
    pub(super) async fn read_object(&self, request: ReadRequest) -> Result<Option<ReadReply>, OriginError> {
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
        let reply = match self.wait(OriginOp::GetObject, call).await {
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
        let (stall, traffic) = (self.request_timeout, self.traffic.clone());
        let state = Arrival {
            body: reply.body,
            at: range.start,
            wanted: wanted.clone(),
            end: range.end,
            stall,
            traffic,
        };
        let body = futures_util::stream::try_unfold(state, Arrival::next);
        Ok(Some(ReadReply { head, range: wanted, body: Box::pin(body) }))
    }

    pub(super) async fn head_object(&self, key: &OriginKey) -> Result<Option<HeadReply>, OriginError> {
        let call = self.client.head_object().bucket(&self.bucket).key(&key.0).send();
        match self.wait(OriginOp::HeadObject, call).await {
            Ok(reply) => Ok(Some(head_of_head(&reply))),
            // A 404 to HEAD has no body: a missing bucket looks the same. A GET says which it is.
            Err(error) if error.status() == Some(404) => {
                let request = ReadRequest { key: key.clone(), range: Some(0..1), if_match: None };
                Ok(Box::pin(self.read_object(request)).await?.map(|reply| reply.head))
            }
            Err(error) => Err(error.into_origin_error()),
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
        let head = head_of_head(
            &self.wait(OriginOp::HeadObject, call).await.map_err(SdkOrTimeout::into_origin_error)?,
        );
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
    traffic: Arc<Traffic>,
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
            self.traffic.count_received(bytes.len() as u64);
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
