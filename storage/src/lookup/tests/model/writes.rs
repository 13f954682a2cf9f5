//! What changes objects: ours by every kind of write, and others straight in the origin.

use super::*;
use crate::stage::BodyOf;

impl World {
    pub(super) fn wrote(&mut self, key: &[u8], body: Bytes, etag: String) {
        self.known.insert(key.to_vec(), Known::Object { body, etag, stale: false });
        if !World::is_local(key) {
            self.dirty.insert(key.to_vec());
        }
    }

    pub(super) async fn etag_of(&self, site: &Site, key: &[u8]) -> String {
        let row = site.store.view().unwrap().fetch(site.bucket, key).await.unwrap();
        row.unwrap().etag(site.store.cluster_id()).to_string()
    }

    /// Submits a mutation with a body, staged where it is long.
    pub(super) async fn write(
        &self,
        site: &Site,
        body: &Bytes,
        make: impl for<'a> Fn(Payload<'a>, &mut Submission),
    ) -> Result<Outcome, Error> {
        let mut submission = Submission::new();
        if body.len() as u64 > site.store.inline_bytes_max() {
            let mut writer = site.store.stage_body(site.bucket, body.len() as u64, BodyOf::Object)?;
            let mut rest = body.clone();
            while !rest.is_empty() {
                writer.write(rest.split_to(rest.len().min(500_000))).await?;
            }
            let staged = writer.finish().await?;
            make(staged.payload(), &mut submission);
            submission.carry(staged);
        } else {
            make(Payload::Inline(body), &mut submission);
        }
        Ok(site.store.submit(submission).await?.results.remove(0))
    }

    pub(super) async fn set(&mut self, site: &Site, key: &[u8]) {
        let (bucket, body) = (site.bucket, self.body());
        let make = |value: Payload<'_>, submission: &mut Submission| {
            let (expiry, existence) = (SetExpiry::Clear, Existence::Any);
            submission.push(&Mutation::SetString { bucket, key, value, expiry, existence });
        };
        let outcome = self.write(site, &body, make).await.unwrap();
        assert!(matches!(outcome, Outcome::Done(_)), "{}: {outcome:?}", self.text(key));
        let etag = self.etag_of(site, key).await;
        self.wrote(key, body, etag);
    }

    /// As front ends do it: known first, then judged by apply.
    pub(super) async fn put_if_absent(&mut self, site: &Site, key: &[u8]) {
        if self.is_hidden(key) {
            return;
        }
        let (bucket, body) = (site.bucket, self.body());
        let Some(expected) = self.make_known(site, key).await else { return };
        let make = |value: Payload<'_>, submission: &mut Submission| {
            let condition = PutIf { if_match: None, if_none_match: Some("*") };
            submission.push(&Mutation::PutObject { bucket, key, value, meta: &[], md5: None, condition });
        };
        let outcome = self.write(site, &body, make).await.unwrap();
        assert_eq!(
            matches!(outcome, Outcome::Done(_)),
            expected.is_none(),
            "{}: {outcome:?}",
            self.text(key)
        );
        if expected.is_none() {
            let etag = self.etag_of(site, key).await;
            self.wrote(key, body, etag);
        }
    }

    pub(super) async fn append(&mut self, site: &Site, key: &[u8]) {
        let bucket = site.bucket;
        let Some(expected) = self.make_known(site, key).await else { return };
        if self.is_stale(key) {
            return;
        }
        let was_absent = expected.is_none();
        if was_absent && self.is_hidden(key) {
            return;
        }
        let (mut body, tail) =
            (expected.map_or(Vec::new(), |(body, _)| body.to_vec()), Bytes::from_static(b"tail"));
        let make = |value: Payload<'_>, submission: &mut Submission| {
            submission.push(&Mutation::Append { bucket, key, value });
        };
        let mut outcome = self.write(site, &tail, make).await;
        while matches!(outcome, Ok(Outcome::Refused(Refusal::NotHeld))) {
            // Its upload came between: clients are told to try again.
            outcome = self.write(site, &tail, make).await;
        }
        match outcome {
            Ok(Outcome::Length(len)) => {
                body.extend_from_slice(b"tail");
                assert_eq!(len, body.len() as u64, "{}", self.text(key));
                let etag = self.etag_of(site, key).await;
                self.wrote(key, Bytes::from(body), etag);
            }
            Err(Error::Unavailable(_)) if self.down => {}
            other => panic!("{}: {other:?}", self.text(key)),
        }
    }

    pub(super) async fn delete(&mut self, site: &Site, key: &[u8]) {
        let outcome = site.change(&Mutation::Delete { bucket: site.bucket, key }).await;
        let known = self.known.get(key);
        let done = match known {
            Some(Known::Object { .. }) => true,
            // It may be in the origin already, and then nothing is known any more.
            Some(Known::Gone) => matches!(outcome, Outcome::Done(_)),
            Some(Known::Absent) | None => !World::is_local(key),
        };
        let expected = if done { matches!(outcome, Outcome::Done(_)) } else { outcome == Outcome::Unmet };
        assert!(expected, "{}: {outcome:?} of {known:?}", self.text(key));
        if World::is_local(key) {
            self.known.remove(key);
        } else {
            self.known.insert(key.to_vec(), Known::Gone);
            self.dirty.insert(key.to_vec());
        }
    }

    pub(super) async fn copy(&mut self, site: &Site, from: &[u8], to: &[u8]) {
        if from == to || self.is_stale(from) {
            return;
        }
        let bucket = site.bucket;
        let Some(expected) = self.make_known(site, from).await else { return };
        if self.is_stale(from) {
            return;
        }
        let mut submission = Submission::new();
        submission.push(&Mutation::Copy { from_bucket: bucket, from, to_bucket: bucket, to, replace: true });
        match (site.store.submit(submission).await, expected) {
            (Ok(outcomes), Some((body, _))) => {
                assert!(
                    matches!(outcomes.results[..], [Outcome::Done(_)]),
                    "{}: {outcomes:?}",
                    self.text(from)
                );
                let etag = self.etag_of(site, to).await;
                self.wrote(to, body, etag);
            }
            (Ok(outcomes), None) => {
                assert!(
                    !matches!(outcomes.results[..], [Outcome::Done(_)]),
                    "{}: {outcomes:?}",
                    self.text(from)
                );
            }
            (Err(Error::Unavailable(_)), Some(_)) if self.down => {}
            (Err(error), _) => panic!("{}: {error}", self.text(from)),
        }
    }

    /// Somebody else writes or removes an object of the origin that is not being written from here.
    pub(super) fn change_foreign(&mut self, key: &[u8]) {
        if self.dirty.contains(key) {
            return;
        }
        let (body, removes) = (self.body(), self.random.u8(0..4) == 0);
        let Some((origin, name)) = self.place(key) else { return };
        match removes {
            true => origin.inner.delete_foreign(&name),
            false => origin.inner.put_foreign_with(&name, body, ContentHeaders::default(), &[]),
        }
        if let Some(Known::Object { stale, .. }) = self.known.get_mut(key) {
            *stale = true;
        }
    }
}
