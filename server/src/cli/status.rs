//! `forebay status`: one screen, the exposure first.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;

use super::client::AdminArgs;
use super::{Exit, complain, say};
use crate::api::Status;
use crate::config::units::{ByteSize, human_duration};

/// Shows how a node stands.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the node's answer as JSON
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    pub(super) fn run(self) -> Exit {
        let status: Status = match self.admin.client().and_then(|client| client.get("/_/api/v1/status")) {
            Ok(status) => status,
            Err(error) => return error.report(),
        };
        if !self.json {
            say(render(&status).trim_end());
            return Exit::Done;
        }
        match serde_json::to_string_pretty(&status) {
            Ok(text) => {
                say(text);
                Exit::Done
            }
            Err(error) => {
                complain(error);
                Exit::Failed
            }
        }
    }
}

fn render(status: &Status) -> String {
    let mut out = String::new();
    let node = &status.node;
    let copies = if status.copies == 1 { "1 copy".to_owned() } else { format!("{} copies", status.copies) };
    let ready = if node.ready { "ready" } else { "not ready" };
    let uptime = human_duration(Duration::from_millis(node.uptime_ms));
    let mut line = |name: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{name:<10} {value}");
    };
    line("node", format!("{} ({}), {ready}, up {uptime}, version {}", node.id, node.role, status.version));
    line("durability", format!("sync {}, {copies}", status.sync));
    line("objects", format!("{} / {}", status.objects, ByteSize(status.bytes)));
    line("stored", format!("{} of {}", ByteSize(status.stored_bytes), ByteSize(status.capacity_bytes)));
    let flush = &status.flush;
    line(
        "to upload",
        format!(
            "{} / {}, {} parked; {} of {} that may wait",
            flush.pending_objects,
            ByteSize(flush.pending_bytes),
            flush.parked_objects,
            ByteSize(flush.charged_bytes),
            ByteSize(flush.dirty_limit_bytes)
        ),
    );
    for mount in &status.mounts {
        let origin = mount.origin.as_ref().map(|origin| format!(" -> {origin}")).unwrap_or_default();
        let state = mount.state.as_ref().map(|state| format!(": {state}")).unwrap_or_default();
        line("mount", format!("{}{origin}, {}{state}", mount.path, mount.mode));
    }
    line(
        "disk",
        format!(
            "journal {}, checkpoint store {}, segments {}",
            ByteSize(status.disk.journal_bytes),
            ByteSize(status.disk.lmdb_used_bytes),
            ByteSize(status.disk.segment_bytes)
        ),
    );
    let listen = &status.listen;
    line("listening", format!("RESP {}, S3 {}, admin {}", listen.resp, listen.s3, listen.admin));
    format!("{}\n{out}", status.exposure)
}
