//! Request ids: one per request, in the answer's headers, in error bodies and in the log.

use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;

/// Makes ids that are unique within a run and, by a random start, most likely across runs.
pub(crate) struct RequestIds {
    next: AtomicU64,
    host_id: HeaderValue,
    host_id_text: String,
}

/// The id of one request: 16 upper-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId(u64);

impl RequestIds {
    /// Seeds the ids from the operating system.
    pub(crate) fn new() -> std::io::Result<RequestIds> {
        let mut seed = [0u8; 8];
        let mut host = [0u8; 24];
        for bytes in [&mut seed[..], &mut host] {
            getrandom::fill(bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
        }
        let host_id_text = hex::encode(host);
        let host_id = HeaderValue::from_str(&host_id_text).map_err(std::io::Error::other)?;
        Ok(RequestIds { next: AtomicU64::new(u64::from_le_bytes(seed)), host_id, host_id_text })
    }

    /// The next id.
    pub(crate) fn next(&self) -> RequestId {
        // An odd multiplier is a bijection of u64, so ids stay unique and neighbours look unlike.
        RequestId(self.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// `x-amz-id-2` of this run.
    pub(crate) fn host_id(&self) -> (&HeaderValue, &str) {
        (&self.host_id, &self.host_id_text)
    }
}

impl RequestId {
    /// As text in a header.
    pub(crate) fn header(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.digits()).unwrap_or(HeaderValue::from_static("0"))
    }

    fn digits(self) -> [u8; 16] {
        let mut digits = [0; 16];
        for (i, digit) in digits.iter_mut().enumerate() {
            *digit = b"0123456789ABCDEF"[((self.0 >> (60 - 4 * i)) & 15) as usize];
        }
        digits
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_text_agree_and_ids_differ() {
        let ids = RequestIds::new().expect("random bytes");
        let (a, b) = (ids.next(), ids.next());
        assert_ne!(a, b);
        assert_eq!(a.header().to_str().ok(), Some(a.to_string().as_str()));
        assert_eq!(a.to_string().len(), 16);
    }
}
