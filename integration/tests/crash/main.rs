//! kill -9, power cuts, failing origins, stops: nothing acknowledged is lost, nothing deleted returns.

mod evict;
mod existing_data;
mod faults;
mod fence;
mod kill;
mod power_cut;
mod scrub;
mod stop;
mod workload;
