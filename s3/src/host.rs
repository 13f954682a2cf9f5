//! Virtual-host style: the bucket named by the `Host` header, under one of the configured domains.
//!
//! The front layer and s3s ask the same function, so that what is judged, what is signed and what is
//! answered are one bucket.

use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};

/// The bucket in `host` (as sent, with or without a port), if it lies under one of `domains`; the longest
/// domain that fits counts. A host that is a domain itself, or none of ours, is path style.
pub(crate) fn bucket_of_host<'a>(domains: &[String], host: &'a str) -> Option<&'a str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let labels_before = |domain: &String| {
        let at = name.len().checked_sub(domain.len())?;
        let (bucket, tail) = (name.get(..at)?, name.get(at..)?);
        tail.eq_ignore_ascii_case(domain).then_some(bucket)
    };
    let bucket = domains.iter().filter_map(labels_before).min_by_key(|bucket| bucket.len())?;
    bucket.strip_suffix('.').filter(|bucket| !bucket.is_empty())
}

/// The domains as s3s asks for them.
pub(crate) struct Domains(pub(crate) Vec<String>);

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let virtual_host = VirtualHost::new(host);
        Ok(match bucket_of_host(&self.0, host) {
            Some(bucket) => virtual_host.with_bucket(bucket),
            None => virtual_host,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_under_the_domains() {
        let domains = ["s3.localhost".to_owned(), "eu.s3.localhost".to_owned()];
        for (host, bucket) in [
            ("photos.s3.localhost", Some("photos")),
            ("photos.s3.localhost:9000", Some("photos")),
            ("photos.S3.LocalHost:9000", Some("photos")),
            ("a.b.s3.localhost", Some("a.b")),
            ("photos.eu.s3.localhost", Some("photos")),
            ("s3.localhost:9000", None),
            ("eu.s3.localhost", None),
            (".s3.localhost", None),
            ("photoss3.localhost", None),
            ("photos.localhost", None),
            ("127.0.0.1:9000", None),
            ("[::1]:9000", None),
            ("", None),
            ("\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}", None),
        ] {
            assert_eq!(bucket_of_host(&domains, host), bucket, "{host}");
        }
        assert_eq!(bucket_of_host(&[], "photos.s3.localhost"), None);
    }
}
