//! Real clients of DNS over TLS before the proxy.

use std::path::PathBuf;

use testkit::{Proxy, a_for};

use super::programs::{available, command, output};
use crate::conformance::bench::{Bench, binary};
use crate::conformance::o_tls::{NAME, config_with_tls, tls_address, with_tls};

/// What a client program prints when it is asked with these arguments for this name.
fn asked(program: &str, bench: &Bench, arguments: &[&str], name: &str) -> String {
    let address = tls_address(&bench.proxy);
    let mut command = command(program);
    command.args([&format!("@{}", address.ip()), "-p", &address.port().to_string()]).args(arguments).arg(name);
    output(&mut command)
}

fn is_answered(said: &str, name: &str) {
    let [a, b, c, d] = a_for(name);
    assert!(said.contains("NOERROR") && said.contains(&format!("{a}.{b}.{c}.{d}")), "{said}");
}

#[test]
fn c135_c136_kdig_verifies_the_certificate_and_gets_padded_answers() {
    if !available(&["kdig"]) {
        return;
    }
    let bench = with_tls(|server| server, "");
    let trust = [format!("+tls-ca={}", bench.pki.ca_file().display()), format!("+tls-hostname={NAME}")];
    let said = asked("kdig", &bench, &["+tls", &trust[0], &trust[1], "+padding"], "kdig.test");
    is_answered(&said, "kdig.test");
    assert!(said.contains("TLS session (TLS1.3)") && said.contains("PADDING"), "{said}");
    assert!(said.contains("Received 468 B"), "{said}");
    let said =
        asked("kdig", &bench, &["+tls", &trust[0], &trust[1], "+keepopen", "one.test", "two.test"], "three.test");
    for name in ["one.test", "two.test", "three.test"] {
        is_answered(&said, name);
    }
}

#[test]
fn kdig_shows_the_certificate_that_is_asked_of_clients() {
    if !available(&["kdig"]) {
        return;
    }
    let bench = with_tls(|server| server, "");
    let line = format!("tls-client-ca = \"{}\"", bench.pki.ca_file().display());
    let proxy = Proxy::builder(binary()).config(&config_with_tls(&bench.pki, &bench.server, &line)).start();
    let bench = Bench { proxy, ..bench };
    let (certificate, key) = bench.pki.client("kdig.test").write_pem(bench.pki.directory(), "kdig");
    let option = |name: &str, path: &PathBuf| format!("+{name}={}", path.display());
    let own = [option("tls-certfile", &certificate), option("tls-keyfile", &key)];
    let trust = [format!("+tls-ca={}", bench.pki.ca_file().display()), format!("+tls-hostname={NAME}")];
    is_answered(
        &asked("kdig", &bench, &["+tls", &trust[0], &trust[1], &own[0], &own[1]], "mutual.test"),
        "mutual.test",
    );
    let address = tls_address(&bench.proxy);
    let mut stranger = command("kdig");
    stranger.args([
        &format!("@{}", address.ip()),
        "-p",
        &address.port().to_string(),
        "+tls",
        "+retry=0",
        "stranger.test",
    ]);
    assert!(!String::from_utf8_lossy(&stranger.output().unwrap().stdout).contains("NOERROR"));
    assert!(bench.server.journal().messages_named("stranger.test").is_empty());
}

#[test]
fn dig_asks_over_tls() {
    if !available(&["dig"]) {
        return;
    }
    let bench = with_tls(|server| server, "");
    let trust = [format!("+tls-ca={}", bench.pki.ca_file().display()), format!("+tls-hostname={NAME}")];
    is_answered(&asked("dig", &bench, &["+tls", &trust[0], &trust[1]], "dig.test"), "dig.test");
}

#[test]
fn c134_c135_openssl_resumes_its_sessions_and_gets_nothing_older_than_tls_1_2() {
    if !available(&["openssl"]) {
        return;
    }
    let bench = with_tls(|server| server, "");
    let address = tls_address(&bench.proxy).to_string();
    let client = |arguments: &[&str]| {
        let mut command = command("openssl");
        command.args(["s_client", "-connect", &address, "-servername", NAME, "-alpn", "dot", "-verify_return_error"]);
        command.arg("-CAfile").arg(bench.pki.ca_file()).args(arguments);
        command
    };
    let said = output(&mut client(&["-tls1_2", "-reconnect"]));
    assert_eq!((said.matches("Reused, TLSv1.2").count(), said.matches("New, TLSv1.2").count()), (5, 1), "{said}");
    let said = output(&mut client(&["-tls1_3"]));
    assert!(said.contains("ALPN protocol: dot") && said.contains("New, TLSv1.3"), "{said}");
    let old = client(&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).output().unwrap();
    assert!(!old.status.success() && String::from_utf8_lossy(&old.stderr).contains("alert"), "{old:?}");
    let other = client(&["-alpn", "h2"]).output().unwrap();
    assert!(String::from_utf8_lossy(&other.stderr).contains("no application protocol"), "{other:?}");
}
