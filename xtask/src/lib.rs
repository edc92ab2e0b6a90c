//! Development tasks of dot-proxy, as a library so that tests reach them.

mod completions;
pub mod copyright;
pub mod demo;
pub mod documents;
pub mod fault_server;
pub mod instructions;
pub mod layout;
pub mod soak;
pub mod soak_faults;
pub mod soak_load;
mod soak_stale;
pub mod soak_stand;
pub mod soak_watch;
pub mod troubled;
pub mod workers;
