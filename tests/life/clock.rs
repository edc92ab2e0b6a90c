//! A clock that is wrong at boot: the real binary believes that it is 1970.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use testkit::pki::Certificate;
use testkit::proxy_process::Signal;
use testkit::{DotServer, Pki, Proxy, query};

use crate::conformance::bench::binary;
use crate::conformance::namespace::skipped;
use crate::conformance::resolvers::{LONG, SERVFAIL, config_of, named, rcode_of};

/// The library that lies about the time, if it is installed.
fn liar() -> Option<PathBuf> {
    let library = |folder: fs::DirEntry| folder.path().join("faketime/libfaketime.so.1");
    let found = fs::read_dir("/usr/lib").unwrap().flatten().map(library).find(|library| library.exists());
    if found.is_none() {
        skipped("needs faketime");
    }
    found
}

/// A resolver with this certificate, and a proxy before it whose clock starts in 1970 if there is a liar.
fn proxy_with(pki: &Pki, server: &DotServer, liar: Option<&PathBuf>, state: Option<&PathBuf>) -> Proxy {
    let lines = "deadline = \"2s\"\nconnect-timeout = \"1500ms\"";
    let mut proxy = Proxy::builder(binary()).config(&config_of(&[named(server)], Some(pki.ca_file()), lines));
    if let Some(library) = liar {
        proxy = proxy.env("LD_PRELOAD", library.to_str().unwrap());
        proxy = proxy.env("FAKETIME", "@1970-01-02 00:00:00").env("TZ", "UTC").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    if let Some(folder) = state {
        proxy = proxy.env("STATE_DIRECTORY", folder.to_str().unwrap());
    }
    proxy.start()
}

fn server_of(pki: &Pki, certificate: &Certificate) -> DotServer {
    DotServer::start(pki.issue(certificate))
}

fn certificate() -> Certificate {
    Certificate::for_names(&["upstream.test"])
}

/// A state directory that whoever serves may write to.
fn state_directory(pki: &Pki) -> PathBuf {
    let folder = pki.directory().join("state");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

#[test]
fn r35_a_clock_at_1970_does_not_stop_resolution() {
    let Some(liar) = liar() else { return };
    let pki = Pki::new();
    let server = server_of(&pki, &certificate().valid_for_long());
    let proxy = proxy_with(&pki, &server, Some(&liar), None);
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), 0, "{}", proxy.log());
    server.close_all(testkit::How::Rst);
    server.forget_sessions();
    assert_eq!(rcode_of(&proxy, &query(2, "b.test", 1)), 0, "{}", proxy.log());
    let said = "warning: the clock says 1970-01-02T00:00:";
    assert_eq!(proxy.log().lines().filter(|line| line.contains(said)).count(), 1, "said once:\n{}", proxy.log());
}

#[test]
fn r35_all_else_is_as_strict_as_with_a_right_clock() {
    let Some(liar) = liar() else { return };
    let pki = Pki::new();
    let wrong = [
        Certificate::for_names(&["other.test"]).valid_for_long(),
        certificate().valid_for_long().self_signed(),
        certificate().long_expired(),
        certificate().not_yet_valid(),
    ];
    for certificate in wrong {
        let server = server_of(&pki, &certificate);
        let proxy = proxy_with(&pki, &server, Some(&liar), None);
        assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), SERVFAIL, "{certificate:?}\n{}", proxy.log());
        assert_eq!(server.with_journal(|journal| journal.messages.len()), 0);
    }
}

#[test]
fn r35_a_time_that_was_good_once_serves_the_next_start() {
    let Some(liar) = liar() else { return };
    let pki = Pki::new();
    let (folder, server) = (state_directory(&pki), server_of(&pki, &certificate().valid_for_long()));
    let mut proxy = proxy_with(&pki, &server, None, Some(&folder));
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), 0);
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.wait_exit(Duration::from_secs(10)).is_some_and(|status| status.success()), "{}", proxy.log());
    let file = folder.join("last-good-time");
    let written = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}\n{}", proxy.log()));
    assert!(written.starts_with("20") && written.ends_with("Z\n"), "{written:?}");
    // issued after the program was built, and before that time
    let renewed = server_of(&pki, &certificate());
    let proxy = proxy_with(&pki, &renewed, Some(&liar), Some(&folder));
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), 0, "{}", proxy.log());
    let day = &written[..10];
    assert!(proxy.wait_for_log(&format!("certificates are judged as of {day}T"), LONG), "{}", proxy.log());
    // issued after that time
    let later = server_of(&pki, &certificate().not_yet_valid());
    let proxy = proxy_with(&pki, &later, Some(&liar), Some(&folder));
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), SERVFAIL, "{}", proxy.log());
    assert_eq!(fs::read_to_string(&file).unwrap(), written, "a wrong clock is not written down");
}

#[test]
fn r35_a_remembered_time_from_a_clock_that_ran_ahead_refuses_nothing() {
    let pki = Pki::new();
    let (folder, server) = (state_directory(&pki), server_of(&pki, &certificate()));
    fs::write(folder.join("last-good-time"), "2099-01-01T00:00:00Z\n").unwrap();
    let proxy = proxy_with(&pki, &server, None, Some(&folder));
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), 0, "{}", proxy.log());
}
