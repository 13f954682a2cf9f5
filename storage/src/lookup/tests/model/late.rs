//! Answers that come late: something else happens between a question to an origin and what is made of its answer.

use super::*;

impl World {
    /// A look-up whose answer comes when the key has changed meanwhile.
    pub(super) async fn late_look_up(&mut self, site: &Arc<Site>, key: &[u8]) {
        if self.down || World::is_local(key) || !site.store.is_unknown(site.bucket, key) || self.is_stale(key)
        {
            return;
        }
        let origin = self.place(key).unwrap().0.clone();
        let begun = Instant::now();
        origin.hold(Operation::Head);
        let reading = tokio::spawn({
            let (site, key) = (site.clone(), key.to_vec());
            async move { site.store.look_up(&[(site.bucket, &key)]).await }
        });
        let limit = Instant::now() + LIMIT;
        while origin.waiting.load(SeqCst) == 0 && !reading.is_finished() {
            assert!(Instant::now() < limit, "{}: nobody asks", self.text(key));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if self.random.bool() {
            self.delete(site, key).await
        } else {
            self.set(site, key).await
        }
        if self.random.bool() {
            self.flush(site).await;
            if self.random.bool() && self.known.contains_key(key) {
                self.delete(site, key).await;
                self.flush(site).await;
            }
        }
        origin.release();
        match reading.await.unwrap() {
            Ok(()) => {}
            // The machine was too slow for the look-up's patience.
            Err(Error::Unavailable(_)) if begun.elapsed() >= HEAD_TIMEOUT => return,
            Err(error) => panic!("{}: {error}", self.text(key)),
        }
        self.seen.late += 1;
        self.maybe_absent.insert(key.to_vec());
        self.read(site, key).await;
    }

    /// A listing whose page of the origin is older than what happens to a key.
    pub(super) async fn late_listing(&mut self, site: &Arc<Site>, key: &[u8]) {
        if self.down || self.is_stale(key) {
            return;
        }
        let delimiter: &[u8] = if self.random.bool() { b"/" } else { b"" };
        let before = self.items(b"", delimiter);
        let begun = Instant::now();
        self.origins[0].hold(Operation::List);
        let listing = tokio::spawn({
            let (site, delimiter) = (site.clone(), delimiter.to_vec());
            async move { site.list(b"", &delimiter, 1000).await }
        });
        let origin = self.origins[0].clone();
        let limit = Instant::now() + LIMIT;
        while origin.waiting.load(SeqCst) == 0 && !listing.is_finished() {
            assert!(Instant::now() < limit, "step {}: nobody lists", self.step);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if self.random.bool() {
            self.delete(site, key).await
        } else {
            self.set(site, key).await
        }
        if self.random.bool() {
            self.flush(site).await;
        }
        let after = self.items(b"", delimiter);
        origin.release();
        let listed = match listing.await.unwrap() {
            Ok(listed) => listed,
            Err(Error::ChangedInOrigin(_)) => return self.note_taken_over(site).await,
            Err(Error::Unavailable(_)) if begun.elapsed() >= LIST_TIMEOUT => return,
            Err(error) => panic!("step {}: {error}", self.step),
        };
        let listed: BTreeSet<Vec<u8>> = listed.into_iter().collect();
        let before: BTreeSet<Vec<u8>> = before.into_keys().collect();
        let after: BTreeSet<Vec<u8>> = after.into_keys().collect();
        // The change was answered while the listing was under way: before the page's view, so it is seen.
        assert_eq!(listed, after, "step {}: {before:?} before", self.step);
        self.seen.late += 1;
        self.note_taken_over(site).await;
        for key in &listed {
            self.shown(key);
        }
    }
}
