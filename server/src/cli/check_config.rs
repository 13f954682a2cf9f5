//! `forebay check-config`: what `start` would say about this file and this environment, starting nothing.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, complain, say};
use crate::config::{Config, Flags, process_environment};

/// What `forebay check-config` takes.
#[derive(Debug, Args)]
pub(super) struct CheckConfig {
    /// The config file
    file: PathBuf,
}

impl CheckConfig {
    pub(super) fn run(self) -> Exit {
        match Config::load(Some(&self.file), &Flags::default(), &process_environment) {
            Ok(config) => {
                let mounts = config.mounts.len();
                say(format_args!("{}: ok ({mounts} mounts, sync {})", self.file.display(), config.sync));
                Exit::Done
            }
            Err(error) => {
                complain(format_args!("bad config\n{error}"));
                Exit::BadConfig
            }
        }
    }
}
