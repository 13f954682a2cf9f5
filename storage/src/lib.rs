//! The replicated object core behind both front ends.
//!
//! A write comes in as a [`submission::Submission`] of [`mutation::Mutation`]s through
//! [`store::Store::submit`], is packed into a log entry by `replica`, ordered by `consensus`, made durable
//! by `journal`, judged by `apply`, and lands in the memtables of `keyspace`; a checkpoint moves it to
//! LMDB and, where long, to a `blob` segment. A read takes a [`read::ReadView`]. What a mounted bucket
//! writes is carried to the cloud by `flush` through an `origin`.
//!
//! Knows no protocol: neither RESP nor HTTP, nor who else is in the cluster.
//!
//! | thread or task | runs | waits for |
//! |---|---|---|
//! | `driver` | propose, journal write, fdatasync, apply, answer | inbox |
//! | `checkpoint` | segments, LMDB commit | a frozen memtable |
//! | `syncer` (everysec) | fdatasync once a second | the driver |
//! | `journal-prepare` | zero-fills the next journal file | the journal |
//! | `stage-N` | staged bodies' writes, and one sync for all that wait for a segment | bodies that arrive |
//! | `evict` | gives up bytes that the origin holds, copies what stays, waits for the checkpoint | a store that gets full |
//! | `read-N` | cold rows and bodies | look-ups that may block |
//! | `scrub`, while one runs | reads every extent and row at a modest pace | its pace, checkpoints |
//! | housekeeping task | proposes expiries and sweeps | a clock |
//! | flush tasks | uploads | the queue |
//! | look-up tasks | questions to origins, one for each key that is asked for | readers, listings |
//! | import tasks | an origin's listing and HEADs, page by page | an operator |
//! | fill tasks | blocks from an origin, and blobs that are kept again | readers |

pub mod blob;
pub mod checksum;
pub mod clock;
pub mod error;
pub mod flush;
pub mod identity;
pub mod io;
pub mod journal;
pub mod lookup;
pub mod mounts;
pub mod multipart;
pub mod mutation;
pub mod node;
pub mod object;
pub mod object_name;
pub mod origin;
pub mod read;
pub mod scrub;
pub mod slot;
pub mod stage;
pub mod store;
pub mod submission;

mod admission;
mod apply;
mod background;
mod body;
mod consensus;
mod evict;
mod fill;
mod flush_link;
mod keyspace;
mod log_limit;
mod registry;
mod replica;
mod stats;
mod write_through;

pub use body::BodyReader;
pub use keyspace::tables::encode_meta;
pub use replica::OpenError;
pub use write_through::Arrival;
