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
        if let Some(complete) = self.complete_request(&request)
            && self.faults
            && self.random.u8(..) < 60
            && self.origin.forget(&complete).is_ok()
        {
            // The object is there later, and the upload is not known meanwhile.
            let delay = self.random.u64(1..MARGIN_MS);
            self.at(delay, Event::Show { request, answer_to });
            return Ok(());
        }
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
        self.answer(request, answer, answer_to);
        Ok(())
    }

    /// The object of a completion is there at last.
    pub(super) fn show(
        &mut self,
        request: Request,
        answer_to: Option<(u64, AttemptId)>,
    ) -> Result<(), String> {
        let complete = self.complete_request(&request).expect("of one that goes in parts");
        let answer = self.origin.show(&complete).map(|reply| Some(reply.etag.0));
        self.judge_landing(&request)?;
        self.answer(request, answer, answer_to);
        Ok(())
    }

    fn answer(
        &mut self,
        request: Request,
        answer: Result<Option<String>, OriginError>,
        answer_to: Option<(u64, AttemptId)>,
    ) {
        let Some((epoch, attempt)) = answer_to else { return };
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
                return self
                    .propose(epoch, Proposal::Flushed { flushed, then: Some((attempt, Ended::Done)) });
            }
        };
        self.finish(epoch, attempt, ended);
    }

    pub(super) fn head(&mut self, epoch: u64, start: Start, then: Option<Request>) {
        let name = (start.bucket, start.key.clone());
        if then.is_none() && self.faults && self.random.u8(..) < 40 {
            return self.finish(epoch, start.attempt, unknown(0));
        }
        let older = if then.is_none() { self.rows.stale_of(&name) } else { Vec::new() };
        let head = self.origin.head(&OriginKey(key_of(&name))).now_or_never();
        let head = head.expect("the memory origin never waits").expect("and was given no faults");
        let held = Held::of(head.as_ref(), CLUSTER);
        if let Some(stale) = older.first().filter(|_| !self.plan.sabotage.no_abort) {
            let landed = |version| older.iter().any(|stale| stale.version == version);
            return match &held {
                Held::Ours { version, etag } if landed(*version) => {
                    let ended = if *version == start.version { Ended::Done } else { Ended::GoOn };
                    let flushed = Flushed {
                        bucket: start.bucket,
                        key: start.key,
                        version: *version,
                        mount: None,
                        origin_etag: Some(etag.clone()),
                    };
                    self.propose(epoch, Proposal::Flushed { flushed, then: Some((start.attempt, ended)) })
                }
                _ => self.give_up(epoch, start, stale),
            };
        }
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

    fn give_up(&mut self, epoch: u64, start: Start, stale: &StaleTransfer) {
        let now = self.instant();
        if let Some(left) = self.uploads.wait(stale, now) {
            let after_ms = left.as_millis() as u64;
            return self.finish(epoch, start.attempt, Ended::AskAgain { after_ms });
        }
        let reply = self.abort(stale);
        if self.faults && self.random.u8(..) < 40 {
            // The answer is lost.
            return self.finish(epoch, start.attempt, unknown(0));
        }
        let tried = stale.tried && !self.plan.sabotage.believes_not_known;
        match self.uploads.settle(&StaleTransfer { tried, ..stale.clone() }, reply, now) {
            Progress::Gone => {
                let (version, mount) = (stale.version, stale.mount);
                self.propose(epoch, Proposal::TransferGone { version, mount, then: start });
            }
            Progress::Again(after) => {
                let after_ms = after.as_millis() as u64;
                self.finish(epoch, start.attempt, Ended::AskAgain { after_ms });
            }
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
        let event = self.rows.transfer(TransferRecord { bucket, key, version, upload_id, step }).1;
        event.into_iter().for_each(|event| self.observe(event));
    }

    fn complete_request(&self, request: &Request) -> Option<CompleteRequest> {
        let (upload, part) = request.upload.clone()?;
        Some(CompleteRequest {
            key: OriginKey(key_of(&request.name)),
            upload,
            parts: vec![part],
            condition: request.condition.clone(),
            deadline: Instant::now() + Duration::from_secs(60),
            fence: Fence::open(),
        })
    }

    fn complete(&mut self, request: &Request) -> Result<Option<String>, OriginError> {
        let complete = self.complete_request(request).expect("of one that goes in parts");
        let upload = complete.upload.clone();
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

    pub(super) fn abort(&self, stale: &StaleTransfer) -> AbortReply {
        let key = OriginKey(key_of(&(stale.bucket, stale.key.clone())));
        let upload = UploadId(stale.upload_id.clone());
        let reply = self.origin.abort_upload(&key, &upload).now_or_never();
        reply.expect("the memory origin never waits").expect("and was given no faults")
    }
}
