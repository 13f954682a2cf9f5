//! What the tests of this crate share: a signing client in a few lines, written from the specification
//! and not from the code under test.

pub(crate) mod client;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::auth::{ClaimedSignature, SigningKey};
use crate::query::Query;

pub(crate) const ACCESS_KEY: &str = "AKIDEXAMPLE";
pub(crate) const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

/// A fixed claim of 2013-05-24 in us-east-1.
pub(crate) fn claim() -> ClaimedSignature {
    let query = Query::parse(&format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID/20130524/us-east-1/s3/aws4_request\
         &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature={}",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    ));
    ClaimedSignature::read(&http::HeaderMap::new(), &query).expect("well formed").expect("a claim")
}

/// An aws-chunked body to encode.
pub(crate) struct ChunkedBody<'a> {
    pub(crate) chunks: &'a [&'a [u8]],
    pub(crate) trailers: &'a [(&'a str, &'a str)],
    pub(crate) signed: Option<(&'a SigningKey, &'a ClaimedSignature)>,
}

impl ChunkedBody<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut previous = self.signed.map(|(_, claim)| claim.signature.clone()).unwrap_or_default();
        let mut sign = |kind: &str, tail: String| -> Option<String> {
            let (key, claim) = self.signed?;
            let text = format!("{kind}\n{}\n{}\n{previous}\n{tail}", claim.timestamp, claim.scope());
            previous = key.sign(&text);
            Some(previous.clone())
        };
        for chunk in self.chunks.iter().copied().chain([&b""[..]]) {
            let tail = format!("{}\n{}", hex_sha256(b""), hex_sha256(chunk));
            let line = match sign("AWS4-HMAC-SHA256-PAYLOAD", tail) {
                Some(signature) => format!("{:x};chunk-signature={signature}\r\n", chunk.len()),
                None => format!("{:x}\r\n", chunk.len()),
            };
            wire.extend_from_slice(line.as_bytes());
            wire.extend_from_slice(chunk);
            if !chunk.is_empty() {
                wire.extend_from_slice(b"\r\n");
            }
        }
        let canonical: String = self.trailers.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
        for (name, value) in self.trailers {
            wire.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
        }
        if !self.trailers.is_empty()
            && let Some(signature) = sign("AWS4-HMAC-SHA256-TRAILER", hex_sha256(canonical.as_bytes()))
        {
            wire.extend_from_slice(format!("x-amz-trailer-signature:{signature}\r\n").as_bytes());
        }
        wire.extend_from_slice(b"\r\n");
        wire
    }
}

/// A request to be signed and written out as raw bytes.
#[derive(Clone)]
pub(crate) struct RawRequest {
    pub(crate) method: &'static str,
    /// Percent-encoded.
    pub(crate) path: String,
    /// Percent-encoded names and values, sorted by name when signing.
    pub(crate) query: Vec<(String, String)>,
    /// Signed headers beside host, x-amz-date and x-amz-content-sha256.
    pub(crate) headers: Vec<(String, String)>,
    /// Headers that the signature does not cover.
    pub(crate) unsigned_headers: Vec<(String, String)>,
    /// Value of x-amz-content-sha256; `None` for the hash of the body.
    pub(crate) payload: Option<String>,
    pub(crate) body: Vec<u8>,
    /// Seconds added to the clock when signing.
    pub(crate) skew_seconds: i64,
    /// Signed chunks and trailers instead of `body`.
    pub(crate) signed_chunks: Option<SignedChunks>,
    pub(crate) host: String,
}

/// Chunks and trailers of a signed streaming body.
pub(crate) type SignedChunks = (Vec<Vec<u8>>, Vec<(String, String)>);

impl RawRequest {
    pub(crate) fn new(method: &'static str, path: &str) -> RawRequest {
        RawRequest {
            method,
            path: path.to_owned(),
            query: Vec::new(),
            headers: Vec::new(),
            unsigned_headers: Vec::new(),
            payload: None,
            body: Vec::new(),
            skew_seconds: 0,
            signed_chunks: None,
            host: HOST.to_owned(),
        }
    }

    pub(crate) fn host(mut self, host: &str) -> RawRequest {
        self.host = host.to_owned();
        self
    }

    pub(crate) fn query(mut self, name: &str, value: &str) -> RawRequest {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> RawRequest {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn unsigned_header(mut self, name: &str, value: &str) -> RawRequest {
        self.unsigned_headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> RawRequest {
        self.body = body.to_vec();
        self
    }

    pub(crate) fn payload(mut self, value: &str) -> RawRequest {
        self.payload = Some(value.to_owned());
        self
    }

    pub(crate) fn skew(mut self, seconds: i64) -> RawRequest {
        self.skew_seconds = seconds;
        self
    }

    /// The body becomes signed chunks; `trailers` are announced and signed if there are any.
    pub(crate) fn signed_chunks(mut self, chunks: &[&[u8]], trailers: &[(&str, &str)]) -> RawRequest {
        let length: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let kind = if trailers.is_empty() {
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
        } else {
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
        };
        self = self.payload(kind).header("x-amz-decoded-content-length", &length.to_string());
        if !trailers.is_empty() {
            let names: Vec<&str> = trailers.iter().map(|(name, _)| *name).collect();
            self = self.header("x-amz-trailer", &names.join(","));
        }
        let trailers = trailers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.signed_chunks = Some((chunks.iter().map(|chunk| chunk.to_vec()).collect(), trailers));
        self
    }

    /// The request as it goes over the wire, signed in the `Authorization` header.
    pub(crate) fn sign(&self) -> Vec<u8> {
        let (timestamp, date) = self.clock();
        let payload = self.payload.clone().unwrap_or_else(|| hex_sha256(&self.body));
        let mut headers = self.headers.clone();
        headers.push(("host".to_owned(), self.host.clone()));
        headers.push(("x-amz-date".to_owned(), timestamp.clone()));
        headers.push(("x-amz-content-sha256".to_owned(), payload.clone()));
        headers.sort();
        let signed: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let signed = signed.join(";");
        let canonical = self.canonical(&self.query, &headers, &signed, &payload);
        let signature = signature(&canonical, &timestamp, &date);
        headers.push((
            "authorization".to_owned(),
            format!(
                "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{date}/us-east-1/s3/aws4_request, \
                 SignedHeaders={signed}, Signature={signature}"
            ),
        ));
        let body = match &self.signed_chunks {
            None => self.body.clone(),
            Some((chunks, trailers)) => {
                let key =
                    SigningKey::derive(&crate::config::SecretAccessKey::new(SECRET_KEY), &date, "us-east-1");
                let claim = ClaimedSignature {
                    timestamp: timestamp.clone(),
                    date: date.clone(),
                    signature: signature.clone(),
                    ..claim()
                };
                let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
                let trailers: Vec<(&str, &str)> =
                    trailers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                ChunkedBody { chunks: &chunks, trailers: &trailers, signed: Some((&key, &claim)) }.encode()
            }
        };
        self.wire(&self.query, &headers, &body)
    }

    /// The request as it goes over the wire, signed in the query.
    pub(crate) fn presign(&self, expires_seconds: u64) -> Vec<u8> {
        let (timestamp, date) = self.clock();
        let mut headers = self.headers.clone();
        headers.push(("host".to_owned(), self.host.clone()));
        headers.sort();
        let signed: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let mut query = self.query.clone();
        for (name, value) in [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{ACCESS_KEY}%2F{date}%2Fus-east-1%2Fs3%2Faws4_request")),
            ("X-Amz-Date", timestamp.clone()),
            ("X-Amz-Expires", expires_seconds.to_string()),
            ("X-Amz-SignedHeaders", signed.join("%3B")),
        ] {
            query.push((name.to_owned(), value));
        }
        let canonical = self.canonical(&query, &headers, &signed.join(";"), "UNSIGNED-PAYLOAD");
        query.push(("X-Amz-Signature".to_owned(), signature(&canonical, &timestamp, &date)));
        self.wire(&query, &headers, &self.body)
    }

    /// The request without any signature.
    pub(crate) fn anonymous(&self) -> Vec<u8> {
        let mut headers = self.headers.clone();
        headers.push(("host".to_owned(), self.host.clone()));
        self.wire(&self.query, &headers, &self.body)
    }

    fn clock(&self) -> (String, String) {
        let now = time::OffsetDateTime::now_utc() + time::Duration::seconds(self.skew_seconds);
        let date = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
        (format!("{date}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second()), date)
    }

    fn canonical(
        &self,
        query: &[(String, String)],
        headers: &[(String, String)],
        signed: &str,
        payload: &str,
    ) -> String {
        let mut query: Vec<String> = query.iter().map(|(n, v)| format!("{n}={v}")).collect();
        query.sort();
        let headers: String = headers.iter().map(|(n, v)| format!("{n}:{}\n", v.trim())).collect();
        format!("{}\n{}\n{}\n{headers}\n{signed}\n{payload}", self.method, self.path, query.join("&"))
    }

    fn wire(&self, query: &[(String, String)], headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
        let query: Vec<String> = query.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let mut wire =
            format!("{} {}{mark}{} HTTP/1.1\r\n", self.method, self.path, query.join("&")).into_bytes();
        let has_length =
            |(name, _): &(String, String)| name == "content-length" || name == "transfer-encoding";
        for (name, value) in headers.iter().chain(&self.unsigned_headers) {
            wire.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !headers.iter().chain(&self.unsigned_headers).any(has_length)
            && (!body.is_empty() || self.method == "PUT")
        {
            wire.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        wire.extend_from_slice(b"\r\n");
        wire.extend_from_slice(body);
        wire
    }
}

const HOST: &str = "s3.test";

fn signature(canonical: &str, timestamp: &str, date: &str) -> String {
    let text = format!(
        "AWS4-HMAC-SHA256\n{timestamp}\n{date}/us-east-1/s3/aws4_request\n{}",
        hex_sha256(canonical.as_bytes())
    );
    let mut key = format!("AWS4{SECRET_KEY}").into_bytes();
    for part in [date, "us-east-1", "s3", "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    hex::encode(hmac(&key, text.as_bytes()))
}

fn hmac(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

fn hex_sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
