//! Every query ends in time, and what one server cannot do another does.

use std::thread;
use std::time::{Duration, Instant};

use testkit::{
    Act, DotServer, How, Identity, MessageBuilder, Opt, Pki, Proxy, Stage, UdpClient, answer_to, default_answer,
    inspect, query,
};

use super::stand::{counted, quickest};
use crate::conformance::namespace::in_namespace;
use crate::conformance::resolvers::{SERVFAIL, config_of, named, proxy_before, rcode_of, start};
use crate::life::control::report;

const REFUSED: u16 = 5;

/// How long a query takes that is answered.
fn time_of(proxy: &Proxy, name: &str) -> Duration {
    let begun = Instant::now();
    assert_eq!(rcode_of(proxy, &query(1, name, 1)), 0, "{name}:\n{}", proxy.log());
    begun.elapsed()
}

#[test]
fn r17_the_first_query_passes_a_black_hole_within_half_a_second() {
    let bound = Duration::from_millis(500);
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    for stage in [Stage::BlackHoleSyn, Stage::AcceptThenSilence, Stage::SilenceAfterServerHello] {
        let dead = DotServer::builder().identity(identity.clone()).stage(stage).start();
        let good = DotServer::start(identity.clone());
        let took = quickest(bound, || time_of(&proxy_before(&[&dead, &good], pki.ca_file(), ""), "first.test"));
        assert!(took <= bound, "{stage:?}: {took:?}");
    }
}

/// A machine with one family of addresses only. Servers of the other one cannot be reached, which is known at once.
#[test]
fn r18_servers_of_a_family_that_is_not_there_are_passed_at_once_and_not_tried_again_and_again() {
    in_namespace(&[], || {
        let pki = Pki::new();
        let identity = pki.server(&["upstream.test"]);
        for (missing, here) in [("[2001:db8::53]:853", "127.0.0.1:0"), ("192.0.2.53:853", "[::1]:0")] {
            let good = DotServer::builder().identity(identity.clone()).listen(here).start();
            let entries = [format!("\"{missing}#upstream.test\""), named(&good)];
            let config = config_of(&entries, Some(pki.ca_file()), "");
            // less than the time after which a second server is tried beside a slow one
            let bound = Duration::from_millis(200);
            let took = quickest(bound, || time_of(&start(&config), "first.test"));
            assert!(took <= bound, "{missing}: {took:?}");
            let proxy = start(&config);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(2) {
                time_of(&proxy, "again.test");
                thread::sleep(Duration::from_millis(20));
            }
            let report = report(&proxy);
            let (missing, good) = (&report["upstream"][0], &report["upstream"][1]);
            let why = missing["last_failure"]["why"].as_str().unwrap();
            assert!(why.contains("Network is unreachable"), "{why}");
            assert!(counted(&proxy, 0, "connect_failures") <= 5, "{report:#}");
            assert_eq!((good["state"].as_str(), good["last_failure"].is_null()), (Some("usable"), true), "{report:#}");
        }
    });
}

/// One family is there and leads nowhere: the other one begins a quarter of a second later.
#[test]
fn r18_a_family_that_leads_nowhere_does_not_hold_up_the_other() {
    in_namespace(&[], || {
        let pki = Pki::new();
        let identity = pki.server(&["upstream.test"]);
        for (dead, good) in [("[::1]:0", "127.0.0.1:0"), ("127.0.0.1:0", "[::1]:0")] {
            let dead = DotServer::builder().identity(identity.clone()).listen(dead).stage(Stage::BlackHoleSyn).start();
            let good = DotServer::builder().identity(identity.clone()).listen(good).start();
            let bound = Duration::from_millis(500);
            let took = quickest(bound, || time_of(&proxy_before(&[&dead, &good], pki.ca_file(), ""), "first.test"));
            assert!(took <= bound && took >= Duration::from_millis(250), "{took:?}");
        }
    });
}

/// A server that gives every query this RCODE, perhaps with an extended error.
fn failing(identity: &Identity, rcode: u16, error: Option<u16>) -> DotServer {
    let script = move |received: &testkit::Received| {
        let answer = answer_to(&received.message).rcode(rcode);
        let opt = error.map_or(Opt::new(1232), |code| Opt::new(1232).option(15, &code.to_be_bytes()));
        vec![Act::Answer(answer.opt(opt).build())]
    };
    DotServer::builder().identity(identity.clone()).script(script).start()
}

#[test]
fn r20_a_server_that_fails_or_refuses_is_bettered_once_by_another() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    for rcode in [SERVFAIL, REFUSED] {
        let (first, second) = (failing(&identity, rcode, None), DotServer::start(identity.clone()));
        let proxy = proxy_before(&[&first, &second], pki.ca_file(), "");
        for number in 0..20 {
            assert_eq!(rcode_of(&proxy, &query(number, &format!("n{number}.test"), 1)), 0, "{rcode}");
        }
        assert_eq!((first.journal().messages.len(), second.journal().messages.len()), (20, 20));
        assert_eq!(counted(&proxy, 1, "second_opinions"), 20);
    }
}

#[test]
fn r20_no_third_server_is_asked_and_no_judgement_is_questioned() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let third = DotServer::start(identity.clone());
    for (error, copies) in [(None, 1), (Some(22), 1), (Some(6), 0), (Some(15), 0)] {
        let (first, second) = (failing(&identity, SERVFAIL, error), failing(&identity, REFUSED, None));
        let proxy = proxy_before(&[&first, &second, &third], pki.ca_file(), "");
        for number in 0..5 {
            // the answer of the server that was asked first
            let asked = MessageBuilder::query(number, &format!("n{number}.test"), 1).opt(Opt::new(1232)).build();
            let answer = UdpClient::connect(proxy.address()).ask(&asked).expect("an answer");
            assert_eq!((inspect::rcode(&answer), inspect::ede(&answer)), (SERVFAIL, error), "{error:?}");
        }
        let messages = [&first, &second, &third].map(|server| server.journal().messages.len());
        assert_eq!(messages, [5, 5 * copies, 0], "{error:?}");
    }
}

#[test]
fn r20_without_the_option_the_first_answer_counts() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let (first, second) = (failing(&identity, SERVFAIL, None), DotServer::start(identity.clone()));
    let proxy = proxy_before(&[&first, &second], pki.ca_file(), "second-opinion = false");
    for number in 0..5 {
        assert_eq!(rcode_of(&proxy, &query(number, &format!("n{number}.test"), 1)), SERVFAIL);
    }
    assert_eq!((first.journal().messages.len(), second.journal().messages.len()), (5, 0));
}

/// Quick answers teach the program to expect quick ones; a slow name has its time all the same.
#[test]
fn r21_an_answer_after_three_seconds_reaches_the_client() {
    const SLOW: Duration = Duration::from_secs(3);
    thread::scope(|scope| {
        for count in [1, 2] {
            scope.spawn(move || {
                let pki = Pki::new();
                let identity = pki.server(&["upstream.test"]);
                let server = || {
                    DotServer::builder().identity(identity.clone()).script(|received| match received.name.as_str() {
                        "slow.test" => vec![Act::AnswerAfter(SLOW, default_answer(&received.message))],
                        _ => vec![Act::Default],
                    })
                };
                let servers: Vec<DotServer> = (0..count).map(|_| server().start()).collect();
                let proxy = proxy_before(&servers.iter().collect::<Vec<_>>(), pki.ca_file(), "");
                for number in 0..50 {
                    time_of(&proxy, &format!("quick{number}.test"));
                }
                assert!(time_of(&proxy, "slow.test") >= SLOW);
            });
        }
    });
}

/// Where connections have always been made at once, one that hangs is given up long before its time-out, for another.
#[test]
fn r21_an_attempt_to_connect_takes_little_longer_than_those_before_it() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let proxy = proxy_before(&[&server], pki.ca_file(), "connect-timeout = \"3900ms\"");
    time_of(&proxy, "before.test");
    server.set_stage(Stage::SilenceAfterServerHello);
    server.close_all(How::Rst);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(500));
            server.set_stage(Stage::Normal);
        });
        // after 4 s there would be a failure
        time_of(&proxy, "after.test");
    });
}

/// The other parts of the one deadline: `c076_r16_r22_...`.
#[test]
fn r22_the_deadline_covers_the_wait_in_the_queue() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let silent = DotServer::builder().identity(identity).script(|_| vec![Act::Silence]).start();
    let lines = "deadline = \"1500ms\"\nconnect-timeout = \"1s\"\nsecond-try-after = \"1400ms\"\nin-flight = 1";
    let proxy = proxy_before(&[&silent], pki.ca_file(), lines);
    let clients: Vec<UdpClient> = (0..20).map(|_| UdpClient::connect(proxy.address())).collect();
    let begun = Instant::now();
    for (number, client) in (0..).zip(&clients) {
        client.send(&query(number, &format!("n{number}.test"), 1));
    }
    for client in &clients {
        assert_eq!(inspect::rcode(&client.recv(Duration::from_secs(5)).expect("a reply")), SERVFAIL);
    }
    assert!(begun.elapsed() < Duration::from_millis(2000), "{:?}\n{}", begun.elapsed(), proxy.log());
    assert!(silent.journal().messages.len() < 10, "nothing waited");
}
