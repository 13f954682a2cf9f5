//! What an origin can, found by trying; and whether a prefix is still empty.
//!
//! Owns the probe's keys, its judgement, and the retries of its single steps: an origin that fails one
//! request in three is attached within seconds. What a crash leaves: an object named `.forebay-probe-…`, which
//! [`is_empty`] overlooks and the next probe removes.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    BodyChecksums, Capabilities, Condition, ContentHeaders, DeleteRequest, ErrorClass, Fence, Landing,
    ListRequest, Origin, OriginETag, OriginError, OriginKey, PutRequest,
};

/// What the name of a probe's object begins with, after the mount's prefix.
pub const PROBE_NAME: &str = ".forebay-probe-";

const BODY: &[u8] = b"forebay probe";
const WAIT: Duration = Duration::from_secs(30);
const LIST_PAGE: u16 = 100;
/// Most tries of one step, and the time after which none begins.
const STEP_TRIES: u32 = 10;
const STEP_TIME: Duration = Duration::from_secs(10);
/// Pause before the second try of a step; it doubles. Tests make thousands of tries.
const STEP_PAUSE: Duration = Duration::from_micros(if cfg!(test) { 50 } else { 50_000 });
const STEP_PAUSE_MAX: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 2_000 });

/// Takes one step again while what fails may pass by itself. A step is harmless when repeated: the probe's
/// object is nobody else's.
async fn step<T, F: Future<Output = Result<T, OriginError>>>(
    mut ask: impl FnMut() -> F,
) -> Result<T, OriginError> {
    let begun = Instant::now();
    let mut pause = STEP_PAUSE;
    for _ in 1..STEP_TRIES {
        match ask().await {
            Err(error) if passes(error.class) && begun.elapsed() < STEP_TIME => {
                tokio::time::sleep(error.retry_after.unwrap_or(pause).min(STEP_PAUSE_MAX)).await;
                pause *= 2;
            }
            answer => return answer,
        }
    }
    ask().await
}

fn passes(class: ErrorClass) -> bool {
    matches!(class, ErrorClass::Network | ErrorClass::ServerError | ErrorClass::Throttled)
}

/// Probes with one object, one request after the other. An error means that nothing was learnt: network,
/// credentials, a missing bucket. A refusal that a working origin would not give means "cannot".
pub(super) async fn probe<O: Origin + ?Sized>(origin: &O, prefix: &str) -> Result<Capabilities, OriginError> {
    let key = OriginKey(format!("{prefix}{PROBE_NAME}{}", random_hex()?));
    let found = judge(origin, &key).await;
    let removed = step(|| origin.delete(delete(&key, None))).await;
    let capabilities = found?;
    removed?;
    remove_leftovers(origin, prefix).await?;
    Ok(capabilities)
}

/// Removes what probes left that died on the way: objects of a probe's name, with a probe's body.
async fn remove_leftovers<O: Origin + ?Sized>(origin: &O, prefix: &str) -> Result<(), OriginError> {
    let request = ListRequest::new(format!("{prefix}{PROBE_NAME}"), LIST_PAGE);
    for object in step(|| origin.list(request.clone())).await?.objects {
        let found = step(|| origin.get(&object.key, BODY.len() as u64)).await;
        if found.is_ok_and(|found| found.is_some_and(|found| found.body == BODY)) {
            step(|| origin.delete(delete(&object.key, None))).await?;
        }
    }
    Ok(())
}

async fn judge<O: Origin + ?Sized>(origin: &O, key: &OriginKey) -> Result<Capabilities, OriginError> {
    // 501 Not Implemented is how some origins refuse a header they do not know, so a step ends with it.
    let putting = |condition: Condition, crc32c| {
        step(move || {
            let answer = origin.put(put(key, condition.clone(), crc32c));
            async move { accepted(answer.await) }
        })
    };
    step(|| origin.put(put(key, Condition::None, None))).await?;
    let wrong = OriginETag("0123456789abcdef0123456789abcdef".to_owned());
    let crc = crc32c(BODY);

    let if_none_match = !putting(Condition::IfAbsent, None).await?;
    let wrong_match = putting(Condition::IfMatch(wrong.clone()), None).await?;
    let right_match = step(|| async {
        // Same bytes again, but an origin may give every PUT an ETag of its own; also one whose answer was
        // lost.
        let Some(head) = origin.head(key).await? else { return Ok(false) };
        accepted(origin.put(put(key, Condition::IfMatch(head.etag), None)).await)
    })
    .await?;
    let wrong_crc = putting(Condition::None, Some(!crc)).await?;
    let right_crc = putting(Condition::None, Some(crc)).await?;
    let wrong_delete =
        step(|| async { accepted(origin.delete(delete(key, Some(wrong.clone()))).await) }).await?;
    // Some accept a conditional delete and then do nothing: count only a refusal that says so.
    let if_match_delete = !wrong_delete && step(|| origin.head(key)).await?.is_some();

    Ok(Capabilities {
        if_none_match,
        if_match: !wrong_match && right_match,
        if_match_delete,
        checksums: !wrong_crc && right_crc,
    })
}

/// Whether the origin took it; an error that says nothing about the feature is passed on.
fn accepted<T>(answer: Result<T, OriginError>) -> Result<bool, OriginError> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.outcome == Landing::NotApplied && says_no(error.class) => Ok(false),
        Err(error) if error.code.as_deref() == Some("NotImplemented") => Ok(false),
        Err(error) => Err(error),
    }
}

fn says_no(class: ErrorClass) -> bool {
    matches!(class, ErrorClass::Conflict | ErrorClass::Checksum | ErrorClass::Other)
}

/// Whether nothing but probe leftovers stands under `prefix`.
pub(super) async fn is_empty<O: Origin + ?Sized>(origin: &O, prefix: &str) -> Result<bool, OriginError> {
    let probes = format!("{prefix}{PROBE_NAME}");
    let mut request = ListRequest::new(prefix, LIST_PAGE);
    loop {
        let page = step(|| origin.list(request.clone())).await?;
        if page.objects.iter().any(|object| !object.key.0.starts_with(&probes)) {
            return Ok(false);
        }
        match page.next {
            Some(next) if page.truncated => request.token = Some(next),
            _ => return Ok(true),
        }
    }
}

fn put(key: &OriginKey, condition: Condition, crc32c: Option<u32>) -> PutRequest {
    PutRequest {
        key: key.clone(),
        body: Bytes::from_static(BODY),
        headers: ContentHeaders::default(),
        user_metadata: Vec::new(),
        condition,
        checksums: crc32c.map(BodyChecksums::crc32c).unwrap_or_default(),
        deadline: Instant::now() + WAIT,
        fence: Fence::open(),
    }
}

fn delete(key: &OriginKey, if_match: Option<OriginETag>) -> DeleteRequest {
    DeleteRequest { key: key.clone(), if_match, deadline: Instant::now() + WAIT, fence: Fence::open() }
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn random_hex() -> Result<String, OriginError> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).map_err(|error| {
        let message = format!("the operating system gave no random bytes: {error}");
        OriginError::new(ErrorClass::Other, Landing::NotApplied, message)
    })?;
    Ok(hex::encode(id))
}
