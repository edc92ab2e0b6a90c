//! The starting point of most tests: a CA, one DoT server with a certificate for `upstream.test`, and the real binary
//! before it.

use std::path::Path;

use testkit::{DotServer, DotServerBuilder, Pki, Proxy, config_for};

/// The program under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dot-proxy"))
}

/// A CA, a server, a proxy.
pub(crate) struct Bench {
    pub(crate) pki: Pki,
    pub(crate) server: DotServer,
    pub(crate) proxy: Proxy,
}

impl Bench {
    /// The server's default script, the proxy's default configuration but for ports and CA.
    pub(crate) fn start() -> Bench {
        Bench::with(|server| server, "")
    }

    /// A server made as `shape` says; `extra` is put at the end of the configuration, and may open sections of its own.
    pub(crate) fn with(shape: impl FnOnce(DotServerBuilder) -> DotServerBuilder, extra: &str) -> Bench {
        let pki = Pki::new();
        let server = shape(DotServer::builder().identity(pki.server(&["upstream.test"]))).start();
        let config = config_for(&[(server.address(), "upstream.test")], pki.ca_file()) + extra;
        let proxy = Proxy::builder(binary()).config(&config).start();
        Bench { pki, server, proxy }
    }
}
