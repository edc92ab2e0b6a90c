//! Theme P: certificates of our own, shown to resolvers that ask for one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::unistd::Uid;
use testkit::journal::Handshake;
use testkit::{Certificate, DotServer, Identity, Pki, Proxy, Versions, query};

use super::bench::binary;
use super::namespace::skipped;
use super::resolvers::{HURRIED, LONG, SERVFAIL, config_of, named, rcode_of, start};
use crate::life::control::ask_reload;

/// A CA, and a server that asks for certificates of it.
struct Mutual {
    pki: Pki,
    server: DotServer,
    identity: Identity,
}

impl Mutual {
    fn new() -> Mutual {
        Mutual::speaking(Versions::Both)
    }

    fn speaking(versions: Versions) -> Mutual {
        let pki = Pki::new();
        let identity = pki.server(&["upstream.test"]);
        let server = DotServer::builder().identity(identity.clone()).tls_versions(versions);
        let server = server.require_client_certificate(pki.roots()).start();
        Mutual { pki, server, identity }
    }

    /// Writes the pair that the configuration names, with a key for its owner alone.
    fn write(&self, identity: &Identity) -> (PathBuf, PathBuf) {
        write(&self.pki, identity, "client")
    }

    /// A configuration for one entry, with the pair for all of `[upstream]`.
    fn config(&self, entry: String) -> String {
        config_of(&[entry], Some(self.pki.ca_file()), &self.lines("client"))
    }

    fn lines(&self, name: &str) -> String {
        let folder = self.pki.directory().display();
        format!("client-certificate = \"{folder}/{name}.crt\"\nclient-key = \"{folder}/{name}.key\"")
    }

    /// The certificates that the server was shown, one for each connection.
    fn shown(&self) -> Vec<Option<Vec<u8>>> {
        self.server.journal().connections.into_iter().map(|connection| connection.client_certificate).collect()
    }
}

fn write(pki: &Pki, identity: &Identity, name: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = identity.write_pem(pki.directory(), name);
    // as the service's own user reads it in these tests, who is not always root
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    (certificate, key)
}

fn der(identity: &Identity) -> Option<Vec<u8>> {
    Some(identity.chain[0].as_ref().to_vec())
}

#[test]
fn a_resolver_that_asks_for_a_certificate_is_shown_ours_and_refuses_us_without() {
    for versions in [Versions::Tls12, Versions::Tls13] {
        let mutual = Mutual::speaking(versions);
        let ours = mutual.pki.client("proxy.test");
        mutual.write(&ours);
        let bare = start(&config_of(&[named(&mutual.server)], Some(mutual.pki.ca_file()), HURRIED));
        assert_eq!(rcode_of(&bare, &query(1, "without.test", 1)), SERVFAIL);
        let refused = |connection: &testkit::journal::Connection| matches!(connection.handshake, Handshake::Failed(_));
        assert!(mutual.server.wait_for(|journal| journal.connections.iter().any(refused), LONG));
        assert!(mutual.server.journal().messages.is_empty(), "a server that refused us got a query");
        drop(bare);
        let before = mutual.shown().len();
        let proxy = start(&mutual.config(named(&mutual.server)));
        assert_eq!(rcode_of(&proxy, &query(1, "with.test", 1)), 0);
        assert_eq!(mutual.shown()[before..], [der(&ours)]);
        // a resumed session counts as well
        let established = mutual.server.journal().established();
        mutual.server.close_all(testkit::How::CloseNotify);
        // while queries come another one is made at once
        assert!(mutual.server.wait_for(|journal| journal.established() > established, LONG));
        assert_eq!(rcode_of(&proxy, &query(2, "again.test", 1)), 0);
        assert!(mutual.server.journal().connections.last().unwrap().is_resumed());
    }
}

#[test]
fn a_certificate_of_another_ca_is_refused_by_the_resolver() {
    let mutual = Mutual::new();
    mutual.write(&Pki::new().client("proxy.test"));
    let proxy = start(&(mutual.config(named(&mutual.server)) + HURRIED));
    assert_eq!(rcode_of(&proxy, &query(1, "stranger.test", 1)), SERVFAIL);
    assert!(mutual.server.journal().messages.is_empty());
}

#[test]
fn it_goes_together_with_a_name_with_pins_and_with_both() {
    let mutual = Mutual::new();
    mutual.write(&mutual.pki.client("proxy.test"));
    let (address, pin) = (mutual.server.address(), mutual.identity.spki_pin());
    let wrong = mutual.pki.server(&["upstream.test"]).spki_pin();
    let entry = |keys: &str| format!("{{ address = \"{address}\", {keys} }}");
    for (keys, rcode) in [
        ("name = \"upstream.test\"".to_owned(), 0),
        (format!("pins = [\"{pin}\"]"), 0),
        (format!("name = \"upstream.test\", pins = [\"{pin}\"]"), 0),
        // our certificate makes no other one good
        ("name = \"other.test\"".to_owned(), SERVFAIL),
        (format!("pins = [\"{wrong}\"]"), SERVFAIL),
        (format!("name = \"upstream.test\", pins = [\"{wrong}\"]"), SERVFAIL),
    ] {
        let lines = if rcode == 0 { "" } else { HURRIED };
        let proxy = start(&(mutual.config(entry(&keys)) + lines));
        assert_eq!(rcode_of(&proxy, &query(1, "who.test", 1)), rcode, "{keys}\n{}", proxy.log());
    }
    assert_eq!(mutual.server.journal().messages.len(), 3);
}

#[test]
fn a_renewed_certificate_is_shown_after_a_reload_and_an_unchanged_one_keeps_the_connection() {
    let mutual = Mutual::new();
    let (old, renewed) = (mutual.pki.client("proxy.test"), mutual.pki.client("proxy.test"));
    mutual.write(&old);
    let proxy = start(&mutual.config(named(&mutual.server)));
    let ask = |name: &str| assert_eq!(rcode_of(&proxy, &query(1, name, 1)), 0, "{name}");
    ask("first.test");
    assert_eq!(ask_reload(&proxy).0, 0);
    ask("unchanged.test");
    assert_eq!(mutual.shown(), [der(&old)]);
    mutual.write(&renewed);
    ask("before.test");
    let (code, said) = ask_reload(&proxy);
    assert_eq!(code, 0, "{said}");
    ask("after.test");
    assert_eq!(mutual.shown(), [der(&old), der(&renewed)]);
    assert!(!mutual.server.journal().connections[1].is_resumed(), "the session of another certificate was taken up");
}

#[test]
fn a_pair_that_does_not_do_is_refused_with_its_file_at_the_start_and_at_a_reload() {
    let mutual = Mutual::new();
    let good = mutual.pki.client("proxy.test");
    let stranger = mutual.pki.client("proxy.test");
    let (certificate, key) = mutual.write(&good);
    let config = mutual.config(named(&mutual.server));
    let proxy = start(&config);
    for (file, content, reason) in [
        (&key, Some(stranger.key_pem().to_owned()), "is not the key of the certificate in"),
        (&key, Some("nothing".to_owned()), "no private key in it"),
        (&key, None, "cannot be read: No such file"),
        (&certificate, Some(String::new()), "no certificate in it"),
        (&certificate, None, "cannot be read: No such file"),
    ] {
        mutual.write(&good);
        match content {
            Some(content) => fs::write(file, content).unwrap(),
            None => fs::remove_file(file).unwrap(),
        }
        let option = if file == &key { "client-key" } else { "client-certificate" };
        let expected = format!("#upstream.test: {option} {}: {reason}", file.display());
        let (status, log) = Proxy::builder(binary()).config(&config).start_expecting_failure();
        assert_eq!(status.code(), Some(78), "{log}");
        assert!(log.contains(&expected), "{expected} in {log}");
        let (code, said) = ask_reload(&proxy);
        assert!(code == 1 && said.contains(&expected), "{expected} in {said}");
    }
    // the one of the start is still shown
    assert_eq!(rcode_of(&proxy, &query(1, "after.test", 1)), 0);
    assert_eq!(mutual.shown(), [der(&good)]);
}

#[test]
fn a_key_for_root_alone_is_read_at_the_start_and_a_renewed_one_is_refused_with_the_reason() {
    if !Uid::effective().is_root() {
        return skipped("needs root");
    }
    let mutual = Mutual::new();
    let private = |identity: &Identity| {
        let (_, key) = mutual.write(identity);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let first = mutual.pki.client("proxy.test");
    private(&first);
    let config = mutual.config(named(&mutual.server));
    let proxy = start(&config);
    assert_eq!(rcode_of(&proxy, &query(1, "first.test", 1)), 0);
    // as long as the certificate is the same, everything else can be renewed, and the connection is kept
    fs::write(proxy.config_file(), format!("{config}[privacy]\npadding = true\n")).unwrap();
    let (code, said) = ask_reload(&proxy);
    assert!(code == 0 && said.contains("permission denied; give the group of the service"), "{said}");
    assert!(said.contains("until then a renewed certificate is refused"), "{said}");
    assert_eq!(rcode_of(&proxy, &query(2, "second.test", 1)), 0);
    private(&mutual.pki.client("proxy.test"));
    let (code, said) = ask_reload(&proxy);
    assert!(code == 1 && said.contains("permission denied; give the group of the service"), "{said}");
    assert_eq!(rcode_of(&proxy, &query(3, "third.test", 1)), 0);
    assert_eq!(mutual.shown(), [der(&first)]);
}

#[test]
fn r29_two_client_certificates_on_one_address_never_share_a_connection() {
    let mutual = Mutual::new();
    let (general, of_route, own) =
        (mutual.pki.client("general.test"), mutual.pki.client("route.test"), mutual.pki.client("own.test"));
    mutual.write(&general);
    write(&mutual.pki, &of_route, "route");
    let (certificate, key) = write(&mutual.pki, &own, "own");
    let entry = format!(
        "{{ address = \"{}\", name = \"upstream.test\", client-certificate = \"{}\", client-key = \"{}\" }}",
        mutual.server.address(),
        certificate.display(),
        key.display()
    );
    let route = |domain: &str, entry: &str, lines: &str| {
        format!("[[route]]\ndomains = [\"{domain}\"]\nservers = [{entry}]\n{lines}\n")
    };
    let tables = route("inherited.test", &named(&mutual.server), "")
        + &route("route.test", &named(&mutual.server), &mutual.lines("route"))
        + &route("own.test", &entry, &mutual.lines("route"));
    let proxy = start(&(mutual.config(named(&mutual.server)) + &tables));
    for name in ["a.test", "a.inherited.test", "a.route.test", "a.own.test"] {
        assert_eq!(rcode_of(&proxy, &query(1, name, 1)), 0, "{name}");
    }
    // the route that inherits the certificate has the same server as [upstream]
    assert_eq!(mutual.shown(), [der(&general), der(&of_route), der(&own)]);
    assert!(mutual.server.journal().connections.iter().all(|connection| !connection.is_resumed()));
}

#[test]
fn a_resolver_that_does_not_ask_is_shown_nothing() {
    let pki = Pki::new();
    let server = DotServer::start(pki.issue(&Certificate::for_names(&["upstream.test"])));
    let mutual = Mutual { identity: pki.server(&["upstream.test"]), pki, server };
    mutual.write(&mutual.pki.client("proxy.test"));
    let proxy = start(&mutual.config(named(&mutual.server)));
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), 0);
    assert_eq!(mutual.shown(), [None]);
}
