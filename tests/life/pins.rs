//! The command `pins`: what a server presents, without a query.

use std::path::Path;
use std::process::Command;

use testkit::{Certificate, DotServer, Identity, Pki, Stage, UdpClient, query};

use crate::conformance::bench::binary;
use crate::conformance::resolvers::{config_of, start};

/// Exit status, standard output and standard error of `dot-proxy pins`.
fn pins(server: &str, ca_file: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(binary()).args(["pins", server, "--ca-file"]).arg(ca_file).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn r27_pins_shows_what_the_server_presents_and_a_line_that_the_service_takes() {
    let pki = Pki::new();
    let right = Certificate::for_names(&["upstream.test"]).via_intermediate(true);
    let identities: [(Identity, &str, usize); 3] = [
        (pki.issue(&right), "vouches for the name upstream.test", 2),
        (
            pki.issue(&Certificate::for_names(&["other.test"]).self_signed()),
            "does not vouch for the name upstream.test: ",
            1,
        ),
        (pki.server(&["other.test"]), "wrong name: the certificate is for other.test, and not for upstream.test", 1),
    ];
    for (identity, said, length) in identities {
        let pin = identity.spki_pin();
        let server = DotServer::start(identity);
        let place = format!("{}#upstream.test", server.address());
        let (status, out, error) = pins(&place, pki.ca_file());
        assert_eq!((status, error.as_str()), (Some(0), ""), "{out}");
        assert!(out.contains(said) && out.contains("prove nothing"), "{out}");
        assert!(out.contains(&format!("     pin {pin}\n")), "{pin}\n{out}");
        assert_eq!(out.matches("     pin ").count(), length, "{out}");
        let line = out.lines().find(|line| line.contains("servers = [")).unwrap().trim();
        assert!(line.contains(&format!("pins = [\"{pin}\"]")) && line.contains("name = \"upstream.test\""), "{line}");
        assert!(server.journal().messages.is_empty(), "a query was sent");
        if !out.contains("does not vouch") {
            let entry = line.strip_prefix("servers = [").unwrap().strip_suffix(']').unwrap();
            let proxy = start(&config_of(&[entry.to_owned()], Some(pki.ca_file()), ""));
            assert!(UdpClient::connect(proxy.address()).ask(&query(1, "who.test", 1)).is_some());
            assert_eq!(server.journal().messages.len(), 1);
        }
    }
}

#[test]
fn r27_pins_says_why_there_is_nothing_to_show() {
    let pki = Pki::new();
    let server = DotServer::builder().identity(pki.server(&["a.test"])).stage(Stage::CloseAfterClientHello).start();
    let (status, out, error) = pins(&server.address().to_string(), pki.ca_file());
    assert_eq!((status, out.as_str()), (Some(1), ""), "{error}");
    assert!(error.contains("tls handshake: "), "{error}");
    for bad in ["upstream.test", "plain:192.0.2.1", "192.0.2.1,192.0.2.2"] {
        let (status, out, error) = pins(bad, pki.ca_file());
        assert_eq!((status, out.as_str()), (Some(78), ""), "{error}");
        assert!(error.contains("address[:port][#name]"), "{error}");
    }
    assert_eq!(pins("192.0.2.1", &pki.directory().join("missing.pem")).0, Some(78));
}
