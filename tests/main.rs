//! The real binary between real clients and the testkit's servers: one test binary, one module a theme.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly")]

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
    mod bench;
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
    /// Network namespaces.
    mod namespace;
    /// A bench with another configuration.
    mod setup;
}
