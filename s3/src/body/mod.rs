//! Request bodies: read within bounds, decoded, and verified whole before anyone sees a byte.
//!
//! Owns: what the headers announce about a body ([`Announced`]), taking it off the socket ([`RequestBody`]),
//! and every comparison (length, SHA-256, Content-MD5, checksums in headers and trailers). Does not own the
//! request's signature (s3s, before this) nor what becomes of the body.
//!
//! Invariants: a [`VerifiedBody`] has passed every check that its headers asked for; nothing larger than
//! the limit is ever held; a body is not touched before its request is authentic, so that a client that
//! waits for `100 Continue` hears a refusal first.

pub(crate) mod checksum;
pub(crate) mod chunked;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use crate::auth::{ClaimedSignature, SigningKeys, sha256_hex};
use crate::error::{Refused, entity_too_large};
use checksum::{Checksum, ChecksumAlgorithm};
use chunked::{ChunkDecoder, ChunkSigner};

/// A body slower than this is a slow sender's, once the stall time-out is over as well.
const BYTES_PER_SECOND_MIN: u64 = 1024;
/// The same, for what is dropped: nobody waits long for bytes that nobody wants.
const DRAIN_SECONDS_MAX: u64 = 2;

/// Headers that begin like a checksum's and are none.
const CHECKSUM_OPTIONS: [&str; 3] =
    ["x-amz-checksum-mode", "x-amz-checksum-type", "x-amz-checksum-algorithm"];

/// What a request's headers say about its body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    framing: Framing,
    content_md5: Option<Vec<u8>>,
    checksum: Option<Checksum>,
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Plain {
        length: u64,
        /// Lower-case hex.
        sha256: Option<String>,
    },
    Chunked {
        /// Decoded.
        length: u64,
        signed: bool,
        trailer: Option<ChecksumAlgorithm>,
    },
}

/// A body with its digests, every announced check passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerifiedBody {
    pub(crate) bytes: Bytes,
    pub(crate) md5: [u8; 16],
    /// The checksum that the client sent and that was compared.
    pub(crate) checksum: Option<Checksum>,
}

impl Announced {
    /// Reads the headers; refuses what cannot be verified, and what is over `limit` bytes.
    pub(crate) fn read(headers: &HeaderMap, limit: u64) -> Result<Announced, Refused> {
        let trailer = announced_trailer(headers)?;
        let kind = text(headers, "x-amz-content-sha256")?;
        let framing = match kind {
            Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD" | "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER") => {
                chunked(headers, true, trailer)?
            }
            Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER") => chunked(headers, false, trailer)?,
            Some(other) if other.starts_with("STREAMING-") => return Err(Refused::not_implemented(other)),
            Some("UNSIGNED-PAYLOAD") | None => plain(headers, None)?,
            Some(sha256) => plain(headers, Some(sha256.to_ascii_lowercase()))?,
        };
        if trailer.is_some() != kind.is_some_and(|kind| kind.ends_with("-TRAILER")) {
            return Err(Refused::new(
                "InvalidRequest",
                400,
                "x-amz-trailer needs an x-amz-content-sha256 of STREAMING-UNSIGNED-PAYLOAD-TRAILER or \
                 STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, and the reverse",
            ));
        }
        let length = framing.length();
        if length > limit {
            return Err(entity_too_large(Some(length), limit));
        }
        let content_md5 = headers.get("content-md5").map(|value| value.as_bytes().to_vec());
        let checksum = announced_checksum(headers, trailer)?;
        Ok(Announced { framing, content_md5, checksum })
    }

    /// Takes the body off the socket and verifies it. A dropped future leaves the body half read: the
    /// connection is of no further use.
    pub(crate) async fn receive(
        &self,
        body: &RequestBody,
        claim: &ClaimedSignature,
        keys: &SigningKeys,
        stall_timeout: Duration,
    ) -> Result<VerifiedBody, Refused> {
        let time = stall_timeout + Duration::from_secs(self.framing.length() / BYTES_PER_SECOND_MIN);
        match &self.framing {
            Framing::Plain { length, .. } => {
                let bytes = body.within(time, async |body| read_plain(body, *length).await).await?;
                self.verify(bytes, &[])
            }
            Framing::Chunked { length, signed, .. } => {
                let signer = signed.then(|| ChunkSigner::new(keys.key(claim), claim));
                let mut decoder = ChunkDecoder::new(signer, *length);
                body.within(time, async |body| {
                    while let Some(data) = next_data(body).await? {
                        decoder.push(&data)?;
                    }
                    Ok(())
                })
                .await?;
                let decoded = decoder.finish()?;
                self.verify(decoded.body.into(), &decoded.trailers)
            }
        }
    }

    /// Compares a whole body with everything that was announced.
    fn verify(&self, bytes: Bytes, trailers: &[(String, String)]) -> Result<VerifiedBody, Refused> {
        if bytes.len() as u64 != self.framing.length() {
            return Err(Refused::new("IncompleteBody", 400, "The request body terminated unexpectedly"));
        }
        if let Framing::Plain { sha256: Some(sent), .. } = &self.framing {
            let computed = sha256_hex(&bytes);
            if computed != *sent {
                return Err(Refused::new(
                    "XAmzContentSHA256Mismatch",
                    400,
                    "The provided 'x-amz-content-sha256' header does not match what was computed.",
                )
                .with("ClientComputedContentSHA256", sent.clone())
                .with("S3ComputedContentSHA256", computed));
            }
        }
        let md5 = checksum::md5(&bytes);
        if let Some(sent) = &self.content_md5 {
            checksum::verify_content_md5(sent, &md5)?;
        }
        let trailing = self.trailing_checksum(trailers)?;
        let checksum = self.checksum.clone().or(trailing);
        if let Some(checksum) = &checksum {
            checksum.verify(&bytes)?;
        }
        Ok(VerifiedBody { bytes, md5, checksum })
    }

    /// The announced trailer, which must have come, and come alone.
    fn trailing_checksum(&self, trailers: &[(String, String)]) -> Result<Option<Checksum>, Refused> {
        let announced = match &self.framing {
            Framing::Plain { .. } => None,
            Framing::Chunked { trailer, .. } => *trailer,
        };
        match (announced, trailers) {
            (None, []) => Ok(None),
            (Some(algorithm), [(name, value)]) if name == algorithm.header() => {
                Checksum::parse(algorithm, value).map(Some)
            }
            (Some(algorithm), _) => Err(Refused::new(
                "MalformedTrailerError",
                400,
                format!("The body must end with exactly the announced trailer {}", algorithm.header()),
            )),
            (None, _) => Err(Refused::new(
                "MalformedTrailerError",
                400,
                "The body ends with a trailer that x-amz-trailer does not announce",
            )),
        }
    }
}

impl Framing {
    /// Of the decoded body.
    fn length(&self) -> u64 {
        match self {
            Framing::Plain { length, .. } | Framing::Chunked { length, .. } => *length,
        }
    }
}

fn plain(headers: &HeaderMap, sha256: Option<String>) -> Result<Framing, Refused> {
    // Stored as it is, a chunked body's framing would become part of the object.
    if content_codings(headers).any(|coding| coding.eq_ignore_ascii_case("aws-chunked")) {
        return Err(Refused::new(
            "InvalidRequest",
            400,
            "Content-Encoding aws-chunked needs an x-amz-content-sha256 that begins with STREAMING-",
        ));
    }
    let length = number(headers, "content-length")?.ok_or_else(|| missing_length("Content-Length"))?;
    Ok(Framing::Plain { length, sha256 })
}

fn chunked(
    headers: &HeaderMap,
    signed: bool,
    trailer: Option<ChecksumAlgorithm>,
) -> Result<Framing, Refused> {
    let name = "x-amz-decoded-content-length";
    let length = number(headers, name)?.ok_or_else(|| missing_length(name))?;
    Ok(Framing::Chunked { length, signed, trailer })
}

fn missing_length(name: &str) -> Refused {
    Refused::new("MissingContentLength", 411, format!("You must provide the {name} HTTP header."))
}

fn announced_trailer(headers: &HeaderMap) -> Result<Option<ChecksumAlgorithm>, Refused> {
    let mut found = None;
    for value in headers.get_all("x-amz-trailer") {
        for name in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            let algorithm = ChecksumAlgorithm::from_header(&name.to_ascii_lowercase()).ok_or_else(|| {
                Refused::new(
                    "InvalidRequest",
                    400,
                    "The value specified in the x-amz-trailer header is not supported",
                )
            })?;
            if found.replace(algorithm).is_some() {
                return Err(several_checksums());
            }
        }
    }
    Ok(found)
}

fn announced_checksum(
    headers: &HeaderMap,
    trailer: Option<ChecksumAlgorithm>,
) -> Result<Option<Checksum>, Refused> {
    for name in headers.keys().map(HeaderName::as_str) {
        let known = |name| ChecksumAlgorithm::from_header(name).is_some() || CHECKSUM_OPTIONS.contains(&name);
        if name.starts_with("x-amz-checksum-") && !known(name) {
            // Newer algorithms: passing one over would be to say that it was verified.
            return Err(Refused::not_implemented(name));
        }
    }
    let mut found: Option<Checksum> = None;
    for algorithm in ChecksumAlgorithm::ALL {
        for value in headers.get_all(algorithm.header()) {
            let checksum = Checksum::parse(algorithm, value.to_str().unwrap_or(""))?;
            if trailer.is_some() || found.replace(checksum).is_some() {
                return Err(several_checksums());
            }
        }
    }
    if let Some(name) = text(headers, "x-amz-sdk-checksum-algorithm")? {
        let named = ChecksumAlgorithm::from_name(name);
        let sent = trailer.or(found.as_ref().map(|checksum| checksum.algorithm));
        if named.is_none() || named != sent {
            return Err(Refused::new(
                "InvalidRequest",
                400,
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer \
                 headers were found.",
            ));
        }
    }
    Ok(found)
}

fn several_checksums() -> Refused {
    Refused::new(
        "InvalidRequest",
        400,
        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
    )
}

/// The content codings of a request, in order.
pub(crate) fn content_codings(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all("content-encoding")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|coding| !coding.is_empty())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refused> {
    match headers.get(name).map(|value| value.to_str()) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value.trim())),
        Some(Err(_)) => Err(Refused::new("InvalidArgument", 400, format!("the header {name} is not ASCII"))),
    }
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Refused> {
    let Some(value) = text(headers, name)? else { return Ok(None) };
    // u64's own parser would take a plus sign.
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refused::new("InvalidArgument", 400, format!("the header {name} is not a number")));
    }
    value
        .parse()
        .map(Some)
        .map_err(|_| Refused::new("InvalidArgument", 400, format!("the header {name} is too large")))
}

/// A request's body, on the socket until somebody wants it.
///
/// Shared between the operation, which may read it, and the front layer, which afterwards decides about
/// what was left.
pub(crate) struct RequestBody {
    /// Taken out while it is read; locked for the moment of taking and putting back.
    incoming: Mutex<Option<Incoming>>,
    /// Whether reading has begun: hyper has then answered `100 Continue` if that was asked for.
    begun: AtomicBool,
}

/// What is to become of the connection after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterBody {
    /// The body is gone: the next request may follow.
    KeepAlive,
    /// There may be more of it: close.
    Close,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming) -> RequestBody {
        RequestBody { incoming: Mutex::new(Some(incoming)), begun: AtomicBool::new(false) }
    }

    /// Reads a whole small body, for operations that take XML.
    pub(crate) async fn read_small(&self, limit: u64, stall_timeout: Duration) -> Result<Bytes, Refused> {
        self.within(stall_timeout, async |body| {
            let mut bytes = BytesMut::new();
            while let Some(data) = next_data(body).await? {
                if bytes.len() as u64 + data.len() as u64 > limit {
                    return Err(Refused::new(
                        "MaxMessageLengthExceeded",
                        400,
                        format!("Your request was too big: at most {limit} bytes"),
                    ));
                }
                bytes.extend_from_slice(&data);
            }
            Ok(bytes.freeze())
        })
        .await
    }

    /// Drops what is left of the body, within bounds, so that the client gets to see the answer.
    pub(crate) async fn drain(&self, bytes_max: u64, expects_continue: bool) -> AfterBody {
        let Some(mut incoming) = self.take() else { return AfterBody::Close };
        if incoming.is_end_stream() {
            return AfterBody::KeepAlive;
        }
        // The client holds the body back until it hears `100 Continue`, and will not hear it.
        let held_back = expects_continue && !self.begun.load(Ordering::Relaxed);
        if held_back || incoming.size_hint().lower() > bytes_max {
            return AfterBody::Close;
        }
        let drained = async {
            let mut dropped = 0u64;
            while let Some(frame) = incoming.frame().await {
                dropped += frame.ok()?.data_ref().map_or(0, |data| data.len() as u64);
                if dropped > bytes_max {
                    return None;
                }
            }
            Some(())
        };
        match tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS_MAX), drained).await {
            Ok(Some(())) => AfterBody::KeepAlive,
            _ => AfterBody::Close,
        }
    }

    /// Runs a reader on the body, for at most `time`.
    async fn within<T>(
        &self,
        time: Duration,
        read: impl AsyncFnOnce(&mut Incoming) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let Some(mut incoming) = self.take() else {
            return Err(Refused::new("InternalError", 500, "the body was already read"));
        };
        self.begun.store(true, Ordering::Relaxed);
        let result = tokio::time::timeout(time, read(&mut incoming)).await;
        // Only when no time-out has passed is the rest worth waiting for.
        if result.is_ok() {
            *self.incoming.lock().unwrap_or_else(PoisonError::into_inner) = Some(incoming);
        }
        result.unwrap_or_else(|_| {
            Err(Refused::new(
                "RequestTimeout",
                400,
                "Your socket connection to the server was not read from or written to within the timeout \
                 period.",
            ))
        })
    }

    fn take(&self) -> Option<Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The next data of a body, `None` at its end.
async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, Refused> {
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Refused::new("IncompleteBody", 400, "The request body terminated unexpectedly"))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Reads a body of known length; hyper holds the sender to its Content-Length.
async fn read_plain(body: &mut Incoming, length: u64) -> Result<Bytes, Refused> {
    let Some(first) = next_data(body).await? else { return Ok(Bytes::new()) };
    // The usual small body comes in one piece and is taken without a copy.
    if first.len() as u64 >= length {
        return Ok(first);
    }
    let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
    bytes.extend_from_slice(&first);
    while let Some(data) = next_data(body).await? {
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const LIMIT: u64 = 65_536;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        map
    }

    fn announced(pairs: &[(&str, &str)]) -> Result<Announced, Refused> {
        Announced::read(&headers(pairs), LIMIT)
    }

    fn code(result: Result<impl std::fmt::Debug, Refused>) -> String {
        result.expect_err("must be refused").code().to_owned()
    }

    const UNSIGNED_TRAILER: [(&str, &str); 3] = [
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", "5"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
    ];

    fn trailer(name: &str, value: &str) -> [(String, String); 1] {
        [(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn over_the_limit_is_refused_from_the_headers() {
        let plain = announced(&[("content-length", "65537")]);
        assert_eq!(code(plain), "EntityTooLarge");
        let chunked = announced(&[
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            ("x-amz-decoded-content-length", "65537"),
            ("content-length", "10"),
        ]);
        assert_eq!(code(chunked), "EntityTooLarge");
        assert!(announced(&[("content-length", "65536")]).is_ok());
    }

    #[test]
    fn lengths_must_be_there_and_be_numbers() {
        assert_eq!(code(announced(&[])), "MissingContentLength");
        assert_eq!(
            code(announced(&[
                ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
                ("content-length", "9")
            ])),
            "MissingContentLength"
        );
        for bad in ["+5", "-1", "five", "99999999999999999999"] {
            let result = announced(&[
                ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
                ("x-amz-decoded-content-length", bad),
            ]);
            assert_eq!(code(result), "InvalidArgument", "{bad}");
        }
    }

    #[test]
    fn trailer_and_framing_must_agree() {
        assert_eq!(code(announced(&UNSIGNED_TRAILER[..2])), "InvalidRequest");
        assert_eq!(
            code(announced(&[("content-length", "5"), ("x-amz-trailer", "x-amz-checksum-crc32")])),
            "InvalidRequest"
        );
        let mut other = UNSIGNED_TRAILER;
        other[2].1 = "x-amz-meta-late";
        assert_eq!(code(announced(&other)), "InvalidRequest");
        assert_eq!(
            code(announced(&[("content-length", "5"), ("content-encoding", "gzip, aws-chunked")])),
            "InvalidRequest"
        );
        assert_eq!(
            code(announced(&[("x-amz-content-sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD")])),
            "NotImplemented"
        );
    }

    #[test]
    fn one_checksum_only_and_it_must_be_the_one_named() {
        let crc = ("x-amz-checksum-crc32", "NhCmhg==");
        let length = ("content-length", "5");
        assert!(announced(&[length, crc]).is_ok());
        assert!(announced(&[length, crc, ("x-amz-sdk-checksum-algorithm", "CRC32")]).is_ok());
        for more in [
            ("x-amz-checksum-crc32c", "mnG7TA=="),
            ("x-amz-checksum-crc32", "NhCmhg=="),
            ("x-amz-sdk-checksum-algorithm", "SHA256"),
            ("x-amz-sdk-checksum-algorithm", "MD4"),
        ] {
            assert_eq!(code(announced(&[length, crc, more])), "InvalidRequest", "{more:?}");
        }
        assert_eq!(code(announced(&[length, ("x-amz-sdk-checksum-algorithm", "CRC32")])), "InvalidRequest");
        assert_eq!(code(announced(&[length, ("x-amz-checksum-sha512", "AAAA")])), "NotImplemented");
        assert!(announced(&[length, crc, ("x-amz-checksum-type", "FULL_OBJECT")]).is_ok());
        let both = [&UNSIGNED_TRAILER[..], &[crc]].concat();
        assert_eq!(code(announced(&both)), "InvalidRequest");
    }

    #[test]
    fn body_is_compared_with_every_announced_digest() {
        let sha = sha256_hex(b"hello");
        let good = announced(&[
            ("content-length", "5"),
            ("x-amz-content-sha256", &sha),
            ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
            ("x-amz-checksum-crc32", "NhCmhg=="),
        ])
        .expect("well formed");
        let verified = good.verify(Bytes::from_static(b"hello"), &[]).expect("matches");
        assert_eq!(hex::encode(verified.md5), "5d41402abc4b2a76b9719d911017c592");
        assert_eq!(verified.checksum.map(|c| c.base64), Some("NhCmhg==".to_owned()));
        assert_eq!(code(good.verify(Bytes::from_static(b"hell"), &[])), "IncompleteBody");
        assert_eq!(code(good.verify(Bytes::from_static(b"hullo"), &[])), "XAmzContentSHA256Mismatch");
        for (name, value) in
            [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="), ("x-amz-checksum-crc32", "AAAAAA==")]
        {
            let bad = announced(&[("content-length", "5"), (name, value)]).expect("well formed");
            assert_eq!(code(bad.verify(Bytes::from_static(b"hello"), &[])), "BadDigest", "{name}");
        }
    }

    #[test]
    fn announced_trailer_must_come_alone_and_match() {
        let announced = announced(&UNSIGNED_TRAILER).expect("well formed");
        let body = || Bytes::from_static(b"hello");
        let good = announced.verify(body(), &trailer("x-amz-checksum-crc32", "NhCmhg==")).expect("matches");
        assert_eq!(good.checksum.map(|c| c.algorithm), Some(ChecksumAlgorithm::Crc32));
        assert_eq!(code(announced.verify(body(), &[])), "MalformedTrailerError");
        assert_eq!(
            code(announced.verify(body(), &trailer("x-amz-checksum-crc32c", "mnG7TA=="))),
            "MalformedTrailerError"
        );
        assert_eq!(code(announced.verify(body(), &trailer("x-amz-checksum-crc32", "AAAAAA=="))), "BadDigest");
        assert_eq!(code(announced.verify(body(), &trailer("x-amz-checksum-crc32", "no"))), "InvalidRequest");
        let two = [trailer("x-amz-checksum-crc32", "NhCmhg=="), trailer("x-amz-meta-a", "b")].concat();
        assert_eq!(code(announced.verify(body(), &two)), "MalformedTrailerError");
    }
}
