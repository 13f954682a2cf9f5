//! The command line: one file a command.
//!
//! Exit codes are part of the contract with scripts: 0 done; 1 the node said no, the start failed, or
//! (`flush wait`) the time was over; 2 usage; 3 (`flush wait`) something is parked, or (`scrub`) damage was
//! found; 69 the node was not reached or could not answer; 78 bad config.

mod check_config;
mod client;
mod flush;
mod fs;
mod mount;
mod scrub;
mod start;
mod status;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A Redis server and an S3 server over one durable store, written back to a cloud bucket.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    ///
    /// Flags win over the environment (FOREBAY_DATA_DIR, FOREBAY_RESP_LISTEN, FOREBAY_S3_LISTEN,
    /// FOREBAY_ADMIN_LISTEN, FOREBAY_SYNC), the environment over the config file, the file over defaults.
    /// Secrets come from the environment (FOREBAY_ACCESS_KEY_ID, FOREBAY_SECRET_ACCESS_KEY, FOREBAY_PASSWORD,
    /// FOREBAY_ADMIN_TOKEN, each also with _FILE) or the config file, never from a flag. A bad config ends
    /// with exit code 78.
    Start(start::Start),
    /// Show how a node stands: what exists only here, queue, mounts, addresses
    Status(status::StatusArgs),
    /// Look after the queue to the cloud
    #[command(subcommand)]
    Flush(flush::Flush),
    /// See which mounts are recorded, and let one go
    #[command(subcommand)]
    Mount(mount::Mount),
    /// Take over what lies in the bucket behind a mount
    #[command(subcommand)]
    Fs(fs::Fs),
    /// Look whether everything that is kept is there and right, and mend what can be
    ///
    /// The node does it in the background, at the pace of scrub.bytes_per_second or of the flag; this waits for the end
    /// and lists what was found. Exit codes: 0 nothing is wrong; 3 damage was found, mended or not; 1 it did not come to
    /// its end, or something could not be looked at; 2 usage; 69 the node was not reached.
    Scrub(scrub::Scrub),
    /// Check a config file (and this environment) without starting anything
    ///
    /// Exits with 78 if something is wrong, every problem on a line of its own with file and line number.
    /// The environment counts, as for start; nothing is opened but the config and secret files.
    CheckConfig(check_config::CheckConfig),
}

/// How a command ended, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Done,
    /// It did not: the start failed, the node said no, the time was over.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// Something is parked.
    Parked,
    /// Damage was found.
    Damaged,
    /// The node was not reached, or could not answer (EX_UNAVAILABLE).
    Unavailable,
    /// The config is bad (EX_CONFIG).
    BadConfig,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Parked | Exit::Damaged => 3,
            Exit::Unavailable => 69,
            Exit::BadConfig => 78,
        })
    }
}

/// Parses the command line and runs the command.
pub(crate) fn run() -> ExitCode {
    // Usage errors end the process here, with 2.
    let exit = match Cli::parse().command {
        Command::Start(start) => start.run(),
        Command::Status(status) => status.run(),
        Command::Flush(flush) => flush.run(),
        Command::Mount(mount) => mount.run(),
        Command::Fs(fs) => fs.run(),
        Command::Scrub(scrub) => scrub.run(),
        Command::CheckConfig(check) => check.run(),
    };
    exit.into()
}

/// Writes a line to standard output. A reader that has gone away (`| head`) is no error of ours.
pub(crate) fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line to standard error, as `forebay: …`.
pub(crate) fn complain(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "forebay: {line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contract_for_scripts_parses() {
        let lines: &[&[&str]] = &[
            &["start", "--data-dir", "d", "--resp-listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0"],
            &["start", "--config", "f", "--admin-listen", "127.0.0.1:0", "--sync", "everysec"],
            &["status", "--json", "--admin", "http://127.0.0.1:1"],
            &["flush", "ls", "--state", "parked", "--format", "json"],
            &["flush", "wait", "--timeout", "60s"],
            &["flush", "retry", "--all"],
            &["flush", "retry", "bucket", "key"],
            &["flush", "abandon", "--yes", "--reason", "TEXT", "bucket", "key"],
            &["mount", "ls", "--json"],
            &["mount", "forget", "/photos", "--yes"],
            &["mount", "forget", "--yes", "--abandon", "--reason", "TEXT", "/photos/2026"],
            &["fs", "import", "/photos"],
            &["fs", "import", "/photos/2026", "--wait"],
            &["fs", "import", "--cancel", "/photos"],
            &["scrub"],
            &["scrub", "--bytes-per-second", "64MiB", "--origin", "--json"],
            &["scrub", "--attach"],
            &["scrub", "--cancel"],
            &["check-config", "forebay.toml"],
        ];
        for line in lines {
            let arguments = [&["forebay"], *line].concat();
            assert!(Cli::try_parse_from(&arguments).is_ok(), "{line:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        let lines: &[&[&str]] = &[
            &[],
            &["start", "--sync", "never"],
            &["flush", "wait", "--timeout", "60"],
            &["flush", "ls", "--state", "lost"],
            &["flush", "retry"],
            &["flush", "retry", "bucket"],
            &["flush", "retry", "--all", "bucket", "key"],
            &["flush", "abandon", "--yes", "bucket", "key"],
            &["mount", "forget", "--yes"],
            &["mount", "forget", "--yes", "--abandon", "/photos"],
            &["mount", "forget", "--yes", "--reason", "x", "/photos"],
            &["fs", "import"],
            &["fs", "import", "/photos", "--wait", "--cancel"],
            &["scrub", "--bytes-per-second", "fast"],
            &["scrub", "--attach", "--cancel"],
            &["scrub", "--attach", "--origin"],
            &["check-config"],
        ];
        for line in lines {
            let arguments = [&["forebay"], *line].concat();
            let error = Cli::try_parse_from(&arguments).expect_err("a usage error");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}
