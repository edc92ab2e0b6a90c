//! Theme P: routes, which give domains resolvers of their own.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::Duration;

use testkit::record::rtype;
use testkit::{DotServer, MessageBuilder, Pki, Proxy, TcpClient, inspect, query};

use super::bench::binary;
use super::resolvers::{HURRIED, LONG, SERVFAIL, config_of, named, rcode_of, start};
use crate::life::control::{ask_reload, status};

const DS: u16 = 43;
const SOA: u16 = 6;
const NXDOMAIN: u16 = 3;

/// A CA, a server for all queries, and one for those of a route.
struct Two {
    pki: Pki,
    upstream: DotServer,
    corp: DotServer,
}

impl Two {
    fn new() -> Two {
        let pki = Pki::new();
        let server = || DotServer::start(pki.server(&["upstream.test"]));
        let (upstream, corp) = (server(), server());
        Two { pki, upstream, corp }
    }

    /// A configuration with lines in `[upstream]`, and tables at its end.
    fn config(&self, lines: &str, tables: &str) -> String {
        config_of(&[named(&self.upstream)], Some(self.pki.ca_file()), lines) + tables
    }

    /// A route to the second server.
    fn route(&self, domains: &str) -> String {
        route(domains, &named(&self.corp), "")
    }
}

/// A route for these domains to these servers.
fn route(domains: &str, servers: &str, lines: &str) -> String {
    format!("[[route]]\ndomains = [{domains}]\nservers = [{servers}]\n{lines}\n")
}

/// How many messages with this name came to a server.
fn count(server: &DotServer, name: &str) -> usize {
    let bare = name.trim_end_matches('.');
    let same = |seen: &str| seen.trim_end_matches('.').eq_ignore_ascii_case(bare);
    server.with_journal(|journal| journal.messages.iter().filter(|message| same(&message.name)).count())
}

#[test]
fn a_query_goes_to_the_route_with_the_longest_domain_and_to_no_other() {
    let two = Two::new();
    let deep = DotServer::start(two.pki.server(&["upstream.test"]));
    let tables =
        two.route("\"corp.example\", \"10.in-addr.arpa\"") + &route("\"a.b.CORP.example.\"", &named(&deep), "");
    let proxy = start(&two.config("", &tables));
    let servers = [("upstream", &two.upstream), ("corp", &two.corp), ("deep", &deep)];
    for (name, to) in [
        ("corp.example", "corp"),
        ("www.Corp.EXAMPLE", "corp"),
        ("b.corp.example", "corp"),
        ("1.2.3.10.in-addr.arpa", "corp"),
        ("A.b.corp.example", "deep"),
        ("x.y.a.b.corp.example", "deep"),
        ("mycorp.example", "upstream"),
        ("corp.example.test", "upstream"),
        ("110.in-addr.arpa", "upstream"),
        ("example", "upstream"),
        (".", "upstream"),
    ] {
        for qtype in [rtype::A, SOA, DS] {
            assert_eq!(rcode_of(&proxy, &query(1, name, qtype)), 0, "{name}");
        }
        let answer = TcpClient::connect(proxy.address()).ask(&query(2, name, 16)).expect("an answer over TCP");
        assert_eq!(inspect::rcode(&answer), 0);
        for (label, server) in servers {
            assert_eq!(count(server, name), if label == to { 4 } else { 0 }, "{name} at {label}");
        }
    }
    // one connection for each group
    assert!(servers.iter().all(|(_, server)| server.journal().accepted() == 1));
}

#[test]
fn what_is_no_query_follows_its_zone_as_well() {
    let two = Two::new();
    let proxy = start(&two.config("", &two.route("\"corp.example\"")));
    let update = MessageBuilder::query(7, "corp.example", SOA).opcode(5).build();
    assert_eq!(rcode_of(&proxy, &update), 0);
    assert_eq!((count(&two.corp, "corp.example"), count(&two.upstream, "corp.example")), (1, 0));
}

#[test]
fn a_route_within_a_special_zone_wins_over_the_local_answer() {
    let two = Two::new();
    let home = |domains: &str, name: &str| {
        let proxy = start(&two.config("", &two.route(domains)));
        rcode_of(&proxy, &query(1, name, rtype::A))
    };
    assert_eq!(home("\"home.arpa\"", "nas.home.arpa"), 0);
    assert_eq!(home("\"resolver.arpa\"", "_dns.resolver.arpa"), 0);
    assert_eq!(home("\"lab.home.arpa\"", "a.lab.home.arpa"), 0);
    assert_eq!((count(&two.corp, "nas.home.arpa"), count(&two.corp, "_dns.resolver.arpa")), (1, 1));
    assert_eq!(count(&two.corp, "a.lab.home.arpa"), 1);
    // what lies beside the route, and a route that only happens to lie above, change nothing
    assert_eq!(home("\"lab.home.arpa\"", "tv.home.arpa"), NXDOMAIN);
    assert_eq!(home("\"arpa\"", "tv.home.arpa"), NXDOMAIN);
    assert_eq!(two.upstream.journal().messages.len() + count(&two.corp, "tv.home.arpa"), 0);
}

/// Whoever listens in plain DNS at one port, over UDP and TCP, and whether anybody ever came.
struct Listening {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Listening {
    fn start() -> Listening {
        // the port that the kernel chose for one may be taken for the other
        loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                udp.set_nonblocking(true).unwrap();
                tcp.set_nonblocking(true).unwrap();
                return Listening { udp, tcp };
            }
        }
    }

    fn address(&self) -> SocketAddr {
        self.udp.local_addr().unwrap()
    }

    fn nobody_came(&self) -> bool {
        self.udp.recv(&mut [0; 512]).is_err() && self.tcp.accept().is_err()
    }
}

#[test]
fn r25_a_route_and_the_rest_never_help_out_for_each_other() {
    let two = Two::new();
    let (clear, nobody) = (Listening::start(), Listening::start());
    let closed = nobody.address();
    drop(nobody);
    let tables = route("\"clear.example\"", &format!("\"plain:{closed}\""), "")
        + &route("\"open.example\"", &format!("\"plain:{}\"", clear.address()), "")
        + &two.route("\"corp.example\"");
    let proxy = start(&two.config(HURRIED, &tables));
    // a route whose server is gone: its names go nowhere else
    assert_eq!(rcode_of(&proxy, &query(1, "a.clear.example", rtype::A)), SERVFAIL);
    two.corp.set_stage(testkit::Stage::RefuseConnections);
    assert_eq!(rcode_of(&proxy, &query(2, "a.corp.example", rtype::A)), SERVFAIL);
    assert!(two.upstream.journal().messages.is_empty());
    // and when all of [upstream] is gone no route, least of all a plain one, gets its queries
    two.corp.set_stage(testkit::Stage::Normal);
    two.upstream.set_stage(testkit::Stage::RefuseConnections);
    assert_eq!(rcode_of(&proxy, &query(3, "a.test", rtype::A)), SERVFAIL);
    assert!(clear.nobody_came() && two.corp.journal().messages.is_empty());
}

#[test]
fn r29_two_names_on_one_address_never_share_a_connection() {
    let pki = Pki::new();
    // its certificate is good for both names
    let server = DotServer::start(pki.server(&["one.test", "two.test"]));
    let entry = |name: &str| format!("\"{}#{name}\"", server.address());
    let tables = route("\"corp.example\"", &entry("two.test"), "");
    let proxy = start(&(config_of(&[entry("one.test")], Some(pki.ca_file()), "") + &tables));
    for round in 0..3 {
        assert_eq!(rcode_of(&proxy, &query(round, "a.test", rtype::A)), 0);
        assert_eq!(rcode_of(&proxy, &query(round, "a.corp.example", rtype::A)), 0);
    }
    let journal = server.journal();
    assert_eq!(journal.accepted(), 2);
    for message in &journal.messages {
        let hello = journal.connections[message.connection].hello.as_ref().unwrap();
        let expected = if message.name == "a.test" { "one.test" } else { "two.test" };
        assert_eq!(hello.server_name.as_deref(), Some(expected), "{}", message.name);
        // nor does one take up the session of the other
        assert!(!hello.pre_shared_key);
    }
}

#[test]
fn the_same_server_in_two_groups_is_one_server_with_one_connection() {
    let two = Two::new();
    let proxy = start(&two.config("", &route("\"corp.example\"", &named(&two.upstream), "")));
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", rtype::A)), 0);
    assert_eq!(rcode_of(&proxy, &query(2, "a.corp.example", rtype::A)), 0);
    assert_eq!(two.upstream.journal().accepted(), 1);
    // with another profile it would be another one
    let tables = route("\"corp.example\"", &named(&two.upstream), "profile = \"opportunistic\"");
    let proxy = start(&two.config("", &tables));
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", rtype::A)), 0);
    assert_eq!(rcode_of(&proxy, &query(2, "a.corp.example", rtype::A)), 0);
    assert_eq!(two.upstream.journal().accepted(), 3);
}

#[test]
fn a_reload_moves_domains_and_keeps_the_connections_of_servers_that_stay() {
    let two = Two::new();
    // without the sandbox, which would refuse servers at ports of the kernel's choice
    let config = |tables: &str| format!("sandbox = \"off\"\n{}", two.config("", tables));
    let proxy = start(&config(""));
    let ask = |name: &str| assert_eq!(rcode_of(&proxy, &query(1, name, rtype::A)), 0);
    let reload = |tables: &str| {
        fs::write(proxy.config_file(), config(tables)).unwrap();
        let (code, said) = ask_reload(&proxy);
        assert_eq!(code, 0, "{said}");
    };
    ask("a.corp.example");
    reload(&two.route("\"corp.example\""));
    ask("b.corp.example");
    // more domains, another order
    reload(&(route("\"x.test\"", &named(&two.upstream), "") + &two.route("\"other.example\", \"corp.example\"")));
    for name in ["c.corp.example", "a.other.example", "a.x.test", "a.test"] {
        ask(name);
    }
    for (server, names) in [
        (&two.upstream, &["a.corp.example", "a.x.test", "a.test"][..]),
        (&two.corp, &["b.corp.example", "c.corp.example", "a.other.example"]),
    ] {
        let seen: Vec<String> = server.journal().messages.iter().map(|message| message.name.clone()).collect();
        assert_eq!(seen, names);
        assert_eq!(server.journal().accepted(), 1);
    }
    reload("");
    ask("d.corp.example");
    assert_eq!(count(&two.upstream, "d.corp.example"), 1);
    // the connection of the route says goodbye
    assert!(two.corp.wait_for(|journal| journal.open() == 0, LONG));
    // a bad route changes nothing
    fs::write(proxy.config_file(), config("[[route]]\ndomains = [\"corp.example\"]\n")).unwrap();
    let (code, said) = ask_reload(&proxy);
    assert!(code == 1 && said.contains(": route.servers: is missing; accepted: "), "{said}");
    ask("e.corp.example");
}

#[test]
fn all_connections_say_goodbye_at_the_end() {
    let two = Two::new();
    let mut proxy = start(&two.config("", &two.route("\"corp.example\"")));
    for name in ["a.test", "a.corp.example"] {
        assert_eq!(rcode_of(&proxy, &query(1, name, rtype::A)), 0);
    }
    proxy.signal(testkit::proxy_process::Signal::SIGTERM);
    assert!(proxy.wait_exit(Duration::from_secs(10)).expect("an end").success());
    for server in [&two.upstream, &two.corp] {
        assert!(server.wait_for(|journal| journal.open() == 0, LONG));
        assert!(server.journal().connections[0].peer_close_notify.is_some());
    }
}

#[test]
fn status_and_check_name_the_servers_of_routes_and_what_is_verified() {
    let two = Two::new();
    let tables = two.route("\"Corp.example\", \"lan.example\"") + &route("\"old.example\"", "\"plain:192.0.2.7\"", "");
    let proxy = start(&two.config("", &tables));
    let (_, said) = status(&proxy);
    for line in [
        "resolvers\n  127.0.0.1:",
        "resolvers for corp.example lan.example\n  127.0.0.1:",
        "resolvers for old.example\n  plain:192.0.2.7: usable, 0 connections; verified: plain DNS, not encrypted",
    ] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    let output = Command::new(binary()).args(["status", "--json", "--socket"]).arg(proxy.control_socket()).output();
    let json: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let groups: Vec<&str> =
        json["upstream"].as_array().unwrap().iter().filter_map(|one| one["group"].as_str()).collect();
    assert_eq!(groups, ["upstream", "corp.example lan.example", "old.example"]);
    let output = Command::new(binary()).args(["check", "--config"]).arg(proxy.config_file()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for line in [
        &format!(
            "upstream {}#upstream.test: a certificate for the name upstream.test, issued by",
            two.upstream.address()
        ),
        &format!("route corp.example lan.example {}#upstream.test: a certificate", two.corp.address()),
        "route old.example plain:192.0.2.7: plain DNS, not encrypted\n",
    ] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
}

#[test]
fn a_route_without_a_usable_server_degrades_the_service_by_its_name() {
    let two = Two::new();
    two.corp.set_stage(testkit::Stage::RefuseConnections);
    let proxy: Proxy = start(&two.config(HURRIED, &two.route("\"corp.example\"")));
    assert_eq!(rcode_of(&proxy, &query(1, "a.corp.example", rtype::A)), SERVFAIL);
    let (code, said) = status(&proxy);
    assert!(code == 1 && said.contains("no resolver for corp.example is usable"), "{said}");
}
