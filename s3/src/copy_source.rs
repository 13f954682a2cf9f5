//! `x-amz-copy-source`: what CopyObject and UploadPartCopy read, with its conditions.

use std::borrow::Cow;

use forebay_storage::object::{BucketId, ObjectRow};
use forebay_storage::object_name;
use forebay_storage::store::Store;
use http::HeaderMap;
use percent_encoding::percent_decode_str;

use crate::condition::{CopyHeaders, Verdict, judge_read};
use crate::error::Refused;
use crate::service::Operations;
use crate::target::bucket_name_is_valid;
use crate::timestamp;

/// The object that is to be copied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CopySource {
    pub(crate) bucket: String,
    /// As RESP knows it.
    pub(crate) key: Vec<u8>,
}

impl CopySource {
    /// Reads `bucket/key` or `/bucket/key`, percent-encoded, perhaps with the one version that there is.
    pub(crate) fn read(headers: &HeaderMap) -> Result<CopySource, Refused> {
        let mut values = headers.get_all("x-amz-copy-source").iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Err(invalid()) };
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| invalid())?;
        let path = match value.split_once("?versionId=") {
            None | Some((_, "null")) => value.split_once('?').map_or(value, |(path, _)| path),
            Some(_) => return Err(Refused::not_implemented("versioning (versionId)")),
        };
        let path = percent_decode_str(path).decode_utf8().map_err(|_| invalid())?;
        let path = path.strip_prefix('/').unwrap_or(&path);
        let (bucket, name) = path.split_once('/').ok_or_else(invalid)?;
        if !bucket_name_is_valid(bucket) || name.is_empty() {
            return Err(invalid());
        }
        let key = object_name::decode_key(name).map(Cow::into_owned).ok_or_else(invalid)?;
        Ok(CopySource { bucket: bucket.to_owned(), key })
    }

    /// The object as it stands, if it passes the conditions of the request.
    pub(crate) async fn find(
        &self,
        operations: &Operations,
        headers: &HeaderMap,
    ) -> Result<(BucketId, ObjectRow), Refused> {
        let bucket = operations.bucket(&self.bucket)?;
        Store::check_key(&self.key)?;
        operations.look_up(bucket, &self.key).await?;
        let (row, _) = operations.object(bucket, &self.key).await?;
        let etag = row.etag(operations.store.cluster_id()).to_string();
        let modified = timestamp::from_ms(row.modified_ms()).unix_timestamp();
        match judge_read(&CopyHeaders(headers), &etag, modified) {
            Verdict::Proceed => Ok((bucket, row)),
            Verdict::Failed(condition) => Err(Refused::precondition_failed(condition)),
            Verdict::NotModified => Err(Refused::precondition_failed("x-amz-copy-source-If-None-Match")),
        }
    }
}

fn invalid() -> Refused {
    Refused::new(
        "InvalidArgument",
        400,
        "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
    )
    .with("ArgumentName", "x-amz-copy-source")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(value: &str) -> Result<CopySource, Refused> {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-copy-source", HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        CopySource::read(&headers)
    }

    #[test]
    fn names_are_decoded_byte_for_byte() {
        for (value, key) in [
            ("bucket/a", &b"a"[..]),
            ("/bucket/a", b"a"),
            ("bucket/a%2Fb//c", b"a/b//c"),
            ("bucket//a", b"/a"),
            ("bucket/a+b%20c%3Fd", b"a+b c?d"),
            ("bucket/%C3%BC", "ü".as_bytes()),
            ("bucket/ü", "ü".as_bytes()),
            ("bucket/a?versionId=null", b"a"),
        ] {
            let source = read(value).expect(value);
            assert_eq!((source.bucket.as_str(), &source.key[..]), ("bucket", key), "{value}");
        }
    }

    #[test]
    fn what_names_no_object_is_refused() {
        for value in ["", "bucket", "/bucket", "bucket/", "/", "Bucket/k", "bucket/%ff"] {
            assert_eq!(read(value).expect_err(value).code(), "InvalidArgument", "{value}");
        }
        assert_eq!(read("bucket/k?versionId=3").expect_err("a version").code(), "NotImplemented");
        assert!(CopySource::read(&HeaderMap::new()).is_err());
    }
}
