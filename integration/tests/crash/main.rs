//! kill -9, power cuts, failing origins, stops: nothing acknowledged is lost, nothing deleted returns.

mod backlog;
mod every_error;
mod evict;
mod existing_data;
mod faults;
mod fence;
mod full_disk;
mod kill;
mod power_cut;
mod queued;
mod resurrection;
mod scrub;
mod stop;
mod workload;
mod written;
