//! kill -9, failing origins, stops: nothing acknowledged is lost, nothing deleted returns.

mod faults;
mod fence;
mod kill;
mod stop;
mod workload;
