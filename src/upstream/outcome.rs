//! What can become of a query at a server, and how long it may take: the words that connections and groups share.

use std::fmt;
use std::thread::LocalKey;
use std::time::Duration;

use super::awaited::{Spares, Tidings};
use crate::dns::message::ReadMessage;

/// The limits of a connection, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for TCP and TLS together.
    pub connect: Duration,
    /// How long an idle connection stays open, unless the server says less.
    pub idle: Duration,
    /// How long a query may wait at all; what is older has no waiter.
    pub deadline: Duration,
    /// Queries in flight.
    pub in_flight: usize,
    /// Queries waiting to be sent.
    pub queue: usize,
    /// Connections to one server, those of all workers together.
    pub connections: usize,
}

/// Why a group has no server.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Vacancy {
    /// For people.
    pub why: String,
    /// Whether the first look-up is under way, so that it may soon have some.
    pub is_expected: bool,
}

/// Why a query got no answer over a connection.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// TCP or TLS did not come about.
    Connect(String),
    /// The connection ended.
    Ended(String),
    /// The answer could not be read.
    Garbled,
    /// Too many queries wait.
    QueueFull,
    /// There are as many connections to the server as there may be.
    TooMany,
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Connect(why) => write!(out, "no connection: {why}"),
            Trouble::Ended(why) => write!(out, "connection ended: {why}"),
            Trouble::Garbled => out.write_str("its answer cannot be read"),
            Trouble::QueueFull => out.write_str("too many queries wait for it"),
            Trouble::TooMany => out.write_str("there are as many connections to it as upstream.connections allows"),
        }
    }
}

/// What became of a query.
#[derive(Debug)]
pub enum Outcome {
    /// The answer, with the ID of the connection.
    Answer(ReadMessage),
    /// None, and none will come.
    Lost {
        /// Whether the resolver may have the query.
        sent: bool,
        /// Whether the connection had served before and merely ended.
        blameless: bool,
        /// Why.
        trouble: Trouble,
    },
}

thread_local! {
    static SPARES: Spares<Outcome> = const { Spares::none() };
}

impl Tidings for Outcome {
    fn spares() -> &'static LocalKey<Spares<Outcome>> {
        &SPARES
    }
}
