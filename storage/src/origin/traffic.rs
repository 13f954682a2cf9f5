//! What goes to an origin and comes from it: requests by what was asked and answered, bytes of bodies each way.
//!
//! Owns the counters of one mount's origin. S3 counts each HTTP request where it leaves (`s3/count.rs`), so that one
//! call which takes two counts twice; every other origin is wrapped in [`Counted`]. Does not own what an answer means.
//! Both sets of labels are closed: a status that is not known here counts as its class.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use futures_util::StreamExt;

use super::{
    AbortReply, BeginRequest, Capabilities, CompleteRequest, DeleteRequest, ErrorClass, HeadReply, ListReply,
    ListRequest, ListedUpload, Origin, OriginError, OriginKey, PartRequest, PutReply, PutRequest, ReadReply,
    ReadRequest, SentPart, UploadId,
};

/// What an origin is asked, by the names of S3's operations: a permission of nearly the same name is needed for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginOp {
    /// A whole object is put.
    PutObject,
    /// An object, or a range of it, is read.
    GetObject,
    /// What an object is.
    HeadObject,
    /// An object is deleted.
    DeleteObject,
    /// A page of keys.
    ListObjects,
    /// A multipart upload begins.
    CreateMultipartUpload,
    /// A part is sent.
    UploadPart,
    /// Parts become an object.
    CompleteMultipartUpload,
    /// A multipart upload is given up.
    AbortMultipartUpload,
    /// The uploads of a key that are under way.
    ListMultipartUploads,
}

impl OriginOp {
    /// All of them.
    pub const ALL: [OriginOp; 10] = [
        OriginOp::PutObject,
        OriginOp::GetObject,
        OriginOp::HeadObject,
        OriginOp::DeleteObject,
        OriginOp::ListObjects,
        OriginOp::CreateMultipartUpload,
        OriginOp::UploadPart,
        OriginOp::CompleteMultipartUpload,
        OriginOp::AbortMultipartUpload,
        OriginOp::ListMultipartUploads,
    ];

    /// The name in metrics and errors.
    pub fn as_str(self) -> &'static str {
        match self {
            OriginOp::PutObject => "PutObject",
            OriginOp::GetObject => "GetObject",
            OriginOp::HeadObject => "HeadObject",
            OriginOp::DeleteObject => "DeleteObject",
            OriginOp::ListObjects => "ListObjectsV2",
            OriginOp::CreateMultipartUpload => "CreateMultipartUpload",
            OriginOp::UploadPart => "UploadPart",
            OriginOp::CompleteMultipartUpload => "CompleteMultipartUpload",
            OriginOp::AbortMultipartUpload => "AbortMultipartUpload",
            OriginOp::ListMultipartUploads => "ListMultipartUploads",
        }
    }

    /// The operation of this name.
    pub(super) fn named(name: &str) -> Option<OriginOp> {
        OriginOp::ALL.into_iter().find(|op| op.as_str() == name)
    }

    /// The permission that an S3 origin must give for it, as its policies name it.
    pub fn permission(self) -> &'static str {
        match self {
            OriginOp::PutObject
            | OriginOp::CreateMultipartUpload
            | OriginOp::UploadPart
            | OriginOp::CompleteMultipartUpload => "s3:PutObject",
            OriginOp::GetObject | OriginOp::HeadObject => "s3:GetObject",
            OriginOp::DeleteObject => "s3:DeleteObject",
            OriginOp::ListObjects => "s3:ListBucket",
            OriginOp::AbortMultipartUpload => "s3:AbortMultipartUpload",
            OriginOp::ListMultipartUploads => "s3:ListBucketMultipartUploads",
        }
    }
}

/// What a request without an HTTP status came to, if nothing failed.
const OK: &str = "ok";
/// Statuses that are counted by themselves.
const STATUSES: [(u16, &str); 27] = [
    (200, "200"),
    (204, "204"),
    (206, "206"),
    (301, "301"),
    (304, "304"),
    (307, "307"),
    (400, "400"),
    (401, "401"),
    (402, "402"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (416, "416"),
    (429, "429"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (507, "507"),
    (522, "522"),
    (524, "524"),
];
/// All others, by their first digit.
const OTHERS: [&str; 6] = ["odd", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Codes of one operation.
const CODES: usize = 1 + STATUSES.len() + OTHERS.len() + ErrorClass::ALL.len();

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// An HTTP status.
    Status(u16),
    /// It was carried out by what knows no statuses.
    Done,
    /// It failed, and no status says how.
    Failed(ErrorClass),
}

impl Answer {
    fn place(self) -> usize {
        match self {
            Answer::Done => 0,
            Answer::Status(status) => match STATUSES.iter().position(|(known, _)| *known == status) {
                Some(place) => 1 + place,
                None => {
                    let class = usize::from(status / 100);
                    1 + STATUSES.len() + if class < OTHERS.len() { class } else { 0 }
                }
            },
            Answer::Failed(class) => {
                let place = ErrorClass::ALL.iter().position(|known| *known == class).unwrap_or_default();
                1 + STATUSES.len() + OTHERS.len() + place
            }
        }
    }
}

/// The label of a place.
fn code(place: usize) -> &'static str {
    match place.checked_sub(1) {
        None => OK,
        Some(place) if place < STATUSES.len() => STATUSES[place].1,
        Some(place) if place < STATUSES.len() + OTHERS.len() => OTHERS[place - STATUSES.len()],
        Some(place) => ErrorClass::ALL[place - STATUSES.len() - OTHERS.len()].as_str(),
    }
}

/// Counters of one origin, since the start.
#[derive(Debug)]
pub struct Traffic {
    requests: [[AtomicU64; CODES]; OriginOp::ALL.len()],
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Default for Traffic {
    fn default() -> Traffic {
        let requests = std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        Traffic { requests, sent_bytes: AtomicU64::new(0), received_bytes: AtomicU64::new(0) }
    }
}

impl Traffic {
    pub(super) fn count(&self, op: OriginOp, answer: Answer) {
        self.requests[op as usize][answer.place()].fetch_add(1, Relaxed);
    }

    pub(super) fn count_sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn count_received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Relaxed);
    }

    /// Requests that there were any of: operation, what came back (an HTTP status; a class of error where there was no
    /// answer), how many.
    pub fn requests(&self) -> Vec<(OriginOp, &'static str, u64)> {
        let counted = OriginOp::ALL.into_iter().flat_map(|op| {
            let codes = self.requests[op as usize].iter().enumerate();
            codes.map(move |(place, count)| (op, code(place), count.load(Relaxed)))
        });
        counted.filter(|(_, _, count)| *count > 0).collect()
    }

    /// Bytes of bodies that have left, of requests that failed as well.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Relaxed)
    }

    /// Bytes of objects that have arrived.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Relaxed)
    }
}

/// An origin whose calls are counted, one request each.
pub struct Counted<O> {
    origin: O,
    traffic: Arc<Traffic>,
}

impl<O: Origin> Counted<O> {
    /// Counts from zero.
    pub fn new(origin: O) -> Counted<O> {
        Counted { origin, traffic: Arc::default() }
    }

    fn note<T>(&self, op: OriginOp, answer: Result<T, OriginError>) -> Result<T, OriginError> {
        let came_to = match &answer {
            Ok(_) => Answer::Done,
            Err(error) => Answer::Failed(error.class),
        };
        self.traffic.count(op, came_to);
        answer
    }
}

#[async_trait]
impl<O: Origin> Origin for Counted<O> {
    fn name(&self) -> &str {
        self.origin.name()
    }

    fn traffic(&self) -> Option<&Traffic> {
        Some(&self.traffic)
    }

    async fn put(&self, request: PutRequest) -> Result<PutReply, OriginError> {
        let bytes = request.body.len() as u64;
        let answer = self.note(OriginOp::PutObject, self.origin.put(request).await);
        if answer.is_ok() {
            self.traffic.count_sent(bytes);
        }
        answer
    }

    async fn begin_upload(&self, request: BeginRequest) -> Result<UploadId, OriginError> {
        self.note(OriginOp::CreateMultipartUpload, self.origin.begin_upload(request).await)
    }

    async fn put_part(&self, request: PartRequest) -> Result<SentPart, OriginError> {
        let bytes = request.body.len();
        let answer = self.note(OriginOp::UploadPart, self.origin.put_part(request).await);
        if answer.is_ok() {
            self.traffic.count_sent(bytes);
        }
        answer
    }

    async fn complete_upload(&self, request: CompleteRequest) -> Result<PutReply, OriginError> {
        self.note(OriginOp::CompleteMultipartUpload, self.origin.complete_upload(request).await)
    }

    async fn abort_upload(&self, key: &OriginKey, upload: &UploadId) -> Result<AbortReply, OriginError> {
        self.note(OriginOp::AbortMultipartUpload, self.origin.abort_upload(key, upload).await)
    }

    async fn list_uploads(&self, key: &OriginKey) -> Result<Vec<ListedUpload>, OriginError> {
        self.note(OriginOp::ListMultipartUploads, self.origin.list_uploads(key).await)
    }

    async fn read(&self, request: ReadRequest) -> Result<Option<ReadReply>, OriginError> {
        let Some(ReadReply { head, range, body }) =
            self.note(OriginOp::GetObject, self.origin.read(request).await)?
        else {
            return Ok(None);
        };
        let traffic = self.traffic.clone();
        let body = body.inspect(move |bytes| {
            if let Ok(bytes) = bytes {
                traffic.count_received(bytes.len() as u64);
            }
        });
        Ok(Some(ReadReply { head, range, body: Box::pin(body) }))
    }

    async fn head(&self, key: &OriginKey) -> Result<Option<HeadReply>, OriginError> {
        self.note(OriginOp::HeadObject, self.origin.head(key).await)
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), OriginError> {
        self.note(OriginOp::DeleteObject, self.origin.delete(request).await)
    }

    async fn list(&self, request: ListRequest) -> Result<ListReply, OriginError> {
        self.note(OriginOp::ListObjects, self.origin.list(request).await)
    }

    /// Its own way to find out: not every origin asks itself.
    async fn probe(&self, prefix: &str) -> Result<Capabilities, OriginError> {
        self.origin.probe(prefix).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::conformance::conforms;
    use crate::origin::memory::{Fault, MemoryOrigin, Operation};
    use crate::origin::{Fence, Landing};

    #[test]
    fn labels_are_closed_sets_and_each_has_its_own_counter() {
        let traffic = Traffic::default();
        for status in 0..1000 {
            traffic.count(OriginOp::PutObject, Answer::Status(status));
        }
        for class in ErrorClass::ALL {
            traffic.count(OriginOp::PutObject, Answer::Failed(class));
        }
        traffic.count(OriginOp::PutObject, Answer::Done);
        let requests = traffic.requests();
        assert_eq!(requests.iter().map(|(_, _, count)| count).sum::<u64>(), 1000 + 12 + 1);
        let of = |code: &str| -> u64 {
            requests.iter().filter(|(_, known, _)| *known == code).map(|(_, _, count)| count).sum()
        };
        assert_eq!((of("200"), of("503"), of("network"), of("ok")), (1, 1, 1, 1));
        assert_eq!((of("2xx"), of("4xx")), (97, 87));
        let codes: std::collections::BTreeSet<&str> = requests.iter().map(|(_, code, _)| *code).collect();
        assert_eq!((requests.len(), codes.len()), (CODES, CODES), "no code stands twice");
        for op in OriginOp::ALL {
            assert_eq!(OriginOp::named(op.as_str()), Some(op));
        }
    }

    #[tokio::test]
    async fn what_is_counted_is_asked_and_answered_as_ever() {
        let origin = Counted::new(MemoryOrigin::capable());
        conforms(&origin).await;
        for op in OriginOp::ALL {
            assert!(origin.traffic.requests().iter().any(|(asked, _, _)| *asked == op), "{op:?}");
        }
        let origin = Counted::new(MemoryOrigin::capable());
        origin.origin.put_foreign("k", b"12345");
        origin.origin.set_hook(|call| match call.operation {
            Operation::Delete => {
                Fault::Refuse(OriginError::new(ErrorClass::Throttled, Landing::NotApplied, "slow down"))
            }
            _ => Fault::Ok,
        });
        let key = OriginKey("k".into());
        origin.get(&key, 100).await.unwrap();
        let (deadline, fence) =
            (std::time::Instant::now() + std::time::Duration::from_secs(9), Fence::open());
        origin.delete(DeleteRequest { key, if_match: None, deadline, fence }).await.unwrap_err();
        let counted = [(OriginOp::GetObject, "ok", 1), (OriginOp::DeleteObject, "throttled", 1)];
        assert_eq!(origin.traffic.requests(), counted);
        assert_eq!((origin.traffic.sent_bytes(), origin.traffic.received_bytes()), (0, 5));
    }
}
