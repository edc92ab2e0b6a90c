//! Who is believed, and what leaves.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use testkit::{Certificate, DotServer, Identity, Journal, Pki, query};

use super::stand::{counted, open_connections, until};
use crate::conformance::bench::binary;
use crate::conformance::own_network::{Capture, in_own_network, ports_and_payload};
use crate::conformance::resolvers::{HURRIED, SERVFAIL, config_of, proxy_before, rcode_of, start};
use crate::life::control::report;

/// Two servers, of which the second is never needed. While the first answers the second hears nothing, and while nobody
/// asks neither does.
#[test]
fn r23_servers_hear_nothing_that_no_query_asked_for() {
    in_own_network(|| {
        let pki = Pki::new();
        let identity = pki.server(&["upstream.test"]);
        let (first, second) = (DotServer::start(identity.clone()), DotServer::start(identity));
        let proxy = proxy_before(&[&first, &second], pki.ca_file(), "idle-timeout = \"500ms\"");
        for number in 0..20 {
            assert_eq!(rcode_of(&proxy, &query(number, &format!("n{number}.test"), 1)), 0);
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!((first.journal().messages.len(), first.journal().accepted()), (20, 1));
        until(&proxy, "idle", || open_connections(&proxy) == 0);
        until(&proxy, "closed", || first.with_journal(|journal| journal.open() == 0));
        let capture = Capture::start(pki.directory());
        thread::sleep(Duration::from_secs(3));
        if let Some(capture) = capture {
            let ports = [&first, &second].map(|server| server.address().port());
            for packet in capture.packets() {
                let Some((from, to, _)) = ports_and_payload(&packet) else { continue };
                assert!(!ports.contains(&from) && !ports.contains(&to), "a packet from port {from} to port {to}");
            }
        }
        assert_eq!((first.journal().accepted(), second.journal().accepted()), (1, 0), "{}", proxy.log());
    });
}

/// `dot-proxy check` on this configuration.
fn check(pki: &Pki, config: &str) -> (Option<i32>, String) {
    let file = pki.directory().join("check.toml");
    fs::write(&file, config).unwrap();
    let output = Command::new(binary()).args(["check", "--config", file.to_str().unwrap()]).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn r24_check_refuses_what_could_not_be_authenticated() {
    let pki = Pki::new();
    let (missing, empty) = (pki.directory().join("missing.pem"), pki.directory().join("empty.pem"));
    fs::write(&empty, "").unwrap();
    let named = ["\"192.0.2.1#upstream.test\"".to_owned()];
    assert_eq!(check(&pki, &config_of(&named, Some(pki.ca_file()), "")).0, Some(0));
    for (config, said) in [
        (config_of(&named, Some(&missing), ""), "missing.pem"),
        (config_of(&named, Some(&empty), ""), "empty.pem"),
        (config_of(&["{ address = \"192.0.2.1\", pins = [] }".to_owned()], Some(pki.ca_file()), ""), "pins"),
        (config_of(&["{ address = \"192.0.2.1\", name = \"\" }".to_owned()], Some(pki.ca_file()), ""), "name"),
        (config_of(&["\"192.0.2.1#\"".to_owned()], Some(pki.ca_file()), ""), "name"),
        (config_of(&["\"plain:192.0.2.1\"".to_owned()], Some(pki.ca_file()), ""), "plain"),
        (config_of(&named, Some(pki.ca_file()), "verify = false"), "verify"),
    ] {
        let (status, problems) = check(&pki, &config);
        assert_eq!(status, Some(78), "{config}");
        assert!(problems.contains(said), "{said}: {problems}");
    }
}

/// Each way of being somebody else is refused, with a text of its own, which the log and the report give.
#[test]
fn r26_every_wrong_server_is_refused_with_a_text_of_its_own_and_counted() {
    let pki = Pki::new();
    let right = || Certificate::for_names(&["upstream.test"]);
    let by_name = "\"ADDRESS#upstream.test\"";
    let pin = pki.server(&["upstream.test"]).spki_pin();
    let by_pin = format!("{{ address = \"ADDRESS\", pins = [\"{pin}\"] }}");
    let cases: [(&str, Identity, &str, &str); 7] = [
        ("wrong name", pki.server(&["other.test"]), by_name, "certificate not valid for name \"upstream.test\""),
        ("wrong address", pki.server(&["127.0.0.2"]), "\"ADDRESS\"", "certificate not valid for name \"127.0.0.1\""),
        ("expired", pki.issue(&right().expired()), by_name, "certificate expired"),
        ("not yet valid", pki.issue(&right().not_yet_valid()), by_name, "certificate not valid yet"),
        ("self-signed", pki.issue(&right().self_signed()), by_name, "UnknownIssuer"),
        (
            "wrong pin",
            pki.server(&["upstream.test"]),
            &by_pin,
            "the server's public key matches none of the configured pins",
        ),
        ("another CA", Pki::new().server(&["upstream.test"]), by_name, "BadSignature"),
    ];
    let ca_file = pki.ca_file();
    thread::scope(|scope| {
        for (what, identity, entry, text) in cases {
            scope.spawn(move || {
                let server = DotServer::start(identity);
                let entry = entry.replace("ADDRESS", &server.address().to_string());
                let proxy = start(&config_of(&[entry], Some(ca_file), HURRIED));
                assert_eq!(rcode_of(&proxy, &query(1, "who.test", 1)), SERVFAIL, "{what}");
                let report = report(&proxy);
                let why = report["upstream"][0]["last_failure"]["why"].as_str().unwrap_or_default();
                assert!(why.contains(text) && proxy.log().contains(why), "{what}: {why}\n{}", proxy.log());
                assert!(counted(&proxy, 0, "connect_failures") >= 1, "{what}");
                assert_eq!(server.with_journal(|journal: &Journal| journal.messages.len()), 0, "{what}");
            });
        }
    });
}
