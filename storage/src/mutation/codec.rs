//! The byte form of mutations: to disk and, with more nodes, over the network.
//!
//! A tag per mutation, then its fields; old tags stay readable, and decoding trusts no length.

use super::{
    AdoptedHead, Existence, ExpireIf, Guard, ImportState, MountMode, Mutation, PartNames, Payload, PutIf,
    SetExpiry, TransferStep,
};
use crate::keyspace::tables::{put_bytes, take_bytes, take_u8, take_u32, take_u64};
use crate::object::{BucketId, KEY_BYTES_MAX, Version};

/// Nesting that the codec allows: EXEC around MSETNX.
const ATOMIC_DEPTH_MAX: u32 = 2;

impl<'a> Mutation<'a> {
    /// Appends the byte form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Mutation::SetString { bucket, key, value, expiry, existence } => {
                out.push(1);
                let expiry_tag = match expiry {
                    SetExpiry::Clear => 0,
                    SetExpiry::Keep => 1,
                    SetExpiry::At(_) => 2,
                };
                out.push(expiry_tag | (existence_tag(*existence) << 4));
                put_key(out, *bucket, key);
                value.encode(out);
                if let SetExpiry::At(at) = expiry {
                    out.extend_from_slice(&at.to_le_bytes());
                }
            }
            Mutation::Append { bucket, key, value } => {
                out.push(2);
                put_key(out, *bucket, key);
                value.encode(out);
            }
            Mutation::SetRange { bucket, key, offset, value } => {
                out.push(3);
                put_key(out, *bucket, key);
                out.extend_from_slice(&offset.to_le_bytes());
                value.encode(out);
            }
            Mutation::IncrBy { bucket, key, delta } => {
                out.push(4);
                put_key(out, *bucket, key);
                out.extend_from_slice(&delta.to_le_bytes());
            }
            Mutation::IncrByFloat { bucket, key, delta } => {
                out.push(5);
                put_key(out, *bucket, key);
                put_bytes(out, delta);
            }
            Mutation::Delete { bucket, key } => {
                out.push(6);
                put_key(out, *bucket, key);
            }
            Mutation::Expire { bucket, key, at_ms, condition } => {
                out.push(7);
                let c = condition;
                out.push(u8::from(c.nx) | u8::from(c.xx) << 1 | u8::from(c.gt) << 2 | u8::from(c.lt) << 3);
                put_key(out, *bucket, key);
                out.extend_from_slice(&at_ms.to_le_bytes());
            }
            Mutation::Persist { bucket, key } => {
                out.push(8);
                put_key(out, *bucket, key);
            }
            Mutation::Rename { bucket, from, to, if_absent } => {
                out.push(9);
                out.push(u8::from(*if_absent));
                put_key(out, *bucket, from);
                put_bytes(out, to);
            }
            Mutation::Copy { from_bucket, from, to_bucket, to, replace } => {
                out.push(10);
                out.push(u8::from(*replace));
                put_key(out, *from_bucket, from);
                put_key(out, *to_bucket, to);
            }
            Mutation::PutObject { bucket, key, value, meta, md5, condition } => {
                out.push(11);
                out.push(condition_tag(condition) | u8::from(md5.is_none()) << 2);
                put_key(out, *bucket, key);
                value.encode(out);
                put_bytes(out, meta);
                out.extend_from_slice(md5.as_ref().map_or(&[][..], |md5| md5));
                put_condition(out, condition);
            }
            Mutation::Rewrite { bucket, key, version, value } => {
                out.push(12);
                put_key(out, *bucket, key);
                out.extend_from_slice(&version.0.to_le_bytes());
                value.encode(out);
            }
            Mutation::CreateBucket { name } => {
                out.push(13);
                put_bytes(out, name);
            }
            Mutation::DeleteBucket { name } => {
                out.push(14);
                put_bytes(out, name);
            }
            Mutation::FlushBucket { bucket } => {
                out.push(15);
                out.extend_from_slice(&bucket.0.to_le_bytes());
            }
            Mutation::ExpireDue { bucket, key } => {
                out.push(16);
                put_key(out, *bucket, key);
            }
            Mutation::Sweep { bucket, key } => {
                out.push(17);
                put_key(out, *bucket, key);
            }
            Mutation::SweepDone { bucket, epoch } => {
                out.push(26);
                out.extend_from_slice(&bucket.0.to_le_bytes());
                out.extend_from_slice(&epoch.0.to_le_bytes());
            }
            Mutation::Mount { bucket, prefix, origin, origin_prefix, mode, flushall, revalidate } => {
                out.push(18);
                out.push(mode_tag(*mode) | u8::from(*flushall) << 1 | u8::from(*revalidate) << 4);
                put_bytes(out, bucket);
                put_bytes(out, prefix);
                put_bytes(out, origin.as_bytes());
                put_bytes(out, origin_prefix.as_bytes());
            }
            Mutation::MountAttached { mount, existing } => {
                // Tag 19, without a flag, was written of prefixes that were empty.
                out.push(43);
                out.push(u8::from(*existing));
                out.extend_from_slice(&mount.to_le_bytes());
            }
            Mutation::Adopt { bucket, key, mount, read_at, replaces, head } => {
                out.push(44);
                out.push(u8::from(replaces.is_some()));
                put_key(out, *bucket, key);
                out.extend_from_slice(&mount.to_le_bytes());
                let AdoptedHead { len, modified_ms, origin_etag, etag, meta } = head;
                for number in [read_at.0, replaces.unwrap_or(Version::ZERO).0, *len, *modified_ms] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                put_bytes(out, origin_etag.as_bytes());
                put_bytes(out, etag.as_bytes());
                put_bytes(out, meta);
            }
            Mutation::Vanish { bucket, key, mount, version, read_at } => {
                out.push(45);
                put_key(out, *bucket, key);
                out.extend_from_slice(&mount.to_le_bytes());
                out.extend_from_slice(&version.0.to_le_bytes());
                out.extend_from_slice(&read_at.0.to_le_bytes());
            }
            Mutation::ImportNote { mount, after, listed, adopted, state } => {
                out.push(46);
                out.push(import_tag(*state));
                out.extend_from_slice(&mount.to_le_bytes());
                out.extend_from_slice(&listed.to_le_bytes());
                out.extend_from_slice(&adopted.to_le_bytes());
                put_bytes(out, after);
            }
            Mutation::MountForget { mount, abandon } => {
                out.push(40);
                out.push(u8::from(*abandon));
                out.extend_from_slice(&mount.to_le_bytes());
            }
            Mutation::MarkDirty { bucket, key } => {
                out.push(20);
                put_key(out, *bucket, key);
            }
            Mutation::FlushStarted { bucket, key, version, deadline_ms } => {
                out.push(21);
                put_key(out, *bucket, key);
                out.extend_from_slice(&version.0.to_le_bytes());
                out.extend_from_slice(&deadline_ms.to_le_bytes());
            }
            Mutation::Flushed { bucket, key, version, origin_etag, mount } => {
                out.push(22);
                out.push(u8::from(origin_etag.is_some()) | u8::from(mount.is_some()) << 1);
                put_key(out, *bucket, key);
                out.extend_from_slice(&version.0.to_le_bytes());
                put_bytes(out, origin_etag.unwrap_or("").as_bytes());
                if let Some(mount) = mount {
                    out.extend_from_slice(&mount.to_le_bytes());
                }
            }
            Mutation::Transfer { bucket, key, version, upload_id, step } => {
                out.push(41);
                put_key(out, *bucket, key);
                out.extend_from_slice(&version.0.to_le_bytes());
                put_bytes(out, upload_id.as_bytes());
                match step {
                    TransferStep::Begun { part_bytes, crc32c } => {
                        out.extend_from_slice(&[0, u8::from(*crc32c)]);
                        out.extend_from_slice(&part_bytes.to_le_bytes());
                    }
                    TransferStep::Sent { number, etag, crc32c } => {
                        out.extend_from_slice(&[1, u8::from(crc32c.is_some())]);
                        out.extend_from_slice(&crc32c.unwrap_or(0).to_le_bytes());
                        out.extend_from_slice(&number.to_le_bytes());
                        put_bytes(out, etag.as_bytes());
                    }
                    TransferStep::Forgotten => out.push(2),
                    TransferStep::Asked { from_ms, until_ms } => {
                        out.push(3);
                        out.extend_from_slice(&from_ms.to_le_bytes());
                        out.extend_from_slice(&until_ms.to_le_bytes());
                    }
                    TransferStep::Refused => out.push(4),
                    TransferStep::Looked { mount, until_ms } => {
                        out.push(5);
                        out.extend_from_slice(&mount.to_le_bytes());
                        out.extend_from_slice(&until_ms.to_le_bytes());
                    }
                    TransferStep::Lost => out.push(6),
                }
            }
            Mutation::TransferGone { version, mount } => {
                out.push(if mount.is_some() { 50 } else { 42 });
                out.extend_from_slice(&version.0.to_le_bytes());
                out.extend(mount.iter().flat_map(|mount| mount.to_le_bytes()));
            }
            Mutation::FlushPark { bucket, key, version, reason } => {
                out.push(23);
                put_key(out, *bucket, key);
                out.extend_from_slice(&version.0.to_le_bytes());
                put_bytes(out, reason.as_bytes());
            }
            Mutation::FlushAbandon { bucket, key, version } => {
                out.push(24);
                put_key(out, *bucket, key);
                out.extend_from_slice(&version.0.to_le_bytes());
            }
            Mutation::AbortBefore { node } => {
                out.push(27);
                out.extend_from_slice(&node.to_le_bytes());
            }
            Mutation::CopyObject { from_bucket, from, source, to_bucket, to, meta, condition } => {
                out.push(28);
                out.push(condition_tag(condition) | u8::from(meta.is_some()) << 2);
                put_key(out, *from_bucket, from);
                out.extend_from_slice(&source.0.to_le_bytes());
                put_key(out, *to_bucket, to);
                put_bytes(out, meta.unwrap_or(&[]));
                put_condition(out, condition);
            }
            Mutation::CreateUpload { bucket, key, meta, options } => {
                out.push(29);
                put_key(out, *bucket, key);
                put_bytes(out, meta);
                put_bytes(out, options);
            }
            Mutation::PutPart { bucket, key, upload, number, value, meta, md5 } => {
                out.push(30);
                out.push(u8::from(md5.is_none()));
                put_part(out, *bucket, key, *upload, *number);
                value.encode(out);
                put_bytes(out, meta);
                out.extend_from_slice(md5.as_ref().map_or(&[][..], |md5| md5));
            }
            Mutation::CopyPart { bucket, key, upload, number, from_bucket, from, source, start, len } => {
                out.push(31);
                put_part(out, *bucket, key, *upload, *number);
                put_key(out, *from_bucket, from);
                for number in [source.0, *start, *len] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            Mutation::CompleteUpload { bucket, key, upload, parts, etag, checksum, condition } => {
                out.push(32);
                out.push(condition_tag(condition) | u8::from(etag.is_some()) << 2);
                put_key(out, *bucket, key);
                out.extend_from_slice(&upload.0.to_le_bytes());
                parts.encode(out);
                put_bytes(out, etag.unwrap_or("").as_bytes());
                put_bytes(out, checksum);
                put_condition(out, condition);
            }
            Mutation::AbortUpload { bucket, key, upload } => {
                out.push(33);
                put_key(out, *bucket, key);
                out.extend_from_slice(&upload.0.to_le_bytes());
            }
            Mutation::Hold { bucket, key, version } => {
                out.push(36);
                put_key(out, *bucket, key);
                // No object has the version zero.
                out.extend_from_slice(&version.unwrap_or(Version::ZERO).0.to_le_bytes());
            }
            Mutation::Release { bucket, key, version } => {
                out.push(37);
                put_key(out, *bucket, key);
                out.extend_from_slice(&version.0.to_le_bytes());
            }
            Mutation::Atomic { guards, mutations } => {
                encode_atomic_head(out, guards, mutations.len() as u32);
                for mutation in mutations {
                    mutation.encode(out);
                }
            }
        }
    }

    /// Takes one mutation off the front of `bytes`; `None` if they are malformed.
    pub(crate) fn decode(bytes: &mut &'a [u8]) -> Option<Mutation<'a>> {
        Mutation::decode_at(bytes, 0)
    }

    fn decode_at(b: &mut &'a [u8], depth: u32) -> Option<Mutation<'a>> {
        Some(match take_u8(b)? {
            1 => {
                let tags = take_u8(b)?;
                let (bucket, key) = take_key(b)?;
                let value = Payload::decode(b)?;
                let expiry = match tags & 15 {
                    0 => SetExpiry::Clear,
                    1 => SetExpiry::Keep,
                    2 => SetExpiry::At(take_u64(b)?),
                    _ => return None,
                };
                let existence = match tags >> 4 {
                    0 => Existence::Any,
                    1 => Existence::Absent,
                    2 => Existence::Present,
                    _ => return None,
                };
                Mutation::SetString { bucket, key, value, expiry, existence }
            }
            2 => {
                let (bucket, key) = take_key(b)?;
                Mutation::Append { bucket, key, value: Payload::decode(b)? }
            }
            3 => {
                let (bucket, key) = take_key(b)?;
                Mutation::SetRange { bucket, key, offset: take_u64(b)?, value: Payload::decode(b)? }
            }
            4 => {
                let (bucket, key) = take_key(b)?;
                Mutation::IncrBy { bucket, key, delta: take_u64(b)? as i64 }
            }
            5 => {
                let (bucket, key) = take_key(b)?;
                Mutation::IncrByFloat { bucket, key, delta: take_bytes(b)? }
            }
            6 => {
                let (bucket, key) = take_key(b)?;
                Mutation::Delete { bucket, key }
            }
            7 => {
                let tags = take_u8(b)?;
                let (bucket, key) = take_key(b)?;
                let condition =
                    ExpireIf { nx: tags & 1 != 0, xx: tags & 2 != 0, gt: tags & 4 != 0, lt: tags & 8 != 0 };
                Mutation::Expire { bucket, key, at_ms: take_u64(b)?, condition }
            }
            8 => {
                let (bucket, key) = take_key(b)?;
                Mutation::Persist { bucket, key }
            }
            9 => {
                let if_absent = take_u8(b)? != 0;
                let (bucket, from) = take_key(b)?;
                Mutation::Rename { bucket, from, to: take_key_bytes(b)?, if_absent }
            }
            10 => {
                let replace = take_u8(b)? != 0;
                let (from_bucket, from) = take_key(b)?;
                let (to_bucket, to) = take_key(b)?;
                Mutation::Copy { from_bucket, from, to_bucket, to, replace }
            }
            11 => {
                let tags = take_u8(b)?;
                let (bucket, key) = take_key(b)?;
                let value = Payload::decode(b)?;
                let meta = take_bytes(b)?;
                let md5 = if tags & 4 == 0 { Some(take_array(b)?) } else { None };
                let condition = take_condition(tags, b)?;
                Mutation::PutObject { bucket, key, value, meta, md5, condition }
            }
            12 => {
                let (bucket, key) = take_key(b)?;
                Mutation::Rewrite { bucket, key, version: Version(take_u64(b)?), value: Payload::decode(b)? }
            }
            13 => Mutation::CreateBucket { name: take_bytes(b)? },
            14 => Mutation::DeleteBucket { name: take_bytes(b)? },
            15 => Mutation::FlushBucket { bucket: BucketId(take_u32(b)?) },
            16 => {
                let (bucket, key) = take_key(b)?;
                Mutation::ExpireDue { bucket, key }
            }
            17 => {
                let (bucket, key) = take_key(b)?;
                Mutation::Sweep { bucket, key }
            }
            18 => {
                let tags = take_u8(b)?;
                Mutation::Mount {
                    bucket: take_bytes(b)?,
                    prefix: take_bytes(b)?,
                    origin: take_str(b)?,
                    origin_prefix: take_str(b)?,
                    mode: take_mode(tags)?,
                    flushall: tags & 2 != 0,
                    revalidate: tags & 16 != 0,
                }
            }
            19 => Mutation::MountAttached { existing: false, mount: take_u32(b)? },
            43 => Mutation::MountAttached { existing: take_u8(b)? != 0, mount: take_u32(b)? },
            44 => {
                let present = take_u8(b)? != 0;
                let ((bucket, key), mount) = (take_key(b)?, take_u32(b)?);
                let (read_at, version) = (Version(take_u64(b)?), Version(take_u64(b)?));
                let head = AdoptedHead {
                    len: take_u64(b)?,
                    modified_ms: take_u64(b)?,
                    origin_etag: take_str(b)?,
                    etag: take_str(b)?,
                    meta: take_bytes(b)?,
                };
                let replaces = present.then_some(version);
                Mutation::Adopt { bucket, key, mount, read_at, replaces, head }
            }
            45 => {
                let ((bucket, key), mount) = (take_key(b)?, take_u32(b)?);
                let (version, read_at) = (Version(take_u64(b)?), Version(take_u64(b)?));
                Mutation::Vanish { bucket, key, mount, version, read_at }
            }
            46 => {
                let state = import_state(take_u8(b)?)?;
                let (mount, listed, adopted) = (take_u32(b)?, take_u64(b)?, take_u64(b)?);
                Mutation::ImportNote { mount, after: take_key_bytes(b)?, listed, adopted, state }
            }
            20 => {
                let (bucket, key) = take_key(b)?;
                Mutation::MarkDirty { bucket, key }
            }
            21 => {
                let (bucket, key) = take_key(b)?;
                let version = Version(take_u64(b)?);
                Mutation::FlushStarted { bucket, key, version, deadline_ms: take_u64(b)? }
            }
            22 => {
                let flags = take_u8(b)?;
                let (bucket, key) = take_key(b)?;
                let version = Version(take_u64(b)?);
                let etag = take_str(b)?;
                let mount = if flags & 2 != 0 { Some(take_u32(b)?) } else { None };
                let origin_etag = (flags & 1 != 0).then_some(etag);
                Mutation::Flushed { bucket, key, version, origin_etag, mount }
            }
            23 => {
                let (bucket, key) = take_key(b)?;
                let version = Version(take_u64(b)?);
                Mutation::FlushPark { bucket, key, version, reason: take_str(b)? }
            }
            24 => {
                let (bucket, key) = take_key(b)?;
                Mutation::FlushAbandon { bucket, key, version: Version(take_u64(b)?) }
            }
            41 => {
                let (bucket, key) = take_key(b)?;
                let (version, upload_id) = (Version(take_u64(b)?), take_str(b)?);
                let step = match take_u8(b)? {
                    0 => TransferStep::Begun { crc32c: take_u8(b)? != 0, part_bytes: take_u64(b)? },
                    1 => {
                        let present = take_u8(b)? != 0;
                        let crc32c = Some(take_u32(b)?).filter(|_| present);
                        TransferStep::Sent { number: take_u32(b)?, etag: take_str(b)?, crc32c }
                    }
                    2 => TransferStep::Forgotten,
                    3 => TransferStep::Asked { from_ms: take_u64(b)?, until_ms: take_u64(b)? },
                    4 => TransferStep::Refused,
                    5 => TransferStep::Looked { mount: take_u32(b)?, until_ms: take_u64(b)? },
                    6 => TransferStep::Lost,
                    _ => return None,
                };
                Mutation::Transfer { bucket, key, version, upload_id, step }
            }
            42 => Mutation::TransferGone { version: Version(take_u64(b)?), mount: None },
            50 => Mutation::TransferGone { version: Version(take_u64(b)?), mount: Some(take_u32(b)?) },
            40 => Mutation::MountForget { abandon: take_u8(b)? != 0, mount: take_u32(b)? },
            26 => Mutation::SweepDone { bucket: BucketId(take_u32(b)?), epoch: Version(take_u64(b)?) },
            27 => Mutation::AbortBefore { node: u16::from_le_bytes(take_array(b)?) },
            28 => {
                let tags = take_u8(b)?;
                let (from_bucket, from) = take_key(b)?;
                let source = Version(take_u64(b)?);
                let (to_bucket, to) = take_key(b)?;
                let meta = take_bytes(b)?;
                let meta = (tags & 4 != 0).then_some(meta);
                let condition = take_condition(tags, b)?;
                Mutation::CopyObject { from_bucket, from, source, to_bucket, to, meta, condition }
            }
            29 => {
                let (bucket, key) = take_key(b)?;
                Mutation::CreateUpload { bucket, key, meta: take_bytes(b)?, options: take_bytes(b)? }
            }
            30 => {
                let tags = take_u8(b)?;
                let (bucket, key, upload, number) = take_part(b)?;
                let (value, meta) = (Payload::decode(b)?, take_bytes(b)?);
                let md5 = if tags & 1 == 0 { Some(take_array(b)?) } else { None };
                Mutation::PutPart { bucket, key, upload, number, value, meta, md5 }
            }
            31 => {
                let (bucket, key, upload, number) = take_part(b)?;
                let (from_bucket, from) = take_key(b)?;
                let (source, start, len) = (Version(take_u64(b)?), take_u64(b)?, take_u64(b)?);
                Mutation::CopyPart { bucket, key, upload, number, from_bucket, from, source, start, len }
            }
            32 => {
                let tags = take_u8(b)?;
                let (bucket, key) = take_key(b)?;
                let upload = Version(take_u64(b)?);
                let parts = PartNames::decode(b)?;
                let etag = take_str(b)?;
                let (etag, checksum) = ((tags & 4 != 0).then_some(etag), take_bytes(b)?);
                let condition = take_condition(tags, b)?;
                Mutation::CompleteUpload { bucket, key, upload, parts, etag, checksum, condition }
            }
            33 => {
                let (bucket, key) = take_key(b)?;
                Mutation::AbortUpload { bucket, key, upload: Version(take_u64(b)?) }
            }
            36 => {
                let (bucket, key) = take_key(b)?;
                let version = Some(Version(take_u64(b)?)).filter(|version| *version != Version::ZERO);
                Mutation::Hold { bucket, key, version }
            }
            37 => {
                let (bucket, key) = take_key(b)?;
                Mutation::Release { bucket, key, version: Version(take_u64(b)?) }
            }
            TAG_ATOMIC if depth < ATOMIC_DEPTH_MAX => {
                let mut guards = Vec::new();
                for _ in 0..take_u32(b)? {
                    let present = take_u8(b)? != 0;
                    let (bucket, key) = take_key(b)?;
                    let version = Version(take_u64(b)?);
                    guards.push(Guard::VersionIs { bucket, key, version: present.then_some(version) });
                }
                let mut mutations = Vec::new();
                for _ in 0..take_u32(b)? {
                    mutations.push(Mutation::decode_at(b, depth + 1)?);
                }
                Mutation::Atomic { guards, mutations }
            }
            _ => return None,
        })
    }
}

pub(super) const TAG_ATOMIC: u8 = 25;

/// Appends the head of an atomic group; the caller appends `count` mutations behind it.
pub(crate) fn encode_atomic_head(out: &mut Vec<u8>, guards: &[Guard<'_>], count: u32) {
    out.push(TAG_ATOMIC);
    out.extend_from_slice(&(guards.len() as u32).to_le_bytes());
    for Guard::VersionIs { bucket, key, version } in guards {
        out.push(u8::from(version.is_some()));
        put_key(out, *bucket, key);
        out.extend_from_slice(&version.unwrap_or(Version::ZERO).0.to_le_bytes());
    }
    out.extend_from_slice(&count.to_le_bytes());
}

/// Also the flags of an import row.
pub(crate) fn import_tag(state: ImportState) -> u8 {
    match state {
        ImportState::Running => 0,
        ImportState::Done => 1,
        ImportState::Cancelled => 2,
    }
}

/// What [`import_tag`] wrote.
pub(crate) fn import_state(tag: u8) -> Option<ImportState> {
    Some(match tag {
        0 => ImportState::Running,
        1 => ImportState::Done,
        2 => ImportState::Cancelled,
        _ => return None,
    })
}

fn mode_tag(mode: MountMode) -> u8 {
    match mode {
        MountMode::WriteBack => 0,
        MountMode::Local => 1,
        MountMode::ReadOnly => 4,
        MountMode::WriteThrough => 8,
    }
}

fn take_mode(tags: u8) -> Option<MountMode> {
    Some(match tags & !(2 | 16) {
        0 => MountMode::WriteBack,
        1 => MountMode::Local,
        4 => MountMode::ReadOnly,
        8 => MountMode::WriteThrough,
        _ => return None,
    })
}

fn existence_tag(existence: Existence) -> u8 {
    match existence {
        Existence::Any => 0,
        Existence::Absent => 1,
        Existence::Present => 2,
    }
}

fn condition_tag(condition: &PutIf<'_>) -> u8 {
    u8::from(condition.if_match.is_some()) | u8::from(condition.if_none_match.is_some()) << 1
}

fn put_condition(out: &mut Vec<u8>, condition: &PutIf<'_>) {
    for text in [condition.if_match, condition.if_none_match].into_iter().flatten() {
        put_bytes(out, text.as_bytes());
    }
}

fn take_condition<'a>(tags: u8, b: &mut &'a [u8]) -> Option<PutIf<'a>> {
    let if_match = if tags & 1 != 0 { Some(take_str(b)?) } else { None };
    let if_none_match = if tags & 2 != 0 { Some(take_str(b)?) } else { None };
    Some(PutIf { if_match, if_none_match })
}

fn put_part(out: &mut Vec<u8>, bucket: BucketId, key: &[u8], upload: Version, number: u16) {
    put_key(out, bucket, key);
    out.extend_from_slice(&upload.0.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
}

fn take_part<'a>(b: &mut &'a [u8]) -> Option<(BucketId, &'a [u8], Version, u16)> {
    let (bucket, key) = take_key(b)?;
    Some((bucket, key, Version(take_u64(b)?), u16::from_le_bytes(take_array(b)?)))
}

fn put_key(out: &mut Vec<u8>, bucket: BucketId, key: &[u8]) {
    out.extend_from_slice(&bucket.0.to_le_bytes());
    put_bytes(out, key);
}

fn take_key<'a>(b: &mut &'a [u8]) -> Option<(BucketId, &'a [u8])> {
    let bucket = BucketId(take_u32(b)?);
    Some((bucket, take_key_bytes(b)?))
}

fn take_key_bytes<'a>(b: &mut &'a [u8]) -> Option<&'a [u8]> {
    take_bytes(b).filter(|key| key.len() <= KEY_BYTES_MAX)
}

fn take_str<'a>(b: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take_bytes(b)?).ok()
}

fn take_array<const N: usize>(b: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = b.split_first_chunk::<N>()?;
    *b = rest;
    Some(*array)
}
