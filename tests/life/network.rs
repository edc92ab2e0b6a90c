//! The machine's own network changes under the service: its connections to resolvers begin anew, and what was held
//! against resolvers is forgotten. In a network namespace each, with nothing that prolongs a test to the real times.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::journal::Connection;
use testkit::proxy_process::Signal;
use testkit::{Act, DotServer, Journal, Pki, Proxy, Stage, UdpClient, inspect, query};

use crate::conformance::namespace::{in_namespace, is_there, run, skipped};
use crate::conformance::resolvers::{LONG, named, proxy_before, rcode_of};
use crate::conformance::setup::release;
use crate::life::control::ask_reload;

/// Where the resolver of a test is, and from where it is reached.
const ADDRESSES: [&str; 3] = ["198.51.100.1/32", "192.0.2.7/32", "192.0.2.8/32"];
/// What the log says of every renewal.
const RENEWED: &str = "connections to resolvers are renewed";

/// A proxy before a resolver whose connections come from 192.0.2.7, one of them there.
fn connected(pki: &Pki, lines: &str) -> (DotServer, Proxy) {
    leave_from("192.0.2.7");
    let server = DotServer::builder().identity(pki.server(&["upstream.test"])).listen("198.51.100.1:0").start();
    let proxy = proxy_before(&[&server], pki.ca_file(), lines);
    assert_eq!(rcode_of(&proxy, &query(1, "before.test", 1)), 0);
    assert_eq!(peers(&server), ["192.0.2.7"]);
    (server, proxy)
}

fn leave_from(source: &str) {
    run(&format!("ip route replace local 198.51.100.1 dev lo table local src {source}"));
}

/// The addresses that the established connections came from.
fn peers(server: &DotServer) -> Vec<String> {
    let ip = |address: SocketAddr| address.ip().to_string();
    server.with_journal(|journal| {
        let established = journal.connections.iter().filter(|connection| connection.is_established());
        established.map(|connection| ip(connection.peer)).collect()
    })
}

fn wait_for_connections(server: &DotServer, proxy: &Proxy, count: usize) {
    assert!(server.wait_for(|journal| journal.established() >= count, LONG), "{}", proxy.log());
}

/// The lines of the log that tell of a renewal.
fn renewals(proxy: &Proxy) -> Vec<String> {
    proxy.log().lines().filter(|line| line.contains(RENEWED)).map(str::to_owned).collect()
}

/// Waits for that many renewals.
fn wait_for_renewals(proxy: &Proxy, count: usize) -> Vec<String> {
    let end = Instant::now() + LONG;
    while renewals(proxy).len() < count {
        assert!(Instant::now() < end, "{}", proxy.log());
        proxy.wait_for_log_after(proxy.log_lines(), RENEWED, Duration::from_millis(50));
    }
    renewals(proxy)
}

/// Asks, and sees that the answer is there within a second.
fn answered_at_once(proxy: &Proxy, name: &str) {
    let asked = Instant::now();
    let answer = UdpClient::connect(proxy.address()).ask(&query(2, name, 1)).expect("a reply");
    assert_eq!(inspect::rcode(&answer), 0, "{}", proxy.log());
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}\n{}", asked.elapsed(), proxy.log());
}

#[test]
fn no_session_of_the_old_network_is_resumed_in_the_new_one() {
    in_namespace(&ADDRESSES, || {
        let pki = Pki::new();
        let (server, proxy) = connected(&pki, "");
        // the ticket is there, and used in the same network
        server.close_all(testkit::How::CloseNotify);
        wait_for_connections(&server, &proxy, 2);
        leave_from("192.0.2.8");
        run("ip addr del 192.0.2.7/32 dev lo");
        wait_for_connections(&server, &proxy, 3);
        let resumed =
            server.with_journal(|journal| journal.connections.iter().map(Connection::is_resumed).collect::<Vec<_>>());
        assert_eq!(resumed, [false, true, false], "{}", proxy.log());
    });
}

#[test]
fn r15_connections_on_a_gone_source_address_are_replaced() {
    in_namespace(&ADDRESSES, || {
        let pki = Pki::new();
        // a silent connection would be given up after this only
        let (server, proxy) = connected(&pki, "second-try-after = \"3s\"");
        leave_from("192.0.2.8");
        run("ip addr del 192.0.2.7/32 dev lo");
        // nobody has asked anything since
        wait_for_connections(&server, &proxy, 2);
        assert_eq!(peers(&server), ["192.0.2.7", "192.0.2.8"]);
        answered_at_once(&proxy, "after.test");
        assert_eq!(server.with_journal(|journal| journal.messages_named("after.test")[0].connection), 1);
        let said = renewals(&proxy);
        assert!(said.len() == 1 && said[0].contains("network changed (address 192.0.2.7/32 gone)"), "{said:?}");
    });
}

#[test]
fn a_query_in_flight_when_the_network_changes_is_still_answered_over_its_connection() {
    in_namespace(&ADDRESSES, || {
        let pki = Pki::new();
        let (server, proxy) = connected(&pki, "second-try-after = \"3s\"");
        server.set_script(|received| vec![if received.name == "slow.test" { Act::Silence } else { Act::Default }]);
        let client = UdpClient::connect(proxy.address());
        client.send(&query(3, "slow.test", 1));
        assert!(server.wait_for(|journal| journal.messages_named("slow.test").len() == 1, LONG));
        // the way of the connection is as good as it was
        run("ip addr add 192.0.2.9/32 dev lo");
        wait_for_connections(&server, &proxy, 2);
        answered_at_once(&proxy, "fast.test");
        release(&server, "slow.test");
        assert_eq!(inspect::rcode(&client.recv(LONG).expect("an answer")), 0);
        let of = |name: &str| server.with_journal(|journal| journal.messages_named(name)[0].connection);
        assert_eq!((of("slow.test"), of("fast.test")), (0, 1));
        assert_eq!(server.with_journal(|journal| journal.messages_named("slow.test").len()), 1);
    });
}

#[test]
fn r02_back_off_is_cleared_when_the_network_changes() {
    in_namespace(&[], || {
        let pki = Pki::new();
        let (first, second) =
            (DotServer::start(pki.server(&["upstream.test"])), DotServer::start(pki.server(&["upstream.test"])));
        first.set_stage(Stage::RefuseConnections);
        let proxy = proxy_before(&[&first, &second], pki.ca_file(), "");
        // rests double from 250 ms: after the sixth failure the first resolver is left alone for eight seconds
        let failed = format!("upstream {}#upstream.test: no connection", first.address());
        let failures = || proxy.log().lines().filter(|line| line.contains(&failed)).count();
        let end = Instant::now() + 3 * LONG;
        while failures() < 6 {
            assert!(Instant::now() < end, "{}", proxy.log());
            assert_eq!(rcode_of(&proxy, &query(1, "meanwhile.test", 1)), 0);
        }
        let resting = Instant::now();
        first.set_stage(Stage::Normal);
        run("ip addr add 192.0.2.7/32 dev lo");
        wait_for_renewals(&proxy, 1);
        // where a connection takes its time, the second resolver answers the first of these as well
        while first.with_journal(|journal| journal.messages_named("after.test").is_empty()) {
            answered_at_once(&proxy, "after.test");
            assert!(resting.elapsed() < Duration::from_secs(7), "it rests on\n{}", proxy.log());
        }
        assert!(resting.elapsed() < Duration::from_secs(7), "the rest may have ended by itself");
    });
}

#[test]
fn r01_the_first_query_after_a_dead_network_is_answered_within_a_second() {
    in_namespace(&[], || {
        if !is_there("nft") {
            return skipped("needs nftables");
        }
        run("ip link add wifi type veth peer name point");
        run("ip link set point up");
        run("ip link set wifi up");
        run("ip addr add 192.0.2.7/24 dev wifi");
        let pki = Pki::new();
        let server = DotServer::start(pki.server(&["upstream.test"]));
        // a silent connection would be given up after this only
        let proxy = proxy_before(&[&server], pki.ca_file(), "second-try-after = \"3s\"");
        assert_eq!(rcode_of(&proxy, &query(1, "before.test", 1)), 0);
        // nothing gets through any more, and nobody says so: as while a machine sleeps, or behind a router that restarts
        let filter = |what: &str| {
            run("nft add table ip dead");
            run("nft add chain ip dead out { type filter hook output priority 0 ; }");
            run(&format!("nft add rule ip dead out tcp {what} drop"));
        };
        filter(&format!("dport {}", server.address().port()));
        run("ip link set wifi down");
        wait_for_renewals(&proxy, 1);
        run("nft delete table ip dead");
        // the router has forgotten the connection that there was
        filter(&format!("sport {}", server.with_journal(|journal| journal.connections[0].peer.port())));
        run("ip link set wifi up");
        wait_for_renewals(&proxy, 2);
        answered_at_once(&proxy, "after.test");
    });
}

#[test]
fn a_lease_that_is_renewed_disturbs_no_connection() {
    in_namespace(&ADDRESSES, || {
        let pki = Pki::new();
        let (server, proxy) = connected(&pki, "");
        for seconds in [3600, 7200] {
            run(&format!("ip addr change 192.0.2.7/32 dev lo valid_lft {seconds} preferred_lft {seconds}"));
        }
        // not the network either
        run("ip link add other type veth peer name container");
        run("ip link set other up");
        run("ip route add 203.0.113.0/24 dev lo");
        // what comes after them is told, and they are not
        run("ip addr add 192.0.2.9/32 dev lo");
        let said = wait_for_renewals(&proxy, 1);
        assert!(said.len() == 1 && said[0].contains("network changed (address 192.0.2.9/32 new): "), "{said:?}");
        wait_for_connections(&server, &proxy, 2);
        assert_eq!(server.with_journal(Journal::accepted), 2);
    });
}

#[test]
fn a_burst_of_changes_is_one_renewal() {
    in_namespace(&ADDRESSES, || {
        let pki = Pki::new();
        let (server, proxy) = connected(&pki, "");
        let batch: String = (1..=200).map(|number| format!("addr add 203.0.113.{number}/32 dev lo\n")).collect();
        let file = pki.directory().join("burst");
        fs::write(&file, batch + "route add default dev lo\n").unwrap();
        run(&format!("ip -batch {}", file.display()));
        wait_for_renewals(&proxy, 1);
        wait_for_connections(&server, &proxy, 2);
        run("ip addr del 203.0.113.1/32 dev lo");
        let said = wait_for_renewals(&proxy, 2);
        wait_for_connections(&server, &proxy, 3);
        assert_eq!(said.len(), 2, "{said:?}");
        let first = "network changed (address 203.0.113.1/32 new, address 203.0.113.2/32 new, address 203.0.113.3/32 new, \
                     and 198 more)";
        assert!(said[0].contains(first) && said[1].contains("(address 203.0.113.1/32 gone)"), "{said:?}");
        assert_eq!(server.with_journal(Journal::accepted), 3);
        answered_at_once(&proxy, "after.test");
    });
}

#[test]
fn a_route_to_the_resolvers_counts_also_after_a_reload_named_others() {
    in_namespace(&ADDRESSES, || {
        let pki = Pki::new();
        let (server, proxy) = connected(&pki, "");
        run("ip route add 198.51.100.0/24 dev lo");
        let said = wait_for_renewals(&proxy, 1);
        assert!(said[0].contains("(route to 198.51.100.0/24 by lo new)"), "{said:?}");
        let config = fs::read_to_string(proxy.config_file()).unwrap();
        let other = config.replace(&named(&server), "\"203.0.113.53#upstream.test\"");
        fs::write(proxy.config_file(), other).unwrap();
        assert_eq!(ask_reload(&proxy).0, 0);
        run("ip route del 198.51.100.0/24 dev lo");
        run("ip route add 203.0.113.0/24 dev lo");
        let said = wait_for_renewals(&proxy, 2);
        assert!(said.len() == 2 && said[1].contains("(route to 203.0.113.0/24 by lo new)"), "{said:?}");
    });
}

#[test]
fn more_changes_than_can_be_heard_are_one_and_what_there_is_then_is_found_out() {
    in_namespace(&ADDRESSES, || {
        let pki = Pki::new();
        let (server, proxy) = connected(&pki, "");
        let addresses =
            (0..3000).map(|number| format!("addr add 10.9.{}.{}/32 dev lo\n", number / 250, number % 250 + 1));
        let file = pki.directory().join("flood");
        fs::write(&file, addresses.collect::<String>()).unwrap();
        // while the process does not read, the kernel keeps some hundreds of messages and drops the others
        proxy.signal(Signal::SIGSTOP);
        run(&format!("ip -batch {}", file.display()));
        proxy.signal(Signal::SIGCONT);
        assert!(proxy.wait_for_log("network changed (much at once", LONG), "{}", proxy.log());
        wait_for_connections(&server, &proxy, 2);
        run("ip addr add 192.0.2.9/32 dev lo");
        assert!(proxy.wait_for_log("address 192.0.2.9/32 new", LONG), "{}", proxy.log());
        let before = wait_for_renewals(&proxy, 2).len();
        // known only from what was asked for afterwards
        run("ip addr change 192.0.2.7/32 dev lo valid_lft 3600 preferred_lft 3600");
        run("ip addr change 10.9.11.250/32 dev lo valid_lft 3600 preferred_lft 3600");
        run("ip addr del 10.9.11.250/32 dev lo");
        let said = wait_for_renewals(&proxy, before + 1);
        assert!(said[before].contains("network changed (address 10.9.11.250/32 gone): "), "{said:?}");
        answered_at_once(&proxy, "after.test");
    });
}
