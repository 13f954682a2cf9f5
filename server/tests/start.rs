//! The daemon's first minute and last second: what a first start leaves, and how a stop ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A daemon on free ports, killed when dropped.
struct Daemon {
    child: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FOREBAY_")) {
        command.env_remove(name);
    }
    let free = "127.0.0.1:0";
    command.args(["start", "--resp-listen", free, "--s3-listen", free, "--admin-listen", free]);
    command.arg("--data-dir").arg(data);
    command
}

/// Polls until there is a value.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(begin.elapsed() < LIMIT, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Daemon {
    fn start(data: &Path, log: &Path) -> Daemon {
        let log = fs::File::create(log).unwrap();
        let child =
            command(data).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut daemon = Daemon { child };
        until("endpoints.json", || {
            assert_eq!(daemon.child.try_wait().unwrap(), None, "it ended");
            data.join("endpoints.json").exists().then_some(())
        });
        daemon
    }

    fn terminate(&mut self) -> ExitStatus {
        let id = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill takes two integers and touches no memory; the child has not been waited for.
        assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
        until("the end", || self.child.try_wait().unwrap())
    }
}

fn paths() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (data, log) = (directory.path().join("data"), directory.path().join("log"));
    (directory, data, log)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_first_start_keeps_credentials_private_and_names_only_their_file() {
    let (_directory, data, log) = paths();
    let _daemon = Daemon::start(&data, &log);
    let file = data.join("credentials.json");
    assert_eq!((mode(&data), mode(&file)), (0o700, 0o600));
    let kept: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let said = until("the start line", || {
        let said = fs::read_to_string(&log).unwrap();
        said.contains("credentials.json").then_some(said)
    });
    assert!(said.contains("sync always, 1 copy"), "{said}");
    for name in ["access_key_id", "secret_access_key"] {
        assert!(!said.contains(kept[name].as_str().unwrap()), "{name} was printed");
    }
}

#[test]
fn a_second_start_on_the_directory_is_refused_and_harms_nothing() {
    let (_directory, data, log) = paths();
    let mut daemon = Daemon::start(&data, &log);
    let Output { status, stderr, .. } = command(&data).output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("in use") && said.contains(data.to_str().unwrap()), "{said}");
    assert!(data.join("endpoints.json").exists(), "the first one's");
    assert_eq!(daemon.child.try_wait().unwrap(), None);
}

#[test]
fn sigterm_ends_with_0_says_what_stays_queued_and_removes_the_endpoints() {
    let (_directory, data, log) = paths();
    let mut daemon = Daemon::start(&data, &log);
    let status = daemon.terminate();
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("0 objects (0 bytes) stay queued on disk"), "{said}");
    assert!(!data.join("endpoints.json").exists());
}

#[test]
fn a_kill_leaves_the_endpoints_and_the_next_start_replaces_them() {
    let (_directory, data, log) = paths();
    let mut daemon = Daemon::start(&data, &log);
    let path = data.join("endpoints.json");
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert!(path.exists());
    fs::write(&path, "stale").unwrap();
    let mut again = command(&data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(|child| Daemon { child })
        .unwrap();
    let text = until("new endpoints", || {
        let text = fs::read_to_string(&path).ok()?;
        text.contains("resp").then_some(text)
    });
    let endpoints: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(endpoints["admin"].as_str().unwrap().starts_with("127.0.0.1:"), "{text}");
    assert_eq!(again.terminate().code(), Some(0));
}
