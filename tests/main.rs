//! The real binary against the testkit's server.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests fail loudly")]
use std::path::Path;
use testkit::*;
#[test]
fn smoke() {
    let pki = Pki::new();
    let up = DotServer::start(pki.server(&["upstream.test"]));
    let proxy = Proxy::builder(Path::new(env!("CARGO_BIN_EXE_dot-proxy"))).config(&config_for(&[(up.address(), "upstream.test")], pki.ca_file())).start();
    let udp = UdpClient::connect(proxy.address());
    let q = query(7, "wWw.example.com", 1);
    println!("{:?}", udp.ask(&q));
    let mut tcp = TcpClient::connect(proxy.address());
    println!("{:?}", tcp.ask(&q));
    println!("{}", proxy.log());
}
