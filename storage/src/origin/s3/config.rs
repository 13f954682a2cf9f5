//! Where an S3 origin is and how to speak to it.
//!
//! Owns the values; secrets in them are shown by nothing.

use std::fmt;
use std::time::Duration;

/// A secret: shown by nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Where an S3 origin is and how to speak to it.
#[derive(Debug, Clone)]
pub struct S3OriginConfig {
    /// URL of the endpoint, `http://` or `https://`; `None` for AWS itself.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: String,
    /// Bucket.
    pub bucket: String,
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: Secret,
    /// Session token of temporary credentials.
    pub session_token: Option<Secret>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`. Almost every custom endpoint needs it.
    pub path_style: bool,
    /// Longest wait for a TCP and TLS connection.
    pub connect_timeout: Duration,
    /// Longest wait for a request without a deadline of its own (head, list), and for the next bytes of a body.
    pub request_timeout: Duration,
    /// Whether PUT and DELETE are signed in the query, with an expiry at their deadline. Off only for an
    /// origin that refuses presigned requests.
    pub query_signed: bool,
}

impl S3OriginConfig {
    /// A config with the defaults: 3 s to connect, 30 s a request; path style for custom endpoints.
    pub fn new(
        endpoint: Option<String>,
        region: impl Into<String>,
        bucket: impl Into<String>,
        access_key_id: impl Into<String>,
        secret_access_key: Secret,
    ) -> S3OriginConfig {
        S3OriginConfig {
            path_style: endpoint.is_some(),
            endpoint,
            region: region.into(),
            bucket: bucket.into(),
            access_key_id: access_key_id.into(),
            secret_access_key,
            session_token: None,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(30),
            query_signed: true,
        }
    }
}
