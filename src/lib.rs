//! The DNS-over-TLS forwarder dot-proxy, as a library so that tests and fuzzers reach every part.
//!
//! This is the map. For the path of a query read, in this order: [`listen::udp`] and [`listen::stream`], [`query`],
//! [`upstream::group`] with [`upstream::plan`], [`upstream::connection`], [`dns::crossing`]. For the life of the process:
//! [`daemon`] and [`worker`]. `docs/architecture.md` tells the whole, with the layers: a file imports only from lower ones.
#![deny(missing_docs)]

pub mod daemon;

pub mod service;

pub mod worker;

/// The ways in: datagrams and streams, and what one client may take.
pub mod listen {
    pub mod certificate;
    pub mod crowd;
    pub mod datagrams;
    pub mod desk;
    pub mod handshake;
    pub mod limits;
    pub mod seats;
    pub mod shift;
    pub mod stream;
    pub mod udp;
}

pub mod pending;
pub mod query;
pub mod relay;
pub mod rules;

pub mod memory;

/// Answers from memory.
pub mod cache {
    pub mod answers;
    pub mod index;
    pub mod joined;
    pub mod ring;
    pub mod shelf;
    pub mod snapshot;
}

/// The way out: authenticated, pipelined connections to resolvers.
pub mod upstream {
    pub mod alarms;
    pub mod allowance;
    pub mod approach;
    pub mod attempt;
    pub mod awaited;
    pub mod calm;
    pub mod connection;
    pub mod establish;
    pub mod finder;
    pub mod group;
    pub mod health;
    pub mod inflight;
    pub mod inquiry;
    pub mod intake;
    pub mod lifetime;
    pub mod lookup;
    pub mod outage;
    pub mod outcome;
    pub mod place;
    pub mod plain;
    pub mod plan;
    pub mod presented;
    pub mod refused;
    pub mod renewal;
    pub mod roster;
    pub mod server;
    pub mod session;
    pub mod shared;
    pub mod solo;
    pub mod survey;
    pub mod tally;
    pub mod tempo;
    pub mod tickets;
    pub mod tls;
}

/// The DNS wire format, as far as a relay must know it: views that never change a message, and the few edits.
pub mod dns {
    pub mod crossing;
    pub mod edit;
    pub mod finding;
    pub mod framing;
    pub mod keepalive;
    pub mod message;
    pub mod name;
    pub mod presentation;
    pub mod privacy;
    pub mod refusal;
    pub mod reuse;
    pub mod special;
    pub mod suffix;
    pub mod transfer;
}

/// From the table of options and a file to settings that the program can work with.
pub mod config {
    pub mod file;
    pub mod given;
    pub mod options;
    pub mod place_text;
    pub mod relations;
    pub mod settings;
    pub mod values;
}

/// The command that points the machine's lookups at dot-proxy, and back. The decision is `decision`, a pure function of
/// `facts`; what was changed stands in the `ledger` before it is changed.
pub mod system_dns {
    pub mod decision;
    pub mod facts;
    pub mod ledger;
    pub mod programs;
    pub mod resolv_conf;
    pub mod switch;
    pub mod trial;
    pub mod verdict;
}

pub mod ahead;
pub mod ask;
pub mod bell;
pub mod cli;
pub mod clock;
pub mod control;
pub mod counted;
pub mod effort;
pub mod hashed;
pub mod inherited;
pub mod keeper;
pub mod moment;
pub mod network_changes;
pub mod network_watch;
pub mod own_listeners;
pub mod pace;
pub mod pem_pair;
pub mod pins;
pub mod port_holder;
pub mod privileges;
pub mod pulse;
pub mod report;
pub mod sandbox;
pub mod sockets;
pub mod spares;
pub mod system_calls;
pub mod systemd;

pub mod log;
pub mod log_lines;
pub mod log_sinks;
pub mod metrics;

#[cfg(test)]
mod bare_path_tests;
#[cfg(test)]
mod wake_count_tests;
