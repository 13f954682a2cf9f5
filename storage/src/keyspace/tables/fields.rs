//! The fields of which records are made: little-endian numbers, and bytes behind their length.

/// Takes a little-endian `u64` off the front.
#[inline]
pub(crate) fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*head))
}

/// Takes a little-endian `u32` off the front.
#[inline]
pub(crate) fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*head))
}

/// Takes one byte off the front.
#[inline]
pub(crate) fn take_u8(bytes: &mut &[u8]) -> Option<u8> {
    let (&head, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(head)
}

/// Takes bytes behind a little-endian `u32` length.
#[inline]
pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_u32(bytes)? as usize;
    let value = bytes.get(..len)?;
    *bytes = &bytes[len..];
    Some(value)
}

/// Appends bytes behind a little-endian `u32` length.
#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}
