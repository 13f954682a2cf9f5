//! A real `forebay` process in a directory of its own.
//!
//! Owns: its configuration file, data directory, log file and process. Ports are free ones that the daemon
//! chose, read from `endpoints.json`.
//!
//! Must hold: a node that a test forgot is killed and its directory removed; a WARN or ERROR line that the test
//! did not allow fails the test in [`Node::finish`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tempfile::TempDir;

use crate::http_wire;
use crate::origin_sim::{self, OriginSim};
use crate::resp_wire::RespWire;
use crate::s3_client;
use crate::s3_wire::S3Wire;
use crate::wait;

/// S3 access key of every node of the tests.
pub const ACCESS_KEY_ID: &str = "forebay-test-key";
/// Its secret.
pub const SECRET_ACCESS_KEY: &str = "forebay-test-secret";

const READY_LIMIT: Duration = Duration::from_secs(60);
const EXIT_LIMIT: Duration = Duration::from_secs(60);

/// Where one bucket or prefix goes.
#[derive(Debug, Clone)]
struct Mount {
    path: String,
    origin_url: String,
    endpoint: String,
    /// Options of this mount alone, over those of all.
    settings: BTreeMap<String, String>,
}

/// How to start a node. The defaults need no origin and make everything happen often: small journal files,
/// frequent checkpoints, short waits after a failed upload.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    mounts: Vec<Mount>,
    settings: BTreeMap<String, String>,
    mount_settings: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    program: Option<PathBuf>,
    data_dir: Option<PathBuf>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        let mut options = Self {
            mounts: Vec::new(),
            settings: BTreeMap::new(),
            mount_settings: BTreeMap::new(),
            environment: Vec::new(),
            arguments: Vec::new(),
            program: None,
            data_dir: None,
        };
        for (key, value) in [
            ("journal.file_size", "\"16MiB\""),
            ("memtable.bytes", "\"8MiB\""),
            ("memtable.interval", "\"300ms\""),
            ("flush.attempt_timeout", "\"2s\""),
            ("flush.fence_margin", "\"300ms\""),
            ("flush.retry_min", "\"20ms\""),
            ("flush.retry_max", "\"300ms\""),
        ] {
            options = options.set(key, value);
        }
        options.mount_set("min_interval", "\"50ms\"")
    }
}

impl NodeOptions {
    /// As the daemon itself would have it: for benchmarks.
    pub fn plain() -> Self {
        let mut options = Self::default();
        options.settings.clear();
        options.mount_settings.clear();
        options
    }

    /// Writes `path` (`/bucket` or `/bucket/prefix`) back to `bucket/prefix` of the simulated origin.
    pub fn mount(self, path: &str, origin: &OriginSim, bucket_and_prefix: &str) -> Self {
        self.mount_at(path, &origin.endpoint(), bucket_and_prefix)
    }

    /// Writes `path` back to `bucket/prefix` of the S3 service at `endpoint`.
    pub fn mount_at(mut self, path: &str, endpoint: &str, bucket_and_prefix: &str) -> Self {
        self.mounts.push(Mount {
            path: path.to_owned(),
            origin_url: format!("s3://{bucket_and_prefix}"),
            endpoint: endpoint.to_owned(),
            settings: BTreeMap::new(),
        });
        self
    }

    /// Writes `path` back to a directory.
    pub fn directory(mut self, path: &str, directory: &Path) -> Self {
        self.mounts.push(Mount {
            path: path.to_owned(),
            origin_url: format!("file://{}", directory.display()),
            endpoint: String::new(),
            settings: BTreeMap::new(),
        });
        self
    }

    /// Keeps `path` here alone, within a mount that covers it.
    pub fn local(mut self, path: &str) -> Self {
        let settings = BTreeMap::from([("mode".to_owned(), "\"local\"".to_owned())]);
        let (path, origin_url, endpoint) = (path.to_owned(), String::new(), String::new());
        self.mounts.push(Mount { path, origin_url, endpoint, settings });
        self
    }

    /// One option of the configuration file: a dotted key and a value in TOML's notation.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// One option of every `[[mount]]`.
    pub fn mount_set(mut self, key: &str, value: &str) -> Self {
        self.mount_settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// One option of the mount that was named last.
    pub fn last_mount_set(mut self, key: &str, value: &str) -> Self {
        let mount = self.mounts.last_mut().expect("a mount was named before");
        mount.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// An environment variable of the daemon.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A further command line argument of `forebay start`.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Another program than the one of the test profile: the benchmarks use the release build.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// Another place for the data directory than the node's own: a disk that a test controls.
    pub fn data_dir(mut self, path: &Path) -> Self {
        self.data_dir = Some(path.to_owned());
        self
    }

    fn config_text(&self) -> String {
        let lines = |options: &BTreeMap<String, String>| {
            options.iter().map(|(key, value)| format!("{key} = {value}\n")).collect::<String>()
        };
        let mut text = lines(&self.settings);
        for mount in &self.mounts {
            if mount.origin_url.is_empty() {
                let (path, settings) = (&mount.path, lines(&mount.settings));
                text.push_str(&format!("\n[[mount]]\npath = {path:?}\n{settings}"));
                continue;
            }
            let mut settings = self.mount_settings.clone();
            settings.extend(mount.settings.clone());
            let settings = lines(&settings);
            if mount.endpoint.is_empty() {
                let (path, origin) = (&mount.path, &mount.origin_url);
                text.push_str(&format!("\n[[mount]]\npath = {path:?}\norigin = {origin:?}\n{settings}"));
                continue;
            }
            text.push_str(&format!(
                "\n[[mount]]\npath = {:?}\norigin = {:?}\nendpoint = {:?}\nregion = {:?}\n\
                 access_key_id = {:?}\nsecret_access_key = {:?}\n{}",
                mount.path,
                mount.origin_url,
                mount.endpoint,
                origin_sim::REGION,
                origin_sim::ACCESS_KEY_ID,
                origin_sim::SECRET_ACCESS_KEY,
                settings,
            ));
        }
        text
    }
}

/// What the daemon writes to `endpoints.json`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Endpoints {
    /// RESP listener.
    pub resp: SocketAddr,
    /// S3 listener.
    pub s3: SocketAddr,
    /// Admin listener.
    pub admin: SocketAddr,
}

/// A daemon, running or not, and its directory.
pub struct Node {
    options: NodeOptions,
    directory: TempDir,
    child: Option<Child>,
    endpoints: Option<Endpoints>,
}

/// Why a node did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Files or processes.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// A limit passed.
    #[error("{0}\nlog:\n{1}")]
    TimedOut(wait::TimedOut, String),
    /// It ended instead of serving.
    #[error("forebay ended with {0} before it was ready; log:\n{1}")]
    Ended(ExitStatus, String),
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> NodeError {
    move |error| NodeError::Io { what, error }
}

impl Node {
    /// Starts a daemon on a fresh directory and waits until it is ready.
    pub fn start(options: NodeOptions) -> Result<Self, NodeError> {
        let mut node = Self::prepare(options)?;
        node.restart()?;
        Ok(node)
    }

    /// Makes the directory and configuration without starting anything.
    pub fn prepare(options: NodeOptions) -> Result<Self, NodeError> {
        let directory =
            tempfile::Builder::new().prefix("forebay-node-").tempdir().map_err(io_error("temp dir"))?;
        Ok(Self { options, directory, child: None, endpoints: None })
    }

    /// Starts the daemon on the directory it had, and waits until it is ready.
    pub fn restart(&mut self) -> Result<Endpoints, NodeError> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts the daemon without waiting.
    pub fn spawn(&mut self) -> Result<(), NodeError> {
        assert!(self.child.is_none(), "the node already runs");
        let endpoints = self.endpoints_path();
        if let Ok(old) = fs::metadata(&endpoints) {
            // In its place: to remove it would free a block, and the disk may have to be full.
            let blank = vec![b' '; usize::try_from(old.len()).unwrap_or(0)];
            let file = File::options().write(true).open(&endpoints).map_err(io_error("endpoints.json"))?;
            file.write_all_at(&blank, 0).map_err(io_error("blank endpoints.json"))?;
        }
        fs::write(self.config_path(), self.options.config_text()).map_err(io_error("write the config"))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(io_error("open the log"))?;
        let errors = log.try_clone().map_err(io_error("open the log"))?;
        let program = self.options.program.as_deref().unwrap_or_else(|| forebay_program());
        let mut command = Command::new(program);
        command
            .args(["start", "--config"])
            .arg(self.config_path())
            .arg("--data-dir")
            .arg(self.data_dir())
            .args([
                "--resp-listen",
                "127.0.0.1:0",
                "--s3-listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args(&self.options.arguments)
            .env("FOREBAY_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .env("FOREBAY_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
            .env("NO_COLOR", "1")
            .envs(self.options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        self.child = Some(command.spawn().map_err(io_error("start forebay"))?);
        Ok(())
    }

    /// Waits until `/readyz` answers 200.
    pub fn wait_ready(&mut self) -> Result<Endpoints, NodeError> {
        let path = self.endpoints_path();
        let child = self.child.as_mut().expect("the node was started");
        let mut ended = None;
        let ready = wait::until("forebay is ready", READY_LIMIT, || {
            if let Ok(Some(status)) = child.try_wait() {
                ended = Some(status);
                return Ok(None);
            }
            let text = fs::read(&path).map_err(|error| format!("endpoints.json: {error}"))?;
            let endpoints: Endpoints =
                serde_json::from_slice(&text).map_err(|error| format!("endpoints.json: {error}"))?;
            let answer = http_wire::get(endpoints.admin, "/readyz", &[])
                .map_err(|error| format!("/readyz: {error}"))?;
            if answer.status == 200 {
                Ok(Some(endpoints))
            } else {
                Err(format!("/readyz: {}", answer.status))
            }
        });
        match (ended, ready) {
            (Some(status), _) => {
                self.child = None;
                Err(NodeError::Ended(status, self.log()))
            }
            (None, Ok(Some(endpoints))) => {
                self.endpoints = Some(endpoints);
                Ok(endpoints)
            }
            (None, Ok(None)) => unreachable!("None is returned only for an ended process"),
            (None, Err(error)) => Err(NodeError::TimedOut(error, self.log())),
        }
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> Result<ExitStatus, NodeError> {
        self.signal(libc::SIGTERM);
        self.wait_exit()
    }

    /// Waits until the daemon ended by itself.
    pub fn wait_exit(&mut self) -> Result<ExitStatus, NodeError> {
        let child = self.child.as_mut().expect("the node was started");
        let ended = wait::until("forebay has ended", EXIT_LIMIT, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        match ended {
            Ok(status) => {
                self.child = None;
                Ok(status)
            }
            Err(error) => Err(NodeError::TimedOut(error, self.log())),
        }
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.pid()).expect("process ids are positive");
        // SAFETY: kill takes two integers and touches no memory; the child has not been waited for, so the
        // id is still its own.
        let result = unsafe { libc::kill(id, signal) };
        assert_eq!(result, 0, "kill({id}, {signal}): {}", io::Error::last_os_error());
    }

    /// Process id of the running daemon.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Where it listens.
    pub fn endpoints(&self) -> Endpoints {
        self.endpoints.expect("the node was ready once")
    }

    /// A raw RESP connection.
    pub fn resp(&self) -> RespWire {
        RespWire::connect(self.endpoints().resp).expect("RESP port of a ready node")
    }

    /// An aws-sdk-s3 client.
    pub fn s3(&self) -> aws_sdk_s3::Client {
        s3_client::client(&self.s3_endpoint(), ACCESS_KEY_ID, SECRET_ACCESS_KEY)
    }

    /// A raw S3 connection.
    pub fn s3_wire(&self) -> S3Wire {
        S3Wire::new(self.endpoints().s3, ACCESS_KEY_ID, SECRET_ACCESS_KEY)
    }

    /// The value of a metric without labels, its name without `forebay_`.
    ///
    /// # Panics
    /// If there is no such metric.
    pub fn metric(&self, name: &str) -> f64 {
        let text = http_wire::get(self.endpoints().admin, "/metrics", &[]).expect("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("forebay_{name} ")));
        let line = line.unwrap_or_else(|| panic!("no metric {name} in\n{text}"));
        line.trim().parse().unwrap_or_else(|error| panic!("{name} {line}: {error}"))
    }

    /// `http://host:port` of the S3 listener.
    pub fn s3_endpoint(&self) -> String {
        format!("http://{}", self.endpoints().s3)
    }

    /// Runs `forebay <arguments>` against this node (`FOREBAY_ADMIN` is set) and waits for it.
    pub fn forebay(&self, arguments: &[&str]) -> Output {
        Command::new(forebay_program())
            .args(arguments)
            .env("FOREBAY_ADMIN", format!("http://{}", self.endpoints().admin))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .expect("forebay can be run")
    }

    /// `forebay flush wait`, which must end with 0.
    pub fn flush_wait(&self, timeout: Duration) {
        let limit = format!("{}s", timeout.as_secs());
        let output = self.forebay(&["flush", "wait", "--timeout", &limit]);
        assert!(
            output.status.success(),
            "flush wait: {}\n{}{}\nflush ls: {}\nlog:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&self.forebay(&["flush", "ls"]).stdout),
            self.log_tail(),
        );
    }

    /// Waits until so many mounts have reached their origins, and left there what a probe may leave no more.
    ///
    /// # Panics
    /// If they have not within the limit.
    pub fn wait_origins(&self, count: usize, limit: Duration) {
        let ready = || self.log().matches("origin ready").count() >= count;
        wait::until_true("the origins are ready", limit, ready).unwrap();
    }

    /// Sees that the mounts of these buckets are attached: a first object arrives in each origin and leaves it
    /// again. Faults that are planned afterwards strike uploads, not the probe.
    pub fn attach_mounts(&self, buckets: &[&str], limit: Duration) {
        let mut resp = self.resp();
        for command in ["SET", "DEL"] {
            for bucket in buckets {
                resp.call(&["FB.USE", bucket]).expect("FB.USE");
                let arguments: &[&str] =
                    if command == "SET" { &["SET", "attached", "1"] } else { &["DEL", "attached"] };
                let reply = resp.call(arguments).expect("a reply");
                assert!(!reply.starts_with(b"-"), "{bucket}: {}", reply.escape_ascii());
            }
            self.flush_wait(limit);
        }
    }

    /// Creates a bucket unless it is there.
    pub fn create_bucket(&self, bucket: &str) {
        use aws_sdk_s3::error::ProvideErrorMetadata;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        if let Err(error) = runtime.block_on(self.s3().create_bucket().bucket(bucket).send()) {
            let code = error.code().unwrap_or_default();
            assert!(matches!(code, "BucketAlreadyOwnedByYou" | "BucketAlreadyExists"), "{bucket}: {error:?}");
        }
    }

    /// Resident set size in bytes.
    pub fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// Of it, memory that no file backs: buffers and heap, without pages of mapped files.
    pub fn rss_anon_bytes(&self) -> u64 {
        self.status_bytes("RssAnon:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(path).expect("/proc of a running process");
        let line = text.lines().find(|line| line.starts_with(name)).expect("a line of that name");
        let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("kB");
        kib * 1024
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.options.data_dir.clone().unwrap_or_else(|| self.directory.path().join("data"))
    }

    /// Everything it has logged, over all starts.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Ends the test on this node: SIGTERM must give status 0, and every WARN or ERROR line must contain one of
    /// `allowed`. A panic anywhere in the log is never allowed.
    pub fn finish(mut self, allowed: &[&str]) {
        if self.child.is_some() {
            let status = self.terminate().expect("SIGTERM ends a node");
            assert!(status.success(), "SIGTERM: {status}\n{}", self.log_tail());
        }
        let log = self.log();
        let unexpected: Vec<&str> = log
            .lines()
            .filter(|line| {
                line.contains("panicked at") || line.contains(" WARN ") || line.contains(" ERROR ")
            })
            .filter(|line| line.contains("panicked at") || !allowed.iter().any(|text| line.contains(text)))
            .take(20)
            .collect();
        assert!(unexpected.is_empty(), "unexpected lines in the log:\n{}", unexpected.join("\n"));
    }

    fn endpoints_path(&self) -> PathBuf {
        self.data_dir().join("endpoints.json")
    }

    fn config_path(&self) -> PathBuf {
        self.directory.path().join("forebay.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("forebay.log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the node ---\n{}\n---", self.log_tail());
        }
        self.kill();
    }
}

/// The `forebay` binary of the test profile. `cargo test --workspace` builds it; alone, this package's tests
/// build it first, and say so. `FOREBAY_BIN` names another one.
pub fn forebay_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("FOREBAY_BIN") {
            return PathBuf::from(path);
        }
        let path = profile_dir().join("forebay");
        if !path.exists() {
            build_forebay();
        }
        assert!(path.exists(), "there is no {}", path.display());
        path
    })
}

/// `target/debug` (or what else the tests were built in): tests run from `<profile>/deps`.
fn profile_dir() -> PathBuf {
    let program = std::env::current_exe().expect("the path of the test program");
    let parent = program.parent().expect("a program lies in a directory");
    if parent.ends_with("deps") { parent.parent().unwrap_or(parent).to_owned() } else { parent.to_owned() }
}

fn build_forebay() {
    let start = Instant::now();
    eprintln!("integration: no forebay binary yet, building it: cargo build -p forebay-server");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "-p", "forebay-server", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .status()
        .expect("cargo can be run");
    assert!(status.success(), "cargo build -p forebay-server: {status}");
    eprintln!("integration: built in {:?}", start.elapsed());
}
