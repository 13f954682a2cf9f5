//! Which S3 operation a request asks for; one file for each that exists here.
//!
//! Owns the table from method, target, query and headers to an operation. It is read before anything else
//! happens, so a request for something this version does not have (a sub-resource, a copy, a part) is
//! answered 501 by its own name and can never fall through to the plain operation of the same method.

pub(crate) mod create_bucket;
pub(crate) mod delete_bucket;
pub(crate) mod delete_object;
pub(crate) mod get_bucket_location;
pub(crate) mod get_object;
pub(crate) mod head_bucket;
pub(crate) mod head_object;
pub(crate) mod list_buckets;
pub(crate) mod list_objects_v2;
pub(crate) mod put_object;

use http::{HeaderMap, Method};

use crate::query::Query;
use crate::target::Target;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    ListObjectsV2,
    PutObject,
    GetObject,
    HeadObject,
    DeleteObject,
    /// S3 has it, this version does not: its name.
    NotImplemented(&'static str),
}

impl Operation {
    /// Reads the table.
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

    /// Whether s3s takes it apart and answers through its trait; the rest goes through its route.
    pub(crate) fn is_dispatched_by_s3s(self) -> bool {
        match self {
            Operation::ListBuckets
            | Operation::CreateBucket
            | Operation::HeadBucket
            | Operation::DeleteBucket
            | Operation::GetBucketLocation
            | Operation::ListObjectsV2 => true,
            Operation::PutObject
            | Operation::GetObject
            | Operation::HeadObject
            | Operation::DeleteObject
            | Operation::NotImplemented(_) => false,
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
    ("x-amz-copy-source", "CopyObject"),
    ("x-amz-grant-", "object grants (x-amz-grant-*)"),
    ("x-amz-object-lock-", "object lock (x-amz-object-lock-*)"),
    ("x-amz-rename-source", "RenameObject"),
    ("x-amz-server-side-encryption", "server-side encryption (x-amz-server-side-encryption*)"),
    ("x-amz-tagging", "object tagging (x-amz-tagging)"),
    ("x-amz-website-redirect-location", "website redirects (x-amz-website-redirect-location)"),
    ("x-amz-write-offset-bytes", "appending (x-amz-write-offset-bytes)"),
];

fn classify_bucket(method: &Method, query: &Query) -> Operation {
    if let Some(name) = subresource(query, BUCKET_SUBRESOURCES) {
        return Operation::NotImplemented(name);
    }
    match *method {
        Method::GET if query.has("location") => Operation::GetBucketLocation,
        Method::GET if query.get("list-type") == Some("2") => Operation::ListObjectsV2,
        Method::GET => Operation::NotImplemented("ListObjects (version 1)"),
        Method::HEAD => Operation::HeadBucket,
        Method::PUT => Operation::CreateBucket,
        Method::DELETE => Operation::DeleteBucket,
        Method::POST => Operation::NotImplemented("POST on a bucket (PostObject, DeleteObjects)"),
        _ => Operation::NotImplemented("this method on a bucket"),
    }
}

fn classify_object(method: &Method, query: &Query, headers: &HeaderMap) -> Operation {
    if let Some(name) = subresource(query, OBJECT_SUBRESOURCES) {
        return Operation::NotImplemented(name);
    }
    // "null" is the version of every object where there is no versioning.
    if query.get("versionId").is_some_and(|version| version != "null") {
        return Operation::NotImplemented("versioning (versionId)");
    }
    match *method {
        Method::GET => Operation::GetObject,
        Method::HEAD => Operation::HeadObject,
        Method::PUT => match asked_by_header(headers) {
            Some(name) => Operation::NotImplemented(name),
            None => Operation::PutObject,
        },
        Method::DELETE if is_conditional_delete(headers) => {
            Operation::NotImplemented("conditional DeleteObject")
        }
        Method::DELETE => Operation::DeleteObject,
        Method::POST => Operation::NotImplemented("POST on an object"),
        _ => Operation::NotImplemented("this method on an object"),
    }
}

fn subresource(query: &Query, table: &'static [(&str, &str)]) -> Option<&'static str> {
    query.names().find_map(|name| table.iter().find(|(known, _)| *known == name)).map(|(_, noun)| *noun)
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
        let target = Target::parse(path).expect("a target");
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
        for method in ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"] {
            for (name, noun) in OBJECT_SUBRESOURCES {
                for target in [format!("/bucket/key?{name}"), format!("/bucket/key?x-id=a&{name}=1")] {
                    assert_eq!(classify(method, &target, None), Operation::NotImplemented(noun), "{target}");
                }
            }
            for (name, noun) in BUCKET_SUBRESOURCES {
                let target = format!("/bucket?{name}=");
                assert_eq!(classify(method, &target, None), Operation::NotImplemented(noun), "{target}");
            }
        }
        assert!(matches!(
            classify("PUT", "/bucket/key?%74agging", None),
            Operation::NotImplemented("ObjectTagging")
        ));
        assert!(matches!(
            classify("DELETE", "/bucket/key?versionId=abc", None),
            Operation::NotImplemented(_)
        ));
    }

    #[test]
    fn put_headers_that_ask_for_more_are_refused_by_name() {
        for (header, noun) in [
            ("x-amz-copy-source", "CopyObject"),
            ("x-amz-tagging", "object tagging (x-amz-tagging)"),
            ("x-amz-grant-read", "object grants (x-amz-grant-*)"),
            ("x-amz-object-lock-mode", "object lock (x-amz-object-lock-*)"),
        ] {
            let operation = classify("PUT", "/bucket/key", Some(header));
            assert_eq!(operation, Operation::NotImplemented(noun), "{header}");
        }
        assert_eq!(classify("PUT", "/bucket/key", Some("x-amz-acl")), Operation::PutObject);
        assert_eq!(
            classify("DELETE", "/bucket/key", Some("if-match")),
            Operation::NotImplemented("conditional DeleteObject")
        );
    }

    #[test]
    fn everything_else_is_not_implemented() {
        for (method, target) in [
            ("GET", "/bucket"),
            ("GET", "/bucket?list-type=1"),
            ("POST", "/bucket?delete"),
            ("POST", "/bucket"),
            ("POST", "/"),
            ("POST", "/bucket/key?uploads"),
            ("OPTIONS", "/bucket/key"),
        ] {
            assert!(
                matches!(classify(method, target, None), Operation::NotImplemented(_)),
                "{method} {target}"
            );
        }
    }
}
