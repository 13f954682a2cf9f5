//! Mounts: which bucket or prefix is written back to which place in the cloud.
//!
//! Owns the forms `/bucket/prefix`, `s3://bucket/prefix` and `file:///path`, and the rules between mounts: no two may
//! share a path, and no two may stand for the same place of an origin. A mount below another one wins for
//! its keys.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Component, PathBuf};
use std::time::Duration;

use super::secret::Secret;
use super::section::{Place, Problems, Section};
use super::units::parse_duration;
use super::value::OptionValue;

/// Shorter would ask the origin at nearly every read.
const REVALIDATE_MIN: Duration = Duration::from_millis(100);
/// Shorter would slow down writes at every hiccup of the origin.
const MAX_LAG_MIN: Duration = Duration::from_secs(1);
/// Waits of writes for the origin: shorter answers an error to most of them, longer than any client waits.
const WRITE_THROUGH_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3_600);

/// One `[[mount]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountConfig {
    /// Bucket, or bucket and key prefix, that is mounted.
    pub(crate) path: MountPath,
    /// `write-back` (default): acknowledged here, uploaded later. `write-through`: acknowledged once the origin has
    /// it, a round trip and an upload later. `read-only`: nothing is ever written there, and writes are refused.
    /// `local`: no origin; the bytes count against `capacity` and are never evicted.
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
    /// `checksums`: `auto` (default) sends a checksum with each body where the origin was seen to check it.
    /// `required` takes no origin that does not. `none` sends Content-MD5 instead: for origins that refuse
    /// what they do not know.
    pub(crate) checksums: ChecksumMode,
    /// `revalidate`: `never` (default) trusts what the origin said of a key once. A duration: a read whose answer is
    /// older asks the origin again, so that what others change there is seen; shorter costs more requests.
    pub(crate) revalidate: Revalidate,
    /// `write_through_timeout`: how long a write waits for the origin before it is answered with an error, while it
    /// stays queued. 30 s by default; of no meaning but for `write-through`.
    pub(crate) write_through_timeout: Duration,
    /// `max_lag`: `off` (default), or a duration: how old the oldest change that waits for the origin may become. From
    /// half of it on, writes to the mount's bucket that grow it are slowed down; at it they are refused by name, while
    /// reads and deletes go on. Shorter: less is lost with this node, and an outage of the origin reaches writers
    /// earlier; off: an outage is absorbed up to `dirty_limit`.
    pub(crate) max_lag: MaxLag,
}

/// How far the origin of a mount may be behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MaxLag {
    /// As far as `dirty_limit` allows.
    Off,
    /// Its oldest change may wait so long.
    Within(Duration),
}

/// The far side of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OriginConfig {
    /// A bucket of S3, or of what speaks it.
    S3(BucketConfig),
    /// A directory of this machine.
    Directory(PathBuf),
}

impl fmt::Display for OriginConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OriginConfig::S3(bucket) => bucket.url.fmt(f),
            OriginConfig::Directory(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// A bucket in the cloud, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketConfig {
    /// Bucket and prefix there.
    pub(crate) url: BucketUrl,
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
    /// Acknowledge once the origin has it.
    WriteThrough,
    /// Write nothing there.
    ReadOnly,
    /// No origin.
    Local,
}

impl MountMode {
    /// As the config and the admin API name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            MountMode::WriteBack => "write-back",
            MountMode::WriteThrough => "write-through",
            MountMode::ReadOnly => "read-only",
            MountMode::Local => "local",
        }
    }
}

/// Whether what the origin said of a key is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revalidate {
    /// No: nobody else writes there.
    Never,
    /// At the first read after so long.
    After(Duration),
}

/// Whether bodies travel with a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChecksumMode {
    /// Where the origin checks it.
    Auto,
    /// Always.
    Required,
    /// Never, but for Content-MD5.
    None,
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

/// `s3://bucket/prefix` or `file:///path`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum OriginUrl {
    S3(BucketUrl),
    Directory(PathBuf),
}

/// `s3://bucket` or `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketUrl {
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

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        let prefix = self.prefix.trim_end_matches('/');
        if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
    }
}

impl OptionValue for MountMode {
    fn from_text(text: &str) -> Result<MountMode, String> {
        const MODES: [MountMode; 4] =
            [MountMode::WriteBack, MountMode::WriteThrough, MountMode::ReadOnly, MountMode::Local];
        MODES.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| {
            format!(
                "\"{text}\" is not a mode; write \"write-back\", \"write-through\", \"read-only\" or \"local\""
            )
        })
    }
}

impl OptionValue for Revalidate {
    const EXPECTED: &'static str = "\"never\", or a duration such as \"5m\"";

    fn from_text(text: &str) -> Result<Revalidate, String> {
        if text == "never" {
            return Ok(Revalidate::Never);
        }
        match parse_duration(text) {
            Ok(after) if after >= REVALIDATE_MIN => Ok(Revalidate::After(after)),
            Ok(_) => Err(format!("\"{text}\" is too short; write \"never\", or 100ms at least")),
            Err(_) => Err(format!("\"{text}\" is neither \"never\" nor a duration such as \"5m\"")),
        }
    }
}

impl OptionValue for MaxLag {
    const EXPECTED: &'static str = "\"off\", or a duration such as \"1h\"";

    fn from_text(text: &str) -> Result<MaxLag, String> {
        if text == "off" {
            return Ok(MaxLag::Off);
        }
        match parse_duration(text) {
            Ok(limit) if limit >= MAX_LAG_MIN => Ok(MaxLag::Within(limit)),
            Ok(_) => Err(format!("\"{text}\" is too short; write \"off\", or 1s at least")),
            Err(_) => Err(format!("\"{text}\" is neither \"off\" nor a duration such as \"1h\"")),
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

impl OptionValue for ChecksumMode {
    fn from_text(text: &str) -> Result<ChecksumMode, String> {
        match text {
            "auto" => Ok(ChecksumMode::Auto),
            "required" => Ok(ChecksumMode::Required),
            "none" => Ok(ChecksumMode::None),
            _ => Err(format!("\"{text}\" is no such mode; write \"auto\", \"required\" or \"none\"")),
        }
    }
}

/// Splits what a mount's path looks like on the command line into bucket and prefix.
pub(crate) fn parse_mount_path(text: &str) -> Result<(String, String), String> {
    MountPath::from_text(text).map(|path| (path.bucket, path.prefix))
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
        if let Some(path) = text.strip_prefix("file://") {
            let path = PathBuf::from(path);
            let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
            if !path.is_absolute() || path.parent().is_none() || !path.components().all(plain) {
                return Err(format!(
                    "\"{text}\" is not a directory; write \"file:///path\", absolute and without .."
                ));
            }
            return Ok(OriginUrl::Directory(path.components().collect()));
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err(format!(
                "\"{text}\" is not an origin; write \"s3://bucket\", \"s3://bucket/prefix\" or \"file:///path\""
            ));
        };
        let (bucket, prefix) = split_place(rest);
        if !is_bucket_name(bucket) {
            return Err(format!("\"{bucket}\" is not the name of an S3 bucket"));
        }
        Ok(OriginUrl::S3(BucketUrl { bucket: bucket.into(), prefix }))
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
    let checksums = section.get("checksums").unwrap_or(ChecksumMode::Auto);
    let revalidate = section.placed("revalidate");
    let write_through_timeout = section.placed("write_through_timeout");
    let max_lag = section.placed::<MaxLag>("max_lag");
    section.end();

    let Some(path) = given_path else {
        problems.add(place, "a mount needs a path, as in path = \"/photos\"");
        return None;
    };
    if let (MountMode::Local | MountMode::ReadOnly, Some((place, MaxLag::Within(_)))) = (mode, max_lag) {
        let mode = mode.as_str();
        problems
            .add(place, format!("mount {path} is {mode}, so nothing waits for its origin; remove max_lag"));
    }
    mode_rules(&path, mode, flushall, revalidate, write_through_timeout, place, problems);
    let mount = |origin| MountConfig {
        path: path.clone(),
        mode,
        origin,
        min_interval,
        order,
        flushall,
        checksums,
        revalidate: revalidate.map_or(Revalidate::Never, |(_, revalidate)| revalidate),
        write_through_timeout: write_through_timeout.map_or(Duration::from_secs(30), |(_, timeout)| timeout),
        max_lag: max_lag.map_or(MaxLag::Off, |(_, max_lag)| max_lag),
    };
    match (mode, url) {
        (MountMode::Local, None) => Some(mount(None)),
        (MountMode::Local, Some((place, _))) => {
            problems.add(place, format!("mount {path} is local, so it has no origin; remove one of the two"));
            None
        }
        (_, None) => {
            problems.add(
                place,
                format!(
                    "mount {path} needs an origin, as in origin = \"s3://bucket/prefix\", or mode = \"local\""
                ),
            );
            None
        }
        (_, Some((place, OriginUrl::Directory(directory)))) => {
            if endpoint.is_some() || id.is_some() || secret.is_some() {
                problems.add(
                    place,
                    format!("mount {path} goes to a directory, which has neither endpoint nor access keys"),
                );
            }
            Some(mount(Some(OriginConfig::Directory(directory))))
        }
        (_, Some((place, OriginUrl::S3(url)))) => {
            let (Some((id_place, id)), Some((secret_place, secret))) = (id, secret) else {
                problems.add(
                    place,
                    format!("mount {path} needs access_key_id and secret_access_key (or their _file forms)"),
                );
                return None;
            };
            let access_key_id = problems.keep(id_place, id.read())?;
            let secret_access_key = problems.keep(secret_place, secret.read())?;
            let bucket = BucketConfig { url, endpoint, region, access_key_id, secret_access_key };
            Some(mount(Some(OriginConfig::S3(bucket))))
        }
    }
}

/// Notes options that a mount of this mode has no use for: whoever gave them expects what will not happen.
fn mode_rules(
    path: &MountPath,
    mode: MountMode,
    flushall: bool,
    revalidate: Option<(Place, Revalidate)>,
    write_through_timeout: Option<(Place, Duration)>,
    place: Place,
    problems: &Problems,
) {
    if let (MountMode::Local, Some((place, _))) = (mode, revalidate) {
        problems.add(place, format!("mount {path} is local, so there is nothing to revalidate; remove it"));
    }
    if let (MountMode::ReadOnly, true) = (mode, flushall) {
        problems
            .add(place, format!("mount {path} is read-only, so flushall = true can do nothing; remove it"));
    }
    let Some((place, timeout)) = write_through_timeout else { return };
    if mode != MountMode::WriteThrough {
        let mode = mode.as_str();
        problems.add(place, format!("mount {path} is {mode}; write_through_timeout is for write-through"));
    } else if !WRITE_THROUGH_TIMEOUTS.contains(&timeout) {
        problems.add(place, "write_through_timeout must be from 100ms to 1h");
    }
}

/// Why two mounts cannot be together.
fn conflict(mount: &MountConfig, other: &MountConfig) -> Option<String> {
    if mount.path == other.path {
        return Some(format!("{} is mounted twice; keep one", mount.path));
    }
    let (ours, theirs) = (mount.origin.as_ref()?, other.origin.as_ref()?);
    let same_place = match (ours, theirs) {
        (OriginConfig::S3(ours), OriginConfig::S3(theirs)) => {
            let (a, b) = (&ours.url.prefix, &theirs.url.prefix);
            let same_bucket = ours.endpoint == theirs.endpoint && ours.url.bucket == theirs.url.bucket;
            same_bucket && (a.starts_with(b) || b.starts_with(a))
        }
        (OriginConfig::Directory(ours), OriginConfig::Directory(theirs)) => {
            ours.starts_with(theirs) || theirs.starts_with(ours)
        }
        _ => false,
    };
    same_place.then(|| {
        format!(
            "mounts {} and {} stand for the same place of the origin ({ours} and {theirs}); give each its own prefix",
            mount.path, other.path
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
