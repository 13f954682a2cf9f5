//! Who may ask the admin server.
//!
//! With a token, every request but `/livez` and `/readyz` carries it. Without one the server listens on
//! loopback only, where the remaining danger is a web page in a browser on this machine: it can send
//! requests to 127.0.0.1, and by a name of its own that resolves there (DNS rebinding) read the answers.
//! So a `Host` that is not of this machine is refused, and a request that changes something must be of
//! type `application/json`, which a page of another origin cannot send without asking first.

use std::hint::black_box;
use std::net::IpAddr;

use http::{HeaderMap, StatusCode, header};

use super::reply::{Reply, error};
use crate::config::Secret;

/// Refuses a request that does not carry the token, or that comes from somewhere strange.
pub(crate) fn authorize(token: Option<&Secret>, headers: &HeaderMap) -> Result<(), Box<Reply>> {
    match token {
        Some(token) => check_bearer(token, headers),
        None => check_host(headers),
    }
}

/// Refuses a body that is not declared as JSON.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Box<Reply>> {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = declared.split(';').next().unwrap_or("").trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let cause = "send the body as JSON, with the header Content-Type: application/json";
    Err(Box::new(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, cause)))
}

fn check_bearer(token: &Secret, headers: &HeaderMap) -> Result<(), Box<Reply>> {
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    let scheme_and_token = given.split_at_checked(7);
    let matches = scheme_and_token.is_some_and(|(scheme, given)| {
        scheme.eq_ignore_ascii_case(b"Bearer ") && constant_time_eq(given, token.reveal().as_bytes())
    });
    if matches {
        return Ok(());
    }
    let cause = "this needs the admin token: send the header Authorization: Bearer TOKEN (the command line takes \
                 it from FOREBAY_ADMIN_TOKEN or FOREBAY_ADMIN_TOKEN_FILE)";
    let mut reply = error(StatusCode::UNAUTHORIZED, cause);
    reply.headers_mut().insert(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
    Err(Box::new(reply))
}

fn check_host(headers: &HeaderMap) -> Result<(), Box<Reply>> {
    let Some(host) = headers.get(header::HOST) else { return Ok(()) };
    if host.to_str().is_ok_and(is_local_host) {
        return Ok(());
    }
    let cause = "without a token the admin server answers only to localhost and IP addresses in the Host header; \
                 set FOREBAY_ADMIN_TOKEN to use another name";
    Err(Box::new(error(StatusCode::FORBIDDEN, cause)))
}

fn is_local_host(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// Compares without ending at the first difference, so that time tells nothing but the length.
fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (a, b)| black_box(differences | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_token_is_asked_for_and_compared_whole() {
        let token = Secret::new("swordfish");
        let ask = |value: &str| authorize(Some(&token), &headers(header::AUTHORIZATION, value)).is_ok();
        assert!(ask("Bearer swordfish") && ask("bearer swordfish"));
        for value in
            ["", "Bearer", "Bearer ", "Bearer swordfis", "Bearer swordfish ", "Basic swordfish", "swordfish"]
        {
            assert!(!ask(value), "{value:?}");
        }
        assert_eq!(
            authorize(Some(&token), &HeaderMap::new()).unwrap_err().status(),
            StatusCode::UNAUTHORIZED
        );
    }

    #[test]
    fn without_a_token_names_of_other_hosts_are_refused() {
        let ask = |value: &str| authorize(None, &headers(header::HOST, value)).is_ok();
        for host in ["localhost:19080", "127.0.0.1:19080", "[::1]:19080", "127.0.0.1"] {
            assert!(ask(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:19080", "127.0.0.1.evil.example", "@", ""] {
            assert!(!ask(host), "{host}");
        }
    }

    #[test]
    fn changes_must_be_json() {
        assert!(require_json(&headers(header::CONTENT_TYPE, "application/json; charset=utf-8")).is_ok());
        assert!(require_json(&headers(header::CONTENT_TYPE, "text/plain")).is_err());
        assert!(require_json(&HeaderMap::new()).is_err());
    }
}
