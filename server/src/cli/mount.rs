//! `forebay mount`: which mounts are recorded, and how one is let go.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::client::{AdminArgs, AdminClient, ClientError};
use super::{Exit, complain, say};
use crate::api::{ForgetRequest, Forgotten, Mounts, RecordedMount};

/// Giving up a million queued rows takes a while.
const FORGET_TIMEOUT: Duration = Duration::from_secs(600);
const MOUNTS: &str = "/_/api/v1/mounts";

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Mount {
    /// List the mounts that are recorded, configured or not
    Ls(Ls),
    /// Forget a mount: the cloud keeps what it has, the objects stay here, nothing more is sent
    ///
    /// Then take it out of the config, or give its path another origin, before the next start. Refused with 1
    /// while changes wait for it: let them go first (forebay flush wait), or give them up with --abandon.
    Forget(Forget),
}

/// Lists mounts.
#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the node's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Forgets one.
#[derive(Debug, Args)]
pub(super) struct Forget {
    #[command(flatten)]
    admin: AdminArgs,
    /// Really
    #[arg(long)]
    yes: bool,
    /// Give up the changes that wait for it: the cloud stays behind what is here
    #[arg(long, requires = "reason")]
    abandon: bool,
    /// Why they are given up; goes into the node's log
    #[arg(long, value_name = "TEXT", requires = "abandon")]
    reason: Option<String>,
    /// The mount, as mount ls shows it: /bucket or /bucket/prefix
    path: String,
}

impl Mount {
    pub(super) fn run(self) -> Exit {
        let result = match self {
            Mount::Ls(ls) => ls.run(),
            Mount::Forget(forget) => forget.run(),
        };
        result.unwrap_or_else(|error| error.report())
    }
}

impl Ls {
    fn run(self) -> Result<Exit, ClientError> {
        let mounts: Mounts = self.admin.client()?.get(MOUNTS)?;
        if self.json {
            // Strings and numbers always serialize.
            say(serde_json::to_string_pretty(&mounts.mounts).unwrap_or_default());
            return Ok(Exit::Done);
        }
        mounts.mounts.iter().for_each(|mount| say(text_line(mount)));
        if mounts.mounts.is_empty() {
            say("nothing is mounted");
        }
        Ok(Exit::Done)
    }
}

impl Forget {
    fn run(self) -> Result<Exit, ClientError> {
        let client = self.admin.client()?;
        if !self.yes {
            let mounts: Mounts = client.get(MOUNTS)?;
            if let Some(mount) =
                mounts.mounts.iter().find(|mount| mount.path == self.path.trim_end_matches('/'))
            {
                say(text_line(mount));
            }
            complain(
                "this lets the mount go: its origin keeps what it has and gets nothing more. Repeat with --yes if \
                 that is meant",
            );
            return Ok(Exit::Usage);
        }
        self.forget(&client)
    }

    fn forget(self, client: &AdminClient) -> Result<Exit, ClientError> {
        let request = ForgetRequest { path: self.path, abandon: self.abandon, reason: self.reason };
        let forgotten: Forgotten = client.post("/_/api/v1/mounts/forget", &request, FORGET_TIMEOUT)?;
        let given_up = match forgotten.abandoned {
            0 => String::new(),
            rows => format!(", {rows} changes given up"),
        };
        say(format_args!(
            "forgotten{given_up}; take it out of the config, or give its path another origin, before the next start"
        ));
        Ok(Exit::Done)
    }
}

fn text_line(mount: &RecordedMount) -> String {
    let origin = mount.origin.as_ref().map(|origin| format!(" -> {origin}")).unwrap_or_default();
    let state = mount.state.as_ref().map(|state| format!(": {state}")).unwrap_or_default();
    let existing = if mount.existing { ", over existing data" } else { "" };
    format!("{}{origin}, {}{existing}, {} changes wait{state}", mount.path, mount.mode, mount.queued)
}
