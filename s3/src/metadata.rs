//! An object's headers: taken from a PUT, kept by the core, given back on GET and HEAD.

use forebay_storage::object::ObjectMeta;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::body::checksum::Checksum;
use crate::body::content_codings;
use crate::error::Refused;
use crate::query::Query;
use crate::xml::XmlWriter;

/// S3's limit on names and values of user metadata together, in bytes.
pub(crate) const USER_METADATA_BYTES_MAX: usize = 2048;
/// What AWS answers for an object that was written without a type.
const DEFAULT_CONTENT_TYPE: HeaderValue = HeaderValue::from_static("binary/octet-stream");
/// Before the name of a user's metadata.
const USER_PREFIX: &str = "x-amz-meta-";
/// User metadata that is ours: the origin's copy carries version and ETag under it.
const RESERVED_PREFIX: &str = "forebay-";

/// Reads what a PUT wants kept.
pub(crate) fn from_headers(headers: &HeaderMap, checksum: Option<&Checksum>) -> Result<ObjectMeta, Refused> {
    let content_encoding: Vec<&str> =
        content_codings(headers).filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked")).collect();
    let meta = ObjectMeta {
        content_type: text(headers, "content-type")?,
        content_encoding: (!content_encoding.is_empty()).then(|| content_encoding.join(",")),
        content_language: text(headers, "content-language")?,
        content_disposition: text(headers, "content-disposition")?,
        cache_control: text(headers, "cache-control")?,
        expires: text(headers, "expires")?,
        user: user_metadata(headers)?,
        checksum: checksum.map(|c| (c.algorithm.name().to_owned(), c.base64.clone())),
    };
    let size = meta.user_bytes();
    if size > USER_METADATA_BYTES_MAX {
        return Err(Refused::new(
            "MetadataTooLarge",
            400,
            "Your metadata headers exceed the maximum allowed metadata size",
        )
        .with("Size", size.to_string())
        .with("MaxSizeAllowed", USER_METADATA_BYTES_MAX.to_string()));
    }
    Ok(meta)
}

fn user_metadata(headers: &HeaderMap) -> Result<Vec<(String, String)>, Refused> {
    let mut user = Vec::new();
    for name in headers.keys() {
        let Some(short) = name.as_str().strip_prefix(USER_PREFIX) else { continue };
        if short.starts_with(RESERVED_PREFIX) {
            return Err(Refused::new(
                "InvalidArgument",
                400,
                format!("{name} is reserved: names after x-amz-meta- must not begin with {RESERVED_PREFIX}"),
            )
            .with("ArgumentName", name.as_str()));
        }
        if let Some(value) = text(headers, name.as_str())? {
            user.push((short.to_owned(), value));
        }
    }
    Ok(user)
}

/// A header's value; several of one name are one, joined by commas. Kept are only values that are UTF-8,
/// as s3s signs no others.
fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Refused> {
    let mut joined: Option<String> = None;
    for value in headers.get_all(name) {
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| Refused::new("InvalidArgument", 400, format!("the header {name} is not UTF-8")))?;
        match &mut joined {
            None => joined = Some(value.to_owned()),
            Some(joined) => {
                joined.push(',');
                joined.push_str(value);
            }
        }
    }
    Ok(joined.filter(|value| !value.is_empty()))
}

/// Writes what was kept; `response-*` parameters override where S3 lets them.
pub(crate) fn to_headers(meta: &ObjectMeta, query: &Query, headers: &mut HeaderMap) -> Result<(), Refused> {
    let fields: [(HeaderName, &Option<String>, &str); 6] = [
        (http::header::CONTENT_TYPE, &meta.content_type, "response-content-type"),
        (http::header::CONTENT_ENCODING, &meta.content_encoding, "response-content-encoding"),
        (http::header::CONTENT_LANGUAGE, &meta.content_language, "response-content-language"),
        (http::header::CONTENT_DISPOSITION, &meta.content_disposition, "response-content-disposition"),
        (http::header::CACHE_CONTROL, &meta.cache_control, "response-cache-control"),
        (http::header::EXPIRES, &meta.expires, "response-expires"),
    ];
    for (name, kept, parameter) in fields {
        let value = match query.get(parameter) {
            Some(value) => Some(HeaderValue::from_str(value).map_err(|_| {
                Refused::new("InvalidArgument", 400, format!("{parameter} is no header value"))
                    .with("ArgumentName", parameter)
            })?),
            None => kept.as_deref().and_then(header_value),
        };
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    headers.entry(http::header::CONTENT_TYPE).or_insert(DEFAULT_CONTENT_TYPE);
    for (name, value) in &meta.user {
        let name = HeaderName::from_bytes(format!("{USER_PREFIX}{name}").as_bytes());
        if let (Ok(name), Some(value)) = (name, header_value(value)) {
            headers.insert(name, value);
        }
    }
    Ok(())
}

/// Writes the checksum, for a client that asked for it.
pub(crate) fn checksum_to_headers(meta: &ObjectMeta, headers: &mut HeaderMap) {
    let Some((algorithm, value)) = &meta.checksum else { return };
    let name = HeaderName::from_bytes(format!("x-amz-checksum-{algorithm}").as_bytes());
    if let (Ok(name), Some(header)) = (name, header_value(value)) {
        headers.insert(name, header);
        headers.insert("x-amz-checksum-type", HeaderValue::from_static(checksum_type(value)));
    }
}

/// As [`checksum_to_headers`], as elements.
pub(crate) fn checksum_to_xml(meta: &ObjectMeta, xml: &mut XmlWriter) {
    let Some((algorithm, value)) = &meta.checksum else { return };
    xml.element(&format!("Checksum{}", algorithm.to_uppercase()), value);
    xml.element("ChecksumType", checksum_type(value));
}

/// What a kept checksum is of: one that was made of the parts' checksums ends with their number, as on AWS.
pub(crate) fn checksum_type(value: &str) -> &'static str {
    if value.contains('-') { "COMPOSITE" } else { "FULL_OBJECT" }
}

/// There is one class; a colder one would be a false promise.
pub(crate) fn check_storage_class(headers: &HeaderMap) -> Result<(), Refused> {
    match headers.get("x-amz-storage-class").map(HeaderValue::as_bytes) {
        None | Some(b"STANDARD") => Ok(()),
        Some(_) => Err(Refused::new(
            "InvalidStorageClass",
            400,
            "The storage class you specified is not valid: only STANDARD exists here",
        )),
    }
}

fn header_value(value: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        map
    }

    #[test]
    fn everything_put_comes_back() {
        let sent = headers(&[
            ("content-type", "text/plain; charset=utf-8"),
            ("content-encoding", "gzip"),
            ("content-language", "de"),
            ("content-disposition", "attachment; filename=\"ü\""),
            ("cache-control", "no-cache"),
            ("expires", "whenever"),
            ("x-amz-meta-mtime", "1700000000.5"),
            ("x-amz-meta-name", "Grüße"),
        ]);
        let meta = from_headers(&sent, None).expect("fine");
        let mut back = HeaderMap::new();
        to_headers(&meta, &Query::default(), &mut back).expect("fine");
        assert_eq!(back, sent);
    }

    #[test]
    fn aws_chunked_is_not_kept() {
        for (sent, kept) in [
            ("aws-chunked", None),
            ("aws-chunked,gzip", Some("gzip")),
            ("gzip, AWS-Chunked", Some("gzip")),
            ("gzip, br", Some("gzip,br")),
        ] {
            let meta = from_headers(&headers(&[("content-encoding", sent)]), None).expect("fine");
            assert_eq!(meta.content_encoding.as_deref(), kept, "{sent}");
        }
    }

    #[test]
    fn repeated_user_metadata_is_joined() {
        let meta =
            from_headers(&headers(&[("x-amz-meta-a", "1"), ("x-amz-meta-a", "2")]), None).expect("fine");
        assert_eq!(meta.user, [("a".to_owned(), "1,2".to_owned())]);
    }

    #[test]
    fn reserved_names_and_too_much_are_refused() {
        let refused =
            from_headers(&headers(&[("x-amz-meta-forebay-version", "1")]), None).expect_err("reserved");
        assert_eq!(refused.code(), "InvalidArgument");
        let value = "v".repeat(USER_METADATA_BYTES_MAX - 1);
        assert!(from_headers(&headers(&[("x-amz-meta-a", &value)]), None).is_ok());
        let refused = from_headers(&headers(&[("x-amz-meta-ab", &value)]), None).expect_err("too much");
        assert_eq!(refused.code(), "MetadataTooLarge");
    }

    #[test]
    fn response_parameters_override_and_are_checked() {
        let meta = ObjectMeta { content_type: Some("a/b".to_owned()), ..ObjectMeta::default() };
        let mut back = HeaderMap::new();
        let query = Query::parse("response-content-type=c%2Fd&response-cache-control=no-store");
        to_headers(&meta, &query, &mut back).expect("fine");
        assert_eq!(back.get("content-type").map(HeaderValue::as_bytes), Some(&b"c/d"[..]));
        assert_eq!(back.get("cache-control").map(HeaderValue::as_bytes), Some(&b"no-store"[..]));
        let injection = Query::parse("response-content-type=a%0d%0aX-Evil:1");
        assert!(to_headers(&meta, &injection, &mut HeaderMap::new()).is_err());
    }

    #[test]
    fn objects_without_a_type_are_octets() {
        let mut back = HeaderMap::new();
        to_headers(&ObjectMeta::default(), &Query::default(), &mut back).expect("fine");
        assert_eq!(back.get("content-type"), Some(&DEFAULT_CONTENT_TYPE));
    }
}
