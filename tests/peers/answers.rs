//! A hundred thousand queries each way, each answer compared with what its name must give.

use std::time::Duration;

use testkit::{TcpClient, UdpClient, a_for, inspect, query};

use crate::conformance::bench::Bench;

const QUERIES: usize = 100_000;
const WINDOW: usize = 100;

/// Sends windows of queries and checks the answers, which may come in any order.
fn each_answer_is_right(mut send: impl FnMut(&[u8]), mut receive: impl FnMut() -> Vec<u8>, forget: impl Fn()) {
    for start in (0..QUERIES).step_by(WINDOW) {
        let name = |number: usize| format!("n{}.example", start + number);
        for number in 0..WINDOW {
            send(&query(u16::try_from(number).unwrap(), &name(number), 1));
        }
        let mut seen = [false; WINDOW];
        for _ in 0..WINDOW {
            let answer = receive();
            let number = usize::from(inspect::id(&answer));
            assert_eq!(inspect::question_name(&answer), name(number));
            assert_eq!(inspect::a_records(&answer), [a_for(&name(number))]);
            assert!(!std::mem::replace(&mut seen[number], true), "two answers for {}", name(number));
        }
        forget();
    }
}

#[test]
fn every_udp_answer_is_right_and_none_is_lost() {
    let bench = Bench::start();
    let client = UdpClient::connect(bench.proxy.address());
    each_answer_is_right(
        |query| client.send(query),
        || client.recv(Duration::from_secs(10)).expect("an answer is missing"),
        || bench.server.clear_messages(),
    );
    let upstream = bench.server.with_journal(|journal| journal.accepted());
    assert_eq!(upstream, 1);
}

#[test]
fn every_tcp_answer_is_right_and_none_is_lost() {
    let bench = Bench::start();
    let client = std::cell::RefCell::new(TcpClient::connect(bench.proxy.address()));
    each_answer_is_right(
        |query| client.borrow_mut().send(query),
        || client.borrow_mut().recv(Duration::from_secs(10)).unwrap().expect("an answer is missing"),
        || bench.server.clear_messages(),
    );
}
