//! Theme F: what the proxy offers when it greets a resolver, and what it takes.

use testkit::journal::{Connection, Handshake};
use testkit::{Act, Certificate, DotServer, How, Pki, Stage, UdpClient, Versions, query};

use super::bench::Bench;
use super::resolvers::{HURRIED, LONG, SERVFAIL, config_of, named, proxy_before, rcode_of, start};

const TLS12: u16 = 0x0303;
const TLS13: u16 = 0x0304;

/// Version and ALPN of a handshake that was finished.
fn agreed(connection: &Connection) -> (u16, Option<&[u8]>) {
    match &connection.handshake {
        Handshake::Done { version, alpn, .. } => (*version, alpn.as_deref()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn c054_tls_1_1_is_neither_offered_nor_taken() {
    for stage in [Stage::Tls11ServerHello, Stage::ProtocolVersionAlert] {
        let pki = Pki::new();
        let server = DotServer::builder().identity(pki.server(&["upstream.test"])).stage(stage).start();
        let proxy = proxy_before(&[&server], pki.ca_file(), HURRIED);
        assert_eq!(rcode_of(&proxy, &query(1, "old.test", 1)), SERVFAIL, "{stage:?}");
        // each attempt is known to the back-off: an attempt in secret, at a lower version, would be one too many
        assert!(proxy.wait_for_log("tls handshake", LONG), "{}", proxy.log());
        let journal = server.journal();
        assert!((1..=3).contains(&journal.accepted()), "{stage:?}: {} attempts", journal.accepted());
        for connection in &journal.connections {
            let hello = connection.hello.as_ref().unwrap();
            assert_eq!(connection.hellos, 1);
            assert!(!hello.offers_tls11_or_older(), "{:x?}", hello.versions);
            assert!(hello.versions.contains(&TLS13) && hello.versions.contains(&TLS12));
            assert_eq!(&connection.first_octets[..2], [22, 3]);
        }
        assert!(journal.messages.is_empty() && journal.records.is_empty());
    }
}

#[test]
fn c054_tls_1_3_is_preferred_and_1_2_will_do() {
    for (versions, expected) in [(Versions::Both, TLS13), (Versions::Tls13, TLS13), (Versions::Tls12, TLS12)] {
        let bench = Bench::with(|server| server.tls_versions(versions), "");
        assert_eq!(rcode_of(&bench.proxy, &query(1, "a.test", 1)), 0);
        assert_eq!(agreed(&bench.server.journal().connections[0]).0, expected);
    }
}

#[test]
fn c055_the_authentication_name_is_indicated_and_an_address_is_not() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test", "127.0.0.1"]));
    let indicated = |entry: String, nth: usize| {
        let proxy = start(&config_of(&[entry], Some(pki.ca_file()), ""));
        assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), 0);
        server.journal().connections[nth].hello.clone().unwrap().server_name
    };
    assert_eq!(indicated(format!("\"{}#upstream.test\"", server.address()), 0).as_deref(), Some("upstream.test"));
    assert_eq!(indicated(format!("\"{}\"", server.address()), 1), None);
}

#[test]
fn c055_a_pinned_address_is_not_indicated() {
    let pki = Pki::new();
    let identity = pki.issue(&Certificate::for_names(&["whatever.test"]).self_signed());
    let pin = identity.spki_pin();
    let server = DotServer::start(identity);
    let entry = format!("{{ address = \"{}\", pins = [\"{pin}\"] }}", server.address());
    let proxy = start(&config_of(&[entry], None, ""));
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), 0);
    assert_eq!(server.journal().connections[0].hello.clone().unwrap().server_name, None);
}

#[test]
fn c056_r28_alpn_dot_is_offered() {
    let bench = Bench::start();
    assert_eq!(rcode_of(&bench.proxy, &query(1, "a.test", 1)), 0);
    let connection = &bench.server.journal().connections[0];
    assert_eq!(connection.hello.as_ref().unwrap().alpn, [b"dot"]);
    assert_eq!(agreed(connection).1, Some(&b"dot"[..]));
}

#[test]
fn c056_r28_a_server_without_alpn_is_accepted() {
    let bench = Bench::with(|server| server.alpn(&[]), "");
    assert_eq!(rcode_of(&bench.proxy, &query(1, "a.test", 1)), 0);
    assert_eq!(agreed(&bench.server.journal().connections[0]).1, None);
}

#[test]
fn c056_a_server_that_selects_what_was_not_offered_is_refused() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let server = DotServer::builder().identity(identity).select_unoffered_alpn("h2").start();
    let proxy = proxy_before(&[&server], pki.ca_file(), HURRIED);
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), SERVFAIL);
    let failed =
        |connection: &Connection| matches!(&connection.handshake, Handshake::Failed(why) if why.contains("alert"));
    assert!(server.wait_for(|journal| journal.connections.first().is_some_and(failed), LONG));
    assert!(server.journal().records.is_empty());
}

/// Asks, ends the connection, and asks again: how the second connection began.
fn second_greeting(bench: &Bench) -> Connection {
    let client = UdpClient::connect(bench.proxy.address());
    client.ask(&query(1, "first.test", 1)).unwrap();
    bench.server.close_all(How::CloseNotify);
    // while queries come another one is made at once
    assert!(bench.server.wait_for(|journal| !journal.connections[0].is_alive(), LONG));
    client.ask(&query(2, "second.test", 1)).unwrap();
    let journal = bench.server.journal();
    assert_eq!(journal.accepted(), 2);
    journal.connections[1].clone()
}

#[test]
fn c057_a_resumed_greeting_carries_no_early_data() {
    for versions in [Versions::Tls13, Versions::Tls12] {
        let bench = Bench::with(|server| server.tls_versions(versions), "");
        let connection = second_greeting(&bench);
        assert!(connection.is_resumed(), "{versions:?}: not resumed, nothing was tested");
        assert!(!connection.hello.unwrap().early_data);
        assert!(bench.server.journal().connections.iter().all(|one| !one.hello.as_ref().unwrap().early_data));
    }
}

#[test]
fn c058_r10_a_session_is_resumed() {
    let bench = Bench::start();
    let connection = second_greeting(&bench);
    assert!(connection.hello.as_ref().unwrap().pre_shared_key);
    assert!(connection.is_resumed());
}

#[test]
fn c058_without_tickets_a_full_handshake_does() {
    let bench = Bench::with(|server| server.tickets(0), "");
    let connection = second_greeting(&bench);
    assert!(connection.is_established() && !connection.is_resumed());
}

#[test]
fn c058_a_ticket_that_the_server_forgot_costs_nothing() {
    let bench = Bench::start();
    UdpClient::connect(bench.proxy.address()).ask(&query(1, "before.test", 1)).unwrap();
    bench.server.forget_sessions();
    let connection = second_greeting(&bench);
    assert!(connection.is_established());
}

/// Two entries for one server that differ in what authenticates it: the ticket got under the one is not used for the
/// other, which would thereby have no certificate to judge. A change by reload is the same change of entries.
#[test]
fn c058_a_ticket_is_not_used_under_other_authentication() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test", "second.test"]);
    let wrong = pki.server(&["upstream.test"]).spki_pin();
    let right = identity.spki_pin();
    let others = [("upstream.test", &wrong, false), ("second.test", &right, true)];
    for (name, pin, accepted) in others {
        let server = DotServer::builder().identity(identity.clone()).start();
        // the first entry never answers the second query, so that the second entry is tried beside it
        server.set_script(
            |received| {
                if received.name == "held.test" { vec![Act::Silence] } else { vec![Act::Default] }
            },
        );
        let address = server.address();
        let entries = [
            format!("\"{address}#upstream.test\""),
            format!("{{ address = \"{address}\", name = \"{name}\", pins = [\"{pin}\"] }}"),
        ];
        let lines = "second-try-after = \"100ms\"\ndeadline = \"1500ms\"\nconnect-timeout = \"1s\"";
        let proxy = start(&config_of(&entries, Some(pki.ca_file()), lines));
        assert_eq!(rcode_of(&proxy, &query(1, "first.test", 1)), 0);
        rcode_of(&proxy, &query(2, "held.test", 1));
        // the first entry, which reconnects too, has a ticket to offer each time
        let is_other = |connection: &&Connection| {
            let fresh = connection.hello.as_ref().is_some_and(|hello| !hello.pre_shared_key);
            connection.id > 0 && fresh && connection.handshake != Handshake::Pending
        };
        let asked = server.wait_for(|journal| journal.connections.iter().any(|one| is_other(&one)), LONG);
        assert!(asked, "the other entry's ticket was offered, or the other entry was never tried:\n{}", proxy.log());
        let second = server.journal().connections.iter().find(is_other).unwrap().clone();
        assert_eq!(second.hello.as_ref().unwrap().server_name.as_deref(), Some(name));
        assert_eq!(second.is_established(), accepted, "{:?}", second.handshake);
    }
}

#[test]
fn the_post_quantum_hybrid_comes_first_and_can_be_switched_off_for_one_server() {
    const X25519MLKEM768: u16 = 0x11ec;
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let plain = format!("{{ address = \"{}\", name = \"upstream.test\", post-quantum = false }}", server.address());
    for (nth, (entry, lines, hybrid)) in
        [(named(&server), "", true), (plain, "", false), (named(&server), "post-quantum = false", false)]
            .into_iter()
            .enumerate()
    {
        let proxy = start(&config_of(&[entry], Some(pki.ca_file()), lines));
        assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), 0);
        let hello = server.journal().connections[nth].hello.clone().unwrap();
        assert_eq!(hello.groups[0] == X25519MLKEM768, hybrid, "{:x?}", hello.groups);
        assert_eq!(hello.groups.contains(&X25519MLKEM768), hybrid);
        assert_eq!(hello.key_shares.first() == Some(&X25519MLKEM768), hybrid, "{:x?}", hello.key_shares);
    }
}

#[test]
fn a_server_without_the_offered_key_shares_is_asked_again_in_the_same_connection() {
    let p256 = rustls::crypto::aws_lc_rs::kx_group::SECP256R1;
    let bench = Bench::with(|server| server.kx_groups(&[p256]), "");
    assert_eq!(rcode_of(&bench.proxy, &query(1, "a.test", 1)), 0);
    assert_eq!(bench.server.journal().accepted(), 1);
}
