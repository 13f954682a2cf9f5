//! The parts that a multipart upload is completed with.

use crate::keyspace::tables::{put_bytes, take_bytes};

/// The highest part number.
pub const PART_NUMBER_MAX: u16 = 10_000;
/// Least length of a part that is not the last, in bytes.
pub const PART_BYTES_MIN: u64 = 5 << 20;

/// Most extents that one copied part takes over: 5 GiB of an object of 5 MiB parts, two extents each, with room.
pub(crate) const COPIED_EXTENTS_MAX: usize = 4_096;
/// Most extents of an object: a row stays under 2 MiB.
pub(crate) const OBJECT_EXTENTS_MAX: usize = 65_536;
/// Longest object, in bytes: no origin takes a longer one.
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;

/// Part numbers with the ETags that the client holds, in their byte form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartNames<'a>(&'a [u8]);

impl<'a> PartNames<'a> {
    /// Appends a part (ETag without quotes) to what [`PartNames::of`] will read.
    pub fn encode_part(number: u16, etag: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(&number.to_le_bytes());
        put_bytes(out, etag.as_bytes());
    }

    /// What [`PartNames::encode_part`] wrote.
    pub fn of(encoded: &'a [u8]) -> PartNames<'a> {
        PartNames(encoded)
    }

    /// Number and ETag of each part, in the order given; ends at the first that is cut short.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (number, tail) = rest.split_first_chunk::<2>()?;
            rest = tail;
            Some((u16::from_le_bytes(*number), take_bytes(&mut rest)?))
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.0);
    }

    pub(super) fn decode(bytes: &mut &'a [u8]) -> Option<PartNames<'a>> {
        take_bytes(bytes).map(PartNames)
    }
}
