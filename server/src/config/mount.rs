//! Mounts: which bucket or prefix is written back to which place in the cloud.
//!
//! Owns the forms `/bucket/prefix` and `s3://bucket/prefix`, and the rules between mounts: no two may
//! share a path, and no two may write into the same place of an origin. A mount below another one wins for
//! its keys.

use std::fmt;
use std::time::Duration;

use super::secret::Secret;
use super::section::{Place, Problems, Section};
use super::value::OptionValue;

/// One `[[mount]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountConfig {
    /// Bucket, or bucket and key prefix, that is mounted.
    pub(crate) path: MountPath,
    /// `write-back`: acknowledged here, uploaded later. `local`: no origin; the bytes count against
    /// `capacity` and are never evicted.
    pub(crate) mode: MountMode,
    /// Where it goes; there for every mode but `local`.
    pub(crate) origin: Option<OriginConfig>,
    /// Least time between two uploads of one key, 1 s by default. Longer: fewer billed requests for keys
    /// that change all the time, and their last state is longer only here. `flush wait` and barriers
    /// override it.
    pub(crate) min_interval: Duration,
    /// `order`: `newest` (default) uploads only the newest version of each key, in any order of keys that no
    /// conditional write forbids. `fifo` uploads in the order of commits, one at a time: the origin is
    /// always a prefix of what was written, and a round trip is paid for every change.
    pub(crate) order: FlushOrder,
    /// Whether FLUSHDB and FLUSHALL may empty it, which deletes its objects in the origin too. No by
    /// default: they then answer an error naming the mount.
    pub(crate) flushall: bool,
}

/// The cloud side of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OriginConfig {
    /// Bucket and prefix there.
    pub(crate) url: OriginUrl,
    /// The S3 endpoint; without one, that of AWS in `region`.
    pub(crate) endpoint: Option<Endpoint>,
    /// Region for signatures, `us-east-1` by default.
    pub(crate) region: String,
    /// Access key.
    pub(crate) access_key_id: Secret,
    /// Its secret.
    pub(crate) secret_access_key: Secret,
}

/// How a mount treats its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountMode {
    /// Acknowledge here, upload later.
    WriteBack,
    /// No origin.
    Local,
}

/// In which order a mount's changes go to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlushOrder {
    /// Newest wins, keys in parallel.
    Newest,
    /// Every change, one after the other.
    Fifo,
}

/// `/bucket` or `/bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountPath {
    /// Bucket name.
    pub(crate) bucket: String,
    /// Keys under the mount begin with this: empty, or ending in `/`.
    pub(crate) prefix: String,
}

/// `s3://bucket` or `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OriginUrl {
    /// Bucket in the cloud.
    pub(crate) bucket: String,
    /// Objects there are named this and the rest of the key: empty, or ending in `/`.
    pub(crate) prefix: String,
}

/// `http://host:port` or `https://host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(String);

impl Endpoint {
    /// The URL, without a slash at its end.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.bucket)?;
        let prefix = self.prefix.trim_end_matches('/');
        if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
    }
}

impl fmt::Display for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        let prefix = self.prefix.trim_end_matches('/');
        if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
    }
}

impl OptionValue for MountMode {
    fn from_text(text: &str) -> Result<MountMode, String> {
        match text {
            "write-back" => Ok(MountMode::WriteBack),
            "local" => Ok(MountMode::Local),
            "write-through" | "read-only" => {
                Err(format!("\"{text}\" is not in this version; write \"write-back\" or \"local\""))
            }
            _ => Err(format!("\"{text}\" is not a mode; write \"write-back\" or \"local\"")),
        }
    }
}

impl OptionValue for FlushOrder {
    fn from_text(text: &str) -> Result<FlushOrder, String> {
        match text {
            "newest" => Ok(FlushOrder::Newest),
            "fifo" => Ok(FlushOrder::Fifo),
            _ => Err(format!("\"{text}\" is not an order; write \"newest\" or \"fifo\"")),
        }
    }
}

impl OptionValue for MountPath {
    fn from_text(text: &str) -> Result<MountPath, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("\"{text}\" must begin with a slash, as in \"/photos\" or \"/photos/2026\""));
        };
        let (bucket, prefix) = split_place(rest);
        if !is_bucket_name(bucket) {
            return Err(format!(
                "\"{bucket}\" is not a bucket name: 3 to 63 of a-z, 0-9, dots and hyphens, a letter or digit at both ends"
            ));
        }
        Ok(MountPath { bucket: bucket.into(), prefix })
    }
}

impl OptionValue for OriginUrl {
    fn from_text(text: &str) -> Result<OriginUrl, String> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err(format!(
                "\"{text}\" is not an origin; write \"s3://bucket\" or \"s3://bucket/prefix\""
            ));
        };
        let (bucket, prefix) = split_place(rest);
        if !is_bucket_name(bucket) {
            return Err(format!("\"{bucket}\" is not the name of an S3 bucket"));
        }
        Ok(OriginUrl { bucket: bucket.into(), prefix })
    }
}

impl OptionValue for Endpoint {
    fn from_text(text: &str) -> Result<Endpoint, String> {
        let wrong = || {
            format!(
                "\"{text}\" is not an endpoint; write \"https://host\" or \"http://host:port\", without a path"
            )
        };
        let url = text.strip_suffix('/').unwrap_or(text);
        let uri: http::Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let plain = matches!(uri.scheme_str(), Some("http" | "https"))
            && !authority.host().is_empty()
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none();
        if authority.as_str().contains('@') {
            return Err("an endpoint holds no credentials; use access_key_id and secret_access_key".into());
        }
        if plain { Ok(Endpoint(url.into())) } else { Err(wrong()) }
    }
}

/// Reads all `[[mount]]` tables and judges them against each other.
pub(super) fn read_mounts(root: &mut Section<'_>, problems: &Problems) -> Vec<MountConfig> {
    let mut mounts: Vec<MountConfig> = Vec::new();
    for (place, section) in root.sections("mount") {
        let Some(mount) = read_mount(place, section, problems) else { continue };
        for other in &mounts {
            if let Some(conflict) = conflict(&mount, other) {
                problems.add(place, conflict);
            }
        }
        mounts.push(mount);
    }
    mounts
}

fn read_mount(place: Place, mut section: Section<'_>, problems: &Problems) -> Option<MountConfig> {
    let given_path = section.get::<MountPath>("path");
    let mode = section.get::<MountMode>("mode").unwrap_or(MountMode::WriteBack);
    let url = section.placed::<OriginUrl>("origin");
    let endpoint = section.get::<Endpoint>("endpoint");
    let region = section.get::<String>("region").unwrap_or_else(|| "us-east-1".into());
    let id = section.secret("access_key_id", "access_key_id_file");
    let secret = section.secret("secret_access_key", "secret_access_key_file");
    let min_interval = section.get("min_interval").unwrap_or(Duration::from_secs(1));
    let order = section.get("order").unwrap_or(FlushOrder::Newest);
    let flushall = section.get("flushall").unwrap_or(false);
    section.end();

    let Some(path) = given_path else {
        problems.add(place, "a mount needs a path, as in path = \"/photos\"");
        return None;
    };
    let mount = |origin| MountConfig { path: path.clone(), mode, origin, min_interval, order, flushall };
    match (mode, url) {
        (MountMode::Local, None) => Some(mount(None)),
        (MountMode::Local, Some((place, _))) => {
            problems.add(place, format!("mount {path} is local, so it has no origin; remove one of the two"));
            None
        }
        (MountMode::WriteBack, None) => {
            problems.add(
                place,
                format!(
                    "mount {path} needs an origin, as in origin = \"s3://bucket/prefix\", or mode = \"local\""
                ),
            );
            None
        }
        (MountMode::WriteBack, Some((place, url))) => {
            let (Some((id_place, id)), Some((secret_place, secret))) = (id, secret) else {
                problems.add(
                    place,
                    format!("mount {path} needs access_key_id and secret_access_key (or their _file forms)"),
                );
                return None;
            };
            let access_key_id = problems.keep(id_place, id.read())?;
            let secret_access_key = problems.keep(secret_place, secret.read())?;
            Some(mount(Some(OriginConfig { url, endpoint, region, access_key_id, secret_access_key })))
        }
    }
}

/// Why two mounts cannot be together.
fn conflict(mount: &MountConfig, other: &MountConfig) -> Option<String> {
    if mount.path == other.path {
        return Some(format!("{} is mounted twice; keep one", mount.path));
    }
    let (ours, theirs) = (mount.origin.as_ref()?, other.origin.as_ref()?);
    let same_bucket = ours.endpoint == theirs.endpoint && ours.url.bucket == theirs.url.bucket;
    let (a, b) = (&ours.url.prefix, &theirs.url.prefix);
    (same_bucket && (a.starts_with(b) || b.starts_with(a))).then(|| {
        format!(
            "mounts {} and {} write into the same place of the origin ({} and {}); give each its own prefix",
            mount.path, other.path, ours.url, theirs.url
        )
    })
}

/// Splits `bucket/prefix`; a prefix that is not empty ends in a slash, whether it was written or not.
fn split_place(text: &str) -> (&str, String) {
    match text.split_once('/') {
        None | Some((_, "")) => (text.trim_end_matches('/'), String::new()),
        Some((bucket, prefix)) if prefix.ends_with('/') => (bucket, prefix.into()),
        Some((bucket, prefix)) => (bucket, format!("{prefix}/")),
    }
}

fn is_bucket_name(name: &str) -> bool {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| edge(byte) || matches!(byte, b'-' | b'.'))
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && !name.contains("..")
}
