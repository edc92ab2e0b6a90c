//! Who is believed, and what leaves.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use testkit::{DotServer, Pki, query};

use super::stand::{open_connections, until};
use crate::conformance::bench::binary;
use crate::conformance::own_network::{Capture, in_own_network, ports_and_payload};
use crate::conformance::resolvers::{config_of, proxy_before, rcode_of};

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
