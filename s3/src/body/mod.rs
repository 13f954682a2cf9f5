//! Request bodies: what the headers announce, and every comparison with what came.
//!
//! Owns [`Announced`]: length, SHA-256, Content-MD5, checksums in headers and trailers, framing. Does not own
//! the request's signature (s3s, before this), the socket (`request_body`), nor what becomes of the body.
//!
//! A small body is gathered and verified whole ([`Announced::receive`]). A large one goes by: piece after piece
//! to a [`Sink`], digests on the pool beside it ([`Announced::receive_into`]).
//!
//! Invariants: a [`Verified`] stands for a body that has passed every check its headers asked for, and the sink
//! is not to make anything visible before it has one; a gathered body is never larger than its limit; a body
//! is not touched before its request is authentic, so that a client that waits for `100 Continue` hears a
//! refusal first.

pub(crate) mod checksum;
pub(crate) mod chunked;
pub(crate) mod digest;
pub(crate) mod digest_pool;
mod request_body;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};

use crate::auth::{ClaimedSignature, SigningKeys};
use crate::error::{Refused, entity_too_large};
use checksum::{Checksum, ChecksumAlgorithm};
use chunked::{ChunkDecoder, ChunkSigner, Trailers};
use digest::{Digested, Digests, WantedDigests};
use digest_pool::DigestPool;

pub(crate) use request_body::{AfterBody, RequestBody, too_long};

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

/// What is known of a body that has passed every announced check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    /// If it was wanted, or sent.
    pub(crate) md5: Option<[u8; 16]>,
    /// The checksum that the client sent and that was compared, or one that was wanted.
    pub(crate) checksum: Option<Checksum>,
}

/// A whole body that has passed every announced check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerifiedBody {
    pub(crate) bytes: Bytes,
    pub(crate) verified: Verified,
}

/// Where a large body goes, unverified.
pub(crate) trait Sink {
    /// Takes the next piece; waits when it is behind.
    fn take(&mut self, piece: Bytes) -> impl Future<Output = Result<(), Refused>> + Send;

    /// The whole body has come. Runs beside the last digests, so it must not make anything visible.
    fn end(&mut self) -> impl Future<Output = Result<(), Refused>> + Send {
        async { Ok(()) }
    }
}

/// What is needed to take a body off the socket.
pub(crate) struct Receiving<'a> {
    pub(crate) body: &'a RequestBody,
    /// Of the request, verified; signed chunks are chained to it.
    pub(crate) claim: &'a ClaimedSignature,
    pub(crate) keys: &'a SigningKeys,
    pub(crate) stall_timeout: Duration,
}

/// Digests that are wanted whatever the client sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AlsoWanted {
    /// For an ETag.
    pub(crate) md5: bool,
    /// Where the client sends none of its own.
    pub(crate) checksum: Option<ChecksumAlgorithm>,
}

impl Announced {
    /// As [`Announced::read`] for a document whose checksum headers speak of something else than itself
    /// (CompleteMultipartUpload: of the object).
    pub(crate) fn read_without_checksum(headers: &HeaderMap) -> Result<Announced, Refused> {
        let own = headers.iter().filter(|(name, _)| {
            !name.as_str().starts_with("x-amz-checksum-") && *name != "x-amz-sdk-checksum-algorithm"
        });
        let own: HeaderMap = own.map(|(name, value)| (name.clone(), value.clone())).collect();
        Announced::read(&own, u64::MAX)
    }

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

    /// Length of the decoded body, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.framing.length()
    }

    /// Whether the client sends a digest of its own beside the signature's.
    pub(crate) fn has_digest(&self) -> bool {
        self.content_md5.is_some() || self.checksum_algorithm().is_some()
    }

    /// The algorithm of the checksum that the client sends.
    pub(crate) fn checksum_algorithm(&self) -> Option<ChecksumAlgorithm> {
        let trailer = match &self.framing {
            Framing::Plain { .. } => None,
            Framing::Chunked { trailer, .. } => *trailer,
        };
        self.checksum.as_ref().map(|checksum| checksum.algorithm).or(trailer)
    }

    fn wanted_digests(&self, also: AlsoWanted) -> WantedDigests {
        WantedDigests {
            md5: also.md5 || self.content_md5.is_some(),
            sha256: matches!(&self.framing, Framing::Plain { sha256: Some(_), .. }),
            checksum: self.checksum_algorithm().or(also.checksum),
        }
    }

    /// Takes a small body off the socket and verifies it; the caller has found its length small enough to be
    /// held. A dropped future leaves the body half read: the connection is of no further use.
    pub(crate) async fn receive(
        &self,
        from: Receiving<'_>,
        also: AlsoWanted,
    ) -> Result<VerifiedBody, Refused> {
        let mut gathered = Gathered { bytes: Bytes::new(), rest: BytesMut::new(), length: self.length() };
        let trailers = self.pump(from, &mut gathered).await?;
        let bytes = gathered.finish();
        let mut digests = Digests::new(self.wanted_digests(also));
        digests.update(&bytes);
        let verified = self.verify(&digests.finish(), &trailers, also)?;
        Ok(VerifiedBody { bytes, verified })
    }

    /// Passes a body of any length on to `sink` as it comes, and verifies it at its end. After an error, and
    /// when the future is dropped, what the sink has taken must be given up.
    pub(crate) async fn receive_into(
        &self,
        from: Receiving<'_>,
        also: AlsoWanted,
        pool: &DigestPool,
        sink: &mut (impl Sink + Send),
    ) -> Result<Verified, Refused> {
        let digests = pool.body(self.wanted_digests(also));
        let mut both = Both { digests, sink };
        let trailers = self.pump(from, &mut both).await?;
        let Both { digests, sink } = both;
        let (digested, ended) = futures_util::future::join(digests.finish(), sink.end()).await;
        let verified = self.verify(&digested, &trailers, also)?;
        ended.map(|()| verified)
    }

    /// Decodes the body piece by piece; returns its trailers.
    async fn pump(&self, from: Receiving<'_>, sink: &mut (impl Sink + Send)) -> Result<Trailers, Refused> {
        let mut reading = from.body.read(from.stall_timeout)?;
        match &self.framing {
            // hyper holds the sender to its Content-Length.
            Framing::Plain { .. } => {
                while let Some(piece) = reading.next().await? {
                    sink.take(piece).await?;
                }
                Ok(Trailers::new())
            }
            Framing::Chunked { length, signed, .. } => {
                let signer = signed.then(|| ChunkSigner::new(from.keys.key(from.claim), from.claim));
                let mut decoder = ChunkDecoder::new(signer, *length);
                let mut pieces = Vec::new();
                while let Some(input) = reading.next().await? {
                    decoder.push(input, &mut pieces)?;
                    for piece in pieces.drain(..) {
                        sink.take(piece).await?;
                    }
                }
                decoder.finish()
            }
        }
    }

    /// Compares the digests of a body with everything that was announced.
    fn verify(
        &self,
        computed: &Digested,
        trailers: &[(String, String)],
        also: AlsoWanted,
    ) -> Result<Verified, Refused> {
        if computed.length != self.framing.length() {
            return Err(Refused::new("IncompleteBody", 400, "The request body terminated unexpectedly"));
        }
        if let Framing::Plain { sha256: Some(sent), .. } = &self.framing {
            let computed = computed.sha256.map(hex::encode).unwrap_or_default();
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
        if let Some(sent) = &self.content_md5 {
            checksum::verify_content_md5(sent, &computed.md5.unwrap_or_default())?;
        }
        let trailing = self.trailing_checksum(trailers)?;
        let sent = self.checksum.clone().or(trailing);
        let digest = computed.checksum.as_deref().unwrap_or_default();
        if let Some(sent) = &sent {
            sent.verify(digest)?;
        }
        let wanted = || also.checksum.map(|algorithm| Checksum::computed(algorithm, digest.to_vec()));
        Ok(Verified { md5: computed.md5, checksum: sent.or_else(wanted) })
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

/// A small body in one piece.
struct Gathered {
    /// The usual small body comes in one piece and is taken without a copy.
    bytes: Bytes,
    rest: BytesMut,
    length: u64,
}

impl Sink for Gathered {
    async fn take(&mut self, piece: Bytes) -> Result<(), Refused> {
        if self.bytes.is_empty() && self.rest.is_empty() {
            self.bytes = piece;
            return Ok(());
        }
        if self.rest.is_empty() {
            self.rest.reserve(usize::try_from(self.length).unwrap_or(0));
            self.rest.extend_from_slice(&std::mem::take(&mut self.bytes));
        }
        self.rest.extend_from_slice(&piece);
        Ok(())
    }
}

impl Gathered {
    fn finish(self) -> Bytes {
        if self.rest.is_empty() { self.bytes } else { self.rest.freeze() }
    }
}

/// A sink with the digests beside it.
struct Both<'a, S> {
    digests: digest_pool::PooledDigests,
    sink: &'a mut S,
}

impl<S: Sink + Send> Sink for Both<'_, S> {
    async fn take(&mut self, piece: Bytes) -> Result<(), Refused> {
        self.digests.update(piece.clone()).await;
        self.sink.take(piece).await
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use crate::auth::sha256_hex;

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

    /// Verifies a whole body.
    fn verify(
        announced: &Announced,
        body: &[u8],
        trailers: &[(String, String)],
    ) -> Result<Verified, Refused> {
        let also = AlsoWanted { md5: true, checksum: None };
        let mut digests = Digests::new(announced.wanted_digests(also));
        digests.update(body);
        announced.verify(&digests.finish(), trailers, also)
    }

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
        let verified = verify(&good, b"hello", &[]).expect("matches");
        assert_eq!(verified.md5.map(hex::encode), Some("5d41402abc4b2a76b9719d911017c592".to_owned()));
        assert_eq!(verified.checksum.map(|c| c.base64), Some("NhCmhg==".to_owned()));
        assert_eq!(code(verify(&good, b"hell", &[])), "IncompleteBody");
        assert_eq!(code(verify(&good, b"hullo", &[])), "XAmzContentSHA256Mismatch");
        for (name, value) in
            [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="), ("x-amz-checksum-crc32", "AAAAAA==")]
        {
            let bad = announced(&[("content-length", "5"), (name, value)]).expect("well formed");
            assert_eq!(code(verify(&bad, b"hello", &[])), "BadDigest", "{name}");
        }
    }

    #[test]
    fn announced_trailer_must_come_alone_and_match() {
        let announced = announced(&UNSIGNED_TRAILER).expect("well formed");
        let good =
            verify(&announced, b"hello", &trailer("x-amz-checksum-crc32", "NhCmhg==")).expect("matches");
        assert_eq!(good.checksum.map(|c| c.algorithm), Some(ChecksumAlgorithm::Crc32));
        assert_eq!(code(verify(&announced, b"hello", &[])), "MalformedTrailerError");
        assert_eq!(
            code(verify(&announced, b"hello", &trailer("x-amz-checksum-crc32c", "mnG7TA=="))),
            "MalformedTrailerError"
        );
        assert_eq!(
            code(verify(&announced, b"hello", &trailer("x-amz-checksum-crc32", "AAAAAA=="))),
            "BadDigest"
        );
        assert_eq!(
            code(verify(&announced, b"hello", &trailer("x-amz-checksum-crc32", "no"))),
            "InvalidRequest"
        );
        let two = [trailer("x-amz-checksum-crc32", "NhCmhg=="), trailer("x-amz-meta-a", "b")].concat();
        assert_eq!(code(verify(&announced, b"hello", &two)), "MalformedTrailerError");
    }
}
