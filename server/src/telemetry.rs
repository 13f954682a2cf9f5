//! Logs: one line an event, to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use crate::config::{LogConfig, LogFormat};

/// What is quieter than the rest, unless the filter speaks of it: `s3s::ops` and `s3s::service` log
/// every 404, 304 and 501 as an error, and the SDK its own view of what the flush worker reports better.
const QUIET: [(&str, &str); 5] = [
    ("s3s", "s3s=warn"),
    ("s3s::ops", "s3s::ops=off"),
    ("s3s::service", "s3s::service=off"),
    ("aws_", "aws_smithy_runtime=warn"),
    ("hyper", "hyper=warn"),
];

/// Begins logging. RUST_LOG overrides the level of the config.
pub(crate) fn init(config: &LogConfig) {
    let (filter, complaint) = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => match filter(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (filter_or_info(&config.level), Some(error)),
        },
        _ => (filter_or_info(&config.level), None),
    };
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    match config.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    if let Some(error) = complaint {
        tracing::warn!(%error, "RUST_LOG is not a filter; the level of the config is used");
    }
}

fn filter_or_info(level: &str) -> EnvFilter {
    // The config was validated; `info` is for a text that only the two together refuse.
    filter(level).unwrap_or_else(|_| EnvFilter::new("info"))
}

fn filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let mut filter: EnvFilter = text.parse()?;
    for (name, quiet) in QUIET {
        if !text.contains(name) {
            filter = filter.add_directive(quiet.parse::<Directive>()?);
        }
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_of_s3s_is_off_unless_asked_for() {
        let quiet = filter("debug").unwrap().to_string();
        assert!(
            quiet.contains("s3s::ops=off") && quiet.contains("s3s=warn") && quiet.contains("debug"),
            "{quiet}"
        );
        let asked = filter("info,s3s::ops=error,s3s=error").unwrap().to_string();
        assert!(!asked.contains("s3s::ops=off") && !asked.contains("s3s=warn"), "{asked}");
        assert!(filter("a=b=c").is_err());
    }
}
