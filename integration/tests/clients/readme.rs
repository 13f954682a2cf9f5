//! The README's first five minutes, typed by a script.
//!
//! Every `sh` block of the section "First five minutes" is typed into one shell, every `python` block into the
//! Python of the lock file. The daemon is started by the test as `./start` would, on free ports that take the
//! place of 6379, 9000 and 19080; blocks of other kinds are left out. The node and the origin that the section
//! itself starts get free ports as well.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use forebay_integration::node::{Endpoints, forebay_program};
use forebay_integration::python;
use forebay_integration::wait;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SECTION: &str = "first five minutes";

#[test]
fn the_first_five_minutes_work_as_written() {
    let readme = std::fs::read_to_string(format!("{ROOT}/README.md")).unwrap();
    let blocks = blocks(&readme);
    assert!(blocks.iter().any(|(kind, _)| kind == "sh"), "no sh block in the section \"{SECTION}\"");
    let directory = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(directory.path().join("log")).unwrap();
    let mut daemon = Command::new(forebay_program())
        .args(["start", "--data-dir", "./forebay-data", "--resp-listen", "127.0.0.1:0"])
        .args(["--s3-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .current_dir(&directory)
        .env_remove("FOREBAY_ACCESS_KEY_ID")
        .env_remove("FOREBAY_SECRET_ACCESS_KEY")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let started = wait::until("endpoints.json is there", Duration::from_secs(60), || {
        let text =
            std::fs::read(directory.path().join("forebay-data/endpoints.json")).map_err(|e| e.to_string())?;
        serde_json::from_slice::<Endpoints>(&text).map_err(|error| error.to_string())
    });
    let outcome = started.map_err(|error| error.to_string()).and_then(|endpoints| {
        let ports = ports(endpoints);
        let admin = format!("http://{}", endpoints.admin);
        blocks
            .iter()
            .try_for_each(|(kind, text)| typed(kind, &with_ports(text, &ports), directory.path(), &admin))
    });
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    if let Err(error) = outcome {
        panic!("{error}\nlog:\n{}", std::fs::read_to_string(directory.path().join("log")).unwrap());
    }
}

fn typed(kind: &str, text: &str, directory: &Path, admin: &str) -> Result<(), String> {
    let mut command = Command::new("timeout");
    match kind {
        "sh" => command.args(["300", "bash"]),
        _ => command.arg("300").arg(python::program("python")),
    };
    let tools = python::program("python");
    let tools = tools.parent().expect("a directory of programs");
    let binary = forebay_program().parent().expect("a directory of programs");
    let origin = Path::new(env!("CARGO_BIN_EXE_origin-sim")).parent().expect("a directory of programs");
    let mut path = std::env::join_paths([binary, tools, origin]).expect("no colon in them");
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let file = directory.join(format!("typed.{kind}"));
    // What the section starts beside itself must not outlive it.
    let prelude = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n";
    let text = if kind == "sh" { format!("{prelude}{text}") } else { text.to_owned() };
    std::fs::write(&file, &text).map_err(|error| error.to_string())?;
    let output = command
        .arg(&file)
        .current_dir(directory)
        .env("PATH", path)
        .env("HOME", directory)
        // In place of the default port.
        .env("FOREBAY_ADMIN", admin)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // redis-cli ends with 0 whatever the server answers.
    let complaint =
        ["ERR ", "(error)", "Could not connect", "Traceback"].iter().any(|text| said.contains(text));
    if output.status.success() && !complaint {
        return Ok(());
    }
    Err(format!("{}\n--- typed ---\n{text}\n--- came back ---\n{said}", output.status))
}

/// The ports as the README writes them, and those to use.
fn ports(endpoints: Endpoints) -> Vec<(&'static str, u16)> {
    let mut ports = vec![
        ("19080", endpoints.admin.port()),
        ("6379", endpoints.resp.port()),
        ("9000", endpoints.s3.port()),
    ];
    // Held until all are known, so that no two are the same.
    let free: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let own = ["19090", "6390", "9010", "9100"];
    ports.extend(
        own.into_iter().zip(&free).map(|(written, free)| (written, free.local_addr().unwrap().port())),
    );
    ports
}

fn with_ports(text: &str, ports: &[(&str, u16)]) -> String {
    // In two steps: a port that was put in may hold the digits of another one.
    let marked = ports.iter().enumerate().fold(text.to_owned(), |text, (index, (written, _))| {
        text.replace(written, &format!("<port {index}>"))
    });
    ports
        .iter()
        .enumerate()
        .fold(marked, |text, (index, (_, port))| text.replace(&format!("<port {index}>"), &port.to_string()))
}

/// All `sh` blocks as one text and each `python` block by itself, in the order of their first lines.
fn blocks(readme: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let (mut inside, mut open): (bool, Option<(String, String)>) = (false, None);
    for line in readme.lines() {
        match &mut open {
            None if line.starts_with("## ") => inside = line.to_lowercase().contains(SECTION),
            None if inside && line.starts_with("```") => {
                open = Some((line[3..].trim().to_owned(), String::new()))
            }
            Some(_) if line.starts_with("```") => found.extend(open.take()),
            Some((_, text)) => {
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    found.retain(|(kind, text)| {
        matches!(kind.as_str(), "sh" | "python") && !text.contains("./start") && !text.contains("./test")
    });
    let mut merged: Vec<(String, String)> = Vec::new();
    for (kind, text) in found {
        match merged.iter_mut().find(|(seen, _)| kind == "sh" && seen == "sh") {
            Some((_, all)) => all.push_str(&text),
            None => merged.push((kind, text)),
        }
    }
    merged
}
