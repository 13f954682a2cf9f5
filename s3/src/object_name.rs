//! Names of objects as S3 shows them.
//!
//! Stand-in with the interface of `forebay_storage::object_name` until that is on main: UTF-8 only.

/// The S3 name of a key.
pub(crate) fn encode_key(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// The key behind an S3 name; `None` if no key has that name.
pub(crate) fn decode_key(name: &str) -> Option<Vec<u8>> {
    Some(name.as_bytes().to_vec())
}
