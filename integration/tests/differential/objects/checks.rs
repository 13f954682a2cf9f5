//! What must be seen: through either API, in listings, and in the end in the origin.

use super::*;

impl World {
    /// A read of one key, in one of the ways there are.
    pub(super) async fn check(&mut self, key: &str) {
        let way = self.random.u32(0..8);
        self.check_as(key, way).await;
    }

    pub(super) async fn check_as(&mut self, key: &str, way: u32) {
        let object = self.model.get(key).cloned();
        let length = object.as_ref().map_or(0, |object| object.body.len());
        let from = self.random.usize(0..=length);
        let until = self.random.usize(from..=length);
        match way {
            0 => self.check_head(key, object.as_ref()).await,
            1 if from < until => self.check_bytes(key, object.as_ref(), from..until, true).await,
            2 => self.check_bytes(key, object.as_ref(), from..until, false).await,
            3 => self.check_condition(key, object.as_ref()).await,
            4 => self.check_bytes(key, object.as_ref(), 0..length, false).await,
            5 => {
                let reply = self.call(&["STRLEN", key]);
                assert_eq!(reply, format!(":{length}\r\n").as_bytes(), "{}: STRLEN {key:?}", self.place());
            }
            6 => self.check_part(key, object.as_ref()).await,
            _ => self.check_bytes(key, object.as_ref(), 0..length, true).await,
        }
    }

    pub(super) async fn check_head(&mut self, key: &str, object: Option<&Object>) {
        let head = self.s3.head_object().bucket(BUCKET).key(key).send().await;
        match (head, object) {
            (Ok(head), Some(object)) => {
                let place = self.place();
                assert_eq!(plain(head.e_tag()), object.etag, "{place}: ETag of {key:?}");
                assert_eq!(head.content_length(), i64::try_from(object.body.len()).ok(), "{place}: {key:?}");
                if let Known::Value(meta) = &object.meta {
                    let found = head.metadata().and_then(|map| map.get("m"));
                    assert_eq!(found, meta.as_ref(), "{place}: metadata of {key:?}");
                }
            }
            (Err(error), None) if status(&error) == Some(404) => {}
            (head, object) => {
                panic!("{}: HEAD {key:?}: {head:?}, the model {}", self.place(), shown(object));
            }
        }
    }

    /// A range over S3 or RESP; the whole where it is all of it.
    pub(super) async fn check_bytes(
        &mut self,
        key: &str,
        object: Option<&Object>,
        range: Range<usize>,
        by_s3: bool,
    ) {
        let expected = object.map_or(Seen::Absent, |object| Seen::Bytes(object.body.slice(range.clone())));
        let whole = object.is_none_or(|object| range == (0..object.body.len()));
        // What GETRANGE says of a missing key is the empty string.
        let wanted = (!whole).then_some((range.start, range.end));
        let seen = self.read(key, object, wanted, by_s3).await;
        let absent = expected == Seen::Absent && seen == Seen::Bytes(Bytes::new()) && !by_s3;
        if seen == Seen::Away {
            self.tally.away += 1;
            return;
        }
        let found = match &seen {
            Seen::Bytes(bytes) => format!("{} bytes, MD5 {}", bytes.len(), md5_hex(bytes)),
            Seen::Absent | Seen::Away => "nothing".to_owned(),
        };
        assert!(
            seen == expected || absent,
            "{}: {key:?} {range:?} over {}: {found}, the model {}",
            self.place(),
            if by_s3 { "S3" } else { "RESP" },
            shown(object)
        );
    }

    /// Reads again while the origin is said to be away and is not: it takes a moment to be believed.
    pub(super) async fn read(
        &mut self,
        key: &str,
        object: Option<&Object>,
        range: Option<(usize, usize)>,
        by_s3: bool,
    ) -> Seen {
        for _ in 0..200 {
            let seen =
                if by_s3 { self.read_s3(key, object, range).await } else { self.read_resp(key, range) };
            if seen != Seen::Away {
                return seen;
            }
            if self.outage.is_some() {
                assert!(object.is_some(), "{}: {key:?} is absent, not away", self.place());
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}: {key:?} stays away with the origin up", self.place());
    }

    pub(super) async fn read_s3(
        &mut self,
        key: &str,
        object: Option<&Object>,
        range: Option<(usize, usize)>,
    ) -> Seen {
        let range = range.filter(|(from, until)| from < until);
        let header = range.map(|(from, until)| format!("bytes={from}-{}", until - 1));
        let get = self.s3.get_object().bucket(BUCKET).key(key).set_range(header).send().await;
        match get {
            Ok(got) => {
                let etag = plain(got.e_tag());
                assert_eq!(
                    Some(&etag),
                    object.map(|object| &object.etag),
                    "{}: ETag of {key:?}",
                    self.place()
                );
                match got.body.collect().await {
                    Ok(body) => Seen::Bytes(body.into_bytes()),
                    Err(error) => panic!("{}: the body of {key:?}: {error}", self.place()),
                }
            }
            Err(error) => match status(&error) {
                Some(404) => Seen::Absent,
                Some(503) => Seen::Away,
                _ => panic!("{}: GET {key:?}: {error:?}", self.place()),
            },
        }
    }

    pub(super) fn read_resp(&mut self, key: &str, range: Option<(usize, usize)>) -> Seen {
        let reply = match range {
            None => self.call(&["GET", key]),
            Some((from, until)) if from < until => {
                self.call(&["GETRANGE", key, &from.to_string(), &(until - 1).to_string()])
            }
            Some(_) => return self.read_nothing(key),
        };
        if reply.starts_with(b"-TRYAGAIN") {
            return Seen::Away;
        }
        assert!(reply.starts_with(b"$"), "{}: {key:?}: {}", self.place(), reply.escape_ascii());
        bulk(&reply).map_or(Seen::Absent, |body| Seen::Bytes(Bytes::copy_from_slice(body)))
    }

    /// A range of no bytes.
    pub(super) fn read_nothing(&mut self, key: &str) -> Seen {
        let reply = self.call(&["GETRANGE", key, "5", "3"]);
        assert_eq!(reply, b"$0\r\n\r\n", "{}: {key:?}", self.place());
        Seen::Bytes(Bytes::new())
    }

    pub(super) async fn check_condition(&mut self, key: &str, object: Option<&Object>) {
        let Some(object) = object else { return };
        let get = || self.s3.get_object().bucket(BUCKET).key(key);
        let same = get().if_none_match(format!("\"{}\"", object.etag)).send().await.unwrap_err();
        assert_eq!(status(&same), Some(304), "{}: {key:?}: {same:?}", self.place());
        let other = get().if_match(format!("\"{}\"", md5_hex(b"never written"))).send().await.unwrap_err();
        assert_eq!(code(&other), "PreconditionFailed", "{}: {key:?}: {other:?}", self.place());
    }

    /// A part by its number.
    pub(super) async fn check_part(&mut self, key: &str, object: Option<&Object>) {
        let Some(object) = object.filter(|object| !object.parts.is_empty()) else { return };
        let number = self.random.usize(0..object.parts.len());
        let from: usize = object.parts[..number].iter().sum();
        let part =
            self.s3.get_object().bucket(BUCKET).key(key).part_number(i32::try_from(number + 1).unwrap());
        match part.send().await {
            Ok(got) => match got.body.collect().await {
                Ok(body) => {
                    let expected = &object.body[from..from + object.parts[number]];
                    assert!(body.into_bytes() == expected, "{}: part {number} of {key:?}", self.place());
                }
                Err(error) => assert!(self.outage.is_some(), "{}: {key:?}: {error}", self.place()),
            },
            Err(error) => {
                let away = status(&error) == Some(503) && self.outage.is_some();
                assert!(away, "{}: part {number} of {key:?}: {error:?}", self.place());
            }
        }
    }

    /// A listing with a random prefix, delimiter and length of page.
    pub(super) async fn check_listing(&mut self) {
        let prefix = ["", "a/", "a", "b/", "ü", "nothing"][self.random.usize(0..6)];
        let delimiter = ["", "/"][self.random.usize(0..2)];
        let page = self.random.i32(1..40);
        self.check_list_of(prefix, delimiter, page).await;
    }

    pub(super) async fn check_list_of(&mut self, prefix: &str, delimiter: &str, page_keys: i32) {
        let mut expected = (Vec::new(), Vec::new());
        for (key, object) in self.model.range(prefix.to_owned()..) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(at) => {
                    let rolled = key[..prefix.len() + at + delimiter.len()].to_owned();
                    if expected.1.last() != Some(&rolled) {
                        expected.1.push(rolled);
                    }
                }
                None => expected.0.push((key.clone(), object.body.len(), object.etag.clone())),
            }
        }
        let mut found = (Vec::new(), Vec::new());
        let list = self.s3.list_objects_v2().bucket(BUCKET).prefix(prefix).max_keys(page_keys);
        let list = list.set_delimiter((!delimiter.is_empty()).then(|| delimiter.to_owned()));
        let mut pages = list.into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.unwrap_or_else(|error| panic!("{}: {error:?}", self.place()));
            found.0.extend(page.contents().iter().map(|entry| {
                let bytes = usize::try_from(entry.size().unwrap()).unwrap();
                (entry.key().unwrap().to_owned(), bytes, plain(entry.e_tag()))
            }));
            found.1.extend(page.common_prefixes().iter().map(|entry| entry.prefix().unwrap().to_owned()));
        }
        assert_eq!(found, expected, "{}: LIST {prefix:?} {delimiter:?}", self.place());
    }

    pub(super) async fn check_everything(&mut self) {
        let mut keys: Vec<String> = self.model.keys().cloned().collect();
        keys.extend((0..KEYS / 2).map(|_| self.any_key()));
        for key in keys {
            for way in [0, 4, 6, 7] {
                self.check_as(&key, way).await;
            }
        }
        for (prefix, delimiter) in [("", ""), ("", "/"), ("a/", "/"), ("b", "/")] {
            self.check_list_of(prefix, delimiter, 7).await;
        }
        let count = self.call(&["DBSIZE"]);
        assert_eq!(count, format!(":{}\r\n", self.model.len()).as_bytes(), "{}", self.place());
    }

    /// The origin holds the same objects, each with the ETag that its clients know.
    pub(super) fn check_origin(&self) {
        let stored: BTreeMap<String, _> = self.origin.objects("cloud", "db/").into_iter().collect();
        let expected: Vec<String> = self.model.keys().map(|key| format!("db/{key}")).collect();
        assert_eq!(
            stored.keys().collect::<Vec<_>>(),
            expected.iter().collect::<Vec<_>>(),
            "{}",
            self.place()
        );
        for (key, object) in &self.model {
            let found = &stored[&format!("db/{key}")];
            assert!(found.body == object.body, "{}: {key:?} in the origin", self.place());
            let etag = found.metadata.get("forebay-etag");
            assert_eq!(etag, Some(&object.etag), "{}: {key:?} in the origin", self.place());
            // In the client's parts, so that the origin makes the very same ETag of them.
            if !object.parts.is_empty() && object.body.len() > self.part_bytes.max(PART_BYTES_MIN) {
                assert_eq!(found.etag, object.etag, "{}: {key:?} in the origin", self.place());
            }
        }
        self.origin.record().assert_clean();
    }
}
