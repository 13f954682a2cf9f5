//! Write-back: the durable queue that carries committed changes to the origin, under the user's own
//! keys.
//!
//! Reading order: `contract` what the core gives and takes · `queue` which row may go next, and why not
//! (pure) · `classify` what each class of error costs a row · `tag` what a HEAD says · `upload` one
//! attempt, step by step · `parts` the same for long bodies · `stale` uploads that nobody wants any more · `asked`
//! those that nobody knows the names of · `flying` parts that may be on their way · `batch` many small proposals as one · `flusher` the worker around all that ·
//! `status` what it shows · `arrivals` who waits for a single key.
//!
//! The origin never goes back from a newer version to an older one, a deleted object never returns, and
//! at any moment the origin is an image that a reader of conditional writes (a manifest, a pointer) can
//! open. The rules that give this stand at the head of `queue`; `queue/sim.rs` takes each of them away
//! and watches it break.

mod arrivals;
mod asked;
mod batch;
pub mod classify;
mod contract;
mod flusher;
mod flying;
mod parts;
pub mod queue;
mod stale;
mod status;
pub mod tag;
#[cfg(test)]
mod testing;
mod upload;

pub use contract::*;
pub(crate) use flusher::Arriving;
pub use flusher::{ChecksumMode, Flusher, FlusherConfig, MountSpec};
pub use queue::{MountHealth, Pending, QueueConfig, RowPlace, RowState, RowView};
pub use status::{FlushStatus, MountStatus};
pub use upload::origin_key;
