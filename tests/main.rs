//! The real binary between real clients and the testkit's servers: one test binary, one module a theme.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly")]
#![expect(clippy::print_stdout, reason = "what is skipped is said, and counted by CI")]

/// The statements of `docs/conformance.md`, each a test named after its number.
mod conformance {
    /// A. Listening: UDP.
    mod a_udp;
    /// The starting point of most tests: one server, one proxy before it.
    pub(crate) mod bench;
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

/// Real resolvers, real clients, and many queries.
mod peers {
    mod answers;
    mod glibc;
    mod programs;
    mod resolvers;
}

/// Start and stop of the process.
mod life {
    mod inherited;
    mod start;
    mod stop;
}
