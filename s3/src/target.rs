//! What a request names: the service, a bucket, or an object; in path style, or with the bucket in the host.
//!
//! Bucket and key are taken from the decoded path byte for byte: nothing is trimmed, folded or
//! normalised, so `a`, `a/` and `a//b` are different objects.

use percent_encoding::percent_decode_str;

use crate::error::Refused;
use forebay_storage::object_name;

/// The addressed thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/`
    Service,
    /// `/bucket` or `/bucket/`
    Bucket {
        /// Its name.
        bucket: String,
    },
    /// `/bucket/key`
    Object {
        /// Its bucket's name.
        bucket: String,
        /// The key's bytes, as RESP knows them.
        key: Vec<u8>,
    },
}

impl Target {
    /// The bucket's name; empty for the service.
    pub(crate) fn bucket(&self) -> &str {
        match self {
            Target::Service => "",
            Target::Bucket { bucket } | Target::Object { bucket, .. } => bucket,
        }
    }

    /// Parses the request path, still percent-encoded. With a bucket in the host the whole path is the key's.
    pub(crate) fn parse(path: &str, bucket_of_host: Option<&str>) -> Result<Target, Refused> {
        let decoded = percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| Refused::new("InvalidURI", 400, "the path is not UTF-8"))?;
        let Some(rest) = decoded.strip_prefix('/') else {
            return Err(Refused::new("InvalidURI", 400, "the path must begin with /"));
        };
        let (bucket, name) = match bucket_of_host {
            Some(bucket) => (bucket, rest),
            None if rest.is_empty() => return Ok(Target::Service),
            None => rest.split_once('/').unwrap_or((rest, "")),
        };
        if !bucket_name_is_valid(bucket) {
            return Err(Refused::new(
                "InvalidBucketName",
                400,
                "The specified bucket is not valid: 3 to 63 of a-z, 0-9, '-' and '.', beginning and ending \
                 with a letter or digit",
            ));
        }
        let bucket = bucket.to_owned();
        if name.is_empty() {
            return Ok(Target::Bucket { bucket });
        }
        let key = object_name::decode_key(name)
            .ok_or_else(|| Refused::new("InvalidURI", 400, "the key is no valid name of an object"))?
            .into_owned();
        Ok(Target::Object { bucket, key })
    }
}

/// S3's rules for bucket names.
pub(crate) fn bucket_name_is_valid(name: &str) -> bool {
    s3s::path::check_bucket_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(bucket: &str, key: &[u8]) -> Target {
        Target::Object { bucket: bucket.to_owned(), key: key.to_vec() }
    }

    #[test]
    fn keys_are_kept_byte_for_byte() {
        for (path, key) in [
            ("/redis-0/a", &b"a"[..]),
            ("/redis-0/a/", b"a/"),
            ("/redis-0/a//b", b"a//b"),
            ("/redis-0//a", b"/a"),
            ("/redis-0/.", b"."),
            ("/redis-0/a/../b", b"a/../b"),
            ("/redis-0/a+b%20c%2Fd", b"a+b c/d"),
            ("/redis-0/%C3%BC", "ü".as_bytes()),
        ] {
            assert_eq!(Target::parse(path, None).ok(), Some(object("redis-0", key)), "{path}");
        }
    }

    #[test]
    fn service_and_bucket_paths() {
        assert_eq!(Target::parse("/", None).ok(), Some(Target::Service));
        let bucket = Target::Bucket { bucket: "photos".to_owned() };
        assert_eq!(Target::parse("/photos", None).ok(), Some(bucket.clone()));
        assert_eq!(Target::parse("/photos/", None).ok(), Some(bucket));
    }

    #[test]
    fn the_bucket_of_the_host_leaves_the_path_to_the_key() {
        for (path, key) in [("/a", &b"a"[..]), ("/a/b", b"a/b"), ("//a", b"/a"), ("/redis-0/a", b"redis-0/a")]
        {
            assert_eq!(Target::parse(path, Some("photos")).ok(), Some(object("photos", key)), "{path}");
        }
        let bucket = Target::Bucket { bucket: "photos".to_owned() };
        assert_eq!(Target::parse("/", Some("photos")).ok(), Some(bucket));
        assert!(Target::parse("/a", Some("Photos")).is_err());
    }

    #[test]
    fn bad_names_are_refused() {
        for path in ["/A/k", "/ab", "/a_b/k", "/-ab/k", "/192.168.0.1/k", "/a..b/k", "//k", "*", ""] {
            assert!(Target::parse(path, None).is_err(), "{path}");
        }
        assert!(Target::parse("/bucket/%ff", None).is_err());
    }
}
