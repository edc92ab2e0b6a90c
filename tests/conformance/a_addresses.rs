//! Theme A: the addresses of UDP listeners.

use std::net::SocketAddr;

use testkit::message::a_for;
use testkit::{DotServer, Pki, Proxy, TcpClient, UdpClient, inspect, query};

use super::bench::{Bench, binary};
use super::namespace::{in_namespace, run};
use super::setup::{QUIET, Setup, messages};

/// Asks from a connected socket, to which the kernel gives no answer from another address.
fn ask(address: SocketAddr, name: &str) {
    let answer = UdpClient::connect(address).ask(&query(1, name, 1));
    let answer = answer.unwrap_or_else(|| panic!("no answer from {address}"));
    assert_eq!(inspect::a_records(&answer), [a_for(name)], "{address}");
}

fn with_ip(ip: &str, of: SocketAddr) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), of.port())
}

#[test]
fn c001_answers_leave_from_the_address_that_was_asked() {
    let bench = Setup::default().addresses(&["0.0.0.0:0", "[::]:0"]).start(|server| server);
    let &[v4, v6] = bench.proxy.addresses() else { panic!("two listeners") };
    for ip in ["127.0.0.1", "127.0.0.2", "127.1.2.3"] {
        ask(with_ip(ip, v4), "four.test");
    }
    ask(with_ip("::1", v6), "six.test");
}

#[test]
fn c001_holds_for_every_address_of_a_host() {
    let more = ["198.51.100.1/32", "198.51.100.2/32", "2001:db8::1/128", "2001:db8::2/128", "fe80::1/64"];
    in_namespace(&more, || {
        let setup = Setup::default().addresses(&["0.0.0.0:53", "[::]:53"]);
        let bench = setup.listen("allow = [\"0.0.0.0/0\", \"::/0\"]").start(|server| server);
        assert_eq!(bench.proxy.addresses().len(), 2);
        let addresses = ["127.0.0.1", "127.0.0.2", "198.51.100.1", "198.51.100.2", "::1", "2001:db8::1", "2001:db8::2"];
        for ip in addresses {
            ask(SocketAddr::new(ip.parse().unwrap(), 53), "host.test");
            // a client elsewhere on the host: the kernel's own choice of source would be another one
            let other = if ip.contains(':') { "[2001:db8::2]:0" } else { "198.51.100.2:0" };
            let client = UdpClient::connect_from(other.parse().unwrap(), SocketAddr::new(ip.parse().unwrap(), 53));
            let answer = client.ask(&query(2, "other.test", 1)).unwrap_or_else(|| panic!("no answer from {ip}"));
            assert_eq!(inspect::a_records(&answer), [a_for("other.test")]);
        }
        // a link-local address is one only together with its interface
        ask("[fe80::1%1]:53".parse().unwrap(), "link.test");
    });
}

#[test]
fn c005_listens_on_loopback_by_default() {
    in_namespace(&["198.51.100.1/32", "2001:db8::1/128"], || {
        let pki = Pki::new();
        let server = DotServer::start(pki.server(&["upstream.test"]));
        let config = format!(
            "[upstream]\nservers = [\"{}#upstream.test\"]\nca-file = \"{}\"\n",
            server.address(),
            pki.ca_file().display()
        );
        let proxy = Proxy::builder(binary()).config(&config).start();
        assert_eq!(proxy.addresses(), ["127.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        for ip in ["198.51.100.1", "2001:db8::1"] {
            let address = SocketAddr::new(ip.parse().unwrap(), 53);
            assert_eq!(UdpClient::connect(address).ask_within(&query(5, "routed.test", 1), QUIET), None);
            assert!(TcpClient::try_connect(address).is_err());
        }
        assert_eq!(messages(&server), 0);
        ask(proxy.address(), "loopback.test");
    });
}

#[test]
fn c005_refuses_public_addresses_by_default() {
    in_namespace(&["198.51.100.1/32", "2001:db8::1/128"], || {
        let bench = Setup::default().addresses(&["0.0.0.0:53", "[::]:53"]).start(|server| server);
        for ip in ["198.51.100.1", "2001:db8::1"] {
            let address = SocketAddr::new(ip.parse().unwrap(), 53);
            let over_udp = UdpClient::connect(address).ask(&query(5, "routed.test", 1)).unwrap();
            let over_tcp = TcpClient::connect(address).ask(&query(5, "routed.test", 1)).unwrap();
            assert_eq!((inspect::rcode(&over_udp), inspect::rcode(&over_tcp)), (5, 5), "{ip}");
        }
        assert_eq!(messages(&bench.server), 0);
        ask("127.0.0.1:53".parse().unwrap(), "loopback.test");
    });
}

#[test]
fn c008_both_wildcards_serve_the_same_port() {
    in_namespace(&[], || {
        let bench = Setup::default().addresses(&["0.0.0.0:53", "[::]:53"]).start(|server| server);
        for address in ["127.0.0.1:53", "[::1]:53"] {
            let address: SocketAddr = address.parse().unwrap();
            ask(address, "both.test");
            let answer = TcpClient::connect(address).ask(&query(8, "both.test", 1)).unwrap();
            assert_eq!(inspect::a_records(&answer), [a_for("both.test")]);
        }
        for kind in ["u", "t"] {
            let sockets = run(&format!("ss -H{kind}lne6 sport = :53"));
            assert!(!sockets.trim().is_empty());
            assert!(sockets.lines().all(|socket| socket.contains("v6only:1")), "{sockets}");
        }
        drop(bench);
    });
}

/// Some C libraries ask all their servers at once, from one socket and with one ID.
#[test]
fn c001_one_client_may_ask_two_addresses_at_once() {
    let bench = Bench::start();
    let config = testkit::config_for(&[(bench.server.address(), "upstream.test")], bench.pki.ca_file());
    let config = config.replace("127.0.0.1:0", "0.0.0.0:0");
    let proxy = Proxy::builder(binary()).config(&config).start();
    bench.server.set_script(|received| {
        vec![testkit::Act::AnswerAfter(
            std::time::Duration::from_millis(300),
            testkit::default_answer(&received.message),
        )]
    });
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let (port, asked) = (proxy.address().port(), query(7, "both.test", 1));
    for address in ["127.0.0.1", "127.0.0.2"] {
        client.send_to(&asked, (address, port)).unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        seen.insert(client.recv_from(&mut [0; 512]).expect("an address does not answer").1.ip().to_string());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["127.0.0.1", "127.0.0.2"]);
}
