//! A mount on its way from configured to ready, and what is known of it.
//!
//! What must hold: nothing is written under a prefix before it is recorded whose it is; none is found empty while
//! something of a forgotten mount may still arrive there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{ChecksumMode, Flusher, MountSpec};
use crate::admission::Lag;
use crate::flush::contract::MountId;
use crate::flush::queue::FlushQueue;
use crate::flush::upload::{Target, origin_key};
use crate::object::BucketId;
use crate::object_name::decode_key;
use crate::origin::{Capabilities, OriginKey};

pub(super) struct Mount {
    pub(super) spec: MountSpec,
    pub(super) state: Mutex<MountState>,
    /// Since when its oldest change waits, if it has a `max_lag` and something waits; else `u64::MAX`.
    pub(super) oldest_ms: AtomicU64,
    /// See [`Target::only_crc32c`].
    pub(super) only_crc32c: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct MountState {
    pub(super) attached: bool,
    pub(super) existing: bool,
    pub(super) forgotten: bool,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) last_success_ms: Option<u64>,
}

impl Flusher {
    /// Brings a mount from configured to ready: its origin reached, what it was found to be recorded, and, where it
    /// is to be written, probed. Tries until it works; until then the mount's rows wait with the reason.
    pub(super) async fn make_ready(self: Arc<Self>, at: usize) {
        let mount = &self.mounts[at];
        let (mut wait, longest) = self.config.mount_retry;
        while !mount.state.lock().forgotten {
            let strays = self.awaits_strays(mount).filter(|_| !mount.state.lock().attached);
            if let Some(reason) = strays {
                self.with_queue(|queue| queue.set_mount_ready(mount.spec.id, Err(reason)));
                tokio::time::sleep(wait).await;
                continue;
            }
            let dead_in_ms = self.strays_until_ms.load(Ordering::Relaxed).saturating_sub(self.clock.now_ms());
            if dead_in_ms > 0 && !mount.state.lock().attached {
                let reason =
                    format!("requests of a forgotten mount may be under way for {dead_in_ms} ms more");
                self.with_queue(|queue| queue.set_mount_ready(mount.spec.id, Err(reason)));
                tokio::time::sleep(Duration::from_millis(dead_in_ms)).await;
                continue;
            }
            match self.try_mount(mount).await {
                Ok(capabilities) => {
                    mount.state.lock().capabilities = capabilities;
                    let MountState { existing, .. } = mount.state.lock().clone();
                    tracing::info!(origin = %mount.shown_origin(), existing, ?capabilities, "origin ready");
                    self.with_queue(|queue| queue.set_mount_ready(mount.spec.id, Ok(())));
                    self.wake.notify_one();
                    return;
                }
                Err(reason) => {
                    tracing::warn!(origin = %mount.shown_origin(), %reason, "origin not ready");
                    self.with_queue(|queue| queue.set_mount_ready(mount.spec.id, Err(reason)));
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }

    /// What the origin can; nothing of one that is only read.
    async fn try_mount(&self, mount: &Mount) -> Result<Option<Capabilities>, String> {
        let MountSpec { origin, origin_prefix, id, read_only, .. } = &mount.spec;
        let attached = mount.state.lock().attached;
        if !attached || *read_only {
            // One listing: nothing is written before this is recorded, and to one that is read only nothing at all.
            let empty = origin.is_empty(origin_prefix).await.map_err(|error| error.to_string())?;
            if !attached {
                let attaching = self.log.attach(*id, !empty).await;
                attaching.map_err(|error| format!("recording the mount: {error}"))?;
                let mut state = mount.state.lock();
                (state.attached, state.existing) = (true, state.existing || !empty);
            }
        }
        if *read_only {
            return Ok(None);
        }
        let found = origin.probe(origin_prefix).await.map_err(|error| error.to_string())?;
        match mount.spec.checksums {
            ChecksumMode::Required if !found.checksums => {
                Err("the origin does not check checksums, and the mount requires it".to_owned())
            }
            ChecksumMode::None => Ok(Some(Capabilities { checksums: false, ..found })),
            ChecksumMode::Auto | ChecksumMode::Required => Ok(Some(found)),
        }
    }

    /// Notes how old what waits for each mount is, for writers.
    pub(super) fn note_ages(&self, queue: &FlushQueue) {
        for mount in self.mounts.iter().filter(|mount| mount.spec.max_lag.is_some()) {
            let oldest_ms = queue.waits_since_ms(mount.spec.id).unwrap_or(u64::MAX);
            mount.oldest_ms.store(oldest_ms, Ordering::Relaxed);
        }
    }

    /// The mount of these buckets that is nearest to its `max_lag`, or furthest beyond it.
    pub(crate) fn lag(&self, buckets: &[BucketId]) -> Option<Lag> {
        let now_ms = self.source.now_ms();
        let lags =
            self.mounts.iter().filter(|mount| buckets.contains(&mount.spec.bucket)).filter_map(|mount| {
                let limit = mount.spec.max_lag?;
                let oldest_ms = mount.oldest_ms.load(Ordering::Relaxed);
                let age = Duration::from_millis(now_ms.saturating_sub(oldest_ms));
                // Rows of one that is not written wait for an operator, and none are added.
                let counts = oldest_ms != u64::MAX && !mount.spec.read_only && !mount.state.lock().forgotten;
                counts.then(|| (age.as_secs_f64() / limit.as_secs_f64(), age, limit, mount))
            });
        let (_, age, limit, mount) = lags.max_by(|a, b| a.0.total_cmp(&b.0))?;
        let behind = || self.with_queue(|queue| queue.waits_for_parked(mount.spec.id)) == Some(true);
        Some(Lag { origin: mount.shown_origin(), age, limit, behind_parked: age >= limit && behind() })
    }

    pub(super) fn target(&self, id: MountId) -> Option<Target> {
        let mount = self.mount(id)?;
        let MountState { capabilities, existing, .. } = mount.state.lock().clone();
        Some(Target {
            origin: mount.spec.origin.clone(),
            prefix_bytes: mount.spec.key_prefix.len(),
            origin_prefix: mount.spec.origin_prefix.clone(),
            origin_root: mount.spec.origin_root.clone(),
            capabilities: capabilities?,
            only_crc32c: mount.only_crc32c.clone(),
            shared: existing || mount.spec.revalidate,
        })
    }

    pub(super) fn mount(&self, id: MountId) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.spec.id == id)
    }

    /// Whether the key's attempts went, as far as we know, where they would go now.
    pub(super) fn has_attached(&self, bucket: BucketId, key: &[u8]) -> bool {
        self.covering(bucket, key).is_some_and(|mount| mount.spec.attached)
    }

    /// The mount with the longest prefix that covers a key.
    pub(super) fn covering(&self, bucket: BucketId, key: &[u8]) -> Option<&Mount> {
        let covers = |mount: &&Mount| mount.spec.bucket == bucket && key.starts_with(&mount.spec.key_prefix);
        self.mounts.iter().filter(covers).max_by_key(|mount| mount.spec.key_prefix.len())
    }
}

impl Mount {
    pub(super) fn shown_origin(&self) -> String {
        format!("{}/{}", self.spec.origin.name(), self.spec.origin_prefix)
    }

    pub(super) fn origin_key(&self, key: &[u8]) -> OriginKey {
        origin_key(&self.spec.origin_prefix, key.get(self.spec.key_prefix.len()..).unwrap_or_default())
    }

    /// The key that the origin has under this name.
    pub(super) fn key_of(&self, key: &OriginKey) -> Option<Bytes> {
        let rest = decode_key(key.0.strip_prefix(&self.spec.origin_prefix)?)?;
        Some([&self.spec.key_prefix[..], &rest].concat().into())
    }

    /// Length of the origin prefix, if the key lies under it; of none if not.
    pub(super) fn shared_prefix(&self, key: &str) -> Option<usize> {
        key.starts_with(&self.spec.origin_prefix).then_some(self.spec.origin_prefix.len())
    }
}
