//! `forebay fs`: what lies in the buckets behind the mounts.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::client::{ANSWER_TIMEOUT, AdminArgs, AdminClient, ClientError};
use super::{Exit, complain, say};
use crate::api::{Import, ImportRequest, ImportState, Imports};

/// Between two looks at an import.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// Between two lines about it, where a line cannot be written over.
const LINE_AGAIN: Duration = Duration::from_secs(5);

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Fs {
    /// Take over what a mount's origin holds: names, sizes, ETags and metadata of all its objects, not their bytes
    ///
    /// Nothing has to be imported to be read: a key that nobody here knows is looked up. What was imported needs no
    /// look-up, and is listed and counted without the origin's help. The import runs in the node, also through
    /// restarts: Ctrl-C ends the waiting alone. Exit codes: 0 done, or (without --wait) begun; 1 it was cancelled, or
    /// the node said no; 69 the node was not reached.
    Import(ImportArgs),
}

/// Imports a mount.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Show how it comes on, until it is done
    #[arg(long)]
    wait: bool,
    /// End the import that is under way; what was taken over stays
    #[arg(long, conflicts_with = "wait")]
    cancel: bool,
    /// The mount, as mount ls shows it: /bucket or /bucket/prefix
    path: String,
}

impl Fs {
    pub(super) fn run(self) -> Exit {
        let Fs::Import(import) = self;
        import.run().unwrap_or_else(|error| error.report())
    }
}

impl ImportArgs {
    fn run(self) -> Result<Exit, ClientError> {
        let client = self.admin.client()?;
        let request = ImportRequest { path: self.path.clone() };
        let verb = if self.cancel { "cancel" } else { "start" };
        let import: Import = client.post(&format!("/_/api/v1/import/{verb}"), &request, ANSWER_TIMEOUT)?;
        if self.wait {
            return watch(&client, import);
        }
        say(text_line(&import));
        Ok(Exit::Done)
    }
}

/// Shows an import until it has ended.
fn watch(client: &AdminClient, mut import: Import) -> Result<Exit, ClientError> {
    let encoded = percent_encoding::utf8_percent_encode(&import.path, percent_encoding::NON_ALPHANUMERIC);
    let path = format!("/_/api/v1/import?path={encoded}");
    let mut progress = ProgressLine::new();
    while import.state == ImportState::Running {
        progress.show(&text_line(&import));
        thread::sleep(LOOK_AGAIN);
        let Imports { imports } = client.get(&path)?;
        let Some(next) = imports.into_iter().next() else {
            progress.end();
            complain(format_args!("{} is mounted no more", import.path));
            return Ok(Exit::Failed);
        };
        import = next;
    }
    progress.end();
    say(text_line(&import));
    Ok(if import.state == ImportState::Done { Exit::Done } else { Exit::Failed })
}

/// One line that changes on a terminal, and a line now and then elsewhere.
struct ProgressLine {
    terminal: bool,
    said: Option<(Instant, String)>,
}

impl ProgressLine {
    fn new() -> ProgressLine {
        ProgressLine { terminal: io::stdout().is_terminal(), said: None }
    }

    fn show(&mut self, line: &str) {
        let soon =
            |(at, said): &(Instant, String)| said == line || !self.terminal && at.elapsed() < LINE_AGAIN;
        if self.said.as_ref().is_some_and(soon) {
            return;
        }
        if self.terminal {
            let mut out = io::stdout();
            // A reader that has gone away is no error of ours.
            let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
        } else {
            say(line);
        }
        self.said = Some((Instant::now(), line.to_owned()));
    }

    fn end(&mut self) {
        if self.terminal && self.said.is_some() {
            let _ = write!(io::stdout(), "\r\x1b[K");
        }
    }
}

fn text_line(import: &Import) -> String {
    let Import { path, listed_objects, adopted_objects, .. } = import;
    let counts = format!("{listed_objects} objects listed, {adopted_objects} taken over");
    match (import.state, &import.trouble) {
        (ImportState::Running, None) => format!("importing {path}: {counts}"),
        (ImportState::Running, Some(trouble)) => {
            let trouble: String = trouble.chars().filter(|c| !c.is_control()).collect();
            format!("importing {path}: {counts}; waits: {trouble}")
        }
        (ImportState::Done, _) => format!("import of {path} done: {counts}"),
        (ImportState::Cancelled, _) => format!("import of {path} cancelled: {counts}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_reads_as_a_line() {
        let import = |state, trouble: Option<&str>| Import {
            path: "/photos".into(),
            state,
            listed_objects: 20,
            adopted_objects: 18,
            after: "k".into(),
            trouble: trouble.map(str::to_owned),
        };
        let line = |state, trouble| text_line(&import(state, trouble));
        assert_eq!(line(ImportState::Running, None), "importing /photos: 20 objects listed, 18 taken over");
        assert!(line(ImportState::Running, Some("503\r\n")).ends_with("; waits: 503"));
        assert!(line(ImportState::Done, None).starts_with("import of /photos done: "));
    }
}
