//! Outages: nothing answers, and then it does again.

use std::thread;
use std::time::{Duration, Instant};

use testkit::{DotServer, How, Pki, Stage, UdpClient, inspect, query};

use super::stand::{Asked, ask_steadily, counted, files_at_rest, quickest};
use crate::conformance::resolvers::{SERVFAIL, config_of, named, proxy_before, rcode_of, start};

/// How long the first query takes after an outage of this length, in which some were asked.
fn first_after(outage: Duration) -> Duration {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let servers = [DotServer::start(identity.clone()), DotServer::start(identity)];
    let proxy = proxy_before(&[&servers[0], &servers[1]], pki.ca_file(), "deadline = \"2s\"");
    assert_eq!(rcode_of(&proxy, &query(1, "before.test", 1)), 0);
    for server in &servers {
        server.set_stage(Stage::BlackHoleSyn);
        server.freeze_existing();
    }
    let client = UdpClient::connect(proxy.address());
    let begun = Instant::now();
    for number in 0.. {
        if begun.elapsed() >= outage {
            break;
        }
        client.send(&query(number, &format!("meanwhile{number}.test"), 1));
        thread::sleep(Duration::from_millis(100));
    }
    servers.iter().for_each(|server| server.set_stage(Stage::Normal));
    let begun = Instant::now();
    assert_eq!(rcode_of(&proxy, &query(2, "after.test", 1)), 0, "{}", proxy.log());
    begun.elapsed()
}

/// The path to all servers dies and comes back without any word of it. The outages end at different moments of the
/// attempts that are made meanwhile. Ten minutes of it: `cargo xtask soak --only r01`.
#[test]
fn r01_a_path_that_comes_back_unannounced_serves_the_next_query_within_a_second() {
    thread::scope(|scope| {
        for outage in [4000, 4300, 4600, 4900].map(Duration::from_millis) {
            scope.spawn(move || {
                // a second, a handshake
                let bound = Duration::from_millis(1100);
                let took = quickest(bound, || first_after(outage));
                assert!(took <= bound, "after {outage:?}: {took:?}");
            });
        }
    });
}

/// The servers let connections come about and say nothing in the handshake, so that each attempt takes its whole time.
#[test]
fn r03_a_query_while_all_is_down_makes_one_attempt_at_a_time_and_nothing_else_does() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let silent = || DotServer::builder().identity(identity.clone()).stage(Stage::AcceptThenSilence).start();
    let servers = [silent(), silent()];
    let lines = "deadline = \"1500ms\"\nconnect-timeout = \"400ms\"\nsecond-try-after = \"1s\"";
    let config = config_of(&[named(&servers[0]), named(&servers[1])], Some(pki.ca_file()), lines);
    let proxy = start(&config.replace("workers = 1", "workers = 2"));
    let files = files_at_rest(&proxy);
    let accepted = || servers.each_ref().map(|server| server.with_journal(testkit::Journal::accepted));
    // until both have failed several times
    let (mut most, mut number) = (0, 0);
    let clients: Vec<UdpClient> = (0..8).map(|_| UdpClient::connect(proxy.address())).collect();
    let begun = Instant::now();
    while accepted().iter().any(|count| *count < 4) {
        assert!(begun.elapsed() < Duration::from_secs(15), "{}", proxy.log());
        for client in &clients {
            client.send(&query(number, &format!("n{number}.test"), 1));
            number += 1;
        }
        for _ in 0..10 {
            most = most.max(proxy.open_files());
            thread::sleep(Duration::from_millis(5));
        }
    }
    assert!(most <= files + servers.len(), "{} attempts at once at {} addresses", most - files, servers.len());
    // what was asked has its reply, and from then on nobody is tried, however long the rests are
    thread::sleep(Duration::from_millis(2500));
    let before = accepted();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(accepted(), before, "attempts that nobody asked for:\n{}", proxy.log());
    let answer = UdpClient::connect(proxy.address()).ask(&query(1, "down.test", 1)).expect("a reply");
    assert_eq!(inspect::rcode(&answer), SERVFAIL);
    let tried: usize = accepted().iter().sum::<usize>() - before.iter().sum::<usize>();
    assert!((1..=4).contains(&tried), "{tried} attempts for one query:\n{}", proxy.log());
    servers.iter().for_each(|server| server.set_stage(Stage::Normal));
    assert_eq!(rcode_of(&proxy, &query(2, "up.test", 1)), 0, "{}", proxy.log());
}

/// A server that is restarted refuses connections for a moment. Its clients need not wait for it longer than that.
#[test]
fn r02_a_server_that_refuses_for_a_moment_is_found_as_soon_as_it_listens() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let proxy = proxy_before(&[&server], pki.ca_file(), "");
    assert_eq!(rcode_of(&proxy, &query(1, "before.test", 1)), 0);
    server.go_down(How::Rst);
    let begun = Instant::now();
    let asked = thread::scope(|scope| {
        let asked = scope.spawn(|| ask_steadily(proxy.address(), "meanwhile", 100, Duration::from_secs(2)));
        while begun.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(5));
        }
        server.restart();
        asked.join().unwrap()
    });
    assert!(asked.iter().all(Asked::is_answered), "{}", proxy.log());
    let refused = counted(&proxy, 0, "connect_failures");
    // on this machine one is due every 2 ms, as far as somebody asks
    assert!((15..=500).contains(&refused), "{refused} attempts in a second");
}

/// Two hours are ten seconds here, after an outage that is not counted: what one needs once is there. The whole of it:
/// `cargo xtask soak --only r34`.
#[test]
fn r34_an_outage_under_load_leaves_memory_as_it_was() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let servers = [DotServer::start(identity.clone()), DotServer::start(identity)];
    let lines = "deadline = \"2s\"";
    let proxy = proxy_before(&[&servers[0], &servers[1]], pki.ca_file(), lines);
    let outage = |prefix: &str, time: Duration| {
        servers.iter().for_each(|server| server.go_down(How::Rst));
        let asked = ask_steadily(proxy.address(), prefix, 200, time);
        assert!(asked.iter().all(|one| matches!(one.answer, Some((_, SERVFAIL)))), "every query has a reply");
        servers.iter().for_each(DotServer::restart);
        let begun = Instant::now();
        while rcode_of(&proxy, &query(1, &format!("{prefix}.up.test"), 1)) == SERVFAIL {
            assert!(begun.elapsed() < Duration::from_secs(5), "{}", proxy.log());
        }
        let after = ask_steadily(proxy.address(), &format!("after-{prefix}"), 200, Duration::from_secs(1));
        assert!(after.iter().all(Asked::is_answered), "{}", proxy.log());
    };
    outage("short", Duration::from_secs(4));
    let before = proxy.rss_kib();
    outage("long", Duration::from_secs(10));
    let after = proxy.rss_kib();
    assert!(after * 10 <= before * 11, "from {before} to {after} KiB");
}
