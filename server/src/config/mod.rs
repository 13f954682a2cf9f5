//! The whole configuration, parsed once into types.
//!
//! Owns: which options exist, their defaults, what each costs in either direction, and who wins: flags
//! over environment over file over defaults. Does not own the values' grammar (`value`, `units`,
//! `mount`), nor the crates' own option types, which `node` makes from these.
//!
//! What must hold: a config that loads without a problem can be started; nothing listens beyond loopback
//! without credentials; no message, `Debug` or `Display` shows a secret.

mod bucket;
mod mount;
mod secret;
mod section;
pub(crate) mod units;
mod validate;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use toml::de::DeTable;

pub(crate) use bucket::{BucketClass, BucketConfig, EtagMode};
pub(crate) use mount::{
    ChecksumMode, FlushOrder, MaxLag, MountConfig, MountMode, OriginConfig, Revalidate, parse_mount_path,
};
pub(crate) use secret::{Secret, SecretSource};
pub(crate) use section::{Place, Problem};
use section::{Problems, Section, Source};
use units::ByteSize;
use value::{DomainNames, OptionValue};

/// Age at which an upload that nobody has completed is given up.
const UPLOAD_EXPIRY: Duration = Duration::from_secs(7 * 86_400);
const UPLOAD_EXPIRY_MIN: Duration = Duration::from_secs(1);
/// Largest config file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything `forebay start` is told. File: top-level keys and tables of `forebay.toml`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// `data_dir`: where everything is kept, `./forebay-data` by default. One node at a time.
    pub(crate) data_dir: PathBuf,
    /// `sync`: what OK means when the power goes. `always` (default): on disk; a small write costs one
    /// fdatasync, shared by all that wait. `everysec`: kill -9 loses nothing, power loss up to a second;
    /// saves the wait.
    pub(crate) sync: SyncMode,
    /// `capacity`: bytes of objects this node takes, 10 GiB by default. From 90 % of it on, bodies that are in the origin
    /// are given up; from 95 % on writes are slowed down where a mount has an origin; beyond it they are refused by name,
    /// and reads and deletes go on. Larger: needs the disk for it, with room for the journal.
    pub(crate) capacity: ByteSize,
    /// `dirty_limit`: bytes that may wait for their upload, 80 % of `capacity` by default. Larger: longer
    /// outages of the origin go unnoticed, and more is lost with this node. Smaller: the reverse.
    pub(crate) dirty_limit: ByteSize,
    /// `disk_reserve`: what stays free on the file system of `data_dir`; 1 GiB, or 5 % of it if that is less, by
    /// default. A little above it bodies that are in the origin are given up, then writes are slowed down, and below it
    /// refused by name. Larger: other programs on the disk, and a restart, have room; smaller: more of the disk is used.
    /// 0 keeps nothing free.
    pub(crate) disk_reserve: Option<ByteSize>,
    /// `inline_threshold`: longest body that travels inside the log, 64 KiB by default; longer ones go into
    /// segments while they arrive. Larger: fewer syncs for middling bodies; one of them holds up the small ones that share
    /// its commit.
    pub(crate) inline_threshold: ByteSize,
    /// `stop_timeout`: how long a stop waits for requests under way, 10 s by default. Longer: fewer
    /// clients see a broken connection; shorter: a restart is quicker. What was acknowledged is safe
    /// either way.
    pub(crate) stop_timeout: Duration,
    /// `[resp]`.
    pub(crate) resp: RespConfig,
    /// `[s3]`.
    pub(crate) s3: S3Config,
    /// `[admin]`.
    pub(crate) admin: AdminConfig,
    /// `[[mount]]`, in the order of the file.
    pub(crate) mounts: Vec<MountConfig>,
    /// `[[bucket]]`, in the order of the file.
    pub(crate) buckets: Vec<BucketConfig>,
    /// `[journal]`.
    pub(crate) journal: JournalConfig,
    /// `[memtable]`.
    pub(crate) memtable: MemtableConfig,
    /// `[cache]`.
    pub(crate) cache: CacheConfig,
    /// `[lmdb]`.
    pub(crate) lmdb: LmdbConfig,
    /// `[flush]`.
    pub(crate) flush: FlushConfig,
    /// `[scrub]`.
    pub(crate) scrub: ScrubConfig,
    /// `[log]`.
    pub(crate) log: LogConfig,
}

/// The Redis side.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RespConfig {
    /// `listen`: 127.0.0.1:6379 by default. Beyond loopback only with a password.
    pub(crate) listen: SocketAddr,
    /// `password` or `password_file`: what AUTH takes. None: open, on loopback.
    pub(crate) password: Option<Secret>,
    /// `maxclients`: connections at once, 10,000 by default. Each costs one file descriptor and some
    /// 20 KiB while it works; one too many gets Redis's error.
    pub(crate) maxclients: u32,
    /// `databases`: how many SELECT knows, 16 by default; database n is the bucket `redis-n`. Costs
    /// nothing until used.
    pub(crate) databases: u32,
}

/// The S3 side.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct S3Config {
    /// `listen`: 127.0.0.1:9000 by default. Beyond loopback only with credentials.
    pub(crate) listen: SocketAddr,
    /// `access_key_id` and `secret_access_key`, each also as `_file`. None on loopback: generated and kept
    /// in the data directory.
    pub(crate) credentials: Option<S3Credentials>,
    /// `region`: what clients must sign for, `us-east-1` by default.
    pub(crate) region: String,
    /// `domains`: hosts under which a bucket may stand in the host name: with `["s3.localhost"]` also
    /// `http://bucket.s3.localhost:9000/key`. None by default: path style alone. The names must resolve to
    /// this node. In lower case, without a port.
    pub(crate) domains: Vec<String>,
    /// `upload_expiry`: age at which a multipart upload that nobody has completed is given up, with its parts; 7 days by
    /// default, at least a second. Longer: room is lost to clients that died; shorter: a slow upload may be cut off.
    pub(crate) upload_expiry: Duration,
}

/// What S3 clients sign with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct S3Credentials {
    /// Access key id. Not secret by itself, hidden all the same.
    pub(crate) access_key_id: Secret,
    /// The key that signs.
    pub(crate) secret_access_key: Secret,
}

/// The admin side.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AdminConfig {
    /// `listen`: 127.0.0.1:19080 by default. Beyond loopback only with a token.
    pub(crate) listen: SocketAddr,
    /// `token` or `token_file`: what `Authorization: Bearer` must carry, for everything but `/livez` and
    /// `/readyz`. None: open, on loopback.
    pub(crate) token: Option<Secret>,
}

/// The log on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalConfig {
    /// `file_size`: 64 MiB by default. Larger: fewer changes of file, more disk and a longer first start
    /// (files are written full of zeros once).
    pub(crate) file_size: ByteSize,
    /// `align`: 512 by default, or 4096. 512 relies on the disk writing a sector of 512 bytes whole or not at
    /// all, as disks do. 4096 is for storage that rewrites larger blocks; a small commit then costs 4 KiB.
    pub(crate) align: ByteSize,
}

/// What is in memory and not yet in the checkpoint store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemtableConfig {
    /// `bytes`: 96 MiB by default; up to three times that is used while checkpoints run. Larger: fewer
    /// bytes to disk for each written, more memory, a longer start after a crash.
    pub(crate) bytes: ByteSize,
    /// `rows`: 500,000 by default: the same for many small values.
    pub(crate) rows: u32,
    /// `interval`: the longest time between two checkpoints, 5 s by default. Longer: fewer of them, and
    /// more journal to replay after a crash.
    pub(crate) interval: Duration,
}

/// Small hot values that were read from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheConfig {
    /// `bytes`: 128 MiB by default; 0 is none. Larger: fewer reads of disk pages, more memory.
    pub(crate) bytes: ByteSize,
}

/// The checkpoint store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LmdbConfig {
    /// `map_size`: 256 GiB by default: address space (twice that, so that deletes always find room) and a sparse file,
    /// neither memory nor disk. Rows and
    /// values up to 512 bytes live in it; at nine tenths writes are refused. Smaller: for systems that
    /// limit address space.
    pub(crate) map_size: ByteSize,
}

/// The queue to the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlushConfig {
    /// `concurrency`: uploads at once, 32 by default. More: faster on a line with a long round trip, more
    /// memory (a body each), more 503 from a slow origin.
    pub(crate) concurrency: u32,
    /// `attempt_timeout`: when one request to the origin is given up, 30 s by default; time for the body is
    /// added. Shorter: a dead origin is noticed earlier, a slow one is given up in vain.
    pub(crate) attempt_timeout: Duration,
    /// `least_bandwidth`: bytes per second that a body is expected to move at, at worst; 256 KiB by
    /// default. It sets the time that is added for a body. Lower: for thin lines; a dead one is noticed
    /// later.
    pub(crate) least_bandwidth: ByteSize,
    /// `part_size`: longer bodies go to the origin by multipart upload, in parts of this length or the client's own;
    /// 8 MiB by default. S3 takes no part below 5 MiB but the last. Longer: fewer requests; shorter: less is sent
    /// again after a failure.
    pub(crate) part_size: ByteSize,
    /// `part_concurrency`: parts of one body sent at once, 4 by default. More: faster for one large body; up to 64
    /// MiB of parts are in memory whatever this says.
    pub(crate) part_concurrency: u32,
    /// `fence_margin`: how long after its deadline a lost request is still thought alive, 10 s by default.
    /// Longer: safer against clocks that differ from the origin's; a key whose upload had an unknown
    /// outcome, or was under way at a crash, waits longer.
    pub(crate) fence_margin: Duration,
    /// `retry_min`: the first wait after a failed attempt, 250 ms by default (twenty times that for what
    /// needs a hand, such as refused credentials). Shorter: a hiccup passes sooner; longer: fewer requests
    /// in vain.
    pub(crate) retry_min: Duration,
    /// `retry_max`: the longest wait between two attempts, 120 s by default. Longer: less load on an origin in
    /// trouble; its return is noticed later.
    pub(crate) retry_max: Duration,
}

/// Looking through what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScrubConfig {
    /// `bytes_per_second`: what a scrub reads a second, 32 MiB by default; a flag of `forebay scrub` overrides it.
    /// More: done sooner; less: readers and writers notice less of it.
    pub(crate) bytes_per_second: ByteSize,
}

/// What is printed while running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// `format`: `text` (default) or `json`, one event a line.
    pub(crate) format: LogFormat,
    /// `level`: a filter such as `info` (default) or `info,forebay_storage=debug`; `RUST_LOG` overrides it.
    pub(crate) level: String,
}

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SyncMode {
    /// After fdatasync.
    #[value(name = "always")]
    Always,
    /// After the write call; synced every second.
    #[value(name = "everysec")]
    EverySec,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SyncMode::Always => "always",
            SyncMode::EverySec => "everysec",
        })
    }
}

impl OptionValue for SyncMode {
    fn from_text(text: &str) -> Result<SyncMode, String> {
        match text {
            "always" => Ok(SyncMode::Always),
            "everysec" => Ok(SyncMode::EverySec),
            _ => Err(format!("\"{text}\" is not a sync mode; write \"always\" or \"everysec\"")),
        }
    }
}

impl OptionValue for LogFormat {
    fn from_text(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("\"{text}\" is not a log format; write \"text\" or \"json\"")),
        }
    }
}

/// What the command line says; it wins over everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// `--data-dir`.
    pub(crate) data_dir: Option<PathBuf>,
    /// `--resp-listen`.
    pub(crate) resp_listen: Option<String>,
    /// `--s3-listen`.
    pub(crate) s3_listen: Option<String>,
    /// `--admin-listen`.
    pub(crate) admin_listen: Option<String>,
    /// `--sync`.
    pub(crate) sync: Option<SyncMode>,
}

/// Looks up an environment variable; a value that is not UTF-8 is an error text.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<Result<String, String>>;

/// The environment of this process.
pub(crate) fn process_environment(name: &str) -> Option<Result<String, String>> {
    std::env::var_os(name).map(|value| value.into_string().map_err(|_| "is not valid UTF-8".into()))
}

/// Why there is no config: every problem found, or a file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// The config file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// At least one.
    pub(crate) problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match (&self.file, problem.place) {
                (Some(file), Place::Line(line)) => {
                    write!(f, "{}:{line}: {}", file.display(), problem.message)?
                }
                _ => write!(f, "{problem}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the file, if one is named, and overlays environment and flags.
    pub(crate) fn load(
        file: Option<&Path>,
        flags: &Flags,
        env: Environment<'_>,
    ) -> Result<Config, ConfigError> {
        let fail = |problems| ConfigError { file: file.map(Path::to_path_buf), problems };
        let text = match file.map(read_file).transpose() {
            Ok(text) => text.unwrap_or_default(),
            Err(message) => return Err(fail(vec![Problem { place: Place::Whole, message }])),
        };
        Config::parse(&text, flags, env).map_err(fail)
    }

    /// As [`Config::load`], with the file's text.
    pub(crate) fn parse(text: &str, flags: &Flags, env: Environment<'_>) -> Result<Config, Vec<Problem>> {
        let source = Source { text };
        let problems = Problems::default();
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let place = error.span().map_or(Place::Whole, |span| source.line(span.start));
                problems.add(place, error.message().trim().replace('\n', ", "));
                return Err(problems.into_vec());
            }
        };
        let layers = Layers { env, problems: &problems };
        let config = read(&layers, flags, Section::root(source, Some(&table), &problems));
        validate::validate(&config, &problems);
        let problems = problems.into_vec();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }
}

/// The admin token that the environment gives to the command line.
pub(crate) fn admin_token(env: Environment<'_>) -> Result<Option<Secret>, ConfigError> {
    let problems = Problems::default();
    let token =
        Layers { env, problems: &problems }.secret("FOREBAY_ADMIN_TOKEN", "FOREBAY_ADMIN_TOKEN_FILE", None);
    let problems = problems.into_vec();
    if problems.is_empty() { Ok(token) } else { Err(ConfigError { file: None, problems }) }
}

fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let cannot = |error: std::io::Error| format!("cannot read the config file {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("the config file {} is longer than {FILE_BYTES_MAX} bytes", path.display()));
    }
    Ok(text)
}

/// The layers above the file.
struct Layers<'a> {
    env: Environment<'a>,
    problems: &'a Problems,
}

impl Layers<'_> {
    /// The text of an environment variable. One that is set to nothing is refused: it is most often a
    /// template whose value is missing, and to go on without it could mean to go on without a password.
    fn text(&self, name: &'static str) -> Option<String> {
        let text = match (self.env)(name)? {
            Ok(text) if text.is_empty() => Err("is set but empty; give a value or unset it".into()),
            other => other,
        };
        self.problems.keep(Place::Environment(name), text)
    }

    /// Flag over environment over file over default.
    fn pick<T: OptionValue>(
        &self,
        flag: Option<(&'static str, &str)>,
        variable: &'static str,
        file: Option<T>,
        default: T,
    ) -> T {
        if let Some((name, text)) = flag {
            return self.problems.keep(Place::Flag(name), T::from_text(text)).unwrap_or(default);
        }
        if let Some(text) = self.text(variable) {
            return self.problems.keep(Place::Environment(variable), T::from_text(&text)).unwrap_or(default);
        }
        file.unwrap_or(default)
    }

    /// A secret from the environment, itself or by its file, over the one in the config file.
    fn secret(
        &self,
        variable: &'static str,
        variable_file: &'static str,
        file: Option<(Place, SecretSource)>,
    ) -> Option<Secret> {
        let value = self.text(variable).map(|text| SecretSource::Value(Secret::new(text)));
        let by_file = self.text(variable_file).map(|path| SecretSource::File(path.into()));
        let env = match (value, by_file) {
            (Some(_), Some(_)) => {
                let message = format!("{variable} is set too; unset one of the two");
                self.problems.add(Place::Environment(variable_file), message);
                None
            }
            (Some(source), None) => Some((Place::Environment(variable), source)),
            (None, Some(source)) => Some((Place::Environment(variable_file), source)),
            (None, None) => None,
        };
        let (place, source) = env.or(file)?;
        self.problems.keep(place, source.read())
    }
}

fn read(layers: &Layers<'_>, flags: &Flags, mut file: Section<'_>) -> Config {
    let data_dir = match &flags.data_dir {
        // Not as text: a path need not be UTF-8.
        Some(path) => {
            let _shadowed: Option<PathBuf> = file.get("data_dir");
            path.clone()
        }
        None => layers.pick(None, "FOREBAY_DATA_DIR", file.get("data_dir"), PathBuf::from("forebay-data")),
    };
    let sync_flag = flags.sync.map(|sync| sync.to_string());
    let sync_flag = sync_flag.as_deref().map(|text| ("--sync", text));
    let sync = layers.pick(sync_flag, "FOREBAY_SYNC", file.get("sync"), SyncMode::Always);
    let capacity = file.get("capacity").unwrap_or(ByteSize::gib(10));
    let dirty_limit = file.get("dirty_limit").unwrap_or(ByteSize(capacity.0 / 5 * 4));
    let config = Config {
        data_dir,
        sync,
        capacity,
        dirty_limit,
        disk_reserve: file.get("disk_reserve"),
        inline_threshold: file.get("inline_threshold").unwrap_or(ByteSize(64 << 10)),
        stop_timeout: file.get("stop_timeout").unwrap_or(Duration::from_secs(10)),
        resp: read_resp(layers, flags, file.section("resp")),
        s3: read_s3(layers, flags, file.section("s3")),
        admin: read_admin(layers, flags, file.section("admin")),
        mounts: mount::read_mounts(&mut file, layers.problems),
        buckets: bucket::read_buckets(&mut file, layers.problems),
        journal: read_journal(file.section("journal")),
        memtable: read_memtable(file.section("memtable")),
        cache: read_cache(file.section("cache")),
        lmdb: read_lmdb(file.section("lmdb")),
        flush: read_flush(file.section("flush")),
        scrub: read_scrub(file.section("scrub")),
        log: read_log(file.section("log")),
    };
    file.end();
    config
}

fn read_resp(layers: &Layers<'_>, flags: &Flags, mut file: Section<'_>) -> RespConfig {
    let flag = flags.resp_listen.as_deref().map(|text| ("--resp-listen", text));
    let default = SocketAddr::from(([127, 0, 0, 1], 6379));
    let config = RespConfig {
        listen: layers.pick(flag, "FOREBAY_RESP_LISTEN", file.get("listen"), default),
        password: layers.secret(
            "FOREBAY_PASSWORD",
            "FOREBAY_PASSWORD_FILE",
            file.secret("password", "password_file"),
        ),
        maxclients: file.get("maxclients").unwrap_or(10_000),
        databases: file.get("databases").unwrap_or(16),
    };
    file.end();
    config
}

fn read_s3(layers: &Layers<'_>, flags: &Flags, mut file: Section<'_>) -> S3Config {
    let flag = flags.s3_listen.as_deref().map(|text| ("--s3-listen", text));
    let default = SocketAddr::from(([127, 0, 0, 1], 9000));
    let listen = layers.pick(flag, "FOREBAY_S3_LISTEN", file.get("listen"), default);
    let access_key_id = layers.secret(
        "FOREBAY_ACCESS_KEY_ID",
        "FOREBAY_ACCESS_KEY_ID_FILE",
        file.secret("access_key_id", "access_key_id_file"),
    );
    let secret_access_key = layers.secret(
        "FOREBAY_SECRET_ACCESS_KEY",
        "FOREBAY_SECRET_ACCESS_KEY_FILE",
        file.secret("secret_access_key", "secret_access_key_file"),
    );
    let region = file.get("region").unwrap_or_else(|| "us-east-1".into());
    let DomainNames(domains) = file.get("domains").unwrap_or_default();
    let upload_expiry = match file.placed("upload_expiry") {
        Some((place, expiry)) if expiry < UPLOAD_EXPIRY_MIN => {
            layers.problems.add(place, "upload_expiry must be at least 1s");
            UPLOAD_EXPIRY
        }
        Some((_, expiry)) => expiry,
        None => UPLOAD_EXPIRY,
    };
    file.end();
    let credentials = match (access_key_id, secret_access_key) {
        (Some(access_key_id), Some(secret_access_key)) => {
            Some(S3Credentials { access_key_id, secret_access_key })
        }
        (None, None) => None,
        (Some(_), None) => {
            layers.problems.add(Place::Whole, "S3 has an access key id but no secret access key; give both");
            None
        }
        (None, Some(_)) => {
            layers.problems.add(Place::Whole, "S3 has a secret access key but no access key id; give both");
            None
        }
    };
    S3Config { listen, credentials, region, domains, upload_expiry }
}

fn read_admin(layers: &Layers<'_>, flags: &Flags, mut file: Section<'_>) -> AdminConfig {
    let flag = flags.admin_listen.as_deref().map(|text| ("--admin-listen", text));
    let default = SocketAddr::from(([127, 0, 0, 1], 19_080));
    let config = AdminConfig {
        listen: layers.pick(flag, "FOREBAY_ADMIN_LISTEN", file.get("listen"), default),
        token: layers.secret(
            "FOREBAY_ADMIN_TOKEN",
            "FOREBAY_ADMIN_TOKEN_FILE",
            file.secret("token", "token_file"),
        ),
    };
    file.end();
    config
}

fn read_journal(mut file: Section<'_>) -> JournalConfig {
    let config = JournalConfig {
        file_size: file.get("file_size").unwrap_or(ByteSize::mib(64)),
        align: file.get("align").unwrap_or(ByteSize(512)),
    };
    file.end();
    config
}

fn read_memtable(mut file: Section<'_>) -> MemtableConfig {
    let config = MemtableConfig {
        bytes: file.get("bytes").unwrap_or(ByteSize::mib(96)),
        rows: file.get("rows").unwrap_or(500_000),
        interval: file.get("interval").unwrap_or(Duration::from_secs(5)),
    };
    file.end();
    config
}

fn read_cache(mut file: Section<'_>) -> CacheConfig {
    let config = CacheConfig { bytes: file.get("bytes").unwrap_or(ByteSize::mib(128)) };
    file.end();
    config
}

fn read_lmdb(mut file: Section<'_>) -> LmdbConfig {
    let config = LmdbConfig { map_size: file.get("map_size").unwrap_or(ByteSize::gib(256)) };
    file.end();
    config
}

fn read_flush(mut file: Section<'_>) -> FlushConfig {
    let config = FlushConfig {
        concurrency: file.get("concurrency").unwrap_or(32),
        attempt_timeout: file.get("attempt_timeout").unwrap_or(Duration::from_secs(30)),
        least_bandwidth: file.get("least_bandwidth").unwrap_or(ByteSize(256 << 10)),
        part_size: file.get("part_size").unwrap_or(ByteSize::mib(8)),
        part_concurrency: file.get("part_concurrency").unwrap_or(4),
        fence_margin: file.get("fence_margin").unwrap_or(Duration::from_secs(10)),
        retry_min: file.get("retry_min").unwrap_or(Duration::from_millis(250)),
        retry_max: file.get("retry_max").unwrap_or(Duration::from_secs(120)),
    };
    file.end();
    config
}

fn read_scrub(mut file: Section<'_>) -> ScrubConfig {
    let config = ScrubConfig { bytes_per_second: file.get("bytes_per_second").unwrap_or(ByteSize::mib(32)) };
    file.end();
    config
}

fn read_log(mut file: Section<'_>) -> LogConfig {
    let config = LogConfig {
        format: file.get("format").unwrap_or(LogFormat::Text),
        level: file.get("level").unwrap_or_else(|| "info".into()),
    };
    file.end();
    config
}
