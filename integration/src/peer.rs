//! Debian's redis-server 7.0, the oracle of the differential test and the peer of the benchmarks.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::resp_wire::RespWire;
use crate::wait;

const START_LIMIT: Duration = Duration::from_secs(20);

/// A running redis-server in a directory of its own.
pub struct RedisServer {
    addr: SocketAddr,
    child: Child,
    _directory: TempDir,
}

impl RedisServer {
    /// Starts it without persistence.
    ///
    /// # Panics
    /// If it is missing or of another version than 7.0: replies and error texts differ between versions, so a
    /// comparison with another one would be worth nothing.
    pub fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts it with these arguments.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(arguments: &[&str]) -> Self {
        check_version();
        let directory = tempfile::Builder::new().prefix("redis-").tempdir().expect("a temporary directory");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let addr = free.expect("a free loopback port");
        let log = File::create(directory.path().join("log")).expect("a log file");
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &addr.port().to_string(), "--dir"])
            .arg(directory.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .expect("redis-server can be started");
        let server = Self { addr, child, _directory: directory };
        wait::until("redis-server answers", START_LIMIT, || {
            let reply = RespWire::connect(addr).and_then(|mut wire| wire.call(&["PING"]));
            match reply {
                Ok(reply) if reply == b"+PONG\r\n" || reply.starts_with(b"-NOAUTH") => Ok(()),
                Ok(reply) => Err(reply.escape_ascii().to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .expect("redis-server starts");
        server
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn check_version() {
    let output = Command::new("redis-server").arg("--version").output();
    let output = output.expect("redis-server 7.0 is missing: run ./test, which installs it on Debian 12");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(" v=7.0."), "the oracle must be redis-server 7.0, this is: {said}");
}
