//! `[[bucket]]`: settings of one bucket. They concern what this node does from now on; objects that are there
//! stay as they are.

use forebay_storage::store::is_bucket_name;

use super::section::{Place, Problems, Section};
use super::value::OptionValue;

/// One `[[bucket]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketConfig {
    /// `name`: the bucket. It need not exist yet.
    pub(crate) name: String,
    /// `etag`: `md5` (default) or `fast`. The ETag of an S3 PUT is the MD5 of its body, which some clients
    /// compare; it costs a core a second for each 0.7 GB. `fast` derives it from the version instead, in a
    /// form that clients do not compare with a body (`<32 hex digits>-1`).
    pub(crate) etag: EtagMode,
    /// `class`: `cache` (default) or `keep`. Objects of a bucket that is kept are never given up for room once they are
    /// here: they can be read whatever becomes of their origin, and count against `capacity` like what waits for its
    /// upload. Takes effect at a start, for what is there too.
    pub(crate) class: BucketClass,
}

/// Whether a bucket's objects may be given up here once their origin holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BucketClass {
    /// They may.
    Cache,
    /// They may not.
    Keep,
}

impl OptionValue for BucketClass {
    fn from_text(text: &str) -> Result<BucketClass, String> {
        match text {
            "cache" => Ok(BucketClass::Cache),
            "keep" => Ok(BucketClass::Keep),
            _ => Err(format!("\"{text}\" is no class; write \"cache\" or \"keep\"")),
        }
    }
}

/// How ETags come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EtagMode {
    /// MD5 of the body.
    Md5,
    /// Derived from the version.
    Fast,
}

impl OptionValue for EtagMode {
    fn from_text(text: &str) -> Result<EtagMode, String> {
        match text {
            "md5" => Ok(EtagMode::Md5),
            "fast" => Ok(EtagMode::Fast),
            _ => Err(format!("\"{text}\" is no way to make ETags; write \"md5\" or \"fast\"")),
        }
    }
}

/// Reads all of them; one bucket has one.
pub(super) fn read_buckets(root: &mut Section<'_>, problems: &Problems) -> Vec<BucketConfig> {
    let mut buckets: Vec<BucketConfig> = Vec::new();
    for (place, section) in root.sections("bucket") {
        let Some(bucket) = read_bucket(place, section, problems) else { continue };
        if buckets.iter().any(|other| other.name == bucket.name) {
            problems.add(place, format!("bucket {} is configured twice; keep one", bucket.name));
        }
        buckets.push(bucket);
    }
    buckets
}

fn read_bucket(place: Place, mut section: Section<'_>, problems: &Problems) -> Option<BucketConfig> {
    let name = section.placed::<String>("name");
    let etag = section.get("etag").unwrap_or(EtagMode::Md5);
    let class = section.get("class").unwrap_or(BucketClass::Cache);
    section.end();
    let Some((name_place, name)) = name else {
        problems.add(place, "a bucket needs a name, as in name = \"photos\"");
        return None;
    };
    if !is_bucket_name(name.as_bytes()) {
        let rule = "3 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit";
        problems.add(name_place, format!("name: \"{name}\" is no bucket name: {rule}"));
        return None;
    }
    Some(BucketConfig { name, etag, class })
}
