//! Signatures: the examples that AWS publishes, and s3s as the oracle of everything else.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue, Method, Request};
use s3s::route::S3Route;
use s3s::service::S3ServiceBuilder;
use s3s::{Body, S3, S3Request, S3Response, S3Result};
use sha2::{Digest, Sha256};

use super::*;
use crate::config::{S3Config, SecretAccessKey};
use crate::service;

const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn keys() -> Arc<SigningKeys> {
    Arc::new(SigningKeys::new(SecretAccessKey::new(SECRET_KEY)))
}

fn head(method: &str, target: &str, headers: &[(&str, &[u8])]) -> Parts {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).expect("a method");
    *request.uri_mut() = target.parse().expect("a target");
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        request.headers_mut().append(name, HeaderValue::from_bytes(value).expect("a value"));
    }
    request.into_parts().0
}

/// Whether the signature is right by the canonical request and the key alone.
fn is_right(parts: &Parts) -> bool {
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let claim = ClaimedSignature::read(&parts.headers, &query).expect("well formed").expect("a claim");
    claim.check_coverage(&parts.headers).expect("covered");
    keys().proves_request(&claim, &canonical_request(parts, &query, &claim).expect("canonical"))
}

/// Method, target, headers beside the usual ones, hash of the body, signature.
type Example =
    (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str, &'static str);

/// "Signature Calculations for the Authorization Header", its four examples, and the one of "Authenticating
/// Requests: Using Query Parameters".
#[test]
fn the_examples_of_the_aws_documentation() {
    let examples: [Example; 4] = [
        (
            "GET",
            "/test.txt",
            &[("range", "bytes=0-9")],
            EMPTY,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            &[("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/?lifecycle",
            &[],
            EMPTY,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/?max-keys=2&prefix=J",
            &[],
            EMPTY,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ];
    for (method, target, extra, hash, signature) in examples {
        let mut headers = vec![
            ("host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-content-sha256", hash),
            ("x-amz-date", "20130524T000000Z"),
        ];
        headers.extend_from_slice(extra);
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let authorization = |signature: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,\
                 SignedHeaders={},Signature={signature}",
                names.join(";")
            )
        };
        let with = |signature: &str| {
            let authorization = authorization(signature);
            let mut headers: Vec<(&str, &[u8])> = headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
            headers.push(("authorization", authorization.as_bytes()));
            is_right(&head(method, target, &headers))
        };
        assert!(with(signature), "{method} {target}");
        assert!(!with(&signature.replace('f', "e")), "{method} {target}");
        assert!(!with(EMPTY), "{method} {target}");
    }
    let presigned = |signature: &str| {
        let target = format!(
            "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential={ACCESS_KEY}%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature={signature}"
        );
        is_right(&head("GET", &target, &[("host", b"examplebucket.s3.amazonaws.com")]))
    };
    assert!(presigned("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"));
    assert!(!presigned("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d405"));
}

/// A request in pieces, signed here from the specification, then perhaps changed.
#[derive(Debug, Clone)]
struct Case {
    method: &'static str,
    /// Percent-encoded.
    path: String,
    /// Percent-encoded.
    query: Vec<(String, String)>,
    headers: Vec<(String, Vec<u8>)>,
    /// What the client believes that it signs the path as.
    signed_path: String,
    presigned: bool,
    access_key: String,
    region: String,
    service: &'static str,
    now: String,
}

impl Case {
    /// Ordinary means: what SDKs send.
    fn random(random: &mut fastrand::Rng, ordinary: bool) -> Case {
        let now = time::OffsetDateTime::now_utc();
        let now = format!(
            "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
            now.year(),
            u8::from(now.month()),
            now.day(),
            now.hour(),
            now.minute(),
            now.second()
        );
        let mut pick = |items: &[&'static str]| items[random.usize(0..items.len())];
        let method = pick(&["GET", "HEAD", "PUT", "DELETE"]);
        let key =
            pick(&["k", "a/b", "a//b/", "a b+c", "ü%/x", "~._-", "$file", "a=b&c", "☃", "%2F"]).to_owned();
        let presigned = pick(&["", "x"]) == "x";
        let region = pick(&["us-east-1", "eu-west-3", "auto"]).to_owned();
        let mut query: Vec<(String, String)> = Vec::new();
        for (name, value) in [("x-id", "GetObject"), ("response-content-type", "text/plain; a=b"), ("a", "")]
        {
            if pick(&["", "x"]) == "x" {
                query.push((encode(name, true), encode(value, true)));
            }
        }
        let mut headers: Vec<(String, Vec<u8>)> = vec![("host".to_owned(), b"s3.test:9000".to_vec())];
        for (name, values) in [
            ("x-amz-meta-a", &["v", " two  blanks ", "a,b", ""][..]),
            ("range", &["bytes=0-9"]),
            ("content-type", &["text/plain", "text/plain;  charset=x"]),
            ("x-amz-checksum-mode", &["ENABLED"]),
        ] {
            if pick(&["", "x"]) == "x" {
                headers.push((name.to_owned(), pick(values).as_bytes().to_vec()));
            }
        }
        let mut case = Case {
            method,
            path: format!("/bucket/{}", encode(&key, false)),
            signed_path: format!("/bucket/{}", encode(&key, false)),
            query,
            headers,
            presigned,
            access_key: ACCESS_KEY.to_owned(),
            region,
            service: "s3",
            now,
        };
        if !presigned {
            let kind = match method {
                "PUT" => pick(&[EMPTY, "UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "TRAILER"]),
                _ => pick(&[EMPTY, "UNSIGNED-PAYLOAD"]),
            };
            let kind = if kind == "TRAILER" { "STREAMING-UNSIGNED-PAYLOAD-TRAILER" } else { kind };
            case.header("x-amz-content-sha256", kind.as_bytes());
            if kind.starts_with("STREAMING") {
                case.header("x-amz-decoded-content-length", b"0");
            }
            if kind.ends_with("TRAILER") {
                case.header("x-amz-trailer", b"x-amz-checksum-crc32");
            }
            let now = case.now.clone();
            case.header("x-amz-date", now.as_bytes());
        }
        if !ordinary {
            case.make_odd(random);
        }
        case
    }

    fn header(&mut self, name: &str, value: &[u8]) {
        self.headers.push((name.to_owned(), value.to_vec()));
    }

    /// Forms that a client may sign, and that one side or both may refuse.
    fn make_odd(&mut self, random: &mut fastrand::Rng) {
        match random.u8(0..18) {
            0 => self.path = self.path.replace("%24", "$").replace("%2B", "+"),
            1 => {
                self.path = self.path.replace("%24", "$").replace("%3D", "=");
                self.signed_path = self.path.clone();
            }
            2 => self.path = self.path.replace('k', "%6b"),
            3 => self.header("x-amz-meta-b", "grün".as_bytes()),
            4 => self.header("x-amz-meta-b", b"\xff"),
            5 => {
                self.header("x-amz-meta-c", b"1");
                self.header("x-amz-meta-c", b" 2");
            }
            6 => self.query.push(("x-id".to_owned(), "again".to_owned())),
            7 => self.query.push(("%ff".to_owned(), "%zz".to_owned())),
            8 => self.access_key = "AKIDUNKNOWN".to_owned(),
            9 => self.region = ["", "US-EAST-1", "a_b"][random.usize(0..3)].to_owned(),
            10 => self.service = "sts",
            11 => self.path = format!("/bucket/{}", "k".repeat(random.usize(1020..1030))),
            12 => self.path = ["/bucket", "/bucket/", "/"][random.usize(0..3)].to_owned(),
            13 => {
                let kind =
                    ["STREAMING-UNSIGNED-PAYLOAD-TRAILER", "UNSIGNED-PAYLOAD", "abc"][random.usize(0..3)];
                self.headers.retain(|(name, _)| name != "x-amz-content-sha256");
                self.header("x-amz-content-sha256", kind.as_bytes());
            }
            14 => self.header("x-amz-decoded-content-length", [&b"12"[..], b"x", b""][random.usize(0..3)]),
            15 => self.headers.retain(|(name, _)| name != "x-amz-trailer"),
            16 => self.header("x-amz-trailer", b"x-amz-checksum-crc32c"),
            _ => self.headers.retain(|(name, _)| name != "x-amz-content-sha256" && name != "x-amz-trailer"),
        }
        if matches!(random.u8(0..4), 0) || self.path.len() > 1000 || self.path.len() < 9 {
            self.signed_path = self.path.clone();
        }
    }

    fn sign(&self) -> Parts {
        let date = &self.now[..8];
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let mut names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let signed = names.join(";");
        let mut query = self.query.clone();
        if self.presigned {
            for (name, value) in [
                ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
                ("X-Amz-Credential", encode(&format!("{}/{scope}", self.access_key), true)),
                ("X-Amz-Date", self.now.clone()),
                ("X-Amz-Expires", "300".to_owned()),
                ("X-Amz-SignedHeaders", encode(&signed, true)),
            ] {
                query.push((name.to_owned(), value));
            }
        }
        let mut canonical = format!("{}\n{}\n", self.method, self.signed_path).into_bytes();
        let mut sorted = query.clone();
        sorted.sort();
        let sorted: Vec<String> = sorted.iter().map(|(n, v)| format!("{n}={v}")).collect();
        canonical.extend_from_slice(sorted.join("&").as_bytes());
        canonical.push(b'\n');
        for name in &names {
            canonical.extend_from_slice(name.as_bytes());
            let mut separator = b':';
            for (_, value) in self.headers.iter().filter(|(n, _)| n == name) {
                canonical.push(separator);
                let words = value.split(|b| *b == b' ').filter(|word| !word.is_empty());
                canonical.extend_from_slice(&words.collect::<Vec<_>>().join(&b' '));
                separator = b',';
            }
            canonical.push(b'\n');
        }
        let payload = self.headers.iter().find(|(name, _)| name == "x-amz-content-sha256");
        let payload = payload.filter(|_| !self.presigned).map_or(&b"UNSIGNED-PAYLOAD"[..], |(_, v)| v);
        canonical.extend_from_slice(format!("\n{signed}\n").as_bytes());
        canonical.extend_from_slice(payload);
        let text =
            format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", self.now, hex::encode(Sha256::digest(&canonical)));
        let mut key = format!("AWS4{SECRET_KEY}").into_bytes();
        for part in [date, &self.region, self.service, "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex::encode(hmac(&key, text.as_bytes()));
        let mut headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(n, v)| (n.as_str(), &v[..])).collect();
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            self.access_key
        );
        if self.presigned {
            query.push(("X-Amz-Signature".to_owned(), signature));
        } else {
            headers.push(("authorization", authorization.as_bytes()));
        }
        let query: Vec<String> = query.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        head(self.method, &format!("{}{mark}{}", self.path, query.join("&")), &headers)
    }
}

/// Changes something after the signature was made.
fn tamper(parts: &mut Parts, random: &mut fastrand::Rng) {
    let target = parts.uri.to_string();
    match random.u8(0..9) {
        0 => {
            parts.method =
                Method::from_bytes(["GET", "PUT"][random.usize(0..2)].as_bytes()).expect("a method")
        }
        1 => parts.uri = target.replacen("bucket/", "bucket/x", 1).parse().expect("a target"),
        2 => {
            let mark = if target.contains('?') { '&' } else { '?' };
            parts.uri = format!("{target}{mark}acl").parse().expect("a target");
        }
        3 => {
            let at = random.usize(0..target.len());
            let flipped: Vec<u8> =
                target.bytes().enumerate().map(|(n, b)| if n == at { b ^ 1 } else { b }).collect();
            if let Ok(uri) = http::Uri::try_from(flipped) {
                parts.uri = uri;
            }
        }
        4 => {
            let names: Vec<HeaderName> = parts.headers.keys().cloned().collect();
            let name = names[random.usize(0..names.len())].clone();
            let mut value = parts.headers[&name].as_bytes().to_vec();
            if value.is_empty() {
                value.push(b'x');
            } else {
                let at = random.usize(0..value.len());
                value[at] ^= 1;
            }
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                parts.headers.insert(name, value);
            }
        }
        5 => {
            let names: Vec<HeaderName> = parts.headers.keys().cloned().collect();
            parts.headers.remove(&names[random.usize(0..names.len())]);
        }
        6 => {
            parts.headers.append("x-amz-meta-a", HeaderValue::from_static("added"));
        }
        7 => {
            parts.headers.append("x-amz-copy-source", HeaderValue::from_static("/secret/key"));
        }
        _ => {
            if let Some(value) = parts.headers.get("authorization").and_then(|value| value.to_str().ok()) {
                let (head, signature) = value.split_at(value.len() - 64);
                let value = format!("{head}{}", signature.to_ascii_uppercase());
                parts.headers.insert("authorization", HeaderValue::from_str(&value).expect("a value"));
            }
        }
    }
}

/// Answers 200 to every object request that s3s lets through.
struct Accepts;

#[async_trait::async_trait]
impl S3Route for Accepts {
    fn is_match(&self, _: &Method, _: &http::Uri, _: &HeaderMap, _: &mut http::Extensions) -> bool {
        true
    }

    async fn call(&self, _: S3Request<Body>) -> S3Result<S3Response<Body>> {
        Ok(S3Response::new(Body::empty()))
    }
}

struct NoBuckets;

impl S3 for NoBuckets {}

/// What the front layer does before it asks the verifier.
fn is_proven(verifier: &SignatureVerifier, parts: &Parts) -> bool {
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    match ClaimedSignature::read(&parts.headers, &query) {
        Ok(Some(claim)) => {
            claim.check_coverage(&parts.headers).is_ok() && verifier.proves(parts, &query, &claim)
        }
        _ => false,
    }
}

/// Signs ordinary, odd and tampered requests at random and asks both sides. Nothing may be proven here that
/// s3s refuses; the ordinary ones must be proven, else the verifier would be no use.
#[tokio::test]
async fn what_is_proven_here_is_accepted_by_s3s() {
    let config = S3Config::new(ACCESS_KEY, SecretAccessKey::new(SECRET_KEY));
    let mut builder = S3ServiceBuilder::new(NoBuckets);
    builder.set_route(Accepts);
    service::configure(&mut builder, &config);
    let s3s = builder.build();
    let verifier = SignatureVerifier::new(ACCESS_KEY, keys());
    let (mut proven_odd, mut refused_odd) = (0, 0);
    for seed in 0..8_000 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let ordinary = seed % 3 == 0;
        let case = Case::random(random, ordinary);
        let mut parts = case.sign();
        let tampered = seed % 3 == 1;
        if tampered {
            tamper(&mut parts, random);
        }
        let proven = is_proven(&verifier, &parts);
        let answer = s3s.call(Request::from_parts(parts.clone(), Body::empty())).await.expect("an answer");
        let accepted = answer.status().is_success();
        assert!(accepted || !proven, "seed {seed}: s3s refuses with {}: {case:?} {parts:?}", answer.status());
        if ordinary {
            assert!(accepted, "seed {seed}: {case:?} {parts:?}");
            assert!(proven, "seed {seed}: {case:?} {parts:?}");
        } else if proven {
            proven_odd += 1;
        } else {
            refused_odd += 1;
        }
    }
    assert!(proven_odd > 100 && refused_odd > 100, "{proven_odd} proven, {refused_odd} not");
}

#[test]
fn a_stranger_pushes_no_key_out_of_the_cache() {
    let keys = keys();
    let random = &mut fastrand::Rng::with_seed(0);
    let claim_of = |case: &Case| {
        let parts = case.sign();
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let claim = ClaimedSignature::read(&parts.headers, &query).expect("well formed").expect("a claim");
        let canonical = canonical_request(&parts, &query, &claim).expect("canonical");
        (claim, canonical)
    };
    let case = Case::random(random, true);
    let (claim, canonical) = claim_of(&case);
    assert!(keys.proves_request(&claim, &canonical));
    assert!(keys.is_kept(&claim));
    for number in 0..16 {
        let (other, canonical) = claim_of(&Case { region: format!("region-{number}"), ..case.clone() });
        let forged = ClaimedSignature { signature: EMPTY.to_owned(), ..other };
        assert!(!keys.proves_request(&forged, &canonical));
    }
    assert!(keys.is_kept(&claim));
    for number in 0..16 {
        let (other, canonical) = claim_of(&Case { region: format!("region-{number}"), ..case.clone() });
        assert!(keys.proves_request(&other, &canonical));
    }
    assert!(!keys.is_kept(&claim), "the cache has a bound");
}

fn encode(text: &str, slashes: bool) -> String {
    text.bytes().fold(String::new(), |out, b| match b {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            out + &char::from(b).to_string()
        }
        b'/' if !slashes => out + "/",
        _ => out + &format!("%{b:02X}"),
    })
}

fn hmac(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}
