//! Theme F: what never leaves, whatever happens.

use std::time::{Duration, Instant};

use testkit::record::name_wire;
use testkit::{Certificate, DotServer, Opt, Pki, Proxy, Stage, TcpClient, UdpClient, inspect, query};
use testkit::{Journal, MessageBuilder};

use super::bench::binary;
use super::own_network::{Capture, contains, in_own_network, ports_and_payload};
use super::resolvers::{HURRIED, LONG, SERVFAIL, config_of, named, proxy_before, rcode_of, start};

/// What a query is called whose octets are looked for.
pub(crate) const SECRET: &str = "secret-name-of-the-client.test";

/// SERVFAIL within the deadline, over UDP and TCP.
pub(crate) fn fails_in_time(proxy: &Proxy, deadline: Duration) {
    let asked = MessageBuilder::query(9, SECRET, 1).opt(Opt::new(1232)).build();
    for over_tcp in [false, true] {
        let begun = Instant::now();
        let answer = if over_tcp {
            TcpClient::connect(proxy.address()).ask(&asked)
        } else {
            UdpClient::connect(proxy.address()).ask(&asked)
        };
        let answer = answer.expect("a reply");
        assert!(begun.elapsed() < deadline + Duration::from_millis(500), "{:?}", begun.elapsed());
        assert_eq!(inspect::rcode(&answer), SERVFAIL);
        assert!(inspect::ede(&answer).is_some(), "no reason given");
    }
}

/// Nothing but TLS handshakes came.
pub(crate) fn saw_no_query(journal: &Journal) {
    assert!(journal.records.is_empty() && journal.messages.is_empty(), "{:?}", journal.messages);
    for connection in &journal.connections {
        // the record of a ClientHello, or nothing at all where the server did not let it come so far
        assert!(connection.first_octets.is_empty() || connection.first_octets[..2] == [22, 3]);
        assert!(!contains(&connection.first_octets, &name_wire(SECRET)));
    }
}

/// The name is seen on its way to the proxies, and nowhere else; nothing goes to port 53.
pub(crate) fn shows_no_query(capture: Capture, proxies: &[u16], servers: &[&DotServer]) {
    let (mut own, mut upstream) = (0, 0);
    for packet in capture.packets() {
        let Some((from, to, payload)) = ports_and_payload(&packet) else {
            assert!(!contains(&packet, &name_wire(SECRET)));
            continue;
        };
        assert!(from != 53 && to != 53, "a packet from port {from} to port {to}");
        if proxies.contains(&from) || proxies.contains(&to) {
            own += usize::from(contains(payload, &name_wire(SECRET)));
            continue;
        }
        upstream += usize::from(servers.iter().any(|server| to == server.address().port()));
        assert!(!contains(payload, &name_wire(SECRET)), "the name went from port {from} to port {to}");
    }
    assert!(own >= 2 * proxies.len() && upstream > 0, "{own} queries and {upstream} packets to servers were captured");
}

/// Every way in which this theme lets a server fail, each before a proxy of its own.
#[test]
fn c049_r24_a_capture_of_every_failure_shows_no_query() {
    in_own_network(|| {
        let (pki, stranger) = (Pki::new(), Pki::new());
        let good = pki.server(&["upstream.test"]);
        let server = DotServer::start(good.clone());
        let odd = DotServer::builder().identity(good.clone()).select_unoffered_alpn("h2").start();
        let capture = Capture::start(pki.directory());
        let mut proxies = Vec::new();
        let mut fails = |entry: String, server: &DotServer| {
            let before = server.journal().accepted();
            let proxy = start(&config_of(&[entry], Some(pki.ca_file()), HURRIED));
            fails_in_time(&proxy, Duration::from_millis(500));
            assert!(server.journal().accepted() > before, "nobody tried");
            saw_no_query(&server.journal());
            proxies.push(proxy.address().port());
        };
        let right = || Certificate::for_names(&["upstream.test"]);
        for certificate in [
            right().expired(),
            right().not_yet_valid(),
            right().client_auth_only(),
            right().via_intermediate(false),
            right().self_signed(),
            Certificate::common_name_only("upstream.test"),
            Certificate::for_names(&["other.test"]),
        ] {
            server.set_identity(pki.issue(&certificate));
            fails(named(&server), &server);
        }
        server.set_identity(stranger.server(&["upstream.test"]));
        fails(named(&server), &server);
        server.set_identity(good);
        // its certificate does not carry its address, and its key is not the pinned one
        fails(format!("\"{}\"", server.address()), &server);
        let pin = stranger.server(&["upstream.test"]).spki_pin();
        for name in ["", "name = \"upstream.test\", "] {
            fails(format!("{{ address = \"{}\", {name}pins = [\"{pin}\"] }}", server.address()), &server);
        }
        for stage in [
            Stage::AcceptThenSilence,
            Stage::RstAfterAccept,
            Stage::CloseAfterClientHello,
            Stage::SilenceAfterServerHello,
            Stage::PlainDns,
            Stage::Tls11ServerHello,
            Stage::ProtocolVersionAlert,
        ] {
            server.set_stage(stage);
            fails(named(&server), &server);
        }
        fails(named(&odd), &odd);
        if let Some(capture) = capture {
            shows_no_query(capture, &proxies, &[&server, &odd]);
        }
    });
}

/// An outage in three forms, one after the other, with everything that moves on the host in view.
#[test]
fn c049_strict_sends_nothing_unauthenticated() {
    in_own_network(|| {
        let (pki, stranger) = (Pki::new(), Pki::new());
        let server = DotServer::start(stranger.server(&["upstream.test"]));
        let capture = Capture::start(pki.directory());
        let deadline = Duration::from_millis(500);
        let proxy = proxy_before(&[&server], pki.ca_file(), HURRIED);
        fails_in_time(&proxy, deadline);
        assert!(server.journal().accepted() > 0);
        for stage in [Stage::RefuseConnections, Stage::CloseAfterClientHello, Stage::PlainDns] {
            server.set_stage(stage);
            fails_in_time(&proxy, deadline);
        }
        saw_no_query(&server.journal());

        let Some(capture) = capture else { return };
        shows_no_query(capture, &[proxy.address().port()], &[&server]);
    });
}

/// The server was good once: even then an outage opens no other way, and its end is noticed.
#[test]
fn c049_a_server_that_was_authentic_once_has_no_credit() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let good = pki.server(&["upstream.test"]);
    let server = DotServer::builder().identity(good.clone()).tickets(0).start();
    let lines = "deadline = \"1s\"\nconnect-timeout = \"500ms\"\nsecond-try-after = \"500ms\"";
    let proxy = proxy_before(&[&server], pki.ca_file(), lines);
    assert_eq!(rcode_of(&proxy, &query(1, "before.test", 1)), 0);
    server.set_identity(stranger.server(&["upstream.test"]));
    server.close_all(testkit::How::CloseNotify);
    assert!(server.wait_for(|journal| journal.open() == 0, LONG));
    server.clear_messages();
    fails_in_time(&proxy, Duration::from_secs(1));
    saw_no_query(&Journal { connections: Vec::new(), ..server.journal() });
    server.set_identity(good);
    let begun = Instant::now();
    while rcode_of(&proxy, &query(2, "after.test", 1)) != 0 {
        assert!(begun.elapsed() < LONG, "{}", proxy.log());
    }
}

/// Servers are given by address, so that there is no name to look up: start and queries without one clear packet.
#[test]
fn c059_with_addresses_nothing_is_asked_in_clear() {
    in_own_network(|| {
        let pki = Pki::new();
        let server = DotServer::start(pki.server(&["upstream.test"]));
        let Some(capture) = Capture::start(pki.directory()) else { return };
        let proxy = proxy_before(&[&server], pki.ca_file(), "");
        assert_eq!(rcode_of(&proxy, &query(1, SECRET, 1)), 0);
        let mut upstream = 0;
        for packet in capture.packets() {
            let Some((from, to, payload)) = ports_and_payload(&packet) else { continue };
            if [from, to].contains(&proxy.address().port()) {
                continue;
            }
            assert!([from, to].contains(&server.address().port()), "a packet from port {from} to port {to}");
            assert!(!contains(payload, &name_wire(SECRET)));
            upstream += 1;
        }
        assert!(upstream > 0, "the capture saw nothing");
    });
}

#[test]
fn c059_a_host_name_in_place_of_an_address_is_refused_at_load() {
    for entry in ["\"dns.example\"", "\"dns.example:853\"", "\"dns.example#dns.example\"", "{ name = \"dns.example\" }"]
    {
        let config = config_of(&[entry.to_owned()], None, "");
        let (status, log) = Proxy::builder(binary()).config(&config).start_expecting_failure();
        assert_eq!(status.code(), Some(78), "{entry}: {log}");
        assert!(log.contains("address"), "{entry}: {log}");
    }
}

/// The opportunistic profile has one name, and there is no other way to write that any certificate will do.
#[test]
fn c060_r24_a_configuration_that_asks_for_less_than_strict_is_refused() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let sections = ["profile = \"off\"", "opportunistic = true", "strict = false", "verify = false"];
    let whole = sections.iter().map(|lines| config_of(&[named(&server)], Some(pki.ca_file()), lines));
    let keys = ["verify = false", "opportunistic = true", "tls = false", "ca-file = \"\""];
    let entries = keys.iter().map(|key| {
        let entry = format!("{{ address = \"{}\", name = \"upstream.test\", {key} }}", server.address());
        config_of(&[entry], Some(pki.ca_file()), "")
    });
    for config in whole.chain(entries) {
        let (status, log) = Proxy::builder(binary()).config(&config).start_expecting_failure();
        assert_eq!(status.code(), Some(78), "{config}\n{log}");
    }
    // without those keys it starts
    drop(start(&config_of(&[named(&server)], Some(pki.ca_file()), "")));
}
