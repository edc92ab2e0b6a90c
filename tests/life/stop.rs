//! The orderly stop: no new work, what is in flight is answered or told why not, exit status 0.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use testkit::proxy_process::Signal;
use testkit::{Act, Ended, TcpClient, UdpClient, a_for, default_answer, inspect, query};

use crate::conformance::bench::Bench;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

fn holding(hold: Duration) -> Bench {
    Bench::with(
        |server| server.script(move |received| vec![Act::AnswerAfter(hold, default_answer(&received.message))]),
        "",
    )
}

fn stop_is_orderly(signal: Signal) {
    let mut bench = holding(Duration::from_millis(800));
    let (udp, mut tcp) = (UdpClient::connect(bench.proxy.address()), TcpClient::connect(bench.proxy.address()));
    let idle = TcpClient::connect(bench.proxy.address());
    for number in 0..20 {
        let query = query(number, &format!("n{number}.test"), 1);
        if number % 2 == 0 { udp.send(&query) } else { tcp.send(&query) }
    }
    assert!(bench.server.wait_for(|journal| journal.messages.len() == 20, PATIENCE));
    let asked = Instant::now();
    bench.proxy.signal(signal);
    for _ in 0..10 {
        for answer in [udp.recv(PATIENCE), tcp.recv(PATIENCE).unwrap()] {
            let answer = answer.expect("an answer is missing");
            assert_eq!(inspect::a_records(&answer), [a_for(&inspect::question_name(&answer))]);
        }
    }
    assert_eq!(tcp.wait_for_end(PATIENCE), Some(Ended::Fin));
    let mut idle = idle;
    assert_eq!(idle.wait_for_end(PATIENCE), Some(Ended::Fin));
    let status = bench.proxy.wait_exit(PATIENCE).expect("it does not end");
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert!(TcpStream::connect(bench.proxy.address()).is_err());
    // the resolver is told, too
    assert!(bench.server.wait_for(|journal| journal.connections[0].peer_close_notify.is_some(), PATIENCE));
}

#[test]
fn c145_sigterm_lets_queries_in_flight_be_answered() {
    stop_is_orderly(Signal::SIGTERM);
}

#[test]
fn c145_sigint_lets_queries_in_flight_be_answered() {
    stop_is_orderly(Signal::SIGINT);
}

#[test]
fn c145_queries_that_nobody_answers_get_servfail_before_the_end() {
    let mut bench = Bench::with(|server| server.script(|_| vec![Act::Silence]), "");
    let (udp, mut tcp) = (UdpClient::connect(bench.proxy.address()), TcpClient::connect(bench.proxy.address()));
    udp.send(&query(1, "udp.test", 1));
    tcp.send(&query(2, "tcp.test", 1));
    assert!(bench.server.wait_for(|journal| journal.messages.len() == 2, PATIENCE));
    bench.proxy.signal(Signal::SIGTERM);
    for answer in [udp.recv(PATIENCE), tcp.recv(PATIENCE).unwrap()] {
        assert_eq!(inspect::rcode(&answer.expect("an answer is missing")), 2);
    }
    assert!(bench.proxy.wait_exit(PATIENCE).expect("it does not end").success());
}

#[test]
fn an_idle_service_stops_at_once_and_says_what_it_did() {
    let mut bench = Bench::start();
    UdpClient::connect(bench.proxy.address()).ask(&query(1, "one.test", 1)).unwrap();
    let asked = Instant::now();
    bench.proxy.signal(Signal::SIGTERM);
    assert!(bench.proxy.wait_exit(PATIENCE).expect("it does not end").success());
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(bench.proxy.wait_for_log("stopped; udp_queries=1", PATIENCE), "{}", bench.proxy.log());
}
