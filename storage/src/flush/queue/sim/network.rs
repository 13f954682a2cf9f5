//! Requests of the small world on their way to the origin, and what it answers: lost, late, twice, or as it should be.

use super::*;

impl World {
    /// The started row is committed: the request may leave, even if its sender leads no more.
    pub(super) fn send(&mut self, epoch: u64, start: Start, name: Name, deadline_ms: u64, dead_at: u64) {
        let known = self.rows.origin(&name);
        let capabilities = honours(self.plan);
        let condition = condition_for(known.as_ref(), capabilities);
        let blind = self.is_blind(&start);
        let judges = condition != Condition::None;
        let upload = self
            .rows
            .transfer_of(start.version)
            .and_then(|transfer| Some((UploadId(transfer.upload_id), transfer.parts.into_iter().next()?)));
        let (version, kind) = (start.version, start.kind);
        let request = Request { blind, name, version, kind, condition, dead_at, upload };
        if start.kind == FlushKind::Delete || blind || (self.plan.existing && !judges) {
            // The origin cannot delete conditionally, or cannot judge, or nothing is known: it is asked first.
            let delay = self.random.u64(1..50);
            return self.at(delay, Event::Head { epoch, start, then: Some(request) });
        }
        self.travel(epoch, start.attempt, request, deadline_ms);
    }

    pub(super) fn is_blind(&self, start: &Start) -> bool {
        let known = self.rows.origin(&(start.bucket, start.key.clone()));
        start.blind && known.is_none() && !self.plan.sabotage.no_blindness
    }

    fn travel(&mut self, epoch: u64, attempt: AttemptId, request: Request, deadline_ms: u64) {
        let left = request.dead_at.saturating_sub(self.now).max(2);
        let fate = if self.faults { self.random.u8(..100) } else { 0 };
        let quick = self.random.u64(1..left.min(80));
        // An origin may work on a completion for long; everything else is dead with its sender.
        let late = if request.upload.is_some() { left + 9_000 } else { left };
        let late = self.random.u64(1..late);
        let give_up = Event::GiveUp { epoch, attempt, deadline_ms };
        let alone = |request: &Request| Event::Land { request: request.clone(), answer_to: None };
        match fate {
            // Arrives and is answered.
            0..55 => self.at(quick, Event::Land { request, answer_to: Some((epoch, attempt)) }),
            // Arrives, is answered, and a proxy repeats it.
            55..60 => {
                self.at(quick, alone(&request));
                self.at(quick + 1, Event::Land { request, answer_to: Some((epoch, attempt)) });
            }
            // Arrives, the answer is lost.
            60..70 => {
                self.at(quick, alone(&request));
                self.at(quick + 1, give_up);
            }
            // The sender gives up first, the request arrives late, perhaps twice.
            70..90 => {
                self.at(quick, give_up);
                self.at(late.max(quick), alone(&request));
                if fate >= 85 {
                    self.at(self.random.clone().u64(1..left), alone(&request));
                }
            }
            // Is lost.
            _ => self.at(quick, give_up),
        }
    }

    pub(super) fn land(
        &mut self,
        request: Request,
        answer_to: Option<(u64, AttemptId)>,
    ) -> Result<(), String> {
        let key = OriginKey(key_of(&request.name));
        let before = self.origin.recorded().len();
        let answer = match request.kind {
            FlushKind::Put if request.upload.is_some() => self.complete(&request),
            FlushKind::Put => {
                let put = PutRequest {
                    key,
                    body: body(request.version),
                    headers: ContentHeaders::default(),
                    user_metadata: vec![mark(request.version)],
                    condition: request.condition.clone(),
                    checksums: BodyChecksums::default(),
                    deadline: Instant::now() + Duration::from_secs(60),
                    fence: Fence::open(),
                };
                let answer = self.origin.put(put).now_or_never().expect("the memory origin never waits");
                answer.map(|reply| Some(reply.etag.0))
            }
            FlushKind::Delete => {
                let delete = DeleteRequest {
                    key,
                    if_match: match &request.condition {
                        Condition::IfMatch(etag) => Some(etag.clone()),
                        _ => None,
                    },
                    deadline: Instant::now() + Duration::from_secs(60),
                    fence: Fence::open(),
                };
                let answer =
                    self.origin.delete(delete).now_or_never().expect("the memory origin never waits");
                answer.map(|()| None)
            }
        };
        if self.origin.recorded().len() > before {
            self.judge_landing(&request)?;
        }
        let Some((epoch, attempt)) = answer_to else { return Ok(()) };
        let ended = match answer {
            Err(error) => Ended::Failed {
                class: error.class,
                landing: error.outcome,
                retry_after_ms: None,
                alive_ms: 0,
                message: error.message,
            },
            Ok(origin_etag) => {
                let flushed = Flushed {
                    bucket: request.name.0,
                    key: request.name.1,
                    version: request.version,
                    mount: None,
                    origin_etag,
                };
                self.propose(epoch, Proposal::Flushed { flushed, then: Some((attempt, Ended::Done)) });
                return Ok(());
            }
        };
        self.finish(epoch, attempt, ended);
        Ok(())
    }

    pub(super) fn head(&mut self, epoch: u64, start: Start, then: Option<Request>) {
        let name = (start.bucket, start.key.clone());
        if then.is_none() && self.faults && self.random.u8(..) < 40 {
            return self.finish(epoch, start.attempt, unknown(0));
        }
        let older = if then.is_none() { self.rows.stale_of(&name) } else { Vec::new() };
        if let Some(stale) = older.first().filter(|_| !self.plan.sabotage.no_abort) {
            self.abort(stale);
            return match self.faults && self.random.u8(..) < 80 {
                // The answer is lost, or there must be another.
                true if self.random.bool() => self.finish(epoch, start.attempt, unknown(0)),
                true => self.finish(epoch, start.attempt, Ended::AskAgain { after_ms: MARGIN_MS }),
                false => {
                    let gone = Proposal::TransferGone { version: stale.version, then: start };
                    self.propose(epoch, gone)
                }
            };
        }
        let head = self.origin.head(&OriginKey(key_of(&name))).now_or_never();
        let head = head.expect("the memory origin never waits").expect("and was given no faults");
        let held = Held::of(head.as_ref(), CLUSTER);
        let known = self.rows.origin(&name);
        let blind = self.is_blind(&start);
        let verdict = match blind {
            true => judge_blind(&held, start.version, start.kind),
            false => judge(&held, start.version, start.kind, known.as_ref()),
        };
        match verdict {
            Verdict::Landed { etag } => {
                let flushed = Flushed {
                    bucket: start.bucket,
                    key: start.key,
                    version: start.version,
                    mount: None,
                    origin_etag: Some(etag),
                };
                let then = Some((start.attempt, Ended::Done));
                self.propose(epoch, Proposal::Flushed { flushed, then });
            }
            Verdict::Conflict { .. } => {
                let row = RowId { bucket: start.bucket, key: start.key, version: start.version };
                self.propose(epoch, Proposal::Park { row, then: Some(start.attempt) });
            }
            Verdict::GoOn { record } => match (then, record) {
                (Some(request), _) if blind && request.kind == FlushKind::Delete && held == Held::Nothing => {
                    // Nothing to delete: as good as landed.
                    self.landed.insert(name, start.version);
                    let (bucket, key, version) = (start.bucket, start.key, start.version);
                    let flushed = Flushed { bucket, key, version, mount: None, origin_etag: None };
                    let then = Some((start.attempt, Ended::Done));
                    self.propose(epoch, Proposal::Flushed { flushed, then });
                }
                (Some(mut request), _) => {
                    request.condition = match (request.kind, held) {
                        (FlushKind::Put, held) => condition_of(&held, honours(self.plan)),
                        (_, Held::Ours { etag, .. } | Held::Foreign { etag }) => {
                            Condition::IfMatch(OriginETag(etag))
                        }
                        (_, Held::Nothing) => Condition::None,
                    };
                    let deadline_ms = self.leader_now() + request.dead_at.saturating_sub(self.now);
                    self.travel(epoch, start.attempt, request, deadline_ms);
                }
                (None, None) => self.finish(epoch, start.attempt, Ended::GoOn),
                (None, Some((version, origin_etag))) => {
                    let flushed =
                        Flushed { bucket: start.bucket, key: start.key, version, mount: None, origin_etag };
                    let then = Some((start.attempt, Ended::GoOn));
                    self.propose(epoch, Proposal::Flushed { flushed, then });
                }
            },
        }
    }

    /// Sends the one part of a version that goes as an upload. Parts change no object.
    pub(super) fn begin_upload(&mut self, start: &Start) {
        let goes_in_parts = start.kind == FlushKind::Put && start.version.0.is_multiple_of(2);
        if !goes_in_parts || self.rows.transfer_of(start.version).is_some() {
            return;
        }
        let key = OriginKey(key_of(&(start.bucket, start.key.clone())));
        let deadline = Instant::now() + Duration::from_secs(60);
        let begin = BeginRequest {
            key: key.clone(),
            headers: ContentHeaders::default(),
            user_metadata: vec![mark(start.version)],
            crc32c: false,
            deadline,
        };
        let upload = self.origin.begin_upload(begin).now_or_never().expect("the memory origin never waits");
        let upload = upload.expect("and was given no faults");
        let part = PartRequest {
            key,
            upload: upload.clone(),
            number: 1,
            offset: 0,
            body: body(start.version).into(),
            crc32c: None,
            deadline,
            fence: Fence::open(),
        };
        let sent = self.origin.put_part(part).now_or_never().expect("the memory origin never waits");
        let sent = sent.expect("and was given no faults");
        for step in [TransferStep::Begun { part_bytes: 8, crc32c: false }, TransferStep::Sent(sent)] {
            self.transfer(start.bucket, &start.key, start.version, &upload, step);
        }
    }

    fn transfer(
        &mut self,
        bucket: BucketId,
        key: &Bytes,
        version: Version,
        upload: &UploadId,
        step: TransferStep,
    ) {
        let (key, upload_id) = (key.clone(), upload.0.clone());
        self.rows.transfer(TransferRecord { bucket, key, version, upload_id, step });
    }

    fn complete(&mut self, request: &Request) -> Result<Option<String>, OriginError> {
        let (upload, part) = request.upload.clone().expect("of one that goes in parts");
        let complete = CompleteRequest {
            key: OriginKey(key_of(&request.name)),
            upload: upload.clone(),
            parts: vec![part],
            condition: request.condition.clone(),
            deadline: Instant::now() + Duration::from_secs(60),
            fence: Fence::open(),
        };
        let answer =
            self.origin.complete_upload(complete).now_or_never().expect("the memory origin never waits");
        answer.map(|reply| Some(reply.etag.0)).map_err(|error| match error.code.as_deref() {
            Some(NO_SUCH_UPLOAD) => {
                let (bucket, key) = &request.name;
                self.transfer(*bucket, key, request.version, &upload, TransferStep::Lost);
                OriginError { class: ErrorClass::Conflict, ..error }
            }
            _ => error,
        })
    }

    pub(super) fn abort(&self, stale: &StaleTransfer) {
        let key = OriginKey(key_of(&(stale.bucket, stale.key.clone())));
        let upload = UploadId(stale.upload_id.clone());
        let reply = self.origin.abort_upload(&key, &upload).now_or_never();
        reply.expect("the memory origin never waits").expect("and was given no faults");
    }
}
