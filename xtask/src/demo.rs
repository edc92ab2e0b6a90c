//! The main job, shown on one machine without the internet: a resolver that speaks DNS over TLS under a throw-away CA,
//! the real program before it, and a query over UDP and one over TCP through both.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use testkit::journal::Handshake;
use testkit::{DotServer, Pki, Proxy, TcpClient, UdpClient, config_for, inspect, query};

const NAME: &str = "upstream.test";
const QUESTION: &str = "www.example.com";
const A: u16 = 1;

/// Builds the program below `root` if need be, and tells what happened.
///
/// # Errors
/// What did not work.
pub fn run(root: &Path) -> Result<String, String> {
    let build =
        Command::new(env!("CARGO")).args(["build", "--release", "--bin", "dot-proxy"]).current_dir(root).status();
    if !build.is_ok_and(|status| status.success()) {
        return Err("dot-proxy cannot be built".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&[NAME]));
    let config = config_for(&[(server.address(), NAME)], pki.ca_file());
    let proxy = Proxy::builder(&target.join("release/dot-proxy")).config(&config).start();
    let question = query(1, QUESTION, A);
    let udp = UdpClient::connect(proxy.address()).ask(&question);
    let tcp = TcpClient::connect(proxy.address()).ask(&question);
    let mut out = String::new();
    let _ =
        writeln!(out, "resolver   {} speaks DNS over TLS as {NAME}, under a CA made a moment ago", server.address());
    let _ = writeln!(out, "dot-proxy  {} speaks plain DNS over UDP and TCP", proxy.address());
    for (how, answer) in [("udp", udp), ("tcp", tcp)] {
        let answer = answer.ok_or_else(|| format!("no answer over {how}; the program said:\n{}", proxy.log()))?;
        let addresses: Vec<String> =
            inspect::a_records(&answer).iter().map(|address| std::net::Ipv4Addr::from(*address).to_string()).collect();
        let _ = writeln!(out, "{how} query  {QUESTION} A  ->  {}", addresses.join(", "));
    }
    let journal = server.journal();
    for connection in &journal.connections {
        let _ = writeln!(out, "tls        {}", handshake(&connection.handshake));
        if let Some(hello) = &connection.hello {
            let name = hello.server_name.as_deref().unwrap_or("none");
            let protocols: Vec<_> = hello.alpn.iter().map(|protocol| String::from_utf8_lossy(protocol)).collect();
            let _ = writeln!(out, "           server name {name}, protocol offered: {}", protocols.join(", "));
        }
    }
    let _ = write!(out, "           {} queries reached the resolver, all inside TLS", journal.messages.len());
    Ok(out)
}

/// What was agreed, in the words of RFC 8446.
fn handshake(handshake: &Handshake) -> String {
    let Handshake::Done { resumed, version, group, .. } = handshake else { return format!("{handshake:?}") };
    let version = match version {
        0x0303 => "TLS 1.2".to_owned(),
        0x0304 => "TLS 1.3".to_owned(),
        other => format!("version {other:#06x}"),
    };
    let group = match group {
        Some(0x11ec) => "X25519MLKEM768 (post-quantum hybrid)".to_owned(),
        Some(0x001d) => "X25519".to_owned(),
        Some(other) => format!("group {other:#06x}"),
        None => "no key exchange".to_owned(),
    };
    format!("{version}, {group}, {} handshake, certificate verified", if *resumed { "resumed" } else { "full" })
}
