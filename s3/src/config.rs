//! Settings of the S3 listener.
//!
//! Owns every limit and time-out of the front end, with what it costs in either direction. Does not own
//! where the values come from (the server parses files, flags and the environment), nor the body limit,
//! which is the core's inline threshold.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

/// Longest presigned validity that S3 knows, in seconds: seven days.
pub const PRESIGNED_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// A secret access key. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretAccessKey(Box<str>);

impl SecretAccessKey {
    /// Wraps a secret.
    pub fn new(secret: impl Into<Box<str>>) -> SecretAccessKey {
        SecretAccessKey(secret.into())
    }

    /// The secret itself, for signing only.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretAccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretAccessKey(hidden)")
    }
}

/// Everything the S3 front end is told at start.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// The one access key id that is let in.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: SecretAccessKey,
    /// The region told to clients (GetBucketLocation, HeadBucket). Signatures for any region are accepted:
    /// clients guess it, and it protects nothing here.
    pub region: String,
    /// Domains under which a host names a bucket (`s3.localhost`: `bucket.s3.localhost`); lower case, without
    /// a port. Empty: path style alone.
    pub domains: Vec<String>,
    /// Buckets whose ETags are not MD5s: derived from the version, with a suffix that tells clients not to
    /// compare it. An MD5 costs a core a second for each 0.7 GB.
    pub fast_etags: HashSet<String>,
    /// Connections served at once. Further ones wait in the kernel's accept queue. Each may hold one
    /// request head and one body of at most the inline threshold.
    pub connections_max: usize,
    /// How far a client's clock may be off. Longer: a captured request can be replayed for longer.
    pub skew_max: Duration,
    /// From the first moment a connection waits for a request until its head is complete; so also how long
    /// an idle connection is kept. Longer: slow senders hold connections longer.
    pub head_timeout: Duration,
    /// Longest pause while a body arrives or a response is taken. Shorter: bad networks get errors.
    pub stall_timeout: Duration,
    /// Largest request head in bytes (request line and headers); beyond it 431.
    pub head_bytes_max: usize,
    /// Bytes of an unwanted body that are read and dropped, for at most two seconds, so that the client sees
    /// the answer and the connection lives on; beyond it the connection is closed after the answer. Smaller:
    /// clients that send before they listen see a broken connection in place of the error.
    pub drain_bytes_max: u64,
    /// How long running requests may take to end after the shutdown was asked for.
    pub shutdown_grace: Duration,
}

impl S3Config {
    /// The defaults, with credentials.
    pub fn new(access_key_id: impl Into<String>, secret_access_key: SecretAccessKey) -> S3Config {
        S3Config {
            access_key_id: access_key_id.into(),
            secret_access_key,
            region: "us-east-1".to_owned(),
            domains: Vec::new(),
            fast_etags: HashSet::new(),
            connections_max: 4096,
            skew_max: Duration::from_secs(15 * 60),
            head_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            head_bytes_max: 32 * 1024,
            drain_bytes_max: 64 * 1024 * 1024,
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_the_config_hides_the_secret() {
        let config = S3Config::new("AKID", SecretAccessKey::new("do-not-show"));
        let shown = format!("{config:?}");
        assert!(shown.contains("AKID") && !shown.contains("do-not-show"), "{shown}");
    }
}
