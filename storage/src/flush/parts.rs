//! One attempt for a body that goes in parts: begin or go on with a multipart upload, send what is missing,
//! and only then, fenced as a whole PUT is, complete it.
//!
//! Owns the cut into parts and the order of the steps. What must hold: parts change no object, so they need
//! no fence and no started row; the completion is sent only after its started row is applied. Every part that
//! the origin has is recorded, so that a failed attempt or a restart sends none twice. Bounded: parts at once
//! by the settings, their bytes in memory by [`MEMORY_MIB`] for all attempts together.
//!
//! What a crash leaves: the transfer row, from which the next attempt goes on; and of an upload that was begun and not
//! yet recorded the row that says so (`asked`).

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::contract::{FlushObject, TransferRecord, TransferState, TransferStep};
use super::queue::{Ended, Start};
use super::stale::so_far;
use super::upload::{Courier, Target, failed, harmless, local_failure, millis};
use crate::object::PartRun;
use crate::origin::{
    BeginRequest, CompleteRequest, ErrorClass, Fence, Landing, NO_SUCH_UPLOAD, OriginError, OriginKey,
    PartRequest, SentPart, UploadBody, UploadId,
};

/// Memory for parts that are read ahead of sending, in MiB.
pub(crate) const MEMORY_MIB: usize = 64;
/// Longest part that is held in memory while it is sent; a longer one is read twice, for its checksum first.
const HELD_BYTES_MAX: u64 = 16 << 20;
/// Most parts of an upload, and the shortest part but the last, as S3 has it.
const PARTS_MAX: u64 = 10_000;
const CLIENT_PART_BYTES_MIN: u64 = 5 << 20;
/// Tries of one part within an attempt, and the pause before the second, which doubles.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How a body of `len` bytes is cut: where the client cut it, if the origin takes such parts, else evenly.
pub(crate) fn cut(len: u64, runs: &[PartRun], part_bytes: u64) -> Vec<Range<u64>> {
    if let Some(cut) = clients_cut(len, runs) {
        return cut;
    }
    let part_bytes = part_bytes.max(1);
    (0..len.div_ceil(part_bytes)).map(|n| n * part_bytes..len.min((n + 1) * part_bytes)).collect()
}

fn clients_cut(len: u64, runs: &[PartRun]) -> Option<Vec<Range<u64>>> {
    let count: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
    if count == 0 || count > PARTS_MAX {
        return None;
    }
    let mut ranges = Vec::with_capacity(count as usize);
    let mut at = 0_u64;
    for run in runs {
        for _ in 0..run.count {
            let end = at.checked_add(run.part_len)?;
            ranges.push(at..end);
            at = end;
        }
    }
    let long_enough = |range: &Range<u64>| range.end - range.start >= CLIENT_PART_BYTES_MIN;
    let (_, others) = ranges.split_last()?;
    (at == len && others.iter().all(long_enough)).then_some(ranges)
}

/// The length of our own parts: the setting, or what keeps their number within the origin's limit.
fn part_bytes_for(len: u64, setting: u64) -> u64 {
    match len.div_ceil(setting.max(1)) > PARTS_MAX {
        true => len.div_ceil(PARTS_MAX).next_multiple_of(1 << 20),
        false => setting.max(1),
    }
}

impl Courier {
    pub(super) async fn put_in_parts(
        &self,
        start: &Start,
        target: &Target,
        fence: Fence,
        object: FlushObject,
    ) -> Result<Ended, Ended> {
        let key = target.key(start);
        let transfer = self.begin(start, target, &key, &object).await?;
        let ranges = cut(object.body.len(), &object.part_runs, transfer.part_bytes);
        let sent = self.send_missing(start, target, &key, &fence, &object.body, &transfer, &ranges).await?;
        // An origin may go on putting a large object together after it has lost its client.
        let deadline = self.started(start, object.body.len()).await?;
        let condition = self.condition(start, target, &key).await?;
        let upload = UploadId(transfer.upload_id.clone());
        let request = CompleteRequest {
            key: key.clone(),
            upload: upload.clone(),
            parts: sent,
            condition,
            deadline: deadline.at,
            fence: self.bounded(fence, deadline),
        };
        let reply = match target.origin.complete_upload(request).await {
            Ok(reply) => reply,
            Err(error) => {
                self.completion_failed(start, &upload, &error).await;
                let error = match error.code.as_deref() {
                    // Used up; perhaps by this very request, whose answer somebody on the way asked for twice.
                    Some(NO_SUCH_UPLOAD) => OriginError { class: ErrorClass::Conflict, ..error },
                    _ => error,
                };
                return Err(failed(error, deadline.alive_ms()));
            }
        };
        Ok(self.record(start, start.version, Some(reply.etag.0), Ended::Done, deadline.alive_ms()).await)
    }

    /// The upload that is recorded, or a new one, recorded.
    async fn begin(
        &self,
        start: &Start,
        target: &Target,
        key: &OriginKey,
        object: &FlushObject,
    ) -> Result<TransferState, Ended> {
        let known = self.source.transfer(start.version).await.map_err(|error| local_failure(&error))?;
        match known {
            Some(known) if known.mount == start.mount => return Ok(known),
            // Of a mount that the key had before: it is another object there, or is given up first.
            Some(other) => {
                self.step(start, &other.upload_id, TransferStep::Lost).await?;
                return Err(Ended::NotStarted);
            }
            // Its record is in the way.
            None => {
                if let Some(trouble) = self.stale.trouble_of(start.version, start.mount) {
                    return Err(given_up_first(trouble));
                }
            }
        }
        let (headers, user_metadata) = self.headers(start, &object.meta, &object.etag);
        let crc32c = target.capabilities.checksums;
        let (from_ms, deadline) = (self.source.now_ms(), Instant::now() + self.attempt_timeout);
        let until_ms = from_ms.saturating_add(millis(self.attempt_timeout));
        // If the answer is lost, nobody knows the upload's name: it is looked for.
        if !self.step(start, "", TransferStep::Asked { from_ms, until_ms }).await? {
            return Err(Ended::NotStarted);
        }
        let request = BeginRequest { key: key.clone(), headers, user_metadata, crc32c, deadline };
        let UploadId(upload_id) = match target.origin.begin_upload(request).await {
            Ok(upload) => upload,
            Err(error) => {
                if error.outcome == Landing::NotApplied {
                    // If this is not recorded, it is looked for in vain.
                    let _ = self.step(start, "", TransferStep::Refused).await;
                }
                return Err(failed(harmless(error), 0));
            }
        };
        let part_bytes = part_bytes_for(object.body.len(), self.part_bytes);
        let step = TransferStep::Begun { part_bytes, crc32c };
        match self.step(start, &upload_id, step).await {
            Ok(true) => {}
            Ok(false) | Err(_) => {
                // Superseded meanwhile, or this node does not lead: nobody will look for it.
                let _ = target.origin.abort_upload(key, &UploadId(upload_id)).await;
                return Err(Ended::NotStarted);
            }
        }
        Ok(TransferState { upload_id, mount: start.mount, part_bytes, crc32c, parts: Vec::new() })
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one attempt, used in one place")]
    async fn send_missing(
        &self,
        start: &Start,
        target: &Target,
        key: &OriginKey,
        fence: &Fence,
        body: &UploadBody,
        transfer: &TransferState,
        ranges: &[Range<u64>],
    ) -> Result<Vec<SentPart>, Ended> {
        let mut sent: HashMap<u32, SentPart> =
            transfer.parts.iter().map(|part| (part.number, part.clone())).collect();
        let missing: Vec<(u32, Range<u64>)> =
            (1..).zip(ranges.iter().cloned()).filter(|(number, _)| !sent.contains_key(number)).collect();
        let mut waiting = missing.into_iter();
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < self.part_concurrency.max(1) {
                let Some((number, range)) = waiting.next() else { break };
                let part = (number, range.start, body.part(range));
                under_way.push(self.send_part(start, target, key, fence, transfer, part));
            }
            match under_way.next().await {
                None => break,
                Some(Ok(part)) => drop(sent.insert(part.number, part)),
                // The others are dropped with it: what of them arrives is replaced when sent again.
                Some(Err(ended)) => return Err(ended),
            }
        }
        let mut sent: Vec<SentPart> =
            sent.into_values().filter(|part| part.number as usize <= ranges.len()).collect();
        sent.sort_by_key(|part| part.number);
        Ok(sent)
    }

    async fn send_part(
        &self,
        start: &Start,
        target: &Target,
        key: &OriginKey,
        fence: &Fence,
        transfer: &TransferState,
        (number, offset, body): (u32, u64, UploadBody),
    ) -> Result<SentPart, Ended> {
        let unread = |error: crate::origin::BodyError| {
            failed(OriginError::new(ErrorClass::Fenced, Landing::NotApplied, error.to_string()), 0)
        };
        let held = body.len() <= HELD_BYTES_MAX;
        let mib = if held { body.len().div_ceil(1 << 20).max(1) as u32 } else { 2 };
        let _memory = self.part_memory.acquire_many(mib).await.map_err(|_| Ended::NotStarted)?;
        let body = if held { UploadBody::from(body.collect().await.map_err(unread)?) } else { body };
        let crc32c = if transfer.crc32c { Some(body.crc32c().await.map_err(unread)?) } else { None };
        let mut pause = PAUSE;
        let mut tries = 1;
        let part = loop {
            if !fence.holds() {
                return Err(Ended::NotStarted);
            }
            let moving = Duration::from_secs(body.len() / self.least_bandwidth.max(1));
            let request = PartRequest {
                key: key.clone(),
                upload: UploadId(transfer.upload_id.clone()),
                number,
                offset,
                body: body.clone(),
                crc32c,
                deadline: Instant::now() + self.attempt_timeout + moving,
                fence: fence.clone(),
            };
            let flying = self.stale.parts.begin(start.version, request.deadline);
            let answer = target.origin.put_part(request).await;
            match &answer {
                Ok(_) | Err(OriginError { outcome: Landing::NotApplied, .. }) => flying.answered(),
                Err(_) => drop(flying),
            }
            match answer {
                Ok(part) => break part,
                Err(error) if tries < TRIES && passes(error.class) => {
                    tokio::time::sleep(error.retry_after.unwrap_or(pause).min(PAUSE_MAX)).await;
                    (tries, pause) = (tries + 1, pause * 2);
                }
                Err(error) => {
                    if error.code.as_deref() == Some(NO_SUCH_UPLOAD) {
                        self.lost(start, &transfer.upload_id).await;
                    }
                    return Err(failed(harmless(error), 0));
                }
            }
        };
        // A version that is not wanted any more ends here, after the part that was under way.
        match self.step(start, &transfer.upload_id, TransferStep::Sent(part.clone())).await? {
            true => Ok(part),
            false => Err(Ended::NotStarted),
        }
    }

    /// What the refusal of a completion means for its upload: one that is used up, or whose parts do not fit, is begun
    /// anew, once this one is given up. A completion before this one may still be worked on.
    async fn completion_failed(&self, start: &Start, upload: &UploadId, error: &OriginError) {
        let useless = [NO_SUCH_UPLOAD, "InvalidPart", "InvalidPartOrder"];
        let code = error.code.as_deref();
        if error.outcome == Landing::NotApplied && code.is_some_and(|code| useless.contains(&code)) {
            self.lost(start, &upload.0).await;
        }
    }

    /// Nobody goes on with an upload. If that is not recorded, the next attempt learns it again.
    async fn lost(&self, start: &Start, upload_id: &str) {
        let _ = self.step(start, upload_id, TransferStep::Lost).await;
    }

    async fn step(&self, start: &Start, upload_id: &str, step: TransferStep) -> Result<bool, Ended> {
        let record = TransferRecord {
            bucket: start.bucket,
            key: start.key.clone(),
            version: start.version,
            upload_id: upload_id.to_owned(),
            step,
        };
        self.transfers.submit(record).await.map_err(|_| Ended::NotStarted)
    }
}

/// The end of an attempt of a version whose last upload is not given up yet, and why that is so.
fn given_up_first(trouble: Option<String>) -> Ended {
    let message = format!("an upload of it that was begun before is given up first{}", so_far(trouble));
    failed(OriginError::new(ErrorClass::Fenced, Landing::NotApplied, message), 0)
}

fn passes(class: ErrorClass) -> bool {
    matches!(
        class,
        ErrorClass::Network | ErrorClass::ServerError | ErrorClass::Throttled | ErrorClass::Checksum
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn run(part_len: u64, count: u32) -> PartRun {
        PartRun { part_len, count }
    }

    #[test]
    fn the_clients_parts_are_kept_where_the_origin_takes_them() {
        assert_eq!(cut(25 * MIB, &[run(10 * MIB, 2), run(5 * MIB, 1)], 8 * MIB).len(), 3);
        assert_eq!(cut(11 * MIB, &[run(10 * MIB, 1), run(MIB, 1)], 8 * MIB)[1], 10 * MIB..11 * MIB);
        // Too short, too many, or of another body: our own.
        for runs in [vec![run(MIB, 20)], vec![run(5 * MIB, 10_001)], vec![run(10 * MIB, 1)], vec![]] {
            assert_eq!(cut(20 * MIB, &runs, 8 * MIB), [0..8 * MIB, 8 * MIB..16 * MIB, 16 * MIB..20 * MIB]);
        }
    }

    #[test]
    fn no_body_has_more_parts_than_an_upload_takes() {
        for len in [1, 8 * MIB + 1, 80_000 * MIB, 80_000 * MIB + 1, 5 << 40] {
            let part_bytes = part_bytes_for(len, 8 * MIB);
            assert!(part_bytes >= 8 * MIB && len.div_ceil(part_bytes) <= PARTS_MAX, "{len}: {part_bytes}");
        }
        assert_eq!(part_bytes_for(100_000, 20_000), 20_000);
    }
}
