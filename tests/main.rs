//! The real binary between real clients and the testkit's servers: one test binary, one module a theme.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly")]
#![expect(clippy::print_stdout, reason = "what is skipped is said, and counted by CI")]

/// The statements of `docs/conformance.md`, each a test named after its number.
mod conformance {
    /// A. Listening: UDP; the addresses.
    mod a_addresses;
    /// A. Listening: UDP.
    mod a_udp;
    /// B. Listening: TCP; the octets.
    mod b_stream;
    /// B. Listening: TCP.
    mod b_tcp;
    /// The starting point of most tests: one server, one proxy before it.
    pub(crate) mod bench;
    /// C. Message relay: flags, EDNS, response codes.
    mod c_edns;
    /// C. Message relay: replies of the proxy's own.
    mod c_own_replies;
    /// C. Message relay: what crosses unchanged.
    mod c_transparency;
    /// D. IDs.
    mod d_ids;
    /// D. Matching answers to queries.
    mod d_matching;
    /// E. Truncation and EDNS sizes.
    mod e_truncation;
    /// F. Upstream TLS: who a resolver has to be.
    mod f_authentication;
    /// F. Upstream TLS: how a connection begins.
    mod f_handshake;
    /// F. Upstream TLS: what never leaves.
    mod f_leaks;
    /// F. Upstream TLS: the opportunistic profile.
    mod f_opportunistic;
    /// G. Upstream connections: those that end or fall silent under a query.
    mod g_failures;
    /// G. Upstream connections: how they are used.
    mod g_lifecycle;
    /// H. Retries and timeouts.
    mod h_retries;
    /// I. Privacy options: what crosses and what does not.
    mod i_options;
    /// I. Privacy options: padding, and client subnets blanked.
    mod i_padding;
    /// J. Answers from memory.
    mod j_cache;
    /// K and L. Answers whose time is over, failures, equal questions.
    mod k_stale;
    /// M. Special names.
    mod m_special_names;
    /// N. Signed messages, and operations other than queries.
    mod n_signed;
    /// N. Zone transfers.
    mod n_transfers;
    /// Network namespaces.
    pub(crate) mod namespace;
    /// O. TLS towards clients.
    pub(crate) mod o_tls;
    /// A network of one's own, and a capture of it.
    pub(crate) mod own_network;
    /// P. Certificates that resolvers are shown.
    mod p_client_certificates;
    /// P. Plain DNS, where a route names it.
    mod p_plain;
    /// P. Which server is asked.
    mod p_policies;
    /// P. Routes.
    mod p_routes;
    /// Proxies with other settings for their resolvers.
    pub(crate) mod resolvers;
    /// A bench with another configuration.
    pub(crate) mod setup;
}

/// What users of other programs suffered: the requirements of `docs/faults.md`, each a test named after its number.
mod faults {
    /// R32: answers to clients.
    mod clients;
    /// R7 to R11: when connections are made, how long they are kept, and who ends them.
    mod connection_life;
    /// R4 to R6: connections that end, by the thousand or without a word.
    mod endings;
    /// R1, R3 and R34: nothing answers, and then it does again.
    mod outages;
    /// R12 to R14 and R33: more than can be done at once.
    mod pressure;
    /// R23, R24 and R26: who is believed, and what leaves.
    mod privacy;
    /// What these tests share.
    pub(crate) mod stand;
    /// R17 to R22: in time, whatever one server does.
    mod timeouts;
}

/// The rules of the house.
mod house {
    mod layers;
    mod pages;
}

/// Nonsense from either side.
mod hostile {
    mod clients;
    mod mutations;
    mod resolver;
}

/// Start and stop of the process.
mod life {
    mod ask;
    mod certificates;
    mod clock;
    pub(crate) mod control;
    pub(crate) mod duty;
    mod footprint;
    pub(crate) mod inherited;
    mod memory;
    mod names;
    mod network;
    mod pins;
    mod privileges;
    mod reload;
    mod start;
    mod stop;
    mod stuck;
    mod system_dns;
}

/// Real resolvers, real clients, and many queries.
mod peers {
    mod answers;
    mod glibc;
    mod programs;
    mod resolvers;
    mod tls_clients;
}
