//! Other people's clients from the Python environment of the lock file (`integration/.venv`).

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::http_wire;
use crate::wait::{self, TimedOut};

const MOTO_LIMIT: Duration = Duration::from_secs(60);

/// A program of the environment, such as `python`, `aws`, `moto_server`.
///
/// # Panics
/// If the environment was not installed: `./test` does it.
pub fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin").join(name);
    assert!(path.exists(), "{} is missing: run ./test, which installs integration/.venv", path.display());
    path
}

/// A script of `integration/py`, ready to be run by the environment's Python.
pub fn script(name: &str) -> Command {
    let mut command = Command::new(program("python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("py").join(name)).stdin(Stdio::null());
    command
}

/// Runs a command that must succeed; returns its standard output as text.
///
/// # Panics
/// With everything that it printed, if it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A moto server: a functional S3 service that is not ours.
pub struct Moto {
    addr: SocketAddr,
    child: Child,
}

impl Moto {
    /// Starts it on a free port and waits until it answers.
    pub fn start() -> Result<Self, TimedOut> {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let addr = free.expect("a free loopback port");
        let child = Command::new(program("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &addr.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto_server can be started");
        let moto = Self { addr, child };
        wait::until("moto answers", MOTO_LIMIT, || http_wire::get(addr, "/moto-api/", &[]))?;
        Ok(moto)
    }

    /// The endpoint URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
