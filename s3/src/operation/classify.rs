//! Reads a request's method, target, query and headers as an operation.
//!
//! The tables name every sub-resource and header that S3 gives a meaning to. What stands in a table and is not
//! picked out below is answered 501 by its noun.

use http::{HeaderMap, Method};
use smallvec::SmallVec;

use super::Operation;
use super::bucket_settings::AbsentSetting;
use crate::query::Query;
use crate::target::Target;

/// No request of S3's asks for two things at once.
const SEVERAL: &str = "a request for several sub-resources";

impl Operation {
    /// Reads the tables.
    pub(crate) fn classify(
        method: &Method,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
    ) -> Operation {
        match target {
            Target::Service => match *method {
                Method::GET => Operation::ListBuckets,
                _ => Operation::NotImplemented("this method on the service"),
            },
            Target::Bucket { .. } => classify_bucket(method, query),
            Target::Object { .. } => classify_object(method, query, headers),
        }
    }
}

/// Sub-resources of a bucket, with the noun in their operations' names. `location` is not among them.
const BUCKET_SUBRESOURCES: &[(&str, &str)] = &[
    ("abac", "bucket ABAC"),
    ("accelerate", "BucketAccelerateConfiguration"),
    ("acl", "BucketAcl"),
    ("analytics", "BucketAnalyticsConfiguration"),
    ("cors", "BucketCors"),
    ("delete", "DeleteObjects"),
    ("encryption", "BucketEncryption"),
    ("intelligent-tiering", "BucketIntelligentTieringConfiguration"),
    ("inventory", "BucketInventoryConfiguration"),
    ("lifecycle", "BucketLifecycleConfiguration"),
    ("logging", "BucketLogging"),
    ("metadataConfiguration", "BucketMetadataConfiguration"),
    ("metadataInventoryTable", "BucketMetadataInventoryTableConfiguration"),
    ("metadataJournalTable", "BucketMetadataJournalTableConfiguration"),
    ("metadataTable", "BucketMetadataTableConfiguration"),
    ("metrics", "BucketMetricsConfiguration"),
    ("notification", "BucketNotificationConfiguration"),
    ("object-lock", "ObjectLockConfiguration"),
    ("ownershipControls", "BucketOwnershipControls"),
    ("policy", "BucketPolicy"),
    ("policyStatus", "BucketPolicyStatus"),
    ("publicAccessBlock", "PublicAccessBlock"),
    ("replication", "BucketReplication"),
    ("requestPayment", "BucketRequestPayment"),
    ("session", "CreateSession"),
    ("tagging", "BucketTagging"),
    ("uploads", "ListMultipartUploads"),
    ("versioning", "BucketVersioning"),
    ("versions", "ListObjectVersions"),
    ("website", "BucketWebsite"),
    ("events", "ListenBucketNotification"),
];

/// Sub-resources of an object, with the noun in their operations' names.
const OBJECT_SUBRESOURCES: &[(&str, &str)] = &[
    ("acl", "ObjectAcl"),
    ("annotation", "object annotations"),
    ("append", "AppendObject"),
    ("attributes", "GetObjectAttributes"),
    ("encryption", "ObjectEncryption"),
    ("legal-hold", "ObjectLegalHold"),
    ("partNumber", "multipart (partNumber)"),
    ("renameObject", "RenameObject"),
    ("restore", "RestoreObject"),
    ("retention", "ObjectRetention"),
    ("select", "SelectObjectContent"),
    ("tagging", "ObjectTagging"),
    ("torrent", "GetObjectTorrent"),
    ("uploadId", "multipart upload (uploadId)"),
    ("uploads", "CreateMultipartUpload"),
];

/// Headers of a PUT that ask for more than storing a body; ignoring one would be a false promise.
const PUT_HEADERS: &[(&str, &str)] = &[
    ("x-amz-copy-source-server-side-encryption", "server-side encryption (x-amz-copy-source-server-side-*)"),
    ("x-amz-grant-", "object grants (x-amz-grant-*)"),
    ("x-amz-object-lock-", "object lock (x-amz-object-lock-*)"),
    ("x-amz-rename-source", "RenameObject"),
    ("x-amz-server-side-encryption", "server-side encryption (x-amz-server-side-encryption*)"),
    ("x-amz-tagging", "object tagging (x-amz-tagging)"),
    ("x-amz-website-redirect-location", "website redirects (x-amz-website-redirect-location)"),
    ("x-amz-write-offset-bytes", "appending (x-amz-write-offset-bytes)"),
];

fn classify_bucket(method: &Method, query: &Query) -> Operation {
    match subresources(query, BUCKET_SUBRESOURCES)[..] {
        [] => {}
        [(name, noun)] => return bucket_subresource(method, name, noun),
        _ => return Operation::NotImplemented(SEVERAL),
    }
    match *method {
        Method::GET if query.has("location") => Operation::GetBucketLocation,
        Method::GET if query.get("list-type") == Some("2") => Operation::ListObjectsV2,
        Method::GET if !query.has("list-type") => Operation::ListObjects,
        Method::GET => Operation::NotImplemented("this list-type"),
        Method::HEAD => Operation::HeadBucket,
        Method::PUT => Operation::CreateBucket,
        Method::DELETE => Operation::DeleteBucket,
        Method::POST => Operation::NotImplemented("POST on a bucket (PostObject)"),
        _ => Operation::NotImplemented("this method on a bucket"),
    }
}

fn bucket_subresource(method: &Method, name: &str, noun: &'static str) -> Operation {
    match (method.as_str(), name) {
        ("POST", "delete") => Operation::DeleteObjects,
        ("GET", "acl") => Operation::GetBucketAcl,
        ("PUT", "acl") => Operation::PutBucketAcl,
        ("GET", "versioning") => Operation::GetBucketVersioning,
        ("GET", "uploads") => Operation::ListMultipartUploads,
        ("GET", "versions") => Operation::ListObjectVersions,
        ("GET", name) => match AbsentSetting::find(name) {
            Some(setting) => Operation::GetAbsentSetting(setting),
            None => Operation::NotImplemented(noun),
        },
        _ => Operation::NotImplemented(noun),
    }
}

fn classify_object(method: &Method, query: &Query, headers: &HeaderMap) -> Operation {
    let subresources = subresources(query, OBJECT_SUBRESOURCES);
    // "null" is the version of every object where there is no versioning.
    if query.get("versionId").is_some_and(|version| version != "null") {
        return Operation::NotImplemented("versioning (versionId)");
    }
    match subresources[..] {
        [] => {}
        [(name, noun)] => return object_subresource(method, name, noun, headers),
        [("partNumber", _), ("uploadId", _)] if *method == Method::PUT => {
            return with_body(headers, Operation::UploadPart, Operation::UploadPartCopy);
        }
        _ => return Operation::NotImplemented(SEVERAL),
    }
    match *method {
        Method::GET => Operation::GetObject,
        Method::HEAD => Operation::HeadObject,
        Method::PUT => with_body(headers, Operation::PutObject, Operation::CopyObject),
        Method::DELETE if is_conditional_delete(headers) => {
            Operation::NotImplemented("conditional DeleteObject")
        }
        Method::DELETE => Operation::DeleteObject,
        Method::POST => Operation::NotImplemented("POST on an object"),
        _ => Operation::NotImplemented("this method on an object"),
    }
}

fn object_subresource(method: &Method, name: &str, noun: &'static str, headers: &HeaderMap) -> Operation {
    match (method.as_str(), name) {
        ("POST", "uploads") => match asked_by_header(headers) {
            Some(name) => Operation::NotImplemented(name),
            None => Operation::CreateMultipartUpload,
        },
        ("POST", "uploadId") => Operation::CompleteMultipartUpload,
        ("DELETE", "uploadId") => Operation::AbortMultipartUpload,
        ("GET", "uploadId") => Operation::ListParts,
        ("GET", "partNumber") => Operation::GetObject,
        ("HEAD", "partNumber") => Operation::HeadObject,
        ("GET", "acl") => Operation::GetObjectAcl,
        ("PUT", "acl") => Operation::PutObjectAcl,
        ("GET", "attributes") => Operation::GetObjectAttributes,
        ("GET", "tagging") => Operation::GetObjectTagging,
        ("DELETE", "tagging") => Operation::DeleteObjectTagging,
        _ => Operation::NotImplemented(noun),
    }
}

/// The sub-resources that a query names, each once, in the order of the table.
fn subresources(
    query: &Query,
    table: &'static [(&'static str, &'static str)],
) -> SmallVec<[(&'static str, &'static str); 2]> {
    // Most requests have no query, and the table is long.
    if query.is_empty() {
        return SmallVec::new();
    }
    table.iter().filter(|(name, _)| query.has(name)).copied().collect()
}

/// An operation that takes its bytes from the request, or from the object that a header names.
fn with_body(headers: &HeaderMap, sent: Operation, copied: Operation) -> Operation {
    match asked_by_header(headers) {
        Some(name) => Operation::NotImplemented(name),
        None if headers.contains_key("x-amz-copy-source") => copied,
        None => sent,
    }
}

fn asked_by_header(headers: &HeaderMap) -> Option<&'static str> {
    let known = |name: &str| PUT_HEADERS.iter().find(|(prefix, _)| name.starts_with(prefix));
    headers.keys().find_map(|name| known(name.as_str())).map(|(_, noun)| *noun)
}

fn is_conditional_delete(headers: &HeaderMap) -> bool {
    ["if-match", "x-amz-if-match-last-modified-time", "x-amz-if-match-size"]
        .iter()
        .any(|name| headers.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn classify(method: &str, target: &str, header: Option<&'static str>) -> Operation {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = HeaderMap::new();
        if let Some(name) = header {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let target = Target::parse(path, None).expect("a target");
        Operation::classify(&method, &target, &Query::parse(query), &headers)
    }

    #[test]
    fn plain_operations() {
        for (method, target, operation) in [
            ("GET", "/", Operation::ListBuckets),
            ("GET", "/?x-id=ListBuckets", Operation::ListBuckets),
            ("PUT", "/bucket", Operation::CreateBucket),
            ("HEAD", "/bucket/", Operation::HeadBucket),
            ("DELETE", "/bucket", Operation::DeleteBucket),
            ("GET", "/bucket?location", Operation::GetBucketLocation),
            ("GET", "/bucket", Operation::ListObjects),
            ("GET", "/bucket?marker=a&delimiter=/", Operation::ListObjects),
            ("GET", "/bucket?list-type=2&prefix=acl", Operation::ListObjectsV2),
            ("PUT", "/bucket/key?x-id=PutObject", Operation::PutObject),
            ("GET", "/bucket/key?response-content-type=a", Operation::GetObject),
            ("GET", "/bucket/key?versionId=null", Operation::GetObject),
            ("HEAD", "/bucket/acl", Operation::HeadObject),
            ("DELETE", "/bucket/key", Operation::DeleteObject),
        ] {
            assert_eq!(classify(method, target, None), operation, "{method} {target}");
        }
    }

    #[test]
    fn subresources_never_fall_through() {
        let plain = |operation: Operation| {
            matches!(
                operation,
                Operation::PutObject
                    | Operation::GetObject
                    | Operation::HeadObject
                    | Operation::DeleteObject
                    | Operation::CopyObject
                    | Operation::CreateBucket
                    | Operation::HeadBucket
                    | Operation::DeleteBucket
                    | Operation::ListObjects
                    | Operation::ListObjectsV2
            )
        };
        for method in ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"] {
            for (name, _) in OBJECT_SUBRESOURCES {
                if *name == "partNumber" && matches!(method, "GET" | "HEAD") {
                    continue;
                }
                for target in [format!("/bucket/key?{name}"), format!("/bucket/key?x-id=a&{name}=1")] {
                    assert!(!plain(classify(method, &target, None)), "{method} {target}");
                }
            }
            for (name, _) in BUCKET_SUBRESOURCES {
                for target in [format!("/bucket?{name}="), format!("/bucket?list-type=2&{name}")] {
                    assert!(!plain(classify(method, &target, None)), "{method} {target}");
                }
            }
        }
        assert_eq!(
            classify("PUT", "/bucket/key?%74agging", None),
            Operation::NotImplemented("ObjectTagging")
        );
        assert!(matches!(
            classify("DELETE", "/bucket/key?versionId=abc", None),
            Operation::NotImplemented(_)
        ));
    }

    #[test]
    fn subresources_that_are_there() {
        for (method, target, operation) in [
            ("POST", "/bucket?delete", Operation::DeleteObjects),
            ("POST", "/bucket/?delete=", Operation::DeleteObjects),
            ("GET", "/bucket?versions&prefix=a", Operation::ListObjectVersions),
            ("GET", "/bucket?versioning", Operation::GetBucketVersioning),
            ("PUT", "/bucket?versioning", Operation::NotImplemented("BucketVersioning")),
            ("GET", "/bucket?acl", Operation::GetBucketAcl),
            ("GET", "/bucket/key?acl", Operation::GetObjectAcl),
            ("GET", "/bucket/key?attributes", Operation::GetObjectAttributes),
            ("GET", "/bucket/key?tagging&versionId=null", Operation::GetObjectTagging),
            ("DELETE", "/bucket/key?tagging", Operation::DeleteObjectTagging),
            ("GET", "/bucket/key?tagging&acl", Operation::NotImplemented(SEVERAL)),
            ("POST", "/bucket/key?uploads", Operation::CreateMultipartUpload),
            ("PUT", "/bucket/key?uploadId=1&partNumber=2", Operation::UploadPart),
            ("PUT", "/bucket/key?uploadId=1", Operation::NotImplemented("multipart upload (uploadId)")),
            ("PUT", "/bucket/key?partNumber=1", Operation::NotImplemented("multipart (partNumber)")),
            ("POST", "/bucket/key?uploadId=1", Operation::CompleteMultipartUpload),
            ("DELETE", "/bucket/key?uploadId=1", Operation::AbortMultipartUpload),
            ("GET", "/bucket/key?uploadId=1&max-parts=2", Operation::ListParts),
            ("GET", "/bucket/key?partNumber=1", Operation::GetObject),
            ("HEAD", "/bucket/key?partNumber=1", Operation::HeadObject),
            ("DELETE", "/bucket/key?partNumber=1", Operation::NotImplemented("multipart (partNumber)")),
            ("GET", "/bucket?uploads", Operation::ListMultipartUploads),
            ("GET", "/bucket?versions&acl", Operation::NotImplemented(SEVERAL)),
            ("GET", "/bucket?website", Operation::NotImplemented("BucketWebsite")),
        ] {
            assert_eq!(classify(method, target, None), operation, "{method} {target}");
        }
        assert!(matches!(classify("GET", "/bucket?policy", None), Operation::GetAbsentSetting(_)));
        assert!(matches!(classify("PUT", "/bucket?policy", None), Operation::NotImplemented(_)));
    }

    #[test]
    fn put_headers_that_ask_for_more_are_refused_by_name() {
        for (header, noun) in [
            (
                "x-amz-copy-source-server-side-encryption",
                "server-side encryption (x-amz-copy-source-server-side-*)",
            ),
            ("x-amz-tagging", "object tagging (x-amz-tagging)"),
            ("x-amz-grant-read", "object grants (x-amz-grant-*)"),
            ("x-amz-object-lock-mode", "object lock (x-amz-object-lock-*)"),
        ] {
            let operation = classify("PUT", "/bucket/key", Some(header));
            assert_eq!(operation, Operation::NotImplemented(noun), "{header}");
        }
        assert_eq!(classify("PUT", "/bucket/key", Some("x-amz-acl")), Operation::PutObject);
        let copy = Some("x-amz-copy-source");
        assert_eq!(classify("PUT", "/bucket/key", copy), Operation::CopyObject);
        assert_eq!(classify("PUT", "/bucket/key?partNumber=1&uploadId=1", copy), Operation::UploadPartCopy);
        assert!(matches!(
            classify("POST", "/bucket/key?uploads", Some("x-amz-tagging")),
            Operation::NotImplemented(_)
        ));
        assert_eq!(
            classify("DELETE", "/bucket/key", Some("if-match")),
            Operation::NotImplemented("conditional DeleteObject")
        );
    }

    #[test]
    fn everything_else_is_not_implemented() {
        for (method, target) in [
            ("GET", "/bucket?list-type=1"),
            ("PUT", "/bucket?delete"),
            ("POST", "/bucket"),
            ("POST", "/"),
            ("OPTIONS", "/bucket/key"),
        ] {
            assert!(
                matches!(classify(method, target, None), Operation::NotImplemented(_)),
                "{method} {target}"
            );
        }
    }
}
