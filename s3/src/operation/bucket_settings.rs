//! Settings of a bucket that S3 has and buckets here have not: what a client hears that asks.

use s3s::{Body, S3Response};

use crate::error::Refused;
use crate::xml::XmlWriter;

/// A setting that S3 answers with an error of its own where it is not set.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AbsentSetting {
    subresource: &'static str,
    code: &'static str,
    message: &'static str,
}

const ABSENT: &[AbsentSetting] = &[
    AbsentSetting {
        subresource: "cors",
        code: "NoSuchCORSConfiguration",
        message: "The CORS configuration does not exist",
    },
    AbsentSetting {
        subresource: "encryption",
        code: "ServerSideEncryptionConfigurationNotFoundError",
        message: "The server side encryption configuration was not found",
    },
    AbsentSetting {
        subresource: "lifecycle",
        code: "NoSuchLifecycleConfiguration",
        message: "The lifecycle configuration does not exist",
    },
    AbsentSetting {
        subresource: "ownershipControls",
        code: "OwnershipControlsNotFoundError",
        message: "The bucket ownership controls were not found",
    },
    AbsentSetting {
        subresource: "policy",
        code: "NoSuchBucketPolicy",
        message: "The bucket policy does not exist",
    },
    AbsentSetting {
        subresource: "publicAccessBlock",
        code: "NoSuchPublicAccessBlockConfiguration",
        message: "The public access block configuration was not found",
    },
    AbsentSetting {
        subresource: "replication",
        code: "ReplicationConfigurationNotFoundError",
        message: "The replication configuration was not found",
    },
    AbsentSetting { subresource: "tagging", code: "NoSuchTagSet", message: "The TagSet does not exist" },
];

impl AbsentSetting {
    /// The setting behind a sub-resource.
    pub(crate) fn find(subresource: &str) -> Option<&'static AbsentSetting> {
        ABSENT.iter().find(|setting| setting.subresource == subresource)
    }
}

/// 404, by the setting's own code.
pub(crate) fn absent(setting: &AbsentSetting) -> Refused {
    Refused::new(setting.code, 404, setting.message)
}

/// GetBucketVersioning: never enabled, which S3 says by an empty document.
pub(crate) fn versioning() -> S3Response<Body> {
    XmlWriter::new("VersioningConfiguration").into_response()
}
