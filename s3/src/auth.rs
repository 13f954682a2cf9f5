//! What the front layer itself must know of Signature Version 4, before and beside s3s.
//!
//! Owns: reading the claimed signature out of the `Authorization` header or the query, refusing what it
//! does not cover (unsigned `x-amz-*` headers), clock skew and expiry with the fields S3 answers, and the
//! signing keys. Does not own: the canonical request that the claim is compared with (`signature`, else
//! s3s), after this. So a claim may not be taken as proof of who sent the request until one of them agreed.
//!
//! Invariant: every `x-amz-*` header that any operation reads is one that the signature covers.

use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::{Digest, Sha256};
use time::{Date, Duration, Month, OffsetDateTime};

use crate::config::{PRESIGNED_SECONDS_MAX, S3Config, SecretAccessKey};
use crate::error::Refused;
use crate::query::Query;

/// The one algorithm that is let in.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Where the signature stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignatureForm {
    /// In the `Authorization` header.
    Header,
    /// In the query: a presigned URL.
    Presigned,
}

/// The signature a request claims. `signature` or s3s verifies it; chunk signatures are chained to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimedSignature {
    pub(crate) form: SignatureForm,
    pub(crate) access_key_id: String,
    /// `YYYYMMDDTHHMMSSZ`, as sent.
    pub(crate) timestamp: String,
    /// `YYYYMMDD` of the scope.
    pub(crate) date: String,
    pub(crate) region: String,
    /// 64 hex digits.
    pub(crate) signature: String,
    /// As sent: names with `;` between them.
    pub(crate) signed_headers: String,
    pub(crate) signed_at: OffsetDateTime,
    /// Validity of a presigned URL.
    pub(crate) expires: Option<Duration>,
}

impl ClaimedSignature {
    /// Reads the claim of a request; `None` for an anonymous one.
    pub(crate) fn read(headers: &HeaderMap, query: &Query) -> Result<Option<ClaimedSignature>, Refused> {
        // Signature Version 2 knows no skew for headers and covers no body; s3s would still take it.
        if query.has("Signature") || query.has("AWSAccessKeyId") {
            return Err(Refused::new("InvalidRequest", 400, PRESIGNED_WITH_VERSION_2));
        }
        for name in
            ["host", "authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-decoded-content-length"]
        {
            if headers.get_all(name).iter().count() > 1 {
                return Err(Refused::new("InvalidRequest", 400, format!("the header {name} is sent twice")));
            }
        }
        let in_header = headers.get(http::header::AUTHORIZATION);
        let in_query = query.has("X-Amz-Signature") || query.has("X-Amz-Algorithm");
        match (in_header, in_query) {
            (None, false) => Ok(None),
            (Some(_), true) => Err(Refused::new(
                "InvalidArgument",
                400,
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter or the \
                 Authorization header should be specified",
            )),
            (Some(value), false) => {
                let value = value.to_str().map_err(|_| malformed_header("not ASCII"))?;
                Self::from_header(value, headers).map(Some)
            }
            (None, true) => Self::from_query(query).map(Some),
        }
    }

    fn from_header(value: &str, headers: &HeaderMap) -> Result<ClaimedSignature, Refused> {
        let Some(fields) = value.strip_prefix(ALGORITHM).and_then(|rest| rest.strip_prefix(' ')) else {
            return Err(Refused::new("InvalidRequest", 400, UNSUPPORTED_MECHANISM));
        };
        // s3s reads the three fields in exactly this order too: both must see the same list of headers.
        let mut fields = fields.split(',').map(str::trim);
        let mut field = |name: &str| {
            fields
                .next()
                .and_then(|field| field.strip_prefix(name))
                .and_then(|field| field.strip_prefix('='))
                .ok_or_else(|| malformed_header(&format!("{name} is missing or out of order")))
        };
        let credential = field("Credential")?;
        let signed_headers = field("SignedHeaders")?;
        let signature = field("Signature")?;
        if fields.next().is_some() {
            return Err(malformed_header("unknown field"));
        }
        let timestamp = headers.get("x-amz-date").and_then(|value| value.to_str().ok()).ok_or_else(|| {
            Refused::new("AccessDenied", 403, "AWS authentication requires a valid x-amz-date header")
        })?;
        Self::from_parts(SignatureForm::Header, credential, timestamp, signed_headers, signature, None)
    }

    fn from_query(query: &Query) -> Result<ClaimedSignature, Refused> {
        let get = |name: &str| match (query.count(name), query.get(name)) {
            (1, Some(value)) => Ok(value),
            _ => Err(query_error(format!("{name} must be given exactly once"))),
        };
        if get("X-Amz-Algorithm")? != ALGORITHM {
            return Err(query_error("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"".to_owned()));
        }
        let seconds: u64 = get("X-Amz-Expires")?
            .parse()
            .map_err(|_| query_error("X-Amz-Expires should be a number".to_owned()))?;
        if seconds > PRESIGNED_SECONDS_MAX {
            return Err(query_error(format!(
                "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must \
                 be less than {PRESIGNED_SECONDS_MAX} seconds"
            )));
        }
        Self::from_parts(
            SignatureForm::Presigned,
            get("X-Amz-Credential")?,
            get("X-Amz-Date")?,
            get("X-Amz-SignedHeaders")?,
            get("X-Amz-Signature")?,
            Some(Duration::seconds(seconds as i64)),
        )
    }

    fn from_parts(
        form: SignatureForm,
        credential: &str,
        timestamp: &str,
        signed_headers: &str,
        signature: &str,
        expires: Option<Duration>,
    ) -> Result<ClaimedSignature, Refused> {
        let malformed = |what: &str| match form {
            SignatureForm::Header => malformed_header(what),
            SignatureForm::Presigned => query_error(what.to_owned()),
        };
        let mut scope = credential.rsplitn(5, '/');
        let (terminator, service, region, date, access_key) =
            (scope.next(), scope.next(), scope.next(), scope.next(), scope.next());
        let (Some("aws4_request"), Some(service), Some(region), Some(date), Some(access_key_id)) =
            (terminator, service, region, date, access_key)
        else {
            return Err(malformed("the credential must be KEY/YYYYMMDD/REGION/s3/aws4_request"));
        };
        if service != "s3" {
            return Err(malformed("the service of the credential must be s3"));
        }
        let signed_at =
            parse_timestamp(timestamp).ok_or_else(|| malformed("the date is not ISO 8601 basic"))?;
        if !timestamp.starts_with(date) || date.len() != 8 {
            return Err(malformed("the date of the credential is not that of the request"));
        }
        if signature.len() != 64 || !signature.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(malformed("the signature must be 64 hex digits"));
        }
        Ok(ClaimedSignature {
            form,
            access_key_id: access_key_id.to_owned(),
            timestamp: timestamp.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            signature: signature.to_owned(),
            signed_headers: signed_headers.to_owned(),
            signed_at,
            expires,
        })
    }

    /// Refuses a request with an `x-amz-*` header (or `host`) that the signature does not cover: whoever
    /// holds a presigned URL could otherwise add meaning to it.
    pub(crate) fn check_coverage(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let signed = |name: &str| self.signed_headers().any(|signed| signed == name);
        if !signed("host") {
            return Err(unsigned("host"));
        }
        for name in headers.keys() {
            let name = name.as_str();
            // The body's hash only narrows what a presigned request may carry, and clients add it unsigned.
            let narrows = self.form == SignatureForm::Presigned && name == "x-amz-content-sha256";
            if name.starts_with("x-amz-") && !narrows && !signed(name) {
                return Err(unsigned(name));
            }
        }
        Ok(())
    }

    /// Refuses a request that was signed too long ago, or in the future.
    pub(crate) fn check_time(&self, now: OffsetDateTime, config: &S3Config) -> Result<(), Refused> {
        let skew_max = Duration::try_from(config.skew_max).unwrap_or(Duration::MAX);
        let age = now - self.signed_at;
        let too_skewed = || {
            Refused::new(
                "RequestTimeTooSkewed",
                403,
                "The difference between the request time and the current time is too large.",
            )
            .with("RequestTime", self.timestamp.clone())
            .with("ServerTime", crate::timestamp::rfc3339_seconds(now))
            .with("MaxAllowedSkewMilliseconds", config.skew_max.as_millis().to_string())
        };
        match self.expires {
            None if age.abs() > skew_max => Err(too_skewed()),
            Some(_) if age.is_negative() && age.abs() > skew_max => Err(too_skewed()),
            Some(expires) if age > expires => Err(Refused::new("AccessDenied", 403, "Request has expired")
                .with("X-Amz-Expires", expires.whole_seconds().to_string())
                .with("Expires", crate::timestamp::rfc3339_seconds(self.signed_at.saturating_add(expires)))
                .with("ServerTime", crate::timestamp::rfc3339_seconds(now))),
            _ => Ok(()),
        }
    }

    /// The names of the headers that the signature covers.
    pub(crate) fn signed_headers(&self) -> impl Iterator<Item = &str> {
        self.signed_headers.split(';')
    }

    /// The scope as it stands in strings to sign.
    pub(crate) fn scope(&self) -> String {
        format!("{}/{}/s3/aws4_request", self.date, self.region)
    }
}

/// Signing keys kept at once: clients name the region as they like, and around midnight there are two dates.
const SIGNING_KEYS_MAX: usize = 4;

/// Derived signing keys, kept for the scopes that were proven last: deriving one costs four HMACs.
pub(crate) struct SigningKeys {
    secret: SecretAccessKey,
    /// Newest last; locked for a comparison and a copy.
    recent: Mutex<Vec<KeyOfScope>>,
}

struct KeyOfScope {
    date: String,
    region: String,
    key: SigningKey,
}

/// The key of one day and region, as an HMAC that has taken it in.
#[derive(Clone)]
pub(crate) struct SigningKey(Hmac<Sha256>);

impl SigningKeys {
    pub(crate) fn new(secret: SecretAccessKey) -> SigningKeys {
        SigningKeys { secret, recent: Mutex::new(Vec::with_capacity(SIGNING_KEYS_MAX)) }
    }

    /// The key for this claim's date and region, of a request that was proven.
    pub(crate) fn key(&self, claim: &ClaimedSignature) -> SigningKey {
        self.kept(claim).unwrap_or_else(|| {
            let key = SigningKey::derive(&self.secret, &claim.date, &claim.region);
            self.keep(claim, key.clone());
            key
        })
    }

    /// Whether the claimed signature is that of this canonical request, in lower-case hex.
    pub(crate) fn proves_request(&self, claim: &ClaimedSignature, canonical_request: &[u8]) -> bool {
        if claim.signature.bytes().any(|b| b.is_ascii_uppercase()) {
            return false;
        }
        let kept = self.kept(claim);
        let is_new = kept.is_none();
        let key = kept.unwrap_or_else(|| SigningKey::derive(&self.secret, &claim.date, &claim.region));
        let text = format!(
            "{ALGORITHM}\n{}\n{}/{}/s3/aws4_request\n{}",
            claim.timestamp,
            claim.date,
            claim.region,
            sha256_hex(canonical_request)
        );
        let proven = key.verify(&text, claim.signature.as_bytes());
        // Only now: a stranger must not be able to push out the keys of those who may.
        if proven && is_new {
            self.keep(claim, key);
        }
        proven
    }

    #[cfg(test)]
    pub(crate) fn is_kept(&self, claim: &ClaimedSignature) -> bool {
        self.kept(claim).is_some()
    }

    fn kept(&self, claim: &ClaimedSignature) -> Option<SigningKey> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|kept| kept.is_of(claim)).map(|kept| kept.key.clone())
    }

    fn keep(&self, claim: &ClaimedSignature, key: SigningKey) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.iter().any(|kept| kept.is_of(claim)) {
            return;
        }
        if recent.len() >= SIGNING_KEYS_MAX {
            recent.remove(0);
        }
        recent.push(KeyOfScope { date: claim.date.clone(), region: claim.region.clone(), key });
    }
}

impl KeyOfScope {
    fn is_of(&self, claim: &ClaimedSignature) -> bool {
        self.date == claim.date && self.region == claim.region
    }
}

impl SigningKey {
    pub(crate) fn derive(secret: &SecretAccessKey, date: &str, region: &str) -> SigningKey {
        let seed = format!("AWS4{}", secret.expose());
        let date_key = hmac(seed.as_bytes(), date.as_bytes());
        let region_key = hmac(&date_key, region.as_bytes());
        let service_key = hmac(&region_key, b"s3");
        SigningKey(mac(&hmac(&service_key, b"aws4_request")))
    }

    /// Signs; lower-case hex.
    #[cfg(test)]
    pub(crate) fn sign(&self, text: &str) -> String {
        hex::encode(self.0.clone().chain_update(text).finalize().into_bytes())
    }

    /// Compares in constant time.
    pub(crate) fn verify(&self, text: &str, signature_hex: &[u8]) -> bool {
        let mut signature = [0; 32];
        if hex::decode_to_slice(signature_hex, &mut signature).is_err() {
            return false;
        }
        self.0.clone().chain_update(text).verify_slice(&signature).is_ok()
    }
}

/// Lower-case hex of a SHA-256.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn hmac(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    mac(key).chain_update(bytes).finalize().into_bytes().into()
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

/// Reads `YYYYMMDDTHHMMSSZ`, digits only.
fn parse_timestamp(text: &str) -> Option<OffsetDateTime> {
    let bytes: &[u8; 16] = text.as_bytes().try_into().ok()?;
    if bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0u16, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0'))
        })
    };
    let two = |at: usize| number(&bytes[at..at + 2]).map(|number| number as u8);
    let month = Month::try_from(two(4)?).ok()?;
    let date = Date::from_calendar_date(i32::from(number(&bytes[..4])?), month, two(6)?).ok()?;
    Some(date.with_hms(two(9)?, two(11)?, two(13)?).ok()?.assume_utc())
}

const UNSUPPORTED_MECHANISM: &str = "The authorization mechanism you have provided is not supported. Please use \
                                     AWS4-HMAC-SHA256.";

/// boto3 and aws-cli still presign this way for endpoints of one's own in us-east-1.
const PRESIGNED_WITH_VERSION_2: &str = "This URL is presigned with Signature Version 2, which is not supported. \
                                        Please use AWS4-HMAC-SHA256: set signature_version to s3v4 in the \
                                        client (aws configure set default.s3.signature_version s3v4).";

fn malformed_header(what: &str) -> Refused {
    Refused::new(
        "AuthorizationHeaderMalformed",
        400,
        format!("The authorization header is malformed; {what}"),
    )
}

fn query_error(what: String) -> Refused {
    Refused::new("AuthorizationQueryParametersError", 400, what)
}

fn unsigned(name: &str) -> Refused {
    Refused::new(
        "AccessDenied",
        403,
        format!("There were headers present in the request which were not signed: {name}"),
    )
    .with("HeadersNotSigned", name)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const SIGNATURE: &str = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        map
    }

    fn authorization(signed: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKID/20130524/us-east-1/s3/aws4_request,SignedHeaders={signed}, \
             Signature={SIGNATURE}"
        )
    }

    fn claim(extra: &[(&str, &str)], signed: &str) -> Result<ClaimedSignature, Refused> {
        let authorization = authorization(signed);
        let mut pairs = vec![("authorization", authorization.as_str()), ("x-amz-date", "20130524T000000Z")];
        pairs.extend_from_slice(extra);
        let headers = headers(&pairs);
        let claim = ClaimedSignature::read(&headers, &Query::default())?.expect("a claim");
        claim.check_coverage(&headers)?;
        Ok(claim)
    }

    fn presigned(changes: &[(&str, &str)]) -> Query {
        let mut pairs = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", "AKID/20130524/us-east-1/s3/aws4_request"),
            ("X-Amz-Date", "20130524T000000Z"),
            ("X-Amz-Expires", "86400"),
            ("X-Amz-SignedHeaders", "host"),
            ("X-Amz-Signature", SIGNATURE),
        ];
        for (name, value) in changes {
            match pairs.iter_mut().find(|(n, _)| n == name) {
                Some(pair) => pair.1 = value,
                None => pairs.push((name, value)),
            }
        }
        Query::parse(&pairs.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("&"))
    }

    fn config() -> S3Config {
        S3Config::new("AKID", SecretAccessKey::new("secret"))
    }

    #[test]
    fn anonymous_requests_claim_nothing() {
        assert_eq!(ClaimedSignature::read(&HeaderMap::new(), &Query::default()).ok(), Some(None));
    }

    #[test]
    fn header_with_everything_signed_is_read() {
        let claim = claim(&[("host", "h")], "host;x-amz-date").expect("fine");
        assert_eq!(claim.scope(), "20130524/us-east-1/s3/aws4_request");
        assert_eq!(claim.signature, SIGNATURE);
    }

    #[test]
    fn unsigned_amz_header_is_refused_by_name() {
        let refused =
            claim(&[("x-amz-copy-source", "/secret/key")], "host;x-amz-date").expect_err("unsigned");
        assert_eq!((refused.code(), refused.status()), ("AccessDenied", 403));
        assert!(refused.message().contains("x-amz-copy-source"));
        assert!(claim(&[], "host").is_err(), "x-amz-date itself unsigned");
        assert!(claim(&[], "x-amz-date").is_err(), "host unsigned");
        assert!(claim(&[("range", "bytes=0-1")], "host;x-amz-date").is_ok());
    }

    #[test]
    fn presigned_takes_an_unsigned_body_hash_only() {
        let claim =
            ClaimedSignature::read(&HeaderMap::new(), &presigned(&[])).expect("reads").expect("claims");
        assert_eq!(claim.form, SignatureForm::Presigned);
        assert!(claim.check_coverage(&headers(&[("x-amz-content-sha256", "UNSIGNED-PAYLOAD")])).is_ok());
        assert!(claim.check_coverage(&headers(&[("x-amz-meta-a", "b")])).is_err());
    }

    #[test]
    fn two_mechanisms_and_version_two_are_refused() {
        let both = headers(&[("authorization", &authorization("host")), ("x-amz-date", "20130524T000000Z")]);
        assert!(ClaimedSignature::read(&both, &presigned(&[])).is_err());
        let v2 = headers(&[("authorization", "AWS AKID:frJIUN8DYpKDtOLCwo//yllqDzg=")]);
        assert!(ClaimedSignature::read(&v2, &Query::default()).is_err());
        let v2 = Query::parse("AWSAccessKeyId=AKID&Expires=1141889120&Signature=vjbyPxybd");
        assert!(ClaimedSignature::read(&HeaderMap::new(), &v2).is_err());
        let twice = headers(&[("authorization", &authorization("host")), ("authorization", "x")]);
        assert!(ClaimedSignature::read(&twice, &Query::default()).is_err());
    }

    #[test]
    fn malformed_claims_are_refused() {
        for (name, value) in [
            ("X-Amz-Credential", "AKID/20130524/us-east-1/sts/aws4_request"),
            ("X-Amz-Credential", "AKID/20130525/us-east-1/s3/aws4_request"),
            ("X-Amz-Credential", "us-east-1/s3/aws4_request"),
            ("X-Amz-Date", "yesterday"),
            ("X-Amz-Expires", "604801"),
            ("X-Amz-Expires", "-1"),
            ("X-Amz-Signature", "abc"),
            ("X-Amz-Algorithm", "AWS4-ECDSA-P256-SHA256"),
        ] {
            assert!(
                ClaimedSignature::read(&HeaderMap::new(), &presigned(&[(name, value)])).is_err(),
                "{name}={value}"
            );
        }
    }

    #[test]
    fn skew_names_both_times_and_the_limit() {
        let claim = claim(&[], "host;x-amz-date").expect("fine");
        let at = |seconds: i64| claim.signed_at + Duration::seconds(seconds);
        for fine in [0, 900, -900] {
            assert!(claim.check_time(at(fine), &config()).is_ok(), "{fine}");
        }
        for bad in [901, -901] {
            let refused = claim.check_time(at(bad), &config()).expect_err("skewed");
            assert_eq!((refused.code(), refused.status()), ("RequestTimeTooSkewed", 403));
            let xml = refused.to_xml("/", "ID", "HOST");
            for part in [
                "<RequestTime>20130524T000000Z</RequestTime>",
                "<ServerTime>2013-05-2",
                "<MaxAllowedSkewMilliseconds>900000</MaxAllowedSkewMilliseconds>",
            ] {
                assert!(xml.contains(part), "{part} in {xml}");
            }
        }
    }

    #[test]
    fn presigned_lives_until_it_expires() {
        let claim =
            ClaimedSignature::read(&HeaderMap::new(), &presigned(&[])).expect("reads").expect("claims");
        let at = |seconds: i64| claim.signed_at + Duration::seconds(seconds);
        assert!(claim.check_time(at(86_400), &config()).is_ok());
        assert!(claim.check_time(at(-900), &config()).is_ok());
        assert_eq!(claim.check_time(at(86_401), &config()).expect_err("expired").code(), "AccessDenied");
        assert_eq!(claim.check_time(at(-901), &config()).expect_err("future").code(), "RequestTimeTooSkewed");
    }

    /// The example of the AWS documentation, "Signature Calculations: Transferring Payload in Multiple
    /// Chunks".
    #[test]
    fn chunk_signature_of_the_aws_example() {
        let secret = SecretAccessKey::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let key = SigningKey::derive(&secret, "20130524", "us-east-1");
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n\
             4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9\n{}\n{}",
            sha256_hex(b""),
            sha256_hex(&[b'a'; 65_536]),
        );
        let expected = "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648";
        assert_eq!(key.sign(&text), expected);
        assert!(key.verify(&text, expected.as_bytes()));
        assert!(!key.verify(&text, SIGNATURE.as_bytes()));
    }
}
