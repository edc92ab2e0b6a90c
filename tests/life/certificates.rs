//! Certificates of TLS towards clients: renewed while serving, kept when the new pair does not do, read as root, and
//! taken from credentials.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::unistd::Uid;
use testkit::tls_client::{client_config, client_config_with_identity};
use testkit::{DotServer, Identity, Pki, Proxy, TlsClient, query};

use crate::conformance::bench::{Bench, binary};
use crate::conformance::namespace::skipped;
use crate::conformance::o_tls::{NAME, assert_answers, config_with_tls, connect, tls_address, with_tls};
use crate::life::control::ask_reload;

/// Writes the pair that the proxy's configuration names.
fn replace(pki: &Pki, identity: &Identity) -> (PathBuf, PathBuf) {
    identity.write_pem(pki.directory(), "proxy")
}

fn shown(bench: &Bench) -> Vec<u8> {
    let mut client = connect(bench);
    assert_answers(&client.ask(&query(1, "shown.test", 1)).unwrap(), 1, "shown.test");
    client.certificate()
}

#[test]
fn c138_a_renewed_certificate_is_shown_after_a_reload_and_connections_live_on() {
    let bench = with_tls(|server| server, "");
    let (shared, name) = (Arc::new(client_config(&bench.pki)), tls_address(&bench.proxy));
    let mut living = TlsClient::connect(name, NAME, &shared).unwrap();
    living.ask(&query(1, "before.test", 1)).unwrap();
    let old = living.certificate();
    // nothing has changed: tickets are good
    assert_eq!(ask_reload(&bench.proxy).0, 0);
    assert!(TlsClient::connect(name, NAME, &shared).unwrap().is_resumed());
    let renewed = bench.pki.server(&[NAME]);
    replace(&bench.pki, &renewed);
    assert_eq!(shown(&bench), old, "not before the reload");
    let (code, said) = ask_reload(&bench.proxy);
    assert_eq!(code, 0, "{said}");
    assert_eq!(shown(&bench), renewed.chain[0].as_ref());
    // a session of the old certificate is not taken up again
    let again = TlsClient::connect(name, NAME, &shared).unwrap();
    assert!(!again.is_resumed() && again.certificate() == renewed.chain[0].as_ref());
    assert_answers(&living.ask(&query(2, "after.test", 1)).unwrap(), 2, "after.test");
    assert_eq!(living.certificate(), old);
}

#[test]
fn c138_a_broken_new_pair_leaves_the_old_one_in_use() {
    let bench = with_tls(|server| server, "");
    let old = shown(&bench);
    let good = bench.pki.server(&[NAME]);
    let (certificate, key) = replace(&bench.pki, &good);
    let stranger = bench.pki.server(&[NAME]);
    for (file, content, reason) in [
        (&key, stranger.key_pem().to_owned(), "is not the key of the certificate in"),
        (&key, "nothing".to_owned(), "no private key in it"),
        (&certificate, String::new(), "no certificate in it"),
        (&certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), "listen.tls-"),
    ] {
        replace(&bench.pki, &good);
        fs::write(file, content).unwrap();
        let lines = bench.proxy.log_lines();
        let (code, said) = ask_reload(&bench.proxy);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("reload refused") && said.contains(reason), "{said}");
        assert!(bench.proxy.wait_for_log_after(lines, reason, std::time::Duration::from_secs(5)));
        assert_eq!(shown(&bench), old);
    }
    fs::remove_file(&key).unwrap();
    let (code, said) = ask_reload(&bench.proxy);
    assert!(code == 1 && said.contains("cannot be read: No such file"), "{said}");
    replace(&bench.pki, &good);
    assert_eq!(ask_reload(&bench.proxy).0, 0);
    assert_eq!(shown(&bench), good.chain[0].as_ref());
}

#[test]
fn a_start_with_a_broken_pair_says_what_is_wrong() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let config = config_with_tls(&pki, &server, "");
    let good = pki.server(&[NAME]);
    let (_, key) = replace(&pki, &good);
    fs::write(&key, pki.server(&[NAME]).key_pem()).unwrap();
    let (status, log) = Proxy::builder(binary()).config(&config).start_expecting_failure();
    assert_eq!(status.code(), Some(78));
    assert!(log.contains("is not the key of the certificate in"), "{log}");
    // one that has expired is served all the same: only clients can judge it
    let expired = pki.issue(&testkit::Certificate::for_names(&[NAME]).expired());
    replace(&pki, &expired);
    let proxy = Proxy::builder(binary()).config(&config).start();
    assert!(proxy.log().contains("has expired 1h ago"), "{}", proxy.log());
}

#[test]
fn a_key_for_root_alone_is_read_at_the_start_and_a_renewed_one_is_refused_with_the_reason() {
    if !Uid::effective().is_root() {
        return skipped("needs root");
    }
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let config = config_with_tls(&pki, &server, "");
    let first = pki.server(&[NAME]);
    let private = |identity: &Identity| {
        let (_, key) = replace(&pki, identity);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    };
    private(&first);
    let mut proxy = Proxy::builder(binary()).config(&config).start();
    assert!(!proxy.log().contains("every user may read"));
    let get = |proxy: &Proxy| {
        TlsClient::connect(tls_address(proxy), NAME, &Arc::new(client_config(&pki))).unwrap().certificate()
    };
    assert_eq!(get(&proxy), first.chain[0].as_ref());
    // as long as the certificate is the same, everything else can be renewed
    fs::write(proxy.config_file(), format!("{config}[privacy]\npadding = true\n")).unwrap();
    let (code, said) = ask_reload(&proxy);
    assert!(code == 0 && said.contains("permission denied; give the group of the service"), "{said}");
    assert!(said.contains("until then a renewed certificate is refused"), "{said}");
    let renewed = pki.server(&[NAME]);
    private(&renewed);
    let (code, said) = ask_reload(&proxy);
    assert!(code == 1 && said.contains("permission denied; give the group of the service"), "{said}");
    assert_eq!(get(&proxy), first.chain[0].as_ref());
    proxy = Proxy::builder(binary()).config(&config).start();
    assert_eq!(get(&proxy), renewed.chain[0].as_ref());
}

#[test]
fn clients_that_must_show_a_certificate_after_a_reload_cannot_come_in_by_an_old_ticket() {
    let bench = with_tls(|server| server, "");
    let (address, shared) = (tls_address(&bench.proxy), Arc::new(client_config(&bench.pki)));
    TlsClient::connect(address, NAME, &shared).unwrap().ask(&query(1, "open.test", 1)).unwrap();
    let line = format!("tls-client-ca = \"{}\"", bench.pki.ca_file().display());
    // the same pair; one made anew would end the sessions by itself
    let config = fs::read_to_string(bench.proxy.config_file()).unwrap();
    fs::write(bench.proxy.config_file(), config.replace("[listen]\n", &format!("[listen]\n{line}\n"))).unwrap();
    let (code, said) = ask_reload(&bench.proxy);
    assert_eq!(code, 0, "{said}");
    if let Ok(mut client) = TlsClient::connect(address, NAME, &shared) {
        client.send(&query(2, "ticket.test", 1));
        assert!(client.recv(std::time::Duration::from_secs(5)).is_err());
    }
    assert!(bench.server.journal().messages_named("ticket.test").is_empty());
    let known = Arc::new(client_config_with_identity(&bench.pki, &bench.pki.client("client.test")));
    let mut client = TlsClient::connect(address, NAME, &known).unwrap();
    assert_answers(&client.ask(&query(3, "known.test", 1)).unwrap(), 3, "known.test");
}

#[test]
fn tls_taken_out_of_the_configuration_is_served_until_the_restart() {
    let bench = with_tls(|server| server, "");
    let plain = testkit::config_for(&[(bench.server.address(), "upstream.test")], bench.pki.ca_file());
    fs::write(bench.proxy.config_file(), plain).unwrap();
    let (code, said) = ask_reload(&bench.proxy);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("listen.tls-addresses, listen.tls-certificate, listen.tls-key: a change takes effect at"),
        "{said}"
    );
    shown(&bench);
}

#[test]
fn c146_a_key_among_the_credentials_is_renewed_by_a_restart() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let credentials = pki.directory().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let write = |identity: &Identity| {
        fs::write(credentials.join("tls.crt"), identity.chain_pem()).unwrap();
        fs::write(credentials.join("tls.key"), identity.key_pem()).unwrap();
    };
    let config = config_with_tls(&pki, &server, "")
        .replace(&format!("{}/proxy.crt", pki.directory().display()), "credential:tls.crt")
        .replace(&format!("{}/proxy.key", pki.directory().display()), "credential:tls.key");
    assert!(config.contains("tls-key = \"credential:tls.key\""), "{config}");
    let start =
        || Proxy::builder(binary()).config(&config).env("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap()).start();
    let get = |proxy: &Proxy| {
        TlsClient::connect(tls_address(proxy), NAME, &Arc::new(client_config(&pki))).unwrap().certificate()
    };
    let (first, second) = (pki.server(&[NAME]), pki.server(&[NAME]));
    write(&first);
    let proxy = start();
    assert_eq!(get(&proxy), first.chain[0].as_ref());
    // the service manager leaves this directory as it was at the start, and so does this test
    let (code, said) = ask_reload(&proxy);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("credentials are those of the start: a renewed one is read at a restart"), "{said}");
    assert_eq!(get(&proxy), first.chain[0].as_ref());
    drop(proxy);
    write(&second);
    assert_eq!(get(&start()), second.chain[0].as_ref());
    // without the directory the start says what is missing
    let (status, log) = Proxy::builder(binary()).config(&config).start_expecting_failure();
    assert!(status.code() == Some(78) && log.contains("/run/credentials/dot-proxy.service/"), "{log}");
}
