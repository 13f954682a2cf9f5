//! `forebay scrub`: has the node look through what it keeps, and shows how that goes.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;

use super::client::{ANSWER_TIMEOUT, AdminArgs, AdminClient, ClientError};
use super::flush::printable;
use super::{Exit, complain, say};
use crate::api::{self, ScrubFinding, ScrubRequest, ScrubState};
use crate::config::units::{ByteSize, human_duration};

const SCRUB: &str = "/_/api/v1/scrub";
/// Pause between two looks at how it stands.
const LOOK: Duration = Duration::from_millis(500);
/// Pause between two lines where the output is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// Looks through what the node keeps.
#[derive(Debug, Args)]
pub(super) struct Scrub {
    #[command(flatten)]
    admin: AdminArgs,
    /// What is read a second, at most, as in 64MiB; without it what the config says
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse)]
    bytes_per_second: Option<ByteSize>,
    /// Also ask the origins (one HEAD each) for the objects of which bytes are only there
    #[arg(long)]
    origin: bool,
    /// Wait for one that runs already, or show the last one
    #[arg(long, conflicts_with_all = ["bytes_per_second", "origin", "cancel"])]
    attach: bool,
    /// End one that runs
    #[arg(long, conflicts_with_all = ["bytes_per_second", "origin"])]
    cancel: bool,
    /// Print the node's answer at the end as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

impl Scrub {
    pub(super) fn run(self) -> Exit {
        self.try_run().unwrap_or_else(|error| error.report())
    }

    fn try_run(self) -> Result<Exit, ClientError> {
        let client = self.admin.client()?;
        if self.cancel {
            let scrub: api::Scrub = client.post("/_/api/v1/scrub/cancel", &(), ANSWER_TIMEOUT)?;
            say(match scrub.state {
                ScrubState::Running => "it ends",
                _ => "none is running",
            });
            return Ok(Exit::Done);
        }
        if !self.attach {
            let bytes_per_second = self.bytes_per_second.map(|size| size.0);
            let request = ScrubRequest { bytes_per_second, ask_origins: self.origin };
            let _begun: api::Scrub = client.post("/_/api/v1/scrub/start", &request, ANSWER_TIMEOUT)?;
        }
        let scrub = self.follow(&client)?;
        if self.json {
            // Strings and numbers always serialize.
            say(serde_json::to_string_pretty(&scrub).unwrap_or_default());
        } else {
            print_end(&scrub);
        }
        Ok(exit_of(&scrub))
    }

    /// Shows how it goes until it has ended. It goes on without whoever watches.
    fn follow(&self, client: &AdminClient) -> Result<api::Scrub, ClientError> {
        let terminal = io::stdout().is_terminal();
        let mut next_line = Instant::now() + LINE;
        loop {
            let scrub: api::Scrub = client.get(SCRUB)?;
            if scrub.state != ScrubState::Running {
                if terminal && !self.json {
                    overwrite("");
                }
                return Ok(scrub);
            }
            if !self.json && terminal {
                overwrite(&progress(&scrub));
            } else if !self.json && Instant::now() >= next_line {
                say(progress(&scrub));
                next_line = Instant::now() + LINE;
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn overwrite(line: &str) {
    let mut out = io::stdout();
    // A reader that has gone away is no error of ours.
    let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
}

fn progress(scrub: &api::Scrub) -> String {
    let percent = |done: u64, total: u64| (done.min(total) * 100).checked_div(total).unwrap_or(100);
    let at = match scrub.phase.as_str() {
        "extents" => format!(
            "extents: {} of {} ({} %), at most {} a second",
            ByteSize(scrub.bytes_done),
            ByteSize(scrub.bytes_total),
            percent(scrub.bytes_done, scrub.bytes_total),
            ByteSize(scrub.bytes_per_second)
        ),
        "rows" => {
            let asked = if scrub.ask_origins {
                format!(", origins asked {} times", scrub.asked)
            } else {
                String::new()
            };
            format!("rows: {} of about {}{asked}", scrub.rows_done, scrub.objects_total)
        }
        phase => printable(phase),
    };
    match scrub.findings_total {
        0 => format!("{at}; nothing found so far"),
        found => format!("{at}; damage found in {found} places, {} mended", scrub.mended_total),
    }
}

fn print_end(scrub: &api::Scrub) {
    for finding in &scrub.findings {
        say(text_line(finding));
    }
    if scrub.findings_total > scrub.findings.len() as u64 {
        say(format_args!("... and {} more", scrub.findings_total - scrub.findings.len() as u64));
    }
    if let Some(trouble) = &scrub.trouble {
        complain(printable(trouble));
    }
    let took =
        scrub.ended_ms.map(|ended_ms| Duration::from_millis(ended_ms.saturating_sub(scrub.started_ms)));
    let took = took.map(|took| format!(" in {}", human_duration(took))).unwrap_or_default();
    let looked = format!(
        "{} extents of {} and {} rows{took}",
        scrub.extents_done,
        ByteSize(scrub.bytes_done),
        scrub.rows_done
    );
    let found = match scrub.findings_total {
        0 => "nothing is wrong".to_owned(),
        found => format!("damage in {found} places, {} mended", scrub.mended_total),
    };
    match scrub.state {
        ScrubState::Never => say("none was run since the node's start"),
        ScrubState::Running => {}
        ScrubState::Done => say(format_args!("looked at {looked}: {found}")),
        ScrubState::Canceled => say(format_args!("ended early, after {looked}: {found}")),
        ScrubState::Failed => say(format_args!("could not go on after {looked}: {found}")),
    }
}

fn text_line(finding: &ScrubFinding) -> String {
    let object = match (&finding.bucket, &finding.key) {
        (Some(bucket), Some(key)) => format!("{}/{}: ", printable(bucket), printable(key)),
        _ => String::new(),
    };
    let mended = if finding.mended { "mended" } else { "DAMAGE" };
    format!("{mended:<6} {:<10} {object}{}", printable(&finding.kind), printable(&finding.what))
}

fn exit_of(scrub: &api::Scrub) -> Exit {
    match (scrub.findings_total, scrub.state, &scrub.trouble) {
        (1.., ..) => Exit::Damaged,
        (0, ScrubState::Done, None) => Exit::Done,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrub(state: ScrubState, findings_total: u64, trouble: Option<&str>) -> api::Scrub {
        api::Scrub {
            state,
            trouble: trouble.map(str::to_owned),
            phase: "extents".into(),
            started_ms: 0,
            ended_ms: None,
            bytes_per_second: 32 << 20,
            ask_origins: false,
            bytes_total: 4 << 30,
            bytes_done: 1 << 30,
            extents_done: 5,
            objects_total: 9,
            rows_done: 0,
            asked: 0,
            findings_total,
            mended_total: 0,
            findings: Vec::new(),
        }
    }

    #[test]
    fn exit_codes_tell_damage_from_trouble() {
        assert_eq!(exit_of(&scrub(ScrubState::Done, 0, None)), Exit::Done);
        assert_eq!(exit_of(&scrub(ScrubState::Done, 0, Some("the origin gave no answer"))), Exit::Failed);
        assert_eq!(exit_of(&scrub(ScrubState::Canceled, 0, None)), Exit::Failed);
        assert_eq!(exit_of(&scrub(ScrubState::Failed, 2, Some("x"))), Exit::Damaged);
        assert_eq!(exit_of(&scrub(ScrubState::Done, 2, None)), Exit::Damaged);
    }

    #[test]
    fn progress_and_findings_read_well_and_cannot_write_to_the_terminal() {
        let line = progress(&scrub(ScrubState::Running, 0, None));
        assert_eq!(line, "extents: 1 GiB of 4 GiB (25 %), at most 32 MiB a second; nothing found so far");
        let line = text_line(&ScrubFinding {
            kind: "extent".into(),
            bucket: Some("photos".into()),
            key: Some("k\x1b[2J".into()),
            what: "it is damaged".into(),
            mended: true,
        });
        assert_eq!(line, "mended extent     photos/k\\u{1b}[2J: it is damaged");
    }
}
