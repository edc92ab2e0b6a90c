//! The real binary between real clients and the testkit's servers: one test binary, one module a theme.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly")]

/// The statements of `docs/conformance.md`, each a test named after its number.
mod conformance {
    /// A. Listening: UDP.
    mod a_udp;
    /// The starting point of most tests: one server, one proxy before it.
    mod bench;
    /// F. Upstream TLS: who a resolver has to be.
    mod f_authentication;
    /// F. Upstream TLS: how a connection begins.
    mod f_handshake;
    /// F. Upstream TLS: what never leaves.
    mod f_leaks;
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
    /// M. Special names.
    mod m_special_names;
    /// N. Signed messages, and operations other than queries.
    mod n_signed;
    /// N. Zone transfers.
    mod n_transfers;
    /// A network of one's own, and a capture of it.
    mod own_network;
    /// Proxies with other settings for their resolvers.
    mod resolvers;
}
