//! The DNS-over-TLS forwarder dot-proxy, as a library so that tests and fuzzers reach every part.
#![deny(missing_docs)]

/// Configuration.
pub mod config {
    pub mod file;
    pub mod options;
    pub mod settings;
    pub mod values;
}
/// The DNS wire format, as far as a relay must know it.
pub mod dns {
    pub mod crossing;
    pub mod edit;
    pub mod framing;
    pub mod message;
    pub mod name;
    pub mod privacy;
    pub mod special;
    pub mod transfer;
}
pub mod cli;
pub mod daemon;
pub mod log;
pub mod log_lines;
pub mod log_sinks;
pub mod metrics;
pub mod sockets;
/// Upstream.
pub mod upstream {
    pub mod connection;
    pub mod group;
    pub mod health;
    pub mod inflight;
    pub mod plan;
    pub mod server;
    pub mod solo;
    pub mod tls;
}
/// Listeners.
pub mod listen {
    pub mod datagrams;
    pub mod limits;
    pub mod stream;
    pub mod udp;
}
pub mod query;
pub mod worker;
