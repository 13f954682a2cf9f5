//! `forebay start`: load the config, then run the node until it is told to stop.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, complain};
use crate::config::{Config, Flags, SyncMode, process_environment};
use crate::{node, telemetry};

/// What `forebay start` takes; its help stands at the command.
#[derive(Debug, Args)]
pub(super) struct Start {
    /// Config file (forebay.toml)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is kept [default: ./forebay-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Redis address; port 0 takes a free one, see DIR/endpoints.json [default: 127.0.0.1:6379]
    #[arg(long, value_name = "HOST:PORT")]
    resp_listen: Option<String>,
    /// S3 address [default: 127.0.0.1:9000]
    #[arg(long, value_name = "HOST:PORT")]
    s3_listen: Option<String>,
    /// Admin address [default: 127.0.0.1:19080]
    #[arg(long, value_name = "HOST:PORT")]
    admin_listen: Option<String>,
    /// When a write is acknowledged [default: always]
    #[arg(long, value_enum)]
    sync: Option<SyncMode>,
}

impl Start {
    pub(super) fn run(self) -> Exit {
        let flags = Flags {
            data_dir: self.data_dir,
            resp_listen: self.resp_listen,
            s3_listen: self.s3_listen,
            admin_listen: self.admin_listen,
            sync: self.sync,
        };
        let config = match Config::load(self.config.as_deref(), &flags, &process_environment) {
            Ok(config) => config,
            Err(error) => {
                complain(format_args!("bad config\n{error}"));
                return Exit::BadConfig;
            }
        };
        telemetry::init(&config.log);
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(format_args!("cannot start the threads of the runtime: {error}"));
                return Exit::Failed;
            }
        };
        match runtime.block_on(node::run(config)) {
            Ok(()) => Exit::Done,
            Err(error) => {
                complain(error);
                Exit::Failed
            }
        }
    }
}
