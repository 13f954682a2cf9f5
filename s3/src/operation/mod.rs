//! The operation table: which request is which operation, and which are not there. Then one file each.
//!
//! [`Operation::classify`] maps method, target, query and headers to an operation. It is read before anything
//! else happens, so a request for something this version does not have (a sub-resource, a version) is
//! answered 501 by its own name and can never fall through to the plain operation of the same method.

pub(crate) mod abort_multipart_upload;
pub(crate) mod acl;
pub(crate) mod bucket_settings;
mod classify;
pub(crate) mod complete_multipart_upload;
pub(crate) mod copy_object;
pub(crate) mod create_bucket;
pub(crate) mod create_multipart_upload;
pub(crate) mod delete_bucket;
pub(crate) mod delete_object;
pub(crate) mod delete_objects;
pub(crate) mod get_bucket_location;
pub(crate) mod get_object;
pub(crate) mod get_object_attributes;
pub(crate) mod head_bucket;
pub(crate) mod head_object;
pub(crate) mod list_buckets;
pub(crate) mod list_multipart_uploads;
pub(crate) mod list_object_versions;
pub(crate) mod list_objects;
pub(crate) mod list_objects_v2;
pub(crate) mod list_parts;
mod listing;
pub(crate) mod put_object;
pub(crate) mod tagging;
pub(crate) mod upload_part;
pub(crate) mod upload_part_copy;

use bucket_settings::AbsentSetting;
use http::HeaderMap;
use http::header::{IF_MATCH, IF_NONE_MATCH};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    GetBucketVersioning,
    GetBucketAcl,
    PutBucketAcl,
    /// GET of a setting that no bucket here has.
    GetAbsentSetting(&'static AbsentSetting),
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    PutObject,
    CopyObject,
    GetObject,
    HeadObject,
    DeleteObject,
    DeleteObjects,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    ListMultipartUploads,
    GetObjectAttributes,
    GetObjectTagging,
    DeleteObjectTagging,
    GetObjectAcl,
    PutObjectAcl,
    /// S3 has it, this version does not: its name.
    NotImplemented(&'static str),
}

impl Operation {
    /// Whether s3s takes it apart and answers through its trait; the rest goes through its route.
    pub(crate) fn is_dispatched_by_s3s(self) -> bool {
        match self {
            Operation::ListBuckets
            | Operation::CreateBucket
            | Operation::HeadBucket
            | Operation::DeleteBucket
            | Operation::GetBucketLocation
            | Operation::ListObjects
            | Operation::ListObjectsV2
            | Operation::ListObjectVersions => true,
            Operation::GetBucketVersioning
            | Operation::GetBucketAcl
            | Operation::PutBucketAcl
            | Operation::GetAbsentSetting(_)
            | Operation::PutObject
            | Operation::CopyObject
            | Operation::GetObject
            | Operation::HeadObject
            | Operation::DeleteObject
            | Operation::DeleteObjects
            | Operation::CreateMultipartUpload
            | Operation::UploadPart
            | Operation::UploadPartCopy
            | Operation::CompleteMultipartUpload
            | Operation::AbortMultipartUpload
            | Operation::ListParts
            | Operation::ListMultipartUploads
            | Operation::GetObjectAttributes
            | Operation::GetObjectTagging
            | Operation::DeleteObjectTagging
            | Operation::GetObjectAcl
            | Operation::PutObjectAcl
            | Operation::NotImplemented(_) => false,
        }
    }

    /// Whether it changes the object that it names, or begins to.
    pub(crate) fn writes_object(self) -> bool {
        matches!(
            self,
            Operation::PutObject
                | Operation::CopyObject
                | Operation::DeleteObject
                | Operation::CreateMultipartUpload
                | Operation::UploadPart
                | Operation::UploadPartCopy
                | Operation::CompleteMultipartUpload
        )
    }

    /// Whether what it does depends on the object that it names, as it stands. A plain write wins over whatever is
    /// there; sources of copies are looked up as they are read.
    pub(crate) fn depends_on_object(self, headers: &HeaderMap) -> bool {
        match self {
            Operation::GetObject
            | Operation::HeadObject
            | Operation::GetObjectAttributes
            | Operation::GetObjectTagging
            | Operation::DeleteObjectTagging
            | Operation::GetObjectAcl
            | Operation::PutObjectAcl => true,
            Operation::PutObject | Operation::CopyObject | Operation::CompleteMultipartUpload => {
                headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH)
            }
            _ => false,
        }
    }
}
