//! An origin in memory, with faults on command: for tests and simulations.
//!
//! Owns its objects, a record of every mutation that was applied, and the requests that were told to
//! land late. It is deterministic: no clock (but for the ages of uploads), no randomness, no threads; what happens
//! depends on the calls and on the fault hook alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use md5::{Digest, Md5};
use parking_lot::Mutex;

use super::page::{Facts, Page};
use super::{
    AbortReply, BeginRequest, BodyChecksums, Capabilities, CompleteRequest, Condition, ContentHeaders,
    DeleteRequest, ErrorClass, HeadReply, Landing, ListReply, ListRequest, ListedUpload, NO_SUCH_UPLOAD,
    Origin, OriginETag, OriginError, OriginKey, PartRequest, PutReply, PutRequest, ReadReply, ReadRequest,
    SentPart, UploadId,
};

/// Objects are younger than this: 2020, milliseconds since the Unix epoch.
const FIRST_MS: u64 = 1_577_836_800_000;

/// Which operation a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Put.
    Put,
    /// Get.
    Get,
    /// Head.
    Head,
    /// Delete.
    Delete,
    /// List.
    List,
    /// The beginning of a multipart upload.
    BeginUpload,
    /// A part.
    PutPart,
    /// Its end.
    CompleteUpload,
    /// An upload given up.
    AbortUpload,
    /// The uploads of a key.
    ListUploads,
}

/// One call, as the fault hook sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Counts all calls from zero.
    pub number: u64,
    /// What is asked.
    pub operation: Operation,
    /// The key; of a list, the prefix.
    pub key: String,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is served.
    Ok,
    /// It is answered with this error and changes nothing.
    Refuse(OriginError),
    /// It is applied, and the answer is lost.
    ApplyThenUnknown,
    /// It is lost on the way, and the sender cannot know.
    DropUnknown,
    /// It arrives twice, and the answer is that to the second. Calls that change no object: as `Ok`.
    Twice,
    /// An upload is said to be given up, and is not. Other calls: as `Ok`.
    Pretend,
    /// A read of an object, or giving an upload up, is never answered; any other call is lost as with `DropUnknown`.
    Stall,
    /// The sender gives up, and it lands when the test says so ([`MemoryOrigin::land_late`]).
    LandLate,
}

/// A change that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Number of the call that brought it.
    pub call: u64,
    /// Key.
    pub key: String,
    /// The object's user metadata; `None` for a delete.
    pub put: Option<Vec<(String, String)>>,
    /// Whether it landed after its sender had given up.
    pub late: bool,
}

/// Decides the fate of each call.
pub type FaultHook = Box<dyn FnMut(&Call) -> Fault + Send>;

/// An origin in memory.
pub struct MemoryOrigin {
    name: String,
    state: Mutex<State>,
}

struct State {
    honours: Capabilities,
    objects: BTreeMap<String, Stored>,
    recorded: Vec<Recorded>,
    late: BTreeMap<u64, LateRequest>,
    uploads: BTreeMap<String, Upload>,
    /// Uploads whose completion is worked on, and that are not known meanwhile.
    forgotten: BTreeMap<String, Upload>,
    calls: u64,
    changes: u64,
    hook: Option<FaultHook>,
}

#[derive(Debug, Clone)]
struct Stored {
    body: Bytes,
    headers: ContentHeaders,
    user_metadata: Vec<(String, String)>,
    etag: OriginETag,
    modified_ms: u64,
}

#[derive(Debug, Clone)]
struct Upload {
    key: OriginKey,
    headers: ContentHeaders,
    user_metadata: Vec<(String, String)>,
    parts: BTreeMap<u32, (Bytes, SentPart)>,
    begun: Instant,
    /// Older than that by so much.
    aged: Duration,
}

impl Upload {
    fn new(key: OriginKey, headers: ContentHeaders, user_metadata: Vec<(String, String)>) -> Upload {
        let (parts, begun, aged) = (BTreeMap::new(), Instant::now(), Duration::ZERO);
        Upload { key, headers, user_metadata, parts, begun, aged }
    }
}

#[derive(Debug, Clone)]
enum LateRequest {
    Put(Box<PutRequest>),
    Complete(Box<CompleteRequest>),
    Delete(DeleteRequest),
}

impl MemoryOrigin {
    /// An empty origin that honours what `honours` says and silently ignores the rest.
    pub fn new(name: impl Into<String>, honours: Capabilities) -> MemoryOrigin {
        let state = State {
            honours,
            objects: BTreeMap::new(),
            recorded: Vec::new(),
            late: BTreeMap::new(),
            uploads: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            calls: 0,
            changes: 0,
            hook: None,
        };
        MemoryOrigin { name: name.into(), state: Mutex::new(state) }
    }

    /// An empty origin that honours everything.
    pub fn capable() -> MemoryOrigin {
        let all =
            Capabilities { if_none_match: true, if_match: true, if_match_delete: true, checksums: true };
        MemoryOrigin::new("memory://origin", all)
    }

    /// Sets the fault hook; called once for each call, under the origin's lock.
    pub fn set_hook(&self, hook: impl FnMut(&Call) -> Fault + Send + 'static) {
        self.state.lock().hook = Some(Box::new(hook));
    }

    /// Serves every call from now on.
    pub fn clear_hook(&self) {
        self.state.lock().hook = None;
    }

    /// Numbers of the calls that wait to land late.
    pub fn late_calls(&self) -> Vec<u64> {
        self.state.lock().late.keys().copied().collect()
    }

    /// Lets a late request arrive now. Its conditions are judged now. False if there is no such request.
    pub fn land_late(&self, call: u64) -> bool {
        let mut state = self.state.lock();
        let Some(request) = state.late.remove(&call) else { return false };
        // Nobody waits for the answer; a refusal is as good as a loss.
        let _ = match request {
            LateRequest::Put(request) => state.put(&request, call, true).map(drop),
            LateRequest::Complete(request) => state.complete(&request, call, true).map(drop),
            LateRequest::Delete(request) => state.delete(&request, call, true),
        };
        true
    }

    /// Takes a completion, whose condition is judged now, and forgets the upload before the object is there: until
    /// [`MemoryOrigin::show`]. Without a call.
    pub fn forget(&self, request: &CompleteRequest) -> Result<(), OriginError> {
        let mut state = self.state.lock();
        state.judge(&request.key, &request.condition)?;
        let upload = state.uploads.remove(&request.upload.0).ok_or_else(no_such_upload)?;
        state.forgotten.insert(request.upload.0.clone(), upload);
        Ok(())
    }

    /// The same for a completion that is to land late.
    pub fn forget_late(&self, call: u64) -> bool {
        self.late_completion(call).is_some_and(|request| self.forget(&request).is_ok())
    }

    /// Shows what has become of it.
    pub fn show_late(&self, call: u64) -> bool {
        let shown = self.late_completion(call).is_some_and(|request| self.show(&request).is_ok());
        self.state.lock().late.remove(&call);
        shown
    }

    fn late_completion(&self, call: u64) -> Option<CompleteRequest> {
        match self.state.lock().late.get(&call)? {
            LateRequest::Complete(request) => Some((**request).clone()),
            LateRequest::Put(_) | LateRequest::Delete(_) => None,
        }
    }

    /// Shows what has become of an upload that was forgotten.
    pub fn show(&self, request: &CompleteRequest) -> Result<PutReply, OriginError> {
        let mut state = self.state.lock();
        let upload = state.forgotten.remove(&request.upload.0).ok_or_else(no_such_upload)?;
        state.uploads.insert(request.upload.0.clone(), upload);
        let call = state.calls;
        state.complete(&CompleteRequest { condition: Condition::None, ..request.clone() }, call, true)
    }

    /// Puts an object that is not ours, without a call and without a record.
    pub fn put_foreign(&self, key: &str, body: &'static [u8]) {
        self.put_foreign_with(key, Bytes::from_static(body), ContentHeaders::default(), &[]);
    }

    /// The same, with what may stand beside the bytes.
    pub fn put_foreign_with(&self, key: &str, body: Bytes, headers: ContentHeaders, user: &[(&str, &str)]) {
        let mut user_metadata: Vec<_> =
            user.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        user_metadata.sort();
        let mut state = self.state.lock();
        let (etag, modified_ms) = (md5_etag(&body), state.next_ms());
        let stored = Stored { body, headers, user_metadata, etag, modified_ms };
        state.objects.insert(key.to_owned(), stored);
    }

    /// Removes an object as somebody else would, without a call and without a record.
    pub fn delete_foreign(&self, key: &str) {
        self.state.lock().objects.remove(key);
    }

    /// Every change applied so far, in order.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.state.lock().recorded.clone()
    }

    /// How many calls were made so far.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// The body under a key.
    pub fn body(&self, key: &str) -> Option<Bytes> {
        self.state.lock().objects.get(key).map(|stored| stored.body.clone())
    }

    /// Multipart uploads under way: their keys, and the numbers of the parts that arrived.
    pub fn uploads(&self) -> Vec<(String, Vec<u32>)> {
        let state = self.state.lock();
        state
            .uploads
            .values()
            .map(|upload| (upload.key.0.clone(), upload.parts.keys().copied().collect()))
            .collect()
    }

    /// Begins an upload as somebody else did, so long ago, without a call.
    pub fn begin_foreign(&self, key: &str, aged: Duration) {
        let mut state = self.state.lock();
        let id = format!("foreign-{}", state.uploads.len());
        let upload = Upload::new(OriginKey(key.to_owned()), ContentHeaders::default(), Vec::new());
        state.uploads.insert(id, Upload { aged, ..upload });
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }
}

impl State {
    /// Counts the call and asks the hook.
    fn arrive(&mut self, operation: Operation, key: &str) -> (u64, Fault) {
        let call = Call { number: self.calls, operation, key: key.to_owned() };
        self.calls += 1;
        let fault = self.hook.as_mut().map_or(Fault::Ok, |hook| hook(&call));
        (call.number, fault)
    }

    /// The time of the next change: without a clock, a second after the one before.
    fn next_ms(&mut self) -> u64 {
        self.changes += 1;
        FIRST_MS + self.changes * 1_000
    }

    fn put(&mut self, request: &PutRequest, call: u64, late: bool) -> Result<PutReply, OriginError> {
        self.judge(&request.key, &request.condition)?;
        if self.honours.checksums && !request.checksums.are_of(&request.body) {
            return Err(refusal(ErrorClass::Checksum, "BadDigest", "the body has another checksum"));
        }
        let mut user_metadata = request.user_metadata.clone();
        user_metadata.sort();
        let (body, headers) = (request.body.clone(), request.headers.clone());
        let modified_ms = self.next_ms();
        let stored = Stored { etag: md5_etag(&body), body, headers, user_metadata, modified_ms };
        Ok(self.store(&request.key, stored, call, late))
    }

    fn judge(&self, key: &OriginKey, condition: &Condition) -> Result<(), OriginError> {
        let held = self.objects.get(&key.0).map(|stored| &stored.etag);
        let holds = match condition {
            Condition::None => true,
            Condition::IfAbsent => held.is_none() || !self.honours.if_none_match,
            Condition::IfMatch(etag) => held == Some(etag) || !self.honours.if_match,
        };
        if holds { Ok(()) } else { Err(precondition_failed()) }
    }

    fn store(&mut self, key: &OriginKey, stored: Stored, call: u64, late: bool) -> PutReply {
        let put = Some(stored.user_metadata.clone());
        self.recorded.push(Recorded { call, key: key.0.clone(), put, late });
        let reply = PutReply { etag: stored.etag.clone() };
        self.objects.insert(key.0.clone(), stored);
        reply
    }

    fn upload(&mut self, upload: &UploadId) -> Result<&mut Upload, OriginError> {
        self.uploads.get_mut(&upload.0).ok_or_else(no_such_upload)
    }

    fn complete(
        &mut self,
        request: &CompleteRequest,
        call: u64,
        late: bool,
    ) -> Result<PutReply, OriginError> {
        let upload = self.upload(&request.upload)?.clone();
        self.judge(&request.key, &request.condition)?;
        let mut body = Vec::new();
        let mut digests = Md5::new();
        for sent in &request.parts {
            let Some((bytes, _)) = upload.parts.get(&sent.number).filter(|(_, known)| known == sent) else {
                return Err(refusal(ErrorClass::Other, "InvalidPart", "no such part"));
            };
            body.extend_from_slice(bytes);
            digests.update(Md5::digest(bytes));
        }
        let etag = OriginETag(format!("{}-{}", hex::encode(digests.finalize()), request.parts.len()));
        self.uploads.remove(&request.upload.0);
        let mut user_metadata = upload.user_metadata;
        user_metadata.sort();
        let (body, headers, modified_ms) = (Bytes::from(body), upload.headers, self.next_ms());
        let stored = Stored { body, headers, user_metadata, etag, modified_ms };
        Ok(self.store(&request.key, stored, call, late))
    }

    fn delete(&mut self, request: &DeleteRequest, call: u64, late: bool) -> Result<(), OriginError> {
        let held = self.objects.get(&request.key.0).map(|stored| &stored.etag);
        if self.honours.if_match_delete
            && let (Some(held), Some(expected)) = (held, &request.if_match)
            && held != expected
        {
            return Err(precondition_failed());
        }
        self.objects.remove(&request.key.0);
        self.recorded.push(Recorded { call, key: request.key.0.clone(), put: None, late });
        Ok(())
    }
}

impl Stored {
    fn facts(&self) -> Facts {
        Facts { etag: Some(self.etag.clone()), bytes: self.body.len() as u64, modified_ms: self.modified_ms }
    }

    fn head(&self) -> HeadReply {
        HeadReply {
            etag: self.etag.clone(),
            content_length: self.body.len() as u64,
            modified_ms: self.modified_ms,
            headers: self.headers.clone(),
            user_metadata: self.user_metadata.clone(),
        }
    }
}

#[async_trait]
impl Origin for MemoryOrigin {
    fn name(&self) -> &str {
        &self.name
    }

    async fn put(&self, request: PutRequest) -> Result<PutReply, OriginError> {
        if !request.fence.holds() {
            return Err(OriginError::fenced(Landing::NotApplied));
        }
        let mut state = self.state.lock();
        let (call, fault) = state.arrive(Operation::Put, &request.key.0);
        match fault {
            Fault::Ok | Fault::Pretend => state.put(&request, call, false),
            Fault::Twice => {
                let _ = state.put(&request, call, false);
                state.put(&request, call, false)
            }
            Fault::Refuse(error) => Err(error),
            Fault::ApplyThenUnknown => state.put(&request, call, false).and_then(|_| Err(lost())),
            Fault::DropUnknown | Fault::Stall => Err(lost()),
            Fault::LandLate => {
                state.late.insert(call, LateRequest::Put(Box::new(request)));
                Err(lost())
            }
        }
    }

    async fn begin_upload(&self, request: BeginRequest) -> Result<UploadId, OriginError> {
        let mut state = self.state.lock();
        let (call, fault) = state.arrive(Operation::BeginUpload, &request.key.0);
        if fault != Fault::ApplyThenUnknown {
            read_fault(fault.clone())?;
        }
        let id = format!("upload-{call}");
        let BeginRequest { key, headers, user_metadata, .. } = request;
        state.uploads.insert(id.clone(), Upload::new(key, headers, user_metadata));
        read_fault(fault)?;
        Ok(UploadId(id))
    }

    async fn put_part(&self, request: PartRequest) -> Result<SentPart, OriginError> {
        let body = request.body.collect().await;
        let body = body
            .map_err(|error| OriginError::new(ErrorClass::Fenced, Landing::NotApplied, error.to_string()))?;
        let mut state = self.state.lock();
        let fault = state.arrive(Operation::PutPart, &request.key.0).1;
        if matches!(fault, Fault::DropUnknown | Fault::Stall | Fault::LandLate | Fault::Refuse(_)) {
            read_fault(fault.clone())?;
        }
        let sums = request.crc32c.map(BodyChecksums::crc32c).unwrap_or_default();
        if state.honours.checksums && !sums.are_of(&body) {
            return Err(refusal(ErrorClass::Checksum, "BadDigest", "the part has another checksum"));
        }
        let sent = SentPart { number: request.number, etag: md5_etag(&body), crc32c: request.crc32c };
        state.upload(&request.upload)?.parts.insert(request.number, (body, sent.clone()));
        read_fault(fault)?;
        Ok(sent)
    }

    async fn complete_upload(&self, request: CompleteRequest) -> Result<PutReply, OriginError> {
        if !request.fence.holds() {
            return Err(OriginError::fenced(Landing::NotApplied));
        }
        let mut state = self.state.lock();
        let (call, fault) = state.arrive(Operation::CompleteUpload, &request.key.0);
        match fault {
            Fault::Ok | Fault::Pretend => state.complete(&request, call, false),
            Fault::Twice => {
                let _ = state.complete(&request, call, false);
                state.complete(&request, call, false)
            }
            Fault::Refuse(error) => Err(error),
            Fault::ApplyThenUnknown => state.complete(&request, call, false).and_then(|_| Err(lost())),
            Fault::DropUnknown | Fault::Stall => Err(lost()),
            Fault::LandLate => {
                state.late.insert(call, LateRequest::Complete(Box::new(request)));
                Err(lost())
            }
        }
    }

    async fn abort_upload(&self, key: &OriginKey, upload: &UploadId) -> Result<AbortReply, OriginError> {
        let fault = self.state.lock().arrive(Operation::AbortUpload, &key.0).1;
        match fault {
            Fault::Pretend => return Ok(AbortReply::GivenUp),
            Fault::Stall => std::future::pending::<()>().await,
            fault => read_fault(fault)?,
        }
        Ok(match self.state.lock().uploads.remove(&upload.0) {
            Some(_) => AbortReply::GivenUp,
            None => AbortReply::NotKnown,
        })
    }

    async fn list_uploads(&self, key: &OriginKey) -> Result<Vec<ListedUpload>, OriginError> {
        let mut state = self.state.lock();
        read_fault(state.arrive(Operation::ListUploads, &key.0).1)?;
        let of_key = state.uploads.iter().filter(|(_, upload)| upload.key == *key);
        let listed = of_key.map(|(id, upload)| ListedUpload {
            upload: UploadId(id.clone()),
            age: Some(upload.begun.elapsed() + upload.aged),
        });
        Ok(listed.collect())
    }

    async fn read(&self, request: ReadRequest) -> Result<Option<ReadReply>, OriginError> {
        let fault = self.state.lock().arrive(Operation::Get, &request.key.0).1;
        if fault == Fault::Stall {
            std::future::pending::<()>().await;
        }
        read_fault(fault)?;
        let state = self.state.lock();
        let Some(stored) = state.objects.get(&request.key.0) else { return Ok(None) };
        if request.if_match.is_some_and(|etag| etag != stored.etag) {
            return Err(precondition_failed());
        }
        let len = stored.body.len() as u64;
        let range = request.range.unwrap_or(0..len);
        let range = range.start.min(len)..range.end.min(len);
        let body = stored.body.slice(range.start as usize..range.end as usize);
        let body = Box::pin(futures_util::stream::iter([Ok(body)]));
        Ok(Some(ReadReply { head: stored.head(), range, body }))
    }

    async fn head(&self, key: &OriginKey) -> Result<Option<HeadReply>, OriginError> {
        let mut state = self.state.lock();
        read_fault(state.arrive(Operation::Head, &key.0).1)?;
        Ok(state.objects.get(&key.0).map(Stored::head))
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), OriginError> {
        if !request.fence.holds() {
            return Err(OriginError::fenced(Landing::NotApplied));
        }
        let mut state = self.state.lock();
        let (call, fault) = state.arrive(Operation::Delete, &request.key.0);
        match fault {
            Fault::Ok | Fault::Pretend => state.delete(&request, call, false),
            Fault::Twice => {
                let _ = state.delete(&request, call, false);
                state.delete(&request, call, false)
            }
            Fault::Refuse(error) => Err(error),
            Fault::ApplyThenUnknown => state.delete(&request, call, false).and_then(|()| Err(lost())),
            Fault::DropUnknown | Fault::Stall => Err(lost()),
            Fault::LandLate => {
                state.late.insert(call, LateRequest::Delete(request));
                Err(lost())
            }
        }
    }

    async fn list(&self, request: ListRequest) -> Result<ListReply, OriginError> {
        let mut state = self.state.lock();
        read_fault(state.arrive(Operation::List, &request.prefix).1)?;
        let mut page = Page::new(&request);
        for (key, stored) in state.objects.range(request.prefix.clone()..) {
            if !key.starts_with(&request.prefix) || page.is_full() {
                break;
            }
            page.offer(key, || stored.facts());
        }
        Ok(page.finish())
    }
}

fn read_fault(fault: Fault) -> Result<(), OriginError> {
    match fault {
        Fault::Ok | Fault::Twice | Fault::Pretend => Ok(()),
        Fault::Refuse(error) => Err(error),
        Fault::ApplyThenUnknown | Fault::DropUnknown | Fault::Stall | Fault::LandLate => Err(lost()),
    }
}

fn lost() -> OriginError {
    OriginError::new(ErrorClass::Network, Landing::Unknown, "the answer was lost")
}

fn no_such_upload() -> OriginError {
    refusal(ErrorClass::Other, NO_SUCH_UPLOAD, "the upload is not known")
}

fn precondition_failed() -> OriginError {
    refusal(ErrorClass::Conflict, "PreconditionFailed", "the condition does not hold")
}

fn refusal(class: ErrorClass, code: &str, message: &str) -> OriginError {
    OriginError { code: Some(code.to_owned()), ..OriginError::new(class, Landing::NotApplied, message) }
}

fn md5_etag(body: &[u8]) -> OriginETag {
    OriginETag(hex::encode(Md5::digest(body)))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::origin::Fence;

    fn put(key: &str, body: &'static [u8], condition: Condition) -> PutRequest {
        PutRequest {
            key: OriginKey(key.to_owned()),
            body: Bytes::from_static(body),
            headers: ContentHeaders::default(),
            user_metadata: Vec::new(),
            condition,
            checksums: BodyChecksums::default(),
            deadline: Instant::now() + Duration::from_secs(60),
            fence: Fence::open(),
        }
    }

    #[tokio::test]
    async fn it_does_what_every_origin_must() {
        crate::origin::conformance::conforms(&MemoryOrigin::capable()).await;
    }

    #[tokio::test]
    async fn probe_sees_what_a_capable_origin_can_and_cleans_up() {
        let origin = MemoryOrigin::capable();
        let found = origin.probe("p/").await.unwrap();
        assert_eq!(
            found,
            Capabilities { if_none_match: true, if_match: true, if_match_delete: true, checksums: true }
        );
        assert!(origin.keys().is_empty());
        assert!(origin.recorded().iter().all(|change| change.key.starts_with("p/.forebay-probe-")));
    }

    #[tokio::test]
    async fn a_probe_removes_what_one_cut_short_left_and_nothing_else() {
        let origin = MemoryOrigin::capable();
        origin.put(put("p/.forebay-probe-00", b"forebay probe", Condition::None)).await.unwrap();
        for key in ["p/.forebay-probe-of-a-user", "p/kept", "p/.forebay"] {
            origin.put(put(key, b"x", Condition::None)).await.unwrap();
        }
        origin.probe("p/").await.unwrap();
        assert_eq!(origin.keys(), ["p/.forebay", "p/.forebay-probe-of-a-user", "p/kept"]);
    }

    #[tokio::test]
    async fn probe_assumes_nothing_of_an_origin_that_ignores_conditions_and_checksums() {
        let origin = MemoryOrigin::new("memory://bad", Capabilities::default());
        assert_eq!(origin.probe("").await.unwrap(), Capabilities::default());
        assert!(origin.keys().is_empty());
    }

    #[tokio::test]
    async fn a_probe_comes_through_although_three_in_ten_requests_fail() {
        for seed in 1..60_u64 {
            let origin = MemoryOrigin::capable();
            let mut random = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed);
            origin.set_hook(move |_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                match random % 10 {
                    0 => Fault::DropUnknown,
                    1 => Fault::ApplyThenUnknown,
                    2 => {
                        let (class, outcome) = (ErrorClass::ServerError, Landing::Unknown);
                        Fault::Refuse(OriginError::new(class, outcome, "503"))
                    }
                    _ => Fault::Ok,
                }
            });
            assert!(origin.is_empty("p/").await.unwrap(), "seed {seed}");
            let found = origin.probe("p/").await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert!(found.if_none_match && found.if_match && found.checksums, "seed {seed}: {found:?}");
            assert!(origin.keys().is_empty(), "seed {seed}");
        }
    }

    #[tokio::test]
    async fn probe_passes_trouble_on_instead_of_calling_it_a_missing_feature() {
        for broken in 0..6 {
            let origin = MemoryOrigin::capable();
            origin.set_hook(move |call| match call.number >= broken && call.operation != Operation::Delete {
                true => Fault::DropUnknown,
                false => Fault::Ok,
            });
            assert_eq!(origin.probe("").await.unwrap_err().class, ErrorClass::Network, "call {broken}");
            assert!(origin.keys().is_empty());
        }
    }

    #[tokio::test]
    async fn a_prefix_with_probe_leftovers_only_is_empty() {
        let origin = MemoryOrigin::capable();
        for n in 0..250 {
            let name: &'static str = Box::leak(format!("p/{}{n}", super::super::PROBE_NAME).into_boxed_str());
            origin.put_foreign(name, b"left");
        }
        origin.put_foreign("q/other", b"not under the prefix");
        assert!(origin.is_empty("p/").await.unwrap());
        origin.put_foreign("p/zz", b"data");
        assert!(!origin.is_empty("p/").await.unwrap());
    }

    #[tokio::test]
    async fn a_late_request_lands_when_told_and_is_recorded_as_late() {
        let origin = MemoryOrigin::capable();
        origin.set_hook(|_| Fault::LandLate);
        let error = origin.put(put("k", b"1", Condition::None)).await.unwrap_err();
        assert_eq!(error.outcome, Landing::Unknown);
        assert_eq!(origin.body("k"), None);
        assert!(origin.land_late(0));
        assert!(!origin.land_late(0), "it lands once");
        assert_eq!(origin.body("k").as_deref(), Some(&b"1"[..]));
        assert!(origin.recorded()[0].late);
    }

    #[tokio::test]
    async fn conditions_are_judged_where_honoured() {
        let origin = MemoryOrigin::capable();
        let first = origin.put(put("k", b"1", Condition::IfAbsent)).await.unwrap();
        let again = origin.put(put("k", b"2", Condition::IfAbsent)).await.unwrap_err();
        assert_eq!((again.class, again.outcome), (ErrorClass::Conflict, Landing::NotApplied));
        origin.put(put("k", b"2", Condition::IfMatch(first.etag.clone()))).await.unwrap();
        assert!(origin.put(put("k", b"3", Condition::IfMatch(first.etag))).await.is_err());
        assert_eq!(origin.body("k").as_deref(), Some(&b"2"[..]));
    }

    #[tokio::test]
    async fn list_pages_in_order_and_says_when_more_follows() {
        let origin = MemoryOrigin::capable();
        for key in ["a/1", "a/2", "a/3", "b"] {
            origin.put_foreign(key, b"");
        }
        let page = |start_after: Option<&str>| ListRequest {
            prefix: "a/".to_owned(),
            max: 2,
            start_after: start_after.map(str::to_owned),
            delimiter: None,
            token: None,
        };
        let keys = |reply: &ListReply| reply.objects.iter().map(|o| o.key.0.clone()).collect::<Vec<_>>();
        let first = origin.list(page(None)).await.unwrap();
        assert_eq!((keys(&first), first.truncated), (vec!["a/1".to_owned(), "a/2".to_owned()], true));
        let second = origin.list(page(Some("a/2"))).await.unwrap();
        assert_eq!((keys(&second), second.truncated), (vec!["a/3".to_owned()], false));
    }
}
