//! Answers that outlive the process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use testkit::proxy_process::Signal;
use testkit::{DotServer, Pki, Proxy, UdpClient, config_for, inspect, query};

use super::control::report;
use crate::conformance::bench::binary;

const PATIENCE: Duration = Duration::from_secs(10);

/// A resolver, and a state directory that whoever serves may write to.
struct Place {
    pki: Pki,
    server: DotServer,
    state: PathBuf,
}

impl Place {
    fn new() -> Place {
        let pki = Pki::new();
        let server = DotServer::start(pki.server(&["upstream.test"]));
        let state = pki.directory().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        Place { pki, server, state }
    }

    fn proxy(&self, cache: &str) -> Proxy {
        let config = config_for(&[(self.server.address(), "upstream.test")], self.pki.ca_file());
        let config = config.replace("size = \"0\"", cache);
        Proxy::builder(binary()).config(&config).env("STATE_DIRECTORY", self.state.to_str().unwrap()).start()
    }

    fn messages(&self) -> usize {
        self.server.with_journal(|journal| journal.messages.len())
    }
}

fn ask(proxy: &Proxy, name: &str) {
    let answer = UdpClient::connect(proxy.address()).ask(&query(7, name, 1)).expect("an answer");
    assert_eq!(inspect::rcode(&answer), 0);
}

fn stop(mut proxy: Proxy) -> String {
    proxy.signal(Signal::SIGTERM);
    proxy.wait_exit(PATIENCE).expect("an orderly stop");
    proxy.log()
}

#[test]
fn answers_outlive_an_orderly_stop_if_that_is_asked_for() {
    let place = Place::new();
    for (cache, asked) in [("", 2), ("persist = true", 3), ("persist = true", 3)] {
        let proxy = place.proxy(cache);
        ask(&proxy, "www.test");
        if cache.is_empty() {
            stop(proxy);
            assert!(fs::read_dir(&place.state).unwrap().all(|file| file.unwrap().file_name() != "cache"));
            ask(&place.proxy(cache), "www.test");
        } else {
            stop(proxy);
        }
        assert_eq!(place.messages(), asked, "{cache}");
    }
    let mode = fs::metadata(place.state.join("cache")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_that_is_damaged_or_of_others_is_left_alone_with_one_line() {
    let place = Place::new();
    let proxy = place.proxy("persist = true");
    ask(&proxy, "www.test");
    stop(proxy);
    let file = place.state.join("cache");
    let whole = fs::read(&file).unwrap();
    let bent: Vec<u8> = whole.iter().enumerate().map(|(at, byte)| if at == 60 { byte ^ 1 } else { *byte }).collect();
    for (content, why) in [(bent, "damaged"), (whole[..whole.len() - 9].to_vec(), "damaged"), (vec![0; 100], "version")]
    {
        fs::write(&file, content).unwrap();
        let proxy = place.proxy("persist = true");
        let before = place.messages();
        ask(&proxy, "www.test");
        assert_eq!(place.messages(), before + 1);
        // what is bent is not written again before its reader has gone
        let log = stop(proxy);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("no answers are taken from it")).collect();
        assert!(lines.len() == 1 && lines[0].contains(why), "{log}");
    }
    fs::write(&file, &whole).unwrap();
    // another view: a switch that changes what resolvers are asked
    let proxy = place.proxy("persist = true\n[privacy]\npadding = true");
    assert!(proxy.log().contains("other resolvers are asked now than then"), "{}", proxy.log());
}

#[test]
fn what_is_forgotten_is_in_the_file_no_more() {
    let place = Place::new();
    let proxy = place.proxy("persist = true");
    ["secret0.test", "secret1.test"].iter().for_each(|name| ask(&proxy, name));
    stop(proxy);
    let file = place.state.join("cache");
    let has = |name: &[u8]| fs::read(&file).unwrap().windows(name.len()).any(|octets| octets == name);
    assert!(has(b"secret0") && has(b"secret1"));
    let mut proxy = place.proxy("persist = true");
    let output = Command::new(binary()).arg("flush").arg("--socket").arg(proxy.control_socket()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2 answers forgotten\n");
    assert!(!has(b"secret0") && !has(b"secret1"));
    // nor does it come back when there is no orderly stop
    proxy.signal(Signal::SIGKILL);
    proxy.wait_exit(PATIENCE);
    let before = place.messages();
    ask(&place.proxy("persist = true"), "secret0.test");
    assert_eq!(place.messages(), before + 1);
}

#[test]
fn what_is_no_file_keeps_nobody_waiting_and_is_not_written_to() {
    let place = Place::new();
    let (file, precious) = (place.state.join("cache"), place.state.join("precious"));
    // whoever serves is somebody else
    let open_to_all = |path: &PathBuf| fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    open_to_all(&file);
    let log = |proxy: Proxy| {
        ask(&proxy, "www.test");
        stop(proxy)
    };
    let said = log(place.proxy("persist = true"));
    assert!(said.contains("no answers are taken from it"), "{said}");
    fs::remove_file(&file).unwrap();
    fs::write(&precious, "precious").unwrap();
    open_to_all(&precious);
    std::os::unix::fs::symlink(&precious, &file).unwrap();
    let said = log(place.proxy("persist = true"));
    assert!(said.contains("no answers are taken from it"), "{said}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn the_report_shows_what_is_held_and_a_command_empties_it() {
    let place = Place::new();
    let proxy = place.proxy("size = \"2MiB\"");
    for name in ["a.test", "b.test", "x.a.test"] {
        ask(&proxy, name);
        ask(&proxy, name);
    }
    let said = report(&proxy);
    let memory = &said["memory"];
    assert_eq!((memory["answers"].as_u64(), memory["limit"].as_u64()), (Some(3), Some(2 << 20)));
    assert!((100..1000).contains(&memory["octets"].as_u64().unwrap()), "{memory}");
    assert_eq!(said["counters"]["cache_hits"].as_u64(), Some(3));
    let flush = |words: &[&str]| {
        let output =
            Command::new(binary()).arg("flush").args(words).arg("--socket").arg(proxy.control_socket()).output();
        let output = output.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (is_done, _, why) = flush(&["a..test"]);
    assert!(!is_done && why.contains("a..test"), "{why}");
    assert_eq!(flush(&["a.test", "--below"]).1, "2 answers forgotten\n");
    assert_eq!(flush(&["."]).1, "0 answers forgotten\n");
    assert_eq!(flush(&[]).1, "1 answers forgotten\n");
    assert_eq!(report(&proxy)["memory"]["answers"].as_u64(), Some(0));
}
