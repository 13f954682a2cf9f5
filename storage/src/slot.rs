//! Slots.
/// Number of slots.
pub const SLOTS: u16 = 2048;
/// The slot of an object key (hash tag honoured): crc16(tag or key) mod 16384 / 8.
pub fn slot_of(key: &[u8]) -> u16 {
    redis_protocol::redis_keyslot(key) / 8
}
