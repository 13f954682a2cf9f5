//! The check of a request's own signature (Signature Version 4, header and presigned form).
//!
//! Owns: the canonical request, and the signing keys it is compared with. Does not own: what the signature
//! must cover and when it is over ([`ClaimedSignature`]), nor any refusal. Whatever is not proven here, for
//! whatever reason, goes to s3s, which judges it afresh and writes the error. So this file need not take
//! everything that is right: it leaves unusual forms (values that are not ASCII, signed headers that are
//! missing, path characters that should have been encoded) to s3s. Why it exists at all: s3s derives the
//! signing key anew for each request, and its way from head to operation costs as much as all the rest of
//! a small GET.
//!
//! Must hold: what is proven here, s3s would have let through to the same operation
//! (`what_is_proven_here_is_accepted_by_s3s`). The canonical request is built from the decoded path and
//! query that the operation uses, not from the text on the wire, so nothing can be signed as one thing and
//! read as another.

use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use crate::auth::{ClaimedSignature, SignatureForm, SigningKeys};
use crate::query::Query;

/// Longest key that s3s lets through, in bytes of its decoded name.
const KEY_NAME_BYTES_MAX: usize = 1024;
/// What most canonical requests fit into.
const CANONICAL_BYTES: usize = 1024;

/// Verifies signatures of the one access key.
pub(crate) struct SignatureVerifier {
    access_key_id: String,
    keys: Arc<SigningKeys>,
}

impl SignatureVerifier {
    pub(crate) fn new(access_key_id: &str, keys: Arc<SigningKeys>) -> SignatureVerifier {
        SignatureVerifier { access_key_id: access_key_id.to_owned(), keys }
    }

    /// Whether the signature is the right one for this head. `query` and `claim` were read from it, and the
    /// claim's coverage and time are checked. `false` means no more than: not proven.
    pub(crate) fn proves(&self, parts: &Parts, query: &Query, claim: &ClaimedSignature) -> bool {
        if claim.access_key_id != self.access_key_id || !is_region(&claim.region) || !names_object(parts) {
            return false;
        }
        let Some(canonical) = canonical_request(parts, query, claim) else { return false };
        self.keys.proves_request(claim, &canonical)
    }
}

/// Whether the path names an object whose name s3s takes for one.
fn names_object(parts: &Parts) -> bool {
    let decoded = percent_decode_str(parts.uri.path()).decode_utf8();
    let name = decoded.as_deref().ok().and_then(|path| path.strip_prefix('/')?.split_once('/'));
    name.is_some_and(|(_, name)| (1..=KEY_NAME_BYTES_MAX).contains(&name.len()))
}

/// As s3s has it.
fn is_region(region: &str) -> bool {
    !region.is_empty() && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The canonical request, or `None` for a form that is left to s3s.
pub(crate) fn canonical_request(parts: &Parts, query: &Query, claim: &ClaimedSignature) -> Option<Vec<u8>> {
    let payload = payload_hash(&parts.headers, claim.form)?;
    let mut out = Vec::with_capacity(CANONICAL_BYTES);
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b'\n');
    push_path(&mut out, parts.uri.path())?;
    out.push(b'\n');
    push_query(&mut out, query, claim.form);
    out.push(b'\n');
    push_headers(&mut out, &parts.headers, claim)?;
    out.push(b'\n');
    out.extend_from_slice(claim.signed_headers.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(payload);
    Some(out)
}

fn push_path(out: &mut Vec<u8>, path: &str) -> Option<()> {
    push_encoded(out, &percent_decode_str(path).decode_utf8().ok()?, Slash::Kept);
    Some(())
}

/// Pairs sorted by encoded name; pairs of one name stay in the order sent, which is the order in which the
/// operation sees them.
fn push_query(out: &mut Vec<u8>, query: &Query, form: SignatureForm) {
    let start = out.len();
    let mut scratch = Vec::with_capacity(CANONICAL_BYTES);
    let mut pairs: SmallVec<[(usize, usize, usize); 16]> = SmallVec::new();
    for (name, value) in query.pairs() {
        if form == SignatureForm::Presigned && name == "X-Amz-Signature" {
            continue;
        }
        let begin = scratch.len();
        push_encoded(&mut scratch, name, Slash::Encoded);
        let equals = scratch.len();
        scratch.push(b'=');
        push_encoded(&mut scratch, value, Slash::Encoded);
        pairs.push((begin, equals, scratch.len()));
    }
    pairs.sort_by(|a, b| scratch[a.0..a.1].cmp(&scratch[b.0..b.1]));
    for (begin, _, end) in pairs {
        if out.len() > start {
            out.push(b'&');
        }
        out.extend_from_slice(&scratch[begin..end]);
    }
}

fn push_headers(out: &mut Vec<u8>, headers: &HeaderMap, claim: &ClaimedSignature) -> Option<()> {
    let mut previous = "";
    for name in claim.signed_headers() {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name <= previous || !name.bytes().all(plain) || name == "authorization" {
            return None;
        }
        previous = name;
        let mut separator = b':';
        out.extend_from_slice(name.as_bytes());
        for value in headers.get_all(name) {
            out.push(separator);
            push_trimmed(out, value.as_bytes())?;
            separator = b',';
        }
        if separator == b':' {
            return None;
        }
        out.push(b'\n');
    }
    Some(())
}

/// The value without blanks around it, and with each run of blanks inside as one space.
fn push_trimmed(out: &mut Vec<u8>, value: &[u8]) -> Option<()> {
    let mut wanted_space = false;
    let mut begun = false;
    for &byte in value {
        match byte {
            b' ' | b'\t' => wanted_space = begun,
            b'!'..=b'~' => {
                if wanted_space {
                    out.push(b' ');
                }
                (wanted_space, begun) = (false, true);
                out.push(byte);
            }
            _ => return None,
        }
    }
    Some(())
}

/// The last line of the canonical request.
fn payload_hash(headers: &HeaderMap, form: SignatureForm) -> Option<&[u8]> {
    let sent = headers.get("x-amz-content-sha256").map(|value| value.as_bytes());
    let is_hash =
        |text: &[u8]| text.len() == 64 && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if headers.contains_key("x-amz-decoded-content-length")
        != sent.is_some_and(|kind| kind.starts_with(b"STREAMING-"))
    {
        return None;
    }
    match (form, sent) {
        (SignatureForm::Presigned, None | Some(b"UNSIGNED-PAYLOAD")) => Some(b"UNSIGNED-PAYLOAD"),
        (SignatureForm::Presigned, Some(hash)) if is_hash(hash) => Some(b"UNSIGNED-PAYLOAD"),
        (SignatureForm::Presigned, Some(_)) | (SignatureForm::Header, None) => None,
        (SignatureForm::Header, Some(b"UNSIGNED-PAYLOAD")) => Some(b"UNSIGNED-PAYLOAD"),
        (SignatureForm::Header, Some(hash)) if is_hash(hash) => Some(hash),
        (SignatureForm::Header, Some(kind)) => streaming(headers, kind).then_some(kind),
    }
}

/// Whether s3s would let this streaming form pass: the body itself is judged later, by `body`.
fn streaming(headers: &HeaderMap, kind: &[u8]) -> bool {
    let length = headers.get("x-amz-decoded-content-length").map_or(&b""[..], |value| value.as_bytes());
    // 18 digits fit into any number that s3s reads it into.
    let length = (1..=18).contains(&length.len()) && length.iter().all(u8::is_ascii_digit);
    let one_trailer = headers.get_all("x-amz-trailer").iter().count() == 1;
    match kind {
        b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => length,
        b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" | b"STREAMING-UNSIGNED-PAYLOAD-TRAILER" => {
            length && one_trailer
        }
        _ => false,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slash {
    Kept,
    Encoded,
}

/// Percent-encodes all but the unreserved characters, as the specification's UriEncode.
fn push_encoded(out: &mut Vec<u8>, text: &str, slash: Slash) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
            b'/' if slash == Slash::Kept => out.push(byte),
            _ => out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
