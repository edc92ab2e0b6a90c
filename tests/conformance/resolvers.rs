//! Proxies with other settings of `[upstream]` than the usual bench has.

use std::path::Path;
use std::time::Duration;

use testkit::{DotServer, Proxy, UdpClient, inspect};

use super::bench::binary;

/// Limits for tests whose queries are to fail: the deadline is the shortest there is.
pub(crate) const HURRIED: &str = "deadline = \"500ms\"\nconnect-timeout = \"400ms\"\nsecond-try-after = \"400ms\"";

/// Long enough for whatever has to happen on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// RCODE SERVFAIL.
pub(crate) const SERVFAIL: u16 = 2;

/// A configuration whose servers are these TOML values, with `lines` in the section `[upstream]`, and without memory.
pub(crate) fn config_of(entries: &[String], ca_file: Option<&Path>, lines: &str) -> String {
    let ca_file = ca_file.map_or_else(String::new, |path| format!("ca-file = \"{}\"\n", path.display()));
    format!(
        "workers = 1\n[listen]\naddresses = [\"127.0.0.1:0\"]\n[log]\nlevel = \"debug\"\n[cache]\nsize = \"0\"\n[upstream]\nservers = [{}]\n{ca_file}{lines}\n",
        entries.join(", ")
    )
}

/// The usual entry: this server under the name `upstream.test`.
pub(crate) fn named(server: &DotServer) -> String {
    format!("\"{}#upstream.test\"", server.address())
}

/// A proxy before these servers, each with the name `upstream.test`.
pub(crate) fn proxy_before(servers: &[&DotServer], ca_file: &Path, lines: &str) -> Proxy {
    let entries: Vec<String> = servers.iter().map(|server| named(server)).collect();
    start(&config_of(&entries, Some(ca_file), lines))
}

/// The real binary with this configuration.
pub(crate) fn start(config: &str) -> Proxy {
    Proxy::builder(binary()).config(config).start()
}

/// Asks over UDP and gives the RCODE; every query must have a reply.
pub(crate) fn rcode_of(proxy: &Proxy, query: &[u8]) -> u16 {
    let answer = UdpClient::connect(proxy.address()).ask(query).expect("every query has a reply");
    inspect::rcode(&answer)
}
