//! The control socket: what the commands show, with which exit status, and who may ask.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use testkit::proxy_process::Signal;
use testkit::{Pki, Proxy, UdpClient, config_for, query};

use crate::conformance::bench::{Bench, binary};

fn command(proxy: &Proxy, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(binary()).args(arguments).arg("--socket").arg(proxy.control_socket()).output().unwrap();
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

/// What `dot-proxy status` says.
pub(crate) fn status(proxy: &Proxy) -> (i32, String) {
    command(proxy, &["status"])
}

/// What `dot-proxy status --json` says.
pub(crate) fn report(proxy: &Proxy) -> serde_json::Value {
    serde_json::from_str(&command(proxy, &["status", "--json"]).1).unwrap()
}

/// What `dot-proxy reload` says.
pub(crate) fn ask_reload(proxy: &Proxy) -> (i32, String) {
    command(proxy, &["reload"])
}

#[test]
fn status_shows_what_an_administrator_asks_for() {
    let bench = Bench::start();
    assert!(UdpClient::connect(bench.proxy.address()).ask(&query(1, "www.test", 1)).is_some());
    let (code, said) = status(&bench.proxy);
    assert_eq!(code, 0, "{said}");
    let address = bench.proxy.address();
    for line in [
        &format!("dot-proxy {} serving, process {}, up ", env!("CARGO_PKG_VERSION"), bench.proxy.pid()),
        &format!("{address} (udp, tcp), own"),
        "0 capabilities, new privileges out of reach",
        "0: alive, answered in ",
        "#upstream.test: usable, 1 connections; verified: a certificate for the name upstream.test",
        &bench.proxy.config_file().display().to_string(),
        "udp_queries 1",
    ] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    let json = report(&bench.proxy);
    assert_eq!(json["state"], "serving");
    assert_eq!(json["pid"], bench.proxy.pid());
    assert_eq!(json["listeners"][0]["origin"], "own");
    assert_eq!(json["process"]["capabilities"], 0);
    assert_eq!(json["counters"]["udp_queries"], 1);
    assert_eq!(json["upstream"][0]["state"], "usable");
}

#[test]
fn a_service_without_a_usable_resolver_is_degraded_and_says_why() {
    let pki = Pki::new();
    // nobody listens there
    let config = config_for(&[("127.0.0.1:9".parse().unwrap(), "upstream.test")], pki.ca_file());
    let proxy = Proxy::builder(binary())
        .config(&config.replace(
            "[upstream]\n",
            "[upstream]\ndeadline = \"600ms\"\nconnect-timeout = \"300ms\"\nsecond-try-after = \"500ms\"\n",
        ))
        .start();
    assert_eq!(status(&proxy).0, 0, "nothing has failed yet");
    assert!(UdpClient::connect(proxy.address()).ask(&query(1, "www.test", 1)).is_some());
    let (code, said) = status(&proxy);
    assert_eq!(code, 1);
    assert!(said.contains("degraded") && said.contains("no resolver is usable"), "{said}");
    assert!(said.contains("no connection: tcp connect: Connection refused"), "{said}");
}

#[test]
fn a_service_that_does_not_run_is_status_3() {
    let mut bench = Bench::start();
    bench.proxy.signal(Signal::SIGTERM);
    assert!(bench.proxy.wait_exit(Duration::from_secs(10)).unwrap().success());
    let (code, said) = status(&bench.proxy);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("dot-proxy does not run"), "{said}");
    assert_eq!(ask_reload(&bench.proxy).0, 3);
}

#[test]
fn the_socket_is_for_user_and_group_alone() {
    let bench = Bench::start();
    let found = fs::metadata(bench.proxy.control_socket()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
}

#[test]
fn nonsense_is_refused_and_harms_nobody() {
    let bench = Bench::start();
    let connect = || UnixStream::connect(bench.proxy.control_socket()).unwrap();
    let said = |text: &[u8]| {
        let mut stream = connect();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // a long question may find its other end closed
        let _ = stream.write_all(text);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for text in ["statsu\n", "\"halt\"\n", "{\"status\":1}\n", "\n"] {
        assert!(said(text.as_bytes()).contains("not a question of this protocol"), "{text}");
    }
    said(&vec![b'x'; 100_000]);
    // those who say nothing take places, and others get theirs in the end
    let silent: Vec<UnixStream> = (0..9).map(|_| connect()).collect();
    assert_eq!(status(&bench.proxy).0, 0);
    drop(silent);
    assert!(UdpClient::connect(bench.proxy.address()).ask(&query(1, "www.test", 1)).is_some());
}

#[test]
fn a_socket_that_a_dead_process_left_is_replaced_and_a_living_one_is_not() {
    let mut bench = Bench::start();
    let socket = bench.proxy.control_socket();
    let config = config_for(&[(bench.server.address(), "upstream.test")], bench.pki.ca_file());
    let with = format!("{config}[control]\nsocket = \"{}\"\n", socket.display());
    let (code, said) = Proxy::builder(binary()).config(&with).start_expecting_failure();
    assert_eq!(code.code(), Some(1));
    assert!(said.contains("another process answers on it"), "{said}");
    bench.proxy.signal(Signal::SIGKILL);
    bench.proxy.wait_exit(Duration::from_secs(10)).unwrap();
    assert!(socket.exists());
    let _next = Proxy::builder(binary()).config(&with).start();
    assert_eq!(status(&bench.proxy).0, 0);
}
