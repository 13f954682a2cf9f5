//! `forebay flush`: what waits for the cloud, and the operator's verbs on it.

use std::fmt::Write;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::client::{ANSWER_TIMEOUT, AdminArgs, AdminClient, ClientError};
use super::{Exit, complain, say};
use crate::api::{AbandonRequest, Changed, FlushPage, FlushRow, RetryRequest, WaitAnswer, WaitOutcome};
use crate::config::units::{ByteSize, human_duration, parse_duration};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Flush {
    /// List what has not reached the cloud
    Ls(Ls),
    /// Wait until everything written before is in the cloud
    ///
    /// Exit codes: 0 done; 1 the time was over; 3 something is parked and waits for a hand; 2 usage; 69 the
    /// node was not reached.
    Wait(Wait),
    /// Take up parked changes again
    Retry(Retry),
    /// Give up the parked changes of one key: the cloud keeps what it has
    Abandon(Abandon),
}

/// Lists the flush queue.
#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    admin: AdminArgs,
    /// Only these
    #[arg(long, value_enum)]
    state: Option<State>,
    /// text: a line each; json: one array, a line each
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Waits for the queue.
#[derive(Debug, Args)]
pub(super) struct Wait {
    #[command(flatten)]
    admin: AdminArgs,
    /// Longest wait, as in 500ms, 60s, 5m
    #[arg(long, value_parser = parse_duration, default_value = "60s")]
    timeout: Duration,
}

/// Takes up parked changes again.
#[derive(Debug, Args)]
pub(super) struct Retry {
    #[command(flatten)]
    admin: AdminArgs,
    /// Everything that is parked
    #[arg(long, conflicts_with_all = ["bucket", "key"], required_unless_present = "bucket")]
    all: bool,
    /// Bucket of one key
    #[arg(requires = "key")]
    bucket: Option<String>,
    /// The key, as flush ls shows it
    key: Option<String>,
}

/// Gives up the parked changes of one key.
#[derive(Debug, Args)]
pub(super) struct Abandon {
    #[command(flatten)]
    admin: AdminArgs,
    /// Really: what the cloud has under this key stays behind what is here
    #[arg(long)]
    yes: bool,
    /// Why; goes into the node's log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Bucket
    bucket: String,
    /// The key, as flush ls shows it
    key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    /// On their way, or waiting for it
    Pending,
    /// Set aside with a reason
    Parked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Flush {
    pub(super) fn run(self) -> Exit {
        let result = match self {
            Flush::Ls(ls) => ls.run(),
            Flush::Wait(wait) => wait.run(),
            Flush::Retry(retry) => retry.run(),
            Flush::Abandon(abandon) => abandon.run(),
        };
        result.unwrap_or_else(|error| error.report())
    }
}

impl Ls {
    fn run(self) -> Result<Exit, ClientError> {
        let client = self.admin.client()?;
        let mut after = None;
        let mut rows = 0_u64;
        if self.format == Format::Json {
            say("[");
        }
        loop {
            let page = self.page(&client, after.as_deref())?;
            for (index, row) in page.rows.iter().enumerate() {
                let last = page.next.is_none() && index + 1 == page.rows.len();
                match self.format {
                    Format::Text => say(text_line(row)),
                    Format::Json => say(json_line(row, last)),
                }
                rows += 1;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        match self.format {
            Format::Json => say("]"),
            Format::Text if rows == 0 => say("nothing waits"),
            Format::Text => {}
        }
        Ok(Exit::Done)
    }

    fn page(&self, client: &AdminClient, after: Option<&str>) -> Result<FlushPage, ClientError> {
        let mut path = "/_/api/v1/flush?limit=1000".to_owned();
        if let Some(state) = self.state {
            path.push_str(match state {
                State::Pending => "&state=pending",
                State::Parked => "&state=parked",
            });
        }
        if let Some(after) = after {
            let encoded = percent_encoding::utf8_percent_encode(after, percent_encoding::NON_ALPHANUMERIC);
            // Writing to a String does not fail.
            let _ = write!(path, "&after={encoded}");
        }
        client.get(&path)
    }
}

impl Wait {
    fn run(self) -> Result<Exit, ClientError> {
        let path = format!("/_/api/v1/flush/wait?timeout_ms={}", self.timeout.as_millis());
        let limit = self.timeout.saturating_add(ANSWER_TIMEOUT);
        let answer: WaitAnswer = self.admin.client()?.post(&path, &(), limit)?;
        let WaitAnswer { pending, parked, .. } = answer;
        Ok(match answer.outcome {
            WaitOutcome::Done => {
                say("done: everything committed before is in its origin");
                Exit::Done
            }
            WaitOutcome::Timeout => {
                say(format_args!("time-out: {pending} changes have not reached their origin"));
                Exit::Failed
            }
            WaitOutcome::Parked => {
                say(format_args!(
                    "parked: {pending} changes have not reached their origin, {parked} of them are parked; see \
                     forebay flush ls --state parked"
                ));
                Exit::Parked
            }
        })
    }
}

impl Retry {
    fn run(self) -> Result<Exit, ClientError> {
        let request = RetryRequest { all: self.all, bucket: self.bucket, key: self.key };
        let changed: Changed =
            self.admin.client()?.post("/_/api/v1/flush/retry", &request, ANSWER_TIMEOUT)?;
        say(format_args!("{} taken up again", changed.rows));
        Ok(Exit::Done)
    }
}

impl Abandon {
    fn run(self) -> Result<Exit, ClientError> {
        if !self.yes {
            complain(
                "this gives up the upload of what is parked under the key: the cloud stays behind what is here. \
                 Repeat with --yes if that is meant",
            );
            return Ok(Exit::Usage);
        }
        let request = AbandonRequest { bucket: self.bucket, key: self.key, reason: self.reason };
        let changed: Changed =
            self.admin.client()?.post("/_/api/v1/flush/abandon", &request, ANSWER_TIMEOUT)?;
        say(format_args!("{} given up", changed.rows));
        Ok(Exit::Done)
    }
}

fn text_line(row: &FlushRow) -> String {
    let age = human_duration(Duration::from_millis(row.age_ms));
    let barrier = if row.barrier { " barrier" } else { "" };
    let reason = row.reason.as_ref().map(|reason| format!("  {}", printable(reason))).unwrap_or_default();
    format!(
        "{:<7} {:<6} {:>10} {:>12}  {}/{}{barrier}{reason}",
        printable(&row.state),
        printable(&row.kind),
        ByteSize(row.bytes).to_string(),
        age,
        printable(&row.bucket),
        printable(&row.key)
    )
}

fn json_line(row: &FlushRow, last: bool) -> String {
    let comma = if last { "" } else { "," };
    // A row is strings and numbers, which always serialize.
    let row = serde_json::to_string(row).unwrap_or_default();
    format!("  {row}{comma}")
}

/// Text from a client or an origin, without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_cannot_write_to_the_terminal() {
        let row = FlushRow {
            bucket: "b".into(),
            key: "k\x1b[2J\n".into(),
            version: "1".into(),
            kind: "put".into(),
            barrier: true,
            bytes: 2048,
            age_ms: 61_000,
            state: "parked".into(),
            failures: 0,
            reason: Some("403\r\nForbidden".into()),
        };
        let line = text_line(&row);
        assert!(!line.contains(['\x1b', '\n', '\r']), "{line:?}");
        assert!(line.contains("b/k\\u{1b}[2J\\n barrier") && line.contains("1 min 1 s"), "{line:?}");
    }
}
