//! More than can be done at once: bounds hold, and when it is over all is as before.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use testkit::journal::Handshake;
use testkit::proxy_process::Signal;
use testkit::{Act, DotServer, Journal, MessageBuilder, Opt, Pki, Stage, UdpClient, inspect, query};

use super::stand::{Asked, LATEST, Over, ask_steadily, files_at_rest};
use crate::conformance::bench::Bench;
use crate::conformance::resolvers::{SERVFAIL, config_of, named, proxy_before, rcode_of, start};
use crate::life::control::report;

/// The server takes queries and never answers, so that connections are given up one after the other while queries still
/// hold on to the old ones.
#[test]
fn r12_connections_and_files_stay_below_the_cap_whatever_is_asked_of_a_dead_server() {
    const CAP: usize = 3;
    let pki = Pki::new();
    let dead = DotServer::builder().identity(pki.server(&["upstream.test"])).script(|_| vec![Act::Silence]).start();
    let lines = format!("connections = {CAP}\nsecond-try-after = \"100ms\"\nin-flight = 1000\nqueue = 1000");
    let proxy = proxy_before(&[&dead], pki.ca_file(), &lines);
    let (files, over) = (files_at_rest(&proxy), AtomicBool::new(false));
    let (mut most_files, mut most_open) = (0, 0);
    let sent = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let clients: Vec<UdpClient> = (0..16).map(|_| UdpClient::connect(proxy.address())).collect();
            let mut sent = 0_u16;
            while !over.load(Relaxed) {
                for client in &clients {
                    client.send(&query(sent, &format!("load{sent}.test"), 1));
                    sent = sent.wrapping_add(1);
                }
                // 10,000 a second
                thread::sleep(Duration::from_micros(1600));
            }
            sent
        });
        let loading = Over(&over);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            most_files = most_files.max(proxy.open_files());
            most_open = most_open
                .max(dead.with_journal(|journal| journal.connections.iter().filter(|one| one.is_alive()).count()));
            thread::sleep(Duration::from_millis(20));
        }
        drop(loading);
        load.join().unwrap()
    });
    assert!(sent > 5000, "only {sent} queries");
    assert!(dead.with_journal(Journal::accepted) > 1, "no connection was given up: the cap was never near");
    assert!(most_open <= CAP, "{most_open} connections at once");
    assert!(most_files <= files + CAP, "{most_files} files open, {files} at the start");
    // and the end of it is the end of it
    dead.set_default_script();
    let begun = Instant::now();
    while rcode_of(&proxy, &query(1, "awake.test", 1)) == SERVFAIL {
        assert!(begun.elapsed() < Duration::from_secs(5), "{}", proxy.log());
    }
}

/// A burst from many clients at a cold start, with as many workers as there are by default on a large machine.
#[test]
fn r13_a_cold_start_makes_one_connection_at_a_time_however_many_ask() {
    let pki = Pki::new();
    let slow = Stage::HandshakeDelay(Duration::from_millis(300));
    let server = DotServer::builder().identity(pki.server(&["upstream.test"])).stage(slow).start();
    let config = config_of(&[named(&server)], Some(pki.ca_file()), "").replace("workers = 1", "workers = 4");
    let proxy = start(&config);
    let clients: Vec<UdpClient> = (0..500).map(|_| UdpClient::connect(proxy.address())).collect();
    for (number, client) in (0..).zip(&clients) {
        client.send(&query(number, &format!("n{number}.test"), 1));
    }
    for (number, client) in clients.iter().enumerate() {
        let answer = client.recv(LATEST).unwrap_or_else(|| panic!("no answer to {number}"));
        assert_eq!(inspect::rcode(&answer), 0, "{}", proxy.log());
    }
    let journal = server.journal();
    assert!(journal.accepted() <= 2, "{} connections", journal.accepted());
    // each began when the one before it was made
    for pair in journal.connections.windows(2) {
        let Handshake::Done { at, .. } = pair[0].handshake else { panic!("{:?}", pair[0].handshake) };
        assert!(pair[1].accepted >= at - Duration::from_millis(20), "two handshakes at once:\n{}", proxy.log());
    }
    assert_eq!(journal.messages.len(), 500, "something was asked twice");
}

/// The process gets a tenth of the time, in slices, as under a quota. 60 seconds are four here.
#[test]
fn r14_after_a_lack_of_processor_time_all_is_well_within_seconds() {
    let bench = Bench::start();
    let (proxy, server) = (&bench.proxy, &bench.server);
    assert_eq!(rcode_of(proxy, &query(1, "warm.test", 1)), 0);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                proxy.signal(Signal::SIGSTOP);
                thread::sleep(Duration::from_millis(180));
                proxy.signal(Signal::SIGCONT);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let throttling = Over(&over);
        let throttled = ask_steadily(proxy.address(), "throttled", 200, Duration::from_secs(4));
        drop(throttling);
        assert!(throttled.iter().filter(|one| one.is_answered()).count() > throttled.len() / 2, "{}", proxy.log());
    });
    let begun = Instant::now();
    loop {
        let asked = ask_steadily(proxy.address(), "released", 200, Duration::from_millis(500));
        let slow = |one: &Asked| !matches!(one.answer, Some((took, 0)) if took < Duration::from_millis(500));
        if !asked.iter().any(slow) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{}", proxy.log());
    }
    // bounded: fewer than one a second, where every query could have made one
    let handshakes = server.with_journal(Journal::accepted);
    assert!(handshakes <= 8, "{handshakes} handshakes:\n{}", proxy.log());
}

/// Sixteen queries have a place, ten times as many come. (Memory: `c081_r33_...`.)
#[test]
fn r33_what_is_too_much_is_told_at_once_and_counted() {
    const PLACES: usize = 16;
    let pki = Pki::new();
    let dead = DotServer::builder().identity(pki.server(&["upstream.test"])).script(|_| vec![Act::Silence]).start();
    let lines = "deadline = \"3s\"\nin-flight = 8\nqueue = 8";
    let proxy = proxy_before(&[&dead], pki.ca_file(), lines);
    let clients: Vec<UdpClient> = (0..10 * PLACES).map(|_| UdpClient::connect(proxy.address())).collect();
    let begun = Instant::now();
    for (number, client) in (0..).zip(&clients) {
        client.send(&MessageBuilder::query(number, &format!("n{number}.test"), 1).opt(Opt::new(1232)).build());
    }
    // the last ones first: those with a place wait three seconds for theirs
    let mut at_once = 0;
    for client in clients.iter().rev() {
        let answer = client.recv(LATEST).expect("a reply");
        assert_eq!(inspect::rcode(&answer), SERVFAIL);
        assert!(matches!(inspect::ede(&answer), Some(22 | 23)), "{:?}", inspect::ede(&answer));
        at_once += usize::from(begun.elapsed() < Duration::from_secs(2));
    }
    assert!(at_once >= 8 * PLACES, "{at_once} were told at once");
    let report = report(&proxy);
    assert_eq!(report["counters"]["failures"], 10 * PLACES as u64);
}
