//! What clients cost that are connected and silent, as the kernel counts resident memory.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::sync::Arc;
use testkit::tls_client::client_config;
use testkit::{Proxy, TcpClient, TlsClient, query};

use crate::conformance::o_tls::{NAME, tls_address, with_tls};

/// Enough that what each takes stands out from what all take together.
const CLIENTS: usize = 1000;
const LIMITS: &str = "tcp-connections = 4000\ntcp-connections-per-client = 4000\ntcp-idle-timeout = \"10min\"";

/// A test has as many files open as clients, and so has the proxy that it starts.
fn allow_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(16_384), hard).unwrap();
}

/// Octets that each of many clients costs, once it has asked a query and had its answer.
fn cost_of_each<C>(proxy: &Proxy, mut connect: impl FnMut(u16) -> C) -> u64 {
    // what the first clients bring about is there for all
    let first: Vec<C> = (0..50).map(&mut connect).collect();
    let before = proxy.rss_kib();
    let clients: Vec<C> = (0..CLIENTS).map(|number| connect(u16::try_from(number).unwrap())).collect();
    let after = proxy.rss_kib();
    drop((first, clients));
    after.saturating_sub(before) * 1024 / CLIENTS as u64
}

#[test]
fn an_idle_client_on_tcp_costs_less_than_8_kib() {
    allow_many_files();
    let bench = with_tls(|server| server, LIMITS);
    let octets = cost_of_each(&bench.proxy, |number| {
        let mut client = TcpClient::connect(bench.proxy.address());
        assert!(client.ask(&query(number, "idle.example.test", 1)).is_some());
        client
    });
    assert!(octets < 8 * 1024, "{octets} octets");
}

#[test]
fn an_idle_client_on_tls_costs_less_than_40_kib() {
    allow_many_files();
    let bench = with_tls(|server| server, LIMITS);
    let config = Arc::new(client_config(&bench.pki));
    let octets = cost_of_each(&bench.proxy, |number| {
        let mut client = TlsClient::connect(tls_address(&bench.proxy), NAME, &config).unwrap();
        assert!(client.ask(&query(number, "idle.example.test", 1)).is_some());
        client
    });
    assert!(octets < 40 * 1024, "{octets} octets");
}
