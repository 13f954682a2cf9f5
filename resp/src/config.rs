//! The front end's configuration: parsed elsewhere into [`RespConfig`], then live as [`Settings`], of which
//! CONFIG SET may change some.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

/// Bytes that never show: not in logs, not in errors, not in CONFIG GET.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(bytes.into())
    }

    /// Compares without telling by the time it takes where the first difference is.
    pub(crate) fn equals(&self, other: &[u8]) -> bool {
        let mut difference = self.0.len() ^ other.len();
        for (index, byte) in other.iter().enumerate() {
            let own = self.0.get(index).copied().unwrap_or(!byte);
            difference |= usize::from(own ^ byte);
        }
        difference == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Called when a client sends SHUTDOWN: must start an orderly stop of the node and return at once.
pub type ShutdownHook = Arc<dyn Fn() + Send + Sync>;

/// Settings of the Redis front end.
#[derive(Clone)]
pub struct RespConfig {
    /// What AUTH must give; without it every client may do everything, so listen on loopback only.
    pub password: Option<Secret>,
    /// Connections open at once; one more is told so and closed. More cost memory: up to 160 KiB each when
    /// busy with pipelines.
    pub max_clients: u64,
    /// SELECT takes 0 to this less one. Lowering it hides buckets, it deletes nothing.
    pub databases: u32,
    /// Database n is the bucket of this and n.
    pub bucket_prefix: String,
    /// Seconds of silence after which a client is closed; 0: never.
    pub idle_timeout_seconds: u64,
    /// Seconds of silence after which the kernel probes the peer; 0: never.
    pub tcp_keepalive_seconds: u64,
    /// Longest argument that is no protocol error, in bytes. What is longer than the core stores is
    /// refused anyway, but the connection lives on.
    pub bulk_bytes_max: u64,
    /// Longest request, in bytes, all arguments together but for values over the inline threshold: what one
    /// connection may make the node hold. At most 2 GiB.
    pub request_bytes_max: u64,
    /// Longest reply of one command, in bytes, without the values that are read as they are sent: what one
    /// slow reader may make the node hold.
    pub reply_bytes_max: u64,
    /// A client that is sending a value over the inline threshold, or receiving one, and moves no byte for this
    /// long is closed: the one keeps room on the disk, the other keeps segments from being used again.
    pub stall_limit: Duration,
    /// The data directory, as CONFIG GET dir shows it.
    pub directory: PathBuf,
    /// What SHUTDOWN does; without it the command is refused.
    pub on_shutdown: Option<ShutdownHook>,
}

impl Default for RespConfig {
    fn default() -> RespConfig {
        RespConfig {
            password: None,
            max_clients: 10_000,
            databases: 16,
            bucket_prefix: "redis-".into(),
            idle_timeout_seconds: 0,
            tcp_keepalive_seconds: 300,
            bulk_bytes_max: 512 * 1024 * 1024,
            request_bytes_max: 64 * 1024 * 1024,
            reply_bytes_max: 512 * 1024 * 1024,
            stall_limit: Duration::from_secs(300),
            directory: PathBuf::new(),
            on_shutdown: None,
        }
    }
}

impl fmt::Debug for RespConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespConfig")
            .field("password", &self.password)
            .field("max_clients", &self.max_clients)
            .field("databases", &self.databases)
            .field("bucket_prefix", &self.bucket_prefix)
            .finish_non_exhaustive()
    }
}

/// No request may be longer, whatever the setting: places in the read buffer are 32 bits wide.
pub(crate) const REQUEST_BYTES_LIMIT: u64 = 1 << 31;

/// The settings as they stand now.
pub(crate) struct Settings {
    password: RwLock<Option<Secret>>,
    /// Whether there is a password: asked for each new connection and by each reset.
    has_password: AtomicBool,
    pub(crate) max_clients: AtomicU64,
    pub(crate) idle_timeout_seconds: AtomicU64,
    pub(crate) tcp_keepalive_seconds: AtomicU64,
    pub(crate) bulk_bytes_max: AtomicU64,
    pub(crate) request_bytes_max: AtomicU64,
    pub(crate) reply_bytes_max: u64,
    pub(crate) stall_limit: Duration,
}

impl Settings {
    pub(crate) fn new(config: &RespConfig) -> Settings {
        Settings {
            has_password: AtomicBool::new(config.password.is_some()),
            password: RwLock::new(config.password.clone()),
            max_clients: AtomicU64::new(config.max_clients),
            idle_timeout_seconds: AtomicU64::new(config.idle_timeout_seconds),
            tcp_keepalive_seconds: AtomicU64::new(config.tcp_keepalive_seconds),
            bulk_bytes_max: AtomicU64::new(config.bulk_bytes_max),
            request_bytes_max: AtomicU64::new(config.request_bytes_max.min(REQUEST_BYTES_LIMIT)),
            reply_bytes_max: config.reply_bytes_max,
            stall_limit: config.stall_limit,
        }
    }

    pub(crate) fn has_password(&self) -> bool {
        self.has_password.load(Ordering::Acquire)
    }

    /// Whether `given` is the password; anything is where none is set, as for Redis's default user.
    pub(crate) fn password_is(&self, given: &[u8]) -> bool {
        self.password.read().as_ref().is_none_or(|password| password.equals(given))
    }

    /// CONFIG SET requirepass; empty for none. Clients that are in stay in.
    pub(crate) fn set_password(&self, password: &[u8]) {
        let mut slot = self.password.write();
        *slot = (!password.is_empty()).then(|| Secret::new(password));
        self.has_password.store(slot.is_some(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_compares_whole_and_never_shows() {
        let secret = Secret::new("hunter2");
        assert!(secret.equals(b"hunter2"));
        for other in ["", "hunter", "hunter22", "Hunter2"] {
            assert!(!secret.equals(other.as_bytes()), "{other}");
        }
        let config = RespConfig { password: Some(secret), ..RespConfig::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
