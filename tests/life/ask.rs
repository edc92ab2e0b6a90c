//! The command `query`: one question, its answer, and the way that it took.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::plain_server::PlainServer;
use testkit::{Act, Certificate, DotServer, Identity, Opt, Pki, Rr, Section, Stage, answer_to, default_answer, query};

use crate::conformance::bench::binary;
use crate::conformance::resolvers::{HURRIED, config_of, named};

/// Exit status, standard output and standard error of `dot-proxy query` with these words.
fn ask(words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary()).arg("query").args(words).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A configuration in a file of its own, next to the CA.
fn file(pki: &Pki, name: &str, config: &str) -> PathBuf {
    let path = pki.directory().join(name);
    std::fs::write(&path, config).unwrap();
    path
}

fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `127.0.0.1:port#upstream.test`
fn place(server: &DotServer) -> String {
    format!("{}#upstream.test", server.address())
}

#[test]
fn r27_query_shows_the_answer_and_what_the_server_presents() {
    let pki = Pki::new();
    let identity = pki.issue(&Certificate::for_names(&["upstream.test"]).via_intermediate(true));
    let pin = identity.spki_pin();
    let server = DotServer::start(identity);
    server.set_script(|received| {
        let answer = answer_to(&received.message)
            .answer(&Rr::cname("www.a.test", "a.test", 60))
            .answer(&Rr::new("a.test", 15, 300, b"\0\x0a\x04mail\xc0\x12"))
            .record(Section::Authority, &Rr::soa("test", 300, 60))
            .record(Section::Additional, &Rr::aaaa("mail.a.test", [0; 16], 1))
            .opt(Opt::new(1232).option(15, b"\0\x03from yesterday"));
        vec![Act::Answer(answer.ad(true).build())]
    });
    let place = place(&server);
    let (status, out, error) = ask(&["www.a.test", "mx", "--server", &place, "--ca-file", word(pki.ca_file())]);
    assert_eq!((status, error.as_str()), (Some(0), ""), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("NOERROR; flags qr rd ra ad; "), "{out}");
    assert_eq!(
        lines[1..7],
        [
            "question:",
            "  www.a.test. IN MX",
            "answer:",
            "  www.a.test. 60 IN CNAME a.test.",
            "  a.test. 300 IN MX 10 mail.test.",
            "authority:",
        ]
    );
    assert!(lines[7].starts_with("  test. 300 IN SOA "), "{out}");
    assert_eq!(lines[8..10], ["additional:", "  mail.a.test. 1 IN AAAA ::"], "{out}");
    assert_eq!(lines[10], "extended error 3 (Stale Answer): \"from yesterday\"");
    assert_eq!(lines[11], format!("server {place} ({})", server.address()));
    assert_eq!(
        lines[12],
        "  TLS 1.3, key exchange X25519MLKEM768, cipher TLS13_AES_128_GCM_SHA256, alpn dot, full handshake"
    );
    assert!(out.contains(&format!("     pin {pin}\n")) && out.matches("     pin ").count() == 2, "{out}");
    assert!(out.contains("     for upstream.test\n") && out.contains("     valid from "), "{out}");
    let verified = format!(
        "  to be verified: a certificate for the name upstream.test, issued by {}\n  authenticated\n  times: tcp ",
        pki.ca_file().display()
    );
    assert!(out.contains(&verified), "{out}");
    let times = lines.last().unwrap();
    assert!(times.contains(" ms, tls ") && times.contains(" ms, query ") && times.ends_with(" ms"), "{times}");
    let journal = server.journal();
    assert_eq!(journal.messages.len(), 1);
    let sent = &journal.messages[0].octets;
    let opt = testkit::inspect::opt(sent).unwrap();
    assert_eq!((testkit::inspect::flags(sent), opt.udp_size, opt.flags), (0x0100, 1232, 0));
}

#[test]
fn r27_query_says_which_check_failed_and_what_was_presented() {
    let pki = Pki::new();
    let wrong: [(Identity, &str, &str); 4] = [
        (
            pki.server(&["other.test"]),
            "wrong name: the certificate is for other.test, and not for upstream.test",
            "write the name that its certificate carries",
        ),
        (pki.issue(&Certificate::for_names(&["upstream.test"]).expired()), "expired: ", "must renew"),
        (
            pki.issue(&Certificate::for_names(&["upstream.test"]).self_signed()),
            "self-signed: ",
            "give the server its pin",
        ),
        (Pki::new().server(&["upstream.test"]), "unknown issuer: ", "ca-file"),
    ];
    for (identity, why, advice) in wrong {
        let pin = identity.spki_pin();
        let server = DotServer::start(identity);
        let place = place(&server);
        let (status, out, error) = ask(&["a.test", "--server", &place, "--ca-file", word(pki.ca_file())]);
        assert_eq!(status, Some(1), "{out}");
        assert!(out.starts_with(&format!("server {place} ({})\n  0: ", server.address())), "{out}");
        assert!(out.contains(&format!("     pin {pin}\n")), "{out}");
        assert!(out.contains(&format!("  not authenticated, and not asked: {why}")), "{out}");
        let told = out.lines().last().unwrap();
        assert!(told.starts_with("  advice: ") && told.contains(advice), "{out}");
        assert!(error.contains("no answer\n") && error.contains(&format!("{place}: tls handshake: {why}")), "{error}");
        assert!(server.journal().messages.is_empty(), "a query was sent");
    }
}

#[test]
fn r27_query_asks_an_opportunistic_server_and_says_that_it_is_not_authenticated() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["other.test"]));
    let config = config_of(&[named(&server)], Some(pki.ca_file()), "profile = \"opportunistic\"");
    let config = file(&pki, "opportunistic.toml", &config);
    let (status, out, error) = ask(&["a.test", "--config", word(&config)]);
    assert_eq!((status, error.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("  not authenticated, and asked all the same (opportunistic): wrong name: "), "{out}");
    assert!(!out.contains("  authenticated"), "{out}");
}

#[test]
fn r27_query_follows_the_route_of_the_name_and_says_that_plain_dns_is_not_encrypted() {
    let pki = Pki::new();
    let plain = PlainServer::start(|seen, _| vec![default_answer(&seen.query)]);
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let mut config = config_of(&[named(&server)], Some(pki.ca_file()), "");
    config.push_str(&format!("[[route]]\ndomains = [\"corp.test\"]\nservers = [\"plain:{}\"]\n", plain.address()));
    let config = file(&pki, "routed.toml", &config);
    let (status, out, error) = ask(&["www.CORP.test.", "--config", word(&config)]);
    assert_eq!((status, error.as_str()), (Some(0), ""), "{out}");
    let line = format!("server plain:{0} ({0}), in plain DNS, not encrypted\n  nothing was verified", plain.address());
    assert!(out.contains(&line) && !out.contains("TLS"), "{out}");
    assert!(out.contains("  www.CORP.test. IN A\n") && out.contains("  times: query "), "{out}");
    assert_eq!((plain.seen().len(), server.journal().messages.len()), (1, 0));
    // other names, and a server that is named, leave the route alone
    for words in [
        &["www.notcorp.test", "--config", word(&config)][..],
        &["www.corp.test", "--config", word(&config), "--server", &place(&server)],
    ] {
        let (status, out, error) = ask(words);
        assert_eq!((status, error.as_str()), (Some(0), ""), "{out}");
        assert!(out.contains("TLS 1.3") && !out.contains("plain"), "{out}");
    }
    assert_eq!((plain.seen().len(), server.journal().messages.len()), (1, 2));
}

#[test]
fn r27_query_looks_up_servers_that_are_given_by_name() {
    let pki = Pki::new();
    let resolver = PlainServer::start(|seen, _| {
        let answer = answer_to(&seen.query);
        let is_a = testkit::inspect::qtype(&seen.query) == 1;
        vec![if is_a { answer.a([127, 0, 0, 1], 60) } else { answer }.build()]
    });
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let entry = format!("\"upstream.test:{}\"", server.address().port());
    let bootstrap = format!("bootstrap = [\"{}\"]", resolver.address());
    let config = file(&pki, "named.toml", &config_of(&[entry], Some(pki.ca_file()), &bootstrap));
    let (status, out, error) = ask(&["a.test", "--config", word(&config)]);
    assert_eq!((status, error.as_str()), (Some(0), ""), "{out}");
    let found = format!("upstream.test:{0} is at 127.0.0.1:{0} (looked up in ", server.address().port());
    assert!(out.starts_with(&found) && out.contains("  authenticated\n"), "{out}");
}

#[test]
fn r27_query_obeys_the_privacy_switches_and_keeps_home_what_the_service_keeps_home() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let mut config = config_of(&[named(&server)], Some(pki.ca_file()), "");
    config.push_str("[privacy]\npadding = true\nremove-client-subnet = true\n");
    let config = file(&pki, "private.toml", &config);
    let (status, out, error) = ask(&["printer.home.arpa", "--config", word(&config)]);
    assert_eq!((status, error.as_str()), (Some(0), ""), "{out}");
    assert!(
        out.starts_with("NXDOMAIN; ") && out.contains("\nno server: the service answers this name itself"),
        "{out}"
    );
    assert!(server.journal().messages.is_empty(), "a name left that is kept home");
    assert_eq!(ask(&["a.test", "--config", word(&config)]).0, Some(0));
    let sent = server.journal().messages[0].octets.clone();
    assert_eq!(sent.len() % 128, 0);
    assert_eq!(testkit::inspect::option(&sent, 8), Some(vec![0, 1, 0, 0]));
    // a server that is named gets what it is to be asked
    let (status, out, _) = ask(&["printer.home.arpa", "--config", word(&config), "--server", &place(&server)]);
    assert_eq!((status, server.journal().messages.len()), (Some(0), 2), "{out}");
}

#[test]
fn r27_query_asks_the_next_server_and_tells_by_its_status_what_came() {
    let pki = Pki::new();
    let silent = DotServer::builder().identity(pki.server(&["upstream.test"])).stage(Stage::CloseAfterClientHello);
    let (silent, server) = (silent.start(), DotServer::start(pki.server(&["upstream.test"])));
    let config = config_of(&[named(&silent), named(&server)], Some(pki.ca_file()), HURRIED);
    let config = file(&pki, "two.toml", &config);
    for (rcode, words, wanted) in [(0, "NOERROR; ", 0), (3, "NXDOMAIN; ", 0), (2, "SERVFAIL; ", 1), (5, "REFUSED; ", 1)]
    {
        server.set_script(move |received| vec![Act::Answer(answer_to(&received.message).rcode(rcode).build())]);
        let (status, out, error) = ask(&["a.test", "--config", word(&config)]);
        assert_eq!((status, error.as_str()), (Some(wanted), ""), "{out}");
        assert!(out.starts_with(words) && out.contains(&format!("server {}", place(&server))), "{out}");
    }
    server.set_script(|_| vec![Act::Silence]);
    let (status, out, error) = ask(&["a.test", "--config", word(&config)]);
    assert_eq!(status, Some(1), "{out}");
    assert!(out.contains("  authenticated\n") && out.contains("no answer within "), "{out}");
    assert!(error.contains(&format!("{}: tls handshake: ", place(&silent))), "{error}");
    assert!(error.contains(&format!("{}: no answer within ", place(&server))), "{error}");
    // an answer to another question is none
    server.set_script(|received| {
        vec![
            Act::Answer(default_answer(&query(0, "b.test", 1))),
            Act::Answer({
                let mut other = default_answer(&received.message);
                other[13] ^= 1;
                other
            }),
        ]
    });
    assert_eq!(ask(&["a.test", "--config", word(&config)]).0, Some(1));
}

#[test]
fn r27_query_refuses_words_that_it_cannot_use() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let (place, missing) = (place(&server), pki.directory().join("missing.pem"));
    for (words, said) in [
        (&["a..test", "--server", &place][..], "is no name"),
        (&["a.test", "AAAAA", "--server", &place], "give a mnemonic such as AAAA"),
        (&["a.test", "AXFR", "--server", &place], "a transfer is more than one answer"),
        (&["a.test", "TYPE41", "--server", &place], "no name has records of this type"),
        (&["a.test", "--server", "192.0.2.1#bad name"], "--server: "),
        (&["a.test", "--server", "plain:192.0.2.1"], "--server: "),
        (&["a.test", "--server", &place, "--ca-file", word(&missing)], "missing.pem"),
        (&["a.test", "--config", word(&missing)], "missing.pem"),
    ] {
        let (status, out, error) = ask(words);
        assert_eq!((status, out.as_str()), (Some(78), ""), "{words:?}: {error}");
        assert!(error.contains(said), "{words:?}: {error}");
    }
    assert_eq!(ask(&[]).0, Some(2));
    assert!(server.journal().messages.is_empty());
}
