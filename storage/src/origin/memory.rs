//! An origin in memory, with faults on command: for tests and simulations.
//!
//! Owns its objects, a record of every mutation that was applied, and the requests that were told to
//! land late. It is deterministic: no clock, no randomness, no threads; what happens depends on the
//! calls and on the fault hook alone.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use md5::{Digest, Md5};
use parking_lot::Mutex;

use super::{
    BodyChecksums, Capabilities, Condition, ContentHeaders, DeleteRequest, ErrorClass, GetReply, HeadReply,
    Landing, ListReply, ListRequest, ListedObject, Origin, OriginETag, OriginError, OriginKey, PutReply,
    PutRequest,
};

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
    calls: u64,
    hook: Option<FaultHook>,
}

#[derive(Debug, Clone)]
struct Stored {
    body: Bytes,
    headers: ContentHeaders,
    user_metadata: Vec<(String, String)>,
    etag: OriginETag,
}

#[derive(Debug, Clone)]
enum LateRequest {
    Put(Box<PutRequest>),
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
            calls: 0,
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
            LateRequest::Delete(request) => state.delete(&request, call, true),
        };
        true
    }

    /// Puts an object that is not ours, without a call and without a record.
    pub fn put_foreign(&self, key: &str, body: &'static [u8]) {
        let body = Bytes::from_static(body);
        let etag = md5_etag(&body);
        let stored = Stored { body, headers: ContentHeaders::default(), user_metadata: Vec::new(), etag };
        self.state.lock().objects.insert(key.to_owned(), stored);
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

    fn put(&mut self, request: &PutRequest, call: u64, late: bool) -> Result<PutReply, OriginError> {
        let held = self.objects.get(&request.key.0).map(|stored| &stored.etag);
        let holds = match &request.condition {
            Condition::None => true,
            Condition::IfAbsent => held.is_none() || !self.honours.if_none_match,
            Condition::IfMatch(etag) => held == Some(etag) || !self.honours.if_match,
        };
        if !holds {
            return Err(precondition_failed());
        }
        if self.honours.checksums && !checksums_match(&request.checksums, &request.body) {
            return Err(refusal(ErrorClass::Checksum, "BadDigest", "the body has another checksum"));
        }
        let etag = md5_etag(&request.body);
        let mut user_metadata = request.user_metadata.clone();
        user_metadata.sort();
        let recorded = Recorded { call, key: request.key.0.clone(), put: Some(user_metadata.clone()), late };
        self.recorded.push(recorded);
        let stored = Stored {
            body: request.body.clone(),
            headers: request.headers.clone(),
            user_metadata,
            etag: etag.clone(),
        };
        self.objects.insert(request.key.0.clone(), stored);
        Ok(PutReply { etag })
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
    fn head(&self) -> HeadReply {
        HeadReply {
            etag: self.etag.clone(),
            content_length: self.body.len() as u64,
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
            Fault::Ok => state.put(&request, call, false),
            Fault::Refuse(error) => Err(error),
            Fault::ApplyThenUnknown => state.put(&request, call, false).and_then(|_| Err(lost())),
            Fault::DropUnknown => Err(lost()),
            Fault::LandLate => {
                state.late.insert(call, LateRequest::Put(Box::new(request)));
                Err(lost())
            }
        }
    }

    async fn get(&self, key: &OriginKey, limit: u64) -> Result<Option<GetReply>, OriginError> {
        let mut state = self.state.lock();
        read_fault(state.arrive(Operation::Get, &key.0).1)?;
        let Some(stored) = state.objects.get(&key.0) else { return Ok(None) };
        if stored.body.len() as u64 > limit {
            return Err(refusal(ErrorClass::TooLarge, "EntityTooLarge", "longer than the caller takes"));
        }
        Ok(Some(GetReply { head: stored.head(), body: stored.body.clone() }))
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
            Fault::Ok => state.delete(&request, call, false),
            Fault::Refuse(error) => Err(error),
            Fault::ApplyThenUnknown => state.delete(&request, call, false).and_then(|()| Err(lost())),
            Fault::DropUnknown => Err(lost()),
            Fault::LandLate => {
                state.late.insert(call, LateRequest::Delete(request));
                Err(lost())
            }
        }
    }

    async fn list(&self, request: ListRequest) -> Result<ListReply, OriginError> {
        let mut state = self.state.lock();
        read_fault(state.arrive(Operation::List, &request.prefix).1)?;
        let after = request.start_after.as_deref();
        let mut objects: Vec<ListedObject> = state
            .objects
            .range(request.prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&request.prefix))
            .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after))
            .take(usize::from(request.max) + 1)
            .map(|(key, stored)| ListedObject {
                key: OriginKey(key.clone()),
                etag: Some(stored.etag.clone()),
                bytes: stored.body.len() as u64,
            })
            .collect();
        let truncated = objects.len() > usize::from(request.max);
        objects.truncate(usize::from(request.max));
        Ok(ListReply { objects, truncated })
    }
}

fn read_fault(fault: Fault) -> Result<(), OriginError> {
    match fault {
        Fault::Ok => Ok(()),
        Fault::Refuse(error) => Err(error),
        Fault::ApplyThenUnknown | Fault::DropUnknown | Fault::LandLate => Err(lost()),
    }
}

fn lost() -> OriginError {
    OriginError::new(ErrorClass::Network, Landing::Unknown, "the answer was lost")
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

fn checksums_match(checksums: &BodyChecksums, body: &[u8]) -> bool {
    let crc32c = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, body) as u32;
    let crc64 = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, body);
    checksums.crc32c.is_none_or(|sent| sent == crc32c)
        && checksums.crc64nvme.is_none_or(|sent| sent == crc64)
        && checksums.md5.is_none_or(|sent| sent[..] == Md5::digest(body)[..])
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

    #[tokio::test(start_paused = true)]
    async fn a_probe_comes_through_although_three_in_ten_requests_fail() {
        for seed in 1..200_u64 {
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

    #[tokio::test(start_paused = true)]
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
        };
        let keys = |reply: &ListReply| reply.objects.iter().map(|o| o.key.0.clone()).collect::<Vec<_>>();
        let first = origin.list(page(None)).await.unwrap();
        assert_eq!((keys(&first), first.truncated), (vec!["a/1".to_owned(), "a/2".to_owned()], true));
        let second = origin.list(page(Some("a/2"))).await.unwrap();
        assert_eq!((keys(&second), second.truncated), (vec!["a/3".to_owned()], false));
    }
}
