//! What is taken over of an object that an origin holds.

use crate::flush::tag::{ETAG_META, OriginTag, VERSION_META};
use crate::keyspace::tables::encode_meta;
use crate::mutation::AdoptedHead;
use crate::object::{ClusterId, ObjectMeta, Version};
use crate::origin::HeadReply;

/// Names of user metadata that begin with this are ours, and not shown.
const OWN_META: &str = "forebay-";
/// Longest ETag that is shown to clients as it is, in bytes.
const ETAG_BYTES_MAX: usize = 256;

/// A head in the form in which the log takes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    len: u64,
    modified_ms: u64,
    origin_etag: String,
    etag: String,
    meta: Vec<u8>,
    /// Whose upload it is, if a forebay's.
    mark: Option<OriginTag>,
}

impl Found {
    /// `None` if the origin gave no ETag: nothing could be said of its bytes later.
    pub(super) fn of(head: HeadReply) -> Option<Found> {
        let origin_etag = head.etag.0.clone();
        if !is_etag(&origin_etag) {
            return None;
        }
        // What a forebay has uploaded carries the ETag that its clients know.
        let mark = head.user(VERSION_META).and_then(OriginTag::parse);
        let etag = head.user(ETAG_META).filter(|etag| mark.is_some() && is_etag(etag));
        let etag = etag.unwrap_or(&origin_etag).to_owned();
        let (len, modified_ms, headers) = (head.content_length, head.modified_ms, head.headers);
        let fits = |(name, value): &(String, String)| {
            let longest = name.len().max(value.len());
            !name.starts_with(OWN_META) && longest <= usize::from(u16::MAX)
        };
        let meta = ObjectMeta {
            content_type: headers.content_type,
            content_encoding: headers.content_encoding,
            content_language: headers.content_language,
            content_disposition: headers.content_disposition,
            cache_control: headers.cache_control,
            expires: headers.expires,
            user: head.user_metadata.into_iter().filter(fits).collect(),
            checksum: None,
        };
        Some(Found { len, modified_ms, origin_etag, etag, meta: encode_meta(&meta), mark })
    }

    pub(super) fn origin_etag(&self) -> &str {
        &self.origin_etag
    }

    /// Whether this cluster has uploaded it, in a version from after that.
    pub(super) fn is_newer(&self, cluster: ClusterId, than: Version) -> bool {
        self.mark.is_some_and(|mark| mark.cluster == cluster && mark.version > than)
    }

    pub(super) fn head(&self) -> AdoptedHead<'_> {
        let (origin_etag, etag, meta) = (&*self.origin_etag, &*self.etag, &*self.meta);
        AdoptedHead { len: self.len, modified_ms: self.modified_ms, origin_etag, etag, meta }
    }
}

/// Whether it can stand in a header, between quotes.
fn is_etag(text: &str) -> bool {
    let fits = (1..=ETAG_BYTES_MAX).contains(&text.len());
    fits && text.bytes().all(|byte| (0x21..0x7F).contains(&byte) && byte != b'"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::tables::decode_meta;
    use crate::origin::{ContentHeaders, OriginETag};

    fn head(etag: &str, user: &[(&str, &str)]) -> HeadReply {
        HeadReply {
            etag: OriginETag(etag.to_owned()),
            content_length: 5,
            modified_ms: 7,
            headers: ContentHeaders {
                content_type: Some("text/plain".to_owned()),
                ..ContentHeaders::default()
            },
            user_metadata: user
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn what_a_forebay_uploaded_keeps_its_etag_and_shows_no_marks() {
        let mark = OriginTag { cluster: ClusterId([3; 16]), version: Version(9) }.to_string();
        let user = [("forebay-version", mark.as_str()), ("forebay-etag", "abc-1"), ("color", "red")];
        let found = Found::of(head("o", &user)).unwrap();
        let newer = |cluster, than| found.is_newer(ClusterId([cluster; 16]), Version(than));
        assert!(newer(3, 8) && !newer(3, 9) && !newer(4, 8));
        let told = found.head();
        assert_eq!((told.etag, told.origin_etag, told.len, told.modified_ms), ("abc-1", "o", 5, 7));
        let meta = decode_meta(told.meta).unwrap();
        assert_eq!(meta.user, [("color".to_owned(), "red".to_owned())]);
        assert_eq!(meta.content_type.as_deref(), Some("text/plain"));
    }

    #[test]
    fn a_strangers_etag_is_the_origins() {
        let found = Found::of(head("o", &[("forebay-etag", "forged")])).unwrap();
        assert_eq!(found.head().etag, "o");
        assert_eq!(Found::of(head("", &[])), None);
        let mark = OriginTag { cluster: ClusterId([3; 16]), version: Version(9) }.to_string();
        let found = Found::of(head("o", &[("forebay-version", &mark), ("forebay-etag", "a\"b")])).unwrap();
        assert_eq!(found.head().etag, "o");
    }
}
