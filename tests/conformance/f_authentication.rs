//! Theme F: who a resolver has to be before it gets a query.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use testkit::journal::Handshake;
use testkit::{Certificate, DotServer, Identity, Pki, Proxy, Stage, query};

use super::bench::binary;
use super::resolvers::{HURRIED, LONG, SERVFAIL, config_of, named, rcode_of, start};

/// Configuration errors end the program with this status (sysexits.h).
const EX_CONFIG: i32 = 78;

/// A proxy with this configuration asks once: `Err` with the alert that the server got, if the query failed.
fn outcome(server: &DotServer, config: &str) -> Result<(), String> {
    let proxy = start(config);
    let (connections, messages) = server.with_journal(|journal| (journal.accepted(), journal.messages.len()));
    match rcode_of(&proxy, &query(1, "who.test", 1)) {
        0 => Ok(()),
        SERVFAIL => {
            let failure = |handshake: &Handshake| match handshake {
                Handshake::Failed(why) => Some(why.clone()),
                _ => None,
            };
            let refused = server.wait_for(
                |journal| journal.connections.get(connections).is_some_and(|first| failure(&first.handshake).is_some()),
                LONG,
            );
            assert!(refused, "SERVFAIL, but the handshake was not refused:\n{}", proxy.log());
            assert_eq!(server.journal().messages.len(), messages, "a server that was refused got a query");
            Err(failure(&server.journal().connections[connections].handshake).unwrap())
        }
        other => panic!("RCODE {other}"),
    }
}

fn is_refused(server: &DotServer, config: &str, what: &str) {
    let alert = outcome(server, config).expect_err(what);
    assert!(alert.contains("alert"), "{what}: {alert}");
}

#[test]
fn c050_r26_wrong_certificates_are_refused() {
    let pki = Pki::new();
    let name = ["upstream.test"];
    let wrong: [(&str, Identity); 9] = [
        ("expired", pki.issue(&Certificate::for_names(&name).expired())),
        ("not yet valid", pki.issue(&Certificate::for_names(&name).not_yet_valid())),
        ("name in the CN only", pki.issue(&Certificate::common_name_only("upstream.test"))),
        ("another name", pki.server(&["other.test"])),
        ("wildcard over the name's own level", pki.server(&["*.upstream.test"])),
        ("missing intermediate", pki.issue(&Certificate::for_names(&name).via_intermediate(false))),
        ("for clients only", pki.issue(&Certificate::for_names(&name).client_auth_only())),
        ("signed by itself", pki.issue(&Certificate::for_names(&name).self_signed())),
        ("another CA", Pki::new().server(&name)),
    ];
    thread::scope(|scope| {
        for (what, identity) in wrong {
            let ca_file = pki.ca_file();
            scope.spawn(move || {
                let server = DotServer::start(identity);
                is_refused(&server, &config_of(&[named(&server)], Some(ca_file), HURRIED), what);
            });
        }
    });
    // and all of this was about the certificate
    let server = DotServer::start(pki.server(&name));
    assert_eq!(outcome(&server, &config_of(&[named(&server)], Some(pki.ca_file()), "")), Ok(()));
}

#[test]
fn c050_a_wildcard_stands_for_one_label() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["*.upstream.test"]));
    let entry = |name: &str| format!("\"{}#{name}\"", server.address());
    let one = config_of(&[entry("a.upstream.test")], Some(pki.ca_file()), "");
    assert_eq!(outcome(&server, &one), Ok(()));
    let two = config_of(&[entry("a.b.upstream.test")], Some(pki.ca_file()), HURRIED);
    is_refused(&server, &two, "two labels");
}

#[test]
fn c050_a_chain_over_an_intermediate_is_accepted() {
    let pki = Pki::new();
    let server = DotServer::start(pki.issue(&Certificate::for_names(&["upstream.test"]).via_intermediate(true)));
    assert_eq!(outcome(&server, &config_of(&[named(&server)], Some(pki.ca_file()), "")), Ok(()));
}

#[test]
fn c051_r26_a_bare_address_must_stand_in_the_certificate() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["127.0.0.1"]));
    let entry = [format!("\"{}\"", server.address())];
    assert_eq!(outcome(&server, &config_of(&entry, Some(pki.ca_file()), "")), Ok(()));
    for names in [&["upstream.test"][..], &["127.0.0.2"], &["::1"]] {
        server.set_identity(pki.server(names));
        is_refused(&server, &config_of(&entry, Some(pki.ca_file()), HURRIED), &format!("{names:?}"));
    }
}

/// Entries with these pins and, perhaps, a name.
fn pinned(server: &DotServer, name: Option<&str>, pins: &[&str]) -> [String; 1] {
    let name = name.map_or_else(String::new, |name| format!("name = \"{name}\", "));
    let pins: Vec<String> = pins.iter().map(|pin| format!("\"{pin}\"")).collect();
    [format!("{{ address = \"{}\", {name}pins = [{}] }}", server.address(), pins.join(", "))]
}

#[test]
fn c052_r26_one_pin_of_the_set_must_match() {
    // no CA vouches for this server: its key does
    let pki = Pki::new();
    let identity = pki.issue(&Certificate::for_names(&["whatever.test"]).self_signed());
    let (right, wrong) = (identity.spki_pin(), pki.server(&["upstream.test"]).spki_pin());
    let server = DotServer::start(identity);
    is_refused(&server, &config_of(&pinned(&server, None, &[&wrong]), None, HURRIED), "a wrong pin");
    for pins in [&[wrong.as_str(), right.as_str()][..], &[right.as_str()]] {
        assert_eq!(outcome(&server, &config_of(&pinned(&server, None, pins), None, "")), Ok(()), "{pins:?}");
    }
}

#[test]
fn c052_a_malformed_pin_is_refused_at_load() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let right = pki.server(&["upstream.test"]).spki_pin();
    let (short, hex) = (&right[4..], "a5".repeat(32));
    for pin in [short, &hex, "", "=", "*".repeat(44).as_str()] {
        let config = config_of(&pinned(&server, Some("upstream.test"), &[&right, pin]), Some(pki.ca_file()), "");
        let (status, log) = Proxy::builder(binary()).config(&config).start_expecting_failure();
        assert_eq!(status.code(), Some(EX_CONFIG), "{pin:?}");
        assert!(log.contains("pin"), "{log}");
    }
    // a set without a pin would be one that nothing can match, or everything
    let config = config_of(&pinned(&server, None, &[]), None, "");
    assert_eq!(Proxy::builder(binary()).config(&config).start_expecting_failure().0.code(), Some(EX_CONFIG));
}

#[test]
fn c053_r26_with_a_name_and_pins_both_must_match() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let (right, wrong) = (identity.spki_pin(), pki.server(&["upstream.test"]).spki_pin());
    let server = DotServer::start(identity);
    let config = |name, pin: &str, lines| config_of(&pinned(&server, Some(name), &[pin]), Some(pki.ca_file()), lines);
    assert_eq!(outcome(&server, &config("upstream.test", &right, "")), Ok(()));
    is_refused(&server, &config("upstream.test", &wrong, HURRIED), "good name, bad pin");
    is_refused(&server, &config("other.test", &right, HURRIED), "bad name, good pin");
    // nor does a pin excuse a chain that leads nowhere
    let stranger = Pki::new();
    let config = config_of(&pinned(&server, Some("upstream.test"), &[&right]), Some(stranger.ca_file()), HURRIED);
    is_refused(&server, &config, "another CA, good pin");
}

/// The start fails within a second, and says which file is to blame.
fn is_refused_at_load(ca_file: &Path) {
    let entry = ["\"192.0.2.1#upstream.test\"".to_owned()];
    let begun = Instant::now();
    let (status, log) =
        Proxy::builder(binary()).config(&config_of(&entry, Some(ca_file), "")).start_expecting_failure();
    assert_eq!(status.code(), Some(EX_CONFIG), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(log.contains(ca_file.to_str().unwrap()), "{log}");
}

#[test]
fn c061_r24_a_ca_file_without_a_certificate_is_refused_at_load() {
    let pki = Pki::new();
    let file = |name: &str, text: &str| {
        let path = pki.directory().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    is_refused_at_load(&file("empty.pem", ""));
    is_refused_at_load(&file("text.pem", "no certificate here\n"));
    is_refused_at_load(&file("key.pem", pki.server(&["a.test"]).key_pem()));
    is_refused_at_load(&file("cut.pem", &pki.server(&["a.test"]).chain_pem()[..200]));
    is_refused_at_load(&pki.directory().join("missing.pem"));
    // no file at all: even root cannot read it as one
    is_refused_at_load(pki.directory());
}

#[test]
fn c061_an_empty_system_trust_store_is_refused_at_load() {
    let pki = Pki::new();
    let empty = pki.directory().join("empty.pem");
    fs::write(&empty, "").unwrap();
    let entry = ["\"192.0.2.1#upstream.test\"".to_owned()];
    let proxy = Proxy::builder(binary()).config(&config_of(&entry, None, ""));
    let nothing = pki.directory().join("no-certificates");
    fs::create_dir(&nothing).unwrap();
    let proxy = proxy.env("SSL_CERT_FILE", empty.to_str().unwrap()).env("SSL_CERT_DIR", nothing.to_str().unwrap());
    let (status, log) = proxy.start_expecting_failure();
    assert_eq!(status.code(), Some(EX_CONFIG), "{log}");
    assert!(log.contains("trust store"), "{log}");
}

/// A wrong clock, seen from the other side: the clock of the proxy is three seconds slow for this certificate, and is
/// right when those have passed.
#[test]
fn c062_a_wrong_clock_is_survived_without_a_restart() {
    let pki = Pki::new();
    let valid_from = SystemTime::now() + Duration::from_secs(3);
    let valid_to = valid_from + Duration::from_secs(86_400);
    let identity = pki.issue(&Certificate::for_names(&["upstream.test"]).valid(valid_from.into(), valid_to.into()));
    let server = DotServer::start(identity);
    let proxy = start(&config_of(&[named(&server)], Some(pki.ca_file()), HURRIED));
    assert_eq!(rcode_of(&proxy, &query(1, "too.early.test", 1)), SERVFAIL);
    assert!(proxy.wait_for_log("tls handshake", LONG), "{}", proxy.log());
    let mut asked = 1;
    while rcode_of(&proxy, &query(2, "in.time.test", 1)) == SERVFAIL {
        asked += 1;
        let late = valid_from.elapsed().unwrap_or_default();
        assert!(late < Duration::from_secs(10), "{asked} queries failed:\n{}", proxy.log());
        thread::sleep(Duration::from_millis(100));
    }
    assert!(asked > 2, "the certificate was valid from the start: nothing was tested");
    assert!(server.journal().accepted() < 20, "no back-off: {} attempts", server.journal().accepted());
}

/// The names of the counters of refusals that are not zero, as `status --json` shows them for the only server.
fn refusals(proxy: &Proxy) -> Vec<String> {
    let status = Command::new(binary()).args(["status", "--json", "--socket"]).arg(proxy.control_socket()).output();
    let json: serde_json::Value = serde_json::from_slice(&status.unwrap().stdout).unwrap();
    let counters = json["upstream"][0]["counters"].as_object().unwrap();
    let counted = counters.iter().filter(|(name, value)| name.starts_with("refused_") && value.as_u64() > Some(0));
    counted.map(|(name, _)| name.clone()).collect()
}

#[test]
fn r26_every_failed_check_has_words_and_a_counter_of_its_own() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let right = || Certificate::for_names(&["upstream.test"]);
    let pin = pki.server(&["upstream.test"]).spki_pin();
    let by_name = |server: &DotServer| named(server);
    let by_address = |server: &DotServer| format!("\"{}\"", server.address());
    let by_pin = |server: &DotServer| format!("{{ address = \"{}\", pins = [\"{pin}\"] }}", server.address());
    let with_both = |server: &DotServer| {
        format!("{{ address = \"{}\", name = \"upstream.test\", pins = [\"{pin}\"] }}", server.address())
    };
    type Entry<'a> = &'a dyn Fn(&DotServer) -> String;
    let refused: [(Identity, Entry<'_>, &str, &str); 13] = [
        (pki.server(&["upstream.example"]), &by_name, "name", "is for upstream.example, and not for upstream.test"),
        // the whole chain is good, for somebody else
        (
            pki.issue(&Certificate::for_names(&["dns.other.test", "192.0.2.1"]).via_intermediate(true)),
            &by_name,
            "name",
            "wrong name: the certificate is for dns.other.test, 192.0.2.1, and not for upstream.test",
        ),
        (pki.issue(&Certificate::common_name_only("upstream.test")), &by_name, "name", "is for no name at all"),
        (
            pki.server(&["127.0.0.2"]),
            &by_address,
            "address",
            "wrong address: the certificate is for 127.0.0.2, and not",
        ),
        (pki.server(&["upstream.test"]), &by_address, "address", "and not for the address 127.0.0.1"),
        (pki.issue(&right().expired()), &by_name, "expired", "expired: the certificate ceased to be valid on 2"),
        (pki.issue(&right().not_yet_valid()), &by_name, "not_yet_valid", "not valid yet: the certificate begins to be"),
        (pki.issue(&right().self_signed()), &by_name, "self_signed", "self-signed: "),
        (pki.issue(&right().via_intermediate(false)), &by_name, "issuer", "CN=dot-proxy test intermediate"),
        // a CA that calls itself as ours does
        (stranger.server(&["upstream.test"]), &by_name, "issuer", "unknown issuer: "),
        (pki.server(&["upstream.test"]), &by_pin, "pin", "wrong pin: the server's public key matches none"),
        (pki.server(&["upstream.test"]), &with_both, "pin", "wrong pin: the server's public key matches none"),
        (pki.issue(&right().client_auth_only()), &by_name, "other", "the certificate cannot be used: "),
    ];
    for (identity, entry, counter, words) in refused {
        let server = DotServer::start(identity);
        let proxy = start(&config_of(&[entry(&server)], Some(pki.ca_file()), HURRIED));
        assert_eq!(rcode_of(&proxy, &query(1, "who.test", 1)), SERVFAIL, "{words}");
        assert!(proxy.wait_for_log(words, LONG), "{words}:\n{}", proxy.log());
        let line = proxy.log().lines().find(|line| line.contains(words)).unwrap().to_owned();
        assert!(line.contains(&format!("upstream {}", server.address())) || counter == "pin", "{line}");
        assert!(line.contains("no connection: tls handshake: "), "{line}");
        assert_eq!(refusals(&proxy), [format!("refused_{counter}")], "{words}");
        assert!(server.journal().messages.is_empty(), "{words}: a server that was refused got a query");
    }
    // failures that have nothing to do with who the server is are none of these
    let server =
        DotServer::builder().identity(pki.server(&["upstream.test"])).stage(Stage::CloseAfterClientHello).start();
    let proxy = start(&config_of(&[by_name(&server)], Some(pki.ca_file()), HURRIED));
    assert_eq!(rcode_of(&proxy, &query(1, "who.test", 1)), SERVFAIL);
    assert_eq!(refusals(&proxy), Vec::<String>::new());
}
