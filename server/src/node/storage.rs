//! The core and the front ends, configured: the one place that knows the shape of their options.

use std::sync::Arc;

use forebay_resp::RespConfig;
use forebay_s3::{S3Config, SecretAccessKey};
use forebay_storage::mutation::MountMode as CoreMode;
use forebay_storage::node::{FlushSettings, MountConfig, OriginBackend, OriginConfig, StorageConfig};
use forebay_storage::origin::s3::{S3OriginConfig, Secret};
use forebay_storage::store::{Limits, SyncMode as CoreSync};
use tokio_util::sync::CancellationToken;

use crate::config::{
    self, BucketClass, ChecksumMode, Config, EtagMode, FlushOrder, MaxLag, MountMode, Revalidate,
    S3Credentials, SyncMode,
};

/// This node's number, until a cluster descriptor says otherwise.
pub(super) const NODE_ID: u64 = 1;

/// Longest value that RESP may make, as in Redis.
const BODY_BYTES_MAX: u64 = 512 << 20;

/// The core's settings.
pub(super) fn storage_config(config: &Config) -> StorageConfig {
    StorageConfig {
        sync: match config.sync {
            SyncMode::Always => CoreSync::Always,
            SyncMode::EverySec => CoreSync::EverySec,
        },
        limits: Limits {
            capacity_bytes: config.capacity.0,
            dirty_bytes: config.dirty_limit.0,
            inline_bytes: config.inline_threshold.0,
            body_bytes: BODY_BYTES_MAX,
            disk_reserve_bytes: config.disk_reserve.map(|reserve| reserve.0),
        },
        memtable_bytes: config.memtable.bytes.0 as usize,
        memtable_rows: config.memtable.rows as usize,
        memtable_age: config.memtable.interval,
        cache_bytes: config.cache.bytes.0,
        map_bytes: config.lmdb.map_size.0,
        journal_file_bytes: config.journal.file_size.0,
        // Validated: 512 or 4096.
        journal_align: config.journal.align.0 as u32,
        flush: FlushSettings {
            concurrency: config.flush.concurrency as usize,
            attempt_timeout: config.flush.attempt_timeout,
            fence_margin: config.flush.fence_margin,
            least_bandwidth: config.flush.least_bandwidth.0,
            part_bytes: config.flush.part_size.0,
            part_concurrency: config.flush.part_concurrency as usize,
            retry_min: config.flush.retry_min,
            retry_max: config.flush.retry_max,
        },
        mounts: config.mounts.iter().map(|mount| mount_config(config, mount)).collect(),
        kept_buckets: config
            .buckets
            .iter()
            .filter(|bucket| bucket.class == BucketClass::Keep)
            .map(|bucket| bucket.name.clone())
            .collect(),
        upload_expiry: config.s3.upload_expiry,
        ..StorageConfig::new(&config.data_dir)
    }
}

fn mount_config(config: &Config, mount: &config::MountConfig) -> MountConfig {
    MountConfig {
        bucket: mount.path.bucket.clone(),
        prefix: mount.path.prefix.clone().into_bytes(),
        origin: mount.origin.as_ref().map(|origin| origin_config(config, origin)),
        flushall: mount.flushall,
        min_interval: mount.min_interval,
        fifo: mount.order == FlushOrder::Fifo,
        checksums: match mount.checksums {
            ChecksumMode::Auto => forebay_storage::flush::ChecksumMode::Auto,
            ChecksumMode::Required => forebay_storage::flush::ChecksumMode::Required,
            ChecksumMode::None => forebay_storage::flush::ChecksumMode::None,
        },
        mode: match mount.mode {
            MountMode::WriteBack => CoreMode::WriteBack,
            MountMode::WriteThrough => CoreMode::WriteThrough,
            MountMode::ReadOnly => CoreMode::ReadOnly,
            MountMode::Local => CoreMode::Local,
        },
        revalidate: match mount.revalidate {
            Revalidate::Never => None,
            Revalidate::After(age) => Some(age),
        },
        write_through_timeout: mount.write_through_timeout,
        max_lag: match mount.max_lag {
            MaxLag::Off => None,
            MaxLag::Within(limit) => Some(limit),
        },
    }
}

fn origin_config(config: &Config, origin: &config::OriginConfig) -> OriginConfig {
    let (prefix, backend) = match origin {
        config::OriginConfig::Directory(path) => (String::new(), OriginBackend::Directory(path.clone())),
        config::OriginConfig::S3(bucket) => {
            let backend = S3OriginConfig {
                request_timeout: config.flush.attempt_timeout,
                ..S3OriginConfig::new(
                    bucket.endpoint.as_ref().map(|endpoint| endpoint.as_str().to_owned()),
                    &bucket.region,
                    &bucket.url.bucket,
                    bucket.access_key_id.reveal(),
                    Secret::new(bucket.secret_access_key.reveal()),
                )
            };
            (bucket.url.prefix.clone(), OriginBackend::S3(Box::new(backend)))
        }
    };
    OriginConfig { url: origin.to_string(), prefix, backend }
}

/// The Redis front end's settings. SHUTDOWN begins the same stop as a signal.
pub(super) fn resp_config(config: &Config, stopping: &CancellationToken) -> RespConfig {
    let stopping = stopping.clone();
    RespConfig {
        password: config.resp.password.as_ref().map(|password| forebay_resp::Secret::new(password.reveal())),
        max_clients: u64::from(config.resp.maxclients),
        databases: config.resp.databases,
        directory: config.data_dir.clone(),
        on_shutdown: Some(Arc::new(move || stopping.cancel())),
        ..RespConfig::default()
    }
}

/// The S3 front end's settings.
pub(super) fn s3_config(config: &Config, credentials: &S3Credentials) -> S3Config {
    let secret = SecretAccessKey::new(credentials.secret_access_key.reveal());
    S3Config {
        region: config.s3.region.clone(),
        domains: config.s3.domains.clone(),
        fast_etags: config
            .buckets
            .iter()
            .filter(|bucket| bucket.etag == EtagMode::Fast)
            .map(|bucket| bucket.name.clone())
            .collect(),
        shutdown_grace: config.stop_timeout,
        ..S3Config::new(credentials.access_key_id.reveal(), secret)
    }
}
