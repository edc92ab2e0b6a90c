//! Theme F: the opportunistic profile, which asks for authentication, does without where it must, and never for plain DNS.

use std::fs;
use std::process::Command;

use testkit::{Certificate, DotServer, How, Journal, Pki, Proxy, Stage, query};

use super::bench::binary;
use super::f_leaks::{SECRET, fails_in_time, saw_no_query, shows_no_query};
use super::own_network::{Capture, contains, in_own_network, ports_and_payload};
use super::resolvers::{HURRIED, LONG, SERVFAIL, config_of, named, rcode_of, start};
use crate::life::control::{ask_reload, status};

const OPPORTUNISTIC: &str = "profile = \"opportunistic\"\n";

/// What the log says of a server that is used without having been authenticated.
const SAID: &str = "not authenticated: ";

fn lines_with(proxy: &Proxy, text: &str) -> Vec<String> {
    proxy.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

fn authenticated(proxy: &Proxy) -> serde_json::Value {
    let output = Command::new(binary()).args(["status", "--json", "--socket"]).arg(proxy.control_socket()).output();
    let json: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    json["upstream"][0]["authenticated"].clone()
}

#[test]
fn c060_every_failed_check_is_said_once_and_the_server_is_used_over_tls_all_the_same() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let right = || Certificate::for_names(&["upstream.test"]);
    for (identity, said) in [
        (pki.server(&["other.test"]), "wrong name"),
        (pki.issue(&right().expired()), "expired"),
        (pki.issue(&right().not_yet_valid()), "not valid yet"),
        (pki.issue(&right().self_signed()), "self-signed"),
        // of a CA that calls itself the same
        (stranger.server(&["upstream.test"]), "unknown issuer"),
    ] {
        let server = DotServer::start(identity);
        let proxy = start(&config_of(&[named(&server)], Some(pki.ca_file()), OPPORTUNISTIC));
        assert!(authenticated(&proxy).is_null(), "nobody has been asked yet");
        for round in 0..3 {
            assert_eq!(rcode_of(&proxy, &query(round, "who.test", 1)), 0, "{said}\n{}", proxy.log());
            // each connection anew, and without a session: the check is made each time
            server.forget_sessions();
            // one that is kept ready may be there again at once
            let before = server.with_journal(|journal| journal.accepted());
            server.close_all(How::CloseNotify);
            let gone = |journal: &Journal| journal.connections[..before].iter().all(|one| !one.is_open());
            assert!(server.wait_for(gone, LONG));
        }
        let journal = server.journal();
        assert!(journal.accepted() >= 3 && journal.connections.iter().all(|one| one.first_octets[..2] == [22, 3]));
        let lines = lines_with(&proxy, SAID);
        assert!(lines.len() == 1 && lines[0].contains(said), "{said}: {lines:?}");
        assert_eq!(authenticated(&proxy), false);
        assert!(status(&proxy).1.contains("authenticated: no"));
    }
}

#[test]
fn a_wrong_pin_is_said_and_let_pass_as_well() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let pin = pki.server(&["upstream.test"]).spki_pin();
    let entry = format!("{{ address = \"{}\", pins = [\"{pin}\"] }}", server.address());
    let proxy = start(&config_of(&[entry], Some(pki.ca_file()), OPPORTUNISTIC));
    assert_eq!(rcode_of(&proxy, &query(1, "pin.test", 1)), 0);
    // the log has a thread of its own, which may come behind the answer
    assert!(proxy.wait_for_log(SAID, LONG), "{}", proxy.log());
    assert_eq!(lines_with(&proxy, SAID).len(), 1);
    assert!(lines_with(&proxy, SAID)[0].contains("matches none of the configured pins"), "{}", proxy.log());
}

#[test]
fn a_server_that_can_be_authenticated_is_and_nothing_is_said() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let config = config_of(&[named(&server)], Some(pki.ca_file()), OPPORTUNISTIC);
    let proxy = start(&config);
    assert_eq!(rcode_of(&proxy, &query(1, "good.test", 1)), 0);
    assert_eq!((lines_with(&proxy, SAID), authenticated(&proxy)), (Vec::new(), true.into()));
    let (_, said) = status(&proxy);
    assert!(said.contains("opportunistic, so used without as well\n    authenticated: yes"), "{said}");
}

#[test]
fn a_session_without_authentication_is_not_taken_over_by_the_strict_profile() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["other.test"]));
    let strict = config_of(&[named(&server)], Some(pki.ca_file()), HURRIED);
    let proxy = start(&strict.replace("[upstream]\n", &format!("[upstream]\n{OPPORTUNISTIC}")));
    assert_eq!(rcode_of(&proxy, &query(1, "before.test", 1)), 0);
    fs::write(proxy.config_file(), &strict).unwrap();
    let (code, said) = ask_reload(&proxy);
    assert_eq!(code, 0, "{said}");
    assert_eq!(rcode_of(&proxy, &query(2, "after.test", 1)), SERVFAIL);
    assert!(server.with_journal(|journal| journal.messages_named("after.test").is_empty()));
    // and what strict found it says in the status
    assert_eq!(authenticated(&proxy), false);
}

#[test]
fn the_profile_of_one_group_is_not_that_of_another() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["other.test"]));
    let config = config_of(&[named(&server)], Some(pki.ca_file()), HURRIED);
    let route = format!("[[route]]\ndomains = [\"corp.example\"]\nservers = [{}]\n", named(&server));
    let both = |upstream: &str, lines: &str| {
        let proxy = start(&(config.clone() + upstream + &route + lines));
        [rcode_of(&proxy, &query(1, "a.test", 1)), rcode_of(&proxy, &query(2, "a.corp.example", 1))]
    };
    assert_eq!(both(OPPORTUNISTIC, ""), [0, SERVFAIL]);
    assert_eq!(both("", OPPORTUNISTIC), [SERVFAIL, 0]);
}

/// Whatever goes wrong short of a TLS connection, there is no other way: what moves is seen, and none of it is a query.
#[test]
fn c060_opportunistic_never_falls_to_clear() {
    in_own_network(|| {
        let pki = Pki::new();
        let server = DotServer::start(pki.server(&["other.test"]));
        let capture = Capture::start(pki.directory());
        let mut proxies = Vec::new();
        for stage in [
            Stage::RefuseConnections,
            Stage::RstAfterAccept,
            Stage::CloseAfterClientHello,
            Stage::SilenceAfterServerHello,
            Stage::PlainDns,
            Stage::Tls11ServerHello,
            Stage::ProtocolVersionAlert,
        ] {
            server.set_stage(stage);
            let lines = format!("{OPPORTUNISTIC}{HURRIED}");
            let proxy = start(&config_of(&[named(&server)], Some(pki.ca_file()), &lines));
            fails_in_time(&proxy, std::time::Duration::from_millis(500));
            proxies.push(proxy.address().port());
        }
        saw_no_query(&server.journal());
        if let Some(capture) = capture {
            shows_no_query(capture, &proxies, &[&server]);
        }
    });
}

/// And where TLS is made with a server of another name, the query is inside.
#[test]
fn c060_what_opportunistic_sends_is_encrypted() {
    in_own_network(|| {
        let pki = Pki::new();
        let server = DotServer::start(pki.server(&["other.test"]));
        let Some(capture) = Capture::start(pki.directory()) else { return };
        let proxy = start(&config_of(&[named(&server)], Some(pki.ca_file()), OPPORTUNISTIC));
        assert_eq!(rcode_of(&proxy, &query(1, SECRET, 1)), 0);
        let (own, mut upstream) = (proxy.address().port(), 0);
        for (from, to, payload) in capture.packets().iter().filter_map(|packet| ports_and_payload(packet)) {
            if ![from, to].contains(&own) {
                assert!([from, to].contains(&server.address().port()), "a packet from port {from} to port {to}");
                assert!(!contains(payload, &testkit::name_wire(SECRET)));
                upstream += 1;
            }
        }
        assert!(upstream > 0, "the capture saw nothing");
    });
}
