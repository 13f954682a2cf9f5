//! What changes objects, by every kind of write of either API.

use super::*;

impl World {
    pub(super) async fn put(&mut self, key: &str) {
        let size = self.size();
        let body = self.body(size);
        let meta = self.random.bool().then(|| format!("m{}", self.bodies));
        let stored = self.model.get(key).map(|object| object.etag.clone());
        let mut put = self.s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from(body.clone()));
        if let Some(meta) = &meta {
            put = put.metadata("m", meta);
        }
        let mut holds = true;
        match self.random.u32(0..10) {
            0 => {
                put = put.if_none_match("*");
                holds = stored.is_none();
            }
            1 => {
                let right = self.random.bool();
                let etag = stored.clone().filter(|_| right).unwrap_or_else(|| md5_hex(b"never written"));
                put = put.if_match(format!("\"{etag}\""));
                holds = right && stored.is_some();
            }
            _ => {}
        }
        match put.send().await {
            Ok(done) => {
                assert!(holds, "{}: the condition did not hold", self.place());
                let etag = plain(done.e_tag());
                assert_eq!(etag, md5_hex(&body), "{}", self.place());
                self.wrote(key, body, etag, Vec::new(), Known::Value(meta));
            }
            Err(error) => {
                let refused = code(&error);
                let right = match refused.as_str() {
                    "PreconditionFailed" => !holds && stored.is_some(),
                    "NoSuchKey" => !holds && stored.is_none(),
                    "SlowDown" => true,
                    _ => false,
                };
                assert!(right, "{}: {error:?}", self.place());
                self.tally.refused += u64::from(refused == "SlowDown");
            }
        }
    }

    pub(super) async fn set(&mut self, key: &str) {
        let size = self.size();
        let body = self.body(size);
        let mut command = vec![b"SET".to_vec(), key.as_bytes().to_vec(), body.to_vec()];
        let there = self.model.contains_key(key);
        let applies = match self.random.u32(0..10) {
            0 => {
                command.push(b"NX".to_vec());
                !there
            }
            1 => {
                command.push(b"XX".to_vec());
                there
            }
            _ => true,
        };
        let reply = self.call(&command);
        if reply == b"$-1\r\n" {
            return assert!(!applies, "{}: SET {key} was not applied", self.place());
        }
        if let Wrote::Done = self.wrote_by_resp(&reply, b"+OK\r\n") {
            assert!(applies, "{}: SET {key} was applied", self.place());
            self.learn(key, body, Known::Value(None)).await;
        }
    }

    pub(super) async fn append(&mut self, key: &str) {
        let bytes = self.random.usize(1..90_000);
        let more = self.body(bytes);
        let (mut body, meta) = self.held(key);
        body.extend_from_slice(&more);
        let reply = self.call(&[b"APPEND".to_vec(), key.as_bytes().to_vec(), more.to_vec()]);
        if let Wrote::Done = self.wrote_by_resp(&reply, format!(":{}\r\n", body.len()).as_bytes()) {
            self.learn(key, body.into(), meta).await;
        }
    }

    pub(super) async fn set_range(&mut self, key: &str) {
        let bytes = self.random.usize(1..20_000);
        let patch = self.body(bytes);
        let (mut body, meta) = self.held(key);
        let at = self.random.usize(0..=body.len() + 5_000);
        if body.len() < at + patch.len() {
            body.resize(at + patch.len(), 0);
        }
        body[at..at + patch.len()].copy_from_slice(&patch);
        let arguments =
            [b"SETRANGE".to_vec(), key.as_bytes().to_vec(), at.to_string().into_bytes(), patch.to_vec()];
        let reply = self.call(&arguments);
        if let Wrote::Done = self.wrote_by_resp(&reply, format!(":{}\r\n", body.len()).as_bytes()) {
            self.learn(key, body.into(), meta).await;
        }
    }

    pub(super) async fn copy_object(&mut self, to: &str) {
        let from = self.any_key();
        if from == to {
            return;
        }
        self.say(format!("  from {from:?}"));
        let source: String = format!("{BUCKET}/{from}").bytes().map(|byte| format!("%{byte:02X}")).collect();
        let copied = self.s3.copy_object().bucket(BUCKET).key(to).copy_source(source).send().await;
        match (copied, self.model.get(&from).cloned()) {
            (Ok(done), Some(object)) => {
                let etag = plain(done.copy_object_result().and_then(|result| result.e_tag()));
                self.wrote(to, object.body, etag, Vec::new(), object.meta);
            }
            (Err(error), None) if code(&error) == "NoSuchKey" => {}
            (Err(error), Some(_)) if code(&error) == "SlowDown" => self.tally.refused += 1,
            (copied, _) => panic!("{}: {copied:?}", self.place()),
        }
    }

    pub(super) async fn copy(&mut self, from: &str, renames: bool) {
        let to = self.any_key();
        self.say(format!("  to {to:?}"));
        let object = self.model.get(from).cloned();
        let reply = match renames {
            true => self.call(&[&b"RENAME"[..], from.as_bytes(), to.as_bytes()]),
            false => self.call(&[&b"COPY"[..], from.as_bytes(), to.as_bytes(), b"REPLACE"]),
        };
        let Some(object) = object else {
            let missing = matches!(&reply[..], b":0\r\n" | b"-ERR no such key\r\n");
            let same = from == to && reply.starts_with(b"-ERR source and destination");
            return assert!(missing || same, "{}: {}", self.place(), reply.escape_ascii());
        };
        if from == to {
            let right =
                if renames { reply == b"+OK\r\n" } else { reply.starts_with(b"-ERR source and dest") };
            return assert!(right, "{}: {}", self.place(), reply.escape_ascii());
        }
        let done: &[u8] = if renames { b"+OK\r\n" } else { b":1\r\n" };
        if let Wrote::Done = self.wrote_by_resp(&reply, done) {
            if renames {
                self.model.remove(from);
            }
            self.learn(&to, object.body, Known::Unsaid).await;
        }
    }

    pub(super) async fn multipart(&mut self, key: &str) {
        let meta = format!("m{}", self.bodies);
        let begun =
            self.s3.create_multipart_upload().bucket(BUCKET).key(key).metadata("m", &meta).send().await;
        let upload = match begun {
            Ok(begun) => begun.upload_id().unwrap().to_owned(),
            Err(error) if code(&error) == "SlowDown" => return self.tally.refused += 1,
            Err(error) => panic!("{}: {error:?}", self.place()),
        };
        let count = self.random.usize(1..=3);
        let (mut whole, mut parts, mut digests, mut completed) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut refused = false;
        for number in 1..=count {
            let last = number == count;
            let bytes = if last {
                self.random.usize(1..1_000_000)
            } else {
                PART_BYTES_MIN + self.random.usize(0..300_000)
            };
            let body = self.body(bytes);
            let part = self.s3.upload_part().bucket(BUCKET).key(key).upload_id(&upload);
            let part = part.part_number(i32::try_from(number).unwrap()).body(ByteStream::from(body.clone()));
            match part.send().await {
                Ok(done) => {
                    assert_eq!(plain(done.e_tag()), md5_hex(&body), "{}", self.place());
                    let done = CompletedPart::builder().e_tag(done.e_tag().unwrap());
                    completed.push(done.part_number(i32::try_from(number).unwrap()).build());
                    digests.extend(hex::decode(md5_hex(&body)).unwrap());
                    parts.push(body.len());
                    whole.extend_from_slice(&body);
                }
                Err(error) => {
                    assert_eq!(code(&error), "SlowDown", "{}: {error:?}", self.place());
                    refused = true;
                }
            }
        }
        if refused || self.random.u32(0..5) == 0 {
            let abort = self.s3.abort_multipart_upload().bucket(BUCKET).key(key).upload_id(upload);
            abort.send().await.unwrap();
            return self.tally.refused += u64::from(refused);
        }
        if self.random.u32(0..4) == 0 {
            self.say("  killed before Complete".to_owned());
            self.restart();
        }
        let list = CompletedMultipartUpload::builder().set_parts(Some(completed)).build();
        let complete = self.s3.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(upload);
        match complete.multipart_upload(list).send().await {
            Ok(done) => {
                let etag = plain(done.e_tag());
                assert_eq!(etag, format!("{}-{count}", md5_hex(&digests)), "{}", self.place());
                self.wrote(key, whole.into(), etag, parts, Known::Value(Some(meta)));
            }
            Err(error) => {
                assert_eq!(code(&error), "SlowDown", "{}: {error:?}", self.place());
                self.tally.refused += 1;
            }
        }
    }

    pub(super) fn del(&mut self, key: &str) {
        let other = self.any_key();
        let keys = if other == key { vec![key] } else { vec![key, &other] };
        let there = keys.iter().filter(|key| self.model.contains_key(**key)).count();
        let command: Vec<&str> = std::iter::once("DEL").chain(keys.iter().copied()).collect();
        let reply = self.call(&command);
        assert_eq!(reply, format!(":{there}\r\n").as_bytes(), "{}: DEL {keys:?}", self.place());
        keys.iter().for_each(|key| _ = self.model.remove(*key));
    }

    pub(super) async fn delete_objects(&mut self) {
        let keys: std::collections::BTreeSet<String> = (0..4).map(|_| self.any_key()).collect();
        self.say(format!("  {keys:?}"));
        let named = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
        let delete = Delete::builder().set_objects(Some(named.collect())).build().unwrap();
        let done = self.s3.delete_objects().bucket(BUCKET).delete(delete).send().await.unwrap();
        assert_eq!((done.deleted().len(), done.errors().len()), (keys.len(), 0), "{}", self.place());
        self.model.retain(|key, _| !keys.contains(key));
    }

    pub(super) fn get_del(&mut self, key: &str) {
        let reply = self.call(&["GETDEL", key]);
        if reply.starts_with(b"-TRYAGAIN") {
            // It cannot be given, so it must not be gone.
            assert!(self.outage.is_some() && self.model.contains_key(key), "{}", self.place());
            self.tally.away += 1;
            return;
        }
        let right = bulk(&reply) == self.model.get(key).map(|object| &object.body[..]);
        assert!(right, "{}: GETDEL {key:?}: {} bytes", self.place(), reply.len());
        self.model.remove(key);
    }

    /// What APPEND and SETRANGE build on.
    pub(super) fn held(&self, key: &str) -> (Vec<u8>, Known) {
        match self.model.get(key) {
            Some(object) => (object.body.to_vec(), object.meta.clone()),
            None => (Vec::new(), Known::Value(None)),
        }
    }

    pub(super) fn wrote(&mut self, key: &str, body: Bytes, etag: String, parts: Vec<usize>, meta: Known) {
        self.tally.written += 1;
        self.model.insert(key.to_owned(), Object { body, etag, parts, meta });
    }

    pub(super) fn wrote_by_resp(&mut self, reply: &[u8], done: &[u8]) -> Wrote {
        if reply == done {
            return Wrote::Done;
        }
        assert!(reply.starts_with(b"-OOM "), "{}: {}", self.place(), reply.escape_ascii());
        self.tally.refused += 1;
        Wrote::Refused
    }

    /// After a write by RESP, which tells no ETag: a new one, of the form that is no MD5.
    pub(super) async fn learn(&mut self, key: &str, body: Bytes, meta: Known) {
        let head = self.s3.head_object().bucket(BUCKET).key(key).send().await;
        let etag = plain(head.unwrap_or_else(|error| panic!("{}: {error:?}", self.place())).e_tag());
        let seen = self.model.values().any(|object| object.etag == etag);
        // A copy has the bytes of its source, and may have its ETag.
        assert!(meta == Known::Unsaid || !seen && etag.ends_with("-1"), "{}: ETag {etag}", self.place());
        self.wrote(key, body, etag, Vec::new(), meta);
    }
}
